//! Callers that end their side of the connection with the request, as `nc -N` does, and wait for the answer.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::wire::{Http, Hub, call, initialize, stateless, within};

/// A server whose tool answers when there is a file.
const SERVER: &str = r#"
import json, os, sys, time
def say(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message.get("method"), message.get("id"), message.get("params", {})
    if method == "initialize":
        say(id=id, result={"protocolVersion": "2025-06-18", "serverInfo": {"name": "s", "version": "1"}, "capabilities": {"tools": {}}})
    elif method == "tools/call":
        while not os.path.exists(params["arguments"]["file"]): time.sleep(0.01)
        say(id=id, result={"content": [{"type": "text", "text": "it is there"}]})
    elif id is not None and method is not None:
        say(id=id, error={"code": -32601, "message": "unknown"})
"#;

fn hub() -> Hub {
    Hub::start(&format!("[mcpServers.s]\ncommand = 'python3'\nargs = ['-c', '''{SERVER}''']\n"))
}

/// The answer to a request whose caller says no more; what it waits for comes when the hub has asked whether it is there.
async fn answered(hub: &Hub, mut caller: Http, file: &str) -> (u16, String) {
    caller.0.get_mut().shutdown().await.unwrap();
    let mut head = caller.head().await.expect("the hub closed the connection");
    while head.status == 102 {
        hub.user.file(file, "");
        head = caller.head().await.expect("the hub closed the connection");
    }
    let body = caller.body(&head).await;
    let mut rest = Vec::new();
    within(caller.0.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "nothing comes behind the answer, and the connection ends");
    (head.status, body)
}

#[tokio::test]
async fn a_caller_that_ends_its_side_with_the_request_has_its_answer() {
    let hub = hub();
    let (message, headers) = stateless(call(1, "s__wait", json!({ "file": "plain" })), json!({}));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let headers = [&headers[..], &[("accept", "application/json, text/event-stream")]].concat();
    let mut plain = hub.connect().await;
    plain.send("POST", "/mcp", &headers, &message.to_string()).await.unwrap();
    let (status, body) = answered(&hub, plain, "plain").await;
    assert!(status == 200 && body.contains("it is there"), "{status} {body}");

    let mut process = hub.connect().await;
    let body = json!({ "tool": "s__wait", "args": { "file": "process" } }).to_string();
    process.send("POST", "/process", &[("content-type", "application/json")], &body).await.unwrap();
    let (status, body) = answered(&hub, process, "process").await;
    assert!(status == 200 && body.contains("it is there"), "{status} {body}");
}

#[tokio::test]
async fn a_caller_of_http_1_0_has_its_answer_and_no_other() {
    let hub = hub();
    let mut old = hub.connect().await;
    let body = json!({ "tool": "s__wait", "args": { "file": "old" } }).to_string();
    let head = format!("POST /process HTTP/1.0\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    old.write(&(head + &body)).await.unwrap();
    old.0.get_mut().shutdown().await.unwrap();
    while hub.get("/servers/s", &[]).await.json()["calls_running"] != 1 {}
    hub.user.file("old", "");
    let mut answer = String::new();
    within(old.0.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200") && answer.contains("it is there"), "{answer}");
}

#[tokio::test]
async fn a_caller_with_lines_that_ends_its_side_has_its_answers() {
    let hub = hub();
    let mut lines = hub.lines().await;
    lines.ask(initialize("2025-06-18")).await;
    lines.write(&format!("{}\n", call(1, "s__wait", json!({ "file": "lines" })))).await.unwrap();
    lines.0.get_mut().shutdown().await.unwrap();
    while hub.get("/servers/s", &[]).await.json()["calls_running"] != 1 {}
    hub.user.file("lines", "");
    let answer = lines.next().await.unwrap_or(Value::Null);
    assert!(answer.to_string().contains("it is there"), "{answer}");
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn a_caller_that_is_gone_cancels_its_call_all_the_same() {
    let hub = hub();
    for path in ["/mcp", "/process"] {
        let (message, headers) = stateless(call(1, "s__wait", json!({ "file": "never" })), json!({}));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let process = json!({ "tool": "s__wait", "args": { "file": "never" } });
        let mut caller = hub.connect().await;
        match path {
            "/mcp" => caller.send("POST", path, &headers, &message.to_string()).await.unwrap(),
            _ => caller.send("POST", path, &[], &process.to_string()).await.unwrap(),
        }
        let running = async || hub.get("/servers/s", &[]).await.json()["calls_running"].clone();
        while running().await != 1 {}
        drop(caller);
        within(async { while running().await != 0 {} }).await;
    }
}
