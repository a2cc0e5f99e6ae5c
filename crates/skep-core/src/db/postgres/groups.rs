//! Writes in groups: those of one namespace that wait at the same time share a transaction.
//!
//! ```text
//!                   closures                 commit
//!   namespace a:   ─ 1 ─ 2 ─ 3 ─ events ────────────▶ answer 1 2 3
//!                                 ─ 4 ─ 5 ─ events ─────────────────▶ answer 4 5
//!   namespace b:   ─ 6 ─ events ──────────▶ answer 6
//! ```
//!
//! A namespace is serial: a group locks it first, and keeps it until it is durable. One transaction for each write
//! would make the writes of a namespace durable one after the other; a group shares the wait. While one group commits,
//! the next takes in who comes and waits for the lock.
//!
//! What happens when the connection is lost: before the commit was sent, nothing of the group counts, and the whole
//! group is tried once more on another connection; after that its callers are told that the server cannot be reached.
//! Once the commit was sent, the server is asked what became of the transaction; only if it cannot say is the outcome
//! [`DbError::Unsure`].

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver},
    task::{JoinSet, LocalSet},
    time::{sleep, timeout},
};

use super::{
    Pipeline, Pool, WRITERS,
    notices::{self, Outbox},
    pipeline::Failure,
};
use crate::{
    Namespace,
    db::{
        DbError, Shared, Sql,
        error::{Doing, failed},
        group::{self, Changes, Trouble},
        queue::{Job, Queues, Write, answer},
    },
};

/// Writes that share a transaction: enough to spread the cost of a commit, few enough to call again one by one.
const GROUP_MAX: usize = 64;
/// How long a group takes in more, so that the first does not wait long, nor another hub for its locks.
const GROUP_TIME_MAX: Duration = Duration::from_millis(20);
/// Groups of one namespace at once: one commits, another waits for its lock.
const GROUPS_MAX: usize = 2;
/// How long all closures of a group may take, and how long its commit.
const STEP_TIME_MAX: Duration = Duration::from_secs(30);
/// How long the end waits for the last notice to other hubs.
const LAST_NOTICE_TIME_MAX: Duration = Duration::from_secs(1);
/// How long to wait for a rollback, before the connection is given up.
const ROLLBACK_TIME_MAX: Duration = Duration::from_secs(2);
/// How long to ask what became of a transaction whose commit was not answered.
const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(10);
/// How long to wait before asking again while the server is still at it.
const LOOK_UP_PAUSE: Duration = Duration::from_millis(50);
/// The longest wait before the second try of a write that others got in the way of; then twice as long, and so on.
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// The writer thread. Ends when it is told to and no write waits any more, or when the last `Db` is gone.
///
/// Beside, it tells other hubs what was committed.
pub(super) fn run(
    pool: Pool,
    notifiers: Pool,
    queue: UnboundedReceiver<Job<Box<dyn Write>>>,
    tries_max: u32,
    shared: Arc<Shared>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "the writer's runtime does not start"),
    };
    let queues = RefCell::default();
    let writer = Writer {
        pool,
        tries_max,
        shared,
        outbox: Outbox::default(),
        queues,
        at_work: RefCell::default(),
        turn: Notify::new(),
    };
    let writer = Rc::new(writer);
    LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            () = Rc::clone(&writer).serve(queue) => {}
            () = notices::send(&notifiers, writer.shared.redis(), &writer.outbox) => {}
        }
        // The last ones must not wait for the other hubs to look by themselves, nor we for a server that is slow.
        let last = notices::send_now(&notifiers, writer.shared.redis(), &writer.outbox);
        let _ = timeout(LAST_NOTICE_TIME_MAX, last).await;
    });
}

struct Writer {
    pool: Pool,
    tries_max: u32,
    shared: Arc<Shared>,
    /// What other hubs are to be told.
    outbox: Outbox,
    queues: RefCell<Queues>,
    at_work: RefCell<HashMap<Namespace, AtWork>>,
    /// Notified when a namespace may have its next group.
    turn: Notify,
}

