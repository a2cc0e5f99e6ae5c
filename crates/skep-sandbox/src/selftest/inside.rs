//! What a hostile program tries from inside a sandbox.
//!
//! The attacker is this executable itself, given to the sandbox as a file of the request, so nothing has to be
//! installed for it. It has no more rights than any other program there. Each attack says what it reached, if anything.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{PermissionsExt as _, symlink},
            net::{self as unix, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use libc::{c_int, c_long};

/// The file name under which an executable becomes the attacker.
pub(crate) const NAME: &str = "skep-sandbox-attacker";
/// Variables that tell it where the host listens.
pub(crate) const TCP: &str = "SKEP_TEST_TCP";
pub(crate) const UDP: &str = "SKEP_TEST_UDP";
pub(crate) const ABSTRACT: &str = "SKEP_TEST_ABSTRACT";
pub(crate) const PATHNAME: &str = "SKEP_TEST_PATHNAME";
pub(crate) const DATAGRAMS: &str = "SKEP_TEST_DATAGRAMS";
/// And which process it is.
pub(crate) const SERVER: &str = "SKEP_TEST_SERVER";

/// Nothing was reached, or what was.
type Result = std::result::Result<(), String>;

/// An attack from inside.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    run: fn() -> Result,
}

const fn attack(name: &'static str, run: fn() -> Result) -> Attack {
    Attack { name, run }
}

/// All of them, in the order in which they are tried; the last ones use resources up.
pub(crate) const ATTACKS: &[Attack] = &[
    attack("read the host's environment", environment),
    attack("see other processes", processes),
    attack("read the host's accounts", accounts),
    attack("see the host's directories", directories),
    attack("list the host's directories", list_directories),
    attack("find an open descriptor", descriptors),
    attack("reach the root of the keeper", || unreadable("/proc/1/root/etc")),
    attack("read the keeper's memory", || all(&["/proc/1/mem", "/proc/1/maps", "/proc/1/environ"], unreadable)),
    attack("overwrite the helper's executable", || all(&["/proc/1/exe", "/proc/self/exe"], unwritable)),
    // Before those that, if they work, leave the attacker somewhere else.
    attack("change files of the host in place", change_in_place),
    attack("reach a socket in the host's file system", pathname_socket),
    attack("turn a pair into a socket of the host", turned_pair),
    attack("trace the keeper", || refused(call(libc::SYS_ptrace, [16, 1, 0, 0, 0]))),
    attack("have oneself traced", be_traced),
    attack("read another process's memory", || refused(call(libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]))),
    attack("take a descriptor of the keeper", || refused(call(libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0]))),
    attack("compare with the keeper", || refused(call(libc::SYS_kcmp, [1, 1, 0, 0, 0]))),
    attack("limit or slow the keeper", slow_the_keeper),
    attack("kill the keeper", kill_the_keeper),
    attack("signal the server", signal_the_server),
    attack("enter other namespaces", enter_namespaces),
    attack("mount", mount),
    attack("make namespaces", make_namespaces),
    attack("change the root", || refused(call(libc::SYS_chroot, [c"/tmp".as_ptr() as c_long, 0, 0, 0, 0]))),
    attack("open files by handle", open_by_handle),
    attack("make a device", make_device),
    attack("become root", become_root),
    attack("have capabilities or no filter", status),
    attack("have capabilities within bounds", bounds),
    attack("change settings of the kernel", settings),
    attack("write outside of /tmp and /outputs", write_outside),
    attack("use io_uring", || refused(call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]))),
    attack("load a program into the kernel", || refused(call(libc::SYS_bpf, [0, 0, 0, 0, 0]))),
    attack("handle page faults", || refused(call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0]))),
    attack("count events of the processor", || refused(call(libc::SYS_perf_event_open, [0, 0, -1, -1, 0]))),
    attack("use keyrings", keyrings),
    attack("type into a terminal", terminal),
    attack("make calls by other numbers", other_numbers),
    attack("make 32-bit calls", other_machine),
    attack("talk to hypervisor, kernel or network card", families),
    attack("change the personality", || refused(call(libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0]))),
    attack("hold memory that nobody counts", uncounted_memory),
    attack("take large pipes", large_pipes),
    attack("take large buffers of sockets", large_buffers),
    attack("learn the host's name", learn_host_name),
    attack("change the host's name", || refused(call(libc::SYS_sethostname, [c"x".as_ptr() as c_long, 1, 0, 0, 0]))),
    attack("use the host's shared memory", shared_memory),
    attack("reach a TCP service of the host", tcp),
    attack("listen on TCP", || reached(TcpListener::bind("127.0.0.1:0"))),
    attack("send UDP to the host", udp),
    attack("reach the internet", || reached(connect("1.1.1.1:53"))),
    attack("send ping", ping),
    attack("use IPv6", ipv6),
    attack("reach an abstract socket of the host", abstract_socket),
    attack("dump core", dump_core),
    attack("make a file with a terabyte of holes", holes),
    attack("use up the host's inotify quota", inotify),
    attack("start more processes than allowed", processes_max),
    attack("start more threads than allowed", threads_max),
];

