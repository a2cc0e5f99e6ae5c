//! Writes in groups: those of one namespace that wait at the same time share a transaction.
//!
//! ```text
//!                   closures                 commit
//!   namespace a:   ─ 1 ─ 2 ─ 3 ─ events ────────────▶ answer 1 2 3
//!                                 ─ 4 ─ 5 ─ events ─────────────────▶ answer 4 5
//!   namespace b:   ─ 6 ─ events ──────────▶ answer 6
//! ```
//!
//! A namespace's log has one counter, which each transaction locks until it is durable. One transaction for each
//! write would make the writes of a namespace durable one after the other; a group shares the wait. While one group
//! commits, the next runs its closures; only one group of a namespace runs closures at a time, so groups do not lock
//! each other out, unless another hub works in the same namespace.
//!
//! A group is a gamble on all going well, which nearly always pays. When a statement fails, when others were in the
//! way, or when a closure that has changed something says no or panics, the transaction is rolled back and each of
//! its closures is called again in a transaction of its own: there its failure is its own. No savepoints, because
//! they would cost every write something.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    hash::{BuildHasher, Hasher, RandomState},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver, watch},
    task::{JoinSet, LocalSet},
    time::{sleep, timeout},
};

use super::{Object, Pipeline, Pool, WRITERS, is_lost, pipeline::Failure};
use crate::{
    Namespace,
    db::{
        DbError, Sql,
        error::{Doing, failed},
        events::append_events,
        lines::{Job, Lines, Ran, Trouble, Write, answer, waits_for_something_else},
    },
    event::NewEvent,
};

/// Writes that share a transaction: enough to spread the cost of a commit, few enough to call again one by one.
const GROUP_MAX: usize = 64;
/// How long a group takes in more, so that the first does not wait long, nor another hub for its locks.
const GROUP_TIME_MAX: Duration = Duration::from_millis(20);
/// Groups of one namespace at once: one runs its closures, the others commit.
const GROUPS_MAX: usize = 3;
/// How long a closure may take, whatever it does.
const CLOSURE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long to wait for a rollback, before the connection is given up.
const ROLLBACK_TIME_MAX: Duration = Duration::from_secs(2);
/// The longest wait before the second try of a write that others got in the way of; then twice as long, and so on.
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// The writer thread. Ends when it is told to and nobody waits any more, or when the last `Db` is gone.
pub(super) fn run(pool: Pool, queue: UnboundedReceiver<Job<Box<dyn Write>>>, tries_max: u32, wake: watch::Sender<u64>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "the writer's runtime does not start"),
    };
    let lines = RefCell::default();
    let writer = Writer { pool, tries_max, wake, lines, at_work: RefCell::default(), turn: Notify::new() };
    let writer = Rc::new(writer);
    LocalSet::new().block_on(&runtime, writer.serve(queue));
}

struct Writer {
    pool: Pool,
    tries_max: u32,
    wake: watch::Sender<u64>,
    lines: RefCell<Lines>,
    at_work: RefCell<HashMap<Namespace, AtWork>>,
    /// Rung when a namespace may have its next group.
    turn: Notify,
}

/// The groups of a namespace that are at work.
#[derive(Default)]
struct AtWork {
    groups: usize,
    /// Whether one of them is still taking in, and running closures.
    takes_in: bool,
}

impl Writer {
    async fn serve(self: Rc<Self>, mut queue: UnboundedReceiver<Job<Box<dyn Write>>>) {
        let mut groups = JoinSet::new();
        let mut is_open = true;
        while is_open || !groups.is_empty() || !self.lines.borrow().is_empty() {
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
            Some(Job::Do(write)) => self.lines.borrow_mut().push(write),
            Some(Job::Stop) | None => return false,
        }
        true
    }

    fn next_turn(self: &Rc<Self>) -> Option<Turn> {
        let mut at_work = self.at_work.borrow_mut();
        let is_free =
            |namespace: &Namespace| at_work.get(namespace).is_none_or(|now| !now.takes_in && now.groups < GROUPS_MAX);
        let namespace = self.lines.borrow_mut().next_line(is_free)?;
        let now = at_work.entry(namespace.clone()).or_default();
        now.groups += 1;
        now.takes_in = true;
        Some(Turn { writer: Rc::clone(self), namespace, takes_in: true })
    }

    async fn group(self: Rc<Self>, mut turn: Turn) {
        let namespace = turn.namespace.clone();
        let mut group = Vec::new();
        match self.together(&namespace, &mut group, Some(&mut turn)).await {
            Ok(()) => answer(group, &Ok(())),
            Err(Trouble::Failed(error)) => answer(group, &Err(error)),
            Err(Trouble::Spoiled) => {
                let tried = u32::from(group.len() == 1);
                for write in group {
                    self.alone(&namespace, write, tried).await;
                }
            }
        }
    }

