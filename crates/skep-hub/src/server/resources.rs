//! What agents share, as resources of the Model Context Protocol (contract S1): the files, steps, members and memory of a
//! workspace, each at a URI, to be read and watched.
//!
//! A resource is a view of what the tools work on; nothing is changed here. A watched one is followed in the event log, so
//! a change is told whichever hub made it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use skep_core::{
    Namespace, Timestamp,
    app::{App, EventFollower},
    claim::Claim,
    db::{DbError, FileFilter},
    event::{EventFilter, Subject},
    file::{Contents, Revision},
    limits::PAGE_MAX,
    member::Member,
    page::Start,
    path::FilePath,
    policy::{Permit, Read},
    step::{Step, StepFilter},
};
use skep_mcp::{
    message::ErrorObject,
    server::{Change, Watch, code},
};
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;

use crate::events::rfc3339;

/// Steps that the log of a workspace shows: the newest.
const STEPS_SHOWN: usize = 100;
/// What happens to a watched resource within this time is told once.
const TOLD_EVERY: Duration = Duration::from_millis(50);
/// How long a watcher waits before it asks a store again that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const JSON: &str = "application/json";

/// What a URI names: something of a workspace, which is a task's or a swarm's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    workspace: String,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// Who is there, and who has claimed what.
    State,
    /// The newest steps.
    Logs,
    /// The files, without their contents.
    Files,
    /// The contents of a file.
    File(FilePath),
    /// The members.
    Members,
    /// A memory entry.
    Memory(String),
    /// Where in the team an agent of this name is a member.
    Agent(String),
}

/// The templates of the URIs, as `resources/templates/list` shows them.
pub(super) fn templates() -> Value {
    let template = |uri: &str, name: &str, description: &str, media: Option<&str>| {
        let mut template = json!({ "uriTemplate": uri, "name": name, "description": description });
        if let Some(media) = media {
            template["mimeType"] = media.into();
        }
        template
    };
    json!([
        template(
            "tasks://{taskId}/state",
            "task-state",
            "Who works on a task, and who has claimed which files",
            Some(JSON)
        ),
        template("tasks://{taskId}/logs", "task-logs", "The newest steps that were logged for a task", Some(JSON)),
        template("tasks://{taskId}/files", "task-files", "The files of a task, with their revisions", Some(JSON)),
        template("workspace://{taskId}/{+path}", "task-file", "The contents of a file of a task", None),
        template("collaboration://{taskId}", "task-members", "The agents that work together on a task", Some(JSON)),
        template("agents://{agentId}/status", "agent-status", "Where an agent has joined, and is present", Some(JSON)),
        template("memory://{swarmId}/{+key}", "memory", "What a swarm or a task remembers under a key", Some(JSON)),
    ])
}

impl Resource {
    /// What this URI names; `None` if it is not of one of the [`templates`].
    pub(super) fn parse(uri: &str) -> Option<Resource> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned());
        let (scheme, rest) = uri.split_once("://")?;
        let (workspace, below) =
            rest.split_once('/').map_or((rest, None), |(workspace, below)| (workspace, Some(below)));
        let what = match (scheme, below) {
            ("tasks", Some("state")) => What::State,
            ("tasks", Some("logs")) => What::Logs,
            ("tasks", Some("files")) => What::Files,
            ("workspace", Some(path)) => What::File(FilePath::new(&decoded(path)?).ok()?),
            ("agents", Some("status")) => What::Agent(decoded(workspace)?),
            ("collaboration", None) => What::Members,
            ("memory", Some(key)) if !key.is_empty() => What::Memory(decoded(key)?),
            _ => return None,
        };
        let workspace = decoded(workspace).filter(|workspace| !workspace.is_empty())?;
        Some(Resource { workspace, what })
    }

    /// A caller's right to read in the workspace.
    fn permit(&self, permit: &Permit<Read>) -> Result<Permit<Read>, ErrorObject> {
        if let What::Agent(_) = &self.what {
            return Ok(permit.clone());
        }
        permit.within(Some(&self.workspace), None).map_err(|error| invalid(error.to_string()))
    }

    /// The result of `resources/read`; `None` if there is nothing at the URI.
    pub(super) async fn read(&self, uri: &str, app: &App, permit: &Permit<Read>) -> Result<Option<Value>, ErrorObject> {
        let permit = self.permit(permit)?;
        let contents = match &self.what {
            What::File(path) => match app.db.file(&permit, path, None).await.map_err(failed)? {
                Some(Contents { bytes: Some(bytes), .. }) => file(uri, bytes),
                _ => return Ok(None),
            },
            what => match shown(what, app, &permit).await.map_err(failed)? {
                Some(value) => json!({ "uri": uri, "mimeType": JSON, "text": value.to_string() }),
                None => return Ok(None),
            },
        };
        Ok(Some(json!({ "contents": [contents] })))
    }

    /// The events that change it.
    fn filter(&self) -> EventFilter {
        let of = |kinds: &[&str]| EventFilter {
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            ..EventFilter::default()
        };
        let about = |kind: &'static str, id: &str| EventFilter {
            subject: Some(Subject::new(kind, id.to_owned())),
            ..EventFilter::default()
        };
        match &self.what {
            What::State => of(&[
                "claim.taken",
                "claim.released",
                "claim.forced",
                "member.joined",
                "member.left",
                "step.logged",
                "file.written",
                "file.deleted",
            ]),
            What::Logs => of(&["step.logged"]),
            What::Files => of(&["file.written", "file.deleted"]),
            What::File(path) => about("file", path.as_str()),
            What::Members | What::Agent(_) => of(&["member.joined", "member.left"]),
            What::Memory(key) => about("memory", key),
        }
    }
}

