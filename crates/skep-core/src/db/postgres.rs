//! PostgreSQL: writes in groups by namespace, reads side by side on a few shared connections.
//!
//! Writes run on a thread with a runtime of its own (`groups.rs`): there a closure's future need not be `Send`, and
//! the connections it talks to are a function call away and not a thread away. Statements are sent ahead of each
//! other wherever nobody waits for rows (`pipeline.rs`).
//!
//! A read is one statement, so many can share a connection: each is sent without waiting for the one before it.
//! More than one connection, so that a slow read does not hold up all that come after.

mod groups;
mod pipeline;

use std::{
    error::Error,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Manager, Object, Pool, PoolError, Runtime, Timeouts};
use tokio::sync::{
    Mutex,
    mpsc::{self, UnboundedSender, unbounded_channel},
    watch,
};
use tokio_postgres::{Config, NoTls, error::SqlState};

pub(super) use self::pipeline::Pipeline;
use super::{
    DbError, Doing, Limits, Place, Sql, Tx,
    lines::{Job, Waiting, Write},
    migrations::migrate,
    start_thread,
};
use crate::Namespace;

/// Connections for writes, and so groups that run or commit at once.
const WRITERS: usize = 16;
/// Connections that reads share.
const READERS: usize = 2;
/// How long to wait for a connection to be made.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long to wait for one of our connections to be free, or made.
const POOL_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the server works on one statement before it gives up.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(20);
/// How long the server lets a transaction of ours do nothing, before it takes us for dead.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// How long the network may leave what we sent unconfirmed, before we take the server for dead.
const NETWORK_TIME_MAX: Duration = Duration::from_secs(30);
/// Key of the lock that Skeps take who start together; any number will do, as long as all use the same.
const MIGRATION_LOCK: i64 = 7537;

pub(super) struct Postgres {
    writer: UnboundedSender<Job<Box<dyn Write>>>,
    /// For [`READERS`] and the migration.
    pool: Pool,
    readers: [Mutex<Option<Arc<Object>>>; READERS],
    next_reader: AtomicUsize,
    /// Ends when the writer's thread has.
    thread: Mutex<mpsc::Receiver<()>>,
}

impl Postgres {
    pub(super) async fn open(address: &str, limits: &Limits, wake: watch::Sender<u64>) -> Result<Postgres, DbError> {
        let (config, tries_max) = (config(address, limits.lock_time_max)?, limits.tries_max);
        let readers = pool(&config, READERS)?;
        bring_up_to_date(&readers).await?;
        let (writer, writes) = unbounded_channel();
        let (alive, thread) = mpsc::channel(1);
        let writers = pool(&config, WRITERS)?;
        start_thread("postgres-writer", &alive, move || groups::run(writers, writes, tries_max, wake))?;
        Ok(Postgres {
            writer,
            pool: readers,
            readers: Default::default(),
            next_reader: AtomicUsize::new(0),
            thread: Mutex::new(thread),
        })
    }

    pub(super) async fn write<T, E, F>(&self, namespace: Namespace, work: F, place: Place) -> Result<T, E>
    where
        F: AsyncFn(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let (waiting, answer) = Waiting::new(namespace, work, place);
        self.writer.send(Job::Do(Box::new(waiting))).map_err(|_| DbError::Closed)?;
        answer.await.map_err(|_| DbError::Closed)?.unwrap_or_else(|panic| resume_unwind(panic))
    }

