//! Many servers as one: a [`Service`] made of services.
//!
//! A server behind the gateway is a service with a name. Its tools and prompts are called `server__tool`. A server's name has
//! no `__` and neither begins nor ends with `_`, so the first `__` of a prefixed name is where the server's name ends, whatever
//! the tool is called: no two tools can collide, and a name is taken apart without looking anything up. What belongs to the
//! gateway itself has no prefix, nor has a single server that stands alone. Resources keep their URIs: which server has one is
//! found out from the lists, and of two with one URI the first server has it.
//!
//! Descriptions, schemas, annotations, arguments and results pass through as text. A server that fails to answer a list
//! is missing from the merged one, and costs nobody else anything.

mod cursor;
mod forward;
mod lists;
mod merged;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde_json::{json, value::to_raw_value};
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    forward::{Heard, Remote, Request, change, forward},
    lists::{Kind, List, Lists, Reading, Wanted},
    merged::LIST_TIME_MAX,
};
use crate::{
    message::ErrorObject,
    server::{
        BoxFuture, Call, Caller, Change, Description, Members, Outcome, Peer, Service, Watch, code,
        headers::HeaderArgument,
    },
};

/// Between a server's name and that of its tool.
pub const SEPARATOR: &str = "__";
/// Bytes of a name with its prefix: what the specification has, and the largest that callers' models take.
pub const NAME_BYTES_MAX: usize = 128;
/// Changes that wait for a listener; one that is further behind is told to look at everything again.
const CHANGES_MAX: usize = 256;

/// How long servers may take to say whether they have a resource that no other has, and a single server to give a list.
const FIND_TIME_MAX: Duration = Duration::from_secs(10);

/// Whether a server may have this name: the first [`SEPARATOR`] of a prefixed name must be the one behind the server's. With a
/// server `a_`, its tool `echo` and the tool `_echo` of a server `a` would have the same name.
pub fn is_server_name(name: &str) -> bool {
    !name.starts_with('_') && !name.ends_with('_') && !name.contains(SEPARATOR)
}

/// The server's name in the name of a tool or a prompt, and the name that it has there; `None` if there is no [`SEPARATOR`] in it.
pub fn split_name(name: &str) -> Option<(&str, &str)> {
    name.split_once(SEPARATOR)
}

/// What a tool or a prompt of a server is called here; `None` if that is longer than [`NAME_BYTES_MAX`]. Names of a server
/// that has no prefix stay as they are.
pub fn prefixed(server: &str, name: &str) -> Option<String> {
    let whole = if server.is_empty() { name.to_owned() } else { format!("{server}{SEPARATOR}{name}") };
    (whole.len() <= NAME_BYTES_MAX).then_some(whole)
}

/// What can stand behind a gateway: a service that knows its lists.
pub trait Backend: Service {
    /// One of its lists, whole. Asked for whenever a list of the gateway's is, and to find out who has a resource; so it is
    /// kept, in [`Lists`] for instance. One that takes longer than [`LIST_TIME_MAX`] is not waited for: whoever goes on
    /// reading it tells of a change ([`Service::changes`]) when it is read.
    fn list(self: Arc<Self>, kind: Kind, caller: Arc<Caller>) -> BoxFuture<Result<Arc<List>, ErrorObject>>;

    /// The list as it was last read, to be shown instead of one that takes too long.
    fn last_list(&self, _kind: Kind) -> Option<Arc<List>> {
        None
    }
}

/// A server behind the gateway.
pub struct Origin {
    /// Its name ([`is_server_name`]); empty for what has no prefix.
    pub name: String,
    /// The server.
    pub service: Arc<dyn Backend>,
    /// Whether its tools are listed. Those that are not can be called all the same.
    pub lists_tools: bool,
}

/// An origin, and what it listens with.
struct Member {
    origin: Origin,
    /// Ends what watches it when it is taken out.
    _watched: tokio_util::sync::DropGuard,
}

/// Many servers as one. Give it to a [`crate::server::Server`].
pub struct Gateway {
    /// What it says about itself.
    description: Description,
    members: RwLock<Arc<Vec<Arc<Member>>>>,
    changes: broadcast::Sender<Change>,
    tasks: TaskTracker,
}

