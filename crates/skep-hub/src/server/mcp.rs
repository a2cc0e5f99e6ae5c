//! The tools as a server of the Model Context Protocol.
//!
//! The protocol itself is `skep-mcp`'s; here is what it serves, and what the hub adds around its HTTP routes: bodies are
//! read within the limits of all listeners.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use futures_util::future::join_all;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use skep_core::{
    app::App,
    policy::{self, Actor, Permit},
};
use skep_mcp::{
    gateway::{Backend, Gateway, Kind, List, Lists, Origin, Wanted},
    message::ErrorObject,
    revision::Revision,
    server::{
        BoxFuture, Call, Caller, Change, Description, LOCAL, Limits, Members, Outcome, Peer, Server, Service, Share,
        Watch, code, http, http::Identified, lines,
    },
};
use skep_tools::{
    error::ToolError,
    tool::{Answer, Tool},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::broadcast,
};
use tokio_util::sync::CancellationToken;

use super::{
    Options, Parts,
    http::{Shared, identified},
    resources::{self, Resource, Watchers},
    tasks::McpTaskStore,
    upstream_service::UpstreamService,
};
use crate::hub::{
    admission::Refused,
    calls::{self, Called, Calls, Form, NotCalled, Payload, Said, Text},
    principals,
    shares::part,
    upstreams::Upstream,
};

/// Changes that wait for a listener; one that is further behind is told to look at everything again.
const CHANGES_MAX: usize = 256;
/// Milliseconds for which what is listed here may be kept: it does not change while the hub runs.
const LIST_TTL_MS: u32 = 60_000;

const INSTRUCTIONS: &str = "Tools of a hub that agents share. Files are read from the workspace; what is written goes \
                            under outputs/. Commands and code run in a fresh sandbox each time, without a network.";

/// When a call becomes a task, unless the operator says otherwise.
pub(super) fn task_after() -> std::time::Duration {
    Limits::default().task_after
}

/// How many sessions are kept, and for how long, unless the operator says otherwise.
pub(super) fn sessions() -> (usize, std::time::Duration) {
    let limits = Limits::default();
    (limits.sessions_max, limits.session_idle_max)
}

/// What a hub serves over MCP: its own tools, and the servers behind it.
pub(super) struct Mcp {
    pub(super) server: Server,
    gateway: Arc<Gateway>,
    own: Arc<Own>,
    has_prefix: bool,
    lists_tools: bool,
    /// The servers behind the gateway, and how they were configured.
    upstreams: tokio::sync::Mutex<BTreeMap<String, (Upstream, Arc<UpstreamService>)>>,
}

/// Without a prefix, names can be told apart for one server only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("without a prefix there must be exactly one MCP server, and there are {0}; name one, or leave the prefix on")]
pub struct NotOne(pub usize);

impl Mcp {
    /// `app`: what agents share. `tasks`: the right to keep calls there that outlive their request; without it no call
    /// becomes a task.
    pub(super) fn new(
        calls: &Arc<Calls>,
        options: &Options,
        app: Option<App>,
        tasks: Option<Permit>,
    ) -> Result<Mcp, NotOne> {
        let (whole, share) = (Limits::default(), calls.limits.principal_share);
        let limits = Limits {
            message_bytes_max: calls.limits.message_bytes_max,
            body_time_max: options.body_time_max,
            write_time_max: options.write_time_max,
            sessions_max: options.sessions_max,
            session_idle_max: options.session_idle_max,
            task_after: options.task_after,
            suspended_of_one_max: part(whole.suspended_max, share),
            suspended_bytes_of_one_max: part(whole.suspended_bytes_max, share),
            memories: calls.answers.clone(),
            ..whole
        };
        let changes = broadcast::channel(CHANGES_MAX).0;
        let watchers = Watchers::new(changes.clone());
        let kept = app.clone().zip(tasks);
        let own = Arc::new(Own { calls: Arc::clone(calls), app, lists: Lists::default(), changes, watchers });
        let gateway = Arc::new(Gateway::new(own.describe()));
        let service = Arc::clone(&gateway) as Arc<dyn Service>;
        let server = match kept {
            Some((app, permit)) => Server::with_tasks(service, limits, Arc::new(McpTaskStore::new(app, permit))),
            None => Server::new(service, limits),
        };
        let mcp = Mcp {
            server,
            gateway,
            own,
            has_prefix: options.prefix,
            lists_tools: !options.searches_tools,
            upstreams: Default::default(),
        };
        let mut services = BTreeMap::new();
        mcp.put(&mut services, calls.catalogue.upstreams().configs())?;
        mcp.server.keep_tasks(); // not before its tools are there
        Ok(Mcp { upstreams: services.into(), ..mcp })
    }

