//! What commands print, seen while they run.

use serde_json::Value;

use super::{User, release, waiting};

/// The lines of one task among the events.
fn lines(events: &[Value], task: &str) -> Vec<String> {
    let of_task = events.iter().filter(|event| event["kind"] == "task.output" && event["task"] == task);
    of_task.map(|event| event["data"]["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_line_is_shown_while_its_command_still_runs() {
    let user = User::new();
    waiting(&user);
    let plan = std::fs::read_to_string(user.workspace().join("plan.yaml")).unwrap();
    user.file("plan.yaml", &plan.replace("cat /workspace/fifo", "echo now waiting >&2; cat /workspace/fifo"));
    let mut run = user.start(&["run", "plan.yaml", "--json"]);
    let events = run.until("task.output", Some("wait"));
    assert_eq!(lines(&events, "wait"), ["now waiting"]);
    assert_eq!(lines(&events, "first"), ["done once"]);
    let place = |kind: &str, task: &str| events.iter().position(|event| event["kind"] == kind && event["task"] == task);
    assert!(place("task.started", "first") < place("task.output", "first"));
    assert!(place("task.output", "first") < place("task.completed", "first"));
    release(&user);
    assert_eq!(run.end().0, Some(0));
}

#[test]
fn lines_for_people_have_the_name_of_their_task() {
    let user = User::new();
    let plan =
        "name: n\ntasks:\n  one: { tool: bash, args: { command: 'echo to out; echo to err >&2; printf end' } }\n";
    user.file("plan.yaml", plan);
    let said = user.skep(&["run", "plan.yaml"]).ok().stderr();
    for line in ["one | to out\n", "one | to err\n", "one | end\n"] {
        assert!(said.contains(line), "{line:?} is missing in {said}");
    }
    assert!(!user.skep(&["logs"]).ok().stdout().contains("to out"), "it is not kept as an event");
    let quiet = user.skep(&["run", "plan.yaml", "--quiet"]).ok();
    assert!(!quiet.stderr().contains("to out"), "{}", quiet.stderr());
}

#[test]
fn a_flood_is_thinned_out_and_loses_nothing_of_the_answer() {
    let user = User::new();
    user.file("plan.yaml", "name: n\ntasks:\n  flood: { tool: bash, args: { command: 'seq 1 100000' } }\n");
    let said = user.skep(&["run", "plan.yaml", "--json"]).ok().stdout();
    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown = lines(&events, "flood").len() as u64;
    let left_out: u64 = events.iter().filter_map(|event| event["data"]["left_out"].as_u64()).sum();
    assert!(shown > 0 && shown + left_out <= 100_000, "{shown} and {left_out}");
    let answer = &events.last().unwrap()["report"]["tasks"][0]["result"]["stdout"];
    assert_eq!(answer.as_str().unwrap().lines().count(), 100_000);
}
