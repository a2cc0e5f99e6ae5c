//! What writes that share a commit, or wait for each other, can rely on. The writes are closures that no operation has.
//! What operations promise is tested in `tests/store`.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    task::{JoinSet, block_in_place},
    time::timeout,
};

use self::support::*;
use super::{DbError, News, Tx};
use crate::{
    app::RunError,
    artefact::NewArtefact,
    event::{EventKind, NewEvent},
    message::{MessageKind, NewMessage},
    page::Start,
    run::End,
    step::{Level, NewStep, StepFilter},
    task::Failure,
};

mod batches;
#[expect(dead_code, reason = "tests/store uses all of it")]
#[path = "../../tests/store/support.rs"]
mod support;

/// A write that has changed something and stays where it is until it may go on. It does what no write should: it
/// blocks its thread; so whoever comes meanwhile stands in line, and meets the others in the next step.
struct Held(Arc<Barrier>);

impl Held {
    fn start(app: &Hub) -> (Held, JoinSet<()>) {
        Held::start_as(app, "held")
    }

    fn start_as(app: &Hub, name: &str) -> (Held, JoinSet<()>) {
        let name = name.to_owned();
        let (app, barrier) = (app.clone(), Arc::new(Barrier::new(2)));
        let held = Held(Arc::clone(&barrier));
        let mut write = JoinSet::new();
        write.spawn(async move {
            let (permit, is_first) = (permit(), AtomicBool::new(true));
            let stay = app.db.write(&permit, async move |tx| {
                tx.add_tasks(&[fresh(&name)]).await?;
                tx.append(submitted(&name));
                if is_first.swap(false, Ordering::SeqCst) {
                    barrier.wait(); // it has begun
                    barrier.wait(); // it may go on
                }
                Ok::<(), DbError>(())
            });
            stay.await.unwrap();
        });
        held.proceed();
        (held, write)
    }

    fn proceed(&self) {
        block_in_place(|| self.0.wait());
    }
}

fn fresh(name: &str) -> Task {
    Task::new(new(name), 0, 0, NOW)
}

