//! Which files that are found in a directory the user has looked at and trusts (`skep trust`).
//!
//! A file is trusted at its place and with its contents: the directory's real path, and the SHA-256 of the bytes. What
//! changes is not trusted any more, and neither is a link in another directory to a file that is. The list is in the state
//! directory, for its owner alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use skep_core::Timestamp;
use skep_core::hex::hex;
use skep_tools::{document, workspace::Readers};

use crate::state;

/// File name of the list in the state directory.
const FILE: &str = "trust.json";
/// Bytes of the list.
const LIST_BYTES_MAX: u64 = 1 << 20;
/// Files on the list; of more, those that were trusted longest ago are dropped.
const FILES_MAX: usize = 1000;

/// The files that are trusted.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Trust {
    files: Vec<Trusted>,
}

/// A file that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Trusted {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it, as [`digest`] has it.
    pub sha256: String,
    /// Since when it is trusted, in microseconds since 1970.
    pub since_us: i64,
}

/// How far a file is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As it is.
    Trusted,
    /// It was, and has changed since.
    Changed,
    /// Nobody ever trusted it.
    Unknown,
}

impl Trust {
    /// What is trusted, by the list in this state directory, whose path must be absolute: a relative one may lie in the very
    /// directory that is in doubt.
    pub fn read(home: &Path) -> io::Result<Trust> {
        if home.is_relative() {
            return Err(io::Error::other("the state directory must be named by an absolute path"));
        }
        let path = home.join(FILE);
        if !path.try_exists()? {
            return Ok(Trust::default());
        }
        let bytes = document::read_bytes(&path, LIST_BYTES_MAX).map_err(io::Error::other)?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }

    /// Write the list, as a whole or not at all.
    pub fn write(&self, home: &Path) -> io::Result<()> {
        // Outputs of tools may have to stay open to the sandboxes' user; the directory above them is closed.
        state::prepare(home, Readers::Sandboxes).map_err(io::Error::other)?;
        let (path, aside) = (home.join(FILE), home.join(format!("{FILE}.{}", std::process::id())));
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&aside)?;
        let written = file.write_all(&serde_json::to_vec_pretty(self)?).and_then(|()| file.sync_all());
        let moved = written.and_then(|()| fs::rename(&aside, &path));
        if moved.is_err() {
            let _ = fs::remove_file(&aside);
        }
        moved.and_then(|()| File::open(home)?.sync_all())
    }

    /// How far a file with these contents is trusted.
    pub fn standing(&self, path: &Path, bytes: &[u8]) -> Standing {
        match self.files.iter().find(|trusted| trusted.path == path) {
            Some(trusted) if trusted.sha256 == digest(bytes) => Standing::Trusted,
            Some(_) => Standing::Changed,
            None => Standing::Unknown,
        }
    }

    /// Trust a file with these contents from now on.
    pub fn add(&mut self, path: PathBuf, bytes: &[u8], now: Timestamp) {
        self.files.retain(|trusted| trusted.path != path);
        self.files.push(Trusted { path, sha256: digest(bytes), since_us: now.0 });
        let surplus = self.files.len().saturating_sub(FILES_MAX);
        self.files.drain(..surplus);
    }

    /// Trust it no more. Whether it was on the list.
    pub fn remove(&mut self, path: &Path) -> bool {
        let before = self.files.len();
        self.files.retain(|trusted| trusted.path != path);
        self.files.len() < before
    }

    /// All that is on the list, in the order in which it was trusted.
    pub fn files(&self) -> &[Trusted] {
        &self.files
    }
}

/// The place by which a file is known: its directory's real path and its own name, which may be that of a link.
pub fn place(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this is no name of a file"))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(directory.canonicalize()?.join(name))
}

/// SHA-256 in hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_trusted_with_its_contents_and_at_its_place() {
        let home = tempfile::tempdir().unwrap();
        let mut trust = Trust::read(home.path()).unwrap();
        trust.add("/a/skep.toml".into(), b"one", Timestamp(1));
        trust.write(home.path()).unwrap();
        let mode = fs::metadata(home.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut trust = Trust::read(home.path()).unwrap();
        assert_eq!(trust.standing(Path::new("/a/skep.toml"), b"one"), Standing::Trusted);
        assert_eq!(trust.standing(Path::new("/a/skep.toml"), b"two"), Standing::Changed);
        assert_eq!(trust.standing(Path::new("/b/skep.toml"), b"one"), Standing::Unknown);
        trust.add("/a/skep.toml".into(), b"two", Timestamp(2));
        assert_eq!(trust.files().len(), 1);
        assert!(trust.remove(Path::new("/a/skep.toml")) && !trust.remove(Path::new("/a/skep.toml")));
    }

    #[test]
    fn a_link_is_known_by_its_own_directory() {
        let here = tempfile::tempdir().unwrap();
        let real = here.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("theirs")).unwrap();
        fs::write(real.join("skep.toml"), "").unwrap();
        std::os::unix::fs::symlink(real.join("skep.toml"), real.join("theirs/skep.toml")).unwrap();
        assert_eq!(place(&real.join("theirs/skep.toml")).unwrap(), real.join("theirs/skep.toml"));
        assert_eq!(place(&real.join("theirs/../skep.toml")).unwrap(), real.join("skep.toml"));
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_and_never_grows_without_end() {
        let home = tempfile::tempdir().unwrap();
        assert!(Trust::read(Path::new("state")).is_err());
        fs::write(home.path().join(FILE), "{").unwrap();
        assert!(Trust::read(home.path()).is_err());
        let mut trust = Trust::default();
        for n in 0..FILES_MAX + 10 {
            trust.add(format!("/{n}/skep.toml").into(), b"", Timestamp(1));
        }
        assert_eq!((trust.files().len(), trust.files()[0].path.as_path()), (FILES_MAX, Path::new("/10/skep.toml")));
    }
}
