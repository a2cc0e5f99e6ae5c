use serde_json::{Value, json};

use super::*;
use crate::plan::{
    Role, Step,
    template::{Ended, Run, Scope},
};

#[track_caller]
fn means(sentence: &str, expected: &[(&str, &str, Value)]) {
    let plan = plan(sentence).unwrap_or_else(|error| panic!("{sentence:?}: {error}"));
    let steps = plan.tasks.iter().map(|step| (step.id.as_str(), step.tool.as_str(), step.args.clone()));
    assert_eq!(steps.collect::<Vec<_>>(), expected, "{sentence}");
}

#[test]
fn searching_is_understood_in_many_words() {
    let search = |args| vec![("search", "search", args)];
    for (sentence, args) in [
        ("search for TODO here", json!({"query": "TODO"})),
        ("search for TODO", json!({"query": "TODO"})),
        ("Search for TODO.", json!({"query": "TODO"})),
        ("Please search for TODO in here", json!({"query": "TODO"})),
        ("find TODO in this directory", json!({"query": "TODO"})),
        ("find all TODOs in the current project", json!({"query": "TODO"})),
        ("find every TODO comment in my files", json!({"query": "TODO"})),
        ("look for TODO in src", json!({"query": "TODO", "path": "src"})),
        ("look for TODO in the src directory", json!({"query": "TODO", "path": "src"})),
        ("could you look for TODO under `my src`", json!({"query": "TODO", "path": "my src"})),
        ("search src for TODO", json!({"query": "TODO", "path": "src"})),
        ("search in src/lib.rs for TODO", json!({"query": "TODO", "path": "src/lib.rs"})),
        ("search through all files for TODO", json!({"query": "TODO"})),
        ("search for TODO in files in src", json!({"query": "TODO", "path": "src"})),
        ("search for TODO in python files in src", json!({"query": "TODO", "path": "src", "glob": "*.py"})),
        ("search for TODO in *.rs", json!({"query": "TODO", "glob": "*.rs"})),
        ("search the rust files in src for TODO", json!({"query": "TODO", "path": "src", "glob": "*.rs"})),
        ("search for \"then, and in the end\" in docs", json!({"query": "then, and in the end", "path": "docs"})),
        ("search for `a; b` and \"c.d\"", json!({"query": "a; b|c\\.d", "regex": true})),
        ("search for TODO and FIXME", json!({"query": "TODO|FIXME", "regex": true})),
        ("search for TODO, FIXME or XXX in src", json!({"query": "TODO|FIXME|XXX", "regex": true, "path": "src"})),
        ("find lines matching `^use .*;$` in src", json!({"query": "^use .*;$", "regex": true, "path": "src"})),
        ("find foo bar baz", json!({"query": "foo bar baz"})),
        ("find files containing password", json!({"query": "password"})),
        ("find occurrences of x ignoring case", json!({"query": "x", "case_sensitive": false})),
        ("grep TODO", json!({"query": "TODO", "case_sensitive": true})),
        (
            "grep -rni 'fn .*main' src",
            json!({"query": "fn .*main", "path": "src", "regex": true, "case_sensitive": false}),
        ),
        ("search the web for rust sandboxes", json!({"query": "rust sandboxes", "source": "web"})),
        ("search for cats and dogs on the web", json!({"query": "cats and dogs", "source": "web"})),
        ("look up rust news online", json!({"query": "rust news", "source": "web"})),
        ("search X for Trump viral", json!({"query": "Trump viral", "source": "x"})),
        ("search for skep on twitter", json!({"query": "skep", "source": "x"})),
        ("find \"it's\" in README.md", json!({"query": "it's", "path": "README.md"})),
        ("search for don't", json!({"query": "don't"})),
        ("search for 'quoted text'", json!({"query": "quoted text"})),
        ("search for '{{ inputs.x }}'", json!({"query": "{{ \"{{ inputs.x }}\" }}"})),
    ] {
        means(sentence, &search(args));
    }
}

