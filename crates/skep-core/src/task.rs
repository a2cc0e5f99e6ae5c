//! The life of a task, as one function: [`Task::apply`].
//!
//! ```text
//!            ┌──────── fail, retries left; release; lose ───────────┐
//!            ▼                                                      │
//!   Pending{due, waiting_for} ──start──▶ InProgress{holder, due} ───┤
//!      │   │                                 │                      ├─finish─▶ Completed
//!      │   └─ what it needs has failed ──▶ Blocked                  ├─fail, no retries left; lose too often─▶ Failed
//!      ├───────────── expire ────────────────┼─────────────────────▶ Failed
//!      └───────────── cancel ────────────────┴─────────────────────▶ Cancelled
//! ```
//!
//! What ended without success can be reopened, which makes it pending again with all its retries.
//!
//! A task with a deadline is neither started nor answered from then on, whether or not it has been told so yet
//! ([`Command::Expire`]).
//!
//! Nothing here reads a clock or a database, so every rule can be tested in microseconds. `policy` decides who may give
//! a command; `db` loads and saves tasks.
//!
//! Two rules span many tasks, and are carried out by `db` in one statement each, whatever the number of tasks:
//! when a task completes, each of its dependents waits for one task less; when it ends in any other way, what needs
//! it is blocked, and what needs that, and so on. A task with `allow_failure` stands for an optional step: however
//! it ends (failed, blocked or cancelled), its dependents go on as if it had completed.

mod backoff;
mod details;
mod graph;
mod priority;

use std::time::Duration;

pub use self::{
    backoff::{RETRY_DELAY, RETRY_DELAY_MAX, RETRY_JITTER_PERCENT},
    details::Details,
    priority::{Priority, UnknownPriority},
};

pub(crate) use self::graph::{check_graph, in_order, to_reopen};
pub use crate::id::{TaskId, WorkerId};
use crate::{
    Json, Timestamp,
    event::{EventKind, NewEvent, WorkerAttempt},
    id::{RunId, SessionId},
    limits::{
        INPUT_BYTES_MAX, Invalid, LATE_ANSWER_BYTES_MAX, LOSSES_MAX, RUN_DEPENDENCIES_MAX, check_count, check_json,
        check_name, cut_error,
    },
};

/// A unit of work that one worker at a time may run.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Stable name, given at submission, unique in its namespace.
    pub id: TaskId,
    /// How many deletions of runs had begun in the namespace when the task was added. A former task of the same name,
    /// which was deleted with its run, had a lower one.
    pub epoch: i64,
    /// The run it belongs to, if any.
    pub run: Option<RunId>,
    /// What it is called in its run; see [`Task::name`].
    pub step: Option<String>,
    /// Workers claim from a queue by its name.
    pub queue: String,
    /// How soon it is started, compared with others of its queue.
    pub priority: Priority,
    /// Position in its run, by order of declaration. Of two tasks of one priority that are due at the same time, the one
    /// with the lower position is started first.
    pub position: u32,
    /// What the worker gets.
    pub input: Json,
    /// Tasks that must be over before this one may start.
    pub depends_on: Vec<TaskId>,
    /// Its state.
    pub state: State,
    /// How often it has been started. The number of a start is its fencing token.
    pub attempt: u32,
    /// How often an attempt has failed. An attempt that was given back, or whose worker was lost, has not.
    pub failures: u32,
    /// How often the session that held it was lost.
    pub losses: u32,
    /// How many failures are allowed before the next one is final.
    pub retries_max: u32,
    /// Wait before the first retry.
    pub retry_delay: Duration,
    /// The task is optional: its end without success neither blocks its dependents nor fails its run.
    pub allow_failure: bool,
    /// From this moment on, it is neither started nor answered: if it has not ended by then, it has failed.
    pub deadline: Option<Timestamp>,
}

