//! A two-way stream of messages: what was asked and not answered yet, and what comes in.
//!
//! How messages are told apart and where they are written is the transport's: it takes the text from the queue, and
//! hands in what it reads.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use memchr::memmem;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::AbortHandle,
};
use tokio_util::task::TaskTracker;

use super::{
    CallError, Handler, Limits, MalformedOutput,
    asking::Asking,
    flight::{Askers, Flight, Question},
    flow::Flow,
    ids::Ids,
};
use crate::{
    cancel::Cancel,
    framing::{Held, Skipped},
    message::{ErrorObject, Id, Incoming, Malformed, Message, Notification, Request, Response, parse},
    server::{Members, code},
};

/// Messages that wait to be written; whoever has another one waits.
const QUEUE_MAX: usize = 256;
/// Calls that were given up and may still be answered; of more, the oldest are forgotten.
const GIVEN_UP_MAX: usize = 4096;

/// The ids of calls that nobody waits for any more and that were not answered.
#[derive(Default)]
struct GivenUp {
    ids: HashSet<i64>,
    /// In the order in which they were given up; those that were answered since are among them.
    order: VecDeque<i64>,
}

impl GivenUp {
    fn insert(&mut self, id: i64) {
        self.ids.insert(id);
        self.order.push_back(id);
        if self.order.len() > GIVEN_UP_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    /// Whether this one is among them; from then on it is not.
    fn take(&mut self, id: i64) -> bool {
        self.ids.remove(&id)
    }
}

/// A text to be sent, and the call that it begins.
pub(super) struct Outgoing {
    pub(super) text: String,
    pub(super) call: Option<i64>,
}

pub(super) struct Link {
    state: Mutex<State>,
    ids: Ids,
    flow: Flow,
    out: mpsc::Sender<Outgoing>,
    handler: Arc<dyn Handler>,
    calls: Semaphore,
    asked_max: usize,
    closed: Arc<Cancel>,
    malformed: MalformedOutput,
    /// Readers, writers, and answers to the server.
    pub(super) tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    pending: HashMap<i64, Pending>,
    given_up: GivenUp,
    /// Requests of the server that are not answered yet.
    asked: HashMap<Id, AbortHandle>,
    askers: Askers,
    /// Why it is closed.
    reason: Option<String>,
    /// Whether that is something that the server did, and must not do.
    is_its_fault: bool,
}

struct Pending {
    answer: oneshot::Sender<Result<Box<RawValue>, CallError>>,
    flight: Arc<Flight>,
    /// Whether it is one that the server may end with a notification (2026-07-28, subscriptions).
    is_listening: bool,
}

impl State {
    /// Nobody waits for the answer to this call any more; the call, if it was under way.
    fn give_up(&mut self, id: i64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.given_up.insert(id);
        Some(pending)
    }
}

impl Link {
    /// A link, and the queue of what is to be sent.
    pub(super) fn new(handler: Arc<dyn Handler>, limits: &Limits) -> (Arc<Link>, mpsc::Receiver<Outgoing>) {
        let (out, queue) = mpsc::channel(QUEUE_MAX);
        let link = Link {
            state: Mutex::default(),
            ids: Ids::default(),
            flow: Flow::default(),
            out,
            handler,
            calls: Semaphore::new(limits.calls_at_once_max),
            asked_max: limits.asked_at_once_max,
            closed: Arc::default(),
            malformed: MalformedOutput::new(),
            tasks: TaskTracker::new(),
        };
        (Arc::new(link), queue)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn closed(&self) -> &Arc<Cancel> {
        &self.closed
    }

    pub(super) fn reason(&self) -> Option<String> {
        self.state().reason.clone()
    }

    fn closed_error(&self) -> CallError {
        CallError::Closed(self.reason().unwrap_or_else(|| "it was closed".to_owned()))
    }

    /// Call a method. Dropping the future withdraws the call.
    pub(super) async fn call(
        self: &Arc<Self>,
        asking: &Asking<'_>,
        flight: &Arc<Flight>,
    ) -> Result<Box<RawValue>, CallError> {
        let _permit = tokio::select! {
            permit = self.calls.acquire() => permit,
            () = self.closed.cancelled() => return Err(self.closed_error()),
        };
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut state = self.state();
            if state.reason.is_some() {
                drop(state);
                return Err(self.closed_error());
            }
            let id = self.ids.next();
            let is_listening = asking.method == "subscriptions/listen";
            state.pending.insert(id, Pending { answer, flight: Arc::clone(flight), is_listening });
            id
        };
        let _withdraw = Withdraw { link: self, id, is_told: asking.method != "initialize" };
        self.send(Outgoing { text: asking.text(id), call: Some(id) }).await?;
        answered.await.unwrap_or_else(|_| Err(self.closed_error()))
    }

    pub(super) async fn notify(&self, notification: Notification) -> Result<(), CallError> {
        self.send(Outgoing { text: Message::Notification(notification).to_line(), call: None }).await
    }

    async fn send(&self, outgoing: Outgoing) -> Result<(), CallError> {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(self.closed_error()),
            sent = self.out.send(outgoing) => sent.map_err(|_| self.closed_error()),
        }
    }