#[test]
fn the_other_verbs_are_understood() {
    let read = |path: &str| json!({"path": path, "limit": 100_000});
    for (sentence, id, tool, args) in [
        ("run `make test`", "run", "bash", json!({"command": "make test"})),
        ("run the command \"ls -la\"", "run", "bash", json!({"command": "ls -la"})),
        ("execute ls -la | head -3", "run", "bash", json!({"command": "ls -la | head -3"})),
        (
            "run make, then cargo test; echo then done",
            "run",
            "bash",
            json!({"command": "make, then cargo test; echo then done"}),
        ),
        ("run if true; then echo hi; fi", "run", "bash", json!({"command": "if true; then echo hi; fi"})),
        ("run `ls` in src", "run", "bash", json!({"command": "cd -- 'src' || exit\nls"})),
        ("run ```\necho 1\necho 2\n```", "run", "bash", json!({"command": "echo 1\necho 2\n"})),
        (
            "run `docker inspect -f '{{.Id}}'`",
            "run",
            "bash",
            json!({"command": "{{ \"docker inspect -f '{{.Id}}'\" }}"}),
        ),
        ("fetch https://example.com/a?b=1,2", "fetch", "fetch_url", json!({"url": "https://example.com/a?b=1,2"})),
        ("get the page at example.com/x", "fetch", "fetch_url", json!({"url": "https://example.com/x"})),
        ("download http://localhost:8000/", "fetch", "fetch_url", json!({"url": "http://localhost:8000/"})),
        ("read README.md", "read", "file_read", read("README.md")),
        ("show me the file Makefile", "read", "file_read", read("Makefile")),
        ("open `a b.txt`", "read", "file_read", read("a b.txt")),
        ("read the first 10 lines of src/main.rs", "read", "file_read", json!({"path": "src/main.rs", "limit": 10})),
        ("list files", "list", "list_files", json!({})),
        ("list all the files in src", "list", "list_files", json!({"path": "src"})),
        ("list *.rs files in src", "list", "list_files", json!({"path": "src", "glob": "*.rs"})),
        ("find all png files", "list", "list_files", json!({"glob": "*.png"})),
        ("find files named Cargo.toml", "list", "list_files", json!({"glob": "Cargo.toml"})),
        ("show python files in src", "list", "list_files", json!({"path": "src", "glob": "*.py"})),
        ("list src", "list", "list_files", json!({"path": "src"})),
        ("look at the screen", "look", "observe_screen", json!({})),
        ("take a screenshot", "look", "observe_screen", json!({})),
        ("what is on the screen?", "look", "observe_screen", json!({})),
        ("OCR scan.png", "look", "observe_screen", json!({"images": ["scan.png"]})),
        ("read the text in a.png and b.jpg", "look", "observe_screen", json!({"images": ["a.png", "b.jpg"]})),
        (
            "look at the images in pics",
            "look",
            "observe_screen",
            json!({"images": ["pics/**/*.{png,jpg,jpeg,gif,webp,bmp,tif,tiff}"]}),
        ),
        ("count the lines of README.md", "count", "bash", json!({"command": "wc -l < 'README.md'"})),
        (
            "generate python code `print(1)`",
            "generate",
            "generate_code",
            json!({"language": "python", "code": "print(1)"}),
        ),
        ("write a bash script: `echo 1`", "generate", "generate_code", json!({"language": "bash", "code": "echo 1"})),
        (
            "create ```js\nconsole.log(1)\n```",
            "generate",
            "generate_code",
            json!({"language": "javascript", "code": "console.log(1)\n"}),
        ),
    ] {
        means(sentence, &[(id, tool, args)]);
    }
    assert_eq!(plan("look at the screen").unwrap().tasks[0].role, Role::Observer);
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
    assert_eq!(
        ids("search for a; search for b\nsearch for c. Search for d"),
        "search() search_2() search_3() search_4()"
    );
    assert_eq!(ids("fetch https://a.de and https://b.de, https://c.de"), "fetch() fetch_2() fetch_3()");
    assert_eq!(
        ids("fetch https://a.de and save it to a.txt and fetch https://b.de and save it to b.txt"),
        "fetch() save(fetch) fetch_2() save_2(fetch_2)"
    );
    assert_eq!(ids("search for a and count them by file, then run `ls`"), "search() count(search) run(search count)");
    assert_eq!(
        ids("search for a and search for b, then count them by file"),
        "search() search_2() count(search search_2)"
    );
    assert_eq!(ids("read a.md, and then list files; after that run `x`"), "read() list(read) run(list)");
    assert_eq!(ids("first run `a`, next run `b`"), "run() run_2(run)");
    assert_eq!(ids("generate python code `print(1)` and execute it"), "generate() execute(generate)");
    assert_eq!(
        ids("generate rust code `fn main() {}`, then list files, then run the generated code"),
        "generate() list(generate) execute(list generate)"
    );
}

