//! Problems as responses of HTTP, in the form that the request wants.
//!
//! A program gets `application/problem+json` (RFC 9457), and a person with a browser a page. `/process` and `/tools` answer
//! as contracts S0 and S1 have it, `{"status": "error", "code", "message"}`, unless the caller asks for problems.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use skep_mcp::server::http::Fields;

use super::page;
pub(super) use crate::problem::{Kind, Problem};
use crate::{
    hub::{
        admission::Refused,
        calls::{Malformed, NotCalled},
    },
    problem::MEDIA_TYPE,
};

/// How a request wants to hear of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// RFC 9457.
    Problem,
    /// As a tool's error (contracts S0 and S1).
    ToolError,
    /// A page for people.
    Page,
}

impl Form {
    /// What a request wants.
    pub(super) fn wanted(method: &Method, path: &str, headers: &Fields<'_>) -> Form {
        if page::is_wanted(method, headers) {
            return Form::Page;
        }
        let is_of_tools = path == "/process" || path == "/tools" || path.starts_with("/tools/");
        if is_of_tools && !accepts_problems(headers) { Form::ToolError } else { Form::Problem }
    }
}

/// Whether the caller has said that it reads problems.
pub(super) fn accepts_problems(headers: &Fields<'_>) -> bool {
    let is_problem = |accepted: &str| accepted.split(';').next().is_some_and(|kind| kind.trim() == MEDIA_TYPE);
    headers.text("accept").is_some_and(|accept| accept.split(',').any(is_problem))
}

impl From<Malformed> for Problem {
    fn from(error: Malformed) -> Problem {
        let kind = match error {
            Malformed::TooManyValues => Kind::TooManyValues,
            Malformed::TooDeep(_) => Kind::TooDeep,
            Malformed::NotJson(_) => Kind::BadJson,
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<NotCalled> for Problem {
    fn from(error: NotCalled) -> Problem {
        match error {
            NotCalled::Refused(refused) => refused.into(),
            NotCalled::Malformed(malformed) => malformed.into(),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        let detail = refused.to_string();
        match refused {
            Refused::Busy | Refused::OverShare(..) => Problem::busy(Kind::Busy, detail),
            Refused::Draining => Problem::busy(Kind::Draining, detail),
            Refused::Denied(_) => Problem::new(Kind::Denied, detail),
            Refused::Panicked => Problem::new(Kind::Internal, detail),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = typed(status(self.kind), MEDIA_TYPE, self.to_json().to_string());
        let headers = response.headers_mut();
        headers.extend(retry_after(&self).map(|seconds| (header::RETRY_AFTER, seconds)));
        headers.extend(header_of(self.kind));
        response.extensions_mut().insert(Told(self));
        response
    }
}

/// The problem that a response tells of, kept beside it for [`in_form`].
#[derive(Clone)]
struct Told(Problem);

/// A response in the form that its request wants, if it tells of a problem. Any other stays as it is.
pub(super) fn in_form(mut response: Response, form: Form) -> Response {
    let Some(Told(problem)) = response.extensions_mut().remove::<Told>() else { return response };
    match form {
        Form::Problem => response,
        Form::Page => page::of_problem(&problem.detail, &response),
        Form::ToolError => {
            let body = json!({"status": "error", "code": problem.kind.code(), "message": problem.detail});
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response.headers_mut().remove(header::CONTENT_LENGTH);
            response.map(|_| Body::from(body.to_string()))
        }
    }
}

/// A problem as the answer of a request that goes no further.
pub(super) fn refuse(request: &Request, problem: Problem) -> Response {
    let form = Form::wanted(request.method(), request.uri().path(), &Fields::from(request.headers()));
    in_form(problem.into_response(), form)
}

pub(super) fn status(kind: Kind) -> StatusCode {
    StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// `Retry-After`, in whole seconds.
pub(super) fn retry_after(problem: &Problem) -> Option<HeaderValue> {
    problem.fields.retry_after_ms.map(|ms| ms.div_ceil(1000).into())
}

/// What HTTP wants to hear besides.
fn header_of(kind: Kind) -> Option<(HeaderName, HeaderValue)> {
    match kind {
        Kind::Unauthorized => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"skep\""))),
        Kind::Slow => Some((header::CONNECTION, HeaderValue::from_static("close"))),
        _ => None,
    }
}

/// A JSON answer.
pub(super) fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => json_body(status, text),
        Err(error) => Problem::new(Kind::Internal, format!("the answer is no JSON: {error}")).into_response(),
    }
}

/// An answer that is JSON already.
pub(super) fn json_body(status: StatusCode, body: impl IntoResponse) -> Response {
    typed(status, "application/json", body)
}

/// An answer of this media type.
pub(super) fn typed(status: StatusCode, media_type: &'static str, body: impl IntoResponse) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static(media_type))], body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn form(method: &Method, path: &str, accept: &str) -> Form {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(accept).unwrap())]);
        Form::wanted(method, path, &Fields::from(&headers))
    }

    #[test]
    fn tools_answer_as_s0_has_it_unless_the_caller_asks_for_problems() {
        for path in ["/process", "/tools", "/tools/bash", "/tools/a/b"] {
            for accept in ["*/*", "application/json", "application/problem+jsonx", ""] {
                assert_eq!(form(&Method::POST, path, accept), Form::ToolError, "{path} {accept}");
            }
            for accept in ["application/problem+json", "application/json, application/problem+json;q=0.9"] {
                assert_eq!(form(&Method::POST, path, accept), Form::Problem, "{path} {accept}");
            }
        }
        for path in ["/", "/servers", "/processes", "/toolsmith", "/mcp", "/nothing"] {
            assert_eq!(form(&Method::GET, path, "*/*"), Form::Problem, "{path}");
            assert_eq!(form(&Method::GET, path, "text/html"), Form::Page, "{path}");
        }
    }

    #[tokio::test]
    async fn every_problem_is_told_in_every_form_with_its_status() {
        for kind in Kind::ALL {
            for form in [Form::Problem, Form::ToolError, Form::Page] {
                let response = in_form(Problem::busy(*kind, "it <is> wrong").into_response(), form);
                assert_eq!(response.status(), status(*kind));
                assert_eq!(response.headers()[header::RETRY_AFTER], "1");
                let media_type = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
                let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
                let text = std::str::from_utf8(&body).unwrap();
                match form {
                    Form::Problem => {
                        assert_eq!(media_type, MEDIA_TYPE);
                        assert_eq!(
                            Problem::from_json(serde_json::from_str(text).unwrap()).unwrap(),
                            Problem::busy(*kind, "it <is> wrong")
                        );
                    }
                    Form::ToolError => {
                        assert_eq!(media_type, "application/json");
                        let code = kind.code();
                        assert_eq!(text, format!(r#"{{"status":"error","code":"{code}","message":"it <is> wrong"}}"#));
                    }
                    Form::Page => {
                        assert_eq!(media_type, "text/html; charset=utf-8");
                        assert!(text.contains("<p>it &lt;is&gt; wrong</p>"), "{text}");
                    }
                }
            }
        }
    }
}
