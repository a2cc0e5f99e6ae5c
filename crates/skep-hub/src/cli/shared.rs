//! What the commands have in common that work on what agents share: a call of a tool, at a hub or on the store.

use std::{process::ExitCode, sync::Once, time::Duration};

use clap::Args;
use serde_json::{Map, Value};
use skep_tools::{
    error::ToolError,
    tool::{Annotations, Answer, Call},
    workspace::{Context, Outputs},
};
use tokio::task::JoinSet;

use super::{Common, FAILED, Usage, remote, say, stop_on_signal, tools::show};
use crate::{
    config::{Overrides, Settings},
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
    #[command(flatten)]
    local: Local,
}

/// Whether a command does without a hub.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Local {
    /// Work without a hub, on the database in the state directory; `skep sync` brings that to a hub [default with USE_MCP=false]
    #[arg(long, global = true)]
    local: bool,
}

impl Local {
    /// Whether the command line says so.
    pub(super) fn is_set(self) -> bool {
        self.local
    }

    /// Have a command do without a hub and without a database that hubs share, if that is wanted, and say so. Whether it is: a
    /// hub that is named counts more than the environment.
    pub(super) fn apply(self, hub: Option<&str>, settings: &mut Settings) -> anyhow::Result<bool> {
        static SAID: Once = Once::new();
        if self.local && hub.is_some() {
            return Err(Usage::of("--local does without the hub that --hub names; give one of them").into());
        }
        if !self.local && (hub.is_some() || !is_without_hub(|name| std::env::var(name).ok())) {
            return Ok(false);
        }
        use_embedded(settings);
        let home = settings.home.display();
        SAID.call_once(|| say!("skep: local: without a hub, on the database in {home}; `skep sync` brings it to one"));
        Ok(true)
    }
}

/// The variable of contract S1 that says whether agents use the hub.
const USE_HUB: &str = "USE_MCP";

fn is_without_hub(variable: impl Fn(&str) -> Option<String>) -> bool {
    variable(USE_HUB)
        .is_some_and(|value| matches!(value.trim().to_ascii_lowercase().as_str(), "false" | "0" | "no" | "off"))
}

/// Have the settings name nothing but the embedded database.
pub(super) fn use_embedded(settings: &mut Settings) {
    (settings.database, settings.redis) = (None, None);
    settings.hubs.clear();
}

/// The member of an answer in JSON that says that no hub was asked.
pub(super) const LOCAL: &str = "local";

impl Place {
    /// The workspace of a task, at this hub or where the store is.
    pub(super) fn of_task(task: String, hub: Option<String>, local: Local) -> Place {
        Place { task: Some(task), agent: None, hub, local }
    }

    /// The team's own at this hub or where the store is, as this agent.
    pub(super) fn of_team(agent: Option<String>, hub: Option<String>) -> Place {
        Place { task: None, agent, hub, local: Local::default() }
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
    let mut settings = common.settings(Overrides::default())?;
    let is_local = place.local.apply(place.hub.as_deref(), &mut settings)?;
    if !is_local && (place.hub.is_some() || RunningHub::find(&settings.home).is_some()) {
        return at(&remote::client(&settings, place.hub.as_deref())?, call).await;
    }
    let store = Store::open(settings).await?;
    let (here, context) = Here::open(&store.settings, Some(store.clone()))?;
    let mut answered = here.hub.calls.values(context, call).await;
    here.close().await;
    if let Ok(answer) = &mut answered
        && is_local
    {
        answer.value.insert(LOCAL.to_owned(), true.into());
    }
    Ok(answered)
}

/// The hub of a command that calls tools itself.
pub(super) struct Here {
    pub(super) hub: Hub,
    /// Waits for the signal that cancels the calls.
    _signals: JoinSet<()>,
}

impl Here {
    /// Put it together, with what its calls see.
    pub(super) fn open(settings: &Settings, store: Option<Store>) -> anyhow::Result<(Here, Context)> {
        let workspace = hub::workspace(settings, &settings.workspace)?;
        let outputs = hub::outputs(settings)?;
        let hub = Hub::new(settings, store, Callers::Process, &workspace, &outputs);
        let mut signals = JoinSet::new();
        let stop = stop_on_signal(&mut signals)?;
        let context = Context::new(local().permit()?, workspace, Outputs::new(outputs, ""), stop);
        Ok((Here { hub, _signals: signals }, context))
    }

    /// End its MCP servers, and close its store.
    pub(super) async fn close(self) {
        self.hub.close().await;
        if let Some(store) = self.hub.store {
            store.app.db.close().await;
        }
    }
}

/// Say why a tool did nothing. The exit code is that of a command that has failed.
pub(super) fn refused(error: &ToolError, is_json: bool) -> anyhow::Result<ExitCode> {
    if is_json {
        return show(&error.to_json(), false, true);
    }
    say!("skep: {error}");
    Ok(ExitCode::from(FAILED))
}

async fn at(hub: &Hubs, call: Call) -> anyhow::Result<Result<Answer, ToolError>> {
    let mut signals = tokio::task::JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    match stop.run_until_cancelled(hub.call(&call, Annotations::default())).await {
        Some(called) => Ok(called?.result),
        None => Ok(Err(ToolError::Cancelled)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_whether_there_is_a_hub_to_use() {
        let is_without =
            |value: Option<&str>| is_without_hub(|name| value.filter(|_| name == "USE_MCP").map(str::to_owned));
        for (value, expected) in
            [(None, false), (Some("true"), false), (Some("1"), false), (Some(""), false), (Some("false"), true)]
        {
            assert_eq!(is_without(value), expected, "{value:?}");
        }
        assert!(["False", " false ", "0", "no", "off"].into_iter().all(|value| is_without(Some(value))));
    }
}
