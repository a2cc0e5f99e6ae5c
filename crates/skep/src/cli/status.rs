//! `skep status`.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use skep_core::run::{State, Summary};

use super::{Common, FAILED, calls::Hub, print};
use crate::{
    config::{Overrides, Settings},
    hive::Hive,
    run::rfc3339,
    running::RunningHub,
    terminal::line,
};

/// Time for the hub to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Runs that are shown.
const RUNS_MAX: usize = 20;

/// Show what is running here: the hub, its MCP servers, and runs
///
/// The exit code is 0 only if a hub runs and says that it is well.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn status(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides::default())?;
    let hub = match RunningHub::find(&settings.home) {
        Some(hub) => Some(ask(hub, &settings).await),
        None => None,
    };
    let runs = runs(settings).await?;
    let is_well = hub.as_ref().is_some_and(|hub| matches!(hub["status"].as_str(), Some("healthy" | "degraded")));
    let text = match arguments.json {
        true => format!("{:#}\n", json!({ "hub": hub, "runs": runs })),
        false => format!("{}{}", hub.map_or_else(no_hub, |hub| hub_as_text(&hub)), runs_as_text(&runs)),
    };
    print(&text)?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// What a hub says of itself: in its file, and over HTTP.
async fn ask(hub: RunningHub, settings: &Settings) -> Value {
    let mut known = serde_json::to_value(&hub).unwrap_or_default();
    let answers = async {
        let hub = Hub::new(settings, None)?;
        Ok::<_, anyhow::Error>((get(&hub, "/health").await?, get(&hub, "/servers").await?))
    };
    match answers.await {
        Err(error) => {
            known["status"] = "silent".into();
            known["error"] = format!("{error:#}").into();
        }
        Ok((health, mut servers)) => {
            if let (Some(known), Value::Object(health)) = (known.as_object_mut(), health) {
                known.extend(health);
            }
            known["servers"] = servers["servers"].take();
        }
    }
    known
}

async fn get(hub: &Hub, path: &str) -> anyhow::Result<Value> {
    match hub.get(path, ANSWER_TIME_MAX).await? {
        (StatusCode::UNAUTHORIZED, _) => anyhow::bail!("it wants its token; set SKEP_TOKEN"),
        (_, answer) => Ok(answer), // one that is not well says so with another status
    }
}

/// The runs that somebody works on, or that wait to be continued.
async fn runs(settings: Settings) -> anyhow::Result<Vec<Value>> {
    let hive = Hive::open(settings).await?;
    let mut found = Vec::new();
    let is_open = |run: &Summary| matches!(run.state, State::Running | State::Interrupted);
    for run in hive.archive().all().await?.into_iter().filter(is_open).take(RUNS_MAX) {
        let tasks = hive.app.db.tasks_of(hive.namespace(), &run.id).await?;
        let over = tasks.iter().filter(|task| task.state.is_over()).count();
        found.push(json!({
            "run": run.id.0, "name": run.name, "state": run.state.name(), "created": rfc3339(run.created),
            "tasks": tasks.len(), "tasks_over": over,
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
    shown += &format!("         process {}, Skep {}{up}\n", number("pid"), text("version"));
    shown += &format!("         serves {}\n", text("workspace"));
    if hub["calls_running"].is_u64() {
        shown += &format!("         {} calls running, {} waiting\n", number("calls_running"), number("calls_waiting"));
    }
    let servers = hub["servers"].as_array().map_or(&[][..], Vec::as_slice);
    for (n, server) in servers.iter().filter_map(Value::as_object).enumerate() {
        shown += if n == 0 { "servers  " } else { "         " };
        shown += &server_as_text(server);
    }
    shown
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
