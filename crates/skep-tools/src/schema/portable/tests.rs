use serde_json::json;

use super::*;

#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Example {
    /// A text.
    text: Option<String>,
    number: u64,
    small: Option<u16>,
    share: f64,
    #[schemars(range(min = 1, max = 9))]
    few: usize,
    /// How.
    mode: Option<Mode>,
    names: Option<Names>,
    /// Anything.
    free: Value,
    map: std::collections::BTreeMap<String, Value>,
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

#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Names {
    One(String),
    Several(Vec<String>),
}

#[test]
fn an_argument_that_may_be_left_out_is_not_nullable_as_well() {
    let schema = generate::<Example>(Side::Arguments);
    assert_eq!(schema["properties"]["text"], json!({ "description": "A text.", "type": "string" }));
    let several = json!({ "type": "array", "items": { "type": "string" } });
    assert_eq!(schema["properties"]["names"], json!({ "anyOf": [{ "type": "string" }, several] }));
    let mode = &schema["properties"]["mode"];
    assert_eq!((&mode["type"], &mode["enum"]), (&json!("string"), &json!(["fast", "slow"])));
    assert_eq!(mode["description"], "How. fast: At once; slow: With care.");
    assert_eq!(schema["required"], json!(["number", "share", "few", "free", "map"]));
}

#[test]
fn null_in_an_answer_is_a_form_of_its_own() {
    let schema = generate::<Example>(Side::Answer);
    let text = json!({ "description": "A text.", "anyOf": [{ "type": "string" }, { "type": "null" }] });
    assert_eq!(schema["properties"]["text"], text);
    let small = json!([{ "type": "integer", "minimum": 0, "maximum": 65535 }, { "type": "null" }]);
    assert_eq!(schema["properties"]["small"]["anyOf"], small);
}

#[test]
fn numbers_have_limits_instead_of_names_of_rust() {
    let schema = generate::<Example>(Side::Arguments);
    let number = |name: &str| schema["properties"][name].clone();
    assert_eq!(number("number"), json!({ "type": "integer", "minimum": 0, "maximum": 9_007_199_254_740_991_u64 }));
    assert_eq!(number("small"), json!({ "type": "integer", "minimum": 0, "maximum": 65535 }));
    assert_eq!(number("few"), json!({ "type": "integer", "minimum": 1, "maximum": 9 }));
    assert_eq!(number("share"), json!({ "type": "number" }));
}

#[test]
fn a_free_value_says_what_it_may_be() {
    let free = |side| generate::<Example>(side)["properties"]["free"]["anyOf"].clone();
    let types = |side| free(side).as_array().unwrap().iter().map(|form| form["type"].clone()).collect::<Vec<_>>();
    assert_eq!(types(Side::Arguments), ["string", "number", "boolean", "object", "array"]);
    assert_eq!(types(Side::Answer), ["string", "number", "boolean", "object", "array", "null"]);
    let of = |side, name: &str| generate::<Example>(side)["properties"][name].clone();
    assert!(is_any(&of(Side::Arguments, "free")) && is_any(&of(Side::Answer, "free")));
    assert!(!is_any(&of(Side::Answer, "text")) && !is_any(&of(Side::Arguments, "names")));
    // Whatever it is, the schema of an answer takes it.
    let schema = json!({ "anyOf": free(Side::Answer) });
    let validator = jsonschema::validator_for(&schema).unwrap();
    for value in [json!(null), json!([[[1, null]], {}]), json!({ "a": [null] }), json!(1.5), json!("")] {
        assert!(validator.is_valid(&value), "{value}");
    }
    assert_eq!(generate::<Example>(Side::Arguments)["properties"]["map"]["additionalProperties"], true);
}

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
    let parts = crate::built_in::Parts::new(crate::built_in::SandboxOnDemand::new(Default::default()));
    let tools = crate::built_in::all(parts);
    let mut found = Vec::new();
    for tool in &tools {
        found.extend(faults(tool.input_schema(), Side::Arguments, &format!("{}(…)", tool.name), 0));
        found.extend(faults(tool.output_schema(), Side::Answer, tool.name, 0));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_rules_of_the_dialects_find_what_was_there_before() {
    let before = super::super::generate::<Example>();
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
