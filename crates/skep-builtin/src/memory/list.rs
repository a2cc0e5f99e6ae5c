//! `memory_list`: the keys of what is remembered.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{limits::PAGE_MAX, policy::Read};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Described, KEY_CHARS_MAX, READS, store_failed};

/// Entries, if the caller does not say how many.
const LIMIT: usize = 100;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct MemoryList {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// Only keys that begin with this.
    #[serde(default)]
    #[garde(length(chars, max = KEY_CHARS_MAX))]
    prefix: String,
    /// Only keys after this one: `next` of the page before.
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    after: Option<String>,
    /// Entries to give at most.
    #[serde(default = "limit")]
    #[garde(range(min = 1, max = PAGE_MAX))]
    limit: usize,
    /// The task or swarm whose memory it is; without, the team's own.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    task_id: Option<String>,
    /// Which agent asks.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = KEY_CHARS_MAX))]
    agent_id: Option<String>,
}

fn limit() -> usize {
    LIMIT
}

/// What there is.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The entries by key, without their values.
    entries: Vec<Described>,
    /// There may be more: the `after` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl BuiltIn for MemoryList {
    const NAME: &'static str = "memory_list";
    const DESCRIPTION: &'static str = "List what was stored with memory_store, by key and without the values: all of it, \
        or the keys that begin with `prefix`.";
    const ANNOTATIONS: Annotations = READS;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { prefix, after, limit, task_id, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Read>(context, task_id.as_deref(), agent_id.as_deref())?;
        let page = app.db.list_memory(&permit, &prefix, after.as_deref(), limit).await.map_err(store_failed)?;
        let next = page.last().filter(|_| page.len() == limit).map(|last| last.key.clone());
        Ok(Answer { entries: page.into_iter().map(Described::from).collect(), next })
    }
}
