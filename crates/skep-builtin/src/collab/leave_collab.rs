//! `leave_collab`: an agent is done.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::policy::Write;
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, WRITES_ONCE, member_failed};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct LeaveCollab {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The task or swarm to leave; without one, the team.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    task_id: Option<String>,
    /// The name under which you joined.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
}

/// Whether you were there.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// You had joined and have left now.
    left: bool,
}

impl BuiltIn for LeaveCollab {
    const NAME: &'static str = "leave_collab";
    const DESCRIPTION: &'static str = "Leave those who work on a task, when you are done with it. Your messages wait in \
        case that you join again. It is no error if you have not joined.";
    const ANNOTATIONS: Annotations = WRITES_ONCE;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, task_id.as_deref(), agent_id.as_deref())?;
        Ok(Answer { left: app.leave_workspace(&permit).await.map_err(member_failed)? })
    }
}
