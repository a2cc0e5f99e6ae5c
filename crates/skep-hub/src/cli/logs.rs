//! `skep logs`.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use skep_core::{
    event::Event,
    run::{Run, State},
};

use super::{
    Common, calls, find_run, print,
    progress::{Follow, to_json, to_text},
    say, stop_on_signal, task_named,
};
use crate::{
    config::Overrides,
    hub::Store,
    run::{self, Archive, Names},
    running::RunningHub,
};

/// How often it is looked whether the process still lives that works on a run.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Show what has happened in a run, event by event, or which calls a hub has had
///
/// Without a run: the calls of the hub that runs here, if one does; otherwise what has happened in the newest run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep logs newest --follow
  skep logs --calls --follow")]
pub(super) struct Arguments {
    /// The run, the end of its name, or `newest`
    #[arg(value_name = "RUN", conflicts_with_all = ["calls", "hub"])]
    run: Option<String>,
    /// The calls of the hub that runs here: who called which tool, how that ended, how long it took
    #[arg(long)]
    calls: bool,
    /// The calls of the hub at this address: http://…, https://… or unix:/path
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// Go on until the run is over, or the hub stops
    #[arg(long, short)]
    follow: bool,
    /// Only this task
    #[arg(long, value_name = "TASK", conflicts_with_all = ["calls", "hub"])]
    task: Option<String>,
    /// A line of JSON for each event
    #[arg(long)]
    json: bool,
}

pub(super) async fn logs(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides::default())?;
    let names_none = arguments.run.is_none() && arguments.task.is_none();
    let is_meant = || names_none && RunningHub::find(&settings.home).is_some();
    if arguments.calls || arguments.hub.is_some() || is_meant() {
        let Arguments { hub, follow, json, .. } = arguments;
        return calls::show(&settings, &calls::Wanted { hub, follow, json }).await;
    }
    let store = Store::open(settings).await?;
    let run = find_run(&store, arguments.run.as_deref()).await?;
    let tasks = run::tasks_of(&store.app.db, &store.permit.to_read(), &run.id).await?;
    let only = arguments.task.as_deref().map(|name| task_named(&run.id, name, &tasks)).transpose()?;
    let names = Names::of(&tasks);
    let mut follow = Follow::new(&store.app, &store.permit.to_read(), &run.id);
    let wanted = |event: &Event| only.is_none() || event.task.as_ref() == only;
    let line = |event: &Event| if arguments.json { to_json(event, &names) } else { to_text(event, &names) };
    if arguments.follow && Archive::of(&store).state_of(&run.id, run.state).await? == State::Running {
        let mut signals = tokio::task::JoinSet::new();
        let stop = stop_on_signal(&mut signals)?;
        let shown = follow.until_over(|event| {
            if wanted(event) {
                let _ = print(&(line(event) + "\n"));
            }
        });
        tokio::select! {
            shown = shown => return shown.map(|()| ExitCode::SUCCESS).map_err(Into::into),
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
            cut_off = until_cut_off(&store, &run) => cut_off?,
        }
        say!("run {} was interrupted; continue with `skep resume {0}`", run.id.0);
    }
    loop {
        let events = follow.look().await?;
        if events.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        print(&events.iter().filter(|event| wanted(event)).map(|event| line(event) + "\n").collect::<String>())?;
    }
}

/// Returns when nobody works on the run any more although it has not ended.
async fn until_cut_off(store: &Store, run: &Run) -> anyhow::Result<()> {
    while Archive::of(store).state_of(&run.id, run.state).await? != State::Interrupted {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
