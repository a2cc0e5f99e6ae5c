//! `file_write`: a file among the outputs.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::file::Written;
use skep_tools::{
    error::ToolError,
    shared::{
        Shared,
        files::{self, Draft, path_of},
    },
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{WRITE_MAX, keep, keep_instead_of, read::Encoding, stored};

/// See [`BuiltIn::DESCRIPTION`].
#[derive(Default)]
pub(crate) struct FileWrite {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// Where to write it among the outputs, such as `report.md` or `outputs/report.md`; with `task_id`, where to write it
    /// in that task's workspace.
    #[garde(length(chars, min = 1, max = 4096))]
    path: String,
    /// Write to the workspace that everybody who works on this task shares.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = 512))]
    task_id: Option<String>,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    agent_id: Option<String>,
    /// With `task_id`: the `revision` that file_read gave of the file, or 0 if it must be new. If there is another one by
    /// now, nothing is written, and the conflict shows what is there. Without it, whatever is there is replaced.
    base_revision: Option<u64>,
    /// With `task_id`: the token that claim_file gave. It is needed while anybody has a claim on the file.
    token: Option<i64>,
    /// With `base_revision`: merge the text with what others have written since, where the lines do not overlap.
    #[serde(default)]
    merge: bool,
    /// What to write.
    content: String,
    /// How `content` is given.
    #[serde(default)]
    encoding: Encoding,
    /// The `sha256` that file_read gave of the file which this replaces. If that has changed since, nothing is written.
    #[garde(length(chars, min = 64, max = 64))]
    base_sha256: Option<String>,
}

/// What was written.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Where it is, as other tools must name it.
    path: String,
    /// Bytes of the file now.
    size: usize,
    /// In a task's workspace: the file's revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// In a task's workspace: SHA-256 of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// The file was so already, and there is no new revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<bool>,
    /// The text was merged with this revision, so the file is not what was sent. Read it again before the next change.
    #[serde(skip_serializing_if = "Option::is_none")]
    merged_with: Option<u64>,
}

impl BuiltIn for FileWrite {
    const NAME: &'static str = "file_write";
    const DESCRIPTION: &'static str = "Write a file among the outputs, whole: what was there before is replaced. Give \
        back the path by which other tools read it. The user's own files are never written. With `task_id`, write a file \
        that everybody who works on that task shares: say on which revision the text is based, so that nobody's changes \
        are lost.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: true, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, mut arguments: Arguments) -> Result<Answer, ToolError> {
        let bytes = match arguments.encoding {
            Encoding::Text => std::mem::take(&mut arguments.content).into_bytes(),
            Encoding::Base64 => BASE64_STANDARD
                .decode(&arguments.content)
                .map_err(|error| ToolError::argument("content", format!("it is not base64: {error}")))?,
        };
        if let Some(task) = &arguments.task_id {
            return self.write_shared(context, task, &arguments, bytes).await;
        }
        stored::only_in_a_task("base_revision", arguments.base_revision.is_some())?;
        stored::only_in_a_task("token", arguments.token.is_some())?;
        stored::only_in_a_task("merge", arguments.merge)?;
        if bytes.len() > WRITE_MAX {
            return Err(ToolError::argument("content", format!("a file has at most {WRITE_MAX} bytes")));
        }
        let path = match &arguments.base_sha256 {
            None => keep(context, &arguments.path, &bytes)?,
            Some(base) => keep_instead_of(context, &arguments.path, base, &bytes)?,
        };
        Ok(Answer { path, size: bytes.len(), revision: None, sha256: None, unchanged: None, merged_with: None })
    }
}

