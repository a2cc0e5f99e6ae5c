//! What happens next in a schedule, drawn from its seed and from how things stand.

use std::{collections::VecDeque, time::Duration};

use serde_json::json;
use skep_core::{
    Timestamp,
    run::{Deletion, End, RunId},
    session::{ATTACH_TIME, HUB_TIME, HubId, NewSession, SessionId, SessionToken},
    task::{Attempt, Holder, NewTask, Priority, TaskId, WorkerId},
};

use super::{Call, Step, model::Model, ops::Op};

/// Workers' sessions with each hub.
const SESSIONS: usize = 2;
/// Few names, so that operations meet.
const WORKERS: [&str; 3] = ["ann", "bob", "cyd"];
const QUEUES: [&str; 2] = ["p", "q"];
const RUNS: usize = 3;
const TASKS: usize = 8;
const TASKS_OF_RUN: usize = 6;

/// Numbers that follow from a seed (SplitMix64).
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn one<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len())].clone())
    }
}

/// Draws steps.
pub(super) struct Draw {
    pub(super) random: Random,
    hubs: Vec<HubId>,
    /// How many hubs there have been.
    named: usize,
    /// Hubs that say nothing for now.
    silent: Vec<bool>,
    sessions: Vec<NewSession>,
    /// Whoever has ever held a task.
    attempts: Vec<(TaskId, Attempt)>,
    /// Deletions that have begun, ever.
    deletions: Vec<Deletion>,
    waiting: VecDeque<Step>,
    /// The run that everything is about for now.
    subject: Option<RunId>,
    now: Timestamp,
}

impl Draw {
    pub(super) fn new(random: Random, hubs: usize) -> Draw {
        let mut draw = Draw {
            random,
            hubs: vec![HubId(String::new()); hubs],
            named: 0,
            silent: vec![false; hubs],
            sessions: Vec::new(),
            attempts: Vec::new(),
            deletions: Vec::new(),
            waiting: VecDeque::new(),
            subject: None,
            now: Timestamp(0),
        };
        for slot in 0..hubs {
            let join = draw.join_anew(slot);
            let call = draw.call(slot, join);
            draw.waiting.push_back(Step::Together(vec![call]));
        }
        draw
    }

    /// The next step.
    pub(super) fn step(&mut self, model: &Model, now: Timestamp) -> Step {
        self.now = now;
        for held in model.held() {
            if !self.attempts.contains(&held) {
                self.attempts.push(held);
            }
        }
        for deletion in model.open_deletions() {
            if !self.deletions.contains(&deletion) {
                self.deletions.push(deletion);
            }
        }
        if let Some(step) = self.waiting.pop_front() {
            return step;
        }
        match self.random.below(100) {
            0..2 => {
                // Several steps in one call, so what others see meanwhile is for `BeginDeletion` and `DeletionStep`.
                let run = self.run();
                Step::Together(vec![Call { slot: 0, op: Op::Delete(run), lost: None }])
            }
            2..55 => Step::Together(vec![self.any_call(model)]),
            55..75 => self.meeting(model),
            75..80 => self.death(model),
            80..84 => {
                let slot = self.random.below(self.hubs.len());
                self.silent[slot] ^= true;
                self.look()
            }
            84..88 => self.look(),
            _ => self.time_passes(),
        }
    }

    /// Calls at once, often at one hub and about one run, so that they meet in a group.
    fn meeting(&mut self, model: &Model) -> Step {
        self.subject = self.random.percent(50).then(|| self.run());
        let same = self.random.percent(50).then(|| self.random.below(self.hubs.len()));
        let mut calls = Vec::new();
        for _ in 0..2 + self.random.below(2) {
            let call = self.any_call(model);
            calls.push(Call { slot: same.unwrap_or(call.slot), ..call });
        }
        self.subject = None;
        Step::Together(calls)
    }

    /// Some time, after which those hubs that are not silent say that they are alive.
    fn time_passes(&mut self) -> Step {
        let waits = [Duration::from_millis(1), Duration::from_secs(2), HUB_TIME / 2, HUB_TIME, ATTACH_TIME];
        let wait = waits[self.random.below(waits.len())];
        let beating: Vec<usize> = (0..self.hubs.len()).filter(|slot| !self.silent[*slot]).collect();
        for slot in beating {
            if self.random.percent(90) {
                let beat = self.call(slot, Op::Beat(self.hubs[slot].clone()));
                self.waiting.push_back(Step::Together(vec![beat]));
            }
        }
        Step::Wait(wait)
    }

