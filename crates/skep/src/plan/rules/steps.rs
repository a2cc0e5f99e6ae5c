//! From actions to the steps of a plan, which use each other's results by templates.

use serde_json::{Value, json};

use super::{
    Joined,
    actions::{Action, By, Counted, Place, Query, Unit},
};
use crate::{
    plan::{Plan, Role, Step, template},
    schema::shorten,
};

/// Lines of a file that are read.
const READ_LINES_MAX: u32 = 100_000;

/// The steps so far.
#[derive(Default)]
pub(super) struct Steps {
    steps: Vec<(Step, Shape)>,
    /// Those of the last clause.
    last: Vec<usize>,
    /// Those of the clauses since the last *then*.
    stage: Vec<usize>,
    /// Those that the clauses of this stage come after.
    before: Vec<usize>,
}

/// What the result of a step looks like, for whoever uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Of a search in files.
    Matches,
    /// Of a search on the web or on X.
    Pages,
    /// Of a list of files.
    Files,
    /// A member of the result is a text.
    Text(&'static str),
    /// Text in images.
    Images,
    /// A file with code.
    Code,
    /// What was counted: `text` for people.
    Composed,
    /// A file was written.
    Written,
}

impl Steps {
    /// One more clause. The error says why it makes no sense here.
    pub(super) fn add(&mut self, action: Action, joined: Joined, text: &str) -> Result<(), String> {
        if joined == Joined::Then && !self.steps.is_empty() {
            self.before = std::mem::take(&mut self.stage);
        }
        // What "it" is: what the clause before gave, or, after *then*, all that the stage before gave.
        let it = if self.stage.is_empty() { self.before.clone() } else { self.last.clone() };
        let added = match action {
            Action::Search { query, place } => vec![self.search(query, place)],
            Action::List { place } => vec![self.list(place)?],
            Action::Read { paths, lines } => {
                let limit = lines.unwrap_or(READ_LINES_MAX);
                let read = |path: String| {
                    self.step(
                        "read",
                        "file_read",
                        json!({"path": literal(&path), "limit": limit}),
                        Shape::Text("content"),
                    )
                };
                paths.into_iter().map(read).collect()
            }
            Action::Fetch { urls } => {
                let fetch =
                    |url: String| self.step("fetch", "fetch_url", json!({"url": literal(&url)}), Shape::Text("text"));
                urls.into_iter().map(fetch).collect()
            }
            Action::Run { command, directory } => {
                let command = match directory {
                    Some(directory) => format!("cd -- {} || exit\n{command}", shell_quoted(&directory)),
                    None => command,
                };
                vec![self.step("run", "bash", json!({"command": literal(&command)}), Shape::Text("stdout"))]
            }
            Action::Generate { language, code } => {
                vec![self.step(
                    "generate",
                    "generate_code",
                    json!({"language": language, "code": literal(&code)}),
                    Shape::Code,
                )]
            }
            Action::Execute => vec![self.execute(&it)?],
            Action::Look { images } if images.is_empty() => {
                vec![self.step("look", "observe_screen", json!({}), Shape::Text("text"))]
            }
            Action::Look { images } => {
                let images: Vec<Value> = images.iter().map(|image| literal(image)).collect();
                vec![self.step("look", "observe_screen", json!({"images": images}), Shape::Images)]
            }
            Action::Count { what, by } => vec![self.count(what, by, &it)?],
            Action::Show => {
                let text = self.text_of(&it)?;
                vec![self.compose("show", json!({"text": text}))]
            }
            Action::Save { path } => {
                let content =
                    if path.to_lowercase().ends_with(".json") { self.json_of(&it)? } else { self.text_of(&it)? };
                vec![self.step(
                    "save",
                    "file_write",
                    json!({"path": literal(&path), "content": content}),
                    Shape::Written,
                )]
            }
        };
        for index in &added {
            self.steps[*index].0.description = text.to_owned();
        }
        self.stage.extend(&added);
        self.last = added;
        if self.steps.len() > crate::plan::TASKS_MAX {
            return Err("these are too many steps".to_owned());
        }
        Ok(())
    }

