//! Which task of a queue is started when, and which not any more.

use skep_core::task::{Priority, Refused};

use super::*;

/// In the order in which they are claimed.
async fn claimed(app: &Hub, at: Timestamp) -> Vec<String> {
    let mut order = Vec::new();
    while let Some(task) = claim(app, at).await {
        order.push(task.id.0);
    }
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_tasks_go_first_and_the_others_do_not_starve() {
    on_every_database(async |app| {
        let with = |name: &str, priority| NewTask { priority, ..new(name) };
        let submit = async |at: Timestamp, name: &str, priority| {
            app.at(at).submit(&permit(), with(name, priority)).await.unwrap();
        };
        submit(NOW, "low", Priority::Low).await;
        submit(NOW, "medium", Priority::Medium).await;
        let then = NOW.after(Duration::from_secs(60));
        for priority in Priority::ALL.into_iter().rev() {
            submit(then, &format!("later {priority}"), priority).await;
        }
        let waited = NOW.after(Priority::Low.delay());
        submit(waited, "too late", Priority::Critical).await;
        let all = app.at(waited).claim_many(&permit(), "q", &holder("w"), 3).await.unwrap();
        let mut order: Vec<String> = all.into_iter().map(|task| task.id.0).collect();
        order.extend(claimed(&app, waited).await);
        let expected = ["later critical", "later high", "medium", "later medium", "low", "too late", "later low"];
        assert_eq!(order, expected, "a low task waits for its delay, and then nothing that is new goes before it");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_tasks_are_not_started_before_their_time_whatever_their_priority() {
    on_every_database(async |app| {
        let hour = NOW.after(Duration::from_secs(3600));
        for (name, priority) in [("a", Priority::Critical), ("b", Priority::Medium)] {
            let delayed = NewTask { priority, not_before: Some(hour), ..new(name) };
            app.submit(&permit(), delayed).await.unwrap();
        }
        let next_due = async || app.db.next_due(&permit().to_read(), "q").await.unwrap();
        assert_eq!(claimed(&app, NOW).await, [""; 0]);
        assert_eq!(next_due().await, Some(hour));
        app.submit(&permit(), NewTask { priority: Priority::Low, ..new("c") }).await.unwrap();
        assert_eq!(next_due().await, Some(NOW));
        assert_eq!(claimed(&app, NOW).await, ["c"]);
        assert_eq!(claimed(&app, hour).await, ["a", "b"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_is_started_before_what_became_ready_later() {
    on_every_database(async |app| {
        app.submit(&permit(), new("first")).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        app.at(Timestamp(NOW.0 + 1)).submit(&permit(), new("second")).await.unwrap();
        assert_eq!(app.lose(LATER).await.len(), 1);
        assert_eq!(claimed(&app, LATER).await, ["first", "second"]);
        assert!(finish(&app, &held).await.is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_past_its_deadline_is_not_started_its_answer_is_refused_and_what_needs_it_is_blocked() {
    on_every_database(async |app| {
        let until = |name: &str| NewTask { deadline: Some(LATER), ..new(name) };
        app.submit(&permit(), until("held")).await.unwrap();
        let held = claim(&app, NOW).await.unwrap();
        app.submit(&permit(), until("pending")).await.unwrap();
        app.submit(&permit(), NewTask { deadline: Some(LATER), ..needs("needs both", &["held", "pending"]) })
            .await
            .unwrap();
        app.submit(&permit(), needs("needs one", &["pending"])).await.unwrap();
        let before = Timestamp(LATER.0 - 1);
        app.clock.set(before);
        assert!(!app.db.has_expired(&permit().to_read()).await.unwrap());
        assert_eq!(app.expire_tasks(&permit()).await.unwrap(), []);

        assert_eq!(claim(&app, LATER).await, None, "before anybody has ended it");
        assert_eq!(app.db.next_due(&permit().to_read(), "q").await.unwrap(), None);
        let late = finish(&app, &held).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::PastDeadline))), "{late:?}");
        assert!(app.db.has_expired(&permit().to_read()).await.unwrap());
        let ended = app.expire_tasks(&permit()).await.unwrap();
        assert_eq!(ended.iter().map(|task| task.id.0.as_str()).collect::<Vec<_>>(), ["held", "pending"]);
        let State::Failed(failure) = state(&app, "held").await else { panic!("not failed") };
        assert_eq!(failure.error, "its deadline passed while w worked on it, in attempt 1");
        let State::Failed(failure) = state(&app, "pending").await else { panic!("not failed") };
        assert_eq!(failure.error, "its deadline passed before it was started");
        assert_eq!(state(&app, "needs both").await, State::Blocked(id("held")));
        assert_eq!(state(&app, "needs one").await, State::Blocked(id("pending")));
        assert!(!app.db.has_expired(&permit().to_read()).await.unwrap());
        let late = finish(&app, &held).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::Over("failed")))), "{late:?}");
        assert_eq!((count(&app, "task.expired").await, count(&app, "task.answer_refused").await), (2, 2));
    })
    .await;
}
