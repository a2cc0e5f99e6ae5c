//! Figures for Prometheus: `GET /metrics`.
//!
//! Whoever does a thing counts it (`metrics::counter!`); here is only how it is collected and shown. Nothing is
//! collected in a process that has no listener.

use std::{cell::RefCell, sync::OnceLock, time::Duration};

use axum::http::{Method, StatusCode};
use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use skep_core::db::Db;
use skep_mcp::server::Server;
use tokio_util::sync::CancellationToken;

use crate::hub::{
    admission::Load,
    alerts::{Alerts, rules::State},
    calls::totals::BUCKETS_S,
};

/// How often what was recorded is put into its buckets, if nobody asks. Until then each value takes eight bytes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The recorder of this process.
#[derive(Clone)]
pub(super) struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// The recorder of this process, installed the first time.
    ///
    /// # Errors
    ///
    /// Another part of the process has installed one of its own.
    pub(super) fn install() -> Result<Metrics, &'static str> {
        static RECORDER: OnceLock<Result<PrometheusHandle, &'static str>> = OnceLock::new();
        let handle = RECORDER.get_or_init(|| {
            let builder = PrometheusBuilder::new().set_buckets(&BUCKETS_S).map_err(|_| "no buckets")?;
            let handle = builder.install_recorder().map_err(|_| "this process records its metrics elsewhere")?;
            describe();
            Ok(handle)
        });
        handle.clone().map(|handle| Metrics { handle })
    }

    /// Put what was recorded into its buckets now and then, until `stop` is cancelled.
    pub(super) async fn keep_up(self, stop: CancellationToken) {
        let mut every = tokio::time::interval(UPKEEP_EVERY);
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            self.handle.run_upkeep();
        }
    }

    /// Everything, in Prometheus' text format.
    pub(super) fn render(&self, load: Load, connections: usize, mcp: &Server, uptime: Duration) -> String {
        metrics::gauge!("skep_calls_running").set(load.running as f64);
        metrics::gauge!("skep_calls_waiting").set(load.waiting as f64);
        metrics::gauge!("skep_calls_at_once").set(load.at_once as f64);
        metrics::gauge!("skep_calls_forwarded").set(load.forwarded as f64);
        metrics::gauge!("skep_http_connections").set(connections as f64);
        metrics::gauge!("skep_mcp_sessions").set(mcp.sessions() as f64);
        metrics::gauge!("skep_mcp_tasks_running").set(mcp.tasks_running() as f64);
        metrics::gauge!("skep_uptime_seconds").set(uptime.as_secs_f64());
        if let Some(bytes) = resident_bytes() {
            metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
        }
        self.handle.render()
    }
}

/// What other hubs commit and how soon it is seen here, and Redis, if there is one.
pub(super) fn of_store(db: &Db) {
    metrics::gauge!("skep_sync_lag_seconds").set(db.sync_lag().unwrap_or_default().as_secs_f64());
    let Some(redis) = db.redis() else { return };
    metrics::gauge!("skep_redis_connected").set(if redis.is_connected { 1.0 } else { 0.0 });
    for (outcome, count) in [("hit", redis.hits), ("miss", redis.misses), ("damaged", redis.damaged)] {
        metrics::counter!("skep_redis_reads_total", "outcome" => outcome).absolute(count);
    }
    metrics::counter!("skep_redis_published_total").absolute(redis.published);
    metrics::counter!("skep_redis_dropped_total").absolute(redis.dropped);
    metrics::counter!("skep_redis_errors_total").absolute(redis.errors);
    metrics::counter!("skep_redis_connections_total").absolute(redis.connections);
    let reads = redis.hits + redis.misses + redis.damaged;
    if reads > 0 {
        metrics::gauge!("skep_redis_hit_ratio").set(redis.hits as f64 / reads as f64);
    }
    metrics::gauge!("skep_redis_memory_bytes").set(redis.memory_bytes as f64);
    metrics::gauge!("skep_redis_memory_max_bytes").set(redis.memory_bytes_max as f64);
}

/// Which alerts are raised.
pub(super) fn of_alerts(alerts: &Alerts) {
    for (kind, state) in alerts.states() {
        let is_raised = if state == State::Clear { 0.0 } else { 1.0 };
        metrics::gauge!("skep_alert", "alert" => kind.code()).set(is_raised);
    }
}

/// One answered request. `route` is a pattern of the router, never a path as it came in.
pub(super) fn request(method: &Method, route: &str, status: StatusCode, took: Duration) {
    let method = match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        _ => "other",
    };
    HANDLES.with_borrow_mut(|known| {
        let is_same =
            |handles: &Handles| *handles.route == *route && handles.status == status && handles.method == method;
        let index = known.iter().position(is_same).unwrap_or_else(|| {
            known.push(Handles::new(method, route, status));
            known.len() - 1
        });
        let handles = &known[index];
        handles.requests.increment(1);
        handles.seconds.record(took);
    });
}

