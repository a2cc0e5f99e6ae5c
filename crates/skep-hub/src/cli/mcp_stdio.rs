//! `skep mcp-stdio`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Common, servers::tell_unusable, shared::Local, stop_on_signal};
use crate::{
    config::Overrides,
    hub::{self, Callers, Hub, Store},
    server::{Options, Parts, mcp},
};

/// Serve the tools to one MCP client on standard input and output
///
/// For clients that spawn their servers: name `skep` as the command and `mcp-stdio` as its argument. The log goes to
/// standard error.
#[derive(Debug, Args)]
#[command(after_help = "Example, for Claude Desktop, Cursor or VS Code:
  {\"mcpServers\": {\"skep\": {\"command\": \"skep\", \"args\": [\"mcp-stdio\"]}}}")]
pub(super) struct Arguments {
    /// Directory whose files the tools may read [default: the current directory]
    #[arg(long, short = 'C', value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// File that lists MCP servers to be served along, as Claude Desktop, Cursor and VS Code write it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    /// Leave the names of the one MCP server's tools as they are, and serve nothing else
    #[arg(long)]
    no_prefix: bool,
    #[command(flatten)]
    local: Local,
}

pub(super) async fn serve(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { workspace, mcp_config, no_prefix, local } = arguments;
    let mut settings = common.settings(Overrides { workspace, mcp_config, ..Overrides::default() })?;
    local.apply(None, &mut settings)?;
    let store = Store::open(settings).await?;
    let settings = &store.settings;
    let workspace = hub::workspace(settings, &settings.workspace)?;
    let outputs = hub::outputs(settings)?;
    let searches_tools = settings.tools.search;
    let hub = Hub::new(settings, Some(store.clone()), Callers::Others, &workspace, &outputs);
    tell_unusable(&settings.upstreams);
    let shared = Some((store.app.clone(), store.permit.clone()));
    let name = hub::name(store.home.path(), false);
    let parts = Parts { name, calls: hub.calls, store: shared, probes: Vec::new() };
    let mut signals = tokio::task::JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
    let options = Options { prefix: !no_prefix, searches_tools, ..Options::default() };
    let served = mcp::serve_lines(options, parts, input, output, stop.clone()).await;
    store.app.db.close().await;
    served?;
    if stop.is_cancelled() {
        // A thread still waits for input, and the runtime would wait for it. Sandboxes die with this process.
        std::process::exit(0);
    }
    Ok(ExitCode::SUCCESS)
}
