//! What stands before the upstream: nothing, Skep, and what a user would pick instead.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;
use skep_bench::hub::{beside, listening};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
};

use crate::client::{Client, Endpoint, Pipe, Tool, Way};

/// How long a program may take until it answers its first call.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// Pause between two looks at whether it does.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A running program, which ends with this value.
pub(crate) struct Running {
    pub(crate) endpoint: Endpoint,
    pub(crate) child: Child,
    _files: Option<tempfile::TempDir>,
}

/// Where an upstream is.
#[derive(Clone, Copy)]
pub(crate) enum Upstream<'a> {
    Http(&'a str),
    Stdio,
}

fn this_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// The upstream over HTTP, by itself.
pub(crate) async fn http_upstream() -> io::Result<Running> {
    let mut command = Command::new(this_program()?);
    command.args(["upstream", "127.0.0.1:0"]);
    let (child, address) = listening(command).await?;
    Ok(Running {
        endpoint: Endpoint { address, path: "/mcp", prefix: String::new(), way: Way::Session },
        child,
        _files: None,
    })
}

/// The upstream as a process, by itself.
pub(crate) async fn stdio_upstream() -> io::Result<(Child, Pipe)> {
    let mut child = Command::new(this_program()?)
        .arg("upstream")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("no pipes"));
    };
    Ok((child, Pipe::open(input, output).await?))
}

/// Skep before `count` such upstreams, named `upstream` or `upstream0` and so on.
pub(crate) async fn skep(upstream: Upstream<'_>, count: usize) -> io::Result<Running> {
    let files = tempfile::tempdir()?;
    let entry = match upstream {
        Upstream::Http(address) => json!({ "type": "http", "url": format!("http://{address}/mcp") }),
        Upstream::Stdio => json!({ "command": this_program()?, "args": ["upstream"] }),
    };
    let name = |index| if count == 1 { "upstream".to_owned() } else { format!("upstream{index}") };
    let servers: serde_json::Map<_, _> = (0..count).map(|index| (name(index), entry.clone())).collect();
    let config = files.path().join("mcp.json");
    std::fs::write(&config, json!({ "mcpServers": servers }).to_string())?;
    let mut command = Command::new(beside()?);
    command
        .args(["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--mcp-config"])
        .arg(config)
        .arg("--workspace")
        .arg(files.path())
        .env("SKEP_HOME", files.path().join("state"));
    let (child, address) = listening(command).await?;
    let endpoint = Endpoint { address, path: "/mcp", prefix: "upstream__".to_owned(), way: Way::Session };
    Ok(Running { endpoint, child, _files: Some(files) })
}

/// A program of others that is installed below `peers`, before an upstream.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    program: &'static str,
    path: &'static str,
    prefix: &'static str,
    way: Way,
    /// Its arguments, and what is in its configuration file, which it finds at `FILE`.
    arguments: fn(port: u16, upstream: &str) -> (Vec<String>, String),
}

/// Those that speak HTTP with a server.
pub(crate) const HTTP_PEERS: [Peer; 2] = [
    Peer {
        name: "mcp-proxy 0.6.0 (crates.io)",
        program: "bin/mcp-proxy",
        path: "/",
        prefix: "upstream__",
        way: Way::Session,
        arguments: |port, upstream| {
            let config = format!(
                "[proxy]\nname = \"bench\"\nversion = \"1\"\nseparator = \"__\"\n[proxy.listen]\nhost = \"127.0.0.1\"\nport = {port}\n\
                 [[backends]]\nname = \"upstream\"\ntransport = \"http\"\nurl = \"http://{upstream}/mcp\"\n"
            );
            (words("--config FILE"), config)
        },
    },
    Peer {
        name: "fastmcp 4.1.2 (PyPI)",
        program: "fastmcp/bin/fastmcp",
        path: "/mcp",
        prefix: "",
        way: Way::Session,
        arguments: |port, upstream| {
            let config = json!({ "mcpServers": { "upstream": { "url": format!("http://{upstream}/mcp") } } });
            (
                words(&format!("run FILE --transport http --port {port} --no-banner --log-level ERROR")),
                config.to_string(),
            )
        },
    },
];

/// Those that start a server.
pub(crate) const STDIO_PEERS: [Peer; 3] = [
    Peer {
        name: "mcp-proxy 0.12.0 (PyPI)",
        program: "mcp-proxy/bin/mcp-proxy",
        path: "/mcp",
        prefix: "",
        way: Way::Session,
        arguments: |port, program| {
            (words(&format!("--log-level ERROR --port {port} -- {program} upstream")), String::new())
        },
    },
    Peer {
        name: "supergateway 4.0.0 (npm)",
        program: "node_modules/.bin/supergateway",
        path: "/mcp",
        prefix: "",
        way: Way::Session,
        arguments: |port, program| {
            let mut arguments =
                words(&format!("--outputTransport streamableHttp --stateful --logLevel none --port {port} --stdio"));
            arguments.push(format!("{program} upstream"));
            (arguments, String::new())
        },
    },
    Peer {
        name: "mcp-hub 4.2.1 (npm), by REST",
        program: "node_modules/.bin/mcp-hub",
        path: "/api/servers/tools",
        prefix: "",
        way: Way::McpHub,
        arguments: |port, program| {
            let config = json!({ "mcpServers": { "upstream": { "command": program, "args": ["upstream"] } } });
            (words(&format!("--port {port} --config FILE")), config.to_string())
        },
    },
];

impl Peer {
    /// Start it, and wait until it answers; `None` if it is not installed.
    pub(crate) async fn start(&self, peers: &Path, upstream: Upstream<'_>) -> io::Result<Option<Running>> {
        let program = peers.join(self.program);
        if !program.exists() {
            return Ok(None);
        }
        let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        let this = this_program()?;
        let upstream = match upstream {
            Upstream::Http(address) => address,
            Upstream::Stdio => this.to_str().ok_or_else(|| io::Error::other("this program's path is not UTF-8"))?,
        };
        let (mut arguments, config) = (self.arguments)(port, upstream);
        let files = tempfile::tempdir()?;
        let file = files.path().join(if config.starts_with('{') { "mcp.json" } else { "proxy.toml" });
        std::fs::write(&file, config)?;
        for argument in &mut arguments {
            if argument == "FILE" {
                *argument = file.display().to_string();
            }
        }
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("HOME", files.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let child = command.spawn()?;
        let endpoint = Endpoint {
            address: format!("127.0.0.1:{port}"),
            path: self.path,
            prefix: self.prefix.to_owned(),
            way: self.way,
        };
        let began = Instant::now();
        loop {
            let answered = async { Client::connect(&endpoint).await?.call(Tool::Small).await };
            match tokio::time::timeout(START_TIME_MAX, answered).await? {
                Ok(_) => return Ok(Some(Running { endpoint, child, _files: Some(files) })),
                Err(error) if began.elapsed() > START_TIME_MAX => return Err(error),
                Err(_) => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
