//! A server as a process of ours: started with streams, and ended with everything that it has started.
//!
//! `npx`, `uvx` and shells stand between us and the server, and servers start browsers and more. So each process leads a
//! group of its own, and carries a mark in its environment by which what has left the group is found in `/proc`.
//! Its environment is not ours: tokens of the hub are not for it.

use std::{
    collections::VecDeque,
    fs, io,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use skep_mcp::{
    client::{Dial, Streams},
    framing::Lines,
};
use tokio::{
    io::BufReader,
    process::{Child, ChildStderr},
    task::JoinSet,
    time::timeout,
};

use super::config::Command;

/// How long a process may take to end after its input has ended, and again after SIGTERM.
const END_TIME_MAX: Duration = Duration::from_secs(2);
/// Lines of standard error that are kept.
const STDERR_LINES_MAX: usize = 50;
/// Bytes of such a line.
const STDERR_LINE_BYTES_MAX: usize = 1000;
/// Lines of standard error that go into a message.
const SHOWN_LINES: usize = 5;
/// How often new processes are looked for while all are killed.
const SWEEPS_MAX: usize = 10;

/// The variable that marks all processes of a server.
const MARK: &str = "SKEP_SERVER";
/// Variables of ours that servers get: what programs need to find their files and the network.
const INHERITED: [&str; 20] = [
    "HOME",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "USER",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
];
/// The same by how they begin: locales, directories, and where package runners get their packages.
const INHERITED_PREFIXES: [&str; 6] = ["LC_", "XDG_", "npm_config_", "NPM_CONFIG_", "UV_", "PIP_"];

/// The last lines of a standard error.
#[derive(Clone, Default)]
pub(super) struct Stderr(Arc<Mutex<VecDeque<String>>>);

impl Stderr {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == STDERR_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// All that is kept.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The end of it, for a message; empty if there is nothing.
    pub(super) fn shown(&self) -> String {
        let lines = self.lines();
        let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        if last.is_empty() { String::new() } else { format!("; it last said: {}", last.join(" | ")) }
    }
}

/// Starts the process of a server, again if need be.
pub(super) struct Spawner {
    command: Command,
    /// What `name` in the log is.
    name: String,
    pub(super) stderr: Stderr,
    pub(super) process: Option<Process>,
}

impl Spawner {
    pub(super) fn new(name: &str, command: Command, stderr: Stderr) -> Spawner {
        Spawner { command, name: name.to_owned(), stderr, process: None }
    }
}

impl Dial for Spawner {
    fn dial(&mut self) -> BoxFuture<'_, io::Result<Streams>> {
        Box::pin(async {
            if let Some(process) = self.process.take() {
                process.kill().await;
            }
            let (process, streams) = Process::spawn(&self.name, &self.command, &self.stderr)?;
            self.process = Some(process);
            Ok(streams)
        })
    }
}

/// A process, and what it has started. Dropped, all of it is killed.
pub(super) struct Process {
    child: Child,
    pub(super) pid: u32,
    mark: String,
    /// The reader of its standard error.
    reading: JoinSet<()>,
    is_ended: bool,
}

impl Process {
    fn spawn(name: &str, command: &Command, stderr: &Stderr) -> io::Result<(Process, Streams)> {
        let mark = format!("{name}-{:016x}", random());
        let mut process = tokio::process::Command::new(&command.program);
        process.args(&command.args).env_clear().envs(inherited()).env(MARK, &mark);
        process.envs(command.env.iter().map(|(name, value)| (name, value.reveal())));
        if let Some(cwd) = &command.cwd {
            process.current_dir(cwd);
        }
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process.process_group(0).kill_on_drop(true);
        let spawned = process.spawn().map_err(|error| {
            let cwd = command.cwd.as_ref().map_or(String::new(), |cwd| format!(" in {}", cwd.display()));
            io::Error::new(error.kind(), format!("`{}` cannot be started{cwd}: {error}", command.program))
        })?;
        let mut child = spawned;
        let missing = || io::Error::other("the process has no streams");
        let (input, output) = (child.stdout.take().ok_or_else(missing)?, child.stdin.take().ok_or_else(missing)?);
        let errors = child.stderr.take().ok_or_else(missing)?;
        let pid = child.id().ok_or_else(missing)?;
        let mut reading = JoinSet::new();
        reading.spawn(read(name.to_owned(), errors, stderr.clone()));
        let process = Process { child, pid, mark, reading, is_ended: false };
        Ok((process, Streams { input: Box::new(input), output: Box::new(output) }))
    }

