//! One sandbox: its first process, the *keeper*.
//!
//! Owns what is private to a request: ids, `/proc`, `/tmp`, `/outputs`, `/code`, quotas, and the processes. The keeper
//! never runs anything of the request itself; the command is its child (`command.rs`). When the command ends, or the
//! server hangs up, or too much memory is used, the keeper kills and reaps every process that is left, and only then
//! reports: an answer means that nothing runs any more. If the keeper itself is killed, the kernel does the same.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use libc::pid_t;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    mount::MountAttrFlags,
    process::{DumpableBehavior, set_dumpable_behavior, setsid},
    thread::{CapabilitySet, Gid, Uid, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    Limits, Net, Tier, command,
    fault::{At, Fault},
    limits,
    memory::Watch,
    root, sys,
    sys::{Cloned, Status},
    wire::{self, Job, Message as _, Report},
    zygote::{Template, map_user},
};

/// The id that a command has inside, whatever it is outside.
const USER: u32 = 1000;
/// Files in `/tmp`.
const TMP_FILES_MAX: u32 = 16_384;
/// Size of `/code`, in bytes; the length of a program is limited before (`request.rs`).
pub(crate) const CODE_MAX: u64 = 8 << 20;
/// How often memory is measured.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// Where descriptors lie in the keeper.
const REPORT: i32 = 3;
const JOB: i32 = 4;

/// What the server sends for one request.
pub(crate) struct Order {
    pub(crate) report: OwnedFd,
    job: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    stdin: Option<OwnedFd>,
}

impl Order {
    /// `None`: these are not the descriptors of an order.
    pub(crate) fn from_fds(fds: Vec<OwnedFd>) -> Option<Order> {
        let mut fds = fds.into_iter();
        Some(Order {
            report: fds.next()?,
            job: fds.next()?,
            stdout: fds.next()?,
            stderr: fds.next()?,
            stdin: fds.next(),
        })
    }
}

/// The keeper's life, in a process just cloned into namespaces of its own as `user` of the zygote's.
pub(crate) fn keep(template: &Template, order: &Order, user: u32) -> ! {
    if let Err(fault) = place(template, order, user) {
        let _ = wire::send(&order.report, &Report::Fault(fault).bytes(), &[]);
        sys::exit(1);
    }
    // SAFETY: `place` has put the two descriptors there, and nothing else owns these numbers.
    let (report, job) = unsafe { (sys::take(REPORT), sys::take(JOB)) };
    match prepare(template, &report, job) {
        Ok(started) => Keeper { report, started }.run(),
        Err(fault) => {
            let _ = wire::send(&report, &Report::Fault(fault).bytes(), &[]);
            sys::exit(1)
        }
    }
}

/// Becomes the sandbox's user and lets go of everything of the zygote's but the order.
fn place(template: &Template, order: &Order, user: u32) -> Result<(), Fault> {
    map_user(&template.root.proc, USER, (user, user))?;
    let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
    set_thread_res_gid(gid, gid, gid).at("become the sandbox's user")?;
    set_thread_res_uid(uid, uid, uid).at("become the sandbox's user")?;
    setsid().at("leave the session")?;
    if let Some(stdin) = &order.stdin {
        sys::place(stdin.as_fd(), 0, false).at("place descriptors")?;
    }
    for (fd, number, close_on_exec) in
        [(&order.stdout, 1, false), (&order.stderr, 2, false), (&order.report, REPORT, true), (&order.job, JOB, true)]
    {
        sys::place(fd.as_fd(), number, close_on_exec).at("place descriptors")?;
    }
    sys::close_from(JOB + 1).at("close descriptors")
}

