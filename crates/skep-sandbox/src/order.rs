//! What a sandbox is sent: the descriptors of a request, and its job.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use crate::{
    sys,
    wire::{self, Call, JOB_BESIDE, JOB_SENT_MAX, Job, Message as _},
};

/// What the server sends for one request.
pub(crate) struct Order {
    pub(crate) report: OwnedFd,
    pub(crate) job: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) stdin: Option<OwnedFd>,
}

impl Order {
    /// `None`: these are not the descriptors of an order.
    pub(crate) fn from_fds(fds: Vec<OwnedFd>) -> Option<Order> {
        let mut fds = fds.into_iter();
        Some(Order {
            report: fds.next()?,
            job: fds.next()?,
            stdout: fds.next()?,
            stderr: fds.next()?,
            stdin: fds.next(),
        })
    }

    /// In the order in which [`from_fds`](Self::from_fds) wants them.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let fds = [&self.report, &self.job, &self.stdout, &self.stderr].into_iter().chain(&self.stdin);
        fds.map(OwnedFd::as_fd).collect()
    }
}

/// Where a sandbox that is ready hears of its request.
pub(crate) struct Sockets {
    pub(crate) keeper: OwnedFd,
    pub(crate) command: OwnedFd,
}

impl Sockets {
    /// Hands it a request: its work with these descriptors, the report first, as [`Work::receive`] wants them. An error
    /// means that it has died, and nothing was run.
    pub(crate) fn hand_over(&self, work: &[u8], fds: &[BorrowedFd<'_>], call: &Call) -> io::Result<()> {
        // The command first: it is what is waited for, and the one told first gets the processor that is idle. It may
        // end before its keeper knows of the request; the keeper then waits to be told.
        wire::send(&self.command, work, fds)?;
        // A keeper that has died took the command along, which the server is told when it is reaped.
        let _ = wire::send(&self.keeper, &call.bytes(), &fds[..1]);
        Ok(())
    }
}

/// What the command of a sandbox that is ready is sent.
pub(crate) struct Work {
    pub(crate) report: OwnedFd,
    pub(crate) job: io::Result<Job>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) stdin: Option<OwnedFd>,
}

impl Work {
    /// Waits for it. `None`: there will be none.
    pub(crate) fn receive(socket: &OwnedFd) -> Option<Work> {
        let mut buffer = [0; JOB_SENT_MAX];
        let (length, fds) = wire::receive(socket, &mut buffer).ok()??;
        let bytes = &buffer[..length];
        if bytes == JOB_BESIDE {
            let Order { report, job, stdout, stderr, stdin } = Order::from_fds(fds)?;
            let job = wire::read_all(job).and_then(|bytes| Job::parse(&bytes));
            return Some(Work { report, job, stdout, stderr, stdin });
        }
        let mut fds = fds.into_iter();
        let (report, stdout, stderr, stdin) = (fds.next()?, fds.next()?, fds.next()?, fds.next());
        Some(Work { report, job: Job::parse(bytes), stdout, stderr, stdin })
    }
}

/// Makes these the standard streams.
pub(crate) fn place_streams(stdout: &OwnedFd, stderr: &OwnedFd, stdin: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(stdin) = stdin {
        sys::place(stdin.as_fd(), 0, false)?;
    }
    sys::place(stdout.as_fd(), 1, false)?;
    sys::place(stderr.as_fd(), 2, false)
}
