//! What somebody is told whose database is broken, locked, or not ours.

use std::{fs, path::Path, time::Duration};

use rusqlite::Connection;
use skep_core::db::DbError;

use super::*;

async fn refusal(address: &str) -> DbError {
    let limits = Limits { lock_time_max: Duration::from_millis(50), ..Limits::default() };
    match Db::open(address, limits).await {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

/// A file that Skep has made and closed.
async fn made(directory: &tempfile::TempDir) -> String {
    let address = sqlite(directory);
    let app = open(&address, Limits::default()).await;
    let tasks = (0..200).map(|n| new(&n.to_string())).collect();
    app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
    app.db.close().await;
    address
}

fn path(address: &str) -> &Path {
    Path::new(address.strip_prefix("sqlite:").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_skep_is_left_alone() {
    on_every_address(async |address| {
        open(address, Limits::default()).await.db.close().await;
        tamper(address, "insert into skep_migration (number, name, sha256) values (9999, 'tomorrow', 'x')").await;
        let refused = refusal(address).await;
        assert!(matches!(refused, DbError::Newer { found: 9999, known: 1.. }), "{refused:?}");
        let newest = "(select max(number) from skep_migration where number < 9999)";
        tamper(address, &format!("update skep_migration set oldest = {newest} + 1 where number = 9999")).await;
        assert!(matches!(refusal(address).await, DbError::Newer { found: 9999, .. }));
        tamper(address, &format!("update skep_migration set oldest = {newest} where number = 9999")).await;
        let app = open(address, Limits::default()).await;
        app.submit(&permit(), new("a")).await.expect("what was changed does not concern this program");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_another_migration_made_is_left_alone() {
    on_every_address(async |address| {
        open(address, Limits::default()).await.db.close().await;
        tamper(address, "update skep_migration set sha256 = 'x' || sha256 where number = 1").await;
        let refused = refusal(address).await;
        assert!(matches!(refused, DbError::MigrationChanged { number: 1, name: "start" }), "{refused:?}");
        tamper(address, "update skep_migration set sha256 = substr(sha256, 2) where number = 1").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_again_changes_nothing_and_several_may_open_at_once() {
    on_every_address(async |address| {
        let open_all = (0..4).map(|_| Db::open(address, Limits::default()));
        let opened = futures_util::future::join_all(open_all).await;
        let apps: Vec<App> = opened.into_iter().map(|db| App::new(db.unwrap())).collect();
        for (n, app) in apps.iter().enumerate() {
            app.submit(&permit(), new(&n.to_string())).await.unwrap();
        }
        assert_eq!(all_events(&apps[0], &permit().to_read()).await.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let address = sqlite(&directory);
    let letter = "Dear diary, ".repeat(1000);
    fs::write(path(&address), &letter).unwrap();
    let refused = refusal(&address).await;
    assert!(matches!(refused, DbError::Corrupt(_)), "{refused:?}");
    assert_eq!(fs::read_to_string(path(&address)).unwrap(), letter);
}

#[tokio::test]
async fn the_database_of_another_program_is_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let address = sqlite(&directory);
    Connection::open(path(&address)).unwrap().execute_batch("create table bookmarks (url text)").unwrap();
    let before = fs::read(path(&address)).unwrap();
    let refused = refusal(&address).await;
    assert!(matches!(refused, DbError::Foreign), "{refused:?}");
    assert!(fs::read(path(&address)).unwrap() == before, "not a byte of it is changed");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "and nothing is beside it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named_as_the_trouble_and_panics_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let address = made(&directory).await;
    let mut bytes = fs::read(path(&address)).unwrap();
    // The header stays, so it opens; the rest is rubbish.
    bytes[4096..].fill(0x5a);
    fs::write(path(&address), bytes).unwrap();
    let refused = match Db::open(&address, Limits::default()).await {
        Err(error) => error,
        Ok(db) => App::new(db).submit(&permit(), new("a")).await.map(drop).map_err(to_db).unwrap_err(),
    };
    assert!(matches!(refused, DbError::Corrupt(_)), "{refused:?}");
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("no/such");
    let refused = refusal(&format!("sqlite:{}", missing.join("hub.db").display())).await;
    assert!(matches!(&refused, DbError::NoDirectory(path) if *path == missing), "{refused:?}");
    assert!(refused.to_string().contains("no/such"));
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_named_without_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let refused = refusal(&format!("sqlite:{}", directory.path().display())).await;
    assert!(
        matches!(&refused, DbError::CannotOpen { path: Some(path), .. } if path == directory.path()),
        "{refused:?}"
    );
    let cause = std::error::Error::source(&refused).unwrap().to_string();
    assert!(!cause.contains("code"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_file_is_named_as_the_trouble_and_works_again_when_it_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let address = made(&directory).await;
    let limits = Limits { lock_time_max: Duration::from_millis(50), ..Limits::default() };
    let app = open(&address, limits).await;
    let other = Connection::open(path(&address)).unwrap();
    other.execute_batch("begin immediate").unwrap();
    let refused = app.submit(&permit(), new("a")).await.map_err(to_db);
    assert!(matches!(refused, Err(DbError::Locked(_))), "{refused:?}");
    assert!(task(&app, "0").await.is_some(), "it can still be read");
    other.execute_batch("rollback").unwrap();
    app.submit(&permit(), new("a")).await.unwrap();
}

fn to_db(error: TaskError) -> DbError {
    match error {
        TaskError::Db(error) => error,
        other => panic!("{other:?}"),
    }
}

/// What a hub of the first edition does that was running when this one brought the database up to date.
#[tokio::test(flavor = "multi_thread")]
async fn the_writes_of_an_older_hub_that_still_runs_fail_and_do_not_get_lost() {
    const OLD: [&str; 2] = [
        "insert into log (namespace, number) values ('main', 1)
         on conflict (namespace) do update set number = excluded.number",
        "insert into mcp_task (namespace, id, principal, request, may_repeat, attempt, holder, state, content, created,
            updated, expires, bytes, held_until)
         values ('main', 't', 'p', '{}', false, 1, 'h', 'working', null, 1, 1, 9, 2, 5)",
    ];
    on_every_address(async |address| {
        open(address, Limits::default()).await.db.close().await;
        for sql in OLD {
            let refused = match address.strip_prefix("sqlite:") {
                Some(path) => Connection::open(path).unwrap().execute_batch(sql).is_err(),
                None => {
                    let (client, connection) = tokio_postgres::connect(address, tokio_postgres::NoTls).await.unwrap();
                    tokio::select! {
                        done = client.batch_execute(sql) => done.is_err(),
                        ended = connection => panic!("the connection ended: {ended:?}"),
                    }
                }
            };
            assert!(refused, "{sql}");
        }
    })
    .await;
}
