//! The slot of a server's process (or connection): it carries out what [`Lifecycle`] decides.
//!
//! Here are the lock, the clock and the tasks: calls are counted and find the process that runs, a start is a task that
//! belongs to no caller (whoever leaves does not stop it for the others), and a process has a task that watches over it,
//! ends it, and then says that it has exited.

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
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Server, State, Status, Upstream, UpstreamError,
    claimed::Claimed,
    fair::{Full, Queue},
    lifecycle::{Action, Cause, Event, Incarnation, Lifecycle, Refusal},
    open::{Unopened, open},
    process::{LAST_WORDS_MAX, Process, Stderr},
};

/// How long running calls may go on when their server is removed or changed.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long a server may take to answer whether it is alive, if its calls may take so long.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
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
    /// Cancelled when nothing of the slot is needed any more.
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Inside {
    life: Lifecycle,
    /// What calls wait for, from when a start is wanted until it has an outcome.
    start: Option<Start>,
    /// The process that runs, or ran last; the lifecycle knows whether it takes calls.
    running: Option<Arc<Running>>,
    last_error: Option<String>,
    stderr: Stderr,
    /// Resources that somebody watches: each new process is told of them.
    watched: BTreeSet<String>,
    /// What it spoke the last time.
    revision: Option<Revision>,
}

impl Inside {
    /// The process that takes calls, if there is one. Its connection may have been lost a moment ago.
    fn process(&self) -> Option<&Arc<Running>> {
        self.running.as_ref().filter(|running| self.life.is_running(running.incarnation))
    }

    /// The same, if its connection is there.
    fn running(&self) -> Option<&Arc<Running>> {
        self.process().filter(|running| !running.connection.closed().is_cancelled())
    }

    /// The outcome of the start that is under way, or comes next.
    fn outcome(&mut self) -> Outcome {
        let start = self.start.get_or_insert_with(|| {
            let (sender, receiver) = oneshot::channel();
            Start { sender, outcome: receiver.shared() }
        });
        start.outcome.clone()
    }
}

struct Start {
    sender: oneshot::Sender<Started>,
    outcome: Outcome,
}

type Outcome = Shared<oneshot::Receiver<Started>>;

/// A server that runs.
pub(super) struct Running {
    incarnation: Incarnation,
    connection: Connection,
    pid: Option<u32>,
    /// Cancelled when it has died, and `last_words` says how.
    died: CancellationToken,
    last_words: Mutex<Option<String>>,
    /// Whether the last call was refused because nobody has logged in, or with too little.
    needs_login: AtomicBool,
}

/// Counts a call while it lives.
struct Used<'a>(&'a Arc<Slot>);

