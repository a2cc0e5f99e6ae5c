//! What is stopped while it runs: a process that stands still, as on a machine that is suspended or out of memory; and a
//! task that is cancelled.

use rusqlite::Connection;
use serde_json::Value;

use super::{User, release, support::Served, waiting};

/// Whether a process runs whose command line has this in it.
fn is_running(text: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let command_lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    command_lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).any(|line| line.contains(text))
}

#[test]
fn a_task_that_is_cancelled_is_killed_where_it_runs_and_its_run_ends() {
    let user = User::new();
    let endless = format!("sleep 3000.{}", std::process::id());
    user.file(
        "plan.yaml",
        &format!("tasks:\n  endless: {{ tool: bash, args: {{ command: '{endless}' }}, timeout: 3000s }}\n  last: {{ tool: bash, args: {{ command: 'true' }}, depends_on: [endless] }}\n"),
    );
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("endless"));
    let held = user.skep(&["tasks", "ls", "--state", "in_progress", "--json"]).ok().json();
    let id = held["tasks"][0]["task_id"].as_str().unwrap();
    user.skep(&["tasks", "cancel", id]).ok();
    let events = run.until("run.ended", None);
    let kinds: Vec<(&str, Option<&str>)> =
        events.iter().map(|event| (event["kind"].as_str().unwrap(), event["task"].as_str())).collect();
    assert_eq!(kinds[..2], [("task.cancelled", Some("endless")), ("task.blocked", Some("last"))], "{kinds:?}");
    assert_ne!(run.end().0, Some(0));
    assert!(!is_running(&endless));
}

#[test]
fn a_run_goes_on_after_its_process_stood_still_for_so_long_that_its_task_was_taken_back() {
    let user = User::new();
    waiting(&user);
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("wait"));
    run.signal("STOP");
    // As if it had been silent for so long. It may have stopped in the middle of a write.
    let database = Connection::open(user.home().join("skep.db")).unwrap();
    while database.execute("update hub set until = 0", []).is_err() {
        run.signal("CONT");
        run.signal("STOP");
    }
    let _hub = Served::hub(&user, &[], None);
    let mut log = user.start(&["logs", "newest", "--follow", "--json"]);
    log.until("task.lost", Some("wait"));

    release(&user); // its command ends meanwhile
    run.signal("CONT");
    run.until("task.answer_refused", Some("wait"));
    run.until("task.started", Some("wait"));
    release(&user);
    let (code, stderr) = run.end();
    assert_eq!(code, Some(0), "{stderr}");

    let events = log.until("run.ended", None);
    let count = |kind: &str, task: Option<&str>| {
        events.iter().filter(|event| event["kind"] == kind && event["task"].as_str() == task).count()
    };
    assert_eq!((count("task.completed", Some("wait")), count("task.completed", Some("last"))), (1, 1));
    assert_eq!((count("run.ended", None), count("task.failed", Some("wait"))), (1, 0));
    assert_eq!(log.end().0, Some(0));
    let tasks = user.skep(&["show", "--json"]).ok().json()["tasks"].clone();
    let attempts: Vec<&Value> = tasks.as_array().unwrap().iter().map(|task| &task["attempts"]).collect();
    assert_eq!(attempts, [1, 2, 1]);
    assert_eq!(tasks[2]["result"]["stdout"], "go\n");
    let said = user.skep(&["doctor"]).stdout();
    assert!(said.lines().any(|line| line.starts_with("ok ") && line.contains(" database ")), "{said}");
}
