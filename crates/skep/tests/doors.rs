//! The HTTP door as a client sees it: a real hub on a real socket, with tools that do what a test needs.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use insta::assert_snapshot;
use serde_json::{Value, json};
use skep::{
    catalogue::{Annotations, BuiltIn, Catalogue, Tool, ToolError},
    doors::{Doors, OpenError, Options, Parts, Probe, Stopped, Token},
    workspace::{Context, Dir},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

// ---- what S0's and S1's clients do

#[tokio::test]
async fn a_call_is_answered_as_s0_expects_it() {
    let hub = Hub::start(Options::default()).await;
    assert_snapshot!(hub.process(r#"{"tool":"echo","args":{"text":"hi"}}"#).await, @r#"200 {"status":"ok","text":"hi"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"ecko","args":{}}"#).await, @r#"200 {"status":"error","code":"unknown_tool","message":"Unknown tool \"ecko\"; did you mean \"echo\"?"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"sing"}"#).await, @r#"200 {"status":"error","code":"unknown_tool","message":"Unknown tool \"sing\"; GET /tools or `skep tools` lists them"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"echo","args":{"text":1,"volume":11}}"#).await, @r#"200 {"status":"error","code":"invalid_arguments","message":"text: 1 is not of type \"string\"; Additional properties are not allowed ('volume' was unexpected)","faults":[{"pointer":"/text","message":"1 is not of type \"string\""},{"pointer":"","message":"Additional properties are not allowed ('volume' was unexpected)"}]}"#);
    assert_snapshot!(hub.process(r#"{"tool":"echo","args":[]}"#).await, @r#"200 {"status":"error","code":"invalid_arguments","message":"[] is not of type \"object\"","faults":[{"pointer":"","message":"[] is not of type \"object\""}]}"#);
    assert_snapshot!(hub.process(r#"{"tool":"fail","args":{"with":"failed"}}"#).await, @r#"200 {"status":"error","code":"failed","message":"it exited with code 1","exit_code":1}"#);
    assert_snapshot!(hub.process(r#"{"tool":"stall","timeout":0.01}"#).await, @r#"200 {"status":"error","code":"timed_out","message":"stall timed out after 0.01s"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"panic"}"#).await, @r#"200 {"status":"error","code":"failed","message":"panic failed; its log says why"}"#);
}

#[tokio::test]
async fn a_body_that_is_no_call_is_refused_with_what_is_expected() {
    let hub = Hub::start(Options::default()).await;
    assert_snapshot!(hub.process("hello").await, @r#"400 {"status":"error","code":"bad_json","message":"the body is not JSON: expected value at line 1 column 1"}"#);
    assert_snapshot!(hub.process("").await, @r#"400 {"status":"error","code":"bad_json","message":"the body is not JSON: EOF while parsing a value at line 1 column 0"}"#);
    assert_snapshot!(hub.process("[1]").await, @r#"400 {"status":"error","code":"bad_request","message":"the body is not an object; expected {\"tool\": \"bash\", \"args\": {\"command\": \"echo hi\"}}, and \"timeout\" in seconds if need be"}"#);
    assert_snapshot!(hub.process(r#"{"args":{}}"#).await, @r#"400 {"status":"error","code":"bad_request","message":"missing field `tool` at line 1 column 11; expected {\"tool\": \"bash\", \"args\": {\"command\": \"echo hi\"}}, and \"timeout\" in seconds if need be"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"echo","arguments":{}}"#).await, @r#"400 {"status":"error","code":"bad_request","message":"unknown field `arguments`, expected one of `tool`, `args`, `timeout` at line 1 column 26; expected {\"tool\": \"bash\", \"args\": {\"command\": \"echo hi\"}}, and \"timeout\" in seconds if need be"}"#);
    assert_snapshot!(hub.process(r#"{"tool":"echo","timeout":-1}"#).await, @r#"400 {"status":"error","code":"bad_request","message":"the timeout is out of range; expected seconds, more than 0 and not more than 3600"}"#);
    let deep = format!(r#"{{"tool":"echo","args":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    assert_snapshot!(hub.process(&deep).await, @r#"400 {"status":"error","code":"too_deep","message":"the JSON is nested too deep at line 1 column 128"}"#);
    let wide = format!(r#"{{"tool":"echo","args":[{}0]}}"#, "0,".repeat(100_000));
    assert_snapshot!(hub.process(&wide).await, @r#"413 {"status":"error","code":"too_many_values","message":"the arguments hold more than 100000 values; put large data into one text"}"#);
}

#[tokio::test]
async fn a_tool_has_an_address_and_tells_by_the_status_how_it_went() {
    let hub = Hub::start(Options::default()).await;
    let post = |path: &'static str, body: &'static str| hub.send("POST", path, &[], body);
    assert_snapshot!(post("/tools/echo", r#"{"text":"hi"}"#).await, @r#"200 {"status":"ok","text":"hi"}"#);
    assert_snapshot!(post("/tools/echo", "").await, @r#"422 {"status":"error","code":"invalid_arguments","message":"\"text\" is a required property","faults":[{"pointer":"","message":"\"text\" is a required property"}]}"#);
    assert_snapshot!(post("/tools/echo", "{").await, @r#"400 {"status":"error","code":"bad_json","message":"the body is not JSON: EOF while parsing an object at line 1 column 1"}"#);
    assert_snapshot!(post("/tools/sing", "{}").await, @r#"404 {"status":"error","code":"unknown_tool","message":"Unknown tool \"sing\"; GET /tools or `skep tools` lists them"}"#);
    assert_snapshot!(post("/tools/stall?timeout=0.01", "{}").await, @r#"504 {"status":"error","code":"timed_out","message":"stall timed out after 0.01s"}"#);
    assert_snapshot!(post("/tools/stall?timeout=soon", "{}").await, @r#"400 {"status":"error","code":"bad_request","message":"Failed to deserialize query string: timeout: invalid float literal; expected ?timeout=SECONDS"}"#);
    assert_snapshot!(post("/tools/fail", r#"{"with":"failed"}"#).await, @r#"422 {"status":"error","code":"failed","message":"it exited with code 1","exit_code":1}"#);
    assert_snapshot!(post("/tools/fail", r#"{"with":"denied"}"#).await, @r#"403 {"status":"error","code":"denied","message":"not allowed"}"#);
    assert_snapshot!(post("/tools/fail", r#"{"with":"unavailable"}"#).await, @r#"501 {"status":"error","code":"unavailable","message":"no such thing; get one"}"#);
    assert_snapshot!(post("/tools/fail", r#"{"with":"busy"}"#).await, @r#"503 retry-after=1 {"status":"error","code":"busy","message":"too much at once"}"#);
    assert_snapshot!(post("/tools/%ff", "{}").await, @r#"400 {"status":"error","code":"bad_request","message":"Invalid URL: Invalid UTF-8 in `tool`"}"#);
}

// ---- the hub under test

struct Hub {
    address: SocketAddr,
    shutdown: CancellationToken,
    stopped: JoinHandle<Stopped>,
    /// What the tools report: `stall` says when it starts and when it is given up.
    told: mpsc::UnboundedReceiver<&'static str>,
    _directory: tempfile::TempDir,
}

impl Hub {
    async fn start(options: Options) -> Hub {
        Hub::start_with(options, Vec::new()).await
    }

    async fn start_with(options: Options, probes: Vec<Probe>) -> Hub {
        let directory = tempfile::tempdir().unwrap();
        let dir = |name| Dir::create(&directory.path().join(name)).unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        let tools = [Tool::new(Echo), Tool::new(Fail), Tool::new(Stall { tell }), Tool::new(Panic)];
        let catalogue = Arc::new(Catalogue::new(tools));
        let parts = Parts { catalogue, workspace: dir("workspace"), outputs: dir("outputs"), probes };
        let options = Options { bind: vec!["127.0.0.1:0".to_owned()], ..options };
        let doors = Doors::open(options, parts).await.unwrap();
        let (address, shutdown) = (doors.addresses()[0], CancellationToken::new());
        #[expect(clippy::disallowed_methods, reason = "the test awaits it where that matters")]
        let stopped = tokio::spawn(doors.serve(shutdown.clone()));
        Hub { address, shutdown, stopped, told, _directory: directory }
    }

    async fn process(&self, body: &str) -> String {
        self.send("POST", "/process", &[], body).await
    }

    async fn get(&self, path: &str) -> String {
        self.send("GET", path, &[], "").await
    }

    /// One request on a connection of its own. Returns the status, the headers that matter, and the body.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let mut connection = self.connect().await;
        connection.send(method, path, headers, body).await;
        connection.answer().await
    }

    async fn connect(&self) -> Connection {
        Connection { stream: TcpStream::connect(self.address).await.unwrap(), unread: Vec::new() }
    }
}

/// A client that does what it is told and nothing more.
struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
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

    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer: status, `Allow` and `Retry-After` if they are there, body.
    async fn answer(&mut self) -> String {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if self.stream.read_buf(&mut self.unread).await.unwrap() == 0 {
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

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Text {
    text: String,
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Gives back what it got.
struct Echo;

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

#[derive(serde::Deserialize, schemars::JsonSchema)]
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

/// Says that it runs, and runs until it is given up, which it says too.
struct Stall {
    tell: mpsc::UnboundedSender<&'static str>,
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
        std::future::pending().await
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
