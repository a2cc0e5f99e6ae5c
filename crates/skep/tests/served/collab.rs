//! Agents that work together through a hub: what they log, who is there, what they tell each other.

use serde_json::{Value, json};

use crate::wire::{Hub, within};

const OPERATOR: &str = "operator-correct-horse-battery";
const ANN: &str = "ann-correct-horse-battery";
const BOB: &str = "bob-correct-horse-battery";

fn hub() -> Hub {
    let tokens = format!("[serve.tokens]\nann = '{ANN}'\nbob = '{BOB}'\n");
    Hub::start_with(&tokens, &[("SKEP_TOKEN", OPERATOR), ("NO_COLOR", "1")])
}

/// `POST /tools/{tool}`, as S1's clients call it.
async fn call(hub: &Hub, token: &str, tool: &str, arguments: Value) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    let answer = hub.post(&format!("/tools/{tool}"), &[("authorization", &bearer)], arguments).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn steps_are_numbered_whoever_logs_them_and_stay_after_a_restart() {
    let mut hub = hub();
    let step = |task: &str, agent: &str, level: &str| json!({ "task_id": task, "agent_id": agent, "level": level, "message": "compiled", "data": { "files": 3 } });
    for n in 1..=3 {
        let token = if n == 2 { BOB } else { ANN };
        let logged = call(&hub, token, "log_step", step("task_1757967065850_abc123", "coder", "info")).await;
        assert_eq!(logged, (200, json!({ "status": "ok", "sequence": n })));
    }
    assert_eq!(call(&hub, ANN, "log_step", step("other", "coder", "info")).await.1["sequence"], 1);
    let (status, refused) = call(&hub, ANN, "log_step", step("other", "coder", "loud")).await;
    assert_eq!(
        (status, &refused["code"], &refused["faults"][0]["pointer"]),
        (422, &json!("invalid_arguments"), &json!("/level"))
    );

    hub.served.kill();
    let mut hub = Hub::of(hub.user, &format!("[serve.tokens]\nann = '{ANN}'\n"), &[("SKEP_TOKEN", OPERATOR)]);
    let (_, logs) = call(&hub, ANN, "read_logs", json!({ "task_id": "task_1757967065850_abc123", "after": 0 })).await;
    let shown: Vec<(i64, &str)> = logs["logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["sequence"].as_i64().unwrap(), step["principal"].as_str().unwrap()))
        .collect();
    assert_eq!(shown, [(1, "ann"), (2, "bob"), (3, "ann")]);
    assert_eq!(call(&hub, ANN, "log_step", step("task_1757967065850_abc123", "coder", "warn")).await.1["sequence"], 4);
    assert_eq!(hub.served.stop(), 0);
}

#[tokio::test]
async fn an_agent_that_waits_gets_the_message_of_another_one() {
    let hub = hub();
    let tester = || json!({ "task_id": "t", "agent_id": "tester", "role": "tests" });
    let (status, joined) = call(&hub, BOB, "join_collab", tester()).await;
    assert_eq!((status, &joined["members"][0]["role"], &joined["unread"]), (200, &json!("tests"), &json!(0)));
    let (status, taken) = call(&hub, ANN, "join_collab", tester()).await;
    assert_eq!((status, &taken["reason"], &taken["principal"]), (409, &json!("name_taken"), &json!("bob")));

    let waits = call(&hub, BOB, "read_messages", json!({ "task_id": "t", "agent_id": "tester", "wait_s": 30 }));
    let sends = async {
        let message =
            json!({ "task_id": "t", "agent_id": "coder", "to": "tester", "type": "request", "body": "test it" });
        call(&hub, ANN, "send_message", message).await
    };
    let ((status, read), sent) = within(async { tokio::join!(waits, sends) }).await;
    assert_eq!(sent, (200, json!({ "status": "ok", "number": 1, "to": "tester" })));
    assert_eq!((status, &read["messages"][0]["body"]), (200, &json!("test it")));
    let acked = call(&hub, BOB, "ack_messages", json!({ "task_id": "t", "agent_id": "tester", "up_to": 1 })).await;
    assert_eq!(acked, (200, json!({ "status": "ok", "acknowledged": 1, "unread": 0 })));
    let (status, early) = call(&hub, ANN, "read_messages", json!({ "task_id": "t", "agent_id": "coder" })).await;
    assert_eq!((status, &early["reason"]), (409, &json!("not_joined")));
}
