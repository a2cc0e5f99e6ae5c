//! `hub.json` in the state directory: where the hub that runs there is found.
//!
//! A hub keeps the file locked (`flock(2)`) while it runs. The kernel drops the lock with the process, however that ends,
//! so a file without a lock is what a killed hub has left, whoever has its process number now and in whatever container
//! the reader is. A second lock, on a file that is never replaced, decides which of several hubs on one state directory
//! may write it.
//!
//! The file never holds a token: it says whether one is needed, and in which file it is, if it is in one.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, process::geteuid};
use serde::{Deserialize, Serialize};
use skep_tools::workspace::make_private;

/// The file that says where the hub is.
const FILE: &str = "hub.json";
/// The file that only one hub can have locked.
const LOCK: &str = "hub.lock";
/// Bytes of `hub.json`.
const BYTES_MAX: u64 = 64 << 10;

/// A hub that runs, as it describes itself in `hub.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningHub {
    /// Its process, as it sees itself: in another PID namespace the number means another process.
    pub pid: u32,
    /// When it began to serve, in milliseconds since 1970.
    pub started_ms: u64,
    /// Its version.
    pub version: String,
    /// Where it takes HTTP, such as `http://127.0.0.1:8000`. Addresses that it listens on everywhere are given as
    /// this machine's own.
    pub urls: Vec<String>,
    /// Where it takes JSON-RPC in lines, as `address:port`.
    pub tcp: Vec<String>,
    /// Its Unix socket, if it has one, which takes HTTP.
    pub unix: Option<PathBuf>,
    /// The directory whose files its tools read.
    pub workspace: PathBuf,
    /// Whether callers need a token.
    pub wants_token: bool,
    /// The file that the token is in, if it is in one.
    pub token_file: Option<PathBuf>,
    /// Directories that it keeps in step with workspaces, by the tasks whose workspaces they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub directories: BTreeMap<String, PathBuf>,
}

impl RunningHub {
    /// The hub that runs with this state directory; `None` if there is none, or none that can be trusted: the file must
    /// belong to this user or to root.
    pub fn find(home: &Path) -> Option<RunningHub> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(home.join(FILE)).ok()?;
        let metadata = file.metadata().ok()?;
        let user = geteuid();
        if !metadata.is_file() || !(user.is_root() || [0, user.as_raw()].contains(&metadata.uid())) {
            return None;
        }
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            Ok(()) | Err(TryLockError::Error(_)) => return None,
        }
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Where to reach it over HTTP, the first of its addresses.
    pub fn url(&self) -> Option<&str> {
        self.urls.first().map(String::as_str)
    }
}

/// The right to be the hub of a state directory, which one process has at a time.
#[derive(Debug)]
pub struct Claim {
    home: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    /// What was written, locked for readers.
    announced: Option<File>,
}

/// Why this process cannot be the hub of a state directory.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process is.
    #[error("another hub runs with the state directory {}", .0.display())]
    Taken(PathBuf),
    /// The file cannot be made or locked.
    #[error("cannot lock {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Claim {
    /// Become the hub of this state directory, made if need be.
    pub fn take(home: &Path) -> Result<Claim, ClaimError> {
        let path = home.join(LOCK);
        let fault = |source| ClaimError::Io { path: path.clone(), source };
        make_private(home).map_err(fault)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(fault)?;
        match lock.try_lock() {
            Ok(()) => Ok(Claim { home: home.to_owned(), _lock: lock, announced: None }),
            Err(TryLockError::WouldBlock) => Err(ClaimError::Taken(home.to_owned())),
            Err(TryLockError::Error(error)) => Err(fault(error)),
        }
    }

    /// Tell other commands of this user where the hub is, until this value goes.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn announce(&mut self, hub: &RunningHub) -> io::Result<()> {
        let aside = self.home.join(format!("{FILE}.new"));
        let _ = fs::remove_file(&aside); // what a crash has left; only whoever holds the claim writes here
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&aside)?;
        file.lock()?; // before it has its name, so that it is never seen without
        let text = serde_json::to_string_pretty(hub)?;
        file.write_all(text.as_bytes()).and_then(|()| fs::rename(&aside, self.home.join(FILE)))?;
        self.announced = Some(file);
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.announced.is_some() {
            let _ = fs::remove_file(self.home.join(FILE)); // without its lock it says nothing anyway
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn hub() -> RunningHub {
        RunningHub {
            pid: 7,
            started_ms: 1,
            version: "1".into(),
            urls: vec!["http://127.0.0.1:1".into(), "http://[::1]:1".into()],
            tcp: Vec::new(),
            unix: None,
            workspace: "/w".into(),
            wants_token: true,
            token_file: Some("/t".into()),
            directories: BTreeMap::from([("t1".into(), "/d".into())]),
        }
    }

    #[test]
    fn a_hub_is_found_while_it_runs_and_not_afterwards() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(FILE);
        assert_eq!(RunningHub::find(home.path()), None);
        let mut claim = Claim::take(home.path()).unwrap();
        assert_eq!(RunningHub::find(home.path()), None, "it does not serve yet");
        claim.announce(&hub()).unwrap();
        assert_eq!(RunningHub::find(home.path()), Some(hub()));
        assert_eq!(RunningHub::find(home.path()), Some(hub()), "a look changes nothing");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let left = fs::read(&file).unwrap();
        drop(claim);
        assert!(!file.exists());
        fs::write(&file, left).unwrap();
        assert_eq!(RunningHub::find(home.path()), None, "what a killed hub has left");
        Claim::take(home.path()).unwrap().announce(&hub()).unwrap();
    }

    #[test]
    fn there_is_one_hub_for_a_state_directory() {
        let home = tempfile::tempdir().unwrap();
        let mut first = Claim::take(home.path()).unwrap();
        first.announce(&hub()).unwrap();
        assert!(matches!(Claim::take(home.path()), Err(ClaimError::Taken(_))));
        assert_eq!(RunningHub::find(home.path()), Some(hub()), "the second has changed nothing");
    }

    #[test]
    fn what_is_no_description_of_a_hub_is_none() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(FILE);
        fs::write(&file, "{").unwrap();
        let held = File::open(&file).unwrap();
        held.lock().unwrap();
        assert_eq!(RunningHub::find(home.path()), None);
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert_eq!(RunningHub::find(home.path()), None, "and nobody waits for it");
    }
}
