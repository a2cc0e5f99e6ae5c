//! `claim_file`: the sole right to write some files, for a while.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use skep_core::claim::{NewClaim, WAIT_MAX};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Granted, TTL_MAX_S, TTL_MIN_S, WAIT_MAX_S, failed, pattern_of, seconds, ttl_s};

/// Time that a call has beside what it waits for: to ask, and to withdraw.
const MARGIN: Duration = Duration::from_secs(10);

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct ClaimFile {
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
    /// A file, or a glob for many: `src/**`, `*.{png,jpg}`.
    #[garde(length(chars, min = 1, max = 4096))]
    path: String,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    agent_id: Option<String>,
    /// Seconds that the claim lasts, unless it is renewed.
    #[serde(default = "ttl_s")]
    #[garde(range(min = TTL_MIN_S, max = TTL_MAX_S))]
    ttl_s: f64,
    /// Seconds to wait if others have claims on the same files. They are served in the order in which they asked.
    #[serde(default)]
    #[garde(range(min = 0.0, max = WAIT_MAX_S))]
    wait_s: f64,
    /// Let others have shared claims on the same files. While there is one, nobody writes them.
    #[serde(default)]
    shared: bool,
}

impl BuiltIn for ClaimFile {
    const NAME: &'static str = "claim_file";
    const DESCRIPTION: &'static str = "Claim a file, or all files that fit a glob, of a task's workspace, so that nobody \
        else writes them until you release the claim or its time is over. Give the token with each write. If another \
        has a claim on one of the files, the answer says who and until when, or you wait for it. Renew a claim before its \
        time is over; release it when you are done.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: false, open_world_hint: false };
    const DEADLINE: Duration = WAIT_MAX.saturating_add(MARGIN);
    type Arguments = Arguments;
    type Answer = Granted;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Granted, ToolError> {
        let Arguments { task_id, path, agent_id, ttl_s, wait_s, shared } = arguments;
        let (app, permit) = self.shared.open(context, Some(&task_id), agent_id.as_deref())?;
        // Whoever gives the call less time than it is to wait is told before that who is in the way.
        let wait = seconds(wait_s).min(context.time_left().saturating_sub(Duration::from_secs(1)));
        if !wait.is_zero() {
            context.room.wait_without_turn()?;
        }
        let new = NewClaim { pattern: pattern_of(&path)?, is_shared: shared, ttl: seconds(ttl_s), wait };
        app.claim_file(&permit, new).await.map(Granted::from).map_err(failed)
    }
}
