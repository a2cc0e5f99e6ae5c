//! From a sentence to a plan without a model, for the few forms of [`FORMS`], joined by commas, *and* and *then*.
//!
//! Rules guess wrong where people speak freely. So each clause must be one of the forms to its last word: a word that is
//! left over refuses the whole sentence, and half of a sentence is never run. What is between quotes or backticks is
//! never read as anything but itself. All else is for a model, or for a plan file.

use std::fmt;

use serde_json::{Value, json};

use super::{Plan, Role, Step, template};
use crate::schema::shorten;

/// Bytes in a sentence.
pub const SENTENCE_BYTES_MAX: usize = 64 << 10;
/// Clauses in a sentence.
pub const CLAUSES_MAX: usize = 64;
/// Lines of a file that are read.
const READ_LINES_MAX: u32 = 100_000;
/// Longer clauses are cut in messages.
const CLAUSE_CHARS_MAX: usize = 200;

/// What is understood; `[…]` may be left out. A test plans an instance of each.
pub const FORMS: [&str; 8] = [
    "search for WORD|\"TEXT\" [here|in PATH]        search for TODO here",
    "search the web for WORDS                     search the web for link checkers",
    "list [*.rs] files [here|in PATH]             list *.rs files in src",
    "count [*.rs] files [in PATH] [by extension]  count files by extension",
    "read FILE                                    read README.md",
    "fetch URL                                    fetch https://example.com",
    "run `COMMAND`                                run `grep -c '' README.md`",
    "count|save what came before                  list files, then count them by extension and save it to found.txt",
];

/// Why a sentence became no plan, for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// Each clause, and what it was taken for, or why it was not understood.
    pub clauses: Vec<(String, Result<String, String>)>,
}

/// The plan that a sentence asks for.
pub fn plan(sentence: &str) -> Result<Plan, NotUnderstood> {
    let whole = |reason: String| {
        let text = shorten(sentence.trim(), CLAUSE_CHARS_MAX);
        NotUnderstood { clauses: vec![(text, Err(reason))] }
    };
    if sentence.len() > SENTENCE_BYTES_MAX {
        return Err(whole(format!("a sentence has at most {SENTENCE_BYTES_MAX} bytes")));
    }
    let words = split(sentence);
    let clauses = clauses(&words).map_err(|reason| whole(reason.to_owned()))?;
    if clauses.len() > CLAUSES_MAX {
        return Err(whole(format!("a sentence has at most {CLAUSES_MAX} steps; a plan file has more room")));
    }
    let (mut steps, mut read) = (Steps::default(), Vec::new());
    for clause in &clauses {
        let text: Vec<&str> = clause.words.iter().map(|word| word.written).collect();
        let text = shorten(&text.join(" "), CLAUSE_CHARS_MAX);
        read.push((text, steps.clause(clause)));
    }
    match read.iter().any(|(_, meaning)| meaning.is_err()) {
        true => Err(NotUnderstood { clauses: read }),
        false => Ok(steps.into_plan(sentence)),
    }
}

impl std::error::Error for NotUnderstood {}

/// What was understood and what was not, what would be, and how to have more understood.
impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the sentence is not understood, so nothing was run:")?;
        for (text, meaning) in &self.clauses {
            match meaning {
                Ok(meaning) => writeln!(f, "  understood: {text}\n              ({meaning})")?,
                Err(reason) => writeln!(f, "  not:        {text}\n              ({reason})")?,
            }
        }
        writeln!(f, "Without a model these are understood, joined by commas, \"and\", \"then\":")?;
        FORMS.iter().try_for_each(|form| writeln!(f, "  {form}"))?;
        f.write_str(HELP)
    }
}

/// How to have any sentence understood.
const HELP: &str =
    "For anything else write a plan file (`skep check --schema` prints its form), or name a model in skep.toml:
  [model]
  provider = \"openai\"               # or anthropic, xai, ollama, compatible (with base_url)
  model = \"…\"
  api_key_env = \"OPENAI_API_KEY\"    # the variable that holds the key
or in the environment: SKEP_MODEL, SKEP_MODEL_PROVIDER, SKEP_MODEL_BASE_URL.";

