//! The runs that tasks belong to, as far as the tasks need them.

use std::sync::Arc;

use serde_json::Map;
use skep_core::{
    app::App,
    db::DbError,
    policy::{Permit, Read},
    run::{Run, RunId},
    task::Task,
};
use skep_plan::{
    Plan,
    template::{self, Scope},
};
use tokio::sync::Mutex;

use super::{
    job::{Job, JobError},
    patience::PATIENCE,
};

/// Reads the run of a task. Workers share it, and so read a run once for all its tasks: its inputs may be large.
pub(super) struct Runs {
    app: App,
    permit: Permit<Read>,
    /// The run of the last task: most often the next task is of the same.
    last: Mutex<Option<Arc<RunOfTask>>>,
}

/// What a run has for its tasks.
pub(super) struct RunOfTask {
    /// The run, with the [epoch](Task::epoch) of the task, which tells it from a former run of the same name.
    id: Option<(RunId, i64)>,
    scope: Scope,
    /// The plan, if it was started by a program that wrote no jobs.
    plan: Option<Plan>,
}

impl Runs {
    pub(super) fn new(app: App, permit: Permit<Read>) -> Runs {
        Runs { app, permit, last: Mutex::new(None) }
    }

    /// What the run of this task has for it.
    pub(super) async fn of(&self, task: &Task) -> Result<Result<Arc<RunOfTask>, JobError>, DbError> {
        let mut last = self.last.lock().await;
        if let Some(known) = last.as_ref().filter(|known| known.id == RunOfTask::id_for(task)) {
            return Ok(Ok(Arc::clone(known)));
        }
        let run = match &task.run {
            None => None,
            Some(id) => match PATIENCE.ask(|| self.app.db.run(&self.permit, id)).await? {
                None => return Ok(Err(JobError::Deleted)),
                run => run,
            },
        };
        Ok(RunOfTask::new(task, run).map(|run| Arc::clone(last.insert(Arc::new(run)))))
    }
}

impl RunOfTask {
    fn id_for(task: &Task) -> Option<(RunId, i64)> {
        Some((task.run.clone()?, task.epoch))
    }

    fn new(task: &Task, run: Option<Run>) -> Result<RunOfTask, JobError> {
        let id = RunOfTask::id_for(task);
        let Some(Run { id: RunId(name_in_store), name, directory, inputs, plan, .. }) = run else {
            return Ok(RunOfTask { id, scope: Scope::new(&Map::new(), &template::Run::default()), plan: None });
        };
        let run = template::Run { id: name_in_store, name, directory };
        if let Some(inputs) = inputs {
            return Ok(RunOfTask { id, scope: Scope::new(&inputs.parse()?, &run), plan: None });
        }
        let plan = Plan::from_json(&plan.parse()?).map_err(JobError::Plan)?;
        Ok(RunOfTask { id, scope: Scope::new(&plan.inputs, &run), plan: Some(plan) })
    }

    /// What templates see before any task has ended.
    pub(super) fn scope(&self) -> Scope {
        self.scope.clone()
    }

    /// What a task of the run is to do.
    pub(super) fn job(&self, task: &Task) -> Result<Job, JobError> {
        match (&self.plan, Job::read(&task.input)) {
            (Some(plan), Ok(None)) => plan.step(task.name()).map(Job::of).ok_or(JobError::Missing),
            (_, job) => job?.ok_or(JobError::Missing),
        }
    }
}
