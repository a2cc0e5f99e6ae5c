//! The pool of MCP servers, with real processes that behave badly.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use skep::upstreams::{
    Options, State, UpstreamError, Upstreams,
    config::{Command, Filter, Transport, Upstream},
};
use skep_mcp::client::CallError;

/// A server of an older revision. Its arguments say how it misbehaves; a directory tells what it does.
const SERVER: &str = r#"
import json, os, subprocess, sys, time
mode, here = sys.argv[1], sys.argv[2]
def note(name, text=""):
    with open(os.path.join(here, name + ".new"), "w") as file: file.write(text)
    os.rename(os.path.join(here, name + ".new"), os.path.join(here, name))
def send(message):
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
        if page < 2: result["nextCursor"] = str(page + 1)
        send({"id": id, "result": result})
    elif method == "tools/call":
        name = params["name"]
        if name == "pid": send({"id": id, "result": os.getpid()})
        elif name == "die":
            print("I cannot go on", file=sys.stderr, flush=True)
            os._exit(7)
        elif name == "hang": note("hangs")
        elif name == "change":
            send({"method": "notifications/tools/list_changed"})
            send({"id": id, "result": None})
        else: send({"id": id, "result": params.get("arguments")})
    elif id is not None and "method" in message:
        send({"id": id, "error": {"code": -32601, "message": "unknown"}})
note("ended")
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
    Fixture { upstreams: Upstreams::new([config]), here }
}

impl Fixture {
    async fn call(&self, tool: &str) -> Result<Box<RawValue>, UpstreamError> {
        self.call_as("", tool).await
    }

    async fn call_as(&self, caller: &str, tool: &str) -> Result<Box<RawValue>, UpstreamError> {
        let params = to_raw_value(&json!({ "name": tool, "arguments": { "said": 1.5 } })).ok();
        let options = Options { caller: caller.into(), call: None };
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
    fixture.upstreams.watch("bad", "test://a").await.unwrap();
    let pid = fixture.pid().await;
    tokio::time::sleep(Duration::from_millis(300)).await; // six times as long as it may be idle
    assert!(is_alive(pid));
    fixture.call("die").await.unwrap_err();
    fixture.pid().await;
    let watched = fixture.here.path().join("watched");
    until(|| std::fs::read_to_string(&watched).unwrap_or_default() == "test://a\ntest://a\n").await;
    fixture.upstreams.unwatch("bad", "test://a").await.unwrap();
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
    assert!(error.contains("`/no/such/program` cannot be started"), "{error}");
    let error = fixture.upstreams.tools("bat").await.unwrap_err().to_string();
    assert!(error.contains("did you mean \"bad\"?"), "{error}");
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
    let fixture = fixture("", |config| config.tools = Filter { allow: Vec::new(), deny: vec!["t1".to_owned()] });
    let listed = fixture.here.path().join("listed");
    let tools = fixture.upstreams.tools("bad").await.unwrap();
    let names: Vec<Value> =
        tools.items.iter().map(|tool| serde_json::from_str::<Value>(tool.get()).unwrap()["name"].clone()).collect();
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
        command.env.insert("OWN".to_owned(), skep::config::Secret::new("own"));
    });
    let pid = fixture.pid().await;
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("OWN=own") && environment.contains("PATH="));
    assert!(!environment.contains("CARGO_"), "variables of this process are not the server's");
    fixture.upstreams.close().await;
}
