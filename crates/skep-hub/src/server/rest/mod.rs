//! What agents share, as resources of HTTP: `/api/v1/workspaces/{task_id}/…`, and what the team has outside of workspaces at
//! `/api/v1/…`.
//!
//! A request is a call of a tool: its path, query, headers and body are the tool's arguments (`arguments`), and the answer is the
//! tool's. So the rules are the tool's, and its schemas describe the request and the answer ([`OPERATIONS`]). Only the contents of
//! files go as they are (`files`), in the same turns and with the same rules.

mod arguments;
mod files;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, get, on},
};
use serde_json::{Map, Value};
use skep_core::policy;
use skep_mcp::server::http::Fields;
use skep_tools::error::ToolError;

use self::arguments::Arguments;
use super::{
    http::{Caller, Shared, counted_response},
    problem::{Kind, Problem},
};
use crate::hub::calls::{Called, Form, Payload, Request as Call};

/// Where workspaces are. The name in the path is that of the tools' argument.
const WORKSPACE: &str = "/api/v1/workspaces/{task_id}";
/// Where the team's own is; `task_id` may be in the query or the body.
const TEAM: &str = "/api/v1";

/// What a request does.
struct Operation {
    method: MethodFilter,
    /// Below the workspace, or the team. Names in braces are arguments of the tool.
    path: &'static str,
    /// The tool that it calls.
    tool: &'static str,
    /// Whether a team has it outside of workspaces.
    is_of_team: bool,
    /// Whether workspaces have it.
    is_of_workspace: bool,
}

impl Operation {
    const fn new(method: MethodFilter, path: &'static str, tool: &'static str) -> Operation {
        Operation { method, path, tool, is_of_team: true, is_of_workspace: true }
    }

    const fn of_workspace(self) -> Operation {
        Operation { is_of_team: false, ..self }
    }

    const fn of_team(self) -> Operation {
        Operation { is_of_workspace: false, ..self }
    }

    /// Whether its body has arguments.
    fn takes_body(&self) -> bool {
        self.method != MethodFilter::GET && self.method != MethodFilter::DELETE
    }
}

/// All of them, but for the contents of files.
static OPERATIONS: [Operation; 28] = [
    Operation::new(MethodFilter::GET, "/files", "list_files").of_workspace(),
    Operation::new(MethodFilter::DELETE, "/files/{*path}", "file_delete").of_workspace(),
    Operation::new(MethodFilter::GET, "/history/{*path}", "file_history").of_workspace(),
    Operation::new(MethodFilter::GET, "/claims", "list_claims"),
    Operation::new(MethodFilter::POST, "/claims", "claim_file"),
    Operation::new(MethodFilter::PATCH, "/claims/{token}", "renew_claim"),
    Operation::new(MethodFilter::DELETE, "/claims/{token}", "release_file"),
    Operation::new(MethodFilter::GET, "/steps", "read_logs"),
    Operation::new(MethodFilter::POST, "/steps", "log_step"),
    Operation::new(MethodFilter::GET, "/members", "list_members"),
    Operation::new(MethodFilter::PUT, "/members/{agent_id}", "join_collab"),
    Operation::new(MethodFilter::DELETE, "/members/{agent_id}", "leave_collab"),
    Operation::new(MethodFilter::GET, "/messages", "read_messages"),
    Operation::new(MethodFilter::POST, "/messages", "send_message"),
    Operation::new(MethodFilter::POST, "/messages/ack", "ack_messages"),
    Operation::new(MethodFilter::GET, "/memory/{*key}", "memory_retrieve"),
    Operation::new(MethodFilter::PUT, "/memory/{*key}", "memory_store"),
    Operation::new(MethodFilter::DELETE, "/memory/{*key}", "memory_delete"),
    Operation::new(MethodFilter::POST, "/projects", "project_submit").of_team(),
    Operation::new(MethodFilter::GET, "/tasks", "task_list").of_team(),
    Operation::new(MethodFilter::POST, "/tasks", "task_submit").of_team(),
    Operation::new(MethodFilter::GET, "/tasks/{task_id}", "task_get").of_team(),
    Operation::new(MethodFilter::POST, "/tasks/{task_id}/cancel", "task_cancel").of_team(),
    Operation::new(MethodFilter::POST, "/tasks/{task_id}/retry", "task_retry").of_team(),
    Operation::new(MethodFilter::POST, "/tasks/{task_id}/progress", "task_progress").of_team(),
    Operation::new(MethodFilter::POST, "/tasks/{task_id}/finish", "task_finish").of_team(),
    Operation::new(MethodFilter::POST, "/tasks/{task_id}/release", "task_release").of_team(),
    Operation::new(MethodFilter::POST, "/queues/{queue}/next", "task_next").of_team(),
];
/// The entries of a memory by key, and those that a query (`q`) finds.
static MEMORY: Operation = Operation::new(MethodFilter::GET, "/memory", "memory_list");
static MEMORY_FOUND: Operation = Operation::new(MethodFilter::GET, "/memory", "memory_search");
/// A file as JSON, or some lines of it.
static FILE: Operation = Operation::new(MethodFilter::GET, "/files/{*path}", "file_read").of_workspace();

