//! Tasks: calls that outlive the request that made them (2026-07-28, extension `io.modelcontextprotocol/tasks`).
//!
//! **When a call becomes a task.** The server decides, for `tools/call` of callers that declare the extension on that
//! request. A call begins as any other. If it has not ended after [`super::Limits::task_after`], it is stored, and only
//! then the handle is given; what ends sooner is answered plainly, and what asks for input before has its questions put
//! in `input_required` results. If the store does not take it (the principal has too many, the request is too large) the
//! call goes on as it was, and its caller waits for the result. Callers of older revisions, and those that do not declare
//! the extension, never see a task. Servers behind this one are not told of the extension: they answer when they are
//! done, and the task is this server's.
//!
//! **What survives.** The store ([`TaskStore`]) is the truth; here is only what runs now. A server *holds* what it runs
//! and says so every [`BEAT`]. What nobody has held for [`HOLD`] is taken over: a call that may be repeated
//! ([`super::Service::may_repeat`]) is made again, at most [`ATTEMPTS_MAX`] times in all; any other has failed, with an
//! error that says why. A server that stops in good order lets go at once. A late word of a former attempt does not count.
//!
//! **What is not here.** Progress and log messages of a task go nowhere: the extension has no place for them. Questions of
//! a task live in the server that runs it: after a restart the call asks again, under other keys. `tasks/get` and
//! `tasks/cancel` work on every server of a store; `tasks/update` and `notifications/tasks` on the one that runs the task,
//! to which the header `Mcp-Name` leads.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use serde_json::{json, value::RawValue};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BoxFuture, Call, Caller, Inner, Members, Outcome, Principal, code, convert,
    exchange::{Exchange, Step},
    input, modern,
    peer::{Asked, Event, Ids, Terms, missing_capability},
    unguessable,
};
use crate::message::ErrorObject;

/// The extension's name, in capabilities.
pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// How long a store takes a run for alive after it was last held.
pub const HOLD: Duration = Duration::from_secs(10);
/// How often a server holds what it runs, and looks for what nobody holds.
pub const BEAT: Duration = Duration::from_secs(3);
/// How often a call is begun in all, if it is cut off each time.
pub const ATTEMPTS_MAX: u32 = 3;
/// Tasks that one listener hears of.
pub const WATCHED_MAX: usize = 100;
/// What callers are told to wait between two looks.
const POLL: Duration = Duration::from_secs(1);
/// Calls that are made again at once after a restart; the others wait.
const AGAIN_AT_ONCE_MAX: usize = 16;
/// Answers that wait for one task; more are refused.
const ANSWERS_MAX: usize = 16;
/// How long whoever answers waits until that is kept; then it is acknowledged all the same.
const TAKEN_TIME_MAX: Duration = Duration::from_secs(5);
/// Changes that wait for a listener; one that is further behind looks at all its tasks.
const CHANGES_MAX: usize = 256;
/// How often a store is told how a task ended, if it cannot take it, and the pause between.
const REPORTS_MAX: usize = 30;
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// Where tasks are kept. Every operation is durable when it answers, and sees no task that has expired.
pub trait TaskStore: Send + Sync + 'static {
    /// Keep a call of this principal that this server runs, and hold it. An error says why it is not kept.
    fn create(&self, principal: &Arc<dyn Principal>, new: NewTask) -> BoxFuture<Result<Task, ErrorObject>>;
    /// A principal's task.
    fn get(&self, principal: &Arc<dyn Principal>, id: &str) -> BoxFuture<Result<Option<Task>, ErrorObject>>;
    /// Say how far a task of this server is, in this attempt. The end is final.
    fn report(&self, id: &str, attempt: u32, state: State) -> BoxFuture<Result<Task, NotKept>>;
    /// Withdraw a principal's task, unless it is over. Gives it as it is then.
    fn cancel(&self, principal: &Arc<dyn Principal>, id: &str) -> BoxFuture<Result<Option<Task>, ErrorObject>>;
    /// Hold these for another [`HOLD`]. Gives those that are still this server's, with their attempts. What is over, was
    /// deleted, or belongs to another is left out.
    fn hold(&self, ids: Vec<String>) -> BoxFuture<Result<Vec<(String, u32)>, ErrorObject>>;
    /// Release a task, so that it can be taken over at once.
    fn release(&self, id: &str) -> BoxFuture<Result<(), ErrorObject>>;
    /// The principal of this name: a task of it that another process began goes on here.
    fn principal(&self, name: &Arc<str>) -> Arc<dyn Principal>;
    /// Delete what has expired, and take over some of what nobody holds: it is this server's, working, under the next
    /// attempt.
    fn take_over(&self) -> BoxFuture<Result<Vec<Task>, ErrorObject>>;
}

