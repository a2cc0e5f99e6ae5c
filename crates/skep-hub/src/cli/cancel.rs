//! `skep cancel`.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use skep_core::{
    app::RunError,
    run::{End, Refused, State},
};

use super::{Common, FAILED, find_run, print};
use crate::{config::Overrides, hub::Store, terminal::say};

/// How long the process that works on a run may take to end what it runs.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Call a run off: what runs is stopped, and nothing of it starts any more
///
/// The process that works on the run stops it, wherever that is. `skep retry` takes a cancelled run up again.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The run, the end of its name, or `newest`
    #[arg(value_name = "RUN")]
    run: String,
}

pub(super) async fn cancel(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let store = Store::open(common.settings(Overrides::default())?).await?;
    let run = find_run(&store, Some(&arguments.run)).await?;
    let name = &run.id.0;
    match store.app.end_run(&store.permit, &run.id, End::Cancelled, None).await {
        Ok(_) => {}
        Err(RunError::Refused(Refused::Over(state))) if state == State::Cancelled.name() => {
            print(&format!("run {name} is cancelled already\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(RunError::Refused(Refused::Over(state))) => {
            anyhow::bail!("run {name} is over ({state}), so there is nothing to call off")
        }
        Err(error) => return Err(error.into()),
    }
    let stops = async {
        while store.home.is_held(&run.id) == Some(true) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(STOP_TIME_MAX, stops).await.is_err() {
        say!("run {name} is cancelled, but the process that works on it has not ended yet");
        return Ok(ExitCode::from(FAILED));
    }
    print(&format!("run {name} is cancelled; `skep retry {name}` takes it up again\n"))?;
    Ok(ExitCode::SUCCESS)
}
