//! Three hubs on one PostgreSQL and one Redis, each with networks of its own between.

use std::{
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    notes::Notes,
    private::{Server, ask},
    proxy::Proxy,
    redis_server::Redis,
    support::{Served, User},
};

pub(crate) const HUBS: usize = 3;
pub(crate) const WRITERS: usize = 8;
/// Nothing here takes so long unless it is broken; a busy machine takes long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Of a server. No test pulls the plug of the machine, so none needs to wait for the disk.
const SETTINGS: &str = "fsync = off\n";
/// How long a supervisor waits before it starts a hub again that did not come up.
const AGAIN: Duration = Duration::from_millis(100);
/// Lines of a hub's log that are shown when something went wrong.
const LINES_SHOWN: usize = 40;

pub(crate) struct Cluster {
    pub(crate) notes: Notes,
    pub(crate) hubs: Vec<Hub>,
    pub(crate) redis: Mutex<Redis>,
    /// Those that take part now, the primary first, each with the number of its place in the address that hubs have.
    pub(crate) postgres: Mutex<Vec<(usize, Server)>>,
}

/// The place of a hub, whether or not it runs.
pub(crate) struct Hub {
    user: User,
    process: Mutex<Option<Served>>,
    /// One for each server that the address names.
    pub(crate) postgres: Vec<Proxy>,
    pub(crate) redis: Proxy,
}

impl Cluster {
    /// `None` where there is no PostgreSQL or no Redis. With a standby, a commit is on both servers before it is
    /// acknowledged.
    pub(crate) async fn start(has_standby: bool) -> Option<Cluster> {
        let redis = Redis::start("")?;
        let postgres = Server::start(SETTINGS, &[])?;
        postgres.execute("create database skep").await;
        // A standby looks for a primary that is back at once.
        postgres.execute("alter system set wal_retrieve_retry_interval = '100ms'").await;
        let mut servers = vec![(0, postgres)];
        if has_standby {
            let standby = standby_of(&mut servers[0].1).await?;
            servers.push((1, standby));
        }
        let mut hubs = Vec::new();
        for _ in 0..HUBS {
            let user = User::new();
            user.file("settings.toml", &settings());
            let mut proxies = Vec::new();
            for (_, server) in &servers {
                proxies.push(Proxy::start(server.port).await);
            }
            hubs.push(Hub {
                user,
                process: Mutex::default(),
                postgres: proxies,
                redis: Proxy::start(redis.port).await,
            });
        }
        let cluster = Cluster { notes: Notes::new(), hubs, redis: Mutex::new(redis), postgres: Mutex::new(servers) };
        for hub in &cluster.hubs {
            assert!(hub.start(), "{}", hub.log());
        }
        Some(cluster)
    }

    /// The address of the primary, and nothing between.
    pub(crate) fn address(&self) -> String {
        lock(&self.postgres)[0].1.address().replace("dbname=postgres", "dbname=skep")
    }

    /// Ask until it is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !is_so().await {
            let logs = || self.hubs.iter().map(Hub::log).collect::<Vec<_>>().join("\n\n");
            assert!(began.elapsed() < PATIENCE, "it takes too long until {what}; the hubs say:\n{}", logs());
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Start the hub of a place again and again until it runs, as a supervisor does.
    pub(crate) fn supervise(&self, hub: usize) {
        let began = Instant::now();
        while !self.hubs[hub].start() {
            assert!(began.elapsed() < PATIENCE, "hub {hub} does not start:\n{}", self.hubs[hub].log());
            std::thread::sleep(AGAIN);
        }
    }
}

/// A standby without which the primary acknowledges no commit. Returns when it follows.
pub(crate) async fn standby_of(primary: &mut Server) -> Option<Server> {
    let standby = Server::standby_of(primary, SETTINGS)?;
    primary.execute("alter system set synchronous_standby_names = '*'").await;
    primary.tell("reload");
    let follows = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    let began = Instant::now();
    while ask(&primary.address(), follows).await.as_deref() != Some("1") {
        assert!(began.elapsed() < PATIENCE, "the standby does not follow");
        tokio::time::sleep(AGAIN).await;
    }
    Some(standby)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The token of the operator.
pub(crate) const OPERATOR: &str = "operator-correct-horse-battery";

/// The name and the token of a writer.
pub(crate) fn writer(number: usize) -> (String, String) {
    (format!("writer{number}"), format!("writer{number}-correct-horse-battery"))
}

fn settings() -> String {
    let tokens = (0..WRITERS).map(writer).map(|(name, token)| format!("{name} = '{token}'\n"));
    format!("log.level = 'warn'\n[shared.keep]\nrevisions = 0\n[serve.tokens]\n{}", tokens.collect::<String>())
}

/// A network of a hub's.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Between {
    Postgres,
    Redis,
    Both,
}

impl Hub {
    pub(crate) fn proxies(&self, what: Between) -> impl Iterator<Item = &Proxy> {
        let postgres = self.postgres.iter().filter(move |_| what != Between::Redis);
        postgres.chain(Some(&self.redis).filter(|_| what != Between::Postgres))
    }

    /// `false` if it ends instead of listening.
    pub(crate) fn start(&self) -> bool {
        let ports: Vec<String> = self.postgres.iter().map(|proxy| proxy.port.to_string()).collect();
        let hosts = vec!["127.0.0.1"; ports.len()].join(",");
        let database = format!(
            "host={hosts} port={} user=postgres dbname=skep sslmode=disable target_session_attrs=read-write",
            ports.join(",")
        );
        let redis = format!("redis://127.0.0.1:{}", self.redis.port);
        let mut command = self.user.command(&["serve", "--config", "settings.toml", "--bind", "127.0.0.1:0"]);
        command.args(["--tcp", "127.0.0.1:0"]);
        command.envs([("SKEP_DATABASE", &*database), ("SKEP_REDIS", &redis), ("SKEP_TOKEN", OPERATOR)]);
        let started = Served::try_start(&mut command);
        let runs = started.is_ok();
        match started {
            Ok(served) => *lock(&self.process) = Some(served),
            Err(said) => eprintln!("a hub did not start: {}", said.join("\n")),
        }
        runs
    }

    /// Where it can be called; `None` while it does not run.
    pub(crate) fn url(&self) -> Option<String> {
        lock(&self.process).as_ref().map(|served| served.url.clone())
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        let process = lock(&self.process).take();
        if let Some(mut served) = process {
            served.kill();
        }
    }

    /// SIGTERM. Returns the exit code.
    pub(crate) fn stop(&self) -> Option<i32> {
        let process = lock(&self.process).take();
        process.map(|mut served| served.stop())
    }

    /// Send a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        if let Some(served) = &*lock(&self.process) {
            let sent = Command::new("kill").arg(format!("-{name}")).arg(served.child.id().to_string()).status();
            assert!(sent.unwrap().success());
        }
    }

    /// The end of what it has said.
    pub(crate) fn log(&self) -> String {
        let said = lock(&self.process).as_ref().map(Served::said).unwrap_or_default();
        said[said.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }
}
