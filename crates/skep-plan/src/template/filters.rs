//! Filters beyond the engine's own, mostly for reports.
//!
//! Reports are Markdown made from names and texts that nobody vouches for: what goes into a table or between backticks
//! must not be able to leave it.

use std::{collections::BTreeMap, time::Duration};

use minijinja::{
    Environment, Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("size", size);
    environment.add_filter("duration", duration);
    environment.add_filter("shorten", shorten);
    environment.add_filter("extension", extension);
    environment.add_filter("tally", tally);
    environment.add_filter("table", table);
    environment.add_filter("code", code);
    environment.add_filter("inline_code", inline_code);
    environment.add_filter("plain", plain);
    environment.add_filter("quote", quote);
}

/// Filters that give a text at most a few times as long as the value that they get.
pub(super) const GROWING: [&str; 8] = ["code", "inline_code", "lower", "plain", "quote", "string", "tojson", "upper"];
/// Filters that give no more than they get, or a short text.
pub(super) const SHRINKING: [&str; 11] =
    ["bool", "count", "duration", "extension", "first", "float", "int", "last", "length", "size", "trim"];

/// The names that are suggested where one is not known: this program's filters, and those of the engine that there are
/// with the features that it is built with.
pub(super) const FILTER_NAMES: [&str; 55] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "code",
    "count",
    "default",
    "dictsort",
    "duration",
    "escape",
    "extension",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "inline_code",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "plain",
    "pprint",
    "quote",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "shorten",
    "size",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "table",
    "tally",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "zip",
];
/// Tests.
pub(super) const TEST_NAMES: [&str; 28] = [
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sequence",
    "startingwith",
    "string",
    "true",
    "undefined",
    "upper",
];
/// Functions.
pub(super) const FUNCTION_NAMES: [&str; 4] = ["debug", "dict", "namespace", "range"];

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn number(value: &Value, what: &str) -> Result<f64, Error> {
    f64::try_from(value.clone()).map_err(|_| invalid(format!("{what} needs a number, not {}", value.kind())))
}

fn size(value: &Value) -> Result<String, Error> {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let bytes = number(value, "size")?;
    if bytes.abs() < 1024.0 {
        return Ok(format!("{bytes} B"));
    }
    let mut scaled = bytes / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while scaled.abs() >= 1024.0 {
        let Some(larger) = units.next() else { break };
        (scaled, unit) = (scaled / 1024.0, Some(larger));
    }
    Ok(format!("{scaled:.1} {}", unit.copied().unwrap_or_default()))
}

fn duration(value: &Value) -> Result<String, Error> {
    let seconds = number(value, "duration")?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| invalid("a duration is at least 0 seconds"))?;
    let (whole, millis) = (duration.as_secs(), duration.as_secs_f64() * 1e3);
    Ok(match whole {
        0 if millis < 10.0 => format!("{millis:.1}ms"),
        0 => format!("{millis:.0}ms"),
        1..10 => format!("{:.1}s", millis / 1e3),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        _ => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
    })
}

fn shorten(value: &Value, chars_max: usize) -> String {
    skep_tools::schema::shorten(&text(value), chars_max)
}

fn extension(value: &Value) -> String {
    std::path::Path::new(&text(value)).extension().map_or(String::new(), |found| found.to_string_lossy().into_owned())
}

/// A value as text; nothing is an empty one.
fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => String::new(),
        _ => value.to_string(),
    }
}

