//! How strong the isolation is, and what this machine lacks for more.

use std::fmt;

/// How strong the isolation is, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// A container of an OCI runtime, as far as that isolates.
    Oci,
    /// No namespaces: Landlock, the system call filter and limits among the processes and files of the host.
    Landlock,
    /// All namespaces but no `/proc` inside, where the machine masks it.
    StrictWithoutProc,
    /// All of it.
    Strict,
}

impl Tier {
    /// The weakest, for finding out what there is.
    pub(crate) const WEAKEST: Tier = Tier::Oci;
}

/// One thing that protects, for [`Outcome::missing`](crate::Outcome::missing) and [`Report`](crate::Report).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Protection {
    /// A hard ceiling on the memory of the whole sandbox (cgroup v2).
    MemoryOfAll,
    /// Memory of the whole sandbox is at least measured now and then.
    MemoryWatch,
    /// Quotas of its own for inotify and the like; without them a sandbox can use up those of the server's user.
    Quotas,
    /// A fresh `/proc`.
    Proc,
    /// A second wall behind the namespaces, or all of it where the kernel knows a part.
    Landlock,
    /// What runs ends with the server, even if that is killed.
    Lifetime,
    /// A ceiling on what is written to `/tmp` and `/outputs` as a whole, not on single files only, while the command runs.
    Disk,
    /// That other processes and files exist is hidden. What is in them always is.
    Hiding,
    /// Processes are counted for each sandbox; without that those of the server's user count, too.
    Processes,
    /// A ceiling on all that the kernel holds for it, such as mappings and locks of files (cgroup v2). Without it page
    /// tables and buffers of sockets are measured where memory is.
    KernelMemory,
}

/// What of a machine decides what is enforced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    /// Quotas of a user namespace can be set.
    pub(crate) quotas: bool,
    /// Landlock knows all that is asked of it.
    pub(crate) landlock: bool,
    /// Memory of several processes can be measured without a `/proc` of one's own.
    pub(crate) children: bool,
    /// Each sandbox has a user of its own.
    pub(crate) users: bool,
    /// There is a cgroup to limit memory with.
    pub(crate) memory_cap: bool,
    /// There is one to count processes with.
    pub(crate) processes_cap: bool,
}

impl Protection {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Protection; 10] = [
        Protection::MemoryOfAll,
        Protection::MemoryWatch,
        Protection::Quotas,
        Protection::Proc,
        Protection::Landlock,
        Protection::Lifetime,
        Protection::Disk,
        Protection::Hiding,
        Protection::Processes,
        Protection::KernelMemory,
    ];
}

/// In words, for people.
impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protection::MemoryOfAll => "a ceiling on the memory of all processes together",
            Protection::MemoryWatch => "a watch on the memory of all processes together",
            Protection::Quotas => "quotas of inotify and the like",
            Protection::Proc => "a /proc of its own",
            Protection::Landlock => "all of Landlock",
            Protection::Lifetime => "an end with the server if that is killed",
            Protection::Disk => "a ceiling on what is written in all",
            Protection::Hiding => "hiding other processes and files",
            Protection::Processes => "a count of processes for each sandbox",
            Protection::KernelMemory => "a ceiling on all memory that the kernel holds for it",
        })
    }
}

/// In words, for people.
impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Oci => "containers",
            Tier::Landlock => "Landlock without namespaces",
            Tier::StrictWithoutProc => "strict, but without /proc",
            Tier::Strict => "strict",
        })
    }
}

impl Tier {
    /// What is not enforced at this tier by these means. Containers are the runtime's business (`oci.rs`).
    pub(crate) fn missing(self, means: Means) -> Vec<Protection> {
        let strict = self == Tier::Strict;
        let among_others = self == Tier::Landlock;
        let lacks = |protection: &Protection| match protection {
            Protection::MemoryOfAll | Protection::KernelMemory => !means.memory_cap,
            Protection::MemoryWatch => !(means.memory_cap || strict || (among_others && means.children)),
            Protection::Quotas => !strict || !means.quotas,
            Protection::Proc => !strict,
            Protection::Landlock => !means.landlock,
            Protection::Lifetime => false,
            Protection::Disk | Protection::Hiding => among_others,
            Protection::Processes => among_others && !means.users && !means.processes_cap,
        };
        Protection::ALL.into_iter().filter(lacks).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_what_this_machine_cannot_enforce() {
        use Protection::*;
        let all =
            Means { quotas: true, landlock: true, children: true, users: true, memory_cap: true, processes_cap: true };
        assert_eq!(Tier::Strict.missing(all), []);
        assert_eq!(Tier::Strict.missing(Means { memory_cap: false, ..all }), [MemoryOfAll, KernelMemory]);
        assert_eq!(Tier::Strict.missing(Means { quotas: false, landlock: false, ..all }), [Quotas, Landlock]);
        assert_eq!(Tier::StrictWithoutProc.missing(all), [Quotas, Proc]);
        let none = Means { memory_cap: false, ..all };
        assert_eq!(Tier::StrictWithoutProc.missing(none), [MemoryOfAll, MemoryWatch, Quotas, Proc, KernelMemory]);
        assert_eq!(Tier::Landlock.missing(all), [Quotas, Proc, Disk, Hiding]);
        let none = Means { users: false, processes_cap: false, ..none };
        let missing = [MemoryOfAll, Quotas, Proc, Disk, Hiding, Processes, KernelMemory];
        assert_eq!(Tier::Landlock.missing(none), missing);
        assert!(Tier::Landlock.missing(Means { children: false, ..none }).contains(&MemoryWatch));
    }

    #[test]
    fn the_tiers_are_in_order() {
        let tiers = [Tier::Oci, Tier::Landlock, Tier::StrictWithoutProc, Tier::Strict];
        assert!(tiers.is_sorted());
    }
}
