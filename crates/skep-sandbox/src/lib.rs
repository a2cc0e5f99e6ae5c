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
//!
//! # The map
//!
//! On the server's side: [`Sandbox`] (who may run) → `helper` (the process that starts them) → `supervise` (one
//! request while it runs, and its `proxy`) → `outputs` (what it left). On the other side of the sockets (`wire`): `zygote`
//! (the helper itself, with its `pool` and `warm` interpreters) → `root` (the file system, built once) → `slot` (one
//! sandbox and its keeper) → `command` (the process that locks itself in), with `seccomp`, `landlock`, `limits`, `memory` (with `sockets`)
//! and `cgroup` for one wall each. `bare` takes the place of namespaces where there are none; `oci` is another way
//! altogether. `sys` holds the system calls that need `unsafe`; `allocator` has nothing to do with sandboxes but that it needs
//! `unsafe`, too.

#[cfg(not(target_os = "linux"))]
compile_error!("sandboxes are made of Linux namespaces");

mod advice;
mod allocator;
mod bare;
mod bind;
mod cgroup;
mod channel;
mod command;
mod config;
mod defence;
mod error;
mod fault;
mod helper;
mod interpreter;
mod job;
mod landlock;
mod limits;
mod memory;
mod oci;
mod offered;
mod order;
mod outcome;
mod output;
mod outputs;
mod pool;
mod privileges;
mod probe;
mod proxy;
mod request;
mod root;
mod sandbox;
mod seat;
mod seccomp;
mod selftest;
mod slot;
mod sockets;
mod supervise;
mod sys;
mod template;
mod tier;
mod users;
mod warm;
mod wire;
mod zygote;

pub use self::{
    allocator::keep_freed_memory_for,
    bind::Bind,
    config::{Config, Namespaces},
    defence::Defence,
    error::Error,
    oci::{Oci, Source},
    outcome::{End, OutFile, Outcome, Start, Usage},
    output::{PIECE_BYTES_MAX, Piece, Stream},
    probe::Report,
    proxy::{Connection, Destination, Gate},
    request::{InFile, Limits, Net, Request, Run},
    sandbox::Sandbox,
    selftest::{Attempt, Verdict},
    tier::{Protection, Tier},
};

/// Becomes the helper process, or the guard of containers, if that is what this program was started as (or, in the
/// self-test, the attacker inside a sandbox); otherwise returns at once.
///
/// Call it first in `main`, before any thread is started.
pub fn init() {
    if std::env::args_os().next().is_some_and(|name| name == zygote::NAME) {
        zygote::main();
    }
    if std::env::args_os().next().is_some_and(|name| name == oci::guard::NAME) {
        oci::guard::main();
    }
    selftest::inside::main_if_asked();
}
