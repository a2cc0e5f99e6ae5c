//! The last calls of a hub: who called which tool, how that ended, and how long it took. Neither arguments nor results.
//!
//! Every call, of the hub's own tools and of MCP servers', leaves a record in a ring in memory. Two read it: `GET /calls`,
//! for `skep logs`, and a background task that writes a line to the log for each. So a call never waits for a terminal or a
//! disk; it costs a lock that is held for as long as it takes to append. Lines that would come faster than anybody reads
//! them are summed up.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use skep_core::{
    Timestamp,
    policy::{Actor, Denied, Operate, Permit, Read},
};
use skep_tools::{error::ToolError, schema::shorten, tool::Tool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Calls, totals::Totals};
use crate::hub::{admission::Refused, principals};

/// Calls that are kept; of more, the oldest are forgotten.
const CALLS_MAX: usize = 1000;
/// Characters of a tool's name that are kept: callers may ask for tools that there are not.
const TOOL_CHARS_MAX: usize = 128;
/// How often lines are written to the log.
const WRITE_EVERY: Duration = Duration::from_millis(100);
/// Lines that are written to the log each time; what was called besides is counted.
const LINES_MAX: usize = 100;
/// How a call is said to have ended that took too long.
const TIMED_OUT: &str = "timed_out";
/// The target of these lines, for filters of the log.
const TARGET: &str = "skep::calls";

/// The last calls.
#[derive(Default)]
pub(crate) struct CallLog {
    ring: Mutex<Ring>,
    changed: Notify,
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Ring {
    records: VecDeque<Record>,
    /// What all calls so far add up to. Their number is that of the last record.
    totals: Totals,
}

/// A call that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) number: u64,
    /// When it ended.
    pub(crate) at: Timestamp,
    pub(crate) actor: Arc<Actor>,
    pub(crate) tool: String,
    /// `ok`, `cached`, or the code of an error.
    pub(crate) outcome: &'static str,
    pub(crate) took: Duration,
}

/// How a call ended: in a word, and whether the hub or what it relies on is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) outcome: &'static str,
    pub(crate) is_fault: bool,
}

impl Ended {
    /// As the caller wanted, or by the caller's own doing.
    pub(crate) fn well(outcome: &'static str) -> Ended {
        Ended { outcome, is_fault: false }
    }
}

impl From<&ToolError> for Ended {
    fn from(error: &ToolError) -> Ended {
        Ended { outcome: error.code(), is_fault: error.is_fault() }
    }
}

impl From<Refused> for Ended {
    fn from(refused: Refused) -> Ended {
        Ended { outcome: refused.code(), is_fault: refused.is_fault() }
    }
}

/// Whose calls are looked at.
pub(crate) enum Whose {
    Everybodys(#[expect(dead_code, reason = "a proof, which nobody needs to look at")] Permit<Operate>),
    Own(Permit<Read>),
}

impl Whose {
    /// Those that an actor may see: an operator everybody's, and others their own.
    pub(crate) fn seen_by(actor: &Arc<Actor>) -> Result<Whose, Denied> {
        match actor.permit() {
            Ok(permit) => Ok(Whose::Everybodys(permit)),
            Err(_) => Ok(Whose::Own(actor.permit()?)),
        }
    }

    fn includes(&self, caller: &Actor) -> bool {
        match self {
            Whose::Everybodys(_) => true,
            Whose::Own(permit) => permit.actor().principal == caller.principal,
        }
    }
}

/// A call under way. It counts as cancelled if nobody says how it ended.
pub(crate) struct Recording<'a> {
    log: &'a CallLog,
    actor: Arc<Actor>,
    tool: String,
    began: Instant,
    ended: Ended,
    whose_time: WhoseTime,
}

/// What the time that a call takes says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhoseTime {
    /// How fast the hub is.
    Hubs,
    /// How long a program or a model takes, or somebody who is asked. It is no fault of the hub if that is too long.
    Callers,
    /// How long an MCP server takes.
    Servers,
}

