//! System calls that have no safe wrapper elsewhere.
//!
//! Owns nearly all `unsafe` of the crate, each behind a function that cannot be misused from safe code of a process
//! with one thread. What `rustix` offers safely is called from there directly.

use std::{
    ffi::{CStr, CString},
    io,
    mem::{size_of, zeroed},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use libc::{c_int, c_uint, pid_t};

/// The two sides of a [`clone`].
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// The old one: the child's id as seen here, and a descriptor for it.
    Parent(pid_t, OwnedFd),
}

/// The kernel's number, which does not fit into the C library's type.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Starts a process in the new namespaces that `flags` names, with the meaning of `fork` otherwise.
///
/// It is born in the cgroup of `cgroup`, where there is one; kernels and filters without `clone3` cannot do that.
///
/// The caller has one thread, so the child may go on using the heap.
pub(crate) fn clone(flags: c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: c_int = -1;
    // SAFETY: all-zero is a valid value of this plain struct.
    let mut args: libc::clone_args = unsafe { zeroed() };
    args.flags = (flags | libc::CLONE_PIDFD) as u32 as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child gets its own copy of the memory and goes on on the same stack, as after
    // `fork`; `args` and `pidfd` outlive the call.
    let mut pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if pid < 0 && cgroup.is_none() && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        // Container runtimes answer ENOSYS for clone3 because their filters cannot see its arguments.
        let flags = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: as above; with CLONE_PIDFD the third argument is where the descriptor goes.
        pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    }
    match pid {
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just made this descriptor for us.
        1.. => Ok(Cloned::Parent(pid as pid_t, unsafe { OwnedFd::from_raw_fd(pidfd) })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether `clone3` is there, and not hidden by a filter.
pub(crate) fn knows_clone3() -> bool {
    // SAFETY: arguments of no size are refused before anything is read or made.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, ptr::null::<libc::clone_args>(), 0) };
    answer < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

/// Size of the stack for [`start`], in bytes. Only what is touched of it exists.
const STACK: usize = 1 << 20;

/// Starts a process that runs `becomes` in the memory of this one, which sleeps until the other has executed a program
/// or ended. For one that soon does either, this saves a copy of the memory map.
///
/// The caller has one thread, so nobody sees what the other does to the memory.
pub(crate) fn start(mut becomes: impl FnMut()) -> io::Result<pid_t> {
    extern "C" fn run<F: FnMut()>(becomes: *mut libc::c_void) -> c_int {
        // SAFETY: the pointer below, to what its owner does not touch while it sleeps.
        unsafe { (*becomes.cast::<F>())() };
        127
    }
    fn runner<F: FnMut()>(_: &F) -> extern "C" fn(*mut libc::c_void) -> c_int {
        run::<F>
    }
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK);
    // SAFETY: new memory that nothing else refers to, its lowest page not to be touched; the other process has it for
    // its stack, of which the higher end is the first, and is done with it when `clone` returns. The C library's
    // `clone` does not go on on our stack. An unwinding panic ends at `run`, and with it the other process.
    unsafe {
        let stack = libc::mmap(ptr::null_mut(), STACK, access, flags, -1, 0);
        if stack == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        libc::mprotect(stack, 4096, libc::PROT_NONE);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(runner(&becomes), stack.add(STACK), flags, (&raw mut becomes).cast());
        let result = checked(pid);
        libc::munmap(stack, STACK);
        result
    }
}

/// Ends this process at once: no destructors, no flushing of what the parent may have buffered.
pub(crate) fn exit(code: c_int) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Makes `fd` available under the number `target`, replacing what was there.
///
/// Only for the fixed numbers at the bottom that no `OwnedFd` of this process owns.
pub(crate) fn place(fd: BorrowedFd<'_>, target: RawFd, close_on_exec: bool) -> io::Result<()> {
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: works on descriptors only.
    checked(unsafe { libc::dup3(fd.as_raw_fd(), target, flags) }).map(drop)
}

/// Takes over a descriptor that is there by agreement with whoever started this process.
///
/// # Safety
/// The descriptor is open and nothing else in this process owns it.
pub(crate) unsafe fn take(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes every descriptor from `first` on, whoever owns it: for a fresh process that forgets its past.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: works on descriptors only; the callers never use an owner of one of these again.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) } as c_int).map(drop)
}

/// Closes the descriptors from `first` to `last`, whoever owns them: for numbers that nothing owns.
pub(crate) fn close(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: works on descriptors only.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } as c_int).map(drop)
}

/// Lets every descriptor from `first` on close at `execve`.
pub(crate) fn close_from_at_exec(first: RawFd) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: works on descriptors only.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, flags) } as c_int).map(drop)
}

/// Changes the attributes of the mount that `fd` names, of its whole tree if `recursive`, and makes it private.
pub(crate) fn restrict_mount(fd: BorrowedFd<'_>, recursive: bool, attributes: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is a C string and `attr` is as long as is said.
    let done =
        unsafe { libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size) };
    checked(done as c_int).map(drop)
}

/// Shows the files of the tree of mounts that `fd` names as those of other users: id N as what N is in the user namespace
/// of `users`. The tree is not attached anywhere.
pub(crate) fn map_mount(fd: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    let (flags, size) = (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, size_of::<libc::mount_attr>());
    // SAFETY: the path is a C string and `attr` is as long as is said.
    let done =
        unsafe { libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size) };
    checked(done as c_int).map(drop)
}

