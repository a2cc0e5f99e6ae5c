//! Messages and inboxes as rows.

use std::{collections::BTreeMap, sync::LazyLock};

use super::{
    Db, DbError, Doing, Tx, blobs,
    error::failed,
    sql::{Cause, Row, Select, Sql, Value, values},
    steps::kept,
    table::{Column, Table},
};
use crate::{
    Timestamp,
    limits::PAGE_MAX,
    member::Member,
    message::{Ends, Message, MessageKind},
    page::{self, LOOKED_AT_MAX, Page, Start, Stretch},
    policy::{Operate, Permit, Read},
};

/// The columns of a message, in the order of [`values_of`] and of [`from_row`].
const COLUMNS: [Column; 10] = [
    Column::fixed("number"),
    Column::fixed("at"),
    Column::fixed("principal"),
    Column::fixed("sender"),
    Column::fixed("recipient"),
    Column::fixed("kind"),
    Column::fixed("reply_to"),
    Column::fixed("key"),
    Column::fixed("size"), // to be added up, and not read back
    Column::fixed("body").json(),
];
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new("message", &COLUMNS));

/// The messages to all that a member has not seen, after `$2` and up to `$3`; `$4` is its name.
const TO_ALL: &str = "from message where namespace = $1 and recipient is null and number > $2 and number <= $3
     and sender <> $4 order by number limit $5";

/// What is known of a message before it is read.
struct Head {
    number: i64,
    kind: String,
    bytes: usize,
}

impl Tx<'_> {
    /// The number of the last message.
    pub(crate) async fn last_message(&mut self) -> Result<i64, DbError> {
        let sql = "select last_message from namespace where id = $1";
        let last = self.first(sql, values![self.namespace()], |row| row.next()).await;
        Ok(last.doing("read a number")?.unwrap_or(0))
    }

    /// The number of the next message.
    pub(crate) async fn number_message(&mut self) -> Result<i64, DbError> {
        Ok(self.take_numbers("last_message", 1).await.doing("number a message")? + 1)
    }

    /// Add a message.
    pub(crate) async fn add_message(&mut self, message: &Message) -> Result<(), DbError> {
        match self.insert(&TABLE, values_of(message)).await.doing("add a message")? {
            true => Ok(()),
            false => Err(failed("add a message", "there is one of this number or key already")),
        }
    }

    /// The message that a principal has sent with this key.
    pub(crate) async fn message_of_key(&mut self, principal: &str, key: &str) -> Result<Option<Message>, DbError> {
        let sql = TABLE.select("principal = $2 and key = $3");
        self.first(&sql, values![self.namespace(), principal, key], from_row).await.doing("look for a message")
    }

    /// From whom a message is, and to whom.
    pub(crate) async fn message_ends(&mut self, number: i64) -> Result<Option<Ends>, DbError> {
        let sql = "select sender, recipient from message where namespace = $1 and number = $2";
        let read = |row: &Row<'_>| Ok(Ends { sender: row.next()?, recipient: row.next()? });
        self.first(sql, values![self.namespace(), number], read).await.doing("look for a message")
    }

    /// Delete the first messages that are older than this, some of them. Whether there may be more. Nobody can read them any more,
    /// so they are not unread, either.
    pub(crate) async fn delete_old_messages(&mut self, before: Timestamp) -> Result<bool, DbError> {
        let Some((to, is_full)) = self.first_old("message", before).await? else { return Ok(false) };
        let (doing, namespace) = ("delete old messages", self.namespace());
        let inbox = "delete from inbox where namespace = $1 and number <= $2";
        self.execute(inbox, values![namespace, to]).await.doing(doing)?;
        let sql =
            format!("delete from message where namespace = $1 and number <= $2 returning {}", TABLE.blobs_listed());
        let named = self.change(&sql, values![namespace, to], |row| blobs::hashes(&TABLE, row)).await.doing(doing)?;
        self.delete_unnamed_blobs(named.concat()).await?;
        self.begin_after("message", to).await?;
        Ok(is_full)
    }

    /// How many messages are in an inbox.
    pub(crate) async fn count_inbox(&mut self, agent: &str) -> Result<usize, DbError> {
        let sql = "select count(*) from inbox where namespace = $1 and agent = $2";
        let read = |row: &Row<'_>| Ok(row.next::<i64>()?.try_into()?);
        let count = self.first(sql, values![self.namespace(), agent], read).await;
        Ok(count.doing("count messages")?.unwrap_or(0))
    }

    /// Put messages in an inbox.
    pub(crate) async fn add_to_inbox(&mut self, agent: &str, numbers: &[i64]) -> Result<(), DbError> {
        let sql = "insert into inbox (namespace, agent, number) values ($1, $2, $3)";
        for number in numbers {
            self.execute(sql, values![self.namespace(), agent, *number]).await.doing("deliver a message")?;
        }
        Ok(())
    }

    /// Remove messages from an inbox, all up to a number. Returns how many there were.
    pub(crate) async fn clear_inbox(&mut self, agent: &str, up_to: i64) -> Result<usize, DbError> {
        let sql = "delete from inbox where namespace = $1 and agent = $2 and number <= $3 returning number";
        let gone = self.change(sql, values![self.namespace(), agent, up_to], |_| Ok(())).await;
        Ok(gone.doing("acknowledge messages")?.len())
    }

    /// Remove these messages from an inbox. Returns how many were there.
    pub(crate) async fn remove_from_inbox(&mut self, agent: &str, numbers: &[i64]) -> Result<usize, DbError> {
        let any = self.sql.any(3);
        let sql = format!("delete from inbox where namespace = $1 and agent = $2 and number {any} returning number");
        let gone = self.change(&sql, values![self.namespace(), agent, numbers.to_vec()], |_| Ok(())).await;
        Ok(gone.doing("acknowledge messages")?.len())
    }

    /// The first messages to all that a member has not seen, up to a number.
    pub(crate) async fn unread_to_all(
        &mut self,
        member: &Member,
        up_to: i64,
        limit: usize,
    ) -> Result<Vec<i64>, DbError> {
        let sql = format!("select number {TO_ALL}");
        let values =
            values![self.namespace(), member.seen, up_to, &member.name, i64::try_from(limit).unwrap_or(i64::MAX)];
        self.all(&sql, values, |row| row.next()).await.doing("look for messages to all")
    }

    /// Those of these numbers that are of messages to all that a member has not seen.
    pub(crate) async fn unread_to_all_among(&mut self, member: &Member, numbers: &[i64]) -> Result<Vec<i64>, DbError> {
        let any = self.sql.any(2);
        let sql = format!(
            "select number from message where namespace = $1 and number {any} and recipient is null and number > $3
                and sender <> $4"
        );
        let values = values![self.namespace(), numbers.to_vec(), member.seen, &member.name];
        self.all(&sql, values, |row| row.next()).await.doing("look for messages to all")
    }
}

