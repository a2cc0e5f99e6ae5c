//! Limits on all processes of a sandbox together, where a cgroup (version 2) was delegated to the server.
//!
//! Owns where cgroups are made, what is written into them, and the words for people where none can be. The kernel's rules
//! shape the tree: a cgroup with limits below it has no processes of its own, and a process moves only as far as the
//! mover may write. So whatever was in the delegated cgroup is moved aside, into a leaf:
//!
//! ```text
//! the delegated cgroup
//! ├─ skep-server          what was there before: the server, and whatever else
//! └─ skep-helper-4711     one helper's; the root of what its zygote sees
//!    ├─ helper            launcher and zygote
//!    └─ 1, 2, …           one for each sandbox, made with it
//! ```
//!
//! A sandbox is born in its cgroup (`CLONE_INTO_CGROUP`), since moving a process would cost milliseconds. What a dead
//! helper has left is removed by the next one.

use std::{
    fs,
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use libc::pid_t;
use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, chmodat, chownat, getxattr, mkdirat, openat, unlinkat},
    io::Errno,
    process::geteuid,
    thread::{Gid, Uid},
};

use crate::{
    fault::{At, Fault},
    sys,
};

/// Where whatever was in the delegated cgroup is moved.
const SERVER: &str = "skep-server";
/// How the cgroups of helpers begin; the id of the launcher follows.
const PREFIX: &str = "skep-helper-";
/// Where launcher and zygote are.
const HELPER: &str = "helper";
/// Attempts to move everything out of a cgroup in which processes may be starting others.
const ATTEMPTS: usize = 5;
/// Longest file of a cgroup that is read, in bytes.
const TEXT_MAX: u64 = 64 << 10;

/// The cgroup of a helper, and what can be limited below it.
pub(crate) struct Tree {
    directory: OwnedFd,
    pub(crate) memory: bool,
    pub(crate) processes: bool,
    /// Sandboxes run under other users than the zygote.
    shared: bool,
    /// Sandboxes so far.
    count: u64,
    /// Cgroups that are empty for ever.
    dead: Vec<String>,
}

/// What a sandbox may use altogether.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceiling {
    /// In bytes.
    pub(crate) memory: u64,
    /// Processes and threads of the command.
    pub(crate) processes: u32,
}

/// The cgroup of one sandbox.
pub(crate) struct Cgroup {
    name: String,
    directory: OwnedFd,
    memory: bool,
}

impl Tree {
    /// Makes a cgroup for the calling process, a launcher, and moves it there. `None`: none was delegated, or it would be
    /// of no use. It is of some even without limits if processes are to be `killed` by it.
    pub(crate) fn make(killed: bool) -> Option<Tree> {
        if !sys::knows_clone3() {
            return None;
        }
        let place = Place::own()?;
        if !place.is_ours() {
            return None;
        }
        let delegated = open(CWD, &place.path).ok()?;
        sweep(delegated.as_fd());
        let there_is = read(delegated.as_fd(), "cgroup.controllers").ok()?;
        let mut wanted: Vec<&str> = ["memory", "pids"].into_iter().filter(|one| has(&there_is, one)).collect();
        if wanted.is_empty() && !killed {
            return None;
        }
        let name = format!("{PREFIX}{}", std::process::id());
        mkdirat(&delegated, &name, Mode::from_raw_mode(0o755)).ok()?;
        let directory = open(&delegated, Path::new(&name)).ok()?;
        wanted.retain(|controller| hand_down(delegated.as_fd(), controller).is_ok());
        let tree = Tree {
            directory,
            memory: wanted.contains(&"memory"),
            processes: wanted.contains(&"pids"),
            shared: false,
            count: 0,
            dead: Vec::new(),
        };
        let moved = write(tree.directory.as_fd(), "cgroup.procs", "0");
        if moved.is_err() || (wanted.is_empty() && !killed) {
            let _ = unlinkat(&delegated, &name, AtFlags::REMOVEDIR);
            return None;
        }
        Some(tree)
    }

