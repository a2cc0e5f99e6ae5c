//! What tools there are, those of MCP servers among them: `server__tool`.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use skep_mcp::gateway::{List, prefixed};
use skep_tools::{
    error::ToolError,
    schema::{nearest_name, shorten, suggest},
    tool::Tool,
};

use super::{Catalogue, NAME_CHARS_SHOWN, Target};
use crate::hub::upstreams::{UpstreamError, Upstreams, tool};

impl Catalogue {
    /// Every tool as `tools/list` shows it, those of servers under their names here, which are started for it.
    pub async fn all(&self, time_max: Duration) -> Listed<Value> {
        let Listed { tools, unavailable, starting } =
            listed_tools(&self.upstreams, &self.upstreams.names(), time_max).await;
        let named = tools.into_iter().filter_map(|(server, tool)| named(&server, tool));
        Listed { tools: self.tools().map(Tool::to_json).chain(named).collect(), unavailable, starting }
    }

    /// One tool, as `tools/list` shows it.
    pub async fn describe(&self, name: &str) -> Result<Value, ToolError> {
        let server = match self.resolve(name)? {
            Target::Own(tool) => return Ok(tool.to_json()),
            Target::Upstream { server, .. } => server,
        };
        let server = server.name();
        let list = self.upstreams.tools(server).await.map_err(|error| tool::failed(name, error))?;
        let tools: Vec<Value> = values(&list).filter_map(|tool| named(server, tool)).collect();
        let names = || tools.iter().filter_map(|tool| tool["name"].as_str());
        let nearest = || suggest(name, names()).and(nearest_name(name, names())).map(str::to_owned);
        let unknown = || ToolError::Unknown { name: shorten(name, NAME_CHARS_SHOWN), nearest: nearest() };
        tools.iter().find(|tool| tool["name"] == name).cloned().ok_or_else(unknown)
    }
}

/// What servers list, as far as they have.
pub struct Listed<T> {
    /// Their tools.
    pub tools: Vec<T>,
    /// Why the tools of some servers are missing.
    pub unavailable: Vec<String>,
    /// The servers whose tools are missing only for now: they have not listed them yet.
    pub starting: Vec<String>,
}

/// The tools of these servers, each as its server wrote it. Starts the servers; one that has not listed its tools within this
/// time goes on starting, and holds nobody up.
pub(crate) async fn listed_tools(
    upstreams: &Upstreams,
    servers: &[String],
    time_max: Duration,
) -> Listed<(String, Value)> {
    let mut all = Listed { tools: Vec::new(), unavailable: Vec::new(), starting: Vec::new() };
    let listing = servers.iter().map(|server| upstreams.tools_within(server, time_max));
    for (server, listed) in servers.iter().zip(join_all(listing).await) {
        match listed {
            Ok(list) => all.tools.extend(values(&list).map(|tool| (server.clone(), tool))),
            Err(UpstreamError::Unlisted { .. }) => all.starting.push(server.clone()),
            Err(error) => all.unavailable.push(error.to_string()),
        }
    }
    all
}

/// What is listed, taken apart.
fn values(list: &List) -> impl Iterator<Item = Value> {
    list.items().filter_map(|(_, item)| serde_json::to_value(item).ok())
}

/// A tool under its name here; all else as the server wrote it. `None` if that name is too long to be shown anywhere.
fn named(server: &str, mut tool: Value) -> Option<Value> {
    tool["name"] = prefixed(server, tool["name"].as_str()?)?.into();
    Some(tool)
}
