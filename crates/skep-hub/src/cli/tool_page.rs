//! A tool as a person reads about it: what it does, a table of its arguments, and a call of it to copy.

use serde_json::{Map, Number, Value};
use skep_tools::schema::portable;

use crate::terminal::{block, line, short_line};

/// Arguments within arguments are shown down to this depth.
const DEPTH_MAX: usize = 4;
/// Arguments that are shown.
const ROWS_MAX: usize = 100;
/// Choices that are named of a value that may be of several kinds.
const CHOICES_MAX: usize = 8;
/// Values in an example.
const EXAMPLE_VALUES_MAX: usize = 100;
/// Characters of what is shown of one value.
const VALUE_CHARS_MAX: usize = 60;
/// Characters of a line of text.
const WIDTH: usize = 100;

/// The page of a tool, as the catalogue describes it.
pub(super) fn page(tool: &Value) -> String {
    let text = |member: &str| tool[member].as_str().unwrap_or_default();
    let name = line(text("name"));
    let mut page = format!("{name}\n\n");
    for paragraph in block(text("description").trim()).lines() {
        page += &wrapped(paragraph, 2);
    }
    let input = rows(&tool["inputSchema"]);
    if input.is_empty() {
        page += "\nIt takes no arguments.\n";
    } else {
        page += &format!("\nArguments:\n{}", table(&input, "REQUIRED"));
    }
    let output = rows(&tool["outputSchema"]);
    if !output.is_empty() {
        page += &format!("\nAnswer:\n{}", table(&output, "ALWAYS"));
    }
    page += &format!("\nExample:\n  skep call {}{}\n", quoted(&name), example(&tool["inputSchema"]));
    page
}

/// An argument.
struct Row {
    name: String,
    kind: String,
    is_required: bool,
    default: String,
    limits: String,
    meaning: String,
}

fn rows(schema: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    add_rows(schema, schema, "", 0, &mut rows);
    rows
}

fn add_rows(root: &Value, schema: &Value, prefix: &str, depth: usize, rows: &mut Vec<Row>) {
    let schema = resolved(root, schema);
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().into_iter().flatten();
    for (name, property) in properties {
        if rows.len() >= ROWS_MAX {
            return;
        }
        let property = resolved(root, property);
        let path = format!("{prefix}{}", short_line(name, VALUE_CHARS_MAX));
        rows.push(Row {
            kind: kind(root, property, 0),
            is_required: required.contains(&name.as_str()),
            default: property.get("default").map(shown).unwrap_or_default(),
            limits: limits(property),
            meaning: meaning(property),
            name: path.clone(),
        });
        if depth < DEPTH_MAX {
            add_rows(root, property, &format!("{path}."), depth + 1, rows);
            add_rows(root, &property["items"], &format!("{path}[]."), depth + 1, rows);
        }
    }
}

/// What a schema says, also if it only refers to another part of the same document.
pub(super) fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

/// What kind of value it is, in JSON's words. A schema may refer to itself, so what is within others has an end.
fn kind(root: &Value, schema: &Value, depth: usize) -> String {
    if portable::is_any(schema) || depth > DEPTH_MAX {
        return "any".to_owned();
    }
    let choices = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
    if let Some(choices) = choices {
        let named = choices.iter().take(CHOICES_MAX).map(|choice| kind(root, resolved(root, choice), depth + 1));
        let mut kinds: Vec<String> = named.filter(|kind| kind != "null").collect();
        kinds.extend((choices.len() > CHOICES_MAX).then(|| "…".to_owned()));
        kinds.dedup();
        return kinds.join(" or ");
    }
    if schema["enum"].is_array() || schema.get("const").is_some() {
        return "choice".to_owned();
    }
    let named = |name: &str| match name {
        "array" => match kind(root, resolved(root, &schema["items"]), depth + 1) {
            any if any == "any" => "array".to_owned(),
            items => format!("array of {items}"),
        },
        name => short_line(name, VALUE_CHARS_MAX),
    };
    match &schema["type"] {
        Value::String(name) => named(name),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.map(named).collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    }
}