pub(super) fn router() -> Router<Arc<Shared>> {
    let mut router = Router::new();
    for operation in &OPERATIONS {
        let handler = move |State(hub): State<Arc<Shared>>, caller: Caller, request: Request| async move {
            run(operation, &hub, &caller, request).await
        };
        for place in places(operation) {
            router = router.route(&format!("{place}{}", operation.path), on(operation.method, handler));
        }
    }
    for place in places(&MEMORY) {
        router = router.route(&format!("{place}{}", MEMORY.path), get(memory));
    }
    router.route(&format!("{WORKSPACE}{}", FILE.path), get(files::read).put(files::write))
}

fn places(operation: &Operation) -> impl Iterator<Item = &'static str> + use<> {
    let workspace = operation.is_of_workspace.then_some(WORKSPACE);
    workspace.into_iter().chain(operation.is_of_team.then_some(TEAM))
}

async fn memory(State(hub): State<Arc<Shared>>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let operation = if arguments::has_query(request.uri(), "q") { &MEMORY_FOUND } else { &MEMORY };
    run(operation, &hub, &caller, request).await
}

/// Call the tool of an operation.
async fn run(
    operation: &'static Operation,
    hub: &Shared,
    caller: &Caller,
    request: Request,
) -> Result<Response, Problem> {
    let permit = hub.calls.authorise::<policy::Call>(&caller.0, Some(operation.tool))?;
    let (mut parts, body) = request.into_parts();
    let arguments = Arguments::of(hub, operation.tool, &mut parts).await?;
    let condition = arguments.condition();
    let body = if operation.takes_body() { body } else { Body::empty() };
    let whole = hub.bodies.read(&caller.0.principal, &parts.headers, body).await?;
    let payload = Payload::Text(arguments.with_body(whole)?);
    let call = Call { tool: operation.tool.to_owned(), arguments: payload, deadline: None, form: Form::Values };
    let Called { result, room } = hub.calls.call(permit, None, call).await?;
    let answer = match result.and_then(|said| said.into_answer()) {
        Ok(answer) => answer.value,
        Err(error) => return Err(refused(error, condition.is_some())),
    };
    if operation.method == MethodFilter::GET && answer.get("found") == Some(&Value::Bool(false)) {
        return Err(Problem::new(Kind::NotFound, "there is nothing of this name; GET the list shows what there is"));
    }
    let tag = revision(&answer).map(entity_tag);
    if tag.is_some() && operation.method == MethodFilter::GET && is_known(&parts.headers, tag.as_ref()) {
        return Ok(not_modified(tag));
    }
    let mut response = counted_response(StatusCode::OK, Value::Object(answer), &room)?;
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    Ok(response)
}

/// Why a tool did nothing. A conflict with the revision that a condition named is a failed condition (RFC 9110, 13.1).
fn refused(error: ToolError, is_conditional: bool) -> Problem {
    let is_failed_condition = match &error {
        ToolError::Conflict { detail, .. } => detail.get("reason").is_none_or(|reason| reason == "revision"),
        _ => false,
    };
    let mut problem = Problem::from(error);
    if is_failed_condition && is_conditional {
        problem.kind = Kind::PreconditionFailed;
    }
    problem
}

/// The revision that an answer is about.
fn revision(answer: &Map<String, Value>) -> Option<u64> {
    let entry = || answer.get("entry")?.get("revision");
    answer.get("revision").or_else(entry)?.as_u64()
}

/// The entity tag of a revision: its number.
fn entity_tag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).unwrap_or_else(|_| HeaderValue::from(revision))
}

/// Whether the caller has this already (`If-None-Match`).
fn is_known(headers: &HeaderMap, tag: Option<&HeaderValue>) -> bool {
    let Some((known, tag)) = Fields::from(headers).text("if-none-match").zip(tag.and_then(|tag| tag.to_str().ok()))
    else {
        return false;
    };
    known.trim() == "*" || known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag)
}

fn not_modified(tag: Option<HeaderValue>) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    response
}

#[cfg(test)]
mod tests {
    use skep_tools::{parts::Parts, sandboxed::SandboxOnDemand};

    use super::*;

    #[test]
    fn every_operation_is_a_tools_and_names_arguments_that_it_has() {
        let tools = skep_builtin::all(Parts::new(SandboxOnDemand::new(Default::default())));
        for operation in OPERATIONS.iter().chain([&MEMORY, &MEMORY_FOUND, &FILE]) {
            let tool = tools.iter().find(|tool| tool.name == operation.tool).unwrap();
            let known = &tool.input_schema()["properties"];
            let workspace = operation.is_of_workspace.then_some("task_id}");
            for named in operation.path.split('{').skip(1).chain(workspace) {
                let name = named.split('}').next().unwrap().trim_start_matches('*');
                assert!(known.get(name).is_some(), "{} has no {name}", operation.tool);
            }
        }
    }
}
