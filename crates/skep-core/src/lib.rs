//! Skep's rules, store and operations. Knows no protocol, starts no process, reads no clock.
//!
//! Read in this order: [`task`], [`run`] and [`mcp_task`] hold the rules, [`event`] what is written down about them, [`db`] loads
//! and saves, [`app`] joins all of it in one transaction for each operation. [`policy`] says who may call what,
//! [`limits`] how much of anything is taken, [`retention`] how much of the runs is kept.

pub mod app;
pub mod artefact;
pub mod db;
pub mod event;
pub mod limits;
pub mod mcp_task;
pub mod policy;
pub mod retention;
pub mod run;
pub mod task;

use std::time::Duration;

/// Microseconds since the Unix epoch: one integer that SQLite and PostgreSQL store alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment `duration` later; the end of time if there is no such moment.
    pub fn after(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// A team's share of the hub. Runs, tasks and the event log of one namespace know nothing of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace(pub String);
