//! Callers of a tool, over HTTP and by standard input and output.

use std::{
    io,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use skep_bench::http::{Connection, find};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{ChildStdin, ChildStdout},
};

use crate::upstream::{LARGE_BYTES, SMALL};

/// Which of the upstream's tools is called.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Tool {
    Small,
    Large,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Small => "small",
            Tool::Large => "large",
        }
    }

    /// Whether this is the answer that the upstream gave.
    fn is_answer(self, answer: &[u8]) -> bool {
        match self {
            Tool::Small => contains(answer, SMALL.as_bytes()) && !contains(answer, b"\"error\""),
            Tool::Large => answer.len() > LARGE_BYTES,
        }
    }
}

/// How a endpoint is called.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Way {
    /// Streamable HTTP of the older revisions: a session for each client.
    Session,
    /// Streamable HTTP of 2026-07-28: every request stands alone.
    Stateless,
    /// mcp-hub's own REST call.
    McpHub,
}

/// Where calls go.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// Address and port.
    pub(crate) address: String,
    pub(crate) path: &'static str,
    /// What stands before the names of tools.
    pub(crate) prefix: String,
    pub(crate) way: Way,
}

/// One client of a endpoint.
pub(crate) struct Client {
    connection: Connection,
    endpoint: Endpoint,
    session: Option<String>,
}

impl Client {
    pub(crate) async fn connect(endpoint: &Endpoint) -> io::Result<Client> {
        let connection = Connection::open(&endpoint.address).await?;
        let mut client = Client { connection, endpoint: endpoint.clone(), session: None };
        if endpoint.way == Way::Session {
            let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
                "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "bench", "version": "1" },
            } });
            let request = client.request("initialize", "", &hello);
            let answer = client.connection.exchange(&request).await?;
            client.session = answer.header("mcp-session-id").map(str::to_owned);
            let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
            let request = client.request("notifications/initialized", "", &ready);
            client.connection.exchange(&request).await?;
        }
        Ok(client)
    }

    /// Call a tool, and tell how long it took.
    pub(crate) async fn call(&mut self, tool: Tool) -> io::Result<Duration> {
        let name = format!("{}{}", self.endpoint.prefix, tool.name());
        let mut params = json!({ "name": name, "arguments": {} });
        if self.endpoint.way == Way::Stateless {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": { "name": "bench", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            });
        }
        let body = match self.endpoint.way {
            Way::McpHub => json!({ "server_name": "upstream", "tool": tool.name(), "arguments": {} }),
            Way::Session | Way::Stateless => {
                json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params })
            }
        };
        let request = self.request("tools/call", &name, &body);
        let began = Instant::now();
        let answer = self.connection.exchange(&request).await?;
        let took = began.elapsed();
        if answer.status() == 200 && tool.is_answer(answer.body()) { Ok(took) } else { Err(answer.into_error()) }
    }

    fn request(&self, method: &str, name: &str, body: &Value) -> Vec<u8> {
        let Endpoint { address, path, way, .. } = &self.endpoint;
        let body = body.to_string();
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\ncontent-length: {}\r\n",
            body.len()
        );
        if *way == Way::Stateless {
            request += &format!("mcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\nmcp-name: {name}\r\n");
        }
        if let Some(session) = &self.session {
            request += &format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-06-18\r\n");
        }
        format!("{request}\r\n{body}").into_bytes()
    }
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    find(text, what).is_some()
}

/// A client of a process, by its standard input and output.
pub(crate) struct Pipe {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    line: Vec<u8>,
}

impl Pipe {
    pub(crate) async fn open(input: ChildStdin, output: ChildStdout) -> io::Result<Pipe> {
        let mut pipe = Pipe { input, output: BufReader::with_capacity(1 << 16, output), line: Vec::new() };
        let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
        pipe.exchange(hello).await?;
        pipe.input.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n").await?;
        Ok(pipe)
    }

    pub(crate) async fn call(&mut self, tool: Tool) -> io::Result<Duration> {
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": tool.name(), "arguments": {} } });
        let request = request.to_string();
        let began = Instant::now();
        self.exchange(&request).await?;
        let took = began.elapsed();
        if tool.is_answer(&self.line) {
            Ok(took)
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&self.line).into_owned()))
        }
    }

    async fn exchange(&mut self, request: &str) -> io::Result<()> {
        self.input.write_all(format!("{request}\n").as_bytes()).await?;
        self.line.clear();
        self.output.read_until(b'\n', &mut self.line).await?;
        Ok(())
    }
}
