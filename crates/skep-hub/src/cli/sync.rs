//! `skep sync`: brings to a hub what was done without one.
//!
//! Both sides are asked by the same tools, the local one on the embedded database, and the hub over HTTP. Nothing is written that
//! rests on a revision which the hub has left behind, so nothing of others is replaced. What was brought is remembered for
//! each hub (`journal.rs`), which spares asking again. It is not what makes a repetition harmless: files and memory entries carry the
//! revision that they rest on, and steps and messages an idempotency key, so all of it may be lost.

mod entries;
mod files;
mod journal;
mod talk;

use std::{
    fmt::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use journal::Journal;
use serde_json::{Map, Value, json};
use skep_core::policy::Read;
use skep_tools::{
    error::ToolError,
    tool::{Annotations, Call},
    workspace::Context,
};

use super::{
    Common, print, remote, say,
    shared::{self, Here},
};
use crate::{
    config::{Overrides, Settings},
    hub::Store,
    remote::Hubs,
    running::RunningHub,
    terminal::line,
};

/// Something is a conflict, or the hub has refused it; all else was brought.
const CONFLICTS: u8 = 3;
/// How often a long synchronisation says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Rows of one page.
const PAGE: usize = 500;

/// Bring to a hub what was done without one: files, memory, steps and messages
///
/// Each revision of a file keeps the name of its agent, and so do steps, memory and messages; the hub's record says that
/// your token brought them. What the hub has changed since is a conflict: both sides are shown, and nothing is written.
/// It may be repeated and interrupted as often as you like: what was brought is not brought again.
///
/// The exit code is 0 if all was brought, 3 if there are conflicts or the hub has refused something, and 1 if it could not be
/// reached; then run it again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep sync --to http://hub:8000 --dry-run
  skep sync --to http://hub:8000 --task t1 --merge")]
pub(super) struct Arguments {
    /// The hub [default: the first one that is configured (SKEP_HUBS), or else the one that runs here]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Only this task or swarm; may be given several times [default: all, and what the team has outside of tasks]
    #[arg(long, short, value_name = "TASK", visible_alias = "swarm")]
    task: Vec<String>,
    /// Merge a file that both sides have changed, where the lines do not overlap
    #[arg(long)]
    merge: bool,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// As JSON, with both sides of each conflict
    #[arg(long)]
    json: bool,
}

pub(super) async fn sync(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut settings = common.settings(Overrides::default())?;
    let address = arguments.to.clone().or_else(|| settings.hubs.first().cloned());
    let (hub, name) = (remote::client(&settings, address.as_deref())?, name_of(&settings, address));
    shared::use_embedded(&mut settings);
    let store = Store::open(settings).await?;
    let (here, context) = Here::open(&store.settings, Some(store.clone()))?;
    let (sides, journal) = (Sides { here, context, hub }, Journal::open(store.home.path(), &name)?);
    let Arguments { merge, dry_run, .. } = arguments;
    let mut transfer =
        Transfer { sides, journal, merge, dry_run, report: Report::new(&name, dry_run), told: Instant::now() };
    let done = transfer.all(&store, &arguments.task).await;
    let Transfer { sides, report, .. } = transfer;
    sides.here.close().await;
    if let Err(error) = done {
        say!("skep: {}", report.in_words());
        return Err(error.context("not all was brought; `skep sync` goes on from here"));
    }
    print(&if arguments.json { format!("{:#}\n", report.to_json()) } else { report.to_text() })?;
    Ok(if report.troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CONFLICTS) })
}

/// What the hub is called here.
fn name_of(settings: &Settings, address: Option<String>) -> String {
    let running = || RunningHub::find(&settings.home)?.url().map(str::to_owned);
    address.or_else(running).unwrap_or_else(|| "the hub that runs here".to_owned()).trim_end_matches('/').to_owned()
}

/// One synchronisation.
struct Transfer {
    sides: Sides,
    journal: Journal,
    merge: bool,
    dry_run: bool,
    report: Report,
    /// When it was last said how far this is.
    told: Instant,
}

