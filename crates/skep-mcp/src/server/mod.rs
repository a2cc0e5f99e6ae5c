//! The server side of the protocol, for every revision at once.
//!
//! A [`Service`] answers requests; it knows neither revisions nor transports. Around it this module does what the
//! protocol asks: it tells a stateless request (2026-07-28) from a session's (older revisions), negotiates, checks the
//! metadata, keeps sessions, subscriptions and cancellations, and puts a result into the form of the caller's revision.
//!
//! Both eras share one idea: a request under way is an *exchange*, which says what is to be sent next. A
//! service that needs something from its caller asks its [`Peer`]; whether that becomes a request on the caller's stream
//! (older revisions) or an `input_required` result and a call that waits for its repetition (2026-07-28) is decided here.
//!
//! Transports: [`lines`] (stdio, TCP) and [`http`] (Streamable HTTP, and HTTP+SSE of 2024-11-05). Who may call is
//! decided outside: a transport is told the caller's principal.

mod convert;
mod edited;
mod exchange;
pub mod headers;
pub mod http;
mod input;
pub mod lines;
mod listen;
mod members;
mod modern;
mod peer;
mod principal;
mod rate;
mod session;
pub(crate) mod sink;
mod suspended;
pub mod tasks;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    members::Members,
    peer::{Level, Peer},
    principal::{LOCAL, Named, Principal, local},
};
use crate::{
    framing::Memories,
    message::{ErrorObject, Method},
    revision::Revision,
    timer::Timers,
};

/// What a service gives for a request: the result as it is sent, or an error.
pub type Outcome = Result<Box<RawValue>, ErrorObject>;
/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The error codes of JSON-RPC 2.0 and of the Model Context Protocol that this side sends.
pub mod code {
    /// The text is not JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// It is JSON, and no request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// There is no such method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters do not fit; also for tools, prompts and resources that do not exist.
    pub const INVALID_PARAMS: i64 = -32602;
    /// A fault of the server.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// Resource not found, until 2025-11-25.
    pub const RESOURCE_NOT_FOUND: i64 = -32002;
    /// An HTTP header says something else than the body.
    pub const HEADER_MISMATCH: i64 = -32020;
    /// The caller did not declare a capability that the request needs.
    pub const MISSING_CAPABILITY: i64 = -32021;
    /// The revision is not one that this server speaks.
    pub const UNSUPPORTED_VERSION: i64 = -32022;
    /// Too much at once; try again later. Outside the range that JSON-RPC reserves.
    pub const BUSY: i64 = -31000;
}

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// What this server is. Asked for each `initialize` and `server/discover`.
    fn describe(&self) -> Description;

    /// Answer one request. Dropping the future cancels it.
    ///
    /// Results have the form of 2026-07-28 where the revisions differ, but `resultType` may be left out; `ttlMs` and
    /// `cacheScope` are filled in where they are missing. A result with `"resultType": "input_required"` is carried out
    /// for callers of older revisions.
    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> BoxFuture<Outcome>;

    /// Begin to watch a resource: [`Change::Resource`] is sent when it changes, until the guard is dropped.
    fn watch(self: Arc<Self>, uri: String, caller: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>>;

    /// What changes from now on.
    fn changes(&self) -> broadcast::Receiver<Change>;

    /// Whether a call of this tool may be made again when nobody knows how far the first one came. Asked when a call
    /// becomes a task ([`tasks`]).
    fn may_repeat(&self, _tool: &str) -> bool {
        false
    }

    /// The arguments of a tool that HTTP callers of 2026-07-28 repeat in headers (`x-mcp-header`).
    fn header_arguments(&self, _tool: &str) -> Vec<headers::HeaderArgument> {
        Vec::new()
    }
}

/// Keeps a resource watched while it lives.
pub type Watch = Box<dyn Send + Sync>;

/// What a large message takes of a memory that somebody counts; kept until the message is answered. On HTTP, an extension
/// of the request.
#[derive(Clone)]
pub struct Share(pub Arc<dyn Send + Sync>);

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Share")
    }
}

/// Bytes of what a caller declares about itself (`capabilities`, `clientInfo`): a session keeps it, taken apart.
const DECLARED_BYTES_MAX: usize = 64 << 10;
/// Principals that are revoked at once; a listener that has not heard of more of them ends, as it may be that of one.
const GONE_MAX: usize = 256;
/// Bytes of the URI of a resource that is watched.
const URI_BYTES_MAX: usize = 8 << 10;

/// What a server says about itself.
#[derive(Clone, Debug)]
pub struct Description {
    /// `Implementation`: `name`, `version`, and what else there is.
    pub info: Value,
    /// `ServerCapabilities` in the form of 2026-07-28; what a revision does not know is taken out.
    pub capabilities: Value,
    /// How a model should use this server.
    pub instructions: Option<String>,
}

/// One request, as a service sees it.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The parameters as they came in, `_meta` included; none where there were none.
    pub params: Members<'static>,
    /// The caller.
    pub caller: Arc<Caller>,
}

