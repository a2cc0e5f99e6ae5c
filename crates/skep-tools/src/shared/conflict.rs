//! What a caller is told whose change does not follow from what is there: enough to make it again without another call.

use super::{claims::refused, files::described, store_failed};
use crate::{
    diff::unified,
    error::ToolError,
    merge::{merge, text},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use skep_core::{
    app::{App, FileError},
    file::{Contents, Revision},
    limits::FILE_BYTES_MAX,
    path::FilePath,
    policy::{Permit, Read},
};

/// Bytes of the contents that a conflict shows, and of the merged text.
const SHOWN_MAX: usize = 64 << 10;

/// A write that was refused because the file has changed.
pub(super) struct Conflict {
    /// Which file, and how it has changed, in a sentence.
    message: String,
    /// The newest revision.
    newest: Option<Contents>,
    detail: Map<String, Value>,
    /// What both changes make of the file, where they do not overlap.
    pub(super) merged: Option<String>,
}

impl Conflict {
    /// See what is there now, what the caller had seen, and whether the two changes go together.
    pub(super) async fn load(
        app: &App,
        permit: &Permit<Read>,
        (path, base, newest): (&FilePath, u64, Option<Box<Revision>>),
        ours: &[u8],
        message: String,
    ) -> Result<Conflict, ToolError> {
        let contents = async |number: u64| app.db.file(permit, path, Some(number)).await.map_err(store_failed);
        let newest = match newest {
            Some(newest) => contents(newest.number).await?,
            None => None,
        };
        let before = if base == 0 { None } else { contents(base).await? };
        let (ours, path) = (ours.to_vec(), path.as_str().to_owned());
        let compare = tokio::task::spawn_blocking(move || {
            let mut conflict = Conflict { message, newest, detail: Map::new(), merged: None };
            conflict.detail.insert("reason".into(), "revision".into());
            conflict.detail.insert("base_revision".into(), base.into());
            conflict.compare(&path, before.and_then(|before| before.bytes).as_deref(), &ours);
            conflict
        });
        compare.await.map_err(|error| ToolError::failed(format!("the revisions cannot be compared: {error}")))
    }

    fn compare(&mut self, path: &str, before: Option<&[u8]>, ours: &[u8]) {
        let Some(Contents { revision, bytes }) = &self.newest else { return };
        let mut now = described(revision);
        now.remove("base_revision");
        now.insert("current_revision".into(), revision.number.into());
        now.remove("revision");
        self.detail.extend(now);
        let Some(bytes) = bytes else { return };
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                let shown = &text[..text.floor_char_boundary(SHOWN_MAX)];
                self.detail.insert("content".into(), shown.into());
                self.detail.insert("content_truncated".into(), (shown.len() < text.len()).into());
            }
            Err(_) if bytes.len() <= SHOWN_MAX => {
                self.detail.insert("content".into(), BASE64_STANDARD.encode(bytes).into());
                self.detail.insert("encoding".into(), "base64".into());
            }
            Err(_) => {}
        }
        let Some(before) = before else { return };
        let (Some(old), Some(new)) = (text(before), text(bytes)) else { return };
        let (diff, diff_truncated) = unified(old, new, path, path);
        self.detail.insert("diff".into(), diff.into());
        self.detail.insert("diff_truncated".into(), diff_truncated.into());
        self.merged = merge(before, ours, bytes);
    }

    /// The newest revision's number.
    pub(super) fn current(&self) -> Option<u64> {
        self.newest.as_ref().map(|newest| newest.revision.number)
    }

    /// As it is told.
    pub(super) fn into_error(self) -> ToolError {
        let Conflict { message, mut detail, merged, .. } = self;
        detail.insert("mergeable".into(), merged.is_some().into());
        if let Some(merged) = merged.filter(|merged| merged.len() <= SHOWN_MAX) {
            detail.insert("merged".into(), merged.into());
        }
        ToolError::Conflict { message, detail }
    }
}

/// Why the store did not change a file, where there is nothing to compare.
pub fn failed(error: FileError) -> ToolError {
    let message = error.to_string();
    let in_the_way = |reason: &str, existing: &FilePath| ToolError::Conflict {
        message: message.clone(),
        detail: Map::from_iter([
            ("reason".to_owned(), json!(reason)),
            ("existing".to_owned(), json!(existing.as_str())),
        ]),
    };
    match &error {
        FileError::Unknown(_) => ToolError::failed(message),
        FileError::TooLarge(bytes) => {
            let detail = [("size", json!(bytes)), ("size_max", json!(FILE_BYTES_MAX))];
            let detail = detail.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
            ToolError::Failed { message, detail }
        }
        FileError::Twin { existing, .. } => in_the_way("twin", existing),
        FileError::InTheWay { existing, .. } => in_the_way("file_and_directory", existing),
        FileError::Conflict { base, newest, .. } => {
            let mut detail = newest.as_deref().map(described).unwrap_or_default();
            detail.insert("reason".into(), "revision".into());
            detail.insert("base_revision".into(), (*base).into());
            detail.insert("current_revision".into(), newest.as_ref().map(|newest| newest.number).into());
            detail.remove("revision");
            ToolError::Conflict { message, detail }
        }
        FileError::Refused(why) => refused(why),
        FileError::Db(_) => match error {
            FileError::Db(error) => store_failed(error),
            _ => ToolError::failed(message),
        },
    }
}
