//! What the tests share.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{env, fs, process::Command, time::Duration};

use skep_sandbox::{Config, Limits, Outcome, Request, Run, Sandbox};
use tokio::time::{sleep, timeout};

/// Set for the tests' second run, as an ordinary user.
const ORDINARY: &str = "SKEP_TEST_AS_ORDINARY_USER";

/// Where the helper is, if not where it was built.
pub(crate) const HELPER: &str = "SKEP_TEST_HELPER";

/// The defaults, with this crate's own helper program.
pub(crate) fn config() -> Config {
    let helper = env::var_os(HELPER).unwrap_or(env!("CARGO_BIN_EXE_sandbox-helper").into());
    Config { helper: Some(helper.into()), ..Config::default() }
}

pub(crate) async fn sandbox() -> Sandbox {
    Sandbox::start(config()).await.unwrap()
}

/// The deadline of what ends by itself: it does, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a request that has the usual deadline only because it has to have one, or one that is tested.
pub(crate) async fn run(sandbox: &Sandbox, mut request: Request) -> Outcome {
    if request.limits.wall == Limits::default().wall {
        request.limits.wall = PATIENCE;
    }
    sandbox.run(request, Default::default()).await.unwrap()
}

/// Runs a script in a sandbox of its own.
pub(crate) async fn bash(script: &str) -> Outcome {
    run(&sandbox().await, script_of(script)).await
}

pub(crate) fn script_of(script: &str) -> Request {
    Request::new(Run::Bash(script.into()))
}

pub(crate) fn argv(words: &[&str]) -> Request {
    Request::new(Run::Argv(words.iter().map(Into::into).collect()))
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs this whole test program once more as an ordinary user, if we are root; root drops to another kind of user
/// map, so that both ways have to be seen working.
pub(crate) fn again_as_ordinary_user() {
    if !is_root() || env::var_os(ORDINARY).is_some() {
        return;
    }
    let status = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(env::current_exe().unwrap())
        .env(ORDINARY, "1")
        .env("TMPDIR", "/tmp")
        .status()
        .unwrap();
    assert!(status.success());
}

/// Host processes with `mark` in their command line.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(mark)
    })
    .collect()
}

/// Children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let wanted = format!("PPid:\t{parent}");
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == wanted)
    };
    pids.filter(is_child).collect()
}

/// Waits until as many host processes have `mark` in their command line. There is no signal for this one can wait on
/// from outside, so it looks again and again.
pub(crate) async fn wait_for_marked(mark: &str, count: usize) {
    let reached = async {
        while marked(mark).len() != count {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(60), reached).await.unwrap();
}

/// A Python program that starts processes until it may not, and prints how many there are then.
pub(crate) const FORKS: &str = "import os, time
n = 1
try:
    while n < 500:
        if os.fork() == 0: time.sleep(1000)
        n += 1
except BlockingIOError: print(n)";

/// A number that no other test or process uses.
pub(crate) fn mark() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{:09}", 40_000 + NEXT.fetch_add(1, Ordering::Relaxed), std::process::id())
}
