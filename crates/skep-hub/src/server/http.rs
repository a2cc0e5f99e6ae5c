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
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper::body::{Frame, SizeHint};
use serde_json::Value;
use skep_core::{
    app::App,
    policy::{self, Actor, Permit, Right},
};
use skep_mcp::{
    framing,
    gateway::LIST_TIME_MAX,
    server::http::{Fields, Identified, Reply},
};
use skep_tools::{
    error::ToolError,
    room::{self, Room},
};
use tracing::Instrument as _;

use super::{
    body::{self, Bodies},
    cors,
    events::{self, Live},
    guard::{Admits, Guard},
    health::Health,
    mcp,
    metrics::{self, Metrics},
    page,
    problem::{Form, Kind, Problem, accepts_problems, in_form, json_body, json_response, retry_after, status, typed},
    rest, servers,
};
use crate::{
    api::{self, HealthStatus},
    hub::{
        admission::Refused,
        alerts::Alerts,
        calls::{self, Called, Calls, Payload, Said, Text},
        catalogue::Listed,
        principals,
    },
    problem::MEDIA_TYPE,
};

/// Names a request in the log and in its answer. A caller's own name is kept if it is a plain one.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// What every answer says besides.
pub(super) const ALWAYS: [(&str, &str); 2] = [("x-content-type-options", "nosniff"), ("cache-control", "no-store")];
/// A caller's name for a request may have so many characters.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// What the handlers share.
pub(super) struct Shared {
    pub(super) calls: Arc<Calls>,
    /// What agents share, if this hub has a store.
    pub(super) app: Option<App>,
    pub(super) mcp: mcp::Mcp,
    pub(super) bodies: Bodies,
    pub(super) guard: Guard,
    pub(super) health: Health,
    pub(super) alerts: Arc<Alerts>,
    pub(super) live: Live,
    pub(super) metrics: Result<Metrics, &'static str>,
    pub(super) started: Instant,
    /// It is reached by `https`.
    pub(super) is_tls: bool,
    pub(super) connections: AtomicUsize,
}

/// All routes, and what every request passes on its way to them.
pub(super) fn router(hub: Arc<Shared>, admits: Admits) -> Router {
    let inside = Router::new()
        .route("/", get(page::index))
        .route("/problems/{code}", get(page::problem_kind))
        .route("/process", post(process))
        .route("/tools", get(list_tools))
        .route("/tools/{tool}", get(show_tool).post(call_tool))
        .route("/health", get(health))
        .route("/metrics", get(show_metrics))
        .merge(servers::router())
        .merge(super::calls::router())
        .merge(events::router())
        .merge(rest::router())
        .merge(mcp::router(&hub))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state((Arc::clone(&hub), admits), identify));
    let for_everybody = Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .method_not_allowed_fallback(wrong_method);
    inside.merge(for_everybody).layer(middleware::from_fn_with_state(Arc::clone(&hub), observe)).with_state(hub)
}

/// One call, as S0's clients make it: whatever the tool says is an answer with status 200.
async fn process(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let permit = caller.permit()?;
    let wanted = hub.bodies.read(&caller.0.principal, &headers, body).await?.into_wanted()?;
    let Called { result, room } = hub.call(permit, wanted.tool, wanted.arguments, wanted.timeout).await?;
    match result {
        Ok(said) => said_response(said, &room),
        Err(error) => failed(error, Some(StatusCode::OK), &headers, &room),
    }
}

