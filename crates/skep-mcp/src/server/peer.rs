//! The caller, as a service sees it while it works: somebody to tell how far it is, and to ask.

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    fmt::Display,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::oneshot;

use super::{Caller, Members, Outcome, code};
use crate::{
    framing::Held,
    message::{ErrorObject, Id},
};

/// Notifications that wait to be sent for one request; more are dropped, as progress and log may be.
const NOTIFICATIONS_MAX: usize = 256;
/// Questions that wait so; more are refused.
const QUESTIONS_MAX: usize = 64;
/// Bytes of the notifications that wait so; what does not fit is dropped.
const NOTIFICATIONS_BYTES_MAX: usize = 1 << 20;
/// Bytes of the questions that wait so; of more, a question is refused, unless it waits alone.
const QUESTIONS_BYTES_MAX: usize = 4 << 20;
/// Bytes of the name of a question; one with a longer name is numbered.
const NAME_BYTES_MAX: usize = 64;
/// Names that [`Ids`] remembers; the questions of a service that asks more are numbered.
const NAMES_MAX: usize = 32;
/// How keys begin that are made of numbers, and no name does.
const NUMBERED: &str = "input-";

/// Severity of a log message (RFC 5424), from the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum Level {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

/// The caller of one request. Clones may outlive the request: what they say then is dropped.
#[derive(Clone)]
pub struct Peer(Arc<Inside>);

struct Inside {
    caller: Arc<Caller>,
    /// The capability that the first question needed which the caller was spared.
    refused: OnceLock<Value>,
    said: Mutex<Said>,
    /// Whether there is something that nobody has sent yet. Most calls say nothing, and need not be asked under the lock.
    has_said: AtomicBool,
}

/// What was said and nobody has sent yet.
#[derive(Default)]
struct Said {
    terms: Terms,
    events: VecDeque<Event>,
    /// Whoever sends it and waits for more.
    waiting: Option<Waker>,
    /// Nobody sends anything any more.
    is_over: bool,
    /// What the result takes of the memory.
    held: Option<Held>,
}

impl Said {
    /// Whether this may wait with what waits already.
    fn has_room(&self, event: &Event) -> bool {
        let (max, bytes_max) = match event {
            Event::Notification { .. } => (NOTIFICATIONS_MAX, NOTIFICATIONS_BYTES_MAX),
            Event::Ask(_) => (QUESTIONS_MAX, QUESTIONS_BYTES_MAX),
        };
        let alike = self.events.iter().filter(|other| std::mem::discriminant(*other) == std::mem::discriminant(event));
        let (count, bytes) = alike.fold((0, 0), |(count, bytes), other| (count + 1, bytes + other.bytes()));
        let fits = bytes + event.bytes() <= bytes_max;
        count < max && (fits || count == 0 && matches!(event, Event::Ask(_)))
    }
}

/// What the caller wants to hear; a repeated call (2026-07-28) may bring new ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// The token under which it wants to hear of progress.
    pub(super) progress: Option<Box<RawValue>>,
    /// The least severe message that it wants to hear.
    pub(super) level: Option<Level>,
}

/// What a service has to say before its result.
pub(super) enum Event {
    Notification { method: Cow<'static, str>, params: Box<RawValue> },
    Ask(Asked),
}

impl Event {
    /// Bytes of what it says.
    fn bytes(&self) -> usize {
        match self {
            Event::Notification { params, .. } | Event::Ask(Asked { params, .. }) => params.get().len(),
        }
    }
}

/// A request to the caller.
pub(super) struct Asked {
    /// What it is called by whoever asks, if it has a name.
    pub(super) name: Option<String>,
    pub(super) method: String,
    pub(super) params: Box<RawValue>,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// Ids for questions, none of them twice: the name that a question has, while it is free, otherwise a number.
///
/// A question in a result (2026-07-28) has a key; one that is a request of its own (before) has an id. What one
/// side wrote is what the other gets, so that a caller may know a question again whatever revisions lie between.
#[derive(Default)]
pub(super) struct Ids {
    used: HashSet<String>,
    last: i64,
}

impl Ids {
    /// The id of the next question.
    pub(super) fn next(&mut self, name: Option<String>) -> Id {
        let is_fit = |name: &String| {
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with(NUMBERED) && !self.used.contains(name)
        };
        match name.filter(is_fit) {
            Some(name) if self.used.len() < NAMES_MAX => {
                self.used.insert(name.clone());
                Id::String(name)
            }
            _ => {
                self.last += 1;
                Id::Number(self.last)
            }
        }
    }

    /// The same as a key (2026-07-28); numbers get a prefix, which tells them from those of other `Ids`.
    pub(super) fn next_key(&mut self, name: Option<String>, prefix: impl Display) -> String {
        match self.next(name) {
            Id::String(name) => name,
            Id::Number(number) => format!("{NUMBERED}{prefix}{number}"),
        }
    }
}

impl Peer {
    pub(super) fn new(caller: Arc<Caller>, terms: Terms) -> Peer {
        let said = Mutex::new(Said { terms, ..Said::default() });
        Peer(Arc::new(Inside { caller, refused: OnceLock::new(), said, has_said: AtomicBool::new(false) }))
    }

