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

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ignore::DirEntry;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use skep_mcp::server::local;
use skep_sandbox::Piece;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::hidden::{BadPlaces, Secrets, is_home};
use self::hidden::{Hidden, IsHidden};
use crate::{catalogue::ToolError, state};

/// Where the workspace is inside a sandbox.
pub const WORKSPACE_INSIDE: &str = "/workspace";
/// Where the outputs of earlier calls are inside a sandbox.
pub const INPUTS_INSIDE: &str = "/inputs";
/// How the outputs are called in the paths of tools.
pub const OUTPUTS: &str = "outputs";

/// What a call knows beside its arguments; cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    /// The user's files, for reading.
    pub workspace: Dir,
    /// Where files are written.
    pub outputs: Outputs,
    /// Rung when the caller withdraws.
    pub cancel: CancellationToken,
    /// Time that the call was given in all.
    pub allowed: Duration,
    /// When the call must have ended.
    pub deadline: Instant,
    /// Who calls: whose turn it is in the queue of an MCP server, and whose process it is where one is not shared.
    pub caller: Arc<str>,
    /// On whose behalf: what belongs to one principal is shown to no other.
    pub principal: Arc<str>,
    /// Hears what a command prints while it runs.
    pub sink: Option<mpsc::Sender<Piece>>,
}

impl Context {
    /// The context of one call. The deadline is set when the call is made.
    pub fn new(workspace: Dir, outputs: Outputs, cancel: CancellationToken) -> Context {
        let (allowed, deadline) = (Duration::ZERO, Instant::now());
        Context { workspace, outputs, cancel, allowed, deadline, caller: local(), principal: local(), sink: None }
    }

    /// The same for this caller.
    pub(crate) fn of(self, caller: Arc<str>, principal: Arc<str>) -> Context {
        Context { caller, principal, ..self }
    }

    pub(crate) fn with_deadline(self, allowed: Duration) -> Context {
        Context { allowed, deadline: Instant::now() + allowed, ..self }
    }

    /// Time that is left.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Tells contexts apart that would give other answers to the same call.
    pub(crate) fn identity(&self) -> String {
        format!("{}\0{}", self.workspace.path().display(), self.outputs.root.path().display())
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
            Ok(inside) => (&self.outputs.root, inside),
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
}

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
        Ok(Dir { path: path.into(), fd: Arc::new(fd), hidden: None, modes: Modes::OF_USER })
    }

    /// Open a directory, and make it if there is none.
    pub fn create(path: &Path) -> io::Result<Dir> {
        std::fs::create_dir_all(path)?;
        Dir::open(path)
    }

    /// Open a directory in which everything is this user's alone, and make it if there is none.
    pub fn private(path: &Path) -> io::Result<Dir> {
        state::make(path)?;
        Ok(Dir { modes: Modes::PRIVATE, ..Dir::open(path)? })
    }

    /// The same for what tools write.
    pub fn of_outputs(path: &Path, readers: state::Readers) -> io::Result<Dir> {
        match readers {
            state::Readers::User => Dir::private(path),
            state::Readers::Sandboxes => Dir::create(path),
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
    pub(crate) fn shows(&self) -> impl Fn(&DirEntry) -> bool + Send + Sync + use<> {
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

    /// The whole of a file, if it is not larger than `bytes_max`.
    pub fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")));
        }
        Ok(bytes)
    }

    /// Put a file below this directory, with the directories on its way. Whoever reads meanwhile sees the old or the
    /// new contents, never a part.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
        let parent = self.make_parents(path)?;
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{:016x}", unique()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::openat(&parent, &temporary, flags, self.modes.file)?);
        let written = self.modes.enforce(&file, self.modes.file).and_then(|()| file.write_all(bytes)).and_then(|()| {
            rustix::fs::renameat(&parent, &temporary, &parent, name)?;
            Ok(())
        });
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&parent, &temporary, rustix::fs::AtFlags::empty()); // the first error counts
        }
        written
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
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(self.fd.as_fd(), path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(rustix::io::Errno::AGAIN) => continue, // somebody renamed a directory on the way
                other => return Ok(other?),
            }
        }
    }
}

/// Tells whether the same places of a directory are hidden that were there before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HiddenSign(Vec<(PathBuf, [u64; 4])>);

/// A number that no other call in this process gets.
fn unique() -> u64 {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    u64::from(std::process::id()) << 32 | COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Where the files of a call go. In a run each task has its own directory below the run's, so that tasks side by side
/// do not overwrite each other.
#[derive(Clone, Debug)]
pub struct Outputs {
    root: Dir,
    prefix: PathBuf,
    written: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Outputs {
    /// Outputs in `root`, below `prefix` (empty for the root itself).
    pub fn new(root: Dir, prefix: impl Into<PathBuf>) -> Outputs {
        Outputs { root, prefix: prefix.into(), written: Arc::default() }
    }

    /// Keep a file. Returns its path as other calls must name it: `outputs/…`.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<String, ToolError> {
        // A path that an earlier write gave back names the same file again.
        let path = match path.strip_prefix(OUTPUTS) {
            Ok(named) => self.prefix.join(named.strip_prefix(&self.prefix).unwrap_or(named)),
            Err(_) => self.prefix.join(path),
        };
        let shown = format!("{OUTPUTS}/{}", path.display());
        self.root.write(&path, bytes).map_err(|error| refused(&shown, &error))?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        Ok(shown)
    }

    /// The directory that holds the outputs of all calls.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// What this call and its clones have written, relative to the root.
    pub fn written(&self) -> Vec<PathBuf> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
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
    fn a_fifo_or_a_directory_is_not_read() {
        let (_temporary, dir) = dir();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
            .unwrap();
        assert!(dir.read(Path::new("fifo"), 100).is_err());
        assert!(dir.read(Path::new("."), 100).is_err());
    }
}
