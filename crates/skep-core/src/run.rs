//! The life of a run, as one function: [`Run::apply`].
//!
//! ```text
//!   Running ──interrupt──▶ Interrupted        Running ──end──▶ Completed | Failed | Cancelled
//!      ▲                        │                ▲                            │
//!      └─────────resume─────────┘                └───────────retry────────────┘
//! ```
//!
//! A run is one execution of a plan: its tasks, its log, its report. The process that runs it decides when it ends, and
//! how. A run whose process was killed stays `Running`; resuming it releases its tasks.

pub use crate::id::RunId;
use crate::{
    Json, Timestamp,
    event::{EventKind, NewEvent},
    limits::{Invalid, PLAN_BYTES_MAX, check_json, check_name},
};

/// One execution of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Stable name, given at the start, unique in its namespace.
    pub id: RunId,
    /// Name for people.
    pub name: String,
    /// The plan, as it was given.
    pub plan: Json,
    /// What all its tasks may use, as it was given. `None` if a program before migration 0012 has started the run.
    pub inputs: Option<Json>,
    /// Where its tasks work.
    pub directory: String,
    /// Its state.
    pub state: State,
    /// When it began.
    pub created: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The report, once there is one.
    pub report: Option<Json>,
}

/// A run as it is started.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// Stable name, unique in the namespace. A second run of this name is the first one.
    pub id: RunId,
    /// Name for people.
    pub name: String,
    /// The plan, kept as it is.
    pub plan: Json,
    /// What all its tasks may use, kept as it is: once, and not with each task.
    pub inputs: Json,
    /// Where its tasks work.
    pub directory: String,
}

/// A deletion of a run that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The run. Its row is deleted.
    pub run: RunId,
    /// How many deletions have begun in the namespace, this one included. Deletions of runs of one name differ in it.
    pub epoch: i64,
}

/// A run without its plan and its report, which may be large.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// See [`Run::id`].
    pub id: RunId,
    /// See [`Run::name`].
    pub name: String,
    /// See [`Run::directory`].
    pub directory: String,
    /// See [`Run::state`].
    pub state: State,
    /// See [`Run::created`].
    pub created: Timestamp,
    /// See [`Run::ended`].
    pub ended: Option<Timestamp>,
}

/// Characters of a short name at least: fewer are soon ambiguous.
const SHORT_NAME_CHARS_MIN: usize = 6;

/// For each of these names the shortest end that no other has; the name itself if even that is the end of another.
pub fn short_names(ids: &[&RunId]) -> Vec<String> {
    let reversed = |id: &RunId| id.0.chars().rev().collect::<Vec<char>>();
    let mut sorted: Vec<Vec<char>> = ids.iter().map(|id| reversed(id)).collect();
    sorted.sort_unstable();
    let shared = |one: &[char], other: &[char]| one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let short = |id: &&RunId| {
        let name = reversed(id);
        // Of all names, those beside it in order share the most with it.
        let at = sorted.binary_search(&name).unwrap_or_default();
        let neighbours = [at.checked_sub(1), Some(at + 1)].into_iter().flatten().filter_map(|n| sorted.get(n));
        let most = neighbours.map(|other| shared(&name, other)).max().unwrap_or(0);
        let chars = (most + 1).max(SHORT_NAME_CHARS_MIN).min(name.len());
        name[..chars].iter().rev().collect()
    };
    ids.iter().map(short).collect()
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A process runs it, or was killed while it did.
    Running,
    /// Its process stopped in good order; it can be resumed.
    Interrupted,
    /// It was successful.
    Completed,
    /// It was not.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It was successful.
    Completed,
    /// It was not.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// What can happen to a run.
#[derive(Clone, Debug)]
pub enum Command {
    /// Stop in good order, to be resumed later.
    Interrupt,
    /// Go on, after an interruption or after its process was killed.
    Resume,
    /// It is over, with this report.
    End(End, Option<Json>),
    /// What ended without success is to be done again.
    Retry,
}

/// Why a command does not fit the run's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing changes the run any more.
    #[error("the run is already {0}")]
    Over(&'static str),
    /// It is interrupted; resume it first.
    #[error("the run is interrupted; resume it first")]
    Interrupted,
    /// It is running, or interrupted.
    #[error("the run is not over; cancel it, or resume it and wait for its end")]
    NotOver,
}

impl NewRun {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        check_name("run", &self.id.0)?;
        check_name("name of the run", &self.name)?;
        check_name("directory", &self.directory)?;
        check_json("the plan", &self.plan, PLAN_BYTES_MAX)?;
        check_json("the inputs of the plan", &self.inputs, PLAN_BYTES_MAX)
    }

    /// How large it is.
    pub(crate) fn bytes(&self) -> usize {
        self.plan.as_str().len() + self.inputs.as_str().len()
    }
}

impl Run {
    /// A run at its beginning, and what is written down about it.
    pub fn start(new: NewRun, tasks: usize, now: Timestamp) -> (Run, NewEvent) {
        let NewRun { id, name, plan, inputs, directory } = new;
        let (state, inputs) = (State::Running, Some(inputs));
        let run = Run { id, name, plan, inputs, directory, state, created: now, ended: None, report: None };
        let event = run.event(EventKind::RunStarted { name: run.name.clone(), tasks: tasks as u64 }, now);
        (run, event)
    }

