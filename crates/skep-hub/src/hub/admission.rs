//! How many calls run at once, how many wait for their turn, and what happens to them when the hub stops.
//!
//! One [`Admission`] serves all listeners of a hub. A call runs in a task of its own, so that it ends in order even
//! if the one who asked has gone away: its [`CancellationToken`] is cancelled, and the tool stops what it started.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use skep_core::policy::{self, Denied, Permit};
use skep_tools::{error::ToolError, room};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::Instrument as _;

use super::shares::{Shares, part};

/// Time that cancelled calls get to stop what they started, before the hub ends without them.
const CANCEL_TIME: Duration = Duration::from_secs(2);

/// The limits of [`Admission`].
#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls that run at once; at least one.
    pub calls_at_once: usize,
    /// Calls that wait for their turn; one more is refused.
    pub waiting_max: usize,
    /// How long a call waits for its turn before it is refused.
    pub waiting_time_max: Duration,
    /// Calls that wait for what other calls bring about, such as the release of a claim; one more is refused. They take no turns,
    /// so what each costs is its memory.
    pub waiting_long_max: usize,
    /// Calls of MCP servers that are under way; one more is refused. They run elsewhere, so they take no turns from
    /// others: how many of them a server works on is the server's queue's.
    pub forwarded_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            calls_at_once: 64,
            waiting_max: 4096,
            waiting_time_max: Duration::from_secs(10),
            waiting_long_max: 1000,
            forwarded_max: 16_384,
        }
    }
}

impl Limits {
    /// None: whoever makes the calls bounds them.
    pub fn none() -> Limits {
        let max = Semaphore::MAX_PERMITS / 2;
        Limits {
            calls_at_once: max,
            waiting_max: max,
            waiting_time_max: Duration::ZERO,
            waiting_long_max: max,
            forwarded_max: usize::MAX,
        }
    }
}

/// Why a call was not run, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing was run: try again later, or elsewhere.
    #[error("too many calls run and wait already; try again in a moment")]
    Busy,
    /// Nothing was run: try elsewhere.
    #[error("this hub is stopping and takes no new calls")]
    Draining,
    /// Nothing was run: this principal is to wait for others of its calls. How many, and what they do.
    #[error("{0} of your calls {1} already, as many as one principal may have; wait until one has ended")]
    OverShare(usize, &'static str),
    /// The caller may not call tools.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A fault in the program; the log says more.
    #[error("the call failed inside the hub; its log says why")]
    Panicked,
}

impl Refused {
    /// Whether the hub is at fault, and not the caller.
    pub(crate) fn is_fault(self) -> bool {
        matches!(self, Refused::Busy | Refused::Panicked)
    }

    /// Stable word for programs.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Refused::Busy | Refused::OverShare(..) => "busy",
            Refused::Draining => "draining",
            Refused::Denied(_) => "denied",
            Refused::Panicked => "internal",
        }
    }
}

/// What runs and waits now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Calls that run.
    pub running: usize,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Calls that may run at once.
    pub at_once: usize,
    /// Calls of MCP servers that are under way.
    pub forwarded: usize,
}

/// The right of a call to go on to an MCP server, while it lives.
pub struct Pass<'a> {
    /// Cancelled when the hub stops for good.
    pub cancel: &'a CancellationToken,
    _counted: TaskTrackerToken,
    _own: Option<OwnedSemaphorePermit>,
}

/// A call's turn. A call that waits for something which other calls have lays it down, so that they can go on.
#[derive(Debug)]
pub struct Turn {
    all: Arc<Semaphore>,
    /// Those of the principal, if it is bound by a share, and how many there are.
    own: Option<(Arc<Semaphore>, usize)>,
    waiting_time_max: Duration,
    /// Places to wait without a turn, and those of the principal, if it is bound by a share.
    places: (Arc<Semaphore>, Option<Arc<Semaphore>>),
    state: Mutex<TurnState>,
}

