//! What calls that outlive their request can rely on.

use skep_core::{
    app::{McpTaskError, TAKEN_OVER_MAX},
    limits::{self, Invalid, MCP_TASK_KEPT, MCP_TASK_TIME_MAX},
    mcp_task::{Holder, McpTask, McpTaskId, NewMcpTask, Refused, State},
    policy::Call,
};

use super::*;

const HOLD: Duration = Duration::from_secs(10);

fn hub(name: &str) -> Holder {
    Holder(name.into())
}

fn name(id: &str) -> McpTaskId {
    McpTaskId(id.into())
}

fn new_call(id: &str) -> NewMcpTask {
    let request = r#"{"name":"sleep","arguments":{"s": 1.50}}"#.to_owned();
    NewMcpTask { id: name(id), request, may_repeat: true }
}

fn caller(principal: &str) -> Permit<Call> {
    caller_in("main", principal)
}

fn caller_in(namespace: &str, principal: &str) -> Permit<Call> {
    Actor::member(principal, Namespace::team(namespace)).permit().unwrap()
}

async fn create(app: &Hub, principal: &str, new: NewMcpTask, at: Timestamp) -> Result<McpTask, McpTaskError> {
    app.at(at).create_mcp_task(&caller(principal), new, &hub("a"), HOLD).await
}

async fn report(app: &Hub, id: &str, by: (&str, u32), state: State, at: Timestamp) -> Result<McpTask, McpTaskError> {
    app.at(at).report_mcp_task(&permit(), &name(id), (&hub(by.0), by.1), state).await
}

async fn read(app: &Hub, principal: &str, id: &str, at: Timestamp) -> Option<McpTask> {
    app.at(at).db.mcp_task(&caller(principal), &name(id)).await.unwrap()
}