/// The groups of a namespace that are at work.
#[derive(Default)]
struct AtWork {
    groups: usize,
    /// Whether one of them is still taking in, and running closures.
    takes_in: bool,
}

/// How a transaction came to nothing.
enum Ended {
    /// The connection was lost before the commit was sent.
    Lost(DbError),
    /// Others were in the way.
    Again,
    /// See [`Trouble`].
    Trouble(Trouble),
}

impl<T: Into<Trouble>> From<T> for Ended {
    fn from(trouble: T) -> Ended {
        Ended::Trouble(trouble.into())
    }
}

impl Writer {
    async fn serve(self: Rc<Self>, mut queue: UnboundedReceiver<Job<Box<dyn Write>>>) {
        let mut groups = JoinSet::new();
        let mut is_open = true;
        while is_open || !groups.is_empty() || !self.queues.borrow().is_empty() {
            tokio::select! {
                job = queue.recv(), if is_open => is_open = self.take_in(job),
                Some(_) = groups.join_next() => {}
                () = self.turn.notified() => {}
            }
            while is_open && let Ok(job) = queue.try_recv() {
                is_open = self.take_in(Some(job));
            }
            while groups.len() < WRITERS
                && let Some(turn) = self.next_turn()
            {
                groups.spawn_local(Rc::clone(&self).group(turn));
            }
        }
    }

    /// Says whether there can be more.
    fn take_in(&self, job: Option<Job<Box<dyn Write>>>) -> bool {
        match job {
            Some(Job::Do(write)) => self.queues.borrow_mut().push(write),
            Some(Job::Stop) | None => return false,
        }
        true
    }

    fn next_turn(self: &Rc<Self>) -> Option<Turn> {
        let mut at_work = self.at_work.borrow_mut();
        let is_free =
            |namespace: &Namespace| at_work.get(namespace).is_none_or(|now| !now.takes_in && now.groups < GROUPS_MAX);
        let namespace = self.queues.borrow_mut().next_turn(is_free)?;
        let now = at_work.entry(namespace.clone()).or_default();
        now.groups += 1;
        now.takes_in = true;
        Some(Turn { writer: Rc::clone(self), namespace, takes_in: true })
    }

    async fn group(self: Rc<Self>, mut turn: Turn) {
        let mut group = Vec::new();
        let first = self.together(&mut group, Some(&mut turn)).await;
        let ended = match first {
            Err(Ended::Lost(_)) => self.together(&mut group, None).await,
            other => other,
        };
        match ended {
            Ok(()) => answer(group, &Ok(())),
            Err(Ended::Lost(error) | Ended::Trouble(Trouble::Failed(error))) => answer(group, &Err(error)),
            Err(Ended::Again | Ended::Trouble(Trouble::Spoiled)) => {
                let tried = u32::from(group.len() == 1);
                let mut lost = None;
                for write in group {
                    match &lost {
                        // Not each of them waits for a server that does not answer.
                        Some(error) => write.answer(Err(DbError::clone(error))),
                        None => lost = self.alone(write, tried).await,
                    }
                }
            }
        }
    }

    /// A write that has been `tried` by itself that often, in a transaction of its own. Returns the error if the server
    /// was lost.
    async fn alone(&self, write: Box<dyn Write>, tried: u32) -> Option<DbError> {
        let mut group = vec![write];
        for tried in tried..self.tries_max {
            if tried > 0 {
                sleep(pause(tried)).await;
            }
            let (outcome, lost) = match self.together(&mut group, None).await {
                // Alone, what it said is its answer.
                Ok(()) | Err(Ended::Trouble(Trouble::Spoiled)) => (Ok(()), None),
                Err(Ended::Trouble(Trouble::Failed(error))) => (Err(error), None),
                Err(Ended::Lost(error)) => (Err(error.clone()), Some(error)),
                Err(Ended::Again) => continue,
            };
            answer(group, &outcome);
            return lost;
        }
        answer(group, &Err(DbError::Busy("other writes kept getting in the way")));
        None
    }

