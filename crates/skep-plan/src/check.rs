//! Every error in a plan at once, each with its line.
//!
//! The checks read the plan as plain JSON values rather than as its types, so that one error does not hide another: a
//! task with a misspelt field still has its templates checked. What only a run can tell (what a template gives, whether a
//! file exists) is not checked here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use skep_tools::{
    document::{Diagnostic, Document, PROBLEMS_MAX},
    duration::Span,
    schema::suggest,
    tool::DEADLINE_MAX,
    value::member,
};

use super::{
    ID_CHARS_MAX, Step, TASKS_MAX, Tools, file,
    template::{self, Facts, Reference, TemplateError, Unquoted},
};

/// Everything that is wrong with a plan; without tools, their names and arguments are not looked at.
pub fn problems(document: &Document, tools: Option<&dyn Tools>) -> Vec<Diagnostic> {
    let empty = Map::new();
    let tasks = document.value.get("tasks").and_then(Value::as_object).unwrap_or(&empty);
    if tasks.len() > TASKS_MAX {
        let message = format!("{} tasks are too many; a plan may have {TASKS_MAX}", tasks.len());
        return vec![document.problem("/tasks", message).help("one task can work through a list by itself")];
    }
    let mut check = Check {
        document,
        tools,
        tasks,
        inputs: document.value.get("inputs").and_then(Value::as_object).unwrap_or(&empty),
        problems: document.validate(file::schema()),
    };
    let mut needs = BTreeMap::new();
    for (id, task) in tasks {
        if check.problems.len() >= PROBLEMS_MAX {
            break;
        }
        needs.insert(id.as_str(), check.task(id, task));
    }
    check.report();
    check.cycles(&needs);
    let mut problems = check.problems;
    problems.sort_by_key(|problem| problem.at);
    problems.dedup();
    problems.truncate(PROBLEMS_MAX);
    problems
}

impl Step {
    /// Add the tasks that the templates mention to those that were listed.
    pub(super) fn infer_dependencies(&mut self) -> Result<(), TemplateError> {
        let mut mentioned = Vec::new();
        texts(&self.args, "", &mut |_, text| {
            mentioned.push(template::facts(text));
        });
        mentioned.extend(self.when.as_deref().map(template::condition_facts));
        let mut depends_on: Vec<String> = Vec::new();
        for id in std::mem::take(&mut self.depends_on) {
            if !depends_on.contains(&id) {
                depends_on.push(id);
            }
        }
        let mentioned = mentioned.into_iter().collect::<Result<Vec<_>, _>>()?;
        for reference in mentioned.into_iter().flat_map(|facts| facts.references) {
            match reference {
                Reference::Task { id, .. } if !depends_on.contains(&id) => depends_on.push(id),
                _ => {}
            }
        }
        self.depends_on = depends_on;
        Ok(())
    }
}

/// Every text that may be a template, with its pointer.
fn texts(value: &Value, pointer: &str, found: &mut dyn FnMut(&str, &str)) {
    match value {
        Value::String(text) if template::is_template(text) => found(pointer, text),
        Value::Array(elements) => {
            elements.iter().enumerate().for_each(|(index, value)| texts(value, &format!("{pointer}/{index}"), found));
        }
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| texts(value, &member(pointer, name), found));
        }
        _ => {}
    }
}

/// The argument of this task that is a shell script.
fn script(task: &Map<String, Value>) -> Option<&'static str> {
    match task.get("tool")?.as_str()? {
        "bash" => Some("command"),
        "generate_code" | "execute_generated_code" => {
            let text = |name| task.get("args").and_then(|args| args.get(name)).and_then(Value::as_str);
            let is_bash = matches!(text("language"), Some("bash" | "sh" | "shell"))
                || text("path").is_some_and(|path| path.ends_with(".sh") || path.ends_with(".bash"));
            is_bash.then_some("code")
        }
        _ => None,
    }
}

struct Check<'a> {
    document: &'a Document,
    tools: Option<&'a dyn Tools>,
    tasks: &'a Map<String, Value>,
    inputs: &'a Map<String, Value>,
    problems: Vec<Diagnostic>,
}

/// Which tasks a task needs, and where it says so.
type Needs = BTreeMap<String, String>;

impl<'a> Check<'a> {
    fn say(&mut self, pointer: &str, message: impl Into<String>, help: Option<String>) {
        let problem = self.document.problem(pointer, message);
        self.problems.push(Diagnostic { help, ..problem });
    }

    fn task(&mut self, id: &'a str, task: &'a Value) -> Needs {
        let at = member("/tasks", id);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if id.is_empty() || id.len() > ID_CHARS_MAX || !id.chars().all(is_plain) {
            self.say(&at, format!("a task's name is 1 to {ID_CHARS_MAX} of A-Z a-z 0-9 _ -"), None);
        }
        let Some(task) = task.as_object() else { return Needs::new() }; // the schema has complained
        let args = task.get("args").unwrap_or(&Value::Null);
        if let Some(tool) = task.get("tool").and_then(Value::as_str) {
            self.tool(&at, tool, args);
        }
        if let Some(timeout) = task.get("timeout") {
            self.timeout(&member(&at, "timeout"), timeout);
        }
        let mut needs = Needs::new();
        self.depends_on(&at, task, &mut needs);
        self.templates(id, &at, task, &mut needs);
        needs
    }

