//! SQLite: one thread writes, a few read, none of them is the runtime's.
//!
//! ```text
//!   write ─┐
//!   write ─┼─▶ lines ─▶ begin ─ closure ─ closure ─ closure ─ events ─ commit ─▶ answer all
//!   write ─┘
//! ```
//!
//! Making a commit durable costs far more than the change itself, so the writer thread lets everybody who waits
//! ride in one transaction (group commit). Nobody is answered before the commit, not even with a refusal, because a
//! refusal too may rest on what a neighbour has just changed.
//!
//! A closure that says no before it has changed anything, as nearly all do that say no, leaves nothing to undo. One
//! that does so later, or panics, spoils the group: it is rolled back, and each of its closures is called again in a
//! transaction of its own. No savepoints, because they would cost every write something.
//!
//! Other processes may have the same file open: each group is a transaction of its own, and waits its turn for so
//! long as [`super::Limits`] says.

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
    time::{Duration, Instant},
};

use rusqlite::{Connection, config::DbConfig};
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot, watch,
};

use super::{
    DbError, Doing, Place, Sql, Tx,
    events::write_events,
    lines::{Job, Lines, Ran, Trouble, Waiting, Write, answer, waits_for_something_else},
    migrations::migrate,
    start_thread,
};
use crate::{Namespace, event::NewEvent};

/// Writes that share a commit: enough to spread its cost.
const GROUP_MAX: usize = 256;
/// How long a group takes in more, so that the first does not wait long, nor another process for the file.
const GROUP_TIME_MAX: Duration = Duration::from_millis(20);
/// Threads that read, at most.
const READERS_MAX: usize = 4;
/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 128;

pub(super) struct Sqlite {
    writer: UnboundedSender<Job<Box<dyn Write>>>,
    readers: Readers,
    /// Ends when the last thread has.
    threads: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

type Read = Box<dyn FnOnce(&mut Connection) + Send>;

impl Sqlite {
    pub(super) fn open(path: &Path, lock_time_max: Duration, wake: watch::Sender<u64>) -> Result<Sqlite, DbError> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
            return Err(DbError::NoDirectory(directory.to_owned()));
        }
        make_private(path);
        let mut connection = connect(path, lock_time_max, "pragma journal_mode = wal; pragma synchronous = full")?;
        bring_up_to_date(&mut connection)?;
        let (alive, threads) = mpsc::channel(1);
        let (writer, writes) = unbounded_channel();
        let writer_thread = Writer { connection, queue: writes, is_open: true, lines: Lines::default(), wake };
        start_thread("sqlite-writer", &alive, move || writer_thread.run())?;
        let readers = Readers::start(path.to_owned(), lock_time_max, &alive)?;
        Ok(Sqlite { writer, readers, threads: tokio::sync::Mutex::new(threads) })
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

    pub(super) async fn read<T, F>(&self, work: F, place: Place) -> Result<T, DbError>
    where
        F: AsyncFnOnce(&mut Sql<'_>) -> Result<T, DbError> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let _place = place;
            let result = catch_unwind(AssertUnwindSafe(|| {
                at_once(work(&mut Sql::Sqlite(connection))).unwrap_or_else(|| Err(waits_for_something_else()))
            }));
            let _ = reply.send(result); // fails if the caller has left
        });
        self.readers.send(read)?;
        answer.await.map_err(|_| DbError::Closed)?.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Finish what waits, then end the threads.
    pub(super) async fn close(&self) {
        let _ = self.writer.send(Job::Stop); // fails if it has ended
        for _ in 0..READERS_MAX {
            let _ = self.readers.queue.send(Job::Stop);
        }
        while self.threads.lock().await.recv().await.is_some() {}
    }
}

/// The writer thread. Ends when it is told to, or when the last [`super::Db`] is gone.
struct Writer {
    connection: Connection,
    queue: UnboundedReceiver<Job<Box<dyn Write>>>,
    /// Whether more may come in.
    is_open: bool,
    lines: Lines,
    wake: watch::Sender<u64>,
}

impl Writer {
    fn run(mut self) {
        while self.wait() {
            let mut group = Vec::new();
            match self.together(&mut group, true) {
                Ok(()) => answer(group, &Ok(())),
                Err(Trouble::Failed(error)) => answer(group, &Err(error)),
                Err(Trouble::Spoiled) => group.into_iter().for_each(|write| self.alone(write)),
            }
        }
    }

