//! Tools of agents that work together in a workspace: what they log, who is there, and what they tell each other.

mod ack_messages;
mod join_collab;
mod leave_collab;
mod list_members;
mod log_step;
mod read_logs;
mod read_messages;
mod send_message;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use skep_core::{
    Json,
    app::{MemberError, MessageError},
    limits::NAME_BYTES_MAX,
    member::Unread,
    message::{MessageKind, Unsendable},
    page::Start,
};
use skep_tools::{
    error::ToolError,
    shared::{refused, store_failed},
    tool::Annotations,
};

pub(super) use self::{
    ack_messages::AckMessages, join_collab::JoinCollab, leave_collab::LeaveCollab, list_members::ListMembers,
    log_step::LogStep, read_logs::ReadLogs, read_messages::ReadMessages, send_message::SendMessage,
};

/// Characters of a name, at most.
const NAME_CHARS_MAX: usize = NAME_BYTES_MAX;

const READS: Annotations =
    Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
const WRITES: Annotations =
    Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: false, open_world_hint: false };
const WRITES_ONCE: Annotations = Annotations { idempotent_hint: true, ..WRITES };

/// What a message is.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Asks one agent for something.
    Request,
    /// Answers a message.
    Response,
    /// Tells one agent something.
    Notification,
    /// Tells all agents something.
    Broadcast,
    /// Offers one agent or all to work on something together.
    Collaborate,
}

impl From<Kind> for MessageKind {
    fn from(kind: Kind) -> MessageKind {
        match kind {
            Kind::Request => MessageKind::Request,
            Kind::Response => MessageKind::Response,
            Kind::Notification => MessageKind::Notification,
            Kind::Broadcast => MessageKind::Broadcast,
            Kind::Collaborate => MessageKind::Collaborate,
        }
    }
}

impl From<MessageKind> for Kind {
    fn from(kind: MessageKind) -> Kind {
        match kind {
            MessageKind::Request => Kind::Request,
            MessageKind::Response => Kind::Response,
            MessageKind::Notification => Kind::Notification,
            MessageKind::Broadcast => Kind::Broadcast,
            MessageKind::Collaborate => Kind::Collaborate,
        }
    }
}

/// Where a page begins that is after a number, or before one.
fn start(after: Option<i64>, before: Option<i64>) -> Result<Option<Start>, ToolError> {
    match (after, before) {
        (Some(_), Some(_)) => Err(ToolError::argument("before", "give `after` or `before`, not both")),
        (after, before) => Ok(after.map(Start::After).or(before.map(Start::Before))),
    }
}

/// The number with which the next page begins.
fn number(next: Start) -> i64 {
    match next {
        Start::After(number) | Start::Before(number) => number,
    }
}

/// What the store has, which was JSON when it was written.
fn value(json: &Json) -> Result<Value, ToolError> {
    json.parse().map_err(|error| ToolError::failed(format!("what is stored is no JSON: {error}")))
}

fn total(unread: Unread) -> u64 {
    unread.inbox + unread.to_all
}

fn conflict(message: String, reason: &str, more: Value) -> ToolError {
    let mut detail = Map::from_iter([("reason".to_owned(), reason.into())]);
    detail.extend(more.as_object().cloned().unwrap_or_default());
    ToolError::Conflict { message, detail }
}

/// Why an operation on members failed.
fn member_failed(error: MemberError) -> ToolError {
    let message = error.to_string();
    match error {
        MemberError::NameTaken { principal, .. } => conflict(message, "name_taken", json!({ "principal": principal })),
        MemberError::NotJoined(_) => conflict(message + " (join_collab)", "not_joined", json!({})),
        MemberError::TooMany => conflict(message, "full", json!({})),
        MemberError::Invalid(invalid) => refused(invalid),
        MemberError::Db(error) => store_failed(error),
    }
}

/// Why an operation on messages failed.
fn message_failed(error: MessageError) -> ToolError {
    let message = error.to_string();
    match error {
        MessageError::Member(error) => member_failed(error),
        MessageError::Unsendable(Unsendable::Invalid(invalid)) | MessageError::Invalid(invalid) => refused(invalid),
        MessageError::Unsendable(Unsendable::NoQuestion) | MessageError::Unknown(_) => {
            ToolError::argument("reply_to", message)
        }
        MessageError::Unsendable(Unsendable::NoRecipient(_) | Unsendable::Recipient) => {
            ToolError::argument("to", message)
        }
        MessageError::InboxFull(_) => conflict(message, "inbox_full", json!({})),
        MessageError::KeyReused(number) => conflict(message, "key_reused", json!({ "number": number })),
        MessageError::SkipsTooMany => conflict(message, "skips_too_many", json!({})),
        MessageError::Db(error) => store_failed(error),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}
