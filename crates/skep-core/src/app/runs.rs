//! Operations on runs.

use std::collections::HashMap;

use super::{
    App,
    tasks::{deduplicated, release_tasks},
};
use crate::{
    Json, Timestamp,
    db::{DbError, Tx},
    event::{EventKind, NewEvent, WorkerAttempt},
    limits::{Invalid, PLAN_BYTES_MAX, check_json},
    policy::Permit,
    run::{Command, Deletion, End, NewRun, Refused, Run, RunId},
    task::{self, NewTask, Task, TaskId, check_graph},
};

/// Tasks that are added at once, so that the rows of a large run are not all in memory.
const TASKS_ADDED_MAX: usize = 256;

/// Why an operation on runs failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No run of this name.
    #[error("there is no run {}", .0.0)]
    Unknown(RunId),
    /// A run of this name is being deleted.
    #[error("a run {} is being deleted; wait for its end, or give the new one another name", .0.0)]
    BeingDeleted(RunId),
    /// There is a task of this name already, and it is not of this run.
    #[error("there is a task {} already; give the new one another name", .0.0)]
    TaskTaken(TaskId),
    /// No task of the run has ended without success.
    #[error("no task of run {} has failed, so there is nothing to do again", .0.0)]
    NothingToRetry(RunId),
    /// The task was completed, or depends on one that would stay failed, blocked or cancelled.
    #[error("task {} is {state} and cannot be done again; retry the run, or a task that has failed", .task.0)]
    NotToRetry {
        /// The task.
        task: TaskId,
        /// The name of its state.
        state: &'static str,
    },
    /// The state of one of its tasks does not allow it.
    #[error(transparent)]
    Task(#[from] task::Refused),
    /// An argument is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The run's state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl App {
    /// Start a run with all its tasks, or with none of them if one cannot be. Starting twice under one id is starting
    /// once; the first one counts.
    ///
    /// Tasks depend on each other within the run.
    pub async fn start_run(&self, permit: &Permit, run: NewRun, mut tasks: Vec<NewTask>) -> Result<Run, RunError> {
        run.check()?;
        check_graph(&tasks)?;
        for task in &mut tasks {
            task.run = Some(run.id.clone());
            task.depends_on = deduplicated(std::mem::take(&mut task.depends_on));
        }
        let bytes = run.bytes() + tasks.iter().map(NewTask::bytes).sum::<usize>();
        let start = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            if let Some(existing) = tx.run(&run.id).await? {
                return Ok(existing);
            }
            if tx.deletion(&run.id).await?.is_some() {
                return Err(RunError::BeingDeleted(run.id.clone()));
            }
            let (run, started) = Run::start(run.clone(), tasks.len(), now);
            if !tx.add_run(&run).await? {
                return tx.run(&run.id).await?.ok_or_else(|| RunError::Unknown(run.id.clone()));
            }
            tx.append(started);
            add_tasks(tx, &tasks).await?;
            Ok(run)
        };
        self.db.write_bytes(permit, bytes, start).await
    }

    /// Interrupt a run. Its tasks in progress are released, and it can be resumed.
    pub async fn interrupt_run(&self, permit: &Permit, id: &RunId) -> Result<Run, RunError> {
        self.change_run(permit, id, Command::Interrupt).await
    }

    /// Resume a run that was interrupted, or whose process was killed. Its tasks in progress are released, and late
    /// answers of their former holders are refused. Finished tasks stay finished.
    pub async fn resume_run(&self, permit: &Permit, id: &RunId) -> Result<Run, RunError> {
        self.change_run(permit, id, Command::Resume).await
    }

    /// End a run. Tasks that are not over are cancelled.
    pub async fn end_run(&self, permit: &Permit, id: &RunId, end: End, report: Option<Json>) -> Result<Run, RunError> {
        report.as_ref().map_or(Ok(()), |report| check_json("the report", report, PLAN_BYTES_MAX))?;
        self.change_run(permit, id, Command::End(end, report)).await
    }

    /// Reopen the tasks of a run that ended without success, or one of them and the tasks that it blocked. Completed
    /// tasks stay completed. Returns the reopened tasks.
    pub async fn retry_run(&self, permit: &Permit, id: &RunId, only: Option<&TaskId>) -> Result<Vec<TaskId>, RunError> {
        let (id, only) = (id.clone(), only.cloned());
        let retry = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let mut run = tx.run(&id).await?.ok_or_else(|| RunError::Unknown(id.clone()))?;
            let retried = run.apply(Command::Retry, now)?;
            let mut tasks = tx.tasks_without_large_values(&id).await?;
            let waiting: HashMap<TaskId, u32> = task::to_reopen(&tasks, only.as_ref()).into_iter().collect();
            match &only {
                Some(task) if !waiting.contains_key(task) => {
                    let state = tasks.iter().find(|known| known.id == *task).map(|known| known.state.name());
                    return Err(RunError::NotToRetry { task: task.clone(), state: state.unwrap_or("unknown") });
                }
                None if waiting.is_empty() => return Err(RunError::NothingToRetry(id.clone())),
                _ => {}
            }
            let blobs = tx.blobs_of(&id).await?;
            tx.save_run(&run).await?;
            tx.append(retried);
            let mut reopened = Vec::new();
            for task in &mut tasks {
                let Some(&waiting_for) = waiting.get(&task.id) else { continue };
                let event = task.apply(task::Command::Reopen { waiting_for }, now)?;
                tx.save_task(task).await?;
                tx.append(event);
                reopened.push(task.id.clone());
            }
            // The report, and the outputs of failed attempts.
            tx.delete_unnamed_blobs(blobs).await?;
            Ok(reopened)
        };
        self.db.write(permit, retry).await
    }

    /// Delete a run that is not running, with its tasks, artefacts and events. The numbers of the events are not reused.
    ///
    /// The run's row is deleted at once, and the rest in small steps, with other writes in between. If the process is
    /// killed meanwhile, [`App::finish_deletions`] deletes what is left.
    pub async fn delete_run(&self, permit: &Permit, id: &RunId) -> Result<(), RunError> {
        let deletion = self.begin_deletion(permit, id).await?;
        self.finish_deletion(permit, &deletion).await
    }

    /// Do the first step of [`App::delete_run`]: delete the run's row, after which nothing can be added to the run.
    /// Returns the deletion; that of another caller, if one has begun.
    pub async fn begin_deletion(&self, permit: &Permit, id: &RunId) -> Result<Deletion, RunError> {
        let id = id.clone();
        let begin = async move |tx: &mut Tx<'_>| {
            let Some(run) = tx.run(&id).await? else {
                return tx.deletion(&id).await?.ok_or_else(|| RunError::Unknown(id.clone()));
            };
            run.check_deletable()?;
            Ok(tx.begin_deletion(&run.id).await?)
        };
        self.db.write(permit, begin).await
    }

    /// Do the next step of a deletion. Returns whether there is more to do.
    pub async fn deletion_step(&self, permit: &Permit, deletion: &Deletion) -> Result<bool, RunError> {
        let deletion = deletion.clone();
        let step = async move |tx: &mut Tx<'_>| Ok(tx.delete_more(&deletion).await?);
        self.db.write(permit, step).await
    }

    /// Delete events that belong to no run and no task and are older than `before`, in small steps: those of the team, and
    /// those of all of its workspaces.
    pub async fn prune_events(&self, permit: &Permit, before: Timestamp) -> Result<(), RunError> {
        let mut after = 0;
        loop {
            let page = self.db.namespaces_of(&permit.actor().team, after).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            for (_, namespace) in &page {
                let step = async move |tx: &mut Tx<'_>| Ok::<_, RunError>(tx.delete_loose_events(before).await?);
                while self.db.write_as_hub(namespace, step).await? {}
            }
        }
    }

    /// Finish the deletions that were begun.
    pub async fn finish_deletions(&self, permit: &Permit) -> Result<(), RunError> {
        loop {
            let deletions = self.db.deletions(permit.namespace()).await?;
            if deletions.is_empty() {
                return Ok(());
            }
            for deletion in deletions {
                self.finish_deletion(permit, &deletion).await?;
            }
        }
    }

    async fn finish_deletion(&self, permit: &Permit, deletion: &Deletion) -> Result<(), RunError> {
        while self.deletion_step(permit, deletion).await? {}
        Ok(())
    }

    /// Release the tasks of a run that are in progress: they are ready again, and no failure is counted. Late answers of
    /// their former holders are refused. Returns the tasks.
    pub async fn release_run(&self, permit: &Permit, id: &RunId) -> Result<Vec<Task>, RunError> {
        let id = id.clone();
        let release = async move |tx: &mut Tx<'_>| Ok(release(tx, &id).await?);
        self.db.write(permit, release).await
    }

    async fn change_run(&self, permit: &Permit, id: &RunId, command: Command) -> Result<Run, RunError> {
        let id = id.clone();
        let bytes = match &command {
            Command::End(_, Some(report)) => report.as_str().len(),
            _ => 0,
        };
        let change = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let mut run = tx.run(&id).await?.ok_or_else(|| RunError::Unknown(id.clone()))?;
            let event = run.apply(command.clone(), now)?;
            tx.save_run(&run).await?;
            if run.state.is_over() {
                cancel_tasks(tx, &id).await?;
            } else {
                release(tx, &id).await?;
            }
            tx.append(event);
            Ok(run)
        };
        self.db.write_bytes(permit, bytes, change).await
    }
}