    /// Puts launcher and `zygote` into a leaf and lets the zygote limit its sandboxes, under the `user` that it will be.
    pub(crate) fn settle(&self, zygote: pid_t, user: Option<u32>) -> io::Result<()> {
        let tree = self.directory.as_fd();
        mkdirat(tree, HELPER, Mode::from_raw_mode(0o755))?;
        let leaf = open(tree, Path::new(HELPER))?;
        for process in [zygote, 0] {
            write(leaf.as_fd(), "cgroup.procs", &process.to_string())?;
        }
        for (controller, wanted) in [("memory", self.memory), ("pids", self.processes)] {
            if wanted {
                write(tree, "cgroup.subtree_control", &format!("+{controller}"))?;
            }
        }
        if let Some(user) = user {
            let (uid, gid) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(user)));
            for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
                chownat(tree, file, uid, gid, AtFlags::EMPTY_PATH)?;
            }
            // The zygote clones sandboxes as their users. Who is not in this tree already cannot move into it.
            chmodat(tree, "cgroup.procs", Mode::from_raw_mode(0o666), AtFlags::empty())?;
        }
        Ok(())
    }

    /// Says that sandboxes run under users of their own.
    pub(crate) fn share(self) -> Tree {
        Tree { shared: true, ..self }
    }

    /// A cgroup for a new sandbox.
    pub(crate) fn cgroup(&mut self, ceiling: Ceiling) -> Result<Cgroup, Fault> {
        self.tidy();
        self.count += 1;
        let name = self.count.to_string();
        mkdirat(&self.directory, &name, Mode::from_raw_mode(0o755)).at("make a cgroup")?;
        let directory = open(&self.directory, Path::new(&name)).at("open a cgroup")?;
        let cgroup = Cgroup { name, directory, memory: self.memory };
        let limited = self.limit(&cgroup, ceiling);
        if let Err(fault) = limited {
            self.give_back(cgroup);
            return Err(fault);
        }
        Ok(cgroup)
    }

    fn limit(&self, cgroup: &Cgroup, ceiling: Ceiling) -> Result<(), Fault> {
        let directory = cgroup.directory.as_fd();
        if self.memory {
            cgroup.limit_memory(ceiling.memory)?;
            // All or nothing: half a sandbox is of no use.
            write(directory, "memory.oom.group", "1").at("limit the memory of a cgroup")?;
            // Only kernels that can swap have it.
            let _ = write(directory, "memory.swap.max", "0");
        }
        if self.processes {
            // The keeper counts, too.
            let processes = u64::from(ceiling.processes) + 1;
            write(directory, "pids.max", &processes.to_string()).at("limit the processes of a cgroup")?;
        }
        if self.shared {
            let everybody = Mode::from_raw_mode(0o666);
            chmodat(directory, "cgroup.procs", everybody, AtFlags::empty()).at("open a cgroup")?;
        }
        Ok(())
    }

    /// Takes back a cgroup of which every process has been reaped.
    pub(crate) fn give_back(&mut self, cgroup: Cgroup) {
        self.dead.push(cgroup.name);
    }

    /// Removes what is of no use any more, so that the next request need not wait for it.
    pub(crate) fn tidy(&mut self) {
        let Tree { directory, dead, .. } = self;
        dead.retain(|name| unlinkat(&*directory, name, AtFlags::REMOVEDIR) == Err(Errno::BUSY));
    }
}

impl Cgroup {
    /// Where to clone into.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Changes the ceiling of its memory, if there is one.
    pub(crate) fn limit_memory(&self, bytes: u64) -> Result<(), Fault> {
        if !self.memory {
            return Ok(());
        }
        write(self.directory.as_fd(), "memory.max", &bytes.to_string()).at("limit the memory of a cgroup")
    }

    /// Whether the kernel has killed something in it for want of memory.
    pub(crate) fn memory_exceeded(&self) -> bool {
        let events = if self.memory { read(self.directory.as_fd(), "memory.events") } else { return false };
        events.is_ok_and(|events| number(&events, "oom_kill ").is_some_and(|kills| kills > 0))
    }

    /// Kills everything in it at once.
    pub(crate) fn kill(&self) -> io::Result<()> {
        write(self.directory.as_fd(), "cgroup.kill", "1")
    }

    /// Whether something in it lives.
    pub(crate) fn lives(&self) -> bool {
        let events = read(self.directory.as_fd(), "cgroup.events");
        events.is_ok_and(|events| number(&events, "populated ") == Some(1))
    }
}

