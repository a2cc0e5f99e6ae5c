//! How many durable cycles a second the store does: submit a task, claim one, finish it; three commits, each awaited.
//!
//! `cargo run --release -p skep-bench --bin bench-store [seconds] [rounds] [case…]`. Each line is the median of the
//! rounds, which take turns, so that a slow minute of the machine hits all alike. Beside SQLite stands rusqlite by
//! itself: the same statements on the same rows in the same commits, on one thread with nobody to wait for, once with a
//! commit for each operation and once with one for 64. PostgreSQL with a namespace for each caller shows what the
//! server can do; all callers in one namespace, what the namespace's one log costs. Claims alone are measured there too,
//! beside the same by hand; and so are steps that agents log, on both databases.
#![expect(clippy::unwrap_used, reason = "a benchmark that fails may stop")]

#[path = "../../../../crates/skep-core/tests/postgres/mod.rs"]
mod postgres;

mod claims;
mod steps;

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ToSql};
use skep_bench as _; // its allocator
use skep_core::{
    Namespace,
    app::{Answer, App},
    db::{Db, Limits},
    policy::{Actor, Permit},
    session::{HUB_BEAT, HUB_TIME, HubId, NewSession, SessionId},
    task::{Attempt, Holder, NewTask, TaskId, WorkerId},
};
use tokio::{task::JoinSet, time::sleep};

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
    /// The same with two commits for a cycle: the answer to a task claims the next one.
    SqliteTwo(usize),
    /// The store on PostgreSQL, with so many callers in so many namespaces.
    Postgres(usize, usize),
    /// Claims on PostgreSQL by hand: one for each transaction, with `skip locked`, on so many connections.
    BareClaims(usize),
    /// Claims on PostgreSQL by hand, so many for each transaction, with their events, on one connection.
    BareBatches(usize),
    /// The store's claims on PostgreSQL, in one namespace.
    Claims { hubs: usize, callers: usize, count: usize },
    /// Steps with rusqlite by itself, so many to a commit.
    StepsAlone(u32),
    /// The store's steps on SQLite, by so many callers in one workspace.
    StepsSqlite(usize),
    /// Steps on PostgreSQL by hand: one insert for each transaction, on so many connections.
    BareSteps(usize),
    /// The store's steps on PostgreSQL, by so many callers in one workspace.
    StepsPostgres(usize),
}

const ONE_BY_ONE: Case = Case::Claims { hubs: 1, callers: 64, count: 1 };
const IN_BATCHES: Case = Case::Claims { hubs: 1, callers: 1, count: 100 };
const IN_BATCHES_OF_MANY: Case = Case::Claims { hubs: 1, callers: 4, count: 100 };
const OF_THREE_HUBS: Case = Case::Claims { hubs: 3, callers: 64, count: 1 };

const CASES: [Case; 24] = [
    Case::Alone(1),
    Case::Alone(64),
    Case::Sqlite(1),
    Case::Sqlite(8),
    Case::Sqlite(64),
    Case::SqliteTwo(64),
    Case::Postgres(1, 1),
    Case::Postgres(8, 1),
    Case::Postgres(8, 8),
    Case::Postgres(64, 1),
    Case::Postgres(64, 64),
    Case::Postgres(64, 8),
    Case::BareClaims(16),
    ONE_BY_ONE,
    OF_THREE_HUBS,
    Case::BareBatches(100),
    IN_BATCHES,
    IN_BATCHES_OF_MANY,
    Case::SqliteLarge(8),
    Case::SqliteLarge(64),
    Case::StepsAlone(32),
    Case::StepsSqlite(32),
    Case::BareSteps(32),
    Case::StepsPostgres(32),
];