impl Gateway {
    /// A gateway with nothing behind it. To what it can do itself, the description's capabilities, comes what any server
    /// behind it may.
    pub fn new(mut description: Description) -> Gateway {
        description.capabilities = json!({
            "tools": { "listChanged": true },
            "prompts": { "listChanged": true },
            "resources": { "listChanged": true, "subscribe": true },
            "completions": {},
            "logging": {},
        });
        let changes = broadcast::channel(CHANGES_MAX).0;
        Gateway { description, members: RwLock::default(), changes, tasks: TaskTracker::new() }
    }

    /// Put these servers behind it, instead of those that were. Calls that are under way go on. A server whose name is none
    /// ([`is_server_name`]) is left out: its calls could go to another.
    pub fn set(&self, mut origins: Vec<Origin>) {
        origins.retain(|origin| {
            let may_be = is_server_name(&origin.name);
            if !may_be {
                tracing::error!(server = origin.name, "left out: a server cannot have this name");
            }
            may_be
        });
        origins.sort_by(|a, b| a.name.cmp(&b.name));
        origins.dedup_by(|b, a| a.name == b.name);
        let before = self.members();
        let kept = |origin: &Origin| {
            let same = |member: &&Arc<Member>| {
                member.origin.name == origin.name && Arc::ptr_eq(&member.origin.service, &origin.service)
            };
            before.iter().find(same).cloned()
        };
        let members = origins.into_iter().map(|origin| kept(&origin).unwrap_or_else(|| self.member(origin))).collect();
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(members);
        for change in [Change::Tools, Change::Prompts, Change::Resources] {
            let _ = self.changes.send(change); // nobody may listen
        }
    }

