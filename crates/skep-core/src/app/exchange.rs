//! What workers do all the time: bring an answer, and claim the next task.
//!
//! The exchanges of many workers are done together (`db/queue.rs`): all tasks that they are about are loaded at once,
//! each is brought forward by [`Task::apply`] in order, and all are saved at once.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;

use super::{App, TaskError, Verdict, tasks::refuse_late};
use crate::{
    Json,
    artefact::{self, NewArtefact},
    db::{Operation, Tx},
    event::EventActor,
    limits::{Invalid, OUTPUT_BYTES_MAX, check_count, check_json, check_name},
    policy::Permit,
    task::{Attempt, Command, Holder, LateAnswer, Refused, Task, TaskId},
};

/// Tasks that a worker claims at once, at most.
pub const CLAIM_MAX: usize = 100;
/// Answers that a worker brings at once, at most.
pub const FINISH_MAX: usize = 100;

/// What an attempt at a task has produced, and left behind.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Which task.
    pub id: TaskId,
    /// Whose attempt.
    pub by: Attempt,
    /// The result.
    pub output: Json,
    /// The files.
    pub artefacts: Vec<NewArtefact>,
}

/// What became of an answer, and what its worker is to do next.
#[derive(Debug)]
pub struct Answered {
    /// Why the answer does not count, if it does not.
    pub answer: Result<(), TaskError>,
    /// The next task, if there is one.
    pub next: Option<Task>,
}

impl App {
    /// Start the task of a queue that has been due the longest, if there is one. The worker holds it until it answers,
    /// or until its session ends. There is no task for a worker whose session is not registered, is another worker's, or
    /// belongs to a deleted hub; and none of a run that is interrupted.
    pub async fn claim(&self, permit: &Permit, queue: &str, holder: &Holder) -> Result<Option<Task>, TaskError> {
        Ok(self.claim_many(permit, queue, holder, 1).await?.pop())
    }

    /// Start several tasks of a queue, at most `count` and at most [`CLAIM_MAX`].
    pub async fn claim_many(
        &self,
        permit: &Permit,
        queue: &str,
        holder: &Holder,
        count: usize,
    ) -> Result<Vec<Task>, TaskError> {
        let claim = Claim::new(queue, holder, count.min(CLAIM_MAX))?;
        Ok(self.exchange(permit, Vec::new(), Some(claim)).await?.tasks)
    }

    /// Complete a task with its output and its artefacts. Tasks that waited for this one become ready.
    ///
    /// Finishing the same attempt again changes nothing and is no error, so a worker that did not get the reply may
    /// call again. A late answer is refused, and kept in the log.
    pub async fn finish(
        &self,
        permit: &Permit,
        id: &TaskId,
        by: Attempt,
        output: impl Into<Json>,
        artefacts: Vec<NewArtefact>,
    ) -> Result<(), TaskError> {
        let answer = Answer { id: id.clone(), by, output: output.into(), artefacts };
        let finished = self.finish_many(permit, vec![answer]).await?.pop();
        finished.unwrap_or_else(|| Err(TaskError::Unknown(id.clone())))
    }

    /// Complete several tasks, at most [`FINISH_MAX`]. Returns what became of each. If one of the answers is too large,
    /// none is kept.
    pub async fn finish_many(
        &self,
        permit: &Permit,
        answers: Vec<Answer>,
    ) -> Result<Vec<Result<(), TaskError>>, TaskError> {
        check_count("answers", answers.len(), FINISH_MAX)?;
        Ok(self.exchange(permit, answers, None).await?.answers)
    }

    /// Complete a task and start the next one, with one commit instead of two. The next one is started even if the
    /// answer comes too late.
    pub async fn finish_and_claim(
        &self,
        permit: &Permit,
        answer: Answer,
        queue: &str,
        holder: &Holder,
    ) -> Result<Answered, TaskError> {
        let (id, claim) = (answer.id.clone(), Claim::new(queue, holder, 1)?);
        let Exchanged { mut answers, mut tasks } = self.exchange(permit, vec![answer], Some(claim)).await?;
        Ok(Answered { answer: answers.pop().unwrap_or(Err(TaskError::Unknown(id))), next: tasks.pop() })
    }

    async fn exchange(
        &self,
        permit: &Permit,
        answers: Vec<Answer>,
        claim: Option<Claim>,
    ) -> Result<Exchanged, TaskError> {
        let answers: Vec<Finish> = answers.into_iter().map(Finish::new).collect::<Result<_, _>>()?;
        let bytes = answers.iter().map(Finish::bytes).sum();
        let actor = (&**permit.actor()).into();
        self.db.perform(permit.namespace(), bytes, Exchange { actor, answers, claim }).await
    }
}

/// A worker brings answers, and asks for tasks.
struct Exchange {
    /// For whom.
    actor: EventActor,
    answers: Vec<Finish>,
    claim: Option<Claim>,
}

/// What a worker is told.
struct Exchanged {
    /// What became of each answer. A refusal is committed like any other, because it is in the log.
    answers: Vec<Result<(), TaskError>>,
    /// The tasks that it now has.
    tasks: Vec<Task>,
}

impl Operation for Exchange {
    type Output = Exchanged;
    type Error = TaskError;
    const TOGETHER: bool = true;

