//! What is measured: a real `skep serve`, and a Redis for it.

use std::{net::TcpListener, path::Path, process::Stdio, time::Duration};

use skep_bench::hub::{beside, listening};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};

/// A hub, until it is dropped.
pub(crate) struct Hub {
    /// Its address and port.
    pub(crate) address: String,
    _child: Child,
}

impl Hub {
    /// Start one with a state directory and more options.
    pub(crate) async fn start(home: &Path, options: &[&str]) -> Hub {
        std::fs::create_dir_all(home).unwrap();
        let mut command = Command::new(beside().unwrap());
        command.args(["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--workspace"]).arg(home);
        command.args(options).env("SKEP_HOME", home.join("state"));
        let (child, address) = listening(command).await.unwrap();
        Hub { address, _child: child }
    }

    /// A request that calls a tool as programs do.
    pub(crate) fn call(&self, tool: &str, arguments: &serde_json::Value) -> Vec<u8> {
        let (address, body) = (&self.address, arguments.to_string());
        let length = body.len();
        format!(
            "POST /tools/{tool} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// A Redis, until it is dropped.
pub(crate) struct Redis {
    /// Its address, as a URL.
    pub(crate) address: String,
    /// The same as a socket address.
    pub(crate) socket: String,
    _child: Child,
}

impl Redis {
    /// `None` if it is not installed.
    pub(crate) async fn start(directory: &Path) -> Option<Redis> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        let child = command.arg(directory).stdout(Stdio::null()).kill_on_drop(true).spawn().ok()?;
        let socket = format!("127.0.0.1:{port}");
        while TcpStream::connect(&socket).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        Some(Redis { address: format!("redis://{socket}"), socket, _child: child })
    }
}
