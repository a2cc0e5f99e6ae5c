//! Operations on hubs and the sessions of workers.

use std::time::Duration;

use super::{
    App, TaskError,
    tasks::{release_tasks, update_dependents},
};
use crate::{
    Namespace,
    db::{DbError, Tx},
    limits::{Invalid, SESSIONS_MAX, check_count, check_name},
    policy::Permit,
    session::{HubId, NewSession, SessionId, SessionToken},
    task::{Command, Task},
};

/// Tasks of lost sessions that one call of [`App::release_lost`] releases; if it returns as many, there may be more.
pub const LOST_MAX: usize = 100;

/// Why an operation on sessions failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There is no such session, or not with this token.
    #[error("there is no session {} with this token; it may have been lost: register again", .0.0)]
    Unknown(SessionId),
    /// The hub was taken to be gone.
    #[error("hub {} is not registered; it was silent for too long: register again", .0.0)]
    HubGone(HubId),
    /// What was asked for cannot be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl App {
    /// Register a hub, alive for `time` from now, and sessions of its workers. To do so again is no error.
    pub async fn join(
        &self,
        permit: &Permit,
        hub: &HubId,
        sessions: Vec<NewSession>,
        time: Duration,
    ) -> Result<(), SessionError> {
        check_name("hub", &hub.0)?;
        check_count("sessions", sessions.len(), SESSIONS_MAX)?;
        sessions.iter().try_for_each(NewSession::check)?;
        let hub = hub.clone();
        let join = async move |tx: &mut Tx<'_>| {
            tx.add_hub(&hub, tx.now().after(time)).await?;
            for session in &sessions {
                tx.add_session(session, &hub).await?;
            }
            Ok(())
        };
        self.db.write(permit, join).await
    }

    /// The hub is alive, and will be for `time` from now.
    pub async fn beat(&self, hub: &HubId, time: Duration) -> Result<(), SessionError> {
        let hub = hub.clone();
        let beat = async move |tx: &mut Tx<'_>| {
            let is_known = tx.prolong_hub(&hub, tx.now().after(time)).await?;
            if is_known { Ok(()) } else { Err(SessionError::HubGone(hub.clone())) }
        };
        self.db.write_as_hub(&Namespace::hubs(), beat).await
    }

    /// Attach a session to another hub. Returns the tasks that it holds.
    pub async fn attach(
        &self,
        permit: &Permit,
        session: &SessionId,
        token: &SessionToken,
        hub: &HubId,
    ) -> Result<Vec<Task>, SessionError> {
        let (session, token, hub) = (session.clone(), token.clone(), hub.clone());
        let attach = async move |tx: &mut Tx<'_>| {
            if !tx.has_hub(&hub).await? {
                return Err(SessionError::HubGone(hub.clone()));
            }
            if !tx.move_session(&session, &token, &hub).await? {
                return Err(SessionError::Unknown(session.clone()));
            }
            Ok(tx.tasks_of_session(&session).await?)
        };
        self.db.write(permit, attach).await
    }

    /// Unregister a hub. The tasks that its sessions hold in this namespace are released, and the sessions end.
    pub async fn leave(&self, permit: &Permit, hub: &HubId) -> Result<(), SessionError> {
        let hub = hub.clone();
        let leave = async move |tx: &mut Tx<'_>| {
            let mut tasks = tx.tasks_of_hub(&hub).await?;
            release_tasks(tx, &mut tasks).await?;
            tx.delete_sessions_of(&hub).await?;
            Ok(tx.delete_hub(&hub).await?)
        };
        self.db.write(permit, leave).await
    }

    /// Delete the hubs that have been silent for `grace` after their time was over. Returns their number.
    pub async fn expire_hubs(&self, grace: Duration) -> Result<u64, SessionError> {
        let expire = async move |tx: &mut Tx<'_>| Ok(tx.delete_silent_hubs(grace).await?);
        self.db.write_as_hub(&Namespace::hubs(), expire).await
    }

    /// Release the tasks of lost sessions, those of deleted hubs, at most [`LOST_MAX`] tasks, and end those sessions.
    /// Returns the tasks as they now are.
    pub async fn release_lost(&self, permit: &Permit) -> Result<Vec<Task>, TaskError> {
        let release = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let mut tasks = tx.lost_tasks(LOST_MAX).await?;
            for task in &mut tasks {
                let event = task.apply(Command::Lose, now)?;
                tx.save_task(task).await?;
                tx.append(event);
                update_dependents(tx, task).await?;
            }
            if tasks.len() < LOST_MAX {
                tx.delete_lost_sessions().await?;
            }
            Ok(tasks)
        };
        self.db.write(permit, release).await
    }
}
