//! What hubs that share a PostgreSQL can rely on, and what a hub does when it is gone.

use std::sync::{
    Arc, Barrier,
    atomic::{AtomicU32, Ordering},
};

use skep_core::db::{DbError, Tx};
use tokio::task::JoinSet;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deadlock_between_hubs_is_retried() {
    let Some(address) = postgres::new_schema().await else { return };
    let (tries, one, other) = deadlock(&address, Limits::default()).await;
    one.unwrap();
    other.unwrap();
    assert_eq!(tries, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deadlock_between_hubs_is_not_retried_for_ever() {
    let Some(address) = postgres::new_schema().await else { return };
    let (tries, one, other) = deadlock(&address, Limits { tries_max: 1, ..Limits::default() }).await;
    assert!(matches!((one, other), (Ok(()), Err(DbError::Busy(_))) | (Err(DbError::Busy(_)), Ok(()))));
    assert_eq!(tries, 2);
}

/// A write in each of two hubs takes two tasks in opposite order, each holding its first until the other has one too.
async fn deadlock(address: &str, limits: Limits) -> (u32, Result<(), DbError>, Result<(), DbError>) {
    let hubs = [open(address, limits.clone()).await, open(address, limits).await];
    for name in ["a", "b"] {
        hubs[0].submit(&permit(), new(name), NOW).await.unwrap();
    }
    let (tries, both) = (Arc::new(AtomicU32::new(0)), Arc::new(Barrier::new(2)));
    let take = |hub: &App, first: &'static str, second: &'static str| {
        let (hub, tries, both) = (hub.clone(), Arc::clone(&tries), Arc::clone(&both));
        async move {
            let take = async move |tx: &mut Tx<'_>| {
                tx.task(&id(first)).await?;
                if tries.fetch_add(1, Ordering::SeqCst) < 2 {
                    both.wait(); // blocks the hub's thread, so that the other one comes to it
                }
                tx.task(&id(second)).await.map(drop)
            };
            hub.db.write(permit().namespace(), take).await
        }
    };
    let (one, other) = tokio::join!(take(&hubs[0], "a", "b"), take(&hubs[1], "b", "a"));
    audit::sound(address).await;
    (tries.load(Ordering::SeqCst), one, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_keeps_a_row_locked_makes_others_say_busy_and_not_wait_for_ever() {
    let Some(address) = postgres::new_schema().await else { return };
    let app = open(&address, Limits { lock_time_max: Duration::from_millis(100), ..Limits::default() }).await;
    app.submit(&permit(), new("a"), NOW).await.unwrap();
    let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.unwrap();
    let mut running = JoinSet::new();
    running.spawn(async move { connection.await.unwrap() });
    client.batch_execute("begin; select 1 from task for update").await.unwrap();
    let refused = app.cancel(&permit(), &id("a"), NOW).await;
    assert!(matches!(refused, Err(TaskError::Db(DbError::Busy(_)))), "{refused:?}");
    assert_eq!(claim(&app, NOW).await, None, "a claim passes it over");
    client.batch_execute("rollback").await.unwrap();
    app.cancel(&permit(), &id("a"), NOW).await.unwrap();
    audit::sound(&address).await;
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
            match app.submit(&permit(), new(&name), NOW).await {
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
    assert_eq!(audit::sound(&address).await.events_missing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_named_as_the_trouble() {
    let address = "postgresql://nobody@localhost/none?host=/nonexistent/socket";
    let Err(error) = Db::open(address, Limits::default()).await else { panic!("opened") };
    assert!(matches!(error, DbError::Unreachable(_)), "{error:?}");
    let Err(error) = Db::open("what is this", Limits::default()).await else { panic!("opened") };
    assert!(matches!(error, DbError::Address(_)), "{error:?}");
}