/// A word, or a text between quotes or backticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word<'a> {
    kind: Kind,
    text: &'a str,
    /// With its quotes.
    written: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Quoted,
    /// Between backticks.
    Code,
    /// A comma, a semicolon, or the end of a sentence.
    Stop,
}

impl Word<'_> {
    fn is(&self, word: &str) -> bool {
        self.kind == Kind::Plain && self.text.eq_ignore_ascii_case(word)
    }
}

/// Cut a sentence into words. Punctuation after a word is one of its own.
fn split(sentence: &str) -> Vec<Word<'_>> {
    const PUNCTUATION: [char; 5] = [',', ';', '.', '!', '?'];
    let (mut words, mut rest) = (Vec::new(), sentence.trim_start());
    while let Some(open) = rest.chars().next() {
        let close = if open == '“' { '”' } else { open };
        let quoted = rest[open.len_utf8()..].split_once(close).filter(|_| matches!(open, '`' | '"' | '\'' | '“'));
        let end = match quoted {
            Some((text, after)) => {
                let (written, kind) =
                    (&rest[..rest.len() - after.len()], if open == '`' { Kind::Code } else { Kind::Quoted });
                words.push(Word { kind, text, written });
                written.len()
            }
            None => {
                let word = rest.split(char::is_whitespace).next().unwrap_or(rest);
                let is_directory =
                    matches!(word, "." | "..") && words.last().is_some_and(|last: &Word<'_>| last.is("in"));
                let text = if is_directory { word } else { word.trim_end_matches(PUNCTUATION) };
                match text {
                    "" => words.push(Word { kind: Kind::Stop, text, written: word }),
                    _ => words.push(Word { kind: Kind::Plain, text, written: text }),
                }
                text.len().max(usize::from(text.is_empty()) * word.len())
            }
        };
        rest = rest[end..].trim_start();
    }
    words
}

/// What stands between commas, *and* and *then*.
#[derive(Debug)]
struct Clause<'a> {
    /// It comes after what was said before, and not beside it.
    is_after: bool,
    words: &'a [Word<'a>],
}

fn clauses<'a>(words: &'a [Word<'a>]) -> Result<Vec<Clause<'a>>, &'static str> {
    let joins = |word: &Word<'_>| word.kind == Kind::Stop || word.is("and") || word.is("then");
    let (mut clauses, mut is_after, mut rest) = (Vec::new(), false, words);
    while !rest.is_empty() {
        let length = rest.iter().position(joins).unwrap_or(rest.len());
        if length > 0 {
            clauses.push(Clause { is_after, words: &rest[..length] });
            is_after = false;
        }
        is_after |= rest.get(length).is_some_and(|join| join.is("then"));
        rest = &rest[rest.len().min(length + 1)..];
    }
    let ends_open = words.iter().rev().find(|word| word.kind != Kind::Stop).is_none_or(joins);
    match ends_open || words.first().is_some_and(joins) {
        true => Err("it does not begin and end with something to do"),
        false => Ok(clauses),
    }
}

/// What is left to read of a clause.
struct Reader<'a>(&'a [Word<'a>]);

impl<'a> Reader<'a> {
    /// Read these words, if they are next.
    fn take(&mut self, phrase: &str) -> bool {
        let mut rest = self.0;
        for wanted in phrase.split(' ') {
            match rest {
                [word, more @ ..] if word.is(wanted) => rest = more,
                _ => return false,
            }
        }
        self.0 = rest;
        true
    }

    fn take_any(&mut self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| self.take(phrase))
    }

    /// One word or quoted text.
    fn text(&mut self, what: &str) -> Result<&'a Word<'a>, String> {
        match self.0 {
            [word, rest @ ..] => {
                self.0 = rest;
                Ok(word)
            }
            _ => Err(format!("it does not say {what}")),
        }
    }

    /// `here`, `in PATH`, or nothing.
    fn place(&mut self) -> Result<Option<&'a str>, String> {
        match self.take_any(&["here", "in here", "in this directory", "in the current directory"]) {
            false if self.take("in") => Ok(Some(self.text("where")?.text)),
            _ => Ok(None),
        }
    }

    /// All words must have been read.
    fn end(&self) -> Result<(), String> {
        let left: Vec<&str> = self.0.iter().map(|word| word.written).collect();
        match left[..] {
            [] => Ok(()),
            _ => Err(format!("what {:?} means here is not clear", shorten(&left.join(" "), CLAUSE_CHARS_MAX))),
        }
    }
}

