//! `skep tasks`.

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

/// Tasks that workers do: submit them, look at them, work through a queue
///
/// Agents use the tools task_submit, task_list, task_get, task_cancel and task_retry, and those who do tasks task_next,
/// task_progress, task_finish and task_release.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep tasks add --id api-review --title 'Review the API' --queue api --priority high
  skep tasks ls --state pending,in_progress
  skep tasks show api-review
  skep tasks next --queue api
  skep tasks cancel api-review")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Act as this agent
    #[arg(long, value_name = "AGENT", global = true)]
    agent: Option<String>,
    /// Ask this hub [default: the one that runs here; without one, the database is opened]
    #[arg(long, value_name = "URL", global = true)]
    hub: Option<String>,
    /// As JSON, with all that is known
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List tasks
    Ls {
        /// Only those in these states
        #[arg(long, value_name = "STATE", value_delimiter = ',')]
        state: Vec<State>,
        /// Only those of this queue
        #[arg(long, value_name = "QUEUE")]
        queue: Option<String>,
        /// Only those of this type
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Only those of this priority
        #[arg(long, value_name = "PRIORITY")]
        priority: Option<Priority>,
        /// Only those of this run
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        /// Only the parts of this task
        #[arg(long, value_name = "TASK")]
        parent: Option<String>,
        /// Only those with this label
        #[arg(long, value_name = "LABEL")]
        label: Option<String>,
        /// Only what this worker has in progress
        #[arg(long, value_name = "WORKER")]
        worker: Option<String>,
        /// Only those with these words in their title or description
        #[arg(long, value_name = "WORDS")]
        search: Option<String>,
        /// The next page: the tasks whose ids come before this one
        #[arg(long, value_name = "TASK")]
        before: Option<String>,
        /// How many, at most
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show a task, with its input and its result
    Show {
        /// Its id
        id: String,
    },
    /// Submit a task
    Add(Box<New>),
    /// Cancel tasks, and their parts
    Cancel {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Do a task again that has failed, with what it has blocked
    Retry {
        /// Its id
        id: String,
    },
    /// Get the next task of a queue to do it yourself
    Next {
        /// The queue
        #[arg(long, value_name = "QUEUE", default_value = "default")]
        queue: String,
        /// Only tasks of these types
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// What you can do
        #[arg(long = "can", value_name = "CAPABILITY")]
        capabilities: Vec<String>,
        /// Seconds to wait for a task, at most 60
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
        /// Seconds that you may be silent
        #[arg(long, value_name = "SECONDS")]
        lease: Option<u64>,
    },
    /// Say that you still work on a task
    Progress {
        /// Its id
        id: String,
        /// What `next` has given with it
        token: String,
        /// How much is done, of a hundred
        #[arg(long, value_name = "N")]
        percent: Option<u8>,
        /// What you are doing
        #[arg(long, value_name = "TEXT")]
        message: Option<String>,
    },
    /// Answer a task
    Finish {
        /// Its id
        id: String,
        /// What `next` has given with it
        token: String,
        /// The result, as JSON
        #[arg(long, value_name = "JSON")]
        result: Option<String>,
        /// It has failed, and this is why
        #[arg(long, value_name = "TEXT")]
        error: Option<String>,
        /// Another attempt would fail as well
        #[arg(long, requires = "error")]
        no_retry: bool,
    },
    /// Give a task back unfinished
    Release {
        /// Its id
        id: String,
        /// What `next` has given with it
        token: String,
    },
}

#[derive(Debug, Args)]
struct New {
    /// What it is about
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// What is to be done
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Its id [default: a new one]
    #[arg(long, value_name = "TASK")]
    id: Option<String>,
    /// The queue that workers get it from
    #[arg(long, value_name = "QUEUE", default_value = "default")]
    queue: String,
    /// What sort of work it is
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// How soon it is started
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<Priority>,
    /// What its worker needs to know, as JSON
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// A task that must complete before; may be given several times
    #[arg(long = "needs", value_name = "TASK")]
    depends_on: Vec<String>,
    /// The task that it is a part of
    #[arg(long, value_name = "TASK")]
    parent: Option<String>,
    /// A word by which it is found; may be given several times
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// What its worker must be able to do; may be given several times
    #[arg(long = "requires", value_name = "CAPABILITY")]
    capabilities: Vec<String>,
    /// How many failures are followed by another attempt
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Seconds until it may start
    #[arg(long, value_name = "SECONDS")]
    delay: Option<u64>,
    /// Seconds until it has failed if it has not ended
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Priority {
    Critical,
    High,
    Medium,
    Low,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum State {
    Pending,
    InProgress,
    Completed,
    Failed,
    Blocked,
    Cancelled,
}

fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Characters of a title that are shown in a list.
const TITLE_CHARS_MAX: usize = 60;

pub(super) async fn tasks(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, agent, hub, json: is_json } = arguments;
    if let Command::Cancel { ids } = &command {
        for id in ids {
            let place = shared::Place::of_team(agent.clone(), hub.clone());
            match shared::call(common.clone(), &place, "task_cancel", json!({ "task_id": id })).await? {
                Ok(answer) if is_json => {
                    show(&answer.to_json(), true, true)?;
                }
                Ok(answer) => print(&state_line(&answer.value))?,
                Err(error) => return refused(&error, is_json),
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (tool, wanted) = call_of(&command)?;
    // The token says who works on a task.
    let takes_agent = !matches!(tool, "task_list" | "task_get" | "task_progress" | "task_finish" | "task_release");
    let place = shared::Place::of_team(agent.filter(|_| takes_agent), hub);
    let answer = match shared::call(common, &place, tool, wanted).await? {
        Ok(answer) if is_json => return show(&answer.to_json(), true, true),
        Ok(answer) => answer.value,
        Err(error) => return refused(&error, is_json),
    };
    print(&match &command {
        Command::Ls { .. } => table(&answer),
        Command::Show { id } => page(&answer, id),
        Command::Add(_) => items(&answer, "tasks").iter().map(|task| text_of(&task["task_id"]) + "\n").collect(),
        Command::Next { .. } => next(&answer),
        Command::Progress { .. } => progress(&answer),
        Command::Retry { .. } => items(&answer, "reopened").iter().map(|id| text_of(id) + "\n").collect(),
        Command::Cancel { .. } | Command::Finish { .. } | Command::Release { .. } => state_line(&answer),
    })?;
    let is_missing =
        answer.get("found") == Some(&Value::Bool(false)) || answer.get("held") == Some(&Value::Bool(false));
    Ok(if is_missing { ExitCode::from(super::FAILED) } else { ExitCode::SUCCESS })
}

fn call_of(command: &Command) -> anyhow::Result<(&'static str, Value)> {
    Ok(match command {
        Command::Ls { state, queue, kind, priority, run, parent, label, worker, search, before, limit } => {
            let states: Vec<String> = state.iter().map(name_of).collect();
            let priority = priority.as_ref().map(name_of);
            let wanted = json!({
                "states": states, "queue": queue, "type": kind, "priority": priority, "run": run, "parent": parent,
                "label": label, "worker": worker, "query": search, "before": before, "limit": limit,
            });
            ("task_list", wanted)
        }
        Command::Show { id } => ("task_get", json!({ "task_id": id })),
        Command::Add(new) => ("task_submit", submitted(new)?),
        Command::Cancel { ids } => ("task_cancel", json!({ "task_id": ids.first() })),
        Command::Retry { id } => ("task_retry", json!({ "task_id": id })),
        Command::Next { queue, types, capabilities, wait, lease } => {
            let wanted = json!({
                "queue": queue, "types": types, "capabilities": capabilities, "wait_s": wait, "lease_s": lease,
            });
            ("task_next", wanted)
        }
        Command::Progress { id, token, percent, message } => {
            ("task_progress", json!({ "task_id": id, "token": token, "percent": percent, "message": message }))
        }
        Command::Finish { id, token, result, error, no_retry } => {
            let result = result.as_deref().map(|text| parsed("the result", text)).transpose()?;
            let retry = error.is_some().then_some(!no_retry);
            let answer = json!({ "task_id": id, "token": token, "result": result, "error": error, "retry": retry });
            ("task_finish", answer)
        }
        Command::Release { id, token } => ("task_release", json!({ "task_id": id, "token": token })),
    })
}

fn submitted(new: &New) -> anyhow::Result<Value> {
    Ok(json!({
        "id": new.id, "title": new.title, "description": new.description, "queue": new.queue, "type": new.kind,
        "priority": new.priority.as_ref().map(name_of),
        "input": new.input.as_deref().map(|text| parsed("the input", text)).transpose()?,
        "depends_on": new.depends_on, "parent": new.parent, "labels": new.labels,
        "required_capabilities": new.capabilities, "retries": new.retries, "delay_s": new.delay,
        "deadline_s": new.deadline,
    }))
}

fn parsed(what: &str, text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text)
        .map_err(|error| anyhow::anyhow!("{what} is not JSON: {error}; write a text as '\"text\"'"))
}

fn table(answer: &Map<String, Value>) -> String {
    let tasks = items(answer, "tasks");
    if tasks.is_empty() && answer.get("next").is_none() {
        return "there are no such tasks\n".to_owned();
    }
    let width = tasks.iter().map(|task| text_of(&task["task_id"]).chars().count()).max().unwrap_or(0).max(4);
    let mut text =
        format!("{:width$}  {:11}  {:8}  {:12}  {:16}  {}\n", "TASK", "STATE", "PRIORITY", "QUEUE", "WORKER", "TITLE");
    for task in tasks {
        let column = |name: &str| text_of(&task[name]);
        let title = if task["title"].is_null() { column("step") } else { column("title") };
        text += &format!(
            "{:width$}  {:11}  {:8}  {:12}  {:16}  {}\n",
            column("task_id"),
            column("state"),
            column("priority"),
            column("queue"),
            column("worker"),
            short_line(&title, TITLE_CHARS_MAX)
        );
    }
    if let Some(next) = answer.get("next") {
        text += &format!("more: --before {}\n", text_of(next));
    }
    text
}

/// What is known about a task, a line each.
fn page(answer: &Map<String, Value>, id: &str) -> String {
    let Some(Value::Object(task)) = answer.get("task") else {
        return format!("there is no task {}\n", text_of(&id.into()));
    };
    let mut text = String::new();
    for (name, value) in task {
        let shown = match value {
            Value::String(_) if name.ends_with("_at") || name == "deadline" => time_of(value),
            Value::String(_) => text_of(value),
            Value::Array(all) => all.iter().map(text_of).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        text += &format!("{name}: {shown}\n");
    }
    text + &contents(answer)
}

/// What is to be done, and what came of it.
fn contents(answer: &Map<String, Value>) -> String {
    let mut text = String::new();
    for name in ["description", "input", "result"] {
        match answer.get(name) {
            None => {}
            Some(Value::String(said)) if name == "description" => {
                text += &said.lines().map(|line| text_of(&line.into()) + "\n").collect::<String>();
            }
            Some(value) => text += &format!("{name}: {}\n", text_of(&value.to_string().into())),
        }
    }
    text
}

fn next(answer: &Map<String, Value>) -> String {
    let Some(task) = answer.get("task") else { return "there is nothing to do\n".to_owned() };
    let said = |name: &str| answer.get(name).map(text_of).unwrap_or_default();
    let title = if task["title"].is_null() { String::new() } else { format!("  {}", text_of(&task["title"])) };
    let lease = answer.get("lease_s").cloned().unwrap_or_default();
    format!("{}{title}\ntoken: {}\nlease: {lease} s\n{}", text_of(&task["task_id"]), said("token"), contents(answer))
}

fn progress(answer: &Map<String, Value>) -> String {
    match answer.get("reason") {
        Some(reason) => format!("stop: {}\n", text_of(reason)),
        None => format!("go on; {} s\n", answer.get("lease_s").cloned().unwrap_or_default()),
    }
}

fn state_line(answer: &Map<String, Value>) -> String {
    let task = answer.get("task").cloned().unwrap_or_default();
    format!("{} {}\n", text_of(&task["task_id"]), text_of(&task["state"]))
}
