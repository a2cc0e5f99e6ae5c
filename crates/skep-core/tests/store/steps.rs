//! What agents that log steps can rely on.

use std::collections::BTreeSet;

use skep_core::{
    app::StepError,
    limits::{Invalid, STEP_DATA_BYTES_MAX, STEP_MESSAGE_BYTES_MAX},
    page::{Page, Start},
    step::{Level, NewStep, Step, StepFilter},
};
use tokio::task::JoinSet;

use super::*;

fn step(message: &str) -> NewStep {
    NewStep { level: Level::Info, message: message.to_owned(), data: None }
}

fn ann(workspace: &str) -> Permit {
    agent_in(workspace, "ann", "coder")
}

async fn page(app: &App, filter: StepFilter, start: Start, limit: usize) -> Page<Step> {
    app.db.steps(&ann("w").to_read(), filter, start, limit).await.unwrap()
}

async fn all_steps(app: &App, permit: &Permit) -> Vec<Step> {
    let (mut steps, mut start) = (Vec::new(), Start::After(0));
    loop {
        let page = app.db.steps(&permit.to_read(), StepFilter::default(), start, 1000).await.unwrap();
        steps.extend(page.rows);
        if !page.has_more {
            return steps;
        }
        start = page.next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_come_back_as_they_were_logged_and_each_workspace_numbers_its_own() {
    on_every_database(async |app| {
        let data = Json::from_text("{\"file\": \"a.rs\",\n \"lines\": 1.50}").unwrap();
        let new = NewStep { level: Level::Warning, message: "häh? 'quoted'".into(), data: Some(data) };
        assert_eq!(app.log_step(&ann("w"), new.clone()).await.unwrap(), 1);
        assert_eq!(app.at(LATER).log_step(&ann("w"), step("two")).await.unwrap(), 2);
        assert_eq!(app.log_step(&ann("other"), step("one")).await.unwrap(), 1, "workspaces know nothing of each other");
        let logged = all_steps(&app, &ann("w")).await;
        let NewStep { level, message, data } = new;
        let (principal, agent) = ("ann".to_owned(), Some("coder".to_owned()));
        assert_eq!(logged[0], Step { number: 1, at: NOW, principal, agent, level, message, data });
        assert_eq!((logged[1].at, logged.len()), (LATER, 2));

        let events = all_events(&app, &ann("w").to_read()).await;
        let told = data_of(&events[0]);
        assert_eq!(events[0].kind.name(), "step.logged");
        assert_eq!(
            (&told["number"], &told["level"], &told["data"]["file"]),
            (&json!(1), &json!("warning"), &json!("a.rs"))
        );
        let actor = events[0].actor.as_ref().unwrap();
        assert_eq!((&*actor.principal, actor.agent.as_deref()), ("ann", Some("coder")));
    })
    .await;
}

fn data_of(event: &Event) -> Value {
    super::data(event)
}

/// Two hubs, and in each of them many agents at once. Each acknowledged step is there once, under its number.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn numbers_have_no_gaps_however_many_log_at_once() {
    on_every_address(async |address| {
        const WRITERS: usize = 16;
        const STEPS: usize = 25;
        let hubs = [open(address, Limits::default()).await, open(address, Limits::default()).await];
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let app = hubs[writer % 2].clone();
            writers.spawn(async move {
                let permit = agent_in("w", "ann", &format!("agent {writer}"));
                let (mut told, mut last) = (Vec::new(), 0);
                for n in 0..STEPS {
                    let message = format!("{writer}: {n}");
                    let number = app.log_step(&permit, step(&message)).await.unwrap();
                    assert!(number > last, "{number} after {last}");
                    last = number;
                    told.push((number, message));
                }
                told
            });
        }
        let told: BTreeSet<(i64, String)> = writers.join_all().await.into_iter().flatten().collect();
        let logged = all_steps(&hubs[0], &ann("w")).await;
        let found: Vec<(i64, String)> = logged.into_iter().map(|step| (step.number, step.message)).collect();
        assert_eq!(found, told.into_iter().collect::<Vec<_>>());
        assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=400).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_read_page_by_page_forward_and_backward_and_by_filter() {
    on_every_database(async |app| {
        let bob = agent_in("w", "bob", "tester");
        for n in 1..=12 {
            let permit = if n % 3 == 0 { &bob } else { &ann("w") };
            let level = Level::ALL[n % 4];
            let at = NOW.after(Duration::from_secs(n as u64));
            app.at(at).log_step(permit, NewStep { level, ..step(&n.to_string()) }).await.unwrap();
        }
        let numbers = |page: &Page<Step>| page.rows.iter().map(|step| step.number).collect::<Vec<_>>();
        let all = StepFilter::default;
        let first = page(&app, all(), Start::After(0), 5).await;
        assert_eq!((numbers(&first), first.next, first.has_more), (vec![1, 2, 3, 4, 5], Start::After(5), true));
        let rest = page(&app, all(), first.next, 100).await;
        assert_eq!((numbers(&rest), rest.next, rest.has_more), ((6..=12).collect(), Start::After(12), false));
        assert_eq!(page(&app, all(), rest.next, 100).await.rows, [], "until there are others");
        let last = page(&app, all(), Start::Before(i64::MAX), 2).await;
        assert_eq!((numbers(&last), last.next, last.has_more), (vec![11, 12], Start::Before(11), true));
        assert_eq!(numbers(&page(&app, all(), last.next, 2).await), [9, 10]);

        let of_bob = StepFilter { agent: Some("tester".into()), ..all() };
        assert_eq!(numbers(&page(&app, of_bob.clone(), Start::After(3), 10).await), [6, 9, 12]);
        let grave = StepFilter { level: Level::Warning, ..all() };
        assert_eq!(numbers(&page(&app, grave.clone(), Start::After(0), 10).await), [2, 3, 6, 7, 10, 11]);
        assert_eq!(numbers(&page(&app, grave, Start::Before(7), 2).await), [3, 6]);
        let at = |n: u64| Some(NOW.after(Duration::from_secs(n)));
        let between = StepFilter { since: at(4), before: at(7), ..all() };
        assert_eq!(numbers(&page(&app, between, Start::After(0), 10).await), [4, 5, 6]);
        let none = app.db.steps(&ann("nowhere").to_read(), all(), Start::Before(i64::MAX), 10).await.unwrap();
        assert_eq!((none.rows.len(), none.has_more), (0, false));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_cannot_be_kept_is_refused_and_takes_no_number() {
    on_every_database(async |app| {
        let large = |bytes: usize| Json::from(json!("x".repeat(bytes - 2)));
        let refused = [
            NewStep { message: "x".repeat(STEP_MESSAGE_BYTES_MAX + 1), ..step("") },
            NewStep { data: Some(large(STEP_DATA_BYTES_MAX + 1)), ..step("") },
            step("a\0b"),
        ];
        for new in refused {
            let refused = app.log_step(&ann("w"), new).await;
            let is_named = matches!(
                refused,
                Err(StepError::Invalid(Invalid::TooLarge { .. } | Invalid::Nul { what: "the message" }))
            );
            assert!(is_named, "{refused:?}");
        }
        let most = NewStep { data: Some(large(STEP_DATA_BYTES_MAX)), ..step(&"x".repeat(STEP_MESSAGE_BYTES_MAX)) };
        assert_eq!(app.log_step(&ann("w"), most).await.unwrap(), 1);
        let logged = all_steps(&app, &ann("w")).await;
        assert_eq!(logged[0].data.as_ref().map(|data| data.as_str().len()), Some(STEP_DATA_BYTES_MAX));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_with_a_key_is_logged_once_however_often_and_by_how_many_it_is_tried() {
    on_every_database(async |app| {
        let mut tries = JoinSet::new();
        for _ in 0..8 {
            let app = app.clone();
            tries.spawn(async move { app.log_step_once(&ann("w"), step("one"), "k".into()).await.unwrap() });
        }
        let logged: Vec<(i64, bool)> = tries.join_all().await;
        assert!(logged.iter().all(|(number, _)| *number == 1), "{logged:?}");
        assert_eq!(logged.iter().filter(|(_, is_repeated)| !is_repeated).count(), 1, "{logged:?}");
        let other = app.log_step_once(&ann("w"), step("two"), "k".into()).await;
        assert!(matches!(other, Err(StepError::KeyReused(1))), "{other:?}");
        assert_eq!(app.log_step_once(&ann("v"), step("two"), "k".into()).await.unwrap(), (1, false));
        assert_eq!(app.log_step(&ann("w"), step("two")).await.unwrap(), 2);
        assert_eq!(all_steps(&app, &ann("w")).await.len(), 2);
        assert_eq!(all_events(&app, &ann("w").to_read()).await.len(), 2);
    })
    .await;
}
