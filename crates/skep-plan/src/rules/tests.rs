use serde_json::{Value, json};

use super::*;
use crate::{
    Step,
    template::{Ended, Run, Scope},
};

#[track_caller]
fn means(sentence: &str, expected: &[(&str, &str, Value)]) {
    let plan = plan(sentence).unwrap_or_else(|error| panic!("{sentence:?}: {error}"));
    let steps = plan.tasks.iter().map(|step| (step.id.as_str(), step.tool.as_str(), step.args.clone()));
    assert_eq!(steps.collect::<Vec<_>>(), expected, "{sentence}");
}

#[test]
fn each_form_is_understood() {
    let read = |path: &str| json!({"path": path, "limit": 100_000});
    for (sentence, tool, args) in [
        ("search for TODO here", "search", json!({"query": "TODO"})),
        ("Search for TODO.", "search", json!({"query": "TODO"})),
        ("please search for TODO in src", "search", json!({"query": "TODO", "path": "src"})),
        ("search for \"broken link\" in docs", "search", json!({"query": "broken link", "path": "docs"})),
        ("search for “then, and so on” in .", "search", json!({"query": "then, and so on", "path": "."})),
        ("search for don't here!", "search", json!({"query": "don't"})),
        ("search for '{{ inputs.x }}'", "search", json!({"query": "{{ \"{{ inputs.x }}\" }}"})),
        ("search the web for link checkers", "search", json!({"query": "link checkers", "source": "web"})),
        ("list files", "list_files", json!({})),
        ("list all files in src", "list_files", json!({"path": "src"})),
        ("list *.rs files in src", "list_files", json!({"path": "src", "glob": "*.rs"})),
        ("list *.rs", "list_files", json!({"glob": "*.rs"})),
        ("read README.md", "file_read", read("README.md")),
        ("read \"a b.txt\"", "file_read", read("a b.txt")),
        ("fetch https://example.com/a?b=1,2", "fetch_url", json!({"url": "https://example.com/a?b=1,2"})),
        ("run `make test`", "bash", json!({"command": "make test"})),
        ("run `make test`.", "bash", json!({"command": "make test"})),
        ("run `a, then b; and c`", "bash", json!({"command": "a, then b; and c"})),
        ("run `docker inspect -f '{{.Id}}'`", "bash", json!({"command": "{{ \"docker inspect -f '{{.Id}}'\" }}"})),
    ] {
        let id = tool.split('_').next().unwrap();
        let id = match tool {
            "file_read" => "read",
            "fetch_url" => "fetch",
            "bash" => "run",
            _ => id,
        };
        means(sentence, &[(id, tool, args)]);
    }
}

#[test]
fn clauses_joined_by_and_run_side_by_side_and_then_waits() {
    let ids = |sentence: &str| {
        let needs = |step: &Step| format!("{}({})", step.id, step.depends_on.join(" "));
        plan(sentence).unwrap_or_else(|error| panic!("{error}")).tasks.iter().map(needs).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        ids("search for TODO and run `ls`, then read a.md and list files"),
        "search() run() read(search run) list(search run)"
    );
    assert_eq!(ids("search for a; search for b. Search for c"), "search() search_2() search_3()");
    assert_eq!(
        ids("fetch https://a.de and save it to a.txt and fetch https://b.de and save it to b.txt"),
        "fetch() save(fetch) fetch_2() save_2(fetch_2)"
    );
    assert_eq!(ids("search for a and count them by file, then run `ls`"), "search() count(search) run(search count)");
    assert_eq!(ids("read a.md, and then list files. Then run `x`"), "read() list(read) run(list)");
    assert_eq!(ids("count files by extension"), "list() count(list)");
}

/// What a step of a plan gives, when the others gave this.
fn rendered(sentence: &str, results: &[(&str, Value)]) -> (Value, String) {
    let plan = plan(sentence).unwrap_or_else(|error| panic!("{error}"));
    let mut scope = Scope::new(&plan.inputs, &Run::default());
    for (id, result) in results {
        scope.ended(id, &Ended::Completed(result.clone()));
    }
    let last = plan.tasks.last().unwrap();
    let args = scope.render(&last.args).unwrap_or_else(|error| panic!("{error}"));
    scope.ended(&last.id, &Ended::Completed(args.clone()));
    let report = scope.text(plan.report.as_ref().unwrap()).unwrap_or_else(|error| panic!("{error}"));
    (args, report)
}

fn found() -> Value {
    json!({
        "total": 3,
        "by_file": [{"path": "a.rs", "count": 2}, {"path": "b|c.md", "count": 1}],
        "results": [{"title": "a.rs:1", "path": "a.rs", "line": 1, "snippet": "// TODO *x*"}, {"title": "TODO.md", "path": "TODO.md", "snippet": ""}],
    })
}

