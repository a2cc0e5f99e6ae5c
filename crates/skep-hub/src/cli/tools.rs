//! `skep tools` and `skep call`.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};
use skep_mcp::gateway::LIST_TIME_MAX;
use skep_tools::{
    document,
    duration::Span,
    error::ToolError,
    parts::SHARING,
    tool::{Answer, Call},
    workspace::Context,
};

use super::{
    Common, FAILED, INTERRUPTED, Usage, print,
    prompt::name_of,
    remote, say,
    shared::{Here, LOCAL, Local},
    tool_page,
};
use crate::{
    config::{Overrides, is_call_time},
    hub::{self, Callers, Hub, Store, calls::Calls, catalogue::Listed},
    terminal::{Screen, ignore_gone, line, short_line},
    use_mcp_tool::{self, Part, Use},
};

/// List the tools, or describe one
///
/// Those of MCP servers, which are started for it, are called SERVER__TOOL.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this one, with its arguments
    #[arg(value_name = "TOOL")]
    pub(super) tool: Option<String>,
    /// Its JSON Schemas instead of a table
    #[arg(long, requires = "tool")]
    pub(super) schema: bool,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
    /// File that lists MCP servers, as Claude Desktop, Cursor and VS Code write it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    /// Ask this hub, which runs, and start nothing here
    #[arg(long, value_name = "URL", conflicts_with_all = ["mcp_config"])]
    hub: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

/// How long servers are waited for that have not listed their tools.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// How long to wait for MCP servers that are still starting, such as 30s or 2m
    #[arg(long, value_name = "TIME", default_value_t = Span(LIST_TIME_MAX))]
    pub(super) wait: Span,
}

/// Say which servers' tools are missing, and why. Whether none is.
pub(super) fn tell_missing<T>(listed: &Listed<T>) -> bool {
    for reason in &listed.unavailable {
        say!("skep: {reason}");
    }
    for server in &listed.starting {
        say!("skep: {server} is still starting, so its tools are missing; --wait 1m waits for it");
    }
    listed.unavailable.is_empty() && listed.starting.is_empty()
}

/// Call one tool and print its answer; the exit code is 0 only if its status is "ok"
///
/// The answer is JSON. Of what a tool of an MCP server answers, only the text is printed, unless --json is given.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep call bash --arg command='ls | wc -l'
  skep call search --args '{\"query\": \"TODO\", \"limit\": 5}'
  skep call --mcp-config mcp.json time__get_current_time --arg timezone=Europe/Berlin")]
pub(super) struct CallArguments {
    /// Name of the tool
    #[arg(required_unless_present = "use_mcp_tool")]
    pub(super) tool: Option<String>,
    /// Call what a model asks for, in order: every <use_mcp_tool> block in this file; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tool", "arguments", "object"])]
    use_mcp_tool: Option<PathBuf>,
    /// One argument; the value is taken as JSON where it is JSON and fits, otherwise as text
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// All arguments as a JSON object; `-` reads it from standard input
    #[arg(long = "args", value_name = "JSON")]
    object: Option<String>,
    /// The whole answer of a tool of an MCP server, as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Deadline, such as 500ms, 30s or 2m; a plain number is seconds [default: the tool's own]
    #[arg(long, value_name = "TIME", value_parser = call_time)]
    pub(super) timeout: Option<Span>,
    /// Directory whose files the tools may read [default: the current directory]
    #[arg(long, short = 'C', value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// File that lists MCP servers, as Claude Desktop, Cursor and VS Code write it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    /// Ask this hub, which runs, and start nothing here
    #[arg(long, value_name = "URL", conflicts_with_all = ["mcp_config", "use_mcp_tool", "workspace"])]
    hub: Option<String>,
    #[command(flatten)]
    local: Local,
}

