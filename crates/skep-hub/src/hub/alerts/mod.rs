//! Alerts that a hub raises about itself: too many errors, slow answers, a full Redis, events of other hubs that come late.
//!
//! A look every [`LOOK_EVERY`] takes what calls have added up to anyway, and decides ([`rules`]). What it finds is shown by
//! `/health` and `/metrics`, and each change is an event in the team's log. Events wait for the database while it is gone, and
//! an alert that came and went meanwhile leaves none.

pub(crate) mod rules;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rules::{Kind, State, Window, figures};
use skep_core::{Timestamp, alert::Alert, app::App, db::DbError, policy::Permit};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    events::rfc3339,
    hub::calls::{Calls, log::now},
};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long to wait before an event is written that could not be.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Time for the last events when the hub stops.
const CLEAR_TIME_MAX: Duration = Duration::from_secs(1);

/// The alerts of this hub.
pub(crate) struct Alerts {
    calls: Arc<Calls>,
    /// Where events are written, if anywhere.
    store: Option<(App, Permit)>,
    hub: Arc<str>,
    board: Mutex<Board>,
    changed: Notify,
}

#[derive(Default)]
struct Board {
    window: Window,
    figures: [Option<f64>; Kind::ALL.len()],
    states: [State; Kind::ALL.len()],
}

impl Alerts {
    /// Those of the hub of this name, which makes these calls.
    pub(crate) fn new(calls: Arc<Calls>, store: Option<(App, Permit)>, hub: Arc<str>) -> Alerts {
        Alerts { calls, store, hub, board: Mutex::default(), changed: Notify::new() }
    }

    /// Those that are raised now.
    pub(crate) fn raised(&self) -> Vec<api::Alert> {
        let shown = |(kind, state): (Kind, State)| match state {
            State::Clear => None,
            State::Raised { since, value, .. } => {
                let (code, threshold) = (kind.code().to_owned(), kind.threshold());
                Some(api::Alert { code, value, threshold, since: rfc3339(since) })
            }
        };
        self.states().filter_map(shown).collect()
    }

    /// How each alert is.
    pub(crate) fn states(&self) -> impl Iterator<Item = (Kind, State)> + use<> {
        Kind::ALL.into_iter().zip(self.board().states)
    }

    /// Look, and tell what changes, until `stop` is cancelled; then what is raised counts as cleared.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut told = [false; Kind::ALL.len()];
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.look_again_and_again() => {}
            () = self.tell_changes(&mut told) => {}
        }
        let cleared = async {
            for (index, kind) in Kind::ALL.into_iter().enumerate().filter(|(index, _)| told[*index]) {
                self.tell(kind, false, self.figure(index)).await?;
            }
            Ok::<_, DbError>(())
        };
        if !matches!(timeout(CLEAR_TIME_MAX, cleared).await, Ok(Ok(()))) {
            tracing::debug!("the event log was not told that the alerts of this hub are over");
        }
    }

    async fn look_again_and_again(&self) {
        let mut every = interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.look(Instant::now(), now());
        }
    }

    fn look(&self, now: Instant, at: Timestamp) {
        let (totals, db) = (self.calls.log.totals(), self.store.as_ref().map(|(app, _)| &app.db));
        let (redis, sync_lag) = (db.and_then(|db| db.redis()), db.and_then(|db| db.sync_lag()));
        let mut board = self.board();
        let recent = board.window.recent(totals, now);
        board.figures = figures(&recent, redis.as_ref(), sync_lag);
        let mut has_changed = false;
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            let (before, figure) = (board.states[index], board.figures[index]);
            let next = before.next(figure, kind.threshold(), now, at);
            if (before == State::Clear) != (next == State::Clear) {
                has_changed = true;
                log(kind, next, figure);
            }
            board.states[index] = next;
        }
        drop(board);
        if has_changed {
            self.changed.notify_one();
        }
    }

    /// Have an event for each alert that is raised, and one for each that is cleared after that. Never returns.
    async fn tell_changes(&self, told: &mut [bool; Kind::ALL.len()]) {
        loop {
            self.changed.notified().await;
            for (index, kind) in Kind::ALL.into_iter().enumerate() {
                loop {
                    // It may change again while its event cannot be written.
                    let is_raised = self.board().states[index] != State::Clear;
                    if is_raised == told[index] {
                        break;
                    }
                    match self.tell(kind, is_raised, self.figure(index)).await {
                        // An event that may have been written is not written once more.
                        Ok(()) | Err(DbError::Unsure(_)) => told[index] = is_raised,
                        Err(error) => {
                            tracing::debug!(%error, alert = kind.code(), "the event of an alert waits for the database");
                            sleep(RETRY_INTERVAL).await;
                        }
                    }
                }
            }
        }
    }

    async fn tell(&self, kind: Kind, is_raised: bool, value: Option<f64>) -> Result<(), DbError> {
        let Some((app, permit)) = &self.store else { return Ok(()) };
        let (alert, hub) = (kind.code().to_owned(), self.hub.to_string());
        let alert = Alert { alert, hub, value, threshold: kind.threshold() };
        if is_raised { app.raise_alert(permit, alert).await } else { app.clear_alert(permit, alert).await }
    }

    fn figure(&self, index: usize) -> Option<f64> {
        self.board().figures[index]
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log(kind: Kind, state: State, value: Option<f64>) {
    let (alert, threshold) = (kind.code(), kind.threshold());
    match state {
        State::Clear => tracing::info!(alert, threshold, value, "an alert is over"),
        State::Raised { .. } => tracing::warn!(alert, threshold, value, "an alert is raised"),
    }
}
