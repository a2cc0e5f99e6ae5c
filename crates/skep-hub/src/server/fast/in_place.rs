//! Work that wakes itself is done at once, where it is.
//!
//! A connection and what answers its request are one task, whose parts wake each other all the time: a body has come in, a
//! request can go out to a server, an answer is there. To the scheduler each of these is a task that became ready while
//! it ran: it puts it into a queue and wakes another thread to help. On a call that goes on to a server over HTTP that was one
//! thread woken in vain for each request, and the call's data moved between processors.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// How often work may go on like this before others have their turn.
const ROUNDS_MAX: u32 = 16;

/// Bits of [`Signal::state`]: it is at work; it was woken since the work began.
const WORKING: u8 = 1;
const WOKEN: u8 = 2;

/// Wakes the task, unless it is at work: then it goes on by itself.
#[derive(Default)]
struct Signal {
    task: AtomicWaker,
    state: AtomicU8,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Written even if it says nothing new: what was done before is seen by whoever reads it.
        if self.state.fetch_or(WOKEN, Ordering::AcqRel) & WORKING == 0 {
            self.task.wake();
        }
    }
}

/// The same work, but what it wakes in itself is worked on at once.
pub(crate) async fn in_place<F: Future>(work: F) -> F::Output {
    let signal = Arc::new(Signal::default());
    let waker = Waker::from(Arc::clone(&signal));
    let mut work = pin!(work);
    let one_turn = |cx: &mut Context<'_>| {
        signal.task.register(cx.waker());
        for _ in 0..ROUNDS_MAX {
            signal.state.swap(WORKING, Ordering::AcqRel);
            let result = work.as_mut().poll(&mut Context::from_waker(&waker));
            // From here on whoever wakes it wakes the task.
            let before = signal.state.swap(0, Ordering::AcqRel);
            if result.is_ready() || before & WOKEN == 0 {
                return result;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    };
    poll_fn(one_turn).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::task::noop_waker;

    use super::*;

    /// Counts how often the task is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes itself so often before it is ready.
    fn waking_itself(mut times: u32) -> impl Future<Output = ()> {
        poll_fn(move |cx| {
            if times == 0 {
                return Poll::Ready(());
            }
            times -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn what_wakes_itself_ends_without_the_scheduler() {
        let woken = Arc::new(Woken::default());
        let mut work = pin!(in_place(waking_itself(ROUNDS_MAX - 1)));
        assert!(work.as_mut().poll(&mut Context::from_waker(&Arc::clone(&woken).into())).is_ready());
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_wakes_itself_for_ever_lets_others_have_their_turn() {
        let woken = Arc::new(Woken::default());
        let mut work = pin!(in_place(waking_itself(u32::MAX)));
        assert!(work.as_mut().poll(&mut Context::from_waker(&Arc::clone(&woken).into())).is_pending());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_woken_from_outside_wakes_the_task_that_polled_it_last() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let woken = Arc::new(Woken::default());
        let mut work = pin!(in_place(receiver));
        assert!(work.as_mut().poll(&mut Context::from_waker(&noop_waker())).is_pending());
        assert!(work.as_mut().poll(&mut Context::from_waker(&Arc::clone(&woken).into())).is_pending());
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        sender.send(7).unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        let result = work.as_mut().poll(&mut Context::from_waker(&noop_waker()));
        assert_eq!(result, Poll::Ready(Ok(7)));
    }
}
