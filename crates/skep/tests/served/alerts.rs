//! Alerts that hubs raise about themselves.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{private, redis_server::Redis, several::hub, wire::Hub};

/// How long to wait for what must come; a busy machine takes long.
const PATIENCE: Duration = Duration::from_secs(120);

/// The codes of the alerts in its health.
async fn alerts(hub: &Hub) -> (Value, Vec<String>) {
    let health = hub.get("/health", &[]).await.json();
    let code = |alert: &Value| alert["code"].as_str().unwrap().to_owned();
    let codes = health["alerts"].as_array().unwrap().iter().map(code).collect();
    (health, codes)
}

async fn alerts_are(hub: &Hub, expected: &[&str]) -> Value {
    let begun = Instant::now();
    loop {
        let (health, codes) = alerts(hub).await;
        if codes == expected {
            return health;
        }
        assert!(begun.elapsed() < PATIENCE, "{health}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the event log has of alerts, once it has so much.
async fn events(hub: &Hub, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let page = hub.get("/api/v1/events?kind=alert.raised,alert.cleared", &[]).await.json();
        let events = page["events"].as_array().unwrap().clone();
        if events.len() >= count {
            return events;
        }
        assert!(begun.elapsed() < PATIENCE, "{page}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_failed_calls_are_an_alert_until_it_has_been_calm_for_a_while() {
    let hub = Hub::start("[mcpServers.gone]\ncommand = \"/nothing/here\"\n");
    let mut connection = hub.connect().await;
    let mut call = async |tool: &str, status| {
        connection.send("POST", &format!("/tools/{tool}"), &[], r#"{"task_id": "t"}"#).await.unwrap();
        let answer = connection.answer().await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
    };
    // The first look is over when this is.
    alerts_are(&hub, &[]).await;
    for _ in 0..30 {
        call("gone__read", 503).await;
    }
    let health = alerts_are(&hub, &["error_rate"]).await;
    let alert = &health["alerts"][0];
    assert!(alert["value"].as_f64().unwrap() > 0.05 && alert["since"].is_string(), "{alert}");
    assert_eq!((&alert["threshold"], &health["status"]), (&json!(0.05), &json!("degraded")));
    let metrics = hub.get("/metrics", &[]).await.body;
    for line in ["# HELP skep_alert ", "# TYPE skep_alert gauge", "skep_alert{alert=\"error_rate\"} 1"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    for other in ["latency_p95", "redis_memory", "sync_lag"] {
        assert!(metrics.contains(&format!("skep_alert{{alert=\"{other}\"}} 0")), "{metrics}");
    }
    let status = hub.user.skep(&["status"]).ok().stdout();
    assert!(status.contains("alerts   error_rate"), "{status}");

    // Most calls go well again.
    for _ in 0..1000 {
        call("list_files", 200).await;
    }
    alerts_are(&hub, &[]).await;
    let events = events(&hub, 2).await;
    let kinds: Vec<&Value> = events.iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["alert.raised", "alert.cleared"], "once each: {events:?}");
    let data = &events[0]["data"];
    assert_eq!((&data["alert"], &data["threshold"]), (&json!("error_rate"), &json!(0.05)));
    assert!(data["value"].as_f64().unwrap() > 0.05 && !data["hub"].as_str().unwrap().is_empty(), "{data}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hub_of_a_database_says_itself_that_redis_is_too_full() {
    let Some(postgres) = private::Server::start("", &[]) else { return };
    let Some(mut redis) = Redis::start("maxmemory 1gb") else { return };
    let database = postgres.database("skep").await;
    let hubs = [hub(&database, &redis.tcp()), hub(&database, &redis.tcp())];
    redis.tell("config set maxmemory 1mb");
    for hub in &hubs {
        let health = alerts_are(hub, &["redis_memory"]).await;
        assert_eq!(health["alerts"][0]["threshold"], 0.8, "{health}");
    }
    redis.tell("config set maxmemory 1gb");
    for hub in &hubs {
        alerts_are(hub, &[]).await;
    }
    let events = events(&hubs[0], 4).await;
    assert_eq!(events.len(), 4, "{events:?}");
    let told: BTreeSet<(&str, &str)> =
        events.iter().map(|event| (event["kind"].as_str().unwrap(), event["data"]["hub"].as_str().unwrap())).collect();
    assert_eq!(told.len(), 4, "each hub by its own name: {events:?}");

    // A limit that suits, and what a doctor says of it.
    let mut doctor = |settings: &str| {
        redis.tell(settings);
        let said = hubs[0].user.skep(&["doctor", "--json", "--database", &database, "--redis", &redis.tcp()]).json();
        let findings = said["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["what"] == "Redis").unwrap().clone()
    };
    let suits = doctor("config set maxmemory-policy allkeys-lru");
    let detail = suits["detail"].as_str().unwrap();
    assert!(suits["works"] == true && detail.contains("maxmemory 1.0 GiB, allkeys-lru"), "{suits}");
    assert!(detail.contains("on this machine, without TLS"), "{suits}");
    let fills = doctor("config set maxmemory-policy noeviction");
    assert!(fills["works"] == false && fills["cure"].as_str().unwrap().contains("allkeys-lru"), "{fills}");
    let unlimited = doctor("config set maxmemory 0");
    assert!(
        unlimited["works"] == false && unlimited["cure"].as_str().unwrap().contains("without maxmemory"),
        "{unlimited}"
    );
    let gone = doctor("kill");
    assert!(gone["works"] == false && gone["required"] == false, "{gone}");
    assert!(gone["detail"].as_str().unwrap().contains("does not accept connections"), "{gone}");
}