thread_local! {
    /// What this thread has counted requests with: some dozens. To look it up in the recorder costs more than counting.
    static HANDLES: RefCell<Vec<Handles>> = const { RefCell::new(Vec::new()) };
}

struct Handles {
    route: Box<str>,
    method: &'static str,
    status: StatusCode,
    requests: Counter,
    seconds: Histogram,
}

impl Handles {
    fn new(method: &'static str, route: &str, status: StatusCode) -> Handles {
        let (label, code) = (route.to_owned(), status.as_str().to_owned());
        let requests = metrics::counter!("skep_http_requests_total", "method" => method, "route" => label.clone(), "status" => code);
        let seconds = metrics::histogram!("skep_http_request_seconds", "method" => method, "route" => label);
        Handles { route: route.into(), method, status, requests, seconds }
    }
}

/// One MCP task that was begun.
pub(super) fn task_created() {
    metrics::counter!("skep_mcp_tasks_created_total").increment(1);
}

/// One MCP task that has ended, in this state.
pub(super) fn task_ended(state: &'static str) {
    metrics::counter!("skep_mcp_tasks_ended_total", "state" => state).increment(1);
}

/// One connection above the limit.
pub(super) fn too_many_connections() {
    metrics::counter!("skep_http_connections_refused_total").increment(1);
}

fn describe() {
    metrics::describe_gauge!("skep_alert", "Whether an alert is raised: 1 or 0.");
    metrics::describe_counter!("skep_tool_calls_total", "Calls of tools, by how they ended.");
    metrics::describe_histogram!("skep_tool_call_seconds", "Time that calls of tools took.");
    metrics::describe_gauge!("skep_calls_running", "Calls that run now.");
    metrics::describe_gauge!("skep_calls_waiting", "Calls that wait for their turn.");
    metrics::describe_gauge!("skep_calls_at_once", "Calls that may run at once.");
    metrics::describe_gauge!("skep_calls_forwarded", "Calls of MCP servers that are under way.");
    metrics::describe_counter!("skep_upstream_calls_total", "Calls of MCP servers, by how they ended.");
    metrics::describe_histogram!("skep_upstream_call_seconds", "Time that calls of MCP servers took.");
    metrics::describe_counter!("skep_http_requests_total", "Answered HTTP requests.");
    metrics::describe_histogram!("skep_http_request_seconds", "Time from the head of a request to its answer.");
    metrics::describe_gauge!("skep_http_connections", "Open HTTP connections.");
    metrics::describe_counter!("skep_http_connections_refused_total", "Connections above the limit.");
    metrics::describe_counter!(
        "skep_authenticated_total",
        "Requests and connections that brought a token, by whose it is."
    );
    metrics::describe_gauge!(
        "skep_sync_lag_seconds",
        "The longest that an event of another hub took to be seen by those who follow here, in the last minute, or \
         for how long nothing could be looked for."
    );
    metrics::describe_gauge!("skep_redis_connected", "Whether there is a connection to Redis.");
    metrics::describe_counter!("skep_redis_reads_total", "Contents of files that Redis was asked for.");
    metrics::describe_counter!("skep_redis_published_total", "Events that were published on channels of Redis.");
    metrics::describe_counter!("skep_redis_dropped_total", "Contents and events that were not sent to Redis.");
    metrics::describe_counter!("skep_redis_errors_total", "Answers of Redis that were errors, or late.");
    metrics::describe_counter!("skep_redis_connections_total", "Connections to Redis that were made.");
    metrics::describe_gauge!(
        "skep_redis_hit_ratio",
        "Contents that were found in Redis, of all that it was asked for."
    );
    metrics::describe_gauge!("skep_redis_memory_bytes", "Memory that Redis uses.");
    metrics::describe_gauge!("skep_redis_memory_max_bytes", "Memory that Redis may use; 0 if it has no limit.");
    metrics::describe_gauge!("skep_mcp_sessions", "MCP sessions that are kept.");
    metrics::describe_counter!("skep_mcp_tasks_created_total", "MCP calls that became tasks.");
    metrics::describe_counter!("skep_mcp_tasks_ended_total", "MCP tasks that ended here, by their state.");
    metrics::describe_gauge!("skep_mcp_tasks_running", "MCP tasks that run at this hub.");
    metrics::describe_gauge!("skep_uptime_seconds", "Time since the hub was started.");
    metrics::describe_gauge!("process_resident_memory_bytes", "Memory of this process that is in RAM.");
}

/// `VmRSS` of `proc_pid_status(5)`.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