/// Memory that a hoard takes, in bytes, if nothing ends it: more than its limit by far.
pub(crate) const HOARD_BYTES: u64 = 256 << 20;
/// How long a hoard is kept: it is looked at often enough meanwhile.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// Ways to hold memory that is in no resident set. Each needs a sandbox of its own, since it is ended for it.
pub(crate) const HOARDS: &[Attack] =
    &[attack("hold memory in page tables", page_tables), attack("hold memory in sockets", socket_buffers)];

/// Becomes the attacker if that is what this program was started as: tries everything, or the hoard that it is told,
/// and prints one line for each.
pub(crate) fn main_if_asked() {
    let asked = std::env::args_os().next().is_some_and(|name| Path::new(&name).file_name() == Some(NAME.as_ref()));
    if !asked {
        return;
    }
    let told = std::env::args().nth(1);
    let attacks = match &told {
        None => ATTACKS,
        Some(_) => HOARDS,
    };
    for attack in attacks.iter().filter(|attack| told.as_ref().is_none_or(|name| name == attack.name)) {
        match (attack.run)() {
            Ok(()) => println!("ok"),
            Err(reached) => println!("{}", reached.replace('\n', " ")),
        }
    }
    std::process::exit(0)
}

/// What a system call answered: its result, or the error number.
fn call(number: c_long, arguments: [c_long; 5]) -> std::result::Result<c_long, i32> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the attacks pass numbers, null pointers, or pointers to memory that outlives the call and is as long as
    // the call wants it.
    match unsafe { libc::syscall(number, a, b, c, d, e) } {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        result => Ok(result),
    }
}

/// The filter must have answered, not the call itself: a call that merely disliked its arguments is still open.
fn refused(answer: std::result::Result<c_long, i32>) -> Result {
    refused_with(answer, &[libc::EPERM, libc::ENOSYS])
}

fn refused_with(answer: std::result::Result<c_long, i32>, errors: &[i32]) -> Result {
    match answer {
        Err(error) if errors.contains(&error) => Ok(()),
        Err(error) => Err(format!("the call itself answered: {}", std::io::Error::from_raw_os_error(error))),
        Ok(result) => Err(format!("the call succeeded with {result}")),
    }
}

fn reached<T, E>(result: std::result::Result<T, E>) -> Result {
    match result {
        Ok(_) => Err("reached".into()),
        Err(_) => Ok(()),
    }
}

fn all(items: &[&str], check: fn(&str) -> Result) -> Result {
    items.iter().try_for_each(|item| check(item).map_err(|reached| format!("{item}: {reached}")))
}

fn unreadable(path: &str) -> Result {
    let mut byte = [0];
    match File::open(path).and_then(|mut file| file.read(&mut byte)) {
        // A directory opens but does not read.
        Err(error) if error.kind() != std::io::ErrorKind::IsADirectory => Ok(()),
        Ok(0) => Ok(()),
        _ => Err("it can be read".into()),
    }
}

fn unwritable(path: &str) -> Result {
    reached(OpenOptions::new().write(true).open(path))
}

/// Where it may write.
fn tmp() -> PathBuf {
    std::env::temp_dir()
}

