//! A file that a person wrote (a plan, a configuration), with the place of every value in it.
//!
//! There is one way from text to a checked value, whatever the file is for: [`Document::parse`] reads YAML, TOML or JSON
//! into a JSON value and remembers where each node stood; a [`Schema`] says what is wrong with the shape; the
//! owner of the file adds what only it can know. Every complaint is a JSON Pointer and a sentence, and
//! [`Document::problem`] turns it into a [`Diagnostic`] that names file, line, column and key.
//!
//! Files are not trusted. Size, depth and the number of values are limited, and YAML's aliases are refused: they are
//! how a small file becomes a huge value, and templates do their work in plans. A key that is given twice is an error,
//! since one of the two would be lost.

mod json;
mod toml;
mod yaml;

use std::{fmt, fs::OpenOptions, io::Read as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use rustix::fs::OFlags;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use crate::schema::PROBLEMS_MAX;
use crate::{
    schema::{Schema, Violation, shorten},
    value::{member, read, unescape},
};

/// Bytes in a file.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// Lists and tables within each other.
pub const DEPTH_MAX: usize = 64;
/// Values in a file, with those in lists and tables.
pub const VALUES_MAX: usize = 250_000;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON, also with comments and commas before closing brackets, as editors take it. It is YAML but for the comments and one
    /// way to write a character.
    Json,
    /// TOML 1.0.
    Toml,
}

impl Format {
    /// By the file's name: `.toml` is TOML, `.json` and `.jsonc` are JSON, and all else YAML.
    pub fn of(path: &Path) -> Format {
        match path.extension() {
            Some(extension) if extension == "toml" => Format::Toml,
            Some(extension) if extension == "json" || extension == "jsonc" => Format::Json,
            _ => Format::Yaml,
        }
    }
}

/// A value, and where each part of it stood in its file.
#[derive(Clone, Debug)]
pub struct Document {
    /// How the file is called in messages.
    pub file: String,
    /// What it says.
    pub value: Value,
    root: Node,
    text: String,
}

/// Line and column, counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl Position {
    /// A file has far fewer lines and columns than fit; what does not fit is the last that does.
    pub fn new(line: usize, column: usize) -> Position {
        let fit = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Position { line: fit(line), column: fit(column) }
    }
}

/// A value that holds no others, and where it stands.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// The JSON Pointer that leads to it.
    pub pointer: String,
    /// The value.
    pub value: &'a Value,
    /// Where it stands.
    pub at: Position,
}

/// Where a value stood. The children are in the order of the value's members or elements.
#[derive(Clone, Debug)]
struct Node {
    /// Of the key, where the value is a member of a table.
    key: Option<Position>,
    value: Position,
    /// Each line of the text is a line of the file, and this is the first.
    text_line: Option<usize>,
    children: Vec<Node>,
}

/// Whether a file with this problem can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, and its author should know.
    Warning,
}

