//! A run: a swarm of agents that works through a plan.
//!
//! ```text
//!   plan ──coordinator──▶ tasks in the store ◀──claim── workers: actors, observers, coordinator
//!                              │ ▲                           │
//!                              │ └──finish / fail────────────┘ a call of a tool, here or on a hub
//!                              ▼
//!                         event log ──▶ progress, logs, other processes
//! ```
//!
//! The **coordinator** decomposes (one task for each step, with its dependencies, in one transaction), waits until
//! nothing is left to do, and aggregates the report. The tasks are done by workers ([`crate::worker`]), so many for each
//! role. They know nothing of each other or of the plan: they claim what is ready from their role's queue. The store is
//! the message bus; a wake-up says only "look again".
//!
//! A run is worked on by one process at a time, which holds a lock on the run's directory; the kernel frees it when
//! that process dies, however it dies. So a run that was killed can be taken over at once (`resume`): tasks that were
//! finished stay finished, those that were under way are given back and start again.

mod archive;
mod report;

use std::{collections::HashMap, sync::Arc, time::Duration};

pub use archive::{Archive, DeleteError, bytes_in};
pub use report::{Report, TaskReport};
use serde_json::{Value, json};
use skep_core::{
    Json, Timestamp,
    app::{self, App},
    db::{Db, DbError},
    limits::PAGE_MAX,
    policy::{Permit, Read},
    run::{End, NewRun, Refused, RunId, State},
    task::{NewTask, Summary, TaskId, WorkerId},
};
use skep_plan::{Plan, Role, Step};
use skep_tools::{parts::SANDBOXED, sandboxed::SandboxOnDemand, workspace::Dir};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Agents,
    executor::Executor,
    hub::{Callers, Hub, Store},
    remote::Hubs,
    state::RunDirectory,
    worker::{Job, PATIENCE, POLL, Pool, Printed, WorkError, Worker},
};

/// Wait before a failed task is tried again; doubled for each further time.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What it takes to work on runs; cheap to clone.
#[derive(Clone)]
pub struct Swarm {
    /// The store's operations.
    pub app: App,
    /// The right to use them.
    pub permit: Permit,
    /// Where tools are called.
    pub executor: Arc<Executor>,
    /// How many agents.
    pub agents: Agents,
    /// Who wants to see what commands print while they run.
    pub watcher: Option<mpsc::Sender<Printed>>,
    /// Where commands run, unless hubs are asked to run them.
    pub sandbox: Option<SandboxOnDemand>,
}

/// Why a run could not be worked on. What it has done so far is kept.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store refused or failed.
    #[error("the store failed while the run was under way; continue with `skep resume`")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The report could not be written.
    #[error("the run's directory cannot be written")]
    Directory(#[from] std::io::Error),
    /// The stored plan does not fit this program.
    #[error("the stored plan cannot be read: {0}")]
    Plan(String),
}

impl From<WorkError> for RunError {
    fn from(WorkError(error): WorkError) -> RunError {
        RunError::Store(error)
    }
}

fn store<E: std::error::Error + Send + Sync + 'static>(error: E) -> RunError {
    RunError::Store(Box::new(error))
}

/// How a piece of work on a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Every task is over; the report says how.
    Over(Box<Report>),
    /// It was told to stop. `skep resume` continues.
    Interrupted,
}

impl Swarm {
    /// A swarm that calls its tools in `workspace`, or on the configured hubs.
    pub fn of(store: &Store, workspace: &Dir, outputs: &Dir) -> anyhow::Result<Swarm> {
        let settings = &store.settings;
        let hub = Hub::new(settings, Some(store.clone()), Callers::Process, workspace, outputs);
        let (executor, sandbox) = match settings.hubs.as_slice() {
            [] => (Executor::Local(hub.calls), Some(hub.sandbox)),
            urls => {
                let token = settings.token()?.map(|token| token.reveal().to_owned());
                let hubs = Arc::new(Hubs::new(urls, token)?);
                (Executor::Hubs { hubs, fallback: hub.calls }, None)
            }
        };
        Ok(Swarm {
            app: store.app.clone(),
            permit: store.permit.clone(),
            executor: Arc::new(executor),
            agents: settings.agents,
            watcher: None,
            sandbox,
        })
    }

