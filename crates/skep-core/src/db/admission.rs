//! How much may wait to be written: so many writes and so many bytes, of which one namespace has a share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

use super::DbError;
use crate::Namespace;

/// A namespace may have this part of the places and of the bytes, so that there is room for the others: one half.
const SHARE: usize = 2;

/// Writes that run or wait, counted.
#[derive(Debug)]
pub(super) struct Admission {
    writes_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    all: Count,
    each: HashMap<Namespace, Count>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    writes: usize,
    bytes: usize,
}

impl Count {
    fn fits(self, bytes: usize, writes_max: usize, bytes_max: usize) -> bool {
        // A write that is larger than all that may wait is let in alone.
        self.writes < writes_max && (self.bytes == 0 || self.bytes.saturating_add(bytes) <= bytes_max)
    }
}

/// The right to wait. It belongs to the write, not to its caller, who may leave before it is done.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    namespace: Namespace,
    bytes: usize,
}

impl Admission {
    pub(super) fn new(writes_max: usize, bytes_max: usize) -> Admission {
        Admission { writes_max, bytes_max, state: Mutex::default() }
    }

    /// A place for a write of so many bytes.
    pub(super) fn enter(self: &Arc<Admission>, namespace: &Namespace, bytes: usize) -> Result<Place, DbError> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(DbError::Closed);
        }
        if !state.all.fits(bytes, self.writes_max, self.bytes_max) {
            return Err(DbError::Busy("too many writes are waiting"));
        }
        let own = state.each.get(namespace).copied().unwrap_or_default();
        if !own.fits(bytes, self.writes_max.div_ceil(SHARE), self.bytes_max.div_ceil(SHARE)) {
            return Err(DbError::Busy("too many writes of this namespace are waiting"));
        }
        state.all.writes += 1;
        state.all.bytes += bytes;
        match state.each.get_mut(namespace) {
            Some(own) => {
                own.writes += 1;
                own.bytes += bytes;
            }
            None => drop(state.each.insert(namespace.clone(), Count { writes: 1, bytes })),
        }
        drop(state);
        Ok(Place { admission: Arc::clone(self), namespace: namespace.clone(), bytes })
    }

    /// Refuse everything from now on.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.all.writes -= 1;
        state.all.bytes -= self.bytes;
        if let Some(own) = state.each.get_mut(&self.namespace) {
            own.writes -= 1;
            own.bytes -= self.bytes;
            if own.writes == 0 {
                state.each.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Namespace {
        Namespace::team(name)
    }

    #[test]
    fn one_namespace_has_half_of_the_places_and_of_the_bytes() {
        let admission = Arc::new(Admission::new(4, 100));
        let (a, b) = (namespace("a"), namespace("b"));
        let held = [admission.enter(&a, 10).unwrap(), admission.enter(&a, 10).unwrap()];
        assert!(matches!(admission.enter(&a, 0), Err(DbError::Busy(why)) if why.contains("namespace")));
        let large = admission.enter(&b, 45).unwrap();
        assert!(matches!(admission.enter(&b, 10), Err(DbError::Busy(_))), "half of the bytes");
        drop(held);
        let again = admission.enter(&a, 50).unwrap();
        drop((large, again));
        assert!(admission.lock().each.is_empty());
    }

    #[test]
    fn a_write_larger_than_all_that_may_wait_is_let_in_when_it_is_alone() {
        let admission = Arc::new(Admission::new(4, 100));
        let large = admission.enter(&namespace("a"), 1_000).unwrap();
        assert!(matches!(admission.enter(&namespace("b"), 1), Err(DbError::Busy(_))));
        drop(large);
        admission.enter(&namespace("b"), 1).unwrap();
    }

    #[test]
    fn nobody_enters_after_the_end() {
        let admission = Arc::new(Admission::new(4, 100));
        admission.close();
        assert!(matches!(admission.enter(&namespace("a"), 0), Err(DbError::Closed)));
    }
}
