//! `skep status`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use skep_core::run::{State, Summary};

use super::{Common, FAILED, print, remote};
use crate::{
    config::{Overrides, Settings},
    events::rfc3339,
    hub::Store,
    remote::{Hubs, ShowError},
    run::Archive,
    running::RunningHub,
    terminal::line,
};

/// Runs that are shown.
const RUNS_MAX: usize = 20;

/// Show what is running here: the hub, its MCP servers, and runs
///
/// The exit code is 0 only if a hub runs and says that it is well.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only the hub at this address: http://…, https://… or unix:/path
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn status(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides::default())?;
    let (hub, runs) = match &arguments.hub {
        Some(address) => {
            let client = remote::client(&settings, Some(address))?;
            (Some(ask(json!({ "urls": [address] }), &client).await), None)
        }
        None => {
            let hub = match RunningHub::find(&settings.home) {
                Some(hub) => Some(ask_running(&hub, &settings).await),
                None => None,
            };
            (hub, Some(runs(settings).await?))
        }
    };
    let is_well = hub.as_ref().is_some_and(|hub| matches!(hub["status"].as_str(), Some("healthy" | "degraded")));
    let text = match (arguments.json, runs) {
        (true, Some(runs)) => format!("{:#}\n", json!({ "hub": hub, "runs": runs })),
        (true, None) => format!("{:#}\n", json!({ "hub": hub })),
        (false, runs) => {
            hub.map_or_else(no_hub, |hub| hub_as_text(&hub)) + &runs_as_text(runs.as_deref().unwrap_or_default())
        }
    };
    print(&text)?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// What the hub that runs here says of itself: in its file, and over HTTP.
async fn ask_running(hub: &RunningHub, settings: &Settings) -> Value {
    let known = serde_json::to_value(hub).unwrap_or_default();
    match remote::client(settings, None) {
        Ok(client) => ask(known, &client).await,
        Err(error) => silent(known, &format!("{error:#}")),
    }
}

/// What is known of a hub, and what it says itself.
async fn ask(mut known: Value, client: &Hubs) -> Value {
    let answers = async { Ok::<_, ShowError>((client.show_health().await?, client.show(&["servers"]).await?)) };
    match answers.await {
        Err(error) => silent(known, &error.to_string()),
        Ok((health, mut servers)) => {
            if let Value::Object(known) = &mut known {
                known.extend(health);
                known.insert("servers".to_owned(), servers.remove("servers").unwrap_or_default());
            }
            known
        }
    }
}

fn silent(mut known: Value, why: &str) -> Value {
    known["status"] = "silent".into();
    known["error"] = why.into();
    known
}

/// The runs that somebody works on, or that wait to be continued.
async fn runs(settings: Settings) -> anyhow::Result<Vec<Value>> {
    let store = Store::open(settings).await?;
    let mut found = Vec::new();
    let is_open = |run: &Summary| matches!(run.state, State::Running | State::Interrupted);
    for run in Archive::of(&store).all().await?.into_iter().filter(is_open).take(RUNS_MAX) {
        let tasks = store.app.db.count_tasks(&store.permit.to_read(), &run.id).await?;
        found.push(json!({
            "run": run.id.0, "name": run.name, "state": run.state.name(), "created": rfc3339(run.created),
            "tasks": tasks.all(), "tasks_over": tasks.all() - tasks.pending - tasks.in_progress,
        }));
    }
    Ok(found)
}

fn no_hub() -> String {
    "no hub runs here; `skep serve` starts one\n".to_owned()
}

fn hub_as_text(hub: &Value) -> String {
    let text = |member: &str| line(hub[member].as_str().unwrap_or_default()).into_owned();
    let number = |member: &str| hub[member].as_u64().unwrap_or_default();
    let urls: Vec<&str> = hub["urls"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut shown = format!("hub      {}  {}\n", line(&urls.join(" ")), text("status"));
    if let Some(error) = hub["error"].as_str() {
        shown += &format!("         does not answer: {}\n", line(error));
    }
    let up = hub["uptime_s"].as_u64().map(|s| format!(", up {}", duration(s))).unwrap_or_default();
    // What only its file says is not known of a hub that was named by its address.
    let process = hub["pid"].as_u64().map(|pid| format!("process {pid}, ")).unwrap_or_default();
    if hub["version"].is_string() {
        shown += &format!("         {process}Skep {}{up}\n", text("version"));
    }
    if hub["workspace"].is_string() {
        shown += &format!("         serves {}\n", text("workspace"));
    }
    if hub["calls_running"].is_u64() {
        shown += &format!("         {} calls running, {} waiting\n", number("calls_running"), number("calls_waiting"));
    }
    for (n, alert) in hub["alerts"].as_array().into_iter().flatten().enumerate() {
        shown += if n == 0 { "alerts   " } else { "         " };
        shown += &alert_as_text(alert);
    }
    let servers = hub["servers"].as_array().map_or(&[][..], Vec::as_slice);
    for (n, server) in servers.iter().filter_map(Value::as_object).enumerate() {
        shown += if n == 0 { "servers  " } else { "         " };
        shown += &server_as_text(server);
    }
    shown
}

fn alert_as_text(alert: &Value) -> String {
    let text = |member: &str| line(alert[member].as_str().unwrap_or_default()).into_owned();
    let number = |member: &str| alert[member].as_f64().unwrap_or_default();
    format!("{:24} {:.3}, over {}, since {}\n", text("code"), number("value"), number("threshold"), text("since"))
}

fn server_as_text(server: &Map<String, Value>) -> String {
    let text = |member: &str| line(server.get(member).and_then(Value::as_str).unwrap_or_default()).into_owned();
    let why = match text("last_error") {
        why if why.is_empty() || text("state") == "running" => String::new(),
        why => format!("  {why}"),
    };
    format!("{:24} {}{why}\n", text("name"), text("state"))
}

fn runs_as_text(runs: &[Value]) -> String {
    let mut shown = String::new();
    for (n, run) in runs.iter().enumerate() {
        let text = |member: &str| line(run[member].as_str().unwrap_or_default()).into_owned();
        let head = if n == 0 { "runs     " } else { "         " };
        let (over, all) = (&run["tasks_over"], &run["tasks"]);
        shown += &format!("{head}{}  {:<11}  {over}/{all} tasks  {}\n", text("run"), text("state"), text("name"));
    }
    shown
}

/// Seconds for people: the two largest units.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_has_the_two_units_that_matter() {
        let shown = [(5, "5 s"), (65, "1 min 5 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h")];
        assert_eq!(shown.map(|(seconds, _)| duration(seconds)), shown.map(|(_, text)| text.to_owned()));
    }
}