    /// Start the sandbox, if a task that waits for no other runs in it: that takes about as long as to write the run down.
    /// Nobody need wait for it. Should it fail, the task hears why when it needs the sandbox.
    pub fn start_sandbox(&self, plan: &Plan) -> JoinSet<()> {
        let mut starting = JoinSet::new();
        let is_first = |step: &&Step| step.depends_on.is_empty() && step.when.is_none();
        if let Some(sandbox) = &self.sandbox
            && plan.tasks.iter().filter(is_first).any(|step| SANDBOXED.contains(&&*step.tool))
        {
            let sandbox = sandbox.clone();
            starting.spawn(async move { drop(sandbox.get().await) });
        }
        starting
    }

    /// Put a plan into the store as a run with its tasks.
    pub async fn submit(&self, id: &RunId, plan: &Plan, workspace: &Dir) -> Result<(), RunError> {
        let run = NewRun {
            id: id.clone(),
            name: plan.name.clone(),
            plan: plan.to_json().into(),
            inputs: Value::Object(plan.inputs.clone()).into(),
            directory: workspace.path().display().to_string(),
        };
        let tasks: Vec<NewTask> = plan.tasks.iter().map(|step| new_task(id, step)).collect();
        let start = || self.app.start_run(&self.permit, run.clone(), tasks.clone());
        PATIENCE.ask(start).await.map_err(store)?;
        Ok(())
    }

    /// Work on a run until every task is over or `stop` is cancelled.
    pub async fn work(
        &self,
        id: &RunId,
        plan: &Plan,
        workspace: Dir,
        directory: &RunDirectory,
        stop: CancellationToken,
    ) -> Result<Ended, RunError> {
        let done = stop.child_token();
        let pool = Pool {
            app: self.app.clone(),
            permit: self.permit.clone(),
            executor: Arc::clone(&self.executor),
            workspace,
            outputs: directory.outputs().clone(),
            watcher: self.watcher.clone(),
        };
        let work = async {
            let worked = pool.work(self.workers(id, plan), done.clone()).await;
            done.cancel();
            worked
        };
        let coordinate = async {
            let over = tokio::select! {
                over = self.until_over(id) => over.map(|()| true),
                () = done.cancelled() => Ok(false),
            };
            done.cancel();
            over
        };
        let (worked, over) = tokio::join!(work, coordinate);
        worked?;
        if over? {
            let report = self.finish(id, plan, directory).await?;
            return Ok(Ended::Over(Box::new(report)));
        }
        match PATIENCE.ask(|| self.app.interrupt_run(&self.permit, id)).await {
            Ok(_) => Ok(Ended::Interrupted),
            // Somebody has called it off meanwhile.
            Err(app::RunError::Refused(Refused::Over(_))) => {
                Ok(Ended::Over(Box::new(self.finish(id, plan, directory).await?)))
            }
            Err(error) => Err(store(error)),
        }
    }

    /// Returns when no task of the run is waiting or under way.
    async fn until_over(&self, id: &RunId) -> Result<(), RunError> {
        let permit = self.permit.to_read();
        let mut watch = self.app.db.watch(&permit);
        loop {
            watch.mark_seen();
            let counts = PATIENCE.ask(|| self.app.db.count_tasks(&permit, id)).await.map_err(store)?;
            if counts.pending + counts.in_progress == 0 {
                return Ok(());
            }
            // Time-out or wake-up: either way, look again.
            let _ = tokio::time::timeout(POLL, watch.changed()).await;
        }
    }

