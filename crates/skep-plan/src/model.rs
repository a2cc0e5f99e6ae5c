//! From a sentence to a plan by a language model.
//!
//! The model sees the form of a plan, the tools, and the sentence, and writes a plan as a person would write it to a
//! file. It goes through the same checks; what they find is told to the model, which mostly mends it. So a plan by a
//! model can be wrong about the task, but never about the tools.

use std::{fmt::Write as _, time::Instant};

use serde_json::Value;
use skep_tools::{
    document::{Diagnostic, Document, Format},
    model::{Model, ModelError, Prompt},
    tool::Tool,
};
use tokio_util::sync::CancellationToken;

use super::{Plan, Tools};

/// How often the model may mend its plan.
pub const CORRECTIONS_MAX: usize = 2;
/// Tokens that a plan may have.
const TOKENS_MAX: u32 = 16_000;
/// Faults that are told to the model at once.
const FAULTS_TOLD_MAX: usize = 20;
/// How the plan is called in messages.
const FILE: &str = "plan";

/// Why a sentence became no plan.
#[derive(Debug, thiserror::Error)]
pub enum NoPlan {
    /// The model gave no answer.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It gave plans that cannot be run, again and again.
    #[error("the model wrote no plan that can be run, in {} attempts; the faults of the last one:{}", CORRECTIONS_MAX + 1, list(.0))]
    Faulty(Vec<Diagnostic>),
}

/// The plan that a sentence asks for, by the model.
pub async fn plan(
    sentence: &str,
    tools: &dyn Tools,
    model: &Model,
    deadline: Instant,
    cancel: &CancellationToken,
) -> Result<Plan, NoPlan> {
    let system = instructions(tools);
    let task = format!("The task, in the user's words:\n\n{sentence}\n");
    let mut user = task.clone();
    for attempt in 0.. {
        let prompt = Prompt { system: Some(&system), user: &user, max_tokens: Some(TOKENS_MAX) };
        let answer = model.complete(prompt, deadline, cancel).await?;
        let faults = match read(&answer.text, tools) {
            Ok(plan) => return Ok(plan),
            Err(faults) if answer.truncated => cut_off(faults),
            Err(faults) => faults,
        };
        if attempt == CORRECTIONS_MAX {
            return Err(NoPlan::Faulty(faults));
        }
        let (text, list) = (&answer.text, list(&faults[..faults.len().min(FAULTS_TOLD_MAX)]));
        user = format!(
            "{task}\nYour last answer was:\n\n{text}\n\nIt cannot be run:{list}\n\nAnswer with the whole plan, mended.\n"
        );
    }
    unreachable!("the last attempt returns")
}

/// The plan in an answer, or every fault of it.
fn read(answer: &str, tools: &dyn Tools) -> Result<Plan, Vec<Diagnostic>> {
    let text = plan_in(answer);
    let format = if text.trim_start().starts_with('{') { Format::Json } else { Format::Yaml };
    Plan::from_document(&Document::parse(FILE, format, text.as_bytes())?, Some(tools))
}

/// The text of the plan: of the fenced blocks the first that has tasks in it, otherwise all that was said.
fn plan_in(answer: &str) -> String {
    let mut blocks = blocks(answer);
    let wanted = blocks.iter().position(|block| block.contains("tasks")).or((!blocks.is_empty()).then_some(0));
    wanted.map_or_else(|| answer.to_owned(), |wanted| blocks.swap_remove(wanted))
}

/// What stands between fences. A fence within a block is indented, since it is in a text of the plan.
fn blocks(answer: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in answer.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let fence = line.trim_start().starts_with("```");
        match &mut open {
            None if fence => open = Some((indent, String::new())),
            Some((at, _)) if fence && *at == indent => blocks.extend(open.take().map(|(_, block)| block)),
            Some((at, block)) => {
                block.push_str(line.strip_prefix(*at).unwrap_or(line));
                block.push('\n');
            }
            None => {}
        }
    }
    blocks.extend(open.map(|(_, block)| block)); // a fence that was never closed
    blocks
}

