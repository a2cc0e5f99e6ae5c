//! What a client of several hubs does when some of them are dead, busy, stopping, slow, or not hubs at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use insta::assert_snapshot;
use serde_json::{Map, Value, json};
use skep_hub::{
    executor::{Executor, Place},
    hub::{
        admission,
        calls::{Calls, Limits},
        catalogue::Catalogue,
    },
    remote::{HubError, Hubs, PassedOver, Why},
    server::{Options, Token},
};
use skep_tools::{
    tool::{Annotations, Call, Tool},
    workspace::{Context, Dir, Outputs},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::support::{Connection, Echo, Hub, STALL, within};

const READS: Annotations =
    Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
const WRITES: Annotations =
    Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: false, open_world_hint: false };

fn echo() -> Call {
    Call { tool: "echo".to_owned(), arguments: json!({"text": "hi"}), deadline: None }
}

fn stall() -> Call {
    Call { tool: "stall".to_owned(), arguments: json!({}), deadline: Some(Duration::from_secs(600)) }
}

fn hubs(urls: &[&str]) -> Hubs {
    Hubs::new(urls, None).unwrap()
}

fn url(hub: &Hub) -> String {
    format!("http://{}", hub.address)
}

/// The address of a port on which nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A hub that runs so many calls at once, and lets none wait.
async fn roomy(calls_at_once: usize) -> Hub {
    let calls = admission::Limits { calls_at_once, waiting_max: 0, ..Default::default() };
    Hub::start_limited(Limits { calls, ..Limits::default() }, Options::default()).await
}

// ---- which hub

