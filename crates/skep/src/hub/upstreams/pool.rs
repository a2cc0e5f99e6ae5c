//! When a server runs: a slot is the place of one process (or connection), and knows whether there is one.
//!
//! ```text
//!            first call                initialised
//! Stopped ──────────────▶ Starting ──────────────────▶ Running
//!    ▲                       │ fails: wait, longer        │ idle: ended
//!    │                       │ each time; after five      │ dies: calls fail,
//!    └───────────────────────┘ quarantine                 │ wait if it keeps dying
//!    └────────────────────────────────────────────────────┘
//! ```
//!
//! A start belongs to no caller: whoever leaves does not stop it for the others. Who supervises a process owns it, and
//! the next one is started when it has ended.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{FutureExt as _, Shared};
use serde_json::value::RawValue;
use skep_mcp::{
    client::{CallError, CallOptions, Connection, auth::Denied},
    revision::Revision,
    server::Members,
};
use tokio::{
    sync::{Notify, OwnedMutexGuard, oneshot},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Server, State, Status, Upstream, UpstreamError,
    fair::{Full, Queue},
    open::{Unopened, open},
    process::{LAST_WORDS_MAX, Process, Stderr},
};

/// How long running calls may go on when their server is removed or changed.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Before the second start in a row; doubled for each one after. The first one may be made at once.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest such time.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A server that never came up so often is left alone.
const QUARANTINE_AFTER: u32 = 5;
/// For so long.
const QUARANTINE_TIME: Duration = Duration::from_secs(300);
/// A process that lived so long did not die of its start.
const STABLE_TIME: Duration = Duration::from_secs(60);
/// How long a server may take to answer whether it is alive, if its calls may take so long; and how often it is asked.
const CHECK_TIME_MAX: Duration = Duration::from_secs(10);
const CHECKS_MAX: u32 = 3;
/// Idle times are not shorter.
const IDLE_TIME_MIN: Duration = Duration::from_millis(10);
/// Why a call of a server that is not there any more fails.
const WAS_REMOVED: &str = "it was removed";

type Started = Result<Arc<Running>, UpstreamError>;

pub(super) struct Slot {
    config: Upstream,
    server: Weak<Server>,
    queue: Arc<Queue>,
    /// Whose it is, where it is not shared.
    pub(super) principal: Box<str>,
    inside: Mutex<Inside>,
    /// Held while there is a process.
    alive: Arc<tokio::sync::Mutex<()>>,
    /// Rung when the last call has ended.
    quiet: Notify,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Inside {
    phase: Phase,
    /// Calls, with those that wait.
    in_flight: usize,
    last_used: Instant,
    starts: u64,
    /// Starts and early deaths in a row.
    failures: u32,
    /// Starts in a row that came to nothing.
    unstarted: u32,
    retry_at: Option<Instant>,
    last_error: Option<String>,
    /// Whether it did not start because nobody has logged in to it.
    needs_login: bool,
    stderr: Stderr,
    /// Resources that somebody watches: while there are any it is not idle, and each new process is told of them.
    watched: BTreeSet<String>,
    /// What it spoke the last time.
    revision: Option<Revision>,
    is_closed: bool,
}

enum Phase {
    Stopped,
    Starting(Shared<oneshot::Receiver<Started>>),
    Running(Arc<Running>),
}

impl Phase {
    /// The server, if it takes calls.
    fn running(&self) -> Option<&Arc<Running>> {
        match self {
            Phase::Running(running) if !running.connection.closed().is_cancelled() => Some(running),
            _ => None,
        }
    }
}

/// A server that runs.
pub(super) struct Running {
    connection: Connection,
    pid: Option<u32>,
    since: Instant,
    /// Rung to end it.
    stop: CancellationToken,
    /// Rung when it has died, and `last_words` says how.
    died: CancellationToken,
    last_words: Mutex<Option<String>>,
    is_checked: AtomicBool,
    /// Whether the last call was refused because nobody has logged in, or with too little.
    needs_login: AtomicBool,
}

/// Counts a call while it lives.
struct Used<'a>(&'a Slot);

impl Drop for Used<'_> {
    fn drop(&mut self) {
        let mut inside = self.0.inside();
        inside.in_flight -= 1;
        if inside.in_flight == 0 {
            inside.last_used = Instant::now();
            self.0.quiet.notify_waiters();
        }
    }
}

