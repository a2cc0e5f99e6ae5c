//! Sandboxes that are ready before anybody asks for them.
//!
//! Making one takes over a millisecond, handing a request to one that is ready a tenth of that. Each serves a single
//! request and dies. Owns how many there are: more when requests found none, fewer when nobody asks, none are made
//! while the machine is busy (a pool hides time, it does not save any; a request that finds none gets a sandbox made on
//! the spot, from the same template), and none beside a running command for as long as another one is ready.

use std::{
    collections::VecDeque,
    os::fd::{AsFd as _, OwnedFd},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use libc::pid_t;
use rustix::event::Timespec;

use crate::{
    interpreter::Interpreter,
    order::{Order, Sockets},
    wire::{self, Call, JOB_BESIDE, Message as _},
};

/// Most sandboxes that wait. Each is two processes that hold 0.3 MB together.
const READY_MAX: usize = 4;
/// Fewest sandboxes that wait: one for the next request, and one for the request after it, so that the first need not
/// be replaced while it runs.
const READY_MIN: usize = 2;
/// Most of them that the server has, to use without asking: each request is spared the way by the zygote.
const OFFERED_MAX: usize = READY_MIN;
/// How long nothing must have happened before another is made: not in the middle of a burst.
const MAKE_AFTER: Duration = Duration::from_micros(200);
/// How long making may be put off because a request runs, which it would slow down: processors share caches and, often,
/// a core.
const MAKE_WITHIN: Duration = Duration::from_millis(20);
/// How long nobody must have asked before the pool shrinks, in seconds.
const SHRINK_AFTER_S: i64 = 10;
/// How long after its last request a kind of interpreter is kept waiting.
const WARM_FOR: Duration = Duration::from_secs(60);

/// A sandbox that waits for its request.
pub(crate) struct Waiting {
    pub(crate) pid: pid_t,
    pub(crate) pidfd: OwnedFd,
    pub(crate) sockets: Sockets,
}

/// Those that wait.
pub(crate) struct Pool {
    /// Those that are here, the oldest first.
    waiting: VecDeque<Waiting>,
    /// Those that the server has.
    offered: Vec<pid_t>,
    /// How many there should be.
    target: usize,
    /// When the first request came after something was last made.
    asked: Option<Instant>,
    /// Processors: as many requests at once leave none for making sandboxes.
    processors: usize,
}

impl Pool {
    pub(crate) fn new() -> Pool {
        let processors = available_parallelism().map_or(1, |processors| processors.get());
        Pool { waiting: VecDeque::new(), offered: Vec::new(), target: READY_MIN, asked: None, processors }
    }

    /// None wait, ever.
    pub(crate) fn empty() -> Pool {
        Pool { target: 0, ..Pool::new() }
    }

    /// How long the zygote should wait for something to happen before it asks what to do. `None`: for ever.
    pub(crate) fn patience(&self, running: usize, warm: &Warm, now: Instant) -> Option<Timespec> {
        if self.has_time(running) && (self.wants_more() || warm.wanted().is_some()) {
            let put_off = running > 0 && self.len() > 0;
            let waited = self.asked.map_or(Duration::ZERO, |asked| now.duration_since(asked));
            let left = if put_off { MAKE_WITHIN.saturating_sub(waited) } else { Duration::ZERO };
            return Timespec::try_from(left.max(MAKE_AFTER)).ok();
        }
        let shrinks = self.target > READY_MIN || !warm.kinds.is_empty();
        shrinks.then_some(Timespec { tv_sec: SHRINK_AFTER_S, tv_nsec: 0 })
    }

    /// A request has come.
    pub(crate) fn note_request(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// Something is being made ahead.
    pub(crate) fn note_making(&mut self) {
        self.asked = None;
    }

    /// Whether this is a time to make something, with so many requests running.
    pub(crate) fn has_time(&self, running: usize) -> bool {
        running < self.processors
    }

    /// Whether there should be another.
    pub(crate) fn wants_more(&self) -> bool {
        self.len() < self.target
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.offered.len()
    }

    /// One that the server should have.
    pub(crate) fn next_to_offer(&mut self) -> Option<Waiting> {
        if self.offered.len() >= OFFERED_MAX {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        self.offered.push(waiting.pid);
        Some(waiting)
    }

    /// The server has used one.
    pub(crate) fn note_taken(&mut self, pid: pid_t) {
        self.offered.retain(|offered| *offered != pid);
    }

    pub(crate) fn add(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// Nobody has asked for a while. Closing its sockets ends a sandbox.
    pub(crate) fn shrink(&mut self) {
        self.target = (self.target / 2).max(READY_MIN);
        self.waiting.truncate(self.target.saturating_sub(self.offered.len()));
    }

    /// It has died.
    pub(crate) fn forget(&mut self, pid: pid_t) {
        self.waiting.retain(|waiting| waiting.pid != pid);
        self.offered.retain(|offered| *offered != pid);
    }

    /// Gives an order to a sandbox that is ready.
    pub(crate) fn hand_over(&mut self, call: &Call, order: &Order) -> Option<(pid_t, OwnedFd)> {
        while let Some(Waiting { pid, pidfd, sockets }) = self.waiting.pop_front() {
            if sockets.hand_over(JOB_BESIDE, &order.fds(), call).is_ok() {
                return Some((pid, pidfd));
            } // else it died unnoticed, for instance killed for want of memory; closing ends its keeper
        }
        self.target = (self.target + 1).min(READY_MAX);
        None
    }
}

/// An interpreter that waits for its program.
pub(crate) struct Booted {
    pub(crate) pid: pid_t,
    pub(crate) pidfd: OwnedFd,
    /// Its keeper hears here.
    pub(crate) keeper: OwnedFd,
    /// Standard output and error, to be read.
    pub(crate) streams: [OwnedFd; 2],
}

/// Interpreters that wait: one of each kind that was asked for of late.
pub(crate) struct Warm {
    /// The one that was asked for last comes last.
    kinds: Vec<Kind>,
    /// How many kinds there may be.
    max: usize,
}

struct Kind {
    interpreter: Interpreter,
    asked: Instant,
    state: State,
}

enum State {
    /// Its last one has been handed over, or there was none yet.
    Wanted,
    Waits(Booted),
    /// It ended before there was anything to do, so another would, too: the program may not be installed.
    Unfit,
}

impl Warm {
    pub(crate) fn new(max: usize) -> Warm {
        Warm { kinds: Vec::new(), max }
    }

    /// The kind that is missed most.
    pub(crate) fn wanted(&self) -> Option<&Interpreter> {
        let kind = self.kinds.iter().rev().find(|kind| matches!(kind.state, State::Wanted));
        kind.map(|kind| &kind.interpreter)
    }

    pub(crate) fn add(&mut self, interpreter: &Interpreter, booted: Booted) {
        self.set(interpreter, State::Waits(booted));
    }

    /// It cannot be started.
    pub(crate) fn give_up(&mut self, interpreter: &Interpreter) {
        self.set(interpreter, State::Unfit);
    }

    fn set(&mut self, interpreter: &Interpreter, state: State) {
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.interpreter == *interpreter) {
            kind.state = state;
        }
    }

    /// It has died.
    pub(crate) fn forget(&mut self, dead: pid_t) {
        let waited = |kind: &&mut Kind| matches!(&kind.state, State::Waits(Booted { pid, .. }) if *pid == dead);
        if let Some(kind) = self.kinds.iter_mut().find(waited) {
            kind.state = State::Unfit;
        }
    }

    /// Lets those go that nobody has asked for in a while. Closing their sockets ends them.
    pub(crate) fn shrink(&mut self, now: Instant) {
        self.kinds.retain(|kind| now.duration_since(kind.asked) < WARM_FOR);
    }

    /// Gives an order to an interpreter of the kind that it wants, and remembers that it was wanted.
    pub(crate) fn hand_over(&mut self, call: &Call, order: &Order, now: Instant) -> Option<Booted> {
        self.shrink(now);
        let interpreter = call.interpreter.as_ref().filter(|_| self.max > 0)?;
        let known = self.kinds.iter().position(|kind| kind.interpreter == *interpreter);
        let mut kind = match known {
            Some(at) => self.kinds.remove(at),
            None => Kind { interpreter: interpreter.clone(), asked: now, state: State::Wanted },
        };
        kind.asked = now;
        let state = match kind.state {
            State::Unfit => State::Unfit,
            _ => State::Wanted,
        };
        let waiting = std::mem::replace(&mut kind.state, state);
        if self.kinds.len() == self.max {
            self.kinds.remove(0);
        }
        self.kinds.push(kind);
        let State::Waits(booted) = waiting else { return None };
        let fds: Vec<_> = [&order.report, &order.job].into_iter().chain(&order.stdin).map(OwnedFd::as_fd).collect();
        wire::send(&booted.keeper, &call.bytes(), &fds).is_ok().then_some(booted)
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// A sandbox that nobody is in, and the end on which its keeper would hear.
    fn waiting(pid: pid_t) -> (Waiting, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let ((keeper, theirs), (command, pidfd)) = (pair(), pair());
        (Waiting { pid, pidfd, sockets: Sockets { keeper, command } }, theirs)
    }

    fn pool(target: usize, sandboxes: usize) -> (Pool, Vec<OwnedFd>) {
        let mut pool = Pool { waiting: VecDeque::new(), offered: Vec::new(), target, asked: None, processors: 2 };
        let theirs = (1..).take(sandboxes).map(|pid| {
            let (waiting, theirs) = waiting(pid);
            pool.add(waiting);
            theirs
        });
        let theirs = theirs.collect();
        (pool, theirs)
    }

    fn patience(pool: &Pool, running: usize, now: Instant) -> Option<Duration> {
        pool.patience(running, &Warm::new(0), now).map(|time| Duration::try_from(time).unwrap())
    }

    #[test]
    fn a_pool_that_nobody_asks_shrinks_to_its_minimum_and_ends_the_rest() {
        let (mut pool, theirs) = pool(READY_MAX, READY_MAX);
        let now = Instant::now();
        while patience(&pool, 0, now).is_some() {
            pool.shrink();
        }
        assert_eq!(pool.waiting.len(), READY_MIN);
        let ended = |end: &&OwnedFd| wire::receive(*end, &mut [0; 8]).is_ok_and(|message| message.is_none());
        assert_eq!(theirs.iter().filter(ended).count(), READY_MAX - READY_MIN);
    }

    #[test]
    fn making_is_put_off_while_a_request_runs_but_not_for_long() {
        let (mut pool, _theirs) = pool(READY_MIN, 1);
        let start = Instant::now();
        pool.note_request(start);
        assert_eq!(patience(&pool, 0, start), Some(MAKE_AFTER));
        assert_eq!(patience(&pool, 1, start), Some(MAKE_WITHIN));
        // More requests do not begin the wait anew.
        let later = start + MAKE_WITHIN;
        pool.note_request(later);
        assert_eq!(patience(&pool, 1, later), Some(MAKE_AFTER));
        // All processors are busy.
        assert_eq!(patience(&pool, 2, later), None);
    }

    #[test]
    fn a_pool_that_is_empty_is_filled_at_once() {
        let (pool, _theirs) = pool(READY_MIN, 0);
        assert_eq!(patience(&pool, 1, Instant::now()), Some(MAKE_AFTER));
    }
}
