//! `skep history`, `skep diff` and `skep undo`: what was changed in a workspace, of all files or of some.
//!
//! In a directory that the hub keeps in step with a workspace, none of them needs to be told which one that is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde_json::{Map, Value, json};
use skep_tools::{duration::Span, error::ToolError};

use super::{
    Common, FAILED, Usage, at_least_one, bytes_for_people,
    files::{Files, author_of, difference, items, text_of, time_of},
    print, say,
    shared::{self, refused},
    tools::show,
};
use crate::{config::Overrides, running::RunningHub, terminal::line};

/// Revisions that one command looks at.
const REVISIONS_MAX: usize = 10_000;
/// Revisions that the hub is asked for at once.
const PAGE: usize = 1_000;
/// How far `skep diff` looks back if it is not told.
const DIFF_SINCE: Duration = Duration::from_secs(24 * 3600);
/// How paths are padded in a list.
const PATH_WIDTH: usize = 40;

/// Which files, and of which workspace.
#[derive(Debug, Args)]
struct Which {
    /// A file or a directory [default: all files below the current directory]
    path: Option<String>,
    /// The task whose workspace it is; paths are those of the workspace then [default: the one whose directory this is]
    #[arg(long, short, value_name = "TASK", visible_alias = "swarm")]
    task: Option<String>,
    /// Ask this hub [default: the one that runs here]
    #[arg(long, value_name = "URL", requires = "task")]
    hub: Option<String>,
    #[command(flatten)]
    local: shared::Local,
    /// As JSON, with all that is known
    #[arg(long)]
    json: bool,
}

/// Which changes.
#[derive(Debug, Args)]
struct Changes {
    /// Only those of this agent or principal
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only those from then on: 10m, 2h (ago), or 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<String>,
}

/// Say who changed which files of a workspace, and when, newest first
///
/// A change by nobody that is known was made in the directory, by an editor, a build or another program.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep history
  skep history src --since 1h
  skep history --task t1 --agent coder")]
pub(super) struct HistoryArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    changes: Changes,
    /// Changes to show at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
}

/// Show what was changed in the files of a workspace
///
/// Without --since, that is the last day; of a single file, --from and --to show what is between two revisions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep diff
  skep diff src/main.rs --from 3
  skep diff --agent coder --since 1h")]
pub(super) struct DiffArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    changes: Changes,
    /// The earlier revision of a file
    #[arg(long, value_name = "N", requires = "path", conflicts_with_all = ["since", "agent"])]
    from: Option<u64>,
    /// The later revision of a file [default: the newest]
    #[arg(long, value_name = "N", requires = "path", conflicts_with_all = ["since", "agent"])]
    to: Option<u64>,
}

/// Undo changes in the files of a workspace
///
/// What was there before is written again, as new revisions: nothing is taken out of the history, and an undo can be undone.
/// A file that somebody else has changed after is left as it is, and the command fails.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep undo notes.md
  skep undo src/main.rs --to 3
  skep undo --agent coder --dry-run
  skep undo src --since 10m")]
pub(super) struct UndoArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    changes: Changes,
    /// Go back to this revision of a file [default: the one before the newest]
    #[arg(long, value_name = "N", requires = "path", conflicts_with_all = ["since", "agent"])]
    to: Option<u64>,
    /// Keep what others have changed after, where the lines do not overlap
    #[arg(long)]
    merge: bool,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// The token of a claim on the files
    #[arg(long, value_name = "N")]
    token: Option<i64>,
}

