//! The ids of requests.
//!
//! A server that knows the next id can answer a request before it is made, and so put its answer,
//! or what it owes somebody else, in the place of the real one. Ids are therefore not counted up:
//! the number of a request goes through a permutation whose key is the connection's own. No id
//! comes twice, and none can be told from those before it.
//!
//! They have 30 bits because some servers keep ids in 32 (those built with `rmcp` before 0.4 do,
//! and C programs with an `int`). That is enough: an answer with a wrong id costs the server its
//! connection, so it has one guess.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU32, Ordering},
};

/// Bits of an id. They come again after 2^30 requests on one connection.
const BITS: u32 = 30;
const HALF_BITS: u32 = BITS / 2;
const HALF_MASK: u32 = (1 << HALF_BITS) - 1;
/// With six rounds, telling a Feistel network from a random permutation takes as many ids as there
/// are.
const ROUNDS: u8 = 6;

/// The ids of one connection.
#[derive(Default)]
pub(super) struct Ids {
    /// A key from the system's random numbers, and SipHash.
    key: RandomState,
    drawn: AtomicU32,
}

impl Ids {
    /// Another id.
    pub(super) fn next(&self) -> i64 {
        self.permute(self.drawn.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// A Feistel network: whatever the function of a round, it is a permutation.
    fn permute(&self, number: u32) -> u32 {
        let (mut left, mut right) = ((number >> HALF_BITS) & HALF_MASK, number & HALF_MASK);
        for round in 0..ROUNDS {
            let mixed = self.key.hash_one((round, right)) as u32 & HALF_MASK;
            (left, right) = (right, left ^ mixed);
        }
        left << HALF_BITS | right
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_id_comes_twice_and_each_fits_32_bits() {
        let ids = Ids::default();
        let drawn: HashSet<i64> = (0..100_000).map(|_| ids.next()).collect();
        assert_eq!(drawn.len(), 100_000);
        assert!(drawn.iter().all(|id| (0..1 << BITS).contains(id)));
    }

    #[test]
    fn no_connection_tells_the_ids_of_another_and_no_id_the_next_one() {
        let (one, other) = (Ids::default(), Ids::default());
        let of = |ids: &Ids| (0..1000).map(|_| ids.next()).collect::<Vec<_>>();
        let (one, other) = (of(&one), of(&other));
        assert!(one.iter().zip(&other).filter(|(a, b)| a == b).count() < 3);
        let steps: HashSet<i64> = one.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.len() > 990, "{} steps", steps.len());
    }
}
