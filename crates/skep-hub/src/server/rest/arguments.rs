//! The arguments of a tool, from the path, the query, the headers and the body of a request.
//!
//! The body stays text, as for every call: what the rest of the request says is put in front of its members.

use std::collections::BTreeMap;

use axum::{
    extract::{FromRequestParts as _, Path, Query},
    http::{HeaderMap, Method, Uri, header, request::Parts},
};
use serde_json::{Map, Value, value::RawValue};
use skep_mcp::{server::http::Fields, spans};
use skep_tools::schema::shorten;

use super::super::{
    body::Whole,
    http::Shared,
    problem::{Kind, Problem},
};
use crate::hub::calls::Text;

/// Which agent acts.
const AGENT: &str = "skep-agent";
/// The token of the claim that a change of a file is made with.
const TOKEN: &str = "skep-claim-token";
/// By which a request that is made again is known.
const KEY: &str = "idempotency-key";
/// Names in queries that are short for an argument.
const SHORT: [(&str, &str); 2] = [("q", "query"), ("state", "states")];
/// Tools that do not mean whoever acts by `agent_id`.
const ABOUT_AGENTS: [&str; 1] = ["read_logs"];
/// Characters of a name that is repeated to the caller.
const NAME_CHARS_SHOWN: usize = 100;

/// What a request says beside its body.
pub(super) struct Arguments {
    members: Map<String, Value>,
    /// The revision on which the request is conditional, if it is.
    condition: Option<u64>,
}

impl Arguments {
    /// The arguments for this tool.
    pub(super) async fn of(hub: &Shared, tool: &str, parts: &mut Parts) -> Result<Arguments, Problem> {
        check_escapes(parts.uri.path())?;
        let schema = hub.calls.catalogue.get(tool)?.arguments.json();
        let known = |name: &str| schema["properties"].get(name);
        let mut members = Map::new();
        let mut put = |name: &str, text: &str, place: &str| {
            let value = known(name).map_or_else(|| text.into(), |property| value_of(property, text));
            match members.insert(name.to_owned(), value) {
                None => Ok(()),
                Some(_) => Err(twice(name, place)),
            }
        };
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, &()).await;
        let Path(path) = path.map_err(|rejection| bad(rejection.body_text()))?;
        for (name, text) in path {
            put(&name, &text, "the path")?;
        }
        let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let Query(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
        for (name, text) in query {
            let name = SHORT.iter().find(|(short, _)| *short == name).map_or(name.as_str(), |(_, long)| *long);
            put(name, &text, "the query")?;
        }
        let fields = Fields::from(&parts.headers);
        for (header, name) in [(AGENT, "agent_id"), (TOKEN, "token"), (KEY, "idempotency_key")] {
            let is_meant = known(name).is_some() && !(name == "agent_id" && ABOUT_AGENTS.contains(&tool));
            if is_meant && let Some(text) = header_text(&fields, header)? {
                put(name, text, header)?;
            }
        }
        let condition = if parts.method == Method::GET { None } else { condition(&parts.headers)? };
        if let Some(base) = condition.filter(|_| known("base_revision").is_some()) {
            put("base_revision", &base.to_string(), "If-Match")?;
        }
        Ok(Arguments { members, condition })
    }

    /// The revision that the file or entry must have for the request to be done; 0 if there must be none.
    pub(super) fn condition(&self) -> Option<u64> {
        self.condition
    }

    /// What the request says, by the names of the tool's arguments.
    pub(super) fn into_members(self) -> Map<String, Value> {
        self.members
    }

    /// The same with the members of a body, an object or nothing.
    pub(super) fn with_body(self, whole: Whole) -> Result<Text, Problem> {
        let body = whole.into_arguments()?;
        let own = serde_json::to_string(&self.members).map_err(|error| bad(error.to_string()))?;
        let text = match &body.json {
            None => own,
            Some(json) => {
                let expected = || bad("the body is not an object; expected the arguments that the path does not name");
                let members = spans::members(json.get()).ok_or_else(expected)?;
                let mut is_empty = true;
                for member in members {
                    is_empty = false;
                    if self.members.contains_key(&*member.name) {
                        return Err(twice(&member.name, "the body"));
                    }
                }
                let inside = json.get().trim_start().trim_start_matches('{');
                match own.strip_suffix('}') {
                    _ if self.members.is_empty() => json.get().to_owned(),
                    Some(_) if is_empty => own,
                    Some(own) => [own, ",", inside].concat(),
                    None => return Err(expected()),
                }
            }
        };
        let json = RawValue::from_string(text).map_err(|error| bad(error.to_string()))?;
        Ok(Text { json: Some(json), held: body.held })
    }
}

/// Whether a query has a member of this name.
pub(super) fn has_query(uri: &Uri, name: &str) -> bool {
    let query = Query::<BTreeMap<String, String>>::try_from_uri(uri);
    query.is_ok_and(|Query(query)| query.contains_key(name))
}

