//! `list_claims`: who has which files, and who waits for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{
    claim::{Claim, ClaimToken},
    policy::{Permit, Read},
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, store_failed, time},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::pattern_of;

/// Claims, if the caller does not say how many, and at most.
const LIMIT: usize = 1000;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct ListClaims {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The task whose workspace it is.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = 512))]
    task_id: String,
    /// List only claims that have a file in common with this path or glob.
    #[garde(length(chars, min = 1, max = 4096))]
    path: Option<String>,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    agent_id: Option<String>,
    /// Go on after the token that the last answer gave as `next`.
    after: Option<i64>,
    /// Claims to look at, at most.
    #[serde(default = "limit")]
    #[garde(range(min = 1, max = LIMIT))]
    limit: usize,
}

fn limit() -> usize {
    LIMIT
}

/// The claims.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// In the order in which they were asked for.
    claims: Vec<Entry>,
    /// There may be more: give this as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

#[derive(Serialize, JsonSchema)]
struct Entry {
    /// The path or glob.
    path: String,
    /// `held`, or `waiting` for those before it.
    state: &'static str,
    /// Whether others may have a shared claim on the same files.
    shared: bool,
    /// Whose it is.
    principal: String,
    /// Which of the principal's agents has it.
    agent: Option<String>,
    /// The number of the claim. It is given with a write only by those who claimed.
    token: i64,
    /// When it was asked for, in RFC 3339.
    asked_at: String,
    /// When it is over unless it is renewed, in RFC 3339.
    expires_at: String,
}

impl BuiltIn for ListClaims {
    const NAME: &'static str = "list_claims";
    const DESCRIPTION: &'static str =
        "List who has claimed which files of a task's workspace, until when, and who waits.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, path, agent_id, after, limit } = arguments;
        let (app, permit): (_, Permit<Read>) = self.shared.open(context, Some(&task_id), agent_id.as_deref())?;
        let pattern = path.as_deref().map(pattern_of).transpose()?;
        let claims = app.db.claims(&permit, after.map(ClaimToken), limit).await.map_err(store_failed)?;
        let next = claims.last().filter(|_| claims.len() == limit).map(|claim| claim.token.0);
        let is_wanted = |claim: &Claim| pattern.as_ref().is_none_or(|pattern| pattern.overlaps(&claim.pattern));
        Ok(Answer { claims: claims.into_iter().filter(is_wanted).map(entry).collect(), next })
    }
}

fn entry(claim: Claim) -> Entry {
    let Claim { token, pattern, is_shared, is_held, by, asked, until, .. } = claim;
    Entry {
        path: pattern.to_string(),
        state: if is_held { "held" } else { "waiting" },
        shared: is_shared,
        principal: by.principal.to_string(),
        agent: by.agent.map(|agent| agent.to_string()),
        token: token.0,
        asked_at: time(asked),
        expires_at: time(until),
    }
}