/// Add the tasks of a new run, which are pending.
async fn add_tasks(tx: &mut Tx<'_>, tasks: &[NewTask]) -> Result<(), RunError> {
    let (now, mut places) = (tx.now(), 0..);
    for some in tasks.chunks(TASKS_ADDED_MAX) {
        let new = |(position, task): (u32, &NewTask)| {
            let waiting_for = u32::try_from(task.depends_on.len()).unwrap_or(u32::MAX);
            Task::new(task.clone(), position, waiting_for, now)
        };
        let pending: Vec<Task> = places.by_ref().zip(some).map(new).collect();
        let epochs = tx.add_tasks(&pending).await?;
        if epochs.iter().all(Option::is_some) {
            tx.add_details(some.iter()).await?;
        }
        for (task, epoch) in pending.into_iter().zip(epochs) {
            if epoch.is_none() {
                return Err(RunError::TaskTaken(task.id));
            }
            tx.append(task.event(EventKind::TaskSubmitted { queue: task.queue.clone() }, now));
        }
    }
    Ok(())
}

async fn release(tx: &mut Tx<'_>, id: &RunId) -> Result<Vec<Task>, DbError> {
    let mut tasks = tx.tasks_in_progress(id).await?;
    release_tasks(tx, &mut tasks).await?;
    Ok(tasks)
}

async fn cancel_tasks(tx: &mut Tx<'_>, id: &RunId) -> Result<(), DbError> {
    let now = tx.now();
    for (task, holder) in tx.cancel_tasks(id).await? {
        let attempt = holder.map(|by| WorkerAttempt { worker: by.worker, attempt: by.number });
        let kind = EventKind::TaskCancelled { attempt };
        tx.append(NewEvent { at: now, run: Some(id.clone()), task: Some(task), kind });
    }
    Ok(())
}