/// A task that is to be kept.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Its name, which nobody can guess.
    pub id: String,
    /// The parameters of `tools/call`, `_meta` included.
    pub params: Box<RawValue>,
    /// Whether the call may be made again when nobody knows how far it came.
    pub may_repeat: bool,
}

/// A task as it is kept.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name.
    pub id: String,
    /// Whose it is.
    pub principal: Arc<str>,
    /// The parameters of `tools/call`, `_meta` included.
    pub params: Box<RawValue>,
    /// Whether the call may be made again when nobody knows how far it came.
    pub may_repeat: bool,
    /// How often the call was begun; the first is 1.
    pub attempt: u32,
    /// How far it is.
    pub state: State,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// When its state last changed.
    pub updated: jiff::Timestamp,
    /// When it is deleted.
    pub expires: jiff::Timestamp,
}

/// How far a task is.
#[derive(Clone, Debug)]
pub enum State {
    /// The call runs.
    Working,
    /// It waits for answers to these requests: an object of keys and requests.
    InputRequired(Box<RawValue>),
    /// It has this result, which may say `isError`.
    Completed(Box<RawValue>),
    /// It ended with this error.
    Failed(ErrorObject),
    /// Its principal has withdrawn it.
    Cancelled,
}

impl State {
    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        matches!(self, State::Completed(_) | State::Failed(_) | State::Cancelled)
    }
}

/// Why a store does not keep how far a task is.
#[derive(Debug)]
pub enum NotKept {
    /// The task is over, was deleted, or belongs to another attempt: whoever runs it must stop.
    Lost,
    /// Not now; try again.
    Later(ErrorObject),
    /// Never: it is too large, for instance.
    Refused(ErrorObject),
}

impl Task {
    /// The `Task` object; with the state's own members it is a `DetailedTask`.
    fn members(&self, is_detailed: bool) -> Members<'static> {
        let mut members = Members::default();
        members.put("taskId", &self.id);
        let status = match &self.state {
            State::Working => "working",
            State::InputRequired(_) => "input_required",
            State::Completed(_) => "completed",
            State::Failed(_) => "failed",
            State::Cancelled => "cancelled",
        };
        members.put("status", status);
        match &self.state {
            State::Failed(error) => members.put("statusMessage", &error.message),
            State::Working if self.attempt > 1 => {
                let message =
                    format!("the server was restarted while the call ran; it runs again, attempt {}", self.attempt);
                members.put("statusMessage", message);
            }
            _ => {}
        }
        members.put("createdAt", self.created.to_string());
        members.put("lastUpdatedAt", self.updated.to_string());
        members.put("ttlMs", self.expires.as_millisecond() - self.created.as_millisecond());
        members.put("pollIntervalMs", u64::try_from(POLL.as_millis()).unwrap_or(u64::MAX));
        match &self.state {
            _ if !is_detailed => {}
            State::InputRequired(requests) => members.set("inputRequests", requests.clone()),
            State::Completed(result) => members.set("result", result.clone()),
            State::Failed(error) => members.put("error", error),
            State::Working | State::Cancelled => {}
        }
        members
    }

    /// Everything that there is to say of it, as `notifications/tasks` does.
    pub(super) fn detailed(&self) -> Members<'static> {
        self.members(true)
    }

    /// `CreateTaskResult`.
    fn handle(&self) -> Box<RawValue> {
        let mut result = Members::default();
        result.put("resultType", "task");
        for (name, value) in self.members(false).iter() {
            result.set(name, value.to_owned());
        }
        result.into_raw()
    }
}

/// Whether this is a method of the extension.
pub(super) fn is_one(method: &str) -> bool {
    matches!(method, "tasks/get" | "tasks/update" | "tasks/cancel")
}