    /// The plan of these steps. Its report shows what no other step took up.
    pub(super) fn into_plan(self, sentence: &str) -> Plan {
        let name: String = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
        let used = |id: &str| self.steps.iter().any(|(step, _)| step.depends_on.iter().any(|needed| needed == id));
        let mut report = String::from("# {{ run.name | plain }}\n");
        for (step, shape) in &self.steps {
            let task = format!("tasks.{}", step.id);
            let heading = format!("\n## {{{{ {} | plain }}}}\n\n", quoted(&step.description));
            let failure = format!(
                "{{{{ {task}.status }}}}{{% if {task}.error %}}: {{{{ {task}.error | plain }}}}{{% endif %}}\n"
            );
            match used(&step.id) && *shape != Shape::Written {
                true => report += &format!("{{% if {task}.status != \"completed\" %}}{heading}{failure}{{% endif %}}"),
                false => {
                    let shown = shape.shown(&format!("{task}.result"));
                    report += &format!(
                        "{heading}{{% if {task}.status == \"completed\" %}}{shown}{{% else %}}{failure}{{% endif %}}"
                    );
                }
            }
        }
        Plan {
            name: shorten(&name, 80),
            description: shorten(&name, crate::plan::NAME_CHARS_MAX),
            tasks: self.steps.into_iter().map(|(step, _)| step).collect(),
            report: Some(report),
            ..Plan::default()
        }
    }

    /// One more step, after those of the stage before. Returns its index.
    fn step(&mut self, name: &str, tool: &str, args: Value, shape: Shape) -> usize {
        let taken = |id: &str| self.steps.iter().any(|(step, _)| step.id == id);
        let id = (2..).map(|number| format!("{name}_{number}")).find(|id| !taken(id));
        let id = if taken(name) { id.unwrap_or_default() } else { name.to_owned() };
        let mut step = Step {
            id,
            description: String::new(),
            role: if tool == "compose" { Role::Coordinator } else { Role::for_tool(tool) },
            tool: tool.to_owned(),
            args,
            depends_on: self.before.iter().map(|index| self.steps[*index].0.id.clone()).collect(),
            when: None,
            timeout: None,
            retries: 0,
            allow_failure: false,
        };
        let inferred = step.infer_dependencies();
        debug_assert!(inferred.is_ok(), "{inferred:?}");
        self.steps.push((step, shape));
        self.steps.len() - 1
    }

    fn compose(&mut self, name: &str, args: Value) -> usize {
        self.step(name, "compose", args, Shape::Composed)
    }

    fn search(&mut self, query: Query, place: Place) -> usize {
        let mut args = json!({"query": literal(&query.text)});
        let shape = match place {
            Place::Files { path, glob } => {
                set(&mut args, "path", path.map(|path| literal(&path)));
                set(&mut args, "glob", glob.map(|glob| literal(&glob)));
                set(&mut args, "regex", query.is_pattern.then_some(true));
                set(&mut args, "case_sensitive", query.case_sensitive);
                Shape::Matches
            }
            Place::Web => {
                args["source"] = "web".into();
                Shape::Pages
            }
            Place::X => {
                args["source"] = "x".into();
                Shape::Pages
            }
        };
        self.step("search", "search", args, shape)
    }

    fn list(&mut self, place: Place) -> Result<usize, String> {
        let Place::Files { path, glob } = place else { return Err("only files can be listed".to_owned()) };
        let mut args = json!({});
        set(&mut args, "path", path.map(|path| literal(&path)));
        set(&mut args, "glob", glob.map(|glob| literal(&glob)));
        Ok(self.step("list", "list_files", args, Shape::Files))
    }

