//! Requests of 2026-07-28: each carries its revision, its caller and its capabilities, and none depends on another.

use std::{borrow::Cow, collections::VecDeque, sync::Arc, time::Duration};

use memchr::memmem;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Call, Caller, Inner, Members, Outcome, Principal, code,
    convert::{self, Of},
    exchange::{Exchange, Step, count},
    listen::Listener,
    peer::{Asked, Event, Ids, Level, Terms},
    sink::{self, Text},
    suspended::{Identity, SuspendedCall},
    tasks::{self, Continuation, Origin},
};
use crate::{
    framing::Held,
    message::{ErrorObject, Id, Request},
    revision::Revision,
};

/// The metadata of a request.
pub(super) const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// What older revisions have and this one has not.
const REMOVED: [&str; 7] = [
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "tasks/list",
    "tasks/result",
];
/// What may be answered with a wish for input.
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// What a service asks within this time of its first question goes to the caller together with it: questions of an older
/// server arrive one by one, and each result with a wish costs its caller a round.
const ASKED_TOGETHER: Duration = Duration::from_millis(100);

/// Longer metadata is read each time.
const KNOWN_BYTES_MAX: usize = 4 << 10;

/// A request, taken apart.
pub(super) struct Opened<'a> {
    request: &'a Arc<Request>,
    pub(super) params: Members<'a>,
    /// The caller and its terms, or what is wrong with its metadata.
    introduced: Result<(Arc<Caller>, Terms), ErrorObject>,
}

impl<'a> Opened<'a> {
    /// `known`: what is known of whoever sent it.
    pub(super) fn new(request: &'a Arc<Request>, principal: &Arc<dyn Principal>, known: &mut Known) -> Opened<'a> {
        let params = params_of(request);
        let introduced = known.introduce(params.get("_meta"), principal);
        Opened { request, params, introduced }
    }

    /// The revision that it names in its metadata, as it is written there.
    pub(super) fn named_revision(&self) -> Option<Cow<'_, str>> {
        match &self.introduced {
            Ok((caller, _)) => Some(caller.revision.as_str().into()),
            Err(_) => {
                let meta = self.params.get("_meta").and_then(Members::parse)?;
                meta.text(PROTOCOL_VERSION).map(|version| version.into_owned().into())
            }
        }
    }
}

/// What a caller said about itself the last time. Most say the same with each request, and in the same words: then it is not
/// read again.
#[derive(Debug, Default)]
pub struct Known(Option<Introduction>);

#[derive(Debug)]
struct Introduction {
    /// The words: the metadata of a request.
    text: Box<RawValue>,
    caller: Arc<Caller>,
    level: Option<Level>,
}

impl Known {
    /// The caller and its terms.
    fn introduce(
        &mut self,
        meta: Option<&RawValue>,
        principal: &Arc<dyn Principal>,
    ) -> Result<(Arc<Caller>, Terms), ErrorObject> {
        // Of two callers with one name, one may have other rights.
        let is_same = |known: &&Introduction| {
            meta.is_some_and(|meta| meta.get() == known.text.get()) && Arc::ptr_eq(&known.caller.principal, principal)
        };
        if let Some(Introduction { caller, level, .. }) = self.0.as_ref().filter(is_same) {
            return Ok((Arc::clone(caller), Terms { progress: None, level: *level }));
        }
        let (caller, terms) = read_meta(&meta.and_then(Members::parse).unwrap_or_default(), principal)?;
        let caller = Arc::new(caller);
        // Of a request whose progress is told the words are its own.
        if let (Some(text), None) = (meta.filter(|meta| meta.get().len() <= KNOWN_BYTES_MAX), &terms.progress) {
            let (text, caller, level) = (text.to_owned(), Arc::clone(&caller), terms.level);
            self.0 = Some(Introduction { text, caller, level });
        }
        Ok((caller, terms))
    }
}

fn params_of(request: &Request) -> Members<'_> {
    request.params.as_deref().and_then(Members::parse).unwrap_or_default()
}

/// Whether a request is one of this revision: it says so, or it asks what only this revision knows.
pub(super) fn is_modern(request: &Request) -> bool {
    let says_so = |params: &RawValue| memmem::find(params.get().as_bytes(), PROTOCOL_VERSION.as_bytes()).is_some();
    matches!(&*request.method, "server/discover" | "subscriptions/listen")
        || request.params.as_deref().is_some_and(says_so) && {
            let meta = params_of(request).get_in_text("_meta").and_then(Members::parse);
            meta.is_some_and(|meta| meta.text(PROTOCOL_VERSION).is_some())
        }
}

/// What is sent for a request.
pub(super) enum Frame {
    /// There will be more.
    Notification(Text),
    /// The end.
    Answer(Answer),
}

