//! `skep messages`.

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

/// What agents tell each other, of a task or of the team
///
/// Agents use the tools join_collab, send_message, read_messages and ack_messages.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep messages ls --task t1
  skep messages send 'please look at src/a.rs' --to reviewer --type request --agent coder --task t1
  skep messages ls --agent reviewer --task t1
  skep messages ack 1 2 --agent reviewer --task t1")]
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
    /// List the last messages; with --agent, those that it has not acknowledged. It must have joined
    Ls {
        /// Only messages of this type; may be given several times
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<Type>,
        /// The messages after this number, oldest first
        #[arg(long, value_name = "N")]
        after: Option<i64>,
        /// How many, at most
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Send a message to an agent, or to all who have joined
    Send {
        /// What it says
        text: String,
        /// The agent that gets it [default: all]
        #[arg(long, value_name = "AGENT")]
        to: Option<String>,
        /// What it is [default: a notification to an agent, a broadcast to all]
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<Type>,
        /// The number of the message that it is about
        #[arg(long, value_name = "N")]
        reply_to: Option<i64>,
        /// The text is JSON
        #[arg(long)]
        value: bool,
    },
    /// Acknowledge messages to --agent, so that they are not unread any more
    Ack {
        /// Their numbers
        #[arg(required_unless_present = "up_to")]
        numbers: Vec<i64>,
        /// All up to this number
        #[arg(long, value_name = "N", conflicts_with = "numbers")]
        up_to: Option<i64>,
    },
}

/// What a message is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Type {
    Request,
    Response,
    Notification,
    Broadcast,
    Collaborate,
}

impl Type {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Characters of a message that are shown in a list.
const BODY_CHARS_MAX: usize = 100;

pub(super) async fn messages(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, place, json: is_json } = arguments;
    let (tool, arguments) = match &command {
        Command::Ls { types, after, limit } => {
            let types: Vec<String> = types.iter().map(|kind| kind.name()).collect();
            let wanted = json!({ "types": types, "after": after, "limit": limit, "all_agents": !place.has_agent() });
            ("read_messages", wanted)
        }
        Command::Send { text, to, kind, reply_to, value } => {
            let body = match value {
                true => serde_json::from_str(text).map_err(|error| anyhow::anyhow!("the text is not JSON: {error}"))?,
                false => Value::from(text.as_str()),
            };
            let kind = kind.map(Type::name);
            ("send_message", json!({ "to": to, "type": kind, "body": body, "reply_to": reply_to }))
        }
        Command::Ack { numbers, up_to } => ("ack_messages", json!({ "numbers": numbers, "up_to": up_to })),
    };
    let answer = match shared::call(common, &place, tool, arguments).await? {
        Ok(answer) if is_json => return show(&answer.to_json(), true, true),
        Ok(answer) => answer.value,
        Err(error) => return refused(&error, is_json),
    };
    let number = |name: &str| answer.get(name).cloned().unwrap_or_default();
    print(&match &command {
        Command::Ls { .. } => table(&answer),
        Command::Send { .. } => format!("message {}\n", number("number")),
        Command::Ack { .. } => format!("{} acknowledged, {} unread\n", number("acknowledged"), number("unread")),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn table(answer: &Map<String, Value>) -> String {
    let messages = items(answer, "messages");
    if messages.is_empty() {
        return "there are no messages\n".to_owned();
    }
    let mut text = format!("{:>6}  {:20}  {:12}  {:16}  {:16}  {}\n", "NUMBER", "AT", "TYPE", "FROM", "TO", "BODY");
    for message in messages {
        let (number, at, kind) = (&message["number"], time_of(&message["at"]), text_of(&message["type"]));
        let from = text_of(&message["from"]);
        let to = if message["to"].is_null() { "all".to_owned() } else { text_of(&message["to"]) };
        let body = match &message["body"] {
            Value::String(text) => short_line(text, BODY_CHARS_MAX),
            other => short_line(&other.to_string(), BODY_CHARS_MAX),
        };
        text += &format!("{number:>6}  {at:20}  {kind:12}  {from:16}  {to:16}  {body}\n");
    }
    text
}
