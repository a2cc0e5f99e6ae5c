use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn task(retries_max: u32) -> Task {
    let new = NewTask { retries_max, ..NewTask::new(TaskId("t".into()), "q", Json::null()) };
    Task::new(new, 0, 0, Timestamp(0))
}

fn json(value: i32) -> Json {
    Value::from(value).into()
}

fn data(event: &NewEvent) -> Value {
    event.kind.data().parse().unwrap()
}

fn worker(name: &str) -> WorkerId {
    WorkerId(name.into())
}

fn start(worker_name: &str) -> Command {
    let session = SessionId(format!("session of {worker_name}"));
    Command::Start(Holder { worker: worker(worker_name), session })
}

fn by(name: &str, number: u32) -> Attempt {
    Attempt { worker: worker(name), epoch: 0, number }
}

fn fail(by: Attempt) -> Command {
    Command::Fail { by, failure: "boom".into(), retry: true }
}

#[test]
fn the_late_answer_of_a_lost_attempt_is_refused() {
    let mut task = task(1);
    task.apply(start("a"), Timestamp(0)).unwrap();
    task.apply(Command::Lose, Timestamp(5_000_000)).unwrap();
    task.apply(start("a"), Timestamp(9_000_000)).unwrap();
    let answer = task.apply(Command::Finish(by("a", 1), json(42)), Timestamp(9_000_001));
    assert_eq!(answer, Err(Refused::NotHeld), "even from the worker that holds it again");
    let event = task.late_answer(&by("a", 1), &Refused::NotHeld, LateAnswer::Output(json(42)), Timestamp(1));
    assert_eq!((event.kind.name(), &data(&event)["output"]), ("task.answer_refused", &Value::from(42)));
}

#[test]
fn of_a_large_late_answer_the_beginning_is_kept() {
    let task = task(1);
    let of = |output: String| {
        let answer = LateAnswer::Output(Value::from(output).into());
        data(&task.late_answer(&by("a", 1), &Refused::NotHeld, answer, Timestamp(1)))
    };
    let whole = of("x".repeat(LATE_ANSWER_BYTES_MAX - 2));
    assert!(whole["output"].is_string() && whole["output_cut"].is_null());
    let cut = of("x".repeat(LATE_ANSWER_BYTES_MAX));
    assert!(cut["output"].is_null() && cut.to_string().len() < LATE_ANSWER_BYTES_MAX + 1000);
    assert!(cut["output_cut"].as_str().unwrap().starts_with("\"xxx"), "{cut}");
}

#[test]
fn a_released_task_is_ready_at_once_without_a_failure_and_fences_its_former_holder() {
    let mut task = task(0);
    task.apply(start("a"), Timestamp(0)).unwrap();
    task.apply(Command::Release, Timestamp(1)).unwrap();
    assert_eq!(task.failures, 0);
    assert_eq!(task.state, State::Pending { due: Timestamp(0), waiting_for: 0 }, "it has its place again");
    assert_eq!(task.apply(fail(by("a", 1)), Timestamp(1)), Err(Refused::NotHeld));
    task.apply(start("b"), Timestamp(1)).unwrap();
    assert_eq!(task.attempt, 2);
}

#[test]
fn a_lost_worker_is_no_failure_but_a_task_that_loses_too_many_has_failed() {
    let mut task = task(0);
    for loss in 1..=LOSSES_MAX {
        task.apply(start("a"), Timestamp(1)).unwrap();
        let event = task.apply(Command::Lose, Timestamp(1)).unwrap();
        assert_eq!((event.kind.name(), &data(&event)["losses"]), ("task.lost", &loss.into()));
        assert_eq!((&task.state, task.failures), (&State::Pending { due: Timestamp(0), waiting_for: 0 }, 0));
        assert_eq!(task.apply(Command::Lose, Timestamp(1)), Err(Refused::NotInProgress));
    }
    task.apply(start("a"), Timestamp(1)).unwrap();
    let event = task.apply(Command::Lose, Timestamp(1)).unwrap();
    assert_eq!(event.kind.name(), "task.failed");
    assert_eq!(task.state, State::Failed(format!("its worker was lost {} times", LOSSES_MAX + 1).into()));
}

#[test]
fn retries_wait_twice_as_long_each_time_up_to_the_longest_wait() {
    let mut task = task(20);
    let mut waits = Vec::new();
    let mut now = Timestamp(0);
    for attempt in 1..=12 {
        task.apply(start("a"), now).unwrap();
        task.apply(fail(by("a", attempt)), now).unwrap();
        let State::Pending { due, .. } = task.state else { panic!("{:?}", task.state) };
        waits.push(due.0 - now.0);
        now = due;
    }
    for (wait, seconds) in waits.into_iter().zip([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]) {
        let exact = seconds * 1_000_000;
        assert!(exact * 4 / 5 <= wait && wait <= (exact * 6 / 5).min(300_000_000), "{wait} µs instead of {seconds} s");
    }
}

