//! Connections that get one answer and no other: there are too many, or they are of another user.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics;

/// Connections above the limit that are told so, instead of being closed without a word.
pub(super) const REFUSALS_AT_ONCE_MAX: usize = 64;
/// Time that a connection gets to hear that there are too many.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);
/// Time that a connection of another user gets to ask and to hear that it is not answered.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(10);

/// Why a connection gets one answer and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    TooMany,
    Stranger,
}

impl Refusal {
    pub(super) fn time_max(self) -> Duration {
        match self {
            Refusal::TooMany => REFUSAL_TIME_MAX,
            Refusal::Stranger => STRANGER_TIME_MAX,
        }
    }

    /// A place for this connection, if it is one of those that are answered and there is room, or else among the refused, and
    /// why; `None` if there are far too many of those.
    pub(super) fn place(
        is_admitted: bool,
        open: &Arc<Semaphore>,
        refusals: &Arc<Semaphore>,
    ) -> Option<(OwnedSemaphorePermit, Option<Refusal>)> {
        let refusal = match is_admitted.then(|| Arc::clone(open).try_acquire_owned()) {
            Some(Ok(permit)) => return Some((permit, None)),
            Some(Err(_)) => {
                metrics::too_many_connections();
                Refusal::TooMany
            }
            None => Refusal::Stranger,
        };
        Some((Arc::clone(refusals).try_acquire_owned().ok()?, Some(refusal)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_those_that_are_not_answered_so_many_are_told_why_and_the_others_are_closed() {
        let (open, refusals) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(2)));
        let place = |is_admitted| Refusal::place(is_admitted, &open, &refusals);
        let stranger = place(false).unwrap();
        assert_eq!(stranger.1, Some(Refusal::Stranger), "even where there is room");
        let first = place(true).unwrap();
        assert_eq!(first.1, None);
        let second = place(true).unwrap();
        assert_eq!(second.1, Some(Refusal::TooMany));
        assert!(place(true).is_none() && place(false).is_none(), "far too many");
        drop((stranger, first));
        assert_eq!(place(true).unwrap().1, None);
    }
}
