//! A caller that knows three hubs, calls one of them, and moves to the next when that one is gone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, HUBS},
    notes::End,
};

/// A hub answers within that time, or breaks its word: no wait of its own is longer, but for claims and messages.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Before another hub is asked.
const PAUSE: Duration = Duration::from_millis(50);
/// The error of JSON-RPC that says "not now".
const BUSY: i64 = -31000;

/// What the tool's call is sent by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Interface {
    /// `POST /tools/{tool}`.
    Tools,
    /// `tools/call` at `/mcp`.
    Mcp,
}

/// What a caller knows after a call.
#[derive(Debug)]
pub(crate) enum Answer {
    Done(Value),
    /// What is there did not allow it, so nothing was done.
    Conflict(Value),
    /// The tool failed, and nothing was done.
    Failed(Value),
    /// Nothing was done.
    Unavailable,
    /// It may have been done.
    Unsure,
}

pub(crate) struct Client {
    pub(crate) cluster: Arc<Cluster>,
    /// In whose name it calls.
    agent: Option<String>,
    token: String,
    interface: Interface,
    /// Which hub it calls now.
    pub(crate) hub: usize,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(cluster: &Arc<Cluster>, agent: Option<String>, token: &str, interface: Interface) -> Client {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIME_MAX).build().unwrap();
        Client { cluster: Arc::clone(cluster), agent, token: token.to_owned(), interface, hub: 0, http }
    }

    /// Call a tool at the hub whose turn it is, once.
    pub(crate) async fn call(&mut self, tool: &'static str, mut arguments: Value) -> Answer {
        if let Some(agent) = &self.agent {
            arguments["agent_id"] = agent.clone().into();
        }
        let (began, hub) = (Instant::now(), self.hub);
        let answer = match self.cluster.hubs[hub].url() {
            None => Answer::Unavailable,
            Some(url) => match self.interface {
                Interface::Tools => self.post_tool(&url, tool, &arguments).await,
                Interface::Mcp => self.post_mcp(&url, tool, &arguments).await,
            },
        };
        let end = match &answer {
            Answer::Done(_) => End::Acknowledged,
            Answer::Conflict(_) | Answer::Failed(_) => End::Conflict,
            Answer::Unavailable => End::Unavailable,
            Answer::Unsure => End::Unsure,
        };
        self.cluster.notes.called(tool, hub, end, began.elapsed());
        if matches!(end, End::Unavailable | End::Unsure) {
            self.move_on();
            sleep(PAUSE).await;
        }
        answer
    }

    /// What there is at an address.
    pub(crate) async fn get(&self, url: &str) -> Value {
        let response = self.http.get(url).bearer_auth(&self.token).send().await.unwrap();
        assert_eq!(response.status(), 200, "{url}");
        response.json().await.unwrap()
    }

    /// Call the next hub from now on.
    pub(crate) fn move_on(&mut self) {
        self.hub = (self.hub + 1) % HUBS;
    }

    async fn post_tool(&self, url: &str, tool: &str, arguments: &Value) -> Answer {
        let request = self.http.post(format!("{url}/tools/{tool}")).bearer_auth(&self.token).json(arguments);
        match self.send(request).await {
            Err(answer) => answer,
            Ok((200, _, said)) => Answer::Done(said),
            Ok((409, _, said)) => Answer::Conflict(said),
            Ok((503, has_retry_after, said)) => {
                if !has_retry_after {
                    self.cluster.notes.complain(format!("{tool}: 503 without Retry-After: {said}"));
                }
                Answer::Unavailable
            }
            Ok((status, _, said)) => self.judge_error(tool, &format!("status {status}"), said),
        }
    }

    async fn post_mcp(&self, url: &str, tool: &str, arguments: &Value) -> Answer {
        let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {} });
        let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let request = self.http.post(format!("{url}/mcp")).bearer_auth(&self.token).json(&message);
        let request = request.header("accept", "application/json, text/event-stream");
        let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/call");
        let mut said = match self.send(request.header("mcp-name", tool)).await {
            Err(answer) => return answer,
            Ok((_, _, said)) => said,
        };
        if said["error"]["code"] == BUSY {
            return Answer::Unavailable;
        }
        let text = said["result"]["content"][0]["text"].as_str().and_then(|text| serde_json::from_str(text).ok());
        match (said["result"]["isError"] == true, text) {
            (true, Some(error)) => {
                let error: Value = error;
                if error["code"] == "conflict" {
                    return Answer::Conflict(error);
                }
                self.judge_error(tool, "isError", error)
            }
            (false, Some(_)) => Answer::Done(said["result"]["structuredContent"].take()),
            (_, None) => self.judge_error(tool, "no result", said),
        }
    }

    /// The status, whether it says when to come again, and the body.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(u16, bool, Value), Answer> {
        let response = match request.send().await {
            Ok(response) => response,
            // Nobody listens, so nobody has heard it.
            Err(error) if error.is_connect() => return Err(Answer::Unavailable),
            Err(error) => return Err(self.lost(&error)),
        };
        let (status, has_retry_after) = (response.status().as_u16(), response.headers().contains_key("retry-after"));
        let text = response.text().await.map_err(|error| self.lost(&error))?;
        // An answer over MCP that took a while is the last event of a stream.
        let last_event = text.lines().rev().find_map(|line| line.strip_prefix("data: "));
        match serde_json::from_str(last_event.unwrap_or(&text)) {
            Ok(said) => Ok((status, has_retry_after, said)),
            Err(_) => {
                self.cluster.notes.complain(format!("an answer with status {status} is no JSON: {text:?}"));
                Err(Answer::Unsure)
            }
        }
    }

    fn lost(&self, error: &reqwest::Error) -> Answer {
        if error.is_timeout() {
            self.cluster.notes.complain(format!("no answer of hub {} in {ANSWER_TIME_MAX:?}: {error:?}", self.hub));
        }
        Answer::Unsure
    }

    /// An error that is neither a conflict nor "not now".
    fn judge_error(&self, tool: &str, how: &str, said: Value) -> Answer {
        match said["code"].as_str() {
            Some("failed" | "timed_out") if said["may_have_run"] == true => Answer::Unsure,
            Some("failed") => Answer::Failed(said),
            _ => {
                self.cluster.notes.complain(format!("{tool} at hub {}: {how}: {said}", self.hub));
                Answer::Unsure
            }
        }
    }
}
