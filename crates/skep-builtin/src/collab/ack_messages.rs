//! `ack_messages`: an agent has dealt with messages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{app::Acknowledge, limits::ACKNOWLEDGED_MAX, policy::Write};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, WRITES_ONCE, message_failed, store_failed, total};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct AckMessages {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The task or swarm; without one, the team.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    task_id: Option<String>,
    /// The name under which you have joined.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
    /// All messages up to this number.
    #[serde(alias = "upTo")]
    #[garde(range(min = 1))]
    up_to: Option<i64>,
    /// The messages of these numbers.
    #[serde(default)]
    #[garde(length(max = ACKNOWLEDGED_MAX))]
    numbers: Vec<i64>,
}

/// What is left to read.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// How many messages were unread and are not any more.
    acknowledged: usize,
    /// How many are unread still; more than 10,000 are not counted.
    unread: u64,
}

impl BuiltIn for AckMessages {
    const NAME: &'static str = "ack_messages";
    const DESCRIPTION: &'static str = "Acknowledge messages that you have dealt with, by their numbers or all up to one, \
        so that read_messages does not give them again. To do so twice is no error.";
    const ANNOTATIONS: Annotations = WRITES_ONCE;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, agent_id, up_to, numbers } = arguments;
        if up_to.is_none() && numbers.is_empty() {
            return Err(ToolError::argument("numbers", "say which messages: give their numbers, or up_to"));
        }
        let (app, permit) = self.shared.open::<Write>(context, task_id.as_deref(), agent_id.as_deref())?;
        let acknowledged = app.acknowledge(&permit, Acknowledge { up_to, numbers }).await.map_err(message_failed)?;
        let unread = app.db.unread(&permit.to_read(), permit.actor().name()).await.map_err(store_failed)?;
        Ok(Answer { acknowledged, unread: total(unread) })
    }
}
