//! `skep files`.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use similar::TextDiff;
use skep_tools::{error::ToolError, tool::Answer};

use super::{Common, FAILED, bytes_for_people, print, say, shared, tools::show};
use crate::terminal::{Screen, ignore_gone, line};

/// The files that agents of a task share, with all their revisions
///
/// They are in the hub's database. Agents have the same as the tools file_read, file_write, file_edit, file_delete,
/// file_history and list_files, with a task_id.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep files ls --task t1
  skep files put notes.md README.md --task t1
  skep files log notes.md --diffs --task t1
  skep files undo notes.md --task t1")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: shared::Place,
    /// As JSON, with all that is known
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the files, or those below a directory
    Ls {
        /// The directory
        #[arg(default_value = ".")]
        directory: String,
        /// Only those that fit this pattern, written as in .gitignore
        #[arg(long, value_name = "PATTERN")]
        glob: Option<String>,
        /// Files to show at most
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        /// Only files after this one
        #[arg(long, value_name = "PATH")]
        after: Option<String>,
    },
    /// Print a file
    Cat {
        /// Which one
        path: String,
        /// As it was at this revision
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Write a file, whole
    Put {
        /// Which one
        path: String,
        /// Where its contents are [default: standard input]
        file: Option<PathBuf>,
        /// Only if the file is at this revision; 0: only if there is none
        #[arg(long, value_name = "N")]
        base_revision: Option<u64>,
        /// With --base-revision: merge it with what others have written since, where the lines do not overlap
        #[arg(long, requires = "base_revision")]
        merge: bool,
        /// The token of a claim on the file
        #[arg(long, value_name = "N")]
        token: Option<i64>,
    },
    /// Delete a file; its revisions are kept
    Rm {
        /// Which one
        path: String,
        /// Only if the file is at this revision
        #[arg(long, value_name = "N")]
        base_revision: Option<u64>,
        /// The token of a claim on the file
        #[arg(long, value_name = "N")]
        token: Option<i64>,
    },
    /// Say who changed a file, and when
    Log {
        /// Which one
        path: String,
        /// Show what was changed
        #[arg(long, short = 'p')]
        diffs: bool,
        /// Revisions to show at most
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Only revisions before this one
        #[arg(long, value_name = "N")]
        before: Option<u64>,
    },
    /// Show the changes between two revisions of a file
    Diff {
        /// Which one
        path: String,
        /// The earlier revision [default: the one before the later]
        #[arg(long, value_name = "N")]
        from: Option<u64>,
        /// The later revision [default: the newest]
        #[arg(long, value_name = "N")]
        to: Option<u64>,
    },
    /// Undo the last change of a file, or all after a revision
    Undo {
        /// Which one
        path: String,
        /// Go back to this revision [default: the one before the newest]
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
        /// The token of a claim on the file
        #[arg(long, value_name = "N")]
        token: Option<i64>,
    },
}

/// How paths are padded in a list.
const PATH_WIDTH: usize = 40;

