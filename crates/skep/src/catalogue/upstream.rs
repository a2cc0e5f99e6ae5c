//! Tools of MCP servers, `server__tool`, as tools of the catalogue.
//!
//! The gateway hands on text and never comes here with a parsed call; but both go through [`Catalogue::forward`], where
//! every call of a server is timed and counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};
use skep_mcp::{client::CallError, gateway::SEPARATOR};

use super::{Answer, Call, Catalogue, DEADLINE_MAX, Tool, ToolError};
use tokio::time::timeout;

use crate::{
    schema::{shorten, suggest},
    upstreams::{Options, UpstreamError, Upstreams},
    workspace::Context,
};

/// Methods whose name is a label of the metrics; all others share one.
const METHODS: [&str; 8] = [
    "tools/call",
    "tools/list",
    "prompts/get",
    "prompts/list",
    "resources/read",
    "resources/list",
    "resources/templates/list",
    "completion/complete",
];

impl Catalogue {
    /// The same with the tools of these servers.
    pub fn with_upstreams(self, upstreams: Upstreams) -> Catalogue {
        Catalogue { upstreams, ..self }
    }

    /// The servers whose tools are here.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// The server that a name of a tool belongs to, and its own name for it.
    pub fn of_upstream<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str)> {
        name.split_once(SEPARATOR).filter(|(server, _)| !self.tools.contains_key(name) && self.upstreams.has(server))
    }

    /// Every tool as `tools/list` shows it, those of servers under their names here; and why some server's are missing.
    /// Starts the servers, and waits for each for its own time to start, or no longer than `time_max`.
    pub async fn all(&self, time_max: Option<Duration>) -> (Vec<Value>, Vec<String>) {
        let mut tools: Vec<Value> = self.tools().map(Tool::to_json).collect();
        let mut silent = Vec::new();
        let names = self.upstreams.names();
        let list = async |server: &String| {
            let listing = self.upstreams.tools(server);
            match time_max {
                None => listing.await.map_err(|error| error.to_string()),
                Some(time) => match timeout(time, listing).await {
                    Ok(listed) => listed.map_err(|error| error.to_string()),
                    Err(_) => {
                        Err(format!("the MCP server {server:?} has not listed its tools yet; ask again in a moment"))
                    }
                },
            }
        };
        let lists = join_all(names.iter().map(list)).await;
        for (server, list) in names.iter().zip(lists) {
            match list {
                Ok(list) => tools.extend(list.items.iter().filter_map(|tool| named(server, tool))),
                Err(error) => silent.push(error),
            }
        }
        (tools, silent)
    }

    /// One tool, as `tools/list` shows it.
    pub async fn describe(&self, name: &str) -> Result<Value, ToolError> {
        let Some((server, _)) = self.of_upstream(name) else { return Ok(self.get(name)?.to_json()) };
        let list = self.upstreams.tools(server).await.map_err(|error| failed(name, error))?;
        let tools: Vec<Value> = list.items.iter().filter_map(|tool| named(server, tool)).collect();
        let names = || tools.iter().filter_map(|tool| tool["name"].as_str());
        let nearest = || suggest(name, names()).and(crate::schema::nearest_name(name, names())).map(str::to_owned);
        let unknown = || ToolError::Unknown { name: shorten(name, super::NAME_CHARS_SHOWN), nearest: nearest() };
        tools.iter().find(|tool| tool["name"] == name).cloned().ok_or_else(unknown)
    }

    /// Call a method of a server, with text in and out, and count it. Dropping the future withdraws the call.
    pub async fn forward(
        &self,
        server: &str,
        method: &str,
        params: Option<Box<RawValue>>,
        options: Options,
    ) -> Result<Box<RawValue>, UpstreamError> {
        let began = Instant::now();
        let result = self.upstreams.call(server, method, params, options).await;
        record(server, method, &result, began.elapsed());
        result
    }

    /// Call a tool of a server as one of the catalogue.
    pub(super) async fn call_upstream(&self, call: Call, context: &Context) -> Result<Answer, ToolError> {
        let Some((server, tool)) = self.of_upstream(&call.tool) else {
            return Err(self.unknown(&call.tool));
        };
        let mut options = self.upstreams.call_options(server).map_err(|error| failed(&call.tool, error))?;
        if let Some(deadline) = call.deadline {
            options.deadline = deadline.min(DEADLINE_MAX);
            options.timeout = options.timeout.max(options.deadline);
        }
        let params = to_raw_value(&json!({ "name": tool, "arguments": call.arguments })).ok();
        let options = Options { caller: Arc::from(""), call: Some(options) };
        let calling = self.forward(server, "tools/call", params, options);
        let result = context.cancel.run_until_cancelled(calling).await.ok_or(ToolError::Cancelled)?;
        let result = result.map_err(|error| failed(&call.tool, error))?;
        let value = answer(&call.tool, &result)?;
        Ok(Answer { value, cached: false })
    }
}

