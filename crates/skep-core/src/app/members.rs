//! Joining a workspace, and leaving it.

use std::{sync::Arc, time::Duration};

use super::App;
use crate::{
    Timestamp,
    db::{DbError, Tx},
    event::{EventKind, NewEvent},
    limits::{Invalid, MEMBERS_MAX},
    member::{Member, check_join},
    policy::{Actor, Permit},
};

/// Why an operation on members failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The name is another principal's.
    #[error("the name {name:?} belongs to {principal} in this workspace; act under another name")]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        principal: String,
    },
    /// The agent is no member.
    #[error("{0:?} has not joined this workspace; join it first")]
    NotJoined(String),
    /// There are [`MEMBERS_MAX`] members.
    #[error("{MEMBERS_MAX} agents have joined this workspace already; have those leave that are done")]
    TooMany,
    /// An argument is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl App {
    /// Join the workspace of the permit under the name of its actor, and be present for `ttl` from now. To join again
    /// is a heartbeat. Without a role, a member keeps the one that it has.
    pub async fn join_workspace(
        &self,
        permit: &Permit,
        role: Option<String>,
        ttl: Duration,
    ) -> Result<Member, MemberError> {
        check_join(role.as_deref(), ttl)?;
        let actor = Arc::clone(permit.actor());
        let join = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let Some(mut member) = own_row(tx, &actor).await? else {
                make_room(tx).await?;
                let member = Member::new(&actor, role.clone(), ttl, tx.last_message().await?, now);
                tx.add_member(&member).await?;
                tx.append(joined(&member, now));
                return Ok(member);
            };
            let is_news = member.heartbeat(role.clone(), ttl, now);
            tx.save_member(&member).await?;
            if is_news {
                tx.append(joined(&member, now));
            }
            Ok(member)
        };
        self.db.write(permit, join).await
    }

    /// Leave the workspace. Messages wait in case that the agent comes back, and its name stays its principal's. To
    /// leave again, or without having joined, is no error. Returns whether it was a member.
    pub async fn leave_workspace(&self, permit: &Permit) -> Result<bool, MemberError> {
        let actor = Arc::clone(permit.actor());
        let leave = async move |tx: &mut Tx<'_>| {
            let Some(mut member) = own_row(tx, &actor).await?.filter(|member| !member.has_left()) else {
                return Ok(false);
            };
            member.until = None;
            tx.save_member(&member).await?;
            let kind = EventKind::MemberLeft { member: member.name };
            tx.append(NewEvent { at: tx.now(), run: None, task: None, kind });
            Ok(true)
        };
        self.db.write(permit, leave).await
    }
}

/// The row of the actor's name, if there is one: of a member, or of one that has left.
pub(super) async fn own_row(tx: &mut Tx<'_>, actor: &Actor) -> Result<Option<Member>, MemberError> {
    match tx.member(actor.name()).await? {
        Some(member) if !member.belongs_to(actor) => Err(name_taken(member)),
        member => Ok(member),
    }
}

pub(super) fn name_taken(Member { name, principal, .. }: Member) -> MemberError {
    MemberError::NameTaken { name, principal }
}

/// A member was heard of. Whether that is to be saved: only now and then, and not if the operator acts for it.
pub(super) fn hear_of(tx: &mut Tx<'_>, actor: &Actor, member: &mut Member) -> bool {
    let now = tx.now();
    let is_due = !member.has_left() && member.is_due(now) && *member.principal == *actor.principal;
    if is_due && member.heartbeat(None, member.ttl, now) {
        tx.append(joined(member, now));
    }
    is_due
}

/// Another one may join if there is room, or if one that has left, or has been away for long, has read everything.
async fn make_room(tx: &mut Tx<'_>) -> Result<(), MemberError> {
    let is_full = tx.count_members().await? >= MEMBERS_MAX;
    if is_full && !tx.delete_absent_member().await? { Err(MemberError::TooMany) } else { Ok(()) }
}

fn joined(member: &Member, at: Timestamp) -> NewEvent {
    let kind = EventKind::MemberJoined { member: member.name.clone(), role: member.role.clone() };
    NewEvent { at, run: None, task: None, kind }
}
