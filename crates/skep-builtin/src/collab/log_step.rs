//! `log_step`: what an agent did.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skep_core::{
    app::StepError,
    limits::STEP_MESSAGE_BYTES_MAX,
    policy::Write,
    step::{self, NewStep},
};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, WRITES, conflict, refused, store_failed};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct LogStep {
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
    /// Which agent did it.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
    /// How much it matters.
    #[serde(default = "info")]
    level: Level,
    /// A sentence for people.
    #[garde(length(chars, min = 1, max = STEP_MESSAGE_BYTES_MAX))]
    message: String,
    /// More, for programs: up to 64 KiB of JSON.
    #[serde(default)]
    data: Option<Value>,
    /// The same step with the same key is logged once, however often you try.
    #[serde(alias = "idempotencyKey")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    idempotency_key: Option<String>,
}

/// How much a step matters.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Details for whoever looks for a fault.
    #[serde(alias = "DEBUG")]
    Debug,
    /// What was done.
    #[serde(alias = "INFO")]
    Info,
    /// Something to look at.
    #[serde(alias = "warn", alias = "WARN", alias = "WARNING")]
    Warning,
    /// Something went wrong.
    #[serde(alias = "ERROR")]
    Error,
}

fn info() -> Level {
    Level::Info
}

impl From<Level> for step::Level {
    fn from(level: Level) -> step::Level {
        match level {
            Level::Debug => step::Level::Debug,
            Level::Info => step::Level::Info,
            Level::Warning => step::Level::Warning,
            Level::Error => step::Level::Error,
        }
    }
}

impl From<step::Level> for Level {
    fn from(level: step::Level) -> Level {
        match level {
            step::Level::Debug => Level::Debug,
            step::Level::Info => Level::Info,
            step::Level::Warning => Level::Warning,
            step::Level::Error => Level::Error,
        }
    }
}

/// Where it is in the log.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Its number: the steps of a task are 1, 2, 3, … without gaps.
    sequence: i64,
    /// It had been logged before, with the same idempotency key.
    #[serde(skip_serializing_if = "Option::is_none")]
    repeated: Option<bool>,
}

impl BuiltIn for LogStep {
    const NAME: &'static str = "log_step";
    const DESCRIPTION: &'static str = "Log what you did or found out as the next step of a task, for people and other \
        agents to follow. The step is kept, in order, when this answers.";
    const ANNOTATIONS: Annotations = WRITES;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, agent_id, level, message, data, idempotency_key } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, Some(&task_id), agent_id.as_deref())?;
        let step = NewStep { level: level.into(), message, data: data.map(Into::into) };
        let logged = match idempotency_key {
            None => app.log_step(&permit, step).await.map(|sequence| (sequence, false)),
            Some(key) => app.log_step_once(&permit, step, key).await,
        };
        let (sequence, repeated) = logged.map_err(failed)?;
        Ok(Answer { sequence, repeated: repeated.then_some(true) })
    }
}

fn failed(error: StepError) -> ToolError {
    let message = error.to_string();
    match error {
        StepError::Invalid(invalid) => refused(invalid),
        StepError::KeyReused(number) => conflict(message, "key_reused", json!({ "number": number })),
        StepError::Db(error) => store_failed(error),
    }
}
