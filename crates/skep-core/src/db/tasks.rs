//! Tasks as rows: load, save, find the next one to run, and what the end of one means for those that need it.

mod details;
mod list;
mod read;
mod ready;

use std::{borrow::Cow, collections::BTreeSet, sync::LazyLock, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::{
    list::{TaskFilter, TaskPage},
    read::TaskCounts,
};
use super::{
    DbError, Doing, Tx,
    events::page,
    sql::{Cause, JOIN_IN_ORDER, Row, Value, is_set, values},
    table::{Column, Table, Update},
};
use crate::{
    Json, Timestamp,
    run::RunId,
    session::SessionId,
    task::{Attempt, Failure, Holder, NewTask, Priority, State, Task, TaskId, WorkerId},
};

/// The columns of a task, in the order of [`values_of`] and of [`from_row`].
const COLUMNS: [Column; 22] = [
    Column::fixed("id"),
    Column::fixed("run"),
    Column::fixed("step"),
    Column::fixed("queue"),
    Column::fixed("priority"),
    Column::fixed("position"),
    Column::fixed("depends_on"),
    Column::fixed("retries_max"),
    Column::fixed("retry_delay_us"),
    Column::fixed("allow_failure"),
    Column::changing("state"),
    Column::changing("due").integer(),
    Column::changing("waiting_for").integer(),
    Column::changing("attempt").integer(),
    Column::changing("failures").integer(),
    Column::changing("losses").integer(),
    Column::changing("worker"),
    Column::changing("session"),
    Column::changing("deadline").integer(),
    Column::made("epoch", "(select epoch from namespace where id = $1)"),
    Column::fixed("input").json(),
    Column::changing("result").json(),
];
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new("task", &COLUMNS));

/// What changes when a task in progress is completed.
static COMPLETE: LazyLock<Update> = LazyLock::new(|| TABLE.update_of(&["state", "worker", "session", "result"]));

/// A condition on a task: it has not ended, and its deadline was before `$2`.
const IS_EXPIRED: &str = "deadline <= $2 and state in ('pending', 'in_progress')";

/// The columns that [`held_from_row`] reads, of tasks by a condition on their id.
macro_rules! select_held {
    ($which:literal) => {
        concat!(
            "select id, run, state, attempt, worker, session, deadline, epoch, exists (select 1 from dependency
                where dependency.namespace = task.namespace and dependency.depends_on = task.id)
             from task where namespace = $1 and id ",
            $which
        )
    };
}

/// The tasks that depend on one.
const DEPENDENTS: &str = "select task from dependency where namespace = $1 and depends_on = $2";

