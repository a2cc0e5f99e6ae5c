//! Sandboxes without namespaces, where this machine refuses them: Landlock, the filter and limits alone.
//!
//! Owns what takes the place of namespaces. Everything else (the zygote, keepers, the wire, the order in which a command
//! locks itself in) is the same as with them.
//!
//! - **Files.** `/tmp`, `/outputs` and `/code` are directories of the host that are made for one request. Programs have
//!   to be told where: words, variables and paths of a request that are one of these, or below, get their other name
//!   ([`Names`]); the text of a script does not. `TMPDIR` and `OUTPUTS` name them.
//! - **Processes.** Launcher, zygote and every keeper live in Landlock domains, one within the other, out of which no signal
//!   gets. So `kill(-1)` in a keeper reaches the processes of its own sandbox and none else, all at once, just as it does
//!   for the first process of a pid namespace; and a command, in a domain further in, reaches no keeper. Orphans come to
//!   the keeper, which is their subreaper, so it sees the last one end. If a keeper dies its zygote ends all of its
//!   sandboxes, and the launcher does when the zygote dies.
//! - **Network.** The filter refuses sockets other than pairs.
//!
//! Not hidden: that other processes and files are there. Not limited: how much is written in all.

use std::{
    ffi::{CString, OsString},
    fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::{MetadataExt as _, PermissionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, chmodat, flock, fstat, mkdirat, openat, renameat,
        statat, unlinkat,
    },
    io::Errno,
    process::{chdir, geteuid, getpid, getppid, set_child_subreaper, test_kill_process},
    thread::set_no_new_privs,
};

use crate::{
    bind::Bind,
    fault::{At, Fault},
    landlock,
    privileges::refuse_privileges,
    root,
    users::{Users, become_user},
    wire::Job,
};

/// How the directories of helpers begin.
const PREFIX: &str = "skep-sandbox-";
/// Files of the host that programs do without if there are none, but not if they may not read them.
const EXPECTED: [&str; 1] = ["/etc/ssl/openssl.cnf"];
/// What a request finds below its directory, by the name that it has with namespaces.
const OWN: [&str; 3] = ["tmp", "outputs", "code"];
/// Entries of a directory that are looked at together.
const ENTRIES: usize = 4096;
/// Attempts to make a directory that nobody takes for one of a dead helper.
const ATTEMPTS: usize = 8;

/// What sandboxes of one helper have in common.
pub(crate) struct Bare {
    /// Below it each sandbox has a directory, by the id of its keeper.
    directory: PathBuf,
    binds: Vec<Bind>,
    /// The first id that sandboxes may use, if root gives them some.
    users: Option<u32>,
}

/// Puts the calling process, the launcher, where no signal of its descendants gets out, and makes their directory
/// below `parent`. It belongs to a living helper for as long as the descriptor is open.
pub(crate) fn begin(parent: &Path) -> Result<(PathBuf, OwnedFd), Fault> {
    enter_domain()?;
    chdir("/").at("leave the server's directory")?;
    sweep(parent);
    for _ in 0..ATTEMPTS {
        let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent);
        let made = made.at(&format!("make a directory in {}", parent.display()))?;
        let lock = open_directory(CWD, made.path()).at("open the sandboxes' directory")?;
        // Another launcher may have found it before it was locked.
        let ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if ours && fstat(&lock).is_ok_and(|stat| stat.st_nlink > 0) {
            // Under root, sandboxes have other users, who must get through.
            let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
            fs::set_permissions(made.path(), fs::Permissions::from_mode(mode)).at("open the sandboxes' directory")?;
            return Ok((made.keep(), lock));
        }
    }
    Err(Errno::BUSY).at(&format!("make a directory in {}", parent.display()))
}

/// Kills everything that the caller has started and all of its descendants, and waits until they are gone.
///
/// The caller has entered a domain of its own.
pub(crate) fn end_all() {
    crate::sys::kill_all_others();
    while crate::sys::reap(true).is_some() {}
}

/// Removes the directory of a helper, of which nothing runs any more.
pub(crate) fn remove(directory: &Path) {
    // What is left over is for the next sweep.
    if let Ok(fd) = open_directory(CWD, directory)
        && clear(fd.as_fd()).is_ok()
    {
        let _ = fs::remove_dir(directory);
    }
}

/// Removes directories of helpers that died without doing so themselves.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())) {
        let path = entry.path();
        let own = entry.metadata().is_ok_and(|data| data.is_dir() && data.uid() == geteuid().as_raw());
        if own
            && let Ok(fd) = open_directory(CWD, &path)
            && flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            remove(&path);
        }
    }
}

/// Adopts orphans of its descendants, and keeps its signals and theirs to itself and them.
fn enter_domain() -> Result<(), Fault> {
    set_child_subreaper(Some(getpid())).at("adopt orphans")?;
    set_no_new_privs(true).at("refuse new privileges")?;
    landlock::keep_signals()?;
    // What comes to kill all of its descendants must not kill all of the user's processes.
    match getppid().map(test_kill_process) {
        Some(Err(Errno::PERM)) => Ok(()),
        _ => Err(Errno::OPNOTSUPP).at(landlock::KEEP_SIGNALS),
    }
}

