//! One worker: claim a ready task, call its tool, bring the answer, again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use skep_core::{
    Json,
    app::{self, Answered, TaskError},
    artefact::NewArtefact,
    limits::{ARTEFACT_BYTES_MAX, ARTEFACTS_MAX},
    task::{Attempt, Failure, Task, TaskId},
};
use skep_plan::template::{
    Scope,
    renderer::{self, Bounds},
};
use skep_tools::{
    error::ToolError,
    tool::Call,
    workspace::{Context, Outputs},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    POLL, Pool, WorkError,
    failure::failure,
    job::{Job, JobError, Work, ended},
    membership::Seat,
    patience::PATIENCE,
    printed::{PIECES_MAX, pass_on},
    runs::Runs,
    withdrawn::Attempts,
};
use crate::executor::Place;

/// How long a worker that got nothing waits at least. What is due may be another's by now, or this worker may not be
/// registered for a moment.
const WAIT_MIN: Duration = Duration::from_millis(10);

/// A worker at work. Cheap: a loop and a name.
pub(super) struct ClaimLoop {
    pub(super) pool: Arc<Pool>,
    /// Where it claims tasks from.
    pub(super) queue: String,
    pub(super) seat: Seat,
    pub(super) runs: Arc<Runs>,
    /// What the pool's workers have under way.
    pub(super) attempts: Arc<Attempts>,
    /// Cancelled when the pool is to stop.
    pub(super) stop: CancellationToken,
}

/// What became of a task's call.
enum Attempted {
    Answered(Value),
    Failed {
        failure: Failure,
        retry: bool,
    },
    /// The pool stops, and then gives back the task; or the task was taken away, and nobody waits for an answer.
    Stopped,
}

