//! Operations on tasks.

use super::{App, Verdict};
use crate::{
    Json,
    db::{DbError, Operation, Tx},
    event::{EventActor, EventKind, NewEvent},
    limits::{Invalid, LOG_BYTES_MAX, OUTPUT_BYTES_MAX, RUN_TASKS_MAX, check_count, check_json, check_name},
    policy::Permit,
    run::{self, Deletion, RunId},
    task::{Attempt, Command, Failure, LateAnswer, NewTask, Refused, State, Task, TaskId},
};

/// Tasks that one call of [`App::expire_tasks`] ends; if it returns as many, there may be more.
pub const EXPIRED_MAX: usize = 100;

/// Why an operation on tasks failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No task of this name.
    #[error("there is no task {}", .0.0)]
    Unknown(TaskId),
    /// No run of the name that a new task or a log entry gives.
    #[error("there is no run {}", .0.0)]
    UnknownRun(RunId),
    /// There is a task of this name, which is being deleted with its run.
    #[error("a task of this name is being deleted with run {}; wait for its end, or choose another name", .0.0)]
    BeingDeleted(RunId),
    /// There is a task of this name already, and it is not of the run that a new task gives.
    #[error("there is a task {} already, of another run or of none; give the new one another name", .0.0)]
    Taken(TaskId),
    /// There is a task of this name already, which was declared otherwise.
    #[error("there is a task {} already, with another {what}; give the new one another name, or declare it as it was", .task.0)]
    Conflict {
        /// Its name.
        task: TaskId,
        /// In what the two differ.
        what: &'static str,
    },
    /// A task is in a run, and done again with it.
    #[error("task {} is in run {}; retry the run, or the task in it", .task.0, .run.0)]
    OfRun {
        /// The task.
        task: TaskId,
        /// Its run.
        run: RunId,
    },
    /// The task was completed, has not ended, or depends on one that would stay failed, blocked or cancelled.
    #[error("task {} is {state} and cannot be done again; retry what it depends on, or a task that has failed", .task.0)]
    NotToRetry {
        /// The task.
        task: TaskId,
        /// The name of its state.
        state: &'static str,
    },
    /// The run of a new task is not running.
    #[error("the run cannot take a task: it is {}", .0.name())]
    RunNotRunning(run::State),
    /// An argument is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The task's state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl App {
    /// Declare a task. Submitting twice under one id is submitting once: the second call gives the task as it is by then.
    /// An id that a task of another run has, or one that was declared otherwise, is refused. (Times are not compared:
    /// those that a caller reckons from now differ each time.)
    ///
    /// A task may depend on tasks of its own run; one without a run, on others without. If one of them has ended
    /// without success already, the task is blocked at once.
    pub async fn submit(&self, permit: &Permit, mut task: NewTask) -> Result<Task, TaskError> {
        task.check()?;
        task.depends_on = deduplicated(task.depends_on);
        if task.depends_on.contains(&task.id) {
            return Err(Invalid::Cycle(vec![task.id]).into());
        }
        let (actor, bytes) = ((&**permit.actor()).into(), task.bytes());
        self.db.perform(permit.namespace(), bytes, Submit { actor, task }).await?
    }

    /// Fail an attempt. There is another one if `retry` is set and the task has retries left. Otherwise the task has
    /// failed, keeps the attempt's output, and what depends on it is blocked.
    pub async fn fail(
        &self,
        permit: &Permit,
        id: &TaskId,
        by: Attempt,
        failure: Failure,
        retry: bool,
    ) -> Result<Task, TaskError> {
        check_json("the output of a failed attempt", &failure.output, OUTPUT_BYTES_MAX)?;
        let (id, bytes) = (id.clone(), failure.output.as_str().len() + failure.error.len());
        let fail = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let mut task = load(tx, &id).await?;
            let command = Command::Fail { by: by.clone(), failure: failure.clone(), retry };
            match task.apply(command, now) {
                Ok(event) => tx.append(event),
                Err(reason) => {
                    return refuse_late(tx, &task, &by, reason, LateAnswer::Error(failure.error.clone())).await;
                }
            }
            tx.save_task(&task).await?;
            update_dependents(tx, &task).await?;
            Ok::<_, TaskError>(Verdict::Done(task))
        };
        self.db.write_bytes(permit, bytes, fail).await?.into_result()
    }

    /// Fail the tasks that have not ended although their deadline has passed, at most [`EXPIRED_MAX`]. What depends on them
    /// is blocked. Returns the tasks as they now are.
    ///
    /// Nobody waits for this: a claim starts no such task, and an answer to one is refused.
    pub async fn expire_tasks(&self, permit: &Permit) -> Result<Vec<Task>, TaskError> {
        let expire = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let mut tasks = tx.expired_tasks(EXPIRED_MAX).await?;
            for task in &mut tasks {
                // One of the others may have blocked it.
                if !task.depends_on.is_empty() {
                    *task = load(tx, &task.id).await?;
                }
                let Ok(event) = task.apply(Command::Expire, now) else { continue };
                tx.save_task(task).await?;
                tx.append(event);
                update_dependents(tx, task).await?;
            }
            tasks.retain(|task| matches!(task.state, State::Failed(_)));
            Ok(tasks)
        };
        self.db.write(permit, expire).await
    }

    /// Append an entry to the log of a run, or of one of its tasks, for people: a sentence, and data if there is some.
    pub async fn log(
        &self,
        permit: &Permit,
        run: &RunId,
        task: Option<&TaskId>,
        message: &str,
        data: Option<Json>,
    ) -> Result<(), TaskError> {
        check_name("run", &run.0)?;
        task.map_or(Ok(()), |task| check_name("task", &task.0))?;
        let kind = EventKind::TaskLog { message: message.to_owned(), data };
        let entry = kind.data();
        check_json("a log entry", &entry, LOG_BYTES_MAX)?;
        let (run, task, bytes) = (run.clone(), task.cloned(), entry.as_str().len());
        let log = async move |tx: &mut Tx<'_>| {
            if tx.run_state(&run).await?.is_none() {
                return Err(TaskError::UnknownRun(run.clone()));
            }
            if let Some(task) = &task
                && !tx.has_task(&run, task).await?
            {
                return Err(TaskError::Unknown(task.clone()));
            }
            let (at, run, task) = (tx.now(), Some(run.clone()), task.clone());
            tx.append(NewEvent { at, run, task, kind: kind.clone() });
            Ok(())
        };
        self.db.write_bytes(permit, bytes, log).await
    }
}