#[derive(Debug)]
enum TurnState {
    Has {
        _permits: (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit),
    },
    LaidDown,
    /// It waits for what other calls bring about.
    Waits {
        _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
    },
    Over,
}

impl Turn {
    fn set(&self, state: TurnState) {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*current, TurnState::Over) {
            *current = state;
        }
    }

    /// Let another call have it.
    pub fn lay_down(&self) {
        self.set(TurnState::LaidDown);
    }

    /// Let other calls have it, and wait for what they bring about.
    ///
    /// # Errors
    ///
    /// Too many calls wait so.
    fn wait(&self) -> Result<(), ToolError> {
        let too_many = |_| {
            let message = "too many calls wait for others already; wait for less time, or try again later";
            ToolError::Busy(message.to_owned())
        };
        let (all, own) = &self.places;
        let own = own.clone().map(Semaphore::try_acquire_owned).transpose().map_err(too_many)?;
        let all = Arc::clone(all).try_acquire_owned().map_err(too_many)?;
        self.set(TurnState::Waits { _permits: (all, own) });
        Ok(())
    }

    /// Wait for a turn: among the principal's own calls, and then among all. One that waits for its own takes nobody's place.
    pub async fn take_up(&self) -> Result<(), Refused> {
        let until = Instant::now() + self.waiting_time_max;
        let own = match &self.own {
            None => None,
            Some((own, turns)) => match timeout_at(until, Arc::clone(own).acquire_owned()).await {
                Ok(Ok(turn)) => Some(turn),
                _ => return Err(Refused::OverShare(*turns, "run")),
            },
        };
        match timeout_at(until, Arc::clone(&self.all).acquire_owned()).await {
            Ok(Ok(turn)) => {
                self.set(TurnState::Has { _permits: (own, turn) });
                Ok(())
            }
            _ => Err(Refused::Busy),
        }
    }
}

impl room::Turn for Turn {
    fn lay_down(&self) {
        self.lay_down();
    }

    fn wait(&self) -> Result<(), ToolError> {
        self.wait()
    }

    fn take_up(&self) -> Pin<Box<dyn Future<Output = Result<(), ToolError>> + Send + '_>> {
        Box::pin(async { self.take_up().await.map_err(|refused| ToolError::Busy(refused.to_string())) })
    }
}

/// Ends a turn for good when it goes, also if others still know of it.
struct Ends(Arc<Turn>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.set(TurnState::Over);
    }
}

/// What each principal may have of the seats, the turns and the passes.
struct Own {
    seats: Shares,
    turns: Shares,
    places: Shares,
    passes: Shares,
}

/// The gate that every call of a hub goes through.
pub struct Admission {
    limits: Limits,
    /// One for each call that runs or waits.
    seats: Arc<Semaphore>,
    /// One for each call that runs.
    turns: Arc<Semaphore>,
    /// One for each call that waits for what other calls bring about.
    places: Arc<Semaphore>,
    /// What each principal may have of these, and of the calls that go on to a server.
    own: Own,
    /// Calls that run or wait; drained at the end.
    calls: TaskTracker,
    /// Calls that went on to a server; the same.
    forwarded: TaskTracker,
    draining: AtomicBool,
    cancel: CancellationToken,
}

impl Admission {
    /// Nothing runs yet. `share`: the part of the calls that run, wait, or are under way at MCP servers that one principal may
    /// have.
    pub fn new(limits: Limits, share: f64) -> Admission {
        let limits = Limits { calls_at_once: limits.calls_at_once.max(1), ..limits };
        let seats = limits.calls_at_once.saturating_add(limits.waiting_max);
        let own = |whole| Shares::new(part(whole, share));
        Admission {
            seats: Arc::new(Semaphore::new(seats)),
            turns: Arc::new(Semaphore::new(limits.calls_at_once)),
            places: Arc::new(Semaphore::new(limits.waiting_long_max)),
            own: Own {
                seats: own(seats),
                turns: own(limits.calls_at_once),
                places: own(limits.waiting_long_max),
                passes: own(limits.forwarded_max),
            },
            calls: TaskTracker::new(),
            forwarded: TaskTracker::new(),
            draining: AtomicBool::new(false),
            cancel: CancellationToken::new(),
            limits,
        }
    }

