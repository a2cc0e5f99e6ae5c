//! `read_logs`: what agents did.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_core::{
    limits::PAGE_MAX,
    page::Start,
    policy::Read,
    step::{Step, StepFilter},
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, moment, time},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, READS, log_step::Level, number, start, store_failed, value};

/// Steps, if the caller does not say how many.
const LIMIT: usize = 100;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct ReadLogs {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The task or swarm whose log it is.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    task_id: String,
    /// Only steps of this agent.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
    /// Only steps that matter as much or more.
    level: Option<Level>,
    /// Only steps from this time on, in RFC 3339.
    since: Option<String>,
    /// Only steps before this time, in RFC 3339.
    until: Option<String>,
    /// The steps after this number, oldest first; 0 for all.
    #[garde(range(min = 0))]
    after: Option<i64>,
    /// The last steps before this number. Without `after` and `before`: the newest.
    #[garde(range(min = 0))]
    before: Option<i64>,
    /// Steps to give at most.
    #[serde(default = "limit")]
    #[garde(range(min = 1, max = PAGE_MAX))]
    limit: usize,
}

fn limit() -> usize {
    LIMIT
}

/// A page of the log.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The steps, oldest first.
    logs: Vec<Logged>,
    /// The `after` of the next page, or its `before` if this one was read backward.
    next: i64,
    /// There is more to look at. A page that fits a filter may have few steps, and there may be more all the same.
    has_more: bool,
    /// Steps after the number that you gave were deleted because they are old: those that are kept begin here.
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<i64>,
}

/// A step.
#[derive(Serialize, JsonSchema)]
struct Logged {
    /// Its number.
    sequence: i64,
    /// When it was logged, in RFC 3339.
    at: String,
    /// Who logged it.
    principal: String,
    /// Which of the principal's agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    /// How much it matters.
    level: Level,
    /// A sentence for people.
    message: String,
    /// More, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl BuiltIn for ReadLogs {
    const NAME: &'static str = "read_logs";
    const DESCRIPTION: &'static str = "Read what was logged with log_step in a task: the newest steps, or from a number \
        on, also of one agent, of a level, or of a time.";
    const ANNOTATIONS: Annotations = READS;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, agent_id: agent, level, since, until, after, before, limit } = arguments;
        let filter = StepFilter {
            agent,
            level: level.map(Into::into).unwrap_or_default(),
            since: moment("since", since)?,
            before: moment("until", until)?,
        };
        let (app, permit) = self.shared.open::<Read>(context, Some(&task_id), None)?;
        let start = start(after, before)?.unwrap_or(Start::Before(i64::MAX));
        let page = app.db.steps(&permit, filter, start, limit).await.map_err(store_failed)?;
        let logs = page.rows.into_iter().map(logged).collect::<Result<_, _>>()?;
        Ok(Answer { logs, next: number(page.next), has_more: page.has_more, reset: page.first })
    }
}

fn logged(step: Step) -> Result<Logged, ToolError> {
    let Step { number, at, principal, agent, level, message, data } = step;
    let data = data.as_ref().map(value).transpose()?;
    Ok(Logged { sequence: number, at: time(at), principal, agent_id: agent, level: level.into(), message, data })
}
