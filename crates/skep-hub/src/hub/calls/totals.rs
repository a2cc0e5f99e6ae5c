//! What all calls since the start add up to: what alerts are decided by.

use std::time::Duration;

/// Upper bounds of the buckets of times, in seconds: from a cached answer to the longest deadline. Histograms on `/metrics` have
/// the same.
pub(crate) const BUCKETS_S: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// Calls, and how they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    /// Those that failed by the fault of the hub, or of what it relies on.
    pub(crate) faults: u64,
    /// Calls whose time is the hub's own, by the first bound that it does not exceed; the last took longer.
    times: [u64; BUCKETS_S.len() + 1],
}

impl Totals {
    /// One more call. `took`: where its time says something about the hub.
    pub(super) fn add(&mut self, is_fault: bool, took: Option<Duration>) {
        self.calls += 1;
        self.faults += u64::from(is_fault);
        if let Some(took) = took {
            let seconds = took.as_secs_f64();
            self.times[BUCKETS_S.partition_point(|bound| *bound < seconds)] += 1;
        }
    }

    /// The calls since these.
    pub(crate) fn since(&self, before: &Totals) -> Totals {
        let mut times = self.times;
        times.iter_mut().zip(before.times).for_each(|(now, before)| *now -= before);
        Totals { calls: self.calls - before.calls, faults: self.faults - before.faults, times }
    }

    /// Calls whose time is the hub's own.
    pub(crate) fn timed(&self) -> u64 {
        self.times.iter().sum()
    }

    /// The time in seconds that this part of the timed calls did not exceed, as Prometheus' `histogram_quantile` has it: exact at
    /// the bounds, and even between them. 0 without calls.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        if self.timed() == 0 {
            return 0.0;
        }
        let rank = part * self.timed() as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (count, upper) in self.times.iter().zip(BUCKETS_S) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return lower + (upper - lower) * (rank - below) / count;
            }
            (below, lower) = (below + count, upper);
        }
        lower
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: &[u64]) -> Totals {
        let mut totals = Totals::default();
        ms.iter().for_each(|ms| totals.add(false, Some(Duration::from_millis(*ms))));
        totals
    }

    #[test]
    fn a_quantile_exceeds_a_bound_exactly_if_more_than_its_part_of_the_calls_do() {
        let mut ms = [400; 100];
        ms[..5].fill(600);
        assert!(times(&ms).quantile(0.95) <= 0.5);
        ms[5] = 600;
        assert!(times(&ms).quantile(0.95) > 0.5);
        assert_eq!(times(&[500]).quantile(1.0), 0.5, "a bound belongs to what is below it");
        assert!((times(&[1, 600, 700, 800]).quantile(0.5) - (0.5 + 0.5 / 3.0)).abs() < 1e-9);
        assert_eq!(times(&[]).quantile(0.95), 0.0);
        assert_eq!(times(&[4_000_000]).quantile(0.95), 3600.0, "longer than all bounds");
    }

    #[test]
    fn what_is_not_the_hubs_time_is_not_timed() {
        let mut totals = Totals::default();
        totals.add(true, None);
        totals.add(false, Some(Duration::ZERO));
        assert_eq!((totals.calls, totals.faults, totals.timed()), (2, 1, 1));
        let mut later = totals;
        later.add(true, Some(Duration::from_secs(9999)));
        let since = later.since(&totals);
        assert_eq!((since.calls, since.faults, since.timed()), (1, 1, 1));
    }
}
