//! Live events, as programs read them: streams, pages and sockets.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    memory::NewEntry,
    policy::{Actor, Permit},
    run::{NewRun, RunId},
};
use skep_hub::server::Options;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use crate::support::{Hub, eventually, within};

/// A hub with a store, which this test writes to as well.
struct Events {
    hub: Hub,
    app: App,
    permit: Permit,
    _directory: tempfile::TempDir,
}

impl Events {
    async fn new() -> Events {
        Events::with(Options::default()).await
    }

    async fn with(options: Options) -> Events {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", directory.path().join("hub.db").display());
        let app = App::new(Db::open(&address, Limits::default()).await.unwrap());
        let permit: Permit = Actor::operator("local", Namespace::team("main")).permit().unwrap();
        let store = Some((app.clone(), permit.clone()));
        let hub = Hub::start_stored(options, Vec::new(), store).await;
        Events { hub, app, permit, _directory: directory }
    }

    /// Events, each the storing of an entry with this number as its key.
    async fn happen(&self, keys: std::ops::Range<i64>) {
        happen(&self.app, &self.permit, keys).await;
    }

    fn url(&self, query: &str) -> String {
        format!("http://{}/api/v1/events{query}", self.hub.address)
    }

    async fn stream(&self, query: &str, last: Option<i64>) -> Stream {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(self.url(query)).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (reqwest::StatusCode::OK, &"text/event-stream".parse().unwrap())
        );
        Stream { response, unread: String::new(), last: None }
    }

    async fn page(&self, query: &str) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(self.url(query)).send().await.unwrap().json().await.unwrap()
    }

    async fn socket(&self) -> Socket {
        Socket(within(connect_async(format!("ws://{}/ws", self.hub.address))).await.unwrap().0)
    }
}

async fn happen(app: &App, permit: &Permit, keys: std::ops::Range<i64>) {
    for key in keys {
        app.store_memory(permit, NewEntry::new(key.to_string(), json!(1))).await.unwrap();
    }
}

/// A client of a stream, which reads it as HTML says.
struct Stream {
    response: reqwest::Response,
    unread: String,
    last: Option<i64>,
}