pub(super) async fn tools(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let Some(url) = arguments.hub.clone() {
        return remote::tools(common, &url, arguments).await;
    }
    let Arguments { tool, schema, json, mcp_config, hub: _, wait } = arguments;
    let settings = common.settings(Overrides { mcp_config, ..Overrides::default() })?;
    let here = hub::workspace(&settings, &settings.workspace)?;
    let hub = Hub::new(&settings, None, Callers::Process, &here, &here);
    let catalogue = hub.catalogue();
    let listed = match &tool {
        Some(name) => catalogue.describe(name).await.map(|tool| (described(&tool, json, schema), true)),
        None => {
            let listed = catalogue.all(wait.wait.0).await;
            let is_whole = tell_missing(&listed);
            let text = match json {
                true => format!("{:#}\n", Value::Array(listed.tools)),
                false => listed.tools.iter().map(in_list).collect(),
            };
            Ok((text, is_whole))
        }
    };
    hub.close().await;
    let (text, is_whole) = listed?;
    print(&text)?;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// One tool: all that is known of it as JSON, its schemas, or a page for people.
pub(super) fn described(tool: &Value, is_json: bool, is_schema: bool) -> String {
    match (is_json, is_schema) {
        (true, _) => format!("{tool:#}\n"),
        (false, true) => format!("{:#}\n", schemas(tool)),
        (false, false) => tool_page::page(tool),
    }
}

/// What goes in and what comes out.
fn schemas(tool: &Value) -> Value {
    let members = ["inputSchema", "outputSchema"].into_iter().filter(|member| !tool[*member].is_null());
    Value::Object(members.map(|member| (member.to_owned(), tool[member].clone())).collect())
}

/// Characters of a tool's first sentence that are shown.
const SENTENCE_CHARS_MAX: usize = 500;

pub(super) fn in_list(tool: &Value) -> String {
    let says = |member: &str| tool[member].as_str().unwrap_or_default();
    let sentence = short_line(first_sentence(says("description")), SENTENCE_CHARS_MAX);
    format!("{:24} {sentence}\n", line(says("name")))
}

fn first_sentence(text: &str) -> &str {
    let line = text.trim().lines().next().unwrap_or_default();
    line.split_once(". ").map_or(line, |(first, _)| first).trim_end_matches('.')
}

pub(super) async fn call(common: Common, arguments: CallArguments) -> anyhow::Result<ExitCode> {
    if let Some(url) = arguments.hub.as_ref().filter(|_| !arguments.local.is_set()) {
        return remote::call(common, url, &arguments).await;
    }
    let (workspace, mcp_config) = (arguments.workspace.clone(), arguments.mcp_config.clone());
    let mut settings = common.settings(Overrides { workspace, mcp_config, ..Overrides::default() })?;
    let is_local = arguments.local.apply(arguments.hub.as_deref(), &mut settings)?;
    let (settings, store) = match &arguments.tool {
        Some(tool) if SHARING.contains(&tool.as_str()) => {
            let store = Store::open(settings).await?;
            (Arc::clone(&store.settings), Some(store))
        }
        _ => (Arc::new(settings), None),
    };
    let (here, context) = Here::open(&settings, store)?;
    let deadline = arguments.timeout.map(|timeout| timeout.0);
    let called = match &arguments.use_mcp_tool {
        Some(path) => call_all(&here.hub.calls, path, deadline, context).await,
        None => call_one(&here.hub.calls, &arguments, deadline, context).await,
    };
    here.close().await;
    let (mut answer, is_ok) = called?;
    if let Value::Object(members) = &mut answer
        && is_local
    {
        members.insert(LOCAL.to_owned(), true.into());
    }
    show(&answer, is_ok, arguments.json)
}

/// Print an answer. The exit code says whether it is one.
pub(super) fn show(answer: &Value, is_ok: bool, is_json: bool) -> anyhow::Result<ExitCode> {
    match mcp_text(answer).filter(|_| !is_json) {
        Some(text) => {
            let mut screen = Screen::new(std::io::stdout().lock(), false);
            ignore_gone(screen.write_all(text.as_bytes()).and_then(|()| screen.finish()))?;
        }
        None => print(&format!("{answer:#}\n"))?,
    }
    Ok(match is_ok {
        true => ExitCode::SUCCESS,
        false if answer["code"] == "cancelled" => ExitCode::from(INTERRUPTED),
        false => ExitCode::from(FAILED),
    })
}

/// A time that a call may take.
fn call_time(text: &str) -> Result<Span, String> {
    let time: Span = text.parse()?;
    is_call_time(&time).map(|()| time)
}

/// What the result of an MCP server's tool says, once: its text is in `content`, often as `structuredContent` again, and what is
/// no text is only named. `None` for an error or the answer of another tool.
fn mcp_text(answer: &Value) -> Option<String> {
    let parts = answer["content"].as_array().filter(|_| answer["status"] == "ok")?;
    let mut text = String::new();
    for part in parts {
        match (part["text"].as_str(), part["type"].as_str()) {
            (Some(part), _) => text += part,
            (None, Some("resource_link")) => text += part["uri"].as_str().unwrap_or_default(),
            (None, Some("resource")) => {
                text += part["resource"]["text"].as_str().unwrap_or("(a resource; --json has it)")
            }
            (None, kind) => {
                text += &format!(
                    "({} {}; --json has it)",
                    kind.unwrap_or("something"),
                    part["mimeType"].as_str().unwrap_or_default()
                );
            }
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    match answer.get("structuredContent") {
        Some(structured) if parts.is_empty() => Some(format!("{structured:#}\n")),
        _ => Some(text),
    }
}

fn answered(called: Result<Answer, ToolError>) -> (Value, bool) {
    match called {
        Ok(answer) => (answer.to_json(), true),
        Err(error) => (error.to_json(), false),
    }
}

/// Call what a model asked for. Each block has its answer, in their order.
async fn call_all(
    calls: &Calls,
    path: &Path,
    deadline: Option<Duration>,
    context: Context,
) -> anyhow::Result<(Value, bool)> {
    let text = match path.to_str() {
        Some("-") => read_stdin()?,
        _ => document::read_text(path).map_err(|problem| anyhow::anyhow!("{problem}"))?,
    };
    let (mut answers, mut is_ok) = (Vec::new(), true);
    for part in use_mcp_tool::parse(&text) {
        let (answer, is_well) = match part {
            Part::Text(_) => continue,
            Part::Malformed(message) => (json!({ "status": "error", "code": "malformed", "message": message }), false),
            Part::Use(Use { server, tool, arguments }) => {
                let called = match name_of(&calls.catalogue, &server, &tool) {
                    Ok(tool) => {
                        let call = Call { tool, arguments: Value::Object(arguments), deadline };
                        calls.values(context.clone(), call).await
                    }
                    Err(error) => Err(error),
                };
                let (mut answer, is_well) = answered(called);
                answer["server_name"] = server.into();
                answer["tool_name"] = tool.into();
                (answer, is_well)
            }
        };
        is_ok &= is_well;
        answers.push(answer);
    }
    Ok((answers.into(), is_ok))
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input")?;
    Ok(text)
}

async fn call_one(
    calls: &Calls,
    arguments: &CallArguments,
    deadline: Option<Duration>,
    context: Context,
) -> anyhow::Result<(Value, bool)> {
    let name = arguments.tool.clone().unwrap_or_default();
    // A server may take long to start and say what its tools take.
    let Some(tool) = context.cancel.run_until_cancelled(calls.catalogue.describe(&name)).await else {
        return Ok(answered(Err(ToolError::Cancelled)));
    };
    let tool = tool?;
    let members = members(arguments, &tool["inputSchema"])?;
    let call = Call { tool: name, arguments: Value::Object(members), deadline };
    Ok(answered(calls.values(context, call).await))
}

pub(super) fn members(arguments: &CallArguments, schema: &Value) -> anyhow::Result<Map<String, Value>> {
    let mut members = match arguments.object.as_deref() {
        None => Map::new(),
        Some("-") => serde_json::from_str(&read_stdin()?).context("standard input is not a JSON object")?,
        Some(text) => {
            serde_json::from_str(text).map_err(|why| Usage::of(format!("--args is not a JSON object: {why}")))?
        }
    };
    for argument in &arguments.arguments {
        let (name, text) =
            argument.split_once('=').ok_or_else(|| Usage::of(format!("--arg {argument}: NAME=VALUE is expected")))?;
        // `--arg command=123` means the text "123", because that is what `command` takes.
        let value = serde_json::from_str(text).ok().filter(|value| fits(schema, &schema["properties"][name], value, 0));
        members.insert(name.to_owned(), value.unwrap_or_else(|| text.into()));
    }
    Ok(members)
}

/// Schemas within others that are looked at to tell whether a value fits, and choices of each.
const FIT_DEPTH_MAX: usize = 3;
const FIT_CHOICES_MAX: usize = 16;

/// Whether a value is of a kind that a schema takes, as far as that is easily told. A server wrote the schema.
fn fits(root: &Value, schema: &Value, value: &Value, depth: usize) -> bool {
    let schema = tool_page::resolved(root, schema);
    if let Some(choices) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let mut choices = choices.iter().take(FIT_CHOICES_MAX);
        return depth < FIT_DEPTH_MAX && choices.any(|choice| fits(root, choice, value, depth + 1));
    }
    let is = |kind: &Value| match kind.as_str() {
        Some("string") => value.is_string(),
        Some("integer") => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    schema["type"].as_array().map_or_else(|| is(&schema["type"]), |kinds| kinds.iter().any(is))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_value_on_the_command_line_is_json_only_where_the_tool_takes_such() {
        let schema = json!({ "$defs": { "note": { "anyOf": [{ "type": "string" }, { "type": "null" }] } }, "properties": {
            "text": { "type": "string" }, "since": { "$ref": "#/$defs/note" }, "old": { "type": ["string", "null"] },
            "limit": { "type": "integer" }, "any": {}, "deep": { "anyOf": [{ "$ref": "#/properties/deep" }] },
        } });
        for (argument, expected) in [
            ("text=123", json!("123")),
            ("text=\"a\"", json!("a")),
            ("since=2024", json!("2024")),
            ("since=null", json!(null)),
            ("old=true", json!("true")),
            ("limit=3", json!(3)),
            ("limit=three", json!("three")),
            ("any=[1]", json!([1])),
            ("deep=1", json!("1")),
            ("unknown=1", json!(1)),
        ] {
            let command = crate::cli::Cli::try_parse_from(["skep", "call", "t", "--arg", argument]).unwrap();
            let crate::cli::Command::Call(arguments) = command.command else { panic!("{argument}") };
            let name = argument.split('=').next().unwrap();
            assert_eq!(members(&arguments, &schema).unwrap()[name], expected, "{argument}");
        }
    }
}
