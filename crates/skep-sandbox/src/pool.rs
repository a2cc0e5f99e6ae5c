//! Sandboxes that are ready before anybody asks for them.
//!
//! Making one takes over a millisecond, handing a request to one that is ready a tenth of that. Each serves a single
//! request and dies. Owns how many there are: more when requests found none, fewer when nobody asks, none are made
//! while the machine is busy (a pool hides time, it does not save any; a request that finds none gets a sandbox made on
//! the spot, from the same template).

use std::{
    collections::VecDeque,
    os::fd::{AsFd as _, OwnedFd},
    thread::available_parallelism,
};

use libc::pid_t;
use rustix::event::Timespec;

use crate::{
    slot::Order,
    wire::{self, Call, Message as _},
};

/// Most sandboxes that wait. Each is two processes and about 0.4 MB.
const READY_MAX: usize = 4;
/// How long nothing must have happened before another is made, in nanoseconds: not in the middle of a burst.
const MAKE_AFTER_NS: i64 = 200_000;
/// How long nobody must have asked before the pool shrinks, in seconds.
const SHRINK_AFTER_S: i64 = 10;

/// A sandbox that waits for its request.
pub(crate) struct Waiting {
    pub(crate) pid: pid_t,
    pub(crate) pidfd: OwnedFd,
    /// Its keeper hears here.
    pub(crate) keeper: OwnedFd,
    /// Its command hears here.
    pub(crate) command: OwnedFd,
}

/// Those that wait, the oldest first.
pub(crate) struct Pool {
    waiting: VecDeque<Waiting>,
    /// How many there should be.
    target: usize,
    /// Processors: as many requests at once leave none for making sandboxes.
    processors: usize,
}

impl Pool {
    pub(crate) fn new() -> Pool {
        let processors = available_parallelism().map_or(1, |processors| processors.get());
        Pool { waiting: VecDeque::new(), target: 1, processors }
    }

    /// How long the zygote should wait for something to happen before it asks what to do. `None`: for ever.
    pub(crate) fn patience(&self, running: usize) -> Option<Timespec> {
        if self.wants_more(running) {
            Some(Timespec { tv_sec: 0, tv_nsec: MAKE_AFTER_NS })
        } else {
            (self.target > 1).then_some(Timespec { tv_sec: SHRINK_AFTER_S, tv_nsec: 0 })
        }
    }

    /// Whether this is a time to make another, with so many requests running.
    pub(crate) fn wants_more(&self, running: usize) -> bool {
        self.waiting.len() < self.target && running < self.processors
    }

    pub(crate) fn add(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// Nobody has asked for a while. Closing its sockets ends a sandbox.
    pub(crate) fn shrink(&mut self) {
        self.target = (self.target / 2).max(1);
        self.waiting.truncate(self.target);
    }

    /// It has died.
    pub(crate) fn forget(&mut self, pid: pid_t) {
        self.waiting.retain(|waiting| waiting.pid != pid);
    }

    /// Gives an order to a sandbox that is ready.
    pub(crate) fn hand_over(&mut self, call: Call, order: &Order) -> Option<(pid_t, OwnedFd)> {
        while let Some(Waiting { pid, pidfd, keeper, command }) = self.waiting.pop_front() {
            // The keeper first: it must know where to report before there is anything to report.
            let told = wire::send(&keeper, &call.bytes(), &[order.report.as_fd()])
                .and_then(|()| wire::send(&command, &call.bytes(), &order.fds()));
            if told.is_ok() {
                return Some((pid, pidfd));
            }
            // It died unnoticed, for instance killed for want of memory. Had the keeper lived, closing would end it.
        }
        self.target = (self.target + 1).min(READY_MAX);
        None
    }
}