/// What else holds for the value.
fn limits(schema: &Value) -> String {
    let mut limits = Vec::new();
    let choices: Vec<String> = match (schema["enum"].as_array(), schema["oneOf"].as_array()) {
        (Some(choices), _) => choices.iter().filter(|choice| !choice.is_null()).map(shown).collect(),
        (None, Some(choices)) => choices.iter().filter_map(|choice| choice.get("const")).map(shown).collect(),
        (None, None) => schema.get("const").map(shown).into_iter().collect(),
    };
    if !choices.is_empty() {
        limits.push(short_line(&choices.join(", "), 2 * VALUE_CHARS_MAX));
    }
    let mut range = |least: &str, most: &str, unit: &str| {
        // What stands for no limit is none to a person.
        let is_limit = |number: &&Number| number.as_i64().is_none_or(|limit| limit.abs() != portable::INTEGER_MAX);
        let number = |name: &str| schema[name].as_number().filter(is_limit).map(ToString::to_string);
        match (number(least), number(most)) {
            (Some(least), Some(most)) => limits.push(format!("{least} to {most}{unit}")),
            (Some(least), None) => limits.push(format!("at least {least}{unit}")),
            (None, Some(most)) => limits.push(format!("at most {most}{unit}")),
            (None, None) => {}
        }
    };
    range("minimum", "maximum", "");
    range("minLength", "maxLength", " characters");
    range("minItems", "maxItems", " elements");
    range("minProperties", "maxProperties", " members");
    for (name, words) in
        [("exclusiveMinimum", "more than "), ("exclusiveMaximum", "less than "), ("pattern", "matches ")]
    {
        if let Some(limit) = schema.get(name) {
            limits.push(format!("{words}{}", shown(limit).trim_matches('"')));
        }
    }
    limits.join("; ")
}

/// Its description, and those of its choices.
fn meaning(schema: &Value) -> String {
    let mut meaning =
        schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    for choice in schema["oneOf"].as_array().into_iter().flatten() {
        if let (Some(value), Some(description)) = (choice.get("const"), choice["description"].as_str()) {
            meaning += &format!(" {}: {description}", shown(value));
        }
    }
    line(meaning.trim()).into_owned()
}

/// A value as JSON, cut short.
fn shown(value: &Value) -> String {
    short_line(&value.to_string(), VALUE_CHARS_MAX)
}

/// `always` is the head of the column that tells what cannot be missing.
fn table(rows: &[Row], always: &str) -> String {
    let cells = |row: &Row| {
        let required = if row.is_required { "yes" } else { "no" };
        [row.name.clone(), row.kind.clone(), required.to_owned(), row.default.clone(), row.limits.clone()]
    };
    let head = ["NAME", "TYPE", always, "DEFAULT", "LIMITS"].map(str::to_owned);
    let lines: Vec<([String; 5], &str)> = rows.iter().map(|row| (cells(row), row.meaning.as_str())).collect();
    let wide = |n: usize| {
        let widths = lines.iter().map(|(cells, _)| cells[n].chars().count());
        widths.chain([head[n].len()]).max().unwrap_or_default()
    };
    let widths: [usize; 5] = std::array::from_fn(wide);
    let is_used: [bool; 5] = std::array::from_fn(|n| n == 0 || lines.iter().any(|(cells, _)| !cells[n].is_empty()));
    let row = |cells: &[String; 5]| {
        let cells = (0..cells.len()).filter(|n| is_used[*n]).map(|n| format!("{:1$}", cells[n], widths[n]));
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned() + "\n"
    };
    let mut table = row(&head);
    for (cells, meaning) in &lines {
        table += &row(cells);
        table += &wrapped(meaning, 6);
    }
    table
}

/// Text in lines of at most [`WIDTH`] characters, each begun by so many spaces. Nothing for no text.
fn wrapped(text: &str, indent: usize) -> String {
    let (mut lines, mut current) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !current.is_empty() && indent + current.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &format!("{:indent$}{current}\n", "");
            current.clear();
        }
        current += if current.is_empty() { "" } else { " " };
        current += word;
    }
    if !current.is_empty() {
        lines += &format!("{:indent$}{current}\n", "");
    }
    lines
}

/// The arguments of a call with everything that is required, for a shell.
fn example(schema: &Value) -> String {
    let root = schema;
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut left = EXAMPLE_VALUES_MAX;
    let value = |name: &str| (name.to_owned(), sample(root, &schema["properties"][name], 0, &mut left));
    let values: Map<String, Value> = required.take(EXAMPLE_VALUES_MAX).map(value).collect();
    if values.values().any(|value| value.is_object() || value.is_array()) {
        return format!(" --args {}", quoted(&Value::Object(values).to_string()));
    }
    let argument = |(name, value): (&String, &Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!(" --arg {}", quoted(&format!("{name}={value}")))
    };
    values.iter().map(argument).collect()
}

/// A value that fits, as far as that is easily said. `left`: how many more values the example may have.
fn sample(root: &Value, schema: &Value, depth: usize, left: &mut usize) -> Value {
    let schema = resolved(root, schema);
    match left.checked_sub(1) {
        Some(fewer) => *left = fewer,
        None => return "…".into(),
    }
    if let Some(value) = schema.get("default").or(schema["examples"].get(0)).or(schema["enum"].get(0)) {
        return value.clone();
    }
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(choice) = schema["oneOf"].get(0).or(schema["anyOf"].get(0)).filter(|_| depth < DEPTH_MAX) {
        return sample(root, choice, depth + 1, left);
    }
    let name = schema["type"].as_str().or(schema["type"].get(0).and_then(Value::as_str)).unwrap_or("string");
    match name {
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| 1.into()),
        "boolean" => true.into(),
        "array" if depth < DEPTH_MAX => vec![sample(root, &schema["items"], depth + 1, left)].into(),
        "object" if depth < DEPTH_MAX => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let value =
                |name: &str| (name.to_owned(), sample(root, &schema["properties"][name], depth + 1, &mut *left));
            Value::Object(required.take(EXAMPLE_VALUES_MAX).map(value).collect())
        }
        "array" => Value::Array(Vec::new()),
        "object" => Value::Object(Map::new()),
        _ => "…".into(),
    }
}