impl Bare {
    /// `users` are those that sandboxes are to have.
    pub(crate) fn new(directory: PathBuf, binds: &[Bind], users: Users) -> Result<Bare, Fault> {
        // The helper is not started without namespaces where something is to be hidden (`helper.rs`).
        for Bind { source, .. } in binds {
            open_directory(CWD, source).at(&format!("take {} from the host", source.display()))?;
        }
        let users = match users {
            Users::Own { .. } => None,
            Users::Range { from, .. } => Some(from),
        };
        Ok(Bare { directory, binds: binds.to_vec(), users })
    }

    /// Whether each sandbox has a user of its own.
    pub(crate) fn has_users(&self) -> bool {
        self.users.is_some()
    }

    /// Paths of the host that a command may read.
    pub(crate) fn readable(&self) -> Vec<String> {
        let binds = self.binds.iter().map(|bind| bind.source.to_string_lossy().into_owned());
        let etc = root::ETC_DIRECTORIES.into_iter().chain(root::ETC_FILES).chain(EXPECTED);
        root::PROGRAMS.into_iter().chain(etc).map(str::to_owned).chain(binds).collect()
    }

    /// Paths of the host in which the command of the calling keeper may do everything.
    pub(crate) fn writable(&self) -> Vec<String> {
        let own = self.own();
        OWN.map(|name| own.join(name).to_string_lossy().into_owned()).to_vec()
    }

    /// How many processes there are already that count like those of the calling keeper's sandbox: itself, and, without a
    /// user of its own, all of the user.
    pub(crate) fn counted(&self) -> u64 {
        match self.users {
            Some(_) => 1,
            None => threads_of(geteuid().as_raw()),
        }
    }

    /// Makes the calling process, a new keeper, the head of a sandbox of user number `user`.
    pub(crate) fn settle(&self, user: u32) -> Result<(), Fault> {
        let id = self.users.map(|from| from + user);
        let own = self.own();
        let make = |path: &Path| {
            mkdirat(CWD, path, Mode::RWXU)?;
            match id {
                Some(id) => std::os::unix::fs::lchown(path, Some(id), Some(id)),
                None => Ok(()),
            }
        };
        make(&own).at("make the sandbox's directory")?;
        for name in OWN {
            make(&own.join(name)).at("make the sandbox's directory")?;
        }
        if let Some(id) = id {
            refuse_privileges()?;
            become_user(id).at("become the sandbox's user")?;
        }
        enter_domain()
    }

    /// The directory of the calling keeper's sandbox, and the outputs in it.
    pub(crate) fn open_own(&self) -> Result<(OwnedFd, OwnedFd), Fault> {
        let own = open_directory(CWD, self.own()).at("open the sandbox's directory")?;
        let outputs = open_directory(&own, "outputs").at("open the sandbox's directory")?;
        Ok((own, outputs))
    }

    /// Removes what the sandbox of a keeper that is gone has left. The keeper itself has emptied it, if it could.
    pub(crate) fn forget(&self, keeper: libc::pid_t) {
        let own = self.directory.join(keeper.to_string());
        if fs::remove_dir(&own).is_err() {
            remove(&own);
        }
    }

    /// Removes everything.
    pub(crate) fn remove(&self) {
        remove(&self.directory);
    }

    /// The same job with the names that things have here.
    pub(crate) fn translate(&self, job: Job) -> Job {
        let own = self.own();
        let pairs = OWN.iter().map(|name| (Path::new("/").join(name), own.join(name)));
        let binds = self.binds.iter().map(|bind| (bind.target.clone(), bind.source.clone()));
        let mut job = Names(pairs.chain(binds).collect()).translate(job);
        for (name, path) in [("TMPDIR=", "tmp"), ("OUTPUTS=", "outputs")] {
            if !job.env.iter().any(|entry| entry.as_bytes().starts_with(name.as_bytes())) {
                job.env.push([name.as_ref(), own.join(path).as_os_str()].into_iter().collect());
            }
        }
        job
    }

    fn own(&self) -> PathBuf {
        self.directory.join(getpid().to_string())
    }
}

/// What is where: names with namespaces, and the host's.
struct Names(Vec<(PathBuf, PathBuf)>);

impl Names {
    fn path(&self, path: &Path) -> PathBuf {
        let below = self.0.iter().find_map(|(inside, here)| Some((here, path.strip_prefix(inside).ok()?)));
        match below {
            Some((here, rest)) if rest.as_os_str().is_empty() => here.clone(),
            Some((here, rest)) => here.join(rest),
            None => path.to_owned(),
        }
    }

    /// A word that is a path as a whole.
    fn word(&self, word: OsString) -> OsString {
        if word.as_bytes().starts_with(b"/") { self.path(Path::new(&word)).into() } else { word }
    }

