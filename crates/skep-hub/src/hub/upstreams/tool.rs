//! Tools of MCP servers for callers that want values: a call is made of values, and its result is taken apart.
//!
//! The gateway hands on text and never comes here.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json, value::RawValue};
use skep_mcp::{
    client::{CallError, Handler},
    framing::{Held, SMALL_BYTES},
    gateway::SEPARATOR,
    message::Notification,
    server::Members,
};
use skep_tools::{
    error::ToolError,
    room::{self, Room},
    tool::DEADLINE_MAX,
    workspace::Context,
};

use super::{Options, Server, UpstreamError};

/// Bytes that come to an answer that was taken apart, at most.
const ANSWER_BYTES_MORE: usize = 4 << 10;
/// Values (numbers, strings, lists, …) in an answer that is taken apart. Each takes far more memory than text.
const ANSWER_VALUES_MAX: usize = 500_000;

/// Call a tool of a server within another call, whose turn, time and memory it uses.
pub(crate) async fn call(
    server: &Arc<Server>,
    tool: &str,
    arguments: &Value,
    context: &Context,
) -> Result<Map<String, Value>, ToolError> {
    let name = [server.name(), SEPARATOR, tool].concat();
    let (params, options) = request(server, tool, arguments, Some(context.time_left()), context);
    let calling = server.call(METHOD, params, options);
    let called = context.cancel.run_until_cancelled(calling).await.ok_or(ToolError::Cancelled)?;
    take_apart(&name, &called.map_err(|error| failed(&name, error))?.result, context).await
}

/// The method that calls a tool.
pub(crate) const METHOD: &str = "tools/call";

/// What is sent to a server for a call of one of its tools. `deadline`: `None` for the server's own.
pub(crate) fn request(
    server: &Server,
    tool: &str,
    arguments: &Value,
    deadline: Option<Duration>,
    context: &Context,
) -> (Members<'static>, Options) {
    let mut options = server.call_options();
    if let Some(deadline) = deadline {
        options.deadline = deadline.min(DEADLINE_MAX);
        options.timeout = options.timeout.max(options.deadline);
    }
    options.handler = Some(Arc::new(Silent { principal: Arc::clone(context.principal()), room: context.room.clone() }));
    let params = Members::of(&json!({ "name": tool, "arguments": arguments }));
    let actor = Some(Arc::clone(context.permit.actor()));
    (params, Options { caller: Arc::clone(context.queue()), call: Some(options), actor })
}

/// What the result of a tool says. A large one waits for its turn.
pub(crate) async fn take_apart(
    name: &str,
    result: &RawValue,
    context: &Context,
) -> Result<Map<String, Value>, ToolError> {
    if room::values(result.get()) > ANSWER_VALUES_MAX {
        let message = format!(
            "{name} answered with more than {ANSWER_VALUES_MAX} values, which callers cannot have in this form"
        );
        return Err(ToolError::failed(message));
    }
    if result.get().len() > SMALL_BYTES {
        context.room.take_apart().await?;
    }
    answer(name, result)
}

/// Who calls, and neither hears nor answers anything before the result. A question of the server's may be meant for it all
/// the same, and is then nobody else's.
struct Silent {
    principal: Arc<str>,
    room: Room,
}

impl Handler for Silent {
    fn notification(&self, _: Notification) {}

    fn principal(&self) -> &str {
        &self.principal
    }

    fn keep(&self, held: Held) {
        self.room.keep(Some(held));
    }

    /// Its members, `text`, and how the call went.
    fn bytes_kept(&self, answer: usize) -> usize {
        2 * answer + ANSWER_BYTES_MORE
    }
}

/// What says how a call went, or whose answer it is: not for a server to say.
pub(super) const RESERVED: [&str; 8] =
    ["_meta", "resultType", "status", "code", "message", "cached", "may_have_run", "rpc_code"];

/// What a `CallToolResult` says: its members, and `text` for what is text in it.
pub(super) fn answer(tool: &str, result: &RawValue) -> Result<Map<String, Value>, ToolError> {
    let no_result = || ToolError::failed(format!("{tool} answered with something that is no result of a tool"));
    let mut result: Map<String, Value> = serde_json::from_str(result.get()).map_err(|_| no_result())?;
    match result.get("resultType").map(Value::as_str) {
        None | Some(Some("complete")) => {}
        Some(Some("input_required")) => {
            let message = format!("{tool} asks its caller for input, which only callers over MCP can give");
            return Err(ToolError::failed(message));
        }
        Some(_) => {
            return Err(ToolError::failed(format!("{tool} answered with a kind of result that nobody asked for")));
        }
    }
    let parts = result.get("content").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n");
    let is_error = result.remove("isError") == Some(Value::Bool(true));
    for member in RESERVED {
        result.remove(member);
    }
    if is_error {
        let message = if text.is_empty() { format!("{tool} failed without saying why") } else { text };
        return Err(ToolError::Failed { message, detail: result });
    }
    result.insert("text".to_owned(), text.into());
    Ok(result)
}

/// Why a server gave no result, in the words of tools.
pub(crate) fn failed(tool: &str, error: UpstreamError) -> ToolError {
    match error {
        UpstreamError::Denied { .. } | UpstreamError::Shared { .. } => ToolError::Denied(error.to_string()),
        UpstreamError::NotClaimed(error) => *error,
        UpstreamError::Busy { .. }
        | UpstreamError::Unlisted { .. }
        | UpstreamError::Call { error: CallError::NoRoom(_), .. } => ToolError::Busy(error.to_string()),
        UpstreamError::Unavailable { retry_after, .. } => {
            ToolError::NoServer { message: format!("{error}; `skep servers` shows what it last said"), retry_after }
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

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

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
    fn a_server_does_not_say_how_its_call_went_but_by_the_one_member_for_that() {
        let said =
            json!({"content": [], "status": "error", "cached": true, "code": "busy", "message": "m", "_meta": {}});
        assert_eq!(read(said), Ok(json!({"content": [], "text": ""})));
        let failed = json!({"isError": true, "status": "ok", "may_have_run": true, "x": 1});
        let Err(ToolError::Failed { detail, .. }) = read(failed) else { panic!("it failed") };
        assert_eq!(Value::Object(detail), json!({"x": 1}));
        assert!(read(json!({"resultType": "task", "taskId": "t"})).is_err());
    }

    #[test]
    fn an_answer_that_is_no_result_or_asks_back_is_told_as_such() {
        assert!(read(json!([1])).unwrap_err().to_string().contains("no result of a tool"));
        let asks = read(json!({"resultType": "input_required", "inputRequests": {}})).unwrap_err();
        assert!(asks.to_string().contains("over MCP"), "{asks}");
    }
}
