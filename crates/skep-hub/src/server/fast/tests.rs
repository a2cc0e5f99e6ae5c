//! The same requests on the fast path and through the router: each must get the same answers both ways.

mod shapes;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use skep_tools::workspace::Dir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::Semaphore,
    time::timeout,
};

use self::shapes::{
    BODY_BYTES_MAX, By,
    By::{FastPath, Router},
    Shape, TOKEN,
};
use super::super::{Listeners, Options, Parts, Token, connections::Connections, half::Half};
use crate::hub::{
    calls::{Calls, Limits},
    catalogue::Catalogue,
};

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes that fit into a connection: all that either side ever sends.
const PIPE_BYTES: usize = 1 << 20;
/// A request that is sent behind the others, so that it is seen where they end.
const PROBE: &str = "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
const PROBED: &[u8] = br#"{"status":"live"}"#;

fn options() -> Options {
    Options { allowed_origins: vec!["https://console.example".to_owned()], ..Options::default() }
}

/// A hub whose connections are in memory.
struct Hub {
    connections: Connections,
    _directory: tempfile::TempDir,
}

impl Hub {
    async fn start(options: Options) -> Hub {
        let directory = tempfile::tempdir().unwrap();
        let dir = |name| Dir::create(&directory.path().join(name)).unwrap();
        let limits = Limits { message_bytes_max: BODY_BYTES_MAX, ..Limits::default() };
        let calls = Arc::new(Calls::new(Catalogue::new([]), dir("workspace"), dir("outputs"), limits));
        let parts = Parts { name: "test".into(), calls, store: None, probes: Vec::new() };
        let options = Options { bind: vec!["127.0.0.1:0".to_owned()], ..options };
        let Listeners { hub, options, .. } = Listeners::open(options, parts).await.unwrap();
        let admits = hub.guard.admits();
        let connections = Connections::new(admits, hub, &options, Arc::new(Semaphore::new(1)), Arc::default());
        Hub { connections, _directory: directory }
    }

    /// Answer a connection, by the fast path first or by the router alone. Returns what the fast path left to the router.
    async fn serve(&self, stream: DuplexStream, by: By) -> Option<Vec<u8>> {
        let stream = Half::new(stream);
        let work = stream.work().clone();
        let rest = match by {
            Router => {
                let _ = self.connections.serve(stream, work, &self.connections.router).await;
                return None;
            }
            FastPath => self.connections.answer_plain(stream).await.ok()??,
        };
        let first = rest.first.to_vec();
        let _ = self.connections.serve(rest, work, &self.connections.router).await;
        Some(first)
    }