    /// What every hub does now and then.
    fn look(&mut self) -> Step {
        let slot = self.random.below(self.hubs.len());
        let then = self.call(slot, Op::ReleaseLost);
        self.waiting.push_back(Step::Together(vec![then]));
        Step::Together(vec![self.call(slot, Op::ExpireHubs)])
    }

    /// A hub dies while its workers ask for something, and another one starts in its place.
    fn death(&mut self, model: &Model) -> Step {
        let slot = self.random.below(self.hubs.len());
        let ops = (0..self.random.below(3)).map(|_| self.op(slot, model)).collect::<Vec<_>>();
        let calls = ops.into_iter().map(|op| Call { slot, op, lost: Some(self.random.below(3)) }).collect();
        let join = self.join_anew(slot);
        let call = self.call(slot, join);
        self.waiting.push_back(Step::Together(vec![call]));
        Step::Die(slot, calls)
    }

    fn any_call(&mut self, model: &Model) -> Call {
        let slot = self.random.below(self.hubs.len());
        let op = self.op(slot, model);
        self.call(slot, op)
    }

    fn call(&mut self, slot: usize, op: Op) -> Call {
        Call { slot, op, lost: self.random.percent(8).then(|| self.random.below(4)) }
    }

    fn op(&mut self, slot: usize, model: &Model) -> Op {
        match self.random.below(100) {
            0..14 => self.submit(),
            14..19 => self.start_run(),
            19..41 => self.claim(slot),
            41..52 => self.exchange(slot, model),
            52..61 => self.answer(model, true),
            61..71 => self.answer(model, false),
            71..74 => Op::Cancel(self.any_task()),
            74..76 => Op::Interrupt(self.run()),
            76..78 => Op::Resume(self.run()),
            78..80 => Op::End(self.run(), [End::Completed, End::Failed, End::Cancelled][self.random.below(3)]),
            80..83 => {
                let run = self.run();
                let only = self.random.percent(40).then(|| self.task_of(&run));
                Op::Retry(run, only)
            }
            83..84 => Op::ReleaseRun(self.run()),
            84..86 => Op::BeginDeletion(self.run()),
            86..90 => self.attach(slot),
            90..92 => Op::Leave(self.hub(slot)),
            92..95 => self.join_again(slot),
            95..96 => Op::ExpireHubs,
            96..97 => Op::ReleaseLost,
            97..98 => Op::ExpireTasks,
            _ => self.deletion_step(model),
        }
    }

    /// A step of a deletion that is going on; now and then of one that is over, as by somebody who is late.
    fn deletion_step(&mut self, model: &Model) -> Op {
        let late = self.random.percent(25);
        let from = if late { self.deletions.clone() } else { model.open_deletions() };
        self.random.one(&from).map_or_else(|| Op::BeginDeletion(self.run()), Op::DeletionStep)
    }

    fn join_anew(&mut self, slot: usize) -> Op {
        let hub = HubId(format!("hub{}", self.named));
        self.named += 1;
        self.hubs[slot] = hub.clone();
        let sessions: Vec<NewSession> = (0..SESSIONS).map(|n| self.session(&hub, n)).collect();
        self.sessions.extend(sessions.iter().cloned());
        Op::Join(hub, sessions)
    }

    fn session(&mut self, hub: &HubId, n: usize) -> NewSession {
        let id = SessionId(format!("{}/{n}", hub.0));
        let token = self.random.percent(80).then(|| SessionToken(format!("token of {}", id.0)));
        NewSession { id, worker: WorkerId(WORKERS[self.random.below(WORKERS.len())].into()), token }
    }

    /// As a hub does that hears that it is not known any more.
    fn join_again(&mut self, slot: usize) -> Op {
        let hub = self.hubs[slot].clone();
        let prefix = format!("{}/", hub.0);
        let own = self.sessions.iter().filter(|session| session.id.0.starts_with(&prefix)).cloned().collect();
        Op::Join(hub, own)
    }

    fn attach(&mut self, slot: usize) -> Op {
        let session = self.any_session();
        let token = session.token.filter(|_| self.random.percent(90)).unwrap_or(SessionToken("wrong".into()));
        Op::Attach(session.id, token, self.hub(slot))
    }

    /// The hub of a slot, or now and then another.
    fn hub(&mut self, slot: usize) -> HubId {
        let slot = if self.random.percent(20) { self.random.below(self.hubs.len()) } else { slot };
        self.hubs[slot].clone()
    }

    fn any_session(&mut self) -> NewSession {
        let sessions = &self.sessions;
        self.random.one(sessions).unwrap_or_else(|| panic!("every hub has sessions"))
    }

