//! Tasks as rows: load, save, find the next one to run, and what the end of one means for those that need it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Db, DbError, Doing, Tx,
    blobs::{Kept, value_of},
    sql::{Cause, Row, Value, values},
};
use crate::{
    Json, Namespace, Timestamp,
    run::RunId,
    session::SessionId,
    task::{Attempt, Failure, Holder, State, Task, TaskId, WorkerId},
};

/// The columns of a task, and what its values come from.
macro_rules! columns {
    ($($values:tt)+) => {
        concat!(
            "id, run, queue, position, depends_on, retries_max, retry_delay_us, allow_failure, state, due, waiting_for, ",
            "attempt, failures, losses, worker, session, ",
            $($values)+
        )
    };
}
const COLUMNS: &str = columns!(value_of!("task", "input"), ", ", value_of!("task", "result"));
/// The same for those who only ask where it stands: input and output are null, an error is empty.
const COLUMNS_WITHOUT_VALUES: &str = columns!(
    "'null', cast(null as bytea), case state when 'blocked' then result when 'failed' then '\"\"' else 'null' end, \
     cast(null as bytea)"
);

impl Tx<'_> {
    /// The task of this name.
    pub(crate) async fn task(&mut self, id: &TaskId) -> Result<Option<Task>, DbError> {
        let sql = format!("select {COLUMNS} from task where namespace = $1 and id = $2");
        self.first(&sql, values![self.namespace(), &id.0], from_row).await.doing("load a task")
    }

    /// The task of a queue that has been due the longest, for a session if it is registered.
    pub(crate) async fn next_ready_task(
        &mut self,
        queue: &str,
        session: &SessionId,
        now: Timestamp,
    ) -> Result<Option<Task>, DbError> {
        let sql = format!(
            "select {COLUMNS} from task
             where namespace = $1 and queue = $2 and state = 'pending' and waiting_for = 0 and due <= $3
                and exists (select 1 from session where session.namespace = $4 and session.id = $5)
             order by due, position, id limit 1"
        );
        let values = values![self.namespace(), queue, now.0, self.namespace(), &session.0];
        self.first(&sql, values, from_row).await.doing("find a ready task")
    }

    /// Tasks by a condition on their namespace, which is `$1`, and others.
    pub(super) async fn tasks_where(&mut self, which: &str, values: &[Value<'_>]) -> Result<Vec<Task>, DbError> {
        self.all(&select_where(which), values, from_row).await.doing("load tasks")
    }

    /// All tasks of a run in the order of their declaration, without input, output and error.
    pub(crate) async fn tasks_without_values(&mut self, run: &RunId) -> Result<Vec<Task>, DbError> {
        let sql = format!(
            "select {COLUMNS_WITHOUT_VALUES} from task where namespace = $1 and run = $2 order by position, id"
        );
        self.all(&sql, values![self.namespace(), &run.0], from_row).await.doing("load the tasks of a run")
    }

    /// The tasks of a run that workers hold.
    pub(crate) async fn tasks_in_progress(&mut self, run: &RunId) -> Result<Vec<Task>, DbError> {
        let sql = format!(
            "select {COLUMNS} from task where namespace = $1 and run = $2 and state = 'in_progress'
             order by position, id"
        );
        self.all(&sql, values![self.namespace(), &run.0], from_row).await.doing("load the tasks in progress")
    }

    /// How many tasks a run has, which is the position of the next one to be added.
    pub(crate) async fn count_tasks(&mut self, run: &RunId) -> Result<u32, DbError> {
        let sql = "select position + 1 from task where namespace = $1 and run = $2
             order by position desc limit 1";
        let count = self.first(sql, values![self.namespace(), &run.0], |row| row.next::<i64>()).await;
        count.and_then(|count| Ok(count.unwrap_or(0).try_into()?)).doing("count the tasks of a run")
    }

    /// These tasks, as far as they exist in this run (or outside of any), without input, output and error.
    pub(crate) async fn dependencies(&mut self, run: Option<&RunId>, ids: &[TaskId]) -> Result<Vec<Task>, DbError> {
        let any = self.sql.any(2);
        let sql = format!("select {COLUMNS_WITHOUT_VALUES} from task where namespace = $1 and id {any} order by id");
        let names: Vec<String> = ids.iter().map(|id| id.0.clone()).collect();
        let found = self.all(&sql, values![self.namespace(), names], from_row).await.doing("load dependencies")?;
        Ok(found.into_iter().filter(|task| task.run.as_ref() == run).collect())
    }

    /// Keep a new task. `false` if there is one of this name already.
    pub(crate) async fn add_task(&mut self, task: &Task) -> Result<bool, DbError> {
        let sql = "insert into task (namespace, id, run, queue, position, depends_on, retries_max, retry_delay_us,
                allow_failure, state, due, waiting_for, attempt, failures, losses, worker, session, input, input_blob,
                result)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
             on conflict (id, namespace) do nothing";
        let input = Kept::of(Some(&task.input));
        let Columns { state, due, waiting_for, worker, session, result } = columns(&task.state);
        let depends_on = names_to_json(&task.depends_on);
        let retry_delay_us = i64::try_from(task.retry_delay.as_micros()).unwrap_or(i64::MAX);
        let values = values![
            self.namespace(),
            &task.id.0,
            task.run.as_ref().map(|run| &run.0),
            &task.queue,
            task.position,
            depends_on,
            task.retries_max,
            retry_delay_us,
            task.allow_failure,
            state,
            due,
            waiting_for,
            task.attempt,
            task.failures,
            task.losses,
            worker,
            session,
            input.text,
            input.sha256,
            result.as_ref().map(Json::as_str),
        ];
        let is_new = self.has_changed(sql, values).await.doing("add a task")?;
        if !is_new {
            return Ok(false);
        }
        self.add_blob(&task.input).await.doing("keep an input")?;
        for on in &task.depends_on {
            let sql = "insert into dependency (namespace, depends_on, task) values ($1, $2, $3)";
            self.execute(sql, values![self.namespace(), &on.0, &task.id.0]).await.doing("add a dependency")?;
        }
        Ok(true)
    }

    /// Keep the task as it now is.
    pub(crate) async fn save_task(&mut self, task: &Task) -> Result<(), DbError> {
        let sql = "update task set state = $1, due = $2, waiting_for = $3, attempt = $4, failures = $5, losses = $6,
             worker = $7, session = $8, result = $9, result_blob = $10 where namespace = $11 and id = $12";
        let Columns { state, due, waiting_for, worker, session, result } = columns(&task.state);
        if let Some(result) = &result {
            self.add_blob(result).await.doing("keep a result")?;
        }
        let (attempt, failures, losses) = (task.attempt, task.failures, task.losses);
        let (result, namespace, id) = (Kept::of(result.as_ref()), self.namespace(), &task.id.0);
        let values = values![
            state,
            due,
            waiting_for,
            attempt,
            failures,
            losses,
            worker,
            session,
            result.text,
            result.sha256,
            namespace,
            id,
        ];
        self.execute(sql, values).await.doing("save a task")
    }

    /// A task is over, and those that need it wait for one less. To be called once for each task.
    pub(crate) async fn release_dependents(&mut self, id: &TaskId) -> Result<(), DbError> {
        const DEPENDENTS: &str = "select task from dependency where namespace = $1 and depends_on = $2";
        // SQLite answers without a way to go, so a look that may spare the update is worth its while.
        if self.sql.is_sqlite() {
            let values = values![self.namespace(), &id.0];
            if self.first(DEPENDENTS, values, |_| Ok(())).await.doing("look for dependents")?.is_none() {
                return Ok(());
            }
        }
        let dependents = self.sql.among(DEPENDENTS);
        let sql = format!(
            "update task set waiting_for = waiting_for - 1
             where namespace = $1 and state = 'pending' and id {dependents}"
        );
        self.execute(&sql, values![self.namespace(), &id.0]).await.doing("release dependents")
    }

    /// A task has ended without success, and those that need it are blocked, and those that need them, and so on; but
    /// what needs only an optional one goes on. Gives the blocked tasks. To be called once for each task.
    pub(crate) async fn block_dependents(&mut self, id: &TaskId) -> Result<Vec<(TaskId, Option<RunId>)>, DbError> {
        // `cross join`, because SQLite keeps its order.
        const OPTIONAL: &str = "select t.allow_failure from task t where t.namespace = $1 and t.id = d.task";
        let needs = self.sql.among("select id from needs");
        let sql = format!(
            "with recursive needs (id, optional) as (
                select d.task, ({OPTIONAL}) from dependency d where d.namespace = $1 and d.depends_on = $2
                union
                select d.task, ({OPTIONAL}) from needs n cross join dependency d
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
        for (_, id, _, _) in blocked.iter().filter(|(_, _, _, optional)| *optional) {
            self.release_dependents(id).await?;
        }
        Ok(blocked.into_iter().map(|(_, id, run, _)| (id, run)).collect())
    }

    /// Withdraw all tasks of a run that are not over. Gives them, with who held them.
    pub(crate) async fn cancel_tasks(&mut self, run: &RunId) -> Result<Vec<(TaskId, Option<Attempt>)>, DbError> {
        const UNFINISHED: &str = "namespace = $1 and run = $2 and state in ('pending', 'in_progress')";
        let sql = format!("select id, attempt, worker from task where {UNFINISHED} order by position, id");
        let read = |row: &Row<'_>| {
            let (id, number) = (TaskId(row.next()?), row.next::<i64>()?.try_into()?);
            let worker = row.next::<Option<String>>()?.map(WorkerId);
            Ok((id, worker.map(|worker| Attempt { worker, number })))
        };
        let found = self.all(&sql, values![self.namespace(), &run.0], read).await.doing("load unfinished tasks")?;
        let sql = format!(
            "update task set state = 'cancelled', due = null, worker = null, session = null where {UNFINISHED}"
        );
        self.execute(&sql, values![self.namespace(), &run.0]).await.doing("cancel tasks")?;
        Ok(found)
    }
}

