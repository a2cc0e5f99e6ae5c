//! Who may do what. A [`Permit`] can only be made here, so a function that takes one cannot be called without the
//! check.

use crate::Namespace;

/// The authenticated caller.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Name for the audit trail.
    pub name: String,
    /// The namespace of the caller.
    pub namespace: Namespace,
    /// May change runs and tasks there.
    pub writer: bool,
}

/// Proof that an actor may change runs and tasks of a namespace.
#[derive(Clone, Debug)]
pub struct Permit(Namespace);

/// The actor lacks the right.
#[derive(Debug, thiserror::Error)]
#[error("{0} may read but not change anything here; ask for the right to write")]
pub struct Denied(String);

impl Actor {
    /// Check the right to change runs and tasks.
    pub fn may_write(&self) -> Result<Permit, Denied> {
        if self.writer { Ok(Permit(self.namespace.clone())) } else { Err(Denied(self.name.clone())) }
    }
}

impl Permit {
    /// Where the actor may change runs and tasks.
    pub fn namespace(&self) -> &Namespace {
        &self.0
    }
}
