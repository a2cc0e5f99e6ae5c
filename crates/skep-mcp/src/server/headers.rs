//! The headers in which HTTP callers of 2026-07-28 repeat what is in the body, so that what stands between can route by
//! them. Whoever reads the body must see that they agree: otherwise what checked the header and what is run differ.

use std::borrow::Cow;

use axum::http::HeaderName;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Number, Value};

use super::{
    Members, Service, code,
    http::{Fields, LAST_EVENT_ID, text},
};
use crate::message::ErrorObject;

/// The headers of every request of 2026-07-28 that repeat what is in it.
pub(crate) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(crate) const NAME: HeaderName = HeaderName::from_static("mcp-name");
const PROTOCOL_VERSION: &str = "mcp-protocol-version";

/// The mark of a tool's argument that is repeated in a header.
const MARK: &str = "x-mcp-header";
/// Schemas are looked into so deep.
const DEPTH_MAX: usize = 16;

/// An argument that callers repeat in the header `Mcp-Param-{name}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderArgument {
    /// What comes after `Mcp-Param-`.
    pub name: String,
    /// The way to it: names of properties, from the arguments down.
    pub path: Vec<String>,
}

/// The arguments of a tool that its input schema marks with `x-mcp-header`; marks that are not valid count for nothing:
/// a name must be fit for a header and used once, its value a string, an integer or a boolean.
pub fn header_arguments(input_schema: &Value) -> Vec<HeaderArgument> {
    let mut found: Vec<HeaderArgument> = Vec::new();
    collect(input_schema, &mut Vec::new(), &mut found);
    found
}

fn collect(schema: &Value, path: &mut Vec<String>, found: &mut Vec<HeaderArgument>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    if path.len() >= DEPTH_MAX {
        return;
    }
    for (property, schema) in properties {
        path.push(property.clone());
        let is_plain = matches!(schema.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean"));
        if let Some(name) = schema.get(MARK).and_then(Value::as_str)
            && is_plain
            && HeaderName::try_from(name).is_ok()
            && !found.iter().any(|other| other.name.eq_ignore_ascii_case(name))
        {
            found.push(HeaderArgument { name: name.to_owned(), path: path.clone() });
        }
        collect(schema, path, found);
        path.pop();
    }
}

/// Whether a mark of a tool is not valid: over HTTP, clients must leave such a tool alone (2026-07-28, custom headers).
pub fn has_faulty_mark(input_schema: &Value) -> bool {
    marks(input_schema) > header_arguments(input_schema).len()
}

/// The marks in a schema, wherever they are.
fn marks(schema: &Value) -> usize {
    let of_member = |(keyword, value): (&String, &Value)| match (keyword.as_str(), value) {
        (MARK, _) => 1,
        ("const" | "default" | "enum" | "examples", _) => 0, // data, whatever it looks like
        ("properties" | "patternProperties" | "dependentSchemas" | "$defs" | "definitions", Value::Object(named)) => {
            named.values().map(marks).sum()
        }
        (_, Value::Array(schemas)) => schemas.iter().map(marks).sum(),
        (_, value) => marks(value),
    };
    schema.as_object().map_or(0, |members| members.iter().map(of_member).sum())
}

/// Whether clients of some revision send this header: it is to be let through where headers are picked. All of the protocol's own
/// begin with `Mcp-`, those that a tool's schema names included; `Last-Event-ID` is that of event streams (HTML standard).
pub fn is_sent_by_clients(name: &str) -> bool {
    const PREFIX: &str = "mcp-";
    name.get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX))
        || name.eq_ignore_ascii_case(LAST_EVENT_ID)
}

