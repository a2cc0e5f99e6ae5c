//! What a whole run costs: three agents and one tool, from the start of the process to its end.
//!
//! `cargo xtask bench run`. Beside it stands the same command started by `bash` itself, which is the least that anything
//! could cost, and the time that the prototype design reported for its own three agents and one tool (0.8 s, 20 MB).
#![expect(clippy::print_stdout, reason = "a measurement's output")]

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Runs of each, one after the other in turn.
const ROUNDS: usize = 60;

/// One task for each role, so that coordinator, observer and actor all have work; one of them calls a sandboxed tool.
const PLAN: &str = "name: three agents
tasks:
  act: { tool: bash, args: { command: 'echo hello' } }
  observe: { role: observer, tool: compose, args: { text: '{{ tasks.act.result.stdout }}' } }
  coordinate: { role: coordinator, tool: compose, args: { text: '{{ tasks.observe.result.text }}' } }
";

struct Measured {
    wall: Duration,
    /// Largest resident set of the process itself, in bytes.
    peak: u64,
}

fn main() -> std::io::Result<()> {
    let skep = std::env::args().nth(1).unwrap_or_else(|| "target/release/skep".to_owned());
    let skep = Path::new(&skep).canonicalize()?; // each run has a working directory of its own
    let home = tempfile::tempdir_in(".")?; // a temporary directory may be memory
    let plan = home.path().join("plan.yaml");
    std::fs::write(&plan, PLAN)?;
    let run = || {
        let mut command = Command::new(&skep);
        command
            .arg("run")
            .arg(&plan)
            .arg("--quiet")
            .current_dir(home.path())
            .env("SKEP_HOME", home.path().join("state"));
        measure(command)
    };
    let bash = || {
        let mut command = Command::new("bash");
        command.args(["-c", "echo hello"]);
        measure(command)
    };
    run()?; // makes the database
    let (mut runs, mut bashes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        runs.push(run()?);
        bashes.push(bash()?);
    }
    let peak = runs.iter().map(|run| run.peak).max().unwrap_or_default();
    println!(
        "skep run, three agents and one tool: {} at the median of {ROUNDS}, peak {:.1} MB",
        median(&runs),
        mb(peak)
    );
    println!("bash -c 'echo hello' by itself:      {}", median(&bashes));
    let size = skep.metadata()?.len();
    println!("the program has {:.1} MB", mb(size));
    Ok(())
}

fn measure(mut command: Command) -> std::io::Result<Measured> {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn()?;
    let used = wait4::Wait4::wait4(&mut child)?;
    let wall = began.elapsed();
    if !used.status.success() {
        return Err(std::io::Error::other(format!("{command:?} ended with {}", used.status)));
    }
    Ok(Measured { wall, peak: used.rusage.maxrss })
}

fn median(all: &[Measured]) -> String {
    let mut walls: Vec<Duration> = all.iter().map(|one| one.wall).collect();
    walls.sort_unstable();
    format!("{:.1} ms", walls[walls.len() / 2].as_secs_f64() * 1e3)
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
