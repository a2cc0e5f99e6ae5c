//! PostgreSQL: writes in groups by namespace, reads side by side on a few shared connections.
//!
//! Writes run on a thread with a runtime of its own (`groups.rs`): there a closure's future need not be `Send`, and
//! the connections it talks to are a function call away and not a thread away. Statements are sent ahead of each
//! other wherever no rows are awaited (`pipeline.rs`).
//!
//! A read is one statement, so many can share a connection: each is sent without waiting for the one before it.
//! More than one connection, so that a slow read does not hold up all that come after.

mod address;
mod connect;
mod groups;
mod notices;
mod pipeline;
mod pool;
mod schema;
mod tls;

use std::{
    error::Error,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        Mutex,
        mpsc::{self, UnboundedSender, unbounded_channel},
    },
    time::timeout,
};
use tokio_postgres::error::SqlState;

use self::{
    address::Address,
    connect::Connector,
    pool::{NO_ROOM, Object, Pool},
};
pub(super) use self::{
    connect::PoolError,
    notices::{LOOK, Notice, Notices},
    pipeline::Pipeline,
    tls::{pem_of_certificates, pem_of_key},
};
use super::{
    DbError, Doing, Limits, ReadPlace, Shared, Sql,
    queue::{Job, Write},
    redis::{Hot, Redis},
    start_thread,
};

use crate::Timestamp;

/// Connections for writes, and so groups that run or commit at once.
const WRITERS: usize = 16;
/// Connections that reads share.
const READERS: usize = 2;
/// The schema of our tables, unless the `options` of the address name another `search_path`.
const SCHEMA: &str = "skep";
/// How long the server works on one statement before it gives up.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(20);
/// How long the server lets a transaction of ours do nothing, before it takes us for dead. Others wait so long for what it
/// has locked, and between two statements is a round trip.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);

pub(super) struct Postgres {
    writer: UnboundedSender<Job<Box<dyn Write>>>,
    connector: Connector,
    /// For [`READERS`] and the migration.
    pool: Pool,
    readers: [Mutex<Option<Arc<Object>>>; READERS],
    next_reader: AtomicUsize,
    read_time_max: Duration,
    /// Ends when the writer's thread has.
    thread: Mutex<mpsc::Receiver<()>>,
}

impl Postgres {
    pub(super) async fn open(
        address: &str,
        redis: Option<Redis<'_>>,
        limits: &Limits,
        shared: Arc<Shared>,
    ) -> Result<Postgres, DbError> {
        let (address, tries_max) = (Address::parse(address)?, limits.tries_max);
        if let Some(host) = address.unverified() {
            tracing::warn!(
                %host,
                "whoever is on the network between may read and change what Skep stores, because the address of the \
                 database does not ask the server who it is; add sslmode=verify-full"
            );
        }
        let connector = Connector::new(address, limits.lock_time_max);
        // Twice as many, because those who wait on a connection that was given up keep it for a while.
        let readers = Pool::new(&connector, 2 * READERS)?;
        schema::bring_up_to_date(&readers, limits.lock_time_max).await?;
        measure_time(&readers, &shared).await?;
        if let Some(redis) = redis {
            shared.set_redis(Hot::open(&redis, &identity(&readers).await?).await?);
        }
        let (writer, writes) = unbounded_channel();
        let (alive, thread) = mpsc::channel(1);
        let (writers, notifiers) = (Pool::new(&connector, WRITERS)?, Pool::new(&connector.notifying(), 1)?);
        start_thread("postgres-writer", &alive, move || {
            groups::run(writers, notifiers, writes, tries_max, shared);
        })?;
        Ok(Postgres {
            writer,
            connector,
            pool: readers,
            readers: Default::default(),
            next_reader: AtomicUsize::new(0),
            read_time_max: limits.read_time_max,
            thread: Mutex::new(thread),
        })
    }

