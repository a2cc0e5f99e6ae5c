//! What happened, in the order in which it became true. Written in the same transaction as the change, numbered
//! without gaps in each namespace: who has read up to a number has missed nothing before it.

use crate::{
    Json, Timestamp,
    id::{RunId, TaskId},
};

/// One thing that happened, as it is read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Place in the namespace's log: 1, 2, 3, …
    pub number: i64,
    /// When it happened, by the store's time.
    pub at: Timestamp,
    /// What happened.
    pub kind: Kind,
    /// In which run, if any.
    pub run: Option<RunId>,
    /// To which task, if any.
    pub task: Option<TaskId>,
    /// The rest: an object whose fields [`Kind`] names.
    pub data: Json,
}

/// One thing that happens now, and has no number yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// When it happened, by the store's time.
    pub at: Timestamp,
    /// What happened.
    pub kind: Kind,
    /// In which run, if any.
    pub run: Option<RunId>,
    /// To which task, if any.
    pub task: Option<TaskId>,
    /// The rest: an object whose fields [`Kind`] names.
    pub data: Json,
}

impl NewEvent {
    pub(crate) fn numbered(self, number: i64) -> Event {
        let NewEvent { at, kind, run, task, data } = self;
        Event { number, at, kind, run, task, data }
    }
}

/// What kind of thing happened. In brackets: the fields of the event's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A run began (`name`, `tasks`: how many).
    RunStarted,
    /// A run is over (`end`: completed, failed or cancelled).
    RunEnded,
    /// A run stopped before its end and can be resumed.
    RunInterrupted,
    /// A run was resumed.
    RunResumed,
    /// A run that was over is running again, with the tasks that are reopened.
    RunRetried,
    /// A task was declared (`queue`).
    TaskSubmitted,
    /// A worker took a task (`worker`, `attempt`).
    TaskStarted,
    /// A task was answered (`worker`, `attempt`).
    TaskCompleted,
    /// An attempt failed and another follows (`worker`, `attempt`, `error`, `due`).
    TaskRetried,
    /// A task failed for good (`worker`, `attempt`, `error`).
    TaskFailed,
    /// A task cannot start any more (`by`: the task that it depends on and that ended without success).
    TaskBlocked,
    /// A task was released unfinished; no failure is counted (`worker`, `attempt`).
    TaskReleased,
    /// The worker of a task was lost and the task is given out again (`worker`, `attempt`, `losses`: how often so far).
    TaskLost,
    /// A task was cancelled (`worker` and `attempt`, if it was in progress).
    TaskCancelled,
    /// A task that had ended without success is to be done again.
    TaskReopened,
    /// An answer came too late and changed nothing (`worker`, `attempt`, `reason`, and `output` or `error`; of a large
    /// output the beginning of its text, as `output_cut`).
    TaskAnswerRefused,
    /// An entry in the run's log, for people (`message`, `data`).
    TaskLog,
    /// Another program than Skep has changed, added or deleted rows in the database (`table`, `key`).
    ForeignChanged,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 18] = [
        Kind::RunStarted,
        Kind::RunEnded,
        Kind::RunInterrupted,
        Kind::RunResumed,
        Kind::RunRetried,
        Kind::TaskSubmitted,
        Kind::TaskStarted,
        Kind::TaskCompleted,
        Kind::TaskRetried,
        Kind::TaskFailed,
        Kind::TaskBlocked,
        Kind::TaskReleased,
        Kind::TaskLost,
        Kind::TaskCancelled,
        Kind::TaskReopened,
        Kind::TaskAnswerRefused,
        Kind::TaskLog,
        Kind::ForeignChanged,
    ];

    /// Name in the database and the API. Names are never changed, only added.
    pub fn name(self) -> &'static str {
        match self {
            Kind::RunStarted => "run.started",
            Kind::RunEnded => "run.ended",
            Kind::RunInterrupted => "run.interrupted",
            Kind::RunResumed => "run.resumed",
            Kind::RunRetried => "run.retried",
            Kind::TaskSubmitted => "task.submitted",
            Kind::TaskStarted => "task.started",
            Kind::TaskCompleted => "task.completed",
            Kind::TaskRetried => "task.retried",
            Kind::TaskFailed => "task.failed",
            Kind::TaskBlocked => "task.blocked",
            Kind::TaskReleased => "task.released",
            Kind::TaskLost => "task.lost",
            Kind::TaskCancelled => "task.cancelled",
            Kind::TaskReopened => "task.reopened",
            Kind::TaskAnswerRefused => "task.answer_refused",
            Kind::TaskLog => "task.log",
            Kind::ForeignChanged => "foreign.changed",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(Kind::from_name("task.eaten"), None);
    }
}
