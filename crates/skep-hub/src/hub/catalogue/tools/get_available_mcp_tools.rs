//! `get_available_mcp_tools`: what the MCP servers behind this hub can do.

use std::time::Duration;

use serde_json::Value;
use skep_mcp::gateway::LIST_TIME_MAX;
use skep_tools::{
    error::ToolError,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::super::listing::{Listed, listed_tools};
use crate::hub::upstreams::Upstreams;

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct GetAvailableMcpTools {
    pub(super) upstreams: Upstreams,
}

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct Arguments {
    /// Only the tools of this server.
    #[garde(length(chars, min = 1, max = 64))]
    server_name: Option<String>,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
pub(super) struct Answer {
    /// The tools.
    tools: Vec<McpTool>,
    /// Why the tools of some servers are missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unavailable: Vec<String>,
    /// Servers that are still starting: ask again for their tools, or for one of them by its name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    starting: Vec<String>,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct McpTool {
    /// The server that has it.
    server_name: String,
    /// Its name there.
    tool_name: String,
    /// What it does.
    description: String,
    /// JSON Schema of its arguments.
    input_schema: Value,
}

impl BuiltIn for GetAvailableMcpTools {
    const NAME: &'static str = "get_available_mcp_tools";
    const DESCRIPTION: &'static str = "List the tools of the connected MCP servers: server, name, description and \
        JSON Schema of the arguments. Call one with execute_mcp_tool, or by the name SERVER__TOOL.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    /// Servers may have to be started, and their programs fetched.
    const DEADLINE: Duration = Duration::from_secs(120);
    const RUNS_OTHERS: bool = true;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        // Who is asked for by name holds nobody else up.
        let time_max = if arguments.server_name.is_some() { context.time_left() } else { LIST_TIME_MAX };
        let names = match arguments.server_name {
            Some(name) if self.upstreams.has(&name) => vec![name],
            Some(name) => {
                let known = self.upstreams.names().join(", ");
                return Err(ToolError::argument(
                    "server_name",
                    format!("there is no MCP server {name:?}; there are: {known}"),
                ));
            }
            None => self.upstreams.names(),
        };
        let Listed { tools, unavailable, starting } = listed_tools(&self.upstreams, &names, time_max).await;
        let tool = |(server, tool): (String, Value)| McpTool {
            server_name: server,
            tool_name: tool["name"].as_str().unwrap_or_default().to_owned(),
            description: tool["description"].as_str().unwrap_or_default().to_owned(),
            input_schema: tool["inputSchema"].clone(),
        };
        Ok(Answer { tools: tools.into_iter().map(tool).collect(), unavailable, starting })
    }
}
