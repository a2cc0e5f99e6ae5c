//! What a sandbox is made from.

use std::path::PathBuf;

use crate::{bind::Bind, defence::Defence, oci::Oci, proxy::Gate};

/// What a sandbox is made from; the same for all requests that it serves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The program that calls [`init`](crate::init) first in its `main`. Default: the running program.
    pub helper: Option<PathBuf>,
    /// Directories of the host that every request sees, read-only. Named by the operator, never by a request.
    pub binds: Vec<Bind>,
    /// Requests that run at once; more of them wait. Each takes five descriptors of the process; those that are
    /// ready for the next requests take eighteen.
    pub concurrency_max: usize,
    /// Requests that may wait; one more is refused with [`Error::Busy`](crate::Error::Busy).
    pub waiting_max: usize,
    /// Interpreters that may wait, started, for the next request: one for each combination of language and working
    /// directory (and whether there is input) that was asked for of late. A waiting `python3` holds about 6 MB, `node`
    /// 36 MB. 0: none.
    pub warm_max: usize,
    /// Which addresses requests that were granted hosts ([`Net::Allow`](crate::Net::Allow)) may be connected to.
    /// `None`: no request can be granted any.
    pub gate: Option<Gate>,
    /// Whether sandboxes are made with namespaces.
    pub namespaces: Namespaces,
    /// Run requests in containers of this runtime instead; they must accept [`Tier::Oci`](crate::Tier::Oci).
    pub oci: Option<Oci>,
    /// Walls that are left out. For tests only: they show that [`Sandbox::selftest`](crate::Sandbox::selftest) notices.
    pub without: Vec<Defence>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            helper: None,
            binds: Vec::new(),
            concurrency_max: 64,
            waiting_max: 4096,
            warm_max: 3,
            gate: None,
            namespaces: Namespaces::Required,
            oci: None,
            without: Vec::new(),
        }
    }
}

/// Whether sandboxes are made with namespaces. Without them there is [`Tier::Landlock`](crate::Tier::Landlock), which requests must accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// Without them nothing is run.
    #[default]
    Required,
    /// Without them where this machine refuses them.
    Preferred,
    /// Without them in any case, to see what that is like.
    Unused,
}