    /// Apply one command at one moment. On refusal the run is unchanged.
    pub fn apply(&mut self, command: Command, now: Timestamp) -> Result<NewEvent, Refused> {
        let kind = match (self.state, command) {
            (State::Completed | State::Failed | State::Cancelled, Command::Retry) => {
                (self.state, self.ended, self.report) = (State::Running, None, None);
                EventKind::RunRetried {}
            }
            (State::Completed | State::Failed | State::Cancelled, _) => return Err(Refused::Over(self.state.name())),
            (_, Command::Retry) => return Err(Refused::NotOver),
            (State::Running | State::Interrupted, Command::Resume) => {
                self.state = State::Running;
                EventKind::RunResumed {}
            }
            (State::Running | State::Interrupted, Command::End(End::Cancelled, report)) => {
                self.end(End::Cancelled, report, now)
            }
            (State::Interrupted, _) => return Err(Refused::Interrupted),
            (State::Running, Command::Interrupt) => {
                self.state = State::Interrupted;
                EventKind::RunInterrupted {}
            }
            (State::Running, Command::End(end, report)) => self.end(end, report, now),
        };
        Ok(self.event(kind, now))
    }

    /// Refuse to delete it while it is running.
    pub fn check_deletable(&self) -> Result<(), Refused> {
        if self.state == State::Running { Err(Refused::NotOver) } else { Ok(()) }
    }

    fn end(&mut self, end: End, report: Option<Json>, now: Timestamp) -> EventKind {
        (self.state, self.ended, self.report) = (end.into(), Some(now), report);
        EventKind::RunEnded { end: self.state.name().to_owned() }
    }

    fn event(&self, kind: EventKind, at: Timestamp) -> NewEvent {
        NewEvent { at, run: Some(self.id.clone()), task: None, kind }
    }
}

impl State {
    /// All states.
    pub const ALL: [State; 5] = [State::Running, State::Interrupted, State::Completed, State::Failed, State::Cancelled];

    /// Name in the database and the API.
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Interrupted => "interrupted",
            State::Completed => "completed",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will change any more.
    pub fn is_over(self) -> bool {
        matches!(self, State::Completed | State::Failed | State::Cancelled)
    }
}

impl From<End> for State {
    fn from(end: End) -> State {
        match end {
            End::Completed => State::Completed,
            End::Failed => State::Failed,
            End::Cancelled => State::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_short_name_is_the_shortest_end_that_no_other_run_has() {
        let ids = ["aaaaaaaaxy123456", "aaaaaaaaxz123456", "bb999999", "short", "x"].map(|id| RunId(id.to_owned()));
        let short = short_names(&ids.iter().collect::<Vec<_>>());
        assert_eq!(short, ["y123456", "z123456", "999999", "short", "x"]);
        assert_eq!(short_names(&[]), Vec::<String>::new());
    }

    fn run() -> Run {
        let new = NewRun {
            id: RunId("r".into()),
            name: "audit".into(),
            plan: json!({}).into(),
            inputs: json!({}).into(),
            directory: "/".into(),
        };
        Run::start(new, 3, Timestamp(1)).0
    }

    #[test]
    fn an_interrupted_run_only_goes_on_when_it_is_resumed() {
        let mut run = run();
        run.apply(Command::Interrupt, Timestamp(2)).unwrap();
        assert_eq!(run.apply(Command::Interrupt, Timestamp(3)), Err(Refused::Interrupted));
        assert_eq!(run.apply(Command::End(End::Completed, None), Timestamp(3)), Err(Refused::Interrupted));
        assert_eq!(run.apply(Command::Resume, Timestamp(4)).unwrap().kind, EventKind::RunResumed {});
        assert_eq!(run.state, State::Running);
    }

    #[test]
    fn an_interrupted_run_can_be_called_off() {
        let mut run = run();
        run.apply(Command::Interrupt, Timestamp(2)).unwrap();
        run.apply(Command::End(End::Cancelled, None), Timestamp(3)).unwrap();
        assert_eq!((run.state, run.ended), (State::Cancelled, Some(Timestamp(3))));
    }

    #[test]
    fn a_run_is_retried_when_it_is_over_and_deleted_when_nobody_conducts_it() {
        let mut run = run();
        assert_eq!(run.apply(Command::Retry, Timestamp(2)), Err(Refused::NotOver));
        assert_eq!(run.check_deletable(), Err(Refused::NotOver));
        run.apply(Command::End(End::Failed, Some(json!("report").into())), Timestamp(3)).unwrap();
        assert_eq!(run.check_deletable(), Ok(()));
        assert_eq!(run.apply(Command::Retry, Timestamp(4)).unwrap().kind, EventKind::RunRetried {});
        assert_eq!((run.state, run.ended, &run.report), (State::Running, None, &None));
    }

    #[test]
    fn a_run_ends_once_and_keeps_how_and_when() {
        for end in [End::Completed, End::Failed, End::Cancelled] {
            let mut run = run();
            let event = run.apply(Command::End(end, Some(json!("report").into())), Timestamp(9)).unwrap();
            assert_eq!(event.kind, EventKind::RunEnded { end: run.state.name().into() });
            assert_eq!((run.state, run.ended), (State::from(end), Some(Timestamp(9))));
            let after = run.clone();
            for command in [Command::Interrupt, Command::Resume, Command::End(End::Failed, None)] {
                assert_eq!(run.apply(command, Timestamp(10)), Err(Refused::Over(run.state.name())));
            }
            assert_eq!(run, after);
        }
    }
}
