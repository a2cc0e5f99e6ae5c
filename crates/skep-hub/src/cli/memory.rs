//! `skep memory`.

use std::{io::Read as _, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use skep_tools::{duration::Span, error::ToolError, tool::Answer};

use super::{Common, FAILED, bytes_for_people, print, say, shared, tools::show};
use crate::terminal::{line, short_line};

/// What agents remember together: JSON values under keys
///
/// It belongs to the team, or with --task to one task or swarm. Agents have the same as the tools memory_store,
/// memory_retrieve, memory_search, memory_list and memory_delete.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep memory put build/flags '[\"-O2\"]' --ttl 1h
  skep memory get build/flags
  skep memory search flags
  skep memory ls build/ --task t1")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: shared::Place,
    /// As JSON, with all that is known
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the value under a key
    Get {
        /// The key
        key: String,
    },
    /// Store a value under a key, instead of what is there
    Put {
        /// The key
        key: String,
        /// The value: JSON, or what is no JSON as a text; `-` reads it from standard input
        value: String,
        /// Take the value as a text even if it is JSON
        #[arg(long)]
        text: bool,
        /// Forget it after this time, such as 90s, 12h or 7d
        #[arg(long, value_name = "TIME", value_parser = Span::more_than_zero)]
        ttl: Option<Span>,
        /// Only if the entry is at this revision; 0: only if there is none
        #[arg(long, value_name = "N")]
        base_revision: Option<i64>,
    },
    /// Find entries by the words of their keys and values
    Search {
        /// All of them must be there, the last at least as the beginning of a word
        #[arg(required = true)]
        words: Vec<String>,
        /// Entries to show at most
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// List the keys, or those that begin with a prefix
    Ls {
        /// What the keys begin with
        #[arg(default_value = "")]
        prefix: String,
        /// Entries to show at most
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Only keys after this one
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
    },
    /// Delete an entry
    Rm {
        /// The key
        key: String,
        /// Only if the entry is at this revision
        #[arg(long, value_name = "N")]
        base_revision: Option<i64>,
    },
}

/// Characters of a value in a list.
const VALUE_CHARS_MAX: usize = 100;
/// How keys are padded in a list.
const KEY_WIDTH: usize = 32;

pub(super) async fn memory(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, place, json: is_json } = arguments;
    let (tool, arguments) = request(&command)?;
    let answer = match shared::call(common, &place, tool, arguments).await? {
        Ok(answer) => answer,
        Err(error) if is_json => return show(&error.to_json(), false, true),
        Err(error) => return refused(&error),
    };
    if is_json {
        let is_there = !is_missing(&answer.value);
        print(&format!("{:#}\n", answer.to_json()))?;
        return Ok(if is_there { ExitCode::SUCCESS } else { ExitCode::from(FAILED) });
    }
    let Answer { value: answer, .. } = answer;
    match &command {
        Command::Get { key } | Command::Rm { key, .. } if is_missing(&answer) => {
            say!("skep: there is nothing under {key:?}; `skep memory search` finds entries by their words");
            return Ok(ExitCode::from(FAILED));
        }
        Command::Get { .. } => print(&format!("{:#}\n", answer["value"]))?,
        Command::Put { .. } => print(&format!("revision {}\n", answer["revision"]))?,
        Command::Rm { .. } => {}
        Command::Search { .. } => {
            print(&table(&answer, |entry| short_line(&text_of(&entry["value"]), VALUE_CHARS_MAX)))?;
            if answer["complete"] == false {
                say!("skep: so many entries have these words that the oldest were not looked at; a rarer word helps");
            }
        }
        Command::Ls { .. } => {
            print(&table(&answer, |entry| {
                let bytes = bytes_for_people(entry["bytes"].as_u64().unwrap_or(0));
                let expires =
                    entry["expires_at"].as_str().map_or(String::new(), |at| format!("  expires {}", line(at)));
                format!("{bytes:>10}{expires}")
            }))?;
            if let Some(next) = answer.get("next").and_then(Value::as_str) {
                say!("skep: there may be more; --after {next:?} shows them");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The tool for a command, and its arguments.
fn request(command: &Command) -> anyhow::Result<(&'static str, Value)> {
    Ok(match command {
        Command::Get { key } => ("memory_retrieve", json!({ "key": key })),
        Command::Put { key, value, text, ttl, base_revision } => {
            let value = if value == "-" { read_stdin()? } else { value.clone() };
            let parsed = if *text { None } else { serde_json::from_str(&value).ok() };
            let value: Value = parsed.unwrap_or_else(|| value.into());
            let ttl = ttl.map(|ttl| ttl.0.as_secs());
            ("memory_store", json!({ "key": key, "value": value, "ttl": ttl, "base_revision": base_revision }))
        }
        Command::Search { words, limit } => ("memory_search", json!({ "query": words.join(" "), "limit": limit })),
        Command::Ls { prefix, limit, after } => {
            ("memory_list", json!({ "prefix": prefix, "limit": limit, "after": after }))
        }
        Command::Rm { key, base_revision } => ("memory_delete", json!({ "key": key, "base_revision": base_revision })),
    })
}

/// Whether the answer says that there is no such entry.
fn is_missing(answer: &Map<String, Value>) -> bool {
    ["found", "deleted"].iter().any(|member| answer.get(*member) == Some(&Value::Bool(false)))
}

fn refused(error: &ToolError) -> anyhow::Result<ExitCode> {
    say!("skep: {error}");
    if let ToolError::Conflict { detail, .. } = error
        && let Some(value) = detail.get("current_value")
    {
        say!("skep: what is there: {value:#}");
    }
    Ok(ExitCode::from(FAILED))
}

/// Entries by key, with something else of each.
fn table(answer: &Map<String, Value>, more: impl Fn(&Value) -> String) -> String {
    let entries = answer.get("entries").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if entries.is_empty() {
        return "nothing is remembered that fits\n".to_owned();
    }
    let mut text = format!("{:KEY_WIDTH$}  {:>8}  {:20}\n", "KEY", "REVISION", "UPDATED");
    for entry in entries {
        let says = |member: &str| line(entry[member].as_str().unwrap_or_default()).into_owned();
        let updated = says("updated_at");
        let updated = updated.split_once('.').map_or(updated.clone(), |(seconds, _)| format!("{seconds}Z"));
        let (key, revision) = (says("key"), entry["revision"].as_i64().unwrap_or(0));
        text += &format!("{key:KEY_WIDTH$}  {revision:>8}  {updated:20}  {}\n", more(entry));
    }
    text
}

/// A value in a line.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "(large; `skep memory get` shows it)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input")?;
    Ok(text.trim_end_matches('\n').to_owned())
}