    /// Cancelled when the hub stops for good.
    pub fn stopped(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Wait for a turn and run a call of this actor's. Its token is cancelled when the returned future is dropped or `stop` is
    /// cancelled; its turn ends with it.
    pub async fn run<F>(
        &self,
        permit: &Permit<policy::Call>,
        stop: &CancellationToken,
        call: impl FnOnce(CancellationToken, Arc<Turn>) -> F,
    ) -> Result<F::Output, Refused>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let principal = &*permit.actor().principal;
        let counted = self.enter(&self.calls)?;
        let own_seat = self.own.seats.take(principal).map_err(|taken| Refused::OverShare(taken, "run or wait"))?;
        let seat = Arc::clone(&self.seats).try_acquire_owned().map_err(|_| Refused::Busy)?;
        let turn = self.turn(principal);
        tokio::select! {
            biased; // a turn that is free because all are cancelled is not taken
            () = stop.cancelled() => return Err(Refused::Draining),
            taken = turn.take_up() => taken?,
        }
        let cancel = stop.child_token();
        let (call, ends) = (call(cancel.clone(), turn.clone()), Ends(turn));
        let _withdrawn_with_the_caller = cancel.drop_guard();
        let task = async move {
            let result = call.await;
            drop((ends, seat, own_seat));
            result
        };
        let task = self.calls.spawn(task.in_current_span());
        drop(counted); // from here on the task counts
        task.await.map_err(|_| Refused::Panicked)
    }

    /// A turn for a call of this principal, which has not come yet.
    fn turn(&self, principal: &str) -> Arc<Turn> {
        Arc::new(Turn {
            all: Arc::clone(&self.turns),
            own: self.own.turns.of(principal).map(|own| (own, self.own.turns.permits())),
            waiting_time_max: self.limits.waiting_time_max,
            places: (Arc::clone(&self.places), self.own.places.of(principal)),
            state: Mutex::new(TurnState::LaidDown),
        })
    }

