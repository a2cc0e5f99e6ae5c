//! Servers that callers do not share: how many processes there may be, and who may end them.

use skep_core::policy::{Call, Operate, Permit};
use skep_mcp::server::LOCAL;

use super::UpstreamError;

/// Processes of one server that each caller has of its own.
const PROCESSES_MAX: usize = 32;
/// Of these, those of one principal that has a name.
const PROCESSES_OF_ONE_MAX: usize = PROCESSES_MAX / 4;

/// Why there is no room for one more process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All principals together have as many as there may be.
    All,
    /// This principal has as many as one may have.
    Own,
}

/// Whether a principal may have one more process, where these have one each. Principals may repeat.
pub(super) fn check<'a>(principals: impl Iterator<Item = &'a str>, of: &str) -> Result<(), Full> {
    let (mut all, mut own) = (0, 0);
    for principal in principals {
        all += 1;
        own += usize::from(principal == of);
    }
    match of {
        _ if all >= PROCESSES_MAX => Err(Full::All),
        of if of != LOCAL && own >= PROCESSES_OF_ONE_MAX => Err(Full::Own),
        _ => Ok(()),
    }
}

/// Which processes of a server somebody may end.
pub enum Restarts {
    /// All, whoever calls them.
    All(Permit<Operate>),
    /// Those that serve nobody but the actor.
    Own(Permit<Call>),
}

impl Restarts {
    /// The server that was found by this name, if it may be restarted. Who may not hears the same if there is none.
    pub(super) fn check<S>(
        &self,
        name: &str,
        found: Result<S, UpstreamError>,
        is_exclusive: impl FnOnce(&S) -> bool,
    ) -> Result<S, UpstreamError> {
        match (self, found) {
            (Restarts::All(_), found) => found,
            (Restarts::Own(_), Ok(server)) if is_exclusive(&server) => Ok(server),
            (Restarts::Own(_), _) => Err(UpstreamError::Shared { server: name.to_owned() }),
        }
    }

    /// The principal whose processes end; `None` if everybody's do.
    pub(super) fn principal(&self) -> Option<&str> {
        match self {
            Restarts::All(_) => None,
            Restarts::Own(permit) => Some(&permit.actor().principal),
        }
    }
}

impl Full {
    /// For the caller who wanted one.
    pub(super) fn reason(self, principal: &str) -> String {
        match self {
            Full::All => format!("{PROCESSES_MAX} callers have a process of their own"),
            Full::Own => format!(
                "{principal} has {PROCESSES_OF_ONE_MAX} processes of it, as many as one principal may have; call it in one \
                 of the sessions that have one, or wait until one was idle for its time (idle_timeout)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use super::*;

    #[test]
    fn a_principal_with_a_name_has_its_share_and_the_operator_all_that_is_left() {
        let anns = |n| repeat_n("ann", n);
        assert_eq!(check(anns(PROCESSES_OF_ONE_MAX - 1), "ann"), Ok(()));
        assert_eq!(check(anns(PROCESSES_OF_ONE_MAX), "ann"), Err(Full::Own));
        assert_eq!(check(anns(PROCESSES_OF_ONE_MAX), "bob"), Ok(()));
        assert_eq!(check(repeat_n(LOCAL, PROCESSES_MAX - 1), LOCAL), Ok(()));
        assert_eq!(check(anns(8).chain(repeat_n(LOCAL, 24)), LOCAL), Err(Full::All));
        assert_eq!(check(anns(8).chain(repeat_n(LOCAL, 24)), "bob"), Err(Full::All));
        assert_eq!(check([].into_iter(), "bob"), Ok(()));
    }
}
