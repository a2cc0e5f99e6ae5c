//! How much the core accepts, and the errors for more.
//!
//! Everything that is kept has a limit. What exceeds it is refused before anything is written, with the limit in the
//! error. How much may *wait* to be written is limited by [`crate::db::Limits`].

use std::time::Duration;

pub use crate::json::INLINE_BYTES_MAX;
use crate::{id::TaskId, json::Json};

/// Bytes in the name of a task, run, queue, worker or artefact.
pub const NAME_BYTES_MAX: usize = 512;
/// Bytes of a task's input, as JSON text: as of a plan, which may have all its text in one task.
pub const INPUT_BYTES_MAX: usize = PLAN_BYTES_MAX;
/// Bytes of a task's answer, as JSON text. Larger results are artefacts.
pub const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Bytes of a task's error. A longer one is cut, because refusing it would hide the failure that it tells of.
pub const ERROR_BYTES_MAX: usize = 64 << 10;
/// Bytes of an answer that came too late, as JSON text: of a larger one the beginning is kept. The same as of an error,
/// which is cut alike.
pub const LATE_ANSWER_BYTES_MAX: usize = ERROR_BYTES_MAX;
/// Bytes of one entry in a run's log, as JSON text.
pub const LOG_BYTES_MAX: usize = 64 << 10;
/// Bytes of a run's plan, of its inputs and of its report, each as JSON text.
pub const PLAN_BYTES_MAX: usize = 16 << 20;
/// How deep JSON may be nested: a little less than what `serde_json` reads back.
pub const JSON_DEPTH_MAX: usize = 100;
/// Tasks that are submitted at once. A larger graph is submitted in parts, each after what it depends on.
pub const SUBMITTED_MAX: usize = 1_000;
/// Tasks that one call does again, or cancels: a task, and what depends on it or is a part of it.
pub const RELATED_MAX: usize = 10_000;
/// Bytes of a task's title.
pub const TASK_TITLE_BYTES_MAX: usize = 1 << 10;
/// Bytes of a task's description.
pub const TASK_DESCRIPTION_BYTES_MAX: usize = 64 << 10;
/// Capabilities that a task requires, and labels that it has.
pub const TASK_TAGS_MAX: usize = 32;
/// Bytes of what a worker says about its progress.
pub const PROGRESS_BYTES_MAX: usize = 4 << 10;
/// Tasks that one page of a list looks at.
pub const TASKS_LOOKED_AT_MAX: usize = 20_000;
/// The shortest time that a worker which pulls tasks may be silent.
pub const LEASE_MIN: Duration = Duration::from_secs(10);
/// The longest such time.
pub const LEASE_MAX: Duration = Duration::from_secs(3600);
/// Tasks in one run.
pub const RUN_TASKS_MAX: usize = 5_000;
/// Dependencies among the tasks of one run, in total.
pub const RUN_DEPENDENCIES_MAX: usize = 50_000;
/// Bytes of one artefact.
pub const ARTEFACT_BYTES_MAX: usize = 16 << 20;
/// Artefacts that come with one answer.
pub const ARTEFACTS_MAX: usize = 256;
/// Bytes of all artefacts that come with one answer.
pub const ARTEFACTS_BYTES_MAX: usize = 64 << 20;
/// Bytes of a file in a workspace.
pub const FILE_BYTES_MAX: usize = 10 << 20;
/// MCP tasks that one principal may have, running and ended, until they expire.
pub const MCP_TASKS_MAX: usize = 1_000;
/// Bytes that all MCP tasks of one principal may take, requests and results together.
pub const MCP_TASKS_BYTES_MAX: usize = 64 << 20;
/// Bytes of the request that an MCP task is made of, as JSON text.
pub const MCP_TASK_REQUEST_BYTES_MAX: usize = 1 << 20;
/// Bytes of an MCP task's result, error or open questions, as JSON text.
pub const MCP_TASK_CONTENT_BYTES_MAX: usize = 16 << 20;
/// How long an MCP task may run, waiting for input included, before it is deleted.
pub const MCP_TASK_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long an MCP task is kept after its end.
pub const MCP_TASK_KEPT: Duration = Duration::from_secs(3600);
/// Bytes of the value of a memory entry, as JSON text.
pub const MEMORY_VALUE_BYTES_MAX: usize = 1 << 20;
/// The shortest time after which a memory entry expires.
pub const MEMORY_TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time after which a memory entry expires, unless it never does.
pub const MEMORY_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Memory entries in one namespace.
pub const MEMORY_ENTRIES_MAX: u64 = 1_000_000;
/// Bytes that the keys and values of all memory entries in one namespace may take.
pub const MEMORY_BYTES_MAX: u64 = 4 << 30;
/// Different words of one memory entry that can be searched for: the first ones, those of its key included.
pub const MEMORY_WORDS_MAX: usize = 1_000;
/// Bytes of a word that can be searched for; a longer one is found by its beginning.
pub const MEMORY_WORD_BYTES_MAX: usize = 64;
/// Bytes of what a search looks for.
pub const MEMORY_QUERY_BYTES_MAX: usize = 1 << 10;
/// Different words of what a search looks for.
pub const MEMORY_QUERY_WORDS_MAX: usize = 16;
/// Entries that a search looks at: of those that have the rarest of its words, the ones that were made last.
pub const MEMORY_SEARCHED_MAX: usize = PAGE_MAX;
/// Entries that a search finds at most.
pub const MEMORY_FOUND_MAX: usize = 100;
/// Bytes of a step's message.
pub const STEP_MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Bytes of a step's data, as JSON text.
pub const STEP_DATA_BYTES_MAX: usize = 64 << 10;
/// Agents that have joined one workspace.
pub const MEMBERS_MAX: usize = 1_000;
/// How long an agent must be away before another one may have its place, where there are [`MEMBERS_MAX`].
pub const MEMBER_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a message's body, as JSON text.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Messages in one agent's inbox; another one to it alone is refused.
pub const INBOX_MAX: usize = 10_000;
/// Messages that one call acknowledges by their numbers.
pub const ACKNOWLEDGED_MAX: usize = 1_000;
/// Sessions that a hub registers at once.
pub const SESSIONS_MAX: usize = 1_000;
/// How often a task may lose its worker before it has failed: it may be what its workers do not survive.
pub const LOSSES_MAX: u32 = 3;
/// Rows in one page of runs, tasks, artefacts or events; a larger limit is cut to this.
pub const PAGE_MAX: usize = 1_000;

