//! Asking an engine that the operator configured: one request, a bounded answer, and errors that say what to do.
//!
//! The address is the operator's own word, so it may be on this machine; what strangers choose goes through
//! [`net`](skep_tools::net). A key goes into one header and nowhere else: redirects are not followed, and what an engine
//! says of an error is shown without it.

use std::{fmt, time::Duration};

use reqwest::{Client, RequestBuilder, StatusCode, Url, header::HeaderMap, redirect::Policy};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use skep_tools::{error::ToolError, workspace::Context};
use tokio::sync::OnceCell;

/// Time that connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Characters of what an engine says of an error.
const SAID_CHARS_MAX: usize = 300;

/// The client of all engines. Its certificates are loaded when it is first needed.
#[derive(Default)]
pub(super) struct Http(OnceCell<Client>);

impl Http {
    pub(super) async fn client(&self) -> Result<&Client, ToolError> {
        let client = async || {
            let client = Client::builder()
                .user_agent(concat!("skep/", env!("CARGO_PKG_VERSION")))
                .redirect(Policy::none())
                .connect_timeout(CONNECT_MAX)
                .build();
            client.map_err(|error| ToolError::failed(format!("HTTP cannot be used on this machine: {error}")))
        };
        self.0.get_or_try_init(client).await
    }
}

/// An engine that can be asked.
#[derive(Debug)]
pub(super) struct Engine {
    /// How it is called in messages.
    pub(super) name: &'static str,
    /// Its address, without a slash at the end.
    pub(super) base: String,
    pub(super) key: Option<Key>,
    /// Section of the configuration that it comes from.
    pub(super) section: &'static str,
    /// What to do if it refuses a request without a key.
    pub(super) without_key: &'static str,
}

/// A key. It does not show itself.
pub(super) struct Key {
    pub(super) value: String,
    /// Environment variable that it comes from.
    pub(super) env: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.env)
    }
}

impl Engine {
    /// An engine at this address or its usual one; an error says what is wrong with the configuration.
    pub(super) fn new(
        name: &'static str,
        section: &'static str,
        base: &str,
        key: Option<Key>,
    ) -> Result<Engine, ToolError> {
        let base = base.trim_end_matches('/').to_owned();
        let good = Url::parse(&base).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let engine = Engine { name, base, key, section, without_key: "check its address" };
        if good { Ok(engine) } else { Err(engine.misconfigured(format!("{:?} is not an http address", engine.base))) }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The key, which this engine needs.
    pub(super) fn key(&self) -> &str {
        self.key.as_ref().map_or("", |key| &key.value)
    }

    fn misconfigured(&self, what: impl fmt::Display) -> ToolError {
        let message = format!("{}: {what}", self.name);
        ToolError::Unavailable { message, cure: format!("correct base_url in [{}] of skep.toml", self.section) }
    }

    /// Send a request and read its answer, within the time that the call has.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        context: &Context,
        request: RequestBuilder,
    ) -> Result<T, ToolError> {
        let late = |_| ToolError::TimedOut { tool: "search".to_owned(), after: context.allowed, detail: Map::new() };
        let answer = tokio::time::timeout_at(context.deadline.into(), self.exchange(request)).await;
        let (status, headers, body) = answer.map_err(late)??;
        if !status.is_success() {
            return Err(self.refused(status, &headers, &body));
        }
        let unreadable = |error: serde_path_to_error::Error<serde_json::Error>| {
            let (place, error) = (error.path().to_string(), error.inner());
            ToolError::failed(format!(
                "{} answered something that its API does not document: {place}: {error}",
                self.name
            ))
        };
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&body)).map_err(unreadable)
    }

    async fn exchange(&self, request: RequestBuilder) -> Result<(StatusCode, HeaderMap, Vec<u8>), ToolError> {
        let unreachable = |error: reqwest::Error| {
            // Without the URL, which holds the query and is long.
            ToolError::failed(format!(
                "{} at {} cannot be reached: {}",
                self.name,
                self.base,
                deepest(&error.without_url())
            ))
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_BYTES_MAX {
                let message = format!("{} answered more than {} MiB", self.name, ANSWER_BYTES_MAX >> 20);
                return Err(ToolError::failed(message));
            }
        }
        Ok((response.status(), std::mem::take(response.headers_mut()), body))
    }

    /// What to do about an answer that is an error.
    fn refused(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ToolError {
        let name = self.name;
        let said = self.said(body);
        let http = format!("HTTP {}{said}", status.as_u16());
        match (status.as_u16(), &self.key) {
            (401 | 403, Some(key)) => ToolError::Unavailable {
                message: format!("{name} does not accept the key ({http})"),
                cure: format!("check the key in the environment variable {}, and what its account may do", key.env),
            },
            (401 | 403, None) => ToolError::Unavailable {
                message: format!("{name} at {} refuses the request ({http})", self.base),
                cure: self.without_key.to_owned(),
            },
            (402 | 432 | 433, _) => ToolError::Unavailable {
                message: format!("{name} says that the plan is used up ({http})"),
                cure: "wait for its next period, or change the plan".to_owned(),
            },
            (429, _) => ToolError::Busy(format!("{name} limits the rate{}{said}", retry(headers))),
            (300..400, _) => {
                let to = headers.get("location").and_then(|to| to.to_str().ok()).unwrap_or("another address");
                self.misconfigured(format!("{} redirects to {to}", self.base))
            }
            (404 | 405, _) => self.misconfigured(format!("there is no such service at {} ({http})", self.base)),
            (400..500, _) => ToolError::argument("query", format!("{name} does not accept it ({http})")),
            _ => ToolError::failed(format!("{name} has trouble ({http}); try again later")),
        }
    }

    /// What an engine says of an error, as `: …`, wherever the engines that we know put it.
    fn said(&self, body: &[u8]) -> String {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return String::new() };
        let places =
            ["/error/detail", "/detail/error", "/detail", "/error/message", "/errors/0/message", "/error", "/title"];
        let Some(said) = places.iter().find_map(|place| body.pointer(place)?.as_str()) else { return String::new() };
        let said = match &self.key {
            Some(key) => said.replace(&key.value, "…"),
            None => said.to_owned(),
        };
        format!(": {}", said.chars().take(SAID_CHARS_MAX).collect::<String>())
    }
}

/// When to try again, as `; try again …`, from what engines send along with 429.
fn retry(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let numbers = |name: &str| -> Vec<u64> {
        let list = text(name).unwrap_or_default().split(',');
        list.filter_map(|number| number.trim().parse().ok()).collect()
    };
    let soon = |seconds: u64| format!("; try again in {seconds}s");
    // RFC 9110: seconds, or a date.
    if let Some(after) = text("retry-after") {
        return after.parse().map_or_else(|_| format!("; try again after {after}"), soon);
    }
    // X: when its window ends, in seconds since 1970.
    if let Some(end) = numbers("x-rate-limit-reset").first()
        && let Ok(end) = jiff::Timestamp::from_second(*end as i64)
    {
        return format!("; try again after {end}");
    }
    // Brave: for each of its windows what is left, and the seconds to its end.
    let windows = numbers("x-ratelimit-remaining").into_iter().zip(numbers("x-ratelimit-reset"));
    let used_up = windows.filter(|(remaining, _)| *remaining == 0).map(|(_, reset)| reset).max();
    used_up.map(soon).unwrap_or_default()
}

/// The cause at the end of a chain of errors says most.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
