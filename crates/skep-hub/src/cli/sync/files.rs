//! Files: each revision that was made here since both sides had the same.

use std::collections::BTreeMap;

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use skep_tools::error::ToolError;

use super::{
    PAGE, Said, Transfer,
    journal::{Mark, Thing},
    take_items, text,
};
use crate::cli::files::{author_of, difference};

/// Bytes of a side of a conflict that are shown.
const SHOWN_MAX: usize = 64 << 10;
/// Revisions of the hub that are compared with those from here.
const COMPARED_MAX: i64 = 1000;

/// A revision, as file_history has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Revision {
    number: i64,
    /// Nothing if it is a deletion.
    sha256: Option<String>,
    agent: Option<String>,
    by: String,
}

impl Revision {
    fn read(value: &Value) -> Revision {
        Revision {
            number: value["revision"].as_i64().unwrap_or_default(),
            sha256: text(&value["sha256"]),
            agent: text(&value["agent"]),
            by: author_of(value, "author"),
        }
    }

    /// Whether this is the other one, brought to the hub.
    fn is_same(&self, other: &Revision) -> bool {
        (&self.sha256, &self.agent) == (&other.sha256, &other.agent)
    }
}

/// A file of a task.
struct File<'a> {
    task: &'a str,
    path: &'a str,
    thing: Thing,
}

/// What a file is like on both sides, and what they last had in common.
struct Both<'a> {
    common: Mark,
    /// The revisions from here that the hub does not have.
    pending: &'a [Revision],
    /// The hub's newest; the number is 0 if it has none.
    hub: Revision,
}

impl Transfer {
    /// Bring the files of a task.
    pub(super) async fn files(&mut self, task: &str) -> anyhow::Result<()> {
        for (path, revisions) in self.local_revisions(task).await? {
            let thing = Thing::File { task: task.to_owned(), path: path.clone() };
            self.file(&File { task, path: &path, thing }, &revisions).await?;
            self.progress();
        }
        Ok(())
    }

    /// The revisions of all files here, oldest first.
    async fn local_revisions(&self, task: &str) -> anyhow::Result<BTreeMap<String, Vec<Revision>>> {
        let (mut files, mut before) = (BTreeMap::<String, Vec<Revision>>::new(), Value::Null);
        loop {
            let wanted = json!({ "task_id": task, "before": before, "limit": PAGE });
            let mut page = self.sides.local("list_revisions", wanted).await?;
            for value in take_items(&mut page, "revisions") {
                let path = text(&value["path"]).context("a revision has no path")?;
                files.entry(path).or_default().push(Revision::read(&value));
            }
            match page.remove("next") {
                Some(next) => before = next,
                None => break,
            }
        }
        files.values_mut().for_each(|revisions| revisions.reverse());
        Ok(files)
    }

    async fn file(&mut self, file: &File<'_>, revisions: &[Revision]) -> anyhow::Result<()> {
        let Some(newest) = revisions.last() else { return Ok(()) };
        let mut common = self.journal.mark(&file.thing).unwrap_or_default();
        // An older copy of the database may have been put back.
        let known = revisions.iter().find(|revision| revision.number == common.local);
        if common.local > newest.number || known.is_some_and(|known| known.sha256 != common.sha256) {
            common = Mark::default();
        }
        if common.local == newest.number {
            return Ok(());
        }
        let hub = self.hub_revisions(file, 1).await?.pop().unwrap_or_default();
        if hub.number < common.hub {
            common = Mark::default(); // the hub's database is another one
        }
        if hub.sha256 == newest.sha256 {
            return self.agree(file, newest, hub.number);
        }
        let mut pending = &revisions[revisions.partition_point(|revision| revision.number <= common.local)..];
        if hub.number > common.hub {
            self.skip_brought(file, &mut common, &mut pending, hub.number).await?;
        }
        let both = Both { pending, hub, common };
        if both.hub.number == both.common.hub {
            self.forward(file, both).await
        } else {
            self.conflict(file, both).await
        }
    }

    /// Both sides have the same.
    fn agree(&mut self, file: &File<'_>, local: &Revision, hub: i64) -> anyhow::Result<()> {
        let mark = Mark { local: local.number, hub, sha256: local.sha256.clone() };
        if self.dry_run { Ok(()) } else { Ok(self.journal.set(file.thing.clone(), mark)?) }
    }

