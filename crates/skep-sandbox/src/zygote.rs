//! The helper process that sandboxes are started from.
//!
//! A server with gigabytes of memory and many threads cannot fork safely, nor cheaply: copying its page tables costs
//! about 28 ms per gigabyte. So it executes itself once more, small and clean:
//!
//! ```text
//! server ── execs ──▶ launcher ── clones ──▶ zygote (pid 1 of its own namespaces, in the finished root)
//!                     (waits)                  ├─ keeper of a sandbox (slot.rs)
//!                                              └─ …
//! ```
//!
//! Owns the start, the privileges, and the table of living sandboxes; what happens inside one is `slot.rs`. It has one
//! thread and never blocks on a sandbox. It dies when its control socket closes or its launcher dies, and because it
//! is the first process of a pid namespace the kernel then kills every process below it.
//!
//! **Users.** Started by an ordinary user, everything runs as that user. Started by root, the zygote gives root up for
//! a range of ids that belong to nobody, and each sandbox gets one of its own; root's id is never mapped. What only
//! root can reach is taken before (`root::Parts`), so a workspace below `/root` can be seen, as far as others may read
//! its files. One that is itself closed to others is shown as if it belonged to the zygote's user (an id-mapped mount),
//! which all sandboxes then have, as under an ordinary user.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    os::fd::{AsFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use libc::pid_t;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags, open},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior, setrlimit, setsid, umask},
};

use crate::{
    bare::{self, Bare},
    cgroup::{Ceiling, Cgroup, Tree},
    defence::{Defence, Defences},
    fault::{At, Fault},
    interpreter::Interpreter,
    landlock, limits,
    memory::Watch,
    order::{Order, Sockets},
    outcome::Start,
    pool::{Booted, Pool, Waiting, Warm},
    request::Limits,
    root::{self, Parts},
    seat::{Seat, Seats},
    seccomp::{self, Machine},
    slot::{self, Purpose},
    sys::{self, Cloned, Ended, Status, Used},
    template::Template,
    tier::{Means, Protection, Tier},
    users::{Users, become_user, map_user},
    wire::{self, Asked, Call, Hello, MESSAGE_MAX, Message as _, Offer, Report, Setup},
};

/// The program name under which an executable becomes the helper.
pub(crate) const NAME: &str = "skep-sandbox-zygote";

/// Descriptors below this are placed by number in new processes; everything that is owned lies above.
const OWNED_FROM: RawFd = 10;

/// Where the launcher keeps the pipe that ties the zygote to its life.
const GO: RawFd = 3;

/// What a sandbox that is made ahead may use: what most requests ask for.
fn ordinary() -> Ceiling {
    let Limits { memory, processes, .. } = Limits::default();
    Ceiling { memory, processes }
}

/// How far apart the first users of helpers are that follow one another.
const APART: usize = 67;

/// All that a process can be separated from.
fn namespaces(defences: Defences) -> libc::c_int {
    let network = if defences.has(Defence::Network) { libc::CLONE_NEWNET } else { 0 };
    network
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
}

/// The launcher: what an executable started under [`NAME`] does instead of its own work.
pub(crate) fn main() -> ! {
    if sys::close_from(3).is_err() {
        sys::exit(1);
    }
    // SAFETY: the server starts this program with the control socket as its standard input.
    let standard_input = unsafe { sys::take(0) };
    let Ok(control) = sys::raise(standard_input, OWNED_FROM) else { sys::exit(1) };
    if let Err(fault) = launch(&control) {
        // If the server is gone there is nobody to tell.
        let _ = wire::send(&control, &Hello::Fault(fault).bytes(), &[]);
    }
    sys::exit(1)
}

