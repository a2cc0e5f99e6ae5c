//! What stands between the hub and a server: this program, executed again, as the parent of the
//! server.
//!
//! Servers start other programs, and some of these leave their group, clear their environment and
//! detach themselves, so that nothing about them tells whose they are. But they cannot leave their
//! family: the guard asks the kernel to be made the parent of whatever is orphaned below it
//! (`PR_SET_CHILD_SUBREAPER`), so all that a server has ever started is below its guard. When the
//! server ends, or the hub does, in good order or by SIGKILL, the guard kills all that is there and
//! ends itself, as the server did.
//!
//! A guard that is killed takes the server with it (`PR_SET_PDEATHSIG`); what the server had
//! started is then found by the mark in its environment, if it kept that (`process.rs`).

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, pidfd_open,
        set_child_subreaper, set_parent_process_death_signal, setrlimit, wait,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};

use super::processes::kill_below;

/// How this program is called when it is to guard a server, and when it is to become one.
const GUARD: &str = "skep-guard";
const SERVER: &str = "skep-server";
/// Exit status of a program that could not be executed, and what a signal adds to its number, as
/// shells have it.
const NOT_STARTED: i32 = 127;
const SIGNALLED: i32 = 128;

/// Whether `main` has called [`init`], so that this program may be executed again.
static IS_SET_UP: AtomicBool = AtomicBool::new(false);

/// Guards a server, or becomes one, if that is what this program was started as; otherwise returns
/// at once, and servers are guarded from then on.
///
/// Call it first in `main`, before any thread is started. In a program that does not, servers are
/// started without a guard.
pub fn init() {
    let mut arguments = std::env::args_os();
    let error = match arguments.next() {
        Some(name) if name == GUARD => guard(arguments),
        Some(name) if name == SERVER => become_server(arguments),
        _ => {
            IS_SET_UP.store(true, Ordering::Release);
            return;
        }
    };
    crate::terminal::say!("{error}");
    std::process::exit(NOT_STARTED);
}

/// Start the server, and stay until it or the hub has ended. Does not return, but for the reason
/// why there is no server.
fn guard(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let start = || -> io::Result<(Pid, OwnedFd)> {
        let hub = pid(arguments.next()).ok_or_else(|| io::Error::other("no hub is named"))?;
        set_child_subreaper(Some(getpid()))?;
        let watched = pidfd_open(hub, PidfdFlags::empty())?;
        if getppid() != Some(hub) {
            return Err(io::Error::other("the hub has ended")); // before it was watched
        }
        let mut command = again(SERVER);
        let child = command.args(arguments).process_group(0).spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok((pid.ok_or_else(|| io::Error::other("the server has no number"))?, watched))
    };
    let (server, hub) = match { start }() {
        Ok(started) => started,
        Err(error) => return error,
    };
    if let Err(error) = let_go_of_streams() {
        return error;
    }
    std::thread::spawn(move || {
        while poll(&mut [PollFd::new(&hub, PollFlags::IN)], None).is_err() {} // interrupted
        end_everything();
        std::process::exit(NOT_STARTED); // nobody asks
    });
    let status = loop {
        // Whatever was orphaned below is waited for here as well.
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == server => break status,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return error.into(),
        }
    };
    end_everything();
    end_as(status)
}

/// They are the server's: as long as another process holds them open, nobody sees that the server
/// has closed them.
fn let_go_of_streams() -> io::Result<()> {
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    dup2_stderr(&nothing)?;
    Ok(())
}

fn end_everything() {
    // What is dead stays a child until it is waited for.
    kill_below(std::process::id(), || while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {});
}

/// End in the way in which the server did.
fn end_as(status: WaitStatus) -> ! {
    if let Some(signal) = status.terminating_signal() {
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        if let Some(named) = Signal::from_named_raw(signal) {
            let _ = kill_process(getpid(), named);
        }
        std::process::exit(SIGNALLED + signal); // one that this process does not die of
    }
    std::process::exit(status.exit_status().unwrap_or(NOT_STARTED))
}

/// Does not return, but for the reason why not.
fn become_server(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let guard = pid(arguments.next());
    let Some(program) = arguments.next() else { return io::Error::other("no program is named") };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if getppid() != guard {
        return io::Error::other("the guard has ended"); // before the kernel was asked
    }
    let error = Command::new(&program).args(arguments).exec();
    io::Error::new(error.kind(), format!("`{}` cannot be started: {error}", program.display()))
}

fn pid(argument: Option<OsString>) -> Option<Pid> {
    argument?.to_str()?.parse().ok().and_then(Pid::from_raw)
}

/// This program once more, whatever has become of the file that it was started from. It is told who
/// starts it.
fn again(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).arg(getpid().as_raw_nonzero().to_string());
    command
}

/// Whether servers are guarded: then a server is the one child of the process that is started for
/// it.
pub(super) fn is_set_up() -> bool {
    IS_SET_UP.load(Ordering::Acquire)
}

/// A command that runs this program, guarded where that can be.
pub(super) fn command(program: &str) -> tokio::process::Command {
    if !is_set_up() {
        return tokio::process::Command::new(program);
    }
    let mut command = again(GUARD);
    command.arg(program);
    command.into()
}