/// A task as it is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// Stable name, unique in the namespace. A second task of this name is the first one, if both say the same.
    pub id: TaskId,
    /// The run it belongs to. Tasks that are declared with their run need not name it.
    pub run: Option<RunId>,
    /// What it is called in its run, where the name need be unique only there. Ids of tasks are unique in the namespace,
    /// and mean nothing to anybody.
    pub step: Option<String>,
    /// The queue that workers claim it from. A run whose tasks only its own workers may claim has queues of its own.
    pub queue: String,
    /// See [`Task::priority`].
    pub priority: Priority,
    /// What the worker gets.
    pub input: Json,
    /// Tasks that must be over before this one may start.
    pub depends_on: Vec<TaskId>,
    /// How many failures are allowed before the next one is final.
    pub retries_max: u32,
    /// Wait before the first retry; doubled for each further one, up to [`RETRY_DELAY_MAX`].
    pub retry_delay: Duration,
    /// See [`Task::allow_failure`].
    pub allow_failure: bool,
    /// It is not started before this moment.
    pub not_before: Option<Timestamp>,
    /// See [`Task::deadline`].
    pub deadline: Option<Timestamp>,
    /// What else it says.
    pub details: Details,
}

/// A task without what may be large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// See [`Task::id`].
    pub id: TaskId,
    /// See [`Task::step`].
    pub step: Option<String>,
    /// See [`Task::position`].
    pub position: u32,
    /// See [`State::is_over`].
    pub is_over: bool,
}

/// The state of a task, with just the data that makes sense in it.
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
    InProgress {
        /// Who.
        holder: Holder,
        /// Since when it could have been started. If it is given back, it has its place in the queue again.
        due: Timestamp,
    },
    /// The worker's answer.
    Completed(Json),
    /// Why the last attempt failed, and what it produced.
    Failed(Failure),
    /// This task, on which it depends directly or through others, has ended without success.
    Blocked(TaskId),
    /// It was cancelled.
    Cancelled,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// For people. Events carry it, so it is cut at [`crate::limits::ERROR_BYTES_MAX`].
    pub error: String,
    /// What the attempt produced until then, such as a command's output; null if nothing. Only the task keeps it.
    pub output: Json,
}

impl From<String> for Failure {
    fn from(error: String) -> Failure {
        Failure { error, output: Json::null() }
    }
}

impl From<&str> for Failure {
    fn from(error: &str) -> Failure {
        error.to_owned().into()
    }
}

/// Who has a task, for as long as its session lasts.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// Who works on it.
    pub worker: WorkerId,
    /// The worker's session.
    pub session: SessionId,
}

/// What can happen to a task.
#[derive(Clone, Debug)]
pub enum Command {
    /// A worker takes it.
    Start(Holder),
    /// The holder of this attempt completes it.
    Finish(Attempt, Json),
    /// The holder of this attempt fails it.
    Fail {
        /// The attempt.
        by: Attempt,
        /// The error, and what was produced.
        failure: Failure,
        /// Whether another attempt may succeed.
        retry: bool,
    },
    /// The session that holds it is lost, and it is not known how far its worker got. No failure is counted, but losses
    /// have a limit, because the task may be what its workers do not survive.
    Lose,
    /// The task is released unfinished, because its worker stops. No failure is counted.
    Release,
    /// It is cancelled.
    Cancel,
    /// Its deadline has passed.
    Expire,
    /// It ended without success and is to be done again, after so many others that it depends on.
    Reopen {
        /// How many of its dependencies are unfinished.
        waiting_for: u32,
    },
}

/// Fencing token: an answer counts only if it comes from the attempt that still holds the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The worker that started it.
    pub worker: WorkerId,
    /// The task's [epoch](Task::epoch): a former task of the same name had another one.
    pub epoch: i64,
    /// The number of the start: 1 for the first.
    pub number: u32,
}