    /// Go on to an MCP server, to call a tool or to read. Such a call takes no turn and no task of its own: nothing of it runs
    /// here, and dropping it withdraws it.
    pub fn pass<R>(&self, permit: &Permit<R>) -> Result<Pass<'_>, Refused> {
        let counted = self.enter(&self.forwarded)?;
        if self.forwarded.len() > self.limits.forwarded_max {
            return Err(Refused::Busy);
        }
        let over = |taken| Refused::OverShare(taken, "of MCP servers are under way");
        let own = self.own.passes.take(&permit.actor().principal).map_err(over)?;
        Ok(Pass { cancel: &self.cancel, _counted: counted, _own: own })
    }

    /// Be counted first and look then: [`Admission::drain`] does it the other way round, so neither misses the other.
    fn enter(&self, among: &TaskTracker) -> Result<TaskTrackerToken, Refused> {
        let counted = among.token();
        if self.is_draining() { Err(Refused::Draining) } else { Ok(counted) }
    }

    /// Take no new calls from now on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether new calls are refused because the hub stops.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Take no new calls, and let the others end within `time`. Returns how many are left then.
    pub async fn settle(&self, time: Duration) -> usize {
        self.start_draining();
        self.calls.close();
        self.forwarded.close();
        match timeout(time, self.ended()).await {
            Ok(()) => 0,
            Err(_) => self.left(),
        }
    }

    /// Take no new calls, let the others end within `time`, and cancel what is left then. Returns how many were cancelled.
    pub async fn drain(&self, time: Duration) -> usize {
        let cancelled = self.settle(time).await;
        if cancelled == 0 {
            return 0;
        }
        self.cancel.cancel();
        if timeout(CANCEL_TIME, self.ended()).await.is_err() {
            tracing::warn!(calls = self.left(), "calls did not stop when they were cancelled");
        }
        cancelled
    }

    async fn ended(&self) {
        self.calls.wait().await;
        self.forwarded.wait().await;
    }

    fn left(&self) -> usize {
        self.calls.len() + self.forwarded.len()
    }

    /// What runs and waits now.
    pub fn load(&self) -> Load {
        let at_once = self.limits.calls_at_once;
        let seated = (at_once + self.limits.waiting_max).saturating_sub(self.seats.available_permits());
        let running = at_once.saturating_sub(self.turns.available_permits());
        let long = self.limits.waiting_long_max - self.places.available_permits();
        let waiting = seated.saturating_sub(running + long);
        Load { running, waiting, at_once, forwarded: self.forwarded.len() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::hub::principals;

    fn permit() -> Permit<policy::Call> {
        principals::local().permit().unwrap()
    }

    fn admission(calls_at_once: usize, waiting_max: usize) -> Arc<Admission> {
        Arc::new(Admission::new(Limits { calls_at_once, waiting_max, ..Limits::default() }, 1.0))
    }

    /// A call that says when it runs and ends when it is told to, or when it is cancelled.
    struct Held {
        running: oneshot::Receiver<()>,
        end: oneshot::Sender<()>,
        result: tokio::task::JoinHandle<Result<&'static str, Refused>>,
    }

    #[expect(clippy::disallowed_methods, reason = "the tests await what they spawn")]
    fn held(admission: &Arc<Admission>) -> Held {
        let (started, running) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let admission = Arc::clone(admission);
        let result = tokio::spawn(async move {
            let call = |cancel: CancellationToken, _| async move {
                let _ = started.send(());
                tokio::select! {
                    _ = ended => "ended",
                    () = cancel.cancelled() => "cancelled",
                }
            };
            admission.run(&permit(), admission.stopped(), call).await
        });
        Held { running, end, result }
    }

    #[tokio::test]
    async fn one_more_than_may_run_and_wait_is_refused() {
        let admission = admission(1, 1);
        let first = held(&admission);
        first.running.await.unwrap();
        let mut second = held(&admission);
        while admission.load().waiting == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(admission.load(), Load { running: 1, waiting: 1, at_once: 1, forwarded: 0 });
        assert_eq!(admission.run(&permit(), admission.stopped(), |_, _| async {}).await, Err(Refused::Busy));
        assert!(second.running.try_recv().is_err(), "it has to wait for its turn");
        first.end.send(()).unwrap();
        assert_eq!(first.result.await.unwrap(), Ok("ended"));
        second.running.await.unwrap();
        second.end.send(()).unwrap();
        assert_eq!(second.result.await.unwrap(), Ok("ended"));
        assert_eq!(admission.load(), Load { running: 0, waiting: 0, at_once: 1, forwarded: 0 });
    }

    #[tokio::test]
    async fn who_waits_too_long_is_refused_and_gives_the_seat_back() {
        let limits = Limits {
            calls_at_once: 1,
            waiting_max: 1,
            waiting_time_max: Duration::from_millis(1),
            ..Limits::default()
        };
        let admission = Arc::new(Admission::new(limits, 1.0));
        let first = held(&admission);
        first.running.await.unwrap();
        assert_eq!(held(&admission).result.await.unwrap(), Err(Refused::Busy));
        assert_eq!(admission.load(), Load { running: 1, waiting: 0, at_once: 1, forwarded: 0 });
    }

    #[tokio::test]
    async fn a_caller_who_goes_away_cancels_the_call() {
        let admission = admission(1, 0);
        let (started, running) = oneshot::channel();
        let (gone, end) = oneshot::channel();
        {
            let permit = permit();
            let call = admission.run(&permit, admission.stopped(), |cancel, _| async move {
                let _ = started.send(());
                cancel.cancelled().await;
                let _ = gone.send(());
            });
            tokio::pin!(call);
            tokio::select! {
                _ = &mut call => panic!("it cannot end by itself"),
                running = running => running.unwrap(),
            }
        }
        end.await.unwrap();
        assert_eq!(
            admission.run(&permit(), admission.stopped(), |_, _| async { 1 }).await,
            Ok(1),
            "its turn is free again"
        );
    }

    #[tokio::test]
    async fn draining_lets_running_calls_end_and_refuses_new_ones() {
        let admission = admission(2, 0);
        let call = held(&admission);
        call.running.await.unwrap();
        admission.start_draining();
        assert_eq!(admission.run(&permit(), admission.stopped(), |_, _| async {}).await, Err(Refused::Draining));
        call.end.send(()).unwrap();
        assert_eq!(admission.drain(Duration::from_secs(60)).await, 0);
        assert_eq!(call.result.await.unwrap(), Ok("ended"));
    }

    #[tokio::test]
    async fn what_runs_after_the_drain_time_is_cancelled() {
        let admission = admission(1, 1);
        let call = held(&admission);
        call.running.await.unwrap();
        let waiting = held(&admission);
        while admission.load().waiting == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(admission.drain(Duration::from_millis(1)).await, 2);
        assert_eq!(call.result.await.unwrap(), Ok("cancelled"));
        assert_eq!(waiting.result.await.unwrap(), Err(Refused::Draining));
    }

    #[tokio::test]
    async fn a_panic_ends_one_call_and_frees_its_turn() {
        let admission = admission(1, 0);
        let broken = admission.run(&permit(), admission.stopped(), |_, _| async { panic!("put in by the test") }).await;
        assert_eq!(broken, Err::<(), _>(Refused::Panicked));
        assert_eq!(admission.run(&permit(), admission.stopped(), |_, _| async { 1 }).await, Ok(1));
    }

    #[tokio::test]
    async fn calls_that_wait_for_others_take_no_turns_and_have_a_limit_of_their_own() {
        let limits = Limits { calls_at_once: 1, waiting_max: 9, waiting_long_max: 2, ..Limits::default() };
        let (admission, permit) = (Admission::new(limits, 1.0), permit());
        let released = Arc::new(Semaphore::new(0));
        let wait = |turn: Arc<Turn>| {
            let released = Arc::clone(&released);
            async move {
                turn.wait().map_err(|error| error.code())?;
                released.acquire().await.map(drop).map_err(|_| "closed")
            }
        };
        let call = || admission.run(&permit, admission.stopped(), |_, turn| wait(turn));
        let ordinary = async {
            while admission.places.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let load = Load { running: 0, waiting: 0, at_once: 1, forwarded: 0 };
            assert_eq!(admission.load(), load, "others are not to think that it has much to do");
            assert_eq!(call().await, Ok(Err("busy")), "one more waits than may");
            assert_eq!(admission.run(&permit, admission.stopped(), |_, _| async { "ran" }).await, Ok("ran"));
            released.add_permits(2);
        };
        let (first, second, ()) = tokio::join!(call(), call(), ordinary);
        assert_eq!((first, second), (Ok(Ok(())), Ok(Ok(()))));
        assert_eq!(admission.places.available_permits(), 2);
    }

    #[tokio::test]
    async fn a_turn_that_is_laid_down_is_anothers_until_it_is_taken_up() {
        let (admission, permit) = (admission(1, 9), permit());
        let waits = admission.run(&permit, admission.stopped(), |_, turn| async move {
            turn.lay_down();
            tokio::task::yield_now().await;
            turn.take_up().await.map(|()| turn)
        });
        let (first, second) =
            tokio::join!(waits, admission.run(&permit, admission.stopped(), |_, _| async { "ran meanwhile" }));
        assert_eq!(second, Ok("ran meanwhile"));
        let turn = first.unwrap().unwrap();
        assert_eq!(admission.load().running, 0, "it ended with its call, though somebody knows of it");
        turn.take_up().await.unwrap();
        assert_eq!(admission.load().running, 0);
    }
}
