//! Operations on several tasks at once: a graph is submitted, a task is done again or cancelled with what belongs to it.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    App, TaskError,
    tasks::{Submit, add, check_parents, deduplicated, load, repeated, update_dependents},
};
use crate::{
    db::Tx,
    limits::{Invalid, RELATED_MAX, SUBMITTED_MAX, check_count},
    policy::Permit,
    task::{Command, NewTask, State, Task, TaskId, in_order, to_reopen},
};

/// Tasks that are added by one statement.
const ADDED_AT_ONCE_MAX: usize = 256;

impl App {
    /// Declare tasks outside of any run, at most [`SUBMITTED_MAX`]: all of them, or none if one cannot be. They may depend on
    /// each other, in any order, and on tasks that were submitted before. Of tasks that become ready at the same time, those
    /// that come first in the list are started first. Submitting tasks again is as with [`App::submit`].
    pub async fn submit_all(&self, permit: &Permit, mut tasks: Vec<NewTask>) -> Result<Vec<Task>, TaskError> {
        check_count("tasks", tasks.len(), SUBMITTED_MAX)?;
        for task in &mut tasks {
            task.run = None;
            task.depends_on = deduplicated(std::mem::take(&mut task.depends_on));
        }
        let order = in_order(&tasks)?;
        let bytes = tasks.iter().map(NewTask::bytes).sum();
        let actor = crate::event::EventActor::from(&**permit.actor());
        let declared: Vec<Submit> = tasks.into_iter().map(|task| Submit { actor: actor.clone(), task }).collect();
        let submit = async move |tx: &mut Tx<'_>| submit_all(tx, &declared, &order).await;
        self.db.write_bytes(permit, bytes, submit).await
    }

    /// Cancel a task, and the tasks that are parts of it. What depends on one of them is blocked.
    pub async fn cancel(&self, permit: &Permit, id: &TaskId) -> Result<Task, TaskError> {
        let id = id.clone();
        let cancel = async move |tx: &mut Tx<'_>| {
            let now = tx.now();
            let mut task = load(tx, &id).await?;
            let event = task.apply(Command::Cancel, now)?;
            tx.save_task(&task).await?;
            tx.append(event);
            let mut cancelled = vec![task.clone()];
            for part in all_parts(tx, &id).await? {
                let mut part = load(tx, &part).await?;
                let Ok(event) = part.apply(Command::Cancel, now) else { continue };
                tx.save_task(&part).await?;
                tx.append(event);
                cancelled.push(part);
            }
            // Only then, so that parts which depend on each other are cancelled, and not blocked.
            for one in &cancelled {
                update_dependents(tx, one).await?;
            }
            Ok(task)
        };
        self.db.write(permit, cancel).await
    }

    /// Do a task again that is in no run and has ended without success, and with it the tasks that it blocked. Returns the
    /// tasks that are pending again.
    pub async fn retry(&self, permit: &Permit, id: &TaskId) -> Result<Vec<TaskId>, TaskError> {
        let id = id.clone();
        let retry = async move |tx: &mut Tx<'_>| {
            let task = load(tx, &id).await?;
            if let Some(run) = task.run {
                return Err(TaskError::OfRun { task: id.clone(), run });
            }
            let mut tasks = with_dependents(tx, &id).await?;
            let waiting: HashMap<TaskId, u32> = to_reopen(&tasks, Some(&id)).into_iter().collect();
            if !waiting.contains_key(&id) {
                return Err(TaskError::NotToRetry { task: id.clone(), state: task.state.name() });
            }
            let (now, chosen): (_, Vec<TaskId>) = (tx.now(), waiting.keys().cloned().collect());
            let results = tx.results_of(&chosen).await?;
            let mut reopened = Vec::with_capacity(chosen.len());
            for task in &mut tasks {
                let Some(&waiting_for) = waiting.get(&task.id) else { continue };
                let event = task.apply(Command::Reopen { waiting_for }, now)?;
                tx.save_task(task).await?;
                tx.append(event);
                reopened.push(task.id.clone());
            }
            tx.delete_unnamed_blobs(results).await?;
            Ok(reopened)
        };
        self.db.write(permit, retry).await
    }
}

/// What a task means for those that depend on it.
enum Outlook {
    /// They wait for it.
    Open,
    /// They need not wait.
    Done,
    /// They cannot start, because of this task.
    InVain(TaskId),
}

impl Outlook {
    fn of(task: &Task) -> Outlook {
        match &task.state {
            State::Pending { .. } | State::InProgress { .. } => Outlook::Open,
            State::Completed(_) => Outlook::Done,
            _ if task.allow_failure => Outlook::Done,
            State::Blocked(by) => Outlook::InVain(by.clone()),
            State::Failed(_) | State::Cancelled => Outlook::InVain(task.id.clone()),
        }
    }
}

