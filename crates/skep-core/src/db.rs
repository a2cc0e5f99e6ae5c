//! One store for SQLite and PostgreSQL.
//!
//! A **write** is a closure given to [`Db::write`]; what it can do is the methods of [`Tx`]. A closure and not a
//! transaction object, because that leaves the store free to run many of them in one commit, or the same one twice.
//! A **read** is a method of [`Db`]: one statement, which sees what is committed and waits for no writer. All of it
//! is SQL written once (`sql.rs`).
//!
//! The databases differ in a few places: opening, how writes are grouped, how a read runs, how one statement runs,
//! and how a row is locked. There is no trait: the set is closed, and every test runs on both.

mod artefacts;
mod audit;
mod error;
mod events;
mod lines;
mod mcp_tasks;
mod migrations;
mod postgres;
mod runs;
mod sql;
mod sqlite;
mod tasks;

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, watch};

pub use self::{
    audit::{Audit, FINDINGS_MAX, Finding},
    error::{DbError, Source},
    tasks::TaskCounts,
};
use self::{
    error::{Doing, failed},
    postgres::Postgres,
    sql::{Cause, Row, Sql, Value},
    sqlite::Sqlite,
};
use crate::{Namespace, event::NewEvent};

/// The file of the private key with which a PostgreSQL database at this address is logged in to, if there is one.
pub fn private_key(address: &str) -> Option<PathBuf> {
    postgres::private_key(address)
}

/// Handle to the store; cheap to clone.
#[derive(Clone)]
pub struct Db {
    store: Arc<Store>,
    writes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    wake: watch::Receiver<u64>,
}

enum Store {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// How much the store takes on, and how long it waits, before it says no.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Writes that run or wait.
    pub writes_max: usize,
    /// Reads that run or wait.
    pub reads_max: usize,
    /// How often a write is tried while others get in its way.
    pub tries_max: u32,
    /// How long to wait while another process keeps locked what is needed: SQLite's file, or rows of PostgreSQL.
    pub lock_time_max: Duration,
    /// How long to wait for PostgreSQL's answer to a read: as long as it may work on it, and what the network takes.
    pub read_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            writes_max: 1024,
            reads_max: 4096,
            tries_max: 10,
            lock_time_max: Duration::from_secs(10),
            read_time_max: Duration::from_secs(30),
        }
    }
}

impl Db {
    /// Open `sqlite:<path>`, or a PostgreSQL database by its address, and bring the schema up to date.
    pub async fn open(address: &str, limits: Limits) -> Result<Db, DbError> {
        let (wake, woken) = watch::channel(0);
        let store = match address.strip_prefix("sqlite:") {
            Some(path) => Store::Sqlite(Sqlite::open(path.as_ref(), limits.lock_time_max, wake)?),
            None => Store::Postgres(Postgres::open(address, &limits, wake).await?),
        };
        let places = |max| Arc::new(Semaphore::new(max));
        let (writes, reads) = (places(limits.writes_max), places(limits.reads_max));
        Ok(Db { store: Arc::new(store), writes, reads, wake: woken })
    }

    /// Changes after each commit that brought events. It says "look again" and carries nothing. A subscriber who
    /// looks, then waits for a change, then looks again, misses nothing that this process commits; what other
    /// processes commit is found by looking again now and then.
    pub fn wake(&self) -> watch::Receiver<u64> {
        self.wake.clone()
    }

    /// Do all of `work` or nothing of it, in one namespace. The answer comes when it is durable.
    ///
    /// `work` may be called more than once, so it borrows what it captured. It awaits its [`Tx`] and nothing
    /// else: other writers stand behind it, and one that waits for the outside world is refused. It runs to its end
    /// even if the caller leaves, unless the caller leaves before its turn.
    pub async fn write<T, E, F>(&self, namespace: &Namespace, work: F) -> Result<T, E>
    where
        F: AsyncFn(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let place = place(&self.writes, "too many writes are waiting")?;
        match &*self.store {
            Store::Sqlite(sqlite) => sqlite.write(namespace.clone(), work, place).await,
            Store::Postgres(postgres) => postgres.write(namespace.clone(), work, place).await,
        }
    }

    /// Look at the database as it is now. The operations are methods of `Db`, next to their rows.
    async fn read<T, F>(&self, work: F) -> Result<T, DbError>
    where
        F: AsyncFnOnce(&mut Sql<'_>) -> Result<T, DbError> + Send + 'static,
        T: Send + 'static,
    {
        let place = place(&self.reads, "too many reads are waiting")?;
        match &*self.store {
            Store::Sqlite(sqlite) => sqlite.read(work, place).await,
            Store::Postgres(postgres) => postgres.read(work, place).await,
        }
    }

    /// Take nothing more, finish what waits, and let go of the database. Afterwards every call is refused with
    /// [`DbError::Closed`]. What was acknowledged is durable without this; what this brings is order: nobody is cut
    /// off, and SQLite's side files are gone.
    pub async fn close(&self) {
        self.writes.close();
        self.reads.close();
        match &*self.store {
            Store::Sqlite(sqlite) => sqlite.close().await,
            Store::Postgres(postgres) => postgres.close().await,
        }
    }
}

/// The right to wait. It goes with the work, not with the caller, who may leave before the work is done.
type Place = OwnedSemaphorePermit;

fn place(places: &Arc<Semaphore>, full: &'static str) -> Result<Place, DbError> {
    Arc::clone(places).try_acquire_owned().map_err(|error| match error {
        TryAcquireError::NoPermits => DbError::Busy(full),
        TryAcquireError::Closed => DbError::Closed,
    })
}

/// What a write can do: the methods in `db/{tasks,runs,events,artefacts,mcp_tasks}.rs`.
pub struct Tx<'a> {
    namespace: &'a Namespace,
    sql: Sql<'a>,
    events: Vec<NewEvent>,
    changed: bool,
    failed: bool,
}

impl<'a> Tx<'a> {
    fn new(namespace: &'a Namespace, sql: Sql<'a>) -> Tx<'a> {
        Tx { namespace, sql, events: Vec::new(), changed: false, failed: false }
    }

    /// The rows of a `select`.
    async fn all<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Cause>,
    ) -> Result<Vec<T>, Cause> {
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
        self.changed = true;
        let result = self.sql.count(sql, values).await;
        self.failed |= result.is_err();
        Ok(result? > 0)
    }

    /// Change something. If it fails, the commit does.
    async fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), Cause> {
        self.changed = true;
        let result = self.sql.execute(sql, values).await;
        self.failed |= result.is_err();
        result
    }

    /// What the closure said. It does not get its way if it said yes although a statement had failed: PostgreSQL
    /// would answer the commit with success and roll it back.
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
