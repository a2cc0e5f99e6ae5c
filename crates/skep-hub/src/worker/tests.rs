use serde_json::{Value, json};
use skep_core::{
    Json, Namespace,
    db::{Db, Limits},
    policy::Actor,
    run::{End, NewRun, RunId},
    task::{NewTask, State, Task, TaskId},
};
use skep_plan::Plan;
use skep_tools::{
    error::ToolError,
    parts::Parts,
    sandboxed::{self, SandboxOnDemand},
    tool::{Annotations, BuiltIn, Tool},
    workspace::Context,
};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::*;
use crate::hub::{calls::Calls, catalogue::Catalogue};

/// How long a task may take on a machine that is busy.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A store that processes share, and the files that their tools see.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// The operations, as another process would have them.
    async fn open(&self) -> App {
        let address = format!("sqlite:{}", self.0.path().join("skep.db").display());
        App::new(Db::open(&address, Limits::default()).await.unwrap())
    }

    /// A pool of another process, which calls these tools itself.
    async fn pool(&self, tools: impl IntoIterator<Item = Tool>) -> Pool {
        let [workspace, outputs] = ["workspace", "outputs"].map(|name| Dir::create(&self.0.path().join(name)).unwrap());
        let calls = Calls::within(Catalogue::new(tools), workspace.clone(), outputs.clone());
        let executor = Arc::new(Executor::Local(Arc::new(calls)));
        Pool { app: self.open().await, permit: permit(), executor, workspace, outputs, watcher: None }
    }
}

impl Pool {
    /// Have a worker do the tasks of queue `q` until these are over. Gives them.
    async fn work_until_over(self, tasks: &[&str]) -> Vec<Task> {
        let (app, stop) = (self.app.clone(), CancellationToken::new());
        let worker = Worker { id: WorkerId("w".into()), queue: "q".into() };
        let mut work = Box::pin(self.work(vec![worker], stop.clone()));
        let mut over = Vec::new();
        for name in tasks {
            tokio::select! {
                worked = &mut work => panic!("the worker stopped: {worked:?}"),
                task = tokio::time::timeout(TIME_MAX, over_at_last(&app, name)) => over.push(task.unwrap()),
            }
        }
        stop.cancel();
        work.await.unwrap();
        over
    }
}

/// Says that it was called, and answers when it is told to.
#[derive(Clone)]
struct Hold {
    called: Arc<Semaphore>,
    told: Arc<Semaphore>,
}

#[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
struct Nothing {}

impl BuiltIn for Hold {
    const NAME: &'static str = "hold";
    const DESCRIPTION: &'static str = "";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Nothing;
    type Answer = Nothing;

    async fn call(&self, _: &Context, nothing: Nothing) -> Result<Nothing, ToolError> {
        self.called.add_permits(1);
        self.told.acquire().await.unwrap().forget();
        Ok(nothing)
    }
}

/// The tools of every hub, of which no test here needs the sandbox.
fn built_in(place: &Place) -> Vec<Tool> {
    let dir = Dir::create(&place.0.path().join("workspace")).unwrap();
    skep_builtin::all(Parts::new(SandboxOnDemand::showing(&dir, &dir, sandboxed::config(&dir, &dir))))
}

async fn over_at_last(app: &App, name: &str) -> Task {
    let permit = permit();
    let mut watch = app.db.watch(&permit.to_read());
    loop {
        watch.mark_seen();
        let task = app.db.task(&permit.to_read(), &TaskId(name.into())).await.unwrap().unwrap();
        if task.state.is_over() {
            return task;
        }
        let _ = tokio::time::timeout(POLL, watch.changed()).await; // another process wakes nobody here
    }
}

fn permit() -> Permit {
    Actor::operator("test", Namespace::team("main")).permit().unwrap()
}

/// A task of queue `q` that says itself what it is to do, as the step of a plan would.
fn task(name: &str, step: &Value) -> NewTask {
    let plan = Plan::from_json(&json!({ "tasks": { name: step } })).unwrap();
    NewTask { step: Some(name.into()), ..NewTask::new(TaskId(format!("id-{name}")), "q", Job::of(&plan.tasks[0])) }
}