/// A tool under its name here; all else as the server wrote it.
fn named(server: &str, tool: &RawValue) -> Option<Value> {
    let mut tool: Value = serde_json::from_str(tool.get()).ok()?;
    let name = format!("{server}{SEPARATOR}{}", tool["name"].as_str()?);
    tool["name"] = name.into();
    Some(tool)
}

/// What a `CallToolResult` says: its members, and `text` for what is text in it.
fn answer(tool: &str, result: &RawValue) -> Result<Map<String, Value>, ToolError> {
    let no_result = || ToolError::failed(format!("{tool} answered with something that is no result of a tool"));
    let mut result: Map<String, Value> = serde_json::from_str(result.get()).map_err(|_| no_result())?;
    if result.get("resultType").is_some_and(|kind| kind == "input_required") {
        let message = format!("{tool} asks its caller for input, which only callers over MCP can give");
        return Err(ToolError::failed(message));
    }
    let parts = result.get("content").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n");
    let is_error = result.remove("isError") == Some(Value::Bool(true));
    for member in ["_meta", "resultType"] {
        result.remove(member);
    }
    if is_error {
        let message = if text.is_empty() { format!("{tool} failed without saying why") } else { text };
        return Err(ToolError::Failed { message, detail: result });
    }
    result.insert("text".to_owned(), text.into());
    Ok(result)
}

/// Why a server gave no result, in the catalogue's words.
fn failed(tool: &str, error: UpstreamError) -> ToolError {
    match error {
        UpstreamError::Denied { .. } => ToolError::Denied(error.to_string()),
        UpstreamError::Busy { .. } => ToolError::Busy(error.to_string()),
        UpstreamError::Unavailable { .. } => {
            let cure = "`skep servers` shows what it last said".to_owned();
            ToolError::Unavailable { message: error.to_string(), cure }
        }
        UpstreamError::Call { error: CallError::TimedOut(after), .. } => {
            ToolError::TimedOut { tool: tool.to_owned(), after, detail: Map::new() }
        }
        UpstreamError::Call { error: CallError::Rpc(error), .. } => {
            let detail = Map::from_iter([("rpc_code".to_owned(), error.code.into())]);
            ToolError::Failed { message: error.message, detail }
        }
        // It may have acted on it before the connection went.
        UpstreamError::Call { error: CallError::Closed(_), .. } => {
            let detail = Map::from_iter([("may_have_run".to_owned(), true.into())]);
            ToolError::Failed { message: error.to_string(), detail }
        }
        UpstreamError::Unknown { .. } | UpstreamError::Call { .. } => ToolError::failed(error.to_string()),
    }
}

/// Every call of a server is counted and timed, under the server and how it ended. Names of tools are the callers', and
/// would make labels without bound.
fn record(server: &str, method: &str, result: &Result<Box<RawValue>, UpstreamError>, took: Duration) {
    let outcome = match result {
        Ok(_) => "ok",
        Err(UpstreamError::Unknown { .. }) => return, // not a server
        Err(UpstreamError::Denied { .. }) => "denied",
        Err(UpstreamError::Busy { .. }) => "busy",
        Err(UpstreamError::Unavailable { .. }) => "unavailable",
        Err(UpstreamError::Call { error, .. }) => match error {
            CallError::Rpc(_) => "error",
            CallError::TimedOut(_) => "timed_out",
            CallError::Closed(_) => "closed",
            CallError::Http { .. } | CallError::Protocol(_) => "protocol",
        },
    };
    let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
    let server = metrics::SharedString::from(server.to_owned());
    metrics::counter!("skep_upstream_calls_total", "server" => server.clone(), "method" => method, "outcome" => outcome)
        .increment(1);
    metrics::histogram!("skep_upstream_call_seconds", "server" => server, "method" => method).record(took);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(result: Value) -> Result<Value, ToolError> {
        answer("s__t", &to_raw_value(&result).unwrap()).map(Value::Object)
    }

    #[test]
    fn a_result_keeps_its_members_and_shows_its_text() {
        let parts =
            json!([{"type": "text", "text": "a"}, {"type": "image", "data": ""}, {"type": "text", "text": "b"}]);
        let result =
            json!({"content": parts, "structuredContent": {"n": 1}, "_meta": {"x": 1}, "resultType": "complete"});
        let expected = json!({"content": parts, "structuredContent": {"n": 1}, "text": "a\nb"});
        assert_eq!(read(result), Ok(expected));
    }

    #[test]
    fn what_the_tool_calls_an_error_is_one() {
        let parts = json!([{"type": "text", "text": "no such city"}]);
        let error = read(json!({"content": parts, "isError": true})).unwrap_err();
        assert_eq!(
            error.to_json(),
            json!({"status": "error", "code": "failed", "message": "no such city", "content": parts})
        );
        assert!(matches!(read(json!({"isError": true})), Err(ToolError::Failed { .. })));
    }

    #[test]
    fn an_answer_that_is_no_result_or_asks_back_is_told_as_such() {
        assert!(read(json!([1])).unwrap_err().to_string().contains("no result of a tool"));
        let asks = read(json!({"resultType": "input_required", "inputRequests": {}})).unwrap_err();
        assert!(asks.to_string().contains("over MCP"), "{asks}");
    }
}
