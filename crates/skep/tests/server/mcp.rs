//! What a client of the Model Context Protocol sees of a hub.

use insta::assert_snapshot;
use serde_json::{Value, json};
use skep_hub::{
    hub::calls::Limits,
    server::{Options, Token},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::support::{Hub, within};

pub(crate) const TOKEN: &str = "correct-horse-battery";

pub(crate) fn message(id: i64, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

pub(crate) fn call(id: i64, tool: &str, arguments: Value) -> Value {
    message(id, "tools/call", json!({ "name": tool, "arguments": arguments }))
}

/// A stateless request, and its answer without what every answer has.
async fn ask(hub: &Hub, mut request: Value) -> String {
    request["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let (method, name) = (request["method"].as_str().unwrap().to_owned(), request["params"]["name"].clone());
    let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method.as_str())];
    headers.extend(name.as_str().map(|name| ("mcp-name", name)));
    let answer = hub.send("POST", "/mcp", &headers, &request.to_string()).await;
    answer.replace(
        r#""_meta":{"io.modelcontextprotocol/serverInfo":{"name":"skep","title":"Skep","version":"0.1.0"}},"#,
        "",
    )
}

#[tokio::test]
async fn a_tool_answers_in_both_forms_and_its_failures_are_for_the_model_to_read() {
    let hub = Hub::start(Options::default()).await;
    assert_snapshot!(ask(&hub, call(1, "echo", json!({"text": "hi"}))).await, @r#"200 {"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"text","text":"{\"text\":\"hi\"}"}],"structuredContent":{"text":"hi"}}}"#);
    assert_snapshot!(ask(&hub, call(2, "fail", json!({"with": "failed"}))).await, @r#"200 {"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","content":[{"type":"text","text":"{\"status\":\"error\",\"code\":\"failed\",\"message\":\"it exited with code 1\",\"exit_code\":1}"}],"isError":true}}"#);
    assert_snapshot!(ask(&hub, call(3, "echo", json!({"text": 7}))).await, @r#"200 {"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","content":[{"type":"text","text":"{\"status\":\"error\",\"code\":\"invalid_arguments\",\"message\":\"text: must be text, not a number\",\"faults\":[{\"pointer\":\"/text\",\"message\":\"must be text, not a number\"}]}"}],"isError":true}}"#);
    assert_snapshot!(ask(&hub, call(4, "ecko", json!({}))).await, @r#"200 {"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"Unknown tool \"ecko\"; did you mean \"echo\"?"}}"#);
    assert_snapshot!(ask(&hub, call(5, "echo", json!([]))).await, @r#"200 {"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"params.arguments must be an object"}}"#);
    assert_snapshot!(ask(&hub, call(6, "panic", json!({}))).await, @r#"200 {"jsonrpc":"2.0","id":6,"result":{"resultType":"complete","content":[{"type":"text","text":"{\"status\":\"error\",\"code\":\"internal\",\"message\":\"panic failed; its log says why\"}"}],"isError":true}}"#);
    assert_snapshot!(ask(&hub, call(7, "fail", json!({"with": "busy"}))).await, @r#"503 {"jsonrpc":"2.0","id":7,"error":{"code":-31000,"message":"too much at once"}}"#);
    assert_snapshot!(ask(&hub, message(8, "tools/fetch", json!({}))).await, @r#"404 {"jsonrpc":"2.0","id":8,"error":{"code":-32601,"message":"there is no method \"tools/fetch\""}}"#);
}

#[tokio::test]
async fn tools_are_listed_with_their_schemas_and_annotations() {
    let hub = Hub::start(Options::default()).await;
    let answer = ask(&hub, message(1, "tools/list", json!({}))).await;
    let list: Value = serde_json::from_str(answer.split_once(' ').unwrap().1).unwrap();
    let result = &list["result"];
    assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(60_000), &json!("public")));
    let names: Vec<_> = result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["echo", "fail", "panic", "stall"]);
    let echo = &result["tools"][0];
    assert_eq!(echo["outputSchema"]["required"], json!(["text"]));
    assert_eq!(echo["annotations"]["readOnlyHint"], true);
}

#[tokio::test]
async fn the_rules_of_the_listener_hold_for_mcp_too() {
    let limits = Limits { message_bytes_max: 1000, ..Default::default() };
    let options = Options { token: Some(Token::new(TOKEN).unwrap()), ..Options::default() };
    let hub = Hub::start_limited(limits, options).await;
    let ping = message(1, "ping", json!({})).to_string();
    for path in ["/mcp", "/messages?sessionId=1"] {
        assert_eq!(&hub.send("POST", path, &[], &ping).await[..3], "401", "{path}");
    }
    assert_eq!(&hub.get("/sse").await[..3], "401");
    let bearer = format!("Bearer {TOKEN}");
    let post = async |headers: &[(&str, &str)], body: &str| {
        hub.send("POST", "/mcp", &[headers, &[("authorization", bearer.as_str())]].concat(), body).await[..3].to_owned()
    };
    assert_eq!(post(&[("origin", "https://evil.example")], &ping).await, "403");
    assert_eq!(post(&[("host", "evil.example")], &ping).await, "403");
    assert_eq!(post(&[], &ping).await, "400", "neither a session nor metadata");
    assert_eq!(post(&[], &" ".repeat(1001)).await, "413");
}

#[tokio::test]
async fn a_stateless_caller_that_leaves_cancels_its_call() {
    let mut hub = Hub::start(Options::default()).await;
    let mut request = call(1, "stall", json!({}));
    request["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "stall")];
    let mut connection = hub.connect().await;
    connection.send("POST", "/mcp", &headers, &request.to_string()).await;
    hub.told("running").await;
    drop(connection);
    hub.told("given up").await;
}

// ---- lines

pub(crate) struct Lines(BufReader<TcpStream>);

impl Lines {
    pub(crate) async fn connect(hub: &Hub) -> Lines {
        Lines(BufReader::new(TcpStream::connect(hub.tcp).await.unwrap()))
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, message: &Value) -> Value {
        self.send(&format!("{message}\n")).await;
        let mut line = String::new();
        within(self.0.read_line(&mut line)).await.unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    /// What is left to read, until the other side closes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = within(self.0.read_to_end(&mut rest)).await; // a reset is an end, too
        String::from_utf8(rest).unwrap()
    }
}

#[tokio::test]
async fn s2s_clients_find_what_they_expect_without_a_handshake() {
    let hub = Hub::start(Options::default()).await;
    let mut lines = Lines::connect(&hub).await;
    let pong = lines.ask(&message(1, "ping", json!({}))).await;
    assert_eq!(pong["result"]["status"], "ok");
    assert!(pong["result"]["timestamp"].as_u64().unwrap() > 1_700_000_000_000, "milliseconds");
    let answer = lines.ask(&call(2, "echo", json!({"text": "hi"}))).await;
    assert_eq!(answer["result"]["text"], "hi", "beside the content");
    assert_eq!(answer["result"]["structuredContent"], json!({"text": "hi"}));
    let calls =
        json!([{"method": "tools/call", "params": {"name": "echo", "arguments": {"text": "a"}}}, {"method": "ping"}]);
    let batch = lines.ask(&message(3, "batch", calls)).await;
    assert_eq!(
        (&batch["result"][0]["result"]["text"], &batch["result"][1]["result"]["status"]),
        (&json!("a"), &json!("ok"))
    );
    let list = lines.ask(&json!([message(4, "ping", json!({})), message(5, "ping", json!({}))])).await;
    assert_eq!(list.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_request_of_http_is_not_read_as_messages() {
    let mut hub = Hub::start(Options::default()).await;
    let mut lines = Lines::connect(&hub).await;
    lines.send(&format!("POST / HTTP/1.1\r\nhost: x\r\n\r\n{}\n", call(1, "stall", json!({})))).await;
    assert_eq!(lines.rest().await, "");
    let mut lines = Lines::connect(&hub).await;
    lines.send(&format!("{}\n", call(1, "stall", json!({})))).await;
    hub.told("running").await; // the first one was not
}

#[tokio::test]
async fn where_there_is_a_token_a_connection_says_it_first() {
    let options = Options { token: Some(Token::new(TOKEN).unwrap()), ..Options::default() };
    let hub = Hub::start(options).await;
    for first in [message(1, "ping", json!({})), message(1, "authenticate", json!({"token": "wrong"})), json!(7)] {
        let mut lines = Lines::connect(&hub).await;
        let answer = lines.ask(&first).await;
        assert!(answer.get("result").is_none(), "{answer}");
        assert_eq!(lines.rest().await, "");
    }
    let mut lines = Lines::connect(&hub).await;
    assert_eq!(lines.ask(&message(1, "authenticate", json!({"token": TOKEN}))).await["result"]["status"], "ok");
    assert_eq!(lines.ask(&message(2, "ping", json!({}))).await["result"]["status"], "ok");
}

#[tokio::test]
async fn open_streams_and_lines_do_not_hold_up_a_hub_that_stops() {
    let hub = Hub::start(Options::default()).await;
    let mut lines = Lines::connect(&hub).await;
    lines.ask(&message(1, "ping", json!({}))).await;
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    stream.write_all(b"GET /sse HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    within(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    hub.shutdown.cancel();
    assert_eq!(within(hub.stopped).await.unwrap().calls_cancelled, 0);
    assert_eq!(lines.rest().await, "");
}