impl Stream {
    /// The next block: its event's name and data, if it has one.
    async fn block(&mut self) -> Option<(String, String)> {
        let end = loop {
            if let Some(end) = self.unread.find("\n\n") {
                break end;
            }
            let chunk = within(self.response.chunk()).await.unwrap()?;
            self.unread += std::str::from_utf8(&chunk).unwrap();
        };
        let block = self.unread.drain(..end + 2).collect::<String>();
        let (mut name, mut data) = (String::new(), String::new());
        for line in block.lines().filter(|line| !line.is_empty()) {
            match line.split_once(": ").unwrap() {
                ("id", id) => self.last = Some(id.parse().unwrap()),
                ("event", event) => name = event.to_owned(),
                ("data", json) => data = json.to_owned(),
                ("" | "retry", _) => {}
                other => panic!("{other:?}"),
            }
        }
        Some((name, data))
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            let (name, data) = self.block().await?;
            if !data.is_empty() {
                let event: Value = serde_json::from_str(&data).unwrap();
                assert!(event["number"] == self.last.unwrap() || name == "reset", "{event}");
                return Some((name, event));
            }
        }
    }

    /// The numbers of events up to this one.
    async fn numbers_until(&mut self, last: i64) -> Vec<i64> {
        let mut numbers = Vec::new();
        while numbers.last() != Some(&last) {
            numbers.push(self.next().await.unwrap().1["number"].as_i64().unwrap());
        }
        numbers
    }
}

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        loop {
            match within(self.0.next()).await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Subscribe, and see from which number on.
    async fn subscribe(&mut self, message: Value) -> i64 {
        self.say(message.clone()).await;
        let said = self.hear().await;
        assert_eq!((&said["type"], &said["id"]), (&json!("subscribed"), &message["id"]), "{said}");
        said["after"].as_i64().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_gives_every_event_once_from_any_number_on_while_others_write() {
    const WRITERS: i64 = 4;
    const EACH: i64 = 50;
    let events = Events::new().await;
    events.happen(0..10).await;
    let last = 10 + WRITERS * EACH;
    let mut reading = JoinSet::new();
    for after in [0, 1, 7, 9, 10] {
        let mut stream = events.stream(&format!("?after={after}"), None).await;
        reading.spawn(async move { assert_eq!(stream.numbers_until(last).await, Vec::from_iter(after + 1..=last)) });
    }
    let mut writing = JoinSet::new();
    for writer in 0..WRITERS {
        let (app, permit) = (events.app.clone(), events.permit.clone());
        writing.spawn(async move { happen(&app, &permit, 1000 * writer..1000 * writer + EACH).await });
    }
    writing.join_all().await;
    reading.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_its_last_number_misses_nothing_and_hears_nothing_twice() {
    let events = Events::new().await;
    events.happen(0..5).await;
    let mut stream = events.stream("?after=0", None).await;
    assert_eq!(stream.numbers_until(3).await, [1, 2, 3]);
    let last = stream.last;
    drop(stream);
    events.happen(5..8).await;
    let mut stream = events.stream("?after=0", last).await;
    assert_eq!(stream.numbers_until(8).await, [4, 5, 6, 7, 8], "the header counts more than the query");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_number_begins_now_and_says_at_once_where_that_is() {
    let events = Events::new().await;
    events.happen(0..5).await;
    let mut stream = events.stream("", None).await;
    assert_eq!(stream.block().await, Some((String::new(), String::new())));
    let last = stream.last;
    assert_eq!(last, Some(5));
    drop(stream);
    events.happen(5..6).await;
    let mut stream = events.stream("", last).await;
    let (name, event) = stream.next().await.unwrap();
    assert_eq!(
        (name.as_str(), &event["data"]["key"]),
        ("memory.stored", &json!("5")),
        "even if it saw no event before"
    );
    assert_eq!(event["actor"], json!({ "principal": "local", "agent": null, "on_behalf_of": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_told_only_what_it_wants() {
    let events = Events::new().await;
    let inside = events.permit.within(Some("t1"), Some("coder")).unwrap();
    events.happen(0..2).await;
    happen(&events.app, &inside, 10..12).await;
    events.app.delete_memory(&inside, "10", None).await.unwrap();
    let keys = async |query: &str| {
        let page = events.page(query).await;
        let events = page["events"].as_array().unwrap_or_else(|| panic!("{query}: {page}"));
        events.iter().map(|event| event["data"]["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys("").await, ["0", "1"], "the team's own");
    assert_eq!(keys("?task=t1").await, ["10", "11", "10"], "a workspace has a log of its own");
    assert_eq!(keys("?task_id=t1&kind=memory.deleted,run.started").await, ["10"]);
    assert_eq!(keys("?task=t1&agent=coder&after=1").await, ["11", "10"]);
    assert_eq!(keys("?task=t1&agent=nobody").await, [""; 0]);
    assert_eq!(keys("?task=t2").await, [""; 0]);
    let page = events.page("?task=t1&limit=2").await;
    assert_eq!((page["events"].as_array().unwrap().len(), &page["next"]), (2, &json!(2)));
    let mut stream = events.stream("?task=t1&kind=memory.deleted&after=0", None).await;
    assert_eq!(stream.next().await.unwrap().0, "memory.deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_before_a_stream_begins() {
    let events = Events::new().await;
    for query in ["?after=x", "?colour=red", "?task=", "?agent=%0A", &format!("?kind={}", ",x".repeat(100))] {
        let page = events.page(query).await;
        assert_eq!(page["code"], "bad_request", "{query}: {page}");
    }
    let headers = [("accept", "text/event-stream"), ("last-event-id", "x")];
    let said = events.hub.send("GET", "/api/v1/events", &headers, "").await;
    assert!(said.starts_with("400 ") && said.contains("Last-Event-ID"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_ahead_of_the_log_is_told_where_it_is() {
    let events = Events::new().await;
    events.happen(0..3).await;
    let mut stream = events.stream("?after=99", None).await;
    let (name, reset) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &reset), ("reset", &json!({ "first": 1, "last": 3 })));
    assert_eq!(stream.numbers_until(3).await, [1, 2, 3]);
    assert_eq!(events.page("?after=99").await["reset"], json!({ "first": 1, "last": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_has_subscriptions_with_filters_of_their_own() {
    let events = Events::new().await;
    events.happen(0..2).await;
    let inside = events.permit.within(Some("t1"), None).unwrap();
    let mut socket = events.socket().await;
    assert_eq!(socket.subscribe(json!({ "type": "subscribe", "id": "all", "after": 1 })).await, 1);
    let said = socket.hear().await;
    assert_eq!((&said["type"], &said["id"], &said["event"]["number"]), (&json!("event"), &json!("all"), &json!(2)));
    let deleted = json!({ "type": "subscribe", "id": "deleted", "task": "t1", "kinds": ["memory.deleted"] });
    assert_eq!(socket.subscribe(deleted.clone()).await, 0);
    happen(&events.app, &inside, 5..6).await;
    events.app.delete_memory(&inside, "5", None).await.unwrap();
    let said = socket.hear().await;
    assert_eq!((&said["id"], &said["event"]["kind"]), (&json!("deleted"), &json!("memory.deleted")), "{said}");

    for (message, code) in [
        (deleted, "conflict"),
        (json!({ "type": "subscribe", "id": "" }), "bad_request"),
        (json!({ "type": "subscribe", "id": "x", "task": "a\nb" }), "bad_request"),
        (json!({ "type": "unsubscribe", "id": "x" }), "not_found"),
        (json!({ "type": "shout" }), "bad_request"),
        (json!([]), "bad_request"),
    ] {
        socket.say(message.clone()).await;
        let said = socket.hear().await;
        assert_eq!((&said["type"], &said["problem"]["code"]), (&json!("error"), &json!(code)), "{message}: {said}");
    }
    socket.say(json!({ "type": "unsubscribe", "id": "all" })).await;
    assert_eq!(socket.hear().await, json!({ "type": "unsubscribed", "id": "all" }));
    events.happen(2..3).await;
    socket.say(json!({ "type": "ping" })).await;
    assert_eq!(socket.hear().await, json!({ "type": "pong" }), "what happened is not told any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_subscribers_hear_of_an_event() {
    const SOCKETS: usize = 100;
    const EACH: usize = 10;
    let events = Events::new().await;
    let mut reading = JoinSet::new();
    for _ in 0..SOCKETS {
        let mut socket = events.socket().await;
        for id in 0..EACH {
            socket.subscribe(json!({ "type": "subscribe", "id": id.to_string() })).await;
        }
        reading.spawn(async move {
            let mut heard = Vec::new();
            while heard.len() < 2 * EACH {
                let said = socket.hear().await;
                heard.push((said["id"].as_str().unwrap().to_owned(), said["event"]["number"].as_i64().unwrap()));
            }
            heard
        });
    }
    events.happen(0..2).await;
    for heard in reading.join_all().await {
        for id in 0..EACH {
            let of_one = heard.iter().filter(|(of, _)| *of == id.to_string()).map(|(_, number)| *number);
            assert_eq!(of_one.collect::<Vec<_>>(), [1, 2]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_stops_ends_streams_and_sockets_at_once() {
    let events = Events::new().await;
    let mut stream = events.stream("?after=0", None).await;
    let mut socket = events.socket().await;
    socket.subscribe(json!({ "type": "subscribe", "id": "all" })).await;
    events.hub.shutdown.cancel();
    assert_eq!(stream.next().await, None, "a clean end");
    let goodbye = within(socket.0.next()).await.unwrap().unwrap();
    let Message::Close(Some(frame)) = goodbye else { panic!("{goodbye:?}") };
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Away, "the hub is stopping"));
    within(events.hub.stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_speaks_websocket_says_so_to_others() {
    let events = Events::new().await;
    let said = events.hub.get("/ws").await;
    assert!(said.starts_with("400 ") && said.contains("this path speaks WebSocket"), "{said}");
    let headers = [("origin", "https://evil.example"), ("connection", "upgrade"), ("upgrade", "websocket")];
    let said = events.hub.send("GET", "/ws", &headers, "").await;
    assert!(said.starts_with("403 ") && said.contains("origin_not_allowed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_closed_and_goes_on_where_it_was() {
    const EVENTS: i64 = 400;
    let time_max = Duration::from_millis(200);
    let events = Events::with(Options { write_time_max: time_max, ..Options::default() }).await;
    // More than the kernel keeps for a reader that takes nothing.
    let run = RunId("r".to_owned());
    let new = NewRun {
        id: run.clone(),
        name: "r".to_owned(),
        plan: json!({}).into(),
        inputs: json!({}).into(),
        directory: "/".to_owned(),
    };
    events.app.start_run(&events.permit, new, Vec::new()).await.unwrap();
    let text = "x".repeat(60 << 10);
    for _ in 1..EVENTS {
        events.app.log(&events.permit, &run, None, &text, None).await.unwrap();
    }
    let mut silent = events.hub.connect().await;
    silent.send("GET", "/api/v1/events?after=0", &[("accept", "text/event-stream")], "").await;
    let open = async || {
        let metrics = events.hub.get("/metrics").await;
        let line = metrics.lines().find(|line| line.starts_with("skep_http_connections ")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    eventually(async || open().await == "2").await;
    eventually(async || open().await == "1").await; // the one that asks
    let mut stream = events.stream("?after=0", None).await;
    assert_eq!(stream.numbers_until(EVENTS).await, Vec::from_iter(1..=EVENTS), "who reads has them all");
}