/// The local database, and the hub.
struct Sides {
    here: Here,
    context: Context,
    hub: Hubs,
}

/// What a tool said, on either side.
type Said = Result<Map<String, Value>, ToolError>;

impl Sides {
    /// Call a tool on the local database. Members of the arguments that are null are left out.
    async fn local(&self, tool: &str, arguments: Value) -> Said {
        let answered = self.here.hub.calls.values(self.context.clone(), call(tool, arguments)).await;
        answered.map(|answer| answer.value)
    }

    /// Call a tool at the hub. Every call that is made here may be made twice.
    async fn remote(&self, tool: &str, arguments: Value) -> anyhow::Result<Said> {
        let annotations = Annotations { idempotent_hint: true, ..Annotations::default() };
        let call = call(tool, arguments);
        let called = self.context.cancel.run_until_cancelled(self.hub.call(&call, annotations)).await;
        let answered = called.ok_or_else(|| anyhow::anyhow!("interrupted"))??;
        Ok(answered.result.map(|answer| answer.value))
    }
}

fn call(tool: &str, arguments: Value) -> Call {
    let mut arguments = match arguments {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    arguments.retain(|_, value| !value.is_null());
    Call { tool: tool.to_owned(), arguments: Value::Object(arguments), deadline: None }
}

/// The elements of a list in an answer, taken out of it.
fn take_items(answer: &mut Map<String, Value>, name: &str) -> Vec<Value> {
    match answer.remove(name) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Transfer {
    /// Bring what there is of these tasks, or of all and of the team.
    async fn all(&mut self, store: &Store, tasks: &[String]) -> anyhow::Result<()> {
        let places: Vec<Option<String>> = match tasks {
            [] => {
                let permit = store.permit.actor().permit::<Read>()?;
                std::iter::once(None).chain(store.app.db.workspaces(&permit).await?.into_iter().map(Some)).collect()
            }
            tasks => tasks.iter().cloned().map(Some).collect(),
        };
        for place in places {
            let task = place.as_deref();
            if self.is_same_database(task).await? {
                self.report.is_same_database = true;
                return Ok(());
            }
            if let Some(task) = task {
                self.files(task).await?;
            }
            self.memory(task).await?;
            if let Some(task) = task {
                self.steps(task).await?;
            }
            self.messages(task).await?;
        }
        Ok(())
    }

    /// Whether the hub works on the very database from which it is to get something: the same memory entry, step or revision has
    /// the same time there, to the microsecond, which is otherwise that of its bringing.
    async fn is_same_database(&self, task: Option<&str>) -> anyhow::Result<bool> {
        let list = self.sides.local("memory_list", json!({ "task_id": task, "limit": 1 })).await;
        if let Some(entry) = list.ok().and_then(|mut list| take_items(&mut list, "entries").pop()) {
            let wanted = json!({ "task_id": task, "key": entry["key"] });
            let found = self.sides.remote("memory_retrieve", wanted).await?.unwrap_or_default();
            if found.get("entry").is_some_and(|found| found["updated_at"] == entry["updated_at"]) {
                return Ok(true);
            }
        }
        let Some(task) = task else { return Ok(false) };
        let last = json!({ "task_id": task, "before": i64::MAX, "limit": 1 });
        if let Some(step) =
            self.sides.local("read_logs", last).await.ok().and_then(|mut page| take_items(&mut page, "logs").pop())
        {
            let wanted = json!({ "task_id": task, "after": step["sequence"].as_i64().unwrap_or(1) - 1, "limit": 1 });
            let mut page = self.sides.remote("read_logs", wanted).await?.unwrap_or_default();
            if take_items(&mut page, "logs").first().is_some_and(|found| found["at"] == step["at"]) {
                return Ok(true);
            }
        }
        let newest = self.sides.local("list_revisions", json!({ "task_id": task, "limit": 1 })).await;
        if let Some(revision) = newest.ok().and_then(|mut page| take_items(&mut page, "revisions").pop()) {
            let before = revision["revision"].as_u64().unwrap_or(0) + 1;
            let wanted = json!({ "task_id": task, "path": revision["path"], "before": before, "limit": 1 });
            let mut page = self.sides.remote("file_history", wanted).await?.unwrap_or_default();
            return Ok(take_items(&mut page, "revisions").first().is_some_and(|found| found["at"] == revision["at"]));
        }
        Ok(false)
    }

    /// Say now and then how far this is.
    fn progress(&mut self) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            say!("skep: so far {}", self.report.in_words());
        }
    }

    /// Something that was not brought, because both sides have changed it or the hub does not want it.
    fn trouble(&mut self, trouble: Value) {
        self.report.troubles.push(trouble);
    }
}

