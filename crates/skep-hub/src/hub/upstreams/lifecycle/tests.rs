//! Each rule by itself.

use super::*;

pub(super) const IDLE: Duration = Duration::from_secs(20);

pub(super) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A lifecycle with a clock that a test moves.
pub(super) struct Slot {
    pub(super) life: Lifecycle,
    pub(super) now: Instant,
}

impl Slot {
    pub(super) fn new() -> Slot {
        let now = Instant::now();
        Slot { life: Lifecycle::new(IDLE, now), now }
    }

    pub(super) fn on(&mut self, event: Event) -> Option<Action> {
        let now = self.now;
        self.life.on(event, || now)
    }

    /// All of these; what was decided last.
    fn all(&mut self, events: impl IntoIterator<Item = Event>) -> Option<Action> {
        events.into_iter().map(|event| self.on(event)).last().flatten()
    }

    fn after(&mut self, time: Duration) -> &mut Slot {
        self.now += time;
        self
    }

    pub(super) fn state(&self) -> State {
        self.life.state(self.now)
    }

    /// A slot whose first process is up, with a call that wanted it.
    fn with_process() -> Slot {
        let mut slot = Slot::new();
        slot.all([Event::CallBegan, Event::Wanted, Event::Started(Incarnation(1))]);
        slot
    }

    /// A start that is wanted by a call of its own, and what came of it.
    fn fail_to_start(&mut self, cause: Cause) -> Option<Action> {
        let next = Incarnation(self.life.starts() + 1);
        assert_eq!(self.all([Event::CallBegan, Event::Wanted]), Some(Action::Start(next)));
        let decided = self.on(Event::Unstarted(next, cause));
        self.on(Event::CallEnded);
        decided
    }
}

fn not_yet(wait: Duration, left_alone_after: Option<u32>) -> Option<Action> {
    Some(Action::Refuse(Refusal::NotYet { wait, left_alone_after }))
}

#[test]
fn the_first_call_starts_the_process_and_later_ones_wait_for_it() {
    let mut slot = Slot::new();
    assert_eq!((slot.on(Event::CallBegan), slot.state()), (None, State::Stopped), "it may wait for its turn first");
    assert_eq!(slot.on(Event::Wanted), Some(Action::Start(Incarnation(1))));
    assert_eq!(slot.all([Event::CallBegan, Event::Wanted]), Some(Action::Wait));
    assert_eq!(slot.state(), State::Starting);
    assert_eq!(slot.on(Event::Started(Incarnation(1))), None);
    assert_eq!(slot.state(), State::Running);
    for event in [Event::CallBegan, Event::Wanted] {
        assert_eq!(slot.on(event), Some(Action::Use(Incarnation(1))));
    }
    assert_eq!((slot.life.calls(), slot.life.starts()), (3, 1));
}

#[test]
fn a_start_that_all_callers_have_left_goes_on() {
    let mut slot = Slot::new();
    assert_eq!(slot.all([Event::CallBegan, Event::Wanted, Event::CallEnded]), None);
    assert_eq!(slot.on(Event::Started(Incarnation(1))), None);
    assert_eq!(slot.on(Event::CallBegan), Some(Action::Use(Incarnation(1))));
}

