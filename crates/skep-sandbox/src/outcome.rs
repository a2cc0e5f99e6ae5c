//! What a caller gets back.

use std::{path::PathBuf, time::Duration};

use crate::{Connection, Protection, Tier};

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
    /// How its sandbox came to be. `None`: it was cancelled before it had one.
    pub start: Option<Start>,
    /// Connections that it asked for, if it was granted hosts; the first 256.
    pub connections: Vec<Connection>,
    /// Isolation that was in force.
    pub tier: Tier,
    /// What this machine could not enforce.
    pub missing: Vec<Protection>,
}

/// How the sandbox of a request came to be. They differ in speed only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It was made when the request came.
    Fresh,
    /// It had been made ahead.
    Ready,
    /// It had been made ahead, and its interpreter started.
    Warm,
}

/// How a command ended. That it could not be started is an [`Error`](crate::Error) instead.
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