fn environment() -> Result {
    let known = ["PATH", "HOME", "LANG", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "NODE_PATH", "TMPDIR", "OUTPUTS"];
    let known = [&known[..], &[TCP, UDP, ABSTRACT, PATHNAME, DATAGRAMS, SERVER]].concat();
    if let Some((name, _)) = std::env::vars().find(|(name, _)| !known.contains(&name.as_str())) {
        return Err(format!("there is a variable {name}"));
    }
    for pid in pids().filter(|pid| *pid != std::process::id()) {
        unreadable(&format!("/proc/{pid}/environ"))?;
    }
    Ok(())
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn processes() -> Result {
    let me = std::process::id();
    match pids().find(|pid| *pid != me) {
        Some(pid) => Err(format!("process {pid} is seen")),
        None => Ok(()),
    }
}

fn accounts() -> Result {
    all(&["/etc/shadow", "/etc/ssh", "/etc/machine-id"], unreadable)?;
    // Without namespaces there is none of its own.
    let Ok(accounts) = fs::read_to_string("/etc/passwd") else { return Ok(()) };
    if accounts.lines().count() == 2 { Ok(()) } else { Err("/etc/passwd is not the sandbox's own".into()) }
}

/// Directories that no command has any business in.
const HIDDEN: [&str; 11] =
    ["/root", "/home", "/var", "/run", "/sys", "/boot", "/mnt", "/srv", "/opt", "/media", "/work"];

fn directories() -> Result {
    all(&HIDDEN, |path| if Path::new(path).exists() { Err("it exists".into()) } else { Ok(()) })
}

fn list_directories() -> Result {
    all(&HIDDEN, |path| reached(fs::read_dir(path)))
}

fn descriptors() -> Result {
    let open = |fd: &c_int| {
        // SAFETY: touches no memory.
        unsafe { libc::fcntl(*fd, libc::F_GETFD) != -1 }
    };
    match (3..1024).find(open) {
        Some(fd) => Err(format!("descriptor {fd} is open")),
        None => Ok(()),
    }
}

fn be_traced() -> Result {
    // In a copy: a traced process stops at every signal.
    let attempt = || {
        if refused(call(libc::SYS_ptrace, [0, 0, 0, 0, 0])).is_err() {
            let _ = call(libc::SYS_kill, [std::process::id().into(), libc::SIGKILL.into(), 0, 0, 0]);
        }
    };
    if killed_by(attempt) == 0 { Ok(()) } else { Err("the call succeeded".into()) }
}

fn slow_the_keeper() -> Result {
    refused(call(libc::SYS_prlimit64, [1, libc::RLIMIT_CPU as c_long, 0, 0, 0]))?;
    refused(call(libc::SYS_setpriority, [0, 1, 19, 0, 0]))?;
    refused(call(libc::SYS_setpriority, [2, 1000, 19, 0, 0]))?;
    let mask = 1u64;
    refused(call(libc::SYS_sched_setaffinity, [1, 8, &raw const mask as c_long, 0, 0]))
}

fn kill_the_keeper() -> Result {
    // It is either refused or has no effect: that we go on is the proof.
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV] {
        let _ = call(libc::SYS_kill, [1, signal.into(), 0, 0, 0]);
    }
    Ok(())
}

fn signal_the_server() -> Result {
    let pid = told(SERVER)?.parse::<c_long>().map_err(|error| error.to_string())?;
    // Nothing is sent; the answer is that of a signal.
    for number in [libc::SYS_kill, libc::SYS_tkill] {
        reached(call(number, [pid, 0, 0, 0, 0]))?;
    }
    let answer = call(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0]);
    answer.map_or(Ok(()), |fd| reached(call(libc::SYS_pidfd_send_signal, [fd, 0, 0, 0, 0])))
}

fn enter_namespaces() -> Result {
    for kind in ["user", "mnt", "net", "pid"] {
        reached(File::open(format!("/proc/1/ns/{kind}")))?;
        let own = File::open(format!("/proc/self/ns/{kind}")).map_err(|error| error.to_string())?;
        refused(call(libc::SYS_setns, [own.as_raw_fd().into(), 0, 0, 0, 0]))?;
    }
    Ok(())
}

fn mount() -> Result {
    let (tmpfs, tmp) = (c"tmpfs".as_ptr() as c_long, c"/tmp".as_ptr() as c_long);
    refused(call(libc::SYS_mount, [tmpfs, tmp, tmpfs, 0, 0]))?;
    refused(call(libc::SYS_umount2, [tmp, 2, 0, 0, 0]))?;
    refused(call(libc::SYS_pivot_root, [tmp, tmp, 0, 0, 0]))?;
    refused(call(libc::SYS_fsopen, [tmpfs, 0, 0, 0, 0]))?;
    refused(call(libc::SYS_open_tree, [-100, tmp, 1, 0, 0]))?;
    refused(call(libc::SYS_move_mount, [-100, tmp, -100, tmp, 0]))?;
    refused(call(libc::SYS_mount_setattr, [-100, tmp, 0, 0, 0]))
}

