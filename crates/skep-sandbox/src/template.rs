//! What every sandbox is made from.

use crate::{bare::Bare, defence::Defences, root::Root};

/// What every sandbox is made from.
pub(crate) struct Template {
    pub(crate) root: Root,
    pub(crate) filter: Vec<libc::sock_filter>,
    pub(crate) landlock: u32,
    pub(crate) defences: Defences,
    /// Paths that may be read inside.
    pub(crate) readable: Vec<String>,
    /// Paths below which everything may be done.
    pub(crate) writable: Vec<String>,
    /// Processes beside those of a command that count as if they were its.
    pub(crate) counted: u64,
    /// Takes the place of namespaces.
    pub(crate) bare: Option<Bare>,
}

impl Template {
    /// Fits it to the calling process, a new keeper.
    pub(crate) fn fit(&mut self) {
        if let Some(bare) = &self.bare {
            self.writable.extend(bare.writable());
            self.counted = bare.counted();
        }
    }
}