fn result(task: &Task) -> Value {
    let State::Completed(answer) = &task.state else { panic!("{:?}", task.state) };
    answer.parse::<Value>().unwrap()["result"].clone()
}

fn error(task: &Task) -> &str {
    let State::Failed(failure) = &task.state else { panic!("{:?}", task.state) };
    &failure.error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_process_does_tasks_without_their_plan() {
    let place = Place::new();
    let run = NewRun {
        id: RunId("r".into()),
        name: "greeting".into(),
        plan: json!("nobody has to read this").into(),
        inputs: json!({ "who": "world" }).into(),
        directory: "/somewhere".into(),
    };
    let first = task("first", &json!({ "tool": "compose", "args": { "data": { "hello": "{{ inputs.who }}" } } }));
    let skipped = task("skipped", &json!({ "tool": "compose", "when": "{{ inputs.who == 'moon' }}", "args": {} }));
    let text =
        "{% for name in tasks %}{{ name }} {% endfor %}{{ tasks.first.result.data.hello }} {{ run.name }} {{ run.id }}";
    let last = NewTask {
        depends_on: vec![skipped.id.clone(), first.id.clone()],
        ..task("last", &json!({ "tool": "compose", "args": { "data": { "text": text } } }))
    };
    place.open().await.start_run(&permit(), run, vec![first, skipped, last]).await.unwrap();
    let over = place.pool(built_in(&place)).await.work_until_over(&["id-first", "id-skipped", "id-last"]).await;
    assert_eq!(result(&over[0])["data"]["hello"], "world");
    assert_eq!(over[1].state, State::Completed(json!({ "skipped": true }).into()));
    assert_eq!(result(&over[2])["data"]["text"], "first skipped world greeting r");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_cannot_be_read_fails_with_the_reason_and_its_worker_goes_on() {
    let place = Place::new();
    let app = place.open().await;
    let unreadable = [
        ("a", json!({ "version": 2 })),
        ("b", json!({ "step": "b", "tool": "compose" })),
        ("c", json!({ "version": 1, "role": "actor", "work": { "dance": {} } })),
    ];
    for (name, input) in unreadable {
        app.submit(&permit(), NewTask { retries_max: 3, ..NewTask::new(TaskId(name.into()), "q", input) })
            .await
            .unwrap();
    }
    app.submit(&permit(), task("fine", &json!({ "tool": "compose", "args": { "data": 1 } }))).await.unwrap();
    let over = place.pool(built_in(&place)).await.work_until_over(&["a", "b", "c", "id-fine"]).await;
    assert!(error(&over[0]).contains("version 2") && error(&over[0]).contains("only version 1"), "{}", error(&over[0]));
    assert_eq!(error(&over[1]), "the task does not say what it is to do");
    assert!(error(&over[2]).contains("unknown variant `dance`"), "{}", error(&over[2]));
    assert!(over[..3].iter().all(|task| task.attempt == 1), "another attempt would not help");
    assert_eq!(result(&over[3])["data"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_deleted_while_its_task_is_done_stops_no_worker() {
    let place = Place::new();
    let (app, permit, id) = (place.open().await, permit(), RunId("r".into()));
    let run = NewRun {
        id: id.clone(),
        name: "n".into(),
        plan: Json::null(),
        inputs: json!({}).into(),
        directory: "/tmp".into(),
    };
    app.start_run(&permit, run, vec![task("t", &json!({ "tool": "hold" }))]).await.unwrap();
    let hold = Hold { called: Arc::new(Semaphore::new(0)), told: Arc::new(Semaphore::new(0)) };
    let delete = async {
        hold.called.acquire().await.unwrap().forget();
        app.end_run(&permit, &id, End::Cancelled, None).await.unwrap();
        app.delete_run(&permit, &id).await.unwrap();
        hold.told.add_permits(2);
    };
    app.submit(&permit, task("next", &json!({ "tool": "hold" }))).await.unwrap();
    let pool = place.pool([Tool::new(hold.clone())]).await;
    let (over, ()) = tokio::join!(pool.work_until_over(&["id-next"]), delete);
    assert!(matches!(over[0].state, State::Completed(_)), "{:?}", over[0].state);
}

/// Says that it was called, and that the call was dropped, which it is before it ends.
#[derive(Clone)]
struct Endless {
    called: Arc<Semaphore>,
    dropped: Arc<Semaphore>,
}

impl BuiltIn for Endless {
    const NAME: &'static str = "endless";
    const DESCRIPTION: &'static str = "";
    const ANNOTATIONS: Annotations = Hold::ANNOTATIONS;
    const DEADLINE: Duration = Duration::from_secs(3600);
    type Arguments = Nothing;
    type Answer = Nothing;

    async fn call(&self, _: &Context, _: Nothing) -> Result<Nothing, ToolError> {
        struct Dropped(Arc<Semaphore>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.add_permits(1);
            }
        }
        let _dropped = Dropped(Arc::clone(&self.dropped));
        self.called.add_permits(1);
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_is_stopped_where_it_runs_and_its_worker_takes_the_next_one() {
    let place = Place::new();
    let (app, permit) = (place.open().await, permit());
    let endless = Endless { called: Arc::new(Semaphore::new(0)), dropped: Arc::new(Semaphore::new(0)) };
    for name in ["a", "b"] {
        app.submit(&permit, task(name, &json!({ "tool": "endless" }))).await.unwrap();
    }
    app.submit(&permit, task("c", &json!({ "tool": "compose", "args": { "data": 1 } }))).await.unwrap();
    let cancel = async {
        for id in ["id-a", "id-b"] {
            endless.called.acquire().await.unwrap().forget();
            app.cancel(&permit, &TaskId(id.into())).await.unwrap();
            endless.dropped.acquire().await.unwrap().forget();
        }
    };
    let pool = place.pool(built_in(&place).into_iter().chain([Tool::new(endless.clone())])).await;
    let (over, ()) = tokio::join!(pool.work_until_over(&["id-a", "id-b", "id-c"]), cancel);
    let states: Vec<&str> = over.iter().map(|task| task.state.name()).collect();
    assert_eq!(states, ["cancelled", "cancelled", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_stopped_where_it_runs_when_its_deadline_passes() {
    let place = Place::new();
    let (app, permit) = (place.open().await, permit());
    let endless = Endless { called: Arc::new(Semaphore::new(0)), dropped: Arc::new(Semaphore::new(0)) };
    let deadline = Some(app.db.now().at.after(Duration::from_secs(2)));
    app.submit(&permit, NewTask { deadline, ..task("a", &json!({ "tool": "endless" })) }).await.unwrap();
    let pool = place.pool([Tool::new(endless.clone())]).await;
    let dropped = async { endless.dropped.acquire().await.unwrap().forget() };
    let (over, ()) = tokio::join!(pool.work_until_over(&["id-a"]), dropped);
    let State::Failed(failure) = &over[0].state else { panic!("{:?}", over[0].state) };
    assert!(failure.error.starts_with("its deadline passed while w worked on it"), "{}", failure.error);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_the_name_of_a_deleted_one_has_its_own_inputs() {
    let place = Place::new();
    let app = place.open().await;
    let (permit, id) = (permit(), RunId("r".into()));
    let runs = Runs::new(place.open().await, permit.to_read());
    let (name, directory) = ("n".to_owned(), "/tmp".to_owned());
    for who in ["former", "new"] {
        let (inputs, plan) = (json!({ "who": who }).into(), Json::null());
        let run = NewRun { id: id.clone(), name: name.clone(), plan, inputs, directory: directory.clone() };
        let tasks = vec![task("t", &json!({ "tool": "compose", "args": {} }))];
        app.start_run(&permit, run, tasks).await.unwrap();
        let task = app.db.task(&permit.to_read(), &TaskId("id-t".into())).await.unwrap().unwrap();
        let seen = runs.of(&task).await.unwrap().unwrap();
        assert_eq!(seen.scope().text("{{ inputs.who }}").unwrap(), who);
        app.end_run(&permit, &id, End::Cancelled, None).await.unwrap();
        app.delete_run(&permit, &id).await.unwrap();
        let gone = Task { epoch: task.epoch + 7, ..task };
        assert!(matches!(runs.of(&gone).await.unwrap(), Err(JobError::Deleted)));
    }
}
