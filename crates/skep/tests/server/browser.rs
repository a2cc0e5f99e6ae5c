//! Pages of other origins in a real Chromium.
//!
//! Each runs `browser.js`, and posts what it has seen to the server that it came from. Without Chromium the test is left out, or
//! fails if `SKEP_TEST_REQUIRE` is set.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    response::Html,
    routing::{get, post},
};
use serde_json::{Map, Value, json};
use skep_hub::{
    hub::calls::Limits,
    server::{Options, Token},
};
use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::timeout,
};

use crate::support::Hub;

const TOKEN: &str = "correct-horse-battery";
/// A name that means this machine, to the browser alone.
const ELSEWHERE: &str = "elsewhere.example";
/// A browser on a busy machine takes long to start.
const PATIENCE: Duration = Duration::from_secs(300);
/// What it may be called, on one system or another.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// A browser with a profile of its own; all its processes end with the value.
struct Chromium {
    child: Child,
    _profile: tempfile::TempDir,
}

impl Chromium {
    /// `None` if there is none that works here, and tests may be left out.
    fn open(url: &str) -> Option<Chromium> {
        let left_out = |why: &str| {
            assert!(std::env::var_os("SKEP_TEST_REQUIRE").is_none(), "{why}");
            eprintln!("left out: {why}");
        };
        let path = std::env::var_os("PATH").unwrap();
        let mut places = std::env::split_paths(&path).flat_map(|directory| PROGRAMS.map(|name| directory.join(name)));
        let Some(program) = places.find(|place| place.exists()) else {
            left_out("Chromium is not installed; `cargo xtask setup` does it");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let tried = command(&program, &profile).args(["--dump-dom", "data:text/html,it%20works"]).output().unwrap();
        if !String::from_utf8_lossy(&tried.stdout).contains("it works") {
            left_out(&format!("{} does not work here: {tried:?}", program.display()));
            return None;
        }
        let mut opening = command(&program, &profile);
        let child = opening.arg(url).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        Some(Chromium { child, _profile: profile })
    }
}

fn command(program: &Path, profile: &tempfile::TempDir) -> Command {
    let mut command = Command::new(program);
    // As root it has no sandbox of its own; and small containers have little shared memory.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"]);
    command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).env("HOME", profile.path());
    command.arg(format!("--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1")).stdin(Stdio::null());
    command
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Serve a page at the root of this origin; what it has seen is told.
fn serve(listener: TcpListener, page: String, told: UnboundedSender<Value>) {
    let tell = async |State(told): State<UnboundedSender<Value>>, Json(seen): Json<Value>| {
        let _ = told.send(seen); // unless the test is over
    };
    let pages = Router::new().route("/", get(async move || Html(page))).route("/seen", post(tell)).with_state(told);
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    tokio::spawn(axum::serve(listener, pages).into_future());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_the_operator_named_runs_sessions_and_stateless_calls_and_no_other_page_does() {
    let (named, other) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let origin = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let (named_origin, other_origin) = (origin(&named), origin(&other));
    let limits = Limits { message_bytes_max: 100_000, ..Limits::default() };
    let (token, allowed_origins) = (Some(Token::new(TOKEN).unwrap()), vec![named_origin.clone()]);
    let hub = Hub::start_limited(limits, Options { allowed_origins, token, ..Options::default() }).await;

    let page = |name: &str, more: &str| {
        let settings = json!({
            "page": name, "token": TOKEN,
            "hub": format!("http://{}", hub.address), "elsewhere": format!("http://{ELSEWHERE}:{}", hub.address.port()),
        });
        let script = include_str!("browser.js");
        format!("<!doctype html><meta charset=utf-8>{more}<script>const settings = {settings};\n{script}</script>")
    };
    let (tell, mut told) = unbounded_channel();
    serve(other, page("other", ""), tell.clone());
    serve(named, page("named", &format!("<iframe src='{other_origin}'></iframe>")), tell);
    let Some(_chromium) = Chromium::open(&named_origin) else { return };
    let mut seen = Map::new();
    while seen.len() < 2 {
        let Some(Value::Object(mut page)) = timeout(PATIENCE, told.recv()).await.expect("the page says nothing") else {
            panic!("a page says something else");
        };
        seen.insert(page["page"].as_str().unwrap().to_owned(), page.remove("seen").unwrap());
    }
    let echoed = json!({ "text": "from a page" });
    let expected = json!({
        "named": {
            "session": {
                "revision": "2025-06-18",
                "notified": 202,
                "tools": ["echo", "fail", "panic", "stall"],
                "called": echoed,
                "streamed": echoed,
                "resumed": true,
                "unsolicited": [200, "text/event-stream", ""],
                "ended": 200,
                "afterwards": [404, -32600],
            },
            "stateless": [200, "page-7", echoed],
            "unauthorized": [401, "unauthorized", "Bearer realm=\"skep\""],
            "wrong_method": [405, "wrong_method", "POST"],
            "wrong_header": [400, -32020],
            "too_large": [413, "too_large"],
            "no_such_path": [404, "not_found"],
            "wrong_host": [403, "host_not_allowed"],
            "unknown_header": "TypeError",
            "unknown_method": "TypeError",
        },
        // It hears nothing at all, not even that it was refused.
        "other": { "called": "TypeError", "simple": "TypeError" },
    });
    assert_eq!(Value::Object(seen), expected);
}
