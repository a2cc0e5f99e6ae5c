//! Skep's rules, store and operations. Knows no protocol, starts no process, reads no clock.
//!
//! Read in this order: [`task`], [`run`], [`session`], [`mcp_task`], [`mod@file`], [`claim`] and [`memory`] are the rules,
//! [`event`] is what is logged about them, [`db`] loads and saves, and [`app`] joins all of it in one transaction for
//! each operation. [`policy`] decides who may call what, [`limits`] how much is accepted, [`retention`] which runs are
//! kept, [`path`] and [`glob`] what files are called, [`alert`] what hubs say of themselves.

// The futures of reads are deep, and the compiler works out their layout level by level.
#![recursion_limit = "256"]

#[cfg(test)]
extern crate self as skep_core; // what unit tests share with tests/store calls the crate by its name

pub mod alert;
pub mod app;
pub mod artefact;
pub mod claim;
pub mod db;
pub mod directory;
pub mod event;
pub mod file;
pub mod glob;
pub mod hex;
mod id;
mod json;
pub mod limits;
pub mod mcp_task;
pub mod member;
pub mod memory;
pub mod message;
pub mod page;
pub mod path;
pub mod policy;
pub mod retention;
pub mod run;
pub mod session;
pub mod step;
pub mod task;

use std::{sync::Arc, time::Duration};

pub use json::Json;
use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch: one integer that SQLite and PostgreSQL store alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment `duration` earlier; the beginning of time if there is no such moment.
    pub fn before(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The moment `duration` later; the end of time if there is no such moment.
    pub fn after(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// Whose rows and events: a team, or one of its workspaces. One namespace knows nothing of another, and the writes of
/// one are done one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    pub(crate) team: Arc<str>,
    pub(crate) workspace: Arc<str>,
}

impl Namespace {
    /// A team's own.
    pub fn team(name: &str) -> Namespace {
        Namespace { team: name.into(), workspace: "".into() }
    }

    /// Where hubs are registered; no team can have this name.
    pub(crate) fn hubs() -> Namespace {
        Namespace::team("")
    }

    /// One of the team's workspaces, by its name, which is not empty.
    pub fn workspace(&self, name: &str) -> Namespace {
        Namespace { team: Arc::clone(&self.team), workspace: name.into() }
    }
}
