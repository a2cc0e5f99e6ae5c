//! `file_delete`: a file of a task's workspace that is to be there no more.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{
    claim::ClaimToken,
    policy::{Permit, Write},
};
use skep_tools::{
    error::ToolError,
    shared::{
        Shared,
        files::{failed, path_of},
    },
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct FileDelete {
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
    /// Which file.
    #[garde(length(chars, min = 1, max = 4096))]
    path: String,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    agent_id: Option<String>,
    /// The `revision` of the file that you have read. If there is another one by now, it is not deleted.
    base_revision: Option<u64>,
    /// The token that claim_file gave. It is needed while anybody has a claim on the file.
    token: Option<i64>,
}

/// What was deleted.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Which file.
    path: String,
    /// The revision that says so. The one before it can still be read.
    revision: u64,
    /// The file was deleted already.
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<bool>,
}

impl BuiltIn for FileDelete {
    const NAME: &'static str = "file_delete";
    const DESCRIPTION: &'static str = "Delete a file of the workspace that everybody who works on a task shares. What was \
        in it can still be read by its revisions, and be written again.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: true, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, path, agent_id, base_revision, token } = arguments;
        let (app, permit): (_, Permit<Write>) = self.shared.open(context, Some(&task_id), agent_id.as_deref())?;
        let path = path_of(&path)?;
        let deleted = app.delete_file(&permit, &path, base_revision, token.map(ClaimToken)).await.map_err(failed)?;
        let unchanged = (!deleted.is_new).then_some(true);
        Ok(Answer { path: path.to_string(), revision: deleted.revision.number, unchanged })
    }
}
