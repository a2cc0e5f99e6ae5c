//! `task_submit`: have something done.

use std::{collections::BTreeSet, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_core::{
    app::App,
    limits::{SUBMITTED_MAX, TASK_TAGS_MAX},
    policy::{Permit, Write},
    task::{Details, NewTask, RETRY_DELAY, RETRY_DELAY_MAX, TaskId},
};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, Priority, QUEUE, Shown, WRITES_ONCE, failed, moment, new_name, shown};

/// Failures that may be followed by another attempt, at most.
const RETRIES_MAX: u32 = 100;
/// Seconds from now that a time may be given in, at most: ten years.
const AHEAD_MAX_S: u64 = 10 * 366 * 24 * 3600;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct TaskSubmit {
    pub(crate) shared: Shared,
}

/// The members of a task as it is declared, which stand alone or in a list.
macro_rules! with_members_of_a_task {
    ($(#[$about:meta])* $visibility:vis struct $name:ident { $($(#[$of_member:meta])* $member:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Default, Deserialize, JsonSchema, garde::Validate)]
        #[garde(allow_unvalidated)]
        #[serde(deny_unknown_fields)]
        $visibility struct $name {
            /// Its id, for the `depends_on` of others. Without one, it gets one. Submitting a task again under its id
            /// changes nothing.
            #[serde(alias = "task_id", alias = "taskId")]
            #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
            id: Option<String>,
            /// What it is about, in a line.
            #[garde(length(chars, min = 1, max = 1024))]
            title: Option<String>,
            /// What is to be done.
            #[garde(length(chars, max = 65_536))]
            description: Option<String>,
            /// What sort of work it is, such as `backend`: workers may ask for tasks of a type.
            #[serde(rename = "type")]
            #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
            kind: Option<String>,
            /// The queue that workers get it from; `default` if none is given.
            #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
            queue: Option<String>,
            /// How soon it is started; `medium` if that is not said.
            priority: Option<Priority>,
            /// What its worker needs to know, as JSON.
            #[serde(default, alias = "data", alias = "payload")]
            input: Option<Value>,
            /// Tasks that must have completed before it starts, by their ids.
            #[serde(default, alias = "dependsOn", alias = "dependencies")]
            #[garde(length(max = 1000))]
            depends_on: Vec<String>,
            /// The task that it is a part of, and with which it is cancelled.
            #[serde(alias = "parent_id", alias = "parentId")]
            #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
            parent: Option<String>,
            /// What its worker must be able to do.
            #[serde(default, alias = "requiredCapabilities", alias = "capabilities")]
            #[garde(length(max = TASK_TAGS_MAX))]
            required_capabilities: Vec<String>,
            /// Words by which it is found.
            #[serde(default)]
            #[garde(length(max = TASK_TAGS_MAX))]
            labels: Vec<String>,
            /// How many failures are followed by another attempt; none, if that is not said.
            #[garde(range(max = RETRIES_MAX))]
            retries: Option<u32>,
            /// Seconds before the first further attempt; each next one waits twice as long.
            #[garde(range(min = 1, max = RETRY_DELAY_MAX.as_secs()))]
            retry_delay_s: Option<u64>,
            /// It is not started before this time, in RFC 3339.
            not_before: Option<String>,
            /// The same in seconds from now.
            #[garde(range(max = AHEAD_MAX_S))]
            delay_s: Option<u64>,
            /// It has failed if it has not ended by this time, in RFC 3339.
            deadline: Option<String>,
            /// The same in seconds from now.
            #[garde(range(min = 1, max = AHEAD_MAX_S))]
            deadline_s: Option<u64>,
            $($(#[$of_member])* $member: $type,)*
        }
    };
}

with_members_of_a_task! {
    /// A task of several.
    struct One {}
}

with_members_of_a_task! {
    pub(crate) struct Arguments {
        /// Instead of all that: several tasks, which may depend on each other in any order. All are kept, or none.
        #[garde(length(min = 1, max = SUBMITTED_MAX), dive)]
        tasks: Option<Vec<One>>,
        /// Submit once, however often you try: the tasks get ids that are made of it, where they have none.
        #[serde(alias = "idempotencyKey")]
        #[garde(length(chars, min = 1, max = 200))]
        idempotency_key: Option<String>,
        /// Which agent submits it.
        #[serde(alias = "agentId")]
        #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
        agent_id: Option<String>,
    }
}

/// The tasks.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Each as it is now, in the order in which they were given.
    tasks: Vec<Shown>,
}

impl Arguments {
    /// One task, or those of the list.
    fn into_tasks(self) -> Result<Vec<One>, ToolError> {
        let tasks = self.tasks;
        let one = One {
            id: self.id,
            title: self.title,
            description: self.description,
            kind: self.kind,
            queue: self.queue,
            priority: self.priority,
            input: self.input,
            depends_on: self.depends_on,
            parent: self.parent,
            required_capabilities: self.required_capabilities,
            labels: self.labels,
            retries: self.retries,
            retry_delay_s: self.retry_delay_s,
            not_before: self.not_before,
            delay_s: self.delay_s,
            deadline: self.deadline,
            deadline_s: self.deadline_s,
        };
        match tasks {
            None => Ok(vec![one]),
            Some(tasks) if one.is_empty() => Ok(tasks),
            Some(_) => Err(ToolError::argument("tasks", "stands alone; what is said of one task goes into the list")),
        }
    }
}

impl One {
    fn is_empty(&self) -> bool {
        let texts = [&self.id, &self.title, &self.description, &self.kind, &self.queue, &self.parent];
        let times = [&self.not_before, &self.deadline];
        let numbers = [self.retry_delay_s, self.delay_s, self.deadline_s];
        texts.into_iter().chain(times).all(Option::is_none)
            && numbers.iter().all(Option::is_none)
            && self.retries.is_none()
            && self.priority.is_none()
            && self.input.is_none()
            && [&self.depends_on, &self.required_capabilities, &self.labels].into_iter().all(Vec::is_empty)
    }

    fn into_new(self, app: &App, id: impl FnOnce() -> String) -> Result<NewTask, ToolError> {
        let set = |words: Vec<String>| words.into_iter().collect::<BTreeSet<_>>();
        let details = Details {
            title: self.title,
            description: self.description,
            kind: self.kind,
            parent: self.parent.map(TaskId),
            capabilities: set(self.required_capabilities),
            labels: set(self.labels),
        };
        let queue = self.queue.unwrap_or_else(|| QUEUE.to_owned());
        Ok(NewTask {
            priority: self.priority.map_or_else(Default::default, Into::into),
            depends_on: self.depends_on.into_iter().map(TaskId).collect(),
            retries_max: self.retries.unwrap_or(0),
            retry_delay: self.retry_delay_s.map_or(RETRY_DELAY, Duration::from_secs),
            not_before: moment(app, ("not_before", self.not_before), self.delay_s)?,
            deadline: moment(app, ("deadline", self.deadline), self.deadline_s)?,
            details,
            ..NewTask::new(TaskId(self.id.unwrap_or_else(id)), queue, self.input.unwrap_or_default())
        })
    }
}

impl BuiltIn for TaskSubmit {
    const NAME: &'static str = "task_submit";
    const DESCRIPTION: &'static str = "Submit a task, or several that depend on each other, for workers to do: agents \
        that call task_next. A task is kept, with its state and its result, and is given to another worker if one dies. \
        Ask for it with task_get or task_list.";
    const ANNOTATIONS: Annotations = WRITES_ONCE;
    const DEADLINE: Duration = Duration::from_secs(30);
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, mut arguments: Arguments) -> Result<Answer, ToolError> {
        let (key, agent) = (arguments.idempotency_key.take(), arguments.agent_id.take());
        let tasks = arguments.into_tasks()?;
        let (app, permit) = self.shared.open::<Write>(context, None, agent.as_deref())?;
        let is_one = tasks.len() == 1;
        let named = |n: usize| match &key {
            Some(key) if is_one => format!("{}:{key}", permit.actor().principal),
            Some(key) => format!("{}:{key}:{n}", permit.actor().principal),
            None => format!("task_{}", new_name().to_lowercase()),
        };
        let new = tasks.into_iter().enumerate().map(|(n, one)| one.into_new(app, || named(n)));
        let new = new.collect::<Result<Vec<NewTask>, ToolError>>()?;
        submit(app, &permit, new).await
    }
}

async fn submit(app: &App, permit: &Permit, mut new: Vec<NewTask>) -> Result<Answer, ToolError> {
    let tasks = match (new.pop(), new.is_empty()) {
        // Those that are submitted alone are done together with others'.
        (Some(one), true) => vec![app.submit(permit, one).await.map_err(failed)?],
        (last, _) => {
            new.extend(last);
            app.submit_all(permit, new).await.map_err(failed)?
        }
    };
    Ok(Answer { tasks: shown(app, &permit.to_read(), &tasks).await? })
}
