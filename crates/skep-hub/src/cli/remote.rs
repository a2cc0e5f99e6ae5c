//! Commands that ask a hub that runs: how it is reached, and `--hub URL` of `skep tools`, `skep call` and `skep servers`.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};
use skep_tools::tool::{Annotations, Call};
use tokio::task::JoinSet;

use super::{
    Common, FAILED, INTERRUPTED, print, stop_on_signal,
    tools::{Arguments, CallArguments, described, in_list, members, show},
};
use crate::{
    config::{Overrides, Settings, read_token},
    remote::Hubs,
    running::RunningHub,
    terminal::{line, say},
};

/// A client of the hub at this address, or else of the one that runs with this state directory.
pub(super) fn client(settings: &Settings, address: Option<&str>) -> anyhow::Result<Hubs> {
    let token = || anyhow::Ok(settings.token()?.map(|token| token.reveal().to_owned()));
    if let Some(address) = address {
        return Ok(Hubs::new([address], token()?)?);
    }
    let running = RunningHub::find(&settings.home);
    let running = running.context("no hub runs here; start one with `skep serve`, or name one with --hub")?;
    // Only its own user gets through its socket, so no token is needed there, nor a certificate that fits.
    if let Some(socket) = &running.unix {
        return Ok(Hubs::new([format!("unix:{}", socket.display())], None)?);
    }
    let address = running.url().context("the hub that runs here takes no HTTP")?;
    let token = match (token()?, &running.token_file) {
        (None, Some(file)) => Some(read_token(file).map_err(anyhow::Error::msg)?.reveal().to_owned()),
        (token, _) => token,
    };
    Ok(Hubs::new([address], token)?)
}

fn connect(common: Common, address: &str) -> anyhow::Result<Hubs> {
    client(&common.settings(Overrides::default())?, Some(address))
}

/// Its tools, or one of them.
pub(super) async fn tools(common: Common, url: &str, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let hub = connect(common, url)?;
    if let Some(name) = &arguments.tool {
        let tool = Value::Object(hub.show(&["tools", name]).await?);
        print(&described(&tool, arguments.json, arguments.schema))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut answer = hub.show(&["tools"]).await?;
    let mut list = |member: &str| match answer.remove(member) {
        Some(Value::Array(elements)) => elements,
        _ => Vec::new(),
    };
    let (tools, unavailable, starting) = (list("tools"), list("unavailable"), list("starting"));
    print(&match arguments.json {
        true => format!("{:#}\n", Value::Array(tools)),
        false => tools.iter().map(in_list).collect(),
    })?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    unavailable.iter().for_each(|reason| say!("skep: {}", line(&text(reason))));
    starting
        .iter()
        .for_each(|server| say!("skep: {} is still starting, so its tools are missing", line(&text(server))));
    let is_whole = unavailable.is_empty() && starting.is_empty();
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Call a tool there.
pub(super) async fn call(common: Common, url: &str, arguments: &CallArguments) -> anyhow::Result<ExitCode> {
    let hub = connect(common, url)?;
    let name = arguments.tool.clone().unwrap_or_default();
    let tool = hub.show(&["tools", &name]).await?;
    let members = members(arguments, &tool["inputSchema"])?;
    let deadline = arguments.timeout.map(|timeout| timeout.0);
    let call = Call { tool: name.clone(), arguments: Value::Object(members), deadline };
    let mut signals = JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let Some(called) = stop.run_until_cancelled(hub.call(&call, Annotations::default())).await else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    match called?.result {
        Ok(answer) => show(&answer.to_json(), true, arguments.json),
        Err(error) => show(&error.to_json(), false, arguments.json),
    }
}

/// How its MCP servers do. Nothing is started for it.
pub(super) async fn servers(common: Common, url: &str, name: Option<&str>, as_json: bool) -> anyhow::Result<ExitCode> {
    let hub = connect(common, url)?;
    let servers = match name {
        Some(name) => vec![Value::Object(hub.show(&["servers", name]).await?)],
        None => match hub.show(&["servers"]).await?.remove("servers") {
            Some(Value::Array(servers)) => servers,
            _ => anyhow::bail!("the hub {url} did not list its servers"),
        },
    };
    let text = match as_json {
        true => format!("{:#}\n", json!(servers)),
        false if servers.is_empty() => "this hub has no MCP servers\n".to_owned(),
        false => servers.iter().map(as_text).collect(),
    };
    print(&text)?;
    Ok(if servers.iter().all(is_well) { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Whether calls of it are taken; one that is stopped is started by the next call.
fn is_well(server: &Value) -> bool {
    matches!(server["state"].as_str(), Some("running" | "stopped" | "starting"))
}

fn as_text(server: &Value) -> String {
    let says = |member: &str| line(server[member].as_str().unwrap_or_default()).into_owned();
    let sign = match says("state").as_str() {
        "running" => "✓",
        _ if is_well(server) => "·",
        _ => "✗",
    };
    let why = match says("last_error") {
        why if why.is_empty() || is_well(server) => String::new(),
        why => format!("  {why}"),
    };
    format!("{sign} {:24} {}{why}\n", says("name"), says("state"))
}