#[test]
fn a_failure_is_final_when_no_retry_is_left_or_none_makes_sense() {
    let mut task = task(1);
    task.apply(start("a"), Timestamp(0)).unwrap();
    let mut hopeless = task.clone();
    let command = Command::Fail { by: by("a", 1), failure: "no such file".into(), retry: false };
    hopeless.apply(command, Timestamp(0)).unwrap();
    assert_eq!(hopeless.state, State::Failed("no such file".into()));

    task.apply(fail(by("a", 1)), Timestamp(0)).unwrap();
    let State::Pending { due, waiting_for: 0 } = task.state else { panic!("{:?}", task.state) };
    task.apply(start("a"), due).unwrap();
    task.apply(fail(by("a", 2)), due).unwrap();
    assert_eq!(task.state, State::Failed("boom".into()));
}

#[test]
fn a_task_that_waits_for_others_does_not_start() {
    let new = NewTask::new(TaskId("t".into()), "q", Json::null());
    let mut task = Task::new(new, 0, 1, Timestamp(0));
    assert_eq!(task.apply(start("a"), Timestamp(9)), Err(Refused::NotReady));
}

#[test]
fn the_same_answer_once_more_is_told_apart_from_a_late_one() {
    let mut task = task(0);
    task.apply(start("a"), Timestamp(0)).unwrap();
    task.apply(Command::Finish(by("a", 1), json(1)), Timestamp(1)).unwrap();
    assert_eq!(task.apply(Command::Finish(by("a", 1), json(1)), Timestamp(2)), Err(Refused::Repeated));
    assert_eq!(task.apply(Command::Finish(by("a", 2), json(1)), Timestamp(2)), Err(Refused::Over("completed")));
}

#[test]
fn only_what_ended_without_success_is_reopened_and_has_all_its_retries_again() {
    let reopen = Command::Reopen { waiting_for: 2 };
    let mut task = task(1);
    assert_eq!(task.apply(reopen.clone(), Timestamp(0)), Err(Refused::Unfinished));
    for attempt in [1, 2] {
        task.apply(start("a"), Timestamp(i64::from(attempt) * 9_000_000)).unwrap();
        task.apply(fail(by("a", attempt)), Timestamp(i64::from(attempt) * 9_000_000)).unwrap();
    }
    let event = task.apply(reopen.clone(), Timestamp(50_000_000)).unwrap();
    assert_eq!(event.kind.name(), "task.reopened");
    assert_eq!((&task.state, task.failures), (&State::Pending { due: Timestamp(50_000_000), waiting_for: 2 }, 0));
    assert_eq!(task.attempt, 2, "tokens go on");
    let mut done = Task { state: State::Completed(Json::null()), ..task };
    assert_eq!(done.apply(reopen, Timestamp(1)), Err(Refused::Over("completed")));
}

fn with_deadline(deadline: i64) -> Task {
    Task { deadline: Some(Timestamp(deadline)), ..task(1) }
}

#[test]
fn a_task_past_its_deadline_is_neither_started_nor_answered_and_fails_when_it_is_told() {
    let mut pending = with_deadline(10);
    assert_eq!(pending.apply(Command::Expire, Timestamp(9)), Err(Refused::BeforeDeadline));
    assert_eq!(pending.apply(start("a"), Timestamp(10)), Err(Refused::NotReady));
    let mut held = pending.clone();
    let event = pending.apply(Command::Expire, Timestamp(10)).unwrap();
    assert_eq!(event.kind.name(), "task.expired");
    assert_eq!(pending.state, State::Failed("its deadline passed before it was started".into()));
    assert_eq!(pending.apply(Command::Expire, Timestamp(11)), Err(Refused::Over("failed")));

    held.apply(start("a"), Timestamp(9)).unwrap();
    for answer in [Command::Finish(by("a", 1), json(1)), fail(by("a", 1))] {
        assert_eq!(held.apply(answer, Timestamp(10)), Err(Refused::PastDeadline));
    }
    let event = held.apply(Command::Expire, Timestamp(12)).unwrap();
    let error = "its deadline passed while a worked on it, in attempt 1";
    assert_eq!(data(&event), serde_json::json!({ "worker": "a", "attempt": 1, "error": error }));
    assert_eq!(held.state, State::Failed(error.into()));
}

#[test]
fn a_task_without_a_deadline_never_expires() {
    assert_eq!(task(0).apply(Command::Expire, Timestamp(i64::MAX)), Err(Refused::BeforeDeadline));
}

#[test]
fn a_task_that_is_done_again_after_its_deadline_has_none_any_more() {
    let mut task = with_deadline(10);
    task.apply(Command::Expire, Timestamp(10)).unwrap();
    let mut early = Task { deadline: Some(Timestamp(99)), ..task.clone() };
    task.apply(Command::Reopen { waiting_for: 0 }, Timestamp(20)).unwrap();
    task.apply(start("a"), Timestamp(20)).unwrap();
    task.apply(Command::Finish(by("a", 1), json(1)), Timestamp(21)).unwrap();
    early.apply(Command::Reopen { waiting_for: 0 }, Timestamp(20)).unwrap();
    assert_eq!(early.deadline, Some(Timestamp(99)), "one that is still to come stays");
}