/// Tells of the changes of watched resources: of each once, however many watch it.
pub(super) struct Watchers {
    changes: broadcast::Sender<Change>,
    by_name: Mutex<HashMap<Name, Weak<Watcher>>>,
}

/// A team's namespace, and a URI.
type Name = (Namespace, String);

/// Follows the events of one resource, until nobody watches it any more.
struct Watcher {
    name: Name,
    all: Arc<Watchers>,
    _following: AbortOnDropHandle<()>,
}

impl Watchers {
    pub(super) fn new(changes: broadcast::Sender<Change>) -> Arc<Watchers> {
        Arc::new(Watchers { changes, by_name: Mutex::default() })
    }

    /// Tell of the changes of a resource until the guard is dropped.
    pub(super) async fn watch(
        self: &Arc<Self>,
        resource: Resource,
        uri: String,
        app: &App,
        permit: &Permit<Read>,
    ) -> Result<Watch, ErrorObject> {
        if let What::Agent(_) = &resource.what {
            let message =
                "an agent\'s status is of many workspaces, and cannot be watched; watch collaboration://{taskId}";
            return Err(invalid(message.to_owned()));
        }
        let name = (permit.namespace().clone(), uri);
        if let Some(watcher) = self.by_name().get(&name).and_then(Weak::upgrade) {
            return Ok(Box::new(watcher));
        }
        let mut events = app.follow(&resource.permit(permit)?, resource.filter(), 0);
        events.skip_to_end().await.map_err(failed)?;
        let mut by_name = self.by_name();
        // Somebody else may have begun to watch it meanwhile.
        if let Some(watcher) = by_name.get(&name).and_then(Weak::upgrade) {
            return Ok(Box::new(watcher));
        }
        #[expect(clippy::disallowed_methods, reason = "the guard ends it")]
        let following = tokio::spawn(follow(events, self.changes.clone(), name.1.clone()));
        let following = AbortOnDropHandle::new(following);
        let watcher = Arc::new(Watcher { name: name.clone(), all: Arc::clone(self), _following: following });
        by_name.insert(name, Arc::downgrade(&watcher));
        Ok(Box::new(watcher))
    }

    fn by_name(&self) -> MutexGuard<'_, HashMap<Name, Weak<Watcher>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut by_name = self.all.by_name();
        // Another one may have its place already.
        if by_name.get(&self.name).is_some_and(|watcher| watcher.strong_count() == 0) {
            by_name.remove(&self.name);
        }
    }
}

async fn follow(mut events: EventFollower, changes: broadcast::Sender<Change>, uri: String) {
    loop {
        match events.next().await {
            Ok(_) => {
                let _ = changes.send(Change::Resource(uri.clone())); // nobody may listen
                tokio::time::sleep(TOLD_EVERY).await;
            }
            Err(DbError::Closed) => return,
            Err(_) => tokio::time::sleep(RETRY_AFTER).await, // it goes on at the same event
        }
    }
}