    fn execute(&mut self, it: &[usize]) -> Result<usize, String> {
        let is_code = |index: &&usize| self.steps[**index].1 == Shape::Code;
        let mut known =
            self.steps.iter().enumerate().filter(|(_, (_, shape))| *shape == Shape::Code).map(|(index, _)| index);
        let code = it.iter().rev().find(is_code).copied().or_else(|| known.next_back());
        let code = code.ok_or("no code was generated before; put a command between backticks to run that")?;
        let path = format!("{{{{ {}.path }}}}", self.result(code));
        Ok(self.step("execute", "execute_generated_code", json!({"path": path}), Shape::Text("stdout")))
    }

    fn result(&self, index: usize) -> String {
        format!("tasks.{}.result", self.steps[index].0.id)
    }

    /// What "it" is, which must be something, all of one shape.
    fn shape(&self, it: &[usize]) -> Result<Shape, String> {
        let shapes: Vec<Shape> = it.iter().map(|index| self.steps[*index].1).collect();
        match shapes[..] {
            [] => Err("nothing came before that this could be about".to_owned()),
            [first, ref rest @ ..] if rest.iter().all(|shape| *shape == first) => Ok(first),
            _ => Err("what came before is of several kinds; say this right after the one that is meant".to_owned()),
        }
    }

    /// The members of the results of these steps, added as lists or numbers are.
    fn joined(&self, it: &[usize], member: &str) -> String {
        let members: Vec<String> = it.iter().map(|index| format!("{}.{member}", self.result(*index))).collect();
        if members.len() == 1 { members.concat() } else { format!("({})", members.join(" + ")) }
    }

    fn count(&mut self, what: Counted, by: Option<By>, it: &[usize]) -> Result<usize, String> {
        let (it, unit) = match what {
            Counted::It => (it.to_vec(), None),
            Counted::Parts(unit) => (it.to_vec(), Some(unit)),
            Counted::Found(action) => match *action {
                Action::Search { query, place } => (vec![self.search(query, place)], None),
                Action::List { place } => (vec![self.list(place)?], None),
                _ => return Err("it can count what a search finds, files, and the lines of a text".to_owned()),
            },
            Counted::PartsOf(unit, path) => {
                let option = match unit {
                    Unit::Lines => "-l",
                    Unit::Words => "-w",
                    Unit::Characters => "-m",
                };
                let command = format!("wc {option} < {}", shell_quoted(&path));
                return Ok(self.step("count", "bash", json!({"command": literal(&command)}), Shape::Text("stdout")));
            }
        };
        let args = match (self.shape(&it)?, by, unit) {
            (Shape::Matches, Some(By::File), None) => {
                let rows = match it.len() {
                    1 => self.joined(&it, "by_file"),
                    _ => format!("{} | tally(\"path\", weight=\"count\")", self.joined(&it, "by_file")),
                };
                let columns = if it.len() == 1 { r#"["path", "count"]"# } else { r#"["value", "count"]"# };
                let total = self.joined(&it, "total");
                counted(&rows, columns, "File", &format!("{{{{ {total} }}}} in {{{{ {rows} | length }}}} files"))
            }
            (Shape::Matches, Some(By::Extension), None) => {
                let rows =
                    format!("{} | tally(\"path\", by=\"extension\", weight=\"count\")", self.joined(&it, "by_file"));
                counted(
                    &rows,
                    r#"["value", "count"]"#,
                    "Extension",
                    &format!("{{{{ {} }}}} in all", self.joined(&it, "total")),
                )
            }
            (Shape::Files, Some(By::Extension), None) => {
                let rows = format!("{} | tally(\"path\", by=\"extension\")", self.joined(&it, "files"));
                counted(
                    &rows,
                    r#"["value", "count"]"#,
                    "Extension",
                    &format!("{{{{ {} }}}} in all", self.joined(&it, "total")),
                )
            }
            (Shape::Matches, None, None) => number(&self.joined(&it, "total"), "matches"),
            (Shape::Pages, None, None) => number(&self.joined(&it, "total"), "results"),
            (Shape::Files, None, None) => number(&self.joined(&it, "total"), "files"),
            (Shape::Text(member), None, unit) if it.len() == 1 => {
                let text = self.joined(&it, member);
                let unit = unit.unwrap_or(Unit::Lines);
                let count = match unit {
                    Unit::Lines => format!("{text} | lines | length"),
                    Unit::Words => format!("{text} | split | length"),
                    Unit::Characters => format!("{text} | length"),
                };
                number(&count, &unit.to_string())
            }
            (Shape::Pages, Some(_), _) => return Err("what is found on the web is in no files to count by".to_owned()),
            _ => return Err("what came before cannot be counted like this".to_owned()),
        };
        Ok(self.compose("count", args))
    }

    /// What these steps gave, as a template for people.
    fn text_of(&self, it: &[usize]) -> Result<String, String> {
        if it.is_empty() {
            return Err("nothing came before that this could be about".to_owned());
        }
        let texts = it.iter().map(|index| self.steps[*index].1.text(&self.result(*index)));
        Ok(texts.collect::<Vec<_>>().join("\n"))
    }

    /// What these steps gave, as JSON.
    fn json_of(&self, it: &[usize]) -> Result<String, String> {
        match it {
            [] => Err("nothing came before that this could be about".to_owned()),
            [one] => Ok(format!("{{{{ {} | tojson(indent=2) }}}}\n", self.result(*one))),
            several => {
                let results: Vec<String> = several.iter().map(|index| self.result(*index)).collect();
                Ok(format!("{{{{ [{}] | tojson(indent=2) }}}}\n", results.join(", ")))
            }
        }
    }
}

impl Shape {
    /// The template that gives it as text of its own, to be written to a file.
    fn text(self, result: &str) -> String {
        match self {
            Shape::Text(member) => format!("{{{{ {result}.{member} }}}}"),
            Shape::Composed | Shape::Images => format!("{{{{ {result}.text }}}}"),
            Shape::Code => format!("{{{{ {result} | tojson(indent=2) }}}}\n"),
            _ => self.shown(result),
        }
    }