/// An argument that is invalid in any state of the store. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A name that is empty, too long, or has control characters in it.
    #[error("{what} {name:?}: a name has 1 to {NAME_BYTES_MAX} bytes and no control characters")]
    Name {
        /// What it should have named.
        what: &'static str,
        /// The name, cut to a readable length.
        name: String,
    },
    /// Too many bytes.
    #[error("{what} has {bytes} bytes, and may have {bytes_max}; make it smaller, or keep it in a file and name that")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// Too many of something.
    #[error("{count} {what}, and there may be {count_max}; split the work into several runs")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The limit.
        count_max: usize,
    },
    /// A number outside of what is allowed.
    #[error("{what} is {value}, and must be from {min} to {max}")]
    OutOfRange {
        /// What it is, with its unit.
        what: &'static str,
        /// The number.
        value: u64,
        /// The least that is allowed.
        min: u64,
        /// The most that is allowed.
        max: u64,
    },
    /// Text with a NUL in it, which databases do not keep.
    #[error("{what} has a NUL character (\\0) in it; leave it out")]
    Nul {
        /// What has it.
        what: &'static str,
    },
    /// JSON nested too deep to be read back.
    #[error("{what} is nested deeper than {JSON_DEPTH_MAX} levels; flatten it")]
    TooDeep {
        /// What is too deep.
        what: &'static str,
    },
    /// Something would expire too soon or too late.
    #[error(
        "the time to live is {0:?}, and may be {MEMORY_TTL_MIN:?} to {MEMORY_TTL_MAX:?}; without one, nothing expires"
    )]
    Ttl(Duration),
    /// Two tasks of one name.
    #[error("there are two tasks {}; give one of them another name", .0.0)]
    Duplicate(TaskId),
    /// Two artefacts of one answer at one path.
    #[error("there are two artefacts {0:?}; give one of them another path")]
    DuplicateArtefact(String),
    /// A task depends on one that does not exist.
    #[error("task {} depends on {}, which is not there; add it, or correct the name", .task.0, .on.0)]
    UnknownDependency {
        /// The task.
        task: TaskId,
        /// What it depends on.
        on: TaskId,
    },
    /// A task that is a part of itself.
    #[error("task {} would be a part of itself; name another parent", .0.0)]
    OwnParent(TaskId),
    /// A task is a part of one that does not exist.
    #[error("task {} is a part of {}, which is not there; add it, or correct the name", .task.0, .parent.0)]
    UnknownParent {
        /// The task.
        task: TaskId,
        /// What it is a part of.
        parent: TaskId,
    },
    /// A task may only start when it must have ended.
    #[error("task {} may not start before its deadline; give it a later deadline, or an earlier start", .0.0)]
    DeadlineTooEarly(TaskId),
    /// Tasks that depend on each other: each on the next, and the last on the first.
    #[error("these tasks wait for each other: {}; remove one of the dependencies", circle(.0))]
    Cycle(Vec<TaskId>),
}

