//! MCP tasks as rows.
//!
//! A task that has expired is not there for anybody, and then it is deleted. A hub whose clock is ahead must not take it
//! away from the others before, so it has expired when its time has passed for certain ([`Tx::surely_past`]).

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use super::{
    Db, DbError, Doing, Tx,
    error::failed,
    events::page,
    sql::{Cause, Row, Value, values},
    table::{Column, Table},
};
use crate::{
    Timestamp,
    mcp_task::{Holder, McpTask, McpTaskId, State},
    policy::{Call, Permit},
};

/// The columns of an MCP task, in the order of [`values_of`] and of [`from_row`].
const COLUMNS: [Column; 13] = [
    Column::fixed("id"),
    Column::fixed("principal"),
    Column::fixed("request"),
    Column::fixed("may_repeat"),
    Column::changing("attempt"),
    Column::changing("holder"),
    Column::changing("held_until"),
    Column::changing("state"),
    Column::changing("content"),
    Column::fixed("created"),
    Column::changing("updated"),
    Column::changing("expires"),
    Column::changing("bytes"), // to be added up, and not read back
];
static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new("mcp_task", &COLUMNS));

impl Tx<'_> {
    /// The task of this name.
    pub(crate) async fn mcp_task(&mut self, id: &McpTaskId) -> Result<Option<McpTask>, DbError> {
        let sql = TABLE.select("id = $2 and expires > $3");
        let values = values![self.namespace(), &id.0, self.surely_past().0];
        self.first(&sql, values, from_row).await.doing("load an MCP task")
    }

    /// How many tasks a principal has, and how many bytes they take.
    pub(crate) async fn count_mcp_tasks(&mut self, principal: &str) -> Result<(usize, usize), DbError> {
        let sql = "select count(*), cast(coalesce(sum(bytes), 0) as bigint) from mcp_task
             where namespace = $1 and principal = $2 and expires > $3";
        let read = |row: &Row<'_>| Ok((row.next::<i64>()?.try_into()?, row.next::<i64>()?.try_into()?));
        let values = values![self.namespace(), principal, self.surely_past().0];
        let count = self.first(sql, values, read).await;
        Ok(count.doing("count MCP tasks")?.unwrap_or_default())
    }

    /// Add a task.
    pub(crate) async fn add_mcp_task(&mut self, task: &McpTask) -> Result<(), DbError> {
        match self.insert(&TABLE, values_of(task)).await.doing("add an MCP task")? {
            true => Ok(()),
            false => Err(failed("add an MCP task", "there is one of this id already")),
        }
    }

    /// Save a task.
    pub(crate) async fn save_mcp_task(&mut self, task: &McpTask) -> Result<(), DbError> {
        self.update(&TABLE, &task.id.0, values_of(task)).await.doing("save an MCP task")
    }

    /// Renew those of these holds that are this holder's. Returns the tasks and their attempts.
    pub(crate) async fn hold_mcp_tasks(
        &mut self,
        holder: &Holder,
        ids: &[McpTaskId],
        until: Timestamp,
    ) -> Result<Vec<(McpTaskId, u32)>, DbError> {
        let any = self.sql.any(4);
        let sql = format!(
            "update mcp_task set held_until = $1
             where namespace = $2 and holder = $3 and id {any} and held_until is not null and expires > $5
             returning id, attempt"
        );
        let names: Vec<String> = ids.iter().map(|id| id.0.clone()).collect();
        let values = values![until.0, self.namespace(), &holder.0, names, self.surely_past().0];
        let read = |row: &Row<'_>| Ok((McpTaskId(row.next()?), row.next::<i64>()?.try_into()?));
        self.change(&sql, values, read).await.doing("hold MCP tasks")
    }

    /// Tasks whose hold has ended, the longest abandoned first. A hold lasts `hold`, so a task that is held for much
    /// longer was held before a clock was put back, and is abandoned, too.
    pub(crate) async fn abandoned_mcp_tasks(&mut self, hold: Duration, limit: usize) -> Result<Vec<McpTask>, DbError> {
        let now = self.scope.now;
        let (passed, latest) = (now.surely(), now.at.after(now.error).after(2 * hold));
        let sql = TABLE.select("(held_until <= $2 or held_until > $3) and expires > $4 order by held_until limit $5");
        let values = values![self.namespace(), passed.0, latest.0, passed.0, page(limit)];
        self.all(&sql, values, from_row).await.doing("find abandoned MCP tasks")
    }

    /// Delete expired tasks, at most `limit`. Returns how many were deleted.
    pub(crate) async fn delete_expired_mcp_tasks(&mut self, limit: usize) -> Result<usize, DbError> {
        let row = self.sql.row_id();
        let expired = format!("select {row} from mcp_task where namespace = $1 and expires <= $2 limit $3");
        let sql = format!("delete from mcp_task where {row} {} returning id", self.sql.among(&expired));
        let values = values![self.namespace(), self.surely_past().0, page(limit)];
        let gone = self.change(&sql, values, |_| Ok(())).await;
        Ok(gone.doing("delete expired MCP tasks")?.len())
    }
}

impl Db {
    /// A task of the actor's, as it is now; `None` also for one that has expired.
    pub async fn mcp_task(&self, permit: &Permit<Call>, id: &McpTaskId) -> Result<Option<McpTask>, DbError> {
        let passed = self.now().surely();
        let (principal, id) = (Arc::clone(&permit.actor().principal), id.0.clone());
        let sql = TABLE.select("id = $2 and principal = $3 and expires > $4");
        let tasks = self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(&sql, values![namespace, &id, &*principal, passed.0], from_row).await.doing("read an MCP task")
        });
        Ok(tasks.await?.pop())
    }
}

fn values_of(task: &McpTask) -> [Value<'_>; COLUMNS.len()] {
    [
        (&task.id.0).into(),
        (&task.principal).into(),
        (&task.request).into(),
        task.may_repeat.into(),
        task.attempt.into(),
        (&task.holder.0).into(),
        task.held_until.map(|until| until.0).into(),
        task.state.name().into(),
        task.state.content().into(),
        task.created.0.into(),
        task.updated.0.into(),
        task.expires.0.into(),
        i64::try_from(task.bytes()).unwrap_or(i64::MAX).into(),
    ]
}

fn from_row(row: &Row<'_>) -> Result<McpTask, Cause> {
    let (id, principal, request) = (McpTaskId(row.next()?), row.next()?, row.next()?);
    let (may_repeat, attempt, holder) = (row.next()?, row.next::<i64>()?.try_into()?, Holder(row.next()?));
    let held_until = row.next::<Option<i64>>()?.map(Timestamp);
    let (state, content): (String, Option<String>) = (row.next()?, row.next()?);
    let state = match (state.as_str(), content) {
        ("working", _) => State::Working,
        ("input_required", Some(content)) => State::InputRequired(content),
        ("completed", Some(content)) => State::Completed(content),
        ("failed", Some(content)) => State::Failed(content),
        ("cancelled", _) => State::Cancelled,
        _ => return Err("unknown state of an MCP task".into()),
    };
    let (created, updated, expires) = (Timestamp(row.next()?), Timestamp(row.next()?), Timestamp(row.next()?));
    Ok(McpTask { id, principal, request, may_repeat, attempt, holder, held_until, state, created, updated, expires })
}