fn make_namespaces() -> Result {
    let kinds = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    for kind in kinds {
        refused(call(libc::SYS_unshare, [kind.into(), 0, 0, 0, 0]))?;
        match call(libc::SYS_clone, [(kind | libc::SIGCHLD).into(), 0, 0, 0, 0]) {
            // SAFETY: ends this copy of the process.
            Ok(0) => unsafe { libc::_exit(0) },
            answer => refused_with(answer, &[libc::EPERM])?,
        }
    }
    refused_with(call(libc::SYS_clone3, [0, 0, 0, 0, 0]), &[libc::ENOSYS])
}

fn open_by_handle() -> Result {
    refused(call(libc::SYS_open_by_handle_at, [-100, 0, 0, 0, 0]))?;
    refused(call(libc::SYS_name_to_handle_at, [-100, 0, 0, 0, 0]))
}

fn make_device() -> Result {
    let device = tmp().join("device").into_os_string().into_encoded_bytes();
    let device = std::ffi::CString::new(device).map_err(|error| error.to_string())?;
    let (path, mode) = (device.as_ptr() as c_long, c_long::from(libc::S_IFCHR | 0o666));
    match call(libc::SYS_mknodat, [-100, path, mode, 0x103, 0]) {
        Err(_) => reached(fs::read("/dev/mem").and(fs::read("/dev/kmsg"))),
        Ok(_) => Err("a device was made".into()),
    }
}

fn become_root() -> Result {
    for number in [libc::SYS_setuid, libc::SYS_setgid] {
        if call(number, [0, 0, 0, 0, 0]).is_ok() {
            return Err("the id is 0 now".into());
        }
    }
    let id = Command::new("/usr/bin/su").arg("-c").arg("id").output();
    match id {
        Ok(output) if output.status.success() => Err("su works".into()),
        _ => Ok(()),
    }
}

fn status() -> Result {
    // The kernel's answers, since there may be no `/proc`. The header asks for the sets of 64 bits of the caller.
    let (header, mut sets) = ([0x2008_0522u32, 0], [0u32; 6]);
    if let Err(error) = call(libc::SYS_capget, [header.as_ptr() as c_long, sets.as_mut_ptr() as c_long, 0, 0, 0]) {
        return Err(format!("the capabilities are unknown: error {error}"));
    }
    if sets != [0; 6] {
        return Err(format!("there are capabilities: {sets:x?}"));
    }
    let ask = |question: c_int, of: c_long| call(libc::SYS_prctl, [question.into(), of, 0, 0, 0]);
    let ambient = |capability| {
        call(libc::SYS_prctl, [libc::PR_CAP_AMBIENT.into(), libc::PR_CAP_AMBIENT_IS_SET.into(), capability, 0, 0])
    };
    if let Some(capability) = (0..64).find(|capability| ambient(*capability) == Ok(1)) {
        return Err(format!("capability {capability} is ambient"));
    }
    match (ask(libc::PR_GET_NO_NEW_PRIVS, 0), ask(libc::PR_GET_SECCOMP, 0)) {
        (Ok(1), Ok(2)) => Ok(()),
        (no_new_privs, filter) => Err(format!("no_new_privs is {no_new_privs:?}, seccomp {filter:?}")),
    }
}

fn bounds() -> Result {
    let bound =
        |capability: &c_long| call(libc::SYS_prctl, [libc::PR_CAPBSET_READ.into(), *capability, 0, 0, 0]) == Ok(1);
    match (0..64).find(bound) {
        Some(capability) => Err(format!("capability {capability} is")),
        None => Ok(()),
    }
}

fn settings() -> Result {
    all(
        &[
            "/proc/sys/kernel/core_pattern",
            "/proc/sysrq-trigger",
            "/proc/sys/user/max_user_namespaces",
            "/proc/self/uid_map",
        ],
        unwritable,
    )
}

fn write_outside() -> Result {
    let places = ["/", "/usr", "/usr/bin", "/usr/local", "/etc", "/dev", "/proc", "/bin", "/lib"];
    all(&places, |place| reached(fs::write(Path::new(place).join("new"), "x")))?;
    all(&["/usr/bin/env", "/etc/passwd", "/etc/ld.so.cache"], unwritable)?;
    reached(symlink("/tmp", "/etc/link"))
}

