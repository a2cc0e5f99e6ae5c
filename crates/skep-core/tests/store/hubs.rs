//! What hubs that share a PostgreSQL can rely on, and what a hub does when it is gone.

use skep_core::db::DbError;
use tokio::task::JoinSet;

use super::*;

/// N needs D, which needs T. N is submitted by one hub while T fails in the other: whichever is first, N is blocked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dependent_that_comes_while_what_it_needs_is_blocked_does_not_wait_for_ever() {
    let Some(address) = postgres::new_schema().await else { return };
    let hubs = [open(&address, Limits::default()).await, open(&address, Limits::default()).await];
    let permit = permit();
    for round in 0..40 {
        let [t, d, n] = ["t", "d", "n"].map(|name| format!("{name}{round}"));
        hubs[0].submit(&permit, new(&t)).await.unwrap();
        hubs[0].submit(&permit, needs(&d, &[&t])).await.unwrap();
        let held = claim(&hubs[0], NOW).await.unwrap();
        let (failed, submitted) = tokio::join!(fail(&hubs[0], &held, false), hubs[1].submit(&permit, needs(&n, &[&d])));
        failed.unwrap();
        submitted.unwrap();
        for name in [&d, &n] {
            assert!(matches!(state(&hubs[0], name).await, State::Blocked(_)), "{name} waits");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_keeps_a_namespace_locked_makes_others_say_busy_and_not_wait_for_ever() {
    let Some(address) = postgres::new_schema().await else { return };
    let limits = Limits { lock_time_max: Duration::from_millis(100), ..Limits::default() };
    let app = open(&address, limits).await;
    app.submit(&permit(), new("a")).await.unwrap();
    let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.unwrap();
    let mut running = JoinSet::new();
    running.spawn(async move { connection.await.unwrap() });
    client.batch_execute("begin; select 1 from namespace for update").await.unwrap();
    let refused = app.cancel(&permit(), &id("a")).await;
    assert!(matches!(refused, Err(TaskError::Db(DbError::Busy(_)))), "{refused:?}");
    assert!(task(&app, "a").await.is_some(), "it can still be read");
    client.batch_execute("rollback").await.unwrap();
    app.cancel(&permit(), &id("a")).await.unwrap();
    sound(&address).await;
}

/// Each hub may think what it likes of the time on its own wall.
#[tokio::test(flavor = "multi_thread")]
async fn hubs_agree_on_the_servers_time() {
    let Some(address) = postgres::new_schema().await else { return };
    let hubs =
        [Db::open(&address, Limits::default()).await.unwrap(), Db::open(&address, Limits::default()).await.unwrap()];
    let mut last = Timestamp(0);
    for n in 0..10 {
        let hub = App::new(hubs[n % 2].clone());
        let State::Pending { due, .. } = hub.submit(&permit(), new(&n.to_string())).await.unwrap().state else {
            panic!("a new task is pending");
        };
        assert!(due.0 >= last.0 - 1_000_000, "{due:?} after {last:?}");
        let now = hub.db.now();
        assert!(now.at >= due && now.error < Duration::from_secs(5), "{now:?} after {due:?}");
        last = due;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_goes_on_after_the_server_has_ended_its_connections() {
    let Some(address) = postgres::new_schema().await else { return };
    let app = open(&format!("{address}&application_name=victim"), Limits::default()).await;
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'victim'";
        postgres::execute(&address, end).await;
        for n in 0..10 {
            let name = format!("{round}-{n}");
            match app.submit(&permit(), new(&name)).await {
                Ok(_) => acknowledged.push(name),
                Err(TaskError::Db(DbError::Unreachable(_) | DbError::Unsure(_))) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    assert!(acknowledged.len() >= 40, "it recovers at once: {}", acknowledged.len());
    for name in acknowledged {
        assert!(task(&app, &name).await.is_some(), "{name} is lost");
    }
    assert_eq!(sound(&address).await.events_missing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_named_as_the_trouble() {
    let address = "postgresql://nobody@localhost/none?host=/nonexistent/socket";
    let Err(error) = Db::open(address, Limits::default()).await else { panic!("opened") };
    assert!(matches!(&error, DbError::Unreachable(why) if why.to_string().contains("/nonexistent")), "{error:?}");
    let Err(error) = Db::open("what is this", Limits::default()).await else { panic!("opened") };
    assert!(matches!(error, DbError::Address(_)), "{error:?}");
}
