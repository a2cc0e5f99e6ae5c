//! Calls that wait for their caller's input (2026-07-28, multi round-trip requests): the service has asked, the caller was
//! told so in an `input_required` result, and the call goes on when it is repeated with the answers.
//!
//! What waits is kept here, not in the `requestState`: that is only an unguessable name. It opens the call for the
//! principal that began it, for the same method and arguments, once.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    LOCAL, Limits, Members, code,
    exchange::Exchange,
    peer::{Asked, Ids},
    unguessable,
};
use crate::message::ErrorObject;

/// The calls that wait.
pub(super) struct SuspendedCalls {
    calls: Mutex<HashMap<String, Waiting>>,
    /// Tells our states from those of servers behind this one, which may be of the same kind and pass through.
    prefix: String,
    all_max: Size,
    /// What one principal with a name may have of them.
    of_one_max: Size,
    time_max: Duration,
    /// No more are taken.
    is_closed: AtomicBool,
}

/// How much waits.
#[derive(Clone, Copy, Default)]
struct Size {
    calls: usize,
    bytes: usize,
}

impl Size {
    fn of<'a>(waiting: impl Iterator<Item = &'a Waiting>) -> Size {
        waiting.fold(Size::default(), |size, waiting| size.with(waiting.call.bytes))
    }

    fn with(self, bytes: usize) -> Size {
        Size { calls: self.calls + 1, bytes: self.bytes + bytes }
    }

    /// What is too much, if something is.
    fn exceeded(self, max: Size) -> Option<String> {
        if self.calls > max.calls {
            return Some(format!("{} calls wait for input already", max.calls));
        }
        let exceeded = || format!("the parameters of calls that wait for input have {} bytes at most", max.bytes);
        (self.bytes > max.bytes).then(exceeded)
    }
}

struct Waiting {
    call: SuspendedCall,
    until: Instant,
}

/// A call that waits, and what it waits for.
pub(super) struct SuspendedCall {
    pub(super) exchange: Exchange,
    /// What was asked and not yet answered, by its key.
    pub(super) asked: Vec<(String, Asked)>,
    /// The keys of all that was asked: none is used twice.
    pub(super) keys: Ids,
    pub(super) identity: Identity,
    /// Bytes of its parameters.
    pub(super) bytes: usize,
}

/// What must be the same when a call is repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    principal: String,
    method: String,
    /// `name` or `uri`, and `arguments`, as they were written.
    about: [Option<String>; 3],
}

impl Identity {
    pub(super) fn new(principal: &str, method: &str, params: &Members<'_>) -> Identity {
        let text = |name| params.get(name).map(|value| value.get().to_owned());
        let about = [text("name"), text("uri"), text("arguments")];
        Identity { principal: principal.to_owned(), method: method.to_owned(), about }
    }
}

impl SuspendedCalls {
    pub(super) fn new(limits: &Limits) -> SuspendedCalls {
        SuspendedCalls {
            calls: Mutex::default(),
            prefix: format!("waiting-{}-", unguessable()),
            all_max: Size { calls: limits.suspended_max, bytes: limits.suspended_bytes_max },
            of_one_max: Size { calls: limits.suspended_of_one_max, bytes: limits.suspended_bytes_of_one_max },
            time_max: limits.suspended_time_max,
            is_closed: AtomicBool::new(false),
        }
    }

    /// Give up all calls that wait, and take no more: who waits for the others would wait for these as well.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        let given_up = std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner));
        drop(given_up); // outside the lock: it cancels calls
    }

    /// Put a call aside. Returns the state with which it is taken up again.
    pub(super) fn put(&self, call: SuspendedCall) -> Result<String, ErrorObject> {
        let now = Instant::now();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let expired: Vec<_> = calls.extract_if(|_, waiting| waiting.until <= now).collect();
        let result = match self.refusal(&calls, &call) {
            Some(message) => Err(ErrorObject::new(code::BUSY, message)),
            None => {
                let state = format!("{}{}", self.prefix, unguessable());
                calls.insert(state.clone(), Waiting { call, until: now + self.time_max });
                Ok(state)
            }
        };
        drop(calls);
        drop(expired); // outside the lock: it cancels calls
        result
    }

    /// Why a call cannot wait, and what its caller can do.
    fn refusal(&self, calls: &HashMap<String, Waiting>, call: &SuspendedCall) -> Option<String> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Some("the server is stopping, and cannot wait for input any more".to_owned());
        }
        let principal = &call.identity.principal;
        let own = || Size::of(calls.values().filter(|waiting| waiting.call.identity.principal == *principal));
        let of_one = (*principal != LOCAL).then(|| own().with(call.bytes).exceeded(self.of_one_max)).flatten();
        if let Some(exceeded) = of_one {
            return Some(format!(
                "{exceeded}, as much as one principal may have; repeat one of {principal}'s with the answer"
            ));
        }
        let exceeded = Size::of(calls.values()).with(call.bytes).exceeded(self.all_max)?;
        Some(format!("{exceeded}; answer or repeat one of them"))
    }

    /// The call that waits under this state. `None` if the state is not one of ours.
    pub(super) fn take(
        &self,
        state: &RawValue,
        identity: impl FnOnce() -> Identity,
    ) -> Option<Result<SuspendedCall, ErrorObject>> {
        let state: String = serde_json::from_str(state.get()).ok()?;
        if !state.starts_with(&self.prefix) {
            return None;
        }
        let identity = identity();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let is_meant = calls
            .get(&state)
            .is_some_and(|waiting| waiting.until > Instant::now() && waiting.call.identity == identity);
        let call = if is_meant { calls.remove(&state) } else { None };
        Some(call.map(|waiting| waiting.call).ok_or_else(|| {
            let message = "no call waits under this requestState (it was answered, has expired, or was for another \
                           request); call again without it";
            ErrorObject::new(code::INVALID_PARAMS, message)
        }))
    }
}