/// A task is declared.
pub(super) struct Submit {
    /// By whom.
    pub(super) actor: EventActor,
    pub(super) task: NewTask,
}

impl Submit {
    /// Whether what becomes of it depends on no other task and no run.
    fn stands_alone(&self) -> bool {
        self.task.run.is_none() && self.task.depends_on.is_empty() && self.task.details.parent.is_none()
    }
}

impl Operation for Submit {
    /// A refusal has changed nothing, so it needs not undo the tasks that are declared at the same time.
    type Output = Result<Task, TaskError>;
    type Error = TaskError;
    const TOGETHER: bool = true;

    async fn run(tx: &mut Tx<'_>, all: &[&Submit]) -> Result<Vec<Self::Output>, TaskError> {
        let mut submitted = Vec::with_capacity(all.len());
        for some in all.chunk_by(|one, next| one.stands_alone() && next.stands_alone()) {
            match some {
                [one] if !one.stands_alone() => submitted.push(unless_failed(submit(tx, one).await)?),
                _ => {
                    let now = tx.now();
                    let tasks = some.iter().map(|one| Task::new(one.task.clone(), 0, 0, now)).collect();
                    submitted.extend(add(tx, some, tasks).await?);
                }
            }
        }
        Ok(submitted)
    }
}

/// Declare a task that is in a run or depends on others.
async fn submit(tx: &mut Tx<'_>, one: &Submit) -> Result<Task, TaskError> {
    let new = &one.task;
    // A repeated call returns the task, even if its run has ended since.
    if let Some(existing) = tx.task(&new.id).await? {
        return repeated(tx, new, existing).await;
    }
    let position = match &new.run {
        Some(run) => next_position(tx, run).await?,
        None => 0,
    };
    check_parents(tx, [new].into_iter()).await?;
    let (waiting_for, blocked_by) = check_dependencies(tx, new).await?;
    let mut task = Task::new(new.clone(), position, waiting_for, tx.now());
    if let Some(by) = blocked_by {
        task.state = State::Blocked(by);
    }
    add(tx, &[one], vec![task]).await?.pop().unwrap_or_else(|| Err(TaskError::Unknown(new.id.clone())))
}

