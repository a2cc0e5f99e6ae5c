//! One completion from the language model that the operator configured.
//!
//! Two protocols cover nearly all there are: Anthropic's Messages, and OpenAI's Chat Completions, which xAI, Ollama and
//! most servers for local models speak too. This module owns the request, the retries that a provider asks for, and
//! errors that say what to do. It keeps no conversation and does not stream: a task is asked once and its answer is
//! kept in the run. The address is the operator's own word, so it may be on this machine, unlike what [`net`] reaches.
//!
//! The key is read from the environment, goes into one header, and nowhere else: it is in no message and no log.
//!
//! [`net`]: crate::net

mod protocol;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{StatusCode, Url, header::HeaderMap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use self::protocol::Protocol;
use crate::{duration::Span, error::ToolError};

/// Further attempts after one that the provider could not serve at the moment.
const RETRIES_MAX: u32 = 2;
/// Wait before the first of them, if the provider names no time; doubled for the next.
const RETRY_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that a provider may ask for; told to wait longer, we give up and say so.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);
/// Time that connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_MAX: usize = 16 << 20;
/// Characters of a provider's own message that an error repeats.
const MESSAGE_MAX: usize = 500;

/// Which model answers: section `[model]` of the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who serves the model. If absent, it follows from `base_url` (`compatible`) or from the key that is set.
    pub provider: Option<Provider>,
    /// Address of the API if it is not the provider's own, such as `http://localhost:8080/v1`.
    pub base_url: Option<String>,
    /// Name of the model, as the provider has it.
    pub model: Option<String>,
    /// Name of the environment variable with the key, if it is not the provider's usual one.
    pub api_key_env: Option<String>,
    /// Tokens that an answer may have unless the caller says otherwise.
    #[garde(range(min = 1))]
    pub max_tokens: u32,
    /// How long an answer may take, retries included.
    pub timeout: Span,
}

impl Default for Settings {
    fn default() -> Settings {
        let timeout = Span(Duration::from_secs(120));
        Settings { provider: None, base_url: None, model: None, api_key_env: None, max_tokens: 4096, timeout }
    }
}

/// Who serves a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Anthropic, by its Messages API.
    Anthropic,
    /// OpenAI, by Chat Completions.
    OpenAi,
    /// xAI.
    XAi,
    /// Ollama on this machine.
    Ollama,
    /// Any other server that speaks Chat Completions.
    Compatible,
}

impl Provider {
    /// Where its API is, and the environment variable that its users keep the key in.
    fn usual(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Provider::Anthropic => (Some("https://api.anthropic.com"), Some("ANTHROPIC_API_KEY")),
            Provider::OpenAi => (Some("https://api.openai.com/v1"), Some("OPENAI_API_KEY")),
            Provider::XAi => (Some("https://api.x.ai/v1"), Some("XAI_API_KEY")),
            Provider::Ollama => (Some("http://127.0.0.1:11434/v1"), None),
            Provider::Compatible => (None, None),
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// Who the model is and what it must keep to.
    pub system: Option<&'a str>,
    /// The question.
    pub user: &'a str,
    /// Tokens that the answer may have; `None` for the configured number.
    pub max_tokens: Option<u32>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Completion {
    /// The answer.
    pub text: String,
    /// The model that gave it, as the provider names it.
    pub model: String,
    /// What it took, if the provider says so.
    pub usage: Option<Usage>,
    /// The answer was cut at the limit of tokens.
    pub truncated: bool,
}

/// What an answer took, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the question.
    #[serde(alias = "prompt_tokens")]
    pub input_tokens: u64,
    /// Tokens of the answer.
    #[serde(alias = "completion_tokens")]
    pub output_tokens: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No model, or not one that can be asked: configure it.
    #[error("no language model is configured: {0}")]
    NotConfigured(String),
    /// The provider does not accept the key, or not for this: get another.
    #[error("{0}")]
    Unauthorized(String),
    /// The provider does not know the model, or the address is wrong: correct the configuration.
    #[error("{0}")]
    UnknownModel(String),
    /// Too much text for the model: ask less.
    #[error("the prompt is too long for the model: {0}")]
    TooLong(String),
    /// The provider did not accept the request.
    #[error("the provider of the model refused the request: {0}")]
    Rejected(String),
    /// Too many requests or tokens: wait.
    #[error("the provider of the model limits the rate{}: {message}", wait(.retry_after))]
    RateLimited {
        /// How long, if the provider says so.
        retry_after: Option<Duration>,
        /// What the provider said.
        message: String,
    },
    /// The provider has trouble or cannot be reached: try again later.
    #[error("the model cannot be reached: {0}")]
    Unreachable(String),
    /// It answered, but with no text that can be used.
    #[error("the model gave no answer: {0}")]
    Empty(String),
    /// The deadline came.
    #[error("the model did not answer within {}s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The caller withdrew.
    #[error("cancelled")]
    Cancelled,
}

fn wait(retry_after: &Option<Duration>) -> String {
    retry_after.map(|after| format!("; try again in {}s", after.as_secs_f64().ceil())).unwrap_or_default()
}

/// How to configure a model, for errors.
pub const CURE: &str = "name one in skep.toml ([model] provider, model, base_url) or by SKEP_MODEL_PROVIDER, SKEP_MODEL \
                        and SKEP_MODEL_BASE_URL, with the key in ANTHROPIC_API_KEY or OPENAI_API_KEY; a local Ollama \
                        needs no key";

impl ModelError {
    /// What a tool says of it.
    pub fn of_tool(self, tool: &str) -> ToolError {
        let message = self.to_string();
        match self {
            ModelError::NotConfigured(_) => ToolError::Unavailable { message, cure: CURE.to_owned() },
            ModelError::Unauthorized(_) => {
                ToolError::Unavailable { message, cure: "check the key and the account".into() }
            }
            ModelError::UnknownModel(_) => {
                ToolError::Unavailable { message, cure: "correct model or base_url in [model] of skep.toml".into() }
            }
            ModelError::TooLong(_) => ToolError::argument("prompt", message),
            ModelError::RateLimited { .. } => ToolError::Busy(message),
            ModelError::TimedOut(after) => {
                ToolError::TimedOut { tool: tool.to_owned(), after, detail: serde_json::Map::new() }
            }
            ModelError::Cancelled => ToolError::Cancelled,
            ModelError::Rejected(_) | ModelError::Unreachable(_) | ModelError::Empty(_) => ToolError::failed(message),
        }
    }

