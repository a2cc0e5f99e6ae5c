//! The caller, as a service sees it while it works: somebody to tell how far it is, and to ask.

use std::{
    borrow::Cow,
    collections::HashSet,
    fmt::Display,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::{mpsc, oneshot};

use super::{Caller, Members, Outcome, code};
use crate::message::{ErrorObject, Id};

/// Notifications that wait to be sent for one request; more are dropped, as progress and log may be.
const EVENTS_MAX: usize = 256;
/// Bytes of the name of a question; one with a longer name is numbered.
const NAME_BYTES_MAX: usize = 64;
/// Names that [`Ids`] remembers; who asks more than that has its questions numbered.
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
pub struct Peer {
    caller: Arc<Caller>,
    terms: Arc<Mutex<Terms>>,
    events: mpsc::Sender<Event>,
    /// The capability that the first question needed which the caller was spared.
    refused: Arc<OnceLock<Value>>,
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
/// Who asks in a result (2026-07-28) gives each question a key; who asks by a request (before) gives it an id. What one
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

pub(super) fn peer(caller: Arc<Caller>, terms: Terms) -> (Peer, mpsc::Receiver<Event>) {
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    (Peer { caller, terms: Arc::new(Mutex::new(terms)), events, refused: Arc::default() }, receiver)
}

impl Peer {
    /// A caller that hears nothing and answers nothing, for what is asked on its behalf.
    pub fn nobody(caller: Arc<Caller>) -> Peer {
        peer(caller, Terms::default()).0
    }

    /// Who it is.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Whether the caller asked to hear of progress.
    pub fn wants_progress(&self) -> bool {
        self.terms().progress.is_some()
    }

    /// The least severe log message that the caller wants to hear, if any.
    pub fn level(&self) -> Option<Level> {
        self.terms().level
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
        let terms = self.terms();
        let params = match &*method {
            "notifications/progress" => {
                let (Some(token), Some(mut members)) = (terms.progress, Members::parse(&params)) else { return };
                members.set("progressToken", token);
                members.into_raw()
            }
            "notifications/message" => {
                let level = Members::parse(&params).and_then(|members| members.read::<Level>("level"));
                if terms.level.is_none_or(|least| level.is_none_or(|level| level < least)) {
                    return;
                }
                params
            }
            _ => params,
        };
        let _ = self.events.try_send(Event::Notification { method, params }); // full: the caller does not keep up
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
        if let Err(required) = self.caller.allows(method, &params) {
            let error = missing_capability(method, &required);
            let _ = self.refused.set(required); // the first one is what the call needed
            return Err(error);
        }
        let (answer, answered) = oneshot::channel();
        let gone =
            || ErrorObject::new(code::INTERNAL_ERROR, format!("the caller went away before it answered {method}"));
        let asked = Asked { name, method: method.to_owned(), params, answer };
        self.events.send(Event::Ask(asked)).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The outcome of the call for a caller of 2026-07-28, which is to hear of the capability that it did not declare. A
    /// server of an older revision is refused its question, and fails with whatever error it has for that.
    pub(super) fn explain(&self, outcome: Outcome) -> Outcome {
        match (outcome, self.refused.get()) {
            (Err(error), Some(required)) if error.code != code::MISSING_CAPABILITY => {
                let what = format!("the call failed ({}) and", error.message);
                Err(missing_capability(&what, required))
            }
            (outcome, _) => outcome,
        }
    }

    pub(super) fn set_terms(&self, terms: Terms) {
        *self.terms.lock().unwrap_or_else(PoisonError::into_inner) = terms;
    }

    fn terms(&self) -> Terms {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The error for a caller that did not declare what the request needs.
pub(super) fn missing_capability(what: &str, required: &Value) -> ErrorObject {
    let message = format!("{what} needs a capability that the caller did not declare: {required}");
    ErrorObject::new(code::MISSING_CAPABILITY, message).with_data(&json!({ "requiredCapabilities": required }))
}

#[cfg(test)]
mod tests {
    use super::*;

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
