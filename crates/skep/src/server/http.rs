//! The HTTP API. [`router`] is its table of contents.

use std::{
    collections::VecDeque,
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicUsize},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{
        FromRequestParts, MatchedPath, Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper::body::{Frame, SizeHint};
use serde_json::{Map, Value, json};
use skep_mcp::{
    framing,
    gateway::LIST_TIME_MAX,
    server::{
        http::{Fields, Principal, Reply},
        local,
    },
};
use skep_tools::{
    error::ToolError,
    room::{self, Room},
};
use tracing::Instrument as _;

use super::{
    body::{self, Arguments, Bodies},
    call_log,
    calls::{By, Called, Calls},
    cors,
    guard::{Admits, Guard},
    health::{Health, Status},
    mcp,
    metrics::{self, Metrics},
    page,
    problem::{Problem, json_body, json_response},
    servers,
};
use crate::hub::catalogue::{Listed, Said};

/// Names a request in the log and in its answer. A caller's own name is kept if it is a plain one.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// What every answer says besides.
pub(super) const ALWAYS: [(&str, &str); 2] = [("x-content-type-options", "nosniff"), ("cache-control", "no-store")];
/// A caller's name for a request may have so many characters.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// What the handlers share.
pub(super) struct Hub {
    pub(super) calls: Arc<Calls>,
    pub(super) mcp: mcp::Mcp,
    pub(super) bodies: Bodies,
    pub(super) guard: Guard,
    pub(super) health: Health,
    pub(super) metrics: Result<Metrics, &'static str>,
    pub(super) started: Instant,
    /// It is reached by `https`.
    pub(super) is_tls: bool,
    pub(super) connections: AtomicUsize,
}

/// All routes, and what every request passes on its way to them.
pub(super) fn router(hub: Arc<Hub>, admits: Admits) -> Router {
    let mut inside = Router::new()
        .route("/", get(page::index))
        .route("/process", post(process))
        .route("/tools", get(list_tools))
        .route("/tools/{tool}", get(show_tool).post(call_tool))
        .route("/health", get(health))
        .route("/metrics", get(show_metrics))
        .merge(servers::router())
        .merge(call_log::router())
        .merge(mcp::router(&hub))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method);
    if admits.wants_token() {
        inside = inside.layer(middleware::from_fn_with_state(Arc::clone(&hub), want_token));
    }
    let for_everybody = Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .method_not_allowed_fallback(wrong_method);
    inside.merge(for_everybody).layer(middleware::from_fn_with_state(Arc::clone(&hub), observe)).with_state(hub)
}

/// One call, as S0's clients make it: whatever the tool says is an answer with status 200.
async fn process(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let wanted = hub.bodies.read(&caller.0, &headers, body).await?.into_wanted()?;
    let Called { result, room } = hub.call(caller, wanted.tool, wanted.arguments, wanted.timeout).await?;
    match result {
        Ok(said) => said_response(said, &room),
        Err(ToolError::Busy(message)) => Err(Problem::busy("busy", message)),
        Err(error) => counted_response(StatusCode::OK, error.to_json(), &room),
    }
}

/// What a tool answered, which takes its share of the memory until it is sent.
fn said_response(said: Said, room: &Room) -> Result<Response, Problem> {
    let text = match said {
        Said::Values(answer) => return counted_response(StatusCode::OK, answer.to_json(), room),
        Said::Text(text) => text,
    };
    room.fit(text.bytes_kept).map_err(|none| Problem::busy("busy", none.to_string()))?;
    let held = room.take().map(Arc::new);
    let counted = |piece| match &held {
        Some(held) => framing::counted(piece, Arc::clone(held)),
        None => piece,
    };
    let pieces = text.pieces.into_iter().map(counted).collect();
    Ok(json_body(StatusCode::OK, Body::new(Pieces(pieces))))
}

