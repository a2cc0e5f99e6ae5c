//! Callers over HTTP, each with a connection of its own and one request at a time.

use std::time::{Duration, Instant};

use serde_json::json;
use skep_bench::http::{Connection, find};
use tokio::task::JoinSet;

use super::{percentile, rate, servers::Hub, store};

/// How many steps a second so many callers log.
pub(crate) async fn steps(hub: &Hub, callers: usize, time: Duration) -> f64 {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let agent = format!("agent {caller}");
        let step = json!({ "task_id": "t", "agent_id": agent, "message": store::MESSAGE, "data": store::data() });
        let (request, mut connection) = (hub.call("log_step", &step), Connection::open(&hub.address).await.unwrap());
        running.spawn(async move {
            let mut logged = 0;
            while begun.elapsed() < time {
                called(&mut connection, &request).await;
                logged += 1;
            }
            logged
        });
    }
    rate(running.join_all().await.into_iter().sum(), begun)
}

/// How many claims a second so many callers take and release, each on a file of its own.
pub(crate) async fn pairs(hub: &Hub, callers: usize, time: Duration) -> f64 {
    let begun = Instant::now();
    rate(claims(hub, callers, begun, time).await.len() as u64, begun)
}

/// How long a claim takes, in milliseconds: the median and the 99th percentile.
pub(crate) async fn claim_times(hub: &Hub, callers: usize, time: Duration) -> (f64, f64) {
    let mut times = claims(hub, callers, Instant::now(), time).await;
    (percentile(&mut times, 50), percentile(&mut times, 99))
}

async fn claims(hub: &Hub, callers: usize, begun: Instant, time: Duration) -> Vec<Duration> {
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (agent, path) = (format!("agent {caller}"), format!("src/part{caller}.rs"));
        let claim = hub.call("claim_file", &json!({ "task_id": "t", "agent_id": agent, "path": path }));
        let release = json!({ "task_id": "t", "agent_id": agent, "path": path, "token": 1_000_000 });
        let release = String::from_utf8(hub.call("release_file", &release)).unwrap();
        let mut connection = Connection::open(&hub.address).await.unwrap();
        running.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < time {
                let asked = Instant::now();
                let token = token(&called(&mut connection, &claim).await);
                times.push(asked.elapsed());
                // As long as the one that is there, so that the length of the body stays.
                let release = release.replace("1000000", &format!("{token:>7}"));
                called(&mut connection, release.as_bytes()).await;
            }
            times
        });
    }
    running.join_all().await.concat()
}

/// The body of an answer that must be a good one.
async fn called(connection: &mut Connection, request: &[u8]) -> Vec<u8> {
    let answer = connection.exchange(request).await.unwrap();
    if answer.status() == 200 { answer.body().to_vec() } else { panic!("{}", answer.into_error()) }
}

fn token(answer: &[u8]) -> u64 {
    const MEMBER: &[u8] = b"\"token\":";
    let number = &answer[find(answer, MEMBER).unwrap() + MEMBER.len()..];
    let digits = number.iter().take_while(|digit| digit.is_ascii_digit()).count();
    std::str::from_utf8(&number[..digits]).unwrap().parse().unwrap()
}
