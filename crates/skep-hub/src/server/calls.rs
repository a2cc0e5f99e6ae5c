//! `GET /calls`: the last calls of the hub, for `skep logs`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
    routing::get,
};
use tokio::time::timeout;

use super::{
    http::{Caller, Shared},
    problem::{Kind, Problem, json_response},
};
use crate::{
    api,
    events::rfc3339,
    hub::{
        admission::Refused,
        calls::log::{Record, Whose},
    },
};

/// The longest that a request waits for a call.
const WAIT_TIME_MAX: Duration = Duration::from_secs(30);

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new().route("/calls", get(show))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ShowQuery {
    /// Only calls after this number.
    #[serde(default)]
    after: u64,
    /// If there are none, wait so many seconds for one.
    #[serde(default)]
    wait: f64,
}

/// The last calls, oldest first: the caller's own, or everybody's for the operator.
async fn show(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let of = Whose::seen_by(&caller.0).map_err(Refused::from)?;
    let bad_query = |rejection: QueryRejection| {
        let message = format!("{}; expected ?after=NUMBER&wait=SECONDS", rejection.body_text());
        Problem::new(Kind::BadRequest, message)
    };
    let Query(ShowQuery { after, wait }) = query.map_err(bad_query)?;
    let log = &hub.calls.log;
    let wait = Duration::try_from_secs_f64(wait).unwrap_or_default().min(WAIT_TIME_MAX);
    if !wait.is_zero() {
        let _ = timeout(wait, log.wait(after, &of)).await; // either way, what there is
    }
    let (records, last) = log.after(after, &of);
    if records.is_empty() && !wait.is_zero() && log.is_closed() {
        return Err(Refused::Draining.into()); // whoever waits for more waits in vain
    }
    let calls = records.into_iter().map(shown).collect();
    Ok(json_response(StatusCode::OK, &api::Calls { calls, last }))
}

fn shown(record: Record) -> api::Call {
    api::Call {
        number: record.number,
        at: rfc3339(record.at),
        principal: record.actor.principal.as_ref().to_owned(),
        tool: record.tool,
        outcome: record.outcome,
        duration_ms: record.took.as_secs_f64() * 1e3,
    }
}
