//! Writes that wait, in a queue for each namespace. The queues take turns, so that a namespace with many writes does not
//! delay the others.
//!
//! The queues need no bound of their own: each entry holds a [`Place`], and there are only so many.

use std::{
    any::{Any, TypeId},
    collections::VecDeque,
    iter::once,
    marker::PhantomData,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use foldhash::HashMap;
use futures_util::FutureExt;
use tokio::{sync::oneshot, time::timeout};

use super::{DbError, Scope, Sql, Tx, admission::Place, failed};
use crate::{
    Namespace,
    event::{Event, EventActor},
};

/// So many of a queue are looked at for those that can be done together. Whoever then stands first is next.
const LOOK_MAX: usize = 256;

/// What a writer finds in its queue.
pub(super) enum Job<T> {
    Do(T),
    Stop,
}

/// What a write does.
///
/// Operations of one type that wait in a queue are done together, if the type allows it, with fewer statements than one
/// after the other. Nobody can tell, even if they overtake others: as long as none of them is committed, they are
/// concurrent.
pub(crate) trait Operation: Send + 'static {
    /// What its caller is told once it is durable.
    type Output: Send + 'static;
    /// Why nothing was done.
    type Error: From<DbError> + Send + 'static;
    /// Whether several can be done together.
    const TOGETHER: bool;

    /// Do all of these. Gives an output for each, in their order. An error undoes all of them; then each is done by
    /// itself, so that it fails for its own reasons alone.
    async fn run(tx: &mut Tx<'_>, all: &[&Self]) -> Result<Vec<Self::Output>, Self::Error>;
}

/// The operation that calls a closure.
pub(super) struct Call<F, T, E> {
    actor: Option<EventActor>,
    work: F,
    gives: PhantomData<fn() -> Result<T, E>>,
}

impl<F, T, E> Call<F, T, E> {
    pub(super) fn new(actor: Option<EventActor>, work: F) -> Call<F, T, E> {
        Call { actor, work, gives: PhantomData }
    }
}

impl<F, T, E> Operation for Call<F, T, E>
where
    F: AsyncFn(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<DbError> + Send + 'static,
{
    type Output = T;
    type Error = E;
    const TOGETHER: bool = false;

    async fn run(tx: &mut Tx<'_>, all: &[&Self]) -> Result<Vec<T>, E> {
        let mut outputs = Vec::with_capacity(all.len());
        for one in all {
            tx.act_for(one.actor.as_ref());
            outputs.push((one.work)(tx).await?);
        }
        Ok(outputs)
    }
}

/// A write that waits. A trait, because each has another operation and another answer.
pub(super) trait Write: Any + Send {
    /// Whose rows and events it is about.
    fn namespace(&self) -> &Namespace;
    /// The type of its operation, if it can be done together with others of this type.
    fn kind(&self) -> Option<TypeId>;
    /// Begin it. `false` if it is not to be done: its caller has left, or has waited too long.
    fn begin(&self) -> bool;
    /// Do it, together with those of the `others` that somebody needs done. They are of the same kind and namespace.
    fn run<'a>(
        &'a mut self,
        others: &'a mut [Box<dyn Write>],
        sql: Sql<'a>,
        scope: Scope,
    ) -> Pin<Box<dyn Future<Output = Ran> + 'a>>;
    /// Instead of what the operation said, if it said anything: this.
    fn refuse(&mut self, error: DbError);
    /// Tell the caller, now that it is known whether it was committed.
    fn answer(self: Box<Self>, committed: Result<(), DbError>);
}

/// What became of one operation, or of several that were done together.
pub(super) enum Ran {
    /// It shall count, with these events.
    Keep(Vec<Event>),
    /// It shall not, and did it change anything so far?
    Undo { changed: bool },
}

/// An operation, and what its caller will be told.
pub(super) struct Waiting<O: Operation> {
    namespace: Namespace,
    operation: O,
    result: Option<Said<O::Output, O::Error>>,
    reply: oneshot::Sender<Said<O::Output, O::Error>>,
    start: Start,
    place: Place,
}

/// What an operation said, or its panic.
type Said<T, E> = thread::Result<Result<T, E>>;

/// What a caller waits for.
pub(super) struct Answer<T, E> {
    answer: oneshot::Receiver<Said<T, E>>,
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

impl<O: Operation> Waiting<O> {
    pub(super) fn new(namespace: Namespace, operation: O, place: Place) -> (Waiting<O>, Answer<O::Output, O::Error>) {
        let ((reply, answer), start) = (oneshot::channel(), Start::default());
        let waiting = Waiting { namespace, operation, result: None, reply, start: start.clone(), place };
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

impl<O: Operation> Write for Waiting<O> {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn kind(&self) -> Option<TypeId> {
        O::TOGETHER.then(TypeId::of::<O>)
    }

    fn begin(&self) -> bool {
        (self.start.has_begun() || !self.reply.is_closed()) && self.start.begin()
    }

    fn run<'a>(
        &'a mut self,
        others: &'a mut [Box<dyn Write>],
        sql: Sql<'a>,
        scope: Scope,
    ) -> Pin<Box<dyn Future<Output = Ran> + 'a>> {
        Box::pin(async move {
            let others = others.iter_mut().filter_map(|other| (&mut **other as &mut dyn Any).downcast_mut());
            let mut all: Vec<&mut Waiting<O>> =
                once(self).chain(others.filter(|other: &&mut Self| other.begin())).collect();
            let mut tx = Tx::new(scope, sql);
            let operations: Vec<&O> = all.iter().map(|waiting| &waiting.operation).collect();
            let said = AssertUnwindSafe(O::run(&mut tx, &operations)).catch_unwind().await;
            match (said.map(|said| tx.finish(said)), &mut *all) {
                (Ok(Ok(outputs)), all) => {
                    for (waiting, output) in all.iter_mut().zip(outputs) {
                        waiting.result = Some(Ok(Ok(output)));
                    }
                    Ran::Keep(tx.events)
                }
                (Ok(Err(error)), [alone]) => {
                    alone.result = Some(Ok(Err(error)));
                    Ran::Undo { changed: tx.changed }
                }
                (Err(panic), [alone]) => {
                    alone.result = Some(Err(panic));
                    Ran::Undo { changed: tx.changed }
                }
                // Whose failure it was shows when each is done by itself.
                (_, _) => Ran::Undo { changed: true },
            }
        })
    }

    fn refuse(&mut self, error: DbError) {
        self.result = Some(Ok(Err(error.into())));
    }

    fn answer(self: Box<Self>, committed: Result<(), DbError>) {
        let Waiting { operation, result, reply, place, .. } = *self;
        let result = match (committed, result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => return, // nobody needed it
            (Err(error), _) => Ok(Err(error.into())),
        };
        // Whoever hears its answer has room for its next write.
        drop((operation, place));
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
        self.extend(once(write));
    }

    pub(super) fn extend(&mut self, writes: impl IntoIterator<Item = Box<dyn Write>>) {
        let mut writes = writes.into_iter().peekable();
        while let Some(first) = writes.next() {
            let namespace = first.namespace().clone();
            let queue = self.queues.entry(namespace.clone()).or_insert_with(|| {
                self.turns.push_back(namespace.clone());
                VecDeque::new()
            });
            queue.push_back(first);
            // Most of those that come at the same time are of one namespace.
            while let Some(next) = writes.next_if(|next| *next.namespace() == namespace) {
                queue.push_back(next);
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

    /// Add to a group those of its namespace's queue that can be done together with its last, until it has so many.
    pub(super) fn add_like(&mut self, group: &mut Vec<Box<dyn Write>>, group_max: usize) {
        let Some(last) = group.last() else { return };
        let (Some(kind), namespace) = (last.kind(), last.namespace().clone()) else { return };
        let Some(queue) = self.queues.get_mut(&namespace) else { return };
        let seen = queue.len().min(LOOK_MAX);
        let mut others = Vec::new();
        for write in queue.drain(..seen) {
            if group.len() < group_max && write.kind() == Some(kind) {
                group.push(write);
            } else {
                others.push(write);
            }
        }
        others.into_iter().rev().for_each(|write| queue.push_front(write));
        if queue.is_empty() {
            self.remove(&namespace);
        }
    }

    /// The first of a namespace's queue.
    pub(super) fn pop_of(&mut self, namespace: &Namespace) -> Option<Box<dyn Write>> {
        let queue = self.queues.get_mut(namespace)?;
        let write = queue.pop_front();
        if queue.is_empty() {
            self.remove(namespace);
        }
        write
    }

    fn remove(&mut self, namespace: &Namespace) {
        self.queues.remove(namespace);
        self.turns.retain(|turn| turn != namespace);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier, atomic::AtomicBool};

    use tokio::task::block_in_place;

    use super::*;
    use crate::db::{Db, Limits, admission::Admission};

    /// Says with how many it was done; some cannot be.
    struct Count {
        fails: bool,
    }

    impl Operation for Count {
        type Output = usize;
        type Error = DbError;
        const TOGETHER: bool = true;

        async fn run(_: &mut Tx<'_>, all: &[&Count]) -> Result<Vec<usize>, DbError> {
            if all.iter().any(|one| one.fails) {
                return Err(DbError::Busy("on purpose"));
            }
            Ok(vec![all.len(); all.len()])
        }
    }

    /// Stand in line behind a write that stays until all of these do.
    async fn together(db: &Db, operations: [Count; 3]) -> Vec<Result<usize, DbError>> {
        let (team, barrier) = (Namespace::team("n"), Arc::new(Barrier::new(2)));
        let (stays, is_first) = (Arc::clone(&barrier), AtomicBool::new(true));
        let held = async move |_: &mut Tx<'_>| {
            if is_first.swap(false, Ordering::SeqCst) {
                stays.wait(); // it has begun
                stays.wait(); // it may go on
            }
            Ok::<_, DbError>(())
        };
        let held = db.write_as_hub(&team, held);
        let others = async {
            block_in_place(|| barrier.wait());
            let all = operations.map(|operation| db.perform(&team, 0, operation));
            tokio::join!(futures_util::future::join_all(all), async {
                block_in_place(|| barrier.wait());
            })
            .0
        };
        let (held, said) = tokio::join!(held, others);
        held.unwrap();
        said
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_stands_between_two_of_a_kind_does_not_keep_them_from_being_done_together() {
        let (admission, mut queues) = (Arc::new(Admission::new(10, 10)), Queues::default());
        let team = Namespace::team("n");
        let mut answers = Vec::new();
        let mut push = |namespace: &Namespace, is_count: bool| {
            let place = admission.enter(namespace, 0).unwrap();
            if is_count {
                let (write, answer) = Waiting::new(namespace.clone(), Count { fails: false }, place);
                queues.push(Box::new(write));
                answers.push(answer);
            } else {
                let call = Call::new(None, async |_: &mut Tx<'_>| Ok::<_, DbError>(()));
                queues.push(Box::new(Waiting::new(namespace.clone(), call, place).0));
            }
        };
        for is_count in [true, false, true, false, true] {
            push(&team, is_count);
        }
        push(&Namespace::team("other"), true);
        let mut group = vec![queues.pop_of(&team).unwrap()];
        queues.add_like(&mut group, 2);
        let are_counts =
            |group: &[Box<dyn Write>]| group.iter().map(|write| write.kind().is_some()).collect::<Vec<_>>();
        assert_eq!(are_counts(&group), [true, true], "no more than the group may have");
        let rest: Vec<_> = std::iter::from_fn(|| queues.pop_of(&team)).collect();
        assert_eq!(are_counts(&rest), [false, false, true], "the others are in their order");
        assert!(queues.pop().is_some() && queues.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn neighbours_of_one_kind_are_done_together_and_alone_if_one_of_them_fails() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", directory.path().join("hub.db").display());
        let db = Db::open(&address, Limits::default()).await.unwrap();
        let said = together(&db, [false; 3].map(|fails| Count { fails })).await;
        assert!(said.iter().all(|said| matches!(said, Ok(3))), "{said:?}");
        let said = together(&db, [false, true, false].map(|fails| Count { fails })).await;
        assert!(matches!(&*said, [Ok(1), Err(DbError::Busy("on purpose")), Ok(1)]), "{said:?}");
    }
}