/// What the result of a step looks like, for whoever uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Of a search in files.
    Matches,
    /// Of a search on the web.
    Pages,
    /// Of a list of files.
    Files,
    /// This member of the result is a text.
    Text(&'static str),
    /// What was counted, in Markdown.
    Composed,
    /// A file was written.
    Written,
}

/// Reads what follows a verb, adds its step, and tells what it was taken for.
type ReadClause = fn(&mut Steps, &mut Reader<'_>) -> Result<String, String>;

/// The steps so far.
#[derive(Default)]
struct Steps {
    steps: Vec<(Step, Shape)>,
    /// Those that came before the last *then*.
    before: Vec<usize>,
    /// Those since.
    now: Vec<usize>,
}

impl Steps {
    /// Read one more clause and add its step. Returns what it was taken for.
    fn clause(&mut self, clause: &Clause<'_>) -> Result<String, String> {
        if clause.is_after {
            self.before = std::mem::take(&mut self.now);
        }
        let mut reader = Reader(clause.words);
        reader.take("please");
        let verbs: [(&str, ReadClause); 7] = [
            ("search", Steps::search),
            ("list", Steps::list),
            ("read", Steps::read),
            ("fetch", Steps::fetch),
            ("run", Steps::run),
            ("count", Steps::count),
            ("save", Steps::save),
        ];
        let known = verbs.iter().find(|(verb, _)| reader.take(verb));
        let (_, read) = known.ok_or("it begins with none of search, list, read, fetch, run, count, save")?;
        let meaning = read(self, &mut reader)?;
        if let Some((step, _)) = self.steps.last_mut() {
            step.description.clone_from(&meaning);
        }
        Ok(meaning)
    }

    fn search(&mut self, words: &mut Reader<'_>) -> Result<String, String> {
        if words.take_any(&["the web for", "web for"]) {
            let query: Vec<&str> = words.0.iter().map(|word| word.text).collect();
            let query = query.join(" ");
            if query.is_empty() {
                return Err("it does not say what to search for".to_owned());
            }
            self.add("search", "search", json!({ "query": literal(&query), "source": "web" }), Shape::Pages);
            return Ok(format!("search the web for {query:?}"));
        }
        if !words.take("for") {
            return Err("it goes on with neither `for` nor `the web for`".to_owned());
        }
        let query = words.text("what to search for")?;
        let place = words.place()?;
        words.end().map_err(|error| format!("{error}; put quotes around what to search for if it is several words"))?;
        let mut args = json!({ "query": literal(query.text) });
        set(&mut args, "path", place);
        self.add("search", "search", args, Shape::Matches);
        Ok(format!("search the files in {} for the text {:?}", place.unwrap_or("the workspace"), query.text))
    }

    /// `[*.rs] files [here|in PATH]`
    fn list(&mut self, words: &mut Reader<'_>) -> Result<String, String> {
        words.take_any(&["all", "the"]);
        let glob = match words.0 {
            [glob, rest @ ..] if glob.text.contains(['*', '?']) && glob.kind != Kind::Code => {
                words.0 = rest;
                Some(glob.text)
            }
            _ => None,
        };
        if !words.take("files") && glob.is_none() {
            return Err("it is about neither files nor a pattern such as *.rs".to_owned());
        }
        let place = words.place()?;
        words.end()?;
        let mut args = json!({});
        set(&mut args, "path", place);
        set(&mut args, "glob", glob);
        self.add("list", "list_files", args, Shape::Files);
        Ok(format!("list {} in {}", glob.unwrap_or("all files"), place.unwrap_or("the workspace")))
    }

    fn read(&mut self, words: &mut Reader<'_>) -> Result<String, String> {
        let path = words.text("which file")?.text;
        words.end()?;
        let args = json!({ "path": literal(path), "limit": READ_LINES_MAX });
        self.add("read", "file_read", args, Shape::Text("content"));
        Ok(format!("read the file {path:?}"))
    }

    fn fetch(&mut self, words: &mut Reader<'_>) -> Result<String, String> {
        let url = words.text("which address")?.text;
        words.end()?;
        if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(format!("{url:?} is no address that begins with http:// or https://"));
        }
        self.add("fetch", "fetch_url", json!({ "url": literal(url) }), Shape::Text("text"));
        Ok(format!("fetch {url}"))
    }

    fn run(&mut self, words: &mut Reader<'_>) -> Result<String, String> {
        let [command, rest @ ..] = words.0 else { return Err("it does not say which command".to_owned()) };
        if command.kind != Kind::Code {
            return Err("put the command between backticks, and that alone: run `cargo test`".to_owned());
        }
        words.0 = rest;
        words.end()?;
        self.add("run", "bash", json!({ "command": literal(command.text) }), Shape::Text("stdout"));
        Ok(format!("run the command `{}`", command.text))
    }

    /// What came before, or files, which are listed first.
    fn count(&mut self, words: &mut Reader<'_>) -> Result<String, String> {
        let by = match words.0 {
            [rest @ .., by, what] if by.is("by") => {
                words.0 = rest;
                Some(["file", "extension"].into_iter().find(|known| what.is(known)).ok_or_else(|| {
                    format!("it can count by file or by extension, not by {:?}", shorten(what.text, CLAUSE_CHARS_MAX))
                })?)
            }
            _ => None,
        };
        let (it, what) = if words.take_any(&["them", "it", "the matches", "the results"]) {
            words.end()?;
            (self.it()?, "them")
        } else {
            words.take_any(&["all the", "the number of"]);
            let meaning =
                self.list(words).map_err(|error| format!("{error}; it can count files, or what came before"))?;
            let it = self.steps.len() - 1;
            self.steps[it].0.description = meaning;
            (it, "the files")
        };
        let result = self.result(it);
        let args = match (self.steps[it].1, by) {
            (Shape::Matches, Some("file")) => table(&format!("{result}.by_file"), "path", "File", &result),
            (Shape::Matches, Some(_)) => {
                let rows = format!("{result}.by_file | tally(\"path\", by=\"extension\", weight=\"count\")");
                table(&rows, "value", "Extension", &result)
            }
            (Shape::Files, Some("extension")) => {
                let rows = format!("{result}.files | tally(\"path\", by=\"extension\")");
                table(&rows, "value", "Extension", &result)
            }
            (Shape::Matches | Shape::Pages | Shape::Files, None) => number(&format!("{result}.total"), "in all"),
            (Shape::Text(member), None) => number(&format!("{result}.{member} | lines | length"), "lines"),
            _ => return Err("what came before cannot be counted like this".to_owned()),
        };
        self.add("count", "compose", args, Shape::Composed);
        Ok(by.map_or_else(|| format!("count {what}"), |by| format!("count {what} by {by}")))
    }

    fn save(&mut self, words: &mut Reader<'_>) -> Result<String, String> {
        if !words.take_any(&["it", "them", "the output", "the result", "the results"]) {
            return Err("it can save what came before: save it to FILE".to_owned());
        }
        if !words.take_any(&["to", "as", "in"]) {
            return Err("it does not say where: save it to FILE".to_owned());
        }
        let path = words.text("which file")?.text;
        words.end()?;
        let it = self.it()?;
        let result = self.result(it);
        let content = match self.steps[it].1 {
            _ if path.to_lowercase().ends_with(".json") => format!("{{{{ {result} | tojson(indent=2) }}}}\n"),
            Shape::Text(member) => format!("{{{{ {result}.{member} }}}}"),
            shape => shape.shown(&result),
        };
        self.add("save", "file_write", json!({ "path": literal(path), "content": content }), Shape::Written);
        Ok(format!("save it to outputs/…/{path}"))
    }

    /// The step that "it" and "them" are about.
    fn it(&self) -> Result<usize, String> {
        let before = if self.now.is_empty() { &self.before } else { &self.now };
        match before[..] {
            [] => Err("nothing came before that this could be about".to_owned()),
            [one] => Ok(one),
            [.., last] if !self.now.is_empty() => Ok(last),
            _ => Err("it may be about several; say this right after the one that is meant".to_owned()),
        }
    }

    fn result(&self, index: usize) -> String {
        format!("tasks.{}.result", self.steps[index].0.id)
    }

    /// One more step, after those before the last *then*.
    fn add(&mut self, name: &str, tool: &str, args: Value, shape: Shape) {
        let taken = |id: &str| self.steps.iter().any(|(step, _)| step.id == id);
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let id = std::iter::once(name.to_owned()).chain(numbered).find(|id| !taken(id)).unwrap_or_default();
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
        self.now.push(self.steps.len());
        self.steps.push((step, shape));
    }

    /// The plan of these steps. Its report shows what no other step took up.
    fn into_plan(self, sentence: &str) -> Plan {
        let name: String = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_used = |id: &str| self.steps.iter().any(|(step, _)| step.depends_on.iter().any(|needed| needed == id));
        let mut report = String::from("# {{ run.name | plain }}\n");
        for (step, shape) in &self.steps {
            let task = format!("tasks.{}", step.id);
            let heading = format!("\n## {{{{ {} | plain }}}}\n\n", Value::from(step.description.as_str()));
            let failure = format!(
                "{{{{ {task}.status }}}}{{% if {task}.error %}}: {{{{ {task}.error | plain }}}}{{% endif %}}\n"
            );
            report += &match is_used(&step.id) && *shape != Shape::Written {
                true => format!("{{% if {task}.status != \"completed\" %}}{heading}{failure}{{% endif %}}"),
                false => {
                    let shown = shape.shown(&format!("{task}.result"));
                    format!(
                        "{heading}{{% if {task}.status == \"completed\" %}}{shown}{{% else %}}{failure}{{% endif %}}"
                    )
                }
            };
        }
        Plan {
            name: shorten(&name, 80),
            description: shorten(&name, super::NAME_CHARS_MAX),
            tasks: self.steps.into_iter().map(|(step, _)| step).collect(),
            report: Some(report),
            ..Plan::default()
        }
    }
}

