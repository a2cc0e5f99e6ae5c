//! What one hub says about itself, for a person who asks it from the command line.

use std::time::Duration;

use reqwest::{Response, StatusCode, Url};
use serde_json::{Map, Value};

use skep_tools::error::ToolError;

use super::{Hubs, innermost, message, object, said};
use crate::problem::Problem;

/// Time for a hub to answer. It may first wait a moment for MCP servers that are starting.
pub(super) const SHOW_TIME_MAX: Duration = Duration::from_secs(30);
/// Time for a hub to take a file.
const PUT_TIME_MAX: Duration = Duration::from_secs(120);
/// Time for a hub to say how it is, which it knows at once or finds out within 2 s.
const STATUS_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a hub showed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShowError {
    /// There is no connection, or it broke.
    #[error("the hub {hub} cannot be reached: {why}")]
    Unreachable {
        /// The hub.
        hub: String,
        /// What went wrong.
        why: String,
    },
    /// It was reached, and there is no answer in time.
    #[error("the hub {hub} does not answer within {} s", .time_max.as_secs())]
    Slow {
        /// The hub.
        hub: String,
        /// How long it had for its answer.
        time_max: Duration,
    },
    /// It ends what it has begun and begins nothing more.
    #[error("the hub {hub} is stopping")]
    Stopping {
        /// The hub.
        hub: String,
    },
    /// It does not want to.
    #[error("the hub {hub} refuses ({status}): {why}{}", if matches!(.status, 401 | 403) { "; SKEP_TOKEN or token_file says the token" } else { "" })]
    Refused {
        /// The hub.
        hub: String,
        /// Its status.
        status: u16,
        /// What it says.
        why: String,
    },
    /// Something else answers there.
    #[error("{hub} is not a hub: it answered with {status}")]
    NotAHub {
        /// What was taken for a hub.
        hub: String,
        /// The status of its answer.
        status: String,
    },
}

impl Hubs {
    /// What the first hub shows at a path, whose segments these are: `["tools", "bash"]`.
    pub async fn show(&self, path: &[&str]) -> Result<Map<String, Value>, ShowError> {
        self.get(path, &[], SHOW_TIME_MAX).await
    }

    /// How the first hub is. One that is not well says so, too, which is no error here.
    pub async fn show_health(&self) -> Result<Map<String, Value>, ShowError> {
        self.get(&["health"], &[], STATUS_TIME_MAX).await
    }

    /// The calls of the first hub after the one of this number. If there are none, it is asked to wait that long for one.
    pub async fn show_calls(&self, after: u64, wait: Duration) -> Result<Map<String, Value>, ShowError> {
        let query = [("after", after.to_string()), ("wait", wait.as_secs().to_string())];
        self.get(&["calls"], &query, wait + SHOW_TIME_MAX).await
    }

    /// Write a file of a task's workspace at the first hub: as it is, so it may be as large as a file may be.
    pub async fn put_file(
        &self,
        task: &str,
        path: &str,
        query: &[(&str, String)],
        contents: Vec<u8>,
    ) -> Result<Result<Map<String, Value>, ToolError>, ShowError> {
        let hub = &self.hubs[0]; // there is one
        let name = || hub.name.clone();
        let segments: Vec<&str> =
            ["api", "v1", "workspaces", task, "files"].into_iter().chain(path.split('/')).collect();
        let request = self.with_token(hub.client.put(self.url(&segments, query))).timeout(PUT_TIME_MAX).body(contents);
        let unreachable = |error: reqwest::Error| match error.is_timeout() && !error.is_connect() {
            true => ShowError::Slow { hub: name(), time_max: PUT_TIME_MAX },
            false => ShowError::Unreachable { hub: name(), why: innermost(&error) },
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let answer = object(response).await.map_err(unreachable)?;
        if let Some(answer) = answer.clone().filter(|_| status.is_success()) {
            return Ok(Ok(answer));
        }
        let problem = answer.clone().and_then(|answer| Problem::from_json(answer.into()));
        match problem.map(|problem| problem.into_tool_error("file_write")) {
            Some(Ok(error)) if !matches!(error, ToolError::Busy(_)) => Ok(Err(error)),
            _ => Err(refused(name(), status, answer)),
        }
    }

    /// The address of a path at the first hub.
    pub(super) fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.hubs[0].health.clone(); // there is one
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    pub(super) async fn get(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        time_max: Duration,
    ) -> Result<Map<String, Value>, ShowError> {
        let hub = &self.hubs[0]; // there is one
        let name = hub.name.clone();
        let request = self.with_token(hub.client.get(self.url(path, query))).timeout(time_max);
        let unreachable = |error: reqwest::Error| match error.is_timeout() && !error.is_connect() {
            true => ShowError::Slow { hub: name.clone(), time_max },
            false => ShowError::Unreachable { hub: name.clone(), why: innermost(&error) },
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        match object(response).await.map_err(unreachable)? {
            Some(answer) if status.is_success() || is_health(&answer) => Ok(answer),
            answer => Err(refused(name, status, answer)),
        }
    }

    /// What a response says that is not what was asked for.
    pub(super) async fn refusal(&self, hub: String, response: Response) -> ShowError {
        let status = response.status();
        refused(hub, status, object(response).await.ok().flatten())
    }
}

fn refused(hub: String, status: StatusCode, answer: Option<Map<String, Value>>) -> ShowError {
    match answer {
        Some(answer) if answer.get("code").is_some_and(|code| code == "draining") => ShowError::Stopping { hub },
        Some(answer) if said(&answer).is_some() => {
            ShowError::Refused { hub, status: status.as_u16(), why: message(&answer) }
        }
        _ => ShowError::NotAHub { hub, status: status.to_string() },
    }
}

/// Whether this is what a hub says of itself; one that is stopping or not well answers with a status of 503.
fn is_health(answer: &Map<String, Value>) -> bool {
    matches!(answer.get("status").and_then(Value::as_str), Some("draining" | "unhealthy"))
}
