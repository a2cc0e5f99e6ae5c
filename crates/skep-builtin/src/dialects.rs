//! The schemas of all tools, as the models' providers read them.

use serde_json::Value;
use skep_tools::{
    parts::Parts,
    sandboxed::SandboxOnDemand,
    schema::{
        self,
        portable::{FORMATS, INTEGER_MAX, Side},
    },
};

/// The keywords that all of these take:
///
/// - Claude (`input_schema`, also with `strict`): `type`, `enum`, `anyOf`, `items`, `properties`, `required`,
///   `additionalProperties`, `default`, some formats; no `oneOf` or `allOf` on top, no recursion. Limits of numbers,
///   texts and lists are taken out for strict tools by its libraries, and passed on as words.
/// - OpenAI, strict: the same, and `pattern` and the limits; an object on top; no `oneOf`, `allOf`, `not`, `const` with
///   a type that is missing, `if`, `patternProperties`. What is optional here is made nullable and required by its libraries.
/// - Gemini (`parameters`, a subset of OpenAPI 3.0, and `parametersJsonSchema`): one `type` for each schema; `enum` of
///   texts; `items` for each list; `anyOf`; the limits; formats of its own for numbers, so none here.
const KEYWORDS: [&str; 16] = [
    "type",
    "description",
    "default",
    "enum",
    "anyOf",
    "items",
    "properties",
    "required",
    "additionalProperties",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "pattern",
];
/// Objects within objects: what OpenAI allowed when it allowed least.
const DEPTH_MAX: usize = 5;

/// What some dialect has against a schema.
fn faults(schema: &Value, side: Side, at: &str, depth: usize) -> Vec<String> {
    let Some(members) = schema.as_object() else { return vec![format!("{at}: {schema} is no object")] };
    let mut found: Vec<String> = members
        .keys()
        .filter(|key| !KEYWORDS.contains(&&***key))
        .filter(|key| *key != "format" || !FORMATS.contains(&schema["format"].as_str().unwrap_or_default()))
        .map(|key| format!("{at}: {key} {}", members[key]))
        .collect();
    let mut say = |is_fault: bool, what: &str| found.extend(is_fault.then(|| format!("{at}: {what}")));
    let kind = members.get("type").and_then(Value::as_str);
    let (is_choice, is_top) = (members.contains_key("anyOf"), depth == 0);
    say(kind.is_some() == is_choice, "it has either one type or several forms");
    say(is_top && kind != Some("object"), "the whole is an object");
    say(depth > DEPTH_MAX, "it is nested too deeply");
    match kind {
        Some("integer") => {
            let exact = |name: &str| schema[name].as_i64().is_some_and(|limit| limit.abs() <= INTEGER_MAX);
            say(!(exact("minimum") && exact("maximum")), "an integer has limits that every reader can represent");
        }
        Some("array") => say(side == Side::Arguments && schema.get("items").is_none(), "a list says of what"),
        Some("object") if side == Side::Arguments => {
            let more = &schema["additionalProperties"];
            let is_closed = *more == false && schema.get("properties").is_some();
            let is_map = (*more == true || more.is_object()) && schema.get("properties").is_none();
            say(!is_closed && !is_map, "an object has either known members or free ones");
        }
        Some("null") => say(side == Side::Arguments, "an argument is left out instead of null"),
        _ => (),
    }
    let words = schema["enum"].as_array().into_iter().flatten();
    say(words.clone().any(|word| !word.is_string()), "words are texts");
    say(schema.get("default").is_some_and(Value::is_null), "null is no default");
    let known = |name: &Value| schema["properties"].get(name.as_str().unwrap_or_default()).is_some();
    say(!schema["required"].as_array().into_iter().flatten().all(known), "what is required is known");
    let look_around = ["(?=", "(?!", "(?<", "\\b", "\\1"];
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    say(look_around.iter().any(|part| pattern.contains(part)), "a pattern is a plain regular expression");
    let name_fits = |name: &String| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        plain && (1..=64).contains(&name.len()) && !name.starts_with(|letter: char| letter.is_ascii_digit())
    };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        found.extend((!name_fits(name)).then(|| format!("{at}: the name {name}")));
        found.extend(faults(property, side, &format!("{at}/{name}"), depth + 1));
        let is_said = side == Side::Answer || property["description"].as_str().is_some_and(|about| !about.is_empty());
        found.extend((!is_said).then(|| format!("{at}/{name}: it does not say what it is")));
    }
    for form in schema["anyOf"].as_array().into_iter().flatten() {
        found.extend(faults(form, side, &format!("{at}|"), depth + usize::from(is_top)));
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(below).filter(|schema| !schema.is_boolean()) {
            found.extend(faults(schema, side, &format!("{at}/{below}"), depth + 1));
        }
    }
    found
}

#[test]
fn every_schema_of_a_tool_is_understood_by_every_dialect() {
    let tools = crate::all(Parts::new(SandboxOnDemand::new(Default::default())));
    let mut found = Vec::new();
    for tool in &tools {
        found.extend(faults(tool.input_schema(), Side::Arguments, &format!("{}(…)", tool.name), 0));
        found.extend(faults(tool.output_schema(), Side::Answer, tool.name, 0));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Example {
    /// A text.
    text: Option<String>,
    number: u64,
    /// How.
    mode: Option<Mode>,
    /// Anything.
    free: Value,
}

#[derive(schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
enum Mode {
    /// At once.
    Fast,
    /// With care.
    Slow,
}

#[test]
fn the_rules_of_the_dialects_find_what_was_there_before() {
    let before = schema::generate::<Example>();
    let found = faults(&before, Side::Arguments, "", 0).join("\n");
    for fault in [
        "/number: format \"uint64\"",
        "/text: it has either one type or several forms",
        "/free: it has either one type or several forms",
        "/mode|: oneOf",
        "/mode|: an argument is left out instead of null",
    ] {
        assert!(found.contains(fault), "{fault}\n{found}");
    }
}
