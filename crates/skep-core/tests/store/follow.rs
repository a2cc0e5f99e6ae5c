//! What followers of a namespace can rely on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skep_core::{
    db::{Follower, News},
    run,
};
use tokio::{task::JoinSet, time::timeout};

use super::*;

/// Longer than anything takes here, even where the machine is busy.
const LONG: Duration = Duration::from_secs(60);

fn follow(app: &Hub, number: i64) -> Follower {
    app.db.follow(&permit().to_read(), number)
}

/// The next events; nothing else may come.
async fn events(follower: &mut Follower) -> Vec<Arc<Event>> {
    match timeout(LONG, follower.next()).await.expect("nothing came").unwrap() {
        News::Events(events) => events,
        reset @ News::Reset { .. } => panic!("{reset:?}"),
    }
}

/// Follow up to this number, and see that each event comes once.
async fn up_to(follower: &mut Follower, last: i64) {
    let mut seen = follower.number();
    while seen < last {
        for event in events(follower).await {
            assert_eq!(event.number, seen + 1, "an event is missing, or came twice");
            seen = event.number;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_gets_every_event_once_while_two_hubs_write() {
    const WRITERS: usize = 12;
    const EACH: usize = 25;
    const TOTAL: i64 = (WRITERS * EACH) as i64;
    on_every_address(async |address| {
        let hubs = [open(address, Limits::default()).await, open(address, Limits::default()).await];
        let (mut writers, mut followers) = (JoinSet::new(), JoinSet::new());
        for n in 0..WRITERS {
            let app = hubs[n % 2].clone();
            writers.spawn(async move {
                for m in 0..EACH {
                    app.submit(&permit(), new(&format!("{n}-{m}"))).await.unwrap();
                }
            });
        }
        for n in 0..20 {
            let mut follower = follow(&hubs[n % 2], 0);
            followers.spawn(async move { up_to(&mut follower, TOTAL).await });
        }
        writers.join_all().await;
        followers.join_all().await;
        // Those who come later, at any number, and two that come while nothing else happens.
        for number in [0, 1, TOTAL / 2, TOTAL - 1] {
            up_to(&mut follow(&hubs[0], number), TOTAL).await;
        }
        let (mut here, mut there) = (follow(&hubs[0], TOTAL), follow(&hubs[1], TOTAL));
        let (seen_here, seen_there) = (up_to(&mut here, TOTAL + 1), up_to(&mut there, TOTAL + 1));
        let write = async { hubs[0].submit(&permit(), new("last")).await.unwrap() };
        tokio::join!(seen_here, seen_there, write);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_followers_share_what_is_read() {
    const FOLLOWERS: usize = 1000;
    const BEFORE: usize = 300;
    const AFTER: usize = 20;
    on_every_database(async |app| {
        let tasks = (0..BEFORE - 1).map(|n| new(&n.to_string())).collect();
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let mut followers: Vec<Follower> = (0..FOLLOWERS).map(|_| follow(&app, 0)).collect();
        let mut all = JoinSet::new();
        for mut follower in followers.drain(..) {
            all.spawn(async move {
                up_to(&mut follower, BEFORE as i64).await;
                follower
            });
        }
        followers = all.join_all().await;
        let read = followers[0].pages_read();
        assert!(read <= 4, "{read} pages were read for what is in two");

        let mut all = JoinSet::new();
        for mut follower in followers {
            all.spawn(async move {
                up_to(&mut follower, (BEFORE + AFTER) as i64).await;
                follower.pages_read()
            });
        }
        for n in 0..AFTER {
            app.submit(&permit(), new(&format!("new-{n}"))).await.unwrap();
        }
        let pages = all.join_all().await;
        // A look at the database may see a commit before this process hears that it is done.
        let most = pages.into_iter().max().unwrap();
        assert!(most <= read + 5, "{} pages were read of what was committed here", most - read);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_hubs_events_come_with_its_notice_and_after_the_listening_connection_was_lost() {
    const ROUNDS: i64 = 20;
    let Some(address) = postgres::new_schema().await else { return };
    let hubs = [open(&address, Limits::default()).await, open(&address, Limits::default()).await];
    let mut follower = follow(&hubs[1], 0);
    hubs[0].submit(&permit(), new("first")).await.unwrap();
    up_to(&mut follower, 1).await;
    let begun = Instant::now();
    for n in 0..ROUNDS {
        hubs[0].submit(&permit(), new(&n.to_string())).await.unwrap();
        up_to(&mut follower, n + 2).await;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{ROUNDS} events took {took:?}, as long as looking takes");

    let end = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen %'";
    postgres::execute(&address, end).await;
    for n in 0..3 {
        hubs[0].submit(&permit(), new(&format!("lost-{n}"))).await.unwrap();
        up_to(&mut follower, ROUNDS + 2 + n).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_from_a_number_that_is_not_kept_is_told_so() {
    on_every_address_with_deletions(async |address| {
        let app = open(address, Limits::default()).await;
        let mut ahead = follow(&app, 7);
        assert_eq!(ahead.next().await.unwrap(), News::Reset { first: 1, last: 0 }, "no such number was given");
        app.start_run(&permit(), new_run("gone"), vec![new("a")]).await.unwrap();
        app.end_run(&permit(), &RunId("gone".into()), run::End::Cancelled, None).await.unwrap();
        app.start_run(&permit(), new_run("kept"), vec![new("b")]).await.unwrap();
        up_to(&mut ahead, 6).await;
        app.delete_run(&permit(), &RunId("gone".into())).await.unwrap();

        let other = open(address, Limits::default()).await;
        for number in [0, 3] {
            let mut behind = follow(&other, number);
            assert_eq!(behind.next().await.unwrap(), News::Reset { first: 5, last: 6 }, "from {number}");
            up_to(&mut behind, 6).await;
        }
        up_to(&mut follow(&other, 4), 6).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_not_there_yet_can_be_followed() {
    on_every_address(async |address| {
        let hubs = [open(address, Limits::default()).await, open(address, Limits::default()).await];
        let permit = permit_in("later");
        let mut followers = hubs.each_ref().map(|hub| hub.db.follow(&permit.to_read(), 0));
        let nothing = timeout(Duration::from_millis(50), followers[0].next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        hubs[0].submit(&permit, new("a")).await.unwrap();
        for follower in &mut followers {
            up_to(follower, 1).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_changes_becomes_an_event() {
    let Some(address) = postgres::new_schema().await else { return };
    let app = open(&address, Limits::default()).await;
    app.start_run(&permit(), new_run("r"), vec![new("a"), new("b")]).await.unwrap();
    let mut follower = follow(&app, 0);
    up_to(&mut follower, 3).await;
    let other = "set search_path to public; update SCHEMA.task set position = position + 7 where id = 'a'; \
         update SCHEMA.task set position = position + 7 where id = 'a'; delete from SCHEMA.task where id = 'b'";
    let schema = address.rsplit_once("search_path%3D").unwrap().1;
    postgres::execute(&address, &other.replace("SCHEMA", schema)).await;
    let mut changed = Vec::new();
    while changed.len() < 2 {
        changed.extend(events(&mut follower).await);
    }
    assert!(changed.iter().all(|event| event.kind.name() == "foreign.changed"), "{changed:?}");
    let mut rows: Vec<_> =
        changed.iter().map(|event| data(event)).map(|data| [data["table"].clone(), data["key"].clone()]).collect();
    rows.sort_unstable_by_key(|[_, key]| key.to_string());
    assert_eq!(rows, [["task", "a"], ["task", "b"]], "however often it was changed");

    // What Skep itself does is in its own events.
    let task = claim(&app, NOW).await.unwrap();
    finish(&app, &task).await.unwrap();
    let last = follower.number() + 2;
    up_to(&mut follower, last).await;
    assert_eq!(count(&app, "foreign.changed").await, 2);
}
