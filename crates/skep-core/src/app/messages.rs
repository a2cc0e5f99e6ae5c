//! Sending, reading and acknowledging messages.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    App, MemberError,
    members::{hear_of, name_taken, own_row},
};
use crate::{
    db::{DbError, Tx},
    event::{EventKind, NewEvent},
    limits::{INBOX_MAX, Invalid},
    member::Member,
    message::{Message, MessageKind, NewMessage, Unsendable, check_numbers},
    page::{Page, Start},
    policy::{Actor, Permit},
};

/// How long a reader may wait for messages.
pub const MESSAGE_WAIT_MAX: Duration = Duration::from_secs(60);
/// A reader that waits looks no more often than this, however much happens in the workspace.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(50);

/// Why an operation on messages failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The actor may not act under this name, or has not joined under it.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The message cannot be sent as it is.
    #[error(transparent)]
    Unsendable(#[from] Unsendable),
    /// What it is about is not there, or not for the sender to see.
    #[error("there is no message {0} that you can see; look at the number again")]
    Unknown(i64),
    /// The recipient has [`INBOX_MAX`] messages already.
    #[error("{0:?} has {INBOX_MAX} unread messages and can be sent no more until it acknowledges some")]
    InboxFull(String),
    /// Another message was sent with this key.
    #[error("message {0} was sent with the same idempotency key and says something else; choose another key")]
    KeyReused(i64),
    /// Too many messages to all would be skipped.
    #[error("more than {INBOX_MAX} messages would be skipped; acknowledge them in order, up to a number")]
    SkipsTooMany,
    /// An argument is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number.
    pub number: i64,
    /// To which agent; `None` for all.
    pub recipient: Option<String>,
    /// It had been sent before, with the same key.
    pub is_repeated: bool,
}

/// Which messages to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// What the agent has not acknowledged, after a number.
    Unread {
        /// The number; 0 for the oldest.
        after: i64,
    },
    /// All that it can see: those to it, to all, and its own.
    Visible(Start),
}

/// Which messages to acknowledge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledge {
    /// All up to this number.
    pub up_to: Option<i64>,
    /// These, at most [`crate::limits::ACKNOWLEDGED_MAX`].
    pub numbers: Vec<i64>,
}

impl App {
    /// Send a message in the workspace of the permit, under the name of its actor, which need not have joined.
    pub async fn send_message(&self, permit: &Permit, new: NewMessage) -> Result<Sent, MessageError> {
        new.check()?;
        let (actor, bytes) = (Arc::clone(permit.actor()), new.body.as_str().len());
        let send = async move |tx: &mut Tx<'_>| {
            let member = own_row(tx, &actor).await?;
            if let Some(key) = &new.key
                && let Some(earlier) = tx.message_of_key(&actor.principal, key).await?
            {
                let Message { number, recipient, .. } = &earlier;
                return match earlier.repeats(&new, actor.name()) {
                    true => Ok(Sent { number: *number, recipient: recipient.clone(), is_repeated: true }),
                    false => Err(MessageError::KeyReused(*number)),
                };
            }
            let message = address(tx, &actor, &new).await?;
            let sent = add(tx, message).await?;
            if let Some(mut member) = member
                && hear_of(tx, &actor, &mut member)
            {
                tx.save_member(&member).await?;
            }
            Ok(sent)
        };
        self.db.write_bytes(permit, bytes, send).await
    }

    /// Read a page of messages as the permit's actor, who must have joined; this is a heartbeat, too. Messages stay unread
    /// until they are acknowledged. If there is nothing to read, wait for it, at most [`MESSAGE_WAIT_MAX`]; to be called in
    /// a runtime that lives as long.
    pub async fn read_messages(
        &self,
        permit: &Permit,
        selection: Selection,
        kinds: &[MessageKind],
        limit: usize,
        wait: Duration,
    ) -> Result<Page<Message>, MessageError> {
        let reads = permit.to_read();
        let over = Instant::now() + wait.min(MESSAGE_WAIT_MAX);
        let mut watch = (!wait.is_zero()).then(|| self.db.watch(&reads));
        loop {
            if let Some(watch) = &mut watch {
                watch.mark_seen();
            }
            let looked = Instant::now();
            let member = self.reader(permit).await?;
            let page = match selection {
                Selection::Unread { after } => self.db.unread_messages(&reads, &member, after, kinds, limit).await?,
                Selection::Visible(start) => {
                    self.db.visible_messages(&reads, &member.name, start, kinds, limit).await?
                }
            };
            let is_nothing = page.rows.is_empty() && !page.has_more;
            let Some(watch) = watch.as_mut().filter(|_| is_nothing && looked < over) else { return Ok(page) };
            // Who waits is present, and says so in time.
            let until = over.min(looked + member.ttl / 2);
            if timeout_at(until, watch.changed()).await.is_ok() {
                sleep_until(over.min(looked + LOOK_EVERY_MIN)).await;
            }
        }
    }

    /// Acknowledge messages as the permit's actor, who must have joined. Those that are not unread are no error. Returns how
    /// many were; of messages to all up to a number, at most [`INBOX_MAX`] are counted.
    pub async fn acknowledge(&self, permit: &Permit, acknowledge: Acknowledge) -> Result<usize, MessageError> {
        check_numbers(&acknowledge.numbers)?;
        let actor = Arc::clone(permit.actor());
        let acknowledge = async move |tx: &mut Tx<'_>| {
            let mut member = joined_row(tx, &actor).await?;
            let (seen, mut count) = (member.seen, 0);
            if let Some(up_to) = acknowledge.up_to {
                let up_to = up_to.min(tx.last_message().await?);
                count += tx.clear_inbox(&member.name, up_to).await?;
                count += tx.unread_to_all(&member, up_to, INBOX_MAX).await?.len();
                member.seen = seen.max(up_to);
            }
            if !acknowledge.numbers.is_empty() {
                count += acknowledge_each(tx, &mut member, &acknowledge.numbers).await?;
            }
            if hear_of(tx, &actor, &mut member) || member.seen != seen {
                tx.save_member(&member).await?;
            }
            Ok(count)
        };
        self.db.write(permit, acknowledge).await
    }

    /// The member that the actor is, which is heard of.
    async fn reader(&self, permit: &Permit) -> Result<Member, MessageError> {
        let actor = permit.actor();
        let member = self.db.member(&permit.to_read(), actor.name()).await?.filter(|member| !member.has_left());
        let member = member.ok_or_else(|| MemberError::NotJoined(actor.name().to_owned()))?;
        if !member.belongs_to(actor) {
            return Err(name_taken(member).into());
        }
        if !member.is_due(self.db.now().at) || *member.principal != *actor.principal {
            return Ok(member);
        }
        let actor = Arc::clone(actor);
        let hear = async move |tx: &mut Tx<'_>| {
            let mut member = joined_row(tx, &actor).await?;
            if hear_of(tx, &actor, &mut member) {
                tx.save_member(&member).await?;
            }
            Ok(member)
        };
        self.db.write(permit, hear).await
    }
}

