//! Telling all who wait that something has ended.

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Poll, Waker},
};

use tokio::sync::Notify;

/// What `CancellationToken` of tokio-util is, without children. Every call looks several times at what may end it, on all
/// threads: here that takes no lock.
#[derive(Debug, Default)]
pub struct Cancel {
    is_cancelled: AtomicBool,
    waiting: Notify,
}

impl Cancel {
    /// End it, for good.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::SeqCst);
        self.waiting.notify_waiters();
    }

    /// Whether it has ended.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::SeqCst)
    }

    /// Wait until it has ended.
    pub async fn cancelled(&self) {
        let mut notified = pin!(self.waiting.notified()); // from here on nothing is missed
        let (mut is_first, mut woken) = (true, None::<Waker>);
        poll_fn(|cx| {
            if self.is_cancelled() {
                return Poll::Ready(());
            }
            // The same task looks again and again, and will be woken already.
            if woken.as_ref().is_some_and(|woken| woken.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            let ended = notified.as_mut().poll(cx);
            woken = (!is_first).then(|| cx.waker().clone()); // most wait once, and need no copy
            is_first = false;
            ended
        })
        .await;
    }

    /// Wait for this, but not longer; `None` if it was given up.
    pub async fn run_until_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.cancelled() => None,
            done = work => Some(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};
    use std::task::{Context, Wake};

    use futures_util::FutureExt as _;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_polled_last_is_woken_however_often_it_was_polled() {
        let cancel = Cancel::default();
        let woken: [Arc<Woken>; 3] = Default::default();
        let mut cancelled = pin!(cancel.cancelled());
        for who in [0, 0, 0, 1, 2, 2, 1, 1, 1] {
            let waker = Arc::clone(&woken[who]).into();
            assert!(cancelled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        cancel.cancel();
        assert_eq!(woken.map(|woken| woken.0.load(Ordering::Relaxed)), [0, 1, 0]);
        assert!(cancelled.now_or_never().is_some());
    }

    #[test]
    fn what_has_ended_before_or_meanwhile_is_seen() {
        let cancel = Cancel::default();
        let begun = cancel.cancelled();
        assert_eq!(cancel.run_until_cancelled(async { 7 }).now_or_never(), Some(Some(7)));
        cancel.cancel();
        assert!(cancel.is_cancelled() && begun.now_or_never().is_some() && cancel.cancelled().now_or_never().is_some());
        assert_eq!(cancel.run_until_cancelled(async { 7 }).now_or_never(), Some(None));
    }
}
