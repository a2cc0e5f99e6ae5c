//! Watching the memory of a whole sandbox where no cgroup can limit it.
//!
//! Best effort by nature: it looks now and then, so a fast program overshoots by what it can touch in between. Owns
//! the measuring; the keeper (`slot.rs`) decides when to look and what to do.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

/// Longest `status` or `smaps_rollup` of a process that is read, in bytes.
const TEXT_MAX: u64 = 8 << 10;

/// The processes of one sandbox.
pub(crate) struct Watch {
    proc: OwnedFd,
}

impl Watch {
    /// Watches the processes in this pid namespace's `/proc`, except the first.
    pub(crate) fn new() -> io::Result<Watch> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Watch { proc: openat(CWD, "/proc", flags, Mode::empty())? })
    }

    /// Whether the processes hold more than `max` bytes together.
    ///
    /// Resident sets are quick to read but count a shared page once for each process, so they only ever clear
    /// suspicion. The exact share is asked for twice, since a process that is just being spawned shares everything
    /// with its parent for a moment.
    pub(crate) fn exceeded(&self, max: u64) -> bool {
        let resident = |pid: &str| self.sum(pid, "status", &["VmRSS:", "VmSwap:"]);
        let share = |pid: &str| {
            let exact = self.sum(pid, "smaps_rollup", &["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]);
            if exact > 0 { exact } else { self.sum(pid, "status", &["RssAnon:", "RssShmem:", "VmSwap:"]) }
        };
        self.total(resident) > max && self.total(share) > max && self.total(share) > max
    }

    fn total(&self, of: impl Fn(&str) -> u64) -> u64 {
        let Ok(processes) = Dir::read_from(&self.proc) else { return 0 };
        processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name != "1" && name.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|pid| of(&pid))
            .sum()
    }

    /// The sum of some fields of a file about a process, in bytes. A process that has gone holds nothing.
    fn sum(&self, pid: &str, file: &str, fields: &[&str]) -> u64 {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(fd) = openat(&self.proc, format!("{pid}/{file}"), flags, Mode::empty()) else { return 0 };
        let mut text = String::new();
        if File::from(fd).take(TEXT_MAX).read_to_string(&mut text).is_err() {
            return 0;
        }
        let kilobytes = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        text.lines()
            .filter(|line| fields.iter().any(|field| line.starts_with(field)))
            .filter_map(kilobytes)
            .map(|kilobytes| kilobytes * 1024)
            .sum()
    }
}
