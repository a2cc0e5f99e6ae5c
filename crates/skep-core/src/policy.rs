//! Who is calling, and what they may do.
//!
//! An [`Actor`] is made once, where a request enters: from a token, from a socket whose user the kernel knows, or by the
//! command line. A [`Permit`] proves that an actor has one right, and carries the actor along. Permits are made here
//! alone, so a function that takes one cannot be called without the check, and knows who called it.

use std::{fmt, marker::PhantomData, sync::Arc};

use crate::{
    Namespace,
    limits::{Invalid, check_name},
};

/// The authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Who it is: the name of the token that it brought, or `local` for the user of this machine. What belongs to one
    /// principal is shown to no other.
    pub principal: Arc<str>,
    /// The namespace of its team, where its runs and tasks are.
    pub team: Namespace,
    /// Which of the principal's agents it says it is.
    pub agent: Option<Arc<str>>,
    /// The principal in whose name it acts, if that is another one.
    pub on_behalf_of: Option<Arc<str>>,
    /// What it may do.
    pub rights: Rights,
}

/// What an actor may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// See what its team has.
    pub read: bool,
    /// Change what its team has. This includes seeing it, because every operation answers with what it changed.
    pub write: bool,
    /// Call tools.
    pub call: bool,
    /// Operate the hub: see everybody's calls and processes, stop them, and change which servers there are.
    pub operate: bool,
}

impl Rights {
    /// None at all.
    pub const NONE: Rights = Rights { read: false, write: false, call: false, operate: false };
    /// Those of a caller with a token of its own.
    pub const MEMBER: Rights = Rights { read: true, write: true, call: true, operate: false };
    /// Those of whoever runs the hub.
    pub const OPERATOR: Rights = Rights { operate: true, ..Rights::MEMBER };
}

/// A right that a [`Permit`] can prove: [`Read`], [`Write`], [`Call`] or [`Operate`].
pub trait Right {
    /// What the actor may do, for people: "you may not …".
    const NAME: &'static str;
    /// Whether it is among these.
    fn is_in(rights: Rights) -> bool;
}

/// The right to see what the team has.
#[derive(Clone, Copy, Debug)]
pub enum Read {}
/// The right to change what the team has.
#[derive(Clone, Copy, Debug)]
pub enum Write {}
/// The right to call tools.
#[derive(Clone, Copy, Debug)]
pub enum Call {}
/// The right to operate the hub.
#[derive(Clone, Copy, Debug)]
pub enum Operate {}

impl Right for Read {
    const NAME: &'static str = "read";
    fn is_in(rights: Rights) -> bool {
        rights.read || rights.write
    }
}

impl Right for Write {
    const NAME: &'static str = "change anything";
    fn is_in(rights: Rights) -> bool {
        rights.write
    }
}

impl Right for Call {
    const NAME: &'static str = "call tools";
    fn is_in(rights: Rights) -> bool {
        rights.call
    }
}

impl Right for Operate {
    const NAME: &'static str = "operate this hub";
    fn is_in(rights: Rights) -> bool {
        rights.operate
    }
}

/// Proof that an actor has a right. Cheap to clone.
pub struct Permit<R = Write> {
    actor: Arc<Actor>,
    /// Where the actor has it; without one, in the namespace of its team.
    workspace: Option<Arc<Namespace>>,
    right: PhantomData<fn() -> R>,
}

/// The actor lacks the right. This does not depend on what the request was about, so it tells nobody whether that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("you may not {0} here; ask whoever runs this hub for the right to")]
pub struct Denied(&'static str);

impl Actor {
    /// Whoever runs the hub: the user of this machine, or a caller that knows the hub's own token.
    pub fn operator(principal: impl Into<Arc<str>>, team: Namespace) -> Arc<Actor> {
        Actor::new(principal, team, Rights::OPERATOR)
    }

    /// A caller with a token of its own.
    pub fn member(principal: impl Into<Arc<str>>, team: Namespace) -> Arc<Actor> {
        Actor::new(principal, team, Rights::MEMBER)
    }

    /// An actor with these rights, which is no agent and acts for nobody else.
    pub fn new(principal: impl Into<Arc<str>>, team: Namespace, rights: Rights) -> Arc<Actor> {
        Arc::new(Actor { principal: principal.into(), team, agent: None, on_behalf_of: None, rights })
    }

    /// The name under which it acts in a workspace: its agent's, or else the principal's.
    pub fn name(&self) -> &str {
        self.agent.as_deref().unwrap_or(&self.principal)
    }

    /// Check one right.
    pub fn permit<R: Right>(self: &Arc<Self>) -> Result<Permit<R>, Denied> {
        match R::is_in(self.rights) {
            true => Ok(Permit::of(self)),
            false => Err(Denied(R::NAME)),
        }
    }
}

/// As logs name it: `ann`, `ann/reviewer` for an agent of hers, `ann for bob` in his name.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.principal)?;
        if let Some(agent) = &self.agent {
            write!(f, "/{agent}")?;
        }
        if let Some(other) = &self.on_behalf_of {
            write!(f, " for {other}")?;
        }
        Ok(())
    }
}