impl Slot {
    pub(super) fn new(
        server: &Arc<Server>,
        queue: Arc<Queue>,
        principal: &str,
        revision: Option<Revision>,
    ) -> Arc<Slot> {
        let inside = Inside {
            phase: Phase::Stopped,
            in_flight: 0,
            last_used: Instant::now(),
            starts: 0,
            failures: 0,
            unstarted: 0,
            retry_at: None,
            last_error: None,
            needs_login: false,
            stderr: Stderr::default(),
            watched: BTreeSet::new(),
            revision,
            is_closed: false,
        };
        Arc::new(Slot {
            config: server.config.clone(),
            server: Arc::downgrade(server),
            queue,
            principal: principal.into(),
            inside: Mutex::new(inside),
            alive: Arc::default(),
            quiet: Notify::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody needs it, and it did not fail.
    pub(super) fn is_resting(&self) -> bool {
        let inside = self.inside();
        inside.in_flight == 0 && inside.failures == 0 && matches!(inside.phase, Phase::Stopped)
    }

    /// What its process spoke, if there was one.
    pub(super) fn revision(&self) -> Option<Revision> {
        self.inside().revision
    }

    /// Whether nobody needs it.
    pub(super) fn is_stopped(&self) -> bool {
        let inside = self.inside();
        inside.in_flight == 0 && matches!(inside.phase, Phase::Stopped)
    }

    pub(super) async fn call(
        self: &Arc<Self>,
        caller: &Arc<str>,
        method: &str,
        params: Members<'static>,
        options: CallOptions,
    ) -> Result<Box<RawValue>, UpstreamError> {
        let (_used, running) = self.enter()?;
        let busy = |reason| UpstreamError::Busy { server: self.config.name.clone(), reason };
        let (_permit, running) = match self.queue.try_acquire() {
            Some(permit) => (permit, running),
            None => match timeout(options.timeout, self.queue.acquire(caller)).await {
                Ok(Ok(permit)) => (permit, None), // it may be another by now
                Ok(Err(Full(waiting))) => return Err(busy(format!("{waiting} calls wait for it"))),
                Err(_) => {
                    let seconds = options.timeout.as_secs();
                    return Err(busy(format!("it had no time for this call within {seconds} s")));
                }
            },
        };
        let running = match running {
            Some(running) => running,
            None => self.running().await?,
        };
        let result = running.connection.call(method, params, options).await;
        self.judge(&running, result).await
    }

    /// Do something with its connection, besides the calls.
    pub(super) async fn with<T>(
        self: &Arc<Self>,
        act: impl AsyncFnOnce(&Connection) -> Result<T, CallError>,
    ) -> Result<T, UpstreamError> {
        let (_used, _) = self.enter()?;
        let running = self.running().await?;
        let result = act(&running.connection).await;
        self.judge(&running, result).await
    }

    /// Hear of changes of a resource, until `unwatch`.
    pub(super) async fn watch(self: &Arc<Self>, uri: &str) -> Result<(), UpstreamError> {
        self.with(async |connection| connection.watch(uri).await).await?;
        self.inside().watched.insert(uri.to_owned());
        Ok(())
    }

    /// Hear of them no more. A server that does not run need not be told.
    pub(super) async fn unwatch(self: &Arc<Self>, uri: &str) -> Result<(), UpstreamError> {
        let is_running = {
            let mut inside = self.inside();
            inside.watched.remove(uri) && matches!(inside.phase, Phase::Running(_))
        };
        if is_running { self.with(async |connection| connection.unwatch(uri).await).await } else { Ok(()) }
    }

    /// Tell a new process what is watched.
    async fn watch_again(self: Arc<Self>, running: Arc<Running>, uris: BTreeSet<String>) {
        for uri in uris {
            let watching = running.connection.watch(&uri);
            match self.stop.run_until_cancelled(watching).await {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::warn!(server = self.config.name, uri, %error, "a resource is not watched any more");
                }
                None => return,
            }
        }
    }

    /// Begin to use it; the server, if it runs.
    fn enter(&self) -> Result<(Used<'_>, Option<Arc<Running>>), UpstreamError> {
        let mut inside = self.inside();
        if inside.is_closed {
            return Err(self.unavailable(WAS_REMOVED.to_owned(), Duration::ZERO));
        }
        inside.in_flight += 1;
        Ok((Used(self), inside.phase.running().cloned()))
    }

    /// What a result means for the server, and how it is told.
    async fn judge<T>(
        self: &Arc<Self>,
        running: &Arc<Running>,
        result: Result<T, CallError>,
    ) -> Result<T, UpstreamError> {
        let error = match result {
            Ok(result) => {
                if running.needs_login.load(Ordering::Relaxed) {
                    running.needs_login.store(false, Ordering::Relaxed);
                }
                return Ok(result);
            }
            Err(CallError::Closed(reason)) => {
                let _ = timeout(LAST_WORDS_MAX * 2, running.died.cancelled()).await;
                let words = running.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone();
                CallError::Closed(words.unwrap_or(reason))
            }
            Err(error) => error,
        };
        match &error {
            CallError::TimedOut(_) => self.check(running),
            CallError::Unauthorized(Denied::NeedsLogin(reason)) => {
                running.needs_login.store(true, Ordering::Relaxed);
                self.inside().last_error = Some(reason.clone());
            }
            _ => {}
        }
        Err(UpstreamError::Call { server: self.config.name.clone(), error })
    }

    fn unavailable(&self, reason: String, retry_after: Duration) -> UpstreamError {
        UpstreamError::Unavailable { server: self.config.name.clone(), reason, retry_after }
    }

    /// The server; started if need be, by whoever comes first.
    async fn running(self: &Arc<Self>) -> Started {
        loop {
            let dead = {
                let mut inside = self.inside();
                if let Some(running) = inside.phase.running() {
                    return Ok(Arc::clone(running));
                }
                match &inside.phase {
                    Phase::Running(dead) => Ok(Arc::clone(dead)),
                    Phase::Starting(starting) => Err(starting.clone()),
                    Phase::Stopped => Err(self.begin(&mut inside)?),
                }
            };
            match dead {
                Ok(dead) => dead.died.cancelled().await,
                Err(starting) => {
                    let gone = || Err(self.unavailable(WAS_REMOVED.to_owned(), Duration::ZERO));
                    return starting.await.unwrap_or_else(|_| gone());
                }
            }
        }
    }

    /// Begin to start it, unless it is too early for that.
    fn begin(self: &Arc<Self>, inside: &mut Inside) -> Result<Shared<oneshot::Receiver<Started>>, UpstreamError> {
        if inside.is_closed {
            return Err(self.unavailable(WAS_REMOVED.to_owned(), Duration::ZERO));
        }
        if let Some(reason) = self.config.why_unusable() {
            return Err(self.unavailable(reason, Duration::ZERO));
        }
        let wait = inside.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        if !wait.is_zero() {
            let what = if inside.unstarted >= QUARANTINE_AFTER {
                format!("it failed to start {} times in a row and is left alone", inside.unstarted)
            } else {
                "it is started again".to_owned()
            };
            let when = if inside.unstarted >= QUARANTINE_AFTER { "for another" } else { "in" };
            let last = inside.last_error.clone().unwrap_or_default();
            let reason = format!("{what} {when} {} s; {last}", wait.as_secs_f32().ceil());
            return Err(self.unavailable(reason, wait));
        }
        let (sender, started) = oneshot::channel();
        let started = started.shared();
        inside.phase = Phase::Starting(started.clone());
        let slot = Arc::clone(self);
        self.tasks.spawn(async move {
            let result = slot.start().await;
            let _ = sender.send(result); // everybody may have left
        });
        Ok(started)
    }

    async fn start(self: &Arc<Self>) -> Started {
        let alive = Arc::clone(&self.alive).lock_owned().await;
        let (stderr, revision) = {
            let mut inside = self.inside();
            inside.stderr = Stderr::default();
            inside.starts += 1;
            (inside.stderr.clone(), inside.revision)
        };
        let opening = open(&self.config, &self.server, stderr.clone(), revision);
        let opened = self.stop.run_until_cancelled(opening).await.unwrap_or(Err(Unopened::Removed));
        let mut inside = self.inside();
        match opened {
            Ok((connection, process)) => {
                let running = Arc::new(Running {
                    pid: process.as_ref().and_then(Process::server),
                    since: Instant::now(),
                    stop: self.stop.child_token(),
                    died: CancellationToken::new(),
                    last_words: Mutex::default(),
                    is_checked: AtomicBool::new(false),
                    needs_login: AtomicBool::new(false),
                    connection,
                });
                inside.revision = Some(running.connection.info().revision);
                inside.unstarted = 0;
                inside.needs_login = false;
                inside.retry_at = None;
                inside.last_used = Instant::now();
                inside.phase = Phase::Running(Arc::clone(&running));
                let watched = inside.watched.clone();
                drop(inside);
                self.tasks.spawn(Arc::clone(self).watch_again(Arc::clone(&running), watched));
                if let Some(server) = self.server.upgrade() {
                    server.lists.forget_all(); // it may be another version
                }
                self.tasks.spawn(Arc::clone(self).supervise(Arc::clone(&running), process, stderr, alive));
                Ok(running)
            }
            // Nothing is wrong with it: the next call looks whether somebody has logged in.
            Err(Unopened::NeedsLogin(reason)) => {
                inside.needs_login = true;
                inside.last_error = Some(reason.clone());
                inside.phase = Phase::Stopped;
                Err(self.unavailable(reason, Duration::ZERO))
            }
            Err(Unopened::Removed) => {
                inside.phase = Phase::Stopped;
                Err(self.unavailable(WAS_REMOVED.to_owned(), Duration::ZERO))
            }
            Err(Unopened::Failed(error)) => {
                let reason = format!("it failed to start: {error}");
                inside.needs_login = false;
                inside.revision = None; // ask it again
                inside.unstarted += 1;
                inside.failures += 1;
                let wait =
                    if inside.unstarted >= QUARANTINE_AFTER { QUARANTINE_TIME } else { backoff(inside.failures) };
                inside.retry_at = Some(Instant::now() + wait);
                inside.last_error = Some(reason.clone());
                inside.phase = Phase::Stopped;
                tracing::warn!(server = self.config.name, reason, "an MCP server is not available");
                Err(self.unavailable(reason, wait))
            }
        }
    }

    /// Watch over a server until it has ended.
    async fn supervise(
        self: Arc<Self>,
        running: Arc<Running>,
        mut process: Option<Process>,
        stderr: Stderr,
        _alive: OwnedMutexGuard<()>,
    ) {
        let closed = running.connection.closed();
        let has_died = loop {
            let ended = async {
                match &mut process {
                    Some(process) => process.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = running.stop.cancelled() => break false,
                () = closed.cancelled() => break true,
                () = ended => {
                    // It may have answered before it ended.
                    let _ = timeout(LAST_WORDS_MAX, closed.cancelled()).await;
                    break true;
                }
                () = sleep(self.idle_for()) => if self.retire() {
                    break false;
                }
            }
        };
        if has_died {
            let words = self.died(&running, process.as_mut(), &stderr).await;
            running.connection.close(&words).await;
        } else {
            self.forget(&running);
            running.connection.close("it was stopped").await;
        }
        running.died.cancel();
        match process {
            Some(process) if has_died => drop(process.kill().await),
            Some(process) => drop(process.end().await),
            None => {}
        }
    }

    /// Note that it has died, and how.
    async fn died(&self, running: &Running, process: Option<&mut Process>, stderr: &Stderr) -> String {
        let fault = running.connection.fault().or_else(|| process.as_ref()?.fault());
        let status = match process {
            Some(process) if fault.is_none() => process.last_words(LAST_WORDS_MAX).await,
            _ => None,
        };
        let how = match (status, fault.or_else(|| running.connection.reason())) {
            (Some(status), _) => format!("the process ended ({status})"),
            (None, Some(reason)) => reason,
            (None, None) => "the connection was lost".to_owned(),
        };
        let words = format!("{how}{}", stderr.shown());
        *running.last_words.lock().unwrap_or_else(PoisonError::into_inner) = Some(words.clone());
        let mut inside = self.inside();
        inside.failures = if running.since.elapsed() < STABLE_TIME { inside.failures + 1 } else { 1 };
        inside.retry_at = Some(Instant::now() + backoff(inside.failures));
        inside.last_error = Some(words.clone());
        inside.phase = Phase::Stopped;
        tracing::warn!(server = self.config.name, words, "an MCP server died");
        running.died.cancel();
        words
    }

    /// It takes no calls any more.
    fn forget(&self, running: &Arc<Running>) {
        let mut inside = self.inside();
        if matches!(&inside.phase, Phase::Running(current) if Arc::ptr_eq(current, running)) {
            inside.phase = Phase::Stopped;
        }
    }

    /// How long until it may be idle for long enough.
    fn idle_for(&self) -> Duration {
        let inside = self.inside();
        let idle = self.config.idle_time_max.max(IDLE_TIME_MIN);
        let is_needed = inside.in_flight > 0 || !inside.watched.is_empty();
        if is_needed { idle } else { idle.saturating_sub(inside.last_used.elapsed()) }
    }

    /// Whether it is idle for long enough; then it is nobody's any more.
    fn retire(&self) -> bool {
        let mut inside = self.inside();
        let is_needed = inside.in_flight > 0 || !inside.watched.is_empty();
        let is_idle = !is_needed && inside.last_used.elapsed() >= self.config.idle_time_max;
        if is_idle {
            inside.phase = Phase::Stopped;
            inside.failures = 0;
        }
        is_idle
    }

    /// A call was not answered in time: is the server alive? One that does not say so is ended, at once if nobody else
    /// waits for it.
    fn check(self: &Arc<Self>, running: &Arc<Running>) {
        if running.is_checked.swap(true, Ordering::AcqRel) {
            return;
        }
        let (slot, running) = (Arc::clone(self), Arc::clone(running));
        self.tasks.spawn(async move {
            let connection = &running.connection;
            let question = if connection.info().revision.is_modern() { "server/discover" } else { "ping" };
            let time_max = slot.config.timeout.min(CHECK_TIME_MAX);
            for _ in 0..CHECKS_MAX {
                let options = CallOptions { timeout: time_max, deadline: time_max, ..CallOptions::default() };
                let asked = connection.call(question, Members::default(), options);
                let answer = tokio::select! {
                    answer = asked => answer,
                    () = running.stop.cancelled() => return,
                };
                if !matches!(answer, Err(CallError::TimedOut(_))) {
                    running.is_checked.store(false, Ordering::Release);
                    return; // it lives, or is gone already
                }
                if slot.inside().in_flight == 0 {
                    break;
                }
            }
            connection.close("it hangs: it does not even answer whether it is alive").await;
        });
    }

    /// End it when its calls have ended, but no later than after `drain`.
    pub(super) async fn close(&self, drain: Duration) {
        self.inside().is_closed = true;
        let quiet = async {
            loop {
                let quiet = self.quiet.notified();
                tokio::pin!(quiet);
                quiet.as_mut().enable();
                if self.inside().in_flight == 0 {
                    return;
                }
                quiet.await;
            }
        };
        let _ = timeout(drain, quiet).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.inside().phase = Phase::Stopped;
    }

    /// Add what there is to say.
    pub(super) fn add_to(&self, status: &mut Status) {
        let inside = self.inside();
        let waiting = self.queue.waiting();
        let wait = inside.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        status.state = match (&inside.phase, &status.state) {
            (Phase::Running(running), _) if running.needs_login.load(Ordering::Relaxed) => State::NeedsLogin,
            (Phase::Running(_), _) | (_, State::Running) => State::Running,
            (Phase::Starting(_), _) | (_, State::Starting) => State::Starting,
            (Phase::Stopped, _) if inside.needs_login => State::NeedsLogin,
            (Phase::Stopped, _) if wait.is_zero() => State::Stopped,
            (Phase::Stopped, _) if inside.unstarted >= QUARANTINE_AFTER => State::Quarantined(wait),
            (Phase::Stopped, _) => State::Waiting(wait),
        };
        if let Phase::Running(running) = &inside.phase {
            status.pids.extend(running.pid);
            status.info.get_or_insert_with(|| running.connection.info().clone());
        }
        status.in_flight += inside.in_flight.saturating_sub(waiting);
        status.waiting += waiting;
        status.starts += inside.starts;
        if inside.last_error.is_some() {
            status.last_error.clone_from(&inside.last_error);
        }
        status.stderr.extend(inside.stderr.lines());
    }
}

/// How long to wait after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    match failures.checked_sub(2) {
        Some(doubled) => BACKOFF.saturating_mul(1 << doubled.min(10)).min(BACKOFF_MAX),
        None => Duration::ZERO,
    }
}
