//! Workers that pull tasks, and have no process that says that it is alive.

use std::collections::BTreeSet;

use skep_core::{
    app::{Progress, Wanted},
    limits::LEASE_MIN,
    session::ATTACH_TIME,
    task::{Details, Priority, Refused},
};

use super::*;

const LEASE: Duration = Duration::from_secs(60);

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn wanted(kinds: &[&str], capabilities: &[&str]) -> Wanted {
    Wanted { queue: "q".into(), kinds: words(kinds), capabilities: words(capabilities) }
}

/// A lease of its own for each number.
fn lease(n: u32) -> Holder {
    Holder { worker: worker("puller"), session: SessionId(format!("lease {n}")) }
}

async fn pull(app: &Hub, n: u32, wanted: Wanted) -> Option<Task> {
    app.lease(&permit(), wanted, lease(n), LEASE).await.unwrap()
}

/// What every hub does again and again.
async fn look_after(app: &Hub) -> Vec<Task> {
    app.expire_hubs(ATTACH_TIME).await.unwrap();
    app.release_lost(&permit()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lasts_as_long_as_it_is_renewed_and_then_its_task_is_given_out_again() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        app.submit(&permit(), new("b")).await.unwrap();
        let (a, b) = (pull(&app, 1, wanted(&[], &[])).await.unwrap(), pull(&app, 2, wanted(&[], &[])).await.unwrap());
        assert_eq!(pull(&app, 3, wanted(&[], &[])).await, None);
        let mut now = NOW;
        for percent in [10, 60] {
            now = now.after(LEASE - Duration::from_secs(1));
            app.clock.set(now);
            let progress = Progress { percent: Some(percent), message: Some("halfway".into()) };
            app.renew(&permit(), &a.id, (&attempt(&a), &lease(1).session), progress, LEASE).await.unwrap();
            look_after(&app).await;
        }
        assert_eq!(state(&app, "a").await, a.state, "it was renewed");
        assert_eq!(state(&app, "b").await, State::Pending { due: NOW, waiting_for: 0 }, "it was not");
        assert_eq!(count(&app, "task.progress").await, 2);
        let silent = (&attempt(&b), &lease(2).session);
        let refused = app.renew(&permit(), &b.id, silent, Progress::default(), LEASE).await;
        assert!(matches!(refused, Err(TaskError::Refused(Refused::NotHeld))), "{refused:?}");
        let late = finish(&app, &b).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::NotHeld))), "{late:?}");
        let again = pull(&app, 4, wanted(&[], &[])).await.unwrap();
        assert_eq!((again.id.0.as_str(), again.attempt, again.losses), ("b", 2, 1));
        for (task, n) in [(&a, 1), (&again, 4)] {
            finish(&app, task).await.unwrap();
            app.end_lease(&permit(), &lease(n).session).await.unwrap();
        }
        app.clock.set(now.after(2 * LEASE));
        assert_eq!(look_after(&app).await, [], "nobody had anything any more");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pulls_gets_what_it_wants_and_can_do_and_the_most_urgent_first() {
    on_every_database(async |app| {
        let of = |name: &str, kind: &str, capabilities: &[&str], priority| NewTask {
            details: Details { kind: Some(kind.into()), capabilities: words(capabilities), ..Details::default() },
            priority,
            ..new(name)
        };
        let tasks = vec![
            of("plain", "backend", &[], Priority::Low),
            of("both", "backend", &["rust", "sql"], Priority::Medium),
            of("gpu", "ml", &["gpu"], Priority::Critical),
            new("untyped"),
        ];
        app.submit_all(&permit(), tasks).await.unwrap();
        let mut n = 0;
        let mut next = async |kinds: &[&str], capabilities: &[&str]| {
            n += 1;
            pull(&app, n, wanted(kinds, capabilities)).await.map(|task| task.id.0)
        };
        assert_eq!(next(&["ml"], &["rust"]).await, None);
        assert_eq!(next(&["backend"], &["rust"]).await.as_deref(), Some("plain"));
        assert_eq!(next(&[], &["rust"]).await.as_deref(), Some("untyped"));
        assert_eq!(next(&["backend", "ml"], &["gpu", "rust", "sql"]).await.as_deref(), Some("gpu"));
        assert_eq!(next(&["backend"], &["rust", "sql"]).await.as_deref(), Some("both"));
        assert_eq!(next(&[], &["gpu"]).await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_goes_to_the_next_one_at_once() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        let first = pull(&app, 1, wanted(&[], &[])).await.unwrap();
        let stranger = Attempt { worker: worker("stranger"), ..attempt(&first) };
        let refused = app.give_back(&permit(), &first.id, (&stranger, &lease(1).session)).await;
        assert!(matches!(refused, Err(TaskError::Refused(Refused::NotHeld))), "{refused:?}");
        app.give_back(&permit(), &first.id, (&attempt(&first), &lease(1).session)).await.unwrap();
        let second = pull(&app, 2, wanted(&[], &[])).await.unwrap();
        assert_eq!((second.attempt, second.losses, second.failures), (2, 0, 0));
        app.cancel(&permit(), &id("a")).await.unwrap();
        let (by, session) = (attempt(&second), lease(2).session);
        let told = app.renew(&permit(), &second.id, (&by, &session), Progress::default(), LEASE).await;
        assert!(matches!(told, Err(TaskError::Refused(Refused::Over("cancelled")))), "{told:?}");
        let short = app.lease(&permit(), wanted(&[], &[]), lease(3), LEASE_MIN - Duration::from_secs(1)).await;
        assert!(matches!(short, Err(TaskError::Invalid(_))), "{short:?}");
    })
    .await;
}
