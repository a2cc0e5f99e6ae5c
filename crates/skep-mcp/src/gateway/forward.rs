//! A call that goes on to another server, whatever revision it speaks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures_util::future::BoxFuture;
use tokio::sync::broadcast;

use super::{Backend, CHANGES_MAX, Kind, List, Lists, Wanted};
use crate::{
    client::{CallError, CallOptions, Connection, Handler},
    framing::Held,
    message::{self, ErrorObject, Id, Method, Notification},
    server::{
        self, Call, Caller, Change, Description, Members, Outcome, Peer, Service, Watch, code, headers::HeaderArgument,
        tasks,
    },
};

/// Hand a call to the server at the other end. What that server sends meanwhile goes to the caller: progress and log
/// messages, and its questions, as far as the caller declared that it answers such.
pub async fn forward(connection: &Connection, call: Call, peer: Peer, options: CallOptions) -> Outcome {
    let Request { method, params, options } = Request::new(call, peer, options);
    connection.call(&method, params, options).await.map_err(|error| match error {
        CallError::Rpc(error) => error,
        CallError::NoRoom(none) => ErrorObject::new(code::BUSY, none.to_string()),
        error => ErrorObject::new(code::INTERNAL_ERROR, error.to_string()),
    })
}

/// A call as it goes on to another server. A caller that withdraws drops it, which is enough.
pub struct Request {
    /// The method.
    pub method: Method,
    /// The parameters.
    pub params: Members<'static>,
    /// What is asked for beside the result: progress and questions go to the caller.
    pub options: CallOptions,
}

impl Request {
    /// What a call becomes, with the times of `options`.
    pub fn new(call: Call, peer: Peer, options: CallOptions) -> Request {
        let Call { method, mut params, caller } = call;
        // A session's log level goes with each request to a server of 2026-07-28; others are not shown it.
        if !caller.revision.is_modern()
            && let Some(level) = peer.level()
        {
            let mut meta = params.get("_meta").and_then(Members::parse).unwrap_or_default();
            meta.put("io.modelcontextprotocol/logLevel", level);
            let meta = meta.into_raw();
            params.set("_meta", meta);
        }
        let capabilities = tasks::undeclared_in(&caller.capabilities); // a task of that server would be nobody's here
        let options = CallOptions {
            wants_progress: peer.wants_progress(),
            capabilities: Some(capabilities),
            handler: Some(Arc::new(Relay(peer))),
            ..options
        };
        Request { method, params, options }
    }
}

/// Passes on what a server sends because of a call.
struct Relay(Peer);

impl Handler for Relay {
    fn notification(&self, notification: Notification) {
        if let (true, Some(params)) =
            (matches!(&*notification.method, "notifications/progress" | "notifications/message"), notification.params)
        {
            self.0.notify(notification.method, params);
        }
    }

    /// An id that is a text may mean something to the caller. A number tells only how much the server asked others.
    fn request(&self, message::Request { id, method, params }: message::Request) -> BoxFuture<'static, Outcome> {
        let peer = self.0.clone();
        let name = match id {
            Id::String(name) => Some(name),
            Id::Number(_) => None,
        };
        let params = params.unwrap_or_else(|| Members::default().into_raw());
        Box::pin(async move { peer.request_as(name, &method, params).await })
    }

    fn principal(&self) -> &str {
        self.0.caller().principal.name()
    }

    fn keep(&self, held: Held) {
        self.0.keep(held);
    }
}

/// A connection as a service: what stands behind a gateway when nobody keeps a pool.
pub struct Remote {
    connection: Connection,
    heard: Arc<Heard>,
    /// The resources that somebody watches: the server is told once.
    watched: Mutex<HashMap<String, Weak<Watched>>>,
}

impl Remote {
    /// The server at the other end of a connection that was made with this handler.
    pub fn new(connection: Connection, heard: Arc<Heard>) -> Remote {
        Remote { connection, heard, watched: Mutex::default() }
    }
}

