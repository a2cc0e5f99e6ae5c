//! Claims on files: who may write where, until when.
//!
//! A claim is on a path or on a glob, for one holder alone or shared. An **exclusive** claim excludes every other claim
//! that has a path in common with it; a **shared** one excludes exclusive ones. While any claim covers a path, it is
//! written only with the token of an exclusive claim that covers it: so an exclusive claim keeps all others from
//! writing, and shared ones keep everybody from it, as locks for readers and writers do.
//!
//! A request that cannot be granted may **wait**. It is a claim, too, which is not held yet, and its token is its place in
//! line: it is granted when no earlier claim is left that excludes it, held or waiting. So those who want the same are
//! served in the order in which they came, however many hubs they came to, and those who want something else do not
//! wait for them.
//!
//! A **token** is a number that is given once in a workspace and never again, and larger ones are given later. A write
//! with the token of a claim that is over is refused, whoever brings it and however late. Whoever has a token may write
//! with it; only the principal that claimed can renew or release the claim.
//!
//! A claim that is over is not there for anybody, and needs no job that deletes it: whoever is granted something
//! deletes what is over and in its way in the same write.

use std::time::Duration;

pub use crate::id::ClaimToken;
use crate::{Timestamp, file::Author, glob::Pattern, path::FilePath};

/// How long a claim is held if its caller does not say.
pub const TTL: Duration = Duration::from_secs(60);
/// The shortest time that a claim can be held.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time that a claim can be held without being renewed.
pub const TTL_MAX: Duration = Duration::from_secs(3600);
/// The longest time that a request can wait.
pub const WAIT_MAX: Duration = Duration::from_secs(300);
/// How long a request is taken to wait, unless its hub says so again: a hub that dies delays others so long.
pub const WAITING_TTL: Duration = Duration::from_secs(10);
/// How far the clocks of hubs that agree may be apart, beyond what each says of itself.
pub(crate) const CLOCKS_APART_MAX: Duration = Duration::from_secs(2);
/// Claims of a workspace, held and waiting.
pub const CLAIMS_MAX: usize = 1_000;
/// Claims of one principal in a workspace, held and waiting.
pub const PRINCIPAL_CLAIMS_MAX: usize = 250;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct NewClaim {
    /// On what.
    pub pattern: Pattern,
    /// Whether others may have a shared claim on the same.
    pub is_shared: bool,
    /// How long to hold it, [`TTL_MIN`] to [`TTL_MAX`].
    pub ttl: Duration,
    /// How long to wait for it, up to [`WAIT_MAX`]; zero if it must be granted at once.
    pub wait: Duration,
}

/// A claim that somebody has, or waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its number.
    pub token: ClaimToken,
    /// On what.
    pub pattern: Pattern,
    /// Whether others may have a shared claim on the same.
    pub is_shared: bool,
    /// Whether it was granted; otherwise it waits.
    pub is_held: bool,
    /// Whose it is.
    pub by: Author,
    /// When it was asked for.
    pub asked: Timestamp,
    /// When it was granted, or last renewed, at the earliest.
    pub renewed: Timestamp,
    /// When it is over, unless it is renewed.
    pub until: Timestamp,
}

/// How long is too short or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {min_s} to {max_s} seconds, not {asked_s}", min_s = .min.as_secs(), max_s = .max.as_secs(),
    asked_s = .asked.as_secs_f64())]
