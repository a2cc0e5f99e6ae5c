//! No answer ever reaches another caller: everybody at once, at every listener, in both eras, with the same ids.

use std::collections::HashMap;

use futures_util::future::{FutureExt as _, join_all};
use serde_json::{Value, json};

use crate::wire::{Http, Hub, call, initialize, request, stateless};

/// Callers of each kind, and calls of each.
const CALLERS: usize = 4;
const CALLS: usize = 40;

/// A server of an older revision that answers in no order, also those who have withdrawn.
const SHUFFLING: &str = r#"
import json, random, sys, threading
lock, random = threading.Lock(), random.Random(7)
def say(*messages):
    with lock:
        for message in messages: print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message.get("method"), message.get("id"), message.get("params", {})
    if id is None: continue
    if method == "initialize":
        say({"id": id, "result": {"protocolVersion": "2025-06-18", "serverInfo": {"name": "s", "version": "1"}, "capabilities": {"tools": {}}}})
    elif method == "tools/list":
        say({"id": id, "result": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}})
    elif method == "tools/call":
        text, token = params["arguments"]["text"], params.get("_meta", {}).get("progressToken")
        told = [{"method": "notifications/progress", "params": {"progressToken": token, "progress": 1, "message": text}}] if token is not None else []
        answer = {"id": id, "result": {"content": [{"type": "text", "text": text}]}}
        threading.Timer(random.uniform(0, 0.05), say, told + [answer]).start()
    else: say({"id": id, "error": {"code": -32601, "message": "unknown"}})
"#;

/// What a caller has asked, and what it may hear.
struct Caller {
    name: String,
    calls: Vec<Value>,
    /// What each id and each progress token belongs to.
    nonces: HashMap<String, String>,
}

/// Who withdraws, and who leaves.
fn is_cancelled(n: usize) -> bool {
    n % 5 == 2
}

fn is_left(n: usize) -> bool {
    n % 7 == 3
}

impl Caller {
    /// All callers have the same ids and progress tokens: numbers, and strings that look like them.
    fn new(name: String) -> Caller {
        let (mut calls, mut nonces) = (Vec::new(), HashMap::new());
        for n in 0..CALLS {
            let id = if n % 2 == 0 { json!(n / 2) } else { json!((n / 2).to_string()) };
            let nonce = format!("<{name}/{n}>");
            let tool = ["shuffling__echo", "inner__compose", "compose"][n % 3];
            let mut call = call(id.clone(), tool, json!({ "text": nonce }));
            call["params"]["_meta"] = json!({ "progressToken": id });
            nonces.insert(id.to_string(), nonce);
            calls.push(call);
        }
        Caller { name, calls, nonces }
    }

    fn cancel(&self, n: usize) -> Value {
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": self.calls[n]["id"] } })
    }

    /// Check that a message is this caller's and about what it says; gives the number of the call that it answers.
    fn hears(&self, message: &Value) -> Option<usize> {
        let about = if message["method"] == "notifications/progress" {
            &message["params"]["progressToken"]
        } else {
            assert!(message.get("method").is_none(), "{}: {message}", self.name);
            &message["id"]
        };
        let own = self.nonces.get(&about.to_string()).unwrap_or_else(|| panic!("{} hears {message}", self.name));
        let text = message.to_string();
        let heard = text.split('<').skip(1).map(|rest| format!("<{}>", rest.split('>').next().unwrap()));
        heard.for_each(|nonce| assert_eq!(&nonce, own, "{} hears {message}", self.name));
        message.get("id")?;
        let n = self.calls.iter().position(|call| call["id"] == *about).unwrap();
        assert!(text.contains(own.as_str()) || is_cancelled(n), "{}: {message}", self.name);
        Some(n)
    }

    /// Check that all were answered, each once, but for those that were withdrawn or left.
    fn is_content(&self, mut answered: Vec<usize>, may_be_left: bool) {
        answered.sort_unstable();
        let once = answered.windows(2).all(|pair| pair[0] != pair[1]);
        let missing: Vec<usize> = (0..CALLS)
            .filter(|n| !(answered.contains(n) || is_cancelled(*n) || (may_be_left && is_left(*n))))
            .collect();
        assert!(once && missing.is_empty(), "{}: {answered:?} without {missing:?}", self.name);
    }
}

/// All calls at once on one connection, in one of the eras.
async fn on_lines(hub: &Hub, is_stateless: bool, caller: Caller) {
    let mut lines = hub.lines().await;
    if !is_stateless {
        lines.ask(initialize("2025-06-18")).await;
    }
    let mut text = String::new();
    for (n, call) in caller.calls.iter().enumerate() {
        let mut call = call.clone();
        if is_stateless {
            let token = call["params"]["_meta"]["progressToken"].take();
            call = stateless(call, json!({})).0;
            call["params"]["_meta"]["progressToken"] = token;
        }
        text += &format!("{call}\n");
        if is_cancelled(n) {
            text += &format!("{}\n", caller.cancel(n));
        }
    }
    lines.write(&text).await.unwrap();
    let (mut answered, wanted) = (Vec::new(), (0..CALLS).filter(|n| !is_cancelled(*n)).count());
    while answered.iter().filter(|n| !is_cancelled(**n)).count() < wanted {
        answered.extend(caller.hears(&lines.next().await.unwrap()));
    }
    // Whatever comes late would come before this.
    lines
        .write(&format!(
            "{}\n",
            request("last", "tools/call", json!({ "name": "compose", "arguments": { "text": "" } }))
        ))
        .await
        .unwrap();
    if is_stateless {
        drop(lines);
    } else {
        loop {
            let message = lines.next().await.unwrap();
            if message["id"] == "last" {
                break;
            }
            answered.extend(caller.hears(&message));
        }
    }
    caller.is_content(answered, false);
}