impl ClaimLoop {
    /// Do tasks until `stop` is cancelled.
    pub(super) async fn run(self) -> Result<(), WorkError> {
        let (app, permit) = (&self.pool.app, &self.pool.permit);
        let reads = permit.to_read();
        let mut watch = app.db.watch(&reads);
        let mut next = None;
        while !self.stop.is_cancelled() {
            watch.mark_seen();
            if next.is_none() {
                let holder = self.seat.holder();
                next = PATIENCE.ask(|| app.claim(permit, &self.queue, &holder)).await.map_err(WorkError::of)?;
            }
            if let Some(task) = next.take() {
                next = self.perform(task).await?;
                continue;
            }
            // A retry becomes due without anybody calling.
            let due = PATIENCE.ask(|| app.db.next_due(&reads, &self.queue)).await.map_err(WorkError::of)?;
            let wait = due.map_or(POLL, |due| app.db.now().until(due).clamp(WAIT_MIN, POLL));
            tokio::select! {
                () = watch.changed() => {}
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Do a task and bring its answer. Gives the next task, if one was claimed with it.
    async fn perform(&self, task: Task) -> Result<Option<Task>, WorkError> {
        let Some(attempt) = task.held() else { return Ok(None) };
        let outputs = Outputs::new(self.pool.outputs.clone(), task.name());
        let under_way = self.attempts.begin(&task.id, attempt.number, &self.stop);
        let Answered { answer, next } = match self.attempt(&task, &outputs, &under_way.stop).await? {
            Attempted::Stopped => return Ok(None),
            Attempted::Answered(output) => {
                let mut answered = self.answer(&task.id, &attempt, output.into(), &outputs).await;
                // An answer that the store does not take will not be smaller the next time.
                if let Err(TaskError::Invalid(error)) = &answered.answer {
                    answered.answer = self.fail(&task.id, &attempt, error.to_string().into(), false).await;
                }
                answered
            }
            Attempted::Failed { failure, retry } => {
                let error = failure.error.clone();
                let failed = match self.fail(&task.id, &attempt, failure, retry).await {
                    // The error has the end of an output that is too large to be kept.
                    Err(TaskError::Invalid(_)) => self.fail(&task.id, &attempt, error.into(), retry).await,
                    other => other,
                };
                Answered { answer: failed, next: None }
            }
        };
        match answer {
            Ok(()) => Ok(next),
            // Somebody took the run over meanwhile, and the store has kept what we said; or the run was deleted.
            Err(TaskError::Refused(_) | TaskError::Unknown(_)) => Ok(next),
            Err(error) => Err(WorkError::of(error)),
        }
    }

    /// Bring an answer, and claim the next task with it unless the pool is to stop.
    async fn answer(&self, id: &TaskId, by: &Attempt, output: Json, outputs: &Outputs) -> Answered {
        let (app, permit, holder) = (&self.pool.app, &self.pool.permit, self.seat.holder());
        // The files are read each time, so that they do not take memory twice.
        let artefacts = || self.artefacts(outputs);
        if self.stop.is_cancelled() {
            let finish = || app.finish(permit, id, by.clone(), output.clone(), artefacts());
            return Answered { answer: PATIENCE.ask(finish).await, next: None };
        }
        let both = || {
            let (id, by, output) = (id.clone(), by.clone(), output.clone());
            app.finish_and_claim(permit, app::Answer { id, by, output, artefacts: artefacts() }, &self.queue, &holder)
        };
        PATIENCE.ask(both).await.unwrap_or_else(|error| Answered { answer: Err(error), next: None })
    }

    async fn fail(&self, id: &TaskId, by: &Attempt, failure: Failure, retry: bool) -> Result<(), TaskError> {
        let (app, permit) = (&self.pool.app, &self.pool.permit);
        PATIENCE.ask(|| app.fail(permit, id, by.clone(), failure.clone(), retry)).await.map(drop)
    }

    async fn attempt(&self, task: &Task, outputs: &Outputs, stop: &CancellationToken) -> Result<Attempted, WorkError> {
        let started = Instant::now();
        let (job, scope) = match self.prepare(task).await? {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Attempted::Failed { failure: error.to_string().into(), retry: false }),
        };
        let (timeout, Work::ToolCall { tool, args }) = (job.timeout(), job.work);
        let bounds = Bounds { stop: stop.clone(), ..Bounds::default() };
        let bounds = Bounds { time: timeout.unwrap_or(bounds.time), ..bounds };
        let arguments = match renderer::arguments(scope, job.when, args, &bounds).await {
            Ok(Some(arguments)) => arguments,
            Ok(None) => return Ok(Attempted::Answered(json!({ "skipped": true }))),
            Err(_) if stop.is_cancelled() => return Ok(Attempted::Stopped),
            Err(error) => return Ok(Attempted::Failed { failure: error.to_string().into(), retry: false }),
        };
        let permit = match self.pool.permit.actor().permit() {
            Ok(permit) => permit,
            Err(denied) => return Ok(Attempted::Failed { failure: denied.to_string().into(), retry: false }),
        };
        let mut context = Context::new(permit, self.pool.workspace.clone(), outputs.clone(), stop.clone());
        // Rendering the templates is a part of the attempt.
        let deadline = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
        let call = Call { tool, arguments, deadline };
        let (result, place) = match &self.pool.watcher {
            None => self.pool.executor.call(call, context).await,
            Some(watcher) => {
                let (sink, pieces) = mpsc::channel(PIECES_MAX);
                context.sink = Some(sink);
                let call = self.pool.executor.call(call, context);
                // All that was printed is passed on before anybody hears that the task is over.
                tokio::join!(call, pass_on(task.name(), pieces, watcher)).0
            }
        };
        self.tell(task, &place).await?;
        Ok(match result.map_err(|error| of_whole_attempt(error, timeout)) {
            Ok(answer) => Attempted::Answered(json!({
                "result": answer.value, "cached": answer.cached, "place": place.name(),
            })),
            Err(ToolError::Cancelled) if stop.is_cancelled() => Attempted::Stopped,
            Err(error) => Attempted::Failed { retry: error.is_transient(), failure: failure(&error) },
        })
    }

    /// Say so in the run's log when a hub was asked for and did not answer.
    async fn tell(&self, task: &Task, place: &Place) -> Result<(), WorkError> {
        let (Some(run), Some(note)) = (&task.run, place.note()) else { return Ok(()) };
        let (app, permit) = (&self.pool.app, &self.pool.permit);
        match PATIENCE.ask(|| app.log(permit, run, Some(&task.id), &note, None)).await {
            // The run was deleted meanwhile.
            Ok(()) | Err(TaskError::UnknownRun(_) | TaskError::Unknown(_)) => Ok(()),
            Err(error) => Err(WorkError::of(error)),
        }
    }

    /// What a task is to do, and what its templates see: its run, and the tasks that it depends on.
    async fn prepare(&self, task: &Task) -> Result<Result<(Job, Scope), JobError>, WorkError> {
        let (db, permit) = (&self.pool.app.db, self.pool.permit.to_read());
        let (job, mut scope) = match self.runs.of(task).await.map_err(WorkError::of)? {
            Err(error) => return Ok(Err(error)),
            Ok(run) => match run.job(task) {
                Err(error) => return Ok(Err(error)),
                Ok(job) => (job, run.scope()),
            },
        };
        let mut needed = Vec::with_capacity(task.depends_on.len());
        for id in &task.depends_on {
            needed.extend(PATIENCE.ask(|| db.task(&permit, id)).await.map_err(WorkError::of)?);
        }
        needed.sort_by_key(|needed| needed.position); // templates that list tasks see them as they were declared
        for needed in &needed {
            if let Some(ended) = ended(&needed.state) {
                scope.ended(needed.name(), &ended);
            }
        }
        Ok(Ok((job, scope)))
    }

    /// The files that the task has left, as far as they are small enough for the database; all stay in the directory.
    fn artefacts(&self, outputs: &Outputs) -> Vec<NewArtefact> {
        let read = |path: std::path::PathBuf| {
            let bytes = self.pool.outputs.read(&path, ARTEFACT_BYTES_MAX as u64).ok()?;
            Some(NewArtefact { path: path.display().to_string(), bytes })
        };
        outputs.written().into_iter().filter_map(read).take(ARTEFACTS_MAX).collect()
    }
}

/// The same error, where a call that ran out of time names the time that its task has, of which rendering took a part.
fn of_whole_attempt(error: ToolError, timeout: Option<Duration>) -> ToolError {
    match error {
        ToolError::TimedOut { tool, after, detail } => {
            ToolError::TimedOut { tool, after: timeout.unwrap_or(after), detail }
        }
        other => other,
    }
}
