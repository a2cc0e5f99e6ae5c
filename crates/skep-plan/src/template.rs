//! Templates: how a task uses the inputs of its plan and the results of other tasks, and how a report is written.
//!
//! The language is Jinja's (crate `minijinja`). A text that is one `{{ expression }}` and nothing else gives the value
//! of the expression, be it a number, a list or a table; any other text gives text. What a template may see is its [`Scope`]; a name that
//! means nothing is an error, never an empty text. `{##` begins a comment, not `{#`, which every other shell script has in it.
//!
//! Nothing is included and nothing is read from disk. How deep a template may go is limited before it is parsed
//! (`syntax.rs`). The engine limits its own steps, but not the memory of the values that it makes, and it cannot be
//! interrupted; so a template that could make large values or take long is rendered by a process of its own, with limits
//! on memory and time ([`renderer`]). [`Scope::render`], [`Scope::truth`] and [`Scope::text`] are the bare engine.

mod arguments;
pub mod filters;
pub mod renderer;
mod syntax;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{Arc, OnceLock},
};

use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior,
    syntax::SyntaxConfig,
    value::{Enumerator, Object, Serde},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::syntax::{Syntax, Use, UseKind};
pub use self::{
    arguments::ArgumentsTemplate,
    syntax::{BLOCKS_DEPTH_MAX, OPERATORS_MAX, TOKENS_MAX, Unquoted},
};

/// Steps of the template engine in one text: far more than a report over [`super::TASKS_MAX`] tasks takes.
pub const FUEL_MAX: u64 = 5_000_000;
/// Bytes that the templates of one task, or a report, may come to; values are counted as JSON.
pub const RENDERED_BYTES_MAX: usize = 8 << 20;

/// What templates see: `inputs`, `run` and `tasks`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scope {
    inputs: minijinja::Value,
    run: minijinja::Value,
    tasks: Arc<Tasks>,
}

/// The run that a template is used in: `run.id`, `run.name`, `run.directory`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The workspace, as a path on this machine.
    pub directory: String,
}

/// The names that a run has in templates.
const RUN: [&str; 3] = ["id", "name", "directory"];
/// The names that a task has in templates.
const TASK: [&str; 3] = ["status", "result", "error"];

/// How a task ended: `tasks.<id>.status`, `.result` and `.error`.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// `status` is `completed`; `result` is the answer of the tool.
    Completed(Value),
    /// `status` is `failed`; `error` says why.
    Failed(String),
    /// `status` is `skipped`: its condition did not hold, or what it needed was not there.
    Skipped,
}

/// The tasks that have ended, in the order in which they were added.
#[derive(Clone, Debug, Default)]
struct Tasks {
    order: Vec<String>,
    ended: BTreeMap<String, minijinja::Value>,
}

impl Object for Tasks {
    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        self.ended.get(key.as_str()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let ended = self.order.iter().filter(|id| self.ended.contains_key(*id));
        Enumerator::Values(ended.map(|id| minijinja::Value::from(id.as_str())).collect())
    }
}

/// Why a template gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateError {
    /// JSON Pointer (RFC 6901) of the text, in what was rendered.
    pub pointer: String,
    /// The line in the text, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pointer, line, message } = self;
        match pointer.trim_start_matches('/').replace('/', ".") {
            path if path.is_empty() && *line == 1 => write!(f, "{message}"),
            path if path.is_empty() => write!(f, "line {line}: {message}"),
            path if *line == 1 => write!(f, "{path}: {message}"),
            path => write!(f, "{path}, line {line}: {message}"),
        }
    }
}

impl std::error::Error for TemplateError {}

impl Scope {
    /// What the templates of a run with these inputs see before any task has ended.
    pub fn new(inputs: &Map<String, Value>, run: &Run) -> Scope {
        let run = json!({"id": run.id, "name": run.name, "directory": run.directory});
        Scope { inputs: Serde(inputs).into(), run: Serde(run).into(), tasks: Arc::default() }
    }

