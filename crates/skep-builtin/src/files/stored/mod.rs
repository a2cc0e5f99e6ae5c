//! Files of a task's workspace: what the tools for files work on when they are given a `task_id`.

mod edit;
mod list;
mod read;

use skep_tools::error::ToolError;

pub(super) use self::{edit::edit, list::list, read::read};

/// What an argument means that only counts in a task's workspace.
pub(super) fn only_in_a_task(name: &str, is_given: bool) -> Result<(), ToolError> {
    if !is_given {
        return Ok(());
    }
    Err(ToolError::argument(name, "it goes with `task_id`: only files of a task's workspace have revisions and claims"))
}
