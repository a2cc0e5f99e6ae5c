//! Input that a service asks for in its result (2026-07-28: `input_required`), brought to callers of older revisions:
//! each of its requests becomes a request to the caller, and the call is repeated with the answers.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::value::RawValue;

use super::{Call, Members, Outcome, Peer, Service, code};
use crate::message::ErrorObject;

/// Requests that one result may ask to be answered at once.
const REQUESTS_MAX: usize = 16;

/// Let the service answer, asking the caller for whatever it wants to know, at most `rounds_max` times.
pub(super) async fn carry_out(service: Arc<dyn Service>, call: Call, peer: Peer, rounds_max: usize) -> Outcome {
    let result = Arc::clone(&service).handle(again(&call, call.params.clone()), peer.clone()).await?;
    carry_on(service, call, peer, result, rounds_max).await
}

/// The same for a call that was made already, with this result.
pub(super) async fn carry_on(
    service: Arc<dyn Service>,
    call: Call,
    peer: Peer,
    mut result: Box<RawValue>,
    rounds_max: usize,
) -> Outcome {
    for _ in 0..rounds_max {
        let Some(wanted) = wanted(&result) else { return Ok(result) };
        let params = answer(&wanted, call.params.clone(), &peer).await?;
        result = Arc::clone(&service).handle(again(&call, params), peer.clone()).await?;
    }
    if wanted(&result).is_none() {
        return Ok(result);
    }
    let message = format!("the server asked for input more than {rounds_max} times in one call");
    Err(ErrorObject::new(code::INTERNAL_ERROR, message))
}

fn again(call: &Call, params: Members<'static>) -> Call {
    Call { method: call.method.clone(), params, caller: Arc::clone(&call.caller) }
}

/// Whether the result asks for input.
pub(super) fn is_wanted(result: &RawValue) -> bool {
    wanted(result).is_some()
}

/// The result's members, if it asks for input.
fn wanted(result: &RawValue) -> Option<Members<'_>> {
    if !result.get().contains("input_required") {
        return None;
    }
    let members = Members::parse(result)?;
    (members.read::<String>("resultType").as_deref() == Some("input_required")).then_some(members)
}

/// The original parameters with the caller's answers and the server's state, which goes back byte for byte.
async fn answer(
    wanted: &Members<'_>,
    mut repeated: Members<'static>,
    peer: &Peer,
) -> Result<Members<'static>, ErrorObject> {
    let requests = wanted.get("inputRequests").and_then(Members::parse).unwrap_or_default();
    if requests.iter().count() > REQUESTS_MAX {
        let message = format!("the server asked for more than {REQUESTS_MAX} inputs at once");
        return Err(ErrorObject::new(code::INTERNAL_ERROR, message));
    }
    let asked = requests.iter().map(|(key, request)| async move {
        let request = Members::parse(request).unwrap_or_default();
        let method: String = request.read("method").unwrap_or_default();
        let params = request.get("params").map_or_else(empty, ToOwned::to_owned);
        peer.request_as(Some(key.to_owned()), &method, params).await.map(|answer| (key, answer))
    });
    let mut responses = Members::default();
    for answered in join_all(asked).await {
        let (key, answer) = answered?;
        responses.set(key, answer);
    }
    repeated.set("inputResponses", responses.into_raw());
    match wanted.get("requestState") {
        Some(state) => repeated.set("requestState", state.to_owned()),
        None => _ = repeated.remove("requestState"),
    }
    Ok(repeated)
}

pub(super) fn empty() -> Box<RawValue> {
    Members::default().into_raw()
}
