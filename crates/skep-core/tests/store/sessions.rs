//! What workers can rely on whose hub falls silent, and what others can then.

use skep_core::{
    app::{LOST_MAX, SessionError},
    limits::LOSSES_MAX,
    task::Refused,
};

use super::*;

const TIME: Duration = Duration::from_secs(10);

fn hub(name: &str) -> HubId {
    HubId(name.into())
}

fn holder_at(hub: &str) -> Holder {
    Holder { worker: worker("w"), session: SessionId(format!("{hub}/w")) }
}

/// A hub with one session, alive for [`TIME`] from now.
async fn joined(app: &App, name: &str) -> Holder {
    let holder = holder_at(name);
    let token = Some(SessionToken(format!("token of {name}")));
    let session = NewSession { id: holder.session.clone(), worker: holder.worker.clone(), token };
    app.join(&permit(), &hub(name), vec![session], TIME).await.unwrap();
    holder
}

async fn claimed(app: &App, holder: &Holder) -> Option<Task> {
    app.claim(&permit(), "q", holder).await.unwrap()
}

/// One look of the job that every hub runs.
async fn look(app: &App) -> usize {
    app.expire_hubs(GRACE).await.unwrap();
    app.release_lost(&permit()).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_stays_with_its_worker_while_its_hub_is_alive_and_is_given_out_again_when_it_is_not() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        let holder = joined(&app, "one").await;
        let held = claimed(&app, &holder).await.unwrap();
        for beats in 1..20 {
            let now = NOW.after(TIME / 2 * beats);
            app.at(now).beat(&hub("one"), TIME).await.unwrap();
            assert_eq!(look(app.at(now.after(TIME / 2))).await, 0);
        }
        let silent = NOW.after(TIME / 2 * 19 + TIME);
        assert_eq!(look(app.at(Timestamp(silent.after(GRACE).0 - 1))).await, 0, "its session may still attach");
        assert_eq!(look(app.at(silent.after(GRACE))).await, 1);
        let lost = task(&app, "a").await.unwrap();
        assert_eq!((lost.losses, lost.failures, lost.state.name()), (1, 0, "pending"));
        assert_eq!(count(&app, "task.lost").await, 1);

        let late = finish(&app, &held).await;
        assert!(matches!(late, Err(TaskError::Refused(Refused::NotHeld))), "{late:?}");
        let refused = app.beat(&hub("one"), TIME).await;
        assert!(matches!(refused, Err(SessionError::HubGone(_))), "{refused:?}");
        assert_eq!(claimed(&app, &holder).await, None, "who is lost must register again");
        let again = joined(&app, "two").await;
        assert_eq!(claimed(&app, &again).await.unwrap().attempt, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_attaches_to_another_hub_with_its_token_and_keeps_what_it_holds() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        let holder = joined(&app, "one").await;
        let held = claimed(&app, &holder).await.unwrap();
        let late = NOW.after(TIME + GRACE / 2);
        joined(app.at(late), "two").await;
        let attach =
            async |token: &str| app.attach(&permit(), &holder.session, &SessionToken(token.into()), &hub("two")).await;
        let wrong = attach("token of two").await;
        assert!(matches!(wrong, Err(SessionError::Unknown(_))), "{wrong:?}");
        let holds: Vec<TaskId> = attach("token of one").await.unwrap().into_iter().map(|task| task.id).collect();
        assert_eq!(holds, [id("a")]);
        app.at(late.after(GRACE)).beat(&hub("two"), TIME).await.unwrap();
        assert_eq!(look(&app).await, 0);
        finish(&app, &held).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_claims_for_its_own_worker_alone_and_only_while_its_hub_is_known() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        let holder = joined(&app, "one").await;
        joined(&app, "two").await;
        let of_another = Holder { worker: worker("v"), ..holder.clone() };
        assert_eq!(claimed(&app, &of_another).await, None);
        // Its hub is forgotten, and has not noticed yet. Nobody has looked for what its sessions held.
        app.at(NOW.after(TIME + GRACE)).expire_hubs(GRACE).await.unwrap();
        assert_eq!(claimed(&app, &holder).await, None);
        let attached = app.attach(&permit(), &holder.session, &SessionToken("token of one".into()), &hub("two")).await;
        assert!(matches!(&attached, Err(SessionError::HubGone(gone)) if *gone == hub("two")), "{attached:?}");
        assert_eq!(task(&app, "a").await.unwrap().attempt, 0);
        let three = joined(&app, "three").await;
        app.attach(&permit(), &holder.session, &SessionToken("token of one".into()), &hub("three")).await.unwrap();
        assert_eq!(claimed(&app, &holder).await.unwrap().id, id("a"), "it has a hub again");
        assert_eq!(claimed(&app, &three).await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_leaves_gives_back_what_it_holds_without_a_loss() {
    on_every_database(async |app| {
        app.submit(&permit(), new("a")).await.unwrap();
        let holder = joined(&app, "one").await;
        claimed(&app, &holder).await.unwrap();
        app.leave(&permit(), &hub("one")).await.unwrap();
        let given_back = task(&app, "a").await.unwrap();
        assert_eq!((given_back.losses, given_back.state.name()), (0, "pending"));
        assert_eq!(claimed(&app, &holder).await, None);
        assert_eq!(count(&app, "task.released").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_tasks_are_given_out_again_in_bounded_steps_and_not_for_ever() {
    on_every_database(async |app| {
        let tasks = (0..=LOST_MAX).map(|n| new(&format!("t{n}"))).collect();
        app.start_run(&permit(), new_run("r"), tasks).await.unwrap();
        let mut now = NOW;
        for loss in 0..=LOSSES_MAX {
            let holder = joined(app.at(now), &loss.to_string()).await;
            while claimed(&app, &holder).await.is_some() {}
            now = now.after(TIME + GRACE);
            assert_eq!(look(app.at(now)).await, LOST_MAX);
            assert_eq!(look(app.at(now)).await, 1);
            assert_eq!(look(app.at(now)).await, 0);
        }
        assert!(matches!(state(&app, "t0").await, State::Failed(failure) if failure.error.contains("worker was lost")));
    })
    .await;
}

/// Clocks on the walls of two hubs that differ by two minutes: PostgreSQL's time counts.
#[tokio::test(flavor = "multi_thread")]
async fn hubs_whose_clocks_differ_neither_lose_nor_keep_a_task_wrongly() {
    let Some(address) = postgres::new_schema().await else { return };
    let at = async |skew_s: i64| {
        let limits = Limits { clock: Clock::skewed(skew_s * 1_000_000), ..Limits::default() };
        App::new(Db::open(&address, limits).await.unwrap())
    };
    let (ahead, behind) = (at(60).await, at(-60).await);
    const SHORT: Duration = Duration::from_millis(500);
    let join = async |app: &App, name: &str| {
        let holder = holder_at(name);
        let session = NewSession { id: holder.session.clone(), worker: holder.worker.clone(), token: None };
        app.join(&permit(), &hub(name), vec![session], Duration::from_secs(30)).await.unwrap();
        holder
    };
    let look = async |app: &App| {
        app.expire_hubs(Duration::ZERO).await.unwrap();
        app.release_lost(&permit()).await.unwrap().len()
    };
    for (one, other, name) in [(&behind, &ahead, "behind"), (&ahead, &behind, "ahead")] {
        one.submit(&permit(), new(name)).await.unwrap();
        let holder = join(one, name).await;
        claimed(one, &holder).await.unwrap();
        assert_eq!(look(other).await, 0, "it is alive for half a minute more");
        // Now for a moment that passes while we look.
        one.beat(&hub(name), SHORT).await.unwrap();
        let lost = async {
            while look(other).await == 0 {
                tokio::time::sleep(SHORT / 10).await; // time itself is what is waited for
            }
        };
        tokio::time::timeout(Duration::from_secs(20), lost).await.expect("it is not kept");
    }
}