/// The cgroup that may have been delegated to a process.
#[derive(Debug, PartialEq)]
struct Place {
    path: PathBuf,
    /// It is all that there is in this namespace.
    whole: bool,
}

impl Place {
    /// That of this process. `None`: there is no version 2 here.
    fn own() -> Option<Place> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        place(&own, &fs::read_to_string("/proc/self/mountinfo").ok()?)
    }

    /// Whether it was given to us to divide. That it can be written to is not enough: root may write to those that
    /// systemd manages, and a user to those of all of his programs.
    fn is_ours(&self) -> bool {
        let says = |name: &str| {
            let mut value = [0; 2];
            getxattr(&self.path, name, &mut value[..]).is_ok_and(|length| value[..length] == *b"1")
        };
        let owner = |path: &Path| fs::metadata(path).map(|data| data.uid()).ok();
        let user = Some(geteuid().as_raw());
        // Where what is a user's begins, somebody has let it begin.
        let begins = !geteuid().is_root() && owner(&self.path) == user && self.path.parent().and_then(owner) != user;
        self.whole || begins || DELEGATED.iter().any(|name| says(name))
    }
}

/// How systemd marks what it has delegated.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// Where a process with such a `cgroup` and such a `mountinfo` finds the one that it may divide.
fn place(own: &str, mounts: &str) -> Option<Place> {
    let own = Path::new(own.lines().find_map(|line| line.strip_prefix("0::"))?);
    // The server may have been moved aside by an earlier helper.
    let own = if own.ends_with(SERVER) { own.parent()? } else { own };
    let whole = own == Path::new("/");
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let below = own.strip_prefix(root).ok()?;
        // Outside of what this namespace sees there are `..`.
        let inside = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        (kind.starts_with("cgroup2 ") && inside).then(|| Place { path: Path::new(at).join(below), whole })
    })
}

/// Why there is no limit on memory here, and the cure.
pub(crate) fn cure() -> String {
    let version_1 = "boot with `systemd.unified_cgroup_hierarchy=1` (without systemd: mount cgroup2 and boot with \
                     `cgroup_no_v1=memory,pids`)";
    let Some(Place { path: directory, .. }) = Place::own() else {
        return format!("there is no cgroup of version 2 here; {version_1}");
    };
    let shown = directory.display();
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let version_1_has_it = fs::read_to_string("/proc/self/cgroup").is_ok_and(|own| own.contains(":memory:"));
    if version_1_has_it && !has(&controllers, "memory") {
        return format!("memory is controlled by cgroups of version 1 here; {version_1}");
    }
    format!(
        "the cgroup {shown} was not delegated with `memory` to this server; put `Delegate=yes` into the [Service] of its \
         unit, or start it by `systemd-run --user --scope -p Delegate=yes skep serve` (systemd 251 or newer; in a \
         container: mount /sys/fs/cgroup writable, with a cgroup namespace of its own)"
    )
}

/// Lets the children of a cgroup have a controller.
fn hand_down(directory: BorrowedFd<'_>, controller: &str) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        match write(directory, "cgroup.subtree_control", &format!("+{controller}")) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => move_aside(directory)?,
            other => return other,
        }
    }
    Err(Errno::BUSY.into())
}

/// Moves every process of a cgroup into a leaf.
fn move_aside(directory: BorrowedFd<'_>) -> io::Result<()> {
    match mkdirat(directory, SERVER, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => (),
        Err(error) => return Err(error.into()),
    }
    let leaf = open(directory, Path::new(SERVER))?;
    for process in read(directory, "cgroup.procs")?.lines() {
        match write(leaf.as_fd(), "cgroup.procs", process) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => (),
        }
    }
    Ok(())
}

/// Removes cgroups of helpers that are dead. Those that live cannot be removed.
fn sweep(directory: BorrowedFd<'_>) {
    for helper in names(directory).into_iter().filter(|name| name.starts_with(PREFIX)) {
        let Ok(fd) = open(directory, Path::new(&helper)) else { continue };
        for name in names(fd.as_fd()) {
            let _ = unlinkat(&fd, name, AtFlags::REMOVEDIR);
        }
        let _ = unlinkat(directory, helper, AtFlags::REMOVEDIR);
    }
}

