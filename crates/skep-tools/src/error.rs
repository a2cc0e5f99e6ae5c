//! Why a call of a tool gave no answer, in the words that every caller gets.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Why a call gave no answer: each variant says what the caller, often a model, should do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ToolError {
    /// There is no such tool: choose another.
    #[error("Unknown tool {name:?}{}", suggestion(.nearest))]
    Unknown {
        /// The name as it was given.
        name: String,
        /// The nearest name that exists.
        nearest: Option<String>,
    },
    /// Mend the arguments: every fault that was found.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    InvalidArguments(Vec<Fault>),
    /// It was done and went wrong: look at the message and at the details.
    #[error("{message}")]
    Failed {
        /// One sentence.
        message: String,
        /// What else is known, such as the exit code and the output: members of the JSON answer.
        detail: Map<String, Value>,
    },
    /// It took too long: make it smaller or allow more time.
    #[error("{tool} timed out after {}", seconds(.after))]
    TimedOut {
        /// Whose deadline it was.
        tool: String,
        /// The deadline.
        after: Duration,
        /// What it said until then: members of the JSON answer.
        detail: Map<String, Value>,
    },
    /// It does not work on this machine as it is: do what the cure says.
    #[error("{message}; {cure}")]
    Unavailable {
        /// What is missing.
        message: String,
        /// How to get it.
        cure: String,
    },
    /// The MCP server that has it cannot be used for now: try again later, or do what the message says.
    #[error("{message}")]
    NoServer {
        /// Which server, and why.
        message: String,
        /// When it will be tried again; zero if that changes nothing.
        retry_after: Duration,
    },
    /// A rule forbids it: do not try again.
    #[error("{0}")]
    Denied(String),
    /// What it would change has changed meanwhile, or is another's: look at it again.
    #[error("{message}")]
    Conflict {
        /// One sentence.
        message: String,
        /// What is there instead: members of the JSON answer.
        detail: Map<String, Value>,
    },
    /// Too much at once: try again later.
    #[error("{0}")]
    Busy(String),
    /// The hub itself failed, its disk for one: the arguments are not to blame, and its operator has to look.
    #[error("{0}")]
    Internal(String),
    /// The caller withdrew.
    #[error("cancelled")]
    Cancelled,
}

/// One fault of the arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// JSON Pointer (RFC 6901) of the value at fault; empty for the whole.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.trim_start_matches('/').replace('/', ".") {
            path if path.is_empty() => write!(f, "{}", self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

impl ToolError {
    /// It was done and went wrong, and there is no more to say.
    pub fn failed(message: impl Into<String>) -> ToolError {
        ToolError::Failed { message: message.into(), detail: Map::new() }
    }

    /// What it would change has changed meanwhile, and there is no more to say.
    pub fn conflict(message: impl Into<String>) -> ToolError {
        ToolError::Conflict { message: message.into(), detail: Map::new() }
    }

    /// One argument is wrong; `name` is that of a member of the arguments.
    pub fn argument(name: &str, message: impl Into<String>) -> ToolError {
        ToolError::InvalidArguments(vec![Fault { pointer: format!("/{name}"), message: message.into() }])
    }

    /// Stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            ToolError::Unknown { .. } => "unknown_tool",
            ToolError::InvalidArguments(_) => "invalid_arguments",
            ToolError::Failed { .. } => "failed",
            ToolError::TimedOut { .. } => "timed_out",
            ToolError::Unavailable { .. } | ToolError::NoServer { .. } => "unavailable",
            ToolError::Denied(_) => "denied",
            ToolError::Conflict { .. } => "conflict",
            ToolError::Busy(_) => "busy",
            ToolError::Internal(_) => "internal",
            ToolError::Cancelled => "cancelled",
        }
    }

    /// Whether the same call may go well the next time.
    pub fn is_transient(&self) -> bool {
        match self {
            // It may still run, or have run, on a hub that fell silent.
            ToolError::Failed { detail, .. } => !detail.contains_key("may_have_run"),
            ToolError::TimedOut { .. } | ToolError::Busy(_) | ToolError::Internal(_) => true,
            _ => false,
        }
    }

    /// Whether the hub or what it relies on is at fault, and not the caller, what was asked for, or what is there.
    pub fn is_fault(&self) -> bool {
        match self {
            ToolError::TimedOut { .. }
            | ToolError::Unavailable { .. }
            | ToolError::NoServer { .. }
            | ToolError::Busy(_)
            | ToolError::Internal(_) => true,
            ToolError::Failed { detail, .. } => detail.contains_key("may_have_run"),
            _ => false,
        }
    }

    /// The answer that a client sees (contract S0): `status`, `code`, `message` and the details.
    pub fn to_json(&self) -> Value {
        let mut answer = Map::new();
        answer.insert("status".into(), "error".into());
        answer.insert("code".into(), self.code().into());
        answer.insert("message".into(), self.to_string().into());
        match self {
            ToolError::Failed { detail, .. }
            | ToolError::TimedOut { detail, .. }
            | ToolError::Conflict { detail, .. } => {
                for (name, value) in detail {
                    answer.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
            ToolError::InvalidArguments(faults) => {
                let faults = faults.iter().map(|fault| json!({"pointer": fault.pointer, "message": fault.message}));
                answer.insert("faults".into(), faults.collect());
            }
            _ => {}
        }
        Value::Object(answer)
    }
}

fn suggestion(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean {name:?}?"),
        None => "; GET /tools or `skep tools` lists them".to_owned(),
    }
}

fn seconds(duration: &Duration) -> String {
    // "10s", as S0's clients expect it, and "0.25s" where it is less than a second.
    format!("{}s", duration.as_secs_f64())
}
