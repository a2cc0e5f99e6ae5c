//! Every promise of the store, on every database.
//!
//! A test gets an [`App`] for each database, with an empty store behind it. What only one database can promise, or
//! must be told apart, asks for an address itself. After each test, the audit must find nothing in what it left behind,
//! and the log must have no gap.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod audit;
mod blobs;
mod broken;
mod connections;
mod cuts;
mod disk;
mod durable;
mod follow;
mod groups;
mod hubs;
mod log;
mod mcp_tasks;
mod old;
#[path = "../postgres/mod.rs"]
mod postgres;
#[path = "../postgres/private.rs"]
mod private;
mod processes;
mod runs;
mod schedules;
mod sessions;
mod tasks;
mod tls;

use std::time::Duration;

use serde_json::{Value, json};
use skep_core::{
    Json, Namespace, Timestamp,
    app::{App, TaskError},
    db::{Clock, Db, Limits},
    event::{Event, Kind},
    policy::{Actor, Permit},
    run::{NewRun, RunId},
    session::{HubId, NewSession, SessionId, SessionToken},
    task::{Attempt, Holder, NewTask, State, Task, TaskId, WorkerId},
};

/// How long the test's hub is taken to be alive.
const ALIVE: Duration = Duration::from_secs(600);
/// How long its sessions may then be without a hub.
const GRACE: Duration = Duration::from_secs(10);
const NOW: Timestamp = Timestamp(1_000_000);
const LATER: Timestamp = Timestamp(3_600_000_000);

/// The operations on a store whose clock stands still.
#[derive(Clone)]
struct Hub {
    app: App,
    clock: Clock,
}

impl std::ops::Deref for Hub {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl Hub {
    /// Register a hub and a session of each worker that the tests have.
    async fn register(&self, permit: &Permit, hub: &str) {
        let session = |name: &str| {
            let Holder { worker, session } = holder(name);
            NewSession { id: session, worker, token: Some(SessionToken(format!("token of {name}"))) }
        };
        let sessions = ["w", "v"].map(session).to_vec();
        self.app.join(permit, &HubId(hub.into()), sessions, ALIVE).await.unwrap();
    }

    /// The hub is silent, and what its sessions held is given out again. Gives those tasks.
    async fn lose(&self, at: Timestamp) -> Vec<Task> {
        self.at(at.after(ALIVE + GRACE)).expire_hubs(GRACE).await.unwrap();
        let lost = self.release_lost(&permit()).await.unwrap();
        self.clock.set(at);
        self.register(&permit(), "test").await;
        lost
    }

