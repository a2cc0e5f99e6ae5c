//! Callers that ask for much and read nothing of it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
};

use crate::wire::{Http, Hub, call, request, stateless};

const OPERATOR: &str = "operator-correct-horse-battery";
const ANN: &str = "ann-correct-horse-battery";
const BOB: &str = "bob-correct-horse-battery";

/// What the hub may have at its peak.
const PEAK_BYTES_MAX: u64 = 300_000_000;
/// Bytes of the file that is read, which is the largest that can be.
const FILE_BYTES: usize = 4 << 20;
/// Bytes of what a server answers.
const RESULT_BYTES: usize = 30_000_000;

/// Nobody is closed for not reading while a test runs, and calls give up soon.
const PATIENT: &str = "[tools]\ntimeout = '4s'\n[serve]\nrequests_per_second_max = 0\nwrite_time_max = '10m'\n";

/// A server of an older revision that answers with much.
fn large() -> String {
    let server = format!(
        r#"
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if id is None: continue
    result = {{}}
    if method == "initialize":
        result = {{"protocolVersion": "2025-11-25", "serverInfo": {{"name": "l", "version": "1"}}, "capabilities": {{"tools": {{}}}}}}
    elif method == "tools/list":
        result = {{"tools": [{{"name": name, "inputSchema": {{"type": "object"}}}} for name in ["large"]]}}
    elif method == "tools/call":
        result = {{"content": [{{"type": "text", "text": "x" * {RESULT_BYTES}}}]}}
    sys.stdout.write(json.dumps({{"jsonrpc": "2.0", "id": id, "result": result}}) + "\n")
    sys.stdout.flush()
"#
    );
    format!("[mcpServers.l]\ncommand = 'python3'\nargs = ['-c', '''{server}''']\ntimeout = '10m'\n")
}

impl Hub {
    fn has_large_file(self) -> Hub {
        // Bytes that do not compress, so that no trick of the kernel's or ours hides them.
        let bytes: Vec<u8> =
            (0..FILE_BYTES as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        std::fs::write(self.user.workspace().join("large.bin"), bytes).unwrap();
        self
    }

    /// Bytes of memory that it had in RAM at its peak.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.served.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The bound holds so far; what the peak is at each step stands in the output of a test that fails.
    fn peaked_below(&self, bytes_max: u64) {
        let peak = self.peak();
        println!("{peak} bytes at its peak so far");
        assert!(peak < bytes_max, "{peak} bytes at its peak");
    }

    /// Wait until no call of a tool runs or waits.
    async fn is_idle(&self, headers: &[(&str, &str)]) {
        let began = Instant::now();
        loop {
            let health = self.get("/health", headers).await.json();
            let (running, waiting) = (&health["calls_running"], &health["calls_waiting"]);
            if *running == 0 && *waiting == 0 && health["calls_forwarded"] == 0 {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(180), "{health}");
            tokio::time::sleep(Duration::from_millis(50)).await; // counts have no signal of their own
        }
    }
}

fn file_read() -> Value {
    json!({ "path": "large.bin", "encoding": "base64" })
}

fn refused_for_want_of_memory(message: &Value) -> bool {
    message.as_str().is_some_and(|message| message.contains("large messages"))
}

#[tokio::test]
async fn four_connections_with_ninety_large_answers_each_that_nobody_reads() {
    let hub = Hub::start(PATIENT).has_large_file();
    let mut connections = join_all((0..4).map(|_| hub.lines())).await;
    let calls: String = (0..90).map(|id| format!("{}\n", call(id, "file_read", file_read()))).collect();
    for lines in &mut connections {
        lines.write(&calls).await.unwrap();
    }
    // Others are served meanwhile: their calls need not wait until those that wait for memory have had enough.
    let hi = hub.post("/process", &[], json!({ "tool": "compose", "args": { "text": "hi" } })).await;
    assert_eq!(hi.json()["text"], "hi");
    hub.is_idle(&[]).await;
    hub.peaked_below(PEAK_BYTES_MAX);
    // Each call has its answer: the file, or that there was no room for it.
    for lines in &mut connections {
        let (mut read, mut refused) = (0, 0);
        for _ in 0..90 {
            let answer = lines.next().await.unwrap();
            match &answer["error"] {
                Value::Null if answer["result"]["isError"] == true => {
                    assert!(answer.to_string().contains("timed_out"), "{answer}"); // on a machine that is slow
                    refused += 1;
                }
                Value::Null => {
                    assert_eq!(answer["result"]["structuredContent"]["size"], FILE_BYTES);
                    read += 1;
                }
                error => {
                    assert!(error["code"] == -31000 && refused_for_want_of_memory(&error["message"]), "{error}");
                    refused += 1;
                }
            }
        }
        assert_eq!(read + refused, 90);
    }
    let again = hub.post("/process", &[], json!({ "tool": "file_read", "args": file_read() })).await;
    assert_eq!(again.json()["size"], FILE_BYTES, "what was read takes nothing any more");
    hub.peaked_below(PEAK_BYTES_MAX);
}

async fn three_hundred_requests(hub: &Hub, headers: &[(&str, &str)]) -> Vec<Http> {
    let body = json!({ "tool": "file_read", "args": file_read() }).to_string();
    let mut connections = Vec::new();
    for _ in 0..300 {
        let mut connection = hub.connect().await;
        connection.send("POST", "/process", headers, &body).await.unwrap();
        connections.push(connection);
    }
    connections
}

#[tokio::test]
async fn three_hundred_requests_whose_answers_nobody_reads() {
    let hub = Hub::start(PATIENT).has_large_file();
    let connections = three_hundred_requests(&hub, &[]).await;
    hub.is_idle(&[]).await;
    hub.peaked_below(PEAK_BYTES_MAX);
    drop(connections);
    let began = Instant::now();
    let body = json!({ "tool": "file_read", "args": file_read() });
    while hub.post("/process", &[], &body).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(60), "what nobody can read any more takes nothing");
    }
}

