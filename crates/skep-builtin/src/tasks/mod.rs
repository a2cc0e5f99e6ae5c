//! Tools for tasks of a team: submit and look at them, and work through a queue without being one of the hub's workers.

mod cancel;
mod finish;
mod get;
mod list;
mod next;
mod progress;
mod project;
mod release;
mod retry;
mod submit;
#[cfg(test)]
mod tests;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use skep_core::{
    Json, Timestamp,
    app::{App, RunError, TaskError},
    limits::NAME_BYTES_MAX,
    policy::{Permit, Read},
    session::SessionId,
    task::{self, Attempt, Details, Refused, State, Task, TaskId, WorkerId},
};
use skep_tools::{
    error::ToolError,
    shared::{refused, store_failed, time},
    tool::Annotations,
};

pub(super) use self::{
    cancel::TaskCancel, finish::TaskFinish, get::TaskGet, list::TaskList, next::TaskNext, progress::TaskProgress,
    project::ProjectSubmit, release::TaskRelease, retry::TaskRetry, submit::TaskSubmit,
};

/// Characters of a name, at most.
const NAME_CHARS_MAX: usize = NAME_BYTES_MAX;
/// The queue of a task whose submitter names none.
const QUEUE: &str = "default";
/// How long a task is kept for a worker that says nothing, unless it asks for another time.
const LEASE: Duration = Duration::from_secs(60);

const READS: Annotations =
    Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
const WRITES: Annotations =
    Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: false, open_world_hint: false };
const WRITES_ONCE: Annotations = Annotations { idempotent_hint: true, ..WRITES };

/// How soon a task is started.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Priority {
    /// Before everything else.
    Critical,
    /// Before what nobody waits for.
    High,
    /// What most tasks have.
    Medium,
    /// When there is time; but a task is not held up for ever.
    Low,
}

impl From<Priority> for task::Priority {
    fn from(priority: Priority) -> task::Priority {
        match priority {
            Priority::Critical => task::Priority::Critical,
            Priority::High => task::Priority::High,
            Priority::Medium => task::Priority::Medium,
            Priority::Low => task::Priority::Low,
        }
    }
}

impl From<task::Priority> for Priority {
    fn from(priority: task::Priority) -> Priority {
        match priority {
            task::Priority::Critical => Priority::Critical,
            task::Priority::High => Priority::High,
            task::Priority::Medium => Priority::Medium,
            task::Priority::Low => Priority::Low,
        }
    }
}

/// Where a task is in its life.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// It waits: for its time, for other tasks, or for a worker.
    Pending,
    /// A worker has it.
    InProgress,
    /// It was answered.
    Completed,
    /// It failed for good, or was not done by its deadline.
    Failed,
    /// A task that it depends on has ended without success.
    Blocked,
    /// It was cancelled.
    Cancelled,
}

impl From<&State> for Stage {
    fn from(state: &State) -> Stage {
        match state {
            State::Pending { .. } => Stage::Pending,
            State::InProgress { .. } => Stage::InProgress,
            State::Completed(_) => Stage::Completed,
            State::Failed(_) => Stage::Failed,
            State::Blocked(_) => Stage::Blocked,
            State::Cancelled => Stage::Cancelled,
        }
    }
}

/// What is known about a task, but for its input and its result.
#[derive(Serialize, JsonSchema)]
struct Shown {
    /// Its id.
    task_id: String,
    /// Where it is in its life.
    state: Stage,
    /// The queue that workers get it from.
    queue: String,
    /// How soon it is started.
    priority: Priority,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// What sort of work it is.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// The task that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    /// Words by which it is found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    /// What its worker must be able to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    required_capabilities: Vec<String>,
    /// Tasks that must be over before it starts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<String>,
    /// How many of those are unfinished.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<u32>,
    /// When it may start, in RFC 3339, or could have been started.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    /// When it has failed if it has not ended by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    /// Its run, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// What it is called in its run.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    /// How often it has been started.
    attempts: u32,
    /// How many of the attempts have failed.
    failures: u32,
    /// How many failures are followed by another attempt.
    retries: u32,
    /// Who works on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The task that has ended without success, because of which it cannot start.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by: Option<String>,
}

/// The task.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    /// As it is now.
    task: Shown,
}

impl Shown {
    fn new(task: &Task, details: Details) -> Shown {
        let Details { title, kind, parent, capabilities, labels, description: _ } = details;
        let (mut waiting_for, mut due_at, mut worker, mut error, mut blocked_by) = (None, None, None, None, None);
        match &task.state {
            State::Pending { due, waiting_for: count } => (waiting_for, due_at) = (Some(*count), Some(time(*due))),
            State::InProgress { holder, due } => (worker, due_at) = (Some(holder.worker.0.clone()), Some(time(*due))),
            State::Failed(failure) => error = Some(failure.error.clone()),
            State::Blocked(by) => blocked_by = Some(by.0.clone()),
            State::Completed(_) | State::Cancelled => {}
        }
        Shown {
            task_id: task.id.0.clone(),
            state: (&task.state).into(),
            queue: task.queue.clone(),
            priority: task.priority.into(),
            title,
            kind,
            parent: parent.map(|parent| parent.0),
            labels: labels.into_iter().collect(),
            required_capabilities: capabilities.into_iter().collect(),
            depends_on: task.depends_on.iter().map(|on| on.0.clone()).collect(),
            waiting_for: waiting_for.filter(|count| *count > 0),
            due_at,
            deadline: task.deadline.map(time),
            run: task.run.as_ref().map(|run| run.0.clone()),
            step: task.step.clone(),
            attempts: task.attempt,
            failures: task.failures,
            retries: task.retries_max,
            worker,
            error,
            blocked_by,
        }
    }
}

