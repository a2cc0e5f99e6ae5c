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
fn what_an_answer_leaves_out_is_not_required_of_it() {
    #[derive(schemars::JsonSchema, serde::Serialize)]
    struct Answer {
        always: Option<u8>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        words: Vec<String>,
    }
    let schema = generate::<Answer>(Side::Answer);
    assert_eq!(schema["required"], json!(["always"]));
    let validator = jsonschema::validator_for(&schema).unwrap();
    for words in [vec![], vec!["one".to_owned()]] {
        assert!(validator.is_valid(&serde_json::to_value(Answer { always: None, words }).unwrap()));
    }
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