/// A problem in a file, for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Which file.
    pub file: String,
    /// Where in it; `None` if the file as a whole is meant.
    #[serde(flatten)]
    pub at: Option<Position>,
    /// Which value, as a dotted path; empty if none is meant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    /// A problem of a whole file.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: file.into(),
            at: None,
            key: String::new(),
            message: message.into(),
            help: None,
        }
    }

    /// A problem at a place.
    pub fn at(file: impl Into<String>, at: Position, message: impl Into<String>) -> Diagnostic {
        Diagnostic { at: Some(at), ..Diagnostic::of_file(file, message) }
    }

    /// The same problem, with what to do about it.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Diagnostic {
        Diagnostic { help: Some(help.into()), ..self }
    }

    /// The same problem, as one that does not stop anybody.
    #[must_use]
    pub fn warning(self) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..self }
    }

    /// Whether the file cannot be used as it is.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// One line: `plan.yaml:7:5: tasks.count.tool: unknown tool "serch"; did you mean "search"?`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(Position { line, column }) = self.at {
            write!(f, "{line}:{column}:")?;
        }
        if self.severity == Severity::Warning {
            write!(f, " warning:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl Document {
    /// Read a file.
    pub fn read(path: &Path) -> Result<Document, Vec<Diagnostic>> {
        let file = path.display().to_string();
        let bytes = read_bytes(path, FILE_BYTES_MAX).map_err(|message| vec![Diagnostic::of_file(&file, message)])?;
        Document::parse(&file, Format::of(path), &bytes)
    }

    /// Read the contents of a file that is called `file` in messages.
    pub fn parse(file: &str, format: Format, bytes: &[u8]) -> Result<Document, Vec<Diagnostic>> {
        let text = as_text(file, bytes).map_err(|problem| vec![problem])?;
        let parsed = match format {
            Format::Yaml => yaml::parse(text),
            Format::Json => yaml::parse(&json::as_yaml(text)),
            Format::Toml => toml::parse(text),
        };
        match parsed {
            Ok((value, root)) => Ok(Document { file: file.to_owned(), value, root, text: text.to_owned() }),
            Err(faults) => Err(faults.into_iter().map(|fault| fault.in_file(file)).collect()),
        }
    }

    /// What is wrong with the value that the pointer (RFC 6901) leads to. If it leads to nothing, the nearest value
    /// above is meant. A member is found at its key, an element at itself.
    pub fn problem(&self, pointer: &str, message: impl Into<String>) -> Diagnostic {
        let (node, key) = self.locate(pointer);
        Diagnostic { key, ..Diagnostic::at(&self.file, node.key.unwrap_or(node.value), message) }
    }

    /// What is wrong in a line (counted from 1) of the text that the pointer leads to. The line of the file is known
    /// only if the text is a block of its own (`|` in YAML).
    pub fn problem_in_text(&self, pointer: &str, line: usize, message: impl Into<String>) -> Diagnostic {
        let problem = self.problem(pointer, message);
        let (node, _) = self.locate(pointer);
        let Some(first) = node.text_line else { return problem };
        let line = first + line - 1;
        let indent = |text: &str| text.chars().take_while(|c| c.is_whitespace()).count();
        let column = self.text.lines().nth(line - 1).map_or(1, |text| indent(text) + 1);
        Diagnostic { at: Some(Position::new(line, column)), ..problem }
    }

    /// The lines of the file.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }

    /// The values that hold no others, from top to bottom.
    pub fn leaves(&self) -> Vec<Leaf<'_>> {
        let mut leaves = Vec::new();
        collect_leaves(&self.value, &self.root, String::new(), &mut leaves);
        leaves.sort_by_key(|leaf| leaf.at);
        leaves
    }

    /// Everything that the schema has against the value, from top to bottom.
    pub fn validate(&self, schema: &Schema) -> Vec<Diagnostic> {
        let problem = |violation: Violation| Diagnostic {
            help: violation.help,
            ..self.problem(&violation.pointer, violation.message)
        };
        let mut problems: Vec<Diagnostic> = schema.violations(&self.value).into_iter().map(problem).collect();
        problems.sort_by_key(|problem| problem.at);
        problems
    }

    /// The value as a type. What a schema can tell has been checked before; this catches the rest, one at a time.
    pub fn deserialise<T: DeserializeOwned>(&self) -> Result<T, Diagnostic> {
        read(&self.value).map_err(|(pointer, message)| self.problem(&pointer, message))
    }

    /// The node that a pointer leads to, and its dotted path.
    fn locate(&self, pointer: &str) -> (&Node, String) {
        let (mut node, mut value, mut key) = (&self.root, &self.value, String::new());
        for name in pointer.split('/').skip(1).map(unescape) {
            let index = match value {
                Value::Object(members) => members.keys().position(|known| *known == name),
                Value::Array(elements) => name.parse().ok().filter(|index| *index < elements.len()),
                _ => None,
            };
            let Some((index, below)) = index.and_then(|index| Some((index, node.children.get(index)?))) else { break };
            value = match value {
                Value::Array(elements) => {
                    key.push_str(&format!("[{index}]"));
                    &elements[index]
                }
                _ => {
                    push_key(&mut key, &name);
                    &value[&name]
                }
            };
            node = below;
        }
        (node, key)
    }
}

