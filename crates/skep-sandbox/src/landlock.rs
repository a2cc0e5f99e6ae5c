//! The second wall around files, sockets and signals.
//!
//! The mount namespace already hides what is not named; Landlock stands behind it and also says what may be written,
//! that no TCP port is opened, and that nothing outside of the command's own processes is signalled. Owns the rules;
//! the kernel enforces them for the command and all its descendants.

use std::os::fd::AsFd;

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, openat},
    io::Errno,
};

use crate::{
    fault::{At, Fault},
    sys,
};

// Rights to files, as the kernel numbers them. The version in which each group came is in `files_known`.
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;

const READ: u64 = EXECUTE | READ_FILE | READ_DIR;
/// Rights that mean something for a file that is not a directory.
const OF_A_FILE: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/// Binding and connecting TCP.
const TCP: u64 = 0b11;
/// Abstract sockets and signals.
const SCOPE: u64 = 0b11;

/// First version that keeps abstract sockets and signals inside.
pub(crate) const SCOPED: u32 = 6;

/// Keeps the signals of the calling process and its descendants, and their connections to abstract sockets, among
/// themselves, for good. Nothing else is refused.
pub(crate) fn keep_signals() -> Result<(), Fault> {
    let attr = sys::LandlockAttr { files: 0, network: 0, scoped: SCOPE };
    let ruleset = sys::landlock_ruleset(&attr, size_of::<sys::LandlockAttr>()).at(KEEP_SIGNALS)?;
    sys::landlock_enforce(ruleset.as_fd()).at(KEEP_SIGNALS)
}

/// The step that fails where Landlock is too old for it.
pub(crate) const KEEP_SIGNALS: &str = "keep signals inside by Landlock";

/// Rights to files that a version knows; all of them are taken in charge, so what is not granted is refused.
fn files_known(version: u32) -> u64 {
    let bits = match version {
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << bits) - 1
}

/// What is granted.
pub(crate) struct Grants<'a> {
    /// Paths below which everything may be done but making devices.
    pub(crate) write: &'a [String],
    /// Paths below which files may be read and executed.
    pub(crate) read: &'a [String],
    /// TCP is not interfered with (there is a loopback interface).
    pub(crate) tcp: bool,
}

/// Puts the calling process under Landlock, for good. Paths that do not exist or cannot be reached are
/// passed over.
pub(crate) fn enforce(version: u32, grants: &Grants<'_>) -> Result<(), Fault> {
    let files = files_known(version);
    let network = if version >= 4 && !grants.tcp { TCP } else { 0 };
    let scoped = if version >= SCOPED { SCOPE } else { 0 };
    let attr = sys::LandlockAttr { files, network, scoped };
    let size = match version {
        ..4 => 8,
        4..6 => 16,
        _ => 24,
    };
    let ruleset = sys::landlock_ruleset(&attr, size).at("make a Landlock ruleset")?;
    for (paths, access) in [(grants.write, files & !MAKE_CHAR & !MAKE_BLOCK), (grants.read, files & READ)] {
        for path in paths {
            let fd = match openat(CWD, path.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Ok(fd) => fd,
                // What cannot be reached is of no use to the command, either.
                Err(Errno::NOENT | Errno::ACCESS) => continue,
                other => other.at("open what Landlock grants")?,
            };
            let stat = fstat(&fd).at("look at what Landlock grants")?;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let access = if directory { access } else { access & OF_A_FILE };
            sys::landlock_allow(ruleset.as_fd(), fd.as_fd(), access).at("add a Landlock rule")?;
        }
    }
    sys::landlock_enforce(ruleset.as_fd()).at("enforce Landlock")
}