    /// Everything that is said to a caller who sends these bytes and then nothing more.
    async fn say(&self, bytes: &[u8], by: By) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut caller, stream) = duplex(PIPE_BYTES);
        caller.write_all(bytes).await.unwrap();
        caller.shutdown().await.unwrap();
        let mut said = Vec::new();
        let (left, read) = within(async { tokio::join!(self.serve(stream, by), caller.read_to_end(&mut said)) }).await;
        read.unwrap();
        (said, left)
    }

    /// The same for who sends a probe behind them, and waits for its answer or the end of the connection.
    async fn say_and_probe(&self, bytes: &[u8], by: By) -> Vec<u8> {
        let (mut caller, stream) = duplex(PIPE_BYTES);
        caller.write_all(&[bytes, PROBE.as_bytes()].concat()).await.unwrap();
        let mut said = Vec::new();
        let reading = async move {
            while !said.ends_with(PROBED) && caller.read_buf(&mut said).await.unwrap() > 0 {}
            said
        };
        within(async { tokio::join!(self.serve(stream, by), reading) }).await.1
    }

    async fn session(&self, revision: &str) -> String {
        let (said, _) = self.say(&shapes::post("", shapes::initialize(revision)), Router).await;
        let text = String::from_utf8(said).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
        line.unwrap_or_else(|| panic!("no session: {text}")).to_owned()
    }

    /// The bytes of a request, with sessions of its own.
    async fn bytes(&self, shape: &Shape) -> Vec<u8> {
        let mut bytes = shape.bytes.clone();
        for (name, revision) in [("{session}", "2025-06-18"), ("{batching}", "2025-03-26")] {
            if let Some(at) = memchr::memmem::find(&bytes, name.as_bytes()) {
                bytes.splice(at..at + name.len(), self.session(revision).await.into_bytes());
            }
        }
        bytes
    }

    /// Where the two ways do not agree about a request.
    async fn differences(&self, shape: &Shape) -> Vec<String> {
        let mut found = Vec::new();
        let (by_both, left) = self.say(&self.bytes(shape).await, FastPath).await;
        let begins = |left: &Vec<u8>| !left.is_empty() && shape.bytes.starts_with(&left[..left.len().min(4)]);
        let by = if left.as_ref().is_some_and(begins) { Router } else { FastPath };
        if by != shape.by {
            found.push(format!("{}: it goes to the {by:?} first", shape.name));
        }
        let (by_router, _) = self.say(&self.bytes(shape).await, Router).await;
        let compare = |how: &str, both: &[u8], router: &[u8]| {
            let (both, router) = (answers(both), answers(router));
            (both != router).then(|| format!("{}{how}:\n  fast path {both:#?}\n  router {router:#?}", shape.name))
        };
        found.extend(compare("", &by_both, &by_router));
        if !shape.is_whole {
            return found;
        }
        let by_both = self.say_and_probe(&self.bytes(shape).await, FastPath).await;
        let by_router = self.say_and_probe(&self.bytes(shape).await, Router).await;
        found.extend(compare(", and another request", &by_both, &by_router));
        found
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("nothing happened")
}

/// An answer without what differs from one to the next.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    fields: BTreeSet<String>,
    body: String,
}

/// What was said, as answers; interim ones are left out, since they come when an answer takes its time.
fn answers(mut said: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !said.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(bytes)) = head.parse(said) else {
            answers.push(Answer { status: 0, fields: BTreeSet::new(), body: String::from_utf8_lossy(said).into() });
            return answers;
        };
        said = &said[bytes..];
        let status = head.code.unwrap();
        let field = |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        let text = |name: &str| field(name).map(|field| std::str::from_utf8(field.value).unwrap());
        let mut body = Vec::new();
        if text("transfer-encoding").is_some() {
            loop {
                let Ok(httparse::Status::Complete((at, bytes))) = httparse::parse_chunk_size(said) else {
                    body.extend_from_slice(b"(cut off)");
                    break;
                };
                let bytes = usize::try_from(bytes).unwrap();
                body.extend_from_slice(&said[at..at + bytes]);
                said = &said[at + bytes + 2..];
                if bytes == 0 {
                    break;
                }
            }
        } else {
            let length = text("content-length").map_or(0, |length| length.parse().unwrap());
            let (first, rest) = said.split_at(length.min(said.len())); // HEAD: no body
            body.extend_from_slice(first);
            said = rest;
        }
        if status < 200 {
            continue;
        }
        let shown = head.headers.iter().filter_map(|field| {
            let value = String::from_utf8_lossy(field.value);
            match field.name.to_ascii_lowercase().as_str() {
                "date" => None,
                "mcp-session-id" => Some("mcp-session-id: …".to_owned()),
                "x-request-id" if value.len() == 26 => Some("x-request-id: …".to_owned()),
                name => Some(format!("{name}: {value}")),
            }
        });
        let fields = shown.collect();
        answers.push(Answer { status, fields, body: String::from_utf8_lossy(&body).into() });
    }
    answers
}

