//! The client side of the protocol, for every revision at once: one connection to one server.
//!
//! A [`Connection`] finds out which era a server speaks, and from then on a call is a call: its parameters and its result
//! pass through as text. Only what belongs to the connection is changed on the way: ids, progress tokens, and the metadata
//! that requests of 2026-07-28 carry and older ones must not.
//!
//! Transports: lines (stdio of a child process, TCP; [`Connection::over_lines`]), Streamable HTTP and the HTTP+SSE of
//! 2024-11-05 ([`Connection::over_http`]). Who starts a process, keeps it, and ends it is decided outside: this module is
//! only told how to get a new pair of streams ([`Dial`]).
//!
//! Nothing that a server does harms more than its own callers: what is no message is skipped and logged, and queues,
//! sizes and times have limits ([`Limits`]).

mod asking;
pub mod auth;
mod flight;
mod flow;
mod http;
mod ids;
mod lines;
mod link;
mod open;

use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use self::{
    asking::{Asking, Meta},
    flight::Flight,
};
pub use self::{
    flow::{Flow, flooded},
    http::Target,
    lines::{Dial, Streams, Tcp},
};
use crate::{
    cancel::Cancel,
    framing::{Held, Memories, NoMemory, ROOM_TIME_MAX, SMALL_BYTES},
    message::{ErrorObject, Notification, Request},
    revision::Revision,
    server::{Members, code},
    timer::Timers,
};

/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Large answers that wait, after they were read, for what their principals may have; others fail instead. On lines nobody knows whose
/// an answer is before it is read.
static COUNTED_LATE: Semaphore = Semaphore::const_new(1);
/// Between two attempts to listen for changes.
const LISTEN_PAUSE: Duration = Duration::from_secs(5);

/// Why a call has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The server answered with an error; it is the caller's, as it is.
    #[error("{} ({})", .0.message, .0.code)]
    Rpc(ErrorObject),
    /// It did not answer in time; it was told to stop.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection is gone, and with it the call. Whether the server acted on it is not known.
    #[error("the connection to the server is closed: {0}")]
    Closed(String),
    /// The HTTP server answered with this status and no message of the protocol.
    #[error("the server answered with HTTP status {status}: {text}")]
    Http {
        /// The status.
        status: u16,
        /// The beginning of the body.
        text: String,
    },
    /// The server wants a token that this client does not have.
    #[error("{0}")]
    Unauthorized(auth::Denied),
    /// Its answer is large, and there was no memory for it.
    #[error("there is no room for its answer: {0}")]
    NoRoom(NoMemory),
    /// What it sent is not the protocol.
    #[error("the server does not keep to the protocol: {0}")]
    Protocol(String),
}

/// What a server sends on its own account.
pub trait Handler: Send + Sync + 'static {
    /// A notification. Called from the task that reads: it must not block.
    fn notification(&self, notification: Notification);

    /// A request of the server (revisions until 2025-11-25): `elicitation/create`, `sampling/createMessage`,
    /// `roots/list`. `ping` is answered before it comes here. Dropping the future withdraws it.
    fn request(&self, request: Request) -> BoxFuture<'static, Result<Box<RawValue>, ErrorObject>> {
        let message = format!("this client does not answer {}", request.method);
        let error = ErrorObject::new(code::METHOD_NOT_FOUND, message);
        Box::pin(async { Err(error) })
    }

    /// On whose behalf the call is made. A question that may belong to calls of several principals goes to none of them.
    fn principal(&self) -> &str {
        ""
    }

    /// Keep what the answer of the call takes of the memory, until nobody needs the answer any more.
    fn keep(&self, _held: Held) {}

    /// Bytes that an answer of so many takes with what is made of it.
    fn bytes_kept(&self, answer: usize) -> usize {
        answer
    }
}

/// Ignores notifications and refuses requests.
impl Handler for () {
    fn notification(&self, _: Notification) {}
}

/// Who connects, and within which limits.
#[derive(Clone)]
pub struct Setup {
    /// `Implementation`: what this client is.
    pub info: Value,
    /// `ClientCapabilities`: what it can do for a server.
    pub capabilities: Value,
    /// Gets what belongs to no call.
    pub handler: Arc<dyn Handler>,
    /// The limits.
    pub limits: Limits,
    /// What the server spoke the last time; spares the question when that was an older revision.
    pub revision: Option<Revision>,
}