impl Tx<'_> {
    /// The task of this name.
    pub(crate) async fn task(&mut self, id: &TaskId) -> Result<Option<Task>, DbError> {
        self.first(TABLE.load(), values![self.namespace(), &id.0], from_row).await.doing("load a task")
    }

    /// The tasks of these names in any order, as [`held_from_row`] reads them, and whether others depend on them.
    pub(crate) async fn held_tasks(&mut self, ids: &BTreeSet<&TaskId>) -> Result<Vec<(Task, bool)>, DbError> {
        if ids.len() < 2 || self.sql.answers_at_once() {
            let (sql, namespace) = (select_held!("= $2"), self.namespace());
            let keys = ids.iter().map(|id| [namespace.into(), Value::from(&id.0)]);
            let tasks = self.first_of_each(sql, keys, held_from_row).await.doing("load tasks")?;
            return Ok(tasks.into_iter().flatten().collect());
        }
        let names: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
        let sql = select_held!("= any($2)");
        self.all(sql, values![self.namespace(), names], held_from_row).await.doing("load tasks")
    }

    /// Tasks by a condition on their namespace, which is `$1`, and others.
    pub(super) async fn tasks_where(&mut self, which: &str, values: &[Value<'_>]) -> Result<Vec<Task>, DbError> {
        self.all(&TABLE.select(which), values, from_row).await.doing("load tasks")
    }

    /// These tasks, as far as they exist. Large inputs and results are empty texts.
    pub(crate) async fn tasks_named(&mut self, ids: &[TaskId]) -> Result<Vec<Task>, DbError> {
        let sql = TABLE.select_small(&format!("id {} order by id", self.sql.any(2)));
        self.all(&sql, values![self.namespace(), details::names(ids)], from_row).await.doing("load tasks")
    }

    /// The tasks that depend on one of these.
    pub(crate) async fn dependents_of(&mut self, ids: &[TaskId]) -> Result<Vec<TaskId>, DbError> {
        let sql = format!("select task from dependency where namespace = $1 and depends_on {}", self.sql.any(2));
        let found = self.all(&sql, values![self.namespace(), details::names(ids)], |row| Ok(TaskId(row.next()?))).await;
        found.doing("look for dependents")
    }

    /// The hashes of the blobs that the results of these tasks are.
    pub(crate) async fn results_of(&mut self, ids: &[TaskId]) -> Result<Vec<String>, DbError> {
        let is_set = is_set("result_blob");
        let sql = format!("select result_blob from task where namespace = $1 and id {} and {is_set}", self.sql.any(2));
        let found = self.all(&sql, values![self.namespace(), details::names(ids)], |row| row.next()).await;
        found.doing("look for the results of tasks")
    }

    /// The tasks that have not ended although their deadline has passed for certain, at most `limit`.
    pub(crate) async fn expired_tasks(&mut self, limit: usize) -> Result<Vec<Task>, DbError> {
        let which = format!("{IS_EXPIRED} order by deadline, id limit $3");
        self.tasks_where(&which, values![self.namespace(), self.surely_past().0, page(limit)]).await
    }

    /// All tasks of a run in the order of their declaration. Large inputs and results are empty texts.
    pub(crate) async fn tasks_without_large_values(&mut self, run: &RunId) -> Result<Vec<Task>, DbError> {
        let sql = TABLE.select_small("run = $2 order by position, id");
        self.all(&sql, values![self.namespace(), &run.0], from_row).await.doing("load the tasks of a run")
    }

    /// The tasks of a run that workers hold.
    pub(crate) async fn tasks_in_progress(&mut self, run: &RunId) -> Result<Vec<Task>, DbError> {
        let sql = TABLE.select("run = $2 and state = 'in_progress' order by position, id");
        self.all(&sql, values![self.namespace(), &run.0], from_row).await.doing("load the tasks in progress")
    }

    /// How many tasks a run has, which is the position of the next one to be added.
    pub(crate) async fn count_tasks(&mut self, run: &RunId) -> Result<u32, DbError> {
        let sql = "select position + 1 from task where namespace = $1 and run = $2
             order by position desc limit 1";
        let count = self.first(sql, values![self.namespace(), &run.0], |row| row.next::<i64>()).await;
        count.and_then(|count| Ok(count.unwrap_or(0).try_into()?)).doing("count the tasks of a run")
    }

    /// These tasks, as far as they exist in this run (or outside of any). Large inputs and results are empty texts.
    pub(crate) async fn dependencies(&mut self, run: Option<&RunId>, ids: &[TaskId]) -> Result<Vec<Task>, DbError> {
        let found = self.tasks_named(ids).await?;
        Ok(found.into_iter().filter(|task| task.run.as_ref() == run).collect())
    }

    /// Add tasks, and what they depend on. Returns their epochs; `None` where there is a task of this name already.
    pub(crate) async fn add_tasks(&mut self, tasks: &[Task]) -> Result<Vec<Option<i64>>, DbError> {
        let epochs = self.insert_made(&TABLE, tasks.iter().map(values_of)).await.doing("add tasks")?;
        let namespace = self.namespace();
        let added = tasks.iter().zip(&epochs).filter_map(|(task, epoch)| epoch.map(|_| task));
        let dependencies = added.flat_map(|task| {
            task.depends_on.iter().map(move |on| [namespace.into(), Value::from(&on.0), Value::from(&task.id.0)])
        });
        let mut dependencies = dependencies.peekable();
        if dependencies.peek().is_some() {
            let sql = "insert into dependency (namespace, depends_on, task) values ($1, $2, $3)";
            self.execute_each(sql, dependencies).await.doing("add dependencies")?;
        }
        Ok(epochs)
    }

    /// Whether a run has a task of this name.
    pub(crate) async fn has_task(&mut self, run: &RunId, task: &TaskId) -> Result<bool, DbError> {
        let sql = "select 1 from task where namespace = $1 and id = $2 and run = $3";
        let found = self.first(sql, values![self.namespace(), &task.0, &run.0], |_| Ok(())).await;
        Ok(found.doing("look for a task")?.is_some())
    }

    /// Save a task.
    pub(crate) async fn save_task(&mut self, task: &Task) -> Result<(), DbError> {
        self.update(&TABLE, &task.id.0, values_of(task)).await.doing("save a task")
    }

    /// Save tasks that were in progress and are completed now, no two of which are the same.
    pub(crate) async fn save_completed(&mut self, tasks: &[&Task]) -> Result<(), DbError> {
        let rows = tasks.iter().map(|task| {
            let OfState { holder, result, .. } = OfState::of(&task.state);
            let (worker, session) = columns_of(holder);
            (task.id.0.as_str(), [task.state.name().into(), worker, session, result.into()])
        });
        self.update_several(&COMPLETE, rows).await.doing("save the tasks that are completed")
    }

    /// Let the dependents of tasks that are over wait for so many less. To be called once for each task.
    pub(crate) async fn release_dependents(&mut self, ids: &[&TaskId]) -> Result<(), DbError> {
        let namespace = self.namespace();
        if self.sql.answers_at_once() {
            // Most tasks have none, and a `select` that finds nothing is far cheaper than such an update.
            let keys = ids.iter().map(|id| [namespace.into(), Value::from(&id.0)]);
            let found = self.first_of_each(DEPENDENTS, keys, |_| Ok(())).await.doing("look for dependents")?;
            for (id, _) in ids.iter().zip(found).filter(|(_, found)| found.is_some()) {
                self.release_dependents_of(id).await?;
            }
            return Ok(());
        }
        match ids {
            [] => return Ok(()),
            [id] => return self.release_dependents_of(id).await,
            _ => {}
        }
        let any = self.sql.any(2);
        let sql = format!(
            "update task set waiting_for = waiting_for - ended.count
             from (select task as id, count(*) as count from dependency
                where namespace = $1 and depends_on {any} group by task) as ended
             where task.namespace = $1 and task.state = 'pending' and task.id = ended.id"
        );
        let names: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
        self.execute(&sql, values![self.namespace(), names]).await.doing("release dependents")
    }

    async fn release_dependents_of(&mut self, id: &TaskId) -> Result<(), DbError> {
        let dependents = self.sql.among(DEPENDENTS);
        let sql = format!(
            "update task set waiting_for = waiting_for - 1
             where namespace = $1 and state = 'pending' and id {dependents}"
        );
        self.execute(&sql, values![self.namespace(), &id.0]).await.doing("release dependents")
    }

    /// Block the dependents of a task that ended without success, and theirs, and so on, but not the dependents of
    /// optional tasks, which are released. Returns the blocked tasks. To be called once for each task.
    pub(crate) async fn block_dependents(&mut self, id: &TaskId) -> Result<Vec<(TaskId, Option<RunId>)>, DbError> {
        const OPTIONAL: &str = "select t.allow_failure from task t where t.namespace = $1 and t.id = d.task";
        let needs = self.sql.among("select id from needs");
        let sql = format!(
            "with recursive needs (id, optional) as (
                select d.task, ({OPTIONAL}) from dependency d where d.namespace = $1 and d.depends_on = $2
                union
                select d.task, ({OPTIONAL}) from needs n {JOIN_IN_ORDER} dependency d
                where not n.optional and d.namespace = $1 and d.depends_on = n.id
             )
             update task set state = 'blocked', due = null, result = $3
             where namespace = $1 and state = 'pending' and id {needs}
             returning position, id, run, allow_failure"
        );
        let by = Json::of(&id.0);
        let read = |row: &Row<'_>| {
            let (position, id) = (row.next::<i64>()?, TaskId(row.next()?));
            Ok((position, id, row.next::<Option<String>>()?.map(RunId), row.next::<bool>()?))
        };
        let mut blocked =
            self.change(&sql, values![self.namespace(), &id.0, by.as_str()], read).await.doing("block dependents")?;
        blocked.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        let optional: Vec<&TaskId> = blocked.iter().filter(|blocked| blocked.3).map(|blocked| &blocked.1).collect();
        self.release_dependents(&optional).await?;
        Ok(blocked.into_iter().map(|(_, id, run, _)| (id, run)).collect())
    }

    /// Cancel all tasks of a run that are not over. Returns them, with the attempts that held them.
    pub(crate) async fn cancel_tasks(&mut self, run: &RunId) -> Result<Vec<(TaskId, Option<Attempt>)>, DbError> {
        const UNFINISHED: &str = "namespace = $1 and run = $2 and state in ('pending', 'in_progress')";
        let sql = format!("select id, epoch, attempt, worker from task where {UNFINISHED} order by position, id");
        let read = |row: &Row<'_>| {
            let (id, epoch, number) = (TaskId(row.next()?), row.next()?, row.next::<i64>()?.try_into()?);
            let worker = row.next::<Option<String>>()?.map(WorkerId);
            Ok((id, worker.map(|worker| Attempt { worker, epoch, number })))
        };
        let found = self.all(&sql, values![self.namespace(), &run.0], read).await.doing("load unfinished tasks")?;
        let sql = format!(
            "update task set state = 'cancelled', due = null, worker = null, session = null where {UNFINISHED}"
        );
        self.execute(&sql, values![self.namespace(), &run.0]).await.doing("cancel tasks")?;
        Ok(found)
    }
}