impl Shape {
    /// The template that shows it in a report.
    fn shown(self, result: &str) -> String {
        let table = |rows: &str, more: &str| format!("{{{{ {result}.{rows} | table({more}) }}}}");
        match self {
            Shape::Matches => {
                let rows = table("results", "[\"path\", \"line\", \"snippet\"], limit=50");
                format!("{{{{ {result}.total }}}} found.\n\n{rows}")
            }
            Shape::Files => {
                let rows = table("files", "[\"path\", \"size\"], limit=200");
                format!("{{{{ {result}.total }}}} files.\n\n{rows}")
            }
            Shape::Pages => table("results", "[\"title\", \"url\", \"snippet\"]"),
            Shape::Composed => format!("{{{{ {result}.text }}}}"),
            Shape::Text(member) => format!("{{{{ {result}.{member} | code }}}}"),
            Shape::Written => format!("Written to {{{{ {result}.path | inline_code }}}}.\n"),
        }
    }
}

/// A table for people, and its rows for programs.
fn table(rows: &str, column: &str, heading: &str, counted: &str) -> Value {
    let columns = format!("[\"{column}\", \"count\"], headings=[\"{heading}\", \"Count\"]");
    json!({
        "text": format!("{{{{ {rows} | table({columns}) }}}}\n{{{{ {counted}.total }}}} in all\n"),
        "data": format!("{{{{ {rows} }}}}"),
    })
}

fn number(expression: &str, of: &str) -> Value {
    json!({ "text": format!("{{{{ {expression} }}}} {of}\n"), "data": format!("{{{{ {expression} }}}}") })
}

fn set(args: &mut Value, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        args[name] = literal(value);
    }
}

/// A text that no template engine takes for more than it is.
fn literal(text: &str) -> Value {
    match template::is_template(text) {
        true => format!("{{{{ {} }}}}", Value::from(text)).into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests;
