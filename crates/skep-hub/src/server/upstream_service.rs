//! The MCP servers behind this hub, as services for the gateway.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, Weak},
};

use serde_json::json;
use skep_core::policy::{self, Right};
use skep_mcp::{
    client::CallError,
    gateway::{Backend, Kind, List, Request, SEPARATOR},
    message::ErrorObject,
    server::{
        BoxFuture, Call, Caller, Change, Description, Outcome, Peer, Service, Watch, code, headers::HeaderArgument,
    },
};
use tokio::sync::broadcast;

use super::mcp::{may_read, not_done, queue_of, refused};
use crate::hub::{
    admission::Refused,
    calls::{Calls, NotForwarded},
    principals::actor_of,
    upstreams::{Options, Server, UpstreamError, tool},
};

/// One of them.
pub(super) struct UpstreamService {
    calls: Arc<Calls>,
    server: Arc<Server>,
    /// The resources that somebody watches: the server is told once.
    watched: RwLock<HashMap<String, Weak<Watched>>>,
}

impl UpstreamService {
    pub(super) fn new(calls: &Arc<Calls>, server: Arc<Server>) -> UpstreamService {
        UpstreamService { calls: Arc::clone(calls), server, watched: RwLock::default() }
    }

    /// What the tool that is called has for a name at this hub.
    fn name_here(&self, call: &Call) -> String {
        [self.server.name(), SEPARATOR, &call.params.text("name").unwrap_or_default()].concat()
    }

    /// Hand something on that takes this right. `tool`: the tool that it calls, if it does.
    async fn forward<R: Right>(self: Arc<Self>, call: Call, peer: Peer, tool: Option<String>) -> Outcome {
        let actor = actor_of(&call.caller.principal);
        let permit = self.calls.authorise::<R>(&actor, tool.as_deref()).map_err(refused)?;
        let caller = queue_of(&call.caller, &actor);
        let Request { method, params, options } = Request::new(call, peer, self.server.call_options());
        let options = Options { caller, call: Some(options), actor: Some(actor) };
        let forwarded = self.calls.forward(&permit, tool, &self.server, &method, params, options);
        match forwarded.await {
            Ok(result) => Ok(result),
            // For the model to read, as every failure of a tool.
            Err(NotForwarded::Upstream(UpstreamError::NotClaimed(error))) => not_done(*error),
            Err(NotForwarded::Refused(error)) => Err(refused(error)),
            Err(NotForwarded::Cancelled) => Err(refused(Refused::Draining)),
            Err(NotForwarded::Upstream(error)) => Err(failed(error)),
        }
    }
}

impl Service for UpstreamService {
    fn describe(&self) -> Description {
        Description { info: json!({ "name": self.server.name() }), capabilities: json!({}), instructions: None }
    }

    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> BoxFuture<Outcome> {
        if *call.method == *tool::METHOD {
            let tool = self.name_here(&call);
            return Box::pin(self.forward::<policy::Call>(call, peer, Some(tool)));
        }
        Box::pin(self.forward::<policy::Read>(call, peer, None))
    }

    fn watch(self: Arc<Self>, uri: String, caller: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async move {
            may_read(&caller)?;
            let known = self.watched.read().unwrap_or_else(PoisonError::into_inner).get(&uri).and_then(Weak::upgrade);
            if let Some(shared) = known {
                return Ok(Box::new(shared) as Watch);
            }
            self.server.watch(&uri).await.map_err(failed)?;
            let shared = Arc::new(Watched { behind: Arc::clone(&self), uri: uri.clone() });
            let mut watched = self.watched.write().unwrap_or_else(PoisonError::into_inner);
            watched.retain(|_, watch| watch.strong_count() > 0);
            watched.insert(uri, Arc::downgrade(&shared));
            Ok(Box::new(shared) as Watch)
        })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.server.changes()
    }

    fn may_repeat(&self, tool: &str) -> bool {
        self.server.lists().may_repeat(tool)
    }

    fn header_arguments(&self, tool: &str) -> Vec<HeaderArgument> {
        self.server.lists().header_arguments(tool)
    }
}

impl Backend for UpstreamService {
    fn list(self: Arc<Self>, kind: Kind, caller: Arc<Caller>) -> BoxFuture<Result<Arc<List>, ErrorObject>> {
        Box::pin(async move {
            let actor = actor_of(&caller.principal);
            let permit = self.calls.authorise::<policy::Read>(&actor, None).map_err(refused)?;
            let pass = self.calls.admission.pass(&permit).map_err(refused)?;
            let key = queue_of(&caller, &actor);
            let listing = self.server.list(kind, &key, &actor.principal);
            let listed = pass.cancel.run_until_cancelled(listing).await;
            listed.ok_or_else(|| refused(Refused::Draining))?.map_err(failed)
        })
    }

    fn last_list(&self, kind: Kind) -> Option<Arc<List>> {
        self.server.last_list(kind)
    }
}

/// Stops watching when it goes.
struct Watched {
    behind: Arc<UpstreamService>,
    uri: String,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (behind, uri) = (Arc::clone(&self.behind), std::mem::take(&mut self.uri));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(async move { behind.server.unwatch(&uri).await }));
        }
    }
}

/// Why a server gave no result, in the terms of the protocol. What it said itself stays as it is.
fn failed(error: UpstreamError) -> ErrorObject {
    match error {
        UpstreamError::Call { error: CallError::Rpc(error), .. } => error,
        UpstreamError::Call { error: CallError::NoRoom(_), .. } => ErrorObject::new(code::BUSY, error.to_string()),
        UpstreamError::Unknown { .. } | UpstreamError::Denied { .. } | UpstreamError::Shared { .. } => {
            ErrorObject::new(code::INVALID_PARAMS, error.to_string())
        }
        UpstreamError::Busy { .. } | UpstreamError::Unlisted { .. } => ErrorObject::new(code::BUSY, error.to_string()),
        UpstreamError::NotClaimed(_) => ErrorObject::new(code::INVALID_PARAMS, error.to_string()),
        UpstreamError::Unavailable { retry_after, .. } => {
            let data = json!({ "retryAfterMs": u64::try_from(retry_after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX) });
            ErrorObject::new(code::INTERNAL_ERROR, error.to_string()).with_data(&data)
        }
        UpstreamError::Call { .. } => ErrorObject::new(code::INTERNAL_ERROR, error.to_string()),
    }
}