    /// Have these servers behind the gateway from now on. Those that are as before are left alone; calls of the others may
    /// end.
    pub(super) async fn set(&self, configs: Vec<Upstream>) -> Result<(), NotOne> {
        let mut services = self.upstreams.lock().await;
        self.may_be(configs.len())?;
        let upstreams = self.own.calls.catalogue.upstreams();
        let is_gone = |name: &&String| !configs.iter().any(|config| config.name == **name);
        let removed: Vec<_> = services.keys().filter(is_gone).map(|name| upstreams.remove(name)).collect();
        let added: Vec<_> = configs.iter().map(|config| upstreams.add(config.clone())).collect();
        self.put(&mut services, configs)?;
        drop(services);
        tokio::join!(join_all(removed), join_all(added));
        Ok(())
    }

    fn may_be(&self, servers: usize) -> Result<(), NotOne> {
        if self.has_prefix || servers == 1 { Ok(()) } else { Err(NotOne(servers)) }
    }

    /// Put them behind the gateway: of a server that is as before, its resources stay watched.
    fn put(
        &self,
        services: &mut BTreeMap<String, (Upstream, Arc<UpstreamService>)>,
        configs: Vec<Upstream>,
    ) -> Result<(), NotOne> {
        self.may_be(configs.len())?;
        let mut before = std::mem::take(services);
        for config in configs {
            let kept = before.remove(&config.name).filter(|(known, _)| *known == config);
            let service = match (kept, self.own.calls.catalogue.upstreams().server(&config.name)) {
                (Some((_, service)), _) => service,
                (None, Ok(server)) => Arc::new(UpstreamService::new(&self.own.calls, server)),
                (None, Err(_)) => continue, // it was removed just now
            };
            services.insert(config.name.clone(), (config, service));
        }
        let origin = |(name, (_, service)): (&String, &(Upstream, Arc<UpstreamService>))| {
            let name = if self.has_prefix { name.clone() } else { String::new() };
            let service = Arc::clone(service) as Arc<dyn Backend>;
            Origin { name, service, lists_tools: self.lists_tools }
        };
        let mut origins: Vec<Origin> = services.iter().map(origin).collect();
        if self.has_prefix {
            let service = Arc::clone(&self.own) as Arc<dyn Backend>;
            origins.push(Origin { name: String::new(), service, lists_tools: true });
        }
        self.gateway.set(origins);
        Ok(())
    }
}

/// Serve the tools to one client, on standard input and output for instance, until its input ends or `stop` is cancelled.
pub async fn serve_lines(
    options: Options,
    parts: Parts,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let Parts { calls, store, .. } = parts;
    // It lives as long as its one client, so there is nobody who could ask for a task later.
    let mcp = Mcp::new(&calls, &options, store.map(|(app, _)| app), None).map_err(std::io::Error::other)?;
    let principal = Arc::clone(principals::carried_local());
    let lines = lines::Options { principal, memory: Some(calls.incoming.of(LOCAL)), ..lines::Options::default() };
    let served = stop.run_until_cancelled(lines::serve(&mcp.server, input, output, lines)).await;
    mcp.server.stop().await;
    calls.catalogue.upstreams().close().await;
    calls.admission.drain(std::time::Duration::ZERO).await;
    served.unwrap_or(Ok(()))
}

/// `/mcp`, `/sse` and `/messages`.
pub(super) fn router(hub: &Arc<Shared>) -> Router<Arc<Shared>> {
    let reading = middleware::from_fn_with_state(Arc::clone(hub), read_body);
    http::router(hub.mcp.server.clone()).layer(reading).with_state(())
}

