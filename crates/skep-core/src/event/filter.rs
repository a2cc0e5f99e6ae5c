//! Which events somebody wants.

use std::sync::Arc;

use super::{Event, Subject};
use crate::id::{RunId, TaskId};

/// Which events are wanted: those that fit in every respect that is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFilter {
    /// Those of this run.
    pub run: Option<RunId>,
    /// Those of this task.
    pub task: Option<TaskId>,
    /// Those about this.
    pub subject: Option<Subject<'static>>,
    /// Those that this principal caused, also through its agents.
    pub principal: Option<Arc<str>>,
    /// Those that an agent of this name caused.
    pub agent: Option<Arc<str>>,
    /// Those whose kind has one of these names; of every kind, if there are none.
    pub kinds: Vec<String>,
}

impl EventFilter {
    /// The events of a run.
    pub fn of_run(run: &RunId) -> EventFilter {
        EventFilter { run: Some(run.clone()), ..EventFilter::default() }
    }

    /// Whether an event is wanted.
    pub fn matches(&self, event: &Event) -> bool {
        let EventFilter { run, task, subject, principal, agent, kinds } = self;
        let actor = event.actor.as_ref();
        (run.is_none() || *run == event.run)
            && (task.is_none() || *task == event.task)
            && (subject.is_none() || *subject == event.subject())
            && (principal.is_none() || principal.as_ref() == actor.map(|actor| &actor.principal))
            && (agent.is_none() || agent.as_ref() == actor.and_then(|actor| actor.agent.as_ref()))
            && (kinds.is_empty() || kinds.iter().any(|kind| kind == event.kind.name()))
    }
}
