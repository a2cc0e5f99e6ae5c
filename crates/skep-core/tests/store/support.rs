//! What the tests of the store share: an [`App`] for each database, with an empty store behind it. After each test, the
//! audit must find nothing in what it left behind, and the log must have no gap.

#[path = "../postgres/mod.rs"]
pub(crate) mod postgres;
#[path = "../postgres/private.rs"]
pub(crate) mod private;
#[path = "../redis/mod.rs"]
pub(crate) mod redis_server;

pub(crate) use std::time::Duration;
use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

pub(crate) use serde_json::{Value, json};
use skep_core::db::Audit;
pub(crate) use skep_core::{
    Json, Namespace, Timestamp,
    app::{App, EventFollower, TaskError},
    db::{Clock, Db, Limits, News, Redis},
    event::{Event, EventFilter},
    policy::{Actor, Permit, Read},
    run::{NewRun, RunId},
    session::{HubId, NewSession, SessionId, SessionToken},
    task::{Attempt, Holder, NewTask, State, Task, TaskId, WorkerId},
};

/// How long the test's hub is taken to be alive.
pub(crate) const ALIVE: Duration = Duration::from_secs(600);
/// How long its sessions may then be without a hub.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
pub(crate) const NOW: Timestamp = Timestamp(1_000_000);
pub(crate) const LATER: Timestamp = Timestamp(3_600_000_000);

/// The operations on a store whose clock stands still.
#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) app: App,
    pub(crate) clock: Clock,
}

impl std::ops::Deref for Hub {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl Hub {
    /// Register a hub and a session of each worker that the tests have.
    pub(crate) async fn register(&self, permit: &Permit, hub: &str) {
        let session = |name: &str| {
            let Holder { worker, session } = holder(name);
            NewSession { id: session, worker, token: Some(SessionToken(format!("token of {name}"))) }
        };
        let sessions = ["w", "v"].map(session).to_vec();
        self.app.join(permit, &HubId(hub.into()), sessions, ALIVE).await.unwrap();
    }

    /// The hub is silent, and what its sessions held is given out again. Gives those tasks.
    pub(crate) async fn lose(&self, at: Timestamp) -> Vec<Task> {
        self.at(at.after(ALIVE + GRACE)).expire_hubs(GRACE).await.unwrap();
        let lost = self.release_lost(&permit()).await.unwrap();
        self.clock.set(at);
        self.register(&permit(), "test").await;
        lost
    }

    /// The same, from then on at this time.
    pub(crate) fn at(&self, now: Timestamp) -> &App {
        self.clock.set(now);
        &self.app
    }
}

pub(crate) async fn on_every_database(test: impl AsyncFn(Hub)) {
    on_every_database_with(Limits::default(), test).await;
}

pub(crate) async fn on_every_database_with(limits: Limits, test: impl AsyncFn(Hub)) {
    on_every_address(async |address| test(open(address, limits.clone()).await).await).await;
}

pub(crate) async fn on_every_address(test: impl AsyncFn(&str)) {
    let events_missing = on_every_address_with_deletions(test).await;
    assert!(events_missing.iter().all(|missing| *missing == 0), "the log has gaps: {events_missing:?}");
}

/// The same for tests that delete runs. Gives for each database how many numbers of its logs have no event.
pub(crate) async fn on_every_address_with_deletions(test: impl AsyncFn(&str)) -> Vec<u64> {
    let directory = in_memory();
    let addresses = [Some(sqlite(&directory)), postgres::new_schema().await, new_schema_with_redis().await];
    let mut events_missing = Vec::new();
    for address in addresses.iter().flatten() {
        test(address).await;
        events_missing.push(sound(address).await.events_missing);
    }
    events_missing
}

/// The address of a new, empty schema whose hubs use Redis.
pub(crate) async fn new_schema_with_redis() -> Option<String> {
    let (address, redis) = (postgres::new_schema().await?, redis_server::shared()?);
    with_redis().insert(address.clone(), redis.to_owned());
    Some(address)
}

/// The Redis of each database that has one.
pub(crate) fn with_redis() -> MutexGuard<'static, HashMap<String, String>> {
    static REDIS: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);
    REDIS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory in memory, if there is such a place: what disks do is for tests of disks.
pub(crate) fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The audit of a database in which nothing must be wrong.
pub(crate) async fn sound(address: &str) -> Audit {
    let audit = open(address, Limits::default()).await.db.audit().await.unwrap();
    assert!(audit.findings.is_empty(), "{:#?}", audit.findings);
    audit
}

/// Change the database behind Skep's back.
pub(crate) async fn tamper(address: &str, sql: &str) {
    match address.strip_prefix("sqlite:") {
        Some(path) => rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap(),
        None => postgres::execute(address, sql).await,
    }
}

pub(crate) fn sqlite(directory: &tempfile::TempDir) -> String {
    format!("sqlite:{}", directory.path().join("hub.db").display())
}

/// A hub, at first at [`NOW`].
pub(crate) async fn open(address: &str, limits: Limits) -> Hub {
    let clock = Clock::manual(NOW);
    let redis = with_redis().get(address).cloned();
    let redis = redis.as_ref().map(|redis| Redis { address: redis, show: shown });
    let db = Db::open_with(address, redis, Limits { clock: clock.clone(), ..limits }).await.unwrap();
    let hub = Hub { app: App::new(db), clock };
    hub.register(&permit(), "test").await;
    hub
}

