//! `file_edit`: one text exchanged for another, or a unified diff applied.

use std::{fmt::Write as _, io::ErrorKind, path::Path, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_tools::{
    diff::unified,
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::{Context, OUTPUTS, refused},
};
use tokio::sync::Mutex;

use super::{WRITE_MAX, keep_if_same, stored, text};

/// How often an edit is made anew because another program or agent changes the file.
pub(super) const TRIES_MAX: u32 = 8;
/// Lines of an ambiguous match that an error names.
const LINES_NAMED_MAX: usize = 5;

/// See [`BuiltIn::DESCRIPTION`].
#[derive(Default)]
pub(crate) struct FileEdit {
    /// One edit at a time: those of this process need not be made anew because of one another.
    one_at_a_time: Arc<Mutex<()>>,
    shared: Shared,
}

impl FileEdit {
    pub(crate) fn new(shared: Shared) -> FileEdit {
        FileEdit { shared, ..FileEdit::default() }
    }
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// A file of the workspace, or `outputs/…`; with `task_id`, a file of that task's workspace.
    #[garde(length(chars, min = 1, max = 4096))]
    pub(super) path: String,
    /// Edit a file of the workspace that everybody who works on this task shares.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = 512))]
    task_id: Option<String>,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    pub(super) agent_id: Option<String>,
    /// The text to replace, exactly as it is in the file, with so much around it that it occurs only once.
    #[garde(length(chars, min = 1))]
    old_text: Option<String>,
    /// What to put in its place.
    new_text: Option<String>,
    /// Replace every occurrence.
    #[serde(default)]
    replace_all: bool,
    /// Instead of old_text and new_text: the change as a unified diff of this file, with some unchanged lines around
    /// each change.
    #[garde(length(chars, min = 1))]
    diff: Option<String>,
    /// With `task_id`: the `revision` of the file that you have read. If there is another one by now, nothing is
    /// written, and the conflict shows what is there. Without it, the newest revision is edited.
    pub(super) base_revision: Option<u64>,
    /// With `task_id`: the token that claim_file gave. It is needed while anybody has a claim on the file.
    pub(super) token: Option<i64>,
    /// With `base_revision`: merge the edit with what others have written since, where the lines do not overlap.
    #[serde(default)]
    pub(super) merge: bool,
}

/// What was changed.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Where the edited file is, as other tools must name it.
    pub(super) path: String,
    /// Occurrences replaced, or parts of the diff applied.
    pub(super) replaced: usize,
    /// The change as a unified diff.
    pub(super) diff: String,
    /// The diff was longer.
    pub(super) diff_truncated: bool,
    /// Bytes of the file now.
    pub(super) size: usize,
    /// In a task's workspace: the file's revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<u64>,
    /// In a task's workspace: SHA-256 of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
    /// The edit was merged with this revision; `diff` shows what both have changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) merged_with: Option<u64>,
}

impl BuiltIn for FileEdit {
    const NAME: &'static str = "file_edit";
    const DESCRIPTION: &'static str = "Replace a text in a file by another, or apply a unified diff, and give back the \
        diff. The old text must occur exactly once, or replace_all be true. A file of the workspace stays as it is: the edited copy is kept \
        among the outputs under the path that is given back; make further edits to that one. An edit that would undo \
        another one is refused as a conflict. With `task_id`, edit a file that everybody who works on that task shares, \
        in place; every revision is kept.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: true, idempotent_hint: false, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        if let Some(task) = &arguments.task_id {
            return stored::edit(&self.shared, context, task, &arguments).await;
        }
        stored::only_in_a_task("base_revision", arguments.base_revision.is_some())?;
        stored::only_in_a_task("token", arguments.token.is_some())?;
        stored::only_in_a_task("merge", arguments.merge)?;
        let one_at_a_time = Arc::clone(&self.one_at_a_time).lock_owned().await;
        let context = context.clone();
        let edit = tokio::task::spawn_blocking(move || {
            let _one_at_a_time = one_at_a_time; // held to the end of the edit, also if the caller goes away
            edit(&context, &arguments)
        });
        edit.await.map_err(|error| ToolError::failed(format!("the file cannot be edited: {error}")))?
    }
}