/// Blocks `SIGCHLD` and makes it readable instead.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid set, the pointers are valid for the calls, and the descriptor is new.
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        checked(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()))?;
        let fd = checked(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Puts the signals back to what a program expects: none blocked, all with their default action.
pub(crate) fn reset_signals() -> io::Result<()> {
    // SAFETY: all-zero is a valid set; no handler of ours is running.
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&raw mut set);
        checked(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()))?;
        // An ignored signal stays ignored through execve; Rust ignores SIGPIPE, `nohup` SIGHUP.
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    Ok(())
}

/// A child that has ended.
pub(crate) struct Ended {
    /// Its id.
    pub(crate) pid: pid_t,
    /// Exit status or signal.
    pub(crate) status: Status,
    /// What it and the children that it waited for used.
    pub(crate) used: Used,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// By itself.
    Exit(i32),
    /// By a signal.
    Signal(i32),
}

/// What processes used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// User and system time, in microseconds.
    pub(crate) cpu_us: u64,
    /// Largest resident set of one of them, in bytes.
    pub(crate) memory_peak: u64,
}

impl From<libc::rusage> for Used {
    fn from(usage: libc::rusage) -> Used {
        let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
        Used { cpu_us: us(usage.ru_utime) + us(usage.ru_stime), memory_peak: usage.ru_maxrss as u64 * 1024 }
    }
}

/// Reaps one ended child. `None`: none has ended yet (only without `block`), or there is none.
pub(crate) fn reap(block: bool) -> Option<Ended> {
    let mut status = 0;
    // SAFETY: both pointers are valid for the call; all-zero is a valid rusage.
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = zeroed();
        let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
        (libc::wait4(-1, &raw mut status, flags, &raw mut usage), usage)
    };
    (pid > 0).then(|| Ended {
        pid,
        status: if libc::WIFEXITED(status) {
            Status::Exit(libc::WEXITSTATUS(status))
        } else {
            Status::Signal(libc::WTERMSIG(status))
        },
        used: usage.into(),
    })
}

/// Whether there is a child that has not been reaped, dead or alive.
pub(crate) fn has_children() -> bool {
    // SAFETY: an all-zero `siginfo_t` is valid, and so is the pointer to it. WNOWAIT leaves everything as it is.
    let result = unsafe {
        let mut info: libc::siginfo_t = zeroed();
        libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL)
    };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ECHILD)
}

/// What all children that were reaped so far have used.
pub(crate) fn used_by_children() -> Used {
    // SAFETY: the pointer is valid for the call; all-zero is a valid rusage.
    unsafe {
        let mut usage: libc::rusage = zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage.into()
    }
}

/// Takes the signals off a descriptor of [`child_signals`]; they say only that there is something to reap.
pub(crate) fn drain(signals: &OwnedFd) {
    while rustix::io::read(signals, &mut [0u8; 128]).is_ok_and(|length| length > 0) {}
}

/// Kills every process of this pid namespace but the caller, which is its first.
pub(crate) fn kill_all_others() {
    // SAFETY: touches no memory.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Replaces this process by a program. Returns only if that failed.
pub(crate) fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with a null pointer and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all-zero is a valid ifreq, its name stays NUL-terminated, and it outlives the call.
    checked(unsafe {
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    })
    .map(drop)
}

/// Puts the calling process under a seccomp filter, for good.
pub(crate) fn filter_calls(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` points to as many instructions as it says; the kernel only reads them.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) } as c_int).map(drop)
}

/// What a Landlock ruleset takes charge of. The layout is the kernel's `struct landlock_ruleset_attr`.
#[repr(C)]
pub(crate) struct LandlockAttr {
    pub(crate) files: u64,
    pub(crate) network: u64,
    pub(crate) scoped: u64,
}

/// The version of Landlock that the running kernel speaks; an error if it has none.
pub(crate) fn landlock_version() -> io::Result<u32> {
    const VERSION: c_uint = 1;
    // SAFETY: a null attribute of size 0 is how the version is asked for.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<LandlockAttr>(), 0, VERSION) };
    checked(version as c_int).map(|version| version as u32)
}

/// A new, empty ruleset. `size` is how much of `attr` the running kernel knows.
pub(crate) fn landlock_ruleset(attr: &LandlockAttr, size: usize) -> io::Result<OwnedFd> {
    let size = size.min(size_of::<LandlockAttr>());
    // SAFETY: `attr` is at least `size` bytes long, and the descriptor is new.
    unsafe {
        let fd = libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(attr), size, 0);
        Ok(OwnedFd::from_raw_fd(checked(fd as c_int)?))
    }
}

/// Grants `access` to everything at and below `path`.
pub(crate) fn landlock_allow(ruleset: BorrowedFd<'_>, path: BorrowedFd<'_>, access: u64) -> io::Result<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        access: u64,
        fd: i32,
    }
    const PATH_BENEATH: c_int = 1;
    let rule = PathBeneath { access, fd: path.as_raw_fd() };
    // SAFETY: `rule` has the layout that the kernel expects for this kind of rule and outlives the call.
    let done =
        unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &raw const rule, 0) };
    checked(done as c_int).map(drop)
}

/// Puts the calling process under `ruleset`, for good.
pub(crate) fn landlock_enforce(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: works on a descriptor only.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) } as c_int).map(drop)
}

/// Sets one resource limit of the calling process, soft and hard.
pub(crate) fn limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call.
    checked(unsafe { libc::setrlimit(resource, &raw const limit) }).map(drop)
}

/// Takes a capability out of reach for this process and all that it becomes. An unknown one is an error.
pub(crate) fn forbid_capability(capability: u32) -> io::Result<()> {
    // SAFETY: touches no memory.
    checked(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) }).map(drop)
}

/// Makes a copy of `fd` with a number of at least `least`, closed at `execve`.
pub(crate) fn raise(fd: impl AsFd, least: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, least)?)
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
