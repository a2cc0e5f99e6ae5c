//! Interpreters that have started before their program is there.
//!
//! Starting `python3` takes ten times as long as everything else about a request, `node` thirty times. So one can be
//! started ahead, inside a locked sandbox of its own, by the very command line that a request would use:
//! `python3 /code/main.py`. At that path lies a named pipe. The interpreter initialises itself, opens its program, and
//! waits in `read` for the first byte of it. When the request comes, the keeper writes its files, puts the program at
//! the path as an ordinary file (a traceback shows its lines from there), and then into the pipe. Nothing is emulated:
//! it *is* the usual start, held up in the middle. It serves this one request and dies.
//!
//! Owns the delivery. Which requests can be served that way without a difference is [`Interpreter::of`], how many wait is
//! `pool.rs`.
//!
//! [`Interpreter::of`]: crate::interpreter::Interpreter::of
//!
//! What a program could tell: the process is older than the request (`performance.now()`, its start time), and the
//! interpreter's start is in its processor time in any case.

use std::{
    fs,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    pipe::fcntl_getpipe_size,
};

use crate::{
    command,
    fault::{At, Fault},
    interpreter::{Language, PROGRAM_MAX},
    wire::{self, Job, Message as _},
};

/// Where a program is written before it takes the place of the pipe.
const ASIDE: &str = "/code/.main";

/// Why a delivery failed.
pub(crate) enum Undelivered {
    /// The request is at fault: how.
    Unfit(String),
    /// Something else is.
    Fault(Fault),
}

impl From<Fault> for Undelivered {
    fn from(fault: Fault) -> Undelivered {
        Undelivered::Fault(fault)
    }
}

/// The keeper's ends of what an interpreter waits for.
pub(crate) struct Awaited {
    path: &'static str,
    program: OwnedFd,
    stdin: Option<OwnedFd>,
}

impl Awaited {
    /// Puts the pipe where the program will be. `stdin` is the interpreter's standard input, still empty.
    pub(crate) fn new(language: Language, stdin: Option<OwnedFd>) -> Result<Awaited, Fault> {
        let path = language.program();
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o755), 0).at("make the pipe of a program")?;
        // Opened for both, so that neither side has to be there first.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let program = open(path, flags, Mode::empty()).at("open the pipe of a program")?;
        // Users who have many pipes get small ones.
        if fcntl_getpipe_size(&program).at("measure the pipe of a program")? < PROGRAM_MAX {
            return Err(rustix::io::Errno::MFILE).at("have a pipe as large as a program");
        }
        Ok(Awaited { path, program, stdin })
    }

    /// Gives a waiting interpreter its request. Everything else is in place before the program, with which it starts.
    pub(crate) fn deliver(self, job: OwnedFd, stdin: Option<OwnedFd>) -> Result<(), Undelivered> {
        let job = Job::parse(&wire::read_all(job).at("read the job")?).at("read the job")?;
        if let (Some(to), Some(from)) = (self.stdin, stdin) {
            fill(to, from).at("pass standard input on")?;
        }
        let mut program = None;
        for (path, bytes) in &job.files {
            let (path, at) = match path == Path::new(self.path) && program.is_none() {
                true => (path, Path::new(ASIDE)),
                false => (path, path.as_path()),
            };
            command::write(at, bytes).map_err(|error| Undelivered::Unfit(command::unwritten(path, &error)))?;
            if at == Path::new(ASIDE) {
                program = Some(bytes);
            }
        }
        fs::rename(ASIDE, self.path).at("put the program in place")?;
        let program = program.map(Vec::as_slice).unwrap_or_default();
        let written =
            if program.is_empty() { 0 } else { rustix::io::write(&self.program, program).at("pass the program on")? };
        // It fits, as was seen when the pipe was made.
        if written < program.len() {
            return Err(Fault { step: "pass all of the program on".into(), errno: libc::EIO }.into());
        }
        Ok(())
    }
}

/// Copies what will be read into a file that is open for reading elsewhere, from its start, and seals it.
fn fill(to: OwnedFd, from: OwnedFd) -> io::Result<()> {
    const CHUNK: usize = 64 << 10;
    let (to, mut from) = (fs::File::from(to), fs::File::from(from));
    let (mut buffer, mut at) = (vec![0; CHUNK], 0);
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        // By position: the other side shares our offset.
        to.write_all_at(&buffer[..length], at)?;
        at += length as u64;
    }
    wire::seal(to)
}