/// The text of a header, if there is one.
fn header_text<'a>(fields: &Fields<'a>, name: &str) -> Result<Option<&'a str>, Problem> {
    match (fields.all(name).count(), fields.text(name)) {
        (0, _) => Ok(None),
        (1, Some(text)) => Ok(Some(text)),
        _ => {
            Err(bad(format!("the header {name} must be there once, in ASCII; other characters go into the arguments")))
        }
    }
}

/// The revision that `If-Match` or `If-None-Match` asks for: that of an entity tag, or 0 for none.
fn condition(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let fields = Fields::from(headers);
    let (matches, none) =
        (header_text(&fields, header::IF_MATCH.as_str())?, header_text(&fields, header::IF_NONE_MATCH.as_str())?);
    let revision = |tag: &str| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    match (matches, none.map(str::trim)) {
        (None, None) => Ok(None),
        (Some(tag), None) => {
            let unknown = || bad("If-Match must be one entity tag as it was given, such as \"7\"");
            revision(tag).filter(|revision| *revision > 0).map(Some).ok_or_else(unknown)
        }
        (None, Some("*")) => Ok(Some(0)),
        (None, Some(_)) => Err(bad("a change takes If-None-Match with `*` alone: there must be nothing yet")),
        (Some(_), Some(_)) => Err(bad("If-Match and If-None-Match exclude each other")),
    }
}

/// What a text of a path, a query or a header stands for, where this is wanted. What it cannot stand for stays a text, for the tool
/// to say what it expected.
fn value_of(property: &Value, text: &str) -> Value {
    let is = |kind: &str| {
        let fits = |one: &Value| match &one["type"] {
            Value::Array(kinds) => kinds.iter().any(|known| known == kind),
            known => known == kind,
        };
        fits(property) || property["anyOf"].as_array().is_some_and(|any| any.iter().any(fits))
    };
    let parsed = match text {
        _ if is("array") => Some(text.split(',').map(|item| value_of(&property["items"], item.trim())).collect()),
        _ if is("integer") => text.parse::<i64>().ok().map(Value::from),
        _ if is("number") => text.parse::<f64>().ok().map(Value::from),
        "true" | "" if is("boolean") => Some(true.into()),
        "false" if is("boolean") => Some(false.into()),
        _ => None,
    };
    parsed.unwrap_or_else(|| text.into())
}

/// Percent signs that begin no escape would be taken for themselves.
fn check_escapes(path: &str) -> Result<(), Problem> {
    let mut parts = path.split('%').skip(1);
    match parts.all(|part| part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_hexdigit())) {
        true => Ok(()),
        false => {
            Err(bad("the path has a % that is not followed by two hexadecimal digits; write %25 for the sign itself"))
        }
    }
}

fn twice(name: &str, place: &str) -> Problem {
    bad(format!("{:?} is given twice, the second time in {place}", shorten(name, NAME_CHARS_SHOWN)))
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::new(Kind::BadRequest, message.into())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_stands_for_what_the_tool_expects_or_for_itself() {
        let integer = json!({ "type": ["integer", "null"] });
        let list = json!({ "type": "array", "items": { "type": "string" } });
        let number = json!({ "anyOf": [{ "type": "number" }, { "type": "null" }] });
        for (property, text, expected) in [
            (&integer, "7", json!(7)),
            (&integer, "seven", json!("seven")),
            (&number, "0.5", json!(0.5)),
            (&list, "a, b", json!(["a", "b"])),
            (&json!({ "type": "boolean" }), "", json!(true)),
            (&json!({ "type": "string" }), "7", json!("7")),
        ] {
            assert_eq!(value_of(property, text), expected, "{property} {text}");
        }
    }

    #[test]
    fn conditions_are_those_of_http() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (header::HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            condition(&pairs.iter().map(pair).collect()).map_err(|problem| problem.kind)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("if-match", "\"7\"")]), Ok(Some(7)));
        assert_eq!(of(&[("if-none-match", "*")]), Ok(Some(0)));
        for pairs in [
            &[("if-match", "7")][..],
            &[("if-match", "*")],
            &[("if-match", "\"0\"")],
            &[("if-match", "W/\"7\"")],
            &[("if-match", "\"7\", \"8\"")],
            &[("if-none-match", "\"7\"")],
            &[("if-match", "\"7\""), ("if-none-match", "*")],
        ] {
            assert_eq!(of(pairs), Err(Kind::BadRequest), "{pairs:?}");
        }
    }

    #[test]
    fn a_percent_sign_begins_an_escape() {
        for (path, is_good) in [("/a%20b", true), ("/a%2", false), ("/%zz", false), ("/%", false), ("/a", true)] {
            assert_eq!(check_escapes(path).is_ok(), is_good, "{path}");
        }
    }
}
