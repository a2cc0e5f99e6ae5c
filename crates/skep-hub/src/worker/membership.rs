//! This process as a hub among those that share the store: it says that it is alive while its workers work, and looks
//! for hubs that do not say so any more.

use std::time::Duration;

use skep_core::{
    app::{App, SessionError},
    policy::Permit,
    retention::KeepShared,
    session::{ATTACH_TIME, HUB_BEAT, HUB_TIME, HubId, NewSession, SessionId},
    task::{Holder, WorkerId},
};
use tokio::{sync::watch, time::MissedTickBehavior};

use super::patience::PATIENCE;

/// How often a hub deletes what has expired; nobody sees that any more.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// How often a hub deletes what is kept no longer.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// A hub with a session for each of its workers.
pub(super) struct Membership {
    app: App,
    permit: Permit,
    workers: Vec<WorkerId>,
    /// Under which name. Another one once the store has taken us to be gone.
    hub: watch::Sender<HubId>,
}

/// What a worker needs to claim tasks.
#[derive(Clone)]
pub(super) struct Seat {
    worker: WorkerId,
    hub: watch::Receiver<HubId>,
}

impl Seat {
    /// The worker as it is registered now.
    pub(super) fn holder(&self) -> Holder {
        let session = session_of(&self.hub.borrow(), &self.worker);
        Holder { worker: self.worker.clone(), session }
    }
}

impl Membership {
    /// Register, with these workers.
    pub(super) async fn join(app: App, permit: Permit, workers: Vec<WorkerId>) -> Result<Membership, SessionError> {
        let membership = Membership { app, permit, workers, hub: watch::Sender::new(new_id()) };
        PATIENCE.ask(|| membership.register()).await?;
        Ok(membership)
    }

    /// The place of a worker.
    pub(super) fn seat(&self, worker: WorkerId) -> Seat {
        Seat { worker, hub: self.hub.subscribe() }
    }

    /// Say again and again that we are alive, and look for those that are not. Never returns.
    pub(super) async fn keep(&self) {
        let mut beat = tokio::time::interval(HUB_BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await; // the first is at once, and we have just joined
        loop {
            beat.tick().await;
            let hub = self.hub.borrow().clone();
            let kept = match self.app.beat(&hub, HUB_TIME).await {
                Err(SessionError::HubGone(_)) => {
                    tracing::warn!("this process was silent for too long; its tasks may have been given out again");
                    self.hub.send_replace(new_id());
                    self.register().await
                }
                other => other,
            };
            if let Err(error) = kept {
                tracing::warn!(%error, "the store does not hear that this process is alive");
            }
            look_for_lost(&self.app, &self.permit).await;
            look_for_expired(&self.app, &self.permit).await;
        }
    }

    /// Leave in good order; what the workers still have is given back.
    pub(super) async fn leave(&self) -> Result<(), SessionError> {
        let hub = self.hub.borrow().clone();
        self.app.leave(&self.permit, &hub).await
    }

    async fn register(&self) -> Result<(), SessionError> {
        let hub = self.hub.borrow().clone();
        let session =
            |worker: &WorkerId| NewSession { id: session_of(&hub, worker), worker: worker.clone(), token: None };
        let sessions = self.workers.iter().map(session).collect();
        self.app.join(&self.permit, &hub, sessions, HUB_TIME).await
    }
}

/// The job of every hub: again and again, give out what workers had that are gone, end tasks whose deadline has passed, and
/// delete what has expired. Never returns.
pub async fn watch_over(app: App, permit: Permit) {
    let (mut look, mut expire) = (tokio::time::interval(HUB_BEAT), tokio::time::interval(EXPIRE_EVERY));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    expire.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {
                look_for_lost(&app, &permit).await;
                look_for_expired(&app, &permit).await;
            }
            _ = expire.tick() => {
                if let Err(error) = app.expire_memory().await {
                    tracing::warn!(%error, "could not delete memory entries that have expired");
                }
            }
        }
    }
}

/// Another job of every hub: again and again, delete what agents share and is not to be kept any longer. Never returns.
pub async fn keep_shared_within(app: App, permit: Permit, keep: KeepShared) {
    let mut prune = tokio::time::interval(PRUNE_EVERY);
    prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        prune.tick().await;
        if let Err(error) = app.prune_shared(&permit, keep).await {
            tracing::warn!(%error, "could not delete what agents share and is old");
        }
    }
}

async fn look_for_lost(app: &App, permit: &Permit) {
    if let Err(error) = release_lost(app, permit).await {
        tracing::warn!(%error, "could not look for workers that are gone");
    }
}

async fn release_lost(app: &App, permit: &Permit) -> anyhow::Result<()> {
    if app.db.has_silent_hubs(ATTACH_TIME).await? {
        app.expire_hubs(ATTACH_TIME).await?;
    }
    while app.db.has_lost(&permit.to_read()).await? {
        let tasks = app.release_lost(permit).await?;
        tracing::info!(tasks = tasks.len(), "the worker of these tasks is gone; they are given out again");
    }
    Ok(())
}

async fn look_for_expired(app: &App, permit: &Permit) {
    if let Err(error) = expire_tasks(app, permit).await {
        tracing::warn!(%error, "could not look for tasks whose deadline has passed");
    }
}

async fn expire_tasks(app: &App, permit: &Permit) -> anyhow::Result<()> {
    while app.db.has_expired(&permit.to_read()).await? {
        let tasks = app.expire_tasks(permit).await?;
        tracing::info!(tasks = tasks.len(), "the deadline of these tasks has passed; they have failed");
    }
    Ok(())
}

fn session_of(hub: &HubId, worker: &WorkerId) -> SessionId {
    SessionId(format!("{}/{}", hub.0, worker.0))
}

#[expect(clippy::disallowed_methods, reason = "a process gives itself a name")]
fn new_id() -> HubId {
    HubId(ulid::Ulid::generate().to_string())
}
