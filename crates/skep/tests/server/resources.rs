//! What agents share, as clients of the Model Context Protocol read and watch it.

use std::sync::Arc;

use serde_json::{Value, json};
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    file::NewRevision,
    memory::NewEntry,
    path::FilePath,
    policy::{Actor, Permit},
    step::{Level, NewStep},
};
use skep_hub::server::Options;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{
    mcp::message,
    support::{Hub, within},
};

/// A hub with a store, which this test writes to as well.
struct Shared {
    hub: Hub,
    app: App,
    /// The right to change what is in the workspace of task `t`.
    permit: Permit,
    _directory: tempfile::TempDir,
}

impl Shared {
    async fn new() -> Shared {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", directory.path().join("hub.db").display());
        let app = App::new(Db::open(&address, Limits::default()).await.unwrap());
        let permit: Permit = Actor::operator("local", Namespace::team("main")).permit().unwrap();
        let store = Some((app.clone(), permit.clone()));
        let hub = Hub::start_stored(Options::default(), Vec::new(), store).await;
        Shared { hub, app, permit: permit.within(Some("t"), Some("coder")).unwrap(), _directory: directory }
    }

    async fn write(&self, path: &str, bytes: &[u8]) {
        let (path, bytes) = (FilePath::new(path).unwrap(), Arc::from(bytes));
        self.app.write_file(&self.permit, NewRevision { path, bytes, base: None, token: None }).await.unwrap();
    }

    async fn log(&self, message: &str) {
        let step = NewStep { level: Level::Info, message: message.to_owned(), data: None };
        self.app.log_step(&self.permit, step).await.unwrap();
    }

    async fn client(&self) -> Client {
        Client(BufReader::new(TcpStream::connect(self.hub.tcp).await.unwrap()))
    }
}

