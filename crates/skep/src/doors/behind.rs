//! The MCP servers behind this hub, as services for the gateway.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use serde_json::json;
use skep_mcp::{
    client::CallError,
    gateway::{Origin, Request, change},
    message::{ErrorObject, Notification},
    server::{BoxFuture, Call, Caller, Change, Description, Outcome, Peer, Service, Watch, code},
};
use tokio::sync::broadcast;

use crate::upstreams::{Handler, Options, Upstream, UpstreamError, Upstreams};

/// Changes that wait for a listener; one that is further behind is told to look at everything again.
const CHANGES_MAX: usize = 256;

/// What servers say on their own account, for whoever listens to one of them.
#[derive(Default)]
pub(super) struct Heard {
    changes: RwLock<HashMap<String, broadcast::Sender<Change>>>,
}

impl Heard {
    fn changes(&self, server: &str) -> broadcast::Sender<Change> {
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        changes.entry(server.to_owned()).or_insert_with(|| broadcast::channel(CHANGES_MAX).0).clone()
    }
}

impl Handler for Heard {
    fn notification(&self, server: &str, notification: Notification) {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(changes), Some(change)) = (changes.get(server), change(&notification)) {
            let _ = changes.send(change); // nobody may listen
        }
    }
}

/// What stands behind the gateway: these servers of the pool, with the tools that are allowed.
pub(super) fn origins(upstreams: &Upstreams, configs: &[Upstream], heard: &Heard) -> Vec<Origin> {
    let origin = |config: &Upstream| {
        let (name, tools) = (config.name.clone(), config.tools.clone());
        let service = Arc::new(Behind {
            upstreams: upstreams.clone(),
            changes: heard.changes(&name),
            name: name.clone(),
            watched: RwLock::default(),
        });
        Origin { name, service, allows: Box::new(move |tool| tools.allows(tool)) }
    };
    configs.iter().map(origin).collect()
}

/// One of them.
struct Behind {
    upstreams: Upstreams,
    name: String,
    changes: broadcast::Sender<Change>,
    /// The resources that somebody watches: the server is told once.
    watched: RwLock<HashMap<String, Weak<Watched>>>,
}

impl Service for Behind {
    fn describe(&self) -> Description {
        Description { info: json!({ "name": self.name }), capabilities: json!({}), instructions: None }
    }

    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> BoxFuture<Outcome> {
        Box::pin(async move {
            let caller = call.caller.session.clone().unwrap_or_else(|| Arc::clone(&call.caller.principal));
            let times = self.upstreams.call_options(&self.name).map_err(failed)?;
            let Request { method, params, options, cancel } = Request::new(call, peer, times);
            let options = Options { caller, call: Some(options) };
            let called = cancel.run_until_cancelled(self.upstreams.call(&self.name, &method, params, options)).await;
            let withdrawn = || ErrorObject::new(code::INTERNAL_ERROR, "the caller withdrew");
            called.ok_or_else(withdrawn)?.map_err(failed)
        })
    }

    fn watch(self: Arc<Self>, uri: String, _: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async move {
            let known = self.watched.read().unwrap_or_else(PoisonError::into_inner).get(&uri).and_then(Weak::upgrade);
            if let Some(shared) = known {
                return Ok(Box::new(shared) as Watch);
            }
            self.upstreams.watch(&self.name, &uri).await.map_err(failed)?;
            let shared = Arc::new(Watched { behind: Arc::clone(&self), uri: uri.clone() });
            let mut watched = self.watched.write().unwrap_or_else(PoisonError::into_inner);
            watched.retain(|_, watch| watch.strong_count() > 0);
            watched.insert(uri, Arc::downgrade(&shared));
            Ok(Box::new(shared) as Watch)
        })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

/// Stops watching when it goes.
struct Watched {
    behind: Arc<Behind>,
    uri: String,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (behind, uri) = (Arc::clone(&self.behind), std::mem::take(&mut self.uri));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(async move { behind.upstreams.unwatch(&behind.name, &uri).await }));
        }
    }
}

/// Why a server gave no result, in the terms of the protocol. What it said itself stays as it is.
fn failed(error: UpstreamError) -> ErrorObject {
    match error {
        UpstreamError::Call { error: CallError::Rpc(error), .. } => error,
        UpstreamError::Unknown { .. } | UpstreamError::Denied { .. } => {
            ErrorObject::new(code::INVALID_PARAMS, error.to_string())
        }
        UpstreamError::Busy { .. } => ErrorObject::new(code::BUSY, error.to_string()),
        UpstreamError::Unavailable { retry_after, .. } => {
            let data = json!({ "retryAfterMs": u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX) });
            ErrorObject::new(code::INTERNAL_ERROR, error.to_string()).with_data(&data)
        }
        UpstreamError::Call { .. } => ErrorObject::new(code::INTERNAL_ERROR, error.to_string()),
    }
}
