//! Cross-origin resource sharing (CORS, Fetch standard): what a browser asks before a page of another origin may call the
//! hub and read its answers.
//!
//! Which pages may call is decided by the [guard](super::guard), for every request, whatever is said here. A page that the
//! operator named may use every method of `/mcp` and every header of the protocol. It may read refusals, too: otherwise
//! its script sees no more than a network error.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use skep_mcp::server::{
    headers::is_sent_by_clients,
    http::{Fields, text},
};

use super::{
    guard::Guard,
    http::{REQUEST_ID, Shared},
};

/// Methods that pages may use: at `/mcp`, and elsewhere.
const METHODS_OF_MCP: &str = "GET, POST, DELETE";
const METHODS_OF_API: &str = "GET, POST, PUT, PATCH, DELETE";
const METHODS: &str = "GET, POST";
/// Headers that pages may send, beside those of the protocol.
const SENT: [&str; 8] = [
    "accept",
    "authorization",
    "content-type",
    "if-match",
    "if-none-match",
    "skep-agent",
    "skep-claim-token",
    REQUEST_ID,
];
/// Headers of answers that pages may read, beside those that every page may.
const READ: &str = "mcp-session-id, x-request-id, etag, retry-after, www-authenticate, allow";
/// Seconds for which a browser may remember what a page may do. Chromium keeps it no longer than this.
const MAX_AGE_S: u16 = 7200;
/// A request from a page on the internet to a machine in a private network (Private Network Access), and the answer to it.
const REQUEST_PRIVATE_NETWORK: &str = "access-control-request-private-network";
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The answer to what a browser asks before it sends a request for a page that may call; `None` for any other request.
pub(super) fn preflight(method: &Method, path: &str, headers: &Fields<'_>) -> Option<Response> {
    if method != Method::OPTIONS || !headers.has(header::ACCESS_CONTROL_REQUEST_METHOD.as_str()) {
        return None;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let answer = response.headers_mut();
    let methods = match path {
        "/mcp" => METHODS_OF_MCP,
        path if path.starts_with("/api/v1/") => METHODS_OF_API,
        _ => METHODS,
    };
    answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_S.into());
    // Named one by one: there is no pattern for `Mcp-Param-…`, and `*` does not stand for `Authorization`.
    let asked = headers.all(header::ACCESS_CONTROL_REQUEST_HEADERS.as_str()).filter_map(text);
    let allowed: Vec<&str> = asked.flat_map(|names| names.split(',')).map(str::trim).filter(may_send).collect();
    if !allowed.is_empty()
        && let Ok(allowed) = HeaderValue::try_from(allowed.join(", "))
    {
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    if headers.get(REQUEST_PRIVATE_NETWORK) == Some(b"true") {
        answer.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    let vary = "access-control-request-method, access-control-request-headers, access-control-request-private-network";
    answer.insert(header::VARY, HeaderValue::from_static(vary));
    Some(response)
}

fn may_send(name: &&str) -> bool {
    HeaderName::try_from(*name).is_ok_and(|name| SENT.contains(&name.as_str()) || is_sent_by_clients(name.as_str()))
}

/// Let the page of this origin, if it is one that may call, read the answer.
pub(super) fn share(answer: &mut HeaderMap, guard: &Guard, origin: Option<HeaderValue>) {
    if guard.names_origins() {
        answer.append(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(origin) = origin {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READ));
    }
}

/// A layer for routers that refuse whatever comes: pages that may call can read why.
pub(super) async fn share_refusals(State(hub): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = Fields::from(request.headers());
    let origin = hub.guard.named_origin(&headers);
    let preflight = origin.as_ref().and_then(|_| preflight(request.method(), request.uri().path(), &headers));
    let mut response = match preflight {
        Some(answer) => answer,
        None => next.run(request).await,
    };
    share(response.headers_mut(), &hub.guard, origin);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, asked: &[(&'static str, &str)]) -> HeaderMap {
        let method = [("access-control-request-method", "POST")];
        let headers = method.iter().chain(asked).map(|(name, value)| (*name, value.as_bytes())).collect();
        preflight(&Method::OPTIONS, path, &headers).unwrap().headers().clone()
    }

    #[test]
    fn a_page_may_send_the_headers_of_the_protocol_and_no_unknown_ones() {
        let asked = "accept,authorization, content-type,last-event-id,mcp-method,mcp-name,mcp-param-region,\
                     mcp-protocol-version,mcp-session-id,x-request-id";
        let allowed = ask("/mcp", &[("access-control-request-headers", asked)]);
        let allowed = allowed[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        assert_eq!(allowed.replace(", ", ","), asked.replace(", ", ","));
        for unknown in ["x-forwarded-for", "cookie", "mcp", "mcp-a b", "mcp-\u{e9}", "*", "", ",", "mcp-a\"b"] {
            let allowed = ask("/mcp", &[("access-control-request-headers", unknown)]);
            assert!(!allowed.contains_key(header::ACCESS_CONTROL_ALLOW_HEADERS), "{unknown}");
        }
    }

    #[test]
    fn a_session_can_be_ended_and_nothing_else_deleted() {
        let methods = |path| ask(path, &[])[header::ACCESS_CONTROL_ALLOW_METHODS].clone();
        assert_eq!(methods("/mcp"), "GET, POST, DELETE");
        assert_eq!(methods("/api/v1/workspaces/t/files/a"), "GET, POST, PUT, PATCH, DELETE");
        assert_eq!(methods("/servers/files"), "GET, POST");
    }

    #[test]
    fn a_private_network_is_opened_to_those_who_ask_for_it() {
        assert_eq!(ask("/mcp", &[(REQUEST_PRIVATE_NETWORK, "true")])[ALLOW_PRIVATE_NETWORK], "true");
        assert!(!ask("/mcp", &[]).contains_key(ALLOW_PRIVATE_NETWORK));
    }

    #[test]
    fn only_the_question_of_a_browser_is_answered_here() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(name, value)| (*name, value.as_bytes())).collect::<Fields<'_>>()
        };
        assert!(preflight(&Method::OPTIONS, "/mcp", &headers(&[])).is_none());
        let asked = headers(&[("access-control-request-method", "POST")]);
        assert!(preflight(&Method::POST, "/mcp", &asked).is_none());
        assert!(preflight(&Method::OPTIONS, "/mcp", &asked).is_some());
    }
}
