//! A server as a process of ours: started with streams, and ended with everything that it has started.
//!
//! `npx`, `uvx` and shells stand between us and the server, and servers start browsers and more. So each server is below a guard,
//! which is the parent of all that it has started (`guard.rs`), leads a group of its own, and carries a mark in its environment,
//! by which what has lost its guard is found in `/proc`. The mark names the hub as well: what a hub that was killed has left
//! is ended by the next one.

use std::{
    collections::VecDeque,
    fs, io,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use skep_mcp::{
    client::{Dial, Flow, Streams, flooded},
    framing::Lines,
};
use tokio::{
    io::BufReader,
    process::{Child, ChildStderr},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    environment::inherited,
    guard,
    processes::{self, stat},
};
use crate::config::servers::Command;

/// How long a process may take to end after its input has ended, and again after SIGTERM.
const END_TIME_MAX: Duration = Duration::from_secs(2);
/// How long what a process wrote last may take to be read.
pub(super) const LAST_WORDS_MAX: Duration = Duration::from_millis(500);
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

    /// What follows is another process's.
    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
                self.stderr.clear();
            }
            let (process, streams) = Process::spawn(&self.name, &self.command, &self.stderr).await?;
            self.process = Some(process);
            Ok(streams)
        })
    }
}

/// A process, and what it has started. Dropped, all of it is killed.
pub(super) struct Process {
    /// The guard, or the server if there is none.
    child: Child,
    pid: u32,
    mark: String,
    /// The reader of its standard error.
    reading: JoinSet<()>,
    /// Cancelled when that is flooded.
    flooded: CancellationToken,
    is_ended: bool,
}

impl Process {
    async fn spawn(name: &str, command: &Command, stderr: &Stderr) -> io::Result<(Process, Streams)> {
        sweep_orphans().await;
        let hub = Hub::this();
        let mark = format!("{name}-{}-{}-{:016x}", hub.pid, hub.started, random());
        let mut process = guard::command(&command.program);
        process.args(&command.args).env_clear().envs(inherited(name)).env(MARK, &mark);
        process.envs(command.env.iter().map(|(name, value)| (name, value.reveal())));
        if let Some(cwd) = &command.cwd {
            process.current_dir(cwd);
        }
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process.process_group(0).kill_on_drop(true);
        let mut child = process.spawn().map_err(|error| {
            let cwd = command.cwd.as_ref().map_or(String::new(), |cwd| format!(" in {}", cwd.display()));
            io::Error::new(error.kind(), format!("`{}` cannot be started{cwd}: {error}", command.program))
        })?;
        let missing = || io::Error::other("the process has no streams");
        let (input, output) = (child.stdout.take().ok_or_else(missing)?, child.stdin.take().ok_or_else(missing)?);
        let errors = child.stderr.take().ok_or_else(missing)?;
        let pid = child.id().ok_or_else(missing)?;
        let mut reading = JoinSet::new();
        let flooded = CancellationToken::new();
        reading.spawn(read(name.to_owned(), errors, stderr.clone(), flooded.clone()));
        let process = Process { child, pid, mark, reading, flooded, is_ended: false };
        Ok((process, Streams { input: Box::new(input), output: Box::new(output) }))
    }

    /// Wait until it has ended by itself, or is to be ended.
    pub(super) async fn ended(&mut self) {
        tokio::select! {
            _ = self.child.wait() => {}
            () = self.flooded.cancelled() => {}
        }
    }

    /// Why it is to be ended, if it is.
    pub(super) fn fault(&self) -> Option<String> {
        self.flooded.is_cancelled().then(|| flooded("standard error", "lines"))
    }

    /// How it ended, if it has, once what it said last has been read.
    pub(super) async fn last_words(&mut self, time_max: Duration) -> Option<ExitStatus> {
        let status = timeout(time_max, self.child.wait()).await.ok()?;
        let _ = timeout(time_max, self.reading.join_next()).await; // somebody else may hold it open
        status.ok()
    }

    /// The number of the server's own process, once it has begun.
    pub(super) fn server(&self) -> Option<u32> {
        if guard::is_set_up() { processes::children(self.pid).first().copied() } else { Some(self.pid) }
    }

    /// End it, after its input has been closed: wait, then SIGTERM, then SIGKILL.
    pub(super) async fn end(mut self) -> Option<ExitStatus> {
        let mut status = timeout(END_TIME_MAX, self.child.wait()).await.ok();
        if status.is_none() {
            if let Some(server) = self.server() {
                signal_group(server, Signal::TERM);
            }
            status = timeout(END_TIME_MAX, self.child.wait()).await.ok();
        }
        let killed = self.kill().await;
        status.and_then(Result::ok).or(killed)
    }

