//! One sandbox: its first process, the *keeper*.
//!
//! Owns what is private to a request: ids, `/proc`, `/tmp`, `/outputs`, `/code`, quotas, and the processes. The keeper
//! never runs anything of the request itself; the command is its child (`command.rs`). When the command ends, or the
//! server hangs up, or too much memory is used, the keeper kills and reaps every process that is left, and only then
//! reports: an answer means that nothing runs any more. If the keeper itself is killed, the kernel does the same.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use libc::pid_t;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    mount::MountAttrFlags,
    net::{AddressFamily, SocketFlags, SocketType, bind, socket_with},
    pipe::PipeFlags,
    process::{DumpableBehavior, set_dumpable_behavior, setsid},
    thread::{CapabilitySet, Gid, Uid, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    bare::{self, Bare},
    command,
    defence::Defence,
    fault::{At, Fault},
    interpreter::Interpreter,
    limits,
    memory::Watch,
    order::{Order, place_streams},
    privileges::{keep_capabilities, refuse_privileges},
    proxy,
    request::{CODE_MAX, Limits, Net},
    root, sys,
    sys::{Cloned, Status},
    template::Template,
    tier::Tier,
    users::map_user,
    warm::{Awaited, Undelivered},
    wire::{self, CALL_MAX, Call, Job, Message as _, Report},
};

/// The id that a command has inside, whatever it is outside.
const USER: u32 = 1000;
/// Files in `/tmp`.
const TMP_FILES_MAX: u32 = 16_384;
/// Files in `/code`: itself, a program, and for a moment the pipe in its place.
const CODE_FILES_MAX: u32 = 3;
/// Connections to the proxy that wait to be accepted.
const BACKLOG: i32 = 64;
/// How often memory is measured.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// Where descriptors lie in a new keeper: what it hears the server on, and what its command gets its job from.
const KEEPER: i32 = 3;
const COMMAND: i32 = 4;

