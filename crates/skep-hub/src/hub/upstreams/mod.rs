//! The MCP servers behind this hub: one of each, shared by all callers.
//!
//! A server is started when it is first called, whoever calls meanwhile waits for the same start, and it is stopped when
//! nobody has called it for a while. One that dies fails the calls that it had, at once and with its last words, and is
//! started again by the next call: after a while, if it keeps dying, and after a long one, if it never comes up. Servers
//! know nothing of each other, and neither do their callers.
//!
//! [`servers`] says which servers there are, [`logins`] what their tokens are got for, `open` connects to one, `process`
//! starts and ends its process, `lifecycle` decides when, and `pool` does it.
//! What a call means (names of tools, revisions of callers) is decided above.

mod claimed;
mod counts;
mod environment;
mod error;
mod exclusive;
mod fair;
mod guard;
mod lifecycle;
pub mod logins;
mod open;
pub(crate) mod passed;
mod pool;
mod process;
mod processes;
pub(crate) mod tool;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{FutureExt as _, Shared, join_all};
use memchr::memmem;
use serde_json::value::RawValue;
use skep_core::{app::App, policy::Actor};
use skep_mcp::{
    client::{self, CallError, CallOptions, Connection, Info},
    framing::Memories,
    gateway::{Kind, LIST_TIME_MAX, List, Lists, Wanted, change},
    message::Notification,
    server::{Change, LOCAL, Members, code},
};
use skep_tools::schema::suggest;
use tokio::{
    sync::{broadcast, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use self::{claimed::Claimed, counts::Counts, fair::Queue, logins::Logins, pool::Slot};
pub use self::{error::UpstreamError, exclusive::Restarts, guard::init};
use crate::config::servers;
pub use crate::config::servers::Upstream;

/// Changes that wait for a listener; one that is further behind is told to look at everything again.
const CHANGES_MAX: usize = 256;
/// Calls that wait for one server.
const WAITING_MAX: usize = 1024;

/// How old the list of a server may be that is stopped because nobody needs it: a process that does not run changes nothing,
/// but its program may be replaced.
const RESTING_LIST_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Who calls, and what is asked for.
#[derive(Clone, Default)]
pub struct Options {
    /// Whose turn it is in the queue, and whose process it is where a server is not shared.
    pub caller: Arc<str>,
    /// Times, progress, and who hears what belongs to the call; the server's own times if `None`.
    pub call: Option<CallOptions>,
    /// On whose behalf, for tools that require a claim. Nobody has any.
    pub actor: Option<Arc<Actor>>,
}

/// How a server is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody needs it.
    Stopped,
    /// It is being started.
    Starting,
    /// It takes calls.
    Running,
    /// It wants a login, and nobody has logged in.
    NeedsLogin,
    /// It failed, and is not started again before this time has passed.
    Waiting(Duration),
    /// It failed to come up so often that it is left alone for this time.
    Quarantined(Duration),
    /// It cannot be used as it is configured ([`Upstream::unusable`]).
    Disabled,
}

impl State {
    /// In one word.
    pub fn name(&self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Starting => "starting",
            State::Running => "running",
            State::NeedsLogin => "needs_login",
            State::Waiting(_) => "waiting",
            State::Quarantined(_) => "quarantined",
            State::Disabled => "disabled",
        }
    }

    /// How long it is left alone, if it is.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            State::Waiting(wait) | State::Quarantined(wait) => Some(*wait),
            State::Stopped | State::Starting | State::Running | State::NeedsLogin | State::Disabled => None,
        }
    }
}

/// A call that a server answered.
#[derive(Debug)]
pub struct Called {
    /// Its result.
    pub result: Box<RawValue>,
    /// It is the result of a tool that calls it an error (`isError`).
    pub has_failed: bool,
}

/// Whether a tool calls its result an error. Most results are without the word, and need not be taken apart.
fn says_error(result: &RawValue) -> bool {
    memmem::find(result.get().as_bytes(), b"\"isError\"").is_some()
        && Members::parse(result).and_then(|members| members.read("isError")) == Some(true)
}