pub struct InvalidTime {
    /// What it is the length of: `ttl_s`.
    pub what: &'static str,
    /// What was asked for.
    pub asked: Duration,
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

/// Why a claim keeps somebody from something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another's claim is in the way.
    #[error("{} is claimed by {}; wait until it is released, or until its time is over", .0.pattern, .0.by)]
    Claimed(Box<Claim>),
    /// The claim of the token is over: it expired, was released, or was taken away by an operator.
    #[error("the claim with the token {} is over; claim the file again, and read it before you write", .0.0)]
    Stale(ClaimToken),
    /// No such token was ever given in this workspace.
    #[error("no claim in this workspace ever had the token {}; claim the file first", .0.0)]
    NeverIssued(ClaimToken),
    /// The claim of the token is on something else.
    #[error("the token {} is that of a claim on {pattern}, which does not cover it", .token.0)]
    Elsewhere {
        /// The token.
        token: ClaimToken,
        /// What its claim is on.
        pattern: String,
    },
    /// The claim of the token is shared, so it keeps others from writing and does not let anybody write.
    #[error("the token {} is that of a shared claim, with which nobody writes; claim it for yourself alone", .0.0)]
    Shared(ClaimToken),
    /// The claim of the token was not granted yet.
    #[error("the claim with the token {} still waits for others", .0.0)]
    Waiting(ClaimToken),
    /// Nobody has a claim on a path that takes one.
    #[error("nobody has claimed {0}, and this takes a claim on it; claim it first, with claim_file")]
    Unclaimed(FilePath),
    /// The claim of the token is another principal's.
    #[error("the claim with the token {} is another principal's", .0.0)]
    NotYours(ClaimToken),
}

impl NewClaim {
    /// Whether the times are within their limits.
    pub fn check(&self) -> Result<(), InvalidTime> {
        check_ttl(self.ttl)?;
        within("wait_s", self.wait, Duration::ZERO, WAIT_MAX)
    }
}

/// Whether a claim can be held for so long.
pub(crate) fn check_ttl(ttl: Duration) -> Result<(), InvalidTime> {
    within("ttl_s", ttl, TTL_MIN, TTL_MAX)
}

fn within(what: &'static str, asked: Duration, min: Duration, max: Duration) -> Result<(), InvalidTime> {
    if min <= asked && asked <= max { Ok(()) } else { Err(InvalidTime { what, asked, min, max }) }
}

impl Claim {
    /// Whether it is over, at a time that is between these two. A claim that was granted later than that is over, too:
    /// the clock has been put back since, and it would last by as much too long.
    pub(crate) fn is_over(&self, (earliest, latest): (Timestamp, Timestamp)) -> bool {
        self.until <= earliest || self.renewed > latest.after(CLOCKS_APART_MAX)
    }

    /// Whether the two cannot be held at the same time.
    pub fn excludes(&self, other: &Claim) -> bool {
        (!self.is_shared || !other.is_shared) && self.pattern.overlaps(&other.pattern)
    }
}

/// The claims among these that one with this token waits for: the earlier ones that exclude it.
pub(crate) fn before<'a>(claim: &Claim, all: &'a [Claim]) -> impl Iterator<Item = &'a Claim> {
    all.iter().filter(|other| other.token < claim.token && other.excludes(claim))
}

/// Whether a path may be written with a token, or without one, where `live` are all claims that are not over and may be
/// on it, and the one of the token. `last` is the last token that was given.
pub(crate) fn check_write(
    path: &FilePath,
    token: Option<ClaimToken>,
    live: &[Claim],
    last: ClaimToken,
) -> Result<(), Refused> {
    let Some(token) = token else {
        return match live.iter().find(|claim| claim.is_held && claim.pattern.covers(path)) {
            Some(claim) => Err(Refused::Claimed(Box::new(claim.clone()))),
            None => Ok(()),
        };
    };
    let claim = with_token(token, live, last)?;
    match claim {
        Claim { is_held: false, .. } => Err(Refused::Waiting(token)),
        claim if !claim.pattern.covers(path) => {
            Err(Refused::Elsewhere { token, pattern: claim.pattern.as_str().to_owned() })
        }
        Claim { is_shared: true, .. } => Err(Refused::Shared(token)),
        // What it covers is covered by no other claim.
        _ => Ok(()),
    }
}

