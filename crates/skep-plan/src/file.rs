//! The form of a plan in a file, and in the store.

use std::collections::BTreeMap;

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use skep_tools::{duration::Span, schema::Schema, value};

use super::{AGENTS_MAX, NAME_CHARS_MAX, Plan, RETRIES_MAX, Step, TASKS_MAX};

/// A plan: a graph of tasks for `skep run`.
#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Skep plan")]
pub(super) struct File {
    /// Name; that of the file if it is left out.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    name: Option<String>,
    /// What it is for.
    #[serde(default)]
    description: String,
    /// Parameters and their values; `--set name=value` gives another.
    #[serde(default)]
    inputs: Map<String, Value>,
    /// How large a swarm it wants.
    #[serde(default)]
    #[garde(dive)]
    agents: Agents,
    /// The tasks, by name. They run as soon as those that they depend on have ended.
    #[schemars(with = "BTreeMap<String, Task>", extend("minProperties" = 1, "maxProperties" = TASKS_MAX))]
    #[garde(custom(are_tasks))]
    tasks: Map<String, Value>,
    /// The report: a template in Markdown over `inputs`, `tasks.<name>.{status,result,error}` and `run`.
    report: Option<String>,
}

/// How many agents of a role work at the same time.
#[derive(Default, Deserialize, Serialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
struct Agents {
    /// Those that call tools.
    #[garde(range(min = 1, max = AGENTS_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    actors: Option<u32>,
    /// Those that look at screens, images and files.
    #[garde(range(min = 1, max = AGENTS_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    observers: Option<u32>,
}

/// One task: a call of a tool.
#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
struct Task {
    /// What it is for.
    #[serde(default)]
    description: String,
    /// Who does it: an observer looks at the screen, an actor does all else.
    role: Option<Role>,
    /// Name of the tool; `skep tools` lists them.
    #[garde(length(chars, min = 1))]
    tool: String,
    /// Its arguments. Each text may be a template: `{{ tasks.<name>.result }}`.
    #[serde(default)]
    args: Map<String, Value>,
    /// Tasks that must have ended before. Those that a template mentions need not be listed.
    #[serde(default)]
    depends_on: Names,
    /// Skip the task unless this expression holds: `{{ tasks.<name>.result.total > 0 }}`.
    when: Option<String>,
    /// How long one attempt may take; the tool's own deadline if it is left out.
    timeout: Option<Span>,
    /// How often to try again after a failure.
    #[serde(default)]
    #[garde(range(max = RETRIES_MAX))]
    retries: u32,
    /// Its failure is not the run's.
    #[serde(default)]
    allow_failure: bool,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    Coordinator,
    Observer,
    Actor,
}

/// One name, or several.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

impl Default for Names {
    fn default() -> Names {
        Names::Several(Vec::new())
    }
}

/// Whether these are tasks, which are read one by one, so that a fault of one is told with its name.
fn are_tasks(tasks: &Map<String, Value>, _: &()) -> garde::Result {
    let is_task = |task: &Value| value::read::<Task>(task).is_ok_and(|task| task.validate().is_ok());
    let are = (1..=TASKS_MAX).contains(&tasks.len()) && tasks.values().all(is_task);
    if are { Ok(()) } else { Err(garde::Error::new("not tasks")) } // the schema says what is wrong
}

/// The schema by which files are checked.
pub fn schema() -> &'static Schema {
    static SCHEMA: Schema = Schema::of::<File>();
    &SCHEMA
}

/// The JSON Schema of a plan, for editors and for models.
pub fn json_schema() -> &'static Value {
    schema().json()
}

impl File {
    /// The plan, which is called `name` if the file does not say. What `check` found right is not checked again.
    pub(super) fn into_plan(self, name: &str) -> Result<Plan, String> {
        let tasks: Result<Vec<Step>, String> = self.tasks.into_iter().map(|(id, task)| step(id, task)).collect();
        Ok(Plan {
            name: self.name.unwrap_or_else(|| name.to_owned()),
            description: self.description,
            inputs: self.inputs,
            agents: super::Agents { actors: self.agents.actors, observers: self.agents.observers },
            tasks: tasks?,
            report: self.report,
        })
    }
}

fn step(id: String, task: Value) -> Result<Step, String> {
    let task: Task = value::read(&task)
        .map_err(|(pointer, message)| format!("tasks.{id}{}: {message}", pointer.replace('/', ".")))?;
    let role = match task.role {
        None => super::Role::for_tool(&task.tool),
        Some(Role::Coordinator) => super::Role::Coordinator,
        Some(Role::Observer) => super::Role::Observer,
        Some(Role::Actor) => super::Role::Actor,
    };
    let mut step = Step {
        id,
        description: task.description,
        role,
        tool: task.tool,
        args: Value::Object(task.args),
        depends_on: match task.depends_on {
            Names::One(name) => vec![name],
            Names::Several(names) => names,
        },
        when: task.when,
        timeout: task.timeout.map(|span| span.0),
        retries: task.retries,
        allow_failure: task.allow_failure,
    };
    step.infer_dependencies().map_err(|error| format!("tasks.{}: {error}", step.id))?;
    Ok(step)
}

pub(super) fn to_json(plan: &Plan) -> Value {
    let task = |step: &Step| {
        let mut task = json!({
            "description": step.description,
            "role": step.role.name(),
            "tool": step.tool,
            "args": step.args,
            "depends_on": step.depends_on,
            "retries": step.retries,
            "allow_failure": step.allow_failure,
        });
        if let Some(when) = &step.when {
            task["when"] = when.as_str().into();
        }
        if let Some(timeout) = step.timeout {
            task["timeout"] = Span(timeout).to_string().into();
        }
        (step.id.clone(), task)
    };
    let mut file = json!({
        "name": plan.name,
        "description": plan.description,
        "inputs": plan.inputs,
        "agents": Agents { actors: plan.agents.actors, observers: plan.agents.observers },
        "tasks": plan.tasks.iter().map(task).collect::<Map<String, Value>>(),
    });
    if let Some(report) = &plan.report {
        file["report"] = report.as_str().into();
    }
    file
}
