//! `memory_search`: what is remembered, by its words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_core::{
    limits::{MEMORY_FOUND_MAX, MEMORY_QUERY_BYTES_MAX},
    memory::{Hit, Query},
    policy::Read,
};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{Described, KEY_CHARS_MAX, READS, store_failed, value_of};

/// Entries, if the caller does not say how many.
const LIMIT: usize = 20;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct MemorySearch {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The words to look for.
    #[serde(alias = "pattern")]
    #[garde(length(chars, min = 1, max = MEMORY_QUERY_BYTES_MAX))]
    query: String,
    /// Entries to give at most.
    #[serde(default = "limit")]
    #[garde(range(min = 1, max = MEMORY_FOUND_MAX))]
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

/// What was found.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The entries, the best first.
    entries: Vec<Found>,
    /// How many fit, of those that were looked at.
    total: usize,
    /// False: there are too many entries with these words to look at each, so the oldest were left out. A rarer word helps.
    complete: bool,
}

#[derive(Serialize, JsonSchema)]
struct Found {
    #[serde(flatten)]
    entry: Described,
    /// What was stored. Left out if it has more than 4 KiB; memory_retrieve gets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    /// How well it fits, compared with the others.
    score: f64,
}

impl BuiltIn for MemorySearch {
    const NAME: &'static str = "memory_search";
    const DESCRIPTION: &'static str = "Find what was stored with memory_store by its words: those of the key, and all \
        names, texts and numbers in the value. An entry must have all of the words, the last of them at least as the \
        beginning of one. The rarest words count most.";
    const ANNOTATIONS: Annotations = READS;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { query, limit, task_id, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Read>(context, task_id.as_deref(), agent_id.as_deref())?;
        let query = Query::new(&query).map_err(|error| ToolError::argument("query", error.to_string()))?;
        let found = app.db.search_memory(&permit, query, limit).await.map_err(store_failed)?;
        let values = found.hits.iter().filter_map(|hit| hit.value.as_ref());
        context.make_room(values.map(|value| value.as_str().len()).sum()).await?;
        let entry = |Hit { about, value, score }| {
            let value = value.as_ref().map(value_of).transpose()?;
            Ok(Found { entry: about.into(), value, score })
        };
        let entries: Result<Vec<Found>, ToolError> = found.hits.into_iter().map(entry).collect();
        Ok(Answer { entries: entries?, total: found.total, complete: found.is_complete })
    }
}
