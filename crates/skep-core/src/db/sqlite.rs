//! SQLite: one thread writes, a few read, none of them is the runtime's.
//!
//! The writer thread runs one group after the other (`group.rs`); writes of several namespaces may share one.
//!
//! A commit takes longer than all that happens in it, so a group that is divided in two takes nearly twice as long.
//! Callers who have just had their answers ask for the next thing within moments; a group waits a little until it is as
//! large as the last one ([`Pace`]).
//!
//! Other processes may have the same file open: each group is a transaction of its own, and waits its turn for so
//! long as [`super::Limits`] says.
//!
//! When a commit fails because the disk does, nobody can say whether it will be found after the next start. Those who
//! wait are told so ([`DbError::Unsure`]), and the store takes nothing more ([`DbError::Stopped`]): what it would say
//! might rest on a change that is not there.

mod answers;
mod inbox;

use std::{
    fs::{OpenOptions, Permissions},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, config::DbConfig};
use tokio::{
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot::{self, error::RecvError},
    },
    time::timeout,
};

use self::{
    answers::Answers,
    inbox::{Inbox, Sender, inbox},
};
use super::{
    DbError, Doing, ReadPlace, Shared, Sql,
    group::{self, TOGETHER_MAX, Trouble},
    migrations::migrate,
    queue::{Job, Queues, Write, waits_for_something_else},
    start_thread,
};

/// Writes that share a commit: enough to spread its cost.
const GROUP_MAX: usize = 256;
/// How long a group takes in more, so that the first does not wait long, nor another process for the file.
const GROUP_TIME_MAX: Duration = Duration::from_millis(20);
/// A group waits for others at most this part of the time that a commit takes: a quarter.
const PATIENCE: u32 = 4;
/// How long it sleeps, unless all that it waits for have come, before it begins with those who have.
const PATIENCE_STEP: Duration = Duration::from_micros(20);
/// Threads that read, at most.
const READERS_MAX: usize = 4;
/// How long a read waits while all readers are busy, before another one is started for it. Most reads take far less.
const READ_PATIENCE: Duration = Duration::from_millis(2);
/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 128;

pub(super) struct Sqlite {
    writer: Sender<Box<dyn Write>>,
    readers: Readers,
    /// Ends when the last thread has.
    threads: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

type Read = Box<dyn FnOnce(&mut Connection) + Send>;

impl Sqlite {
    pub(super) fn open(path: &Path, lock_time_max: Duration, shared: Arc<Shared>) -> Result<Sqlite, DbError> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
            return Err(DbError::NoDirectory(directory.to_owned()));
        }
        make_private(path);
        let mut connection = connect(path, lock_time_max)?;
        refuse_foreign(&connection).map_err(|error| error.of_file(path))?;
        let settings = "pragma journal_mode = wal; pragma synchronous = full";
        connection.execute_batch(settings).doing("set up a connection").map_err(|error| error.of_file(path))?;
        bring_up_to_date(&mut connection)?;
        let (alive, threads) = mpsc::channel(1);
        let (writer, inbox) = inbox();
        let writer_thread = Writer { connection, intake: Intake::new(inbox), answers: Answers::start(&alive), shared };
        start_thread("sqlite-writer", &alive, move || writer_thread.run())?;
        let readers = Readers::start(path.to_owned(), lock_time_max, &alive)?;
        Ok(Sqlite { writer, readers, threads: tokio::sync::Mutex::new(threads) })
    }

    pub(super) fn writer(&self) -> &Sender<Box<dyn Write>> {
        &self.writer
    }

    pub(super) async fn read<T, F>(&self, work: F, place: ReadPlace) -> Result<T, DbError>
    where
        F: AsyncFnOnce(&mut Sql<'_>) -> Result<T, DbError> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, mut answer) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let _place = place;
            let result = catch_unwind(AssertUnwindSafe(|| ready(work(&mut Sql::Sqlite(connection)))));
            let _ = reply.send(result); // fails if the caller has left
        });
        let has_to_wait = self.readers.send(read)?;
        if has_to_wait && self.readers.may_grow() {
            match timeout(READ_PATIENCE, &mut answer).await {
                Ok(answer) => return said(answer),
                Err(_) => self.readers.help(),
            }
        }
        said(answer.await)
    }

    /// Finish what waits, then end the threads.
    pub(super) async fn close(&self) {
        self.writer.close();
        for _ in 0..READERS_MAX {
            let _ = self.readers.queue.send(Job::Stop);
        }
        while self.threads.lock().await.recv().await.is_some() {}
    }
}

