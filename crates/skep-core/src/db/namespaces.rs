//! Namespaces as rows: a number for each name, which leads the key of everything in it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    Db, DbError, Doing, Sql, Tx,
    events::page,
    sql::{Cause, Row, values},
};
use crate::{
    Namespace,
    limits::PAGE_MAX,
    policy::{Permit, Read},
};

/// The numbers of namespaces, as far as this process has met them. They never change.
#[derive(Debug, Default)]
pub(super) struct Namespaces(Mutex<HashMap<Namespace, i64>>);

const FIND: &str = "select id from namespace where team = $1 and workspace = $2";

impl Namespaces {
    /// Lock a namespace until the transaction ends, and make it if it is new. Returns its number.
    pub(super) async fn lock(&self, sql: &mut Sql<'_>, namespace: &Namespace) -> Result<i64, Cause> {
        let id = match self.known(namespace) {
            Some(id) => id,
            None => {
                let add = "insert into namespace (team, workspace) values ($1, $2)
                     on conflict (team, workspace) do nothing";
                sql.execute(add, values![&*namespace.team, &*namespace.workspace]).await?;
                find(sql, namespace).await?.ok_or("a namespace that was just added is missing")?
            }
        };
        sql.lock_namespace(id).await?;
        Ok(id)
    }

    /// The number of a namespace, if there is one.
    pub(super) async fn find(&self, sql: &mut Sql<'_>, namespace: &Namespace) -> Result<Option<i64>, Cause> {
        if let Some(id) = self.known(namespace) {
            return Ok(Some(id));
        }
        let found = find(sql, namespace).await?;
        self.remember(found.map(|id| (namespace.clone(), id)));
        Ok(found)
    }

    /// Remember numbers that are committed.
    pub(super) fn remember(&self, namespaces: impl IntoIterator<Item = (Namespace, i64)>) {
        let mut known = self.all();
        for (namespace, id) in namespaces {
            known.entry(namespace).or_insert(id);
        }
    }

    /// The number of a namespace, if it is known without asking.
    pub(super) fn known(&self, namespace: &Namespace) -> Option<i64> {
        self.all().get(namespace).copied()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Namespace, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tx<'_> {
    /// The next numbers of a counter of the namespace, `last_step` or another one. Returns the one before the first.
    pub(super) async fn take_numbers(&mut self, counter: &str, count: usize) -> Result<i64, Cause> {
        let count = i64::try_from(count)?;
        let sql = format!("update namespace set {counter} = {counter} + $1 where id = $2 returning {counter}");
        let last = self.change(&sql, values![count, self.namespace()], |row| row.next::<i64>()).await?;
        Ok(last.first().ok_or("the namespace is missing")? - count)
    }
}

/// How much agents share, in all workspaces of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedSize {
    /// Revisions of files.
    pub revisions: u64,
    /// Bytes of their contents; what several have in common is counted for each, and stored once.
    pub revision_bytes: u64,
    /// Steps.
    pub steps: u64,
    /// Messages.
    pub messages: u64,
    /// Bytes of what they say.
    pub message_bytes: u64,
    /// Bytes of the keys and values of memory entries.
    pub memory_bytes: u64,
}

impl Db {
    /// How much agents share. This counts rows, so it takes the longer the more there are.
    pub async fn shared_size(&self) -> Result<SharedSize, DbError> {
        let sql =
            "select (select count(*) from revision), (select cast(coalesce(sum(size), 0) as bigint) from revision),
                (select count(*) from step), (select count(*) from message),
                (select cast(coalesce(sum(size), 0) as bigint) from message),
                (select cast(coalesce(sum(memory_bytes), 0) as bigint) from namespace)";
        let read = |row: &Row<'_>| {
            let number = || Ok::<u64, Cause>(row.next::<i64>()?.try_into()?);
            let (revisions, revision_bytes, steps) = (number()?, number()?, number()?);
            let (messages, message_bytes, memory_bytes) = (number()?, number()?, number()?);
            Ok(SharedSize { revisions, revision_bytes, steps, messages, message_bytes, memory_bytes })
        };
        let sizes = self.read(async move |db| db.all(sql, &[], read).await.doing("measure what agents share")).await?;
        Ok(sizes.into_iter().next().unwrap_or_default())
    }

    /// The names of the workspaces of the actor's team, in the order in which they were made.
    pub async fn workspaces(&self, permit: &Permit<Read>) -> Result<Vec<String>, DbError> {
        let (mut names, mut after) = (Vec::new(), 0);
        loop {
            let page = self.namespaces_of(&permit.actor().team, after).await?;
            let Some((last, _)) = page.last() else { return Ok(names) };
            after = *last;
            let named = page.iter().map(|(_, namespace)| &*namespace.workspace).filter(|name| !name.is_empty());
            names.extend(named.map(str::to_owned));
        }
    }

    /// The namespaces of a team, its own and those of its workspaces, each with its number: a page of those after a number.
    pub(crate) async fn namespaces_of(&self, team: &Namespace, after: i64) -> Result<Vec<(i64, Namespace)>, DbError> {
        let team = team.clone();
        self.read(async move |sql| {
            let select = "select id, workspace from namespace where team = $1 and id > $2 order by id limit $3";
            let values = values![&*team.team, after, page(PAGE_MAX)];
            let read = |row: &Row<'_>| {
                let (id, workspace): (i64, String) = (row.next()?, row.next()?);
                Ok((id, Namespace { team: team.team.clone(), workspace: workspace.into() }))
            };
            sql.all(select, values, read).await.doing("list the namespaces of a team")
        })
        .await
    }
}

async fn find(sql: &mut Sql<'_>, namespace: &Namespace) -> Result<Option<i64>, Cause> {
    let found = sql.all(FIND, values![&*namespace.team, &*namespace.workspace], |row: &Row<'_>| row.next()).await?;
    Ok(found.into_iter().next())
}
