//! What happened, as programs read it, wherever they do: a line of `skep logs --json`, over HTTP, over WebSocket.

use skep_core::event::{self, EventActor};
pub(crate) use skep_tools::time::rfc3339;

use crate::api;

/// An event for programs. `task`: what its task is called.
pub(crate) fn shown<'a>(event: &'a event::Event, task: Option<&'a str>) -> api::Event<'a> {
    let actor = |EventActor { principal, agent, on_behalf_of }: &'a EventActor| api::EventActor {
        principal,
        agent: agent.as_deref(),
        on_behalf_of: on_behalf_of.as_deref(),
    };
    api::Event {
        number: event.number,
        at: rfc3339(event.at),
        actor: event.actor.as_ref().map(actor),
        kind: event.kind.name(),
        run: event.run.as_ref().map(|run| run.0.as_str()),
        task,
        data: event.kind.data(),
    }
}

/// The same as a line of JSON.
pub(crate) fn to_json(event: &event::Event, task: Option<&str>) -> String {
    serde_json::to_string(&shown(event, task)).unwrap_or_default() // the data is JSON, as it was read
}