/// Depth is limited ([`DEPTH_MAX`]), so this may recurse.
fn collect_leaves<'a>(value: &'a Value, node: &Node, pointer: String, leaves: &mut Vec<Leaf<'a>>) {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (member(&pointer, name), value)).collect(),
        Value::Array(elements) => {
            elements.iter().enumerate().map(|(index, value)| (format!("{pointer}/{index}"), value)).collect()
        }
        _ => return leaves.push(Leaf { pointer, value, at: node.key.unwrap_or(node.value) }),
    };
    for ((pointer, value), node) in below.into_iter().zip(&node.children) {
        collect_leaves(value, node, pointer, leaves);
    }
}

/// Longer keys are cut in messages.
const KEY_CHARS_MAX: usize = 80;

fn push_key(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    match name.chars().count() {
        1..=KEY_CHARS_MAX if name.chars().all(is_plain) => path.push_str(name),
        _ => path.push_str(&format!("{:?}", shorten(name, KEY_CHARS_MAX))),
    }
}

/// The text of a file that is no document, such as code.
pub fn read_text(path: &Path) -> Result<String, Diagnostic> {
    let file = path.display().to_string();
    let bytes = read_bytes(path, FILE_BYTES_MAX).map_err(|message| Diagnostic::of_file(&file, message))?;
    as_text(&file, &bytes).map(str::to_owned)
}

/// Bytes as text, without the mark that some editors put before it.
fn as_text<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Diagnostic> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Diagnostic::of_file(file, too_large()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        Diagnostic::at(file, position_of(&before, before.len()), "this is not text in UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The contents of a file that somebody named, in a flag or in settings, or why they cannot be had. Only a regular file is
/// read, and not more than allowed: a FIFO or a terminal would be waited for, and a device may never end.
pub fn read_bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    // Without O_NONBLOCK, opening a FIFO waits for somebody who writes.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err("cannot be read: it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > bytes_max { Err(format!("is larger than {bytes_max} bytes")) } else { Ok(bytes) }
}

fn too_large() -> String {
    format!("is larger than {FILE_BYTES_MAX} bytes")
}

/// A fault that the parser of a format found.
#[derive(Debug)]
struct Fault {
    at: Position,
    message: String,
    help: Option<&'static str>,
}

impl Fault {
    fn new(at: Position, message: impl Into<String>) -> Fault {
        Fault { at, message: message.into(), help: None }
    }

    fn in_file(self, file: &str) -> Diagnostic {
        let problem = Diagnostic::at(file, self.at, self.message);
        match self.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    }

    fn too_deep(at: Position) -> Fault {
        Fault::new(at, format!("more than {DEPTH_MAX} lists and tables are within each other here"))
    }

    fn too_many(at: Position) -> Fault {
        Fault::new(at, format!("there are more than {VALUES_MAX} values up to here"))
    }

    fn twice(at: Position, key: &str, first: Option<Position>) -> Fault {
        let first = first.map_or(String::new(), |first| format!(" (first in line {})", first.line));
        let key = shorten(key, KEY_CHARS_MAX);
        Fault { help: Some("remove one"), ..Fault::new(at, format!("the key {key:?} is given twice{first}")) }
    }
}

/// Line and column of a byte of a text.
fn position_of(text: &str, byte: usize) -> Position {
    let before = &text.as_bytes()[..byte.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let newlines = before.iter().filter(|byte| **byte == b'\n').count();
    Position::new(1 + newlines, 1 + chars_in(&before[line_start..]))
}

/// Characters that begin in a part of a text.
fn chars_in(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| !matches!(byte, 0x80..=0xbf)).count()
}

#[cfg(test)]
mod tests;
