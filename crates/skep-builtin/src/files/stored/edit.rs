//! An edit of a file's newest revision, or of the one that the caller had seen.

use skep_core::policy::{Permit, Write};
use skep_tools::{
    diff::unified,
    error::ToolError,
    shared::{
        Shared,
        files::{Draft, Kept, contents, path_of, write},
    },
    workspace::Context,
};

use crate::files::{
    edit::{Answer, Arguments, Change, TRIES_MAX},
    text,
};

/// Edit a file of a task's workspace.
pub(in crate::files) async fn edit(
    shared: &Shared,
    context: &Context,
    task: &str,
    arguments: &Arguments,
) -> Result<Answer, ToolError> {
    let (app, permit): (_, Permit<Write>) = shared.open(context, Some(task), arguments.agent_id.as_deref())?;
    let path = path_of(&arguments.path)?;
    let change = Change::of(arguments)?;
    let mut tries = 1..TRIES_MAX;
    loop {
        let (revision, old) = contents(app, &permit.to_read(), &path, arguments.base_revision).await?;
        let old = text(path.as_str(), old)?;
        let (change, name) = (change.clone(), path.clone());
        let make = tokio::task::spawn_blocking(move || {
            change.make(name.as_str(), &old).map(|(new, replaced)| (old, new, replaced))
        });
        let made = make.await.map_err(|error| ToolError::failed(format!("the edit failed: {error}")))?;
        let (old, new, replaced) = made?;
        let draft = Draft {
            path: path.clone(),
            bytes: new.into_bytes(),
            base: Some(revision.number),
            token: arguments.token,
            merge: arguments.merge,
        };
        match write(app, &permit, draft).await {
            // An edit of whatever is there is made anew on what has come meanwhile.
            Err(ToolError::Conflict { detail, .. })
                if detail.get("reason").is_some_and(|reason| reason == "revision")
                    && arguments.base_revision.is_none()
                    && tries.next().is_some() => {}
            Err(error) => return Err(error),
            Ok(Kept { written, bytes, merged_with }) => {
                let new = String::from_utf8_lossy(&bytes);
                let (diff, diff_truncated) = unified(&old, &new, path.as_str(), path.as_str());
                return Ok(Answer {
                    path: path.to_string(),
                    replaced,
                    diff,
                    diff_truncated,
                    size: bytes.len(),
                    revision: Some(written.revision.number),
                    sha256: written.revision.sha256,
                    merged_with,
                });
            }
        }
    }
}
