//! The headers in which requests of 2026-07-28 repeat what is in their body.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::{
    client::params::Params,
    server::headers::{HeaderArgument, METHOD, NAME},
};

/// The headers of a request besides that of the revision; the tool's marked arguments among them.
pub(super) fn headers(
    method: &str,
    params: &Params<'_>,
    marked: impl FnOnce(&str) -> Vec<HeaderArgument>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16); // those of the connection come to it
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::try_from(encode(value).as_ref()) {
            headers.insert(name, value);
        }
    };
    put(METHOD, method);
    let named = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        method if method.starts_with("tasks/") => "taskId",
        _ => return headers,
    };
    let Some(params) = params.members() else { return headers };
    let Some(name) = params.read::<String>(named) else { return headers };
    put(NAME, &name);
    let marked = if method == "tools/call" { marked(&name) } else { Vec::new() };
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
        if let Ok(name) = HeaderName::try_from(format!("mcp-param-{name}")) {
            put(name, &text);
        }
    }
    headers
}

/// A value as a header may hold it: visible ASCII as it is, all else in base64 (2026-07-28, Streamable HTTP).
fn encode(value: &str) -> Cow<'_, str> {
    let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && value.trim_ascii() == value
        && !(value.starts_with("=?base64?") && value.ends_with("?="));
    if is_plain { value.into() } else { format!("=?base64?{}?=", STANDARD.encode(value)).into() }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    #[test]
    fn the_headers_repeat_the_body() {
        let params = json!({ "name": "größe", "arguments": { "region": " eu", "deep": { "n": 7 }, "gone": null } });
        let params = Params::Text(Cow::Owned(to_raw_value(&params).unwrap()));
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
        let mut all: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
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
        assert_eq!(encode("=?base64?x?="), "=?base64?PT9iYXNlNjQ/eD89?=");
    }
}