/// What a step of a plan gives, when the others gave this.
fn rendered(sentence: &str, results: &[(&str, Value)]) -> (Value, String) {
    let plan = plan(sentence).unwrap_or_else(|error| panic!("{error}"));
    let mut scope = Scope::new(&plan, &Run::default());
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
    let table = "| File | Count |\n| --- | ---: |\n| a.rs | 2 |\n| b\\|c.md | 1 |\n\n3 in 2 files\n";
    assert_eq!(args["text"], table);
    assert!(report.contains(table), "{report}");
    assert!(report.contains("## count them by file"), "{report}");
    assert!(!report.contains("## search"), "what was taken up is not shown again: {report}");
}

#[test]
fn them_and_it_are_what_came_before() {
    let two = [("search", found()), ("search_2", found())];
    let (args, _) = rendered("search for a and search for b, then count them by extension", &two);
    assert_eq!(args["data"], json!([{"value": "rs", "count": 4}, {"value": "md", "count": 2}]));
    let (args, _) = rendered("search for a, then count the matches", &two[..1]);
    assert_eq!(args, json!({"text": "3 matches\n", "data": 3}));
    let (args, _) = rendered("how many TODOs are there in src?", &two[..1]);
    assert_eq!(args["data"], 3);
    let (args, _) = rendered("count TODO in src by file", &two[..1]);
    assert_eq!(args["data"], found()["by_file"]);
    let files = json!({"total": 3, "files": [{"path": "a.rs", "size": 1}, {"path": "b.rs", "size": 1}, {"path": "c", "size": 1}]});
    let (args, _) = rendered("count the files in src by extension", &[("list", files.clone())]);
    assert_eq!(args["data"], json!([{"value": "rs", "count": 2}, {"value": "", "count": 1}]));
    let (args, _) = rendered("run `ls`, then count the lines", &[("run", json!({"stdout": "a\nb\n"}))]);
    assert_eq!(args["data"], 2);
    let (args, _) = rendered("run `ls` and save the output to `out/ls.txt`", &[("run", json!({"stdout": "a\nb\n"}))]);
    assert_eq!(args, json!({"path": "out/ls.txt", "content": "a\nb\n"}));
    let (args, _) =
        rendered("fetch example.com, then write it to a file called page.txt", &[("fetch", json!({"text": "hi"}))]);
    assert_eq!(args, json!({"path": "page.txt", "content": "hi"}));
    let (args, report) = rendered("list files and save them as files.json", &[("list", files.clone())]);
    assert_eq!(serde_json::from_str::<Value>(args["content"].as_str().unwrap()).unwrap(), files);
    assert!(report.contains("Written to `files.json`"), "{report}");
    let (args, _) = rendered("search for TODO and show the results", &two[..1]);
    assert!(args["text"].as_str().unwrap().contains("| a.rs | 1 | // TODO \\*x\\* |\n| TODO.md |  |  |"), "{args}");
    let (args, _) =
        rendered("generate python code `print(1)`, then execute it", &[("generate", json!({"path": "outputs/x.py"}))]);
    assert_eq!(args, json!({"path": "outputs/x.py"}));
}