fn launch(control: &OwnedFd) -> Result<(), Fault> {
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open /dev/null")?;
    let null = sys::raise(null, OWNED_FROM).at("keep /dev/null")?;
    for number in (0..OWNED_FROM).filter(|number| *number != 2) {
        sys::place(null.as_fd(), number, number > 2).at("reserve low descriptors")?;
    }
    setsid().at("leave the terminal")?;
    // Each sandbox costs descriptors here; what a command may open is set for itself.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).at("allow more descriptors")?;
    umask(Mode::from_raw_mode(0o022));

    let mut buffer = vec![0; MESSAGE_MAX];
    let Some((length, _)) = wire::receive(control, &mut buffer).at("receive the setup")? else { sys::exit(0) };
    let setup = Setup::parse(&buffer[..length]).at("read the setup")?;

    let bare = setup.bare.as_deref().map(bare::begin).transpose()?;
    let users = Users::choose()?;
    // Root reaches what its stand-in will not. Without the right to mount (a container) the stand-in has to try.
    let parts = match users {
        Users::Range { .. } if bare.is_none() => Parts::take(&setup.binds).ok(),
        Users::Own { .. } | Users::Range { .. } => None,
    };
    let flags = if bare.is_some() { 0 } else { namespaces(setup.defences) };
    let mut tree = Tree::make(bare.is_some());
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("make a pipe")?;
    match sys::clone(flags, None).at("make namespaces")? {
        Cloned::Child => {
            drop(go);
            let result = catch_unwind(AssertUnwindSafe(|| {
                let control = control.try_clone().at("keep the control socket")?;
                let start = Beginning { control, users, launcher: wait, tree: tree.take(), one_user: false };
                let mut zygote = match &bare {
                    None => Zygote::prepare(start, parts, &setup)?,
                    Some((directory, _)) => {
                        let bare = Bare::new(directory.clone(), &setup.binds, users)?;
                        Zygote::prepare_bare(start, bare, &setup)?
                    }
                };
                let served = zygote.serve().at("serve");
                if served.is_ok() { zygote.end() } else { served }
            }));
            let fault = match result {
                Ok(Ok(())) => sys::exit(0),
                Ok(Err(fault)) => fault,
                Err(_) => Fault { step: "not panic in the zygote".into(), errno: libc::EIO },
            };
            let _ = wire::send(control, &Hello::Fault(fault).bytes(), &[]);
            sys::exit(1)
        }
        Cloned::Parent(pid, _pidfd) => {
            let range = match users {
                Users::Range { from, count } if bare.is_none() => Some((from, count)),
                Users::Range { .. } | Users::Own { .. } => None,
            };
            let told = release(pid, range, parts.as_ref(), tree.as_ref())?;
            rustix::io::write(&go, &[told]).at("let the zygote go")?;
            // From now on only the zygote has the control socket, so that the server sees its end. The pipe stays
            // here, so that the zygote sees ours.
            sys::place(go.as_fd(), GO, true).at("close descriptors")?;
            sys::close_from(GO + 1).at("close descriptors")?;
            // Orphans come here, too.
            while sys::reap(true).is_some_and(|ended| ended.pid != pid) {}
            if let Some((directory, _)) = &bare {
                bare::end_all();
                bare::remove(directory);
            }
            sys::exit(0)
        }
    }
}