fn values_of(task: &Task) -> [Value<'_>; COLUMNS.len()] {
    let of_state = OfState::of(&task.state);
    let (worker, session) = columns_of(of_state.holder);
    [
        (&task.id.0).into(),
        task.run.as_ref().map(|run| &run.0).into(),
        task.step.as_ref().into(),
        (&task.queue).into(),
        task.priority.number().into(),
        task.position.into(),
        Value::Text(names_to_json(&task.depends_on)),
        task.retries_max.into(),
        i64::try_from(task.retry_delay.as_micros()).unwrap_or(i64::MAX).into(),
        task.allow_failure.into(),
        task.state.name().into(),
        of_state.due.into(),
        of_state.waiting_for.into(),
        task.attempt.into(),
        task.failures.into(),
        task.losses.into(),
        worker,
        session,
        task.deadline.map(|deadline| deadline.0).into(),
        task.epoch.into(),
        (&task.input).into(),
        of_state.result.into(),
    ]
}

/// What comes with a state, as columns.
#[derive(Default)]
struct OfState<'a> {
    due: Option<i64>,
    waiting_for: u32,
    holder: Option<&'a Holder>,
    result: Option<Json>,
}

impl OfState<'_> {
    fn of(state: &State) -> OfState<'_> {
        let none = OfState::default();
        match state {
            State::Pending { due, waiting_for } => OfState { due: Some(due.0), waiting_for: *waiting_for, ..none },
            State::InProgress { holder, due } => OfState { due: Some(due.0), holder: Some(holder), ..none },
            State::Completed(output) => OfState { result: Some(output.clone()), ..none },
            State::Failed(failure) => OfState { result: Some(failure_to_json(failure)), ..none },
            State::Blocked(by) => OfState { result: Some(Json::of(&by.0)), ..none },
            State::Cancelled => none,
        }
    }
}

