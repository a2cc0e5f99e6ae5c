//! What a run promises, seen from the command line.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "run/failures.rs"]
mod failures;
#[path = "run/kept.rs"]
mod kept;
#[path = "run/older.rs"]
mod older;
#[path = "run/printed.rs"]
mod printed;
#[path = "run/stopped.rs"]
mod stopped;
mod support;

use std::{fs::File, io::Write as _, process::Command};

use serde_json::Value;
use support::User;

const GREETING: &str = r#"
name: greeting
inputs: { who: world }
tasks:
  greet: { tool: bash, args: { command: "echo hello {{ inputs.who }}; echo kept > /outputs/note.txt" } }
  count: { tool: bash, args: { command: "wc -w", stdin: "{{ tasks.greet.result.stdout }}" } }
  sum_up:
    role: coordinator
    tool: compose
    args: { data: { words: "{{ tasks.count.result.stdout | trim | int }}" } }
report: |
  {{ tasks.greet.result.stdout | trim }} has {{ tasks.sum_up.result.data.words }} words
"#;

#[test]
fn a_plan_runs_to_its_report() {
    let user = User::new();
    user.file("plan.yaml", GREETING);
    let said = user.skep(&["run", "plan.yaml", "--set", "who=bees and bears"]).ok();
    assert_eq!(said.stdout().lines().next(), Some("hello bees and bears has 4 words"));
    assert!(said.stderr().contains("completed"), "{}", said.stderr());

    let shown = user.skep(&["show", "--json"]).ok().json();
    assert_eq!(shown["status"], "completed");
    let tasks: Vec<&str> = shown["tasks"].as_array().unwrap().iter().map(|t| t["status"].as_str().unwrap()).collect();
    assert_eq!(tasks, ["completed"; 3]);
    assert!(shown["tasks"][2]["agent"].as_str().unwrap().starts_with("coordinator"));
    assert_eq!(user.skep(&["show", "--file", "outputs/greet/note.txt"]).ok().stdout(), "kept\n");
    assert_eq!(user.skep(&["show"]).ok().stdout(), said.stdout());
    let listed = user.skep(&["runs"]).ok().stdout();
    assert!(listed.contains("completed") && listed.contains("greeting"), "{listed}");
    assert!(user.skep(&["logs", "--task", "count"]).ok().stdout().contains("count: completed"));
}

#[test]
fn one_task_may_have_most_of_the_text_of_the_largest_plan() {
    let user = User::new();
    let text = "x".repeat(3 << 20);
    user.file("plan.yaml", &format!("tasks: {{ long: {{ tool: compose, args: {{ text: \"{text}\" }} }} }}\n"));
    user.skep(&["run", "plan.yaml", "--quiet"]).ok();
    let shown = user.skep(&["show", "--json"]).ok().json();
    assert_eq!(shown["tasks"][0]["result"]["text"].as_str().map(str::len), Some(text.len()));
}

#[test]
fn a_sentence_is_a_plan_too() {
    let user = User::new();
    user.file("a.rs", "// TODO: one\n// TODO: two\n");
    user.file("b.rs", "// TODO: three\n");
    let said = user.skep(&["run", "--quiet", "search for TODO here, then count them by file"]).ok();
    assert!(said.stdout().contains("a.rs") && said.stdout().contains('2'), "{}", said.stdout());
    assert_eq!(said.stderr(), "", "quiet");
}

#[test]
fn a_sentence_that_is_not_understood_says_what_was_and_how_to_go_on() {
    let said = User::new().skep(&["run", "search for TODO here, then paint it blue"]);
    assert_ne!(said.code(), 0);
    assert!(said.stderr().contains("paint it blue") && said.stderr().contains("[model]"), "{}", said.stderr());
}

