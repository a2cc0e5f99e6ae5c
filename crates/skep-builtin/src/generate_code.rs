//! `generate_code`: a program is checked and kept under the outputs, written by the caller or by the model.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skep_core::hex::hex;
use skep_tools::code::{Language, SOURCE_BYTES_MAX};
use skep_tools::{
    error::ToolError,
    model::{Model, Prompt},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use crate::gate::Gate;

/// Characters of a prompt.
const PROMPT_MAX: usize = 1 << 20;
/// Answers that are asked of the model: after each that does not pass it is told why.
const ATTEMPTS_MAX: usize = 3;
/// Characters of a path.
const PATH_MAX: usize = 4096;

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct GenerateCode {
    pub(super) gate: Gate,
    pub(super) model: Model,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The language. It may be left out if `path` or the first line of `code` (`#!…`) tells it.
    language: Option<Language>,
    /// The program. Either this or `prompt`.
    #[garde(length(chars, min = 1, max = SOURCE_BYTES_MAX))]
    code: Option<String>,
    /// What the program is to do; the configured model writes it.
    #[garde(length(chars, min = 1, max = PROMPT_MAX))]
    prompt: Option<String>,
    /// Where to keep it, below the outputs. A name is chosen if absent.
    #[garde(length(chars, min = 1, max = PATH_MAX))]
    path: Option<String>,
    /// Another name of `path`.
    #[garde(length(chars, min = 1, max = PATH_MAX))]
    filename: Option<String>,
}

/// The program that was kept.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    /// Where it is, as other tools take it.
    path: String,
    /// Its language.
    language: Language,
    /// Its size.
    bytes: usize,
    /// Its lines.
    lines: usize,
    /// SHA-256 of its bytes, in hexadecimal.
    sha256: String,
    /// The model that wrote it, if one did.
    model: Option<String>,
}

impl BuiltIn for GenerateCode {
    const NAME: &'static str = "generate_code";
    const DESCRIPTION: &'static str = "Check a program in Python, JavaScript, Bash or Rust and keep it under the \
        outputs; execute_generated_code runs it by the path that is given back. Pass the code, or a prompt if a model \
        is configured. Syntax errors and uses of what policy denies (starting programs, running text as code, the \
        network) are told with their lines, and nothing is kept then.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    const DEADLINE: Duration = Duration::from_secs(120);
    const RUNS_OTHERS: bool = true;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let path = arguments.path.or(arguments.filename).map(PathBuf::from);
        let by_path = path.as_deref().and_then(Language::from_path);
        let language = arguments.language.or(by_path);
        let (language, code, model) = match (arguments.code, arguments.prompt) {
            (Some(code), None) => {
                let code = if code.trim_start().starts_with("```") { fenced(&code).to_owned() } else { code };
                let language = language.or_else(|| Language::from_shebang(&code)).ok_or_else(unknown_language)?;
                self.gate.pass(context, (Self::NAME, "code"), language, &code).await?;
                (language, code, None)
            }
            (None, Some(prompt)) => {
                let language = language.ok_or_else(unknown_language)?;
                let (code, model) = self.write(context, language, &prompt).await?;
                (language, code, Some(model))
            }
            _ => return Err(ToolError::argument("code", "pass either `code` or `prompt`, and not both")),
        };
        let sha256 = hex(&Sha256::digest(code.as_bytes()));
        let chosen = || format!("generated_{}.{}", &sha256[..8], language.extension()).into();
        Ok(Answer {
            path: context.outputs.write(&path.unwrap_or_else(chosen), code.as_bytes())?,
            language,
            bytes: code.len(),
            lines: code.lines().count(),
            sha256,
            model,
        })
    }
}