/// What was brought.
struct Report {
    hub: String,
    dry_run: bool,
    is_same_database: bool,
    revisions: u64,
    merged: u64,
    entries: u64,
    steps: u64,
    messages: u64,
    troubles: Vec<Value>,
}

impl Report {
    fn new(hub: &str, dry_run: bool) -> Report {
        let (revisions, merged, entries, steps, messages) = (0, 0, 0, 0, 0);
        let troubles = Vec::new();
        Report {
            hub: hub.to_owned(),
            dry_run,
            is_same_database: false,
            revisions,
            merged,
            entries,
            steps,
            messages,
            troubles,
        }
    }

    fn to_json(&self) -> Value {
        let Report { hub, dry_run, is_same_database, revisions, merged, entries, steps, messages, troubles } = self;
        json!({
            "status": if troubles.is_empty() { "ok" } else { "conflicts" },
            "hub": hub, "dry_run": dry_run, "same_database": is_same_database,
            "revisions": revisions, "merged": merged, "memory": entries, "steps": steps, "messages": messages,
            "conflicts": troubles,
        })
    }

    fn in_words(&self) -> String {
        let counted = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        format!(
            "{}, {}, {} and {}",
            counted(self.revisions, "revision of a file", "revisions of files"),
            counted(self.entries, "memory entry", "memory entries"),
            counted(self.steps, "step", "steps"),
            counted(self.messages, "message", "messages"),
        )
    }

    fn to_text(&self) -> String {
        if self.is_same_database {
            return format!("{} works on this very database; there is nothing to bring\n", line(&self.hub));
        }
        let mut shown: String = self.troubles.iter().map(trouble_in_words).collect();
        let verb = if self.dry_run { "would be brought" } else { "brought" };
        let _ = write!(shown, "{verb} to {}: {}", line(&self.hub), self.in_words()); // a String takes everything
        if self.merged > 0 {
            let _ = write!(shown, "; {} merged", self.merged);
        }
        match self.troubles.len() {
            0 => {}
            1 => shown += "; 1 conflict or refusal",
            n => shown += &format!("; {n} conflicts or refusals"),
        }
        shown + "\n"
    }
}

/// A conflict, with both sides.
fn trouble_in_words(trouble: &Value) -> String {
    let says = |name: &str| line(trouble[name].as_str().unwrap_or_default()).into_owned();
    let place = trouble["task"].as_str().map_or("the team".to_owned(), |task| format!("task {}", line(task)));
    let mut shown = format!("{} {} of {place}: {}\n", says("kind"), says("name"), says("why"));
    for (side, title) in [("hub", "what the hub has"), ("local", "what is here")] {
        match &trouble[side]["diff"] {
            Value::String(diff) if !diff.is_empty() => {
                let _ =
                    writeln!(shown, "  {title}, by {}:", line(trouble[side]["by"].as_str().unwrap_or("nobody known")));
                diff.lines().for_each(|row| shown += &format!("    {}\n", line(row)));
            }
            _ if trouble[side].is_null() => {}
            _ => {
                let value = &trouble[side]["value"];
                let _ = writeln!(
                    shown,
                    "  {title}: {}",
                    line(&if value.is_null() { "nothing".to_owned() } else { value.to_string() })
                );
            }
        }
    }
    shown
}
