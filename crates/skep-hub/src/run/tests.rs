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

#[tokio::test(flavor = "multi_thread")]
async fn a_run_gets_to_its_end_where_the_store_has_room_for_one_of_its_agents_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("sqlite:{}", directory.path().join("skep.db").display());
    let limits = Limits { writes_max: 2, ..Limits::default() }; // a namespace may have half of them
    let app = App::new(Db::open(&address, limits).await.unwrap());
    let actor = Actor::operator("test", Namespace::team("main"));
    let id = RunId("r".into());
    let run = Home::new(directory.path().join("home")).hold(&id).unwrap();
    let workspace = Dir::create(&directory.path().join("workspace")).unwrap();
    let sandbox = SandboxOnDemand::showing(&workspace, run.outputs(), sandboxed::config(&workspace, run.outputs()));
    let catalogue = Catalogue::new(skep_builtin::all(Parts::new(sandbox)));
    let swarm = Swarm {
        app,
        permit: actor.permit().unwrap(),
        executor: Arc::new(Executor::Local(Arc::new(Calls::within(
            catalogue,
            workspace.clone(),
            run.outputs().clone(),
        )))),
        agents: Agents { actors: 8, observers: 1 },
        watcher: None,
    };
    let task = |n: usize| (format!("t{n}"), json!({ "tool": "compose", "args": { "data": { "n": n } } }));
    let tasks: Map<String, Value> = (0..40).map(task).collect();
    let plan = Plan::from_json(&json!({ "name": "busy", "tasks": tasks })).unwrap();
    swarm.submit(&id, &plan, &workspace).await.unwrap();
    let ended = swarm.work(&id, &plan, workspace, &run, CancellationToken::new()).await.unwrap();
    let Ended::Over(report) = ended else { panic!("interrupted") };
    assert!(report.succeeded() && report.tasks.len() == 40, "{report:#?}");
}
