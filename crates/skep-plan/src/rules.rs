//! From a sentence to a plan without a model, for the few [`FORMS`], joined by commas, *and* and *then*.
//!
//! Rules guess wrong where people speak freely. So each clause must fit one of the forms to its last word, or the whole
//! sentence is refused: half of it is never run. What is between quotes or backticks is never read as anything but
//! itself. All else is for a model, or for a plan file.

use std::fmt;

use serde_json::{Map, Value};
use skep_tools::schema::shorten;

use super::{Plan, Role, Step, template};

/// Bytes in a sentence.
pub const SENTENCE_BYTES_MAX: usize = 64 << 10;
/// Clauses in a sentence.
pub const CLAUSES_MAX: usize = 64;
/// Lines of a file that are read.
const READ_LINES_MAX: u32 = 100_000;
/// Longer clauses are cut in messages.
const CLAUSE_CHARS_MAX: usize = 200;

/// What is understood: an example, its pattern, the tool that is called, and the shape of its result. In a pattern `[…]`
/// may be left out, `(…)` may not, `|` is between alternatives, and capitals stand for one word or quoted text (with `…`
/// for all that follow), which becomes the tool's argument of that name.
const FORMS: [(&str, &str, &str, Shape); 10] = [
    ("search for \"broken link\" in docs", "search for QUERY [here|in PATH]", "search", Shape::Matches),
    ("search the web for link checkers", "search the web for QUERY…", "search", Shape::Pages),
    ("list all files in src", "list [all|the] [GLOB] files [here|in PATH]", "list_files", Shape::Files),
    ("list *.rs", "list GLOB [here|in PATH]", "list_files", Shape::Files),
    ("read README.md", "read PATH", "file_read", Shape::Text("content")),
    ("fetch https://example.com", "fetch URL", "fetch_url", Shape::Text("text")),
    ("run `grep -c '' README.md`", "run `COMMAND`", "bash", Shape::Text("stdout")),
    ("count files by extension", COUNT_FILES, "list_files", Shape::Files),
    ("list files, then count them by extension", COUNT, "compose", Shape::Composed),
    ("run `ls`, then save the output to out/ls.txt", SAVE, "file_write", Shape::Written),
];
const COUNT_FILES: &str = "count [all the|the number of|all|the] [GLOB] files [here|in PATH] [by WHAT]";
const COUNT: &str = "count (it|them|the matches|the results) [by WHAT]";
const SAVE: &str = "save (it|them|the output|the results) (to|as) PATH";

/// Why a sentence became no plan, for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// Each clause, and what it was taken for, or why it was not understood.
    pub clauses: Vec<(String, Result<String, String>)>,
}

/// The plan that a sentence asks for.
pub fn plan(sentence: &str) -> Result<Plan, NotUnderstood> {
    let refused = |reason: String| {
        let text = shorten(sentence.trim(), CLAUSE_CHARS_MAX);
        Err(NotUnderstood { clauses: vec![(text, Err(reason))] })
    };
    if sentence.len() > SENTENCE_BYTES_MAX {
        return refused(format!("a sentence has at most {SENTENCE_BYTES_MAX} bytes"));
    }
    let words = split(sentence);
    let Some(clauses) = clauses(&words) else {
        return refused("it does not begin and end with something to do".to_owned());
    };
    if clauses.len() > CLAUSES_MAX {
        return refused(format!("a sentence has at most {CLAUSES_MAX} steps; a plan file has more room"));
    }
    let mut steps = Steps::default();
    let clauses: Vec<_> = clauses.iter().map(|clause| (written(clause.words), steps.clause(clause))).collect();
    match clauses.iter().all(|(_, meaning)| meaning.is_ok()) {
        true => Ok(steps.into_plan(sentence)),
        false => Err(NotUnderstood { clauses }),
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
        FORMS.iter().try_for_each(|(example, pattern, ..)| writeln!(f, "  {example:44}  {pattern}"))?;
        f.write_str(HELP)
    }
}

