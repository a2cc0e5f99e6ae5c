//! How soon the last of a thousand followers has an event, after its writer was told that it is durable.
//!
//! `cargo run --release -p skep-bench --bin bench-followers [followers] [events]`, on SQLite and on PostgreSQL; there
//! once for followers in the process that writes, and once for followers in another hub.
#![expect(clippy::unwrap_used, reason = "a benchmark that fails may stop")]

#[path = "../../../crates/skep-core/tests/postgres/mod.rs"]
mod postgres;

use std::time::{Duration, Instant};

use skep_bench as _; // its allocator
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits, News},
    event::EventFilter,
    policy::{Actor, Permit},
    task::{NewTask, TaskId},
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

/// Between two events.
const PAUSE: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>().unwrap());
    let followers = arguments.next().unwrap_or(1000);
    let events = arguments.next().unwrap_or(300);
    let directory = tempfile::tempdir_in(".").unwrap(); // a temporary directory may be memory
    let sqlite = format!("sqlite:{}", directory.path().join("bench.db").display());
    measure("SQLite", &sqlite, true, followers, events).await;
    for (name, is_here) in [("PostgreSQL", true), ("PostgreSQL, another hub", false)] {
        if let Some(address) = postgres::new_schema().await {
            measure(name, &address, is_here, followers, events).await;
        }
    }
}

/// Followers in the process that writes, or in a hub beside it.
async fn measure(name: &str, address: &str, is_here: bool, followers: usize, events: usize) {
    let writer = App::new(Db::open(address, Limits::default()).await.unwrap());
    let reader = if is_here { writer.clone() } else { App::new(Db::open(address, Limits::default()).await.unwrap()) };
    let permit = permit();
    // The first event shows that all are there.
    writer.submit(&permit, task(0)).await.unwrap();
    let mut counting = reader.follow(&permit.to_read(), EventFilter::default(), 0);
    counting.next().await.unwrap();
    let (seen, mut all_seen) = mpsc::unbounded_channel();
    let mut running = JoinSet::new();
    for _ in 0..followers {
        let (mut follower, seen) = (reader.follow(&permit.to_read(), EventFilter::default(), 0), seen.clone());
        running.spawn(async move {
            loop {
                if let News::Events(events) = follower.next().await.unwrap() {
                    let at = Instant::now();
                    events.iter().for_each(|event| seen.send((event.number, at)).unwrap());
                }
            }
        });
    }
    let mut last_seen = async || {
        let mut last = None;
        for _ in 0..followers {
            last = last.max(Some(all_seen.recv().await.unwrap().1));
        }
        last.unwrap()
    };
    last_seen().await;
    let mut took = Vec::new();
    for n in 1..=events {
        sleep(PAUSE).await;
        writer.submit(&permit, task(n)).await.unwrap();
        let told = Instant::now();
        took.push(last_seen().await.saturating_duration_since(told));
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    let pages = counting.pages_read();
    println!(
        "{name:26} {followers} followers: the last has an event after {:.2} ms (median), {:.2} ms (p99), {:.2} ms (most); \
         {pages} pages read for {} events",
        at(50),
        at(99),
        at(100),
        events + 1
    );
    running.shutdown().await;
}

fn task(n: usize) -> NewTask {
    NewTask::new(TaskId(n.to_string()), "q", serde_json::json!({}))
}

fn permit() -> Permit {
    let actor = Actor::operator("bench", Namespace::team("n"));
    actor.permit().unwrap()
}