#[test]
fn a_process_that_keeps_dying_is_started_after_ever_longer_waits() {
    let mut slot = Slot::new();
    let mut waits = Vec::new();
    for n in 1..=10 {
        assert_eq!(slot.all([Event::CallBegan, Event::Wanted]), Some(Action::Start(Incarnation(n))));
        assert_eq!(slot.all([Event::Started(Incarnation(n)), Event::Died(Incarnation(n))]), None);
        assert_eq!(slot.all([Event::Exited(Incarnation(n)), Event::CallEnded]), None);
        let wait = slot.state().wait().unwrap_or_default();
        waits.push(wait.as_secs());
        if !wait.is_zero() {
            let almost = wait - Duration::from_nanos(1);
            slot.after(almost).on(Event::CallBegan);
            assert_eq!(slot.on(Event::Wanted), not_yet(Duration::from_nanos(1), None));
            slot.after(wait - almost).on(Event::CallEnded);
        }
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn a_process_that_lived_long_did_not_die_of_its_start() {
    let mut slot = Slot::with_process();
    for n in 1..10 {
        slot.all([Event::Died(Incarnation(n)), Event::Exited(Incarnation(n))]);
        slot.after(s(60)).all([Event::Wanted, Event::Started(Incarnation(n + 1))]);
    }
    slot.after(STABLE_TIME - s(1)).all([Event::Died(Incarnation(10)), Event::Exited(Incarnation(10))]);
    assert_eq!(slot.state(), State::Waiting(s(60)), "it died early");
    slot.after(s(60)).all([Event::Wanted, Event::Started(Incarnation(11))]);
    slot.after(STABLE_TIME).all([Event::Died(Incarnation(11)), Event::Exited(Incarnation(11))]);
    assert_eq!(slot.on(Event::Wanted), Some(Action::Start(Incarnation(12))), "at once");
}

#[test]
fn after_five_failed_starts_it_is_left_alone_for_five_minutes() {
    let mut slot = Slot::new();
    for wait in [0, 1, 2, 4] {
        assert_eq!(slot.fail_to_start(Cause::Failed), not_yet(s(wait), None));
        slot.after(s(wait));
    }
    for failed in [5, 6] {
        assert_eq!(slot.fail_to_start(Cause::Failed), not_yet(s(300), Some(failed)));
        assert_eq!(slot.state(), State::Quarantined(s(300)));
        slot.after(s(299)).on(Event::CallBegan);
        assert_eq!(slot.on(Event::Wanted), not_yet(s(1), Some(failed)));
        slot.after(s(1)).on(Event::CallEnded);
    }
    slot.all([Event::CallBegan, Event::Wanted, Event::Started(Incarnation(7)), Event::CallEnded]);
    slot.all([Event::Died(Incarnation(7)), Event::Exited(Incarnation(7))]);
    assert_eq!(slot.state(), State::Waiting(s(32)), "it came up, so it is not left alone any more");
}

#[test]
fn a_missing_login_is_no_failure_and_the_next_call_looks_again() {
    let mut slot = Slot::new();
    for _ in 0..10 {
        assert_eq!(slot.fail_to_start(Cause::NeedsLogin), not_yet(s(0), None));
        assert_eq!(slot.state(), State::NeedsLogin);
    }
    assert!(slot.life.is_resting());
    slot.fail_to_start(Cause::Failed);
    assert_eq!(slot.state(), State::Stopped, "what is wrong is something else");
    slot.fail_to_start(Cause::NeedsLogin);
    slot.all([Event::CallBegan, Event::Wanted, Event::Started(Incarnation(13))]);
    slot.all([Event::Died(Incarnation(13)), Event::Exited(Incarnation(13))]);
    assert_eq!(slot.state(), State::Waiting(s(1)), "somebody has logged in");
}

#[test]
fn a_process_is_stopped_when_it_was_idle_for_its_time_and_not_before() {
    let mut slot = Slot::with_process();
    assert_eq!(slot.after(s(1000)).on(Event::IdleTimer), None, "a call is under way");
    assert_eq!(slot.life.idle_in(slot.now), IDLE);
    assert_eq!(slot.all([Event::CallEnded, Event::IdleTimer]), None);
    assert_eq!(slot.after(IDLE - s(1)).on(Event::IdleTimer), None);
    assert_eq!(slot.life.idle_in(slot.now), s(1));
    assert_eq!(slot.all([Event::CallBegan, Event::CallEnded]), None);
    assert_eq!(slot.after(s(1)).on(Event::IdleTimer), None, "it was called meanwhile");
    assert_eq!(slot.life.idle_in(slot.now), IDLE - s(1));
    slot.on(Event::Watched(true));
    assert_eq!(slot.after(IDLE).on(Event::IdleTimer), None, "somebody waits for its changes");
    assert_eq!(slot.all([Event::Watched(false), Event::IdleTimer]), Some(Action::Stop(Incarnation(1))));
    assert_eq!((slot.state(), slot.life.is_resting()), (State::Stopped, true));
    assert_eq!(slot.on(Event::IdleTimer), None);
}

#[test]
fn a_process_that_took_long_to_come_up_is_not_idle_at_once() {
    let mut slot = Slot::new();
    slot.all([Event::CallBegan, Event::Wanted, Event::CallEnded]);
    assert_eq!(slot.after(IDLE).all([Event::Started(Incarnation(1)), Event::IdleTimer]), None);
    assert_eq!(slot.life.idle_in(slot.now), IDLE);
    assert_eq!(slot.after(IDLE).on(Event::IdleTimer), Some(Action::Stop(Incarnation(1))));
}

#[test]
fn a_process_that_became_idle_is_forgiven_its_failures() {
    let mut slot = Slot::new();
    for _ in 0..3 {
        slot.after(s(60)).fail_to_start(Cause::Failed);
    }
    slot.after(s(60)).all([Event::CallBegan, Event::Wanted, Event::Started(Incarnation(4)), Event::CallEnded]);
    assert_eq!(slot.after(IDLE).on(Event::IdleTimer), Some(Action::Stop(Incarnation(4))));
    assert!(slot.life.is_resting());
}

#[test]
fn an_idle_time_of_nothing_does_not_make_a_busy_loop() {
    let now = Instant::now();
    let mut life = Lifecycle::new(Duration::ZERO, now);
    for event in [Event::CallBegan, Event::Wanted, Event::Started(Incarnation(1)), Event::CallEnded] {
        let _ = life.on(event, || now);
    }
    assert_eq!(life.idle_in(now), IDLE_TIME_MIN);
    assert_eq!(life.on(Event::IdleTimer, || now + IDLE_TIME_MIN), Some(Action::Stop(Incarnation(1))));
}

#[test]
fn the_next_process_is_started_when_the_one_before_has_exited() {
    let mut slot = Slot::with_process();
    assert_eq!(slot.on(Event::Died(Incarnation(1))), None);
    assert_eq!(slot.on(Event::Wanted), Some(Action::Wait));
    assert_eq!((slot.state(), slot.life.starts()), (State::Starting, 1));
    assert_eq!(slot.on(Event::Exited(Incarnation(1))), Some(Action::Start(Incarnation(2))));
    assert_eq!(slot.all([Event::Started(Incarnation(2)), Event::Wanted]), Some(Action::Use(Incarnation(2))));
    assert_eq!(slot.on(Event::Exited(Incarnation(2))), None, "it exits before anybody says that it died");
    assert_eq!(slot.state(), State::Waiting(s(1)));
}

#[test]
fn a_process_that_does_not_answer_is_asked_three_times_and_given_up() {
    let mut slot = Slot::with_process();
    let process = Incarnation(1);
    assert_eq!(slot.on(Event::CallTimedOut(process)), Some(Action::Ask(process)));
    assert_eq!(slot.on(Event::CallTimedOut(process)), None, "it is being asked");
    assert_eq!(slot.on(Event::Unanswered(process)), Some(Action::Ask(process)));
    assert_eq!(slot.on(Event::Answered(process)), None);
    assert_eq!(slot.on(Event::CallTimedOut(process)), Some(Action::Ask(process)), "it begins anew");
    assert_eq!(slot.on(Event::Unanswered(process)), Some(Action::Ask(process)));
    assert_eq!(slot.on(Event::Unanswered(process)), Some(Action::Ask(process)));
    assert_eq!(slot.on(Event::Unanswered(process)), Some(Action::HangUp(process)));
    assert_eq!(slot.all([Event::CallTimedOut(process), Event::Unanswered(process)]), None, "once is enough");
    assert_eq!(slot.state(), State::Running, "until it is said to have died");
}

#[test]
fn a_process_that_nobody_waits_for_is_asked_once() {
    let mut slot = Slot::with_process();
    assert_eq!(slot.on(Event::CallTimedOut(Incarnation(1))), Some(Action::Ask(Incarnation(1))));
    slot.on(Event::CallEnded);
    assert_eq!(slot.on(Event::Unanswered(Incarnation(1))), Some(Action::HangUp(Incarnation(1))));
}

#[test]
fn a_slot_ends_when_its_calls_have_and_begins_no_more() {
    let removed = Some(Action::Refuse(Refusal::Removed));
    let mut slot = Slot::with_process();
    assert_eq!(slot.all([Event::CallBegan, Event::Close]), None);
    assert_eq!(slot.on(Event::CallBegan), removed);
    assert_eq!(slot.on(Event::Wanted), Some(Action::Use(Incarnation(1))), "what has begun may end");
    assert_eq!(slot.on(Event::CallEnded), None);
    assert_eq!(slot.on(Event::CallEnded), Some(Action::End));
    assert_eq!(slot.all([Event::Close, Event::DrainOver]), None, "it has ended");
    assert_eq!(slot.on(Event::CallBegan), removed);

    let mut slot = Slot::with_process();
    assert_eq!(slot.on(Event::Close), None);
    assert_eq!(slot.on(Event::DrainOver), Some(Action::End));
    assert_eq!(slot.on(Event::Wanted), removed);
    assert_eq!((slot.state(), slot.on(Event::Exited(Incarnation(1)))), (State::Stopped, None));

    assert_eq!(Slot::new().on(Event::Close), Some(Action::End), "nobody is waited for");
}

#[test]
fn a_slot_that_is_closed_starts_nothing_for_a_call_that_has_waited_for_its_turn() {
    let mut slot = Slot::new();
    assert_eq!(slot.all([Event::CallBegan, Event::Close]), None);
    assert_eq!(slot.on(Event::Wanted), Some(Action::Refuse(Refusal::Removed)));
}

#[test]
fn a_slot_that_ends_does_not_start_what_waits_for_an_exit() {
    let mut slot = Slot::with_process();
    assert_eq!(slot.all([Event::Died(Incarnation(1)), Event::Wanted]), Some(Action::Wait));
    assert_eq!(slot.all([Event::Close, Event::DrainOver]), Some(Action::End));
    assert_eq!((slot.on(Event::Exited(Incarnation(1))), slot.state()), (None, State::Stopped));
}

#[test]
fn a_start_that_succeeds_after_the_end_of_the_slot_is_undone() {
    let mut slot = Slot::new();
    assert_eq!(slot.all([Event::CallBegan, Event::Wanted, Event::Close]), None);
    assert_eq!(slot.on(Event::DrainOver), Some(Action::End));
    assert_eq!(slot.on(Event::Started(Incarnation(1))), Some(Action::Stop(Incarnation(1))));
    assert_eq!((slot.on(Event::Exited(Incarnation(1))), slot.state()), (None, State::Stopped));

    let mut slot = Slot::new();
    slot.all([Event::CallBegan, Event::Wanted, Event::Close, Event::DrainOver]);
    let withdrawn = Event::Unstarted(Incarnation(1), Cause::Withdrawn);
    assert_eq!(slot.on(withdrawn), Some(Action::Refuse(Refusal::Removed)));
    assert!(slot.life.is_down());
}
