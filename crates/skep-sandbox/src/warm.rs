//! Interpreters that have started before their program is there.
//!
//! Starting `python3` takes ten times as long as everything else about a request, `node` thirty times. So one can be
//! started ahead, inside a locked sandbox of its own, by the very command line that a request would use:
//! `python3 /code/main.py`. At that path lies a named pipe. The interpreter initialises itself, opens its program, and
//! waits in `read` for the first byte of it. When the request comes, the keeper writes its files, puts the program at
//! the path as an ordinary file (a traceback shows its lines from there), and then into the pipe. Nothing is emulated:
//! it *is* the usual start, held up in the middle. It serves this one request and dies.
//!
//! Owns which requests can be served that way without a difference ([`Interpreter::of`]), and the delivery. How many
//! wait is `pool.rs`.
//!
//! What a program could tell: the process is older than the request (`performance.now()`, its start time), and the
//! interpreter's start is in its processor time in any case.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    pipe::fcntl_getpipe_size,
};

use crate::{
    Limits, Net, Request, Run, command,
    fault::{At, Fault},
    request,
    wire::{self, Job, Message as _},
};

/// Longest program that is delivered, in bytes: what a pipe takes at once. Starting an interpreter is not what makes a
/// longer one slow.
const PROGRAM_MAX: usize = 64 << 10;
/// Longest working directory that an interpreter is kept waiting in, in bytes.
const CWD_MAX: usize = 1024;
/// Where a program is written before it takes the place of the pipe.
const ASIDE: &str = "/code/.main";

/// A language whose interpreter can be started ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    JavaScript,
}

impl Language {
    /// The command line, of which the last word is the program's path.
    pub(crate) fn words(self) -> [&'static str; 2] {
        match self {
            Language::Python => ["python3", "/code/main.py"],
            Language::JavaScript => ["node", "/code/main.js"],
        }
    }

    fn program(self) -> &'static str {
        self.words()[1]
    }

    /// Whether the start of the interpreter looks for a file of that path below `/tmp`.
    ///
    /// Python imports modules while it starts and lists `/tmp`, which is on its path. Node looks nowhere but beside its
    /// program.
    fn looks_for(self, path: &Path) -> bool {
        let Ok(path) = Path::new("/tmp").join(path).strip_prefix("/tmp").map(Path::to_owned) else { return false };
        let module = |extension: &std::ffi::OsStr| ["py", "pyc", "so"].iter().any(|one| extension == *one);
        self == Language::Python && (path.components().count() > 1 || path.extension().is_some_and(module))
    }

    /// Whether the interpreter would want to go back in its program after having read some: Python does for a
    /// declaration of its encoding, which stands in the first two lines.
    fn goes_back(self, code: &str) -> bool {
        self == Language::Python && code.lines().take(2).any(|line| line.contains("coding"))
    }
}

/// An interpreter as it would be started for a request: two that are equal cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    pub(crate) language: Language,
    pub(crate) cwd: PathBuf,
    /// Standard input is a file, not `/dev/null`.
    pub(crate) stdin: bool,
}

impl Interpreter {
    /// The one that could have been started before `request` was known. `None`: the request has a say in its start.
    pub(crate) fn of(request: &Request) -> Option<Interpreter> {
        let (language, code) = match &request.run {
            Run::Python(code) => (Language::Python, code),
            Run::JavaScript(code) => (Language::JavaScript, code),
            Run::Argv(_) | Run::Shell(_) | Run::Bash(_) => return None,
        };
        let cwd = request.cwd.clone().unwrap_or_else(|| request::CWD.into());
        let unchanged = request.env.is_empty()
            && code.len() <= PROGRAM_MAX
            && cwd.as_os_str().len() <= CWD_MAX
            && !language.goes_back(code)
            && !request.files.iter().any(|file| language.looks_for(&file.path));
        unchanged.then_some(Interpreter { language, cwd, stdin: !request.stdin.is_empty() })
    }

    /// The job of starting it, without a program.
    pub(crate) fn job(&self) -> Job {
        Job {
            argv: self.language.words().map(OsString::from).to_vec(),
            env: request::ENVIRONMENT.map(OsString::from).to_vec(),
            cwd: self.cwd.clone(),
            files: Vec::new(),
            limits: Limits::default(),
            net: Net::None,
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InFile;

    fn python(code: &str) -> Request {
        Request::new(Run::Python(code.into()))
    }

    #[test]
    fn a_request_that_has_a_say_in_the_start_of_its_interpreter_gets_its_own() {
        assert!(Interpreter::of(&python("1")).is_some());
        assert!(Interpreter::of(&python(&"#".repeat(PROGRAM_MAX))).is_some());
        assert!(Interpreter::of(&python(&"#".repeat(PROGRAM_MAX + 1))).is_none());
        assert!(Interpreter::of(&python("#!/usr/bin/python3\n# -*- coding: latin-1 -*-\n")).is_none());
        assert!(Interpreter::of(&python("\n\n# -*- coding: latin-1 -*-\n")).is_some());
        assert!(Interpreter::of(&Request { env: vec![("A".into(), "b".into())], ..python("1") }).is_none());
        assert!(Interpreter::of(&Request { cwd: Some("/x".repeat(CWD_MAX).into()), ..python("1") }).is_none());
        assert!(Interpreter::of(&Request::new(Run::Bash("1".into()))).is_none());
    }

    #[test]
    fn files_that_python_looks_for_while_it_starts_keep_it_from_being_started_before() {
        let with = |path: &str| {
            let files = vec![InFile { path: path.into(), bytes: Vec::new() }];
            (
                Request { files: files.clone(), ..python("1") },
                Request { files, ..Request::new(Run::JavaScript("1".into())) },
            )
        };
        for path in ["data.csv", "/tmp/data.csv", "/outputs/a/b.py", "data"] {
            assert!(Interpreter::of(&with(path).0).is_some(), "{path}");
        }
        for path in ["os.py", "/tmp/sitecustomize.py", "package/data", "x.cpython-311.so", ".local/lib/x"] {
            let (python, javascript) = with(path);
            assert!(Interpreter::of(&python).is_none(), "{path}");
            assert!(Interpreter::of(&javascript).is_some(), "{path}");
        }
    }
}
