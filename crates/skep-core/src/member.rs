//! Members of a workspace: the agents that have joined it, and whether they are there now.
//!
//! A member is **present** for its time to live after each heartbeat, and then it is **away**, without anybody having to
//! notice. It stays a member until it leaves: messages wait for it. Its name belongs to the principal under which it
//! joined, because whoever has the name reads the messages.

use std::time::Duration;

use crate::{
    Timestamp,
    limits::{Invalid, check_name, check_range},
    policy::Actor,
};

/// How long a member is present after a heartbeat, unless it says otherwise.
pub const TTL_DEFAULT: Duration = Duration::from_secs(60);
/// The least that it may say.
pub const TTL_MIN: Duration = Duration::from_secs(5);
/// The most that it may say.
pub const TTL_MAX: Duration = Duration::from_secs(3600);

/// A member of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The agent's name, unique in the workspace.
    pub name: String,
    /// Whose agent it is.
    pub principal: String,
    /// What it says that it does.
    pub role: Option<String>,
    /// When it joined, or joined again after it had left.
    pub joined: Timestamp,
    /// How long it is present after a heartbeat.
    pub ttl: Duration,
    /// When it is away unless it is heard of by then; `None` once it has left.
    pub until: Option<Timestamp>,
    /// A message's number: of the messages to all up to it, those that the member has not acknowledged are in its inbox.
    pub seen: i64,
}

/// How many messages a member has not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// In its inbox: those to it alone, and those to all that it has skipped.
    pub inbox: u64,
    /// To all, after those that it has seen; counted up to [`crate::limits::INBOX_MAX`].
    pub to_all: u64,
}

impl Member {
    /// An agent that joins now. It need not read what was said to all before.
    pub(crate) fn new(actor: &Actor, role: Option<String>, ttl: Duration, last_message: i64, now: Timestamp) -> Member {
        Member {
            name: actor.name().to_owned(),
            principal: actor.principal.to_string(),
            role,
            joined: now,
            ttl,
            until: Some(now.after(ttl)),
            seen: last_message,
        }
    }

    /// Whether it is there.
    pub fn is_present(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// Whether another one may have its place.
    pub fn has_left(&self) -> bool {
        self.until.is_none()
    }

    /// Whether a sign of life is worth a write: less than half of its time is left.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until < now.after(self.ttl / 2))
    }

    /// Whether this actor may act under its name.
    pub(crate) fn belongs_to(&self, actor: &Actor) -> bool {
        *self.principal == *actor.principal || actor.rights.operate
    }

    /// It is heard of, with this role unless it keeps the one that it has. Whether others will want to know.
    pub(crate) fn heartbeat(&mut self, role: Option<String>, ttl: Duration, now: Timestamp) -> bool {
        let is_new_role = role.is_some() && role != self.role;
        let is_news = is_new_role || !self.is_present(now);
        if self.has_left() {
            self.joined = now;
        }
        self.role = role.or_else(|| self.role.take());
        (self.ttl, self.until) = (ttl, Some(now.after(ttl)));
        is_news
    }
}

/// Whether an agent may join like this.
pub(crate) fn check_join(role: Option<&str>, ttl: Duration) -> Result<(), Invalid> {
    role.map_or(Ok(()), |role| check_name("role", role))?;
    check_range("the time to live in seconds", ttl.as_secs(), TTL_MIN.as_secs(), TTL_MAX.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespace;

    const NOW: Timestamp = Timestamp(1_000_000);

    #[test]
    fn a_member_is_present_until_its_time_is_over_and_a_heartbeat_gives_it_more() {
        let ann = Actor::member("ann", Namespace::team("t"));
        let mut member = Member::new(&ann, None, TTL_DEFAULT, 7, NOW);
        let later = |s: u64| NOW.after(Duration::from_secs(s));
        assert!(member.is_present(later(59)) && !member.is_present(later(60)));
        assert!(!member.is_due(later(30)) && member.is_due(later(31)));
        assert!(!member.heartbeat(None, TTL_DEFAULT, later(40)), "it never was away");
        assert!(member.is_present(later(99)));
        assert!(member.heartbeat(None, TTL_DEFAULT, later(100)), "it is back");
        assert!(member.heartbeat(Some("tester".into()), TTL_DEFAULT, later(101)), "it does something else");
        assert!(!member.heartbeat(None, TTL_DEFAULT, later(102)));
        assert_eq!((member.role.as_deref(), member.joined), (Some("tester"), NOW));
        member.until = None;
        assert!(member.heartbeat(None, TTL_DEFAULT, later(103)) && member.joined == later(103));
    }
}
