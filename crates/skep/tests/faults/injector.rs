//! What goes wrong, at random moments that a seed decides: hubs, Redis and PostgreSQL are killed and started again, hubs
//! are stopped for a while, and connections are cut or get nothing through.
//!
//! Each part of the cluster has a thread that breaks it and mends it, so that faults overlap. Whatever is broken at the
//! end is mended.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use crate::cluster::{Between, Cluster, HUBS, lock, standby_of};

/// What becomes of the database server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Database {
    /// It is killed and started again.
    Restarts,
    /// It is killed, its standby takes over, and a new standby is made.
    FailsOver,
}

const ALL: [usize; HUBS] = [0, 1, 2];
/// A run that goes on for so long has time for faults that last longer than any caller waits.
const LONG: Duration = Duration::from_secs(60);
/// For how long nothing gets through, at most, if there is time.
const HOLE_MS_MAX: u64 = 20_000;

/// Break and mend until then, and each part once at least. Returns when everything works again.
pub(crate) fn run(cluster: &Arc<Cluster>, database: Database, seed: u64, until: Instant, runtime: &Handle) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let is_long = until.saturating_duration_since(Instant::now()) > LONG;
    thread::scope(|scope| {
        let mut part = |work: fn(&mut Part), shortest_ms: u64, longest_ms: u64| {
            let rng = rng.fork();
            let (cluster, runtime) = (Arc::clone(cluster), runtime.clone());
            let mut part =
                Part { cluster, rng, until, has_broken: false, is_long, pause_ms: (shortest_ms, longest_ms), runtime };
            scope.spawn(move || {
                while part.waits() {
                    work(&mut part);
                    part.has_broken = true;
                }
            });
        };
        part(Part::break_a_hub, 1000, 4000);
        part(Part::break_redis, 1500, 5000);
        part(Part::break_network, 400, 2000);
        match database {
            Database::Restarts => part(Part::restart_postgres, 2000, 7000),
            Database::FailsOver => part(Part::fail_over, 2500, 6000),
        }
    });
}

struct Part {
    cluster: Arc<Cluster>,
    rng: fastrand::Rng,
    until: Instant,
    has_broken: bool,
    /// Whether there is time for faults that last.
    is_long: bool,
    /// How long nothing happens between two faults.
    pause_ms: (u64, u64),
    runtime: Handle,
}

impl Part {
    /// Wait for the next fault. `false` if there is none any more.
    fn waits(&mut self) -> bool {
        let (shortest, longest) = self.pause_ms;
        let pause = Duration::from_millis(self.rng.u64(shortest..longest));
        let left = self.until.saturating_duration_since(Instant::now());
        let is_next = pause < left || !self.has_broken;
        thread::sleep(if is_next { pause } else { left });
        is_next
    }

    /// As long as the fault lasts.
    fn last(&mut self, longest_ms: u64) {
        thread::sleep(Duration::from_millis(self.rng.u64(..longest_ms)));
    }

    fn during(
        &mut self,
        fault: &'static str,
        hubs: &[usize],
        begin: impl FnOnce(&mut Self),
        end: impl FnOnce(&mut Self),
    ) {
        self.cluster.notes.strike(fault, hubs);
        begin(self);
        end(self);
        self.cluster.notes.lift(fault, hubs);
    }

    fn break_a_hub(&mut self) {
        let hub = self.rng.usize(..HUBS);
        if self.rng.u32(..3) > 0 || !self.has_broken {
            self.during(
                "hub killed",
                &[hub],
                |part| part.cluster.hubs[hub].kill(),
                |part| {
                    part.last(1500);
                    part.cluster.supervise(hub);
                },
            );
        } else {
            self.during(
                "hub stood still",
                &[hub],
                |part| part.cluster.hubs[hub].signal("STOP"),
                |part| {
                    part.last(3000);
                    part.cluster.hubs[hub].signal("CONT");
                },
            );
        }
    }

    fn break_redis(&mut self) {
        let [begin, end] = [["kill", "start"], ["pause", "resume"]][usize::from(self.has_broken && self.rng.bool())];
        let fault = if begin == "kill" { "Redis killed" } else { "Redis stood still" };
        self.during(
            fault,
            &[],
            |part| lock(&part.cluster.redis).tell(begin),
            |part| {
                part.last(2500);
                lock(&part.cluster.redis).tell(end);
            },
        );
    }

    /// Of one hub.
    fn break_network(&mut self) {
        let (hub, is_cut) = (self.rng.usize(..HUBS), self.rng.u32(..3) > 0);
        let what = [Between::Postgres, Between::Redis, Between::Both][self.rng.usize(..3)];
        let fault = if is_cut { "connections cut" } else { "nothing got through" };
        self.during(
            fault,
            &[hub],
            |part| {
                for proxy in part.cluster.hubs[hub].proxies(what) {
                    if is_cut { proxy.cut() } else { proxy.set_open(false) }
                }
            },
            |part| {
                if !is_cut {
                    let is_long = part.is_long && part.rng.u32(..5) == 0;
                    part.last(if is_long { HOLE_MS_MAX } else { 3000 });
                    // Half of them never get what was under way.
                    let is_lost = part.rng.bool();
                    for proxy in part.cluster.hubs[hub].proxies(what) {
                        if is_lost {
                            proxy.cut();
                        }
                        proxy.set_open(true);
                    }
                }
            },
        );
    }

    fn restart_postgres(&mut self) {
        let is_killed = self.rng.u32(..3) > 0 || !self.has_broken;
        let (fault, begin, end) = match is_killed {
            true => ("PostgreSQL killed", "kill", "start"),
            false => ("PostgreSQL stood still", "pause", "resume"),
        };
        self.during(
            fault,
            &ALL,
            |part| lock(&part.cluster.postgres)[0].1.tell(begin),
            |part| {
                part.last(2000);
                lock(&part.cluster.postgres)[0].1.tell(end);
            },
        );
    }

    fn fail_over(&mut self) {
        self.during(
            "PostgreSQL failed over",
            &ALL,
            |part| lock(&part.cluster.postgres)[0].1.tell("kill"),
            |part| {
                part.last(2000);
                lock(&part.cluster.postgres)[1].1.tell("promote");
            },
        );
        let mut servers = lock(&self.cluster.postgres);
        let (place, lost) = servers.remove(0);
        drop(lost);
        let standby = self.runtime.block_on(standby_of(&mut servers[0].1)).unwrap();
        for hub in &self.cluster.hubs {
            hub.postgres[place].lead_to(standby.port);
        }
        servers.push((place, standby));
    }
}
