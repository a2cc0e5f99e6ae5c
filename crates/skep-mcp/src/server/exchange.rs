//! A request under way: the handler at work, and what it says meanwhile.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use super::{
    BoxFuture, Call, Outcome, Service, code, input,
    peer::{self, Event, Peer, Terms},
};
use crate::message::ErrorObject;

/// Nothing happens unless it is polled through [`Exchange::next`], so it may be put aside and taken up again. Dropping
/// it cancels the call.
pub(super) struct Exchange {
    handler: BoxFuture<Outcome>,
    outcome: Option<Outcome>,
    events: mpsc::Receiver<Event>,
    peer: Peer,
    _cancelled_with_it: DropGuard,
}

/// What happens next.
pub(super) enum Step {
    Event(Event),
    Done(Outcome),
}

impl Exchange {
    /// Begin. `rounds_max`: how often an `input_required` result is carried out by asking; 0 leaves that to the caller.
    pub(super) fn begin(service: &Arc<dyn Service>, call: Call, terms: Terms, rounds_max: usize) -> Exchange {
        let guard = call.cancel.clone().drop_guard();
        let (peer, events) = peer::peer(Arc::clone(&call.caller), terms);
        let work = match rounds_max {
            0 => Arc::clone(service).handle(call, peer.clone()),
            _ => Box::pin(input::carry_out(Arc::clone(service), call, peer.clone(), rounds_max)),
        };
        let handler = AssertUnwindSafe(work).catch_unwind().map(|outcome| {
            let fault =
                |_| Err(ErrorObject::new(code::INTERNAL_ERROR, "the call failed inside the server; its log says why"));
            outcome.unwrap_or_else(fault)
        });
        Exchange { handler: Box::pin(handler), outcome: None, events, peer, _cancelled_with_it: guard }
    }

    /// Work on until there is something to send. What was said before the result comes before the result.
    pub(super) async fn next(&mut self) -> Step {
        loop {
            if self.outcome.is_some() {
                if let Ok(event) = self.events.try_recv() {
                    return Step::Event(event);
                }
                if let Some(outcome) = self.outcome.take() {
                    return Step::Done(outcome);
                }
            }
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => return Step::Event(event),
                outcome = &mut self.handler, if self.outcome.is_none() => self.outcome = Some(outcome),
            }
        }
    }

    /// See [`Peer::explain`].
    pub(super) fn explain(&self, outcome: Outcome) -> Outcome {
        self.peer.explain(outcome)
    }

    /// The caller has asked again, perhaps on other terms.
    pub(super) fn set_terms(&self, terms: Terms) {
        self.peer.set_terms(terms);
    }
}
