//! Sessions of the revisions until 2025-11-25: begun by `initialize`, on a connection of their own or under an
//! `Mcp-Session-Id`.
//!
//! A session outlives the HTTP requests that it is used by: its calls go on in tasks when a connection breaks, and are not
//! cancelled. On a connection with lines the session also carries the stateless requests of 2026-07-28; the two eras
//! share nothing there but ids and the number of requests at once.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tokio::{
    sync::{broadcast, oneshot},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BoxFuture, Call, Caller, Change, Inner, Level, Members, Outcome, Principal, Watch, code, convert,
    edited::Edited,
    exchange::{Exchange, Step},
    input,
    modern::{self, Frame, Known, Opened},
    peer::{Asked, Event, Ids, Terms},
    sink::{self, Batch, EventStream, Sink, Text},
    unguessable,
};
use crate::{
    framing::{Held, SMALL_BYTES},
    message::{ErrorObject, Id, Malformed, Message, Method, Notification, Request, Response},
    revision::Revision,
};

/// What a transport allows beyond the specification.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SessionOptions {
    /// Requests without a handshake are taken as this revision's.
    pub(super) unannounced: Option<Revision>,
    /// There is a method `batch`.
    pub(super) has_batch_method: bool,
    /// Changes results before they are sent.
    pub(super) finish: Option<super::lines::Finish>,
    /// Requests of 2026-07-28 may come on this connection too.
    pub(super) is_dual: bool,
}

/// One session.
pub(super) struct Session {
    server: Arc<Inner>,
    pub(super) id: Arc<str>,
    pub(super) principal: Arc<dyn Principal>,
    options: SessionOptions,
    negotiated: OnceLock<Arc<Caller>>,
    level: Mutex<Level>,
    asked: Mutex<Questions>,
    running: Mutex<HashMap<Id, CancellationToken>>,
    watches: Mutex<HashMap<String, Watch>>,
    /// Where messages go that belong to no request.
    unsolicited: Sink,
    streams: Mutex<VecDeque<Arc<EventStream>>>,
    streams_last: AtomicU64,
    used: Mutex<Instant>,
    /// Its requests.
    tasks: TaskTracker,
    /// Cancelled when nothing more is read, and so nobody listens.
    unheard: CancellationToken,
    /// What its caller says about itself with requests of 2026-07-28.
    known: Mutex<Known>,
    closed: CancellationToken,
}

/// What is answered, and what it takes of the memory.
type Counted = (Result<Edited, ErrorObject>, Option<Held>);

/// Requests to the caller.
#[derive(Default)]
struct Questions {
    ids: Ids,
    /// Those that it has not answered.
    waiting: HashMap<Id, oneshot::Sender<Outcome>>,
}

impl Questions {
    fn add(&mut self, name: Option<String>, tell: oneshot::Sender<Outcome>) -> Id {
        let id = self.ids.next(name);
        self.waiting.insert(id.clone(), tell);
        id
    }
}

/// What is to be done until a request is answered. Whoever waits for the answer may do it, which spares a task; what is left when this
/// is dropped goes on in one.
pub(super) struct Work {
    left: Option<BoxFuture<()>>,
    tasks: TaskTracker,
}

impl Work {
    fn new(tasks: &TaskTracker, work: impl Future<Output = ()> + Send + 'static) -> Work {
        Work { left: Some(Box::pin(work)), tasks: tasks.clone() }
    }