    /// Aggregate what the tasks left, and end the run, unless somebody has called it off.
    async fn finish(&self, id: &RunId, plan: &Plan, directory: &RunDirectory) -> Result<Report, RunError> {
        let (db, permit) = (&self.app.db, &self.permit.to_read());
        let run = db.run(permit, id).await.map_err(store)?;
        let run = run.ok_or_else(|| RunError::Plan(format!("there is no run {}", id.0)))?;
        let mut report = Report::gather(&self.app, permit, &run, run.state, plan).await?;
        let end = if report.succeeded() { End::Completed } else { End::Failed };
        if !run.state.is_over() {
            report.status = State::from(end).name().to_owned();
        }
        report.write_markdown(plan).await;
        directory.write("report.md", report.markdown.as_bytes())?;
        let all = serde_json::to_value(&report).map_err(store)?;
        directory.write("report.json", format!("{all:#}\n").as_bytes())?;
        if run.state.is_over() {
            return Ok(report);
        }
        // The answers are in the tasks already; the store keeps of the report what is only there.
        let kept = Json::from(json!({ "markdown": report.markdown }));
        match PATIENCE.ask(|| self.app.end_run(&self.permit, id, end, Some(kept.clone()))).await {
            Ok(_) => Ok(report),
            // Called off this very moment.
            Err(app::RunError::Refused(Refused::Over(_))) => Box::pin(self.finish(id, plan, directory)).await,
            Err(error) => Err(store(error)),
        }
    }

    /// Who works on a plan: no more agents of a role than there are tasks for it, and always a coordinator.
    fn workers(&self, run: &RunId, plan: &Plan) -> Vec<Worker> {
        let tasks =
            |role| u32::try_from(plan.tasks.iter().filter(|step| step.role == role).count()).unwrap_or(u32::MAX);
        let mut workers = Vec::new();
        for role in Role::ALL {
            let count = match role {
                Role::Coordinator => 1,
                Role::Observer => tasks(role).min(plan.agents.observers.unwrap_or(self.agents.observers)),
                Role::Actor => tasks(role).min(plan.agents.actors.unwrap_or(self.agents.actors)),
            };
            workers
                .extend((1..=count).map(|n| Worker { id: WorkerId(format!("{role}-{n}")), queue: queue(run, role) }));
        }
        workers
    }
}

fn new_task(run: &RunId, step: &Step) -> NewTask {
    NewTask {
        run: Some(run.clone()),
        step: Some(step.id.clone()),
        depends_on: step.depends_on.iter().map(|id| task_id(run, id)).collect(),
        retries_max: step.retries,
        retry_delay: RETRY_DELAY,
        allow_failure: step.allow_failure,
        ..NewTask::new(task_id(run, &step.id), queue(run, step.role), Job::of(step))
    }
}

/// An id for a step of a run that no task of another run has. Submitting the run again gives the same one.
fn task_id(run: &RunId, step: &str) -> TaskId {
    TaskId(format!("{}/{step}", run.0))
}

/// A queue for a role that no other run has, so that only the run's own workers claim from it.
fn queue(run: &RunId, role: Role) -> String {
    format!("{}/{}", run.0, role.name())
}

/// All tasks of a run, in the order of its plan.
pub async fn tasks_of(db: &Db, permit: &Permit<Read>, run: &RunId) -> Result<Vec<Summary>, DbError> {
    let mut tasks: Vec<Summary> = Vec::new();
    loop {
        let last = tasks.last().map(|task| (task.position, task.id.clone()));
        let page = db.task_summaries(permit, run, last, PAGE_MAX).await?;
        let is_last = page.len() < PAGE_MAX;
        tasks.extend(page);
        if is_last {
            return Ok(tasks);
        }
    }
}

/// What the tasks of a run are called.
#[derive(Clone, Debug, Default)]
pub struct Names(HashMap<TaskId, String>);

impl Names {
    /// The names of these tasks.
    pub fn of(tasks: &[Summary]) -> Names {
        Names(tasks.iter().map(|task| (task.id.clone(), task.name().to_owned())).collect())
    }

    /// What this task is called; its id, if it is none of them.
    pub fn get<'a>(&'a self, task: &'a TaskId) -> &'a str {
        self.0.get(task).unwrap_or(&task.0)
    }
}

/// The edge reads the clock.
#[expect(clippy::disallowed_methods, reason = "the edge reads the clock")]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests;
