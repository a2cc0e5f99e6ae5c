//! Tools for what agents remember together: JSON values under keys, of a team or of one of its tasks or swarms.

mod delete;
mod list;
mod retrieve;
mod search;
mod store;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use skep_core::{
    app::MemoryError,
    limits::NAME_BYTES_MAX,
    memory::{About, Entry},
};
use skep_tools::{
    error::ToolError,
    shared::{refused, store_failed, time},
    tool::Annotations,
};

pub(super) use self::{
    delete::MemoryDelete, list::MemoryList, retrieve::MemoryRetrieve, search::MemorySearch, store::MemoryStore,
};

/// Characters of a key, at most.
const KEY_CHARS_MAX: usize = NAME_BYTES_MAX;

const READS: Annotations =
    Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };

/// What is known about an entry.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Described {
    /// Its name.
    key: String,
    /// Its revision, for `base_revision`.
    revision: i64,
    /// Bytes of the key and the value.
    bytes: u64,
    /// Who stored it last.
    author: String,
    /// Which of the author's agents did.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// When it was made, in RFC 3339.
    created_at: String,
    /// When it was stored last.
    updated_at: String,
    /// When it expires, if ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl From<About> for Described {
    fn from(about: About) -> Described {
        let About { key, revision, bytes, author, agent, created, updated, expires } = about;
        let (created_at, updated_at, expires_at) = (time(created), time(updated), expires.map(time));
        Described { key, revision, bytes, author, agent, created_at, updated_at, expires_at }
    }
}

/// A value as the store has it. What was stored by a tool is JSON of `serde_json`, so it can be read.
fn value_of(value: &skep_core::Json) -> Result<Value, ToolError> {
    value.parse().map_err(|error| ToolError::failed(format!("the value cannot be read: {error}")))
}

fn failed(error: MemoryError) -> ToolError {
    let message = error.to_string();
    match error {
        MemoryError::Conflict { current, .. } => ToolError::Conflict { message, detail: current_state(current) },
        MemoryError::Invalid(invalid) => refused(invalid),
        MemoryError::TooMany | MemoryError::Full => ToolError::failed(message),
        MemoryError::Db(error) => store_failed(error),
    }
}

/// What is there instead of what a change was based on.
fn current_state(current: Option<Box<Entry>>) -> Map<String, Value> {
    let state = match current {
        None => json!({ "current": null }),
        Some(entry) => {
            let value = value_of(&entry.value).unwrap_or_default();
            let about = serde_json::to_value(Described::from(entry.about)).unwrap_or_default();
            json!({ "current": about, "current_value": value })
        }
    };
    match state {
        Value::Object(state) => state,
        _ => Map::new(),
    }
}
