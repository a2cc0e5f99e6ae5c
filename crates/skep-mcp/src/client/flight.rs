//! The calls under way, and which of them a server means when it does not say so.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Handler;
use crate::{framing::Held, message::Notification};

/// Questions that come within this time of one another come from one call, if no other is free to ask.
const ASKED_TOGETHER: Duration = Duration::from_millis(100);

/// A server may go on for so long with a call that was withdrawn, and ask for its sake.
const LEFT_TIME: Duration = Duration::from_secs(60);

/// A call that is under way, as the transport sees it.
pub(super) struct Flight {
    pub(super) handler: Option<Arc<dyn Handler>>,
    /// When the server last said how far it is.
    progressed: Mutex<Option<Instant>>,
    /// Questions of the server's that were given to this call's handler and are not answered.
    questions: AtomicUsize,
    /// What its answer takes of the memory.
    held: Mutex<Option<Held>>,
}

impl Flight {
    pub(super) fn new(handler: Option<Arc<dyn Handler>>) -> Arc<Flight> {
        let (progressed, questions, held) = (Mutex::default(), AtomicUsize::new(0), Mutex::default());
        Arc::new(Flight { handler, progressed, questions, held })
    }

    /// Whose the call is.
    pub(super) fn principal(&self) -> &str {
        self.handler.as_ref().map_or("", |handler| handler.principal())
    }

    /// Keep what its answer takes of the memory.
    pub(super) fn keep(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// What was kept.
    pub(super) fn take_held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// When the server last said how far it is, if it did.
    pub(super) fn progressed(&self) -> Option<Instant> {
        *self.progressed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Progress, which was sent under the call's own token.
    pub(super) fn progress(&self, notification: Notification) {
        *self.progressed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if let Some(handler) = &self.handler {
            handler.notification(notification);
        }
    }
}

/// A question of the server's that a call waits for, while it lives.
pub(super) struct Question(Arc<Flight>);

impl Question {
    pub(super) fn new(flight: Arc<Flight>) -> Question {
        flight.questions.fetch_add(1, Ordering::Relaxed);
        Question(flight)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.0.questions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What tells which call a server means, beside the calls under way.
#[derive(Default)]
pub(super) struct Askers {
    /// The call that the server's last question was given to, and when.
    last: Option<(Weak<Flight>, Instant)>,
    /// Whose calls were given up unanswered, and when the last of each was. There are as many as principals, at most.
    left: HashMap<String, Instant>,
}

impl Askers {
    /// The server asked this call's handler.
    pub(super) fn asked(&mut self, flight: Option<&Arc<Flight>>) {
        self.last = flight.map(|flight| (Arc::downgrade(flight), Instant::now()));
    }

    /// Nobody waits for this call any more, and the server has not answered it.
    pub(super) fn leaves(&mut self, flight: &Flight) {
        if let Some(handler) = &flight.handler {
            self.left.retain(|_, when| when.elapsed() < LEFT_TIME);
            self.left.insert(handler.principal().to_owned(), Instant::now());
        }
    }

    /// The call that a server means when it does not say which: the only one with a handler. Among several calls of one
    /// principal, the only one that is not waiting for an answer to a question already, since a call that waits for its
    /// caller's input does not speak; if all wait, the one that asked just now, as it may ask several things at once.
    /// Between principals nothing is guessed: one could see what belongs to another, who may have left just now.
    pub(super) fn only_one<'a>(&self, flights: impl Iterator<Item = &'a Arc<Flight>> + Clone) -> Option<Arc<Flight>> {
        let heard = || {
            let flights = flights.clone();
            flights.filter_map(|flight| flight.handler.as_ref().map(|handler| (flight, handler.principal())))
        };
        let only = |flights: &mut dyn Iterator<Item = &'a Arc<Flight>>| match (flights.next(), flights.next()) {
            (Some(only), None) => Some(Arc::clone(only)),
            _ => None,
        };
        let first = heard().next()?.1;
        let is_free = |flight: &&Arc<Flight>| flight.questions.load(Ordering::Relaxed) == 0;
        let free = || only(&mut heard().map(|(flight, _)| flight).filter(is_free));
        let is_strange = |(principal, when): (&String, &Instant)| principal != first && when.elapsed() < LEFT_TIME;
        if self.left.iter().any(is_strange) {
            return None;
        }
        let of_one_principal = heard().all(|(_, principal)| principal == first);
        let asks = || {
            let (flight, when) = self.last.as_ref()?;
            if heard().any(|(flight, _)| is_free(&flight)) || when.elapsed() > ASKED_TOGETHER {
                return None;
            }
            flight.upgrade().filter(|asks| heard().any(|(flight, _)| Arc::ptr_eq(flight, asks)))
        };
        of_one_principal
            .then(|| free().or_else(asks))
            .flatten()
            .or_else(|| only(&mut heard().map(|(flight, _)| flight)))
    }
}

/// The calls of an HTTP session. What a server sends because of one may come on the stream that belongs to none: the
/// specification advises against it, and widely used servers do it.
#[derive(Default)]
pub(super) struct Flights(Mutex<UnderWay>);

#[derive(Default)]
struct UnderWay {
    calls: HashMap<i64, Arc<Flight>>,
    askers: Askers,
}

impl Flights {
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins; it ends with what is returned.
    pub(super) fn begin(&self, id: i64, flight: &Arc<Flight>) -> Ends<'_> {
        self.under_way().calls.insert(id, Arc::clone(flight));
        Ends { flights: self, id, is_answered: false }
    }

    /// The call with this id.
    pub(super) fn get(&self, id: i64) -> Option<Arc<Flight>> {
        self.under_way().calls.get(&id).cloned()
    }

    /// The call that the server means.
    pub(super) fn only_one(&self) -> Option<Arc<Flight>> {
        let under_way = self.under_way();
        under_way.askers.only_one(under_way.calls.values())
    }

    /// The server asks this call's handler.
    pub(super) fn asked(&self, flight: Option<&Arc<Flight>>) {
        self.under_way().askers.asked(flight);
    }
}

/// Ends a call.
pub(super) struct Ends<'a> {
    flights: &'a Flights,
    id: i64,
    /// Nothing more is said because of it.
    pub(super) is_answered: bool,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way();
        if let Some(flight) = under_way.calls.remove(&self.id)
            && !self.is_answered
        {
            under_way.askers.leaves(&flight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Of(&'static str);

    impl Handler for Of {
        fn notification(&self, _: Notification) {}

        fn principal(&self) -> &str {
            self.0
        }
    }

    fn of(principal: &'static str) -> Arc<Flight> {
        Flight::new(Some(Arc::new(Of(principal))))
    }

    #[test]
    fn a_question_goes_to_nobody_while_it_may_be_about_what_another_principal_has_withdrawn() {
        let (mut askers, call) = (Askers::default(), of("bob"));
        askers.leaves(&of("bob"));
        assert!(askers.only_one([&call].into_iter()).is_some(), "his own");
        askers.leaves(&Flight::new(None));
        assert!(askers.only_one([&call].into_iter()).is_some(), "nobody's");
        askers.leaves(&of("ann"));
        assert!(askers.only_one([&call].into_iter()).is_none());
    }
}