/// The limits of a connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one message.
    pub message_bytes_max: usize,
    /// Calls under way at once; one more waits.
    pub calls_at_once_max: usize,
    /// Requests of the server under way at once; one more is refused.
    pub asked_at_once_max: usize,
    /// How long a server may take to say whether it speaks 2026-07-28 before it is asked in the older way as well.
    pub probe_time_max: Duration,
    /// How long it may then stay silent until it is started anew, without that question: some servers do not survive it.
    /// Those that mind mostly die of it, which needs no waiting; package runners that fetch a server first are silent for
    /// as long, and must not be cut short.
    pub silence_time_max: Duration,
    /// Time for everything until the first call.
    pub start_time_max: Duration,
    /// A server that takes nothing for so long is given up.
    pub write_time_max: Duration,
    /// Where large messages have their memory from while they are read; an answer takes that of whoever called.
    pub memories: Memories,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: 32 << 20,
            calls_at_once_max: 256,
            asked_at_once_max: 32,
            probe_time_max: Duration::from_secs(4),
            silence_time_max: Duration::from_secs(45),
            start_time_max: Duration::from_secs(120),
            write_time_max: Duration::from_secs(30),
            memories: Memories::default(),
        }
    }
}

/// What one call asks for.
#[derive(Clone)]
pub struct CallOptions {
    /// How long the server may be silent; progress begins it anew.
    pub timeout: Duration,
    /// How long it may take in all.
    pub deadline: Duration,
    /// Whether to ask for progress, which goes to `handler`.
    pub wants_progress: bool,
    /// Gets what the server sends because of this call: progress, log messages, requests. On lines, where only progress
    /// says which call it belongs to, the rest comes here while this call is the only one that may speak; otherwise the connection's
    /// handler gets it.
    pub handler: Option<Arc<dyn Handler>>,
    /// What the caller can do for the server within this call (2026-07-28); otherwise the connection's capabilities.
    pub capabilities: Option<Arc<Value>>,
}

impl Default for CallOptions {
    fn default() -> CallOptions {
        CallOptions {
            timeout: Duration::from_secs(60),
            deadline: Duration::from_secs(3600),
            wants_progress: false,
            handler: None,
            capabilities: None,
        }
    }
}

/// What a server says about itself.
#[derive(Clone, Debug)]
pub struct Info {
    /// The revision in use.
    pub revision: Revision,
    /// `Implementation`; for display, never to be trusted.
    pub server: Option<Value>,
    /// `ServerCapabilities`.
    pub capabilities: Value,
    /// How a model should use it.
    pub instructions: Option<String>,
}

impl Info {
    /// Whether the server declared `capabilities.{area}.{what}`.
    fn declares(&self, area: &str, what: &str) -> bool {
        self.capabilities[area][what] == Value::Bool(true)
    }
}

/// A connection to a server, open and ready. Clones share it; the last one closes it when it is dropped.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Transport,
    info: Info,
    setup: Setup,
    /// What this client is, as JSON: it goes with each call to a server of 2026-07-28.
    own_info: String,
    /// The resources that are watched (2026-07-28).
    watched: watch::Sender<BTreeSet<String>>,
    timers: Timers,
    tasks: TaskTracker,
}

#[derive(Clone)]
enum Transport {
    Link(Arc<link::Link>),
    Http(Arc<http::Http>),
}

impl Transport {
    /// Call a method. Dropping the future withdraws the call.
    async fn call(&self, asking: &Asking<'_>, flight: &Arc<Flight>) -> Result<Box<RawValue>, CallError> {
        match self {
            Transport::Link(link) => link.call(asking, flight).await,
            Transport::Http(http) => http.call(asking, flight).await,
        }
    }
}

impl Connection {
    /// Connect over lines: one message a line, over whatever `dial` opens. It is asked again when the server did not
    /// survive the question which era it speaks.
    pub async fn over_lines(dial: &mut dyn Dial, setup: Setup) -> Result<Connection, CallError> {
        let time_max = setup.limits.start_time_max;
        let opening = open::lines(dial, &setup);
        let (link, info) = within(time_max, opening).await?;
        Ok(Connection::new(Transport::Link(link), info, setup))
    }

    /// Connect over HTTP.
    pub async fn over_http(target: Target, setup: Setup) -> Result<Connection, CallError> {
        let time_max = setup.limits.start_time_max;
        let (transport, info) = within(time_max, open::http(target, &setup)).await?;
        Ok(Connection::new(transport, info, setup))
    }