/// What a tool answered, which takes its share of the memory until it is sent.
fn said_response(said: Said, room: &Room) -> Result<Response, Problem> {
    let text = match said {
        Said::Values(answer) => return counted_response(StatusCode::OK, answer.to_json(), room),
        Said::Text(text) => text,
    };
    room.fit(text.bytes_kept).map_err(|none| Problem::busy(Kind::Busy, none.to_string()))?;
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
pub(super) fn counted_response(status: StatusCode, answer: Value, room: &Room) -> Result<Response, Problem> {
    counted(status, "application/json", answer, room)
}

/// The same with a media type of its own.
fn counted(status: StatusCode, media_type: &'static str, answer: Value, room: &Room) -> Result<Response, Problem> {
    let text = Bytes::from(room::text_of(&answer));
    drop(answer);
    room.fit(text.len()).map_err(|none| Problem::busy(Kind::Busy, none.to_string()))?;
    let body = match room.take() {
        Some(held) => framing::counted(text, Arc::new(held)),
        None => text,
    };
    Ok(typed(status, media_type, body))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CallQuery {
    /// Seconds that the call may take.
    timeout: Option<f64>,
}

/// One call with nothing but the arguments in the body (contract S1); the status tells how it went.
async fn call_tool(
    State(hub): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<CallQuery>, QueryRejection>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let tool = name(path);
    let permit = hub.calls.authorise(&caller.0, tool.as_ref().ok().map(String::as_str))?;
    let tool = tool?;
    let bad_query = |rejection: QueryRejection| {
        Problem::new(Kind::BadRequest, format!("{}; expected ?timeout=SECONDS", rejection.body_text()))
    };
    let timeout = query.map_err(bad_query)?.0.timeout.map(body::seconds).transpose()?;
    let arguments = hub.bodies.read(&caller.0.principal, &headers, body).await?.into_arguments()?;
    let Called { result, room } = hub.call(permit, tool, arguments, timeout).await?;
    match result {
        Ok(said) => said_response(said, &room),
        Err(error) => failed(error, None, &headers, &room),
    }
}

/// A tool's error as an answer: a problem for a caller that asks for problems, or else what contracts S0 and S1 have. `fixed` is
/// the status that it has there, if that does not tell how the call went.
fn failed(error: ToolError, fixed: Option<StatusCode>, headers: &HeaderMap, room: &Room) -> Result<Response, Problem> {
    if matches!(error, ToolError::Busy(_)) {
        return Err(error.into()); // nothing was run
    }
    let is_problem = accepts_problems(&Fields::from(headers));
    let in_s0 = (!is_problem).then(|| error.to_json());
    let problem = Problem::from(error);
    let (told, retry_after) = (status(problem.kind), retry_after(&problem));
    let fixed = fixed.filter(|_| !is_problem);
    let (media_type, body) = match in_s0 {
        Some(body) => ("application/json", body),
        None => (MEDIA_TYPE, problem.into_json()),
    };
    let mut response = counted(fixed.unwrap_or(told), media_type, body, room)?;
    if fixed.is_none() {
        response.headers_mut().extend(retry_after.map(|seconds| (header::RETRY_AFTER, seconds)));
    }
    Ok(response)
}

impl Shared {
    async fn call(
        &self,
        permit: Permit<policy::Call>,
        tool: String,
        arguments: Text,
        deadline: Option<Duration>,
    ) -> Result<Called, Problem> {
        let arguments = Payload::Text(arguments);
        let request = calls::Request { tool, arguments, deadline, form: calls::Form::Text };
        Ok(self.calls.call(permit, None, request).await?)
    }
}

/// What can be called.
async fn list_tools(State(hub): State<Arc<Shared>>, caller: Caller) -> Result<Response, Problem> {
    caller.permit::<policy::Read>()?;
    let Listed { tools, unavailable, starting } = hub.calls.catalogue.all(LIST_TIME_MAX).await;
    let answer = serde_json::to_value(api::Tools { tools, unavailable, starting });
    let answer = answer.map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    counted_response(StatusCode::OK, answer, &hub.calls.room(&caller.0.principal))
}

/// One tool with its schemas.
async fn show_tool(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.permit::<policy::Read>()?;
    let room = hub.calls.room(&caller.0.principal);
    match hub.calls.catalogue.describe(&name(path)?).await {
        Ok(tool) => counted_response(StatusCode::OK, tool, &room),
        Err(error) => failed(error, None, &headers, &room),
    }
}

/// What is named in the path.
pub(super) fn name(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let bad_path = |rejection: PathRejection| Problem::new(Kind::BadRequest, rejection.body_text());
    Ok(path.map_err(bad_path)?.0)
}

/// Everything about how the hub is. 503 if nothing can be relied on.
async fn health(State(hub): State<Arc<Shared>>, caller: Caller) -> Result<Response, Problem> {
    caller.permit::<policy::Read>()?;
    let (findings, load) = (hub.health.check().await, hub.calls.admission.load());
    let alerts = hub.alerts.raised();
    let alarmed = if alerts.is_empty() { HealthStatus::Healthy } else { HealthStatus::Degraded };
    let status = if hub.calls.admission.is_draining() { HealthStatus::Draining } else { findings.status.max(alarmed) };
    let answer = api::Health {
        status,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: hub.started.elapsed().as_secs(),
        calls_running: load.running,
        calls_waiting: load.waiting,
        calls_at_once: load.at_once,
        calls_forwarded: load.forwarded,
        alerts,
        checks: findings.by_name.into_iter().map(|(name, found)| (name.to_owned(), found.into())).collect(),
    };
    let is_well = matches!(status, HealthStatus::Healthy | HealthStatus::Degraded);
    Ok(json_response(if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &answer))
}

/// The process runs: do not restart it.
async fn live() -> Response {
    json_response(StatusCode::OK, &api::Liveness { status: "live" })
}

/// New calls are taken: send some.
async fn ready(State(hub): State<Arc<Shared>>) -> Response {
    let (code, status) = match hub.calls.admission.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false if !hub.health.is_usable().await => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        false => (StatusCode::OK, "ready"),
    };
    json_response(code, &api::Readiness { status })
}

async fn show_metrics(State(hub): State<Arc<Shared>>, caller: Caller) -> Result<Response, Problem> {
    caller.permit::<policy::Read>()?;
    let elsewhere = |&reason: &&str| Problem::new(Kind::Unavailable, reason);
    let metrics = hub.metrics.as_ref().map_err(elsewhere)?;
    hub.live.db().into_iter().for_each(metrics::of_store);
    metrics::of_alerts(&hub.alerts);
    let connections = hub.connections.load(std::sync::atomic::Ordering::Relaxed);
    let text = metrics.render(hub.calls.admission.load(), connections, &hub.mcp.server, hub.started.elapsed());
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, format)], text).into_response())
}

