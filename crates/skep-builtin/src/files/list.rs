//! `list_files`: what is there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{
    stored,
    walk::{Entry, Walk},
};

/// Entries, if the caller does not say how many.
const LIMIT: usize = 1000;
/// Entries that a caller may ask for.
const LIMIT_MAX: usize = 10_000;

/// See [`BuiltIn::DESCRIPTION`].
#[derive(Default)]
pub(crate) struct ListFiles {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// A directory of the workspace, or `outputs`; with `task_id`, of that task's workspace.
    #[serde(default = "here")]
    #[garde(length(chars, min = 1, max = 4096))]
    pub(super) path: String,
    /// List the workspace that everybody who works on this task shares.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = 512))]
    task_id: Option<String>,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    pub(super) agent_id: Option<String>,
    /// With `task_id`: go on after the path that the last answer gave as `next`.
    #[garde(length(chars, min = 1, max = 4096))]
    pub(super) after: Option<String>,
    /// List only what matches this pattern, written as in .gitignore: `*.{png,jpg}`, `src/**/*.rs`.
    #[garde(length(chars, min = 1, max = 4096))]
    pub(super) glob: Option<String>,
    /// List the files of all directories below; otherwise the files and directories in `path` itself.
    #[serde(default = "yes")]
    pub(super) recursive: bool,
    /// List also what .gitignore excludes and what begins with a dot.
    #[serde(default)]
    all: bool,
    /// Entries to give at most.
    #[serde(default = "limit")]
    #[garde(range(min = 1, max = LIMIT_MAX))]
    pub(super) limit: usize,
}

fn here() -> String {
    ".".to_owned()
}

fn yes() -> bool {
    true
}

fn limit() -> usize {
    LIMIT
}

/// What there is.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Files and directories, by path.
    pub(super) files: Vec<Listed>,
    /// All that match, also those that are not given; of a task's workspace, those that are given.
    pub(super) total: usize,
    /// Bytes of all of these.
    pub(super) total_size: u64,
    /// There are more than `files` shows, or not everything was looked at in time.
    pub(super) truncated: bool,
    /// The path to go on after, in a task's workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

#[derive(Default, Serialize, JsonSchema)]
pub(super) struct Listed {
    /// Path as other tools name it.
    pub(super) path: String,
    /// `file` or `directory`.
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// Bytes of a file.
    pub(super) size: Option<u64>,
    /// When it was changed last, in RFC 3339.
    pub(super) modified: Option<String>,
    /// In a task's workspace: the newest revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<u64>,
    /// In a task's workspace: SHA-256 of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
    /// In a task's workspace: who wrote the newest revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) author: Option<String>,
    /// Which of the author's agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<String>,
}

impl Listed {
    pub(super) fn directory(path: String) -> Listed {
        Listed { path, kind: "directory", ..Listed::default() }
    }
}

impl BuiltIn for ListFiles {
    const NAME: &'static str = "list_files";
    const DESCRIPTION: &'static str = "List the files of the workspace (or of `outputs`) with their sizes, by path, \
        without what .gitignore excludes. Find files of a kind by `glob`. To look into files use search. With \
        `task_id`, list the files that everybody who works on that task shares.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        if let Some(task) = &arguments.task_id {
            return stored::list(&self.shared, context, task, &arguments).await;
        }
        stored::only_in_a_task("after", arguments.after.is_some())?;
        let Arguments { path, glob, recursive, all, limit, .. } = arguments;
        let walk = Walk { path, glob, recursive, all };
        let context = context.clone();
        let found = tokio::task::spawn_blocking(move || walk.run(&context)).await;
        let found = found.map_err(|error| ToolError::failed(format!("the files cannot be listed: {error}")))??;
        Ok(Answer {
            total: found.entries.len(),
            total_size: found.entries.iter().map(|entry| entry.size).sum(),
            truncated: !found.complete || found.entries.len() > limit,
            files: found.entries.into_iter().take(limit).map(listed).collect(),
            next: None,
        })
    }
}

