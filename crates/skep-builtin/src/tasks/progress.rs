//! `task_progress`: still at it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{
    app::{Progress, TaskError},
    limits::{LEASE_MAX, LEASE_MIN, PROGRESS_BYTES_MAX},
    policy::Write,
    task::{Refused, TaskId},
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, time},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{LEASE, NAME_CHARS_MAX, Token, WRITES, failed};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct TaskProgress {
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
    /// How much is done, of a hundred.
    #[garde(range(max = 100))]
    percent: Option<u8>,
    /// What you are doing, in a sentence.
    #[garde(length(chars, min = 1, max = PROGRESS_BYTES_MAX))]
    message: Option<String>,
    /// Seconds that you may be silent from now on.
    #[serde(alias = "leaseS", alias = "ttl_s")]
    #[garde(range(min = LEASE_MIN.as_secs(), max = LEASE_MAX.as_secs()))]
    lease_s: Option<u64>,
}

/// Whether to go on.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// You have the task. If not, stop: whatever you answer counts for nothing.
    held: bool,
    /// It was cancelled.
    cancelled: bool,
    /// Why you do not have it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Say something again within so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_s: Option<u64>,
    /// When it has failed if it has not ended by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
}

impl BuiltIn for TaskProgress {
    const NAME: &'static str = "task_progress";
    const DESCRIPTION: &'static str = "Say that you still work on a task, and how far you have come. It stays yours for \
        `lease_s` seconds more. The answer tells whether to go on: the task may have been cancelled, or given to somebody \
        else because you were silent.";
    const ANNOTATIONS: Annotations = WRITES;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, token, percent, message, lease_s } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, None, None)?;
        let (id, token) = (TaskId(task_id), Token::read(&token)?);
        let (by, lease) = (token.attempt(app, &permit, &id).await?, lease_s.map_or(LEASE, Duration::from_secs));
        match app.renew(&permit, &id, (&by, &token.session), Progress { percent, message }, lease).await {
            Ok(task) => Ok(Answer {
                held: true,
                cancelled: false,
                reason: None,
                lease_s: Some(lease.as_secs()),
                deadline: task.deadline.map(time),
            }),
            Err(TaskError::Refused(reason)) => Ok(Answer {
                held: false,
                cancelled: reason == Refused::Over("cancelled"),
                reason: Some(reason.to_string()),
                lease_s: None,
                deadline: None,
            }),
            Err(error) => Err(failed(error)),
        }
    }
}
