//! What happened, in the order in which it became true. Written in the same transaction as the change, and numbered
//! without gaps in each namespace: who has read up to a number has missed nothing before it.
//!
//! A new kind of event is a variant of [`EventKind`], a line in [`EventKind::name`] and one in its tests.

mod filter;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};

pub use self::filter::EventFilter;
use crate::{
    Json, Timestamp,
    alert::Alert,
    id::{ClaimToken, RunId, TaskId, WorkerId},
    message::MessageKind,
    policy::Actor,
    step::Level,
};

/// One thing that happened, as it is read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Place in the namespace's log: 1, 2, 3, …
    pub number: i64,
    /// When it happened, by the store's time.
    pub at: Timestamp,
    /// Who caused it; nobody that is known if an older program wrote it, or another program than Skep caused it.
    pub actor: Option<EventActor>,
    /// In which run, if any.
    pub run: Option<RunId>,
    /// To which task, if any.
    pub task: Option<TaskId>,
    /// What happened.
    pub kind: EventKind,
}

/// One thing that happens now. It has no number and no actor yet: the write that appends it knows them.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// When it happened, by the store's time.
    pub at: Timestamp,
    /// In which run, if any.
    pub run: Option<RunId>,
    /// To which task, if any.
    pub task: Option<TaskId>,
    /// What happened.
    pub kind: EventKind,
}

