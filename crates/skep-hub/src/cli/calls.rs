//! The calls of a hub that runs: `skep logs --calls`.

use std::{process::ExitCode, time::Duration};

use serde_json::Value;

use super::{FAILED, print, progress::time_of_day, remote, stop_on_signal};
use crate::{
    config::Settings,
    remote::ShowError,
    terminal::{line, say},
};

/// How long the hub is asked to wait for a call that it has not had yet.
const WAIT: Duration = Duration::from_secs(20);

/// Which hub, and what of it.
pub(super) struct Wanted {
    /// Its address; `None` for the one that runs with this state directory.
    pub(super) hub: Option<String>,
    /// Go on until it stops.
    pub(super) follow: bool,
    /// A line of JSON for each call.
    pub(super) json: bool,
}

/// Print the calls of a hub, oldest first.
pub(super) async fn show(settings: &Settings, wanted: &Wanted) -> anyhow::Result<ExitCode> {
    let hub = remote::client(settings, wanted.hub.as_deref())?;
    let mut signals = tokio::task::JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let (mut after, mut wait) = (0, Duration::ZERO);
    loop {
        let Some(answer) = stop.run_until_cancelled(hub.show_calls(after, wait)).await else {
            return Ok(ExitCode::SUCCESS);
        };
        let answer = match answer {
            Err(ShowError::Stopping { hub } | ShowError::Unreachable { hub, .. }) if !wait.is_zero() => {
                say!("the hub {hub} has stopped");
                return Ok(ExitCode::from(FAILED));
            }
            answer => answer?,
        };
        let calls = answer.get("calls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let text = |call: &Value| if wanted.json { format!("{call}\n") } else { to_text(call) };
        print(&calls.iter().map(text).collect::<String>())?;
        if !wanted.follow {
            if calls.is_empty() && !wanted.json {
                say!("the hub has answered no calls yet");
            }
            return Ok(ExitCode::SUCCESS);
        }
        (after, wait) = (answer.get("last").and_then(Value::as_u64).unwrap_or(after), WAIT);
    }
}

/// A call as a line for people: when, who, which tool, how it ended, how long it took.
fn to_text(call: &Value) -> String {
    let text = |name: &str| line(call[name].as_str().unwrap_or_default()).into_owned();
    let at: jiff::Timestamp = call["at"].as_str().and_then(|at| at.parse().ok()).unwrap_or_default();
    let (at, ms) =
        (time_of_day(skep_core::Timestamp(at.as_microsecond())), call["duration_ms"].as_f64().unwrap_or(0.0));
    format!("{at}  {:12}  {:32}  {:12}  {ms:>9.1} ms\n", text("principal"), text("tool"), text("outcome"))
}
