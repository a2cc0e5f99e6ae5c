//! Which task of a queue is started first.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How soon a task is started, compared with others of its queue.
///
/// Tasks are started by their *rank*: the moment at which they became ready, and a delay that belongs to their priority.
/// So a task goes before all of a lower priority that have been ready for no longer than the difference of the delays, and
/// none starves: after its delay, nothing that becomes ready goes before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before everything else.
    Critical,
    /// Before what nobody waits for.
    High,
    /// What most tasks have.
    #[default]
    Medium,
    /// When there is time.
    Low,
}

/// There is no priority of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no priority {0:?}; there are critical, high, medium and low")]
pub struct UnknownPriority(pub String);

impl Priority {
    /// All of them, the most urgent one first.
    pub const ALL: [Priority; 4] = [Priority::Critical, Priority::High, Priority::Medium, Priority::Low];

    /// How much longer a task of this priority may wait than a critical one that became ready at the same time.
    pub const fn delay(self) -> Duration {
        match self {
            Priority::Critical => Duration::ZERO,
            Priority::High => Duration::from_secs(2 * 60),
            Priority::Medium => Duration::from_secs(5 * 60),
            Priority::Low => Duration::from_secs(15 * 60),
        }
    }

    /// By what a task that became ready at this moment is compared with others of its queue: the lower one goes first.
    pub fn rank(self, ready: Timestamp) -> Timestamp {
        ready.after(self.delay())
    }

    /// Its name, in the API.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Critical => "critical",
            Priority::High => "high",
            Priority::Medium => "medium",
            Priority::Low => "low",
        }
    }

    /// What the database has.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Priority::Critical => 0,
            Priority::High => 1,
            Priority::Medium => 2,
            Priority::Low => 3,
        }
    }

    pub(crate) fn from_number(number: i64) -> Option<Priority> {
        Priority::ALL.into_iter().find(|priority| i64::from(priority.number()) == number)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Priority {
    type Err = UnknownPriority;

    fn from_str(name: &str) -> Result<Priority, UnknownPriority> {
        let found = Priority::ALL.into_iter().find(|priority| priority.name() == name);
        found.ok_or_else(|| UnknownPriority(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_urgent_task_goes_before_an_older_one_but_not_before_one_that_has_waited_for_its_delay() {
        let old = Timestamp(0);
        for pair in Priority::ALL.windows(2) {
            let (urgent, other) = (pair[0], pair[1]);
            let difference = other.delay() - urgent.delay();
            let (before, after) = (difference - Duration::from_micros(1), difference + Duration::from_micros(1));
            assert!(urgent.rank(old.after(before)) < other.rank(old), "{urgent} before {other}");
            assert!(urgent.rank(old.after(after)) > other.rank(old), "{other} has waited long enough");
        }
    }

    #[test]
    fn a_priority_is_found_by_its_name_and_its_number() {
        for priority in Priority::ALL {
            assert_eq!(priority.name().parse(), Ok(priority));
            assert_eq!(Priority::from_number(priority.number().into()), Some(priority));
            assert_eq!(serde_json::to_value(priority).unwrap(), priority.name());
        }
        assert!("urgent".parse::<Priority>().unwrap_err().to_string().contains("critical, high, medium and low"));
        assert_eq!(Priority::from_number(4), None);
    }
}
