//! What is told of claims, and what takes one.

use serde_json::{Map, json};
use skep_core::{
    app::{App, ClaimError},
    claim::{Claim, ClaimToken, Refused},
    policy::{Permit, Read},
};

use super::{files::path_of, store_failed, time};
use crate::error::ToolError;

/// Check that the permit's actor may do what takes an exclusive claim on a file of the permit's workspace: with the token of
/// one, or without a token, because it holds one.
///
/// # Errors
///
/// [`ToolError::Conflict`] tells who has the claim.
pub async fn require_claim(app: &App, permit: &Permit<Read>, path: &str, token: Option<i64>) -> Result<(), ToolError> {
    app.check_claimed(permit, &path_of(path)?, token.map(ClaimToken)).await.map_err(failed)
}

/// Why the store did not do what was asked of it.
pub fn failed(error: ClaimError) -> ToolError {
    match error {
        ClaimError::Time(invalid) => ToolError::argument(invalid.what, invalid.to_string()),
        ClaimError::TooMany | ClaimError::TooManyOfYours => ToolError::Busy(error.to_string()),
        ClaimError::Refused(why) => refused(&why),
        ClaimError::Db(error) => store_failed(error),
    }
}

/// Why a claim keeps a caller from something, as every tool tells it.
pub fn refused(why: &Refused) -> ToolError {
    let reason = match why {
        Refused::Claimed(_) => "claimed",
        Refused::Stale(_) => "stale_token",
        Refused::NeverIssued(_) => "unknown_token",
        Refused::Elsewhere { .. } => "token_of_another_path",
        Refused::Shared(_) => "shared_token",
        Refused::Waiting(_) => "waiting_token",
        Refused::NotYours(_) => "token_of_another_principal",
        Refused::Unclaimed(_) => "unclaimed",
    };
    let mut detail = Map::from_iter([("reason".to_owned(), json!(reason))]);
    match why {
        Refused::Claimed(claim) => {
            let Claim { pattern, is_shared, is_held, by, until, .. } = &**claim;
            detail.insert("claimed".into(), pattern.as_str().into());
            detail.insert("shared".into(), (*is_shared).into());
            detail.insert("held".into(), (*is_held).into());
            detail.insert("principal".into(), (*by.principal).into());
            detail.insert("agent".into(), by.agent.as_deref().into());
            detail.insert("expires_at".into(), time(*until).into());
        }
        Refused::Elsewhere { token, pattern } => {
            detail.insert("token".into(), token.0.into());
            detail.insert("claimed".into(), pattern.as_str().into());
        }
        Refused::Unclaimed(path) => {
            detail.insert("path".into(), path.as_str().into());
        }
        Refused::Stale(ClaimToken(token))
        | Refused::NeverIssued(ClaimToken(token))
        | Refused::Shared(ClaimToken(token))
        | Refused::Waiting(ClaimToken(token))
        | Refused::NotYours(ClaimToken(token)) => {
            detail.insert("token".into(), (*token).into());
        }
    }
    ToolError::Conflict { message: why.to_string(), detail }
}
