//! What tasks can rely on.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::json;
use skep_core::{
    Timestamp,
    app::TaskError,
    artefact::NewArtefact,
    limits::{self, Invalid},
    run::RunId,
    task::{Attempt, Failure, NewTask, Priority, RETRY_DELAY, Refused, State, Task},
};
use tokio::task::JoinSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_to_one_worker_only() {
    on_every_database(async |app| {
        for n in 0..200 {
            app.submit(&permit(), new(&format!("t{n}"))).await.unwrap();
        }
        let mut workers = JoinSet::new();
        for _ in 0..8 {
            let app = app.clone();
            workers.spawn(async move {
                let mut mine = Vec::new();
                while let Some(task) = claim(&app, NOW).await {
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
async fn submitting_twice_under_one_id_is_submitting_once() {
    on_every_database(async |app| {
        let first = app.submit(&permit(), new("a")).await.unwrap();
        let second = app.at(LATER).submit(&permit(), new("a")).await.unwrap();
        assert_eq!(first, second);
        let held = claim(&app, NOW).await.unwrap();
        finish(&app, &held).await.unwrap();
        let third = app.submit(&permit(), new("a")).await.unwrap();
        assert_eq!(Some(&third), task(&app, "a").await.as_ref());
        assert_eq!(third.state.name(), "completed", "it is told as it is by then");
        assert_eq!(count(&app, "task.submitted").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_task_of_the_same_id_that_says_something_else_is_refused_and_the_difference_is_named() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        app.submit(&permit(), new("b")).await.unwrap();
        let others = [
            ("input", NewTask { input: json!("other").into(), ..new("b") }),
            ("priority", NewTask { priority: Priority::High, ..new("b") }),
            ("list of dependencies", needs("b", &["a"])),
            ("number of retries", NewTask { retries_max: 1, ..new("b") }),
        ];
        for (differs, other) in others {
            let refused = app.submit(&permit(), other).await;
            let Err(TaskError::Conflict { task, what }) = refused else { panic!("{refused:?}") };
            assert_eq!((task, what), (id("b"), differs));
        }
        let later = NewTask { deadline: Some(LATER), ..new("b") };
        app.submit(&permit(), later).await.unwrap();
        assert_eq!(task(&app, "b").await.unwrap().deadline, None, "times are not compared, and the first one counts");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_comes_back_as_it_was_declared() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        let declared = NewTask {
            input: json!({ "z": 1, "a": ["\u{0}", "ü", 1.5, null], "big": 9_007_199_254_740_993i64 }).into(),
            retries_max: 3,
            retry_delay: Duration::from_millis(1500),
            ..optional("b", &["a", "a"])
        };
        let submitted = app.submit(&permit(), declared.clone()).await.unwrap();
        let read = task(&app, "b").await.unwrap();
        assert_eq!(submitted, read);
        assert_eq!(read.input.to_string(), declared.input.to_string(), "in its order, too");
        assert_eq!(read.depends_on, [id("a")], "once is enough");
        let declared = (declared.retries_max, declared.retry_delay, declared.allow_failure, declared.queue);
        assert_eq!((read.retries_max, read.retry_delay, read.allow_failure, read.queue), declared);
        assert_eq!(read.state, State::Pending { due: NOW, waiting_for: 1 });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_tasks_in_a_queue_the_longest_due_goes_first_and_then_the_first_declared() {
    on_every_database(async |app| {
        app.at(Timestamp(0)).submit(&permit(), NewTask { queue: "other".into(), ..new("elsewhere") }).await.unwrap();
        app.at(Timestamp(2)).submit(&permit(), new("later")).await.unwrap();
        // Their names say the opposite of their order.
        let tasks = ["z", "y", "x"].map(new).to_vec();
        app.at(Timestamp(1)).start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let mut order = Vec::new();
        while let Some(task) = claim(&app, NOW).await {
            order.push(task.id.0);
        }
        assert_eq!(order, ["z", "y", "x", "later"]);
        assert_eq!(app.db.next_due(&permit().to_read(), "other").await.unwrap(), Some(Timestamp(0)));
        assert_eq!(app.db.next_due(&permit().to_read(), "q").await.unwrap(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_repeated_after_its_wait_and_not_before() {
    on_every_database(async |app| {
        app.submit(&permit(), NewTask { retries_max: 1, ..new("a") }).await.unwrap();
        let first = claim(&app, NOW).await.unwrap();
        fail(&app, &first, true).await.unwrap();
        let State::Pending { due, .. } = state(&app, "a").await else { panic!("not pending") };
        let wait = Duration::from_micros((due.0 - NOW.0) as u64);
        assert!(wait.abs_diff(RETRY_DELAY) <= RETRY_DELAY / 5, "{wait:?}");
        assert_eq!(app.db.next_due(&permit().to_read(), "q").await.unwrap(), Some(due));
        assert_eq!(claim(&app, Timestamp(due.0 - 1)).await, None);
        let second = claim(&app, due).await.unwrap();
        assert_eq!((second.attempt, second.failures), (2, 1));
        fail(&app, &second, true).await.unwrap();
        assert_eq!(state(&app, "a").await, State::Failed("boom".into()));
        let story = story(&app).await;
        assert_eq!(story[2], "task.retried a");
        assert_eq!(story[4], "task.failed a");
        assert_eq!(data(&log(&app).await[2])["error"], "boom");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_keeps_what_its_last_attempt_produced() {
    on_every_database(async |app| {
        app.submit(&permit(), NewTask { retries_max: 1, ..new("a") }).await.unwrap();
        let printed =
            |text: &str| Failure { error: "exited with code 1".into(), output: json!({ "stdout": text }).into() };
        let first = claim(&app, NOW).await.unwrap();
        app.fail(&permit(), &first.id, attempt(&first), printed("first"), true).await.unwrap();
        let second = claim(&app, LATER).await.unwrap();
        let large = Failure { output: json!("x".repeat(limits::OUTPUT_BYTES_MAX)).into(), ..printed("") };
        let refused = app.at(LATER).fail(&permit(), &second.id, attempt(&second), large, true).await;
        assert!(matches!(refused, Err(TaskError::Invalid(Invalid::TooLarge { .. }))), "{refused:?}");
        app.at(LATER).fail(&permit(), &second.id, attempt(&second), printed("second"), true).await.unwrap();
        assert_eq!(state(&app, "a").await, State::Failed(printed("second")));
        let failed = log(&app).await.into_iter().find(|event| event.kind.name() == "task.failed").unwrap();
        assert_eq!(data(&failed)["error"], "exited with code 1");
        assert_eq!(data(&failed).get("output"), None, "an event carries no output");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_refused_and_kept_for_people_to_see() {
    on_every_database(async |app| {
        app.submit(&permit(), NewTask { retries_max: 2, ..new("a") }).await.unwrap();
        let slow = claim(&app, NOW).await.unwrap();
        assert_eq!(app.lose(NOW).await.len(), 1);
        let late = app.at(LATER).finish(&permit(), &slow.id, attempt(&slow), json!("precious"), Vec::new()).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::NotHeld))), "{late:?}");
        let quick = claim(&app, LATER).await.unwrap();
        finish(&app, &quick).await.unwrap();
        let late = fail(&app, &slow, true).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::Over("completed")))), "{late:?}");

        assert_eq!(state(&app, "a").await, State::Completed(json!({ "by": 2 }).into()));
        let log = log(&app).await;
        let refused: Vec<_> = log.iter().filter(|event| event.kind.name() == "task.answer_refused").collect();
        assert_eq!(refused.len(), 2);
        assert_eq!(data(refused[0])["output"], "precious");
        assert_eq!(data(refused[1])["error"], "boom");
        assert_eq!((&data(refused[1])["worker"], &data(refused[1])["attempt"]), (&json!("w"), &json!(1)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_brought_again_counts_once_and_is_no_error() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        app.submit(&permit(), needs("b", &["a"])).await.unwrap();
        app.submit(&permit(), needs("c", &["a", "b"])).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        finish(&app, &held).await.unwrap();
        let first = task(&app, "a").await;
        finish(&app, &held).await.unwrap();
        assert_eq!(task(&app, "a").await, first);
        assert_eq!(state(&app, "c").await, State::Pending { due: NOW, waiting_for: 1 });
        assert_eq!(count(&app, "task.completed").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_blocks_what_needs_it_directly_or_through_others() {
    on_every_database(async |app| {
        let tasks = vec![
            new("root"),
            new("free"),
            needs("child", &["root", "free"]),
            needs("grandchild", &["child"]),
            needs("untouched", &["free"]),
        ];
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let root = claim(&app, NOW).await.unwrap();
        fail(&app, &root, true).await.unwrap();
        for name in ["child", "grandchild"] {
            assert_eq!(state(&app, name).await, State::Blocked(id("root")));
        }
        assert_eq!(state(&app, "untouched").await, State::Pending { due: NOW, waiting_for: 1 });
        let story = story(&app).await;
        assert_eq!(story[story.len() - 2..], ["task.blocked child", "task.blocked grandchild"]);
        assert_eq!(data(&log(&app).await.pop().unwrap()), json!({ "by": "root" }));

        let free = claim(&app, NOW).await.unwrap();
        finish(&app, &free).await.unwrap();
        assert_eq!(claim(&app, NOW).await.unwrap().id, id("untouched"));
        assert_eq!(claim(&app, NOW).await, None, "what is blocked stays blocked");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_blocks_what_needs_it() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        app.submit(&permit(), needs("b", &["a"])).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        app.cancel(&permit(), &id("a")).await.unwrap();
        assert_eq!(state(&app, "b").await, State::Blocked(id("a")));
        let late = finish(&app, &held).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::Over("cancelled")))), "{late:?}");
        let again = app.cancel(&permit(), &id("a")).await;
        assert!(matches!(again, Err(TaskError::Refused(Refused::Over(_)))), "{again:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_an_optional_task_goes_on_however_that_ends() {
    on_every_database(async |app| {
        let tasks = vec![
            optional("fails", &[]),
            new("breaks"),
            optional("skipped", &["breaks"]),
            needs("goes on", &["fails", "skipped"]),
            needs("does not", &["skipped", "breaks"]),
        ];
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        for _ in 0..2 {
            let held = claim(&app, NOW).await.unwrap();
            fail(&app, &held, false).await.unwrap();
        }
        assert_eq!(state(&app, "skipped").await, State::Blocked(id("breaks")));
        assert_eq!(state(&app, "does not").await, State::Blocked(id("breaks")));
        assert_eq!(claim(&app, NOW).await.unwrap().id, id("goes on"));
        let counts = app.db.count_tasks(&permit().to_read(), &RunId("r".into())).await.unwrap();
        assert_eq!((counts.failed, counts.failed_allowed, counts.blocked, counts.in_progress), (1, 1, 2, 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_submitted_late_finds_its_dependencies_as_they_are() {
    on_every_database(async |app| {
        for task in [new("done"), optional("gave up", &[]), new("failed"), new("open")] {
            app.submit(&permit(), task).await.unwrap();
        }
        for _ in 0..3 {
            let held = claim(&app, NOW).await.unwrap();
            match held.id.0.as_str() {
                "done" => finish(&app, &held).await.unwrap(),
                _ => drop(fail(&app, &held, false).await.unwrap()),
            }
        }
        let ready = app.submit(&permit(), needs("1", &["done", "gave up"])).await.unwrap();
        assert_eq!(ready.state, State::Pending { due: NOW, waiting_for: 0 });
        let waits = app.submit(&permit(), needs("2", &["done", "open"])).await.unwrap();
        assert_eq!(waits.state, State::Pending { due: NOW, waiting_for: 1 });
        let blocked = app.submit(&permit(), needs("3", &["open", "failed"])).await.unwrap();
        assert_eq!(blocked.state, State::Blocked(id("failed")));
        assert_eq!(task(&app, "3").await, Some(blocked));
        assert_eq!(story(&app).await.pop().unwrap(), "task.blocked 3");

        let unknown = app.submit(&permit(), needs("4", &["done", "never"])).await;
        assert!(matches!(unknown, Err(TaskError::Invalid(Invalid::UnknownDependency { on, .. })) if on == id("never")));
        let itself = app.submit(&permit(), needs("5", &["5"])).await;
        assert!(matches!(itself, Err(TaskError::Invalid(Invalid::Cycle(_)))), "{itself:?}");
    })
    .await;
}

/// Every task of a wide and deep graph starts after all that it needs, and once, though many workers end tasks at the
/// same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dependency_is_released_exactly_once_among_many_workers() {
    const WIDTH: usize = 12;
    const DEPTH: usize = 5;
    on_every_database(async |app| {
        let name = |layer: usize, n: usize| format!("{layer}-{n}");
        let mut tasks = Vec::new();
        for layer in 0..DEPTH {
            for n in 0..WIDTH {
                // Every third of the layer before, so that each is needed by several.
                let before: Vec<String> =
                    (0..WIDTH).filter(|m| layer > 0 && (m + n) % 3 == 0).map(|m| name(layer - 1, m)).collect();
                let before: Vec<&str> = before.iter().map(String::as_str).collect();
                tasks.push(needs(&name(layer, n), &before));
            }
        }
        let graph: HashMap<_, _> = tasks.iter().map(|task| (task.id.clone(), task.depends_on.clone())).collect();
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut workers = JoinSet::new();
        for _ in 0..8 {
            let (app, done, graph) = (app.clone(), Arc::clone(&done), graph.clone());
            let mut watch = app.db.watch(&permit().to_read());
            workers.spawn(async move {
                while done.lock().unwrap().len() < WIDTH * DEPTH {
                    watch.mark_seen();
                    let Some(task) = claim(&app, NOW).await else {
                        watch.changed().await; // an answer of somebody else
                        continue;
                    };
                    {
                        let mut done = done.lock().unwrap();
                        assert!(graph[&task.id].iter().all(|need| done.contains(need)), "{} is early", task.id.0);
                        done.push(task.id.clone());
                    }
                    finish(&app, &task).await.unwrap();
                }
            });
        }
        workers.join_all().await;
        assert_eq!(count(&app, "task.started").await, WIDTH * DEPTH);
        assert_eq!(count(&app, "task.completed").await, WIDTH * DEPTH);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn artefacts_are_kept_with_the_answer_that_counts_and_no_other() {
    on_every_database(async |app| {
        app.start_run(&permit(), new_run("r"), vec![NewTask { retries_max: 1, ..new("a") }]).await.unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let file = |path: &str, bytes: &[u8]| NewArtefact { path: path.into(), bytes: bytes.to_vec() };
        let slow = claim(&app, NOW).await.unwrap();
        app.lose(NOW).await;
        let quick = claim(&app, LATER).await.unwrap();
        let late = app.at(LATER).finish(&permit(), &slow.id, attempt(&slow), json!(1), vec![file("late", b"x")]).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::NotHeld))), "{late:?}");
        let files = vec![file("out/b.bin", &bytes), file("out/empty", b"")];
        app.at(LATER).finish(&permit(), &quick.id, attempt(&quick), json!(2), files).await.unwrap();

        let (permit, r) = (permit(), RunId("r".into()));
        let kept = app.db.artefacts(&permit.to_read(), &r, None, 10).await.unwrap();
        assert_eq!(app.db.artefacts(&permit.to_read(), &r, None, 1).await.unwrap(), kept[..1]);
        let first = (kept[0].task.clone(), kept[0].path.clone());
        assert_eq!(app.db.artefacts(&permit.to_read(), &r, Some(first), 10).await.unwrap(), kept[1..]);
        assert_eq!(app.db.artefact_of_run(&permit.to_read(), &r, "out/b.bin").await.unwrap().as_ref(), Some(&bytes));
        let paths: Vec<_> = kept.iter().map(|artefact| (artefact.path.as_str(), artefact.size)).collect();
        assert_eq!(paths, [("out/b.bin", 100_000), ("out/empty", 0)]);
        assert_eq!(kept[1].sha256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let read = async |path| app.db.artefact(&permit.to_read(), &id("a"), path).await.unwrap();
        assert_eq!(read("out/b.bin").await, Some(bytes));
        assert_eq!(read("late").await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_cannot_be_named_is_refused_and_changes_nothing() {
    on_every_database(async |app| {
        let large = |bytes: usize| Json::from(json!("x".repeat(bytes - 2)));
        let input = |value| NewTask { input: value, ..new("a") };
        for task in [
            input(large(limits::INPUT_BYTES_MAX + 1)),
            NewTask { queue: "a\0b".into(), ..new("a") },
            NewTask { step: Some(String::new()), ..new("a") },
            new(""),
            new(&"x".repeat(limits::NAME_BYTES_MAX + 1)),
        ] {
            let refused = app.submit(&permit(), task).await;
            assert!(matches!(refused, Err(TaskError::Invalid(_))), "{refused:?}");
        }
        assert!(log(&app).await.is_empty());
        app.submit(&permit(), input(large(limits::INPUT_BYTES_MAX))).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        let by = attempt(&held);
        let output = large(limits::OUTPUT_BYTES_MAX + 1);
        let refused = app.finish(&permit(), &held.id, by.clone(), output, Vec::new()).await;
        assert!(matches!(refused, Err(TaskError::Invalid(Invalid::TooLarge { .. }))), "{refused:?}");
        assert_eq!(state(&app, "a").await, held.state, "the worker still has it, and can say so");
        app.fail(&permit(), &held.id, by, "\0".repeat(limits::ERROR_BYTES_MAX + 1).into(), false).await.unwrap();
        let State::Failed(Failure { error, .. }) = state(&app, "a").await else { panic!("not failed") };
        assert!(error.ends_with("(cut)"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_know_nothing_of_each_other() {
    on_every_database(async |app| {
        let other = permit_in("other");
        app.submit(&permit(), new("a")).await.unwrap();
        app.submit(&other, NewTask { input: json!("other").into(), ..new("a") }).await.unwrap();
        app.submit(&other, needs("b", &["a"])).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        finish(&app, &held).await.unwrap();
        assert_eq!(claim(&app, NOW).await, None);
        let theirs = app.db.task(&other.to_read(), &id("b")).await.unwrap().unwrap();
        assert_eq!(theirs.state, State::Pending { due: NOW, waiting_for: 1 });
        let unknown = app.cancel(&permit(), &id("b")).await;
        assert!(matches!(unknown, Err(TaskError::Unknown(_))), "{unknown:?}");
        assert_eq!(all_events(&app, &other.to_read()).await.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_workers_say_comes_back_to_the_byte() {
    on_every_database(async |app| {
        // Not as serde_json would write it, and nothing that it could read as a `Value`.
        let json = |name: &str| Json::from_text(format!(r#"{{ "{name}":	1.50, "x": "\ud800\u0000" }}"#)).unwrap();
        let input = |name: &str| NewTask { input: json(name), ..new(name) };
        app.submit(&permit(), input("a")).await.unwrap();
        app.submit(&permit(), input("b")).await.unwrap();
        let (a, b) = (claim(&app, NOW).await.unwrap(), claim(&app, NOW).await.unwrap());
        assert_eq!((&a.input, &b.input), (&json("a"), &json("b")));
        app.finish(&permit(), &a.id, attempt(&a), json("out"), Vec::new()).await.unwrap();
        let failure = Failure { error: "no".into(), output: json("printed") };
        app.fail(&permit(), &b.id, attempt(&b), failure.clone(), false).await.unwrap();
        assert_eq!(state(&app, "a").await, State::Completed(json("out")));
        assert_eq!(state(&app, "b").await, State::Failed(failure));
        app.finish(&permit(), &b.id, attempt(&b), json("late"), Vec::new()).await.unwrap_err();
        let told = log(&app).await.pop().unwrap();
        assert!(told.kind.data().as_str().contains(json("late").as_str()), "{told:?}");
    })
    .await;
}

/// A graph, and how each of its tasks would end if it started.
#[derive(Clone, Debug)]
struct Fate {
    /// Which of the tasks before it each needs, whether it is optional, whether it fails.
    tasks: Vec<(Vec<usize>, bool, bool)>,
}

fn fate() -> impl Strategy<Value = Fate> {
    let task = (prop::collection::vec(any::<prop::sample::Index>(), 0..3), any::<bool>(), any::<bool>());
    prop::collection::vec(task, 1..9).prop_map(|tasks| {
        let before = |(n, (needs, optional, fails)): (usize, (Vec<prop::sample::Index>, bool, bool))| {
            let needs: HashSet<usize> = needs.into_iter().filter(|_| n > 0).map(|need| need.index(n)).collect();
            (needs.into_iter().collect(), optional, fails)
        };
        Fate { tasks: tasks.into_iter().enumerate().map(before).collect() }
    })
}

/// How it must end, by the rules as one would tell them: a task starts when each of those it needs has completed or
/// was optional, and is blocked when one of the others did not complete.
fn ends(fate: &Fate) -> Vec<&'static str> {
    let mut ends: Vec<&'static str> = Vec::new();
    for (needs, _, fails) in &fate.tasks {
        let lets_go_on = |need: &usize| ends[*need] == "completed" || fate.tasks[*need].1;
        ends.push(match (needs.iter().all(lets_go_on), fails) {
            (false, _) => "blocked",
            (true, true) => "failed",
            (true, false) => "completed",
        });
    }
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn any_graph_ends_as_its_rules_say() {
    on_every_database(async |app| {
        let handle = tokio::runtime::Handle::current();
        let cases = std::sync::atomic::AtomicU32::new(0);
        let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
        let result = tokio::task::block_in_place(|| {
            TestRunner::new(config).run(&fate(), |fate| {
                let case = cases.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let found = handle.block_on(run_to_its_end(&app, &format!("case {case}"), &fate));
                prop_assert_eq!(found, ends(&fate));
                Ok(())
            })
        });
        result.unwrap();
    })
    .await;
}

async fn run_to_its_end(app: &Hub, namespace: &str, fate: &Fate) -> Vec<&'static str> {
    let permit = permit_in(namespace);
    let name = |n: usize| n.to_string();
    let declare = |(n, (needs, optional, _)): (usize, &(Vec<usize>, bool, bool))| NewTask {
        depends_on: needs.iter().map(|need| id(&name(*need))).collect(),
        allow_failure: *optional,
        ..new(&name(n))
    };
    let tasks = fate.tasks.iter().enumerate().map(declare).collect();
    app.register(&permit, "test").await;
    app.start_run(&permit, new_run("r"), tasks).await.unwrap();
    while let Some(task) = app.claim(&permit, "q", &holder("w")).await.unwrap() {
        let by = Attempt { worker: worker("w"), epoch: task.epoch, number: task.attempt };
        if fate.tasks[task.id.0.parse::<usize>().unwrap()].2 {
            app.fail(&permit, &task.id, by, "fate".into(), true).await.unwrap();
        } else {
            app.finish(&permit, &task.id, by, json!(null), Vec::new()).await.unwrap();
        }
    }
    let tasks: Vec<Task> = tasks_of(app, &permit, "r").await;
    tasks.iter().map(|task| task.state.name()).collect()
}
