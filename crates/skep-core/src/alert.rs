//! Alerts that a hub raises about itself. When it does is the hub's to decide; here is what the event log keeps of it.

use serde::{Deserialize, Serialize};

/// One alert of one hub, when it was raised or cleared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Which one: `error_rate`, `latency_p95`, `redis_memory`, `sync_lag`.
    pub alert: String,
    /// The hub that says so.
    pub hub: String,
    /// What was measured at that time: a ratio or seconds. When an alert is cleared, nothing if there is nothing to measure
    /// any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// What it has to exceed for the alert to be raised.
    pub threshold: f64,
}
