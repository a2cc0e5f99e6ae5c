//! `join_collab`: an agent is there.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::{
    Timestamp,
    member::{Member, TTL_DEFAULT, TTL_MAX, TTL_MIN},
    policy::Write,
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, time},
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, WRITES_ONCE, member_failed, store_failed, total};

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct JoinCollab {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The task or swarm to join; without one, the team.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    task_id: Option<String>,
    /// The name under which you join; without one, that of your token.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
    /// What you do there, for the others to know.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    role: Option<String>,
    /// Seconds that you count as present, unless you join again, read messages or send some.
    #[serde(default = "ttl_s", alias = "ttl")]
    #[garde(range(min = TTL_MIN.as_secs(), max = TTL_MAX.as_secs()))]
    ttl_s: u64,
}

fn ttl_s() -> u64 {
    TTL_DEFAULT.as_secs()
}

/// Who is there.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The name under which you joined.
    agent_id: String,
    /// Until when you count as present, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// All who have joined and not left, you included, by name.
    members: Vec<Shown>,
    /// Messages that you have not acknowledged; more than 10,000 are not counted.
    unread: u64,
}

/// One who has joined.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown {
    /// The name.
    agent_id: String,
    /// Whose agent it is.
    principal: String,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// It was heard of a short time ago.
    is_present: bool,
    /// When it joined, in RFC 3339.
    joined_at: String,
    /// Until when it counts as present, or since when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    present_until: Option<String>,
}

impl BuiltIn for JoinCollab {
    const NAME: &'static str = "join_collab";
    const DESCRIPTION: &'static str = "Join those who work on a task, to be seen by them and to get messages, and see \
        who is there. Join again now and then to stay present.";
    const ANNOTATIONS: Annotations = WRITES_ONCE;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, agent_id, role, ttl_s } = arguments;
        let (app, permit) = self.shared.open::<Write>(context, task_id.as_deref(), agent_id.as_deref())?;
        let joined = app.join_workspace(&permit, role, Duration::from_secs(ttl_s)).await.map_err(member_failed)?;
        let reads = permit.to_read();
        let members = app.db.members(&reads).await.map_err(store_failed)?;
        let unread = app.db.unread(&reads, &joined.name).await.map_err(store_failed)?;
        let now = app.db.now().at;
        Ok(Answer {
            agent_id: joined.name,
            expires_at: joined.until.map(time),
            members: members.into_iter().map(|member| shown(member, now)).collect(),
            unread: total(unread),
        })
    }
}

pub(super) fn shown(member: Member, now: Timestamp) -> Shown {
    let is_present = member.is_present(now);
    let Member { name, principal, role, joined, until, .. } = member;
    Shown { agent_id: name, principal, role, is_present, joined_at: time(joined), present_until: until.map(time) }
}
