//! Clients of MCP that work through a queue of tasks with nothing but tools.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::wire::{self, Hub, within};

const OPERATOR: &str = "operator-correct-horse-battery";
const ANN: &str = "ann-correct-horse-battery";
const BOB: &str = "bob-correct-horse-battery";
const TASKS: usize = 20;

/// A client with a session.
struct Client<'a> {
    hub: &'a Hub,
    bearer: String,
    session: String,
}

impl<'a> Client<'a> {
    async fn begin(hub: &'a Hub, token: &str) -> Client<'a> {
        let bearer = format!("Bearer {token}");
        let session = hub.session(&[("authorization", &bearer)]).await;
        Client { hub, bearer, session }
    }

    /// Call a tool. Gives its answer; if that is an error, its text, and that it is one.
    async fn call(&self, tool: &str, arguments: Value) -> (Value, bool) {
        let headers = [("authorization", &*self.bearer), ("mcp-session-id", &self.session)];
        let mut connection = self.hub.connect().await;
        connection.send("POST", "/mcp", &headers, &wire::call(1, tool, arguments).to_string()).await.unwrap();
        let head = connection.head().await.expect("the hub closed the connection");
        assert_eq!(head.status, 200, "{head:?}");
        // A call that takes long is answered by a stream.
        let answer: Value = match head.header("content-type") {
            "text/event-stream" => loop {
                let event = connection.event().await.expect("the stream ended");
                let message: Value = serde_json::from_str(&event).unwrap_or_default();
                if message.get("result").is_some() {
                    break message;
                }
            },
            _ => serde_json::from_str(&connection.body(&head).await).unwrap(),
        };
        let result = answer["result"].clone();
        match result["isError"] == true {
            true => (result["content"][0]["text"].clone(), true),
            false => (result["structuredContent"].clone(), false),
        }
    }

    async fn done(&self, tool: &str, arguments: Value) -> Value {
        let (answer, is_error) = self.call(tool, arguments).await;
        assert!(!is_error, "{tool}: {answer}");
        answer
    }

    /// The next task, if there is one within the time.
    async fn next(&self, wait_s: u64) -> Option<Value> {
        let next = self.done("task_next", json!({ "queue": "work", "wait_s": wait_s, "lease_s": 10 })).await;
        (next["found"] == true).then_some(next)
    }

    async fn finish(&self, held: &Value) -> (Value, bool) {
        let id = &held["task"]["task_id"];
        let result = json!({ "of": id, "attempt": held["attempt"] });
        self.call("task_finish", json!({ "task_id": id, "token": held["token"], "result": result })).await
    }
}

fn name(n: usize) -> String {
    format!("t{n:02}")
}

#[tokio::test]
async fn two_clients_do_a_queue_and_when_one_dies_nothing_is_lost_or_done_twice() {
    let tokens = format!("[serve.tokens]\nann = '{ANN}'\nbob = '{BOB}'\n");
    let hub = Hub::start_with(&tokens, &[("SKEP_TOKEN", OPERATOR)]);
    let (ann, bob) = (Client::begin(&hub, ANN).await, Client::begin(&hub, BOB).await);
    // Four at a time, each of which needs two of the four before it.
    let needs = |n: usize| match n {
        0..4 => Vec::new(),
        n => vec![n / 4 * 4 - 4 + n % 4, n / 4 * 4 - 4 + (n + 1) % 4],
    };
    let task = |n: usize| {
        let depends_on: Vec<String> = needs(n).into_iter().map(name).collect();
        json!({ "id": name(n), "queue": "work", "input": n, "depends_on": depends_on })
    };
    ann.done("task_submit", json!({ "tasks": (0..TASKS).rev().map(task).collect::<Vec<_>>() })).await;

    let mut done: BTreeMap<usize, u64> = BTreeMap::new();
    let mut count = |held: &Value| {
        let n = held["input"].as_u64().unwrap() as usize;
        let results: Vec<&Value> =
            held["results"].as_array().into_iter().flatten().map(|one| &one["task_id"]).collect();
        assert_eq!(results.len(), needs(n).len(), "{held}");
        assert!(needs(n).iter().all(|need| done.contains_key(need)), "{n} is early");
        assert_eq!(done.insert(n, held["attempt"].as_u64().unwrap()), None, "{n} is done twice");
    };
    for _ in 0..4 {
        for client in [&ann, &bob] {
            let held = client.next(0).await.expect("there are always two");
            let (answer, is_error) = client.finish(&held).await;
            assert!(!is_error, "{answer}");
            count(&held);
        }
    }
    // Ann gets a task and is not heard of any more. Bob goes on, and gets hers when her lease is over.
    let lost = ann.next(0).await.unwrap();
    let others = async {
        let mut again = None;
        while let Some(held) = bob.next(60).await {
            let id = held["task"]["task_id"].clone();
            let told = bob.done("task_progress", json!({ "task_id": id, "token": held["token"], "percent": 50 })).await;
            assert_eq!((&told["held"], &told["cancelled"]), (&json!(true), &json!(false)));
            let (answer, is_error) = bob.finish(&held).await;
            assert!(!is_error, "{answer}");
            if id == lost["task"]["task_id"] {
                again = Some(held["attempt"].clone());
            }
            count(&held);
            let counts = bob.done("task_list", json!({ "counts": true, "limit": 1 })).await["counts"].clone();
            if counts["completed"] == TASKS {
                break;
            }
        }
        again
    };
    assert_eq!(within(others).await, Some(json!(2)), "it was given to somebody else");
    let (late, is_error) = ann.finish(&lost).await;
    assert!(is_error && late.as_str().is_some_and(|text| text.contains("already completed")), "{late}");
    assert_eq!(done.len(), TASKS);
    assert_eq!(done.values().filter(|attempt| **attempt == 1).count(), TASKS - 1);
    let id = &lost["task"]["task_id"];
    let kept = bob.done("task_get", json!({ "task_id": id })).await;
    assert_eq!(kept["result"], json!({ "of": id, "attempt": 2 }));
    let told = ann.done("task_progress", json!({ "task_id": id, "token": lost["token"] })).await;
    assert_eq!((&told["held"], &told["cancelled"]), (&json!(false), &json!(false)));
}

#[tokio::test]
async fn tasks_are_there_over_rest_and_a_request_that_is_made_again_makes_no_second_one() {
    let hub = Hub::start_with("", &[("SKEP_TOKEN", OPERATOR)]);
    let bearer = format!("Bearer {OPERATOR}");
    let headers = [("authorization", &*bearer), ("idempotency-key", "k1"), ("content-type", "application/json")];
    let post = async |path: &str, body: Value| {
        let answer = hub.post(&format!("/api/v1{path}"), &headers[..1], body).await;
        (answer.status, answer.json())
    };
    let submit = async |title: &str| {
        let answer = hub.post("/api/v1/tasks", &headers, json!({ "title": title, "queue": "a/b" })).await;
        (answer.status, answer.json())
    };
    let (status, first) = submit("one").await;
    assert_eq!(status, 200, "{first}");
    let id = first["tasks"][0]["task_id"].as_str().unwrap();
    assert_eq!(submit("one").await.1["tasks"][0]["task_id"], id);
    let (status, refused) = submit("other").await;
    assert_eq!((status, &refused["code"]), (409, &json!("conflict")), "{refused}");

    let get = async |path: &str| {
        let answer = hub.get(&format!("/api/v1{path}"), &headers[..1]).await;
        (answer.status, answer.json())
    };
    let path = format!("/tasks/{}", id.replace(':', "%3A"));
    assert_eq!(get(&path).await.1["task"]["title"], "one");
    assert_eq!(get("/tasks/never").await.0, 404);
    assert_eq!(get("/tasks?state=pending,failed&limit=10").await.1["tasks"][0]["task_id"], id);
    assert_eq!(get("/tasks?state=lost").await.0, 422);

    let (status, next) = post("/queues/a%2Fb/next", json!({ "wait_s": 5 })).await;
    assert_eq!((status, &next["task"]["task_id"]), (200, &json!(id)), "{next}");
    let (status, _) = post(&format!("{path}/progress"), json!({ "token": next["token"], "percent": 10 })).await;
    assert_eq!(status, 200);
    let (status, finished) = post(&format!("{path}/finish"), json!({ "token": next["token"], "error": "no" })).await;
    assert_eq!((status, &finished["task"]["state"]), (200, &json!("failed")), "{finished}");
    assert_eq!(post(&format!("{path}/retry"), json!({})).await.1["reopened"], json!([id]));
    assert_eq!(post(&format!("{path}/cancel"), json!({})).await.1["task"]["state"], "cancelled");
    let (status, refused) = post(&format!("{path}/cancel"), json!({})).await;
    assert_eq!((status, &refused["output"]["reason"]), (409, &json!("cancelled")), "{refused}");
}
