//! A request under way: the handler at work, and what it says meanwhile.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    BoxFuture, Call, Caller, Outcome, Service, code, input,
    peer::{Event, Peer, Terms},
};
use crate::{
    framing::{Held, Memories, SMALL_BYTES},
    message::ErrorObject,
};
use serde_json::value::RawValue;

/// Nothing happens unless it is polled through [`Exchange::next`], so it may be suspended and taken up again. Dropping
/// it cancels the call.
pub(super) struct Exchange {
    handler: BoxFuture<Outcome>,
    outcome: Option<Outcome>,
    has_ended: bool,
    peer: Peer,
}

/// What happens next.
pub(super) enum Step {
    Event(Event),
    /// The outcome, and what it takes of the memory.
    Done(Outcome, Option<Held>),
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
        let peer = Peer::new(Arc::clone(&call.caller), terms);
        let handler = work(call, peer.clone());
        Exchange { handler, outcome: None, has_ended: false, peer }
    }

    /// Work on until there is something to send. What was said before the result comes before the result. A large result takes
    /// its share of the memory of whoever asked.
    pub(super) async fn next(&mut self, memories: &Memories) -> Step {
        poll_fn(|cx| self.poll_next(cx, memories)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, memories: &Memories) -> Poll<Step> {
        if let Some(event) = self.hear() {
            return Poll::Ready(Step::Event(event));
        }
        if !self.has_ended
            && let Poll::Ready(outcome) = self.work(cx)
        {
            (self.outcome, self.has_ended) = (Some(outcome), true);
        }
        match self.outcome.take() {
            None => self.peer.poll_hear(cx).map(Step::Event),
            Some(outcome) => match self.hear() {
                Some(event) => {
                    self.outcome = Some(outcome);
                    Poll::Ready(Step::Event(event))
                }
                None if size(&outcome) <= SMALL_BYTES => Poll::Ready(Step::Done(outcome, None)),
                None => {
                    let held = self.peer.take_held();
                    let (outcome, held) = count(outcome, held, self.peer.caller().principal.name(), memories);
                    Poll::Ready(Step::Done(outcome, held))
                }
            },
        }
    }

    fn work(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        catch_unwind(AssertUnwindSafe(|| self.handler.as_mut().poll(cx))).unwrap_or_else(|_| {
            let message = "the call failed inside the server; its log says why";
            Poll::Ready(Err(ErrorObject::new(code::INTERNAL_ERROR, message)))
        })
    }

    /// What was said meanwhile, without working on.
    pub(super) fn hear(&self) -> Option<Event> {
        self.peer.hear()
    }

    /// The caller of the request.
    pub(super) fn caller(&self) -> &Arc<Caller> {
        self.peer.caller()
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

/// Bytes of an outcome.
fn size(outcome: &Outcome) -> usize {
    match outcome {
        Ok(result) => result.get().len(),
        Err(error) => error.message.len() + error.data.as_ref().map_or(0, |data| data.get().len()),
    }
}

/// An outcome with what it takes of this principal's memory; an error, if there is no room for it. It does not wait for that, as
/// it is there already: whoever makes large results makes room for them before.
pub(super) fn count(
    outcome: Outcome,
    mut held: Option<Held>,
    principal: &str,
    memories: &Memories,
) -> (Outcome, Option<Held>) {
    let Some(memory) = memories.of(principal) else { return (outcome, held) };
    match memory.hold(&mut held, size(&outcome)) {
        Ok(()) => (outcome, held),
        Err(none) => (Err(ErrorObject::new(code::BUSY, none.to_string())), None),
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.peer.end();
    }
}
