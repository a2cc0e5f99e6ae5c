//! What one caller can take, and that the others do not notice.

use std::{
    io::{BufRead as _, Write as _},
    process::Stdio,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::{
    support::User,
    wire::{Hub, Lines, call, initialize, request, stateless, within},
};

/// Bytes of a message, at every listener.
const MESSAGE_BYTES_MAX: usize = 10 << 20;

/// Times that can be waited for in a test.
const SHORT_TIMES: &str = "[serve]\nhead_time_max = '1s'\nbody_time_max = '1s'\nwrite_time_max = '1s'\n";

fn ping(id: u32) -> Value {
    request(id, "ping", json!({}))
}

/// A `ping` of so many bytes.
fn large(bytes: usize) -> String {
    let empty = request(1, "ping", json!({ "padding": "" })).to_string();
    let padding = "x".repeat(bytes - empty.len());
    empty.replace(r#""padding":"""#, &format!(r#""padding":"{padding}""#))
}

/// What no listener takes: nested too deep to be taken apart, or not even JSON.
fn bombs() -> Vec<String> {
    let nested = |depth| format!("{}{}", r#"{"a":"#.repeat(depth) + "1", "}".repeat(depth));
    let inside = |value: String| format!(r#"{{"jsonrpc":"2.0","id":7,"method":"ping","params":{value}}}"#);
    vec![
        inside(nested(200)),
        inside(nested(200_000)),
        inside(format!("{}{}", "[".repeat(500_000), "]".repeat(500_000))),
        nested(200_000),
        "[".repeat(2_000_000),
        r#"{"jsonrpc":"#.repeat(200_000),
    ]
}

fn has_text(error: &Value, text: &str) -> bool {
    error["error"]["message"].as_str().is_some_and(|message| message.contains(text))
}

#[tokio::test]
async fn a_message_of_more_than_10_mib_is_refused_over_http_and_the_connection_lives_on() {
    let hub = Hub::start("");
    let session = hub.session(&[]).await;
    let session = [("mcp-session-id", session.as_str())];
    let mut connection = hub.connect().await;
    for headers in [&[][..], &session] {
        connection.send("POST", "/mcp", headers, &large(MESSAGE_BYTES_MAX + 1)).await.unwrap();
        let refused = connection.answer().await.unwrap();
        assert_eq!((refused.status, &refused.json()["code"]), (413, &json!("too_large")));
    }
    connection.send("POST", "/mcp", &session, &large(MESSAGE_BYTES_MAX)).await.unwrap();
    assert_eq!(connection.answer().await.unwrap().json()["result"], json!({}), "at the limit");

    let mut stream = hub.connect().await;
    stream.send("GET", "/sse", &[], "").await.unwrap();
    stream.head().await.unwrap();
    let address = stream.event().await.unwrap();
    for (message, status) in [(large(MESSAGE_BYTES_MAX + 1), 413), (initialize("2024-11-05").to_string(), 202)] {
        connection.send("POST", &address, &[], &message).await.unwrap();
        assert_eq!(connection.answer().await.unwrap().status, status);
    }
    let answer: Value = serde_json::from_str(&stream.event().await.unwrap()).unwrap();
    assert_eq!(answer["result"]["protocolVersion"], "2024-11-05", "the stream lives on");
}

#[tokio::test]
async fn a_line_of_more_than_10_mib_is_refused_and_nothing_of_it_is_kept() {
    let hub = Hub::start("");
    let mut connections: Vec<Lines> = join_all((0..16).map(|_| hub.lines())).await;
    for lines in &mut connections {
        assert_eq!(lines.ask(ping(1)).await["result"]["status"], "ok");
    }
    let before = hub.resident();
    for lines in &mut connections {
        let refused = lines.ask(large(MESSAGE_BYTES_MAX + 1)).await;
        assert_eq!((&refused["error"]["code"], &refused["id"]), (&json!(-32600), &Value::Null));
        assert!(has_text(&refused, "longer than 10485760 bytes"), "{refused}");
        assert_eq!(lines.ask(large(MESSAGE_BYTES_MAX)).await["result"]["status"], "ok", "at the limit");
        assert_eq!(lines.ask(ping(2)).await["result"]["status"], "ok", "the connection lives on");
    }
    let grown = hub.resident().saturating_sub(before);
    assert!(grown < 100 << 20, "each of sixteen connections would keep 10 MiB: {grown}");
}

#[test]
fn standard_input_is_bounded_too() {
    let user = User::new();
    let mut child = user.command(&["mcp-stdio"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = |text: &str| -> Value {
        writeln!(input, "{text}").unwrap();
        serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
    };
    assert!(ask(&initialize("2025-11-25").to_string()).get("result").is_some());
    assert!(has_text(&ask(&large(MESSAGE_BYTES_MAX + 1)), "longer than 10485760 bytes"));
    for bomb in bombs() {
        assert!(ask(&bomb).get("error").is_some());
    }
    assert_eq!(ask(&large(MESSAGE_BYTES_MAX))["result"], json!({}));
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn what_is_nested_too_deep_is_an_error_at_every_listener() {
    let hub = Hub::start("");
    let session = hub.session(&[]).await;
    let session = [("mcp-session-id", session.as_str())];
    let (mut http, mut lines) = (hub.connect().await, hub.lines().await);
    for bomb in bombs() {
        for headers in [&[][..], &session, &[("mcp-protocol-version", "2026-07-28")]] {
            http.send("POST", "/mcp", headers, &bomb).await.unwrap();
            let refused = http.answer().await.unwrap();
            assert_eq!(refused.status, 400);
            assert!([-32600, -32700].contains(&refused.json()["error"]["code"].as_i64().unwrap()), "{refused:?}");
        }
        for path in ["/process", "/tools/compose"] {
            http.send("POST", path, &[], &bomb).await.unwrap();
            let status = http.answer().await.unwrap().status;
            assert!((400..500).contains(&status), "{path}: {status}");
        }
        let refused = lines.ask(&bomb).await;
        assert!([-32600, -32700].contains(&refused["error"]["code"].as_i64().unwrap()), "{refused}");
    }
    assert_eq!(lines.ask(ping(1)).await["result"]["status"], "ok");
    http.send("POST", "/mcp", &session, &ping(2).to_string()).await.unwrap();
    assert_eq!(http.answer().await.unwrap().json()["result"], json!({}));
}

#[tokio::test]
async fn what_is_begun_and_not_finished_is_closed_in_time_at_every_listener() {
    let hub = Hub::start(SHORT_TIMES);
    let mut idle = hub.lines().await;
    assert_eq!(idle.ask(ping(1)).await["result"]["status"], "ok");
    for begun in ["", "POST /mcp HTTP/1.1\r\nhost: loc", "GET /sse HTTP/1.1\r\n"] {
        let mut half_open = hub.connect().await;
        half_open.write(begun).await.unwrap();
        assert!(half_open.answer().await.is_none(), "{begun}");
    }
    for path in ["/mcp", "/messages?sessionId=1", "/process", "/tools/compose"] {
        let mut half_open = hub.connect().await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{");
        half_open.write(&head).await.unwrap();
        assert_eq!(half_open.answer().await.unwrap().status, 408, "{path}");
        assert!(half_open.answer().await.is_none(), "{path}");
    }
    let mut silent = hub.lines().await;
    assert_eq!(silent.next().await, None);
    let mut half_open = hub.lines().await;
    half_open.write(r#"{"jsonrpc":"2.0","id":1,"#).await.unwrap();
    assert!(has_text(&half_open.next().await.unwrap(), "did not arrive within 1s"));
    assert_eq!(half_open.next().await, None);
    assert_eq!(idle.ask(ping(2)).await["result"]["status"], "ok", "who has said something may be silent");
}

/// A server of an older revision that says far more than anybody reads: `progress` before the answer, `changes` to
/// everybody.
const FLOOD: &str = r#"
import json, sys
def say(message): sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message.get("method"), message.get("id"), message.get("params", {})
    if id is None: continue
    result = {}
    if method == "initialize":
        tools = {"listChanged": True}
        result = {"protocolVersion": "2025-11-25", "serverInfo": {"name": "f", "version": "1"}, "capabilities": {"tools": tools}}
    elif method == "tools/list":
        result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ["progress", "changes", "echo"]]}
    elif method == "tools/call":
        if params["name"] == "progress":
            token = params.get("_meta", {}).get("progressToken")
            for n in range(10000):
                said = {"progressToken": token, "progress": n, "message": "x" * 2000}
                say({"method": "notifications/progress", "params": said})
        if params["name"] == "changes":
            for n in range(20000): say({"method": "notifications/tools/list_changed"})
        result = {"content": [{"type": "text", "text": "done"}]}
    say({"id": id, "result": result})
    sys.stdout.flush()
"#;

/// Nobody is dropped for not reading while the test runs.
fn flooding() -> String {
    format!("[serve]\nwrite_time_max = '10m'\n[mcpServers.f]\ncommand = 'python3'\nargs = ['-c', '''{FLOOD}''']\n")
}

#[tokio::test]
async fn who_does_not_read_a_stream_costs_nobody_else_anything() {
    let hub = Hub::start(&flooding());
    let session = hub.session(&[]).await;
    let session = [("mcp-session-id", session.as_str()), ("accept", "text/event-stream")];
    let reader = hub.session(&[]).await;
    let reader = [("mcp-session-id", reader.as_str()), ("accept", "application/json")];
    let echo = async || {
        let answer = hub.post("/mcp", &reader, call(1, "f__echo", json!({}))).await;
        assert_eq!(answer.json()["result"]["content"][0]["text"], "done");
    };
    echo().await;
    let before = hub.resident();
    // Streams of every kind that nobody reads: of a session's changes, of the oldest transport, of a listener, of a call.
    let (mut changes, mut oldest) = (hub.connect().await, hub.connect().await);
    changes.send("GET", "/mcp", &session, "").await.unwrap();
    oldest.send("GET", "/sse", &[], "").await.unwrap();
    oldest.head().await.unwrap();
    let address = oldest.event().await.unwrap();
    assert_eq!(hub.post(&address, &[], initialize("2024-11-05")).await.status, 202);
    let (listen, headers) = stateless(
        request(1, "subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } })),
        json!({}),
    );
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut listener = hub.connect().await;
    listener.send("POST", "/mcp", &headers, &listen.to_string()).await.unwrap();
    listener.head().await.unwrap();
    let mut calls = Vec::new();
    for id in 1..=4 {
        let mut progress = call(id, "f__progress", json!({}));
        progress["params"]["_meta"] = json!({ "progressToken": id });
        let mut connection = hub.connect().await;
        connection.send("POST", "/mcp", &session, &progress.to_string()).await.unwrap();
        calls.push(connection);
    }
    for _ in 0..2 {
        let answer = hub.post("/mcp", &reader, call(2, "f__changes", json!({}))).await;
        assert_eq!(answer.json()["result"]["content"][0]["text"], "done");
        echo().await;
    }
    let grown = hub.resident().saturating_sub(before);
    assert!(grown < 40 << 20, "80 MB of progress were sent: {grown}");
    drop(calls);
}

#[tokio::test]
async fn who_asks_and_takes_no_answers_is_read_no_more_and_then_dropped() {
    let hub = Hub::start("[serve]\nwrite_time_max = '2s'\nrequests_per_second_max = 0\n");
    let mut other = hub.lines().await;
    assert_eq!(other.ask(ping(1)).await["result"]["status"], "ok");
    let before = hub.resident();
    let mut deaf = hub.lines().await;
    let text = "x".repeat(100_000);
    let (mut sent, mut highest) = (0, 0);
    // Whatever is written after the hub has read enough stays in the sockets; then it breaks off.
    while deaf.write(&format!("{}\n", call(sent, "compose", json!({ "text": text })))).await.is_ok() {
        sent += 1;
        assert!(sent < 20_000, "2 GB were taken");
        if sent % 50 == 0 {
            highest = highest.max(hub.resident());
            assert_eq!(other.ask(ping(sent)).await["result"]["status"], "ok");
        }
    }
    let grown = highest.saturating_sub(before);
    assert!(grown < 200 << 20, "of {sent} answers it holds {grown} bytes");
    let mut rest = Vec::new();
    let _ = within(deaf.0.read_to_end(&mut rest)).await; // what the sockets held, and a reset
    assert_eq!(other.ask(ping(0)).await["result"]["status"], "ok");
}

#[tokio::test]
async fn a_connection_with_lines_has_a_hundred_requests_a_second_and_hears_of_each_one_more() {
    let hub = Hub::start("");
    let (mut lines, mut other) = (hub.lines().await, hub.lines().await);
    let text: String = (0..1000).map(|id| format!("{}\n", ping(id))).collect();
    lines.write(&text).await.unwrap();
    let (mut taken, mut refused) = (0, 0);
    for id in 0..1000 {
        let answer = lines.next().await.unwrap();
        assert_eq!(answer["id"], id, "none is lost");
        match answer.get("error") {
            None => taken += 1,
            Some(error) => {
                assert_eq!((&error["code"], &error["data"]["reason"]), (&json!(-31000), &json!("rate_limit")));
                assert!((1..=1000).contains(&error["data"]["retryAfterMs"].as_u64().unwrap()), "{error}");
                refused += 1;
            }
        }
    }
    assert!(taken >= 100 && refused > 0, "{taken} taken, {refused} refused");
    assert_eq!(other.ask(ping(1)).await["result"]["status"], "ok", "each connection has its own");
}

#[tokio::test]
async fn three_thousand_idle_sessions_are_kept_and_cost_little() {
    let hub = Hub::start("");
    hub.session(&[]).await;
    let before = hub.resident();
    let mut sessions = Vec::new();
    for _ in 0..30 {
        sessions.extend(join_all((0..100).map(|_| hub.session(&[]))).await);
    }
    let grown = hub.resident().saturating_sub(before);
    assert!(grown < 60 << 20, "{} bytes for each session", grown / 3000);
    for session in [&sessions[0], &sessions[1500], &sessions[2999]] {
        let answer = hub.post("/mcp", &[("mcp-session-id", session)], ping(1)).await;
        assert_eq!(answer.json()["result"], json!({}));
    }
}

#[tokio::test]
async fn of_more_sessions_than_are_kept_those_that_idle_longest_go_and_are_told_so() {
    let hub = Hub::start("[serve]\nsessions_max = 100\n");
    let mut used = hub.connect().await;
    let first = hub.session(&[]).await;
    used.send("GET", "/mcp", &[("mcp-session-id", &first), ("accept", "text/event-stream")], "").await.unwrap();
    assert_eq!(used.head().await.unwrap().status, 200);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.extend(join_all((0..100).map(|_| hub.session(&[]))).await);
    }
    let alive = async |session: &str| {
        let answer = hub.post("/mcp", &[("mcp-session-id", session)], ping(1)).await;
        assert!(answer.status == 200 || (answer.status == 404 && has_text(&answer.json(), "send initialize")));
        answer.status == 200
    };
    assert!(alive(&first).await, "somebody reads its stream");
    let mut kept = Vec::new();
    for (n, session) in sessions.iter().enumerate() {
        kept.extend(alive(session).await.then_some(n));
    }
    assert_eq!(kept.len(), 99, "with the one that is used, a hundred");
    // Those of one round are made at once, so their order among themselves is nobody's.
    assert!(kept.iter().all(|n| *n >= 200), "{kept:?}");
}

#[tokio::test]
async fn three_thousand_idle_connections_do_not_keep_others_from_being_served() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    let hub = Hub::start("[serve]\nconnections_max = 3100\n");
    let before = hub.resident();
    let mut idle = Vec::new();
    for id in 0..3000 {
        let mut lines = hub.lines().await;
        assert_eq!(lines.ask(ping(id)).await["result"]["status"], "ok");
        idle.push(lines);
    }
    let grown = hub.resident().saturating_sub(before);
    assert!(grown < 120 << 20, "{} bytes for each connection", grown / 3000);
    let session = hub.session(&[]).await;
    let session = [("mcp-session-id", session.as_str())];
    let answers = join_all((0..50).map(|id| hub.post("/mcp", &session, ping(id)))).await;
    assert!(answers.iter().all(|answer| answer.json()["result"] == json!({})));
    // Both listeners share the limit, and each says so in its own way.
    while idle.len() < 3100 {
        let mut lines = hub.lines().await;
        match lines.ask(ping(1)).await {
            answer if answer.get("result").is_some() => idle.push(lines),
            refused => {
                assert!(has_text(&refused, "3100 connections are open"), "{refused}");
                break;
            }
        }
    }
    within(async { while hub.post("/process", &[], "{}").await.status != 503 {} }).await;
    idle.truncate(100);
    within(async { while hub.post("/process", &[], "{}").await.status == 503 {} }).await;
}
