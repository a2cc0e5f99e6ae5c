//! What a caller hears who lacks a right: the same, whether or not what it asks about exists.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    policy::{Actor, Rights},
};
use skep_mcp::server::{
    Principal, lines,
    tasks::{NewTask, TaskStore as _},
};
use skep_tools::{
    error::ToolError,
    tool::{Annotations, BuiltIn, Tool},
    workspace::{Context, Dir},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::{
    Listeners, Options, Parts, Token,
    guard::Admits,
    http::{self, Shared},
    mcp,
    tasks::McpTaskStore,
    tokens::Tokens,
};
use crate::{
    config::servers::{Command, Transport, Upstream},
    hub::{
        calls::{self, Calls, log::Whose},
        catalogue::Catalogue,
        principals,
    },
};

/// The name of a tool and of an MCP server that there are, and one that nothing has.
const THERE: &str = "there";
const MISSING: &str = "gone";
const TOKEN: &str = "correct-horse-battery-staple";

struct There;

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
struct Nothing {}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Done {
    done: bool,
}

impl BuiltIn for There {
    const NAME: &'static str = THERE;
    const DESCRIPTION: &'static str = "";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Nothing;
    type Answer = Done;

    async fn call(&self, _: &Context, _: Nothing) -> Result<Done, ToolError> {
        Ok(Done { done: true })
    }
}

/// A hub with one tool and one MCP server, which cannot be started, and a caller with these rights.
struct Fixture {
    hub: Arc<Shared>,
    router: Router,
    actor: Arc<Actor>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn new(rights: Rights) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let dir = |name| Dir::create(&directory.path().join(name)).unwrap();
        let catalogue = Catalogue::new([Tool::new(There)]);
        let calls = Calls::new(catalogue, dir("workspace"), dir("outputs"), calls::Limits::default());
        let parts = Parts { name: "test".into(), calls: Arc::new(calls), store: None, probes: Vec::new() };
        let bind = vec!["127.0.0.1:0".to_owned()];
        let options = Options { bind, token: Token::new("another-token-of-the-hub").ok(), ..Options::default() };
        let hub = Listeners::open(options, parts).await.unwrap().hub;
        let program = "/nothing/here".to_owned();
        let command = Command { program, args: Vec::new(), env: BTreeMap::new(), cwd: None };
        hub.mcp.set(vec![Upstream::new(THERE, Transport::Stdio(command))]).await.unwrap();
        let actor = Actor::new("eve", Namespace::team("main"), rights);
        let mut tokens = Tokens::default();
        tokens.add(Token::new(TOKEN).unwrap(), Arc::clone(&actor)).unwrap();
        hub.guard.set_tokens(tokens).unwrap();
        let router = http::router(Arc::clone(&hub), Admits::Tokens);
        Fixture { hub, router, actor, _directory: directory }
    }

    async fn http(&self, method: &str, path: &str, body: &Value) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header("authorization", format!("Bearer {TOKEN}"));
        let request = request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap();
        let response = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn mcp(&self, method: &str, params: Value) -> Value {
        let (mut caller, stream) = duplex(1 << 20);
        let (input, output) = tokio::io::split(stream);
        let options = lines::Options {
            principal: principals::carried(&self.actor),
            unannounced: Some(mcp::UNANNOUNCED),
            ..lines::Options::default()
        };
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        caller.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        caller.shutdown().await.unwrap();
        let mut said = String::new();
        let serving = lines::serve(&self.hub.mcp.server, input, output, options);
        let (_, read) = tokio::join!(serving, caller.read_to_string(&mut said));
        read.unwrap();
        serde_json::from_str(said.lines().next().unwrap_or_else(|| panic!("no answer to {method}"))).unwrap()
    }
}

/// Requests over HTTP about something of this name.
fn requests(name: &str) -> Vec<(&'static str, String, Value)> {
    let entry = json!({ "command": "/nothing/here" });
    vec![
        ("POST", "/process".to_owned(), json!({ "tool": name, "args": {} })),
        ("POST", format!("/tools/{name}"), json!({})),
        ("POST", format!("/tools/{name}__tool"), json!({})),
        ("GET", format!("/tools/{name}"), json!({})),
        ("GET", format!("/problems/{name}"), json!({})),
        ("GET", format!("/servers/{name}"), json!({})),
        ("PUT", format!("/servers/{name}"), entry),
        ("DELETE", format!("/servers/{name}"), json!({})),
        ("POST", format!("/servers/{name}/restart"), json!({})),
        ("GET", format!("/api/v1/workspaces/{name}/files"), json!({})),
        ("GET", format!("/api/v1/workspaces/t/files/{name}"), json!({})),
        ("PUT", format!("/api/v1/workspaces/t/files/{name}"), json!({})),
        ("DELETE", format!("/api/v1/workspaces/t/claims/{name}"), json!({})),
        ("GET", format!("/api/v1/memory/{name}"), json!({})),
        ("POST", format!("/api/v1/workspaces/{name}/steps"), json!({})),
        ("GET", format!("/api/v1/tasks/{name}"), json!({})),
        ("POST", format!("/api/v1/tasks/{name}/cancel"), json!({})),
        ("POST", format!("/api/v1/queues/{name}/next"), json!({})),
    ]
}

