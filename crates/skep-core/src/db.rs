//! One store for SQLite and PostgreSQL.
//!
//! A **write** is a closure given to `Db::write`; what it can do is the methods of `Tx`. A closure and not a transaction
//! object, because that leaves the store free to run many of them in one commit, or the same one twice. Both are
//! private to this crate: whoever wants to change something calls an operation of [`crate::app::App`], which has the
//! rules. What is done often is an `Operation` instead: several of one type are done together, with fewer statements.
//!
//! A **read** is a method of [`Db`]: one statement, which sees what is committed and waits for no writer. All of it
//! is SQL written once (`sql.rs`).
//!
//! The databases differ in a few places: opening, who calls a group of writes, how a read runs, how one statement runs,
//! and how a namespace is locked. There is no trait: the set is closed, and every test runs on both.

mod admission;
mod artefacts;
mod audit;
mod blobs;
mod claims;
mod clock;
mod directories;
mod error;
mod events;
mod files;
mod follow;
mod foreign;
mod group;
mod mcp_tasks;
mod members;
mod memory;
mod messages;
mod migrations;
mod namespaces;
mod postgres;
mod queue;
mod redis;
mod runs;
mod sessions;
mod sql;
mod sqlite;
mod steps;
mod table;
mod tasks;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};

use self::{
    admission::Admission,
    clock::Time,
    error::{Doing, failed},
    follow::{Lag, Streams},
    namespaces::Namespaces,
    postgres::Postgres,
    queue::{Call, Job, Waiting, Write},
    redis::Hot,
    sql::{Cause, Row, Select, Sql, Value},
    sqlite::Sqlite,
};
pub use self::{
    audit::{Audit, FINDINGS_MAX, Finding},
    clock::{Clock, Now},
    error::{DbError, Source},
    files::{FileFilter, FilePage, RevisionFilter, RevisionPage, RevisionPlace},
    follow::{News, Watch},
    namespaces::SharedSize,
    redis::{Redis, RedisCheck, RedisReport},
    tasks::{TaskCounts, TaskFilter, TaskPage},
};
pub(crate) use self::{files::FileState, follow::Follower, memory::Kept, queue::Operation};
use crate::{
    Namespace, Timestamp,
    event::{Event, EventActor},
    policy::Permit,
};

/// The file of the private key with which a PostgreSQL database at this address is logged in to, if there is one.
pub fn private_key(address: &str) -> Option<PathBuf> {
    postgres::private_key(address)
}

/// The same for Redis at this address.
pub fn private_key_of_redis(address: &str) -> Option<PathBuf> {
    redis::private_key(address)
}

/// Try whether Redis at this address is of use to hubs.
///
/// # Errors
///
/// The address cannot be used, nobody answers there, or it does not let hubs do what they have to.
pub async fn check_redis(address: &str) -> Result<RedisCheck, DbError> {
    RedisCheck::of(address).await
}

/// Handle to the store; cheap to clone.
#[derive(Clone)]
pub struct Db {
    store: Arc<Store>,
    admission: Arc<Admission>,
    reads: Arc<Semaphore>,
    write_time_max: Duration,
    shared: Arc<Shared>,
}

enum Store {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// What the handle and the threads of the store share.
struct Shared {
    namespaces: Namespaces,
    time: Time,
    streams: Streams,
    lag: Lag,
    redis: OnceLock<Hot>,
}

impl Shared {
    /// Redis, where there is one.
    fn redis(&self) -> Option<&Hot> {
        self.redis.get()
    }

    /// Once, while the store is opened.
    fn set_redis(&self, redis: Hot) {
        let _ = self.redis.set(redis); // nobody else does
    }

