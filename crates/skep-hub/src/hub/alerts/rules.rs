//! When an alert is raised and cleared: decisions without I/O and clocks.
//!
//! Rates and times are those of the calls of the last [`WINDOW`], and say nothing with fewer than [`CALLS_MIN`]. An alert is
//! raised when its figure exceeds the threshold, and cleared when the figure was well below it for [`CALM_TIME`], so that one
//! that hovers around the threshold does not go on and off.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use skep_core::{Timestamp, db::RedisReport};

use crate::hub::calls::totals::Totals;

/// Calls of so long count.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Of fewer calls no rate is told.
pub(super) const CALLS_MIN: u64 = 20;
/// The part of the threshold down to which an alert stays.
const CLEAR_BELOW: f64 = 0.8;
/// For how long a figure must be below that.
const CALM_TIME: Duration = Duration::from_secs(15);

/// What can be wrong. The thresholds are those at which the contract has a deployment rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Calls that fail by the fault of the hub or of what it relies on, as a part of all calls.
    ErrorRate,
    /// The time in seconds that 95 % of the hub's own calls do not exceed.
    Latency,
    /// Memory that Redis uses, as a part of what it may use.
    RedisMemory,
    /// The time in seconds until what other hubs commit is seen here.
    SyncLag,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::ErrorRate, Kind::Latency, Kind::RedisMemory, Kind::SyncLag];

    /// Stable word for programs.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Kind::ErrorRate => "error_rate",
            Kind::Latency => "latency_p95",
            Kind::RedisMemory => "redis_memory",
            Kind::SyncLag => "sync_lag",
        }
    }

    /// What a figure has to exceed.
    pub(crate) fn threshold(self) -> f64 {
        match self {
            Kind::ErrorRate => 0.05,
            Kind::Latency => 0.5,
            Kind::RedisMemory => 0.8,
            Kind::SyncLag => 10.0,
        }
    }
}

/// The calls of the last while.
#[derive(Default)]
pub(super) struct Window(VecDeque<(Instant, Totals)>);

impl Window {
    /// The calls that have ended since the window began, by what all of them add up to now.
    pub(super) fn recent(&mut self, totals: Totals, now: Instant) -> Totals {
        self.0.push_back((now, totals));
        // The newest of those that are old enough is where the window begins.
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.0.pop_front();
        }
        self.0.front().map(|(_, first)| totals.since(first)).unwrap_or_default()
    }
}

/// The figures, in the order of [`Kind::ALL`]; nothing where there is nothing to tell.
pub(super) fn figures(recent: &Totals, redis: Option<&RedisReport>, sync_lag: Option<Duration>) -> [Option<f64>; 4] {
    let is_enough = |calls: u64| calls >= CALLS_MIN;
    let memory = redis.filter(|redis| redis.is_connected && redis.memory_bytes_max > 0);
    [
        is_enough(recent.calls).then(|| recent.faults as f64 / recent.calls as f64),
        is_enough(recent.timed()).then(|| recent.quantile(0.95)),
        memory.map(|redis| redis.memory_bytes as f64 / redis.memory_bytes_max as f64),
        sync_lag.map(|lag| lag.as_secs_f64()),
    ]
}

/// How an alert is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum State {
    #[default]
    Clear,
    Raised {
        since: Timestamp,
        /// What was measured last.
        value: f64,
        /// Since when the figure has been well below the threshold.
        calm_since: Option<Instant>,
    },
}