#[test]
fn a_failed_task_blocks_what_needs_it_and_fails_the_run() {
    let user = User::new();
    user.file(
        "plan.yaml",
        r#"
name: failing
tasks:
  bad: { tool: bash, args: { command: "echo no such luck >&2; exit 3" } }
  needs: { tool: bash, depends_on: bad, args: { command: "true" } }
  alone: { tool: bash, args: { command: "true" } }
  allowed: { tool: bash, allow_failure: true, args: { command: "exit 1" } }
  after_allowed: { tool: bash, depends_on: [allowed], args: { command: "echo {{ tasks.allowed.status }}" } }
"#,
    );
    let said = user.skep(&["run", "plan.yaml"]);
    assert_eq!(said.code(), 1);
    let tasks = user.skep(&["show", "--json"]).ok().json()["tasks"].clone();
    let status = |n: usize| tasks[n]["status"].as_str().unwrap().to_owned();
    assert_eq!(
        [status(0), status(1), status(2), status(3), status(4)],
        ["failed", "blocked", "completed", "failed", "completed"]
    );
    assert!(tasks[0]["error"].as_str().unwrap().contains("code 3: no such luck"), "{}", tasks[0]["error"]);
    assert_eq!(tasks[4]["result"]["stdout"], "failed\n");
}

#[test]
fn only_allowed_failures_are_a_success() {
    let user = User::new();
    user.file("plan.yaml", "name: n\ntasks:\n  a: { tool: bash, allow_failure: true, args: { command: exit 1 } }\n");
    user.skep(&["run", "plan.yaml"]).ok();
}

#[test]
fn a_failed_attempt_is_tried_again() {
    let user = User::new();
    // The first attempt finds no file of an earlier one; outputs of a failed attempt are there for the next.
    let plan = r#"
name: retried
tasks:
  flaky:
    tool: bash
    retries: 1
    args: { command: "test -e /inputs/flaky/seen || { touch /outputs/seen; exit 1; }" }
"#;
    user.file("plan.yaml", plan);
    user.skep(&["run", "plan.yaml"]).ok();
    assert_eq!(user.skep(&["show", "--json"]).ok().json()["tasks"][0]["attempts"], 2);
}

#[test]
fn a_condition_that_does_not_hold_skips_a_task() {
    let user = User::new();
    let plan = r#"
name: skipping
inputs: { wanted: false }
tasks:
  perhaps: { tool: bash, when: "inputs.wanted", args: { command: "exit 9" } }
  then: { tool: bash, depends_on: perhaps, args: { command: "echo {{ tasks.perhaps.status }}" } }
"#;
    user.file("plan.yaml", plan);
    user.skep(&["run", "plan.yaml"]).ok();
    let tasks = user.skep(&["show", "--json"]).ok().json()["tasks"].clone();
    assert_eq!(tasks[0]["status"], "skipped");
    assert_eq!(tasks[1]["result"]["stdout"], "skipped\n");
}

/// A plan whose second task waits until somebody opens the workspace's FIFO for writing.
fn waiting(user: &User) {
    let plan = r#"
name: waiting
tasks:
  first: { tool: bash, args: { command: "echo done once" } }
  wait: { tool: bash, timeout: 60s, depends_on: first, args: { command: "cat /workspace/fifo" } }
  last: { tool: bash, args: { command: "echo {{ tasks.wait.result.stdout }}" } }
"#;
    user.file("plan.yaml", plan);
    let fifo = user.workspace().join("fifo");
    assert!(Command::new("mkfifo").args(["-m", "666"]).arg(fifo).status().unwrap().success());
}

/// Let the waiting task go on.
fn release(user: &User) {
    let mut fifo = File::options().write(true).open(user.workspace().join("fifo")).unwrap();
    fifo.write_all(b"go\n").unwrap();
}

#[test]
fn a_killed_run_is_continued_without_repeating_finished_tasks() {
    let user = User::new();
    waiting(&user);
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("wait"));
    run.child.kill().unwrap(); // SIGKILL
    run.end();
    assert!(user.skep(&["runs"]).ok().stdout().contains("interrupted"));

    let resumed = user.start(&["resume", "--json"]);
    release(&user);
    let (code, stderr) = resumed.end();
    assert_eq!(code, Some(0), "{stderr}");
    let tasks = user.skep(&["show", "--json"]).ok().json()["tasks"].clone();
    let attempts: Vec<&Value> = tasks.as_array().unwrap().iter().map(|task| &task["attempts"]).collect();
    assert_eq!(attempts, [1, 2, 1]);
    assert_eq!(tasks[2]["result"]["stdout"], "go\n");
}