/// The last message of a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: Text,
    /// The status that HTTP has for it.
    pub(super) status: u16,
}

impl Answer {
    /// A refusal before anything was run.
    pub(super) fn refused(id: Option<&Id>, error: ErrorObject) -> Answer {
        let status = if error.code == code::INVALID_PARAMS { 400 } else { status(error.code) };
        Answer { text: sink::error(id, &error).into(), status }
    }
}

/// Streamable HTTP, 2026-07-28: what the caller got wrong about the protocol shows in the status.
fn status(code: i64) -> u16 {
    match code {
        code::METHOD_NOT_FOUND => 404,
        code::PARSE_ERROR | code::INVALID_REQUEST => 400,
        code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION => 400,
        code::BUSY => 503,
        _ => 200,
    }
}

/// A request that was begun.
pub(super) enum Begun {
    Answered(Answer),
    Running(Box<Running>),
    Listening(Box<Listener>),
}

impl Begun {
    /// What is to be sent next; `None` after the answer.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        match self {
            Begun::Running(running) => running.next().await,
            Begun::Listening(listener) => listener.next().await,
            Begun::Answered(answer) => {
                let answer = Answer { text: std::mem::take(&mut answer.text), status: answer.status };
                (!answer.text.is_empty()).then_some(Frame::Answer(answer))
            }
        }
    }
}

/// Check a request and begin it. Dropping what was begun cancels it.
pub(super) async fn begin(server: &Arc<Inner>, opened: Opened<'_>) -> Begun {
    let request = opened.request;
    match try_begin(server, opened).await {
        Ok(begun) => begun,
        Err(error) => Begun::Answered(Answer::refused(Some(&request.id), error)),
    }
}

async fn try_begin(server: &Arc<Inner>, opened: Opened<'_>) -> Result<Begun, ErrorObject> {
    let Opened { request, params, introduced } = opened;
    let (id, method) = (&request.id, &*request.method);
    let (caller, terms) = introduced?;
    if REMOVED.contains(&method) {
        let message = format!("{method} is not a method of {}", Revision::V2026_07_28.as_str());
        return Err(ErrorObject::new(code::METHOD_NOT_FOUND, message));
    }
    match method {
        "server/discover" => {
            let mut description = server.service.describe();
            if server.durable.is_some() {
                tasks::declare(&mut description.capabilities);
            }
            let discovered = Ok(convert::discover(description));
            let lifted = convert::lifted(method, || None, discovered, Of::Server, &server.info);
            Ok(Begun::Answered(Answer { text: Text::response(id, lifted), status: 200 }))
        }
        "subscriptions/listen" => {
            Ok(Begun::Listening(Box::new(Listener::open(server, id.clone(), &params, &caller).await?)))
        }
        _ => {
            if let Some(tasks) = &server.durable
                && tasks::is_one(method)
            {
                // As many as are read at once are in memory before they are counted.
                let _reading = server.reading.acquire().await;
                let outcome = tasks.answer(method, &params, &caller).await;
                let (outcome, held) = count(outcome, None, caller.principal.name(), &server.limits.memories);
                return Ok(Begun::Answered(answered(server, request, (outcome, held), Of::Server)));
            }
            let task_at = may_become_task(server, method, &caller).then(|| Instant::now() + server.limits.task_after);
            let identity = || Identity::new(caller.principal.name(), method, &params);
            let waiting = params.get("requestState").and_then(|state| server.suspended.take(state, identity));
            let (exchange, asked, keys) = match waiting.transpose()? {
                None => {
                    let call = Call { method: request.method.clone(), params: params.to_owned(), caller };
                    (Exchange::begin(&server.service, call, terms, 0), Vec::new(), Ids::default())
                }
                Some(SuspendedCall { exchange, asked, keys, .. }) => {
                    exchange.set_terms(terms);
                    let responses = params.get("inputResponses").and_then(Members::parse).unwrap_or_default();
                    (exchange, answer(asked, &responses), keys)
                }
            };
            let running = Running {
                server: Arc::clone(server),
                request: Arc::clone(request),
                exchange: Some(exchange),
                asked,
                keys,
                ready: VecDeque::new(),
                task_at,
                becoming: None,
            };
            Ok(Begun::Running(Box::new(running)))
        }
    }
}

/// Whether the server may give a task instead of the result.
fn may_become_task(server: &Inner, method: &str, caller: &Caller) -> bool {
    method == "tools/call" && server.durable.is_some() && tasks::is_declared(caller)
}