    fn tool(&mut self, at: &str, name: &'a str, args: &Value) {
        let Some(tools) = self.tools else { return };
        if tools.is_of_server(name) {
            return; // what the server has is known once it runs
        }
        let Some(tool) = tools.get(name) else {
            let help = suggest(name, tools.known().into_iter().map(|tool| tool.name));
            let help = help.unwrap_or_else(|| "`skep tools` lists those that there are".to_owned());
            let name = skep_tools::schema::shorten(name, ID_CHARS_MAX);
            return self.say(&member(at, "tool"), format!("unknown tool {name:?}"), Some(help));
        };
        if !args.is_object() && !args.is_null() {
            return; // the schema has complained
        }
        let empty = Value::Object(Map::new());
        let violations = tool.arguments.violations(if args.is_null() { &empty } else { args });
        let mut templates = Vec::new();
        texts(args, "", &mut |pointer, _| templates.push(pointer.to_owned()));
        for violation in violations {
            // What a template gives is not known yet, so neither is whether it fits.
            let below = format!("{}/", violation.pointer);
            let is_open = |template: &String| {
                *template == violation.pointer || (violation.is_choice && template.starts_with(&below))
            };
            if !templates.iter().any(is_open) {
                self.say(&format!("{at}/args{}", violation.pointer), violation.message, violation.help);
            }
        }
    }

    fn timeout(&mut self, pointer: &str, value: &Value) {
        let Ok(Span(timeout)) = serde_json::from_value(value.clone()) else { return }; // the schema has complained
        if timeout.is_zero() {
            self.say(pointer, "leaves no time at all", None);
        } else if timeout > DEADLINE_MAX {
            self.say(pointer, format!("a call may take at most {}", Span(DEADLINE_MAX)), None);
        }
    }

    fn depends_on(&mut self, at: &str, task: &Map<String, Value>, needs: &mut Needs) {
        let at = member(at, "depends_on");
        let mut need = |pointer: String, name: &Value| {
            let Some(name) = name.as_str() else { return }; // the schema has complained
            if self.tasks.contains_key(name) {
                needs.entry(name.to_owned()).or_insert(pointer);
            } else {
                let (message, help) = self.no_task(name);
                self.say(&pointer, message, help);
            }
        };
        match task.get("depends_on") {
            Some(Value::Array(names)) => {
                names.iter().enumerate().for_each(|(index, name)| need(format!("{at}/{index}"), name));
            }
            Some(name) => need(at, name),
            None => {}
        }
    }

    fn no_task(&self, name: &str) -> (String, Option<String>) {
        let message = format!("there is no task {:?}", skep_tools::schema::shorten(name, ID_CHARS_MAX));
        (message, suggest(name, self.tasks.keys().map(String::as_str)))
    }

