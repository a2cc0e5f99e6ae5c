//! HTTP: one request for each message, answered as JSON or as a stream of events.
//!
//! In 2026-07-28 a request stands alone, and closing its stream withdraws it. Before, there is a session: a server that
//! has forgotten it answers 404, and it is opened again, once; a stream that broke off is continued by its last event; a
//! second stream carries what belongs to no request.

mod direct;
mod events;
mod names;
mod sse;

use std::{
    borrow::Cow,
    collections::HashMap,
    error::Error as _,
    pin::pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    Client, Method, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, value::RawValue};
use smallvec::SmallVec;
use tokio::{
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

pub(super) use self::sse::link as sse_link;
use self::{direct::Direct, events::Parser};
use super::{
    CallError, Handler, MalformedOutput, Setup,
    asking::Asking,
    auth::{Access, Authorization, Challenge},
    flight::{Flight, Flights, Question},
    flow::Flow,
    ids::Ids,
    link, open,
};
use crate::{
    cancel::Cancel,
    framing::{Held, Memory, SMALL_BYTES},
    message::{self, ErrorObject, Id, Incoming, Malformed, Message, Notification, parse},
    revision::Revision,
    server::{
        Members, code,
        headers::{HeaderArgument, has_faulty_mark, header_arguments},
    },
};

/// Bytes of a body that is shown in an error.
const SHOWN_MAX: usize = 200;
/// Bytes of an answer that is a refusal.
const REFUSAL_BYTES_MAX: usize = 1 << 20;
/// How often one answer's stream is continued.
const RESUMES_MAX: u32 = 5;
/// Before a stream is opened again, unless the server says otherwise.
const RETRY: Duration = Duration::from_secs(1);
/// Longest such time.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a session waits for its own stream before the first call; some servers do not begin it before they have something to say.
const LISTEN_TIME_MAX: Duration = Duration::from_millis(500);
/// Time for what nobody waits for: the end of a session, a withdrawal.
const FAREWELL_MAX: Duration = Duration::from_secs(3);
/// Tools whose marked arguments are remembered.
const MARKED_MAX: usize = 10_000;

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";
const EVENT_STREAM: &str = "text/event-stream";

/// A server's address, and how it is asked.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address.
    pub url: Url,
    /// Sent with each request.
    pub headers: HeaderMap,
    /// Makes the connections.
    pub client: Client,
    /// Where tokens come from if the server wants any.
    pub authorization: Option<Arc<dyn Authorization>>,
    /// Whether it is known to speak the HTTP+SSE of 2024-11-05.
    pub is_sse: bool,
    /// Whether a server without TLS is reached without the client, and so without its proxies and its resolver. It saves half of
    /// what a call costs.
    pub is_direct: bool,
}

pub(super) struct Http {
    target: Target,
    direct: Option<Arc<Direct>>,
    access: Option<Access>,
    setup: Setup,
    calls: Semaphore,
    ids: Ids,
    /// What comes on streams beside answers.
    flow: Flow,
    state: RwLock<Arc<State>>,
    /// The calls of a session that somebody listens to.
    flights: Flights,
    /// Held while a session is opened again.
    reopening: tokio::sync::Mutex<()>,
    closed: Arc<Cancel>,
    malformed: MalformedOutput,
    tasks: TaskTracker,
}

/// What is said to the server. A call takes it once and keeps to it.
#[derive(Clone, Default)]
struct State {
    revision: Option<Revision>,
    session: Option<HeaderValue>,
    /// What each request carries.
    headers: HeaderMap,
    /// The same as a message's request begins with it, for a server that is reached directly.
    message: Option<direct::Head>,
    /// Which arguments of which tools are repeated in headers.
    marked: HashMap<String, Vec<HeaderArgument>>,
}

impl State {
    fn is_modern(&self) -> bool {
        self.revision.is_some_and(Revision::is_modern)
    }