async fn agree(options: Options, shapes: &[Shape]) {
    let hub = Hub::start(options).await;
    let mut differences = Vec::new();
    for shape in shapes {
        differences.extend(hub.differences(shape).await);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn messages_get_the_same_answer_from_the_fast_path_and_the_router() {
    let shapes: Vec<Shape> = shapes::stateless().into_iter().chain(shapes::of_sessions()).collect();
    agree(options(), &shapes).await;
}

#[tokio::test]
async fn bodies_get_the_same_answer_from_the_fast_path_and_the_router() {
    agree(options(), &shapes::bodies()).await;
}

#[tokio::test]
async fn however_a_request_is_framed_the_fast_path_and_the_router_read_the_same() {
    let shapes = [shapes::lengths(), shapes::encodings(), shapes::heads(), shapes::lines()].into_iter().flatten();
    let shapes: Vec<Shape> = shapes.collect();
    agree(options(), &shapes).await;
}

#[tokio::test]
async fn callers_get_the_same_answer_from_the_fast_path_and_the_router() {
    agree(options(), &shapes::callers()).await;
    agree(Options { allowed_origins: Vec::new(), ..options() }, &shapes::callers()).await;
}

#[tokio::test]
async fn tokens_get_the_same_answer_from_the_fast_path_and_the_router() {
    agree(Options { token: Some(Token::new(TOKEN).unwrap()), ..options() }, &shapes::tokens()).await;
}

#[tokio::test]
async fn a_hub_that_stops_gives_the_same_answer_by_the_fast_path_and_the_router() {
    let hub = Hub::start(options()).await;
    hub.connections.hub.calls.admission.start_draining();
    for shape in shapes::stateless().into_iter().chain(shapes::of_sessions()) {
        let found = hub.differences(&shape).await;
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[tokio::test]
async fn the_rest_of_a_body_that_came_too_late_is_not_taken_for_a_request() {
    let (token, body_time_max) = (Some(Token::new(TOKEN).unwrap()), Duration::from_millis(50));
    let hub = Hub::start(Options { token, body_time_max, ..options() }).await;
    let (first, late) = PROBE.split_at(PROBE.len() / 2);
    for (fields, status) in [
        (format!("host: localhost\r\nauthorization: Bearer {TOKEN}\r\n"), 408),
        ("host: localhost\r\n".to_owned(), 401),
        ("host: evil.example\r\n".to_owned(), 403),
    ] {
        let begun = shapes::with_head(format!("{fields}content-length: {}\r\n", PROBE.len()), first);
        for by in [FastPath, Router] {
            let (mut caller, stream) = duplex(PIPE_BYTES);
            caller.write_all(&begun).await.unwrap();
            let reading = async move {
                let mut said = Vec::new();
                while !said.ends_with(b"}") && caller.read_buf(&mut said).await.unwrap() > 0 {}
                let _ = caller.write_all(late.as_bytes()).await; // the hub may have closed the connection
                let _ = caller.shutdown().await;
                caller.read_to_end(&mut said).await.unwrap();
                said
            };
            let (_, said) = within(async { tokio::join!(hub.serve(stream, by), reading) }).await;
            let statuses = |said: &[u8]| answers(said).iter().map(|answer| answer.status).collect::<Vec<_>>();
            assert_eq!(statuses(&said), [status], "{by:?}");
            assert_eq!(statuses(&hub.say(&begun, by).await.0), [status], "{by:?}, and the caller sends no more");
        }
        let (said, _) = hub.say(&begun, FastPath).await;
        assert!(answers(&said)[0].fields.contains("connection: close"), "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_waits_for_its_reader_reaches_a_caller_that_has_ended_its_side() {
    let hub = Hub::start(options()).await;
    let shapes = shapes::stateless();
    let shape = shapes.iter().find(|shape| shape.name == "a long answer").unwrap();
    let (whole, _) = hub.say(&shape.bytes, FastPath).await;
    for by in [FastPath, Router] {
        let (mut caller, stream) = duplex(1000); // far less than the answer
        let calling = async move {
            caller.write_all(&shape.bytes).await.unwrap();
            caller.shutdown().await.unwrap();
            let mut said = Vec::new();
            caller.read_to_end(&mut said).await.unwrap();
            said
        };
        let (_, said) = within(async { tokio::join!(hub.serve(stream, by), calling) }).await;
        assert_eq!(answers(&said), answers(&whole), "{by:?}");
    }
}
