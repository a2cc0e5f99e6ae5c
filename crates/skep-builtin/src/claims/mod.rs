//! The tools for claims: who may write which files of a task's workspace, until when.

mod claim;
mod list;
mod release;
mod renew;
#[cfg(test)]
mod tests;

use std::time::Duration;

use skep_core::{
    claim::{Claim, TTL, TTL_MAX, TTL_MIN, WAIT_MAX},
    glob::Pattern,
};
use skep_tools::{error::ToolError, shared::claims::failed};

pub(super) use self::{claim::ClaimFile, list::ListClaims, release::ReleaseFile, renew::RenewClaim};

/// The limits of the times, in seconds, for the schemas.
const TTL_MIN_S: f64 = TTL_MIN.as_secs() as f64;
const TTL_MAX_S: f64 = TTL_MAX.as_secs() as f64;
const WAIT_MAX_S: f64 = WAIT_MAX.as_secs() as f64;

/// How long a claim lasts if its caller does not say.
fn ttl_s() -> f64 {
    TTL.as_secs_f64()
}

/// The path or glob that a caller has given.
fn pattern_of(text: &str) -> Result<Pattern, ToolError> {
    let text = text.strip_prefix("./").unwrap_or(text);
    Pattern::new(text).map_err(|error| ToolError::argument("path", error.to_string()))
}

/// Seconds that the schema has found to be neither negative nor too many.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// How its holder is told that a claim is granted or renewed.
#[derive(serde::Serialize, schemars::JsonSchema)]
pub(super) struct Granted {
    /// The path or glob.
    path: String,
    /// The number that file_write, file_edit, file_delete, renew_claim and release_file take. Every claim has another one,
    /// and once the claim is over, writes with it are refused.
    token: i64,
    /// Whether others may have a shared claim on the same files.
    shared: bool,
    /// When it is over unless it is renewed, in RFC 3339.
    expires_at: String,
}

impl From<Claim> for Granted {
    fn from(claim: Claim) -> Granted {
        let Claim { token, pattern, is_shared, until, .. } = claim;
        let (path, expires_at) = (pattern.to_string(), skep_tools::shared::time(until));
        Granted { path, token: token.0, shared: is_shared, expires_at }
    }
}
