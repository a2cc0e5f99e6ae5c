//! The operations of a schedule, how they are done, and how they are drawn.

use serde_json::json;
use skep_core::{
    Json,
    app::{Answer, App, TaskError},
    run::{Deletion, End, NewRun, RunId},
    session::{ATTACH_TIME, HUB_TIME, HubId, NewSession, SessionId, SessionToken},
    task::{Attempt, Holder, NewTask, TaskId},
};

use super::{
    super::permit,
    model::{each, sorted, told},
};

/// One call of an [`App`].
#[derive(Clone, Debug)]
pub(super) enum Op {
    Submit(NewTask),
    StartRun(RunId, Vec<NewTask>),
    Interrupt(RunId),
    Resume(RunId),
    End(RunId, End),
    Retry(RunId, Option<TaskId>),
    Delete(RunId),
    BeginDeletion(RunId),
    DeletionStep(Deletion),
    FinishDeletions,
    ReleaseRun(RunId),
    Claim(String, Holder),
    ClaimMany(String, Holder, usize),
    Finish(TaskId, Attempt),
    FinishMany(Vec<(TaskId, Attempt)>),
    /// Two parts: what others do at the same hub may come between them.
    FinishAndClaim(TaskId, Attempt, String, Holder),
    Fail(TaskId, Attempt, bool),
    Cancel(TaskId),
    ExpireTasks,
    Join(HubId, Vec<NewSession>),
    Beat(HubId),
    Attach(SessionId, SessionToken, HubId),
    Leave(HubId),
    ExpireHubs,
    ReleaseLost,
}

pub(super) fn new_run(id: &RunId) -> NewRun {
    NewRun {
        id: id.clone(),
        name: id.0.clone(),
        plan: Json::from(json!({})),
        inputs: Json::null(),
        directory: "/tmp".into(),
    }
}

/// What a worker answers.
pub(super) fn output(by: &Attempt) -> Json {
    Json::from(json!({ "by": by.worker.0 }))
}

fn answer((id, by): (TaskId, Attempt)) -> Answer {
    Answer { output: output(&by), id, by, artefacts: Vec::new() }
}

impl Op {
    /// What it does, one after the other.
    pub(super) fn parts(&self) -> Vec<Op> {
        match self.clone() {
            Op::FinishAndClaim(task, by, queue, holder) => vec![Op::Finish(task, by), Op::Claim(queue, holder)],
            op => vec![op],
        }
    }

    /// Whether it may come between the parts of another one.
    pub(super) fn is_exchange(&self) -> bool {
        matches!(self, Op::Claim(..) | Op::ClaimMany(..) | Op::Finish(..) | Op::FinishMany(..) | Op::FinishAndClaim(..))
    }

    /// Do it. Gives what the caller is told, of each part.
    pub(super) async fn call(&self, app: &App) -> Vec<String> {
        let permit = permit();
        let told = match self.clone() {
            Op::Submit(new) => told(app.submit(&permit, new).await),
            Op::StartRun(id, tasks) => told(app.start_run(&permit, new_run(&id), tasks).await),
            Op::Interrupt(id) => told(app.interrupt_run(&permit, &id).await),
            Op::Resume(id) => told(app.resume_run(&permit, &id).await),
            Op::End(id, end) => told(app.end_run(&permit, &id, end, Some(Json::from(json!("over")))).await),
            Op::Retry(id, only) => told(app.retry_run(&permit, &id, only.as_ref()).await),
            Op::Delete(id) => told(app.delete_run(&permit, &id).await),
            Op::BeginDeletion(id) => told(app.begin_deletion(&permit, &id).await),
            Op::DeletionStep(deletion) => told(app.deletion_step(&permit, &deletion).await),
            Op::FinishDeletions => told(app.finish_deletions(&permit).await),
            Op::ReleaseRun(id) => told(app.release_run(&permit, &id).await.map(sorted)),
            Op::Claim(queue, holder) => told(app.claim(&permit, &queue, &holder).await),
            Op::ClaimMany(queue, holder, count) => told(app.claim_many(&permit, &queue, &holder, count).await),
            Op::Finish(id, by) => told(app.finish(&permit, &id, by.clone(), output(&by), Vec::new()).await),
            Op::FinishMany(all) => {
                told(app.finish_many(&permit, all.into_iter().map(answer).collect()).await.map(each))
            }
            Op::FinishAndClaim(id, by, queue, holder) => {
                match app.finish_and_claim(&permit, answer((id, by)), &queue, &holder).await {
                    Ok(both) => return vec![told(both.answer), told(Ok::<_, TaskError>(both.next))],
                    Err(error) => told(Err::<(), _>(error)),
                }
            }
            Op::Fail(id, by, retry) => told(app.fail(&permit, &id, by, "boom".into(), retry).await),
            Op::Cancel(id) => told(app.cancel(&permit, &id).await),
            Op::ExpireTasks => told(app.expire_tasks(&permit).await),
            Op::Join(hub, sessions) => told(app.join(&permit, &hub, sessions, HUB_TIME).await),
            Op::Beat(hub) => told(app.beat(&hub, HUB_TIME).await),
            Op::Attach(session, token, hub) => told(app.attach(&permit, &session, &token, &hub).await.map(sorted)),
            Op::Leave(hub) => told(app.leave(&permit, &hub).await),
            Op::ExpireHubs => told(app.expire_hubs(ATTACH_TIME).await),
            Op::ReleaseLost => told(app.release_lost(&permit).await.map(sorted)),
        };
        vec![told]
    }
}
