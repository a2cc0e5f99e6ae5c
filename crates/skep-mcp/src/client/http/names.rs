//! The headers in which requests of 2026-07-28 repeat what is in their body.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::header::HeaderName;
use serde_json::Value;

use super::Headers;
use crate::server::{
    Members,
    headers::{HeaderArgument, METHOD, NAME},
};

/// What the name of an argument's header begins with.
const PARAM: &str = "mcp-param-";

/// The headers of a request besides that of the revision; the tool's marked arguments among them.
pub(super) fn headers<'a>(
    method: &'a str,
    params: &'a Members<'_>,
    marked: impl FnOnce(&str) -> Vec<HeaderArgument>,
) -> Headers<'a> {
    let mut headers = Headers::new();
    headers.push((METHOD, encode(method.into())));
    let named = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        method if method.starts_with("tasks/") => "taskId",
        _ => return headers,
    };
    let Some(name) = params.text(named) else { return headers };
    let marked = if method == "tools/call" { marked(&name) } else { Vec::new() };
    headers.push((NAME, encode(name)));
    if marked.is_empty() {
        return headers;
    }
    let arguments: Value = params.read("arguments").unwrap_or_default();
    for HeaderArgument { name, path } in marked {
        let value = path.iter().try_fold(&arguments, |value, property| value.get(property));
        let text = match value {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
            _ => continue,
        };
        if let Ok(name) = HeaderName::try_from(format!("{PARAM}{name}")) {
            headers.push((name, encode(text.into())));
        }
    }
    headers
}

/// Whether a header may be one of these.
pub(super) fn is_repeated(name: &HeaderName) -> bool {
    [METHOD, NAME].contains(name) || name.as_str().starts_with(PARAM)
}

/// A value as a header may hold it: visible ASCII as it is, all else in base64 (2026-07-28, Streamable HTTP).
fn encode(value: Cow<'_, str>) -> Cow<'_, str> {
    let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && value.trim_ascii() == value
        && !(value.starts_with("=?base64?") && value.ends_with("?="));
    if is_plain { value } else { format!("=?base64?{}?=", STANDARD.encode(&*value)).into() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{json, value::to_raw_value};
    use tokio::sync::broadcast;

    use super::*;
    use crate::{
        message::ErrorObject,
        server::{
            self, BoxFuture, Call, Caller, Change, Description, Members, Outcome, Peer, Service, Watch, code,
            http::Fields,
        },
    };

    #[test]
    fn the_headers_repeat_the_body() {
        let params = json!({ "name": "größe", "arguments": { "region": " eu", "deep": { "n": 7 }, "gone": null } });
        let params = Members::of(&params);
        let marked = |tool: &str| {
            assert_eq!(tool, "größe");
            [("Region", vec!["region"]), ("N", vec!["deep", "n"]), ("Gone", vec!["gone"]), ("No", vec!["no"])]
                .map(|(name, path)| HeaderArgument {
                    name: name.to_owned(),
                    path: path.into_iter().map(str::to_owned).collect(),
                })
                .to_vec()
        };
        let headers = headers("tools/call", &params, marked);
        let mut all: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        all.sort();
        assert_eq!(
            all,
            [
                "mcp-method: tools/call",
                "mcp-name: =?base64?Z3LDtsOfZQ==?=",
                "mcp-param-n: 7",
                "mcp-param-region: =?base64?IGV1?=",
            ]
        );
        assert_eq!(encode("=?base64?x?=".into()), "=?base64?PT9iYXNlNjQ/eD89?=");
    }

    /// A service whose tools all have these arguments marked.
    struct Marked(Vec<HeaderArgument>);

    impl Service for Marked {
        fn describe(&self) -> Description {
            Description { info: json!({}), capabilities: json!({}), instructions: None }
        }

        fn handle(self: Arc<Self>, _: Call, _: Peer) -> BoxFuture<Outcome> {
            Box::pin(async { Err(ErrorObject::new(code::METHOD_NOT_FOUND, "nothing is called here")) })
        }

        fn watch(self: Arc<Self>, _: String, _: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
            Box::pin(async { Err(ErrorObject::new(code::METHOD_NOT_FOUND, "nothing is watched here")) })
        }

        fn changes(&self) -> broadcast::Receiver<Change> {
            broadcast::channel(1).1
        }

        fn header_arguments(&self, _: &str) -> Vec<HeaderArgument> {
            self.0.clone()
        }
    }

    /// What a client may send as the value of an argument.
    fn argument() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<String>().prop_map(Value::from),
            "[ -~\\t]{0,12}".prop_map(Value::from),
            "=\\?base64\\?[A-Za-z0-9+/=]{0,8}(\\?=)?".prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
        ]
    }

    proptest! {
        #[test]
        fn a_value_survives_its_header(value: String) {
            let encoded = encode((&*value).into());
            prop_assert!(encoded.bytes().all(|byte| matches!(byte, b' '..=b'~')) && encoded.trim() == encoded);
            let decoded = server::headers::decode(&encoded);
            prop_assert_eq!(decoded.as_deref(), Some(&*value));
        }

        #[test]
        fn what_the_client_repeats_the_server_finds_to_be_the_same_and_nothing_else(
            tool: String,
            values in prop::collection::vec(argument(), 3),
            other in argument(),
            method in prop::sample::select(vec!["tools/call", "prompts/get", "resources/read", "tasks/get", "tools/list"]),
        ) {
            let marked: Vec<HeaderArgument> = [("Region", vec!["region"]), ("Count", vec!["deep", "count"]), ("X", vec!["x"])]
                .map(|(name, path)| HeaderArgument {
                    name: name.to_owned(),
                    path: path.into_iter().map(str::to_owned).collect(),
                })
                .to_vec();
            let params = |region: &Value| {
                let arguments = json!({ "region": region, "deep": { "count": values[1] }, "x": values[2] });
                let params = json!({ "name": tool, "uri": tool, "taskId": tool, "arguments": arguments });
                to_raw_value(&params).unwrap()
            };
            let sent = params(&values[0]);
            let sent = Members::parse(&sent).unwrap();
            let repeated = headers(method, &sent, |_| marked.clone());
            let version = ("mcp-protocol-version", &b"2026-07-28"[..]);
            let repeated: Fields = repeated.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).chain([version]).collect();
            let service = Marked(marked);
            let check = |region: &Value| {
                let params = params(region);
                let params = Members::parse(&params).unwrap();
                server::headers::check(&repeated, method, &params, "2026-07-28", &service)
            };
            prop_assert!(check(&values[0]).is_ok(), "{repeated:?} {:?}", check(&values[0]));
            // As headers have no types, `7` may be a text or a number.
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let is_other = text(&other) != text(&values[0]) || other.is_null() != values[0].is_null();
            let is_number = other.is_number() && values[0].is_string(); // `+7` means 7
            if method == "tools/call" && is_other && !is_number {
                prop_assert!(check(&other).is_err(), "{repeated:?} is taken for {other}");
            }
        }
    }
}
