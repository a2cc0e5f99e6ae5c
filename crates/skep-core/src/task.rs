//! The life of a task, as one function: [`Task::apply`].
//!
//! ```text
//!            ┌──────── fail / expire, retries left; release ────────┐
//!            ▼                                                      │
//!   Pending{due, waiting_for} ──start──▶ InProgress(Lease) ─────────┤
//!      │   │                                 │                      ├─finish─▶ Completed
//!      │   └─ what it needs has failed ──▶ Blocked                  ├─fail / expire, no retries left─▶ Failed
//!      └───────────── cancel ────────────────┴─────────────────────▶ Cancelled
//! ```
//!
//! Nothing here reads a clock or a database, so every rule can be tested in microseconds. Who may give a command is
//! `policy`'s affair; how a task is found and kept is `db`'s.
//!
//! Two rules span many tasks, and are carried out by `db` in one statement each, whatever the number of tasks:
//! when a task completes, each of its dependents waits for one task less; when it ends in any other way, what needs
//! it is blocked, and what needs that, and so on. A task with `allow_failure` stands for an optional step: however
//! it ends (failed, blocked or cancelled), its dependents go on as if it had completed.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    Timestamp,
    event::{Kind, NewEvent},
    limits::{
        INPUT_BYTES_MAX, Invalid, RUN_DEPENDENCIES_MAX, RUN_TASKS_MAX, check_count, check_json, check_name, cut_error,
    },
    run::RunId,
};

/// Wait before the first retry, if the task does not say otherwise. Each further one takes twice as long.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest wait before a retry.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(300);

/// A unit of work that one worker at a time may run.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Stable name, given at submission, unique in its namespace.
    pub id: TaskId,
    /// The run it belongs to, if any.
    pub run: Option<RunId>,
    /// Workers claim from a queue by its name.
    pub queue: String,
    /// Place in its run, by order of declaration. Of two tasks that have been due equally long, the one with the
    /// lower place goes first.
    pub position: u32,
    /// What the worker gets.
    pub input: Value,
    /// Tasks that must be over before this one may start.
    pub depends_on: Vec<TaskId>,
    /// Where the task stands.
    pub state: State,
    /// How often it has been started. The number of a start is its fencing token.
    pub attempt: u32,
    /// How often an attempt has failed. An attempt that was given back has not.
    pub failures: u32,
    /// How many failures are allowed before the next one is final.
    pub retries_max: u32,
    /// Wait before the first retry.
    pub retry_delay: Duration,
    /// The task is optional: its end without success neither blocks its dependents nor fails its run.
    pub allow_failure: bool,
}

/// A task as it is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// Stable name, unique in the namespace. A second task of this name is the first one.
    pub id: TaskId,
    /// The run it belongs to. Tasks that are declared with their run need not name it.
    pub run: Option<RunId>,
    /// Whose work it is. A run whose tasks nobody else shall touch has queues of its own.
    pub queue: String,
    /// What the worker gets.
    pub input: Value,
    /// Tasks that must be over before this one may start.
    pub depends_on: Vec<TaskId>,
    /// How many failures are allowed before the next one is final.
    pub retries_max: u32,
    /// Wait before the first retry; doubled for each further one, up to [`RETRY_DELAY_MAX`].
    pub retry_delay: Duration,
    /// See [`Task::allow_failure`].
    pub allow_failure: bool,
}

/// Name of a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub String);

/// Name under which a worker registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId(pub String);

/// Where a task stands, with just the data that makes sense there.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// May be started at or after `due`, once nothing it depends on is unfinished.
    Pending {
        /// Not before this moment.
        due: Timestamp,
        /// How many of its dependencies are unfinished.
        waiting_for: u32,
    },
    /// A worker holds it.
    InProgress(Lease),
    /// The worker's answer.
    Completed(Value),
    /// The last attempt's error.
    Failed(String),
    /// This task, on which it depends directly or through others, has ended without success.
    Blocked(TaskId),
    /// Somebody withdrew it.
    Cancelled,
}

/// A worker's right to a task, until a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Who holds it.
    pub worker: WorkerId,
    /// When others may take it back.
    pub until: Timestamp,
}

/// What can happen to a task.
#[derive(Clone, Debug)]
pub enum Command {
    /// A worker takes it for some time.
    Start(WorkerId, Duration),
    /// The holder of this attempt needs more time: so much from now.
    Renew(Attempt, Duration),
    /// The holder of this attempt brings the answer.
    Finish(Attempt, Value),
    /// The holder of this attempt gives up.
    Fail {
        /// Who gives up.
        by: Attempt,
        /// Why.
        error: String,
        /// Whether another attempt may go better.
        retry: bool,
    },
    /// The lease ran out.
    Expire,
    /// The task is given back unfinished, because its worker stops or is gone. Nothing has failed.
    Release,
    /// Somebody withdraws it.
    Cancel,
}

