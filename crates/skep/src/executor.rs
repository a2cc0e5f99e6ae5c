//! Where a call is run: here, or at a hub and here only if no hub answers.
//!
//! Agents and the command line make their calls through an [`Executor`] and need not know which it is. It tells with
//! every answer where the call ran and why there. A hub has a workspace and outputs of its own: what it reads and
//! writes is not here.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use skep_tools::{
    error::{Fault, ToolError},
    tool::{Annotations, Answer, Call},
    workspace::Context,
};

use crate::{
    hub::catalogue::Catalogue,
    remote::{self, Answered, HubError, Hubs, PassedOver, Why},
};

/// Makes calls.
#[derive(Clone)]
pub enum Executor {
    /// In this process.
    Local(Arc<Catalogue>),
    /// At hubs.
    Hubs {
        /// The hubs.
        hubs: Arc<Hubs>,
        /// What is used when none of them answers, or none knows the tool.
        fallback: Arc<Catalogue>,
    },
}

/// Where a call ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this process.
    Here {
        /// The hubs that should have run it.
        instead_of: Vec<PassedOver>,
    },
    /// At a hub.
    Hub {
        /// Its address.
        hub: String,
        /// The hubs that were not used before.
        passed_over: Vec<PassedOver>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, others) = match self {
            Place::Here { instead_of } => ("here", instead_of),
            Place::Hub { hub, passed_over } => (hub.as_str(), passed_over),
        };
        match others.as_slice() {
            [] => f.write_str(place),
            others => write!(f, "{place}, because {}", remote::list(others)),
        }
    }
}

impl Place {
    /// `local`, or the address of the hub.
    pub fn name(&self) -> &str {
        match self {
            Place::Here { .. } => "local",
            Place::Hub { hub, .. } => hub,
        }
    }

    /// What people should know of: that a hub did not do what it was asked for.
    pub fn note(&self) -> Option<String> {
        let (Place::Here { instead_of: others } | Place::Hub { passed_over: others, .. }) = self;
        (!others.is_empty()).then(|| format!("runs {self}"))
    }
}

impl Executor {
    /// The tools that can be called here.
    pub fn catalogue(&self) -> &Catalogue {
        match self {
            Executor::Local(catalogue) | Executor::Hubs { fallback: catalogue, .. } => catalogue,
        }
    }

    /// Make a call.
    pub async fn call(&self, call: Call, context: Context) -> (Result<Answer, ToolError>, Place) {
        match self {
            Executor::Local(catalogue) => (catalogue.call(call, context).await, Place::Here { instead_of: Vec::new() }),
            Executor::Hubs { hubs, fallback } => remote(hubs, fallback, call, context).await,
        }
    }
}

async fn remote(
    hubs: &Hubs,
    fallback: &Catalogue,
    mut call: Call,
    context: Context,
) -> (Result<Answer, ToolError>, Place) {
    let known = fallback.get(&call.tool).ok();
    call.deadline = call.deadline.or(known.map(|tool| tool.deadline));
    let annotations = known.map_or(Annotations::default(), |tool| tool.annotations);
    let Some(result) = context.cancel.run_until_cancelled(hubs.call(&call, annotations)).await else {
        return (Err(ToolError::Cancelled), Place::Here { instead_of: Vec::new() });
    };
    let instead_of = match result {
        Ok(Answered { answer, hub, mut passed_over }) => match answer_of(&call.tool, answer) {
            Err(ToolError::Unknown { .. }) if known.is_some() => {
                passed_over.push(PassedOver { hub, why: Why::NoSuchTool });
                passed_over
            }
            result => return (result, Place::Hub { hub, passed_over }),
        },
        Err(HubError::NoneAnswers { passed_over }) => passed_over,
        Err(error @ HubError::MayHaveRun { .. }) => return unsettled(error),
    };
    (fallback.call(call, context).await, Place::Here { instead_of })
}

