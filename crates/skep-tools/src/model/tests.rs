//! The model against servers that speak the providers' protocols.

use std::sync::Mutex;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::post,
};
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;
use crate::net::tests::{Server, serve};

/// Answers in turn, the last one again and again, and keeps what it was asked.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Vec<(u16, Option<&'static str>, Value)>>,
    asked: Arc<Mutex<Vec<Value>>>,
}

async fn play(State(script): State<Script>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let turn = {
        let mut asked = script.asked.lock().unwrap();
        let secrets = json!([header("x-api-key"), header("authorization"), header("anthropic-version")]);
        asked.push(json!({"path": head.uri.path(), "headers": secrets, "body": serde_json::from_slice::<Value>(&body).unwrap()}));
        asked.len() - 1
    };
    let (status, retry_after, answer) = script.answers[turn.min(script.answers.len() - 1)].clone();
    let mut response = (StatusCode::from_u16(status).unwrap(), Json(answer)).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert("retry-after", seconds.parse().unwrap());
    }
    response
}

struct Played {
    server: Server,
    script: Script,
}

impl Played {
    async fn new(answers: &[(u16, Option<&'static str>, Value)]) -> Played {
        let script = Script { answers: Arc::new(answers.to_vec()), ..Script::default() };
        let router = Router::new().route("/{*path}", post(play)).with_state(script.clone());
        Played { server: serve(router).await, script }
    }

    fn model(&self, provider: Provider) -> Model {
        let settings = Settings {
            provider: Some(provider),
            base_url: Some(self.server.url("")),
            model: Some("m-1".into()),
            ..Settings::default()
        };
        let env = |name: &str| name.ends_with("_API_KEY").then(|| "secret-key".to_owned());
        Model { retry_wait: Duration::ZERO, ..Model::new(&settings, env) }
    }

    async fn ask(&self, provider: Provider) -> Result<Completion, ModelError> {
        let prompt = Prompt { system: Some("Be brief."), user: "Why?", max_tokens: Some(50) };
        ask(&self.model(provider), prompt).await
    }

    fn asked(&self) -> Vec<Value> {
        self.script.asked.lock().unwrap().clone()
    }
}

async fn ask(model: &Model, prompt: Prompt<'_>) -> Result<Completion, ModelError> {
    model.complete(prompt, Instant::now() + Duration::from_secs(20), &CancellationToken::new()).await
}

fn message(text: &str) -> Value {
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1-2026", "stop_reason": "end_turn",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": text}],
        "usage": {"input_tokens": 12, "output_tokens": 3, "cache_read_input_tokens": 0}})
}

fn chat(text: Value, finish_reason: &str) -> Value {
    json!({"id": "chatcmpl-1", "object": "chat.completion", "model": "m-1-2026",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}})
}

fn error(kind: &str, code: Value, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "code": code, "message": message}, "request_id": "req_1"})
}

#[tokio::test]
async fn anthropic_is_asked_by_messages() {
    let played = Played::new(&[(200, None, message("Because."))]).await;
    let usage = Some(Usage { input_tokens: 12, output_tokens: 3 });
    let expected = Completion { text: "Because.".into(), model: "m-1-2026".into(), usage, truncated: false };
    assert_eq!(played.ask(Provider::Anthropic).await, Ok(expected));
    let body = json!({"model": "m-1", "max_tokens": 50, "messages": [{"role": "user", "content": "Why?"}], "system": "Be brief."});
    assert_eq!(
        played.asked(),
        [json!({"path": "/v1/messages", "headers": ["secret-key", null, "2023-06-01"], "body": body})]
    );
}

#[tokio::test]
async fn openai_and_those_like_it_are_asked_by_chat_completions() {
    for (provider, limit, authorization) in [
        (Provider::OpenAi, "max_completion_tokens", json!("Bearer secret-key")),
        (Provider::XAi, "max_completion_tokens", json!("Bearer secret-key")),
        (Provider::Ollama, "max_tokens", Value::Null),
        (Provider::Compatible, "max_tokens", Value::Null),
    ] {
        let played = Played::new(&[(200, None, chat("Because.".into(), "length"))]).await;
        let usage = Some(Usage { input_tokens: 12, output_tokens: 3 });
        let expected = Completion { text: "Because.".into(), model: "m-1-2026".into(), usage, truncated: true };
        assert_eq!(played.ask(provider).await, Ok(expected));
        let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]);
        let body = json!({"model": "m-1", limit: 50, "messages": messages});
        assert_eq!(
            played.asked(),
            [json!({"path": "/chat/completions", "headers": [null, authorization, null], "body": body})]
        );
    }
}