/// Why a command does not fit the task's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The task is over.
    #[error("the task is already {0}")]
    Over(&'static str),
    /// It is not due, waits for others, or is held by another worker.
    #[error("the task is not ready")]
    NotReady,
    /// The answer comes from an attempt that no longer holds the task.
    #[error("the task has been taken back or given to another worker")]
    NotHeld,
    /// The answer of this attempt has been accepted already. Not a failure: the answer counts once.
    #[error("this attempt has already answered")]
    Repeated,
    /// It is not in progress, so it cannot be released or lost.
    #[error("the task is not in progress")]
    NotInProgress,
    /// It has not ended, so it cannot be reopened.
    #[error("the task is not over")]
    Unfinished,
    /// It was not answered in time. It has failed, although it may not have been told so yet.
    #[error("the task's deadline has passed")]
    PastDeadline,
    /// It has no deadline, or one that is still to come.
    #[error("the task's deadline has not passed")]
    BeforeDeadline,
}

impl NewTask {
    /// A task without run, dependencies or retries.
    pub fn new(id: TaskId, queue: impl Into<String>, input: impl Into<Json>) -> NewTask {
        NewTask {
            id,
            run: None,
            step: None,
            queue: queue.into(),
            priority: Priority::Medium,
            input: input.into(),
            depends_on: Vec::new(),
            retries_max: 0,
            retry_delay: RETRY_DELAY,
            allow_failure: false,
            not_before: None,
            deadline: None,
            details: Details::default(),
        }
    }

    /// Whether it can be kept at all.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        check_name("task", &self.id.0)?;
        self.step.as_deref().map_or(Ok(()), |step| check_name("step", step))?;
        check_name("queue", &self.queue)?;
        check_count("dependencies of a task", self.depends_on.len(), RUN_DEPENDENCIES_MAX)?;
        if self.deadline.is_some_and(|deadline| self.not_before.is_some_and(|not_before| deadline <= not_before)) {
            return Err(Invalid::DeadlineTooEarly(self.id.clone()));
        }
        self.details.check()?;
        check_json("a task's input", &self.input, INPUT_BYTES_MAX)
    }

    /// In what a task that was declared before differs from this one, but for times.
    pub(crate) fn difference(&self, task: &Task, details: &Details) -> Option<&'static str> {
        let pairs = [
            ("input", self.input == task.input),
            ("queue", self.queue == task.queue),
            ("priority", self.priority == task.priority),
            ("step", self.step == task.step),
            ("list of dependencies", self.depends_on == task.depends_on),
            ("number of retries", self.retries_max == task.retries_max),
            ("wait before a retry", self.retry_delay.as_micros() == task.retry_delay.as_micros()),
            ("say on whether it may fail", self.allow_failure == task.allow_failure),
            ("title, description, type, parent, label or capability", self.details == *details),
        ];
        pairs.into_iter().find_map(|(what, is_same)| (!is_same).then_some(what))
    }

    /// How large it is.
    pub(crate) fn bytes(&self) -> usize {
        self.input.as_str().len() + self.details.bytes() + self.depends_on.iter().map(|on| on.0.len()).sum::<usize>()
    }
}

impl Task {
    /// A task at the beginning of its life.
    pub fn new(new: NewTask, position: u32, waiting_for: u32, now: Timestamp) -> Task {
        Task {
            id: new.id,
            epoch: 0, // until it is kept
            run: new.run,
            step: new.step,
            queue: new.queue,
            priority: new.priority,
            position,
            input: new.input,
            depends_on: new.depends_on,
            state: State::Pending { due: new.not_before.map_or(now, |not_before| not_before.max(now)), waiting_for },
            attempt: 0,
            failures: 0,
            losses: 0,
            retries_max: new.retries_max,
            retry_delay: new.retry_delay,
            allow_failure: new.allow_failure,
            deadline: new.deadline,
        }
    }

    /// What people call it: its name in its run, or its id.
    pub fn name(&self) -> &str {
        self.step.as_deref().unwrap_or(&self.id.0)
    }

