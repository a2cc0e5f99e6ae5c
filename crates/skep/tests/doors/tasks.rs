//! Long calls in the hub's store.

use std::time::Duration;

use serde_json::{Value, json};
use skep::doors::Options;
use skep_core::{
    Namespace, Timestamp,
    app::App,
    db::{Db, Limits},
    mcp_task::{Holder, McpTaskId, State},
    policy::{Actor, Permit},
};

use crate::support::{Hub, within};

const END_OF_TIME: Timestamp = Timestamp(i64::MAX);

async fn store(directory: &tempfile::TempDir) -> (App, Permit) {
    let address = format!("sqlite:{}", directory.path().join("hub.db").display());
    let actor = Actor { name: "test".into(), namespace: Namespace("main".into()), writer: true };
    (App::new(Db::open(&address, Limits::default()).await.unwrap()), actor.may_write().unwrap())
}

/// Call `stall`, and give the name of the task that the call becomes.
async fn begin(hub: &Hub) -> String {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": { "extensions": { "io.modelcontextprotocol/tasks": {} } },
    });
    let params = json!({ "name": "stall", "arguments": {}, "_meta": meta });
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let headers = [
        ("accept", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "stall"),
    ];
    let answer = hub.send("POST", "/mcp", &headers, &request.to_string()).await;
    let answer: Value = serde_json::from_str(answer.split_once(' ').unwrap().1).unwrap();
    answer["result"]["taskId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_hub_that_stops_leaves_its_tasks_to_whoever_comes_next() {
    let directory = tempfile::tempdir().unwrap();
    let (app, permit) = store(&directory).await;
    let options = Options { drain_time: Duration::from_millis(1), ..Options::default() };
    let mut hub = Hub::start_stored(options, Vec::new(), Some((app.clone(), permit.clone()))).await;
    let id = begin(&hub).await;
    hub.told("running").await;
    hub.shutdown.cancel();
    hub.told("given up").await;
    within(&mut hub.stopped).await.unwrap();
    let task = app.db.mcp_task(permit.namespace(), "", &McpTaskId(id.clone()), Timestamp(0)).await.unwrap().unwrap();
    assert_eq!((task.state, task.attempt), (State::Working, 1), "being cancelled by the hub is no end");

    let mut next = Hub::start_stored(Options::default(), Vec::new(), Some((app.clone(), permit.clone()))).await;
    next.told("running").await; // at once: it was let go of
    next.release.add_permits(1);
    within(async {
        loop {
            let task = app.db.mcp_task(permit.namespace(), "", &McpTaskId(id.clone()), Timestamp(0)).await;
            match task.unwrap().unwrap().state {
                State::Working => tokio::task::yield_now().await,
                state => break assert!(matches!(state, State::Completed(_)), "{state:?}"),
            }
        }
    })
    .await;
    let nobody = app.take_over_mcp_tasks(&permit, &Holder("test".into()), Duration::ZERO, END_OF_TIME).await;
    assert_eq!(nobody.unwrap(), []);
}
