//! All rules together, for any order of events: a world of calls and processes that obeys the lifecycle, and checks what
//! it decides.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    tests::{IDLE, Slot, s},
    *,
};

/// What a caller has, between the begin and the end of its call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    /// It waits for its turn, or has it and has asked for nothing yet.
    Began,
    /// It waits for a start.
    Waiting,
    Using(Incarnation),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Process {
    Starting,
    Running,
    /// It takes no calls and has not exited.
    Leaving,
}

/// What a slot looks like from outside: its calls and its processes, which obey it, in any order and at any time.
struct World {
    slot: Slot,
    calls: Vec<Call>,
    processes: BTreeMap<Incarnation, Process>,
    is_watched: bool,
    last_used: Instant,
    /// The process that is being asked whether it is alive, and how often it has not answered.
    asked: Option<(Incarnation, u32)>,
    /// No start before this.
    earliest: Instant,
    /// Failed starts in a row.
    unstarted: u32,
    /// The last wait after a failure, if the failures since were in a row.
    last_wait: Duration,
    up_since: Instant,
    is_closing: bool,
    is_drained: bool,
    is_over: bool,
}

/// One thing that can happen to a slot. What is not possible just then is skipped.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pass(Duration),
    Begin,
    Want,
    EndCall(prop::sample::Index),
    ComeUp,
    FailToStart(bool),
    Die,
    Exit,
    TimeOut(prop::sample::Index),
    Answer(bool),
    Watch(bool),
    IdleTimer,
    Close,
    DrainOver,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let gap = prop_oneof![0_u64..50, 500_u64..5_000, 10_000_u64..400_000];
    prop_oneof![
        4 => gap.prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
        4 => Just(Step::Begin),
        4 => Just(Step::Want),
        3 => index().prop_map(Step::EndCall),
        3 => Just(Step::ComeUp),
        3 => prop::bool::weighted(0.1).prop_map(Step::FailToStart),
        3 => Just(Step::Die),
        3 => Just(Step::Exit),
        2 => index().prop_map(Step::TimeOut),
        3 => prop::bool::weighted(0.3).prop_map(Step::Answer),
        1 => any::<bool>().prop_map(Step::Watch),
        2 => Just(Step::IdleTimer),
        1 => prop::bool::weighted(0.4).prop_map(|is_so| if is_so { Step::Close } else { Step::Begin }),
        1 => prop::bool::weighted(0.7).prop_map(|is_so| if is_so { Step::DrainOver } else { Step::Begin }),
    ]
}

impl World {
    fn new() -> World {
        let slot = Slot::new();
        let now = slot.now;
        World {
            slot,
            calls: Vec::new(),
            processes: BTreeMap::new(),
            is_watched: false,
            last_used: now,
            asked: None,
            earliest: now,
            unstarted: 0,
            last_wait: Duration::ZERO,
            up_since: now,
            is_closing: false,
            is_drained: false,
            is_over: false,
        }
    }

