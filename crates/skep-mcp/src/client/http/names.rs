//! The headers in which requests of 2026-07-28 repeat what is in their body.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, value::RawValue};

use crate::server::{Members, headers::HeaderArgument};

/// The headers of a request besides that of the revision; the tool's marked arguments among them.
pub(super) fn headers(
    method: &str,
    params: Option<&RawValue>,
    marked: impl FnOnce(&str) -> Vec<HeaderArgument>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(encode(value))) {
            headers.insert(name, value);
        }
    };
    put("mcp-method", method);
    let named = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        method if method.starts_with("tasks/") => "taskId",
        _ => return headers,
    };
    let Some(params) = params.and_then(Members::parse) else { return headers };
    let Some(name) = params.read::<String>(named) else { return headers };
    put("mcp-name", &name);
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
        put(&format!("mcp-param-{name}"), &text);
    }
    headers
}

/// A value as a header may hold it: visible ASCII as it is, all else in base64 (2026-07-28, Streamable HTTP).
fn encode(value: &str) -> String {
    let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && value.trim_ascii() == value
        && !(value.starts_with("=?base64?") && value.ends_with("?="));
    if is_plain { value.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(value)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_headers_repeat_the_body() {
        let params = RawValue::from_string(
            json!({ "name": "größe", "arguments": { "region": " eu", "deep": { "n": 7 }, "gone": null } }).to_string(),
        )
        .unwrap();
        let marked = |tool: &str| {
            assert_eq!(tool, "größe");
            [("Region", vec!["region"]), ("N", vec!["deep", "n"]), ("Gone", vec!["gone"]), ("No", vec!["no"])]
                .map(|(name, path)| HeaderArgument {
                    name: name.to_owned(),
                    path: path.into_iter().map(str::to_owned).collect(),
                })
                .to_vec()
        };
        let headers = headers("tools/call", Some(&params), marked);
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
