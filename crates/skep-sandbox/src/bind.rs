//! What of the host is seen inside.

use std::path::PathBuf;

/// A directory of the host, seen read-only inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Directory on the host.
    pub source: PathBuf,
    /// Absolute path inside, such as `/workspace`.
    pub target: PathBuf,
    /// Places in it, relative to it and without links, of which nothing is seen: something empty lies over each. They must
    /// exist when the sandbox is started; one that is exchanged for another afterwards is seen again, so whoever hides
    /// something that may change starts another sandbox then.
    pub hidden: Vec<PathBuf>,
}
