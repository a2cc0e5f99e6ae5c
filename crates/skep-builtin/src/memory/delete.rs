//! `memory_delete`: forget something.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::policy::Write;
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{KEY_CHARS_MAX, failed};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct MemoryDelete {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The name under which it was stored.
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    key: String,
    /// Delete it only if it has this revision.
    #[garde(range(min = 0))]
    base_revision: Option<i64>,
    /// The task or swarm whose memory it is; without, the team's own.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    task_id: Option<String>,
    /// Which agent deletes it.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    agent_id: Option<String>,
}

/// What was done.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Whether there was such an entry.
    deleted: bool,
    /// The revision that it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<i64>,
}

impl BuiltIn for MemoryDelete {
    const NAME: &'static str = "memory_delete";
    const DESCRIPTION: &'static str = "Forget what was stored under a key with memory_store. It is no error if there is \
        nothing. With `base_revision`, only if nobody else has changed it meanwhile.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: true, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { key, base_revision, task_id, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, task_id.as_deref(), agent_id.as_deref())?;
        let deleted = app.delete_memory(&permit, &key, base_revision).await.map_err(failed)?;
        Ok(Answer { deleted: deleted.is_some(), revision: deleted.map(|about| about.revision) })
    }
}
