//! `skep plan`.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use skep_plan::project::{self, Breakdown, Kind, Project};
use skep_tools::document::{Diagnostic, Document, Format};

use super::{FAILED, print, say};
use crate::terminal;

/// Bytes of a project on standard input.
const INPUT_BYTES_MAX: u64 = 1 << 20;

/// Show the tasks that a project takes, who does them and in which order, without running anything
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
    /// Print JSON, with the rule by which each task is there
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of projects instead, for editors
    #[arg(long)]
    schema: bool,
}

pub(super) fn plan(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Some(file) = arguments.file.as_deref().filter(|_| !arguments.schema) else {
        print(&format!("{:#}\n", project::schema().json()))?;
        return Ok(ExitCode::SUCCESS);
    };
    let project = match read(file)? {
        Ok(project) => project,
        Err(faults) => {
            faults.iter().for_each(|fault| say!("{fault}"));
            return Ok(ExitCode::from(FAILED));
        }
    };
    let breakdown = project.break_down();
    if arguments.json {
        print(&format!("{}\n", serde_json::to_string(&breakdown)?))?;
    } else {
        print(&table(&breakdown))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> anyhow::Result<Result<Project, Vec<Diagnostic>>> {
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
        if faults.is_empty() { document.deserialise().map_err(|fault| vec![fault]) } else { Err(faults) }
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
