//! Why a request over HTTP has no answer, as a problem (RFC 9457, `application/problem+json`).
//!
//! This is the one list of what can go wrong at the API outside MCP: [`Kind`] has a row for each, with its HTTP status,
//! and every error of an operation has its mapping here, in both directions. Programs read `type` (or `code`, its last
//! part) and the fields, and leave `detail` to people. The client ([`crate::remote`]) reads what the server writes.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use skep_tools::error::{Fault, ToolError};

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";
/// What the type of a problem begins with, before its code.
const TYPE_PREFIX: &str = "/problems/";
/// Milliseconds after which a caller that found the hub too busy is told to try again.
const BUSY_RETRY_AFTER_MS: u64 = 1000;

/// The table: a kind, its code, its HTTP status, and its title.
macro_rules! kinds {
    ($($kind:ident $code:tt $status:literal $title:literal,)*) => {
        /// What kind of problem it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum Kind {
            $(
                #[doc = $title]
                #[serde(rename = $code)]
                $kind,
            )*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            fn row(self) -> (&'static str, u16, &'static str) {
                match self {
                    $(Kind::$kind => ($code, $status, $title),)*
                }
            }
        }
    };
}

kinds! {
    // A tool was asked for, and there is no result.
    UnknownTool "unknown_tool" 404 "There is no such tool",
    InvalidArguments "invalid_arguments" 422 "The arguments do not fit the tool",
    Failed "failed" 422 "The tool failed",
    TimedOut "timed_out" 504 "The tool ran out of time",
    Unavailable "unavailable" 501 "It is not available on this machine",
    ServerUnavailable "server_unavailable" 503 "The MCP server that has the tool is not available",
    Denied "denied" 403 "It is not allowed",
    Conflict "conflict" 409 "What was to be changed has changed meanwhile",
    PreconditionFailed "precondition_failed" 412 "It does not have the revision that the request names",
    Cancelled "cancelled" 500 "The call was cancelled",
    // The hub did not begin.
    Busy "busy" 503 "The hub has too much to do",
    Draining "draining" 503 "The hub is stopping",
    TooManyConnections "too_many_connections" 503 "Too many connections are open",
    Internal "internal" 500 "The hub failed",
    // It does not want this caller, or this request from it.
    Unauthorized "unauthorized" 401 "A token is needed",
    HostNotAllowed "host_not_allowed" 403 "The hub is not known by this name",
    OriginNotAllowed "origin_not_allowed" 403 "Pages from this origin may not call the hub",
    OtherUser "other_user" 403 "The hub answers only its own user",
    NotTheOperator "not_the_operator" 403 "Only the operator may do this",
    TokenNeeded "token_needed" 403 "This needs a hub that has a token",
    // It does not understand the request, or there is nothing here for it.
    BadHost "bad_host" 400 "The request does not say which host it is for",
    BadRequest "bad_request" 400 "The request is not as it should be",
    BadJson "bad_json" 400 "The body is not JSON",
    TooDeep "too_deep" 400 "The JSON is nested too deep",
    CutOff "cut_off" 400 "The body is cut off",
    NotFound "not_found" 404 "There is nothing at this path",
    WrongMethod "wrong_method" 405 "The path does not take this method",
    Slow "slow" 408 "The body did not arrive in time",
    TooLarge "too_large" 413 "The body is too large",
    TooManyValues "too_many_values" 413 "The arguments hold too many values",
    Compressed "compressed" 415 "Compressed bodies are not read",
    // MCP servers behind the hub.
    UnknownServer "unknown_server" 404 "There is no such MCP server",
    InvalidServer "invalid_server" 422 "The MCP server's entry is not valid",
    OneServer "one_server" 409 "This hub has a single MCP server",
}