/// Nobody knows whether it ran; the answer says so, and leaves it to the caller to look.
fn unsettled(error: HubError) -> (Result<Answer, ToolError>, Place) {
    let message = error.to_string();
    let (hub, passed_over) = match error {
        HubError::MayHaveRun { hub, passed_over, .. } => (hub, passed_over),
        HubError::NoneAnswers { passed_over } => (String::new(), passed_over),
    };
    let detail = Map::from_iter([("may_have_run".to_owned(), true.into())]);
    (Err(ToolError::Failed { message, detail }), Place::Hub { hub, passed_over })
}

/// What a hub answered, as if the tool had been called here: the reverse of `to_json`.
pub(crate) fn answer_of(tool: &str, mut answer: Map<String, Value>) -> Result<Answer, ToolError> {
    let mut text = |name: &str| match answer.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    if text("status") == "ok" {
        let cached = answer.remove("cached") == Some(Value::Bool(true));
        return Ok(Answer { value: answer, cached });
    }
    let (code, message) = (text("code"), text("message"));
    Err(match code.as_str() {
        "unknown_tool" => ToolError::Unknown { name: tool.to_owned(), nearest: None },
        "invalid_arguments" => ToolError::InvalidArguments(faults(&answer, message)),
        "timed_out" => ToolError::TimedOut { tool: tool.to_owned(), after: after(&message), detail: answer },
        "unavailable" => {
            let (message, cure) = message.rsplit_once("; ").unwrap_or((&message, "ask who runs the hub"));
            ToolError::Unavailable { message: message.to_owned(), cure: cure.to_owned() }
        }
        "denied" => ToolError::Denied(message),
        "conflict" => ToolError::Conflict(message),
        "busy" => ToolError::Busy(message),
        _ => ToolError::Failed { message, detail: answer },
    })
}

fn faults(answer: &Map<String, Value>, message: String) -> Vec<Fault> {
    let text = |fault: &Value, name: &str| fault.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match answer.get("faults").and_then(Value::as_array).map(Vec::as_slice) {
        None | Some([]) => vec![Fault { pointer: String::new(), message }],
        Some(faults) => {
            let fault = |fault| Fault { pointer: text(fault, "pointer"), message: text(fault, "message") };
            faults.iter().map(fault).collect()
        }
    }
}

/// The time at the end of "… timed out after 10s".
fn after(message: &str) -> Duration {
    let seconds = message.rsplit(' ').next().and_then(|word| word.strip_suffix('s')).and_then(|word| word.parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_comes_back_as_it_was() {
        let detail = Map::from_iter([("exit_code".to_owned(), json!(1))]);
        let fault = |pointer: &str, message: &str| Fault { pointer: pointer.to_owned(), message: message.to_owned() };
        for error in [
            ToolError::Unknown { name: "bash".to_owned(), nearest: None },
            ToolError::InvalidArguments(vec![fault("/a/b", "one"), fault("", "two")]),
            ToolError::Failed { message: "it failed; badly".to_owned(), detail: detail.clone() },
            ToolError::TimedOut { tool: "bash".to_owned(), after: Duration::from_millis(1250), detail },
            ToolError::Unavailable { message: "no tesseract".to_owned(), cure: "apt install it".to_owned() },
            ToolError::Denied("no".to_owned()),
            ToolError::Conflict("it changed".to_owned()),
            ToolError::Busy("later".to_owned()),
        ] {
            let Value::Object(answer) = error.to_json() else { panic!("an object") };
            assert_eq!(answer_of("bash", answer), Err(error));
        }
    }

    #[test]
    fn an_answer_comes_back_as_it_was() {
        for cached in [false, true] {
            let answer = Answer { value: Map::from_iter([("stdout".to_owned(), json!("hi"))]), cached };
            let Value::Object(sent) = answer.clone().to_json() else { panic!("an object") };
            assert_eq!(answer_of("bash", sent), Ok(answer));
        }
    }
}
