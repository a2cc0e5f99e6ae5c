//! What the audit finds, and that it finds nothing where nothing is wrong.

use skep_core::{
    artefact::NewArtefact,
    db::FINDINGS_MAX,
    mcp_task::{McpTaskId, NewMcpTask},
    member::TTL_DEFAULT,
    memory::NewEntry,
    message::{MessageKind, NewMessage},
    run::End,
    step::{Level, NewStep},
};

use super::*;

/// A run with a task `{name}-{state}` in every state, and then some.
async fn every_state(app: &Hub, name: &str) {
    let id_of = |state: &str| format!("{name}-{state}");
    let queue = |task: NewTask| NewTask { queue: name.to_owned(), ..task };
    let needs = |state: &str, on: &str| queue(needs(&id_of(state), &[&id_of(on)]));
    let tasks = vec![
        queue(new(&id_of("completed"))),
        queue(new(&id_of("failed"))),
        queue(new(&id_of("in_progress"))),
        needs("blocked", "failed"),
        needs("pending", "in_progress"),
        needs("ready", "completed"),
    ];
    app.start_run(&permit(), new_run(name), tasks).await.unwrap();
    let claim = async || app.claim(&permit(), name, &holder("w")).await.unwrap().unwrap();
    let completed = claim().await;
    let file = NewArtefact { path: "f".into(), bytes: vec![7; 10] };
    app.finish(&permit(), &completed.id, attempt(&completed), json!(1), vec![file]).await.unwrap();
    fail(app, &claim().await, false).await.unwrap();
    claim().await;
}

/// A workspace with three steps and three messages.
async fn shared(app: &Hub) {
    let agent = |name: &str| agent_in("w", "ann", name);
    for name in ["b", "c"] {
        app.join_workspace(&agent(name), None, TTL_DEFAULT).await.unwrap();
    }
    for recipient in [Some("b".to_owned()), Some("b".to_owned()), None] {
        let (body, kind) = (Json::null(), MessageKind::Collaborate);
        let new = NewMessage { kind, recipient, reply_to: None, body: body.clone(), key: None };
        app.send_message(&agent("a"), new).await.unwrap();
        let step = NewStep { level: Level::Info, message: "x".into(), data: Some(body) };
        app.log_step(&agent("a"), step).await.unwrap();
    }
}

