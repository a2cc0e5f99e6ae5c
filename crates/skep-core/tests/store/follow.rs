//! What followers of a namespace can rely on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skep_core::{
    app::EventFollower,
    event::{EventKind, Subject},
    run,
};
use tokio::{task::JoinSet, time::timeout};

use super::*;

/// Longer than anything takes here, even where the machine is busy.
const LONG: Duration = Duration::from_secs(60);

fn follow(app: &Hub, number: i64) -> EventFollower {
    app.follow(&reader_in("main"), EventFilter::default(), number)
}

/// The next events; nothing else may come.
async fn next_events(follower: &mut EventFollower) -> Vec<Arc<Event>> {
    match timeout(LONG, follower.next()).await.expect("nothing came").unwrap() {
        News::Events(events) => events,
        reset @ News::Reset { .. } => panic!("{reset:?}"),
    }
}

/// Follow up to this number, and see that each event comes once.
async fn up_to(follower: &mut EventFollower, last: i64) {
    let mut seen = follower.number();
    while seen < last {
        for event in next_events(follower).await {
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
        let mut followers: Vec<EventFollower> = (0..FOLLOWERS).map(|_| follow(&app, 0)).collect();
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
        // Whoever wants one run's events alone is told as well, and loses none of them.
        let mut of_run = other.follow(&reader_in("main"), EventFilter::of_run(&RunId("kept".into())), 0);
        assert_eq!(of_run.next().await.unwrap(), News::Reset { first: 5, last: 6 });
        up_to(&mut of_run, 6).await;
        assert_eq!(of_run.look().await.unwrap(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_not_there_yet_can_be_followed() {
    on_every_address(async |address| {
        let hubs = [open(address, Limits::default()).await, open(address, Limits::default()).await];
        let permit = permit_in("later");
        let mut followers = hubs.each_ref().map(|hub| hub.follow(&reader_in("later"), EventFilter::default(), 0));
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
        changed.extend(next_events(&mut follower).await);
    }
    assert!(changed.iter().all(|event| event.kind.name() == "foreign.changed" && event.actor.is_none()), "{changed:?}");
    let mut rows: Vec<_> =
        changed.iter().map(|event| data(event)).map(|data| [data["table"].clone(), data["key"].clone()]).collect();
    rows.sort_unstable_by_key(|[_, key]| key.to_string());
    assert_eq!(rows, [["task", "a"], ["task", "b"]], "however often it was changed");

    let about_a = EventFilter { subject: Some(Subject::new("task", "a")), ..EventFilter::default() };
    let kinds = events(&app, about_a, 0).await.into_iter().map(|event| event.kind.name().to_owned());
    assert_eq!(kinds.collect::<Vec<_>>(), ["task.submitted", "foreign.changed"]);

    // What Skep itself does is in its own events.
    let task = claim(&app, NOW).await.unwrap();
    finish(&app, &task).await.unwrap();
    let last = follower.number() + 2;
    up_to(&mut follower, last).await;
    assert_eq!(count(&app, "foreign.changed").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_changes_is_told_within_a_second() {
    const CHANGES: usize = 9;
    let Some(address) = postgres::new_schema().await else { return };
    let app = open(&address, Limits::default()).await;
    app.submit(&permit(), new("a")).await.unwrap();
    let mut follower = follow(&app, 0);
    up_to(&mut follower, 1).await;
    let mut times = Vec::new();
    for _ in 0..CHANGES {
        postgres::execute(&address, "update task set position = position + 7 where id = 'a'").await;
        let committed = Instant::now();
        assert_eq!(next_events(&mut follower).await[0].kind.name(), "foreign.changed");
        times.push(committed.elapsed());
    }
    // Each comes just after a poll, and would have to wait a whole second for the next one. A machine may be busy for some.
    times.sort_unstable();
    assert!(times[CHANGES / 2] < Duration::from_secs(1), "{times:?}");
}

/// Filters, and what each of them is for, said once more.
type Wanted = (EventFilter, fn(&Event) -> bool);

const FILTERS: usize = 8;

fn filters() -> [Wanted; FILTERS] {
    let all = EventFilter::default;
    let name = |name: &str| Some(name.into());
    let kinds = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    [
        (all(), |_| true),
        (EventFilter::of_run(&RunId("r1".into())), |event| event.run == Some(RunId("r1".into()))),
        (EventFilter { task: Some(id("r0-a")), ..all() }, |event| event.task == Some(id("r0-a"))),
        (EventFilter { subject: Some(Subject::new("run", "r1")), ..all() }, |event| {
            event.run == Some(RunId("r1".into())) && event.task.is_none()
        }),
        (EventFilter { principal: name("ann"), ..all() }, |event| &*event.actor.as_ref().unwrap().principal == "ann"),
        (EventFilter { agent: name("reviewer"), ..all() }, |event| {
            event.actor.as_ref().unwrap().agent.as_deref() == Some("reviewer")
        }),
        (EventFilter { kinds: kinds(&["run.ended", "task.started"]), ..all() }, |event| {
            matches!(event.kind, EventKind::RunEnded { .. } | EventKind::TaskStarted(_))
        }),
        (
            EventFilter {
                principal: name("bob"),
                kinds: kinds(&["task.log"]),
                ..EventFilter::of_run(&RunId("r1".into()))
            },
            |event| matches!(&event.kind, EventKind::TaskLog { message, .. } if message == "bob in r1"),
        ),
    ]
}

/// Something of everything that the filters are about.
async fn work(app: &Hub, run: &str) {
    let [ann, bob] = [("ann", None), ("bob", Some("reviewer"))].map(|(name, agent)| {
        let member = Actor::member(name, Namespace::team("main"));
        Arc::new(Actor { agent: agent.map(Arc::from), ..(*member).clone() }).permit().unwrap()
    });
    let (id, queue) = (RunId(run.to_owned()), format!("queue of {run}"));
    let tasks = ["a", "b"].map(|task| NewTask { queue: queue.clone(), ..new(&format!("{run}-{task}")) });
    app.start_run(&ann, new_run(run), tasks.to_vec()).await.unwrap();
    for permit in [&ann, &bob] {
        let task = app.claim(permit, &queue, &holder("w")).await.unwrap().unwrap();
        app.log(permit, &id, Some(&task.id), &format!("{} in {run}", permit.actor().principal), None).await.unwrap();
        app.finish(permit, &task.id, attempt(&task), json!(1), Vec::new()).await.unwrap();
    }
    app.end_run(&bob, &id, run::End::Completed, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_lets_its_events_through_and_no_others_from_any_number_on() {
    on_every_database(async |app| {
        for run in ["r0", "r1", "r2"] {
            work(&app, run).await;
        }
        let log = log(&app).await;
        for (n, (filter, is_wanted)) in filters().into_iter().enumerate() {
            for after in 0..=log.len() as i64 {
                let expected: Vec<_> = log.iter().filter(|event| event.number > after && is_wanted(event)).collect();
                assert!(after > 0 || !expected.is_empty(), "filter {n} is for nothing");
                let read = events(&app, filter.clone(), after).await;
                assert_eq!(read.iter().collect::<Vec<_>>(), expected, "filter {n} after {after}");
                let mut follower = app.follow(&reader_in("main"), filter.clone(), after);
                let mut followed = Vec::new();
                while followed.len() < expected.len() {
                    followed.extend(next_events(&mut follower).await);
                }
                assert_eq!(
                    followed.iter().map(|event| &**event).collect::<Vec<_>>(),
                    expected,
                    "filter {n} after {after}"
                );
            }
        }
    })
    .await;
}

/// Readers of two hubs, each of which goes on with the other hub, or drops what it waits for, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_reads_on_from_its_number_misses_nothing_with_any_filter() {
    const RUNS: usize = 12;
    on_every_address(async |address| {
        let hubs = [open(address, Limits::default()).await, open(address, Limits::default()).await];
        let mut writers = JoinSet::new();
        for n in 0..RUNS {
            let hub = hubs[n % 2].clone();
            writers.spawn(async move { work(&hub, &format!("r{n}")).await });
        }
        let mut readers = JoinSet::new();
        for (n, (filter, is_wanted)) in filters().into_iter().enumerate() {
            let hubs = hubs.clone();
            readers.spawn(async move {
                let last = (RUNS * 10) as i64;
                let (mut number, mut read, mut turn) = (0, Vec::new(), n);
                while number < last {
                    let mut follower = hubs[turn % 2].follow(&reader_in("main"), filter.clone(), number);
                    turn += 1;
                    // Now and then there is time for some news, now and then for none. The last turn has what is left.
                    let time = Duration::from_millis((turn % 4) as u64);
                    while let Ok(News::Events(events)) = timeout(time, follower.next()).await.map(Result::unwrap) {
                        read.extend(events);
                    }
                    if let Some(News::Events(events)) = follower.look().await.unwrap() {
                        read.extend(events);
                    }
                    number = follower.number();
                }
                (n, is_wanted, read)
            });
        }
        writers.join_all().await;
        let log = log(&hubs[0]).await;
        for (n, is_wanted, read) in timeout(LONG, readers.join_all()).await.expect("a reader got stuck") {
            let expected: Vec<_> = log.iter().filter(|event| is_wanted(event)).collect();
            assert_eq!(read.iter().map(|event| &**event).collect::<Vec<_>>(), expected, "filter {n}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slower_than_the_writers_loses_nothing() {
    /// More than a process remembers.
    const TASKS: usize = 4500;
    on_every_database(async |app| {
        app.submit(&permit(), new("first")).await.unwrap();
        let mut slow = follow(&app, 0);
        up_to(&mut slow, 1).await;
        let tasks = (0..TASKS).map(|n| new(&n.to_string())).collect();
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        app.submit(&permit(), new("last")).await.unwrap();
        up_to(&mut slow, TASKS as i64 + 3).await;
        let of_last = EventFilter { task: Some(id("last")), ..EventFilter::default() };
        let mut of_last = app.follow(&reader_in("main"), of_last, 0);
        assert_eq!(next_events(&mut of_last).await.len(), 1);
        assert_eq!(of_last.number(), TASKS as i64 + 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_newer_program_is_handed_on_as_it_is() {
    on_every_address(async |address| {
        let app = open(address, Limits::default()).await;
        app.submit(&permit(), new("a")).await.unwrap();
        let newer = "insert into event (namespace, number, at, actor, kind, subject_kind, subject, data)
                select id, 2, 7, 'ann', 'file.painted', 'file', 'a/b', '{\"colour\": 1.50}' from namespace where team = 'main';
            update namespace set last_event = 2 where team = 'main'";
        tamper(address, newer).await;
        for filter in [
            EventFilter { subject: Some(Subject::new("file", "a/b")), ..EventFilter::default() },
            EventFilter { kinds: vec!["file.painted".to_owned()], ..EventFilter::default() },
        ] {
            let [event] = <[Event; 1]>::try_from(events(&app, filter, 0).await).unwrap();
            assert_eq!((event.kind.name(), event.kind.data().as_str()), ("file.painted", "{\"colour\": 1.50}"));
            assert_eq!(&*event.actor.unwrap().principal, "ann");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_event_says_who_caused_it_also_where_many_are_done_together() {
    const WORKERS: usize = 24;
    on_every_database(async |app| {
        let actor = |n: usize| Actor::member(format!("p{n}"), Namespace::team("main")).permit().unwrap();
        let sessions = (0..WORKERS).map(|n| {
            let Holder { worker, session } = holder(&format!("w{n}"));
            NewSession { id: session, worker, token: None }
        });
        app.join(&permit(), &HubId("test".into()), sessions.collect(), ALIVE).await.unwrap();
        let work = async |n: usize| {
            let (permit, holder) = (actor(n), holder(&format!("w{n}")));
            app.submit(&permit, new(&format!("task of p{n}"))).await.unwrap();
            let task = app.claim(&permit, "q", &holder).await.unwrap().unwrap();
            app.finish(&permit, &task.id, attempt(&task), json!(1), Vec::new()).await.unwrap();
            app.finish(&permit, &task.id, Attempt { number: 7, ..attempt(&task) }, json!(1), Vec::new())
                .await
                .unwrap_err();
        };
        futures_util::future::join_all((0..WORKERS).map(work)).await;
        let log = log(&app).await;
        assert_eq!(log.len(), 4 * WORKERS);
        for event in log {
            let principal = match &event.kind {
                EventKind::TaskSubmitted { .. } => {
                    event.task.as_ref().unwrap().0.strip_prefix("task of ").unwrap().to_owned()
                }
                EventKind::TaskStarted(attempt) | EventKind::TaskCompleted(attempt) => {
                    attempt.worker.0.replace('w', "p")
                }
                EventKind::TaskAnswerRefused { worker, .. } => worker.0.replace('w', "p"),
                other => panic!("{other:?}"),
            };
            assert_eq!(*event.actor.unwrap().principal, *principal, "{:?}", event.kind);
        }
    })
    .await;
}
