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

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct Renamed {
    #[serde(alias = "taskId", alias = "swarmId")]
    #[garde(length(chars, min = 1))]
    task_id: String,
    count: u32,
}

#[test]
fn a_member_by_another_name_of_it_is_no_fault_and_its_faults_are_told_by_that_name() {
    let schema = Schema::of::<Renamed>();
    let faults = |value: Value| -> Vec<String> {
        let said = |one: Violation| format!("{} {}", one.pointer, one.message);
        schema.violations(&value).into_iter().map(said).collect()
    };
    assert_eq!(faults(json!({ "swarmId": "a", "count": 1 })), [""; 0]);
    assert_eq!(faults(json!({ "swarmId": "a", "count": "x" })), ["/count must be a whole number, not text"]);
    assert_eq!(faults(json!({ "swarmId": "", "count": 1 })), ["/swarmId must not be empty"]);
    assert_eq!(faults(json!({ "swarm": "a", "count": 1 })), [" `task_id` is missing", "/swarm is not known here"]);
}
