//! Steps and messages: those that the hub does not have, in their order. Each goes with an idempotency key that is made of what it
//! says, so the hub has it once however often it is sent.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use skep_core::hex::hex;
use skep_tools::error::ToolError;

use super::{
    PAGE, Said, Transfer,
    journal::{Mark, Thing},
    take_items,
};

/// So many steps are sent before it is remembered; what is sent again after an interruption does no harm.
const REMEMBERED_EVERY: usize = 50;
/// The member of a step's data that says where it is from.
const SYNCED: &str = "synced";

impl Transfer {
    /// Bring the steps of a task.
    pub(super) async fn steps(&mut self, task: &str) -> anyhow::Result<()> {
        let dry_run = self.dry_run;
        let thing = Thing::Steps { task: task.to_owned() };
        let mut mark = self.journal.mark(&thing).unwrap_or_default();
        if !self.has_steps(task, &mark).await? {
            mark = Mark::default();
        }
        loop {
            let wanted = json!({ "task_id": task, "after": mark.local, "limit": PAGE });
            let mut page = self.sides.local("read_logs", wanted).await?;
            let steps = take_items(&mut page, "logs");
            if dry_run {
                self.report.steps += steps.len() as u64;
                mark.local = page.get("next").and_then(Value::as_i64).unwrap_or(mark.local);
            }
            for (index, step) in steps.iter().enumerate().filter(|_| !dry_run) {
                let Some(number) = self.step(task, step).await? else { return Ok(()) };
                mark = Mark { local: step["sequence"].as_i64().unwrap_or_default(), hub: number, sha256: None };
                if index % REMEMBERED_EVERY == REMEMBERED_EVERY - 1 || index + 1 == steps.len() {
                    self.journal.set(thing.clone(), mark.clone())?;
                }
                self.progress();
            }
            if page.get("has_more") != Some(&Value::Bool(true)) {
                return Ok(());
            }
        }
    }

    /// Whether the last step that was brought is still there on both sides, or was deleted because it is old. Otherwise one of the
    /// databases is another one by now.
    async fn has_steps(&self, task: &str, mark: &Mark) -> anyhow::Result<bool> {
        if mark.local == 0 {
            return Ok(true);
        }
        let first = |said: Said| said.ok().and_then(|mut page| take_items(&mut page, "logs").into_iter().next());
        let wanted = |after: i64| json!({ "task_id": task, "after": after - 1, "limit": 1 });
        let here = first(self.sides.local("read_logs", wanted(mark.local)).await);
        let there = first(self.sides.remote("read_logs", wanted(mark.hub)).await?);
        let (Some(here), Some(there)) = (here, there) else { return Ok(false) };
        let are_kept = here["sequence"] == mark.local && there["sequence"] == mark.hub;
        Ok(!are_kept || here["message"] == there["message"])
    }

    /// Bring a step. Its number at the hub; nothing if that refuses it.
    async fn step(&mut self, task: &str, step: &Value) -> anyhow::Result<Option<i64>> {
        let log = |data: Value| {
            json!({
                "task_id": task, "agent_id": step["agent_id"], "level": step["level"], "message": step["message"],
                "data": data, "idempotency_key": key(task, "step", step),
            })
        };
        let mut said = self.sides.remote("log_step", log(with_origin(step))).await?;
        if let Err(ToolError::InvalidArguments(_)) = said {
            said = self.sides.remote("log_step", log(step["data"].clone())).await?; // it is as long as it may be
        }
        match said {
            Ok(logged) => {
                if logged.get("repeated").is_none() {
                    self.report.steps += 1;
                }
                Ok(Some(logged.get("sequence").and_then(Value::as_i64).unwrap_or_default()))
            }
            Err(error) => {
                self.refuse("step", Some(task), &step["sequence"], &error);
                Ok(None)
            }
        }
    }

    /// Bring the messages of a task, or of the team.
    pub(super) async fn messages(&mut self, task: Option<&str>) -> anyhow::Result<()> {
        let dry_run = self.dry_run;
        let thing = Thing::Messages { task: task.map(str::to_owned) };
        let mut mark = self.journal.mark(&thing).unwrap_or_default();
        loop {
            let wanted = json!({ "task_id": task, "all_agents": true, "after": mark.local, "limit": PAGE });
            let mut page = self.sides.local("read_messages", wanted).await?;
            let messages = take_items(&mut page, "messages");
            if dry_run {
                self.report.messages += messages.len() as u64;
                mark.local = page.get("next").and_then(Value::as_i64).unwrap_or(mark.local);
            }
            for message in messages.iter().filter(|_| !dry_run) {
                let Some(number) = self.message(task, message).await? else { return Ok(()) };
                mark = Mark { local: message["number"].as_i64().unwrap_or_default(), hub: number, sha256: None };
                let one = Thing::Message { task: task.map(str::to_owned), number: mark.local };
                self.journal.set(one, mark.clone())?;
                self.journal.set(thing.clone(), mark.clone())?;
                self.progress();
            }
            if page.get("has_more") != Some(&Value::Bool(true)) {
                return Ok(());
            }
        }
    }

