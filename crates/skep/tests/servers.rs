//! MCP servers behind Skep, from outside: on the command line, in plans, and at a hub whose servers change. The server is
//! Skep itself.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStderr, Stdio},
};

use reqwest::Method;
use serde_json::{Value, json};
use support::User;

const TOKEN: &str = "a-token-for-this-test-only";

fn path(user: &User, name: &str) -> String {
    user.workspace().join(name).display().to_string()
}

/// A file that names these servers, each of them Skep itself.
fn config(user: &User, names: &[&str]) -> String {
    let entry =
        json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"], "env": { "SKEP_HOME": user.home() } });
    let servers: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), entry.clone())).collect();
    user.file("mcp.json", &json!({ "mcpServers": servers }).to_string());
    path(user, "mcp.json")
}

#[test]
fn tools_of_servers_are_listed_described_and_called_under_their_servers_name() {
    let user = User::new();
    let config = config(&user, &["inner"]);
    let listed = user.skep(&["tools", "--json", "--mcp-config", &config]).ok().stdout();
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    let find = |name: &str| listed.iter().find(|tool| tool["name"] == name).cloned().unwrap();
    let (own, inner) = (find("compose"), find("inner__compose"));
    assert_eq!((&own["description"], &own["inputSchema"]), (&inner["description"], &inner["inputSchema"]));

    let described = user.skep(&["tools", "inner__compose", "--mcp-config", &config]).ok().stdout();
    assert_eq!(serde_json::from_str::<Value>(&described).unwrap()["name"], "inner__compose");

    let call = ["call", "inner__compose", "--arg", "text=hi", "--mcp-config", &config];
    let answer: Value = serde_json::from_str(&user.skep(&call).ok().stdout()).unwrap();
    assert_eq!((&answer["status"], &answer["structuredContent"]), (&json!("ok"), &json!({ "text": "hi" })));

    let failed = user.skep(&["call", "inner__compose", "--mcp-config", &config]);
    assert_eq!(failed.code(), 1);
    assert!(failed.stdout().contains("give text, data, or both"), "{}", failed.stdout());
    let unknown = user.skep(&["call", "inner__compos", "--mcp-config", &config]);
    assert!(unknown.stderr().contains("did you mean \"inner__compose\"?"), "{}", unknown.stderr());
}

#[test]
fn servers_tells_who_answers_and_why_others_do_not() {
    let user = User::new();
    user.file(
        "mcp.json",
        &json!({ "mcpServers": {
        "inner": { "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"] },
        "broken": { "command": "/bin/sh", "args": ["-c", "echo no key >&2; exit 3"] },
    } })
        .to_string(),
    );
    let config = path(&user, "mcp.json");
    let all = user.skep(&["servers", "--mcp-config", &config]);
    assert_eq!(all.code(), 1);
    assert!(all.stdout().contains("✗ broken") && all.stdout().contains("no key"), "{}", all.stdout());
    assert!(all.stdout().contains("✓ inner") && all.stdout().contains("2026-07-28"), "{}", all.stdout());
    let one = user.skep(&["servers", "inner", "--json", "--mcp-config", &config]).ok().stdout();
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!((&one[0]["state"], &one[0]["starts"]), (&json!("running"), &json!(1)));
}

#[test]
fn a_plan_may_call_the_tools_of_servers() {
    let user = User::new();
    user.file(
        "settings.toml",
        &format!("[mcpServers.inner]\ncommand = {:?}\nargs = [\"mcp-stdio\"]\n", env!("CARGO_BIN_EXE_skep")),
    );
    user.file("plan.yaml", "tasks:\n  a: { tool: inner__compose, args: { text: hello } }\n  b: { tool: compose, args: { text: '{{ tasks.a.result.structuredContent.text }} again' } }\nreport: '{{ tasks.b.result.text }}'\n");
    let config = path(&user, "settings.toml");
    let report = user.skep(&["run", "plan.yaml", "--config", &config]).ok().stdout();
    assert!(report.contains("hello again"), "{report}");
}

