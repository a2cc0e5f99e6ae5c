//! What is left to see of a task that failed, and of a run that was cut off.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{User, release, waiting};

const FAILING: &str = r#"
name: failing
tasks:
  build:
    tool: bash
    args: { command: "echo compiling one; echo compiling two; echo warning >&2; echo no such luck >&2; exit 101" }
"#;

#[test]
fn what_a_failed_command_printed_is_in_the_error_the_report_the_log_and_the_events() {
    let user = User::new();
    user.file("plan.yaml", FAILING);
    let said = user.skep(&["run", "plan.yaml"]);
    assert_eq!(said.code(), 1);
    let log = user.skep(&["logs"]).ok().stdout();
    let task = user.skep(&["show", "--task", "build"]).ok().json();
    let report = user.skep(&["show", "--json"]).ok().json();
    for text in [&said.stdout(), &log, &report["tasks"][0]["error"].as_str().unwrap().to_owned()] {
        assert!(text.contains("exited with code 101: no such luck"), "{text}");
        for line in ["compiling one", "compiling two", "warning"] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
    }
    for kept in [&task, &report["tasks"][0]["output"]] {
        assert_eq!(kept["exit_code"], 101);
        assert_eq!(kept["stdout"], "compiling one\ncompiling two\n");
        assert_eq!(kept["stderr"], "warning\nno such luck\n");
    }
    assert_eq!(task["status"], "failed");
    let events = user.skep(&["logs", "--json"]).ok().stdout();
    let failed = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let failed = failed.filter(|event| event["kind"] == "task.failed").collect::<Vec<_>>();
    assert!(failed[0]["data"]["error"].as_str().unwrap().contains("compiling two"), "{failed:?}");
}

#[test]
fn the_error_of_a_long_output_has_its_end_and_the_task_keeps_all_of_it() {
    let user = User::new();
    let plan = "name: n\ntasks:\n  long: { tool: bash, args: { command: 'seq 1 20000; exit 1' } }\n";
    user.file("plan.yaml", plan);
    let said = user.skep(&["run", "plan.yaml", "--json"]);
    let report = said.stdout().lines().last().map(|line| serde_json::from_str::<Value>(line).unwrap()).unwrap();
    let task = &report["report"]["tasks"][0];
    let error = task["error"].as_str().unwrap();
    assert!(error.contains("\n19999\n20000") && error.len() < 8192, "{error}");
    assert!(!error.contains("\n10000\n"));
    let whole: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    assert_eq!(task["output"]["stdout"], whole);
}

#[test]
fn a_report_of_the_plans_own_tells_of_failures_too() {
    let user = User::new();
    user.file("plan.yaml", &format!("{FAILING}report: |\n  # My own report\n"));
    let said = user.skep(&["run", "plan.yaml"]).stdout();
    assert!(said.starts_with("# My own report\n") && said.contains("compiling two"), "{said}");
}

#[test]
fn a_command_that_ran_out_of_time_leaves_what_it_printed() {
    let user = User::new();
    let command = "echo so far; read line < /workspace/fifo";
    let plan = format!("name: n\ntasks:\n  slow: {{ tool: bash, timeout: 1s, args: {{ command: '{command}' }} }}\n");
    user.file("plan.yaml", &plan);
    assert!(Command::new("mkfifo").arg(user.workspace().join("fifo")).status().unwrap().success());
    assert_eq!(user.skep(&["run", "plan.yaml"]).code(), 1);
    let task = user.skep(&["show", "--task", "slow"]).ok().json();
    assert_eq!(task["stdout"], "so far\n", "{task}");
    assert!(task["error"].as_str().unwrap().contains("timed out"), "{task}");
}

