//! `task_release`: somebody else may do it.

use schemars::JsonSchema;
use serde::Deserialize;
use skep_core::{policy::Write, task::TaskId};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Answer, NAME_CHARS_MAX, Token, WRITES, failed, shown_alone};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct TaskRelease {
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
    /// What task_next has given with the task.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    token: String,
}

impl BuiltIn for TaskRelease {
    const NAME: &'static str = "task_release";
    const DESCRIPTION: &'static str = "Give a task back unfinished that you got from task_next. The next one who asks gets \
        it, and no failure is counted.";
    const ANNOTATIONS: Annotations = WRITES;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, token } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, None, None)?;
        let (id, token) = (TaskId(task_id), Token::read(&token)?);
        let by = token.attempt(app, &permit, &id).await?;
        let task = app.give_back(&permit, &id, (&by, &token.session)).await.map_err(failed)?;
        Ok(Answer { task: shown_alone(app, &permit, &task).await? })
    }
}
