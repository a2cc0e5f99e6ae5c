//! The tools for files: read, write, edit, list.
//!
//! They read the workspace and the outputs, and write to the outputs alone: an edit of one of the user's files is an
//! edited copy among the outputs. Which paths are which, and that none leads out, is the matter of
//! [`workspace`](skep_tools::workspace).
//!
//! With a `task_id` they work on the files of that task's workspace instead, which the store has for all who work on
//! it, with their revisions (`stored/`).

mod delete;
mod edit;
mod history;
mod list;
mod list_revisions;
mod read;
mod stored;
#[cfg(test)]
mod stored_tests;
mod walk;
mod write;

use std::path::Path;

use sha2::{Digest as _, Sha256};
use skep_core::hex::hex;
use skep_tools::{
    error::ToolError,
    workspace::{Context, OUTPUTS, Seen, refused},
};

pub(super) use self::{
    delete::FileDelete, edit::FileEdit, history::FileHistory, list::ListFiles, list_revisions::ListRevisions,
    read::FileRead, walk::matching, write::FileWrite,
};

/// Bytes of a file that is written or edited.
const WRITE_MAX: usize = 16 << 20;

/// The contents of a text file that is to be changed.
fn text(path: &str, bytes: Vec<u8>) -> Result<String, ToolError> {
    String::from_utf8(bytes).map_err(|_| ToolError::failed(format!("{path} is not text in UTF-8, so it is not edited")))
}

/// Keep a file; an error names the path as the caller did.
fn keep(context: &Context, path: &str, bytes: &[u8]) -> Result<String, ToolError> {
    check(path)?;
    context.outputs.write(Path::new(path), bytes).map_err(|error| as_named(path, error))
}

/// The same, if there is still what was `seen`.
fn keep_if_same(context: &Context, path: &str, bytes: &[u8], seen: &Seen) -> Result<String, ToolError> {
    check(path)?;
    context.outputs.write_if_same(Path::new(path), bytes, seen).map_err(|error| as_named(path, error))
}

/// The same, if there is still a file with this digest.
fn keep_instead_of(context: &Context, path: &str, base_sha256: &str, bytes: &[u8]) -> Result<String, ToolError> {
    check(path)?;
    let target = context.outputs.target(Path::new(path));
    let (old, seen) =
        context.outputs.root().read_seen(&target, WRITE_MAX as u64).map_err(|error| refused(path, &error))?;
    if old.is_none_or(|old| !sha256(&old).eq_ignore_ascii_case(base_sha256)) {
        let message =
            "is not the file that base_sha256 stands for any more; read it again, and write what follows from that";
        return Err(ToolError::conflict(format!("{path} {message}")));
    }
    keep_if_same(context, path, bytes, &seen)
}

/// The SHA-256 of this, in hexadecimal digits.
fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn check(path: &str) -> Result<(), ToolError> {
    if Path::new(path).is_absolute() {
        let cure = format!("give it without the leading slash, and it is kept below {OUTPUTS}/");
        return Err(ToolError::argument("path", format!("{path} is not written: {cure}")));
    }
    let inside = Path::new(path).strip_prefix(OUTPUTS).unwrap_or(Path::new(path));
    if inside.file_name().is_none() || path.ends_with('/') {
        return Err(ToolError::argument("path", format!("{path:?} names no file")));
    }
    Ok(())
}

fn as_named(path: &str, error: ToolError) -> ToolError {
    match error {
        ToolError::Denied(_) => refused(path, &std::io::ErrorKind::CrossesDevices.into()),
        other => other,
    }
}
