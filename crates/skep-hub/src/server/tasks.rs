//! Where calls are kept that outlive their request: the protocol's tasks in the hub's store.
//!
//! The rules of the protocol are `skep-mcp`'s, those of the store `skep-core`'s; here one is put in the terms of the
//! other. Each process is a holder of its own, so that what a killed hub ran is known from what
//! this one runs.

use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};
use skep_core::{
    app::{App, McpTaskError},
    mcp_task::{self, Holder, McpTask, McpTaskId, NewMcpTask},
    policy::{self, Permit},
};
use skep_mcp::{
    message::ErrorObject,
    server::{
        BoxFuture, Principal, code,
        tasks::{HOLD, NewTask, NotKept, State, Task, TaskStore},
    },
};

use super::{mcp::refused, metrics};
use crate::hub::principals;

/// MCP tasks in the hub's store.
#[derive(Clone)]
pub(super) struct McpTaskStore {
    app: App,
    /// The hub's right to go on with what it or an earlier process began for its callers.
    permit: Permit,
    holder: Holder,
}

impl McpTaskStore {
    /// The tasks of a namespace, and this process as who runs some of them.
    pub(super) fn new(app: App, permit: Permit) -> McpTaskStore {
        #[expect(clippy::disallowed_methods, reason = "a listener is an edge")]
        let holder = Holder(ulid::Ulid::generate().to_string());
        McpTaskStore { app, permit, holder }
    }
}

impl TaskStore for McpTaskStore {
    fn create(&self, principal: &Arc<dyn Principal>, new: NewTask) -> BoxFuture<Result<Task, ErrorObject>> {
        let (McpTaskStore { app, holder, .. }, permit) = (self.clone(), permit_of(principal));
        Box::pin(async move {
            let NewTask { id, params, may_repeat } = new;
            let request = Box::<str>::from(params).into_string();
            let new = NewMcpTask { id: McpTaskId(id), request, may_repeat };
            let task = app.create_mcp_task(&permit?, new, &holder, HOLD).await.map_err(failed)?;
            metrics::task_created();
            read(task)
        })
    }

    fn get(&self, principal: &Arc<dyn Principal>, id: &str) -> BoxFuture<Result<Option<Task>, ErrorObject>> {
        let (app, permit, id) = (self.app.clone(), permit_of(principal), McpTaskId(id.to_owned()));
        Box::pin(async move {
            let found = app.db.mcp_task(&permit?, &id).await;
            found.map_err(|error| failed(error.into()))?.map(read).transpose()
        })
    }

    fn report(&self, id: &str, attempt: u32, state: State) -> BoxFuture<Result<Task, NotKept>> {
        let (McpTaskStore { app, permit, holder }, id) = (self.clone(), McpTaskId(id.to_owned()));
        Box::pin(async move {
            let reported = app.report_mcp_task(&permit, &id, (&holder, attempt), write(state)).await;
            let task = reported.map_err(not_kept)?;
            match task.state {
                mcp_task::State::Completed(_) => metrics::task_ended("completed"),
                mcp_task::State::Failed(_) => metrics::task_ended("failed"),
                _ => {}
            }
            read(task).map_err(NotKept::Refused)
        })
    }

    fn cancel(&self, principal: &Arc<dyn Principal>, id: &str) -> BoxFuture<Result<Option<Task>, ErrorObject>> {
        let (app, permit, id) = (self.app.clone(), permit_of(principal), McpTaskId(id.to_owned()));
        Box::pin(async move {
            match app.cancel_mcp_task(&permit?, &id).await {
                Ok((task, cancelled)) => {
                    if cancelled {
                        metrics::task_ended("cancelled");
                    }
                    read(task).map(Some)
                }
                Err(McpTaskError::Unknown) => Ok(None),
                Err(error) => Err(failed(error)),
            }
        })
    }