/// How many tasks of a run stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// Not started, or waiting for a retry.
    pub pending: u64,
    /// Held by workers.
    pub in_progress: u64,
    /// Answered.
    pub completed: u64,
    /// Failed for good.
    pub failed: u64,
    /// Failed for good, and that was allowed.
    pub failed_allowed: u64,
    /// Never to start, because of a failure before them.
    pub blocked: u64,
    /// Withdrawn.
    pub cancelled: u64,
}

impl Db {
    /// The task of this name, as it is now.
    pub async fn task(&self, namespace: &Namespace, id: &TaskId) -> Result<Option<Task>, DbError> {
        let TaskId(id) = id.clone();
        let sql = format!("select {COLUMNS} from task where namespace = $1 and id = $2");
        let tasks = self.read_in(namespace, async move |db, namespace| {
            db.all(&sql, values![namespace, &id], from_row).await.doing("read a task")
        });
        Ok(tasks.await?.pop())
    }

    /// All tasks of a run, in the order of their declaration.
    pub async fn tasks_of(&self, namespace: &Namespace, run: &RunId) -> Result<Vec<Task>, DbError> {
        let RunId(run) = run.clone();
        let sql = format!("select {COLUMNS} from task where namespace = $1 and run = $2 order by position, id");
        self.read_in(namespace, async move |db, namespace| {
            db.all(&sql, values![namespace, &run], from_row).await.doing("read tasks")
        })
        .await
    }