    /// The headers that each request with this method carries.
    fn headers_for(&self, method: &Method) -> HeaderMap {
        let mut headers = self.headers.clone();
        if *method == Method::GET {
            headers.insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers
    }

    /// The headers in which a request of this revision repeats what is in it.
    fn repeated<'a>(&self, method: &'a str, params: &'a Members<'_>) -> Headers<'a> {
        if !self.is_modern() {
            return Headers::new();
        }
        names::headers(method, params, |tool| self.marked.get(tool).cloned().unwrap_or_default())
    }

    fn write(&mut self, target: &Target, direct: Option<&Arc<Direct>>) {
        self.headers = self.make_headers(&target.headers);
        self.message = direct.map(|direct| direct.head(&Method::POST, &self.headers_for(&Method::POST)));
    }

    fn make_headers(&self, own: &HeaderMap) -> HeaderMap {
        let own = own.iter().filter(|(name, _)| !names::is_repeated(name));
        let mut headers: HeaderMap = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let revision = match &self.session {
            // Wanted since 2025-06-18, and harmless before.
            Some(_) => self.revision,
            None => self.revision.filter(|revision| *revision >= Revision::V2025_06_18),
        };
        if let Some(session) = &self.session {
            headers.insert(SESSION, session.clone());
        }
        if let Some(revision) = revision {
            headers.insert(VERSION, HeaderValue::from_static(revision.as_str()));
        }
        headers
    }
}

/// A header of one request, whose value is visible ASCII and blanks.
type Header<'a> = (HeaderName, Cow<'a, str>);
/// Those of most requests.
type Headers<'a> = SmallVec<[Header<'a>; 2]>;

/// What comes of sending a message.
enum Sent {
    /// A response with a body.
    Answer(Response),
    /// The server has forgotten the session.
    Forgotten,
}

/// What a server answers, by either way.
enum Response {
    Client(reqwest::Response),
    Direct(direct::Response),
}

impl From<reqwest::Response> for Response {
    fn from(response: reqwest::Response) -> Response {
        Response::Client(response)
    }
}

impl Response {
    fn status(&self) -> StatusCode {
        match self {
            Response::Client(response) => response.status(),
            Response::Direct(response) => response.status(),
        }
    }

    /// The first header of this name, if it is text.
    fn header(&self, name: &str) -> Option<&str> {
        match self {
            Response::Client(response) => response.headers().get(name)?.to_str().ok(),
            Response::Direct(response) => std::str::from_utf8(response.header(name)?).ok(),
        }
    }

    fn is_event_stream(&self) -> bool {
        match self {
            Response::Client(response) => {
                response.headers().get(CONTENT_TYPE).is_some_and(|kind| is_event_stream(kind.as_bytes()))
            }
            Response::Direct(response) => response.is_event_stream(),
        }
    }

    /// Bytes of the body that are known to come.
    fn announced(&self) -> usize {
        match self {
            Response::Client(response) => response.content_length().unwrap_or(0).try_into().unwrap_or(usize::MAX),
            Response::Direct(response) => response.announced(),
        }
    }

    /// What it wants before it does what it was asked for.
    fn challenge(&self) -> Option<Challenge> {
        let values = |name: HeaderName| match self {
            Response::Client(response) => response.headers().get_all(name).iter().map(HeaderValue::as_bytes).collect(),
            Response::Direct(response) => response.headers(name.as_str()).collect::<Vec<_>>(),
        };
        Challenge::of(self.status(), values)
    }

    /// The next part of the body; `None` after the last one.
    async fn chunk(&mut self) -> Result<Option<Bytes>, CallError> {
        match self {
            Response::Client(response) => response.chunk().await.map_err(|error| failed(&error)),
            Response::Direct(response) => response.chunk().await.map_err(CallError::Closed),
        }
    }

    /// Nothing more of it is wanted.
    fn release(self) {
        match self {
            Response::Client(_) => {} // closes what it cannot use again
            Response::Direct(response) => response.release(),
        }
    }
}

/// What was asked, to be recognised in what comes.
struct Asked<'a> {
    id: i64,
    flight: &'a Arc<Flight>,
}

impl Http {
    pub(super) fn new(target: Target, setup: &Setup) -> Arc<Http> {
        let direct = target.is_direct.then(|| Direct::new(&target.url)).flatten();
        let mut state = State::default();
        state.write(&target, direct.as_ref());
        Arc::new(Http {
            direct,
            access: target.authorization.clone().map(Access::new),
            target,
            calls: Semaphore::new(setup.limits.calls_at_once_max),
            setup: setup.clone(),
            ids: Ids::default(),
            flow: Flow::default(),
            state: RwLock::new(Arc::new(state)),
            flights: Flights::default(),
            reopening: tokio::sync::Mutex::default(),
            closed: Arc::default(),
            malformed: MalformedOutput::new(),
            tasks: TaskTracker::new(),
        })
    }