    /// A caller that hears nothing and answers nothing, for what is asked on its behalf.
    pub fn nobody(caller: Arc<Caller>) -> Peer {
        let peer = Peer::new(caller, Terms::default());
        peer.said().is_over = true;
        peer
    }

    /// Who it is.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.0.caller
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller asked to hear of progress.
    pub fn wants_progress(&self) -> bool {
        self.said().terms.progress.is_some()
    }

    /// The least severe log message that the caller wants to hear, if any.
    pub fn level(&self) -> Option<Level> {
        self.said().terms.level
    }

    /// Say how far it is. Values must rise (2025-11-25, progress). Nothing is sent to a caller that did not ask for it.
    pub fn progress(&self, progress: f64, total: Option<f64>, message: Option<&str>) {
        let mut params = json!({ "progress": progress });
        if let Some(total) = total {
            params["total"] = total.into();
        }
        if let Some(message) = message {
            params["message"] = message.into();
        }
        if let Ok(params) = to_raw_value(&params) {
            self.notify("notifications/progress", params);
        }
    }

    /// Log something for the caller, if it wants messages that are so severe.
    pub fn log(&self, level: Level, logger: Option<&str>, data: &Value) {
        let mut params = json!({ "level": level, "data": data });
        if let Some(logger) = logger {
            params["logger"] = logger.into();
        }
        if let Ok(params) = to_raw_value(&params) {
            self.notify("notifications/message", params);
        }
    }

    /// Send a notification that belongs to this request. Progress gets the caller's token; what the caller did not ask
    /// for, and what it does not keep up with, is dropped.
    pub fn notify(&self, method: impl Into<Cow<'static, str>>, params: Box<RawValue>) {
        let method = method.into();
        let params = match &*method {
            "notifications/progress" => {
                let token = self.said().terms.progress.clone();
                let (Some(token), Some(mut members)) = (token, Members::parse(&params)) else { return };
                members.set("progressToken", token);
                members.into_raw()
            }
            "notifications/message" => {
                let level = Members::parse(&params).and_then(|members| members.read::<Level>("level"));
                if self.level().is_none_or(|least| level.is_none_or(|level| level < least)) {
                    return;
                }
                params
            }
            _ => params,
        };
        self.say(Event::Notification { method, params });
    }