/// The caller of a request: what it speaks, what it can do, and who it is.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What it speaks.
    pub revision: Revision,
    /// `ClientCapabilities`, as declared.
    pub capabilities: Arc<Value>,
    /// Who the transport says it is.
    pub principal: Arc<dyn Principal>,
    /// Its session or connection; `None` for a stateless request.
    pub session: Option<Arc<str>>,
}

impl Caller {
    /// Whether this request may be sent to the caller, or what it would have had to declare.
    pub fn allows(&self, method: &str, params: &RawValue) -> Result<(), Value> {
        let name = match method {
            "elicitation/create" => "elicitation",
            "sampling/createMessage" => "sampling",
            "roots/list" => "roots",
            _ => return Ok(()),
        };
        let Some(declared) = self.capabilities.get(name).filter(|declared| declared.is_object()) else {
            return Err(serde_json::json!({ name: {} }));
        };
        let is_url = name == "elicitation"
            && Members::parse(params).and_then(|params| params.read::<String>("mode")).as_deref() == Some("url");
        // An empty object means forms only (2025-11-25, elicitation).
        if is_url && declared.get("url").is_none() {
            return Err(serde_json::json!({ "elicitation": { "url": {} } }));
        }
        Ok(())
    }
}

/// What listeners are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The tools are others.
    Tools,
    /// The prompts are others.
    Prompts,
    /// The resources are others.
    Resources,
    /// A resource has other contents.
    Resource(String),
}

/// The limits of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one message.
    pub message_bytes_max: usize,
    /// Time from the head of an HTTP request to the end of its body, and from the first byte of a line to its end.
    pub body_time_max: Duration,
    /// Requests of one session or connection that are under way at once.
    pub requests_at_once_max: usize,
    /// Messages of one batch.
    pub batch_max: usize,
    /// Sessions that are kept. At the limit the one that idles longest makes room; if none idles, a new one is refused.
    pub sessions_max: usize,
    /// A session that nobody used for so long is forgotten.
    pub session_idle_max: Duration,
    /// Calls that wait for their caller's input (2026-07-28).
    pub suspended_max: usize,
    /// Bytes of the parameters of all of them.
    pub suspended_bytes_max: usize,
    /// Of these calls and bytes, those of one principal that has a name (is not [`LOCAL`]).
    pub suspended_of_one_max: usize,
    /// See `suspended_of_one_max`.
    pub suspended_bytes_of_one_max: usize,
    /// How long they wait.
    pub suspended_time_max: Duration,
    /// How often a service may ask its caller within one call (older revisions).
    pub rounds_max: usize,
    /// How long a caller may take to answer a request of the server (older revisions).
    pub input_time_max: Duration,
    /// Resources that one session or one listener watches.
    pub watches_max: usize,
    /// Listeners (`subscriptions/listen`) that are open at once, on all connections.
    pub listeners_max: usize,
    /// An answer that is ready within this time is sent as JSON, a later one as a stream.
    pub json_time_max: Duration,
    /// A call that runs longer becomes a task, for callers that take such ([`tasks`]). Shorter than `json_time_max`, so
    /// that these callers never see a stream.
    pub task_after: Duration,
    /// How often a silent stream gets a comment, so that nobody on the way takes it for dead.
    pub keep_alive: Duration,
    /// Events that are kept for one stream until they are read (older revisions).
    pub events_max: usize,
    /// Bytes of these events, and of those of all answered streams that a session keeps.
    pub events_bytes_max: usize,
    /// Answered streams that a session keeps for a client that lost its connection.
    pub streams_kept_max: usize,
    /// Bytes of the events of all sessions; of more, streams that nobody reads lose theirs, the oldest first.
    pub streams_bytes_max: usize,
    /// A line connection that takes nothing for so long is closed.
    pub write_time_max: Duration,
    /// Where large results have their memory from, until they are sent. One for which there is no room becomes an error.
    pub memories: Memories,
}

/// Tasks that are read from the store at once; each may have a result of megabytes.
const TASKS_READ_MAX: usize = 4;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: 10 << 20,
            body_time_max: Duration::from_secs(30),
            requests_at_once_max: 256,
            batch_max: 100,
            sessions_max: 10_000,
            session_idle_max: Duration::from_secs(3600),
            suspended_max: 1024,
            suspended_bytes_max: 64 << 20,
            suspended_of_one_max: 256,
            suspended_bytes_of_one_max: 16 << 20,
            suspended_time_max: Duration::from_secs(600),
            rounds_max: 10,
            input_time_max: Duration::from_secs(600),
            watches_max: 1000,
            listeners_max: 4096,
            json_time_max: Duration::from_secs(2),
            task_after: Duration::from_millis(1500),
            keep_alive: Duration::from_secs(15),
            events_max: 256,
            events_bytes_max: 16 << 20,
            streams_kept_max: 16,
            streams_bytes_max: 32 << 20,
            write_time_max: Duration::from_secs(30),
            memories: Memories::default(),
        }
    }
}