impl CallLog {
    /// A call begins.
    pub(crate) fn begin(&self, actor: &Arc<Actor>, tool: String) -> Recording<'_> {
        let tool = if tool.len() > TOOL_CHARS_MAX { shorten(&tool, TOOL_CHARS_MAX) } else { tool };
        let (began, ended, whose_time) = (Instant::now(), Ended::well("cancelled"), WhoseTime::Servers);
        Recording { log: self, actor: Arc::clone(actor), tool, began, ended, whose_time }
    }

    /// What all calls that have ended add up to.
    pub(crate) fn totals(&self) -> Totals {
        self.ring().totals
    }

    /// Let those who wait for calls go: the hub stops.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// Whether the hub stops.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// These calls after this number, and the number of the last call.
    pub(crate) fn after(&self, number: u64, of: &Whose) -> (Vec<Record>, u64) {
        let ring = self.ring();
        let is_new = |record: &&Record| record.number > number && of.includes(&record.actor);
        (ring.records.iter().filter(is_new).cloned().collect(), ring.totals.calls)
    }

    /// Returns when there is one of these calls after this number, or the hub stops.
    pub(crate) async fn wait(&self, number: u64, of: &Whose) {
        loop {
            let changed = self.changed.notified();
            if !self.after(number, of).0.is_empty() || self.is_closed() {
                return;
            }
            changed.await;
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording<'_> {
    /// It is a call of this tool of Skep's own.
    pub(crate) fn is_of(&mut self, tool: &Tool) {
        self.whose_time = if tool.runs_others { WhoseTime::Callers } else { WhoseTime::Hubs };
    }

    /// It has waited because its caller wanted it to.
    pub(crate) fn has_waited(&mut self) {
        self.whose_time = WhoseTime::Callers;
    }

    /// It has ended like this.
    pub(crate) fn ended(mut self, ended: impl Into<Ended>) {
        self.ended = ended.into();
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        let (actor, tool) = (Arc::clone(&self.actor), std::mem::take(&mut self.tool));
        let (at, Ended { outcome, is_fault }, took) = (now(), self.ended, self.began.elapsed());
        let is_too_long = outcome == TIMED_OUT && self.whose_time == WhoseTime::Callers;
        let mut ring = self.log.ring();
        ring.totals.add(is_fault && !is_too_long, (self.whose_time == WhoseTime::Hubs).then_some(took));
        let number = ring.totals.calls;
        let oldest = if ring.records.len() < CALLS_MAX { None } else { ring.records.pop_front() };
        ring.records.push_back(Record { number, at, actor, tool, outcome, took });
        drop(ring);
        self.log.changed.notify_waiters();
        drop(oldest); // frees memory, for which nobody needs to wait
    }
}

#[expect(clippy::disallowed_methods, reason = "where a call ends is an edge")]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Write a line to the log for each call until `stop` is cancelled, if anybody wants them.
pub(crate) async fn write_lines(calls: Arc<Calls>, stop: CancellationToken) {
    if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
        return;
    }
    let Ok(all) = Whose::seen_by(principals::local()) else { return };
    let mut written = 0;
    while stop.run_until_cancelled(calls.log.wait(written, &all)).await.is_some() {
        written = write_new(&calls.log, written, &all).await;
        if calls.log.is_closed() || stop.run_until_cancelled(tokio::time::sleep(WRITE_EVERY)).await.is_none() {
            break;
        }
    }
    stop.cancelled().await;
    write_new(&calls.log, written, &all).await;
}