    /// Apply one command at one moment. On refusal the task is unchanged.
    pub fn apply(&mut self, command: Command, now: Timestamp) -> Result<NewEvent, Refused> {
        let (next, event) = match (&self.state, command) {
            (State::Completed(_), Command::Finish(by, _)) if self.is_last(&by) => {
                return Err(Refused::Repeated);
            }
            (State::Failed(_) | State::Blocked(_) | State::Cancelled, Command::Reopen { waiting_for }) => {
                (self.failures, self.losses) = (0, 0);
                self.deadline = self.deadline.filter(|deadline| now < *deadline);
                let event = self.event(EventKind::TaskReopened {}, now);
                (State::Pending { due: now, waiting_for }, event)
            }
            (state, _) if state.is_over() => return Err(Refused::Over(state.name())),
            (_, Command::Reopen { .. }) => return Err(Refused::Unfinished),
            (_, Command::Cancel) => self.cancelled(now),
            (_, Command::Expire) if self.is_past_deadline(now) => self.expired(now),
            (_, Command::Expire) => return Err(Refused::BeforeDeadline),

            (State::Pending { due, waiting_for: 0 }, Command::Start(holder))
                if *due <= now && !self.is_past_deadline(now) =>
            {
                self.attempt += 1;
                let event = self.event(EventKind::TaskStarted(self.attempt_of(&holder)), now);
                (State::InProgress { holder, due: *due }, event)
            }
            (_, Command::Start(..)) => return Err(Refused::NotReady),

            (State::InProgress { .. }, Command::Finish(..) | Command::Fail { .. }) if self.is_past_deadline(now) => {
                return Err(Refused::PastDeadline);
            }
            (State::InProgress { holder, .. }, Command::Finish(by, output)) if self.holds(holder, &by) => {
                (State::Completed(output), self.event(EventKind::TaskCompleted(self.attempt_of(holder)), now))
            }
            (State::InProgress { holder, .. }, Command::Fail { by, failure, retry }) if self.holds(holder, &by) => {
                let retry = retry && self.failures < self.retries_max;
                let failure = Failure { error: cut_error(failure.error), ..failure };
                let after = self.after_failure(holder, failure, retry, now);
                self.failures += 1;
                after
            }
            (_, Command::Finish(..) | Command::Fail { .. }) => return Err(Refused::NotHeld),

            (State::InProgress { holder, due }, Command::Lose) => {
                self.losses += 1;
                let (attempt, due) = (self.attempt_of(holder), *due);
                if self.losses > LOSSES_MAX {
                    let error = format!("its worker was lost {} times", self.losses);
                    (State::Failed(error.clone().into()), self.event(EventKind::TaskFailed { attempt, error }, now))
                } else {
                    let event = self.event(EventKind::TaskLost { attempt, losses: self.losses }, now);
                    (State::Pending { due, waiting_for: 0 }, event)
                }
            }
            (State::InProgress { holder, due }, Command::Release) => {
                let event = self.event(EventKind::TaskReleased(self.attempt_of(holder)), now);
                (State::Pending { due: *due, waiting_for: 0 }, event)
            }
            (_, Command::Lose | Command::Release) => return Err(Refused::NotInProgress),
        };
        self.state = next;
        Ok(event)
    }

    /// What is written down about an answer that came too late, so that people can see it and what it said.
    pub fn late_answer(&self, by: &Attempt, reason: &Refused, answer: LateAnswer, now: Timestamp) -> NewEvent {
        let (mut whole, mut cut, mut failure) = (None, None, None);
        match answer {
            LateAnswer::Output(output) if output.as_str().len() > LATE_ANSWER_BYTES_MAX => {
                cut = Some(cut_error(output.to_string()));
            }
            LateAnswer::Output(output) => whole = Some(output),
            LateAnswer::Error(error) => failure = Some(cut_error(error)),
        }
        let kind = EventKind::TaskAnswerRefused {
            worker: by.worker.clone(),
            attempt: by.number,
            reason: reason.to_string(),
            output: whole,
            output_cut: cut,
            error: failure,
        };
        self.event(kind, now)
    }

