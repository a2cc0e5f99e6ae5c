//! When the process of a slot is started, used, questioned and stopped: the decisions alone.
//!
//! ```text
//!              wanted                    started
//! Stopped ────────────────▶ Starting ──────────────▶ Running
//!  ▲   │                     ▲    │                     │
//!  │   │ wanted, but the     │    │ failed: wait,       │ idle, died, or
//!  │   │ one before has      │    │ longer each time;   │ the slot is closed
//!  │   ▼ not exited yet      │    │ five times: 5 min   │
//!  │  Queued ────────────────┘    │                     │
//!  └──────────────────────────────┴─────────────────────┘
//! ```
//!
//! There is no I/O here, no clock and no lock. [`Lifecycle::on`] is told what happened and answers with what to do next,
//! which is at most one thing; the slot in `pool` does it, and reports what came of it as further events. So any order of
//! events can be tested, in microseconds.
//!
//! Each start has a number. What is reported of an earlier process, late, changes nothing for the one that runs now.

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::time::{Duration, Instant};

use super::State;

/// Before the second start in a row; doubled for each one after. The first one may be made at once.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest such time.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A server that did not come up so often in a row is left alone.
const QUARANTINE_AFTER: u32 = 5;
/// For so long.
const QUARANTINE_TIME: Duration = Duration::from_secs(300);
/// A process that lived so long did not die of its start.
const STABLE_TIME: Duration = Duration::from_secs(60);
/// How often a process is asked whether it is alive before it counts as hung.
const QUESTIONS_MAX: u32 = 3;
/// Idle times are not shorter.
const IDLE_TIME_MIN: Duration = Duration::from_millis(10);

/// The decisions about one slot: the place of one process, or of one connection.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lifecycle {
    idle_time_max: Duration,
    phase: Phase,
    /// The process that takes no calls any more and has not exited. The next one starts when it has.
    leaving: Option<Incarnation>,
    closing: Closing,
    /// Calls that have begun and not ended, whatever they wait for.
    calls: usize,
    is_watched: bool,
    /// When the last call ended or, later than that, the process came up.
    last_used: Instant,
    starts: u64,
    /// Failed starts and early deaths in a row.
    failures: u32,
    /// Failed starts in a row.
    unstarted: u32,
    /// No start before this.
    retry_at: Option<Instant>,
    /// The last start failed because nobody has logged in.
    needs_login: bool,
}

/// One process of a slot, by the number of its start: 1 is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Incarnation(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Stopped,
    /// Calls wait for a start, and the start for the exit of the process before.
    Queued,
    Starting(Incarnation),
    Running {
        incarnation: Incarnation,
        since: Instant,
        health: Health,
    },
}

/// What is known of whether a process that runs is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// There is no reason for doubt.
    Good,
    /// It was asked, and did not answer so many times before.
    Asked { unanswered: u32 },
    /// It was given up.
    Hung,
}

/// How far the end of the slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// No call begins. Those that have begun may end.
    Draining,
    /// Nothing is waited for.
    Over,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A call begins to use the slot. It may have to wait for its turn before it needs the process.
    CallBegan,
    /// A call that had begun has ended, or its caller has left.
    CallEnded,
    /// A call that had begun needs the process now.
    Wanted,
    /// The process is up.
    Started(Incarnation),
    /// The process did not come up, and nothing of it is left.
    Unstarted(Incarnation, Cause),
    /// The process or its connection has ended by itself. It may not have exited yet.
    Died(Incarnation),
    /// Nothing of the process is left.
    Exited(Incarnation),
    /// A call to the process was not answered in time.
    CallTimedOut(Incarnation),
    /// It has answered whether it is alive.
    Answered(Incarnation),
    /// It has not.
    Unanswered(Incarnation),
    /// Whether somebody wants to hear of changes of a resource. Such a server is not idle.
    Watched(bool),
    /// The time of [`Lifecycle::idle_in`] has passed.
    IdleTimer,
    /// The slot is to end after its calls.
    Close,
    /// The slot's calls had their time to end.
    DrainOver,
}

/// Why a process did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A user has to log in first. The next call looks whether one has.
    NeedsLogin,
    /// The start was given up because the slot ended.
    Withdrawn,
    /// Anything else. It is tried again later.
    Failed,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Let the call use this process.
    Use(Incarnation),
    /// Let the call wait for the outcome of the start that is under way, or comes next.
    Wait,
    /// Tell the call, or all that wait for the start that failed, that there is no process.
    Refuse(Refusal),
    /// Start a process. Calls wait for it, the one that wanted it among them.
    Start(Incarnation),
    /// End this process. It takes no calls any more.
    Stop(Incarnation),
    /// Ask this process whether it is alive.
    Ask(Incarnation),
    /// Break with this process, which does not answer whether it is alive.
    HangUp(Incarnation),
    /// End what there is, and refuse the calls that wait: the slot is over.
    End,
}

