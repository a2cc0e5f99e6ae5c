//! What the HTTP API outside MCP answers, as types: the server writes them, and the client reads what it needs of them.
//!
//! Answers of tools are not here, since each tool has a type of its own ([`skep_tools::tool::BuiltIn::Answer`]); nor are
//! refusals, which are problems ([`crate::problem`]).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `GET /`, for a program.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Index<'a> {
    /// `skep`.
    pub name: &'a str,
    /// The program's version.
    pub version: &'a str,
    /// The address at which the hub was called.
    pub url: &'a str,
    /// Where MCP clients connect.
    pub mcp: String,
    /// How many tools of its own it has.
    pub own_tools: usize,
    /// The names of the MCP servers behind it.
    pub servers: Vec<&'a str>,
    /// The paths that it answers.
    pub paths: Vec<&'a str>,
}

/// `GET /problems/{code}`: a kind of problem.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProblemKind<'a> {
    /// What problems of this kind have as their `type`.
    #[serde(rename = "type")]
    pub type_reference: String,
    /// The last part of it.
    pub code: &'a str,
    /// The kind in a few words.
    pub title: &'a str,
    /// The status of a response that tells of one.
    pub status: u16,
}

/// `PUT /api/v1/workspaces/{task_id}/files/{path}`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FileWritten {
    /// Where it is in the workspace.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Its newest revision, which is its entity tag, too.
    pub revision: u64,
    /// SHA-256 of it.
    pub sha256: String,
    /// It was so already, and there is no new revision.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
    /// The text was merged with this revision, so the file is not what was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged_with: Option<u64>,
}

/// `GET /tools`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Tools {
    /// Each as `tools/list` of MCP shows it.
    pub tools: Vec<Value>,
    /// Why the tools of some servers are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unavailable: Vec<String>,
    /// The servers that have not listed their tools yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub starting: Vec<String>,
}

/// `GET /servers`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Servers {
    /// The MCP servers behind the hub.
    pub servers: Vec<Server>,
}

/// `GET /servers/{name}`. What tells of its processes is left out for callers that are not the operator.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// How it is doing: `running`, `stopped`, `starting`, `needs_login`, `waiting`, `quarantined` or `disabled`.
    pub state: &'static str,
    /// Seconds until it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<f64>,
    /// Its processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Vec<u32>>,
    /// Calls that it is working on.
    pub calls_running: usize,
    /// Calls that wait for their turn.
    pub calls_waiting: usize,
    /// How often it was started.
    pub starts: u64,
    /// The revision of MCP that it speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<&'static str>,
    /// What it calls itself (`serverInfo` of MCP).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Value>,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The last lines of its standard error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stderr: Vec<String>,
}

/// A change that was made: `{"status": "ok"}`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Done {
    status: DoneStatus,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum DoneStatus {
    Ok,
}

/// The answer to every change that was made.
pub const DONE: Done = Done { status: DoneStatus::Ok };

/// `GET /calls`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Calls {
    /// The oldest first.
    pub calls: Vec<Call>,
    /// The number of the hub's last call.
    pub last: u64,
}

/// A call that has ended.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Call {
    /// Calls are counted from 1 at each start of the hub.
    pub number: u64,
    /// When it ended (RFC 3339).
    pub at: String,
    /// Who called.
    pub principal: String,
    /// Which tool.
    pub tool: String,
    /// `ok`, `cached`, or the code of an error.
    pub outcome: &'static str,
    /// How long it took.
    pub duration_ms: f64,
}

/// `GET /health`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The worst of what was found.
    pub status: HealthStatus,
    /// The program's version.
    #[serde(default)]
    pub version: String,
    /// Seconds since it was started.
    #[serde(default)]
    pub uptime_s: u64,
    /// Calls that run.
    #[serde(default)]
    pub calls_running: usize,
    /// Calls that wait for their turn.
    #[serde(default)]
    pub calls_waiting: usize,
    /// Calls that may run at once.
    #[serde(default)]
    pub calls_at_once: usize,
    /// Calls of MCP servers that are under way.
    #[serde(default)]
    pub calls_forwarded: usize,
    /// The alerts that the hub has raised about itself.
    #[serde(default)]
    pub alerts: Vec<Alert>,
    /// What was found of each thing that the hub needs.
    #[serde(flatten)]
    pub checks: Map<String, Value>,
}

/// An alert that is raised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Alert {
    /// `error_rate`, `latency_p95`, `redis_memory` or `sync_lag`.
    pub code: String,
    /// What was measured last: a ratio, or seconds.
    pub value: f64,
    /// What it exceeded, so that the alert was raised.
    pub threshold: f64,
    /// Since when, in RFC 3339.
    pub since: String,
}

/// How well a hub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// All is well.
    Healthy,
    /// Some tools will not work.
    Degraded,
    /// Nothing can be relied on.
    Unhealthy,
    /// It is stopping and takes no new calls.
    Draining,
}

/// `GET /health/live`: the process runs, so there is no need to restart it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Liveness {
    /// Always `live`.
    pub status: &'static str,
}

/// `GET /health/ready`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Readiness {
    /// `ready`, or `draining` or `unhealthy` with status 503.
    pub status: &'static str,
}

/// Something that happened: an event of `GET /api/v1/events` and of `/ws`, and a line of `skep logs --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Event<'a> {
    /// Its place in the log of its namespace: 1, 2, 3, …
    pub number: i64,
    /// When it happened, in RFC 3339.
    pub at: String,
    /// Who caused it; null if that is not known.
    pub actor: Option<EventActor<'a>>,
    /// What happened, such as `memory.stored`.
    pub kind: &'a str,
    /// In which run.
    pub run: Option<&'a str>,
    /// To which task of the run.
    pub task: Option<&'a str>,
    /// More, which depends on the kind.
    #[schemars(with = "Value")]
    pub data: skep_core::Json,
}

/// Who caused an event.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventActor<'a> {
    /// Who called.
    pub principal: &'a str,
    /// Which of its agents.
    pub agent: Option<&'a str>,
    /// In whose name.
    pub on_behalf_of: Option<&'a str>,
}

/// `GET /api/v1/events`, for callers that do not accept an event stream.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Events<'a> {
    /// The events, the oldest first.
    pub events: Vec<Event<'a>>,
    /// Everything up to this number was looked at: the `after` of the next request.
    pub next: i64,
    /// Events after the number that was asked for have been deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
}

/// The log does not go back as far as a reader wanted: read the current state, and go on from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reset {
    /// The number of the first event that is kept.
    pub first: i64,
    /// The number of the last event.
    pub last: i64,
}