/// The worker and the session of a holder.
fn columns_of(holder: Option<&Holder>) -> (Value<'_>, Value<'_>) {
    (holder.map(|holder| &holder.worker.0).into(), holder.map(|holder| &holder.session.0).into())
}

/// Rows are written here alone, so one that cannot be read is a bug, or the work of another program.
pub(super) fn from_row(row: &Row<'_>) -> Result<Task, Cause> {
    let number = || Ok::<u32, Cause>(row.next::<i64>()?.try_into()?);
    let (id, run) = (TaskId(row.next()?), row.next::<Option<String>>()?.map(RunId));
    let step = row.next()?;
    let (queue, priority) = (row.next()?, row.next::<i64>()?);
    let priority = Priority::from_number(priority).ok_or_else(|| format!("unknown priority {priority}"))?;
    let (position, depends_on) = (number()?, row.next_text()?.unwrap_or_default());
    let (retries_max, retry_delay) = (number()?, Duration::from_micros(row.next::<i64>()?.try_into()?));
    let allow_failure = row.next()?;
    let (state, due, waiting_for) = (row.next_text()?, row.next::<Option<i64>>()?, number()?);
    let (attempt, failures, losses) = (number()?, number()?, number()?);
    let (worker, session) = (row.next::<Option<String>>()?, row.next::<Option<String>>()?);
    let (deadline, epoch) = (row.next::<Option<i64>>()?.map(Timestamp), row.next()?);
    let (input, result) = (row.next_value()?.ok_or("a task without an input")?, row.next_value()?);
    let result = || result.ok_or("a task without a result");
    let state = match state.unwrap_or_default() {
        "pending" => State::Pending { due: due.map(Timestamp).ok_or("a task without a time")?, waiting_for },
        "in_progress" => in_progress(worker, session, due)?,
        "completed" => State::Completed(result()?),
        "failed" => State::Failed(failure_from_json(&result()?)?),
        "blocked" => State::Blocked(TaskId(result()?.parse()?)),
        "cancelled" => State::Cancelled,
        other => return Err(unknown_state(other)),
    };
    let depends_on = names_from_json(depends_on)?;
    Ok(Task {
        id,
        epoch,
        run,
        step,
        queue,
        priority,
        position,
        input,
        depends_on,
        state,
        attempt,
        failures,
        losses,
        retries_max,
        retry_delay,
        allow_failure,
        deadline,
    })
}