/// Why there is no process for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The slot is being closed.
    Removed,
    /// It is not started before this time has passed, or at the next call if the time is zero.
    NotYet {
        wait: Duration,
        /// How many starts in a row have failed, if so many that it is left alone.
        left_alone_after: Option<u32>,
    },
}

impl Lifecycle {
    /// A slot without a process. `idle_time_max`: how long a process may be idle before it is stopped.
    pub(super) fn new(idle_time_max: Duration, now: Instant) -> Lifecycle {
        Lifecycle {
            idle_time_max,
            phase: Phase::Stopped,
            leaving: None,
            closing: Closing::No,
            calls: 0,
            is_watched: false,
            last_used: now,
            starts: 0,
            failures: 0,
            unstarted: 0,
            retry_at: None,
            needs_login: false,
        }
    }

    /// What to do about an event. `now` is asked only where the time matters: most calls begin and end without.
    #[must_use]
    pub(super) fn on(&mut self, event: Event, now: impl FnOnce() -> Instant) -> Option<Action> {
        match event {
            Event::CallBegan if self.closing != Closing::No => Some(Action::Refuse(Refusal::Removed)),
            Event::CallBegan => {
                self.calls += 1;
                self.running().map(Action::Use)
            }
            Event::CallEnded => {
                self.calls = self.calls.saturating_sub(1);
                if self.calls > 0 {
                    return None;
                }
                self.last_used = now();
                self.end_if_quiet()
            }
            Event::Wanted => Some(match self.running() {
                Some(running) => Action::Use(running),
                None => self.wanted(now()),
            }),
            Event::Started(incarnation) => self.started(incarnation, now()),
            Event::Unstarted(incarnation, cause) => self.unstarted(incarnation, cause, now()),
            Event::Died(incarnation) => {
                self.died(incarnation, now());
                None
            }
            Event::Exited(incarnation) => self.exited(incarnation, now()),
            Event::CallTimedOut(incarnation) => self.call_timed_out(incarnation),
            Event::Answered(incarnation) => {
                *self.health(incarnation)? = Health::Good;
                None
            }
            Event::Unanswered(incarnation) => self.unanswered(incarnation),
            Event::Watched(is_watched) => {
                self.is_watched = is_watched;
                None
            }
            Event::IdleTimer => self.stop_if_idle(now()),
            Event::Close => {
                if self.closing == Closing::No {
                    self.closing = Closing::Draining;
                }
                self.end_if_quiet()
            }
            Event::DrainOver => (self.closing == Closing::Draining).then(|| self.end()),
        }
    }

    /// How long until the process may have been idle for its time. Never zero, unless it has been.
    pub(super) fn idle_in(&self, now: Instant) -> Duration {
        let idle = self.idle_time_max.max(IDLE_TIME_MIN);
        if self.is_needed() { idle } else { idle.saturating_sub(now.saturating_duration_since(self.last_used)) }
    }

    /// Whether this process takes calls.
    #[inline]
    pub(super) fn is_running(&self, incarnation: Incarnation) -> bool {
        self.running() == Some(incarnation)
    }