/// Write what is new after this number; gives the number of the last call. Off the runtime, because a terminal may be
/// stopped.
async fn write_new(log: &CallLog, written: u64, all: &Whose) -> u64 {
    let (records, last) = log.after(written, all);
    let written = tokio::task::spawn_blocking(move || {
        for Record { actor, tool, outcome, took, .. } in records.iter().take(LINES_MAX) {
            let ms = format_args!("{:.1}", took.as_secs_f64() * 1e3);
            tracing::info!(target: TARGET, caller = &*actor.principal, tool, outcome, ms, "call");
        }
        let shown = records.len().min(LINES_MAX) as u64;
        match last - written - shown {
            0 => {}
            more => tracing::info!(target: TARGET, more, "further calls at the same time"),
        }
    });
    let _ = written.await; // fails only if a subscriber panics, which is no reason to write it again
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::principals::{local, named};

    fn seen_by(actor: &Arc<Actor>) -> Whose {
        Whose::seen_by(actor).unwrap()
    }

    fn tools(records: &[Record]) -> Vec<&str> {
        records.iter().map(|record| record.tool.as_str()).collect()
    }

    #[test]
    fn the_last_calls_are_kept_with_how_they_ended() {
        let (log, ann) = (CallLog::default(), named("ann"));
        log.begin(&ann, "one".into()).ended(Ended::well("ok"));
        drop(log.begin(&ann, "two".into()));
        log.begin(&named("bob"), "x".repeat(10_000)).ended(Ended::well("failed"));
        let (records, last) = log.after(0, &seen_by(&ann));
        assert_eq!((tools(&records), last), (vec!["one", "two"], 3));
        assert_eq!((records[0].outcome, records[1].outcome), ("ok", "cancelled"));
        let (records, _) = log.after(2, &seen_by(local()));
        assert!(records.len() == 1 && records[0].tool.chars().count() <= TOOL_CHARS_MAX + 1);
        (0..CALLS_MAX).for_each(|n| log.begin(&ann, n.to_string()).ended(Ended::well("ok")));
        let (records, last) = log.after(0, &seen_by(local()));
        assert_eq!((records.len(), records[0].number, last), (CALLS_MAX, 4, CALLS_MAX as u64 + 3));
    }

    #[tokio::test]
    async fn who_waits_hears_of_its_own_call_and_of_the_end() {
        let (log, ann) = (CallLog::default(), named("ann"));
        log.begin(&ann, "before".into()).ended(Ended::well("ok"));
        let (anns, everybodys) = (seen_by(&ann), seen_by(local()));
        let mut waits = std::pin::pin!(log.wait(1, &anns));
        let mut is_waiting = async || futures_util::poll!(&mut waits).is_pending();
        assert!(is_waiting().await);
        log.begin(&named("bob"), "not ann's".into()).ended(Ended::well("ok"));
        assert!(is_waiting().await);
        log.begin(&ann, "ann's".into()).ended(Ended::well("ok"));
        assert!(!is_waiting().await);
        assert_eq!(tools(&log.after(1, &anns).0), ["ann's"]);
        tokio::join!(log.wait(9, &everybodys), async { log.close() });
    }

    #[test]
    fn faults_are_those_of_the_hub_and_times_those_that_it_is_answerable_for() {
        let (log, ann) = (CallLog::default(), named("ann"));
        let timed_out = ToolError::TimedOut { tool: "t".into(), after: Duration::ZERO, detail: Default::default() };
        let ends: [(Ended, bool); 8] = [
            (Ended::well("ok"), false),
            ((&ToolError::Denied("no".into())).into(), false),
            ((&ToolError::failed("exit code 1")).into(), false),
            ((&ToolError::conflict("claimed")).into(), false),
            ((&ToolError::Internal("the disk is full".into())).into(), true),
            ((&timed_out).into(), true),
            (Refused::Busy.into(), true),
            (Refused::OverShare(4, "run").into(), false),
        ];
        for (ended, is_fault) in ends {
            let before = log.totals();
            log.begin(&ann, "t".into()).ended(ended);
            let since = log.totals().since(&before);
            assert_eq!((since.calls, since.faults, since.timed()), (1, u64::from(is_fault), 0), "{ended:?}");
        }
        let (mut hubs, mut waited) = (log.begin(&ann, "t".into()), log.begin(&ann, "t".into()));
        let before = log.totals();
        (hubs.whose_time, waited.whose_time) = (WhoseTime::Hubs, WhoseTime::Hubs);
        waited.has_waited();
        hubs.ended(&timed_out);
        waited.ended(&timed_out);
        let since = log.totals().since(&before);
        assert_eq!((since.calls, since.faults, since.timed()), (2, 1, 1));
    }
}