    /// A task has ended. Templates that list the tasks see them in the order of these calls.
    pub fn ended(&mut self, id: &str, how: &Ended) {
        let (status, result, error) = match how {
            Ended::Completed(result) => ("completed", result.clone(), Value::Null),
            Ended::Failed(error) => ("failed", Value::Null, error.as_str().into()),
            Ended::Skipped => ("skipped", Value::Null, Value::Null),
        };
        let task = Serde(json!({"status": status, "result": result, "error": error})).into();
        let tasks = Arc::make_mut(&mut self.tasks);
        if tasks.ended.insert(id.to_owned(), task).is_none() {
            tasks.order.push(id.to_owned());
        }
    }

    /// The value with every template in it replaced by what it gives. Keys are not templates. This may take a good part
    /// of a second, so asynchronous code does it where blocking is allowed.
    pub fn render(&self, value: &Value) -> Result<Value, TemplateError> {
        let mut budget = Budget::default();
        self.render_below(value, "", &mut budget)
    }

    fn render_below(&self, value: &Value, pointer: &str, budget: &mut Budget) -> Result<Value, TemplateError> {
        match value {
            Value::String(text) if is_template(text) => value_of(text, self.values(), budget)
                .map_err(|error| TemplateError { pointer: pointer.to_owned(), ..error }),
            Value::Array(elements) => {
                let render = |(index, element)| self.render_below(element, &format!("{pointer}/{index}"), budget);
                elements.iter().enumerate().map(render).collect()
            }
            Value::Object(members) => {
                let mut rendered = Map::new();
                for (name, value) in members {
                    let below = skep_tools::value::member(pointer, name);
                    rendered.insert(name.clone(), self.render_below(value, &below, budget)?);
                }
                Ok(Value::Object(rendered))
            }
            other => Ok(other.clone()),
        }
    }

    /// Whether a condition holds: one expression, with or without `{{ }}`. Nothing, zero, and what is empty do not hold.
    pub fn truth(&self, condition: &str) -> Result<bool, TemplateError> {
        let expression = expression(condition).unwrap_or(condition.trim());
        Ok(evaluate(expression, self.values())?.is_true())
    }

    /// The text that a template gives, such as a report.
    pub fn text(&self, template: &str) -> Result<String, TemplateError> {
        text_of(template, self.values(), &mut Budget::default())
    }

    fn values(&self) -> minijinja::Value {
        let tasks = minijinja::Value::from_dyn_object(Arc::clone(&self.tasks));
        minijinja::context! { inputs => self.inputs.clone(), run => self.run.clone(), tasks => tasks }
    }
}

/// What a text gives where a template sees these values: the value of its expression, if it is nothing else, or a text.
fn value_of(template: &str, values: minijinja::Value, budget: &mut Budget) -> Result<Value, TemplateError> {
    match expression(template) {
        Some(expression) => {
            let value = evaluate(expression, values)?;
            // Counted before it is built: it may be a promise of far more than it takes itself.
            serde_json::to_writer(&mut *budget, &value).map_err(|error| match error.is_io() {
                true => too_large(),
                false => TemplateError::new(1, format!("the value cannot be written as JSON: {error}")),
            })?;
            serde_json::to_value(&value).map_err(|error| TemplateError::new(1, error.to_string()))
        }
        None => Ok(text_of(template, values, budget)?.into()),
    }
}

fn evaluate(expression: &str, values: minijinja::Value) -> Result<minijinja::Value, TemplateError> {
    syntax::of_expression(expression)?; // not too deep for the compiler
    let compiled = environment().compile_expression(expression).map_err(|error| explain(&error))?;
    let value = compiled.eval(values).map_err(|error| explain(&error))?;
    if value.is_undefined() {
        let message = format!("`{}` is not there", skep_tools::schema::shorten(expression, 100));
        return Err(TemplateError::new(1, message));
    }
    Ok(value)
}

