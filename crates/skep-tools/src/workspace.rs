//! The directories that a call sees, and the limits it lives under.
//!
//! A call reads the **workspace**, the user's own files, and never writes there. It writes **outputs**, which belong to
//! the run (or to the hub). For a tool a path is relative to the workspace; one that begins with `outputs/` is in the
//! outputs. Inside a sandbox the workspace is `/workspace` and the outputs so far are `/inputs`, both read-only; what a
//! command writes to `/outputs` is taken over when it has ended.
//!
//! Every path is resolved by the kernel below the directory it belongs to (`openat2(2)`, `RESOLVE_BENEATH`): neither
//! `..` nor a symbolic link leads out, not even one that is exchanged at the last moment. Keys, tokens and Skep's own state
//! are not shown ([`hidden`]).

mod hidden;
mod in_step;
mod outputs;
mod seen;

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{
            ffi::OsStringExt as _,
            fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
        },
    },
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ignore::DirEntry;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, flock};
use skep_core::policy::{self, Permit};
use skep_sandbox::Piece;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::hidden::{Hidden, IsHidden};
pub use self::{
    hidden::{BadPlaces, Secrets, is_home},
    outputs::Outputs,
    seen::{Identity, Seen},
};
use crate::{error::ToolError, room::Room};

/// Where the workspace is inside a sandbox.
pub const WORKSPACE_INSIDE: &str = "/workspace";
/// Where the outputs of earlier calls are inside a sandbox.
pub const INPUTS_INSIDE: &str = "/inputs";
/// How the outputs are called in the paths of tools.
pub const OUTPUTS: &str = "outputs";
/// Mode of a directory that is this user's alone.
const PRIVATE_MODE: u32 = 0o700;

/// Who has to be able to read what tools have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// This user.
    User,
    /// Also the user whom a sandbox has, where that is another one and cannot be shown the files as its own. All others are
    /// kept out by the state directory that they are in.
    Sandboxes,
}

/// What a call knows beside its arguments; cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    /// The user's files, for reading.
    pub workspace: Dir,
    /// Where files are written.
    pub outputs: Outputs,
    /// Cancelled when the caller withdraws.
    pub cancel: CancellationToken,
    /// Time that the call was given in all.
    pub allowed: Duration,
    /// When the call must have ended.
    pub deadline: Instant,
    /// Who calls, and the proof that they may: what belongs to one principal is shown to no other.
    pub permit: Permit<policy::Call>,
    /// The session that the call belongs to, if it does: whose turn it is in the queue of an MCP server, and whose process it
    /// is where one is not shared.
    pub session: Option<Arc<str>>,
    /// Hears what a command prints while it runs.
    pub sink: Option<mpsc::Sender<Piece>>,
    /// Where a large answer has its memory from.
    pub room: Room,
}

impl Context {
    /// The context of one call. The deadline is set when the call is made.
    pub fn new(permit: Permit<policy::Call>, workspace: Dir, outputs: Outputs, cancel: CancellationToken) -> Context {
        let (allowed, deadline, room) = (Duration::ZERO, Instant::now(), Room::default());
        Context { workspace, outputs, cancel, allowed, deadline, permit, session: None, sink: None, room }
    }

    /// Who calls.
    pub fn principal(&self) -> &Arc<str> {
        &self.permit.actor().principal
    }

    /// Whose turn it is in the queue of an MCP server, and whose process it is where one is not shared.
    pub fn queue(&self) -> &Arc<str> {
        self.session.as_ref().unwrap_or_else(|| self.principal())
    }

    /// The same, with so much time from now.
    pub fn with_deadline(self, allowed: Duration) -> Context {
        Context { allowed, deadline: Instant::now() + allowed, ..self }
    }

    /// Time that is left.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Have room for an answer that will be so many bytes as JSON, or wait for it as long as the call may take.
    pub async fn make_room(&self, bytes: usize) -> Result<(), ToolError> {
        self.room.make(bytes, self.deadline.into()).await
    }

    /// Tells contexts apart that would give other answers to the same call.
    pub fn identity(&self) -> String {
        format!("{}\0{}", self.workspace.path().display(), self.outputs.root().path().display())
    }