    pub(super) fn closed(&self) -> &Arc<Cancel> {
        &self.closed
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Change what is said to the server, and so the headers that say it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let state = Arc::make_mut(&mut state);
        change(state);
        state.write(&self.target, self.direct.as_ref());
    }

    /// Speak this revision from now on.
    pub(super) fn speak(&self, revision: Revision) {
        self.change(|state| state.revision = Some(revision));
    }

    /// Call a method. Dropping the future withdraws the call.
    pub(super) async fn call(
        self: &Arc<Self>,
        asking: &Asking<'_>,
        flight: &Arc<Flight>,
    ) -> Result<Box<RawValue>, CallError> {
        let calling = pin!(async {
            let _permit = self.calls.acquire().await;
            let id = self.ids.next();
            let state = self.state();
            let headers = state.repeated(asking.method, asking.params);
            let text = Bytes::from(asking.text(id));
            let asked = Asked { id, flight };
            let is_modern = state.is_modern();
            let mut withdraw = Withdraw { http: (!is_modern).then_some(self), id };
            let mut ends = (!is_modern && flight.handler.is_some()).then(|| self.flights.begin(id, flight));
            let result = self.ask(&state, &text, &headers, &asked).await;
            withdraw.http = None;
            if let (Some(ends), Ok(_) | Err(CallError::Rpc(_))) = (&mut ends, &result) {
                ends.is_answered = true;
            }
            if asking.method == "tools/list" { result.map(|result| self.take_marks(result)) } else { result }
        });
        tokio::select! {
            biased;
            result = calling => result,
            () = self.closed.cancelled() => Err(CallError::Closed("it was closed".to_owned())),
        }
    }

