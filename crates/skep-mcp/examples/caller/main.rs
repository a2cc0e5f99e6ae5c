//! A caller that tries whatever a server has, by way of the program `skep`: so the official conformance suite sees how
//! the gateway's client behaves.
//!
//! `caller SKEP REVISION URL` starts the program SKEP with the server at URL behind it, speaks REVISION with it, lists
//! everything, calls every tool, gets every prompt and reads every resource, all at once. Questions are answered with what
//! they suggest. It fails if anything does.
//!
//! From the suite it takes what it cannot make up: the arguments of calls, and what an authorization server knows the client by
//! (`MCP_CONFORMANCE_CONTEXT`). Where a login is wanted, it logs in as a user would.

mod answers;
mod hub;
mod user;

use std::{env, error::Error, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, try_join_all};
use reqwest::Url;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use skep_mcp::{
    client::{CallError, CallOptions, Connection, Handler, Limits, Setup, Target},
    message::{ErrorObject, Notification, Request},
    revision::Revision,
    server::{Members, code},
};
use tokio::time::sleep;

use self::{hub::Hub, user::User};

/// For everything that one server is asked.
const TIME_MAX: Duration = Duration::from_secs(25);
/// For so long a hub does not ask a server for a list that it has just failed to give.
const FAILED_TIME: Duration = Duration::from_millis(2200);
/// Questions that a server may put before it answers a call.
const ROUNDS_MAX: usize = 10;
/// The scenario whose server lists a tool that it cannot run.
const ONLY_LISTS: &str = "json-schema-ref-no-deref";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [skep, revision, server] = &arguments[..] else { return Err("caller SKEP REVISION URL".into()) };
    // Not only the hub's state is in it, so it has to be closed to others.
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let home = tempfile::Builder::new().permissions(closed).tempdir()?;
    let hub = Hub::start(skep, &user::server(server, &context()?, home.path())?, home.path()).await?;
    let user = User::new(skep, &hub, home.path());
    let tried = tokio::time::timeout(TIME_MAX, visit(&user, &hub.url, revision.parse()?)).await;
    hub.stop().await?;
    tried?
}

/// What the suite says of the scenario.
fn context() -> Result<Value, serde_json::Error> {
    env::var("MCP_CONFORMANCE_CONTEXT").map_or(Ok(Value::Null), |context| serde_json::from_str(&context))
}

async fn visit(user: &User<'_>, url: &str, revision: Revision) -> Result<(), Box<dyn Error>> {
    let caller = Caller::connect(url, revision).await?;
    let mut tools = caller.list("tools").await?;
    while tools.is_empty() && user.is_wanted().await? {
        user.log_in(user.logins()).await?;
        sleep(FAILED_TIME).await;
        tools = caller.list("tools").await?;
    }
    // What the server does not have, the hub lists as nothing.
    let (prompts, resources) = (caller.list("prompts").await?, caller.list("resources").await?);
    if env::var("MCP_CONFORMANCE_SCENARIO").is_ok_and(|scenario| scenario == ONLY_LISTS) {
        caller.close().await;
        return Ok(());
    }
    let calls = calls(&tools)?.into_iter().map(|params| ("tools/call", params));
    let prompts = prompts.iter().map(|prompt| ("prompts/get", json!({ "name": prompt["name"] })));
    let resources = resources.iter().map(|resource| ("resources/read", json!({ "uri": resource["uri"] })));
    let all = calls.chain(prompts).chain(resources);
    try_join_all(all.map(|(method, params)| caller.ask_as(user, method, params))).await?;
    caller.close().await;
    Ok(())
}

/// The calls that the suite wants, or else one of each tool.
fn calls(tools: &[Value]) -> Result<Vec<Value>, serde_json::Error> {
    if let Some(calls) = context()?["toolCalls"].as_array() {
        return Ok(calls.clone());
    }
    let call = |tool: &Value| json!({ "name": tool["name"], "arguments": answers::arguments(tool, tools) });
    Ok(tools.iter().map(call).collect())
}

struct Caller(Connection);

impl Caller {
    async fn connect(url: &str, revision: Revision) -> Result<Caller, Box<dyn Error>> {
        let target = Target {
            url: Url::parse(url)?,
            headers: Default::default(),
            client: reqwest::Client::new(),
            authorization: None,
            is_sse: false,
            is_direct: true,
        };
        let setup = Setup {
            info: json!({ "name": "caller", "version": env!("CARGO_PKG_VERSION") }),
            capabilities: json!({ "elicitation": {} }),
            handler: Arc::new(Answering),
            limits: Limits::default(),
            revision: Some(revision).filter(|revision| !revision.is_modern()),
        };
        let connection = Connection::over_http(target, setup).await?;
        let spoken = connection.info().revision;
        if spoken == revision { Ok(Caller(connection)) } else { Err(format!("skep speaks {}", spoken.as_str()).into()) }
    }

    /// All pages of a list.
    async fn list(&self, kind: &str) -> Result<Vec<Value>, CallError> {
        let (mut items, mut params) = (Vec::new(), json!({}));
        loop {
            let page = self.ask(&format!("{kind}/list"), params).await?;
            items.extend(page[kind].as_array().cloned().unwrap_or_default());
            let Some(next) = page.get("nextCursor") else { return Ok(items) };
            params = json!({ "cursor": next });
        }
    }

    /// Ask, and log in if that is what is missing.
    async fn ask_as(&self, user: &User<'_>, method: &str, params: Value) -> Result<Value, Box<dyn Error>> {
        loop {
            let logins = user.logins();
            match self.ask(method, params.clone()).await {
                Err(CallError::Rpc(error)) if error.message.contains("skep servers login") => {
                    user.log_in(logins).await?
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// Ask, and answer what the server of 2026-07-28 asks back.
    async fn ask(&self, method: &str, params: Value) -> Result<Value, CallError> {
        let mut again = params.clone();
        for _ in 0..ROUNDS_MAX {
            let result = self.0.call(method, Members::of(&again), CallOptions::default()).await?;
            let result: Value =
                serde_json::from_str(result.get()).map_err(|error| CallError::Protocol(error.to_string()))?;
            if result["isError"] == true {
                return Err(CallError::Protocol(format!("{method} {params} failed: {result}")));
            }
            if result["resultType"] != "input_required" {
                return Ok(result);
            }
            again = params.clone();
            again["inputResponses"] = answers::responses(&result["inputRequests"]);
            if let Some(state) = result.get("requestState") {
                again["requestState"] = state.clone();
            }
        }
        Err(CallError::Protocol(format!("{method} wants input without end")))
    }

    async fn close(self) {
        self.0.close("everything was tried").await;
    }
}

/// Answers what older servers ask.
struct Answering;

impl Handler for Answering {
    fn notification(&self, _: Notification) {}

    fn request(&self, request: Request) -> BoxFuture<'static, Result<Box<RawValue>, ErrorObject>> {
        let Request { method, params, .. } = request;
        Box::pin(async move {
            if method != "elicitation/create" {
                return Err(ErrorObject::new(code::METHOD_NOT_FOUND, method));
            }
            let params = params.map(|params| serde_json::from_str(params.get()).unwrap_or_default());
            let answer = answers::elicited(&params.unwrap_or_default());
            to_raw_value(&answer).map_err(|error| ErrorObject::new(code::INTERNAL_ERROR, error.to_string()))
        })
    }
}