/// What is done behind the store's back, and what is said of it.
const DAMAGES: [(&str, &[&str]); 36] = [
    (
        "update task set waiting_for = 2 where id = 'a-pending'",
        &["task a-pending (in main) waits for 2 others, but 1 are unfinished"],
    ),
    (
        "update task set waiting_for = 1 where id = 'a-ready'",
        &["task a-ready (in main) waits for 1 others, but 0 are unfinished"],
    ),
    (
        "update task set worker = null where id = 'a-in_progress'",
        &["task a-in_progress (in main) is in progress, but nobody holds it"],
    ),
    (
        "update task set worker = 'w' where id = 'a-failed'",
        &["task a-failed (in main) is failed, but a worker holds it"],
    ),
    (
        "update task set result = null where id = 'a-blocked'",
        &["task a-blocked (in main) is blocked, but has no result"],
    ),
    (
        "update task set attempt = 2 where id = 'b-in_progress'",
        &["task b-in_progress (in main) is at attempt 2, but was started 1 times"],
    ),
    ("delete from dependency where task = 'b-pending'", &["task b-pending (in main) needs 1 others, but 0 know of it"]),
    (
        "update task set allow_failure = true where id = 'b-failed'",
        &["task b-blocked (in main) is blocked, but nothing that it needs has ended without success"],
    ),
    ("delete from event where task = 'b-ready'", &["task b-ready (in main) has no events"]),
    (
        "update artefact set size = 11 where task = 'b-completed'",
        &["artefact f of task b-completed (in main) has 10 bytes, but should have 11"],
    ),
    ("update run set ended = 1 where id = 'b'", &["run b (in main) is not over, but has an end"]),
    (
        "delete from task where id = 'c-ready'",
        &[
            "task c-ready (in main) needs task c-completed, and one of them does not exist",
            "event 33 (in main) is about task c-ready, which does not exist",
        ],
    ),
    ("update task set due = null where id = 'c-pending'", &["task c-pending (in main) is pending, but never due"]),
    (
        "update artefact set task = 'none' where task = 'c-completed'",
        &["artefact f of task none (in main) is kept, but the task does not exist"],
    ),
    (
        "update run set state = 'interrupted' where id = 'c'",
        &[
            "run c (in main) is interrupted, but its last event is run.started",
            "task c-in_progress (in main) is in progress, but its run is interrupted",
        ],
    ),
    (
        "update run set state = 'failed' where id = 'over'",
        &["run over (in main) is failed, but its last event is run.ended"],
    ),
    (
        "update task set state = 'cancelled', due = null where id = 'd-ready'",
        &["task d-ready (in main) is cancelled, but its last event says pending"],
    ),
    (
        "update task set state = 'completed', worker = null, result = '1' where id = 'd-in_progress'",
        &[
            "task d-in_progress (in main) is completed, but its last event says in_progress",
            "task d-in_progress (in main) is completed, but belongs to session session of w",
            "task d-pending (in main) waits for 1 others, but 0 are unfinished",
        ],
    ),
    (
        "update task set run = 'none' where id = 'alone'",
        &["task alone (in main) belongs to run none, which does not exist"],
    ),
    ("delete from run where id = 'empty'", &["event 70 (in main) is about run empty, which does not exist"]),
    (
        "update namespace set last_event = 1 where team = 'main' and workspace = ''",
        &["event 98 (in main) has a number that is still to be given"],
    ),
    ("update mcp_task set held_until = null", &["MCP task m (in main) runs, but nobody holds it"]),
    (
        "update task set session = 'none' where id = 'e-in_progress'",
        &["task e-in_progress (in main) is in progress in session none, which does not exist"],
    ),
    (
        "update task set epoch = 1 where id = 'e-ready'",
        &["task e-ready (in main) is of epoch 1, but only 0 runs were deleted"],
    ),
    (
        "update task set session = 'session of v' where id = 'f-in_progress'",
        &["task f-in_progress (in main) is in progress by w in session session of v of v"],
    ),
    ("delete from memory_word where word = 'red'", &["memory colour (in main) has 1 words, but should have 2"]),
    (
        "insert into memory_word (namespace, word, place, count) select namespace, 'lost', -9, 1 from memory",
        &["word lost (in main) belongs to no memory entry"],
    ),
    (
        "update namespace set memories = 2 where team = 'main' and workspace = ''",
        &["memory (in main) has 1 entries of 11 bytes, but 2 of 11 are counted"],
    ),
    (
        "insert into deletion (namespace, run) select id, 'f' from namespace where team = 'main'",
        &[
            "run f (in main) is being deleted, but is still there",
            "task f-in_progress (in main) is in_progress, but its run f is being deleted",
            "task f-pending (in main) is pending, but its run f is being deleted",
            "task f-ready (in main) is pending, but its run f is being deleted",
        ],
    ),
    ("delete from step where number = 2", &["log of steps (in main/w) should have 3 from 1 on, but has 2 from 1 to 3"]),
    (
        "update namespace set last_message = 4 where workspace = 'w'",
        &["list of messages (in main/w) should have 4 from 1 on, but has 3 from 1 to 3"],
    ),
    (
        "update message set reply_to = number where number = 2",
        &["message 2 (in main/w) is about message 2, which was not there before it"],
    ),
    (
        "insert into inbox select namespace, 'x', number from message where number = 1",
        &["message 1 (in main/w) is in the inbox of x, but is to b"],
    ),
    (
        "insert into inbox select namespace, 'b', number from message where number = 3",
        &["message 3 (in main/w) is to all, and in the inbox of b, who has not come so far"],
    ),
    (
        "insert into inbox select namespace, 'b', 99 from message where number = 1",
        &["message 99 (in main/w) is in the inbox of b, but does not exist"],
    ),
    ("update member set seen = 5 where id = 'c'", &["member c (in main/w) has seen message 5, but the last one is 4"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_row_is_named_and_no_other() {
    // Not `on_every_address`: what this leaves behind is not sound.
    let directory = in_memory();
    for address in [Some(sqlite(&directory)), postgres::new_schema().await].iter().flatten() {
        let app = open(address, Limits::default()).await;
        for name in ["a", "b", "c", "d", "over"] {
            every_state(&app, name).await;
        }
        app.end_run(&permit(), &RunId("over".into()), End::Completed, None).await.unwrap();
        app.start_run(&permit(), new_run("empty"), Vec::new()).await.unwrap();
        app.submit(&permit(), new("alone")).await.unwrap();
        for name in ["e", "f"] {
            every_state(&app, name).await;
        }
        let call = NewMcpTask { id: McpTaskId("m".into()), request: "{}".into(), may_repeat: true };
        app.create_mcp_task(&permit().actor().permit().unwrap(), call, &skep_core::mcp_task::Holder("h".into()), GRACE)
            .await
            .unwrap();
        app.store_memory(&permit(), NewEntry::new("colour", json!("red"))).await.unwrap();
        shared(&app).await;
        assert_eq!(app.db.audit().await.unwrap().findings, [], "before");

        for (sql, _) in DAMAGES {
            tamper(address, sql).await;
        }
        let mut said: Vec<String> = app.db.audit().await.unwrap().findings.iter().map(ToString::to_string).collect();
        let mut expected: Vec<&str> = DAMAGES.iter().flat_map(|(_, expected)| *expected).copied().collect();
        said.sort_unstable();
        expected.sort_unstable();
        assert_eq!(said, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_what_is_wrong_has_its_limit() {
    let directory = in_memory();
    for address in [Some(sqlite(&directory)), postgres::new_schema().await].iter().flatten() {
        let app = open(address, Limits::default()).await;
        for run in 0..3 {
            let tasks = (0..FINDINGS_MAX / 2).map(|n| new(&format!("{run}-{n}"))).collect();
            app.start_run(&permit(), new_run(&run.to_string()), tasks).await.unwrap();
        }
        tamper(address, "update task set attempt = 1").await;
        assert_eq!(app.db.audit().await.unwrap().findings.len(), FINDINGS_MAX);
    }
}
