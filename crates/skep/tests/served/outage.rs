//! What callers of every interface are told while the database server is gone, and what is left of them afterwards.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    private::Server,
    wire::{Hub, call, request, stateless, within},
};

/// Nobody waits for so long: a call has 10 s, and a busy machine takes long.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Callers at once, for so long.
const CALLERS: usize = 64;
const TIME: Duration = Duration::from_secs(4);
/// What the hub may have kept of them.
const KEPT_BYTES_MAX: u64 = 64 << 20;
/// The error of JSON-RPC that says "not now".
const BUSY: i64 = -31000;

async fn hub(server: &Server) -> Hub {
    let database = server.database("skep").await;
    Hub::start_with("log.level = 'error'", &[("SKEP_DATABASE", &*database)])
}

fn step() -> Value {
    json!({ "task_id": "t", "message": "compiled" })
}

/// A request at a path: its status, whether it says when to come again, and its body.
async fn send(hub: &Hub, method: Method, path: &str, headers: &[(&str, String)], body: String) -> (u16, bool, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method, format!("{}{path}", hub.served.url)).body(body);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let answer = within(request.send()).await.unwrap();
    let (status, again) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
    (status, again, within(answer.text()).await.unwrap())
}

/// Over MCP, as a request that stands alone.
async fn over_mcp(hub: &Hub, message: Value) -> Value {
    let (message, mut headers) = stateless(message, json!({}));
    headers.push(("accept", "application/json".to_owned()));
    if let Some(uri) = message["params"]["uri"].as_str() {
        headers.push(("mcp-name", uri.to_owned()));
    }
    let (_, _, text) = send(hub, Method::POST, "/mcp", &headers, message.to_string()).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn recovers(hub: &Hub) {
    let began = Instant::now();
    while hub.post("/tools/log_step", &[], step()).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(120), "it does not recover");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_every_interface_says_come_back_and_can_be_used_again_afterwards() {
    let Some(mut server) = Server::start("", &[]) else { return };
    let hub = hub(&server).await;
    recovers(&hub).await;
    server.tell("kill");
    let json = |value: Value| value.to_string();
    for (method, path, body) in [
        (Method::POST, "/tools/log_step", json(step())),
        (Method::POST, "/tools/read_logs", json(json!({ "task_id": "t" }))),
        (Method::POST, "/api/v1/workspaces/t/steps", json(json!({ "message": "compiled" }))),
        (Method::GET, "/api/v1/workspaces/t/steps", String::new()),
        (Method::PUT, "/api/v1/workspaces/t/files/a.txt", "text".to_owned()),
        (Method::GET, "/api/v1/workspaces/t/files/a.txt", String::new()),
        (Method::POST, "/api/v1/workspaces/t/claims", json(json!({ "path": "a.txt", "wait_s": 5 }))),
        (Method::PUT, "/api/v1/workspaces/t/memory/k", json(json!({ "value": 1 }))),
        (Method::POST, "/api/v1/workspaces/t/messages", json(json!({ "body": "hello" }))),
        (Method::GET, "/api/v1/events?task=t", String::new()),
        (Method::GET, "/health/ready", String::new()),
    ] {
        let began = Instant::now();
        let (status, says_when, text) = send(&hub, method.clone(), path, &[], body).await;
        let is_health = path.starts_with("/health");
        assert!(status == 503 && (says_when || is_health), "{method} {path}: {status} {says_when} {text}");
        assert!(began.elapsed() < ANSWER_TIME_MAX, "{method} {path} took {:?}", began.elapsed());
    }
    for message in [call(1, "log_step", step()), request(1, "resources/read", json!({ "uri": "tasks://t/logs" }))] {
        let said = over_mcp(&hub, message).await;
        assert_eq!(said["error"]["code"], BUSY, "{said}");
    }
    server.tell("start");
    recovers(&hub).await;
    let said = over_mcp(&hub, call(1, "log_step", step())).await;
    assert!(said["result"]["structuredContent"]["sequence"].as_i64() > Some(1), "{said}");
}

/// Callers who come again at once, whatever they are told.
async fn callers_for(hub: &Hub, time: Duration) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (began, mut callers) = (Instant::now(), JoinSet::new());
    for _ in 0..CALLERS {
        let (client, url) = (client.clone(), hub.served.url.clone());
        callers.spawn(async move {
            let mut answers = 0;
            while answers == 0 || began.elapsed() < time {
                let asked = Instant::now();
                let answer = client.post(format!("{url}/tools/log_step")).body(step().to_string()).send();
                let answer = within(answer).await.unwrap();
                let is_told = answer.status() != 503 || answer.headers().contains_key("retry-after");
                assert!(is_told && [200, 503, 504].contains(&answer.status().as_u16()), "{answer:?}");
                assert!(asked.elapsed() < ANSWER_TIME_MAX, "{answer:?} took {:?}", asked.elapsed());
                answers += 1;
            }
        });
    }
    callers.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_piles_up_at_a_hub_whose_database_is_dead_or_stands_still() {
    let Some(mut server) = Server::start("fsync = off", &[]) else { return };
    let hub = hub(&server).await;
    callers_for(&hub, TIME / 4).await;
    let before = hub.resident();
    for (begin, end) in [("kill", "start"), ("pause", "resume")] {
        server.tell(begin);
        callers_for(&hub, TIME).await;
        server.tell(end);
        recovers(&hub).await;
        let began = Instant::now();
        loop {
            let metrics = hub.get("/metrics", &[]).await.body;
            if ["skep_calls_running 0", "skep_calls_waiting 0"].iter().all(|figure| metrics.contains(figure)) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "calls are left: {metrics}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let kept = hub.resident().saturating_sub(before);
        assert!(kept < KEPT_BYTES_MAX, "after {begin}: {kept} bytes more than before");
    }
}