/// Compare the headers of a request with its body, which names this revision.
pub(crate) fn check(
    headers: &Fields<'_>,
    method: &str,
    params: &Members<'_>,
    version: &str,
    service: &dyn Service,
) -> Result<(), ErrorObject> {
    compare(headers, PROTOCOL_VERSION, Some(&|header| header == version))?;
    compare(headers, METHOD.as_str(), Some(&|header| header == method))?;
    let named = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => return Ok(()),
    };
    let Some(name) = params.text(named) else {
        return compare_value(headers, NAME.as_str(), params.read::<Value>(named).as_ref());
    };
    compare(headers, NAME.as_str(), Some(&|header| header == name))?;
    if method != "tools/call" {
        return Ok(());
    }
    let marked = service.header_arguments(&name);
    if marked.is_empty() {
        return Ok(());
    }
    let arguments = params.read::<Value>("arguments").unwrap_or_default();
    for HeaderArgument { name, path } in marked {
        let value =
            path.iter().try_fold(&arguments, |value, property| value.get(property)).filter(|value| !value.is_null());
        compare_value(headers, &format!("mcp-param-{name}"), value)?;
    }
    Ok(())
}

fn compare_value(headers: &Fields<'_>, name: &str, value: Option<&Value>) -> Result<(), ErrorObject> {
    let is_same = |header: &str| match value {
        Some(Value::String(text)) => text == header,
        Some(Value::Bool(flag)) => header == flag.to_string(),
        Some(Value::Number(number)) => is_same_number(header, number),
        _ => false,
    };
    compare(headers, name, value.is_some().then_some(&is_same))
}

/// The header must be there if and only if the body has the value, and mean the same, which `is_same` knows.
fn compare(headers: &Fields<'_>, name: &str, is_same: Option<&dyn Fn(&str) -> bool>) -> Result<(), ErrorObject> {
    let mismatch = |message: String| Err(ErrorObject::new(code::HEADER_MISMATCH, message));
    let mut all = headers.all(name);
    let (header, more) = (all.next(), all.next());
    if more.is_some() {
        return mismatch(format!("the header {name} is there more than once"));
    }
    let (header, is_same) = match (header, is_same) {
        (None, None) => return Ok(()),
        (None, Some(_)) => return mismatch(format!("the header {name} is missing; it repeats what the body says")),
        (Some(_), None) => return mismatch(format!("the header {name} says what the body does not")),
        (Some(header), Some(is_same)) => (header, is_same),
    };
    let Some(decoded) = text(header.trim_ascii()).and_then(decode) else {
        return mismatch(format!(
            "the header {name} is not well-formed; other than visible ASCII goes into =?base64?…?="
        ));
    };
    if is_same(&decoded) { Ok(()) } else { mismatch(format!("the header {name} says something else than the body")) }
}

/// 7 and 7.0 are one number. Integers are compared to their last digit, which a float may not have.
fn is_same_number(header: &str, value: &Number) -> bool {
    match (header.parse::<i128>(), value.to_string().parse::<i128>()) {
        (Ok(header), Ok(value)) => header == value,
        _ => header.parse::<f64>().is_ok_and(|header| value.as_f64() == Some(header)),
    }
}