/// A hub of its own on a free port; it ends with the value.
struct Hub {
    child: Child,
    url: String,
    stderr: BufReader<ChildStderr>,
}

impl Hub {
    fn start(user: &User, arguments: &[&str], token: Option<&str>) -> Hub {
        let mut command = user.command(&[&["serve", "--bind", "127.0.0.1:0"], arguments].concat());
        if let Some(token) = token {
            command.env("SKEP_TOKEN", token);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut hub = Hub { stderr: BufReader::new(child.stderr.take().unwrap()), child, url: String::new() };
        hub.url = hub.says("http://").rsplit(' ').next().unwrap().to_owned();
        hub
    }

    /// The next line of its standard error with this text in it.
    fn says(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "the hub ended without saying {text:?}");
        }
        line.trim().to_owned()
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.url));
        let answer = request.bearer_auth(TOKEN).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, &Value::Null).await.1
    }

    async fn names(&self) -> Vec<Value> {
        self.get("/servers").await["servers"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_hub_follows_the_file_that_names_its_servers() {
    let user = User::new();
    let path = config(&user, &["one"]);
    let mut hub = Hub::start(&user, &["--mcp-config", &path], None);
    let call = json!({ "text": "hi" });
    assert_eq!(hub.ask(Method::POST, "/tools/one__compose", &call).await.0, 200);
    let before = hub.get("/servers/one").await;
    assert_eq!((&before["state"], &before["starts"]), (&json!("running"), &json!(1)));

    config(&user, &["one", "two"]);
    hub.says("were read again");
    assert_eq!(hub.names().await, ["one", "two"]);
    assert_eq!(hub.ask(Method::POST, "/tools/two__compose", &call).await.0, 200);
    assert_eq!(hub.get("/servers/one").await["pids"], before["pids"], "what did not change goes on");

    user.file("mcp.json", "{");
    hub.says("stay as they were");
    assert_eq!(hub.names().await, ["one", "two"]);

    config(&user, &["two"]);
    hub.says("were read again");
    assert_eq!(hub.names().await, ["two"]);
    assert_eq!(hub.ask(Method::POST, "/tools/one__compose", &call).await.0, 404);

    let metrics = reqwest::get(format!("{}/metrics", hub.url)).await.unwrap().text().await.unwrap();
    let counted = r#"skep_upstream_calls_total{server="one",method="tools/call",outcome="ok"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn servers_are_changed_over_http_only_where_callers_need_a_token() {
    let user = User::new();
    let entry = json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"] });
    let open = Hub::start(&user, &[], None);
    let (status, refusal) = open.ask(Method::PUT, "/servers/inner", &entry).await;
    assert_eq!((status, &refusal["code"]), (403, &json!("token_needed")));
    assert_eq!(open.names().await, [] as [Value; 0]);
    drop(open);

    let hub = Hub::start(&user, &[], Some(TOKEN));
    assert_eq!(hub.ask(Method::PUT, "/servers/inner", &entry).await.0, 201);
    assert_eq!(hub.ask(Method::POST, "/tools/inner__compose", &json!({ "text": "hi" })).await.0, 200);
    let before = hub.get("/servers/inner").await;
    assert_eq!(hub.ask(Method::PUT, "/servers/inner", &entry).await.0, 200);
    assert_eq!(hub.get("/servers/inner").await["pids"], before["pids"], "the same again changes nothing");
    assert_eq!(hub.ask(Method::POST, "/servers/inner/restart", &Value::Null).await.0, 200);
    assert_eq!(hub.ask(Method::POST, "/tools/inner__compose", &json!({ "text": "hi" })).await.0, 200);
    assert_ne!(hub.get("/servers/inner").await["pids"], before["pids"]);
    let (status, refusal) = hub.ask(Method::PUT, "/servers/bad", &json!({ "comand": "x" })).await;
    assert_eq!(status, 422);
    assert!(refusal["message"].as_str().unwrap().contains("did you mean \"command\"?"), "{refusal}");
    assert_eq!(hub.ask(Method::DELETE, "/servers/inner", &Value::Null).await.0, 200);
    assert_eq!(hub.ask(Method::DELETE, "/servers/inner", &Value::Null).await.0, 404);
    assert_eq!(hub.names().await, [] as [Value; 0]);
}

#[tokio::test]
async fn the_one_server_without_a_prefix_keeps_its_names() {
    let user = User::new();
    let path = config(&user, &["inner"]);
    let hub = Hub::start(&user, &["--mcp-config", &path, "--no-prefix"], None);
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    } } });
    let request = reqwest::Client::new().post(format!("{}/mcp", hub.url)).json(&list);
    let headers =
        [("accept", "application/json"), ("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
    let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"compose") && !names.iter().any(|name| name.contains("__")), "{names:?}");

    config(&user, &["inner", "another"]);
    let several = user.skep(&["serve", "--bind", "127.0.0.1:0", "--mcp-config", &path, "--no-prefix"]);
    assert!(several.code() != 0 && several.stderr().contains("exactly one MCP server"), "{}", several.stderr());
}

