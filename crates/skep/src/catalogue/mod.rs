//! The tool catalogue: everything that an agent can do, under one roof, whatever door the request came through.
//!
//! A tool is a name, a description, two JSON Schemas, annotations and a handler. The schemas come from the Rust types
//! of its arguments and its answer, so they cannot drift apart. Doors never run a handler themselves: they go
//! through [`Catalogue::call`], which is the list of steps that every call takes (`call.rs`).

mod call;
mod passed;
mod upstream;

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, sync::LazyLock, time::Duration};

pub(crate) use call::DEADLINE_MAX;
pub use call::{Answer, Call};
use garde::Validate;
pub(crate) use passed::PassedOn;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
pub use upstream::Listed;
pub(crate) use upstream::{Said, call_tool, listed_tools};

use crate::{
    document,
    schema::{
        Schema, Violation, nearest_name,
        portable::{self, Side},
        shorten,
    },
    upstreams::Upstreams,
    workspace::Context,
};

/// Characters of an unknown tool's name that are repeated to the caller.
const NAME_CHARS_SHOWN: usize = 100;

/// All tools of this process: Skep's own, and those of the MCP servers behind it.
pub struct Catalogue {
    tools: BTreeMap<&'static str, Tool>,
    /// Few runs need it.
    cache: LazyLock<call::Cache>,
    upstreams: Upstreams,
}

/// One tool, with its handler hidden behind JSON.
pub struct Tool {
    /// Unique name.
    pub name: &'static str,
    /// What it does and when to use it, for a model.
    pub description: &'static str,
    /// What it does to the world.
    pub annotations: Annotations,
    /// How long a call may take unless the caller says otherwise.
    pub deadline: Duration,
    /// How long the answer to these arguments may be given again to an identical call; `None` if never.
    pub cache_ttl: fn(&Value) -> Option<Duration>,
    /// The arguments, as they are checked.
    pub(crate) arguments: Schema,
    input_schema: LazySchema,
    output_schema: LazySchema,
    handler: Handler,
}

type Handler = Box<dyn Fn(Context, Value) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;
type LazySchema = LazyLock<Value, fn() -> Value>;
type Outcome = Result<Map<String, Value>, ToolError>;

/// What a tool does to the world: the hints of the Model Context Protocol (`ToolAnnotations`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Annotations {
    /// Changes nothing.
    pub read_only_hint: bool,
    /// May destroy something.
    pub destructive_hint: bool,
    /// Calling it again with the same arguments changes nothing more.
    pub idempotent_hint: bool,
    /// Reaches out of this machine.
    pub open_world_hint: bool,
}

impl Annotations {
    /// Whether a call may be made again when nobody knows how far the first one came: it changes nothing more, or what it
    /// does stays in its own sandbox and in outputs.
    pub(crate) fn may_repeat(&self) -> bool {
        self.read_only_hint || self.idempotent_hint || !(self.destructive_hint || self.open_world_hint)
    }
}

/// A tool written in this program: one type in one file of `tools/`, holding what it needs to work.
pub trait BuiltIn: Send + Sync + 'static {
    /// Unique name.
    const NAME: &'static str;
    /// What it does and when to use it, for a model.
    const DESCRIPTION: &'static str;
    /// What it does to the world.
    const ANNOTATIONS: Annotations;
    /// How long a call may take unless the caller says otherwise.
    const DEADLINE: Duration = Duration::from_secs(10);
    /// How long an answer may be given again to an identical call.
    const CACHE_TTL: Option<Duration> = None;
    /// What it takes. Derive `Deserialize` with `deny_unknown_fields`, so that a misspelt name is an error, and say its limits
    /// with `garde`, so that they are in the schema, too.
    type Arguments: DeserializeOwned + JsonSchema + Validate<Context = ()> + Send;
    /// What it gives; must serialise to an object.
    type Answer: Serialize + JsonSchema;

    /// How long the answer to these arguments may be given again. Override it where the arguments decide: a search of
    /// the web may be kept for a minute, one of the user's files is stale at once.
    fn cache_ttl(_arguments: &Value) -> Option<Duration> {
        Self::CACHE_TTL
    }

    /// Do it.
    fn call(
        &self,
        context: &Context,
        arguments: Self::Arguments,
    ) -> impl Future<Output = Result<Self::Answer, ToolError>> + Send;
}

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
    /// What it would change has changed meanwhile: look at it again.
    #[error("{0}")]
    Conflict(String),
    /// Too much at once: try again later.
    #[error("{0}")]
    Busy(String),
    /// The caller withdrew.
    #[error("cancelled")]
    Cancelled,
}