    /// Whether there is neither a process that takes calls nor a start.
    pub(super) fn is_down(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// Whether nobody needs the slot.
    pub(super) fn is_unused(&self) -> bool {
        self.is_down() && self.calls == 0
    }

    /// Whether nobody needs the slot, and it did not fail.
    pub(super) fn is_resting(&self) -> bool {
        self.is_unused() && self.failures == 0
    }

    /// Calls that have begun and not ended.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// How often a process was started.
    pub(super) fn starts(&self) -> u64 {
        self.starts
    }

    /// How it is doing.
    pub(super) fn state(&self, now: Instant) -> State {
        let wait = self.retry_after(now);
        match self.phase {
            Phase::Running { .. } => State::Running,
            Phase::Starting(_) | Phase::Queued => State::Starting,
            Phase::Stopped if self.needs_login => State::NeedsLogin,
            Phase::Stopped if wait.is_zero() => State::Stopped,
            Phase::Stopped if self.is_left_alone() => State::Quarantined(wait),
            Phase::Stopped => State::Waiting(wait),
        }
    }

    #[inline]
    fn running(&self) -> Option<Incarnation> {
        match self.phase {
            Phase::Running { incarnation, .. } => Some(incarnation),
            Phase::Stopped | Phase::Queued | Phase::Starting(_) => None,
        }
    }

    fn health(&mut self, of: Incarnation) -> Option<&mut Health> {
        match &mut self.phase {
            Phase::Running { incarnation, health, .. } if *incarnation == of => Some(health),
            _ => None,
        }
    }

    fn is_needed(&self) -> bool {
        self.calls > 0 || self.is_watched
    }

    fn is_left_alone(&self) -> bool {
        self.unstarted >= QUARANTINE_AFTER
    }

    fn retry_after(&self, now: Instant) -> Duration {
        self.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// A call wants a process, and none runs.
    fn wanted(&mut self, now: Instant) -> Action {
        let wait = self.retry_after(now);
        match self.phase {
            _ if self.closing == Closing::Over => Action::Refuse(Refusal::Removed),
            Phase::Queued | Phase::Starting(_) => Action::Wait,
            _ if self.closing == Closing::Draining => Action::Refuse(Refusal::Removed),
            _ if !wait.is_zero() => Action::Refuse(self.not_yet(wait)),
            _ if self.leaving.is_some() => {
                self.phase = Phase::Queued;
                Action::Wait
            }
            _ => self.start(),
        }
    }

    fn not_yet(&self, wait: Duration) -> Refusal {
        Refusal::NotYet { wait, left_alone_after: self.is_left_alone().then_some(self.unstarted) }
    }

    fn start(&mut self) -> Action {
        self.starts += 1;
        let incarnation = Incarnation(self.starts);
        self.phase = Phase::Starting(incarnation);
        Action::Start(incarnation)
    }

    fn started(&mut self, incarnation: Incarnation, now: Instant) -> Option<Action> {
        if self.phase != Phase::Starting(incarnation) {
            return None;
        }
        if self.closing == Closing::Over {
            self.leave(incarnation);
            return Some(Action::Stop(incarnation));
        }
        self.phase = Phase::Running { incarnation, since: now, health: Health::Good };
        (self.unstarted, self.needs_login) = (0, false);
        self.last_used = now;
        None
    }

    fn unstarted(&mut self, incarnation: Incarnation, cause: Cause, now: Instant) -> Option<Action> {
        if self.phase != Phase::Starting(incarnation) {
            return None;
        }
        self.phase = Phase::Stopped;
        let refusal = match cause {
            Cause::Withdrawn => Refusal::Removed,
            Cause::NeedsLogin => {
                self.needs_login = true;
                self.not_yet(Duration::ZERO)
            }
            Cause::Failed => {
                self.needs_login = false;
                self.unstarted = self.unstarted.saturating_add(1);
                self.failures = self.failures.saturating_add(1);
                let wait = if self.is_left_alone() { QUARANTINE_TIME } else { backoff(self.failures) };
                self.retry_at = Some(now + wait);
                self.not_yet(wait)
            }
        };
        Some(Action::Refuse(refusal))
    }

    fn died(&mut self, incarnation: Incarnation, now: Instant) {
        match self.phase {
            Phase::Running { incarnation: running, since, .. } if running == incarnation => {
                let is_early = now.saturating_duration_since(since) < STABLE_TIME;
                self.failures = if is_early { self.failures.saturating_add(1) } else { 1 };
                self.retry_at = Some(now + backoff(self.failures));
                self.leave(incarnation);
            }
            _ => {}
        }
    }

    fn exited(&mut self, incarnation: Incarnation, now: Instant) -> Option<Action> {
        self.died(incarnation, now); // unless it takes no calls any more
        if self.leaving != Some(incarnation) {
            return None;
        }
        self.leaving = None;
        (self.phase == Phase::Queued).then(|| self.start())
    }

    fn call_timed_out(&mut self, incarnation: Incarnation) -> Option<Action> {
        let health = self.health(incarnation)?;
        if *health != Health::Good {
            return None; // it is being asked
        }
        *health = Health::Asked { unanswered: 0 };
        Some(Action::Ask(incarnation))
    }

    fn unanswered(&mut self, incarnation: Incarnation) -> Option<Action> {
        let nobody_waits = self.calls == 0;
        let health = self.health(incarnation)?;
        let Health::Asked { unanswered } = *health else { return None };
        if nobody_waits || unanswered + 1 >= QUESTIONS_MAX {
            *health = Health::Hung;
            return Some(Action::HangUp(incarnation));
        }
        *health = Health::Asked { unanswered: unanswered + 1 };
        Some(Action::Ask(incarnation))
    }

    fn stop_if_idle(&mut self, now: Instant) -> Option<Action> {
        let incarnation = self.running()?;
        if self.is_needed() || now.saturating_duration_since(self.last_used) < self.idle_time_max {
            return None;
        }
        self.failures = 0;
        self.leave(incarnation);
        Some(Action::Stop(incarnation))
    }

    fn end_if_quiet(&mut self) -> Option<Action> {
        (self.closing == Closing::Draining && self.calls == 0).then(|| self.end())
    }

    fn end(&mut self) -> Action {
        self.closing = Closing::Over;
        match self.phase {
            Phase::Running { incarnation, .. } => self.leave(incarnation),
            Phase::Queued => self.phase = Phase::Stopped,
            Phase::Starting(_) | Phase::Stopped => {}
        }
        Action::End
    }

    /// This process takes no calls any more.
    fn leave(&mut self, incarnation: Incarnation) {
        self.phase = Phase::Stopped;
        self.leaving = Some(incarnation);
    }
}

/// How long to wait after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    match failures.checked_sub(2) {
        Some(doubled) => BACKOFF.saturating_mul(1 << doubled.min(10)).min(BACKOFF_MAX),
        None => Duration::ZERO,
    }
}