/// The value that a header stands for.
pub(crate) fn decode(text: &str) -> Option<Cow<'_, str>> {
    match text.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok().map(Cow::Owned),
        None => Some(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const X: &str = "mcp-param-x";

    fn same(header: &'static str, value: Value) -> bool {
        let headers = Fields::from_iter([(X, header.as_bytes())]);
        compare_value(&headers, X, Some(&value)).is_ok()
    }

    #[test]
    fn a_header_means_what_it_encodes() {
        assert!(same("Hello", json!("Hello")));
        assert!(same("  Hello ", json!("Hello")), "white space around a header is not part of it");
        assert!(same("=?base64?SGVsbG8=?=", json!("Hello")));
        assert!(same("=?base64?SGVsbG8=", json!("=?base64?SGVsbG8=")), "without its end it is literal");
        assert!(same("7", json!(7)) && same("7.0", json!(7)) && same("true", json!(true)));
        for (header, value) in [
            ("hello", json!("Hello")),
            ("=?base64?SGVsbG8?=", json!("Hello")),
            ("=?base64?SGVs!!!bG8=?=", json!("Hello")),
            ("=?base64?/w==?=", json!("\u{fffd}")),
            ("8", json!(7)),
            ("9007199254740993", json!(9_007_199_254_740_992_u64)),
            ("seven", json!(7)),
            ("True", json!(true)),
            ("{}", json!({})),
        ] {
            assert!(!same(header, value), "{header}");
        }
    }

    #[test]
    fn only_valid_marks_count() {
        let schema = json!({"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "again": {"type": "string", "x-mcp-header": "region"},
            "list": {"type": "array", "x-mcp-header": "List"},
            "bad": {"type": "string", "x-mcp-header": "two words"},
            "in": {"type": "object", "properties": {"count": {"type": "integer", "x-mcp-header": "Count"}}},
        }});
        let found = header_arguments(&schema);
        let names: Vec<(&str, String)> = found.iter().map(|one| (one.name.as_str(), one.path.join("."))).collect();
        assert_eq!(names, [("Region", "region".to_owned()), ("Count", "in.count".to_owned())]);
    }

    #[test]
    fn a_mark_that_does_not_count_is_a_fault() {
        let mark = json!({"type": "string", "x-mcp-header": "Region"});
        for (faulty, schema) in [
            (
                false,
                json!({"properties": {"a": mark, "in": {"properties": {"b": {"type": "boolean", "x-mcp-header": "B"}}}}}),
            ),
            (false, json!({"properties": {"x-mcp-header": {"type": "string", "default": {"x-mcp-header": 7}}}})),
            (true, json!({"properties": {"a": mark, "b": mark}})),
            (true, json!({"properties": {"a": {"type": "number", "x-mcp-header": "A"}}})),
            (true, json!({"properties": {"a": {"type": "string", "x-mcp-header": "a b"}}})),
            (true, json!({"properties": {"a": {"type": "string", "x-mcp-header": 7}}})),
            (true, json!({"properties": {"a": {"type": "array", "items": mark}}})),
            (true, json!({"anyOf": [{"properties": {"a": mark}}]})),
            (true, json!({"$defs": {"a": mark}})),
            (true, mark.clone()),
        ] {
            assert_eq!(has_faulty_mark(&schema), faulty, "{schema}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        const WORDS: [&str; 8] = ["type", "properties", "x-mcp-header", "items", "enum", "$defs", "a", "b"];
        const TEXTS: [&str; 10] =
            ["string", "integer", "boolean", "object", "array", "Region", "region", "two words", "é", ""];
        let leaf = prop_oneof![
            prop::sample::select(&TEXTS[..]).prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(6, 60, 5, |inner| {
            let members = prop::collection::vec((prop::sample::select(&WORDS[..]), inner.clone()), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..3).prop_map(Value::from),
                members.prop_map(|members| {
                    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn marks_of_any_schema_are_headers_once_and_lead_to_plain_values(schema in any_value()) {
            let found = header_arguments(&schema);
            let mut names: Vec<String> = found.iter().map(|one| one.name.to_ascii_lowercase()).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), found.len());
            for HeaderArgument { name, path } in &found {
                prop_assert!(HeaderName::try_from(name).is_ok());
                let at = path.iter().try_fold(&schema, |schema, name| schema.get("properties")?.get(name)).unwrap();
                prop_assert_eq!(&at[MARK], name);
                prop_assert!(matches!(at["type"].as_str(), Some("string" | "integer" | "boolean")));
            }
            prop_assert_eq!(has_faulty_mark(&schema), marks(&schema) > found.len());
        }

        #[test]
        fn any_header_is_compared_with_any_value(bytes: Vec<u8>, value in any_value()) {
            let headers = Fields::from_iter([(X, &bytes[..])]);
            let is_same = compare_value(&headers, X, Some(&value)).is_ok();
            prop_assert!(!is_same || !(value.is_object() || value.is_array() || value.is_null()));
            prop_assert!(compare_value(&headers, X, None).is_err());
        }

        #[test]
        fn a_number_is_no_other_number(one: i64, other: i64) {
            prop_assert_eq!(is_same_number(&one.to_string(), &other.into()), one == other);
            prop_assert!(is_same_number(&one.to_string(), &one.into()));
        }
    }
}
