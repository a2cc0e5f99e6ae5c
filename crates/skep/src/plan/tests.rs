use serde_json::json;

use super::*;
use crate::document::Format;

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
