//! `execute_mcp_tool`: a call of a tool of an MCP server.

use std::time::Duration;

use serde_json::{Map, Value};
use skep_tools::{
    error::ToolError,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use crate::hub::upstreams::{Upstreams, tool};

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct ExecuteMcpTool {
    pub(super) upstreams: Upstreams,
}

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct Arguments {
    /// The server that has the tool.
    #[garde(length(chars, min = 1, max = 64))]
    server_name: String,
    /// The tool's name there.
    #[garde(length(chars, min = 1, max = 256))]
    tool_name: String,
    /// Its arguments.
    #[serde(default)]
    arguments: Map<String, Value>,
}

/// The members of the tool's result, and `text` for what is text in it.
#[derive(serde::Serialize, schemars::JsonSchema)]
#[serde(transparent)]
pub(super) struct Answer(Map<String, Value>);

impl BuiltIn for ExecuteMcpTool {
    const NAME: &'static str = "execute_mcp_tool";
    const DESCRIPTION: &'static str = "Call a tool of a connected MCP server. get_available_mcp_tools lists them with \
        the JSON Schemas of their arguments.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: true, idempotent_hint: false, open_world_hint: true };
    /// As long as a call of an MCP server may be silent.
    const DEADLINE: Duration = Duration::from_secs(120);
    const RUNS_OTHERS: bool = true;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { server_name, tool_name, arguments } = arguments;
        let server = self.upstreams.server(&server_name).map_err(|error| tool::failed(&tool_name, error))?;
        tool::call(&server, &tool_name, &Value::Object(arguments), context).await.map(Answer)
    }
}