impl FileWrite {
    /// Write a file of a task's workspace.
    async fn write_shared(
        &self,
        context: &Context,
        task: &str,
        arguments: &Arguments,
        bytes: Vec<u8>,
    ) -> Result<Answer, ToolError> {
        if arguments.base_sha256.is_some() {
            return Err(ToolError::argument("base_sha256", "with `task_id` it is `base_revision` that says this"));
        }
        let (app, permit) = self.shared.open(context, Some(task), arguments.agent_id.as_deref())?;
        let draft = Draft {
            path: path_of(&arguments.path)?,
            bytes,
            base: arguments.base_revision,
            token: arguments.token,
            merge: arguments.merge,
        };
        let kept = files::write(app, &permit, draft).await?;
        let Written { revision, is_new } = kept.written;
        Ok(Answer {
            path: revision.path.to_string(),
            size: kept.bytes.len(),
            revision: Some(revision.number),
            sha256: revision.sha256,
            unchanged: (!is_new).then_some(true),
            merged_with: kept.merged_with,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fixture, call};

    async fn write(fixture: &Fixture, arguments: Value) -> Result<Value, ToolError> {
        call(FileWrite::default(), fixture, arguments).await
    }

    #[tokio::test]
    async fn a_file_is_found_under_the_path_that_is_given_back() {
        let fixture = Fixture::new();
        for path in ["a/b.txt", "outputs/a/b.txt", "outputs/task/a/b.txt"] {
            let answer = write(&fixture, json!({"path": path, "content": path})).await.unwrap();
            assert_eq!(answer, json!({"path": "outputs/task/a/b.txt", "size": path.len()}));
            assert_eq!(fixture.context.read("outputs/task/a/b.txt", 100).unwrap(), path.as_bytes());
        }
        write(&fixture, json!({"path": "c", "content": "AJ8=", "encoding": "base64"})).await.unwrap();
        assert_eq!(fixture.context.read("outputs/task/c", 100).unwrap(), [0, 159]);
    }

    #[tokio::test]
    async fn nothing_is_written_elsewhere() {
        let fixture = Fixture::new();
        fixture.file("mine.txt", "mine");
        write(&fixture, json!({"path": "mine.txt", "content": "theirs"})).await.unwrap();
        assert_eq!(fixture.context.read("mine.txt", 100).unwrap(), b"mine");
        for (path, code) in [
            ("../x", "denied"),
            ("outputs/../../x", "denied"),
            ("/tmp/skep-x", "invalid_arguments"),
            ("a/", "invalid_arguments"),
            (".", "invalid_arguments"),
            ("outputs", "invalid_arguments"),
            ("..", "invalid_arguments"),
        ] {
            let error = write(&fixture, json!({"path": path, "content": ""})).await.unwrap_err();
            assert_eq!(error.code(), code, "{path}: {error}");
        }
        assert_eq!(std::fs::read_dir(fixture.directory.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn what_has_changed_since_it_was_read_is_not_replaced() {
        let fixture = Fixture::new();
        write(&fixture, json!({"path": "a", "content": "one"})).await.unwrap();
        let read = call(super::super::FileRead::default(), &fixture, json!({"path": "outputs/task/a"})).await.unwrap();
        let based = json!({"path": "a", "content": "two", "base_sha256": read["sha256"]});
        write(&fixture, based.clone()).await.unwrap();
        assert_eq!(write(&fixture, based).await.unwrap_err().code(), "conflict");
        let none = json!({"path": "b", "content": "two", "base_sha256": read["sha256"]});
        assert_eq!(write(&fixture, none).await.unwrap_err().code(), "conflict", "there is none");
        assert_eq!(fixture.context.read("outputs/task/a", 100).unwrap(), b"two");
        let unfit = json!({"path": "a", "content": "", "base_sha256": "7"});
        assert_eq!(write(&fixture, unfit).await.unwrap_err().code(), "invalid_arguments");
    }

    #[tokio::test]
    async fn a_file_has_a_largest_size() {
        let fixture = Fixture::new();
        assert!(write(&fixture, json!({"path": "x", "content": "x".repeat(WRITE_MAX)})).await.is_ok());
        assert!(write(&fixture, json!({"path": "x", "content": "x".repeat(WRITE_MAX + 1)})).await.is_err());
    }
}