    fn hold(&self, ids: Vec<String>) -> BoxFuture<Result<Vec<(String, u32)>, ErrorObject>> {
        let McpTaskStore { app, permit, holder } = self.clone();
        Box::pin(async move {
            let ids = ids.into_iter().map(McpTaskId).collect();
            let held = app.hold_mcp_tasks(&permit, &holder, ids, HOLD).await.map_err(failed)?;
            Ok(held.into_iter().map(|(id, attempt)| (id.0, attempt)).collect())
        })
    }

    fn release(&self, id: &str) -> BoxFuture<Result<(), ErrorObject>> {
        let (McpTaskStore { app, permit, holder }, id) = (self.clone(), McpTaskId(id.to_owned()));
        Box::pin(async move { app.release_mcp_task(&permit, &id, &holder).await.map_err(failed) })
    }

    fn principal(&self, name: &Arc<str>) -> Arc<dyn Principal> {
        principals::carried(&principals::from_store(name))
    }

    fn take_over(&self) -> BoxFuture<Result<Vec<Task>, ErrorObject>> {
        let McpTaskStore { app, permit, holder } = self.clone();
        Box::pin(async move {
            app.expire_mcp_tasks(&permit).await.map_err(failed)?;
            let taken = app.take_over_mcp_tasks(&permit, &holder, HOLD).await.map_err(failed)?;
            taken.into_iter().map(read).collect()
        })
    }
}

/// The caller's right to its calls.
fn permit_of(principal: &Arc<dyn Principal>) -> Result<Permit<policy::Call>, ErrorObject> {
    principals::actor_of(principal).permit().map_err(|denied| refused(denied.into()))
}

/// As the store has it, in the protocol's terms.
fn read(task: McpTask) -> Result<Task, ErrorObject> {
    let broken = |_| ErrorObject::new(code::INTERNAL_ERROR, "what the store has of this task cannot be read");
    let raw = |text: String| RawValue::from_string(text).map_err(broken);
    let state = match task.state {
        mcp_task::State::Working => State::Working,
        mcp_task::State::InputRequired(requests) => State::InputRequired(raw(requests)?),
        mcp_task::State::Completed(result) => State::Completed(raw(result)?),
        mcp_task::State::Failed(error) => State::Failed(serde_json::from_str(&error).map_err(broken)?),
        mcp_task::State::Cancelled => State::Cancelled,
    };
    let time = |at: skep_core::Timestamp| jiff::Timestamp::from_microsecond(at.0).unwrap_or_default();
    Ok(Task {
        id: task.id.0,
        principal: Arc::from(task.principal),
        params: raw(task.request)?,
        may_repeat: task.may_repeat,
        attempt: task.attempt,
        state,
        created: time(task.created),
        updated: time(task.updated),
        expires: time(task.expires),
    })
}

/// As the protocol has it, in the store's terms.
fn write(state: State) -> mcp_task::State {
    let text = |raw: Box<RawValue>| Box::<str>::from(raw).into_string();
    match state {
        State::Working => mcp_task::State::Working,
        State::InputRequired(requests) => mcp_task::State::InputRequired(text(requests)),
        State::Completed(result) => mcp_task::State::Completed(text(result)),
        State::Failed(error) => mcp_task::State::Failed(to_raw_value(&error).map_or_else(|_| "{}".to_owned(), text)),
        State::Cancelled => mcp_task::State::Cancelled,
    }
}

fn not_kept(error: McpTaskError) -> NotKept {
    match error {
        McpTaskError::Unknown | McpTaskError::Refused(_) => NotKept::Lost,
        McpTaskError::TooMany | McpTaskError::Full | McpTaskError::Invalid(_) => NotKept::Refused(failed(error)),
        McpTaskError::Db(_) => NotKept::Later(failed(error)),
    }
}

fn failed(error: McpTaskError) -> ErrorObject {
    let code = match &error {
        McpTaskError::TooMany | McpTaskError::Full => code::BUSY,
        McpTaskError::Db(error) if error.may_pass() => code::BUSY,
        McpTaskError::Unknown => code::INVALID_PARAMS,
        _ => code::INTERNAL_ERROR,
    };
    ErrorObject::new(code, error.to_string())
}
