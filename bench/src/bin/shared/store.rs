//! The store by itself, in this process; and the least that a durable write takes.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};
use serde_json::{Value, json};
use skep_core::{
    Json, Namespace,
    app::App,
    claim::NewClaim,
    db::{Db, Limits},
    glob::Pattern,
    policy::{Actor, Permit},
    step::{Level, NewStep},
};
use tokio::task::JoinSet;

use super::{percentile, rate};

/// What a claim is held for, unless it is released.
const CLAIM_TIME: Duration = Duration::from_secs(60);
/// Commits that are timed.
const COMMITS: i64 = 200;

pub(crate) const MESSAGE: &str = "compiled crates/core, and ran its tests";

/// What comes with a step.
pub(crate) fn data() -> Value {
    json!({ "exit": 0, "lines": 214 })
}

fn permit(caller: usize) -> Permit {
    let permit = Actor::operator("bench", Namespace::team("n")).permit().unwrap();
    permit.within(Some("t"), Some(&format!("agent {caller}"))).unwrap()
}

/// How many steps a second so many callers log, each awaiting that one is durable before the next.
pub(crate) async fn steps(database: &str, callers: usize, time: Duration) -> f64 {
    let app = App::new(Db::open(database, Limits::default()).await.unwrap());
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (app, permit) = (app.clone(), permit(caller));
        running.spawn(async move {
            let mut logged = 0;
            while begun.elapsed() < time {
                let data = Some(Json::from(data()));
                let step = NewStep { level: Level::Info, message: MESSAGE.to_owned(), data };
                app.log_step(&permit, step).await.unwrap();
                logged += 1;
            }
            logged
        });
    }
    let rate = rate(running.join_all().await.into_iter().sum(), begun);
    app.db.close().await;
    rate
}

/// How many claims a second so many callers take and release.
pub(crate) async fn pairs(database: &str, callers: usize, time: Duration) -> f64 {
    let app = App::new(Db::open(database, Limits::default()).await.unwrap());
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (app, permit) = (app.clone(), permit(caller));
        running.spawn(async move {
            let pattern = Pattern::new(&format!("src/part{caller}.rs")).unwrap();
            let mut pairs = 0;
            while begun.elapsed() < time {
                let new =
                    NewClaim { pattern: pattern.clone(), is_shared: false, ttl: CLAIM_TIME, wait: Duration::ZERO };
                let claim = app.claim_file(&permit, new).await.unwrap();
                app.release_claim(&permit, Some(&pattern), claim.token).await.unwrap();
                pairs += 1;
            }
            pairs
        });
    }
    let rate = rate(running.join_all().await.into_iter().sum(), begun);
    app.db.close().await;
    rate
}

/// How long a commit of one row takes until it is on the disk, at the median, in milliseconds.
pub(crate) fn commit(path: &Path) -> f64 {
    let db = Connection::open(path).unwrap();
    db.execute_batch("pragma journal_mode = wal; pragma synchronous = full; create table t (n integer)").unwrap();
    let mut times = Vec::new();
    for n in 0..COMMITS {
        let begun = Instant::now();
        db.prepare_cached("insert into t values (?1)").unwrap().execute(params![n]).unwrap();
        times.push(begun.elapsed());
    }
    percentile(&mut times, 50)
}
