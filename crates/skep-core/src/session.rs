//! Sessions of workers, and the hubs that they are at.
//!
//! ```text
//!   task in progress ──▶ session of a worker ──▶ hub ──▶ "alive until …", every few seconds
//! ```
//!
//! A task belongs to the session of the worker that took it, for as long as the session lasts. A worker's own
//! heartbeat stays in the memory of its hub; the store sees one row for each hub. A hub that does not renew
//! its row in time is gone. Its sessions then have [`ATTACH_TIME`] to attach to another hub, with their token. Those that
//! do not are lost: their tasks are ready again, and no failure is counted ([`crate::task::Command::Lose`]).

use std::time::Duration;

use sha2::{Digest, Sha256};

pub use crate::id::SessionId;
use crate::{
    hex::hex,
    id::WorkerId,
    limits::{Invalid, check_name},
};

/// How often a hub renews its row.
pub const HUB_BEAT: Duration = Duration::from_secs(3);
/// How long a hub counts as alive after it has renewed its row: three beats may get lost.
pub const HUB_TIME: Duration = Duration::from_secs(10);
/// How long the sessions of a hub that is gone have to attach to another one.
pub const ATTACH_TIME: Duration = Duration::from_secs(10);

/// A process that shares the store: a name that no other ever had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubId(pub String);

/// The secret with which a session is attached to another hub.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionToken(pub String);

impl std::fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionToken(…)")
    }
}

impl SessionToken {
    pub(crate) fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.0))
    }
}

/// A session as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// Its name, unique in the namespace.
    pub id: SessionId,
    /// The worker that it is of.
    pub worker: WorkerId,
    /// The secret with which it can be attached to another hub; without one, it ends with its hub.
    pub token: Option<SessionToken>,
}

impl NewSession {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        check_name("session", &self.id.0)?;
        check_name("worker", &self.worker.0)
    }
}
