//! What is taken away from workers while they work on it: a task that is cancelled, or whose deadline passes. The call is
//! stopped, and with it what it has started.
//!
//! Whoever takes a task away writes an event; one reader in the pool's process tells it to the worker. A task that was lost
//! is no such case: its worker may be about to answer, and what it says is kept for people.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skep_core::{
    app::{App, EventFollower},
    db::{DbError, News},
    event::{Event, EventFilter, EventKind, WorkerAttempt},
    policy::{Permit, Read},
    task::TaskId,
};
use tokio_util::sync::CancellationToken;

/// Attempts that are remembered because they were taken away before their worker said that it has them.
const EARLY_MAX: usize = 1_000;
/// How long to wait before the store is asked again that has failed.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The attempts that are under way in this process.
#[derive(Default)]
pub(super) struct Attempts(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    under_way: HashMap<Attempt, CancellationToken>,
    /// Those that were taken away, the newest last.
    early: VecDeque<Attempt>,
}

/// A task, and the number of the attempt at it.
type Attempt = (TaskId, u32);

/// An attempt that is under way until this is dropped.
pub(super) struct UnderWay {
    attempts: Arc<Attempts>,
    attempt: Attempt,
    /// Cancelled when the worker is to stop, or has the task no longer.
    pub(super) stop: CancellationToken,
}

impl Attempts {
    /// A worker that stops with `stop` begins an attempt.
    pub(super) fn begin(self: &Arc<Self>, id: &TaskId, number: u32, stop: &CancellationToken) -> UnderWay {
        let (attempt, stop) = ((id.clone(), number), stop.child_token());
        let mut inside = self.inside();
        if inside.early.contains(&attempt) {
            stop.cancel();
        }
        inside.under_way.insert(attempt.clone(), stop.clone());
        UnderWay { attempts: Arc::clone(self), attempt, stop }
    }

    /// Tell workers what is taken away from them, from the events that `follower` reads. Never returns.
    pub(super) async fn follow(&self, mut follower: EventFollower) {
        loop {
            match follower.next().await {
                Ok(News::Events(events)) => events.iter().for_each(|event| self.take_away(event)),
                Ok(News::Reset { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "could not look for tasks that are cancelled");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    fn take_away(&self, event: &Event) {
        let (Some(id), Some(WorkerAttempt { attempt, .. })) = (&event.task, taken_away(&event.kind)) else { return };
        let (attempt, mut inside) = ((id.clone(), *attempt), self.inside());
        match inside.under_way.get(&attempt) {
            Some(stop) => stop.cancel(),
            None => {
                inside.early.push_back(attempt);
                if inside.early.len() > EARLY_MAX {
                    inside.early.pop_front();
                }
            }
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.attempts.inside().under_way.remove(&self.attempt);
    }
}

/// Reads what [`Attempts::follow`] needs, from now on.
pub(super) async fn follower(app: &App, permit: &Permit<Read>) -> Result<EventFollower, DbError> {
    let kinds = ["task.cancelled", "task.expired"].map(str::to_owned).to_vec();
    let mut follower = app.follow(permit, EventFilter { kinds, ..EventFilter::default() }, 0);
    follower.skip_to_end().await?;
    Ok(follower)
}

fn taken_away(kind: &EventKind) -> Option<&WorkerAttempt> {
    match kind {
        EventKind::TaskCancelled { attempt } | EventKind::TaskExpired { attempt, .. } => attempt.as_ref(),
        _ => None,
    }
}