/// One word of a shell, whatever is in it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,…".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", line(word).replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_a_table_with_an_example() {
        let tool = json!({ "name": "s__t", "description": "Does it. And more.", "inputSchema": {
            "type": "object", "required": ["query", "mode"], "properties": {
                "query": { "type": "string", "minLength": 1, "maxLength": 9, "description": "What to\nlook for." },
                "mode": { "enum": ["it's", "b"] },
                "limit": { "type": ["integer", "null"], "minimum": 1, "default": 20 },
                "sort": { "$ref": "#/$defs/sort" },
            },
            "$defs": { "sort": { "type": "object", "properties": { "by": { "type": "array", "items": { "type": "string" } } } } },
        } });
        let expected = r#"s__t

  Does it. And more.

Arguments:
  NAME     TYPE             REQUIRED  DEFAULT  LIMITS
  query    string           yes                1 to 9 characters
      What to look for.
  mode     choice           yes                "it's", "b"
  limit    integer          no        20       at least 1
  sort     object           no
  sort.by  array of string  no

Example:
  skep call s__t --arg query=… --arg 'mode=it'\''s'
"#;
        assert_eq!(page(&tool), expected);
    }

    #[test]
    fn a_value_that_may_be_anything_is_said_to_be_so_and_no_limit_is_none() {
        let forms = ["string", "number", "boolean", "object", "array"].map(|kind| json!({ "type": kind }));
        assert_eq!(kind(&json!({}), &json!({ "anyOf": forms }), 0), "any");
        assert_eq!(limits(&json!({ "minimum": 0, "maximum": portable::INTEGER_MAX })), "at least 0");
    }

    #[test]
    fn an_example_needs_json_where_a_value_is_no_scalar() {
        let schema = json!({ "required": ["urls"], "properties": { "urls": { "type": "array", "items": { "type": "string" } } } });
        assert_eq!(example(&schema), r#" --args '{"urls":["…"]}'"#);
        assert_eq!(example(&json!({})), "");
    }

    #[test]
    fn a_schema_that_refers_to_itself_has_an_end() {
        let schema = json!({ "$defs": { "n": { "type": "object", "required": ["n"], "properties": { "n": { "$ref": "#/$defs/n" } } } },
            "type": "object", "required": ["n"], "properties": { "n": { "$ref": "#/$defs/n" } } });
        assert_eq!(rows(&schema).len(), DEPTH_MAX + 1);
        assert!(example(&schema).len() < 200);
        let list = json!({ "$defs": { "n": { "type": "array", "items": { "$ref": "#/$defs/n" } } },
            "properties": { "n": { "$ref": "#/$defs/n" } } });
        assert!(rows(&list)[0].kind.starts_with("array of array of"), "{}", rows(&list)[0].kind);
        let choices = json!({ "$defs": { "n": { "anyOf": vec![json!({ "$ref": "#/$defs/n" }); 1000] } },
            "properties": { "n": { "$ref": "#/$defs/n" } } });
        assert!(rows(&choices)[0].kind.len() < 200, "{}", rows(&choices)[0].kind);
        let names: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let members: Map<String, Value> = names.iter().map(|n| (n.clone(), json!({ "$ref": "#" }))).collect();
        let wider = json!({ "type": "object", "required": names, "properties": members });
        assert!(page(&json!({ "name": "t", "inputSchema": wider })).len() < 50_000);
        let wide: Map<String, Value> = (0..1000).map(|n| (n.to_string(), json!({}))).collect();
        assert_eq!(rows(&json!({ "properties": wide })).len(), ROWS_MAX);
    }

    #[test]
    fn what_a_server_wrote_neither_forges_lines_nor_runs_in_a_shell_when_it_is_copied() {
        let bad = "\u{1b}[2J\nskep: $(reboot)`reboot`";
        let tool = json!({ "name": bad, "description": "fine", "inputSchema": { "required": [bad],
            "properties": { bad: { "type": bad, "default": bad, "description": bad, "pattern": bad } } } });
        let page = page(&tool);
        assert!(!page.contains('\u{1b}') && !page.lines().any(|line| line.starts_with("skep:")), "{page}");
        let example = page.lines().last().unwrap();
        assert!(example.starts_with("  skep call '") && example.ends_with('\''), "{example}");
        assert_eq!(quoted("a'$(b)"), r"'a'\''$(b)'");
    }
}