/// Edit the file as it is then, also if another program changes it meanwhile.
fn edit(context: &Context, arguments: &Arguments) -> Result<Answer, ToolError> {
    let mut tries = 1..TRIES_MAX;
    loop {
        match edit_once(context, arguments) {
            Err(ToolError::Conflict { .. }) if tries.next().is_some() => {}
            result => return result,
        }
    }
}

fn edit_once(context: &Context, arguments: &Arguments) -> Result<Answer, ToolError> {
    let path = arguments.path.as_str();
    let (source, inside) = context.locate(path);
    let outputs = &context.outputs;
    let target = outputs.target(Path::new(path));
    let is_copied = !(std::ptr::eq(source, outputs.root()) && inside == target);
    let (old, seen) = source.read_seen(inside, WRITE_MAX as u64).map_err(|error| refused(path, &error))?;
    let old = text(path, old.ok_or_else(|| refused(path, &ErrorKind::NotFound.into()))?)?;
    let (new, replaced) = Change::of(arguments)?.make(path, &old)?;
    let seen = if is_copied {
        let (copy, seen) =
            outputs.root().read_seen(&target, WRITE_MAX as u64).map_err(|error| refused(path, &error))?;
        // The same edit again, after a call that was cut off, gives the same copy.
        if copy.is_some_and(|copy| copy != old.as_bytes() && copy != new.as_bytes()) {
            let copy = format!("{OUTPUTS}/{}", target.display());
            return Err(ToolError::conflict(format!(
                "{copy} is an edited copy of {path} already, and this edit would undo what was edited there: edit {copy} \
                 instead, or replace it with file_write"
            )));
        }
        seen
    } else {
        seen
    };
    let kept = keep_if_same(context, path, new.as_bytes(), &seen)?;
    let (diff, diff_truncated) = unified(&old, &new, path, &kept);
    let (revision, sha256, merged_with) = (None, None, None);
    Ok(Answer { path: kept, replaced, diff, diff_truncated, size: new.len(), revision, sha256, merged_with })
}

/// What an edit does to a text.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Put a text in the place of another, everywhere or where it occurs alone.
    Exchange { old: String, new: String, all: bool },
    /// Apply a unified diff.
    Patch(String),
}

impl Change {
    /// The one that the arguments ask for.
    pub(super) fn of(arguments: &Arguments) -> Result<Change, ToolError> {
        let Arguments { old_text, new_text, replace_all, diff, .. } = arguments;
        match (old_text, new_text, diff) {
            (Some(old), Some(new), None) if old == new => {
                Err(ToolError::argument("new_text", "it is the same as old_text"))
            }
            (Some(old), Some(new), None) => {
                Ok(Change::Exchange { old: old.clone(), new: new.clone(), all: *replace_all })
            }
            (None, None, Some(_)) if *replace_all => {
                Err(ToolError::argument("replace_all", "a diff says where it applies"))
            }
            (None, None, Some(diff)) => Ok(Change::Patch(counted(diff))),
            (Some(_), None, None) => {
                Err(ToolError::argument("new_text", "it is missing; give an empty text to delete"))
            }
            _ => Err(ToolError::argument("old_text", "give old_text and new_text, or diff alone")),
        }
    }

    /// The text with the change made, and how many places were changed.
    pub(super) fn make(&self, path: &str, text: &str) -> Result<(String, usize), ToolError> {
        match self {
            Change::Exchange { old, new, all } => exchange(path, text, (old, new), *all),
            Change::Patch(diff) => patched(path, text, diff),
        }
    }
}

