use grep_matcher::Matcher as _;
use grep_regex::RegexMatcher;
use serde_json::json;

use super::*;

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct Example {
    name: String,
    #[garde(range(min = 1, max = 9))]
    number: Option<u8>,
    mode: Option<Mode>,
    names: Option<Names>,
    #[garde(length(chars, min = 1, max = 3))]
    short: Option<String>,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// With a word of explanation, which makes it another form in the schema.
    Fast,
    /// As before.
    Slow,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Names {
    One(String),
    Several(Vec<String>),
}

fn violations(value: Value) -> Vec<String> {
    let say = |violation: Violation| {
        let help = violation.help.map_or(String::new(), |help| format!("; {help}"));
        format!("{}: {}{help}", violation.pointer, violation.message)
    };
    Schema::of::<Example>().violations(&value).into_iter().map(say).collect()
}

#[test]
fn what_fits_is_accepted() {
    let value = json!({"name": "n", "number": 9, "mode": "fast", "names": ["a"], "short": "abc"});
    assert_eq!(violations(value), Vec::<String>::new());
    assert_eq!(violations(json!({"name": "n", "number": null, "names": "a"})), Vec::<String>::new());
}

#[test]
fn every_violation_is_a_sentence_about_one_value() {
    let value = json!({"nmae": 1, "number": 10, "mode": "fats", "names": 5, "short": "abcd"});
    let mut found = violations(value);
    found.sort();
    assert_eq!(
        found,
        [
            "/mode: must be one of \"fast\", \"slow\", not \"fats\"; did you mean \"fast\"?",
            "/names: must be text or a list, not a number",
            "/nmae: is not known here; did you mean \"name\"?",
            "/number: must be at most 9",
            "/short: must have at most 3 characters",
            ": `name` is missing",
        ]
    );
    assert_eq!(
        violations(json!({"name": 1, "number": "x"})),
        ["/name: must be text, not a number", "/number: must be a whole number, not text",]
    );
    assert_eq!(violations(json!({"name": "n", "names": ["a", 1]})), ["/names/1: must be text, not a number"]);
    assert_eq!(violations(json!([])), [": must be a table, not a list"]);
}

#[test]
fn no_message_repeats_a_huge_value_or_a_secret() {
    let secret = "s3cret".repeat(100_000);
    let value =
        json!({"name": [secret], "number": secret, "mode": {"a": secret}, "names": {"b": secret}, "short": secret});
    for violation in violations(value) {
        assert!(!violation.contains("s3cret"), "{}", shorten(&violation, 300));
    }
}

#[test]
fn a_flood_of_violations_is_cut() {
    let many: serde_json::Map<String, Value> = (0..PROBLEMS_MAX * 3).map(|n| (format!("x{n}"), n.into())).collect();
    assert_eq!(violations(Value::Object(many)).len(), PROBLEMS_MAX);
}

#[test]
fn near_names_are_suggested_and_far_ones_are_not() {
    assert_eq!(suggest("serch", ["search", "bash"]), Some("did you mean \"search\"?".to_owned()));
    assert_eq!(suggest("teleport", ["search", "bash"]), None);
    assert_eq!(suggest(&"s".repeat(1000), ["search"]), None);
}

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
    let parts = crate::tools::Parts::new(crate::tools::SandboxOnDemand::new(Default::default()));
    let tools = crate::tools::built_in(parts);
    let tools = tools.iter().map(|tool| (tool.name, &tool.arguments));
    let files = [("skep.toml", crate::config::schema()), ("plan", crate::plan::schema())];
    for (name, schema) in tools.chain(files) {
        let validator = jsonschema::validator_for(schema.json()).unwrap();
        let values = at_the_limits(schema.json());
        assert!((schema.check)(&values[0]).is_ok(), "{name} refuses {}", values[0]);
        for value in values {
            if (schema.check)(&value).is_ok() {
                let fault = validator.validate(&value).err();
                assert!(fault.is_none(), "{name} takes {}: {}", shorten(&value.to_string(), 300), fault.unwrap());
            }
        }
    }
}

/// Models see another schema than the one that explains faults. It forbids no more than that, except null for absent.
#[test]
fn no_tool_takes_what_the_schema_that_is_shown_forbids() {
    let parts = crate::tools::Parts::new(crate::tools::SandboxOnDemand::new(Default::default()));
    for tool in crate::tools::built_in(parts) {
        let validator = jsonschema::validator_for(tool.input_schema()).unwrap();
        assert!((tool.arguments.check)(&example(tool.input_schema())).is_ok(), "{}", tool.name);
        for value in at_the_limits(tool.arguments.json()) {
            let without_null = without_null(&value);
            if (tool.arguments.check)(&value).is_ok() && !without_null.is_null() {
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