fn change_in_place() -> Result {
    // The last one belongs to the server's user, who may be that of the sandbox, too.
    let own = told_path(PATHNAME)?;
    for path in ["/usr/bin/env", "/etc/passwd", "/dev/null", "/usr", &own] {
        reached(fs::set_permissions(path, fs::Permissions::from_mode(0o777)))?;
        reached(File::open(path).and_then(|file| file.set_modified(std::time::UNIX_EPOCH)))?;
        reached(std::os::unix::fs::chown(path, Some(rustix::process::getuid().as_raw()), None))?;
        let path = std::ffi::CString::new(path).map_err(|error| error.to_string())?;
        let times = [libc::timespec { tv_sec: 0, tv_nsec: 0 }; 2];
        let (path, times) = (path.as_ptr() as c_long, times.as_ptr() as c_long);
        reached(call(libc::SYS_utimensat, [libc::AT_FDCWD.into(), path, times, 0, 0]))?;
        reached(call(libc::SYS_setxattr, [path, c"user.x".as_ptr() as c_long, path, 1, 0]))?;
    }
    Ok(())
}

fn keyrings() -> Result {
    refused(call(libc::SYS_keyctl, [0, -3, 1, 0, 0]))?;
    refused(call(libc::SYS_add_key, [0, 0, 0, 0, 0]))?;
    refused(call(libc::SYS_request_key, [0, 0, 0, 0, 0]))
}

fn terminal() -> Result {
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        for high in [0, 1 << 32] {
            let request = request as c_long | high;
            refused(call(libc::SYS_ioctl, [0, request, c"x".as_ptr() as c_long, 0, 0]))?;
        }
    }
    reached(File::open("/dev/tty"))
}

fn other_numbers() -> Result {
    for number in [0x4000_0000 + libc::SYS_getpid, 0x4000_0000 + 520] {
        // A kernel without x32 would answer ENOSYS by itself.
        refused_with(call(number, [0; 5]), &[libc::EPERM])?;
    }
    refused_with(call(5000, [0; 5]), &[libc::ENOSYS])
}

/// Does `attempt` in a copy of this process and returns the signal that killed it.
fn killed_by(attempt: fn()) -> c_int {
    // SAFETY: this process has one thread, so its copy may do anything; it ends without cleaning up.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            attempt();
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(pid, &raw mut status, 0);
        if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 }
    }
}

