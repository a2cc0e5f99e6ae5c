//! How a file looked when it was read, so that it is replaced only if nobody has changed it since.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
};

use rustix::fs::{AtFlags, Mode, Stat, fstat, statat};

/// A file when it was read, or that there was none.
#[derive(Debug, Default)]
pub struct Seen {
    pub(super) identity: Option<Identity>,
    /// Kept open, so that no other file gets its number.
    pub(super) file: Option<File>,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    file: (u64, u64),
    size: i64,
    modified: (i64, u64),
}

impl Seen {
    /// What tells this state of the file from another; `None` if there was no file.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Who may read, write and run the file.
    pub(super) fn mode(&self) -> Option<Mode> {
        let stat = fstat(self.file.as_ref()?).ok()?;
        Some(Mode::from_raw_mode(stat.st_mode & 0o777))
    }
}

impl Identity {
    /// That of a file of which this is known.
    pub fn of_metadata(about: &Metadata) -> Identity {
        let modified = (about.mtime(), about.mtime_nsec().unsigned_abs());
        Identity { file: (about.dev(), about.ino()), size: about.size().cast_signed(), modified }
    }

    pub(super) fn of(stat: &Stat) -> Identity {
        Identity { file: (stat.st_dev, stat.st_ino), size: stat.st_size, modified: (stat.st_mtime, stat.st_mtime_nsec) }
    }

    /// That of the file of this name, if there is one.
    pub(super) fn at(parent: &OwnedFd, name: &OsStr) -> Option<Identity> {
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(Identity::of(&stat))
    }
}
