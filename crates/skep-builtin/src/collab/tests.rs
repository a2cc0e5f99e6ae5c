use serde_json::{Value, json};
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    policy::Actor,
};
use skep_tools::tool::BuiltIn;

use super::*;
use skep_tools::shared::Shared;

use crate::testing::{Fixture, call};

/// The tools over a store of their own.
struct Collab {
    fixture: Fixture,
    shared: Shared,
}

impl Collab {
    async fn new() -> Collab {
        let fixture = Fixture::new();
        let address = format!("sqlite:{}", fixture.directory.path().join("skep.db").display());
        let app = App::new(Db::open(&address, Limits::default()).await.unwrap());
        Collab { fixture, shared: Shared(Some(app)) }
    }

    /// From now on, another principal calls, who does not run the hub.
    fn as_member(&mut self, principal: &str) {
        self.fixture.context.permit = Actor::member(principal, Namespace::team("test")).permit().unwrap();
    }

    async fn call<B: BuiltIn>(&self, tool: impl Fn(Shared) -> B, arguments: Value) -> Result<Value, ToolError> {
        call(tool(self.shared.clone()), &self.fixture, arguments).await
    }

    async fn log(&self, arguments: Value) -> Result<Value, ToolError> {
        self.call(|shared| LogStep { shared }, arguments).await
    }

    async fn logs(&self, arguments: Value) -> Result<Value, ToolError> {
        self.call(|shared| ReadLogs { shared }, arguments).await
    }

    async fn join(&self, arguments: Value) -> Result<Value, ToolError> {
        self.call(|shared| JoinCollab { shared }, arguments).await
    }

    async fn send(&self, arguments: Value) -> Result<Value, ToolError> {
        self.call(|shared| SendMessage { shared }, arguments).await
    }

    async fn read(&self, arguments: Value) -> Result<Value, ToolError> {
        self.call(|shared| ReadMessages { shared }, arguments).await
    }

    async fn ack(&self, arguments: Value) -> Result<Value, ToolError> {
        self.call(|shared| AckMessages { shared }, arguments).await
    }
}

