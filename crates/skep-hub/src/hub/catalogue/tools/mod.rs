//! The tools that are about MCP servers: find a server's tools, and call them. One file each: arguments, answer, handler.

mod execute_mcp_tool;
mod get_available_mcp_tools;
mod search_tools;

use crate::hub::upstreams::Upstreams;
use skep_tools::tool::Tool;

/// Those that there are for these servers: none if there are no servers, except for the search, if it is wanted.
pub(crate) fn for_servers(upstreams: &Upstreams, with_search: bool) -> Vec<Tool> {
    let mut tools = Vec::new();
    if with_search {
        tools.push(Tool::new(search_tools::SearchTools { upstreams: upstreams.clone() }));
    }
    if !upstreams.is_empty() {
        tools.push(Tool::new(get_available_mcp_tools::GetAvailableMcpTools { upstreams: upstreams.clone() }));
        tools.push(Tool::new(execute_mcp_tool::ExecuteMcpTool { upstreams: upstreams.clone() }));
    }
    tools
}
