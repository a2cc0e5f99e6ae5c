//! `release_file`: a claim that is not needed any more.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{
    claim::ClaimToken,
    policy::{Operate, Permit},
};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{failed, pattern_of};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct ReleaseFile {
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
    /// Take the claim away from whoever has it, whatever `path` says. Only operators of the hub may, and it is recorded.
    #[serde(default)]
    force: bool,
}

/// What was released.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The claim was there. Otherwise it was over already.
    released: bool,
}

impl BuiltIn for ReleaseFile {
    const NAME: &'static str = "release_file";
    const DESCRIPTION: &'static str = "Release a claim of yours, so that others need not wait until its time is over. \
        Releasing one that is over already is no error.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, path, token, agent_id, force } = arguments;
        let token = ClaimToken(token);
        let (task, agent) = (Some(task_id.as_str()), agent_id.as_deref());
        if force {
            let (app, permit): (_, Permit<Operate>) = self.shared.open(context, task, agent)?;
            let forced = app.force_release_claim(&permit, token).await.map_err(failed)?;
            return Ok(Answer { released: forced.is_some() });
        }
        let (app, permit) = self.shared.open(context, task, agent)?;
        let pattern = path.as_deref().map(pattern_of).transpose()?;
        let released = app.release_claim(&permit, pattern.as_ref(), token).await.map_err(failed)?;
        Ok(Answer { released })
    }
}