fn listed(entry: Entry) -> Listed {
    Listed {
        kind: if entry.is_dir { "directory" } else { "file" },
        size: (!entry.is_dir).then_some(entry.size),
        modified: entry.modified.map(|modified| modified.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        path: entry.path,
        ..Listed::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        files::matching,
        testing::{Fixture, call},
    };

    fn fixture() -> Fixture {
        let fixture = Fixture::new();
        for (path, size) in [
            ("b.png", 3),
            ("a.txt", 1),
            ("pics/x.JPG", 2),
            ("pics/deep/y.png", 5),
            (".hidden", 1),
            (".git/config", 1),
            ("target/z.png", 7),
            ("outputs/task/o.png", 4),
        ] {
            fixture.file(path, vec![b'x'; size]);
        }
        fixture.file(".gitignore", "target/\n");
        std::os::unix::fs::symlink("/etc", fixture.directory.path().join("workspace/etc")).unwrap();
        fixture
    }

    async fn paths(arguments: Value) -> Vec<String> {
        let answer = call(ListFiles::default(), &fixture(), arguments).await.unwrap();
        answer["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn what_the_user_works_on_is_listed_by_path() {
        assert_eq!(paths(json!({})).await, ["a.txt", "b.png", "pics/deep/y.png", "pics/x.JPG"]);
        assert_eq!(paths(json!({"path": "pics"})).await, ["pics/deep/y.png", "pics/x.JPG"]);
        assert_eq!(paths(json!({"recursive": false})).await, ["a.txt", "b.png", "pics"]);
        assert_eq!(paths(json!({"path": "outputs"})).await, ["outputs/task/o.png"]);
        assert_eq!(paths(json!({"path": "b.png"})).await, ["b.png"]);
        let all = [".gitignore", ".hidden", "a.txt", "b.png", "pics/deep/y.png", "pics/x.JPG", "target/z.png"];
        assert_eq!(paths(json!({"all": true})).await, all);
    }

    #[tokio::test]
    async fn a_pattern_is_about_the_name_or_with_a_slash_about_the_path() {
        assert_eq!(paths(json!({"glob": "*.png"})).await, ["b.png", "pics/deep/y.png"]);
        assert_eq!(paths(json!({"glob": "*.{png,JPG}", "path": "pics"})).await, ["pics/deep/y.png", "pics/x.JPG"]);
        assert_eq!(paths(json!({"glob": "/*.png"})).await, ["b.png"]);
        assert_eq!(paths(json!({"glob": "pics/*"})).await, ["pics/x.JPG"]);
        assert_eq!(paths(json!({"glob": "pics/**"})).await, ["pics/deep/y.png", "pics/x.JPG"]);
        let fixture = fixture();
        assert_eq!(
            matching(&fixture.context.clone().with_deadline(std::time::Duration::from_secs(60)), "outputs/*.png")
                .unwrap(),
            ["outputs/task/o.png"]
        );
        let error = call(ListFiles::default(), &fixture, json!({"glob": "[a"})).await.unwrap_err();
        assert!(error.to_string().starts_with("glob: "), "{error}");
    }

    #[tokio::test]
    async fn the_answer_is_bounded_and_counts_what_it_leaves_out() {
        let answer = call(ListFiles::default(), &fixture(), json!({"limit": 2})).await.unwrap();
        assert_eq!(answer["files"].as_array().unwrap().len(), 2);
        assert_eq!(
            (&answer["total"], &answer["total_size"], &answer["truncated"]),
            (&json!(4), &json!(11), &json!(true))
        );
        assert_eq!((&answer["files"][0]["size"], &answer["files"][0]["type"]), (&json!(1), &json!("file")));
    }

    #[tokio::test]
    async fn nothing_outside_is_listed() {
        for path in ["..", "/etc", "etc", "pics/../..", "outputs/.."] {
            let error = call(ListFiles::default(), &fixture(), json!({"path": path})).await.unwrap_err();
            assert_eq!(error.code(), "denied", "{path}: {error}");
        }
        assert_eq!(
            call(ListFiles::default(), &fixture(), json!({"path": "missing"})).await.unwrap_err().code(),
            "failed"
        );
    }
}
