//! Run a command in a fresh sandbox: nothing of the host but what is named here, nothing left behind.
//!
//! ```no_run
//! # async fn example() -> Result<(), skep_sandbox::Error> {
//! use skep_sandbox::{Config, Request, Run, Sandbox};
//! let sandbox = Sandbox::start(Config::default()).await?;
//! let outcome = sandbox.run(Request::new(Run::Bash("echo hello; id".into())), Default::default()).await?;
//! println!("{}", String::from_utf8_lossy(&outcome.stdout));
//! # Ok(()) }
//! ```
//!
//! A program that uses this crate calls [`init`] as the first thing in `main`: the sandbox's helper process is the
//! program itself, executed again with a clean environment.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;

/// Becomes the helper process if that is what this program was started as; otherwise returns at once.
///
/// Call it first in `main`, before any thread is started.
pub fn init() {}

/// What a sandbox is made from; the same for all requests that it serves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The program that calls [`init`] first in its `main`. Default: the running program.
    pub helper: Option<PathBuf>,
    /// Directories of the host that every request sees, read-only. Named by the operator, never by a request.
    pub binds: Vec<Bind>,
    /// Requests that run at once; more of them wait.
    pub concurrency_max: usize,
    /// Requests that may wait; one more is refused with [`Error::Busy`].
    pub waiting_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { helper: None, binds: Vec::new(), concurrency_max: 64, waiting_max: 4096 }
    }
}

/// A directory of the host, seen read-only inside.
#[derive(Clone, Debug)]
pub struct Bind {
    /// Directory on the host.
    pub source: PathBuf,
    /// Absolute path inside, such as `/workspace`.
    pub target: PathBuf,
}

/// One thing to run.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to run.
    pub run: Run,
    /// Standard input.
    pub stdin: Vec<u8>,
    /// Files written into `/tmp` (or, by an absolute path, under `/outputs`) before the command starts.
    pub files: Vec<InFile>,
    /// Environment on top of the clean one (`PATH`, `HOME`, `LANG`).
    pub env: Vec<(String, String)>,
    /// Working directory inside. Default: `/tmp`.
    pub cwd: Option<PathBuf>,
    /// Ceilings.
    pub limits: Limits,
    /// What of the network it sees.
    pub net: Net,
    /// The least isolation that the caller accepts; less is an error.
    pub min_tier: Tier,
}

impl Request {
    /// A request with the default limits, no network and full isolation.
    pub fn new(run: Run) -> Request {
        Request {
            run,
            stdin: Vec::new(),
            files: Vec::new(),
            env: Vec::new(),
            cwd: None,
            limits: Limits::default(),
            net: Net::None,
            min_tier: Tier::Strict,
        }
    }
}

/// A program and how it is told what to do. Code goes in by a descriptor, never in the arguments, so it may be long.
#[derive(Clone, Debug)]
pub enum Run {
    /// A program by its path inside or its name on `PATH`, with its arguments.
    Argv(Vec<OsString>),
    /// A script for `sh`.
    Shell(String),
    /// A script for `bash`.
    Bash(String),
    /// A program for `python3`.
    Python(String),
    /// A program for `node`.
    JavaScript(String),
}

/// A file that the command finds.
#[derive(Clone, Debug)]
pub struct InFile {
    /// Path relative to `/tmp`, or absolute under `/tmp` or `/outputs`.
    pub path: PathBuf,
    /// Contents.
    pub bytes: Vec<u8>,
}

/// Ceilings of one request. Sizes in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Time from start to end.
    pub wall: Duration,
    /// CPU time of one process.
    pub cpu: Duration,
    /// Memory of the whole sandbox: exact where a cgroup was delegated, otherwise watched.
    pub memory: u64,
    /// Address space of one process.
    pub address_space: Option<u64>,
    /// Processes and threads.
    pub processes: u32,
    /// Standard output and standard error together.
    pub output: u64,
    /// Size of `/tmp`.
    pub tmp: u64,
    /// Size of `/outputs`.
    pub outputs: u64,
    /// Files in `/outputs`.
    pub files: u32,
    /// Open files of one process.
    pub open_files: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        const MIB: u64 = 1 << 20;
        Limits {
            wall: Duration::from_secs(10),
            cpu: Duration::from_secs(10),
            memory: 512 * MIB,
            address_space: None,
            processes: 64,
            output: MIB,
            tmp: 64 * MIB,
            outputs: 64 * MIB,
            files: 1024,
            open_files: 256,
        }
    }
}

