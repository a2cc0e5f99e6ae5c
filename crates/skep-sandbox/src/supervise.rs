//! One request while it runs, as the server sees it.
//!
//! Owns the deadline, cancellation, and the rule that an answer is given only when nothing of the
//! command runs any more. Dropping it kills the sandbox, in whatever state it is.

use std::{
    io,
    os::fd::OwnedFd,
    pin::pin,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    io::Errno,
    process::{Signal, pidfd_send_signal},
};
use tokio::{
    io::unix::AsyncFd,
    net::unix::pipe,
    select,
    sync::mpsc::Sender,
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    advice::explain,
    channel,
    error::Error,
    outcome::{End, Outcome, Start, Usage},
    output::{self, Output, Piece, Stream},
    outputs,
    proxy::Proxy,
    request::Limits,
    sys::{Status, Used},
    tier::{Protection, Tier},
    wire::{Message as _, Report},
};

/// How long a killed sandbox may take to be gone, before we give up waiting and say so.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The server's ends of what a sandbox is given.
pub(crate) struct Supervised {
    report: AsyncFd<OwnedFd>,
    stdout: Reader,
    stderr: Reader,
    output: Output,
    pidfd: Option<OwnedFd>,
    outputs: Option<OwnedFd>,
    start: Option<Start>,
    /// For a request that was granted hosts, and those who serve it.
    proxy: Option<Proxy>,
    serving: JoinSet<()>,
    /// It is not for us to kill: nothing else would end what it keeps.
    bare: bool,
    /// Nothing runs any more.
    over: bool,
}

/// The sandbox's ends, in the order of the wire.
pub(crate) struct Ends {
    pub(crate) report: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What became of a request.
enum Fate {
    /// How its command ended, and what it used.
    Ended { end: End, used: Used },
    /// Nothing of it ran.
    Unbegun,
}

impl Supervised {
    /// Both ends of a new request.
    pub(crate) fn new(proxy: Option<Proxy>) -> io::Result<(Supervised, Ends)> {
        let (report, their_report) = channel::pair()?;
        let (stdout, their_stdout) = Reader::new()?;
        let (stderr, their_stderr) = Reader::new()?;
        let report = channel::listen(report)?;
        let supervised = Supervised {
            report,
            stdout,
            stderr,
            output: Output::default(),
            pidfd: None,
            outputs: None,
            start: None,
            proxy,
            serving: JoinSet::new(),
            bare: false,
            over: false,
        };
        Ok((supervised, Ends { report: their_report, stdout: their_stdout, stderr: their_stderr }))
    }

    /// Both ends of whatever request comes for a sandbox that is ready.
    pub(crate) fn ready(pidfd: OwnedFd) -> io::Result<(Supervised, Ends)> {
        let (mut supervised, ends) = Supervised::new(None)?;
        (supervised.pidfd, supervised.start) = (Some(pidfd), Some(Start::Ready));
        Ok((supervised, ends))
    }

    /// Waits for the end, enforcing `limits`, and collects what was left. `None`: it was given to an interpreter that had just
    /// ended, and nothing of it ran.
    pub(crate) async fn finish(
        mut self,
        limits: &Limits,
        sink: Option<Sender<Piece>>,
        cancel: &CancellationToken,
        tier: Tier,
        missing: &[Protection],
        started: Instant,
    ) -> Result<Option<Outcome>, Error> {
        self.bare = tier == Tier::Landlock;
        self.output = Output::new(limits.output, sink);
        let fate = self.watch(limits, cancel, started).await?;
        self.over = true;
        let Fate::Ended { end, used } = fate else { return Ok(None) };
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.drain(stream).map_err(|source| Error::Setup { step: "read the output".into(), source })?;
        }
        let found = collect(self.outputs.take(), limits.outputs).await;
        let wall = started.elapsed();
        let mut output = std::mem::take(&mut self.output);
        let connections = self.proxy.as_ref().map(Proxy::connections).unwrap_or_default();
        let start = self.start;
        // A slow sink is to keep nothing but its own request from ending.
        drop(self);
        output.pass_rest_on(cancel).await;
        let Output { stdout, stderr, truncated, .. } = output;
        Ok(Some(Outcome {
            end: match end {
                // It was over before we could kill it.
                End::Exit(_) | End::Signal(_) if truncated => End::OutputLimit,
                end => end,
            },
            stdout,
            stderr,
            truncated,
            outputs: found.files,
            skipped: found.skipped,
            usage: Usage { wall, cpu: Duration::from_micros(used.cpu_us), memory_peak: used.memory_peak },
            start,
            connections,
            tier,
            missing: missing.to_vec(),
        }))
    }

