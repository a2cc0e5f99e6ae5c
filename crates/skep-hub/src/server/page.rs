//! What a person sees who opens the hub in a browser: a page about it at `/`, and a page for each refusal.
//!
//! The pages are plain HTML without scripts, made here from nothing but what the caller may know anyway, so they work
//! offline. They pass the guard like every request, and no page of another origin can read, frame or restyle them. A program
//! gets JSON at the same paths.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use skep_core::policy;
use skep_mcp::server::http::Fields;

use super::{
    http::{Caller, Shared, name},
    problem::{Kind, Problem, json_response},
};
use crate::{api, hub::upstreams::State as ServerState};

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
code,pre{font:14px/1.5 ui-monospace,monospace;background:#f3f3f0;border-radius:4px}\
code{padding:.1rem .3rem}pre{padding:.7rem 1rem;overflow-x:auto}pre code{padding:0}\
table{border-collapse:collapse}td{padding:.2rem 1.5rem .2rem 0;vertical-align:top}a{color:#0a58a5}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}code,pre{background:#2a2a2a}a{color:#7ab8f5}}";

/// Paths that there is something to see at, and what.
const LINKS: [(&str, &str); 6] = [
    ("/tools", "every tool with its schemas"),
    ("/servers", "the MCP servers behind this hub"),
    ("/calls", "the last calls"),
    ("/api/v1/events", "what has happened, and an event stream of what happens"),
    ("/health", "how the hub is"),
    ("/metrics", "measurements, for Prometheus"),
];

/// Paths for programs, and what each is for.
const ENDPOINTS: [(&str, &str); 5] = [
    ("/mcp", "MCP, Streamable HTTP"),
    ("/sse", "MCP, HTTP with SSE, for clients of 2024-11-05"),
    ("/process", "POST {\"tool\": …, \"args\": {…}}"),
    ("/tools/{tool}", "POST the arguments"),
    ("/ws", "events over WebSocket"),
];

/// Whether it is a person with a browser who asks.
pub(super) fn is_wanted(method: &Method, headers: &Fields<'_>) -> bool {
    let is_html = |accept: &str| accept.split(',').any(|kind| kind.trim_start().starts_with("text/html"));
    (method == Method::GET || method == Method::HEAD) && headers.text("accept").is_some_and(is_html)
}

/// The hub as a page, or as JSON for programs.
pub(super) async fn index(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.permit::<policy::Read>()?;
    let fields = Fields::from(&headers);
    // The guard has seen that the hub is known by that name.
    let host = fields.text("host").unwrap_or("localhost");
    let scheme = if hub.is_tls { "https" } else { "http" };
    let address = format!("{scheme}://{host}");
    let (own, servers) = (hub.calls.catalogue.tools().count(), hub.calls.catalogue.upstreams().servers());
    if !is_wanted(&method, &fields) {
        let index = api::Index {
            name: "skep",
            version: env!("CARGO_PKG_VERSION"),
            url: &address,
            mcp: format!("{address}/mcp"),
            own_tools: own,
            servers: servers.iter().map(|server| server.name.as_str()).collect(),
            paths: LINKS.iter().chain(&ENDPOINTS).map(|(path, _)| *path).collect(),
        };
        return Ok(with_vary(json_response(StatusCode::OK, &index)));
    }
    let mut body = format!(
        "<h1>Skep</h1>\n<p>This is a hub for AI agents: one place for their tools. It has {own} tools of its own and those of \
         {} MCP servers. Version {}.</p>\n<h2>Connect a client</h2>\n<pre><code>skep connect claude     \
         # or codex, cursor, gemini, vscode</code></pre>\n<p>writes the client's configuration. Any other MCP client \
         connects to</p>\n<pre><code>{}/mcp</code></pre>\n",
        servers.len(),
        env!("CARGO_PKG_VERSION"),
        escaped(&address),
    );
    body += "<h2>Look around</h2>\n<table>\n";
    for (path, what) in LINKS {
        let _ = writeln!(body, "<tr><td><a href=\"{path}\"><code>{path}</code></a></td><td>{what}</td></tr>");
    }
    body += "</table>\n<h2>For programs</h2>\n<table>\n";
    for (path, what) in ENDPOINTS {
        let _ = writeln!(body, "<tr><td><code>{path}</code></td><td>{}</td></tr>", escaped(what));
    }
    body += "</table>\n";
    if !servers.is_empty() {
        body += "<h2>MCP servers</h2>\n<table>\n";
        for server in &servers {
            let (name, state) = (escaped(&server.name), ServerState::name(&server.state));
            let _ = writeln!(body, "<tr><td>{name}</td><td>{}</td></tr>", escaped(state));
        }
        body += "</table>\n";
    }
    Ok(page(StatusCode::OK, "Skep", &body))
}

/// A kind of problem, which the `type` of a problem refers to (RFC 9457, section 3.1.1): as a page, or as JSON for programs.
pub(super) async fn problem_kind(
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.permit::<policy::Read>()?;
    let code = name(path)?;
    let kind = Kind::of_code(&code);
    let kind = kind.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no kind of problem {code:?}")))?;
    if !is_wanted(&method, &Fields::from(&headers)) {
        let (type_reference, code) = (kind.type_reference(), kind.code());
        let known = api::ProblemKind { type_reference, code, title: kind.title(), status: kind.status() };
        return Ok(with_vary(json_response(StatusCode::OK, &known)));
    }
    let (title, code, status) = (kind.title(), kind.code(), kind.status());
    let body = format!(
        "<h1>{title}</h1>\n<p>Problems of this kind have the code <code>{code}</code> and the status {status}. What is wrong \
         in one case is in its <code>detail</code>.</p>\n<p><a href=\"/\">About this hub</a></p>\n"
    );
    Ok(page(StatusCode::OK, title, &body))
}

/// A response that tells of a problem, as a page.
pub(super) fn of_problem(detail: &str, response: &Response) -> Response {
    let status = response.status();
    let title = status.canonical_reason().unwrap_or("Refused");
    let body = format!("<h1>{title}</h1>\n<p>{}</p>\n<p><a href=\"/\">About this hub</a></p>\n", escaped(detail));
    let mut shown = page(status, title, &body);
    for (name, value) in response.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            shown.headers_mut().append(name, value.clone());
        }
    }
    shown
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    );
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    with_vary(response)
}

/// The same path answers programs otherwise.
fn with_vary(mut response: Response) -> Response {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// Text within HTML, also within an attribute in quotes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            character => escaped.push(character),
        }
    }
    escaped
}