/// Fencing token: an answer counts only if it comes from the attempt that still holds the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which worker.
    pub worker: WorkerId,
    /// Which start.
    pub number: u32,
}

/// Why a command does not fit the task's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing changes the task any more.
    #[error("the task is already {0}")]
    Over(&'static str),
    /// Start came too early, or somebody else was faster.
    #[error("the task is not ready")]
    NotReady,
    /// The answer comes from an attempt that no longer holds the task.
    #[error("the lease was lost: the task has been taken back or given to another worker")]
    LeaseLost,
    /// The answer of this attempt has been taken already; this is no error, only the same once more.
    #[error("this attempt has already answered")]
    Repeated,
    /// The lease still runs.
    #[error("the lease has not run out")]
    StillLeased,
    /// Nobody holds the task, so nobody can give it back.
    #[error("the task is not in progress")]
    NotInProgress,
}

impl NewTask {
    /// A task without run, dependencies or retries.
    pub fn new(id: TaskId, queue: impl Into<String>, input: Value) -> NewTask {
        NewTask {
            id,
            run: None,
            queue: queue.into(),
            input,
            depends_on: Vec::new(),
            retries_max: 0,
            retry_delay: RETRY_DELAY,
            allow_failure: false,
        }
    }

    /// Whether it can be kept at all.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        check_name("task", &self.id.0)?;
        check_name("queue", &self.queue)?;
        check_count("dependencies of a task", self.depends_on.len(), RUN_DEPENDENCIES_MAX)?;
        check_json("a task's input", &self.input, INPUT_BYTES_MAX)
    }
}

impl Task {
    /// A task at the beginning of its life.
    pub fn new(new: NewTask, position: u32, waiting_for: u32, now: Timestamp) -> Task {
        Task {
            id: new.id,
            run: new.run,
            queue: new.queue,
            position,
            input: new.input,
            depends_on: new.depends_on,
            state: State::Pending { due: now, waiting_for },
            attempt: 0,
            failures: 0,
            retries_max: new.retries_max,
            retry_delay: new.retry_delay,
            allow_failure: new.allow_failure,
        }
    }

    /// Apply one command at one moment. On refusal the task is unchanged. A renewal is no event.
    pub fn apply(&mut self, command: Command, now: Timestamp) -> Result<Option<NewEvent>, Refused> {
        let (next, event) = match (&self.state, command) {
            (State::Completed(_), Command::Finish(by, _)) if by.number == self.attempt => {
                return Err(Refused::Repeated);
            }
            (state, _) if state.is_over() => return Err(Refused::Over(state.name())),

            (State::Pending { due, waiting_for: 0 }, Command::Start(worker, time)) if *due <= now => {
                self.attempt += 1;
                let lease = Lease { worker, until: now.after(time) };
                let event = self.event(Kind::TaskStarted, self.holder(&lease), now);
                (State::InProgress(lease), Some(event))
            }
            (_, Command::Start(..)) => return Err(Refused::NotReady),

            (State::InProgress(lease), Command::Renew(by, time)) if self.holds(lease, &by) => {
                (State::InProgress(Lease { worker: by.worker, until: lease.until.max(now.after(time)) }), None)
            }
            (State::InProgress(lease), Command::Finish(by, output)) if self.holds(lease, &by) => {
                (State::Completed(output), Some(self.event(Kind::TaskCompleted, self.holder(lease), now)))
            }
            (State::InProgress(lease), Command::Fail { by, error, retry }) if self.holds(lease, &by) => {
                let retry = retry && self.failures < self.retries_max;
                let after = self.after_failure(lease, cut_error(error), retry, now);
                self.failures += 1;
                after
            }
            (_, Command::Renew(..) | Command::Finish(..) | Command::Fail { .. }) => return Err(Refused::LeaseLost),

            (State::InProgress(lease), Command::Expire) if lease.until <= now => {
                let retry = self.failures < self.retries_max;
                let after = self.after_failure(lease, "the lease ran out".to_owned(), retry, now);
                self.failures += 1;
                after
            }
            (_, Command::Expire) => return Err(Refused::StillLeased),

            (State::InProgress(lease), Command::Release) => {
                let event = self.event(Kind::TaskReleased, self.holder(lease), now);
                (State::Pending { due: now, waiting_for: 0 }, Some(event))
            }
            (_, Command::Release) => return Err(Refused::NotInProgress),

            (State::InProgress(lease), Command::Cancel) => {
                (State::Cancelled, Some(self.event(Kind::TaskCancelled, self.holder(lease), now)))
            }
            (_, Command::Cancel) => (State::Cancelled, Some(self.event(Kind::TaskCancelled, json!({}), now))),
        };
        self.state = next;
        Ok(event)
    }