pub(super) async fn files(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, place, json: is_json } = arguments;
    place.needs_task()?;
    let files = Files { common, place };
    let answered = match &command {
        Command::Diff { path, from, to } => match files.diff(path, *from, *to).await? {
            Ok(diff) if !is_json => {
                print(&diff)?;
                return Ok(ExitCode::SUCCESS);
            }
            Ok(diff) => Ok(Answer { value: Map::from_iter([("diff".to_owned(), diff.into())]), cached: false }),
            Err(error) => Err(error),
        },
        Command::Undo { path, revision, token } => files.undo(path, *revision, *token).await?,
        command => {
            let (tool, arguments) = request(command)?;
            files.call(tool, arguments).await?
        }
    };
    let answer = match answered {
        Ok(answer) if is_json => return show(&answer.to_json(), true, true),
        Ok(Answer { value, .. }) => value,
        Err(error) if is_json => return show(&error.to_json(), false, true),
        Err(error) => return refused(&error),
    };
    match &command {
        Command::Ls { .. } => list(&answer)?,
        Command::Cat { .. } => {
            let mut screen = Screen::new(io::stdout().lock(), false);
            ignore_gone(screen.write_all(&bytes_of(&answer)?).and_then(|()| screen.finish()))?;
        }
        Command::Log { .. } => log(&answer)?,
        _ => print(&written(&answer))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The files of a task, where they are.
pub(super) struct Files {
    pub(super) common: Common,
    pub(super) place: shared::Place,
}

pub(super) type Answered = Result<Answer, ToolError>;

impl Files {
    pub(super) async fn call(&self, tool: &str, arguments: Value) -> anyhow::Result<Answered> {
        shared::call(self.common.clone(), &self.place, tool, arguments).await
    }

    /// The newest revisions of a file, newest first.
    pub(super) async fn revisions(&self, path: &str, count: usize) -> anyhow::Result<Result<Vec<u64>, ToolError>> {
        Ok(self.call("file_history", json!({ "path": path, "limit": count })).await?.map(|history| {
            items(&history.value, "revisions").iter().filter_map(|revision| revision["revision"].as_u64()).collect()
        }))
    }

    /// What is in a file at a revision; nothing before the first, and where it was deleted.
    pub(super) async fn contents(
        &self,
        path: &str,
        revision: u64,
    ) -> anyhow::Result<Result<Option<Vec<u8>>, ToolError>> {
        if revision == 0 {
            return Ok(Ok(None));
        }
        let history = json!({ "path": path, "before": revision + 1, "limit": 1 });
        let history = match self.call("file_history", history).await? {
            Ok(history) => history,
            Err(error) => return Ok(Err(error)),
        };
        let is_this = |found: &&Value| found["revision"] == revision && found["sha256"].is_null();
        if items(&history.value, "revisions").first().filter(is_this).is_some() {
            return Ok(Ok(None));
        }
        let read = json!({ "path": path, "revision": revision, "encoding": "base64" });
        match self.call("file_read", read).await? {
            Ok(Answer { value, .. }) => Ok(Ok(Some(bytes_of(&value)?))),
            Err(error) => Ok(Err(error)),
        }
    }

    pub(super) async fn diff(
        &self,
        path: &str,
        from: Option<u64>,
        to: Option<u64>,
    ) -> anyhow::Result<Result<String, ToolError>> {
        let to = match (to, self.revisions(path, 1).await?) {
            (_, Err(error)) => return Ok(Err(error)),
            (Some(to), _) => to,
            (None, Ok(newest)) => newest.first().copied().unwrap_or(0),
        };
        let from = from.unwrap_or(to.saturating_sub(1));
        let mut texts = Vec::new();
        for revision in [from, to] {
            match self.contents(path, revision).await? {
                Ok(bytes) => texts.push(String::from_utf8(bytes.unwrap_or_default())),
                Err(error) => return Ok(Err(error)),
            }
        }
        let [Ok(old), Ok(new)] = &texts[..] else {
            anyhow::bail!("{path} is not text in UTF-8 at these revisions, so there is no diff of them");
        };
        Ok(Ok(difference(path, (from, old), (to, new))))
    }

    /// Write what was there at a revision, unless somebody writes the file meanwhile.
    async fn undo(&self, path: &str, revision: Option<u64>, token: Option<i64>) -> anyhow::Result<Answered> {
        let newest = match self.revisions(path, 1).await? {
            Ok(newest) => newest.first().copied().unwrap_or(0),
            Err(error) => return Ok(Err(error)),
        };
        self.put_back(path, revision.unwrap_or(newest.saturating_sub(1)), newest, token, false).await
    }

    /// Write what was in a file at a revision, as a change of the revision `base`. With `merge`, what others have changed since
    /// is kept where the lines do not overlap.
    pub(super) async fn put_back(
        &self,
        path: &str,
        revision: u64,
        base: u64,
        token: Option<i64>,
        merge: bool,
    ) -> anyhow::Result<Answered> {
        let mut arguments = json!({ "path": path, "base_revision": base, "token": token });
        let tool = match self.contents(path, revision).await? {
            Err(error) => return Ok(Err(error)),
            Ok(None) => "file_delete",
            Ok(Some(bytes)) => {
                arguments["content"] = BASE64_STANDARD.encode(bytes).into();
                arguments["encoding"] = "base64".into();
                arguments["merge"] = merge.into();
                "file_write"
            }
        };
        self.call(tool, arguments).await
    }
}

/// A unified diff of two revisions of a file, each with its number.
pub(super) fn difference(path: &str, (from, old): (u64, &str), (to, new): (u64, &str)) -> String {
    let header = (format!("{path} (revision {from})"), format!("{path} (revision {to})"));
    TextDiff::from_lines(old, new).unified_diff().header(&header.0, &header.1).to_string()
}

/// The tool for a command, and its arguments.
fn request(command: &Command) -> anyhow::Result<(&'static str, Value)> {
    Ok(match command {
        Command::Ls { directory, glob, limit, after } => {
            ("list_files", json!({ "path": directory, "glob": glob, "limit": limit, "after": after }))
        }
        Command::Cat { path, revision } => {
            ("file_read", json!({ "path": path, "revision": revision, "encoding": "base64" }))
        }
        Command::Put { path, file, base_revision, merge, token } => {
            let content = BASE64_STANDARD.encode(contents_of(file.as_ref())?);
            let write = json!({
                "path": path,
                "content": content,
                "encoding": "base64",
                "base_revision": base_revision,
                "merge": merge,
                "token": token,
            });
            ("file_write", write)
        }
        Command::Rm { path, base_revision, token } => {
            ("file_delete", json!({ "path": path, "base_revision": base_revision, "token": token }))
        }
        Command::Log { path, diffs, limit, before } => {
            ("file_history", json!({ "path": path, "diffs": diffs, "limit": limit, "before": before }))
        }
        Command::Diff { .. } | Command::Undo { .. } => anyhow::bail!("it takes several calls"),
    })
}

fn contents_of(file: Option<&PathBuf>) -> anyhow::Result<Vec<u8>> {
    match file {
        Some(file) => fs::read(file).with_context(|| file.display().to_string()),
        None => {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).context("standard input")?;
            Ok(bytes)
        }
    }
}

