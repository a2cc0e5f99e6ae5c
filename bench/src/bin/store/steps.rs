//! Steps that many callers log at once: the store's, and the same by hand.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};
use skep_core::{
    Json,
    app::App,
    db::{Db, Limits},
    step::{Level, NewStep},
};
use tokio::task::JoinSet;

use super::{claims::connect, output, permit};

const MESSAGE: &str = "compiled crates/core, and ran its tests";

/// The store: each caller awaits that its step is durable before it logs the next one.
pub(super) async fn of_store(address: &str, callers: usize, time: Duration) -> f64 {
    let app = App::new(Db::open(address, Limits::default()).await.unwrap());
    let data = Json::from(output());
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (app, data) = (app.clone(), data.clone());
        let permit = permit(0).within(Some("t"), Some(&format!("agent {caller}"))).unwrap();
        running.spawn(async move {
            let mut logged = 0;
            while begun.elapsed() < time {
                let step = NewStep { level: Level::Info, message: MESSAGE.to_owned(), data: Some(data.clone()) };
                app.log_step(&permit, step).await.unwrap();
                logged += 1;
            }
            logged
        });
    }
    let logged: u32 = running.join_all().await.into_iter().sum();
    let rate = f64::from(logged) / begun.elapsed().as_secs_f64();
    app.db.close().await;
    rate
}

/// rusqlite by itself: the same rows, with a commit after every `group` steps, on one thread with nobody to wait for.
pub(super) fn alone(path: &Path, group: u32, time: Duration) -> f64 {
    const STEP: &str = "insert into step (namespace, number, at, principal, agent, level, message, data)
         values (1, ?1, 1, 'bench', 'agent 7', 'info', ?2, ?3)";
    const EVENT: &str = "insert into event (namespace, number, at, actor, agent, on_behalf_of, kind, run, task,
            subject_kind, subject, data)
         values (1, ?1, 1, 'bench', 'agent 7', null, 'step.logged', null, null, 'step', ?2, ?3)";
    const COUNT: &str = "update namespace set last_step = ?1, last_event = ?1 where id = 1";
    let db = Connection::open(path).unwrap();
    db.execute_batch("pragma journal_mode = wal; pragma synchronous = full").unwrap();
    db.execute_batch("insert into namespace (team, workspace) values ('n', 't')").unwrap();
    let data = output().to_string();
    let (begun, mut number) = (Instant::now(), 0_u32);
    while begun.elapsed() < time {
        db.execute_batch("begin immediate").unwrap();
        for _ in 0..group {
            number += 1;
            let told = format!(r#"{{"number":{number},"level":"info","message":"{MESSAGE}","data":{data}}}"#);
            db.prepare_cached(STEP).unwrap().execute(params![number, MESSAGE, data]).unwrap();
            db.prepare_cached(EVENT).unwrap().execute(params![number, number.to_string(), told]).unwrap();
        }
        db.prepare_cached(COUNT).unwrap().execute(params![number]).unwrap();
        db.execute_batch("commit").unwrap();
    }
    f64::from(number) / begun.elapsed().as_secs_f64()
}

/// By hand on PostgreSQL: one insert for each transaction, on so many connections, which number their rows themselves and
/// tell nobody.
pub(super) async fn one_by_one(address: &str, connections: usize, time: Duration) -> f64 {
    const STEP: &str = "insert into step (namespace, number, at, principal, agent, level, message, data)
         values ($1, $2, 1, 'bench', 'agent 7', 'info', $3, $4)";
    Db::open(address, Limits::default()).await.unwrap().close().await; // makes the table
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(address).await);
    }
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for (namespace, client) in (1_i64..).zip(clients) {
        running.spawn(async move {
            let (insert, data) = (client.prepare(STEP).await.unwrap(), output().to_string());
            let mut number = 0_i64;
            while begun.elapsed() < time {
                number += 1;
                client.execute(&insert, &[&namespace, &number, &MESSAGE, &data]).await.unwrap();
            }
            number
        });
    }
    let logged: i64 = running.join_all().await.into_iter().sum();
    logged as f64 / begun.elapsed().as_secs_f64()
}
