//! What a server's process is before it is the server's program: this program, executed again. It asks the kernel to be
//! killed when the hub ends, and becomes the program; no process stays between.
//!
//! A hub that is stopped ends its servers itself. One that is killed cannot, and a server that does not mind the end of its
//! input would stay for good. What servers have started themselves is not asked to end so: the next hub looks for it
//! (`process::sweep_orphans`).

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::{process::Child, runtime::Handle, sync::oneshot};

/// How this program is called when it is to become a server.
const NAME: &str = "skep-server";
/// Exit status of a program that could not be executed, as shells have it.
const NOT_STARTED: i32 = 127;

/// Whether `main` has called [`init`], so that this program may be executed again.
static IS_SET_UP: AtomicBool = AtomicBool::new(false);

/// Becomes a server's program if that is what this program was started as; otherwise returns at once, and servers are
/// guarded from then on.
///
/// Call it first in `main`, before any thread is started. In a program that does not, servers are started without a guard.
pub fn init() {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| name == NAME) {
        let error = become_server(arguments);
        crate::terminal::say!("{error}");
        std::process::exit(NOT_STARTED);
    }
    IS_SET_UP.store(true, Ordering::Release);
}

/// Does not return, but for the reason why not.
fn become_server(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let hub = arguments.next().and_then(|hub| hub.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let Some(program) = arguments.next() else { return io::Error::other("no program is named") };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if getppid() != hub {
        return io::Error::other("the hub has ended"); // before the kernel was asked
    }
    let error = Command::new(&program).args(arguments).exec();
    io::Error::new(error.kind(), format!("`{}` cannot be started: {error}", program.display()))
}

/// A command that becomes this program, guarded where that can be.
pub(super) fn command(program: &str) -> tokio::process::Command {
    if !IS_SET_UP.load(Ordering::Acquire) {
        return tokio::process::Command::new(program);
    }
    // Whatever has become of the file that this program was started from.
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command.arg0(NAME).arg(getpid().as_raw_nonzero().to_string()).arg(program);
    command
}

/// A process to be started, and who waits for it.
type Start = (tokio::process::Command, Handle, oneshot::Sender<io::Result<Child>>);

/// Start a process. The kernel takes the end of the thread that started it for the end of its parent; threads of a runtime
/// come and go, so it is a thread that stays.
pub(super) async fn spawn(command: tokio::process::Command) -> io::Result<Child> {
    let (sender, started) = oneshot::channel();
    // Nobody waits in this queue for long, and each slot of the pool at most once.
    starter()?.send((command, Handle::current(), sender)).map_err(io::Error::other)?;
    started.await.map_err(io::Error::other)?
}

fn starter() -> io::Result<mpsc::Sender<Start>> {
    static STARTER: Mutex<Option<mpsc::Sender<Start>>> = Mutex::new(None);
    let mut starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(starter) = &*starter {
        return Ok(starter.clone());
    }
    let (sender, queue) = mpsc::channel::<Start>();
    std::thread::Builder::new().name("servers".to_owned()).spawn(move || {
        for (mut command, runtime, started) in queue {
            let _inside = runtime.enter();
            let _ = started.send(command.spawn()); // whom nobody waits for is killed on drop
        }
    })?;
    *starter = Some(sender.clone());
    Ok(sender)
}
