//! What a hub's answer to a call means: an answer of the tool, or why there is none, and whether it may have run.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Map, Value};
use skep_tools::{
    error::{Fault, ToolError},
    tool::{Answer, Call},
};

use super::{DEADLINE, Failure, Why};
use crate::problem::Problem;

/// What an answer of `POST /process` means. A hub says 4xx and 503 before it runs anything, apart from what a tool said, which it
/// tells as a problem of its own kind; what stands between it and us may say 5xx at any time.
pub(super) fn judge(
    call: &Call,
    status: StatusCode,
    answer: Option<Map<String, Value>>,
) -> Result<Result<Answer, ToolError>, Failure> {
    let said = answer.as_ref().map_or_else(|| status.to_string(), message);
    let word = |name: &str| answer.as_ref().and_then(|answer| answer.get(name)).and_then(Value::as_str);
    match (status, word("status"), word("code")) {
        (StatusCode::OK, Some("ok"), _) => return Ok(Ok(answer_of(answer.unwrap_or_default()))),
        (_, _, Some("cancelled")) => return Err(Failure::MayHaveRun(Why::Stopped)),
        (StatusCode::SERVICE_UNAVAILABLE, _, Some("draining")) => return Err(Failure::NotRun(Why::Draining)),
        (StatusCode::SERVICE_UNAVAILABLE, _, Some("busy" | "too_many_connections")) => {
            return Err(Failure::NotRun(Why::Busy));
        }
        (StatusCode::OK, Some("error"), _) => return Ok(Err(error_in_s0(call, answer.unwrap_or_default()))),
        _ => {}
    }
    let problem = answer.and_then(|answer| Problem::from_json(answer.into()));
    match problem.map(|problem| problem.into_tool_error(&call.tool)) {
        Some(Ok(error)) => Ok(Err(error)),
        _ if status.is_client_error() => Err(Failure::NotRun(Why::Refused(status.as_u16(), said))),
        _ if status.is_redirection() => Err(Failure::NotRun(Why::NotAHub(status.to_string()))),
        _ if status.is_server_error() => Err(Failure::MayHaveRun(Why::Refused(status.as_u16(), said))),
        _ => Err(Failure::MayHaveRun(Why::NotAHub(status.to_string()))),
    }
}

/// What a tool answered: the reverse of [`Answer::to_json`].
fn answer_of(mut answer: Map<String, Value>) -> Answer {
    answer.shift_remove("status");
    let cached = answer.shift_remove("cached") == Some(Value::Bool(true));
    Answer { value: answer, cached }
}

/// What a tool said of its failure, from a hub that knows contract S0 and no problems: a code and a message, if that.
fn error_in_s0(call: &Call, mut answer: Map<String, Value>) -> ToolError {
    let mut text = |name: &str| match answer.shift_remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (_, code, message) = (text("status"), text("code"), text("message"));
    match code.as_str() {
        "unknown_tool" => ToolError::Unknown { name: call.tool.clone(), nearest: None },
        "invalid_arguments" => {
            let faults = answer.shift_remove("faults").and_then(|faults| serde_json::from_value(faults).ok());
            let whole = || vec![Fault { pointer: String::new(), message }];
            ToolError::InvalidArguments(faults.filter(|faults: &Vec<Fault>| !faults.is_empty()).unwrap_or_else(whole))
        }
        "timed_out" => {
            let after = call.deadline.unwrap_or(DEADLINE);
            ToolError::TimedOut { tool: call.tool.clone(), after, detail: answer }
        }
        "unavailable" => ToolError::NoServer { message, retry_after: Duration::ZERO },
        "denied" => ToolError::Denied(message),
        "conflict" => ToolError::Conflict { message, detail: answer },
        "busy" => ToolError::Busy(message),
        "internal" => ToolError::Internal(message),
        _ => ToolError::Failed { message, detail: answer },
    }
}

/// What a refusal says to people, or that it says nothing.
pub(super) fn message(answer: &Map<String, Value>) -> String {
    said(answer).unwrap_or("no message").to_owned()
}