/// Everything that can happen. In the database and for programs, an event has the name below, which never changes, and an
/// object with the variant's fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EventKind {
    /// A run began.
    #[serde(rename = "run.started")]
    RunStarted {
        /// The plan's name.
        name: String,
        /// How many tasks it has.
        tasks: u64,
    },
    /// A run is over.
    #[serde(rename = "run.ended")]
    RunEnded {
        /// `completed`, `failed` or `cancelled`.
        end: String,
    },
    /// A run stopped before its end and can be resumed.
    #[serde(rename = "run.interrupted")]
    RunInterrupted {},
    /// A run was resumed.
    #[serde(rename = "run.resumed")]
    RunResumed {},
    /// A run that was over is running again, with the tasks that are reopened.
    #[serde(rename = "run.retried")]
    RunRetried {},
    /// A task was declared.
    #[serde(rename = "task.submitted")]
    TaskSubmitted {
        /// The queue in which it waits.
        queue: String,
    },
    /// A worker took a task.
    #[serde(rename = "task.started")]
    TaskStarted(WorkerAttempt),
    /// A task was answered.
    #[serde(rename = "task.completed")]
    TaskCompleted(WorkerAttempt),
    /// An attempt failed and another follows.
    #[serde(rename = "task.retried")]
    TaskRetried {
        /// The one that failed.
        #[serde(flatten)]
        attempt: WorkerAttempt,
        /// Why.
        error: String,
        /// When the next attempt may start.
        due: Timestamp,
    },
    /// A task failed for good.
    #[serde(rename = "task.failed")]
    TaskFailed {
        /// The last attempt.
        #[serde(flatten)]
        attempt: WorkerAttempt,
        /// Why.
        error: String,
    },
    /// A worker says how far it has come.
    #[serde(rename = "task.progress")]
    TaskProgress {
        /// The attempt that is under way.
        #[serde(flatten)]
        attempt: WorkerAttempt,
        /// How much is done, of a hundred.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        percent: Option<u8>,
        /// What it is doing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// A task had not ended at its deadline, and has failed.
    #[serde(rename = "task.expired")]
    TaskExpired {
        /// The one that was in progress, if any was.
        #[serde(flatten)]
        attempt: Option<WorkerAttempt>,
        /// How far it had come.
        error: String,
    },
    /// A task cannot start any more.
    #[serde(rename = "task.blocked")]
    TaskBlocked {
        /// The task that it depends on and that ended without success.
        by: TaskId,
    },
    /// A task was released unfinished; no failure is counted.
    #[serde(rename = "task.released")]
    TaskReleased(WorkerAttempt),
    /// The worker of a task was lost and the task is given out again.
    #[serde(rename = "task.lost")]
    TaskLost {
        /// The one that was lost.
        #[serde(flatten)]
        attempt: WorkerAttempt,
        /// How often the task has lost its worker so far.
        losses: u32,
    },
    /// A task was cancelled.
    #[serde(rename = "task.cancelled")]
    TaskCancelled {
        /// The one that was in progress, if any was.
        #[serde(flatten)]
        attempt: Option<WorkerAttempt>,
    },
    /// A task that had ended without success is to be done again.
    #[serde(rename = "task.reopened")]
    TaskReopened {},
    /// An answer came too late and changed nothing.
    #[serde(rename = "task.answer_refused")]
    TaskAnswerRefused {
        // Not a flattened attempt: what is flattened cannot hold `Json`.
        /// Who answered.
        worker: WorkerId,
        /// For which attempt.
        attempt: u32,
        /// Why it was refused.
        reason: String,
        /// The output, if the answer was one and it is not too large.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
        output: Option<Json>,
        /// The beginning of the text of a large output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_cut: Option<String>,
        /// The error, if the answer was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// An entry in the run's log, for people.
    #[serde(rename = "task.log")]
    TaskLog {
        /// A sentence.
        message: String,
        /// More, for programs.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
        data: Option<Json>,
    },
    /// A memory entry was made or replaced. Its value is not told: it may be large, and be replaced again.
    #[serde(rename = "memory.stored")]
    MemoryStored {
        /// Its key.
        key: String,
        /// The revision that it has now.
        revision: i64,
        /// When it expires, if ever. No event tells of that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires: Option<Timestamp>,
    },
    /// A memory entry was deleted.
    #[serde(rename = "memory.deleted")]
    MemoryDeleted {
        /// Its key.
        key: String,
    },
    /// A step was logged.
    #[serde(rename = "step.logged")]
    StepLogged {
        /// Its number in the workspace.
        number: i64,
        /// How much it matters.
        level: Level,
        /// A sentence.
        message: String,
        /// More, for programs.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
        data: Option<Json>,
    },
    /// An agent joined a workspace, is back in it, or has another role.
    #[serde(rename = "member.joined")]
    MemberJoined {
        /// Its name.
        member: String,
        /// What it says that it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<String>,
    },
    /// An agent left a workspace.
    #[serde(rename = "member.left")]
    MemberLeft {
        /// Its name.
        member: String,
    },
    /// A message was sent. What it says is for its recipient.
    #[serde(rename = "message.sent")]
    MessageSent {
        /// Its number in the workspace.
        number: i64,
        /// What it is.
        #[serde(rename = "type")]
        kind: MessageKind,
        /// Who sent it.
        sender: String,
        /// To whom; all, if that is not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recipient: Option<String>,
        /// The number of the message that it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<i64>,
    },
    /// A file has a new revision.
    #[serde(rename = "file.written")]
    FileWritten {
        /// Its path.
        path: String,
        /// The number of the revision.
        revision: u64,
        /// The revision that its author had seen, 0 if there was none; nothing if the author did not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<u64>,
        /// SHA-256 of its contents, in hexadecimal.
        sha256: String,
        /// Bytes of its contents.
        size: u64,
        /// Where the file was changed, if not by a call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<FileSource>,
    },
    /// A file was deleted.
    #[serde(rename = "file.deleted")]
    FileDeleted {
        /// Its path.
        path: String,
        /// The number of the revision that says so.
        revision: u64,
        /// Where the file was changed, if not by a call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<FileSource>,
    },
    /// The store and the workspace's directory both had a new version of a file, whose changes overlap. The one of the
    /// directory is the newest revision, and the other one an older revision.
    #[serde(rename = "file.conflict")]
    FileConflict {
        /// Its path.
        path: String,
        /// The number of the revision that the directory had.
        revision: u64,
        /// The number of the revision that it replaced unseen.
        other: u64,
    },
    /// A claim on files was granted to the event's actor.
    #[serde(rename = "claim.taken")]
    ClaimTaken {
        /// The path or glob.
        pattern: String,
        /// The claim's number.
        token: ClaimToken,
        /// Whether others may have a shared claim on the same.
        shared: bool,
        /// When it is over, unless it is renewed.
        until: Timestamp,
    },
    /// A claim was released by its holder.
    #[serde(rename = "claim.released")]
    ClaimReleased {
        /// The path or glob.
        pattern: String,
        /// The claim's number.
        token: ClaimToken,
    },
    /// A request that waited for a claim was withdrawn.
    #[serde(rename = "claim.withdrawn")]
    ClaimWithdrawn {
        /// The path or glob.
        pattern: String,
        /// The request's number.
        token: ClaimToken,
    },
    /// A claim was taken away from its holder by the event's actor, an operator.
    #[serde(rename = "claim.forced")]
    ClaimForced {
        /// The path or glob.
        pattern: String,
        /// The claim's number.
        token: ClaimToken,
        /// Whose claim it was.
        principal: String,
        /// Which of the principal's agents had it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
    },
    /// A file was changed in the workspace's directory, where nobody asks for claims, while somebody had claimed it.
    #[serde(rename = "claim.bypassed")]
    ClaimBypassed {
        /// The path or glob.
        pattern: String,
        /// The claim's number.
        token: ClaimToken,
        /// Whose claim it is.
        principal: String,
        /// Which of the principal's agents has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        /// The file that was changed.
        path: String,
        /// The number of its new revision.
        revision: u64,
    },
    /// Another program than Skep has changed, added or deleted a row in the database.
    #[serde(rename = "foreign.changed")]
    ForeignChanged {
        /// In which table.
        table: String,
        /// The row's key.
        key: String,
    },
    /// A hub has raised an alert.
    #[serde(rename = "alert.raised")]
    AlertRaised(Alert),
    /// An alert of a hub is over.
    #[serde(rename = "alert.cleared")]
    AlertCleared(Alert),
    /// An event that a newer program has written, and that this one does not know or cannot read.
    #[serde(skip)]
    Unknown {
        /// Its name.
        name: String,
        /// Its fields.
        data: Json,
        /// What it is about, unless that is its task or its run.
        subject: Option<Subject<'static>>,
    },
}

/// Where a file was changed, if not by a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSource {
    /// In the directory that has the workspace's files, by whatever program.
    Directory,
}