#[tokio::test]
async fn what_passes_is_tried_again_and_no_longer_than_promised() {
    let busy = (429, Some("0"), error("rate_limit_error", Value::Null, "slow down"));
    let played = Played::new(&[
        busy.clone(),
        (529, None, error("overloaded_error", Value::Null, "Overloaded")),
        (200, None, message("Because.")),
    ])
    .await;
    assert_eq!(played.ask(Provider::Anthropic).await.unwrap().text, "Because.");
    assert_eq!(played.asked().len(), 3);
    let played = Played::new(&[busy]).await;
    let error = played.ask(Provider::Anthropic).await.unwrap_err();
    assert_eq!((error.clone().of_tool("ai").code(), played.asked().len()), ("busy", RETRIES_MAX as usize + 1));
    let played = Played::new(&[(503, None, json!("down"))]).await;
    assert!(matches!(played.ask(Provider::OpenAi).await, Err(ModelError::Unreachable(_))));
    assert_eq!(played.asked().len(), RETRIES_MAX as usize + 1);
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_told_instead_of_waited() {
    let played = Played::new(&[(429, Some("3600"), error("rate_limit_error", Value::Null, "slow down"))]).await;
    let error = played.ask(Provider::Anthropic).await.unwrap_err();
    assert_snapshot!(error, @"the provider of the model limits the rate; try again in 3600s: 429 Too Many Requests: slow down");
    assert_eq!(played.asked().len(), 1);
    let played = Played::new(&[(429, Some("20"), json!({}))]).await;
    let prompt = Prompt { system: None, user: "x", max_tokens: None };
    let deadline = Instant::now() + Duration::from_secs(10);
    let error = played.model(Provider::OpenAi).complete(prompt, deadline, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, ModelError::RateLimited { retry_after: Some(_), .. }), "{error}");
}

