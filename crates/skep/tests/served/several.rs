//! Several hubs on one PostgreSQL, with Redis beside it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    private,
    redis_server::Redis,
    wire::{Hub, within},
};

/// How long to wait for what must come; a busy machine takes long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that listens to a channel of Redis.
struct Listener {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Listener {
    fn start(redis: &Redis, channel: &str) -> Listener {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &redis.port.to_string(), "--raw", "subscribe", channel]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let listener = Listener { process, lines: told };
        assert_eq!([(); 3].map(|()| listener.next()), ["subscribe", channel, "1"]);
        listener
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn call(hub: &Hub, tool: &str, arguments: Value) -> Value {
    let answer = hub.post(&format!("/tools/{tool}"), &[], arguments).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn write(content: &str) -> Value {
    json!({ "task_id": "t1", "agent_id": "coder", "path": "notes.md", "content": content })
}

async fn health(hub: &Hub) -> (u16, Value) {
    let answer = hub.get("/health", &[]).await;
    (answer.status, answer.json())
}

/// Ask again and again until the health is so.
async fn health_is(hub: &Hub, redis: &str, postgres: &str) -> (u16, Value) {
    let begun = Instant::now();
    loop {
        let (status, health) = health(hub).await;
        if (&health["redis"], &health["postgres"]) == (&json!(redis), &json!(postgres)) {
            return (status, health);
        }
        assert!(begun.elapsed() < PATIENCE, "{health}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) fn hub(database: &str, redis: &str) -> Hub {
    Hub::start_with("", &[("SKEP_DATABASE", database), ("SKEP_REDIS", redis), ("NO_COLOR", "1")])
}

#[tokio::test(flavor = "multi_thread")]
async fn hubs_share_redis_and_go_on_when_it_or_the_database_is_gone() {
    let Some(mut postgres) = private::Server::start("", &[]) else { return };
    let Some(mut redis) = Redis::start("") else { return };
    let database = postgres.database("skep").await;
    let (one, two) = (hub(&database, &redis.tcp()), hub(&database, &redis.tcp()));
    let (_, first) = health_is(&one, "connected", "connected").await;
    assert_eq!(first["store"], "readable");
    health_is(&two, "connected", "connected").await;

    // What one hub writes is read at the other, and told to who listens as readers of events see it.
    let listener = Listener::start(&redis, "task:t1:updates");
    let content = "a line that is shared\n".repeat(500);
    call(&one, "file_write", write(&content)).await;
    let read = json!({ "task_id": "t1", "agent_id": "reader", "path": "notes.md" });
    assert_eq!(call(&two, "file_read", read.clone()).await["content"], json!(content));
    let told = [(); 3].map(|()| listener.next());
    let page = two.get("/api/v1/events?task=t1", &[]).await.json();
    assert_eq!(told, ["message", "task:t1:updates", &page["events"][0].to_string()]);
    assert_eq!((&page["events"][0]["kind"], &page["events"][0]["number"]), (&json!("file.written"), &json!(1)));
    let metrics = one.get("/metrics", &[]).await.body;
    for figure in [
        "skep_redis_connected 1",
        "skep_redis_published_total 1",
        "skep_sync_lag_seconds 0",
        "skep_redis_memory_bytes ",
    ] {
        assert!(metrics.contains(figure), "{metrics}");
    }

    // Without Redis, hubs are slower and no less right.
    redis.tell("kill");
    let (status, health) = health_is(&one, "down", "connected").await;
    assert_eq!((status, &health["status"]), (200, &json!("degraded")));
    assert_eq!(one.get("/health/ready", &[]).await.status, 200);
    call(&one, "file_write", write("without")).await;
    assert_eq!(call(&two, "file_read", read.clone()).await["content"], "without");
    redis.tell("start");
    let (_, health) = health_is(&one, "connected", "connected").await;
    assert_eq!(health["status"], first["status"]);

    // Without the database, callers are told to come back, and they can.
    postgres.tell("stop");
    let (status, health) = health_is(&one, "connected", "down").await;
    assert_eq!((status, &health["status"]), (503, &json!("unhealthy")));
    let ready = one.get("/health/ready", &[]).await;
    assert_eq!((ready.status, ready.json()), (503, json!({ "status": "unhealthy" })));
    for (tool, arguments) in [("file_write", write("gone")), ("file_read", read.clone())] {
        let refused = within(one.post(&format!("/tools/{tool}"), &[], arguments)).await;
        assert_eq!((refused.status, refused.header("retry-after").is_empty()), (503, false), "{refused:?}");
    }
    postgres.tell("start");
    health_is(&one, "connected", "connected").await;
    assert_eq!(one.get("/health/ready", &[]).await.status, 200);
    assert_eq!(call(&one, "file_read", read).await["content"], "without");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_without_several_says_that_redis_and_postgres_are_disabled() {
    let plain = Hub::start("");
    let (_, health) = health(&plain).await;
    assert_eq!((&health["redis"], &health["postgres"]), (&json!("disabled"), &json!("disabled")));
    let said = plain.user.skep(&["runs", "--redis", "redis://u:hush@h"]);
    assert_eq!(said.code(), 1);
    assert!(
        said.stderr().contains("set `database` to a PostgreSQL") && !said.stderr().contains("hush"),
        "{}",
        said.stderr()
    );
}
