//! `send_message`: tell another agent something, or all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_core::{
    app::Sent,
    message::{MessageKind, NewMessage},
    policy::Write,
};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Kind, NAME_CHARS_MAX, WRITES, is_false, message_failed};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct SendMessage {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The task or swarm in which it is sent; without one, the team.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    task_id: Option<String>,
    /// The name under which you send it; without one, that of your token.
    #[serde(alias = "agentId", alias = "from", alias = "sender")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
    /// The agent that gets it. A broadcast has none; a response goes to who sent what it answers.
    #[serde(alias = "recipient")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    to: Option<String>,
    /// What it is; if that is not said, a notification to an agent or a broadcast to all.
    #[serde(rename = "type", alias = "kind", alias = "message_type", alias = "messageType")]
    kind: Option<Kind>,
    /// What it says: any JSON but null, up to 256 KiB.
    #[serde(alias = "content", alias = "message")]
    #[garde(custom(is_something))]
    body: Value,
    /// The number of the message that it is about. A response needs one.
    #[serde(alias = "replyTo")]
    #[garde(range(min = 1))]
    reply_to: Option<i64>,
    /// The same message with the same key is sent once, however often you try.
    #[serde(alias = "idempotencyKey")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    idempotency_key: Option<String>,
}

/// Models write null for what they leave out.
fn is_something(body: &Value, _: &()) -> garde::Result {
    if body.is_null() { Err(garde::Error::new("is null; say something")) } else { Ok(()) }
}

/// That it was sent.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The message's number, for `reply_to`: those of a task are 1, 2, 3, … without gaps.
    number: i64,
    /// The agent that gets it; all, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// It had been sent before, with the same idempotency key.
    #[serde(skip_serializing_if = "is_false")]
    repeated: bool,
}

impl BuiltIn for SendMessage {
    const NAME: &'static str = "send_message";
    const DESCRIPTION: &'static str = "Send a message to another agent, or to all who have joined. It waits for an agent \
        until that has acknowledged it, also for one that is away or has never joined.";
    const ANNOTATIONS: Annotations = WRITES;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, agent_id, to: recipient, kind, body, reply_to, idempotency_key: key } = arguments;
        let kind = match (kind, &recipient) {
            (Some(kind), _) => kind.into(),
            (None, Some(_)) => MessageKind::Notification,
            (None, None) => MessageKind::Broadcast,
        };
        let (app, permit) = self.shared.open::<Write>(context, task_id.as_deref(), agent_id.as_deref())?;
        let new = NewMessage { kind, recipient, reply_to, body: body.into(), key };
        let Sent { number, recipient, is_repeated } = app.send_message(&permit, new).await.map_err(message_failed)?;
        Ok(Answer { number, to: recipient, repeated: is_repeated })
    }
}
