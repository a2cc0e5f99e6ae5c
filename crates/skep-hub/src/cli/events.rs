//! `skep events`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use skep_core::{app::EventFollower, db::News, event::EventFilter};
use tokio::time::{Instant, sleep};

use super::{Common, FAILED, Usage, find_run, print, progress::time_of_day, remote, say, stop_on_signal, task_named};
use crate::{
    config::{Overrides, Settings},
    events::to_json,
    hub::Store,
    remote::{Hubs, ShowError},
    run,
    terminal::{line, short_line},
};

/// Show what has happened in all runs and with all that agents share, or follow it
///
/// A task or swarm that has a workspace has a log of its own: --task shows that. All else, runs included, is in the
/// team's log.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep events --follow
  skep events --task t1 --kind memory.stored,memory.deleted
  skep events --follow --after 1200 --json")]
pub(super) struct Arguments {
    /// Go on until interrupted, with what happens from now on, or after the event of --after
    #[arg(long, short)]
    follow: bool,
    /// The workspace of this task or swarm; with --run, this task of the run
    #[arg(long, short, value_name = "TASK")]
    task: Option<String>,
    /// Only this run: the end of its name, or `newest`; at a hub its whole name
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Only what this agent caused
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Only events of these kinds, such as run.started; several with commas
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// Only events after the one of this number
    #[arg(long, value_name = "N")]
    after: Option<i64>,
    /// A line of JSON for each event
    #[arg(long)]
    json: bool,
    /// Those of this hub, which runs, and not those of the database here
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
}

/// How long a hub that has ended a stream is tried again.
const RECONNECT_TIME_MAX: Duration = Duration::from_secs(30);
/// How long to wait before.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// Events that are asked for at once.
const PAGE: usize = 1000;
/// Characters of an event's data in a line for people.
const DATA_CHARS_MAX: usize = 160;

pub(super) async fn events(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides::default())?;
    let mut signals = tokio::task::JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let shown = match &arguments.hub {
        Some(url) => stop.run_until_cancelled(of_hub(&settings, url, &arguments)).await,
        None => stop.run_until_cancelled(of_store(settings, &arguments)).await,
    };
    shown.unwrap_or(Ok(ExitCode::SUCCESS))
}

