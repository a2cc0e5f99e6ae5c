//! What agents share is deleted by its age, in order, and what is left is as it was.

use std::time::Duration;

use skep_core::{
    app::Selection,
    file::NewRevision,
    message::{MessageKind, NewMessage},
    page::Start,
    path::FilePath,
    retention::KeepShared,
    step::{Level, NewStep, StepFilter},
};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn ann() -> Permit {
    agent_in("w", "ann", "coder")
}

fn keep(days: u32) -> KeepShared {
    KeepShared { age_max: Some(DAY * days), revisions_max: Some(2) }
}

async fn log(app: &App, count: usize) {
    for n in 0..count {
        let step = NewStep { level: Level::Info, message: n.to_string(), data: None };
        app.log_step(&ann(), step).await.unwrap();
    }
}

async fn send(app: &App, body: Value) {
    let kind = MessageKind::Request;
    let new = NewMessage { recipient: Some("tester".into()), kind, reply_to: None, body: body.into(), key: None };
    app.send_message(&ann(), new).await.unwrap();
}

async fn write(app: &App, text: &str) {
    let (path, bytes) = (FilePath::new("a").unwrap(), text.as_bytes().into());
    app.write_file(&ann(), NewRevision { path, bytes, base: None, token: None }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_deleted_and_readers_that_were_behind_are_told() {
    on_every_database(async |app| {
        let tester = agent_in("w", "bob", "tester");
        app.join_workspace(&tester, None, Duration::from_secs(60)).await.unwrap();
        app.join_workspace(&agent_in("w", "bob", "gone"), None, Duration::from_secs(60)).await.unwrap();
        log(&app, 1100).await;
        send(&app, json!("x".repeat(10_000))).await;
        send(&app, json!("old")).await;
        for text in ["1", "2", "3", "4"] {
            write(&app, text).await;
        }
        let later = app.at(NOW.after(DAY * 50));
        log(later, 2).await;
        send(later, json!("new")).await;
        write(later, "5").await;

        let operator: Permit = Actor::operator("local", ann().actor().team.clone()).permit().unwrap();
        later.prune_shared(&operator, KeepShared::default()).await.unwrap();
        later.prune_shared(&operator, keep(100)).await.unwrap();
        let steps = later.db.steps(&ann().to_read(), StepFilter::default(), Start::After(0), 1).await.unwrap();
        assert_eq!((steps.rows[0].number, steps.first), (1, None), "nothing is so old");

        later.prune_shared(&operator, keep(30)).await.unwrap();
        later.prune_shared(&operator, keep(30)).await.unwrap();
        let page = async |start| later.db.steps(&ann().to_read(), StepFilter::default(), start, 10).await.unwrap();
        let numbers = |page: &skep_core::page::Page<_>| {
            page.rows.iter().map(|step: &skep_core::step::Step| step.number).collect::<Vec<_>>()
        };
        let (all, behind, at_end) =
            (page(Start::After(0)).await, page(Start::After(7)).await, page(Start::After(1100)).await);
        assert_eq!((numbers(&all), all.first), (vec![1101, 1102], None));
        assert_eq!((numbers(&behind), behind.first), (vec![1101, 1102], Some(1101)));
        assert_eq!((numbers(&at_end), at_end.first), (vec![1101, 1102], None), "it has missed nothing");

        let unread = Selection::Unread { after: 0 };
        let read = later.read_messages(&tester, unread, &[], 10, Duration::ZERO).await.unwrap();
        assert_eq!(read.rows.iter().map(|message| message.number).collect::<Vec<_>>(), [3], "nor is it unread");
        let revisions = later.db.revisions(&ann().to_read(), &FilePath::new("a").unwrap(), None, 10).await.unwrap();
        assert_eq!(revisions.iter().map(|revision| revision.number).collect::<Vec<_>>(), [5]);
        let names = later.db.members(&ann().to_read()).await.unwrap().into_iter().map(|member| member.name);
        assert_eq!(names.collect::<Vec<_>>(), ["tester"], "one that was away so long and has nothing to read is gone");
        log(later, 1).await;
        assert_eq!(page(Start::Before(i64::MAX)).await.rows.last().unwrap().number, 1103, "numbers go on");
    })
    .await;
}
