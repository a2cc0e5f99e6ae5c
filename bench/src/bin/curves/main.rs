//! What operations on shared state cost as more and more is kept: the curves must be flat, those of searches included.
//!
//! `cargo run --release -p skep-bench --bin bench-curves [most] [kind…]`, on SQLite and on PostgreSQL: at a thousand of
//! each, at ten times as many, and so on up to `most` (100,000 unless another number is given). The kinds are `memory`,
//! `steps` (with their events), `messages` and `revisions`. Medians in milliseconds.
#![expect(clippy::unwrap_used, reason = "a benchmark that fails may stop")]

#[path = "../../../../crates/skep-core/tests/postgres/mod.rs"]
mod postgres;

mod memory;
mod messages;
mod revisions;
mod steps;

use std::{ops::Range, path::Path, time::Instant};

use skep_bench as _; // its allocator
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    policy::{Actor, Permit, Right},
};
use tokio::task::JoinSet;

/// What is made at once, to fill the store.
const FILLED_AT_ONCE: usize = 500;
/// How often each operation is measured.
const TIMES: usize = 100;
/// How many there are at first.
const FIRST: usize = 1000;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let most = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(100_000);
    let is_wanted = |kind: &str| {
        let mut kinds = arguments.iter().filter(|argument| argument.parse::<usize>().is_err()).peekable();
        kinds.peek().is_none() || kinds.any(|wanted| wanted == kind)
    };
    let directory = tempfile::tempdir_in(".").unwrap(); // a temporary directory may be memory
    if is_wanted("memory") {
        curve("memory entries", directory.path(), most, memory::OPERATIONS, memory::add, memory::operate).await;
    }
    if is_wanted("steps") {
        curve("steps", directory.path(), most, steps::OPERATIONS, steps::add, steps::operate).await;
    }
    if is_wanted("messages") {
        curve("messages", directory.path(), most, messages::OPERATIONS, messages::add, messages::operate).await;
    }
    if is_wanted("revisions") {
        curve("revisions", directory.path(), most, revisions::OPERATIONS, revisions::add, revisions::operate).await;
    }
}

/// Measure these operations as the number of something grows: `add` makes the nth, `operate` does an operation once, the nth
/// time, while there are so many.
async fn curve(
    of: &str,
    directory: &Path,
    most: usize,
    operations: &[&str],
    add: fn(App, usize) -> Added,
    operate: impl AsyncFn(&App, &str, usize, usize),
) {
    let sqlite = format!("sqlite:{}", directory.join(of.replace(' ', "-")).display());
    for (name, address) in [("SQLite", Some(sqlite)), ("PostgreSQL", postgres::new_schema().await)] {
        let Some(address) = address else { continue };
        let app = App::new(Db::open(&address, Limits::default()).await.unwrap());
        let head: String = operations.iter().map(|operation| format!("{operation:>10}")).collect();
        println!("{name}: median in ms\n{of:>14} {head}");
        let (mut there, mut size) = (0, FIRST);
        while size <= most {
            fill(&app, there..size, add).await;
            there = size;
            let mut row = String::new();
            for operation in operations {
                let mut took = Vec::new();
                for time in 0..TIMES {
                    let began = Instant::now();
                    operate(&app, operation, time, there).await;
                    took.push(began.elapsed());
                }
                took.sort_unstable();
                row += &format!("{:>10.2}", took[TIMES / 2].as_secs_f64() * 1e3);
            }
            println!("{there:>14} {row}");
            size *= 10;
        }
        app.db.close().await;
    }
}

/// What is being added.
type Added = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn fill(app: &App, numbers: Range<usize>, add: fn(App, usize) -> Added) {
    let mut filling = JoinSet::new();
    for n in numbers {
        filling.spawn(add(app.clone(), n));
        if filling.len() >= FILLED_AT_ONCE {
            filling.join_next().await.unwrap().unwrap();
        }
    }
    filling.join_all().await;
}

/// The permit of an agent in the workspace that all is in.
fn permit<R: Right>(agent: &str) -> Permit<R> {
    let permit = Actor::operator("bench", Namespace::team("n")).permit().unwrap();
    permit.within(Some("t"), Some(agent)).unwrap()
}
