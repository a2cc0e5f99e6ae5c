//! What is counted of the calls of one server: how many, how they ended, and how long they took.
//!
//! Names of tools are the callers', and would make labels without bound, so a call is counted under its method.

use std::{array, sync::OnceLock, time::Duration};

use metrics::{Counter, Histogram, SharedString};
use skep_mcp::client::CallError;

use super::{Called, UpstreamError};

/// Methods that are counted by name; the last stands for all others.
const METHODS: [&str; 9] = [
    "tools/call",
    "tools/list",
    "prompts/get",
    "prompts/list",
    "resources/read",
    "resources/list",
    "resources/templates/list",
    "completion/complete",
    "other",
];

/// How a call may end.
#[derive(Clone, Copy)]
enum Ended {
    Ok,
    Failed,
    Denied,
    Busy,
    Unavailable,
    Error,
    TimedOut,
    Closed,
    Protocol,
    Unauthorized,
}

const ENDED: [&str; 10] =
    ["ok", "failed", "denied", "busy", "unavailable", "error", "timed_out", "closed", "protocol", "unauthorized"];

impl Ended {
    fn of(result: &Result<Called, UpstreamError>) -> Option<Ended> {
        Some(match result {
            Ok(Called { has_failed: true, .. }) => Ended::Failed,
            Ok(_) => Ended::Ok,
            Err(UpstreamError::Unknown { .. }) => return None, // not a server
            Err(UpstreamError::Denied { .. } | UpstreamError::Shared { .. } | UpstreamError::NotClaimed(_)) => {
                Ended::Denied
            }
            Err(UpstreamError::Busy { .. }) => Ended::Busy,
            Err(UpstreamError::Unavailable { .. } | UpstreamError::Unlisted { .. }) => Ended::Unavailable,
            Err(UpstreamError::Call { error, .. }) => match error {
                CallError::Rpc(_) => Ended::Error,
                CallError::NoRoom(_) => Ended::Busy,
                CallError::TimedOut(_) => Ended::TimedOut,
                CallError::Closed(_) => Ended::Closed,
                CallError::Unauthorized(_) => Ended::Unauthorized,
                CallError::Http { .. } | CallError::Protocol(_) => Ended::Protocol,
            },
        })
    }
}

/// The figures of one server. Each is looked up in the recorder once: that costs more than counting.
pub(super) struct Counts {
    server: SharedString,
    methods: [Method; METHODS.len()],
}

#[derive(Default)]
struct Method {
    seconds: OnceLock<Histogram>,
    ended: [OnceLock<Counter>; ENDED.len()],
}

impl Counts {
    pub(super) fn new(server: &str) -> Counts {
        Counts { server: SharedString::from(server.to_owned()), methods: array::from_fn(|_| Method::default()) }
    }

    /// One call.
    pub(super) fn record(&self, method: &str, result: &Result<Called, UpstreamError>, took: Duration) {
        let Some(ended) = Ended::of(result) else { return };
        let index = METHODS.into_iter().position(|known| known == method).unwrap_or(METHODS.len() - 1);
        let (method, name, outcome) = (&self.methods[index], METHODS[index], ENDED[ended as usize]);
        let server = || self.server.clone();
        let calls = || metrics::counter!("skep_upstream_calls_total", "server" => server(), "method" => name, "outcome" => outcome);
        method.ended[ended as usize].get_or_init(calls).increment(1);
        let seconds = || metrics::histogram!("skep_upstream_call_seconds", "server" => server(), "method" => name);
        method.seconds.get_or_init(seconds).record(took);
    }
}