/// The text with a diff applied, and how many parts the diff has.
fn patched(path: &str, text: &str, diff: &str) -> Result<(String, usize), ToolError> {
    let wrong = |why: String| ToolError::argument("diff", format!("it is not a unified diff of one file: {why}"));
    let patch = diffy::Patch::from_str(diff).map_err(|error| wrong(error.to_string()))?;
    let parts = patch.hunks().len();
    if parts == 0 {
        return Err(wrong("it has no part that begins with @@".to_owned()));
    }
    let new = diffy::apply(text, &patch).map_err(|error| {
        ToolError::failed(format!("the diff does not fit {path}: {error}; read the file again, and make the diff anew"))
    })?;
    if new.len() > WRITE_MAX {
        return Err(too_large(path, new.len()));
    }
    Ok((new, parts))
}

/// A diff with the numbers of lines at the head of each part as they are. Models miscount them.
fn counted(diff: &str) -> String {
    let mut counted = String::with_capacity(diff.len() + 1);
    let mut lines = diff.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let Some((old_from, new_from)) = beginnings(line) else {
            counted.push_str(line);
            continue;
        };
        let mut part = Vec::new();
        while let Some(line) = lines.next_if(|line| beginnings(line).is_none()) {
            part.push(line);
        }
        while part.last().is_some_and(|line| line.trim_end_matches(['\r', '\n']).is_empty()) {
            part.pop(); // an empty line behind the part, and not one of the file, which begins with a space
        }
        let count = |own: char| part.iter().filter(|line| !line.starts_with([own, '\\'])).count();
        // Writing to a String cannot fail.
        let _ = writeln!(counted, "@@ -{old_from},{} +{new_from},{} @@", count('+'), count('-'));
        part.iter().for_each(|line| counted.push_str(line));
    }
    if !counted.ends_with('\n') {
        counted.push('\n');
    }
    counted
}

/// The first lines that the head of a part of a diff names.
fn beginnings(line: &str) -> Option<(usize, usize)> {
    let (old, rest) = line.strip_prefix("@@ -")?.split_once(" +")?;
    let new = rest.split_once(" @@")?.0;
    let first = |range: &str| range.split(',').next()?.parse().ok();
    Some((first(old)?, first(new)?))
}

fn too_large(path: &str, size: usize) -> ToolError {
    ToolError::failed(format!("{path} would have {size} bytes; a file has at most {WRITE_MAX}"))
}

/// The text with the exchange made, and how often.
fn exchange(path: &str, text: &str, (old, new): (&str, &str), replace_all: bool) -> Result<(String, usize), ToolError> {
    let replaced = text.matches(old).count();
    if replaced == 0 {
        return Err(ToolError::failed(format!("old_text does not occur in {path}{}", near(text, old))));
    }
    if replaced > 1 && !replace_all {
        let message = format!("old_text occurs {replaced} times in {path}, at lines {}", lines_of(text, old));
        return Err(ToolError::failed(format!("{message}; give more of the text around it, or set replace_all")));
    }
    // The size is known before the text is made: a few bytes may stand for many.
    let size = text.len() - replaced * old.len() + replaced.saturating_mul(new.len());
    if size > WRITE_MAX {
        return Err(too_large(path, size));
    }
    Ok((text.replace(old, new), replaced))
}

/// Where the text was probably meant to be.
fn near(text: &str, wanted: &str) -> String {
    if wanted.contains('\n') && text.contains("\r\n") && !wanted.contains("\r\n") {
        return ": its lines end in \\r\\n".to_owned();
    }
    let first = wanted.trim_start().lines().next().unwrap_or_default().trim();
    match text.lines().position(|line| !first.is_empty() && line.contains(first)) {
        Some(line) => format!(", but its first line does at line {}; mind spaces and line breaks", line + 1),
        None => "; read the file again".to_owned(),
    }
}

