//! What an older version has left behind is all there in this one.

use skep_core::{
    event::{EventKind, Subject},
    mcp_task::{McpTaskId, State as McpState},
    run::{End, State as RunState},
};

use super::*;

/// After everything in the fixture has happened.
const TODAY: Timestamp = Timestamp(1_790_000_020_000_000);

/// A database as the program left it when migration 0002 was the newest.
pub(crate) async fn written_at_0002(address: &str) {
    tamper(address, include_str!("../../migrations/0001_start.sql")).await;
    tamper(address, include_str!("../../migrations/0002_mcp_tasks.sql")).await;
    tamper(
        address,
        "create table skep_migration (number bigint primary key, name text not null, sha256 text not null)",
    )
    .await;
    let rows = include_str!("written_at_0002.sql");
    match address.starts_with("sqlite:") {
        true => tamper(address, rows).await,
        false => tamper(address, &rows.replace("x'", "'\\x")).await, // its bytes are written differently
    }
}

fn states(tasks: &[Task]) -> Vec<&'static str> {
    tasks.iter().map(|task| task.state.name()).collect()
}

/// The old events say what they are about, and nobody knows who caused them.
async fn expect_no_actors(app: &App) {
    for event in events(app, EventFilter::default(), 0).await {
        assert_eq!(event.actor, None, "nobody wrote down who it was: {event:?}");
        let task = event.task.as_ref().map(|task| Subject::new("task", &task.0));
        let run = event.run.as_ref().map(|run| Subject::new("run", &run.0));
        assert_eq!(event.subject(), task.or(run), "{event:?}");
        assert!(!matches!(event.kind, EventKind::Unknown { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_an_older_version_is_opened_with_everything_in_it() {
    let events_missing = on_every_address_with_deletions(async |address| {
        written_at_0002(address).await;
        let app = open(address, Limits::default()).await;
        let (main, other) = (permit(), permit_in("other"));
        let run = async |name: &str| app.db.run(&main.to_read(), &RunId(name.into())).await.unwrap().unwrap();
        let tasks = async |name: &str| tasks_of(&app, &main, name).await;

        let ended = run("ended").await;
        assert_eq!((ended.state, ended.ended), (RunState::Failed, Some(Timestamp(1_790_000_004_000_000))));
        assert_eq!(ended.report, Some(json!({ "said": "it's over; \"really\"" }).into()));
        assert_eq!((run("working").await.state, run("paused").await.state), (RunState::Running, RunState::Interrupted));
        let working = tasks("working").await;
        assert_eq!(states(&working), ["completed", "failed", "in_progress", "blocked", "pending", "pending"]);
        assert_eq!(working[5].depends_on, [id("working-completed")]);
        assert_eq!(states(&tasks("ended").await)[2..], ["cancelled", "blocked", "cancelled", "cancelled"]);
        let retried = task(&app, "retried").await.unwrap();
        assert_eq!((retried.failures, retried.retries_max, retried.retry_delay.as_millis()), (1, 2, 1500));
        assert_eq!(
            state(&app, "dependent").await,
            State::Pending { due: Timestamp(1_790_000_010_000_000), waiting_for: 1 }
        );
        let others = app.db.task(&other.to_read(), &id("retried")).await.unwrap().unwrap();
        assert_eq!((others.state.name(), others.input), ("in_progress", json!("another's").into()));
        for name in ["working", "ended", "paused"] {
            let bytes = app.db.artefact(&main.to_read(), &id(&format!("{name}-completed")), "out/f").await.unwrap();
            assert_eq!(bytes.as_deref(), Some(name.as_bytes()));
        }
        let ann = Actor::member("ann", main.namespace().clone()).permit().unwrap();
        let done = app.db.mcp_task(&ann, &McpTaskId("done".into())).await.unwrap().unwrap();
        assert_eq!(done.state, McpState::Completed("{\"x\": 1.50}".into()));

        let numbers = async |permit: &Permit| {
            let events = all_events(&app, &permit.to_read()).await;
            events.iter().map(|event| event.number).collect::<Vec<i64>>()
        };
        assert_eq!(numbers(&main).await, (7..=58).collect::<Vec<i64>>(), "the run of the first six was deleted");
        assert_eq!(numbers(&other).await, [1, 2, 3]);
        expect_no_actors(&app).await;

        // And all of it goes on. What was in progress belonged to no session, so it is given out again.
        app.at(TODAY);
        for (permit, lost) in [(&main, "working-in_progress"), (&other, "retried")] {
            app.register(permit, "test").await;
            let released = app.release_lost(permit).await.unwrap();
            assert_eq!(released.iter().map(|task| &task.id).collect::<Vec<_>>(), [&id(lost)]);
        }
        let mut order = Vec::new();
        while let Some(next) = app.claim(&main, "working", &holder("v")).await.unwrap() {
            order.push((next.id.0.clone(), next.attempt));
            finish(&app, &next).await.unwrap();
        }
        let expected = [("working-in_progress", 2), ("working-pending", 1), ("working-ready", 1)];
        assert_eq!(order, expected.map(|(name, attempt)| (name.to_owned(), attempt)));
        assert_eq!(claim(&app, TODAY).await.unwrap().attempt, 2);
        app.resume_run(&main, &RunId("paused".into())).await.unwrap();
        app.end_run(&main, &RunId("paused".into()), End::Cancelled, None).await.unwrap();
        assert_eq!(app.retry_run(&main, &RunId("ended".into()), None).await.unwrap().len(), 5);
        app.submit(&main, new("new")).await.unwrap();
        app.submit(&permit_in("third"), new("new")).await.unwrap();
        let numbers = numbers(&main).await;
        assert_eq!(numbers, (7..7 + numbers.len() as i64).collect::<Vec<i64>>());
    })
    .await;
    assert!(events_missing.iter().all(|missing| *missing == 0), "the log begins at 7: {events_missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_an_older_version_is_called_by_what_follows_the_name_of_its_run_in_its_id() {
    on_every_address_with_deletions(async |address| {
        written_at_0002(address).await;
        tamper(
            address,
            "update task set id = 'paused/a/b' where id = 'paused-ready';
             update dependency set task = 'paused/a/b' where task = 'paused-ready';
             update event set task = 'paused/a/b' where task = 'paused-ready'",
        )
        .await;
        let app = open(address, Limits::default()).await;
        let names: Vec<Option<String>> =
            tasks_of(&app, &permit(), "paused").await.into_iter().map(|task| task.step).collect();
        assert_eq!(names, [None, None, None, None, None, Some("a/b".to_owned())]);
    })
    .await;
}
