//! `task_list`: which tasks there are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{
    db::TaskFilter,
    limits::{MEMORY_QUERY_BYTES_MAX, PAGE_MAX},
    memory::Query,
    policy::Read,
    run::RunId,
    task::{TaskId, WorkerId},
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, store_failed},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, Priority, READS, Shown, Stage, shown};

/// Tasks in a page, if the caller does not say how many.
const LIMIT: usize = 50;
/// States that there are.
const STATES: usize = 6;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct TaskList {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// Only tasks in these states.
    #[serde(default, alias = "state", alias = "status")]
    #[garde(length(max = STATES))]
    states: Vec<Stage>,
    /// Only tasks of this queue.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    queue: Option<String>,
    /// Only tasks of this type.
    #[serde(rename = "type")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    kind: Option<String>,
    /// Only tasks of this priority.
    priority: Option<Priority>,
    /// Only tasks of this run.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    run: Option<String>,
    /// Only the parts of this task.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    parent: Option<String>,
    /// Only tasks with this label.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    label: Option<String>,
    /// Only what this worker has in progress.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    worker: Option<String>,
    /// Only tasks that have these words in their title or description; the last word may be the beginning of one.
    #[serde(alias = "q")]
    #[garde(length(chars, min = 1, max = MEMORY_QUERY_BYTES_MAX))]
    query: Option<String>,
    /// The next page: what the last one gave as `next`.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    before: Option<String>,
    /// Tasks to give at most.
    #[serde(default = "limit")]
    #[garde(range(min = 1, max = PAGE_MAX))]
    limit: usize,
    /// Also how many tasks there are in each state, whatever else is asked for.
    #[serde(default)]
    counts: bool,
}

fn limit() -> usize {
    LIMIT
}

/// A page of tasks.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The tasks, in descending order of their ids: where those are made by the hub, the newest come first.
    tasks: Vec<Shown>,
    /// The `before` of the next page, if there may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// How many tasks there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
}

/// How many tasks are in which state.
#[derive(Serialize, JsonSchema)]
struct Counts {
    /// They wait.
    pending: u64,
    /// Workers have them.
    in_progress: u64,
    /// They were answered.
    completed: u64,
    /// They failed for good.
    failed: u64,
    /// What they depend on has ended without success.
    blocked: u64,
    /// They were cancelled.
    cancelled: u64,
}

impl BuiltIn for TaskList {
    const NAME: &'static str = "task_list";
    const DESCRIPTION: &'static str = "List the team's tasks: all, or those in some state, of a queue, type, priority, run \
        or worker, with a label, or the parts of a task.";
    const ANNOTATIONS: Annotations = READS;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { states, queue, kind, priority, run, parent, label, worker, query, before, limit, counts } =
            arguments;
        let (app, permit) = self.shared.open::<Read>(context, None, None)?;
        let filter = TaskFilter {
            states: states.into_iter().map(|state| name(state).to_owned()).collect(),
            queue,
            priority: priority.map(Into::into),
            run: run.map(RunId),
            worker: worker.map(WorkerId),
            kind,
            parent: parent.map(TaskId),
            label,
            query: query
                .map(|text| Query::new(&text))
                .transpose()
                .map_err(|error| ToolError::argument("query", error.to_string()))?,
        };
        let page = app.db.list_tasks(&permit, filter, before.map(TaskId), limit).await.map_err(store_failed)?;
        let counts = match counts {
            false => None,
            true => {
                let counts = app.db.count_all_tasks(&permit).await.map_err(store_failed)?;
                let failed = counts.failed + counts.failed_allowed;
                let skep_core::db::TaskCounts { pending, in_progress, completed, blocked, cancelled, .. } = counts;
                Some(Counts { pending, in_progress, completed, failed, blocked, cancelled })
            }
        };
        let tasks = shown(app, &permit, &page.tasks).await?;
        Ok(Answer { tasks, next: page.next.map(|next| next.0), counts })
    }
}

fn name(state: Stage) -> &'static str {
    match state {
        Stage::Pending => "pending",
        Stage::InProgress => "in_progress",
        Stage::Completed => "completed",
        Stage::Failed => "failed",
        Stage::Blocked => "blocked",
        Stage::Cancelled => "cancelled",
    }
}