fn submitted(name: &str) -> NewEvent {
    NewEvent { at: NOW, run: None, task: Some(id(name)), kind: EventKind::TaskSubmitted { queue: "q".into() } }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failing_write_leaves_its_neighbours_in_the_same_commit_alone() {
    on_every_database(async |app| {
        let (held, held_write) = Held::start(&app);
        let permit = permit();
        let failing = app.db.write(&permit, async |tx| {
            tx.add_tasks(&[fresh("failing")]).await?;
            tx.append(submitted("failing"));
            Err::<(), _>(TaskError::Unknown(id("failing")))
        });
        let panicking = app.db.write(&permit, async |tx| {
            tx.add_tasks(&[fresh("panicking")]).await?;
            if true {
                panic!("on purpose");
            }
            Ok::<(), DbError>(())
        });
        // Says yes, and on PostgreSQL it is the commit that finds out.
        let careless = app.db.write(&permit, async |tx| {
            let file = NewArtefact { path: "x".into(), bytes: Vec::new() };
            for _ in 0..2 {
                let _ = tx.add_artefact(&fresh("careless"), &file, "0").await;
            }
            tx.append(submitted("careless"));
            Ok::<(), DbError>(())
        });
        let (before, failing, careless, panicking, after, ()) = tokio::join!(
            app.submit(&permit, new("before")),
            failing,
            careless,
            AssertUnwindSafe(panicking).catch_unwind(),
            app.submit(&permit, new("after")),
            async { held.proceed() },
        );
        held_write.join_all().await;
        assert!(matches!(failing, Err(TaskError::Unknown(_))), "{failing:?}");
        assert!(matches!(careless, Err(DbError::Failed { doing: "commit", .. })), "{careless:?}");
        assert_eq!(panicking.unwrap_err().downcast_ref(), Some(&"on purpose"), "a panic reaches its caller");
        assert_eq!(task(&app, "before").await, Some(before.unwrap()));
        assert_eq!(task(&app, "after").await, Some(after.unwrap()));
        assert_eq!(task(&app, "failing").await, None);
        assert_eq!(task(&app, "panicking").await, None);
        let mut story = story(&app).await;
        story.sort();
        assert_eq!(story, ["task.submitted after", "task.submitted before", "task.submitted held"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn steps_and_messages_next_to_a_failing_write_have_numbers_without_gaps() {
    on_every_database(async |app| {
        let (held, held_write) = Held::start(&app);
        let permit = permit();
        let step =
            |message: &str| app.log_step(&permit, NewStep { level: Level::Info, message: message.into(), data: None });
        let message = |body: &str| {
            let body = json!(body).into();
            NewMessage { kind: MessageKind::Broadcast, recipient: None, reply_to: None, body, key: None }
        };
        let failing = app.db.write(&permit, async |tx| {
            tx.number_steps(1).await?;
            tx.number_message().await?;
            Err::<(), _>(TaskError::Unknown(id("failing")))
        });
        let (one, two, failing, three, first, second, ()) = tokio::join!(
            step("1"),
            step("2"),
            failing,
            step("3"),
            app.send_message(&permit, message("1")),
            app.send_message(&permit, message("2")),
            async { held.proceed() },
        );
        held_write.join_all().await;
        assert!(failing.is_err());
        assert_eq!([one.unwrap(), two.unwrap(), three.unwrap()], [1, 2, 3]);
        assert_eq!([first.unwrap().number, second.unwrap().number], [1, 2]);
        let steps = app.db.steps(&permit.to_read(), StepFilter::default(), Start::After(0), 9).await.unwrap();
        assert_eq!(steps.rows.iter().map(|step| &*step.message).collect::<Vec<_>>(), ["1", "2", "3"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refusal_that_rests_on_a_neighbour_comes_after_that_neighbour_is_durable() {
    on_every_database(async |app| {
        // On a slow machine they may miss each other, so they get several chances to meet.
        for round in 0..50 {
            let (held, held_write) = Held::start_as(&app, &format!("held {round}"));
            let (permit, name) = (permit(), format!("a {round}"));
            let looked_for = id(&name);
            // The second sees what the first has done in the same transaction, and says no because of it.
            let second = app.db.write(&permit, async move |tx| match tx.task(&looked_for).await? {
                Some(_) => Err(TaskError::Unknown(id("none"))),
                None => Ok(()),
            });
            let seen = async { (second.await, task(&app, &name).await) };
            let (_, (answer, found), ()) =
                tokio::join!(app.submit(&permit, new(&name)), seen, async { held.proceed() });
            held_write.join_all().await;
            if answer.is_err() {
                assert!(found.is_some(), "{answer:?}, but it is not there");
                return;
            }
        }
        panic!("they never met");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_never_waits_for_a_writer() {
    on_every_database(async |app| {
        let (held, held_write) = Held::start(&app);
        let seen = timeout(Duration::from_secs(5), log(&app)).await.expect("the reader waits for the writer");
        assert!(seen.is_empty(), "what is not committed is not seen");
        held.proceed();
        held_write.join_all().await;
        assert_eq!(story(&app).await, ["task.submitted held"], "what is acknowledged is seen");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_queue_says_so_and_one_namespace_cannot_fill_it() {
    on_every_database_with(Limits { writes_max: 4, ..Limits::default() }, async |app| {
        let (held, held_write) = Held::start(&app);
        let permit = permit();
        let (waiting, refused) = tokio::join!(app.submit(&permit, new("a")), async {
            let refused = app.submit(&permit, new("b")).await;
            let other = app.clone();
            let mut elsewhere = JoinSet::new();
            elsewhere.spawn(async move { other.submit(&permit_in("other"), new("b")).await });
            held.proceed();
            elsewhere.join_next().await.unwrap().unwrap().unwrap();
            refused
        });
        assert!(matches!(refused, Err(TaskError::Db(DbError::Busy(_)))), "{refused:?}");
        waiting.unwrap();
        held_write.join_all().await;
        app.submit(&permit, new("b")).await.expect("there is room again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_namespace_at_its_share_of_bytes_is_told_so_and_loses_nothing() {
    // A namespace may have half of it, which is room for one large value.
    on_every_database_with(Limits { writes_bytes_max: 4000, ..Limits::default() }, async |app| {
        fn large() -> Json {
            json!("x".repeat(1500)).into()
        }
        fn heavy(name: &str) -> NewTask {
            NewTask { input: large(), ..new(name) }
        }
        let (permit, r) = (permit(), RunId("r".into()));
        app.start_run(&permit, new_run("r"), vec![new("a")]).await.unwrap();
        let task_a = claim(&app, NOW).await.unwrap();
        let (held, held_write) = Held::start(&app);
        let (waiting, refused) = tokio::join!(app.submit(&permit, heavy("b")), async {
            let (by, failure) = (attempt(&task_a), Failure { error: "boom".into(), output: large() });
            let file = NewArtefact { path: "f".into(), bytes: vec![7; 1500] };
            let plan = NewRun { plan: large(), ..new_run("s") };
            let refused = [
                app.submit(&permit, heavy("c")).await.err(),
                app.finish(&permit, &task_a.id, by.clone(), large(), Vec::new()).await.err(),
                app.finish(&permit, &task_a.id, by.clone(), json!(1), vec![file]).await.err(),
                app.fail(&permit, &task_a.id, by, failure, true).await.err(),
                app.log(&permit, &r, None, &"x".repeat(1500), None).await.err(),
            ];
            let refused_runs = [
                app.start_run(&permit, plan, Vec::new()).await.err(),
                app.start_run(&permit, new_run("s"), vec![heavy("c")]).await.err(),
                app.end_run(&permit, &r, End::Failed, Some(large())).await.err(),
            ];
            let other = app.clone();
            let mut elsewhere = JoinSet::new();
            elsewhere.spawn(async move { other.submit(&permit_in("other"), heavy("b")).await });
            held.proceed();
            elsewhere.join_next().await.unwrap().unwrap().unwrap();
            (refused, refused_runs)
        });
        waiting.unwrap();
        held_write.join_all().await;
        for refused in refused.0 {
            assert!(matches!(refused, Some(TaskError::Db(DbError::Busy(_)))), "{refused:?}");
        }
        for refused in refused.1 {
            assert!(matches!(refused, Some(RunError::Db(DbError::Busy(_)))), "{refused:?}");
        }
        assert_eq!(task(&app, "c").await, None, "what was refused is not done");
        assert_eq!(state(&app, "a").await.name(), "in_progress");
        app.submit(&permit, heavy("c")).await.expect("there is room again");
        app.finish(&permit, &task_a.id, attempt(&task_a), large(), Vec::new()).await.unwrap();
        app.end_run(&permit, &r, End::Completed, Some(large())).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_namespace_with_many_writes_does_not_keep_the_others_waiting() {
    on_every_database(async |app| {
        let (busy, quiet) = (permit_in("busy"), permit_in("quiet"));
        // There are connections for the groups of both and for the write that is held, so that what follows is about turns.
        let more = ["one", "other"].map(permit_in);
        let all = [&busy, &quiet, &more[0], &more[1]];
        for made in futures_util::future::join_all(all.map(|permit| app.submit(permit, new("a")))).await {
            made.unwrap();
        }
        let (held, held_write) = Held::start(&app);
        let order = Arc::new(Mutex::new(Vec::new()));
        let write = async |permit, name: &'static str| {
            let order = Arc::clone(&order);
            let note = async move |tx: &mut Tx<'_>| {
                tx.task(&id("a")).await?;
                order.lock().unwrap().push(name);
                Ok::<(), DbError>(())
            };
            app.db.write(permit, note).await.unwrap();
        };
        let many = futures_util::future::join_all((0..500).map(|_| write(&busy, "busy")));
        tokio::join!(many, write(&quiet, "quiet"), async { held.proceed() });
        held_write.join_all().await;
        let place = order.lock().unwrap().iter().position(|name| *name == "quiet").unwrap();
        assert!(place < 100, "it was written as number {place}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_for_the_outside_world_is_refused() {
    on_every_database(async |app| {
        let permit = permit();
        let refused = app.db.write(&permit, async |tx| {
            tx.add_tasks(&[fresh("a")]).await?;
            tokio::task::yield_now().await;
            Ok::<(), DbError>(())
        });
        let refused = refused.await;
        assert!(matches!(refused, Err(DbError::Failed { doing: "finish a write", .. })), "{refused:?}");
        assert_eq!(task(&app, "a").await, None);
        app.submit(&permit, new("b")).await.expect("the writer goes on");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_which_a_statement_failed_is_not_acknowledged() {
    on_every_database(async |app| {
        let permit = permit();
        for careless in [true, false] {
            let write = app.db.write(&permit, async move |tx| {
                tx.append(submitted("a"));
                tx.add_tasks(&[fresh("a")]).await?;
                // The same artefact twice: on PostgreSQL that is found out later, with the next statement or the
                // commit.
                let file = NewArtefact { path: "x".into(), bytes: Vec::new() };
                tx.add_artefact(&fresh("a"), &file, "0").await?;
                let again = tx.add_artefact(&fresh("a"), &file, "0").await;
                let seen = tx.task(&id("a")).await;
                if careless { Ok(()) } else { again.and(seen.map(drop)) }
            });
            let refused: Result<(), DbError> = write.await;
            assert!(matches!(refused, Err(DbError::Failed { .. })), "{refused:?}");
        }
        assert!(log(&app).await.is_empty());
        assert_eq!(task(&app, "a").await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_whose_caller_left_before_its_turn_is_not_done_and_later_ones_are() {
    on_every_database(async |app| {
        let (held, held_write) = Held::start(&app);
        let called = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&called);
        let permit = permit();
        let left = app.db.write(&permit, async move |_: &mut Tx<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<(), DbError>(())
        });
        assert!(left.now_or_never().is_none(), "it stands in line, and is dropped here");
        let (stays, ()) = tokio::join!(app.submit(&permit, new("a")), async { held.proceed() });
        stays.unwrap();
        held_write.join_all().await;
        assert_eq!(called.load(Ordering::SeqCst), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_waits_for_what_was_asked_and_refuses_what_comes_after() {
    on_every_address(async |address| {
        let app = open(address, Limits::default()).await;
        let (held, held_write) = Held::start(&app);
        let permit = permit();
        let writes = (0..20).map(|n| app.submit(&permit, new(&n.to_string())).boxed()).collect::<Vec<_>>();
        let (written, (), refused) = tokio::join!(futures_util::future::join_all(writes), app.db.close(), async {
            let refused = app.submit(&permit, new("late")).await;
            held.proceed();
            refused
        });
        held_write.join_all().await;
        assert!(written.into_iter().all(|written| written.is_ok()));
        assert!(matches!(refused, Err(TaskError::Db(DbError::Closed))), "{refused:?}");
        let read = app.db.task(&permit.to_read(), &id("0")).await;
        assert!(matches!(read, Err(DbError::Closed)), "{read:?}");
        if let Some(path) = address.strip_prefix("sqlite:") {
            assert!(!std::path::Path::new(&format!("{path}-wal")).exists(), "the file is complete by itself");
        }
        assert_eq!(log(&open(address, Limits::default()).await).await.len(), 21);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hubs_that_write_the_same_rows_in_different_order_do_not_get_in_each_others_way() {
    let Some(address) = postgres::new_schema().await else { return };
    // One try: whoever had to be called again would be refused.
    let limits = Limits { tries_max: 1, ..Limits::default() };
    let hubs = [open(&address, limits.clone()).await, open(&address, limits).await];
    for name in ["a", "b"] {
        hubs[0].submit(&permit(), new(name)).await.unwrap();
    }
    let calls = Arc::new(AtomicU32::new(0));
    let take = async |hub: &Hub, order: [&'static str; 2]| {
        let calls = Arc::clone(&calls);
        let take = async move |tx: &mut Tx<'_>| {
            calls.fetch_add(1, Ordering::SeqCst);
            for name in order {
                let task = tx.task(&id(name)).await?.unwrap();
                tx.save_task(&task).await?;
                tx.task(&id(name)).await?; // waits for the answer, so that the other hub comes to its turn
            }
            Ok::<_, DbError>(())
        };
        for _ in 0..50 {
            hub.db.write(&permit(), take.clone()).await.unwrap();
        }
    };
    tokio::join!(take(&hubs[0], ["a", "b"]), take(&hubs[1], ["b", "a"]));
    assert_eq!(calls.load(Ordering::SeqCst), 100, "each was called once");
    sound(&address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_was_cut_off_goes_on() {
    const TASKS: usize = 1200;
    let events_missing = on_every_address_with_deletions(async |address| {
        let app = open(address, Limits::default()).await;
        let (r, reads) = (RunId("r".into()), permit().to_read());
        let mut tasks: Vec<NewTask> = (0..TASKS).map(|n| new(&n.to_string())).collect();
        tasks.push(needs("last", &["0", "1"]));
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let first = claim(&app, NOW).await.unwrap();
        let artefact = NewArtefact { path: "f".into(), bytes: vec![7; 5000] };
        app.finish(&permit(), &first.id, attempt(&first), json!(1), vec![artefact]).await.unwrap();
        app.interrupt_run(&permit(), &r).await.unwrap();
        let deletion = app.begin_deletion(&permit(), &r).await.unwrap();
        assert_eq!(app.db.run(&reads, &r).await.unwrap(), None, "it is gone at once");
        assert_eq!(claim(&app, NOW).await, None, "nobody works on it");

        // The process ends after each step, and another one takes over.
        let mut steps = 0;
        while app.deletion_step(&permit(), &deletion).await.unwrap() {
            steps += 1;
            if steps % 5 == 1 {
                sound(address).await;
                let again = app.start_run(&permit(), new_run("r"), Vec::new()).await;
                assert!(matches!(again, Err(RunError::BeingDeleted(_))), "{again:?}");
            }
            if steps == 8 {
                app.finish_deletions(&permit()).await.unwrap();
            }
        }
        assert_eq!(steps, 8, "in small steps");
        assert!(tasks_of(&app, &permit(), "r").await.is_empty());
        assert!(all_events(&app, &reads).await.is_empty());
        app.start_run(&permit(), new_run("r"), vec![new("0")]).await.unwrap();
    })
    .await;
    assert!(events_missing.iter().all(|missing| *missing == 0), "{events_missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_events_of_no_run_and_no_task_can_be_deleted() {
    on_every_address_with_deletions(async |address| {
        let app = open(address, Limits::default()).await;
        let inside = permit().within(Some("w"), None).unwrap();
        let add_to = async |permit: &Permit, at: Timestamp, count: usize| {
            let add = async move |tx: &mut Tx<'_>| {
                for n in 0..count {
                    let kind = EventKind::ForeignChanged { table: "task".into(), key: n.to_string() };
                    tx.append(NewEvent { at, run: None, task: None, kind });
                }
                Ok::<_, DbError>(())
            };
            app.db.write(permit, add).await.unwrap();
        };
        let add = async |at: Timestamp, count: usize| add_to(&permit(), at, count).await;
        add_to(&inside, NOW, 3).await;
        add_to(&inside, LATER, 1).await;
        add(NOW, 1500).await;
        app.start_run(&permit(), new_run("r"), vec![new("a")]).await.unwrap();
        add(LATER, 2).await;
        app.prune_events(&permit(), LATER).await.unwrap();
        let kept = all_events(&app, &permit().to_read()).await;
        assert_eq!(kept.iter().map(|event| event.number).collect::<Vec<_>>(), [1501, 1502, 1503, 1504]);
        let kept = all_events(&app, &inside.to_read()).await;
        assert_eq!(kept.iter().map(|event| event.number).collect::<Vec<_>>(), [4], "in workspaces, too");
        let first = app.db.follow(&permit().to_read(), 0).next().await.unwrap();
        assert_eq!(first, News::Reset { first: 1501, last: 1504 });
    })
    .await;
}
