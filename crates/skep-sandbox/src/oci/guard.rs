//! The end of containers, also when the server has no time for it.
//!
//! A container is not a descendant of the program that asked for it, so a killed server (`kill -9`) leaves its
//! containers running. So beside a server with containers there is a guard: this program, executed again, which waits
//! for the end of a pipe that only the server holds open, ends what the server has started, and goes. If somebody kills
//! the guard as well, the next server that starts containers does it.
//!
//! Owns the directory of a server's containers, which says what there is to end: the runtime, and below it one directory
//! for each container.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, flock, openat},
    process::{Pid, Signal, geteuid, kill_process, setsid},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, time::timeout};

use super::Kind;
use crate::{Error, bare, sys};

/// The program name under which an executable becomes the guard.
pub(crate) const NAME: &str = "skep-sandbox-guard";
/// How the directories of servers begin.
const PREFIX: &str = "skep-containers-";
/// In such a directory: which runtime it is, and its program.
const RUNTIME: &str = "runtime";
/// How long a guard may take to be there.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// Rounds of ending what is there. One may be just being made, so a single one is not enough.
const ROUNDS: usize = 200;
/// Time between two rounds.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The directory of a server's containers, and what ends them. Dropped, all of them end.
#[derive(Debug)]
pub(super) struct Guarded {
    pub(super) directory: PathBuf,
    /// Held for as long as this server lives.
    _lock: OwnedFd,
    /// The guard, which ends when its standard input does.
    _guard: tokio::process::Child,
}

impl Guarded {
    /// Ends what dead servers have left, makes the directory, and starts the guard, which is `helper`.
    pub(super) async fn start(helper: &Path, kind: Kind, program: &Path) -> Result<Guarded, Error> {
        if std::env::args_os().next().is_some_and(|name| name == NAME) {
            // `init` was not called, and we are the guard.
            return Err(Error::NoHelper);
        }
        let setup = |step: &str| {
            let step = step.to_owned();
            move |source: io::Error| Error::Setup { step, source }
        };
        let swept = tokio::task::spawn_blocking(|| sweep(&std::env::temp_dir()));
        // A panic in it is no reason not to go on.
        let _ = swept.await;
        let (directory, lock) = make(kind, program).map_err(setup("make a directory for containers"))?;
        let mut guard = tokio::process::Command::new(helper)
            .arg0(NAME)
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(setup("execute the guard"))?;
        let ready = guard.stdout.take();
        let ready = async { ready.ok_or(io::ErrorKind::BrokenPipe)?.read_u8().await };
        match timeout(READY_WITHIN, ready).await {
            Ok(Ok(_)) => Ok(Guarded { directory: directory.keep(), _lock: lock, _guard: guard }),
            _ => Err(Error::NoHelper),
        }
    }

    /// What the names and labels of this server's containers have in common.
    pub(super) fn name(&self) -> String {
        name(&self.directory)
    }
}

/// The runtimes' names are plain.
fn name(directory: &Path) -> String {
    let last = directory.file_name().unwrap_or_default().to_string_lossy();
    format!("skep-{}", last.trim_start_matches(PREFIX).replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"))
}

fn make(kind: Kind, program: &Path) -> io::Result<(TempDir, OwnedFd)> {
    let directory = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
    let lock = open(directory.path())?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let runtime = [kind.as_str().as_bytes(), b"\n", program.as_os_str().as_bytes()].concat();
    fs::write(directory.path().join(RUNTIME), runtime)?;
    Ok((directory, lock))
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The guard: what an executable started under [`NAME`] does instead of its own work.
pub(crate) fn main() -> ! {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else { sys::exit(2) };
    // What ends the server's group or terminal is not to end this one with it.
    let _ = setsid();
    if sys::close_from(3).is_err() || io::Write::write_all(&mut io::stdout(), b"r").is_err() {
        sys::exit(1);
    }
    let _ = io::Write::flush(&mut io::stdout());
    // Nothing is ever written: it is over when there is nothing to read.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    end(&directory);
    sys::exit(0)
}

/// Ends containers of servers that are dead and had no guard left.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())) {
        let own = entry.metadata().is_ok_and(|data| data.is_dir() && data.uid() == geteuid().as_raw());
        if own
            && let Ok(lock) = open(&entry.path())
            && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && entry.path().join(RUNTIME).exists()
        {
            end(&entry.path());
        }
    }
}

/// Ends every container whose directory is below this one, and removes it.
fn end(directory: &Path) {
    let Ok(runtime) = fs::read(directory.join(RUNTIME)) else { return };
    let Some(at) = runtime.iter().position(|byte| *byte == b'\n') else { return };
    let program = PathBuf::from(std::ffi::OsString::from_vec(runtime[at + 1..].to_vec()));
    let Some(kind) = Kind::of(&runtime[..at]) else { return };
    let over = (0..ROUNDS).any(|_| {
        // Whoever is about to make one first.
        let callers = kill_callers(&program, directory);
        let living = match kind {
            Kind::Runtime => end_bundles(&program, directory),
            Kind::Podman | Kind::Docker => end_labelled(kind, &program, &name(directory)),
        };
        let over = !callers && !living;
        if !over {
            sleep(AGAIN_AFTER);
        }
        over
    });
    // What is still there is for the next sweep.
    if over && open(directory).is_ok_and(|fd| bare::clear(fd.as_fd()).is_ok()) {
        let _ = fs::remove_dir(directory);
    }
}

/// Kills the runtime's command lines that have to do with `directory`. Whether there were any.
fn kill_callers(program: &Path, directory: &Path) -> bool {
    let wanted = directory.as_os_str().as_bytes();
    let is_caller = |pid: &str| {
        let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let same =
            words.next().is_some_and(|first| Path::new(OsStr::from_bytes(first)).file_name() == program.file_name());
        same && words.any(|word| word.windows(wanted.len()).any(|part| part == wanted))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let callers = pids.filter(|pid| is_caller(pid)).filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
    callers.filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count() > 0
}

/// Whether there was one.
fn end_bundles(program: &Path, directory: &Path) -> bool {
    let mut living = false;
    for bundle in fs::read_dir(directory).into_iter().flatten().flatten() {
        let state = bundle.path().join("state");
        for container in fs::read_dir(&state).into_iter().flatten().flatten() {
            living = true;
            let mut delete = call(program);
            delete.arg("--root").arg(&state).args(["delete", "--force"]).arg(container.file_name());
            // Whether it worked is seen in the next round.
            let _ = delete.stdout(Stdio::null()).status();
        }
    }
    living
}

/// Whether there was one.
fn end_labelled(kind: Kind, program: &Path, name: &str) -> bool {
    let label = format!("label={}={name}", super::LABEL);
    let Ok(found) = call(program).args(["ps", "--all", "--quiet", "--filter", &label]).output() else { return false };
    let ids = String::from_utf8_lossy(&found.stdout).into_owned();
    let ids: Vec<&str> = ids.split_whitespace().collect();
    if !ids.is_empty() {
        let _ = call(program).args(kind.removal()).args(&ids).stdout(Stdio::null()).status();
    }
    !ids.is_empty()
}

fn call(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}