    fn is_passing(&self) -> bool {
        matches!(self, ModelError::RateLimited { .. } | ModelError::Unreachable(_))
    }
}

/// The configured model, or why there is none; cheap to clone. Nothing is loaded before the first question.
#[derive(Clone, Debug)]
pub struct Model {
    target: Arc<Result<Target, String>>,
    http: Arc<OnceCell<reqwest::Client>>,
    retry_wait: Duration,
}

/// A model that can be asked.
#[derive(Debug)]
struct Target {
    protocol: Protocol,
    url: Url,
    model: String,
    key: Option<Key>,
    max_tokens: u32,
    timeout: Duration,
}

/// The key. It does not show itself.
struct Key {
    value: String,
    /// Where it came from.
    env: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.env)
    }
}

impl Model {
    /// The model of these settings, with its key from the environment.
    pub fn new(settings: &Settings, env: impl Fn(&str) -> Option<String>) -> Model {
        let target = Target::new(settings, |name| env(name).filter(|value| !value.trim().is_empty()));
        Model { target: Arc::new(target), http: Arc::default(), retry_wait: RETRY_WAIT }
    }

    /// The name of the model that would answer, or why none would.
    pub fn name(&self) -> Result<&str, ModelError> {
        self.target().map(|target| target.model.as_str())
    }

    /// Ask once and wait for the whole answer. What fails for the moment is tried again while there is time.
    pub async fn complete(
        &self,
        prompt: Prompt<'_>,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<Completion, ModelError> {
        let target = self.target()?;
        let began = Instant::now();
        let allowed = target.timeout.min(deadline.saturating_duration_since(began));
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ModelError::Cancelled),
            answer = tokio::time::timeout(allowed, self.attempts(target, prompt, began + allowed)) => {
                answer.unwrap_or(Err(ModelError::TimedOut(allowed)))
            }
        }
    }

    fn target(&self) -> Result<&Target, ModelError> {
        self.target.as_ref().as_ref().map_err(|why| ModelError::NotConfigured(why.clone()))
    }

    async fn attempts(&self, target: &Target, prompt: Prompt<'_>, end: Instant) -> Result<Completion, ModelError> {
        let http = self.http.get_or_try_init(client).await?;
        for attempt in 0.. {
            let error = match target.ask(http, prompt).await {
                Err(error) if error.is_passing() && attempt < RETRIES_MAX => error,
                result => return result,
            };
            let wait = match &error {
                ModelError::RateLimited { retry_after: Some(after), .. } => *after,
                _ => self.retry_wait.mul_f64(f64::from(1u32 << attempt) * jitter()),
            };
            // Waiting past the deadline would only turn a clear error into a time-out.
            if wait > RETRY_WAIT_MAX || Instant::now() + wait >= end {
                return Err(error);
            }
            tracing::info!(%error, ?wait, "asking the model again");
            tokio::time::sleep(wait).await;
        }
        unreachable!("the last attempt returns")
    }
}

/// Between a half and one, so that agents that were refused together do not come back together.
fn jitter() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let random = RandomState::new().build_hasher().finish(); // keyed by the system's randomness
    0.5 + (random >> 11) as f64 / (1u64 << 54) as f64
}

async fn client() -> Result<reqwest::Client, ModelError> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("skep/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none()) // the key goes to the configured address alone
        .connect_timeout(CONNECT_MAX)
        .build();
    client.map_err(|error| ModelError::Unreachable(deepest(&error)))
}

