//! Tools of an MCP server that are for whoever has claimed the file that they work on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    support::User,
    wire::{Hub, call, initialize, stateless, within},
};

const OPERATOR: &str = "operator-correct-horse-battery";
const ANN: &str = "ann-correct-horse-battery";
const BOB: &str = "bob-correct-horse-battery";

/// `write` says what it was given; `hold` keeps its place until the file `go` is there.
const SERVER: &str = r#"
import json, os, sys, time
def say(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message.get("method"), message.get("id"), message.get("params", {})
    if method == "initialize":
        say(id=id, result={"protocolVersion": "2025-06-18", "serverInfo": {"name": "s", "version": "1"}, "capabilities": {"tools": {}}})
    elif method == "tools/list":
        say(id=id, result={"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ["write", "read", "hold"]]})
    elif method == "tools/call":
        while params["name"] == "hold" and not os.path.exists("go"): time.sleep(0.01)
        say(id=id, result={"content": [{"type": "text", "text": "did " + params["name"]}]})
"#;

/// A hub with that server. `required`: the claim that `write` takes.
fn hub(required: &str) -> Hub {
    let settings = format!(
        "[serve.tokens]\nann = '{ANN}'\nbob = '{BOB}'\n[mcpServers.files]\ncommand = 'python3'\n\
         args = ['-c', '''{SERVER}''']\ncalls_at_once = 1\n[mcpServers.files.tools]\nwrite.requires_claim = {required}\n"
    );
    Hub::of(User::new(), &settings, &[("SKEP_TOKEN", OPERATOR)])
}

/// `POST /tools/{tool}`.
async fn tool(hub: &Hub, token: &str, tool: &str, arguments: Value) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    let answer = hub.post(&format!("/tools/{tool}"), &[("authorization", &bearer)], arguments).await;
    (answer.status, answer.json())
}

async fn claim(hub: &Hub, token: &str, task: &str, path: &str, agent: &str) -> i64 {
    let arguments = json!({ "task_id": task, "path": path, "agent_id": agent });
    let (status, claimed) = tool(hub, token, "claim_file", arguments).await;
    assert_eq!(status, 200, "{claimed}");
    claimed["token"].as_i64().unwrap()
}

/// A call over MCP with this metadata, stateless or in a session. Returns what the tool said, or the refusal as JSON.
async fn over_mcp(hub: &Hub, token: &str, is_modern: bool, path: &str, meta: Value) -> Value {
    let bearer = format!("Bearer {token}");
    let mut message = call(1, "files__write", json!({ "path": path }));
    let mut headers = vec![("authorization", bearer.clone()), ("accept", "application/json".to_owned())];
    if is_modern {
        let (modern, named) = stateless(message, json!({}));
        message = modern;
        headers.extend(named);
    } else {
        let opened = hub.post("/mcp", &[("authorization", &bearer)], initialize("2025-11-25")).await;
        headers.push(("mcp-session-id", opened.header("mcp-session-id").to_owned()));
        message["params"]["_meta"] = json!({});
    }
    message["params"]["_meta"].as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = hub.post("/mcp", &headers, &message).await.json();
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    match answer["result"]["isError"] == true {
        true => serde_json::from_str(text).unwrap(),
        false => text.into(),
    }
}

#[tokio::test]
async fn a_tool_that_requires_a_claim_is_for_its_holder_over_mcp() {
    let hub = hub("'{{ arguments.path }}'");
    for is_modern in [true, false] {
        let task = if is_modern { "modern" } else { "older" };
        let write = async |token: &str, path: &str, meta: Value| over_mcp(&hub, token, is_modern, path, meta).await;
        let refused = write(ANN, "src/a.rs", json!({ "skep/task_id": task })).await;
        assert_eq!((&refused["code"], &refused["reason"]), (&json!("conflict"), &json!("unclaimed")), "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("claim_file"), "{refused}");

        let token = claim(&hub, ANN, task, "src/*", "coder").await;
        let mine = json!({ "skep/task_id": task });
        assert_eq!(write(ANN, "src/a.rs", mine.clone()).await, "did write");
        let other = json!({ "skep/task_id": task, "skep/agent_id": "reviewer" });
        assert_eq!(write(ANN, "src/a.rs", other).await["agent"], "coder", "another agent has it");
        let refused = write(BOB, "src/a.rs", mine.clone()).await;
        assert_eq!((&refused["reason"], &refused["principal"]), (&json!("claimed"), &json!("ann")), "{refused}");
        let with_token = json!({ "skep/task_id": task, "skep/claim_token": token });
        assert_eq!(write(BOB, "src/a.rs", with_token.clone()).await, "did write", "ann gave bob the token");
        assert_eq!(write(ANN, "docs/a.md", with_token.clone()).await["reason"], "token_of_another_path");
        assert_eq!(write(ANN, "src/../b", mine.clone()).await["code"], "invalid_arguments");
        let elsewhere = json!({ "skep/task_id": "another", "skep/claim_token": token });
        assert_eq!(write(ANN, "src/a.rs", elsewhere).await["code"], "conflict", "a task knows only its own claims");
        let no_number = json!({ "skep/task_id": task, "skep/claim_token": "7" });
        assert_eq!(write(ANN, "src/a.rs", no_number).await["code"], "invalid_arguments");
        assert_eq!(write(ANN, "src/a.rs", json!({})).await["code"], "invalid_arguments", "of which task?");

        let release = json!({ "task_id": task, "path": "src/*", "token": token });
        assert_eq!(tool(&hub, ANN, "release_file", release).await.1["released"], true);
        assert_eq!(write(ANN, "src/a.rs", with_token).await["reason"], "stale_token");
    }
}

#[tokio::test]
async fn the_same_holds_over_rest_and_for_execute_mcp_tool() {
    let hub = hub("{ path = '{{ arguments.path }}', task = 'site', root = '/srv/site' }");
    let direct = async |token: &str, path: &str| tool(&hub, token, "files__write", json!({ "path": path })).await;
    let by_name = async |token: &str, path: &str| {
        let call = json!({ "server_name": "files", "tool_name": "write", "arguments": { "path": path } });
        tool(&hub, token, "execute_mcp_tool", call).await
    };
    for path in ["a.txt", "/srv/site/a.txt"] {
        assert_eq!(direct(ANN, path).await.1["reason"], "unclaimed");
        let (status, refused) = by_name(ANN, path).await;
        assert_eq!((status, &refused["reason"], &refused["task_id"]), (409, &json!("unclaimed"), &json!("site")));
    }
    claim(&hub, ANN, "site", "a.txt", "coder").await;
    for path in ["a.txt", "/srv/site/a.txt", "./a.txt"] {
        for (status, said) in [direct(ANN, path).await, by_name(ANN, path).await] {
            assert_eq!((status, &said["text"]), (200, &json!("did write")), "{path}: {said}");
        }
        for (status, said) in [direct(BOB, path).await, by_name(BOB, path).await] {
            assert_eq!((status, &said["code"], &said["principal"]), (409, &json!("conflict"), &json!("ann")), "{path}");
        }
    }
    for path in ["/etc/passwd", "/srv/sitemap", "/srv/site/../x", ""] {
        assert_eq!(direct(ANN, path).await.0, 422, "{path}");
    }
    let (status, said) = tool(&hub, BOB, "files__read", json!({})).await;
    assert_eq!((status, &said["text"]), (200, &json!("did read")), "no other tool needs a claim");
}

#[tokio::test]
async fn a_claim_is_checked_when_the_turn_of_the_call_has_come() {
    let hub = hub("{ path = '{{ arguments.path }}', task = 'site' }");
    let token = claim(&hub, ANN, "site", "a.txt", "coder").await;
    let hold = tool(&hub, ANN, "files__hold", json!({}));
    let write = tool(&hub, ANN, "files__write", json!({ "path": "a.txt" }));
    let release = async {
        let bearer = [("authorization", format!("Bearer {OPERATOR}"))];
        let bearer = [(bearer[0].0, bearer[0].1.as_str())];
        let began = Instant::now();
        while hub.get("/servers/files", &bearer).await.json()["calls_waiting"] != 1 {
            assert!(began.elapsed() < Duration::from_secs(120), "the call never waits");
        }
        let release = json!({ "task_id": "site", "path": "a.txt", "token": token });
        assert_eq!(tool(&hub, ANN, "release_file", release).await.1["released"], true);
        hub.user.file("go", "");
    };
    let ((held, _), (status, refused), ()) = within(async { tokio::join!(hold, write, release) }).await;
    assert_eq!(held, 200);
    assert_eq!((status, &refused["reason"]), (409, &json!("unclaimed")), "{refused}");
}