    /// Bring a message. Its number at the hub; nothing if that refuses it.
    async fn message(&mut self, task: Option<&str>, message: &Value) -> anyhow::Result<Option<i64>> {
        let about = message["reply_to"]
            .as_i64()
            .and_then(|number| Some(self.journal.mark(&Thing::Message { task: task.map(str::to_owned), number })?.hub));
        // An answer to what is not kept any more is still something that was said.
        let is_lost = about.is_none() && message["type"] == "response";
        let kind = if is_lost { json!("notification") } else { message["type"].clone() };
        let agent = Some(&message["from"]).filter(|from| **from != message["principal"]);
        let send = |agent: Option<&Value>, body: Value| {
            json!({
                "task_id": task, "agent_id": agent, "to": message["to"], "type": kind, "reply_to": about, "body": body,
                "idempotency_key": key(task.unwrap_or_default(), "message", message),
            })
        };
        let mut said = self.sides.remote("send_message", send(agent, message["body"].clone())).await?;
        if let Err(ToolError::Conflict { detail, .. }) = &said
            && detail.get("reason").is_some_and(|reason| reason == "name_taken")
        {
            // The name is another token's at the hub, so the message says itself who has sent it.
            let body = json!({ "synced_from": agent, "body": message["body"] });
            said = self.sides.remote("send_message", send(None, body)).await?;
        }
        match said {
            Ok(sent) => {
                if sent.get("repeated").is_none() {
                    self.report.messages += 1;
                }
                Ok(Some(sent.get("number").and_then(Value::as_i64).unwrap_or_default()))
            }
            Err(error) => {
                self.refuse("message", task, &message["number"], &error);
                Ok(None)
            }
        }
    }

    fn refuse(&mut self, kind: &str, task: Option<&str>, number: &Value, error: &ToolError) {
        self.trouble(json!({
            "kind": kind, "task": task, "name": number.to_string(), "reason": error.code(),
            "why": format!("the hub refuses it, so those after it wait, too: {error}"),
        }));
    }
}

/// The idempotency key of a step or a message: another one for everything that was ever said here.
fn key(task: &str, kind: &str, of: &Value) -> String {
    let hash = Sha256::digest(json!([kind, task, of]).to_string());
    format!("sync:{}", hex(&hash))
}

/// The data of a step, with what the hub does not know of it.
fn with_origin(step: &Value) -> Value {
    let origin = json!({ "at": step["at"], "step": step["sequence"] });
    match &step["data"] {
        Value::Null => json!({ SYNCED: origin }),
        Value::Object(members) if !members.contains_key(SYNCED) => {
            let mut members: Map<String, Value> = members.clone();
            members.insert(SYNCED.to_owned(), origin);
            Value::Object(members)
        }
        other => json!({ "value": other, SYNCED: origin }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_where_it_is_from_whatever_its_data_is() {
        let step = |data: Value| json!({ "sequence": 3, "at": "then", "data": data });
        let origin = json!({ "at": "then", "step": 3 });
        assert_eq!(with_origin(&step(Value::Null)), json!({ "synced": origin }));
        assert_eq!(with_origin(&step(json!({ "files": 1 }))), json!({ "files": 1, "synced": origin }));
        assert_eq!(with_origin(&step(json!([1]))), json!({ "value": [1], "synced": origin }));
    }

    #[test]
    fn a_key_is_that_of_what_was_said_in_its_place() {
        let step = json!({ "sequence": 1, "at": "then", "message": "m" });
        let again = json!({ "sequence": 1, "at": "later", "message": "m" });
        let keys =
            [key("a", "step", &step), key("b", "step", &step), key("a", "message", &step), key("a", "step", &again)];
        assert_eq!(key("a", "step", &step), keys[0]);
        assert!(keys.iter().enumerate().all(|(n, key)| !keys[..n].contains(key)), "{keys:?}");
    }
}
