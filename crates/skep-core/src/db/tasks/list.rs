//! Lists of tasks: those that fit a filter, page by page.

use super::{TABLE, from_row, read::TaskCounts};
use crate::{
    db::{
        Db, DbError, Doing,
        events::page,
        sql::{Cause, Row, Sql, Value, values},
    },
    limits::TASKS_LOOKED_AT_MAX,
    memory::{Query, end_of_prefix},
    policy::{Permit, Read},
    run::RunId,
    task::{Priority, Task, TaskId, WorkerId},
};

const LOOKED_AT_MAX: i64 = TASKS_LOOKED_AT_MAX as i64;

/// Which tasks are wanted: those that fit in every respect that is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskFilter {
    /// Those in one of these states, by their names; in any, if there are none.
    pub states: Vec<String>,
    /// Those of this queue.
    pub queue: Option<String>,
    /// Those of this priority.
    pub priority: Option<Priority>,
    /// Those of this run.
    pub run: Option<RunId>,
    /// Those that this worker has in progress.
    pub worker: Option<WorkerId>,
    /// Those of this type.
    pub kind: Option<String>,
    /// Those that are parts of this one.
    pub parent: Option<TaskId>,
    /// Those that have this label.
    pub label: Option<String>,
    /// Those that have all of these words in their title and description.
    pub query: Option<Query>,
}

/// Some of the tasks, in descending order of their ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskPage {
    /// The tasks that fit the filter. Large inputs and results are empty texts.
    pub tasks: Vec<Task>,
    /// Where the next page begins, if there may be one: at tasks whose ids come before this.
    pub next: Option<TaskId>,
}

impl TaskFilter {
    /// Its conditions, whose values are numbered from the one after those that there are.
    fn conditions(&self, sql: &Sql<'_>, values: &mut Vec<Value<'static>>) -> String {
        let mut text = String::new();
        let mut add = |condition: &dyn Fn(u32) -> String, value: Value<'static>| {
            values.push(value);
            text += " and ";
            text += &condition(u32::try_from(values.len()).unwrap_or(u32::MAX));
        };
        if !self.states.is_empty() {
            add(&|n| format!("state {}", sql.any(n)), self.states.clone().into());
        }
        let columns = [
            ("queue", self.queue.clone()),
            ("run", self.run.clone().map(|run| run.0)),
            ("worker", self.worker.clone().map(|worker| worker.0)),
        ];
        for (column, value) in columns {
            if let Some(value) = value {
                add(&|n| format!("{column} = ${n}"), Value::Text(value.into()));
            }
        }
        if let Some(priority) = self.priority {
            add(&|n| format!("priority = ${n}"), priority.number().into());
        }
        let of_details = |column: &'static str, more: &'static str, table: &'static str| {
            move |n: u32| {
                format!(
                    "exists (select 1 from {table} d where d.namespace = task.namespace and d.id = task.id {more}
                        and d.{column} = ${n})"
                )
            }
        };
        if let Some(kind) = self.kind.clone() {
            add(&of_details("kind", "", "task_detail"), Value::Text(kind.into()));
        }
        if let Some(TaskId(parent)) = self.parent.clone() {
            add(&of_details("parent", "", "task_detail"), Value::Text(parent.into()));
        }
        if let Some(label) = self.label.clone() {
            add(&of_details("tag", "and d.kind = 'label'", "task_tag"), Value::Text(label.into()));
        }
        if let Some(Query { whole, prefix }) = self.query.clone() {
            let has = |condition: String| {
                format!(
                    "exists (select 1 from task_word w where w.namespace = task.namespace and w.id = task.id
                        and w.word {condition})"
                )
            };
            let end = end_of_prefix(&prefix);
            for word in whole {
                add(&|n| has(format!("= ${n}")), Value::Text(word.into()));
            }
            match end {
                None => add(&|n| has(format!(">= ${n}")), Value::Text(prefix.into())),
                // Both ends are about one word.
                Some(end) => {
                    values.push(Value::Text(prefix.into()));
                    values.push(Value::Text(end.into()));
                    let n = values.len();
                    text += " and ";
                    text += &has(format!(">= ${} and w.word < ${n}", n - 1));
                }
            }
        }
        text
    }
}

impl Db {
    /// The tasks that fit a filter, those with the highest ids first: at most `limit`, and never more than
    /// [`crate::limits::PAGE_MAX`]. The next page has those whose ids come `before` one. Ids do not change, so whatever
    /// happens between two pages, a task that is there all the time is in one of them, and in no other.
    ///
    /// A page looks at so many tasks, [`TASKS_LOOKED_AT_MAX`]. One whose filter fits few of them may be short, or empty, and
    /// still have a next one.
    pub async fn list_tasks(
        &self,
        permit: &Permit<Read>,
        filter: TaskFilter,
        before: Option<TaskId>,
        limit: usize,
    ) -> Result<TaskPage, DbError> {
        self.read_in(permit.namespace(), async move |db, namespace| {
            let looked_at = looked_at(db, namespace, before.as_ref()).await.doing("list tasks")?;
            let Some((last, count)) = looked_at else { return Ok(TaskPage { tasks: Vec::new(), next: None }) };
            let mut values = vec![Value::from(namespace), Value::Text(last.0.clone().into())];
            let mut which = "id >= $2".to_owned();
            if let Some(TaskId(before)) = before {
                values.push(Value::Text(before.into()));
                which += " and id < $3";
            }
            which += &filter.conditions(db, &mut values);
            let limit = page(limit);
            values.push(limit.into());
            let sql = TABLE.select_small(&format!("{which} order by id desc limit ${}", values.len()));
            let tasks = db.all(&sql, &values, from_row).await.doing("list tasks")?;
            let is_full = i64::try_from(tasks.len()).is_ok_and(|found| found >= limit);
            let next = match tasks.last() {
                Some(task) if is_full => Some(task.id.clone()),
                _ => (count >= LOOKED_AT_MAX).then_some(last),
            };
            Ok(TaskPage { tasks, next })
        })
        .await
    }

    /// How many tasks are in which state, whatever run they belong to.
    pub async fn count_all_tasks(&self, permit: &Permit<Read>) -> Result<TaskCounts, DbError> {
        self.counts(permit, None).await
    }
}

/// The last of the tasks that a page looks at, and how many those are.
async fn looked_at(sql: &mut Sql<'_>, namespace: i64, before: Option<&TaskId>) -> Result<Option<(TaskId, i64)>, Cause> {
    let read = |row: &Row<'_>| Ok(row.next::<Option<String>>()?.map(TaskId).zip(Some(row.next::<i64>()?)));
    let limit = LOOKED_AT_MAX;
    let found = match before {
        None => {
            let select = "select min(id), count(*) from
                 (select id from task where namespace = $1 order by id desc limit $2) as page";
            sql.all(select, values![namespace, limit], read).await?
        }
        Some(before) => {
            let select = "select min(id), count(*) from
                 (select id from task where namespace = $1 and id < $2 order by id desc limit $3) as page";
            sql.all(select, values![namespace, &before.0, limit], read).await?
        }
    };
    Ok(found.into_iter().next().flatten())
}
