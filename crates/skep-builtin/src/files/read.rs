//! `file_read`: a file, or some lines of it.

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use memchr::{memchr, memchr_iter, memrchr};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::{Context, refused},
};

use super::{sha256, stored};

/// Lines, if the caller does not say how many.
const LINES: usize = 2000;
/// Lines that a caller may ask for.
const LINES_MAX: usize = 100_000;
/// Bytes of text that are given back.
const TEXT_MAX: usize = 1 << 20;
/// Bytes of a file that is given back in base64.
const BASE64_MAX: u64 = 4 << 20;

/// See [`BuiltIn::DESCRIPTION`].
#[derive(Default)]
pub(crate) struct FileRead {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// A file of the workspace, or `outputs/…`; with `task_id`, a file of that task's workspace.
    #[garde(length(chars, min = 1, max = 4096))]
    pub(super) path: String,
    /// Read from the workspace that everybody who works on this task shares.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = 512))]
    task_id: Option<String>,
    /// Which agent you are.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = 512))]
    pub(super) agent_id: Option<String>,
    /// Read the file as it was at this revision; with `task_id` alone.
    #[garde(range(min = 1))]
    pub(super) revision: Option<u64>,
    /// The first line to give; lines count from 1.
    #[serde(default = "first")]
    #[garde(range(min = 1))]
    offset: usize,
    /// Lines to give at most.
    #[serde(default = "lines")]
    #[garde(range(min = 1, max = LINES_MAX))]
    limit: usize,
    /// Put its number before each line.
    #[serde(default)]
    line_numbers: bool,
    /// How the contents are given. In base64 a file is given as a whole.
    #[serde(default)]
    pub(super) encoding: Encoding,
}

fn first() -> usize {
    1
}

fn lines() -> usize {
    LINES
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    #[default]
    Text,
    Base64,
}

/// The contents.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The path as it was given.
    pub(super) path: String,
    /// What is in it.
    pub(super) content: String,
    /// How `content` is given.
    pub(super) encoding: Encoding,
    /// Bytes of the whole file.
    pub(super) size: u64,
    /// Lines given.
    lines: usize,
    /// The line to go on from, if there is more.
    next_offset: Option<usize>,
    /// There is more.
    truncated: bool,
    /// Some bytes were no UTF-8 and are shown as U+FFFD.
    lossy: bool,
    /// SHA-256 of the file, where all of it is given as text: for file_write, which then replaces no other. In a task's
    /// workspace it is always given.
    pub(super) sha256: Option<String>,
    /// In a task's workspace: which revision this is, for file_write and file_edit to say what they are based on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<u64>,
}

impl BuiltIn for FileRead {
    const NAME: &'static str = "file_read";
    const DESCRIPTION: &'static str = "Read a file of the workspace or of the outputs: its text, or the lines from \
        `offset` on. A binary file is read with the encoding base64. Text in images is read by observe_screen. With \
        `task_id`, read a file that everybody who works on that task shares, as it is now or was at a revision.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        if let Some(task) = &arguments.task_id {
            return stored::read(&self.shared, context, task, &arguments).await;
        }
        stored::only_in_a_task("revision", arguments.revision.is_some())?;
        context.make_room(expected(context, &arguments)).await?;
        // It goes on also if nobody waits for it any more, and what it takes of the memory is not free before it has ended.
        let (room, held, context) = (context.room.clone(), context.room.lend(), context.clone());
        let read = tokio::task::spawn_blocking(move || (read(&context, arguments), held));
        let (answer, held) =
            read.await.map_err(|error| ToolError::failed(format!("the file cannot be read: {error}")))?;
        room.keep(held);
        answer
    }
}

/// Bytes that the answer will have, about.
fn expected(context: &Context, arguments: &Arguments) -> usize {
    let (dir, inside) = context.locate(&arguments.path);
    let size = dir.size(inside).unwrap_or(0); // whatever is wrong is told when it is read
    match arguments.encoding {
        Encoding::Text => size.min(TEXT_MAX as u64) as usize,
        Encoding::Base64 if size > BASE64_MAX => 0, // it is refused
        Encoding::Base64 => size as usize / 3 * 4,
    }
}