    /// Wait until it has ended by itself. What it started may go on.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// How it ended, if it has, once what it said last has been read.
    pub(super) async fn last_words(&mut self, time_max: Duration) -> Option<ExitStatus> {
        let status = timeout(time_max, self.child.wait()).await.ok()?;
        let _ = timeout(time_max, self.reading.join_next()).await; // somebody else may hold it open
        status.ok()
    }

    /// End it, after its input has been closed: wait, then SIGTERM, then SIGKILL.
    pub(super) async fn end(mut self) -> Option<ExitStatus> {
        let mut status = timeout(END_TIME_MAX, self.child.wait()).await.ok();
        if status.is_none() {
            signal_group(self.pid, Signal::TERM);
            status = timeout(END_TIME_MAX, self.child.wait()).await.ok();
        }
        let killed = self.kill().await;
        status.and_then(Result::ok).or(killed)
    }

    /// Kill it, and all that it has started.
    pub(super) async fn kill(mut self) -> Option<ExitStatus> {
        self.is_ended = true;
        let (pid, mark) = (self.pid, self.mark.clone());
        // The group first: its number is not given away while the leader is not waited for.
        if self.child.id().is_some() {
            signal_group(pid, Signal::KILL);
        }
        let _ = tokio::task::spawn_blocking(move || sweep(&mark)).await;
        let status = self.child.wait().await.ok();
        // What it said last is in the pipe, unless somebody holds that open.
        let _ = timeout(Duration::from_millis(100), self.reading.join_next()).await;
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_ended {
            return;
        }
        if self.child.id().is_some() {
            signal_group(self.pid, Signal::KILL);
        }
        sweep(&self.mark);
    }
}

/// Kill what has the mark, until nothing has: processes may start others meanwhile.
fn sweep(mark: &str) {
    for _ in 0..SWEEPS_MAX {
        if !kill_marked(mark) {
            return;
        }
    }
    tracing::warn!(mark, "processes of a server cannot be ended");
}

/// Whether there was anything.
fn kill_marked(mark: &str) -> bool {
    let wanted = format!("{MARK}={mark}");
    let mut found = false;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        // Opened before the environment is read: then what is killed is what was read, whoever has the number later.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default(); // empty once it is dead
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            found |= pidfd_send_signal(&process, Signal::KILL).is_ok();
        }
    }
    found
}

fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal); // nobody is left in it
    }
}

fn inherited() -> impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            INHERITED.contains(&name) || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
    })
}

fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    // Interrupted at most; the kernel's generator does not fail once it has been seeded.
    while rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(bytes.len()) {}
    u64::from_ne_bytes(bytes)
}

/// Keep the last lines.
async fn read(name: String, errors: ChildStderr, stderr: Stderr) {
    let mut lines = Lines::new(BufReader::new(errors), STDERR_LINE_BYTES_MAX);
    while let Ok(Some(line)) = lines.next().await {
        let text = match line {
            Ok([]) => continue,
            Ok(line) => String::from_utf8_lossy(line).into_owned(),
            Err(_) => format!("(a line of more than {STDERR_LINE_BYTES_MAX} bytes)"),
        };
        tracing::debug!(server = name, "{text}");
        stderr.push(text);
    }
}
