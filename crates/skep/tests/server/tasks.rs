//! Long calls in the hub's store.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    mcp_task::{McpTask, McpTaskId, State},
    policy::{Actor, Permit},
};
use skep_hub::server::Options;

use crate::support::{Hub, eventually, within};

/// Enough for one of them to be unlucky.
const TASKS: usize = 12;

async fn store(directory: &tempfile::TempDir) -> (App, Permit) {
    let address = format!("sqlite:{}", directory.path().join("hub.db").display());
    let actor = Actor::operator("local", Namespace::team("main"));
    (App::new(Db::open(&address, Limits::default()).await.unwrap()), actor.permit().unwrap())
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

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_stops_leaves_its_tasks_to_whoever_comes_next() {
    let directory = tempfile::tempdir().unwrap();
    let (app, permit) = store(&directory).await;
    let options = Options { drain_time: Duration::from_millis(1), ..Options::default() };
    let mut hub = Hub::start_stored(options, Vec::new(), Some((app.clone(), permit.clone()))).await;
    let ids = join_all((0..TASKS).map(|_| begin(&hub))).await;
    for said in ["running", "given up"] {
        for _ in 0..TASKS {
            hub.told(said).await;
        }
        hub.shutdown.cancel();
    }
    within(&mut hub.stopped).await.unwrap();
    for id in &ids {
        let task = read(&app, &permit, id).await;
        assert_eq!((task.state, task.attempt), (State::Working, 1), "being cancelled by the hub is no end");
    }

    let mut next = Hub::start_stored(Options::default(), Vec::new(), Some((app.clone(), permit.clone()))).await;
    for _ in 0..TASKS {
        next.told("running").await; // at once: they were released
    }
    next.release.add_permits(TASKS);
    eventually(async || {
        let states = ids.iter().map(async |id| read(&app, &permit, id).await.state);
        join_all(states).await.iter().all(|state| matches!(state, State::Completed(_)))
    })
    .await;
}

async fn read(app: &App, permit: &Permit, id: &str) -> McpTask {
    app.db.mcp_task(&permit.actor().permit().unwrap(), &McpTaskId(id.to_owned())).await.unwrap().unwrap()
}