async fn take_over(app: &Hub, by: &str, at: Timestamp) -> Vec<McpTask> {
    app.at(at).take_over_mcp_tasks(&permit(), &hub(by), HOLD).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_comes_back_byte_for_byte_and_an_end_is_final() {
    on_every_database(async |app| {
        let made = create(&app, "ann", new_call("t"), NOW).await.unwrap();
        assert_eq!(
            (made.attempt, &made.state, made.created, made.expires),
            (1, &State::Working, NOW, NOW.after(MCP_TASK_TIME_MAX))
        );
        assert_eq!(read(&app, "ann", "t", NOW).await.as_ref(), Some(&made));
        let asked = State::InputRequired(r#"{"k":{"method":"elicitation/create"}}"#.into());
        assert_eq!(report(&app, "t", ("a", 1), asked.clone(), NOW).await.unwrap().state, asked);
        let result = State::Completed("{\"x\": 1.50,\n \"y\":\"\\u0000\"}".into());
        let ended = report(&app, "t", ("a", 1), result.clone(), LATER).await.unwrap();
        assert_eq!((ended.updated, ended.expires), (LATER, LATER.after(MCP_TASK_KEPT)));
        assert_eq!(read(&app, "ann", "t", LATER).await.unwrap().state, result);

        let again = report(&app, "t", ("a", 1), State::Working, LATER).await;
        assert!(matches!(again, Err(McpTaskError::Refused(Refused::Over))), "{again:?}");
        let (cancelled, changed) = app.at(LATER).cancel_mcp_task(&caller("ann"), &name("t")).await.unwrap();
        assert_eq!((cancelled.state, changed), (result, false), "it was over");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_its_principals_alone() {
    on_every_database(async |app| {
        create(&app, "ann", new_call("t"), NOW).await.unwrap();
        assert_eq!(read(&app, "bob", "t", NOW).await, None);
        let cancelled = app.cancel_mcp_task(&caller("bob"), &name("t")).await;
        assert!(matches!(cancelled, Err(McpTaskError::Unknown)), "{cancelled:?}");
        let elsewhere = app.cancel_mcp_task(&caller_in("other", "ann"), &name("t")).await;
        assert!(matches!(elsewhere, Err(McpTaskError::Unknown)), "{elsewhere:?}");
        assert_eq!(read(&app, "ann", "t", NOW).await.unwrap().state, State::Working);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_holds_is_taken_over_and_its_former_holder_is_not_heard() {
    on_every_database(async |app| {
        for id in ["kept", "lost", "done"] {
            create(&app, "ann", new_call(id), NOW).await.unwrap();
        }
        report(&app, "done", ("a", 1), State::Completed("{}".into()), NOW).await.unwrap();
        let half = NOW.after(HOLD / 2);
        let ids = ["kept", "done", "never"].map(name).to_vec();
        let held = app.at(half).hold_mcp_tasks(&permit(), &hub("a"), ids, HOLD).await.unwrap();
        assert_eq!(held, [(name("kept"), 1)], "what is over needs no holder");
        let stolen = app.at(half).hold_mcp_tasks(&permit(), &hub("b"), vec![name("lost")], HOLD).await.unwrap();
        assert_eq!(stolen, [], "it is another's");

        assert_eq!(take_over(&app, "b", half).await, []);
        let taken = take_over(&app, "b", NOW.after(HOLD)).await;
        assert_eq!(taken.iter().map(|task| (task.id.0.as_str(), task.attempt)).collect::<Vec<_>>(), [("lost", 2)]);
        assert_eq!(take_over(&app, "c", NOW.after(HOLD)).await, [], "one has it");
        let late = report(&app, "lost", ("a", 1), State::Completed("{}".into()), LATER).await;
        assert!(matches!(late, Err(McpTaskError::Refused(Refused::TakenOver))), "{late:?}");
        report(&app, "lost", ("b", 2), State::Failed("{}".into()), LATER).await.unwrap();

        app.at(half).release_mcp_task(&permit(), &name("kept"), &hub("a")).await.unwrap();
        assert_eq!(take_over(&app, "b", half).await.len(), 1, "a released task need not time out");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_from_before_a_clock_was_put_back_does_not_keep_a_task() {
    on_every_database(async |app| {
        let ahead = NOW.after(Duration::from_secs(3600));
        create(&app, "ann", new_call("t"), ahead).await.unwrap();
        create(&app, "ann", new_call("ahead"), NOW.after(HOLD / 2)).await.unwrap();
        let taken = take_over(&app, "b", NOW).await;
        assert_eq!(
            taken.iter().map(|task| task.id.0.as_str()).collect::<Vec<_>>(),
            ["t"],
            "clocks may differ a little"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_is_held_by_nobody() {
    on_every_database(async |app| {
        create(&app, "ann", new_call("t"), NOW).await.unwrap();
        let (cancelled, changed) = app.cancel_mcp_task(&caller("ann"), &name("t")).await.unwrap();
        assert_eq!((cancelled.state, changed), (State::Cancelled, true));
        assert_eq!(app.hold_mcp_tasks(&permit(), &hub("a"), vec![name("t")], HOLD).await.unwrap(), []);
        assert_eq!(take_over(&app, "b", LATER).await, []);
        let late = report(&app, "t", ("a", 1), State::Completed("{}".into()), NOW).await;
        assert!(matches!(late, Err(McpTaskError::Refused(Refused::Over))), "{late:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_task_cannot_be_seen_and_is_then_gone() {
    on_every_database(async |app| {
        for id in ["runs", "ended"] {
            create(&app, "ann", new_call(id), NOW).await.unwrap();
        }
        report(&app, "ended", ("a", 1), State::Completed("{}".into()), NOW).await.unwrap();
        let end = NOW.after(MCP_TASK_KEPT);
        assert!(read(&app, "ann", "ended", Timestamp(end.0 - 1)).await.is_some());
        assert_eq!(read(&app, "ann", "ended", end).await, None);
        assert_eq!(app.at(end).expire_mcp_tasks(&permit()).await.unwrap(), 1);
        assert_eq!(read(&app, "ann", "ended", NOW).await, None, "really");
        assert!(read(&app, "ann", "runs", end).await.is_some());
        let last = NOW.after(MCP_TASK_TIME_MAX);
        assert_eq!(take_over(&app, "b", last).await, [], "what has expired is not run again");
        assert_eq!(app.at(last).expire_mcp_tasks(&permit()).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_tasks_have_expired_all_go() {
    on_every_database(async |app| {
        for n in 0..250 {
            create(&app, "ann", new_call(&n.to_string()), NOW).await.unwrap();
        }
        assert_eq!(app.at(NOW.after(MCP_TASK_TIME_MAX)).expire_mcp_tasks(&permit()).await.unwrap(), 250);
        assert_eq!(read(&app, "ann", "7", NOW).await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_clock_may_be_ahead_takes_no_task_away_before_its_time() {
    const ERROR: Duration = Duration::from_secs(5);
    let clock = Clock::manual(NOW).unsure(ERROR);
    let limits = Limits { clock: clock.clone(), ..Limits::default() };
    on_every_address(async |address| {
        let app = open(address, Limits::default()).await;
        let ahead = Hub { app: App::new(Db::open(address, limits.clone()).await.unwrap()), clock: clock.clone() };
        create(&app, "ann", new_call("t"), NOW).await.unwrap();
        let end = NOW.after(MCP_TASK_TIME_MAX);
        // What the hub thinks that the time is, while it may still be `ERROR` less.
        let late = Timestamp(end.after(ERROR).0 - 1);
        assert!(read(&ahead, "ann", "t", late).await.is_some());
        assert_eq!(ahead.expire_mcp_tasks(&permit()).await.unwrap(), 0);
        let held = ahead.hold_mcp_tasks(&permit(), &hub("a"), vec![name("t")], HOLD).await.unwrap();
        assert_eq!(held, [(name("t"), 1)], "its holder may go on");
        report(&ahead, "t", ("a", 1), State::Completed("{}".into()), late).await.unwrap();
        let kept = late.after(MCP_TASK_KEPT + ERROR);
        assert!(read(&ahead, "ann", "t", Timestamp(kept.0 - 1)).await.is_some());
        assert_eq!(read(&ahead, "ann", "t", kept).await, None);
        assert_eq!(ahead.expire_mcp_tasks(&permit()).await.unwrap(), 1);

        create(&app, "ann", new_call("released"), NOW).await.unwrap();
        app.release_mcp_task(&permit(), &name("released"), &hub("a")).await.unwrap();
        assert_eq!(take_over(&ahead, "b", NOW).await.len(), 1, "what was released is free at once");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_has_so_many_tasks_and_so_many_bytes() {
    on_every_database(async |app| {
        let mut creating = tokio::task::JoinSet::new();
        for n in 0..limits::MCP_TASKS_MAX {
            let app = app.clone();
            creating.spawn(async move { create(&app, "ann", new_call(&n.to_string()), NOW).await.unwrap() });
        }
        creating.join_all().await;
        let more = create(&app, "ann", new_call("more"), NOW).await;
        assert!(matches!(more, Err(McpTaskError::TooMany)), "{more:?}");
        create(&app, "bob", new_call("bobs"), NOW).await.unwrap();
        create(&app, "ann", new_call("more"), NOW.after(MCP_TASK_TIME_MAX)).await.unwrap();
        assert_eq!(take_over(&app, "b", LATER).await.len(), TAKEN_OVER_MAX);

        let request = "x".repeat(limits::MCP_TASK_REQUEST_BYTES_MAX + 1);
        let large = create(&app, "bob", NewMcpTask { request, ..new_call("large") }, NOW).await;
        assert!(matches!(large, Err(McpTaskError::Invalid(Invalid::TooLarge { .. }))), "{large:?}");
        let result = |bytes| State::Completed("x".repeat(bytes));
        let large = report(&app, "bobs", ("a", 1), result(limits::MCP_TASK_CONTENT_BYTES_MAX + 1), NOW).await;
        assert!(matches!(large, Err(McpTaskError::Invalid(Invalid::TooLarge { .. }))), "{large:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_no_longer_fit_are_refused_but_a_failure_is_always_kept() {
    on_every_database(async |app| {
        let content = || State::Completed("x".repeat(limits::MCP_TASK_CONTENT_BYTES_MAX));
        let fitting = limits::MCP_TASKS_BYTES_MAX / limits::MCP_TASK_CONTENT_BYTES_MAX;
        for n in 0..fitting {
            create(&app, "ann", new_call(&n.to_string()), NOW).await.unwrap();
        }
        let last = (fitting - 1).to_string();
        for n in 0..fitting - 1 {
            report(&app, &n.to_string(), ("a", 1), content(), NOW).await.unwrap();
        }
        let full = report(&app, &last, ("a", 1), content(), NOW).await;
        assert!(matches!(full, Err(McpTaskError::Full)), "the requests take some, too: {full:?}");
        report(&app, &last, ("a", 1), State::Failed(r#"{"code":-32603}"#.into()), NOW).await.unwrap();
    })
    .await;
}
