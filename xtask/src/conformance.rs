//! The official conformance suite of the Model Context Protocol against `skep serve` with a server behind it: callers of
//! both eras, servers of both eras, over both transports. The server is the example `fixture` of `skep-mcp`.

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

/// The suite, and the Node that it needs, which is newer than Debian's.
const PACKAGES: [&str; 2] = ["node@22.23.3", "@modelcontextprotocol/conformance@0.2.0-alpha.12"];

/// What each revision requires, as it stood when the revision was released.
const REQUIREMENTS: [&str; 2] = ["2026-07-28", "2025-11-25"];

/// Checks of 2026-07-28 that no gateway before an older server can pass.
///
/// The server's question must arrive under the key `user_name`. Keys are new in 2026-07-28: before, a question is a
/// request, known by an id that its sender picked and that says nothing, so the gateway has to make the key up.
const NOT_OF_OLDER_SERVERS: &str = "\
server:
  - input-required-result-basic-elicitation:sep-2322-elicitation-incomplete
";

/// For a program to say where it listens.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// Run the suite for each pair of a caller's and a server's revision, over both transports.
pub(crate) fn check() -> Result<(), String> {
    let root = env::current_dir().map_err(|error| format!("where is this? {error}"))?;
    let directory = root.join("target/conformance");
    let programs = install(&directory)?;
    run(cargo().args(["build", "--workspace", "--bins", "--examples", "--locked"]))?;
    let baseline = directory.join("older.yaml");
    write(&baseline, NOT_OF_OLDER_SERVERS)?;
    let fixture = root.join("target/debug/examples/fixture");
    for is_older in [false, true] {
        let baseline = is_older.then_some(baseline.as_path());
        let age: &[&str] = if is_older { &["older"] } else { &[] };
        let arguments = [&["stdio"], age].concat().join(r#"", ""#);
        let entry = format!(r#"{{ "command": "{}", "args": ["{arguments}"] }}"#, fixture.display());
        suite(&programs, &directory, &entry, baseline)?;
        let server = Listening::start(Command::new(&fixture).args(["http", "127.0.0.1:0"]).args(age))?;
        suite(&programs, &directory, &format!(r#"{{ "url": "{}" }}"#, server.url), baseline)?;
    }
    Ok(())
}

/// Install the suite, once. Returns the search path that has it.
fn install(directory: &Path) -> Result<OsString, String> {
    let stamp = directory.join("installed");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return search_path(directory);
    }
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    println!("installing {}", PACKAGES.join(" and "));
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
fn suite(path: &OsString, directory: &Path, server: &str, baseline: Option<&Path>) -> Result<(), String> {
    let workspace = directory.join("workspace");
    fs::create_dir_all(&workspace).map_err(|error| format!("{}: {error}", workspace.display()))?;
    let config = directory.join("mcp.json");
    write(&config, &format!(r#"{{ "mcpServers": {{ "fixture": {server} }} }}"#))?;
    let mut skep = Command::new("target/debug/skep");
    skep.arg("--home").arg(directory.join("home")).args(["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]);
    skep.arg("--no-prefix").arg("--mcp-config").arg(&config).arg("--workspace").arg(&workspace);
    let skep = Listening::start(&mut skep)?;
    let url = format!("{}/mcp", skep.url.trim_end_matches("/mcp"));
    for revision in REQUIREMENTS {
        println!("\n# a caller of {revision}, skep, {server}");
        let mut suite = Command::new("conformance");
        suite.env("PATH", path).args(["server", "--url", &url, "--requirements", revision]);
        suite.arg("--output-dir").arg(directory.join("results"));
        if let Some(baseline) = baseline.filter(|_| revision == REQUIREMENTS[0]) {
            suite.arg("--expected-failures").arg(baseline);
        }
        let output = suite.output().map_err(|error| format!("conformance cannot be started: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            eprint!("{text}{}", String::from_utf8_lossy(&output.stderr));
            return Err(format!(
                "a caller of {revision} is not served as it must be; results are in target/conformance"
            ));
        }
        // Extensions run along and are counted, but no revision requires them.
        let told = |line: &&str| line.starts_with("Total") || line.starts_with("Not scored");
        text.lines().filter(told).for_each(|line| println!("{line}"));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A program that listens; it ends with this.
struct Listening {
    child: Child,
    url: String,
}

impl Listening {
    /// Start it and wait until it says where it listens.
    fn start(command: &mut Command) -> Result<Listening, String> {
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