/// What a refusal says to people: as a problem, or as contract S0 has it.
pub(super) fn said(answer: &Map<String, Value>) -> Option<&str> {
    answer.get("detail").or_else(|| answer.get("message")).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::problem::Kind;

    fn judged(status: u16, answer: Value) -> Result<Result<Answer, ToolError>, Why> {
        let call = Call { tool: "bash".to_owned(), arguments: json!({}), deadline: Some(Duration::from_secs(7)) };
        let answer = answer.as_object().cloned();
        judge(&call, StatusCode::from_u16(status).unwrap(), answer).map_err(|failure| match failure {
            Failure::NotRun(why) | Failure::MayHaveRun(why) => why,
        })
    }

    #[test]
    fn an_answer_comes_back_as_it_was() {
        for cached in [false, true] {
            let answer = Answer { value: Map::from_iter([("stdout".to_owned(), json!("hi"))]), cached };
            assert_eq!(judged(200, answer.clone().to_json()), Ok(Ok(answer)));
        }
        let own = Answer { value: Map::from_iter([("code".to_owned(), json!("cancelled"))]), cached: false };
        assert_eq!(judged(200, own.clone().to_json()), Ok(Ok(own)), "the members of an answer are the tool's");
    }

    #[test]
    fn what_a_tool_said_is_told_apart_from_what_its_hub_or_a_proxy_says() {
        let problem = |kind: Kind| judged(kind.status(), Problem::new(kind, "so it is").to_json());
        for kind in Kind::ALL {
            let is_tools = Problem::new(*kind, "").into_tool_error("bash").is_ok();
            let expected = match (kind, kind.status()) {
                (Kind::Cancelled, _) => Err(Why::Stopped),
                (Kind::Draining, _) => Err(Why::Draining),
                (Kind::Busy | Kind::TooManyConnections, _) => Err(Why::Busy),
                (_, _) if is_tools => Ok(Err(Problem::new(*kind, "so it is").into_tool_error("bash").unwrap())),
                (_, status) => Err(Why::Refused(status, "so it is".to_owned())),
            };
            assert_eq!(problem(*kind), expected, "{kind:?}");
        }
        let proxy = json!({"type": "about:blank", "title": "Gateway Timeout", "status": 504});
        assert_eq!(judged(504, proxy), Err(Why::Refused(504, "no message".to_owned())));
    }

    #[test]
    fn a_hub_that_knows_no_problems_is_understood_by_its_codes() {
        let error = |code: &str| json!({"status": "error", "code": code, "message": "so it is; really", "more": 1});
        let detail = || Map::from_iter([("more".to_owned(), json!(1))]);
        let message = || "so it is; really".to_owned();
        for (code, expected) in [
            ("unknown_tool", ToolError::Unknown { name: "bash".to_owned(), nearest: None }),
            (
                "invalid_arguments",
                ToolError::InvalidArguments(vec![Fault { pointer: String::new(), message: message() }]),
            ),
            (
                "timed_out",
                ToolError::TimedOut { tool: "bash".to_owned(), after: Duration::from_secs(7), detail: detail() },
            ),
            ("unavailable", ToolError::NoServer { message: message(), retry_after: Duration::ZERO }),
            ("denied", ToolError::Denied(message())),
            ("conflict", ToolError::Conflict { message: message(), detail: detail() }),
            ("busy", ToolError::Busy(message())),
            ("internal", ToolError::Internal(message())),
            ("failed", ToolError::Failed { message: message(), detail: detail() }),
            ("of another program", ToolError::Failed { message: message(), detail: detail() }),
        ] {
            assert_eq!(judged(200, error(code)), Ok(Err(expected)), "{code}");
        }
        assert_eq!(judged(200, error("cancelled")), Err(Why::Stopped));
        assert_eq!(judged(503, error("busy")), Err(Why::Busy));
        let bare = judged(200, json!({"status": "error", "message": "Unknown tool"}));
        assert_eq!(bare, Ok(Err(ToolError::failed("Unknown tool"))));
        let faults =
            json!({"status": "error", "code": "invalid_arguments", "faults": [{"pointer": "/a", "message": "no"}]});
        let expected = vec![Fault { pointer: "/a".to_owned(), message: "no".to_owned() }];
        assert_eq!(judged(200, faults), Ok(Err(ToolError::InvalidArguments(expected))));
    }
}