    fn claim(&mut self, slot: usize) -> Op {
        let prefix = format!("{}/", self.hubs[slot].0);
        let own: Vec<NewSession> =
            self.sessions.iter().filter(|session| session.id.0.starts_with(&prefix)).cloned().collect();
        let own = self.random.one(&own).filter(|_| self.random.percent(80));
        let session = own.unwrap_or_else(|| self.any_session());
        let queue = QUEUES[self.random.below(QUEUES.len())].to_owned();
        // Now and then in another's name.
        let worker = if self.random.percent(5) { WorkerId("eve".into()) } else { session.worker };
        let holder = Holder { worker, session: session.id };
        if self.random.percent(20) {
            Op::ClaimMany(queue, holder, 1 + self.random.below(3))
        } else {
            Op::Claim(queue, holder)
        }
    }

    /// Several answers at once, or one and a claim.
    fn exchange(&mut self, slot: usize, model: &Model) -> Op {
        let Op::Finish(task, by) = self.answer(model, true) else { return self.submit() };
        if self.random.percent(70) {
            let (queue, holder) = match self.claim(slot) {
                Op::Claim(queue, holder) | Op::ClaimMany(queue, holder, _) => (queue, holder),
                other => return other,
            };
            return Op::FinishAndClaim(task, by, queue, holder);
        }
        let mut all = vec![(task, by)];
        for _ in 0..self.random.below(3) {
            if let Op::Finish(task, by) = self.answer(model, true) {
                all.push((task, by));
            }
        }
        Op::FinishMany(all)
    }

    /// An answer of who holds a task, or of who held one.
    fn answer(&mut self, model: &Model, success: bool) -> Op {
        let late = self.random.percent(25);
        let mut from = if late { self.attempts.clone() } else { model.held() };
        if let Some(run) = &self.subject {
            from.retain(|(task, _)| task.0.starts_with(&run.0));
        }
        let Some((task, by)) = self.random.one(&from) else { return self.submit() };
        if success { Op::Finish(task, by) } else { Op::Fail(task, by, self.random.percent(70)) }
    }

    fn run(&mut self) -> RunId {
        self.subject.clone().unwrap_or_else(|| RunId(format!("r{}", self.random.below(RUNS))))
    }

    fn task_of(&mut self, run: &RunId) -> TaskId {
        TaskId(format!("{}.{}", run.0, self.random.below(TASKS_OF_RUN)))
    }

    fn any_task(&mut self) -> TaskId {
        if self.subject.is_none() && self.random.percent(50) {
            return TaskId(format!("t{}", self.random.below(TASKS)));
        }
        let run = self.run();
        self.task_of(&run)
    }

    /// A task in a run, or in none. It needs tasks of lower numbers, which may be missing.
    fn submit(&mut self) -> Op {
        if self.random.percent(60) {
            let n = self.random.below(TASKS);
            return Op::Submit(self.task("t", n, 0));
        }
        let run = self.run();
        // Now and then one that a run would have to share.
        let of = Some(run.clone()).filter(|_| self.random.percent(95));
        let n = self.random.below(TASKS_OF_RUN);
        Op::Submit(NewTask { run: of, ..self.task(&format!("{}.", run.0), n, 0) })
    }

    fn start_run(&mut self) -> Op {
        let run = self.run();
        let prefix = format!("{}.", run.0);
        let count = 1 + self.random.below(TASKS_OF_RUN - 1);
        let first = self.random.below(TASKS_OF_RUN - count + 1);
        let tasks = (first..first + count).map(|n| self.task(&prefix, n, first)).collect();
        Op::StartRun(run, tasks)
    }

    fn task(&mut self, prefix: &str, n: usize, first: usize) -> NewTask {
        let id = |n: usize| TaskId(format!("{prefix}{n}"));
        let queue = QUEUES[self.random.below(QUEUES.len())];
        let priority = self.random.one(&Priority::ALL).filter(|_| self.random.percent(50)).unwrap_or_default();
        // Near enough to pass while the schedule goes on, and seldom before the task may start.
        let not_before = self.random.percent(10).then(|| self.now.after(HUB_TIME / 2));
        let deadline = self.random.percent(20).then(|| self.now.after(HUB_TIME * self.random.below(4) as u32));
        let deadline = deadline.filter(|deadline| not_before.is_none_or(|not_before| not_before < *deadline));
        let depends_on = (first..n).rev().take(4).filter(|_| self.random.percent(35)).map(id).collect();
        NewTask {
            depends_on,
            retries_max: self.random.below(3) as u32,
            allow_failure: self.random.percent(25),
            priority,
            not_before,
            deadline,
            ..NewTask::new(id(n), queue, json!(n))
        }
    }
}