/// An event for those who listen to Redis.
pub(crate) fn shown(event: &Event) -> String {
    json!({ "number": event.number, "kind": event.kind.name() }).to_string()
}

pub(crate) fn permit() -> Permit {
    permit_in("main")
}

/// An agent of a principal that is no operator, in a workspace.
pub(crate) fn agent_in(workspace: &str, principal: &str, agent: &str) -> Permit {
    let permit: Permit = Actor::member(principal, Namespace::team("main")).permit().unwrap();
    permit.within(Some(workspace), Some(agent)).unwrap()
}

pub(crate) fn permit_in(namespace: &str) -> Permit {
    let actor = Actor::operator("test", Namespace::team(namespace));
    actor.permit().unwrap()
}

/// The right to read there.
pub(crate) fn reader_in(namespace: &str) -> Permit<Read> {
    permit_in(namespace).to_read()
}

pub(crate) fn id(name: &str) -> TaskId {
    TaskId(name.into())
}

pub(crate) fn worker(name: &str) -> WorkerId {
    WorkerId(name.into())
}

pub(crate) fn holder(name: &str) -> Holder {
    Holder { worker: worker(name), session: SessionId(format!("session of {name}")) }
}

/// A task in the queue `q`.
pub(crate) fn new(name: &str) -> NewTask {
    NewTask::new(id(name), "q", json!({ "of": name }))
}

/// The same, and what it needs.
pub(crate) fn needs(name: &str, depends_on: &[&str]) -> NewTask {
    NewTask { depends_on: depends_on.iter().map(|name| id(name)).collect(), ..new(name) }
}

/// The same, and its failure is allowed.
pub(crate) fn optional(name: &str, depends_on: &[&str]) -> NewTask {
    NewTask { allow_failure: true, ..needs(name, depends_on) }
}

pub(crate) fn new_run(name: &str) -> NewRun {
    let (plan, inputs) = (json!({ "tasks": [name] }).into(), json!({ "of": name }).into());
    NewRun { id: RunId(name.into()), name: format!("the run {name}"), plan, inputs, directory: "/tmp".into() }
}

pub(crate) async fn claim(app: &Hub, at: Timestamp) -> Option<Task> {
    app.at(at).claim(&permit(), "q", &holder("w")).await.unwrap()
}

pub(crate) async fn finish(app: &Hub, task: &Task) -> Result<(), TaskError> {
    app.finish(&permit(), &task.id, attempt(task), json!({ "by": task.attempt }), Vec::new()).await
}

pub(crate) async fn fail(app: &Hub, task: &Task, retry: bool) -> Result<Task, TaskError> {
    app.fail(&permit(), &task.id, attempt(task), "boom".into(), retry).await
}

/// The attempt that holds a claimed task.
pub(crate) fn attempt(task: &Task) -> Attempt {
    task.held().unwrap_or_else(|| panic!("{} is {}", task.id.0, task.state.name()))
}

pub(crate) async fn task(app: &Hub, name: &str) -> Option<Task> {
    app.db.task(&permit().to_read(), &id(name)).await.unwrap()
}

/// All tasks of a run.
pub(crate) async fn tasks_of(app: &Hub, permit: &Permit, run: &str) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    loop {
        let last = tasks.last().map(|last| (last.position, last.id.clone()));
        let page = app.db.tasks_of(&permit.to_read(), &RunId(run.into()), last, usize::MAX).await.unwrap();
        if page.is_empty() {
            return tasks;
        }
        tasks.extend(page);
    }
}

pub(crate) async fn state(app: &Hub, name: &str) -> State {
    task(app, name).await.unwrap().state
}

/// The whole log of the namespace, after a look at its numbers.
pub(crate) async fn log(app: &Hub) -> Vec<Event> {
    let events = all_events(app, &permit().to_read()).await;
    let numbers: Vec<i64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=events.len() as i64).collect::<Vec<i64>>(), "the log has no gaps");
    events
}

/// All events that are kept in a namespace.
pub(crate) async fn all_events(app: &App, permit: &Permit<Read>) -> Vec<Event> {
    read(app.follow(permit, EventFilter::default(), 0)).await
}

/// What is kept after a number and fits a filter.
pub(crate) async fn events(app: &App, filter: EventFilter, after: i64) -> Vec<Event> {
    read(app.follow(&reader_in("main"), filter, after)).await
}

/// Read without waiting.
async fn read(mut follower: EventFollower) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(news) = follower.look().await.unwrap() {
        if let News::Events(new) = news {
            events.extend(new.into_iter().map(|event| (*event).clone()));
        }
    }
    events
}

/// What happened, in short: kinds and tasks.
pub(crate) async fn story(app: &Hub) -> Vec<String> {
    let tell = |event: Event| match event.task {
        Some(task) => format!("{} {}", event.kind.name(), task.0),
        None => event.kind.name().to_owned(),
    };
    log(app).await.into_iter().map(tell).collect()
}

pub(crate) async fn count(app: &Hub, kind: &str) -> usize {
    log(app).await.into_iter().filter(|event| event.kind.name() == kind).count()
}

pub(crate) fn data(event: &Event) -> Value {
    event.kind.data().parse().unwrap()
}
