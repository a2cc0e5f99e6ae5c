use serde_json::json;

use super::*;

/// One of each, with what the database has of it.
fn each() -> Vec<(EventKind, &'static str, serde_json::Value)> {
    let held = || WorkerAttempt { worker: WorkerId("w".into()), attempt: 2 };
    let held_json = || json!({ "worker": "w", "attempt": 2 });
    vec![
        (EventKind::RunStarted { name: "n".into(), tasks: 3 }, "run.started", json!({ "name": "n", "tasks": 3 })),
        (EventKind::RunEnded { end: "failed".into() }, "run.ended", json!({ "end": "failed" })),
        (EventKind::RunInterrupted {}, "run.interrupted", json!({})),
        (EventKind::RunResumed {}, "run.resumed", json!({})),
        (EventKind::RunRetried {}, "run.retried", json!({})),
        (EventKind::TaskSubmitted { queue: "q".into() }, "task.submitted", json!({ "queue": "q" })),
        (EventKind::TaskStarted(held()), "task.started", held_json()),
        (EventKind::TaskCompleted(held()), "task.completed", held_json()),
        (
            EventKind::TaskRetried { attempt: held(), error: "e: {}".into(), due: Timestamp(7) },
            "task.retried",
            json!({ "worker": "w", "attempt": 2, "error": "e: {}", "due": 7 }),
        ),
        (
            EventKind::TaskFailed { attempt: held(), error: "e".into() },
            "task.failed",
            json!({ "worker": "w", "attempt": 2, "error": "e" }),
        ),
        (EventKind::TaskBlocked { by: TaskId("t".into()) }, "task.blocked", json!({ "by": "t" })),
        (EventKind::TaskReleased(held()), "task.released", held_json()),
        (
            EventKind::TaskLost { attempt: held(), losses: 1 },
            "task.lost",
            json!({ "worker": "w", "attempt": 2, "losses": 1 }),
        ),
        (EventKind::TaskCancelled { attempt: Some(held()) }, "task.cancelled", held_json()),
        (EventKind::TaskCancelled { attempt: None }, "task.cancelled", json!({})),
        (
            EventKind::TaskProgress { attempt: held(), percent: Some(50), message: None },
            "task.progress",
            json!({ "worker": "w", "attempt": 2, "percent": 50 }),
        ),
        (EventKind::TaskExpired { attempt: None, error: "late".into() }, "task.expired", json!({ "error": "late" })),
        (EventKind::TaskReopened {}, "task.reopened", json!({})),
        (
            EventKind::TaskAnswerRefused {
                worker: held().worker,
                attempt: 2,
                reason: "late".into(),
                output: Some(json!([1, 2]).into()),
                output_cut: None,
                error: None,
            },
            "task.answer_refused",
            json!({ "worker": "w", "attempt": 2, "reason": "late", "output": [1, 2] }),
        ),
        (
            EventKind::TaskLog { message: "m".into(), data: Some(json!({ "n": 1.50 }).into()) },
            "task.log",
            json!({ "message": "m", "data": { "n": 1.5 } }),
        ),
        (
            EventKind::TaskLog { message: "m".into(), data: Some(Json::null()) },
            "task.log",
            json!({ "message": "m", "data": null }),
        ),
        (EventKind::TaskLog { message: "m".into(), data: None }, "task.log", json!({ "message": "m" })),
        (
            EventKind::ForeignChanged { table: "t".into(), key: "k".into() },
            "foreign.changed",
            json!({ "table": "t", "key": "k" }),
        ),
    ]
}

/// The same of hubs.
fn each_of_hubs() -> Vec<(EventKind, &'static str, serde_json::Value)> {
    let alert = |value| Alert { alert: "error_rate".into(), hub: "h".into(), value, threshold: 0.05 };
    let shown = || json!({ "alert": "error_rate", "hub": "h", "threshold": 0.05 });
    let mut measured = shown();
    measured["value"] = json!(0.25);
    vec![
        (EventKind::AlertRaised(alert(Some(0.25))), "alert.raised", measured),
        (EventKind::AlertCleared(alert(None)), "alert.cleared", shown()),
    ]
}

/// The same of what agents share.
fn each_of_shared_state() -> Vec<(EventKind, &'static str, serde_json::Value)> {
    vec![
        (
            EventKind::StepLogged { number: 7, level: Level::Warning, message: "m".into(), data: None },
            "step.logged",
            json!({ "number": 7, "level": "warning", "message": "m" }),
        ),
        (
            EventKind::MemberJoined { member: "a".into(), role: Some("tester".into()) },
            "member.joined",
            json!({ "member": "a", "role": "tester" }),
        ),
        (EventKind::MemberLeft { member: "a".into() }, "member.left", json!({ "member": "a" })),
        (
            EventKind::MessageSent {
                number: 8,
                kind: MessageKind::Response,
                sender: "a".into(),
                recipient: Some("b".into()),
                reply_to: Some(7),
            },
            "message.sent",
            json!({ "number": 8, "type": "response", "sender": "a", "recipient": "b", "reply_to": 7 }),
        ),
        (
            EventKind::MemoryStored { key: "k".into(), revision: 2, expires: Some(Timestamp(7)) },
            "memory.stored",
            json!({ "key": "k", "revision": 2, "expires": 7 }),
        ),
        (
            EventKind::MemoryStored { key: "k".into(), revision: 1, expires: None },
            "memory.stored",
            json!({ "key": "k", "revision": 1 }),
        ),
        (EventKind::MemoryDeleted { key: "k".into() }, "memory.deleted", json!({ "key": "k" })),
    ]
}

