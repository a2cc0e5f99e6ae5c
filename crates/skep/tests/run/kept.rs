//! What can be done with runs afterwards: list, take up again, call off, delete, measure.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{User, release, waiting};

const QUICK: &str = "name: quick\ntasks:\n  a: { tool: bash, args: { command: 'echo hi; echo kept > /outputs/f' } }\n";
/// Fails until the workspace has a file `mended`.
const MENDABLE: &str = r#"
name: mendable
tasks:
  good: { tool: bash, args: { command: "echo good" } }
  bad: { tool: bash, args: { command: "test -e /workspace/mended" } }
  other: { tool: bash, args: { command: "test -e /workspace/mended" } }
  then: { tool: bash, depends_on: [good, bad], args: { command: "echo then" } }
"#;

/// The runs as `skep runs --json` lists them, newest first.
fn runs(user: &User) -> Vec<Value> {
    user.skep(&["runs", "--json"]).ok().stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(user: &User) -> Vec<String> {
    runs(user).iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect()
}

fn directory(user: &User, id: &str) -> PathBuf {
    user.home().join("runs").join(id)
}

/// So many quick runs; gives their names, newest first.
fn quick(user: &User, count: usize) -> Vec<String> {
    user.file("plan.yaml", QUICK);
    (0..count).for_each(|_| drop(user.skep(&["run", "plan.yaml", "--quiet"]).ok()));
    ids(user)
}

fn attempts(user: &User) -> Vec<(String, u64)> {
    let tasks = user.skep(&["show", "--json"]).ok().json()["tasks"].clone();
    let of = |task: &Value| (task["status"].as_str().unwrap().to_owned(), task["attempts"].as_u64().unwrap());
    tasks.as_array().unwrap().iter().map(of).collect()
}

#[test]
fn the_list_has_a_header_durations_and_short_names_that_are_taken_everywhere() {
    let user = User::new();
    quick(&user, 2);
    let listed = user.skep(&["runs"]).ok().stdout();
    let mut lines = listed.lines();
    let header: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["RUN", "STARTED", "TOOK", "STATE", "TASKS", "NAME"]);
    let short = lines.next().unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(listed.contains("completed") && listed.contains("1/1") && listed.contains("quick"), "{listed}");
    let (all, newest) = (runs(&user), ids(&user)[0].clone());
    assert!(short.len() >= 6 && newest.ends_with(&short) && newest.len() > short.len(), "{short} of {newest}");
    assert_eq!(all[0]["short"], short.as_str());
    assert!(all[0]["duration_ms"].as_f64().unwrap() > 0.0 && all[0]["ended"].is_string(), "{}", all[0]);
    for arguments in [&["show", &short, "--json"][..], &["runs", "show", &short, "--json"]] {
        assert_eq!(user.skep(arguments).ok().json()["run"], newest.as_str());
    }
    assert!(user.skep(&["logs", &short]).ok().stdout().contains("a: completed"));
    assert_eq!(user.skep(&["runs", "ls", "--limit", "1", "--json"]).ok().stdout().lines().count(), 1);
    assert_eq!(user.skep(&["runs", "--state", "failed", "--json"]).ok().stdout(), "");
    let unknown = user.skep(&["show", "zzzzzz"]);
    assert!(unknown.code() == 1 && unknown.stderr().contains("skep runs"), "{}", unknown.stderr());
}

#[test]
fn a_deleted_run_is_gone_with_its_files_and_the_others_stay() {
    let user = User::new();
    let before = quick(&user, 3);
    let unsure = user.skep(&["runs", "rm", &before[1]]);
    assert!(unsure.code() == 1 && unsure.stderr().contains("--yes"), "{}", unsure.stderr());
    assert_eq!(ids(&user), before, "nobody is asked without a terminal, and nothing is deleted");
    let said = user.skep(&["runs", "rm", "--yes", &before[1]]).ok().stdout();
    assert!(said.starts_with("deleted 1 run"), "{said}");
    assert_eq!(ids(&user), [before[0].clone(), before[2].clone()]);
    assert!(!directory(&user, &before[1]).exists() && directory(&user, &before[2]).exists());
    assert_eq!(user.skep(&["show", &before[2], "--file", "outputs/a/f"]).ok().stdout(), "kept\n");
    assert_ne!(user.skep(&["runs", "rm", "--yes", &before[1]]).code(), 0);
}

