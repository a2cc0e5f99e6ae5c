//! What the commands have in common that work on what agents share: a call of a tool, at a hub or on the store.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};
use skep_tools::{
    error::ToolError,
    tool::{Annotations, Answer, Call},
    workspace::{Context, Outputs},
};

use super::{Common, Usage, remote, stop_on_signal};
use crate::{
    config::Overrides,
    hub::{self, Callers, Hub, Store, principals::local},
    remote::Hubs,
    running::RunningHub,
};

/// Where, and whose.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The task or swarm whose it is [default: the team's own]
    #[arg(long, short, value_name = "TASK", global = true, visible_alias = "swarm")]
    task: Option<String>,
    /// Act as this agent
    #[arg(long, value_name = "AGENT", global = true)]
    agent: Option<String>,
    /// Ask this hub [default: the one that runs here; without one, the database is opened]
    #[arg(long, value_name = "URL", global = true)]
    hub: Option<String>,
}

impl Place {
    /// The workspace of a task, at this hub or where the store is.
    pub(super) fn of_task(task: String, hub: Option<String>) -> Place {
        Place { task: Some(task), agent: None, hub }
    }

    /// Whether it is an agent of the caller's that acts.
    pub(super) fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    /// Files, claims and steps are a task's, not the team's.
    pub(super) fn needs_task(&self) -> anyhow::Result<()> {
        match self.task {
            Some(_) => Ok(()),
            None => Err(Usage::of("--task says of which task: files, claims and steps are a task's").into()),
        }
    }
}

/// Call one of the hub's own tools there. Members of the arguments that are null are left out.
pub(super) async fn call(
    common: Common,
    place: &Place,
    tool: &str,
    arguments: Value,
) -> anyhow::Result<Result<Answer, ToolError>> {
    call_within(common, place, tool, arguments, None).await
}

/// The same with more time than most calls have.
pub(super) async fn call_within(
    common: Common,
    place: &Place,
    tool: &str,
    arguments: Value,
    deadline: Option<Duration>,
) -> anyhow::Result<Result<Answer, ToolError>> {
    let mut members: Map<String, Value> = match arguments {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let names = [("task_id", &place.task), ("agent_id", &place.agent)];
    members.extend(names.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?.into()))));
    members.retain(|name, value| !value.is_null() || name == "value");
    let call = Call { tool: tool.to_owned(), arguments: Value::Object(members), deadline };
    let settings = common.settings(Overrides::default())?;
    if place.hub.is_some() || RunningHub::find(&settings.home).is_some() {
        return at(&remote::client(&settings, place.hub.as_deref())?, call).await;
    }
    let workspace = hub::workspace(&settings, &settings.workspace)?;
    let store = Store::open(settings).await?;
    let outputs = hub::outputs(&store.settings)?;
    let hub = Hub::new(&store.settings, Some(store.clone()), Callers::Process, &workspace, &outputs);
    let mut signals = tokio::task::JoinSet::new();
    let context = Context::new(local().permit()?, workspace, Outputs::new(outputs, ""), stop_on_signal(&mut signals)?);
    let answered = hub.calls.values(context, call).await;
    hub.close().await;
    store.app.db.close().await;
    Ok(answered)
}

async fn at(hub: &Hubs, call: Call) -> anyhow::Result<Result<Answer, ToolError>> {
    let mut signals = tokio::task::JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    match stop.run_until_cancelled(hub.call(&call, Annotations::default())).await {
        Some(called) => Ok(called?.result),
        None => Ok(Err(ToolError::Cancelled)),
    }
}
