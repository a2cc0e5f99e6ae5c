//! What readers of the log can rely on.

use skep_core::{limits, run::End};
use tokio::task::JoinSet;

use super::*;

/// Two hubs write; a reader that follows the numbers as fast as it can must never meet a number whose predecessor it
/// has not seen, for it would never look back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_who_follows_the_numbers_misses_nothing_while_many_write() {
    const WRITERS: usize = 12;
    const EACH: usize = 25;
    on_every_address(async |address| {
        let hubs = [open(address, Limits::default()).await, open(address, Limits::default()).await];
        let mut writers = JoinSet::new();
        for n in 0..WRITERS {
            let app = hubs[n % 2].clone();
            writers.spawn(async move {
                for m in 0..EACH {
                    app.submit(&permit(), new(&format!("{n}-{m}"))).await.unwrap();
                }
            });
        }
        let (app, mut seen) = (&hubs[0], 0);
        while seen < (WRITERS * EACH) as i64 {
            for event in events(app, EventFilter::default(), seen).await {
                assert_eq!(event.number, seen + 1, "a number was skipped");
                seen = event.number;
            }
        }
        writers.join_all().await;
        assert_eq!(log(app).await.len(), WRITERS * EACH);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_woken_by_every_commit_that_brought_events_and_by_no_other() {
    on_every_database(async |app| {
        let mut watch = app.db.watch(&permit().to_read());
        app.submit(&permit(), new("a")).await.unwrap();
        assert!(watch.has_changed(), "before the caller is told");
        watch.mark_seen();
        claim(&app, NOW).await.unwrap();
        assert!(watch.has_changed());
        watch.mark_seen();
        assert_eq!(claim(&app, NOW).await, None);
        app.submit(&permit(), new("a")).await.unwrap();
        app.beat(&HubId("test".into()), ALIVE).await.unwrap();
        app.submit(&permit_in("another"), new("a")).await.unwrap();
        assert!(!watch.has_changed(), "there is nothing to look at");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_entry_is_kept_with_its_run_and_task_up_to_its_limit() {
    on_every_database(async |app| {
        app.start_run(&permit(), new_run("r"), vec![new("a")]).await.unwrap();
        app.start_run(&permit(), new_run("s"), vec![new("b")]).await.unwrap();
        let (r, a) = (RunId("r".into()), id("a"));
        app.at(LATER).log(&permit(), &r, Some(&a), "line\n\0", Some(json!({ "n": 1 }).into())).await.unwrap();
        app.at(LATER).log(&permit(), &r, None, "no data", None).await.unwrap();
        let large = app.at(LATER).log(&permit(), &r, None, &"x".repeat(limits::LOG_BYTES_MAX), None).await;
        assert!(matches!(large, Err(TaskError::Invalid(_))), "{large:?}");
        app.at(LATER).end_run(&permit(), &r, End::Completed, None).await.unwrap();

        let events = events(&app, EventFilter::of_run(&r), 0).await;
        let kinds: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
        let expected = ["run.started", "task.submitted", "task.log", "task.log", "task.cancelled", "run.ended"];
        assert_eq!(kinds, expected, "only its own");
        assert_eq!((&events[2].task, events[2].at), (&Some(a), LATER));
        assert_eq!(data(&events[2]), json!({ "message": "line\n\0", "data": { "n": 1 } }));
        assert_eq!(data(&events[3]), json!({ "message": "no data" }));
        assert_eq!(self::events(&app, EventFilter::of_run(&r), events[2].number).await, events[3..]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_events_has_its_limit() {
    on_every_database(async |app| {
        let tasks = (0..limits::PAGE_MAX).map(|n| new(&n.to_string())).collect();
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let mut follower = app.follow(&reader_in("main"), EventFilter::default(), 0);
        for expected in [limits::PAGE_MAX, 1] {
            let Some(News::Events(page)) = follower.look().await.unwrap() else { panic!("there are more") };
            assert_eq!(page.len(), expected);
        }
        assert_eq!(follower.look().await.unwrap(), None);
    })
    .await;
}
