//! Large values: kept apart from their rows, and put together again when somebody reads them.
//!
//! That nothing is left over is the audit's to find, after each test.

use skep_core::{app::RunError, db::DbError, run::End, task::Failure};

use super::*;

/// JSON far beyond what a row keeps itself.
fn large(of: &str) -> Json {
    json!({ "of": of, "text": "ä".repeat(32 << 10) }).into()
}

/// A task with a large input.
fn heavy(name: &str) -> NewTask {
    NewTask { input: large(name), ..new(name) }
}

fn heavy_run(name: &str) -> NewRun {
    NewRun { plan: large("plan"), inputs: large("inputs"), ..new_run(name) }
}

fn run_id(name: &str) -> RunId {
    RunId(name.into())
}

/// A run with large values wherever there may be some: `{name}-a` is completed, `{name}-b` has failed.
async fn full_run(app: &Hub, name: &str) {
    let tasks = ["a", "b"].map(|task| NewTask { queue: name.into(), ..heavy(&format!("{name}-{task}")) });
    app.start_run(&permit(), heavy_run(name), tasks.to_vec()).await.unwrap();
    let claim = async || app.claim(&permit(), name, &holder("w")).await.unwrap().unwrap();
    let (a, b) = (claim().await, claim().await);
    app.finish(&permit(), &a.id, attempt(&a), large("answer"), Vec::new()).await.unwrap();
    let failure = Failure { error: "no".into(), output: large("printed") };
    app.fail(&permit(), &b.id, attempt(&b), failure, false).await.unwrap();
    app.end_run(&permit(), &run_id(name), End::Failed, Some(large("report"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_come_back_to_the_byte() {
    on_every_database(async |app| {
        full_run(&app, "r").await;
        let reads = permit().to_read();
        let run = app.db.run(&reads, &run_id("r")).await.unwrap().unwrap();
        assert_eq!((run.plan, run.inputs), (large("plan"), Some(large("inputs"))));
        assert_eq!(run.report, Some(large("report")));
        let tasks = tasks_of(&app, &permit(), "r").await;
        assert_eq!(tasks[0].input, large("r-a"));
        assert_eq!(tasks[0].state, State::Completed(large("answer")));
        assert_eq!(tasks[1].state, State::Failed(Failure { error: "no".into(), output: large("printed") }));
        app.submit(&permit(), heavy("x")).await.unwrap();
        assert_eq!(claim(&app, NOW).await.unwrap().input, large("x"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_goes_with_the_last_row_that_names_it() {
    on_every_database(async |app| {
        full_run(&app, "one").await;
        full_run(&app, "two").await;
        let sizes = app.db.run_sizes(&permit().to_read(), None, 9).await.unwrap();
        assert!(sizes.iter().all(|(_, bytes)| *bytes > 6 * (64 << 10)) && sizes.len() == 2, "{sizes:?}");
        app.delete_run(&permit(), &run_id("one")).await.unwrap();
        let two = app.db.run(&permit().to_read(), &run_id("two")).await.unwrap().unwrap();
        assert_eq!((two.plan, two.report), (large("plan"), Some(large("report"))), "the other run had the same");
        assert_eq!(state(&app, "two-a").await, State::Completed(large("answer")));
        app.delete_run(&permit(), &run_id("two")).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_retried_run_drops_is_deleted() {
    on_every_database(async |app| {
        full_run(&app, "r").await;
        let reopened = app.retry_run(&permit(), &run_id("r"), None).await.unwrap();
        assert_eq!(reopened, [id("r-b")]);
        let run = app.db.run(&permit().to_read(), &run_id("r")).await.unwrap().unwrap();
        assert_eq!((run.plan, run.report), (large("plan"), None));
        let again = app.claim(&permit(), "r", &holder("w")).await.unwrap().unwrap();
        assert_eq!((again.input, state(&app, "r-a").await), (large("r-b"), State::Completed(large("answer"))));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_asks_where_tasks_stand_reads_no_values() {
    // Not `on_every_address`: what this leaves behind is not sound.
    let directory = in_memory();
    for address in [Some(sqlite(&directory)), postgres::new_schema().await].iter().flatten() {
        let app = open(address, Limits::default()).await;
        let reads = permit().to_read();
        app.start_run(&permit(), heavy_run("r"), vec![heavy("a"), needs("b", &["a"])]).await.unwrap();
        let a = claim(&app, NOW).await.unwrap();
        app.finish(&permit(), &a.id, attempt(&a), large("answer"), Vec::new()).await.unwrap();
        assert_eq!(app.db.audit().await.unwrap().findings, []);
        tamper(address, "delete from blob").await;

        assert_eq!(app.db.count_tasks(&reads, &run_id("r")).await.unwrap().completed, 1);
        assert_eq!(app.db.run_summaries(&reads, None, 9).await.unwrap().len(), 1);
        app.submit(&permit(), NewTask { run: Some(run_id("r")), ..needs("c", &["a"]) }).await.unwrap();
        let b = claim(&app, NOW).await.unwrap();
        assert_eq!(b.id, id("b"));
        finish(&app, &b).await.unwrap();

        // Who wants a value that is not there any more is told so, and so is who looks for what is wrong.
        let lost = app.db.task(&reads, &id("a")).await.unwrap_err();
        assert!(matches!(&lost, DbError::Failed { source, .. } if source.to_string().contains("no blob")), "{lost:?}");
        let refused = app.end_run(&permit(), &run_id("r"), End::Completed, None).await;
        assert!(matches!(refused, Err(RunError::Db(_))), "{refused:?}");
        let said: Vec<String> = app.db.audit().await.unwrap().findings.iter().map(ToString::to_string).collect();
        assert!(said.iter().all(|said| said.contains("has a value whose blob")) && said.len() == 4, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_nobody_names_or_that_is_cut_is_found() {
    let directory = in_memory();
    for address in [Some(sqlite(&directory)), postgres::new_schema().await].iter().flatten() {
        let app = open(address, Limits::default()).await;
        app.submit(&permit(), heavy("a")).await.unwrap();
        app.submit(&permit(), heavy("b")).await.unwrap();
        tamper(address, "update task set input_blob = null, input = '1' where id = 'a'").await;
        tamper(address, "update blob set size = 1 where sha256 in (select input_blob from task)").await;
        let said: Vec<String> = app.db.audit().await.unwrap().findings.iter().map(ToString::to_string).collect();
        let found = |what: &str| said.iter().filter(|said| said.contains(what)).count();
        assert_eq!((found("no row names it"), found("but should have 1"), said.len()), (1, 1, 2), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_that_an_older_version_left_in_its_row_is_read() {
    on_every_address(async |address| {
        let app = open(address, Limits::default()).await;
        app.submit(&permit(), new("a")).await.unwrap();
        tamper(address, &format!("update task set input = '{}' where id = 'a'", large("old"))).await;
        let held = claim(&app, NOW).await.unwrap();
        assert_eq!(held.input, large("old"));
        finish(&app, &held).await.unwrap();
        assert_eq!(task(&app, "a").await.unwrap().input, large("old"));
    })
    .await;
}
