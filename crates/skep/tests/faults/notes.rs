//! What happens during a run: figures for people, and complaints, of which a good run has none.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Complaints that are kept: one is enough, and a thousand help nobody.
const COMPLAINTS_MAX: usize = 50;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Acknowledged,
    /// What is there did not allow it.
    Conflict,
    /// Nothing was done: nobody listens, or a hub says that it cannot now.
    Unavailable,
    /// The answer was lost, or says that it may have been done.
    Unsure,
}

/// Written down by everybody who takes part.
pub(crate) struct Notes {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    complaints: Vec<String>,
    /// By tool and end.
    calls: BTreeMap<(&'static str, End), u64>,
    /// By what was done.
    faults: BTreeMap<&'static str, u64>,
    events_read: u64,
    slowest_call: Duration,
    /// Faults that are over, and hubs that have acknowledged nothing since.
    awaited: Vec<(&'static str, usize, Instant)>,
    /// By fault: the longest time from its end to the next answer of a hub that it was about.
    slowest_recovery: BTreeMap<&'static str, Duration>,
}

impl Notes {
    pub(crate) fn new() -> Notes {
        Notes { began: Instant::now(), inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that must not be.
    pub(crate) fn complain(&self, what: impl Display) {
        let complaint = format!("at {:.3} s: {what}", self.began.elapsed().as_secs_f64());
        eprintln!("WRONG {complaint}");
        let complaints = &mut self.inner().complaints;
        if complaints.len() < COMPLAINTS_MAX {
            complaints.push(complaint);
        }
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        self.inner().complaints.clone()
    }

    pub(crate) fn called(&self, tool: &'static str, hub: usize, end: End, time: Duration) {
        let mut inner = self.inner();
        *inner.calls.entry((tool, end)).or_default() += 1;
        inner.slowest_call = inner.slowest_call.max(time);
        if end == End::Acknowledged || end == End::Conflict {
            let (answered, awaited): (Vec<_>, Vec<_>) =
                std::mem::take(&mut inner.awaited).into_iter().partition(|(_, of, _)| *of == hub);
            inner.awaited = awaited;
            for (fault, _, since) in answered {
                let slowest = inner.slowest_recovery.entry(fault).or_default();
                *slowest = since.elapsed().max(*slowest);
            }
        }
    }

    pub(crate) fn read_event(&self) {
        self.inner().events_read += 1;
    }

    /// A fault begins that keeps these hubs from working.
    pub(crate) fn strike(&self, fault: &'static str, hubs: &[usize]) {
        eprintln!("{:7.3} s: {fault}, {hubs:?}", self.began.elapsed().as_secs_f64());
        let mut inner = self.inner();
        *inner.faults.entry(fault).or_default() += 1;
        inner.awaited.retain(|(_, hub, _)| !hubs.contains(hub));
    }

    /// The fault is over.
    pub(crate) fn lift(&self, fault: &'static str, hubs: &[usize]) {
        eprintln!("{:7.3} s: {fault} is over", self.began.elapsed().as_secs_f64());
        self.inner().awaited.extend(hubs.iter().map(|hub| (fault, *hub, Instant::now())));
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        let inner = self.inner();
        inner.calls.iter().filter(|((_, end), _)| *end == End::Acknowledged).map(|(_, count)| count).sum()
    }
}

impl Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        let ends = [End::Acknowledged, End::Conflict, End::Unavailable, End::Unsure];
        writeln!(f, "{:18}{:>14}{:>10}{:>13}{:>8}", "calls", "acknowledged", "conflict", "unavailable", "unsure")?;
        let tools = inner.calls.keys().map(|(tool, _)| *tool).collect::<std::collections::BTreeSet<_>>();
        for tool in tools {
            let [done, conflict, unavailable, unsure] =
                ends.map(|end| inner.calls.get(&(tool, end)).copied().unwrap_or_default());
            writeln!(f, "{tool:18}{done:>14}{conflict:>10}{unavailable:>13}{unsure:>8}")?;
        }
        for (fault, count) in &inner.faults {
            let recovery = inner
                .slowest_recovery
                .get(fault)
                .map_or(String::new(), |slowest| format!(", slowest recovery {:.2} s", slowest.as_secs_f64()));
            writeln!(f, "{fault}: {count}{recovery}")?;
        }
        write!(f, "{} events read; slowest call {:.2} s", inner.events_read, inner.slowest_call.as_secs_f64())
    }
}
