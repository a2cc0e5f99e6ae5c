//! Members of workspaces as rows.

use std::{sync::LazyLock, time::Duration};

use super::{
    Db, DbError, Doing, Tx,
    events::page,
    sql::{self, Cause, Row, Value, values},
    table::{Column, Table},
};
use crate::{
    Timestamp,
    limits::{INBOX_MAX, MEMBER_KEPT, MEMBERS_MAX, PAGE_MAX},
    member::{Member, Unread},
    policy::{Permit, Read},
};

/// The columns of a member, in the order of [`values_of`] and of [`from_row`].
const COLUMNS: [Column; 7] = [
    Column::fixed("id"),
    Column::fixed("principal"),
    Column::changing("role"),
    Column::changing("joined"),
    Column::changing("ttl"),
    Column::changing("until"),
    Column::changing("seen"),
];
static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new("member", &COLUMNS));

impl Tx<'_> {
    /// The row of this name: of a member, or of one that has left.
    pub(crate) async fn member(&mut self, name: &str) -> Result<Option<Member>, DbError> {
        self.first(TABLE.load(), values![self.namespace(), name], from_row).await.doing("load a member")
    }

    /// Add a member.
    pub(crate) async fn add_member(&mut self, member: &Member) -> Result<(), DbError> {
        self.insert(&TABLE, values_of(member)).await.doing("add a member").map(drop)
    }

    /// Save a member.
    pub(crate) async fn save_member(&mut self, member: &Member) -> Result<(), DbError> {
        self.update(&TABLE, &member.name, values_of(member)).await.doing("save a member")
    }

    /// How many rows there are, with those that have left.
    pub(crate) async fn count_members(&mut self) -> Result<usize, DbError> {
        let sql = "select count(*) from member where namespace = $1";
        let read = |row: &Row<'_>| Ok(row.next::<i64>()?.try_into()?);
        let count = self.first(sql, values![self.namespace()], read).await;
        Ok(count.doing("count members")?.unwrap_or(0))
    }

    /// Delete one that has left, or else the one that has been away the longest if that is for more than
    /// [`MEMBER_KEPT`], but none with messages in its inbox. Whether there was one.
    pub(crate) async fn delete_absent_member(&mut self) -> Result<bool, DbError> {
        let has_nothing =
            sql::none("select 1 from inbox where inbox.namespace = member.namespace and inbox.agent = member.id");
        let sql = format!(
            "delete from member where namespace = $1 and id = (
                select id from member where namespace = $2 and (until is null or until < $3) and {has_nothing}
                order by coalesce(until, 0), id limit 1)"
        );
        let values = values![self.namespace(), self.namespace(), self.surely_past().before(MEMBER_KEPT).0];
        self.has_changed(&sql, values).await.doing("make room for a member")
    }

    /// Delete members that have left or been away since then, and have no messages in their inboxes.
    pub(crate) async fn delete_old_members(&mut self, before: Timestamp) -> Result<(), DbError> {
        let has_nothing =
            sql::none("select 1 from inbox where inbox.namespace = member.namespace and inbox.agent = member.id");
        // When one left is not known, but it had joined before.
        let sql = format!(
            "delete from member where namespace = $1 and joined < $2 and coalesce(until, joined) < $3 and {has_nothing}"
        );
        let values = values![self.namespace(), before.0, before.0];
        self.execute(&sql, values).await.doing("delete members that are away")
    }
}

impl Db {
    /// The row of this name: of a member, or of one that has left.
    pub(crate) async fn member(&self, permit: &Permit<Read>, name: &str) -> Result<Option<Member>, DbError> {
        let name = name.to_owned();
        let members = self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(TABLE.load(), values![namespace, &name], from_row).await.doing("read a member")
        });
        Ok(members.await?.pop())
    }

    /// The members of a workspace, present or away, by name: at most [`MEMBERS_MAX`].
    pub async fn members(&self, permit: &Permit<Read>) -> Result<Vec<Member>, DbError> {
        let sql = TABLE.select("until is not null order by id limit $2");
        self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(&sql, values![namespace, page(MEMBERS_MAX)], from_row).await.doing("read the members")
        })
        .await
    }

    /// Where in the permit's team an agent of this name is a member, present or away: the names of workspaces, empty for the team
    /// itself. At most [`PAGE_MAX`].
    pub async fn memberships(&self, permit: &Permit<Read>, name: &str) -> Result<Vec<(String, Member)>, DbError> {
        let sql = "select n.workspace, m.id, m.principal, m.role, m.joined, m.ttl, m.until, m.seen
             from namespace n join member m on m.namespace = n.id
             where n.team = $1 and m.id = $2 and m.until is not null order by n.workspace limit $3";
        let (team, name) = (permit.actor().team.clone(), name.to_owned());
        let read = |row: &Row<'_>| Ok((row.next::<String>()?, from_row(row)?));
        self.read(async move |db| {
            let values = values![&*team.team, &name, page(PAGE_MAX)];
            db.all(sql, values, read).await.doing("read where an agent is a member")
        })
        .await
    }

    /// How many messages the member of this name has not acknowledged. None, if there is no such member.
    pub async fn unread(&self, permit: &Permit<Read>, name: &str) -> Result<Unread, DbError> {
        let sql = "select
                (select count(*) from inbox where namespace = $1 and agent = $2),
                (select count(*) from (
                    select 1 from message where namespace = $3 and recipient is null
                        and number > (select seen from member where namespace = $4 and id = $5) and sender <> $6
                    limit $7) as unread)";
        let name = name.to_owned();
        let read = |row: &Row<'_>| {
            let number = || Ok::<u64, Cause>(row.next::<i64>()?.try_into()?);
            Ok(Unread { inbox: number()?, to_all: number()? })
        };
        let unread = self.read_in(permit.namespace(), async move |db, namespace| {
            let counted_max = i64::try_from(INBOX_MAX).unwrap_or(i64::MAX);
            let values = values![namespace, &name, namespace, namespace, &name, &name, counted_max];
            db.all(sql, values, read).await.doing("count messages")
        });
        Ok(unread.await?.pop().unwrap_or_default())
    }
}

fn values_of(member: &Member) -> [Value<'_>; COLUMNS.len()] {
    [
        (&member.name).into(),
        (&member.principal).into(),
        member.role.as_ref().into(),
        member.joined.0.into(),
        i64::try_from(member.ttl.as_micros()).unwrap_or(i64::MAX).into(),
        member.until.map(|until| until.0).into(),
        member.seen.into(),
    ]
}

fn from_row(row: &Row<'_>) -> Result<Member, Cause> {
    let (name, principal, role, joined) = (row.next()?, row.next()?, row.next()?, Timestamp(row.next()?));
    let ttl = Duration::from_micros(row.next::<i64>()?.try_into()?);
    Ok(Member {
        name,
        principal,
        role,
        joined,
        ttl,
        until: row.next::<Option<i64>>()?.map(Timestamp),
        seen: row.next()?,
    })
}
