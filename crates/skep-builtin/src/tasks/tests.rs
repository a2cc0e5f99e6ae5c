use serde_json::{Value, json};
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    policy::Actor,
};
use skep_tools::shared::Shared;

use super::*;
use crate::testing::{Fixture, call};

/// The tools over a store of their own, for one caller after the other.
struct Tasks {
    fixture: Fixture,
    shared: Shared,
}

impl Tasks {
    async fn new() -> Tasks {
        let fixture = Fixture::new();
        let address = format!("sqlite:{}", fixture.directory.path().join("skep.db").display());
        let app = App::new(Db::open(&address, Limits::default()).await.unwrap());
        Tasks { fixture, shared: Shared(Some(app)) }
    }

    /// From now on it is this principal of this team that calls.
    fn become_principal(&mut self, team: &str, principal: &str) {
        self.fixture.context.permit = Actor::member(principal, Namespace::team(team)).permit().unwrap();
    }

    async fn submit(&self, arguments: Value) -> Result<Value, ToolError> {
        call(TaskSubmit { shared: self.shared.clone() }, &self.fixture, arguments).await
    }

    async fn project(&self, arguments: Value) -> Result<Value, ToolError> {
        call(ProjectSubmit { shared: self.shared.clone() }, &self.fixture, arguments).await
    }

    async fn get(&self, id: &str) -> Value {
        call(TaskGet { shared: self.shared.clone() }, &self.fixture, json!({ "task_id": id })).await.unwrap()
    }

    async fn list(&self, arguments: Value) -> Value {
        call(TaskList { shared: self.shared.clone() }, &self.fixture, arguments).await.unwrap()
    }

    async fn next(&self, arguments: Value) -> Value {
        call(TaskNext { shared: self.shared.clone() }, &self.fixture, arguments).await.unwrap()
    }

    async fn progress(&self, arguments: Value) -> Result<Value, ToolError> {
        call(TaskProgress { shared: self.shared.clone() }, &self.fixture, arguments).await
    }

    async fn finish(&self, arguments: Value) -> Result<Value, ToolError> {
        call(TaskFinish { shared: self.shared.clone() }, &self.fixture, arguments).await
    }

    async fn release(&self, arguments: Value) -> Result<Value, ToolError> {
        call(TaskRelease { shared: self.shared.clone() }, &self.fixture, arguments).await
    }

    async fn cancel(&self, id: &str) -> Result<Value, ToolError> {
        call(TaskCancel { shared: self.shared.clone() }, &self.fixture, json!({ "task_id": id })).await
    }

    async fn retry(&self, id: &str) -> Result<Value, ToolError> {
        call(TaskRetry { shared: self.shared.clone() }, &self.fixture, json!({ "task_id": id })).await
    }
}

fn ids(answer: &Value) -> Vec<&str> {
    answer["tasks"].as_array().unwrap().iter().map(|task| task["task_id"].as_str().unwrap()).collect()
}

