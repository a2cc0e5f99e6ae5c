//! Code that is generated, checked and run in a real sandbox, through the catalogue as a listener calls it.
//!
//! Needs python3, node and bash below /usr, as the continuous integration has them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use serde_json::{Value, json};
use skep_hub::hub::{calls::Calls, catalogue::Catalogue};
use skep_tools::{
    code::Policy,
    error::ToolError,
    parts::Parts,
    sandboxed::{self, SandboxOnDemand},
    tool::Call,
    workspace::{Context, Dir, Outputs},
};
use tokio_util::sync::CancellationToken;

/// A workspace and its tools.
struct Skep {
    directory: tempfile::TempDir,
    calls: Calls,
    context: Context,
}

impl Skep {
    fn new(policy: Value) -> Skep {
        let directory = tempfile::tempdir().unwrap();
        let dir = |name: &str| Dir::create(&directory.path().join(name)).unwrap();
        let (workspace, outputs) = (dir("workspace"), dir("outputs"));
        let mut config = sandboxed::config(&workspace, &outputs);
        config.helper = Some(env!("CARGO_BIN_EXE_skep").into());
        let code: Policy = serde_json::from_value(policy).unwrap();
        let parts = Parts { code, ..Parts::new(SandboxOnDemand::new(config)) };
        let calls = Calls::within(Catalogue::new(skep_builtin::all(parts)), workspace.clone(), outputs.clone());
        let context = Context::new(
            skep_hub::hub::principals::local().permit().unwrap(),
            workspace,
            Outputs::new(outputs, "task"),
            CancellationToken::new(),
        );
        Skep { directory, calls, context }
    }

    async fn call(&self, tool: &str, arguments: Value) -> Result<Value, ToolError> {
        let call = Call { tool: tool.to_owned(), arguments, deadline: Some(Duration::from_secs(20)) };
        self.calls.values(self.context.clone(), call).await.map(|answer| Value::Object(answer.value))
    }

    async fn execute(&self, arguments: Value) -> Result<Value, ToolError> {
        self.call("execute_generated_code", arguments).await
    }
}

#[tokio::test]
async fn what_was_generated_is_run_in_its_language_and_reads_the_workspace() {
    let skep = Skep::new(json!({}));
    std::fs::write(skep.directory.path().join("workspace/data.txt"), "three bees here").unwrap();
    for (language, code) in [
        ("python", "import json\nprint(json.dumps({'words': len(open('data.txt').read().split())}))\n"),
        (
            "javascript",
            "const fs = require('fs')\nconst words = fs.readFileSync('data.txt', 'utf8').split(' ').length\nconsole.log(JSON.stringify({words}))\n",
        ),
        ("bash", "printf '{\"words\": %d}\\n' \"$(wc -w < data.txt)\"\n"),
    ] {
        let kept = skep.call("generate_code", json!({"language": language, "code": code})).await.unwrap();
        let answer = skep.execute(json!({"path": kept["path"]})).await.unwrap();
        assert_eq!((&answer["json"], &answer["exit_code"]), (&json!({"words": 3}), &json!(0)), "{language}: {answer}");
    }
}

#[tokio::test]
async fn arguments_input_and_outputs_go_through() {
    let skep = Skep::new(json!({}));
    let python = "import sys\nopen('/outputs/kept.txt', 'w').write(sys.stdin.read())\nprint('|'.join(sys.argv[1:]))\n";
    let javascript = "const fs = require('fs')\nfs.writeFileSync('/outputs/kept.txt', fs.readFileSync(0))\nconsole.log(process.argv.slice(2).join('|'))\n";
    let bash = "cat > /outputs/kept.txt; IFS='|'; echo \"$*\"\n";
    for (language, code) in [("python", python), ("js", javascript), ("sh", bash)] {
        let arguments = json!({"language": language, "code": code, "args": ["a b", "$HOME", "é"], "stdin": language});
        let answer = skep.execute(arguments).await.unwrap();
        assert_eq!(answer["stdout"], "a b|$HOME|é\n", "{language}");
        assert_eq!(answer["outputs"], json!(["outputs/task/kept.txt"]));
        assert_eq!(skep.context.read("outputs/task/kept.txt", 100).unwrap(), language.as_bytes());
    }
}

#[tokio::test]
async fn a_program_that_fails_says_why_with_what_it_printed() {
    let skep = Skep::new(json!({}));
    let error =
        skep.execute(json!({"language": "python", "code": "print('so far')\nraise ValueError('no bees')\n"})).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("exited with code 1: ValueError: no bees"), "{error}");
    assert_eq!(error.to_json()["stdout"], "so far\n");
}

#[tokio::test]
async fn policy_holds_also_for_what_was_put_there_by_other_ways() {
    let skep = Skep::new(json!({}));
    let code = "import subprocess\nprint(subprocess.run(['id']).returncode)\n";
    std::fs::write(skep.directory.path().join("workspace/sly.py"), code).unwrap();
    let error = skep.execute(json!({"path": "sly.py"})).await.unwrap_err();
    assert_eq!(error.code(), "denied");
    assert!(error.to_string().contains("line 1: subprocess"), "{error}");

    let skep = Skep::new(json!({"python": {"allow": ["subprocess"]}}));
    let answer = skep.execute(json!({"language": "python", "code": code})).await.unwrap();
    assert!(answer["stdout"].as_str().unwrap().ends_with("0\n"), "the operator may allow it: {answer}");
}

#[tokio::test]
async fn bash_itself_decides_where_our_grammar_of_it_is_not_sure() {
    let skep = Skep::new(json!({}));
    // The grammar takes this for an error, Bash does not.
    let odd = "for i do echo \"$i\"; done\n";
    assert!(!skep_tools::code::check(skep_tools::code::Language::Bash, odd).is_empty(), "the case is still one");
    let kept = skep.call("generate_code", json!({"language": "bash", "code": odd})).await.unwrap();
    let answer = skep.execute(json!({"path": kept["path"], "args": ["a", "b"]})).await.unwrap();
    assert_eq!(answer["stdout"], "a\nb\n");

    let wrong = "if true; then\n echo a\n";
    let error = skep.call("generate_code", json!({"language": "bash", "code": wrong})).await.unwrap_err();
    assert!(error.to_string().contains("code: line 3, column 1: `fi` is missing"), "{error}");
}

/// `execute_generated_code` knows a missing interpreter by these words.
#[tokio::test]
async fn the_sandbox_says_which_program_it_lacks() {
    use skep_sandbox::{Config, Error, Request, Run, Sandbox};
    let config = Config { helper: Some(env!("CARGO_BIN_EXE_skep").into()), ..Config::default() };
    let sandbox = Sandbox::start(config).await.unwrap();
    let request = Request::new(Run::Argv(vec!["no-such-interpreter".into()]));
    let error = sandbox.run(request, CancellationToken::new()).await.unwrap_err();
    let Error::Unexecuted { why, found: false } = error else { panic!("{error}") };
    assert!(why.starts_with("`no-such-interpreter` cannot be executed: No such file"), "{why}");
}