fn text_of(template: &str, values: minijinja::Value, budget: &mut Budget) -> Result<String, TemplateError> {
    syntax::of_template(template)?; // not too deep for the compiler
    let compiled = environment().template_from_str(template).map_err(|error| explain(&error))?;
    let mut text = Kept { budget, bytes: Vec::new(), is_full: false };
    let done = compiled.render_captured_to(values, &mut text).map(drop);
    match done {
        Err(_) if text.is_full => Err(too_large()),
        Err(error) => Err(explain(&error)),
        Ok(()) => Ok(String::from_utf8_lossy(&text.bytes).into_owned()),
    }
}

/// See [`Scope::render`].
pub fn render(value: &Value, scope: &Scope) -> Result<Value, TemplateError> {
    scope.render(value)
}

impl TemplateError {
    fn new(line: usize, message: impl Into<String>) -> TemplateError {
        TemplateError { pointer: String::new(), line, message: message.into() }
    }
}

/// Bytes that may still come out.
struct Budget(usize);

impl Default for Budget {
    fn default() -> Budget {
        Budget(RENDERED_BYTES_MAX)
    }
}

impl io::Write for Budget {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What came out, within a budget.
struct Kept<'a> {
    budget: &'a mut Budget,
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for Kept<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.budget.write(bytes).inspect_err(|_| self.is_full = true)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_large() -> TemplateError {
    TemplateError::new(1, format!("the templates come to more than {RENDERED_BYTES_MAX} bytes"))
}

/// The engine, with its limits and filters.
fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL_MAX));
        environment.set_debug(true); // errors then know the part of the text that they are about
        environment.set_syntax(syntax_config());
        filters::add_to(&mut environment);
        environment
    })
}

fn syntax_config() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().comment_delimiters("{##", "##}").keep_trailing_newline(true).build();
    syntax.expect("the delimiters differ")
}

/// Whether a text is more than itself.
pub fn is_template(text: &str) -> bool {
    ["{{", "{%", "{##"].iter().any(|mark| text.contains(mark))
}

/// The expression in a text that is `{{ expression }}` and nothing else but blanks around it.
fn expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let inner = inner.strip_suffix(['-', '+']).unwrap_or(inner).trim();
    syntax::of_expression(inner).is_ok().then_some(inner)
}

/// What the engine has against a template, in one sentence.
fn explain(error: &Error) -> TemplateError {
    let part = error.template_source().zip(error.range()).and_then(|(source, range)| source.get(range));
    let message = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("takes more than {FUEL_MAX} steps"),
        (ErrorKind::UndefinedError, _) => match part {
            Some(part) => format!("`{}` uses something that is not there", skep_tools::schema::shorten(part, 100)),
            None => "uses something that is not there".to_owned(),
        },
        (ErrorKind::SyntaxError, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    let message = match std::error::Error::source(error) {
        Some(source) => format!("{message}: {source}"),
        None => message,
    };
    TemplateError::new(error.line().unwrap_or(1), message)
}

/// A name that a template uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// `tasks.<id>`, and what follows.
    Task {
        /// The task.
        id: String,
        /// `status`, `result`, `error`, or a mistake.
        field: Option<String>,
        /// The member of the result.
        member: Option<String>,
    },
    /// All tasks, or one that only the run will tell.
    AnyTask,
    /// `inputs.<name>`
    Input(String),
    /// `run.<name>`
    Run(String),
    /// Nothing that is known.
    Unknown(String),
}

impl Reference {
    fn of(mut names: impl Iterator<Item = String>) -> Option<Reference> {
        let (root, first) = (names.next()?, names.next());
        match (root.as_str(), first) {
            ("tasks", Some(id)) => Some(Reference::Task { id, field: names.next(), member: names.next() }),
            ("tasks", None) => Some(Reference::AnyTask),
            ("inputs", first) => first.map(Reference::Input),
            ("run", first) => first.map(Reference::Run),
            (global, _) if environment().globals().any(|(name, _)| name == global) => None,
            _ => Some(Reference::Unknown(root)),
        }
    }