#[test]
fn ctrl_c_stops_in_good_order_and_the_run_can_go_on() {
    let user = User::new();
    waiting(&user);
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("wait"));
    run.signal("INT");
    let (code, stderr) = run.end();
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("skep resume"), "{stderr}");
    let resumed = user.start(&["resume", "--json"]);
    release(&user);
    assert_eq!(resumed.end().0, Some(0));
}

#[test]
fn a_run_is_worked_on_by_one_process_at_a_time() {
    let user = User::new();
    waiting(&user);
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("wait"));
    let second = user.skep(&["resume"]);
    assert_ne!(second.code(), 0);
    assert!(second.stderr().contains(&format!("process {}", run.child.id())), "{}", second.stderr());
    release(&user);
    assert_eq!(run.end().0, Some(0));
    let over = user.skep(&["resume"]);
    assert!(over.stderr().contains("is over (completed)"), "{}", over.stderr());
}

#[test]
fn runs_side_by_side_share_one_database() {
    let user = User::new();
    user.file("plan.yaml", GREETING);
    let runs: Vec<_> = (0..4).map(|_| user.start(&["run", "plan.yaml", "--json"])).collect();
    for run in runs {
        let (code, stderr) = run.end();
        assert_eq!(code, Some(0), "{stderr}");
    }
    assert_eq!(user.skep(&["runs", "--json"]).ok().stdout().lines().count(), 4);
}

#[test]
fn the_log_of_a_run_can_be_followed_from_another_process() {
    let user = User::new();
    waiting(&user);
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("wait"));
    let mut log = user.start(&["logs", "--follow", "--json"]);
    log.until("task.started", Some("wait"));
    release(&user);
    let events = log.until("run.ended", None);
    assert!(events.iter().any(|event| event["kind"] == "task.completed" && event["task"] == "last"));
    assert_eq!(log.end().0, Some(0));
    assert_eq!(run.end().0, Some(0));
}

#[test]
fn the_log_of_a_run_that_goes_on_is_followed_to_its_end() {
    let user = User::new();
    waiting(&user);
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    run.until("task.started", Some("wait"));
    run.signal("INT");
    run.end();
    let mut resumed = user.start(&["resume", "--json"]);
    resumed.until("task.started", Some("wait"));
    let mut log = user.start(&["logs", "--follow", "--json"]);
    log.until("run.interrupted", None);
    log.until("task.started", Some("wait"));
    release(&user);
    log.until("run.ended", None);
    assert_eq!(log.end().0, Some(0));
    assert_eq!(resumed.end().0, Some(0));
}

#[test]
fn what_a_program_reads_is_lines_of_json_and_the_report_last() {
    let user = User::new();
    user.file("plan.yaml", GREETING);
    let said = user.skep(&["run", "plan.yaml", "--json"]).ok();
    let lines: Vec<Value> = said.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!(last["report"]["tasks"][1]["result"]["stdout"], "2\n");
    assert_eq!(lines[0]["kind"], "run.started");
    assert_eq!(lines[lines.len() - 2]["kind"], "run.ended");
    let events = lines[..lines.len() - 1].iter().filter(|line| line["kind"] != "task.output");
    let numbers: Vec<i64> = events.map(|line| line["number"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..).take(numbers.len()).collect::<Vec<i64>>(), "no event is missing");
}

#[test]
fn a_plan_with_faults_is_not_run_and_every_fault_is_named() {
    let user = User::new();
    user.file(
        "plan.yaml",
        "name: n\ntasks:\n  a: { tool: bsah, args: {} }\n  b: { tool: bash, args: { comand: x } }\n",
    );
    let run = user.skep(&["run", "plan.yaml"]);
    let check = user.skep(&["check", "plan.yaml"]);
    for said in [&run.stderr(), &check.stdout()] {
        assert!(said.contains("plan.yaml:3:8") && said.contains("\"bash\""), "{said}");
        assert!(said.contains("plan.yaml:4:") && said.contains("comand"), "{said}");
    }
    assert_ne!((run.code(), check.code()), (0, 0));
    assert!(user.skep(&["runs"]).ok().stdout().contains("no runs yet"));
}
