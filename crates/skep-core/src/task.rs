//! The life of a task, as one function: [`Task::apply`].
//!
//! ```text
//!            ┌──────── fail, retries left; release; lose ───────────┐
//!            ▼                                                      │
//!   Pending{due, waiting_for} ──start──▶ InProgress(Holder) ────────┤
//!      │   │                                 │                      ├─finish─▶ Completed
//!      │   └─ what it needs has failed ──▶ Blocked                  ├─fail, no retries left; lose too often─▶ Failed
//!      └───────────── cancel ────────────────┴─────────────────────▶ Cancelled
//! ```
//!
//! What ended without success can be reopened, which makes it pending again with all its retries.
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

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Json, Timestamp,
    event::{Kind, NewEvent},
    limits::{
        INPUT_BYTES_MAX, Invalid, LATE_ANSWER_BYTES_MAX, LOSSES_MAX, RUN_DEPENDENCIES_MAX, RUN_TASKS_MAX, check_count,
        check_json, check_name, cut_error,
    },
    run::RunId,
    session::SessionId,
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
    pub input: Json,
    /// Tasks that must be over before this one may start.
    pub depends_on: Vec<TaskId>,
    /// Where the task stands.
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
    pub input: Json,
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
    InProgress(Holder),
    /// The worker's answer.
    Completed(Json),
    /// Why the last attempt failed, and what it had to show for itself.
    Failed(Failure),
    /// This task, on which it depends directly or through others, has ended without success.
    Blocked(TaskId),
    /// Somebody withdrew it.
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
    /// The holder of this attempt brings the answer.
    Finish(Attempt, Json),
    /// The holder of this attempt gives up.
    Fail {
        /// Who gives up.
        by: Attempt,
        /// Why.
        failure: Failure,
        /// Whether another attempt may go better.
        retry: bool,
    },
    /// The session that holds it is gone, and nobody knows how far its worker came. Nothing has failed, but who takes a
    /// task that workers do not survive shall not be the next of many.
    Lose,
    /// The task is given back unfinished, because its worker stops or is gone. Nothing has failed.
    Release,
    /// Somebody withdraws it.
    Cancel,
    /// It ended without success and is to be done again, after so many others that it depends on.
    Reopen {
        /// How many of its dependencies are unfinished.
        waiting_for: u32,
    },
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
    #[error("the task has been taken back or given to another worker")]
    NotHeld,
    /// The answer of this attempt has been taken already; this is no error, only the same once more.
    #[error("this attempt has already answered")]
    Repeated,
    /// Nobody holds the task, so nobody can give it back.
    #[error("the task is not in progress")]
    NotInProgress,
    /// It has not ended, so there is nothing to do again.
    #[error("the task is not over")]
    Unfinished,
}

impl NewTask {
    /// A task without run, dependencies or retries.
    pub fn new(id: TaskId, queue: impl Into<String>, input: impl Into<Json>) -> NewTask {
        NewTask {
            id,
            run: None,
            queue: queue.into(),
            input: input.into(),
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
            losses: 0,
            retries_max: new.retries_max,
            retry_delay: new.retry_delay,
            allow_failure: new.allow_failure,
        }
    }

