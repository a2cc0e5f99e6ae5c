//! The client against servers of every kind: well-behaved ones of ours, and scripted ones that are not.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    http::{HeaderMap, Method, StatusCode},
    response::IntoResponse as _,
};
use futures_util::future::BoxFuture;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use skep_mcp::{
    client::{CallError, CallOptions, Connection, Dial, Handler, Limits, Setup, Streams, Target},
    message::{ErrorObject, Notification, Request},
    revision::Revision,
    server::{self, Call, Caller, Change, Description, Members, Outcome, Peer, Server, Service, Watch, http, lines},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream},
    sync::{Barrier, Notify, broadcast, mpsc, oneshot},
    task::JoinSet,
};

/// What a scripted server does with a message; nothing more after `None`.
type Script = Box<dyn FnMut(Value) -> Option<Vec<Value>> + Send>;

/// Scripted servers, one for each time that it is dialled.
struct Scripted {
    scripts: VecDeque<Script>,
    running: JoinSet<()>,
}

impl Scripted {
    fn new(scripts: impl IntoIterator<Item = Script>) -> Scripted {
        Scripted { scripts: scripts.into_iter().collect(), running: JoinSet::new() }
    }
}

impl Dial for Scripted {
    fn dial(&mut self) -> BoxFuture<'_, io::Result<Streams>> {
        Box::pin(async {
            let script = self.scripts.pop_front().ok_or_else(|| io::Error::other("no more servers"))?;
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            self.running.spawn(play(script, theirs));
            let (input, output) = tokio::io::split(ours);
            Ok(Streams { input: Box::new(input), output: Box::new(output) })
        })
    }
}