    /// A group has been committed. `tell` is called for each namespace with new events: its number, that of the event
    /// before the first, and how many there are.
    fn committed(&self, mut changes: group::Changes, tell: impl Fn(i64, i64, usize)) {
        let namespaces = changes.namespaces();
        for (namespace, id) in &namespaces {
            if let Some((after, events)) = changes.take_events(*id) {
                let count = events.len();
                if let Some(redis) = self.redis() {
                    redis.publish(namespace, &events);
                }
                self.streams.committed(namespace, after, events);
                tell(*id, after, count);
            }
        }
        self.namespaces.remember(namespaces);
    }
}

/// How much the store accepts and how long it waits before it refuses.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Writes that run or wait. One namespace may have half of them.
    pub writes_max: usize,
    /// Bytes of the values in writes that run or wait. One namespace may have half of them.
    pub writes_bytes_max: usize,
    /// How long a write waits for its turn.
    pub write_time_max: Duration,
    /// Reads that run or wait.
    pub reads_max: usize,
    /// How often a write is tried while others get in its way.
    pub tries_max: u32,
    /// How long to wait while another process keeps locked what is needed: SQLite's file, or rows of PostgreSQL.
    pub lock_time_max: Duration,
    /// How long to wait for PostgreSQL's answer to a read: as long as it may work on it, and what the network takes.
    pub read_time_max: Duration,
    /// Where the store's time comes from.
    pub clock: Clock,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            writes_max: 2048,
            writes_bytes_max: 256 << 20,
            write_time_max: Duration::from_secs(30),
            reads_max: 4096,
            tries_max: 10,
            lock_time_max: Duration::from_secs(10),
            read_time_max: Duration::from_secs(30),
            clock: Clock::default(),
        }
    }
}

impl Db {
    /// Open `sqlite:<path>`, or a PostgreSQL database by its address, and bring the schema up to date.
    pub async fn open(address: &str, limits: Limits) -> Result<Db, DbError> {
        Db::open_with(address, None, limits).await
    }

    /// The same with Redis beside it, which needs a PostgreSQL that hubs share: for what cannot be stale or may be lost.
    /// That Redis does not answer is no error; the store goes on without it.
    pub async fn open_with(address: &str, redis: Option<Redis<'_>>, limits: Limits) -> Result<Db, DbError> {
        let path = address.strip_prefix("sqlite:");
        let time = if path.is_some() { Time::of_wall(&limits.clock) } else { Time::of_server(&limits.clock) };
        let (namespaces, streams, of_redis) = (Namespaces::default(), Streams::default(), OnceLock::new());
        let shared = Arc::new(Shared { namespaces, time, streams, lag: Lag::default(), redis: of_redis });
        let store = match path {
            Some(_) if redis.is_some() => return Err(DbError::Redis(
                "an SQLite file is shared by no hubs that Redis could be of use to; take the setting `redis` away, or \
                 set `database` to a PostgreSQL"
                    .to_owned(),
            )),
            Some(path) => Store::Sqlite(Sqlite::open(path.as_ref(), limits.lock_time_max, Arc::clone(&shared))?),
            None => Store::Postgres(Postgres::open(address, redis, &limits, Arc::clone(&shared)).await?),
        };
        Ok(Db {
            store: Arc::new(store),
            admission: Arc::new(Admission::new(limits.writes_max, limits.writes_bytes_max)),
            reads: Arc::new(Semaphore::new(limits.reads_max)),
            write_time_max: limits.write_time_max,
            shared,
        })
    }

    /// How Redis is; `None` where there is none.
    pub fn redis(&self) -> Option<RedisReport> {
        self.shared.redis().map(Hot::report)
    }

    /// Whether the database is a PostgreSQL, which hubs can share.
    pub fn is_postgres(&self) -> bool {
        matches!(&*self.store, Store::Postgres(_))
    }

    /// The store's time.
    pub fn now(&self) -> Now {
        self.shared.time.now()
    }

    /// Do all of `work` or nothing of it, in the namespace of a permit and for its actor: all if it returns `Ok`, and the
    /// answer comes when that is durable; nothing if it returns an error.
    ///
    /// `work` may be called more than once, so it borrows what it captured. It may await its [`Tx`] and nothing else,
    /// because other writers wait for it; a write that awaits anything else is refused. Once it has begun, it runs to its
    /// end even if the caller's future is dropped.
    pub(crate) async fn write<R, T, E, F>(&self, permit: &Permit<R>, work: F) -> Result<T, E>
    where
        F: AsyncFn(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        self.write_bytes(permit, 0, work).await
    }

    /// The same, with values of so many bytes, which count among those that may wait ([`Limits::writes_bytes_max`]).
    pub(crate) async fn write_bytes<R, T, E, F>(&self, permit: &Permit<R>, bytes: usize, work: F) -> Result<T, E>
    where
        F: AsyncFn(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        self.perform(permit.namespace(), bytes, Call::new(Some((&**permit.actor()).into()), work)).await
    }