    /// Take what came in at once, and what it takes of the memory. Returns when more may be read; or why the server is given up.
    pub(super) async fn receive(self: &Arc<Self>, text: &[u8], mut held: Option<Held>) -> Result<(), String> {
        let mut is_asked = true;
        let mut receive = |message| match message {
            Ok(message) => {
                is_asked &= matches!(message, Message::Response(_));
                self.take(message, held.take());
            }
            Err(malformed) => {
                is_asked = false;
                self.skip(text, malformed);
            }
        };
        match parse(text) {
            Ok(Incoming::Single(message)) => receive(Ok(message)),
            Ok(Incoming::Batch(messages)) => messages.into_iter().for_each(receive),
            Err(malformed) => receive(Err(malformed)),
        }
        if is_asked { Ok(()) } else { self.flow.bear(text.len()).await }
    }

    /// An empty line came in, which says nothing.
    pub(super) async fn receive_nothing(&self) -> Result<(), String> {
        self.flow.bear(0).await
    }

    /// Something came in that was not kept, of which this is the beginning and the end. If it was an answer, its call fails.
    pub(super) async fn receive_skipped(&self, ends: &[u8], skipped: Skipped, bytes_max: usize) -> Result<(), String> {
        let (why, error) = match skipped {
            Skipped::TooLong => {
                let error = CallError::Protocol(format!("the answer is longer than {bytes_max} bytes"));
                ("the message is too long", error)
            }
            Skipped::NoMemory(none) => ("there is no memory for the message", CallError::NoRoom(none)),
        };
        self.malformed.log(b"", why);
        let answered = {
            let state = self.state();
            let mut named = ids(ends).filter(|id| state.pending.contains_key(id));
            let only = || if state.pending.len() == 1 { state.pending.keys().next().copied() } else { None };
            named.next().or_else(only)
        };
        if let Some(id) = answered {
            self.fail(id, error);
        }
        self.flow.bear(bytes_max).await
    }

    /// What is no message harms nobody, but for the call that it names.
    fn skip(&self, text: &[u8], malformed: Malformed) {
        self.malformed.log(text, &malformed.error.message);
        if let Some(Id::Number(id)) = malformed.id {
            self.fail(id, CallError::Protocol(malformed.error.message));
        }
    }

    /// End a call. Should it be answered all the same, that is no news.
    pub(super) fn fail(&self, id: i64, error: CallError) {
        let pending = self.state().give_up(id);
        if let Some(pending) = pending {
            let _ = pending.answer.send(Err(error)); // the caller may have gone
        }
    }

    fn take(self: &Arc<Self>, message: Message, held: Option<Held>) {
        match message {
            Message::Response(Response { id, outcome }) => self.answered(id, outcome, held),
            Message::Notification(notification) => self.notified(notification),
            Message::Request(request) => self.asked(request),
        }
    }

    fn answered(&self, id: Option<Id>, outcome: Result<Box<RawValue>, ErrorObject>, held: Option<Held>) {
        let number = id.as_ref().and_then(number);
        let mut state = self.state();
        let pending = number.and_then(|number| state.pending.remove(&number));
        let is_late = number.is_some_and(|number| state.given_up.take(number));
        drop(state);
        match (pending, outcome) {
            (Some(pending), outcome) => {
                pending.flight.keep(held);
                let _ = pending.answer.send(outcome.map_err(CallError::Rpc)); // the caller may have gone
            }
            (None, _) if is_late => tracing::debug!(?id, "an answer that nobody waits for any more"),
            // To a message whose id it could not read.
            (None, Err(error)) if id.is_none() => {
                tracing::warn!(code = error.code, message = error.message, "the server refused a message");
            }
            (None, Ok(_)) if id.is_none() => self.malformed.log(b"", "an answer without an id"),
            // Whatever else it says may be meant for somebody else as well.
            (None, _) => {
                tracing::warn!(?id, "the server answered a request that was not made, or one twice; it is given up");
                self.give_up("the server answered a request that was not made, or answered one twice");
            }
        }
    }

    fn notified(&self, notification: Notification) {
        match &*notification.method {
            "notifications/progress" => {
                if let Some(flight) = token(&notification).and_then(|id| self.flight(id)) {
                    flight.progress(notification);
                }
            }
            "notifications/cancelled" => {
                let params = notification.params.as_deref().and_then(Members::parse);
                let id: Option<Id> = params.and_then(|params| params.read("requestId"));
                match id.as_ref().and_then(|id| self.state().asked.remove(id)) {
                    Some(answering) => answering.abort(),
                    None => {
                        if let Some(Id::Number(id)) = id
                            && self.is_listening(id)
                        {
                            self.fail(id, CallError::Closed("the server ended it".to_owned()));
                        }
                    }
                }
            }
            "notifications/subscriptions/acknowledged" => {} // we asked for it
            "notifications/message" => self.only_handler().notification(notification),
            _ => self.handler.notification(notification),
        }
    }