#[test]
fn a_run_that_somebody_works_on_is_not_deleted_until_it_is_cancelled() {
    let user = User::new();
    waiting(&user);
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("wait"));
    let id = ids(&user)[0].clone();
    let refused = user.skep(&["runs", "rm", "--yes", &id]);
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr().contains("skep cancel"), "{}", refused.stderr());
    assert_eq!(user.skep(&["runs", "prune", "--yes", "--keep", "0"]).ok().stdout(), "nothing to delete\n");

    assert!(user.skep(&["cancel", &id]).ok().stdout().contains("is cancelled"));
    let (code, stderr) = run.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(!stderr.contains("skep: "), "being called off is no fault of the store: {stderr}");
    user.skep(&["cancel", &id]).ok();
    let shown = user.skep(&["show", "--json"]).ok().json();
    let status: Vec<&Value> = shown["tasks"].as_array().unwrap().iter().map(|task| &task["status"]).collect();
    assert_eq!(shown["status"], "cancelled");
    assert_eq!(status, ["completed", "cancelled", "cancelled"]);
    user.skep(&["runs", "rm", "--yes", &id]).ok();
    assert_eq!(ids(&user), [] as [&str; 0]);
}

#[test]
fn a_cancelled_run_can_be_taken_up_again() {
    let user = User::new();
    waiting(&user);
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("wait"));
    user.skep(&["cancel", "newest"]).ok();
    run.end();
    let over = user.skep(&["resume"]);
    assert!(over.stderr().contains("is over (cancelled)"), "{}", over.stderr());
    let retried = user.start(&["retry", "newest", "--json"]);
    release(&user);
    assert_eq!(retried.end().0, Some(0));
    assert_eq!(attempts(&user), [("completed".into(), 1), ("completed".into(), 2), ("completed".into(), 1)]);
    let done = user.skep(&["cancel", "newest"]);
    assert!(done.code() == 1 && done.stderr().contains("is over (completed)"), "{}", done.stderr());
}

#[test]
fn a_run_that_was_killed_can_be_cancelled_and_deleted() {
    let user = User::new();
    waiting(&user);
    for deleted in [false, true] {
        let mut run = user.start(&["run", "plan.yaml", "--json"]);
        run.until("task.started", Some("wait"));
        run.child.kill().unwrap();
        run.end();
        let id = ids(&user)[0].clone();
        match deleted {
            false => drop(user.skep(&["cancel", &id]).ok()),
            true => drop(user.skep(&["runs", "rm", "--yes", &id]).ok()),
        }
    }
    let left = runs(&user);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["state"], "cancelled");
}