/// How to have any sentence understood.
pub const HELP: &str =
    "For anything else write a plan file (`skep check --schema` prints its form), or name a model in skep.toml:
  [model]
  provider = \"openai\"               # or anthropic, xai, ollama, compatible (with base_url)
  model = \"…\"
  api_key_env = \"OPENAI_API_KEY\"    # the variable that holds the key
or in the environment: SKEP_MODEL, SKEP_MODEL_PROVIDER, SKEP_MODEL_BASE_URL.";

/// A word, or a text between quotes or backticks.
#[derive(Clone, Copy, Debug)]
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

    /// Whether a clause ends before it.
    fn joins(&self) -> bool {
        self.kind == Kind::Stop || self.is("and") || self.is("then")
    }
}

/// Cut a sentence into words. Punctuation after a word is one of its own; a dot that stands alone is a directory.
fn split(sentence: &str) -> Vec<Word<'_>> {
    const QUOTES: [(char, char, Kind); 4] =
        [('`', '`', Kind::Code), ('"', '"', Kind::Quoted), ('\'', '\'', Kind::Quoted), ('“', '”', Kind::Quoted)];
    const PUNCTUATION: [char; 5] = [',', ';', '.', '!', '?'];
    let (mut words, mut rest) = (Vec::new(), sentence.trim_start());
    while !rest.is_empty() {
        let quoted = QUOTES.iter().find_map(|(open, close, kind)| {
            let (text, after) = rest.strip_prefix(*open)?.split_once(*close)?;
            Some(Word { kind: *kind, text, written: &rest[..rest.len() - after.len()] })
        });
        let word = quoted.unwrap_or_else(|| {
            let word = rest.split(char::is_whitespace).next().unwrap_or(rest);
            let text = if matches!(word, "." | "..") { word } else { word.trim_end_matches(PUNCTUATION) };
            Word { kind: Kind::Plain, text, written: text }
        });
        rest = &rest[word.written.len()..];
        if !word.written.is_empty() {
            words.push(word);
        }
        let after = rest.trim_start_matches(PUNCTUATION);
        if after.len() < rest.len() {
            let written = &rest[..rest.len() - after.len()];
            words.push(Word { kind: Kind::Stop, text: "", written });
        }
        rest = after.trim_start();
    }
    words
}

/// The words as they stand in the sentence, for people.
fn written(words: &[Word<'_>]) -> String {
    let written: Vec<&str> = words.iter().map(|word| word.written).collect();
    shorten(&written.join(" "), CLAUSE_CHARS_MAX)
}

/// What stands between commas, *and* and *then*.
#[derive(Debug)]
struct Clause<'a> {
    /// It comes after what was said before, and not beside it.
    is_after: bool,
    words: &'a [Word<'a>],
}

/// The clauses; none unless the sentence begins and ends with one.
fn clauses<'a>(words: &'a [Word<'a>]) -> Option<Vec<Clause<'a>>> {
    let last = words.iter().rfind(|word| word.kind != Kind::Stop)?;
    if words[0].joins() || last.joins() {
        return None;
    }
    let (mut clauses, mut is_after) = (Vec::new(), false);
    for part in words.split_inclusive(Word::joins) {
        let (words, join) = part.split_at(part.iter().position(Word::joins).unwrap_or(part.len()));
        if !words.is_empty() {
            clauses.push(Clause { is_after: std::mem::take(&mut is_after), words });
        }
        is_after |= join.iter().any(|join| join.is("then"));
    }
    Some(clauses)
}

/// Holds the words of a clause against a pattern.
struct Reader<'a> {
    /// What has not been read yet.
    left: &'a [Word<'a>],
    args: Map<String, Value>,
}

