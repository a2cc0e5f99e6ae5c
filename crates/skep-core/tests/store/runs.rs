//! What runs can rely on.

use skep_core::{
    app::{RunError, TaskError},
    artefact::NewArtefact,
    limits::{self, Invalid},
    run::{self, End, Run, State as RunState},
    task::Refused,
};

use super::*;

fn run_id(name: &str) -> RunId {
    RunId(name.into())
}

async fn run(app: &Hub, name: &str) -> Run {
    app.db.run(&permit().to_read(), &run_id(name)).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_starts_with_all_its_tasks_or_not_at_all() {
    on_every_database(async |app| {
        app.submit(&permit(), new("taken")).await.unwrap();
        let refused = app.start_run(&permit(), new_run("r"), vec![new("a"), new("taken")]).await;
        assert!(matches!(refused, Err(RunError::TaskTaken(task)) if task == id("taken")));
        let circle = vec![needs("a", &["b"]), needs("b", &["a"])];
        let refused = app.start_run(&permit(), new_run("r"), circle).await;
        assert!(matches!(refused, Err(RunError::Invalid(Invalid::Cycle(_)))), "{refused:?}");
        assert_eq!(app.db.run(&permit().to_read(), &run_id("r")).await.unwrap(), None);
        assert_eq!(task(&app, "a").await, None);
        assert_eq!(story(&app).await, ["task.submitted taken"]);

        let started = app.start_run(&permit(), new_run("r"), vec![new("a"), needs("b", &["a"])]).await.unwrap();
        assert_eq!(run(&app, "r").await, started);
        assert_eq!((started.state, started.created, started.plan), (RunState::Running, NOW, new_run("r").plan));
        assert_eq!(story(&app).await[1..], ["run.started", "task.submitted a", "task.submitted b"]);
        assert_eq!(data(&log(&app).await[1]), json!({ "name": "the run r", "tasks": 2 }));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_twice_under_one_id_is_starting_once() {
    on_every_database(async |app| {
        let first = app.start_run(&permit(), new_run("r"), vec![new("a")]).await.unwrap();
        let second = app.at(LATER).start_run(&permit(), new_run("r"), vec![new("b")]).await.unwrap();
        assert_eq!(first, second);
        assert_eq!(task(&app, "b").await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_the_largest_size_starts_and_ends_in_one_go_each() {
    on_every_database(async |app| {
        // A chain, so that the first failure blocks all the rest.
        let names: Vec<String> = (0..limits::RUN_TASKS_MAX).map(|n| n.to_string()).collect();
        let mut tasks = vec![new(&names[0])];
        tasks.extend(names.windows(2).map(|pair| needs(&pair[1], &[&pair[0]])));
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let extra = NewTask { run: Some(run_id("r")), ..new("one more") };
        let refused = app.submit(&permit(), extra).await;
        assert!(matches!(refused, Err(TaskError::Invalid(Invalid::TooMany { .. }))), "{refused:?}");
        let first = claim(&app, NOW).await.unwrap();
        fail(&app, &first, false).await.unwrap();
        let counts = app.db.count_tasks(&permit().to_read(), &run_id("r")).await.unwrap();
        assert_eq!((counts.failed, counts.blocked), (1, limits::RUN_TASKS_MAX as u64 - 1));
        assert_eq!(tasks_of(&app, &permit(), "r").await.len(), limits::RUN_TASKS_MAX);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_run_goes_on_where_it_stood_and_fences_off_who_had_it() {
    on_every_database(async |app| {
        let tasks = vec![new("done"), new("held"), needs("next", &["done", "held"])];
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let done = claim(&app, NOW).await.unwrap();
        finish(&app, &done).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        // The conductor was killed, and said nothing: the run still claims to be running.
        let resumed = app.at(LATER).resume_run(&permit(), &run_id("r")).await.unwrap();
        assert_eq!(resumed.state, RunState::Running);
        let late = finish(&app, &held).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::NotHeld))), "{late:?}");

        let again = claim(&app, LATER).await.unwrap();
        assert_eq!((&again.id, again.attempt, again.failures), (&id("held"), 2, 0), "no failure was counted");
        finish(&app, &again).await.unwrap();
        assert_eq!(claim(&app, LATER).await.unwrap().id, id("next"));
        assert_eq!(claim(&app, LATER).await, None, "what was done is not repeated");
        let story = story(&app).await;
        assert!(story.contains(&"task.released held".to_owned()) && story.contains(&"run.resumed".to_owned()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_gives_its_tasks_back_at_once() {
    on_every_database(async |app| {
        app.start_run(&permit(), new_run("r"), vec![new("a"), new("b")]).await.unwrap();
        app.start_run(&permit(), new_run("other"), vec![new("c")]).await.unwrap();
        while claim(&app, NOW).await.is_some() {}
        app.at(LATER).interrupt_run(&permit(), &run_id("r")).await.unwrap();
        for name in ["a", "b"] {
            assert_eq!(state(&app, name).await, State::Pending { due: NOW, waiting_for: 0 });
        }
        assert_eq!(state(&app, "c").await.name(), "in_progress", "another run's task");
        assert_eq!(run(&app, "r").await.state, RunState::Interrupted);
        assert_eq!(claim(&app, LATER).await, None, "it stands still");
        assert_eq!(app.db.next_due(&permit().to_read(), "q").await.unwrap(), None);
        app.submit(&permit(), new("outside")).await.unwrap();
        assert_eq!(claim(&app, LATER).await.unwrap().id, id("outside"), "others of its queue go on");
        let joins = app.submit(&permit(), NewTask { run: Some(run_id("r")), ..new("d") }).await;
        assert!(matches!(joins, Err(TaskError::RunNotRunning(RunState::Interrupted))), "{joins:?}");
        let ends = app.end_run(&permit(), &run_id("r"), End::Completed, None).await;
        assert!(matches!(ends, Err(RunError::Refused(run::Refused::Interrupted))), "{ends:?}");
        let released = app.at(LATER).release_run(&permit(), &run_id("other")).await.unwrap();
        assert_eq!(released.iter().map(|task| task.id.0.as_str()).collect::<Vec<_>>(), ["c"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_leaves_nothing_behind_that_could_start() {
    on_every_database(async |app| {
        let tasks = vec![new("done"), new("held"), new("ready"), needs("waits", &["held"])];
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let done = claim(&app, NOW).await.unwrap();
        finish(&app, &done).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        let report = Json::from(json!({ "said": ["all"] }));
        let ended = app.at(LATER).end_run(&permit(), &run_id("r"), End::Cancelled, Some(report.clone())).await.unwrap();
        assert_eq!((ended.state, ended.ended, &ended.report), (RunState::Cancelled, Some(LATER), &Some(report)));
        assert_eq!(run(&app, "r").await, ended);
        for name in ["held", "ready", "waits"] {
            assert_eq!(state(&app, name).await, State::Cancelled);
        }
        assert_eq!(state(&app, "done").await.name(), "completed");
        let late = finish(&app, &held).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::Over("cancelled")))), "{late:?}");
        let log = log(&app).await;
        let cancelled =
            log.iter().find(|event| event.task == Some(id("held")) && event.kind.name() == "task.cancelled");
        assert_eq!(data(cancelled.unwrap()), json!({ "worker": "w", "attempt": 1 }));
        let again = app.at(LATER).resume_run(&permit(), &run_id("r")).await;
        assert!(matches!(again, Err(RunError::Refused(run::Refused::Over("cancelled")))), "{again:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_run_does_its_failed_tasks_again_and_keeps_the_others() {
    on_every_database(async |app| {
        let tasks = vec![new("good"), new("bad"), needs("then", &["good", "bad"]), needs("last", &["then"])];
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let early = app.retry_run(&permit(), &run_id("r"), None).await;
        assert!(matches!(early, Err(RunError::Refused(run::Refused::NotOver))), "{early:?}");
        finish(&app, &claim(&app, NOW).await.unwrap()).await.unwrap();
        fail(&app, &claim(&app, NOW).await.unwrap(), false).await.unwrap();
        app.end_run(&permit(), &run_id("r"), End::Failed, Some(json!("report").into())).await.unwrap();
        let of_good = app.at(LATER).retry_run(&permit(), &run_id("r"), Some(&id("good"))).await;
        assert!(matches!(of_good, Err(RunError::NotToRetry { state: "completed", .. })), "{of_good:?}");
        assert_eq!(run(&app, "r").await.state, RunState::Failed, "a refusal changes nothing");

        let reopened = app.at(LATER).retry_run(&permit(), &run_id("r"), None).await.unwrap();
        assert_eq!(reopened, [id("bad"), id("then"), id("last")]);
        let retried = run(&app, "r").await;
        assert_eq!((retried.state, retried.ended, retried.report), (RunState::Running, None, None));
        for name in ["bad", "then", "last"] {
            let task = claim(&app, LATER).await.unwrap();
            assert_eq!(task.id, id(name));
            finish(&app, &task).await.unwrap();
        }
        assert_eq!(claim(&app, LATER).await, None, "what was done is not repeated");
        app.at(LATER).end_run(&permit(), &run_id("r"), End::Completed, None).await.unwrap();
        let nothing = app.at(LATER).retry_run(&permit(), &run_id("r"), None).await;
        assert!(matches!(nothing, Err(RunError::NothingToRetry(_))), "{nothing:?}");
        let story = story(&app).await;
        assert!(story.contains(&"run.retried".to_owned()) && story.contains(&"task.reopened bad".to_owned()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_can_be_cancelled_and_cancelling_twice_says_so() {
    on_every_database(async |app| {
        app.start_run(&permit(), new_run("r"), vec![new("a")]).await.unwrap();
        app.interrupt_run(&permit(), &run_id("r")).await.unwrap();
        app.end_run(&permit(), &run_id("r"), End::Cancelled, None).await.unwrap();
        assert_eq!(state(&app, "a").await, State::Cancelled);
        let again = app.end_run(&permit(), &run_id("r"), End::Cancelled, None).await;
        assert!(matches!(again, Err(RunError::Refused(run::Refused::Over("cancelled")))), "{again:?}");
        app.at(LATER).retry_run(&permit(), &run_id("r"), None).await.unwrap();
        assert_eq!(claim(&app, LATER).await.unwrap().id, id("a"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_run_leaves_nothing_and_other_runs_alone() {
    let events_missing = on_every_address_with_deletions(async |address| {
        let app = open(address, Limits::default()).await;
        for name in ["gone", "kept"] {
            let tasks = vec![new(&format!("{name}-a")), needs(&format!("{name}-b"), &[&format!("{name}-a")])];
            app.start_run(&permit(), new_run(name), tasks).await.unwrap();
            let task = claim(&app, NOW).await.unwrap();
            let artefact = NewArtefact { path: "f".into(), bytes: vec![7; 5000] };
            app.finish(&permit(), &task.id, attempt(&task), json!(1), vec![artefact]).await.unwrap();
            while claim(&app, NOW).await.is_some() {}
        }
        let refused = app.delete_run(&permit(), &run_id("gone")).await;
        assert!(matches!(refused, Err(RunError::Refused(run::Refused::NotOver))), "{refused:?}");
        app.end_run(&permit(), &run_id("gone"), End::Cancelled, None).await.unwrap();
        let reads = permit().to_read();
        let sizes = app.db.run_sizes(&reads, None, 10).await.unwrap();
        assert!(sizes.iter().all(|(_, bytes)| (5000..20_000).contains(bytes)) && sizes.len() == 2, "{sizes:?}");
        let page = app.db.run_sizes(&reads, Some(run_id("gone")), 10).await.unwrap();
        assert_eq!(page, sizes[1..], "page by page, by id");
        assert!(app.db.size().await.unwrap() > 10_000);

        let before = log(&app).await;
        app.delete_run(&permit(), &run_id("gone")).await.unwrap();
        assert_eq!(app.db.run(&reads, &run_id("gone")).await.unwrap(), None);
        assert!(tasks_of(&app, &permit(), "gone").await.is_empty());
        assert!(app.db.artefacts(&reads, &run_id("gone"), None, 10).await.unwrap().is_empty());
        let after = all_events(&app, &reads).await;
        let of_kept: Vec<Event> = before.into_iter().filter(|event| event.run == Some(run_id("kept"))).collect();
        assert_eq!(after, of_kept, "numbers stay");
        assert_eq!(app.db.run_sizes(&reads, None, 10).await.unwrap().len(), 1);
        assert_eq!(task(&app, "kept-a").await.unwrap().state.name(), "completed");
        app.submit(&permit(), new("gone-a")).await.unwrap();
        finish(&app, &claim(&app, NOW).await.unwrap()).await.unwrap();
        assert_eq!(task(&app, "gone-b").await, None, "nothing waits for a name of the deleted run");
        let again = app.delete_run(&permit(), &run_id("gone")).await;
        assert!(matches!(again, Err(RunError::Unknown(_))), "{again:?}");
    })
    .await;
    // The first six, too, were of the run that is gone: the log begins after them.
    let last_of_gone = 2;
    assert!(events_missing.iter().all(|missing| *missing == last_of_gone), "{events_missing:?}");
}

/// A run is deleted while a task of it is in progress, and started anew. Gives that task, and the deletion.
async fn gone_and_remade(app: &Hub) -> (Task, run::Deletion) {
    let start = async || app.start_run(&permit(), new_run("r"), vec![new("a"), needs("b", &["a"])]).await.unwrap();
    start().await;
    let former = claim(app, NOW).await.unwrap();
    app.end_run(&permit(), &run_id("r"), End::Cancelled, None).await.unwrap();
    let deletion = app.begin_deletion(&permit(), &run_id("r")).await.unwrap();
    app.delete_run(&permit(), &run_id("r")).await.unwrap();
    start().await;
    (former, deletion)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_for_a_deleted_run_does_not_count_for_one_of_the_same_name() {
    on_every_address_with_deletions(async |address| {
        let app = open(address, Limits::default()).await;
        let (former, _) = gone_and_remade(&app).await;
        let task = claim(&app, NOW).await.unwrap();
        assert_eq!((&task.id, task.attempt, former.attempt), (&id("a"), 1, 1), "attempts are counted anew");
        for refused in [finish(&app, &former).await, fail(&app, &former, false).await.map(drop)] {
            assert!(matches!(refused, Err(TaskError::Refused(Refused::NotHeld))), "{refused:?}");
        }
        finish(&app, &task).await.unwrap();
        finish(&app, &task).await.unwrap();
        let late = finish(&app, &former).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::Over("completed")))), "no repetition: {late:?}");
        assert_eq!(count_with_gaps(&app, "task.answer_refused").await, 3);
    })
    .await;
}

async fn count_with_gaps(app: &Hub, kind: &str) -> usize {
    let events = all_events(app, &permit().to_read()).await;
    events.iter().filter(|event| event.kind.name() == kind).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_late_with_deleting_a_run_leaves_the_next_one_of_its_name_alone() {
    on_every_address_with_deletions(async |address| {
        let app = open(address, Limits::default()).await;
        let (_, deletion) = gone_and_remade(&app).await;
        assert!(!app.deletion_step(&permit(), &deletion).await.unwrap(), "there is nothing left to do");
        let events = events(&app, EventFilter::of_run(&run_id("r")), 0).await;
        assert_eq!(events.len(), 3);
        finish(&app, &claim(&app, NOW).await.unwrap()).await.unwrap();
        assert_eq!(claim(&app, NOW).await.unwrap().id, id("b"), "it still waits for the other");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_added_to_a_run_that_is_being_deleted() {
    on_every_address_with_deletions(async |address| {
        let app = open(address, Limits::default()).await;
        app.start_run(&permit(), new_run("r"), vec![new("a")]).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        app.interrupt_run(&permit(), &run_id("r")).await.unwrap();
        let deletion = app.begin_deletion(&permit(), &run_id("r")).await.unwrap();
        loop {
            let last = all_events(&app, &permit().to_read()).await.last().map(|last| last.number);
            for late in [finish(&app, &held).await, fail(&app, &held, true).await.map(drop)] {
                assert!(matches!(late, Err(TaskError::Unknown(_))), "{late:?}");
            }
            for task in [None, Some(&id("a"))] {
                let logged = app.log(&permit(), &run_id("r"), task, "late", None).await;
                assert!(matches!(logged, Err(TaskError::UnknownRun(_))), "{logged:?}");
            }
            if task(&app, "a").await.is_some() {
                let again = app.submit(&permit(), new("a")).await;
                assert!(matches!(again, Err(TaskError::BeingDeleted(_))), "{again:?}");
            }
            let events = all_events(&app, &permit().to_read()).await;
            assert_eq!(events.last().map(|last| last.number), last, "{events:?}");
            if !app.deletion_step(&permit(), &deletion).await.unwrap() {
                break;
            }
        }
        assert_eq!(all_events(&app, &permit().to_read()).await, []);
        app.submit(&permit(), new("a")).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_can_join_a_running_run_and_stands_behind_the_others() {
    on_every_database(async |app| {
        app.start_run(&permit(), new_run("r"), vec![new("b")]).await.unwrap();
        let join = |name: &str, needs_: &[&str]| NewTask { run: Some(run_id("r")), ..needs(name, needs_) };
        let permit = permit();
        let (one, two) = tokio::join!(app.submit(&permit, join("a", &["b"])), app.submit(&permit, join("0", &["b"])));
        let mut positions = [one.unwrap().position, two.unwrap().position];
        positions.sort_unstable();
        assert_eq!(positions, [1, 2]);
        let unknown = app.submit(&permit, NewTask { run: Some(run_id("none")), ..new("x") }).await;
        assert!(matches!(unknown, Err(TaskError::UnknownRun(_))), "{unknown:?}");
        app.submit(&permit, new("outside")).await.unwrap();
        let across = app.submit(&permit, join("y", &["outside"])).await;
        assert!(matches!(across, Err(TaskError::Invalid(Invalid::UnknownDependency { .. }))), "{across:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tasks_of_a_run_are_listed_as_declared_page_by_page() {
    on_every_database(async |app| {
        // Their names say the opposite of their order.
        let tasks = ["e", "d", "c", "b", "a"].map(new).to_vec();
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        app.start_run(&permit(), new_run("other"), vec![new("f")]).await.unwrap();
        finish(&app, &claim(&app, NOW).await.unwrap()).await.unwrap();
        let (reads, r) = (permit().to_read(), run_id("r"));
        let (mut last, mut pages) = (None, Vec::new());
        loop {
            let page = app.db.tasks_of(&reads, &r, last.clone(), 2).await.unwrap();
            let short = app.db.task_summaries(&reads, &r, last, 2).await.unwrap();
            let summary = |task: &Task| (task.id.clone(), task.position, task.state.is_over());
            let summaries: Vec<_> = short.into_iter().map(|task| (task.id, task.position, task.is_over)).collect();
            assert_eq!(summaries, page.iter().map(summary).collect::<Vec<_>>());
            let Some(end) = page.last() else { break };
            last = Some((end.position, end.id.clone()));
            pages.push(summaries.iter().map(|(id, _, is_over)| (id.0.clone(), *is_over)).collect::<Vec<_>>());
        }
        let of = |name: &str, is_over: bool| (name.to_owned(), is_over);
        assert_eq!(
            pages,
            [vec![of("e", true), of("d", false)], vec![of("c", false), of("b", false)], vec![of("a", false)]]
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_newest_first_page_by_page() {
    on_every_database(async |app| {
        for (n, at) in [1, 2, 2, 3].into_iter().enumerate() {
            app.at(Timestamp(at)).start_run(&permit(), new_run(&format!("r{n}")), Vec::new()).await.unwrap();
        }
        let page = async |before| {
            let runs = app.db.runs(&permit().to_read(), before, 2).await.unwrap();
            let last = runs.last().map(|run| (run.created, run.id.clone()));
            (runs.into_iter().map(|run| run.id.0).collect::<Vec<_>>(), last)
        };
        let (first, last) = page(None).await;
        assert_eq!(first, ["r3", "r2"]);
        let summaries = app.db.run_summaries(&permit().to_read(), last.clone(), 9).await.unwrap();
        assert_eq!(summaries.iter().map(|run| run.id.0.as_str()).collect::<Vec<_>>(), ["r1", "r0"]);
        assert_eq!(
            (summaries[0].state, summaries[0].created, summaries[0].ended),
            (RunState::Running, Timestamp(2), None)
        );
        let (second, last) = page(last).await;
        assert_eq!(second, ["r1", "r0"]);
        assert_eq!(page(last).await.0, Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_called_by_its_name_in_its_run_and_otherwise_by_its_id() {
    on_every_database(async |app| {
        let named = |run: &str| NewTask { step: Some("read".into()), ..new(&format!("{run}-1")) };
        for run in ["r", "s"] {
            app.start_run(&permit(), new_run(run), vec![named(run), new(&format!("{run}-2"))]).await.unwrap();
            let names: Vec<String> = tasks_of(&app, &permit(), run).await.iter().map(|t| t.name().to_owned()).collect();
            assert_eq!(names, ["read".to_owned(), format!("{run}-2")]);
            let summaries = app.db.task_summaries(&permit().to_read(), &run_id(run), None, 10).await.unwrap();
            assert_eq!(summaries.iter().map(|task| task.name().to_owned()).collect::<Vec<_>>(), names);
        }
        assert_eq!(claim(&app, NOW).await.unwrap().step.as_deref(), Some("read"), "its worker knows the name, too");
    })
    .await;
}
