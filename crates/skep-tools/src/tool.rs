//! What a tool is: a name, a description, two JSON Schemas, annotations and a handler.
//!
//! The schemas come from the Rust types of its arguments and its answer, so they cannot drift apart. Whoever calls a tool checks
//! its arguments first ([`Tool::faults`]) and then runs it ([`Tool::run`]); a hub has the whole list of steps.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    error::{Fault, ToolError},
    schema::{
        Schema, Violation,
        portable::{self, Side},
    },
    value,
    workspace::Context,
};

/// The longest deadline that a caller may ask for.
pub const DEADLINE_MAX: Duration = Duration::from_secs(3600);
/// Time beyond the deadline that a tool gets to stop what it runs and to report what it has, before it is dropped.
const GRACE: Duration = Duration::from_millis(500);

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
    /// How long it takes is up to what it runs or asks ([`BuiltIn::RUNS_OTHERS`]).
    pub runs_others: bool,
    /// How long the answer to these arguments may be given again to an identical call; `None` if never.
    pub cache_ttl: fn(&Value) -> Option<Duration>,
    /// The arguments, as they are checked.
    pub arguments: Schema,
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
    pub fn may_repeat(&self) -> bool {
        self.read_only_hint || self.idempotent_hint || !(self.destructive_hint || self.open_world_hint)
    }
}

/// A tool written in this program: one type in one file of `skep-builtin`, holding what it needs to work.
pub trait BuiltIn: Send + Sync + 'static {
    /// Unique name.
    const NAME: &'static str;
    /// What it does and when to use it, for a model.
    const DESCRIPTION: &'static str;
    /// What it does to the world.
    const ANNOTATIONS: Annotations;
    /// How long a call may take unless the caller says otherwise.
    const DEADLINE: Duration = Duration::from_secs(10);
    /// Whether how long a call takes is up to what it runs or asks: a program, a model, a server. Such calls say nothing about
    /// how fast the hub is.
    const RUNS_OTHERS: bool = false;
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

/// One call of one tool.
#[derive(Clone, Debug)]
pub struct Call {
    /// Name of the tool.
    pub tool: String,
    /// Its arguments, an object.
    pub arguments: Value,
    /// How long it may take; `None` for the tool's own deadline.
    pub deadline: Option<Duration>,
}

/// What a tool answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The members of the answer.
    pub value: Map<String, Value>,
    /// It was kept from an identical call.
    pub cached: bool,
}

impl Answer {
    /// The answer that a client sees (contract S0): the members, and `status`. Members of these names that the tool gave are
    /// left out: how a call went is not for the tool to say.
    pub fn to_json(self) -> Value {
        let mut answer = Map::new();
        answer.insert("status".into(), "ok".into());
        answer.extend(self.value.into_iter().filter(|(name, _)| !matches!(name.as_str(), "status" | "cached")));
        if self.cached {
            answer.insert("cached".into(), true.into());
        }
        Value::Object(answer)
    }
}

impl Tool {
    /// A built-in tool as an entry of the catalogue.
    pub fn new<B: BuiltIn>(tool: B) -> Tool {
        let tool = Arc::new(tool);
        let handler: Handler = Box::new(move |context, arguments| {
            let tool = Arc::clone(&tool);
            Box::pin(async move {
                let arguments = value::read(&arguments)
                    .map_err(|(pointer, message)| ToolError::InvalidArguments(vec![Fault { pointer, message }]))?;
                match serde_json::to_value(tool.call(&context, arguments).await?) {
                    Ok(Value::Object(answer)) => Ok(answer),
                    Ok(other) => Err(ToolError::Internal(format!("{} answered with {other}, not an object", B::NAME))),
                    Err(error) => Err(ToolError::Internal(format!("{}'s answer is not JSON: {error}", B::NAME))),
                }
            })
        });
        Tool {
            name: B::NAME,
            description: B::DESCRIPTION,
            annotations: B::ANNOTATIONS,
            deadline: B::DEADLINE,
            runs_others: B::RUNS_OTHERS,
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

    /// Run it until its deadline, the caller's cancellation, or its own end. A panic in it is its failure alone. The arguments
    /// must be without [faults](Tool::faults).
    pub async fn run(&self, context: Context, arguments: Value) -> Result<Map<String, Value>, ToolError> {
        let after = context.allowed;
        let cancel = context.cancel.clone();
        let handler = std::panic::AssertUnwindSafe((self.handler)(context, arguments)).catch_unwind();
        tokio::select! {
            biased;
            result = handler => {
                result.unwrap_or_else(|_| Err(ToolError::Internal(format!("{} failed; its log says why", self.name))))
            }
            () = cancel.cancelled() => Err(ToolError::Cancelled),
            () = tokio::time::sleep(after + GRACE) => {
                let mut detail = Map::new();
                if !self.annotations.read_only_hint {
                    // What it has begun may still be done: a write, say, that a database has not answered.
                    detail.insert("may_have_run".to_owned(), true.into());
                }
                Err(ToolError::TimedOut { tool: self.name.to_owned(), after, detail })
            }
        }
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
