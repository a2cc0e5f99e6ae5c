//! `ai`: one question to the configured model.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use skep_tools::{
    error::ToolError,
    model::{Completion, Model, Prompt},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

/// Bytes of a prompt. Models take less; this bounds what is sent to find that out.
const PROMPT_MAX: usize = 8 << 20;
/// Tokens that a caller may ask for.
const TOKENS_MAX: u32 = 1_000_000;

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct Ai {
    pub(super) model: Model,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The question or the task, with everything that is needed for it: the model sees nothing else.
    #[garde(length(chars, min = 1, max = PROMPT_MAX))]
    prompt: String,
    /// Who the model is to be and what it must keep to.
    #[garde(length(chars, max = PROMPT_MAX))]
    system: Option<String>,
    /// Tokens that the answer may have.
    #[garde(range(min = 1, max = TOKENS_MAX))]
    max_tokens: Option<u32>,
}

impl BuiltIn for Ai {
    const NAME: &'static str = "ai";
    const DESCRIPTION: &'static str = "Ask the configured language model one question and give back its answer. It \
        remembers nothing and has no tools. Use it to summarise, translate, classify or write.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: false, open_world_hint: true };
    const DEADLINE: Duration = Duration::from_secs(120);
    const RUNS_OTHERS: bool = true;
    type Arguments = Arguments;
    type Answer = Completion;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Completion, ToolError> {
        let Arguments { prompt, system, max_tokens } = &arguments;
        let prompt = Prompt { system: system.as_deref(), user: prompt, max_tokens: *max_tokens };
        let answer = self.model.complete(prompt, context.deadline, &context.cancel).await;
        answer.map_err(|error| error.of_tool(Self::NAME))
    }
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, routing::post};
    use serde_json::{Value, json};
    use skep_tools::model::Settings;

    use super::*;
    use crate::testing::{Fixture, call, serve};

    #[tokio::test]
    async fn the_model_answers() {
        let echo = post(async |Json(asked): Json<Value>| {
            let text = format!("{} / {}", asked["messages"][0]["content"], asked["max_tokens"]);
            Json(json!({"model": "m", "choices": [{"message": {"content": text}, "finish_reason": "stop"}]}))
        });
        let server = serve(Router::new().route("/v1/chat/completions", echo)).await;
        let settings = Settings { base_url: Some(server.url("/v1")), model: Some("m".into()), ..Settings::default() };
        let tool = Ai { model: Model::new(&settings, |_| None) };
        let answer = call(tool, &Fixture::new(), json!({"prompt": "Why?", "max_tokens": 7})).await.unwrap();
        assert_eq!(answer, json!({"text": "\"Why?\" / 7", "model": "m", "usage": null, "truncated": false}));
    }

    #[tokio::test]
    async fn without_a_model_it_says_how_to_configure_one() {
        let tool = Ai { model: Model::new(&Settings::default(), |_| None) };
        let error = call(tool, &Fixture::new(), json!({"prompt": "Why?"})).await.unwrap_err();
        assert_eq!(error.code(), "unavailable");
        for word in [
            "[model]",
            "skep.toml",
            "SKEP_MODEL",
            "SKEP_MODEL_PROVIDER",
            "SKEP_MODEL_BASE_URL",
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
        ] {
            assert!(error.to_string().contains(word), "{word} is not in {error}");
        }
    }
}