/// Pairs of which the first is told as a part of the second.
const RATIOS: [(&str, Case, Case); 12] = [
    ("SQLite, 1 caller, to rusqlite alone, commit by commit", Case::Sqlite(1), Case::Alone(1)),
    ("SQLite, 64 callers, to rusqlite alone in groups of 64", Case::Sqlite(64), Case::Alone(64)),
    ("SQLite, 64 callers, to rusqlite alone, commit by commit", Case::Sqlite(64), Case::Alone(1)),
    ("SQLite, 64 callers: answer and claim in one, to three calls", Case::SqliteTwo(64), Case::Sqlite(64)),
    ("PostgreSQL, 64 callers: one namespace to one each", Case::Postgres(64, 1), Case::Postgres(64, 64)),
    ("PostgreSQL, 8 callers: one namespace to one each", Case::Postgres(8, 1), Case::Postgres(8, 8)),
    ("PostgreSQL, claims: 64 callers to 16 bare connections", ONE_BY_ONE, Case::BareClaims(16)),
    ("PostgreSQL, claims by 100: one caller to the same by hand", IN_BATCHES, Case::BareBatches(100)),
    ("PostgreSQL, claims by 100: four callers to one by hand", IN_BATCHES_OF_MANY, Case::BareBatches(100)),
    ("PostgreSQL, claims: three hubs to one", OF_THREE_HUBS, ONE_BY_ONE),
    ("SQLite, steps of 32 callers, to rusqlite alone", Case::StepsSqlite(32), Case::StepsAlone(32)),
    ("PostgreSQL, steps of 32 callers, to an insert each", Case::StepsPostgres(32), Case::BareSteps(32)),
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
    for (case, rates) in CASES.into_iter().zip(&rates) {
        if let Some(rate) = median(rates.clone()) {
            println!("{:62} {rate:8.0} {}/s", describe(case), unit(case));
        }
    }
    let of = |case| &rates[CASES.iter().position(|known| *known == case).unwrap()];
    for (name, one, other) in RATIOS {
        // Of each round, and not of the medians: what slows a round slows both.
        if let Some(ratio) = median(of(one).iter().zip(of(other)).map(|(one, other)| one / other).collect()) {
            println!("{name:62} {ratio:8.2}");
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn unit(case: Case) -> &'static str {
    match case {
        Case::BareClaims(_) | Case::BareBatches(_) | Case::Claims { .. } => "claims",
        Case::StepsAlone(_) | Case::StepsSqlite(_) | Case::BareSteps(_) | Case::StepsPostgres(_) => "steps",
        _ => "cycles",
    }
}

fn describe(case: Case) -> String {
    match case {
        Case::Alone(group) => format!("rusqlite alone, one commit for {group}"),
        Case::Sqlite(callers) => format!("SQLite, {callers} callers"),
        Case::SqliteLarge(callers) => format!("SQLite, {callers} callers, values of {} KiB", LARGE_BYTES >> 10),
        Case::SqliteTwo(callers) => format!("SQLite, {callers} callers, answer and claim in one"),
        Case::Postgres(callers, namespaces) => format!("PostgreSQL, {callers} callers in {namespaces} namespaces"),
        Case::BareClaims(connections) => format!("PostgreSQL by hand, {connections} connections, skip locked"),
        Case::BareBatches(count) => format!("PostgreSQL by hand, 1 connection, by {count} with events"),
        Case::Claims { hubs, callers, count } => {
            format!("PostgreSQL, {hubs} hubs with {callers} callers each, by {count}")
        }
        Case::StepsAlone(group) => format!("rusqlite alone, one commit for {group} steps"),
        Case::StepsSqlite(callers) => format!("SQLite, {callers} callers that log steps"),
        Case::BareSteps(connections) => format!("PostgreSQL by hand, {connections} connections, an insert each"),
        Case::StepsPostgres(callers) => format!("PostgreSQL, {callers} callers that log steps"),
    }
}

async fn measure(case: Case, directory: &Path, time: Duration) -> Option<f64> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let path = directory.join(format!("{}.db", COUNT.fetch_add(1, Ordering::Relaxed)));
    let sqlite = format!("sqlite:{}", path.display());
    Some(match case {
        Case::Alone(group) => {
            // The store makes its tables, so that they are the same.
            Db::open(&sqlite, Limits::default()).await.unwrap().close().await;
            alone(&path, group, time)
        }
        Case::Sqlite(callers) => store(&sqlite, callers, 1, false, 0, time).await,
        Case::SqliteTwo(callers) => store(&sqlite, callers, 1, true, 0, time).await,
        Case::SqliteLarge(callers) => store(&sqlite, callers, 1, false, LARGE_BYTES, time).await,
        Case::Postgres(callers, namespaces) => {
            store(&postgres::new_schema().await?, callers, namespaces, false, 0, time).await
        }
        Case::BareClaims(connections) => claims::one_by_one(&postgres::new_schema().await?, connections, time).await,
        Case::BareBatches(count) => claims::in_batches(&postgres::new_schema().await?, count, time).await,
        Case::Claims { hubs, callers, count } => {
            claims::of_store(&postgres::new_schema().await?, hubs, callers, count, time).await
        }
        Case::StepsAlone(group) => {
            Db::open(&sqlite, Limits::default()).await.unwrap().close().await;
            steps::alone(&path, group, time)
        }
        Case::StepsSqlite(callers) => steps::of_store(&sqlite, callers, time).await,
        Case::BareSteps(connections) => steps::one_by_one(&postgres::new_schema().await?, connections, time).await,
        Case::StepsPostgres(callers) => steps::of_store(&postgres::new_schema().await?, callers, time).await,
    })
}

/// The store: as many callers as named, each awaiting every commit. `bytes` come with each input and output.
async fn store(address: &str, callers: usize, namespaces: usize, in_one: bool, bytes: usize, time: Duration) -> f64 {
    let app = App::new(Db::open(address, Limits::default()).await.unwrap());
    let (mut beating, hub) = (JoinSet::new(), app.clone());
    // As every hub does; and a runtime in which no timer is set would be woken for the first one of each write.
    beating.spawn(async move {
        loop {
            sleep(HUB_BEAT).await;
            hub.beat(&HubId("bench".into()), HUB_TIME).await.unwrap();
        }
    });
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (app, permit) = (app.clone(), permit(caller % namespaces));
        let worker = WorkerId(format!("w{caller}"));
        let holder = Holder { worker: worker.clone(), session: SessionId(format!("s{caller}")) };
        let session = NewSession { id: holder.session.clone(), worker: worker.clone(), token: None };
        app.join(&permit, &HubId("bench".into()), vec![session], HUB_TIME).await.unwrap();
        running.spawn(async move {
            // One more than are taken, so that a claim that comes with an answer finds a task.
            let spare = NewTask::new(TaskId(format!("{caller}-spare")), "q", input());
            app.submit(&permit, spare).await.unwrap();
            let (mut cycles, mut next) = (0, None);
            while begun.elapsed() < time {
                let name = format!("{caller}-{cycles}");
                let task = NewTask::new(TaskId(name.clone()), "q", with(input(), &name, bytes));
                app.submit(&permit, task).await.unwrap();
                // Others may have taken all that this claim could see; and kept it, if their time was over.
                while next.is_none() && begun.elapsed() < time {
                    next = app.claim(&permit, "q", &holder).await.unwrap();
                }
                let Some(task) = next.take() else { break };
                let by = Attempt { worker: worker.clone(), epoch: task.epoch, number: task.attempt };
                let answer =
                    Answer { id: task.id, by, output: with(output(), &name, bytes).into(), artefacts: Vec::new() };
                if in_one {
                    next = app.finish_and_claim(&permit, answer, "q", &holder).await.unwrap().next;
                } else {
                    app.finish(&permit, &answer.id, answer.by, answer.output, answer.artefacts).await.unwrap();
                }
                cycles += 1;
            }
            cycles
        });
    }
    let cycles: u32 = running.join_all().await.into_iter().sum();
    let rate = f64::from(cycles) / begun.elapsed().as_secs_f64();
    beating.shutdown().await;
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
         where namespace = 1 and queue = 'q' and state = 'pending' and waiting_for = 0 and priority = 2 and due <= 1
         order by due, position, id limit 1"
    );
    let start = "update task set state = 'in_progress', attempt = 1, worker = 'w0', session = 's0'
         where namespace = 1 and id = ?1";
    let complete = "update task set state = 'completed', worker = null, session = null, result = ?2, result_blob = null
         where namespace = 1 and id = ?1";
    let dependents = "select task from dependency where namespace = 1 and depends_on = ?1";
    let event = "insert into event (namespace, number, at, actor, agent, on_behalf_of, kind, run, task, subject_kind,
            subject, data)
         values (1, ?4, 1, 'bench', null, null, ?2, null, ?1, null, null, ?3)";
    let count = "update namespace set last_event = ?1 where id = 1";

    let db = Connection::open(path).unwrap();
    db.execute_batch("pragma journal_mode = wal; pragma synchronous = full").unwrap();
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
    // A caller awaits each of its operations, so those of one task are in different commits.
    while begun.elapsed() < time {
        let ids: Vec<String> = (0..group).map(|caller| format!("{caller}-{cycles}")).collect();
        for id in &ids {
            operation(&[(&add, &[id, &input])], id, "task.submitted", r#"{"queue":"q"}"#);
        }
        for id in &ids {
            operation(&[(&next, &[]), (start, &[id])], id, "task.started", held);
        }
        for id in &ids {
            let finish: [(&str, &[&dyn ToSql]); 3] = [(&load, &[id]), (complete, &[id, &output]), (dependents, &[id])];
            operation(&finish, id, "task.completed", held);
        }
        cycles += group;
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
    let actor = Actor::operator("bench", Namespace::team(&format!("n{namespace}")));
    actor.permit().unwrap()
}