    fn new(transport: Transport, info: Info, setup: Setup) -> Connection {
        let inner = Inner {
            watched: watch::Sender::new(BTreeSet::new()),
            tasks: TaskTracker::new(),
            transport,
            info,
            own_info: setup.info.to_string(),
            setup,
            timers: Timers::default(),
        };
        let connection = Connection { inner: Arc::new(inner) };
        if connection.inner.info.revision.is_modern() {
            connection.inner.tasks.spawn(listen(Arc::downgrade(&connection.inner)));
        }
        connection
    }

    /// What the server says about itself.
    pub fn info(&self) -> &Info {
        &self.inner.info
    }

    /// Call a method. Dropping the future withdraws the call.
    pub async fn call(
        &self,
        method: &str,
        params: Members<'static>,
        options: CallOptions,
    ) -> Result<Box<RawValue>, CallError> {
        self.inner.call(method, params, options).await
    }

    /// Hear of changes of a resource, as `notifications/resources/updated`.
    pub async fn watch(&self, uri: &str) -> Result<(), CallError> {
        if self.inner.info.revision.is_modern() {
            self.inner.watched.send_if_modified(|uris| uris.insert(uri.to_owned()));
            return Ok(());
        }
        self.inner.call("resources/subscribe", uri_params(uri), CallOptions::default()).await.map(drop)
    }

    /// Hear of them no more.
    pub async fn unwatch(&self, uri: &str) -> Result<(), CallError> {
        if self.inner.info.revision.is_modern() {
            self.inner.watched.send_if_modified(|uris| uris.remove(uri));
            return Ok(());
        }
        self.inner.call("resources/unsubscribe", uri_params(uri), CallOptions::default()).await.map(drop)
    }

    /// Tell the server something.
    pub async fn notify(&self, method: &str, params: Option<Box<RawValue>>) -> Result<(), CallError> {
        let notification = Notification { method: method.to_owned().into(), params };
        match &self.inner.transport {
            Transport::Link(link) => link.notify(notification).await,
            Transport::Http(http) => http.notify(notification).await,
        }
    }

    /// Cancelled when the connection is gone.
    pub fn closed(&self) -> &Arc<Cancel> {
        self.inner.closed()
    }

    /// Why it is gone, once it is.
    pub fn reason(&self) -> Option<String> {
        match &self.inner.transport {
            Transport::Link(link) => link.reason(),
            Transport::Http(http) => http.closed().is_cancelled().then(|| "it was closed".to_owned()),
        }
    }

    /// What the server did for which it was given up, if that is why it is gone.
    pub fn fault(&self) -> Option<String> {
        match &self.inner.transport {
            Transport::Link(link) => link.fault(),
            Transport::Http(_) => None,
        }
    }