#[test]
fn the_sentence_of_the_readme_gives_a_table_of_files_and_counts() {
    let (args, report) = rendered("search for TODO here, then count them by file", &[("search", found())]);
    assert_eq!(args["data"], found()["by_file"]);
    let table = "| File | Count |\n| --- | ---: |\n| a.rs | 2 |\n| b\\|c.md | 1 |\n\n3 in all\n";
    assert_eq!(args["text"], table);
    assert!(report.contains(table), "{report}");
    assert!(report.contains("## count them by file"), "{report}");
    assert!(!report.contains("## search"), "what was taken up is not shown again: {report}");
}

#[test]
fn them_and_it_are_what_came_before() {
    let one = [("search", found())];
    let (args, _) = rendered("search for a, then count them by extension", &one);
    assert_eq!(args["data"], json!([{"value": "rs", "count": 2}, {"value": "md", "count": 1}]));
    let (args, _) = rendered("search for a and count the matches", &one);
    assert_eq!(args, json!({"text": "3 in all\n", "data": 3}));
    let files = json!({"total": 3, "files": [{"path": "a.rs", "size": 1}, {"path": "b.rs", "size": 1}, {"path": "c", "size": 1}]});
    for sentence in [
        "count the number of files by extension",
        "count all the files in src by extension",
        "list files, then count them by extension",
    ] {
        let (args, report) = rendered(sentence, &[("list", files.clone())]);
        assert_eq!(args["data"], json!([{"value": "rs", "count": 2}, {"value": "", "count": 1}]), "{sentence}");
        assert!(report.contains("| rs | 2 |"), "{report}");
    }
    let (args, _) = rendered("run `ls`, then count it", &[("run", json!({"stdout": "a\nb\n"}))]);
    assert_eq!(args, json!({"text": "2 lines\n", "data": 2}));
    let (args, _) = rendered("run `ls` and save the output to `out/ls.txt`", &[("run", json!({"stdout": "a\nb\n"}))]);
    assert_eq!(args, json!({"path": "out/ls.txt", "content": "a\nb\n"}));
    let (args, _) = rendered("list files and save them as files.json", &[("list", files.clone())]);
    assert_eq!(serde_json::from_str::<Value>(args["content"].as_str().unwrap()).unwrap(), files);
}

/// Which clauses were not understood, and why.
fn refused(sentence: &str) -> String {
    let error = match plan(sentence) {
        Ok(plan) => panic!("{sentence:?} became {:#}", plan.to_json()),
        Err(error) => error,
    };
    let not = error.clauses.iter().filter_map(|(text, meaning)| Some(format!("{text}: {}", meaning.as_ref().err()?)));
    not.collect::<Vec<_>>().join(" | ")
}

#[test]
fn what_is_not_understood_to_the_last_word_is_refused() {
    for (sentence, reason) in [
        ("", "something to do"),
        (" ,; and then ", "something to do"),
        ("search for TODO and", "something to do"),
        ("then search for TODO", "something to do"),
        ("make me a sandwich", "make me a sandwich: it begins with none of search, list, read"),
        ("run cargo test and tell me which tests fail", "run cargo test: what \"cargo test\" means here is not clear"),
        ("run `cargo test` and tell me which tests fail", "tell me which tests fail: it begins with none of"),
        ("run `cargo test` quickly", "what \"quickly\" means here is not clear; the form is run `COMMAND`"),
        ("run \"ls\"", "what \"\\\"ls\\\"\" means here is not clear; the form is run `COMMAND`"),
        ("run", "something is missing at its end; the form is run `COMMAND`"),
        ("find unused dependencies in Cargo.toml", "it begins with none of"),
        ("search for unused dependencies in Cargo.toml", "what \"dependencies in Cargo.toml\" means here is not clear"),
        ("count the number of authors by extension", "what \"authors by extension\" means"),
        ("count the number of files by author", "counted by \"author\""),
        ("count the number of files by extension in 2020", "what \"in 2020\" means"),
        ("count files by size", "counted by \"size\""),
        ("list files by extension", "what \"by extension\" means"),
        ("search for TODO, then email me", "email me: it begins with none of"),
        ("search for a and b", "b: it begins with none of"),
        ("search for TODO in src recursively", "what \"recursively\" means"),
        ("search", "something is missing at its end"),
        ("search for", "something is missing at its end"),
        ("search the web for", "something is missing at its end; the form is search the web for QUERY…"),
        ("search for TODO in", "what \"in\" means"),
        ("count them", "nothing came before"),
        ("save it to x.txt", "nothing came before"),
        ("search for a, then save it", "something is missing at its end; the form is save"),
        ("search for a, then save it to", "something is missing at its end"),
        ("search for a, then save the page to x", "what \"the page to x\" means"),
        ("fetch the news", "what \"the news\" means"),
        (
            "fetch example.com",
            "what \"example.com\" means here is not clear; the form is fetch URL, as in: fetch https://example.com",
        ),
        ("read my mind", "what \"mind\" means"),
        ("list the reasons why", "what \"reasons why\" means"),
        ("search the web for a, then count them by file", "counted by \"file\""),
        ("search for a and list files, then count them", "may be about several"),
    ] {
        let refused = refused(sentence);
        assert!(refused.contains(reason), "{sentence:?}: {refused}");
    }
}