    /// What is wrong with it, whatever the plan.
    pub fn fault(&self) -> Option<String> {
        match self {
            Reference::Task { id, field: Some(field), .. } if !TASK.contains(&field.as_str()) => {
                Some(format!("`tasks.{id}.{field}` means nothing; a task has {}", TASK.join(", ")))
            }
            Reference::Run(name) if !RUN.contains(&name.as_str()) => {
                Some(format!("`run.{name}` means nothing; a run has {}", RUN.join(", ")))
            }
            Reference::Unknown(name) => {
                let help = skep_tools::schema::suggest(name, ["tasks", "inputs", "run"]);
                let help = help.unwrap_or_else(|| "templates see tasks, inputs and run".to_owned());
                Some(format!("`{name}` means nothing; {help}"))
            }
            _ => None,
        }
    }
}

/// What a check has to know of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The names that it uses.
    pub references: BTreeSet<Reference>,
    /// Filters, tests, functions and methods that there are not: the line, and what is wrong.
    pub unknown: Vec<(usize, String)>,
    /// Values that would be read as a part of the script, were the text one of a shell.
    pub unquoted: Vec<Unquoted>,
}

/// What a template says, or why it is none. Nothing of it is run.
pub fn facts(template: &str) -> Result<Facts, TemplateError> {
    if !is_template(template) {
        return Ok(Facts::default());
    }
    Ok(Facts::of(syntax::of_template(template)?))
}

/// What a condition says, or why it is none.
pub fn condition_facts(condition: &str) -> Result<Facts, TemplateError> {
    let expression = match expression(condition) {
        Some(expression) => expression,
        None if is_template(condition) => {
            syntax::of_template(condition)?;
            return Err(TemplateError::new(1, "a condition is one expression: `{{ … }}` and nothing around it"));
        }
        None => condition.trim(),
    };
    Ok(Facts::of(syntax::of_expression(expression)?))
}

impl Facts {
    fn of(syntax: Syntax) -> Facts {
        let unknown = syntax.uses.iter().filter_map(|used| Some((used.line, unknown(used)?))).collect();
        Facts { references: syntax.references, unknown, unquoted: syntax.unquoted }
    }
}

/// What is wrong with the use of a name, if it means nothing.
fn unknown(used: &Use) -> Option<String> {
    let Use { kind, name, .. } = used;
    let shown = skep_tools::schema::shorten(name, 100);
    let (what, names) = match kind {
        UseKind::Filter if !engine_knows(name, "name is filter") => ("filter", &filters::FILTER_NAMES[..]),
        UseKind::Test if !engine_knows(name, "name is test") => ("test", &filters::TEST_NAMES[..]),
        UseKind::Function if !environment().globals().any(|(global, _)| global == name) => {
            ("function", &filters::FUNCTION_NAMES[..])
        }
        UseKind::Method => {
            let help = skep_tools::schema::nearest_name(method_as_filter(name), filters::FILTER_NAMES);
            let help = help.map_or_else(String::new, |filter| format!(": `value | {filter}`"));
            return Some(format!("there is no method `{shown}`; values have filters instead{help}"));
        }
        _ => return None,
    };
    let help = skep_tools::schema::suggest(name, names.iter().copied());
    Some(format!("there is no {what} `{shown}`; {}", help.unwrap_or_else(|| format!("there are {}", names.join(", ")))))
}

/// The engine lists its globals, but not its filters and tests; it can be asked about one of them.
fn engine_knows(name: &str, question: &str) -> bool {
    let answer = environment().compile_expression(question).and_then(|asked| asked.eval(minijinja::context! { name }));
    answer.is_ok_and(|answer| answer.is_true())
}

/// The filter that does what a method of this name does in Python.
fn method_as_filter(method: &str) -> &str {
    match method {
        "strip" => "trim",
        "splitlines" => "lines",
        "keys" | "values" => "items",
        "get" => "default",
        other => other,
    }
}

#[cfg(test)]
mod tests;