    /// The templates of a task: its arguments and its condition.
    fn templates(&mut self, id: &str, at: &str, task: &Map<String, Value>, needs: &mut Needs) {
        let mut found = Vec::new();
        if let Some(args) = task.get("args") {
            texts(args, &member(at, "args"), &mut |pointer, text| {
                found.push((pointer.to_owned(), text.to_owned(), template::facts(text)));
            });
        }
        if let Some(when) = task.get("when").and_then(Value::as_str) {
            found.push((member(at, "when"), when.to_owned(), template::condition_facts(when)));
        }
        let script = script(task).map(|name| member(&member(at, "args"), name));
        for (pointer, text, facts) in found {
            if let Ok(facts) = &facts
                && script.as_ref() == Some(&pointer)
            {
                facts.unquoted.iter().take(PROBLEMS_MAX).for_each(|value| self.unquoted(&pointer, value));
            }
            for (reference, line) in self.references(&pointer, &text, facts) {
                match reference {
                    Reference::Task { id: needed, .. } => {
                        if needed == id {
                            let message = "a task cannot use its own result";
                            self.problems.push(self.document.problem_in_text(&pointer, line, message));
                        } else {
                            needs.entry(needed).or_insert_with(|| pointer.clone());
                        }
                    }
                    Reference::AnyTask if !task.contains_key("depends_on") => {
                        let message = "which tasks this uses cannot be told before the run";
                        let problem = self.document.problem_in_text(&pointer, line, message);
                        self.problems.push(problem.help("list them in depends_on"));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Complain about what a template uses that is not there. Returns what is there, with its line.
    fn references(
        &mut self,
        pointer: &str,
        text: &str,
        facts: Result<Facts, TemplateError>,
    ) -> Vec<(Reference, usize)> {
        let Facts { references, unknown, .. } = match facts {
            Ok(facts) => facts,
            Err(TemplateError { line, message, .. }) => {
                let problem = self.document.problem_in_text(pointer, line, format!("not a template: {message}"));
                let help = "text that is none goes between {% raw %} and {% endraw %}";
                self.problems.push(problem.help(help));
                return Vec::new();
            }
        };
        for (line, message) in unknown.into_iter().take(PROBLEMS_MAX) {
            self.problems.push(self.document.problem_in_text(pointer, line, message));
        }
        let mut known = Vec::new();
        for reference in references {
            let line = line_of(text, &reference);
            match self.fault(&reference) {
                Some((message, help)) => {
                    let problem = self.document.problem_in_text(pointer, line, message);
                    self.problems.push(Diagnostic { help, ..problem });
                }
                None => known.push((reference, line)),
            }
        }
        known
    }

    /// Warn of a value that goes into a shell script as it is.
    fn unquoted(&mut self, pointer: &str, value: &Unquoted) {
        let Unquoted { expression, input, line } = value;
        let is_plain =
            |input: &String| self.inputs.get(input).is_some_and(|value| value.is_number() || value.is_boolean());
        if input.as_ref().is_some_and(is_plain) {
            return; // `--set` keeps it so
        }
        let message = format!("`{{{{ {expression} }}}}` becomes a part of the script, whatever is in it");
        let help = format!("write `{{{{ {expression} | quote }}}}`, without quotes around it, to make it one word");
        self.problems.push(self.document.problem_in_text(pointer, *line, message).warning().help(help));
    }

    fn fault(&self, reference: &Reference) -> Option<(String, Option<String>)> {
        if let Some(message) = reference.fault() {
            return Some((message, None));
        }
        match reference {
            Reference::Task { id, .. } if !self.tasks.contains_key(id) => Some(self.no_task(id)),
            Reference::Task { id, field: Some(field), member: Some(member) } if field == "result" => {
                let known = self.members(id)?;
                let is_known = known.iter().any(|name| name == member);
                let message = format!("the result of {id} has no `{member}`");
                let help = suggest(member, known.iter().map(String::as_str));
                let help = help.unwrap_or_else(|| format!("it has {}", known.join(", ")));
                (!is_known).then_some((message, Some(help)))
            }
            Reference::Input(name) if !self.inputs.contains_key(name) => {
                let message = format!("the plan has no input {:?}", skep_tools::schema::shorten(name, ID_CHARS_MAX));
                Some((message, suggest(name, self.inputs.keys().map(String::as_str))))
            }
            _ => None,
        }
    }

    /// The members that the result of a task may have, if its tool says so.
    fn members(&self, id: &str) -> Option<Vec<String>> {
        let tool = self.tasks.get(id)?.get("tool")?.as_str()?;
        let schema = self.tools?.get(tool)?.output_schema();
        let is_open = schema.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false));
        let known = schema.get("properties")?.as_object().filter(|_| !is_open)?;
        Some(known.keys().cloned().collect())
    }

    fn report(&mut self) {
        if let Some(report) = self.document.value.get("report").and_then(Value::as_str) {
            self.references("/report", report, template::facts(report));
        }
    }

    /// Name each cycle once, at the line that closes it.
    fn cycles(&mut self, needs: &BTreeMap<&'a str, Needs>) {
        let order: Vec<&str> = self.tasks.keys().map(String::as_str).collect();
        let mut done: BTreeSet<&str> = BTreeSet::new();
        for start in order {
            // The way to the task that is looked at, each with the needs that are left to follow.
            let mut way = Vec::new();
            way.extend(
                needs.get_key_value(start).filter(|_| !done.contains(start)).map(|(id, needs)| (*id, needs.iter())),
            );
            while let Some((id, left)) = way.last_mut() {
                let id = *id;
                let Some((next, pointer)) = left.next() else {
                    done.insert(id);
                    way.pop();
                    continue;
                };
                if let Some(first) = way.iter().position(|(id, _)| id == next) {
                    let mut names: Vec<&str> = way[first..].iter().map(|(id, _)| *id).collect();
                    names.push(next);
                    let message = match &names[..] {
                        [only, _] => format!("{only} depends on itself"),
                        _ => format!("the tasks wait for each other: {}", cycle(&names)),
                    };
                    self.say(pointer, message, None);
                } else if !done.contains(next.as_str()) {
                    way.extend(needs.get_key_value(next.as_str()).map(|(id, needs)| (*id, needs.iter())));
                }
            }
        }
    }
}

/// More tasks of a cycle are not named.
const CYCLE_SHOWN_MAX: usize = 12;

fn cycle(names: &[&str]) -> String {
    match names.len() {
        0..=CYCLE_SHOWN_MAX => names.join(" → "),
        all => {
            let shown = names[..CYCLE_SHOWN_MAX - 1].join(" → ");
            format!("{shown} → … ({} more) → {}", all - CYCLE_SHOWN_MAX, names[all - 1])
        }
    }
}

/// The line of a text in which a name is first used.
fn line_of(text: &str, reference: &Reference) -> usize {
    let name = match reference {
        Reference::Task { id, .. } => id,
        Reference::Input(name) | Reference::Run(name) | Reference::Unknown(name) => name,
        Reference::AnyTask => "tasks",
    };
    let at = text.find(name).unwrap_or_default();
    1 + text[..at].matches('\n').count()
}

#[cfg(test)]
mod tests;
