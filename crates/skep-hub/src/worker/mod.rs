//! Does tasks: workers that claim them from queues, call their tools and bring the answers.
//!
//! ```text
//!   queue ──claim──▶ task ──job──▶ templates ──▶ call of a tool, here or on a hub
//!     ▲                                               │
//!     └────────── the next task ◀── finish / fail ────┘
//! ```
//!
//! A worker knows no plan and nobody who submitted a task: what it needs is in the task ([`Job`]), in its run, and in the
//! results of what it depends on. So whichever process claims a task can do it. While workers are at work, their process
//! says that it is alive; what they had is given out again once it does not (`membership.rs`).

mod claim_loop;
mod failure;
mod job;
mod membership;
mod patience;
mod printed;
mod runs;
mod withdrawn;

use std::{sync::Arc, time::Duration};

use claim_loop::ClaimLoop;
pub use job::{Answer, Job, JobError, Work, ended};
use membership::Membership;
pub use membership::{keep_shared_within, watch_over};
pub(crate) use patience::PATIENCE;
pub use printed::{Printed, channel as printed};
use runs::Runs;
use skep_core::{app::App, policy::Permit, task::WorkerId};
use skep_tools::workspace::Dir;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use withdrawn::Attempts;

use crate::executor::Executor;

/// How long a worker without work waits before it looks again although nobody called.
pub(crate) const POLL: Duration = Duration::from_secs(1);

/// What the workers of a process share.
pub struct Pool {
    /// The store's operations.
    pub app: App,
    /// The right to use them.
    pub permit: Permit,
    /// Where tools are called.
    pub executor: Arc<Executor>,
    /// The files that tools see.
    pub workspace: Dir,
    /// Where tasks leave files, each in a directory of its name.
    pub outputs: Dir,
    /// Who wants to see what commands print while they run.
    pub watcher: Option<mpsc::Sender<Printed>>,
}

/// A worker of a pool.
pub struct Worker {
    /// Its name, which no other worker of the pool has.
    pub id: WorkerId,
    /// The queue that it claims tasks from.
    pub queue: String,
}

/// The store failed, or a worker did. What was done is kept, and tasks in progress are given out again.
#[derive(Debug, thiserror::Error)]
#[error("the store failed while tasks were worked on")]
pub struct WorkError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl WorkError {
    fn of(error: impl std::error::Error + Send + Sync + 'static) -> WorkError {
        WorkError(Box::new(error))
    }
}

impl Pool {
    /// Do tasks until `stop` is cancelled. A task that is being done then is given back.
    pub async fn work(self, workers: Vec<Worker>, stop: CancellationToken) -> Result<(), WorkError> {
        let stop = stop.child_token();
        let names = workers.iter().map(|worker| worker.id.clone()).collect();
        let membership = Membership::join(self.app.clone(), self.permit.clone(), names).await.map_err(WorkError::of)?;
        let runs = Arc::new(Runs::new(self.app.clone(), self.permit.to_read()));
        let (attempts, reads) = (Arc::new(Attempts::default()), self.permit.to_read());
        let taken_away = PATIENCE.ask(|| withdrawn::follower(&self.app, &reads)).await.map_err(WorkError::of)?;
        let pool = Arc::new(self);
        let mut loops = JoinSet::new();
        for Worker { id, queue } in workers {
            let (pool, seat, runs) = (Arc::clone(&pool), membership.seat(id), Arc::clone(&runs));
            let (attempts, stop) = (Arc::clone(&attempts), stop.clone());
            loops.spawn(ClaimLoop { pool, queue, seat, runs, attempts, stop }.run());
        }
        let worked = tokio::select! {
            failed = first_failure(&mut loops) => Err(failed),
            () = stop.cancelled() => Ok(()),
            () = membership.keep() => Ok(()), // it never ends
            () = attempts.follow(taken_away) => Ok(()), // neither does this
        };
        stop.cancel();
        while loops.join_next().await.is_some() {}
        if let Err(error) = PATIENCE.ask(|| membership.leave()).await {
            tracing::warn!(%error, "the store did not hear that this process stops working"); // it will notice
        }
        worked
    }
}

/// The first worker that fails; pending while all are well.
async fn first_failure(loops: &mut JoinSet<Result<(), WorkError>>) -> WorkError {
    loop {
        match loops.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return error,
            Some(Err(panic)) => return WorkError::of(panic),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