    /// The same for what nobody asked for: a hub's own housekeeping, and what it learns of others.
    pub(crate) async fn write_as_hub<T, E, F>(&self, namespace: &Namespace, work: F) -> Result<T, E>
    where
        F: AsyncFn(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        self.write_bytes_as_hub(namespace, 0, work).await
    }

    /// The same, with values of so many bytes.
    pub(crate) async fn write_bytes_as_hub<T, E, F>(&self, namespace: &Namespace, bytes: usize, work: F) -> Result<T, E>
    where
        F: AsyncFn(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        self.perform(namespace, bytes, Call::new(None, work)).await
    }

    /// Do an operation with values of so many bytes in a namespace, perhaps together with others of its type. The answer
    /// comes when it is durable.
    pub(crate) async fn perform<O: Operation>(
        &self,
        namespace: &Namespace,
        bytes: usize,
        operation: O,
    ) -> Result<O::Output, O::Error> {
        let place = self.admission.enter(namespace, bytes)?;
        let (waiting, answer) = Waiting::new(namespace.clone(), operation, place);
        let write: Box<dyn Write> = Box::new(waiting);
        match &*self.store {
            Store::Sqlite(sqlite) => sqlite.writer().send(write)?,
            Store::Postgres(postgres) => postgres.writer().send(Job::Do(write)).map_err(|_| DbError::Closed)?,
        }
        answer.wait(self.write_time_max).await
    }

    /// Look at the database as it is now. The operations are methods of `Db`, next to their rows.
    async fn read<T, F>(&self, work: F) -> Result<T, DbError>
    where
        F: AsyncFnOnce(&mut Sql<'_>) -> Result<T, DbError> + Send + 'static,
        T: Send + 'static,
    {
        let place = place(&self.reads)?;
        match &*self.store {
            Store::Sqlite(sqlite) => sqlite.read(work, place).await,
            Store::Postgres(postgres) => postgres.read(work, place).await,
        }
    }

    /// The same in a namespace, whose number `work` gets. Where there is no such namespace, there is nothing in it.
    async fn read_in<T, F>(&self, namespace: &Namespace, work: F) -> Result<T, DbError>
    where
        F: AsyncFnOnce(&mut Sql<'_>, i64) -> Result<T, DbError> + Send + 'static,
        T: Default + Send + 'static,
    {
        let (shared, namespace) = (Arc::clone(&self.shared), namespace.clone());
        self.read(async move |sql| match shared.namespaces.find(sql, &namespace).await.doing("find a namespace")? {
            Some(namespace) => work(sql, namespace).await,
            None => Ok(T::default()),
        })
        .await
    }

    /// Accept nothing more, finish what waits, and close the database. Afterwards every call is refused with
    /// [`DbError::Closed`]. What was acknowledged is durable without this. Closing makes sure that no call is cut off,
    /// and that SQLite's side files are deleted.
    pub async fn close(&self) {
        self.admission.close();
        self.reads.close();
        match &*self.store {
            Store::Sqlite(sqlite) => sqlite.close().await,
            Store::Postgres(postgres) => postgres.close().await,
        }
        if let Some(redis) = self.shared.redis() {
            redis.close().await;
        }
    }
}

/// The right of a read to wait. It belongs to the read, not to its caller, who may leave before it is done.
type ReadPlace = OwnedSemaphorePermit;

fn place(places: &Arc<Semaphore>) -> Result<ReadPlace, DbError> {
    Arc::clone(places).try_acquire_owned().map_err(|error| match error {
        TryAcquireError::NoPermits => DbError::Busy("too many reads are waiting"),
        TryAcquireError::Closed => DbError::Closed,
    })
}

/// Where and when a write happens.
#[derive(Clone, Copy, Debug)]
struct Scope {
    /// The number of its namespace.
    namespace: i64,
    now: Now,
}

/// What a write can do: the methods in `db/{tasks,runs,sessions,events,artefacts,mcp_tasks,files,claims,memory}.rs`.
pub(crate) struct Tx<'a> {
    scope: Scope,
    sql: Sql<'a>,
    /// Who causes the events that are appended from now on.
    actor: Option<EventActor>,
    events: Vec<Event>,
    changed: bool,
    failed: bool,
}

impl<'a> Tx<'a> {
    fn new(scope: Scope, sql: Sql<'a>) -> Tx<'a> {
        Tx { scope, sql, actor: None, events: Vec::new(), changed: false, failed: false }
    }

    /// The store's time, the same for the whole write.
    pub(crate) fn now(&self) -> Timestamp {
        self.scope.now.at
    }

    /// The latest moment that has certainly passed, whichever hub is asked: the store's time less its error bound.
    pub(crate) fn surely_past(&self) -> Timestamp {
        self.scope.now.surely()
    }

    fn namespace(&self) -> i64 {
        self.scope.namespace
    }

    /// From now on, act for this actor. Operations that are done together do so for each of their callers.
    pub(crate) fn act_for(&mut self, actor: Option<&EventActor>) {
        self.actor = actor.cloned();
    }

    /// Nothing more is done in a write in which something has failed.
    fn check(&self) -> Result<(), Cause> {
        if self.failed { Err("an earlier statement of this write has failed".into()) } else { Ok(()) }
    }

    /// The rows of a `select`.
    async fn all<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Cause>,
    ) -> Result<Vec<T>, Cause> {
        self.check()?;
        let result = self.sql.all(sql, values, read).await;
        self.failed |= result.is_err();
        result
    }

