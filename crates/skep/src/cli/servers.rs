//! `skep servers`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Common, FAILED, print};
use crate::{
    config::Overrides,
    upstreams::{Status, UpstreamError, Upstreams},
};

/// Start each configured MCP server, and tell how it does: whether it answers, what it speaks, how many tools it has
///
/// The servers are those of skep.toml and --mcp-config. The exit code is 0 only if all of them answer. How the servers of a
/// running hub do is at GET /servers.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this one
    #[arg(value_name = "SERVER")]
    server: Option<String>,
    /// File that lists MCP servers, as Claude Desktop, Cursor and VS Code write it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn servers(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { server, mcp_config, json } = arguments;
    let settings = common.settings(Overrides { mcp_config, ..Overrides::default() })?;
    let upstreams = Upstreams::new(settings.upstreams);
    let names = match server {
        Some(name) => {
            upstreams.call_options(&name)?; // it exists
            vec![name]
        }
        None => upstreams.names(),
    };
    if names.is_empty() && !json {
        print(
            "no MCP server is configured; name some under [mcpServers] in skep.toml, or in a file for --mcp-config\n",
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    if !json {
        eprintln!("starting {}", names.join(", "));
    }
    let tools = join_all(names.iter().map(|name| upstreams.tools(name))).await;
    let tools: Vec<Result<usize, UpstreamError>> = tools.into_iter().map(|list| Ok(list?.items().len())).collect();
    let statuses = upstreams.servers();
    upstreams.close().await;
    let status = |name: &String| statuses.iter().find(|status| status.name == *name);
    let found: Vec<_> = names.iter().zip(&tools).filter_map(|(name, tools)| Some((status(name)?, tools))).collect();
    let text = match json {
        true => format!("{:#}\n", found.iter().map(|(status, tools)| as_json(status, tools)).collect::<Value>()),
        false => found.iter().map(|(status, tools)| as_text(status, tools)).collect(),
    };
    print(&text)?;
    let all_answer = tools.iter().all(Result::is_ok);
    Ok(if all_answer { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn as_json(status: &Status, tools: &Result<usize, UpstreamError>) -> Value {
    let mut json = status.to_json();
    match tools {
        Ok(count) => json["tools"] = json!(count),
        Err(error) => json["error"] = error.to_string().into(),
    }
    json
}

fn as_text(status: &Status, tools: &Result<usize, UpstreamError>) -> String {
    let name = &status.name;
    match (tools, &status.info) {
        (Ok(count), Some(info)) => {
            let server = info.server.as_ref();
            let says = |member: &str| server.and_then(|server| server[member].as_str()).unwrap_or_default().to_owned();
            let tools = if *count == 1 { "1 tool".to_owned() } else { format!("{count} tools") };
            format!("✓ {name:24} {tools:10} {}  {} {}\n", info.revision.as_str(), says("name"), says("version"))
        }
        (Ok(count), None) => format!("✓ {name:24} {count} tools\n"),
        (Err(error), _) => {
            let last: String = status.stderr.iter().map(|line| format!("    {line}\n")).collect();
            format!("✗ {name:24} {error}\n{last}")
        }
    }
}