/// The handler of a connection that becomes a [`Remote`]: what it hears of changes, and what it has listed.
pub struct Heard {
    changes: broadcast::Sender<Change>,
    lists: Lists,
}

impl Default for Heard {
    fn default() -> Heard {
        Heard { changes: broadcast::channel(CHANGES_MAX).0, lists: Lists::default() }
    }
}

impl Handler for Heard {
    fn notification(&self, notification: Notification) {
        if let Some(change) = change(&notification) {
            self.lists.forget(&change);
            let _ = self.changes.send(change); // nobody may listen
        }
    }
}

/// The change that a notification tells of.
pub fn change(notification: &Notification) -> Option<Change> {
    match &*notification.method {
        "notifications/tools/list_changed" => Some(Change::Tools),
        "notifications/prompts/list_changed" => Some(Change::Prompts),
        "notifications/resources/list_changed" => Some(Change::Resources),
        "notifications/resources/updated" => {
            let params = notification.params.as_deref().and_then(Members::parse)?;
            params.read("uri").map(Change::Resource)
        }
        _ => None,
    }
}

/// Stops watching when it goes.
struct Watched {
    connection: Connection,
    uri: String,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (connection, uri) = (self.connection.clone(), std::mem::take(&mut self.uri));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            #[expect(clippy::let_underscore_future, reason = "nobody can wait for the end of a watch")]
            let _ = runtime.spawn(async move { connection.unwatch(&uri).await });
        }
    }
}

impl Service for Remote {
    fn describe(&self) -> Description {
        let info = self.connection.info();
        Description {
            info: info.server.clone().unwrap_or_default(),
            capabilities: info.capabilities.clone(),
            instructions: info.instructions.clone(),
        }
    }

    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> server::BoxFuture<Outcome> {
        Box::pin(async move { forward(&self.connection, call, peer, CallOptions::default()).await })
    }

    fn watch(self: Arc<Self>, uri: String, _: Arc<Caller>) -> server::BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async move {
            let watched = || self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(shared) = watched().get(&uri).and_then(Weak::upgrade) {
                return Ok(Box::new(shared) as Watch);
            }
            match self.connection.watch(&uri).await {
                Ok(()) => {}
                Err(CallError::Rpc(error)) => return Err(error),
                Err(error) => return Err(ErrorObject::new(code::INTERNAL_ERROR, error.to_string())),
            }
            let shared = Arc::new(Watched { connection: self.connection.clone(), uri: uri.clone() });
            let mut watched = watched();
            watched.retain(|_, watch| watch.strong_count() > 0);
            watched.insert(uri, Arc::downgrade(&shared));
            Ok(Box::new(shared) as Watch)
        })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.heard.changes.subscribe()
    }

    fn may_repeat(&self, tool: &str) -> bool {
        self.heard.lists.may_repeat(tool)
    }

    fn header_arguments(&self, tool: &str) -> Vec<HeaderArgument> {
        self.heard.lists.header_arguments(tool)
    }
}

impl Backend for Remote {
    fn list(self: Arc<Self>, kind: Kind, _: Arc<Caller>) -> server::BoxFuture<Result<Arc<List>, ErrorObject>> {
        Box::pin(async move {
            let mut reading = match self.heard.lists.want(kind).await {
                Wanted::Known(list) => return Ok(list),
                Wanted::Unknown(reading) => reading,
            };
            let fault = |message: String| ErrorObject::new(code::INTERNAL_ERROR, message);
            while let Some(params) = reading.next_page() {
                match self.connection.call(kind.method(), params, CallOptions::default()).await {
                    Ok(page) => reading.add(&page).map_err(fault)?,
                    Err(CallError::Rpc(error)) if error.code == code::METHOD_NOT_FOUND => reading.end(),
                    Err(CallError::Rpc(error)) => return Err(error),
                    Err(error) => return Err(fault(error.to_string())),
                }
            }
            Ok(reading.keep(kind.is_announced(&self.connection.info().capabilities)))
        })
    }
}