/// Read the body as every listener does; a large one counts as held until it is answered.
async fn read_body(State(hub): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let principal = match identified(&parts.extensions) {
        Ok(Identified(principal)) => Arc::clone(principal),
        Err(problem) => return problem.into_response(),
    };
    match hub.bodies.read(principal.name(), &parts.headers, body).await {
        Ok(whole) => {
            let (bytes, share) = whole.into_parts();
            if let Some(share) = share {
                parts.extensions.insert(Share(Arc::new(share)));
            }
            next.run(Request::from_parts(parts, Body::from(bytes))).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// How callers of the listener for NDJSON see results: `ping` tells the time, and the members of a tool's answer stand beside
/// `content` and `structuredContent` (contract S2).
pub(super) fn finish(method: &str, result: Box<RawValue>) -> Box<RawValue> {
    let finished = match method {
        "ping" => to_raw_value(&json!({ "status": "ok", "timestamp": now_ms() })).ok(),
        "tools/call" => beside(&result),
        _ => None,
    };
    finished.unwrap_or(result)
}

#[expect(clippy::disallowed_methods, reason = "a listener is an edge")]
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

/// What says how a call went: not for the members of an answer to say.
const RESERVED: [&str; 5] = ["content", "structuredContent", "isError", "resultType", "_meta"];

/// Written into one text, as it may be megabytes.
fn beside(result: &RawValue) -> Option<Box<RawValue>> {
    let members = Members::parse(result)?;
    let structured = members.get("structuredContent")?;
    let answer = Members::parse(structured)?;
    let is_new = |name: &str| !RESERVED.contains(&name) && members.get(name).is_none();
    let added = answer.iter().filter(|(name, _)| is_new(name));
    let mut text = String::with_capacity(result.get().len() + structured.get().len());
    for (name, value) in members.iter().chain(added) {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(&serde_json::to_string(name).ok()?);
        text.push(':');
        text.push_str(value.get());
    }
    text.push('}');
    RawValue::from_string(text).ok()
}

/// What the hub itself has, as the protocol sees it: its tools, and what agents share.
struct Own {
    calls: Arc<Calls>,
    /// What agents share, if there is a store.
    app: Option<App>,
    lists: Lists,
    changes: broadcast::Sender<Change>,
    watchers: Arc<Watchers>,
}

impl Service for Own {
    fn describe(&self) -> Description {
        Description {
            info: json!({ "name": "skep", "title": "Skep", "version": env!("CARGO_PKG_VERSION") }),
            capabilities: json!({ "tools": { "listChanged": true }, "resources": { "subscribe": true } }),
            instructions: Some(INSTRUCTIONS.to_owned()),
        }
    }

    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> BoxFuture<Outcome> {
        Box::pin(async move {
            match &*call.method {
                "tools/call" => self.call(call, &peer).await,
                "resources/read" => self.read(&call).await,
                method => may_read(&call.caller).and_then(|_| {
                    Err(ErrorObject::new(code::METHOD_NOT_FOUND, format!("there is no method {method:?}")))
                }),
            }
        })
    }

    fn watch(self: Arc<Self>, uri: String, caller: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async move {
            let permit = may_read(&caller)?;
            let (resource, app) = self.resource(&uri)?;
            self.watchers.watch(resource, uri, app, &permit).await
        })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn may_repeat(&self, tool: &str) -> bool {
        self.calls.catalogue.get(tool).is_ok_and(|tool| tool.annotations.may_repeat())
    }
}

impl Backend for Own {
    fn list(self: Arc<Self>, kind: Kind, caller: Arc<Caller>) -> BoxFuture<Result<Arc<List>, ErrorObject>> {
        Box::pin(async move {
            may_read(&caller)?;
            let mut reading = match self.lists.want(kind).await {
                Wanted::Known(list) => return Ok(list),
                Wanted::Unknown(reading) => reading,
            };
            let mut page = match kind {
                Kind::Tools => json!({ "tools": self.calls.catalogue.tools().map(Tool::to_json).collect::<Value>() }),
                Kind::Templates if self.app.is_some() => json!({ "resourceTemplates": resources::templates() }),
                Kind::Templates | Kind::Prompts | Kind::Resources => return Ok(reading.keep(true)),
            };
            if reading.next_page().is_some() {
                page["ttlMs"] = LIST_TTL_MS.into();
                page["cacheScope"] = "public".into();
                reading.add(&raw(&page)?).map_err(|fault| ErrorObject::new(code::INTERNAL_ERROR, fault))?;
            }
            Ok(reading.keep(true))
        })
    }
}

impl Own {
    async fn read(&self, call: &Call) -> Outcome {
        let permit = may_read(&call.caller)?;
        let uri: String = call.params.read("uri").ok_or_else(|| invalid("params.uri is missing"))?;
        let (resource, app) = self.resource(&uri)?;
        let pass = self.calls.admission.pass(&permit).map_err(refused)?;
        let read = pass.cancel.run_until_cancelled(resource.read(&uri, app, &permit)).await;
        let result = read.ok_or_else(|| refused(Refused::Draining))??;
        raw(&result.ok_or_else(|| no_resource(&uri))?)
    }

    /// What a URI names, and where it is.
    fn resource(&self, uri: &str) -> Result<(Resource, &App), ErrorObject> {
        Resource::parse(uri).zip(self.app.as_ref()).ok_or_else(|| no_resource(uri))
    }

    async fn call(&self, call: Call, peer: &Peer) -> Outcome {
        let Caller { principal, session, .. } = &*call.caller;
        let params = &call.params;
        let tool: Option<String> = params.read("name");
        let permit = self.calls.authorise(&principals::actor_of(principal), tool.as_deref()).map_err(refused)?;
        let tool = tool.ok_or_else(|| invalid("params.name is missing: the name of a tool"))?;
        let json = params.get("arguments").map(ToOwned::to_owned);
        if json.as_deref().is_some_and(|arguments| !arguments.get().starts_with('{')) {
            return Err(invalid("params.arguments must be an object"));
        }
        let arguments = Payload::Text(Text { json, held: None });
        let request = calls::Request { tool, arguments, deadline: None, form: Form::Values };
        let called = self.calls.call(permit, session.clone(), request).await;
        let Called { result, room } = called.map_err(not_called)?;
        // Tools of servers do not come this way, but for one that was added a moment ago.
        let result = result.and_then(Said::into_answer);
        let outcome = match result {
            Ok(answer) => result_of(answer),
            Err(error) => not_done(error),
        };
        if let Some(held) = room.take() {
            peer.keep(held);
        }
        outcome
    }
}

/// Whose turn it is in the queue of a server, and whose process it is where one is not shared.
pub(super) fn queue_of(caller: &Caller, actor: &Actor) -> Arc<str> {
    caller.session.clone().unwrap_or_else(|| Arc::clone(&actor.principal))
}

/// An answer in both forms: structured, and as text for those who read nothing else.
fn result_of(answer: Answer) -> Outcome {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct CallToolResult<'a> {
        content: [TextContent<'a>; 1],
        structured_content: &'a RawValue,
    }
    #[derive(serde::Serialize)]
    struct TextContent<'a> {
        r#type: &'static str,
        text: &'a str,
    }
    let structured = to_raw_value(&answer.value).map_err(not_json)?;
    drop(answer); // it may be megabytes
    let content = [TextContent { r#type: "text", text: structured.get() }];
    to_raw_value(&CallToolResult { content, structured_content: &structured }).map_err(not_json)
}

fn not_json(error: serde_json::Error) -> ErrorObject {
    ErrorObject::new(code::INTERNAL_ERROR, error.to_string())
}

/// A failure for the model to read: what went wrong, and everything that is known about it. What is not the model's to mend is an
/// error of the protocol.
pub(super) fn not_done(error: ToolError) -> Outcome {
    match error {
        ToolError::Unknown { .. } => Err(invalid(error.to_string())),
        ToolError::Busy(message) => Err(busy(message)),
        error => raw(&json!({ "content": [{ "type": "text", "text": error.to_json().to_string() }], "isError": true })),
    }
}

/// Whether a caller may see what there is. This is asked before anything is looked up, so that a refusal does not tell
/// whether it exists.
pub(super) fn may_read(caller: &Caller) -> Result<Permit<policy::Read>, ErrorObject> {
    principals::actor_of(&caller.principal).permit().map_err(|denied| refused(denied.into()))
}

fn no_resource(uri: &str) -> ErrorObject {
    invalid("there is no such resource").with_data(&json!({ "uri": uri }))
}

fn not_called(error: NotCalled) -> ErrorObject {
    match error {
        NotCalled::Refused(error) => refused(error),
        NotCalled::Malformed(_) => invalid(error.to_string()),
    }
}

pub(super) fn refused(refused: Refused) -> ErrorObject {
    match refused {
        Refused::Busy | Refused::OverShare(..) | Refused::Draining => busy(refused.to_string()),
        Refused::Denied(denied) => ErrorObject::new(code::INVALID_REQUEST, denied.to_string()),
        Refused::Panicked => ErrorObject::new(code::INTERNAL_ERROR, refused.to_string()),
    }
}

fn busy(message: String) -> ErrorObject {
    ErrorObject::new(code::BUSY, message)
}

fn invalid(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(code::INVALID_PARAMS, message)
}

fn raw(value: &Value) -> Outcome {
    to_raw_value(value).map_err(not_json)
}

/// The revision of callers that never say which they speak (contract S2).
pub(super) const UNANNOUNCED: Revision = Revision::V2025_06_18;