/// A server, as people want to see it.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// How it is doing; of a server that is not shared, the process that is doing best.
    pub state: State,
    /// Its processes.
    pub pids: Vec<u32>,
    /// Calls that it is working on.
    pub in_flight: usize,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// How often it was started.
    pub starts: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// The last lines of its standard error.
    pub stderr: Vec<String>,
    /// What it says about itself, once it runs.
    pub info: Option<Info>,
}

/// All servers. Clones share them.
#[derive(Clone, Default)]
pub struct Upstreams {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    servers: Mutex<BTreeMap<String, Arc<Server>>>,
    logins: Option<Logins>,
    answers: Answers,
    claims: Claims,
}

/// Where large answers have their memory from, once somebody counts them.
type Answers = Arc<OnceLock<Memories>>;
/// Where the claims are that tools require, once there is a store.
type Claims = Arc<OnceLock<App>>;

/// One server: its slots, and what they share.
pub struct Server {
    config: Upstream,
    logins: Option<Logins>,
    slots: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
    /// It is not there any more, or another is in its place; set while the slots are held.
    is_removed: AtomicBool,
    lists: Lists,
    /// The lists that are being read, each by a task of its own, and for which process.
    readings: Mutex<HashMap<(Kind, Arc<str>), Reading>>,
    tasks: TaskTracker,
    changes: broadcast::Sender<Change>,
    counts: Counts,
    answers: Answers,
    claims: Claims,
}

/// What is being read, for all who wait for it.
type Reading = Shared<oneshot::Receiver<Result<Arc<List>, UpstreamError>>>;

impl Upstreams {
    /// These servers; none is started. Without logins, servers that want tokens are those whose `headers` have one.
    pub fn new(configs: impl IntoIterator<Item = Upstream>, logins: Option<Logins>) -> Upstreams {
        let inner = Inner { logins, ..Inner::default() };
        let server = |config: Upstream| (config.name.clone(), Server::new(config, &inner));
        let servers = Mutex::new(configs.into_iter().map(server).collect());
        Upstreams { inner: Arc::new(Inner { servers, ..inner }) }
    }

    /// Look for the claims that tools require in this store. Without one, nobody can call those tools.
    pub fn look_for_claims(&self, app: &App) {
        let _ = self.inner.claims.set(app.clone()); // a hub has one store
    }