/// What tasks are, with what they say.
async fn shown(app: &App, permit: &Permit<Read>, tasks: &[Task]) -> Result<Vec<Shown>, ToolError> {
    let ids = tasks.iter().map(|task| task.id.clone()).collect();
    let mut details = app.db.task_details(permit, ids).await.map_err(store_failed)?;
    Ok(tasks.iter().map(|task| Shown::new(task, details.remove(&task.id).unwrap_or_default())).collect())
}

async fn shown_alone(app: &App, permit: &Permit, task: &Task) -> Result<Shown, ToolError> {
    let shown = shown(app, &permit.to_read(), std::slice::from_ref(task)).await?.pop();
    shown.ok_or_else(|| ToolError::failed("the task was deleted meanwhile"))
}

/// What the store has, which was JSON when it was written.
fn value(json: &Json) -> Result<Value, ToolError> {
    json.parse().map_err(|error| ToolError::failed(format!("what is stored is no JSON: {error}")))
}

/// What proves that its bearer has a task: the session of the lease, which nobody else knows, and the attempt.
struct Token {
    session: SessionId,
    epoch: i64,
    number: u32,
}

impl Token {
    fn of(session: &SessionId, attempt: &Attempt) -> String {
        format!("{}:{}:{}", session.0, attempt.epoch, attempt.number)
    }

    fn read(text: &str) -> Result<Token, ToolError> {
        let read = || {
            let (rest, number) = text.rsplit_once(':')?;
            let (session, epoch) = rest.rsplit_once(':')?;
            let session = Some(session).filter(|session| !session.is_empty())?;
            Some(Token { session: SessionId(session.into()), epoch: epoch.parse().ok()?, number: number.parse().ok()? })
        };
        read().ok_or_else(|| ToolError::argument("token", "is not one; give what task_next has given with the task"))
    }

    /// The attempt, if it is the caller's. What somebody else holds is not answered by a token that was made up.
    async fn attempt(&self, app: &App, permit: &Permit, id: &TaskId) -> Result<Attempt, ToolError> {
        let task = app.db.task(&permit.to_read(), id).await.map_err(store_failed)?;
        let task = task.ok_or_else(|| failed(TaskError::Unknown(id.clone())))?;
        let (own, is_last) = (worker_of(permit), (self.epoch, self.number) == (task.epoch, task.attempt));
        let worker = match task.state {
            State::InProgress { holder, .. } if is_last => {
                if holder.session != self.session || !is_own(permit, &holder.worker) {
                    return Err(failed(Refused::NotHeld.into()));
                }
                holder.worker
            }
            _ => own,
        };
        Ok(Attempt { worker, epoch: self.epoch, number: self.number })
    }
}

/// A name that nothing had before, and that sorts by its age.
#[expect(clippy::disallowed_methods, reason = "a call that names no task is an edge, and a lease begins with its call")]
fn new_name() -> String {
    ulid::Ulid::generate().to_string()
}

/// As which worker a caller takes tasks: its principal and, if it is one, the agent.
fn worker_of(permit: &Permit) -> WorkerId {
    let actor = permit.actor();
    match &actor.agent {
        Some(agent) => WorkerId(format!("{}/{agent}", actor.principal)),
        None => WorkerId(actor.principal.to_string()),
    }
}

/// Whether it is one of the principal's own.
fn is_own(permit: &Permit, worker: &WorkerId) -> bool {
    let principal = &*permit.actor().principal;
    worker.0.strip_prefix(principal).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A moment that is given as such, or as seconds from now.
fn moment(
    app: &App,
    (name, text): (&str, Option<String>),
    seconds: Option<u64>,
) -> Result<Option<Timestamp>, ToolError> {
    match (skep_tools::shared::moment(name, text)?, seconds) {
        (Some(_), Some(_)) => Err(ToolError::argument(name, "is given twice, as a time and in seconds from now")),
        (at, seconds) => Ok(at.or_else(|| seconds.map(|seconds| app.db.now().at.after(Duration::from_secs(seconds))))),
    }
}

fn conflict(message: String, reason: &str) -> ToolError {
    ToolError::Conflict { message, detail: Map::from_iter([("reason".to_owned(), reason.into())]) }
}

fn failed(error: TaskError) -> ToolError {
    let message = error.to_string();
    match error {
        TaskError::Unknown(_) => ToolError::argument("task_id", message),
        TaskError::Taken(_) | TaskError::Conflict { .. } | TaskError::BeingDeleted(_) => conflict(message, "exists"),
        TaskError::NotToRetry { state, .. } => conflict(message, state),
        TaskError::OfRun { .. } | TaskError::RunNotRunning(_) => conflict(message, "run"),
        TaskError::UnknownRun(_) => ToolError::argument("run", message),
        TaskError::Invalid(invalid) => refused(invalid),
        TaskError::Refused(reason) => conflict(message, reason_of(&reason)),
        TaskError::Db(error) => store_failed(error),
    }
}

fn run_failed(error: RunError) -> ToolError {
    let message = error.to_string();
    match error {
        RunError::Invalid(invalid) => refused(invalid),
        RunError::Db(error) => store_failed(error),
        RunError::NotToRetry { state, .. } => conflict(message, state),
        _ => conflict(message, "run"),
    }
}

/// Why an answer or a command was refused, in a word for programs.
fn reason_of(reason: &Refused) -> &'static str {
    match reason {
        Refused::Over(state) => state,
        Refused::PastDeadline => "past_deadline",
        Refused::NotHeld | Refused::Repeated | Refused::NotInProgress => "not_held",
        Refused::NotReady | Refused::Unfinished | Refused::BeforeDeadline => "not_ready",
    }
}
