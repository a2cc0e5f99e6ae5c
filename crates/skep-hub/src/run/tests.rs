use std::path::Path;

use serde_json::Map;
use skep_core::{
    Namespace,
    db::{Db, Limits},
    policy::Actor,
};
use skep_tools::{
    parts::Parts,
    sandboxed::{self, SandboxOnDemand},
};

use super::*;
use crate::{
    hub::{calls::Calls, catalogue::Catalogue},
    state::Home,
};

/// A swarm whose store takes so many writes at a time, with all that it needs below a directory.
async fn swarm(directory: &Path, writes_max: usize, id: &RunId) -> (Swarm, Dir, RunDirectory) {
    let address = format!("sqlite:{}", directory.join("skep.db").display());
    let limits = Limits { writes_max, ..Limits::default() };
    let app = App::new(Db::open(&address, limits).await.unwrap());
    let actor = Actor::operator("test", Namespace::team("main"));
    let run = Home::new(directory.join("home")).hold(id).unwrap();
    let workspace = Dir::create(&directory.join("workspace")).unwrap();
    let sandbox = SandboxOnDemand::showing(&workspace, run.outputs(), sandboxed::config(&workspace, run.outputs()));
    let catalogue = Catalogue::new(skep_builtin::all(Parts::new(sandbox.clone())));
    let calls = Calls::within(catalogue, workspace.clone(), run.outputs().clone());
    let swarm = Swarm {
        app,
        permit: actor.permit().unwrap(),
        executor: Arc::new(Executor::Local(Arc::new(calls))),
        agents: Agents { actors: 8, observers: 1 },
        watcher: None,
        sandbox: Some(sandbox),
    };
    (swarm, workspace, run)
}

#[tokio::test]
async fn the_sandbox_is_started_with_a_run_whose_first_task_needs_it_and_with_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (swarm, ..) = swarm(directory.path(), 10, &RunId("r".into())).await;
    let starts = |tasks: Value| {
        let plan = Plan::from_json(&json!({ "name": "p", "tasks": tasks })).unwrap();
        !swarm.start_sandbox(&plan).is_empty()
    };
    let (bash, text) = (json!({ "command": "true" }), json!({ "text": "x" }));
    assert!(starts(json!({ "a": { "tool": "compose", "args": text }, "b": { "tool": "bash", "args": bash } })));
    assert!(!starts(json!({ "a": { "tool": "compose", "args": text } })));
    let later = json!({ "tool": "bash", "args": bash, "depends_on": ["a"] });
    assert!(!starts(json!({ "a": { "tool": "compose", "args": text }, "b": later })), "it may never come to that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_gets_to_its_end_where_the_store_has_room_for_one_of_its_agents_at_a_time() {
    let (directory, id) = (tempfile::tempdir().unwrap(), RunId("r".into()));
    // A namespace may have half of the writes.
    let (swarm, workspace, run) = swarm(directory.path(), 2, &id).await;
    let task = |n: usize| (format!("t{n}"), json!({ "tool": "compose", "args": { "data": { "n": n } } }));
    let tasks: Map<String, Value> = (0..40).map(task).collect();
    let plan = Plan::from_json(&json!({ "name": "busy", "tasks": tasks })).unwrap();
    swarm.submit(&id, &plan, &workspace).await.unwrap();
    let ended = swarm.work(&id, &plan, workspace, &run, CancellationToken::new()).await.unwrap();
    let Ended::Over(report) = ended else { panic!("interrupted") };
    assert!(report.succeeded() && report.tasks.len() == 40, "{report:#?}");
}