/// Whether a caller declared the extension on its request.
pub(super) fn is_declared(caller: &Caller) -> bool {
    caller.capabilities.get("extensions").and_then(|all| all.get(EXTENSION)).is_some_and(|one| one.is_object())
}

/// The error for a caller that did not.
pub(super) fn undeclared(what: &str) -> ErrorObject {
    missing_capability(what, &json!({ "extensions": { EXTENSION: {} } }))
}

/// The tasks of a server, and those that it runs.
pub(super) struct Tasks {
    store: Arc<dyn TaskStore>,
    running: Mutex<HashMap<String, Run>>,
    /// Names of tasks that have changed.
    changes: broadcast::Sender<Arc<str>>,
    again: Arc<Semaphore>,
    runs: TaskTracker,
    /// Cancelled when what runs is to be released.
    aside: CancellationToken,
}

/// A task that runs here.
#[derive(Clone)]
struct Run {
    attempt: u32,
    cancel: CancellationToken,
    answers: mpsc::Sender<Answers>,
}

/// Answers to what a task asked.
struct Answers {
    responses: Members<'static>,
    /// Dropped when the task no longer asks for them.
    taken: oneshot::Sender<()>,
}

/// How a call goes on that was to become a task.
pub(super) enum Continuation {
    /// It is one, and this is its handle.
    Task(Box<RawValue>),
    /// It goes on as it was.
    Call(Box<Exchange>),
}

/// A call that may become a task.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) params: Members<'static>,
    pub(super) caller: Arc<Caller>,
}

impl Origin {
    fn call(&self) -> Call {
        let (params, caller) = (self.params.clone(), Arc::clone(&self.caller));
        Call { method: "tools/call".into(), params, caller }
    }
}

impl Tasks {
    pub(super) fn new(store: Arc<dyn TaskStore>) -> Tasks {
        Tasks {
            store,
            running: Mutex::default(),
            changes: broadcast::channel(CHANGES_MAX).0,
            again: Arc::new(Semaphore::new(AGAIN_AT_ONCE_MAX)),
            runs: TaskTracker::new(),
            aside: CancellationToken::new(),
        }
    }

    /// Release all that runs, so that another server, or the next start, takes it over at once.
    pub(super) async fn suspend(&self) {
        self.aside.cancel();
        self.runs.close();
        self.runs.wait().await;
    }

    /// Tasks that run here.
    pub(super) fn running_count(&self) -> usize {
        self.running().len()
    }

    // ---- what callers ask

    /// Answer a request of this extension.
    pub(super) async fn answer(&self, method: &str, params: &Members<'_>, caller: &Caller) -> Outcome {
        if !is_declared(caller) {
            return Err(undeclared(method));
        }
        let Some(id) = params.read::<String>("taskId") else {
            return Err(ErrorObject::new(code::INVALID_PARAMS, "params.taskId is missing: the name of a task"));
        };
        match method {
            "tasks/get" => self.get(&caller.principal, &id).await.map(|task| task.detailed().into_raw()),
            "tasks/update" => self.update(&caller.principal, &id, params).await,
            _ => self.cancel(&caller.principal, &id).await,
        }
    }

    pub(super) async fn get(&self, principal: &Arc<dyn Principal>, id: &str) -> Result<Task, ErrorObject> {
        self.store.get(principal, id).await?.ok_or_else(unknown)
    }

    /// Names of tasks that change from now on.
    pub(super) fn changes(&self) -> broadcast::Receiver<Arc<str>> {
        self.changes.subscribe()
    }

