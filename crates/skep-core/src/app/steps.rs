//! Logging steps.
//!
//! Many agents of a workspace log at once, and each waits until its step is durable. So the steps of several callers
//! are numbered and added together (`db/queue.rs`).

use super::App;
use crate::{
    db::{DbError, Operation, Tx},
    event::{EventActor, EventKind, NewEvent},
    limits::{Invalid, check_name},
    policy::Permit,
    step::{NewStep, Step},
};

/// Why a step was not logged.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// It cannot be kept.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Another step was logged with this key.
    #[error("step {0} was logged with the same idempotency key and says something else; choose another key")]
    KeyReused(i64),
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

impl App {
    /// The same, once for each key of the principal: a step that was logged with it is not logged again. Returns its number, and
    /// whether it had been logged before.
    pub async fn log_step_once(&self, permit: &Permit, step: NewStep, key: String) -> Result<(i64, bool), StepError> {
        step.check()?;
        check_name("idempotency_key", &key)?;
        let (actor, bytes) = (EventActor::from(&**permit.actor()), step.bytes());
        let log = async move |tx: &mut Tx<'_>| {
            if let Some(Step { number, agent, level, message, data, .. }) =
                tx.step_of_key(&actor.principal, &key).await?
            {
                let is_same = agent.as_deref() == actor.agent.as_deref()
                    && (level, &message, &data) == (step.level, &step.message, &step.data);
                return if is_same { Ok((number, true)) } else { Err(StepError::KeyReused(number)) };
            }
            let one = LogStep { actor: actor.clone(), step: step.clone() };
            let number = LogStep::run(tx, &[&one]).await?.pop().unwrap_or_default();
            tx.set_step_key(number, &key).await?;
            Ok((number, false))
        };
        self.db.write_bytes(permit, bytes, log).await
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
