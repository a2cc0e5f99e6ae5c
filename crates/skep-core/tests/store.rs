//! Every promise of the store, on every database.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod postgres;

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};
use skep_core::{
    Namespace, Timestamp,
    app::{App, TaskError},
    artefact::NewArtefact,
    db::{Db, Limits},
    policy::{Actor, Permit},
    run::{End, NewRun, RunId, State as RunState},
    task::{Attempt, NewTask, Refused, State, Task, TaskId, WorkerId},
};
use tokio::task::JoinSet;

const LEASE: Duration = Duration::from_secs(30);
const NOW: Timestamp = Timestamp(1_000_000);

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_to_one_worker_only() {
    on_every_database(Limits::default(), async |app| {
        for n in 0..200 {
            app.submit(&writer(), new_task(n), NOW).await.unwrap();
        }
        let mut workers = JoinSet::new();
        for n in 0..8 {
            let app = app.clone();
            workers.spawn(async move {
                let mut mine = Vec::new();
                while let Some(task) = claim(&app, &format!("w{n}")).await {
                    finish(&app, &task).await.unwrap();
                    mine.push(task.id.0);
                }
                mine
            });
        }
        let ran: Vec<String> = workers.join_all().await.concat();
        assert_eq!(ran.len(), 200);
        assert_eq!(ran.iter().collect::<HashSet<_>>().len(), 200);
        assert_eq!(log(&app).await.len(), 600);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_through_its_graph_and_can_be_resumed() {
    on_every_database(Limits::default(), async |app| {
        let permit = writer();
        let run = RunId("r".into());
        let mut join = NewTask::new(TaskId("join".into()), "q", Value::Null);
        join.depends_on = vec![id(1), id(2)];
        let mut last = NewTask::new(TaskId("last".into()), "q", Value::Null);
        last.depends_on = vec![TaskId("join".into())];
        let new = NewRun { id: run.clone(), name: "x".into(), plan: json!({"a": 1}), directory: "/".into() };
        app.start_run(&permit, new, vec![new_task(1), new_task(2), join, last], NOW).await.unwrap();
        let one = claim(&app, "w").await.unwrap();
        assert_eq!(one.id, id(1));
        let by = attempt(&one);
        let kept = vec![NewArtefact { path: "a.txt".into(), bytes: b"abc\0".to_vec() }];
        app.finish(&permit, &one.id, by, json!(1), kept, NOW).await.unwrap();
        let two = claim(&app, "w").await.unwrap();
        assert_eq!(claim(&app, "w").await, None);
        app.interrupt_run(&permit, &run, NOW).await.unwrap();
        let late = finish(&app, &two).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::LeaseLost))), "{late:?}");
        app.resume_run(&permit, &run, NOW).await.unwrap();
        let two = claim(&app, "w").await.unwrap();
        finish(&app, &two).await.unwrap();
        let join = claim(&app, "w").await.unwrap();
        assert_eq!(join.id.0, "join");
        app.fail(&permit, &join.id, attempt(&join), "boom".into(), true, NOW).await.unwrap();
        let last = app.db.task(permit.namespace(), &TaskId("last".into())).await.unwrap().unwrap();
        assert_eq!(last.state, State::Blocked(join.id));
        let ended = app.end_run(&permit, &run, End::Failed, Some(json!("r")), NOW).await.unwrap();
        assert_eq!(ended.state, RunState::Failed);
        assert_eq!(app.db.run(permit.namespace(), &run).await.unwrap(), Some(ended));
        assert_eq!(app.db.artefacts(permit.namespace(), &run).await.unwrap().len(), 1);
        let bytes = app.db.artefact(permit.namespace(), &id(1), "a.txt").await.unwrap();
        assert_eq!(bytes.as_deref(), Some(b"abc\0".as_slice()));
        let counts = app.db.count_tasks(permit.namespace(), &run).await.unwrap();
        assert_eq!((counts.completed, counts.failed, counts.blocked), (2, 1, 1));
    })
    .await;
}

async fn claim(app: &App, worker: &str) -> Option<Task> {
    app.claim(&writer(), "q", &WorkerId(worker.to_owned()), LEASE, NOW).await.unwrap()
}

async fn finish(app: &App, task: &Task) -> Result<Task, TaskError> {
    app.finish(&writer(), &task.id, attempt(task), json!("done"), Vec::new(), NOW).await
}

fn attempt(task: &Task) -> Attempt {
    match &task.state {
        State::InProgress(lease) => Attempt { worker: lease.worker.clone(), number: task.attempt },
        other => panic!("not in progress: {other:?}"),
    }
}

/// The whole log of the namespace, after a look at its numbers.
async fn log(app: &App) -> Vec<String> {
    let events = app.db.events_after(writer().namespace(), 0, 1000).await.unwrap();
    let numbers: Vec<i64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..).take(events.len()).collect::<Vec<i64>>(), "the log has no gaps");
    let about = |event: &skep_core::event::Event| event.task.clone().map(|task| task.0).unwrap_or_default();
    events.iter().map(|event| format!("{} {} {}", event.kind.name(), about(event), event.data)).collect()
}

async fn on_every_database(limits: Limits, test: impl AsyncFn(App)) {
    let directory = tempfile::tempdir().unwrap();
    test(App::new(Db::open(&sqlite(&directory), limits.clone()).await.unwrap())).await;
    if let Some(address) = postgres::new_schema().await {
        test(App::new(Db::open(&address, limits).await.unwrap())).await;
    }
}

fn sqlite(directory: &tempfile::TempDir) -> String {
    format!("sqlite:{}", directory.path().join("hub.db").display())
}

fn id(n: u32) -> TaskId {
    TaskId(format!("t{n}"))
}

fn new_task(n: u32) -> NewTask {
    NewTask::new(id(n), "q", n.into())
}

fn writer() -> Permit {
    Actor { name: "test".into(), namespace: Namespace("main".into()), writer: true }.may_write().unwrap()
}
