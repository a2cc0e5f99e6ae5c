//! Real hubs on real sockets, with tools that do what a test needs, and a client that does what it is told.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::json;
use skep_core::{app::App, policy::Permit};
use skep_hub::{
    hub::{
        calls::{Calls, Limits},
        catalogue::Catalogue,
    },
    server::{Listeners, Options, Parts, Probe, Stopped},
};
use skep_tools::{
    error::ToolError,
    tool::{Annotations, BuiltIn, Tool},
    workspace::{Context, Dir},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const ECHO: &str = r#"{"tool":"echo","args":{"text":"hi"}}"#;
pub(crate) const ECHOED: &str = r#"200 {"status":"ok","text":"hi"}"#;
pub(crate) const STALL: &str = r#"{"tool":"stall"}"#;

/// What a future gives, or a failed test if it gives nothing.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("nothing happened")
}

/// Ask the outside world until it says yes.
pub(crate) async fn eventually(asked: impl AsyncFn() -> bool) {
    within(async { while !asked().await {} }).await;
}

/// A hub on a port of its own.
pub(crate) struct Hub {
    pub(crate) address: SocketAddr,
    /// Where lines of JSON-RPC are taken.
    pub(crate) tcp: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) stopped: JoinHandle<Stopped>,
    /// What the tools report: `stall` says when it starts and when it is given up.
    told: mpsc::UnboundedReceiver<&'static str>,
    /// Lets `stall` end, once for each permit.
    pub(crate) release: Arc<Semaphore>,
    _directory: tempfile::TempDir,
}

impl Hub {
    pub(crate) async fn start(options: Options) -> Hub {
        Hub::start_with(options, Vec::new()).await
    }

    pub(crate) async fn start_with(options: Options, probes: Vec<Probe>) -> Hub {
        Hub::start_stored(options, probes, None).await
    }

    /// A hub that keeps long calls in this store.
    pub(crate) async fn start_stored(options: Options, probes: Vec<Probe>, store: Option<(App, Permit)>) -> Hub {
        Hub::start_whole(options, Limits::default(), probes, store).await
    }

    /// A hub whose callers share so much.
    pub(crate) async fn start_limited(limits: Limits, options: Options) -> Hub {
        Hub::start_whole(options, limits, Vec::new(), None).await
    }

    async fn start_whole(options: Options, limits: Limits, probes: Vec<Probe>, store: Option<(App, Permit)>) -> Hub {
        let directory = tempfile::tempdir().unwrap();
        let dir = |name| Dir::create(&directory.path().join(name)).unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        let release = Arc::new(Semaphore::new(0));
        let stall = Stall { tell, release: Arc::clone(&release) };
        let tools = [Tool::new(Echo), Tool::new(Fail), Tool::new(stall), Tool::new(Panic)];
        let calls = Arc::new(Calls::new(Catalogue::new(tools), dir("workspace"), dir("outputs"), limits));
        let parts = Parts { name: "test".into(), calls, store, probes };
        let anywhere = || vec!["127.0.0.1:0".to_owned()];
        let options = Options { bind: anywhere(), tcp: anywhere(), ..options };
        let listeners = Listeners::open(options, parts).await.unwrap();
        let (address, tcp, shutdown) =
            (listeners.addresses()[0], listeners.tcp_addresses()[0], CancellationToken::new());
        #[expect(clippy::disallowed_methods, reason = "the test awaits it where that matters")]
        let stopped = tokio::spawn(listeners.serve(shutdown.clone()));
        Hub { address, tcp, shutdown, stopped, told, release, _directory: directory }
    }

    /// Wait for what a tool reports.
    pub(crate) async fn told(&mut self, expected: &str) {
        assert_eq!(within(self.told.recv()).await, Some(expected));
    }

    /// Wait until nobody can connect any more.
    pub(crate) async fn stopped_listening(&self) {
        eventually(async || TcpStream::connect(self.address).await.is_err()).await;
    }

    pub(crate) async fn request_id(&self, given: Option<&str>) -> String {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("http://{}/health/live", self.address));
        if let Some(given) = given {
            request = request.header("x-request-id", given);
        }
        request.send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned()
    }

    /// The media type of what is at a path.
    pub(crate) async fn media_type(&self, path: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("http://{}{path}", self.address)).send().await.unwrap();
        answer.headers()["content-type"].to_str().unwrap().to_owned()
    }

    pub(crate) async fn process(&self, body: &str) -> String {
        self.send("POST", "/process", &[], body).await
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.send("GET", path, &[], "").await
    }

    /// One request on a connection of its own. Returns the status, the headers that matter, and the body.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let mut connection = self.connect().await;
        connection.send(method, path, headers, body).await;
        connection.answer().await
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection { stream: TcpStream::connect(self.address).await.unwrap(), unread: Vec::new() }
    }
}