async fn play(mut script: Script, stream: DuplexStream) {
    let (input, mut output) = tokio::io::split(stream);
    let mut lines = BufReader::new(input).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(replies) = script(serde_json::from_str(&line).unwrap()) else { return };
        for reply in replies {
            // A text is sent as it is: malformed.
            let text = reply.as_str().map_or_else(|| reply.to_string(), str::to_owned);
            if output.write_all(format!("{text}\n").as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn script(script: impl FnMut(Value) -> Option<Vec<Value>> + Send + 'static) -> Script {
    Box::new(script)
}

fn setup(revision: Option<Revision>) -> Setup {
    // Long enough for an answer on a busy machine; who is silent costs a test as much.
    let limits = Limits {
        probe_time_max: Duration::from_secs(1),
        silence_time_max: Duration::from_secs(1),
        ..Limits::default()
    };
    let info = json!({ "name": "test", "version": "1" });
    Setup { info, capabilities: json!({ "roots": {} }), handler: Arc::new(()), limits, revision }
}

fn result(message: &Value, result: Value) -> Option<Vec<Value>> {
    Some(vec![json!({ "jsonrpc": "2.0", "id": message["id"], "result": result })])
}

fn error(message: &Value, code: i64) -> Option<Vec<Value>> {
    Some(vec![json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": code, "message": "no" } })])
}

fn discovered() -> Value {
    json!({ "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {} })
}

fn initialized() -> Value {
    json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": { "name": "old", "version": "1" } })
}

/// Answers `initialize`, and says nothing to what it does not know.
fn older() -> Script {
    script(|message| match message["method"].as_str() {
        Some("initialize") => result(&message, initialized()),
        Some("echo") => result(&message, message["params"].clone()),
        _ => Some(Vec::new()),
    })
}

fn raw(value: &Value) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

async fn open(scripts: impl IntoIterator<Item = Script>) -> (Result<Connection, CallError>, Scripted) {
    let mut dial = Scripted::new(scripts);
    (Connection::over_lines(&mut dial, setup(None)).await, dial)
}

#[tokio::test]
async fn whatever_an_older_server_does_with_the_question_it_is_connected_to() {
    let dies = || script(|_| None);
    let is_silent_for_ever = || script(|_| Some(Vec::new()));
    let refuses = |code| {
        script(move |message| match message["method"].as_str() {
            Some("initialize") => result(&message, initialized()),
            _ if message["id"].is_null() => Some(Vec::new()),
            _ => error(&message, code),
        })
    };
    let holds_to_the_first = script(|message| error(&message, -32600));
    for (what, scripts, left) in [
        ("dies", vec![dies(), older()], 0),
        ("is silent, then answers", vec![older(), dies()], 1),
        ("is silent for ever", vec![is_silent_for_ever(), older()], 0),
        ("refuses", vec![refuses(-32601), dies()], 1),
        ("names other versions", vec![refuses(-32022), dies()], 1),
        ("holds to the era of the first message", vec![holds_to_the_first, older()], 0),
    ] {
        let (connection, dial) = open(scripts).await;
        let connection = connection.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(connection.info().revision, Revision::V2025_06_18, "{what}");
        assert_eq!(dial.scripts.len(), left, "{what}");
    }
    let (connection, _) = open([dies(), dies()]).await;
    assert!(matches!(connection, Err(CallError::Closed(_))), "who does not live cannot be connected to");
}

#[tokio::test]
async fn a_late_answer_of_a_newer_server_counts() {
    let mut asked = None;
    let late = script(move |message| match message["method"].as_str() {
        Some("server/discover") => {
            asked = Some(message);
            Some(Vec::new())
        }
        Some("initialize") => result(asked.as_ref().unwrap(), discovered()),
        _ => Some(Vec::new()),
    });
    let (connection, dial) = open([late]).await;
    assert_eq!(connection.unwrap().info().revision, Revision::V2026_07_28);
    assert!(dial.scripts.is_empty());
}

#[tokio::test]
async fn a_server_that_refuses_a_revision_which_it_names_is_asked_once_more() {
    let refuses = |times: usize| {
        let mut left = times;
        script(move |message| match message["method"].as_str() {
            Some("server/discover") if left > 0 => {
                left -= 1;
                let data = json!({ "supported": ["2026-07-28"], "requested": "2026-07-28" });
                let error = json!({ "code": -32022, "message": "no", "data": data });
                Some(vec![json!({ "jsonrpc": "2.0", "id": message["id"], "error": error })])
            }
            Some("server/discover") => result(&message, discovered()),
            Some("initialize") => result(&message, initialized()),
            _ => Some(Vec::new()),
        })
    };
    for (times, revision) in [(1, Revision::V2026_07_28), (2, Revision::V2025_06_18)] {
        let (connection, dial) = open([refuses(times)]).await;
        assert_eq!(connection.unwrap().info().revision, revision, "it refused {times} times");
        assert!(dial.scripts.is_empty());
    }
}

#[tokio::test]
async fn an_older_server_never_sees_the_newer_eras_metadata() {
    let (connection, _dial) = open([older()]).await;
    let connection = connection.unwrap();
    let sent = Members::of(&json!({ "x": 1, "_meta": { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } }));
    let answer = connection.call("echo", sent, CallOptions::default()).await.unwrap();
    assert_eq!(answer.get(), r#"{"x":1}"#);
}

#[tokio::test]
async fn rubbish_harms_nobody_but_the_call_that_it_names() {
    let mut first = None;
    let chatty = script(move |message| match message["method"].as_str() {
        Some("initialize") => {
            let mut replies = vec![json!("Starting server…"), json!("{\"level\":\"info\"}"), json!("")];
            replies.extend(result(&message, initialized())?);
            Some(replies)
        }
        Some("first") => {
            first = Some(message["id"].clone());
            Some(Vec::new())
        }
        Some("second") => {
            // It withdraws a question of its own that has a number of ours.
            let withdrawn = json!({ "requestId": message["id"] });
            let mut replies = vec![
                json!("[]"),
                json!({ "jsonrpc": "2.0", "id": first, "results": "misspelt" }),
                json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": withdrawn }),
            ];
            replies.extend(result(&message, json!("fine"))?);
            Some(replies)
        }
        _ => Some(Vec::new()),
    });
    let (connection, _dial) = open([chatty]).await;
    let connection = connection.unwrap();
    let call = |method: &'static str| connection.call(method, Members::default(), CallOptions::default());
    let (first, second) = tokio::join!(call("first"), call("second"));
    assert!(matches!(first, Err(CallError::Protocol(_))), "{first:?}");
    assert_eq!(second.unwrap().get(), "\"fine\"");
}

#[tokio::test]
async fn calls_in_flight_fail_when_the_server_dies() {
    let dies = script(|message| match message["method"].as_str() {
        Some("initialize") => result(&message, initialized()),
        Some("die") => None,
        _ => Some(Vec::new()),
    });
    let (connection, _dial) = open([dies]).await;
    let connection = connection.unwrap();
    let call = |method: &'static str| connection.call(method, Members::default(), CallOptions::default());
    let (waits, dies) = tokio::join!(call("wait"), call("die"));
    assert!(matches!(waits, Err(CallError::Closed(_))) && matches!(dies, Err(CallError::Closed(_))));
    assert!(matches!(call("later").await, Err(CallError::Closed(_))));
    assert!(connection.reason().is_some());
}

/// Collects what a server sends, and answers its requests.
struct Ear(mpsc::UnboundedSender<String>);

impl Handler for Ear {
    fn notification(&self, notification: Notification) {
        let params = notification.params.map_or(String::new(), |params| params.to_string());
        let _ = self.0.send(format!("{} {params}", notification.method));
    }

    fn request(&self, request: Request) -> BoxFuture<'static, Result<Box<RawValue>, ErrorObject>> {
        let _ = self.0.send(request.method.into_owned());
        Box::pin(async { Ok(raw(&json!({ "roots": [] })).unwrap()) })
    }
}

#[tokio::test]
async fn what_a_server_sends_within_a_call_comes_to_the_call() {
    let (mut call, mut answers) = (Value::Null, 0);
    let asks = script(move |message| match message["method"].as_str() {
        Some("initialize") => result(&message, initialized()),
        Some("work") => {
            call = message.clone();
            let token = &message["params"]["_meta"]["progressToken"];
            Some(vec![
                json!({ "jsonrpc": "2.0", "method": "notifications/progress",
                    "params": { "progressToken": token, "progress": 1 } }),
                json!({ "jsonrpc": "2.0", "id": "s1", "method": "ping" }),
                json!({ "jsonrpc": "2.0", "id": "s2", "method": "roots/list" }),
            ])
        }
        None => {
            answers += 1;
            if answers == 2 { result(&call, message["result"].clone()) } else { Some(Vec::new()) }
        }
        _ => Some(Vec::new()),
    });
    let (connection, _dial) = open([asks]).await;
    let connection = connection.unwrap();
    let (ear, mut heard) = mpsc::unbounded_channel();
    let options = CallOptions { wants_progress: true, handler: Some(Arc::new(Ear(ear))), ..CallOptions::default() };
    let params = Members::of(&json!({ "_meta": { "progressToken": "the caller's" } }));
    let answer = connection.call("work", params, options).await.unwrap();
    assert_eq!(answer.get(), r#"{"roots":[]}"#);
    assert!(heard.recv().await.unwrap().starts_with("notifications/progress "));
    assert_eq!(heard.recv().await.unwrap(), "roots/list");
}

#[tokio::test]
async fn a_call_that_is_given_up_is_withdrawn() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let hangs = script(move |message| match message["method"].as_str() {
        Some("initialize") => result(&message, initialized()),
        _ => {
            let _ = tell.send(message);
            Some(Vec::new())
        }
    });
    let (connection, _dial) = open([hangs]).await;
    let connection = connection.unwrap();
    let options = CallOptions { timeout: Duration::from_millis(50), ..CallOptions::default() };
    let answer = connection.call("hang", Members::default(), options).await;
    assert!(matches!(answer, Err(CallError::TimedOut(_))));
    let mut request = told.recv().await.unwrap();
    while request["method"] != "hang" {
        request = told.recv().await.unwrap();
    }
    let withdrawn = told.recv().await.unwrap();
    assert_eq!(withdrawn["method"], "notifications/cancelled");
    assert_eq!(withdrawn["params"]["requestId"], request["id"]);
}

/// A server of ours.
struct Echo {
    changes: broadcast::Sender<Change>,
    dropped: Arc<Notify>,
}

impl Echo {
    fn new() -> Arc<Echo> {
        Arc::new(Echo { changes: broadcast::channel(16).0, dropped: Arc::default() })
    }
}

/// Rings when it is dropped.
struct Ring(Arc<Notify>);

impl Drop for Ring {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Service for Echo {
    fn describe(&self) -> Description {
        Description {
            info: json!({ "name": "echo", "version": "1" }),
            capabilities: json!({ "tools": { "listChanged": true }, "resources": { "subscribe": true } }),
            instructions: Some("Speak.".to_owned()),
        }
    }

    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> server::BoxFuture<Outcome> {
        Box::pin(async move {
            let params = serde_json::to_value(&call.params).unwrap();
            if call.method == "tools/list" {
                let marked = json!({ "type": "string", "x-mcp-header": "Region" });
                let schema = json!({ "type": "object", "properties": { "region": marked } });
                let faulty = json!({ "type": "object", "properties": { "a": { "x-mcp-header": "two words" } } });
                let tools =
                    [json!({ "name": "echo", "inputSchema": schema }), json!({ "name": "no", "inputSchema": faulty })];
                return Ok(raw(&json!({ "tools": tools })).unwrap());
            }
            match params["name"].as_str().unwrap_or_default() {
                "hang" => {
                    let _ring = Ring(Arc::clone(&self.dropped));
                    peer.progress(1.0, None, Some("hanging"));
                    std::future::pending().await
                }
                "fail" => Err(ErrorObject::new(-32602, "no such tool")),
                _ => Ok(raw(&json!({ "content": [], "heard": params["arguments"] })).unwrap()),
            }
        })
    }

    fn watch(self: Arc<Self>, _: String, _: Arc<Caller>) -> server::BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async { Ok(Box::new(()) as Watch) })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn header_arguments(&self, tool: &str) -> Vec<server::headers::HeaderArgument> {
        let named =
            |name: &str| server::headers::HeaderArgument { name: name.to_owned(), path: vec!["region".to_owned()] };
        if tool == "echo" { vec![named("Region")] } else { Vec::new() }
    }
}

/// Serve a router on a port of its own.
async fn listen(router: axum::Router, serving: &mut JoinSet<()>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

fn target(url: &str, is_sse: bool) -> Target {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (url, headers) = (url.parse().unwrap(), reqwest::header::HeaderMap::new());
    Target { url, headers, client, authorization: None, is_sse, is_direct: true }
}

/// A stream to a server of ours.
struct Served(Server, JoinSet<()>);

impl Dial for Served {
    fn dial(&mut self) -> BoxFuture<'_, io::Result<Streams>> {
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let server = self.0.clone();
            self.1.spawn(async move {
                let (input, output) = tokio::io::split(theirs);
                let _ = lines::serve(&server, input, output, lines::Options::default()).await;
            });
            let (input, output) = tokio::io::split(ours);
            Ok(Streams { input: Box::new(input), output: Box::new(output) })
        })
    }
}

#[tokio::test]
async fn every_transport_and_era_gives_the_same_answers() {
    let echo = Echo::new();
    let server = Server::new(Arc::clone(&echo) as Arc<dyn Service>, server::Limits::default());
    let mut serving = JoinSet::new();
    let url = listen(http::router(server.clone()), &mut serving).await;
    let older = Some(Revision::V2025_11_25);
    let mut served = Served(server, JoinSet::new());
    let mcp = format!("{url}/mcp");
    let mut heard = Vec::new();
    let mut with_ear = |revision| {
        let (ear, hears) = mpsc::unbounded_channel();
        heard.push(hears);
        Setup { handler: Arc::new(Ear(ear)), ..setup(revision) }
    };
    let connections = [
        Connection::over_lines(&mut served, with_ear(None)).await.unwrap(),
        Connection::over_lines(&mut served, with_ear(older)).await.unwrap(),
        Connection::over_http(target(&mcp, false), with_ear(None)).await.unwrap(),
        Connection::over_http(target(&mcp, false), with_ear(older)).await.unwrap(),
        Connection::over_http(target(&format!("{url}/sse"), true), with_ear(None)).await.unwrap(),
    ];
    let modern: Vec<bool> = connections.iter().map(|one| one.info().revision.is_modern()).collect();
    assert_eq!(modern, [true, false, true, false, false]);
    for (number, connection) in connections.iter().enumerate() {
        let call = |name: &str| {
            let params = Members::of(&json!({ "name": name, "arguments": { "region": "größe " } }));
            connection.call("tools/call", params, CallOptions::default())
        };
        assert_eq!(connection.info().instructions.as_deref(), Some("Speak."), "{number}");
        // Marked arguments go into headers, once the tools are known.
        let tools = connection.call("tools/list", Members::default(), CallOptions::default()).await.unwrap();
        assert!(tools.get().contains("x-mcp-header"), "{number}");
        // One with a mark that is no header's name cannot be called where there are such headers.
        let is_modern_http = number == 2;
        assert_eq!(tools.get().contains("two words"), !is_modern_http, "{number}");
        let answer: Value = serde_json::from_str(call("echo").await.unwrap().get()).unwrap();
        assert_eq!(answer["heard"]["region"], "größe ", "{number}");
        assert!(matches!(call("fail").await, Err(CallError::Rpc(ErrorObject { code: -32602, .. }))), "{number}");
        // Given up, it is withdrawn, in whatever way the transport has.
        let (ear, mut progress) = mpsc::unbounded_channel();
        let options = CallOptions { wants_progress: true, handler: Some(Arc::new(Ear(ear))), ..CallOptions::default() };
        let hanging = connection.call("tools/call", Members::of(&json!({ "name": "hang" })), options);
        tokio::select! {
            answer = hanging => panic!("{number}: {answer:?}"),
            heard = progress.recv() => assert!(heard.unwrap().contains("hanging"), "{number}"),
        }
        let dropped = tokio::time::timeout(Duration::from_secs(10), echo.dropped.notified()).await;
        assert!(dropped.is_ok(), "{number}: the server was not told");
    }
    // Each hears of changes. Listeners are opened in the background, so it is said until it is heard.
    for (number, heard) in heard.iter_mut().enumerate() {
        let telling = async {
            loop {
                let _ = echo.changes.send(Change::Tools);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            heard = heard.recv() => assert!(heard.unwrap().contains("tools/list_changed"), "{number}"),
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("{number}: nothing was heard"),
            () = telling => {}
        }
    }
    for connection in connections {
        connection.close("enough").await;
        let answer = connection.call("tools/list", Members::default(), CallOptions::default()).await;
        assert!(matches!(answer, Err(CallError::Closed(_))));
    }
}

#[tokio::test]
async fn a_session_that_the_server_has_forgotten_is_opened_again_once_and_deleted_in_the_end() {
    let (sessions, deleted) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (opened, ended) = (Arc::clone(&sessions), Arc::clone(&deleted));
    let handle = move |method: Method, headers: HeaderMap, body: String| {
        let (opened, ended) = (Arc::clone(&opened), Arc::clone(&ended));
        async move {
            let session = headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
            if method == Method::DELETE {
                ended.lock().unwrap().push(session.unwrap());
                return StatusCode::NO_CONTENT.into_response();
            }
            let Ok(message) = serde_json::from_str::<Value>(&body) else {
                return StatusCode::METHOD_NOT_ALLOWED.into_response();
            };
            let answer = |result: Value| axum::Json(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }));
            match (message["method"].as_str().unwrap(), session.as_deref()) {
                ("server/discover", _) => StatusCode::BAD_REQUEST.into_response(),
                ("initialize", _) => {
                    let number = opened.fetch_add(1, Ordering::SeqCst) + 1;
                    ([("mcp-session-id", format!("s{number}"))], answer(initialized())).into_response()
                }
                ("notifications/initialized", _) => StatusCode::ACCEPTED.into_response(),
                (_, Some("s1")) => StatusCode::NOT_FOUND.into_response(),
                (_, session) => answer(json!(session)).into_response(),
            }
        }
    };
    let mut serving = JoinSet::new();
    let url = listen(axum::Router::new().fallback(handle), &mut serving).await;
    let connection = Connection::over_http(target(&url, false), setup(None)).await.unwrap();
    let call = || connection.call("where", Members::default(), CallOptions::default());
    let (one, two) = tokio::join!(call(), call());
    assert_eq!((one.unwrap().get(), two.unwrap().get()), ("\"s2\"", "\"s2\""));
    assert_eq!(sessions.load(Ordering::SeqCst), 2);
    connection.close("enough").await;
    assert_eq!(*deleted.lock().unwrap(), ["s2"]);
}

/// An ear of somebody.
struct Of(&'static str, Ear);

impl Handler for Of {
    fn notification(&self, notification: Notification) {
        self.1.notification(notification);
    }

    fn request(&self, request: Request) -> BoxFuture<'static, Result<Box<RawValue>, ErrorObject>> {
        self.1.request(request)
    }

    fn principal(&self) -> &str {
        self.0
    }
}

/// A server with a session, whose calls of tools say nothing on their own streams: what it says meanwhile comes on the
/// session's. It asks something within each call, and answers the call with the answer.
struct Aside {
    /// What is said on the session's stream.
    say: mpsc::UnboundedSender<String>,
    said: Mutex<Option<mpsc::UnboundedReceiver<String>>>,
    /// Calls that wait for an answer, by the id of the question.
    waiting: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    /// Two calls `meet` before they ask, and before they are answered.
    meeting: Barrier,
}

impl Aside {
    fn new() -> Arc<Aside> {
        let (say, said) = mpsc::unbounded_channel();
        Arc::new(Aside { say, said: Mutex::new(Some(said)), waiting: Mutex::default(), meeting: Barrier::new(2) })
    }

    async fn handle(self: Arc<Self>, method: Method, body: String) -> axum::response::Response {
        if method == Method::GET {
            tokio::time::sleep(Duration::from_millis(50)).await; // a call that does not wait for it comes before it
            let said = self.said.lock().unwrap().take().unwrap();
            let events = futures_util::stream::unfold(said, async |mut said| {
                let message = said.recv().await?;
                Some((Ok::<_, io::Error>(format!("data: {message}\n\n")), said))
            });
            return ([("content-type", "text/event-stream")], axum::body::Body::from_stream(events)).into_response();
        }
        let Ok(message) = serde_json::from_str::<Value>(&body) else { return StatusCode::OK.into_response() };
        let answer = |result: Value| axum::Json(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }));
        match message["method"].as_str() {
            Some("server/discover") => StatusCode::BAD_REQUEST.into_response(),
            Some("initialize") => ([("mcp-session-id", "s1")], answer(initialized())).into_response(),
            Some(method @ ("work" | "meet")) => {
                if self.said.lock().unwrap().is_some() {
                    return (StatusCode::CONFLICT, "nobody listens yet").into_response();
                }
                let meets = method == "meet";
                if meets {
                    self.meeting.wait().await;
                }
                let (tell, told) = oneshot::channel();
                let id = format!("question of {}", message["id"]);
                self.waiting.lock().unwrap().insert(id.clone(), tell);
                let token = &message["params"]["_meta"]["progressToken"];
                for said in [
                    json!({ "jsonrpc": "2.0", "method": "notifications/progress",
                        "params": { "progressToken": token, "progress": 1 } }),
                    json!({ "jsonrpc": "2.0", "method": "notifications/message",
                        "params": { "level": "info", "data": "working" } }),
                    json!({ "jsonrpc": "2.0", "id": id, "method": "roots/list" }),
                ] {
                    self.say.send(said.to_string()).unwrap();
                }
                let told = told.await.unwrap();
                if meets {
                    self.meeting.wait().await;
                }
                answer(told).into_response()
            }
            None => {
                let waiting = self.waiting.lock().unwrap().remove(message["id"].as_str().unwrap()).unwrap();
                let code = &message["error"]["code"];
                waiting.send(if code.is_null() { message["result"].clone() } else { code.clone() }).unwrap();
                StatusCode::ACCEPTED.into_response()
            }
            _ => StatusCode::ACCEPTED.into_response(),
        }
    }
}

#[tokio::test]
async fn what_comes_on_the_sessions_stream_within_a_call_comes_to_the_call_unless_it_may_be_anothers() {
    let server = Aside::new();
    let handling = Arc::clone(&server);
    let router = axum::Router::new().fallback(move |method, body| Arc::clone(&handling).handle(method, body));
    let mut serving = JoinSet::new();
    let url = listen(router, &mut serving).await;
    let connection = Connection::over_http(target(&url, false), setup(None)).await.unwrap();
    let call = |principal, method| {
        let (ear, heard) = mpsc::unbounded_channel();
        let handler: Arc<dyn Handler> = Arc::new(Of(principal, Ear(ear)));
        let options = CallOptions { wants_progress: true, handler: Some(handler), ..CallOptions::default() };
        (connection.call(method, Members::default(), options), heard)
    };
    let (alone, mut heard) = call("one", "work");
    assert_eq!(alone.await.unwrap().get(), r#"{"roots":[]}"#);
    for what in ["notifications/progress", "notifications/message", "roots/list"] {
        assert!(heard.recv().await.unwrap().starts_with(what), "{what}");
    }
    // Of two callers nobody knows who is asked; progress says whose it is.
    let [(one, mut first), (two, mut second)] = ["one", "two"].map(|principal| call(principal, "meet"));
    let (one, two) = tokio::join!(one, two);
    for (answer, heard) in [(one, &mut first), (two, &mut second)] {
        assert_eq!(answer.unwrap().get(), "-32601");
        assert!(heard.recv().await.unwrap().starts_with("notifications/progress "));
        assert_eq!(heard.try_recv().ok(), None);
    }
}

/// Answers each request with a stream of one event, on as many connections as are made.
async fn serve_streams(listener: tokio::net::TcpListener, connections: Arc<AtomicUsize>) {
    let mut serving = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        serving.spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut length = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap() == 0 {
                    return;
                }
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line != "\r\n" {
                    continue;
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                let message: Value = serde_json::from_slice(&body).unwrap();
                let answer = if message["method"] == "server/discover" { discovered() } else { json!({ "n": 1 }) };
                let event = format!("data: {}\n\n", result(&message, answer).unwrap()[0]);
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                let text = format!("{head}{:x}\r\n{event}\r\n0\r\n\r\n", event.len());
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
    }
}

#[tokio::test]
async fn a_server_that_answers_with_streams_is_asked_on_the_same_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let mut serving = JoinSet::new();
    serving.spawn(serve_streams(listener, Arc::clone(&connections)));
    let connection = Connection::over_http(target(&url, false), setup(None)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(
            connection.call("count", Members::default(), CallOptions::default()).await.unwrap().get(),
            r#"{"n":1}"#
        );
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}
