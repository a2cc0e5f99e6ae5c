//! The state directory is this user's alone: mode 0700, with files of mode 0600 in it.
//!
//! The database, logins, reports and outputs hold what tools have read and what servers were told. So the directory is
//! closed before anything is put into it, whatever the umask is, and what an earlier version has left open is closed as
//! well.

mod runs;

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, fstat, openat, statat},
    process::geteuid,
};
use skep_tools::workspace::{OUTPUTS, Readers, make_private};

pub use self::runs::{Home, LockError, RunDirectory};

/// What others have no part in.
const OF_OTHERS: u32 = 0o077;
/// Everybody may write there, as in /tmp.
const STICKY: u32 = 0o1000;
/// What is in a state directory, one of which at least is in every one that was used.
const OURS: [&str; 6] = ["skep.db", "runs", "outputs", "logins", "hub.lock", "trust.json"];
/// What a new file system has in it.
const LOST_AND_FOUND: &str = "lost+found";
/// Directories within directories.
const DEPTH_MAX: usize = 128;

/// Why a directory cannot be the state directory.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It is a link, which somebody could turn elsewhere.
    #[error("the state directory {} is a symbolic link; name the directory that it leads to (--home, SKEP_HOME)", .0.display())]
    Link(PathBuf),
    /// It is something else.
    #[error("the state directory {} is not a directory", .0.display())]
    NoDirectory(PathBuf),
    /// It is somebody else's.
    #[error(
        "the state directory {} belongs to user {owner}, and this is user {}; name one of your own (--home, SKEP_HOME)",
        .path.display(), geteuid().as_raw()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// It is open to others, and it does not look as if it were ours to close.
    #[error(
        "the state directory {} has other things in it than Skep's and is open to other users (mode {mode:o}); name a \
         directory for Skep alone (--home, SKEP_HOME), or close this one: chmod 700 {}",
        .path.display(), .path.display()
    )]
    Shared {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The system refuses something.
    #[error("cannot make the state directory {} this user's alone", .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Make the state directory if there is none, and see to it that it is this user's alone.
pub fn prepare(home: &Path, outputs: Readers) -> Result<(), Unfit> {
    // Without a slash at the end, which would follow a link.
    let path: PathBuf = home.components().collect();
    let fault = |source| Unfit::Io { path: path.clone(), source };
    let about = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_private(&path).map_err(fault)?;
            fs::symlink_metadata(&path).map_err(fault)?
        }
        found => found.map_err(fault)?,
    };
    if about.is_symlink() {
        return Err(Unfit::Link(path));
    }
    if !about.is_dir() {
        return Err(Unfit::NoDirectory(path));
    }
    if about.uid() != geteuid().as_raw() {
        return Err(Unfit::Foreign { path, owner: about.uid() });
    }
    let directory = open(CWD, &path).map_err(fault)?;
    let mode = about.mode() & 0o7777;
    if mode & OF_OTHERS != 0 {
        if mode & STICKY != 0 || !is_ours(&path).map_err(fault)? {
            return Err(Unfit::Shared { path, mode });
        }
        fchmod(&directory, Mode::from_raw_mode(mode & !OF_OTHERS)).map_err(|error| fault(error.into()))?;
    }
    close_entries(&directory, outputs, 0).map_err(fault)
}

/// Whether a directory that others may enter is empty, or one that Skep has used.
fn is_ours(path: &Path) -> io::Result<bool> {
    let mut is_empty = true;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if OURS.iter().any(|ours| name == *ours) {
            return Ok(true);
        }
        is_empty &= name == LOST_AND_FOUND;
    }
    Ok(is_empty)
}