impl<R> Permit<R> {
    fn of(actor: &Arc<Actor>) -> Permit<R> {
        Permit { actor: Arc::clone(actor), workspace: None, right: PhantomData }
    }

    /// The same right in one of the team's workspaces, where it is an agent of this name that acts. Without a workspace,
    /// in the team's own namespace; without an agent, whoever acts already.
    ///
    /// # Errors
    ///
    /// If one of the names cannot be one.
    pub fn within(&self, workspace: Option<&str>, agent: Option<&str>) -> Result<Permit<R>, Invalid> {
        let actor = match agent {
            None => Arc::clone(&self.actor),
            Some(agent) => {
                check_name("agent", agent)?;
                Arc::new(Actor { agent: Some(agent.into()), ..(*self.actor).clone() })
            }
        };
        let workspace = match workspace {
            None => None,
            Some(workspace) => {
                check_name("task_id", workspace)?;
                Some(Arc::new(self.actor.team.workspace(workspace)))
            }
        };
        Ok(Permit { actor, workspace, right: PhantomData })
    }

    /// Who has the right.
    pub fn actor(&self) -> &Arc<Actor> {
        &self.actor
    }

    /// The namespace in which the actor has it.
    pub fn namespace(&self) -> &Namespace {
        self.workspace.as_deref().unwrap_or(&self.actor.team)
    }
}

impl Permit<Write> {
    /// The right to read, which comes with the right to write.
    pub fn to_read(&self) -> Permit<Read> {
        Permit { actor: Arc::clone(&self.actor), workspace: self.workspace.clone(), right: PhantomData }
    }
}

impl<R> Clone for Permit<R> {
    fn clone(&self) -> Permit<R> {
        Permit { actor: Arc::clone(&self.actor), workspace: self.workspace.clone(), right: PhantomData }
    }
}

impl<R> fmt::Debug for Permit<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.actor).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_had_for_a_right_that_the_actor_has_and_for_no_other() {
        let held = |rights: Rights| {
            let actor = Actor::new("ann", Namespace::team("t"), rights);
            let denied = [
                actor.permit::<Read>().map(drop),
                actor.permit::<Write>().map(drop),
                actor.permit::<Call>().map(drop),
                actor.permit::<Operate>().map(drop),
            ];
            denied.map(|denied| denied.is_ok())
        };
        assert_eq!(held(Rights::NONE), [false; 4]);
        assert_eq!(held(Rights { read: true, ..Rights::NONE }), [true, false, false, false]);
        assert_eq!(held(Rights { write: true, ..Rights::NONE }), [true, true, false, false]);
        assert_eq!(held(Rights { call: true, ..Rights::NONE }), [false, false, true, false]);
        assert_eq!(held(Rights { operate: true, ..Rights::NONE }), [false, false, false, true]);
        assert_eq!(held(Rights::MEMBER), [true, true, true, false]);
        assert_eq!(held(Rights::OPERATOR), [true; 4]);
    }

    #[test]
    fn a_permit_says_who_has_it_and_where() {
        let ann = Actor::member("ann", Namespace::team("t"));
        let permit: Permit = ann.permit().unwrap();
        assert!(Arc::ptr_eq(permit.actor(), &ann) && Arc::ptr_eq(permit.to_read().actor(), &ann));
        assert_eq!(permit.namespace(), &Namespace::team("t"));
    }

    #[test]
    fn a_right_holds_in_the_workspaces_of_the_team_and_for_the_agents_of_the_principal() {
        let ann = Actor::member("ann", Namespace::team("t"));
        let permit: Permit = ann.permit().unwrap();
        let inside = permit.within(Some("w"), Some("coder")).unwrap();
        assert_eq!(inside.namespace(), &Namespace::team("t").workspace("w"));
        assert_eq!(
            (inside.clone().namespace(), inside.to_read().namespace()),
            (inside.namespace(), inside.namespace())
        );
        assert_eq!(inside.actor().to_string(), "ann/coder");
        let outside = inside.within(None, None).unwrap();
        assert_eq!(outside.namespace(), &Namespace::team("t"));
        assert_eq!(outside.actor().to_string(), "ann/coder");
        for name in ["", "a\nb", &"x".repeat(513)] {
            assert!(permit.within(Some(name), None).is_err() && permit.within(None, Some(name)).is_err(), "{name:?}");
        }
    }

    #[test]
    fn an_actor_is_named_with_its_agent_and_the_one_in_whose_name_it_acts() {
        let ann = Actor::member("ann", Namespace::team("t"));
        assert_eq!(ann.to_string(), "ann");
        let agent = Actor { agent: Some("reviewer".into()), on_behalf_of: Some("bob".into()), ..(*ann).clone() };
        assert_eq!(agent.to_string(), "ann/reviewer for bob");
    }
}