async fn submit_all(tx: &mut Tx<'_>, declared: &[Submit], order: &[usize]) -> Result<Vec<Task>, TaskError> {
    let ids: Vec<TaskId> = declared.iter().map(|one| one.task.id.clone()).collect();
    let known: HashMap<TaskId, Task> = by_id(tx.tasks_named(&ids).await?);
    check_parents(tx, declared.iter().map(|one| &one.task)).await?;
    let among: HashSet<&TaskId> = ids.iter().collect();
    let needed = declared.iter().flat_map(|one| &one.task.depends_on).filter(|on| !among.contains(on));
    let needed: Vec<TaskId> = needed.cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let needed = tx.dependencies(None, &needed).await?;
    let mut outlooks: HashMap<TaskId, Outlook> =
        needed.iter().chain(known.values()).map(|task| (task.id.clone(), Outlook::of(task))).collect();

    let (now, mut tasks) = (tx.now(), Vec::with_capacity(declared.len()));
    for &n in order {
        let new = &declared[n].task;
        if known.contains_key(&new.id) {
            continue;
        }
        let (mut waiting_for, mut blocked) = (0, None);
        for on in &new.depends_on {
            match outlooks.get(on) {
                None => return Err(Invalid::UnknownDependency { task: new.id.clone(), on: on.clone() }.into()),
                Some(Outlook::Open) => waiting_for += 1,
                Some(Outlook::Done) => {}
                Some(Outlook::InVain(by)) => blocked = blocked.or(Some(by.clone())),
            }
        }
        let mut task = Task::new(new.clone(), u32::try_from(n).unwrap_or(u32::MAX), waiting_for, now);
        if let Some(by) = blocked {
            task.state = State::Blocked(by);
        }
        outlooks.insert(new.id.clone(), Outlook::of(&task));
        tasks.push((n, task));
    }
    tasks.sort_by_key(|(n, _)| *n);
    let mut added: HashMap<usize, Task> = HashMap::with_capacity(tasks.len());
    for some in tasks.chunks(ADDED_AT_ONCE_MAX) {
        let of_some: Vec<&Submit> = some.iter().map(|(n, _)| &declared[*n]).collect();
        let done = add(tx, &of_some, some.iter().map(|(_, task)| task.clone()).collect()).await?;
        for ((n, _), task) in some.iter().zip(done) {
            added.insert(*n, task?);
        }
    }
    let mut all = Vec::with_capacity(declared.len());
    for (n, one) in declared.iter().enumerate() {
        let existing = match added.remove(&n) {
            Some(task) => task,
            None => {
                let existing = load(tx, &one.task.id).await?;
                repeated(tx, &one.task, existing).await?
            }
        };
        all.push(existing);
    }
    Ok(all)
}

fn by_id(tasks: Vec<Task>) -> HashMap<TaskId, Task> {
    tasks.into_iter().map(|task| (task.id.clone(), task)).collect()
}

/// The tasks that are parts of one, and the parts of those, and so on.
async fn all_parts(tx: &mut Tx<'_>, id: &TaskId) -> Result<Vec<TaskId>, TaskError> {
    let (mut all, mut seen) = (Vec::new(), HashSet::from([id.clone()]));
    let mut layer = vec![id.clone()];
    while !layer.is_empty() {
        layer = tx.parts_of(&layer, RELATED_MAX + 1).await?;
        layer.retain(|part| seen.insert(part.clone()));
        all.extend(layer.iter().cloned());
        check_count("parts of a task", all.len(), RELATED_MAX)?;
    }
    Ok(all)
}

/// A task with what depends on it, directly or through others, and with what those depend on.
async fn with_dependents(tx: &mut Tx<'_>, id: &TaskId) -> Result<Vec<Task>, TaskError> {
    let (mut tasks, mut seen) = (Vec::new(), HashSet::from([id.clone()]));
    let mut layer = vec![id.clone()];
    while !layer.is_empty() {
        tasks.extend(tx.tasks_named(&layer).await?);
        layer = tx.dependents_of(&layer).await?;
        layer.retain(|dependent| seen.insert(dependent.clone()));
        check_count("tasks that depend on one", seen.len(), RELATED_MAX)?;
    }
    let needs = tasks.iter().flat_map(|task: &Task| &task.depends_on).filter(|on| !seen.contains(on));
    let needs: Vec<TaskId> = needs.cloned().collect::<BTreeSet<_>>().into_iter().collect();
    check_count("tasks that others depend on", needs.len(), RELATED_MAX)?;
    tasks.extend(tx.tasks_named(&needs).await?);
    Ok(tasks)
}
