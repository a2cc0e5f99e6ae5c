//! A revision of a file, or some lines of it.

use std::io::Cursor;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use skep_core::{
    app::App,
    file::Contents,
    path::FilePath,
    policy::{self, Permit},
};

use super::path_of;
use crate::{
    built_in::{
        files::read::{Answer, Arguments, Encoding, lines_of},
        shared::{Shared, store_failed},
    },
    error::ToolError,
    workspace::Context,
};

/// Read a file of a task's workspace.
pub(in crate::built_in::files) async fn read(
    shared: &Shared,
    context: &Context,
    task: &str,
    arguments: &Arguments,
) -> Result<Answer, ToolError> {
    let (app, permit) = shared.open(context, Some(task), arguments.agent_id.as_deref())?;
    let path = path_of(&arguments.path)?;
    let (revision, bytes) = contents(app, &permit, &path, arguments.revision).await?;
    context.make_room(bytes.len() / 3 * 4).await?;
    let size = revision.size;
    let mut answer = match arguments.encoding {
        Encoding::Text => lines_of(Cursor::new(bytes), size, arguments, context)?,
        Encoding::Base64 => {
            let mut answer = Answer::default();
            (answer.content, answer.encoding, answer.size) = (BASE64_STANDARD.encode(bytes), Encoding::Base64, size);
            answer
        }
    };
    (answer.path, answer.sha256, answer.revision) = (path.to_string(), revision.sha256, Some(revision.number));
    Ok(answer)
}

/// A file as it is now or was at a revision, which has contents.
pub(super) async fn contents(
    app: &App,
    permit: &Permit<policy::Read>,
    path: &FilePath,
    number: Option<u64>,
) -> Result<(skep_core::file::Revision, Vec<u8>), ToolError> {
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