/// Close what is in a directory. A directory in it that is closed has nothing open in it, since it is closed last, so only
/// those that are open are looked into.
fn close_entries(directory: &OwnedFd, outputs: Readers, depth: usize) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_exempt = outputs == Readers::Sandboxes && name.to_bytes() == OUTPUTS.as_bytes();
        if is_exempt || matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let about = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) => about,
            Err(rustix::io::Errno::NOENT) => continue, // another process has removed it
            Err(error) => return Err(error.into()),
        };
        let is_open = about.st_mode & OF_OTHERS != 0 && about.st_uid == geteuid().as_raw();
        match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory if is_open && depth < DEPTH_MAX => {
                let inner = open(directory, Path::new(OsStr::from_bytes(name.to_bytes())))?;
                close_entries(&inner, outputs, depth + 1)?;
                close(inner.as_fd())?;
            }
            FileType::RegularFile if is_open => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                close(openat(directory, name, flags, Mode::empty())?.as_fd())?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn close(file: BorrowedFd<'_>) -> io::Result<()> {
    let mode = fstat(file)?.st_mode & 0o7777;
    Ok(fchmod(file, Mode::from_raw_mode(mode & !OF_OTHERS))?)
}

fn open(at: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_state_directory_is_closed_and_those_on_its_way_are_as_the_user_has_them() {
        let top = tempfile::tempdir().unwrap();
        let home = top.path().join("share/skep");
        prepare(&home, Readers::User).unwrap();
        assert_eq!(mode(&home), 0o700);
        prepare(&home, Readers::User).unwrap();
    }

    #[test]
    fn what_an_earlier_version_left_open_is_closed() {
        let top = tempfile::tempdir().unwrap();
        let home = top.path();
        fs::create_dir_all(home.join("runs/r1/outputs")).unwrap();
        let files = ["skep.db", "skep.db-wal", "runs/r1/lock", "runs/r1/outputs/a.txt"];
        for file in files {
            fs::write(home.join(file), "x").unwrap();
            set(&home.join(file), 0o644);
        }
        fs::write(top.path().join("runs/r1/outputs/run.sh"), "x").unwrap();
        set(&home.join("runs/r1/outputs/run.sh"), 0o755);
        let outside = tempfile::NamedTempFile::new().unwrap();
        set(outside.path(), 0o644);
        std::os::unix::fs::symlink(outside.path(), home.join("link")).unwrap();
        for directory in ["runs/r1/outputs", "runs/r1", "runs", ""] {
            set(&home.join(directory), 0o755);
        }
        prepare(home, Readers::User).unwrap();
        for directory in ["runs/r1/outputs", "runs/r1", "runs", ""] {
            assert_eq!(mode(&home.join(directory)), 0o700, "{directory}");
        }
        for file in files {
            assert_eq!(mode(&home.join(file)), 0o600, "{file}");
        }
        assert_eq!(mode(&home.join("runs/r1/outputs/run.sh")), 0o700);
        assert_eq!(mode(outside.path()), 0o644, "a link is not followed");
        set(&home.join("skep.db"), 0o644);
        prepare(home, Readers::User).unwrap();
        assert_eq!(mode(&home.join("skep.db")), 0o600, "also where the directory is closed already");
    }

    #[test]
    fn a_directory_that_is_not_skeps_is_left_as_it_is() {
        let top = tempfile::tempdir().unwrap();
        let link = top.path().join("link");
        std::os::unix::fs::symlink(top.path(), &link).unwrap();
        assert!(matches!(prepare(&link, Readers::User), Err(Unfit::Link(_))));
        assert!(matches!(prepare(&link.join(""), Readers::User), Err(Unfit::Link(_))), "with a slash");
        let file = top.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(prepare(&file, Readers::User), Err(Unfit::NoDirectory(_))));
        set(top.path(), 0o755);
        assert!(matches!(prepare(top.path(), Readers::User), Err(Unfit::Shared { mode: 0o755, .. })));
        assert_eq!(mode(top.path()), 0o755);
        let shared = top.path().join("tmp");
        fs::create_dir(&shared).unwrap();
        set(&shared, 0o1777);
        assert!(matches!(prepare(&shared, Readers::User), Err(Unfit::Shared { .. })));
        let closed = top.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("mine"), "").unwrap();
        set(&closed, 0o700);
        prepare(&closed, Readers::User).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&closed, Some(65_533), None).unwrap();
            assert!(matches!(prepare(&closed, Readers::User), Err(Unfit::Foreign { owner: 65_533, .. })));
        }
    }
}
