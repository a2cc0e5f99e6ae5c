use serde_json::json;

use super::filters::code_block;
use super::*;
use crate::plan::{Role, Step};

fn plan(ids: &[&str], inputs: Value) -> Plan {
    let step = |id: &&str| Step {
        id: (*id).to_owned(),
        description: String::new(),
        role: Role::Actor,
        tool: "bash".to_owned(),
        args: json!({}),
        depends_on: Vec::new(),
        when: None,
        timeout: None,
        retries: 0,
        allow_failure: false,
    };
    Plan { tasks: ids.iter().map(step).collect(), inputs: inputs.as_object().unwrap().clone(), ..Plan::default() }
}

fn scope() -> Scope {
    let plan = plan(&["z", "a-b", "c", "later"], json!({"n": 3, "dir": "src", "list": [1, "x"]}));
    let run = Run { id: "r1".into(), name: "audit".into(), directory: "/here".into() };
    let mut scope = Scope::new(&plan, &run);
    let result =
        json!({"total": 2, "by_file": [{"path": "a|b.rs", "count": 2}, {"path": "c.md", "count": 1}], "none": null});
    scope.ended("z", &Ended::Completed(result));
    scope.ended("a-b", &Ended::Failed("no *such* file".to_owned()));
    scope.ended("c", &Ended::Skipped);
    scope
}

fn text(template: &str) -> String {
    scope().text(template).unwrap_or_else(|error| panic!("{template}: {error}"))
}