fn read(context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
    let path = arguments.path.as_str();
    if arguments.encoding == Encoding::Base64 {
        let bytes = context.read(path, BASE64_MAX)?;
        let (size, content) = (bytes.len() as u64, BASE64_STANDARD.encode(bytes));
        return Ok(Answer { path: arguments.path, content, size, encoding: Encoding::Base64, ..Answer::default() });
    }
    let (dir, inside) = context.locate(path);
    let file = dir.open_file(inside).map_err(|error| refused(path, &error))?;
    let size = file.metadata().map_err(|error| refused(path, &error))?.len();
    let (mut answer, bytes) = lines_of(file, size, &arguments, context)?;
    answer.sha256 = (arguments.offset == 1 && !answer.truncated).then(|| sha256(&bytes));
    Ok(answer)
}

/// The lines of a text that were asked for: the answer, and their bytes as they are in the file.
pub(super) fn lines_of(
    file: impl io::Read,
    size: u64,
    arguments: &Arguments,
    context: &Context,
) -> Result<(Answer, Vec<u8>), ToolError> {
    let path = arguments.path.as_str();
    let part = Part::read(file, arguments, context).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            ToolError::failed(format!("{path} is binary, {size} bytes; read it with the encoding base64"))
        }
        io::ErrorKind::TimedOut => {
            ToolError::TimedOut { tool: FileRead::NAME.to_owned(), after: context.allowed, detail: Default::default() }
        }
        _ => refused(path, &error),
    })?;
    let text = String::from_utf8_lossy(&part.bytes);
    let lossy = matches!(text, std::borrow::Cow::Owned(_));
    let content = if arguments.line_numbers { numbered(&text, arguments.offset) } else { text.into_owned() };
    let next_offset = part.more.then_some(arguments.offset + part.lines);
    let (truncated, lines) = (part.more, part.lines);
    let (path, encoding) = (path.to_owned(), Encoding::Text);
    let answer = Answer { path, content, encoding, size, lines, next_offset, truncated, lossy, ..Answer::default() };
    Ok((answer, part.bytes))
}

/// The lines that were asked for.
struct Part {
    bytes: Vec<u8>,
    lines: usize,
    more: bool,
}

impl Part {
    fn read(file: impl io::Read, arguments: &Arguments, context: &Context) -> io::Result<Part> {
        let mut file = BufReader::with_capacity(64 << 10, file);
        if memchr(0, file.fill_buf()?).is_some() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut part = Part { bytes: Vec::new(), lines: 0, more: false };
        for _ in 1..arguments.offset {
            if skip_line(&mut file, context)? == 0 {
                return Ok(part);
            }
        }
        loop {
            let buffer = file.fill_buf()?;
            if buffer.is_empty() {
                part.lines += usize::from(!part.bytes.is_empty() && !part.bytes.ends_with(b"\n"));
                return Ok(part);
            }
            let left = arguments.limit - part.lines;
            let ends = memchr_iter(b'\n', buffer).take(left);
            let (lines, end) = ends.fold((0, 0), |(lines, _), end| (lines + 1, end + 1));
            let taken = if lines == left { end } else { buffer.len() };
            part.bytes.extend_from_slice(&buffer[..taken]);
            if memchr(0, &buffer[..taken]).is_some() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            file.consume(taken);
            part.lines += lines;
            if part.bytes.len() > TEXT_MAX {
                part.cut();
                return Ok(part);
            }
            if part.lines == arguments.limit {
                part.more = !file.fill_buf()?.is_empty();
                return Ok(part);
            }
        }
    }

    /// Leave what is too much for the next call: the lines that do not fit, unless the first never will.
    fn cut(&mut self) {
        let end = memrchr(b'\n', &self.bytes[..TEXT_MAX]).map(|end| end + 1);
        self.bytes.truncate(end.unwrap_or(TEXT_MAX));
        self.lines = memchr_iter(b'\n', &self.bytes).count().max(1);
        self.more = true;
    }
}

