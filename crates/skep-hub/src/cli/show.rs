//! `skep show`.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value};
use skep_core::run::Run;
use skep_tools::workspace::OUTPUTS;

use super::{Common, find_run, no_such_task, print, stored_plan};
use crate::{
    config::Overrides,
    hub::Store,
    run::{Archive, Report, TaskReport},
    terminal::{Screen, ignore_gone},
};

/// Show what became of a run: its report, a task's answer, or a file that a task has left
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The run, or the end of its name [default: the newest]
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Only this task's answer
    #[arg(long, value_name = "TASK", conflicts_with = "file")]
    task: Option<String>,
    /// The contents of this file, such as outputs/count/table.csv
    #[arg(long, value_name = "PATH")]
    file: Option<String>,
    /// With --file: write it as it is, also to a terminal, which obeys control characters in it
    #[arg(long, requires = "file")]
    raw: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn show(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let store = Store::open(common.settings(Overrides::default())?).await?;
    let run = find_run(&store, arguments.run.as_deref()).await?;
    if let Some(file) = &arguments.file {
        let bytes = artefact(&store, &run, file).await?;
        let mut screen = Screen::new(std::io::stdout().lock(), arguments.raw);
        ignore_gone(screen.write_all(&bytes).and_then(|()| screen.finish()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = report(&store, &run).await?;
    let text = match (&arguments.task, arguments.json) {
        (Some(name), is_json) => {
            let task = report.tasks.iter().find(|task| task.id == *name);
            let task = task.ok_or_else(|| no_such_task(&run.id, name, report.tasks.iter().map(|task| &*task.id)))?;
            format!("{:#}\n", if is_json { serde_json::to_value(task)? } else { answer(task) })
        }
        (None, true) => format!("{:#}\n", serde_json::to_value(&report)?),
        (None, false) => report.markdown,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What a task answered, or what there is to say instead.
fn answer(task: &TaskReport) -> Value {
    if task.status == "completed" {
        return task.result.clone();
    }
    let mut said = Map::from_iter([("status".to_owned(), task.status.clone().into())]);
    said.extend(task.error.clone().map(|error| ("error".to_owned(), error.into())));
    if let Value::Object(output) = &task.output {
        said.extend(output.clone());
    }
    said.into()
}

/// The contents of a file that a task of the run has left, by its path in reports.
async fn artefact(store: &Store, run: &Run, file: &str) -> anyhow::Result<Vec<u8>> {
    let path = file.strip_prefix(OUTPUTS).and_then(|path| path.strip_prefix('/')).unwrap_or(file);
    let bytes = store.app.db.artefact_of_run(&store.permit.to_read(), &run.id, path).await?;
    bytes.with_context(|| format!("run {} has no file {file}; `skep show --json` lists its artefacts", run.id.0))
}

/// The report on a run as it stands now.
async fn report(store: &Store, run: &Run) -> anyhow::Result<Report> {
    let plan = stored_plan(run)?;
    let state = Archive::of(store).state_of(&run.id, run.state).await?;
    Ok(Report::gather(&store.app, &store.permit.to_read(), run, state, &plan).await?)
}