/// Why a call was refused because of how things stand.
fn reason(refused: Result<Value, ToolError>) -> String {
    match refused {
        Err(ToolError::Conflict { detail, .. }) => detail["reason"].as_str().unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_worked_through_with_nothing_but_tools() {
    let tasks = Tasks::new().await;
    let graph = json!({ "tasks": [
        { "id": "build", "title": "Build it", "type": "backend", "input": { "crate": "skep" }, "priority": "high" },
        { "id": "test", "depends_on": ["build"], "description": "all\nof it", "labels": ["slow"] },
    ] });
    let submitted = tasks.submit(graph).await.unwrap();
    assert_eq!(ids(&submitted), ["build", "test"]);
    assert_eq!(submitted["tasks"][1]["waiting_for"], 1);

    let build = tasks.next(json!({ "agent_id": "coder", "types": ["backend"] })).await;
    assert_eq!((&build["task"]["task_id"], &build["input"]["crate"]), (&json!("build"), &json!("skep")));
    assert_eq!(
        (&build["attempt"], &build["lease_s"], &build["task"]["worker"]),
        (&json!(1), &json!(60), &json!("test/coder"))
    );
    assert_eq!(tasks.next(json!({})).await, json!({ "found": false }));
    let said = json!({ "task_id": "build", "token": build["token"], "percent": 50, "message": "compiling" });
    assert_eq!(tasks.progress(said).await.unwrap()["held"], true);
    let answer = json!({ "task_id": "build", "token": build["token"], "result": { "warnings": 0 } });
    assert_eq!(tasks.finish(answer.clone()).await.unwrap()["task"]["state"], "completed");
    assert_eq!(tasks.finish(answer).await.unwrap()["task"]["state"], "completed", "the same once more is no fault");

    let test = tasks.next(json!({ "wait_s": 5 })).await;
    assert_eq!((&test["task"]["task_id"], &test["description"]), (&json!("test"), &json!("all\nof it")));
    assert_eq!(test["results"], json!([{ "task_id": "build", "result": { "warnings": 0 } }]));
    let failed = json!({ "task_id": "test", "token": test["token"], "error": "one is red", "result": "log" });
    assert_eq!(tasks.finish(failed).await.unwrap()["task"]["error"], "one is red");
    let got = tasks.get("test").await;
    assert_eq!((&got["task"]["state"], &got["result"]), (&json!("failed"), &json!("log")));
    assert_eq!(tasks.retry("test").await.unwrap(), json!({ "reopened": ["test"] }));
    assert_eq!(reason(tasks.retry("build").await), "completed");
    let listed = tasks.list(json!({ "states": ["pending"], "label": "slow", "counts": true })).await;
    assert_eq!((ids(&listed), &listed["counts"]["completed"]), (vec!["test"], &json!(1)));
    assert_eq!(ids(&tasks.list(json!({ "query": "build" })).await), ["build"]);
    assert_eq!(tasks.get("never").await, json!({ "found": false }));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_gets_a_task_as_soon_as_there_is_one() {
    let tasks = Tasks::new().await;
    let submits = async {
        tasks.submit(json!({ "id": "a", "required_capabilities": ["gpu"] })).await.unwrap();
        tasks.submit(json!({ "id": "b" })).await.unwrap();
    };
    let (next, ()) = tokio::join!(tasks.next(json!({ "wait_s": 60 })), submits);
    assert_eq!(next["task"]["task_id"], "b", "nobody gets what it cannot do");
    assert_eq!(tasks.next(json!({ "capabilities": ["gpu"] })).await["task"]["task_id"], "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_told_that_its_task_was_cancelled_and_its_answer_is_refused() {
    let tasks = Tasks::new().await;
    tasks.submit(json!({ "id": "a" })).await.unwrap();
    let held = tasks.next(json!({})).await;
    assert_eq!(tasks.cancel("a").await.unwrap()["task"]["state"], "cancelled");
    let told = tasks.progress(json!({ "task_id": "a", "token": held["token"] })).await.unwrap();
    assert_eq!((&told["held"], &told["cancelled"]), (&json!(false), &json!(true)));
    let late = tasks.finish(json!({ "task_id": "a", "token": held["token"], "result": 1 })).await;
    assert_eq!(reason(late), "cancelled");
    assert_eq!(reason(tasks.cancel("a").await), "cancelled");
    assert!(matches!(tasks.cancel("never").await, Err(ToolError::InvalidArguments(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whoever_has_a_task_answers_it() {
    let mut tasks = Tasks::new().await;
    tasks.become_principal("test", "ann");
    tasks.submit(json!({ "id": "a" })).await.unwrap();
    let held = tasks.next(json!({})).await;
    let token = held["token"].as_str().unwrap();
    let made_up =
        json!({ "task_id": "a", "token": format!("made up:{}", token.split_once(':').unwrap().1), "result": 1 });
    assert_eq!(reason(tasks.finish(made_up).await), "not_held");
    let bad = tasks.finish(json!({ "task_id": "a", "token": "x" })).await;
    assert!(matches!(bad, Err(ToolError::InvalidArguments(_))), "{bad:?}");
    tasks.become_principal("test", "bob");
    let stolen = tasks.finish(json!({ "task_id": "a", "token": token, "result": 1 })).await;
    assert_eq!(reason(stolen), "not_held", "a token is its principal's");
    tasks.become_principal("other", "ann");
    assert_eq!(tasks.get("a").await["found"], false, "another team does not see it");
    tasks.become_principal("test", "ann");
    assert_eq!(tasks.release(json!({ "task_id": "a", "token": token })).await.unwrap()["task"]["state"], "pending");
    assert_eq!(tasks.next(json!({})).await["attempt"], 2);
    assert_eq!(reason(tasks.release(json!({ "task_id": "a", "token": token })).await), "not_held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_a_task_once_and_another_content_under_it_a_conflict() {
    let tasks = Tasks::new().await;
    let submit = |title: &str| json!({ "title": title, "idempotency_key": "k", "deadline_s": 60 });
    let first = tasks.submit(submit("one")).await.unwrap();
    assert_eq!(ids(&first), ids(&tasks.submit(submit("one")).await.unwrap()));
    assert_eq!(reason(tasks.submit(submit("other")).await), "exists");
    assert_eq!(ids(&tasks.list(json!({})).await).len(), 1);
    let two = tasks.submit(json!({ "tasks": [{}, {}] })).await.unwrap();
    assert_ne!(two["tasks"][0]["task_id"], two["tasks"][1]["task_id"]);
    let both = tasks.submit(json!({ "title": "x", "tasks": [{}] })).await;
    assert!(matches!(both, Err(ToolError::InvalidArguments(_))), "{both:?}");
    for bad in [
        json!({ "priority": "urgent" }),
        json!({ "deadline": "tomorrow" }),
        json!({ "delay_s": 10, "not_before": "2026-05-01T12:30:00Z" }),
        json!({ "tasks": [{ "id": "a", "depends_on": ["b"] }, { "id": "b", "depends_on": ["a"] }] }),
    ] {
        let refused = tasks.submit(bad.clone()).await;
        assert!(matches!(refused, Err(ToolError::InvalidArguments(_))), "{bad}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_silent_for_too_long_loses_its_task() {
    let tasks = Tasks::new().await;
    let app = tasks.shared.0.clone().unwrap();
    tasks.submit(json!({ "id": "a" })).await.unwrap();
    let silent = tasks.next(json!({ "lease_s": 10 })).await;
    // As when its time is over.
    let permit: Permit = tasks.fixture.context.permit.actor().permit().unwrap();
    let session = Token::read(silent["token"].as_str().unwrap()).unwrap().session;
    app.leave(&permit, &skep_core::session::HubId(format!("lease/{}", session.0))).await.unwrap();
    let other = tasks.next(json!({})).await;
    assert_eq!(other["attempt"], 2);
    let late = tasks.finish(json!({ "task_id": "a", "token": silent["token"], "result": "late" })).await;
    assert_eq!(reason(late), "not_held");
    assert_eq!(tasks.progress(json!({ "task_id": "a", "token": silent["token"] })).await.unwrap()["held"], false);
    let done = tasks.finish(json!({ "task_id": "a", "token": other["token"], "result": "good" })).await.unwrap();
    assert_eq!(done["task"]["state"], "completed");
    assert_eq!(tasks.get("a").await["result"], "good");
}

#[tokio::test]
async fn a_project_is_done_by_workers_of_its_types_in_the_order_of_its_tasks() {
    let tasks = Tasks::new().await;
    let shop = json!({
        "id": "shop", "name": "Shop", "requirements": "catalog, payments", "tech_stack": { "backend": "Go", "cache": "Redis" },
        "priority": "high",
    });
    let submitted = tasks.project(shop.clone()).await.unwrap();
    assert_eq!((&submitted["project_id"], ids(&submitted).len()), (&json!("shop"), 10));
    assert_eq!(ids(&tasks.project(shop).await.unwrap()), ids(&submitted), "submitted again, it is the same project");
    assert_eq!(ids(&tasks.list(json!({ "label": "project" })).await), ["shop"]);
    assert_eq!(ids(&tasks.list(json!({ "parent": "shop" })).await).len(), 9);
    assert_eq!(tasks.next(json!({ "types": ["backend"] })).await["found"], false, "there is no plan yet");

    let mut done = Vec::new();
    loop {
        let given = tasks.next(json!({ "types": ["manager", "backend", "database", "integration", "qa"] })).await;
        let Some(id) = given["task"]["task_id"].as_str() else { break };
        assert_eq!(given["task"]["priority"], "high");
        let answer = json!({ "task_id": id, "token": given["token"], "result": "done" });
        tasks.finish(answer).await.unwrap();
        done.push(id.to_owned());
    }
    assert_eq!((done.len(), &*done[0], &*done[9]), (10, "shop:plan", "shop"), "{done:?}");
    assert_eq!(tasks.get("shop").await["task"]["state"], "completed");
}

#[tokio::test]
async fn a_project_is_cancelled_with_its_tasks_and_refused_if_it_is_bad() {
    let tasks = Tasks::new().await;
    let project = json!({ "name": "p", "requirements": ["one"], "idempotency_key": "k" });
    let submitted = tasks.project(project.clone()).await.unwrap();
    let id = submitted["project_id"].as_str().unwrap().to_owned();
    assert_eq!(tasks.project(project).await.unwrap()["project_id"], id);
    tasks.cancel(&id).await.unwrap();
    let states = tasks.list(json!({ "states": ["cancelled"] })).await;
    assert_eq!(ids(&states).len(), ids(&submitted).len());
    for (project, words) in [
        (json!({ "name": "p" }), "requirements"),
        (json!({ "name": "p", "requirements": " " }), "there is no requirement"),
        (json!({ "name": "p", "requirements": "x", "priority": "urgent" }), "critical"),
        (json!({ "name": "p", "requirements": "x", "tech_stack": { "a": 1 } }), "neither a text nor a list"),
        (json!({ "name": "p", "requirements": "x", "budget": 1 }), "budget"),
    ] {
        let refused = tasks.project(project.clone()).await.unwrap_err();
        assert!(refused.to_string().contains(words), "{project}: {refused}");
    }
}