    /// One transaction: the closures of `group`, and while it is its turn those that wait.
    async fn together(&self, group: &mut Vec<Box<dyn Write>>, mut turn: Option<&mut Turn>) -> Result<(), Ended> {
        group.extend(turn.as_mut().and_then(|turn| turn.next_write()));
        let client = match self.pool.get().await.doing("get a connection") {
            Ok(client) => client,
            Err(error) => return Err(Ended::Lost(error)),
        };
        let (shared, begun) = (Arc::clone(&self.shared), Instant::now());
        let mut pipeline = Pipeline::new(Arc::new(client));
        let fill = |group: &mut Vec<Box<dyn Write>>, done| {
            let Some(turn) = turn.as_mut().filter(|_| begun.elapsed() < GROUP_TIME_MAX) else { return };
            if done == group.len() && done < GROUP_MAX {
                group.extend(turn.next_write());
            }
            turn.add_like(group);
        };
        let mut sql = Sql::Postgres(&mut pipeline);
        let work = group::run(&mut sql, &shared.namespaces, &shared.time, group, fill);
        let ran = timeout(STEP_TIME_MAX, work).await.unwrap_or_else(|_| Err(silent().into()));
        let mut changes = match ran {
            Ok(changes) => changes,
            Err(trouble) => return Err(failed_before_commit(pipeline, trouble).await),
        };
        if let Some(turn) = turn {
            turn.stop_taking_in();
        }
        self.commit(pipeline, &mut changes).await?;
        shared.committed(changes, |namespace, after, count| self.outbox.add(namespace, after, count));
        Ok(())
    }

    /// The end of a transaction, all of it in one go.
    async fn commit(&self, mut pipeline: Pipeline, changes: &mut Changes) -> Result<(), Ended> {
        // The number of the transaction must be known before its commit is sent.
        let locked = match timeout(STEP_TIME_MAX, pipeline.namespace()).await {
            Ok(Ok(locked)) => locked,
            Ok(Err(error)) => {
                return Err(failed_before_commit(pipeline, failed("commit", error).into()).await);
            }
            Err(_) => return Err(failed_before_commit(pipeline, silent().into()).await),
        };
        if let Some(locked) = locked {
            self.shared.time.learn(locked.server_time, locked.asked.0, locked.asked.1);
        }
        let commit = async {
            let mut sql = Sql::Postgres(&mut pipeline);
            group::write_events(&mut sql, changes).await?;
            sql.commit().await.doing("commit")
        };
        let error = match timeout(STEP_TIME_MAX, commit).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        match (error, pipeline.failure()) {
            (Some(error), Some(Failure::Final | Failure::Again)) => {
                Err(failed_before_commit(pipeline, Trouble::Failed(error)).await)
            }
            (error, _) => {
                let transaction =
                    Sent { number: locked.map(|locked| locked.transaction), incarnation: pipeline.incarnation() };
                if let Some(client) = pipeline.into_client() {
                    client.close();
                }
                self.look_up(transaction, error.unwrap_or_else(silent)).await
            }
        }
    }

    /// What became of a transaction whose commit was sent and not answered. The server may be away for a moment, as when
    /// it is restarted, and then knows.
    async fn look_up(&self, transaction: Sent, error: DbError) -> Result<(), Ended> {
        let fate = async {
            loop {
                match self.fate(&transaction).await {
                    Fate::Open => sleep(LOOK_UP_PAUSE).await,
                    fate => return fate,
                }
            }
        };
        match timeout(LOOK_UP_TIME_MAX, fate).await {
            Ok(Fate::Committed) => Ok(()),
            Ok(Fate::Aborted) => Err(Ended::Lost(error)),
            Ok(Fate::Open | Fate::Unknown) | Err(_) => Err(Trouble::Failed(DbError::Unsure(Arc::new(error))).into()),
        }
    }