async fn of_store(settings: Settings, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let store = Store::open(settings).await?;
    let (mut filter, mut workspace) = (EventFilter::default(), arguments.task.as_deref());
    if let Some(run) = &arguments.run {
        let run = find_run(&store, Some(run.as_str())).await?;
        if let Some(name) = workspace.take() {
            let tasks = run::tasks_of(&store.app.db, &store.permit.to_read(), &run.id).await?;
            filter.task = Some(task_named(&run.id, name, &tasks)?.clone());
        }
        filter.run = Some(run.id);
    }
    filter.agent = arguments.agent.as_deref().map(Into::into);
    filter.kinds.clone_from(&arguments.kind);
    let permit = store.permit.to_read().within(workspace, None).map_err(|invalid| Usage::of(invalid.to_string()))?;
    let mut follower = store.app.follow(&permit, filter, arguments.after.unwrap_or(0));
    if arguments.follow && arguments.after.is_none() {
        follower.skip_to_end().await?;
    }
    while let Some(news) = next(&mut follower, arguments.follow).await? {
        match news {
            News::Reset { first, last } => tell_reset(first, last),
            News::Events(events) => {
                let json =
                    |event: &skep_core::event::Event| to_json(event, event.task.as_ref().map(|task| task.0.as_str()));
                print(&events.iter().map(|event| shown(&json(event), arguments.json)).collect::<String>())?;
            }
        }
    }
    store.app.db.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn next(follower: &mut EventFollower, is_live: bool) -> anyhow::Result<Option<News>> {
    Ok(if is_live { Some(follower.next().await?) } else { follower.look().await? })
}

async fn of_hub(settings: &Settings, url: &str, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let hub = remote::client(settings, Some(url))?;
    let Arguments { follow, task, run, agent, kind, after, json, .. } = arguments;
    let mut query: Vec<(&str, String)> = Vec::new();
    for (name, value) in [("task", task), ("run", run), ("agent", agent)] {
        query.extend(value.clone().map(|value| (name, value)));
    }
    if !kind.is_empty() {
        query.push(("kind", kind.join(",")));
    }
    if *follow { follow_hub(&hub, &query, *after, *json).await } else { page_hub(&hub, &query, *after, *json).await }
}

/// Show what there is.
async fn page_hub(hub: &Hubs, query: &[(&str, String)], after: Option<i64>, is_json: bool) -> anyhow::Result<ExitCode> {
    let mut after = after.unwrap_or(0);
    loop {
        let more = [("after", after.to_string()), ("limit", PAGE.to_string())];
        let page = hub.show_events(&[query, &more].concat()).await?;
        if let Some(reset) = page.get("reset") {
            tell_reset(reset["first"].as_i64().unwrap_or(0), reset["last"].as_i64().unwrap_or(0));
        }
        let events = page.get("events").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if events.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        print(&events.iter().map(|event| shown(&event.to_string(), is_json)).collect::<String>())?;
        after = page.get("next").and_then(Value::as_i64).context("the hub does not say where its events go on")?;
    }
}

/// Show what happens. A stream that ends is opened again where it ended.
async fn follow_hub(
    hub: &Hubs,
    query: &[(&str, String)],
    mut last: Option<i64>,
    is_json: bool,
) -> anyhow::Result<ExitCode> {
    let mut give_up: Option<Instant> = None;
    loop {
        let ended = match hub.follow_events(query, last).await {
            Ok(mut stream) => {
                give_up = None;
                let ended = loop {
                    match stream.next().await {
                        Ok(Some(event)) => match event.name.as_str() {
                            "reset" => {
                                let reset: Value = serde_json::from_str(&event.data).unwrap_or_default();
                                tell_reset(reset["first"].as_i64().unwrap_or(0), reset["last"].as_i64().unwrap_or(0));
                            }
                            "error" => {
                                let problem: Value = serde_json::from_str(&event.data).unwrap_or_default();
                                say!("skep: {}", problem["detail"].as_str().unwrap_or("the hub has failed"));
                            }
                            _ => print(&shown(&event.data, is_json))?,
                        },
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                };
                last = stream.last;
                ended
            }
            Err(error @ (ShowError::Unreachable { .. } | ShowError::Stopping { .. })) if last.is_some() => Some(error),
            Err(error) => return Err(error.into()),
        };
        let until = *give_up.get_or_insert_with(|| {
            let why = ended.as_ref().map_or("the stream has ended".to_owned(), ToString::to_string);
            say!("skep: {why}; trying again");
            Instant::now() + RECONNECT_TIME_MAX
        });
        if Instant::now() >= until {
            say!("skep: the hub has not come back; `--after {}` goes on from here", last.unwrap_or(0));
            return Ok(ExitCode::from(FAILED));
        }
        sleep(RECONNECT_AFTER).await;
    }
}

fn tell_reset(first: i64, last: i64) {
    say!("skep: events before number {first} are not kept any more; the last is {last}");
}

/// An event as a line, for programs or for people: its number, when, who, what, about what, and what else is known.
fn shown(json: &str, is_json: bool) -> String {
    if is_json {
        return format!("{json}\n");
    }
    let event: Value = serde_json::from_str(json).unwrap_or_default();
    let says = |value: &Value| line(value.as_str().unwrap_or_default()).into_owned();
    let at: jiff::Timestamp = event["at"].as_str().and_then(|at| at.parse().ok()).unwrap_or_default();
    let at = time_of_day(skep_core::Timestamp(at.as_microsecond()));
    let who = match (says(&event["actor"]["principal"]), says(&event["actor"]["agent"])) {
        (principal, agent) if agent.is_empty() => principal,
        (principal, agent) => format!("{principal}/{agent}"),
    };
    let about = [&event["task"], &event["run"]].into_iter().find(|name| name.is_string()).map(says).unwrap_or_default();
    let data = short_line(&event["data"].to_string(), DATA_CHARS_MAX);
    let (number, kind) = (event["number"].as_i64().unwrap_or(0), says(&event["kind"]));
    let text = format!("{number:>8}  {at}  {who:16}  {kind:20}  {about} {data}");
    format!("{}\n", text.trim_end())
}
