//! `renew_claim`: more time for a claim.

use schemars::JsonSchema;
use serde::Deserialize;
use skep_core::claim::ClaimToken;
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Granted, TTL_MAX_S, TTL_MIN_S, failed, pattern_of, seconds, ttl_s};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct RenewClaim {
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
    /// The path or glob that was claimed. With it, a wrong token is found out.
    #[garde(length(chars, min = 1, max = 4096))]
    path: Option<String>,
    /// The claim's token.
    token: i64,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    agent_id: Option<String>,
    /// Seconds that the claim lasts from now.
    #[serde(default = "ttl_s")]
    #[garde(range(min = TTL_MIN_S, max = TTL_MAX_S))]
    ttl_s: f64,
}

impl BuiltIn for RenewClaim {
    const NAME: &'static str = "renew_claim";
    const DESCRIPTION: &'static str = "Keep a claim of yours for some time from now. A claim whose time is over cannot be \
        renewed: claim the file again, and read it before you write.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Granted;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Granted, ToolError> {
        let Arguments { task_id, path, token, agent_id, ttl_s } = arguments;
        let (app, permit) = self.shared.open(context, Some(&task_id), agent_id.as_deref())?;
        let pattern = path.as_deref().map(pattern_of).transpose()?;
        let renewed = app.renew_claim(&permit, pattern.as_ref(), ClaimToken(token), seconds(ttl_s)).await;
        renewed.map(Granted::from).map_err(failed)
    }
}