/// Add tasks as they are declared, unless there are some of their names.
pub(super) async fn add(
    tx: &mut Tx<'_>,
    declared: &[&Submit],
    tasks: Vec<Task>,
) -> Result<Vec<Result<Task, TaskError>>, TaskError> {
    let (now, epochs) = (tx.now(), tx.add_tasks(&tasks).await?);
    let new = declared.iter().zip(&epochs).filter_map(|(one, epoch)| epoch.map(|_| &one.task));
    tx.add_details(new).await?;
    let mut added = Vec::with_capacity(tasks.len());
    for ((one, mut task), epoch) in declared.iter().zip(tasks).zip(epochs) {
        let Some(epoch) = epoch else {
            let existing = load(tx, &task.id).await?;
            added.push(unless_failed(repeated(tx, &one.task, existing).await)?);
            continue;
        };
        task.epoch = epoch;
        tx.act_for(Some(&one.actor));
        tx.append(task.event(EventKind::TaskSubmitted { queue: task.queue.clone() }, now));
        if let State::Blocked(by) = &task.state {
            tx.append(task.event(EventKind::TaskBlocked { by: by.clone() }, now));
        }
        added.push(Ok(task));
    }
    Ok(added)
}

/// What one of several is told, unless the store has failed, which is about all of them.
fn unless_failed(said: Result<Task, TaskError>) -> Result<Result<Task, TaskError>, DbError> {
    match said {
        Err(TaskError::Db(error)) => Err(error),
        said => Ok(said),
    }
}

/// A task that was there already, for a caller that submits it again.
pub(super) async fn repeated(tx: &mut Tx<'_>, new: &NewTask, existing: Task) -> Result<Task, TaskError> {
    match deletion_of(tx, &existing).await? {
        Some(Deletion { run, .. }) => Err(TaskError::BeingDeleted(run)),
        None if existing.run != new.run => Err(TaskError::Taken(existing.id)),
        None => {
            let details = tx.details_of(std::slice::from_ref(&new.id)).await?.remove(&new.id).unwrap_or_default();
            match new.difference(&existing, &details) {
                Some(what) => Err(TaskError::Conflict { task: existing.id, what }),
                None => Ok(existing),
            }
        }
    }
}

pub(super) async fn load(tx: &mut Tx<'_>, id: &TaskId) -> Result<Task, TaskError> {
    tx.task(id).await?.ok_or_else(|| TaskError::Unknown(id.clone()))
}

/// Refuse a late answer, and keep it in the log. A task that is being deleted is unknown: nothing may be added to what
/// is being deleted, or the deletion would leave something behind.
pub(super) async fn refuse_late<T>(
    tx: &mut Tx<'_>,
    task: &Task,
    by: &Attempt,
    reason: Refused,
    answer: LateAnswer,
) -> Result<Verdict<T, Refused>, TaskError> {
    if deletion_of(tx, task).await?.is_some() {
        return Err(TaskError::Unknown(task.id.clone()));
    }
    tx.append(task.late_answer(by, &reason, answer, tx.now()));
    Ok(Verdict::Refused(reason))
}

/// The deletion of a task's run, if it has begun.
async fn deletion_of(tx: &mut Tx<'_>, task: &Task) -> Result<Option<Deletion>, DbError> {
    match &task.run {
        Some(run) => tx.deletion(run).await,
        None => Ok(None),
    }
}