fn numbers(answer: &Value, of: &str, name: &str) -> Vec<i64> {
    answer[of].as_array().unwrap().iter().map(|one| one[name].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_logged_as_the_clients_of_either_kind_send_them() {
    let collab = Collab::new().await;
    let first =
        json!({ "task_id": "t", "agent_id": "a", "level": "warn", "message": "look", "data": { "n": [1, null] } });
    assert_eq!(collab.log(first).await.unwrap(), json!({ "sequence": 1 }));
    let second = json!({ "taskId": "t", "agentId": "b", "level": "INFO", "message": "done" });
    assert_eq!(collab.log(second).await.unwrap(), json!({ "sequence": 2 }));
    assert_eq!(collab.log(json!({ "swarmId": "s", "message": "other" })).await.unwrap(), json!({ "sequence": 1 }));

    let logs = collab.logs(json!({ "task_id": "t" })).await.unwrap();
    assert_eq!(numbers(&logs, "logs", "sequence"), [1, 2]);
    let one = &logs["logs"][0];
    assert_eq!(
        (&one["level"], &one["data"], &one["agent_id"]),
        (&json!("warning"), &json!({ "n": [1, null] }), &json!("a"))
    );
    let of_b = collab.logs(json!({ "task_id": "t", "agent_id": "b", "after": 0 })).await.unwrap();
    assert_eq!(
        (numbers(&of_b, "logs", "sequence"), &of_b["next"], &of_b["has_more"]),
        (vec![2], &json!(2), &json!(false))
    );
    let last = collab.logs(json!({ "task_id": "t", "limit": 1 })).await.unwrap();
    assert_eq!(
        (numbers(&last, "logs", "sequence"), &last["next"], &last["has_more"]),
        (vec![2], &json!(2), &json!(true))
    );
    let at = one["at"].as_str().unwrap();
    let none = collab.logs(json!({ "task_id": "t", "until": at })).await.unwrap();
    assert_eq!(none["logs"], json!([]));
}

#[tokio::test]
async fn bad_arguments_are_named() {
    let collab = Collab::new().await;
    for (arguments, pointer) in [
        (json!({ "message": "m" }), ""),
        (json!({ "task_id": "t" }), ""),
        (json!({ "task_id": "t", "message": "" }), "/message"),
        (json!({ "task_id": "t", "message": "m", "level": "loud" }), "/level"),
        (json!({ "task_id": "a\nb", "message": "m" }), ""),
        (json!({ "task_id": "t", "message": "m", "data": "x".repeat(64 << 10) }), ""),
    ] {
        let refused = collab.log(arguments.clone()).await.unwrap_err();
        let ToolError::InvalidArguments(faults) = refused else { panic!("{arguments}: {refused:?}") };
        assert!(faults.iter().any(|fault| fault.pointer.starts_with(pointer)), "{arguments}: {faults:?}");
    }
    let both = collab.logs(json!({ "task_id": "t", "after": 1, "before": 2 })).await.unwrap_err();
    assert_eq!(both.to_string(), "before: give `after` or `before`, not both");
    let when = collab.logs(json!({ "task_id": "t", "since": "yesterday" })).await.unwrap_err();
    assert_eq!(when.to_string(), "since: must be a time like 2026-05-01T12:30:00Z");
    let ttl = collab.join(json!({ "task_id": "t", "ttl_s": 4 })).await.unwrap_err();
    assert_eq!(ttl.code(), "invalid_arguments");
    for (arguments, at) in [
        (json!({ "body": null }), "body: is null; say something"),
        (json!({ "type": "request", "body": 1 }), "to: a request is for one agent; say to whom it is"),
        (
            json!({ "type": "broadcast", "to": "a", "body": 1 }),
            "to: a broadcast is for all agents; leave the recipient out, or send a notification",
        ),
        (
            json!({ "type": "response", "body": 1 }),
            "reply_to: a response needs the number of the message that it answers",
        ),
        (
            json!({ "to": "a", "body": 1, "reply_to": 7 }),
            "reply_to: there is no message 7 that you can see; look at the number again",
        ),
    ] {
        assert_eq!(collab.send(arguments).await.unwrap_err().to_string(), at);
    }
    let nothing = collab.ack(json!({ "task_id": "t" })).await.unwrap_err();
    assert_eq!(nothing.to_string(), "numbers: say which messages: give their numbers, or up_to");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_join_ask_each_other_and_answer() {
    let mut collab = Collab::new().await;
    collab.as_member("ann");
    let joined = collab.join(json!({ "task_id": "t", "agent_id": "coder", "role": "writes" })).await.unwrap();
    assert_eq!((&joined["agent_id"], &joined["unread"]), (&json!("coder"), &json!(0)));
    collab.join(json!({ "swarmId": "t", "agentId": "tester" })).await.unwrap();
    let asked =
        json!({ "task_id": "t", "from": "coder", "to": "tester", "type": "request", "content": { "run": "all" } });
    assert_eq!(collab.send(asked).await.unwrap(), json!({ "number": 1, "to": "tester" }));
    let again = collab.join(json!({ "task_id": "t", "agent_id": "tester" })).await.unwrap();
    assert_eq!(again["unread"], 1);
    let members = again["members"].as_array().unwrap();
    assert_eq!((members.len(), &members[0]["role"], &members[1]["is_present"]), (2, &json!("writes"), &json!(true)));

    let read = collab.read(json!({ "task_id": "t", "agent_id": "tester" })).await.unwrap();
    let message = &read["messages"][0];
    assert_eq!(
        (&message["from"], &message["type"], &message["body"]["run"]),
        (&json!("coder"), &json!("request"), &json!("all"))
    );
    let answer = json!({ "task_id": "t", "agent_id": "tester", "type": "response", "reply_to": 1, "body": "passed" });
    assert_eq!(collab.send(answer).await.unwrap(), json!({ "number": 2, "to": "coder" }));
    let acked = collab.ack(json!({ "task_id": "t", "agent_id": "tester", "numbers": [1] })).await.unwrap();
    assert_eq!(acked, json!({ "acknowledged": 1, "unread": 0 }));
    collab.send(json!({ "task_id": "t", "agent_id": "coder", "body": "to all" })).await.unwrap();
    let waited = json!({ "task_id": "t", "agent_id": "tester", "wait_s": 1, "types": ["broadcast"] });
    assert_eq!(numbers(&collab.read(waited).await.unwrap(), "messages", "number"), [3]);
    let everything = json!({ "task_id": "t", "agent_id": "tester", "unread_only": false });
    assert_eq!(numbers(&collab.read(everything).await.unwrap(), "messages", "number"), [1, 2, 3]);

    let keyed = json!({ "task_id": "t", "agent_id": "coder", "to": "tester", "body": 1, "idempotency_key": "k" });
    assert_eq!(collab.send(keyed.clone()).await.unwrap(), json!({ "number": 4, "to": "tester" }));
    assert_eq!(collab.send(keyed).await.unwrap(), json!({ "number": 4, "to": "tester", "repeated": true }));
    let left = collab.call(|shared| LeaveCollab { shared }, json!({ "task_id": "t", "agent_id": "tester" }));
    assert_eq!(left.await.unwrap(), json!({ "left": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_what_is_anothers() {
    let mut collab = Collab::new().await;
    collab.as_member("ann");
    let as_a = || json!({ "task_id": "t", "agent_id": "a" });
    let early = collab.read(as_a()).await.unwrap_err();
    assert_eq!(early.to_json()["reason"], "not_joined");
    collab.join(as_a()).await.unwrap();
    collab.send(json!({ "task_id": "t", "agent_id": "b", "to": "a", "body": "secret" })).await.unwrap();
    collab.as_member("bob");
    let refused = collab.read(as_a()).await.unwrap_err();
    assert_eq!(
        refused.to_json(),
        json!({
            "status": "error", "code": "conflict", "reason": "name_taken", "principal": "ann",
            "message": "the name \"a\" belongs to ann in this workspace; act under another name",
        })
    );
    let all = collab.read(json!({ "task_id": "t", "all_agents": true })).await.unwrap_err();
    assert_eq!(all.code(), "denied");
    collab.fixture.context.permit = crate::testing::permit();
    let all = collab.read(json!({ "task_id": "t", "all_agents": true })).await.unwrap();
    assert_eq!(all["messages"][0]["body"], "secret", "the operator sees all");
}

#[tokio::test]
async fn a_step_with_a_key_is_logged_once() {
    let mut collab = Collab::new().await;
    let step = json!({ "task_id": "t1", "agent_id": "coder", "message": "compiled", "idempotency_key": "k" });
    assert_eq!(collab.log(step.clone()).await.unwrap(), json!({ "sequence": 1 }));
    assert_eq!(collab.log(step.clone()).await.unwrap(), json!({ "sequence": 1, "repeated": true }));
    let mut other = step.clone();
    other["message"] = "tested".into();
    let ToolError::Conflict { detail, .. } = collab.log(other).await.unwrap_err() else {
        panic!("it says something else")
    };
    assert_eq!(Value::Object(detail), json!({ "reason": "key_reused", "number": 1 }));
    collab.as_member("ann");
    assert_eq!(collab.log(step).await.unwrap(), json!({ "sequence": 2 }), "the keys of another principal are its own");
}