/// Does for the zygote what it cannot do itself, gives root up for the users that it is to have, and returns what to tell it.
fn release(zygote: pid_t, users: Option<(u32, u32)>, parts: Option<&Parts>, tree: Option<&Tree>) -> Result<u8, Fault> {
    let limited = tree.is_some_and(|tree| tree.settle(zygote, users.map(|(from, _)| from)).is_ok());
    let mut told = if limited { LIMITED } else { 0 };
    if let Some((from, count)) = users {
        let map = |file: &str| fs::write(format!("/proc/{zygote}/{file}"), format!("0 {from} {count}"));
        map("uid_map").and_then(|()| map("gid_map")).at("map users")?;
        let namespace = open(format!("/proc/{zygote}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        if let (Some(parts), Ok(namespace)) = (parts, namespace)
            && parts.open_to(&namespace)
        {
            told |= ONE_USER;
        }
        become_user(from).at("give up root")?;
    }
    Ok(told)
}

/// What the launcher lets the zygote go with, as bits: that its cgroup is of use;
const LIMITED: u8 = 1 << 0;
/// that all sandboxes have to be of one user, since there are files that are only for that one to read.
const ONE_USER: u8 = 1 << 1;

/// What a zygote begins with.
struct Beginning {
    control: OwnedFd,
    users: Users,
    launcher: OwnedFd,
    tree: Option<Tree>,
    one_user: bool,
}

impl Beginning {
    /// Waits until the launcher has done what only it can do.
    fn wait(mut self) -> Result<Beginning, Fault> {
        let mut told = [0];
        if rustix::io::read(&self.launcher, &mut told).at("wait for the launcher")? == 0 {
            sys::exit(0);
        }
        if told[0] & LIMITED == 0 {
            self.tree = None;
        }
        self.one_user = told[0] & ONE_USER != 0;
        Ok(self)
    }
}

struct Zygote {
    control: OwnedFd,
    /// Closes when the launcher dies. A signal at its death would not do: a change of user forgets it.
    launcher: OwnedFd,
    signals: OwnedFd,
    template: Template,
    seats: Seats,
    living: HashMap<pid_t, Living>,
    /// Those without namespaces whose keeper was killed and whose processes are being.
    headless: Vec<(Ended, Living)>,
    ready: Pool,
    warm: Warm,
}

/// A sandbox that has begun to serve a request.
struct Born {
    start: Start,
    pid: pid_t,
    seat: Seat,
    /// What goes with [`Report::Born`], the pidfd first.
    fds: Vec<OwnedFd>,
}

/// A sandbox whose keeper has not been reaped.
struct Living {
    /// Where the server hears of the request that it serves, if it does.
    report: Option<OwnedFd>,
    seat: Seat,
}

impl Zygote {
    fn prepare(start: Beginning, parts: Option<Parts>, setup: &Setup) -> Result<Zygote, Fault> {
        let start = start.wait()?;
        let range = match start.users {
            Users::Own { user, group } => {
                let proc = open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at("open /proc")?;
                map_user(proc, 0, (user, group))?;
                None
            }
            Users::Range { count, .. } => {
                become_user(0).at("give up root")?;
                (!start.one_user).then(|| (1..count).collect())
            }
        };
        // A change of user hides a process from itself in /proc; this one has nothing to hide from its equals.
        set_dumpable_behavior(DumpableBehavior::Dumpable).at("stay dumpable")?;
        let parts = match parts {
            Some(parts) => parts,
            None => Parts::take(&setup.binds)?,
        };
        let landlock = sys::landlock_version().at("find Landlock")?;
        let template = Template {
            root: root::build(parts)?,
            filter: seccomp::program(Machine::THIS, Tier::Strict),
            landlock,
            defences: setup.defences,
            readable: root::reserved()
                .map(str::to_owned)
                .chain(setup.binds.iter().map(|bind| bind.target.to_string_lossy().into_owned()))
                .collect(),
            writable: root::WRITABLE.into_iter().chain(root::DEVICES).map(str::to_owned).collect(),
            // The keeper.
            counted: 1,
            bare: None,
        };
        Zygote::new(start, template, range, (Pool::new(), Warm::new(setup.warm_max)))
    }

    /// The same without namespaces, and without anything made ahead.
    fn prepare_bare(start: Beginning, bare: Bare, setup: &Setup) -> Result<Zygote, Fault> {
        let start = start.wait()?;
        let proc = open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at("open /proc")?;
        let tier = Tier::Landlock;
        let range = match start.users {
            Users::Own { .. } => None,
            Users::Range { count, .. } => {
                // Nothing but the kernel's count of its processes would tell two sandboxes of one user apart, so helpers
                // that run at the same time begin at different ones.
                let mut users: VecDeque<u32> = (1..count).collect();
                users.rotate_left(std::process::id() as usize * APART % users.len());
                Some(users)
            }
        };
        let template = Template {
            root: root::Root { tier, proc },
            filter: seccomp::program(Machine::THIS, tier),
            landlock: sys::landlock_version().at("find Landlock")?,
            defences: setup.defences,
            readable: bare.readable(),
            writable: root::DEVICES.map(str::to_owned).to_vec(),
            counted: 1,
            bare: Some(bare),
        };
        Zygote::new(start, template, range, (Pool::empty(), Warm::new(0)))
    }

    fn new(
        Beginning { control, launcher, tree, .. }: Beginning,
        template: Template,
        users: Option<VecDeque<u32>>,
        (ready, warm): (Pool, Warm),
    ) -> Result<Zygote, Fault> {
        let signals = sys::child_signals().at("receive signals")?;
        // With namespaces the zygote puts on the user of what it clones.
        let lent = users.is_some() && template.bare.is_none();
        let seats = Seats::new(users, tree.map(|tree| if lent { tree.share() } else { tree }));
        let (living, headless) = (HashMap::new(), Vec::new());
        Ok(Zygote { control, launcher, signals, template, seats, living, headless, ready, warm })
    }

    /// The end of everything that it has started. With namespaces the kernel sees to that.
    fn end(&self) -> ! {
        if let Some(bare) = &self.template.bare {
            bare::end_all();
            bare.remove();
        }
        sys::exit(0)
    }

    /// What is not enforced here.
    fn missing(&self) -> Vec<Protection> {
        let Template { root, landlock, bare, .. } = &self.template;
        root.tier.missing(Means {
            quotas: root.tier == Tier::Strict && limits::quotas_exist(),
            landlock: *landlock >= landlock::SCOPED,
            children: Watch::knows_descendants(),
            users: bare.as_ref().is_some_and(Bare::has_users),
            memory_cap: self.seats.ceilings().0,
            processes_cap: self.seats.ceilings().1,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let hello = Hello::Ready { tier: self.template.root.tier, missing: self.missing() };
        wire::send(&self.control, &hello.bytes(), &[])?;
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let (order, signal) = self.wait()?;
            if signal {
                self.bury();
            }
            if order {
                let Some((length, fds)) = wire::receive(&self.control, &mut buffer)? else { return Ok(()) };
                match Asked::parse(&buffer[..length]) {
                    Ok(Asked::Order(call)) => {
                        Order::from_fds(fds).into_iter().for_each(|order| self.start(&call, order))
                    }
                    Ok(Asked::Taken(number)) => fds.into_iter().for_each(|report| self.taken(number, report)),
                    Err(_) => (),
                }
            } else if !signal {
                self.idle();
            }
        }
    }

    /// Waits for an order or a signal, and says which.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let mut fds = [
            PollFd::new(&self.control, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.launcher, PollFlags::empty()),
        ];
        let patience = self.ready.patience(self.running(), &self.warm, Instant::now());
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) if !fds[2].revents().is_empty() => self.end(),
            Ok(_) => Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty())),
            // Not idle, but no harm either.
            Err(Errno::INTR) => Ok((false, true)),
            Err(error) => Err(error.into()),
        }
    }

    /// Sandboxes that serve a request.
    fn running(&self) -> usize {
        self.living.values().filter(|living| living.report.is_some()).count()
    }

    /// Nothing has happened for a while.
    fn idle(&mut self) {
        let time = self.ready.has_time(self.running());
        if time && self.ready.wants_more() {
            self.make_ready();
        } else if time && let Some(interpreter) = self.warm.wanted().cloned() {
            self.boot(&interpreter);
        } else {
            self.seats.tidy();
            self.ready.shrink();
            self.warm.shrink(Instant::now());
        }
    }

    /// Makes a sandbox ahead.
    fn make_ready(&mut self) {
        self.ready.note_making();
        let Ok((keeper, their_keeper)) = pair() else { return };
        let Ok((command, their_command)) = pair() else { return };
        let purpose = Purpose::Ready { keeper: their_keeper, command: their_command };
        if let Ok((pid, seat, pidfd)) = self.clone_keeper(purpose, false, ordinary()) {
            self.living.insert(pid, Living { report: None, seat });
            self.ready.add(Waiting { pid, pidfd, sockets: Sockets { keeper, command } });
            self.offer();
        }
    }

    /// Lets the server have those that are ready, as many as it should have.
    fn offer(&mut self) {
        while let Some(Waiting { pid, pidfd, sockets: Sockets { keeper, command } }) = self.ready.next_to_offer() {
            // A server that has gone away shows on the control socket.
            let fds = [keeper.as_fd(), command.as_fd(), pidfd.as_fd()];
            let _ = wire::send(&self.control, &Offer(pid.unsigned_abs()).bytes(), &fds);
        }
    }

    /// The server has given a request to a sandbox that it was offered.
    fn taken(&mut self, number: u32, report: OwnedFd) {
        self.ready.note_request(Instant::now());
        let pid = number.cast_signed();
        self.ready.note_taken(pid);
        match self.living.get_mut(&pid) {
            Some(living) => living.report = Some(report),
            // It has ended since. If it did so by itself, it has told the server how, and this comes after.
            None => {
                let _ =
                    wire::send(&report, &Report::Gone { memory_exceeded: false, used: Used::default() }.bytes(), &[]);
            }
        }
        self.offer();
    }

    /// Makes a sandbox ahead and starts an interpreter in it.
    fn boot(&mut self, interpreter: &Interpreter) {
        self.ready.note_making();
        match self.try_to_boot(interpreter) {
            Ok(booted) => self.warm.add(interpreter, booted),
            Err(_) => self.warm.give_up(interpreter),
        }
    }

    fn try_to_boot(&mut self, interpreter: &Interpreter) -> Result<Booted, Fault> {
        let (keeper, their_keeper) = pair().at("make a socket")?;
        let (stdout, their_stdout) = pipe().at("make a pipe")?;
        let (stderr, their_stderr) = pipe().at("make a pipe")?;
        let purpose = Purpose::Warm { keeper: their_keeper, stdout: their_stdout, stderr: their_stderr, interpreter };
        let (pid, seat, pidfd) = self.clone_keeper(purpose, false, ordinary())?;
        self.living.insert(pid, Living { report: None, seat });
        Ok(Booted { pid, pidfd, keeper, streams: [stdout, stderr] })
    }

    /// Starts a sandbox, or takes one that is ready, and tells the server; or tells the server why not.
    fn start(&mut self, call: &Call, order: Order) {
        self.ready.note_request(Instant::now());
        let ceiling = Ceiling { memory: call.memory, processes: call.processes };
        let born =
            match self.made_ahead(call, &order) {
                Some(born) => Ok(born),
                None => self
                    .clone_keeper(Purpose::Order(&order), call.loopback, ceiling)
                    .map(|(pid, seat, pidfd)| Born { start: Start::Fresh, pid, seat, fds: vec![pidfd] }),
            };
        // A server that has gone away shows on the control socket.
        let _ = match born {
            Ok(Born { start, pid, seat, fds }) => {
                let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
                let told = wire::send(&order.report, &Report::Born(start).bytes(), &fds);
                // A keeper without namespaces sees for itself, and must not be killed.
                if told.is_err() && self.template.bare.is_none() {
                    // Nobody waits for it any more.
                    let _ = rustix::process::pidfd_send_signal(fds[0], Signal::KILL);
                }
                self.living.insert(pid, Living { report: Some(order.report), seat });
                told
            }
            Err(fault) => wire::send(&order.report, &Report::Fault(fault).bytes(), &[]),
        };
    }

    /// Gives the order to a sandbox that was made ahead, if one will do.
    fn made_ahead(&mut self, call: &Call, order: &Order) -> Option<Born> {
        if self.template.bare.is_some() {
            return None;
        }
        let warm = self.warm.hand_over(call, order, Instant::now());
        let (start, pid, fds) = if let Some(Booted { pid, pidfd, streams: [stdout, stderr], .. }) = warm {
            (Start::Warm, pid, vec![pidfd, stdout, stderr])
        } else if call.plain {
            let (pid, pidfd) = self.ready.hand_over(call, order)?;
            (Start::Ready, pid, vec![pidfd])
        } else {
            return None;
        };
        let seat = self.living.remove(&pid)?.seat;
        if let Some(cgroup) = &seat.cgroup
            && call.memory != ordinary().memory
        {
            // It cannot fail where it did not before.
            let _ = cgroup.limit_memory(call.memory);
        }
        Some(Born { start, pid, seat, fds })
    }

    /// Starts a keeper, with rights to its network if it is to have `loopback`.
    fn clone_keeper(
        &mut self,
        purpose: Purpose<'_>,
        loopback: bool,
        ceiling: Ceiling,
    ) -> Result<(pid_t, Seat, OwnedFd), Fault> {
        if self.template.bare.is_some() {
            return self.clone_bare(purpose, ceiling);
        }
        let Template { root, defences, .. } = &self.template;
        let reuse = !loopback && defences.has(Defence::Network);
        let flags = namespaces(*defences) & if reuse { !libc::CLONE_NEWNET } else { !0 };
        let seat = self.seats.take(reuse, &root.proc, ceiling)?;
        let cgroup = seat.cgroup.as_ref().map(Cgroup::as_fd);
        let cloned = seat.enter().and_then(|()| sys::clone(flags, cgroup).at("make namespaces"));
        if let Ok(Cloned::Child) = cloned {
            let _ = catch_unwind(AssertUnwindSafe(|| slot::keep(&self.template, purpose, seat.user)));
            sys::exit(125)
        }
        match (cloned, Seat::leave()) {
            (Ok(Cloned::Parent(pid, pidfd)), Ok(())) => Ok((pid, seat, pidfd)),
            (Err(fault), Ok(())) => {
                self.seats.give_back(seat);
                Err(fault)
            }
            // Without its own id the zygote is of no use any more; the server starts another.
            _ => sys::exit(1),
        }
    }

    /// Starts a keeper without namespaces.
    fn clone_bare(&mut self, purpose: Purpose<'_>, ceiling: Ceiling) -> Result<(pid_t, Seat, OwnedFd), Fault> {
        let seat = self.seats.take(false, &self.template.root.proc, ceiling)?;
        match sys::clone(0, seat.cgroup.as_ref().map(Cgroup::as_fd)).at("start a process") {
            Ok(Cloned::Child) => {
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    self.template.fit();
                    slot::keep(&self.template, purpose, seat.user)
                }));
                sys::exit(125)
            }
            Ok(Cloned::Parent(pid, pidfd)) => Ok((pid, seat, pidfd)),
            Err(fault) => {
                self.seats.give_back(seat);
                Err(fault)
            }
        }
    }

    /// Reaps every keeper that has ended, and tells the server.
    fn bury(&mut self) {
        sys::drain(&self.signals);
        while let Some(ended) = sys::reap(false) {
            self.ready.forget(ended.pid);
            self.warm.forget(ended.pid);
            let Some(living) = self.living.remove(&ended.pid) else { continue };
            let killed = matches!(ended.status, Status::Signal(_));
            if self.template.bare.is_some() && killed {
                match &living.seat.cgroup {
                    Some(cgroup) if cgroup.kill().is_ok() => self.headless.push((ended, living)),
                    // Nobody else knows what was its.
                    _ => self.end(),
                }
                continue;
            }
            self.take_leave(&ended, living);
        }
        // Their processes are ours now, so we hear of the last of them.
        while let Some(at) = self.headless.iter().position(|(_, living)| !living.seat.lives()) {
            let (ended, living) = self.headless.swap_remove(at);
            self.take_leave(&ended, living);
        }
    }

    /// Nothing is left of a sandbox.
    fn take_leave(&mut self, Ended { pid, status, used }: &Ended, Living { report, seat }: Living) {
        if let Some(bare) = &self.template.bare {
            bare.forget(*pid);
        }
        if let Some(report) = report {
            // A keeper that ended by itself has told the server how, unless the interpreter in it had ended before it
            // heard of the request. The kernel kills all or none.
            let killed = matches!(status, Status::Signal(_));
            let memory_exceeded = killed && seat.cgroup.as_ref().is_some_and(Cgroup::memory_exceeded);
            let message = match status {
                Status::Exit(0) => Report::Unbegun,
                _ => Report::Gone { memory_exceeded, used: *used },
            };
            let _ = wire::send(&report, &message.bytes(), &[]);
        }
        self.seats.give_back(seat);
    }
}

/// The end to read and the end to write.
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}
