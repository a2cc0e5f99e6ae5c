//! The operations on runs, tasks, sessions and MCP tasks, and on what agents share. Each is one transaction: load, decide,
//! save, append the event, commit, wake followers.
//!
//! Nothing else changes the database: there is a file for each kind of row, and `app/exchange.rs` for what workers do all
//! the time. What only reads asks [`Db`] itself; `app/follow.rs` reads what happens.

mod alerts;
mod claims;
mod directories;
mod exchange;
mod files;
mod follow;
mod graphs;
mod leases;
mod mcp_tasks;
mod members;
mod memory;
mod messages;
mod retention;
mod runs;
mod sessions;
mod steps;
mod tasks;

pub use self::{
    claims::ClaimError,
    directories::DirectoryError,
    exchange::{Answer, Answered, CLAIM_MAX, FINISH_MAX},
    files::FileError,
    follow::EventFollower,
    leases::{Progress, Wanted},
    mcp_tasks::{McpTaskError, TAKEN_OVER_MAX},
    members::MemberError,
    memory::MemoryError,
    messages::{Acknowledge, MESSAGE_WAIT_MAX, MessageError, Selection, Sent},
    runs::RunError,
    sessions::{LOST_MAX, SessionError},
    steps::StepError,
    tasks::{EXPIRED_MAX, TaskError},
};
use crate::db::Db;

/// Everything a request needs; cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The store. Its methods read; only the operations of [`App`] write.
    pub db: Db,
}

impl App {
    /// The operations on a store.
    pub fn new(db: Db) -> App {
        App { db }
    }
}

/// What a write decided. Either way it is committed, so a refusal can leave a note of what was refused; an error undoes
/// the whole write instead.
enum Verdict<T, R> {
    Done(T),
    Refused(R),
}

impl<T, R> Verdict<T, R> {
    fn into_result<E: From<R>>(self) -> Result<T, E> {
        match self {
            Verdict::Done(done) => Ok(done),
            Verdict::Refused(reason) => Err(reason.into()),
        }
    }
}
