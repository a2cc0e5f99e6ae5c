//! The operations of a schedule, how they are done, and how they are drawn.

use serde_json::json;
use skep_core::{
    Json,
    app::App,
    run::{Deletion, End, NewRun, RunId},
    session::{ATTACH_TIME, HUB_TIME, HubId, NewSession, SessionId, SessionToken},
    task::{Attempt, Holder, NewTask, TaskId},
};

use super::{
    super::permit,
    model::{sorted, told},
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
    Finish(TaskId, Attempt),
    Fail(TaskId, Attempt, bool),
    Cancel(TaskId),
    Join(HubId, Vec<NewSession>),
    Beat(HubId),
    Attach(SessionId, SessionToken, HubId),
    Leave(HubId),
    ExpireHubs,
    ReleaseLost,
}

pub(super) fn new_run(id: &RunId) -> NewRun {
    NewRun { id: id.clone(), name: id.0.clone(), plan: Json::from(json!({})), directory: "/tmp".into() }
}

impl Op {
    /// Do it. Gives what the caller is told.
    pub(super) async fn call(&self, app: &App) -> String {
        let permit = permit();
        match self.clone() {
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
            Op::Finish(id, by) => {
                let output = Json::from(json!({ "by": by.worker.0 }));
                told(app.finish(&permit, &id, by, output, Vec::new()).await)
            }
            Op::Fail(id, by, retry) => told(app.fail(&permit, &id, by, "boom".into(), retry).await),
            Op::Cancel(id) => told(app.cancel(&permit, &id).await),
            Op::Join(hub, sessions) => told(app.join(&permit, &hub, sessions, HUB_TIME).await),
            Op::Beat(hub) => told(app.beat(&hub, HUB_TIME).await),
            Op::Attach(session, token, hub) => told(app.attach(&permit, &session, &token, &hub).await.map(sorted)),
            Op::Leave(hub) => told(app.leave(&permit, &hub).await),
            Op::ExpireHubs => told(app.expire_hubs(ATTACH_TIME).await),
            Op::ReleaseLost => told(app.release_lost(&permit).await.map(sorted)),
        }
    }
}