    fn process(&self, is: Process) -> Option<Incarnation> {
        self.processes.iter().find(|(_, process)| **process == is).map(|(incarnation, _)| *incarnation)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Pass(time) => self.slot.now += time,
            Step::Begin => self.begin(),
            Step::Want => self.want(),
            Step::EndCall(index) => {
                if !self.calls.is_empty() {
                    self.end_call(index.index(self.calls.len()));
                }
            }
            Step::ComeUp => self.come_up(),
            Step::FailToStart(needs_login) => self.fail_to_start(needs_login),
            Step::Die => self.die(),
            Step::Exit => self.exit(),
            Step::TimeOut(index) => self.time_out(index),
            Step::Answer(is_alive) => self.answer(is_alive),
            Step::Watch(is_watched) => {
                self.is_watched = is_watched;
                assert_eq!(self.slot.on(Event::Watched(is_watched)), None);
            }
            Step::IdleTimer => self.idle_timer(),
            Step::Close => {
                self.is_closing = true;
                let decided = self.slot.on(Event::Close);
                self.may_end(decided);
            }
            Step::DrainOver if self.is_closing => {
                self.is_drained = true;
                let decided = self.slot.on(Event::DrainOver);
                self.may_end(decided);
                assert!(self.is_over);
            }
            Step::DrainOver => {}
        }
    }

    fn begin(&mut self) {
        match self.slot.on(Event::CallBegan) {
            Some(Action::Refuse(Refusal::Removed)) => assert!(self.is_closing),
            decided => {
                assert!(!self.is_closing);
                assert_eq!(decided, self.process(Process::Running).map(Action::Use));
                self.calls.push(decided.map_or(Call::Began, |_| Call::Using(self.process(Process::Running).unwrap())));
            }
        }
    }

    fn want(&mut self) {
        let Some(call) = self.calls.iter().position(|call| *call == Call::Began) else { return };
        match self.slot.on(Event::Wanted) {
            Some(Action::Use(incarnation)) => {
                assert_eq!(self.process(Process::Running), Some(incarnation));
                self.calls[call] = Call::Using(incarnation);
            }
            Some(Action::Wait) => self.calls[call] = Call::Waiting,
            Some(Action::Start(incarnation)) => {
                self.calls[call] = Call::Waiting;
                self.start(incarnation);
            }
            Some(Action::Refuse(Refusal::Removed)) => {
                assert!(self.is_closing);
                self.end_call(call);
            }
            Some(Action::Refuse(Refusal::NotYet { wait, left_alone_after })) => {
                assert_eq!(self.earliest, self.slot.now + wait);
                assert_eq!(left_alone_after, (self.unstarted >= 5).then_some(self.unstarted));
                self.end_call(call);
            }
            decided => panic!("{decided:?}"),
        }
    }

    fn start(&mut self, incarnation: Incarnation) {
        assert!(self.processes.is_empty(), "two processes in one slot: {:?} and {incarnation:?}", self.processes);
        assert!(!self.is_over, "a start after the end");
        assert!(self.slot.now >= self.earliest, "a start too early");
        assert_eq!(incarnation, Incarnation(self.slot.life.starts()));
        self.processes.insert(incarnation, Process::Starting);
    }

    fn end_call(&mut self, call: usize) {
        self.calls.swap_remove(call);
        if self.calls.is_empty() {
            self.last_used = self.slot.now;
        }
        let decided = self.slot.on(Event::CallEnded);
        self.may_end(decided);
    }

    fn end_calls(&mut self, are: Call) {
        while let Some(call) = self.calls.iter().position(|call| *call == are) {
            self.end_call(call);
        }
    }

    fn may_end(&mut self, decided: Option<Action>) {
        let is_due = self.is_closing && (self.is_drained || self.calls.is_empty()) && !self.is_over;
        assert_eq!(decided, is_due.then_some(Action::End));
        if is_due {
            self.is_over = true;
            if let Some(running) = self.process(Process::Running) {
                self.leave(running);
            }
            self.end_calls(Call::Waiting);
        }
    }

    fn leave(&mut self, incarnation: Incarnation) {
        self.processes.insert(incarnation, Process::Leaving);
        self.asked = None;
    }

    fn come_up(&mut self) {
        let Some(incarnation) = self.process(Process::Starting) else { return };
        match self.slot.on(Event::Started(incarnation)) {
            None => {
                assert!(!self.is_over);
                self.processes.insert(incarnation, Process::Running);
                (self.last_used, self.up_since, self.unstarted) = (self.slot.now, self.slot.now, 0);
                for call in self.calls.iter_mut().filter(|call| **call == Call::Waiting) {
                    *call = Call::Using(incarnation);
                }
            }
            Some(Action::Stop(stopped)) => {
                assert!(self.is_over && stopped == incarnation);
                self.leave(incarnation);
            }
            decided => panic!("{decided:?}"),
        }
    }

    fn fail_to_start(&mut self, needs_login: bool) {
        let Some(incarnation) = self.process(Process::Starting) else { return };
        self.processes.clear();
        let cause = match needs_login {
            _ if self.is_over => Cause::Withdrawn,
            true => Cause::NeedsLogin,
            false => Cause::Failed,
        };
        let Some(Action::Refuse(refusal)) = self.slot.on(Event::Unstarted(incarnation, cause)) else { panic!() };
        match (cause, refusal) {
            (Cause::Withdrawn, Refusal::Removed) => {}
            (Cause::NeedsLogin, Refusal::NotYet { wait, .. }) => assert!(wait.is_zero()),
            (Cause::Failed, Refusal::NotYet { wait, .. }) => {
                self.unstarted += 1;
                self.failed(wait, self.unstarted >= 5);
            }
            other => panic!("{other:?}"),
        }
        self.end_calls(Call::Waiting);
    }

    /// Waits after failures in a row never become shorter, and none is longer than allowed.
    fn failed(&mut self, wait: Duration, is_left_alone: bool) {
        self.earliest = self.slot.now + wait;
        if is_left_alone {
            assert_eq!(wait, s(300));
            return;
        }
        assert!(wait <= s(60) && wait >= self.last_wait, "{wait:?} after {:?}", self.last_wait);
        self.last_wait = wait;
    }

    fn die(&mut self) {
        let Some(incarnation) = self.process(Process::Running) else { return };
        if self.slot.now - self.up_since >= s(60) {
            self.last_wait = Duration::ZERO;
        }
        assert_eq!(self.slot.on(Event::Died(incarnation)), None);
        self.leave(incarnation);
        let wait = self.slot.state().wait().unwrap_or_default();
        self.failed(wait, false);
        self.end_calls(Call::Using(incarnation));
    }

    fn exit(&mut self) {
        let Some(incarnation) = self.process(Process::Leaving) else { return };
        self.processes.clear();
        match self.slot.on(Event::Exited(incarnation)) {
            Some(Action::Start(next)) => self.start(next),
            decided => assert_eq!(decided, None),
        }
        self.end_calls(Call::Using(incarnation));
    }

    fn time_out(&mut self, index: prop::sample::Index) {
        let using = |call: &Call| if let Call::Using(incarnation) = call { Some(*incarnation) } else { None };
        let called: Vec<Incarnation> = self.calls.iter().filter_map(using).collect();
        if called.is_empty() {
            return;
        }
        let incarnation = *index.get(&called);
        let is_running = self.process(Process::Running) == Some(incarnation);
        match self.slot.on(Event::CallTimedOut(incarnation)) {
            Some(Action::Ask(asked)) => {
                assert!(is_running && asked == incarnation && self.asked.is_none());
                self.asked = Some((incarnation, 0));
            }
            decided => assert!(decided.is_none() && (!is_running || self.asked.is_some()), "{decided:?}"),
        }
    }

    fn answer(&mut self, is_alive: bool) {
        let Some((incarnation, unanswered)) = self.asked else { return };
        if is_alive {
            assert_eq!(self.slot.on(Event::Answered(incarnation)), None);
            self.asked = None;
            return;
        }
        let unanswered = unanswered + 1;
        match self.slot.on(Event::Unanswered(incarnation)) {
            Some(Action::Ask(_)) => {
                assert!(unanswered < 3 && !self.calls.is_empty());
                self.asked = Some((incarnation, unanswered));
            }
            Some(Action::HangUp(_)) => {
                assert!(unanswered == 3 || self.calls.is_empty());
                self.die();
            }
            decided => panic!("{decided:?}"),
        }
    }

    fn idle_timer(&mut self) {
        let is_needed = !self.calls.is_empty() || self.is_watched;
        let is_idle = !is_needed && self.slot.now - self.last_used >= IDLE;
        let running = self.process(Process::Running).filter(|_| is_idle);
        assert_eq!(self.slot.on(Event::IdleTimer), running.map(Action::Stop));
        if let Some(running) = running {
            self.leave(running);
            self.last_wait = Duration::ZERO;
        }
    }

    /// What holds at any time.
    fn check(&mut self) {
        let World { slot, calls, processes, .. } = &*self;
        assert_eq!(slot.life.calls(), calls.len());
        assert!(processes.len() <= 1);
        for (incarnation, process) in processes {
            assert_eq!(slot.life.is_running(*incarnation), *process == Process::Running);
        }
        if calls.contains(&Call::Waiting) {
            assert!(slot.state() == State::Starting && !processes.is_empty(), "nobody will wake a call that waits");
        }
        if slot.life.idle_in(slot.now).is_zero() {
            assert!(self.process(Process::Running).is_none() || slot.life.clone().stop_if_idle(slot.now).is_some());
        }
        self.late_reports_change_nothing();
    }

    /// Reports of processes that are gone, or that there never were.
    fn late_reports_change_nothing(&self) {
        let now = self.slot.now;
        for incarnation in (0..=self.slot.life.starts() + 1).map(Incarnation) {
            if self.processes.contains_key(&incarnation) {
                continue;
            }
            for event in [
                Event::Started(incarnation),
                Event::Unstarted(incarnation, Cause::Failed),
                Event::Unstarted(incarnation, Cause::NeedsLogin),
                Event::Died(incarnation),
                Event::Exited(incarnation),
                Event::CallTimedOut(incarnation),
                Event::Answered(incarnation),
                Event::Unanswered(incarnation),
            ] {
                let mut life = self.slot.life.clone();
                assert_eq!((life.on(event, || now), &life), (None, &self.slot.life), "{event:?}");
            }
        }
    }

    /// Everything that was begun goes on to its end.
    fn settle(&mut self) {
        self.come_up();
        self.exit();
        self.come_up();
        self.check();
        assert!(!self.calls.contains(&Call::Waiting), "a call waits for ever");
        [Step::Close, Step::DrainOver].into_iter().for_each(|step| self.take(step));
        while !self.calls.is_empty() {
            self.end_call(0);
        }
        self.exit();
        self.begin();
        self.check();
        assert!(self.calls.is_empty() && self.processes.is_empty() && self.slot.life.is_unused());
    }
}

proptest! {
    #[test]
    fn the_rules_hold_for_any_order_of_events(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.check();
        }
        world.settle();
    }
}
