//! A call of one of Skep's own tools: its arguments are checked, the answer may be known, the tool runs under its deadline, and
//! the outcome is counted.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use skep_tools::{
    error::ToolError,
    tool::{Answer, DEADLINE_MAX, Tool},
    workspace::Context,
};

/// Bytes that the answers kept for identical calls may take together.
const CACHE_BYTES_MAX: u64 = 16 << 20;

/// Answers to identical calls, for the tools that allow it.
pub(super) type Cache = moka::future::Cache<[u8; 32], CachedAnswer>;

#[derive(Clone)]
pub(super) struct CachedAnswer {
    value: Map<String, Value>,
    bytes: u32,
    until: Instant,
}

pub(super) fn cache() -> Cache {
    moka::future::Cache::builder().weigher(|_, kept: &CachedAnswer| kept.bytes).max_capacity(CACHE_BYTES_MAX).build()
}

/// Run a tool. The answer takes its share of the memory from when it is there.
pub(super) async fn run(
    tool: &Tool,
    cache: &Cache,
    arguments: Value,
    deadline: Option<Duration>,
    context: Context,
) -> Result<Answer, ToolError> {
    let began = Instant::now();
    let context = context.with_deadline(deadline.unwrap_or(tool.deadline).min(DEADLINE_MAX));
    let result = counted(tool, cache, arguments, context).await;
    record(tool, &result, began.elapsed());
    result
}

async fn counted(tool: &Tool, cache: &Cache, arguments: Value, context: Context) -> Result<Answer, ToolError> {
    let (room, deadline, cancel) = (context.room.clone(), context.deadline, context.cancel.clone());
    let result = checked(tool, cache, arguments, context).await;
    let members = match &result {
        Ok(answer) => &answer.value,
        Err(
            ToolError::Failed { detail, .. } | ToolError::TimedOut { detail, .. } | ToolError::Conflict { detail, .. },
        ) => detail,
        Err(_) => return result,
    };
    let made = cancel.run_until_cancelled(room.make_for(members, deadline.into())).await;
    made.unwrap_or(Err(ToolError::Cancelled))?;
    result
}

async fn checked(tool: &Tool, cache: &Cache, arguments: Value, context: Context) -> Result<Answer, ToolError> {
    let faults = tool.faults(&arguments);
    if !faults.is_empty() {
        return Err(ToolError::InvalidArguments(faults));
    }
    let Some(ttl) = (tool.cache_ttl)(&arguments) else {
        let value = tool.run(context, arguments).await?;
        return Ok(Answer { value, cached: false });
    };
    let key = key(tool, &arguments, &context);
    if let Some(kept) = cache.get(&key).await.filter(|kept| kept.until > Instant::now()) {
        return Ok(Answer { value: kept.value, cached: true });
    }
    let value = tool.run(context, arguments).await?;
    let bytes = serde_json::to_string(&value).map_or(u32::MAX, |text| text.len().try_into().unwrap_or(u32::MAX));
    cache.insert(key, CachedAnswer { value: value.clone(), bytes, until: Instant::now() + ttl }).await;
    Ok(Answer { value, cached: false })
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;
    use skep_tools::{
        tool::{Annotations, BuiltIn},
        workspace::{Dir, Outputs},
    };

    use super::*;

    /// Counts its calls. What is said to be fresh may be given again.
    #[derive(Default)]
    struct Count(AtomicU32);

    #[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
    #[garde(allow_unvalidated)]
    struct Arguments {
        #[expect(dead_code, reason = "the cache looks at it before the arguments are read")]
        fresh: bool,
    }

    #[derive(serde::Serialize, schemars::JsonSchema)]
    struct Counted {
        calls: u32,
    }

    impl BuiltIn for Count {
        const NAME: &'static str = "count";
        const DESCRIPTION: &'static str = "";
        const ANNOTATIONS: Annotations = Annotations {
            read_only_hint: true,
            destructive_hint: false,
            idempotent_hint: true,
            open_world_hint: false,
        };
        type Arguments = Arguments;
        type Answer = Counted;

        fn cache_ttl(arguments: &Value) -> Option<Duration> {
            (arguments["fresh"] == true).then_some(Duration::from_secs(3600))
        }

        async fn call(&self, _: &Context, _: Arguments) -> Result<Counted, ToolError> {
            Ok(Counted { calls: self.0.fetch_add(1, Ordering::Relaxed) + 1 })
        }
    }

    #[tokio::test]
    async fn an_identical_call_is_answered_again_where_the_tool_allows_it() {
        let directory = tempfile::tempdir().unwrap();
        let [workspace, outputs] = ["w", "o"].map(|name| Dir::create(&directory.path().join(name)).unwrap());
        let (tool, cache) = (Tool::new(Count::default()), cache());
        let call = async |outputs: &Dir, arguments: Value| {
            let context = Context::new(
                crate::hub::principals::local().permit().unwrap(),
                workspace.clone(),
                Outputs::new(outputs.clone(), ""),
                Default::default(),
            );
            run(&tool, &cache, arguments, None, context).await.unwrap().to_json()
        };
        let fresh = json!({"fresh": true});
        assert_eq!(call(&outputs, fresh.clone()).await, json!({"status": "ok", "calls": 1}));
        assert_eq!(call(&outputs, fresh.clone()).await, json!({"status": "ok", "calls": 1, "cached": true}));
        for calls in 2..4 {
            assert_eq!(call(&outputs, json!({"fresh": false})).await, json!({"status": "ok", "calls": calls}));
        }
        assert_eq!(call(&workspace, fresh).await, json!({"status": "ok", "calls": 4}), "in other directories");
    }
}
