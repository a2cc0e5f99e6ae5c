//! The HTTP transports.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, BodyDataStream},
    http::{HeaderMap, Request, StatusCode},
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use skep_mcp::server::{
    Limits, Named,
    http::{Identified, router},
};
use tower::ServiceExt as _;

use crate::support::{Hub, call, request, stateless, within};

const BOTH: (&str, &str) = ("accept", "application/json, text/event-stream");

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: BodyDataStream,
    unread: String,
}

async fn send(router: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: impl ToString) -> Answer {
    send_as("", router, method, path, headers, body).await
}

async fn send_as(
    principal: &str,
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl ToString,
) -> Answer {
    let mut request =
        Request::builder().method(method).uri(path).extension(Identified(std::sync::Arc::new(Named(principal.into()))));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = within(router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap())).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer { status: parts.status, headers: parts.headers, body: body.into_data_stream(), unread: String::new() }
}

impl Answer {
    async fn json(mut self) -> Value {
        let mut bytes = Vec::new();
        while let Some(chunk) = within(self.body.next()).await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    }

    /// The next event: its id, and its data. `None` at the end.
    async fn event(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
                };
                let (id, data) = (field("id:"), field("data:"));
                self.unread = rest.to_owned();
                return Some((id, data));
            }
            let chunk = within(self.body.next()).await?.unwrap();
            self.unread += std::str::from_utf8(&chunk).unwrap();
        }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn open(router: &Router, revision: &str) -> String {
    let params = json!({ "protocolVersion": revision, "capabilities": { "elicitation": {} }, "clientInfo": { "name": "t", "version": "1" } });
    let answer = send(router, "POST", "/mcp", &[BOTH], request(0, "initialize", params)).await;
    assert_eq!(answer.status, 200);
    answer.header("mcp-session-id").to_owned()
}

#[tokio::test]
async fn a_session_lives_from_initialize_to_delete() {
    let hub = Hub::new(Limits::default());
    let router = router(hub.server.clone());
    let id = open(&router, "2025-11-25").await;
    let session = ("mcp-session-id", id.as_str());
    assert_eq!(id.len(), 32);
    let list = request(1, "tools/list", json!({}));
    let post = async |headers: &[(&str, &str)]| send(&router, "POST", "/mcp", headers, &list).await.status.as_u16();
    assert_eq!(post(&[BOTH, session]).await, 200);
    assert_eq!(post(&[BOTH, session, ("mcp-protocol-version", "2025-11-25")]).await, 200);
    assert_eq!(post(&[BOTH, session, ("mcp-protocol-version", "soon")]).await, 400);
    assert_eq!(post(&[BOTH]).await, 400, "no session");
    assert_eq!(post(&[BOTH, ("mcp-session-id", "0123")]).await, 404, "no such session");
    let other = send_as("other", &router, "POST", "/mcp", &[BOTH, session], &list).await;
    assert_eq!(other.status, 404, "somebody else's session");
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    assert_eq!(send(&router, "POST", "/mcp", &[BOTH, session], &initialized).await.status, 202);
    assert_eq!(send(&router, "DELETE", "/mcp", &[session], "").await.status, 200);
    assert_eq!(post(&[BOTH, session]).await, 404);
    assert_eq!(hub.server.sessions(), 0);
}

#[tokio::test]
async fn a_refused_handshake_opens_no_session() {
    let hub = Hub::new(Limits::default());
    let router = router(hub.server.clone());
    let answer = send(&router, "POST", "/mcp", &[BOTH], request(0, "initialize", json!({}))).await;
    assert_eq!((answer.status.as_u16(), answer.header("mcp-session-id")), (200, ""));
    assert_eq!(answer.json().await["error"]["code"], -32602);
    assert_eq!(hub.server.sessions(), 0);
}