#[test]
fn a_delayed_task_is_not_started_before_its_time() {
    let not_before = Some(Timestamp(50));
    let new = NewTask { not_before, ..NewTask::new(TaskId("t".into()), "q", Json::null()) };
    let mut delayed = Task::new(new.clone(), 0, 0, Timestamp(10));
    assert_eq!(delayed.apply(start("a"), Timestamp(49)), Err(Refused::NotReady));
    delayed.apply(start("a"), Timestamp(50)).unwrap();
    let late = Task::new(new.clone(), 0, 0, Timestamp(70));
    assert_eq!(late.state, State::Pending { due: Timestamp(70), waiting_for: 0 }, "nobody is ahead of its time");
    let never = NewTask { deadline: not_before, ..new };
    assert!(matches!(never.check(), Err(Invalid::DeadlineTooEarly(_))));
}

fn command() -> impl Strategy<Value = Command> {
    let by = (prop_oneof!["a", "b"], 0i64..2, 0u32..6).prop_map(|(w, epoch, number)| Attempt {
        worker: WorkerId(w),
        epoch,
        number,
    });
    let fail = (by.clone(), any::<bool>()).prop_map(|(by, retry)| Command::Fail { by, failure: "boom".into(), retry });
    prop_oneof![
        4 => prop_oneof!["a", "b"].prop_map(|w| start(&w)),
        1 => by.prop_map(|by| Command::Finish(by, json(1))),
        3 => fail,
        2 => Just(Command::Lose),
        2 => Just(Command::Release),
        1 => Just(Command::Cancel),
        1 => Just(Command::Expire),
        1 => (0u32..2).prop_map(|waiting_for| Command::Reopen { waiting_for }),
    ]
}

proptest! {
    #[test]
    fn rules_hold_for_any_history(
        retries_max in 0u32..4,
        deadline in prop::option::of(0i64..400_000_000),
        steps in prop::collection::vec((command(), 0i64..20_000_000), 0..80),
    ) {
        let (mut task, mut now) = (Task { deadline: deadline.map(Timestamp), ..task(retries_max) }, 0);
        for (command, gap) in steps {
            now += gap;
            let before = task.clone();
            let holder = match &before.state {
                State::InProgress { holder, .. } => {
                    Some(Attempt { worker: holder.worker.clone(), epoch: before.epoch, number: before.attempt })
                }
                _ => None,
            };
            let result = task.apply(command.clone(), Timestamp(now));
            let reopened = matches!(command, Command::Reopen { .. });
            if result.is_err() || before.state.is_over() && !reopened {
                prop_assert_eq!(&task, &before, "a refusal changes nothing");
                continue;
            }
            let is_late = before.is_past_deadline(Timestamp(now));
            if reopened {
                prop_assert!(before.state.is_over() && !matches!(before.state, State::Completed(_)));
                prop_assert!(!task.is_past_deadline(Timestamp(now)), "or it could not be done");
                prop_assert_eq!((task.failures, task.losses, task.attempt), (0, 0, before.attempt));
                continue;
            }
            match command {
                Command::Expire => prop_assert!(is_late && matches!(task.state, State::Failed(_))),
                Command::Start(..) | Command::Finish(..) | Command::Fail { .. } => prop_assert!(!is_late),
                _ => {}
            }
            if let (State::InProgress { due, .. }, State::Pending { due: again, .. }) = (&before.state, &task.state) {
                match command {
                    Command::Fail { .. } => prop_assert!(again.0 > now, "a retry waits"),
                    _ => prop_assert_eq!(due, again, "what is given back has its place again"),
                }
            }
            let started = matches!(command, Command::Start(..));
            prop_assert_eq!(task.attempt, before.attempt + u32::from(started), "a token is never used twice");
            let failed = matches!(command, Command::Fail { .. });
            prop_assert_eq!(task.failures, before.failures + u32::from(failed));
            prop_assert!(task.failures <= retries_max + 1);
            prop_assert!(task.failures <= retries_max || matches!(task.state, State::Failed(_)));
            prop_assert_eq!(task.losses, before.losses + u32::from(matches!(command, Command::Lose)));
            prop_assert!(task.losses <= LOSSES_MAX || task.losses == LOSSES_MAX + 1 && task.state.is_over());
            match command {
                Command::Finish(by, _) | Command::Fail { by, .. } => {
                    prop_assert_eq!(Some(by), holder, "only the holder is heard");
                }
                Command::Lose => prop_assert!(holder.is_some(), "only what somebody has can be lost"),
                _ => {}
            }
        }
    }
}