    /// The hub's newest revisions of a file, oldest first.
    async fn hub_revisions(&self, file: &File<'_>, limit: i64) -> anyhow::Result<Vec<Revision>> {
        let wanted = json!({ "task_id": file.task, "path": file.path, "limit": limit });
        match self.sides.remote("file_history", wanted).await? {
            Ok(mut history) => Ok(take_items(&mut history, "revisions").iter().rev().map(Revision::read).collect()),
            // There never was one. What is written then rests on that, so an error of another kind does no harm.
            Err(ToolError::Failed { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Revisions that an earlier synchronisation has brought, and could not remember.
    async fn skip_brought(
        &mut self,
        file: &File<'_>,
        common: &mut Mark,
        pending: &mut &[Revision],
        newest: i64,
    ) -> anyhow::Result<()> {
        let later = self.hub_revisions(file, (newest - common.hub).min(COMPARED_MAX)).await?;
        for theirs in &later {
            let Some((ours, rest)) = pending.split_first() else { break };
            if theirs.number != common.hub + 1 || !ours.is_same(theirs) {
                break;
            }
            *common = Mark { local: ours.number, hub: theirs.number, sha256: ours.sha256.clone() };
            *pending = rest;
            self.agree(file, ours, theirs.number)?;
        }
        Ok(())
    }

    /// Bring one revision after the other. Each rests on the one before.
    async fn forward(&mut self, file: &File<'_>, both: Both<'_>) -> anyhow::Result<()> {
        let Both { mut common, pending, .. } = both;
        for (index, revision) in pending.iter().enumerate() {
            if self.dry_run {
                self.report.revisions += 1;
                continue;
            }
            let contents = match (&revision.sha256, self.contents_here(file, revision.number).await?) {
                (Some(_), None) if index + 1 < pending.len() => continue, // not kept any more
                (_, contents) => contents,
            };
            match self.write(file, revision, contents, common.hub, false).await? {
                Ok(written) => {
                    common.hub = written.get("revision").and_then(Value::as_i64).unwrap_or_default();
                    self.agree(file, revision, common.hub)?;
                    self.report.revisions += 1;
                }
                Err(ToolError::Conflict { detail, .. })
                    if detail.get("reason").is_some_and(|why| why == "revision") =>
                {
                    let hub = self.hub_revisions(file, 1).await?.pop().unwrap_or_default();
                    return self.conflict(file, Both { common, pending: &pending[index..], hub }).await;
                }
                Err(error) => {
                    self.refused(file, &error);
                    return Ok(());
                }
            }
            self.progress();
        }
        Ok(())
    }

    /// Write a revision at the hub, if its newest is that of this number.
    async fn write(
        &self,
        file: &File<'_>,
        revision: &Revision,
        contents: Option<Vec<u8>>,
        base: i64,
        merge: bool,
    ) -> anyhow::Result<Said> {
        let Some(contents) = contents else {
            let delete = json!({
                "task_id": file.task, "path": file.path, "agent_id": revision.agent, "base_revision": base,
            });
            return self.sides.remote("file_delete", delete).await;
        };
        let mut query = vec![("base_revision", base.to_string()), ("merge", merge.to_string())];
        query.extend(revision.agent.clone().map(|agent| ("agent_id", agent)));
        let put = self.sides.hub.put_file(file.task, file.path, &query, contents);
        let put = self.sides.context.cancel.run_until_cancelled(put).await;
        Ok(put.ok_or_else(|| anyhow::anyhow!("interrupted"))??)
    }

    /// Both sides have changed the file since.
    async fn conflict(&mut self, file: &File<'_>, both: Both<'_>) -> anyhow::Result<()> {
        let Some(newest) = both.pending.last() else { return Ok(()) };
        let can_be_merged = both.common.hub > 0 && newest.sha256.is_some() && both.hub.sha256.is_some();
        if self.merge && can_be_merged && !self.dry_run {
            let contents = self.contents_here(file, newest.number).await?;
            if let Ok(written) = self.write(file, newest, contents, both.common.hub, true).await? {
                let number = written.get("revision").and_then(Value::as_i64).unwrap_or_default();
                (self.report.revisions, self.report.merged) = (self.report.revisions + 1, self.report.merged + 1);
                return self.take_back(file, newest, number).await;
            }
        }
        let Both { common, hub, .. } = &both;
        let base = self.text_at_hub(file, common.hub).await?;
        let (ours, theirs) =
            (self.contents_here(file, newest.number).await?.map(as_text), self.text_at_hub(file, hub.number).await?);
        let since = match common.hub {
            0 => "both sides have made it".to_owned(),
            number => format!("both sides have changed it since the hub's revision {number}"),
        };
        let side = |revision: &Revision, text: Option<Option<String>>| {
            let diff = match (&base, text) {
                (Some(Some(base)), Some(Some(text))) => Some((base.clone(), text)),
                (None, Some(Some(text))) => Some((String::new(), text)),
                (Some(Some(base)), None) => Some((base.clone(), String::new())),
                _ => None, // not text
            };
            let diff = diff.map(|(old, new)| {
                shown(difference(file.path, (number(common.hub), &old), (number(revision.number), &new)))
            });
            json!({ "revision": revision.number, "by": revision.by, "sha256": revision.sha256, "diff": diff,
                "value": revision.sha256 })
        };
        let trouble = json!({
            "kind": "file", "task": file.task, "name": file.path, "reason": "revision", "base_revision": common.hub,
            "why": format!("{since}, so it was not brought"),
            "hub": side(hub, theirs), "local": side(newest, ours),
        });
        self.trouble(trouble);
        Ok(())
    }

    /// Write here what was merged at the hub, so that both sides have the same again. If the file has changed here meanwhile, the
    /// next synchronisation sees to it.
    async fn take_back(&mut self, file: &File<'_>, newest: &Revision, number: i64) -> anyhow::Result<()> {
        let wanted = json!({ "task_id": file.task, "path": file.path, "revision": number, "encoding": "base64" });
        let Ok(read) = self.sides.remote("file_read", wanted).await? else { return Ok(()) };
        let write = json!({
            "task_id": file.task, "path": file.path, "base_revision": newest.number, "encoding": "base64",
            "content": read.get("content"),
        });
        match self.sides.local("file_write", write).await {
            Ok(written) => self.agree(file, &Revision::read(&Value::Object(written)), number),
            Err(error) => {
                tracing::warn!(%error, path = file.path, "what was merged at the hub could not be written here");
                Ok(())
            }
        }
    }

    fn refused(&mut self, file: &File<'_>, error: &ToolError) {
        let reason = error.to_json();
        self.trouble(json!({
            "kind": "file", "task": file.task, "name": file.path, "reason": reason.get("reason").unwrap_or(&reason["code"]),
            "why": format!("the hub refuses it: {error}"),
        }));
    }

    /// The contents of a revision here; nothing of a deletion, and of what is not kept any more.
    async fn contents_here(&self, file: &File<'_>, number: i64) -> anyhow::Result<Option<Vec<u8>>> {
        let wanted = json!({ "task_id": file.task, "path": file.path, "revision": number, "encoding": "base64" });
        match self.sides.local("file_read", wanted).await {
            Ok(read) => Ok(Some(decoded(&read)?)),
            Err(ToolError::Failed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The text of a revision at the hub: nothing if there is none, and nothing within if it is no text.
    async fn text_at_hub(&self, file: &File<'_>, number: i64) -> anyhow::Result<Option<Option<String>>> {
        if number == 0 {
            return Ok(None);
        }
        let wanted = json!({ "task_id": file.task, "path": file.path, "revision": number, "encoding": "base64" });
        match self.sides.remote("file_read", wanted).await? {
            Ok(read) => Ok(Some(as_text(decoded(&read)?))),
            Err(_) => Ok(None),
        }
    }
}

fn decoded(read: &Map<String, Value>) -> anyhow::Result<Vec<u8>> {
    let content = read.get("content").and_then(Value::as_str).unwrap_or_default();
    BASE64_STANDARD.decode(content).context("the contents of a file are not base64")
}

fn as_text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok()
}

fn number(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}

/// As much of a diff as is shown.
fn shown(mut diff: String) -> String {
    if diff.len() > SHOWN_MAX {
        diff.truncate(diff.floor_char_boundary(SHOWN_MAX));
        diff.push_str("\n…\n");
    }
    diff
}
