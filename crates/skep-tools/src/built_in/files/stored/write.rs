//! A revision of a file, merged with what others have written meanwhile where that is wanted.

use std::sync::Arc;

use skep_core::{
    app::{App, FileError},
    claim::ClaimToken,
    file::{NewRevision, Written},
    path::FilePath,
    policy::{Permit, Write},
};

use super::conflict::{Conflict, failed};
use crate::error::ToolError;

/// How often a text is merged anew because others write the file meanwhile.
const MERGES_MAX: u32 = 8;

/// What a file is to be.
pub(in crate::built_in::files) struct Draft {
    pub(in crate::built_in::files) path: FilePath,
    pub(in crate::built_in::files) bytes: Vec<u8>,
    /// The revision that the caller had seen.
    pub(in crate::built_in::files) base: Option<u64>,
    pub(in crate::built_in::files) token: Option<i64>,
    /// Whether to merge it with what others have written since.
    pub(in crate::built_in::files) merge: bool,
}

/// What a file is now.
pub(in crate::built_in::files) struct Kept {
    pub(in crate::built_in::files) written: Written,
    /// Its contents.
    pub(in crate::built_in::files) bytes: Arc<[u8]>,
    /// The revision with which the caller's text was merged, if it was.
    pub(in crate::built_in::files) merged_with: Option<u64>,
}

/// Write a file.
pub(in crate::built_in::files) async fn write(
    app: &App,
    permit: &Permit<Write>,
    draft: Draft,
) -> Result<Kept, ToolError> {
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
