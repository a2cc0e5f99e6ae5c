//! Operations of workers that have no process which says that it is alive: they pull a task, and say from time to time that
//! they still work on it.
//!
//! ```text
//!   lease ──▶ task, attempt, session ──renew, renew, …──▶ finish, fail or give_back
//! ```
//!
//! Each task that is leased has a session of its own ([`crate::session`]), at a hub that is nothing but the time until
//! which the lease lasts. So a lease that is not renewed ends as all sessions do: its task is lost, and given out again.

use std::{collections::BTreeSet, time::Duration};

use super::{App, SessionError, TaskError, tasks::load};
use crate::{
    db::Tx,
    event::{EventKind, WorkerAttempt},
    limits::{
        Invalid, LEASE_MAX, LEASE_MIN, PROGRESS_BYTES_MAX, TASK_TAGS_MAX, check_count, check_name, check_range,
        check_text,
    },
    policy::Permit,
    session::{HubId, NewSession, SessionId},
    task::{Attempt, Command, Holder, Refused, Task, TaskId},
};

/// Which task a worker wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// From which queue.
    pub queue: String,
    /// Only tasks of these types; of any, if there are none.
    pub kinds: BTreeSet<String>,
    /// What the worker can do. It gets no task that requires something else.
    pub capabilities: BTreeSet<String>,
}

/// How far a worker has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How much is done, of a hundred.
    pub percent: Option<u8>,
    /// What it is doing.
    pub message: Option<String>,
}

impl Wanted {
    fn check(&self) -> Result<(), Invalid> {
        check_name("queue", &self.queue)?;
        for (what, names) in [("type", &self.kinds), ("capability", &self.capabilities)] {
            check_count("types or capabilities", names.len(), TASK_TAGS_MAX)?;
            names.iter().try_for_each(|name| check_name(what, name))?;
        }
        Ok(())
    }
}

impl Progress {
    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        *self == Progress::default()
    }

    fn check(&self) -> Result<(), Invalid> {
        check_range("percent", self.percent.unwrap_or(0).into(), 0, 100)?;
        self.message.as_deref().map_or(Ok(()), |message| check_text("the message", message, PROGRESS_BYTES_MAX))
    }
}

impl App {
    /// Start the next task of a queue that the worker wants and can do, if there is one. The holder's session, which must be
    /// new, holds it for `time`, and again for as long with each [`App::renew`].
    pub async fn lease(
        &self,
        permit: &Permit,
        wanted: Wanted,
        holder: Holder,
        time: Duration,
    ) -> Result<Option<Task>, TaskError> {
        wanted.check()?;
        check_lease(time)?;
        let new = NewSession { id: holder.session.clone(), worker: holder.worker.clone(), token: None };
        new.check()?;
        let lease = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let found = tx.fitting_task(&wanted.queue, &wanted.kinds, &wanted.capabilities).await?;
            let Some(mut task) = found else { return Ok(None) };
            let hub = hub_of(&holder.session);
            tx.add_hub(&hub, now.after(time)).await?;
            tx.add_session(&new, &hub).await?;
            tx.append(task.apply(Command::Start(holder.clone()), now)?);
            tx.save_started(&[&task]).await?;
            Ok::<_, TaskError>(Some(task))
        };
        self.db.write(permit, lease).await
    }

    /// The worker still works on a task, which is its for `time` more. What it says about that is told to who follows the task.
    pub async fn renew(
        &self,
        permit: &Permit,
        id: &TaskId,
        (by, session): (&Attempt, &SessionId),
        progress: Progress,
        time: Duration,
    ) -> Result<Task, TaskError> {
        progress.check()?;
        check_lease(time)?;
        let (id, by) = (id.clone(), by.clone());
        let tell = async move |tx: &mut Tx<'_>| {
            let task = held(tx, &id, &by).await?;
            if !progress.is_empty() {
                let Progress { percent, message } = progress.clone();
                let kind = EventKind::TaskProgress { attempt: WorkerAttempt::from(by.clone()), percent, message };
                tx.append(task.event(kind, tx.now()));
            }
            Ok::<_, TaskError>(task)
        };
        let task = self.db.write(permit, tell).await?;
        match self.beat(&hub_of(session), time).await {
            Ok(()) => Ok(task),
            // Its time was over, and somebody is about to release the task.
            Err(SessionError::HubGone(_) | SessionError::Unknown(_)) => Err(Refused::NotHeld.into()),
            Err(SessionError::Invalid(invalid)) => Err(invalid.into()),
            Err(SessionError::Db(error)) => Err(error.into()),
        }
    }

    /// The worker gives a task back unfinished. It is ready again, and no failure is counted.
    pub async fn give_back(
        &self,
        permit: &Permit,
        id: &TaskId,
        (by, session): (&Attempt, &SessionId),
    ) -> Result<Task, TaskError> {
        let (id, by, session) = (id.clone(), by.clone(), session.clone());
        let give_back = async move |tx: &mut Tx<'_>| {
            let mut task = held(tx, &id, &by).await?;
            let event = task.apply(Command::Release, tx.now())?;
            tx.save_task(&task).await?;
            tx.append(event);
            tx.delete_session(&session).await?;
            Ok(task)
        };
        self.db.write(permit, give_back).await
    }

    /// A session that was made by [`App::lease`] ends, because its task was answered. If nobody says so, it ends with its
    /// time.
    pub async fn end_lease(&self, permit: &Permit, session: &SessionId) -> Result<(), TaskError> {
        let session = session.clone();
        let end = async move |tx: &mut Tx<'_>| {
            let holds_something = !tx.tasks_of_session(&session).await?.is_empty();
            if !holds_something {
                tx.delete_session(&session).await?;
            }
            Ok::<_, TaskError>(())
        };
        self.db.write(permit, end).await
    }
}

/// The task, if this attempt holds it.
async fn held(tx: &mut Tx<'_>, id: &TaskId, by: &Attempt) -> Result<Task, TaskError> {
    let task = load(tx, id).await?;
    if task.state.is_over() {
        return Err(Refused::Over(task.state.name()).into());
    }
    if task.held().as_ref() != Some(by) {
        return Err(Refused::NotHeld.into());
    }
    if task.is_past_deadline(tx.now()) {
        return Err(Refused::PastDeadline.into());
    }
    Ok(task)
}

fn hub_of(session: &SessionId) -> HubId {
    HubId(format!("lease/{}", session.0))
}

fn check_lease(time: Duration) -> Result<(), Invalid> {
    check_range("the lease in seconds", time.as_secs(), LEASE_MIN.as_secs(), LEASE_MAX.as_secs())
}
