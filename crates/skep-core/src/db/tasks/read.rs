//! Tasks as they are now, for those who only look: one, a page of a run's, how many are in which state.

use super::{IS_EXPIRED, TABLE, from_row, unknown_state};
use crate::{
    db::{
        Db, DbError, Doing,
        events::page,
        sql::{Cause, Row, values},
    },
    policy::{Permit, Read},
    run::RunId,
    task::{Summary, Task, TaskId},
};

/// How many tasks of a run are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// Not started, or waiting for a retry.
    pub pending: u64,
    /// Held by workers.
    pub in_progress: u64,
    /// Completed.
    pub completed: u64,
    /// Failed for good.
    pub failed: u64,
    /// Failed for good, and that was allowed.
    pub failed_allowed: u64,
    /// Never to start, because something that they depend on ended without success.
    pub blocked: u64,
    /// Cancelled.
    pub cancelled: u64,
}

/// A page of the tasks of a run, after the one that is named by its position and its id.
const PAGE_OF_RUN: &str = "run = $2 and (position, id) > ($3, $4) order by position, id limit $5";

impl Db {
    /// The task of this name, as it is now.
    pub async fn task(&self, permit: &Permit<Read>, id: &TaskId) -> Result<Option<Task>, DbError> {
        let TaskId(id) = id.clone();
        let tasks = self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(TABLE.load(), values![namespace, &id], from_row).await.doing("read a task")
        });
        Ok(tasks.await?.pop())
    }

    /// Whether there is something for [`crate::app::App::expire_tasks`] to do.
    pub async fn has_expired(&self, permit: &Permit<Read>) -> Result<bool, DbError> {
        let (sql, passed) = (format!("select 1 from task where namespace = $1 and {IS_EXPIRED} limit 1"), self.now());
        self.read_in(permit.namespace(), async move |db, namespace| {
            let found = db.all(&sql, values![namespace, passed.surely().0], |_| Ok(())).await;
            Ok(!found.doing("look for tasks whose deadline has passed")?.is_empty())
        })
        .await
    }

    /// The tasks of a run in the order of their declaration: at most `limit`, and never more than
    /// [`crate::limits::PAGE_MAX`]. The next page begins `after` the last task of this one, which is named by its
    /// position and its id.
    pub async fn tasks_of(
        &self,
        permit: &Permit<Read>,
        run: &RunId,
        after: Option<(u32, TaskId)>,
        limit: usize,
    ) -> Result<Vec<Task>, DbError> {
        self.page_of_tasks(TABLE.select(PAGE_OF_RUN), permit, run, after, limit, from_row).await
    }

    /// The same tasks without what may be large.
    pub async fn task_summaries(
        &self,
        permit: &Permit<Read>,
        run: &RunId,
        after: Option<(u32, TaskId)>,
        limit: usize,
    ) -> Result<Vec<Summary>, DbError> {
        let sql = format!(
            "select id, step, position, state not in ('pending', 'in_progress') from task where namespace = $1 and {PAGE_OF_RUN}"
        );
        let read = |row: &Row<'_>| {
            let (id, step, position) = (TaskId(row.next()?), row.next()?, row.next::<i64>()?.try_into()?);
            Ok(Summary { id, step, position, is_over: row.next()? })
        };
        self.page_of_tasks(sql, permit, run, after, limit, read).await
    }

    async fn page_of_tasks<T: Send + 'static>(
        &self,
        sql: String,
        permit: &Permit<Read>,
        run: &RunId,
        after: Option<(u32, TaskId)>,
        limit: usize,
        read: impl Fn(&Row<'_>) -> Result<T, Cause> + Send + 'static,
    ) -> Result<Vec<T>, DbError> {
        let RunId(run) = run.clone();
        let (position, id) = after.map_or((-1, String::new()), |(position, TaskId(id))| (i64::from(position), id));
        self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(&sql, values![namespace, &run, position, &id, page(limit)], read).await.doing("read tasks")
        })
        .await
    }

    /// How many tasks of a run are in which state.
    pub async fn count_tasks(&self, permit: &Permit<Read>, run: &RunId) -> Result<TaskCounts, DbError> {
        self.counts(permit, Some(run.clone())).await
    }

    pub(super) async fn counts(&self, permit: &Permit<Read>, run: Option<RunId>) -> Result<TaskCounts, DbError> {
        let rows = self.read_in(permit.namespace(), async move |db, namespace| {
            let read = |row: &Row<'_>| Ok((row.next::<String>()?, row.next()?, row.next::<i64>()?));
            let counted = match run {
                Some(RunId(run)) => {
                    let sql = "select state, allow_failure, count(*) from task where namespace = $1 and run = $2
                         group by state, allow_failure";
                    db.all(sql, values![namespace, &run], read).await
                }
                None => {
                    let sql = "select state, allow_failure, count(*) from task where namespace = $1
                         group by state, allow_failure";
                    db.all(sql, values![namespace], read).await
                }
            };
            counted.doing("count tasks")
        });
        let mut counts = TaskCounts::default();
        for (state, allow_failure, count) in rows.await? {
            let place = counts.of(&state, allow_failure).ok_or_else(|| unknown_state(&state));
            *place.doing("count tasks")? += u64::try_from(count).doing("count tasks")?;
        }
        Ok(counts)
    }
}

impl TaskCounts {
    /// How many there are.
    pub fn all(&self) -> u64 {
        let over = self.completed + self.failed + self.failed_allowed + self.blocked + self.cancelled;
        self.pending + self.in_progress + over
    }

    fn of(&mut self, state: &str, allow_failure: bool) -> Option<&mut u64> {
        match state {
            "pending" => Some(&mut self.pending),
            "in_progress" => Some(&mut self.in_progress),
            "completed" => Some(&mut self.completed),
            "failed" if allow_failure => Some(&mut self.failed_allowed),
            "failed" => Some(&mut self.failed),
            "blocked" => Some(&mut self.blocked),
            "cancelled" => Some(&mut self.cancelled),
            _ => None,
        }
    }
}