fn circle(tasks: &[TaskId]) -> String {
    const SHOWN_MAX: usize = 12;
    let mut names: Vec<&str> = tasks.iter().take(SHOWN_MAX).map(|task| task.0.as_str()).collect();
    if tasks.len() > SHOWN_MAX {
        names.push("…");
    }
    names.extend(tasks.first().map(|task| task.0.as_str()));
    names.join(" → ")
}

/// A name that every database, log line and terminal can carry.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), Invalid> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Invalid::Name { what, name: name.chars().take(80).collect() });
    }
    Ok(())
}

pub(crate) fn check_bytes(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), Invalid> {
    if bytes > bytes_max { Err(Invalid::TooLarge { what, bytes, bytes_max }) } else { Ok(()) }
}

/// Text that is small enough to keep, in every database.
pub(crate) fn check_text(what: &'static str, text: &str, bytes_max: usize) -> Result<(), Invalid> {
    check_bytes(what, text.len(), bytes_max)?;
    if text.contains('\0') { Err(Invalid::Nul { what }) } else { Ok(()) }
}

pub(crate) fn check_range(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), Invalid> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(Invalid::OutOfRange { what, value, min, max }) }
}

pub(crate) fn check_count(what: &'static str, count: usize, count_max: usize) -> Result<(), Invalid> {
    if count > count_max { Err(Invalid::TooMany { what, count, count_max }) } else { Ok(()) }
}

/// JSON that is small enough to keep and shallow enough to be read back. If it will be a blob, its hash is computed
/// here, in its caller's thread, and not where others wait for their turn to write.
pub(crate) fn check_json(what: &'static str, json: &Json, bytes_max: usize) -> Result<(), Invalid> {
    check_bytes(what, json.as_str().len(), bytes_max)?;
    if json.depth() > JSON_DEPTH_MAX {
        return Err(Invalid::TooDeep { what });
    }
    if json.is_large() {
        json.sha256();
    }
    Ok(())
}

/// Cut an error, or other text for people, to [`ERROR_BYTES_MAX`].
pub(crate) fn cut_error(mut error: String) -> String {
    const CUT: &str = " … (cut)";
    if error.len() > ERROR_BYTES_MAX {
        error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX - CUT.len()));
        error.push_str(CUT);
    }
    error
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_name_is_refused_at_its_limit_and_when_it_cannot_be_shown() {
        assert_eq!(check_name("queue", &"x".repeat(NAME_BYTES_MAX)), Ok(()));
        for name in ["", "a\0b", "a\nb", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(matches!(check_name("queue", name), Err(Invalid::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn json_is_refused_past_its_size_and_past_the_depth_that_can_be_read_back() {
        let text = Json::from(Value::from("x".repeat(8)));
        assert_eq!(check_json("input", &text, 10), Ok(()));
        let refused = Invalid::TooLarge { what: "input", bytes: 10, bytes_max: 9 };
        assert_eq!(check_json("input", &text, 9), Err(refused));

        let nest = |depth| Json::from((0..depth).fold(Value::Null, |inner, _| Value::from(vec![inner])));
        assert_eq!(check_json("input", &nest(JSON_DEPTH_MAX), 1000), Ok(()));
        assert!(nest(JSON_DEPTH_MAX).parse::<Value>().is_ok());
        assert_eq!(check_json("input", &nest(JSON_DEPTH_MAX + 1), 1000), Err(Invalid::TooDeep { what: "input" }));
    }

    #[test]
    fn a_long_error_is_cut_between_characters_and_says_so() {
        let cut = cut_error("ä".repeat(ERROR_BYTES_MAX));
        assert!(cut.len() <= ERROR_BYTES_MAX && cut.ends_with("(cut)"), "{} bytes", cut.len());
        assert_eq!(cut_error("short".to_owned()), "short");
    }
}
