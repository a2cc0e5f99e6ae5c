//! What the gateway adds to a call of an MCP server, and what it takes for many clients and servers.
//!
//! `cargo xtask bench gateway`, or `bench-gateway [DIRECTORY OF PEERS]`. Real programs on loopback: the measured server, a
//! real `skep serve` before it with everything on, and those peers that are installed. Each call by a gateway stands beside the same call
//! without one, in turn, so that whatever else the machine does meets both.
#![expect(clippy::print_stdout, reason = "a measurement's output")]

mod client;
mod endpoints;
mod upstream;

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use skep_bench as _; // its allocator
use tokio::task::JoinSet;

use self::{
    client::{Client, Endpoint, Pipe, Tool, Way},
    endpoints::{HTTP_PEERS, Peer, Running, STDIO_PEERS, Upstream},
};

/// Pairs of a call by a gateway and one without, one by one.
const PAIRS: usize = 2000;
/// Such pairs for a peer, and for large results.
const PAIRS_FEW: usize = 300;
/// Pairs that are thrown away at first.
const WARM_UP: usize = 100;
/// Clients that call at once.
const CLIENTS: usize = 32;
/// Rounds of such calls, with and without the gateway in turn, and how long each is: short ones, since what else the machine does
/// changes from second to second.
const ROUNDS: usize = 25;
const ROUND_TIME: Duration = Duration::from_millis(300);
/// Clients and servers of the fleet.
const FLEET: (usize, usize) = (40, 20);
/// What may be added to a call at most, at p50 and at p99.
const ADDED_TARGETS: [Duration; 2] = [Duration::from_micros(80), Duration::from_micros(150)];

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["upstream"] => runtime(2)?.block_on(upstream::serve(None)),
        ["upstream", address] => runtime(2)?.block_on(upstream::serve(Some(address))),
        [] => runtime(1)?.block_on(measure(PathBuf::from("target/peers"))),
        [peers] => runtime(1)?.block_on(measure(PathBuf::from(peers))),
        _ => Err(io::Error::other("bench-gateway [DIRECTORY OF PEERS]")),
    }
}

