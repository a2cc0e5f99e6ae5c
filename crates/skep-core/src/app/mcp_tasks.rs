//! Operations on MCP tasks.

use std::{sync::Arc, time::Duration};

use super::App;
use crate::{
    Timestamp,
    db::{DbError, Tx},
    limits::{Invalid, MCP_TASKS_BYTES_MAX, MCP_TASKS_MAX},
    mcp_task::{Holder, McpTask, McpTaskId, NewMcpTask, Refused, State, check_new, check_state},
    policy::{Call, Permit},
};

/// Tasks that are taken over at once; the others come with the next look.
pub const TAKEN_OVER_MAX: usize = 100;

/// Tasks that are deleted in one transaction. Other writes of the namespace wait meanwhile, and each task may have
/// some MiB.
const EXPIRED_MAX: usize = 100;

/// Why an operation on MCP tasks failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum McpTaskError {
    /// There is no such task, it has expired, or it is another principal's.
    #[error("there is no such task; it may have expired")]
    Unknown,
    /// The principal has [`MCP_TASKS_MAX`] tasks.
    #[error("there are {MCP_TASKS_MAX} tasks already; they are deleted some time after they end")]
    TooMany,
    /// The principal's tasks would take more than [`MCP_TASKS_BYTES_MAX`] bytes.
    #[error("the tasks take {MCP_TASKS_BYTES_MAX} bytes already; ask for smaller results, or wait until some expire")]
    Full,
    /// An argument is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The task's state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl App {
    /// Add a task for a call of the actor's that `holder` runs, and holds for `hold` from now. A principal may have
    /// [`MCP_TASKS_MAX`] tasks and [`MCP_TASKS_BYTES_MAX`] bytes of them.
    pub async fn create_mcp_task(
        &self,
        permit: &Permit<Call>,
        new: NewMcpTask,
        holder: &Holder,
        hold: Duration,
    ) -> Result<McpTask, McpTaskError> {
        let principal = permit.actor().principal.to_string();
        check_new(&principal, &new)?;
        let (bytes, holder) = (new.request.len(), holder.clone());
        let create = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let task = McpTask::new(principal.clone(), new.clone(), holder.clone(), hold, now);
            let (count, bytes) = tx.count_mcp_tasks(&task.principal).await?;
            if count >= MCP_TASKS_MAX {
                return Err(McpTaskError::TooMany);
            }
            if bytes + task.bytes() > MCP_TASKS_BYTES_MAX {
                return Err(McpTaskError::Full);
            }
            tx.add_mcp_task(&task).await?;
            Ok(task)
        };
        self.db.write_bytes(permit, bytes, create).await
    }

    /// Set the state of a task. Only the attempt that holds it can, and only until the task is over.
    pub async fn report_mcp_task(
        &self,
        permit: &Permit,
        id: &McpTaskId,
        (holder, attempt): (&Holder, u32),
        state: State,
    ) -> Result<McpTask, McpTaskError> {
        check_state(&state)?;
        let (id, holder, bytes) = (id.clone(), holder.clone(), state.content().map_or(0, str::len));
        let report = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let mut task = tx.mcp_task(&id).await?.ok_or(McpTaskError::Unknown)?;
            let before = task.bytes();
            task.report(&holder, attempt, state.clone(), now)?;
            if task.bytes() > before {
                let (_, bytes) = tx.count_mcp_tasks(&task.principal).await?;
                if bytes + task.bytes() - before > MCP_TASKS_BYTES_MAX && !matches!(task.state, State::Failed(_)) {
                    return Err(McpTaskError::Full);
                }
            }
            tx.save_mcp_task(&task).await?;
            Ok(task)
        };
        self.db.write_bytes(permit, bytes, report).await
    }

    /// Cancel a task of the actor's. One that is over stays as it is. Returns the task, and whether it was cancelled now.
    pub async fn cancel_mcp_task(
        &self,
        permit: &Permit<Call>,
        id: &McpTaskId,
    ) -> Result<(McpTask, bool), McpTaskError> {
        let (id, principal) = (id.clone(), Arc::clone(&permit.actor().principal));
        let cancel = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let task = tx.mcp_task(&id).await?.filter(|task| *task.principal == *principal);
            let mut task = task.ok_or(McpTaskError::Unknown)?;
            let cancelled = task.cancel(now).is_ok();
            if cancelled {
                tx.save_mcp_task(&task).await?;
            }
            Ok((task, cancelled))
        };
        self.db.write(permit, cancel).await
    }

    /// Hold these tasks for `hold` from now. Returns those that are still `holder`'s, with their attempts: the others
    /// were cancelled, have expired, or were taken over.
    pub async fn hold_mcp_tasks(
        &self,
        permit: &Permit,
        holder: &Holder,
        ids: Vec<McpTaskId>,
        hold: Duration,
    ) -> Result<Vec<(McpTaskId, u32)>, McpTaskError> {
        let holder = holder.clone();
        let renew = async move |tx: &mut Tx<'_>| {
            let until = tx.now().after(hold);
            Ok(tx.hold_mcp_tasks(&holder, &ids, until).await?)
        };
        self.db.write(permit, renew).await
    }

    /// Release a task, so that another attempt can take it over at once.
    pub async fn release_mcp_task(&self, permit: &Permit, id: &McpTaskId, holder: &Holder) -> Result<(), McpTaskError> {
        let (ids, holder) = (vec![id.clone()], holder.clone());
        let release = async move |tx: &mut Tx<'_>| {
            // Over for every hub, whatever its clock says.
            Ok(tx.hold_mcp_tasks(&holder, &ids, Timestamp(i64::MIN)).await.map(drop)?)
        };
        self.db.write(permit, release).await
    }

    /// Take over abandoned tasks, whose hold has ended, at most [`TAKEN_OVER_MAX`]. Each is working again, under its
    /// next attempt.
    pub async fn take_over_mcp_tasks(
        &self,
        permit: &Permit,
        holder: &Holder,
        hold: Duration,
    ) -> Result<Vec<McpTask>, McpTaskError> {
        let holder = holder.clone();
        let take = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let mut tasks = tx.abandoned_mcp_tasks(hold, TAKEN_OVER_MAX).await?;
            for task in &mut tasks {
                task.take_over(holder.clone(), hold, now);
                tx.save_mcp_task(task).await?;
            }
            Ok(tasks)
        };
        self.db.write(permit, take).await
    }

    /// Delete expired tasks, at most [`EXPIRED_MAX`] in one transaction. Returns their number.
    pub async fn expire_mcp_tasks(&self, permit: &Permit) -> Result<usize, McpTaskError> {
        let mut gone = 0;
        loop {
            let expire =
                async move |tx: &mut Tx<'_>| Ok::<_, McpTaskError>(tx.delete_expired_mcp_tasks(EXPIRED_MAX).await?);
            let count = self.db.write(permit, expire).await?;
            gone += count;
            if count < EXPIRED_MAX {
                return Ok(gone);
            }
        }
    }
}