    /// How many tasks of a run stand where.
    pub async fn count_tasks(&self, namespace: &Namespace, run: &RunId) -> Result<TaskCounts, DbError> {
        let RunId(run) = run.clone();
        let rows = self.read_in(namespace, async move |db, namespace| {
            let sql = "select state, allow_failure, count(*) from task where namespace = $1 and run = $2
                 group by state, allow_failure";
            let read = |row: &Row<'_>| Ok((row.next::<String>()?, row.next()?, row.next::<i64>()?));
            db.all(sql, values![namespace, &run], read).await.doing("count tasks")
        });
        let mut counts = TaskCounts::default();
        for (state, allow_failure, count) in rows.await? {
            let place = counts.of(&state, allow_failure).ok_or_else(|| unknown_state(&state));
            *place.doing("count tasks")? += u64::try_from(count).doing("count tasks")?;
        }
        Ok(counts)
    }

    /// When the next task of a queue is due that waits for nothing else: in the past if one can be claimed, `None` if
    /// there is none.
    pub async fn next_due(&self, namespace: &Namespace, queue: &str) -> Result<Option<Timestamp>, DbError> {
        let queue = queue.to_owned();
        let sql = "select due from task where namespace = $1 and queue = $2 and state = 'pending' and waiting_for = 0
             order by due, position, id limit 1";
        let read = |row: &Row<'_>| Ok(Timestamp(row.next()?));
        let due = self.read_in(namespace, async move |db, namespace| {
            db.all(sql, values![namespace, &queue], read).await.doing("read a task")
        });
        Ok(due.await?.pop())
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

/// What of a state goes into which column.
struct Columns<'a> {
    state: &'static str,
    due: Option<i64>,
    waiting_for: u32,
    worker: Option<&'a str>,
    session: Option<&'a str>,
    result: Option<Json>,
}

fn columns(state: &State) -> Columns<'_> {
    let columns = Columns { state: state.name(), due: None, waiting_for: 0, worker: None, session: None, result: None };
    match state {
        State::Pending { due, waiting_for } => Columns { due: Some(due.0), waiting_for: *waiting_for, ..columns },
        State::InProgress(holder) => {
            Columns { worker: Some(&holder.worker.0), session: Some(&holder.session.0), ..columns }
        }
        State::Completed(output) => Columns { result: Some(output.clone()), ..columns },
        State::Failed(failure) => Columns { result: Some(failure_to_json(failure)), ..columns },
        State::Blocked(by) => Columns { result: Some(Json::of(&by.0)), ..columns },
        State::Cancelled => columns,
    }
}

