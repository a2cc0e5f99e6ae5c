//! Chores of the project: `cargo xtask test`, `cargo xtask conformance`, `cargo xtask bench`, `cargo xtask dist`, …
//!
//! Uses nothing but the standard library, so that it is built in a second.

mod conformance;
mod dist;
mod interop;
mod tidy;

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
};

const USAGE: &str = "\
Chores of the Skep project.

Usage: cargo xtask <CHORE>

  test [ARGUMENTS…]   install what the tests need, then run all of them; ARGUMENTS go to `cargo test`
  bench [NAME]        build for release and run the measurements (or one: store, shared, curves, followers, process, gateway,
                       run, sandbox)
  faults [--minutes N] [--seed N]
                      kill hubs, Redis and PostgreSQL and cut their connections, for N minutes (10) each without and with a
                      standby, while others write and read; nothing acknowledged may be lost. The seed repeats a run
  conformance         only the official conformance suite of the Model Context Protocol, which `test` runs last
  interop             real MCP clients (Claude Code, Codex, Gemini CLI; through `npm`) against a hub
  tidy                rules about the sources that no compiler knows: dependencies, length, snapshots; compiles nothing
  schemas             write the JSON Schemas of plans, settings and tools in docs/schemas anew
  dist [PROGRAM]      build for release and pack it (or PROGRAM): a tarball, a Debian package, checksums, in target/dist
  setup               only install what the tests need (PostgreSQL, PgBouncer, Redis, Xvfb, tesseract, interpreters, runc, Chromium)
";

/// A program that tests use, where else it may be, and the Debian package that has it.
const NEEDED: [(&str, &[&str], &str); 10] = [
    ("initdb", &["/usr/lib/postgresql"], "postgresql"),
    ("pgbouncer", &["/usr/sbin/pgbouncer"], "pgbouncer"),
    ("redis-server", &[], "redis-server"),
    ("Xvfb", &[], "xvfb"),
    ("tesseract", &[], "tesseract-ocr"),
    ("python3", &[], "python3"),
    ("node", &[], "nodejs"),
    ("npm", &[], "npm"),
    ("runc", &["/usr/sbin/runc"], "runc"),
    ("chromium", &[], "chromium"),
];

/// Programs to measure against.
const NEEDED_FOR_BENCH: [(&str, &[&str], &str); 1] = [("bwrap", &[], "bubblewrap")];

/// The measurements: programs of `bench/`.
const MEASUREMENTS: [&str; 8] = ["store", "shared", "curves", "followers", "process", "gateway", "run", "sandbox"];

/// How long each part of the fault suite goes on, unless somebody says otherwise.
const FAULTS_MINUTES: u64 = 10;

/// MCP servers of others for the tests, below [`SERVERS_DIRECTORY`]: a file that tells that one is installed, and the commands that
/// install it there.
const SERVERS: [(&str, &[&str]); 2] = [
    (
        "node_modules/.bin/mcp-server-memory",
        &["npm install --no-fund --no-audit --prefix . @modelcontextprotocol/server-everything@2026.8.31 \
           @modelcontextprotocol/server-filesystem@2026.8.31 @modelcontextprotocol/server-memory@2026.8.31"],
    ),
    (
        "python/bin/mcp-server-time",
        &[
            "python3 -m venv python",
            "python/bin/pip --quiet install mcp-server-git==2026.10.19 mcp-server-time==2026.10.19",
        ],
    ),
];
const SERVERS_DIRECTORY: &str = "target/servers";