impl Db {
    /// A page of what a member has not acknowledged after a number, of these kinds, or of all if there are none.
    pub(crate) async fn unread_messages(
        &self,
        permit: &Permit<Read>,
        member: &Member,
        after: i64,
        kinds: &[MessageKind],
        limit: usize,
    ) -> Result<Page<Message>, DbError> {
        let (name, seen, limit) = (member.name.clone(), member.seen, limit.clamp(1, PAGE_MAX));
        let kinds: Vec<&'static str> = kinds.iter().map(|kind| kind.name()).collect();
        // Without a filter, one more than are wanted says whether there are others.
        let most = if kinds.is_empty() { limit + 1 } else { LOOKED_AT_MAX };
        let page = self.read_in(permit.namespace(), async move |db, namespace| {
            let heads = unread(db, namespace, (&name, seen), after, most).await.doing("look for messages")?;
            let horizon = heads.horizon;
            let wanted = |head: &Head| kinds.is_empty() || kinds.contains(&&*head.kind);
            let last = heads.all.last().map_or(after, |head| head.number);
            let found: Vec<Head> = heads.all.into_iter().filter(wanted).collect();
            let (chosen, is_cut) = choose(found, limit);
            let to = if is_cut { chosen.last().copied() } else { horizon }.unwrap_or(last);
            let rows = fetch(db, namespace, chosen).await.doing("read messages")?;
            Ok(Some(Page { rows, next: Start::After(to), has_more: is_cut || horizon.is_some(), first: None }))
        });
        let nothing = Page { rows: Vec::new(), next: Start::After(after), has_more: false, first: None };
        Ok(page.await?.unwrap_or(nothing))
    }

    /// A page of the messages that an agent can see, of these kinds, or of all if there are none.
    pub(crate) async fn visible_messages(
        &self,
        permit: &Permit<Read>,
        name: &str,
        start: Start,
        kinds: &[MessageKind],
        limit: usize,
    ) -> Result<Page<Message>, DbError> {
        self.message_page(permit, Some(name), start, kinds, limit).await
    }

    /// A page of the messages of a workspace, whoever they are to, of these kinds, or of all if there are none.
    pub async fn messages(
        &self,
        permit: &Permit<Operate>,
        start: Start,
        kinds: &[MessageKind],
        limit: usize,
    ) -> Result<Page<Message>, DbError> {
        self.message_page(permit, None, start, kinds, limit).await
    }

