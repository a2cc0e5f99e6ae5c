//! `subscriptions/listen` (2026-07-28): one request that stays open and is told of changes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::{Value, json, value::to_raw_value};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    Caller, Change, Inner, Members, Principal, Watch, code,
    modern::{Answer, Frame},
    sink::{self, Text},
    tasks::{self, Task, Tasks},
};
use crate::{
    framing::NoMemory,
    message::{ErrorObject, Id},
};

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// How long a notification waits for memory before it is looked for again.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// An open request.
pub(super) struct Listener {
    id: Id,
    wanted: Wanted,
    changes: broadcast::Receiver<Change>,
    _watches: Vec<Watch>,
    tasks: Option<WatchedTasks>,
    /// Tasks that have changed and were not looked at yet.
    changed: VecDeque<Arc<str>>,
    ready: VecDeque<Frame>,
    ended: bool,
    server: Arc<Inner>,
    stop: CancellationToken,
    principal: Arc<dyn Principal>,
    gone: broadcast::Receiver<Arc<str>>,
    _counted: OwnedSemaphorePermit,
}

/// What the caller wants to hear of.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wanted {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
    /// Tasks, with the extension of that name.
    task_ids: Option<Vec<String>>,
}

/// The tasks that a listener hears of.
struct WatchedTasks {
    tasks: Arc<Tasks>,
    changes: broadcast::Receiver<Arc<str>>,
}

impl WatchedTasks {
    /// The next task that has changed; `None` if some were missed. Never ends where nothing is watched.
    async fn next(watched: &mut Option<WatchedTasks>) -> Option<Arc<str>> {
        match watched {
            Some(watched) => watched.changes.recv().await.ok(),
            None => std::future::pending().await,
        }
    }
}

impl Listener {
    /// Begin to listen. What cannot be honoured is left out of the acknowledgement.
    pub(super) async fn open(
        server: &Arc<Inner>,
        id: Id,
        params: &Members<'_>,
        caller: &Arc<Caller>,
    ) -> Result<Listener, ErrorObject> {
        let invalid = |message: String| ErrorObject::new(code::INVALID_PARAMS, message);
        let wanted =
            params.get("notifications").ok_or_else(|| invalid("params.notifications is missing".to_owned()))?;
        let mut wanted: Wanted = serde_json::from_str(wanted.get())
            .map_err(|error| invalid(format!("params.notifications does not fit: {error}")))?;
        let watches_max = server.limits.watches_max;
        if wanted.resource_subscriptions.len() > watches_max {
            return Err(invalid(format!("at most {watches_max} resources can be watched by one request")));
        }
        wanted.resource_subscriptions.iter().try_for_each(|uri| super::check_uri(uri))?;
        let tasks = watch_tasks(server, &wanted, caller)?;
        let counted = Arc::clone(&server.listeners).try_acquire_owned().map_err(|_| {
            let message = "too many listeners are open; close one, or try again later";
            ErrorObject::new(code::BUSY, message)
        })?;
        let gone = server.gone.subscribe();
        let changes = server.service.changes(); // before anything is acknowledged, so that nothing is missed
        let (mut watches, mut watched) = (Vec::new(), Vec::new());
        for uri in std::mem::take(&mut wanted.resource_subscriptions) {
            let service = Arc::clone(&server.service);
            if let Ok(watch) = service.watch(uri.clone(), Arc::clone(caller)).await {
                watches.push(watch);
                watched.push(uri);
            }
        }
        wanted.resource_subscriptions = watched;
        let mut listener = Listener {
            id,
            wanted,
            changes,
            _watches: watches,
            tasks,
            changed: VecDeque::new(),
            ready: VecDeque::new(),
            ended: false,
            server: Arc::clone(server),
            stop: server.stop.clone(),
            principal: Arc::clone(&caller.principal),
            gone,
            _counted: counted,
        };
        let mut known = Vec::new();
        for id in std::mem::take(&mut listener.wanted.task_ids).into_iter().flatten() {
            if listener.task(&id).await.is_some() {
                known.push(id);
            }
        }
        // What happened between the handle and now would be missed otherwise.
        listener.changed = known.iter().map(|id| Arc::from(id.as_str())).collect();
        listener.wanted.task_ids = listener.tasks.is_some().then_some(known);
        let acknowledged = listener.wanted.acknowledged();
        listener.say("notifications/subscriptions/acknowledged", json!({ "notifications": acknowledged }));
        Ok(listener)
    }

    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            if let Some(id) = self.changed.front().cloned() {
                let stop = self.stop.clone();
                // Whoever waits for a frame may stop waiting here, and come back.
                match stop.run_until_cancelled(self.look_at(&id)).await {
                    None => self.end(),
                    Some(Err(_)) => drop(stop.run_until_cancelled(sleep(ROOM_PAUSE)).await),
                    Some(Ok(told)) => {
                        self.changed.pop_front();
                        self.ready.extend(told.map(Frame::Notification));
                    }
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => self.end(),
                gone = self.gone.recv() => match gone {
                    Ok(principal) if *principal != *self.principal.name() => {}
                    Ok(_) | Err(_) => self.end(),
                },
                changed = WatchedTasks::next(&mut self.tasks) => self.changed(changed),
                change = self.changes.recv() => match change {
                    Ok(change) => self.tell(&change),
                    // It did not keep up: whatever it missed, it must look again.
                    Err(broadcast::error::RecvError::Lagged(_)) => self.tell_all(),
                    Err(broadcast::error::RecvError::Closed) => self.end(),
                },
            }
        }
    }

    /// A task that is listened to, as it is; `None` if there is none, or the store cannot say.
    async fn task(&self, id: &str) -> Option<Task> {
        let WatchedTasks { tasks, .. } = self.tasks.as_ref()?;
        tasks.get(&self.principal, id).await.ok()
    }

    /// What to tell of a task, as it is now. It may have a large result.
    async fn look_at(&self, id: &str) -> Result<Option<Text>, NoMemory> {
        let _reading = self.server.reading.acquire().await;
        let Some(task) = self.task(id).await else { return Ok(None) };
        let text = self.text("notifications/tasks", task.detailed());
        let Some(memory) = self.server.limits.memories.of(self.principal.name()) else { return Ok(Some(text.into())) };
        let mut held = None;
        memory.hold(&mut held, text.len())?;
        Ok(Some(Text::from(text).holding(held)))
    }

    /// Look at a task that has changed, or at all of them.
    fn changed(&mut self, changed: Option<Arc<str>>) {
        let wanted = self.wanted.task_ids.iter().flatten().map(String::as_str);
        let wanted = wanted.filter(|id| changed.as_deref().is_none_or(|changed| changed == *id));
        let new: Vec<Arc<str>> = wanted.map(Arc::from).filter(|id| !self.changed.contains(id)).collect();
        self.changed.extend(new);
    }

    fn tell_all(&mut self) {
        let resources = self.wanted.resource_subscriptions.clone().into_iter().map(Change::Resource);
        for change in [Change::Tools, Change::Prompts, Change::Resources].into_iter().chain(resources) {
            self.tell(&change);
        }
    }

    fn tell(&mut self, change: &Change) {
        let wanted = &self.wanted;
        let is_wanted = match change {
            Change::Tools => wanted.tools_list_changed,
            Change::Prompts => wanted.prompts_list_changed,
            Change::Resources => wanted.resources_list_changed,
            Change::Resource(uri) => wanted.resource_subscriptions.contains(uri),
        };
        if is_wanted {
            let (method, params) = change.notification();
            self.say(method, params);
        }
    }

    /// Every message carries the request's id, in its own type.
    fn say(&mut self, method: &str, params: Value) {
        if let Some(params) = to_raw_value(&params).ok().as_deref().and_then(Members::parse) {
            let text = self.text(method, params);
            self.ready.push_back(Frame::Notification(text.into()));
        }
    }

    fn text(&self, method: &str, mut params: Members<'_>) -> String {
        params.put("_meta", self.meta());
        sink::notification(method, &params.into_raw())
    }

    fn end(&mut self) {
        self.ended = true;
        let result = to_raw_value(&json!({ "resultType": "complete", "_meta": self.meta() }));
        let outcome = result.map_err(|error| ErrorObject::new(code::INTERNAL_ERROR, error.to_string()));
        self.ready.push_back(Frame::Answer(Answer { text: Text::response(&self.id, outcome), status: 200 }));
    }

    fn meta(&self) -> Value {
        json!({ SUBSCRIPTION_ID: self.id })
    }
}