/// A server: a service, and the state that the protocol needs around it. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    service: Arc<dyn Service>,
    /// What goes with every result of 2026-07-28: the `Implementation`, as text.
    info: Box<RawValue>,
    limits: Limits,
    suspended: suspended::SuspendedCalls,
    sessions: session::Sessions,
    backlog: Arc<sink::Backlog>,
    listeners: Arc<tokio::sync::Semaphore>,
    /// Held while a task is read from the store and its answer is not counted.
    reading: tokio::sync::Semaphore,
    /// Principals whose listeners are to end.
    gone: broadcast::Sender<Arc<str>>,
    /// Calls that outlive their request, if there is a store for them.
    durable: Option<Arc<tasks::Tasks>>,
    /// Requests of sessions, which go on when their HTTP request has gone away.
    tasks: TaskTracker,
    /// Cancelled when the server stops.
    stop: CancellationToken,
    timers: Timers,
}

impl Server {
    /// A server with nothing under way.
    pub fn new(service: Arc<dyn Service>, limits: Limits) -> Server {
        Server::with(service, limits, None)
    }

    /// The same, and calls that take long become tasks, which are kept in this store. [`Server::keep_tasks`] is to be
    /// called when the service is ready.
    pub fn with_tasks(service: Arc<dyn Service>, limits: Limits, store: Arc<dyn tasks::TaskStore>) -> Server {
        Server::with(service, limits, Some(Arc::new(tasks::Tasks::new(store))))
    }

    /// Hold the tasks that run here from now on, and go on with those that a former server left in the store, until the
    /// server stops. To be called once, inside a runtime.
    pub fn keep_tasks(&self) {
        if let Some(durable) = &self.inner.durable {
            self.inner.tasks.spawn(tasks::Tasks::keep(Arc::downgrade(&self.inner), Arc::clone(durable)));
        }
    }

    fn with(service: Arc<dyn Service>, limits: Limits, durable: Option<Arc<tasks::Tasks>>) -> Server {
        let info = to_raw_value(&service.describe().info).unwrap_or_else(|_| RawValue::NULL.to_owned());
        let inner = Inner {
            info,
            suspended: suspended::SuspendedCalls::new(&limits),
            sessions: session::Sessions::new(limits.sessions_max, limits.session_idle_max),
            backlog: sink::Backlog::new(limits.streams_bytes_max),
            listeners: Arc::new(tokio::sync::Semaphore::new(limits.listeners_max)),
            reading: tokio::sync::Semaphore::new(TASKS_READ_MAX),
            gone: broadcast::channel(GONE_MAX).0,
            durable,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            timers: Timers::default(),
            service,
            limits,
        };
        Server { inner: Arc::new(inner) }
    }

    /// Release the tasks that run: their calls are given up here, and whoever comes next takes them over. To be called
    /// before their calls are cancelled one by one, which would look like their end.
    pub async fn suspend_tasks(&self) {
        if let Some(tasks) = &self.inner.durable {
            tasks.suspend().await;
        }
    }

    /// Give up the calls that wait for their caller's input, and refuse to wait for more.
    pub fn stop_waiting_for_input(&self) {
        self.inner.suspended.close();
    }

    /// End listeners and sessions, cancel what is under way, and wait for it.
    pub async fn stop(&self) {
        self.stop_waiting_for_input();
        self.suspend_tasks().await;
        self.inner.stop.cancel();
        self.inner.sessions.close_all();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Let this principal in no more: what it has opened over HTTP ends, sessions with all that runs in them, and listeners.
    pub fn revoke(&self, principal: &Arc<str>) {
        self.inner.sessions.close_of(principal);
        let _ = self.inner.gone.send(Arc::clone(principal)); // nobody may listen
    }

    /// Tasks that run here.
    pub fn tasks_running(&self) -> usize {
        self.inner.durable.as_ref().map_or(0, |tasks| tasks.running_count())
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.inner.sessions.len()
    }
}

/// Whether what a caller declares about itself is small enough to be kept.
fn check_declared(capabilities: Option<&RawValue>, info: Option<&RawValue>) -> Result<(), ErrorObject> {
    let bytes = [capabilities, info].into_iter().flatten().map(|value| value.get().len()).sum::<usize>();
    if bytes > DECLARED_BYTES_MAX {
        let message = format!("capabilities and clientInfo have at most {DECLARED_BYTES_MAX} bytes together");
        return Err(ErrorObject::new(code::INVALID_PARAMS, message));
    }
    Ok(())
}

/// The URI of a resource that is to be watched.
fn check_uri(uri: &str) -> Result<(), ErrorObject> {
    if uri.len() > URI_BYTES_MAX {
        let message = format!("the URI of a resource that is watched has at most {URI_BYTES_MAX} bytes");
        return Err(ErrorObject::new(code::INVALID_PARAMS, message));
    }
    Ok(())
}

/// An unguessable name: 128 bits in hexadecimal digits, which are fit for a header (Streamable HTTP, 2025-11-25).
fn unguessable() -> String {
    random::<16>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Interrupted at most; the kernel's generator does not fail once it has been seeded.
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}