/// One fault of the arguments.
#[derive(Clone, Debug, PartialEq)]
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
            ToolError::Conflict(_) => "conflict",
            ToolError::Busy(_) => "busy",
            ToolError::Cancelled => "cancelled",
        }
    }

    /// Whether the same call may go well the next time.
    pub fn is_transient(&self) -> bool {
        match self {
            // It may still run, or have run, on a hub that fell silent.
            ToolError::Failed { detail, .. } => !detail.contains_key("may_have_run"),
            ToolError::TimedOut { .. } | ToolError::Busy(_) => true,
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
            ToolError::Failed { detail, .. } | ToolError::TimedOut { detail, .. } => {
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

impl Tool {
    /// A built-in tool as an entry of the catalogue.
    pub fn new<B: BuiltIn>(tool: B) -> Tool {
        let tool = std::sync::Arc::new(tool);
        let handler: Handler = Box::new(move |context, arguments| {
            let tool = std::sync::Arc::clone(&tool);
            Box::pin(async move {
                let arguments = document::read(&arguments)
                    .map_err(|(pointer, message)| ToolError::InvalidArguments(vec![Fault { pointer, message }]))?;
                match serde_json::to_value(tool.call(&context, arguments).await?) {
                    Ok(Value::Object(answer)) => Ok(answer),
                    Ok(other) => Err(ToolError::failed(format!("{} answered with {other}, not an object", B::NAME))),
                    Err(error) => Err(ToolError::failed(format!("{}'s answer is not JSON: {error}", B::NAME))),
                }
            })
        });
        Tool {
            name: B::NAME,
            description: B::DESCRIPTION,
            annotations: B::ANNOTATIONS,
            deadline: B::DEADLINE,
            cache_ttl: B::cache_ttl,
            arguments: Schema::of::<B::Arguments>(),
            input_schema: LazyLock::new(|| schema::<B::Arguments>(Side::Arguments)),
            output_schema: LazyLock::new(|| schema::<B::Answer>(Side::Answer)),
            handler,
        }
    }

    /// JSON Schema of the arguments, an object.
    pub fn input_schema(&self) -> &Value {
        &self.input_schema
    }

    /// JSON Schema of the answer, an object.
    pub fn output_schema(&self) -> &Value {
        &self.output_schema
    }

    /// Every fault of these arguments.
    pub fn faults(&self, arguments: &Value) -> Vec<Fault> {
        let fault = |Violation { pointer, message, help, .. }| Fault {
            pointer,
            message: help.map_or(message.clone(), |help| format!("{message}; {help}")),
        };
        self.arguments.violations(arguments).into_iter().map(fault).collect()
    }

    /// The tool as `GET /tools` and MCP's `tools/list` show it.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "inputSchema": self.input_schema(),
            "outputSchema": self.output_schema(),
            "annotations": self.annotations,
        })
    }
}

fn schema<T: JsonSchema>(side: Side) -> Value {
    let mut schema = portable::generate::<T>(side);
    if let Value::Object(schema) = &mut schema {
        schema.remove("$schema");
        schema.remove("title");
    }
    schema
}

impl Catalogue {
    /// A catalogue of these tools. Of two with one name the later counts.
    pub fn new(tools: impl IntoIterator<Item = Tool>) -> Catalogue {
        Catalogue {
            tools: tools.into_iter().map(|tool| (tool.name, tool)).collect(),
            cache: LazyLock::new(call::cache),
            upstreams: Upstreams::default(),
        }
    }

    /// The tool of this name, of Skep's own.
    pub fn get(&self, name: &str) -> Result<&Tool, ToolError> {
        self.tools.get(name).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> ToolError {
        ToolError::Unknown {
            name: shorten(name, NAME_CHARS_SHOWN),
            nearest: nearest_name(name, self.tools.keys().copied()).map(str::to_owned),
        }
    }

    /// Skep's own tools, by name.
    pub fn tools(&self) -> impl Iterator<Item = &Tool> {
        self.tools.values()
    }
}