/// The numbers of the lines at which the text occurs.
fn lines_of(text: &str, wanted: &str) -> String {
    let mut lines = Vec::new();
    let (mut line, mut from) = (1, 0);
    for (at, _) in text.match_indices(wanted).take(LINES_NAMED_MAX) {
        line += text[from..at].matches('\n').count();
        from = at;
        lines.push(line.to_string());
    }
    if text.match_indices(wanted).nth(LINES_NAMED_MAX).is_some() {
        lines.push("…".to_owned());
    }
    lines.join(", ")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fixture, call};

    async fn edit(fixture: &Fixture, arguments: Value) -> Result<Value, ToolError> {
        call(FileEdit::default(), fixture, arguments).await
    }

    #[tokio::test]
    async fn an_edit_is_kept_among_the_outputs_with_its_diff() {
        let fixture = Fixture::new();
        fixture.file("src/a.rs", "fn main() {\n    run(1);\n}\n");
        let answer =
            edit(&fixture, json!({"path": "src/a.rs", "old_text": "run(1)", "new_text": "run(2)"})).await.unwrap();
        assert_snapshot!(answer["diff"].as_str().unwrap(), @r"
        --- src/a.rs
        +++ outputs/task/src/a.rs
        @@ -1,3 +1,3 @@
         fn main() {
        -    run(1);
        +    run(2);
         }
        ");
        assert_eq!(answer["path"], "outputs/task/src/a.rs");
        assert_eq!(fixture.context.read("src/a.rs", 100).unwrap(), b"fn main() {\n    run(1);\n}\n");
        let again = json!({"path": answer["path"], "old_text": "run(2)", "new_text": "run(3)"});
        assert_eq!(edit(&fixture, again).await.unwrap()["path"], "outputs/task/src/a.rs");
        assert_eq!(fixture.context.read("outputs/task/src/a.rs", 100).unwrap(), b"fn main() {\n    run(3);\n}\n");
    }

    #[tokio::test]
    async fn the_old_text_must_be_there_exactly_once() {
        let fixture = Fixture::new();
        fixture.file("a", "x = 1\ny = 2\nx = 1\n  z = 3\n  end\n");
        fixture.file("crlf", "a\r\nb\r\n");
        let error = async |path: &str, old: &str| {
            edit(&fixture, json!({"path": path, "old_text": old, "new_text": "!"})).await.unwrap_err().to_string()
        };
        assert_snapshot!(error("a", "x = 1").await,
            @"old_text occurs 2 times in a, at lines 1, 3; give more of the text around it, or set replace_all");
        assert_snapshot!(error("a", "nothing").await,
            @"old_text does not occur in a; read the file again");
        assert_snapshot!(error("a", "z = 3\nend").await,
            @"old_text does not occur in a, but its first line does at line 4; mind spaces and line breaks");
        assert_snapshot!(error("crlf", "a\nb").await,
            @"old_text does not occur in crlf: its lines end in \\r\\n");
        let all = json!({"path": "a", "old_text": "x = 1", "new_text": "x = 2", "replace_all": true});
        assert_eq!(edit(&fixture, all).await.unwrap()["replaced"], 2);
        assert_eq!(fixture.context.read("outputs/task/a", 100).unwrap(), b"x = 2\ny = 2\nx = 2\n  z = 3\n  end\n");
    }

    #[tokio::test]
    async fn of_many_edits_at_once_none_is_lost() {
        let fixture = Fixture::new();
        let lines: String = (0..20).map(|n| format!("<{n}>\n")).collect();
        let path = fixture.context.outputs.write("list".as_ref(), lines.as_bytes()).unwrap();
        let tool = Arc::new(FileEdit::default());
        let context = fixture.context.clone().with_deadline(std::time::Duration::from_secs(60));
        let edits = (0..20).map(|n| {
            let arguments = json!({"path": path, "old_text": format!("<{n}>"), "new_text": "done"});
            let (tool, context) = (Arc::clone(&tool), context.clone());
            async move { tool.call(&context, serde_json::from_value(arguments).unwrap()).await.map(|_| ()).unwrap() }
        });
        futures_util::future::join_all(edits).await;
        assert_eq!(fixture.context.read(&path, 1000).unwrap(), "done\n".repeat(20).into_bytes());
    }

    #[tokio::test]
    async fn an_edit_that_would_undo_another_one_is_refused() {
        let fixture = Fixture::new();
        fixture.file("a", "one two");
        let one = json!({"path": "a", "old_text": "one", "new_text": "1"});
        let two = json!({"path": "a", "old_text": "two", "new_text": "2"});
        edit(&fixture, one.clone()).await.unwrap();
        let refused = edit(&fixture, two).await.unwrap_err();
        assert_eq!(refused.code(), "conflict");
        assert!(refused.to_string().contains("edit outputs/task/a instead"), "{refused}");
        edit(&fixture, one).await.unwrap(); // the same again does no harm
        let two = json!({"path": "outputs/task/a", "old_text": "two", "new_text": "2"});
        edit(&fixture, two).await.unwrap();
        assert_eq!(fixture.context.read("outputs/task/a", 100).unwrap(), b"1 2");
    }

    #[tokio::test]
    async fn an_edit_cannot_make_a_file_larger_than_allowed() {
        let fixture = Fixture::new();
        fixture.file("a", "x".repeat(1000));
        let new = "y".repeat(WRITE_MAX / 1000 + 1);
        let arguments = json!({"path": "a", "old_text": "x", "new_text": new, "replace_all": true});
        assert!(edit(&fixture, arguments).await.unwrap_err().to_string().contains("at most"));
        fixture.file("bin", [0xff, 0xfe]);
        assert!(edit(&fixture, json!({"path": "bin", "old_text": "x", "new_text": "y"})).await.is_err());
    }

    #[tokio::test]
    async fn a_unified_diff_is_applied_also_if_its_lines_were_miscounted() {
        let fixture = Fixture::new();
        fixture.file("a", "one\ntwo\nthree\nfour\n");
        let diff = "--- a/a\n+++ b/a\n@@ -1,9 +1,1 @@\n one\n-two\n+2\n three\n";
        let answer = edit(&fixture, json!({"path": "a", "diff": diff})).await.unwrap();
        assert_eq!((&answer["path"], &answer["replaced"]), (&json!("outputs/task/a"), &json!(1)));
        assert_eq!(fixture.context.read("outputs/task/a", 100).unwrap(), b"one\n2\nthree\nfour\n");
        // Further down than it says, without a name and without the last line break, in two parts.
        let diff = "@@ -1 +1 @@\n-2\n+two\n@@ -9,2 +9,3 @@ fn\n three\n+3.5\n four\n\n";
        edit(&fixture, json!({"path": "outputs/task/a", "diff": diff.trim_end()})).await.unwrap();
        assert_eq!(fixture.context.read("outputs/task/a", 100).unwrap(), b"one\ntwo\nthree\n3.5\nfour\n");
        let misfit = json!({"path": "a", "diff": "@@ -1 +1 @@\n-other\n+x\n"});
        let refused = edit(&fixture, misfit).await.unwrap_err();
        assert!(refused.to_string().contains("does not fit a: error applying hunk #1"), "{refused}");
        for arguments in [
            json!({"path": "a", "diff": "two"}),
            json!({"path": "a", "diff": "@@ -1 +1 @@\n-one\n+1", "old_text": "one", "new_text": "1"}),
            json!({"path": "a", "diff": "@@ -1 +1 @@\n-one\n+1", "replace_all": true}),
            json!({"path": "a"}),
            json!({"path": "a", "old_text": "one"}),
            json!({"path": "a", "old_text": "one", "new_text": "1", "token": 1}),
        ] {
            let refused = edit(&fixture, arguments.clone()).await.unwrap_err();
            assert_eq!(refused.code(), "invalid_arguments", "{arguments}: {refused}");
        }
    }
}