async fn no_such_path() -> Problem {
    let paths = "GET /, POST /process, POST /tools/{tool}, GET /tools, GET /tools/{tool}, POST /mcp, GET /sse, GET /calls, GET /api/v1/events, GET /api/v1/workspaces/{task}/files, GET /ws, GET /health, GET /metrics";
    Problem::new(Kind::NotFound, format!("there is nothing here; this hub answers {paths}"))
}

async fn wrong_method() -> Problem {
    let message = "this path does not take that method; the Allow header names those it takes";
    Problem::new(Kind::WrongMethod, message)
}

/// Find out who sends the request, for all that comes after.
async fn identify(State((hub, admits)): State<(Arc<Shared>, Admits)>, mut request: Request, next: Next) -> Response {
    match hub.guard.identify(admits, &Fields::from(request.headers())) {
        Ok(principal) => {
            request.extensions_mut().insert(Identified(principal));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Who calls, as [`identify`] found out.
pub(super) struct Caller(pub(super) Arc<Actor>);

impl Caller {
    /// Check one right. Handlers do so before they look anything up, so that a refusal does not tell whether it exists.
    pub(super) fn permit<R: Right>(&self) -> Result<Permit<R>, Problem> {
        self.0.permit().map_err(|denied| Refused::from(denied).into())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        let Identified(principal) = identified(&parts.extensions)?;
        Ok(Caller(principals::actor_of(principal)))
    }
}

/// What [`identify`] found out. A route that does not pass it has no caller, and so no rights.
pub(super) fn identified(extensions: &Extensions) -> Result<&Identified, Problem> {
    extensions.get().ok_or_else(|| Problem::new(Kind::Internal, "nobody has found out who sends this request"))
}

/// [`observed`] as a layer of the router. The [fast path](super::fast) does the same in its own way.
async fn observe(State(hub): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (headers, mut made) = (Fields::from(request.headers()), [0; ulid::ULID_LEN]);
    let id = request_id(&headers, &mut made);
    let named = HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unnamed"));
    let is_allowed = hub.guard.check_source(request.uri().authority(), &headers);
    let (method, origin) = (request.method().clone(), hub.guard.named_origin(&headers));
    let preflight = origin.as_ref().and_then(|_| cors::preflight(&method, request.uri().path(), &headers));
    let form = Form::wanted(&method, request.uri().path(), &headers);
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = span(id, &method, route);
    let work = async {
        let response = match (is_allowed, preflight) {
            (Ok(()), Some(answer)) => answer,
            (Ok(()), None) => next.run(request).await,
            (Err(problem), _) => problem.into_response(),
        };
        in_form(response, form).into()
    };
    let mut response = observed(span, &method, route, form, pin!(work)).await.into_response();
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
    form: Form,
    work: Pin<&mut (impl Future<Output = Reply> + Send)>,
) -> Reply {
    let began = Instant::now();
    let answer = AssertUnwindSafe(work.instrument(span.clone())).catch_unwind().await;
    let reply = answer.unwrap_or_else(|_| {
        let message = "the hub failed at this request; its log says why";
        in_form(Problem::new(Kind::Internal, message).into_response(), form).into()
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