/// What a sandbox is made for.
pub(crate) enum Purpose<'a> {
    /// A request that is here already.
    Order(&'a Order),
    /// The first request that comes: its report and memory limit to the keeper, the whole order to the command.
    Ready { keeper: OwnedFd, command: OwnedFd },
    /// The first request that this interpreter can serve: its report, memory limit, job and input to the keeper.
    Warm { keeper: OwnedFd, stdout: OwnedFd, stderr: OwnedFd, interpreter: &'a Interpreter },
}

/// The keeper's life, in a process just cloned into namespaces of its own as `user` of the zygote's.
pub(crate) fn keep(template: &Template, purpose: Purpose<'_>, user: u32) -> ! {
    let placed = place(template, &purpose, user);
    // SAFETY: `place` has put the two descriptors there, and nothing else owns these numbers. Did it fail, they are
    // still the placeholders of the zygote, and what is sent to them goes nowhere.
    let (keeper, command) = unsafe { (sys::take(KEEPER), sys::take(COMMAND)) };
    match purpose {
        Purpose::Order(order) => {
            let report = if placed.is_ok() { &keeper } else { &order.report };
            let started = placed.and_then(|()| {
                let bytes = wire::read_all(command).at("read the job")?;
                let job = Job::parse(&bytes).at("read the job")?;
                drop(bytes);
                let memory = job.limits.memory;
                let (furnished, job) = match &template.bare {
                    None => (furnish(template, &job.limits, &job.net)?, job),
                    Some(bare) => (furnish_bare(template, bare)?, bare.translate(job)),
                };
                let run = || -> () { command::run(template, &job, report) };
                Ok((memory, furnished.start(false, run)?))
            });
            match started {
                Ok((memory, started)) => Keeper::new(started).begin(keeper, memory).run(),
                Err(fault) => give_up(report, fault),
            }
        }
        Purpose::Ready { .. } => {
            let wait = || -> () { command::wait(template, &command) };
            match placed.and_then(|()| furnish(template, &Limits::default(), &Net::None)?.start(true, wait)) {
                Ok(started) => {
                    drop(command);
                    Keeper { calls: Some(keeper), ..Keeper::new(started) }.run()
                }
                Err(fault) => match hear(&keeper) {
                    Some(Heard { report, .. }) => give_up(&report, fault),
                    None => sys::exit(1),
                },
            }
        }
        Purpose::Warm { interpreter, .. } => {
            let stdin = interpreter.stdin.then_some(command);
            match placed.and_then(|()| boot(template, interpreter, stdin)) {
                Ok(warm) => Keeper { calls: Some(keeper), ..warm }.run(),
                // There will be no second try with this one.
                Err(_) => sys::exit(1),
            }
        }
    }
}

/// Starts an interpreter that waits.
fn boot(template: &Template, interpreter: &Interpreter, stdin: Option<OwnedFd>) -> Result<Keeper, Fault> {
    let furnished = furnish(template, &Limits::default(), &Net::None)?;
    let awaited = Awaited::new(interpreter.language, stdin)?;
    let (unborn, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at("make a pipe")?;
    let started = furnished.start(false, || command::boot(template, interpreter, &tell))?;
    Ok(Keeper { awaited: Some(awaited), unborn: Some(unborn), ..Keeper::new(started) })
}

fn give_up(report: &OwnedFd, fault: Fault) -> ! {
    let _ = wire::send(report, &Report::Fault(fault).bytes(), &[]);
    sys::exit(1)
}

/// What a keeper is told of the request that its sandbox is to serve.
struct Heard {
    report: OwnedFd,
    memory_max: u64,
    /// For an interpreter that waits: its job.
    job: Option<OwnedFd>,
    /// And its standard input, if there is any.
    stdin: Option<OwnedFd>,
}

/// Waits for the request that a sandbox made ahead is to serve. `None`: there will be none.
fn hear(calls: &OwnedFd) -> Option<Heard> {
    let mut buffer = [0; CALL_MAX];
    let (length, fds) = wire::receive(calls, &mut buffer).ok()??;
    let call = Call::parse(&buffer[..length]).ok()?;
    let mut fds = fds.into_iter();
    Some(Heard { report: fds.next()?, memory_max: call.memory, job: fds.next(), stdin: fds.next() })
}

/// Becomes the sandbox's user and gives up everything of the zygote's but what the purpose needs.
fn place(template: &Template, purpose: &Purpose<'_>, user: u32) -> Result<(), Fault> {
    match &template.bare {
        None => {
            map_user(&template.root.proc, USER, (user, user))?;
            let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
            set_thread_res_gid(gid, gid, gid).at("become the sandbox's user")?;
            set_thread_res_uid(uid, uid, uid).at("become the sandbox's user")?;
        }
        Some(bare) => bare.settle(user)?,
    }
    setsid().at("leave the session")?;
    let (keeper, command) = match purpose {
        Purpose::Order(order) => {
            place_streams(&order.stdout, &order.stderr, order.stdin.as_ref()).at("place descriptors")?;
            (&order.report, &order.job)
        }
        Purpose::Ready { keeper, command } => (keeper, command),
        Purpose::Warm { keeper, stdout, stderr, interpreter } => {
            // Nothing is in it before the request comes.
            let stdin = wire::memory("stdin").at("make standard input")?;
            place_streams(stdout, stderr, interpreter.stdin.then_some(&stdin)).at("place descriptors")?;
            sys::place(stdin.as_fd(), COMMAND, true).at("place descriptors")?;
            (keeper, keeper)
        }
    };
    sys::place(keeper.as_fd(), KEEPER, true).at("place descriptors")?;
    if !matches!(purpose, Purpose::Warm { .. }) {
        sys::place(command.as_fd(), COMMAND, true).at("place descriptors")?;
    }
    sys::close_from(COMMAND + 1).at("close descriptors")
}

/// Starts a process that runs `becomes` in a copy of this one's memory.
fn fork(mut becomes: impl FnMut()) -> io::Result<pid_t> {
    match sys::clone(0, None)? {
        Cloned::Child => {
            becomes();
            sys::exit(127)
        }
        Cloned::Parent(pid, _pidfd) => Ok(pid),
    }
}

/// Makes what is private to this sandbox.
fn furnish(template: &Template, limits: &Limits, net: &Net) -> Result<Furnished, Fault> {
    // Writing one's own quotas needs one's own /proc/self; hidden from its equals only below.
    set_dumpable_behavior(DumpableBehavior::Dumpable).at("stay dumpable")?;
    let tier = template.root.tier;
    let defences = template.defences;
    let outputs = mount_own(tier, limits, defences.has(Defence::Hiding))?;
    if tier == Tier::Strict {
        if defences.has(Defence::Quotas) {
            limits::set_quotas()?;
        }
        limits::sacrifice_first()?;
    }
    rustix::system::sethostname(b"sandbox").at("set the host name")?;
    if net.loopback() {
        sys::loopback_up().at("bring up loopback")?;
    }
    let proxy = match net {
        Net::Allow(_) => Some(listen().at("listen for the proxy")?),
        Net::None | Net::Loopback => None,
    };
    if defences.has(Defence::Hiding) {
        set_dumpable_behavior(DumpableBehavior::NotDumpable).at("hide the keeper")?;
    }
    let watched = tier == Tier::Strict && defences.has(Defence::MemoryWatch);
    let watch = if watched { Some(Watch::new().at("watch memory")?) } else { None };

    if defences.has(Defence::Capabilities) {
        // Inherited by the command, so done once for both.
        refuse_privileges()?;
    }
    Ok(Furnished { watch, outputs, proxy, own: None })
}

/// The same without namespaces: there is less to be private.
fn furnish_bare(template: &Template, bare: &Bare) -> Result<Furnished, Fault> {
    let (own, outputs) = bare.open_own()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at("hide the keeper")?;
    let watched = template.defences.has(Defence::MemoryWatch) && Watch::knows_descendants();
    let watch = if watched { Some(Watch::of_descendants().at("watch memory")?) } else { None };
    Ok(Furnished { watch, outputs, proxy: None, own: Some(own) })
}

/// What is private to a sandbox, before anything runs in it.
struct Furnished {
    watch: Option<Watch>,
    outputs: OwnedFd,
    /// Where the command will look for a proxy. The server accepts.
    proxy: Option<OwnedFd>,
    /// Without namespaces: the directory that is this sandbox's alone.
    own: Option<OwnedFd>,
}

impl Furnished {
    /// Starts the command, which is `run`. If it waits for something before it executes its program, it needs a memory
    /// of its own.
    fn start(self, waits: bool, run: impl FnMut()) -> Result<Started, Fault> {
        let signals = sys::child_signals().at("receive signals")?;
        let command = if waits { fork(run) } else { sys::start(run) }.at("start the command")?;
        // The keeper must not keep the command's pipes open.
        sys::close(0, 2).at("close descriptors")?;
        // Its processes may hide from one another, but not from the keeper that measures them.
        if self.own.is_none() {
            keep_capabilities(CapabilitySet::SYS_PTRACE)?;
        }
        let Furnished { watch, outputs, proxy, own } = self;
        Ok(Started { command, signals, watch, outputs, proxy, own })
    }
}

/// A socket for connections from inside, in the sandbox's own network.
fn listen() -> Result<OwnedFd, Errno> {
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, proxy::PORT))?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Mounts what no two sandboxes share, and returns `/outputs`.
fn mount_own(tier: Tier, limits: &Limits, hiding: bool) -> Result<OwnedFd, Fault> {
    if tier == Tier::Strict {
        let proc = root::procfs(&[("hidepid", if hiding { "invisible" } else { "off" })]).at("mount /proc")?;
        root::attach(&proc, "/proc").at("mount /proc")?;
    }
    own_tmpfs("/tmp", limits.tmp, TMP_FILES_MAX, "1777")?;
    own_tmpfs("/code", CODE_MAX, CODE_FILES_MAX, "755")?;
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
    outputs: OwnedFd,
    proxy: Option<OwnedFd>,
    own: Option<OwnedFd>,
}

impl Started {
    /// Leaves nothing on the host. Only now has nobody any use for it.
    fn clean_up(&self) {
        if let Some(own) = &self.own {
            // If something stays, the zygote will say so by removing it itself.
            let _ = bare::clear(own.as_fd());
        }
    }
}

/// The keeper while the command runs.
struct Keeper {
    started: Started,
    /// Where the request comes from, as long as there is none.
    calls: Option<OwnedFd>,
    /// Where the server hears of the request.
    report: Option<OwnedFd>,
    memory_max: u64,
    /// What an interpreter waits for.
    awaited: Option<Awaited>,
    /// Something to read: the interpreter could not be executed.
    unborn: Option<OwnedFd>,
}

/// Why the keeper makes an end.
enum Cause {
    Ended(Status),
    HungUp,
    Memory,
}

impl Keeper {
    fn new(started: Started) -> Keeper {
        Keeper { started, calls: None, report: None, memory_max: u64::MAX, awaited: None, unborn: None }
    }

    /// From here on there is a request.
    fn begin(mut self, report: OwnedFd, memory_max: u64) -> Keeper {
        // If the server does not want to hear it, its end is closed, which we shall see.
        let proxy = self.started.proxy.take();
        let fds: Vec<_> = [&self.started.outputs].into_iter().chain(&proxy).map(OwnedFd::as_fd).collect();
        let _ = wire::send(&report, &Report::Outputs.bytes(), &fds);
        Keeper { report: Some(report), calls: None, memory_max, ..self }
    }

    fn run(self) -> ! {
        let (keeper, cause) = self.wait();
        let mut status = Status::Signal(libc::SIGKILL);
        // Orphans of the command become the keeper's children, so that without a child nothing is left; mostly there is
        // none, and the signal, for which the kernel looks at every process of the machine, is spared.
        if sys::has_children() {
            sys::kill_all_others();
            while let Some(ended) = sys::reap(true) {
                if ended.pid == keeper.started.command {
                    status = ended.status;
                }
            }
        }
        let (status, memory_exceeded) = match cause {
            Cause::Ended(status) => (status, false),
            Cause::Memory => (status, true),
            Cause::HungUp => {
                keeper.started.clean_up();
                sys::exit(0)
            }
        };
        if let Some(report) = keeper.report {
            let message = match keeper.unborn {
                Some(unborn) if rustix::io::read(&unborn, &mut [0]) == Ok(1) => Report::Unbegun,
                _ => Report::Ended { status, memory_exceeded, used: sys::used_by_children() },
            };
            let _ = wire::send(&report, &message.bytes(), &[]);
            // Taking the namespaces down takes longer than reading the answer. Who reads it goes first, if it is to do
            // so on this processor.
            rustix::thread::sched_yield();
            if keeper.started.own.is_some() {
                // The server takes the outputs over first. It hangs up when it is done.
                let _ = poll(&mut [PollFd::new(&report, PollFlags::RDHUP)], None);
            }
        }
        keeper.started.clean_up();
        sys::exit(0)
    }

    fn wait(mut self) -> (Keeper, Cause) {
        let every = Timespec { tv_sec: 0, tv_nsec: i64::from(WATCH_EVERY.subsec_nanos()) };
        loop {
            let watched = self.started.watch.as_ref().filter(|_| self.report.is_some());
            let woken = self.poll(watched.is_some().then_some(&every));
            let Ok(Woken { signal, call, hung_up }) = woken else { return (self, Cause::HungUp) };
            if !signal && !call && watched.is_some_and(|watch| watch.exceeded(self.memory_max)) {
                return (self, Cause::Memory);
            }
            if call {
                self = match self.hear() {
                    Ok(keeper) => keeper,
                    Err(keeper) => return (keeper, Cause::HungUp),
                };
            }
            if signal && let Some(status) = self.command_ended() {
                return match self.calls {
                    // An interpreter that ended without a program is of no use.
                    Some(_) if self.awaited.is_some() => (self, Cause::HungUp),
                    // What ran so fast was told after us.
                    Some(_) => match self.hear() {
                        Ok(keeper) => (keeper, Cause::Ended(status)),
                        Err(keeper) => (keeper, Cause::HungUp),
                    },
                    None => (self, Cause::Ended(status)),
                };
            }
            if hung_up {
                return (self, Cause::HungUp);
            }
        }
    }

    /// Waits until something happens, or for `at_most`.
    fn poll(&self, at_most: Option<&Timespec>) -> Result<Woken, Errno> {
        let (server, events) = match (&self.report, &self.calls) {
            // Where it cannot kill us, the server closes its half.
            (Some(report), _) => (report, PollFlags::RDHUP),
            (None, Some(calls)) => (calls, PollFlags::IN),
            (None, None) => return Err(Errno::BADF),
        };
        let mut fds = [PollFd::new(&self.started.signals, PollFlags::IN), PollFd::new(server, events)];
        match poll(&mut fds, at_most) {
            Ok(_) | Err(Errno::INTR) => (),
            Err(error) => return Err(error),
        }
        let call = fds[1].revents().contains(PollFlags::IN);
        Ok(Woken { signal: !fds[0].revents().is_empty(), call, hung_up: !call && !fds[1].revents().is_empty() })
    }

    /// Takes the request. An error: there will be none.
    fn hear(mut self) -> Result<Keeper, Keeper> {
        let Some(Heard { report, memory_max, job, stdin }) = self.calls.take().as_ref().and_then(hear) else {
            return Err(self);
        };
        let undelivered = match (self.awaited.take(), job) {
            (Some(awaited), Some(job)) => awaited.deliver(job, stdin).err(),
            _ => None,
        };
        let message = match undelivered {
            None => return Ok(self.begin(report, memory_max)),
            Some(Undelivered::Unfit(why)) => Report::Unfit(why),
            Some(Undelivered::Fault(fault)) => Report::Fault(fault),
        };
        let _ = wire::send(&report, &message.bytes(), &[]);
        Err(self)
    }

    /// Reaps what has ended, and says how the command did.
    fn command_ended(&self) -> Option<Status> {
        sys::drain(&self.started.signals);
        while let Some(ended) = sys::reap(false) {
            if ended.pid == self.started.command {
                return Some(ended.status);
            }
        }
        None
    }
}

/// What a keeper was woken by.
struct Woken {
    signal: bool,
    call: bool,
    hung_up: bool,
}
