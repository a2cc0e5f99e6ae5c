//! `skep tools` and `skep call`.

use std::{io::Read as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value};

use super::{Common, FAILED, print, stop_on_signal};
use crate::{
    catalogue::{Call, Tool},
    config::Overrides,
    hive,
    workspace::{Context, Dir, OUTPUTS, Outputs},
};

/// List the tools, or describe one
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this one, with its schemas
    #[arg(value_name = "TOOL")]
    tool: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Call one tool and print its answer as JSON; the exit code is 0 only if its status is "ok"
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep call bash --arg command='ls | wc -l'
  skep call search --args '{\"query\": \"TODO\", \"limit\": 5}'")]
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
}

pub(super) fn tools(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides::default())?;
    let here = hive::workspace(&settings.workspace)?;
    let (catalogue, _) = hive::catalogue(&settings, &here, &here);
    if let Some(name) = &arguments.tool {
        print(&format!("{:#}\n", catalogue.get(name)?.to_json()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let text: String = match arguments.json {
        true => format!("{:#}\n", catalogue.tools().map(Tool::to_json).collect::<Value>()),
        false => {
            catalogue.tools().map(|tool| format!("{:24} {}\n", tool.name, first_sentence(tool.description))).collect()
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn first_sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.')
}

pub(super) async fn call(common: Common, arguments: CallArguments) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides { workspace: arguments.workspace.clone(), ..Overrides::default() })?;
    let workspace = hive::workspace(&settings.workspace)?;
    let outputs = Dir::create(&settings.home.join(OUTPUTS)).context("cannot make the directory for outputs")?;
    let (catalogue, _) = hive::catalogue(&settings, &workspace, &outputs);
    let schema = catalogue.get(&arguments.tool)?.input_schema();
    let call = Call {
        tool: arguments.tool.clone(),
        arguments: Value::Object(members(&arguments, schema)?),
        deadline: arguments.timeout.map(Duration::try_from_secs_f64).transpose().context("--timeout")?,
    };
    let mut signals = tokio::task::JoinSet::new();
    let context = Context::new(workspace, Outputs::new(outputs, ""), stop_on_signal(&mut signals)?);
    let (answer, code) = match catalogue.call(call, context).await {
        Ok(answer) => (answer.to_json(), ExitCode::SUCCESS),
        Err(error) => (error.to_json(), ExitCode::from(FAILED)),
    };
    print(&format!("{answer:#}\n"))?;
    Ok(code)
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
