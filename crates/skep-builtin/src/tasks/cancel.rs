//! `task_cancel`: have something not done after all.

use schemars::JsonSchema;
use serde::Deserialize;
use skep_core::{policy::Write, task::TaskId};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Answer, NAME_CHARS_MAX, failed, shown_alone};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct TaskCancel {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The task's id.
    #[serde(alias = "taskId", alias = "id")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    task_id: String,
    /// Which agent cancels it.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
}

impl BuiltIn for TaskCancel {
    const NAME: &'static str = "task_cancel";
    const DESCRIPTION: &'static str = "Cancel a task that is not over, and the tasks that are parts of it. Whoever works on \
        it is told, and its answer counts for nothing; what depends on it is blocked.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: true, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, None, agent_id.as_deref())?;
        let task = app.cancel(&permit, &TaskId(task_id)).await.map_err(failed)?;
        Ok(Answer { task: shown_alone(app, &permit, &task).await? })
    }
}