#[tokio::test]
async fn two_hubs_share_the_calls_by_their_capacity() {
    let (mut large, mut small) = (roomy(4).await, roomy(2).await);
    let hubs = hubs(&[&url(&large), &url(&small)]);
    let call = stall();
    let calls = join_all((0..6).map(|_| hubs.call(&call, WRITES)));
    let (answers, ()) = tokio::join!(calls, async {
        for _ in 0..4 {
            large.told("running").await;
        }
        for _ in 0..2 {
            small.told("running").await;
        }
        large.release.add_permits(4);
        small.release.add_permits(2);
    });
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_hub_on_which_others_are_at_work_is_spared() {
    let (mut busy, free) = (Hub::start(Options::default()).await, Hub::start(Options::default()).await);
    let mut other = busy.connect().await;
    other.send("POST", "/process", &[], STALL).await;
    busy.told("running").await;
    let hubs = hubs(&[&url(&busy), &url(&free)]);
    for _ in 0..10 {
        assert_eq!(hubs.call(&echo(), WRITES).await.unwrap().hub, url(&free));
    }
}

#[tokio::test]
async fn a_hundred_calls_at_once_are_all_answered() {
    let (one, two) = (Hub::start(Options::default()).await, Hub::start(Options::default()).await);
    let hubs = hubs(&[&url(&one), &url(&two)]);
    let call = echo();
    for answered in join_all((0..100).map(|_| hubs.call(&call, WRITES))).await {
        assert_eq!(answered.unwrap().result.unwrap().to_json(), json!({"status": "ok", "text": "hi"}));
    }
}

// ---- hubs that fail before anything is run

#[tokio::test]
async fn a_dead_hub_is_passed_over_and_then_left_alone() {
    let (dead, alive) = (nobody().await, Hub::start(Options::default()).await);
    let hubs = hubs(&[&dead, &url(&alive)]);
    let answered = hubs.call(&echo(), WRITES).await.unwrap();
    assert_eq!(answered.hub, url(&alive));
    let reason = "Connection refused (os error 111)".to_owned();
    assert_eq!(answered.passed_over, [PassedOver { hub: dead.clone(), why: Why::Unreachable(reason) }]);
    // Now somebody listens there, but the hub is still set aside.
    let revived = TcpListener::bind(dead.trim_start_matches("http://")).await.unwrap();
    assert_eq!(hubs.call(&echo(), WRITES).await.unwrap().hub, url(&alive));
    assert!(futures_util::poll!(std::pin::pin!(revived.accept())).is_pending(), "it was not asked again at once");
}

#[tokio::test]
async fn where_no_hub_answers_the_caller_hears_why_of_each() {
    let (full, _busy) = held(roomy(1).await).await;
    let locked = Options { token: Token::new("correct-horse-battery").ok(), ..Options::default() };
    let locked = Hub::start(locked).await;
    let (dead, page) = (nobody().await, Fake::start(Fake::PAGE, Process::Closes).await);
    let hubs = hubs(&[&dead, &url(&full), &url(&locked), &page.url]);
    let error = hubs.call(&echo(), WRITES).await.unwrap_err();
    let names = [(&dead, "dead"), (&url(&full), "full"), (&url(&locked), "locked"), (&page.url, "page")];
    let text = names.iter().fold(error.to_string(), |text, (url, name)| text.replace(*url, name));
    assert_snapshot!(text, @"no hub answers: dead cannot be reached (Connection refused (os error 111)); locked refused the call (401: this hub wants its token: send `Authorization: Bearer …`); page does not answer like a hub (200 OK); full is busy");
}

#[tokio::test]
async fn a_hub_that_is_stopping_is_passed_over() {
    let (mut stopping, other) = (Hub::start(Options::default()).await, Hub::start(Options::default()).await);
    let only = hubs(&[&url(&stopping)]);
    only.call(&echo(), WRITES).await.unwrap(); // there is a connection now, and it is kept
    let mut busy = stopping.connect().await;
    busy.send("POST", "/process", &[], STALL).await;
    stopping.told("running").await;
    stopping.shutdown.cancel();
    stopping.stopped_listening().await;
    let why = [PassedOver { hub: url(&stopping), why: Why::Draining }];
    assert_eq!(only.call(&echo(), WRITES).await, Err(HubError::NoneAnswers { passed_over: why.to_vec() }));
    let both = hubs(&[&url(&stopping), &url(&other)]);
    assert_eq!(both.call(&echo(), WRITES).await.unwrap().hub, url(&other));
}

#[tokio::test]
async fn a_hub_that_does_not_say_how_it_is_is_not_waited_for() {
    let (silent, other) = (Fake::start(None, Process::Closes).await, Hub::start(Options::default()).await);
    let answered = within(hubs(&[&silent.url, &url(&other)]).call(&echo(), WRITES)).await.unwrap();
    assert_eq!(answered.passed_over, [PassedOver { hub: silent.url.clone(), why: Why::Slow }]);
    assert_eq!(silent.calls.load(SeqCst), 0);
}

#[tokio::test]
async fn the_token_is_sent() {
    let token = "correct-horse-battery";
    let hub = Hub::start(Options { token: Token::new(token).ok(), ..Options::default() }).await;
    let hubs = Hubs::new([url(&hub)], Some(token.to_owned())).unwrap();
    hubs.call(&echo(), WRITES).await.unwrap();
}

// ---- hubs that fail when something may have run

#[tokio::test]
async fn a_call_that_may_have_run_is_not_made_again_unless_that_does_no_harm() {
    let other = Hub::start(Options::default()).await;
    for (process, why) in [
        (Process::Closes, "broke off (connection closed before message completed)"),
        (Process::Says("502 Bad Gateway", "<html>"), "refused the call (502: 502 Bad Gateway)"),
        (Process::Says("503 Service Unavailable", "<html>"), "refused the call (503: 503 Service Unavailable)"),
        (Process::Says("200 OK", "<html>"), "does not answer like a hub (200 OK)"),
        (Process::Says("200 OK", r#"{"status":"error","code":"cancelled"}"#), "stopped while the call ran"),
        (Process::Silent, "did not answer within 1s"),
    ] {
        let failing = Fake::start(Fake::WELL, process).await;
        let pair = || hubs(&[&failing.url, &url(&other)]).with_margin(Duration::ZERO);
        // Only the hub that never answers is given so little time; it must have read the call by then.
        let call = match process {
            Process::Silent => Call { deadline: Some(Duration::from_secs(1)), ..echo() },
            _ => echo(),
        };
        let error = within(pair().call(&call, WRITES)).await.unwrap_err();
        let expected = format!("{} {why}: the call may have run there, so it was not made again", failing.url);
        assert_eq!(error.to_string(), expected);
        assert_eq!(failing.calls.load(SeqCst), 1, "{why}");
        match within(pair().call(&call, READS)).await {
            Ok(answered) => assert_eq!(answered.hub, url(&other), "{why}"),
            Err(error) => assert!(matches!(error, HubError::NoneAnswers { .. }), "{error}"),
        }
        assert_eq!(failing.calls.load(SeqCst), 2, "{why}");
    }
}

#[tokio::test]
async fn a_hub_that_refuses_a_call_without_running_it_leaves_it_to_the_next() {
    let other = Hub::start(Options::default()).await;
    for process in [
        Process::Says("503 Service Unavailable", r#"{"status":"error","code":"busy","message":"later"}"#),
        Process::Says("413 Payload Too Large", r#"{"status":"error","code":"too_large","message":"too large"}"#),
        Process::Says("307 Temporary Redirect", "{}"),
    ] {
        let failing = Fake::start(Fake::WELL, process).await;
        let answered = within(hubs(&[&failing.url, &url(&other)]).call(&echo(), WRITES)).await.unwrap();
        assert_eq!((answered.hub, answered.passed_over.len()), (url(&other), 1));
    }
}

// ---- the executor

#[tokio::test]
async fn without_a_hub_the_tool_runs_here_and_that_is_said() {
    let here = Here::new();
    let dead = nobody().await;
    let executor = here.executor(&[&dead]);
    let (answer, place) = executor.call(echo(), here.context()).await;
    assert_eq!(Value::Object(answer.unwrap().value), json!({"text": "hi"}));
    assert_eq!(
        place.to_string(),
        format!("here, because {dead} cannot be reached (Connection refused (os error 111))")
    );
    let (_, place) = Executor::Local(Arc::clone(&here.calls)).call(echo(), here.context()).await;
    assert_eq!(place.to_string(), "here");
}

#[tokio::test]
async fn a_hub_answers_as_if_the_tool_were_here() {
    let (here, hub) = (Here::new(), Hub::start(Options::default()).await);
    let executor = here.executor(&[&url(&hub)]);
    for arguments in [json!({"text": "hi"}), json!({"text": 1})] {
        let call = Call { arguments, ..echo() };
        let (there, place) = executor.call(call.clone(), here.context()).await;
        let (local, _) = Executor::Local(Arc::clone(&here.calls)).call(call, here.context()).await;
        assert_eq!(there, local);
        assert_eq!(place, Place::Hub { hub: url(&hub), passed_over: Vec::new() });
    }
}

#[tokio::test]
async fn a_tool_that_the_hub_lacks_runs_here() {
    let here = Here::new();
    let unknown = r#"{"status":"error","code":"unknown_tool","message":"Unknown tool \"echo\""}"#;
    let old = Fake::start(Fake::WELL, Process::Says("200 OK", unknown)).await;
    let (answer, place) = here.executor(&[&old.url]).call(echo(), here.context()).await;
    assert!(answer.is_ok());
    assert_eq!(place.to_string(), format!("here, because {} has no such tool", old.url));
}

#[tokio::test]
async fn a_call_that_may_have_run_at_a_hub_is_not_run_here() {
    let here = Here::new();
    let failing = Fake::start(Fake::WELL, Process::Closes).await;
    let call = Call { tool: "not_here".to_owned(), ..echo() };
    let (answer, place) = here.executor(&[&failing.url]).call(call, here.context()).await;
    let detail = Map::from_iter([("may_have_run".to_owned(), Value::Bool(true))]);
    let error = answer.unwrap_err();
    assert!(error.to_json().as_object().unwrap().iter().any(|member| detail.iter().any(|known| member == known)));
    assert_eq!(place, Place::Hub { hub: failing.url.clone(), passed_over: Vec::new() });
}

#[tokio::test]
async fn a_caller_who_withdraws_ends_the_call_at_the_hub() {
    let (here, mut hub) = (Here::new(), Hub::start(Options::default()).await);
    let executor = here.executor(&[&url(&hub)]);
    let context = here.context();
    let ((answer, _), ()) = tokio::join!(executor.call(stall(), context.clone()), async {
        hub.told("running").await;
        context.cancel.cancel();
    });
    assert_eq!(answer, Err(skep_tools::error::ToolError::Cancelled));
    hub.told("given up").await;
}

/// A process with one tool.
struct Here {
    calls: Arc<Calls>,
    directory: tempfile::TempDir,
}

impl Here {
    fn new() -> Here {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::open(directory.path()).unwrap();
        let calls = Arc::new(Calls::within(Catalogue::new([Tool::new(Echo)]), dir.clone(), dir));
        Here { calls, directory }
    }

    fn executor(&self, urls: &[&str]) -> Executor {
        Executor::Hubs { hubs: Arc::new(hubs(urls)), fallback: Arc::clone(&self.calls) }
    }

    fn context(&self) -> Context {
        let dir = Dir::open(self.directory.path()).unwrap();
        Context::new(
            skep_hub::hub::principals::local().permit().unwrap(),
            dir.clone(),
            Outputs::new(dir, ""),
            CancellationToken::new(),
        )
    }
}

/// A hub whose only turn is taken.
async fn held(mut hub: Hub) -> (Hub, Connection) {
    let mut connection = hub.connect().await;
    connection.send("POST", "/process", &[], STALL).await;
    hub.told("running").await;
    (hub, connection)
}

/// A server that answers as a test wants it: what no real hub would do.
struct Fake {
    url: String,
    /// Requests of `POST /process` that came.
    calls: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy)]
enum Process {
    Closes,
    Silent,
    Says(&'static str, &'static str),
}

impl Fake {
    const WELL: Option<&'static str> = Some(r#"{"status":"healthy","calls_running":0,"calls_at_once":64}"#);
    const PAGE: Option<&'static str> = Some("<html>It works!</html>");

    async fn start(health: Option<&'static str>, process: Process) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let (mut tasks, counted) = (JoinSet::new(), Arc::clone(&calls));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, health, process, Arc::clone(&counted)));
            }
        });
        Fake { url, calls, _tasks: tasks }
    }
}

async fn serve(mut stream: TcpStream, health: Option<&str>, process: Process, calls: Arc<AtomicUsize>) {
    loop {
        let Some(request) = request(&mut stream).await else { return };
        let (status, body) = match (request.starts_with("GET /health "), process) {
            (true, _) => match health {
                Some(health) => ("200 OK", health),
                None => std::future::pending().await,
            },
            (false, process) => {
                calls.fetch_add(1, SeqCst);
                match process {
                    Process::Closes => return,
                    Process::Silent => std::future::pending().await,
                    Process::Says(status, body) => (status, body),
                }
            }
        };
        let answer = format!("HTTP/1.1 {status}\r\nlocation: /\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// One whole request.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if matches!(stream.read_buf(&mut bytes).await, Ok(0) | Err(_)) {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
