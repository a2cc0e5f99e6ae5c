//! What an HTTP client sees.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use insta::assert_snapshot;
use serde_json::{Value, json};
use skep_hub::{
    hub::{
        admission,
        calls::{Calls, Limits},
        catalogue::Catalogue,
    },
    server::{Listeners, Options, Parts, Probe, Stopped, Token},
};
use skep_mcp::framing::SMALL_BYTES;
use skep_tools::workspace::Dir;

use crate::support::{ECHO, ECHOED, Hub, STALL, eventually};

// ---- what S0's and S1's clients do

#[tokio::test]
async fn a_call_is_answered_as_s0_expects_it() {
    let hub = Hub::start(Options::default()).await;
    assert_snapshot!(hub.process(r#"{"tool":"echo","args":{"text":"hi"}}"#).await, @r#"200 {"status":"ok","text":"hi"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"ecko","args":{}}"#).await, @r#"200 {"status":"error","code":"unknown_tool","message":"Unknown tool \"ecko\"; did you mean \"echo\"?"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"sing"}"#).await, @r#"200 {"status":"error","code":"unknown_tool","message":"Unknown tool \"sing\"; GET /tools or `skep tools` lists them"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"echo","args":{"text":1,"volume":11}}"#).await, @r#"200 {"status":"error","code":"invalid_arguments","message":"text: must be text, not a number; volume: is not known here; known are text","faults":[{"pointer":"/text","message":"must be text, not a number"},{"pointer":"/volume","message":"is not known here; known are text"}]}"#);
    assert_snapshot!(hub.process(r#"{"tool":"echo","args":[]}"#).await, @r#"200 {"status":"error","code":"invalid_arguments","message":"must be a table, not a list","faults":[{"pointer":"","message":"must be a table, not a list"}]}"#);
    assert_snapshot!(hub.process(r#"{"tool":"fail","args":{"with":"failed"}}"#).await, @r#"200 {"status":"error","code":"failed","message":"it exited with code 1","exit_code":1}"#);
    assert_snapshot!(hub.process(r#"{"tool":"stall","timeout":0.01}"#).await, @r#"200 {"status":"error","code":"timed_out","message":"stall timed out after 0.01s","may_have_run":true}"#);
    assert_snapshot!(hub.process(r#"{"tool":"panic"}"#).await, @r#"200 {"status":"error","code":"internal","message":"panic failed; its log says why"}"#);
}

#[tokio::test]
async fn a_body_that_is_no_call_is_refused_with_what_is_expected() {
    let hub = Hub::start(Options::default()).await;
    assert_snapshot!(hub.process("hello").await, @r#"400 {"status":"error","code":"bad_json","message":"the body is not JSON: expected value at line 1 column 1"}"#);
    assert_snapshot!(hub.process("").await, @r#"400 {"status":"error","code":"bad_json","message":"the body is not JSON: EOF while parsing a value at line 1 column 0"}"#);
    assert_snapshot!(hub.process("[1]").await, @r#"400 {"status":"error","code":"bad_request","message":"the body is not an object; expected {\"tool\": \"bash\", \"args\": {\"command\": \"echo hi\"}}, and \"timeout\" in seconds if need be"}"#);
    assert_snapshot!(hub.process(r#"{"args":{}}"#).await, @r#"400 {"status":"error","code":"bad_request","message":"missing field `tool` at line 1 column 11; expected {\"tool\": \"bash\", \"args\": {\"command\": \"echo hi\"}}, and \"timeout\" in seconds if need be"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"echo","arguments":{}}"#).await, @r#"400 {"status":"error","code":"bad_request","message":"unknown field `arguments`, expected one of `tool`, `args`, `timeout` at line 1 column 26; expected {\"tool\": \"bash\", \"args\": {\"command\": \"echo hi\"}}, and \"timeout\" in seconds if need be"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"echo","timeout":-1}"#).await, @r#"400 {"status":"error","code":"bad_request","message":"the timeout is out of range; expected seconds, more than 0 and not more than 3600"}"#);
    let deep = format!(r#"{{"tool":"echo","args":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    assert_snapshot!(hub.process(&deep).await, @r#"400 {"status":"error","code":"too_deep","message":"the JSON is nested too deep at line 1 column 128"}"#);
    let wide = format!(r#"{{"tool":"echo","args":[{}0]}}"#, "0,".repeat(100_000));
    assert_snapshot!(hub.process(&wide).await, @r#"413 {"status":"error","code":"too_many_values","message":"the arguments hold more than 100000 values; put large data into one text"}"#);
}

#[tokio::test]
async fn a_tool_has_an_address_and_tells_by_the_status_how_it_went() {
    let hub = Hub::start(Options::default()).await;
    let post = |path: &'static str, body: &'static str| hub.send("POST", path, &[], body);
    assert_snapshot!(post("/tools/echo", r#"{"text":"hi"}"#).await, @r#"200 {"status":"ok","text":"hi"}"#);
    assert_snapshot!(post("/tools/echo", "").await, @r#"422 {"status":"error","code":"invalid_arguments","message":"`text` is missing","faults":[{"pointer":"","message":"`text` is missing"}]}"#);
    assert_snapshot!(post("/tools/echo", "{").await, @r#"400 {"status":"error","code":"bad_json","message":"the body is not JSON: EOF while parsing an object at line 1 column 1"}"#);
    assert_snapshot!(post("/tools/sing", "{}").await, @r#"404 {"status":"error","code":"unknown_tool","message":"Unknown tool \"sing\"; GET /tools or `skep tools` lists them"}"#);
    assert_snapshot!(post("/tools/stall?timeout=0.01", "{}").await, @r#"504 {"status":"error","code":"timed_out","message":"stall timed out after 0.01s","may_have_run":true}"#);
    assert_snapshot!(post("/tools/stall?timeout=soon", "{}").await, @r#"400 {"status":"error","code":"bad_request","message":"Failed to deserialize query string: timeout: invalid float literal; expected ?timeout=SECONDS"}"#);
    assert_snapshot!(post("/tools/fail", r#"{"with":"failed"}"#).await, @r#"422 {"status":"error","code":"failed","message":"it exited with code 1","exit_code":1}"#);
    assert_snapshot!(post("/tools/fail", r#"{"with":"denied"}"#).await, @r#"403 {"status":"error","code":"denied","message":"not allowed"}"#);
    assert_snapshot!(post("/tools/fail", r#"{"with":"unavailable"}"#).await, @r#"501 {"status":"error","code":"unavailable","message":"no such thing; get one"}"#);
    assert_snapshot!(post("/tools/fail", r#"{"with":"busy"}"#).await, @r#"503 retry-after=1 {"status":"error","code":"busy","message":"too much at once"}"#);
    assert_snapshot!(post("/tools/%ff", "{}").await, @r#"400 {"status":"error","code":"bad_request","message":"Invalid URL: Invalid UTF-8 in `tool`"}"#);
}

#[tokio::test]
async fn the_catalogue_can_be_read() {
    let hub = Hub::start(Options::default()).await;
    let all = body(&hub.get("/tools").await);
    let names: Vec<_> = all["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["echo", "fail", "panic", "stall"]);
    assert_snapshot!(hub.get("/tools/echo").await, @r#"200 {"name":"echo","description":"Give back what it got.","inputSchema":{"type":"object","additionalProperties":false,"properties":{"text":{"type":"string"}},"required":["text"]},"outputSchema":{"type":"object","additionalProperties":false,"properties":{"text":{"type":"string"}},"required":["text"]},"annotations":{"readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false}}"#);
    assert_snapshot!(hub.get("/tools/sing").await, @r#"404 {"status":"error","code":"unknown_tool","message":"Unknown tool \"sing\"; GET /tools or `skep tools` lists them"}"#);
}

#[tokio::test]
async fn a_wrong_path_or_method_is_told_what_there_is() {
    let hub = Hub::start(Options::default()).await;
    assert_snapshot!(hub.get("/process").await, @r#"405 allow=POST {"status":"error","code":"wrong_method","message":"this path does not take that method; the Allow header names those it takes"}"#);
    assert_snapshot!(hub.send("PUT", "/tools/echo", &[], "").await, @r#"405 allow=GET,HEAD,POST {"status":"error","code":"wrong_method","message":"this path does not take that method; the Allow header names those it takes"}"#);
    assert_snapshot!(hub.send("POST", "/health/live", &[], "{}").await, @r#"405 allow=GET,HEAD {"type":"/problems/wrong_method","title":"The path does not take this method","status":405,"detail":"this path does not take that method; the Allow header names those it takes","code":"wrong_method"}"#);
    assert_snapshot!(hub.get("/nothing").await, @r#"404 {"type":"/problems/not_found","title":"There is nothing at this path","status":404,"detail":"there is nothing here; this hub answers GET /, POST /process, POST /tools/{tool}, GET /tools, GET /tools/{tool}, POST /mcp, GET /sse, GET /calls, GET /api/v1/events, GET /api/v1/workspaces/{task}/files, GET /ws, GET /health, GET /metrics","code":"not_found"}"#);
}

#[tokio::test]
async fn curl_and_python_are_understood_whatever_type_they_name() {
    let hub = Hub::start(Options::default()).await;
    for content_type in ["application/json", "application/x-www-form-urlencoded", "text/plain", "nonsense"] {
        let answer = hub.send("POST", "/process", &[("content-type", content_type)], ECHO).await;
        assert_eq!(answer, ECHOED, "{content_type}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_and_requests_may_follow_each_other_at_once() {
    let hub = Hub::start(Options::default()).await;
    let mut connection = hub.connect().await;
    for _ in 0..3 {
        connection.send("POST", "/process", &[], ECHO).await;
    }
    for _ in 0..3 {
        assert_eq!(connection.answer().await, ECHOED);
    }
}

// ---- limits

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_even_to_a_client_that_sends_it_all_first() {
    let limits = Limits { message_bytes_max: 1000, ..Default::default() };
    let hub = Hub::start_limited(limits, Options::default()).await;
    let fits = format!("{ECHO}{}", " ".repeat(1000 - ECHO.len()));
    assert_eq!(hub.process(&fits).await, ECHOED);
    let too_large = r#"413 {"status":"error","code":"too_large","message":"the body is larger than 1000 bytes"}"#;
    assert_eq!(hub.process(&format!("{fits} ")).await, too_large);
    // More than the sockets' buffers take: without reading on, the hub would cut this client off.
    assert_eq!(hub.process(&" ".repeat(20 << 20)).await, too_large);
    let mut chunked = hub.connect().await;
    chunked.write("POST /process HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n").await;
    chunked.write(&format!("3e8\r\n{}\r\n1\r\n \r\n0\r\n\r\n", " ".repeat(1000))).await;
    assert_eq!(chunked.answer().await, too_large);
    let mut asking = hub.connect().await;
    asking
        .write("POST /process HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n")
        .await;
    assert_eq!(asking.answer().await, too_large, "the body need not be sent to hear that");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let hub = Hub::start(Options::default()).await;
    // A head that is only a little too large may arrive in one piece with its end, and is then taken.
    let (fits, too_large) = ("x".repeat(60 << 10), "x".repeat(300 << 10));
    assert_eq!(hub.send("POST", "/process", &[("x-large", &fits)], ECHO).await, ECHOED);
    assert_eq!(hub.send("POST", "/process", &[("x-large", &too_large)], ECHO).await, "431 ");
}

#[tokio::test]
async fn bodies_together_take_no_more_memory_than_allowed() {
    let limits = Limits { messages_bytes_max: 6 * SMALL_BYTES, ..Default::default() };
    let mut hub = Hub::start_limited(limits, Options::default()).await;
    let mut first = hub.connect().await;
    first.send("POST", "/process", &[], &format!(r#"{{"tool":"stall"}}{}"#, " ".repeat(2 * SMALL_BYTES))).await;
    hub.told("running").await;
    let second = format!("{ECHO}{}", " ".repeat(2 * SMALL_BYTES));
    assert_snapshot!(hub.process(&second).await, @r#"503 retry-after=1 {"status":"error","code":"busy","message":"too many large messages at once; try again in a moment"}"#);
    assert_eq!(hub.process(ECHO).await, ECHOED, "small ones need none of it");
    hub.release.add_permits(1);
    first.answer().await;
    assert_eq!(hub.process(&second).await, ECHOED);
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let hub = Hub::start(Options::default()).await;
    assert_snapshot!(hub.send("POST", "/process", &[("content-encoding", "gzip")], ECHO).await, @r#"415 {"status":"error","code":"compressed","message":"send the body as it is: compressed bodies are not read"}"#);
}

#[tokio::test]
async fn who_comes_when_all_turns_and_seats_are_taken_is_told_to_try_again() {
    let calls = admission::Limits { calls_at_once: 1, waiting_max: 0, ..Default::default() };
    let mut hub = Hub::start_limited(Limits { calls, ..Limits::default() }, Options::default()).await;
    let mut first = hub.connect().await;
    first.send("POST", "/process", &[], STALL).await;
    hub.told("running").await;
    assert_snapshot!(hub.process(ECHO).await, @r#"503 retry-after=1 {"status":"error","code":"busy","message":"too many calls run and wait already; try again in a moment"}"#);
    assert_snapshot!(hub.send("POST", "/tools/echo", &[], r#"{"text":"hi"}"#).await, @r#"503 retry-after=1 {"status":"error","code":"busy","message":"too many calls run and wait already; try again in a moment"}"#);
    let health = body(&hub.get("/health").await);
    assert_eq!(
        (&health["calls_running"], &health["calls_waiting"], &health["calls_at_once"]),
        (&json!(1), &json!(0), &json!(1))
    );
    hub.release.add_permits(1);
    assert_eq!(first.answer().await, r#"200 {"status":"ok"}"#);
    assert_eq!(hub.process(ECHO).await, ECHOED);
}

#[tokio::test]
async fn a_head_or_a_body_that_comes_too_slowly_is_not_waited_for() {
    // Long enough for the head of the last one on a busy machine.
    let time_max = Duration::from_millis(500);
    let hub = Hub::start(Options { head_time_max: time_max, body_time_max: time_max, ..Options::default() }).await;
    let mut head = hub.connect().await;
    head.write("POST /process HTTP/1.1\r\nhost: loc").await;
    assert_eq!(head.answer().await, "closed");
    let mut silent = hub.connect().await;
    assert_eq!(silent.answer().await, "closed");
    let mut slow = hub.connect().await;
    slow.write("POST /process HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{").await;
    assert_snapshot!(slow.answer().await, @r#"408 {"status":"error","code":"slow","message":"the body did not arrive within 0.5s"}"#);
    assert_eq!(slow.answer().await, "closed");
}

#[tokio::test]
async fn a_peer_that_takes_nothing_of_its_answer_is_given_up() {
    let write_time_max = Duration::from_millis(100);
    let hub = Hub::start(Options { connections_max: 1, write_time_max, ..Options::default() }).await;
    let mut deaf = hub.connect().await;
    let text = "x".repeat(9 << 20);
    deaf.send("POST", "/process", &[], &format!(r#"{{"tool":"echo","args":{{"text":"{text}"}}}}"#)).await;
    // The only connection that there may be is freed.
    eventually(async || hub.process(ECHO).await == ECHOED).await;
}

#[tokio::test]
async fn connections_above_the_limit_are_told_so_and_one_that_ends_makes_room() {
    let hub = Hub::start(Options { connections_max: 2, ..Options::default() }).await;
    let (mut first, mut second) = (hub.connect().await, hub.connect().await);
    for connection in [&mut first, &mut second] {
        connection.send("POST", "/process", &[], ECHO).await;
        assert_eq!(connection.answer().await, ECHOED);
    }
    assert_snapshot!(hub.process(ECHO).await, @r#"503 retry-after=1 {"status":"error","code":"too_many_connections","message":"2 connections are open, and no more are taken; try again in a moment"}"#);
    drop(first);
    eventually(async || hub.process(ECHO).await == ECHOED).await;
}

#[tokio::test]
async fn two_thousand_idle_connections_do_not_keep_others_from_being_served() {
    // In the end all of them call at once, and a machine that is busy takes long for the last.
    let calls = admission::Limits { waiting_time_max: Duration::from_secs(600), ..admission::Limits::default() };
    let hub = Hub::start_limited(Limits { calls, ..Limits::default() }, Options::default()).await;
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = 2000.min(files.saturating_sub(600) / 2); // each has two ends here
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(hub.connect().await);
    }
    let active = (0..100).map(|_| hub.process(ECHO));
    for answer in futures_util::future::join_all(active).await {
        assert_eq!(answer, ECHOED);
    }
    for connection in &mut idle {
        connection.send("POST", "/process", &[], ECHO).await;
    }
    for connection in &mut idle {
        assert_eq!(connection.answer().await, ECHOED);
    }
}

// ---- who goes away, and the end

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_call() {
    let mut hub = Hub::start(Options::default()).await;
    let mut connection = hub.connect().await;
    connection.send("POST", "/process", &[], STALL).await;
    hub.told("running").await;
    drop(connection);
    hub.told("given up").await;
}

#[tokio::test]
async fn a_hub_that_stops_finishes_what_runs_and_takes_nothing_new() {
    let mut hub = Hub::start(Options::default()).await;
    let (mut busy, mut idle) = (hub.connect().await, hub.connect().await);
    idle.send("GET", "/health/ready", &[], "").await;
    assert_eq!(idle.answer().await, r#"200 {"status":"ready"}"#);
    busy.send("POST", "/process", &[], STALL).await;
    hub.told("running").await;
    hub.shutdown.cancel();
    hub.stopped_listening().await;
    idle.send("POST", "/process", &[], ECHO).await;
    assert_snapshot!(idle.answer().await, @r#"503 retry-after=1 {"status":"error","code":"draining","message":"this hub is stopping and takes no new calls"}"#);
    assert_eq!(idle.answer().await, "closed");
    hub.release.add_permits(1);
    assert_eq!(busy.answer().await, r#"200 {"status":"ok"}"#);
    assert_eq!(hub.stopped.await.unwrap(), Stopped { calls_cancelled: 0 });
}

#[tokio::test]
async fn a_kept_connection_hears_that_the_hub_is_not_ready_any_more() {
    let mut hub = Hub::start(Options::default()).await;
    let (mut busy, mut ready, mut health) = (hub.connect().await, hub.connect().await, hub.connect().await);
    for probe in [&mut ready, &mut health] {
        probe.send("GET", "/health/live", &[], "").await;
        assert_eq!(probe.answer().await, r#"200 {"status":"live"}"#);
    }
    busy.send("POST", "/process", &[], STALL).await;
    hub.told("running").await;
    hub.shutdown.cancel();
    hub.stopped_listening().await;
    ready.send("GET", "/health/ready", &[], "").await;
    assert_eq!(ready.answer().await, r#"503 {"status":"draining"}"#);
    health.send("GET", "/health", &[], "").await;
    assert!(health.answer().await.starts_with(r#"503 {"status":"draining","#));
}

#[tokio::test]
async fn what_still_runs_after_the_drain_time_is_cancelled_and_says_so() {
    let mut hub = Hub::start(Options { drain_time: Duration::from_millis(10), ..Options::default() }).await;
    let mut connection = hub.connect().await;
    connection.send("POST", "/process", &[], STALL).await;
    hub.told("running").await;
    hub.shutdown.cancel();
    assert_snapshot!(connection.answer().await, @r#"200 {"status":"error","code":"cancelled","message":"cancelled"}"#);
    hub.told("given up").await;
    assert_eq!(hub.stopped.await.unwrap(), Stopped { calls_cancelled: 1 });
}

// ---- who may come in

#[tokio::test]
async fn a_web_page_does_not_reach_the_hub() {
    let hub = Hub::start(Options::default()).await;
    let ask = |headers: &'static [(&str, &str)]| hub.send("POST", "/process", headers, ECHO);
    // What a browser sends for a form or a simple fetch, which it does not ask about first.
    assert_snapshot!(ask(&[("origin", "https://evil.example"), ("content-type", "text/plain")]).await, @r#"403 {"status":"error","code":"origin_not_allowed","message":"pages from \"https://evil.example\" may not call this hub; allowed_origins can name them"}"#);
    assert_snapshot!(ask(&[("sec-fetch-site", "cross-site"), ("content-type", "text/plain")]).await, @r#"403 {"status":"error","code":"origin_not_allowed","message":"web pages from elsewhere may not call this hub"}"#);
    // What it sends after the page's own name was made to mean this machine.
    assert_snapshot!(ask(&[("host", "evil.example:8000"), ("origin", "http://evil.example:8000")]).await, @r#"403 {"status":"error","code":"host_not_allowed","message":"this hub is not known as \"evil.example:8000\"; call it by a name or address it listens on, or add the name to allowed_hosts"}"#);
    let preflight = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    assert!(hub.send("OPTIONS", "/process", &preflight, "").await.starts_with("403 "));
    for path in ["/health", "/health/live", "/metrics", "/tools", "/nothing"] {
        let answer = hub.send("GET", path, &[("host", "evil.example")], "").await;
        assert!(answer.starts_with("403 {"), "{path}: {answer}");
    }
    let mut nameless = hub.connect().await;
    nameless.write("GET /tools HTTP/1.0\r\n\r\n").await;
    assert_snapshot!(nameless.answer().await, @r#"400 {"status":"error","code":"bad_host","message":"one Host header is needed"}"#);
}

#[tokio::test]
async fn a_page_that_the_operator_named_may_call_and_read() {
    let origins = vec!["https://console.example".to_owned()];
    let hub = Hub::start(Options { allowed_origins: origins, ..Options::default() }).await;
    let origin = ("origin", "https://console.example");
    let preflight = [origin, ("sec-fetch-site", "cross-site"), ("access-control-request-method", "POST")];
    assert_snapshot!(hub.send("OPTIONS", "/process", &preflight, "").await, @"204 allow=POST access-control-allow-origin=https://console.example");
    assert_snapshot!(hub.send("POST", "/process", &[origin], ECHO).await, @r#"200 access-control-allow-origin=https://console.example {"status":"ok","text":"hi"}"#);
}

const PAGE: &str = "https://console.example";

/// A hub that wants a token, and lets pages of one origin call.
async fn hub_for_a_page(options: Options) -> Hub {
    let token = Some(Token::new("correct-horse-battery").unwrap());
    Hub::start(Options { token, allowed_origins: vec![PAGE.to_owned()], ..options }).await
}

/// An answer to a request of that page: the status, and what the browser is told besides.
async fn told(hub: &Hub, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Vec<String>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method.parse().unwrap(), format!("http://{}{path}", hub.address));
    for (name, value) in [&[("origin", PAGE)], headers].concat() {
        request = request.header(name, value);
    }
    let answer = request.send().await.unwrap();
    let is_for_browsers = |name: &str| name.starts_with("access-control-") || name == "vary";
    let fields = answer.headers().iter().filter(|(name, _)| is_for_browsers(name.as_str()));
    let mut fields: Vec<String> = fields.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    fields.sort();
    (answer.status().as_u16(), fields)
}

#[tokio::test]
async fn a_browser_hears_what_an_allowed_page_may_do_without_a_token() {
    let hub = hub_for_a_page(Options::default()).await;
    let asked = [
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "authorization,mcp-param-region,mcp-session-id,x-unknown"),
        ("access-control-request-private-network", "true"),
    ];
    let vary =
        "vary: access-control-request-method, access-control-request-headers, access-control-request-private-network";
    let expected = [
        "access-control-allow-headers: authorization, mcp-param-region, mcp-session-id",
        "access-control-allow-methods: GET, POST, DELETE",
        "access-control-allow-origin: https://console.example",
        "access-control-allow-private-network: true",
        READABLE,
        "access-control-max-age: 7200",
        vary,
        "vary: origin",
    ];
    assert_eq!(told(&hub, "OPTIONS", "/mcp", &asked).await, (204, expected.map(str::to_owned).into()));
    let (status, fields) = told(&hub, "OPTIONS", "/process", &asked[..1]).await;
    assert_eq!(status, 204);
    assert!(fields.contains(&"access-control-allow-methods: GET, POST".to_owned()), "{fields:?}");
    assert!(!fields.iter().any(|field| field.contains("private-network:")), "{fields:?}");
    assert_eq!(told(&hub, "OPTIONS", "/mcp", &[]).await.0, 401, "it asks for nothing, so it is a request like others");

    let other = [&[("origin", "https://evil.example")], &asked[..]].concat();
    assert_snapshot!(hub.send("OPTIONS", "/mcp", &other, "").await, @r#"403 allow=POST,GET,HEAD,DELETE {"type":"/problems/origin_not_allowed","title":"Pages from this origin may not call the hub","status":403,"detail":"pages from \"https://evil.example\" may not call this hub; allowed_origins can name them","code":"origin_not_allowed"}"#);
    let rebound = [&[("origin", PAGE), ("host", "evil.example")], &asked[..]].concat();
    assert!(hub.send("OPTIONS", "/mcp", &rebound, "").await.starts_with("403 "));
}

const READABLE: &str =
    "access-control-expose-headers: mcp-session-id, x-request-id, etag, retry-after, www-authenticate, allow";

#[tokio::test]
async fn an_allowed_page_may_read_every_refusal() {
    let hub = hub_for_a_page(Options::default()).await;
    let readable = ["access-control-allow-origin: https://console.example", READABLE, "vary: origin"];
    let readable: Vec<String> = readable.map(str::to_owned).into();
    let token = ("authorization", "Bearer correct-horse-battery");
    for (status, method, path, headers) in [
        (401, "POST", "/process", &[][..]),
        (401, "GET", "/mcp", &[("authorization", "Bearer wrong")]),
        (403, "GET", "/tools", &[token, ("host", "evil.example")]),
        (404, "GET", "/nothing", &[token]),
        (405, "GET", "/process", &[token]),
        (415, "POST", "/mcp", &[token, ("content-encoding", "gzip")]),
        (400, "POST", "/mcp", &[token]),
        (406, "POST", "/mcp", &[token, ("accept", "text/html")]),
    ] {
        assert_eq!(told(&hub, method, path, headers).await, (status, readable.clone()), "{method} {path} {headers:?}");
    }
    assert_eq!(told(&hub, "GET", "/health/live", &[]).await, (200, readable.clone()));
    assert_eq!(
        hub.get("/health/live").await,
        r#"200 {"status":"live"}"#,
        "who is no page of another origin hears nothing of it"
    );

    let full = hub_for_a_page(Options { connections_max: 1, ..Options::default() }).await;
    let _idle = full.connect().await;
    assert_eq!(told(&full, "GET", "/health/live", &[]).await, (503, readable.clone()));
    let asked = [("access-control-request-method", "POST")];
    assert_eq!(told(&full, "OPTIONS", "/mcp", &asked).await.0, 204, "so that the page hears why");

    let broken = Probe::new("store", true, || async { panic!("put in by the test") });
    let options = Options { allowed_origins: vec![PAGE.to_owned()], ..Options::default() };
    let hub = Hub::start_with(options, vec![broken]).await;
    assert_eq!(told(&hub, "GET", "/health", &[]).await, (500, readable));
}

#[tokio::test]
async fn with_a_token_only_who_knows_it_is_answered() {
    let token = Token::new("correct-horse-battery").unwrap();
    let hub = Hub::start(Options { token: Some(token), ..Options::default() }).await;
    assert_snapshot!(hub.process(ECHO).await, @r#"401 www-authenticate=Bearer realm="skep" {"status":"error","code":"unauthorized","message":"this hub wants its token: send `Authorization: Bearer …`"}"#);
    let with = async |header: &str| hub.send("POST", "/process", &[("authorization", header)], ECHO).await;
    assert_snapshot!(with("Bearer correct-horse-batterY").await, @r#"401 www-authenticate=Bearer realm="skep" {"status":"error","code":"unauthorized","message":"this hub does not know that token"}"#);
    assert_eq!(with("Bearer correct-horse-battery").await, ECHOED);
    for path in ["/tools", "/health", "/metrics", "/nothing"] {
        assert!(hub.get(path).await.starts_with("401 "), "{path}");
    }
    assert_eq!(hub.get("/health/live").await, r#"200 {"status":"live"}"#);
    assert_eq!(hub.get("/health/ready").await, r#"200 {"status":"ready"}"#);
}

#[tokio::test]
async fn a_hub_that_others_could_reach_does_not_start_without_a_token() {
    let open = |bind: &str, token| refusal(Options { bind: vec![bind.to_owned()], token, ..Options::default() });
    assert_snapshot!(open("0.0.0.0:0", None).await, @"0.0.0.0:0 can be reached from other machines, so a token is needed: set SKEP_TOKEN to a secret of at least 16 characters (`openssl rand -hex 32` makes one), or listen on 127.0.0.1");
    assert!(open("[::]:0", None).await.contains("SKEP_TOKEN"));
    assert_eq!(open("0.0.0.0:0", Token::new("correct-horse-battery").ok()).await, "started");
    assert_eq!(open("localhost:0", None).await, "started");
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_explained() {
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let open =
        |bind: &[&str]| refusal(Options { bind: bind.iter().map(|a| (*a).to_owned()).collect(), ..Options::default() });
    assert_eq!(
        open(&[&taken]).await,
        format!("cannot listen on {taken}: another program does already; stop it or choose another port")
    );
    assert_snapshot!(open(&["8000"]).await, @"cannot listen on 8000: an address looks like 127.0.0.1:8000");
    assert_snapshot!(open(&[]).await, @"no address to listen on is given; the default is 127.0.0.1:8000");
    let origins =
        Options { bind: vec!["127.0.0.1:0".to_owned()], allowed_origins: vec!["*".to_owned()], ..Options::default() };
    assert_snapshot!(refusal(origins).await, @r#""*" is not an origin; one looks like https://hub.example or http://localhost:3000"#);
}

// ---- what can be seen

#[tokio::test]
async fn health_tells_what_was_tried_and_fails_when_something_vital_does() {
    let working = Arc::new(AtomicBool::new(true));
    let probe = |name, vital| {
        let working = Arc::clone(&working);
        Probe::new(name, vital, move || {
            let working = working.load(SeqCst);
            async move { if working { Ok("writable".to_owned()) } else { Err("the disk is full".to_owned()) } }
        })
    };
    let hub = Hub::start_with(Options::default(), vec![probe("store", true)]).await;
    assert_snapshot!(steady(&hub.get("/health").await), @r#"200 {"status":"healthy","calls_running":0,"calls_waiting":0,"calls_at_once":64,"calls_forwarded":0,"alerts":[],"store":"writable"}"#);
    working.store(false, SeqCst);
    let hub = Hub::start_with(Options::default(), vec![probe("store", true)]).await;
    assert_snapshot!(steady(&hub.get("/health").await), @r#"503 {"status":"unhealthy","calls_running":0,"calls_waiting":0,"calls_at_once":64,"calls_forwarded":0,"alerts":[],"store":"failed: the disk is full"}"#);
    let hub = Hub::start_with(Options::default(), vec![probe("sandbox", false)]).await;
    assert!(hub.get("/health").await.starts_with(r#"200 {"status":"degraded""#));
}

#[tokio::test]
async fn a_fault_in_the_hub_is_an_answer_and_not_a_broken_connection() {
    let hub =
        Hub::start_with(Options::default(), vec![Probe::new("store", true, || async { panic!("put in by the test") })])
            .await;
    let mut connection = hub.connect().await;
    connection.send("GET", "/health", &[], "").await;
    assert_snapshot!(connection.answer().await, @r#"500 {"type":"/problems/internal","title":"The hub failed","status":500,"detail":"the hub failed at this request; its log says why","code":"internal"}"#);
    connection.send("GET", "/health/live", &[], "").await;
    assert_eq!(connection.answer().await, r#"200 {"status":"live"}"#);
}

#[tokio::test]
async fn calls_are_counted_and_timed_by_tool_and_outcome() {
    let hub = Hub::start(Options::default()).await;
    let ok = r#"skep_tool_calls_total{tool="echo",outcome="ok"}"#;
    let invalid = r#"skep_tool_calls_total{tool="echo",outcome="invalid_arguments"}"#;
    let timed = r#"skep_tool_call_seconds_bucket{tool="echo",le="+Inf"}"#;
    let requests = r#"skep_http_requests_total{method="POST",route="/process",status="200"}"#;
    let unmatched = r#"skep_http_requests_total{method="GET",route="unmatched",status="404"}"#;
    let before = hub.get("/metrics").await;
    hub.process(ECHO).await;
    hub.process(r#"{"tool":"echo"}"#).await;
    hub.get("/a/path/of/the/client").await;
    let after = hub.get("/metrics").await;
    // Other tests count in the same process, so there may be more than ours.
    for (name, at_least) in [(ok, 1.0), (invalid, 1.0), (timed, 2.0), (requests, 2.0), (unmatched, 1.0)] {
        assert!(figure(&after, name) - figure(&before, name) >= at_least, "{name}\n{after}");
    }
    assert!(figure(&after, "process_resident_memory_bytes") > 1e6);
    assert!(figure(&after, "skep_http_connections") >= 1.0);
    assert!(!after.contains("the/client"), "a path of a client is no label");
}

#[tokio::test]
async fn a_request_has_a_name_that_the_caller_may_choose() {
    let hub = Hub::start(Options::default()).await;
    assert_eq!(hub.request_id(Some("run-7.task_3")).await, "run-7.task_3");
    assert_eq!(hub.request_id(None).await.len(), 26);
    for unfit in ["", "two words", &"x".repeat(65)] {
        assert_eq!(hub.request_id(Some(unfit)).await.len(), 26, "{unfit}");
    }
}

// ---- what the tests share

/// What a hub with these options says instead of starting.
async fn refusal(options: Options) -> String {
    let directory = tempfile::tempdir().unwrap();
    let dir = Dir::open(directory.path()).unwrap();
    let calls = Arc::new(Calls::new(Catalogue::new([]), dir.clone(), dir, Limits::default()));
    let parts = Parts { name: "test".into(), calls, store: None, probes: Vec::new() };
    match Listeners::open(options, parts).await {
        Ok(_) => "started".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The body of an answer as it is shown here.
pub(crate) fn body(answer: &str) -> Value {
    serde_json::from_str(&answer[answer.find('{').unwrap()..]).unwrap()
}

/// An answer of `GET /health` without what differs from run to run.
fn steady(answer: &str) -> String {
    let (status, body) = (answer.split(' ').next().unwrap(), body(answer));
    let steady = body.as_object().unwrap().iter().filter(|(name, _)| !matches!(name.as_str(), "version" | "uptime_s"));
    format!("{status} {}", Value::Object(steady.map(|(name, value)| (name.clone(), value.clone())).collect()))
}

/// A figure of `GET /metrics`; 0 if it is not there yet.
fn figure(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}