    /// A write that has been `tried` by itself that often, in a transaction of its own.
    async fn alone(&self, namespace: &Namespace, write: Box<dyn Write>, tried: u32) {
        let mut group = vec![write];
        for tried in tried..self.tries_max {
            if tried > 0 {
                sleep(pause(tried)).await;
            }
            match self.together(namespace, &mut group, None).await {
                Ok(()) => return answer(group, &Ok(())),
                Err(Trouble::Failed(error)) => return answer(group, &Err(error)),
                Err(Trouble::Spoiled) => {}
            }
        }
        answer(group, &Err(DbError::Busy("other writes kept getting in the way")));
    }

    /// One transaction: the closures of `group`, and while it is its turn those that wait in line.
    async fn together(
        &self,
        namespace: &Namespace,
        group: &mut Vec<Box<dyn Write>>,
        mut turn: Option<&mut Turn>,
    ) -> Result<(), Trouble> {
        group.extend(turn.as_mut().and_then(|turn| turn.next_in_line()));
        let client = self.pool.get().await.doing("get a connection")?;
        let mut pipeline = Pipeline::new(Arc::new(client));
        let done = match run_closures(&mut pipeline, group, turn.as_deref_mut()).await {
            Ok(events) => {
                if let Some(turn) = turn {
                    turn.stop_taking_in();
                }
                commit(&mut pipeline, namespace, &events).await.map(|()| !events.is_empty())
            }
            Err(trouble) => Err(trouble),
        };
        match done {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.wake.send_modify(|count| *count += 1);
                Ok(())
            }
            Err(trouble) => {
                let failure = pipeline.failure();
                roll_back(pipeline).await;
                match trouble {
                    Trouble::Failed(DbError::Unsure(_)) => Err(trouble),
                    _ if failure == Some(Failure::Again) || group.len() > 1 => Err(Trouble::Spoiled),
                    // It has been alone all the time, so what it said is its answer.
                    Trouble::Spoiled => Ok(()),
                    Trouble::Failed(_) => Err(trouble),
                }
            }
        }
    }
}

/// Run closures up to the one that spoils it, or until nobody waits. Gives their events.
async fn run_closures(
    pipeline: &mut Pipeline,
    group: &mut Vec<Box<dyn Write>>,
    mut turn: Option<&mut Turn>,
) -> Result<Vec<NewEvent>, Trouble> {
    pipeline.later("begin", &[]).await.doing("begin a write")?;
    let (begun, mut done, mut events) = (Instant::now(), 0, Vec::new());
    while let Some(write) = group.get_mut(done) {
        if !write.is_abandoned() {
            match call(&mut **write, pipeline).await {
                _ if pipeline.failure().is_some() => return Err(Trouble::Spoiled),
                Ran::Keep(new) => events.extend(new),
                Ran::Undo { changed: false } => {}
                Ran::Undo { changed: true } => return Err(Trouble::Spoiled),
            }
        }
        done += 1;
        if done < GROUP_MAX && begun.elapsed() < GROUP_TIME_MAX {
            group.extend(turn.as_mut().and_then(|turn| turn.next_in_line()));
        }
    }
    Ok(events)
}

/// Call a closure. One that is not ready although the database owes it no answer waits for something that it should
/// not.
async fn call(write: &mut dyn Write, pipeline: &mut Pipeline) -> Ran {
    let is_waiting = pipeline.is_waiting();
    let mut closure = write.run(Sql::Postgres(pipeline));
    let ran = poll_fn(|context| match closure.as_mut().poll(context) {
        Poll::Ready(ran) => Poll::Ready(Ok(ran)),
        Poll::Pending if is_waiting.load(Ordering::Relaxed) => Poll::Pending,
        Poll::Pending => Poll::Ready(Err(waits_for_something_else())),
    });
    let ran = timeout(CLOSURE_TIME_MAX, ran).await.unwrap_or(Err(DbError::Busy("a write took too long")));
    drop(closure);
    ran.unwrap_or_else(|error| {
        write.refuse(error);
        Ran::Undo { changed: true }
    })
}

/// The end of a transaction, all of it in one go.
async fn commit(pipeline: &mut Pipeline, namespace: &Namespace, events: &[NewEvent]) -> Result<(), Trouble> {
    let sent = async {
        append_events(pipeline, namespace, events).await?;
        pipeline.later("commit", &[]).await?;
        pipeline.flush().await
    };
    sent.await.map_err(|error| match error {
        error if is_lost(&error) => Trouble::Failed(DbError::Unsure(Arc::new(error))),
        error => Trouble::Failed(failed("commit", error)),
    })
}

/// Give the connection back as good as new, or not at all.
async fn roll_back(pipeline: Pipeline) {
    let Some(client) = pipeline.into_client() else { return };
    let rolled_back = timeout(ROLLBACK_TIME_MAX, client.batch_execute("rollback")).await;
    if !matches!(rolled_back, Ok(Ok(()))) {
        drop(Object::take(client));
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
    fn next_in_line(&mut self) -> Option<Box<dyn Write>> {
        self.writer.lines.borrow_mut().pop_of(&self.namespace)
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