    /// Whether it must have ended by now.
    pub fn is_past_deadline(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    fn cancelled(&self, now: Timestamp) -> (State, NewEvent) {
        let attempt = self.held().map(WorkerAttempt::from);
        (State::Cancelled, self.event(EventKind::TaskCancelled { attempt }, now))
    }

    fn expired(&self, now: Timestamp) -> (State, NewEvent) {
        let attempt = self.held().map(WorkerAttempt::from);
        let error = match &attempt {
            Some(WorkerAttempt { worker, attempt }) => {
                format!("its deadline passed while {} worked on it, in attempt {attempt}", worker.0)
            }
            None if self.attempt == 0 => "its deadline passed before it was started".to_owned(),
            None => format!("its deadline passed after {} attempts, while it waited for another one", self.attempt),
        };
        (State::Failed(error.clone().into()), self.event(EventKind::TaskExpired { attempt, error }, now))
    }

    /// Where a failed attempt leads. `self.failures` does not count it yet.
    fn after_failure(&self, holder: &Holder, failure: Failure, retry: bool, now: Timestamp) -> (State, NewEvent) {
        let (attempt, error) = (self.attempt_of(holder), failure.error.clone());
        if retry {
            let due = now.after(backoff::delay(self.retry_delay, self.failures, (&self.id, self.attempt)));
            (State::Pending { due, waiting_for: 0 }, self.event(EventKind::TaskRetried { attempt, error, due }, now))
        } else {
            (State::Failed(failure), self.event(EventKind::TaskFailed { attempt, error }, now))
        }
    }

    /// The attempt that is under way, if one is.
    pub fn held(&self) -> Option<Attempt> {
        match &self.state {
            State::InProgress { holder: Holder { worker, .. }, .. } => {
                Some(Attempt { worker: worker.clone(), epoch: self.epoch, number: self.attempt })
            }
            _ => None,
        }
    }

    fn holds(&self, holder: &Holder, by: &Attempt) -> bool {
        holder.worker == by.worker && self.is_last(by)
    }

    /// Whether this is the attempt that was started last.
    fn is_last(&self, by: &Attempt) -> bool {
        (self.epoch, self.attempt) == (by.epoch, by.number)
    }

    fn attempt_of(&self, holder: &Holder) -> WorkerAttempt {
        WorkerAttempt { worker: holder.worker.clone(), attempt: self.attempt }
    }

    pub(crate) fn event(&self, kind: EventKind, at: Timestamp) -> NewEvent {
        NewEvent { at, run: self.run.clone(), task: Some(self.id.clone()), kind }
    }
}

impl From<Attempt> for WorkerAttempt {
    fn from(Attempt { worker, number, .. }: Attempt) -> WorkerAttempt {
        WorkerAttempt { worker, attempt: number }
    }
}

impl Summary {
    /// See [`Task::name`].
    pub fn name(&self) -> &str {
        self.step.as_deref().unwrap_or(&self.id.0)
    }
}

/// What an answer said that came too late.
#[derive(Clone, Debug, PartialEq)]
pub enum LateAnswer {
    /// It would have completed the task.
    Output(Json),
    /// It would have counted as a failure.
    Error(String),
}

impl State {
    /// Name in the database and the API.
    pub fn name(&self) -> &'static str {
        match self {
            State::Pending { .. } => "pending",
            State::InProgress { .. } => "in_progress",
            State::Completed(_) => "completed",
            State::Failed(_) => "failed",
            State::Blocked(_) => "blocked",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will change any more.
    pub fn is_over(&self) -> bool {
        !matches!(self, State::Pending { .. } | State::InProgress { .. })
    }
}

#[cfg(test)]
mod tests;