    /// Apply one command at one moment. On refusal the task is unchanged.
    pub fn apply(&mut self, command: Command, now: Timestamp) -> Result<NewEvent, Refused> {
        let (next, event) = match (&self.state, command) {
            (State::Completed(_), Command::Finish(by, _)) if by.number == self.attempt => {
                return Err(Refused::Repeated);
            }
            (State::Failed(_) | State::Blocked(_) | State::Cancelled, Command::Reopen { waiting_for }) => {
                (self.failures, self.losses) = (0, 0);
                let event = self.event(Kind::TaskReopened, json!({}), now);
                (State::Pending { due: now, waiting_for }, event)
            }
            (state, _) if state.is_over() => return Err(Refused::Over(state.name())),
            (_, Command::Reopen { .. }) => return Err(Refused::Unfinished),

            (State::Pending { due, waiting_for: 0 }, Command::Start(holder)) if *due <= now => {
                self.attempt += 1;
                let event = self.event(Kind::TaskStarted, self.data_of(&holder), now);
                (State::InProgress(holder), event)
            }
            (_, Command::Start(..)) => return Err(Refused::NotReady),

            (State::InProgress(holder), Command::Finish(by, output)) if self.holds(holder, &by) => {
                (State::Completed(output), self.event(Kind::TaskCompleted, self.data_of(holder), now))
            }
            (State::InProgress(holder), Command::Fail { by, failure, retry }) if self.holds(holder, &by) => {
                let retry = retry && self.failures < self.retries_max;
                let failure = Failure { error: cut_error(failure.error), ..failure };
                let after = self.after_failure(holder, failure, retry, now);
                self.failures += 1;
                after
            }
            (_, Command::Finish(..) | Command::Fail { .. }) => return Err(Refused::NotHeld),

            (State::InProgress(holder), Command::Lose) => {
                self.losses += 1;
                let mut data = self.data_of(holder);
                if self.losses > LOSSES_MAX {
                    let error = format!("its worker was lost {} times", self.losses);
                    data["error"] = error.as_str().into();
                    (State::Failed(error.into()), self.event(Kind::TaskFailed, data, now))
                } else {
                    data["losses"] = self.losses.into();
                    (State::Pending { due: now, waiting_for: 0 }, self.event(Kind::TaskLost, data, now))
                }
            }
            (_, Command::Lose) => return Err(Refused::NotInProgress),

            (State::InProgress(holder), Command::Release) => {
                let event = self.event(Kind::TaskReleased, self.data_of(holder), now);
                (State::Pending { due: now, waiting_for: 0 }, event)
            }
            (_, Command::Release) => return Err(Refused::NotInProgress),

            (State::InProgress(holder), Command::Cancel) => {
                (State::Cancelled, self.event(Kind::TaskCancelled, self.data_of(holder), now))
            }
            (_, Command::Cancel) => (State::Cancelled, self.event(Kind::TaskCancelled, json!({}), now)),
        };
        self.state = next;
        Ok(event)
    }

