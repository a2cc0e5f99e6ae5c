//! `list_revisions`: what was changed in a task's workspace, of all files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{
    Timestamp,
    db::{RevisionFilter, RevisionPlace},
    file::Revision,
    limits::PAGE_MAX,
    policy::{Permit, Read},
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, files::path_of, moment, store_failed},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::history::{Entry, entry};

/// Revisions, if the caller does not say how many.
const LIMIT: usize = 50;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct ListRevisions {
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
    /// Only revisions of this file, or of the files in this directory.
    #[garde(length(chars, min = 1, max = 4096))]
    path: Option<String>,
    /// Only those that an agent or a principal of this name made.
    #[garde(length(chars, min = 1, max = 512))]
    by: Option<String>,
    /// Only those from this time on, in RFC 3339.
    since: Option<String>,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    agent_id: Option<String>,
    /// Give the revisions before this place: the `next` of the last answer.
    #[garde(length(bytes, min = 1, max = 4096))]
    before: Option<String>,
    /// Revisions to give at most.
    #[serde(default = "limit")]
    #[garde(range(min = 1, max = PAGE_MAX))]
    limit: usize,
}

fn limit() -> usize {
    LIMIT
}

/// What has become of the files.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The revisions, newest first.
    revisions: Vec<Entry>,
    /// There may be earlier ones: give this as `before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl BuiltIn for ListRevisions {
    const NAME: &'static str = "list_revisions";
    const DESCRIPTION: &'static str = "List who changed which files of a task's workspace, and when, newest first. \
        file_history shows what a revision changed.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, path, by, since, agent_id, before, limit } = arguments;
        let (app, permit): (_, Permit<Read>) = self.shared.open(context, Some(&task_id), agent_id.as_deref())?;
        let path = match path.as_deref().map(|path| path.trim_end_matches('/')) {
            None | Some("" | ".") => String::new(),
            Some(path) => path_of(path)?.as_str().to_owned(),
        };
        let filter = RevisionFilter { path, by, since: moment("since", since)? };
        let before = before.as_deref().map(place).transpose()?;
        let page = app.db.revisions_of_all(&permit, &filter, before, limit).await.map_err(store_failed)?;
        let of_file = |revision: Revision| {
            let path = Some(revision.path.as_str().to_owned());
            let mut entry = entry(revision, None);
            entry.path = path;
            entry
        };
        Ok(Answer { revisions: page.revisions.into_iter().map(of_file).collect(), next: page.next.map(cursor) })
    }
}

/// A place as callers carry it.
fn cursor(place: RevisionPlace) -> String {
    let RevisionPlace { at, path, number } = place;
    format!("{}.{number}.{path}", at.0)
}

fn place(cursor: &str) -> Result<RevisionPlace, ToolError> {
    let mut parts = cursor.splitn(3, '.');
    let place = match (parts.next().map(str::parse), parts.next().map(str::parse), parts.next()) {
        (Some(Ok(at)), Some(Ok(number)), Some(path)) => {
            Some(RevisionPlace { at: Timestamp(at), number, path: path.to_owned() })
        }
        _ => None,
    };
    place.ok_or_else(|| ToolError::argument("before", "it is no place; give the `next` of an earlier answer"))
}
