//! What the store must do: the same operations on maps, one at a time, written for clarity and not for speed.
//!
//! A task changes by [`Task::apply`] and a run by [`Run::apply`], which have tests of their own. What the store adds is
//! written a second time here, and differently where there is a choice: how many dependencies are unfinished is counted
//! anew from the tasks' states after every change, where the store counts down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
};

use serde_json::json;
use skep_core::{
    Json, Timestamp,
    app::{RunError, SessionError, TaskError},
    db::Now,
    event::{EventKind, NewEvent},
    limits::Invalid,
    run::{self, Deletion, Run, RunId},
    session::{ATTACH_TIME, HUB_TIME, HubId, NewSession, SessionId},
    task::{self, Attempt, Command, Holder, LateAnswer, NewTask, Refused, State, Task, TaskId},
};

use super::ops::{Op, new_run, output};

/// The whole database, as it must be.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) runs: BTreeMap<RunId, Run>,
    pub(super) sessions: BTreeMap<String, Session>,
    /// Until when each is alive.
    pub(super) hubs: BTreeMap<String, Timestamp>,
    /// How many deletions have begun.
    epoch: i64,
    /// Those that are not over.
    pub(super) deletions: BTreeMap<RunId, Deleting>,
    events: Vec<Arc<NewEvent>>,
    /// How many events there were when [`Model::mark`] was called.
    marked: usize,
}

/// How far a deletion is.
#[derive(Clone)]
pub(super) struct Deleting {
    pub(super) epoch: i64,
    /// Its tasks do not know any more what they need.
    dependencies_gone: bool,
}

#[derive(Clone)]
pub(super) struct Session {
    pub(super) new: NewSession,
    pub(super) hub: String,
}

/// What a caller is told, or would be: an answer or an error, as text.
pub(super) fn told<T: Debug, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("refused: {error}"),
    }
}

/// The same of several.
pub(super) fn each(results: Vec<Result<(), TaskError>>) -> Vec<String> {
    results.into_iter().map(told).collect()
}

/// Tasks whose order nothing promises.
pub(super) fn sorted(mut tasks: Vec<Task>) -> Vec<Task> {
    tasks.sort_by(|one, other| one.id.cmp(&other.id));
    tasks
}

impl Model {
    /// Do a part of an operation at a moment. Gives what its caller is told.
    pub(super) fn apply(&mut self, op: &Op, now: Now) -> String {
        let at = now.at;
        match op {
            Op::Submit(new) => told(self.submit(new, at)),
            Op::StartRun(id, tasks) => told(self.start_run(id, tasks, at)),
            Op::Interrupt(id) => told(self.change_run(id, run::Command::Interrupt, at)),
            Op::Resume(id) => told(self.change_run(id, run::Command::Resume, at)),
            Op::End(id, end) => told(self.change_run(id, run::Command::End(*end, Some(Json::from(json!("over")))), at)),
            Op::Retry(id, only) => told(self.retry_run(id, only.as_ref(), at)),
            Op::Delete(id) => told(self.begin_deletion(id).map(|deletion| self.finish_deletion(&deletion))),
            Op::BeginDeletion(id) => told(self.begin_deletion(id)),
            Op::DeletionStep(deletion) => told(Ok::<_, RunError>(self.deletion_step(deletion))),
            Op::FinishDeletions => {
                self.open_deletions().iter().for_each(|deletion| self.finish_deletion(deletion));
                told(Ok::<_, RunError>(()))
            }
            Op::ReleaseRun(id) => {
                let released = self.release(|task| task.run.as_ref() == Some(id), at);
                told(Ok::<_, RunError>(sorted(released)))
            }
            Op::Claim(queue, holder) => told(self.claim(queue, holder, at)),
            Op::ClaimMany(queue, holder, count) => {
                let claim = || self.claim(queue, holder, at).ok().flatten();
                told(Ok::<_, TaskError>(std::iter::from_fn(claim).take(*count).collect::<Vec<_>>()))
            }
            Op::Finish(id, by) => told(self.finish(id, by, at)),
            Op::FinishMany(all) => {
                let finished = all.iter().map(|(id, by)| self.finish(id, by, at)).collect();
                told(Ok::<_, TaskError>(each(finished)))
            }
            Op::FinishAndClaim(..) => unreachable!("its parts are done by themselves"),
            Op::Fail(id, by, retry) => told(self.fail(id, by, *retry, at)),
            Op::Cancel(id) => told(self.cancel(id, at)),
            Op::ExpireTasks => told(Ok::<_, TaskError>(self.expire_tasks(now))),
            Op::Join(hub, sessions) => {
                self.join(hub, sessions, at);
                told(Ok::<_, SessionError>(()))
            }
            Op::Beat(hub) => told(match self.hubs.get_mut(&hub.0) {
                Some(until) => {
                    *until = at.after(HUB_TIME);
                    Ok(())
                }
                None => Err(SessionError::HubGone(hub.clone())),
            }),
            Op::Attach(_, _, hub) if !self.hubs.contains_key(&hub.0) => {
                told(Err::<(), _>(SessionError::HubGone(hub.clone())))
            }
            Op::Attach(id, token, hub) => told(match self.sessions.get_mut(&id.0) {
                Some(session) if session.new.token.as_ref() == Some(token) => {
                    session.hub = hub.0.clone();
                    let held =
                        |task: &&Task| matches!(&task.state, State::InProgress { holder: by, .. } if by.session == *id);
                    Ok(self.tasks.values().filter(held).cloned().collect::<Vec<_>>())
                }
                _ => Err(SessionError::Unknown(id.clone())),
            }),
            Op::Leave(hub) => {
                self.leave(hub, at);
                told(Ok::<_, SessionError>(()))
            }
            Op::ExpireHubs => {
                let passed = Timestamp(at.0 - micros(now.error) - micros(ATTACH_TIME));
                let before = self.hubs.len();
                self.hubs.retain(|_, until| *until > passed);
                told(Ok::<_, SessionError>(before - self.hubs.len()))
            }
            Op::ReleaseLost => told(Ok::<_, TaskError>(self.release_lost(at))),
        }
    }

