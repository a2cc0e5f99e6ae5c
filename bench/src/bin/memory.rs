//! What operations on memory entries cost as their number grows: the curve must be flat, that of searches included.
//!
//! `cargo run --release -p skep-bench --bin bench-memory [entries]`, on SQLite and on PostgreSQL: at a thousand entries, at
//! ten times as many, and so on up to that number (100,000 unless another one is given).
#![expect(clippy::unwrap_used, reason = "a benchmark that fails may stop")]

#[path = "../../../crates/skep-core/tests/postgres/mod.rs"]
mod postgres;

use std::time::Instant;

use serde_json::json;
use skep_bench as _; // its allocator
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    memory::{NewEntry, Query},
    policy::{Actor, Permit},
};
use tokio::task::JoinSet;

/// Entries that are stored at once, to fill the store.
const FILLED_AT_ONCE: usize = 500;
/// How often each operation is measured.
const TIMES: usize = 100;
/// How many different words there are that are neither in all entries nor in one alone.
const SUBJECTS: usize = 500;

#[tokio::main]
async fn main() {
    let entries_max = std::env::args().nth(1).map_or(100_000, |argument| argument.parse().unwrap());
    let directory = tempfile::tempdir_in(".").unwrap(); // a temporary directory may be memory
    let sqlite = format!("sqlite:{}", directory.path().join("bench.db").display());
    measure("SQLite", &sqlite, entries_max).await;
    if let Some(address) = postgres::new_schema().await {
        measure("PostgreSQL", &address, entries_max).await;
    }
}

async fn measure(name: &str, address: &str, entries_max: usize) {
    let app = App::new(Db::open(address, Limits::default()).await.unwrap());
    println!("{name}: median in ms\n{:>9} {}", "entries", OPERATIONS.map(|of| format!("{of:>10}")).concat());
    let (mut entries, mut size) = (0, 1000);
    while size <= entries_max {
        fill(&app, entries..size).await;
        entries = size;
        let mut row = String::new();
        for operation in OPERATIONS {
            let mut took = Vec::new();
            for time in 0..TIMES {
                let began = Instant::now();
                operate(&app, operation, time, entries).await;
                took.push(began.elapsed());
            }
            took.sort_unstable();
            row += &format!("{:>10.2}", took[TIMES / 2].as_secs_f64() * 1e3);
        }
        println!("{entries:>9} {row}");
        size *= 10;
    }
}

/// `one`, `some` and `all`: searches for a word that is in one entry, in one of [`SUBJECTS`], and in each. `both`: for one
/// that is in all and one that is in some. `begin`: for the beginning of words that are in all.
const OPERATIONS: [&str; 9] = ["store", "replace", "retrieve", "list", "one", "some", "all", "both", "begin"];

async fn operate(app: &App, operation: &str, time: usize, entries: usize) {
    let (permit, n) = (permit(), time * entries / TIMES);
    let reads = permit.to_read();
    match operation {
        // One key again and again, so that their number stays; it is deleted in between, which is not free either.
        "store" => {
            app.store_memory(&permit, NewEntry::new("new", value(time))).await.unwrap();
            app.delete_memory(&permit, "new", None).await.unwrap().unwrap();
        }
        "replace" => drop(app.store_memory(&permit, NewEntry::new(key(n), value(n))).await.unwrap()),
        "retrieve" => assert!(app.db.memory(&reads, &key(n)).await.unwrap().is_some()),
        "list" => assert_eq!(
            app.db.list_memory(&reads, "entry", Some(&key(n)), 20).await.unwrap().len(),
            20.min(entries - n - 1)
        ),
        search => {
            let query = match search {
                "one" => format!("only{n}x"),
                "some" => format!("subject{}x", n % SUBJECTS),
                "all" => "everywhere".to_owned(),
                "both" => format!("everywhere subject{}x", n % SUBJECTS),
                _ => "every".to_owned(),
            };
            let found = app.db.search_memory(&reads, Query::new(&query).unwrap(), 20).await.unwrap();
            assert!(!found.hits.is_empty(), "{query}");
        }
    }
}

async fn fill(app: &App, entries: std::ops::Range<usize>) {
    let mut filling = JoinSet::new();
    for n in entries {
        let app = app.clone();
        filling.spawn(async move { drop(app.store_memory(&permit(), NewEntry::new(key(n), value(n))).await.unwrap()) });
        if filling.len() >= FILLED_AT_ONCE {
            filling.join_next().await.unwrap().unwrap();
        }
    }
    filling.join_all().await;
}

fn key(n: usize) -> String {
    format!("entry/{n:07}")
}

fn value(n: usize) -> serde_json::Value {
    let subject = format!("subject{}x", n % SUBJECTS);
    json!({ "text": format!("everywhere the same words, everything about {subject} and only{n}x"), "n": n })
}

fn permit() -> Permit {
    Actor::operator("bench", Namespace::team("n")).permit().unwrap()
}
