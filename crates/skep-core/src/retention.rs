//! What is deleted, so that what is kept stays within bounds: runs, and what agents share.
//!
//! A running run is never among them, and neither is the newest one; nor is the newest revision of a file.

use std::time::Duration;

use crate::{
    Timestamp,
    run::{State, Summary},
};

/// How much is kept of the runs that are over. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Number of runs.
    pub runs_max: Option<usize>,
    /// How long after its end. The others are for runs that are over; this one is for interrupted ones, too.
    pub age_max: Option<Duration>,
    /// Bytes of all runs together.
    pub bytes_max: Option<u64>,
}

/// How much is kept of what agents share, of each workspace. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepShared {
    /// Revisions of each file; never less than the newest.
    pub revisions_max: Option<u64>,
    /// How long, of revisions that are not the newest, steps, messages, and members that are away.
    pub age_max: Option<Duration>,
}

/// Which runs to delete: those that meet all of these conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Keep this many of the newest.
    pub keep: usize,
    /// Older than this.
    pub age_min: Option<Duration>,
    /// In one of these states; empty for all in which a run is over.
    pub states: Vec<State>,
}

/// A run that is kept, and what it takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The run, with the state in which it really is.
    pub run: Summary,
    /// Bytes in its directory and in the database.
    pub bytes: u64,
}

impl Keep {
    /// The runs to delete, of all there are, newest first.
    pub fn superfluous<'a>(&self, runs: &'a [Kept], now: Timestamp) -> Vec<&'a Kept> {
        let (mut count, mut bytes) = (0_usize, 0_u64);
        let mut is_superfluous = |(n, kept): &(usize, &Kept)| {
            let is_old = self.age_max.is_some_and(|age| is_older(&kept.run, age, now));
            let (count_then, bytes_then) = (count + 1, bytes.saturating_add(kept.bytes));
            let is_too_much =
                self.runs_max.is_some_and(|max| count_then > max) || self.bytes_max.is_some_and(|max| bytes_then > max);
            let goes = *n > 0
                && match kept.run.state {
                    State::Running => false,
                    State::Interrupted => is_old,
                    State::Completed | State::Failed | State::Cancelled => is_old || is_too_much,
                };
            if !goes {
                (count, bytes) = (count_then, bytes_then);
            }
            goes
        };
        let mut superfluous = Vec::new();
        for (n, kept) in runs.iter().enumerate() {
            if is_superfluous(&(n, kept)) {
                superfluous.push(kept);
            }
        }
        superfluous
    }
}

impl Selection {
    /// The runs to delete, of all there are, newest first.
    pub fn of<'a>(&self, runs: &'a [Kept], now: Timestamp) -> Vec<&'a Kept> {
        let is_wanted = |kept: &&Kept| match kept.run.state {
            State::Running => false,
            state if self.states.is_empty() => state.is_over(),
            state => self.states.contains(&state),
        };
        let is_old = |kept: &&Kept| self.age_min.is_none_or(|age| is_older(&kept.run, age, now));
        runs.iter().skip(self.keep).filter(is_wanted).filter(is_old).collect()
    }
}

/// Whether a run ended, or if it has not, began longer ago than this.
fn is_older(run: &Summary, age: Duration, now: Timestamp) -> bool {
    run.ended.unwrap_or(run.created).after(age) < now
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::run::RunId;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        Timestamp(0).after(HOUR * 1000)
    }

    /// A run that ended so many hours ago.
    fn kept(state: State, hours: u32, bytes: u64) -> Kept {
        let at = Timestamp(0).after(HOUR * (1000 - hours));
        let (id, name) = (RunId(format!("{hours} hours old")), String::new());
        Kept { run: Summary { id, name, directory: String::new(), state, created: at, ended: Some(at) }, bytes }
    }

    fn ages(runs: &[&Kept]) -> Vec<String> {
        runs.iter().map(|kept| kept.run.id.0.trim_end_matches(" hours old").to_owned()).collect()
    }

    #[test]
    fn the_oldest_go_that_are_over_beyond_number_age_or_bytes() {
        let runs: Vec<Kept> = (1..=5).map(|hours| kept(State::Completed, hours, 10)).collect();
        let of = |keep: Keep| ages(&keep.superfluous(&runs, now()));
        assert_eq!(of(Keep::default()), [] as [&str; 0]);
        assert_eq!(of(Keep { runs_max: Some(3), ..Keep::default() }), ["4", "5"]);
        assert_eq!(of(Keep { age_max: Some(HOUR * 3), ..Keep::default() }), ["4", "5"]);
        assert_eq!(of(Keep { bytes_max: Some(30), ..Keep::default() }), ["4", "5"]);
        assert_eq!(of(Keep { bytes_max: Some(0), ..Keep::default() }), ["2", "3", "4", "5"], "the newest stays");
    }

    #[test]
    fn one_large_run_goes_and_small_ones_behind_it_stay() {
        let runs = [kept(State::Completed, 1, 1), kept(State::Failed, 2, 100), kept(State::Completed, 3, 1)];
        let keep = Keep { bytes_max: Some(50), ..Keep::default() };
        assert_eq!(ages(&keep.superfluous(&runs, now())), ["2"]);
    }

    #[test]
    fn what_can_be_resumed_goes_only_by_its_age() {
        let runs = [kept(State::Completed, 1, 1), kept(State::Interrupted, 2, 1), kept(State::Interrupted, 9, 1)];
        let keep = Keep { runs_max: Some(1), age_max: Some(HOUR * 5), bytes_max: Some(0) };
        assert_eq!(ages(&keep.superfluous(&runs, now())), ["9"]);
    }

    #[test]
    fn a_selection_takes_what_fits_all_of_it() {
        let runs = [
            kept(State::Running, 1, 1),
            kept(State::Failed, 2, 1),
            kept(State::Completed, 3, 1),
            kept(State::Interrupted, 4, 1),
            kept(State::Failed, 5, 1),
        ];
        let of = |selection: Selection| ages(&selection.of(&runs, now()));
        assert_eq!(of(Selection::default()), ["2", "3", "5"]);
        assert_eq!(of(Selection { keep: 2, ..Selection::default() }), ["3", "5"]);
        assert_eq!(
            of(Selection { states: vec![State::Failed], age_min: Some(HOUR * 4), ..Selection::default() }),
            ["5"]
        );
        assert_eq!(of(Selection { states: vec![State::Interrupted, State::Running], ..Selection::default() }), ["4"]);
    }

    proptest! {
        #[test]
        fn neither_the_newest_nor_one_at_work_is_ever_deleted(
            runs in prop::collection::vec((0..State::ALL.len(), 0u64..100), 0..20),
            runs_max in 0usize..20, hours in 0u32..30, bytes_max in 0u64..500,
        ) {
            let kept = |(n, (state, bytes)): (usize, &(usize, u64))| kept(State::ALL[*state], n as u32, *bytes);
            let runs: Vec<Kept> = runs.iter().enumerate().map(kept).collect();
            let keep = Keep { runs_max: Some(runs_max), age_max: Some(HOUR * hours), bytes_max: Some(bytes_max) };
            for gone in keep.superfluous(&runs, now()) {
                prop_assert!(gone.run.state != State::Running);
                prop_assert!(gone.run.id != runs[0].run.id);
            }
        }
    }
}
