//! The official conformance suite of the Model Context Protocol against `skep serve`, from both sides.
//!
//! As a server, with the example `fixture` of `skep-mcp` behind it: callers of both eras, servers of both eras, over both
//! transports. As a client, with the suite's servers behind it, which the example `caller` calls in both eras. And the MCP
//! Inspector's opinion on the schemas of Skep's own tools.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{cargo, run};

/// The suite, the Inspector, and the Node that they need, which is newer than Debian's.
const PACKAGES: [&str; 3] =
    ["node@22.23.3", "@modelcontextprotocol/conformance@0.2.0-alpha.12", "@modelcontextprotocol/inspector@2.12.0"];

/// What each revision requires, as it stood when the revision was released.
const REQUIREMENTS: [&str; 2] = ["2026-07-28", "2025-11-25"];

/// A scenario for a server that is left out: it wants a tool that refuses callers who do not take tasks. Skep has none, because it
/// serves every call with and without a task.
const NEEDS_A_TASK: &str = "tasks-required-task-error";

/// When a call becomes a task here: after the fixture's quick tools have answered, and before its slow ones ask or answer.
const TASK_AFTER: &str = "750ms";

/// For a program to say where it listens.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// Run the suite for each pair of a caller's and a server's revision, over both transports.
pub(crate) fn check() -> Result<(), String> {
    let root = env::current_dir().map_err(|error| format!("where is this? {error}"))?;
    let directory = root.join("target/conformance");
    let programs = install(&directory)?;
    run(cargo().args(["build", "--workspace", "--bins", "--examples", "--locked"]))?;
    inspect(&programs, &directory, &root.join("target/debug/skep"))?;
    client_side(&programs, &directory, &root.join("target/debug"))?;
    let fixture = root.join("target/debug/examples/fixture");
    for is_older in [false, true] {
        let age: &[&str] = if is_older { &["older"] } else { &[] };
        let arguments = [&["stdio"], age].concat().join(r#"", ""#);
        let entry = format!(r#"{{ "command": "{}", "args": ["{arguments}"] }}"#, fixture.display());
        suite(&programs, &directory, &entry)?;
        let server = Listening::start(Command::new(&fixture).args(["http", "127.0.0.1:0"]).args(age))?;
        suite(&programs, &directory, &format!(r#"{{ "url": "{}" }}"#, server.url))?;
    }
    Ok(())
}

/// What clients may have against the schemas of Skep's own tools, as the MCP Inspector knows them: nothing.
fn inspect(path: &OsString, directory: &Path, skep: &Path) -> Result<(), String> {
    println!("\n# the schemas of the tools, as the MCP Inspector sees them");
    let mut inspector = Command::new("mcp-inspector");
    inspector.env("PATH", path).env("HOME", directory).args(["--cli", "--strict", "--method", "tools/list"]);
    inspector.arg(skep).arg("mcp-stdio");
    let output = inspector.output().map_err(|error| format!("mcp-inspector cannot be started: {error}"))?;
    let (listed, report) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A warning does not show in its exit status.
    let is_clean = !report.lines().any(|line| line.starts_with("Warning:") || line.starts_with("Error:"));
    if output.status.success() && is_clean && listed.contains("\"inputSchema\"") {
        return Ok(());
    }
    eprint!("{report}");
    Err("the MCP Inspector has something against the schemas of the tools".to_owned())
}

/// Each scenario for a client, tried by callers of both eras at once: they wait more than they work.
fn client_side(path: &OsString, directory: &Path, programs: &Path) -> Result<(), String> {
    let (caller, skep) = (programs.join("examples/caller"), programs.join("skep"));
    for revision in REQUIREMENTS {
        let Scenarios { counted, uncounted } = scenarios(path, revision, Side::Client)?;
        println!("\n# {} scenarios for a client of {revision}", counted.len() + uncounted.len());
        let tried_by = |age: &str| {
            let directory = directory.join(age);
            for scenario in counted.iter().chain(&uncounted) {
                let mut suite = conformance(path, "client", &directory);
                suite.args(["--scenario", scenario, "--spec-version", revision]);
                // Those of extensions are of no revision.
                suite.args(uncounted.contains(scenario).then_some("--force"));
                suite.arg("--command").arg(format!("{} {} {age}", caller.display(), skep.display()));
                succeeds(&mut suite).map_err(|error| format!("{scenario}, a caller of {age}: {error}"))?;
                println!("a caller of {age}, skep, a server of {revision}: {scenario}");
            }
            Ok::<_, String>(())
        };
        thread::scope(|scope| {
            let trying = REQUIREMENTS.map(|age| scope.spawn(move || tried_by(age)));
            trying.into_iter().try_for_each(|one| one.join().map_err(|_| "a thread ended early".to_owned())?)
        })?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

/// What the suite runs for a revision.
struct Scenarios {
    /// What the revision requires.
    counted: Vec<String>,
    /// What the suite runs along: extensions, and what was added later.
    uncounted: Vec<String>,
}

fn scenarios(path: &OsString, revision: &str, side: Side) -> Result<Scenarios, String> {
    let (heading, mark) = match side {
        Side::Client => ("Client scenarios", " [client]"),
        Side::Server => ("Server scenarios", " [server]"),
    };
    let mut list = Command::new("conformance");
    list.env("PATH", path).args(["list", "--requirements", revision]);
    let text = succeeds(&mut list)?;
    let mut scenarios = Scenarios { counted: Vec::new(), uncounted: Vec::new() };
    let mut is_counted = false;
    for line in text.lines() {
        match line.trim_start().strip_prefix("- ") {
            None if line.is_empty() => {}
            None => is_counted = line.starts_with(heading),
            Some(scenario) if is_counted => scenarios.counted.push(scenario.to_owned()),
            Some(scenario) => scenarios.uncounted.extend(scenario.strip_suffix(mark).map(str::to_owned)),
        }
    }
    let is_complete = !scenarios.counted.is_empty() && !scenarios.uncounted.is_empty();
    if is_complete { Ok(scenarios) } else { Err(format!("the suite's list cannot be read: {text}")) }
}

fn conformance(path: &OsString, side: &str, directory: &Path) -> Command {
    let mut suite = Command::new("conformance");
    suite.env("PATH", path).arg(side).arg("--output-dir").arg(directory.join("results"));
    suite
}

/// Run it to its end. Returns what it printed; shows it if it fails.
fn succeeds(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{name} cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    eprint!("{text}{}", String::from_utf8_lossy(&output.stderr));
    Err(format!("{name} ended with {}; results are in target/conformance", output.status))
}

/// Install the suite, once. Returns the search path that has it.
fn install(directory: &Path) -> Result<OsString, String> {
    let stamp = directory.join("installed");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return search_path(directory);
    }
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    println!("installing {}", PACKAGES.join(", "));
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--save-exact", "--prefix"]).arg(directory).args(PACKAGES);
    run(&mut npm)?;
    write(&stamp, &wanted)?;
    search_path(directory)
}

fn search_path(directory: &Path) -> Result<OsString, String> {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let ours: PathBuf = directory.join("node_modules/.bin");
    env::join_paths([ours].into_iter().chain(env::split_paths(&inherited))).map_err(|error| error.to_string())
}

/// Both requirement sets against `skep serve` before this server.
fn suite(path: &OsString, directory: &Path, server: &str) -> Result<(), String> {
    let workspace = directory.join("workspace");
    fs::create_dir_all(&workspace).map_err(|error| format!("{}: {error}", workspace.display()))?;
    let config = directory.join("mcp.json");
    write(&config, &format!(r#"{{ "mcpServers": {{ "fixture": {server} }} }}"#))?;
    let settings = directory.join("skep.toml");
    write(&settings, &format!("[serve]\ntask_after = \"{TASK_AFTER}\"\n"))?;
    let mut skep = Command::new("target/debug/skep");
    skep.arg("--home").arg(directory.join("home")).arg("--config").arg(&settings);
    skep.args(["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]);
    skep.arg("--no-prefix").arg("--mcp-config").arg(&config).arg("--workspace").arg(&workspace);
    let skep = Listening::start(&mut skep)?;
    let url = format!("{}/mcp", skep.url.trim_end_matches("/mcp"));
    for revision in REQUIREMENTS {
        println!("\n# a caller of {revision}, skep, {server}");
        let mut suite = conformance(path, "server", directory);
        suite.args(["--url", &url, "--requirements", revision]);
        let text = succeeds(&mut suite).map_err(|error| format!("a caller of {revision}: {error}"))?;
        text.lines().filter(|line| line.starts_with("Total")).for_each(|line| println!("{line}"));
        // What the suite runs along and does not count, counts here.
        let uncounted = scenarios(path, revision, Side::Server)?.uncounted;
        let failed = text.lines().filter_map(|line| line.strip_prefix("✗ ")?.split_once(": ")).map(|(name, _)| name);
        let mut failed = failed.filter(|name| *name != NEEDS_A_TASK && uncounted.iter().any(|known| known == name));
        if let Some(scenario) = failed.next() {
            eprint!("{text}");
            return Err(format!("{scenario} of {revision} failed; results are in target/conformance"));
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A program that listens; it ends with this.
pub(crate) struct Listening {
    child: Child,
    pub(crate) url: String,
}

impl Listening {
    /// Start it and wait until it says where it listens.
    pub(crate) fn start(command: &mut Command) -> Result<Listening, String> {
        let name = command.get_program().display().to_string();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name} cannot be started: {error}"))?;
        let stderr = child.stderr.take();
        let mut listening = Listening { child, url: String::new() };
        let (says, said) = mpsc::channel();
        thread::spawn(move || stderr.map(|stderr| follow(stderr, &says)));
        listening.url =
            said.recv_timeout(START_TIME_MAX).map_err(|_| format!("{name} does not say where it listens"))?;
        Ok(listening)
    }
}

/// Pass on what it says, and where it listens.
fn follow(stderr: ChildStderr, says: &mpsc::Sender<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if let Some(url) = line.strip_prefix("listening on ").filter(|url| url.starts_with("http")) {
            let _ = says.send(url.to_owned()); // only the first is waited for
        } else if !line.starts_with("listening on ") {
            eprintln!("{line}");
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Asked to stop, it ends what it started, too.
        let id = self.child.id().to_string();
        if !Command::new("kill").arg(&id).status().is_ok_and(|status| status.success()) {
            let _ = self.child.kill(); // it may have ended by itself
        }
        let _ = self.child.wait(); // only so that it does not linger
    }
}
