//! Requests to authorization servers, within limits.

use std::{fmt, net::IpAddr, time::Duration};

use axum::http::{self, HeaderMap, Method, StatusCode, header};
use futures_util::future::BoxFuture;
use reqwest::Url;
use serde::de::DeserializeOwned;

use super::AuthError;

/// Bytes of a document or an answer.
pub(super) const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Time for one request.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// Redirects that are followed for a document; a request that carries a secret is never redirected.
const REDIRECTS_MAX: usize = 3;
/// Characters of somebody else's text in an error.
const SHOWN_MAX: usize = 200;

/// HTTP as whoever runs this client allows it: which addresses may be reached is decided here.
pub trait Web: fmt::Debug + Send + Sync + 'static {
    /// Send one request, follow no redirect, and read at most `bytes_max` bytes of the answer within `time_max`; more, or
    /// later, is an error.
    fn send(&self, request: Request, bytes_max: usize, time_max: Duration) -> BoxFuture<'_, Result<Answer, String>>;
}

/// A request. Its body may hold a secret.
pub struct Request {
    /// `GET` or `POST`.
    pub method: Method,
    /// Where it goes.
    pub url: Url,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

/// An answer. Its body may hold a secret.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// All of its body.
    pub body: Vec<u8>,
}

/// Whether something may be asked for at this address, or sent there: https, or this machine (OAuth 2.1, 1.5).
pub(super) fn check(url: &Url) -> Result<(), AuthError> {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_here = address.map_or(host == "localhost", |address| address.is_loopback());
    if url.scheme() == "https" || (url.scheme() == "http" && is_here) {
        return Ok(());
    }
    Err(AuthError::Untrusted(format!(
        "{} is not asked for tokens: it is neither https nor on this machine",
        shown(url)
    )))
}

/// An address that somebody wrote, if something may be asked for there.
pub(super) fn address(text: &str) -> Result<Url, AuthError> {
    let url = Url::parse(text).map_err(|error| AuthError::Untrusted(format!("{text:?} is not a URL: {error}")))?;
    check(&url)?;
    Ok(url)
}

/// Without what may be a secret.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// A document; `None` if there is none at this address.
pub(super) async fn document<T: DeserializeOwned>(web: &dyn Web, url: &Url) -> Result<Option<T>, AuthError> {
    let mut url = url.clone();
    for _ in 0..=REDIRECTS_MAX {
        check(&url)?;
        let headers = HeaderMap::from_iter([(header::ACCEPT, http::HeaderValue::from_static("application/json"))]);
        let answer = send(web, Request { method: Method::GET, url: url.clone(), headers, body: Vec::new() }).await?;
        if answer.status.is_redirection() {
            let location = answer.headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| AuthError::Unreachable(format!("{} redirects nowhere", shown(&url))))?;
            continue;
        }
        if answer.status.is_client_error() {
            return Ok(None);
        }
        if !answer.status.is_success() {
            return Err(AuthError::Unreachable(format!("{} answers with status {}", shown(&url), answer.status)));
        }
        // Some servers have a page for people at every address.
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(&answer.body) else { return Ok(None) };
        let document = serde_json::from_value(document)
            .map_err(|error| AuthError::Unreachable(format!("{} is not as it should be: {error}", shown(&url))))?;
        return Ok(Some(document));
    }
    Err(AuthError::Unreachable(format!("{} is redirected to more than {REDIRECTS_MAX} times", shown(&url))))
}

/// Send a request that is not redirected.
pub(super) async fn send(web: &dyn Web, request: Request) -> Result<Answer, AuthError> {
    check(&request.url)?;
    let shown = shown(&request.url);
    let sent = web.send(request, ANSWER_BYTES_MAX, ANSWER_TIME_MAX).await;
    sent.map_err(|error| AuthError::Unreachable(format!("{shown}: {error}")))
}

/// The error that an authorization server answers with (RFC 6749, 5.2; RFC 7591, 3.2.2), never its body as it is.
pub(super) fn refused(answer: &Answer) -> AuthError {
    #[derive(serde::Deserialize)]
    struct Refusal {
        error: String,
        error_description: Option<String>,
    }
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(Refusal { error, error_description }) => {
            AuthError::Refused { error: plain(&error), description: error_description.map(|text| plain(&text)) }
        }
        Err(_) => AuthError::Unreachable(format!("the authorization server answers with status {}", answer.status)),
    }
}

/// Somebody else's words, as they may stand in a line for people.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect()
}
