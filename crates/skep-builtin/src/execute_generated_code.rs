//! `execute_generated_code`: a program in a fresh sandbox, after the same checks as when it was generated.

use std::{ffi::OsString, path::Path};

use schemars::JsonSchema;
use serde::Deserialize;
use skep_sandbox::{InFile, Run};
use skep_tools::{
    code::{Language, SOURCE_BYTES_MAX},
    error::ToolError,
    sandboxed::{CommandAnswer, Job, SandboxOnDemand},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use crate::gate::Gate;

/// Arguments of a program.
const ARGS_MAX: usize = 1000;
/// Characters of a path.
const PATH_MAX: usize = 4096;

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct ExecuteGeneratedCode {
    pub(super) gate: Gate,
    pub(super) sandbox: SandboxOnDemand,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// A program that generate_code has kept, or one of the user's files. Either this or `code`.
    #[garde(length(chars, min = 1, max = PATH_MAX))]
    path: Option<String>,
    /// The program itself.
    #[garde(length(chars, min = 1, max = SOURCE_BYTES_MAX))]
    code: Option<String>,
    /// Its language, if neither the path nor the first line of the program (`#!…`) tells it.
    language: Option<Language>,
    /// Arguments of the program.
    #[serde(default)]
    #[garde(length(max = ARGS_MAX))]
    args: Vec<String>,
    /// Its standard input.
    #[serde(default)]
    stdin: String,
}

impl BuiltIn for ExecuteGeneratedCode {
    const NAME: &'static str = "execute_generated_code";
    const DESCRIPTION: &'static str = "Run a program in Python, JavaScript or Bash, by its path or its code, in a \
        fresh, isolated sandbox without network. It starts in /workspace (the user's files, read-only); earlier \
        outputs are in /inputs; what it writes to /outputs is kept. Nothing else survives the call. Give back what \
        it printed, as JSON too if it is JSON, and its exit code. It is checked like generate_code does.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: false, open_world_hint: false };
    const RUNS_OTHERS: bool = true;
    type Arguments = Arguments;
    type Answer = CommandAnswer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<CommandAnswer, ToolError> {
        let (argument, source) = match (&arguments.path, arguments.code) {
            (Some(path), None) => ("path", read(context, path)?),
            (None, Some(code)) => ("code", code),
            _ => return Err(ToolError::argument("path", "pass either `path` or `code`, and not both")),
        };
        let by_path = arguments.path.as_deref().and_then(|path| Language::from_path(Path::new(path)));
        let language = arguments.language.or(by_path).or_else(|| Language::from_shebang(&source)).ok_or_else(|| {
            ToolError::argument("language", "the path does not tell it; say which: python, javascript or bash")
        })?;
        let interpreter = interpreter(language)?;
        self.gate.pass(context, (Self::NAME, argument), language, &source).await?;
        let (run, files) = command(language, interpreter, source, arguments.args);
        let job = Job { stdin: arguments.stdin.into_bytes(), files, ..Job::new(Self::NAME, run) };
        let answer = self.sandbox.run(context, job).await;
        answer.map_err(|error| if is_missing(interpreter, &error) { missing(interpreter) } else { error })
    }
}

fn read(context: &Context, path: &str) -> Result<String, ToolError> {
    let bytes = context.read(path, SOURCE_BYTES_MAX as u64)?;
    String::from_utf8(bytes).map_err(|_| ToolError::argument("path", format!("{path} is not text in UTF-8")))
}

/// The program that runs a language.
fn interpreter(language: Language) -> Result<&'static str, ToolError> {
    match language {
        Language::Python => Ok("python3"),
        Language::JavaScript => Ok("node"),
        Language::Bash => Ok("bash"),
        Language::Rust => {
            let message =
                "rust is checked but not run: there is no compiler in the sandbox; use python, javascript or bash";
            Err(ToolError::argument("language", message))
        }
    }
}

/// How it is started. A program that takes arguments is a file; others need not be, which is what lets the sandbox
/// have an interpreter waiting for them.
fn command(language: Language, interpreter: &str, source: String, args: Vec<String>) -> (Run, Vec<InFile>) {
    if args.is_empty() {
        let run = match language {
            Language::Python => Run::Python(source),
            Language::JavaScript => Run::JavaScript(source),
            Language::Bash | Language::Rust => Run::Bash(source),
        };
        return (run, Vec::new());
    }
    let name = format!("main.{}", language.extension());
    let words = [interpreter.to_owned(), format!("/tmp/{name}")].into_iter().chain(args);
    let files = vec![InFile { path: name.into(), bytes: source.into_bytes() }];
    (Run::Argv(words.map(OsString::from).collect()), files)
}

/// Whether a command was not run because there is no such program in the sandbox.
fn is_missing(program: &str, error: &ToolError) -> bool {
    let said = format!("`{program}` cannot be executed: No such file");
    matches!(error, ToolError::Failed { message, .. } if message.starts_with(&said))
}

fn missing(interpreter: &str) -> ToolError {
    let package = if interpreter == "node" { "nodejs" } else { interpreter };
    ToolError::Unavailable {
        message: format!("there is no {interpreter} in the sandbox"),
        cure: format!("install it below /usr or /usr/local, as by apt-get install {package}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use skep_tools::code::Policy;

    use crate::testing::{Fixture, call};

    async fn execute(fixture: &Fixture, arguments: Value) -> ToolError {
        let sandbox = SandboxOnDemand::new(skep_sandbox::Config::default());
        let gate = Gate::new(Policy::default(), sandbox.clone());
        call(ExecuteGeneratedCode { gate, sandbox }, fixture, arguments).await.unwrap_err()
    }

    // What runs is tested where there is a real sandbox: `tests/code.rs`.

    #[tokio::test]
    async fn what_cannot_be_run_says_why() {
        let fixture = Fixture::new();
        fixture.file("a.rs", "fn main() {}");
        fixture.file("b.txt", "print(1)");
        fixture.file("c.py", b"\xff");
        fixture.file("d.py", "x".repeat(SOURCE_BYTES_MAX + 1));
        for (arguments, code, words) in [
            (json!({}), "invalid_arguments", "either `path` or `code`"),
            (json!({"path": "a.rs", "code": "1"}), "invalid_arguments", "either `path` or `code`"),
            (json!({"path": "a.rs"}), "invalid_arguments", "no compiler"),
            (json!({"path": "b.txt"}), "invalid_arguments", "say which"),
            (json!({"path": "c.py"}), "invalid_arguments", "UTF-8"),
            (json!({"path": "d.py"}), "failed", "larger than"),
            (json!({"path": "none.py"}), "failed", "does not exist"),
            (json!({"path": "../x.py"}), "denied", "leads out"),
            (json!({"language": "python", "code": "def f(:\n"}), "invalid_arguments", "code: line 1, column 7"),
            (json!({"language": "js", "code": "require('net')"}), "denied", "line 1: net"),
            (json!({"language": "perl", "code": "1"}), "invalid_arguments", "perl"),
        ] {
            let error = execute(&fixture, arguments.clone()).await;
            assert_eq!(error.code(), code, "{arguments}: {error}");
            assert!(error.to_string().contains(words), "{arguments}: {error}");
        }
    }
}
