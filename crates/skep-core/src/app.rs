//! What Skep can do to runs and tasks, each as one transaction: load, decide, save, append, commit, wake.
//!
//! Every door ends here; none of them touches `db` to change something. The operations are in `app/tasks.rs`,
//! `app/runs.rs`, `app/sessions.rs` and `app/mcp_tasks.rs`. To look at things, ask [`Db`] itself.

mod mcp_tasks;
mod runs;
mod sessions;
mod tasks;

pub use self::{
    mcp_tasks::{McpTaskError, TAKEN_OVER_MAX},
    runs::RunError,
    sessions::{LOST_MAX, SessionError},
    tasks::TaskError,
};
use crate::db::Db;

/// Everything a request needs; cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The store.
    pub db: Db,
}

impl App {
    /// The operations on a store.
    pub fn new(db: Db) -> App {
        App { db }
    }
}