/// Requests over MCP about something of this name.
fn messages(name: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("tools/call", json!({ "name": name, "arguments": {} })),
        ("tools/call", json!({ "name": format!("{name}__tool"), "arguments": {} })),
        ("prompts/get", json!({ "name": format!("{name}__prompt") })),
        (
            "completion/complete",
            json!({
                "ref": { "type": "ref/prompt", "name": format!("{name}__prompt") },
                "argument": { "name": "a", "value": "" },
            }),
        ),
        ("resources/read", json!({ "uri": format!("test://{name}") })),
    ]
}

#[tokio::test]
async fn who_has_no_right_is_refused_over_http_whether_or_not_the_thing_exists() {
    let hub = Fixture::new(Rights::NONE).await;
    for ((method, path, body), (_, missing_path, missing_body)) in requests(THERE).into_iter().zip(requests(MISSING)) {
        let (there, missing) =
            (hub.http(method, &path, &body).await, hub.http(method, &missing_path, &missing_body).await);
        assert_eq!(there.0, StatusCode::FORBIDDEN, "{method} {path}: {}", there.1);
        assert_eq!(there, (missing.0, missing.1.replace(MISSING, THERE)), "{method} {path}");
    }
    let (records, _) = hub.hub.calls.log.after(0, &Whose::seen_by(principals::local()).unwrap());
    let denied: Vec<&str> =
        records.iter().filter(|record| record.outcome == "denied").map(|record| &*record.tool).collect();
    assert!(denied.contains(&THERE) && denied.contains(&"file_write") && denied.contains(&"log_step"), "{denied:?}");
    for path in ["/", "/tools", "/servers", "/calls", "/api/v1/events", "/ws", "/health", "/metrics"] {
        let (status, said) = hub.http("GET", path, &json!({})).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {said}");
        assert!(said.contains("you may not read here"), "{path}: {said}");
    }
}

#[tokio::test]
async fn who_has_no_right_is_refused_over_mcp_whether_or_not_the_thing_exists() {
    let hub = Fixture::new(Rights::NONE).await;
    for ((method, params), (_, missing)) in messages(THERE).into_iter().zip(messages(MISSING)) {
        let (there, missing) = (hub.mcp(method, params).await, hub.mcp(method, missing).await);
        assert!(there["error"]["message"].is_string(), "{method}: {there}");
        assert_eq!(there.to_string(), missing.to_string().replace(MISSING, THERE), "{method}");
    }
    assert_eq!(hub.mcp("tools/list", json!({})).await["result"]["tools"], json!([]), "it may not see them either");
}

#[tokio::test]
async fn each_right_allows_what_it_is_for_and_nothing_else() {
    let status = async |rights: Rights, method: &str, path: &str| {
        let hub = Fixture::new(rights).await;
        hub.http(method, path, &json!({})).await.0.as_u16()
    };
    let (reads, calls) = (Rights { read: true, ..Rights::NONE }, Rights { call: true, ..Rights::NONE });
    for (rights, show, call, change, restart) in [
        (Rights::NONE, 403, 403, 403, 403),
        (reads, 200, 403, 403, 403),
        (calls, 403, 200, 403, 403),
        (Rights::MEMBER, 200, 200, 403, 403),
        (Rights::OPERATOR, 200, 200, 200, 200),
    ] {
        assert_eq!(status(rights, "GET", "/tools/there").await, show, "{rights:?}");
        assert_eq!(status(rights, "GET", "/servers/there").await, show, "{rights:?}");
        assert_eq!(status(rights, "POST", "/tools/there").await, call, "{rights:?}");
        assert_eq!(status(rights, "DELETE", "/servers/there").await, change, "{rights:?}");
        assert_eq!(status(rights, "POST", "/servers/there/restart").await, restart, "{rights:?}");
    }
    let called = Fixture::new(calls).await.mcp("tools/call", json!({ "name": THERE, "arguments": {} })).await;
    assert_eq!(called["result"]["structuredContent"]["done"], true, "{called}");
    let listed = Fixture::new(reads).await.mcp("tools/list", json!({})).await;
    assert_eq!(listed["result"]["tools"][0]["name"], THERE, "{listed}");
}

#[tokio::test]
async fn who_may_not_call_has_no_tasks_and_does_not_hear_whether_others_have() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("sqlite:{}", directory.path().join("hub.db").display());
    let app = App::new(Db::open(&address, Limits::default()).await.unwrap());
    let kept = McpTaskStore::new(app, principals::local().permit().unwrap());
    let caller = |name: &str, rights| principals::carried(&Actor::new(name, Namespace::team("main"), rights));
    let new = |id: &str| {
        let params = serde_json::value::to_raw_value(&json!({ "name": THERE })).unwrap();
        NewTask { id: id.to_owned(), params, may_repeat: true }
    };
    let ann: Arc<dyn Principal> = caller("ann", Rights::MEMBER);
    let task = kept.create(&ann, new("t")).await.unwrap();
    assert_eq!((&*task.principal, kept.get(&ann, "t").await.unwrap().is_some()), ("ann", true));

    let reads = Rights { read: true, write: true, ..Rights::NONE };
    let (without, eve) = (caller("ann", reads), caller("eve", Rights::MEMBER));
    for id in ["t", "none"] {
        assert_eq!(
            kept.get(&without, id).await.unwrap_err().message,
            kept.cancel(&without, "x").await.unwrap_err().message
        );
        assert!(kept.get(&eve, id).await.unwrap().is_none() && kept.cancel(&eve, id).await.unwrap().is_none());
    }
    assert!(kept.create(&without, new("another")).await.unwrap_err().message.contains("you may not call tools"));
}