/// The same of files and claims.
fn each_of_files() -> Vec<(EventKind, &'static str, serde_json::Value)> {
    let (token, claim_json) = (|| ClaimToken(5), || json!({ "pattern": "*", "token": 5 }));
    vec![
        (
            EventKind::FileWritten {
                path: "a/b".into(),
                revision: 2,
                base: Some(1),
                sha256: "00".into(),
                size: 3,
                source: None,
            },
            "file.written",
            json!({ "path": "a/b", "revision": 2, "base": 1, "sha256": "00", "size": 3 }),
        ),
        (
            EventKind::FileDeleted { path: "a".into(), revision: 3, source: Some(FileSource::Directory) },
            "file.deleted",
            json!({ "path": "a", "revision": 3, "source": "directory" }),
        ),
        (
            EventKind::FileConflict { path: "a".into(), revision: 3, other: 2 },
            "file.conflict",
            json!({ "path": "a", "revision": 3, "other": 2 }),
        ),
        (
            EventKind::ClaimBypassed {
                pattern: "*".into(),
                token: token(),
                principal: "p".into(),
                agent: None,
                path: "a".into(),
                revision: 3,
            },
            "claim.bypassed",
            json!({ "pattern": "*", "token": 5, "principal": "p", "path": "a", "revision": 3 }),
        ),
        (
            EventKind::ClaimTaken { pattern: "*".into(), token: token(), shared: true, until: Timestamp(7) },
            "claim.taken",
            json!({ "pattern": "*", "token": 5, "shared": true, "until": 7 }),
        ),
        (EventKind::ClaimReleased { pattern: "*".into(), token: token() }, "claim.released", claim_json()),
        (EventKind::ClaimWithdrawn { pattern: "*".into(), token: token() }, "claim.withdrawn", claim_json()),
        (
            EventKind::ClaimForced { pattern: "*".into(), token: token(), principal: "p".into(), agent: None },
            "claim.forced",
            json!({ "pattern": "*", "token": 5, "principal": "p" }),
        ),
    ]
}

#[test]
fn every_kind_of_event_is_read_as_it_was_written() {
    for (kind, name, data) in
        each().into_iter().chain(each_of_shared_state()).chain(each_of_files()).chain(each_of_hubs())
    {
        assert_eq!(kind.name(), name);
        assert_eq!(kind.data().parse::<serde_json::Value>().unwrap(), data, "{name}");
        assert_eq!(EventKind::from_database(name, kind.data(), None), kind, "{name}");
    }
}

#[test]
fn what_a_newer_program_has_written_is_kept_as_it_is() {
    for (name, data) in [("task.eaten", "{\"by\": 1}"), ("task.blocked", "{\"because\":2}"), ("a\"b:", "{}")] {
        let data = Json::from_text(data).unwrap();
        let subject = Some(Subject::new("file", "a/b"));
        let kind = EventKind::from_database(name, data.clone(), subject.clone());
        assert_eq!(kind.subject(), subject);
        assert!(matches!(kind, EventKind::Unknown { .. }), "{kind:?}");
        assert_eq!((kind.name(), kind.data()), (name, data));
    }
}

#[test]
fn an_event_is_about_its_task_or_its_run_unless_its_kind_says_otherwise() {
    let about = |run: Option<&str>, task: Option<&str>, kind: EventKind| {
        let (run, task) = (run.map(|id| RunId(id.into())), task.map(|id| TaskId(id.into())));
        let event = NewEvent { at: Timestamp(1), run, task, kind }.by(None);
        event.subject().map(|subject| (subject.kind.to_string(), subject.id.to_string()))
    };
    let changed = |table: &str| EventKind::ForeignChanged { table: table.into(), key: "t".into() };
    let subject = |kind: &str, id: &str| Some((kind.to_owned(), id.to_owned()));
    assert_eq!(about(Some("r"), Some("t"), EventKind::TaskReopened {}), subject("task", "t"));
    assert_eq!(about(Some("r"), None, EventKind::RunResumed {}), subject("run", "r"));
    assert_eq!(about(None, None, changed("mcp_task")), subject("mcp_task", "t"));
    assert_eq!(about(None, None, changed("dependency")), subject("task", "t"));
    assert_eq!(about(None, None, EventKind::MemoryDeleted { key: "k".into() }), subject("memory", "k"));
    assert_eq!(about(None, None, EventKind::MemberLeft { member: "a".into() }), subject("member", "a"));
    let step = EventKind::StepLogged { number: 7, level: Level::Info, message: "m".into(), data: None };
    assert_eq!(about(None, None, step), subject("step", "7"));
}
