//! Plans whose templates are made to take all memory, all time, or all of the stack.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wait4::Wait4 as _;

use crate::support::User;

/// Memory that a run may come to, whatever its templates do: what a renderer may take, and the program itself.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// Far more than any of these runs takes, and far less than what they ask for would.
const PATIENCE: Duration = Duration::from_secs(120);

/// What became of a command, and the most memory that it or a process of its held.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    memory_peak_bytes: u64,
    took: Duration,
}

fn ended(mut child: Child, started: Instant) -> Ended {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let mut complaints = child.stderr.take().unwrap();
    let reader =
        std::thread::spawn(move || std::io::Read::read_to_string(&mut complaints, &mut stderr).map(|_| stderr));
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut stdout).unwrap();
    let used = child.wait4().unwrap();
    let stderr = reader.join().unwrap().unwrap();
    let took = started.elapsed();
    Ended { code: used.status.code(), stdout, stderr, memory_peak_bytes: used.rusage.maxrss, took }
}

fn skep(user: &User, arguments: &[&str]) -> Ended {
    let started = Instant::now();
    ended(user.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), started)
}

/// A plan with one task that composes a text.
fn plan(user: &User, mut task: Value) {
    task["tool"] = "compose".into();
    user.file("plan.json", &json!({ "inputs": { "text": "x".repeat(1 << 20) }, "tasks": { "t": task } }).to_string());
}

/// Run the plan; it fails as a run does, with this text in the task's error and no harm to the machine.
#[track_caller]
fn fails(user: &User, message: &str) -> Ended {
    let ended = skep(user, &["run", "plan.json"]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    let error = user.skep(&["show", "--json"]).ok().json()["tasks"][0]["error"].clone();
    assert!(error.as_str().unwrap_or_default().contains(message), "{error}: {}", ended.stderr);
    assert!(ended.memory_peak_bytes < MEMORY_BYTES_MAX, "{} bytes", ended.memory_peak_bytes);
    assert!(ended.took < PATIENCE, "{:?}", ended.took);
    ended
}

#[test]
fn a_template_that_goes_too_deep_is_a_fault_of_the_plan() {
    let many = |before: &str, repeated: &str, after: &str| format!("{before}{}{after}", repeated.repeat(20_000));
    for template in [
        many("{{ 1", " + 1", " }}"),
        many("{{ ", "not ", "1 }}"),
        many("{{ ", "-", "1 }}"),
        many("{{ ", "(", "1 }}"),
        many("{{ inputs", ".x", " }}"),
        many("{{ 1", "|abs", " }}"),
        many("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
        many("{% if 1 %}", "{% elif 1 %}{% set x %}{% endset %}", "{% endif %}"),
        many("", "{% for x in [1] %}", ""),
    ] {
        let user = User::new();
        plan(&user, json!({ "args": { "text": template } }));
        for command in ["check", "run"] {
            let ended = skep(&user, &[command, "plan.json"]);
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert_eq!(ended.code, Some(1), "{template:.40}: {said}");
            assert!(said.contains("operators and brackets") || said.contains("nested more than"), "{said}");
        }
        plan(&user, json!({ "args": { "text": "x" }, "when": many("1", " or 1", "") }));
        assert_eq!(skep(&user, &["check", "plan.json"]).code, Some(1));
    }
}

#[test]
fn a_check_builds_none_of_the_values_that_a_template_asks_for() {
    let user = User::new();
    let constant = vec!["'xxxxxxxxxx' * 10000000"; 40].join(" ~ ");
    plan(&user, json!({ "args": { "text": format!("{{{{ {constant} }}}}") }, "when": constant }));
    let ended = skep(&user, &["check", "plan.json"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.memory_peak_bytes < MEMORY_BYTES_MAX / 2, "{} bytes", ended.memory_peak_bytes);
    fails(&user, "MiB of memory");
}

#[test]
fn a_template_that_asks_for_all_memory_fails_its_task_alone() {
    let doubled = |first: &str, next: &str| format!("{{% set a = {first} %}}{}", next.repeat(40));
    for template in [
        doubled("'xxxxxxxx'", "{% set a = a ~ a %}") + "{{ a | length }}",
        doubled("'xxxxxxxx'", "{% set a = a + a %}") + "{{ a | length }}",
        doubled("[1, 2]", "{% set a = (a + a) | list %}") + "{{ a | length }}",
        doubled("'x'", "{% set a %}{{ a }}{{ a }}{% endset %}") + "{{ a | length }}",
        doubled("'ab'", "{% set a = a | replace('a', a) %}") + "{{ a | length }}",
        "{{ (inputs.text | replace('x', 'x\\n')) | indent(100000) | length }}".to_owned(),
        "{{ [1] | slice(100000000) | list | length }}".to_owned(),
        "{{ range(100000) | join(inputs.text) | length }}".to_owned(),
        "{{ ([inputs.text] * 100000) | join | length }}".to_owned(),
        "{{ (inputs.text * 90) | list | length }}".to_owned(),
    ] {
        let user = User::new();
        plan(&user, json!({ "args": { "text": template } }));
        fails(&user, "the templates take more than");
    }
}

#[test]
fn a_condition_that_asks_for_all_memory_fails_its_task_alone() {
    let user = User::new();
    plan(&user, json!({ "args": { "text": "x" }, "when": "(inputs.text * 90) | list | length > 1" }));
    fails(&user, "MiB of memory");
}

#[test]
fn a_report_that_asks_for_all_memory_is_replaced_by_a_plain_one() {
    let user = User::new();
    let report = "{% set a = 'xxxxxxxx' %}".to_owned() + &"{% set a = a ~ a %}".repeat(40) + "{{ a | length }}";
    let plan = json!({ "tasks": { "t": { "tool": "compose", "args": { "text": "kept" } } }, "report": report });
    user.file("plan.json", &plan.to_string());
    let ended = skep(&user, &["run", "plan.json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("kept") && ended.stdout.contains("MiB of memory"), "{}", ended.stdout);
    assert!(ended.memory_peak_bytes < MEMORY_BYTES_MAX, "{} bytes", ended.memory_peak_bytes);
}

#[test]
fn a_value_that_is_nested_without_end_fails_its_task_alone() {
    let user = User::new();
    let nested = "{% set n = namespace(x=[]) %}{% for i in range(100000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}";
    plan(&user, json!({ "args": { "text": nested } }));
    fails(&user, "nested too deep");
}

/// Compares texts of a megabyte as often as the engine's own steps allow.
const ENDLESS: &str = "{% for a in range(100000) %}{% for b in range(10) %}{% if inputs.text ~ a == inputs.text ~ b ~ 'x' %}x{% endif %}{% endfor %}{% endfor %}";

#[test]
fn a_rendering_ends_with_the_time_of_its_task() {
    let user = User::new();
    plan(&user, json!({ "args": { "text": ENDLESS }, "timeout": "500ms" }));
    let ended = fails(&user, "longer than 500ms");
    // Without the limit it would go on for as long as a renderer may.
    assert!(ended.took < Duration::from_secs(15), "{:?}", ended.took);
}

#[test]
fn a_rendering_ends_when_the_run_is_stopped() {
    let user = User::new();
    plan(&user, json!({ "args": { "text": ENDLESS } }));
    let mut running = user.start(&["run", "plan.json", "--json"]);
    running.until("task.started", Some("t"));
    let started = Instant::now();
    running.signal("INT");
    assert_eq!(running.end().0, Some(130));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}