/// What a reader said, or how it panicked.
fn said<T>(answer: Result<thread::Result<Result<T, DbError>>, RecvError>) -> Result<T, DbError> {
    answer.map_err(|_| DbError::Closed)?.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The writer thread. Ends when it is told to, or when the last [`super::Db`] is gone.
struct Writer {
    connection: Connection,
    intake: Intake,
    answers: Answers,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        while self.intake.wait() {
            let mut group = Vec::new();
            match self.together(&mut group, true) {
                Ok(()) => self.answers.give(group, Ok(())),
                Err(Trouble::Failed(error)) => self.answers.give(group, Err(error)),
                Err(Trouble::Spoiled) => group.into_iter().for_each(|write| self.alone(write)),
            }
        }
    }

    /// A write in a transaction of its own.
    fn alone(&mut self, write: Box<dyn Write>) {
        let mut group = vec![write];
        match self.together(&mut group, false) {
            // Alone, what it said is its answer.
            Ok(()) | Err(Trouble::Spoiled) => self.answers.give(group, Ok(())),
            Err(Trouble::Failed(error)) => self.answers.give(group, Err(error)),
        }
    }

    /// One transaction: who is in `group`, and if it `grows` also who waits, and whoever comes while it runs.
    fn together(&mut self, group: &mut Vec<Box<dyn Write>>, grows: bool) -> Result<(), Trouble> {
        if grows {
            group.extend(self.intake.queues.pop());
        }
        if let Some(error) = &self.intake.stopped {
            return Err(Trouble::Failed(error.clone()));
        }
        let changes = self.run_closures(group, grows);
        let committed = changes.and_then(|mut changes| {
            let mut sql = Sql::Sqlite(&mut self.connection);
            ready(group::write_events(&mut sql, &mut changes))?;
            let begun = Instant::now();
            execute(&self.connection, "commit").doing("commit").map_err(|error| self.commit_failed(error))?;
            self.intake.pace.learn(group.len(), begun.elapsed());
            Ok(changes)
        });
        if committed.is_err() && !self.connection.is_autocommit() {
            // If this fails too, so does the next `begin`, and with it the next group.
            let _ = execute(&self.connection, "rollback");
        }
        match committed {
            Ok(changes) => {
                self.shared.committed(changes, |_, _, _| {}); // other processes look by themselves
                Ok(())
            }
            // What fills the disk may be one of them, and there may be room for the others.
            Err(Trouble::Failed(DbError::Full(_))) if group.len() > 1 => Err(Trouble::Spoiled),
            Err(trouble) => Err(trouble),
        }
    }

    /// What a failed commit means. Where the disk failed, part of it may be written, and may be found again.
    fn commit_failed(&mut self, error: DbError) -> DbError {
        match error {
            DbError::Disk(source) => {
                tracing::error!(error = %source, "the disk failed while a change was committed; the store stops");
                self.intake.stopped = Some(DbError::Stopped(Arc::clone(&source)));
                DbError::Unsure(source)
            }
            other => other,
        }
    }

    fn run_closures(&mut self, group: &mut Vec<Box<dyn Write>>, grows: bool) -> Result<group::Changes, Trouble> {
        let (shared, begun) = (Arc::clone(&self.shared), Instant::now());
        let Writer { connection, intake, .. } = self;
        let mut patience = intake.pace.commit_time / PATIENCE;
        let fill = |group: &mut Vec<Box<dyn Write>>, done| {
            if grows && done < GROUP_MAX && begun.elapsed() < GROUP_TIME_MAX {
                intake.fill(group, done, &mut patience);
            }
        };
        let mut sql = Sql::Sqlite(connection);
        ready(group::run(&mut sql, &shared.namespaces, &shared.time, group, fill))
    }
}

/// The writes that wait, and those to come.
struct Intake {
    inbox: Inbox<Box<dyn Write>>,
    queues: Queues,
    /// Set when a commit failed in a way that leaves open whether it counts. Nothing more is done then.
    stopped: Option<DbError>,
    pace: Pace,
}

/// What is known of the groups so far.
#[derive(Default)]
struct Pace {
    /// How many writes the last one had.
    size: usize,
    /// How long commits have taken lately.
    commit_time: Duration,
}

impl Pace {
    fn learn(&mut self, size: usize, commit_time: Duration) {
        self.size = size;
        self.commit_time = (self.commit_time * 7 + commit_time) / 8;
    }
}

impl Intake {
    fn new(inbox: Inbox<Box<dyn Write>>) -> Intake {
        Intake { inbox, queues: Queues::default(), stopped: None, pace: Pace::default() }
    }