/// A client that does what it is told and nothing more.
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request += "host: localhost\r\n";
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            request += &format!("content-length: {}\r\n", body.len());
        }
        self.write(&format!("{request}\r\n{body}")).await;
    }

    pub(crate) async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer: status, `Allow` and `Retry-After` if they are there, body.
    pub(crate) async fn answer(&mut self) -> String {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if matches!(within(self.stream.read_buf(&mut self.unread)).await, Ok(0) | Err(_)) {
                return "closed".to_owned();
            }
        };
        let head = String::from_utf8(self.unread[..end].to_vec()).unwrap();
        let header = |wanted: &str| {
            let pairs = head.lines().skip(1).filter_map(|line| line.split_once(": "));
            pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned()).next()
        };
        let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
        let whole = end + 4 + length;
        while self.unread.len() < whole {
            assert!(self.stream.read_buf(&mut self.unread).await.unwrap() > 0, "the answer is cut off");
        }
        let mut shown = head.split(' ').nth(1).unwrap().to_owned();
        for name in ["allow", "retry-after", "www-authenticate", "access-control-allow-origin"] {
            if let Some(value) = header(name) {
                shown += &format!(" {name}={value}");
            }
        }
        let body = String::from_utf8(self.unread[end + 4..whole].to_vec()).unwrap();
        self.unread.drain(..whole);
        format!("{shown} {body}")
    }
}

// ---- its tools

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Text {
    text: String,
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Gives back what it got.
pub(crate) struct Echo;

impl BuiltIn for Echo {
    const NAME: &'static str = "echo";
    const DESCRIPTION: &'static str = "Give back what it got.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Text;
    type Answer = Text;

    async fn call(&self, _: &Context, text: Text) -> Result<Text, ToolError> {
        Ok(text)
    }
}

/// Fails in the way it is asked to.
struct Fail;

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
struct FailArguments {
    with: String,
}

impl BuiltIn for Fail {
    const NAME: &'static str = "fail";
    const DESCRIPTION: &'static str = "Fail.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = FailArguments;
    type Answer = Nothing;

    async fn call(&self, _: &Context, arguments: FailArguments) -> Result<Nothing, ToolError> {
        Err(match arguments.with.as_str() {
            "denied" => ToolError::Denied("not allowed".to_owned()),
            "busy" => ToolError::Busy("too much at once".to_owned()),
            "unavailable" => ToolError::Unavailable { message: "no such thing".to_owned(), cure: "get one".to_owned() },
            _ => {
                let detail = json!({"exit_code": 1}).as_object().unwrap().clone();
                ToolError::Failed { message: "it exited with code 1".to_owned(), detail }
            }
        })
    }
}

/// Says that it runs, and runs until it is released or given up, and says when it ends.
struct Stall {
    tell: mpsc::UnboundedSender<&'static str>,
    release: Arc<Semaphore>,
}

struct TellAtTheEnd(mpsc::UnboundedSender<&'static str>);

impl Drop for TellAtTheEnd {
    fn drop(&mut self) {
        let _ = self.0.send("given up");
    }
}

impl BuiltIn for Stall {
    const NAME: &'static str = "stall";
    const DESCRIPTION: &'static str = "Run until given up.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: false, open_world_hint: false };
    const DEADLINE: Duration = Duration::from_secs(600);
    type Arguments = Nothing;
    type Answer = Nothing;

    async fn call(&self, _: &Context, _: Nothing) -> Result<Nothing, ToolError> {
        let _end = TellAtTheEnd(self.tell.clone());
        let _ = self.tell.send("running");
        self.release.acquire().await.unwrap().forget();
        Ok(Nothing {})
    }
}

/// A tool with a fault in it.
struct Panic;

impl BuiltIn for Panic {
    const NAME: &'static str = "panic";
    const DESCRIPTION: &'static str = "Panic.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: false, open_world_hint: false };
    type Arguments = Nothing;
    type Answer = Nothing;

    async fn call(&self, _: &Context, _: Nothing) -> Result<Nothing, ToolError> {
        panic!("put in by the test")
    }
}
