//! `skep logs`.

use std::process::ExitCode;

use clap::Args;
use skep_core::event::Event;

use super::{
    Common, find_run, print,
    progress::{Follow, to_json, to_text},
    stop_on_signal,
};
use crate::{config::Overrides, hive::Hive, run::step_of};

/// Show what has happened in a run, event by event
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The run, or the end of its name [default: the newest]
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Go on until the run is over
    #[arg(long, short)]
    follow: bool,
    /// Only this task
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// A line of JSON for each event
    #[arg(long)]
    json: bool,
}

pub(super) async fn logs(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let hive = Hive::open(common.settings(Overrides::default())?).await?;
    let run = find_run(&hive, arguments.run.as_deref()).await?;
    let mut follow = Follow::new(&hive.app, hive.namespace(), &run.id);
    let wanted = |event: &Event| match &arguments.task {
        Some(task) => event.task.as_ref().is_some_and(|id| step_of(id) == task),
        None => true,
    };
    let line = |event: &Event| if arguments.json { to_json(event) } else { to_text(event) };
    if arguments.follow && !run.state.is_over() {
        let mut signals = tokio::task::JoinSet::new();
        let stop = stop_on_signal(&mut signals)?;
        let shown = follow.until_over(|event| {
            if wanted(event) {
                let _ = print(&(line(event) + "\n"));
            }
        });
        tokio::select! { shown = shown => shown?, () = stop.cancelled() => {} }
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let events = follow.look().await?;
        if events.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        print(&events.iter().filter(|event| wanted(event)).map(|event| line(event) + "\n").collect::<String>())?;
    }
}