/// Gateways of others to measure against: a file that tells that one is installed below `target/peers`, and the commands
/// that install it there.
const PEERS: [(&str, &[&str]); 4] = [
    ("bin/mcp-proxy", &["cargo install --quiet --locked --root . mcp-proxy@0.6.0"]),
    ("fastmcp/bin/fastmcp", &["python3 -m venv fastmcp", "fastmcp/bin/pip --quiet install fastmcp==4.1.2"]),
    (
        "mcp-proxy/bin/mcp-proxy",
        &["python3 -m venv mcp-proxy", "mcp-proxy/bin/pip --quiet install mcp-proxy==0.12.0 mcp==1.30.0"],
    ),
    ("node_modules/.bin/mcp-hub", &["npm install --no-fund --no-audit --prefix . supergateway@4.0.0 mcp-hub@4.2.1"]),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["test", rest @ ..] => test(rest),
        ["bench"] => bench(&MEASUREMENTS),
        ["bench", name] if MEASUREMENTS.contains(name) => bench(&[name]),
        ["faults", rest @ ..] => faults(rest),
        ["conformance"] => install(&NEEDED).and_then(|()| conformance::check()),
        ["interop"] => interop::check(),
        ["tidy"] => tidy::check(),
        ["schemas"] => schemas(),
        ["dist"] => dist::dist(None),
        ["dist", program] => dist::dist(Some(program)),
        ["setup"] => install(&NEEDED).and_then(|()| install_below(SERVERS_DIRECTORY, &SERVERS)),
        ["help" | "--help" | "-h"] | [] => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(format!("no such chore: {}\n\n{USAGE}", other.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn test(arguments: &[&str]) -> Result<(), String> {
    install(&NEEDED)?;
    install_below(SERVERS_DIRECTORY, &SERVERS)?;
    // With everything installed, a test that would be left out for want of something fails instead.
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked"]).args(arguments).env("SKEP_TEST_REQUIRE", "1");
    run(&mut command)?;
    // With arguments it is not everything that is asked for.
    if arguments.is_empty() { conformance::check() } else { Ok(()) }
}

/// What `test` does for some seconds, for minutes.
fn faults(arguments: &[&str]) -> Result<(), String> {
    let (mut minutes, mut seed) = (FAULTS_MINUTES, None);
    for pair in arguments.chunks(2) {
        let number = |value: &str| value.parse::<u64>().map_err(|_| format!("{value:?} is no number\n\n{USAGE}"));
        match pair {
            ["--minutes", value] => minutes = number(value)?,
            ["--seed", value] => seed = Some(number(value)?),
            other => return Err(format!("no such option: {}\n\n{USAGE}", other.join(" "))),
        }
    }
    install(&NEEDED)?;
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked", "--test", "faults", "--", "--nocapture", "--test-threads=1"]);
    command.env("SKEP_TEST_REQUIRE", "1").env("SKEP_FAULTS_SECONDS", (60 * minutes).to_string());
    command.envs(seed.map(|seed| ("SKEP_FAULTS_SEED", seed.to_string())));
    run(&mut command)
}

/// The test that compares them writes them, too.
fn schemas() -> Result<(), String> {
    let arguments = ["test", "--workspace", "--locked", "--lib", "the_schemas_in_docs"];
    run(cargo().args(arguments).env("SKEP_WRITE_SCHEMAS", "1"))
}

fn bench(names: &[&str]) -> Result<(), String> {
    install(&NEEDED)?;
    install(&NEEDED_FOR_BENCH)?;
    run(cargo().args(["build", "--workspace", "--release", "--locked"]))?;
    for name in names {
        println!("\n# {name}");
        match *name {
            // The sandbox can be used without the rest, and so can its measurements.
            "sandbox" => run(cargo().args(["bench", "--package", "skep-sandbox", "--locked"]))?,
            "gateway" => {
                // One that cannot be installed is left out of the measurement, which says so.
                for peer in PEERS {
                    install_below("target/peers", &[peer]).unwrap_or_else(|message| println!("{message}"));
                }
                run(&mut Command::new("target/release/bench-gateway"))?;
            }
            name => run(&mut Command::new(Path::new("target/release").join(format!("bench-{name}"))))?,
        }
    }
    Ok(())
}

/// Install programs of others below a directory, unless they are there.
fn install_below(directory: &str, programs: &[(&str, &[&str])]) -> Result<(), String> {
    let directory = Path::new(directory);
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for (installed, commands) in programs {
        if directory.join(installed).exists() {
            continue;
        }
        println!("installing {installed} below {}", directory.display());
        for command in *commands {
            let mut words = command.split(' ');
            let program = words.next().unwrap_or_default();
            // A program that was just installed is below the directory, where the command runs.
            let program = match program.contains('/') {
                true => directory.canonicalize().unwrap_or_default().join(program),
                false => program.into(),
            };
            run(Command::new(program).args(words).current_dir(directory))?;
        }
    }
    Ok(())
}

/// Install the Debian packages of the programs that are not there.
fn install(needed: &[(&str, &[&str], &str)]) -> Result<(), String> {
    let there = |(program, elsewhere, _): &&(&str, &[&str], &str)| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|directory| directory.join(program).exists())
            || elsewhere.iter().any(|directory| Path::new(directory).exists())
    };
    let missing: Vec<&str> = needed.iter().filter(|one| !there(one)).map(|one| one.2).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let by_hand = |cause: String| format!("{cause}\ninstall them yourself: apt-get install {}", missing.join(" "));
    apt_get(&["update"]).map_err(by_hand)?;
    let install: Vec<&str> =
        ["install", "--yes", "--no-install-recommends"].into_iter().chain(missing.clone()).collect();
    apt_get(&install).map_err(by_hand)
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
    if !is_root {
        command.args(["--non-interactive", "apt-get"]);
    }
    run(command.arg("--quiet").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or("cargo".into()))
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status}", command.get_program().display())),
        Err(error) => Err(format!("{} cannot be started: {error}", command.get_program().display())),
    }
}