#[tokio::test]
async fn idle_sessions_make_room_and_busy_ones_do_not() {
    let mut hub = Hub::new(Limits { sessions_max: 2, ..Limits::default() });
    let router = router(hub.server.clone());
    let (first, second) = (open(&router, "2025-11-25").await, open(&router, "2025-11-25").await);
    let alive = async |id: &str| {
        let ping = request(1, "ping", json!({}));
        send(&router, "POST", "/mcp", &[BOTH, ("mcp-session-id", id)], ping).await.status == 200
    };
    let third = open(&router, "2025-11-25").await;
    assert!(!alive(&first).await && alive(&second).await && alive(&third).await);
    let mut streams = Vec::new();
    for id in [&second, &third] {
        let stall = request(2, "test/stall", json!({ "_meta": { "progressToken": 1 } }));
        streams.push(send(&router, "POST", "/mcp", &[BOTH, ("mcp-session-id", id)], stall).await);
        hub.told("running").await;
    }
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {} });
    let refused = send(&router, "POST", "/mcp", &[BOTH], request(0, "initialize", params)).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"));
    assert!(alive(&second).await && alive(&third).await);
}

#[tokio::test]
async fn a_session_that_nobody_uses_is_forgotten() {
    let hub = Hub::new(Limits { session_idle_max: Duration::ZERO, ..Limits::default() });
    let router = router(hub.server.clone());
    let id = open(&router, "2025-11-25").await;
    let answer = send(&router, "POST", "/mcp", &[BOTH, ("mcp-session-id", &id)], request(1, "ping", json!({}))).await;
    assert_eq!(answer.status, 404);
    assert_eq!(hub.server.sessions(), 0);
}

#[tokio::test]
async fn who_loses_a_stream_goes_on_where_it_was_and_the_call_with_it() {
    let mut hub = Hub::new(Limits::default());
    let router = router(hub.server.clone());
    let id = open(&router, "2025-11-25").await;
    let session = ("mcp-session-id", id.as_str());
    let stall = request(1, "test/stall", json!({ "_meta": { "progressToken": 7 } }));
    let mut stream = send(&router, "POST", "/mcp", &[BOTH, session], stall).await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let (primer, data) = stream.event().await.unwrap();
    assert_eq!((primer.is_empty(), data.as_str()), (false, ""), "an id before anything is said");
    let (last, progress) = stream.event().await.unwrap();
    assert!(progress.contains("notifications/progress"));
    hub.told("running").await;
    drop(stream);
    hub.release.add_permits(1);
    hub.told("ended").await;
    let headers = [("accept", "text/event-stream"), session, ("last-event-id", last.as_str())];
    let mut again = send(&router, "GET", "/mcp", &headers, "").await;
    again.event().await.unwrap(); // the primer
    let (_, answer) = again.event().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["result"], json!({ "stalled": true }));
    assert_eq!(again.event().await, None);
    let headers = [("accept", "text/event-stream"), session, ("last-event-id", primer.as_str())];
    let mut whole = send(&router, "GET", "/mcp", &headers, "").await;
    whole.event().await.unwrap();
    assert_eq!(whole.event().await.unwrap().1, progress, "from the beginning");
}

#[tokio::test]
async fn a_call_of_a_session_goes_on_when_its_client_leaves_before_it_has_heard_anything() {
    let mut hub = Hub::new(Limits::default());
    let router = router(hub.server.clone());
    let id = open(&router, "2025-11-25").await;
    for accept in [BOTH, ("accept", "application/json")] {
        let headers = [accept, ("mcp-session-id", id.as_str())];
        let sending = send(&router, "POST", "/mcp", &headers, request(1, "test/stall", json!({})));
        tokio::select! {
            _ = sending => panic!("it is not answered yet"),
            () = hub.told("running") => {}
        }
        tokio::task::yield_now().await;
        assert!(hub.told.try_recv().is_err(), "it is not given up");
        hub.release.add_permits(1);
        hub.told("ended").await;
        assert_eq!(hub.release.available_permits(), 0, "it came to its end");
    }
}

#[tokio::test]
async fn a_stateless_request_ends_when_its_client_goes_away() {
    let mut hub = Hub::new(Limits::default());
    let router = router(hub.server.clone());
    let mut stall = stateless(request(1, "test/stall", json!({})), json!({}));
    stall["params"]["_meta"]["progressToken"] = 7.into();
    let headers = [BOTH, ("mcp-protocol-version", "2026-07-28"), ("mcp-method", "test/stall")];
    let mut stream = send(&router, "POST", "/mcp", &headers, stall).await;
    hub.told("running").await;
    assert!(stream.event().await.unwrap().1.contains("notifications/progress"));
    drop(stream);
    hub.told("ended").await;
}

