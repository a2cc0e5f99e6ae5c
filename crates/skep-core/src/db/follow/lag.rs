//! How long what another process commits takes to be seen here.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// For how long the longest one is told.
const KEPT: Duration = Duration::from_secs(60);

/// The longest time of the last minute.
#[derive(Debug, Default)]
pub(in crate::db) struct Lag(Mutex<Option<(Instant, Duration)>>);

impl Lag {
    pub(super) fn note(&self, lag: Duration, now: Instant) {
        let mut longest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if longest.is_none_or(|(at, known)| known <= lag || now.saturating_duration_since(at) > KEPT) {
            *longest = Some((now, lag));
        }
    }

    pub(super) fn get(&self, now: Instant) -> Option<Duration> {
        let longest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        longest.filter(|(at, _)| now.saturating_duration_since(*at) <= KEPT).map(|(_, lag)| lag)
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
}
