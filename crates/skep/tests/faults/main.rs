//! Nothing acknowledged is lost, whatever is killed, stands still or is cut off.
//!
//! Three real hubs share a PostgreSQL and a Redis. Eight writers change files, with claims and without, count up entries
//! of the memory, log steps and send messages, each at one hub and at another when that is gone ([`writer`]). Others
//! follow the logs ([`reader`]). Meanwhile whatever can fail does, at moments that a seed decides ([`injector`]). In the
//! end, what each writer was told is compared with what is there ([`audit`]).
//!
//! `SKEP_FAULTS_SECONDS` says how long it goes on, `SKEP_FAULTS_SEED` repeats one; `cargo xtask faults` sets them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod audit;
mod client;
mod cluster;
mod injector;
mod notes;
#[expect(dead_code, reason = "the tests of the store use all of it")]
#[path = "../../../skep-core/tests/postgres/mod.rs"]
mod postgres;
#[expect(dead_code, reason = "the tests of the store use all of it")]
#[path = "../../../skep-core/tests/postgres/private.rs"]
mod private;
mod proxy;
mod reader;
#[expect(dead_code, reason = "the tests of the store use all of it")]
#[path = "../../../skep-core/tests/redis/mod.rs"]
mod redis_server;
#[path = "../support/mod.rs"]
mod support;
mod writer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    runtime::Handle,
    sync::{Mutex, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::{
    audit::Audit,
    client::{Client, Interface},
    cluster::{Cluster, HUBS, OPERATOR, WRITERS},
    injector::Database,
    reader::{Reader, Way},
    writer::{Ledger, Newest, TASKS, Writer},
};

/// How often each hub is asked whether it works.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// Calls without which a run on a slow machine would have tried nothing.
const ACKNOWLEDGED_MIN: u64 = 200;
/// One run at a time: two would leave each other nothing of a small machine.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_killed_or_cut_off_what_was_acknowledged_is_there_once() {
    run(Database::Restarts, seconds(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_holds_when_postgres_fails_over_to_a_standby() {
    run(Database::FailsOver, seconds(8)).await;
}

/// How long faults go on, unless somebody says otherwise.
fn seconds(default: u64) -> Duration {
    let said = std::env::var("SKEP_FAULTS_SECONDS").ok();
    Duration::from_secs(said.map_or(default, |said| said.parse().unwrap()))
}

fn seed() -> u64 {
    std::env::var("SKEP_FAULTS_SEED").map_or_else(|_| fastrand::u64(..), |said| said.parse().unwrap())
}

async fn run(database: Database, time: Duration) {
    let (_turn, seed) = (TURN.lock().await, seed());
    eprintln!("{database:?}, SKEP_FAULTS_SEED={seed}");
    let Some(cluster) = Cluster::start(database == Database::FailsOver).await else { return };
    let (cluster, mut rng) = (Arc::new(cluster), fastrand::Rng::with_seed(seed));
    let (end, stop, until) = (watch::Sender::new(None), CancellationToken::new(), Instant::now() + time);
    let (mut readers, mut writers) = (JoinSet::new(), JoinSet::new());
    for (task, way) in TASKS.into_iter().flat_map(|task| [(task, Way::EventStream), (task, Way::WebSocket)]) {
        let reader = Reader { cluster: Arc::clone(&cluster), task, way, rng: rng.fork(), events: Vec::new() };
        readers.spawn(reader.run(end.subscribe()));
    }
    let mut probes = JoinSet::new();
    for hub in 0..HUBS {
        let client = Client::new(&cluster, Some(format!("probe{hub}")), OPERATOR, Interface::Tools);
        probes.spawn(probe(client, hub));
    }
    let newest = Arc::new(Newest::default());
    for number in 0..WRITERS {
        let interface = if number % 2 == 0 { Interface::Tools } else { Interface::Mcp };
        let (agent, token) = cluster::writer(number);
        let mut client = Client::new(&cluster, Some(agent.clone()), &token, interface);
        client.hub = number % HUBS;
        writers.spawn(Writer::new(agent, client, rng.fork(), Arc::clone(&newest)).run(stop.clone()));
    }
    let (broken, runtime, seed_of_faults) = (Arc::clone(&cluster), Handle::current(), rng.u64(..));
    let faults = tokio::task::spawn_blocking(move || injector::run(&broken, database, seed_of_faults, until, &runtime));
    faults.await.unwrap();
    cluster.until("enough is written", async || cluster.notes.acknowledged() >= ACKNOWLEDGED_MIN).await;
    stop.cancel();
    let ledgers: Vec<Ledger> = writers.join_all().await;
    probes.shutdown().await;

    stop_all(&cluster).await;
    assert!(cluster.hubs[0].start(), "the last hub does not start");
    let mut audit = Audit { client: Client::new(&cluster, None, OPERATOR, Interface::Tools), ledgers: &ledgers };
    let mut logs = Vec::new();
    for task in TASKS {
        logs.push(audit.events(task).await);
    }
    end.send_replace(Some(TASKS.into_iter().zip(logs.iter().map(|log| log.len() as i64)).collect()));
    audit.check(&logs, &readers.join_all().await).await;
    println!("{database:?} with seed {seed}, {time:?}:\n{}", cluster.notes);
    let complaints = cluster.notes.complaints();
    assert!(complaints.is_empty(), "with SKEP_FAULTS_SEED={seed}:\n{}", complaints.join("\n"));
}

/// Ask one hub again and again, so that it is known when it works again.
async fn probe(mut client: Client, hub: usize) {
    loop {
        client.hub = hub;
        client.call("memory_store", json!({ "task_id": "probe", "key": "probe", "value": hub })).await;
        sleep(PROBE_EVERY).await;
    }
}

/// Hubs that have been through all this can be used, and end well.
async fn stop_all(cluster: &Cluster) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for hub in &cluster.hubs {
        let ready = format!("{}/health/ready", hub.url().unwrap());
        let is_ready = async || http.get(&ready).send().await.is_ok_and(|said| said.status() == 200);
        cluster.until("a hub is ready", is_ready).await;
        let code = hub.stop();
        if code != Some(0) {
            cluster.notes.complain(format!("a hub that was told to stop ended with {code:?}"));
        }
    }
}
