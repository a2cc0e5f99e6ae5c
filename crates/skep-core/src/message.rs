//! Messages between the agents of a workspace, which numbers them itself, without gaps.
//!
//! A message to one agent is in its inbox until it acknowledges it, also if it has never joined. A message to all is
//! read by those who were members when it was sent; it is not copied, but each member remembers up to where it has read.

use serde::{Deserialize, Serialize};

use crate::{
    Json, Timestamp,
    limits::{self, Invalid, MESSAGE_BYTES_MAX, check_json, check_name},
};

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageKind {
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

impl MessageKind {
    /// All of them.
    pub const ALL: [MessageKind; 5] = [
        MessageKind::Request,
        MessageKind::Response,
        MessageKind::Notification,
        MessageKind::Broadcast,
        MessageKind::Collaborate,
    ];

    /// Its name, in the store and for programs.
    pub fn name(self) -> &'static str {
        match self {
            MessageKind::Request => "request",
            MessageKind::Response => "response",
            MessageKind::Notification => "notification",
            MessageKind::Broadcast => "broadcast",
            MessageKind::Collaborate => "collaborate",
        }
    }

    /// The one of this name.
    pub(crate) fn from_name(name: &str) -> Option<MessageKind> {
        MessageKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A message that is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMessage {
    /// What it is.
    pub kind: MessageKind,
    /// To which agent; `None` for all. A response without one goes to the sender of what it answers.
    pub recipient: Option<String>,
    /// The number of the message that it is about, which the sender must be able to see. A response needs one.
    pub reply_to: Option<i64>,
    /// What it says, of at most [`MESSAGE_BYTES_MAX`] bytes.
    pub body: Json,
    /// The same message with the same key is sent once, however often the principal tries.
    pub key: Option<String>,
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its place among the messages of the workspace: 1, 2, 3, …
    pub number: i64,
    /// When it was sent, by the store's time.
    pub at: Timestamp,
    /// Who sent it.
    pub principal: String,
    /// Under which name: that of an agent, or else the principal's.
    pub sender: String,
    /// To which agent; `None` for all.
    pub recipient: Option<String>,
    /// What it is.
    pub kind: MessageKind,
    /// The number of the message that it is about.
    pub reply_to: Option<i64>,
    /// Its idempotency key.
    pub key: Option<String>,
    /// What it says.
    pub body: Json,
}

/// From whom a message is, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The sender's name.
    pub(crate) sender: String,
    /// The recipient's; `None` for all.
    pub(crate) recipient: Option<String>,
}

/// Why a message cannot be sent as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// It must say to whom it is.
    #[error("a {} is for one agent; say to whom it is", .0.name())]
    NoRecipient(MessageKind),
    /// It is for all.
    #[error("a broadcast is for all agents; leave the recipient out, or send a notification")]
    Recipient,
    /// It must say what it answers.
    #[error("a response needs the number of the message that it answers")]
    NoQuestion,
    /// A part of it is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl NewMessage {
    /// Whether it may be sent.
    pub(crate) fn check(&self) -> Result<(), Unsendable> {
        let NewMessage { kind, recipient, reply_to, body, key } = self;
        match (kind, recipient) {
            (MessageKind::Request | MessageKind::Notification, None) => return Err(Unsendable::NoRecipient(*kind)),
            (MessageKind::Broadcast, Some(_)) => return Err(Unsendable::Recipient),
            (MessageKind::Response, _) if reply_to.is_none() => return Err(Unsendable::NoQuestion),
            _ => {}
        }
        recipient.as_deref().map_or(Ok(()), |name| check_name("recipient", name))?;
        key.as_deref().map_or(Ok(()), |key| check_name("idempotency key", key))?;
        Ok(check_json("the body", body, MESSAGE_BYTES_MAX)?)
    }
}

impl Message {
    /// Whether it is what this one says, sent under this name.
    pub(crate) fn repeats(&self, new: &NewMessage, sender: &str) -> bool {
        let NewMessage { kind, recipient, reply_to, body, key: _ } = new;
        let same_recipient = *recipient == self.recipient || (recipient.is_none() && *kind == MessageKind::Response);
        self.sender == sender
            && self.kind == *kind
            && self.reply_to == *reply_to
            && same_recipient
            && self.body == *body
    }
}

impl Ends {
    /// Whether an agent of this name may see the message.
    pub(crate) fn can_be_seen_by(&self, name: &str) -> bool {
        self.sender == name || self.recipient.as_deref().is_none_or(|recipient| recipient == name)
    }
}

/// Whether so many numbers may be acknowledged at once.
pub(crate) fn check_numbers(numbers: &[i64]) -> Result<(), Invalid> {
    limits::check_range(
        "the number of messages to acknowledge",
        numbers.len() as u64,
        0,
        limits::ACKNOWLEDGED_MAX as u64,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_says_to_whom_it_can_go() {
        let new = |kind, recipient: Option<&str>, reply_to| NewMessage {
            kind,
            recipient: recipient.map(str::to_owned),
            reply_to,
            body: json!({}).into(),
            key: None,
        };
        for kind in [MessageKind::Request, MessageKind::Notification] {
            assert_eq!(new(kind, Some("a"), None).check(), Ok(()));
            assert_eq!(new(kind, None, None).check(), Err(Unsendable::NoRecipient(kind)));
        }
        assert_eq!(new(MessageKind::Response, None, Some(1)).check(), Ok(()));
        assert_eq!(new(MessageKind::Response, Some("a"), None).check(), Err(Unsendable::NoQuestion));
        assert_eq!(new(MessageKind::Broadcast, None, Some(1)).check(), Ok(()));
        assert_eq!(new(MessageKind::Broadcast, Some("a"), None).check(), Err(Unsendable::Recipient));
        for recipient in [None, Some("a")] {
            assert_eq!(new(MessageKind::Collaborate, recipient, None).check(), Ok(()));
        }
        assert!(matches!(new(MessageKind::Request, Some("a\nb"), None).check(), Err(Unsendable::Invalid(_))));
    }
}
