//! A hub in a process of its own, and clients on bare sockets, which do what they are told.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Served, User};

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("nothing happened")
}

/// `skep serve` at every listener.
pub(crate) struct Hub {
    pub(crate) served: Served,
    pub(crate) user: User,
    pub(crate) http: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

impl Hub {
    pub(crate) fn start(settings: &str) -> Hub {
        Hub::start_with(settings, &[])
    }

    /// With these variables in its environment.
    pub(crate) fn start_with(settings: &str, environment: &[(&str, &str)]) -> Hub {
        Hub::of(User::new(), settings, environment)
    }

    /// This user's.
    pub(crate) fn of(user: User, settings: &str, environment: &[(&str, &str)]) -> Hub {
        user.file("settings.toml", settings);
        let arguments = ["serve", "--config", "settings.toml", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"];
        let mut command = user.command(&arguments);
        command.envs(environment.iter().copied());
        let mut served = Served::start(&mut command);
        let tcp = served.says("listening on ").rsplit('/').next().unwrap().parse().unwrap();
        let http = served.url.rsplit('/').next().unwrap().parse().unwrap();
        Hub { served, user, http, tcp }
    }

    /// Bytes of its memory that are in RAM.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.served.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub(crate) async fn connect(&self) -> Http {
        Http(BufReader::new(within(TcpStream::connect(self.http)).await.unwrap()))
    }

    pub(crate) async fn lines(&self) -> Lines {
        Lines(BufReader::new(within(TcpStream::connect(self.tcp)).await.unwrap()))
    }

    /// One request on a connection of its own.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl ToString) -> Answer {
        let mut connection = self.connect().await;
        connection.send("POST", path, headers, &body.to_string()).await.unwrap();
        connection.answer().await.expect("the hub closed the connection")
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut connection = self.connect().await;
        connection.send("GET", path, headers, "").await.unwrap();
        connection.answer().await.expect("the hub closed the connection")
    }

    /// A session, begun.
    pub(crate) async fn session(&self, headers: &[(&str, &str)]) -> String {
        let answer = self.post("/mcp", headers, initialize("2025-11-25")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("mcp-session-id").to_owned()
    }
}

/// What HTTP said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next().unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// A connection with HTTP.
pub(crate) struct Http(pub(crate) BufReader<TcpStream>);

impl Http {
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<()> {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = if method == "POST" { format!("content-length: {}\r\n", body.len()) } else { String::new() };
        self.write(&format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}{length}\r\n{body}")).await
    }

    pub(crate) async fn write(&mut self, text: &str) -> io::Result<()> {
        within(self.0.write_all(text.as_bytes())).await
    }

    /// Status and headers; `None` if the connection was closed instead.
    pub(crate) async fn head(&mut self) -> Option<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if within(self.0.read_line(&mut head)).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Answer { status, head, body: String::new() })
    }

    /// A whole answer of a known length.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let head = self.head().await?;
        Some(Answer { body: self.body(&head).await, ..head })
    }

    /// The body that belongs to a head.
    pub(crate) async fn body(&mut self, head: &Answer) -> String {
        let mut body = vec![0; head.header("content-length").parse().unwrap_or(0)];
        within(self.0.read_exact(&mut body)).await.unwrap();
        String::from_utf8(body).unwrap()
    }

    /// The next event of a stream, or `None` at its end.
    pub(crate) async fn event(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if within(self.0.read_line(&mut line)).await.unwrap_or(0) == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.trim_end().to_owned());
            }
        }
    }
}

/// A connection with lines.
pub(crate) struct Lines(pub(crate) BufReader<TcpStream>);

impl Lines {
    pub(crate) async fn write(&mut self, text: &str) -> io::Result<()> {
        within(self.0.write_all(text.as_bytes())).await
    }

    /// The next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match within(self.0.read_line(&mut line)).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    pub(crate) async fn ask(&mut self, message: impl ToString) -> Value {
        self.write(&(message.to_string() + "\n")).await.unwrap();
        self.next().await.expect("the hub closed the connection")
    }
}

pub(crate) fn request(id: impl Into<Value>, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params })
}

pub(crate) fn call(id: impl Into<Value>, tool: &str, arguments: Value) -> Value {
    request(id, "tools/call", json!({ "name": tool, "arguments": arguments }))
}

pub(crate) fn initialize(revision: &str) -> Value {
    let client = json!({ "name": "test", "version": "1" });
    request(0, "initialize", json!({ "protocolVersion": revision, "capabilities": {}, "clientInfo": client }))
}

/// The same as a request of 2026-07-28, and its headers.
pub(crate) fn stateless(mut request: Value, capabilities: Value) -> (Value, Vec<(&'static str, String)>) {
    request["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    });
    let mut headers = vec![("mcp-protocol-version", "2026-07-28".to_owned())];
    headers.push(("mcp-method", request["method"].as_str().unwrap().to_owned()));
    let name = request["params"].get("name").or(request["params"].get("taskId")).and_then(Value::as_str);
    headers.extend(name.map(|name| ("mcp-name", name.to_owned())));
    (request, headers)
}
