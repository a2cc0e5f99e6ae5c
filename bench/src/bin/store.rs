//! How many durable cycles a second the store does: submit a task, claim one, finish it; three commits, each awaited.
//!
//! `cargo run --release -p skep-bench --bin store [seconds] [rounds]`. Each line is the median of the rounds, which
//! take turns, so that a slow minute of the machine hits all alike. Beside SQLite stands rusqlite by itself: the same
//! statements on one thread with nobody to wait for, once with a commit for each operation and once with one for 64.
//! PostgreSQL with a namespace for each caller shows what the server can do; all callers in one namespace, what the
//! namespace's one log costs.
#![expect(clippy::unwrap_used, reason = "a benchmark that fails may stop")]

#[path = "../../../crates/skep-core/tests/postgres/mod.rs"]
mod postgres;

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ToSql};
use skep_bench as _; // its allocator
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    policy::{Actor, Permit},
    session::{HUB_TIME, HubId, NewSession, SessionId},
    task::{Attempt, Holder, NewTask, TaskId, WorkerId},
};
use tokio::task::JoinSet;

/// Bytes of a large value.
const LARGE_BYTES: usize = 64 << 10;

/// What is measured.
#[derive(Clone, Copy, PartialEq)]
enum Case {
    /// rusqlite by itself, with so many operations to a commit.
    Alone(u32),
    /// The store on SQLite, with so many callers.
    Sqlite(usize),
    /// The same, where inputs and outputs are large.
    SqliteLarge(usize),
    /// The store on PostgreSQL, with so many callers in so many namespaces.
    Postgres(usize, usize),
}

const CASES: [Case; 13] = [
    Case::Alone(1),
    Case::Alone(64),
    Case::Sqlite(1),
    Case::Sqlite(8),
    Case::Sqlite(64),
    Case::Postgres(1, 1),
    Case::Postgres(8, 1),
    Case::Postgres(8, 8),
    Case::Postgres(64, 1),
    Case::Postgres(64, 64),
    Case::Postgres(64, 8),
    Case::SqliteLarge(8),
    Case::SqliteLarge(64),
];

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>().unwrap());
    let time = Duration::from_secs(arguments.next().unwrap_or(3).into());
    let rounds = arguments.next().unwrap_or(3);
    let cases: Vec<u32> = arguments.collect();
    let directory = tempfile::tempdir_in(".").unwrap(); // a temporary directory may be memory
    let mut rates = vec![Vec::new(); CASES.len()];
    for _ in 0..rounds {
        for (n, (case, rates)) in (0..).zip(CASES.into_iter().zip(&mut rates)) {
            if cases.is_empty() || cases.contains(&n) {
                rates.extend(measure(case, directory.path(), time).await);
            }
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    };
    let rates: Vec<Option<f64>> = rates.iter_mut().map(median).collect();
    for (case, rate) in CASES.into_iter().zip(&rates) {
        if let Some(rate) = rate {
            println!("{:58} {rate:8.0} cycles/s", describe(case));
        }
    }
    let rate = |case| rates[CASES.iter().position(|known| *known == case).unwrap()];
    let ratio = |name, one, other| {
        if let (Some(one), Some(other)) = (rate(one), rate(other)) {
            println!("{name:58} {:8.2}", one / other);
        }
    };
    ratio("SQLite, 64 callers, to rusqlite alone in groups of 64", Case::Sqlite(64), Case::Alone(64));
    ratio("SQLite, 64 callers, to rusqlite alone, commit by commit", Case::Sqlite(64), Case::Alone(1));
    ratio("PostgreSQL, 64 callers: one namespace to one each", Case::Postgres(64, 1), Case::Postgres(64, 64));
    ratio("PostgreSQL, 8 callers: one namespace to one each", Case::Postgres(8, 1), Case::Postgres(8, 8));
}

fn describe(case: Case) -> String {
    match case {
        Case::Alone(group) => format!("rusqlite alone, one commit for {group}"),
        Case::Sqlite(callers) => format!("SQLite, {callers} callers"),
        Case::SqliteLarge(callers) => format!("SQLite, {callers} callers, values of {} KiB", LARGE_BYTES >> 10),
        Case::Postgres(callers, namespaces) => format!("PostgreSQL, {callers} callers in {namespaces} namespaces"),
    }
}

async fn measure(case: Case, directory: &Path, time: Duration) -> Option<f64> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let path = directory.join(format!("{}.db", COUNT.fetch_add(1, Ordering::Relaxed)));
    match case {
        Case::Alone(group) => Some(alone(&path, group, time)),
        Case::Sqlite(callers) => Some(store(&format!("sqlite:{}", path.display()), callers, 1, 0, time).await),
        Case::SqliteLarge(callers) => {
            Some(store(&format!("sqlite:{}", path.display()), callers, 1, LARGE_BYTES, time).await)
        }
        Case::Postgres(callers, namespaces) => {
            Some(store(&postgres::new_schema().await?, callers, namespaces, 0, time).await)
        }
    }
}