    /// Returns when the sandbox has no process left, or nothing of the command has run.
    async fn watch(&mut self, limits: &Limits, cancel: &CancellationToken, started: Instant) -> Result<Fate, Error> {
        let mut deadline = pin!(sleep_until((started + limits.wall).into()));
        let mut patience = pin!(sleep(Duration::MAX));
        let mut forced = None;
        loop {
            let killed = forced.is_some();
            let end = select! {
                biased;
                message = channel::receive(&self.report) => match self.hear(message)? {
                    Some(fate) => return Ok(match (forced, fate) {
                        (Some(end), Fate::Ended { used, .. }) => Fate::Ended { end, used },
                        (Some(end), Fate::Unbegun) => Fate::Ended { end, used: Used::default() },
                        (None, fate) => fate,
                    }),
                    None => {
                        if killed {
                            // It may be just born.
                            self.kill();
                        }
                        continue;
                    }
                },
                () = self.output.sink.room(), if self.output.sink.is_behind() => {
                    self.output.pass_on();
                    continue;
                }
                read = self.stdout.read(&mut self.output.stdout), if self.stdout.open => {
                    read.map_err(|source| Error::Setup { step: "read the output".into(), source })?;
                    if self.output.keep(Stream::Stdout) || killed { continue }
                    End::OutputLimit
                }
                read = self.stderr.read(&mut self.output.stderr), if self.stderr.open => {
                    read.map_err(|source| Error::Setup { step: "read the output".into(), source })?;
                    if self.output.keep(Stream::Stderr) || killed { continue }
                    End::OutputLimit
                }
                () = cancel.cancelled(), if !killed => End::Cancelled,
                () = &mut deadline, if !killed => End::Timeout,
                () = &mut patience, if killed => return Err(Error::HelperDied),
            };
            forced = Some(end);
            patience.set(sleep(GONE_WITHIN));
            self.kill();
        }
    }

    /// Takes what is left in a pipe. Nobody writes to it any more.
    fn drain(&mut self, stream: Stream) -> io::Result<()> {
        match stream {
            Stream::Stdout => self.stdout.drain(&mut self.output.stdout)?,
            Stream::Stderr => self.stderr.drain(&mut self.output.stderr)?,
        }
        self.output.keep(stream);
        Ok(())
    }

    /// Takes a report in. `Some`: it was the last.
    fn hear(&mut self, message: io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>>) -> Result<Option<Fate>, Error> {
        let Ok(Some((bytes, fds))) = message else { return Err(Error::HelperDied) };
        let report = Report::parse(&bytes).map_err(|source| Error::Setup { step: "read a report".into(), source })?;
        let mut fds = fds.into_iter();
        let fd = fds.next();
        match report {
            Report::Born(start) => {
                (self.start, self.pidfd) = (Some(start), fd);
                for (reader, pipe) in [&mut self.stdout, &mut self.stderr].into_iter().zip(fds) {
                    *reader =
                        Reader::of(pipe).map_err(|source| Error::Setup { step: "take the output".into(), source })?;
                }
            }
            Report::Outputs => {
                self.outputs = fd;
                if let (Some(proxy), Some(listener)) = (&self.proxy, fds.next()) {
                    let serving = proxy.serve(listener);
                    self.serving = serving.map_err(|source| Error::Setup { step: "serve the proxy".into(), source })?;
                }
            }
            Report::Fault(fault) => return Err(explain(fault)),
            Report::Unfit(why) => return Err(Error::Invalid(why)),
            Report::Unexecuted { why, found } => return Err(Error::Unexecuted { why, found }),
            Report::Ended { status, memory_exceeded, used } => {
                let end = match status {
                    _ if memory_exceeded => End::MemoryLimit,
                    Status::Exit(code) => End::Exit(code),
                    Status::Signal(signal) => End::Signal(signal),
                };
                return Ok(Some(Fate::Ended { end, used }));
            }
            // The keeper does not end before its command, unless something kills it from outside, as the kernel does
            // when memory is at its ceiling.
            Report::Gone { memory_exceeded, used } => {
                let end = if memory_exceeded { End::MemoryLimit } else { End::Signal(libc::SIGKILL) };
                return Ok(Some(Fate::Ended { end, used }));
            }
            Report::Unbegun => return Ok(Some(Fate::Unbegun)),
        }
        Ok(None)
    }

    /// Kills the keeper, and thereby everything, if it is born already.
    fn kill(&self) {
        if self.bare {
            // It sees that we have closed our half. If it has gone, there is nothing to close.
            let _ = rustix::net::shutdown(&self.report, rustix::net::Shutdown::Write);
        } else if let Some(pidfd) = &self.pidfd {
            // It may have ended by itself meanwhile.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // If it is not born yet, the helper or the keeper will find that nobody listens.
        if !self.over {
            self.kill();
        }
    }
}

async fn collect(outputs: Option<OwnedFd>, bytes_max: u64) -> outputs::Found {
    let Some(root) = outputs.filter(outputs::any) else { return outputs::Found::default() };
    let collected = tokio::task::spawn_blocking(move || outputs::collect(&root, bytes_max)).await;
    // Fails only when the runtime is shutting down, and then nobody reads this.
    collected.unwrap_or_default()
}

/// The end of a pipe that the command prints to.
struct Reader {
    pipe: pipe::Receiver,
    open: bool,
}

impl Reader {
    fn new() -> io::Result<(Reader, OwnedFd)> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok((Reader::of(ours)?, theirs))
    }

    fn of(ours: OwnedFd) -> io::Result<Reader> {
        rustix::io::ioctl_fionbio(&ours, true)?;
        let pipe = pipe::Receiver::from_owned_fd_unchecked(ours)?;
        Ok(Reader { pipe, open: true })
    }

    /// Waits for more.
    async fn read(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        self.open = output::read(&mut self.pipe, into).await? > 0;
        Ok(())
    }

    /// Takes what is there.
    ///
    /// Reads past the event loop, which may not have heard yet that there is something.
    fn drain(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        while self.open {
            into.reserve(4096);
            match rustix::io::read(&self.pipe, spare_capacity(into)) {
                Ok(length) => self.open = length > 0,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
