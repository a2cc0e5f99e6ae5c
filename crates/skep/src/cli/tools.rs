//! `skep tools` and `skep call`.

use std::{io::Read as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value};

use super::{Common, FAILED, print, stop_on_signal};
use crate::{
    catalogue::{Answer, Call, Catalogue, ToolError},
    config::Overrides,
    hive,
    workspace::{Context, Dir, OUTPUTS, Outputs},
};

/// List the tools, or describe one
///
/// Those of MCP servers, which are started for it, are called SERVER__TOOL.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this one, with its schemas
    #[arg(value_name = "TOOL")]
    tool: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// File that lists MCP servers, as Claude Desktop, Cursor and VS Code write it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
}

/// Call one tool and print its answer as JSON; the exit code is 0 only if its status is "ok"
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep call bash --arg command='ls | wc -l'
  skep call search --args '{\"query\": \"TODO\", \"limit\": 5}'
  skep call --mcp-config mcp.json time__get_current_time --arg timezone=Europe/Berlin")]
pub(super) struct CallArguments {
    /// Name of the tool
    tool: String,
    /// One argument; the value is taken as JSON where it is JSON and fits, otherwise as text
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// All arguments as a JSON object; `-` reads it from standard input
    #[arg(long = "args", value_name = "JSON")]
    object: Option<String>,
    /// Deadline in seconds [default: the tool's own]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Directory whose files the tools may read [default: the current directory]
    #[arg(long, short = 'C', value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// File that lists MCP servers, as Claude Desktop, Cursor and VS Code write it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
}

pub(super) async fn tools(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { tool, json, mcp_config } = arguments;
    let settings = common.settings(Overrides { mcp_config, ..Overrides::default() })?;
    let here = hive::workspace(&settings.workspace)?;
    let (catalogue, _) = hive::catalogue(&settings, &here, &here);
    let listed = match &tool {
        Some(name) => catalogue.describe(name).await.map(|tool| (format!("{tool:#}\n"), Vec::new())),
        None => {
            let (tools, silent) = catalogue.all(None).await;
            let text = match json {
                true => format!("{:#}\n", Value::Array(tools)),
                false => tools.iter().map(line).collect(),
            };
            Ok((text, silent))
        }
    };
    catalogue.upstreams().close().await;
    let (text, silent) = listed?;
    print(&text)?;
    for reason in &silent {
        eprintln!("skep: {reason}");
    }
    Ok(if silent.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn line(tool: &Value) -> String {
    let says = |member: &str| tool[member].as_str().unwrap_or_default();
    format!("{:24} {}\n", says("name"), first_sentence(says("description")))
}

fn first_sentence(text: &str) -> &str {
    let line = text.trim().lines().next().unwrap_or_default();
    line.split_once(". ").map_or(line, |(first, _)| first).trim_end_matches('.')
}

pub(super) async fn call(common: Common, arguments: CallArguments) -> anyhow::Result<ExitCode> {
    let (workspace, mcp_config) = (arguments.workspace.clone(), arguments.mcp_config.clone());
    let settings = common.settings(Overrides { workspace, mcp_config, ..Overrides::default() })?;
    let workspace = hive::workspace(&settings.workspace)?;
    let outputs = Dir::create(&settings.home.join(OUTPUTS)).context("cannot make the directory for outputs")?;
    let (catalogue, _) = hive::catalogue(&settings, &workspace, &outputs);
    let mut signals = tokio::task::JoinSet::new();
    let context = Context::new(workspace, Outputs::new(outputs, ""), stop_on_signal(&mut signals)?);
    let called = call_one(&catalogue, &arguments, context).await;
    catalogue.upstreams().close().await;
    let (answer, code) = match called? {
        Ok(answer) => (answer.to_json(), ExitCode::SUCCESS),
        Err(error) => (error.to_json(), ExitCode::from(FAILED)),
    };
    print(&format!("{answer:#}\n"))?;
    Ok(code)
}

async fn call_one(
    catalogue: &Catalogue,
    arguments: &CallArguments,
    context: Context,
) -> anyhow::Result<Result<Answer, ToolError>> {
    let tool = catalogue.describe(&arguments.tool).await?;
    let call = Call {
        tool: arguments.tool.clone(),
        arguments: Value::Object(members(arguments, &tool["inputSchema"])?),
        deadline: arguments.timeout.map(Duration::try_from_secs_f64).transpose().context("--timeout")?,
    };
    Ok(catalogue.call(call, context).await)
}

fn members(arguments: &CallArguments, schema: &Value) -> anyhow::Result<Map<String, Value>> {
    let mut members = match arguments.object.as_deref() {
        None => Map::new(),
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            serde_json::from_str(&text).context("standard input is not a JSON object")?
        }
        Some(text) => serde_json::from_str(text).context("--args is not a JSON object")?,
    };
    for argument in &arguments.arguments {
        let (name, text) =
            argument.split_once('=').with_context(|| format!("--arg {argument}: NAME=VALUE is expected"))?;
        // `--arg command=123` means the text "123", because that is what `command` takes.
        let is_text = schema["properties"][name]["type"] == "string";
        let value = serde_json::from_str(text).ok().filter(|value: &Value| !is_text || value.is_string());
        members.insert(name.to_owned(), value.unwrap_or_else(|| text.into()));
    }
    Ok(members)
}
