//! Calls that outlive their request, and the hub that took them: a real `skep serve`, killed for real.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Served, User};

const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of an older revision. One tool never answers, and nobody says whether it may be called again; the other only
/// looks whether there is a file, and does not answer before.
const HANGING: &str = r#"
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    result = None
    if method == "initialize":
        result = {"protocolVersion": "2025-06-18", "serverInfo": {"name": "h", "version": "1"}, "capabilities": {"tools": {}}}
    elif method == "tools/list":
        schema = {"type": "object"}
        look = {"name": "look", "inputSchema": schema, "annotations": {"readOnlyHint": True}}
        result = {"tools": [{"name": "hang", "inputSchema": schema}, look]}
    elif method == "tools/call" and message["params"]["name"] == "look" and os.path.exists("two"):
        result = {"content": [{"type": "text", "text": "it is there"}]}
    if result is not None:
        print(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}), flush=True)
"#;

/// A hub on a free port; it is killed when the value goes.
struct Hub {
    served: Served,
    client: reqwest::Client,
}

impl Hub {
    fn start(user: &User) -> Hub {
        let arguments = ["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--mcp-config", "mcp.json"];
        let served = Served::start(user.command(&arguments).env("SKEP_TOOLS_TIMEOUT", "2m"));
        Hub { served, client: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.served.kill();
    }

    async fn post(&self, method: &str, mut params: Value) -> reqwest::Response {
        let name = params.get("name").or(params.get("taskId")).and_then(Value::as_str).map(str::to_owned);
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": { "extensions": { EXTENSION: {} } },
        });
        let mut request = self.client.post(format!("{}/mcp", self.served.url));
        request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
        if let Some(name) = name {
            request = request.header("mcp-name", name);
        }
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        request.body(body.to_string()).send().await.unwrap()
    }

    /// The answer, whether it comes alone or, from a slow machine, as the end of a stream.
    async fn ask(&self, method: &str, params: Value) -> Value {
        let text = self.post(method, params).await.text().await.unwrap();
        let answer = text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&text);
        serde_json::from_str(answer).unwrap()
    }

    /// A call that becomes a task.
    async fn begin(&self, tool: &str, arguments: Value) -> String {
        let answer = self.ask("tools/call", json!({ "name": tool, "arguments": arguments })).await;
        assert_eq!(answer["result"]["resultType"], "task", "{answer}");
        answer["result"]["taskId"].as_str().unwrap().to_owned()
    }

    async fn get(&self, id: &str) -> Value {
        let mut answer = self.ask("tasks/get", json!({ "taskId": id })).await;
        answer["result"].take()
    }

    /// Look at a task until it is so.
    async fn until(&self, id: &str, status: &str) -> Value {
        let began = Instant::now();
        loop {
            let task = self.get(id).await;
            if task["status"] == status {
                return task;
            }
            assert!(began.elapsed() < PATIENCE, "{task}");
            tokio::time::sleep(Duration::from_millis(50)).await; // as a client is told to
        }
    }
}

fn user() -> User {
    let user = User::new();
    let hanging = json!({ "command": "python3", "args": ["-c", HANGING] });
    user.file("mcp.json", &json!({ "mcpServers": { "other": hanging } }).to_string());
    user
}

/// A command that ends when the user has put this file into the workspace.
fn wait_for(file: &str) -> Value {
    json!({ "command": format!("until [ -e {file} ]; do sleep 0.1; done; echo {file} is there") })
}

/// Whether there is a process with this word in its command line.
fn runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
}

#[tokio::test]
async fn after_kill_9_tasks_tell_the_truth() {
    let user = user();
    let hub = Hub::start(&user);
    let discovered = hub.ask("server/discover", json!({})).await;
    assert_eq!(discovered["result"]["capabilities"]["extensions"], json!({ EXTENSION: {} }));
    // The server has to start before it lists anything.
    while !hub.ask("tools/list", json!({})).await.to_string().contains("other__look") {}
    let done = hub.begin("bash", wait_for("one")).await;
    user.file("one", "");
    let finished = hub.until(&done, "completed").await;
    assert_eq!(finished["result"]["structuredContent"]["stdout"], "one is there\n");
    // In a sandbox of its own a command may run again; of a server's tool nobody said so.
    let safe = hub.begin("bash", wait_for("two")).await;
    let unsafe_ = hub.begin("other__hang", json!({})).await;
    let looks = hub.begin("other__look", json!({})).await;
    hub.kill();

    user.file("two", "");
    let hub = Hub::start(&user);
    let kept = hub.get(&done).await;
    assert_eq!((&kept["status"], &kept["result"]), (&json!("completed"), &finished["result"]));
    assert_eq!(kept["createdAt"], finished["createdAt"]);
    let failed = hub.until(&unsafe_, "failed").await;
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("the hub was restarted while the call ran"), "{message}");
    let again = hub.until(&safe, "completed").await;
    assert_eq!(again["result"]["structuredContent"]["stdout"], "two is there\n");
    let looked = hub.until(&looks, "completed").await;
    assert_eq!(looked["result"]["content"][0]["text"], "it is there");
    let unknown = hub.ask("tasks/get", json!({ "taskId": "0".repeat(32) })).await;
    assert_eq!(unknown["error"]["code"], -32602);
}

#[tokio::test]
async fn a_listener_hears_how_a_task_ends() {
    let user = user();
    let hub = Hub::start(&user);
    let id = hub.begin("bash", wait_for("go")).await;
    let mut stream = hub.post("subscriptions/listen", json!({ "notifications": { "taskIds": [id] } })).await;
    let mut heard = String::new();
    let mut statuses = Vec::new();
    while statuses.last().map(String::as_str) != Some("completed") {
        let chunk = tokio::time::timeout(PATIENCE, stream.chunk()).await.unwrap().unwrap();
        heard += std::str::from_utf8(&chunk.expect("the stream is open")).unwrap();
        while let Some((event, rest)) = heard.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let message: Value = data.map_or(Value::Null, |data| serde_json::from_str(data).unwrap());
            if message["method"] == "notifications/tasks" {
                assert_eq!(message["params"]["taskId"], json!(id));
                statuses.push(message["params"]["status"].as_str().unwrap().to_owned());
                user.file("go", "");
                if message["params"]["status"] == "completed" {
                    assert_eq!(message["params"]["result"]["structuredContent"]["stdout"], "go is there\n");
                }
            }
            heard = rest.to_owned();
        }
    }
    assert_eq!(statuses, ["working", "completed"]);
}

#[tokio::test]
async fn cancelling_a_task_ends_its_sandbox() {
    let user = user();
    let hub = Hub::start(&user);
    let time = format!("99.0{}", std::process::id());
    let id = hub.begin("bash", json!({ "command": format!("sleep {time}") })).await;
    let began = Instant::now();
    while !runs(&time) {
        assert!(began.elapsed() < PATIENCE, "it never ran");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let acknowledged = hub.ask("tasks/cancel", json!({ "taskId": id })).await;
    assert_eq!(acknowledged["result"]["resultType"], "complete");
    assert_eq!(hub.get(&id).await["status"], "cancelled");
    while runs(&time) {
        assert!(began.elapsed() < PATIENCE, "it still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
