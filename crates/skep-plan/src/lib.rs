//! What a run is to do: a graph of tasks, each one call of one tool.
//!
//! [`Plan`] and [`Step`] are what a swarm works from. A plan comes from a file (`file.rs` is its form, `check.rs`
//! finds every error in it), from a sentence (`rules.rs`), or from where a run keeps it ([`Plan::from_json`]). Arguments,
//! conditions and the report are templates (`template.rs`) that see the inputs and the results of other tasks. This
//! crate runs nothing and knows no store.

pub mod check;
mod file;
pub mod model;
pub mod rules;
pub mod template;

use std::{fmt, path::Path, time::Duration};

pub use file::{json_schema, schema};
use serde_json::{Map, Value};
use skep_tools::{
    document::{Diagnostic, Document},
    schema::suggest,
    tool::Tool,
    value::{self, kind_of},
};

/// Tasks in a plan.
pub const TASKS_MAX: usize = 4096;
/// Characters in the name of a task.
pub const ID_CHARS_MAX: usize = 64;
/// Characters in the name of a plan.
pub const NAME_CHARS_MAX: usize = 200;
/// How often a failed task may be tried again.
pub const RETRIES_MAX: u32 = 10;
/// Agents of one role in a swarm.
pub const AGENTS_MAX: u32 = 64;

/// A task graph without cycles, in which every name means something.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Name, for people.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The parameters, with their values; see [`Plan::set`].
    pub inputs: Map<String, Value>,
    /// How large a swarm it wants.
    pub agents: Agents,
    /// The tasks, as they were written.
    pub tasks: Vec<Step>,
    /// The template of the report, in Markdown; see [`template::Scope::text`].
    pub report: Option<String>,
}

/// How many agents of a role work at the same time; `None` leaves it to the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agents {
    /// Those that call tools.
    pub actors: Option<u32>,
    /// Those that look at screens, images and files.
    pub observers: Option<u32>,
}

/// One task: a call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Unique in the plan: 1 to [`ID_CHARS_MAX`] of `A-Z a-z 0-9 _ -`.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// Who does it.
    pub role: Role,
    /// Name of the tool.
    pub tool: String,
    /// Its arguments, an object; its texts may be templates, see [`template::Scope::render`].
    pub args: Value,
    /// Tasks that must have ended before: those that were listed, and those whose results the templates use.
    pub depends_on: Vec<String>,
    /// Skip the task unless this holds; see [`template::Scope::truth`].
    pub when: Option<String>,
    /// How long one attempt may take; `None` for the tool's own deadline.
    pub timeout: Option<Duration>,
    /// How often to try again.
    pub retries: u32,
    /// Its failure is not the run's.
    pub allow_failure: bool,
}

/// Who does a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Decomposes the work and puts the results together.
    Coordinator,
    /// Looks at screens, images and files.
    Observer,
    /// Calls tools.
    #[default]
    Actor,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 3] = [Role::Coordinator, Role::Observer, Role::Actor];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Observer => "observer",
            Role::Actor => "actor",
        }
    }

    /// Who does the tasks of this tool, unless the plan says otherwise.
    pub fn for_tool(tool: &str) -> Role {
        if tool == "observe_screen" { Role::Observer } else { Role::Actor }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The tools that tasks may call, as far as a plan can be checked against them.
pub trait Tools {
    /// Those whose arguments and answers are known, by name.
    fn known(&self) -> Vec<&Tool>;

    /// The known tool of this name.
    fn get(&self, name: &str) -> Option<&Tool>;

    /// Whether this is the name of an MCP server's tool: whether there is such a one, and what it takes, is known once the
    /// server runs.
    fn is_of_server(&self, name: &str) -> bool;
}

impl Tools for Vec<Tool> {
    fn known(&self) -> Vec<&Tool> {
        self.iter().collect()
    }

    fn get(&self, name: &str) -> Option<&Tool> {
        self.iter().find(|tool| tool.name == name)
    }

    fn is_of_server(&self, _: &str) -> bool {
        false
    }
}

/// The plan in a file, or every error in it that can be told without knowing the tools.
pub fn load(path: &Path) -> Result<Plan, Vec<Diagnostic>> {
    Plan::from_document(&Document::read(path)?, None)
}

/// The plan in a file and what its author should know about it; or every error in it, with unknown tools and arguments
/// that do not fit.
pub fn load_for(path: &Path, tools: &dyn Tools) -> Result<(Plan, Vec<Diagnostic>), Vec<Diagnostic>> {
    let document = Document::read(path)?;
    let plan = Plan::from_document(&document, Some(tools))?;
    Ok((plan, check::problems(&document, Some(tools))))
}

impl Plan {
    /// The plan that a document describes, or every error in it.
    pub fn from_document(document: &Document, tools: Option<&dyn Tools>) -> Result<Plan, Vec<Diagnostic>> {
        let problems = check::problems(document, tools);
        if problems.iter().any(Diagnostic::is_error) {
            return Err(problems);
        }
        let file: file::File = document.deserialise().map_err(|problem| vec![problem])?;
        let stem = Path::new(&document.file).file_stem().map_or("plan".into(), |stem| stem.to_string_lossy());
        file.into_plan(&stem).map_err(|message| vec![document.problem("", message)])
    }

    /// The plan as it is kept with a run: what its file would say, with every default and inferred dependency written
    /// out. Nothing is lost, except fractions of a millisecond.
    pub fn to_json(&self) -> Value {
        file::to_json(self)
    }

    /// What [`Plan::to_json`] gave. The error says what is wrong with it.
    pub fn from_json(json: &Value) -> Result<Plan, String> {
        let file: file::File = value::read(json).map_err(|(pointer, message)| format!("{pointer}: {message}"))?;
        file.into_plan("")
    }

    /// The task of this name.
    pub fn step(&self, id: &str) -> Option<&Step> {
        self.tasks.iter().find(|step| step.id == id)
    }

    /// Give an input another value: `name=value`. Where the plan's value is not text, the new one is read as JSON. The
    /// error says what is wrong.
    pub fn set(&mut self, assignment: &str) -> Result<(), String> {
        let (name, value) = assignment.split_once('=').ok_or_else(|| format!("{assignment:?} must be name=value"))?;
        let names = self.inputs.keys().map(String::as_str);
        let Some(known) = self.inputs.get(name) else {
            let help = match suggest(name, names.clone()) {
                Some(help) => help,
                None if self.inputs.is_empty() => "it has none".to_owned(),
                None => format!("it has {}", names.collect::<Vec<_>>().join(", ")),
            };
            return Err(format!("the plan has no input {name:?}; {help}"));
        };
        let value = match known {
            Value::String(_) => Value::from(value),
            Value::Null => serde_json::from_str(value).unwrap_or_else(|_| value.into()),
            known => {
                let wanted = kind_of(known);
                serde_json::from_str(value)
                    .ok()
                    .filter(|value| kind_of(value) == wanted)
                    .ok_or_else(|| format!("the input {name:?} must be {wanted}, as JSON"))?
            }
        };
        self.inputs.insert(name.to_owned(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
