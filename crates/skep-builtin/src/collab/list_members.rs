//! `list_members`: who is there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skep_core::policy::Read;
use skep_tools::{
    error::ToolError,
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{
    NAME_CHARS_MAX, READS,
    join_collab::{Shown, shown},
    store_failed,
};
/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct ListMembers {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The task or swarm; without one, the team.
    #[serde(alias = "taskId", alias = "swarm_id", alias = "swarmId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    task_id: Option<String>,
    /// Which agent asks.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
}

/// Who is there.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// All who have joined and not left, by name.
    members: Vec<Shown>,
}

impl BuiltIn for ListMembers {
    const NAME: &'static str = "list_members";
    const DESCRIPTION: &'static str = "List the agents that have joined those who work on a task, what they do there, and \
        which of them are present.";
    const ANNOTATIONS: Annotations = READS;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { task_id, agent_id } = arguments;
        let (app, permit) = self.shared.open::<Read>(context, task_id.as_deref(), agent_id.as_deref())?;
        let (members, now) = (app.db.members(&permit).await.map_err(store_failed)?, app.db.now().at);
        Ok(Answer { members: members.into_iter().map(|member| shown(member, now)).collect() })
    }
}