    /// The contents of a file of the workspace, or of the outputs if the path begins with `outputs/`.
    pub fn read(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, ToolError> {
        let (dir, inside) = self.locate(path);
        dir.read(inside, bytes_max).map_err(|error| refused(path, &error))
    }

    /// The directory that a path of a tool is in, and the path within it.
    pub fn locate<'a>(&'a self, path: &'a str) -> (&'a Dir, &'a Path) {
        let path = Path::new(path);
        match path.strip_prefix(OUTPUTS) {
            Ok(inside) => (self.outputs.root(), inside),
            Err(_) => (&self.workspace, path),
        }
    }
}

/// What a tool says when the system refuses a path.
pub fn refused(path: &str, error: &io::Error) -> ToolError {
    if let Some(hidden) = error.get_ref().and_then(|error| error.downcast_ref::<IsHidden>()) {
        return ToolError::Denied(format!("{path}: {hidden}"));
    }
    match error.kind() {
        io::ErrorKind::NotFound => ToolError::failed(format!("{path} does not exist")),
        io::ErrorKind::CrossesDevices => ToolError::Denied(format!("{path} leads out of the workspace")),
        io::ErrorKind::PermissionDenied => ToolError::Denied(format!("{path} may not be read or written by Skep")),
        _ => ToolError::failed(format!("{path}: {error}")),
    }
}

/// A directory and what is below it, but nothing else.
#[derive(Clone, Debug)]
pub struct Dir {
    path: Arc<Path>,
    fd: Arc<OwnedFd>,
    /// What of it is not shown, if there is anything.
    hidden: Option<Arc<Hidden>>,
    modes: Modes,
    /// How the kernel finds what is below it.
    resolve: ResolveFlags,
}

/// No path leads out of a directory.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Who may read what is put into a directory.
#[derive(Clone, Copy, Debug)]
struct Modes {
    file: Mode,
    directory: Mode,
    /// Whatever the umask says.
    is_exact: bool,
}

impl Modes {
    const OF_USER: Modes =
        Modes { file: Mode::from_raw_mode(0o644), directory: Mode::from_raw_mode(0o755), is_exact: false };
    const PRIVATE: Modes =
        Modes { file: Mode::from_raw_mode(0o600), directory: Mode::from_raw_mode(0o700), is_exact: true };

    fn enforce(self, file: impl AsFd, mode: Mode) -> io::Result<()> {
        if self.is_exact { Ok(rustix::fs::fchmod(file, mode)?) } else { Ok(()) }
    }
}