impl Kind {
    /// Stable word for programs.
    pub fn code(self) -> &'static str {
        self.row().0
    }

    /// The one with this code.
    pub fn of_code(code: &str) -> Option<Kind> {
        Kind::ALL.iter().find(|kind| kind.code() == code).copied()
    }

    /// What identifies the kind, relative to the hub, which has a page there: `/problems/` and the code.
    pub fn type_reference(self) -> String {
        format!("{TYPE_PREFIX}{}", self.code())
    }

    /// Status of HTTP (RFC 9110): 4xx where the caller can mend it.
    pub fn status(self) -> u16 {
        self.row().1
    }

    /// The kind in a few words, the same for every problem of it.
    pub fn title(self) -> &'static str {
        self.row().2
    }
}

/// Why a request was not answered as it wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What kind of problem it is.
    pub kind: Kind,
    /// What is wrong this time, in a sentence or two.
    pub detail: String,
    /// What else is known. Most problems have none of it, and a box keeps results small.
    pub fields: Box<Fields>,
}

/// What is known of a problem beside its kind; `docs/problems.md` says which kinds have what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Fields {
    /// Milliseconds after which the same request may be answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Every fault of the arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// The nearest name that exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// Milliseconds that the call was allowed to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What the tool said until it failed, such as an exit code.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub output: Map<String, Value>,
}

/// A problem as it is written.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct Body {
    /// A reference to the kind of problem, relative to the hub: `/problems/` and the code.
    #[serde(rename = "type")]
    type_reference: String,
    /// The kind in a few words.
    title: String,
    /// The status of the response.
    status: u16,
    /// What is wrong this time.
    detail: String,
    code: Kind,
    #[serde(flatten)]
    fields: Box<Fields>,
}

impl From<Problem> for Body {
    fn from(Problem { kind, detail, fields }: Problem) -> Body {
        Body {
            type_reference: kind.type_reference(),
            title: kind.title().to_owned(),
            status: kind.status(),
            detail,
            code: kind,
            fields,
        }
    }
}

impl From<Body> for Problem {
    fn from(Body { code, detail, fields, .. }: Body) -> Problem {
        Problem { kind: code, detail, fields }
    }
}

impl Problem {
    /// A problem of which there is no more to say.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem { kind, detail: detail.into(), fields: Box::default() }
    }

    /// Nothing was run; the caller may try again, here or elsewhere.
    pub(crate) fn busy(kind: Kind, detail: impl Into<String>) -> Problem {
        let fields = Fields { retry_after_ms: Some(BUSY_RETRY_AFTER_MS), ..Fields::default() };
        Problem::with(kind, detail, fields)
    }

    /// A problem of which these are known.
    pub(crate) fn with(kind: Kind, detail: impl Into<String>, fields: Fields) -> Problem {
        Problem { kind, detail: detail.into(), fields: Box::new(fields) }
    }

    /// As it is sent.
    pub fn to_json(&self) -> Value {
        self.clone().into_json()
    }

    /// The same without a copy.
    pub fn into_json(self) -> Value {
        serde_json::to_value(Body::from(self)).unwrap_or_default() // all keys are texts, so it does not fail
    }

    /// What a hub sent. `None` if it is no problem, or of a kind that is not known here.
    pub fn from_json(json: Value) -> Option<Problem> {
        serde_json::from_value::<Body>(json).ok().map(Problem::from)
    }

    /// The error of a call of this tool, or the problem itself if it is none.
    pub fn into_tool_error(self, tool: &str) -> Result<ToolError, Problem> {
        let Problem { kind, detail: message, fields } = self;
        let Fields { retry_after_ms, faults, nearest, cure, deadline_ms, output } = *fields;
        let ms = |ms: Option<u64>| Duration::from_millis(ms.unwrap_or_default());
        Ok(match kind {
            Kind::UnknownTool => ToolError::Unknown { name: tool.to_owned(), nearest },
            Kind::InvalidArguments => ToolError::InvalidArguments(faults),
            Kind::Failed => ToolError::Failed { message, detail: output },
            Kind::TimedOut => ToolError::TimedOut { tool: tool.to_owned(), after: ms(deadline_ms), detail: output },
            Kind::Unavailable => ToolError::Unavailable { message, cure: cure.unwrap_or_default() },
            Kind::ServerUnavailable => ToolError::NoServer { message, retry_after: ms(retry_after_ms) },
            Kind::Denied => ToolError::Denied(message),
            Kind::Conflict => ToolError::Conflict { message, detail: output },
            Kind::Busy => ToolError::Busy(message),
            Kind::Cancelled => ToolError::Cancelled,
            Kind::Internal => ToolError::Internal(message),
            kind => {
                let fields = Fields { retry_after_ms, faults, nearest, cure, deadline_ms, output };
                return Err(Problem::with(kind, message, fields));
            }
        })
    }
}

