//! `task_retry`: do again what has failed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{app::TaskError, policy::Write, task::TaskId};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, WRITES, failed, run_failed};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct TaskRetry {
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
    /// Which agent asks for it.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
}

/// What is done again.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The ids of the tasks that are pending again: the task, and those that it had blocked.
    reopened: Vec<String>,
}

impl BuiltIn for TaskRetry {
    const NAME: &'static str = "task_retry";
    const DESCRIPTION: &'static str = "Do a task again that has failed, was cancelled or is blocked, and with it the tasks \
        that it has blocked. It has all its retries again, and no deadline if that has passed.";
    const ANNOTATIONS: Annotations = WRITES;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, None, agent_id.as_deref())?;
        let id = TaskId(task_id);
        let reopened = match app.retry(&permit, &id).await {
            Err(TaskError::OfRun { run, .. }) => app.retry_run(&permit, &run, Some(&id)).await.map_err(run_failed)?,
            other => other.map_err(failed)?,
        };
        Ok(Answer { reopened: reopened.into_iter().map(|id| id.0).collect() })
    }
}