    /// The same, from then on at this time.
    fn at(&self, now: Timestamp) -> &App {
        self.clock.set(now);
        &self.app
    }
}

async fn on_every_database(test: impl AsyncFn(Hub)) {
    on_every_database_with(Limits::default(), test).await;
}

async fn on_every_database_with(limits: Limits, test: impl AsyncFn(Hub)) {
    on_every_address(async |address| test(open(address, limits.clone()).await).await).await;
}

async fn on_every_address(test: impl AsyncFn(&str)) {
    let events_missing = on_every_address_with_deletions(test).await;
    assert!(events_missing.iter().all(|missing| *missing == 0), "the log has gaps: {events_missing:?}");
}

/// The same for tests that delete runs. Gives for each database how many numbers of its logs have no event.
async fn on_every_address_with_deletions(test: impl AsyncFn(&str)) -> Vec<u64> {
    let directory = tempfile::tempdir().unwrap();
    let addresses = [Some(sqlite(&directory)), postgres::new_schema().await];
    let mut events_missing = Vec::new();
    for address in addresses.iter().flatten() {
        test(address).await;
        events_missing.push(audit::sound(address).await.events_missing);
    }
    events_missing
}

/// Change the database behind Skep's back.
async fn tamper(address: &str, sql: &str) {
    match address.strip_prefix("sqlite:") {
        Some(path) => rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap(),
        None => postgres::execute(address, sql).await,
    }
}

fn sqlite(directory: &tempfile::TempDir) -> String {
    format!("sqlite:{}", directory.path().join("hub.db").display())
}

/// A hub, at first at [`NOW`].
async fn open(address: &str, limits: Limits) -> Hub {
    let clock = Clock::manual(NOW);
    let db = Db::open(address, Limits { clock: clock.clone(), ..limits }).await.unwrap();
    let hub = Hub { app: App::new(db), clock };
    hub.register(&permit(), "test").await;
    hub
}

fn permit() -> Permit {
    permit_in("main")
}

fn permit_in(namespace: &str) -> Permit {
    let actor = Actor { name: "test".into(), namespace: Namespace::team(namespace), writer: true };
    actor.may_write().unwrap()
}

fn id(name: &str) -> TaskId {
    TaskId(name.into())
}

fn worker(name: &str) -> WorkerId {
    WorkerId(name.into())
}

fn holder(name: &str) -> Holder {
    Holder { worker: worker(name), session: SessionId(format!("session of {name}")) }
}

/// A task in the queue `q`.
fn new(name: &str) -> NewTask {
    NewTask::new(id(name), "q", json!({ "of": name }))
}

/// The same, and what it needs.
fn needs(name: &str, depends_on: &[&str]) -> NewTask {
    NewTask { depends_on: depends_on.iter().map(|name| id(name)).collect(), ..new(name) }
}

/// The same, and its failure is allowed.
fn optional(name: &str, depends_on: &[&str]) -> NewTask {
    NewTask { allow_failure: true, ..needs(name, depends_on) }
}

fn new_run(name: &str) -> NewRun {
    let plan = json!({ "tasks": [name] }).into();
    NewRun { id: RunId(name.into()), name: format!("the run {name}"), plan, directory: "/tmp".into() }
}

async fn claim(app: &Hub, at: Timestamp) -> Option<Task> {
    app.at(at).claim(&permit(), "q", &holder("w")).await.unwrap()
}

async fn finish(app: &Hub, task: &Task) -> Result<Task, TaskError> {
    app.finish(&permit(), &task.id, attempt(task), json!({ "by": task.attempt }), Vec::new()).await
}

async fn fail(app: &Hub, task: &Task, retry: bool) -> Result<Task, TaskError> {
    app.fail(&permit(), &task.id, attempt(task), "boom".into(), retry).await
}

/// The attempt that holds a claimed task.
fn attempt(task: &Task) -> Attempt {
    match &task.state {
        State::InProgress(holder) => Attempt { worker: holder.worker.clone(), number: task.attempt },
        other => panic!("{} is {}", task.id.0, other.name()),
    }
}

async fn task(app: &Hub, name: &str) -> Option<Task> {
    app.db.task(permit().namespace(), &id(name)).await.unwrap()
}

async fn state(app: &Hub, name: &str) -> State {
    task(app, name).await.unwrap().state
}

/// The whole log of the namespace, after a look at its numbers.
async fn log(app: &Hub) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let page = app.db.events_after(permit().namespace(), events.len() as i64, usize::MAX).await.unwrap();
        if page.is_empty() {
            return events;
        }
        for event in page {
            assert_eq!(event.number, events.len() as i64 + 1, "the log has no gaps");
            events.push(event);
        }
    }
}

/// What happened, in short: kinds and tasks.
async fn story(app: &Hub) -> Vec<String> {
    let tell = |event: Event| match event.task {
        Some(task) => format!("{} {}", event.kind.name(), task.0),
        None => event.kind.name().to_owned(),
    };
    log(app).await.into_iter().map(tell).collect()
}

async fn count(app: &Hub, kind: Kind) -> usize {
    log(app).await.into_iter().filter(|event| event.kind == kind).count()
}

fn data(event: &Event) -> Value {
    event.data.parse().unwrap()
}
