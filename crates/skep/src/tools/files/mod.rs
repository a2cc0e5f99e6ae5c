//! The tools for files: read, write, edit, list.
//!
//! They read the workspace and the outputs, and write to the outputs alone: an edit of one of the user's files is an
//! edited copy among the outputs. Which paths are which, and that none leads out, is the matter of
//! [`workspace`](crate::workspace).

mod edit;
mod list;
mod read;
mod walk;
mod write;

use std::path::Path;

use crate::{
    catalogue::ToolError,
    workspace::{Context, OUTPUTS, refused},
};

pub(super) use self::{edit::FileEdit, list::ListFiles, read::FileRead, walk::matching, write::FileWrite};

/// Bytes of a file that is written or edited.
const WRITE_MAX: usize = 16 << 20;

/// The contents of a text file that is to be changed.
fn text(context: &Context, path: &str) -> Result<String, ToolError> {
    let bytes = context.read(path, WRITE_MAX as u64)?;
    String::from_utf8(bytes).map_err(|_| ToolError::failed(format!("{path} is not text in UTF-8, so it is not edited")))
}

/// Keep a file; an error names the path as the caller did.
fn keep(context: &Context, path: &str, bytes: &[u8]) -> Result<String, ToolError> {
    if Path::new(path).is_absolute() {
        let cure = format!("give it without the leading slash, and it is kept below {OUTPUTS}/");
        return Err(ToolError::argument("path", format!("{path} is not written: {cure}")));
    }
    let inside = Path::new(path).strip_prefix(OUTPUTS).unwrap_or(Path::new(path));
    if inside.file_name().is_none() || path.ends_with('/') {
        return Err(ToolError::argument("path", format!("{path:?} names no file")));
    }
    context.outputs.write(Path::new(path), bytes).map_err(|error| match error {
        ToolError::Denied(_) => refused(path, &std::io::ErrorKind::CrossesDevices.into()),
        other => other,
    })
}
