//! Tools of MCP servers, `server__tool`, as tools of the catalogue.
//!
//! The gateway hands on text and never comes here with a parsed call. What both share, the pool has: the turns of callers,
//! times, and that every call is counted.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::{Map, Value, json, value::RawValue};
use skep_mcp::{
    client::{CallError, Handler},
    framing::{Held, SMALL_BYTES},
    gateway::{List, SEPARATOR, prefixed},
    message::Notification,
    server::Members,
};
use skep_tools::{
    error::ToolError,
    room::{self, Room},
    schema::{shorten, suggest},
    tool::{Answer, Call, DEADLINE_MAX, Tool},
    workspace::Context,
};

use super::{Catalogue, PassedOn};
use crate::hub::upstreams::{Options, UpstreamError, Upstreams};

/// Bytes that come to an answer that was taken apart, at most.
const ANSWER_BYTES_MORE: usize = 4 << 10;
/// Values (numbers, strings, lists, …) in an answer that is taken apart. Each takes far more memory than text.
const ANSWER_VALUES_MAX: usize = 500_000;

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

    /// Every tool as `tools/list` shows it, those of servers under their names here, which are started for it.
    pub async fn all(&self, time_max: Duration) -> Listed<Value> {
        let Listed { tools, unavailable, starting } =
            listed_tools(&self.upstreams, &self.upstreams.names(), time_max).await;
        let named = tools.into_iter().filter_map(|(server, tool)| named(&server, tool));
        Listed { tools: self.tools().map(Tool::to_json).chain(named).collect(), unavailable, starting }
    }

    /// One tool, as `tools/list` shows it.
    pub async fn describe(&self, name: &str) -> Result<Value, ToolError> {
        let Some((server, _)) = self.of_upstream(name) else { return Ok(self.get(name)?.to_json()) };
        let list = self.upstreams.tools(server).await.map_err(|error| failed(name, error))?;
        let tools: Vec<Value> = values(&list).filter_map(|tool| named(server, tool)).collect();
        let names = || tools.iter().filter_map(|tool| tool["name"].as_str());
        let nearest = || suggest(name, names()).and(skep_tools::schema::nearest_name(name, names())).map(str::to_owned);
        let unknown = || ToolError::Unknown { name: shorten(name, super::NAME_CHARS_SHOWN), nearest: nearest() };
        tools.iter().find(|tool| tool["name"] == name).cloned().ok_or_else(unknown)
    }

    /// Call a tool of a server as one of the catalogue.
    pub(super) async fn call_upstream(&self, call: Call, context: &Context) -> Result<Answer, ToolError> {
        let Some((server, tool)) = self.of_upstream(&call.tool) else {
            return Err(self.unknown(&call.tool));
        };
        let value = call_tool(&self.upstreams, server, tool, call.arguments, call.deadline, context).await?;
        Ok(Answer { value, cached: false })
    }

    /// Call a tool for a caller that hands the answer on as text. One of a server's is not taken apart, where that need not be.
    pub(crate) async fn call_for_text(&self, call: Call, context: Context) -> Result<Said, ToolError> {
        let Some((server, tool)) = self.of_upstream(&call.tool) else {
            return self.call(call, context).await.map(Said::Values);
        };
        let result = result(&self.upstreams, server, tool, call.arguments, call.deadline, &context).await?;
        match PassedOn::new(result) {
            Ok(answer) => Ok(Said::Text(answer)),
            Err(result) => {
                let value = take_apart(&call.tool, &result, &context).await?;
                Ok(Said::Values(Answer { value, cached: false }))
            }
        }
    }
}

/// What a tool answered.
pub(crate) enum Said {
    /// As values.
    Values(Answer),
    /// As the text of these values.
    Text(PassedOn),
}

/// Call a tool of a server, and take its result apart.
pub(crate) async fn call_tool(
    upstreams: &Upstreams,
    server: &str,
    tool: &str,
    arguments: Value,
    deadline: Option<Duration>,
    context: &Context,
) -> Result<Map<String, Value>, ToolError> {
    let result = result(upstreams, server, tool, arguments, deadline, context).await?;
    take_apart(&format!("{server}{SEPARATOR}{tool}"), &result, context).await
}

/// Call a tool of a server.
async fn result(
    upstreams: &Upstreams,
    server: &str,
    tool: &str,
    arguments: Value,
    deadline: Option<Duration>,
    context: &Context,
) -> Result<Box<RawValue>, ToolError> {
    let name = format!("{server}{SEPARATOR}{tool}");
    let server = upstreams.server(server).map_err(|error| failed(&name, error))?;
    let mut options = server.call_options();
    if let Some(deadline) = deadline {
        options.deadline = deadline.min(DEADLINE_MAX);
        options.timeout = options.timeout.max(options.deadline);
    }
    options.handler = Some(Arc::new(Silent { principal: Arc::clone(context.principal()), room: context.room.clone() }));
    let params = Members::of(&json!({ "name": tool, "arguments": arguments }));
    let options = Options { caller: Arc::clone(context.queue()), call: Some(options) };
    let calling = server.call("tools/call", params, options);
    let result = context.cancel.run_until_cancelled(calling).await.ok_or(ToolError::Cancelled)?;
    Ok(result.map_err(|error| failed(&name, error))?.result)
}

/// What the result of a tool says. A large one waits for its turn.
async fn take_apart(name: &str, result: &RawValue, context: &Context) -> Result<Map<String, Value>, ToolError> {
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

/// What servers list, as far as they have.
pub struct Listed<T> {
    /// Their tools.
    pub tools: Vec<T>,
    /// Why the tools of some servers are missing.
    pub unavailable: Vec<String>,
    /// The servers whose tools are missing only for now: they have not listed them yet.
    pub starting: Vec<String>,
}

/// The tools of these servers, each as its server wrote it. Starts the servers; one that has not listed its tools within this
/// time goes on starting, and holds nobody up.
pub(crate) async fn listed_tools(
    upstreams: &Upstreams,
    servers: &[String],
    time_max: Duration,
) -> Listed<(String, Value)> {
    let mut all = Listed { tools: Vec::new(), unavailable: Vec::new(), starting: Vec::new() };
    let listing = servers.iter().map(|server| upstreams.tools_within(server, time_max));
    for (server, listed) in servers.iter().zip(join_all(listing).await) {
        match listed {
            Ok(list) => all.tools.extend(values(&list).map(|tool| (server.clone(), tool))),
            Err(UpstreamError::Unlisted { .. }) => all.starting.push(server.clone()),
            Err(error) => all.unavailable.push(error.to_string()),
        }
    }
    all
}

/// What is listed, taken apart.
fn values(list: &List) -> impl Iterator<Item = Value> {
    list.items().filter_map(|(_, item)| serde_json::to_value(item).ok())
}

/// A tool under its name here; all else as the server wrote it. `None` if that name is too long to be shown anywhere.
fn named(server: &str, mut tool: Value) -> Option<Value> {
    tool["name"] = prefixed(server, tool["name"].as_str()?)?.into();
    Some(tool)
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

/// Why a server gave no result, in the catalogue's words.
fn failed(tool: &str, error: UpstreamError) -> ToolError {
    match error {
        UpstreamError::Denied { .. } | UpstreamError::Shared { .. } => ToolError::Denied(error.to_string()),
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