    /// What a test of the store reads from it: a line for each row, and for each event since [`Model::mark`].
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (id, until) in &self.hubs {
            lines.push(format!("hub {id} until {}", until.0));
        }
        for (id, Session { new, hub }) in &self.sessions {
            let token = if new.token.is_some() { "with" } else { "no" };
            lines.push(format!("session {id} of {} at {hub}, {token} token", new.worker.0));
        }
        for run in self.runs.values() {
            let (ended, report) = (run.ended.map_or(0, |at| at.0), run.report.clone().unwrap_or_default());
            lines.push(format!("run {} {} {} {ended} {report}", run.id.0, run.state.name(), run.created.0));
        }
        for task in self.tasks.values() {
            lines.push(task_line(task));
            let deleting = task.run.as_ref().and_then(|run| self.deletions.get(run));
            if !deleting.is_some_and(|deleting| deleting.dependencies_gone) {
                lines.extend(task.depends_on.iter().map(|on| format!("need of {} for {}", task.id.0, on.0)));
            }
        }
        for (run, Deleting { epoch, .. }) in &self.deletions {
            // Otherwise nobody could tell whether a step that went without an answer has deleted them.
            let events = self.events.iter().filter(|event| event.run.as_ref() == Some(run)).count();
            lines.push(format!("deletion of {} {epoch}, {events} events left", run.0));
        }
        let mut places: BTreeMap<_, usize> = BTreeMap::new();
        for event in self.events.iter().skip(self.marked) {
            let (run, task) = (event.run.as_ref().map_or("-", |run| &run.0), event.task.as_ref());
            let task = task.map_or("-", |task| &task.0);
            let place = places.entry((run, task)).or_default();
            *place += 1;
            lines.push(format!(
                "event {run} {task} {place}: {} {} {}",
                event.kind.name(),
                event.at.0,
                event.kind.data()
            ));
        }
        lines.sort();
        lines
    }

    /// From now on, only new events are of interest.
    pub(super) fn mark(&mut self) {
        self.marked = self.events.len();
    }

    /// All events are of interest.
    pub(super) fn unmark(&mut self) {
        self.marked = 0;
    }

    /// The attempts that are under way.
    pub(super) fn held(&self) -> Vec<(TaskId, Attempt)> {
        self.tasks.values().filter_map(|task| Some((task.id.clone(), task.held()?))).collect()
    }

    /// The runs that wait to be resumed.
    pub(super) fn interrupted(&self) -> Vec<RunId> {
        let runs = self.runs.values().filter(|run| run.state == run::State::Interrupted);
        runs.map(|run| run.id.clone()).collect()
    }

    /// Whether a session is there, and its hub, too.
    pub(super) fn is_live(&self, session: &SessionId) -> bool {
        self.sessions.get(&session.0).is_some_and(|session| self.hubs.contains_key(&session.hub))
    }

    fn tell(&mut self, event: NewEvent) {
        self.events.push(Arc::new(event));
    }

    fn submit(&mut self, new: &NewTask, now: Timestamp) -> Result<Task, TaskError> {
        if new.depends_on.contains(&new.id) {
            return Err(Invalid::Cycle(vec![new.id.clone()]).into());
        }
        if let Some(existing) = self.tasks.get(&new.id) {
            return match &existing.run {
                Some(run) if self.deletions.contains_key(run) => Err(TaskError::BeingDeleted(run.clone())),
                run if *run != new.run => Err(TaskError::Taken(new.id.clone())),
                _ => match difference(new, existing) {
                    Some(what) => Err(TaskError::Conflict { task: new.id.clone(), what }),
                    None => Ok(existing.clone()),
                },
            };
        }
        let position = match &new.run {
            None => 0,
            Some(id) => match self.runs.get(id) {
                None => return Err(TaskError::UnknownRun(id.clone())),
                Some(run) if run.state != run::State::Running => return Err(TaskError::RunNotRunning(run.state)),
                Some(_) => self.positions(id).max().map_or(0, |last| last + 1),
            },
        };
        for on in &new.depends_on {
            if self.tasks.get(on).is_none_or(|task| task.run != new.run) {
                return Err(Invalid::UnknownDependency { task: new.id.clone(), on: on.clone() }.into());
            }
        }
        let mut task = Task { epoch: self.epoch, ..Task::new(new.clone(), position, 0, now) };
        self.tell(event_of(&task, EventKind::TaskSubmitted { queue: task.queue.clone() }, now));
        let needs: BTreeSet<_> = new.depends_on.iter().collect();
        if let Some(by) = needs.into_iter().find(|on| ended_in_vain(&self.tasks[on])) {
            task.state = State::Blocked(by.clone());
            self.tell(event_of(&task, EventKind::TaskBlocked { by: by.clone() }, now));
        }
        self.tasks.insert(new.id.clone(), task);
        self.count_unfinished();
        Ok(self.tasks[&new.id].clone())
    }

    fn positions(&self, run: &RunId) -> impl Iterator<Item = u32> {
        self.tasks.values().filter(move |task| task.run.as_ref() == Some(run)).map(|task| task.position)
    }

    fn start_run(&mut self, id: &RunId, tasks: &[NewTask], now: Timestamp) -> Result<Run, RunError> {
        if let Some(existing) = self.runs.get(id) {
            return Ok(existing.clone());
        }
        if self.deletions.contains_key(id) {
            return Err(RunError::BeingDeleted(id.clone()));
        }
        if let Some(taken) = tasks.iter().find(|task| self.tasks.contains_key(&task.id)) {
            return Err(RunError::TaskTaken(taken.id.clone()));
        }
        let (run, started) = Run::start(new_run(id), tasks.len(), now);
        self.tell(started);
        for (position, new) in (0..).zip(tasks) {
            let new = NewTask { run: Some(id.clone()), ..new.clone() };
            let task = Task { epoch: self.epoch, ..Task::new(new, position, 0, now) };
            self.tell(event_of(&task, EventKind::TaskSubmitted { queue: task.queue.clone() }, now));
            self.tasks.insert(task.id.clone(), task);
        }
        self.count_unfinished();
        self.runs.insert(id.clone(), run.clone());
        Ok(run)
    }

    fn change_run(&mut self, id: &RunId, command: run::Command, now: Timestamp) -> Result<Run, RunError> {
        let run = self.runs.get_mut(id).ok_or_else(|| RunError::Unknown(id.clone()))?;
        let event = run.apply(command, now)?;
        let run = run.clone();
        if run.state.is_over() {
            self.apply_to_all(|task| task.run.as_ref() == Some(id), &Command::Cancel, now);
        } else {
            self.release(|task| task.run.as_ref() == Some(id), now);
        }
        self.tell(event);
        Ok(run)
    }

    fn release(&mut self, which: impl Fn(&Task) -> bool, now: Timestamp) -> Vec<Task> {
        self.apply_to_all(which, &Command::Release, now)
    }

    /// Give a command to some tasks, whatever it is to each. Gives those that it changed.
    fn apply_to_all(&mut self, which: impl Fn(&Task) -> bool, command: &Command, now: Timestamp) -> Vec<Task> {
        let mut changed = Vec::new();
        for task in self.tasks.values_mut().filter(|task| which(task)) {
            if let Ok(event) = task.apply(command.clone(), now) {
                self.events.push(Arc::new(event));
                changed.push(task.clone());
            }
        }
        changed
    }

    /// A failure that was allowed is done again only if somebody asks for this very task. What needs something that
    /// stays without success, does too.
    fn retry_run(&mut self, id: &RunId, only: Option<&TaskId>, now: Timestamp) -> Result<Vec<TaskId>, RunError> {
        let mut run = self.runs.get(id).cloned().ok_or_else(|| RunError::Unknown(id.clone()))?;
        let retried = run.apply(run::Command::Retry, now)?;
        let of_run: Vec<&Task> = self.tasks.values().filter(|task| task.run.as_ref() == Some(id)).collect();
        let is_idle = |task: &Task| matches!(task.state, State::Blocked(_) | State::Cancelled);
        let is_asked_for = |task: &Task| match only {
            Some(only) => task.id == *only && (is_idle(task) || matches!(task.state, State::Failed(_))),
            None => is_idle(task) || matches!(task.state, State::Failed(_)) && !task.allow_failure,
        };
        let mut chosen: BTreeSet<TaskId> =
            of_run.iter().filter(|task| is_asked_for(task)).map(|task| task.id.clone()).collect();
        // As often as the longest chain could be.
        for _ in &of_run {
            for task in of_run.iter().filter(|task| is_idle(task)) {
                if task.depends_on.iter().any(|on| chosen.contains(on)) {
                    chosen.insert(task.id.clone());
                }
            }
        }
        for _ in &of_run {
            for task in &of_run {
                if task.depends_on.iter().any(|on| !chosen.contains(on) && ended_in_vain(&self.tasks[on])) {
                    chosen.remove(&task.id);
                }
            }
        }
        match only {
            Some(task) if !chosen.contains(task) => {
                let state = self.tasks.get(task).filter(|task| task.run.as_ref() == Some(id));
                let state = state.map_or("unknown", |task| task.state.name());
                return Err(RunError::NotToRetry { task: task.clone(), state });
            }
            None if chosen.is_empty() => return Err(RunError::NothingToRetry(id.clone())),
            _ => {}
        }
        self.runs.insert(id.clone(), run);
        self.tell(retried);
        let reopened = self.apply_to_all(|task| chosen.contains(&task.id), &Command::Reopen { waiting_for: 0 }, now);
        self.count_unfinished();
        let mut reopened: Vec<(u32, TaskId)> = reopened.into_iter().map(|task| (task.position, task.id)).collect();
        reopened.sort();
        Ok(reopened.into_iter().map(|(_, id)| id).collect())
    }

    /// The run is gone. Its tasks are cancelled, which nobody is told.
    fn begin_deletion(&mut self, id: &RunId) -> Result<Deletion, RunError> {
        let Some(run) = self.runs.get(id) else {
            let deleting = self.deletions.get(id).ok_or_else(|| RunError::Unknown(id.clone()))?;
            return Ok(Deletion { run: id.clone(), epoch: deleting.epoch });
        };
        run.check_deletable()?;
        self.runs.remove(id);
        for task in self.tasks.values_mut().filter(|task| task.run.as_ref() == Some(id) && !task.state.is_over()) {
            task.state = State::Cancelled;
        }
        self.epoch += 1;
        self.deletions.insert(id.clone(), Deleting { epoch: self.epoch, dependencies_gone: false });
        Ok(Deletion { run: id.clone(), epoch: self.epoch })
    }

    pub(super) fn open_deletions(&self) -> Vec<Deletion> {
        let open = self.deletions.iter();
        open.map(|(run, deleting)| Deletion { run: run.clone(), epoch: deleting.epoch }).collect()
    }

    fn finish_deletion(&mut self, deletion: &Deletion) {
        while self.deletion_step(deletion) {}
    }

    /// First all events go, then what tasks know of each other, then the tasks: these runs are smaller than a step.
    fn deletion_step(&mut self, Deletion { run: id, epoch }: &Deletion) -> bool {
        let Some(deleting) = self.deletions.get_mut(id).filter(|deleting| deleting.epoch == *epoch) else {
            return false;
        };
        let is_of_run = |event: &Arc<NewEvent>| event.run.as_ref() == Some(id);
        if self.events.iter().any(is_of_run) {
            self.marked -= self.events.iter().take(self.marked).filter(|event| is_of_run(event)).count();
            self.events.retain(|event| !is_of_run(event));
            return true;
        }
        let is_bare = |task: &Task| task.run.as_ref() != Some(id) || task.depends_on.is_empty();
        if !deleting.dependencies_gone && !self.tasks.values().all(is_bare) {
            deleting.dependencies_gone = true;
            return true;
        }
        let before = self.tasks.len();
        self.tasks.retain(|_, task| task.run.as_ref() != Some(id));
        if self.tasks.len() < before {
            return true;
        }
        self.deletions.remove(id);
        false
    }

    fn join(&mut self, hub: &HubId, sessions: &[NewSession], now: Timestamp) {
        self.hubs.insert(hub.0.clone(), now.after(HUB_TIME));
        for new in sessions {
            let session = || Session { new: new.clone(), hub: hub.0.clone() };
            self.sessions.entry(new.id.0.clone()).or_insert_with(session);
        }
    }

    fn claim(&mut self, queue: &str, holder: &Holder, now: Timestamp) -> Result<Option<Task>, TaskError> {
        let is_its_own = self.sessions.get(&holder.session.0).is_some_and(|known| known.new.worker == holder.worker);
        if !is_its_own || !self.is_live(&holder.session) {
            return Ok(None);
        }
        let goes_on = |task: &Task| {
            let run = task.run.as_ref().and_then(|run| self.runs.get(run));
            run.is_none_or(|run| run.state == run::State::Running)
        };
        let key = |task: &Task| match task.state {
            State::Pending { due, waiting_for: 0 }
                if due <= now && task.queue == queue && goes_on(task) && task.deadline.is_none_or(|end| end > now) =>
            {
                Some((task.priority.rank(due), task.position, task.id.clone()))
            }
            _ => None,
        };
        let Some((_, _, id)) = self.tasks.values().filter_map(key).min() else { return Ok(None) };
        self.command(&id, Command::Start(holder.clone()), now).map(Some)
    }

    fn command(&mut self, id: &TaskId, command: Command, now: Timestamp) -> Result<Task, TaskError> {
        let task = self.tasks.get_mut(id).ok_or_else(|| TaskError::Unknown(id.clone()))?;
        let event = task.apply(command, now)?;
        let task = task.clone();
        self.tell(event);
        if task.state.is_over() {
            self.ended(&task, now);
        }
        Ok(task)
    }

    fn finish(&mut self, id: &TaskId, by: &Attempt, now: Timestamp) -> Result<(), TaskError> {
        let output = output(by);
        match self.command(id, Command::Finish(by.clone(), output.clone()), now) {
            Err(TaskError::Refused(Refused::Repeated)) => Ok(()),
            said => self.note_late(id, by, said, LateAnswer::Output(output), now).map(drop),
        }
    }

    fn fail(&mut self, id: &TaskId, by: &Attempt, retry: bool, now: Timestamp) -> Result<Task, TaskError> {
        let said = self.command(id, Command::Fail { by: by.clone(), failure: "boom".into(), retry }, now);
        self.note_late(id, by, said, LateAnswer::Error("boom".into()), now)
    }

    fn note_late(
        &mut self,
        id: &TaskId,
        by: &Attempt,
        said: Result<Task, TaskError>,
        answer: LateAnswer,
        now: Timestamp,
    ) -> Result<Task, TaskError> {
        if let Err(TaskError::Refused(reason)) = &said {
            if self.tasks[id].run.as_ref().is_some_and(|run| self.deletions.contains_key(run)) {
                return Err(TaskError::Unknown(id.clone()));
            }
            let event = self.tasks[id].late_answer(by, reason, answer, now);
            self.tell(event);
        }
        said
    }

    fn cancel(&mut self, id: &TaskId, now: Timestamp) -> Result<Task, TaskError> {
        self.command(id, Command::Cancel, now)
    }

    fn expire_tasks(&mut self, now: Now) -> Vec<Task> {
        let is_late = |task: &&Task| {
            let end = task.deadline.filter(|_| !task.state.is_over());
            end.is_some_and(|end| end.0 <= now.at.0 - micros(now.error))
        };
        let mut late: Vec<(Timestamp, TaskId)> =
            self.tasks.values().filter(is_late).map(|task| (task.deadline.unwrap(), task.id.clone())).collect();
        late.sort();
        // Those that one of the others blocks meanwhile were loaded before, and are told so all the same.
        late.iter().filter_map(|(_, id)| self.command(id, Command::Expire, now.at).ok()).collect()
    }

    fn leave(&mut self, hub: &HubId, now: Timestamp) {
        let sessions = self.sessions.clone();
        let is_here = |by: &Holder| sessions.get(&by.session.0).is_some_and(|session| session.hub == hub.0);
        self.release(|task| matches!(&task.state, State::InProgress { holder: by, .. } if is_here(by)), now);
        self.sessions.retain(|_, session| session.hub != hub.0);
        self.hubs.remove(&hub.0);
    }

    fn release_lost(&mut self, now: Timestamp) -> Vec<Task> {
        let lost =
            |task: &&Task| matches!(&task.state, State::InProgress { holder: by, .. } if !self.is_live(&by.session));
        let lost: Vec<TaskId> = self.tasks.values().filter(lost).map(|task| task.id.clone()).collect();
        let lost = lost.iter().filter_map(|id| self.command(id, Command::Lose, now).ok()).collect();
        let hubs = &self.hubs;
        self.sessions.retain(|_, session| hubs.contains_key(&session.hub));
        lost
    }

    /// A task is over. If that is in vain, so is what needs it, and what needs that, but for optional tasks.
    fn ended(&mut self, task: &Task, now: Timestamp) {
        let mut in_vain: Vec<TaskId> = if ended_in_vain(task) { vec![task.id.clone()] } else { Vec::new() };
        while let Some(need) = in_vain.pop() {
            for dependent in self.tasks.values_mut().filter(|dependent| dependent.depends_on.contains(&need)) {
                if !matches!(dependent.state, State::Pending { .. }) {
                    continue;
                }
                dependent.state = State::Blocked(task.id.clone());
                let event = event_of(dependent, EventKind::TaskBlocked { by: task.id.clone() }, now);
                self.events.push(Arc::new(event));
                if !dependent.allow_failure {
                    in_vain.push(dependent.id.clone());
                }
            }
        }
        self.count_unfinished();
    }

    fn count_unfinished(&mut self) {
        let unfinished: BTreeSet<TaskId> =
            self.tasks.values().filter(|task| !task.state.is_over()).map(|task| task.id.clone()).collect();
        for task in self.tasks.values_mut() {
            let needs: BTreeSet<&TaskId> = task.depends_on.iter().collect();
            if let State::Pending { waiting_for, .. } = &mut task.state {
                *waiting_for = needs.into_iter().filter(|on| unfinished.contains(on)).count() as u32;
            }
        }
    }
}