#[tokio::test]
async fn a_principal_that_reads_nothing_takes_its_share_and_no_more() {
    let tokens = format!("[serve.tokens]\nann = '{ANN}'\nbob = '{BOB}'\n");
    let hub = Hub::start_with(&format!("{PATIENT}{tokens}"), &[("SKEP_TOKEN", OPERATOR)]).has_large_file();
    let [operator, ann, bob] = [OPERATOR, ANN, BOB].map(|token| format!("Bearer {token}"));
    let connections = three_hundred_requests(&hub, &[("authorization", &ann)]).await;
    hub.is_idle(&[("authorization", &operator)]).await;
    hub.peaked_below(PEAK_BYTES_MAX / 2);
    let body = json!({ "tool": "file_read", "args": file_read() });
    let refused = hub.post("/process", &[("authorization", &ann)], &body).await;
    assert!(refused.status == 503 && refused.body.contains("which is what one principal may have"), "{refused:?}");
    for other in [&bob, &operator] {
        assert_eq!(hub.post("/process", &[("authorization", other)], &body).await.json()["size"], FILE_BYTES);
    }
    drop(connections);
}

/// The head of the answer to a call of the server, and where its body is to be read.
async fn calls_large(hub: &Hub) -> Http {
    let (message, headers) = stateless(call(1, "l__large", json!({})), json!({}));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut connection = hub.connect().await;
    connection.send("POST", "/mcp", &headers, &message.to_string()).await.unwrap();
    connection
}

/// Bytes of the body of an answer, which is read to its end.
async fn read(mut connection: Http) -> usize {
    let head = connection.head().await.unwrap();
    assert_eq!(head.status, 200);
    let length: usize = head.header("content-length").parse().unwrap_or(usize::MAX); // or it is a stream
    let (mut text, mut part) = (Vec::new(), vec![0; 1 << 16]);
    while text.len() < length && !text.ends_with(b"\r\n0\r\n\r\n") {
        let reading = tokio::time::timeout(Duration::from_secs(600), connection.0.read(&mut part));
        let bytes = reading.await.unwrap().unwrap();
        assert!(bytes > 0, "the hub closed the connection");
        text.extend_from_slice(&part[..bytes]);
    }
    text.len()
}

#[tokio::test]
async fn twenty_four_readers_of_thirty_megabytes_each() {
    let hub = Hub::start(&format!("[serve]\nwrite_time_max = '10m'\n{}", large()));
    let readers = join_all((0..24).map(|_| calls_large(&hub))).await;
    let lengths = join_all(readers.into_iter().map(read)).await;
    assert!(lengths.iter().all(|bytes| *bytes > RESULT_BYTES), "{lengths:?}");
    hub.peaked_below(PEAK_BYTES_MAX);
    // Some more, that read nothing; then they go, and all is as before.
    let deaf = join_all((0..8).map(|_| calls_large(&hub))).await;
    let hi = hub.post("/tools/compose", &[], json!({ "text": "hi" })).await;
    assert_eq!(hi.json()["text"], "hi", "{hi:?}");
    drop(deaf);
    hub.is_idle(&[]).await;
    assert!(read(calls_large(&hub).await).await > RESULT_BYTES);
    hub.peaked_below(PEAK_BYTES_MAX);
}

