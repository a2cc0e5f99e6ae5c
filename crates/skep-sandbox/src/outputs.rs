//! Taking over what a command left under `/outputs`.
//!
//! Reads through a descriptor of the directory that was opened before the command ran, after every process of it is
//! dead, so nothing can be exchanged while we look. The names are hostile all the same: every entry is opened relative
//! to that directory, without following links and without leaving its file system, and only regular files are read.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::Read as _,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};

use crate::OutFile;

/// Directories within directories; deeper ones are reported, not entered.
const DEPTH_MAX: usize = 64;
/// Entries that are reported as skipped; more of them are not interesting.
const SKIPPED_MAX: usize = 256;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: Vec<OutFile>,
    pub(crate) skipped: Vec<(PathBuf, &'static str)>,
}

/// Whether there is anything to collect.
pub(crate) fn any(root: &OwnedFd) -> bool {
    let Ok(directory) = open(root.as_fd(), c".", OFlags::DIRECTORY) else { return false };
    Dir::new(directory).is_ok_and(|entries| entries.flatten().any(|entry| !is_dots(entry.file_name().to_bytes())))
}

/// Reads all regular files below `root`, `bytes_max` bytes of them at most, sorted by path.
pub(crate) fn collect(root: &OwnedFd, bytes_max: u64) -> Found {
    let mut collector = Collector { found: Found::default(), bytes_left: bytes_max };
    match open(root.as_fd(), c".", OFlags::DIRECTORY) {
        Ok(directory) => collector.directory(directory, Path::new(""), 0),
        Err(_) => collector.skip(PathBuf::new(), UNREADABLE),
    }
    let mut found = collector.found;
    found.files.sort_by(|a, b| a.path.cmp(&b.path));
    found.skipped.sort();
    found
}

const UNREADABLE: &str = "cannot be read";

struct Collector {
    found: Found,
    bytes_left: u64,
}

impl Collector {
    fn directory(&mut self, directory: OwnedFd, path: &Path, depth: usize) {
        let Ok(entries) = Dir::read_from(&directory) else { return self.skip(path.to_owned(), UNREADABLE) };
        for entry in entries.flatten().filter(|entry| !is_dots(entry.file_name().to_bytes())) {
            let name = entry.file_name();
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            match self.entry(&directory, name, &path, depth) {
                Ok(()) => (),
                Err(why) => self.skip(path, why),
            }
        }
    }

    fn entry(
        &mut self,
        directory: &OwnedFd,
        name: &std::ffi::CStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), &'static str> {
        // Without waiting, should it be a pipe that nobody writes to.
        let fd = open(directory.as_fd(), name, OFlags::NONBLOCK | OFlags::NOCTTY).map_err(|error| match error {
            Errno::LOOP => "a link",
            Errno::NXIO => "not a regular file",
            _ => UNREADABLE,
        })?;
        let stat = fstat(&fd).map_err(|_| UNREADABLE)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth + 1 >= DEPTH_MAX => Err("too deep"),
            FileType::Directory => {
                self.directory(fd, path, depth + 1);
                Ok(())
            }
            FileType::RegularFile => self.file(fd, path, stat.st_mode & 0o100 != 0),
            _ => Err("not a regular file"),
        }
    }

    fn file(&mut self, fd: OwnedFd, path: &Path, executable: bool) -> Result<(), &'static str> {
        let file = File::from(fd);
        // Files with holes and hard links can be larger together than the directory may be.
        let size = file.metadata().map_err(|_| UNREADABLE)?.len();
        self.bytes_left = self.bytes_left.checked_sub(size).ok_or("larger than what may be put out")?;
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(size).read_to_end(&mut bytes).map_err(|_| UNREADABLE)?;
        self.found.files.push(OutFile { path: path.to_owned(), bytes, executable });
        Ok(())
    }

    fn skip(&mut self, path: PathBuf, why: &'static str) {
        if self.found.skipped.len() < SKIPPED_MAX {
            self.found.skipped.push((path, why));
        }
    }
}

fn open(directory: impl AsFd, name: impl Into<CString>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let confined =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    openat2(directory, name.into(), OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty(), confined)
}

fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}
