//! `skep plan`.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use skep_tools::{
    document::{Diagnostic, Document, Format},
    project::{self, Breakdown, Kind, Project},
};

use super::{
    Common, FAILED, print, say,
    shared::{self, refused},
    tools::show,
};
use crate::terminal;

/// Bytes of a project on standard input.
const INPUT_BYTES_MAX: u64 = 1 << 20;

/// Show the tasks that a project takes, who does them and in which order; with --submit, submit them
///
/// A project has `name`, `requirements` (a text with commas, or a list), and `description`, `tech_stack` and `priority` if you
/// like. Rules break it down, so the same project always gives the same tasks.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  echo '{\"name\": \"Shop\", \"requirements\": \"catalog, cart, payments\", \"tech_stack\": {\"backend\": \"Go\"}}' | skep plan -")]
pub(super) struct Arguments {
    /// The project, in JSON, YAML or TOML; - reads JSON or YAML from standard input
    #[arg(required_unless_present = "schema", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print JSON, with the rule by which each task is there, or with --submit the tasks as they are then
    #[arg(long)]
    json: bool,
    /// Submit the tasks, for workers to do: `skep tasks ls`, `skep tasks next --type backend`
    #[arg(long)]
    submit: bool,
    /// The queue that workers get them from [default: default]
    #[arg(long, value_name = "QUEUE", requires = "submit")]
    queue: Option<String>,
    /// Submit as this agent
    #[arg(long, value_name = "AGENT", requires = "submit")]
    agent: Option<String>,
    /// Submit to this hub [default: the one that runs here; without one, the database is opened]
    #[arg(long, value_name = "URL", requires = "submit")]
    hub: Option<String>,
    /// Print the JSON Schema of projects instead, for editors
    #[arg(long)]
    schema: bool,
}

pub(super) async fn plan(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Some(file) = arguments.file.as_deref().filter(|_| !arguments.schema) else {
        print(&format!("{:#}\n", project::schema().json()))?;
        return Ok(ExitCode::SUCCESS);
    };
    let (project, mut wanted) = match read(file)? {
        Ok(read) => read,
        Err(faults) => {
            faults.iter().for_each(|fault| say!("{fault}"));
            return Ok(ExitCode::from(FAILED));
        }
    };
    let breakdown = project.break_down();
    if arguments.submit {
        if let Some(queue) = arguments.queue {
            wanted["queue"] = queue.into();
        }
        let place = shared::Place::of_team(arguments.agent, arguments.hub);
        return match shared::call(common, &place, "project_submit", wanted).await? {
            Ok(answer) if arguments.json => show(&answer.to_json(), true, true),
            Ok(answer) => {
                let id = answer.value.get("project_id").and_then(Value::as_str).unwrap_or_default();
                print(&format!("{}submitted as {}\n", table(&breakdown), terminal::line(id)))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => refused(&error, arguments.json),
        };
    }
    if arguments.json {
        print(&format!("{}\n", serde_json::to_string(&breakdown)?))?;
    } else {
        print(&table(&breakdown))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The project, and the same as it was written.
fn read(file: &Path) -> anyhow::Result<Result<(Project, Value), Vec<Diagnostic>>> {
    let document = if file == Path::new("-") {
        let mut text = Vec::new();
        let input = std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut text);
        anyhow::ensure!(input.context("standard input")? as u64 <= INPUT_BYTES_MAX, "standard input is too large");
        Document::parse("-", Format::Yaml, &text)
    } else {
        Document::read(file)
    };
    Ok(document.and_then(|document| {
        let faults = document.validate(project::schema());
        if !faults.is_empty() {
            return Err(faults);
        }
        let project = document.deserialise().map_err(|fault| vec![fault])?;
        Ok((project, document.value))
    }))
}

/// The tasks by the step in which they can begin, which is one after the last of those that they depend on.
fn table(breakdown: &Breakdown) -> String {
    let mut steps: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows = Vec::new();
    for task in &breakdown.tasks {
        let step = 1 + task.depends_on.iter().filter_map(|on| steps.get(&**on)).max().copied().unwrap_or(0);
        steps.insert(&task.id, step);
        rows.push((step, task));
    }
    rows.sort_by_key(|(step, _)| *step);
    let width = breakdown.tasks.iter().map(|task| task.id.len()).max().unwrap_or(0);
    let last = rows.last().map_or(0, |(step, _)| *step);
    let mut text = format!("{}: {} tasks in {last} steps\n", terminal::line(&breakdown.name), rows.len());
    let mut before = 0;
    for (step, task) in rows {
        let number = if step == before { String::new() } else { step.to_string() };
        before = step;
        let (id, kind, title) = (&task.id, task.kind.name(), terminal::line(&task.title));
        let after =
            if task.depends_on.is_empty() { String::new() } else { format!("  after {}", task.depends_on.join(", ")) };
        text += &format!("{number:>3}  {id:width$}  {kind:11}  {title}{after}\n");
    }
    let of_kind = |kind: Kind| (kind, breakdown.tasks.iter().filter(|task| task.kind == kind).count());
    let counts = Kind::ALL.into_iter().map(of_kind).filter(|(_, count)| *count > 0);
    let counts: Vec<String> = counts.map(|(kind, count)| format!("{kind} {count}")).collect();
    text += &format!("by type: {}\n", counts.join(", "));
    for unknown in &breakdown.unknown {
        let entry = terminal::line(&unknown.entry);
        text += &format!("no rule knows {entry}; {} gets it\n", unknown.kind);
    }
    text
}