/// A line that leaves in the middle: nobody else may be given what it asked.
async fn leaves(hub: &Hub, caller: Caller) {
    let mut lines = hub.lines().await;
    let text: String = caller.calls.iter().map(|call| format!("{call}\n")).collect();
    lines.write(&text).await.unwrap();
    caller.hears(&lines.next().await.unwrap());
}

/// What comes for one request over HTTP, as JSON or as a stream.
async fn messages(connection: &mut Http) -> Vec<Value> {
    let Some(head) = connection.head().await else { return Vec::new() };
    if head.header("content-type") != "text/event-stream" {
        let body = connection.body(&head).await;
        return if body.is_empty() { Vec::new() } else { vec![serde_json::from_str(&body).unwrap()] };
    }
    let mut all = Vec::new();
    while let Some(data) = connection.event().await {
        if let Ok(message) = serde_json::from_str::<Value>(&data) {
            let is_last = message.get("id").is_some();
            all.push(message);
            if is_last {
                break;
            }
        }
    }
    all
}

/// All calls at once, each on a connection of its own: stateless, or of one session.
async fn over_http(hub: &Hub, is_stateless: bool, caller: Caller) {
    let session = if is_stateless { None } else { Some(hub.session(&[]).await) };
    let calls = caller.calls.iter().enumerate().map(async |(n, call)| {
        let (mut call, mut headers) = (call.clone(), Vec::new());
        if is_stateless {
            let token = call["params"]["_meta"]["progressToken"].take();
            (call, headers) = stateless(call, json!({}));
            call["params"]["_meta"]["progressToken"] = token;
        }
        headers.extend(session.as_ref().map(|id| ("mcp-session-id", id.clone())));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut connection = hub.connect().await;
        connection.send("POST", "/mcp", &headers, &call.to_string()).await.unwrap();
        if is_left(n) {
            return None;
        }
        if is_cancelled(n) && !is_stateless {
            hub.post("/mcp", &headers, caller.cancel(n)).await;
        }
        let mut answered = None;
        for message in messages(&mut connection).await {
            answered = caller.hears(&message).or(answered);
        }
        answered
    });
    let answered = join_all(calls).await.into_iter().flatten().collect();
    caller.is_content(answered, true);
}

/// The oldest transport: all answers on one stream.
async fn on_a_stream(hub: &Hub, caller: Caller) {
    let mut stream = hub.connect().await;
    stream.send("GET", "/sse", &[], "").await.unwrap();
    stream.head().await.unwrap();
    let address = stream.event().await.unwrap();
    hub.post(&address, &[], initialize("2024-11-05")).await;
    stream.event().await.unwrap();
    let posting = join_all(caller.calls.iter().enumerate().map(async |(n, call)| {
        assert_eq!(hub.post(&address, &[], call).await.status, 202);
        if is_cancelled(n) {
            hub.post(&address, &[], caller.cancel(n)).await;
        }
    }));
    let reading = async {
        let mut answered = Vec::new();
        while (0..CALLS).any(|n| !is_cancelled(n) && !answered.contains(&n)) {
            answered.extend(caller.hears(&serde_json::from_str(&stream.event().await.unwrap()).unwrap()));
        }
        answered
    };
    let (_, answered) = tokio::join!(posting, reading);
    caller.is_content(answered, false);
}

/// Callers that speak no MCP.
async fn as_rest(hub: &Hub, caller: Caller) {
    let calls = caller.calls.iter().enumerate().map(async |(n, call)| {
        let (tool, arguments) = (call["params"]["name"].as_str().unwrap(), &call["params"]["arguments"]);
        let (path, body) = match n % 2 {
            0 => ("/process".to_owned(), json!({ "tool": tool, "args": arguments })),
            _ => (format!("/tools/{tool}"), arguments.clone()),
        };
        let mut connection = hub.connect().await;
        connection.send("POST", &path, &[], &body.to_string()).await.unwrap();
        if !is_left(n) {
            let answer = connection.answer().await.unwrap().json();
            assert_eq!(
                answer["text"].as_str().map(|text| text.contains(&*caller.nonces[&call["id"].to_string()])),
                Some(true),
                "{answer}"
            );
        }
    });
    join_all(calls).await;
}

#[tokio::test]
async fn every_answer_reaches_the_caller_that_asked_and_nobody_else() {
    let settings = format!(
        "[serve]\nrequests_per_second_max = 0\n[mcpServers.shuffling]\ncommand = 'python3'\nargs = ['-c', '''{SHUFFLING}''']\n\
         [mcpServers.inner]\ncommand = '{}'\nargs = ['mcp-stdio']\n",
        env!("CARGO_BIN_EXE_skep")
    );
    let hub = Hub::start(&settings);
    let callers = (0..CALLERS).flat_map(|n| {
        let caller = |kind: &str| Caller::new(format!("{kind}{n}"));
        [
            on_lines(&hub, false, caller("lines")).boxed_local(),
            on_lines(&hub, true, caller("stateless lines")).boxed_local(),
            leaves(&hub, caller("leaving")).boxed_local(),
            over_http(&hub, false, caller("session")).boxed_local(),
            over_http(&hub, true, caller("stateless")).boxed_local(),
            on_a_stream(&hub, caller("stream")).boxed_local(),
            as_rest(&hub, caller("rest")).boxed_local(),
        ]
    });
    join_all(callers).await;
}