#[tokio::test]
async fn twelve_readers_of_thirty_megabytes_each_who_speak_no_mcp() {
    let hub = Hub::start(&format!("[tools]\ntimeout = '10m'\n[serve]\nwrite_time_max = '10m'\n{}", large()));
    let calls = async |path, body: Value| {
        let mut connection = hub.connect().await;
        connection.send("POST", path, &[], &body.to_string()).await.unwrap();
        connection
    };
    let mut readers = join_all((0..6).map(|_| calls("/tools/l__large", json!({})))).await;
    readers.extend(join_all((0..6).map(|_| calls("/process", json!({ "tool": "l__large" })))).await);
    let lengths = join_all(readers.into_iter().map(read)).await;
    // The text is in `content` and in `text`.
    assert!(lengths.iter().all(|bytes| *bytes > 2 * RESULT_BYTES), "{lengths:?}");
    hub.peaked_below(PEAK_BYTES_MAX);
}

#[tokio::test]
async fn who_takes_a_byte_now_and_then_is_closed() {
    let hub = Hub::start("[serve]\nwrite_time_max = '1s'\n").has_large_file();
    // What the kernel keeps of it there is little, so that the time is short which its bytes may take.
    let socket = hub.user.home().join("hub.sock");
    let (stateless, headers) = stateless(call(1, "file_read", file_read()), json!({}));
    let headers: String = headers.into_iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let process = json!({ "tool": "file_read", "args": file_read() });
    for (path, headers, body) in [("/process", "", process), ("/mcp", &*headers, stateless)] {
        let body = body.to_string();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {}\r\n\r\n", body.len());
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        let closed = async {
            while !stream.ready(Interest::WRITABLE).await.unwrap().is_write_closed() {
                assert_ne!(stream.read_u8().await.unwrap(), 0);
                tokio::time::sleep(Duration::from_millis(50)).await; // it is slow
            }
        };
        tokio::time::timeout(Duration::from_secs(120), closed).await.expect("it may be as slow as it likes");
    }
}

#[tokio::test]
async fn sessions_whose_streams_nobody_reads_or_comes_back_to() {
    let hub = Hub::start(PATIENT).has_large_file();
    let large_call = call(1, "file_read", file_read()).to_string();
    let open = async |accept: &str| {
        let session = hub.session(&[]).await;
        let mut connection = hub.connect().await;
        let headers = [("mcp-session-id", session.as_str()), ("accept", accept)];
        connection.send("POST", "/mcp", &headers, &large_call).await.unwrap();
        (connection, session)
    };
    let mut deaf = join_all((0..100).map(|_| open("text/event-stream"))).await;
    hub.is_idle(&[]).await;
    hub.peaked_below(PEAK_BYTES_MAX);
    // Those who go leave what they did not read; it is kept for them while there is room, and takes nothing from others.
    deaf.truncate(1);
    for _ in 0..3 {
        drop(join_all((0..50).map(|_| open("text/event-stream"))).await);
        hub.is_idle(&[]).await;
        hub.peaked_below(PEAK_BYTES_MAX);
    }
    let (mut connection, _session) = open("application/json").await;
    let answer = connection.answer().await.unwrap().json();
    assert_eq!(answer["result"]["structuredContent"]["size"], FILE_BYTES, "{}", answer["error"]);
    hub.peaked_below(PEAK_BYTES_MAX);
}

#[tokio::test]
async fn small_answers_that_nobody_reads_are_counted_when_there_are_many() {
    let hub = Hub::start(PATIENT);
    let before = hub.peak();
    // Just below what counts as large, so that each alone would be free.
    let text = "x".repeat(20_000);
    let calls: String = (0..250).map(|id| format!("{}\n", call(id, "compose", json!({ "text": text })))).collect();
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut lines = hub.lines().await;
        // The rest waits in the sockets, or is refused.
        let _ = tokio::time::timeout(Duration::from_secs(2), lines.0.get_mut().writable()).await;
        let _ = lines.0.get_mut().try_write(calls.as_bytes());
        connections.push(lines);
    }
    hub.is_idle(&[]).await;
    let grown = hub.peak() - before;
    assert!(grown < PEAK_BYTES_MAX, "{grown} bytes");
    let mut other = hub.lines().await;
    assert_eq!(other.ask(request(1, "ping", json!({}))).await["result"]["status"], "ok");
}
