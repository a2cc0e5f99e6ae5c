//! How long a task waits before it is tried again.

use std::time::Duration;

use super::TaskId;

/// Wait before the first retry, if the task does not say otherwise. Each further one takes twice as long.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest wait before a retry.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(300);
/// How much longer or shorter a wait may be than the rule says, in percent. Tasks that failed together because of
/// something that they have in common are not tried again together.
pub const RETRY_JITTER_PERCENT: u64 = 20;

/// The wait after so many failures. How far it is off depends on the attempt alone, so that who asks again is told the
/// same.
pub(super) fn delay(first: Duration, failures: u32, (id, attempt): (&TaskId, u32)) -> Duration {
    const STEPS: u64 = 1_000;
    let exact = first.saturating_mul(1 << failures.min(30)).min(RETRY_DELAY_MAX);
    let part = STEPS + RETRY_JITTER_PERCENT * (scatter(id, attempt) % (2 * STEPS + 1)) / 100
        - RETRY_JITTER_PERCENT * STEPS / 100;
    let us = u64::try_from(exact.as_micros()).unwrap_or(u64::MAX).saturating_mul(part) / STEPS;
    Duration::from_micros(us).min(RETRY_DELAY_MAX)
}

/// A number that looks random and follows from the attempt: FNV-1a over the name, mixed as by SplitMix64.
fn scatter(id: &TaskId, attempt: u32) -> u64 {
    let of_name =
        id.0.bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut mixed = of_name.wrapping_add(u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, failures: u32) -> Duration {
        delay(RETRY_DELAY, failures, (&TaskId(name.to_owned()), failures + 1))
    }

    #[test]
    fn waits_double_within_their_jitter_and_never_exceed_the_longest_one() {
        for name in ["a", "b", "fetch the page"] {
            for failures in 0..40 {
                let exact = RETRY_DELAY.saturating_mul(1 << failures.min(30)).min(RETRY_DELAY_MAX);
                let (low, high) = (exact * 4 / 5, (exact * 6 / 5).min(RETRY_DELAY_MAX));
                let wait = of(name, failures);
                assert!(low <= wait && wait <= high, "{name}, {failures}: {wait:?}");
                assert_eq!(wait, of(name, failures), "the same attempt always waits as long");
            }
        }
    }

    #[test]
    fn tasks_that_fail_together_are_not_tried_again_together() {
        let mut waits: Vec<Duration> = (0..1_000).map(|n| of(&format!("task {n}"), 3)).collect();
        waits.sort();
        let spread = waits[waits.len() - 1] - waits[0];
        assert!(spread > Duration::from_secs(3), "they are {spread:?} apart, of the 3.2 s that there may be");
        let middle = waits[waits.len() / 2];
        assert!(middle.abs_diff(Duration::from_secs(8)) < Duration::from_millis(400), "{middle:?}");
        waits.dedup();
        assert!(waits.len() > 300, "{} different ones", waits.len());
    }
}