/// The actor's row, who must be a member.
async fn joined_row(tx: &mut Tx<'_>, actor: &Actor) -> Result<Member, MessageError> {
    let member = own_row(tx, actor).await?.filter(|member| !member.has_left());
    Ok(member.ok_or_else(|| MemberError::NotJoined(actor.name().to_owned()))?)
}

/// Give a message its number, and its recipient the message.
async fn add(tx: &mut Tx<'_>, message: Message) -> Result<Sent, MessageError> {
    let message = Message { number: tx.number_message().await?, ..message };
    tx.add_message(&message).await?;
    let Message { number, at, sender, recipient, kind, reply_to, .. } = message;
    if let Some(recipient) = &recipient {
        tx.add_to_inbox(recipient, &[number]).await?;
    }
    let kind = EventKind::MessageSent { number, kind, sender, recipient: recipient.clone(), reply_to };
    tx.append(NewEvent { at, run: None, task: None, kind });
    Ok(Sent { number, recipient, is_repeated: false })
}

/// A message that can be sent, once it has a number.
async fn address(tx: &mut Tx<'_>, actor: &Actor, new: &NewMessage) -> Result<Message, MessageError> {
    let mut recipient = new.recipient.clone();
    if let Some(number) = new.reply_to {
        let about = tx.message_ends(number).await?.ok_or(MessageError::Unknown(number))?;
        if !actor.rights.operate && !about.can_be_seen_by(actor.name()) {
            return Err(MessageError::Unknown(number));
        }
        if new.kind == MessageKind::Response {
            recipient = recipient.or(Some(about.sender));
        }
    }
    if let Some(recipient) = &recipient
        && tx.count_inbox(recipient).await? >= INBOX_MAX
    {
        return Err(MessageError::InboxFull(recipient.clone()));
    }
    let NewMessage { kind, reply_to, body, key, .. } = new.clone();
    let (principal, sender) = (actor.principal.to_string(), actor.name().to_owned());
    Ok(Message { number: 0, at: tx.now(), principal, sender, recipient, kind, reply_to, key, body })
}

/// Acknowledge messages to the member and to all. Older messages to all that it skips are put in its inbox.
async fn acknowledge_each(tx: &mut Tx<'_>, member: &mut Member, numbers: &[i64]) -> Result<usize, MessageError> {
    let mut count = tx.remove_from_inbox(&member.name, numbers).await?;
    let read = tx.unread_to_all_among(member, numbers).await?;
    if let Some(newest) = read.iter().copied().max() {
        let mut skipped = tx.unread_to_all(member, newest, INBOX_MAX + numbers.len() + 1).await?;
        skipped.retain(|number| !read.contains(number));
        if tx.count_inbox(&member.name).await? + skipped.len() > INBOX_MAX {
            return Err(MessageError::SkipsTooMany);
        }
        tx.add_to_inbox(&member.name, &skipped).await?;
        count += read.len();
        member.seen = newest;
    }
    Ok(count)
}