/// Give the answers to those who asked; what is left was not answered.
pub(super) fn answer(asked: Vec<(String, Asked)>, responses: &Members<'_>) -> Vec<(String, Asked)> {
    let mut left = Vec::new();
    for (key, asked) in asked {
        match responses.get(&key) {
            Some(response) if response.get().starts_with('{') => {
                let _ = asked.answer.send(Ok(response.to_owned())); // the service may have stopped waiting
            }
            _ => left.push((key, asked)),
        }
    }
    left
}

/// What is asked, by its keys.
pub(super) fn input_requests(asked: &[(String, Asked)]) -> Box<RawValue> {
    let mut requests = Members::default();
    for (key, asked) in asked {
        let mut request = Members::default();
        request.put("method", &asked.method);
        request.set("params", asked.params.clone());
        requests.set(key, request.into_raw());
    }
    requests.into_raw()
}

/// The last message of a request, for what the service gave.
fn answered(server: &Inner, request: &Request, (outcome, held): (Outcome, Option<Held>), of: Of<'_>) -> Answer {
    let lifted = convert::lifted(&request.method, || params_of(request).read("uri"), outcome, of, &server.info);
    let status = lifted.as_ref().map_or_else(|error| status(error.code), |_| 200);
    Answer { text: Text::response(&request.id, lifted).holding(held), status }
}

/// The caller and its terms (2026-07-28, request metadata).
pub(super) fn read_meta(meta: &Members<'_>, principal: &Arc<dyn Principal>) -> Result<(Caller, Terms), ErrorObject> {
    let missing = |name: &str| {
        let message = format!("params._meta[{name:?}] is missing; every request of 2026-07-28 carries it");
        ErrorObject::new(code::INVALID_PARAMS, message)
    };
    super::check_declared(meta.get(CLIENT_CAPABILITIES), meta.get(CLIENT_INFO))?;
    let requested = meta.text(PROTOCOL_VERSION).ok_or_else(|| missing(PROTOCOL_VERSION))?;
    let capabilities: Value =
        meta.read(CLIENT_CAPABILITIES).filter(Value::is_object).ok_or_else(|| missing(CLIENT_CAPABILITIES))?;
    if requested != Revision::V2026_07_28.as_str() {
        let message = format!("this server does not speak {requested:?} without a handshake");
        let data = json!({ "supported": convert::supported(), "requested": requested });
        return Err(ErrorObject::new(code::UNSUPPORTED_VERSION, message).with_data(&data));
    }
    let terms = Terms { progress: progress_token(meta), level: meta.read(LOG_LEVEL) };
    let caller = Caller {
        revision: Revision::V2026_07_28,
        capabilities: Arc::new(capabilities),
        principal: Arc::clone(principal),
        session: None,
    };
    Ok((caller, terms))
}

/// A string or an integer (progress).
pub(super) fn progress_token(meta: &Members<'_>) -> Option<Box<RawValue>> {
    let token = meta.get("progressToken")?;
    let value: Value = serde_json::from_str(token.get()).ok()?;
    (value.is_string() || value.is_i64() || value.is_u64()).then(|| token.to_owned())
}

/// A call under way.
pub(super) struct Running {
    server: Arc<Inner>,
    request: Arc<Request>,
    exchange: Option<Exchange>,
    /// What the service wants to know and the caller has not said.
    asked: Vec<(String, Asked)>,
    keys: Ids,
    ready: VecDeque<Frame>,
    /// When it becomes a task.
    task_at: Option<Instant>,
    /// It is being stored.
    becoming: Option<oneshot::Receiver<Continuation>>,
}

