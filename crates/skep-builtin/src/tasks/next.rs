//! `task_next`: something to do.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_core::{
    app::{App, Wanted},
    limits::{LEASE_MAX, LEASE_MIN, TASK_TAGS_MAX},
    policy::{Permit, Write},
    session::SessionId,
    task::{Holder, Task},
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, store_failed},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{LEASE, NAME_CHARS_MAX, QUEUE, Shown, Token, WRITES, failed, new_name, value, worker_of};

/// Seconds to wait for a task, at most.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Time that a call needs beside waiting.
const SPARE: Duration = Duration::from_secs(2);
/// How long to wait at least before the next look: what is there may not be for this worker.
const LOOK_AFTER_MIN: Duration = Duration::from_millis(50);
/// How long to wait at most, although nobody said that something has happened.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(1);

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct TaskNext {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The queue; `default` if none is given.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    queue: Option<String>,
    /// Only tasks of these types.
    #[serde(default, alias = "type")]
    #[garde(length(max = TASK_TAGS_MAX))]
    types: Vec<String>,
    /// What you can do: you get no task that requires something else.
    #[serde(default)]
    #[garde(length(max = TASK_TAGS_MAX))]
    capabilities: Vec<String>,
    /// Seconds to wait for a task if there is none.
    #[serde(default, alias = "waitS", alias = "wait")]
    #[garde(range(max = WAIT_MAX.as_secs()))]
    wait_s: u64,
    /// Seconds that you may be silent: after that, the task goes to somebody else.
    #[serde(alias = "leaseS", alias = "ttl_s")]
    #[garde(range(min = LEASE_MIN.as_secs(), max = LEASE_MAX.as_secs()))]
    lease_s: Option<u64>,
    /// Which agent does it.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
}

/// A task to do, if there is one.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Whether there is.
    found: bool,
    /// What is known about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Shown>,
    /// What is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// What there is to know for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Value>,
    /// What the tasks have answered that it depends on, each with its id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<Needed>,
    /// The number of this attempt: 1 for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// What task_progress, task_finish and task_release need. Tell nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Say something within so many seconds, with task_progress; otherwise the task goes to somebody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_s: Option<u64>,
}

/// What a task has answered.
#[derive(Serialize, JsonSchema)]
struct Needed {
    /// Its id.
    task_id: String,
    /// Its answer.
    result: Value,
}

const NONE: Answer = Answer {
    found: false,
    task: None,
    description: None,
    input: None,
    results: Vec::new(),
    attempt: None,
    token: None,
    lease_s: None,
};

impl BuiltIn for TaskNext {
    const NAME: &'static str = "task_next";
    const DESCRIPTION: &'static str = "Get the next task of a queue to do it yourself, or wait for one. While you work on \
        it, call task_progress before `lease_s` seconds are over, each time; then task_finish. If you cannot do it, \
        task_release gives it back.";
    const ANNOTATIONS: Annotations = WRITES;
    const DEADLINE: Duration = Duration::from_secs(WAIT_MAX.as_secs() + 10);
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { queue, types, capabilities, wait_s, lease_s, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, None, agent_id.as_deref())?;
        let wanted = Wanted {
            queue: queue.unwrap_or_else(|| QUEUE.to_owned()),
            kinds: types.into_iter().collect(),
            capabilities: capabilities.into_iter().collect(),
        };
        let wait = Duration::from_secs(wait_s).min(context.time_left().saturating_sub(SPARE));
        if !wait.is_zero() {
            context.room.wait_without_turn()?;
        }
        let (session, lease) = (SessionId(new_name()), lease_s.map_or(LEASE, Duration::from_secs));
        let holder = Holder { worker: worker_of(&permit), session: session.clone() };
        match pull(app, &permit, &wanted, &holder, lease, wait).await? {
            None => Ok(NONE),
            Some(task) => answer(app, &permit, task, &session, lease).await,
        }
    }
}

/// The next task that fits, as soon as there is one.
async fn pull(
    app: &App,
    permit: &Permit,
    wanted: &Wanted,
    holder: &Holder,
    lease: Duration,
    wait: Duration,
) -> Result<Option<Task>, ToolError> {
    let (reads, began) = (permit.to_read(), Instant::now());
    let mut watch = app.db.watch(&reads);
    loop {
        watch.mark_seen();
        // Most of what wakes those who wait is not for them, and to look takes no commit.
        let due = app.db.next_due(&reads, &wanted.queue).await.map_err(store_failed)?;
        let until = due.map(|due| app.db.now().until(due));
        if until.is_some_and(|until| until.is_zero()) {
            let task = app.lease(permit, wanted.clone(), holder.clone(), lease).await.map_err(failed)?;
            if task.is_some() {
                return Ok(task);
            }
        }
        let left = wait.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        let pause = match until {
            Some(until) if !until.is_zero() => until.clamp(LOOK_AFTER_MIN, LOOK_AFTER_MAX),
            _ => LOOK_AFTER_MAX,
        };
        tokio::select! {
            () = watch.changed() => {}
            () = tokio::time::sleep(pause.min(left)) => {}
        }
    }
}

async fn answer(
    app: &App,
    permit: &Permit,
    task: Task,
    session: &SessionId,
    lease: Duration,
) -> Result<Answer, ToolError> {
    let reads = permit.to_read();
    let attempt = task.held().ok_or_else(|| ToolError::failed("the task was taken back at once"))?;
    let mut results = Vec::with_capacity(task.depends_on.len());
    for id in &task.depends_on {
        let needed = app.db.task(&reads, id).await.map_err(store_failed)?;
        if let Some(skep_core::task::State::Completed(output)) = needed.map(|needed| needed.state) {
            results.push(Needed { task_id: id.0.clone(), result: value(&output)? });
        }
    }
    let mut details = app.db.task_details(&reads, vec![task.id.clone()]).await.map_err(store_failed)?;
    let mut details = details.remove(&task.id).unwrap_or_default();
    Ok(Answer {
        found: true,
        description: details.description.take(),
        input: Some(value(&task.input)?).filter(|input| !input.is_null()),
        results,
        attempt: Some(task.attempt),
        token: Some(Token::of(session, &attempt)),
        lease_s: Some(lease.as_secs()),
        task: Some(Shown::new(&task, details)),
    })
}