fn ended_in_vain(task: &Task) -> bool {
    task.state.is_over() && !task.allow_failure && !matches!(task.state, State::Completed(_))
}

/// In what a declaration and a task differ, as a caller is told.
fn difference(new: &NewTask, task: &Task) -> Option<&'static str> {
    if new.queue != task.queue {
        return Some("queue");
    }
    if new.priority != task.priority {
        return Some("priority");
    }
    if new.depends_on.iter().collect::<BTreeSet<_>>() != task.depends_on.iter().collect() {
        return Some("list of dependencies");
    }
    if new.retries_max != task.retries_max {
        return Some("number of retries");
    }
    (new.allow_failure != task.allow_failure).then_some("say on whether it may fail")
}

fn event_of(task: &Task, kind: EventKind, at: Timestamp) -> NewEvent {
    NewEvent { at, run: task.run.clone(), task: Some(task.id.clone()), kind }
}

fn micros(duration: std::time::Duration) -> i64 {
    duration.as_micros() as i64
}

fn task_line(task: &Task) -> String {
    let (mut due, mut waiting, mut worker, mut session, mut result) = (0, 0, "-", "-", String::from("-"));
    match &task.state {
        State::Pending { due: at, waiting_for } => (due, waiting) = (at.0, *waiting_for),
        State::InProgress { holder: by, due: at } => (due, worker, session) = (at.0, &by.worker.0, &by.session.0),
        State::Completed(output) => result = output.to_string(),
        State::Failed(task::Failure { error, .. }) => result = json!(error).to_string(),
        State::Blocked(by) => result = json!(by.0).to_string(),
        State::Cancelled => {}
    }
    let run = task.run.as_ref().map_or("-", |run| &run.0);
    let Task { id, epoch, position, attempt, failures, losses, .. } = task;
    let (state, priority, deadline) = (task.state.name(), task.priority as u8, task.deadline.map_or(0, |at| at.0));
    format!(
        "task {} {epoch} {run} {position} {state} priority {priority} deadline {deadline} due {due} waits for {waiting} attempt {attempt} failures {failures} \
         losses {losses} by {worker} in {session}: {result}",
        id.0
    )
}