    /// What is written down about an answer that came too late, so that people can see it and what it said.
    pub fn late_answer(&self, by: &Attempt, reason: &Refused, answer: LateAnswer, now: Timestamp) -> NewEvent {
        /// The event's data. The answer stands in it as it was given.
        #[derive(Serialize)]
        struct Data<'a> {
            worker: &'a str,
            attempt: u32,
            reason: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            output: Option<Json>,
            #[serde(skip_serializing_if = "Option::is_none")]
            output_cut: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<String>,
        }
        let reason = reason.to_string();
        let data =
            Data { worker: &by.worker.0, attempt: by.number, reason, output: None, output_cut: None, error: None };
        let data = match answer {
            LateAnswer::Output(output) if output.as_str().len() > LATE_ANSWER_BYTES_MAX => {
                Data { output_cut: Some(cut_error(output.to_string())), ..data }
            }
            LateAnswer::Output(output) => Data { output: Some(output), ..data },
            LateAnswer::Error(error) => Data { error: Some(cut_error(error)), ..data },
        };
        self.event(Kind::TaskAnswerRefused, Json::of(&data), now)
    }

    /// Where a failed attempt leads. `self.failures` does not count it yet.
    fn after_failure(&self, holder: &Holder, failure: Failure, retry: bool, now: Timestamp) -> (State, NewEvent) {
        let mut data = self.data_of(holder);
        data["error"] = failure.error.clone().into();
        if retry {
            let delay = self.retry_delay.saturating_mul(1 << self.failures.min(30)).min(RETRY_DELAY_MAX);
            let due = now.after(delay);
            data["due"] = due.0.into();
            (State::Pending { due, waiting_for: 0 }, self.event(Kind::TaskRetried, data, now))
        } else {
            (State::Failed(failure), self.event(Kind::TaskFailed, data, now))
        }
    }

    /// The attempt that is under way, if one is.
    pub fn held(&self) -> Option<Attempt> {
        match &self.state {
            State::InProgress(holder) => Some(Attempt { worker: holder.worker.clone(), number: self.attempt }),
            _ => None,
        }
    }

    fn holds(&self, holder: &Holder, by: &Attempt) -> bool {
        holder.worker == by.worker && self.attempt == by.number
    }

    fn data_of(&self, holder: &Holder) -> Value {
        json!({ "worker": holder.worker.0, "attempt": self.attempt })
    }

    pub(crate) fn event(&self, kind: Kind, data: impl Into<Json>, at: Timestamp) -> NewEvent {
        NewEvent { at, kind, run: self.run.clone(), task: Some(self.id.clone()), data: data.into() }
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

/// The tasks of a run that ended without success and can be done again, each with how many others it waits for then: all
/// but failures that were allowed; or one task, and what was blocked or cancelled because of it. A task that needs one
/// which stays without success stays so, too.
pub(crate) fn to_reopen(tasks: &[Task], only: Option<&TaskId>) -> Vec<(TaskId, u32)> {
    let never_started = |task: &Task| matches!(task.state, State::Blocked(_) | State::Cancelled);
    let by_id: HashMap<&TaskId, &Task> = tasks.iter().map(|task| (&task.id, task)).collect();
    let mut chosen: HashSet<&TaskId> = tasks
        .iter()
        .filter(|task| match only {
            None => never_started(task) || !task.allow_failure && matches!(task.state, State::Failed(_)),
            Some(only) => task.id == *only && (never_started(task) || matches!(task.state, State::Failed(_))),
        })
        .map(|task| &task.id)
        .collect();
    loop {
        let count = chosen.len();
        let needs_chosen = |task: &&Task| task.depends_on.iter().any(|need| chosen.contains(need));
        let more: Vec<&TaskId> =
            tasks.iter().filter(|task| never_started(task)).filter(needs_chosen).map(|task| &task.id).collect();
        chosen.extend(more);
        if chosen.len() == count {
            break;
        }
    }
    loop {
        let stays = |need: &TaskId| {
            let in_vain = |task: &&Task| task.state.is_over() && !matches!(task.state, State::Completed(_));
            !chosen.contains(need) && by_id.get(need).is_some_and(|task| in_vain(task) && !task.allow_failure)
        };
        let hopeless = |id: &&TaskId| by_id.get(*id).is_some_and(|task| task.depends_on.iter().any(stays));
        let hopeless: Vec<&TaskId> = chosen.iter().copied().filter(hopeless).collect();
        if hopeless.is_empty() {
            break;
        }
        for id in hopeless {
            chosen.remove(id);
        }
    }
    let waits_for =
        |need: &&TaskId| by_id.get(*need).is_some_and(|task| !task.state.is_over()) || chosen.contains(*need);
    let reopened = tasks.iter().filter(|task| chosen.contains(&task.id));
    let with_count = |task: &Task| {
        let count = task.depends_on.iter().filter(waits_for).count();
        (task.id.clone(), u32::try_from(count).unwrap_or(u32::MAX))
    };
    reopened.map(with_count).collect()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(retries_max: u32) -> Task {
        let new = NewTask { retries_max, ..NewTask::new(TaskId("t".into()), "q", Json::null()) };
        Task::new(new, 0, 0, Timestamp(0))
    }

    fn json(value: i32) -> Json {
        Value::from(value).into()
    }

    fn data(event: &NewEvent) -> Value {
        event.data.parse().unwrap()
    }

    fn worker(name: &str) -> WorkerId {
        WorkerId(name.into())
    }

    fn start(worker_name: &str) -> Command {
        let session = SessionId(format!("session of {worker_name}"));
        Command::Start(Holder { worker: worker(worker_name), session })
    }

    fn by(name: &str, number: u32) -> Attempt {
        Attempt { worker: worker(name), number }
    }

    fn fail(by: Attempt) -> Command {
        Command::Fail { by, failure: "boom".into(), retry: true }
    }

    #[test]
    fn the_late_answer_of_a_lost_attempt_is_refused() {
        let mut task = task(1);
        task.apply(start("a"), Timestamp(0)).unwrap();
        task.apply(Command::Lose, Timestamp(5_000_000)).unwrap();
        task.apply(start("a"), Timestamp(9_000_000)).unwrap();
        let answer = task.apply(Command::Finish(by("a", 1), json(42)), Timestamp(9_000_001));
        assert_eq!(answer, Err(Refused::NotHeld), "even from the worker that holds it again");
        let event = task.late_answer(&by("a", 1), &Refused::NotHeld, LateAnswer::Output(json(42)), Timestamp(1));
        assert_eq!((event.kind, &data(&event)["output"]), (Kind::TaskAnswerRefused, &Value::from(42)));
    }

    #[test]
    fn of_a_large_late_answer_the_beginning_is_kept() {
        let task = task(1);
        let of = |output: String| {
            let answer = LateAnswer::Output(Value::from(output).into());
            data(&task.late_answer(&by("a", 1), &Refused::NotHeld, answer, Timestamp(1)))
        };
        let whole = of("x".repeat(LATE_ANSWER_BYTES_MAX - 2));
        assert!(whole["output"].is_string() && whole["output_cut"].is_null());
        let cut = of("x".repeat(LATE_ANSWER_BYTES_MAX));
        assert!(cut["output"].is_null() && cut.to_string().len() < LATE_ANSWER_BYTES_MAX + 1000);
        assert!(cut["output_cut"].as_str().unwrap().starts_with("\"xxx"), "{cut}");
    }

    #[test]
    fn a_released_task_is_ready_at_once_without_a_failure_and_fences_its_former_holder() {
        let mut task = task(0);
        task.apply(start("a"), Timestamp(0)).unwrap();
        task.apply(Command::Release, Timestamp(1)).unwrap();
        assert_eq!((&task.state, task.failures), (&State::Pending { due: Timestamp(1), waiting_for: 0 }, 0));
        assert_eq!(task.apply(fail(by("a", 1)), Timestamp(1)), Err(Refused::NotHeld));
        task.apply(start("b"), Timestamp(1)).unwrap();
        assert_eq!(task.attempt, 2);
    }

    #[test]
    fn a_lost_worker_is_no_failure_but_a_task_that_loses_too_many_has_failed() {
        let mut task = task(0);
        for loss in 1..=LOSSES_MAX {
            task.apply(start("a"), Timestamp(1)).unwrap();
            let event = task.apply(Command::Lose, Timestamp(1)).unwrap();
            assert_eq!((event.kind, &data(&event)["losses"]), (Kind::TaskLost, &loss.into()));
            assert_eq!((&task.state, task.failures), (&State::Pending { due: Timestamp(1), waiting_for: 0 }, 0));
            assert_eq!(task.apply(Command::Lose, Timestamp(1)), Err(Refused::NotInProgress));
        }
        task.apply(start("a"), Timestamp(1)).unwrap();
        let event = task.apply(Command::Lose, Timestamp(1)).unwrap();
        assert_eq!(event.kind, Kind::TaskFailed);
        assert_eq!(task.state, State::Failed(format!("its worker was lost {} times", LOSSES_MAX + 1).into()));
    }

    #[test]
    fn retries_wait_twice_as_long_each_time_up_to_the_longest_wait() {
        let mut task = task(20);
        let mut waits = Vec::new();
        let mut now = Timestamp(0);
        for attempt in 1..=12 {
            task.apply(start("a"), now).unwrap();
            task.apply(fail(by("a", attempt)), now).unwrap();
            let State::Pending { due, .. } = task.state else { panic!("{:?}", task.state) };
            waits.push((due.0 - now.0) / 1_000_000);
            now = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }

    #[test]
    fn a_failure_is_final_when_no_retry_is_left_or_none_makes_sense() {
        let mut task = task(1);
        task.apply(start("a"), Timestamp(0)).unwrap();
        let mut hopeless = task.clone();
        let command = Command::Fail { by: by("a", 1), failure: "no such file".into(), retry: false };
        hopeless.apply(command, Timestamp(0)).unwrap();
        assert_eq!(hopeless.state, State::Failed("no such file".into()));

        task.apply(fail(by("a", 1)), Timestamp(0)).unwrap();
        assert_eq!(task.state, State::Pending { due: Timestamp(1_000_000), waiting_for: 0 });
        task.apply(start("a"), Timestamp(1_000_000)).unwrap();
        task.apply(fail(by("a", 2)), Timestamp(1_000_000)).unwrap();
        assert_eq!(task.state, State::Failed("boom".into()));
    }

    #[test]
    fn a_task_that_waits_for_others_does_not_start() {
        let new = NewTask::new(TaskId("t".into()), "q", Json::null());
        let mut task = Task::new(new, 0, 1, Timestamp(0));
        assert_eq!(task.apply(start("a"), Timestamp(9)), Err(Refused::NotReady));
    }

    #[test]
    fn the_same_answer_once_more_is_told_apart_from_a_late_one() {
        let mut task = task(0);
        task.apply(start("a"), Timestamp(0)).unwrap();
        task.apply(Command::Finish(by("a", 1), json(1)), Timestamp(1)).unwrap();
        assert_eq!(task.apply(Command::Finish(by("a", 1), json(1)), Timestamp(2)), Err(Refused::Repeated));
        assert_eq!(task.apply(Command::Finish(by("a", 2), json(1)), Timestamp(2)), Err(Refused::Over("completed")));
    }

    #[test]
    fn only_what_ended_without_success_is_reopened_and_has_all_its_retries_again() {
        let reopen = Command::Reopen { waiting_for: 2 };
        let mut task = task(1);
        assert_eq!(task.apply(reopen.clone(), Timestamp(0)), Err(Refused::Unfinished));
        for attempt in [1, 2] {
            task.apply(start("a"), Timestamp(i64::from(attempt) * 9_000_000)).unwrap();
            task.apply(fail(by("a", attempt)), Timestamp(i64::from(attempt) * 9_000_000)).unwrap();
        }
        let event = task.apply(reopen.clone(), Timestamp(50_000_000)).unwrap();
        assert_eq!(event.kind, Kind::TaskReopened);
        assert_eq!((&task.state, task.failures), (&State::Pending { due: Timestamp(50_000_000), waiting_for: 2 }, 0));
        assert_eq!(task.attempt, 2, "tokens go on");
        let mut done = Task { state: State::Completed(Json::null()), ..task };
        assert_eq!(done.apply(reopen, Timestamp(1)), Err(Refused::Over("completed")));
    }

    /// Tasks of one run: name, what it needs, its state, and whether its failure is allowed.
    fn ended(tasks: &[(&str, &[&str], State, bool)]) -> Vec<Task> {
        let id = |name: &&str| TaskId((*name).to_owned());
        let task = |(name, needs, state, allow_failure): &(&str, &[&str], State, bool)| {
            let depends_on = needs.iter().map(id).collect();
            let new =
                NewTask { depends_on, allow_failure: *allow_failure, ..NewTask::new(id(name), "q", Json::null()) };
            Task { state: state.clone(), ..Task::new(new, 0, 0, Timestamp(0)) }
        };
        tasks.iter().map(task).collect()
    }

    fn reopened(tasks: &[Task], only: Option<&str>) -> Vec<(String, u32)> {
        let only = only.map(|name| TaskId(name.to_owned()));
        to_reopen(tasks, only.as_ref()).into_iter().map(|(id, waits)| (id.0, waits)).collect()
    }

    #[test]
    fn failed_tasks_and_what_they_held_up_are_done_again_and_nothing_else() {
        let (failed, done) = (State::Failed("x".into()), State::Completed(Json::null()));
        let blocked = State::Blocked(TaskId("a".into()));
        let tasks = ended(&[
            ("last", &["b", "d"], blocked.clone(), false),
            ("a", &[], failed.clone(), false),
            ("b", &["a", "d"], blocked, false),
            ("c", &[], failed, true),
            ("d", &["c"], done, false),
            ("e", &[], State::Cancelled, false),
        ]);
        let all = [("last", 1), ("a", 0), ("b", 1), ("e", 0)].map(|(name, waits)| (name.to_owned(), waits));
        assert_eq!(reopened(&tasks, None), all);
        assert_eq!(reopened(&tasks, Some("a")), &all[..3]);
        assert_eq!(reopened(&tasks, Some("c")), [("c".to_owned(), 0)], "named, an allowed failure is done again, too");
        assert_eq!(reopened(&tasks, Some("d")), [], "it was completed");
        assert_eq!(reopened(&tasks, Some("b")), [], "it needs a, which stays as it is");
    }

    #[test]
    fn a_task_that_needs_another_failure_stays_blocked() {
        let failed = State::Failed("x".into());
        let tasks = ended(&[
            ("a", &[], failed.clone(), false),
            ("b", &[], failed, false),
            ("both", &["a", "b"], State::Blocked(TaskId("a".into())), false),
            ("after", &["both"], State::Blocked(TaskId("a".into())), false),
        ]);
        assert_eq!(reopened(&tasks, Some("a")), [("a".to_owned(), 0)]);
        assert_eq!(reopened(&tasks, None).len(), 4);
    }

    fn chain(names: &[(&str, &[&str])]) -> Vec<NewTask> {
        let id = |name: &&str| TaskId((*name).to_owned());
        let task = |(name, needs): &(&str, &[&str])| NewTask {
            depends_on: needs.iter().map(id).collect(),
            ..NewTask::new(id(name), "q", Json::null())
        };
        names.iter().map(task).collect()
    }

    #[test]
    fn a_graph_with_a_circle_is_refused_with_the_circle() {
        let tasks = chain(&[("a", &[]), ("b", &["a", "d"]), ("c", &["b"]), ("d", &["c"])]);
        let Err(refused) = check_graph(&tasks) else { panic!("taken") };
        assert_eq!(
            refused.to_string(),
            "these tasks wait for each other: b → d → c → b; remove one of the dependencies"
        );
        assert!(matches!(check_graph(&chain(&[("a", &["a"])])), Err(Invalid::Cycle(_))));
    }

    #[test]
    fn a_graph_with_unknown_or_repeated_names_is_refused_with_the_name() {
        let refused = check_graph(&chain(&[("a", &["b"])])).unwrap_err().to_string();
        assert_eq!(refused, "task a depends on b, which is not there; add it, or correct the name");
        assert!(matches!(check_graph(&chain(&[("a", &[]), ("a", &[])])), Err(Invalid::Duplicate(_))));
    }

    #[test]
    fn a_graph_is_taken_up_to_its_limit_even_as_one_long_chain() {
        let names: Vec<String> = (0..=RUN_TASKS_MAX).map(|n| n.to_string()).collect();
        let mut tasks: Vec<NewTask> = (0..RUN_TASKS_MAX)
            .map(|n| NewTask {
                depends_on: vec![TaskId(names[n + 1].clone())],
                ..NewTask::new(TaskId(names[n].clone()), "q", Json::null())
            })
            .collect();
        tasks[RUN_TASKS_MAX - 1].depends_on.clear();
        assert_eq!(check_graph(&tasks), Ok(()));
        tasks.push(NewTask::new(TaskId("one more".into()), "q", Json::null()));
        assert!(matches!(check_graph(&tasks), Err(Invalid::TooMany { .. })));
    }

    fn command() -> impl Strategy<Value = Command> {
        let by = (prop_oneof!["a", "b"], 0u32..6).prop_map(|(w, number)| Attempt { worker: WorkerId(w), number });
        let fail =
            (by.clone(), any::<bool>()).prop_map(|(by, retry)| Command::Fail { by, failure: "boom".into(), retry });
        prop_oneof![
            4 => prop_oneof!["a", "b"].prop_map(|w| start(&w)),
            1 => by.prop_map(|by| Command::Finish(by, json(1))),
            3 => fail,
            2 => Just(Command::Lose),
            2 => Just(Command::Release),
            1 => Just(Command::Cancel),
        ]
    }

    proptest! {
        #[test]
        fn rules_hold_for_any_history(
            retries_max in 0u32..4,
            steps in prop::collection::vec((command(), 0i64..20_000_000), 0..80),
        ) {
            let (mut task, mut now) = (task(retries_max), 0);
            for (command, gap) in steps {
                now += gap;
                let before = task.clone();
                let holder = match &before.state {
                    State::InProgress(holder) => Some(Attempt { worker: holder.worker.clone(), number: before.attempt }),
                    _ => None,
                };
                let result = task.apply(command.clone(), Timestamp(now));
                if result.is_err() || before.state.is_over() {
                    prop_assert_eq!(&task, &before, "a refusal changes nothing");
                    continue;
                }
                let started = matches!(command, Command::Start(..));
                prop_assert_eq!(task.attempt, before.attempt + u32::from(started), "a token is never used twice");
                let failed = matches!(command, Command::Fail { .. });
                prop_assert_eq!(task.failures, before.failures + u32::from(failed));
                prop_assert!(task.failures <= retries_max + 1);
                prop_assert!(task.failures <= retries_max || matches!(task.state, State::Failed(_)));
                prop_assert_eq!(task.losses, before.losses + u32::from(matches!(command, Command::Lose)));
                prop_assert!(task.losses <= LOSSES_MAX || task.losses == LOSSES_MAX + 1 && task.state.is_over());
                match command {
                    Command::Finish(by, _) | Command::Fail { by, .. } => {
                        prop_assert_eq!(Some(by), holder, "only the holder is heard");
                    }
                    Command::Lose => prop_assert!(holder.is_some(), "only what somebody has can be lost"),
                    _ => {}
                }
            }
        }
    }
}