impl Reader<'_> {
    /// Whether the next words fit a pattern ([`FORMS`]). They are read as far as they do.
    fn read(&mut self, mut pattern: &str) -> bool {
        while let Some(first) = pattern.chars().next() {
            let end = match first {
                '[' => ']',
                '(' => ')',
                _ => ' ',
            };
            let (part, rest) = pattern.split_once(end).unwrap_or((pattern, ""));
            pattern = rest.trim_start();
            let fits = match part.strip_prefix(['[', '(']) {
                Some(choices) => choices.split('|').any(|choice| self.read_whole(choice)) || first == '[',
                None => self.word(part),
            };
            if !fits {
                return false;
            }
        }
        true
    }

    fn read_whole(&mut self, pattern: &str) -> bool {
        let before = self.left;
        let fits = self.read(pattern);
        if !fits {
            self.left = before;
        }
        fits
    }

    fn word(&mut self, wanted: &str) -> bool {
        let Some((word, mut rest)) = self.left.split_first() else { return false };
        let name = wanted.trim_matches(['`', '…']);
        let fits = match name {
            "COMMAND" => word.kind == Kind::Code,
            "GLOB" => word.kind != Kind::Code && word.text.contains(['*', '?']),
            "URL" => word.text.starts_with("http://") || word.text.starts_with("https://"),
            _ => name == name.to_uppercase() || word.is(name),
        };
        if !fits {
            return false;
        }
        let mut text = word.text.to_owned();
        if wanted.ends_with('…') {
            std::mem::take(&mut rest).iter().for_each(|word| text = format!("{text} {}", word.text));
        }
        if name == name.to_uppercase() {
            self.args.insert(name.to_lowercase(), literal(&text).into());
        }
        self.left = rest;
        true
    }
}

/// The pattern that a clause fits, its tool and shape, and the arguments.
type Fitting = (&'static str, &'static str, Shape, Map<String, Value>);