#[test]
fn a_killed_run_is_shown_as_interrupted_wherever_it_is_shown() {
    let user = User::new();
    waiting(&user);
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("wait"));
    let shown = user.skep(&["show", "--json"]).ok().json();
    assert_eq!((&shown["status"], &shown["tasks"][1]["status"]), (&"running".into(), &"in_progress".into()));
    let mut log = user.start(&["logs", "--follow", "--json"]);
    log.until("task.started", Some("wait"));
    run.child.kill().unwrap(); // SIGKILL
    run.end();
    let (code, said) = log.end(); // it ends, although no event says so
    assert_eq!(code, Some(0));
    assert!(said.contains("skep resume"), "{said}");

    let shown = user.skep(&["show", "--json"]).ok().json();
    let status: Vec<&Value> = shown["tasks"].as_array().unwrap().iter().map(|task| &task["status"]).collect();
    assert_eq!(shown["status"], "interrupted");
    assert_eq!(status, ["completed", "interrupted", "pending"]);
    let markdown = user.skep(&["show"]).ok().stdout();
    assert!(markdown.contains("interrupted in ") && !markdown.contains("running"), "{markdown}");
    assert!(user.skep(&["runs"]).ok().stdout().contains("interrupted"));
    assert!(user.skep(&["runs", "--json"]).ok().stdout().contains(r#""interrupted""#));
    user.skep(&["logs", "--follow"]).ok();

    let resumed = user.start(&["resume", "--json"]);
    release(&user);
    assert_eq!(resumed.end().0, Some(0));
    assert_eq!(user.skep(&["show", "--json"]).ok().json()["status"], "completed");
}

#[test]
fn after_ctrl_c_the_progress_counts_only_what_has_ended() {
    let user = User::new();
    waiting(&user);
    // On a terminal of its own, which `script` makes; it passes on what is written there.
    let command = format!("exec {} run plan.yaml", env!("CARGO_BIN_EXE_skep"));
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).current_dir(user.workspace()).stdin(Stdio::null());
    script.env("SKEP_HOME", user.home()).env("HOME", user.home()).env("TERM", "xterm");
    let run = match script.stdout(Stdio::piped()).spawn() {
        Ok(run) => run,
        Err(error) => return eprintln!("skipped: there is no `script` here: {error}"),
    };
    let mut pid = None;
    // Once the log says so, it waits.
    while pid.is_none() {
        let events = user.skep(&["logs", "--json"]).stdout();
        let waits = events.lines().any(|event| event.contains("task.started") && event.contains(r#""wait""#));
        let held = user.skep(&["resume"]).stderr();
        let named = held.split("process ").nth(1).and_then(|rest| rest.split(|c: char| !c.is_numeric()).next());
        pid = named.filter(|_| waits).map(str::to_owned);
    }
    assert!(Command::new("kill").args(["-INT", &pid.unwrap()]).status().unwrap().success());
    let shown = run.wait_with_output().unwrap().stdout;
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("1/3 tasks") && !shown.contains("3/3 tasks"), "{shown}");
}

#[test]
fn a_mistaken_name_of_a_task_gets_the_nearest_one() {
    let user = User::new();
    user.file("plan.yaml", FAILING);
    user.skep(&["run", "plan.yaml"]);
    for command in ["show", "logs"] {
        let said = user.skep(&[command, "--task", "biuld"]);
        assert_eq!(said.code(), 1);
        assert!(said.stderr().contains(r#"has no task "biuld"; did you mean "build"?"#), "{}", said.stderr());
        let said = user.skep(&[command, "--task", "something else"]);
        assert!(said.stderr().contains("its tasks are build"), "{}", said.stderr());
    }
}

#[test]
fn what_is_wrong_with_the_database_is_said_in_words() {
    let user = User::new();
    let database = user.home().join("skep.db");
    std::fs::create_dir(&database).unwrap();
    let said = user.skep(&["runs"]);
    assert_eq!(said.code(), 1);
    assert!(said.stderr().contains(database.to_str().unwrap()), "{}", said.stderr());
    assert!(
        said.stderr().contains("cannot open the database") && !said.stderr().contains("Error code"),
        "{}",
        said.stderr()
    );

    std::fs::remove_dir(&database).unwrap();
    // A disk that takes no more than 10 KiB of a file, which is too little for SQLite's shared memory.
    let script = r#"trap '' XFSZ; ulimit -f 20; exec "$0" runs"#;
    let mut limited = Command::new("sh");
    limited.args(["-c", script, env!("CARGO_BIN_EXE_skep")]).env("SKEP_HOME", user.home()).env("HOME", user.home());
    let said = limited.current_dir(user.workspace()).output().unwrap();
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("the disk of the database failed") && !said.contains("Error code"), "{said}");
}

#[test]
fn the_report_of_a_sentence_tells_a_failure_once() {
    let user = User::new();
    let report = user.skep(&["run", "search for TODO in nowhere, then count them by file"]).stdout();
    assert_eq!(report.matches("nowhere does not exist").count(), 1, "{report}");
    assert!(report.contains("| count | compose | blocked |"), "{report}");
}

#[test]
fn a_sentence_that_is_run_shows_the_calls_that_it_was_taken_for() {
    let user = User::new();
    user.file("a.txt", "TODO\n");
    let said = user.skep(&["run", "search for TODO here, then count them by file"]).ok();
    let shown = "  search: search for TODO here → search {\"query\":\"TODO\"}";
    assert!(said.stderr().contains(shown) && said.stdout().contains("| a.txt | 1 |"), "{}", said.stderr());
}
