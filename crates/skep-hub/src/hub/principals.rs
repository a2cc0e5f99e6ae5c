//! The callers of this hub: where an actor comes from, and how it gets through `skep-mcp`.
//!
//! An actor is made where a request enters, once. `skep-mcp` knows no actors, so it carries them as its `Principal`, and
//! gives them back with each call.

use std::{
    any::Any,
    sync::{Arc, LazyLock},
};

use skep_core::{
    Namespace,
    policy::{Actor, Rights},
};
use skep_mcp::server::{LOCAL, Principal};

/// The team of everybody at this hub.
const TEAM: &str = "main";

/// The user of this machine, and whoever knows the hub's own token.
pub fn local() -> &'static Arc<Actor> {
    static ACTOR: LazyLock<Arc<Actor>> = LazyLock::new(|| Actor::operator(LOCAL, Namespace::team(TEAM)));
    &ACTOR
}

/// Whoever knows the token of this name.
pub fn named(name: impl Into<Arc<str>>) -> Arc<Actor> {
    Actor::member(name, Namespace::team(TEAM))
}

/// The actor of a principal that is known by its name alone, because its request came to an earlier process.
pub(crate) fn from_store(principal: &str) -> Arc<Actor> {
    if principal == LOCAL { Arc::clone(local()) } else { named(principal) }
}

/// An actor, as `skep-mcp` carries it.
#[derive(Debug)]
struct Carried(Arc<Actor>);

impl Principal for Carried {
    fn name(&self) -> &str {
        &self.0.principal
    }
}

/// The actor for `skep-mcp` to carry.
pub(crate) fn carried(actor: &Arc<Actor>) -> Arc<dyn Principal> {
    Arc::new(Carried(Arc::clone(actor)))
}

/// The same for [`local`].
pub(crate) fn carried_local() -> &'static Arc<dyn Principal> {
    static CARRIED: LazyLock<Arc<dyn Principal>> = LazyLock::new(|| carried(local()));
    &CARRIED
}

/// The actor that `skep-mcp` has carried. Another principal, such as the one that `skep-mcp` has by default, has no rights:
/// whoever let it in did not find out who it is.
pub(crate) fn actor_of(principal: &Arc<dyn Principal>) -> Arc<Actor> {
    match (&**principal as &dyn Any).downcast_ref::<Carried>() {
        Some(Carried(actor)) => Arc::clone(actor),
        None => Actor::new(principal.name(), Namespace::team(TEAM), Rights::NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_comes_back_as_it_went() {
        let ann = named("ann");
        assert!(Arc::ptr_eq(&actor_of(&carried(&ann)), &ann));
        assert!(Arc::ptr_eq(&actor_of(carried_local()), local()));
    }

    #[test]
    fn a_caller_whom_nobody_has_identified_has_no_rights_whatever_its_name_is() {
        let unknown = actor_of(&skep_mcp::server::local());
        assert_eq!((&*unknown.principal, unknown.rights), (LOCAL, Rights::NONE));
    }

    #[test]
    fn the_callers_of_stored_calls_have_the_rights_that_they_had() {
        assert_eq!(from_store("ann"), named("ann"));
        assert_eq!(&from_store(LOCAL), local());
    }
}
