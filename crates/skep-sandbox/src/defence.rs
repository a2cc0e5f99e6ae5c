//! The walls, by name, so that a test can leave one out and see that the self-test notices.

/// One of the walls around a command.
///
/// Several stand one behind the other, so leaving one out does not open everything that it stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defence {
    /// The system call filter.
    Filter,
    /// Landlock.
    Landlock,
    /// Dropped capabilities, locked, and no way to new ones.
    Capabilities,
    /// Limits of a process, and of how many there are.
    ResourceLimits,
    /// Quotas of a user namespace.
    Quotas,
    /// Processes that do not see one another in `/proc`.
    Hiding,
    /// A network of its own, without anything in it.
    Network,
    /// Measuring the memory of all processes together.
    MemoryWatch,
}

impl Defence {
    /// All of them.
    pub const ALL: [Defence; 8] = [
        Defence::Filter,
        Defence::Landlock,
        Defence::Capabilities,
        Defence::ResourceLimits,
        Defence::Quotas,
        Defence::Hiding,
        Defence::Network,
        Defence::MemoryWatch,
    ];

    fn bit(self) -> u64 {
        1 << self as u64
    }
}

/// The walls that stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Defences(pub(crate) u64);

impl Defences {
    pub(crate) fn without(missing: &[Defence]) -> Defences {
        Defences(missing.iter().fold(u64::MAX, |standing, defence| standing & !defence.bit()))
    }

    pub(crate) fn has(self, defence: Defence) -> bool {
        self.0 & defence.bit() != 0
    }
}