    async fn fate(&self, transaction: &Sent) -> Fate {
        let (Some(number), Some(incarnation)) = (transaction.number, &transaction.incarnation) else {
            return Fate::Unknown;
        };
        let Ok(client) = self.pool.get().await else { return Fate::Open };
        // After a crash or a failover, another transaction may have the number.
        if client.incarnation() != Some(incarnation) {
            return Fate::Unknown;
        }
        let status = "select pg_xact_status(cast($1 as text)::xid8)";
        let Ok(row) = client.query_one(status, &[&number.to_string()]).await else { return Fate::Open };
        match row.try_get::<_, Option<&str>>(0) {
            Ok(Some("committed")) => Fate::Committed,
            Ok(Some("aborted")) => Fate::Aborted,
            Ok(Some(_)) => Fate::Open,
            Ok(None) | Err(_) => Fate::Unknown,
        }
    }
}

/// A transaction whose commit was sent.
struct Sent {
    number: Option<u64>,
    /// Where the number is known.
    incarnation: Option<String>,
}

/// What became of a transaction.
enum Fate {
    Committed,
    Aborted,
    /// The server is still at it, or cannot be reached.
    Open,
    /// The server cannot know.
    Unknown,
}

/// The server says nothing.
fn silent() -> DbError {
    DbError::Unreachable(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))
}

/// Undo what was not committed, and say what follows from it.
async fn failed_before_commit(pipeline: Pipeline, trouble: Trouble) -> Ended {
    let failure = pipeline.failure();
    roll_back(pipeline).await;
    match (failure, trouble) {
        (Some(Failure::Again), _) => Ended::Again,
        (Some(Failure::Lost), Trouble::Failed(error)) => Ended::Lost(error),
        (Some(Failure::Lost), Trouble::Spoiled) => Ended::Lost(silent()),
        (_, Trouble::Failed(error @ DbError::Unreachable(_))) => Ended::Lost(error),
        (_, trouble) => Ended::Trouble(trouble),
    }
}

/// Give the connection back as good as new, or not at all.
async fn roll_back(pipeline: Pipeline) {
    let Some(client) = pipeline.into_client() else { return };
    let rolled_back = timeout(ROLLBACK_TIME_MAX, client.batch_execute("rollback")).await;
    if !matches!(rolled_back, Ok(Ok(()))) {
        client.close();
    }
}

/// How long to wait before another try, after so many. Each waits differently long, so that two who got in each
/// other's way do not meet again.
fn pause(tried: u32) -> Duration {
    let longest = PAUSE_MAX.saturating_mul(1 << tried.min(8));
    let random = RandomState::new().build_hasher().finish(); // the standard library seeds each anew
    longest.mul_f64(random as f64 / u64::MAX as f64)
}

/// A namespace's right to a group, and for a while the right to be the one that takes in.
struct Turn {
    writer: Rc<Writer>,
    namespace: Namespace,
    takes_in: bool,
}

impl Turn {
    fn next_write(&mut self) -> Option<Box<dyn Write>> {
        self.writer.queues.borrow_mut().pop_of(&self.namespace)
    }

    /// Those that can be done together with the last of a group.
    fn add_like(&mut self, group: &mut Vec<Box<dyn Write>>) {
        self.writer.queues.borrow_mut().add_like(group, GROUP_MAX);
    }

    /// Let the next group begin.
    fn stop_taking_in(&mut self) {
        if std::mem::take(&mut self.takes_in) {
            if let Some(now) = self.writer.at_work.borrow_mut().get_mut(&self.namespace) {
                now.takes_in = false;
            }
            self.writer.turn.notify_one();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.stop_taking_in();
        let mut at_work = self.writer.at_work.borrow_mut();
        if let Some(now) = at_work.get_mut(&self.namespace) {
            now.groups -= 1;
            if now.groups == 0 {
                at_work.remove(&self.namespace);
            }
        }
        self.writer.turn.notify_one();
    }
}