    /// A write in a transaction of its own.
    fn alone(&mut self, write: Box<dyn Write>) {
        let mut group = vec![write];
        match self.together(&mut group, false) {
            // Alone, what it said is its answer.
            Ok(()) | Err(Trouble::Spoiled) => answer(group, &Ok(())),
            Err(Trouble::Failed(error)) => answer(group, &Err(error)),
        }
    }

    /// Wait until somebody stands in line; `false` if nobody ever will.
    fn wait(&mut self) -> bool {
        while self.is_open && self.lines.is_empty() {
            let job = self.queue.blocking_recv();
            self.take_in(job);
        }
        !self.lines.is_empty()
    }

    fn take_in(&mut self, job: Option<Job<Box<dyn Write>>>) {
        match job {
            Some(Job::Do(write)) => self.lines.push(write),
            Some(Job::Stop) | None => self.is_open = false,
        }
    }

    /// One transaction: who is in `group`, and if it `grows` also who waits, and whoever comes while it runs.
    fn together(&mut self, group: &mut Vec<Box<dyn Write>>, grows: bool) -> Result<(), Trouble> {
        if grows {
            group.extend(self.lines.pop());
        }
        let committed = self.run_closures(group, grows).and_then(|events| {
            let by_namespace = events.iter().map(|(place, event)| (group[*place].namespace(), event));
            write_events(&self.connection, by_namespace).doing("append the events")?;
            execute(&self.connection, "commit").doing("commit")?;
            Ok(!events.is_empty())
        });
        if committed.is_err() && !self.connection.is_autocommit() {
            // If this fails too, so does the next `begin`, and with it the next group: nobody is told a lie.
            let _ = execute(&self.connection, "rollback");
        }
        match committed {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.wake.send_modify(|count| *count += 1);
                Ok(())
            }
            // What fills the disk may be one of them, and there may be room for the others.
            Err(Trouble::Failed(DbError::Full(_))) if group.len() > 1 => Err(Trouble::Spoiled),
            Err(trouble) => Err(trouble),
        }
    }

    /// Run closures up to the one that spoils it, or until nobody waits. Gives their events, each with the place in
    /// the group of the closure that it is from.
    fn run_closures(
        &mut self,
        group: &mut Vec<Box<dyn Write>>,
        grows: bool,
    ) -> Result<Vec<(usize, NewEvent)>, Trouble> {
        execute(&self.connection, "begin immediate").doing("begin a write")?;
        let (begun, mut done, mut events) = (Instant::now(), 0, Vec::new());
        while let Some(write) = group.get_mut(done) {
            if !write.is_abandoned() {
                match call(&mut **write, &mut self.connection) {
                    Ran::Keep(new) => events.extend(new.into_iter().map(|event| (done, event))),
                    Ran::Undo { changed: false } => {}
                    Ran::Undo { changed: true } => return Err(Trouble::Spoiled),
                }
            }
            done += 1;
            while grows
                && self.is_open
                && let Ok(job) = self.queue.try_recv()
            {
                self.take_in(Some(job));
            }
            if grows && done < GROUP_MAX && begun.elapsed() < GROUP_TIME_MAX {
                group.extend(self.lines.pop());
            }
        }
        Ok(events)
    }
}

/// Call a closure. SQLite answers at once, so one that is not ready waits for something that it should not.
fn call(write: &mut dyn Write, connection: &mut Connection) -> Ran {
    at_once(write.run(Sql::Sqlite(connection))).unwrap_or_else(|| {
        write.refuse(waits_for_something_else());
        Ran::Undo { changed: true }
    })
}

/// What a future says that is ready when it is first asked.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// The reader threads. There is one, and more when all are busy: a connection costs time and memory, and a short
/// command needs only one.
struct Readers {
    queue: UnboundedSender<Job<Read>>,
    shared: Arc<Shared>,
    started: AtomicUsize,
    path: PathBuf,
    lock_time_max: Duration,
    alive: mpsc::WeakSender<()>,
}

/// What the reader threads share.
struct Shared {
    queue: Mutex<UnboundedReceiver<Job<Read>>>,
    /// Reads that wait or run.
    reads: AtomicUsize,
}

impl Readers {
    fn start(path: PathBuf, lock_time_max: Duration, alive: &mpsc::Sender<()>) -> Result<Readers, DbError> {
        let (queue, reads) = unbounded_channel();
        let shared = Arc::new(Shared { queue: Mutex::new(reads), reads: AtomicUsize::new(0) });
        let (started, alive) = (AtomicUsize::new(0), alive.downgrade());
        let readers = Readers { queue, shared, started, path, lock_time_max, alive };
        readers.start_one()?;
        Ok(readers)
    }