#[tokio::test]
async fn errors_say_what_to_do_and_hide_the_key() {
    let told = async |provider, status, answer: Value| {
        let played = Played::new(&[(status, None, answer)]).await;
        let error = played.ask(provider).await.unwrap_err();
        assert_eq!(played.asked().len(), 1, "{error}");
        assert!(!format!("{error} {error:?} {:?}", played.model(provider)).contains("secret-key"));
        format!("{}: {error}", error.clone().of_tool("ai").code())
    };
    let wrong_key = error("invalid_request_error", "invalid_api_key".into(), "Incorrect API key provided: secret-key.");
    assert_snapshot!(told(Provider::OpenAi, 401, wrong_key).await, @"unavailable: the provider of the model does not accept the key in OPENAI_API_KEY (401 Unauthorized: Incorrect API key provided: ….)");
    let unknown = error("not_found_error", Value::Null, "model: m-1");
    assert_snapshot!(told(Provider::Anthropic, 404, unknown).await, @r#"unavailable: the provider does not know the model "m-1" (404 Not Found: model: m-1)"#);
    let long = error("invalid_request_error", "context_length_exceeded".into(), "too many tokens");
    assert_snapshot!(told(Provider::OpenAi, 400, long).await, @"invalid_arguments: the prompt is too long for the model: 400 Bad Request: too many tokens");
    let long = error("invalid_request_error", Value::Null, "prompt is too long: 300000 tokens > 200000 maximum");
    assert_snapshot!(told(Provider::Anthropic, 400, long).await, @"invalid_arguments: the prompt is too long for the model: 400 Bad Request: prompt is too long: 300000 tokens > 200000 maximum");
    let odd = error("invalid_request_error", Value::Null, "max_tokens: must be positive");
    assert_snapshot!(told(Provider::Anthropic, 400, odd).await, @"failed: the provider of the model refused the request: 400 Bad Request: max_tokens: must be positive");
    let poor = error("insufficient_quota", "insufficient_quota".into(), "You exceeded your current quota");
    assert_snapshot!(told(Provider::OpenAi, 429, poor).await, @"unavailable: the account is used up (429 Too Many Requests: You exceeded your current quota)");
    assert_snapshot!(told(Provider::Compatible, 401, json!({"error": "no token"})).await, @"unavailable: the provider of the model wants a key; name its variable as api_key_env (401 Unauthorized: no token)");
    assert_snapshot!(told(Provider::Ollama, 307, json!({})).await, @"unavailable: base_url redirects elsewhere (307 Temporary Redirect)");
}

#[tokio::test]
async fn an_answer_without_text_is_an_error() {
    let told = async |provider, answer: Value| {
        Played::new(&[(200, None, answer)]).await.ask(provider).await.unwrap_err().to_string()
    };
    assert_snapshot!(told(Provider::OpenAi, chat(Value::Null, "length")).await, @"the model gave no answer: the limit of tokens was used up before its text began; raise max_tokens");
    assert_snapshot!(told(Provider::OpenAi, json!({"choices": []})).await, @"the model gave no answer: there is no choice in it");
    assert_snapshot!(told(Provider::Anthropic, json!({"content": [], "stop_reason": "refusal"})).await, @r#"the model gave no answer: it stopped for the reason "refusal""#);
    assert_snapshot!(told(Provider::Anthropic, json!("hello")).await, @r#"the model gave no answer: what came is not of its protocol: invalid type: string "hello", expected struct Message at line 1 column 7"#);
}

#[tokio::test]
async fn a_slow_model_is_left_at_the_deadline_and_a_withdrawn_question_at_once() {
    let router = Router::new().fallback(post(async || std::future::pending::<()>().await));
    let server = serve(router).await;
    let settings = Settings { base_url: Some(server.url("/v1")), model: Some("m".into()), ..Settings::default() };
    let model = Model::new(&settings, |_| None);
    let prompt = Prompt { system: None, user: "x", max_tokens: None };
    let soon = Instant::now() + Duration::from_millis(50);
    let error = model.complete(prompt, soon, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, ModelError::TimedOut(_)), "{error}");
    let cancel = CancellationToken::new();
    let (answer, ()) = tokio::join!(model.complete(prompt, Instant::now() + Duration::from_secs(20), &cancel), async {
        cancel.cancel()
    });
    assert_eq!(answer, Err(ModelError::Cancelled));
    drop(server);
    assert!(matches!(
        ask(&Model { retry_wait: Duration::ZERO, ..model }, prompt).await,
        Err(ModelError::Unreachable(_))
    ));
}

#[test]
fn what_is_missing_in_the_configuration_is_named() {
    let told = |settings: Value, env: &[&str]| {
        let settings: Settings = serde_json::from_value(settings).unwrap();
        let model = Model::new(&settings, |name| env.contains(&name).then(|| "k".to_owned()));
        model.name().map_or_else(|error| error.to_string(), |name| format!("{name} {}", model.target().unwrap().url))
    };
    assert_snapshot!(told(json!({}), &[]), @"no language model is configured: neither provider nor key is set");
    assert_snapshot!(told(json!({}), &["ANTHROPIC_API_KEY"]), @"no language model is configured: the name of the model is not set");
    assert_snapshot!(told(json!({"model": "m"}), &["ANTHROPIC_API_KEY"]), @"m https://api.anthropic.com/v1/messages");
    assert_snapshot!(told(json!({"model": "m"}), &["OPENAI_API_KEY"]), @"m https://api.openai.com/v1/chat/completions");
    assert_snapshot!(told(json!({"model": "m", "provider": "xai"}), &["OPENAI_API_KEY"]), @"no language model is configured: the environment variable XAI_API_KEY with the key is not set");
    assert_snapshot!(told(json!({"model": "m", "provider": "ollama"}), &[]), @"m http://127.0.0.1:11434/v1/chat/completions");
    assert_snapshot!(told(json!({"model": "m", "provider": "compatible"}), &[]), @"no language model is configured: the provider is `compatible`, but base_url is not set");
    assert_snapshot!(told(json!({"model": "m", "base_url": "localhost:80"}), &[]), @r#"no language model is configured: base_url "localhost:80" is not an address with http:// or https://"#);
    assert_snapshot!(told(json!({"model": "m", "base_url": "http://gpu:8000/v1/"}), &[]), @"m http://gpu:8000/v1/chat/completions");
    assert_snapshot!(told(json!({"model": "m", "base_url": "http://gpu:8000/v1/", "api_key_env": "MINE"}), &[]), @"no language model is configured: the environment variable MINE with the key is not set");
}