    /// The first row of a `select`.
    async fn first<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Cause>,
    ) -> Result<Option<T>, Cause> {
        Ok(self.all(sql, values, read).await?.into_iter().next())
    }

    /// The rows of two `select`s, at the price of one.
    async fn both<T, U>(
        &mut self,
        first: Select<'_, impl Fn(&Row<'_>) -> Result<T, Cause>>,
        second: Select<'_, impl Fn(&Row<'_>) -> Result<U, Cause>>,
    ) -> Result<(Vec<T>, Vec<U>), Cause> {
        self.check()?;
        let result = self.sql.both(first, second).await;
        self.failed |= result.is_err();
        result
    }

    /// The first row that a `select` gives with each of these rows of values.
    async fn first_of_each<'v, V: AsRef<[Value<'v>]>, T>(
        &mut self,
        sql: &str,
        each: impl IntoIterator<Item = V>,
        read: impl Fn(&Row<'_>) -> Result<T, Cause>,
    ) -> Result<Vec<Option<T>>, Cause> {
        self.check()?;
        let result = self.sql.first_of_each(sql, each, read).await;
        self.failed |= result.is_err();
        result
    }

    /// Change something, and see the rows that the change gives.
    async fn change<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Cause>,
    ) -> Result<Vec<T>, Cause> {
        self.changed = true;
        self.all(sql, values, read).await
    }

    /// Change something, and see whether there was anything to change.
    async fn has_changed(&mut self, sql: &str, values: &[Value<'_>]) -> Result<bool, Cause> {
        self.check()?;
        self.changed = true;
        let result = self.sql.count(sql, values).await;
        self.failed |= result.is_err();
        Ok(result? > 0)
    }

    /// Change something with each of these rows of values, and see how many rows each has changed.
    async fn count_each<'v, V: AsRef<[Value<'v>]>>(
        &mut self,
        sql: &str,
        each: impl IntoIterator<Item = V>,
    ) -> Result<Vec<u64>, Cause> {
        self.check()?;
        self.changed = true;
        let result = self.sql.count_each(sql, each).await;
        self.failed |= result.is_err();
        result
    }

    /// Change something. If it fails, the commit does.
    async fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), Cause> {
        self.execute_each(sql, [values]).await
    }

    /// Change something with each of these rows of values. If it fails, the commit does.
    async fn execute_each<'v, V: AsRef<[Value<'v>]>>(
        &mut self,
        sql: &str,
        each: impl IntoIterator<Item = V>,
    ) -> Result<(), Cause> {
        self.check()?;
        self.changed = true;
        let result = self.sql.execute_each(sql, each).await;
        self.failed |= result.is_err();
        result
    }

    /// The closure's result, or an error if it returned `Ok` although a statement had failed: PostgreSQL would answer the
    /// commit with success and roll back.
    fn finish<T, E: From<DbError>>(&self, said: Result<T, E>) -> Result<T, E> {
        match said {
            Ok(_) if self.failed => Err(failed("commit", "a statement of this write had failed").into()),
            said => said,
        }
    }
}

/// A thread; `alive` is dropped when it ends.
fn start_thread(name: &str, alive: &mpsc::Sender<()>, run: impl FnOnce() + Send + 'static) -> Result<(), DbError> {
    let alive = alive.clone();
    let run = move || {
        run();
        drop(alive);
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).doing("start a thread").map(drop)
}
