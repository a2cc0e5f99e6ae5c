//! Real MCP clients against a hub: each is connected by `skep connect`, asked by its own command which servers it knows and
//! how they are, and disconnected again.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{cargo, conformance::Listening, run};

/// Where the clients are installed.
const DIRECTORY: &str = "target/clients";

/// The hub wants a token, which every client must take from its environment.
const TOKEN: &str = "known-to-the-hub-and-its-clients";

/// Without this, Gemini CLI leaves all servers alone in a directory that nobody has called trusted.
const GEMINI_SETTINGS: &str = "{ \"security\": { \"folderTrust\": { \"enabled\": false } } } // stays\n";

/// A client, its package, and what its list says of a server that it has reached, if it tries.
const CLIENTS: [(&str, &str, Option<&str>); 3] = [
    ("claude", "@anthropic-ai/claude-code@2.1.197", Some("Connected")),
    ("codex", "@openai/codex@0.171.0", None),
    ("gemini", "@google/gemini-cli@0.61.0", Some("Connected")),
];

/// Connect each client to a hub, and to a process of its own.
pub(crate) fn check() -> Result<(), String> {
    let root = env::current_dir().map_err(|error| format!("where is this? {error}"))?;
    let directory = root.join(DIRECTORY);
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    run(cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
    let home = directory.join("home");
    let _ = fs::remove_dir_all(&home); // of an earlier time
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let gemini = home.join(".gemini");
    fs::create_dir_all(&gemini)
        .and_then(|()| fs::write(gemini.join("settings.json"), GEMINI_SETTINGS))
        .map_err(|error| format!("{}: {error}", gemini.display()))?;
    let user = User { skep: root.join("target/debug/skep"), clients: directory.join("node_modules/.bin"), home };
    let hub =
        Listening::start(user.command(&user.skep).args(["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]))?;
    println!("a hub listens on {}", hub.url);
    for (client, package, reached) in CLIENTS {
        if !user.clients.join(client).exists() {
            let mut npm = Command::new("npm");
            run(npm.args(["install", "--no-fund", "--no-audit", "--prefix", ".", package]).current_dir(&directory))?;
        }
        for stdio in [false, true] {
            let connect = ["connect", client, "--stdio"];
            user.skep(if stdio { &connect } else { &connect[..2] })?;
            let list = user.list(client)?;
            let expected = if stdio { "mcp-stdio" } else { &hub.url };
            let line = list.lines().find(|line| line.contains("skep")).unwrap_or_default();
            if !list.contains(expected) || reached.is_some_and(|reached| !line.contains(reached)) {
                return Err(format!(
                    "{client} does not list the hub as {expected}, {}:\n{list}",
                    reached.unwrap_or("known")
                ));
            }
            println!("{client}: {}", line.trim());
        }
        user.skep(&["disconnect", client])?;
        let list = user.list(client)?;
        if list.contains("mcp-stdio") {
            return Err(format!("{client} still lists the hub:\n{list}"));
        }
    }
    Ok(())
}

/// Somebody with nothing but these programs.
struct User {
    skep: PathBuf,
    clients: PathBuf,
    home: PathBuf,
}

impl User {
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("SKEP_TOKEN", TOKEN);
        command.current_dir(&self.home).stdin(Stdio::null());
        command
    }

    fn skep(&self, arguments: &[&str]) -> Result<(), String> {
        run(self.command(&self.skep).args(arguments).stdout(Stdio::null()))
    }

    /// What a client's own list of servers says, on both streams.
    fn list(&self, client: &str) -> Result<String, String> {
        let output = self.command(&self.clients.join(client)).args(["mcp", "list"]).output();
        let output = output.map_err(|error| format!("{client} cannot be started: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(text(&output.stdout) + &text(&output.stderr))
    }
}
