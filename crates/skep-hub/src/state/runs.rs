//! Where Skep keeps what is not in the database: a directory for each run, with its outputs, its report and its lock.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use skep_core::run::RunId;
use skep_tools::workspace::{Dir, Readers, make_private};

/// How often a run's lock is tried, and how long after the last time: whoever looks whether a run is held
/// ([`Home::is_held`]) has the lock for a moment.
const LOCK_ATTEMPTS_MAX: u32 = 10;
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// The state directory of this user or hub.
#[derive(Clone, Debug)]
pub struct Home(PathBuf, Readers);

/// Why a run's directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process works on this run.
    #[error("run {run} is being worked on by process {pid}; watch it with `skep logs --follow {run}`")]
    Held {
        /// The run.
        run: String,
        /// That process, as far as it has said.
        pid: String,
    },
    /// The directory cannot be made or written.
    #[error("cannot use the directory {}", .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Home {
    /// The state directory at this path; it is made when it is first needed.
    pub fn new(path: PathBuf) -> Home {
        Home(path, Readers::User)
    }

    /// The same, where others have to read what tools write.
    pub fn with_outputs(self, outputs: Readers) -> Home {
        Home(self.0, outputs)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Take hold of a run's directory, made if need be. The hold ends with the returned value or with the process.
    pub fn hold(&self, run: &RunId) -> Result<RunDirectory, LockError> {
        let path = self.run(run);
        let io = |source| LockError::Io { path: path.clone(), source };
        for directory in [&self.0, &self.0.join("runs"), &path] {
            make_private(directory).map_err(io)?;
        }
        let outputs = Dir::of_outputs(&path.join("outputs"), self.1).map_err(io)?;
        let mut lock = File::options();
        lock.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = lock.open(path.join("lock")).map_err(io)?;
        if !lock_exclusively(&lock).map_err(io)? {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).map_err(io)?;
            return Err(LockError::Held { run: run.0.clone(), pid: pid.trim().to_owned() });
        }
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(io)?;
        writeln!(lock, "{}", std::process::id()).map_err(io)?;
        let directory = Dir::private(&path).map_err(io)?;
        Ok(RunDirectory { directory, outputs, _lock: lock })
    }

    /// Whether a process works on this run right now; `None` if its directory is not here, because it is worked on elsewhere
    /// with the same database.
    pub fn is_held(&self, run: &RunId) -> Option<bool> {
        let lock = File::open(self.run(run).join("lock")).ok()?;
        Some(flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// The run's directory, whether there is one or not.
    pub fn run(&self, run: &RunId) -> PathBuf {
        self.0.join("runs").join(&run.0)
    }
}

/// Whether the file is this process's alone now.
fn lock_exclusively(file: &File) -> io::Result<bool> {
    for attempt in 1..=LOCK_ATTEMPTS_MAX {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if attempt < LOCK_ATTEMPTS_MAX => std::thread::sleep(LOCK_AGAIN_AFTER),
            Err(Errno::WOULDBLOCK) => {}
            locked => return locked.map(|()| true).map_err(Into::into),
        }
    }
    Ok(false)
}

/// The directory of a run that this process works on.
#[derive(Debug)]
pub struct RunDirectory {
    directory: Dir,
    outputs: Dir,
    _lock: File,
}

impl RunDirectory {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What the run's tasks write.
    pub fn outputs(&self) -> &Dir {
        &self.outputs
    }

    /// Put a file there.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.directory.write(Path::new(name), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_held_once_and_free_afterwards() {
        let home = tempfile::tempdir().unwrap();
        let (home, run) = (Home::new(home.path().join("new")), RunId("r1".into()));
        assert_eq!(home.is_held(&run), None);
        let held = home.hold(&run).unwrap();
        assert_eq!(home.is_held(&run), Some(true));
        match home.hold(&run) {
            Err(LockError::Held { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("{other:?}"),
        }
        drop(held);
        assert_eq!(home.is_held(&run), Some(false));
        home.hold(&run).unwrap();
    }

    #[test]
    fn whoever_looks_whether_a_run_is_held_keeps_nobody_from_it() {
        let home = tempfile::tempdir().unwrap();
        let (home, run) = (Home::new(home.path().join("new")), RunId("r1".into()));
        home.hold(&run).unwrap();
        let lock = File::open(home.run(&run).join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockShared).unwrap(); // as if somebody looked right now
        let (looks, looked) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                looks.send(()).unwrap();
                std::thread::sleep(LOCK_AGAIN_AFTER * 2);
                drop(lock);
            });
            looked.recv().unwrap();
            home.hold(&run).unwrap();
        });
    }
}