impl Running {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            // The caller repeated the call without all that was asked: ask again.
            if !self.asked.is_empty() {
                return self.suspend();
            }
            // What is awaited here is kept in `self`: whoever waits for a frame may stop waiting and come back.
            if let Some(becoming) = &mut self.becoming {
                let became = becoming.await;
                self.becoming = None;
                match became {
                    Ok(Continuation::Task(handle)) => return Some(self.answer(Ok(handle), None)),
                    Ok(Continuation::Call(exchange)) => self.exchange = Some(*exchange),
                    Err(_) => {
                        let error =
                            ErrorObject::new(code::INTERNAL_ERROR, "the server stopped before it had an answer");
                        return Some(self.answer(Err(error), None));
                    }
                }
            }
            let exchange = self.exchange.as_mut()?;
            let step = match self.task_at {
                None => Some(exchange.next(&self.server.limits.memories).await),
                Some(at) => timeout_at(at, exchange.next(&self.server.limits.memories)).await.ok(),
            };
            match step {
                Some(step) => match self.take(step) {
                    Some(frame) => return Some(frame),
                    None => self.gather().await,
                },
                None => self.become_task(),
            }
        }
    }

    /// Whatever else the service asks at once goes into the same result as the first question.
    async fn gather(&mut self) {
        let together = sleep(ASKED_TOGETHER);
        tokio::pin!(together);
        while !self.asked.is_empty()
            && let Some(exchange) = self.exchange.as_mut()
        {
            let step = tokio::select! {
                biased;
                step = exchange.next(&self.server.limits.memories) => step,
                () = &mut together => break,
            };
            let frame = self.take(step);
            self.ready.extend(frame);
        }
        if !self.asked.is_empty() {
            let frame = self.suspend();
            self.ready.extend(frame);
        }
    }

    /// It has run for long enough: let it be stored.
    fn become_task(&mut self) {
        self.task_at = None;
        if let (Some(tasks), Some(exchange)) = (&self.server.durable, self.exchange.take()) {
            let origin =
                Origin { params: params_of(&self.request).into_owned(), caller: Arc::clone(exchange.caller()) };
            self.becoming = Some(tasks.begin(&self.server, origin, exchange));
        }
    }

    /// What is to be sent because of this; a question is kept.
    fn take(&mut self, step: Step) -> Option<Frame> {
        match step {
            Step::Event(Event::Notification { method, params }) => {
                return Some(Frame::Notification(sink::notification(&method, &params).into()));
            }
            Step::Event(Event::Ask(mut asked)) if MAY_ASK.contains(&&*self.request.method) => {
                self.asked.push((self.keys.next_key(asked.name.take(), ""), asked));
            }
            Step::Event(Event::Ask(asked)) => {
                let message = format!("{} may not ask its caller for input", self.request.method);
                let _ = asked.answer.send(Err(ErrorObject::new(code::INTERNAL_ERROR, message)));
            }
            Step::Done(outcome, held) => {
                self.asked.clear();
                let Some(exchange) = self.exchange.take() else { return Some(self.answer(outcome, held)) };
                let (outcome, of) = (exchange.explain(outcome), Of::Service(exchange.caller()));
                return Some(Frame::Answer(answered(&self.server, &self.request, (outcome, held), of)));
            }
        }
        None
    }

    fn answer(&self, outcome: Outcome, held: Option<Held>) -> Frame {
        Frame::Answer(answered(&self.server, &self.request, (outcome, held), Of::Server))
    }

    /// Put the call aside and tell the caller what is wanted.
    fn suspend(&mut self) -> Option<Frame> {
        let exchange = self.exchange.take()?;
        let requests = input_requests(&self.asked);
        let (asked, keys) = (std::mem::take(&mut self.asked), std::mem::take(&mut self.keys));
        let identity =
            Identity::new(exchange.caller().principal.name(), &self.request.method, &params_of(&self.request));
        let bytes = self.request.params.as_deref().map_or(0, |params| params.get().len());
        let suspended = self.server.suspended.put(SuspendedCall { exchange, asked, keys, identity, bytes });
        let outcome = suspended.and_then(|state| {
            let mut result = Members::default();
            result.put("resultType", "input_required");
            result.set("inputRequests", requests);
            result.put("requestState", state);
            to_raw_value(&result).map_err(|error| ErrorObject::new(code::INTERNAL_ERROR, error.to_string()))
        });
        Some(self.answer(outcome, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(more: &Value) -> Box<RawValue> {
        let mut meta =
            json!({ PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: { "roots": {} }, LOG_LEVEL: "error" });
        meta.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        to_raw_value(&meta).unwrap()
    }

    #[test]
    fn only_the_same_words_of_the_same_principal_are_not_read_again() {
        let mut known = Known::default();
        let [ann, bob] = ["ann", "bob"].map(|name| Arc::new(super::super::Named(name.into())) as Arc<dyn Principal>);
        let mut introduce = |meta: &RawValue, principal| known.introduce(Some(meta), principal);
        let (plain, progress) = (meta(&json!({})), meta(&json!({ "progressToken": 7 })));
        let (first, terms) = introduce(&plain, &ann).unwrap();
        let (again, terms_again) = introduce(&plain, &ann).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!((terms.level, terms_again.level), (Some(Level::Error), Some(Level::Error)));
        let (caller, terms) = introduce(&progress, &ann).unwrap();
        assert_eq!((terms.progress.unwrap().get(), caller.principal.name()), ("7", "ann"));
        let (again, terms) = introduce(&plain, &ann).unwrap();
        assert!(Arc::ptr_eq(&first, &again) && terms.progress.is_none(), "progress was wanted by that request alone");
        assert_eq!(introduce(&plain, &bob).unwrap().0.principal.name(), "bob");
        let other = meta(&json!({ CLIENT_CAPABILITIES: {} }));
        assert_eq!(*introduce(&other, &bob).unwrap().0.capabilities, json!({}));
        assert!(introduce(&meta(&json!({ PROTOCOL_VERSION: "2025-11-25" })), &bob).is_err());
        assert!(known.introduce(None, &bob).is_err());
    }
}