fn fitting(words: &[Word<'_>]) -> Result<Fitting, String> {
    let (mut nearest, mut left) = (String::new(), words);
    for (example, pattern, tool, shape) in FORMS {
        let mut reader = Reader { left: words, args: Map::new() };
        let fits = reader.read(pattern);
        if fits && reader.left.is_empty() {
            return Ok((pattern, tool, shape, reader.args));
        }
        if reader.left.len() < left.len() {
            (nearest, left) = (format!("the form is {pattern}, as in: {example}"), reader.left);
        }
    }
    Err(match left {
        [] => format!("something is missing at its end; {nearest}"),
        left if left.len() < words.len() => format!("what {:?} means here is not clear; {nearest}", written(left)),
        _ => "it begins with none of search, list, read, fetch, run, count, save".to_owned(),
    })
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
        let words = match clause.words {
            [please, rest @ ..] if please.is("please") => rest,
            words => words,
        };
        let (pattern, tool, shape, mut args) = fitting(words)?;
        let by = args.remove("what").map(|by| by.as_str().unwrap_or_default().to_lowercase());
        match shape {
            Shape::Pages => _ = args.insert("source".to_owned(), "web".into()),
            Shape::Text("content") => _ = args.insert("limit".to_owned(), READ_LINES_MAX.into()),
            Shape::Written => _ = args.insert("content".to_owned(), self.content(self.it()?, &args).into()),
            _ => {}
        }
        let verb = pattern.split(' ').next().unwrap_or_default();
        let index = match pattern {
            COUNT => self.count(self.it()?, by.as_deref(), words)?,
            COUNT_FILES => {
                let files = self.add("list", tool, args, shape, words);
                self.count(files, by.as_deref(), words)?
            }
            _ => self.add(verb, tool, args, shape, words),
        };
        let step = &self.steps[index].0;
        Ok(shorten(&format!("{} {}", step.tool, step.args), CLAUSE_CHARS_MAX))
    }

    fn count(&mut self, it: usize, by: Option<&str>, words: &[Word<'_>]) -> Result<usize, String> {
        let result = self.result(it);
        let number = |data: String, of: &str| (data.clone(), format!("{{{{ {data} }}}} {of}\n"));
        let table = |rows: &str, column: &str, heading: &str| {
            let data = format!("{result}.{rows}");
            let columns = format!("[\"{column}\", \"count\"], headings=[\"{heading}\", \"Count\"]");
            let text = format!("{{{{ {data} | table({columns}) }}}}\n{{{{ {result}.total }}}} in all\n");
            (data, text)
        };
        let (data, text) = match (self.steps[it].1, by) {
            (Shape::Matches, Some("file")) => table("by_file", "path", "File"),
            (Shape::Matches, Some("extension")) => {
                table("by_file | tally(\"path\", by=\"extension\", weight=\"count\")", "value", "Extension")
            }
            (Shape::Files, Some("extension")) => {
                table("files | tally(\"path\", by=\"extension\")", "value", "Extension")
            }
            (Shape::Matches | Shape::Pages | Shape::Files, None) => number(format!("{result}.total"), "in all"),
            (Shape::Text(member), None) => number(format!("{result}.{member} | lines | length"), "lines"),
            (_, by) => {
                let by = by.map(|by| format!(" by {:?}", shorten(by, CLAUSE_CHARS_MAX))).unwrap_or_default();
                let can = "matches are counted by file or extension, files by extension";
                return Err(format!("that cannot be counted{by}; {can}"));
            }
        };
        let args = [("text".to_owned(), text.into()), ("data".to_owned(), format!("{{{{ {data} }}}}").into())];
        Ok(self.add("count", "compose", Map::from_iter(args), Shape::Composed, words))
    }

    /// What the file of [`Shape::Written`] holds.
    fn content(&self, it: usize, args: &Map<String, Value>) -> String {
        let result = self.result(it);
        let is_json = args["path"].as_str().is_some_and(|path| path.to_lowercase().ends_with(".json"));
        match self.steps[it].1 {
            _ if is_json => format!("{{{{ {result} | tojson(indent=2) }}}}\n"),
            Shape::Text(member) => format!("{{{{ {result}.{member} }}}}"),
            shape => shape.shown(&result),
        }
    }

    /// The step that "it" and "them" are about.
    fn it(&self) -> Result<usize, String> {
        match (&self.now[..], &self.before[..]) {
            ([.., last], _) => Ok(*last),
            ([], [one]) => Ok(*one),
            ([], []) => Err("nothing came before that this could be about".to_owned()),
            _ => Err("it may be about several; say this right after the one that is meant".to_owned()),
        }
    }

    fn result(&self, index: usize) -> String {
        format!("tasks.{}.result", self.steps[index].0.id)
    }

    /// One more step, after those before the last *then*. Returns its index.
    fn add(&mut self, verb: &str, tool: &str, args: Map<String, Value>, result: Shape, words: &[Word<'_>]) -> usize {
        let is_free = |id: &String| self.steps.iter().all(|(step, _)| step.id != *id);
        let numbered = (2..).map(|number| format!("{verb}_{number}"));
        let mut step = Step {
            id: std::iter::once(verb.to_owned()).chain(numbered).find(is_free).unwrap_or_default(),
            description: written(words),
            role: if tool == "compose" { Role::Coordinator } else { Role::for_tool(tool) },
            tool: tool.to_owned(),
            args: args.into(),
            depends_on: self.before.iter().map(|index| self.steps[*index].0.id.clone()).collect(),
            when: None,
            timeout: None,
            retries: 0,
            allow_failure: false,
        };
        let inferred = step.infer_dependencies();
        debug_assert!(inferred.is_ok(), "{inferred:?}");
        let index = self.steps.len();
        self.now.push(index);
        self.steps.push((step, result));
        index
    }

    /// The plan of these steps. Its report shows what no other step took up; what failed is added to every report.
    fn into_plan(self, sentence: &str) -> Plan {
        let is_used = |id: &String| self.steps.iter().any(|(step, _)| step.depends_on.contains(id));
        let mut report = String::from("# {{ run.name | plain }}\n");
        for (step, shape) in self.steps.iter().filter(|(step, shape)| *shape == Shape::Written || !is_used(&step.id)) {
            let (id, heading) = (&step.id, Value::from(step.description.as_str()));
            let shown = shape.shown(&format!("tasks.{id}.result"));
            report += &format!("{{% if tasks.{id}.status == \"completed\" %}}\n## {{{{ {heading} | plain }}}}\n\n");
            report += &format!("{shown}{{% endif %}}");
        }
        let name = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
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

/// A text that no template engine takes for more than it is.
fn literal(text: &str) -> String {
    if template::is_template(text) { format!("{{{{ {} }}}}", Value::from(text)) } else { text.to_owned() }
}

#[cfg(test)]
mod tests;
