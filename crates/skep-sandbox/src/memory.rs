//! Watching the memory of a whole sandbox where no cgroup can limit it.
//!
//! Best effort by nature: it looks now and then, so a fast program overshoots by what it can touch in between, and of
//! what the kernel holds for a program it sees page tables and sockets alone. Owns the measuring; the keeper (`slot.rs`)
//! decides when to look and what to do.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use crate::sockets::Sockets;

/// Longest `status` or `smaps_rollup` of a process that is read, in bytes.
const TEXT_MAX: u64 = 8 << 10;

/// The processes of one sandbox.
pub(crate) struct Watch {
    proc: OwnedFd,
    /// Its sockets, where they are in a network of their own, and how many of others were there before them.
    sockets: Option<(Sockets, u64)>,
    /// The process whose descendants they are, where others can be seen in `/proc`, too.
    ancestor: Option<u32>,
}

impl Watch {
    /// Watches the processes in this pid namespace's `/proc`, except the first, and the sockets of this network.
    pub(crate) fn new() -> io::Result<Watch> {
        let watch = Watch::with(None)?;
        let sockets = Sockets::new().ok().map(|sockets| (sockets, watch.sockets_used()));
        Ok(Watch { sockets, ..watch })
    }

    /// Watches the descendants of the calling process, in a `/proc` with others.
    pub(crate) fn of_descendants() -> io::Result<Watch> {
        Watch::with(Some(std::process::id()))
    }

    fn with(ancestor: Option<u32>) -> io::Result<Watch> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Watch { proc: openat(CWD, "/proc", flags, Mode::empty())?, sockets: None, ancestor })
    }

    /// Whether the kernel tells who descends from whom.
    pub(crate) fn knows_descendants() -> bool {
        let own = std::process::id();
        std::path::Path::new(&format!("/proc/{own}/task/{own}/children")).exists()
    }

    /// Whether the processes hold more than `max` bytes together: their own memory, the tables that map it, and what
    /// lies unread in their sockets.
    ///
    /// Resident sets are quick to read but count a shared page once for each process, so they only ever clear
    /// suspicion. The exact share is asked for twice, since a process that is just being spawned shares everything
    /// with its parent for a moment.
    pub(crate) fn exceeded(&self, max: u64) -> bool {
        let resident = |pid: &str| self.sum(pid, "status", &["VmRSS:", "VmSwap:", "VmPTE:"]);
        let share = |pid: &str| {
            let exact = self.sum(pid, "smaps_rollup", &["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]);
            let fields: &[&str] = if exact > 0 { &["VmPTE:"] } else { &["RssAnon:", "RssShmem:", "VmSwap:", "VmPTE:"] };
            exact + self.sum(pid, "status", fields)
        };
        let is_over = |processes: u64| processes + self.socket_bytes() > max;
        is_over(self.total(resident)) && is_over(self.total(share)) && is_over(self.total(share))
    }

    fn socket_bytes(&self) -> u64 {
        let of_these = |(sockets, others): &(Sockets, u64)| sockets.bytes(self.sockets_used().saturating_sub(*others));
        self.sockets.as_ref().map_or(0, of_these)
    }

    /// How many sockets there are in this network, also those that are closed but hold something.
    fn sockets_used(&self) -> u64 {
        let text = self.read("self/net/sockstat");
        let used = text.lines().find_map(|line| line.strip_prefix("sockets: used "));
        used.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }

    fn total(&self, of: impl Fn(&str) -> u64) -> u64 {
        let processes = match self.ancestor {
            Some(ancestor) => self.descendants(ancestor.to_string()),
            None => self.numbers(".").filter(|pid| pid != "1").collect(),
        };
        processes.iter().map(|pid| of(pid)).sum()
    }

    /// All that have come of a process. Whoever loses its parent meanwhile is found the next time.
    fn descendants(&self, ancestor: String) -> Vec<String> {
        let (mut found, mut next) = (Vec::new(), vec![ancestor]);
        while let Some(pid) = next.pop() {
            for thread in self.numbers(&format!("{pid}/task")) {
                let children = self.read(&format!("{pid}/task/{thread}/children"));
                next.extend(children.split_whitespace().map(str::to_owned));
            }
            found.push(pid);
        }
        // The first is the ancestor.
        found.split_off(1)
    }

    /// Entries of a directory that are numbers.
    fn numbers(&self, directory: &str) -> impl Iterator<Item = String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = openat(&self.proc, directory, flags, Mode::empty()).and_then(Dir::new);
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// The sum of some fields of a file about a process, in bytes. A process that has gone holds nothing.
    fn sum(&self, pid: &str, file: &str, fields: &[&str]) -> u64 {
        let text = self.read(&format!("{pid}/{file}"));
        let kilobytes = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        text.lines()
            .filter(|line| fields.iter().any(|field| line.starts_with(field)))
            .filter_map(kilobytes)
            .map(|kilobytes| kilobytes * 1024)
            .sum()
    }

    /// A file of `/proc`; nothing if there is none.
    fn read(&self, path: &str) -> String {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut text = String::new();
        if let Ok(fd) = openat(&self.proc, path, flags, Mode::empty()) {
            // Of a process that ends meanwhile there is nothing to tell.
            let _ = File::from(fd).take(TEXT_MAX).read_to_string(&mut text);
        }
        text
    }
}
