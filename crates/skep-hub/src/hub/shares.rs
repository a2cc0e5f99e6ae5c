//! What one principal may have of what all share, so that nobody takes everything.
//!
//! Principals with a name have a share each. Who knows the hub's own token, and everybody at a hub without tokens, is bound by
//! the whole alone: nothing is counted for them here.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use skep_mcp::{
    framing::{Memory, Pool},
    server::LOCAL,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Principals with a name.
pub(crate) const NAMED_PRINCIPALS_MAX: usize = 256;
/// The part of each limit that a principal with a name may take alone, unless the operator says otherwise.
pub(crate) const SHARE: f64 = 0.25;

/// This part of a limit; at least one.
pub(crate) fn part(whole: usize, share: f64) -> usize {
    ((whole as f64 * share) as usize).clamp(1, whole.max(1))
}

/// One share for each principal.
pub(crate) struct Shares {
    permits: usize,
    /// Of principals that came by; those that have nothing are forgotten when there are many.
    of: RwLock<HashMap<Arc<str>, Arc<Semaphore>>>,
}

impl Shares {
    /// Shares of so many permits.
    pub(crate) fn new(permits: usize) -> Shares {
        Shares { permits: permits.min(Semaphore::MAX_PERMITS), of: RwLock::default() }
    }

    /// Permits of each.
    pub(crate) fn permits(&self) -> usize {
        self.permits
    }

    /// Take one permit of this principal's, if it is bound by a share.
    ///
    /// # Errors
    ///
    /// It has them all: so many.
    pub(crate) fn take(&self, principal: &str) -> Result<Option<OwnedSemaphorePermit>, usize> {
        self.of(principal).map(Semaphore::try_acquire_owned).transpose().map_err(|_| self.permits)
    }

    /// What this principal may have, if it is less than the whole.
    pub(crate) fn of(&self, principal: &str) -> Option<Arc<Semaphore>> {
        if principal == LOCAL {
            return None;
        }
        if let Some(share) = self.of.read().unwrap_or_else(PoisonError::into_inner).get(principal) {
            return Some(Arc::clone(share));
        }
        let mut of = self.of.write().unwrap_or_else(PoisonError::into_inner);
        if of.len() >= NAMED_PRINCIPALS_MAX {
            of.retain(|_, share| Arc::strong_count(share) > 1 || share.available_permits() < self.permits);
        }
        let share = of.entry(principal.into()).or_insert_with(|| Arc::new(Semaphore::new(self.permits)));
        Some(Arc::clone(share))
    }
}

/// Memory for large messages that all share, and what of it each principal may take.
pub(crate) struct MemoryShares {
    all: Pool,
    own: Shares,
}

impl MemoryShares {
    /// So many bytes, of which one principal may take this part; there is always room for one message of the largest size.
    pub(crate) fn new(bytes: usize, share: f64, message_bytes_max: usize) -> MemoryShares {
        MemoryShares { all: Pool::new(bytes), own: Shares::new(part(bytes, share).max(message_bytes_max)) }
    }

    /// Where this principal has its memory from. Messages that are nobody's are bound by the whole alone.
    pub(crate) fn of(&self, principal: &str) -> Memory {
        let own = if principal.is_empty() { None } else { self.own.of(principal) };
        Memory { all: self.all.clone(), own: own.map(|own| Pool::of(own, self.own.permits())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_principal_has_its_own_share_and_the_operator_the_whole() {
        let shares = Shares::new(2);
        let of = |name: &str| shares.of(name);
        assert!(of(LOCAL).is_none());
        let (ann, bob) = (of("ann").unwrap(), of("bob").unwrap());
        let _held = of("ann").unwrap().try_acquire_many_owned(2).unwrap();
        assert_eq!((ann.available_permits(), bob.available_permits()), (0, 2));
    }

    #[test]
    fn principals_that_have_nothing_are_forgotten_and_the_others_are_not() {
        let shares = Shares::new(2);
        let held = shares.of("ann").unwrap().try_acquire_owned().unwrap();
        (0..4 * NAMED_PRINCIPALS_MAX).for_each(|n| drop(shares.of(&n.to_string())));
        assert!(shares.of.read().unwrap().len() <= NAMED_PRINCIPALS_MAX);
        assert_eq!(shares.of("ann").unwrap().available_permits(), 1);
        drop(held);
    }

    #[test]
    fn a_part_is_never_nothing_and_never_more_than_the_whole() {
        assert_eq!([part(1024, 0.25), part(1024, 1.0), part(3, 0.01), part(0, 0.5)], [256, 1024, 1, 1]);
    }
}
