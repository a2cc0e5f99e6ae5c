//! What a caller asks for.
//!
//! Owns the public types of a request; `job.rs` translates them for the other side.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use tokio::sync::mpsc::Sender;

use crate::{output::Piece, tier::Tier};

/// Where programs are looked for inside.
const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/bin";
/// The clean environment. Modules of a request lie in `/tmp`, its program in `/code`.
pub(crate) const ENVIRONMENT: [&str; 6] =
    [PATH, "HOME=/tmp", "LANG=C.UTF-8", "PYTHONPATH=/tmp", "PYTHONDONTWRITEBYTECODE=1", "NODE_PATH=/tmp"];
/// Where a command starts.
pub(crate) const CWD: &str = "/tmp";
/// Bytes of a program, and of `/code`, where it lies.
pub(crate) const CODE_MAX: u64 = 8 << 20;

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
    /// Hears what the command prints, as it prints it, in pieces of at most [`PIECE_BYTES_MAX`](crate::PIECE_BYTES_MAX).
    /// It gets what is in the outcome, nothing less or more. Neither the command nor its deadline waits for a slow one,
    /// but [`Sandbox::run`](crate::Sandbox::run) returns only when it has taken everything, or was dropped.
    pub sink: Option<Sender<Piece>>,
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
            sink: None,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Net {
    /// Nothing, not even loopback.
    #[default]
    None,
    /// A loopback interface of its own.
    Loopback,
    /// A loopback interface of its own, and on it an HTTP proxy that leads to these hosts, each `host:port`, as far as
    /// [`Config::gate`](crate::Config::gate) lets it. The usual variables (`HTTPS_PROXY`, …) tell programs of it.
    Allow(Vec<String>),
}

impl Net {
    /// Whether there is a loopback interface.
    pub(crate) fn loopback(&self) -> bool {
        *self != Net::None
    }
}
