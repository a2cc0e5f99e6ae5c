//! `http_request`: any request to any web API.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::header::{self, HeaderMap, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_tools::{
    error::ToolError,
    net::{self, Client},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

/// Bytes of an answer's body, decompressed, that are given back.
const BODY_MAX: usize = 2 << 20;
/// Parameters that may be added to the URL.
const QUERY_MAX: usize = 256;

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct HttpRequest {
    pub(super) client: Client,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// Method.
    #[serde(default)]
    method: Method,
    /// Address, with http:// or https://.
    #[garde(length(chars, min = 1, max = 8192))]
    url: String,
    /// Header lines.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Parameters that are added to the URL, encoded as they need to be.
    #[serde(default)]
    query: BTreeMap<String, Parameter>,
    /// Body, sent as it is. Name its type in the header Content-Type.
    body: Option<String>,
    /// Body, sent as application/json. Give this or `body`.
    json: Option<Value>,
    /// Seconds that the request may take, if less than the deadline of the call.
    #[garde(range(min = 0.001))]
    timeout: Option<f64>,
    /// Go where a redirect leads.
    #[serde(default = "yes")]
    follow_redirects: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Parameter {
    Text(String),
    Number(serde_json::Number),
    Flag(bool),
}

/// What came back.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    /// HTTP status, such as 200 or 404.
    status_code: u16,
    /// Where the answer came from, after redirects.
    url: String,
    /// Header lines, their names in small letters; several of one name are joined by a comma, cookies by a line break.
    headers: BTreeMap<String, String>,
    /// The body as text; in base64 if `base64` is true.
    body: String,
    /// The body is binary and given in base64.
    base64: bool,
    /// The body as JSON, if it is.
    json: Option<Value>,
    /// The body was longer; the rest was left out.
    truncated: bool,
    /// Time it took, in milliseconds.
    duration_ms: f64,
}

fn yes() -> bool {
    true
}

impl BuiltIn for HttpRequest {
    const NAME: &'static str = "http_request";
    const DESCRIPTION: &'static str = "Send an HTTP request to a web API and give back status, headers and body. Any \
        status is an answer, also 404 or 500: look at status_code. It fails only if no answer comes. It is not \
        repeated by itself. Addresses of this machine and of private networks are refused unless the operator listed \
        them in web.allow_hosts. To read a web page use fetch_url.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: true, idempotent_hint: false, open_world_hint: true };
    const DEADLINE: Duration = Duration::from_secs(30);
    const RUNS_OTHERS: bool = true;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let began = Instant::now();
        let timeout = arguments.timeout.map(Duration::try_from_secs_f64).transpose();
        let timeout = timeout.map_err(|error| ToolError::argument("timeout", error.to_string()))?;
        let allowed = timeout.map_or(context.allowed, |timeout| timeout.min(context.allowed));
        let deadline = context.deadline.min(began + allowed);
        let request = request(arguments, deadline)?;
        let response = self.client.send(request).await.map_err(|error| error.of_tool(Self::NAME, allowed))?;
        Ok(answer(response, began.elapsed()))
    }
}

fn request(arguments: Arguments, deadline: Instant) -> Result<net::Request, ToolError> {
    let mut url = net::url(&arguments.url)?;
    if arguments.query.len() > QUERY_MAX {
        return Err(ToolError::argument("query", format!("at most {QUERY_MAX} parameters are sent")));
    }
    if !arguments.query.is_empty() {
        url.query_pairs_mut().extend_pairs(arguments.query.iter().map(|(name, value)| (name, value.to_string())));
    }
    let given = arguments.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut headers = net::headers(given)?;
    let body = match (arguments.body, arguments.json) {
        (Some(_), Some(_)) => return Err(ToolError::argument("json", "give body or json, not both")),
        (Some(body), None) => body.into_bytes(),
        (None, Some(json)) => {
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
            json.to_string().into_bytes()
        }
        (None, None) => Vec::new(),
    };
    let follow = arguments.follow_redirects;
    Ok(net::Request { method: arguments.method.into(), url, headers, body, body_max: BODY_MAX, follow, deadline })
}

fn answer(response: net::Response, took: Duration) -> Answer {
    let text = response.text();
    let media_type = response.media_type();
    let is_json = media_type.ends_with("/json") || media_type.ends_with("+json");
    Answer {
        status_code: response.status.as_u16(),
        url: response.url.to_string(),
        headers: joined(&response.headers),
        json: text.as_deref().filter(|_| is_json).and_then(|text| serde_json::from_str(text).ok()),
        base64: text.is_none(),
        body: text.unwrap_or_else(|| BASE64_STANDARD.encode(&response.body)),
        truncated: response.truncated,
        duration_ms: took.as_secs_f64() * 1e3,
    }
}

/// One line for each name. A comma may be part of a cookie (RFC 9110, 5.3).
fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let separator = if name == header::SET_COOKIE { "\n" } else { ", " };
        lines
            .entry(name.as_str().to_owned())
            .and_modify(|line| *line = format!("{line}{separator}{value}"))
            .or_insert_with(|| value.into_owned());
    }
    lines
}

impl std::fmt::Display for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Parameter::Text(text) => text.fmt(f),
            Parameter::Number(number) => number.fmt(f),
            Parameter::Flag(flag) => flag.fmt(f),
        }
    }
}

impl From<Method> for reqwest::Method {
    fn from(method: Method) -> reqwest::Method {
        match method {
            Method::Get => reqwest::Method::GET,
            Method::Head => reqwest::Method::HEAD,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
            Method::Options => reqwest::Method::OPTIONS,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        Json, Router,
        extract::Request,
        http::StatusCode,
        response::AppendHeaders,
        routing::{any, get},
    };
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, Server, call, call_within, serve};

