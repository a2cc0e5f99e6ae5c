//! Reading a file of 10 KB that many read, beside a `GET` of the same from Redis by the same client.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use skep_bench::http::Connection;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    percentile, postgres,
    servers::{Hub, Redis},
};

/// Bytes of the file.
const SIZE: usize = 10 << 10;
/// Reads of each kind, one by one and in turn.
const READS: usize = 5000;
/// Reads of each kind that are not counted at first.
const WARM_UP: usize = 200;

pub(crate) async fn measure(directory: &Path) {
    let Some(redis) = Redis::start(directory).await else { return println!("redis-server is not installed") };
    let Some(database) = postgres::new_schema().await else { return };
    let content: String = (0..SIZE / 10).map(|n| format!("line {n:04}\n")).collect();
    let mut raw = TcpStream::connect(&redis.socket).await.unwrap();
    raw.set_nodelay(true).unwrap();
    let set = format!("*3\r\n$3\r\nSET\r\n$3\r\nhot\r\n${}\r\n{content}\r\n", content.len());
    raw.write_all(set.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 2 * SIZE];
    assert!(raw.read(&mut buffer).await.unwrap() > 0);

    let options = ["--database", &database, "--redis", &redis.address];
    let [large, small] = [
        Hub::start(&directory.join("read-large"), &options).await,
        Hub::start(&directory.join("read-small"), &[]).await,
    ];
    let read = json!({ "task_id": "t", "path": "hot.txt" });
    let rest = |hub: &Hub| format!("GET /api/v1/workspaces/t/files/hot.txt HTTP/1.1\r\nhost: {}\r\n\r\n", hub.address);
    let compose = json!({ "text": "nothing" });
    let mut asked = Vec::new();
    for (what, hub, request, size) in [
        ("file_read, PostgreSQL and Redis", &large, large.call("file_read", &read), SIZE),
        ("GET …/files/hot.txt, the same", &large, rest(&large).into_bytes(), SIZE),
        ("file_read, SQLite", &small, small.call("file_read", &read), SIZE),
        ("GET …/files/hot.txt, SQLite", &small, rest(&small).into_bytes(), SIZE),
        ("a tool that reads nothing", &small, small.call("compose", &compose), 0),
    ] {
        let mut connection = Connection::open(&hub.address).await.unwrap();
        let write = hub.call("file_write", &json!({ "task_id": "t", "path": "hot.txt", "content": content }));
        assert_eq!(connection.exchange(&write).await.unwrap().status(), 200);
        asked.push((what, connection, request, size, Vec::new()));
    }
    let mut by_redis = Vec::new();
    for _ in 0..WARM_UP + READS {
        by_redis.push(get(&mut raw, &mut buffer, content.len()).await);
        for (_, connection, request, size, times) in &mut asked {
            times.push(ask(connection, request, *size).await);
        }
    }
    println!("\nA file of {SIZE} bytes, one read at a time (median, p99 in ms)");
    let redis = print("GET from Redis", &mut by_redis, None);
    for (what, _, _, _, mut times) in asked {
        print(what, &mut times, Some(redis));
    }
}

/// Print how long something took, and how much longer than a read from Redis. Returns the median.
fn print(what: &str, times: &mut [Duration], redis: Option<f64>) -> f64 {
    let times = &mut times[WARM_UP..];
    let (median, p99) = (percentile(times, 50), percentile(times, 99));
    let ratio = redis.map_or_else(String::new, |redis| format!("{:8.2} of Redis", median / redis));
    println!("{what:40} {median:8.3} {p99:8.3} {ratio}");
    median
}

async fn get(raw: &mut TcpStream, buffer: &mut [u8], size: usize) -> Duration {
    let begun = Instant::now();
    raw.write_all(b"*2\r\n$3\r\nGET\r\n$3\r\nhot\r\n").await.unwrap();
    let (head, mut read) = (format!("${size}\r\n").len(), 0);
    while read < head + size + 2 {
        read += raw.read(&mut buffer[read..]).await.unwrap();
    }
    begun.elapsed()
}

async fn ask(connection: &mut Connection, request: &[u8], size: usize) -> Duration {
    let begun = Instant::now();
    let answer = connection.exchange(request).await.unwrap();
    let took = begun.elapsed();
    assert!(answer.status() == 200 && answer.body().len() >= size, "{}", answer.into_error());
    took
}