    async fn update(&self, principal: &Arc<dyn Principal>, id: &str, params: &Members<'_>) -> Outcome {
        let Some(responses) = params.get("inputResponses").and_then(Members::parse).map(Members::into_owned) else {
            let message = "params.inputResponses is missing: an object of the keys that were asked and their answers";
            return Err(ErrorObject::new(code::INVALID_PARAMS, message));
        };
        if self.get(principal, id).await?.state.is_over() {
            return Ok(input::empty()); // whatever it asked is no longer outstanding
        }
        let run = self.running().get(id).cloned();
        let busy = |message: &str| Err(ErrorObject::new(code::BUSY, message));
        let (taken, waiting) = oneshot::channel();
        match run.map(|run| run.answers.try_send(Answers { responses, taken })) {
            Some(Ok(()) | Err(mpsc::error::TrySendError::Closed(_))) => {
                // Whoever looks at the task next is not to be asked again.
                let _ = tokio::time::timeout(TAKEN_TIME_MAX, waiting).await;
                Ok(input::empty())
            }
            Some(Err(mpsc::error::TrySendError::Full(_))) => busy("too many answers wait for this task already"),
            None => busy("this server does not run the task now; look at it again, and answer what it asks then"),
        }
    }

    async fn cancel(&self, principal: &Arc<dyn Principal>, id: &str) -> Outcome {
        let task = self.store.cancel(principal, id).await?.ok_or_else(unknown)?;
        if matches!(task.state, State::Cancelled) {
            let run = self.running().remove(id);
            if let Some(run) = run {
                run.cancel.cancel();
            }
            self.tell(id);
        }
        Ok(input::empty())
    }

