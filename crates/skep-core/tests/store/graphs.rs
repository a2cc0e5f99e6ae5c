//! Tasks that are submitted, cancelled, done again and listed together.

use std::collections::BTreeSet;

use skep_core::{
    db::{TaskCounts, TaskFilter, TaskPage},
    limits::{Invalid, SUBMITTED_MAX},
    memory::Query,
    task::{Details, Priority, Refused},
};

use super::*;

fn part_of(parent: &str, name: &str) -> NewTask {
    NewTask { details: Details { parent: Some(id(parent)), ..Details::default() }, ..new(name) }
}

fn about(title: &str, description: &str) -> Details {
    Details { title: Some(title.into()), description: Some(description.into()), ..Details::default() }
}

fn names(tasks: &[Task]) -> Vec<&str> {
    tasks.iter().map(|task| task.id.0.as_str()).collect()
}

async fn list(app: &Hub, filter: TaskFilter) -> Vec<String> {
    let page = app.db.list_tasks(&permit().to_read(), filter, None, 100).await.unwrap();
    assert_eq!(page.next, None);
    page.tasks.into_iter().map(|task| task.id.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_is_submitted_in_any_order_and_done_in_that_of_its_dependencies() {
    on_every_database(async |app| {
        app.submit(&permit(), new("before")).await.unwrap();
        let graph = vec![needs("last", &["b", "a"]), needs("b", &["a", "before"]), new("a"), new("z"), new("alone")];
        let submitted = app.submit_all(&permit(), graph.clone()).await.unwrap();
        assert_eq!(names(&submitted), ["last", "b", "a", "z", "alone"]);
        assert_eq!(submitted[0].state, State::Pending { due: NOW, waiting_for: 2 });
        assert_eq!(submitted, app.submit_all(&permit(), graph).await.unwrap(), "twice is once");
        let mut order = Vec::new();
        while let Some(task) = claim(&app, NOW).await {
            finish(&app, &task).await.unwrap();
            order.push(task.id.0);
        }
        assert_eq!(order, ["before", "a", "b", "last", "z", "alone"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_graph_that_cannot_be_nothing_is_kept() {
    on_every_database(async |app| {
        app.submit(&permit(), new("taken")).await.unwrap();
        let bad = [
            vec![new("a"), needs("b", &["never"])],
            vec![new("a"), needs("b", &["c"]), needs("c", &["b"])],
            vec![new("a"), new("a")],
            vec![new("a"), part_of("never", "b")],
            vec![new("a"), part_of("b", "b")],
            (0..=SUBMITTED_MAX).map(|n| new(&n.to_string())).collect(),
        ];
        for tasks in bad {
            let refused = app.submit_all(&permit(), tasks).await;
            assert!(matches!(refused, Err(TaskError::Invalid(_))), "{refused:?}");
        }
        let other = NewTask { priority: Priority::Low, ..new("taken") };
        let refused = app.submit_all(&permit(), vec![new("a"), other]).await;
        assert!(matches!(&refused, Err(TaskError::Conflict { what: "priority", .. })), "{refused:?}");
        assert_eq!(story(&app).await, ["task.submitted taken"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_something_that_has_failed_is_blocked_in_a_new_graph_as_well() {
    on_every_database(async |app| {
        app.submit(&permit(), new("failed")).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        fail(&app, &held, false).await.unwrap();
        let graph = vec![needs("c", &["b"]), needs("b", &["failed"]), optional("d", &["failed"]), needs("e", &["d"])];
        let submitted = app.submit_all(&permit(), graph).await.unwrap();
        let blocked = State::Blocked(id("failed"));
        assert_eq!((&submitted[0].state, &submitted[1].state, &submitted[2].state), (&blocked, &blocked, &blocked));
        assert_eq!(submitted[3].state, State::Pending { due: NOW, waiting_for: 0 }, "what it needs is optional");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_cancelled_takes_its_parts_along_and_theirs() {
    on_every_database(async |app| {
        let graph = vec![
            needs("whole", &["part", "done"]),
            part_of("whole", "part"),
            part_of("part", "part of part"),
            part_of("whole", "done"),
            new("other"),
        ];
        app.submit_all(&permit(), graph).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        assert_eq!(held.id, id("part"));
        let parts = app.claim_many(&permit(), "q", &holder("w"), 2).await.unwrap();
        finish(&app, &parts[1]).await.unwrap();
        app.cancel(&permit(), &id("whole")).await.unwrap();
        for name in ["whole", "part", "part of part"] {
            assert_eq!(state(&app, name).await, State::Cancelled, "{name}");
        }
        assert_eq!((state(&app, "done").await.name(), state(&app, "other").await.name()), ("completed", "pending"));
        let late = finish(&app, &held).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::Over("cancelled")))), "{late:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_is_done_again_with_what_it_blocked() {
    on_every_database(async |app| {
        let graph = vec![new("a"), new("b"), needs("c", &["a"]), needs("d", &["c", "b"]), needs("e", &["b"])];
        app.submit_all(&permit(), graph).await.unwrap();
        for _ in 0..2 {
            let held = claim(&app, NOW).await.unwrap();
            fail(&app, &held, false).await.unwrap();
        }
        let refused = app.retry(&permit(), &id("d")).await;
        assert!(matches!(refused, Err(TaskError::NotToRetry { state: "blocked", .. })), "{refused:?}");
        let mut again = app.retry(&permit(), &id("a")).await.unwrap();
        again.sort();
        assert_eq!(again, [id("a"), id("c")], "the others need b, too");
        assert_eq!(app.retry(&permit(), &id("b")).await.unwrap().len(), 3);
        let mut done = BTreeSet::new();
        while let Some(task) = claim(&app, NOW).await {
            finish(&app, &task).await.unwrap();
            done.insert(task.id.0);
        }
        assert_eq!(done.len(), 5);
        let refused = app.retry(&permit(), &id("a")).await;
        assert!(matches!(refused, Err(TaskError::NotToRetry { state: "completed", .. })), "{refused:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_says_comes_back_and_is_gone_with_its_run() {
    let events_missing = on_every_address_with_deletions(async |address| {
        let app = open(address, Limits::default()).await;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
        let details = Details {
            title: Some("Build the API".into()),
            description: Some("with \"quotes\"".into()),
            kind: Some("backend".into()),
            parent: None,
            capabilities: words(&["rust", "sql"]),
            labels: words(&["urgent"]),
        };
        let saying = NewTask { details: details.clone(), ..new("a") };
        app.start_run(&permit(), new_run("r"), vec![saying.clone(), new("b")]).await.unwrap();
        app.submit(&permit(), NewTask { id: id("c"), ..saying }).await.unwrap();
        let found = app.db.task_details(&permit().to_read(), ["a", "b", "c"].map(id).to_vec()).await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((&found[&id("a")], &found[&id("c")]), (&details, &details));
        let other =
            app.submit(&permit(), NewTask { details: Details { labels: words(&[]), ..details }, ..new("c") }).await;
        assert!(matches!(other, Err(TaskError::Conflict { .. })), "{other:?}");
        app.end_run(&permit(), &RunId("r".into()), skep_core::run::End::Cancelled, None).await.unwrap();
        app.delete_run(&permit(), &RunId("r".into())).await.unwrap();
        let found = app.db.task_details(&permit().to_read(), ["a", "c"].map(id).to_vec()).await.unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [id("c")]);
    })
    .await;
    assert!(events_missing.iter().all(|missing| *missing > 0), "{events_missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_by_what_they_are_and_each_once_whatever_happens_meanwhile() {
    on_every_database(async |app| {
        let labelled = |name: &str| NewTask {
            details: Details {
                labels: BTreeSet::from(["x".to_owned()]),
                kind: Some("qa".into()),
                ..Details::default()
            },
            ..new(name)
        };
        let graph = vec![
            NewTask { priority: Priority::High, details: about("Build the API", "in Rust"), ..new("a") },
            NewTask { queue: "other".into(), ..new("b") },
            needs("c", &["a"]),
            labelled("d"),
            part_of("d", "e"),
        ];
        app.submit_all(&permit(), graph).await.unwrap();
        app.start_run(&permit(), new_run("r"), vec![new("f")]).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        assert_eq!(held.id, id("a"));
        let any = TaskFilter::default;
        let query = |text: &str| TaskFilter { query: Some(Query::new(text).unwrap()), ..TaskFilter::default() };
        let expected: [(TaskFilter, &[&str]); 14] = [
            (query("api rust"), &["a"]),
            (query("Build th"), &["a"]),
            (query("api python"), &[]),
            (query("ru the"), &[]),
            (any(), &["f", "e", "d", "c", "b", "a"]),
            (TaskFilter { states: vec!["in_progress".into()], ..any() }, &["a"]),
            (TaskFilter { states: vec!["pending".into(), "failed".into()], ..any() }, &["f", "e", "d", "c", "b"]),
            (TaskFilter { queue: Some("other".into()), ..any() }, &["b"]),
            (TaskFilter { priority: Some(Priority::High), ..any() }, &["a"]),
            (TaskFilter { run: Some(RunId("r".into())), ..any() }, &["f"]),
            (TaskFilter { worker: Some(worker("w")), ..any() }, &["a"]),
            (TaskFilter { kind: Some("qa".into()), ..any() }, &["d"]),
            (TaskFilter { parent: Some(id("d")), queue: Some("q".into()), ..any() }, &["e"]),
            (TaskFilter { label: Some("x".into()), ..any() }, &["d"]),
        ];
        for (filter, found) in expected {
            assert_eq!(list(&app, filter.clone()).await, found, "{filter:?}");
        }
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = app.db.list_tasks(&permit().to_read(), any(), before, 2).await.unwrap();
            let TaskPage { tasks, next } = page;
            seen.extend(tasks.into_iter().map(|task| task.id.0));
            let Some(next) = next else { break };
            app.submit(&permit(), new(&format!("z{}", seen.len()))).await.unwrap();
            before = Some(next);
        }
        assert_eq!(seen, ["f", "e", "d", "c", "b", "a"]);
        let counts = app.db.count_all_tasks(&permit().to_read()).await.unwrap();
        assert_eq!(counts, TaskCounts { pending: 8, in_progress: 1, ..TaskCounts::default() });
        let none = app.db.list_tasks(&reader_in("other"), any(), None, 10).await.unwrap();
        assert_eq!(none, TaskPage::default(), "another team sees none of it");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_a_thousand_is_refused_by_its_names() {
    on_every_database(async |app| {
        let name = |n: usize| format!("t{}", n % SUBMITTED_MAX);
        let graph = (0..SUBMITTED_MAX).map(|n| needs(&name(n), &[&name(n + 1)])).collect();
        let refused = app.submit_all(&permit(), graph).await;
        let Err(TaskError::Invalid(Invalid::Cycle(members))) = refused else { panic!("{refused:?}") };
        assert_eq!(members.len(), SUBMITTED_MAX);
    })
    .await;
}
