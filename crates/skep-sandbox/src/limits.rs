//! Ceilings that the kernel enforces by itself: resource limits of a process and quotas of a user namespace.

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::{
    fault::{At, Fault},
    request::Limits,
    sys,
};

/// inotify instances of one sandbox; the host's user keeps the rest of its quota.
const INOTIFY_INSTANCES_MAX: u32 = 16;
/// inotify watches of one sandbox.
const INOTIFY_WATCHES_MAX: u32 = 2048;
/// Memory that a process may lock, in bytes.
const LOCKED_MAX: u64 = 64 << 10;
/// Signals that may be queued.
const SIGNALS_MAX: u64 = 256;
/// Stack of a process, in bytes: the usual size.
const STACK: u64 = 8 << 20;
/// Stack that a process may ask for, in bytes.
const STACK_MAX: u64 = 64 << 20;

/// Sets the quotas of the caller's user namespace. Called with all capabilities in it.
pub(crate) fn set_quotas() -> Result<(), Fault> {
    // Did the filter not refuse them before. The other kinds need capabilities, which only a new one of this kind could give.
    write_existing("/proc/sys/user/max_user_namespaces", 0)?;
    write_existing("/proc/sys/user/max_inotify_instances", INOTIFY_INSTANCES_MAX)?;
    write_existing("/proc/sys/user/max_inotify_watches", INOTIFY_WATCHES_MAX)
}

/// Whether this kernel has the quotas that are of use.
pub(crate) fn quotas_exist() -> bool {
    std::path::Path::new("/proc/sys/user/max_inotify_instances").exists()
}

/// Makes the kernel choose the sandbox first when the machine runs out of memory.
pub(crate) fn sacrifice_first() -> Result<(), Fault> {
    write_existing("/proc/self/oom_score_adj", 1000)
}

/// Kernels are built with or without some of these.
fn write_existing(path: &str, value: u32) -> Result<(), Fault> {
    match openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => rustix::io::write(&fd, value.to_string().as_bytes()).at(path).map(drop),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error).at(path),
    }
}

/// Sets the resource limits of the calling process and all that it becomes.
pub(crate) fn set_rlimits(limits: &Limits, counted: u64) -> Result<(), Fault> {
    let cpu = limits.cpu.as_secs() + u64::from(limits.cpu.subsec_nanos() > 0);
    let file = limits.tmp.max(limits.outputs);
    let processes = u64::from(limits.processes) + counted;
    let open = u64::from(limits.open_files);
    let space = limits.address_space.unwrap_or(libc::RLIM_INFINITY);
    for (resource, soft, hard) in [
        // The signal first, death a second later.
        (libc::RLIMIT_CPU, cpu, cpu.saturating_add(1)),
        (libc::RLIMIT_AS, space, space),
        (libc::RLIMIT_FSIZE, file, file),
        (libc::RLIMIT_NOFILE, open, open),
        (libc::RLIMIT_NPROC, processes, processes),
        (libc::RLIMIT_STACK, STACK, STACK_MAX),
        (libc::RLIMIT_MEMLOCK, LOCKED_MAX, LOCKED_MAX),
        (libc::RLIMIT_SIGPENDING, SIGNALS_MAX, SIGNALS_MAX),
        (libc::RLIMIT_MSGQUEUE, 0, 0),
        (libc::RLIMIT_NICE, 0, 0),
        (libc::RLIMIT_RTPRIO, 0, 0),
        // With 0 the host's crash collector would still be started; with 1 the kernel writes nothing at all.
        (libc::RLIMIT_CORE, 1, 1),
    ] {
        sys::limit(resource, soft, hard).at("set a resource limit")?;
    }
    Ok(())
}