#[cfg(target_arch = "x86_64")]
fn other_machine() -> Result {
    let attempt = || {
        // SAFETY: the 32-bit `getpid`, which touches no memory. `rax` is all that it changes.
        unsafe { std::arch::asm!("int 0x80", inout("rax") 20i64 => _) };
    };
    match killed_by(attempt) {
        // A kernel without 32-bit calls answers with a fault.
        libc::SIGSYS | libc::SIGSEGV => Ok(()),
        _ => Err("the call was made".into()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn other_machine() -> Result {
    Ok(())
}

fn families() -> Result {
    const ALG: c_int = 38;
    const XDP: c_int = 44;
    for family in [libc::AF_VSOCK, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_BLUETOOTH, libc::AF_CAN, ALG, XDP] {
        let answer = call(libc::SYS_socket, [family.into(), libc::SOCK_DGRAM.into(), 0, 0, 0]);
        refused_with(answer, &[libc::EAFNOSUPPORT]).map_err(|reached| format!("family {family}: {reached}"))?;
    }
    Ok(())
}

fn uncounted_memory() -> Result {
    refused(call(libc::SYS_memfd_create, [c"m".as_ptr() as c_long, 0, 0, 0, 0]))?;
    refused(call(libc::SYS_memfd_secret, [0; 5]))?;
    refused(call(libc::SYS_shmget, [0, 1 << 20, 0o1600, 0, 0]))?;
    refused(call(libc::SYS_io_setup, [1, 0, 0, 0, 0]))
}

fn large_pipes() -> Result {
    let (read, _write) = rustix::pipe::pipe().map_err(|error| error.to_string())?;
    refused(call(libc::SYS_fcntl, [read.as_raw_fd().into(), libc::F_SETPIPE_SZ.into(), 1 << 20, 0, 0]))
}

fn large_buffers() -> Result {
    let Ok((sender, _receiver)) = UnixStream::pair() else { return Ok(()) };
    let size = || rustix::net::sockopt::socket_send_buffer_size(&sender).map_err(|error| error.to_string());
    let before = size()?;
    rustix::net::sockopt::set_socket_send_buffer_size(&sender, 16 << 20).ok();
    let after = size()?;
    if after <= before { Ok(()) } else { Err(format!("a buffer has {after} bytes instead of {before}")) }
}

/// Keeps what it has, and says so if it still lives then.
fn keep(held: u64, what: &str) -> Result {
    std::thread::sleep(KEPT_FOR);
    if held < HOARD_BYTES { Ok(()) } else { Err(format!("{held} bytes were held in {what}")) }
}

/// Reads a byte of every two megabytes of a large mapping: each is the one page of zeros, but takes a table of its own.
fn page_tables() -> Result {
    const TABLE: usize = 4 << 10;
    const COVERED: usize = 2 << 20;
    let tables = HOARD_BYTES as usize / TABLE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, which nothing else uses.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), tables * COVERED, libc::PROT_READ, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Ok(());
    }
    // SAFETY: within the mapping; large pages, which need no tables, are only asked not to be used.
    unsafe { libc::madvise(start, tables * COVERED, libc::MADV_NOHUGEPAGE) };
    for table in 0..tables {
        // SAFETY: within the mapping, which can be read.
        unsafe { start.cast::<u8>().add(table * COVERED).read_volatile() };
    }
    keep(HOARD_BYTES, "page tables")
}

/// Fills pairs of sockets, in as many processes as it takes, and closes the ends that have sent.
fn socket_buffers() -> Result {
    let mut held = 0;
    while held < HOARD_BYTES {
        let mut told = [0; 8];
        let (mut here, mut there) = std::io::pipe().map_err(|error| error.to_string())?;
        // SAFETY: this process has one thread, so its copy may do anything; it ends without cleaning up.
        match unsafe { libc::fork() } {
            0 => {
                let mut receivers = Vec::new();
                let sent: u64 = std::iter::from_fn(|| fill_a_pair(&mut receivers)).sum();
                let _ = std::io::Write::write_all(&mut there, &sent.to_ne_bytes());
                std::thread::sleep(2 * KEPT_FOR);
                // SAFETY: ends this copy of the process.
                unsafe { libc::_exit(0) }
            }
            -1 => break,
            _ => drop(there),
        }
        if here.read_exact(&mut told).is_err() || told == [0; 8] {
            break;
        }
        held += u64::from_ne_bytes(told);
    }
    keep(held, "sockets")
}

/// What was sent into a new pair. `None`: there can be no more pairs.
fn fill_a_pair(receivers: &mut Vec<UnixStream>) -> Option<u64> {
    let (mut sender, receiver) = UnixStream::pair().ok()?;
    sender.set_nonblocking(true).ok()?;
    receivers.push(receiver);
    let chunk = [0; 16 << 10];
    Some(std::iter::from_fn(|| std::io::Write::write(&mut sender, &chunk).ok()).sum::<usize>() as u64)
}

fn learn_host_name() -> Result {
    let name = rustix::system::uname();
    if name.nodename().to_bytes() != b"sandbox" {
        return Err(format!("it is {:?}", name.nodename()));
    }
    Ok(())
}

fn shared_memory() -> Result {
    refused(call(libc::SYS_shmget, [0x5645, 1, 0o600, 0, 0]))?;
    refused(call(libc::SYS_semget, [0x5645, 1, 0o600, 0, 0]))?;
    refused(call(libc::SYS_msgget, [0x5645, 0o600, 0, 0, 0]))?;
    refused(call(libc::SYS_mq_open, [c"x".as_ptr() as c_long, 0, 0, 0, 0]))
}

/// What the host put into a variable. Without it the attack proves nothing, which counts as a failure.
fn told(name: &str) -> std::result::Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set"))
}

/// What a path of the host is written behind, so that it is not taken for one inside.
const OF_HOST: &str = "host:";

/// A path of the host, as the attacker is told of it.
pub(crate) fn of_host(path: &Path) -> String {
    format!("{OF_HOST}{}", path.display())
}

fn told_path(name: &str) -> std::result::Result<String, String> {
    told(name).map(|path| path.trim_start_matches(OF_HOST).to_owned())
}

/// What can be reached answers within this time on any machine; what cannot, at once.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    TcpStream::connect_timeout(&address, CONNECTED_WITHIN)
}

fn tcp() -> Result {
    reached(connect(&told(TCP)?))
}