    async fn ask(
        self: &Arc<Self>,
        state: &State,
        text: &Bytes,
        headers: &[Header<'_>],
        asked: &Asked<'_>,
    ) -> Result<Box<RawValue>, CallError> {
        if let Sent::Answer(response) = self.post(state, text, headers).await? {
            return self.read(response, asked).await;
        }
        // Futures of what is rare are kept elsewhere, for the sake of all calls that need no such room.
        Box::pin(async {
            self.reopen(state.session.as_ref()).await?;
            match self.post(&self.state(), text, headers).await? {
                Sent::Answer(response) => self.read(response, asked).await,
                Sent::Forgotten => Err(CallError::Closed("the server forgets its sessions at once".to_owned())),
            }
        })
        .await
    }

    /// Open the session anew, unless somebody else has done so.
    async fn reopen(self: &Arc<Self>, forgotten: Option<&HeaderValue>) -> Result<(), CallError> {
        let _reopening = self.reopening.lock().await;
        if self.state().session.as_ref() != forgotten {
            return Ok(());
        }
        tracing::info!(host = self.target.url.host_str(), "the server has forgotten the session; it is opened again");
        Box::pin(open::session(self, &self.setup)).await.map(drop)
    }

    /// Open a session: `initialize`, whose answer names it.
    pub(super) async fn initialize(self: &Arc<Self>, asking: &Asking<'_>) -> Result<Box<RawValue>, CallError> {
        self.change(|state| state.session = None);
        let id = self.ids.next();
        let response = self.exchange(&self.state(), Method::POST, &[], &asking.text(id).into()).await?;
        let session = response.header(SESSION).and_then(|session| HeaderValue::from_str(session).ok());
        let result = self.read(response, &Asked { id, flight: &Flight::new(None) }).await?;
        self.change(|state| state.session = session);
        Ok(result)
    }

    pub(super) async fn notify(self: &Arc<Self>, notification: Notification) -> Result<(), CallError> {
        let state = self.state();
        let method = notification.method.clone();
        let nothing = Members::default(); // of the parameters is repeated in a header
        let headers = state.repeated(&method, &nothing);
        match self.post(&state, &Message::Notification(notification).to_line().into(), &headers).await? {
            Sent::Answer(response) if response.status().is_success() => Ok(()),
            Sent::Answer(response) => Err(self.refused(response, None).await),
            Sent::Forgotten => Ok(()), // the session that it was for is gone
        }
    }

    /// Remember which arguments must be repeated in headers: a request that lacks them would be refused. A tool with a
    /// mark that is not valid cannot be called so, and is left out.
    fn take_marks(&self, result: Box<RawValue>) -> Box<RawValue> {
        if !self.state().is_modern() || !result.get().contains("x-mcp-header") {
            return result;
        }
        let fit = Members::parse(&result).and_then(|mut page| {
            let tools: Vec<Box<RawValue>> = page.read("tools")?;
            let listed = tools.len();
            let fit = tools.into_iter().filter_map(|tool| self.marked(&tool).map(|marked| (tool, marked)));
            let (tools, marked): (Vec<_>, Vec<_>) = fit.unzip();
            self.change(|state| {
                for (name, arguments) in marked {
                    if state.marked.len() < MARKED_MAX {
                        state.marked.insert(name, arguments);
                    }
                }
            });
            let is_less = tools.len() < listed;
            is_less.then(|| {
                page.put("tools", tools);
                page.into_raw()
            })
        });
        fit.unwrap_or(result)
    }

    /// The name of a tool and its marked arguments; `None` if it cannot be called.
    fn marked(&self, tool: &RawValue) -> Option<(String, Vec<HeaderArgument>)> {
        let tool: Value = serde_json::from_str(tool.get()).unwrap_or_default();
        let Some(name) = tool["name"].as_str() else { return Some(Default::default()) }; // nobody can call it
        if has_faulty_mark(&tool["inputSchema"]) {
            tracing::warn!(
                host = self.target.url.host_str(),
                tool = name,
                "left out: an x-mcp-header of it is not valid"
            );
            return None;
        }
        Some((name.to_owned(), header_arguments(&tool["inputSchema"])))
    }

    /// Get the token that there is, before the first request.
    pub(super) async fn begin(&self) -> Result<(), CallError> {
        match &self.access {
            Some(access) => access.begin(&self.tasks).await,
            None => Ok(()),
        }
    }

    /// Send a request with these headers besides; again if the server wants another token for it and there is one.
    async fn exchange(
        &self,
        state: &State,
        method: Method,
        more: &[Header<'_>],
        body: &Bytes,
    ) -> Result<Response, CallError> {
        let access = self.access.as_ref();
        if let Some(access) = access.filter(|access| access.is_stale()) {
            Box::pin(access.begin(&self.tasks)).await?;
        }
        let seen = access.map_or(0, Access::changes);
        let response = self.send(state, &method, more, body).await?;
        let (Some(access), Some(challenge)) = (access, response.challenge()) else { return Ok(response) };
        let send = || self.send(state, &method, more, body);
        Box::pin(access.again(&self.tasks, seen, challenge, Response::challenge, send)).await
    }

    /// Send a request with these headers besides.
    async fn send(
        &self,
        state: &State,
        method: &Method,
        more: &[Header<'_>],
        body: &Bytes,
    ) -> Result<Response, CallError> {
        let token = self.access.as_ref().and_then(|access| access.headers(method, &self.target.url));
        let token = token.as_deref().unwrap_or_default();
        if let Some(direct) = &self.direct {
            let other;
            let head = match &state.message {
                Some(message) if *method == Method::POST => message,
                _ => {
                    other = direct.head(method, &state.headers_for(method));
                    &other
                }
            };
            let own = more.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            let more = own.chain(token.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
            let sent = direct.send(head, more, body).await;
            let response = sent.map_err(|failed| CallError::Closed(failed.reason))?;
            if !response.status().is_redirection() {
                return Ok(Response::Direct(response));
            } // where it leads to, the client decides
        }
        let mut headers = state.headers_for(method);
        for (name, value) in more {
            headers.extend(HeaderValue::from_str(value).ok().map(|value| (name.clone(), value)));
        }
        headers.extend(token.iter().cloned());
        let mut request = reqwest::Request::new(method.clone(), self.target.url.clone());
        *request.headers_mut() = headers;
        *request.body_mut() = (!body.is_empty()).then(|| body.clone().into());
        self.target.client.execute(request).await.map(Response::from).map_err(|error| failed(&error))
    }

    /// Open a stream, from this event on.
    async fn resume(&self, last: Option<&str>) -> Result<Response, CallError> {
        let last = last.filter(|last| HeaderValue::from_str(last).is_ok());
        let last: Option<Header<'_>> = last.map(|last| (HeaderName::from_static("last-event-id"), last.into()));
        self.exchange(&self.state(), Method::GET, last.as_slice(), &Bytes::new()).await
    }

    async fn post(&self, state: &State, body: &Bytes, headers: &[Header<'_>]) -> Result<Sent, CallError> {
        let response = self.exchange(state, Method::POST, headers, body).await?;
        let is_forgotten = state.session.is_some() && response.status() == StatusCode::NOT_FOUND;
        Ok(if is_forgotten { Sent::Forgotten } else { Sent::Answer(response) })
    }

    /// The answer in what was received: a message, or a stream of which it is the last.
    async fn read(self: &Arc<Self>, response: Response, asked: &Asked<'_>) -> Result<Box<RawValue>, CallError> {
        if !response.status().is_success() {
            return Err(Box::pin(self.refused(response, Some(asked.id))).await);
        }
        if response.is_event_stream() {
            return Box::pin(self.follow(response, asked)).await;
        }
        let status = response.status();
        let memory = self.setup.limits.memories.of(asked.flight.principal());
        let mut held = None;
        let body = body(response, self.setup.limits.message_bytes_max, memory.as_ref(), &mut held).await?;
        let answer = self.take(&body, Some(asked));
        asked.flight.keep(held);
        match answer {
            Some(Err(error @ CallError::Protocol(_))) => Err(self.distrust(error)),
            Some(outcome) => outcome,
            None if body.is_empty() => {
                Err(CallError::Protocol(format!("an empty answer with HTTP status {}", status.as_u16())))
            }
            None => Err(CallError::Protocol(format!("the answer is no response: {}", shown(&body)))),
        }
    }

    /// An answer that is a refusal: an error of the protocol, or one of HTTP alone.
    async fn refused(&self, response: Response, asked: Option<i64>) -> CallError {
        let status = response.status().as_u16();
        let body = match body(response, REFUSAL_BYTES_MAX, None, &mut None).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match parse(&body) {
            Ok(Incoming::Single(Message::Response(response))) => match response.outcome {
                Err(_) if asked.zip(response.id.as_ref()).is_some_and(|(asked, id)| !names(id, asked)) => {
                    self.distrust(unasked())
                }
                Err(error) => CallError::Rpc(error),
                Ok(_) => CallError::Http { status, text: shown(&body) },
            },
            _ => CallError::Http { status, text: shown(&body) },
        }
    }

    /// What came answers something else. Its connection may hold more of the kind, so none that waits is used again.
    fn distrust(&self, error: CallError) -> CallError {
        if let Some(direct) = &self.direct {
            direct.close_idle();
        }
        error
    }

    /// Follow a stream until the answer comes.
    async fn follow(self: &Arc<Self>, response: Response, asked: &Asked<'_>) -> Result<Box<RawValue>, CallError> {
        let mut parser = Parser::new(self.setup.limits.message_bytes_max);
        let mut response = Some(response);
        for _ in 0..=RESUMES_MAX {
            if let Some(stream) = response.take()
                && let Some(outcome) = self.stream(stream, &mut parser, Some(asked)).await?
            {
                return outcome;
            }
            let Some(last) = parser.last_id.clone().filter(|_| !self.state().is_modern()) else { break };
            sleep(parser.retry.unwrap_or(RETRY).min(RETRY_MAX)).await;
            let resumed = self.resume(Some(&last)).await.ok();
            response = resumed.filter(|resumed| resumed.status().is_success() && resumed.is_event_stream());
        }
        Err(CallError::Closed("the answer's stream ended before the answer".to_owned()))
    }

    /// Take the events of a stream until it ends, or the answer has come.
    async fn stream(
        self: &Arc<Self>,
        mut response: Response,
        parser: &mut Parser,
        asked: Option<&Asked<'_>>,
    ) -> Result<Option<Result<Box<RawValue>, CallError>>, CallError> {
        parser.begin();
        let memory = self.setup.limits.memories.of(asked.map_or("", |asked| asked.flight.principal()));
        let mut held = None;
        // A stream that breaks off has ended.
        while let Ok(Some(part)) = response.chunk().await {
            parser.make_room(memory.as_ref(), &mut held, &part).await?;
            for event in parser.push(&part)? {
                if !matches!(event.name.as_str(), "" | "message") {
                    continue;
                }
                match self.take(&event.data, asked) {
                    None => self.flow.bear(event.data.len()).await.map_err(CallError::Protocol)?,
                    Some(Err(error @ CallError::Protocol(_))) => return Ok(Some(Err(error))), // and closes the connection
                    outcome => {
                        asked.iter().for_each(|asked| asked.flight.keep(held.take()));
                        response.release();
                        return Ok(outcome);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Take what came in at once; the answer, if it is among it.
    fn take(self: &Arc<Self>, text: &[u8], asked: Option<&Asked<'_>>) -> Option<Result<Box<RawValue>, CallError>> {
        let mut answer = None;
        let mut take = |message| match message {
            Ok(Message::Response(response)) => {
                let is_answer = asked.is_some_and(|asked| match &response.id {
                    Some(id) => names(id, asked.id),
                    None => response.outcome.is_err(),
                });
                answer = Some(if is_answer { response.outcome.map_err(CallError::Rpc) } else { Err(unasked()) });
            }
            Ok(Message::Notification(notification)) => self.notified(notification, asked),
            Ok(Message::Request(request)) => self.asked(request, asked),
            Err(Malformed { error, .. }) => self.malformed.log(text, &error.message),
        };
        match parse(text) {
            Ok(Incoming::Single(message)) => take(Ok(message)),
            Ok(Incoming::Batch(messages)) => messages.into_iter().for_each(take),
            Err(malformed) => take(Err(malformed)),
        }
        answer
    }

    fn notified(&self, notification: Notification, asked: Option<&Asked<'_>>) {
        match &*notification.method {
            "notifications/progress" => {
                let id = link::token(&notification);
                let own = asked.filter(|asked| id == Some(asked.id)).map(|asked| Arc::clone(asked.flight));
                // Otherwise it is late.
                if let Some(flight) = own.or_else(|| self.flights.get(id?)) {
                    flight.progress(notification);
                }
            }
            // An answer to our own.
            "notifications/cancelled" | "notifications/subscriptions/acknowledged" => {}
            "notifications/message" => {
                self.handler(self.flight(asked).as_ref()).notification(notification);
            }
            _ => self.setup.handler.notification(notification),
        }
    }

    /// The call that something belongs to: the one on whose stream it came; what came on the session's own stream may
    /// belong to any.
    fn flight(&self, asked: Option<&Asked<'_>>) -> Option<Arc<Flight>> {
        asked.map_or_else(|| self.flights.only_one(), |asked| Some(Arc::clone(asked.flight)))
    }

    fn handler(&self, flight: Option<&Arc<Flight>>) -> Arc<dyn Handler> {
        let own = flight.and_then(|flight| flight.handler.as_ref());
        Arc::clone(own.unwrap_or(&self.setup.handler))
    }

    /// Answer a request of the server.
    fn asked(self: &Arc<Self>, request: message::Request, asked: Option<&Asked<'_>>) {
        let id = request.id.clone();
        let mut question = None;
        let answer = if request.method == "ping" {
            None
        } else if self.tasks.len() > self.setup.limits.asked_at_once_max {
            let message =
                format!("at most {} requests of a server are answered at once", self.setup.limits.asked_at_once_max);
            let error = ErrorObject::new(code::BUSY, message);
            Some(Box::pin(async { Err(error) }) as futures_util::future::BoxFuture<'static, _>)
        } else {
            let flight = self.flight(asked);
            self.flights.asked(flight.as_ref());
            let answer = self.handler(flight.as_ref()).request(request);
            question = flight.map(Question::new);
            Some(answer)
        };
        let http = Arc::clone(self);
        self.tasks.spawn(async move {
            let _question = question;
            let answering = async {
                let outcome = match answer {
                    Some(answer) => answer.await,
                    None => RawValue::from_string("{}".to_owned())
                        .map_err(|error| ErrorObject::new(code::INTERNAL_ERROR, error.to_string())),
                };
                let text = Message::Response(message::Response { id: Some(id), outcome }).to_line();
                if let Err(error) = http.post(&http.state(), &text.into(), &[]).await {
                    tracing::warn!(%error, "the server did not take an answer");
                }
            };
            let _ = http.closed.run_until_cancelled(answering).await;
        });
    }

    /// Hear what belongs to no request, as long as the connection lives. Servers need not have such a stream. Waits until it is
    /// open, if that is soon: what a server says on it before is lost, and a question so lost is waited for in vain.
    pub(super) async fn listen(self: &Arc<Self>) {
        let http = Arc::clone(self);
        let (opened, opening) = oneshot::channel();
        self.tasks.spawn(async move {
            let _ = http.closed.run_until_cancelled(http.hear(opened)).await;
        });
        let _ = timeout(LISTEN_TIME_MAX, opening).await;
    }

    /// `opened` is dropped when the server has answered for the first time.
    async fn hear(self: &Arc<Self>, opened: oneshot::Sender<()>) {
        let mut parser = Parser::new(self.setup.limits.message_bytes_max);
        let mut pause = RETRY;
        let mut opened = Some(opened);
        loop {
            let resumed = self.resume(parser.last_id.as_deref()).await;
            drop(opened.take());
            match resumed {
                Ok(response) if response.status().is_success() && response.is_event_stream() => {
                    pause = RETRY;
                    if let Err(error) | Ok(Some(Err(error))) = self.stream(response, &mut parser, None).await {
                        tracing::warn!(%error, "the server's stream cannot be read");
                    }
                }
                Ok(response) if response.status() == StatusCode::METHOD_NOT_ALLOWED => return,
                Ok(_) | Err(_) => {
                    parser.last_id = None; // it may be of a session that is gone
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
            sleep(parser.retry.unwrap_or(pause).clamp(pause, RETRY_MAX)).await;
        }
    }

    /// Nothing more will come or go.
    pub(super) fn shut(self: &Arc<Self>) {
        self.closed.cancel();
        let (http, state) = (Arc::clone(self), self.state());
        if state.session.is_some() && tokio::runtime::Handle::try_current().is_ok() {
            self.change(|state| state.session = None);
            self.tasks.spawn(async move {
                // A server may refuse to end sessions (405); then it forgets them some time.
                let _ = timeout(FAREWELL_MAX, http.send(&state, &Method::DELETE, &[], &Bytes::new())).await;
            });
        }
    }

    /// The same, and wait for the session's end.
    pub(super) async fn close(self: &Arc<Self>) {
        self.shut();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Tells an older server that nobody waits any more: to such a one, a closed stream says nothing.
struct Withdraw<'a> {
    http: Option<&'a Arc<Http>>,
    id: i64,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let Some(http) = self.http.take().filter(|http| !http.closed.is_cancelled()) else { return };
        let (http, text) = (Arc::clone(http), link::cancelled(self.id));
        let tasks = http.tasks.clone();
        tasks.spawn(async move {
            let _ = timeout(FAREWELL_MAX, http.post(&http.state(), &text.into(), &[])).await;
        });
    }
}

/// Whether a server means this request; some write every id as a string.
fn names(id: &Id, asked: i64) -> bool {
    match id {
        Id::Number(id) => *id == asked,
        Id::String(id) => id.parse() == Ok(asked),
    }
}

fn unasked() -> CallError {
    CallError::Protocol("it answered a request that was not made, or not here".to_owned())
}

/// Whether that is what a content type says.
fn is_event_stream(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(EVENT_STREAM.as_bytes())
}

/// A body, if it is not too large. A large one takes its share of this memory before it is read.
async fn body(
    mut response: Response,
    bytes_max: usize,
    memory: Option<&Memory>,
    held: &mut Option<Held>,
) -> Result<Bytes, CallError> {
    let announced = response.announced().min(bytes_max);
    if let (Some(memory), SMALL_BYTES..) = (memory, announced) {
        memory.make_room_to_read(held, announced).await.map_err(CallError::NoRoom)?;
    }
    if let Response::Direct(response) = &mut response
        && let Some(whole) = response.whole(bytes_max).await.map_err(CallError::Closed)?
    {
        return Ok(whole);
    }
    let (mut first, mut whole) = (Bytes::new(), Vec::new());
    while let Some(part) = response.chunk().await? {
        let bytes = first.len().max(whole.len()) + part.len();
        if let (Some(memory), true) = (memory, bytes > announced.max(SMALL_BYTES)) {
            memory.make_room_for_more(held, bytes, bytes_max).await.map_err(CallError::NoRoom)?;
        }
        if first.len().max(whole.len()) + part.len() > bytes_max {
            return Err(CallError::Protocol(format!("the answer is longer than {bytes_max} bytes")));
        }
        if first.is_empty() && whole.is_empty() {
            first = part; // most often it is all
            continue;
        }
        whole.reserve(announced.saturating_sub(whole.len()));
        whole.extend_from_slice(&std::mem::take(&mut first));
        whole.extend_from_slice(&part);
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(SHOWN_MAX)]).trim().to_owned()
}

/// The whole chain: what reqwest says first is only that something failed. The address may hold a key.
fn failed(error: &reqwest::Error) -> CallError {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    CallError::Closed(if text.is_empty() { "the request failed".to_owned() } else { text })
}