    /// The value of a variable that is a path as a whole.
    fn variable(&self, entry: OsString) -> OsString {
        let bytes = entry.as_bytes();
        let Some(at) = bytes.iter().position(|byte| *byte == b'=') else { return entry };
        let value = self.word(OsString::from_vec(bytes[at + 1..].to_vec()));
        OsString::from_vec([&bytes[..=at], value.as_bytes()].concat())
    }

    fn translate(&self, job: Job) -> Job {
        Job {
            argv: job.argv.into_iter().map(|word| self.word(word)).collect(),
            env: job.env.into_iter().map(|entry| self.variable(entry)).collect(),
            cwd: self.path(&job.cwd),
            files: job.files.into_iter().map(|(path, bytes)| (self.path(&path), bytes)).collect(),
            ..job
        }
    }
}

/// Processes and threads of a user, as far as they can be seen.
fn threads_of(user: u32) -> u64 {
    let threads =
        |status: String| status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse::<u64>().ok());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| entry.metadata().is_ok_and(|data| data.uid() == user))
        .filter_map(|entry| threads(fs::read_to_string(entry.path().join("status")).ok()?))
        .sum()
}

fn open_directory(at: impl AsFd, path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path.as_ref(), flags, Mode::empty())
}

/// Removes everything below a directory, however deep it lies and whatever its permissions. Nothing is left that could
/// change it meanwhile.
///
/// No path is walked, so none can be too long, and no link is followed: what lies deep is brought up before it is
/// removed.
pub(crate) fn clear(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut moved = 0u64;
    loop {
        let names = list(directory)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if unlinkat(directory, &name, AtFlags::empty()).is_ok() {
                continue;
            }
            let inner = open_whatever(directory, &name)?;
            loop {
                let deeper = list(inner.as_fd())?;
                if deeper.is_empty() {
                    break;
                }
                for deep in deeper {
                    if unlinkat(&inner, &deep, AtFlags::empty()).is_err() {
                        // Moving a directory writes to it.
                        open_whatever(inner.as_fd(), &deep)?;
                        bring_up(inner.as_fd(), &deep, directory, &mut moved)?;
                    }
                }
            }
            unlinkat(directory, &name, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Opens a directory, having seen to it that its owner may.
fn open_whatever(at: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
    // A change of mode would follow a link.
    if FileType::from_raw_mode(statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Moves a directory under a name that is free.
fn bring_up(from: BorrowedFd<'_>, name: &CString, to: BorrowedFd<'_>, moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        match renameat(from, name, to, format!(".{moved}")) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => (),
            other => return other,
        }
    }
}

/// The first names in a directory.
fn list(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let entries = Dir::read_from(directory)?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_owned()));
    Ok(names.filter(|name| !matches!(name.to_bytes(), b"." | b"..")).take(ENTRIES).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Net};

    #[test]
    fn whole_words_that_are_paths_get_their_other_name() {
        let names = Names(vec![("/tmp".into(), "/var/x/tmp".into()), ("/workspace".into(), "/srv/ws".into())]);
        let job = Job {
            argv: ["cat", "/tmp/a", "/tmpx", "/workspace", "-o/tmp/b", "tmp"].map(Into::into).to_vec(),
            env: vec!["HOME=/tmp".into(), "A=b=/tmp".into(), "B".into(), "PATH=/usr/bin:/tmp".into()],
            cwd: "/workspace/sub".into(),
            files: vec![("/tmp/d/e".into(), Vec::new())],
            limits: Limits::default(),
            net: Net::None,
        };
        let job = names.translate(job);
        assert_eq!(job.argv, ["cat", "/var/x/tmp/a", "/tmpx", "/srv/ws", "-o/tmp/b", "tmp"]);
        assert_eq!(job.env, ["HOME=/var/x/tmp", "A=b=/tmp", "B", "PATH=/usr/bin:/tmp"]);
        assert_eq!((job.cwd, job.files[0].0.as_path()), ("/srv/ws/sub".into(), Path::new("/var/x/tmp/d/e")));
    }

    #[test]
    fn whatever_a_command_leaves_can_be_removed() {
        let top = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        // Deeper than a path may be long, closed to its owner, and with the names that are used on the way.
        let mut deep = open_directory(CWD, top.path()).unwrap();
        for _ in 0..600 {
            mkdirat(&deep, "deep-directory", Mode::RWXU).unwrap();
            deep = open_directory(&deep, "deep-directory").unwrap();
            openat(&deep, "file", OFlags::CREATE | OFlags::WRONLY, Mode::empty()).unwrap();
        }
        let script = "mkdir -p .1/x .2 closed/in; touch .3 closed/in/file; ln -s \"$1\" link; ln -s \"$1\" closed/link
                      mkfifo pipe; chmod 0 closed/in; chmod 0 closed";
        let mut shell = std::process::Command::new("sh");
        shell.args(["-ec", script, "sh"]).arg(outside.path()).current_dir(top.path());
        assert!(shell.status().unwrap().success());
        clear(open_directory(CWD, top.path()).unwrap().as_fd()).unwrap();
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }
}