/// With one thread, what waits for an answer is woken where it waits.
fn runtime(threads: usize) -> io::Result<tokio::runtime::Runtime> {
    match threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

async fn measure(peers: PathBuf) -> io::Result<()> {
    let peers = peers.canonicalize().unwrap_or(peers);
    let upstream = endpoints::http_upstream().await?;
    let direct = &upstream.endpoint;
    println!("an HTTP server, one call at a time        added p50    added p99    (direct p50, p99)");
    let hub = endpoints::skep(Upstream::Http(&direct.address), 1).await?;
    let stateless = |endpoint: &Endpoint| Endpoint { way: Way::Stateless, ..endpoint.clone() };
    one_by_one("Skep, 2026-07-28", &stateless(direct), &stateless(&hub.endpoint), Tool::Small, PAIRS).await?;
    one_by_one("Skep, 2025-06-18", direct, &hub.endpoint, Tool::Small, PAIRS).await?;
    one_by_one(
        "Skep, 2026-07-28, results of 1 MB",
        &stateless(direct),
        &stateless(&hub.endpoint),
        Tool::Large,
        PAIRS_FEW,
    )
    .await?;
    for peer in &HTTP_PEERS {
        let Some(peer_hub) = start(peer, &peers, Upstream::Http(&direct.address)).await? else { continue };
        one_by_one(peer.name, direct, &peer_hub.endpoint, Tool::Small, PAIRS_FEW).await?;
    }

    println!("\nan HTTP server, {CLIENTS} clients                throughput of direct    processor time a call");
    many("Skep, 2026-07-28", &stateless(direct), &stateless(&hub.endpoint), &hub).await?;
    many("Skep, 2025-06-18", direct, &hub.endpoint, &hub).await?;
    for peer in &HTTP_PEERS {
        let Some(peer_hub) = start(peer, &peers, Upstream::Http(&direct.address)).await? else { continue };
        many(peer.name, direct, &peer_hub.endpoint, &peer_hub).await?;
    }
    drop(hub);

    println!("\na server by standard input and output     added p50    added p99    (direct p50, p99)");
    let (_process, mut pipe) = endpoints::stdio_upstream().await?;
    let hub = endpoints::skep(Upstream::Stdio, 1).await?;
    beside_pipe("Skep, 2026-07-28", &mut pipe, &stateless(&hub.endpoint), PAIRS).await?;
    drop(hub);
    for peer in &STDIO_PEERS {
        let Some(peer_hub) = start(peer, &peers, Upstream::Stdio).await? else { continue };
        beside_pipe(peer.name, &mut pipe, &peer_hub.endpoint, PAIRS_FEW).await?;
    }
    fleet().await
}

async fn start(peer: &Peer, peers: &std::path::Path, upstream: Upstream<'_>) -> io::Result<Option<Running>> {
    match peer.start(peers, upstream).await {
        Ok(Some(running)) => Ok(Some(running)),
        Ok(None) => {
            println!("{:<40}  is not installed", peer.name);
            Ok(None)
        }
        Err(error) => {
            println!("{:<40}  does not answer: {error}", peer.name);
            Ok(None)
        }
    }
}

/// Calls by the gateway beside calls without.
async fn one_by_one(name: &str, direct: &Endpoint, by: &Endpoint, tool: Tool, pairs: usize) -> io::Result<()> {
    let (mut direct, mut by) = (Client::connect(direct).await?, Client::connect(by).await?);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for pair in 0..WARM_UP + pairs {
        // Who comes first takes turns, too.
        let (one, other) = if pair % 2 == 0 {
            let one = direct.call(tool).await?;
            (one, by.call(tool).await?)
        } else {
            let other = by.call(tool).await?;
            (direct.call(tool).await?, other)
        };
        if pair >= WARM_UP {
            without.push(one);
            with.push(other);
        }
    }
    report(name, without, with, tool);
    Ok(())
}

async fn beside_pipe(name: &str, pipe: &mut Pipe, by: &Endpoint, pairs: usize) -> io::Result<()> {
    let mut by = Client::connect(by).await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for pair in 0..WARM_UP + pairs {
        let (one, other) = (pipe.call(Tool::Small).await?, by.call(Tool::Small).await?);
        if pair >= WARM_UP {
            without.push(one);
            with.push(other);
        }
    }
    report(name, without, with, Tool::Small);
    Ok(())
}

/// The targets are for small results.
fn report(name: &str, mut without: Vec<Duration>, mut with: Vec<Duration>, tool: Tool) {
    without.sort_unstable();
    with.sort_unstable();
    let added = [0.5, 0.99].map(|quantile| micros(at(&with, quantile)) - micros(at(&without, quantile)));
    let is_over = added.iter().zip(ADDED_TARGETS).any(|(added, target)| *added > micros(target));
    let is_judged = name.starts_with("Skep") && matches!(tool, Tool::Small);
    println!(
        "{name:<40} {:>8.0} µs  {:>8.0} µs    ({:.0}, {:.0} µs){}",
        added[0],
        added[1],
        micros(at(&without, 0.5)),
        micros(at(&without, 0.99)),
        if is_judged && is_over { "  more than 80, 150" } else { "" }
    );
}

/// Many clients at once, with and without the gateway.
async fn many(name: &str, direct: &Endpoint, by: &Endpoint, hub: &Running) -> io::Result<()> {
    let (mut without, mut with, mut spent, mut calls) = (Vec::new(), Vec::new(), 0.0, 0.0);
    round(direct).await?;
    round(by).await?;
    for _ in 0..ROUNDS {
        without.push(round(direct).await?);
        let before = processor_time(hub)?;
        let rate = round(by).await?;
        spent += processor_time(hub)? - before;
        calls += rate * ROUND_TIME.as_secs_f64();
        with.push(rate);
    }
    let ratio = median(with.iter().zip(&without).map(|(with, without)| with / without).collect());
    let (with, without) = (median(with), median(without));
    println!("{name:<40} {ratio:.2} ({with:.0} of {without:.0} calls/s)     {:.3} ms", spent / calls * 1e3);
    Ok(())
}

/// Calls a second.
async fn round(endpoint: &Endpoint) -> io::Result<f64> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(endpoint).await?);
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut calls = 0_u32;
            while began.elapsed() < ROUND_TIME {
                client.call(Tool::Small).await?;
                calls += 1;
            }
            io::Result::Ok(calls)
        });
    }
    let mut calls = 0;
    while let Some(task) = tasks.join_next().await {
        calls += task.map_err(io::Error::other)??;
    }
    Ok(f64::from(calls) / began.elapsed().as_secs_f64())
}

/// Forty clients that all call twenty servers.
async fn fleet() -> io::Result<()> {
    let (clients, servers) = FLEET;
    let hub = endpoints::skep(Upstream::Stdio, servers).await?;
    let idle = memory(&hub)?;
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let endpoint = hub.endpoint.clone();
        tasks.spawn(async move {
            for server in 0..servers {
                let prefix = format!("upstream{server}__");
                Client::connect(&Endpoint { prefix, ..endpoint.clone() }).await?.call(Tool::Small).await?;
            }
            io::Result::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.map_err(io::Error::other)??;
    }
    println!(
        "\n{clients} clients × {servers} servers: {} processes of servers; the hub has {:.1} MB, idle {idle:.1} MB",
        servers_of(&hub)?,
        memory(&hub)?
    );
    Ok(())
}

fn pid(hub: &Running) -> io::Result<u32> {
    hub.child.id().ok_or_else(|| io::Error::other("the program has ended"))
}

/// Seconds of processor time that a program has used (proc_pid_stat(5), fields 14 and 15).
fn processor_time(hub: &Running) -> io::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid(hub)?))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0) // USER_HZ is 100 wherever Linux runs
}

/// Megabytes that a program has in memory.
fn memory(hub: &Running) -> io::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid(hub)?))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0 / 1e6).ok_or_else(|| io::Error::other("no VmRSS"))
}

/// Processes that a program has started as servers.
fn servers_of(hub: &Running) -> io::Result<usize> {
    let parent = format!("PPid:\t{}\n", pid(hub)?);
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if read("status").contains(&parent) && read("cmdline").contains("upstream") {
            count += 1;
        }
    }
    Ok(count)
}

/// The value that the share `quantile` of all values, which are sorted, does not exceed.
fn at(all: &[Duration], quantile: f64) -> Duration {
    let index = (all.len() as f64 * quantile) as usize;
    all.get(index.min(all.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}
