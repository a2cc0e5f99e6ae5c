//! The store's time.
//!
//! Operations ask their transaction what time it is ([`super::Tx::now`]) and not their hub, because hubs that share a
//! database must agree on when a lease ends, and a reading that was taken before the operation queued is old.
//!
//! - On PostgreSQL it is the server's time: this process's monotonic clock plus an offset that is measured with every
//!   group of writes. The hub's wall clock does not matter.
//! - On SQLite it is the wall clock, which all processes with the same file share. Small corrections never take
//!   it backwards. A clock that was set is followed, but not trusted for [`UNSTEADY_TIME`].
//!
//! A reading carries how far it may be off ([`Now::error`]). Whoever takes something away because a time has passed
//! allows for that ([`Now::surely`]).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crate::Timestamp;

/// How far the wall clock and the monotonic one may drift apart between two readings before the wall clock counts as set.
const STEP_MIN: Duration = Duration::from_secs(1);
/// How long a clock that was set is not trusted: longer than anything is held without being renewed.
const UNSTEADY_TIME: Duration = Duration::from_secs(15);
/// How much two monotonic clocks may drift apart: a second in this many.
const DRIFT: u32 = 2_000;

/// Where the store's time comes from. The default is the real time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicI64>>,
    /// How far off a manual clock says that it may be.
    error: Duration,
    /// Microseconds that the wall clock is ahead.
    skew: i64,
}

impl Clock {
    /// A clock that stands still until it is [`Clock::set`].
    pub fn manual(at: Timestamp) -> Clock {
        Clock { manual: Some(Arc::new(AtomicI64::new(at.0))), ..Clock::default() }
    }

    /// The same manual clock, which may be so far off, in either direction.
    pub fn unsure(self, error: Duration) -> Clock {
        Clock { error, ..self }
    }

    /// The real time of a machine whose wall clock is so many microseconds ahead, or behind.
    pub fn skewed(ahead_us: i64) -> Clock {
        Clock { skew: ahead_us, ..Clock::default() }
    }

    /// Set a manual clock, and all its clones; the real time cannot be set.
    pub fn set(&self, at: Timestamp) {
        if let Some(manual) = &self.manual {
            manual.store(at.0, Ordering::SeqCst);
        }
    }
}

/// A reading of the store's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The best estimate.
    pub at: Timestamp,
    /// How far it may be off, in either direction.
    pub error: Duration,
}

impl Now {
    /// A moment that has passed for certain, whichever hub is asked.
    pub fn surely(&self) -> Timestamp {
        self.at.before(self.error)
    }

    /// Time until a moment; none if it has passed.
    pub fn until(&self, moment: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(moment.0.saturating_sub(self.at.0)).unwrap_or(0))
    }
}

/// The time of one open store.
pub(super) struct Time {
    source: Source,
    /// Microseconds that the wall clock is ahead.
    skew: i64,
    began: Instant,
}

enum Source {
    Manual(Arc<AtomicI64>, Duration),
    Wall(Mutex<Wall>),
    Server(Mutex<Server>),
}

impl Time {
    /// The time of the machine's wall clock.
    pub(super) fn of_wall(clock: &Clock) -> Time {
        Time::new(clock, Source::Wall(Mutex::default()))
    }

    /// The time of a server, which is yet to be measured.
    pub(super) fn of_server(clock: &Clock) -> Time {
        Time::new(clock, Source::Server(Mutex::default()))
    }

    fn new(clock: &Clock, source: Source) -> Time {
        let source = clock.manual.as_ref().map_or(source, |manual| Source::Manual(Arc::clone(manual), clock.error));
        Time { source, skew: clock.skew, began: Instant::now() }
    }

    pub(super) fn now(&self) -> Now {
        match &self.source {
            Source::Manual(at, error) => Now { at: Timestamp(at.load(Ordering::SeqCst)), error: *error },
            Source::Wall(wall) => lock(wall).read(Timestamp(wall_clock().0 + self.skew), self.began.elapsed()),
            Source::Server(server) => lock(server).read(self.began.elapsed()),
        }
    }

