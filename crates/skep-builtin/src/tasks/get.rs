//! `task_get`: what is known about a task.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_core::{
    policy::Read,
    task::{Failure, State, TaskId},
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, store_failed},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, READS, Shown, value};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct TaskGet {
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
}

/// A task, if there is one of the id.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Whether there is.
    found: bool,
    /// What is known about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Shown>,
    /// What is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// What its worker gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Value>,
    /// What its worker has answered; of a task that failed, what it had until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

impl BuiltIn for TaskGet {
    const NAME: &'static str = "task_get";
    const DESCRIPTION: &'static str =
        "Look at a task: its state, its input, its result, and why it failed or cannot start.";
    const ANNOTATIONS: Annotations = READS;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let (app, reads) = self.shared.open::<Read>(context, None, None)?;
        let id = TaskId(arguments.task_id);
        let Some(task) = app.db.task(&reads, &id).await.map_err(store_failed)? else {
            return Ok(Answer { found: false, task: None, description: None, input: None, result: None });
        };
        let mut details = app.db.task_details(&reads, vec![id.clone()]).await.map_err(store_failed)?;
        let mut details = details.remove(&id).unwrap_or_default();
        let result = match &task.state {
            State::Completed(output) | State::Failed(Failure { output, .. }) if !output.is_null() => {
                Some(value(output)?)
            }
            _ => None,
        };
        let (description, input) =
            (details.description.take(), Some(value(&task.input)?).filter(|input| !input.is_null()));
        Ok(Answer { found: true, task: Some(Shown::new(&task, details)), description, input, result })
    }
}