    fn send(&self, read: Read) -> Result<(), DbError> {
        let before = self.shared.reads.fetch_add(1, Ordering::Relaxed);
        if before >= self.started.load(Ordering::Relaxed)
            && let Err(error) = self.start_one()
        {
            tracing::warn!(%error, "no further reader could be started; reads take longer");
        }
        self.queue.send(Job::Do(read)).map_err(|_| DbError::Closed)
    }

    /// Start a reader, unless there are enough. It opens the file in the caller's thread: about a millisecond, and only
    /// so often as there are readers.
    fn start_one(&self) -> Result<(), DbError> {
        let more = |started| (started < READERS_MAX).then_some(started + 1);
        let Ok(_) = self.started.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) else { return Ok(()) };
        let started = connect(&self.path, self.lock_time_max, "pragma query_only = on").and_then(|connection| {
            let (alive, shared) = (self.alive.upgrade().ok_or(DbError::Closed)?, Arc::clone(&self.shared));
            start_thread("sqlite-reader", &alive, move || shared.read_in_turn(connection))
        });
        if started.is_err() {
            self.started.fetch_sub(1, Ordering::Relaxed);
        }
        started
    }
}

impl Shared {
    fn read_in_turn(&self, mut connection: Connection) {
        let next = || self.queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        while let Some(Job::Do(read)) = next() {
            read(&mut connection);
            self.reads.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A new database is its owner's alone, whatever the umask is; SQLite gives its other files the mode of this one. Should this
/// fail, SQLite will say why.
fn make_private(path: &Path) {
    let mode = 0o600;
    if let Ok(file) = OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        let _ = file.set_permissions(Permissions::from_mode(mode));
    }
}

fn connect(path: &Path, lock_time_max: Duration, pragmas: &str) -> Result<Connection, DbError> {
    let open = Connection::open(path).doing("open the database");
    let connection = open.map_err(|error| error.of_file(path))?;
    connection.busy_timeout(lock_time_max).doing("set up a connection")?;
    let set_up = connection.execute_batch(pragmas).doing("set up a connection");
    set_up.map_err(|error| error.of_file(path))?; // SQLite opens the file's companions here
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Plan a statement once. Otherwise SQLite, as rusqlite builds it, plans `due <= $2` anew for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).doing("set up a connection")?;
    Ok(connection)
}

/// Migrate, unless the file is somebody else's database.
fn bring_up_to_date(connection: &mut Connection) -> Result<(), DbError> {
    let count = "select count(*), count(*) filter (where name = 'skep_migration') from sqlite_schema";
    let (all, ours): (i64, i64) =
        connection.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?))).doing("read the schema")?;
    if all > 0 && ours == 0 {
        return Err(DbError::Foreign);
    }
    execute(connection, "begin immediate").doing("begin the migration")?;
    let migrated = at_once(migrate(&mut Sql::Sqlite(connection))).unwrap_or_else(|| Err(waits_for_something_else()));
    execute(connection, if migrated.is_ok() { "commit" } else { "rollback" }).doing("end the migration")?;
    migrated
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        Timestamp,
        db::{Db, Limits},
        task::{NewTask, Task, TaskId},
    };

    fn task(name: &str, bytes: usize) -> Task {
        let new = NewTask::new(TaskId(name.to_owned()), "q", json!("x".repeat(bytes)));
        Task::new(new, 0, 0, Timestamp(1))
    }

    async fn add(db: &Db, task: Task) -> Result<(), DbError> {
        db.write(&Namespace("n".into()), async move |tx| tx.add_task(&task).await.map(drop)).await
    }

    /// Let the file grow by so many pages and no more, which is what SQLite sees of a full disk.
    async fn leave_room(db: &Db, pages: i64) {
        let set = async move |tx: &mut Tx<'_>| {
            let read = |row: &super::super::Row<'_>| row.next::<i64>();
            let count = tx.all("select page_count from pragma_page_count", &[], read).await.doing("look")?;
            tx.sql.batch(&format!("pragma max_page_count = {}", count[0] + pages)).await.doing("limit")
        };
        db.write(&Namespace("n".into()), set).await.unwrap();
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
        for name in ["before", "one", "other", "large"] {
            let found = db.task(&Namespace("n".into()), &TaskId(name.into())).await.unwrap();
            assert!(found.is_some(), "{name} is lost");
        }
    }
}
