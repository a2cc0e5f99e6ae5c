//! `memory_store`: remember something.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use skep_core::{limits::MEMORY_TTL_MAX, memory::NewEntry, policy::Write};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Described, KEY_CHARS_MAX, failed};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct MemoryStore {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The name under which it is found again.
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    key: String,
    /// What to remember: any JSON but null, up to 1 MiB.
    #[garde(custom(is_something))]
    value: Value,
    /// Seconds after which it is forgotten; without, never.
    #[garde(range(min = 1, max = MEMORY_TTL_MAX.as_secs()))]
    ttl: Option<u64>,
    /// Store it only if the entry has this revision; 0: only if there is none. Without, whatever there is is replaced.
    #[garde(range(min = 0))]
    base_revision: Option<i64>,
    /// The task or swarm whose memory it is; without, the team's own.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    task_id: Option<String>,
    /// Which agent stores it.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    agent_id: Option<String>,
}

/// Models write null for what they leave out.
fn is_something(value: &Value, _: &()) -> garde::Result {
    match value {
        Value::Null => Err(garde::Error::new("must not be null; memory_delete forgets what is there")),
        _ => Ok(()),
    }
}

impl BuiltIn for MemoryStore {
    const NAME: &'static str = "memory_store";
    const DESCRIPTION: &'static str = "Remember a JSON value under a key, for all agents of the team or of one task or \
        swarm (`task_id`). What was there under the key is replaced; with `base_revision`, only if nobody else has \
        changed it meanwhile. With `ttl` it is forgotten after so many seconds.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: true, idempotent_hint: false, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Described;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Described, ToolError> {
        let Arguments { key, value, ttl, base_revision, task_id, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, task_id.as_deref(), agent_id.as_deref())?;
        let ttl = ttl.map(Duration::from_secs);
        let new = NewEntry { ttl, base_revision, ..NewEntry::new(key, value) };
        Ok(app.store_memory(&permit, new).await.map_err(failed)?.into())
    }
}
