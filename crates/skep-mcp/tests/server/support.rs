//! A server whose calls can be held, and a client that does what it is told.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use skep_mcp::{
    message::ErrorObject,
    revision::Revision,
    server::{
        BoxFuture, Call, Caller, Change, Description, Limits, Outcome, Peer, Server, Service, Watch, headers, lines,
    },
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, ReadHalf, WriteHalf},
    sync::{Semaphore, broadcast, mpsc},
    time::timeout,
};

use crate::{behind::gateway, service::Fixture};

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("nothing happened")
}

/// The fixture, and a method `test/stall` that says when it runs and when it is given up.
pub(crate) struct Stalling {
    fixture: Arc<Fixture>,
    tell: mpsc::UnboundedSender<&'static str>,
    release: Arc<Semaphore>,
}

struct TellAtTheEnd(mpsc::UnboundedSender<&'static str>);

impl Drop for TellAtTheEnd {
    fn drop(&mut self) {
        let _ = self.0.send("ended");
    }
}

impl Service for Stalling {
    fn describe(&self) -> Description {
        self.fixture.describe()
    }

    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> BoxFuture<Outcome> {
        if call.method != "test/stall" {
            return Arc::clone(&self.fixture).handle(call, peer);
        }
        Box::pin(async move {
            let _end = TellAtTheEnd(self.tell.clone());
            let _ = self.tell.send("running");
            peer.progress(1.0, None, None);
            self.release.acquire().await.unwrap().forget();
            Ok(serde_json::value::to_raw_value(&json!({ "stalled": true })).unwrap())
        })
    }

    fn watch(self: Arc<Self>, uri: String, caller: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
        Arc::clone(&self.fixture).watch(uri, caller)
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.fixture.changes()
    }

    fn header_arguments(&self, tool: &str) -> Vec<headers::HeaderArgument> {
        self.fixture.header_arguments(tool)
    }
}

/// A server, and what its calls report.
pub(crate) struct Hub {
    pub(crate) server: Server,
    pub(crate) told: mpsc::UnboundedReceiver<&'static str>,
    pub(crate) release: Arc<Semaphore>,
}

impl Hub {
    pub(crate) fn new(limits: Limits) -> Hub {
        let (tell, told) = mpsc::unbounded_channel();
        let release = Arc::new(Semaphore::new(0));
        let service = Stalling { fixture: Arc::new(Fixture::new()), tell, release: Arc::clone(&release) };
        Hub { server: Server::new(Arc::new(service), limits), told, release }
    }

    /// The same behind a gateway, under each of these names.
    pub(crate) async fn behind_gateway(names: &[&str], revision: Revision) -> Hub {
        let hub = Hub::new(Limits::default());
        let gateway = gateway(hub.server.clone(), names, revision).await.unwrap();
        Hub { server: Server::new(gateway, Limits::default()), ..hub }
    }

    pub(crate) async fn told(&mut self, expected: &str) {
        assert_eq!(within(self.told.recv()).await, Some(expected));
    }

    /// A connection with lines.
    pub(crate) fn connect(&self) -> Client {
        self.connect_with(lines::Options::default(), 1 << 20)
    }

    pub(crate) fn connect_with(&self, options: lines::Options, buffer: usize) -> Client {
        connect(&self.server, options, buffer)
    }
}

/// A connection with lines to any server.
pub(crate) fn connect(server: &Server, options: lines::Options, buffer: usize) -> Client {
    let (here, there) = tokio::io::duplex(buffer);
    let server = server.clone();
    let (input, output) = tokio::io::split(there);
    #[expect(clippy::disallowed_methods, reason = "the test waits for what it says")]
    let serving = tokio::spawn(async move { lines::serve(&server, input, output, options).await });
    let (input, output) = tokio::io::split(here);
    Client { input: BufReader::new(input), output, serving }
}

/// One end of a connection.
pub(crate) struct Client {
    input: BufReader<ReadHalf<DuplexStream>>,
    output: WriteHalf<DuplexStream>,
    pub(crate) serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Client {
    pub(crate) async fn write(&mut self, text: &str) {
        within(self.output.write_all(text.as_bytes())).await.unwrap();
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.write(&format!("{message}\n")).await;
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Value {
        let mut line = String::new();
        assert!(within(self.input.read_line(&mut line)).await.unwrap() > 0, "the connection has ended");
        serde_json::from_str(&line).unwrap()
    }

    /// Read so many bytes at most, and give how many there were.
    pub(crate) async fn read_some(&mut self, bytes_max: usize) -> usize {
        let bytes = within(self.input.read(&mut vec![0; bytes_max])).await.unwrap();
        assert!(bytes > 0, "the connection has ended");
        bytes
    }

    pub(crate) async fn ask(&mut self, message: Value) -> Value {
        self.send(message).await;
        self.next().await
    }

    pub(crate) async fn initialize(&mut self, revision: &str, capabilities: Value) -> Value {
        let params = json!({ "protocolVersion": revision, "capabilities": capabilities,
            "clientInfo": { "name": "test", "version": "1" } });
        let answer = self.ask(request(0, "initialize", params)).await;
        self.send(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        answer
    }

    /// Say that there will be no more, and wait until the server has ended the connection.
    pub(crate) async fn end(mut self) -> std::io::Result<()> {
        self.output.shutdown().await.unwrap();
        within(self.serving).await.unwrap()
    }
}

pub(crate) fn request(id: i64, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

pub(crate) fn call(id: i64, tool: &str, arguments: Value) -> Value {
    request(id, "tools/call", json!({ "name": tool, "arguments": arguments }))
}

/// The same as a request of 2026-07-28.
pub(crate) fn stateless(mut request: Value, capabilities: Value) -> Value {
    request["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    });
    request
}