    /// What is written down about an answer that came too late, so that people can see it and what it said.
    pub fn late_answer(&self, by: &Attempt, reason: &Refused, answer: LateAnswer, now: Timestamp) -> NewEvent {
        let mut data = json!({ "worker": by.worker.0, "attempt": by.number, "reason": reason.to_string() });
        match answer {
            LateAnswer::Output(output) => data["output"] = output,
            LateAnswer::Error(error) => data["error"] = cut_error(error).into(),
        }
        self.event(Kind::TaskAnswerRefused, data, now)
    }

    /// Where a failed attempt leads. `self.failures` does not count it yet.
    fn after_failure(&self, lease: &Lease, error: String, retry: bool, now: Timestamp) -> (State, Option<NewEvent>) {
        let mut data = self.holder(lease);
        data["error"] = error.clone().into();
        if retry {
            let delay = self.retry_delay.saturating_mul(1 << self.failures.min(30)).min(RETRY_DELAY_MAX);
            let due = now.after(delay);
            data["due"] = due.0.into();
            (State::Pending { due, waiting_for: 0 }, Some(self.event(Kind::TaskRetried, data, now)))
        } else {
            (State::Failed(error), Some(self.event(Kind::TaskFailed, data, now)))
        }
    }

    fn holds(&self, lease: &Lease, by: &Attempt) -> bool {
        lease.worker == by.worker && self.attempt == by.number
    }

    fn holder(&self, lease: &Lease) -> Value {
        json!({ "worker": lease.worker.0, "attempt": self.attempt })
    }

    pub(crate) fn event(&self, kind: Kind, data: Value, at: Timestamp) -> NewEvent {
        NewEvent { at, kind, run: self.run.clone(), task: Some(self.id.clone()), data }
    }
}

/// What an answer said that came too late.
#[derive(Clone, Debug, PartialEq)]
pub enum LateAnswer {
    /// It would have completed the task.
    Output(Value),
    /// It would have counted as a failure.
    Error(String),
}

impl State {
    /// Name in the database and the API.
    pub fn name(&self) -> &'static str {
        match self {
            State::Pending { .. } => "pending",
            State::InProgress(_) => "in_progress",
            State::Completed(_) => "completed",
            State::Failed(_) => "failed",
            State::Blocked(_) => "blocked",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will change any more.
    pub fn is_over(&self) -> bool {
        !matches!(self, State::Pending { .. } | State::InProgress(_))
    }
}

/// Whether these tasks can make up a run: names that differ, dependencies that are among them, no circles.
pub(crate) fn check_graph(tasks: &[NewTask]) -> Result<(), Invalid> {
    check_count("tasks in a run", tasks.len(), RUN_TASKS_MAX)?;
    let edges = tasks.iter().map(|task| task.depends_on.len()).sum();
    check_count("dependencies in a run", edges, RUN_DEPENDENCIES_MAX)?;
    let mut index = HashMap::with_capacity(tasks.len());
    for (n, task) in tasks.iter().enumerate() {
        task.check()?;
        if index.insert(&task.id, n).is_some() {
            return Err(Invalid::Duplicate(task.id.clone()));
        }
    }
    let mut needs = Vec::with_capacity(tasks.len());
    for task in tasks {
        let unknown = |on: &TaskId| Invalid::UnknownDependency { task: task.id.clone(), on: on.clone() };
        let found: Result<Vec<usize>, _> =
            task.depends_on.iter().map(|on| index.get(on).copied().ok_or_else(|| unknown(on))).collect();
        needs.push(found?);
    }
    match circle(&needs) {
        Some(members) => Err(Invalid::Cycle(members.into_iter().map(|n| tasks[n].id.clone()).collect())),
        None => Ok(()),
    }
}

/// The members of one circle, each of which needs the next, if there is a circle. Without recursion: a chain may be
/// longer than the stack is deep.
fn circle(needs: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut done = vec![false; needs.len()];
    for start in 0..needs.len() {
        let (mut path, mut on_path) = (vec![(start, 0)], HashSet::from([start]));
        while let Some((task, next)) = path.last_mut() {
            let (task, need) = (*task, needs[*task].get(*next).copied());
            *next += 1;
            match need {
                Some(need) if on_path.contains(&need) => {
                    let members = path.iter().map(|(task, _)| *task);
                    return Some(members.skip_while(|task| *task != need).collect());
                }
                Some(need) if !done[need] => {
                    path.push((need, 0));
                    on_path.insert(need);
                }
                Some(_) => {}
                None => {
                    done[task] = true;
                    on_path.remove(&task);
                    path.pop();
                }
            }
        }
    }
    None
}
