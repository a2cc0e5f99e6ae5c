//! What a listener says when it cannot pass a request on: the same shape as a tool's error, so that clients read one.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::hub::admission::Refused;

/// Seconds after which a refused caller is told to try again.
const RETRY_AFTER_S: u16 = 1;

/// A refusal of the listener itself.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// Stable word for programs.
    pub(super) code: &'static str,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, code, message: message.into(), header: None }
    }

    /// What is wrong, in one sentence.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn with(self, name: HeaderName, value: HeaderValue) -> Problem {
        Problem { header: Some((name, value)), ..self }
    }

    /// Nothing was run; the caller may try again, here or elsewhere.
    pub(super) fn busy(code: &'static str, message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, message).with(header::RETRY_AFTER, RETRY_AFTER_S.into())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        match refused {
            Refused::Busy | Refused::OverShare(..) => Problem::busy("busy", refused.to_string()),
            Refused::Draining => Problem::busy("draining", refused.to_string()),
            Refused::Panicked => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", refused.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({"status": "error", "code": self.code, "message": self.message});
        let mut response = json_response(self.status, &body);
        response.extensions_mut().insert(Told(self.message));
        response.headers_mut().extend(self.header);
        response
    }
}

/// What a refusal says, kept beside it for whoever shows it in another form.
#[derive(Clone)]
pub(super) struct Told(pub(super) String);

/// A JSON answer.
pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    json_body(status, body.to_string())
}

/// An answer that is JSON already.
pub(super) fn json_body(status: StatusCode, body: impl IntoResponse) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], body).into_response()
}