/// The contents that file_read gave in base64.
fn bytes_of(answer: &Map<String, Value>) -> anyhow::Result<Vec<u8>> {
    let content = answer.get("content").and_then(Value::as_str).unwrap_or_default();
    BASE64_STANDARD.decode(content).context("the hub's answer is not base64")
}

fn list(answer: &Map<String, Value>) -> anyhow::Result<()> {
    let files = items(answer, "files");
    if files.is_empty() {
        return print("there are no files that fit\n");
    }
    let mut text = format!("{:PATH_WIDTH$}  {:>8}  {:>10}  {:20}  {}\n", "PATH", "REVISION", "SIZE", "CHANGED", "BY");
    for file in files {
        let size = bytes_for_people(file["size"].as_u64().unwrap_or(0));
        let (path, revision) = (text_of(&file["path"]), &file["revision"]);
        let (at, by) = (time_of(&file["modified"]), author_of(file, "author"));
        text += &format!("{path:PATH_WIDTH$}  {revision:>8}  {size:>10}  {at:20}  {by}\n");
    }
    print(&text)?;
    if let Some(next) = answer.get("next").and_then(Value::as_str) {
        say!("skep: there may be more; --after {next:?} shows them");
    }
    Ok(())
}

fn log(answer: &Map<String, Value>) -> anyhow::Result<()> {
    let mut text = String::new();
    for revision in items(answer, "revisions") {
        let size = match revision["sha256"].is_null() {
            true => "deleted".to_owned(),
            false => bytes_for_people(revision["size"].as_u64().unwrap_or(0)),
        };
        let (at, by) = (time_of(&revision["at"]), author_of(revision, "author"));
        text += &format!("revision {:<6}  {at:20}  {size:>10}  {by}\n", revision["revision"]);
        if let Some(diff) = revision["diff"].as_str() {
            text += &format!("{diff}\n");
        }
    }
    print(&text)?;
    if let Some(next) = answer.get("next") {
        say!("skep: there are earlier ones; --before {next} shows them");
    }
    Ok(())
}

/// What became of a change.
fn written(answer: &Map<String, Value>) -> String {
    let revision = answer.get("revision").unwrap_or(&Value::Null);
    match (answer.get("unchanged"), answer.get("merged_with")) {
        (Some(_), _) => format!("revision {revision}, as before\n"),
        (_, Some(with)) => format!("revision {revision}, merged with revision {with}\n"),
        _ => format!("revision {revision}\n"),
    }
}

/// A refusal, and of a conflict what is there instead.
fn refused(error: &ToolError) -> anyhow::Result<ExitCode> {
    say!("skep: {error}");
    if let ToolError::Conflict { detail, .. } = error {
        if let Some(at) = detail.get("expires_at") {
            say!("skep: the claim is over at {} unless it is renewed or released", time_of(at));
        }
        if let Some(diff) = detail.get("diff").and_then(Value::as_str) {
            say!("skep: what others have changed since:\n{diff}");
        }
        if detail.get("mergeable") == Some(&Value::Bool(true)) {
            say!("skep: the changes do not overlap; --merge writes both");
        }
    }
    Ok(ExitCode::from(FAILED))
}

/// The elements of a list in an answer.
pub(super) fn items<'a>(answer: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Who did something, as `principal/agent`.
pub(super) fn author_of(of: &Value, principal: &str) -> String {
    match (&of[principal], &of["agent"]) {
        (Value::String(principal), Value::String(agent)) => line(&format!("{principal}/{agent}")).into_owned(),
        (Value::String(principal), _) => line(principal).into_owned(),
        _ => "unknown".to_owned(),
    }
}

/// A time without fractions of a second.
pub(super) fn time_of(time: &Value) -> String {
    let time = text_of(time);
    time.split_once('.').map_or(time.clone(), |(seconds, _)| format!("{seconds}Z"))
}

/// A text within its line.
pub(super) fn text_of(text: &Value) -> String {
    line(text.as_str().unwrap_or_default()).into_owned()
}
