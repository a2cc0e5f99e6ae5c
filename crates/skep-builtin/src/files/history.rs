//! `file_history`: the revisions of a file of a task's workspace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{
    app::App,
    file::Revision,
    policy::{Permit, Read},
};
use skep_tools::{
    diff::{DIFF_MAX, unified},
    error::ToolError,
    shared::{Shared, files::path_of, store_failed, time},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

/// Revisions, if the caller does not say how many.
const LIMIT: usize = 20;
/// Revisions that a caller may ask for.
const LIMIT_MAX: usize = 1000;
/// Bytes of all diffs of an answer; after it, revisions come without one.
const DIFFS_MAX: usize = 4 * DIFF_MAX;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct FileHistory {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The task whose workspace it is.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = 512))]
    task_id: String,
    /// Which file.
    #[garde(length(chars, min = 1, max = 4096))]
    path: String,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    agent_id: Option<String>,
    /// Give the revisions before this one: the `next` of the last answer.
    #[garde(range(min = 1))]
    before: Option<u64>,
    /// Revisions to give at most.
    #[serde(default = "limit")]
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: usize,
    /// Show what each revision changed, as unified diffs.
    #[serde(default)]
    diffs: bool,
}

fn limit() -> usize {
    LIMIT
}

/// What has become of the file.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Which file.
    path: String,
    /// Its revisions, newest first.
    revisions: Vec<Entry>,
    /// There are earlier ones: give this as `before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Entry {
    /// Of which file, where the revisions are those of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    /// Its number.
    revision: u64,
    /// The revision that its author had seen, 0 if there was none; null if the author did not say.
    base_revision: Option<u64>,
    /// SHA-256 of the file; null if the file was deleted.
    sha256: Option<String>,
    /// Bytes of the file.
    size: u64,
    /// Who wrote it; null if that is not known, because the file was changed in the workspace's directory.
    author: Option<String>,
    /// Which of the author's agents.
    agent: Option<String>,
    /// When, in RFC 3339.
    at: String,
    /// The token of somebody else's claim on the file, where it was changed in the workspace's directory all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    bypassed_claim: Option<i64>,
    /// What it changed. Not given if that was not asked for, if one of the two is no text or not kept any more, or if
    /// the answer has enough of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

impl BuiltIn for FileHistory {
    const NAME: &'static str = "file_history";
    const DESCRIPTION: &'static str = "List who changed a file of a task's workspace, when, and what. Read an earlier \
        revision by file_read with `revision`; undo a change by writing that again.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, path, agent_id, before, limit, diffs } = arguments;
        let (app, permit): (_, Permit<Read>) = self.shared.open(context, Some(&task_id), agent_id.as_deref())?;
        let path = path_of(&path)?;
        let revisions = app.db.revisions(&permit, &path, before, limit).await.map_err(store_failed)?;
        if revisions.is_empty() && before.is_none() {
            return Err(ToolError::failed(format!("there never was a file {path} in this task's workspace")));
        }
        let next = revisions.last().filter(|last| revisions.len() == limit && last.number > 1).map(|last| last.number);
        let (mut entries, mut bytes) = (Vec::with_capacity(revisions.len()), 0);
        for revision in revisions {
            let wanted = diffs && bytes < DIFFS_MAX && !context.time_left().is_zero();
            let diff = if wanted { diff_of(app, &permit, &revision).await? } else { None };
            bytes += diff.as_ref().map_or(0, String::len);
            entries.push(entry(revision, diff));
        }
        Ok(Answer { path: path.to_string(), revisions: entries, next })
    }
}

/// What a revision changed, if both it and the one before are text.
async fn diff_of(app: &App, permit: &Permit<Read>, revision: &Revision) -> Result<Option<String>, ToolError> {
    let text = async |number: u64| {
        if number == 0 {
            return Ok(Some(String::new()));
        }
        let contents = app.db.file(permit, &revision.path, Some(number)).await.map_err(store_failed)?;
        // A file that is not there is compared as if it were empty.
        Ok::<_, ToolError>(contents.and_then(|found| String::from_utf8(found.bytes.unwrap_or_default()).ok()))
    };
    let (Some(old), Some(new)) = (text(revision.number - 1).await?, text(revision.number).await?) else {
        return Ok(None);
    };
    let path = revision.path.clone();
    let diff = tokio::task::spawn_blocking(move || unified(&old, &new, path.as_str(), path.as_str()).0).await;
    diff.map(Some).map_err(|error| ToolError::failed(format!("the revisions cannot be compared: {error}")))
}

pub(super) fn entry(revision: Revision, diff: Option<String>) -> Entry {
    let Revision { number, base, sha256, size, author, at, bypassed, .. } = revision;
    Entry {
        path: None,
        revision: number,
        base_revision: base,
        sha256,
        size,
        agent: author.as_ref().and_then(|author| Some(author.agent.as_ref()?.to_string())),
        author: author.map(|author| author.principal.to_string()),
        at: time(at),
        bypassed_claim: bypassed.map(|token| token.0),
        diff,
    }
}
