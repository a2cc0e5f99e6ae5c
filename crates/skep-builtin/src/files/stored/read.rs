//! A revision of a file, or some lines of it.

use std::io::Cursor;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use skep_tools::{
    error::ToolError,
    shared::{
        Shared,
        files::{contents, path_of},
    },
    workspace::Context,
};

use crate::files::read::{Answer, Arguments, Encoding, lines_of};

/// Read a file of a task's workspace.
pub(in crate::files) async fn read(
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
        Encoding::Text => lines_of(Cursor::new(bytes), size, arguments, context)?.0,
        Encoding::Base64 => {
            let mut answer = Answer::default();
            (answer.content, answer.encoding, answer.size) = (BASE64_STANDARD.encode(bytes), Encoding::Base64, size);
            answer
        }
    };
    (answer.path, answer.sha256, answer.revision) = (path.to_string(), revision.sha256, Some(revision.number));
    Ok(answer)
}