fn fault(template: &str) -> String {
    match scope().text(template) {
        Ok(text) => panic!("{template} gave {text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_text_that_is_one_expression_gives_its_value_and_any_other_gives_text() {
    let args = json!({
        "number": "{{ inputs.n }}", "list": "{{ inputs.list }}", "table": " {{- tasks.z.result -}}\n",
        "truth": "{{ tasks.z.result.total > 1 }}", "null": "{{ tasks.z.result.none }}", "text": "{{ inputs.dir }}",
        "mixed": "{{ inputs.n }}{{ inputs.n }}", "path": "{{ inputs.dir }}/x", "plain": "{ {x} }", "same": [1, true, null, "x"],
        "deep": [{"a": "{{ inputs.n + 1 }}"}], "quoted": "{{ '{{ x }}' }}", "{{ key }}": 1, "dict": "{{ {'a': {'b': 1}} }}",
    });
    let rendered = scope().render(&args).unwrap();
    assert_eq!(
        rendered,
        json!({
            "number": 3, "list": [1, "x"], "table": {"total": 2, "by_file": [{"path": "a|b.rs", "count": 2}, {"path": "c.md", "count": 1}], "none": null},
            "truth": true, "null": null, "text": "src",
            "mixed": "33", "path": "src/x", "plain": "{ {x} }", "same": [1, true, null, "x"],
            "deep": [{"a": 4}], "quoted": "{{ x }}", "{{ key }}": 1, "dict": {"a": {"b": 1}},
        })
    );
    let names: Vec<&String> = rendered["table"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["total", "by_file", "none"], "the order is kept");
}

#[test]
fn a_template_sees_inputs_the_run_and_the_tasks_that_have_ended() {
    assert_eq!(text("{{ run.id }} {{ run.name }} {{ run.directory }}"), "r1 audit /here");
    assert_eq!(text("{{ tasks.z.status }} {{ tasks['a-b'].status }} {{ tasks.c.status }}"), "completed failed skipped");
    assert_eq!(text("{{ tasks['a-b'].error }}"), "no *such* file");
    assert_eq!(text("{% for id in tasks %}{{ id }} {% endfor %}"), "z a-b c ", "in the order of the plan");
    assert_eq!(text("{{ tasks | length }}"), "3");
    assert_eq!(text("a\n"), "a\n", "the last newline is kept");
    assert_eq!(text("<{{ '<&>' }}>"), "<<&>>", "nothing is escaped");
}

#[test]
fn a_name_that_means_nothing_is_an_error() {
    for template in [
        "{{ tasks.later.status }}",
        "{{ inputs.m }}x",
        "{{ tasks.z.result.x.y }}",
        "{{ nothing }}",
        "{% for x in inputs.m %}{% endfor %}",
    ] {
        assert!(fault(template).contains("not there"), "{template}: {}", fault(template));
    }
    for expression in ["{{ inputs.m }}", "{{ tasks.z.result.totl }}"] {
        let error = scope().render(&json!({"a": [expression]})).unwrap_err();
        assert_eq!(error.pointer, "/a/0");
        assert!(error.to_string().starts_with("a.0: `") && error.to_string().contains("not there"), "{error}");
    }
    assert!(fault("one\ntwo {{ 1 / 0 }}").starts_with("line 2: "), "{}", fault("one\ntwo {{ 1 / 0 }}"));
}

#[test]
fn a_condition_holds_or_not() {
    for (condition, holds) in [
        ("{{ tasks.z.result.total > 1 }}", true),
        ("tasks.z.result.total > 2", false),
        ("tasks['a-b'].status == 'failed'", true),
        ("inputs.list", true),
        ("{{ [] }}", false),
        ("tasks.z.result.none", false),
        ("false", false),
    ] {
        assert_eq!(scope().truth(condition), Ok(holds), "{condition}");
    }
    assert!(scope().truth("tasks.later.status").is_err());
    assert!(scope().truth("inputs.m").is_err());
    assert!(scope().truth("{{ 1 }} or {{ 2 }}").is_err());
}

#[test]
fn steps_and_size_are_limited() {
    let long = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    assert!(fault(long).contains("more than 5000000 steps"), "{}", fault(long));
    let half = format!("{{{{ 'x' * {} }}}}", RENDERED_BYTES_MAX / 2);
    assert_eq!(text(&half).len(), RENDERED_BYTES_MAX / 2);
    let whole = format!("{half}{half}");
    assert_eq!(text(&whole).len(), RENDERED_BYTES_MAX);
    assert!(fault(&format!("{whole}x")).contains("more than 8388608 bytes"));
    // As a value it has quotes, and the texts of one task are counted together.
    assert!(scope().render(&json!([half])).is_ok());
    assert!(scope().render(&json!([half, half])).unwrap_err().to_string().contains("more than 8388608 bytes"));
    assert!(scope().render(&json!(["{{ [[0] * 10000] * 10000 }}"])).unwrap_err().to_string().contains("bytes"));
}

#[test]
fn nothing_is_included() {
    for template in ["{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% macro x() %}{% endmacro %}"]
    {
        assert!(references(template).is_err(), "{template}");
        fault(template);
    }
}

#[test]
fn references_are_found_however_they_are_written() {
    let task = |id: &str, field: Option<&str>, member: Option<&str>| Reference::Task {
        id: id.to_owned(),
        field: field.map(str::to_owned),
        member: member.map(str::to_owned),
    };
    let found = |template: &str| {
        references(template).unwrap_or_else(|error| panic!("{template}: {error}")).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(found("no {template}"), []);
    assert_eq!(found("{{ tasks.a.result.x.y }}"), [task("a", Some("result"), Some("x"))]);
    assert_eq!(found("{{ tasks['a-b'].result['x'] }}"), [task("a-b", Some("result"), None)]);
    assert_eq!(
        found("{{ tasks[ \"a.b\" ].status }}{{ tasks['c'] }}"),
        [task("a.b", Some("status"), None), task("c", None, None)]
    );
    assert_eq!(found("{{ tasks[x] }}"), [Reference::AnyTask, Reference::Unknown("x".to_owned())]);
    assert_eq!(
        found("{{ inputs.x }}{{ inputs['y z'] }}{{ inputs }}"),
        [Reference::Input("x".to_owned()), Reference::Input("y z".to_owned())]
    );
    assert_eq!(found("{% for x in tasks.a.result %}{{ x.y }}{% endfor %}"), [task("a", Some("result"), None)]);
    assert_eq!(found("{% if run.id %}{{ range(1) }}{% endif %}"), [Reference::Run("id".to_owned())]);
    assert_eq!(found("text tasks['x'] {{ 1 }}"), []);
    assert!(references("{{ a b }}").is_err());
}

#[test]
fn sizes_and_durations_are_for_people() {
    for (template, expected) in [
        ("{{ 0 | size }}", "0 B"),
        ("{{ 1023 | size }}", "1023 B"),
        ("{{ 1536 | size }}", "1.5 KiB"),
        ("{{ (5 * 1024 ** 3) | size }}", "5.0 GiB"),
        ("{{ 0.0042 | duration }}", "4.2ms"),
        ("{{ 0.25 | duration }}", "250ms"),
        ("{{ 2.5 | duration }}", "2.5s"),
        ("{{ 90 | duration }}", "1m 30s"),
        ("{{ 7260 | duration }}", "2h 1m"),
        ("{{ 'a/b.tar.gz' | extension }}-{{ 'Makefile' | extension }}", "gz-"),
        ("{{ 'äöü' | shorten(2) }}", "äö…"),
    ] {
        assert_eq!(text(template), expected, "{template}");
    }
    for template in ["{{ 'x' | size }}", "{{ -1 | duration }}", "{{ 1e300 | duration }}"] {
        fault(template);
    }
}

#[test]
fn a_table_cannot_be_left_by_what_is_in_it() {
    let rows = "{{ tasks.z.result.by_file | table }}";
    assert_eq!(text(rows), "| path | count |\n| --- | ---: |\n| a\\|b.rs | 2 |\n| c.md | 1 |\n");
    let one = "{{ tasks.z.result.by_file | table(['path'], headings=['File'], limit=1) }}";
    assert_eq!(text(one), "| File |\n| --- |\n| a\\|b.rs |\n\n… and 1 more\n");
    let nasty = "{{ [{'a': 'x\\n| y | <b>`z`\\\\', 'b': none}] | table }}";
    assert_eq!(text(nasty), "| a | b |\n| --- | --- |\n| x \\| y \\| \\<b\\>\\`z\\`\\\\ |  |\n");
    assert_eq!(text("{{ [] | table }}"), "");
    assert!(fault("{{ [1] | table }}").contains("list of tables"));
    assert!(fault("{{ [{'a': 1}] | table(headngs=['x']) }}").contains("headngs"));
}

#[test]
fn code_cannot_be_left_by_the_backticks_in_it() {
    assert_eq!(text("{{ 'a\\n' | code('python') }}"), "```python\na\n```\n");
    assert_eq!(text("{{ 'a ``` b ```` c' | code }}"), "`````\na ``` b ```` c\n`````\n");
    assert_eq!(text("{{ 'x' | code('a`b\\nc') }}"), "```abc\nx\n```\n");
    assert_eq!(
        text("{{ 'a`b' | inline_code }} {{ '`' | inline_code }} {{ 'a\\n\\nb' | inline_code }}"),
        "``a`b`` `` ` `` `a b`"
    );
    assert_eq!(text("{{ '*a* [b](c)' | plain }}"), "\\*a\\* \\[b\\](c)");
}

#[test]
fn values_are_tallied_the_most_frequent_first() {
    assert_eq!(
        text("{{ ['b', 'a', 'b'] | tally | tojson }}"),
        r#"[{"value": "b", "count": 2}, {"value": "a", "count": 1}]"#
    );
    let weighted = "{{ tasks.z.result.by_file | tally('path', by='extension', weight='count') | tojson }}";
    assert_eq!(text(weighted), r#"[{"value": "rs", "count": 2}, {"value": "md", "count": 1}]"#);
    assert_eq!(text("{{ ['b', 'a', 'c'] | tally | map(attribute='value') | join }}"), "abc", "equals by name");
    assert!(fault("{{ ['a'] | tally(by='size') }}").contains("only by"));
    fault("{{ [{'a': 'x'}] | tally('a', weight='b') }}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(template in "[{}%# .a-c0-9'\"\\[\\]()x|~*+\\n-]{0,40}") {
        let _ = references(&template);
        let _ = condition_references(&template);
        let _ = scope().render(&json!([template]));
        let _ = scope().truth(&template);
    }

    #[test]
    fn a_text_without_marks_is_itself(text in "[^{]{0,40}") {
        proptest::prop_assert_eq!(scope().render(&json!(text)), Ok(json!(text)));
    }

    #[test]
    fn code_stays_in_its_block(inside in "[`a\\n ]{0,30}") {
        let block = code_block(&inside, "");
        let fence = block.lines().next().unwrap().to_owned();
        proptest::prop_assert_eq!(block.lines().filter(|line| line.trim_start().starts_with(&fence)).count(), 2);
        proptest::prop_assert!(block.contains(&inside));
    }
}