/// Entries of a directory. Files of a cgroup are among them, which cannot be removed.
fn names(directory: BorrowedFd<'_>) -> Vec<String> {
    let entries = openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let entries = entries.and_then(Dir::new).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| !name.starts_with('.'))
        .collect()
}

fn open(at: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn write(directory: BorrowedFd<'_>, file: &str, text: &str) -> io::Result<()> {
    let fd = openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::io::write(fd, text.as_bytes()).map(drop)?)
}

fn read(directory: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    let fd = openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    fs::File::from(fd).take(TEXT_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn has(words: &str, wanted: &str) -> bool {
    words.split_whitespace().any(|word| word == wanted)
}

/// The number that belongs to `key` in lines of both.
fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str =
        "24 30 0:22 / /proc rw - proc proc rw\n29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
    const HYBRID: &str = "40 23 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          41 23 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    /// A container that shares the host's cgroup namespace.
    const MOVED: &str = "41 23 0:31 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";

    #[test]
    fn the_own_cgroup_is_found_wherever_it_is_mounted() {
        let found = |own: &str, mounts: &str| place(own, mounts).map(|place| place.path.display().to_string());
        let user = "0::/user.slice/user@1000.service/app.slice/skep.scope\n";
        let at = "/sys/fs/cgroup/user.slice/user@1000.service/app.slice/skep.scope";
        assert_eq!(found(user, UNIFIED).unwrap(), at);
        assert_eq!(found(&user.replace(".scope", ".scope/skep-server"), UNIFIED).unwrap(), at);
        assert_eq!(found("4:memory:/x\n0::/\n", HYBRID).unwrap(), "/sys/fs/cgroup/unified/");
        assert_eq!(found("0::/docker/abc/sub\n", MOVED).unwrap(), "/sys/fs/cgroup/sub");
        assert!(place("0::/skep-server\n", UNIFIED).unwrap().whole && !place(user, UNIFIED).unwrap().whole);
        assert_eq!(found("0::/../other\n", UNIFIED), None);
        assert_eq!(found("0::/elsewhere\n", MOVED), None);
        assert_eq!(found("4:memory:/x\n", HYBRID), None);
        assert_eq!(found("0::/x\n", "24 30 0:22 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn events_are_counted_by_their_whole_name() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!((number(events, "oom_kill "), number(events, "oom ")), (Some(2), Some(3)));
        assert_eq!(number("populated 1\nfrozen 0\n", "populated "), Some(1));
    }

    /// A cgroup with a controller to hand down, which one does not matter. `None`: this machine has none, or we are not root.
    fn divisible() -> Option<(PathBuf, String)> {
        let mount = place("0::/", &fs::read_to_string("/proc/self/mountinfo").ok()?)?.path;
        let controller =
            fs::read_to_string(mount.join("cgroup.controllers")).ok()?.split_whitespace().next()?.to_owned();
        fs::write(mount.join("cgroup.subtree_control"), format!("+{controller}")).ok()?;
        let own = mount.join(format!("skep-test-{}", std::process::id()));
        fs::create_dir(&own).ok().map(|()| (own, controller))
    }

    #[test]
    fn what_is_in_a_cgroup_is_moved_aside_before_it_is_divided() {
        let Some((own, controller)) = divisible() else { return println!("left out: there is no cgroup to divide") };
        let mut inside = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(own.join("cgroup.procs"), inside.id().to_string()).unwrap();
        let there = open(CWD, &own).unwrap();
        assert!(
            write(there.as_fd(), "cgroup.subtree_control", &format!("+{controller}")).is_err(),
            "the kernel's rule"
        );
        hand_down(there.as_fd(), &controller).unwrap();
        assert_eq!(fs::read_to_string(own.join("cgroup.subtree_control")).unwrap().trim(), controller);
        let moved = fs::read_to_string(own.join(SERVER).join("cgroup.procs")).unwrap();
        assert_eq!(moved.trim(), inside.id().to_string());
        inside.kill().unwrap();
        inside.wait().unwrap();
        // What dead helpers left goes, and nothing else.
        fs::create_dir_all(own.join(format!("{PREFIX}1/helper"))).unwrap();
        sweep(there.as_fd());
        assert!(!own.join(format!("{PREFIX}1")).exists() && own.join(SERVER).exists());
        fs::remove_dir(own.join(SERVER)).unwrap();
        fs::remove_dir(own).unwrap();
    }
}