impl GenerateCode {
    /// Have the model write a program that passes, and say which model it was.
    async fn write(&self, context: &Context, language: Language, task: &str) -> Result<(String, String), ToolError> {
        let system = format!(
            "You write one complete program in {language}, using nothing but its standard library. It runs in a \
             sandbox: no network, no other programs. The user's files are in /workspace, read-only; the program \
             starts there. It keeps what it writes to /outputs. It prints its result to standard output. Answer with \
             the program in one fenced code block and nothing else."
        );
        let mut user = task.to_owned();
        let mut attempt = 1;
        loop {
            let prompt = Prompt { system: Some(&system), user: &user, max_tokens: None };
            let answer = self.model.complete(prompt, context.deadline, &context.cancel).await;
            let answer = answer.map_err(|error| error.of_tool(Self::NAME))?;
            if answer.truncated {
                return Err(ToolError::failed("the model's program was cut at max_tokens of [model]; ask for less"));
            }
            let code = fenced(&answer.text);
            match self.gate.pass(context, (Self::NAME, "prompt"), language, code).await {
                Ok(()) => return Ok((code.to_owned(), answer.model)),
                Err(error @ (ToolError::InvalidArguments(_) | ToolError::Denied(_))) if attempt < ATTEMPTS_MAX => {
                    tracing::info!(attempt, %error, "the model's program does not pass");
                    user = format!(
                        "{task}\n\nThis program does not pass:\n```\n{code}\n```\nbecause of: {error}\nWrite it again."
                    );
                    attempt += 1;
                }
                Err(error @ (ToolError::InvalidArguments(_) | ToolError::Denied(_))) => {
                    let message = format!("after {ATTEMPTS_MAX} attempts the model's program does not pass: {error}");
                    return Err(ToolError::failed(message));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn unknown_language() -> ToolError {
    ToolError::argument("language", "say which: python, javascript, bash or rust")
}

/// The longest fenced code block of a text, or all of it if there is none. A block that is not closed ends with it.
fn fenced(text: &str) -> &str {
    let mut blocks = Vec::new();
    let (mut at, mut open) = (0, None);
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        if line.trim_start().starts_with("```") {
            match open.take() {
                Some(start) => blocks.push(&text[start..at]),
                None => open = Some(end),
            }
        }
        at = end;
    }
    blocks.extend(open.map(|start| &text[start..]));
    blocks.into_iter().max_by_key(|block| block.len()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{Json, Router, routing::post};
    use serde_json::{Value, json};
    use skep_tools::{code::Policy, model, sandboxed::SandboxOnDemand};

    use super::*;
    use crate::testing::{Fixture, Server, call, serve};

    fn tool(model: &model::Settings) -> GenerateCode {
        let sandbox = SandboxOnDemand::new(skep_sandbox::Config::default());
        GenerateCode { gate: Gate::new(Policy::default(), sandbox), model: Model::new(model, |_| None) }
    }

    async fn generate(fixture: &Fixture, arguments: Value) -> Result<Value, ToolError> {
        call(tool(&model::Settings::default()), fixture, arguments).await
    }

    #[tokio::test]
    async fn a_program_is_kept_as_it_was_given() {
        let fixture = Fixture::new();
        let answer =
            generate(&fixture, json!({"language": "py", "code": "print('ä')\nx = 1\n", "path": "a/b.py"})).await;
        let expected = json!({"path": "outputs/task/a/b.py", "language": "python", "bytes": 18, "lines": 2,
            "sha256": "8400fc6df9f948697153c6667e8f82ed9291fa2141d6a4cef826299956a3d938", "model": null});
        assert_eq!(answer.unwrap(), expected);
        assert_eq!(fixture.context.read("outputs/task/a/b.py", 100).unwrap(), "print('ä')\nx = 1\n".as_bytes());
    }

    #[tokio::test]
    async fn the_language_may_be_told_by_the_path_or_the_first_line_and_the_name_chosen() {
        let fixture = Fixture::new();
        for (arguments, language) in [
            (json!({"code": "let a = 1", "filename": "x.js"}), "javascript"),
            (json!({"code": "#!/usr/bin/env python3\nprint(1)\n"}), "python"),
            (json!({"code": "```sh\necho 1\n```", "language": "sh"}), "bash"),
        ] {
            assert_eq!(generate(&fixture, arguments).await.unwrap()["language"], language);
        }
        let answer = generate(&fixture, json!({"language": "bash", "code": "echo 1\n"})).await.unwrap();
        let path = answer["path"].as_str().unwrap();
        assert_eq!(path, format!("outputs/task/generated_{}.sh", &answer["sha256"].as_str().unwrap()[..8]));
        let error = generate(&fixture, json!({"code": "print(1)"})).await.unwrap_err();
        assert!(error.to_string().contains("python, javascript, bash or rust"), "{error}");
    }

    #[tokio::test]
    async fn what_does_not_pass_is_told_with_every_line_and_not_kept() {
        let fixture = Fixture::new();
        let code = "x = = 1\ny = 2\nz = )\n";
        let error = generate(&fixture, json!({"language": "python", "code": code, "path": "x.py"})).await.unwrap_err();
        let ToolError::InvalidArguments(faults) = &error else { panic!("{error}") };
        let lines: Vec<_> = faults.iter().map(|fault| fault.message.split(',').next().unwrap()).collect();
        assert_eq!((lines, faults[0].pointer.as_str()), (vec!["line 1", "line 3"], "/code"));

        let code = "import os\nos.system('ls')\nx = 1\neval('x')\n";
        let error = generate(&fixture, json!({"language": "python", "code": code, "path": "x.py"})).await.unwrap_err();
        assert_eq!(error.code(), "denied");
        for words in ["line 2: os.system", "line 4: eval", "[code.python]"] {
            assert!(error.to_string().contains(words), "{words} is not in {error}");
        }
        assert!(fixture.context.outputs.written().is_empty());
    }

    #[tokio::test]
    async fn nothing_is_written_outside_the_outputs() {
        let fixture = Fixture::new();
        for path in ["../x.py", "/tmp/x.py", "a/../../x.py"] {
            let error = generate(&fixture, json!({"code": "x = 1", "path": path})).await.unwrap_err();
            assert_eq!(error.code(), "denied", "{path}: {error}");
        }
    }

    #[tokio::test]
    async fn code_and_prompt_exclude_each_other_and_a_prompt_needs_a_model() {
        let fixture = Fixture::new();
        for arguments in [json!({"language": "python"}), json!({"language": "python", "code": "1", "prompt": "x"})] {
            assert_eq!(generate(&fixture, arguments).await.unwrap_err().code(), "invalid_arguments");
        }
        let error = generate(&fixture, json!({"language": "python", "prompt": "sort numbers"})).await.unwrap_err();
        assert_eq!(error.code(), "unavailable");
        assert!(error.to_string().contains("[model]"), "{error}");
    }

    /// A model that gives these answers one after the other, and what it was asked.
    async fn model(answers: &'static [&'static str]) -> (Server, model::Settings, Arc<Mutex<Vec<String>>>) {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        let answer = post(async move |Json(body): Json<Value>| {
            let mut log = log.lock().unwrap();
            log.push(body["messages"].to_string());
            let text = answers[log.len() - 1];
            Json(json!({"model": "m", "choices": [{"message": {"content": text}, "finish_reason": "stop"}]}))
        });
        let server = serve(Router::new().route("/v1/chat/completions", answer)).await;
        let settings =
            model::Settings { base_url: Some(server.url("/v1")), model: Some("m".into()), ..Default::default() };
        (server, settings, asked)
    }

    #[tokio::test]
    async fn the_model_is_told_what_does_not_pass_until_it_does() {
        let answers = &["```python\nimport os\nos.system('ls')\n```", "Here:\n```python\nprint(1)\n```\nIt prints 1."];
        let (_server, settings, asked) = model(answers).await;
        let fixture = Fixture::new();
        let arguments = json!({"language": "python", "prompt": "print one"});
        let answer = call(tool(&settings), &fixture, arguments).await.unwrap();
        assert_eq!(answer["model"], "m");
        assert_eq!(fixture.context.read(answer["path"].as_str().unwrap(), 100).unwrap(), b"print(1)\n");
        let asked = asked.lock().unwrap();
        assert!(asked[0].contains("print one") && !asked[0].contains("os.system"), "{}", asked[0]);
        assert!(asked[1].contains("print one") && asked[1].contains("line 2: os.system"), "{}", asked[1]);
    }

    #[tokio::test]
    async fn a_model_that_does_not_learn_is_given_up() {
        let (_server, settings, asked) = model(&["x = = 1"; ATTEMPTS_MAX]).await;
        let arguments = json!({"language": "python", "prompt": "print one"});
        let error = call(tool(&settings), &Fixture::new(), arguments).await.unwrap_err();
        assert!(error.to_string().contains("line 1, column 5: unexpected `=`"), "{error}");
        assert_eq!(asked.lock().unwrap().len(), ATTEMPTS_MAX);
    }

    #[test]
    fn the_longest_block_is_the_program() {
        for (text, code) in [
            ("x = 1\n", "x = 1\n"),
            ("```\nx = 1\n```", "x = 1\n"),
            ("Run `pip`:\n```sh\npip\n```\nthen\n```python\nx = 1\ny = 2\n```\n", "x = 1\ny = 2\n"),
            ("```python\nx = 1\n", "x = 1\n"),
            ("  ```python\n  x = 1\n  ```\n", "  x = 1\n"),
            ("", ""),
        ] {
            assert_eq!(fenced(text), code, "{text:?}");
        }
    }
}
