//! Writes that wait, in a line for each namespace, with turns between the lines: who writes a lot waits for itself
//! and not everybody for it.
//!
//! The lines need no bound of their own: each entry holds a [`Place`], and there are only so many.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    pin::Pin,
    thread,
};

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::{DbError, Place, Sql, Tx, failed};
use crate::{Namespace, event::NewEvent};

/// What a writer's thread finds in its queue.
pub(super) enum Job<T> {
    Do(T),
    Stop,
}

/// A write that waits. A trait, because each has another closure and another answer.
pub(super) trait Write: Send {
    /// Whose log and rows it is about.
    fn namespace(&self) -> &Namespace;
    /// Whether the caller has left, so that nobody needs it done.
    fn is_abandoned(&self) -> bool;
    /// Call the closure.
    fn run<'a>(&'a mut self, sql: Sql<'a>) -> Pin<Box<dyn Future<Output = Ran> + 'a>>;
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

/// Why a transaction with a group of writes came to nothing.
pub(super) enum Trouble {
    /// Called again one by one, they may fare better.
    Spoiled,
    /// They would not.
    Failed(DbError),
}

impl From<DbError> for Trouble {
    fn from(error: DbError) -> Trouble {
        Trouble::Failed(error)
    }
}

/// A closure, and what its caller will be told.
pub(super) struct Waiting<F, T, E> {
    namespace: Namespace,
    work: F,
    result: Option<thread::Result<Result<T, E>>>,
    reply: oneshot::Sender<thread::Result<Result<T, E>>>,
    _place: Place,
}

/// What a caller waits for.
pub(super) type Answer<T, E> = oneshot::Receiver<thread::Result<Result<T, E>>>;

impl<F, T, E> Waiting<F, T, E> {
    pub(super) fn new(namespace: Namespace, work: F, place: Place) -> (Waiting<F, T, E>, Answer<T, E>) {
        let (reply, answer) = oneshot::channel();
        (Waiting { namespace, work, result: None, reply, _place: place }, answer)
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

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run<'a>(&'a mut self, sql: Sql<'a>) -> Pin<Box<dyn Future<Output = Ran> + 'a>> {
        Box::pin(async {
            let mut tx = Tx::new(&self.namespace, sql);
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
        let result = match (committed, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => return, // abandoned
            (Err(error), _) => Ok(Err(error.into())),
        };
        let _ = self.reply.send(result); // fails if the caller has left
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

/// All who wait.
#[derive(Default)]
pub(super) struct Lines {
    lines: HashMap<Namespace, VecDeque<Box<dyn Write>>>,
    turns: VecDeque<Namespace>,
}

impl Lines {
    pub(super) fn push(&mut self, write: Box<dyn Write>) {
        match self.lines.get_mut(write.namespace()) {
            Some(line) => line.push_back(write),
            None => {
                let namespace = write.namespace().clone();
                self.turns.push_back(namespace.clone());
                self.lines.insert(namespace, VecDeque::from([write]));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// The first of the line whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Box<dyn Write>> {
        let namespace = self.next_line(|_| true)?;
        self.pop_of(&namespace)
    }

    /// The line whose turn it is among those that are `free`. It goes to the end of the turns.
    pub(super) fn next_line(&mut self, free: impl Fn(&Namespace) -> bool) -> Option<Namespace> {
        let place = self.turns.iter().position(free)?;
        let namespace = self.turns.remove(place)?;
        self.turns.push_back(namespace.clone());
        Some(namespace)
    }

    /// The first of a line.
    pub(super) fn pop_of(&mut self, namespace: &Namespace) -> Option<Box<dyn Write>> {
        let line = self.lines.get_mut(namespace)?;
        let write = line.pop_front();
        if line.is_empty() {
            self.lines.remove(namespace);
            self.turns.retain(|turn| turn != namespace);
        }
        write
    }
}
