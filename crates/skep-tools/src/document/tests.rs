use proptest::prelude::*;
use serde_json::json;

use super::*;

fn yaml(text: &str) -> Document {
    Document::parse("f.yaml", Format::Yaml, text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn toml(text: &str) -> Document {
    Document::parse("f.toml", Format::Toml, text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn refused(format: Format, text: &[u8]) -> Vec<String> {
    let problems = Document::parse("f", format, text).expect_err("it was accepted");
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn every_value_of_yaml_has_its_place() {
    let document = yaml("a: 1\ntasks:\n  count:\n    tool: serch\n    list: [x, {y: 2}]\n    block:\n      - z\n");
    let at = |pointer| document.problem(pointer, "!").to_string();
    assert_eq!(at(""), "f.yaml:1:1: !");
    assert_eq!(at("/a"), "f.yaml:1:1: a: !");
    assert_eq!(at("/tasks/count/tool"), "f.yaml:4:5: tasks.count.tool: !");
    assert_eq!(at("/tasks/count/list/0"), "f.yaml:5:12: tasks.count.list[0]: !");
    assert_eq!(at("/tasks/count/list/1/y"), "f.yaml:5:16: tasks.count.list[1].y: !");
    assert_eq!(at("/tasks/count/block/0"), "f.yaml:7:9: tasks.count.block[0]: !");
    assert_eq!(at("/tasks/count/none/at/all"), "f.yaml:3:3: tasks.count: !", "the nearest that there is");
    assert_eq!(document.value["tasks"]["count"]["list"], json!(["x", {"y": 2}]));
}

#[test]
fn every_value_of_toml_has_its_place() {
    let text = "home = \"/x\"\nhubs = [\n  \"a\", \"ü\", \"b\"]\n[serve]\nbind.host = \"h\"\n[[list]]\nn = 1\n[a.b]\nc = {d = 1.5}\n";
    let document = toml(text);
    let at = |pointer| document.problem(pointer, "!").to_string();
    assert_eq!(at("/home"), "f.toml:1:1: home: !");
    assert_eq!(at("/hubs/0"), "f.toml:3:3: hubs[0]: !");
    assert_eq!(at("/hubs/2"), "f.toml:3:13: hubs[2]: !", "columns are characters");
    assert_eq!(at("/serve"), "f.toml:4:2: serve: !");
    assert_eq!(at("/serve/bind/host"), "f.toml:5:6: serve.bind.host: !");
    assert_eq!(at("/list/0/n"), "f.toml:7:1: list[0].n: !");
    assert_eq!(at("/a"), "f.toml:8:2: a: !");
    assert_eq!(at("/a/b/c/d"), "f.toml:9:6: a.b.c.d: !");
    let value = json!({"home": "/x", "hubs": ["a", "ü", "b"], "serve": {"bind": {"host": "h"}}, "list": [{"n": 1}],
        "a": {"b": {"c": {"d": 1.5}}}});
    assert_eq!(document.value, value);
}

#[test]
fn scalars_of_yaml_mean_what_its_core_schema_says() {
    let document = yaml("[1, -2, 0x10, 1.5, true, no, null, ~, '1', \"\\u00e9\", 18446744073709551615, 2024-01-01, ]");
    let value = json!([1, -2, 16, 1.5, true, "no", null, null, "1", "é", 18446744073709551615u64, "2024-01-01"]);
    assert_eq!(document.value, value);
    for number in [".inf", "-.INF", ".nan", "1e999", "123456789012345678901234567890", "-92233720368547758080"] {
        assert!(refused(Format::Yaml, format!("n: {number}").as_bytes())[0].starts_with("f:1:4: "), "{number}");
    }
    assert!(refused(Format::Toml, b"n = inf")[0].starts_with("f:1:5: "));
}

#[test]
fn json_is_read_as_it_is_written() {
    let value = json!({"a": [1, {"b\n\"": "x\\/\u{1f600}é"}], "empty": {}, "none": [], "t": true, "f": -1.5e3});
    for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap().replace("  ", "\t")] {
        assert_eq!(yaml(&text).value, value, "{text}");
    }
    let text = r#"["\ud83d\ude00x\ud83d\ude00", "\u00e9\\", "\\ud83d\\ude00"]"#;
    let document = Document::parse("f", Format::Json, text.as_bytes()).unwrap();
    assert_eq!(document.value, serde_json::from_str::<Value>(text).unwrap());
    assert!(refused(Format::Json, br#"["\ud83d"]"#)[0].contains("Unicode"));
}

#[test]
fn lines_of_a_block_of_text_are_lines_of_the_file() {
    let document = yaml("a: 1\nreport: |\n  # one\n\n    three\nb: \"x\\ny\"\nc: |-\n\n  second\n");
    assert_eq!(document.value["report"], "# one\n\n  three\n");
    assert_eq!(document.problem_in_text("/report", 1, "!").to_string(), "f.yaml:3:3: report: !");
    assert_eq!(document.problem_in_text("/report", 3, "!").to_string(), "f.yaml:5:5: report: !");
    assert_eq!(document.problem_in_text("/b", 2, "!").to_string(), "f.yaml:6:1: b: !", "not a block");
    assert_eq!(document.problem_in_text("/c", 2, "!").to_string(), "f.yaml:9:3: c: !");
}

#[test]
fn a_key_that_is_given_twice_is_an_error_each_time() {
    let problems = refused(Format::Yaml, b"a: 1\nb: {c: 1, c: [2, {d: 1}]}\na: 3\n");
    assert_eq!(
        problems,
        [
            "f:2:11: the key \"c\" is given twice (first in line 2); remove one",
            "f:3:1: the key \"a\" is given twice (first in line 1); remove one",
        ]
    );
    assert!(refused(Format::Toml, b"a = 1\na = 2\n")[0].starts_with("f:2:1: duplicate key"));
}

#[test]
fn what_would_grow_or_be_lost_is_refused() {
    let laughs = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n";
    assert_eq!(
        refused(Format::Yaml, laughs.as_bytes()),
        ["f:2:8: aliases (*name) are not supported; write the value out"]
    );
    assert!(refused(Format::Yaml, b"a: &x {y: 1}\nb:\n  <<: {z: 1}\n")[0].starts_with("f:3:3: merging"));
    assert!(refused(Format::Yaml, b"a: 1\n---\nb: 2\n")[0].contains("second document"));
    assert!(refused(Format::Yaml, b"a: {{ x }}\n")[0].contains("put quotes around"));
    assert!(refused(Format::Yaml, b"a: !!int x\n")[0].contains("tag"));
}

#[test]
fn limits_hold_and_are_named() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Document::parse("f", Format::Yaml, deep(DEPTH_MAX).as_bytes()).is_ok());
    for text in [deep(DEPTH_MAX + 1), "[".repeat(1_000_000), "{a: ".repeat(100_000), "- ".repeat(1_000_000)] {
        let problem = &refused(Format::Yaml, text.as_bytes())[0];
        assert!(problem.contains("more than 64 lists and tables"), "{problem} {}", &text[..10]);
    }
    let toml = |depth: usize| format!("a = {}", deep(depth));
    assert!(Document::parse("f", Format::Toml, toml(DEPTH_MAX - 1).as_bytes()).is_ok());
    assert!(refused(Format::Toml, toml(DEPTH_MAX).as_bytes())[0].contains("more than 64 lists and tables"));
    assert!(!refused(Format::Toml, toml(100_000).as_bytes()).is_empty());

    let many = |values: usize| format!("[{}]", "1,".repeat(values - 1));
    assert!(Document::parse("f", Format::Yaml, many(VALUES_MAX).as_bytes()).is_ok());
    assert!(refused(Format::Yaml, many(VALUES_MAX + 1).as_bytes())[0].contains("more than 250000 values"));
    assert!(
        refused(Format::Toml, format!("a = {}", many(VALUES_MAX)).as_bytes())[0].contains("more than 250000 values")
    );

    let large = vec![b' '; FILE_BYTES_MAX as usize];
    assert!(Document::parse("f", Format::Yaml, &large).is_ok());
    assert_eq!(refused(Format::Yaml, &[&large[..], b" "].concat()), ["f: is larger than 4194304 bytes"]);
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let problems = Document::read(directory.path()).unwrap_err();
    assert!(problems[0].message.starts_with("cannot be read: "), "{problems:?}");
    let missing = directory.path().join("none.yaml");
    assert!(Document::read(&missing).unwrap_err()[0].to_string().contains("none.yaml: cannot be read: No such file"));
    assert_eq!(refused(Format::Yaml, b"a: 1\nb: \xff\n"), ["f:2:4: this is not text in UTF-8"]);
    assert_eq!(refused(Format::Toml, b"a = 1\nb = \n").len(), 1);
}

#[test]
fn a_problem_as_json_has_its_parts() {
    let problem = yaml("a: 1\nb: 2\n").problem("/b", "is wrong").help("mend it").warning();
    assert_eq!(
        serde_json::to_value(&problem).unwrap(),
        json!({"severity": "warning", "file": "f.yaml", "line": 2, "column": 1, "key": "b", "message": "is wrong",
            "help": "mend it"})
    );
    assert_eq!(problem.to_string(), "f.yaml:2:1: warning: b: is wrong; mend it");
    let whole = serde_json::to_value(Diagnostic::of_file("f", "x")).unwrap();
    assert_eq!(whole, json!({"severity": "error", "file": "f", "message": "x"}));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e15..1e15f64).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[a-z0-9 .:#{}\\[\\],'\"|>-]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(("\\PC{0,8}", inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Every pointer that leads to something.
fn pointers(value: &Value, pointer: &str, found: &mut Vec<String>) {
    found.push(pointer.to_owned());
    match value {
        Value::Array(elements) => {
            elements
                .iter()
                .enumerate()
                .for_each(|(index, value)| pointers(value, &format!("{pointer}/{index}"), found));
        }
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| pointers(value, &member(pointer, name), found));
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse("f", Format::Yaml, &bytes);
        let _ = Document::parse("f", Format::Toml, &bytes);
    }

    #[test]
    fn no_text_that_looks_like_yaml_makes_it_panic(text in "[-a-b0:{}\\[\\],#&*!|>'\"%@`?~<=.+ \\t\\r\\n\\\\\u{feff}\u{85}é]{0,80}") {
        let _ = Document::parse("f", Format::Yaml, text.as_bytes());
        let _ = Document::parse("f", Format::Toml, text.as_bytes());
    }

    #[test]
    fn json_of_any_shape_is_read_and_every_part_has_a_place(value in any_value()) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        let document = Document::parse("f", Format::Yaml, text.as_bytes());
        prop_assume!(!text.contains("\"<<\""));
        let document = document.map_err(|problems| TestCaseError::fail(format!("{problems:?}\n{text}")))?;
        prop_assert_eq!(&document.value, &value);
        let mut all = Vec::new();
        pointers(&value, "", &mut all);
        let lines: Vec<&str> = text.lines().collect();
        for pointer in all {
            let at = document.problem(&pointer, "!").at.unwrap();
            let line: Vec<char> = lines[at.line as usize - 1].chars().collect();
            prop_assert!(at.column as usize <= line.len() && !line[at.column as usize - 1].is_whitespace(), "{} {:?}\n{}", pointer, at, text);
        }
    }
}
