//! From what a project is to be, to who does what in which order: by rules, without a model.
//!
//! The tech stack says which kinds of agents there is work for, and the requirements what that work is. Each requirement
//! becomes one task for each kind that it needs; the kinds build on one another as they do in most projects (the data
//! model, then the API, then what people see, then the tests). The same project always gives the same tasks, and each
//! task says by which rule it is there.
//!
//! The words that the rules know are in `project/words.rs`.

mod breakdown;
mod words;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use skep_core::task::Priority;

pub use self::words::Kind;
use crate::schema::{Schema, shorten};

/// Characters of a project's name, and of a technology.
pub const NAME_CHARS_MAX: usize = 200;
/// Requirements of a project: all of its tasks can be submitted at once.
pub const REQUIREMENTS_MAX: usize = 150;
/// Characters of a requirement.
pub const REQUIREMENT_CHARS_MAX: usize = 500;
/// Entries of a tech stack.
pub const STACK_MAX: usize = 50;
/// Characters of a description, and of the requirements if they are one text.
pub const TEXT_CHARS_MAX: usize = 100_000;

/// A project: what is to be built, and with what.
#[derive(Clone, Debug, Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Skep project")]
pub struct Project {
    /// Its name.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    pub name: String,
    /// What it is, for whoever works on it.
    #[serde(default)]
    #[garde(length(chars, max = TEXT_CHARS_MAX))]
    pub description: String,
    /// What it must be able to do: a text with commas, semicolons or lines between them, or a list.
    #[garde(custom(are_requirements))]
    pub requirements: Requirements,
    /// With what it is built: `frontend`, `backend`, `database`, `cache`, `devops` and others, each a text or a list of texts.
    #[serde(default)]
    #[garde(custom(is_stack))]
    pub tech_stack: Map<String, Value>,
    /// How urgent it is, which all of its tasks are then; `medium` if that is not said.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = PRIORITIES))]
    pub priority: Priority,
}

/// The names of priorities.
pub const PRIORITIES: [&str; 4] = ["critical", "high", "medium", "low"];

/// What a project must be able to do.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Requirements {
    /// With commas, semicolons or lines between them.
    Text(String),
    /// One by one, as they are.
    List(Vec<String>),
}

/// What a project becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breakdown {
    /// The project's name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// The tasks, each after all that it depends on.
    pub tasks: Vec<ProjectTask>,
    /// Entries of the tech stack that no rule knows, with the kind of agent that gets them.
    pub unknown: Vec<Unknown>,
}

/// One task of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProjectTask {
    /// Unique in the project, made from what the task is about.
    pub id: String,
    /// What it is, in a line.
    pub title: String,
    /// What is to be done.
    pub description: String,
    /// Who does it.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// How urgent it is.
    pub priority: Priority,
    /// The ids of the tasks that must be completed before.
    pub depends_on: Vec<String>,
    /// The rule by which it is there, for people.
    pub because: String,
}

/// An entry of the tech stack that no rule knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// Its name and value, as they were given.
    pub entry: String,
    /// Who gets it.
    #[serde(rename = "type")]
    pub kind: Kind,
}

/// The schema by which projects are checked.
pub fn schema() -> &'static Schema {
    static SCHEMA: Schema = Schema::of::<Project>();
    &SCHEMA
}

impl Project {
    /// The tasks that it takes.
    pub fn break_down(&self) -> Breakdown {
        breakdown::of(self)
    }

    /// What is used for what: the entries of the tech stack, each technology by itself.
    fn technologies(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tech_stack.iter().flat_map(|(name, value)| {
            let each =
                value.as_str().into_iter().chain(value.as_array().into_iter().flatten().filter_map(Value::as_str));
            each.map(|technology| (name.as_str(), technology.trim())).filter(|(_, technology)| !technology.is_empty())
        })
    }
}

impl Requirements {
    /// Each by itself, without those that repeat an earlier one.
    pub fn each(&self) -> Vec<&str> {
        let all: Vec<&str> = match self {
            Requirements::Text(text) => parts(text),
            Requirements::List(list) => list.iter().map(String::as_str).collect(),
        };
        let mut each: Vec<&str> = Vec::new();
        for one in all.into_iter().map(|one| one.trim().trim_end_matches('.').trim_end()) {
            if !one.is_empty() && !each.iter().any(|known| known.eq_ignore_ascii_case(one)) {
                each.push(one);
            }
        }
        each
    }
}

/// The parts of a text between commas, semicolons, line ends and a last "and"; what is in brackets stays together.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            ',' | ';' | '\n' if depth == 0 || c == '\n' => {
                parts.push(&text[begin..at]);
                begin = at + 1;
                depth = 0;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    let without_mark = |part: &'_ str| -> usize {
        let trimmed = part.trim_start();
        let rest = trimmed.trim_start_matches(['-', '*', '•']).trim_start();
        let rest = rest.strip_prefix("and ").unwrap_or(rest);
        part.len() - rest.len()
    };
    parts.into_iter().map(|part| &part[without_mark(part)..]).collect()
}

/// Whether there are requirements, and not too many.
pub fn are_requirements(requirements: &Requirements, _: &()) -> garde::Result {
    let each = requirements.each();
    let fault = if each.is_empty() {
        "there is no requirement, so there is nothing to do".to_owned()
    } else if each.len() > REQUIREMENTS_MAX {
        format!("{} requirements are too many; a project may have {REQUIREMENTS_MAX}", each.len())
    } else if let Some(long) = each.iter().find(|one| one.chars().count() > REQUIREMENT_CHARS_MAX) {
        format!("a requirement has more than {REQUIREMENT_CHARS_MAX} characters: {}", shorten(long, 60))
    } else {
        return Ok(());
    };
    Err(garde::Error::new(fault))
}

/// Whether each entry is a text or a list of texts, and there are not too many.
pub fn is_stack(stack: &Map<String, Value>, _: &()) -> garde::Result {
    let is_text = |value: &Value| value.as_str().is_some_and(|text| text.chars().count() <= NAME_CHARS_MAX);
    let are_texts = |value: &Value| is_text(value) || value.as_array().is_some_and(|all| all.iter().all(is_text));
    if stack.len() > STACK_MAX {
        let fault = format!("{} entries are too many; a tech stack may have {STACK_MAX}", stack.len());
        return Err(garde::Error::new(fault));
    }
    match stack.iter().find(|(_, value)| !are_texts(value)) {
        Some((name, _)) => Err(garde::Error::new(format!(
            "{name} is neither a text nor a list of texts, of {NAME_CHARS_MAX} characters each at most"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
