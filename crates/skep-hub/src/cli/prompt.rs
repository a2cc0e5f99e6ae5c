//! `skep prompt`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::Value;
use skep_mcp::gateway::SEPARATOR;
use skep_tools::error::ToolError;

use super::{
    Common, FAILED, print,
    tools::{Wait, tell_missing},
};
use crate::{
    config::Overrides,
    hub::{self, Callers, Hub, catalogue::Catalogue},
    terminal,
};

/// Print the section of a system prompt that tells a model which tools there are and how to ask for one
///
/// For models without tool calling of their own. What such a model writes goes into `skep call --use-mcp-tool -`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only the tools of these MCP servers; `skep` stands for its own tools
    #[arg(value_name = "SERVER")]
    servers: Vec<String>,
    /// File that lists MCP servers, as Claude Desktop, Cursor and VS Code write it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    #[command(flatten)]
    wait: Wait,
}

/// The server that stands for Skep's own tools.
pub(super) const OWN: &str = "skep";

const HEAD: &str = "\
# Tools

You can use the tools below. To use one, write a block of exactly this form, and then stop and wait for its result:

<use_mcp_tool>
<server_name>the server's name</server_name>
<tool_name>the tool's name</tool_name>
<arguments>{\"argument\": \"value\"}</arguments>
</use_mcp_tool>

The arguments are one JSON object that fits the tool's JSON Schema. Use one tool at a time.
";

pub(super) async fn prompt(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { servers, mcp_config, wait } = arguments;
    let settings = common.settings(Overrides { mcp_config, ..Overrides::default() })?;
    let here = hub::workspace(&settings, &settings.workspace)?;
    let hub = Hub::new(&settings, None, Callers::Process, &here, &here);
    let catalogue = hub.catalogue();
    for server in servers.iter().filter(|server| *server != OWN) {
        catalogue.upstreams().server(server)?; // it exists
    }
    let listed = catalogue.all(wait.wait.0).await;
    let mut text = HEAD.to_owned();
    let mut last = None;
    for tool in &listed.tools {
        let name = tool["name"].as_str().unwrap_or_default();
        let (server, inner) = catalogue.split(name).unwrap_or((OWN, name));
        if !servers.is_empty() && !servers.iter().any(|wanted| wanted == server) {
            continue;
        }
        if last.replace(server) != Some(server) {
            text += &format!("\n## Server: {server}\n");
        }
        text += &section(inner, tool);
    }
    hub.close().await;
    print(&text)?;
    Ok(if tell_missing(&listed) { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn section(name: &str, tool: &Value) -> String {
    let (name, description) = (terminal::line(name), tool["description"].as_str().unwrap_or_default().trim());
    format!("\n### {name}\n{}Arguments: {}\n", without_headings(description), tool["inputSchema"])
}

/// A server's text must not begin a section of the prompt, such as another server's: its headings become plain text.
fn without_headings(text: &str) -> String {
    let text = terminal::block(text);
    let plain = |line: &str| match line.trim_start().starts_with('#') {
        true => format!("\\{}\n", line.trim_start()),
        false => format!("{line}\n"),
    };
    text.split('\n').map(plain).collect()
}

/// The name in the catalogue of a tool that a model asked for. A name is taken apart in one way only, so what is put
/// together here must be the server and the tool that were meant: `a__b` and `c` are not the tool `b__c` of `a`.
pub(super) fn name_of(catalogue: &Catalogue, server: &str, tool: &str) -> Result<String, ToolError> {
    let is_own = matches!(server, "" | OWN);
    let name = if is_own { tool.to_owned() } else { format!("{server}{SEPARATOR}{tool}") };
    match catalogue.split(&name) {
        None if is_own => Ok(name),
        Some(found) if !is_own && found == (server, tool) => Ok(name),
        _ => Err(ToolError::argument("server_name", format!("there is no server {server:?} with a tool {tool:?}"))),
    }
}
