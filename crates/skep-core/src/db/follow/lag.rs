//! How long what another process commits takes to be seen here.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// For how long the longest one is told.
const KEPT: Duration = Duration::from_secs(60);
/// A poll that has not succeeded for so long is late.
const LATE: Duration = Duration::from_secs(3 * super::POLL_INTERVAL.as_secs());

/// The longest time of the last minute, and for how long nobody could look.
#[derive(Debug, Default)]
pub(in crate::db) struct Lag(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    longest: Option<(Instant, Duration)>,
    /// When it was looked last for what others have committed. Nothing while nobody wants to know.
    looked: Option<Instant>,
}

impl Lag {
    /// An event was seen that had been committed so long before.
    pub(super) fn note(&self, lag: Duration, now: Instant) {
        let longest = &mut self.state().longest;
        if longest.is_none_or(|(at, known)| known <= lag || now.saturating_duration_since(at) > KEPT) {
            *longest = Some((now, lag));
        }
    }

    /// Everything that others have committed until now is known; `None`: nobody wants to know it any more.
    pub(super) fn looked(&self, now: Option<Instant>) {
        self.state().looked = now;
    }

    pub(super) fn get(&self, now: Instant) -> Option<Duration> {
        let State { longest, looked } = *self.state();
        let since = |at| now.saturating_duration_since(at);
        let longest = longest.filter(|(at, _)| since(*at) <= KEPT).map(|(_, lag)| lag);
        // A look that is late says that whatever is committed meanwhile is not seen.
        longest.max(looked.map(since).filter(|time| *time > LATE))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_the_last_minute_is_told() {
        let (lag, start) = (Lag::default(), Instant::now());
        let (second, ms) = (Duration::from_secs(1), Duration::from_millis(1));
        assert_eq!(lag.get(start), None);
        lag.note(second, start);
        lag.note(ms, start + second);
        assert_eq!(lag.get(start + KEPT), Some(second));
        assert_eq!(lag.get(start + KEPT + second), None);
        lag.note(ms, start + KEPT + second);
        assert_eq!(lag.get(start + KEPT + second), Some(ms));
    }

    #[test]
    fn what_nobody_could_look_for_counts_as_unseen() {
        let (lag, start) = (Lag::default(), Instant::now());
        let second = Duration::from_secs(1);
        lag.looked(Some(start));
        assert_eq!(lag.get(start + LATE), None, "between two looks");
        assert_eq!(lag.get(start + 20 * second), Some(20 * second));
        lag.note(second, start + 20 * second);
        assert_eq!(lag.get(start + 21 * second), Some(21 * second));
        lag.looked(Some(start + 21 * second));
        assert_eq!(lag.get(start + 22 * second), Some(second));
        lag.looked(None);
        assert_eq!(lag.get(start + 200 * second), None, "nobody follows");
    }
}
