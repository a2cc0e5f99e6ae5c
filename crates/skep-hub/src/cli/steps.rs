//! `skep steps`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::{
    Common,
    files::{items, text_of, time_of},
    print,
    shared::{self, refused},
    tools::show,
};
use crate::terminal::short_line;

/// Characters of a step that are shown in a list.
const MESSAGE_CHARS_MAX: usize = 100;

/// What agents logged of a task
///
/// Agents use the tools log_step and read_logs. `skep events --follow --task T --kind step.logged` shows what comes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep steps ls --task t1
  skep steps ls --task t1 --level warning --of coder
  skep steps add 'compiled' --agent coder --task t1")]
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
    /// List the last steps, oldest first
    Ls {
        /// Only steps that matter as much or more
        #[arg(long, value_name = "LEVEL")]
        level: Option<Level>,
        /// Only steps of this agent
        #[arg(long, value_name = "AGENT")]
        of: Option<String>,
        /// The steps after this number
        #[arg(long, value_name = "N")]
        after: Option<i64>,
        /// How many, at most
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Log a step
    Add {
        /// What was done
        text: String,
        /// How much it matters
        #[arg(long, value_name = "LEVEL", default_value = "info")]
        level: Level,
    },
}

/// How much a step matters.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

pub(super) async fn steps(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, place, json: is_json } = arguments;
    place.needs_task()?;
    let (tool, arguments) = match &command {
        Command::Ls { level, of, after, limit } => {
            let level = level.map(Level::name);
            ("read_logs", json!({ "level": level, "agent_id": of, "after": after, "limit": limit }))
        }
        Command::Add { text, level } => ("log_step", json!({ "message": text, "level": level.name() })),
    };
    let answer = match shared::call(common, &place, tool, arguments).await? {
        Ok(answer) if is_json => return show(&answer.to_json(), true, true),
        Ok(answer) => answer.value,
        Err(error) => return refused(&error, is_json),
    };
    print(&match &command {
        Command::Ls { .. } => table(&answer),
        Command::Add { .. } => format!("step {}\n", answer.get("sequence").unwrap_or(&Value::Null)),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn table(answer: &Map<String, Value>) -> String {
    let steps = items(answer, "logs");
    if steps.is_empty() {
        return "there are no steps\n".to_owned();
    }
    let mut text = format!("{:>6}  {:20}  {:8}  {:16}  {}\n", "STEP", "AT", "LEVEL", "AGENT", "MESSAGE");
    for step in steps {
        let (number, at, level) = (&step["sequence"], time_of(&step["at"]), text_of(&step["level"]));
        let agent = if step["agent_id"].is_null() { &step["principal"] } else { &step["agent_id"] };
        let message = short_line(step["message"].as_str().unwrap_or_default(), MESSAGE_CHARS_MAX);
        text += &format!("{number:>6}  {at:20}  {level:8}  {:16}  {message}\n", text_of(agent));
    }
    text
}
