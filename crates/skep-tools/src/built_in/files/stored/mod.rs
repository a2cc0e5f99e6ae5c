//! Files of a task's workspace, which the store has with all their revisions: what the tools for files work on when
//! they are given a `task_id`.

mod conflict;
mod edit;
mod list;
mod read;
pub mod whole;
mod write;

use serde_json::{Map, Value, json};
use skep_core::{
    claim::{Claim, ClaimToken, Refused},
    file::Revision,
    path::FilePath,
};

pub(super) use self::{
    conflict::failed,
    edit::edit,
    list::list,
    read::read,
    write::{Draft, write},
};
use crate::{built_in::shared::time, error::ToolError};

/// The path that a caller has given.
pub(in crate::built_in) fn path_of(text: &str) -> Result<FilePath, ToolError> {
    let text = text.strip_prefix("./").unwrap_or(text);
    FilePath::new(text).map_err(|error| ToolError::argument("path", error.to_string()))
}

/// What an argument means that only counts in a task's workspace.
pub(super) fn only_in_a_task(name: &str, is_given: bool) -> Result<(), ToolError> {
    if !is_given {
        return Ok(());
    }
    Err(ToolError::argument(name, "it goes with `task_id`: only files of a task's workspace have revisions and claims"))
}

/// Why a claim keeps a caller from something, as every tool tells it.
pub(in crate::built_in) fn refused(why: &Refused) -> ToolError {
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

/// What is known of a revision, under these names in every answer and error.
pub(super) fn described(revision: &Revision) -> Map<String, Value> {
    let Revision { number, base, sha256, size, author, at, .. } = revision;
    let mut described = Map::new();
    described.insert("revision".into(), (*number).into());
    described.insert("base_revision".into(), (*base).into());
    described.insert("sha256".into(), sha256.as_deref().into());
    described.insert("size".into(), (*size).into());
    described.insert("deleted".into(), sha256.is_none().into());
    described.insert("author".into(), author.as_ref().map(|author| &*author.principal).into());
    described.insert("agent".into(), author.as_ref().and_then(|author| author.agent.as_deref()).into());
    described.insert("at".into(), time(*at).into());
    described
}