    fn member(&self, origin: Origin) -> Arc<Member> {
        let gone = CancellationToken::new();
        let mut changes = origin.service.changes();
        let member = Arc::new(Member { origin, _watched: gone.clone().drop_guard() });
        let all = self.changes.clone();
        self.tasks.spawn(async move {
            while let Some(change) = gone.run_until_cancelled(changes.recv()).await {
                let changes = match change {
                    Ok(change) => vec![change],
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        vec![Change::Tools, Change::Prompts, Change::Resources]
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                for change in changes {
                    let _ = all.send(change); // nobody may listen
                }
            }
        });
        member
    }

    fn members(&self) -> Arc<Vec<Arc<Member>>> {
        Arc::clone(&self.members.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Do something with the server that a name of a tool or a prompt belongs to, and its own name for it.
    fn with_owner<'a, T>(&self, name: &'a str, act: impl FnOnce(&Arc<dyn Backend>, &'a str) -> T) -> Option<T> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let of = |server: &str| members.iter().find(|member| member.origin.name == server);
        let prefixed = split_name(name).and_then(|(server, inner)| Some((of(server)?, inner)));
        let (member, inner) = prefixed.or_else(|| Some((of("")?, name)))?;
        Some(act(&member.origin.service, inner))
    }

    /// The server that a name of a tool or a prompt belongs to, and its own name for it.
    fn owner<'a>(&self, name: &'a str) -> Option<(Arc<dyn Backend>, &'a str)> {
        self.with_owner(name, |service, inner| (Arc::clone(service), inner))
    }

    /// The server that a call goes on to, under the server's own name.
    fn addressed(&self, mut call: Call) -> Result<(Arc<dyn Backend>, Call), ErrorObject> {
        let name = call.params.text("name").ok_or_else(|| invalid("params.name is missing"))?;
        let Some((service, inner)) = self.owner(&name) else {
            let what = if call.method == "tools/call" { "tool" } else { "prompt" };
            return Err(invalid(format!("there is no {what} {name:?} here")));
        };
        if inner != name {
            let inner = to_raw_value(inner).map_err(|error| invalid(error.to_string()))?;
            call.params.set("name", inner);
        }
        Ok((service, call))
    }

    async fn read(&self, call: Call, peer: Peer) -> Outcome {
        let uri: String = call.params.read("uri").ok_or_else(|| invalid("params.uri is missing"))?;
        let member = self.owner_of_uri(&uri, &call.caller).await.ok_or_else(|| no_resource(&uri))?;
        Arc::clone(&member.origin.service).handle(call, peer).await
    }

    /// The first server that lists this URI, or a template that it fits.
    async fn owner_of_uri(&self, uri: &str, caller: &Arc<Caller>) -> Option<Arc<Member>> {
        let members = self.members();
        // Who is slow is waited for only if nobody else has it.
        for time_max in [LIST_TIME_MAX, FIND_TIME_MAX] {
            let mut is_whole = true;
            for kind in [Kind::Resources, Kind::Templates] {
                let all = merged::all(&members, kind, caller, time_max).await;
                let has = |(_, list): &&(Arc<Member>, Arc<List>)| list.has_uri(kind, uri);
                if let Some((member, _)) = all.lists.iter().find(has) {
                    return Some(Arc::clone(member));
                }
                is_whole &= all.is_whole;
            }
            if is_whole {
                break;
            }
        }
        None
    }

    async fn complete(&self, mut call: Call, peer: Peer) -> Outcome {
        let about = call.params.get("ref").and_then(Members::parse).map(Members::into_owned);
        let mut about = about.ok_or_else(|| invalid("params.ref is missing"))?;
        let service = match (about.read::<String>("name"), about.read::<String>("uri")) {
            (Some(name), _) => {
                let (service, inner) =
                    self.owner(&name).ok_or_else(|| invalid(format!("there is no prompt {name:?} here")))?;
                about.put("name", inner);
                call.params.set("ref", about.into_raw());
                service
            }
            (None, Some(uri)) => {
                let member = self.owner_of_uri(&uri, &call.caller).await.ok_or_else(|| no_resource(&uri))?;
                Arc::clone(&member.origin.service)
            }
            (None, None) => return Err(invalid("params.ref has neither name nor uri")),
        };
        service.handle(call, peer).await
    }

    async fn list(&self, kind: Kind, call: Call) -> Outcome {
        let cursor = call.params.read::<String>("cursor");
        let after = cursor
            .as_deref()
            .map(|cursor| {
                cursor::read(cursor)
                    .ok_or_else(|| invalid("params.cursor is not one of this server's; begin without it"))
            })
            .transpose()?;
        let members = self.members();
        // A single server holds nobody up.
        let time_max = if members.len() == 1 { FIND_TIME_MAX } else { LIST_TIME_MAX };
        let mut all = merged::all(&members, kind, &call.caller, time_max).await.lists;
        all.retain(|(member, _)| kind != Kind::Tools || member.origin.lists_tools);
        let page = merged::page(kind, &all, after);
        to_raw_value(&page).map_err(|error| ErrorObject::new(code::INTERNAL_ERROR, error.to_string()))
    }
}

fn invalid(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(code::INVALID_PARAMS, message)
}

fn no_resource(uri: &str) -> ErrorObject {
    invalid("there is no such resource").with_data(&json!({ "uri": uri }))
}

impl Service for Gateway {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> BoxFuture<Outcome> {
        if matches!(&*call.method, "tools/call" | "prompts/get") {
            // The gateway has nothing more to do with it.
            return match self.addressed(call) {
                Ok((service, call)) => service.handle(call, peer),
                Err(error) => Box::pin(std::future::ready(Err(error))),
            };
        }
        Box::pin(async move {
            match &*call.method {
                "resources/read" => self.read(call, peer).await,
                "completion/complete" => self.complete(call, peer).await,
                "tools/list" => self.list(Kind::Tools, call).await,
                "prompts/list" => self.list(Kind::Prompts, call).await,
                "resources/list" => self.list(Kind::Resources, call).await,
                "resources/templates/list" => self.list(Kind::Templates, call).await,
                method => Err(ErrorObject::new(code::METHOD_NOT_FOUND, format!("there is no method {method:?}"))),
            }
        })
    }

    fn watch(self: Arc<Self>, uri: String, caller: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async move {
            let member = self.owner_of_uri(&uri, &caller).await.ok_or_else(|| no_resource(&uri))?;
            Arc::clone(&member.origin.service).watch(uri, caller).await
        })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn may_repeat(&self, tool: &str) -> bool {
        self.with_owner(tool, |service, inner| service.may_repeat(inner)).unwrap_or_default()
    }

    fn header_arguments(&self, tool: &str) -> Vec<HeaderArgument> {
        self.with_owner(tool, |service, inner| service.header_arguments(inner)).unwrap_or_default()
    }
}