    /// Work on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(left) = &mut self.left {
            ready!(left.as_mut().poll(cx));
            self.left = None;
        }
        Poll::Ready(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let (Some(left), Ok(runtime)) = (self.left.take(), tokio::runtime::Handle::try_current()) {
            self.tasks.spawn_on(left, &runtime);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(super) fn new(
        server: &Arc<Inner>,
        principal: Arc<dyn Principal>,
        unsolicited: Sink,
        options: SessionOptions,
    ) -> Arc<Session> {
        let streams = match &unsolicited {
            Sink::Stream(stream) => VecDeque::from([Arc::clone(stream)]),
            _ => VecDeque::new(),
        };
        Arc::new(Session {
            id: unguessable().into(),
            principal,
            options,
            negotiated: OnceLock::new(),
            level: Mutex::new(Level::Debug),
            asked: Mutex::default(),
            running: Mutex::default(),
            watches: Mutex::default(),
            unsolicited,
            streams: Mutex::new(streams),
            streams_last: AtomicU64::new(0),
            used: Mutex::new(Instant::now()),
            tasks: TaskTracker::new(),
            unheard: CancellationToken::new(),
            known: Mutex::default(),
            closed: server.stop.child_token(),
            server: Arc::clone(server),
        })
    }

    /// The revision that was agreed on, once it was.
    pub(super) fn revision(&self) -> Option<Revision> {
        self.negotiated.get().map(|caller| caller.revision)
    }

    /// Cancelled when the session ends.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Wait until the requests that were received are answered. Those that only listen end.
    pub(super) async fn answered_all(&self) {
        self.unheard.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Where messages go that belong to no request.
    pub(super) fn unsolicited(&self) -> &Sink {
        &self.unsolicited
    }

    /// Cancel everything of it.
    pub(super) fn close(&self) {
        self.closed.cancel();
        for stream in lock(&self.streams).iter() {
            stream.close();
        }
        lock(&self.watches).clear();
        lock(&self.asked).waiting.clear();
    }

    /// Whether there is a method `batch`.
    pub(super) fn has_batch_method(&self) -> bool {
        self.options.has_batch_method
    }

    /// Whether messages that came together are taken apart (2025-03-26).
    pub(super) fn takes_batches(&self) -> bool {
        self.options.has_batch_method || matches!(self.revision(), None | Some(Revision::V2025_03_26))
    }

    /// Take messages that came together; their answers go together, too.
    pub(super) async fn receive_batch(self: &Arc<Self>, messages: Vec<Result<Message, Malformed>>, to: &Sink) {
        let requests = messages.iter().filter(|message| matches!(message, Ok(Message::Request(_)) | Err(_))).count();
        if requests == 0 {
            to.end(None).await;
        }
        let batch = Sink::Batch(Arc::new(Batch::new(to.clone(), self.unsolicited.clone(), requests)));
        for message in messages {
            match message {
                Ok(Message::Request(request)) if request.method == "initialize" => {
                    let error = ErrorObject::new(code::INVALID_REQUEST, "initialize must not be part of a batch");
                    batch.end(Some(sink::error(Some(&request.id), &error).into())).await;
                }
                Ok(message) => drop(self.receive(message, &batch).await), // they run at once
                Err(malformed) => batch.end(Some(sink::error(malformed.id.as_ref(), &malformed.error).into())).await,
            }
        }
    }

    /// Take one message. Answers go `to`; this returns before they do, unless they are known at once, with what is to be done
    /// until then.
    pub(super) async fn receive(self: &Arc<Self>, message: Message, to: &Sink) -> Option<Work> {
        *lock(&self.used) = Instant::now();
        match message {
            Message::Request(request) => return self.request(request, to).await,
            Message::Notification(notification) => self.notified(&notification),
            Message::Response(response) => self.answered(response),
        }
        None
    }

    async fn request(self: &Arc<Self>, request: Request, to: &Sink) -> Option<Work> {
        if self.options.is_dual && modern::is_modern(&request) {
            return self.begin_modern(request, to).await;
        }
        let answer = match &*request.method {
            "initialize" => Some(self.initialize(request.params.as_deref())),
            "ping" => Some(self.finished("ping", Ok(input::empty()))),
            _ => None,
        };
        let outcome = match answer {
            Some(outcome) => outcome,
            None => match self.caller() {
                Ok(caller) => return self.begin(request, caller, to).await,
                Err(error) => Err(error),
            },
        };
        to.end(Some(Text::response(&request.id, outcome))).await;
        None
    }

    /// What this connection makes of a result, before it takes the form of the caller's revision.
    fn finished(&self, method: &str, outcome: Outcome) -> Outcome {
        match self.options.finish {
            Some(finish) => outcome.map(|result| finish(method, result)),
            None => outcome,
        }
    }

    /// The same. It may be longer than what was counted.
    fn finished_and_counted(&self, method: &str, outcome: Outcome, mut held: Option<Held>) -> (Outcome, Option<Held>) {
        let outcome = self.finished(method, outcome);
        let bytes = outcome.as_ref().map_or(0, |result| result.get().len());
        if let (Some(_), SMALL_BYTES..) = (self.options.finish, bytes)
            && let Some(memory) = self.server.limits.memories.of(self.principal.name())
            && let Err(none) = memory.hold(&mut held, bytes)
        {
            return (Err(ErrorObject::new(code::BUSY, none.to_string())), None);
        }
        (outcome, held)
    }

    fn caller(&self) -> Result<Arc<Caller>, ErrorObject> {
        if let (None, Some(revision)) = (self.negotiated.get(), self.options.unannounced) {
            let _ = self.negotiated.set(self.make_caller(revision, &Members::default()));
        }
        self.negotiated.get().cloned().ok_or_else(|| {
            let message = "send initialize first, or the metadata of a stateless request (2026-07-28) in params._meta";
            ErrorObject::new(code::INVALID_REQUEST, message)
        })
    }

    fn make_caller(&self, revision: Revision, params: &Members<'_>) -> Arc<Caller> {
        Arc::new(Caller {
            revision,
            capabilities: Arc::new(params.read("capabilities").unwrap_or_else(|| Value::Object(Default::default()))),
            principal: Arc::clone(&self.principal),
            session: Some(Arc::clone(&self.id)),
        })
    }

    fn initialize(self: &Arc<Self>, params: Option<&RawValue>) -> Outcome {
        let invalid = |message: &str| ErrorObject::new(code::INVALID_PARAMS, message.to_owned());
        let params = params.and_then(Members::parse).ok_or_else(|| invalid("initialize needs params"))?;
        let requested: String = params
            .read("protocolVersion")
            .ok_or_else(|| invalid("params.protocolVersion is missing; it looks like \"2025-11-25\""))?;
        super::check_declared(params.get("capabilities"), params.get("clientInfo"))?;
        // What is not known, and 2026-07-28, which has no handshake, gets the newest that has one.
        let known = requested.parse::<Revision>().ok().filter(|revision| !revision.is_modern());
        let revision = known.unwrap_or(Revision::V2025_11_25);
        if self.negotiated.set(self.make_caller(revision, &params)).is_err() {
            let message = "this session is initialized already; open another one";
            return Err(ErrorObject::new(code::INVALID_REQUEST, message));
        }
        let changes = self.server.service.changes();
        self.server.tasks.spawn(Arc::clone(self).tell_changes(changes));
        Ok(convert::initialize(self.server.service.describe(), revision))
    }

    /// Tell the caller of changes until the session ends.
    async fn tell_changes(self: Arc<Self>, mut changes: broadcast::Receiver<Change>) {
        while let Some(change) = self.closed.run_until_cancelled(changes.recv()).await {
            let told = match change {
                Ok(change) => vec![change],
                // It did not keep up: whatever it missed, it must look again.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let watched =
                        lock(&self.watches).keys().map(|uri| Change::Resource(uri.clone())).collect::<Vec<_>>();
                    [Change::Tools, Change::Prompts, Change::Resources].into_iter().chain(watched).collect()
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            for change in told {
                if let Change::Resource(uri) = &change
                    && !lock(&self.watches).contains_key(uri)
                {
                    continue;
                }
                let (method, params) = change.notification();
                if let Ok(params) = to_raw_value(&params) {
                    self.unsolicited.send(sink::notification(method, &params)).await;
                }
            }
        }
    }

    /// Count a request as running, unless there are too many or its id is in use.
    fn admit(&self, id: &Id) -> Result<CancellationToken, ErrorObject> {
        let requests_max = self.server.limits.requests_at_once_max;
        let mut running = lock(&self.running);
        if running.contains_key(id) {
            return Err(ErrorObject::new(code::INVALID_REQUEST, "another request with this id is under way"));
        }
        if running.len() >= requests_max {
            let message = format!("{requests_max} requests are under way on this session; wait for an answer");
            return Err(ErrorObject::new(code::BUSY, message));
        }
        let cancel = self.closed.child_token();
        running.insert(id.clone(), cancel.clone());
        Ok(cancel)
    }

    async fn admit_or_refuse(&self, id: &Id, to: &Sink) -> Option<CancellationToken> {
        match self.admit(id) {
            Ok(cancel) => Some(cancel),
            Err(error) => {
                to.end(Some(sink::error(Some(id), &error).into())).await;
                None
            }
        }
    }

    async fn begin_modern(self: &Arc<Self>, request: Request, to: &Sink) -> Option<Work> {
        let cancel = self.admit_or_refuse(&request.id, to).await?;
        let (session, to, counted) = (Arc::clone(self), to.clone(), self.server.tasks.token());
        Some(Work::new(&self.tasks, async move {
            let _counted = counted;
            let id = request.id.clone();
            let is_listener = request.method == "subscriptions/listen";
            let request = Arc::new(request);
            let opened = Opened::new(&request, &session.principal, &mut lock(&session.known));
            let mut begun = modern::begin(&session.server, opened).await;
            let unheard = async {
                match is_listener {
                    true => session.unheard.cancelled().await,
                    false => std::future::pending().await,
                }
            };
            tokio::pin!(unheard);
            let answer = loop {
                let next = tokio::select! {
                    next = cancel.run_until_cancelled(begun.next()) => next,
                    () = &mut unheard => None,
                };
                match next {
                    Some(Some(Frame::Notification(text))) => to.send(text).await,
                    Some(Some(Frame::Answer(answer))) => break Some(answer.text),
                    Some(None) | None => break None,
                }
            };
            lock(&session.running).remove(&id);
            if answer.is_some() && is_listener {
                // How a server takes down a listener on a connection with lines (2026-07-28, subscriptions).
                let params = to_raw_value(&serde_json::json!({ "requestId": id })).unwrap_or_else(|_| input::empty());
                to.send(sink::notification("notifications/cancelled", &params)).await;
            }
            match answer {
                Some(text) => to.answer(&id, text).await,
                None => to.end(None).await,
            }
        }))
    }

    async fn begin(self: &Arc<Self>, request: Request, caller: Arc<Caller>, to: &Sink) -> Option<Work> {
        let cancel = self.admit_or_refuse(&request.id, to).await?;
        let (session, to, counted) = (Arc::clone(self), to.clone(), self.server.tasks.token());
        Some(Work::new(&self.tasks, async move {
            let _counted = counted;
            let outcome = cancel.run_until_cancelled(session.work(&request, caller, &to)).await;
            lock(&session.running).remove(&request.id);
            match outcome {
                Some((outcome, held)) => {
                    let text = Text::response(&request.id, outcome).holding(held);
                    to.answer(&request.id, text).await;
                }
                None => to.end(None).await, // a withdrawn request is not answered
            }
        }))
    }

    /// Answer one request of an older revision.
    async fn work(self: &Arc<Self>, request: &Request, caller: Arc<Caller>, to: &Sink) -> Counted {
        let params = request.params.as_deref();
        let outcome = match &*request.method {
            "logging/setLevel" => self.set_level(params),
            "resources/subscribe" => self.watch(params, caller).await,
            "resources/unsubscribe" => self.unwatch(params),
            "batch" if self.options.has_batch_method => return self.batch(params, &caller, to).await,
            _ => return self.call(&request.method, params, caller, to).await,
        };
        (outcome.map(Edited::from), None)
    }

    async fn call(
        self: &Arc<Self>,
        method: &Method,
        params: Option<&RawValue>,
        caller: Arc<Caller>,
        to: &Sink,
    ) -> Counted {
        let revision = caller.revision;
        let Some(params) = params.map_or_else(|| Some(Members::default()), Members::parse) else {
            return (Err(ErrorObject::new(code::INVALID_PARAMS, "params must be an object")), None);
        };
        let meta = params.get("_meta").and_then(Members::parse).unwrap_or_default();
        let terms = Terms { progress: modern::progress_token(&meta), level: Some(*lock(&self.level)) };
        let call = Call { method: method.clone(), params: params.into_owned(), caller };
        let mut exchange = Exchange::begin(&self.server.service, call, terms, self.server.limits.rounds_max);
        loop {
            match exchange.next(&self.server.limits.memories).await {
                Step::Event(Event::Notification { method, params }) => {
                    to.send(sink::notification(&method, &params)).await
                }
                Step::Event(Event::Ask(asked)) => self.ask(asked, to).await,
                Step::Done(outcome, held) => {
                    let (outcome, held) = self.finished_and_counted(method, outcome, held);
                    return (convert::lowered(method, outcome, revision), held);
                }
            }
        }
    }

    /// Calls in one request (`batch`): they run at once, and the result is the list of their outcomes, in their order.
    async fn batch(self: &Arc<Self>, params: Option<&RawValue>, caller: &Arc<Caller>, to: &Sink) -> Counted {
        #[derive(serde::Deserialize)]
        struct Wanted {
            id: Option<Box<RawValue>>,
            method: String,
            params: Option<Box<RawValue>>,
        }
        let invalid = |message: String| ErrorObject::new(code::INVALID_PARAMS, message);
        let text = params.map_or("", RawValue::get);
        let calls: Vec<Wanted> = match serde_json::from_str(text) {
            Ok(calls) => calls,
            Err(error) => {
                let message = format!("params must be a list of calls, each with method and params: {error}");
                return (Err(invalid(message)), None);
            }
        };
        let batch_max = self.server.limits.batch_max;
        if calls.len() > batch_max {
            return (Err(invalid(format!("at most {batch_max} calls go into one batch"))), None);
        }
        let outcomes = calls.into_iter().map(|Wanted { id, method, params }| async move {
            let (outcome, held) = match method.as_str() {
                "ping" => (self.finished("ping", Ok(input::empty())).map(Edited::from), None),
                "initialize" | "batch" => (Err(invalid(format!("{method} must not be part of a batch"))), None),
                _ => self.call(&method.into(), params.as_deref(), Arc::clone(caller), to).await,
            };
            let mut answer = Members::default();
            if let Some(id) = id {
                answer.set("id", id);
            }
            match outcome {
                Ok(result) => answer.set("result", result.into_raw()),
                Err(error) => answer.put("error", error),
            }
            (answer, held)
        });
        let (outcomes, held): (Vec<_>, Vec<_>) = join_all(outcomes).await.into_iter().unzip();
        let outcome =
            to_raw_value(&outcomes).map_err(|error| ErrorObject::new(code::INTERNAL_ERROR, error.to_string()));
        (outcome.map(Edited::from), held.into_iter().flatten().reduce(Held::with))
    }

    /// Send a request to the caller and wait, beside the call, for what it says.
    async fn ask(self: &Arc<Self>, asked: Asked, to: &Sink) {
        let Asked { name, method, params, mut answer } = asked;
        let (tell, told) = oneshot::channel();
        let id = lock(&self.asked).add(name, tell);
        to.send(sink::request(&id, &method, &params)).await;
        let (session, time_max) = (Arc::clone(self), self.server.limits.input_time_max);
        self.server.tasks.spawn(async move {
            let outcome = tokio::select! {
                () = answer.closed() => None,
                outcome = timeout(time_max, told) => Some(outcome),
            };
            lock(&session.asked).waiting.remove(&id);
            if let Some(outcome) = outcome {
                let late = |_| {
                    Err(ErrorObject::new(code::INTERNAL_ERROR, format!("the caller did not answer {method} in time")))
                };
                let gone = |_| {
                    Err(ErrorObject::new(
                        code::INTERNAL_ERROR,
                        format!("the caller went away before it answered {method}"),
                    ))
                };
                let _ = answer.send(outcome.map_or_else(late, |told| told.unwrap_or_else(gone)));
            }
        });
    }

    fn answered(&self, response: Response) {
        let waiting = response.id.and_then(|id| lock(&self.asked).waiting.remove(&id));
        if let Some(waiting) = waiting {
            let _ = waiting.send(response.outcome);
        }
    }

    fn notified(&self, notification: &Notification) {
        if notification.method != "notifications/cancelled" {
            return; // `initialized` needs no answer, and the rest concerns nobody here
        }
        let id =
            notification.params.as_deref().and_then(Members::parse).and_then(|params| params.read::<Id>("requestId"));
        if let Some(cancel) = id.and_then(|id| lock(&self.running).get(&id).cloned()) {
            cancel.cancel();
        }
    }

    fn set_level(&self, params: Option<&RawValue>) -> Outcome {
        let level = params.and_then(Members::parse).and_then(|params| params.read::<Level>("level"));
        let invalid = || {
            let message = "params.level must be one of debug, info, notice, warning, error, critical, alert, emergency";
            ErrorObject::new(code::INVALID_PARAMS, message)
        };
        *lock(&self.level) = level.ok_or_else(invalid)?;
        Ok(input::empty())
    }

    async fn watch(&self, params: Option<&RawValue>, caller: Arc<Caller>) -> Outcome {
        let uri = uri(params)?;
        super::check_uri(&uri)?;
        if lock(&self.watches).contains_key(&uri) {
            return Ok(input::empty());
        }
        let watches_max = self.server.limits.watches_max;
        if lock(&self.watches).len() >= watches_max {
            let message = format!("{watches_max} resources are watched already; unsubscribe from one");
            return Err(ErrorObject::new(code::BUSY, message));
        }
        let watch = Arc::clone(&self.server.service).watch(uri.clone(), caller).await?;
        lock(&self.watches).insert(uri, watch);
        Ok(input::empty())
    }

    fn unwatch(&self, params: Option<&RawValue>) -> Outcome {
        lock(&self.watches).remove(&uri(params)?);
        Ok(input::empty())
    }

    /// A stream for the messages of one HTTP request. Answered ones are kept for a while, in case their reader comes back.
    pub(super) fn open_stream(&self) -> Arc<EventStream> {
        let limits = &self.server.limits;
        let number = self.streams_last.fetch_add(1, Ordering::Relaxed) + 1;
        let stream = Arc::new(EventStream::new(number, limits, &self.server.backlog));
        let mut streams = lock(&self.streams);
        let kept = |streams: &VecDeque<Arc<EventStream>>| {
            let over = streams.iter().filter(|stream| stream.is_over());
            over.fold((0, 0), |(count, bytes), stream| (count + 1, bytes + stream.bytes()))
        };
        while let (count, bytes) = kept(&streams)
            && (count >= limits.streams_kept_max || bytes > limits.events_bytes_max)
            && let Some(oldest) = streams.iter().position(|stream| stream.is_over())
        {
            streams.remove(oldest);
        }
        streams.push_back(Arc::clone(&stream));
        stream
    }

    /// Nobody can come back to this stream: its answer was sent without the number of an event.
    pub(super) fn forget_stream(&self, stream: &Arc<EventStream>) {
        lock(&self.streams).retain(|kept| !Arc::ptr_eq(kept, stream));
    }

    /// The stream of this number, if it is still kept. Number 0 has what belongs to no request.
    pub(super) fn stream(&self, number: u64) -> Option<Arc<EventStream>> {
        *lock(&self.used) = Instant::now();
        let found = lock(&self.streams).iter().find(|stream| stream.number == number).cloned();
        found.filter(|stream| !stream.is_given_up())
    }

    /// Since when nobody has used it; `None` while somebody does.
    fn idle_since(&self) -> Option<Instant> {
        let is_connected = matches!(&self.unsolicited, Sink::Queue(queue) if !queue.is_closed());
        let is_read = lock(&self.streams).iter().any(|stream| stream.is_attached());
        let is_used = is_connected || is_read || !lock(&self.running).is_empty();
        (!is_used).then(|| *lock(&self.used))
    }

    /// Whether nobody has used it for longer than this.
    fn is_expired(&self, now: Instant, idle_max: Duration) -> bool {
        now - *lock(&self.used) > idle_max && self.idle_since().is_some() // the first is sooner known, and seldom so
    }
}

fn uri(params: Option<&RawValue>) -> Result<String, ErrorObject> {
    let uri = params.and_then(Members::parse).and_then(|params| params.read("uri"));
    uri.ok_or_else(|| ErrorObject::new(code::INVALID_PARAMS, "params.uri is missing"))
}

/// The sessions that have a name of their own (Streamable HTTP, HTTP+SSE).
pub(super) struct Sessions {
    by_id: Mutex<HashMap<Arc<str>, Arc<Session>>>,
    sessions_max: usize,
    idle_max: Duration,
}

impl Sessions {
    pub(super) fn new(sessions_max: usize, idle_max: Duration) -> Sessions {
        Sessions { by_id: Mutex::default(), sessions_max, idle_max }
    }

    /// Keep a session. Those that idled too long are forgotten; if there are still too many, the one that idles longest
    /// makes room, of the principal that has most: nobody loses sessions because somebody else opens many.
    pub(super) fn insert(&self, session: &Arc<Session>) -> Result<(), ErrorObject> {
        let now = Instant::now();
        let mut by_id = lock(&self.by_id);
        let expired = by_id.extract_if(|_, session| session.is_expired(now, self.idle_max));
        let mut gone: Vec<Arc<Session>> = expired.map(|(_, gone)| gone).collect();
        if by_id.len() >= self.sessions_max {
            let mut counts = HashMap::from([(session.principal.name(), 1_usize)]);
            by_id.values().for_each(|session| *counts.entry(session.principal.name()).or_default() += 1);
            let idle = by_id.values().filter_map(|session| Some((session.idle_since()?, session)));
            let longest =
                idle.max_by_key(|(since, session)| (counts.get(session.principal.name()), std::cmp::Reverse(*since)));
            let longest = longest.map(|(_, session)| Arc::clone(&session.id));
            gone.extend(longest.and_then(|id| by_id.remove(&id)));
        }
        let result = if by_id.len() < self.sessions_max {
            by_id.insert(Arc::clone(&session.id), Arc::clone(session));
            Ok(())
        } else {
            let message = format!("{} sessions are in use; try again later", self.sessions_max);
            Err(ErrorObject::new(code::BUSY, message))
        };
        drop(by_id);
        gone.iter().for_each(|session| session.close());
        result
    }

    /// The session of this id, for the principal that opened it and for nobody else.
    pub(super) fn get(&self, id: &str, principal: &str) -> Option<Arc<Session>> {
        let session = lock(&self.by_id).get(id).cloned().filter(|session| session.principal.name() == principal)?;
        let is_expired = session.is_expired(Instant::now(), self.idle_max);
        if is_expired {
            self.remove(id);
        }
        (!is_expired).then_some(session)
    }

    /// Forget a session and cancel what runs in it.
    pub(super) fn remove(&self, id: &str) {
        let gone = lock(&self.by_id).remove(id);
        if let Some(session) = gone {
            session.close();
        }
    }

    /// Forget the sessions of a principal and cancel what runs in them.
    pub(super) fn close_of(&self, principal: &str) {
        let gone: Vec<_> = lock(&self.by_id).extract_if(|_, session| session.principal.name() == principal).collect();
        gone.iter().for_each(|(_, session)| session.close());
    }

    pub(super) fn close_all(&self) {
        let all: Vec<_> = lock(&self.by_id).drain().map(|(_, session)| session).collect();
        all.iter().for_each(|session| session.close());
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.by_id).len()
    }
}