#[tokio::test]
async fn what_is_wrong_with_a_stateless_request_shows_in_the_status() {
    let hub = Hub::new(Limits::default());
    let router = router(hub.server.clone());
    let version = ("mcp-protocol-version", "2026-07-28");
    let list = || stateless(request(1, "tools/list", json!({})), json!({}));
    let post = async |headers: &[(&str, &str)], body: Value| {
        let answer = send(&router, "POST", "/mcp", headers, body).await;
        (answer.status.as_u16(), answer.json().await["error"]["code"].as_i64().unwrap_or_default())
    };
    assert_eq!(post(&[BOTH, version, ("mcp-method", "tools/list")], list()).await, (200, 0));
    assert_eq!(post(&[BOTH, version, ("mcp-method", "tools/call")], list()).await, (400, -32020));
    assert_eq!(post(&[BOTH, version], list()).await, (400, -32020));
    assert_eq!(post(&[BOTH, ("mcp-method", "tools/list")], list()).await, (400, -32020));
    assert_eq!(post(&[BOTH, version], request(1, "tools/list", json!({}))).await, (400, -32602));
    assert_eq!(post(&[BOTH, version], json!([list()])).await, (400, -32600));
    let unknown = stateless(request(1, "nothing/here", json!({})), json!({}));
    assert_eq!(post(&[BOTH, version, ("mcp-method", "nothing/here")], unknown).await, (404, -32601));
    let missing = stateless(call(1, "test_missing_capability", json!({})), json!({}));
    let named = [BOTH, version, ("mcp-method", "tools/call"), ("mcp-name", "test_missing_capability")];
    assert_eq!(post(&named, missing).await, (400, -32021));
    let no_tool = stateless(call(1, "none", json!({})), json!({}));
    assert_eq!(
        post(&[BOTH, version, ("mcp-method", "tools/call"), ("mcp-name", "none")], no_tool).await,
        (200, -32602)
    );
    assert_eq!(send(&router, "GET", "/mcp", &[version], "").await.status, 405);
    assert_eq!(send(&router, "DELETE", "/mcp", &[version], "").await.status, 405);
}