#[test]
fn text_between_quotes_is_no_template() {
    let (args, report) = rendered("search for \"{% if\" and run `echo {{ 1 }} {## x`", &[("search", found())]);
    assert_eq!(args["command"], "echo {{ 1 }} {## x");
    assert!(report.contains("echo {{ 1 }}"), "{report}");
}

#[test]
fn a_failure_is_in_the_report() {
    let plan = plan("search for TODO, then count them by file").unwrap();
    let mut scope = Scope::new(&plan, &Run::default());
    scope.ended("search", &Ended::Failed("no *such* directory".to_owned()));
    scope.ended("count", &Ended::Skipped);
    let report = scope.text(plan.report.as_ref().unwrap()).unwrap();
    assert!(report.contains("failed: no \\*such\\* directory") && report.contains("skipped"), "{report}");
}

/// Which clauses were not understood, and why.
fn refused(sentence: &str) -> String {
    let error = match plan(sentence) {
        Ok(plan) => panic!("{sentence:?} became {:#}", plan.to_json()),
        Err(error) => error,
    };
    let not =
        error.clauses.iter().filter_map(|clause| Some(format!("{}: {}", clause.text, clause.meaning.as_ref().err()?)));
    not.collect::<Vec<_>>().join(" | ")
}

#[test]
fn what_is_not_understood_as_a_whole_is_refused() {
    for (sentence, reason) in [
        ("", ": it says nothing"),
        (" ,; and then ", "it says nothing"),
        ("make me a sandwich", "make me a sandwich: no rule begins with \"make\""),
        ("search for TODO, then email me", "email me: no rule begins with \"email\""),
        ("search for TODO and email me the result", "email me the result: no rule begins with \"email\""),
        ("run `ls` then delete everything", "delete everything: no rule begins"),
        ("run ls then delete everything", "delete everything: no rule begins"),
        ("search for the cause and a good way out", "put quotes around"),
        ("search", "it does not say what to look for"),
        ("search for", "it does not say what to look for"),
        ("count them", "nothing came before"),
        ("save it to x.txt", "nothing came before"),
        ("execute it", "no code was generated before"),
        ("run the tests", "put the command between backticks"),
        ("run my favourite script", "put the command between backticks"),
        ("run", "does not say which command"),
        ("fetch the news", "is no address of a page"),
        ("fetch all of it", "is no address of a page"),
        ("fetch the latest news about cats", "it can fetch addresses"),
        ("read my mind", "names no file"),
        ("generate a python script that sorts numbers", "only a model knows"),
        ("write a poem", "only be made by a model"),
        ("generate code `print(1)`", "in which language"),
        ("look at the stars", "it can look at the screen and at image files"),
        ("list the reasons why", "it can list files"),
        ("search the web for a, then count them by file", "in no files to count by"),
        ("search for a, then count them by author", "not by \"author\""),
        ("search for a and list files, then count them", "of several kinds"),
        ("search for a, then save it", "say: save it to FILE"),
        ("look at the screen, then count them by file", "cannot be counted like this"),
        ("search for some \"quoted\" text", "only a part is in quotes"),
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
        "(search the files in src for the text \"TODO\")",
        "not:        email me\n",
        "no rule begins with \"email\"",
        "search for TODO here, then count them by file\n",
        "[model]",
        "api_key_env",
    ] {
        assert!(error.contains(part), "{part}\n{error}");
    }
}

#[test]
fn the_examples_are_understood() {
    for example in EXAMPLES {
        plan(example).unwrap_or_else(|error| panic!("{example}: {error}"));
    }
}

