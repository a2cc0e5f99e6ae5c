//! `file_edit`: one text exchanged for another.

use std::{io::ErrorKind, path::Path, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similar::TextDiff;
use tokio::sync::Mutex;

use super::{WRITE_MAX, keep_if_same, text};
use crate::{
    error::ToolError,
    tool::{Annotations, BuiltIn},
    workspace::{Context, OUTPUTS, refused},
};

/// Bytes of the diff that is given back.
const DIFF_MAX: usize = 64 << 10;
/// Time to look for the smallest diff; after it a larger one will do.
const DIFF_TIME_MAX: Duration = Duration::from_secs(1);
/// How often an edit is made anew because another program changes the file.
const TRIES_MAX: u32 = 8;
/// Lines of an ambiguous match that an error names.
const LINES_NAMED_MAX: usize = 5;

/// See [`BuiltIn::DESCRIPTION`].
#[derive(Default)]
pub(in crate::built_in) struct FileEdit {
    /// One edit at a time: those of this process need not be made anew because of one another.
    one_at_a_time: Arc<Mutex<()>>,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(in crate::built_in) struct Arguments {
    /// A file of the workspace, or `outputs/…`.
    #[garde(length(chars, min = 1, max = 4096))]
    path: String,
    /// The text to replace, exactly as it is in the file, with so much around it that it occurs only once.
    #[garde(length(chars, min = 1))]
    old_text: String,
    /// What to put in its place.
    new_text: String,
    /// Replace every occurrence.
    #[serde(default)]
    replace_all: bool,
}

/// What was changed.
#[derive(Serialize, JsonSchema)]
pub(in crate::built_in) struct Answer {
    /// Where the edited file is, as other tools must name it.
    path: String,
    /// Occurrences replaced.
    replaced: usize,
    /// The change as a unified diff.
    diff: String,
    /// The diff was longer.
    diff_truncated: bool,
    /// Bytes of the file now.
    size: usize,
}

impl BuiltIn for FileEdit {
    const NAME: &'static str = "file_edit";
    const DESCRIPTION: &'static str = "Replace a text in a file by another and give back the diff. The old text must \
        occur exactly once, or replace_all be true. A file of the workspace stays as it is: the edited copy is kept \
        among the outputs under the path that is given back; make further edits to that one. An edit that would undo \
        another one is refused as a conflict.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: true, idempotent_hint: false, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
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
    let (new, replaced) = exchange(&old, arguments)?;
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
    let mut diff = TextDiff::configure()
        .timeout(DIFF_TIME_MAX)
        .diff_lines(&old, &new)
        .unified_diff()
        .header(path, &kept)
        .to_string();
    let diff_truncated = diff.len() > DIFF_MAX;
    diff.truncate(diff.floor_char_boundary(DIFF_MAX));
    Ok(Answer { path: kept, replaced, diff, diff_truncated, size: new.len() })
}

/// The text with the exchange made, and how often.
fn exchange(old: &str, arguments: &Arguments) -> Result<(String, usize), ToolError> {
    let Arguments { path, old_text, new_text, replace_all } = arguments;
    if old_text == new_text {
        return Err(ToolError::argument("new_text", "it is the same as old_text"));
    }
    let replaced = old.matches(old_text).count();
    if replaced == 0 {
        return Err(ToolError::failed(format!("old_text does not occur in {path}{}", near(old, old_text))));
    }
    if replaced > 1 && !replace_all {
        let message = format!("old_text occurs {replaced} times in {path}, at lines {}", lines_of(old, old_text));
        return Err(ToolError::failed(format!("{message}; give more of the text around it, or set replace_all")));
    }
    // The size is known before the text is made: a few bytes may stand for many.
    let size = old.len() - replaced * old_text.len() + replaced.saturating_mul(new_text.len());
    if size > WRITE_MAX {
        return Err(ToolError::failed(format!("{path} would have {size} bytes; a file has at most {WRITE_MAX}")));
    }
    Ok((old.replace(old_text, new_text), replaced))
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
    use crate::built_in::testing::{Fixture, call};

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
        let context = fixture.context.clone().with_deadline(Duration::from_secs(60));
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
}