    /// Other calls are not ended so: the number may be that of a question of the server's, long answered.
    fn is_listening(&self, id: i64) -> bool {
        self.state().pending.get(&id).is_some_and(|pending| pending.is_listening)
    }

    fn flight(&self, id: i64) -> Option<Arc<Flight>> {
        self.state().pending.get(&id).map(|pending| Arc::clone(&pending.flight))
    }

    /// The call that a server means when it does not say which.
    fn only_flight(&self) -> Option<Arc<Flight>> {
        let state = self.state();
        state.askers.only_one(state.pending.values().map(|pending| &pending.flight))
    }

    fn only_handler(&self) -> Arc<dyn Handler> {
        let own = self.only_flight().and_then(|flight| flight.handler.clone());
        own.unwrap_or_else(|| Arc::clone(&self.handler))
    }

    fn asked(self: &Arc<Self>, request: Request) {
        let id = request.id.clone();
        if request.method == "ping" {
            self.reply(
                id,
                to_raw_value(&serde_json::json!({}))
                    .map_err(|error| ErrorObject::new(code::INTERNAL_ERROR, error.to_string())),
            );
            return;
        }
        if self.state().asked.len() >= self.asked_max {
            let message = format!("at most {} requests of a server are answered at once", self.asked_max);
            self.reply(id, Err(ErrorObject::new(code::BUSY, message)));
            return;
        }
        let flight = self.only_flight();
        let handler = flight.as_ref().and_then(|flight| flight.handler.as_ref()).unwrap_or(&self.handler);
        let answer = handler.request(request);
        let (link, asked) = (Arc::clone(self), id.clone());
        // Held until the entry is there, so that a quick answer finds it.
        let mut state = self.state();
        state.askers.asked(flight.as_ref());
        let question = flight.map(Question::new);
        let answering = self.tasks.spawn(async move {
            let _question = question;
            let outcome = tokio::select! {
                outcome = answer => outcome,
                () = link.closed.cancelled() => return,
            };
            link.state().asked.remove(&asked);
            let text = Message::Response(Response { id: Some(asked), outcome }).to_line();
            let _ = link.send(Outgoing { text, call: None }).await; // closed
        });
        state.asked.insert(id, answering.abort_handle());
    }

    /// Answer without waiting: to a server that takes nothing, nothing is said.
    fn reply(&self, id: Id, outcome: Result<Box<RawValue>, ErrorObject>) {
        let text = Message::Response(Response { id: Some(id), outcome }).to_line();
        let _ = self.out.try_send(Outgoing { text, call: None });
    }

    /// Nothing more will come or go: all calls fail with the reason.
    pub(super) fn shut(&self, reason: &str) {
        let pending = {
            let mut state = self.state();
            state.reason.get_or_insert_with(|| reason.to_owned());
            std::mem::take(&mut state.pending)
        };
        self.closed.cancel();
        let error = self.closed_error();
        for pending in pending.into_values() {
            let _ = pending.answer.send(Err(error.clone())); // the caller may have gone
        }
    }

    /// The same, because of what the server did.
    pub(super) fn give_up(&self, reason: &str) {
        self.state().is_its_fault = true;
        self.shut(reason);
    }

    /// What the server did for which it was given up.
    pub(super) fn fault(&self) -> Option<String> {
        let state = self.state();
        state.reason.clone().filter(|_| state.is_its_fault)
    }

    /// The same, and wait until the streams are closed.
    pub(super) async fn close(&self, reason: &str) {
        self.shut(reason);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The call that an id names.
fn number(id: &Id) -> Option<i64> {
    match id {
        Id::Number(number) => Some(*number),
        Id::String(text) => text.parse().ok(), // some servers write every id as a string
    }
}

/// What may be the id of a message, of which only a part is known.
fn ids(part: &[u8]) -> impl Iterator<Item = i64> {
    const MEMBER: &[u8] = br#""id":"#;
    memmem::find_iter(part, MEMBER).filter_map(|at| {
        let value = serde_json::Deserializer::from_slice(&part[at + MEMBER.len()..]).into_iter::<Id>().next()?;
        number(&value.ok()?)
    })
}

/// The call that progress belongs to.
pub(super) fn token(notification: &Notification) -> Option<i64> {
    notification.params.as_deref().and_then(Members::parse)?.read("progressToken")
}

/// Tells the server that nobody waits any more, unless it has answered.
struct Withdraw<'a> {
    link: &'a Link,
    id: i64,
    is_told: bool,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let was_pending = {
            let mut state = self.link.state();
            let pending = state.give_up(self.id);
            if let Some(pending) = &pending {
                state.askers.leaves(&pending.flight);
            }
            pending.is_some()
        };
        if was_pending && self.is_told {
            // Full: the server takes nothing anyhow.
            let _ = self.link.out.try_send(Outgoing { text: cancelled(self.id), call: None });
        }
    }
}

/// The notification that withdraws a call.
pub(super) fn cancelled(id: i64) -> String {
    let params = to_raw_value(&serde_json::json!({ "requestId": id, "reason": "the caller does not wait any more" }));
    Message::Notification(Notification { method: "notifications/cancelled".into(), params: params.ok() }).to_line()
}
