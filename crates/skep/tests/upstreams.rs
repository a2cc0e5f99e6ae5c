//! The pool of MCP servers, with real processes that behave badly.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json, value::RawValue};
use skep_hub::{
    config::servers::{Command, Tools, Transport, Upstream},
    hub::{
        principals,
        upstreams::{Options, Restarts, State, UpstreamError, Upstreams},
    },
};
use skep_mcp::{client::CallError, server::Members};

/// A server of an older revision. Its arguments say how it misbehaves; a directory tells what it does.
const SERVER: &str = r#"
import json, os, signal, subprocess, sys, threading, time
mode, here = sys.argv[1], sys.argv[2]
def note(name, text=""):
    with open(os.path.join(here, name + ".new"), "w") as file: file.write(text)
    os.rename(os.path.join(here, name + ".new"), os.path.join(here, name))
lock = threading.Lock()
def send(message):
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()
with open(os.path.join(here, "starts"), "a") as file: file.write(f"{os.getpid()}\n")
print("Hello from standard error", file=sys.stderr, flush=True)
if mode == "broken":
    print("cannot find my key", file=sys.stderr, flush=True)
    sys.exit(3)
if mode == "children":
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    same = subprocess.Popen(sleep, stdin=subprocess.DEVNULL)
    away = subprocess.Popen(sleep, stdin=subprocess.DEVNULL, start_new_session=True)
    note("children", f"{same.pid} {away.pid}")
if mode == "rubbish": print("starting…\n{]")
if mode == "mute": time.sleep(600)
if mode == "stubborn": signal.signal(signal.SIGTERM, signal.SIG_IGN)
def flood():
    while True:
        send({"method": "notifications/message", "params": {"level": "info", "data": "more"}})
        send({"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}})
        os.write(2, b"more and more\n" * 100)
for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
    if method == "initialize":
        send({"id": id, "result": {"protocolVersion": "2025-06-18", "serverInfo": {"name": "bad", "version": "1"},
            "capabilities": {"tools": {"listChanged": True}, "resources": {"subscribe": True}}}})
    elif method == "resources/subscribe":
        send({"id": id, "result": {}})
        with open(os.path.join(here, "watched"), "a") as file: file.write(params["uri"] + "\n")
    elif method == "resources/unsubscribe":
        send({"id": id, "result": {}})
    elif method == "tools/list":
        note("listed")
        page = int(params.get("cursor", "0"))
        result = {"tools": [{"name": f"t{page}", "x": 1.50, "inputSchema": {"type": "object"}}]}
        if mode == "hurried": result["ttlMs"] = 1
        if page < 2: result["nextCursor"] = str(page + 1)
        send({"id": id, "result": result})
    elif method == "tools/call":
        name = params["name"]
        if name == "pid": send({"id": id, "result": os.getpid()})
        elif name == "die":
            print("I cannot go on", file=sys.stderr, flush=True)
            os._exit(7)
        elif name == "hang": note("hangs")
        elif name == "freeze": time.sleep(600)
        elif name == "flood":
            threading.Thread(target=flood, daemon=True).start()
            note("floods")
        elif name == "huge": send({"id": id, "result": "x" * (33 << 20)})
        elif name == "half":
            sys.stdout.write('{"jsonrpc": "2.0", "id": ' + str(id) + ', "resu')
            sys.stdout.flush()
            os._exit(0)
        elif name == "change":
            send({"method": "notifications/tools/list_changed"})
            send({"id": id, "result": None})
        else: send({"id": id, "result": params.get("arguments")})
    elif id is not None and "method" in message:
        send({"id": id, "error": {"code": -32601, "message": "unknown"}})
note("ended")
if mode == "stubborn": time.sleep(600)
"#;

struct Fixture {
    here: tempfile::TempDir,
    upstreams: Upstreams,
}

fn server(mode: &str, here: &Path) -> Upstream {
    let args = ["-c", SERVER, mode, here.to_str().unwrap()].map(str::to_owned).to_vec();
    Upstream::new(
        "bad",
        Transport::Stdio(Command { program: "python3".to_owned(), args, env: BTreeMap::new(), cwd: None }),
    )
}

fn fixture(mode: &str, change: impl FnOnce(&mut Upstream)) -> Fixture {
    let here = tempfile::tempdir().unwrap();
    let mut config = server(mode, here.path());
    change(&mut config);
    Fixture { upstreams: Upstreams::new([config], None), here }
}

impl Fixture {
    async fn call(&self, tool: &str) -> Result<Box<RawValue>, UpstreamError> {
        self.call_as("", tool).await
    }

    async fn call_as(&self, caller: &str, tool: &str) -> Result<Box<RawValue>, UpstreamError> {
        let params = Members::of(&json!({ "name": tool, "arguments": { "said": 1.5 } }));
        let options = Options { caller: caller.into(), ..Options::default() };
        self.upstreams.call("bad", "tools/call", params, options).await
    }

    async fn pid(&self) -> i32 {
        self.call("pid").await.unwrap().get().parse().unwrap()
    }

    fn starts(&self) -> usize {
        std::fs::read_to_string(self.here.path().join("starts")).unwrap_or_default().lines().count()
    }

    /// Wait for what the server notes.
    async fn noted(&self, name: &str) -> String {
        let path = self.here.path().join(name);
        until(|| path.exists()).await;
        std::fs::read_to_string(path).unwrap()
    }
}

/// Wait until something is so; what is waited for has no signal of its own.
async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it never comes to be");
}

/// Whether there is such a process; one that nobody has waited for yet is none.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn forty_callers_share_one_process() {
    let fixture = fixture("rubbish", |_| ());
    let callers: Vec<String> = (0..40).map(|number| format!("caller {number}")).collect();
    let pids = join_all(callers.iter().map(|caller| fixture.call_as(caller, "pid"))).await;
    let pids: HashSet<String> = pids.into_iter().map(|pid| pid.unwrap().get().to_owned()).collect();
    assert_eq!((pids.len(), fixture.starts()), (1, 1));
    let status = fixture.upstreams.servers().remove(0);
    assert_eq!((status.state, status.in_flight, status.pids.len()), (State::Running, 0, 1));
    fixture.upstreams.close().await;
    fixture.noted("ended").await; // its input ended, and it had the time to see that
}