/// A `select` of tasks by a condition on their namespace, which is `$1`, and others.
pub(super) fn select_where(which: &str) -> String {
    format!("select {COLUMNS} from task where namespace = $1 and {which}")
}

/// Rows are written here alone, so one that does not parse is our bug, and no caller's to mend.
pub(super) fn from_row(row: &Row<'_>) -> Result<Task, Cause> {
    let number = || Ok::<u32, Cause>(row.next::<i64>()?.try_into()?);
    let (id, run) = (TaskId(row.next()?), row.next::<Option<String>>()?.map(RunId));
    let (queue, position, depends_on) = (row.next()?, number()?, row.next_json::<Vec<String>>()?);
    let (retries_max, retry_delay) = (number()?, Duration::from_micros(row.next::<i64>()?.try_into()?));
    let allow_failure = row.next()?;
    let (state, due, waiting_for) = (row.next_text()?, row.next::<Option<i64>>()?, number()?);
    let (attempt, failures, losses) = (number()?, number()?, number()?);
    let (worker, session) = (row.next::<Option<String>>()?, row.next::<Option<String>>()?);
    let (input, result) = (row.next_value()?.ok_or("a task without an input")?, row.next_value()?);
    let result = || result.ok_or("a task without a result");
    let due = || due.map(Timestamp).ok_or("a task without a time");
    let state = match state.unwrap_or_default() {
        "pending" => State::Pending { due: due()?, waiting_for },
        "in_progress" => {
            let worker = WorkerId(worker.ok_or("a task in progress without a worker")?);
            // Those of older programs have none.
            let session = SessionId(session.unwrap_or_default());
            State::InProgress(Holder { worker, session })
        }
        "completed" => State::Completed(result()?),
        "failed" => State::Failed(failure_from_json(&result()?)?),
        "blocked" => State::Blocked(TaskId(result()?.parse()?)),
        "cancelled" => State::Cancelled,
        other => return Err(unknown_state(other)),
    };
    let depends_on = depends_on.into_iter().map(TaskId).collect();
    Ok(Task {
        id,
        run,
        queue,
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
    })
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

fn names_to_json(names: &[TaskId]) -> String {
    serde_json::Value::from_iter(names.iter().map(|name| name.0.as_str())).to_string()
}