/// A body in pieces that are there already.
struct Pieces(VecDeque<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// A JSON answer that takes its share of the memory until it is sent.
fn counted_response(status: StatusCode, answer: Value, room: &Room) -> Result<Response, Problem> {
    let text = Bytes::from(room::text_of(&answer));
    drop(answer);
    room.fit(text.len()).map_err(|none| Problem::busy("busy", none.to_string()))?;
    let body = match room.take() {
        Some(held) => framing::counted(text, Arc::new(held)),
        None => text,
    };
    Ok(json_body(status, body))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CallQuery {
    /// Seconds that the call may take.
    timeout: Option<f64>,
}

/// One call with nothing but the arguments in the body (contract S1); the status tells how it went.
async fn call_tool(
    State(hub): State<Arc<Hub>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<CallQuery>, QueryRejection>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let tool = name(path)?;
    let bad_query = |rejection: QueryRejection| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            format!("{}; expected ?timeout=SECONDS", rejection.body_text()),
        )
    };
    let timeout = query.map_err(bad_query)?.0.timeout.map(body::seconds).transpose()?;
    let arguments = hub.bodies.read(&caller.0, &headers, body).await?.into_arguments()?;
    let Called { result, room } = hub.call(caller, tool, arguments, timeout).await?;
    match result {
        Ok(said) => said_response(said, &room),
        Err(ToolError::Busy(message)) => Err(Problem::busy("busy", message)),
        Err(error) => failed(&error, &room),
    }
}

/// A tool's error as an answer whose status tells what it is.
fn failed(error: &ToolError, room: &Room) -> Result<Response, Problem> {
    let mut response = counted_response(status(error), error.to_json(), room)?;
    if let ToolError::NoServer { retry_after, .. } = error
        && !retry_after.is_zero()
    {
        let seconds = retry_after.as_millis().div_ceil(1000);
        response.headers_mut().insert(header::RETRY_AFTER, u64::try_from(seconds).unwrap_or(u64::MAX).into());
    }
    Ok(response)
}

/// What a tool's error is in the terms of HTTP (RFC 9110): 4xx where the caller can mend it.
fn status(error: &ToolError) -> StatusCode {
    match error {
        ToolError::Unknown { .. } => StatusCode::NOT_FOUND,
        ToolError::InvalidArguments(_) | ToolError::Failed { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        ToolError::Denied(_) => StatusCode::FORBIDDEN,
        ToolError::Conflict(_) => StatusCode::CONFLICT,
        ToolError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        ToolError::Unavailable { .. } => StatusCode::NOT_IMPLEMENTED,
        ToolError::Busy(_) | ToolError::NoServer { .. } => StatusCode::SERVICE_UNAVAILABLE,
        ToolError::Cancelled => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Hub {
    async fn call(
        &self,
        caller: Caller,
        tool: String,
        arguments: Arguments,
        deadline: Option<Duration>,
    ) -> Result<Called, Problem> {
        let by = By { principal: caller.0, session: None };
        self.calls.call(by, tool, arguments, Arguments::parse, deadline).await?
    }
}

/// What can be called.
async fn list_tools(State(hub): State<Arc<Hub>>, caller: Caller) -> Result<Response, Problem> {
    let Listed { tools, unavailable, starting } = hub.calls.catalogue.all(LIST_TIME_MAX).await;
    let mut answer = json!({ "tools": tools });
    for (member, servers) in [("unavailable", unavailable), ("starting", starting)] {
        if !servers.is_empty() {
            answer[member] = servers.into();
        }
    }
    counted_response(StatusCode::OK, answer, &hub.calls.room(&caller.0))
}

/// One tool with its schemas.
async fn show_tool(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let room = hub.calls.room(&caller.0);
    match hub.calls.catalogue.describe(&name(path)?).await {
        Ok(tool) => counted_response(StatusCode::OK, tool, &room),
        Err(error) => failed(&error, &room),
    }
}

/// What is named in the path.
pub(super) fn name(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let bad_path =
        |rejection: PathRejection| Problem::new(StatusCode::BAD_REQUEST, "bad_request", rejection.body_text());
    Ok(path.map_err(bad_path)?.0)
}

/// Everything about how the hub is. 503 if nothing can be relied on.
async fn health(State(hub): State<Arc<Hub>>) -> Response {
    let (findings, load) = (hub.health.check().await, hub.calls.admission.load());
    let draining = hub.calls.admission.is_draining();
    let mut answer = Map::new();
    let status = if draining { "draining" } else { findings.status.as_str() };
    answer.insert("status".into(), status.into());
    answer.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    answer.insert("uptime_s".into(), hub.started.elapsed().as_secs().into());
    answer.insert("calls_running".into(), load.running.into());
    answer.insert("calls_waiting".into(), load.waiting.into());
    answer.insert("calls_at_once".into(), load.at_once.into());
    answer.insert("calls_forwarded".into(), load.forwarded.into());
    answer.extend(findings.by_name.into_iter().map(|(name, found)| (name.to_owned(), found.into())));
    let well = !draining && findings.status != Status::Unhealthy;
    let code = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(code, &answer.into())
}

/// The process runs: do not restart it.
async fn live() -> Response {
    json_response(StatusCode::OK, &json!({"status": "live"}))
}

/// New calls are taken: send some.
async fn ready(State(hub): State<Arc<Hub>>) -> Response {
    let (code, status) = match hub.calls.admission.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "ready"),
    };
    json_response(code, &json!({"status": status}))
}

async fn show_metrics(State(hub): State<Arc<Hub>>) -> Result<Response, Problem> {
    let elsewhere = |&reason: &&str| Problem::new(StatusCode::NOT_IMPLEMENTED, "unavailable", reason);
    let metrics = hub.metrics.as_ref().map_err(elsewhere)?;
    let connections = hub.connections.load(std::sync::atomic::Ordering::Relaxed);
    let text = metrics.render(hub.calls.admission.load(), connections, &hub.mcp.server, hub.started.elapsed());
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, format)], text).into_response())
}

