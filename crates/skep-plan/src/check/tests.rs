use serde_json::json;
use skep_tools::{
    document::{FILE_BYTES_MAX, Format},
    error::ToolError,
    tool::{Annotations, BuiltIn, Tool},
    workspace::Context,
};

use super::*;
use crate::Plan;

/// A tool with arguments and an answer of every kind that matters here.
struct Search;

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct Arguments {
    #[garde(length(chars, min = 1))]
    query: String,
    #[serde(default)]
    regex: bool,
    limit: Option<u32>,
    glob: Option<Globs>,
    area: Option<Area>,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Globs {
    One(String),
    Several(Vec<String>),
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Area {
    Lines { from: u32 },
    Bytes { start: u32 },
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Answer {
    total: u32,
    by_file: Vec<String>,
}

impl BuiltIn for Search {
    const NAME: &'static str = "search";
    const DESCRIPTION: &'static str = "";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, _: &Context, _: Arguments) -> Result<Answer, ToolError> {
        Err(ToolError::Cancelled)
    }
}

fn tools() -> Vec<Tool> {
    vec![Tool::new(Search)]
}

/// Each problem as a line.
fn check(text: &str) -> Vec<String> {
    let document = Document::parse("p.yaml", Format::Yaml, text.as_bytes()).unwrap_or_else(|error| panic!("{error:?}"));
    problems(&document, Some(&tools())).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn only(text: &str, expected: &str) {
    assert_eq!(check(text), [expected], "{text}");
}

#[test]
fn a_plan_without_faults_has_none() {
    let text = r#"
inputs: {query: TODO, "two words": 2}
tasks:
  a: {tool: search, args: {query: "{{ inputs.query }}", limit: 5, glob: ["*.rs"], area: {start: 1}}}
  b-c:
    tool: search
    args:
      query: "{{ tasks.a.result.total }} {{ inputs['two words'] }} {{ run.id }}"
      limit: "{{ tasks['a'].result.by_file | length }}"
      regex: "{{ tasks.a.status == 'completed' }}"
    when: tasks.a.result.total > 0
    timeout: 1h
report: "{% for id in tasks %}{{ id }}: {{ tasks[id].status }}{% endfor %}{{ tasks['b-c'].error }}"
"#;
    assert_eq!(check(text), Vec::<String>::new());
}

#[test]
fn every_fault_is_found_at_once_in_the_order_of_the_file() {
    let text = r#"nmae: audit
inputs: {query: TODO}
tasks:
  first:
    tool: serch
    retries: 11
  second:
    tool: search
    args: {qurey: x, limit: many}
    depends_on: [frist, third]
    timeout: soon
  third:
    tool: search
    args:
      query: "{{ tasks.secnd.result }} {{ inputs.qery }}"
    depends_on: second
    role: boss
report: |
  # Report
  {{ tasks.first.reslt }}

  {{ taks.first }}
"#;
    assert_eq!(
        check(text),
        [
            "p.yaml:1:1: nmae: is not known here; did you mean \"name\"?",
            "p.yaml:5:5: tasks.first.tool: unknown tool \"serch\"; did you mean \"search\"?",
            "p.yaml:6:5: tasks.first.retries: must be at most 10",
            "p.yaml:9:5: tasks.second.args: `query` is missing",
            "p.yaml:9:12: tasks.second.args.qurey: is not known here; did you mean \"query\"?",
            "p.yaml:9:22: tasks.second.args.limit: must be a whole number, not text",
            "p.yaml:10:18: tasks.second.depends_on[0]: there is no task \"frist\"; did you mean \"first\"?",
            "p.yaml:11:5: tasks.second.timeout: must be a time such as 500ms, 10s, 1m30s, 2h or 7d, or a number of seconds",
            "p.yaml:15:7: tasks.third.args.query: there is no task \"secnd\"; did you mean \"second\"?",
            "p.yaml:15:7: tasks.third.args.query: the plan has no input \"qery\"; did you mean \"query\"?",
            "p.yaml:16:5: tasks.third.depends_on: the tasks wait for each other: second → third → second",
            "p.yaml:17:5: tasks.third.role: must be one of \"coordinator\", \"observer\", \"actor\", not \"boss\"",
            "p.yaml:20:3: report: `tasks.first.reslt` means nothing; a task has status, result, error",
            "p.yaml:22:3: report: `taks` means nothing; did you mean \"tasks\"?",
        ]
    );
}

#[test]
fn a_value_that_a_template_gives_is_not_judged_before_the_run() {
    let task = |args: &str| check(&format!("inputs: {{x: 1}}\ntasks:\n  a: {{tool: search, args: {args}}}\n"));
    for args in [
        r#"{query: "{{ inputs.x }}", limit: "{{ inputs.x }}"}"#,
        r#"{query: q, glob: ["{{ inputs.x }}"]}"#,
        r#"{query: q, area: {from: "{{ inputs.x }}"}}"#,
        r#"{query: q, area: "{{ inputs.x }}"}"#,
    ] {
        assert_eq!(task(args), Vec::<String>::new(), "{args}");
    }
    // What is beside it is judged all the same.
    assert_eq!(
        task(r#"{query: "{{ inputs.x }}", limit: -1}"#),
        ["p.yaml:3:53: tasks.a.args.limit: must be at least 0"]
    );
    assert_eq!(task(r#"{query: q, glob: ["{{ inputs.x }}", 1]}"#).len(), 1);
    assert_eq!(task(r#"{limit: "{{ inputs.x }}"}"#), ["p.yaml:3:21: tasks.a.args: `query` is missing"]);
    assert_eq!(task(r#"{query: q, area: {from: many}}"#).len(), 1);
}

#[test]
fn names_of_tasks_are_plain_and_short() {
    let task = |id: &str| check(&format!("tasks:\n  {id:?}: {{tool: search, args: {{query: q}}}}\n"));
    for id in ["a", "A-b_9", &"x".repeat(ID_CHARS_MAX)] {
        assert_eq!(task(id), Vec::<String>::new(), "{id}");
    }
    for id in ["", "a.b", "a b", "ä", "a/b", &"x".repeat(ID_CHARS_MAX + 1)] {
        let problems = task(id);
        assert!(problems.len() == 1 && problems[0].contains("a task's name is 1 to 64 of"), "{problems:?}");
    }
}

#[test]
fn tasks_that_wait_for_each_other_are_named_once_however_they_are_tied() {
    let task = |id: &str, more: &str| format!("  {id}: {{tool: search, args: {{query: q}}, {more}}}\n");
    let alone = format!("tasks:\n{}", task("a", "depends_on: a"));
    only(&alone, "p.yaml:2:39: tasks.a.depends_on: a depends on itself");
    let three =
        [task("a", "depends_on: [c]"), task("b", "when: tasks.a.result.total"), task("c", "depends_on: [b, a]")];
    let problems = check(&format!("tasks:\n{}", three.concat()));
    assert_eq!(problems.len(), 2, "{problems:#?}"); // a → c → b → a and a → c → a
    assert!(problems.iter().any(|problem| problem.contains("a → c → b → a")), "{problems:#?}");
    assert!(problems.iter().any(|problem| problem.contains("a → c → a")), "{problems:#?}");
    let diamond =
        [task("a", "x: 1"), task("b", "depends_on: a"), task("c", "depends_on: a"), task("d", "depends_on: [b, c]")];
    assert_eq!(check(&format!("tasks:\n{}", diamond.concat().replace(", x: 1", ""))), Vec::<String>::new());
}

#[test]
fn a_long_chain_is_followed_and_a_long_cycle_is_cut_short() {
    let chain = |first: &str| {
        let task = |n: usize| match n {
            0 => format!("  t0: {{tool: search, args: {{query: q}}{first}}}\n"),
            n => format!("  t{n}: {{tool: search, args: {{query: q}}, depends_on: t{}}}\n", n - 1),
        };
        format!("tasks:\n{}", (0..TASKS_MAX).map(task).collect::<String>())
    };
    assert_eq!(check(&chain("")), Vec::<String>::new());
    let problems = check(&chain(&format!(", depends_on: t{}", TASKS_MAX - 1)));
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("more) → t0") && problems[0].len() < 300, "{}", problems[0]);
}

#[test]
fn too_many_tasks_are_one_fault() {
    let tasks: String = (0..10_000).map(|n| format!("  t{n}: {{tool: nothing}}\n")).collect();
    let expected =
        "p.yaml:1:1: tasks: 10000 tasks are too many; a plan may have 4096; one task can work through a list by itself";
    only(&format!("tasks:\n{tasks}"), expected);
    only("tasks: {}", "p.yaml:1:1: tasks: must have at least 1 members");
}

#[test]
fn a_flood_of_faults_is_cut() {
    let tasks: String = (0..1000).map(|n| format!("  t{n}: {{tool: nothing, depends_on: nobody}}\n")).collect();
    assert_eq!(check(&format!("tasks:\n{tasks}")).len(), PROBLEMS_MAX);
}

#[test]
fn a_huge_value_is_not_repeated() {
    let huge = "x".repeat(FILE_BYTES_MAX as usize / 2);
    for (text, problems) in [
        (format!("tasks: {{a: {{tool: search, args: {{query: {huge}}}}}}}"), 0),
        (format!("tasks: {{a: {{tool: search, args: {{query: q, limit: {huge}}}}}}}"), 1),
        (format!("tasks: {{a: {{tool: {huge}}}}}"), 1),
        (format!("tasks: {{a: {{tool: search, args: {{query: q}}, depends_on: {huge}}}}}"), 1),
        (format!("tasks: {{a: {{tool: search, args: {{query: '{{{{ tasks.{huge}.result }}}}'}}}}}}"), 1),
        (format!("? {huge}\n: 1"), 2),
    ] {
        let found = check(&text);
        assert_eq!(found.len(), problems, "{:.200}", found.join("\n"));
        assert!(found.iter().all(|problem| problem.len() < 500), "{:.600}", found.join("\n"));
    }
}

#[test]
fn times_are_long_enough_and_not_too_long() {
    let timeout =
        |timeout: &str| check(&format!("tasks: {{a: {{tool: search, args: {{query: q}}, timeout: {timeout}}}}}"));
    for time in ["1ms", "3600s", "1h", "10"] {
        assert_eq!(timeout(time), Vec::<String>::new(), "{time}");
    }
    for (time, message) in [
        ("0s", "leaves no time"),
        ("3601s", "at most 1h"),
        ("-1", "at least 0"),
        ("1.5w", "such as"),
        ("[]", "must be a number or text, not a list"),
    ] {
        let problems = timeout(time);
        assert!(problems.len() == 1 && problems[0].contains(message), "{time}: {problems:?}");
    }
}

#[test]
fn what_is_no_template_is_found_with_its_line() {
    let script =
        "tasks:\n  a:\n    tool: search\n    args:\n      query: |\n        one\n        {{ tasks.a.\n        three\n";
    let problems = check(script);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("p.yaml:7:9: tasks.a.args.query: not a template: ")
            || problems[0].starts_with("p.yaml:8:9: "),
        "{problems:?}"
    );
    assert!(problems[0].ends_with("goes between {% raw %} and {% endraw %}"), "{problems:?}");
    let query = |query: &str| check(&json!({"tasks": {"a": {"tool": "search", "args": {"query": query}}}}).to_string());
    for fine in ["${#array[@]} {print}", "{% raw %}{{ .Id }}{% endraw %}", "{## nothing {{ ##}x", "a } b }} c"] {
        assert_eq!(query(fine), Vec::<String>::new(), "{fine}");
    }
    for broken in [
        "{{",
        "{% if %}",
        "{{ 1 + }}",
        "{% include 'x' %}",
        "{% for x in y %}",
        "{{ x | }}",
        "{% macro m() %}{% endmacro %}",
    ] {
        assert_eq!(query(broken).len(), 1, "{broken}: {:?}", query(broken));
    }
}

#[test]
fn names_in_templates_mean_something() {
    let query = |query: &str| {
        let tasks =
            json!({"a": {"tool": "search", "args": {"query": query}}, "b": {"tool": "search", "args": {"query": "q"}}});
        check(&json!({"inputs": {"x": 1}, "tasks": tasks}).to_string())
    };
    for fine in [
        "{{ tasks.b }}",
        "{{ range(3) }}",
        "{% set y = inputs.x %}{{ y }}",
        "{% for t in tasks.b.result.by_file %}{{ t }}{% endfor %}",
        "tasks.nobody",
    ] {
        assert_eq!(query(fine), Vec::<String>::new(), "{fine}");
    }
    for (broken, message) in [
        ("{{ tasks.a.result }}", "a task cannot use its own result"),
        ("{{ tasks['a'].result }}", "a task cannot use its own result"),
        ("{{ tasks.b.result.by_fil }}", "the result of b has no `by_fil`; did you mean \"by_file\"?"),
        ("{{ tasks[\"nobody\"].result }}", "there is no task \"nobody\""),
        ("{{ inputs.y }}", "the plan has no input \"y\""),
        ("{{ run.date }}", "`run.date` means nothing; a run has id, name, directory"),
        ("{{ result }}", "`result` means nothing"),
        ("{{ tasks }}", "which tasks this uses cannot be told before the run; list them in depends_on"),
        ("{{ tasks[inputs.x].result }}", "list them in depends_on"),
    ] {
        let problems = query(broken);
        assert!(problems.len() == 1 && problems[0].contains(message), "{broken}: {problems:?}");
    }
}

#[test]
fn unknown_filters_tests_functions_and_methods_are_found_where_they_stand() {
    let text = r#"
inputs: {x: a}
tasks:
  a:
    tool: search
    when: inputs.x is emtpy
    args:
      query: |
        one
        {{ inputs.x | qoute }}
report: |
  {{ inputs.x }}

  {{ rnge(3) }}{{ inputs.x.upper() }}
"#;
    assert_eq!(
        check(text)
            .iter()
            .map(|problem| problem.split("; did").next().unwrap().split("; there are").next().unwrap())
            .collect::<Vec<_>>(),
        [
            "p.yaml:6:5: tasks.a.when: there is no test `emtpy`",
            "p.yaml:10:9: tasks.a.args.query: there is no filter `qoute`",
            "p.yaml:14:3: report: there is no function `rnge`",
            "p.yaml:14:3: report: there is no method `upper`; values have filters instead: `value | upper`",
        ]
    );
    assert!(check(text)[1].ends_with("did you mean \"quote\"?"), "{}", check(text)[1]);
}

#[test]
fn a_value_that_becomes_a_part_of_a_script_is_warned_of() {
    let found = |tool: &str, args: Value| {
        let text = json!({
            "inputs": {"file": "a.txt", "most": 3, "list": ["a"]},
            "tasks": {"t": {"tool": tool, "args": args}, "u": {"tool": "search", "args": {"query": "q"}}},
        });
        let document = Document::parse("p", Format::Json, text.to_string().as_bytes()).unwrap();
        problems(&document, None)
    };
    let command = |command: &str| found("bash", json!({"command": command}));
    for unsafe_ in [
        "cat {{ inputs.file }}",
        "cat '{{ inputs.file }}'",
        "cat {{ inputs.file | trim }}",
        "cat {{ inputs.list | join(' ') }}",
        "cat {% for f in inputs.list %}{{ f }} {% endfor %}",
        "cat {{ tasks.u.result.results[0].path }}",
        "cat {{ inputs.file if inputs.most else 'x' }}",
        "cat {{ inputs.file | quote ~ inputs.file }}",
        "{% set f = inputs.file %}cat {{ f }}",
    ] {
        let problems = command(unsafe_);
        assert!(problems.len() == 1 && !problems[0].is_error(), "{unsafe_}: {problems:?}");
        let help = problems[0].help.as_deref().unwrap();
        assert!(problems[0].message.contains("a part of the script") && help.contains("| quote"), "{problems:?}");
    }
    for safe in [
        "cat {{ inputs.file | quote }}",
        "cat {{ inputs.list | quote }}",
        "head -n {{ inputs.most }} x",
        "head -n {{ inputs.file | length }} x",
        "echo {{ tasks.u.status }} {{ tasks['u'].status }} {{ run.id }} {{ inputs.file == 'x' }} {{ 'constant' }}",
        "{% set f = inputs.file | quote %}cat {{ f }}",
        "{% for f in inputs.list %}cat {{ f | quote }} # {{ loop.index }}\n{% endfor %}",
        "{% if inputs.file %}true{% endif %}",
        "{% filter quote %}{{ inputs.file }}{% endfilter %}",
    ] {
        assert_eq!(command(safe), [], "{safe}");
    }
    assert_eq!(found("bash", json!({"command": "cat", "stdin": "{{ inputs.file }}"})), []);
    assert_eq!(found("search", json!({"query": "{{ inputs.file }}"})), []);
    assert_eq!(found("generate_code", json!({"language": "bash", "code": "cat {{ inputs.file }}"})).len(), 1);
    assert_eq!(found("execute_generated_code", json!({"language": "bash", "code": "cat {{ inputs.file }}"})).len(), 1);
    assert_eq!(found("generate_code", json!({"language": "python", "code": "{{ inputs.file }}"})), []);
}

#[test]
fn a_condition_is_one_expression() {
    let when = |when: &str| {
        check(&json!({"tasks": {"a": {"tool": "search", "args": {"query": "q"}, "when": when}, "b": {"tool": "search", "args": {"query": "q"}}}}).to_string())
    };
    for fine in ["{{ tasks.b.result.total > 1 }}", "tasks.b.status == 'failed'", "true", " {{ 1 }} "] {
        assert_eq!(when(fine), Vec::<String>::new(), "{fine}");
    }
    for broken in ["", "a b", "{{ 1 }} and {{ 2 }}", "{% if x %}1{% endif %}", "tasks.c.status"] {
        assert_eq!(when(broken).len(), 1, "{broken}: {:?}", when(broken));
    }
}

#[test]
fn what_has_another_shape_altogether_is_one_fault_each() {
    only("", "p.yaml:1:1: is empty; it must be a table");
    only("[1]", "p.yaml:1:1: must be a table, not a list");
    only("tasks: [a]", "p.yaml:1:1: tasks: must be a table, not a list");
    only("tasks: {a: search}", "p.yaml:1:9: tasks.a: must be a table, not text");
    only("tasks: {a: {tool: search, args: [q]}}", "p.yaml:1:27: tasks.a.args: must be a table, not a list");
    only("name: x", "p.yaml:1:1: `tasks` is missing");
}

#[test]
fn without_tools_their_names_are_not_looked_at() {
    let text = "tasks: {a: {tool: whatever, args: {x: 1}}, b: {tool: y, depends_on: c}}";
    let document = Document::parse("p.yaml", Format::Yaml, text.as_bytes()).unwrap();
    let found: Vec<String> = problems(&document, None).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["p.yaml:1:57: tasks.b.depends_on: there is no task \"c\"; did you mean \"a\"?"]);
}

proptest::proptest! {
    #[test]
    fn no_plan_makes_it_panic_and_what_it_accepts_can_be_read(
        id in "[a-c-]{0,2}", tool in "search|serch|", query in "[{}%# .a-c'\\[\\]x|]{0,20}|\\{\\{ (tasks|inputs|run)\\.[a-c]\\.?(result|status)? \\}\\}",
        needs in proptest::collection::vec("[a-c]", 0..3), when in "|true|\\{\\{ tasks.b.status \\}\\}|[{}a ]{0,6}", more in "timeout|retries|x|role",
    ) {
        let task = json!({"tool": tool, "args": {"query": query}, "depends_on": needs, "when": when, more: 1});
        let other = json!({"tool": "search", "args": {"query": "q"}, "depends_on": [id]});
        let text = json!({"tasks": {id.clone(): task, "b": other}}).to_string();
        let document = Document::parse("p", Format::Yaml, text.as_bytes());
        if let Ok(document) = document {
            let plan = Plan::from_document(&document, Some(&tools()));
            proptest::prop_assert_eq!(plan.is_ok(), problems(&document, Some(&tools())).is_empty());
            if let Ok(plan) = plan {
                proptest::prop_assert_eq!(Plan::from_json(&plan.to_json()), Ok(plan));
            }
        }
    }
}