/// Who caused an event: what an [`Actor`] is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventActor {
    /// Who called.
    pub principal: Arc<str>,
    /// Which of the principal's agents, if one did.
    pub agent: Option<Arc<str>>,
    /// The principal in whose name, where that is another one.
    pub on_behalf_of: Option<Arc<str>>,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// What it is: `run`, `task`, …
    pub kind: Cow<'a, str>,
    /// Its name.
    pub id: Cow<'a, str>,
}

/// A worker, and one of its attempts at a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerAttempt {
    /// Who has or had the task.
    pub worker: WorkerId,
    /// Which start of the task: 1, 2, …
    pub attempt: u32,
}

impl Event {
    /// What it is about; nothing that is known of the events of newer programs that are about neither a task nor a run.
    pub fn subject(&self) -> Option<Subject<'_>> {
        let task = || self.task.as_ref().map(|task| Subject::new("task", &task.0));
        let run = || self.run.as_ref().map(|run| Subject::new("run", &run.0));
        self.kind.subject().or_else(task).or_else(run)
    }
}

impl NewEvent {
    /// The event with its actor. Its number, which the commit gives it, is 0 until then.
    pub(crate) fn by(self, actor: Option<EventActor>) -> Event {
        let NewEvent { at, run, task, kind } = self;
        Event { number: 0, at, actor, run, task, kind }
    }
}

impl From<&Actor> for EventActor {
    fn from(actor: &Actor) -> EventActor {
        let Actor { principal, agent, on_behalf_of, .. } = actor;
        EventActor { principal: principal.clone(), agent: agent.clone(), on_behalf_of: on_behalf_of.clone() }
    }
}

impl<'a> Subject<'a> {
    /// The one of this kind and name.
    pub fn new(kind: impl Into<Cow<'a, str>>, id: impl Into<Cow<'a, str>>) -> Subject<'a> {
        Subject { kind: kind.into(), id: id.into() }
    }
}

impl EventKind {
    /// Its name, in the database and for programs. Names are never changed, only added.
    pub fn name(&self) -> &str {
        match self {
            EventKind::RunStarted { .. } => "run.started",
            EventKind::RunEnded { .. } => "run.ended",
            EventKind::RunInterrupted { .. } => "run.interrupted",
            EventKind::RunResumed { .. } => "run.resumed",
            EventKind::RunRetried { .. } => "run.retried",
            EventKind::TaskSubmitted { .. } => "task.submitted",
            EventKind::TaskStarted(_) => "task.started",
            EventKind::TaskCompleted(_) => "task.completed",
            EventKind::TaskRetried { .. } => "task.retried",
            EventKind::TaskFailed { .. } => "task.failed",
            EventKind::TaskProgress { .. } => "task.progress",
            EventKind::TaskExpired { .. } => "task.expired",
            EventKind::TaskBlocked { .. } => "task.blocked",
            EventKind::TaskReleased(_) => "task.released",
            EventKind::TaskLost { .. } => "task.lost",
            EventKind::TaskCancelled { .. } => "task.cancelled",
            EventKind::TaskReopened { .. } => "task.reopened",
            EventKind::TaskAnswerRefused { .. } => "task.answer_refused",
            EventKind::TaskLog { .. } => "task.log",
            EventKind::MemoryStored { .. } => "memory.stored",
            EventKind::MemoryDeleted { .. } => "memory.deleted",
            EventKind::StepLogged { .. } => "step.logged",
            EventKind::MemberJoined { .. } => "member.joined",
            EventKind::MemberLeft { .. } => "member.left",
            EventKind::MessageSent { .. } => "message.sent",
            EventKind::FileWritten { .. } => "file.written",
            EventKind::FileDeleted { .. } => "file.deleted",
            EventKind::FileConflict { .. } => "file.conflict",
            EventKind::ClaimTaken { .. } => "claim.taken",
            EventKind::ClaimReleased { .. } => "claim.released",
            EventKind::ClaimWithdrawn { .. } => "claim.withdrawn",
            EventKind::ClaimForced { .. } => "claim.forced",
            EventKind::ClaimBypassed { .. } => "claim.bypassed",
            EventKind::ForeignChanged { .. } => "foreign.changed",
            EventKind::AlertRaised(_) => "alert.raised",
            EventKind::AlertCleared(_) => "alert.cleared",
            EventKind::Unknown { name, .. } => name,
        }
    }

