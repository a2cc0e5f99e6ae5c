//! Writes that wait, in a queue for each namespace. The queues take turns, so that a namespace with many writes does not
//! delay the others.
//!
//! The queues need no bound of their own: each entry holds a [`Place`], and there are only so many.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::oneshot, time::timeout};

use super::{DbError, Scope, Sql, Tx, admission::Place, failed};
use crate::{Namespace, event::NewEvent};

/// What a writer finds in its queue.
pub(super) enum Job<T> {
    Do(T),
    Stop,
}

/// A write that waits. A trait, because each has another closure and another answer.
pub(super) trait Write: Send {
    /// Whose rows and events it is about.
    fn namespace(&self) -> &Namespace;
    /// Begin it. `false` if it is not to be done: its caller has left, or has waited too long.
    fn begin(&self) -> bool;
    /// Call the closure.
    fn run<'a>(&'a mut self, sql: Sql<'a>, scope: Scope) -> Pin<Box<dyn Future<Output = Ran> + 'a>>;
    /// Instead of what the closure said, if it said anything: this.
    fn refuse(&mut self, error: DbError);
    /// Tell the caller, now that it is known whether it was committed.
    fn answer(self: Box<Self>, committed: Result<(), DbError>);
}

/// What became of a closure.
pub(super) enum Ran {
    /// It shall count, with these events.
    Keep(Vec<NewEvent>),
    /// It shall not, and did it change anything so far?
    Undo { changed: bool },
}

/// A closure, and what its caller will be told.
pub(super) struct Waiting<F, T, E> {
    namespace: Namespace,
    work: F,
    result: Option<thread::Result<Result<T, E>>>,
    reply: oneshot::Sender<thread::Result<Result<T, E>>>,
    start: Start,
    place: Place,
}

/// What a caller waits for.
pub(super) struct Answer<T, E> {
    answer: oneshot::Receiver<thread::Result<Result<T, E>>>,
    start: Start,
}

/// Whether a write has begun, or its caller has given up: whichever comes first.
#[derive(Clone, Default)]
struct Start(Arc<AtomicU8>);

impl Start {
    const WAITING: u8 = 0;
    const BEGUN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// Whether it may be done, now or once more.
    fn begin(&self) -> bool {
        self.change_to(Start::BEGUN).map_or_else(|was| was == Start::BEGUN, |_| true)
    }

    /// Whether it will not be done.
    fn give_up(&self) -> bool {
        self.change_to(Start::GIVEN_UP).is_ok()
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst) == Start::BEGUN
    }

    fn change_to(&self, state: u8) -> Result<u8, u8> {
        self.0.compare_exchange(Start::WAITING, state, Ordering::SeqCst, Ordering::SeqCst)
    }
}

impl<F, T, E> Waiting<F, T, E> {
    pub(super) fn new(namespace: Namespace, work: F, place: Place) -> (Waiting<F, T, E>, Answer<T, E>) {
        let ((reply, answer), start) = (oneshot::channel(), Start::default());
        let waiting = Waiting { namespace, work, result: None, reply, start: start.clone(), place };
        (waiting, Answer { answer, start })
    }
}

impl<T, E: From<DbError>> Answer<T, E> {
    /// Wait for the answer. A write whose turn does not come in time is not done; one that has begun is waited for,
    /// since only its end says whether it was done.
    pub(super) async fn wait(mut self, time_max: Duration) -> Result<T, E> {
        let answer = match timeout(time_max, &mut self.answer).await {
            Ok(answer) => answer,
            Err(_) if self.start.give_up() => {
                return Err(DbError::Busy("the database was too slow for all that waits").into());
            }
            Err(_) => self.answer.await,
        };
        answer.map_err(|_| DbError::Closed)?.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl<F, T, E> Write for Waiting<F, T, E>
where
    F: AsyncFn(&mut Tx<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<DbError> + Send,
{
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn begin(&self) -> bool {
        (self.start.has_begun() || !self.reply.is_closed()) && self.start.begin()
    }

    fn run<'a>(&'a mut self, sql: Sql<'a>, scope: Scope) -> Pin<Box<dyn Future<Output = Ran> + 'a>> {
        Box::pin(async move {
            let mut tx = Tx::new(scope, sql);
            let said = AssertUnwindSafe((self.work)(&mut tx)).catch_unwind().await;
            let result = said.map(|said| tx.finish(said));
            let ran =
                if matches!(result, Ok(Ok(_))) { Ran::Keep(tx.events) } else { Ran::Undo { changed: tx.changed } };
            self.result = Some(result);
            ran
        })
    }

    fn refuse(&mut self, error: DbError) {
        self.result = Some(Ok(Err(error.into())));
    }

    fn answer(self: Box<Self>, committed: Result<(), DbError>) {
        let Waiting { work, result, reply, place, .. } = *self;
        let result = match (committed, result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => return, // nobody needed it
            (Err(error), _) => Ok(Err(error.into())),
        };
        // Whoever hears its answer has room for its next write.
        drop((work, place));
        let _ = reply.send(result); // fails if the caller has left
    }
}

/// Tell everybody in a group.
pub(super) fn answer(group: Vec<Box<dyn Write>>, committed: &Result<(), DbError>) {
    for write in group {
        write.answer(committed.clone());
    }
}

/// The refusal of a closure that awaits what no database will ever answer.
pub(super) fn waits_for_something_else() -> DbError {
    failed("finish a write", "it waits for something that is not the database")
}

/// All writes that wait.
#[derive(Default)]
pub(super) struct Queues {
    queues: HashMap<Namespace, VecDeque<Box<dyn Write>>>,
    turns: VecDeque<Namespace>,
}

impl Queues {
    pub(super) fn push(&mut self, write: Box<dyn Write>) {
        match self.queues.get_mut(write.namespace()) {
            Some(queue) => queue.push_back(write),
            None => {
                let namespace = write.namespace().clone();
                self.turns.push_back(namespace.clone());
                self.queues.insert(namespace, VecDeque::from([write]));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// The first of the queue whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Box<dyn Write>> {
        let namespace = self.next_turn(|_| true)?;
        self.pop_of(&namespace)
    }

    /// The namespace whose turn it is among those that are `free`. It goes to the end of the turns.
    pub(super) fn next_turn(&mut self, free: impl Fn(&Namespace) -> bool) -> Option<Namespace> {
        let place = self.turns.iter().position(free)?;
        let namespace = self.turns.remove(place)?;
        self.turns.push_back(namespace.clone());
        Some(namespace)
    }

    /// The first of a namespace's queue.
    pub(super) fn pop_of(&mut self, namespace: &Namespace) -> Option<Box<dyn Write>> {
        let queue = self.queues.get_mut(namespace)?;
        let write = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(namespace);
            self.turns.retain(|turn| turn != namespace);
        }
        write
    }
}