impl State {
    /// How it is with this figure.
    pub(super) fn next(self, figure: Option<f64>, threshold: f64, now: Instant, at: Timestamp) -> State {
        match self {
            State::Clear => match figure.filter(|value| *value > threshold) {
                Some(value) => State::Raised { since: at, value, calm_since: None },
                None => State::Clear,
            },
            State::Raised { since, value, calm_since } => {
                let is_calm = figure.is_none_or(|value| value <= threshold * CLEAR_BELOW);
                let calm_since = if is_calm { calm_since.or(Some(now)) } else { None };
                match calm_since {
                    Some(calm) if now.saturating_duration_since(calm) >= CALM_TIME => State::Clear,
                    _ => State::Raised { since, value: figure.unwrap_or(value), calm_since },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn totals(calls: u64, faults: u64) -> Totals {
        let mut totals = Totals::default();
        (totals.calls, totals.faults) = (calls, faults);
        totals
    }

    #[test]
    fn a_rate_is_that_of_the_last_minute() {
        let (mut window, start) = (Window::default(), Instant::now());
        assert_eq!(
            window.recent(totals(1000, 900), start),
            totals(0, 0),
            "what was before the first look is not known"
        );
        assert_eq!(window.recent(totals(1010, 905), start + 2 * SECOND), totals(10, 5));
        assert_eq!(window.recent(totals(1040, 905), start + WINDOW), totals(40, 5));
        assert_eq!(window.recent(totals(1040, 905), start + WINDOW + 2 * SECOND), totals(30, 0));
        for second in 0..1000 {
            window.recent(totals(2000, 905), start + second * SECOND);
        }
        assert!(window.0.len() < 70, "{}", window.0.len());
    }

    #[test]
    fn few_calls_say_nothing() {
        let rate = |calls, faults| figures(&totals(calls, faults), None, None)[0];
        assert_eq!((rate(2, 1), rate(CALLS_MIN - 1, 9), rate(CALLS_MIN, 2)), (None, None, Some(0.1)));
    }

    #[test]
    fn redis_without_a_limit_or_a_connection_is_never_too_full() {
        let mut redis = RedisReport::default();
        (redis.memory_bytes, redis.memory_bytes_max, redis.is_connected) = (90, 100, true);
        let part = |redis: &RedisReport| figures(&Totals::default(), Some(redis), None)[2];
        assert_eq!(part(&redis), Some(0.9));
        redis.memory_bytes_max = 0;
        assert_eq!(part(&redis), None);
        (redis.memory_bytes_max, redis.is_connected) = (100, false);
        assert_eq!(part(&redis), None);
    }

    /// The seconds at which an alert changes, with a figure for each second.
    fn changes(figures: impl IntoIterator<Item = Option<f64>>) -> Vec<(usize, bool)> {
        let (start, mut state, mut changes) = (Instant::now(), State::Clear, Vec::new());
        for (second, figure) in figures.into_iter().enumerate() {
            let now = start + Duration::from_secs(second as u64);
            let next = state.next(figure, 10.0, now, Timestamp(second as i64));
            if (next == State::Clear) != (state == State::Clear) {
                changes.push((second, next != State::Clear));
            }
            state = next;
        }
        changes
    }

    #[test]
    fn an_alert_is_raised_at_once_and_cleared_when_it_has_been_calm_for_a_while() {
        let calm = CALM_TIME.as_secs() as usize;
        let figures = [vec![Some(10.0); 3], vec![Some(10.1); 2], vec![Some(8.0); 60]].concat();
        assert_eq!(changes(figures), [(3, true), (5 + calm, false)]);
        let silent = [vec![Some(11.0)], vec![None; 60]].concat();
        assert_eq!(changes(silent), [(0, true), (1 + calm, false)], "nothing to measure is calm");
    }

    #[test]
    fn a_figure_around_the_threshold_does_not_flap() {
        let around = (0..300).map(|second| Some(if second % 2 == 0 { 10.5 } else { 9.5 }));
        assert_eq!(changes(around), [(0, true)]);
        let dips = (0..300).map(|second| Some(if second % 10 == 0 { 10.5 } else { 0.0 }));
        assert_eq!(changes(dips), [(0, true)]);
    }

    #[test]
    fn a_raised_alert_tells_its_beginning_and_its_last_figure() {
        let now = Instant::now();
        let raised = State::Clear.next(Some(11.0), 10.0, now, Timestamp(1));
        let later = raised.next(Some(12.0), 10.0, now + SECOND, Timestamp(2));
        assert_eq!(later, State::Raised { since: Timestamp(1), value: 12.0, calm_since: None });
    }
}