/// What an answer needs of a task, with whether others depend on it: who holds it, and in which attempt. All else is left
/// as it would be in a task without anything, because to read a column takes time, and workers answer all the time.
fn held_from_row(row: &Row<'_>) -> Result<(Task, bool), Cause> {
    let (id, run) = (TaskId(row.next()?), row.next::<Option<String>>()?.map(RunId));
    let (state, attempt) = (row.next_text()?.unwrap_or_default(), row.next::<i64>()?.try_into()?);
    let (worker, session) = (row.next::<Option<String>>()?, row.next::<Option<String>>()?);
    let deadline = row.next::<Option<i64>>()?.map(Timestamp);
    let (epoch, has_dependents) = (row.next()?, row.next()?);
    let state = match state {
        "pending" => State::Pending { due: Timestamp(0), waiting_for: 0 },
        "in_progress" => in_progress(worker, session, None)?,
        "completed" => State::Completed(Json::null()),
        "failed" => State::Failed(Failure { error: String::new(), output: Json::null() }),
        "blocked" => State::Blocked(TaskId(String::new())),
        "cancelled" => State::Cancelled,
        other => return Err(unknown_state(other)),
    };
    let bare = Task::new(NewTask::new(id, String::new(), Json::null()), 0, 0, Timestamp(0));
    Ok((Task { run, epoch, attempt, state, deadline, ..bare }, has_dependents))
}

fn in_progress(worker: Option<String>, session: Option<String>, due: Option<i64>) -> Result<State, Cause> {
    let worker = WorkerId(worker.ok_or("a task in progress without a worker")?);
    // Those of older programs have no session, and no place to have again.
    let (session, due) = (SessionId(session.unwrap_or_default()), Timestamp(due.unwrap_or_default()));
    Ok(State::InProgress { holder: Holder { worker, session }, due })
}

/// An error alone is a string. One with an output is an object of both.
fn failure_to_json(failure: &Failure) -> Json {
    #[derive(Serialize)]
    struct Both<'a> {
        error: &'a str,
        output: &'a Json,
    }
    let Failure { error, output } = failure;
    if output.is_null() { Json::of(error) } else { Json::of(&Both { error, output }) }
}

fn failure_from_json(json: &Json) -> Result<Failure, Cause> {
    #[derive(Deserialize)]
    struct Both {
        error: String,
        output: Box<RawValue>,
    }
    if json.as_str().starts_with('"') {
        return Ok(json.parse::<String>()?.into());
    }
    let Both { error, output } = json.parse()?;
    Ok(Failure { error, output: output.into() })
}

fn unknown_state(state: &str) -> Cause {
    format!("unknown task state {state:?}").into()
}

fn names_to_json(names: &[TaskId]) -> Cow<'static, str> {
    match names {
        [] => "[]".into(),
        names => serde_json::Value::from_iter(names.iter().map(|name| name.0.as_str())).to_string().into(),
    }
}

fn names_from_json(json: &str) -> Result<Vec<TaskId>, Cause> {
    match json {
        "[]" => Ok(Vec::new()),
        json => Ok(serde_json::from_str::<Vec<String>>(json)?.into_iter().map(TaskId).collect()),
    }
}