#[test]
fn the_help_names_settings_that_there_are() {
    let section: String =
        MODEL_HELP.lines().filter_map(|line| line.strip_prefix("  ")).map(|line| format!("{line}\n")).collect();
    let path = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(path.path(), &section).unwrap();
    assert!(section.contains("[model]") && section.contains("provider"), "{section}");
    assert_eq!(crate::config::check(path.path()), []);
    let help = &MODEL_HELP[MODEL_HELP.find("environment").unwrap()..];
    let named = help.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).filter(|word| word.starts_with("SKEP_"));
    let names: Vec<&str> = named.collect();
    assert_eq!(names.len(), 3);
    for name in names {
        assert!(crate::config::VARIABLES.iter().any(|variable| variable.name == name), "{name}");
    }
    for provider in ["anthropic", "xai", "ollama", "compatible"] {
        std::fs::write(path.path(), section.replace("\"openai\"", &format!("{provider:?}"))).unwrap();
        assert_eq!(crate::config::check(path.path()), [], "{provider}");
    }
}

/// The tools as they are, none of which is called.
fn catalogue() -> crate::catalogue::Catalogue {
    use crate::tools::{Parts, SandboxOnDemand, built_in};
    let sandbox = SandboxOnDemand::new(skep_sandbox::Config::default());
    crate::catalogue::Catalogue::new(built_in(Parts::new(sandbox)))
}

#[test]
fn what_is_planned_fits_the_tools() {
    let catalogue = catalogue();
    let more = [
        "grep -ri 'a.*b' src",
        "search for TODO in python files in src",
        "search for cats on x",
        "search for a and search for b, then count them by file",
        "count the files in src by extension",
        "list files, then count them by extension",
        "read the first 10 lines of a.md, then count the words",
        "search the web for cats, then save them to cats.json",
        "OCR scan.png, then save the text to scan.txt",
        "look at the images in pics, then show the results",
        "count the lines of a.md",
        "run `ls` in src and save it to ls.txt",
        "search for TODO and list files, then save everything to all.md",
    ];
    for sentence in EXAMPLES.into_iter().chain(more) {
        let plan = plan(sentence).unwrap_or_else(|error| panic!("{error}"));
        if plan.tasks.iter().any(|step| step.tool == "generate_code") && catalogue.get("generate_code").is_err() {
            continue; // a catalogue without the tools for code
        }
        let text = plan.to_json().to_string();
        let document = crate::document::Document::parse("p", crate::document::Format::Json, text.as_bytes()).unwrap();
        let problems = crate::plan::check::problems(&document, Some(&catalogue));
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(lines, Vec::<String>::new(), "{sentence}");
    }
}

#[test]
fn limits_hold() {
    let many = |clauses: usize| vec!["run `x`"; clauses].join("; ");
    assert_eq!(plan(&many(CLAUSES_MAX)).unwrap().tasks.len(), CLAUSES_MAX);
    assert!(refused(&many(CLAUSES_MAX + 1)).contains("65 steps are too many"));
    assert!(plan(&format!("run `{}`", "x".repeat(SENTENCE_BYTES_MAX - 6))).is_ok());
    let long = plan(&"x ".repeat(SENTENCE_BYTES_MAX)).unwrap_err().to_string();
    assert!(long.contains("at most 65536 bytes") && long.len() < 3000, "{long}");
}

proptest::proptest! {
    #[test]
    fn every_plan_is_one_that_a_check_accepts(words in proptest::collection::vec("search|for|TODO|then|and|,|;|count|them|by|file|extension|run|`ls`|it|save|to|a.txt|fetch|x.de|\\{\\{|in|src|the|web|read|list|files|show|execute|generate|python|code|\\PC{1,4}", 0..12)) {
        let sentence = words.join(" ");
        if let Ok(plan) = plan(&sentence) {
            let text = plan.to_json().to_string();
            let document = crate::document::Document::parse("p", crate::document::Format::Json, text.as_bytes()).unwrap();
            let again = Plan::from_document(&document, None).map_err(|problems| proptest::test_runner::TestCaseError::fail(format!("{sentence}: {problems:?}")))?;
            proptest::prop_assert_eq!(again, plan);
        }
    }

    #[test]
    fn no_sentence_makes_it_panic(sentence in "\\PC{0,60}") {
        let _ = plan(&sentence).map_err(|error| error.to_string());
    }
}
