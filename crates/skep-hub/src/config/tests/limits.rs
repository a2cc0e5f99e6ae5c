//! What types take, and what the schemas that are made from them say: the same, at every limit that there is.

use grep_matcher::Matcher as _;
use grep_regex::RegexMatcher;
use serde_json::{Value, json};
use skep_tools::{parts::Parts, sandboxed::SandboxOnDemand, schema::shorten};

/// A value that fits, with as little as possible in it.
fn example(schema: &Value) -> Value {
    let array = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
    if let Some(value) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return value.clone();
    }
    if let Some(one) = array("anyOf").iter().chain(&array("oneOf")).find(|one| one["type"] != "null") {
        return example(one);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("object") => {
            let required = |name: &Value| {
                (name.as_str().unwrap().to_owned(), example(&schema["properties"][name.as_str().unwrap()]))
            };
            let mut members: serde_json::Map<String, Value> = array("required").iter().map(required).collect();
            if schema["minProperties"] == 1 {
                members.insert("a".to_owned(), example(&schema["additionalProperties"]));
            }
            members.into()
        }
        Some("array") => json!([]),
        Some("string") => match (schema["pattern"].as_str(), schema["title"].as_str()) {
            (Some(_), Some(_)) => json!("10s"), // the only titled one: a duration
            (Some(pattern), None) => ["eng", ":0"]
                .into_iter()
                .find(|text| RegexMatcher::new(pattern).unwrap().is_match(text.as_bytes()).unwrap())
                .into(),
            (None, _) => "a".repeat(schema["minLength"].as_u64().unwrap_or(1) as usize).into(),
        },
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(true),
        _ => json!("anything"),
    }
}

/// Values at each limit that the schema states and beyond it, everywhere in it.
fn at_the_limits(schema: &Value) -> Vec<Value> {
    let number = |name: &str| schema[name].as_u64();
    let mut values = vec![
        example(schema),
        json!(null),
        json!("~"),
        json!(-1),
        json!(0),
        json!(1.5),
        json!([1]),
        json!({"no such": 1}),
    ];
    for limit in ["minLength", "maxLength"].into_iter().filter_map(number) {
        // Letters of two bytes: characters are counted.
        values.extend([limit.saturating_sub(1), limit, limit + 1].map(|count| "é".repeat(count as usize).into()));
    }
    for limit in ["minimum", "maximum"].into_iter().filter_map(number) {
        values.extend([json!(limit as i64 - 1), json!(limit), json!(limit + 1)]);
    }
    for limit in ["minItems", "maxItems"].into_iter().filter_map(number) {
        values.extend([limit, limit + 1].map(|count| vec![example(&schema["items"]); count as usize].into()));
    }
    for form in ["anyOf", "oneOf"] {
        values.extend(schema[form].as_array().into_iter().flatten().flat_map(at_the_limits));
    }
    values.extend(at_the_limits_below(schema, "items", |value| json!([value])));
    values.extend(at_the_limits_below(schema, "additionalProperties", |value| json!({"a": value})));
    let whole = example(schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        for value in at_the_limits(property) {
            let mut whole = whole.clone();
            whole[name] = value;
            values.push(whole);
        }
    }
    values
}

fn at_the_limits_below(schema: &Value, key: &str, wrap: impl Fn(Value) -> Value) -> Vec<Value> {
    schema
        .get(key)
        .filter(|below| below.is_object())
        .map_or(Vec::new(), |below| at_the_limits(below).into_iter().map(wrap).collect())
}

/// The type decides and the schema explains, so what the schema forbids, the type must refuse.
#[test]
fn no_type_takes_what_its_schema_forbids() {
    let parts = Parts::new(SandboxOnDemand::new(Default::default()));
    let tools = skep_builtin::all(parts);
    let tools = tools.iter().map(|tool| (tool.name, &tool.arguments));
    let files = [("skep.toml", super::super::schema()), ("plan", skep_plan::schema())];
    for (name, schema) in tools.chain(files) {
        let validator = jsonschema::validator_for(schema.json()).unwrap();
        let values = at_the_limits(schema.json());
        assert!(schema.takes(&values[0]), "{name} refuses {}", values[0]);
        for value in values {
            if schema.takes(&value) {
                let fault = validator.validate(&value).err();
                assert!(fault.is_none(), "{name} takes {}: {}", shorten(&value.to_string(), 300), fault.unwrap());
            }
        }
    }
}

/// Models see another schema than the one that explains faults. It forbids no more than that, except null for absent.
#[test]
fn no_tool_takes_what_the_schema_that_is_shown_forbids() {
    let parts = Parts::new(SandboxOnDemand::new(Default::default()));
    for tool in skep_builtin::all(parts) {
        let validator = jsonschema::validator_for(tool.input_schema()).unwrap();
        assert!(tool.arguments.takes(&example(tool.input_schema())), "{}", tool.name);
        for value in at_the_limits(tool.arguments.json()) {
            let without_null = without_null(&value);
            if tool.arguments.takes(&value) && !without_null.is_null() {
                let fault = validator.validate(&without_null).err();
                assert!(
                    fault.is_none(),
                    "{} takes {}: {}",
                    tool.name,
                    shorten(&value.to_string(), 300),
                    fault.unwrap()
                );
            }
        }
    }
}

/// The same value, with what is null left out.
fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter().filter(|(_, member)| !member.is_null());
            members.map(|(name, member)| (name.clone(), without_null(member))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(elements) => elements.iter().filter(|one| !one.is_null()).map(without_null).collect(),
        other => other.clone(),
    }
}