    /// What it is about, unless that is the event's task or its run.
    pub(crate) fn subject(&self) -> Option<Subject<'_>> {
        match self {
            EventKind::MemoryStored { key, .. } | EventKind::MemoryDeleted { key } => Some(Subject::new("memory", key)),
            EventKind::ForeignChanged { table, key } => match table.as_str() {
                "artefact" | "dependency" | "task_detail" | "task_tag" => Some(Subject::new("task", key)), // their rows are noted by their task
                table => Some(Subject::new(table, key)),
            },
            EventKind::StepLogged { number, .. } => Some(Subject::new("step", number.to_string())),
            EventKind::MemberJoined { member, .. } | EventKind::MemberLeft { member } => {
                Some(Subject::new("member", member))
            }
            EventKind::MessageSent { number, .. } => Some(Subject::new("message", number.to_string())),
            EventKind::FileWritten { path, .. }
            | EventKind::FileDeleted { path, .. }
            | EventKind::FileConflict { path, .. } => Some(Subject::new("file", path)),
            EventKind::ClaimTaken { pattern, .. }
            | EventKind::ClaimReleased { pattern, .. }
            | EventKind::ClaimWithdrawn { pattern, .. }
            | EventKind::ClaimForced { pattern, .. }
            | EventKind::ClaimBypassed { pattern, .. } => Some(Subject::new("claim", pattern)),
            EventKind::AlertRaised(Alert { alert, .. }) | EventKind::AlertCleared(Alert { alert, .. }) => {
                Some(Subject::new("alert", alert))
            }
            EventKind::Unknown { subject, .. } => subject.clone(),
            _ => None,
        }
    }

    /// Its fields, as an object.
    pub fn data(&self) -> Json {
        if let EventKind::Unknown { data, .. } = self {
            return data.clone();
        }
        match self {
            // Most events are one of these.
            EventKind::TaskStarted(attempt) | EventKind::TaskCompleted(attempt) => Json::of(attempt),
            kind => kind.data_of_any(),
        }
    }

    fn data_of_any(&self) -> Json {
        // `{"task.started":{…}}`: what stands behind the name, in which nothing is escaped.
        let Ok(mut text) = serde_json::to_string(self) else { return Json::from_database("{}") };
        text.pop();
        text.drain(..r#"{"":"#.len() + self.name().len());
        Json::from_database(text)
    }

    /// What the database has. An event that this program does not know or cannot read is kept as it is.
    pub(crate) fn from_database(name: &str, data: Json, subject: Option<Subject<'static>>) -> EventKind {
        match serde_json::from_str(&format!("{{{}:{data}}}", serde_json::Value::from(name))) {
            Ok(known) => known,
            Err(_) => EventKind::Unknown { name: name.to_owned(), data, subject },
        }
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let json = |json: &Option<Json>| json.as_ref().map_or(0, |json| json.as_str().len());
        size_of::<EventKind>()
            + match self {
                EventKind::TaskLog { message, data } | EventKind::StepLogged { message, data, .. } => {
                    message.len() + json(data)
                }
                EventKind::TaskAnswerRefused { output, output_cut, error, .. } => {
                    json(output) + optional(output_cut) + optional(error)
                }
                EventKind::TaskRetried { error, .. } | EventKind::TaskFailed { error, .. } => error.len(),
                EventKind::Unknown { data, .. } => data.as_str().len(),
                _ => 0, // names, which have limits
            }
    }
}

/// A value that is there, even if it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}