    /// Wait until there is something to write; `false` if there never will be.
    fn wait(&mut self) -> bool {
        while self.queues.is_empty() {
            let is_last = self.inbox.is_closed();
            self.take_in();
            if is_last {
                break;
            }
            if self.queues.is_empty() {
                self.inbox.wait(1, None);
            }
        }
        !self.queues.is_empty()
    }

    fn take_in(&mut self) {
        let writes = self.inbox.take();
        match &self.stopped {
            Some(error) => writes.into_iter().for_each(|write| write.answer(Err(error.clone()))),
            None => self.queues.extend(writes),
        }
    }

    /// Add to a group of which so many writes are done: the next write, and those that can be done together with it. A
    /// group that has nothing to do waits for others until it is as large as the last one was, or its patience ends.
    fn fill(&mut self, group: &mut Vec<Box<dyn Write>>, done: usize, patience: &mut Duration) {
        loop {
            self.take_in();
            if done == group.len() {
                group.extend(self.queues.pop());
            }
            self.queues.add_like(group, GROUP_MAX.min(done + TOGETHER_MAX));
            let has_enough = done < group.len() || group.len() >= self.pace.size;
            if has_enough || patience.is_zero() || self.inbox.is_closed() {
                return;
            }
            let asleep = Instant::now();
            self.inbox.wait(self.pace.size - group.len(), Some(PATIENCE_STEP.min(*patience)));
            *patience = patience.saturating_sub(asleep.elapsed());
        }
    }
}

/// What work on the database says: it is ready when it is first asked, because SQLite answers at once.
fn ready<T, E: From<DbError>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(said) => said,
        Poll::Pending => Err(waits_for_something_else().into()),
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// The reader threads. There is one, and more when reads have to wait for long: a connection costs time and memory, and a
/// short command needs only one.
struct Readers {
    queue: UnboundedSender<Job<Read>>,
    reading: Arc<Reading>,
    started: AtomicUsize,
    path: PathBuf,
    lock_time_max: Duration,
    alive: mpsc::WeakSender<()>,
}

/// What the reader threads share.
struct Reading {
    queue: Mutex<UnboundedReceiver<Job<Read>>>,
    /// Reads that wait or run.
    reads: AtomicUsize,
}

impl Readers {
    fn start(path: PathBuf, lock_time_max: Duration, alive: &mpsc::Sender<()>) -> Result<Readers, DbError> {
        let (queue, reads) = unbounded_channel();
        let reading = Arc::new(Reading { queue: Mutex::new(reads), reads: AtomicUsize::new(0) });
        let (started, alive) = (AtomicUsize::new(0), alive.downgrade());
        let readers = Readers { queue, reading, started, path, lock_time_max, alive };
        readers.start_one()?;
        Ok(readers)
    }

    /// Hand a read to the readers; `true` if all of them are busy.
    fn send(&self, read: Read) -> Result<bool, DbError> {
        let before = self.reading.reads.fetch_add(1, Ordering::Relaxed);
        self.queue.send(Job::Do(read)).map_err(|_| DbError::Closed)?;
        Ok(before >= self.started.load(Ordering::Relaxed))
    }

    fn may_grow(&self) -> bool {
        self.started.load(Ordering::Relaxed) < READERS_MAX
    }

    /// Start another reader if there are still more reads than readers.
    fn help(&self) {
        if self.reading.reads.load(Ordering::Relaxed) > self.started.load(Ordering::Relaxed)
            && let Err(error) = self.start_one()
        {
            tracing::warn!(%error, "no further reader could be started; reads take longer");
        }
    }

    /// Start a reader, unless there are enough. It opens the file in the caller's thread: about a millisecond, and only
    /// so often as there are readers.
    fn start_one(&self) -> Result<(), DbError> {
        let more = |started| (started < READERS_MAX).then_some(started + 1);
        let Ok(_) = self.started.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) else { return Ok(()) };
        let started = connect(&self.path, self.lock_time_max).and_then(|connection| {
            connection.execute_batch("pragma query_only = on").doing("set up a connection")?;
            let (alive, reading) = (self.alive.upgrade().ok_or(DbError::Closed)?, Arc::clone(&self.reading));
            start_thread("sqlite-reader", &alive, move || reading.read_in_turn(connection))
        });
        if started.is_err() {
            self.started.fetch_sub(1, Ordering::Relaxed);
        }
        started
    }
}