    /// Kill it, and all that it has started.
    pub(super) async fn kill(mut self) -> Option<ExitStatus> {
        self.is_ended = true;
        let (leader, mark) = (self.leader(), self.mark.clone());
        let _ = tokio::task::spawn_blocking(move || kill_all(leader, &mark)).await;
        let _ = self.child.start_kill(); // it may have begun nothing yet, or be stuck
        let status = self.child.wait().await.ok();
        // What it said last is in the pipe, unless somebody holds that open.
        let _ = timeout(Duration::from_millis(100), self.reading.join_next()).await;
        status
    }

    /// The process that we have started, unless it has been waited for: then its number may be another's.
    fn leader(&self) -> Option<u32> {
        self.child.id().map(|_| self.pid)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_ended {
            kill_all(self.leader(), &self.mark);
        }
    }
}

/// Kill what a process has started, and then the process: a guard has to be there until nothing is left below it.
fn kill_all(leader: Option<u32>, mark: &str) {
    if let Some(leader) = leader {
        if !processes::kill_below(leader, || ()) {
            tracing::warn!(mark, "processes of a server start others faster than they can be killed");
        }
        signal_group(leader, Signal::KILL);
    }
    sweep(mark);
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
    kill_where(|_, found| found == mark)
}

/// Kill what hubs of this machine have left that ended without ending their servers; once in the life of a hub.
async fn sweep_orphans() {
    static IS_DONE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let sweep = async {
        let Ok(ours) = fs::read_link("/proc/self/ns/pid") else { return };
        // In another PID namespace, a container for instance, the number of the hub is somebody else's here.
        let is_orphan = move |process: &Path, mark: &str| {
            Hub::of(mark).is_some_and(|hub| !hub.is_alive())
                && fs::read_link(process.join("ns/pid")).is_ok_and(|theirs| theirs == ours)
        };
        let sweeping = move || (0..SWEEPS_MAX).any(|_| !kill_where(&is_orphan));
        if let Ok(false) = tokio::task::spawn_blocking(sweeping).await {
            tracing::warn!("processes of a hub that has ended cannot be ended");
        }
    };
    IS_DONE.get_or_init(|| sweep).await;
}

/// A hub, as marks name it. Numbers of processes are used again, so the time of its start (in ticks since the machine's)
/// belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hub {
    pid: u32,
    started: u64,
}

impl Hub {
    fn this() -> Hub {
        let pid = std::process::id();
        Hub { pid, started: stat(pid).map_or(0, |stat| stat.started) }
    }

    /// The hub in a mark: `NAME-PID-STARTED-RANDOM`.
    fn of(mark: &str) -> Option<Hub> {
        let mut parts = mark.rsplitn(4, '-').skip(1);
        let (started, pid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().map(|_name| Hub { pid, started })
    }

    fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started)
    }
}

/// Kill what has a mark that is so, given its directory in `/proc`; whether there was anything.
fn kill_where(is_so: impl Fn(&Path, &str) -> bool) -> bool {
    let prefix = format!("{MARK}=");
    let mut found = false;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        // Opened before the environment is read: then what is killed is what was read, whoever has the number later.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default(); // empty once it is dead
        let mut variables = environment.split(|byte| *byte == 0);
        let mark = variables.find_map(|variable| variable.strip_prefix(prefix.as_bytes()));
        let mark = mark.and_then(|mark| std::str::from_utf8(mark).ok());
        if mark.is_some_and(|mark| is_so(&entry.path(), mark)) {
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

fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    // Interrupted at most; the kernel's generator does not fail once it has been seeded.
    while rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(bytes.len()) {}
    u64::from_ne_bytes(bytes)
}

/// Keep the last lines.
async fn read(name: String, errors: ChildStderr, stderr: Stderr, flooded: CancellationToken) {
    let mut lines = Lines::new(BufReader::new(errors), STDERR_LINE_BYTES_MAX);
    let flow = Flow::default();
    while let Ok(Some(line)) = lines.next().await {
        let is_bearable = flow.pass(line.map_or(STDERR_LINE_BYTES_MAX, <[u8]>::len)).await;
        if !is_bearable {
            return flooded.cancel();
        }
        let text = match line {
            Ok([]) => continue,
            Ok(line) => String::from_utf8_lossy(line).into_owned(),
            Err(_) => format!("(a line of more than {STDERR_LINE_BYTES_MAX} bytes)"),
        };
        tracing::debug!(server = name, "{text}");
        stderr.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_its_hub_whatever_the_server_is_called() {
        let hub = Hub::this();
        assert!(hub.started > 0 && hub.is_alive());
        assert_eq!(Hub::of(&format!("a-b-7-{}-{}-00ff", hub.pid, hub.started)), Some(hub));
        assert!(!Hub { started: hub.started + 1, ..hub }.is_alive(), "another process with its number");
        for mark in ["", "a", "a-00ff", "1-2-00ff", "a-x-2-00ff", "a-1-x-00ff"] {
            assert_eq!(Hub::of(mark), None, "{mark}");
        }
    }
}
