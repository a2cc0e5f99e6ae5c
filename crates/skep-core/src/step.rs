//! Steps: what agents say about their work, one after the other. A workspace numbers them itself, without gaps.

use serde::{Deserialize, Serialize};

use crate::{
    Json, Timestamp,
    limits::{Invalid, STEP_DATA_BYTES_MAX, STEP_MESSAGE_BYTES_MAX, check_json, check_text},
};

/// How much a step matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Details for whoever looks for a fault.
    #[default]
    Debug,
    /// What was done.
    Info,
    /// Something to look at.
    Warning,
    /// Something went wrong.
    Error,
}

impl Level {
    /// All of them, the least first.
    pub const ALL: [Level; 4] = [Level::Debug, Level::Info, Level::Warning, Level::Error];

    /// Its name, in the store and for programs.
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }

    /// The one of this name.
    pub(crate) fn from_name(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// A step that is to be logged.
#[derive(Clone, Debug, PartialEq)]
pub struct NewStep {
    /// How much it matters.
    pub level: Level,
    /// A sentence for people, of at most [`STEP_MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
    /// More, for programs, of at most [`STEP_DATA_BYTES_MAX`] bytes.
    pub data: Option<Json>,
}

/// A step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its place in the workspace's log: 1, 2, 3, …
    pub number: i64,
    /// When it was logged, by the store's time.
    pub at: Timestamp,
    /// Who logged it.
    pub principal: String,
    /// Which of the principal's agents, if one did.
    pub agent: Option<String>,
    /// How much it matters.
    pub level: Level,
    /// A sentence for people.
    pub message: String,
    /// More, for programs.
    pub data: Option<Json>,
}

/// Which steps are wanted: those that fit in every respect.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepFilter {
    /// Those of this agent.
    pub agent: Option<String>,
    /// Those that matter as much or more.
    pub level: Level,
    /// Those logged at this moment or later.
    pub since: Option<Timestamp>,
    /// Those logged before this moment.
    pub before: Option<Timestamp>,
}

impl NewStep {
    /// Whether it may be kept.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        check_text("the message", &self.message, STEP_MESSAGE_BYTES_MAX)?;
        self.data.as_ref().map_or(Ok(()), |data| check_json("the data", data, STEP_DATA_BYTES_MAX))
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.message.len() + self.data.as_ref().map_or(0, |data| data.as_str().len())
    }
}

impl Step {
    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.message.len() + self.data.as_ref().map_or(0, |data| data.as_str().len())
    }
}
