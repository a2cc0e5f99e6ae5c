//! `task_finish`: done, or not to be done.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use skep_core::{
    policy::Write,
    task::{Failure, TaskId},
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, store_failed},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Answer, NAME_CHARS_MAX, Token, WRITES_ONCE, failed, shown_alone};

/// Characters of an error; the store cuts a longer one.
const ERROR_CHARS_MAX: usize = 64 << 10;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct TaskFinish {
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
    /// What you have found or made, as JSON up to 4 MiB; of a task that failed, what there was until then.
    #[serde(default, alias = "output")]
    result: Option<Value>,
    /// Why it failed. Without this, the task is completed.
    #[garde(length(chars, min = 1, max = ERROR_CHARS_MAX))]
    error: Option<String>,
    /// Of a task that failed: whether another attempt may succeed. Then there is one, if the task has retries left.
    #[serde(default = "yes")]
    retry: bool,
}

fn yes() -> bool {
    true
}

impl BuiltIn for TaskFinish {
    const NAME: &'static str = "task_finish";
    const DESCRIPTION: &'static str = "Answer a task that you got from task_next: its result, or the error because of \
        which it failed. An answer that comes too late is refused, and the reason said; the same one again is no fault.";
    const ANNOTATIONS: Annotations = WRITES_ONCE;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, token, result, error, retry } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, None, None)?;
        let (id, token) = (TaskId(task_id), Token::read(&token)?);
        let by = token.attempt(app, &permit, &id).await?;
        let output = result.unwrap_or_default();
        match error {
            None => app.finish(&permit, &id, by, output, Vec::new()).await.map_err(failed)?,
            Some(error) => {
                let failure = Failure { error, output: output.into() };
                app.fail(&permit, &id, by, failure, retry).await.map(drop).map_err(failed)?;
            }
        }
        if let Err(error) = app.end_lease(&permit, &token.session).await {
            tracing::debug!(%error, "a lease ends with its time and not with its task");
        }
        let task = app.db.task(&permit.to_read(), &id).await.map_err(store_failed)?;
        let task = task.ok_or_else(|| ToolError::failed("the task was deleted meanwhile"))?;
        Ok(Answer { task: shown_alone(app, &permit, &task).await? })
    }
}