/// The kind that an error of a tool is.
impl From<&ToolError> for Kind {
    fn from(error: &ToolError) -> Kind {
        match error {
            ToolError::Unknown { .. } => Kind::UnknownTool,
            ToolError::InvalidArguments(_) => Kind::InvalidArguments,
            ToolError::Failed { .. } => Kind::Failed,
            ToolError::TimedOut { .. } => Kind::TimedOut,
            ToolError::Unavailable { .. } => Kind::Unavailable,
            ToolError::NoServer { .. } => Kind::ServerUnavailable,
            ToolError::Denied(_) => Kind::Denied,
            ToolError::Conflict { .. } => Kind::Conflict,
            ToolError::Busy(_) => Kind::Busy,
            ToolError::Cancelled => Kind::Cancelled,
            ToolError::Internal(_) => Kind::Internal,
        }
    }
}

impl From<ToolError> for Problem {
    fn from(error: ToolError) -> Problem {
        let (kind, detail) = (Kind::from(&error), error.to_string());
        let (none, ms) = (Fields::default(), |time: Duration| u64::try_from(time.as_millis()).ok());
        let (detail, fields) = match error {
            ToolError::Unknown { nearest, .. } => (detail, Fields { nearest, ..none }),
            ToolError::InvalidArguments(faults) => (detail, Fields { faults, ..none }),
            ToolError::Failed { detail: output, .. } | ToolError::Conflict { detail: output, .. } => {
                (detail, Fields { output, ..none })
            }
            ToolError::TimedOut { after, detail: output, .. } => {
                (detail, Fields { deadline_ms: ms(after), output, ..none })
            }
            ToolError::Unavailable { message, cure } => (message, Fields { cure: Some(cure), ..none }),
            ToolError::NoServer { retry_after, .. } if !retry_after.is_zero() => {
                (detail, Fields { retry_after_ms: ms(retry_after).map(|ms| ms.max(1)), ..none })
            }
            ToolError::Busy(_) => return Problem::busy(kind, detail),
            ToolError::NoServer { .. } | ToolError::Denied(_) | ToolError::Internal(_) | ToolError::Cancelled => {
                (detail, none)
            }
        };
        Problem::with(kind, detail, fields)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn tool_errors() -> Vec<ToolError> {
        let detail = Map::from_iter([("exit_code".to_owned(), json!(1)), ("may_have_run".to_owned(), json!(true))]);
        let fault = |pointer: &str, message: &str| Fault { pointer: pointer.to_owned(), message: message.to_owned() };
        vec![
            ToolError::Unknown { name: "bash".to_owned(), nearest: None },
            ToolError::Unknown { name: "bash".to_owned(), nearest: Some("dash".to_owned()) },
            ToolError::InvalidArguments(vec![fault("/a/b", "one"), fault("", "two")]),
            ToolError::Failed { message: "it failed; badly".to_owned(), detail: detail.clone() },
            ToolError::TimedOut { tool: "bash".to_owned(), after: Duration::from_millis(1250), detail: detail.clone() },
            ToolError::Unavailable {
                message: "no tesseract; none at all".to_owned(),
                cure: "apt install it".to_owned(),
            },
            ToolError::NoServer { message: "it is gone".to_owned(), retry_after: Duration::ZERO },
            ToolError::NoServer { message: "it is tired".to_owned(), retry_after: Duration::from_millis(2500) },
            ToolError::Denied("no".to_owned()),
            ToolError::Conflict { message: "it changed".to_owned(), detail },
            ToolError::Busy("later".to_owned()),
            ToolError::Internal("the disk is full; all of it".to_owned()),
            ToolError::Cancelled,
        ]
    }

    #[test]
    fn every_kind_has_a_code_of_its_own_a_status_of_an_error_and_is_read_as_it_was_written() {
        let mut codes = BTreeSet::new();
        for kind in Kind::ALL {
            assert!(codes.insert(kind.code()), "{} twice", kind.code());
            assert!(kind.code().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", kind.code());
            assert!((400..600).contains(&kind.status()) && !kind.title().is_empty());
            let problem = Problem::new(*kind, "what is wrong");
            let json = problem.to_json();
            assert_eq!(
                json,
                json!({
                    "type": format!("/problems/{}", kind.code()), "title": kind.title(), "status": kind.status(),
                    "detail": "what is wrong", "code": kind.code(),
                })
            );
            assert_eq!(Problem::from_json(json), Some(problem));
        }
    }

    #[test]
    fn the_manual_lists_every_kind() {
        let manual = include_str!("../../../docs/problems.md");
        for kind in Kind::ALL {
            let row = format!("| `{}` | {} | {} |", kind.code(), kind.status(), kind.title());
            assert!(manual.contains(&row), "docs/problems.md lacks {row}");
        }
        assert_eq!(manual.lines().filter(|line| line.starts_with("| `")).count(), Kind::ALL.len());
    }

    #[test]
    fn every_error_of_a_tool_comes_back_as_it_was() {
        let mut kinds = Vec::new();
        for error in tool_errors() {
            let problem = Problem::from(error.clone());
            kinds.push(problem.kind);
            let read = Problem::from_json(problem.to_json()).unwrap();
            assert_eq!(read.into_tool_error("bash"), Ok(error));
        }
        let others = Kind::ALL.iter().filter(|kind| !kinds.contains(kind));
        for kind in others {
            let problem = Problem::busy(*kind, "no tool's");
            assert_eq!(problem.clone().into_tool_error("bash"), Err(problem));
        }
    }

    #[test]
    fn the_code_of_a_problem_is_the_one_that_s0_has() {
        for error in tool_errors() {
            match Kind::from(&error) {
                Kind::ServerUnavailable => assert_eq!(error.code(), "unavailable"), // S0 has one word for both
                kind => assert_eq!(error.code(), kind.code()),
            }
        }
    }

    #[test]
    fn what_is_no_problem_or_of_a_kind_from_the_future_is_not_taken_for_one() {
        let known = Problem::new(Kind::Busy, "later").to_json();
        let mut unknown = known.clone();
        unknown["code"] = "tired".into();
        for json in [unknown, json!({}), json!([1]), json!({"status": "error", "code": "busy", "message": "later"})] {
            assert_eq!(Problem::from_json(json), None);
        }
        let mut more = known;
        more["colour"] = "red".into();
        assert!(Problem::from_json(more).is_some(), "members that are not known are skipped");
    }

    #[test]
    fn a_problem_fits_its_schema() {
        let schema = schemars::schema_for!(Body).to_value();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let refusals = Kind::ALL.iter().map(|kind| Problem::new(*kind, "no"));
        for problem in refusals.chain(tool_errors().into_iter().map(Problem::from)) {
            assert!(validator.is_valid(&problem.to_json()), "{}", problem.to_json());
        }
        assert!(!validator.is_valid(&json!({"status": "error"})));
    }
}