fn cut_off(mut faults: Vec<Diagnostic>) -> Vec<Diagnostic> {
    faults
        .insert(0, Diagnostic::of_file(FILE, format!("it was cut off after {TOKENS_MAX} tokens; write a shorter one")));
    faults
}

fn list(faults: &[Diagnostic]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

/// What the model must know: the form of a plan, and the tools with their arguments and answers.
fn instructions(tools: &dyn Tools) -> String {
    let mut text = FORM.to_owned();
    for tool in tools.known() {
        let Tool { name, description, .. } = tool;
        let input_schema = tool.input_schema();
        let result = members(tool.output_schema());
        let _ = write!(text, "\n## {name}\n{description}\nargs: {input_schema}\nresult: {result}\n"); // cannot fail
    }
    text
}

/// The members of a tool's answer with what they mean, for templates.
fn members(schema: &Value) -> String {
    let Some(properties) = schema["properties"].as_object() else { return "an object".to_owned() };
    let member = |(name, property): (&String, &Value)| match property["description"].as_str() {
        Some(meaning) => format!("{name} ({})", meaning.trim_end_matches('.')),
        None => name.clone(),
    };
    properties.iter().map(member).collect::<Vec<_>>().join(", ")
}

/// The form of a plan, by an example that is a plan itself.
const FORM: &str = r##"You turn a user's task into a plan for a swarm of agents. Answer with one plan in YAML, in a fenced block, and nothing else.

A plan is a graph of tasks. Each task is one call of one tool. A task starts as soon as the tasks that it depends on have ended, so tasks without a connection run side by side. Example:

```yaml
name: notes
tasks:
  open_ends:
    tool: search
    args: {query: TODO}
  count:
    tool: bash
    args: {command: "find . -type f | wc -l"}
    timeout: 30s
  summary:
    role: coordinator
    tool: compose
    args:
      text: "{{ tasks.open_ends.result.total }} open ends in {{ tasks.count.result.stdout | trim }} files"
report: |
  # Open ends

  {{ tasks.summary.result.text }}
```

- Names of tasks: letters, digits, _ and -.
- Members of a task: tool, args, and if needed description, depends_on (a list of names), role (observer for a task that looks at screens or pictures, coordinator for one that puts results together, otherwise actor), timeout (such as 30s), retries (a number), allow_failure (true or false), when (a template that is true or false).
- Texts in args, in when and in report may be Jinja templates. They see tasks.<name>.result.<member>, tasks.<name>.status and tasks.<name>.error. A task that is named in a template need not be listed in depends_on. A text that is nothing but one {{ expression }} gives the value itself. A value in a shell script goes through quote, without quotes around it: grep -e {{ tasks.a.result.text | quote }} x. Values have no methods, only filters.
- Put a result into a shell command only by a file or a quoted here-document, never bare.
- Use no task that the user's words do not call for. Change nothing that the user did not ask to be changed.
- report is the answer to the user, in Markdown. It must show what was asked for.
- If no tool can do what is asked, still write a plan: one task with the tool compose whose text says what is missing.

# Tools
"##;

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use axum::{Json, Router, extract::State, routing::post};
    use serde_json::json;
    use skep_tools::{model, parts::Parts, sandboxed::SandboxOnDemand};
    use tokio::{net::TcpListener, task::JoinSet};

    use super::*;

    fn tools() -> Vec<Tool> {
        skep_builtin::all(Parts::new(SandboxOnDemand::new(Default::default())))
    }

    /// A model that gives these answers in turn, and what it was asked.
    struct Scripted {
        _serving: JoinSet<()>,
        model: Model,
        asked: Arc<Mutex<Vec<Value>>>,
    }

    async fn scripted(answers: &[&str]) -> Scripted {
        let asked = Arc::<Mutex<Vec<Value>>>::default();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let answer = async move |State(asked): State<Arc<Mutex<Vec<Value>>>>, Json(request): Json<Value>| {
            let mut asked = asked.lock().unwrap();
            asked.push(request);
            let text = &answers[asked.len().min(answers.len()) - 1];
            let reason = if text.ends_with('…') { "length" } else { "stop" };
            Json(json!({"choices": [{"message": {"content": text}, "finish_reason": reason}]}))
        };
        let router = Router::new().fallback(post(answer)).with_state(Arc::clone(&asked));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let settings = model::Settings { base_url: Some(url), model: Some("m".into()), ..Default::default() };
        Scripted { _serving: serving, model: Model::new(&settings, |_| None), asked }
    }

    async fn planned(scripted: &Scripted) -> Result<Plan, NoPlan> {
        let deadline = Instant::now() + Duration::from_secs(20);
        plan("count the files", &tools(), &scripted.model, deadline, &CancellationToken::new()).await
    }

    const GOOD: &str = "Here it is:\n```yaml\nname: count\ntasks:\n  count:\n    tool: bash\n    args:\n      command: |\n        cat <<'X'\n        ```\n        X\nreport: '{{ tasks.count.result.stdout }}'\n```\nGood luck!";

    #[tokio::test]
    async fn the_plan_is_taken_out_of_the_answer() {
        let scripted = scripted(&[GOOD]).await;
        let plan = planned(&scripted).await.unwrap();
        assert_eq!((plan.name.as_str(), plan.tasks[0].tool.as_str()), ("count", "bash"));
        assert_eq!(plan.tasks[0].args["command"], "cat <<'X'\n```\nX\n");
        let asked = scripted.asked.lock().unwrap();
        let (system, user) = (
            asked[0]["messages"][0]["content"].as_str().unwrap(),
            asked[0]["messages"][1]["content"].as_str().unwrap(),
        );
        assert!(user.contains("count the files"), "{user}");
        for tool in tools() {
            assert!(
                system.contains(&format!("\n## {}\n", tool.name)) && system.contains(tool.description),
                "{}",
                tool.name
            );
        }
    }

    #[test]
    fn a_plan_is_found_however_it_is_wrapped() {
        let tools = tools();
        let plan = "tasks: {a: {tool: bash, args: {command: ls}}}";
        let json = r#"{"tasks": {"a": {"tool": "bash", "args": {"command": "ls"}}}}"#;
        for answer in [
            plan.to_owned(),
            format!("\n{json}\n"),
            format!("```json\n{json}\n```"),
            format!("```\n{plan}\n```"),
            format!("First:\n```sh\nls\n```\nThen:\n```yaml\n{plan}\n```\n"),
            format!("1. Plan:\n   ```yaml\n   {plan}\n   ```\n"),
            format!("```yaml\n{plan}"),
        ] {
            assert_eq!(read(&answer, &tools).unwrap().tasks[0].tool, "bash", "{answer}");
        }
        assert!(read("I cannot do that.", &tools).is_err());
        assert!(read("", &tools).is_err());
    }

    #[tokio::test]
    async fn the_example_that_the_model_sees_is_a_plan() {
        let plan = read(&instructions(&tools()), &tools()).unwrap();
        assert_eq!(plan.tasks.len(), 3);
    }

    #[tokio::test]
    async fn faults_are_told_to_the_model_and_mended() {
        let scripted = scripted(&["```yaml\ntasks: {count: {tool: bahs, args: {}}}\n```", GOOD]).await;
        assert_eq!(planned(&scripted).await.unwrap().name, "count");
        let asked = scripted.asked.lock().unwrap();
        let user = asked[1]["messages"][1]["content"].as_str().unwrap();
        for part in ["count the files", "tool: bahs", "unknown tool \"bahs\"", "did you mean \"bash\"?"] {
            assert!(user.contains(part), "{part:?} is not in {user}");
        }
    }

    #[tokio::test]
    async fn a_model_that_does_not_learn_is_given_up() {
        let scripted = scripted(&["tasks: {a: {tool: nothing}}…"]).await;
        let error = planned(&scripted).await.unwrap_err();
        assert!(matches!(error, NoPlan::Faulty(_)));
        assert!(error.to_string().contains("in 3 attempts") && error.to_string().contains("cut off"), "{error}");
        assert_eq!(scripted.asked.lock().unwrap().len(), CORRECTIONS_MAX + 1);
        let none = Model::new(&Default::default(), |_| None);
        let deadline = Instant::now() + Duration::from_secs(20);
        let error = plan("x", &tools(), &none, deadline, &CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, NoPlan::Model(ModelError::NotConfigured(_))));
    }
}