    /// The template that shows it in a report.
    fn shown(self, result: &str) -> String {
        match self {
            Shape::Matches => format!(
                "{{{{ {result}.total }}}} found.\n\n{{{{ {result}.results | table([\"path\", \"line\", \"snippet\"], limit=50) }}}}"
            ),
            Shape::Pages => format!("{{{{ {result}.results | table([\"title\", \"url\", \"snippet\"]) }}}}"),
            Shape::Files => format!(
                "{{{{ {result}.total }}}} files.\n\n{{{{ {result}.files | table([\"path\", \"size\"], limit=200) }}}}"
            ),
            Shape::Text(member) => format!("{{{{ {result}.{member} | code }}}}"),
            Shape::Images => format!("{{{{ {result}.images | table([\"path\", \"text\"]) }}}}"),
            Shape::Composed => format!("{{{{ {result}.text }}}}"),
            Shape::Code | Shape::Written => format!("Written to {{{{ {result}.path | inline_code }}}}.\n"),
        }
    }
}

/// A table for people, and its rows for programs.
fn counted(rows: &str, columns: &str, heading: &str, summary: &str) -> Value {
    json!({
        "text": format!("{{{{ {rows} | table({columns}, headings=[\"{heading}\", \"Count\"]) }}}}\n{summary}\n"),
        "data": format!("{{{{ {rows} }}}}"),
    })
}

fn number(expression: &str, of: &str) -> Value {
    json!({"text": format!("{{{{ {expression} }}}} {of}\n"), "data": format!("{{{{ {expression} }}}}")})
}

fn set(args: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        args[name] = value.into();
    }
}

/// A text that no template engine takes for more than it is.
fn literal(text: &str) -> Value {
    match template::is_template(text) {
        true => format!("{{{{ {} }}}}", quoted(text)).into(),
        false => text.into(),
    }
}

/// A text as a constant in an expression.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