/// What a resource shows that is JSON.
async fn shown(what: &What, app: &App, permit: &Permit<Read>) -> Result<Option<Value>, DbError> {
    let now = app.db.now().at;
    let members = |members: Vec<Member>| members.iter().map(|member| of_member(member, now)).collect::<Value>();
    Ok(Some(match what {
        What::State => {
            let steps = app.db.steps(permit, StepFilter::default(), Start::Before(i64::MAX), 1).await?.rows;
            json!({
                "members": members(app.db.members(permit).await?),
                "claims": app.db.claims(permit, None, PAGE_MAX).await?.iter().map(of_claim).collect::<Value>(),
                "last_step": steps.last().map(of_step),
            })
        }
        What::Logs => {
            let page = app.db.steps(permit, StepFilter::default(), Start::Before(i64::MAX), STEPS_SHOWN).await?;
            json!({ "steps": page.rows.iter().map(of_step).collect::<Value>() })
        }
        What::Files => {
            let page = app.db.files(permit, &FileFilter::default(), None, PAGE_MAX).await?;
            json!({
                "files": page.files.iter().map(of_file).collect::<Value>(),
                "next": page.next.map(|path| path.as_str().to_owned()),
            })
        }
        What::Members => json!({ "members": members(app.db.members(permit).await?) }),
        What::Memory(key) => match app.db.memory(permit, key).await? {
            None => return Ok(None),
            Some(entry) => json!({
                "key": entry.about.key,
                "revision": entry.about.revision,
                "updated_at": rfc3339(entry.about.updated),
                "expires_at": entry.about.expires.map(rfc3339),
                "value": entry.value,
            }),
        },
        What::Agent(name) => {
            let all = app.db.memberships(permit, name).await?;
            if all.is_empty() {
                return Ok(None);
            }
            let workspaces = all.iter().map(|(workspace, member)| {
                let mut shown = of_member(member, now);
                shown["task_id"] = Some(workspace.as_str()).filter(|workspace| !workspace.is_empty()).into();
                shown
            });
            let is_present = all.iter().any(|(_, member)| member.is_present(now));
            json!({ "agent_id": name, "is_present": is_present, "workspaces": workspaces.collect::<Value>() })
        }
        What::File(_) => return Ok(None),
    }))
}

fn file(uri: &str, bytes: Vec<u8>) -> Value {
    match String::from_utf8(bytes) {
        Ok(text) => json!({ "uri": uri, "mimeType": "text/plain", "text": text }),
        Err(error) => {
            let blob = BASE64_STANDARD.encode(error.as_bytes());
            json!({ "uri": uri, "mimeType": "application/octet-stream", "blob": blob })
        }
    }
}

fn of_step(step: &Step) -> Value {
    json!({
        "sequence": step.number,
        "at": rfc3339(step.at),
        "agent_id": step.agent,
        "level": step.level,
        "message": step.message,
        "data": step.data,
    })
}

fn of_file(file: &Revision) -> Value {
    json!({
        "path": file.path.as_str(),
        "revision": file.number,
        "sha256": file.sha256,
        "size": file.size,
        "author": file.author.as_ref().map(ToString::to_string),
        "at": rfc3339(file.at),
    })
}

fn of_claim(claim: &Claim) -> Value {
    json!({
        "path": claim.pattern.as_str(),
        "shared": claim.is_shared,
        "held": claim.is_held,
        "by": claim.by.to_string(),
        "expires_at": rfc3339(claim.until),
    })
}

fn of_member(member: &Member, now: Timestamp) -> Value {
    json!({
        "agent_id": member.name,
        "role": member.role,
        "is_present": member.is_present(now),
        "joined_at": rfc3339(member.joined),
    })
}

fn invalid(message: String) -> ErrorObject {
    ErrorObject::new(code::INVALID_PARAMS, message)
}

/// What the store cannot do now.
fn failed(error: DbError) -> ErrorObject {
    match error {
        error if error.may_pass() => ErrorObject::new(code::BUSY, error.to_string()),
        error => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a resource cannot be read");
            ErrorObject::new(code::INTERNAL_ERROR, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_what_its_template_says_and_others_name_nothing() {
        let of = |uri: &str| Resource::parse(uri).map(|found| (found.workspace, found.what));
        let in_t = |what| Some(("t".to_owned(), what));
        assert_eq!(of("tasks://t/state"), in_t(What::State));
        assert_eq!(of("tasks://t/logs"), in_t(What::Logs));
        assert_eq!(of("tasks://t/files"), in_t(What::Files));
        assert_eq!(of("collaboration://t"), in_t(What::Members));
        assert_eq!(of("agents://t/status"), in_t(What::Agent("t".to_owned())));
        assert_eq!(of("workspace://t/src/a%20b.rs"), in_t(What::File(FilePath::new("src/a b.rs").unwrap())));
        assert_eq!(of("memory://t/project/context"), in_t(What::Memory("project/context".to_owned())));
        assert_eq!(of("tasks://a%2Fb/logs"), Some(("a/b".to_owned(), What::Logs)));
        for uri in [
            "tasks://t",
            "tasks://t/",
            "tasks:///logs",
            "tasks://t/other",
            "tasks://t/logs/1",
            "collaboration://t/x",
            "collaboration://",
            "workspace://t",
            "workspace://t/",
            "workspace://t/../x",
            "workspace://t/a%2F..%2Fb",
            "workspace://t/%00",
            "memory://t/",
            "memory://t/%ff",
            "file:///etc/passwd",
            "t/logs",
        ] {
            assert_eq!(of(uri), None, "{uri}");
        }
    }
}