impl Dir {
    /// Open an existing directory.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let path = path.canonicalize()?;
        let fd = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Dir { path: path.into(), fd: Arc::new(fd), hidden: None, modes: Modes::OF_USER, resolve: BENEATH })
    }

    /// Open a directory, and make it if there is none.
    pub fn create(path: &Path) -> io::Result<Dir> {
        std::fs::create_dir_all(path)?;
        Dir::open(path)
    }

    /// Open a directory in which everything is this user's alone, and make it if there is none.
    pub fn private(path: &Path) -> io::Result<Dir> {
        make_private(path)?;
        Ok(Dir { modes: Modes::PRIVATE, ..Dir::open(path)? })
    }

    /// The same for what tools write.
    pub fn of_outputs(path: &Path, readers: Readers) -> io::Result<Dir> {
        match readers {
            Readers::User => Dir::private(path),
            Readers::Sandboxes => Dir::create(path),
        }
    }

    /// The same directory without these places.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn without(self, secrets: &Secrets) -> Result<Dir, BadPlaces> {
        let hidden = secrets.within(&self.path)?.map(Arc::new);
        Ok(Dir { hidden, ..self })
    }

    /// Places that exist and are not shown, relative to this directory; and a sign that changes when they do.
    pub fn hidden(&self) -> (Vec<PathBuf>, HiddenSign) {
        let (places, sign) = self.hidden.as_ref().map_or_else(Default::default, |hidden| hidden.existing());
        (places, HiddenSign(sign))
    }

    /// Whether an entry of a walk through this directory may be shown; those below one that may not are not looked at.
    pub fn shows(&self) -> impl Fn(&DirEntry) -> bool + Send + Sync + use<> {
        let looked = self.hidden.as_ref().map(|hidden| (hidden.look(), Arc::clone(&self.path)));
        move |entry| {
            let Some((looked, root)) = &looked else { return true };
            let Ok(inside) = entry.path().strip_prefix(root) else { return false };
            // The start of a walk was resolved, and refused if it was hidden.
            let identity = entry.metadata().ok().map(|about| (about.dev(), about.ino()));
            inside.as_os_str().is_empty() || !looked.hides_entry(inside, identity)
        }
    }

    /// Where it is on this machine.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file or directory below this one really is, relative to it, with every symbolic link on the way
    /// resolved: an error if that leads out. What is there may change afterwards: open it with
    /// [`open_file`](Dir::open_file) all the same.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.place_of(&self.open_at(path, OFlags::PATH, Mode::empty())?)
    }

    /// Where something is that was opened below this directory.
    fn place_of(&self, fd: &OwnedFd) -> io::Result<PathBuf> {
        let [here, there] = [self.fd.as_fd(), fd.as_fd()].map(|fd| {
            let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
            Ok::<_, io::Error>(PathBuf::from(OsString::from_vec(link.into_bytes())))
        });
        let outside = |_| io::Error::new(io::ErrorKind::CrossesDevices, "it leads out of the directory");
        there?.strip_prefix(here?).map(Path::to_owned).map_err(outside)
    }

    /// Open a regular file below this directory for reading.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        // Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it.
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        let file = File::from(fd);
        match file.metadata()? {
            found if found.is_file() => Ok(file),
            found if found.is_dir() => Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
        }
    }

    /// Bytes of a file below this directory.
    pub fn size(&self, path: &Path) -> io::Result<u64> {
        let fd = self.open_at(path, OFlags::PATH, Mode::empty())?;
        Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0))
    }

    /// The whole of a file, if it is not larger than `bytes_max`.
    pub fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        read_all(&self.open_file(path)?, bytes_max)
    }

    /// Put a file below this directory, with the directories on its way. Whoever reads meanwhile sees the old or the
    /// new contents, never a part.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.replace(path, bytes, None).map(drop)
    }

    /// The same, if there is still what was `seen` when the file was read. Otherwise nothing is written, and `false` given back.
    /// The user's own files keep their mode.
    ///
    /// Whoever writes by way of this type, in this process or another, has its turn for the moment between looking and writing.
    /// Others may still come between.
    pub fn write_if_same(&self, path: &Path, bytes: &[u8], seen: &Seen) -> io::Result<bool> {
        self.replace(path, bytes, Some(seen))
    }

    fn replace(&self, path: &Path, bytes: &[u8], seen: Option<&Seen>) -> io::Result<bool> {
        let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
        let parent = self.make_parents(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let (temporary, mut file) = loop {
            // Not made from the name, which may be as long as a name can be.
            let temporary = format!(".skep-{:016x}", unique());
            match rustix::fs::openat(&parent, &temporary, flags, self.modes.file) {
                // A process that had the same number was killed before it could rename it, perhaps in another container.
                Err(rustix::io::Errno::EXIST) => {}
                file => break (temporary, File::from(file?)),
            }
        };
        let mode = seen.and_then(Seen::mode).filter(|_| !self.modes.is_exact);
        let set_mode = match mode {
            Some(mode) => rustix::fs::fchmod(&file, mode).map_err(io::Error::from),
            None => self.modes.enforce(&file, self.modes.file),
        };
        let written = set_mode.and_then(|()| file.write_all(bytes)).and_then(|()| {
            let _turn = self.turn();
            if seen.is_some_and(|seen| Identity::at(&parent, name) != seen.identity) {
                return Ok(false);
            }
            rustix::fs::renameat(&parent, &temporary, &parent, name)?;
            Ok(true)
        });
        if !matches!(written, Ok(true)) {
            let _ = rustix::fs::unlinkat(&parent, &temporary, rustix::fs::AtFlags::empty()); // the first error counts
        }
        written
    }

    /// Let nobody else look and write here at the same time.
    fn turn(&self) -> (MutexGuard<'static, ()>, Option<OwnedFd>) {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Other processes have their turns by a lock on the directory, where its file system has such.
        let directory = self.open_at(Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).ok();
        let locked = directory.filter(|directory| flock(directory, FlockOperation::LockExclusive).is_ok());
        (turn, locked)
    }

    /// A file as it is now, to be replaced only if it still is the same then. One that does not exist is nothing yet.
    pub fn read_seen(&self, path: &Path, bytes_max: u64) -> io::Result<(Option<Vec<u8>>, Seen)> {
        let file = match self.open_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, Seen::default())),
            file => file?,
        };
        let identity = Some(Identity::of(&rustix::fs::fstat(&file)?));
        let bytes = read_all(&file, bytes_max)?;
        Ok((Some(bytes), Seen { identity, file: Some(file) }))
    }

    /// A directory below this one, made if there is none; and whether it was made.
    pub fn below(&self, path: &Path) -> io::Result<(Dir, bool)> {
        let open = || self.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        let (fd, is_new) = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_parents(&path.join("file"))?;
                (open()?, true)
            }
            fd => (fd?, false),
        };
        let (modes, resolve) = (self.modes, self.resolve);
        Ok((Dir { path: self.path.join(path).into(), fd: Arc::new(fd), hidden: None, modes, resolve }, is_new))
    }

    /// Have it look used.
    pub fn touch(&self) -> io::Result<()> {
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        Ok(rustix::fs::utimensat(rustix::fs::CWD, &*self.path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// What tells this directory from any other, also from one that is made in its place.
    pub fn id(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.fd)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// The directory that `path` is in, made if need be, step by step and below this one.
    fn make_parents(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut parent = PathBuf::new();
        for component in path.parent().unwrap_or(Path::new("")).components() {
            match component {
                Component::CurDir => continue,
                Component::Normal(name) => parent.push(name),
                _ => return Err(io::Error::new(io::ErrorKind::CrossesDevices, "it leads out of the directory")),
            }
            let above = parent.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let above = self.open_at(above, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
            match rustix::fs::mkdirat(&above, component.as_os_str(), self.modes.directory) {
                Ok(()) if self.modes.is_exact => {
                    rustix::fs::chmodat(&above, component.as_os_str(), self.modes.directory, AtFlags::empty())?;
                }
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { &parent };
        self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let opened = self.open_any(path, flags, mode);
        let Some(hidden) = &self.hidden else { return opened };
        let looked = hidden.look();
        let is_hidden =
            |fd: &OwnedFd| Ok::<_, io::Error>(looked.hides(&self.place_of(fd)?, |part| self.identity(part)));
        match opened {
            Ok(fd) if is_hidden(&fd)? => Err(IsHidden.into()),
            Ok(fd) => Ok(fd),
            // What is not there within a hidden place is not told, either.
            Err(error) => {
                let or_here =
                    |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
                let above = |path: &Path| self.open_any(&or_here(path), OFlags::PATH, Mode::empty()).ok();
                match path.ancestors().skip(1).find_map(above) {
                    Some(fd) if is_hidden(&fd)? => Err(IsHidden.into()),
                    _ => Err(error),
                }
            }
        }
    }

    /// Device and inode of what is at a path below this directory.
    fn identity(&self, path: &Path) -> Option<(u64, u64)> {
        let about = rustix::fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((about.st_dev, about.st_ino))
    }

    fn open_any(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        loop {
            match rustix::fs::openat2(self.fd.as_fd(), path, flags | OFlags::CLOEXEC, mode, self.resolve) {
                Err(rustix::io::Errno::AGAIN) => continue, // somebody renamed a directory on the way
                other => return Ok(other?),
            }
        }
    }
}

/// Make a directory of this user's alone, with those on its way.
pub fn make_private(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(PRIVATE_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => return Ok(()),
        Ok(()) => {}
    }
    // Whatever the umask has taken away.
    fs::set_permissions(path, Permissions::from_mode(PRIVATE_MODE))
}

/// Tells whether the same places of a directory are hidden that were there before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HiddenSign(Vec<(PathBuf, [u64; 4])>);

fn read_all(file: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// A number that no other call in this process gets.
fn unique() -> u64 {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    u64::from(std::process::id()) << 32 | COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, Dir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::create(&temporary.path().join("in")).unwrap();
        (temporary, dir)
    }

    #[test]
    fn neither_dots_nor_links_lead_out() {
        let (temporary, dir) = dir();
        std::fs::write(temporary.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink(temporary.path(), dir.path().join("up")).unwrap();
        for path in ["../secret", "link", "up/secret", "/etc/passwd", "a/../../secret"] {
            assert!(dir.read(Path::new(path), 100).is_err(), "{path} was read");
        }
        for path in ["../new", "up/new", "/tmp/new", "a/../../new"] {
            assert!(dir.write(Path::new(path), b"x").is_err(), "{path} was written");
        }
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_path_resolves_to_where_it_really_is_or_not_at_all() {
        let (temporary, dir) = dir();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a/b", dir.path().join("short")).unwrap();
        std::os::unix::fs::symlink(temporary.path(), dir.path().join("up")).unwrap();
        for (path, real) in [("", ""), (".", ""), ("a/./b", "a/b"), ("short", "a/b"), ("a/../a/b", "a/b")] {
            assert_eq!(dir.resolve(Path::new(path)).unwrap(), Path::new(real), "{path}");
        }
        for path in ["..", "up", "up/in", "/", "missing"] {
            assert!(dir.resolve(Path::new(path)).is_err(), "{path} was resolved");
        }
    }

    #[test]
    fn what_was_written_is_read_and_known() {
        let (_temporary, dir) = dir();
        let outputs = Outputs::new(dir.clone(), "task");
        assert_eq!(outputs.write(Path::new("a/b.txt"), b"one").unwrap(), "outputs/task/a/b.txt");
        assert_eq!(outputs.write(Path::new("outputs/a/b.txt"), b"one").unwrap(), "outputs/task/a/b.txt");
        assert_eq!(outputs.write(Path::new("outputs/task/a/b.txt"), b"two").unwrap(), "outputs/task/a/b.txt");
        assert_eq!(dir.read(Path::new("task/a/b.txt"), 3).unwrap(), b"two");
        assert_eq!(outputs.written(), [Path::new("task/a/b.txt")]);
        assert!(dir.read(Path::new("task/a/b.txt"), 2).is_err(), "larger than allowed");
        assert_eq!(std::fs::read_dir(dir.path().join("task/a")).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_a_killed_process_of_the_same_number_has_left_is_passed_by() {
        let (_top, dir) = dir();
        let next = unique() + 1;
        for taken in next..next + 64 {
            std::fs::write(dir.path().join(format!(".skep-{taken:016x}")), "left").unwrap();
        }
        dir.write(Path::new("a"), b"new").unwrap();
        assert_eq!(dir.read(Path::new("a"), 9).unwrap(), b"new");
    }

    #[test]
    fn names_may_be_as_long_as_names_can_be() {
        let (_temporary, dir) = dir();
        let outputs = Outputs::new(dir.clone(), "");
        let name = "x".repeat(255);
        assert_eq!(outputs.keep(Path::new(&name), b"1").unwrap(), format!("outputs/{name}"));
        assert!(outputs.keep(Path::new(&"x".repeat(256)), b"1").is_err());
        assert_eq!(outputs.keep(Path::new("outputs/outputs"), b"2").unwrap(), "outputs/outputs/outputs");
        assert_eq!(dir.read(Path::new("outputs/outputs"), 1).unwrap(), b"2");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_file_that_changed_since_it_was_read_is_not_replaced() {
        let (_temporary, dir) = dir();
        let path = Path::new("a");
        let (nothing, none) = dir.read_seen(path, 10).unwrap();
        assert!(nothing.is_none() && dir.write_if_same(path, b"1", &none).unwrap());
        assert!(!dir.write_if_same(path, b"2", &none).unwrap(), "there is one now");
        let (one, seen) = dir.read_seen(path, 10).unwrap();
        dir.write(path, b"1").unwrap();
        assert!(one.unwrap() == b"1" && !dir.write_if_same(path, b"2", &seen).unwrap(), "it is another one");
        let (_, seen) = dir.read_seen(path, 10).unwrap();
        assert!(dir.write_if_same(path, b"2", &seen).unwrap());
        let (_, seen) = dir.read_seen(path, 10).unwrap();
        std::fs::remove_file(dir.path().join(path)).unwrap();
        assert!(!dir.write_if_same(path, b"3", &seen).unwrap(), "it is gone");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn a_fifo_or_a_directory_is_not_read() {
        let (_temporary, dir) = dir();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
            .unwrap();
        assert!(dir.read(Path::new("fifo"), 100).is_err());
        assert!(dir.read(Path::new("."), 100).is_err());
    }
}
