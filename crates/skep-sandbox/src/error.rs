//! Why a request did not run, as the caller sees it.

/// Why a request did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine cannot isolate as strongly as the request demands. Nothing was run.
    #[error("this machine cannot provide the isolation that was asked for: {reason}; {cure}")]
    Unavailable {
        /// What failed.
        reason: String,
        /// What to do about it.
        cure: String,
    },
    /// Too many requests run and wait already.
    #[error("too many requests are waiting for a sandbox; try again later")]
    Busy,
    /// The request itself is at fault.
    #[error("the request cannot be run: {0}")]
    Invalid(String),
    /// The program cannot be executed. Nothing was run.
    #[error("the request cannot be run: {why}")]
    Unexecuted {
        /// What the system said.
        why: String,
        /// There is such a program.
        found: bool,
    },
    /// Setting the sandbox up failed at a step. Nothing was run.
    #[error("the sandbox could not be set up: {step}")]
    Setup {
        /// The step.
        step: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// [`init`](crate::init) is not called first in `main`.
    #[error("the helper process did not answer; call skep_sandbox::init() first in main")]
    NoHelper,
    /// The helper process died while the request ran, and everything of the request with it.
    #[error("the helper process died and took the request with it; try again")]
    HelperDied,
}