/// `[{"value": …, "count": …}]`, the most frequent first. `key` says which member counts, `by="extension"` that only
/// the extension of it does, `weight` which member says how often.
fn tally(rows: &Value, key: Option<String>, options: Kwargs) -> Result<Value, Error> {
    let (by, weight): (Option<String>, Option<String>) = (options.get("by")?, options.get("weight")?);
    options.assert_all_used()?;
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for row in rows.try_iter()? {
        let value = match &key {
            Some(key) => row.get_attr(key)?,
            None => row.clone(),
        };
        let value = match by.as_deref() {
            None => text(&value),
            Some("extension") => extension(&value),
            Some(other) => return Err(invalid(format!("tally cannot count by {other:?}, only by \"extension\""))),
        };
        let count = match &weight {
            Some(weight) => number(&row.get_attr(weight)?, "tally")?,
            None => 1.0,
        };
        *counts.entry(value).or_default() += count;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let row = |(value, count): (String, f64)| {
        // Whole numbers stay whole: 3, not 3.0.
        let count = if count.fract() == 0.0 { Value::from(count as i64) } else { Value::from(count) };
        minijinja::context! { value, count }
    };
    Ok(counts.into_iter().map(row).collect::<Vec<_>>().into())
}

/// Rows of a table that are shown, unless `limit` says otherwise.
const ROWS_MAX: usize = 1000;

/// A list of tables as one in Markdown. `columns` names the members; without it they are those of the first row.
fn table(rows: &Value, columns: Option<Vec<String>>, options: Kwargs) -> Result<String, Error> {
    let (headings, limit): (Option<Vec<String>>, Option<usize>) = (options.get("headings")?, options.get("limit")?);
    options.assert_all_used()?;
    let rows: Vec<Value> = rows.try_iter()?.collect();
    let columns = match (columns, rows.first()) {
        (Some(columns), _) => columns,
        (None, Some(first)) if first.kind() == ValueKind::Map => first.try_iter()?.map(|key| text(&key)).collect(),
        (None, Some(_)) => return Err(invalid("table needs a list of tables")),
        (None, None) => return Ok(String::new()),
    };
    let shown = &rows[..rows.len().min(limit.unwrap_or(ROWS_MAX))];
    let mut cells = Vec::new();
    for row in shown {
        let cell = |column: &String| row.get_attr(column);
        cells.push(columns.iter().map(cell).collect::<Result<Vec<Value>, Error>>()?);
    }
    let line = |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
    let headings = headings.as_ref().unwrap_or(&columns);
    let mut markdown = line(&mut columns.iter().zip(headings).map(|(_, heading)| table_cell(heading)));
    let is_number = |column: usize| cells.iter().all(|row| row[column].kind() == ValueKind::Number);
    let rule = |column: usize| if is_number(column) && !cells.is_empty() { "---:" } else { "---" }.to_owned();
    markdown += &line(&mut (0..columns.len()).map(rule));
    for row in &cells {
        markdown += &line(&mut row.iter().map(|cell| table_cell(&text(cell))));
    }
    match rows.len() - shown.len() {
        0 => {}
        more => markdown += &format!("\n… and {more} more\n"),
    }
    Ok(markdown)
}

/// One line, without what would end the cell or begin something else.
fn table_cell(text: &str) -> String {
    plain_text(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn plain(value: &Value) -> String {
    plain_text(&text(value))
}

fn plain_text(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '!' | '&' | '$') {
            plain.push('\\');
        }
        plain.push(c);
    }
    plain
}

fn code(value: &Value, language: Option<String>) -> String {
    code_block(&text(value), &language.unwrap_or_default())
}

/// A block of code that no backtick in it can end.
pub fn code_block(text: &str, language: &str) -> String {
    let fence = "`".repeat(3.max(1 + longest_run(text)));
    let language: String = language.chars().filter(|c| c.is_alphanumeric()).collect();
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    format!("{fence}{language}\n{text}{end}{fence}\n")
}

fn inline_code(value: &Value) -> String {
    let text = text(value).split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return text;
    }
    let fence = "`".repeat(1 + longest_run(&text));
    let space = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// A value as a word of a POSIX shell, a list as words with blanks between them.
fn quote(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.map(|element| word(&element)).collect::<Result<Vec<_>, _>>().map(|words| words.join(" "))
        }
        _ => word(value),
    }
}

fn word(value: &Value) -> Result<String, Error> {
    if !matches!(value.kind(), ValueKind::String | ValueKind::Number | ValueKind::Bool) {
        let kind = value.kind();
        return Err(invalid(format!(
            "quote needs a text, a number, or a list of those, not {kind}; try `tojson | quote`"
        )));
    }
    let text = value.to_string();
    if text.contains('\0') {
        return Err(invalid("quote cannot make a word of a text with a NUL in it; no shell can"));
    }
    Ok(shell_word(&text))
}

/// The text as one word of a POSIX shell.
pub(crate) fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,+@%".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The most backticks that stand side by side.
fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}
