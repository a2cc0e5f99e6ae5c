//! A queue before a server that takes so many calls at once: callers get their turn one after the other, so that one
//! with a hundred calls holds nobody else up for longer than one of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Who waits; the empty name stands for everybody who gave none.
pub(super) type Caller = Arc<str>;

pub(super) struct Queue {
    state: Mutex<State>,
    waiting_max: usize,
}

struct State {
    free: usize,
    /// Callers that wait, the next one first.
    turns: VecDeque<Caller>,
    /// Their calls, the oldest first.
    waiting: HashMap<Caller, VecDeque<oneshot::Sender<Permit>>>,
    count: usize,
}

/// The right to make one call; given on when it is dropped.
pub(super) struct Permit(Arc<Queue>);

/// So many wait already.
#[derive(Debug)]
pub(super) struct Full(pub(super) usize);

impl Queue {
    pub(super) fn new(at_once: usize, waiting_max: usize) -> Arc<Queue> {
        let state = State { free: at_once, turns: VecDeque::new(), waiting: HashMap::new(), count: 0 };
        Arc::new(Queue { state: Mutex::new(state), waiting_max })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit, if nobody has to be waited for.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.state().take().then(|| Permit(Arc::clone(self)))
    }

    pub(super) async fn acquire(self: &Arc<Self>, caller: &Caller) -> Result<Permit, Full> {
        let turn = {
            let mut state = self.state();
            if state.take() {
                return Ok(Permit(Arc::clone(self)));
            }
            // Whoever went away is still counted until its turn comes; look before refusing.
            if state.count >= self.waiting_max {
                state.forget_gone();
            }
            if state.count >= self.waiting_max {
                return Err(Full(state.count));
            }
            let (permit, turn) = oneshot::channel();
            state.count += 1;
            let calls = state.waiting.entry(Arc::clone(caller)).or_default();
            calls.push_back(permit);
            if calls.len() == 1 {
                state.turns.push_back(Arc::clone(caller));
            }
            turn
        };
        turn.await.map_err(|_| Full(0))
    }

    /// Calls that wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().count
    }
}

impl State {
    /// Take a permit that nobody has.
    fn take(&mut self) -> bool {
        let is_free = self.free > 0;
        self.free -= usize::from(is_free);
        is_free
    }

    /// The call whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        let caller = self.turns.pop_front()?;
        let calls = self.waiting.get_mut(&caller)?;
        let call = calls.pop_front();
        if calls.is_empty() {
            self.waiting.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        self.count -= usize::from(call.is_some());
        call
    }

    fn forget_gone(&mut self) {
        for calls in self.waiting.values_mut() {
            calls.retain(|call| !call.is_closed());
        }
        self.waiting.retain(|_, calls| !calls.is_empty());
        let State { turns, waiting, .. } = self;
        turns.retain(|caller| waiting.contains_key(caller));
        self.count = self.waiting.values().map(VecDeque::len).sum();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.state();
            loop {
                match state.next() {
                    Some(call) if call.is_closed() => {}
                    Some(call) => break Some(call),
                    None => {
                        state.free += 1;
                        break None;
                    }
                }
            }
        };
        if let Some(call) = next {
            // Somebody who leaves just now drops the permit, and so gives it on.
            let _ = call.send(Permit(Arc::clone(&self.0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn caller(name: &str) -> Caller {
        name.into()
    }

    #[tokio::test]
    async fn callers_take_turns_and_who_left_is_passed_over() {
        let queue = Queue::new(1, 4);
        let permit = queue.acquire(&caller("a")).await.unwrap();
        let (a, b) = (caller("a"), caller("b"));
        let mut first = Box::pin(queue.acquire(&a));
        let mut second = Box::pin(queue.acquire(&a));
        let mut third = Box::pin(queue.acquire(&b));
        for waiting in [&mut first, &mut second, &mut third] {
            assert!(waiting.now_or_never().is_none());
        }
        drop(permit);
        let permit = first.now_or_never().expect("the one that waits longest").unwrap();
        assert!((&mut second).now_or_never().is_none());
        drop(permit);
        let permit = third.now_or_never().expect("the other caller's turn").unwrap();
        drop(second);
        drop(permit);
        assert_eq!((queue.waiting(), queue.state().free), (0, 1));
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_who_left_makes_room() {
        let queue = Queue::new(1, 1);
        let a = caller("a");
        let _permit = queue.acquire(&a).await.unwrap();
        let mut waits = Box::pin(queue.acquire(&a));
        assert!((&mut waits).now_or_never().is_none());
        assert!(queue.acquire(&a).await.is_err());
        drop(waits);
        assert!(queue.acquire(&a).now_or_never().is_none(), "it waits");
    }
}
