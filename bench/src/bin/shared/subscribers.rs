//! How soon the last of a thousand WebSockets has an event, after its writer was told that it is durable.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use skep_bench::http::{Connection, find};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};

use super::{percentile, servers::Hub};

const SUBSCRIBERS: usize = 1000;
const EVENTS: usize = 200;
/// Between two events.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn measure(directory: &Path) {
    let hub = Hub::start(&directory.join("subscribers"), &[]).await;
    let (seen, mut all_seen) = mpsc::unbounded_channel();
    let mut running = JoinSet::new();
    for _ in 0..SUBSCRIBERS {
        let (mut socket, seen) = (subscribed(&hub).await, seen.clone());
        running.spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                let read = frame_of(&mut socket, &mut buffer).await;
                let at = Instant::now();
                assert!(
                    find(&buffer[..read], b"step.logged").is_some(),
                    "{}",
                    String::from_utf8_lossy(&buffer[..read])
                );
                seen.send(at).unwrap();
            }
        });
    }
    let mut writer = Connection::open(&hub.address).await.unwrap();
    let step = hub.call("log_step", &json!({ "task_id": "t", "message": "compiled", "data": { "in": { "n": 1 } } }));
    let mut times = Vec::new();
    for _ in 0..EVENTS {
        sleep(PAUSE).await;
        assert_eq!(writer.exchange(&step).await.unwrap().status(), 200);
        let told = Instant::now();
        let mut last = told;
        for _ in 0..SUBSCRIBERS {
            last = last.max(all_seen.recv().await.unwrap());
        }
        times.push(last - told);
    }
    running.shutdown().await;
    println!(
        "\n{SUBSCRIBERS} WebSockets: the last has an event {:.2} ms after its writer had the answer (median), {:.2} ms (p99)",
        percentile(&mut times, 50),
        percentile(&mut times, 99)
    );
}

/// A WebSocket that is subscribed to the events of the workspace.
async fn subscribed(hub: &Hub) -> TcpStream {
    let mut connection = Connection::open(&hub.address).await.unwrap();
    let upgrade = format!(
        "GET /ws HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        hub.address
    );
    let answer = connection.exchange(upgrade.as_bytes()).await.unwrap();
    assert!(answer.status() == 101, "{}", answer.into_error());
    let mut socket = connection.into_stream();
    let subscribe = json!({ "type": "subscribe", "id": "a", "task": "t" }).to_string();
    // A text frame of under 126 bytes, masked with zeroes.
    let mut frame = vec![0x81, 0x80 | u8::try_from(subscribe.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(subscribe.as_bytes());
    socket.write_all(&frame).await.unwrap();
    let mut buffer = vec![0; 4096];
    let read = frame_of(&mut socket, &mut buffer).await;
    assert!(find(&buffer[..read], b"subscribed").is_some(), "{}", String::from_utf8_lossy(&buffer[..read]));
    socket
}

/// Receive one frame, of which the next one is not sent before this one was. Returns how many bytes it has.
async fn frame_of(socket: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let mut read = 0;
    loop {
        read += socket.read(&mut buffer[read..]).await.unwrap();
        let size = match *buffer {
            [_, 126, high, low, ..] if read >= 4 => 4 + usize::from(u16::from_be_bytes([high, low])),
            [_, length @ ..=125, ..] if read >= 2 => 2 + usize::from(length),
            _ => continue,
        };
        if read >= size {
            return read;
        }
    }
}