#[tokio::test]
async fn calls_fail_at_once_when_the_process_dies_and_the_next_one_starts_it_again() {
    let fixture = fixture("", |_| ());
    let first = fixture.pid().await;
    let die = async {
        fixture.noted("hangs").await;
        fixture.call("die").await
    };
    let (hang, die) = tokio::join!(fixture.call("hang"), die);
    for error in [hang.unwrap_err(), die.unwrap_err()] {
        assert!(matches!(error, UpstreamError::Call { error: CallError::Closed(_), .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("\"bad\"") && text.contains("exit status: 7") && text.contains("I cannot go on"),
            "{text}"
        );
    }
    assert_ne!(fixture.pid().await, first);
    // Twice in a row is too often to be started at once.
    fixture.call("die").await.unwrap_err();
    let error = fixture.call("pid").await.unwrap_err();
    assert!(matches!(&error, UpstreamError::Unavailable { retry_after, .. } if !retry_after.is_zero()), "{error}");
    assert!(error.to_string().contains("I cannot go on"), "{error}");
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn a_killed_process_costs_its_calls_alone() {
    let fixture = fixture("", |_| ());
    let pid = fixture.pid().await;
    let kill = async {
        fixture.noted("hangs").await;
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
    };
    let (hang, ()) = tokio::join!(fixture.call("hang"), kill);
    assert!(hang.unwrap_err().to_string().contains("signal: 9"));
    assert_ne!(fixture.pid().await, pid);
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn an_idle_server_is_stopped_but_none_that_works_and_the_next_call_starts_it() {
    let fixture = fixture("", |config| config.idle_time_max = Duration::from_millis(50));
    let pid = fixture.pid().await;
    until(|| !is_alive(pid)).await;
    assert_eq!(fixture.upstreams.servers()[0].state, State::Stopped);
    assert_eq!(fixture.upstreams.servers()[0].last_error, None);
    let pid = fixture.pid().await;
    let longer = async {
        fixture.noted("hangs").await;
        tokio::time::sleep(Duration::from_millis(300)).await; // six times as long as it may be idle
    };
    tokio::select! {
        answer = fixture.call("hang") => panic!("{answer:?}"),
        () = longer => assert!(is_alive(pid)),
    }
    until(|| !is_alive(pid)).await;
    assert_eq!(fixture.starts(), 2);
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn a_server_that_is_watched_is_not_idle_and_its_successor_is_told() {
    let fixture = fixture("", |config| config.idle_time_max = Duration::from_millis(50));
    fixture.upstreams.server("bad").unwrap().watch("test://a").await.unwrap();
    let pid = fixture.pid().await;
    tokio::time::sleep(Duration::from_millis(300)).await; // six times as long as it may be idle
    assert!(is_alive(pid));
    fixture.call("die").await.unwrap_err();
    fixture.pid().await;
    let watched = fixture.here.path().join("watched");
    until(|| std::fs::read_to_string(&watched).unwrap_or_default() == "test://a\ntest://a\n").await;
    fixture.upstreams.server("bad").unwrap().unwatch("test://a").await.unwrap();
    until(|| fixture.upstreams.servers()[0].state == State::Stopped).await;
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn everything_that_a_server_has_started_ends_with_it() {
    for how in ["closed", "died", "dropped"] {
        let fixture = fixture("children", |_| ());
        fixture.pid().await;
        let children = fixture.noted("children").await;
        let children: Vec<i32> = children.split(' ').map(|pid| pid.parse().unwrap()).collect();
        assert!(children.iter().all(|pid| is_alive(*pid)));
        match how {
            "closed" => fixture.upstreams.close().await,
            "died" => drop(fixture.call("die").await),
            _ => fixture.upstreams.remove("bad").await,
        }
        until(|| !children.iter().any(|pid| is_alive(*pid))).await;
    }
}

#[tokio::test]
async fn who_holds_a_server_that_was_removed_or_changed_does_not_start_it() {
    let fixture = fixture("", |_| ());
    let upstreams = &fixture.upstreams;
    let mut held = vec![upstreams.server("bad").unwrap()];
    upstreams.add(server("hurried", fixture.here.path())).await;
    held.push(upstreams.server("bad").unwrap());
    fixture.pid().await;
    upstreams.remove("bad").await;
    for server in held {
        let refused = server.call("tools/call", Members::of(&json!({ "name": "pid" })), Options::default()).await;
        assert!(matches!(refused, Err(UpstreamError::Unknown { .. })), "{refused:?}");
    }
    assert_eq!(fixture.starts(), 1, "the one that was there");
}

#[tokio::test]
async fn a_server_that_never_comes_up_says_why_and_is_not_tried_at_once() {
    let fixture = fixture("broken", |_| ());
    let errors = join_all((0..10).map(|_| fixture.call("pid"))).await;
    for error in errors {
        let text = error.unwrap_err().to_string();
        assert!(text.contains("cannot find my key") && text.contains("exit status: 3"), "{text}");
    }
    let starts = fixture.upstreams.servers()[0].starts;
    assert_eq!(starts, 1, "all who came meanwhile shared one start");
    fixture.call("pid").await.unwrap_err();
    let error = fixture.call("pid").await.unwrap_err().to_string();
    assert!(error.contains("it is started again in 1 s") && error.contains("cannot find my key"), "{error}");
    let status = fixture.upstreams.servers().remove(0);
    assert!(matches!(status.state, State::Waiting(_)) && status.starts == 2, "{status:?}");

    let nothing = Transport::Stdio(Command {
        program: "/no/such/program".to_owned(),
        args: Vec::new(),
        env: BTreeMap::new(),
        cwd: None,
    });
    fixture.upstreams.add(Upstream::new("nothing", nothing)).await;
    let error = fixture.upstreams.tools("nothing").await.unwrap_err().to_string();
    assert!(error.contains("/no/such/program not found"), "{error}");
    let error = fixture.upstreams.tools("bat").await.unwrap_err().to_string();
    assert!(error.contains("did you mean \"bad\"?"), "{error}");
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn a_server_that_fails_to_start_again_and_again_is_left_alone_until_somebody_says_otherwise() {
    let fixture = fixture("broken", |_| ());
    let mut starts = 0;
    let error = loop {
        let error = fixture.call("pid").await.unwrap_err();
        let UpstreamError::Unavailable { retry_after, .. } = &error else { panic!("{error}") };
        if matches!(fixture.upstreams.servers()[0].state, State::Quarantined(_)) {
            break fixture.call("pid").await.unwrap_err().to_string();
        }
        starts += 1;
        assert!(starts < 5, "{error}");
        tokio::time::sleep(*retry_after).await; // it is what the caller is told
    };
    assert!(error.contains("it failed to start 5 times in a row") && error.contains("cannot find my key"), "{error}");
    assert_eq!(fixture.upstreams.servers()[0].starts, 5);
    fixture.upstreams.restart("bad", &Restarts::All(principals::local().permit().unwrap())).await.unwrap();
    assert!(fixture.call("pid").await.unwrap_err().to_string().contains("it failed to start: "));
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn a_server_that_never_says_a_word_is_given_up_in_time() {
    let fixture = fixture("mute", |config| config.start_time_max = Duration::from_secs(1));
    let errors = join_all((0..5).map(|_| fixture.call("pid"))).await;
    for error in errors {
        assert!(matches!(error, Err(UpstreamError::Unavailable { .. })), "{error:?}");
    }
    let pids = std::fs::read_to_string(fixture.here.path().join("starts")).unwrap_or_default();
    until(|| !pids.lines().any(|pid| is_alive(pid.parse().unwrap()))).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_ended_and_one_that_is_slow_with_a_call_is_not() {
    let fixture = fixture("stubborn", |config| config.timeout = Duration::from_secs(2));
    let pid = fixture.pid().await;
    let slow = fixture.call("hang").await.unwrap_err();
    assert!(matches!(slow, UpstreamError::Call { error: CallError::TimedOut(_), .. }), "{slow}");
    assert_eq!(fixture.pid().await, pid, "it does say that it is alive");

    let frozen = fixture.call("freeze").await.unwrap_err();
    assert!(matches!(frozen, UpstreamError::Call { error: CallError::TimedOut(_), .. }), "{frozen}");
    until(|| !is_alive(pid)).await;
    let status = fixture.upstreams.servers().remove(0);
    assert!(status.last_error.as_ref().is_some_and(|error| error.contains("it hangs")), "{status:?}");
    assert_ne!(fixture.pid().await, pid);
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn a_server_that_minds_neither_the_end_of_its_input_nor_sigterm_is_killed() {
    let fixture = fixture("stubborn", |_| ());
    let pid = fixture.pid().await;
    fixture.upstreams.close().await;
    fixture.noted("ended").await; // it has seen the end of its input
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_flood_harms_no_other_server_and_ends_with_a_reason() {
    let fixture = fixture("", |_| ());
    let other = tempfile::tempdir().unwrap();
    fixture.upstreams.add(Upstream { name: "other".to_owned(), ..server("", other.path()) }).await;
    let pid = fixture.pid().await;
    let calls = async {
        fixture.noted("floods").await;
        assert_eq!(fixture.pid().await, pid, "not even its own calls");
        for _ in 0..20 {
            let params = Members::of(&json!({ "name": "t0", "arguments": [] }));
            let answer = fixture.upstreams.call("other", "tools/call", params, Options::default()).await;
            assert_eq!(answer.unwrap().get(), "[]");
        }
    };
    let (flooded, ()) = tokio::join!(fixture.call("flood"), calls);
    let error = flooded.unwrap_err().to_string();
    assert!(error.contains("the server floods its "), "{error}");
    let status = fixture.upstreams.servers().into_iter().find(|status| status.name == "bad").unwrap();
    assert!(status.stderr.len() <= 50, "what is kept has a limit");
    assert!(status.last_error.unwrap().contains("floods its "));
    fixture.upstreams.close().await;
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn an_answer_that_is_too_long_or_breaks_off_fails_its_call_alone() {
    let fixture = fixture("", |_| ());
    let pid = fixture.pid().await;
    let error = fixture.call("huge").await.err().unwrap().to_string(); // not shown if there is none
    assert!(error.contains("longer than 33554432 bytes"), "{error}");
    assert_eq!(fixture.pid().await, pid);
    let error = fixture.call("half").await.unwrap_err();
    assert!(matches!(error, UpstreamError::Call { error: CallError::Closed(_), .. }), "{error}");
    assert_ne!(fixture.pid().await, pid);
    fixture.upstreams.close().await;
}

/// What an older server answers, if it does; the result of a call is its arguments.
fn answer(message: &Value) -> Option<Value> {
    let id = message.get("id")?;
    let result = match message["method"].as_str()? {
        "initialize" => json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "serverInfo": { "name": "s", "version": "1" },
        }),
        "tools/call" => message["params"]["arguments"].clone(),
        _ => {
            let error = json!({ "code": -32601, "message": "unknown" });
            return Some(json!({ "jsonrpc": "2.0", "id": id, "error": error }));
        }
    };
    Some(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

#[tokio::test]
async fn a_server_behind_tcp_is_connected_to_again_when_the_connection_was_lost() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (input, mut output) = stream.into_split();
            let mut lines = BufReader::new(input).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let message: Value = serde_json::from_str(&line).unwrap();
                if message["params"]["name"] == "die" {
                    break;
                }
                if let Some(answer) = answer(&message) {
                    output.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
                }
            }
        }
    };
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(serve);
    let fixture = fixture("", |config| config.transport = Transport::Tcp(address.clone()));
    for _ in 0..2 {
        assert_eq!(fixture.call("t0").await.unwrap().get(), r#"{"said":1.5}"#);
        let error = fixture.call("die").await.unwrap_err();
        assert!(matches!(error, UpstreamError::Call { error: CallError::Closed(_), .. }), "{error}");
    }
    serving.shutdown().await;
    let UpstreamError::Unavailable { retry_after, .. } = fixture.call("t0").await.unwrap_err() else { panic!() };
    tokio::time::sleep(retry_after).await;
    let error = fixture.call("t0").await.unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("refused"), "{error}");
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn an_answer_whose_stream_broke_off_is_read_on_where_it_ended() {
    use std::sync::{Arc, Mutex};

    use axum::{
        body::Bytes,
        http::{HeaderMap, HeaderName, StatusCode, header::CONTENT_TYPE},
        response::IntoResponse as _,
        routing::post,
    };
    const EVENTS: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "text/event-stream")];
    let kept: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let (keep, give) = (Arc::clone(&kept), Arc::clone(&kept));
    let ask = async move |body: Bytes| {
        let message: Value = serde_json::from_slice(&body).unwrap();
        let Some(answer) = answer(&message) else { return StatusCode::ACCEPTED.into_response() };
        if message["method"] != "tools/call" {
            return axum::Json(answer).into_response();
        }
        let id = format!("event-{}", message["id"]);
        let begin = format!("id: {id}\nretry: 1\ndata:\n\n");
        keep.lock().unwrap().push((id, answer));
        (EVENTS, begin).into_response() // and the stream ends
    };
    let read_on = async move |headers: HeaderMap| {
        let last = headers.get("last-event-id").and_then(|last| last.to_str().ok()).unwrap_or_default();
        let kept = give.lock().unwrap();
        match kept.iter().find(|(id, _)| id == last) {
            Some((_, answer)) => (EVENTS, format!("data: {answer}\n\n")).into_response(),
            None => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/mcp", post(ask).get(read_on));
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let fixture = fixture("", |config| {
        let url = skep_hub::secret::Secret::new(url);
        config.transport = Transport::Http { url, headers: BTreeMap::new(), is_sse: false, oauth: None };
    });
    let answers = join_all((0..3).map(|_| fixture.call("t0"))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().get() == r#"{"said":1.5}"#), "{answers:?}");
    assert_eq!(kept.lock().unwrap().len(), 3, "no call was made twice");
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn callers_of_an_exclusive_server_have_one_each() {
    let fixture = fixture("", |config| config.exclusive = true);
    let (a, b) = tokio::join!(fixture.call_as("a", "pid"), fixture.call_as("b", "pid"));
    let (a, b) = (a.unwrap().get().to_owned(), b.unwrap().get().to_owned());
    assert_ne!(a, b);
    assert_eq!(fixture.call_as("a", "pid").await.unwrap().get(), a);
    assert_eq!(fixture.upstreams.servers()[0].pids.len(), 2);
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn lists_are_whole_and_kept_until_they_change_and_denied_tools_are_not_there() {
    let fixture = fixture("", |config| config.tools = Tools { deny: vec!["t1".to_owned()], ..Tools::default() });
    let listed = fixture.here.path().join("listed");
    let tools = fixture.upstreams.tools("bad").await.unwrap();
    let names: Vec<&str> = tools.items().map(|(name, _)| name).collect();
    assert_eq!(names, ["t0", "t2"]);
    assert!(matches!(fixture.call("t1").await, Err(UpstreamError::Denied { .. })));
    std::fs::remove_file(&listed).unwrap();
    fixture.upstreams.tools("bad").await.unwrap();
    assert!(!listed.exists(), "it was kept");
    fixture.call("change").await.unwrap();
    fixture.upstreams.tools("bad").await.unwrap();
    assert!(listed.exists(), "it has changed");
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn no_server_is_started_for_a_list_that_is_known_and_one_that_was_started_is_asked_again() {
    let fixture = fixture("hurried", |config| config.idle_time_max = Duration::from_millis(50));
    let listed = fixture.here.path().join("listed");
    let tools = async || fixture.upstreams.tools("bad").await.unwrap().items().len();
    assert_eq!(tools().await, 3);
    until(|| fixture.upstreams.servers()[0].state == State::Stopped).await;
    std::fs::remove_file(&listed).unwrap();
    assert_eq!(tools().await, 3);
    assert_eq!((fixture.starts(), listed.exists()), (1, false), "while it rests, nothing changes");
    fixture.pid().await;
    assert_eq!(tools().await, 3);
    assert!(listed.exists(), "it was started, and may be another version");
    fixture.upstreams.restart("bad", &Restarts::All(principals::local().permit().unwrap())).await.unwrap();
    let starts = fixture.starts();
    assert_eq!(tools().await, 3);
    assert_eq!(fixture.starts(), starts + 1, "the operator wants to see what it is now");
    fixture.upstreams.close().await;
}

#[tokio::test]
async fn a_changed_server_is_started_anew_when_its_calls_have_ended_and_others_are_left_alone() {
    let fixture = fixture("", |_| ());
    let pid = fixture.pid().await;
    fixture.upstreams.add(server("", fixture.here.path())).await;
    assert_eq!(fixture.pid().await, pid, "nothing has changed");
    fixture.upstreams.add(Upstream { timeout: Duration::from_secs(5), ..server("", fixture.here.path()) }).await;
    assert!(!is_alive(pid));
    assert_ne!(fixture.pid().await, pid);
    fixture.upstreams.remove("bad").await;
    assert!(!fixture.upstreams.has("bad"));
    assert!(matches!(fixture.call("pid").await, Err(UpstreamError::Unknown { .. })));
}

#[tokio::test]
async fn a_server_gets_no_secrets_of_ours_but_its_own_variables() {
    let fixture = fixture("", |config| {
        let Transport::Stdio(command) = &mut config.transport else { return };
        command.env.insert("OWN".to_owned(), skep_hub::secret::Secret::new("own"));
    });
    let pid = fixture.pid().await;
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("OWN=own") && environment.contains("PATH="));
    assert!(!environment.contains("CARGO_"), "variables of this process are not the server's");
    fixture.upstreams.close().await;
}