    pub(super) async fn read<T, F>(&self, work: F, _place: Place) -> Result<T, DbError>
    where
        F: AsyncFnOnce(&mut Sql<'_>) -> Result<T, DbError>,
    {
        let mut pipeline = Pipeline::new(self.reader().await?);
        work(&mut Sql::Postgres(&mut pipeline)).await
    }

    /// The next shared connection; a new one if that one has been lost.
    async fn reader(&self) -> Result<Arc<Object>, DbError> {
        let turn = self.next_reader.fetch_add(1, Ordering::Relaxed) % READERS;
        let mut reader = self.readers[turn].lock().await;
        if let Some(client) = reader.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        *reader = None; // back to the pool, which sorts it out
        let client = Arc::new(self.pool.get().await.doing("get a connection")?);
        *reader = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Finish what waits, then end the thread and the connections.
    pub(super) async fn close(&self) {
        let _ = self.writer.send(Job::Stop); // fails if it has ended
        while self.thread.lock().await.recv().await.is_some() {}
        for reader in &self.readers {
            *reader.lock().await = None;
        }
        self.pool.close();
    }
}

/// What the address says, and our settings where it says nothing.
fn config(address: &str, lock_time_max: Duration) -> Result<Config, DbError> {
    let mut config: Config = address.parse().doing("understand the address of the database")?;
    // Each statement here has one good plan, whatever its values; to look for a better one costs more than the plan.
    let settings = format!(
        "-c plan_cache_mode=force_generic_plan -c lock_timeout={} -c statement_timeout={} \
         -c idle_in_transaction_session_timeout={}",
        lock_time_max.as_millis(),
        STATEMENT_TIME_MAX.as_millis(),
        IDLE_TIME_MAX.as_millis()
    );
    // The last one counts, so the address has its way.
    let options = format!("{settings} {}", config.get_options().unwrap_or_default());
    let name = config.get_application_name().unwrap_or("skep").to_owned();
    let connect = *config.get_connect_timeout().unwrap_or(&CONNECT_TIME_MAX);
    let network = *config.get_tcp_user_timeout().unwrap_or(&NETWORK_TIME_MAX);
    config.options(options).application_name(name).connect_timeout(connect).tcp_user_timeout(network);
    Ok(config)
}

fn pool(config: &Config, size: usize) -> Result<Pool, DbError> {
    let pool = Pool::builder(Manager::new(config.clone(), NoTls))
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts { wait: Some(POOL_TIME_MAX), create: Some(POOL_TIME_MAX), recycle: Some(POOL_TIME_MAX) });
    pool.build().doing("set up the pool")
}

async fn bring_up_to_date(pool: &Pool) -> Result<(), DbError> {
    let client = Arc::new(pool.get().await.doing("connect")?);
    let begin = format!(
        "begin; set local statement_timeout = 0; set local lock_timeout = 0; select pg_advisory_xact_lock({MIGRATION_LOCK})"
    );
    client.batch_execute(&begin).await.doing("begin the migration")?;
    let migrated = migrate(&mut Sql::Postgres(&mut Pipeline::new(Arc::clone(&client)))).await;
    let end = if migrated.is_ok() { "commit" } else { "rollback" };
    client.batch_execute(end).await.doing("end the migration")?;
    migrated
}

/// Whether the database undid this because of other writers, and it may go well the next time.
pub(super) fn asks_for_another_try(error: &(dyn Error + 'static)) -> bool {
    let code = error.downcast_ref().and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code))
}

/// What an error of PostgreSQL asks of the caller.
pub(super) enum Advice {
    /// Come back later.
    Busy(&'static str),
    /// Make room.
    Full,
    /// See to the server.
    Unreachable,
    /// Restore a backup.
    Corrupt,
}

pub(super) fn advice(error: &(dyn Error + 'static)) -> Option<Advice> {
    if let Some(PoolError::Timeout(_)) = error.downcast_ref() {
        return Some(Advice::Busy("no connection to the database server became free"));
    }
    let pooled = error.downcast_ref().and_then(|error| match error {
        PoolError::Backend(error) => Some(error),
        _ => None,
    });
    let error: &tokio_postgres::Error = pooled.or_else(|| error.downcast_ref())?;
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => Some(Advice::Full),
        Some(code) if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) => Some(Advice::Corrupt),
        Some(code) if [SqlState::TOO_MANY_CONNECTIONS, SqlState::OUT_OF_MEMORY].contains(code) => {
            Some(Advice::Busy("the database server has no room for more"))
        }
        Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => {
            Some(Advice::Busy("another hub keeps locked what is needed"))
        }
        Some(code) if *code == SqlState::QUERY_CANCELED => Some(Advice::Busy("a statement took too long")),
        // Class 57P: the server was shut down, crashed, or is starting.
        Some(code) if code.code().starts_with("57P") => Some(Advice::Unreachable),
        Some(_) => None,
        None if is_lost(error) => Some(Advice::Unreachable),
        None => None,
    }
}

/// Whether the connection is gone, so that nothing is known of what was on its way.
pub(super) fn is_lost(error: &tokio_postgres::Error) -> bool {
    let by_network = error.source().is_some_and(|source| source.is::<std::io::Error>());
    let by_server = error.code().is_some_and(|code| code.code().starts_with("57P"));
    error.is_closed() || by_network || by_server
}
