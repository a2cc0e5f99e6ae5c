//! What a hub tells of the calls that it has had, and whom.

use serde_json::{Value, json};

use crate::wire::{Hub, call, initialize, request, within};

const OPERATOR: &str = "operator-correct-horse-battery";
const ANN: &str = "ann-correct-horse-battery";
const BOB: &str = "bob-correct-horse-battery";

/// A server with a tool that works and one that says it has failed.
const SERVER: &str = r#"
import json, sys
def say(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method == "initialize":
        say(id=id, result={"protocolVersion": "2025-06-18", "serverInfo": {"name": "s", "version": "1"}, "capabilities": {"tools": {}}})
    elif method == "tools/list":
        say(id=id, result={"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ["works", "fails"]]})
    elif method == "tools/call":
        said = json.dumps({"isError": True})
        say(id=id, result={"content": [{"type": "text", "text": said}], "isError": message["params"]["name"] == "fails"})
"#;

fn hub() -> Hub {
    let tokens = format!("[serve.tokens]\nann = '{ANN}'\nbob = '{BOB}'\n");
    let server = format!("[mcpServers.s]\ncommand = 'python3'\nargs = ['-c', '''{SERVER}''']\n");
    Hub::start_with(&(tokens + &server), &[("SKEP_TOKEN", OPERATOR), ("NO_COLOR", "1")])
}

/// Who called what, and how it ended, as this token sees it.
async fn calls(hub: &Hub, token: &str) -> Vec<String> {
    let answer = hub.get("/calls", &[("authorization", &format!("Bearer {token}"))]).await.json();
    let text = |call: &Value, name: &str| call[name].as_str().unwrap().to_owned();
    let told = |call: &Value| {
        assert!(call["duration_ms"].as_f64().unwrap() >= 0.0 && call["at"].is_string(), "{call}");
        format!("{} {} {}", text(call, "principal"), text(call, "tool"), text(call, "outcome"))
    };
    answer["calls"].as_array().unwrap().iter().map(told).collect()
}

#[tokio::test]
async fn every_call_is_told_to_its_caller_and_the_operator_whatever_way_it_came() {
    let mut hub = hub();
    let bearer = |token: &str| format!("Bearer {token}");
    let (ann, bob) = (bearer(ANN), bearer(BOB));
    let ann = [("authorization", ann.as_str()), ("accept", "application/json")];
    hub.post("/process", &ann, json!({ "tool": "bash", "args": { "command": "echo a-secret" } })).await;
    hub.post("/tools/bash", &ann, json!({ "command": "exit 3" })).await;
    hub.post("/tools/no_such_tool", &ann, json!({})).await;
    hub.post("/tools/compose", &ann, json!({ "wrong": 1 })).await;
    hub.post("/tools/s__works", &ann, json!({})).await;
    let session = hub.session(&ann).await;
    let in_session = [&ann[..], &[("mcp-session-id", &session)]].concat();
    hub.post("/mcp", &in_session, call(1, "s__works", json!({ "key": "a-secret" }))).await;
    hub.post("/mcp", &in_session, call(2, "s__fails", json!({}))).await;
    hub.post("/mcp", &in_session, call(3, "list_files", json!({}))).await;
    let mut lines = hub.lines().await;
    lines.ask(request(0, "authenticate", json!({ "token": ANN }))).await;
    lines.ask(initialize("2025-06-18")).await;
    lines.ask(call(4, "s__works", json!({}))).await;
    hub.post("/tools/list_files", &[("authorization", &bob)], json!({})).await;

    let of_ann = [
        "ann bash ok",
        "ann bash failed",
        "ann no_such_tool unknown_tool",
        "ann compose invalid_arguments",
        "ann s__works ok",
        "ann s__works ok",
        "ann s__fails failed",
        "ann list_files ok",
        "ann s__works ok",
    ];
    assert_eq!(calls(&hub, ANN).await, of_ann);
    let metrics = hub.get("/metrics", &[("authorization", &bearer(OPERATOR))]).await.body;
    for (outcome, calls) in [("ok", 3), ("failed", 1)] {
        let counted =
            format!("skep_upstream_calls_total{{server=\"s\",method=\"tools/call\",outcome=\"{outcome}\"}} {calls}");
        assert!(metrics.contains(&counted), "{counted}: {metrics}");
    }
    assert_eq!(calls(&hub, BOB).await, ["bob list_files ok"]);
    assert_eq!(calls(&hub, OPERATOR).await, [&of_ann[..], &["bob list_files ok"]].concat());
    assert_eq!(hub.get("/calls", &[]).await.status, 401);
    for expected in of_ann.iter().chain(&["bob list_files ok"]) {
        let line = hub.served.says("skep::calls");
        let words: Vec<&str> = expected.split(' ').collect();
        assert!(line.contains("INFO") && words.iter().all(|word| line.contains(word)), "{expected}: {line}");
        assert!(line.contains("ms=") && !line.contains("a-secret") && !line.contains(ANN), "{line}");
    }
}

#[tokio::test]
async fn who_waits_for_a_call_hears_of_it_at_once() {
    let hub = hub();
    let bearer = format!("Bearer {OPERATOR}");
    let headers = [("authorization", bearer.as_str())];
    let none = hub.get("/calls?wait=0.01", &headers).await.json();
    assert_eq!(none, json!({ "calls": [], "last": 0 }));
    let waits = hub.get("/calls?after=0&wait=30", &headers);
    let calls = async { hub.post("/tools/list_files", &headers, json!({})).await };
    let (heard, _) = within(async { tokio::join!(waits, calls) }).await;
    let heard = heard.json();
    assert_eq!((&heard["calls"][0]["tool"], &heard["last"]), (&json!("list_files"), &json!(1)));
    let later = hub.get("/calls?after=1", &headers).await.json();
    assert_eq!(later["calls"], json!([]));
    assert_eq!(hub.get("/calls?from=1", &headers).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_finds_the_hub_and_shows_its_calls() {
    let hub = Hub::start_with("", &[("NO_COLOR", "1")]);
    let none = hub.user.skep(&["logs"]);
    assert!(none.code() == 0 && none.stderr().contains("no calls yet"), "{}", none.stderr());
    let mut follows = hub.user.start(&["logs", "--calls", "--follow", "--json"]);
    hub.post("/process", &[], json!({ "tool": "bash", "args": { "command": "exit 1" } })).await;
    hub.post("/process", &[], json!({ "tool": "a\u{1b}[2Jb", "args": {} })).await;
    let listed = hub.user.skep(&["logs", "--calls"]).ok().stdout();
    let words: Vec<&str> = listed.lines().next().unwrap().split_whitespace().collect();
    assert_eq!((words[1..4].to_vec(), words[5]), (vec!["local", "bash", "failed"], "ms"), "{listed}");
    assert!(listed.lines().count() == 2 && !listed.contains('\u{1b}'), "{listed}");
    let by_address = hub.user.skep(&["logs", "--json", "--hub", &hub.served.url]).ok().stdout();
    assert_eq!(by_address.lines().count(), 2, "{by_address}");
    let heard = follows.next();
    assert_eq!((&heard["tool"], &heard["outcome"]), (&json!("bash"), &json!("failed")));

    let mut hub = hub;
    hub.served.stop();
    let (_, said) = follows.end();
    assert!(said.contains("has stopped"), "{said}");
    let gone = hub.user.skep(&["logs", "--calls"]);
    assert!(gone.code() == 1 && gone.stderr().contains("skep serve"), "{}", gone.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_calls_is_summed_up_in_the_log() {
    let mut hub = Hub::start_with("", &[("NO_COLOR", "1")]);
    let mut connection = hub.connect().await;
    let calls = 500;
    for _ in 0..calls {
        connection.send("POST", "/tools/no_such_tool", &[], "{}").await.unwrap();
    }
    for _ in 0..calls {
        assert_eq!(connection.answer().await.unwrap().status, 404);
    }
    let mut told = 0;
    while told < calls {
        let line = hub.served.says("skep::calls");
        told += match line.split("more=").nth(1) {
            Some(more) => more.trim().parse::<usize>().unwrap(),
            None => 1,
        };
    }
    assert_eq!(told, calls);
}
