//! What went wrong while a sandbox was being made, in a form that crosses process boundaries.

use std::io;

/// A step that failed, and what the system said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What was being done, as a verb phrase.
    pub(crate) step: String,
    /// The system's error number.
    pub(crate) errno: i32,
}

/// Turns an error of the system into a [`Fault`].
pub(crate) trait At<T> {
    /// Names the step that this was.
    fn at(self, step: &str) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: &str) -> Result<T, Fault> {
        self.map_err(|error| {
            let errno = error.into().raw_os_error().unwrap_or(libc::EIO);
            Fault { step: step.to_owned(), errno }
        })
    }
}