impl Wanted {
    /// The part that is honoured, in the form of the request.
    fn acknowledged(&self) -> Value {
        let mut part = serde_json::Map::new();
        for (name, wanted) in [
            ("toolsListChanged", self.tools_list_changed),
            ("promptsListChanged", self.prompts_list_changed),
            ("resourcesListChanged", self.resources_list_changed),
        ] {
            if wanted {
                part.insert(name.to_owned(), true.into());
            }
        }
        if !self.resource_subscriptions.is_empty() {
            let uris: Vec<&str> = self.resource_subscriptions.iter().map(String::as_str).collect();
            part.insert("resourceSubscriptions".to_owned(), uris.into());
        }
        if let Some(ids) = &self.task_ids {
            part.insert("taskIds".to_owned(), ids.clone().into());
        }
        part.into()
    }
}

/// Begin to hear of tasks, if some are wanted. A server without them honours none.
fn watch_tasks(server: &Inner, wanted: &Wanted, caller: &Caller) -> Result<Option<WatchedTasks>, ErrorObject> {
    let (Some(ids), Some(tasks)) = (&wanted.task_ids, &server.durable) else { return Ok(None) };
    if !tasks::is_declared(caller) {
        return Err(tasks::undeclared("params.notifications.taskIds"));
    }
    if ids.len() > tasks::WATCHED_MAX {
        let message = format!("at most {} tasks can be watched by one request", tasks::WATCHED_MAX);
        return Err(ErrorObject::new(code::INVALID_PARAMS, message));
    }
    Ok(Some(WatchedTasks { tasks: Arc::clone(tasks), changes: tasks.changes() }))
}

impl Change {
    /// The notification that tells of it.
    pub(super) fn notification(&self) -> (&'static str, Value) {
        match self {
            Change::Tools => ("notifications/tools/list_changed", json!({})),
            Change::Prompts => ("notifications/prompts/list_changed", json!({})),
            Change::Resources => ("notifications/resources/list_changed", json!({})),
            Change::Resource(uri) => ("notifications/resources/updated", json!({ "uri": uri })),
        }
    }
}