#[test]
fn a_prompt_lists_the_tools_and_what_a_model_writes_then_is_called() {
    let user = User::new();
    let config = config(&user, &["inner"]);
    let prompt = user.skep(&["prompt", "inner", "--mcp-config", &config]).ok().stdout();
    assert!(prompt.contains("## Server: inner") && prompt.contains("### compose"), "{prompt}");
    assert!(!prompt.contains("## Server: skep"), "{prompt}");

    let block = |server: &str, arguments: &str| {
        format!(
            "<use_mcp_tool><server_name>{server}</server_name><tool_name>compose</tool_name><arguments>{arguments}</arguments></use_mcp_tool>"
        )
    };
    user.file(
        "said.txt",
        &format!("First {}, then {}.", block("inner", r#"{"text": "a"}"#), block("skep", r#"{"text": "b"}"#)),
    );
    let call = ["call", "--use-mcp-tool", "said.txt", "--mcp-config", &config];
    let answers = user.skep(&call).ok().json();
    assert_eq!((&answers[0]["structuredContent"]["text"], &answers[1]["text"]), (&json!("a"), &json!("b")));
    user.file("said.txt", &format!("{} {}", block("inner", "{"), block("inner", r#"{"text": "c"}"#)));
    let said = user.skep(&call);
    assert_eq!(said.code(), 1);
    assert_eq!(said.json()[0]["code"], "malformed");
    assert_eq!(said.json()[1]["status"], "ok", "what is wrong costs nothing else");
}

#[tokio::test]
async fn long_lists_of_tools_may_be_hidden_behind_a_search() {
    let user = User::new();
    config(&user, &["inner"]);
    user.file("settings.toml", "[tools]\nsearch = true\n");
    let arguments = ["--mcp-config", &path(&user, "mcp.json"), "--config", &path(&user, "settings.toml")];
    let hub = Hub::start(&user, &arguments, None);
    let mcp = async |method: &str, mut params: Value| -> Value {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let name = params["name"].as_str().map(str::to_owned);
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let request = reqwest::Client::new().post(format!("{}/mcp", hub.url)).json(&body);
        let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
        let request = name.iter().fold(request, |request, name| request.header("mcp-name", name));
        request.send().await.unwrap().json::<Value>().await.unwrap()["result"].clone()
    };
    let list = mcp("tools/list", json!({})).await;
    let names: Vec<&str> =
        list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"search_tools") && !names.iter().any(|name| name.contains("__")), "{names:?}");
    let query =
        json!({ "name": "search_tools", "arguments": { "query": "put texts together with a template", "limit": 1 } });
    let found = mcp("tools/call", query).await["structuredContent"]["tools"][0].clone();
    assert_eq!(found["name"], "inner__compose");
    let called = mcp("tools/call", json!({ "name": "inner__compose", "arguments": { "text": "hi" } })).await;
    assert_eq!(called["structuredContent"]["text"], "hi");
}
