//! What agents share, through a real hub and over HTTP, beside the store by itself and what a user would write by hand.
//!
//! `cargo run --release -p skep-bench --bin bench-shared [seconds] [rounds] [part…]`; the parts are `sqlite`, `postgres`
//! (with Redis), `read` and `subscribers`. Figures are medians of the rounds, ratios those of the figures of one round.
#![expect(clippy::unwrap_used, reason = "a benchmark that fails may stop")]
#![expect(clippy::print_stdout, reason = "a measurement's output")]

#[path = "../../../../crates/skep-core/tests/postgres/mod.rs"]
mod postgres;

mod callers;
mod hand;
mod read;
mod servers;
mod store;
mod subscribers;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use self::servers::{Hub, Redis};

/// Callers that log steps, and that claim.
const CALLERS: usize = 32;
/// Agents whose claims are timed one by one.
const AGENTS: usize = 30;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = arguments.iter().map_while(|argument| argument.parse::<u32>().ok());
    let time = Duration::from_secs(numbers.next().unwrap_or(3).into());
    let rounds = numbers.next().unwrap_or(3);
    let is_wanted = |part: &str| {
        let mut parts = arguments.iter().filter(|argument| argument.parse::<u32>().is_err()).peekable();
        parts.peek().is_none() || parts.any(|wanted| wanted == part)
    };
    let directory = tempfile::tempdir_in(".").unwrap(); // a temporary directory may be memory
    if is_wanted("sqlite") {
        sqlite(directory.path(), rounds, time).await;
    }
    if is_wanted("postgres") {
        postgres(directory.path(), rounds, time).await;
    }
    if is_wanted("read") {
        read::measure(directory.path()).await;
    }
    if is_wanted("subscribers") {
        subscribers::measure(directory.path()).await;
    }
}

/// Figures of several rounds.
#[derive(Default)]
struct Rounds(Vec<f64>);

impl Rounds {
    fn median(&self) -> f64 {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    /// The median of the ratios of each round.
    fn to(&self, other: &Rounds) -> f64 {
        Rounds(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect()).median()
    }

    fn print(&self, what: &str, unit: &str) {
        println!("{what:66} {:10.1} {unit}", self.median());
    }
}

fn print_ratio(what: &str, one: &Rounds, other: &Rounds) {
    println!("{what:66} {:10.2}", one.to(other));
}

async fn sqlite(directory: &Path, rounds: u32, time: Duration) {
    let [mut steps, mut store_steps, mut pairs, mut store_pairs, mut p50, mut p99, mut commit] =
        [const { Rounds(Vec::new()) }; 7];
    for round in 0..rounds {
        let database = format!("sqlite:{}", directory.join(format!("store{round}.db")).display());
        store_steps.0.push(store::steps(&database, CALLERS, time).await);
        store_pairs.0.push(store::pairs(&database, CALLERS, time).await);
        commit.0.push(store::commit(&directory.join(format!("commit{round}.db"))));
        let hub = Hub::start(&directory.join(format!("hub{round}")), &[]).await;
        steps.0.push(callers::steps(&hub, CALLERS, time).await);
        pairs.0.push(callers::pairs(&hub, CALLERS, time).await);
        let (median, slowest) = callers::claim_times(&hub, AGENTS, time).await;
        p50.0.push(median);
        p99.0.push(slowest);
    }
    println!("SQLite");
    steps.print("log_step over HTTP, 32 callers", "steps/s");
    store_steps.print("the store by itself, 32 callers", "steps/s");
    print_ratio("  over HTTP to the store", &steps, &store_steps);
    pairs.print("claim_file and release_file over HTTP, 32 callers", "pairs/s");
    store_pairs.print("the store by itself, 32 callers", "pairs/s");
    print_ratio("  over HTTP to the store", &pairs, &store_pairs);
    commit.print("a commit that is synced, by rusqlite", "ms");
    p50.print("claim_file over HTTP, 30 agents, median", "ms");
    p99.print("claim_file over HTTP, 30 agents, p99", "ms");
    print_ratio("  p99 to the commit", &p99, &commit);
}

async fn postgres(directory: &Path, rounds: u32, time: Duration) {
    let Some(redis) = Redis::start(directory).await else { return println!("redis-server is not installed") };
    let [mut steps, mut one_by_one, mut at_once, mut pairs, mut locked] = [const { Rounds(Vec::new()) }; 5];
    for round in 0..rounds {
        let Some(database) = postgres::new_schema().await else { return };
        let options = ["--database", &database, "--redis", &redis.address];
        let hub = Hub::start(&directory.join(format!("postgres{round}")), &options).await;
        one_by_one.0.push(hand::inserts(&database, 1, time).await);
        at_once.0.push(hand::inserts(&database, CALLERS, time).await);
        steps.0.push(callers::steps(&hub, CALLERS, time).await);
        locked.0.push(hand::locks(&database, CALLERS, time).await);
        pairs.0.push(callers::pairs(&hub, CALLERS, time).await);
    }
    println!("\nPostgreSQL and Redis");
    steps.print("log_step over HTTP, 32 callers", "steps/s");
    one_by_one.print("one insert for each transaction, 1 connection", "inserts/s");
    at_once.print("one insert for each transaction, 32 connections", "inserts/s");
    print_ratio("  over HTTP to 1 connection", &steps, &one_by_one);
    print_ratio("  over HTTP to 32 connections", &steps, &at_once);
    pairs.print("claim_file and release_file over HTTP, 32 callers", "pairs/s");
    locked.print("select … for update, update, 32 connections", "transactions/s");
    print_ratio("  over HTTP to the transactions", &pairs, &locked);
}

/// Of many times, the one that so many percent are not above, in milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

/// How many of something were done in a second.
fn rate(count: u64, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}
