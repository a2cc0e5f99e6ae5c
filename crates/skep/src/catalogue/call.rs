//! The steps of a call, in order. Every door ends here, and no door adds a rule of its own.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{Catalogue, Tool, ToolError};
use crate::workspace::Context;

/// Bytes that the answers kept for identical calls may take together.
const CACHE_BYTES_MAX: u64 = 16 << 20;
/// The longest deadline that a caller may ask for.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(3600);
/// Time beyond the deadline that a tool gets to stop what it runs and to report what it has, before it is dropped.
const GRACE: Duration = Duration::from_millis(500);

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

/// Answers to identical calls, for the tools that allow it.
pub(super) type Cache = moka::future::Cache<[u8; 32], Kept>;

#[derive(Clone)]
pub(super) struct Kept {
    value: Map<String, Value>,
    bytes: u32,
    until: Instant,
}

pub(super) fn cache() -> Cache {
    moka::future::Cache::builder().weigher(|_, kept: &Kept| kept.bytes).max_capacity(CACHE_BYTES_MAX).build()
}

impl Catalogue {
    /// Call a tool: find it, check its arguments, look whether the answer is known, run it under its deadline, record.
    pub async fn call(&self, call: Call, context: Context) -> Result<Answer, ToolError> {
        let began = Instant::now();
        if self.of_upstream(&call.tool).is_some() {
            return self.call_upstream(call, &context).await;
        }
        let tool = self.get(&call.tool)?;
        let result = self.counted(tool, call, context).await;
        record(tool, &result, began.elapsed());
        result
    }

    /// The answer takes its share of the memory from when it is there.
    async fn counted(&self, tool: &Tool, call: Call, mut context: Context) -> Result<Answer, ToolError> {
        let room = context.room.clone();
        let after = call.deadline.unwrap_or(tool.deadline).min(DEADLINE_MAX);
        context = context.with_deadline(after);
        let (deadline, cancel) = (context.deadline, context.cancel.clone());
        let result = self.checked(tool, call, context).await;
        let members = match &result {
            Ok(answer) => &answer.value,
            Err(ToolError::Failed { detail, .. } | ToolError::TimedOut { detail, .. }) => detail,
            Err(_) => return result,
        };
        let made = cancel.run_until_cancelled(room.make_for(members, deadline.into())).await;
        made.unwrap_or(Err(ToolError::Cancelled))?;
        result
    }

    async fn checked(&self, tool: &Tool, call: Call, context: Context) -> Result<Answer, ToolError> {
        let faults = tool.faults(&call.arguments);
        if !faults.is_empty() {
            return Err(ToolError::InvalidArguments(faults));
        }
        let Some(ttl) = (tool.cache_ttl)(&call.arguments) else {
            let value = run(tool, call, context).await?;
            return Ok(Answer { value, cached: false });
        };
        let key = key(tool, &call.arguments, &context);
        if let Some(kept) = self.cache.get(&key).await.filter(|kept| kept.until > Instant::now()) {
            return Ok(Answer { value: kept.value, cached: true });
        }
        let value = run(tool, call, context).await?;
        let bytes = serde_json::to_string(&value).map_or(u32::MAX, |text| text.len().try_into().unwrap_or(u32::MAX));
        self.cache.insert(key, Kept { value: value.clone(), bytes, until: Instant::now() + ttl }).await;
        Ok(Answer { value, cached: false })
    }
}

/// Run the handler until its deadline, the caller's cancellation, or its own end. A panic in it is its failure alone.
async fn run(tool: &Tool, call: Call, context: Context) -> Result<Map<String, Value>, ToolError> {
    let after = context.allowed;
    let cancel = context.cancel.clone();
    let handler = std::panic::AssertUnwindSafe((tool.handler)(context, call.arguments)).catch_unwind();
    tokio::select! {
        biased;
        result = handler => result.unwrap_or_else(|_| Err(ToolError::failed(format!("{} failed; its log says why", tool.name)))),
        () = cancel.cancelled() => Err(ToolError::Cancelled),
        () = tokio::time::sleep(after + GRACE) => {
            Err(ToolError::TimedOut { tool: tool.name.to_owned(), after, detail: Map::new() })
        }
    }
}

/// Identical calls have the same key: the same tool and arguments in the same directories.
fn key(tool: &Tool, arguments: &Value, context: &Context) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [tool.name.as_bytes(), arguments.to_string().as_bytes(), context.identity().as_bytes()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Every call is counted and timed, under its tool and how it ended.
fn record(tool: &Tool, result: &Result<Answer, ToolError>, took: Duration) {
    let outcome = match result {
        Ok(Answer { cached: true, .. }) => "cached",
        Ok(_) => "ok",
        Err(error) => error.code(),
    };
    metrics::counter!("skep_tool_calls_total", "tool" => tool.name, "outcome" => outcome).increment(1);
    metrics::histogram!("skep_tool_call_seconds", "tool" => tool.name).record(took.as_secs_f64());
}