    /// End it: what is under way fails for this reason, an HTTP session is deleted, a process sees the end of its input.
    pub async fn close(&self, reason: &str) {
        match &self.inner.transport {
            Transport::Link(link) => link.close(reason).await,
            Transport::Http(http) => http.close().await,
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    fn closed(&self) -> &Arc<Cancel> {
        match &self.transport {
            Transport::Link(link) => link.closed(),
            Transport::Http(http) => http.closed(),
        }
    }

    async fn call(
        &self,
        method: &str,
        params: Members<'static>,
        options: CallOptions,
    ) -> Result<Box<RawValue>, CallError> {
        let flight = Flight::new(options.handler);
        let meta = Meta {
            info: &self.own_info,
            is_modern: self.info.revision.is_modern(),
            capabilities: options.capabilities.as_deref().unwrap_or(&self.setup.capabilities),
            wants_progress: options.wants_progress,
        };
        let asking = Asking { method, params: &params, meta: Some(meta) };
        let calling = pin!(self.transport.call(&asking, &flight));
        let start = Instant::now();
        // Who waits for ever may say so with a time that has no end.
        let end = start.checked_add(options.deadline);
        let deadline = |heard: Instant| {
            let silent = heard.checked_add(options.timeout);
            silent.into_iter().chain(end).min().unwrap_or_else(|| start + FOR_EVER)
        };
        let later = || deadline(flight.progressed().unwrap_or(start));
        // What is given up is dropped, and so withdrawn.
        let result = self.timers.wait_until(deadline(start), later, calling).await;
        let result = result.unwrap_or_else(|| Err(CallError::TimedOut(start.elapsed())))?;
        if result.get().len() > SMALL_BYTES {
            Box::pin(self.count(&result, &flight)).await?;
        }
        Ok(result)
    }

    /// Have a large answer take as much of the memory as it needs, now that it is read, and hand that on with it.
    async fn count(&self, result: &RawValue, flight: &Flight) -> Result<(), CallError> {
        let Some(memory) = self.setup.limits.memories.of(flight.principal()) else { return Ok(()) };
        let (answer, mut held) = (result.get().len(), flight.take_held());
        let bytes = flight.handler.as_ref().map_or(answer, |handler| handler.bytes_kept(answer));
        held.iter_mut().for_each(|held| held.shrink(bytes));
        if let Err(none) = memory.hold(&mut held, bytes) {
            // It is there, and takes memory from others while it waits for its principal's.
            let _waiting = COUNTED_LATE.try_acquire().map_err(|_| CallError::NoRoom(none))?;
            let until = Instant::now() + ROOM_TIME_MAX;
            memory.make_room(&mut held, bytes, until).await.map_err(CallError::NoRoom)?;
        }
        if let (Some(held), Some(handler)) = (held, &flight.handler) {
            handler.keep(held);
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        match &self.transport {
            Transport::Link(link) => link.shut("it was closed"),
            Transport::Http(http) => http.shut(),
        }
    }
}

fn uri_params(uri: &str) -> Members<'static> {
    Members::of(&json!({ "uri": uri }))
}

async fn within<T>(time_max: Duration, future: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    tokio::time::timeout(time_max, future).await.unwrap_or(Err(CallError::TimedOut(time_max)))
}

/// Listen for what changes at a server of 2026-07-28, as long as the connection lives.
async fn listen(connection: Weak<Inner>) {
    let Some((mut watched, closed)) =
        connection.upgrade().map(|one| (one.watched.subscribe(), Arc::clone(one.closed())))
    else {
        return;
    };
    loop {
        let uris: Vec<String> = watched.borrow_and_update().iter().cloned().collect();
        let listening = async {
            let Some(connection) = connection.upgrade() else { return false };
            let info = &connection.info;
            let mut wanted = json!({});
            for (area, name) in [
                ("tools", "toolsListChanged"),
                ("prompts", "promptsListChanged"),
                ("resources", "resourcesListChanged"),
            ] {
                if info.declares(area, "listChanged") {
                    wanted[name] = true.into();
                }
            }
            if !uris.is_empty() {
                wanted["resourceSubscriptions"] = json!(uris);
            }
            if wanted.as_object().is_none_or(serde_json::Map::is_empty) {
                return true; // until something is watched
            }
            // The connection must not live on because it is listened to.
            let open = connection.listen(wanted);
            drop(connection);
            open.await
        };
        let was_refused = tokio::select! {
            was_refused = listening => was_refused,
            _ = watched.changed() => continue,
            () = closed.cancelled() => return,
        };
        let pause = async {
            if was_refused {
                std::future::pending::<()>().await;
            }
            sleep(LISTEN_PAUSE).await;
        };
        tokio::select! {
            () = pause => {}
            changed = watched.changed() => if changed.is_err() { return },
            () = closed.cancelled() => return,
        }
    }
}

impl Inner {
    /// One stream of changes, until it ends; whether the server does not have such a thing.
    fn listen(&self, wanted: Value) -> impl Future<Output = bool> + Send + use<> {
        let params = Members::of(&json!({ "notifications": wanted }));
        let (setup, info) = (self.setup.clone(), self.own_info.clone());
        let transport = self.transport.clone();
        async move {
            let meta = Meta { info: &info, is_modern: true, capabilities: &setup.capabilities, wants_progress: false };
            let asking = Asking { method: "subscriptions/listen", params: &params, meta: Some(meta) };
            let flight = Flight::new(None);
            matches!(transport.call(&asking, &flight).await, Err(CallError::Rpc(_)))
        }
    }
}

/// Logs what a server sent that is no message; of many the first few.
struct MalformedOutput {
    seen: std::sync::atomic::AtomicU32,
    is_over: AtomicBool,
}

impl MalformedOutput {
    /// Lines that are logged for one connection.
    const LOGGED_MAX: u32 = 10;
    /// Bytes of them that are logged.
    const BYTES_MAX: usize = 200;

    fn new() -> MalformedOutput {
        MalformedOutput { seen: 0.into(), is_over: false.into() }
    }

    fn log(&self, text: &[u8], why: &str) {
        if self.seen.fetch_add(1, Ordering::Relaxed) < Self::LOGGED_MAX {
            let text = String::from_utf8_lossy(&text[..text.len().min(Self::BYTES_MAX)]);
            tracing::warn!(%text, why, "the server sent what is no message; skipped");
        } else if !self.is_over.swap(true, Ordering::Relaxed) {
            tracing::warn!("the server sends more that is no message; not logged any more");
        }
    }
}
