use serde_json::json;
use skep_tools::document::Format;

use super::*;

const AUDIT: &str = r#"
name: audit
inputs: {directory: "."}
agents: {actors: 4}
tasks:
  todos:
    description: Find what is left to do
    tool: search
    args: {query: "TODO|FIXME", regex: true, path: "{{ inputs.directory }}"}
    timeout: 30s
    retries: 2
  screen:
    tool: observe_screen
    depends_on: todos
  table:
    role: coordinator
    tool: compose
    depends_on: [screen, screen]
    args:
      data: "{{ tasks.todos.result.by_file }}"
    when: "{{ tasks.todos.result.total > 0 }}"
    allow_failure: true
report: |
  # {{ run.name }}
  {{ tasks["table"].status }}
"#;

fn plan(text: &str) -> Plan {
    let document = Document::parse("audit.yaml", Format::Yaml, text.as_bytes()).unwrap();
    Plan::from_document(&document, None).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

#[test]
fn a_file_becomes_a_plan_with_its_defaults_and_inferred_dependencies() {
    let plan = plan(AUDIT);
    assert_eq!(plan.tasks.iter().map(|step| step.id.as_str()).collect::<Vec<_>>(), ["todos", "screen", "table"]);
    assert_eq!(plan.agents, Agents { actors: Some(4), observers: None });
    let todos = plan.step("todos").unwrap();
    assert_eq!((todos.role, todos.timeout, todos.retries), (Role::Actor, Some(Duration::from_secs(30)), 2));
    let screen = plan.step("screen").unwrap();
    assert_eq!(
        (screen.role, &screen.args, &screen.depends_on[..]),
        (Role::Observer, &json!({}), &["todos".into()][..])
    );
    let table = plan.step("table").unwrap();
    assert_eq!((table.role, &table.depends_on[..]), (Role::Coordinator, &["screen".into(), "todos".into()][..]));
    assert!(table.allow_failure);
    assert_eq!(plan.report.as_deref(), Some("# {{ run.name }}\n{{ tasks[\"table\"].status }}\n"));
}

#[test]
fn a_plan_without_a_name_is_called_as_its_file() {
    assert_eq!(plan("tasks: {a: {tool: bash, args: {command: ls}}}").name, "audit");
}

#[test]
fn an_input_is_set_by_name_and_keeps_its_kind() {
    let mut plan = plan("inputs: {directory: '.', n: 1, flag: false, list: [], any: null}\ntasks: {a: {tool: bash}}");
    for (assignment, name, value) in [
        ("directory=a=b", "directory", json!("a=b")),
        ("directory=5", "directory", json!("5")),
        ("directory=", "directory", json!("")),
        ("n=7", "n", json!(7)),
        ("flag=true", "flag", json!(true)),
        ("list=[1, 2]", "list", json!([1, 2])),
        ("any=7", "any", json!(7)),
        ("any=seven", "any", json!("seven")),
    ] {
        let mut plan = plan.clone();
        plan.set(assignment).unwrap_or_else(|error| panic!("{assignment}: {error}"));
        assert_eq!(plan.inputs[name], value, "{assignment}");
    }
    for (assignment, error) in [
        ("directory", "must be name=value"),
        ("directry=x", "did you mean \"directory\"?"),
        ("unknown=x", "it has directory, n, flag, list, any"),
        ("n=seven", "must be a number, as JSON"),
        ("flag=1", "must be true or false, as JSON"),
    ] {
        let found = plan.set(assignment).unwrap_err();
        assert!(found.contains(error), "{assignment}: {found}");
    }
    assert_eq!(plan.inputs["n"], 1, "what was refused changed nothing");
}

#[test]
fn the_published_schema_accepts_a_plan_and_says_what_fields_are_for() {
    let schema = json_schema();
    let fields = schema["properties"]["tasks"]["additionalProperties"]["properties"].as_object().unwrap();
    assert!(fields.values().all(|field| field["description"].is_string()), "{fields:#?}");
    let stored = plan(AUDIT).to_json();
    assert_eq!(file::schema().violations(&stored), []);
}

#[test]
fn what_is_stored_is_read_back_whole() {
    let plan = plan(AUDIT);
    let stored = serde_json::to_string(&plan.to_json()).unwrap();
    assert_eq!(Plan::from_json(&serde_json::from_str(&stored).unwrap()), Ok(plan));
    for broken in [json!(null), json!({"tasks": {"a": {}}}), json!({"tasks": {"a": {"tool": "x", "timeout": "soon"}}})]
    {
        assert!(Plan::from_json(&broken).is_err(), "{broken}");
    }
}

fn any_step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    let args = proptest::collection::vec(
        ("[a-z]{1,4}", "[a-z {}%.]{0,8}".prop_filter("a template", |text| !template::is_template(text))),
        0..3,
    );
    (
        ("[a-z_-]{1,8}", "\\PC{0,12}", 0..3usize, "[a-z]{1,8}", args),
        (
            proptest::collection::btree_set("[a-z]{1,3}", 0..3),
            proptest::option::of(0u64..10_000_000),
            0..=RETRIES_MAX,
            any::<bool>(),
        ),
    )
        .prop_map(|((id, description, role, tool, args), (depends_on, timeout, retries, allow_failure))| Step {
            id,
            description,
            role: Role::ALL[role],
            tool,
            args: Value::Object(args.into_iter().map(|(name, text)| (name, text.into())).collect()),
            depends_on: depends_on.into_iter().collect(),
            when: None,
            timeout: timeout.map(Duration::from_millis),
            retries,
            allow_failure,
        })
}

proptest::proptest! {
    #[test]
    fn storing_loses_nothing(steps in proptest::collection::vec(any_step(), 1..5), name in "\\PC{1,20}", actors in proptest::option::of(1..=AGENTS_MAX)) {
        let mut seen = std::collections::BTreeSet::new();
        let tasks = steps.into_iter().filter(|step| seen.insert(step.id.clone())).collect();
        let agents = Agents { actors, observers: None };
        let plan = Plan { name, tasks, agents, report: Some("x".to_owned()), ..Plan::default() };
        proptest::prop_assert_eq!(Plan::from_json(&plan.to_json()), Ok(plan));
    }
}