#[test]
fn a_refusal_shows_what_was_understood_and_what_helps() {
    let error = plan("search for TODO in src, then email me\nthe   result").unwrap_err().to_string();
    for part in [
        "understood: search for TODO in src\n",
        "(search {\"query\":\"TODO\",\"path\":\"src\"})\n",
        "not:        email me the result\n",
        "it begins with none of",
        "list *.rs  ",
        "plan file",
        "[model]",
        "api_key_env",
    ] {
        assert!(error.contains(part), "{part}\n{error}");
    }
}

/// The example beside each form.
fn examples() -> impl Iterator<Item = &'static str> {
    FORMS.iter().map(|(example, ..)| *example)
}

#[test]
fn the_examples_are_understood() {
    for example in examples() {
        plan(example).unwrap_or_else(|error| panic!("{example}: {error}"));
    }
}

/// The tools as they are, none of which is called.
fn tools() -> Vec<skep_tools::tool::Tool> {
    use skep_tools::{parts::Parts, sandboxed::SandboxOnDemand};
    let sandbox = SandboxOnDemand::new(Default::default());
    skep_builtin::all(Parts::new(sandbox))
}

#[test]
fn what_is_planned_fits_the_tools() {
    let tools = tools();
    let more = [
        "count the files in src by extension",
        "search the web for cats, then save them to cats.json",
        "search for TODO, then save them to found.md and run `ls` and save it to ls.txt",
    ];
    for sentence in examples().chain(more) {
        let plan = plan(sentence).unwrap_or_else(|error| panic!("{error}"));
        assert!(plan.tasks.iter().all(|step| !step.description.is_empty()), "{sentence}");
        let text = plan.to_json().to_string();
        let document =
            skep_tools::document::Document::parse("p", skep_tools::document::Format::Json, text.as_bytes()).unwrap();
        let problems = crate::check::problems(&document, Some(&tools));
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(lines, Vec::<String>::new(), "{sentence}");
    }
}

#[test]
fn limits_hold() {
    let many = |clauses: usize| vec!["run `x`"; clauses].join("; ");
    assert_eq!(plan(&many(CLAUSES_MAX)).unwrap().tasks.len(), CLAUSES_MAX);
    assert!(refused(&many(CLAUSES_MAX + 1)).contains("at most 64 steps"));
    assert!(plan(&format!("run `{}`", "x".repeat(SENTENCE_BYTES_MAX - 6))).is_ok());
    let long = plan(&"x ".repeat(SENTENCE_BYTES_MAX)).unwrap_err().to_string();
    assert!(long.contains("at most 65536 bytes") && long.len() < 3000, "{long}");
}

/// Words that may say something about what is to be done without being a part of it.
const STRUCTURE: &str = "please search for the web list all files here in read fetch run count them it matches results number of by file extension save output result to as this current directory and then";

proptest::proptest! {
    #[test]
    fn a_sentence_that_is_accepted_uses_every_word(words in proptest::collection::vec("search for|search the web for|TODO|then|and|,|;|count|them|the|number of|by|file|extension|run|`ls`|it|save it to|to|a[.]txt|fetch|http://x[.]de|\\{\\{|in|src|here|read|list|files|all|by author|zq[0-9]{1,2}|\"q u\"|[*][.]rs", 0..12)) {
        let sentence = words.join(" ");
        if let Ok(plan) = plan(&sentence) {
            let args: String = plan.tasks.iter().map(|step| step.args.to_string()).collect();
            for word in split(&sentence) {
                let is_structure = word.kind == Kind::Plain && STRUCTURE.split(' ').any(|known| word.is(known));
                let said = Value::from(word.text).to_string();
                let is_used = args.contains(said.trim_matches('"'));
                proptest::prop_assert!(word.kind == Kind::Stop || is_structure || is_used, "{}: {:?}: {}", sentence, word, args);
            }
            let text = plan.to_json().to_string();
            let document = skep_tools::document::Document::parse("p", skep_tools::document::Format::Json, text.as_bytes()).unwrap();
            let again = Plan::from_document(&document, None).map_err(|problems| proptest::test_runner::TestCaseError::fail(format!("{sentence}: {problems:?}")))?;
            proptest::prop_assert_eq!(again, plan);
        }
    }

    #[test]
    fn a_word_more_is_refused_or_used(example in 0..FORMS.len(), at in 0..12_usize) {
        let example = examples().nth(example).unwrap();
        let mut words: Vec<&str> = split(example).into_iter().map(|word| word.written).collect();
        words.insert(at.min(words.len()), "zq17");
        let sentence = words.join(" ");
        if let Ok(plan) = plan(&sentence) {
            let args: String = plan.tasks.iter().map(|step| step.args.to_string()).collect();
            proptest::prop_assert!(args.contains("zq17"), "{}: {}", sentence, args);
        }
    }

    #[test]
    fn no_sentence_makes_it_panic(sentence in "\\PC{0,60}") {
        let _ = plan(&sentence).map_err(|error| error.to_string());
    }
}
