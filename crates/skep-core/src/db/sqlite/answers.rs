//! Answers on their way to the callers.
//!
//! A task of the runtime gives the answers of a group, and not the writer thread. That one would wake the runtime's
//! threads again and again, because they do what an answer calls for in less time than it takes to get to the next; and
//! the writer is what limits the store. So it wakes them once for a group, and goes on.
//!
//! It does not rely on them: if the runtime in which the store was opened has ended, the answers are given wherever the
//! group is dropped.

use std::mem::take;

use tokio::sync::mpsc::{self, UnboundedSender, unbounded_channel};

use crate::db::{
    DbError,
    queue::{Write, answer},
};

/// Where the writer thread leaves the answers.
///
/// The queue needs no bound of its own: each write in it holds a [`crate::db::admission::Place`].
pub(super) struct Answers(UnboundedSender<Group>);

/// Writes whose outcome is known. Their callers are told when it is dropped.
struct Group {
    writes: Vec<Box<dyn Write>>,
    committed: Result<(), DbError>,
}

impl Drop for Group {
    fn drop(&mut self) {
        answer(take(&mut self.writes), &self.committed);
    }
}

impl Answers {
    /// Start the task. It keeps `alive` until the last answer is given.
    #[expect(clippy::disallowed_methods, reason = "whoever closes the store waits until nothing is `alive` any more")]
    pub(super) fn start(alive: &mpsc::Sender<()>) -> Answers {
        let ((sender, mut groups), alive) = (unbounded_channel::<Group>(), alive.clone());
        tokio::spawn(async move {
            while let Some(group) = groups.recv().await {
                drop(group);
            }
            drop(alive);
        });
        Answers(sender)
    }

    /// Tell all of these that they were committed, or why not.
    pub(super) fn give(&self, writes: Vec<Box<dyn Write>>, committed: Result<(), DbError>) {
        let is_one = writes.len() == 1;
        let group = Group { writes, committed };
        if is_one {
            drop(group); // to wake the task would be one step more
        } else {
            let _ = self.0.send(group); // if there is no task any more, this drops the group
        }
    }
}
