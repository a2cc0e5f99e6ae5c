//! Tools that are for whoever has claimed the files that they work on (`tools.NAME.requires_claim`).
//!
//! The claim is that of the token in `_meta["skep/claim_token"]`, or else one that the caller itself holds. It is in the
//! workspace that the settings name, or else in that of `_meta["skep/task_id"]` or of `task_id` among the arguments.

use std::sync::Arc;

use serde_json::{Value, value::RawValue};
use skep_core::{
    app::App,
    policy::{Actor, Read},
};
use skep_mcp::server::Members;
use skep_plan::template::ArgumentsTemplate;
use skep_tools::{
    error::{Fault, ToolError},
    shared::{claims::require_claim, refused},
};

use crate::{config::servers::ClaimRequired, hub::calls::Text};

/// The metadata of a call that say which claim its caller has: the token, the task in whose workspace it is, and which agent
/// calls.
const TOKEN: &str = "skep/claim_token";
const TASK: &str = "skep/task_id";
const AGENT: &str = "skep/agent_id";
/// What tools call a task, and an agent, among their arguments.
const TASK_ARGUMENTS: [&str; 4] = ["task_id", "taskId", "swarm_id", "swarmId"];
const AGENT_ARGUMENTS: [&str; 2] = ["agent_id", "agentId"];
/// Files that one call may need claims on.
const PATHS_MAX: usize = 100;

/// The claim that a call needs.
pub(super) struct Claimed {
    pub(super) required: ClaimRequired,
    /// Who calls.
    pub(super) actor: Option<Arc<Actor>>,
    /// Where the claims are.
    pub(super) app: Option<App>,
}

/// What a call says of the claim that it has.
struct Said {
    arguments: Value,
    token: Option<i64>,
    task: Option<String>,
    agent: Option<String>,
}

impl Claimed {
    /// Check that the caller has the claim now. `params`: those of the call.
    pub(super) async fn check(&self, params: &Members<'_>) -> Result<(), ToolError> {
        let nobody = || ToolError::Denied("this tool requires a claim, and this call is on nobody's behalf".to_owned());
        let actor = self.actor.as_ref().ok_or_else(nobody)?;
        let app = self.app.as_ref().ok_or_else(|| ToolError::Unavailable {
            message: "this tool requires a claim, and there is no store here that could have any".to_owned(),
            cure: "call it at a hub (`skep serve`)".to_owned(),
        })?;
        let said = Said::of(params)?;
        let (task, paths) = (self.task(&said)?, self.paths(&said.arguments)?);
        let agent = said.agent.as_deref().or(actor.agent.as_deref());
        let permit = actor.permit::<Read>().map_err(|denied| ToolError::Denied(denied.to_string()))?;
        let permit = permit.within(Some(&task), agent).map_err(refused)?;
        for path in &paths {
            let checked = require_claim(app, &permit, path, said.token).await;
            checked.map_err(|error| in_task(error, &task))?;
        }
        Ok(())
    }

    /// The task in whose workspace the claim is.
    fn task(&self, said: &Said) -> Result<String, ToolError> {
        let Some(task) = &self.required.task else {
            let named = || text(&said.arguments, &TASK_ARGUMENTS);
            let unknown = || {
                let message = format!(
                    "this tool requires a claim; say in which task's workspace it is, in _meta[{TASK:?}] or as `task_id`"
                );
                fault(message)
            };
            return said.task.clone().or_else(named).ok_or_else(unknown);
        };
        match self.rendered(task, &said.arguments)? {
            Value::String(task) => Ok(task),
            _ => Err(fault(format!("this tool requires a claim, and `{task}` gives no name of a task"))),
        }
    }

    /// The files that the call is about, as the workspace has them.
    fn paths(&self, arguments: &Value) -> Result<Vec<String>, ToolError> {
        let template = &self.required.path;
        let paths = match self.rendered(template, arguments)? {
            Value::Array(paths) => paths,
            path => vec![path],
        };
        if paths.is_empty() || paths.len() > PATHS_MAX {
            let message =
                format!("this tool requires claims on 1 to {PATHS_MAX} files, and `{template}` gives {}", paths.len());
            return Err(fault(message));
        }
        let path = |path: &Value| match path.as_str() {
            Some(path) => self.in_workspace(path),
            None => Err(fault(format!("this tool requires a claim on a file, and `{template}` gives no path"))),
        };
        paths.iter().map(path).collect()
    }

    /// A path without the directory that is the workspace for the server.
    fn in_workspace(&self, path: &str) -> Result<String, ToolError> {
        let Some(root) = self.required.root.as_deref().filter(|_| path.starts_with('/')) else {
            return Ok(path.to_owned());
        };
        let below = path.strip_prefix(root.trim_end_matches('/')).filter(|below| below.starts_with('/'));
        let outside =
            || fault(format!("{path} is not below {root}, so nobody can have the claim that this tool requires"));
        below.map(|below| below.trim_start_matches('/').to_owned()).ok_or_else(outside)
    }

    fn rendered(&self, template: &str, arguments: &Value) -> Result<Value, ToolError> {
        let rendered = ArgumentsTemplate::new(template).and_then(|template| template.render(arguments));
        rendered.map_err(|error| fault(format!("this tool requires a claim on {template}: {error}")))
    }
}

impl Said {
    fn of(params: &Members<'_>) -> Result<Said, ToolError> {
        let arguments = Text { json: params.get("arguments").map(RawValue::to_owned), held: None };
        let arguments = arguments.parse().map_err(|malformed| fault(malformed.to_string()))?;
        let meta = params.get("_meta").and_then(Members::parse).unwrap_or_default();
        let read = |name: &str, what: &str| format!("_meta[{name:?}] must be {what}");
        let number = |name: &str| match meta.get(name) {
            None => Ok(None),
            Some(_) => meta.read(name).map(Some).ok_or_else(|| fault(read(name, "a number, as claim_file gave it"))),
        };
        let name = |name: &str| match meta.get(name) {
            None => Ok(None),
            Some(_) => meta.read(name).map(Some).ok_or_else(|| fault(read(name, "a text"))),
        };
        let (token, task, agent) = (number(TOKEN)?, name(TASK)?, name(AGENT)?);
        let agent = agent.or_else(|| text(&arguments, &AGENT_ARGUMENTS));
        Ok(Said { arguments, token, task, agent })
    }
}

/// The first of these arguments that is a text.
fn text(arguments: &Value, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| arguments.get(name)?.as_str()).map(str::to_owned)
}

fn fault(message: impl Into<String>) -> ToolError {
    ToolError::InvalidArguments(vec![Fault { pointer: String::new(), message: message.into() }])
}

/// The same error, with the workspace that it is about.
fn in_task(error: ToolError, task: &str) -> ToolError {
    match error {
        ToolError::Conflict { message, mut detail } => {
            detail.insert("task_id".to_owned(), task.into());
            ToolError::Conflict { message, detail }
        }
        other => other,
    }
}