async fn no_such_path() -> Problem {
    let paths = "GET /, POST /process, POST /tools/{tool}, GET /tools, GET /tools/{tool}, POST /mcp, GET /sse, GET /calls, GET /health, GET /metrics";
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing here; this hub answers {paths}"))
}

async fn wrong_method() -> Problem {
    let message = "this path does not take that method; the Allow header names those it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}

async fn want_token(State(hub): State<Arc<Hub>>, mut request: Request, next: Next) -> Response {
    match hub.guard.check_token(&Fields::from(request.headers())) {
        Ok(known) => {
            request.extensions_mut().insert(Principal(Arc::clone(&known.principal)));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Who calls, as the token told.
pub(super) struct Caller(pub(super) Arc<str>);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Infallible> {
        Ok(Caller(parts.extensions.get::<Principal>().map_or_else(local, |principal| Arc::clone(&principal.0))))
    }
}

/// [`observed`] as a layer of the router. The [fast path](super::fast) does the same in its own way.
async fn observe(State(hub): State<Arc<Hub>>, request: Request, next: Next) -> Response {
    let (headers, mut made) = (Fields::from(request.headers()), [0; ulid::ULID_LEN]);
    let id = request_id(&headers, &mut made);
    let named = HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unnamed"));
    let is_allowed = hub.guard.check_source(request.uri().authority(), &headers);
    let (method, origin) = (request.method().clone(), hub.guard.named_origin(&headers));
    let preflight = origin.as_ref().and_then(|_| cors::preflight(&method, request.uri().path(), &headers));
    let wants_page = page::is_wanted(&method, &headers);
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = span(id, &method, route);
    let work = async {
        let response = match (is_allowed, preflight) {
            (Ok(()), Some(answer)) => answer,
            (Ok(()), None) => next.run(request).await,
            (Err(problem), _) => problem.into_response(),
        };
        if wants_page { page::of_problem(response).into() } else { response.into() }
    };
    let mut response = observed(span, &method, route, pin!(work)).await.into_response();
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(REQUEST_ID), named);
    for (name, value) in ALWAYS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    cors::share(headers, &hub.guard, origin);
    if hub.calls.admission.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

pub(super) fn span(id: &str, method: &Method, route: &str) -> tracing::Span {
    tracing::info_span!("request", id, %method, route)
}

/// What every request passes: it is counted, timed and logged (neither body nor headers), and a panic in it is survived. One
/// layer, since each costs a request some microseconds.
pub(super) async fn observed(
    span: tracing::Span,
    method: &Method,
    route: &str,
    work: Pin<&mut (impl Future<Output = Reply> + Send)>,
) -> Reply {
    let began = Instant::now();
    let answer = AssertUnwindSafe(work.instrument(span.clone())).catch_unwind().await;
    let reply = answer.unwrap_or_else(|_| {
        let message = "the hub failed at this request; its log says why";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).into_response().into()
    });
    let (status, took) = (reply.status, began.elapsed());
    metrics::request(method, route, status, took);
    tracing::debug!(parent: &span, status = status.as_u16(), ms = took.as_secs_f64() * 1e3, "answered");
    reply
}

/// What a request is called: what its caller says, if that is a plain name, or one that is made here.
#[expect(clippy::disallowed_methods, reason = "the edge makes ids")]
pub(super) fn request_id<'a>(headers: &Fields<'a>, made: &'a mut [u8; ulid::ULID_LEN]) -> &'a str {
    let is_plain = |id: &&str| {
        let characters = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        characters && (1..=REQUEST_ID_CHARS_MAX).contains(&id.len())
    };
    let given = headers.text(REQUEST_ID).filter(is_plain);
    given.unwrap_or_else(|| ulid::Ulid::generate().array_to_str(made))
}