    /// Have large answers take their share of these memories from when they are read, on connections that are opened from now
    /// on.
    pub fn count_answers(&self, answers: &Memories) {
        let _ = self.inner.answers.set(answers.clone()); // they are counted already
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// How they are configured, by name.
    pub fn configs(&self) -> Vec<Upstream> {
        self.lock().values().map(|server| server.config.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Server>>> {
        self.inner.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server of this name, as it is configured now: when it is changed, another takes its place.
    pub fn server(&self, name: &str) -> Result<Arc<Server>, UpstreamError> {
        let servers = self.lock();
        let unknown = || UpstreamError::Unknown {
            name: name.to_owned(),
            help: suggest(name, servers.keys().map(String::as_str)),
        };
        servers.get(name).cloned().ok_or_else(unknown)
    }

    /// The names of the servers, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// How they are doing.
    pub fn servers(&self) -> Vec<Status> {
        let servers: Vec<Arc<Server>> = self.lock().values().cloned().collect();
        servers.iter().map(|server| server.status()).collect()
    }

    /// Call a method of a server, and count it. Dropping the future withdraws the call.
    pub async fn call(
        &self,
        server: &str,
        method: &str,
        params: Members<'static>,
        options: Options,
    ) -> Result<Box<RawValue>, UpstreamError> {
        Ok(self.server(server)?.call(method, params, options).await?.result)
    }

    /// The tools of a server, on nobody's behalf.
    pub async fn tools(&self, server: &str) -> Result<Arc<List>, UpstreamError> {
        self.server(server)?.list(Kind::Tools, &"".into(), LOCAL).await
    }

    /// The same, but without waiting longer than this: a server that takes longer goes on, and what it listed before counts
    /// until then.
    pub async fn tools_within(&self, server: &str, time_max: Duration) -> Result<Arc<List>, UpstreamError> {
        let server = self.server(server)?;
        match timeout(time_max, server.list(Kind::Tools, &"".into(), LOCAL)).await {
            Ok(listed) => listed,
            Err(_) => server.last_list(Kind::Tools).ok_or_else(|| server.unlisted()),
        }
    }

    /// Add a server, or change the one of this name, at once; one that is as before is left alone. What is returned waits
    /// until the old one has ended, after its calls.
    pub fn add(&self, config: Upstream) -> impl Future<Output = ()> + Send + use<> {
        let old = {
            let mut servers = self.lock();
            match servers.get(&config.name) {
                Some(server) if server.config == config => None,
                _ => servers.insert(config.name.clone(), Server::new(config, &self.inner)),
            }
        };
        ended(old)
    }

    /// Remove a server at once. What is returned waits until it has ended, after its calls.
    pub fn remove(&self, name: &str) -> impl Future<Output = ()> + Send + use<> {
        let old = self.lock().remove(name);
        ended(old)
    }

    /// End a server when its calls have ended; the next call starts it anew.
    pub async fn restart(&self, name: &str, restarts: &Restarts) -> Result<(), UpstreamError> {
        let server = restarts.check(name, self.server(name), |server| server.config.exclusive)?;
        let by = restarts.principal();
        server.close(pool::DRAIN_MAX, by).await;
        server.lists.forget_all(); // it may be another version
        Ok(())
    }

    /// End all of them, with everything that they have started.
    pub async fn close(&self) {
        let servers = std::mem::take(&mut *self.lock());
        join_all(servers.values().map(|server| server.remove(Duration::ZERO))).await;
    }
}

impl Server {
    fn new(config: Upstream, all: &Inner) -> Arc<Server> {
        let changes = broadcast::channel(CHANGES_MAX).0;
        let counts = Counts::new(&config.name);
        Arc::new(Server {
            config,
            logins: all.logins.clone(),
            slots: Mutex::default(),
            is_removed: AtomicBool::new(false),
            lists: Lists::default(),
            readings: Mutex::default(),
            tasks: TaskTracker::new(),
            changes,
            counts,
            answers: Arc::clone(&all.answers),
            claims: Arc::clone(&all.claims),
        })
    }

    /// Where its large answers have their memory from.
    fn answers(&self) -> Memories {
        self.answers.get().cloned().unwrap_or_default()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: CallError) -> UpstreamError {
        UpstreamError::Call { server: self.config.name.clone(), error }
    }

    fn busy(&self, reason: String) -> UpstreamError {
        UpstreamError::Busy { server: self.config.name.clone(), reason }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it says on its own account from now on: lists or resources have changed.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// What is known of its lists.
    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    /// Hear of changes of a resource, until `unwatch`. Until then the server is not idle; when it has died, what is
    /// watched is asked for again as soon as it is started.
    pub async fn watch(self: &Arc<Self>, uri: &str) -> Result<(), UpstreamError> {
        self.slot("", LOCAL)?.watch(uri).await
    }

    /// Hear of them no more.
    pub async fn unwatch(self: &Arc<Self>, uri: &str) -> Result<(), UpstreamError> {
        self.slot("", LOCAL)?.unwatch(uri).await
    }

    /// The process that this caller's calls go to: the shared one, or its own, which counts for its principal.
    fn slot(self: &Arc<Self>, caller: &str, principal: &str) -> Result<Arc<Slot>, UpstreamError> {
        if let Some(reason) = &self.config.unusable {
            let (server, reason) = (self.config.name.clone(), reason.clone());
            return Err(UpstreamError::Unavailable { server, reason, retry_after: Duration::ZERO });
        }
        let key: &str = if self.config.exclusive { caller } else { "" };
        let mut slots = self.slots();
        if self.is_removed.load(Ordering::Relaxed) {
            return Err(UpstreamError::Unknown { name: self.config.name.clone(), help: None });
        }
        if let Some(slot) = slots.get(key) {
            return Ok(Arc::clone(slot));
        }
        let check =
            |slots: &HashMap<_, Arc<Slot>>| exclusive::check(slots.values().map(|slot| &*slot.principal), principal);
        if check(&slots).is_err() {
            slots.retain(|_, slot| !slot.is_unused());
        }
        check(&slots).map_err(|full| self.busy(full.reason(principal)))?;
        let queue = Queue::new(self.config.calls_at_once, WAITING_MAX);
        // What another process of it spoke need not be found out again.
        let revision = slots.values().find_map(|slot| slot.revision());
        let slot = Slot::new(self, queue, principal, revision);
        slots.insert(key.into(), Arc::clone(&slot));
        Ok(slot)
    }

    /// Call a method, and count it. Dropping the future withdraws the call.
    pub async fn call(
        self: &Arc<Self>,
        method: &str,
        params: Members<'static>,
        options: Options,
    ) -> Result<Called, UpstreamError> {
        let began = Instant::now();
        let result = self.call_uncounted(method, params, options).await;
        let called = result.map(|result| Called { has_failed: method == "tools/call" && says_error(&result), result });
        self.counts.record(method, &called, began.elapsed());
        called
    }

    async fn call_uncounted(
        self: &Arc<Self>,
        method: &str,
        params: Members<'static>,
        options: Options,
    ) -> Result<Box<RawValue>, UpstreamError> {
        let Options { caller, call, actor } = options;
        let claimed = if method == tool::METHOD { self.may_call(&params, actor)? } else { None };
        let call = call.unwrap_or_else(|| self.call_options());
        let slot = self.slot(&caller, call.handler.as_ref().map_or(LOCAL, |handler| handler.principal()))?;
        slot.call(&caller, method, params, call, claimed).await
    }

    /// Whether the settings allow a call of a tool, and which claim it needs when its turn has come.
    fn may_call(&self, params: &Members<'_>, actor: Option<Arc<Actor>>) -> Result<Option<Claimed>, UpstreamError> {
        let tools = &self.config.tools;
        if *tools == servers::Tools::default() {
            return Ok(None);
        }
        let Some(tool) = params.read::<String>("name") else { return Ok(None) };
        if !tools.allows(&tool) {
            return Err(UpstreamError::Denied { server: self.config.name.clone(), tool });
        }
        let required = tools.claim_required(&tool).cloned();
        Ok(required.map(|required| Claimed { required, actor, app: self.claims.get().cloned() }))
    }

    /// Whether it is a program that was stopped because nobody needs it. One that is elsewhere may change without us.
    fn is_resting(&self) -> bool {
        matches!(self.config.transport, servers::Transport::Stdio(_))
            && self.slots().values().all(|slot| slot.is_resting())
    }

    /// What a call asks for unless somebody says otherwise: the server's own times.
    pub fn call_options(&self) -> CallOptions {
        CallOptions { timeout: self.config.timeout, deadline: self.config.deadline, ..CallOptions::default() }
    }

    /// One of its lists, whole; of its tools those that are allowed here. Kept until the server says that it changed, or for as
    /// long as it says. `caller`, `principal`: whose process is asked where a server is not shared.
    ///
    /// It is read by a task of its own: whoever leaves does not stop it, and if it took longer than most wait for it, it is
    /// announced as a change.
    pub async fn list(
        self: &Arc<Self>,
        kind: Kind,
        caller: &Arc<str>,
        principal: &str,
    ) -> Result<Arc<List>, UpstreamError> {
        if self.is_resting()
            && let Some(list) = self.last_list(kind)
        {
            return Ok(list);
        }
        if let Some(list) = self.lists.fresh(kind) {
            return Ok(list);
        }
        let removed = UpstreamError::Unknown { name: self.config.name.clone(), help: None };
        self.reading(kind, caller, principal).await.unwrap_or(Err(removed))
    }

    /// A list as it was last read, if that was not too long ago.
    pub fn last_list(&self, kind: Kind) -> Option<Arc<List>> {
        self.lists.last(kind, RESTING_LIST_AGE_MAX)
    }

    fn unlisted(&self) -> UpstreamError {
        UpstreamError::Unlisted { server: self.config.name.clone(), state: self.status().state.name() }
    }

    /// The list that is being read; begun if nobody has.
    fn reading(self: &Arc<Self>, kind: Kind, caller: &Arc<str>, principal: &str) -> Reading {
        let key = (kind, if self.config.exclusive { Arc::clone(caller) } else { "".into() });
        let readings = || self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut begun = readings();
        if let Some(reading) = begun.get(&key) {
            return reading.clone();
        }
        let (sender, reading) = oneshot::channel();
        let reading = reading.shared();
        begun.insert(key.clone(), reading.clone());
        drop(begun);
        let (server, caller, principal) = (Arc::clone(self), Arc::clone(caller), principal.to_owned());
        self.tasks.spawn(async move {
            let (began, was_known) = (Instant::now(), server.last_list(kind).is_some());
            let listed = server.read_list(kind, &caller, &principal).await;
            server.readings.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            let is_news = listed.is_ok() && !was_known && began.elapsed() >= LIST_TIME_MAX;
            let _ = sender.send(listed); // everybody may have left
            if is_news {
                let _ = server.changes.send(kind.change()); // nobody may listen
            }
        });
        reading
    }

    async fn read_list(
        self: &Arc<Self>,
        kind: Kind,
        caller: &Arc<str>,
        principal: &str,
    ) -> Result<Arc<List>, UpstreamError> {
        let mut reading = match self.lists.want(kind).await {
            Wanted::Known(list) => return Ok(list),
            Wanted::Unknown(reading) => reading,
        };
        // A start changes the lists, so it comes first.
        let capabilities = async |connection: &Connection| Ok(connection.info().capabilities.clone());
        let capabilities = self.slot(caller, principal)?.with(capabilities).await?;
        while let Some(params) = reading.next_page() {
            let options = Options { caller: Arc::clone(caller), ..Options::default() };
            match self.call(kind.method(), params, options).await {
                Ok(page) => reading.add(&page.result).map_err(|fault| self.failed(CallError::Protocol(fault)))?,
                Err(UpstreamError::Call { error: CallError::Rpc(error), .. })
                    if error.code == code::METHOD_NOT_FOUND =>
                {
                    reading.end();
                }
                Err(error) => return Err(error),
            }
        }
        if kind == Kind::Tools {
            let mut missing: BTreeSet<&str> = self.config.tools.named.keys().map(String::as_str).collect();
            reading.retain(|tool| {
                missing.remove(tool);
                self.config.tools.allows(tool)
            });
            for tool in missing {
                tracing::warn!(
                    server = self.config.name,
                    tool,
                    "the settings name a tool that this server does not have"
                );
            }
        }
        Ok(reading.keep(kind.is_announced(&capabilities)))
    }

    fn status(&self) -> Status {
        let slots: Vec<Arc<Slot>> = self.slots().values().cloned().collect();
        let mut status = Status {
            name: self.config.name.clone(),
            state: State::Stopped,
            pids: Vec::new(),
            in_flight: 0,
            waiting: 0,
            starts: 0,
            last_error: None,
            stderr: Vec::new(),
            info: None,
        };
        slots.iter().for_each(|slot| slot.add_to(&mut status));
        if status.state == State::Stopped
            && let Some(reason) = self.config.why_unusable()
        {
            (status.state, status.last_error) = (State::Disabled, Some(reason));
        }
        status
    }

    /// The same, for good.
    async fn remove(&self, drain: Duration) {
        let slots = self.slots();
        self.is_removed.store(true, Ordering::Relaxed);
        drop(slots);
        self.close(drain, None).await;
        self.tasks.close();
        self.tasks.wait().await; // what they wait for is gone
    }

    /// End its processes, or those of a principal: those that are called when their calls have ended, but no later than after
    /// `drain`.
    async fn close(&self, drain: Duration, of: Option<&str>) {
        let is_meant = |_: &Arc<str>, slot: &mut Arc<Slot>| of.is_none_or(|of| *slot.principal == *of);
        let slots: Vec<Arc<Slot>> = self.slots().extract_if(is_meant).map(|(_, slot)| slot).collect();
        join_all(slots.iter().map(|slot| slot.close(drain))).await;
    }
}

async fn ended(server: Option<Arc<Server>>) {
    if let Some(server) = server {
        server.remove(pool::DRAIN_MAX).await;
    }
}

/// Hears what a server says that belongs to no call. What it asks then is refused.
struct Named(std::sync::Weak<Server>);

impl client::Handler for Named {
    fn notification(&self, notification: Notification) {
        let Some(server) = self.0.upgrade() else { return };
        if let Some(change) = change(&notification) {
            server.lists.forget(&change);
            let _ = server.changes.send(change); // nobody may listen
        }
    }
}