impl Target {
    fn new(settings: &Settings, env: impl Fn(&str) -> Option<String>) -> Result<Target, String> {
        let provider = settings.provider.or_else(|| infer(settings, &env)).ok_or("neither provider nor key is set")?;
        let (usual_url, usual_env) = provider.usual();
        let base = settings
            .base_url
            .as_deref()
            .or(usual_url)
            .ok_or("the provider is `compatible`, but base_url is not set")?;
        let model = settings
            .model
            .clone()
            .filter(|model| !model.trim().is_empty())
            .ok_or("the name of the model is not set")?;
        let protocol = Protocol::of(provider);
        let url = Url::parse(&format!("{}{}", base.trim_end_matches('/'), protocol.path()));
        let url = url.ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| format!("base_url {base:?} is not an address with http:// or https://"))?;
        let name = settings.api_key_env.as_deref().or(usual_env);
        let key = name.and_then(|name| Some(Key { value: env(name)?.trim().to_owned(), env: name.to_owned() }));
        // At an address of the operator's own a key may be unnecessary, unless he named one.
        if let (Some(name), None) = (name, &key)
            && (settings.base_url.is_none() || settings.api_key_env.is_some())
        {
            return Err(format!("the environment variable {name} with the key is not set"));
        }
        let timeout = settings.timeout.0;
        Ok(Target { protocol, url, model, key, max_tokens: settings.max_tokens, timeout })
    }

    async fn ask(&self, http: &reqwest::Client, prompt: Prompt<'_>) -> Result<Completion, ModelError> {
        let body = self.protocol.request(&self.model, prompt, prompt.max_tokens.unwrap_or(self.max_tokens));
        let mut headers = HeaderMap::new();
        self.protocol.authorize(&mut headers, self.key.as_ref().map(|key| key.value.as_str())).map_err(|_| {
            let env = self.key.as_ref().map_or("", |key| key.env.as_str());
            ModelError::Unauthorized(format!("the key in {env} has characters that no key has"))
        })?;
        let sent = http.post(self.url.clone()).headers(headers).json(&body).send().await;
        let mut response = sent.map_err(|error| self.unreachable(&error))?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            answer.extend_from_slice(&chunk);
            if answer.len() > ANSWER_MAX {
                return Err(ModelError::Empty(format!("it has more than {ANSWER_MAX} bytes")));
            }
        }
        match response.status() {
            status if status.is_success() => self.protocol.answer(&answer, &self.model),
            status => Err(self.refused(status, response.headers(), &answer)),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ModelError {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        ModelError::Unreachable(format!("{}://{host}{port}: {}", self.url.scheme(), deepest(error)))
    }

    /// What a provider's error means to the caller.
    fn refused(&self, status: StatusCode, headers: &HeaderMap, answer: &[u8]) -> ModelError {
        let said = protocol::Said::read(answer);
        let message = self.without_key(&said.message);
        let message = if message.is_empty() { status.to_string() } else { format!("{status}: {message}") };
        let model = &self.model;
        let key = match &self.key {
            Some(key) => format!("the provider of the model does not accept the key in {} ({message})", key.env),
            None => format!("the provider of the model wants a key; name its variable as api_key_env ({message})"),
        };
        match status.as_u16() {
            _ if said.is_too_long() => ModelError::TooLong(message),
            413 => ModelError::TooLong(message),
            401 | 403 => ModelError::Unauthorized(key),
            402 => ModelError::Unauthorized(format!("the provider of the model wants to be paid ({message})")),
            429 if said.is_about_money() => ModelError::Unauthorized(format!("the account is used up ({message})")),
            429 => ModelError::RateLimited { retry_after: retry_after(headers), message },
            404 => ModelError::UnknownModel(format!("the provider does not know the model {model:?} ({message})")),
            408 | 500.. => ModelError::Unreachable(message),
            300..=399 => ModelError::UnknownModel(format!("base_url redirects elsewhere ({message})")),
            _ => ModelError::Rejected(message),
        }
    }

    /// A provider's message, short, and without the key, should it repeat that.
    fn without_key(&self, message: &str) -> String {
        let message = match &self.key {
            Some(key) => message.replace(&key.value, "…"),
            None => message.to_owned(),
        };
        message.chars().take(MESSAGE_MAX).collect()
    }
}

/// The provider that was most likely meant.
fn infer(settings: &Settings, env: &impl Fn(&str) -> Option<String>) -> Option<Provider> {
    if settings.base_url.is_some() {
        return Some(Provider::Compatible);
    }
    let has_key = |provider: &Provider| provider.usual().1.is_some_and(|name| env(name).is_some());
    [Provider::Anthropic, Provider::OpenAi, Provider::XAi].into_iter().find(has_key)
}

/// Seconds to wait (RFC 9110, 10.2.3). The other form, a date, is not used by providers.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim().parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// What the system said, without the layers above it.
fn deepest(error: &reqwest::Error) -> String {
    let chain = std::iter::successors(std::error::Error::source(error), |&error| error.source());
    chain.last().map_or_else(|| "no valid answer".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests;
