//! Files of a task's workspace, which the store has with all their revisions: the rules that tools and REST share.

use std::sync::Arc;

use serde_json::{Map, Value};
use skep_core::{
    app::{App, FileError},
    claim::ClaimToken,
    file::{Contents, NewRevision, Revision, Written},
    path::FilePath,
    policy::{Permit, Read, Write},
};

use super::{conflict::Conflict, store_failed, time};
use crate::error::ToolError;

pub use super::conflict::failed;

/// How often a text is merged anew because others write the file meanwhile.
const MERGES_MAX: u32 = 8;

/// What a file is to be.
pub struct Draft {
    /// Where it is in the workspace.
    pub path: FilePath,
    /// Its contents.
    pub bytes: Vec<u8>,
    /// The revision that the author had seen, 0 if there was none; without, whatever is there is replaced.
    pub base: Option<u64>,
    /// The token of a claim on it.
    pub token: Option<i64>,
    /// Whether to merge it with what others have written since.
    pub merge: bool,
}

/// What a file is now.
pub struct Kept {
    /// Its newest revision, and whether this write made it.
    pub written: Written,
    /// Its contents.
    pub bytes: Arc<[u8]>,
    /// The revision with which the caller's text was merged, if it was.
    pub merged_with: Option<u64>,
}

/// Write a file.
pub async fn write(app: &App, permit: &Permit<Write>, draft: Draft) -> Result<Kept, ToolError> {
    let Draft { path, bytes, base, token, merge } = draft;
    let mut new = NewRevision { path, bytes: bytes.into(), base, token: token.map(ClaimToken) };
    let mut merged_with = None;
    for _ in 0..=MERGES_MAX {
        let error = match app.write_file(permit, new.clone()).await {
            Ok(written) => return Ok(Kept { written, bytes: new.bytes, merged_with }),
            Err(error) => error,
        };
        let message = error.to_string();
        let FileError::Conflict { path, base, newest } = error else { return Err(failed(error)) };
        let mut conflict = Conflict::load(app, &permit.to_read(), (&path, base, newest), &new.bytes, message).await?;
        match (conflict.current(), conflict.merged.take_if(|_| merge)) {
            (Some(current), Some(merged)) => {
                new.bytes = merged.into_bytes().into();
                new.base = Some(current);
                merged_with = Some(current);
            }
            _ => return Err(conflict.into_error()),
        }
    }
    Err(ToolError::Busy(format!("{} was changed {MERGES_MAX} times while it was merged; try again", new.path)))
}

/// A file as it is now or was at a revision, without its contents. `None` if there never was one, or no such revision.
pub async fn find(
    app: &App,
    permit: &Permit<Read>,
    path: &str,
    revision: Option<u64>,
) -> Result<Option<Revision>, ToolError> {
    let path = path_of(path)?;
    let before = revision.map(|number| number.saturating_add(1));
    let found = app.db.revisions(permit, &path, before, 1).await.map_err(store_failed)?;
    Ok(found.into_iter().next().filter(|found| revision.is_none_or(|number| found.number == number)))
}

/// A file as it is now or was at a revision, which has contents.
pub async fn contents(
    app: &App,
    permit: &Permit<Read>,
    path: &FilePath,
    number: Option<u64>,
) -> Result<(Revision, Vec<u8>), ToolError> {
    match app.db.file(permit, path, number).await.map_err(store_failed)? {
        Some(Contents { revision, bytes: Some(bytes) }) => Ok((revision, bytes)),
        Some(Contents { revision, bytes: None }) => Err(ToolError::failed(format!(
            "{path} was deleted in revision {}; give an earlier revision to read what was in it",
            revision.number
        ))),
        None => Err(ToolError::failed(match number {
            Some(number) => format!("{path} has no revision {number}, or it is not kept any more; see file_history"),
            None => format!("there is no file {path} in this task's workspace; see list_files"),
        })),
    }
}

/// The path that a caller has given.
pub fn path_of(text: &str) -> Result<FilePath, ToolError> {
    let text = text.strip_prefix("./").unwrap_or(text);
    FilePath::new(text).map_err(|error| ToolError::argument("path", error.to_string()))
}

/// What is known of a revision, under these names in every answer and error.
pub fn described(revision: &Revision) -> Map<String, Value> {
    let Revision { number, base, sha256, size, author, at, .. } = revision;
    let mut described = Map::new();
    described.insert("revision".into(), (*number).into());
    described.insert("base_revision".into(), (*base).into());
    described.insert("sha256".into(), sha256.as_deref().into());
    described.insert("size".into(), (*size).into());
    described.insert("deleted".into(), sha256.is_none().into());
    described.insert("author".into(), author.as_ref().map(|author| &*author.principal).into());
    described.insert("agent".into(), author.as_ref().and_then(|author| author.agent.as_deref()).into());
    described.insert("at".into(), time(*at).into());
    described
}
