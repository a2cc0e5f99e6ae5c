//! Timers that are set for every call and hardly ever ring.
//!
//! Setting one and taking it back is a lock each in the runtime, which all threads share, and a search for its place. So a
//! timer is kept, set to whatever it was last used for, and set anew when it rings too early.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that are kept while nobody uses them. Each holds on to the task that it was last used by, until it rings.
const KEPT_MAX: usize = 64;

/// A timer that is used again and again. It belongs to the runtime in which it was made.
#[derive(Debug)]
pub struct Timer(Pin<Box<Sleep>>);

impl Timer {
    /// A timer that will ring then at the earliest.
    pub fn new(deadline: Instant) -> Timer {
        Timer(Box::pin(sleep_until(deadline)))
    }

    /// Ready at the deadline, which may be another each time.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.0.deadline() > deadline {
            self.0.as_mut().reset(deadline);
        }
        loop {
            ready!(self.0.as_mut().poll(cx));
            if self.0.deadline() >= deadline {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(deadline);
        }
    }
}

/// Timers that nobody uses.
#[derive(Debug, Default)]
pub(crate) struct Timers(Mutex<Vec<Timer>>);

impl Timers {
    fn kept(&self) -> MutexGuard<'_, Vec<Timer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for something, but not for longer; `None` if it was given up.
    pub(crate) async fn timeout<T>(&self, time_max: Duration, work: impl Future<Output = T>) -> Option<T> {
        let deadline = Instant::now() + time_max;
        self.wait_until(deadline, || deadline, pin!(work)).await
    }

    /// The same until a deadline; when it has come, there may be a `later` one. The work stays where it is: it may be large.
    pub(crate) async fn wait_until<T>(
        &self,
        mut until: Instant,
        mut later: impl FnMut() -> Instant,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let mut timer = self.kept().pop().unwrap_or_else(|| Timer::new(until));
        let done = poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            loop {
                ready!(timer.poll_until(cx, until));
                let before = std::mem::replace(&mut until, later());
                if until <= before {
                    return Poll::Ready(None);
                }
            }
        })
        .await;
        let mut kept = self.kept();
        if kept.len() < KEPT_MAX {
            kept.push(timer);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_timer_that_was_used_before_rings_in_time_and_not_before() {
        let timers = Timers::default();
        for time_max in [LONG, SHORT, SHORT / 2, LONG, SHORT * 2] {
            assert_eq!(timers.timeout(time_max, async { 7 }).await, Some(7));
            let begun = Instant::now();
            assert_eq!(timers.timeout(time_max.min(SHORT * 2), pending::<()>()).await, None);
            assert!(begun.elapsed() >= time_max.min(SHORT * 2));
        }
        assert_eq!(timers.kept().len(), 1, "it is the same all the time");
    }

    #[tokio::test]
    async fn a_deadline_that_moves_is_kept_where_it_is_then() {
        let (begun, mut times) = (Instant::now(), 1);
        let later = || {
            times = (times + 1).min(4);
            begun + SHORT * times
        };
        assert_eq!(Timers::default().wait_until(begun + SHORT, later, pin!(pending::<()>())).await, None);
        assert!(begun.elapsed() >= SHORT * 4);
    }
}