/// Go past one line, however long; gives its bytes, 0 at the end of the file.
fn skip_line(file: &mut impl BufRead, context: &Context) -> io::Result<usize> {
    let mut skipped = 0;
    loop {
        if context.cancel.is_cancelled() || context.time_left().is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let buffer = file.fill_buf()?;
        let (bytes, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        file.consume(bytes);
        skipped += bytes;
        if ended {
            return Ok(skipped);
        }
    }
}

fn numbered(text: &str, first: usize) -> String {
    let mut numbered = String::with_capacity(text.len() + text.len() / 8);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let _ = write!(numbered, "{:>6}\t{line}", first + index); // writing to a String cannot fail
    }
    numbered
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fixture, call};

    async fn read(fixture: &Fixture, arguments: Value) -> Result<Value, ToolError> {
        call(FileRead::default(), fixture, arguments).await
    }

    #[tokio::test]
    async fn lines_are_given_from_the_offset_on_and_say_where_to_go_on() {
        let fixture = Fixture::new();
        fixture.file("a.txt", "one\ntwo\r\nthrée\nfour");
        let all = read(&fixture, json!({"path": "a.txt"})).await.unwrap();
        assert_eq!(
            (&all["content"], &all["lines"], &all["truncated"]),
            (&json!("one\ntwo\r\nthrée\nfour"), &json!(4), &json!(false))
        );
        let part =
            read(&fixture, json!({"path": "./a.txt", "offset": 2, "limit": 2, "line_numbers": true})).await.unwrap();
        assert_eq!(part["content"], "     2\ttwo\r\n     3\tthrée\n");
        assert_eq!((&part["next_offset"], &part["truncated"]), (&json!(4), &json!(true)));
        let last = read(&fixture, json!({"path": "a.txt", "offset": 4, "limit": 1})).await.unwrap();
        assert_eq!((&last["content"], &last["truncated"]), (&json!("four"), &json!(false)));
        let beyond = read(&fixture, json!({"path": "a.txt", "offset": 9})).await.unwrap();
        assert_eq!((&beyond["content"], &beyond["lines"]), (&json!(""), &json!(0)));
    }

    #[tokio::test]
    async fn outputs_are_read_by_the_path_that_a_tool_gave() {
        let fixture = Fixture::new();
        let path = fixture.context.outputs.write("b/c.txt".as_ref(), b"x").unwrap();
        assert_eq!(read(&fixture, json!({"path": path})).await.unwrap()["content"], "x");
    }

    #[tokio::test]
    async fn a_binary_file_is_given_in_base64_alone() {
        let fixture = Fixture::new();
        fixture.file("a.bin", [0, 159, 146, 150]);
        fixture.file("late.bin", [vec![b'x'; 100_000], vec![0]].concat());
        for path in ["a.bin", "late.bin"] {
            let error = read(&fixture, json!({"path": path})).await.unwrap_err();
            assert!(error.to_string().contains("encoding base64"), "{error}");
        }
        let answer = read(&fixture, json!({"path": "a.bin", "encoding": "base64"})).await.unwrap();
        assert_eq!((&answer["content"], &answer["size"]), (&json!("AJ+Slg=="), &json!(4)));
        fixture.file("latin", b"caf\xe9\n");
        let answer = read(&fixture, json!({"path": "latin"})).await.unwrap();
        assert_eq!((&answer["content"], &answer["lossy"]), (&json!("caf\u{fffd}\n"), &json!(true)));
    }

    #[tokio::test]
    async fn much_text_comes_in_parts_that_lose_nothing() {
        let fixture = Fixture::new();
        let text: String = (0..30_000).map(|n| format!("{n:>99}\n")).collect();
        fixture.file("long.txt", &text);
        let (mut got, mut offset) = (String::new(), json!(1));
        while !offset.is_null() {
            let part = read(&fixture, json!({"path": "long.txt", "offset": offset, "limit": LINES_MAX})).await.unwrap();
            let content = part["content"].as_str().unwrap();
            assert!(content.len() <= TEXT_MAX);
            got.push_str(content);
            offset = part["next_offset"].clone();
        }
        assert!(got == text);
        fixture.file("line.txt", "x".repeat(TEXT_MAX + 10));
        let part = read(&fixture, json!({"path": "line.txt"})).await.unwrap();
        assert_eq!((part["content"].as_str().unwrap().len(), &part["truncated"]), (TEXT_MAX, &json!(true)));
        fixture.file("large.bin", vec![0; BASE64_MAX as usize + 1]);
        assert!(read(&fixture, json!({"path": "large.bin", "encoding": "base64"})).await.is_err());
    }

    #[tokio::test]
    async fn what_is_not_there_or_not_ours_is_an_error() {
        let fixture = Fixture::new();
        std::fs::write(fixture.directory.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", fixture.directory.path().join("workspace/link")).unwrap();
        for (path, code) in [
            ("missing", "failed"),
            ("../secret", "denied"),
            ("link", "denied"),
            ("outputs/../../secret", "denied"),
            (".", "failed"),
        ] {
            for encoding in ["text", "base64"] {
                let error = read(&fixture, json!({"path": path, "encoding": encoding})).await.unwrap_err();
                assert_eq!(error.code(), code, "{path}: {error}");
            }
        }
    }
}
