//! Whole files of a task's workspace, for whoever carries their bytes as they are: the same rules as those of the tools.

use skep_core::{
    app::App,
    file::{Revision, Written},
    policy::{Permit, Read, Write},
};

use super::{Draft, path_of, read::contents};
use crate::{built_in::shared::store_failed, error::ToolError};

/// What a file is to be.
#[derive(Debug)]
pub struct NewFile {
    /// Where it is in the workspace.
    pub path: String,
    /// Its contents.
    pub bytes: Vec<u8>,
    /// The revision that the author had seen, 0 if there was none; without, whatever is there is replaced.
    pub base_revision: Option<u64>,
    /// The token of a claim on it.
    pub token: Option<i64>,
    /// Whether to merge it with what others have written since `base_revision`.
    pub merge: bool,
}

/// What a file is now.
#[derive(Debug)]
pub struct WrittenFile {
    /// Its newest revision.
    pub revision: Revision,
    /// Whether that was made by this write; otherwise the file was so already.
    pub is_new: bool,
    /// The revision with which the text was merged, if it was.
    pub merged_with: Option<u64>,
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

/// The contents of a revision, which must have some.
pub async fn read(app: &App, permit: &Permit<Read>, revision: &Revision) -> Result<Vec<u8>, ToolError> {
    let (_, bytes) = contents(app, permit, &revision.path, Some(revision.number)).await?;
    Ok(bytes)
}

/// Write a file.
pub async fn write(app: &App, permit: &Permit<Write>, new: NewFile) -> Result<WrittenFile, ToolError> {
    let NewFile { path, bytes, base_revision, token, merge } = new;
    let draft = Draft { path: path_of(&path)?, bytes, base: base_revision, token, merge };
    let kept = super::write(app, permit, draft).await?;
    let Written { revision, is_new } = kept.written;
    Ok(WrittenFile { revision, is_new, merged_with: kept.merged_with })
}