/// Makes what is private to this request and starts the command.
fn prepare(template: &Template, report: &OwnedFd, job: OwnedFd) -> Result<Started, Fault> {
    // Writing one's own quotas needs one's own /proc/self; hidden from its equals only below.
    set_dumpable_behavior(DumpableBehavior::Dumpable).at("stay dumpable")?;
    let bytes = wire::read_all(job).at("read the job")?;
    let job = Job::parse(&bytes).at("read the job")?;
    drop(bytes);

    let outputs = mount_own(template.root.tier, &job.limits)?;
    wire::send(report, &Report::Outputs.bytes(), &[outputs.as_fd()]).at("report")?;
    drop(outputs);
    if template.root.tier == Tier::Strict {
        limits::set_quotas()?;
        limits::sacrifice_first()?;
    }
    rustix::system::sethostname(b"sandbox").at("set the host name")?;
    if job.net == Net::Loopback {
        sys::loopback_up().at("bring up loopback")?;
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at("hide the keeper")?;
    let watch = match template.root.tier {
        Tier::Strict => Some(Watch::new(job.limits.memory).at("watch memory")?),
        Tier::StrictWithoutProc => None,
    };

    let signals = sys::child_signals().at("receive signals")?;
    let command = match sys::clone(0).at("start the command")? {
        Cloned::Child => command::run(template, &job, report),
        Cloned::Parent(pid, _pidfd) => pid,
    };
    drop(job);
    // The keeper must not keep the command's pipes open.
    sys::close(0, 2).at("close descriptors")?;
    // Its processes may hide from one another, but not from the keeper that measures them.
    command::drop_privileges(CapabilitySet::SYS_PTRACE)?;
    Ok(Started { command, signals, watch })
}

/// Mounts what no two sandboxes share, and returns `/outputs`.
fn mount_own(tier: Tier, limits: &Limits) -> Result<OwnedFd, Fault> {
    if tier == Tier::Strict {
        let proc = root::procfs(&[("hidepid", "invisible")]).at("mount /proc")?;
        root::attach(&proc, "/proc").at("mount /proc")?;
    }
    own_tmpfs("/tmp", limits.tmp, TMP_FILES_MAX, "1777")?;
    own_tmpfs("/code", CODE_MAX, 2, "755")?;
    // The root counts as a file, too.
    own_tmpfs("/outputs", limits.outputs, limits.files.saturating_add(1), "755")
}

fn own_tmpfs(at: &str, size: u64, files: u32, mode: &str) -> Result<OwnedFd, Fault> {
    // 0 would mean no limit.
    let (size, files) = (size.max(1).to_string(), files.max(1).to_string());
    let mount = root::tmpfs(&[("size", &size), ("nr_inodes", &files), ("mode", mode)], MountAttrFlags::empty())
        .at(&format!("make {at}"))?;
    root::attach(&mount, at).at(&format!("mount {at}"))?;
    Ok(mount)
}

/// The command, and what tells of it.
struct Started {
    command: pid_t,
    signals: OwnedFd,
    watch: Option<Watch>,
}

/// The keeper while the command runs.
struct Keeper {
    report: OwnedFd,
    started: Started,
}

/// Why the keeper makes an end.
enum Cause {
    Ended(Status),
    HungUp,
    Memory,
}

impl Keeper {
    fn run(self) -> ! {
        let cause = self.wait();
        sys::kill_all_others();
        // Until there is no child left. Orphans of the command become the keeper's children.
        let mut status = Status::Signal(libc::SIGKILL);
        while let Some(ended) = sys::reap(true) {
            if ended.pid == self.started.command {
                status = ended.status;
            }
        }
        let (status, memory_exceeded) = match cause {
            Cause::Ended(status) => (status, false),
            Cause::Memory => (status, true),
            Cause::HungUp => sys::exit(0),
        };
        let report = Report::Ended { status, memory_exceeded, used: sys::used_by_children() };
        let _ = wire::send(&self.report, &report.bytes(), &[]);
        sys::exit(0)
    }

    fn wait(&self) -> Cause {
        let every = Timespec { tv_sec: 0, tv_nsec: i64::from(WATCH_EVERY.subsec_nanos()) };
        loop {
            let mut fds =
                [PollFd::new(&self.started.signals, PollFlags::IN), PollFd::new(&self.report, PollFlags::empty())];
            let woken = poll(&mut fds, self.started.watch.is_some().then_some(&every));
            let (signal, hung_up) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            match woken {
                Ok(_) | Err(Errno::INTR) => (),
                Err(_) => return Cause::HungUp,
            }
            if signal {
                while rustix::io::read(&self.started.signals, &mut [0u8; 128]).is_ok_and(|length| length > 0) {}
                while let Some(ended) = sys::reap(false) {
                    if ended.pid == self.started.command {
                        return Cause::Ended(ended.status);
                    }
                }
            }
            if hung_up {
                return Cause::HungUp;
            }
            if woken == Ok(0) && self.started.watch.as_ref().is_some_and(Watch::exceeded) {
                return Cause::Memory;
            }
        }
    }
}