    /// Whether it will be sent. If not, the caller is gone, or does not keep up.
    fn say(&self, event: Event) -> bool {
        let waiting = {
            let mut said = self.said();
            if said.is_over || !said.has_room(&event) {
                return false;
            }
            said.events.push_back(event);
            self.0.has_said.store(true, Ordering::Release);
            said.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        true
    }

    /// What was said first and nobody has sent yet.
    pub(super) fn hear(&self) -> Option<Event> {
        if !self.0.has_said.load(Ordering::Acquire) {
            return None;
        }
        let mut said = self.said();
        let event = said.events.pop_front();
        self.0.has_said.store(!said.events.is_empty(), Ordering::Release);
        event
    }

    /// The same, as soon as something is said. One task at a time is woken by that.
    pub(super) fn poll_hear(&self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut said = self.said();
        if let Some(event) = said.events.pop_front() {
            return Poll::Ready(event);
        }
        if !said.waiting.as_ref().is_some_and(|waiting| waiting.will_wake(cx.waker())) {
            said.waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// What is said from now on is dropped, with all that was not sent.
    pub(super) fn end(&self) {
        let mut said = self.said();
        said.is_over = true;
        let unsaid = (std::mem::take(&mut said.events), said.waiting.take(), said.held.take());
        drop(said); // who asked is woken
        drop(unsaid);
    }

    /// Ask the caller: `elicitation/create`, `sampling/createMessage`, `roots/list`.
    ///
    /// # Errors
    ///
    /// The caller did not declare the capability (-32021, with `requiredCapabilities`), answered with an error, took too
    /// long, or is gone.
    pub async fn request(&self, method: &str, params: Box<RawValue>) -> Outcome {
        self.request_as(None, method, params).await
    }

    /// The same for a question that has a name: the caller gets it under this one, if it has not had another under it.
    pub(crate) async fn request_as(&self, name: Option<String>, method: &str, params: Box<RawValue>) -> Outcome {
        if let Err(required) = self.0.caller.allows(method, &params) {
            let error = missing_capability(method, &required);
            let _ = self.0.refused.set(required); // the first one is what the call needed
            return Err(error);
        }
        let (answer, answered) = oneshot::channel();
        let gone =
            || ErrorObject::new(code::INTERNAL_ERROR, format!("the caller went away before it answered {method}"));
        let asked = Asked { name, method: method.to_owned(), params, answer };
        if !self.say(Event::Ask(asked)) && !self.said().is_over {
            let message = format!("at most {QUESTIONS_MAX} questions of a call wait to be asked");
            return Err(ErrorObject::new(code::BUSY, message));
        }
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The outcome of the call for a caller of 2026-07-28, which is to hear of the capability that it did not declare. A
    /// server of an older revision is refused its question, and fails with whatever error it has for that.
    pub(super) fn explain(&self, outcome: Outcome) -> Outcome {
        match (outcome, self.0.refused.get()) {
            (Err(error), Some(required)) if error.code != code::MISSING_CAPABILITY => {
                let what = format!("the call failed ({}) and", error.message);
                Err(missing_capability(&what, required))
            }
            (outcome, _) => outcome,
        }
    }

    /// Keep what the result takes of the memory, until it is sent.
    pub fn keep(&self, held: Held) {
        let mut said = self.said();
        if !said.is_over {
            said.held = Some(held);
        }
    }

    /// What was kept.
    pub(super) fn take_held(&self) -> Option<Held> {
        self.said().held.take()
    }

    pub(super) fn set_terms(&self, terms: Terms) {
        self.said().terms = terms;
    }
}

/// The error for a caller that did not declare what the request needs.
pub(super) fn missing_capability(what: &str, required: &Value) -> ErrorObject {
    let message = format!("{what} needs a capability that the caller did not declare: {required}");
    ErrorObject::new(code::MISSING_CAPABILITY, message).with_data(&json!({ "requiredCapabilities": required }))
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::{revision::Revision, server::local};

    fn peer() -> Peer {
        let capabilities = Arc::new(json!({ "roots": {} }));
        Peer::new(
            Arc::new(Caller { revision: Revision::V2026_07_28, capabilities, principal: local(), session: None }),
            Terms { progress: None, level: Some(Level::Info) },
        )
    }

    fn nothing() -> Box<RawValue> {
        RawValue::from_string("{}".to_owned()).unwrap()
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the tests await what they spawn")]
    async fn what_is_said_is_heard_in_its_order_and_no_more_than_is_kept() {
        let peer = peer();
        let said = (0..NOTIFICATIONS_MAX + 3).map(|n| format!("notifications/{n}")).collect::<Vec<_>>();
        said.iter().for_each(|method| peer.notify(method.clone(), nothing()));
        let asking = {
            let peer = peer.clone();
            tokio::spawn(async move { peer.request("roots/list", nothing()).await })
        };
        tokio::task::yield_now().await;
        for method in &said[..NOTIFICATIONS_MAX] {
            assert!(matches!(peer.hear(), Some(Event::Notification { method: heard, .. }) if heard == *method));
        }
        let Some(Event::Ask(asked)) = peer.hear() else { panic!("notifications leave no room for questions") };
        asked.answer.send(Ok(nothing())).unwrap();
        assert_eq!(asking.await.unwrap().unwrap().get(), "{}");
        assert!(peer.hear().is_none());
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the tests await what they spawn")]
    async fn who_waits_is_woken_and_who_asks_a_caller_that_is_gone_is_told() {
        let peer = peer();
        let hearing = {
            let peer = peer.clone();
            tokio::spawn(async move { std::future::poll_fn(|cx| peer.poll_hear(cx)).await })
        };
        tokio::task::yield_now().await;
        peer.notify("notifications/1", nothing());
        assert!(matches!(hearing.await, Ok(Event::Notification { .. })));
        let ask = || {
            let peer = peer.clone();
            tokio::spawn(async move { peer.request("roots/list", nothing()).await.unwrap_err().message })
        };
        let asking: Vec<_> = (0..QUESTIONS_MAX).map(|_| ask()).collect();
        tokio::task::yield_now().await;
        assert!(ask().await.unwrap().starts_with("at most 64 questions"));
        peer.end();
        for asking in asking.into_iter().chain([ask()]) {
            assert!(asking.await.unwrap().starts_with("the caller went away"));
        }
    }

    #[test]
    fn a_question_keeps_its_name_and_no_two_have_the_same() {
        let mut ids = Ids::default();
        let mut key = |name: &str| ids.next_key(Some(name.to_owned()), "");
        assert_eq!(key("user_name"), "user_name");
        assert_eq!(key("user_name"), "input-1", "it is used");
        assert_eq!(key("input-3"), "input-2", "it might be that of another");
        assert_eq!(key(""), "input-3");
        assert_eq!(key(&"n".repeat(NAME_BYTES_MAX + 1)), "input-4", "it is too long");
        let named = (0..NAMES_MAX).filter(|n| key(&format!("name {n}")) == format!("name {n}")).count();
        assert_eq!(named, NAMES_MAX - 1, "no more are remembered");
        assert_eq!(ids.next_key(None, "2-"), "input-2-6");
    }
}