impl Drop for Used<'_> {
    fn drop(&mut self) {
        self.0.tell(Event::CallEnded);
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
            life: Lifecycle::new(server.config.idle_time_max, Instant::now()),
            start: None,
            running: None,
            last_error: None,
            stderr: Stderr::default(),
            watched: BTreeSet::new(),
            revision,
        };
        Arc::new(Slot {
            config: server.config.clone(),
            server: Arc::downgrade(server),
            queue,
            principal: principal.into(),
            inside: Mutex::new(inside),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tell the lifecycle what happened, and do what it decides.
    fn tell(self: &Arc<Self>, event: Event) {
        let action = self.inside().life.on(event, Instant::now);
        self.act(action);
    }

    /// Do what was decided, apart from what is for one call, one process or one start: who has that does it.
    fn act(self: &Arc<Self>, action: Option<Action>) {
        match action {
            Some(Action::Start(incarnation)) => drop(self.tasks.spawn(Arc::clone(self).start(incarnation))),
            Some(Action::End) => self.stop.cancel(),
            _ => {}
        }
    }

    /// Whether nobody needs it, and it did not fail.
    pub(super) fn is_resting(&self) -> bool {
        self.inside().life.is_resting()
    }

    /// Whether nobody needs it.
    pub(super) fn is_unused(&self) -> bool {
        self.inside().life.is_unused()
    }

    /// What its process spoke, if there was one.
    pub(super) fn revision(&self) -> Option<Revision> {
        self.inside().revision
    }

    pub(super) async fn call(
        self: &Arc<Self>,
        caller: &Arc<str>,
        method: &str,
        params: Members<'static>,
        options: CallOptions,
        claimed: Option<Claimed>,
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
        // Not before its turn has come: a claim may be over by then. Boxed, because few calls need one.
        if let Some(claimed) = claimed {
            let checked = Box::pin(claimed.check(&params)).await;
            checked.map_err(|error| UpstreamError::NotClaimed(Box::new(error)))?;
        }
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
        let mut inside = self.inside();
        inside.watched.insert(uri.to_owned());
        let _ = inside.life.on(Event::Watched(true), Instant::now); // nothing is to be done
        Ok(())
    }

    /// Hear of them no more. A server that does not run need not be told.
    pub(super) async fn unwatch(self: &Arc<Self>, uri: &str) -> Result<(), UpstreamError> {
        let is_told = {
            let mut inside = self.inside();
            let was_watched = inside.watched.remove(uri);
            let is_watched = !inside.watched.is_empty();
            let _ = inside.life.on(Event::Watched(is_watched), Instant::now); // the timer looks again
            was_watched && inside.process().is_some()
        };
        if is_told { self.with(async |connection| connection.unwatch(uri).await).await } else { Ok(()) }
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
    fn enter(self: &Arc<Self>) -> Result<(Used<'_>, Option<Arc<Running>>), UpstreamError> {
        let mut inside = self.inside();
        match inside.life.on(Event::CallBegan, Instant::now) {
            Some(Action::Refuse(refusal)) => Err(self.refused(refusal, inside.last_error.as_deref())),
            _ => Ok((Used(self), inside.running().cloned())),
        }
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
            CallError::TimedOut(_) => {
                let action = self.inside().life.on(Event::CallTimedOut(running.incarnation), Instant::now);
                if let Some(Action::Ask(_)) = action {
                    self.tasks.spawn(Arc::clone(self).ask(Arc::clone(running)));
                }
            }
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

    /// Why there is no process for a call, for its caller.
    fn refused(&self, refusal: Refusal, last_error: Option<&str>) -> UpstreamError {
        let Refusal::NotYet { wait, left_alone_after } = refusal else {
            return self.unavailable(WAS_REMOVED.to_owned(), Duration::ZERO);
        };
        let (seconds, last) = (wait.as_secs_f32().ceil(), last_error.unwrap_or_default());
        let reason = match left_alone_after {
            Some(times) => {
                format!("it failed to start {times} times in a row and is left alone for another {seconds} s; {last}")
            }
            None => format!("it is started again in {seconds} s; {last}"),
        };
        self.unavailable(reason, wait)
    }

    /// The server; started if need be, by whoever comes first.
    async fn running(self: &Arc<Self>) -> Started {
        loop {
            let lost = {
                let mut inside = self.inside();
                if let Some(running) = inside.running() {
                    return Ok(Arc::clone(running));
                }
                match inside.process() {
                    Some(lost) => Ok(Arc::clone(lost)),
                    None => Err(self.want(&mut inside)?),
                }
            };
            match lost {
                Ok(lost) => lost.died.cancelled().await, // it is about to be said how
                Err(outcome) => {
                    let outcome = self.stop.run_until_cancelled(outcome).await;
                    let removed = || Err(self.refused(Refusal::Removed, None));
                    return outcome.and_then(Result::ok).unwrap_or_else(removed);
                }
            }
        }
    }

    /// Have it started, if that may be; what came of it.
    fn want(self: &Arc<Self>, inside: &mut Inside) -> Result<Outcome, UpstreamError> {
        if inside.life.is_down()
            && let Some(reason) = self.config.why_unusable()
        {
            return Err(self.unavailable(reason, Duration::ZERO));
        }
        let action = inside.life.on(Event::Wanted, Instant::now);
        if let Some(Action::Refuse(refusal)) = action {
            return Err(self.refused(refusal, inside.last_error.as_deref()));
        }
        let outcome = inside.outcome();
        self.act(action);
        Ok(outcome)
    }

    /// Start a process, and tell those who wait for it.
    async fn start(self: Arc<Self>, incarnation: Incarnation) {
        let (stderr, revision) = {
            let mut inside = self.inside();
            inside.stderr = Stderr::default();
            (inside.stderr.clone(), inside.revision)
        };
        let opening = open(&self.config, &self.server, stderr.clone(), revision);
        let opened = self.stop.run_until_cancelled(opening).await.unwrap_or(Err(Unopened::Removed));
        let (start, started) = match opened {
            Ok((connection, process)) => self.started(incarnation, connection, process, stderr),
            Err(why) => self.unstarted(incarnation, why),
        };
        if let Some(start) = start {
            let _ = start.sender.send(started); // everybody may have left
        }
    }

    fn started(
        self: &Arc<Self>,
        incarnation: Incarnation,
        connection: Connection,
        process: Option<Process>,
        stderr: Stderr,
    ) -> (Option<Start>, Started) {
        let running = Arc::new(Running {
            incarnation,
            connection,
            pid: process.as_ref().and_then(Process::server),
            died: CancellationToken::new(),
            last_words: Mutex::default(),
            needs_login: AtomicBool::new(false),
        });
        let (start, action, watched) = {
            let mut inside = self.inside();
            let action = inside.life.on(Event::Started(incarnation), Instant::now);
            inside.revision = Some(running.connection.info().revision);
            inside.running = Some(Arc::clone(&running));
            (inside.start.take(), action, inside.watched.clone())
        };
        let is_wanted = !matches!(action, Some(Action::Stop(_)));
        if is_wanted {
            self.tasks.spawn(Arc::clone(self).watch_again(Arc::clone(&running), watched));
            if let Some(server) = self.server.upgrade() {
                server.lists.forget_all(); // it may be another version
            }
        }
        // What is not wanted any more is ended there, too.
        self.tasks.spawn(Arc::clone(self).supervise(Arc::clone(&running), process, stderr));
        let started = if is_wanted { Ok(running) } else { Err(self.refused(Refusal::Removed, None)) };
        (start, started)
    }

    fn unstarted(&self, incarnation: Incarnation, why: Unopened) -> (Option<Start>, Started) {
        let mut inside = self.inside();
        let (cause, reason) = match why {
            // Nothing is wrong with it: the next call looks whether somebody has logged in.
            Unopened::NeedsLogin(reason) => (Cause::NeedsLogin, reason),
            Unopened::Removed => (Cause::Withdrawn, WAS_REMOVED.to_owned()),
            Unopened::Failed(error) => (Cause::Failed, format!("it failed to start: {error}")),
        };
        let wait = match inside.life.on(Event::Unstarted(incarnation, cause), Instant::now) {
            Some(Action::Refuse(Refusal::NotYet { wait, .. })) => wait,
            _ => Duration::ZERO,
        };
        if cause != Cause::Withdrawn {
            inside.last_error = Some(reason.clone());
        }
        if cause == Cause::Failed {
            inside.revision = None; // ask it again
            tracing::warn!(server = self.config.name, reason, "an MCP server is not available");
        }
        (inside.start.take(), Err(self.unavailable(reason, wait)))
    }

    /// Watch over a process until it has exited.
    async fn supervise(self: Arc<Self>, running: Arc<Running>, mut process: Option<Process>, stderr: Stderr) {
        let closed = running.connection.closed();
        let has_died = loop {
            let ended = async {
                match &mut process {
                    Some(process) => process.ended().await,
                    None => std::future::pending().await,
                }
            };
            let idle_in = self.inside().life.idle_in(Instant::now());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break false,
                () = closed.cancelled() => break true,
                () = ended => {
                    // It may have answered before it ended.
                    let _ = timeout(LAST_WORDS_MAX, closed.cancelled()).await;
                    break true;
                }
                () = sleep(idle_in) => {
                    if let Some(Action::Stop(_)) = self.inside().life.on(Event::IdleTimer, Instant::now) {
                        break false;
                    }
                }
            }
        };
        if has_died {
            let words = self.died(&running, process.as_mut(), &stderr).await;
            running.connection.close(&words).await;
        } else {
            running.connection.close("it was stopped").await;
        }
        running.died.cancel();
        match process {
            Some(process) if has_died => drop(process.kill().await),
            Some(process) => drop(process.end().await),
            None => {}
        }
        self.exited(running.incarnation);
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
        // The next one is started when this one has exited.
        let _ = inside.life.on(Event::Died(running.incarnation), Instant::now);
        inside.last_error = Some(words.clone());
        tracing::warn!(server = self.config.name, words, "an MCP server died");
        running.died.cancel();
        words
    }

    /// Nothing is left of a process.
    fn exited(self: &Arc<Self>, incarnation: Incarnation) {
        let (action, gone) = {
            let mut inside = self.inside();
            let action = inside.life.on(Event::Exited(incarnation), Instant::now);
            (action, inside.running.take_if(|running| running.incarnation == incarnation))
        };
        drop(gone);
        self.act(action);
    }

    /// Ask whether it is alive, as often as that is to be asked. One that does not say so is ended.
    async fn ask(self: Arc<Self>, running: Arc<Running>) {
        let connection = &running.connection;
        let question = if connection.info().revision.is_modern() { "server/discover" } else { "ping" };
        let time_max = self.config.timeout.min(ANSWER_TIME_MAX);
        loop {
            let options = CallOptions { timeout: time_max, deadline: time_max, ..CallOptions::default() };
            let asking = connection.call(question, Members::default(), options);
            let Some(answer) = self.stop.run_until_cancelled(asking).await else { return };
            let event = match answer {
                Err(CallError::TimedOut(_)) => Event::Unanswered(running.incarnation),
                _ => Event::Answered(running.incarnation), // or it is gone, which is noticed elsewhere
            };
            let action = self.inside().life.on(event, Instant::now);
            match action {
                Some(Action::Ask(_)) => {}
                Some(Action::HangUp(_)) => {
                    return connection.close("it hangs: it does not even answer whether it is alive").await;
                }
                _ => return,
            }
        }
    }

    /// End it when its calls have ended, but no later than after `drain`.
    pub(super) async fn close(self: &Arc<Self>, drain: Duration) {
        self.tell(Event::Close);
        if timeout(drain, self.stop.cancelled()).await.is_err() {
            self.tell(Event::DrainOver);
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Add what there is to say.
    pub(super) fn add_to(&self, status: &mut Status) {
        let inside = self.inside();
        let (running, waiting) = (inside.process(), self.queue.waiting());
        let needs_login = running.is_some_and(|running| running.needs_login.load(Ordering::Relaxed));
        status.state = match (inside.life.state(Instant::now()), &status.state) {
            (State::Running, _) if needs_login => State::NeedsLogin,
            (State::Running, _) | (_, State::Running) => State::Running,
            (State::Starting, _) | (_, State::Starting) => State::Starting,
            (state, _) => state,
        };
        if let Some(running) = running {
            status.pids.extend(running.pid);
            status.info.get_or_insert_with(|| running.connection.info().clone());
        }
        status.in_flight += inside.life.calls().saturating_sub(waiting);
        status.waiting += waiting;
        status.starts += inside.life.starts();
        if inside.last_error.is_some() {
            status.last_error.clone_from(&inside.last_error);
        }
        status.stderr.extend(inside.stderr.lines());
    }
}
