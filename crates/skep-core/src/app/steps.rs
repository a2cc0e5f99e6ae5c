//! Logging steps.
//!
//! Many agents of a workspace log at once, and each waits until its step is durable. So the steps of several callers
//! are numbered and added together (`db/queue.rs`).

use super::App;
use crate::{
    db::{DbError, Operation, Tx},
    event::{EventActor, EventKind, NewEvent},
    limits::Invalid,
    policy::Permit,
    step::{NewStep, Step},
};

/// Why a step was not logged.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// It cannot be kept.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl App {
    /// Log a step in the workspace of the permit. Returns its number: those of a workspace are 1, 2, 3, … without gaps.
    pub async fn log_step(&self, permit: &Permit, step: NewStep) -> Result<i64, StepError> {
        step.check()?;
        let bytes = step.bytes();
        self.db.perform(permit.namespace(), bytes, LogStep { actor: (&**permit.actor()).into(), step }).await
    }
}

struct LogStep {
    actor: EventActor,
    step: NewStep,
}

impl Operation for LogStep {
    type Output = i64;
    type Error = StepError;
    const TOGETHER: bool = true;

    async fn run(tx: &mut Tx<'_>, all: &[&LogStep]) -> Result<Vec<i64>, StepError> {
        let (at, before) = (tx.now(), tx.number_steps(all.len()).await?);
        let numbered = |(number, LogStep { actor, step }): (i64, &&LogStep)| Step {
            number,
            at,
            principal: actor.principal.to_string(),
            agent: actor.agent.as_deref().map(str::to_owned),
            level: step.level,
            message: step.message.clone(),
            data: step.data.clone(),
        };
        let steps: Vec<Step> = (before + 1..).zip(all).map(numbered).collect();
        tx.add_steps(&steps).await?;
        for (one, Step { number, level, message, data, .. }) in all.iter().zip(steps) {
            tx.act_for(Some(&one.actor));
            let kind = EventKind::StepLogged { number, level, message, data };
            tx.append(NewEvent { at, run: None, task: None, kind });
        }
        Ok((before + 1..).take(all.len()).collect())
    }
}
