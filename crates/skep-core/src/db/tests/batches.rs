//! What many workers ask for at once is done together, and comes out as if it was done one after the other.

use futures_util::future::join_all;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::{Held, *};
use crate::{
    app::{Answer, FINISH_MAX},
    limits::{INLINE_BYTES_MAX, OUTPUT_BYTES_MAX},
};

/// Graphs and operations that are tried.
const CASES: usize = 24;

/// A few tasks, and what is asked of them: in each round by several callers at once.
#[derive(Clone, Debug)]
struct Case {
    /// Which of the tasks before it each needs, and in which queue it is.
    tasks: Vec<(Vec<usize>, bool)>,
    rounds: Vec<Round>,
}

#[derive(Clone, Debug)]
enum Round {
    Workers(Vec<(Option<Answered>, Option<Claimed>)>),
    Cancel(usize),
}

/// A worker brings the answer of a task: by whom it is, and of which attempt.
type Answered = (usize, &'static str, u32);
/// A worker claims tasks: who, from which queue, and how many.
type Claimed = (&'static str, bool, usize);

fn case() -> impl Strategy<Value = Case> {
    let task = (prop::collection::vec(any::<prop::sample::Index>(), 0..3), prop::bool::weighted(0.8));
    let who = || prop::sample::select(vec!["w", "w", "v", "unregistered"]);
    let answer = || (0..9_usize, who(), 0..3_u32);
    let claim = move || (who(), prop::bool::weighted(0.8), 1..4_usize);
    let worker = prop_oneof![
        claim().prop_map(|claim| (None, Some(claim))),
        answer().prop_map(|answer| (Some(answer), None)),
        (answer(), claim()).prop_map(|(answer, (who, is_q, _))| (Some(answer), Some((who, is_q, 1)))),
    ];
    let round = prop_oneof![
        9 => prop::collection::vec(worker, 1..9).prop_map(Round::Workers),
        1 => (0..9_usize).prop_map(Round::Cancel),
    ];
    (prop::collection::vec(task, 1..9), prop::collection::vec(round, 1..10)).prop_map(|(tasks, rounds)| {
        let before = |(n, (needs, queue)): (usize, (Vec<prop::sample::Index>, bool))| {
            let mut needs: Vec<usize> = needs.into_iter().filter(|_| n > 0).map(|need| need.index(n)).collect();
            needs.sort_unstable();
            needs.dedup();
            (needs, queue)
        };
        Case { tasks: tasks.into_iter().enumerate().map(before).collect(), rounds }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn operations_done_together_give_the_same_rows_and_events_as_one_by_one() {
    on_every_database(async |app| {
        let mut runner = TestRunner::deterministic();
        for n in 0..CASES {
            let case = case().new_tree(&mut runner).unwrap().current();
            let one_by_one = outcome(&app, &format!("one by one {n}"), &case, false).await;
            let together = outcome(&app, &format!("together {n}"), &case, true).await;
            assert_eq!(together, one_by_one, "{case:#?}");
        }
    })
    .await;
}

/// What was answered, then all tasks, then all events.
async fn outcome(app: &Hub, namespace: &str, case: &Case, together: bool) -> Vec<String> {
    let permit = permit_in(namespace);
    app.register(&permit, "test").await;
    for (n, (needs, is_q)) in case.tasks.iter().enumerate() {
        let depends_on = needs.iter().map(|need| id(&need.to_string())).collect();
        let task = NewTask { depends_on, queue: queue(*is_q).into(), ..new(&n.to_string()) };
        app.submit(&permit, task).await.unwrap();
    }
    let mut said = Vec::new();
    for (n, round) in case.rounds.iter().enumerate() {
        match round {
            Round::Cancel(n) => said.push(format!("{:?}", app.cancel(&permit, &id(&n.to_string())).await)),
            Round::Workers(workers) => {
                let all = workers.iter().map(|(answer, claim)| ask(app, &permit, *answer, *claim));
                let (finished, claimed): (Vec<_>, Vec<_>) = if together {
                    behind_a_write(app, &format!("{namespace}, {n}"), all).await.into_iter().unzip()
                } else {
                    let answers = workers.iter().map(|(answer, _)| ask(app, &permit, *answer, None));
                    let claims = workers.iter().map(|(_, claim)| ask(app, &permit, None, *claim));
                    let mut all = Vec::new();
                    for one in answers.chain(claims) {
                        all.push(one.await);
                    }
                    all.into_iter().unzip()
                };
                said.extend(finished.into_iter().chain(claimed).flatten());
            }
        }
    }
    for n in 0..case.tasks.len() {
        let task = app.db.task(&permit.to_read(), &id(&n.to_string())).await.unwrap();
        said.push(format!("{task:?}"));
    }
    let events = all_events(app, &permit.to_read()).await;
    said.extend(events.iter().map(|event| format!("{event:?}")));
    said
}

fn queue(is_q: bool) -> &'static str {
    if is_q { "q" } else { "p" }
}

/// What a worker is told about its answer, and about its claim.
async fn ask(
    app: &Hub,
    permit: &Permit,
    answer: Option<Answered>,
    claim: Option<Claimed>,
) -> (Option<String>, Option<String>) {
    let answer = answer.map(|(task, who, number)| Answer {
        id: id(&task.to_string()),
        by: Attempt { worker: worker(who), epoch: 0, number },
        output: json!(who).into(),
        artefacts: Vec::new(),
    });
    let finished = |result: Result<(), TaskError>| Some(format!("{result:?}"));
    let claimed = |tasks: Vec<Task>| Some(format!("{tasks:?}"));
    match (answer, claim) {
        (Some(answer), Some((who, is_q, _))) => {
            let told = app.finish_and_claim(permit, answer, queue(is_q), &holder(who)).await.unwrap();
            (finished(told.answer), claimed(told.next.into_iter().collect()))
        }
        (Some(Answer { id, by, output, artefacts }), None) => {
            (finished(app.finish(permit, &id, by, output, artefacts).await), None)
        }
        (None, Some((who, is_q, count))) => {
            (None, claimed(app.claim_many(permit, queue(is_q), &holder(who), count).await.unwrap()))
        }
        (None, None) => (None, None),
    }
}

/// What all of these say, after they have waited together behind a write.
async fn behind_a_write<T>(app: &Hub, name: &str, all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let (held, write) = Held::start_as(app, name);
    let (said, ()) = tokio::join!(join_all(all), async { held.proceed() });
    write.join_all().await;
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_can_claim_the_next_task_and_what_it_made_ready() {
    on_every_database(async |app| {
        let permit = permit();
        app.submit(&permit, new("a")).await.unwrap();
        app.submit(&permit, new("b")).await.unwrap();
        app.submit(&permit, needs("c", &["a", "b"])).await.unwrap();
        let [a, b] = [claim(&app, NOW).await.unwrap(), claim(&app, NOW).await.unwrap()];
        let answer = |task: &Task| Answer {
            id: task.id.clone(),
            by: attempt(task),
            output: json!({ "of": task.id.0 }).into(),
            artefacts: Vec::new(),
        };
        let (held, write) = Held::start(&app);
        let (w, v) = (holder("w"), holder("v"));
        let (one, other, ()) = tokio::join!(
            app.finish_and_claim(&permit, answer(&a), "q", &w),
            app.finish_and_claim(&permit, answer(&b), "q", &v),
            async { held.proceed() },
        );
        write.join_all().await;
        let (one, other) = (one.unwrap(), other.unwrap());
        one.answer.unwrap();
        other.answer.unwrap();
        for name in ["a", "b"] {
            assert_eq!(state(&app, name).await, State::Completed(json!({ "of": name }).into()));
        }
        let mut next: Vec<Task> = one.next.into_iter().chain(other.next).collect();
        next.sort_by(|one, other| one.id.cmp(&other.id));
        let names: Vec<&str> = next.iter().map(|task| &*task.id.0).collect();
        assert_eq!(names, ["c", "held"]);
        // An answer that comes too late is refused, and its worker goes on all the same.
        app.submit(&permit, new("d")).await.unwrap();
        let late = Answer { by: Attempt { worker: worker("v"), epoch: 0, number: 7 }, ..answer(&next[0]) };
        let answered = app.finish_and_claim(&permit, late, "q", &w).await.unwrap();
        assert!(matches!(answered.answer, Err(TaskError::Refused(_))), "{answered:?}");
        assert_eq!(answered.next.map(|task| task.id), Some(id("d")));
        assert_eq!(count(&app, "task.answer_refused").await, 1);
        // One that cannot be kept is not brought, and nothing is claimed.
        app.submit(&permit, new("e")).await.unwrap();
        let too_large = Answer { output: json!("x".repeat(OUTPUT_BYTES_MAX)).into(), ..answer(&next[0]) };
        let refused = app.finish_and_claim(&permit, too_large, "q", &w).await;
        assert!(matches!(refused, Err(TaskError::Invalid(_))), "{refused:?}");
        assert_eq!(state(&app, "e").await.name(), "pending");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_declared_at_once_are_added_once_each_and_one_that_is_refused_takes_no_other_down() {
    on_every_database(async |app| {
        let permit = permit();
        app.start_run(&permit, new_run("r"), vec![new("of run")]).await.unwrap();
        let (held, held_write) = Held::start(&app);
        let declared = [
            new("a"),
            NewTask { run: Some(RunId("unknown".into())), ..new("refused") },
            new("b"),
            new("a"),
            new("of run"),
            NewTask { depends_on: vec![id("b")], ..new("c") },
        ];
        let all = join_all(declared.map(|task| app.submit(&permit, task)));
        let (told, ()) = tokio::join!(all, async { held.proceed() });
        held_write.join_all().await;
        let [a, refused, b, again, of_run, c] = <[_; 6]>::try_from(told).unwrap();
        assert_eq!(a.as_ref().unwrap(), again.as_ref().unwrap(), "it is one task");
        assert!(matches!(refused, Err(TaskError::UnknownRun(_))), "{refused:?}");
        assert!(matches!(of_run, Err(TaskError::Taken(_))), "{of_run:?}");
        for told in [a, b, c] {
            let told = told.unwrap();
            assert_eq!(task(&app, &told.id.0).await.as_ref(), Some(&told));
        }
        let submitted = ["of run", "held", "a", "b", "c"].map(|name| format!("task.submitted {name}"));
        let story = story(&app).await;
        let of_tasks: Vec<&String> = story.iter().filter(|line| line.starts_with("task.")).collect();
        assert_eq!(of_tasks, submitted.iter().collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_worker_may_claim_and_answer_several_tasks_at_once_but_not_any_number() {
    on_every_database(async |app| {
        let permit = permit();
        for n in 0..3 {
            app.submit(&permit, new(&n.to_string())).await.unwrap();
        }
        let tasks = app.claim_many(&permit, "q", &holder("w"), 5).await.unwrap();
        assert_eq!(tasks.len(), 3);
        let answer = |task: &Task| Answer {
            id: task.id.clone(),
            by: attempt(task),
            output: json!(1).into(),
            artefacts: Vec::new(),
        };
        let mut answers: Vec<Answer> = tasks.iter().map(answer).collect();
        answers.push(Answer { id: id("unknown"), ..answer(&tasks[0]) });
        let finished = app.finish_many(&permit, answers.clone()).await.unwrap();
        assert!(finished[..3].iter().all(Result::is_ok), "{finished:?}");
        assert!(matches!(&finished[3], Err(TaskError::Unknown(_))), "{finished:?}");
        let too_many = vec![answers[0].clone(); FINISH_MAX + 1];
        assert!(matches!(app.finish_many(&permit, too_many).await, Err(TaskError::Invalid(_))));
    })
    .await;
}

/// Only the columns that a start or an answer changes are written; so whatever happened to the task before, what its
/// worker is told must be all that there is to say of it.
#[tokio::test]
async fn what_a_worker_is_told_about_its_task_is_what_is_kept() {
    on_every_database(async |app| {
        let permit = permit();
        let is_kept = async |told: &Task| assert_eq!(task(&app, &told.id.0).await.as_ref(), Some(told));
        let large = json!("x".repeat(INLINE_BYTES_MAX + 1));
        for (name, output) in [("small", json!(1)), ("large", large)] {
            app.at(NOW).submit(&permit, NewTask { retries_max: 1, ..new(name) }).await.unwrap();
            let first = claim(&app, NOW).await.unwrap();
            is_kept(&first).await;
            fail(&app, &first, true).await.unwrap();
            let second = claim(&app, LATER).await.unwrap();
            is_kept(&second).await;
            assert_eq!(app.lose(LATER).await.len(), 1);
            let third = claim(&app, LATER.after(ALIVE + GRACE)).await.unwrap();
            is_kept(&third).await;
            assert_eq!((third.attempt, third.failures, third.losses), (3, 1, 1));
            app.finish(&permit, &third.id, attempt(&third), output.clone(), Vec::new()).await.unwrap();
            is_kept(&Task { state: State::Completed(output.into()), ..third }).await;
        }
    })
    .await;
}