pub(super) async fn history(common: Common, arguments: HistoryArguments) -> anyhow::Result<ExitCode> {
    let HistoryArguments { which, changes, limit } = arguments;
    let (workspace, is_json) = (Workspace::find(common, &which)?, which.json);
    let revisions = match workspace.revisions(&changes, limit).await? {
        Ok(revisions) => revisions,
        Err(error) => return refused(&error, is_json),
    };
    if is_json {
        return show(&json!({ "status": "ok", "revisions": revisions }), true, true);
    }
    if revisions.is_empty() {
        print("nothing was changed\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{:20}  {:PATH_WIDTH$}  {:>8}  {:>10}  BY\n", "WHEN", "PATH", "REVISION", "SIZE");
    for revision in &revisions {
        let size = match revision["sha256"].is_null() {
            true => "deleted".to_owned(),
            false => bytes_for_people(revision["size"].as_u64().unwrap_or(0)),
        };
        let (at, path, number) = (time_of(&revision["at"]), text_of(&revision["path"]), &revision["revision"]);
        let past = match &revision["bypassed_claim"] {
            Value::Number(token) => format!("  (past claim {token})"),
            _ => String::new(),
        };
        let by = author_of(revision, "author");
        text += &format!("{at:20}  {path:PATH_WIDTH$}  {number:>8}  {size:>10}  {by}{past}\n");
    }
    print(&text)?;
    if revisions.len() == limit {
        say!("skep: there may be more; --limit N shows up to N, --since TIME those from then on");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn diff(common: Common, arguments: DiffArguments) -> anyhow::Result<ExitCode> {
    let DiffArguments { which, mut changes, from, to } = arguments;
    let (workspace, is_json) = (Workspace::find(common, &which)?, which.json);
    if from.is_some() || to.is_some() {
        return match workspace.files.diff(&workspace.path, from, to).await? {
            Ok(diff) if is_json => show(&json!({ "status": "ok", "diff": diff }), true, true),
            Ok(diff) => print(&diff).map(|()| ExitCode::SUCCESS),
            Err(error) => refused(&error, is_json),
        };
    }
    if changes.since.is_none() {
        changes.since = Some(ago(DIFF_SINCE)?);
    }
    let revisions = match workspace.revisions(&changes, REVISIONS_MAX).await? {
        Ok(revisions) => revisions,
        Err(error) => return refused(&error, is_json),
    };
    let mut diffs = Vec::new();
    for (path, numbers) in by_path(&revisions) {
        let (from, to) = (numbers.first().map_or(0, |first| first - 1), numbers.last().copied().unwrap_or(0));
        diffs.push((path.clone(), workspace.compare(&path, from, to).await?));
    }
    if is_json {
        let files: Vec<Value> = diffs.iter().map(|(path, diff)| json!({ "path": path, "diff": diff })).collect();
        return show(&json!({ "status": "ok", "files": files }), true, true);
    }
    print(&diffs.into_iter().map(|(_, diff)| diff).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn undo(common: Common, arguments: UndoArguments) -> anyhow::Result<ExitCode> {
    let UndoArguments { which, changes, to, merge, dry_run, token } = arguments;
    let is_of_many = changes.agent.is_some() || changes.since.is_some();
    if !is_of_many && which.path.is_none() {
        return Err(Usage::of("say what to undo: a file, --agent NAME, or --since TIME").into());
    }
    let (workspace, is_json) = (Workspace::find(common, &which)?, which.json);
    let undos = match is_of_many {
        true => workspace.undos_of(&changes).await?,
        false => workspace.undo_of_file(to).await?,
    };
    let undos = match undos {
        Ok(undos) => undos,
        Err(error) => return refused(&error, is_json),
    };
    let mut done = Vec::new();
    for undo in &undos {
        let answered = match (undo.changed_after, dry_run) {
            (Some(newest), true) if !merge => {
                Err(ToolError::conflict(format!("somebody changed it after revision {}; it is at {newest}", undo.last)))
            }
            (_, true) => Ok(Map::new()),
            _ => {
                let answered = workspace.files.put_back(&undo.path, undo.to, undo.last, token, merge).await?;
                answered.map(|answer| answer.value)
            }
        };
        done.push(answered);
    }
    tell_undone(&undos, &done, dry_run, is_json)
}

/// Say what became of each file. The exit code says whether all were undone.
fn tell_undone(
    undos: &[Undo],
    done: &[Result<Map<String, Value>, ToolError>],
    dry_run: bool,
    is_json: bool,
) -> anyhow::Result<ExitCode> {
    let is_ok = done.iter().all(Result::is_ok);
    if is_json {
        let files: Vec<Value> = undos.iter().zip(done).map(|(undo, done)| undo.to_json(done)).collect();
        let status = if is_ok { "ok" } else { "error" };
        return show(&json!({ "status": status, "dry_run": dry_run, "files": files }), is_ok, true);
    }
    if undos.is_empty() {
        print("there is nothing to undo\n")?;
    }
    for (Undo { path, to, last, .. }, done) in undos.iter().zip(done) {
        let (path, was) = (line(path), if *to == 0 { "as before it was made" } else { "as in revision" });
        let to = if *to == 0 { String::new() } else { format!(" {to}") };
        match done {
            Ok(_) if dry_run => print(&format!("{path} would be {was}{to}\n"))?,
            Ok(answer) => {
                let revision = answer.get("revision").unwrap_or(&Value::Null);
                print(&format!("{path} is {was}{to} (revision {revision})\n"))?;
            }
            Err(error) => {
                say!("skep: {path} was left as it is: {error}");
                if matches!(error, ToolError::Conflict { detail, .. } if detail.get("reason").is_none_or(|why| why == "revision"))
                {
                    say!(
                        "skep: `skep diff {path} --from {last}` shows what came after; --merge keeps that where it can"
                    );
                }
            }
        }
    }
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// What is to be undone of a file.
struct Undo {
    path: String,
    /// The revision to go back to; 0 if there was no file.
    to: u64,
    /// The last of the revisions that are undone.
    last: u64,
    /// The newest revision, if it is not among them.
    changed_after: Option<u64>,
}

impl Undo {
    fn to_json(&self, done: &Result<Map<String, Value>, ToolError>) -> Value {
        let mut told = match done {
            Ok(answer) => json!({ "status": "ok", "revision": answer.get("revision") }),
            Err(error) => error.to_json(),
        };
        told["path"] = self.path.clone().into();
        told["to"] = self.to.into();
        told
    }
}

/// The files that a command is about.
struct Workspace {
    files: Files,
    /// A file or directory of the workspace; empty for all.
    path: String,
}

impl Workspace {
    /// The workspace that is named, or the one whose directory the current one is or lies in.
    fn find(common: Common, which: &Which) -> anyhow::Result<Workspace> {
        if let Some(task) = &which.task {
            let path = which.path.as_deref().map_or("", |path| path.trim_end_matches('/'));
            let path = if path == "." { "" } else { path }.to_owned();
            let place = shared::Place::of_task(task.clone(), which.hub.clone(), which.local);
            return Ok(Workspace { files: Files { common, place }, path });
        }
        let mut settings = common.clone().settings(Overrides::default())?;
        if which.local.apply(None, &mut settings)? {
            return Err(Usage::of("--task says of which task: without a hub no directory is a workspace").into());
        }
        let here = std::env::current_dir()?.canonicalize()?;
        let meant = below(&here, Path::new(which.path.as_deref().unwrap_or(".")));
        let running = RunningHub::find(&settings.home).map_or_else(BTreeMap::new, |hub| hub.directories);
        let found = running.into_iter().find_map(|(task, directory)| {
            let inside = meant.strip_prefix(&directory).ok()?.to_str()?.to_owned();
            Some((task, inside))
        });
        let Some((task, path)) = found else {
            let what = format!("no hub that runs here has {} as a workspace", meant.display());
            return Err(
                Usage::of(format!("{what}; start one with `skep serve --dir .`, or name a task with --task")).into()
            );
        };
        Ok(Workspace { files: Files { common, place: shared::Place::of_task(task, None, which.local) }, path })
    }

    /// The revisions that a command is about, newest first, up to a limit.
    async fn revisions(&self, changes: &Changes, limit: usize) -> anyhow::Result<Result<Vec<Value>, ToolError>> {
        let mut all: Vec<Value> = Vec::new();
        let mut before = Value::Null;
        loop {
            let path = (!self.path.is_empty()).then_some(&self.path);
            let list = json!({
                "path": path, "by": changes.agent, "since": changes.since, "before": before,
                "limit": (limit - all.len()).min(PAGE),
            });
            let answer = match self.files.call("list_revisions", list).await? {
                Ok(answer) => answer.value,
                Err(error) => return Ok(Err(error)),
            };
            all.extend_from_slice(items(&answer, "revisions"));
            before = answer.get("next").cloned().unwrap_or_default();
            if before.is_null() || all.len() >= limit {
                return Ok(Ok(all));
            }
        }
    }

    /// The last change of a file, or all after a revision.
    async fn undo_of_file(&self, to: Option<u64>) -> anyhow::Result<Result<Vec<Undo>, ToolError>> {
        let newest = match self.files.revisions(&self.path, 1).await? {
            Ok(newest) => newest.first().copied().unwrap_or(0),
            Err(error) => return Ok(Err(error)),
        };
        let to = to.unwrap_or(newest.saturating_sub(1));
        Ok(Ok(vec![Undo { path: self.path.clone(), to, last: newest, changed_after: None }]))
    }

    /// All changes of somebody, or since a time. Of those of somebody, only the last ones in a row are undone of each file.
    async fn undos_of(&self, changes: &Changes) -> anyhow::Result<Result<Vec<Undo>, ToolError>> {
        let revisions = match self.revisions(changes, REVISIONS_MAX).await? {
            Ok(revisions) => revisions,
            Err(error) => return Ok(Err(error)),
        };
        anyhow::ensure!(
            revisions.len() < REVISIONS_MAX,
            "there are more than {REVISIONS_MAX} changes; name a file or directory, or a later time with --since"
        );
        let mut undos = Vec::new();
        for (path, numbers) in by_path(&revisions) {
            let Some(last) = numbers.last().copied() else { continue };
            let first = (0..=last).rev().find(|number| !numbers.contains(number)).map_or(1, |other| other + 1);
            let newest = match self.files.revisions(&path, 1).await? {
                Ok(newest) => newest.first().copied().unwrap_or(last),
                Err(error) => return Ok(Err(error)),
            };
            let changed_after = (newest != last).then_some(newest);
            undos.push(Undo { path, to: first - 1, last, changed_after });
        }
        // What was made is deleted first: a file may have taken the place of a directory.
        undos.sort_by_key(|undo| undo.to != 0);
        Ok(Ok(undos))
    }

    /// The changes of a file between two revisions, as a unified diff, or why there is none.
    async fn compare(&self, path: &str, from: u64, to: u64) -> anyhow::Result<String> {
        let mut texts = Vec::new();
        for revision in [from, to] {
            match self.files.contents(path, revision).await? {
                Ok(bytes) => texts.push(String::from_utf8(bytes.unwrap_or_default())),
                Err(_) => return Ok(format!("{path} has changed since revision {from}, which is not kept\n")),
            }
        }
        let [Ok(old), Ok(new)] = &texts[..] else { return Ok(format!("{path} has changed, and is no text\n")) };
        Ok(difference(path, (from, old), (to, new)))
    }
}

/// The numbers of the revisions of each file.
fn by_path(revisions: &[Value]) -> BTreeMap<String, BTreeSet<u64>> {
    let mut all: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for revision in revisions {
        if let (Some(path), Some(number)) = (revision["path"].as_str(), revision["revision"].as_u64()) {
            all.entry(path.to_owned()).or_default().insert(number);
        }
    }
    all
}

/// A path from a directory, which need not exist.
fn below(directory: &Path, path: &Path) -> PathBuf {
    let mut meant = directory.to_owned();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(meant.pop()),
            other => meant.push(other),
        }
    }
    meant
}

/// A time as callers of tools give it, from one that a person gives.
fn moment(text: &str) -> Result<String, String> {
    if let Ok(Span(time)) = text.parse::<Span>() {
        return ago(time).map_err(|error| error.to_string());
    }
    let at: jiff::Timestamp =
        text.parse().map_err(|_| "must be a time such as 10m or 2h (ago), or 2026-03-01T12:00:00Z".to_owned())?;
    Ok(at.to_string())
}

fn ago(time: Duration) -> anyhow::Result<String> {
    Ok(jiff::Timestamp::now().checked_sub(jiff::SignedDuration::try_from(time)?)?.to_string())
}
