//! `memory_retrieve`: what is remembered under a key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_core::policy::Read;
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Described, KEY_CHARS_MAX, READS, store_failed, value_of};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct MemoryRetrieve {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The name under which it was stored.
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    key: String,
    /// The task or swarm whose memory it is; without, the team's own.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    task_id: Option<String>,
    /// Which agent asks.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    agent_id: Option<String>,
}

/// What is there under the key.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Whether there is an entry.
    found: bool,
    /// What was stored; null, if there is nothing.
    value: Value,
    /// What is known about the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<Described>,
}

impl BuiltIn for MemoryRetrieve {
    const NAME: &'static str = "memory_retrieve";
    const DESCRIPTION: &'static str = "Get the value that was stored under a key with memory_store, and its revision. If \
        the key is not known, memory_search finds entries by their words, and memory_list lists keys.";
    const ANNOTATIONS: Annotations = READS;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { key, task_id, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Read>(context, task_id.as_deref(), agent_id.as_deref())?;
        let Some(entry) = app.db.memory(&permit, &key).await.map_err(store_failed)? else {
            return Ok(Answer { found: false, value: Value::Null, entry: None });
        };
        context.make_room(entry.value.as_str().len()).await?;
        Ok(Answer { found: true, value: value_of(&entry.value)?, entry: Some(entry.about.into()) })
    }
}