#[test]
fn a_retried_run_repeats_its_failures_and_keeps_the_rest() {
    let user = User::new();
    user.file("plan.yaml", MENDABLE);
    assert_eq!(user.skep(&["run", "plan.yaml"]).code(), 1);
    let wrong = user.skep(&["retry", "newest", "--task", "god"]);
    assert!(wrong.stderr().contains(r#"did you mean "good"?"#), "{}", wrong.stderr());
    let done = user.skep(&["retry", "newest", "--task", "good"]);
    assert!(done.code() == 1 && done.stderr().contains("completed"), "{}", done.stderr());

    user.file("mended", "");
    assert_eq!(user.skep(&["retry", "newest", "--task", "bad"]).code(), 1, "another task has still failed");
    let done = |attempts: u64| ("completed".to_owned(), attempts);
    assert_eq!(attempts(&user), [done(1), done(2), ("failed".into(), 1), done(1)]);
    let said = user.skep(&["retry", "newest"]).ok();
    assert!(said.stdout().contains("completed in"), "{}", said.stdout());
    assert_eq!(attempts(&user), [done(1), done(2), done(2), done(1)]);
    let nothing = user.skep(&["retry", "newest"]);
    assert!(nothing.code() == 1 && nothing.stderr().contains("nothing to do again"), "{}", nothing.stderr());
    assert_eq!(runs(&user).len(), 1, "it is the same run");
}

#[test]
fn pruning_deletes_what_fits_and_says_what_it_would() {
    let user = User::new();
    let all = quick(&user, 3);
    let dry = user.skep(&["runs", "prune", "--keep", "1", "--dry-run"]).ok().stdout();
    assert!(dry.contains(&all[1]) && dry.contains(&all[2]) && !dry.contains(&all[0]), "{dry}");
    assert!(dry.contains("2 runs") && dry.contains("would be deleted"), "{dry}");
    assert_eq!(ids(&user), all);
    assert_eq!(user.skep(&["runs", "prune", "--older-than", "24h", "--yes"]).ok().stdout(), "nothing to delete\n");
    assert_eq!(user.skep(&["runs", "prune", "--state", "failed", "--yes"]).ok().stdout(), "nothing to delete\n");
    assert_eq!(user.skep(&["runs", "prune", "--yes"]).ok().stdout(), "nothing to delete\n", "within the limits");
    user.skep(&["runs", "prune", "--keep", "1", "--yes"]).ok();
    assert_eq!(ids(&user), all[..1]);
    assert!(!directory(&user, &all[1]).exists());
}

#[test]
fn old_runs_go_when_one_ends_as_the_settings_say() {
    let user = User::new();
    user.file("mine.toml", "[run.keep]\nruns = 2\n");
    user.file("plan.yaml", QUICK);
    for _ in 0..4 {
        user.skep(&["run", "plan.yaml", "--quiet", "--config", "mine.toml"]).ok();
    }
    assert_eq!(ids(&user).len(), 2);
    assert_eq!(std::fs::read_dir(user.home().join("runs")).unwrap().count(), 2);
    user.file("mine.toml", "[run.keep]\nbytes = 1\n");
    user.skep(&["run", "plan.yaml", "--quiet", "--config", "mine.toml"]).ok();
    assert_eq!(ids(&user).len(), 1, "the newest stays, however large it is");
}

#[test]
fn what_the_state_directory_takes_is_measured_by_run() {
    let user = User::new();
    user.file("plan.yaml", QUICK);
    user.skep(&["run", "plan.yaml", "--quiet"]).ok();
    user.file("large.yaml", &QUICK.replace("echo kept", "head -c 3000000 /dev/zero").replace("quick", "large"));
    user.skep(&["run", "large.yaml", "--quiet"]).ok();
    let taken = user.skep(&["du", "--json"]).ok().json();
    let runs = taken["runs"].as_array().unwrap();
    assert_eq!(runs[0]["name"], "large");
    assert!(
        runs[0]["bytes"].as_u64().unwrap() > 3_000_000 && runs[1]["bytes"].as_u64().unwrap() < 1_000_000,
        "{taken}"
    );
    assert!(taken["database_bytes"].as_u64().unwrap() > 3_000_000, "{taken}");
    assert!(taken["bytes"].as_u64() > taken["run_directories_bytes"].as_u64(), "{taken}");
    let text = user.skep(&["du"]).ok().stdout();
    assert!(text.contains("the database") && text.contains("MiB") && text.contains("large"), "{text}");
}

#[test]
fn the_doctor_checks_the_database_and_names_a_damaged_row() {
    let user = User::new();
    quick(&user, 1);
    let database = |said: &str| said.lines().find(|line| line.contains(" database ")).map(str::to_owned);
    let healthy = database(&user.skep(&["doctor"]).stdout()).unwrap();
    assert!(healthy.starts_with("ok ") && healthy.ends_with(": 1 run, no inconsistency"), "{healthy}");

    let file = rusqlite::Connection::open(user.home().join("skep.db")).unwrap();
    file.execute("update task set state = 'in_progress', result = null", []).unwrap();
    let said = user.skep(&["doctor"]);
    let damaged = database(&said.stdout()).unwrap();
    assert!(
        damaged.starts_with("NO ") && damaged.contains("is in_progress, but its last event says completed"),
        "{damaged}"
    );
    assert_eq!(said.code(), 1);
    assert!(said.stdout().contains("skep runs rm"), "{}", said.stdout());
}

#[test]
fn a_run_that_calls_a_clients_servers_is_retried_with_them() {
    let user = User::new();
    let inner = json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"],
        "env": { "SKEP_HOME": user.home().join("inner") } });
    user.file("mcp.json", &json!({ "mcpServers": { "inner": inner } }).to_string());
    user.file("plan.yaml", "tasks: { read: { tool: inner__file_read, args: { path: late.txt } } }\n");
    assert_eq!(user.skep(&["run", "plan.yaml", "--mcp-config", "mcp.json"]).code(), 1);
    user.file("late.txt", "here by now");
    assert_eq!(user.skep(&["retry", "newest"]).code(), 1, "without them there is no such tool");
    user.skep(&["retry", "newest", "--mcp-config", "mcp.json"]).ok();
    assert!(user.skep(&["show", "--task", "read"]).ok().stdout().contains("here by now"));
}