fn udp() -> Result {
    // What arrives is checked on the host; that nothing can be sent is one wall more.
    let target = told(UDP)?;
    reached(UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", target)))
}

fn ping() -> Result {
    for kind in [libc::SOCK_RAW, libc::SOCK_DGRAM] {
        reached(call(libc::SYS_socket, [libc::AF_INET.into(), kind.into(), libc::IPPROTO_ICMP.into(), 0, 0]))?;
    }
    Ok(())
}

fn ipv6() -> Result {
    reached(UdpSocket::bind("[::]:0").and_then(|socket| socket.send_to(b"x", "[::1]:9")))?;
    reached(connect("[::1]:9"))?;
    reached(connect("[2606:4700:4700::1111]:53"))?;
    reached(call(libc::SYS_socket, [libc::AF_INET6.into(), libc::SOCK_RAW.into(), libc::IPPROTO_ICMPV6.into(), 0, 0]))
}

fn abstract_socket() -> Result {
    let address = unix::SocketAddr::from_abstract_name(told(ABSTRACT)?).map_err(|error| error.to_string())?;
    reached(UnixStream::connect_addr(&address))
}

fn pathname_socket() -> Result {
    reached(UnixStream::connect(told_path(PATHNAME)?))
}

fn turned_pair() -> Result {
    let pair = call_for_pair(libc::SOCK_DGRAM).or_else(|_| call_for_pair(libc::SOCK_RAW));
    let Ok(pair) = pair else { return Ok(()) };
    // The type takes care of closing both.
    let sent = unix::UnixDatagram::from(pair).send_to(b"x", told_path(DATAGRAMS)?);
    reached(sent)
}

fn call_for_pair(kind: c_int) -> std::io::Result<OwnedFd> {
    let mut fds = [-1; 2];
    // SAFETY: there is room for both descriptors, which are new and nobody else's.
    unsafe {
        if libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) < 0 {
            return Err(std::io::Error::last_os_error());
        }
        drop(OwnedFd::from_raw_fd(fds[1]));
        Ok(OwnedFd::from_raw_fd(fds[0]))
    }
}

fn dump_core() -> Result {
    let abort = || {
        // SAFETY: the signal's default action ends this copy of the process.
        unsafe { libc::raise(libc::SIGABRT) };
    };
    let _ = std::env::set_current_dir(tmp());
    killed_by(abort);
    match fs::read_dir(tmp())
        .into_iter()
        .flatten()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("core"))
    {
        Some(_) => Err("there is a core file".into()),
        None => Ok(()),
    }
}

fn holes() -> Result {
    // The signal for it would end us.
    // SAFETY: ignoring a signal touches no memory.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    reached(File::create(tmp().join("holes")).and_then(|file| file.set_len(1 << 40)))
}

fn inotify() -> Result {
    let made = (0..64).take_while(|_| call(libc::SYS_inotify_init1, [0; 5]).is_ok()).count();
    // SAFETY: closes what was just made; nothing owns these numbers.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    if made <= 16 { Ok(()) } else { Err(format!("{made} instances were made")) }
}

/// Processes and threads of a request, as [`crate::Limits::default`] has it.
const PROCESSES_MAX: usize = 64;
/// Attempts, far enough beyond.
const ATTEMPTS: usize = 200;

fn processes_max() -> Result {
    let mut children = Vec::new();
    for _ in 0..ATTEMPTS {
        // SAFETY: one thread; the copy waits to be killed.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: waits.
                unsafe { libc::pause() };
            },
            -1 => break,
            pid => children.push(pid),
        }
    }
    for pid in &children {
        // SAFETY: children of this process that nobody has waited for.
        unsafe {
            libc::kill(*pid, libc::SIGKILL);
            libc::waitpid(*pid, std::ptr::null_mut(), 0);
        }
    }
    enough(children.len())
}

fn threads_max() -> Result {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let stopped = std::sync::Arc::new(std::sync::Mutex::new(stopped));
    let mut threads = Vec::new();
    for _ in 0..ATTEMPTS {
        let stopped = stopped.clone();
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            let _ = stopped.lock().map(|stopped| stopped.recv());
        });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(_) => break,
        }
    }
    drop(stop);
    let started = threads.len();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    enough(started)
}

/// A limit that is far too low would be a fault, too.
fn enough(started: usize) -> Result {
    match started {
        ..32 => Err(format!("only {started} could be started")),
        32..=PROCESSES_MAX => Ok(()),
        _ => Err(format!("{started} were started")),
    }
}
