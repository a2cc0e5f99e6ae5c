use serde_json::json;

use super::filters::code_block;
use super::*;

fn inputs(values: Value) -> Map<String, Value> {
    values.as_object().unwrap().clone()
}

fn scope() -> Scope {
    let inputs = inputs(json!({"n": 3, "dir": "src", "list": [1, "x"]}));
    let run = Run { id: "r1".into(), name: "audit".into(), directory: "/here".into() };
    let mut scope = Scope::new(&inputs, &run);
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
    assert_eq!(text("{% for id in tasks %}{{ id }} {% endfor %}"), "z a-b c ", "in the order in which they were added");
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
fn what_would_go_too_deep_is_refused_before_it_is_parsed_or_compiled() {
    let many = |before: &str, repeated: &str, after: &str| format!("{before}{}{after}", repeated.repeat(20_000));
    for (template, message) in [
        (many("{{ 1", " + 1", " }}"), "operators and brackets"),
        (many("{{ ", "not ", "1 }}"), "operators and brackets"),
        (many("{{ ", "-", "1 }}"), "operators and brackets"),
        (many("{{ ", "(", "1 }}"), "operators and brackets"),
        (many("{{ ", "[", "1 }}"), "operators and brackets"),
        (many("{{ ", "{1:", "1 }}"), "operators and brackets"),
        (many("{{ inputs", ".x", " }}"), "operators and brackets"),
        (many("{{ 1", "|abs", " }}"), "operators and brackets"),
        (many("{{ 1", " if 1 else 1", " }}"), "operators and brackets"),
        (many("{{ 1", " < 1", " }}"), "operators and brackets"),
        (many("{{ 1", "()", " }}"), "operators and brackets"),
        (many("", "{% if 1 %}", ""), "nested more than"),
        (many("{% if 1 %}", "{% elif 1 %}", ""), "nested more than"),
        (many("{% if 1 %}", "{% elif 1 %}{% set x %}{% endset %}", ""), "nested more than"),
        (many("", "{% for x in [] %}", ""), "nested more than"),
        (many("", "{% filter trim %}", ""), "nested more than"),
        (many("", "{% if 1 %}{% endif %}{{ 1 }}{{ 1 }}{{ 1 }}", ""), "more than 250000 tokens"),
    ] {
        for error in [facts(&template).map(drop), scope().text(&template).map(drop)] {
            let error = error.unwrap_err();
            assert!(error.message.contains(message), "{:.40}: {error}", template);
        }
    }
    for condition in [many("1", " or 1", ""), many("", "not ", "1"), many("{{ 1", " + 1", " }}")] {
        assert!(condition_facts(&condition).is_err() && scope().truth(&condition).is_err(), "{condition:.40}");
    }
}

#[test]
fn the_deepest_templates_that_are_allowed_do_not_overflow_a_small_stack() {
    let many =
        |count: usize, before: &str, repeated: &str, after: &str| format!("{before}{}{after}", repeated.repeat(count));
    let most = syntax::OPERATORS_MAX;
    for template in [
        many(most, "{{ 1", " + 1", " }}"),
        many(most, "{{ ", "not ", "1 }}"),
        many(most - 1, "{{ ", "-", "1 }}"),
        many(most / 2, "{{ 1", " if 1 else 1", " }}"),
        many(most, "{{ 1", "|abs", " }}"),
        many(most, "{{ 2", " ** 1", " }}"),
        many(most, "{{ inputs", ".x", " is undefined }}"),
        many(70, "{{ ", "(", "1") + &many(70, "", ")", " }}"),
        many(syntax::BLOCKS_DEPTH_MAX, "", "{% if 1 %}", "") + &many(syntax::BLOCKS_DEPTH_MAX, "", "{% endif %}", ""),
        many(syntax::BLOCKS_DEPTH_MAX - 1, "{% if 0 %}", "{% elif 0 %}", "{% endif %}"),
    ] {
        let _ = facts(&template);
        let _ = scope().text(&template);
    }
}

#[test]
fn blocks_one_after_another_are_not_deep() {
    let template = "{% if 0 %}{% elif 0 %}{% set x %}{% endset %}{% elif 1 %}y{% endif %}".repeat(1000);
    assert_eq!(text(&template), "y".repeat(1000));
}

#[test]
fn a_check_computes_no_constants() {
    // As a value it has four gigabytes and more.
    let constant = format!("{{{{ {} }}}}", vec!["'xxxxxxxxxx' * 10000000"; 40].join(" ~ "));
    assert!(facts(&constant).is_ok());
    assert!(condition_facts(&constant).is_ok());
}

#[test]
fn nothing_is_included() {
    for template in ["{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% macro x() %}{% endmacro %}"]
    {
        assert!(facts(template).is_err(), "{template}");
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
        let facts = facts(template).unwrap_or_else(|error| panic!("{template}: {error}"));
        facts.references.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(found("no {template}"), []);
    assert_eq!(found("{{ tasks.a.result.x.y }}"), [task("a", Some("result"), Some("x"))]);
    assert_eq!(found("{{ tasks['a-b'].result['x'] }}"), [task("a-b", Some("result"), Some("x"))]);
    assert_eq!(found("{{ tasks.a.result.rows[0].x }}"), [task("a", Some("result"), Some("rows"))]);
    assert_eq!(
        found("{{ tasks.a['result'][inputs.x] }}"),
        [task("a", Some("result"), None), Reference::Input("x".to_owned())]
    );
    assert_eq!(
        found("{{ tasks.a.result[1:inputs.x] }}"),
        [task("a", Some("result"), None), Reference::Input("x".to_owned())]
    );
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
    assert!(facts("{{ a b }}").is_err());
}

#[test]
fn what_the_engine_does_not_know_is_found_without_running_it() {
    let unknown = |template: &str| facts(template).unwrap().unknown;
    for fine in [
        "{{ inputs.x | trim | quote }}",
        "{{ inputs.x is defined and inputs.x is not divisibleby 3 }}",
        "{% for x in range(3) %}{{ loop.cycle('a', 'b') }}{% endfor %}",
        "{% filter upper %}x{% endfilter %}",
        "{{ [1] | map('string') | select('odd') }}",
        "{% set n = namespace(x=1) %}{{ dict(a=1) }}",
        "{% for x in inputs.list recursive %}{{ loop(x) }}{% endfor %}",
        "{{ 'a' is ge('b') }}",
    ] {
        assert_eq!(unknown(fine), [], "{fine}");
    }
    for (template, line, message) in [
        ("{{ inputs.x | qoute }}", 1, "there is no filter `qoute`; did you mean \"quote\"?"),
        ("\n{% filter uper %}x{% endfilter %}", 2, "there is no filter `uper`; did you mean \"upper\"?"),
        ("a\nb {{ 1 is evn }}", 2, "there is no test `evn`; did you mean \"even\"?"),
        ("{{ rnge(3) }}", 1, "there is no function `rnge`; did you mean \"range\"?"),
        ("{% if inputs.x | zzzzzzzzzz %}{% endif %}", 1, "there is no filter `zzzzzzzzzz`; there are abs, attr,"),
        ("{{ inputs.x.strip() }}", 1, "there is no method `strip`; values have filters instead: `value | trim`"),
        (
            "{{ tasks['a'].result.upper() }}",
            1,
            "there is no method `upper`; values have filters instead: `value | upper`",
        ),
    ] {
        let found = unknown(template);
        assert!(found.len() == 1 && found[0].0 == line && found[0].1.starts_with(message), "{template}: {found:?}");
    }
    assert_eq!(condition_facts("inputs.x | nothing_like_it").unwrap().unknown.len(), 1);
    // What is suggested is there.
    for name in filters::FILTER_NAMES {
        assert!(engine_knows(name, "name is filter"), "{name}");
    }
    for name in filters::TEST_NAMES {
        assert!(engine_knows(name, "name is test"), "{name}");
    }
    let globals: Vec<&str> = environment().globals().map(|(name, _)| name).collect();
    assert!(filters::FUNCTION_NAMES.iter().all(|name| globals.contains(name)), "{globals:?}");
}

#[test]
fn a_quoted_value_is_one_word_of_a_shell() {
    for (value, word) in [
        (json!("plain-1.txt"), "plain-1.txt"),
        (json!(""), "''"),
        (json!("two words"), "'two words'"),
        (json!("it's; rm -rf ~ $(x) `y` \\ \n"), "'it'\\''s; rm -rf ~ $(x) `y` \\ \n'"),
        (json!("~root"), "'~root'"),
        (json!("A=1"), "'A=1'"),
        (json!("*"), "'*'"),
        (json!(3.5), "3.5"),
        (json!(-3), "-3"),
        (json!(true), "True"),
        (json!(["a b", 1, "", "x"]), "'a b' 1 '' x"),
        (json!([]), ""),
    ] {
        let scope = Scope::new(&inputs(json!({"value": value})), &Run::default());
        assert_eq!(scope.text("{{ inputs.value | quote }}").as_deref(), Ok(word), "{value}");
    }
    for (value, message) in [
        (json!(null), "not none"),
        (json!({"a": 1}), "not map"),
        (json!([["a"]]), "not sequence"),
        (json!("a\u{0}b"), "NUL"),
    ] {
        let scope = Scope::new(&inputs(json!({"value": value})), &Run::default());
        let error = scope.text("{{ inputs.value | quote }}").unwrap_err();
        assert!(error.message.contains(message), "{value}: {error}");
    }
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
        let _ = facts(&template);
        let _ = condition_facts(&template);
        let _ = scope().render(&json!([template]));
        let _ = scope().truth(&template);
    }

    #[test]
    fn a_shell_reads_a_quoted_value_as_it_was(words in proptest::collection::vec("[^\\x00]{0,12}", 1..4)) {
        let scope = Scope::new(&inputs(json!({"words": words})), &Run::default());
        let script = scope.text("printf '%s\\0' {{ inputs.words | quote }}").unwrap();
        let said = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
        proptest::prop_assert_eq!(String::from_utf8(said.stdout).unwrap(), expected);
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
