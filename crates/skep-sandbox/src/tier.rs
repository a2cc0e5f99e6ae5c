//! How strong the isolation is, and what this machine lacks for more.

/// How strong the isolation is, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// A container of an OCI runtime, as far as that isolates.
    Oci,
    /// All namespaces but no `/proc` inside, where the machine masks it.
    StrictWithoutProc,
    /// All of it.
    Strict,
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
    /// A second wall behind the namespaces.
    Landlock,
    /// What runs ends with the server, even if that is killed.
    Lifetime,
    /// A ceiling on `/outputs` as a whole, not on single files only, while the command runs.
    Disk,
}

impl Tier {
    /// What is not enforced at this tier.
    pub(crate) fn missing(self) -> Vec<Protection> {
        match self {
            Tier::Oci => vec![
                Protection::Landlock,
                Protection::Quotas,
                Protection::Disk,
                Protection::Lifetime,
                Protection::MemoryWatch,
            ],
            Tier::Strict => vec![Protection::MemoryOfAll],
            Tier::StrictWithoutProc => {
                vec![Protection::MemoryOfAll, Protection::MemoryWatch, Protection::Quotas, Protection::Proc]
            }
        }
    }
}
