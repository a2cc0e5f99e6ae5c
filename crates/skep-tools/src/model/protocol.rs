//! The two protocols: what a request and an answer look like.

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, InvalidHeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Completion, ModelError, Prompt, Provider, Usage};

/// Version of Anthropic's API that this is written for.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Chat Completions, with the name of the field that limits the answer: the older one is what most
    /// compatible servers know, the newer one is what OpenAI's own models demand.
    ChatCompletions(&'static str),
}

impl Protocol {
    pub(super) fn of(provider: Provider) -> Protocol {
        match provider {
            Provider::Anthropic => Protocol::Messages,
            Provider::OpenAi | Provider::XAi => Protocol::ChatCompletions("max_completion_tokens"),
            Provider::Ollama | Provider::Compatible => Protocol::ChatCompletions("max_tokens"),
        }
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            Protocol::Messages => "/v1/messages",
            Protocol::ChatCompletions(_) => "/chat/completions",
        }
    }

    pub(super) fn authorize(self, headers: &mut HeaderMap, key: Option<&str>) -> Result<(), InvalidHeaderValue> {
        if self == Protocol::Messages {
            headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
        }
        let Some(key) = key else { return Ok(()) };
        let (name, value) = match self {
            Protocol::Messages => ("x-api-key".parse().ok(), HeaderValue::from_str(key)?),
            Protocol::ChatCompletions(_) => (Some(AUTHORIZATION), HeaderValue::from_str(&format!("Bearer {key}"))?),
        };
        let mut value = value;
        value.set_sensitive(true);
        headers.extend(name.map(|name| (name, value)));
        Ok(())
    }

    pub(super) fn request(self, model: &str, prompt: Prompt<'_>, max_tokens: u32) -> Value {
        let user = json!({"role": "user", "content": prompt.user});
        let mut request = json!({"model": model});
        match self {
            Protocol::Messages => {
                request["max_tokens"] = max_tokens.into();
                request["messages"] = json!([user]);
                if let Some(system) = prompt.system {
                    request["system"] = system.into();
                }
            }
            Protocol::ChatCompletions(limit) => {
                let system = prompt.system.map(|system| json!({"role": "system", "content": system}));
                request[limit] = max_tokens.into();
                request["messages"] = system.into_iter().chain([user]).collect();
            }
        }
        request
    }

    pub(super) fn answer(self, bytes: &[u8], asked: &str) -> Result<Completion, ModelError> {
        let odd = |error: serde_json::Error| ModelError::Empty(format!("what came is not of its protocol: {error}"));
        match self {
            Protocol::Messages => serde_json::from_slice::<Message>(bytes).map_err(odd)?.completion(asked),
            Protocol::ChatCompletions(_) => serde_json::from_slice::<Chat>(bytes).map_err(odd)?.completion(asked),
        }
    }
}

/// An answer of Anthropic's.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Vec<Block>,
    model: Option<String>,
    stop_reason: Option<String>,
    usage: Option<Usage>,
}

/// A part of it. Thinking and what else there may be has no text of ours.
#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
}

impl Message {
    fn completion(self, asked: &str) -> Result<Completion, ModelError> {
        let text: String =
            self.content.into_iter().filter(|block| block.kind == "text").map(|block| block.text).collect();
        let stop = self.stop_reason.as_deref();
        let truncated = matches!(stop, Some("max_tokens" | "model_context_window_exceeded"));
        completion(text, self.model, asked, self.usage, truncated, stop)
    }
}

/// An answer of OpenAI's.
#[derive(Deserialize)]
struct Chat {
    #[serde(default)]
    choices: Vec<Choice>,
    model: Option<String>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: ChatMessage,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ChatMessage {
    content: Option<String>,
    refusal: Option<String>,
}

impl Chat {
    fn completion(self, asked: &str) -> Result<Completion, ModelError> {
        let Some(choice) = self.choices.into_iter().next() else {
            return Err(ModelError::Empty("there is no choice in it".into()));
        };
        if let Some(refusal) = choice.message.refusal {
            return Err(ModelError::Empty(format!("it refuses: {refusal}")));
        }
        let stop = choice.finish_reason.as_deref();
        let text = choice.message.content.unwrap_or_default();
        completion(text, self.model, asked, self.usage, stop == Some("length"), stop)
    }
}

fn completion(
    text: String,
    model: Option<String>,
    asked: &str,
    usage: Option<Usage>,
    truncated: bool,
    stop: Option<&str>,
) -> Result<Completion, ModelError> {
    if text.trim().is_empty() {
        return Err(ModelError::Empty(match (truncated, stop) {
            (true, _) => "the limit of tokens was used up before its text began; raise max_tokens".into(),
            (false, Some(stop)) => format!("it stopped for the reason {stop:?}"),
            (false, None) => "its text is empty".into(),
        }));
    }
    Ok(Completion { text, model: model.unwrap_or_else(|| asked.to_owned()), usage, truncated })
}

/// What a provider says of an error: `{"error": {"message", "type", "code"}}` in both protocols, or only a text.
#[derive(Default)]
pub(super) struct Said {
    pub(super) message: String,
    /// Type and code.
    kind: String,
}

impl Said {
    pub(super) fn read(answer: &[u8]) -> Said {
        let Ok(answer) = serde_json::from_slice::<Value>(answer) else {
            return Said { message: String::from_utf8_lossy(answer).trim().to_owned(), kind: String::new() };
        };
        let error = &answer["error"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let message = error.as_str().map_or_else(|| text(&error["message"]), str::to_owned);
        let kind = [&error["type"], &error["code"], &error["details"]["error_code"]].map(text).join(" ");
        Said { message, kind }
    }

    pub(super) fn is_too_long(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        let signs = ["prompt is too long", "maximum context length", "context window", "context length"];
        self.kind.contains("context_length_exceeded") || signs.iter().any(|sign| message.contains(sign))
    }

    pub(super) fn is_about_money(&self) -> bool {
        ["insufficient_quota", "spend_limit", "billing", "credit_balance"].iter().any(|sign| self.kind.contains(sign))
    }
}
