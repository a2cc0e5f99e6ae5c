//! Operations on MCP tasks.

use std::time::Duration;

use super::App;
use crate::{
    db::{DbError, Tx},
    limits::{Invalid, MCP_TASKS_BYTES_MAX, MCP_TASKS_MAX},
    mcp_task::{Holder, McpTask, McpTaskId, NewMcpTask, Refused, State, check_new, check_state},
    policy::Permit,
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
    /// The principal has as many as it may have.
    #[error("there are {MCP_TASKS_MAX} tasks already; they go some time after their end")]
    TooMany,
    /// The principal's tasks take as many bytes as they may.
    #[error("the tasks take {MCP_TASKS_BYTES_MAX} bytes already; ask for smaller results, or wait until some expire")]
    Full,
    /// What was asked for cannot be.
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
    /// Keep a call that `holder` runs, and holds for `hold` from now.
    ///
    /// What a principal may have is counted here.
    pub async fn create_mcp_task(
        &self,
        permit: &Permit,
        new: NewMcpTask,
        holder: &Holder,
        hold: Duration,
    ) -> Result<McpTask, McpTaskError> {
        check_new(&new)?;
        let (bytes, holder) = (new.request.len(), holder.clone());
        let create = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let task = McpTask::new(new.clone(), holder.clone(), hold, now);
            let (count, bytes) = tx.count_mcp_tasks(&task.principal, now).await?;
            if count >= MCP_TASKS_MAX {
                return Err(McpTaskError::TooMany);
            }
            if bytes + task.bytes() > MCP_TASKS_BYTES_MAX {
                return Err(McpTaskError::Full);
            }
            tx.add_mcp_task(&task).await?;
            Ok(task)
        };
        self.db.write_bytes(permit.namespace(), bytes, create).await
    }

    /// Say how far a task is. Only the attempt that holds it can, and only until it is over.
    pub async fn report_mcp_task(
        &self,
        permit: &Permit,
        id: &McpTaskId,
        (holder, attempt): (&Holder, u32),
        state: State,
    ) -> Result<McpTask, McpTaskError> {
        check_state(&state)?;
        let (id, holder) = (id.clone(), holder.clone());
        let report = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let mut task = tx.mcp_task(&id, now).await?.ok_or(McpTaskError::Unknown)?;
            let before = task.bytes();
            task.report(&holder, attempt, state.clone(), now)?;
            if task.bytes() > before {
                let (_, bytes) = tx.count_mcp_tasks(&task.principal, now).await?;
                if bytes + task.bytes() - before > MCP_TASKS_BYTES_MAX && !matches!(task.state, State::Failed(_)) {
                    return Err(McpTaskError::Full);
                }
            }
            tx.save_mcp_task(&task).await?;
            Ok(task)
        };
        self.db.write(permit.namespace(), report).await
    }

    /// Withdraw a principal's task. One that is over stays as it is. Says whether this has changed anything.
    pub async fn cancel_mcp_task(
        &self,
        permit: &Permit,
        principal: &str,
        id: &McpTaskId,
    ) -> Result<(McpTask, bool), McpTaskError> {
        let (id, principal) = (id.clone(), principal.to_owned());
        let cancel = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let task = tx.mcp_task(&id, now).await?.filter(|task| task.principal == principal);
            let mut task = task.ok_or(McpTaskError::Unknown)?;
            let cancelled = task.cancel(now).is_ok();
            if cancelled {
                tx.save_mcp_task(&task).await?;
            }
            Ok((task, cancelled))
        };
        self.db.write(permit.namespace(), cancel).await
    }

    /// Hold these tasks for `hold` from now. Gives those that are still `holder`'s, with their attempts: the others
    /// were withdrawn, have expired, or are another's.
    pub async fn hold_mcp_tasks(
        &self,
        permit: &Permit,
        holder: &Holder,
        ids: Vec<McpTaskId>,
        hold: Duration,
    ) -> Result<Vec<(McpTaskId, u32)>, McpTaskError> {
        let holder = holder.clone();
        let renew = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            Ok(tx.hold_mcp_tasks(&holder, &ids, now.after(hold), now).await?)
        };
        self.db.write(permit.namespace(), renew).await
    }

    /// Release a task, so that another attempt can take it over at once.
    pub async fn release_mcp_task(&self, permit: &Permit, id: &McpTaskId, holder: &Holder) -> Result<(), McpTaskError> {
        let (ids, holder) = (vec![id.clone()], holder.clone());
        let release = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            Ok(tx.hold_mcp_tasks(&holder, &ids, now, now).await.map(drop)?)
        };
        self.db.write(permit.namespace(), release).await
    }

    /// Take over tasks that nobody holds any more, at most [`TAKEN_OVER_MAX`]: each is working again, under its next
    /// attempt.
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
        self.db.write(permit.namespace(), take).await
    }

    /// Delete the tasks whose time is over, at most [`EXPIRED_MAX`] in one transaction. Gives their number.
    pub async fn expire_mcp_tasks(&self, permit: &Permit) -> Result<usize, McpTaskError> {
        let mut gone = 0;
        loop {
            let expire = async move |tx: &mut Tx<'_>| {
                let passed = tx.surely_past();
                Ok::<_, McpTaskError>(tx.expire_mcp_tasks(passed, EXPIRED_MAX).await?)
            };
            let count = self.db.write(permit.namespace(), expire).await?;
            gone += count;
            if count < EXPIRED_MAX {
                return Ok(gone);
            }
        }
    }
}