#[tokio::test]
async fn a_client_gets_what_it_can_read() {
    let hub = Hub::new(Limits::default());
    let router = router(hub.server.clone());
    let list = stateless(request(1, "tools/list", json!({})), json!({}));
    let post = async |accept: &str| {
        let headers = [("accept", accept), ("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
        let answer = send(&router, "POST", "/mcp", &headers, &list).await;
        (answer.status.as_u16(), answer.header("content-type").to_owned())
    };
    let (json, events) = ("application/json".to_owned(), "text/event-stream".to_owned());
    assert_eq!(post("application/json, text/event-stream").await, (200, json.clone()));
    assert_eq!(post("*/*").await, (200, json.clone()));
    assert_eq!(post("application/json").await, (200, json));
    assert_eq!(post("text/event-stream").await, (200, events));
    assert_eq!(post("image/png").await.0, 406);
}

#[tokio::test]
async fn bodies_are_bounded_and_rubbish_is_answered() {
    let hub = Hub::new(Limits { message_bytes_max: 1000, ..Limits::default() });
    let router = router(hub.server.clone());
    let post = async |body: String| {
        let answer = send(&router, "POST", "/mcp", &[BOTH], body).await;
        (answer.status.as_u16(), answer.json().await["error"]["code"].as_i64().unwrap_or_default())
    };
    assert_eq!(post("x".repeat(1001)).await, (413, -32600));
    assert_eq!(post("x".repeat(1000)).await, (400, -32700));
    assert_eq!(post(String::new()).await, (400, -32700));
    assert_eq!(post("[".repeat(900)).await, (400, -32700));
}

#[tokio::test]
async fn a_batch_is_answered_in_one_body_and_bounded() {
    let hub = Hub::new(Limits { batch_max: 2, ..Limits::default() });
    let router = router(hub.server.clone());
    let ping = |id| request(id, "ping", json!({}));
    let id = open(&router, "2025-03-26").await;
    let session = ("mcp-session-id", id.as_str());
    let answer = send(&router, "POST", "/mcp", &[BOTH, session], json!([ping(1), ping(2)])).await.json().await;
    assert_eq!(answer.as_array().unwrap().len(), 2);
    assert_eq!(send(&router, "POST", "/mcp", &[BOTH, session], json!([ping(1), ping(2), ping(3)])).await.status, 400);
    let newer = open(&router, "2025-06-18").await;
    assert_eq!(send(&router, "POST", "/mcp", &[BOTH, ("mcp-session-id", &newer)], json!([ping(1)])).await.status, 400);
}

#[tokio::test]
async fn a_session_hears_of_changes_on_its_own_stream() {
    let hub = Hub::new(Limits::default());
    let router = router(hub.server.clone());
    let id = open(&router, "2025-06-18").await;
    let session = ("mcp-session-id", id.as_str());
    let mut stream = send(&router, "GET", "/mcp", &[("accept", "text/event-stream"), session], "").await;
    send(&router, "POST", "/mcp", &[BOTH, session], call(1, "test_trigger_tool_change", json!({}))).await;
    let (_, told) = stream.event().await.unwrap();
    assert!(told.contains("notifications/tools/list_changed"), "{told}");
    assert_eq!(send(&router, "GET", "/mcp", &[("accept", "application/json"), session], "").await.status, 406);
    send(&router, "DELETE", "/mcp", &[session], "").await;
    assert_eq!(stream.event().await, None, "a stream ends with its session");
}

#[tokio::test]
async fn the_oldest_transport_names_an_address_and_answers_on_its_stream() {
    let hub = Hub::new(Limits::default());
    let router = router(hub.server.clone());
    let mut stream = send(&router, "GET", "/sse", &[], "").await;
    let (_, address) = stream.event().await.unwrap();
    let params = json!({ "protocolVersion": "2024-11-05", "capabilities": {} });
    assert_eq!(send(&router, "POST", &address, &[], request(1, "initialize", params)).await.status, 202);
    let answer: Value = serde_json::from_str(&stream.event().await.unwrap().1).unwrap();
    assert_eq!(answer["result"]["protocolVersion"], "2024-11-05");
    assert_eq!(send(&router, "POST", &address, &[], call(2, "test_simple_text", json!({}))).await.status, 202);
    assert!(stream.event().await.unwrap().1.contains("simple text response"));
    assert_eq!(send(&router, "POST", &address, &[], "malformed").await.status, 400);
    assert_eq!(send_as("other", &router, "POST", &address, &[], request(3, "ping", json!({}))).await.status, 404);
    drop(stream);
    assert_eq!(send(&router, "POST", &address, &[], request(4, "ping", json!({}))).await.status, 404);
    assert_eq!(hub.server.sessions(), 0);
}

#[tokio::test]
async fn answers_that_nobody_comes_back_for_make_room_for_newer_ones_of_any_session() {
    let mut hub = Hub::new(Limits { streams_bytes_max: 600, ..Limits::default() });
    let router = router(hub.server.clone());
    let mut left = Vec::new();
    for padding in ["a", "b", "c"] {
        let id = open(&router, "2025-11-25").await;
        let token = json!({ "progressToken": padding.repeat(200) });
        let stall = request(1, "test/stall", json!({ "_meta": token }));
        let mut stream = send(&router, "POST", "/mcp", &[BOTH, ("mcp-session-id", &id)], stall).await;
        let (primer, _) = stream.event().await.unwrap();
        assert!(stream.event().await.unwrap().1.contains("progress"));
        hub.told("running").await;
        drop(stream);
        hub.release.add_permits(1);
        hub.told("ended").await;
        left.push((id, primer));
    }
    let come_back = async |(id, primer): &(String, String)| {
        let headers = [("accept", "text/event-stream"), ("mcp-session-id", id), ("last-event-id", primer)];
        send(&router, "GET", "/mcp", &headers, "").await
    };
    // Each kept its progress and its answer, some 350 bytes; the answer of the last may still be on its way.
    crate::support::within(async { while come_back(&left[0]).await.status != 404 {} }).await;
    let mut newest = come_back(&left[2]).await;
    newest.event().await.unwrap(); // the primer
    assert!(newest.event().await.unwrap().1.contains("ccc"));
    assert!(newest.event().await.unwrap().1.contains("stalled"));
}
