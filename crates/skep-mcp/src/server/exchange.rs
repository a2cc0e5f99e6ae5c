//! A request under way: the handler at work, and what it says meanwhile.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

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
}

/// What happens next.
pub(super) enum Step {
    Event(Event),
    Done(Outcome),
}

impl Exchange {
    /// Begin. `rounds_max`: how often an `input_required` result is carried out by asking; 0 leaves that to the caller.
    pub(super) fn begin(service: &Arc<dyn Service>, call: Call, terms: Terms, rounds_max: usize) -> Exchange {
        Exchange::run(call, terms, |call, peer| match rounds_max {
            0 => Arc::clone(service).handle(call, peer),
            _ => Box::pin(input::carry_out(Arc::clone(service), call, peer, rounds_max)),
        })
    }

    /// Begin after a pause, for a caller that hears nothing meanwhile.
    pub(super) fn begin_after(pause: Duration, service: &Arc<dyn Service>, call: Call, rounds_max: usize) -> Exchange {
        let service = Arc::clone(service);
        Exchange::run(call, Terms::default(), |call, peer| {
            Box::pin(async move {
                tokio::time::sleep(pause).await;
                input::carry_out(service, call, peer, rounds_max).await
            })
        })
    }

    /// Go on with a call whose result asks for input: ask the peer, and repeat it with the answers.
    pub(super) fn carry_on(
        service: &Arc<dyn Service>,
        call: Call,
        terms: Terms,
        result: Box<RawValue>,
        rounds_max: usize,
    ) -> Exchange {
        let service = Arc::clone(service);
        Exchange::run(call, terms, |call, peer| Box::pin(input::carry_on(service, call, peer, result, rounds_max)))
    }

    fn run(call: Call, terms: Terms, work: impl FnOnce(Call, Peer) -> BoxFuture<Outcome>) -> Exchange {
        let (peer, events) = peer::peer(Arc::clone(&call.caller), terms);
        let work = work(call, peer.clone());
        let handler = AssertUnwindSafe(work).catch_unwind().map(|outcome| {
            let fault =
                |_| Err(ErrorObject::new(code::INTERNAL_ERROR, "the call failed inside the server; its log says why"));
            outcome.unwrap_or_else(fault)
        });
        Exchange { handler: Box::pin(handler), outcome: None, events, peer }
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

    /// What is said next, without working on. Never ends while there is nothing.
    pub(super) async fn next_event(&mut self) -> Option<Event> {
        self.events.recv().await
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
