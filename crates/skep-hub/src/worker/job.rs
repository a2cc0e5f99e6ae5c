//! What a task is to do, as its input in the store says it, and its answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skep_core::{Json, task::State};
use skep_plan::{Step, template::Ended};

/// The version that this program writes, and the only one that it can do. What an older program would get wrong, such
/// as another member, takes the next number.
const VERSION: u64 = 1;

/// What a task is to do: the input of a task in the store. With the task's run and the results of what the task depends
/// on, it is all that a worker needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    version: u64,
    /// Who does it, for people; workers go by the task's queue.
    pub role: String,
    /// Skip the task unless this holds; see [`skep_plan::template::Scope::truth`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// How long one attempt may take; `None` for the tool's own deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    /// What is done.
    pub work: Work,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// A tool is called.
    ToolCall {
        /// Name of the tool.
        tool: String,
        /// Its arguments, an object; its texts may be templates, see [`skep_plan::template::Scope::render`].
        args: Value,
    },
}

/// Why it cannot be told what a task is to do. Another attempt would not help.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Another version of Skep has written it.
    #[error("the task is written in version {0}, and this program knows only version {VERSION}; update Skep and retry")]
    Version(u64),
    /// It is not what Skep writes.
    #[error("what the task is to do cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Neither the task nor, for a task of a program that wrote no jobs, the plan of its run says what it is to do.
    #[error("the task does not say what it is to do")]
    Missing,
    /// The plan of the run of such a task is not a plan.
    #[error("the plan of the run cannot be read: {0}")]
    Plan(String),
    /// The run of the task is not there any more.
    #[error("the run of the task was deleted")]
    Deleted,
}

impl Job {
    /// A step of a plan.
    pub fn of(step: &Step) -> Job {
        let timeout_ms = |time: Duration| u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        Job {
            version: VERSION,
            role: step.role.name().to_owned(),
            when: step.when.clone(),
            timeout_ms: step.timeout.map(timeout_ms),
            work: Work::ToolCall { tool: step.tool.clone(), args: step.args.clone() },
        }
    }

    /// The job in the input of a task. `None` if the input was written by a program that left the job in the run's plan.
    pub fn read(input: &Json) -> Result<Option<Job>, JobError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Versioned {
            version: Option<u64>,
        }
        match input.parse::<Versioned>()?.version {
            None => Ok(None),
            Some(VERSION) => Ok(Some(input.parse()?)),
            Some(other) => Err(JobError::Version(other)),
        }
    }

    /// How long one attempt may take; `None` for the tool's own deadline.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

impl From<Job> for Json {
    fn from(job: Job) -> Json {
        json!(job).into()
    }
}

/// The answer of a task that was completed, as its result in the store says it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Its condition did not hold, so nothing was done.
    skipped: bool,
    /// What the tool has answered.
    result: Value,
    /// Where the tool ran: `local`, or the address of a hub.
    pub place: Option<String>,
}

impl Answer {
    /// Nothing, if the output was made by somebody else and cannot be read.
    pub fn read(output: &Json) -> Answer {
        output.parse().unwrap_or_default()
    }

    /// How its task ended.
    pub fn ended(self) -> Ended {
        if self.skipped { Ended::Skipped } else { Ended::Completed(self.result) }
    }
}

/// How a task ended, as templates and reports see it; `None` while it has not.
pub fn ended(state: &State) -> Option<Ended> {
    match state {
        State::Completed(output) => Some(Answer::read(output).ended()),
        State::Failed(failure) => Some(Ended::Failed(failure.error.clone())),
        State::Blocked(_) | State::Cancelled => Some(Ended::Skipped),
        State::Pending { .. } | State::InProgress { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use skep_plan::Plan;

    use super::*;

    fn step(task: &Value) -> Step {
        Plan::from_json(&json!({ "tasks": { "t": task } })).unwrap().tasks.remove(0)
    }

    #[test]
    fn a_job_is_read_back_as_it_was_written() {
        let plain = Job::of(&step(&json!({ "tool": "bash", "args": { "command": "ls" } })));
        let full = Job::of(&step(&json!({
            "tool": "compose", "role": "coordinator", "when": "{{ inputs.x }}", "timeout": "1500ms",
            "args": { "data": [1.5, null, { "b": 1, "a": "{{ run.id }}" }] },
        })));
        assert_eq!(full.timeout(), Some(Duration::from_millis(1500)));
        for job in [plain, full] {
            assert_eq!(Job::read(&job.clone().into()).unwrap(), Some(job));
        }
    }

    /// What is in databases; a change of it needs another version.
    #[test]
    fn the_form_of_a_job_stays_as_it_is() {
        let task = json!({ "tool": "bash", "when": "{{ true }}", "timeout": "2s", "args": { "command": "ls" } });
        let form = r#"{"version":1,"role":"actor","when":"{{ true }}","timeout_ms":2000,"#.to_owned()
            + r#""work":{"tool_call":{"tool":"bash","args":{"command":"ls"}}}}"#;
        assert_eq!(Json::from(Job::of(&step(&task))).as_str(), form);
    }

    #[test]
    fn a_job_of_another_version_is_refused_with_both_versions_and_what_is_none_with_the_reason() {
        let why = |input: Value| Job::read(&input.into()).unwrap_err().to_string();
        assert_eq!(
            why(json!({ "version": 2, "anything": {} })),
            "the task is written in version 2, and this program knows only version 1; update Skep and retry"
        );
        let work = json!({ "tool_call": { "tool": "bash", "args": {} } });
        let more = json!({ "version": 1, "role": "actor", "work": work, "budget": 3 });
        assert!(why(more).starts_with("what the task is to do cannot be read: unknown field `budget`"));
        let other = json!({ "version": 1, "role": "actor", "work": { "dance": {} } });
        assert!(why(other).contains("unknown variant `dance`"));
        assert!(why(json!("text")).starts_with("what the task is to do cannot be read: "));
    }

    #[test]
    fn a_task_of_a_program_that_wrote_no_jobs_is_told_apart() {
        assert_eq!(Job::read(&json!({ "step": "a", "tool": "bash" }).into()).unwrap(), None);
    }
}