    async fn message_page<R>(
        &self,
        permit: &Permit<R>,
        name: Option<&str>,
        start: Start,
        kinds: &[MessageKind],
        limit: usize,
    ) -> Result<Page<Message>, DbError> {
        let (name, limit) = (name.map(str::to_owned), limit.clamp(1, PAGE_MAX));
        let kinds = if kinds.is_empty() { MessageKind::ALL.to_vec() } else { kinds.to_vec() };
        let page = self.read_in(permit.namespace(), async move |db, namespace| {
            let kept = kept(db, namespace, "message").await.doing("look for messages")?;
            let Stretch { low, high } = start.stretch(kept);
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            let mut values = values![namespace, low, high, names].to_vec();
            let is_visible =
                if name.is_some() { "and (recipient is null or recipient = $5 or sender = $6)" } else { "" };
            values.extend(name.iter().chain(&name).map(Value::from));
            let sql = format!(
                "select number, kind, size from message where namespace = $1 and number >= $2 and number <= $3
                    and kind {} {is_visible} {} limit {limit}",
                db.any(4),
                start.order(),
            );
            let heads = db.all(&sql, &values, head_from_row).await.doing("look for messages")?;
            let page = start.page(kept, heads, limit, |head| (head.number, head.bytes));
            let numbers = page.rows.iter().map(|head| head.number).collect();
            let rows = fetch(db, namespace, numbers).await.doing("read messages")?;
            Ok(Some(Page { rows, next: page.next, has_more: page.has_more, first: page.first }))
        });
        let none = || start.page::<Message>(page::Kept::default(), Vec::new(), limit, |message| (message.number, 0));
        Ok(page.await?.unwrap_or_else(none))
    }
}

/// What a member has not acknowledged.
struct Unread {
    /// In ascending order.
    all: Vec<Head>,
    /// There may be others after this number.
    horizon: Option<i64>,
}

/// The first messages that a member has not acknowledged, after a number: those in its inbox, and those to all that it has
/// not seen; of each, at most so many.
async fn unread(
    db: &mut Sql<'_>,
    namespace: i64,
    (name, seen): (&str, i64),
    after: i64,
    most: usize,
) -> Result<Unread, Cause> {
    let limit = i64::try_from(most)?;
    let inbox = "select number,
            (select kind from message m where m.namespace = inbox.namespace and m.number = inbox.number),
            (select size from message m where m.namespace = inbox.namespace and m.number = inbox.number)
         from inbox where namespace = $1 and agent = $2 and number > $3 order by number limit $4";
    let to_all = format!("select number, kind, size {TO_ALL}");
    let (inbox, to_all) = db
        .both(
            Select { sql: inbox, values: values![namespace, name, after, limit], read: head_from_row },
            Select {
                sql: &to_all,
                values: values![namespace, after.max(seen), i64::MAX, name, limit],
                read: head_from_row,
            },
        )
        .await?;
    let horizons = [&inbox, &to_all].map(|heads| heads.last().filter(|_| heads.len() >= most).map(|head| head.number));
    let horizon = horizons.into_iter().flatten().min();
    // By number: an acknowledgement between the two statements may have moved one from here to there.
    let all: BTreeMap<i64, Head> = inbox.into_iter().chain(to_all).map(|head| (head.number, head)).collect();
    let is_within = |head: &Head| horizon.is_none_or(|horizon| head.number <= horizon);
    Ok(Unread { all: all.into_values().filter(is_within).collect(), horizon })
}

/// The numbers of the first messages, as many as fit in a page, and whether that leaves others.
fn choose(found: Vec<Head>, limit: usize) -> (Vec<i64>, bool) {
    let (count, mut bytes) = (found.len(), 0);
    let mut fits = |n: usize, head: &Head| {
        bytes += head.bytes;
        n < limit && (n == 0 || bytes <= page::BYTES_MAX)
    };
    let chosen: Vec<i64> =
        found.iter().enumerate().take_while(|(n, head)| fits(*n, head)).map(|(_, head)| head.number).collect();
    let is_cut = chosen.len() < count;
    (chosen, is_cut)
}

/// The messages of these numbers.
async fn fetch(db: &mut Sql<'_>, namespace: i64, numbers: Vec<i64>) -> Result<Vec<Message>, Cause> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let sql = TABLE.select(&format!("number {} order by number", db.any(2)));
    db.all(&sql, values![namespace, numbers], from_row).await
}

fn values_of(message: &Message) -> [Value<'_>; COLUMNS.len()] {
    [
        message.number.into(),
        message.at.0.into(),
        (&message.principal).into(),
        (&message.sender).into(),
        message.recipient.as_ref().into(),
        message.kind.name().into(),
        message.reply_to.into(),
        message.key.as_ref().into(),
        i64::try_from(message.body.as_str().len()).unwrap_or(i64::MAX).into(),
        (&message.body).into(),
    ]
}

fn from_row(row: &Row<'_>) -> Result<Message, Cause> {
    let (number, at, principal, sender) = (row.next()?, Timestamp(row.next()?), row.next()?, row.next()?);
    let recipient = row.next()?;
    let kind = MessageKind::from_name(row.next_text()?.unwrap_or_default()).ok_or("unknown kind of a message")?;
    let (reply_to, key, _size) = (row.next()?, row.next()?, row.next::<i64>()?);
    let body = row.next_value()?.ok_or("a message without a body")?;
    Ok(Message { number, at, principal, sender, recipient, kind, reply_to, key, body })
}

fn head_from_row(row: &Row<'_>) -> Result<Head, Cause> {
    Ok(Head { number: row.next()?, kind: row.next()?, bytes: row.next::<i64>()?.try_into()? })
}
