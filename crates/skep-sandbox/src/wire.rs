//! What server, zygote and sandbox say to one another, and how.
//!
//! Three conversations, all over `SOCK_SEQPACKET` sockets, so that a message and its descriptors arrive whole:
//!
//! - **control**, server ↔ zygote, one for its life: [`Setup`] in, [`Hello`] out, then an [`Asked`] for each request in, and
//!   out an [`Offer`] of each sandbox that the server may use without asking;
//! - **report**, made per request, zygote and sandbox → server: [`Report`];
//! - the **job**: [`Job`], a sealed memory file of any size that comes with an order, or, if it is short, the message
//!   itself that a sandbox gets which is ready.
//!
//! Both ends are the same executable, so there is no versioning. What comes out of a sandbox is never parsed here: its
//! command holds none of these descriptors.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::PathBuf,
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};

use crate::{
    bind::Bind,
    defence::Defences,
    fault::Fault,
    interpreter::{Interpreter, Language},
    outcome::Start,
    request::{Limits, Net},
    sys::{Status, Used},
    tier::{Protection, Tier},
};

/// Longest message, in bytes; jobs go beside it.
pub(crate) const MESSAGE_MAX: usize = 64 << 10;
/// Longest [`Call`], in bytes: one with an interpreter in a working directory of the longest kind.
pub(crate) const CALL_MAX: usize = 2 << 10;
/// Longest job that is sent as a message, in bytes.
pub(crate) const JOB_SENT_MAX: usize = 8 << 10;
/// What is sent instead of a job that comes as a descriptor. No job is so short.
pub(crate) const JOB_BESIDE: &[u8] = b"+";
/// Most descriptors with one message.
const FDS_MAX: usize = 8;

/// An order. Its descriptors: report, job, standard output, standard error, and standard input if there is any.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// A sandbox that was made with the default limits and without a network will do.
    pub(crate) plain: bool,
    /// It needs rights to its network.
    pub(crate) loopback: bool,
    /// The limit on memory, which can be set late.
    pub(crate) memory: u64,
    /// The limit on processes.
    pub(crate) processes: u32,
    /// The interpreter that will do as well if it has been started already.
    pub(crate) interpreter: Option<Interpreter>,
}

impl Call {
    /// Whether any sandbox that is ready will do, just as it is.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.plain && self.interpreter.is_none() && self.memory == Limits::default().memory
    }
}

/// What the server wants of the zygote for one request.
#[derive(Debug, PartialEq)]
pub(crate) enum Asked {
    /// A sandbox. With the descriptors of an order.
    Order(Call),
    /// Nothing: it has taken the sandbox that was offered under this number. With the descriptor of its report.
    Taken(u32),
}

/// A sandbox that is ready, by a number that no other living one has. With the sockets of its keeper and its command, and
/// its pidfd.
#[derive(Debug, PartialEq)]
pub(crate) struct Offer(pub(crate) u32);

/// What the zygote must know before it builds the root.
#[derive(Debug, PartialEq)]
pub(crate) struct Setup {
    pub(crate) binds: Vec<Bind>,
    pub(crate) defences: Defences,
    /// Interpreters that may wait.
    pub(crate) warm_max: usize,
    /// Sandboxes are to be made without namespaces, in directories below this one.
    pub(crate) bare: Option<PathBuf>,
}

/// The zygote's first answer on the control socket.
#[derive(Debug, PartialEq)]
pub(crate) enum Hello {
    /// It takes orders.
    Ready { tier: Tier, missing: Vec<Protection> },
    /// This machine will not do.
    Fault(Fault),
}

/// What happens to one request, in order of time.
#[derive(Debug, PartialEq)]
pub(crate) enum Report {
    /// The sandbox has a process. With its pidfd, and if it is warm with the ends of its standard output and error, which
    /// are not those that came with the order.
    Born(Start),
    /// `/outputs` exists. With a descriptor of it that outlives the sandbox, and one to accept the connections for the
    /// proxy, if there is to be one.
    Outputs,
    /// It could not be set up; nothing of the command has run.
    Fault(Fault),
    /// The job asks for something that is not there; nothing of the command has run.
    Unfit(String),
    /// The program cannot be executed: why, and whether there is one.
    Unexecuted { why: String, found: bool },
    /// The command ended and no process of it is left.
    Ended { status: Status, memory_exceeded: bool, used: Used },
    /// The sandbox's first process is gone, and every other with it.
    Gone { memory_exceeded: bool, used: Used },
    /// The interpreter that was to wait for a program could not be executed, or had ended before the request came.
    Unbegun,
}

/// What a sandbox is to do.
#[derive(Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) argv: Vec<OsString>,
    /// `NAME=value`.
    pub(crate) env: Vec<OsString>,
    pub(crate) cwd: PathBuf,
    /// Absolute paths inside.
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
    pub(crate) limits: Limits,
    pub(crate) net: Net,
}

