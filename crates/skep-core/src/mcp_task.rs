//! Calls of MCP tools that outlive the request that made them: what the protocol calls tasks.
//!
//! They are not the tasks of [`crate::task`]. Those are work that waits for any worker, with queues, dependencies,
//! retries and a log that people read; these are calls that run already, in the hub that took them, with the
//! protocol's five states, a principal and a time to live. One table for both would be mostly nulls, and every rule
//! would begin with the question which of the two it is about.
//!
//! A hub **holds** what it runs, and renews its hold again and again. A task whose hold has ended is abandoned: another
//! hub takes it over, under the next attempt, and late reports of the former holder are refused. An end is final.
//! Request and content are JSON text that the core never reads: a result comes back byte for byte.

use std::time::Duration;

use crate::{
    Timestamp,
    limits::{self, Invalid, MCP_TASK_CONTENT_BYTES_MAX, MCP_TASK_KEPT, MCP_TASK_REQUEST_BYTES_MAX, MCP_TASK_TIME_MAX},
};

/// Name of a task, which must not be guessable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct McpTaskId(pub String);

/// The hub that runs a task: a name that no other process ever had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder(pub String);

/// A task that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMcpTask {
    /// Its name, unique in the namespace.
    pub id: McpTaskId,
    /// The parameters of the call, JSON.
    pub request: String,
    /// Whether the call may be repeated after its hub was lost in the middle of it.
    pub may_repeat: bool,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpTask {
    /// Its name, unique in the namespace.
    pub id: McpTaskId,
    /// The principal that made the call.
    pub principal: String,
    /// The parameters of the call, JSON.
    pub request: String,
    /// Whether the call may be repeated after its hub was lost in the middle of it.
    pub may_repeat: bool,
    /// How often the call was started.
    pub attempt: u32,
    /// The hub that runs it, or ran it last.
    pub holder: Holder,
    /// Until when its holder is taken to run it; `None` once it is over.
    pub held_until: Option<Timestamp>,
    /// Its state.
    pub state: State,
    /// When it was made.
    pub created: Timestamp,
    /// When its state last changed.
    pub updated: Timestamp,
    /// When it is deleted.
    pub expires: Timestamp,
}

/// The state of a task. What comes with it is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The call runs.
    Working,
    /// It waits for answers to these requests.
    InputRequired(String),
    /// It has this result.
    Completed(String),
    /// It ended with this error.
    Failed(String),
    /// It was cancelled.
    Cancelled,
}

impl State {
    /// Its name, in messages and in the store.
    pub fn name(&self) -> &'static str {
        match self {
            State::Working => "working",
            State::InputRequired(_) => "input_required",
            State::Completed(_) => "completed",
            State::Failed(_) => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// What comes with it.
    pub fn content(&self) -> Option<&str> {
        match self {
            State::Working | State::Cancelled => None,
            State::InputRequired(text) | State::Completed(text) | State::Failed(text) => Some(text),
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        matches!(self, State::Completed(_) | State::Failed(_) | State::Cancelled)
    }
}

/// Why a task did not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has ended.
    #[error("the task is over")]
    Over,
    /// Another hub runs it now, or this one does under another attempt.
    #[error("the task has been taken over by another attempt, so this one no longer counts")]
    TakenOver,
}

impl McpTask {
    /// A principal's task that `holder` begins to run now, and holds for `hold`.
    pub fn new(principal: String, new: NewMcpTask, holder: Holder, hold: Duration, now: Timestamp) -> McpTask {
        let NewMcpTask { id, request, may_repeat } = new;
        McpTask {
            id,
            principal,
            request,
            may_repeat,
            attempt: 1,
            holder,
            held_until: Some(now.after(hold)),
            state: State::Working,
            created: now,
            updated: now,
            expires: now.after(MCP_TASK_TIME_MAX),
        }
    }

    /// Set its state, for the attempt that holds it.
    pub fn report(&mut self, holder: &Holder, attempt: u32, state: State, now: Timestamp) -> Result<(), Refused> {
        if self.state.is_over() {
            return Err(Refused::Over);
        }
        if (&self.holder, self.attempt) != (holder, attempt) {
            return Err(Refused::TakenOver);
        }
        self.change(state, now);
        Ok(())
    }

    /// Cancel it.
    pub fn cancel(&mut self, now: Timestamp) -> Result<(), Refused> {
        if self.state.is_over() {
            return Err(Refused::Over);
        }
        self.change(State::Cancelled, now);
        Ok(())
    }

    /// `holder` runs it from now on, from the beginning, and holds it for `hold`.
    pub fn take_over(&mut self, holder: Holder, hold: Duration, now: Timestamp) {
        self.attempt += 1;
        self.holder = holder;
        self.held_until = Some(now.after(hold));
        self.change(State::Working, now);
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.request.len() + self.state.content().map_or(0, str::len)
    }

    fn change(&mut self, state: State, now: Timestamp) {
        if state.is_over() {
            self.held_until = None;
            self.expires = now.after(MCP_TASK_KEPT);
        }
        self.state = state;
        self.updated = now;
    }
}

/// Whether a task may be made of this.
pub(crate) fn check_new(principal: &str, new: &NewMcpTask) -> Result<(), Invalid> {
    limits::check_name("the task", &new.id.0)?;
    limits::check_bytes("the principal", principal.len(), limits::NAME_BYTES_MAX)?;
    limits::check_bytes("the request", new.request.len(), MCP_TASK_REQUEST_BYTES_MAX)
}

/// Whether this may be kept.
pub(crate) fn check_state(state: &State) -> Result<(), Invalid> {
    let bytes = state.content().map_or(0, str::len);
    limits::check_bytes("the result of the task", bytes, MCP_TASK_CONTENT_BYTES_MAX)
}
