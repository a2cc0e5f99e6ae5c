//! Memory entries: those that were stored or deleted here since both sides had the same.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use skep_core::Timestamp;
use skep_tools::error::ToolError;

use super::{
    PAGE, Transfer,
    journal::{Mark, Thing},
    take_items, text,
};
use crate::{cli::files::author_of, hub::calls::log::now};

/// What the hub has under a key.
struct Found {
    /// 0 if there is nothing.
    revision: i64,
    value: Value,
    by: String,
}

impl Transfer {
    /// Bring the memory of a task, or of the team.
    pub(super) async fn memory(&mut self, task: Option<&str>) -> anyhow::Result<()> {
        let here = self.local_entries(task).await?;
        for (key, entry) in &here {
            self.entry(task, key, entry).await?;
            self.progress();
        }
        let is_gone = |thing: &&Thing| match thing {
            Thing::Memory { task: of, key } => of.as_deref() == task && !here.contains_key(key),
            _ => false,
        };
        let gone: Vec<Thing> = self.journal.things().filter(is_gone).cloned().collect();
        for thing in gone {
            self.delete_entry(thing).await?;
        }
        Ok(())
    }

    async fn local_entries(&self, task: Option<&str>) -> anyhow::Result<BTreeMap<String, Value>> {
        let (mut entries, mut after) = (BTreeMap::new(), Value::Null);
        loop {
            let wanted = json!({ "task_id": task, "after": after, "limit": PAGE });
            let mut page = self.sides.local("memory_list", wanted).await?;
            let named = |entry: Value| Some((text(&entry["key"])?, entry));
            entries.extend(take_items(&mut page, "entries").into_iter().filter_map(named));
            match page.remove("next") {
                Some(next) => after = next,
                None => return Ok(entries),
            }
        }
    }

    async fn entry(&mut self, task: Option<&str>, key: &str, entry: &Value) -> anyhow::Result<()> {
        let thing = Thing::Memory { task: task.map(str::to_owned), key: key.to_owned() };
        let common = self.journal.mark(&thing).unwrap_or_default();
        let local = entry["revision"].as_i64().unwrap_or_default();
        if local == common.local {
            return Ok(());
        }
        let mut read = self.sides.local("memory_retrieve", json!({ "task_id": task, "key": key })).await?;
        let Some(value) = read.remove("value").filter(|value| !value.is_null()) else { return Ok(()) }; // it has expired
        let found = self.at_hub(task, key).await?;
        if found.value == value {
            return self.agree_on(thing, local, found.revision);
        }
        if found.revision != common.hub {
            self.entry_conflict(task, key, &found, Some((&value, entry)));
            return Ok(());
        }
        self.report.entries += 1;
        if self.dry_run {
            return Ok(());
        }
        let store = json!({
            "task_id": task, "key": key, "value": value, "base_revision": found.revision, "agent_id": entry["agent"],
            "ttl": seconds_left(&entry["expires_at"]),
        });
        match self.sides.remote("memory_store", store).await? {
            Ok(stored) => {
                let revision = stored.get("revision").and_then(Value::as_i64).unwrap_or_default();
                self.agree_on(thing, local, revision)
            }
            Err(error) => {
                self.report.entries -= 1;
                match error {
                    ToolError::Conflict { .. } => {
                        let found = self.at_hub(task, key).await?;
                        self.entry_conflict(task, key, &found, Some((&value, entry)));
                    }
                    error => self.trouble(json!({
                        "kind": "memory", "task": task, "name": key, "reason": error.code(),
                        "why": format!("the hub refuses it: {error}"),
                    })),
                }
                Ok(())
            }
        }
    }

    /// What was deleted here, or has expired, is deleted at the hub, unless that has changed it.
    async fn delete_entry(&mut self, thing: Thing) -> anyhow::Result<()> {
        let Thing::Memory { task, key } = &thing else { return Ok(()) };
        let common = self.journal.mark(&thing).unwrap_or_default();
        let found = self.at_hub(task.as_deref(), key).await?;
        if found.revision == common.hub && found.revision != 0 {
            self.report.entries += 1;
            if self.dry_run {
                return Ok(());
            }
            let delete = json!({ "task_id": task, "key": key, "base_revision": found.revision });
            if self.sides.remote("memory_delete", delete).await?.is_err() {
                self.report.entries -= 1;
                return Ok(()); // it was changed meanwhile, which the next synchronisation sees
            }
        } else if found.revision != 0 {
            self.entry_conflict(task.as_deref(), key, &found, None);
            return Ok(());
        }
        if self.dry_run { Ok(()) } else { Ok(self.journal.forget(&thing)?) }
    }

    fn agree_on(&mut self, thing: Thing, local: i64, hub: i64) -> anyhow::Result<()> {
        let mark = Mark { local, hub, sha256: None };
        if self.dry_run { Ok(()) } else { Ok(self.journal.set(thing, mark)?) }
    }

    async fn at_hub(&self, task: Option<&str>, key: &str) -> anyhow::Result<Found> {
        let mut read: Map<String, Value> =
            self.sides.remote("memory_retrieve", json!({ "task_id": task, "key": key })).await??;
        let entry = read.remove("entry").unwrap_or_default();
        let (revision, by) = (entry["revision"].as_i64().unwrap_or_default(), author_of(&entry, "author"));
        Ok(Found { revision, value: read.remove("value").unwrap_or_default(), by })
    }

    fn entry_conflict(&mut self, task: Option<&str>, key: &str, found: &Found, here: Option<(&Value, &Value)>) {
        let local = here.map(|(value, entry)| json!({ "value": value, "by": author_of(entry, "author") }));
        let why =
            if here.is_some() { "both sides have changed it" } else { "it was deleted here, and changed at the hub" };
        self.trouble(json!({
            "kind": "memory", "task": task, "name": key, "reason": "revision", "why": format!("{why}, so it was not brought"),
            "hub": { "revision": found.revision, "value": found.value, "by": found.by },
            "local": local.unwrap_or_else(|| json!({})),
        }));
    }
}

/// For how many seconds more an entry is kept, at least one; nothing if for ever.
fn seconds_left(expires: &Value) -> Option<i64> {
    let at: jiff::Timestamp = expires.as_str()?.parse().ok()?;
    let Timestamp(now) = now();
    Some(((at.as_microsecond() - now) / 1_000_000).max(1))
}