/// A value that crosses.
pub(crate) trait Message: Sized {
    /// Appends its bytes.
    fn encode(&self, out: &mut Encoder);
    /// Reads it back. `None`: these are not its bytes.
    fn decode(from: &mut Decoder<'_>) -> Option<Self>;

    /// Its bytes.
    fn bytes(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        self.encode(&mut out);
        out.0
    }

    /// Reads it back from all of `bytes`.
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Decoder(bytes);
        let value = Self::decode(&mut from).filter(|_| from.0.is_empty());
        value.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message of another program"))
    }
}

#[derive(Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    fn number(&mut self, value: impl Into<u64>) {
        self.0.extend(value.into().to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Encoder, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| each(self, item));
    }
}

pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        self.number()?.try_into().ok()
    }

    /// A number that was negative or not.
    fn signed(&mut self) -> Option<i32> {
        self.number().map(|number| number as i32)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.small()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn os(&mut self) -> Option<OsString> {
        self.bytes().map(|bytes| OsString::from_vec(bytes.to_vec()))
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn list<T>(&mut self, mut each: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length: usize = self.small()?;
        (0..length).map(|_| each(self)).collect()
    }
}

impl Message for Setup {
    fn encode(&self, out: &mut Encoder) {
        out.list(&self.binds, |out, bind| {
            out.bytes(bind.source.as_os_str().as_bytes());
            out.bytes(bind.target.as_os_str().as_bytes());
            out.list(&bind.hidden, |out, place| out.bytes(place.as_os_str().as_bytes()));
        });
        out.number(self.defences.0);
        out.number(self.warm_max as u64);
        out.list(self.bare.as_slice(), |out, directory| out.bytes(directory.as_os_str().as_bytes()));
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Setup> {
        let binds = from.list(|from| {
            let (source, target) = (from.os()?.into(), from.os()?.into());
            let hidden = from.list(Decoder::os)?.into_iter().map(PathBuf::from).collect();
            Some(Bind { source, target, hidden })
        })?;
        let (defences, warm_max) = (Defences(from.number()?), from.small()?);
        let bare = from.list(Decoder::os)?.pop().map(PathBuf::from);
        Some(Setup { binds, defences, warm_max, bare })
    }
}

impl Message for Call {
    fn encode(&self, out: &mut Encoder) {
        out.number(self.plain);
        out.number(self.loopback);
        out.number(self.memory);
        out.number(self.processes);
        out.list(self.interpreter.as_slice(), |out, interpreter| interpreter.encode(out));
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Call> {
        Some(Call {
            plain: from.number()? == 1,
            loopback: from.number()? == 1,
            memory: from.number()?,
            processes: from.small()?,
            interpreter: from.list(Interpreter::decode)?.pop(),
        })
    }
}

impl Message for Asked {
    fn encode(&self, out: &mut Encoder) {
        match self {
            Asked::Order(call) => {
                out.number(0u8);
                call.encode(out);
            }
            Asked::Taken(number) => {
                out.number(1u8);
                out.number(*number);
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Asked> {
        match from.number()? {
            0 => Call::decode(from).map(Asked::Order),
            1 => from.small().map(Asked::Taken),
            _ => None,
        }
    }
}

impl Message for Offer {
    fn encode(&self, out: &mut Encoder) {
        out.number(self.0);
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Offer> {
        from.small().map(Offer)
    }
}

impl Message for Interpreter {
    fn encode(&self, out: &mut Encoder) {
        out.number(match self.language {
            Language::Python => 0u8,
            Language::JavaScript => 1,
        });
        out.bytes(self.cwd.as_os_str().as_bytes());
        out.number(self.stdin);
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Interpreter> {
        let language = match from.number()? {
            0 => Language::Python,
            1 => Language::JavaScript,
            _ => return None,
        };
        Some(Interpreter { language, cwd: from.os()?.into(), stdin: from.number()? == 1 })
    }
}

impl Message for Hello {
    fn encode(&self, out: &mut Encoder) {
        match self {
            Hello::Ready { tier, missing } => {
                out.number(0u8);
                tier.encode(out);
                out.list(missing, |out, protection| out.number(*protection as u64));
            }
            Hello::Fault(fault) => {
                out.number(1u8);
                fault.encode(out);
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Hello> {
        Some(match from.number()? {
            0 => {
                let protection = |from: &mut Decoder<'_>| Protection::ALL.get(from.small::<usize>()?).copied();
                Hello::Ready { tier: Tier::decode(from)?, missing: from.list(protection)? }
            }
            1 => Hello::Fault(Fault::decode(from)?),
            _ => return None,
        })
    }
}

impl Message for Tier {
    fn encode(&self, out: &mut Encoder) {
        out.number(match self {
            Tier::StrictWithoutProc => 0u8,
            Tier::Strict => 1,
            Tier::Oci => 2,
            Tier::Landlock => 3,
        });
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Tier> {
        Some(match from.number()? {
            0 => Tier::StrictWithoutProc,
            1 => Tier::Strict,
            2 => Tier::Oci,
            3 => Tier::Landlock,
            _ => return None,
        })
    }
}

impl Message for Fault {
    fn encode(&self, out: &mut Encoder) {
        out.bytes(self.step.as_bytes());
        out.number(self.errno as u64);
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Fault> {
        Some(Fault { step: from.text()?, errno: from.signed()? })
    }
}

impl Message for Used {
    fn encode(&self, out: &mut Encoder) {
        out.number(self.cpu_us);
        out.number(self.memory_peak);
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Used> {
        Some(Used { cpu_us: from.number()?, memory_peak: from.number()? })
    }
}

impl Message for Report {
    fn encode(&self, out: &mut Encoder) {
        match self {
            Report::Born(start) => {
                out.number(0u8);
                out.number(match start {
                    Start::Fresh => 0u8,
                    Start::Ready => 1,
                    Start::Warm => 2,
                });
            }
            Report::Outputs => out.number(1u8),
            Report::Fault(fault) => {
                out.number(2u8);
                fault.encode(out);
            }
            Report::Unfit(why) => {
                out.number(3u8);
                out.bytes(why.as_bytes());
            }
            Report::Ended { status, memory_exceeded, used } => {
                out.number(4u8);
                let (kind, code) = match status {
                    Status::Exit(code) => (0u8, code),
                    Status::Signal(signal) => (1, signal),
                };
                out.number(kind);
                out.number(*code as u64);
                out.number(*memory_exceeded);
                used.encode(out);
            }
            Report::Gone { memory_exceeded, used } => {
                out.number(5u8);
                out.number(*memory_exceeded);
                used.encode(out);
            }
            Report::Unbegun => out.number(6u8),
            Report::Unexecuted { why, found } => {
                out.number(7u8);
                out.bytes(why.as_bytes());
                out.number(*found);
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Report> {
        Some(match from.number()? {
            0 => Report::Born(match from.number()? {
                0 => Start::Fresh,
                1 => Start::Ready,
                2 => Start::Warm,
                _ => return None,
            }),
            1 => Report::Outputs,
            2 => Report::Fault(Fault::decode(from)?),
            3 => Report::Unfit(from.text()?),
            4 => {
                let status = match from.number()? {
                    0 => Status::Exit(from.signed()?),
                    1 => Status::Signal(from.signed()?),
                    _ => return None,
                };
                Report::Ended { status, memory_exceeded: from.number()? == 1, used: Used::decode(from)? }
            }
            5 => Report::Gone { memory_exceeded: from.number()? == 1, used: Used::decode(from)? },
            6 => Report::Unbegun,
            7 => Report::Unexecuted { why: from.text()?, found: from.number()? == 1 },
            _ => return None,
        })
    }
}

impl Message for Limits {
    fn encode(&self, out: &mut Encoder) {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        for number in [us(self.wall), us(self.cpu), self.memory, self.address_space.map_or(0, |space| space.max(1))] {
            out.number(number);
        }
        for number in [self.output, self.tmp, self.outputs] {
            out.number(number);
        }
        for number in [self.processes, self.files, self.open_files] {
            out.number(number);
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Limits> {
        Some(Limits {
            wall: Duration::from_micros(from.number()?),
            cpu: Duration::from_micros(from.number()?),
            memory: from.number()?,
            address_space: Some(from.number()?).filter(|space| *space > 0),
            output: from.number()?,
            tmp: from.number()?,
            outputs: from.number()?,
            processes: from.small()?,
            files: from.small()?,
            open_files: from.small()?,
        })
    }
}

impl Job {
    /// What of it a sandbox must know before its first instruction.
    ///
    /// `interpreter` is one that serves it as well, the limits aside.
    pub(crate) fn call(&self, interpreter: Option<Interpreter>) -> Call {
        let Limits { wall, memory, output, processes, .. } = self.limits;
        // These three are enforced from outside.
        let plain = self.limits == Limits { wall, memory, output, ..Limits::default() } && self.net == Net::None;
        let interpreter = interpreter.filter(|_| plain);
        Call { plain, loopback: self.net.loopback(), memory, processes, interpreter }
    }
}

impl Message for Job {
    fn encode(&self, out: &mut Encoder) {
        out.list(&self.argv, |out, word| out.bytes(word.as_bytes()));
        out.list(&self.env, |out, entry| out.bytes(entry.as_bytes()));
        out.bytes(self.cwd.as_os_str().as_bytes());
        out.list(&self.files, |out, (path, bytes)| {
            out.bytes(path.as_os_str().as_bytes());
            out.bytes(bytes);
        });
        self.limits.encode(out);
        match &self.net {
            Net::None => out.number(0u8),
            Net::Loopback => out.number(1u8),
            Net::Allow(hosts) => {
                out.number(2u8);
                out.list(hosts, |out, host| out.bytes(host.as_bytes()));
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Job> {
        Some(Job {
            argv: from.list(Decoder::os)?,
            env: from.list(Decoder::os)?,
            cwd: from.os()?.into(),
            files: from.list(|from| Some((from.os()?.into(), from.bytes()?.to_vec())))?,
            limits: Limits::decode(from)?,
            net: match from.number()? {
                0 => Net::None,
                1 => Net::Loopback,
                2 => Net::Allow(from.list(Decoder::text)?),
                _ => return None,
            },
        })
    }
}

/// Sends one message whole, with its descriptors.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in a message"));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message with its descriptors. `None`: the other side is closed.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(Errno::INTR) => (),
            Err(Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((received.bytes > 0).then_some((received.bytes, fds)))
}

/// A file in memory that nobody can change any more: how jobs and standard input go in.
pub(crate) fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memory(name)?);
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    seal(&file)?;
    Ok(file.into())
}

/// An empty file in memory that can be sealed.
pub(crate) fn memory(name: &str) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

/// Takes from everybody the right to change a file in memory.
pub(crate) fn seal(file: impl AsFd) -> io::Result<()> {
    Ok(fcntl_add_seals(file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?)
}

/// Reads such a file from its start.
pub(crate) fn read_all(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_crossing() {
        let used = Used { cpu_us: 7, memory_peak: 8 };
        let fault = Fault { step: "mount /proc".into(), errno: libc::EPERM };
        for report in [
            Report::Born(Start::Warm),
            Report::Outputs,
            Report::Fault(fault.clone()),
            Report::Unfit("no `x`".into()),
            Report::Unexecuted { why: "no `x`".into(), found: true },
            Report::Ended { status: Status::Exit(-1), memory_exceeded: true, used },
            Report::Ended { status: Status::Signal(9), memory_exceeded: false, used },
            Report::Gone { memory_exceeded: true, used },
        ] {
            assert_eq!(Report::parse(&report.bytes()).unwrap(), report);
        }
        let missing = Protection::ALL.to_vec();
        for hello in [Hello::Ready { tier: Tier::Landlock, missing }, Hello::Fault(fault)] {
            assert_eq!(Hello::parse(&hello.bytes()).unwrap(), hello);
        }
        let job = Job {
            argv: vec!["a b".into(), OsString::from_vec(vec![0xff, b'\n'])],
            env: vec!["A=b=c".into()],
            cwd: "/tmp".into(),
            files: vec![("/outputs/x".into(), vec![0, 1, 2])],
            limits: Limits { address_space: Some(5), ..Limits::default() },
            net: Net::Loopback,
        };
        assert_eq!(Job::parse(&job.bytes()).unwrap(), job);
        assert_eq!(Call::parse(&job.call(None).bytes()).unwrap(), job.call(None));
    }

    #[test]
    fn a_ready_sandbox_serves_only_what_it_was_made_for() {
        let job = |limits, net| Job { argv: vec![], env: vec![], cwd: "/".into(), files: vec![], limits, net };
        let default = Limits::default();
        let outside = Limits { wall: Duration::ZERO, memory: 1, output: 2, ..default.clone() };
        assert!(job(default.clone(), Net::None).call(None).plain);
        assert!(job(outside, Net::None).call(None).plain);
        assert!(!job(default.clone(), Net::Loopback).call(None).plain);
        for changed in [
            Limits { cpu: Duration::ZERO, ..default.clone() },
            Limits { address_space: Some(1), ..default.clone() },
            Limits { processes: 1, ..default.clone() },
            Limits { tmp: 1, ..default.clone() },
            Limits { outputs: 1, ..default.clone() },
            Limits { files: 1, ..default.clone() },
            Limits { open_files: 100, ..default.clone() },
        ] {
            assert!(!job(changed, Net::None).call(None).plain);
        }
    }

    #[test]
    fn bytes_of_something_else_are_refused() {
        let mut bytes = Report::Gone { memory_exceeded: false, used: Used::default() }.bytes();
        for length in 0..bytes.len() {
            assert!(Report::parse(&bytes[..length]).is_err());
        }
        bytes.push(0);
        assert!(Report::parse(&bytes).is_err());
        // A list that claims to be longer than the address space.
        assert!(Setup::parse(&u64::MAX.to_le_bytes()).is_err());
    }
}