    /// Learn from an answer of the server, which said that it was `server` o'clock between these two moments.
    pub(super) fn learn(&self, server: Timestamp, sent: Instant, received: Instant) {
        if let Source::Server(known) = &self.source {
            let since = |moment: Instant| moment.saturating_duration_since(self.began);
            lock(known).learn(server, since(sent), since(received));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the store owns time")]
fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(since.map_or(0, micros))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The wall clock, checked against the monotonic one.
#[derive(Debug, Default)]
struct Wall {
    /// The last reading of both.
    last: Option<(Timestamp, Duration)>,
    /// When the clock was last set, and how far.
    step: Option<(Duration, Duration)>,
}

impl Wall {
    fn read(&mut self, wall: Timestamp, counted: Duration) -> Now {
        let mut at = wall;
        if let Some((before, then)) = self.last {
            let expected = before.after(counted.saturating_sub(then));
            let off = Duration::from_micros(wall.0.abs_diff(expected.0));
            if off >= STEP_MIN {
                tracing::warn!(seconds = off.as_secs(), "the clock was set; nothing is taken over for a while");
                let earlier = self.unsteady(counted).unwrap_or_default();
                self.step = Some((counted, off.saturating_add(earlier)));
            } else {
                at = wall.max(before);
            }
        }
        self.last = Some((at, counted));
        Now { at, error: self.unsteady(counted).unwrap_or_default() }
    }

    fn unsteady(&self, counted: Duration) -> Option<Duration> {
        let (since, off) = self.step?;
        (counted.saturating_sub(since) < UNSTEADY_TIME).then_some(off)
    }
}

/// What is known of a server's clock.
#[derive(Debug, Default)]
struct Server {
    /// The server's time at a moment of ours, and how far it may be off.
    known: Option<(Timestamp, Duration, Duration)>,
    last: Option<Timestamp>,
}

impl Server {
    fn estimate(&self, counted: Duration) -> Now {
        let Some((at, then, error)) = self.known else { return Now { at: Timestamp(0), error: Duration::MAX } };
        let passed = counted.saturating_sub(then);
        Now { at: at.after(passed), error: error + passed / DRIFT }
    }

    fn read(&mut self, counted: Duration) -> Now {
        let now = self.estimate(counted);
        // A better measurement may take the estimate back a little, within its error; the time does not follow.
        let at = self.last.filter(|last| last.0 - now.at.0 <= micros(STEP_MIN)).map_or(now.at, |last| last.max(now.at));
        self.last = Some(at);
        Now { at, ..now }
    }

    fn learn(&mut self, server: Timestamp, sent: Duration, received: Duration) {
        let error = received.saturating_sub(sent) / 2;
        let middle = sent + error;
        let known = self.estimate(middle);
        let off = Duration::from_micros(server.0.abs_diff(known.at.0));
        let contradicts = off > error.saturating_add(known.error);
        if error <= known.error || contradicts {
            self.known = Some((server, middle, error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000_000_000);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_was_set_is_followed_but_not_trusted_for_a_while() {
        for step_s in [-3600, -2, 2, 3600] {
            let mut wall = Wall::default();
            // What the wall clock shows so many seconds after the start, having been set after the fifth.
            let mut read = |seconds: u64| {
                let set = if seconds > 5 { step_s * 1_000_000 } else { 0 };
                let shown = Timestamp(START.after(s(seconds)).0 + set);
                let now = wall.read(shown, s(seconds));
                assert_eq!(now.at, shown);
                now.error
            };
            let errors: Vec<Duration> = [0, 3, 6, 9, 12, 15, 18, 21].map(&mut read).to_vec();
            let off = s(u64::try_from(step_s.abs()).unwrap());
            let zero = Duration::ZERO;
            assert_eq!(errors, [zero, zero, off, off, off, off, off, zero], "{step_s}");
        }
    }

    #[test]
    fn small_corrections_never_take_the_time_back() {
        let (mut wall, mut before) = (Wall::default(), Timestamp(0));
        for n in 0..60_u64 {
            let correction = if n % 2 == 0 { 400_000 } else { -400_000 };
            let shown = Timestamp(START.after(Duration::from_millis(n * 300)).0 + correction);
            let now = wall.read(shown, Duration::from_millis(n * 300));
            assert!(now.at >= before && now.error == Duration::ZERO, "{now:?}");
            before = now.at;
        }
    }

    #[test]
    fn the_servers_time_goes_on_between_measurements_and_its_error_grows() {
        let mut server = Server::default();
        assert_eq!(server.read(s(1)).error, Duration::MAX, "nothing is known yet");
        server.learn(START, s(10), s(10) + Duration::from_millis(4));
        let now = server.read(s(70));
        assert_eq!(now.at, START.after(s(60) - Duration::from_millis(2)));
        assert!(now.error > Duration::from_millis(2) && now.error < Duration::from_millis(40), "{now:?}");
    }

    #[test]
    fn a_slow_answer_teaches_nothing_and_a_contradiction_counts() {
        let mut server = Server::default();
        server.learn(START, s(10), s(10));
        server.learn(START.after(s(4)), s(10), s(18)); // between 10 and 18: no contradiction, and imprecise
        assert_eq!(server.read(s(20)).at, START.after(s(10)));
        server.learn(START.after(s(500)), s(20), s(21)); // the server's clock was set
        assert_eq!(server.read(s(21)).at, START.after(s(500) + Duration::from_millis(500)));
    }

    #[test]
    fn a_better_measurement_does_not_take_the_time_back() {
        let mut server = Server::default();
        server.learn(START, s(10), s(11));
        let before = server.read(s(11)).at;
        server.learn(START.after(Duration::from_millis(100)), s(11), s(11));
        assert_eq!(server.read(s(11)).at, before);
        assert!(server.read(s(12)).at > before);
    }

    #[test]
    fn what_has_surely_passed_allows_for_the_error() {
        let now = Now { at: Timestamp(5_000_000), error: s(2) };
        assert_eq!(now.surely(), Timestamp(3_000_000));
    }
}