    pub(super) fn writer(&self) -> &UnboundedSender<Job<Box<dyn Write>>> {
        &self.writer
    }

    /// What other hubs say, and this one.
    pub(super) fn notices(&self) -> Notices {
        Notices::new(&self.connector)
    }

    pub(super) async fn read<T, F>(&self, work: F, _place: ReadPlace) -> Result<T, DbError>
    where
        F: AsyncFnOnce(&mut Sql<'_>) -> Result<T, DbError>,
    {
        let reader = self.reader().await?;
        let mut pipeline = Pipeline::new(Arc::clone(&reader));
        let answer = timeout(self.read_time_max, work(&mut Sql::Postgres(&mut pipeline))).await;
        answer.unwrap_or_else(|_| {
            reader.give_up();
            Err(DbError::unreachable("it has stopped answering".to_owned()))
        })
    }

    /// The next shared connection; a new one if that one has been lost.
    async fn reader(&self) -> Result<Arc<Object>, DbError> {
        let turn = self.next_reader.fetch_add(1, Ordering::Relaxed) % READERS;
        let mut reader = self.readers[turn].lock().await;
        if let Some(client) = reader.as_ref().filter(|client| !client.is_given_up()) {
            return Ok(Arc::clone(client));
        }
        *reader = None; // back to the pool, which sorts it out
        let client = match self.pool.get_at_once().await {
            Ok(client) => Arc::new(client),
            // A server without room for more: share what others have.
            Err(error) => self.any_reader().ok_or(error).doing("get a connection")?,
        };
        *reader = Some(Arc::clone(&client));
        Ok(client)
    }

    /// A shared connection that nobody is just exchanging.
    fn any_reader(&self) -> Option<Arc<Object>> {
        let mut readers = self.readers.iter().filter_map(|reader| reader.try_lock().ok()?.clone());
        readers.find(|client| !client.is_given_up())
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

/// The file of our key, if the address names one.
pub(super) fn private_key(address: &str) -> Option<PathBuf> {
    Address::parse(address).ok()?.tls.client.map(|(_, key)| key)
}

/// What tells this database from others, and is the same for all hubs on it.
async fn identity(pool: &Pool) -> Result<String, DbError> {
    let client = pool.get().await.doing("connect")?;
    let select = "select md5(concat_ws('/', (select system_identifier from pg_control_system()), current_database(),
        current_schema()))";
    client.query_one(select, &[]).await.and_then(|row| row.try_get(0)).doing("ask which database this is")
}

/// Ask the server for its time.
async fn measure_time(pool: &Pool, shared: &Shared) -> Result<(), DbError> {
    let client = pool.get().await.doing("connect")?;
    let sent = Instant::now();
    let select = "select cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)";
    let row = client.query_one(select, &[]).await.doing("ask for the time")?;
    let time = Timestamp(row.try_get(0).doing("ask for the time")?);
    shared.time.learn(time, sent, Instant::now());
    Ok(())
}

/// Whether the database rolled back because of other writers, and another try may succeed.
pub(super) fn asks_for_another_try(error: &(dyn Error + 'static)) -> bool {
    let code = error.downcast_ref().and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code))
}

/// What an error of PostgreSQL asks of the caller.
pub(super) enum Advice {
    /// Try again later.
    Busy(&'static str),
    /// Make room on its disk.
    Full,
    /// See to the server.
    Unreachable,
    /// Restore a backup.
    Corrupt,
    /// Have the owner of the database grant rights.
    Denied,
}

pub(super) fn advice(error: &(dyn Error + 'static)) -> Option<Advice> {
    let error: &tokio_postgres::Error = error.downcast_ref()?;
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => Some(Advice::Full),
        Some(code) if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) => Some(Advice::Corrupt),
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Some(Advice::Denied),
        Some(code) if [SqlState::TOO_MANY_CONNECTIONS, SqlState::OUT_OF_MEMORY].contains(code) => {
            Some(Advice::Busy(NO_ROOM))
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