    fn tell(&self, id: &str) {
        let _ = self.changes.send(id.into()); // nobody may listen
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, Run>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- what runs

    /// Make a task of a call that is under way. Should its caller go away meanwhile, it is cancelled as a call is.
    pub(super) fn begin(
        self: &Arc<Self>,
        server: &Arc<Inner>,
        origin: Origin,
        exchange: Exchange,
    ) -> oneshot::Receiver<Continuation> {
        let (became, waiting) = oneshot::channel();
        let (tasks, server) = (Arc::clone(self), Arc::clone(server));
        self.runs.spawn(async move {
            let tool = origin.params.read::<String>("name");
            let new = NewTask {
                id: unguessable(),
                params: origin.params.clone().into_raw(),
                may_repeat: tool.is_some_and(|tool| server.service.may_repeat(&tool)),
            };
            let task = match tasks.store.create(&origin.caller.principal, new).await {
                Ok(task) => task,
                Err(error) => {
                    tracing::debug!(error = error.message, "a call does not become a task");
                    drop(became.send(Continuation::Call(Box::new(exchange)))); // a caller that has gone: it is cancelled
                    return;
                }
            };
            let driver = Driver::new(&tasks, &server, &task);
            if became.send(Continuation::Task(task.handle())).is_err() {
                // Nobody will ever ask for it.
                if let Err(error) = tasks.store.cancel(&origin.caller.principal, &task.id).await {
                    tracing::warn!(error = error.message, "a task whose caller has gone is left to be taken over");
                }
                return;
            }
            driver.drive(origin, exchange).await;
        });
        waiting
    }

    /// Hold what runs and take over what nobody holds, until the server stops.
    pub(super) async fn keep(server: Weak<Inner>, tasks: Arc<Tasks>) {
        while let Some(strong) = server.upgrade() {
            let stop = strong.stop.clone();
            if let Err(error) = tasks.look(&strong).await {
                tracing::warn!(error = error.message, "the store of tasks cannot be asked; trying again");
            }
            drop(strong);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tasks.aside.cancelled() => return,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    async fn look(self: &Arc<Self>, server: &Arc<Inner>) -> Result<(), ErrorObject> {
        let running: Vec<(String, u32)> = self.running().iter().map(|(id, run)| (id.clone(), run.attempt)).collect();
        if !running.is_empty() {
            let held = self.store.hold(running.iter().map(|(id, _)| id.clone()).collect()).await?;
            for lost in running.iter().filter(|run| !held.contains(run)) {
                self.leave(&lost.0, lost.1);
            }
        }
        for task in self.store.take_over().await? {
            self.run_again(server, task);
        }
        Ok(())
    }

    /// It no longer runs here.
    fn leave(&self, id: &str, attempt: u32) {
        let mut running = self.running();
        if running.get(id).is_some_and(|run| run.attempt == attempt)
            && let Some(run) = running.remove(id)
        {
            drop(running);
            run.cancel.cancel();
        }
    }

    /// Go on with a task that was cut off: make its call again, if that is safe.
    fn run_again(self: &Arc<Self>, server: &Arc<Inner>, task: Task) {
        let (tasks, server) = (Arc::clone(self), Arc::clone(server));
        self.runs.spawn(async move {
            let mut driver = Driver::new(&tasks, &server, &task);
            tasks.tell(&task.id);
            let is_safe = task.may_repeat && task.attempt <= ATTEMPTS_MAX;
            let again =
                if is_safe { read_origin(&task, &tasks.store.principal(&task.principal)) } else { Err(cut_off(&task)) };
            let (origin, terms) = match again {
                Ok(again) => again,
                Err(error) => {
                    driver.report(State::Failed(error)).await;
                    return;
                }
            };
            let cancel = driver.cancel.clone();
            let turn = Arc::clone(&tasks.again);
            let turn = tokio::select! {
                () = cancel.cancelled() => return,
                () = tasks.aside.cancelled() => return driver.release().await,
                turn = turn.acquire() => turn,
            };
            let exchange = Exchange::begin(&server.service, origin.call(), terms, server.limits.rounds_max);
            driver.drive(origin, exchange).await;
            drop(turn);
        });
    }
}

/// Drives one task to its end.
struct Driver {
    tasks: Arc<Tasks>,
    server: Arc<Inner>,
    id: String,
    attempt: u32,
    cancel: CancellationToken,
    answers: mpsc::Receiver<Answers>,
    /// What the call wants to know and nobody has said.
    asked: Vec<(String, Asked)>,
    keys: Ids,
}

impl Driver {
    /// From now on the task runs here.
    fn new(tasks: &Arc<Tasks>, server: &Arc<Inner>, task: &Task) -> Driver {
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        let (id, attempt, cancel) = (task.id.clone(), task.attempt, CancellationToken::new());
        let run = Run { attempt, cancel: cancel.clone(), answers: sender };
        let former = tasks.running().insert(id.clone(), run);
        if let Some(former) = former {
            former.cancel.cancel();
        }
        let (tasks, server) = (Arc::clone(tasks), Arc::clone(server));
        Driver { tasks, server, id, attempt, cancel, answers, asked: Vec::new(), keys: Ids::default() }
    }

    async fn drive(mut self, origin: Origin, mut exchange: Exchange) {
        let (aside, stop, cancel) = (self.tasks.aside.clone(), self.server.stop.clone(), self.cancel.clone());
        loop {
            let (mut _taken, mut _held) = (None, None); // told so, and given back, when the state is kept
            let state = tokio::select! {
                biased;
                () = cancel.cancelled() => return, // with the exchange goes the call
                () = aside.cancelled() => break,
                () = stop.cancelled() => break,
                Some(Answers { responses, taken }) = self.answers.recv() => {
                    if self.asked.is_empty() {
                        continue; // nothing is outstanding
                    }
                    _taken = Some(taken);
                    self.asked = modern::answer(std::mem::take(&mut self.asked), &responses);
                    self.waiting()
                }
                step = exchange.next(&self.server.limits.memories) => match step {
                    Step::Event(Event::Notification { .. }) => continue, // tasks have no place for it
                    Step::Event(Event::Ask(asked)) => {
                        self.ask(asked);
                        while let Some(event) = exchange.hear() {
                            if let Event::Ask(asked) = event {
                                self.ask(asked);
                            }
                        }
                        self.waiting()
                    }
                    Step::Done(Ok(result), _) if input::is_wanted(&result) => {
                        let rounds = self.server.limits.rounds_max;
                        let (service, call) = (&self.server.service, origin.call());
                        exchange = Exchange::carry_on(service, call, Terms::default(), result, rounds);
                        continue;
                    }
                    // Whoever asked is told to try again later; a call that is made again does so by itself.
                    Step::Done(Err(error), _) if error.code == code::BUSY && self.attempt > 1 => {
                        let rounds = self.server.limits.rounds_max;
                        exchange = Exchange::begin_after(BEAT, &self.server.service, origin.call(), rounds);
                        continue;
                    }
                    Step::Done(outcome, counted) => {
                        _held = counted; // until it is in the store
                        ended(outcome, &origin.params)
                    }
                },
            };
            let is_over = state.is_over();
            if !self.report(state).await || is_over {
                return;
            }
        }
        drop(exchange); // the call ends before another attempt may begin
        self.release().await;
    }

    fn ask(&mut self, mut asked: Asked) {
        // No key twice in a task's life: what a later attempt asks may have been asked by one before it.
        let name = asked.name.take().filter(|_| self.attempt == 1);
        self.asked.push((self.keys.next_key(name, format_args!("{}-", self.attempt)), asked));
    }

    fn waiting(&self) -> State {
        if self.asked.is_empty() { State::Working } else { State::InputRequired(modern::input_requests(&self.asked)) }
    }

    /// Say how far it is, and wait until that is kept. Gives whether the task is still this attempt's.
    async fn report(&mut self, mut state: State) -> bool {
        for _ in 0..REPORTS_MAX {
            match self.tasks.store.report(&self.id, self.attempt, state.clone()).await {
                Ok(_) => {
                    self.tasks.tell(&self.id);
                    return true;
                }
                Err(NotKept::Lost) => return false,
                Err(NotKept::Refused(error)) => state = State::Failed(error),
                Err(NotKept::Later(error)) => {
                    tracing::warn!(task = self.id, error = error.message, "the state of a task is not kept yet");
                    tokio::select! {
                        () = self.cancel.cancelled() => return false,
                        () = tokio::time::sleep(REPORT_PAUSE) => {}
                    }
                }
            }
        }
        false
    }

    /// Let another attempt have it.
    async fn release(self) {
        if let Err(error) = self.tasks.store.release(&self.id).await {
            tracing::warn!(task = self.id, error = error.message, "a task is released only when its hold runs out");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.tasks.leave(&self.id, self.attempt);
    }
}

/// The result in the form of a task's: it says by its status what `resultType` says elsewhere.
fn ended(outcome: Outcome, params: &Members<'_>) -> State {
    let result = match convert::error_of(outcome, || params.read("uri")) {
        Ok(result) => result,
        Err(error) => return State::Failed(error),
    };
    let Some(mut members) = Members::parse(&result) else {
        return State::Failed(ErrorObject::new(code::INTERNAL_ERROR, "the tool's result is not an object"));
    };
    let Some(kind) = members.get("resultType") else { return State::Completed(result) };
    if let Err(error) = convert::check_complete(kind.get()) {
        return State::Failed(error);
    }
    members.remove("resultType");
    State::Completed(members.into_raw())
}

/// The call of a task, as it was made: without what belonged to one round of questions.
fn read_origin(task: &Task, principal: &Arc<dyn Principal>) -> Result<(Origin, Terms), ErrorObject> {
    let mut params = Members::parse(&task.params).unwrap_or_default();
    params.remove("requestState");
    params.remove("inputResponses");
    let meta = params.get("_meta").and_then(Members::parse).unwrap_or_default();
    let (caller, terms) = modern::read_meta(&meta, principal)?;
    Ok((Origin { params: params.into_owned(), caller: Arc::new(caller) }, terms))
}

fn cut_off(task: &Task) -> ErrorObject {
    let message = if task.may_repeat {
        format!("the hub was restarted while the call ran, {ATTEMPTS_MAX} times; it is not made again")
    } else {
        "the hub was restarted while the call ran, and a second call may do harm, so it was not made again; nobody knows \
         how far the first one came"
            .to_owned()
    };
    ErrorObject::new(code::INTERNAL_ERROR, message)
}

fn unknown() -> ErrorObject {
    ErrorObject::new(code::INVALID_PARAMS, "there is no such task; it may have expired")
}

/// The extension among a server's capabilities.
pub(super) fn declare(capabilities: &mut serde_json::Value) {
    capabilities["extensions"][EXTENSION] = json!({});
}

/// A caller's capabilities without the extension, as servers behind this one are told them.
pub(crate) fn undeclared_in(capabilities: &Arc<serde_json::Value>) -> Arc<serde_json::Value> {
    let mut capabilities = Arc::clone(capabilities);
    if capabilities.get("extensions").and_then(|all| all.get(EXTENSION)).is_some()
        && let Some(serde_json::Value::Object(extensions)) = Arc::make_mut(&mut capabilities).get_mut("extensions")
    {
        extensions.remove(EXTENSION);
    }
    capabilities
}