/// The position of a new task in its run: behind all others.
async fn next_position(tx: &mut Tx<'_>, run: &RunId) -> Result<u32, TaskError> {
    match tx.run_state(run).await? {
        None => Err(TaskError::UnknownRun(run.clone())),
        Some(state) if state != run::State::Running => Err(TaskError::RunNotRunning(state)),
        Some(_) => {
            let count = tx.count_tasks(run).await?;
            check_count("tasks in a run", count as usize + 1, RUN_TASKS_MAX)?;
            Ok(count)
        }
    }
}

/// Whether what these tasks are parts of is there, or among them.
pub(super) async fn check_parents<'a>(
    tx: &mut Tx<'_>,
    tasks: impl Iterator<Item = &'a NewTask> + Clone,
) -> Result<(), TaskError> {
    let parts = tasks.clone().filter_map(|task| Some((task, task.details.parent.as_ref()?)));
    if let Some((task, _)) = parts.clone().find(|(task, parent)| task.id == **parent) {
        return Err(Invalid::OwnParent(task.id.clone()).into());
    }
    let wanted: Vec<TaskId> = parts
        .clone()
        .map(|(_, parent)| parent.clone())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut there: std::collections::HashSet<TaskId> =
        tx.tasks_named(&wanted).await?.into_iter().map(|task| task.id).collect();
    there.extend(tasks.map(|task| task.id.clone()));
    match parts.into_iter().find(|(_, parent)| !there.contains(*parent)) {
        Some((task, parent)) => Err(Invalid::UnknownParent { task: task.id.clone(), parent: parent.clone() }.into()),
        None => Ok(()),
    }
}

/// How many unfinished tasks a new one waits for, and one that ended without success and blocks it, if there is one.
async fn check_dependencies(tx: &mut Tx<'_>, task: &NewTask) -> Result<(u32, Option<TaskId>), TaskError> {
    if task.depends_on.is_empty() {
        return Ok((0, None));
    }
    let found = tx.dependencies(task.run.as_ref(), &task.depends_on).await?;
    if let Some(missing) = task.depends_on.iter().find(|id| !found.iter().any(|task| task.id == **id)) {
        return Err(Invalid::UnknownDependency { task: task.id.clone(), on: missing.clone() }.into());
    }
    let unfinished = found.iter().filter(|task| !task.state.is_over()).count();
    let in_vain =
        |task: &&Task| task.state.is_over() && !task.allow_failure && !matches!(task.state, State::Completed(_));
    let waiting_for = u32::try_from(unfinished).unwrap_or(u32::MAX);
    Ok((waiting_for, found.iter().find(in_vain).map(|task| task.id.clone())))
}

/// Release tasks that are in progress: they are ready again, and no failure is counted. Late answers of their former
/// holders are refused.
pub(super) async fn release_tasks(tx: &mut Tx<'_>, tasks: &mut [Task]) -> Result<(), DbError> {
    let now = tx.now();
    for task in tasks {
        if let Ok(event) = task.apply(Command::Release, now) {
            tx.save_task(task).await?;
            tx.append(event);
        }
    }
    Ok(())
}

/// Block what depends on a task that ended without success; release it, if the task is optional. Does nothing if the
/// task is not over.
pub(super) async fn update_dependents(tx: &mut Tx<'_>, task: &Task) -> Result<(), DbError> {
    let now = tx.now();
    if !task.state.is_over() {
        return Ok(());
    }
    if task.allow_failure {
        return tx.release_dependents(&[&task.id]).await;
    }
    for (blocked, run) in tx.block_dependents(&task.id).await? {
        let kind = EventKind::TaskBlocked { by: task.id.clone() };
        tx.append(NewEvent { at: now, run, task: Some(blocked), kind });
    }
    Ok(())
}

/// The same names, each where it comes first.
pub(super) fn deduplicated(mut ids: Vec<TaskId>) -> Vec<TaskId> {
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    ids
}
