//! `skep serve` with one server behind it. The tests with implementations of others use it, too.

use std::{io, path::Path, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

/// The file that names the server, in the hub's directory.
pub(crate) const CONFIG: &str = "mcp.json";
/// The server's name there.
pub(crate) const SERVER: &str = "server";

/// A hub that runs.
pub(crate) struct Hub {
    child: Child,
    /// Of `/mcp`.
    pub(crate) url: String,
    /// Reads what it says, so that it never waits for its reader.
    _reading: JoinSet<()>,
}

impl Hub {
    /// Start the program in this directory with a server behind it, which is described as in a client's file of servers.
    pub(crate) async fn start(program: &str, server: &serde_json::Value, home: &Path) -> io::Result<Hub> {
        let config = home.join(CONFIG);
        std::fs::write(&config, serde_json::json!({ "mcpServers": { SERVER: server } }).to_string())?;
        let mut command = Command::new(program);
        command.arg("--home").arg(home).args(["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]);
        command.arg("--no-prefix").arg("--mcp-config").arg(&config).arg("--workspace").arg(home);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?).lines();
        let url = loop {
            let line = lines.next_line().await?.ok_or_else(|| io::Error::other("skep ended before it listened"))?;
            match line.strip_prefix("listening on http://") {
                Some(address) => break format!("http://{address}/mcp"),
                None => eprintln!("{line}"),
            }
        };
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{line}");
            }
        });
        Ok(Hub { child, url, _reading: reading })
    }

    /// Ask it to end, and wait until it has.
    pub(crate) async fn stop(mut self) -> io::Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            kill_process(id, Signal::TERM)?;
        }
        let status = self.child.wait().await?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("skep ended with {status}"))) }
    }
}