/// What of the network a request sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Net {
    /// Nothing, not even loopback.
    #[default]
    None,
    /// A loopback interface of its own.
    Loopback,
}

/// How strong the isolation is, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// All namespaces but no `/proc` inside, where the machine masks it.
    StrictWithoutProc,
    /// All of it.
    Strict,
}

/// One thing that protects, for [`Outcome::missing`] and [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Protection {
    /// A hard ceiling on the memory of the whole sandbox (cgroup v2).
    MemoryOfAll,
    /// A fresh `/proc`.
    Proc,
}

/// How it ended and what it left.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How the command ended.
    pub end: End,
    /// Standard output, as far as the limit allowed.
    pub stdout: Vec<u8>,
    /// Standard error, likewise.
    pub stderr: Vec<u8>,
    /// Output was cut at the limit.
    pub truncated: bool,
    /// Regular files found under `/outputs` after all processes were dead.
    pub outputs: Vec<OutFile>,
    /// Entries under `/outputs` that were not taken (links, devices, too deep), with the reason.
    pub skipped: Vec<(PathBuf, &'static str)>,
    /// What it used.
    pub usage: Usage,
    /// Isolation that was in force.
    pub tier: Tier,
    /// What this machine could not enforce.
    pub missing: Vec<Protection>,
}

/// How a command ended. That it could not be started is an [`Error`] instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It ended by itself with this status.
    Exit(i32),
    /// A signal killed it.
    Signal(i32),
    /// The deadline came.
    Timeout,
    /// It wrote more than allowed.
    OutputLimit,
    /// It used more memory than allowed.
    MemoryLimit,
    /// The caller cancelled.
    Cancelled,
}

/// A file that the command left under `/outputs`.
#[derive(Clone, Debug)]
pub struct OutFile {
    /// Path relative to `/outputs`.
    pub path: PathBuf,
    /// Contents.
    pub bytes: Vec<u8>,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// What a request used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Time from request to answer.
    pub wall: Duration,
    /// CPU time of all processes.
    pub cpu: Duration,
    /// Largest resident set of one process, in bytes.
    pub memory_peak: u64,
}

/// What this machine can do, found out by running a real sandbox.
#[derive(Clone, Debug)]
pub struct Report {
    /// The strongest tier that works; `None` if none does.
    pub tier: Option<Tier>,
    /// What cannot be enforced.
    pub missing: Vec<Protection>,
    /// What is wrong and the exact cure, for people.
    pub advice: Vec<String>,
}

/// Why a request did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine cannot isolate as strongly as the request demands. Nothing was run.
    #[error("this machine cannot provide the isolation that was asked for: {reason}; {cure}")]
    Unavailable {
        /// What failed.
        reason: String,
        /// What to do about it.
        cure: String,
    },
    /// Too many requests run and wait already.
    #[error("too many requests are waiting for a sandbox; try again later")]
    Busy,
    /// The request itself is at fault.
    #[error("the request cannot be run: {0}")]
    Invalid(String),
    /// Setting the sandbox up failed at a step. Nothing was run.
    #[error("the sandbox could not be set up: {step}: {source}")]
    Setup {
        /// The step.
        step: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// [`init`] is not called first in `main`.
    #[error("the helper process did not answer; call skep_sandbox::init() first in main")]
    NoHelper,
}

/// A source of fresh sandboxes; cheap to clone. When the last clone is dropped, everything that still runs is killed.
#[derive(Clone, Debug)]
pub struct Sandbox {}

impl Sandbox {
    /// Start the helper process.
    pub async fn start(config: Config) -> Result<Sandbox, Error> {
        let _ = config;
        Ok(Sandbox {})
    }

    /// Run one request in a fresh sandbox of its own.
    pub async fn run(&self, request: Request, cancel: CancellationToken) -> Result<Outcome, Error> {
        let _ = (request, cancel);
        Err(Error::NoHelper)
    }

    /// Find out what this machine can do, by running a real sandbox.
    pub async fn probe(&self) -> Report {
        Report { tier: None, missing: Vec::new(), advice: Vec::new() }
    }
}