impl Reading {
    fn read_in_turn(&self, mut connection: Connection) {
        // Reads the schema, for which the first read would have to wait: about a millisecond.
        let _ = connection.prepare("select 1 from sqlite_schema");
        let next = || self.queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        while let Some(Job::Do(read)) = next() {
            read(&mut connection);
            self.reads.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Make a new database readable by its owner alone, whatever the umask is; SQLite gives its other files the mode of this
/// one. If this fails, SQLite will say why.
fn make_private(path: &Path) {
    let mode = 0o600;
    if let Ok(file) = OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        let _ = file.set_permissions(Permissions::from_mode(mode));
    }
}

fn connect(path: &Path, lock_time_max: Duration) -> Result<Connection, DbError> {
    let open = Connection::open(path).doing("open the database");
    let connection = open.map_err(|error| error.of_file(path))?;
    connection.busy_timeout(lock_time_max).doing("set up a connection")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Plan a statement once. Otherwise SQLite, as rusqlite builds it, plans `due <= $2` anew for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).doing("set up a connection")?;
    Ok(connection)
}

/// Refuse a file that is another program's database. Only reads it.
fn refuse_foreign(connection: &Connection) -> Result<(), DbError> {
    let count = "select count(*), count(*) filter (where name = 'skep_migration') from sqlite_schema";
    let (all, ours): (i64, i64) =
        connection.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?))).doing("read the schema")?;
    if all > 0 && ours == 0 { Err(DbError::Foreign) } else { Ok(()) }
}

fn bring_up_to_date(connection: &mut Connection) -> Result<(), DbError> {
    execute(connection, "begin immediate").doing("begin the migration")?;
    let migrated = ready(migrate(&mut Sql::Sqlite(connection)));
    execute(connection, if migrated.is_ok() { "commit" } else { "rollback" }).doing("end the migration")?;
    migrated
}

#[cfg(test)]
mod tests {
    use std::slice;

    use serde_json::json;

    use super::{super::Tx, *};
    use crate::{
        Namespace, Timestamp,
        db::{Db, Limits},
        policy::Actor,
        task::{NewTask, Task, TaskId},
    };

    fn task(name: &str, bytes: usize) -> Task {
        let new = NewTask::new(TaskId(name.to_owned()), "q", json!("x".repeat(bytes)));
        Task::new(new, 0, 0, Timestamp(1))
    }

    async fn add(db: &Db, task: Task) -> Result<(), DbError> {
        db.write_as_hub(&Namespace::team("n"), async move |tx| tx.add_tasks(slice::from_ref(&task)).await.map(drop))
            .await
    }

    /// Let the file grow by so many pages and no more, which is what SQLite sees of a full disk.
    async fn leave_room(db: &Db, pages: i64) {
        let set = async move |tx: &mut Tx<'_>| {
            let read = |row: &super::super::Row<'_>| row.next::<i64>();
            let count = tx.all("select page_count from pragma_page_count", &[], read).await.doing("look")?;
            tx.sql.batch(&format!("pragma max_page_count = {}", count[0] + pages)).await.doing("limit")
        };
        db.write_as_hub(&Namespace::team("n"), set).await.unwrap();
    }

    #[test]
    fn callers_are_answered_after_the_runtime_that_opened_the_store_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", directory.path().join("hub.db").display());
        let [opener, callers] = [(); 2].map(|()| tokio::runtime::Runtime::new().unwrap());
        let db = opener.block_on(Db::open(&address, Limits::default())).unwrap();
        drop(opener);
        callers.block_on(async {
            // Those that come while the first is committed are a group.
            let all = (0..20).map(|n| add(&db, task(&n.to_string(), 10)));
            let added = futures_util::future::join_all(all);
            let added = timeout(Duration::from_secs(60), added).await.expect("an answer is missing");
            assert!(added.iter().all(Result::is_ok), "{added:?}");
            db.close().await;
        });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_disk_is_named_as_the_trouble_and_takes_nobody_else_down() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", directory.path().join("hub.db").display());
        let db = Db::open(&address, Limits::default()).await.unwrap();
        add(&db, task("before", 10)).await.unwrap();
        leave_room(&db, 20).await;
        // Together, so that some of them share a commit with the one that does not fit.
        let (one, large, other) =
            tokio::join!(add(&db, task("one", 1000)), add(&db, task("large", 1 << 20)), add(&db, task("other", 1000)),);
        one.and(other).expect("there is room for the small ones");
        assert!(matches!(large, Err(DbError::Full(_))), "{large:?}");
        leave_room(&db, 1_000_000).await;
        add(&db, task("large", 1 << 20)).await.expect("there is room again");
        let reads = Actor::member("test", Namespace::team("n")).permit().unwrap();
        for name in ["before", "one", "other", "large"] {
            let found = db.task(&reads, &TaskId(name.into())).await.unwrap();
            assert!(found.is_some(), "{name} is lost");
        }
    }
}