/// Whether somebody may do what takes an exclusive claim on a path: with the token of one, or, without a token, because one is
/// theirs. `by` without an agent stands for all agents of the principal. The rest is as for [`check_write`].
pub(crate) fn check_claimed(
    path: &FilePath,
    token: Option<ClaimToken>,
    by: &Author,
    live: &[Claim],
    last: ClaimToken,
) -> Result<(), Refused> {
    if token.is_some() {
        return check_write(path, token, live, last);
    }
    let is_own = |claim: &Claim| {
        claim.by.principal == by.principal
            && by.agent.as_ref().is_none_or(|agent| claim.by.agent.as_ref() == Some(agent))
    };
    match live.iter().find(|claim| claim.is_held && claim.pattern.covers(path)) {
        None => Err(Refused::Unclaimed(path.clone())),
        Some(claim) if !is_own(claim) => Err(Refused::Claimed(Box::new(claim.clone()))),
        Some(Claim { is_shared: true, token, .. }) => Err(Refused::Shared(*token)),
        Some(_) => Ok(()),
    }
}

/// The claim that has a token.
pub(crate) fn with_token(token: ClaimToken, live: &[Claim], last: ClaimToken) -> Result<&Claim, Refused> {
    live.iter().find(|claim| claim.token == token).ok_or(match token {
        ClaimToken(1..) if token <= last => Refused::Stale(token),
        _ => Refused::NeverIssued(token),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn claim(token: i64, pattern: &str, is_shared: bool, is_held: bool) -> Claim {
        Claim {
            token: ClaimToken(token),
            pattern: Pattern::new(pattern).unwrap(),
            is_shared,
            is_held,
            by: Author { principal: "ann".into(), agent: Some("coder".into()) },
            asked: NOW,
            renewed: NOW,
            until: NOW.after(TTL),
        }
    }

    #[test]
    fn times_have_limits_that_are_named() {
        let new = |ttl_s: f64, wait_s: f64| NewClaim {
            pattern: Pattern::new("a").unwrap(),
            is_shared: false,
            ttl: Duration::from_secs_f64(ttl_s),
            wait: Duration::from_secs_f64(wait_s),
        };
        for (ttl_s, wait_s) in [(1.0, 0.0), (60.0, 300.0), (3600.0, 1.5)] {
            assert_eq!(new(ttl_s, wait_s).check(), Ok(()));
        }
        for (ttl_s, wait_s, said) in [
            (0.0, 0.0, "ttl_s is 1 to 3600 seconds, not 0"),
            (0.5, 0.0, "ttl_s is 1 to 3600 seconds, not 0.5"),
            (31_536_000.0, 0.0, "ttl_s is 1 to 3600 seconds, not 31536000"),
            (60.0, 301.0, "wait_s is 0 to 300 seconds, not 301"),
        ] {
            assert_eq!(new(ttl_s, wait_s).check().unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn an_exclusive_claim_excludes_all_and_shared_ones_do_not_exclude_each_other() {
        let (all, shared) = (claim(1, "src/**", false, true), claim(1, "src/**", true, true));
        for (other, by_exclusive, by_shared) in [
            (claim(2, "src/a", false, true), true, true),
            (claim(2, "src/a", true, true), true, false),
            (claim(2, "docs/a", false, true), false, false),
        ] {
            assert_eq!((all.excludes(&other), other.excludes(&all)), (by_exclusive, by_exclusive));
            assert_eq!((shared.excludes(&other), other.excludes(&shared)), (by_shared, by_shared));
        }
    }

    #[test]
    fn a_claim_waits_for_the_earlier_ones_that_exclude_it_and_for_no_other() {
        let all = [
            claim(1, "a", false, true),
            claim(2, "b", false, true),
            claim(3, "*", true, false),
            claim(4, "b", true, false),
            claim(5, "a", false, false),
        ];
        let before = |n: usize| before(&all[n], &all).map(|claim| claim.token.0).collect::<Vec<_>>();
        assert_eq!(before(0), [0; 0]);
        assert_eq!(before(2), [1, 2]);
        assert_eq!(before(3), [2], "the shared one before it does not exclude it");
        assert_eq!(before(4), [1, 3]);
    }

    #[test]
    fn a_path_is_written_without_a_claim_on_it_or_with_the_token_of_an_exclusive_one() {
        let live = [
            claim(3, "src/*", false, true),
            claim(4, "docs/*", true, true),
            claim(6, "src/a", false, false),
            claim(7, "x", false, false),
        ];
        let write = |path: &str, token: Option<i64>| {
            check_write(&FilePath::new(path).unwrap(), token.map(ClaimToken), &live, ClaimToken(7))
        };
        assert_eq!(write("free", None), Ok(()));
        assert_eq!(write("x", None), Ok(()), "whoever waits keeps nobody from writing");
        assert_eq!(write("src/a", Some(3)), Ok(()));
        assert_eq!(write("SRC/A", None), Err(Refused::Claimed(Box::new(live[0].clone()))));
        assert_eq!(write("docs/a", None), Err(Refused::Claimed(Box::new(live[1].clone()))));
        assert_eq!(write("docs/a", Some(4)), Err(Refused::Shared(ClaimToken(4))));
        let elsewhere = Refused::Elsewhere { token: ClaimToken(3), pattern: "src/*".into() };
        assert_eq!(write("docs/a", Some(3)), Err(elsewhere.clone()));
        assert_eq!(write("free", Some(3)), Err(elsewhere));
        assert_eq!(write("src/a", Some(6)), Err(Refused::Waiting(ClaimToken(6))));
        assert_eq!(write("free", Some(5)), Err(Refused::Stale(ClaimToken(5))));
        for token in [8, 0, -1, i64::MIN, i64::MAX] {
            assert_eq!(write("free", Some(token)), Err(Refused::NeverIssued(ClaimToken(token))));
        }
    }

    #[test]
    fn what_takes_a_claim_is_for_its_holder_and_whoever_has_its_token() {
        let live = [claim(3, "src/*", false, true), claim(4, "docs/*", true, true), claim(6, "x", false, false)];
        let check = |path: &str, principal: &str, agent: Option<&str>, token: Option<i64>| {
            let by = Author { principal: principal.into(), agent: agent.map(Into::into) };
            check_claimed(&FilePath::new(path).unwrap(), token.map(ClaimToken), &by, &live, ClaimToken(7))
        };
        assert_eq!(check("src/a", "ann", Some("coder"), None), Ok(()));
        assert_eq!(check("src/a", "ann", None, None), Ok(()), "it did not say which agent it is");
        assert_eq!(check("src/a", "bob", None, Some(3)), Ok(()), "it was given the token");
        let anns = Refused::Claimed(Box::new(live[0].clone()));
        assert_eq!(check("src/a", "ann", Some("reviewer"), None), Err(anns.clone()));
        assert_eq!(check("src/a", "bob", Some("coder"), None), Err(anns));
        assert_eq!(check("docs/a", "ann", None, None), Err(Refused::Shared(ClaimToken(4))));
        for path in ["free", "x"] {
            let unclaimed = Refused::Unclaimed(FilePath::new(path).unwrap());
            assert_eq!(check(path, "ann", None, None), Err(unclaimed), "whoever waits has none");
        }
        assert_eq!(check("src/a", "ann", None, Some(5)), Err(Refused::Stale(ClaimToken(5))));
        assert_eq!(check("src/a", "ann", None, Some(8)), Err(Refused::NeverIssued(ClaimToken(8))));
        assert_eq!(check("x", "ann", None, Some(6)), Err(Refused::Waiting(ClaimToken(6))));
    }

    #[test]
    fn a_claim_is_over_when_its_time_has_passed_for_certain_or_lies_ahead() {
        let claim = claim(1, "a", false, true);
        for (after_s, error_s, is_over) in [
            (0, 0, false),
            (59, 0, false),
            (60, 0, true),
            (60, 1, false),
            (61, 1, true),
            (-2, 0, false),
            (-3, 0, true),
            (-3, 1, false),
            (-3600, 7200, false),
        ] {
            let at = |s: i64| Timestamp(NOW.0 + s * 1_000_000);
            let now = (at(after_s - error_s), at(after_s + error_s));
            assert_eq!(claim.is_over(now), is_over, "{after_s} s, {error_s} s off");
        }
    }
}