    /// Answers with what it was asked.
    async fn echo(request: Request) -> Json<Value> {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1000).await.unwrap();
        let content_type = head.headers.get("content-type").map(|value| value.to_str().unwrap().to_owned());
        Json(json!({
            "method": head.method.as_str(), "uri": head.uri.to_string(), "type": content_type,
            "agent": head.headers["user-agent"].to_str().unwrap(), "body": String::from_utf8_lossy(&body),
        }))
    }

    async fn server() -> Server {
        let cookies = AppendHeaders([("set-cookie", "a=1, x"), ("set-cookie", "b=2"), ("vary", "a"), ("vary", "b")]);
        let router = Router::new()
            .route("/echo", any(echo))
            .route("/missing", get(async || (StatusCode::NOT_FOUND, Json(json!({"error": "no such thing"})))))
            .route("/binary", get(async || [0u8, 159, 146, 150]))
            .route("/long", get(async || "x".repeat(BODY_MAX + 1)))
            .route("/headers", get(async move || (cookies, "")))
            .route("/never", get(async || std::future::pending::<()>().await));
        serve(router).await
    }

    async fn request(arguments: Value) -> Result<Value, ToolError> {
        let server = server().await;
        let mut arguments = arguments;
        arguments["url"] = server.url(arguments["url"].as_str().unwrap()).into();
        call(HttpRequest { client: server.client() }, &Fixture::new(), arguments).await
    }

    #[tokio::test]
    async fn method_query_headers_and_body_arrive() {
        let query = json!({"q": "a b&c", "n": 2, "flag": true});
        let answer =
            request(json!({"method": "PATCH", "url": "/echo?x=1", "query": query, "json": {"k": [1]}})).await.unwrap();
        let agent = concat!("skep/", env!("CARGO_PKG_VERSION"));
        let seen = json!({"method": "PATCH", "uri": "/echo?x=1&flag=true&n=2&q=a+b%26c", "type": "application/json", "agent": agent, "body": r#"{"k":[1]}"#});
        assert_eq!((&answer["status_code"], &answer["json"]), (&json!(200), &seen));
        let headers = json!({"Content-Type": "text/csv", "User-Agent": "me"});
        let answer =
            request(json!({"method": "POST", "url": "/echo", "headers": headers, "body": "a,b"})).await.unwrap();
        assert_eq!(answer["json"]["type"], "text/csv");
        assert_eq!((&answer["json"]["agent"], &answer["json"]["body"]), (&json!("me"), &json!("a,b")));
    }

    #[tokio::test]
    async fn an_error_status_is_an_answer() {
        let answer = request(json!({"url": "/missing"})).await.unwrap();
        assert_eq!((&answer["status_code"], &answer["json"]["error"]), (&json!(404), &json!("no such thing")));
    }

    #[tokio::test]
    async fn bodies_are_text_or_base64_and_bounded() {
        let answer = request(json!({"url": "/binary"})).await.unwrap();
        assert_eq!((&answer["body"], &answer["base64"]), (&json!("AJ+Slg=="), &json!(true)));
        let answer = request(json!({"url": "/long"})).await.unwrap();
        assert_eq!((answer["body"].as_str().unwrap().len(), &answer["truncated"]), (BODY_MAX, &json!(true)));
        let answer = request(json!({"url": "/headers"})).await.unwrap();
        assert_eq!(answer["headers"]["set-cookie"], "a=1, x\nb=2");
        assert_eq!(answer["headers"]["vary"], "a, b");
    }

    #[tokio::test]
    async fn the_time_limit_is_the_smaller_of_timeout_and_deadline() {
        let server = server().await;
        let tool = || HttpRequest { client: server.client() };
        let arguments = json!({"url": server.url("/never"), "timeout": 0.05});
        let error = call(tool(), &Fixture::new(), arguments).await.unwrap_err();
        assert_eq!(error.to_string(), "http_request timed out after 0.05s");
        let arguments = json!({"url": server.url("/never"), "timeout": 1e300});
        let deadline = Some(Duration::from_millis(50));
        let error = call_within(tool(), &Fixture::new(), arguments, deadline).await.unwrap_err();
        assert!(matches!(error.code(), "timed_out" | "invalid_arguments"), "{error}");
        let arguments = json!({"url": server.url("/never"), "timeout": 3600});
        let error = call_within(tool(), &Fixture::new(), arguments, deadline).await.unwrap_err();
        assert_eq!(error.to_string(), "http_request timed out after 0.05s");
    }

    #[tokio::test]
    async fn wrong_arguments_are_named() {
        let client = Client::new(&net::Settings::default());
        for (arguments, pointer) in [
            (json!({"url": "example.com"}), "/url"),
            (json!({"url": "http://e.com", "body": "x", "json": 1}), "/json"),
            (json!({"url": "http://e.com", "headers": {"Host": "x"}}), "/headers"),
            (json!({"url": "http://e.com", "method": "CONNECT"}), "/method"),
            (json!({"url": "http://e.com", "timeout": -1}), "/timeout"),
            (json!({"url": "http://e.com", "query": {"a": []}}), "/query/a"),
        ] {
            let tool = HttpRequest { client: client.clone() };
            match call(tool, &Fixture::new(), arguments.clone()).await {
                Err(ToolError::InvalidArguments(faults)) => assert_eq!(faults[0].pointer, pointer, "{arguments}"),
                other => panic!("{arguments}: {other:?}"),
            }
        }
        let tool = HttpRequest { client };
        let error = call(tool, &Fixture::new(), json!({"url": "http://127.0.0.1:1234/"})).await.unwrap_err();
        assert_eq!(error.code(), "denied");
    }
}