/// The store: as many callers as named, each awaiting every commit. `bytes` come with each input and output.
async fn store(address: &str, callers: usize, namespaces: usize, bytes: usize, time: Duration) -> f64 {
    let app = App::new(Db::open(address, Limits::default()).await.unwrap());
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (app, permit) = (app.clone(), permit(caller % namespaces));
        let worker = WorkerId(format!("w{caller}"));
        let holder = Holder { worker: worker.clone(), session: SessionId(format!("s{caller}")) };
        let session = NewSession { id: holder.session.clone(), worker: worker.clone(), token: None };
        app.join(&permit, &HubId("bench".into()), vec![session], HUB_TIME).await.unwrap();
        running.spawn(async move {
            let mut cycles = 0;
            while begun.elapsed() < time {
                let name = format!("{caller}-{cycles}");
                let task = NewTask::new(TaskId(name.clone()), "q", with(input(), &name, bytes));
                app.submit(&permit, task).await.unwrap();
                let task = loop {
                    // Others may have taken all that this claim could see.
                    if let Some(task) = app.claim(&permit, "q", &holder).await.unwrap() {
                        break task;
                    }
                };
                let by = Attempt { worker: worker.clone(), epoch: task.epoch, number: task.attempt };
                app.finish(&permit, &task.id, by, with(output(), &name, bytes), Vec::new()).await.unwrap();
                cycles += 1;
            }
            cycles
        });
    }
    let cycles: u32 = running.join_all().await.into_iter().sum();
    let rate = f64::from(cycles) / begun.elapsed().as_secs_f64();
    app.db.close().await;
    rate
}

/// rusqlite's own best: no queue, no futures, no closures, no JSON; a commit after every `group` operations.
fn alone(path: &Path, group: u32, time: Duration) -> f64 {
    const COLUMNS: &str = "id, run, queue, position, depends_on, retries_max, retry_delay_us, allow_failure, state, \
         due, waiting_for, attempt, failures, losses, worker, session, input, result";
    let load = format!("select {COLUMNS} from task where namespace = 1 and id = ?1");
    let add = format!(
        "insert into task (namespace, {COLUMNS})
         values (1, ?1, null, 'q', 0, '[]', 0, 1000000, 0, 'pending', 1, 0, 0, 0, 0, null, null, ?2, null)
         on conflict (namespace, id) do nothing"
    );
    let next = format!(
        "select {COLUMNS} from task
         where namespace = 1 and queue = 'q' and state = 'pending' and waiting_for = 0 and due <= 1
         order by due, position, id limit 1"
    );
    let save = "update task set state = ?2, due = ?3, waiting_for = 0, attempt = 1, failures = 0, worker = ?4,
         result = ?5 where namespace = 1 and id = ?1";
    let dependents = "select task from dependency where namespace = 1 and depends_on = ?1";
    let event = "insert into event (namespace, number, at, kind, run, task, data)
         values (1, ?4, 1, ?2, null, ?1, ?3)";
    let count = "update namespace set last_event = ?1 where id = 1";

    let db = Connection::open(path).unwrap();
    db.execute_batch("pragma journal_mode = wal; pragma synchronous = full").unwrap();
    db.execute_batch(include_str!("../../../crates/skep-core/migrations/0001_start.sql")).unwrap();
    db.execute_batch(include_str!("../../../crates/skep-core/migrations/0002_mcp_tasks.sql")).unwrap();
    db.execute_batch(include_str!("../../../crates/skep-core/migrations/0003_namespaces.sqlite.sql")).unwrap();
    db.execute_batch(include_str!("../../../crates/skep-core/migrations/0004_keys.sql")).unwrap();
    db.execute_batch(include_str!("../../../crates/skep-core/migrations/0005_sessions.sql")).unwrap();
    db.execute_batch(include_str!("../../../crates/skep-core/migrations/0006_retention.sql")).unwrap();
    db.execute_batch(include_str!("../../../crates/skep-core/migrations/0009_blobs.sql")).unwrap();
    db.execute_batch("insert into namespace (team, workspace) values ('n', '')").unwrap();
    db.set_prepared_statement_cache_capacity(128);
    let run = |sql: &str, values: &[&dyn ToSql]| {
        let mut statement = db.prepare_cached(sql).unwrap();
        let mut rows = statement.query(values).unwrap();
        while rows.next().unwrap().is_some() {}
    };
    let (begun, mut operations, mut cycles) = (Instant::now(), 0, 0);
    let mut operation = |statements: &[(&str, &[&dyn ToSql])], id: &str, kind: &str, data: &str| {
        if operations % group == 0 {
            run("begin immediate", &[]);
        }
        statements.iter().for_each(|(sql, values)| run(sql, values));
        operations += 1;
        run(event, &[&id, &kind, &data, &operations]);
        if operations % group == 0 {
            run(count, &[&operations]);
            run("commit", &[]);
        }
    };
    let (input, output, held) = (input().to_string(), output().to_string(), r#"{"worker":"w0","attempt":1}"#);
    while begun.elapsed() < time {
        let id = format!("0-{cycles}");
        let started: [&dyn ToSql; 5] = [&id, &"in_progress", &None::<i64>, &"w0", &None::<&str>];
        let finished: [&dyn ToSql; 5] = [&id, &"completed", &None::<i64>, &None::<&str>, &output];
        operation(&[(&add, &[&id, &input])], &id, "task.submitted", r#"{"queue":"q"}"#);
        operation(&[(&next, &[]), (save, &started)], &id, "task.started", held);
        operation(&[(&load, &[&id]), (save, &finished), (dependents, &[&id])], &id, "task.completed", held);
        cycles += 1;
    }
    f64::from(cycles) / begun.elapsed().as_secs_f64()
}

fn input() -> serde_json::Value {
    serde_json::json!({ "command": "cargo test", "directory": "crates/core", "deadline_ms": 60_000 })
}

fn output() -> serde_json::Value {
    serde_json::json!({ "exit": 0, "lines": 214 })
}

/// The same with so many bytes more, which no other value has.
fn with(mut value: serde_json::Value, name: &str, bytes: usize) -> serde_json::Value {
    if bytes > 0 {
        value["log"] = (name.to_owned() + &"x".repeat(bytes)).into();
    }
    value
}

fn permit(namespace: usize) -> Permit {
    let actor = Actor { name: "bench".into(), namespace: Namespace::team(&format!("n{namespace}")), writer: true };
    actor.may_write().unwrap()
}