    /// First all answers, then all claims, so that a task that becomes ready may go to any of the workers.
    async fn run(tx: &mut Tx<'_>, all: &[&Exchange]) -> Result<Vec<Exchanged>, TaskError> {
        let answers: Vec<(&EventActor, &Finish)> =
            all.iter().flat_map(|one| one.answers.iter().map(|answer| (&one.actor, answer))).collect();
        let claims: Vec<(&EventActor, &Claim)> =
            all.iter().filter_map(|one| Some((&one.actor, one.claim.as_ref()?))).collect();
        let mut finished = finish(tx, &answers).await?.into_iter();
        let mut claimed = claim(tx, &claims).await?.into_iter();
        let of_one = |one: &&Exchange| Exchanged {
            answers: finished.by_ref().take(one.answers.len()).collect(),
            tasks: one.claim.as_ref().and_then(|_| claimed.next()).unwrap_or_default(),
        };
        Ok(all.iter().map(of_one).collect())
    }
}

/// An answer that can be kept.
struct Finish {
    answer: Answer,
    /// Of each artefact, in hexadecimal.
    sha256: Vec<String>,
}

impl Finish {
    fn new(answer: Answer) -> Result<Finish, Invalid> {
        check_json("the output", &answer.output, OUTPUT_BYTES_MAX)?;
        artefact::check(&answer.artefacts)?;
        Ok(Finish { sha256: answer.artefacts.iter().map(NewArtefact::sha256).collect(), answer })
    }

    fn bytes(&self) -> usize {
        let Answer { output, artefacts, .. } = &self.answer;
        output.as_str().len() + artefacts.iter().map(|artefact| artefact.bytes.len()).sum::<usize>()
    }
}

/// Bring answers. Tasks that waited for those that are now completed become ready.
async fn finish(tx: &mut Tx<'_>, answers: &[(&EventActor, &Finish)]) -> Result<Vec<Result<(), TaskError>>, TaskError> {
    let (now, ids) = (tx.now(), answers.iter().map(|(_, one)| &one.answer.id).collect::<BTreeSet<_>>());
    let tasks = tx.held_tasks(&ids).await?;
    let mut tasks: HashMap<&TaskId, (Task, bool)> =
        tasks.into_iter().filter_map(|(task, has)| Some((*ids.get(&task.id)?, (task, has)))).collect();
    let (mut finished, mut counted) = (Vec::with_capacity(answers.len()), Vec::with_capacity(answers.len()));
    for (actor, one) in answers {
        tx.act_for(Some(actor));
        let Answer { id, by, output, .. } = &one.answer;
        let Some((task, _)) = tasks.get_mut(id) else {
            finished.push(Err(TaskError::Unknown(id.clone())));
            continue;
        };
        finished.push(match task.apply(Command::Finish(by.clone(), output.clone()), now) {
            Err(Refused::Repeated) => Ok(()),
            Err(reason) => {
                let refused = refuse_late(tx, task, by, reason, LateAnswer::Output(output.clone())).await;
                refused.and_then(Verdict::into_result)
            }
            Ok(event) => {
                tx.append(event);
                counted.push(*one);
                Ok(())
            }
        });
    }
    let completed = || counted.iter().filter_map(|one| tasks.get(&one.answer.id));
    tx.save_completed(&completed().map(|(task, _)| task).collect::<Vec<_>>()).await?;
    for ((task, _), one) in completed().zip(&counted) {
        for (artefact, sha256) in one.answer.artefacts.iter().zip(&one.sha256) {
            tx.add_artefact(task, artefact, sha256).await?;
        }
    }
    let needed = completed().filter(|(_, has_dependents)| *has_dependents);
    tx.release_dependents(&needed.map(|(task, _)| &task.id).collect::<Vec<_>>()).await?;
    Ok(finished)
}

/// A worker asks for tasks of a queue.
struct Claim {
    queue: String,
    holder: Holder,
    /// How many, at most.
    count: usize,
}

impl Claim {
    fn new(queue: &str, holder: &Holder, count: usize) -> Result<Claim, Invalid> {
        check_name("queue", queue)?;
        check_name("worker", &holder.worker.0)?;
        Ok(Claim { queue: queue.to_owned(), holder: holder.clone(), count })
    }
}

/// The claims of one queue, and what they can have.
#[derive(Default)]
struct Queue<'a> {
    wanted: usize,
    holders: Vec<&'a Holder>,
    /// Of each holder, whether it may claim.
    may_claim: std::vec::IntoIter<bool>,
    ready: std::vec::IntoIter<Task>,
}

/// Give each worker the tasks of its queue that have been due the longest, unless its session is not registered.
async fn claim(tx: &mut Tx<'_>, claims: &[(&EventActor, &Claim)]) -> Result<Vec<Vec<Task>>, TaskError> {
    let now = tx.now();
    let mut queues: BTreeMap<&str, Queue<'_>> = BTreeMap::new();
    for (_, claim) in claims {
        let queue = queues.entry(&claim.queue).or_default();
        queue.wanted += claim.count;
        queue.holders.push(&claim.holder);
    }
    for (name, queue) in &mut queues {
        let (ready, may_claim) = tx.ready_tasks(name, queue.wanted, &queue.holders).await?;
        (queue.ready, queue.may_claim) = (ready.into_iter(), may_claim.into_iter());
    }
    let mut claimed = Vec::with_capacity(claims.len());
    for (actor, claim) in claims {
        tx.act_for(Some(actor));
        let queue = queues.get_mut(&*claim.queue).and_then(|queue| queue.may_claim.next()?.then_some(queue));
        let mut tasks: Vec<Task> =
            queue.map_or_else(Vec::new, |queue| queue.ready.by_ref().take(claim.count).collect());
        for task in &mut tasks {
            tx.append(task.apply(Command::Start(claim.holder.clone()), now)?);
        }
        claimed.push(tasks);
    }
    tx.save_started(&claimed.iter().flatten().collect::<Vec<_>>()).await?;
    Ok(claimed)
}