/// A client on the listener for lines.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn send(&mut self, message: &Value) {
        self.0.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        let mut line = String::new();
        within(self.0.read_line(&mut line)).await.unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.send(&message(1, method, params)).await;
        self.next().await
    }

    /// The contents of a resource.
    async fn read(&mut self, uri: &str) -> Value {
        let mut answer = self.ask("resources/read", json!({ "uri": uri })).await;
        answer["result"]["contents"][0].take()
    }

    /// The same, of one that is JSON.
    async fn json(&mut self, uri: &str) -> Value {
        let contents = self.read(uri).await;
        assert_eq!((&contents["uri"], &contents["mimeType"]), (&json!(uri), &json!("application/json")));
        serde_json::from_str(contents["text"].as_str().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn what_agents_share_is_read_at_the_uris_of_the_templates() {
    let shared = Shared::new().await;
    let mut client = shared.client().await;
    let listed = client.ask("resources/templates/list", json!({})).await;
    let templates = listed["result"]["resourceTemplates"].as_array().unwrap();
    let uris: Vec<&str> = templates.iter().map(|template| template["uriTemplate"].as_str().unwrap()).collect();
    let expected = [
        "agents://{agentId}/status",
        "collaboration://{taskId}",
        "memory://{swarmId}/{+key}",
        "tasks://{taskId}/files",
        "tasks://{taskId}/logs",
        "tasks://{taskId}/state",
        "workspace://{taskId}/{+path}",
    ];
    assert_eq!(uris, expected);

    shared.write("src/a b.txt", b"hello").await;
    shared.write("b.bin", &[0xff, 0]).await;
    shared.log("began").await;
    shared.app.store_memory(&shared.permit, NewEntry::new("plan/one", json!({ "of": 7 }))).await.unwrap();
    assert_eq!(client.read("workspace://t/src/a%20b.txt").await["text"], "hello");
    assert_eq!(client.read("workspace://t/b.bin").await["blob"], "/wA=");
    let files = client.json("tasks://t/files").await;
    assert_eq!((&files["files"][0]["path"], &files["files"][1]["revision"]), (&json!("b.bin"), &json!(1)));
    let logs = client.json("tasks://t/logs").await;
    let step = &logs["steps"][0];
    assert_eq!((&step["sequence"], &step["message"], &step["agent_id"]), (&json!(1), &json!("began"), &json!("coder")));
    assert_eq!(client.json("tasks://t/state").await["last_step"]["message"], "began");
    assert_eq!(client.json("memory://t/plan/one").await["value"], json!({ "of": 7 }));
    assert_eq!(client.json("collaboration://t").await["members"], json!([]));
}

#[tokio::test]
async fn nothing_of_one_task_is_read_by_the_name_of_another() {
    let shared = Shared::new().await;
    shared.write("a.txt", b"hello").await;
    shared.log("began").await;
    let mut client = shared.client().await;
    assert_eq!(client.json("tasks://other/files").await["files"], json!([]));
    assert_eq!(client.json("tasks://other/logs").await["steps"], json!([]));
    for uri in ["workspace://other/a.txt", "workspace://t/../other/a.txt", "memory://t/none", "nothing://t"] {
        let answer = client.ask("resources/read", json!({ "uri": uri })).await;
        assert_eq!(answer["error"]["data"]["uri"], uri, "{answer}");
    }
}

#[tokio::test]
async fn whoever_watches_hears_of_changes_in_either_era() {
    let shared = Shared::new().await;
    let uri = "workspace://t/a.txt";
    let told = |message: &Value| (message["method"].clone(), message["params"]["uri"].clone());
    let updated = (json!("notifications/resources/updated"), json!(uri));

    let mut session = shared.client().await;
    let info = json!({ "name": "test", "version": "1" });
    let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info });
    session.ask("initialize", hello).await;
    session.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
    assert_eq!(session.ask("resources/subscribe", json!({ "uri": uri })).await["result"], json!({}));

    let mut stateless = shared.client().await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": info,
    });
    let listen = json!({ "notifications": { "resourceSubscriptions": [uri] }, "_meta": meta });
    let acknowledged = stateless.ask("subscriptions/listen", listen).await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged", "{acknowledged}");

    shared.write("b.txt", b"another").await;
    shared.log("another").await;
    shared.write("a.txt", b"one").await;
    assert_eq!(told(&session.next().await), updated);
    assert_eq!(told(&stateless.next().await), updated);
    assert_eq!(session.read(uri).await["text"], "one");

    session.ask("resources/unsubscribe", json!({ "uri": uri })).await;
    shared.write("a.txt", b"two").await;
    assert_eq!(told(&stateless.next().await), updated);
    assert_eq!(session.read(uri).await["text"], "two", "and nothing before that answer");
}

#[tokio::test]
async fn an_agents_status_is_where_it_has_joined_and_whether_it_is_present() {
    let shared = Shared::new().await;
    let operator: Permit = Actor::operator("local", Namespace::team("main")).permit().unwrap();
    for task in [Some("t"), None] {
        let permit = operator.within(task, Some("coder")).unwrap();
        shared.app.join_workspace(&permit, Some("codes".into()), std::time::Duration::from_secs(60)).await.unwrap();
    }
    let mut client = shared.client().await;
    let read = client.ask("resources/read", json!({ "uri": "agents://coder/status" })).await;
    let text = read["result"]["contents"][0]["text"].as_str().unwrap_or_else(|| panic!("{read}"));
    let status: Value = serde_json::from_str(text).unwrap();
    assert_eq!((&status["agent_id"], &status["is_present"]), (&json!("coder"), &json!(true)));
    let tasks: Vec<&Value> = status["workspaces"].as_array().unwrap().iter().map(|one| &one["task_id"]).collect();
    assert_eq!(tasks, [&json!(null), &json!("t")]);
    let nobody = client.ask("resources/read", json!({ "uri": "agents://nobody/status" })).await;
    assert!(nobody["error"]["message"].as_str().unwrap().contains("no such resource"), "{nobody}");
    let watched = client.ask("resources/subscribe", json!({ "uri": "agents://coder/status" })).await;
    assert!(watched["error"]["message"].as_str().unwrap().contains("cannot be watched"), "{watched}");
}
