//! What agents share, as resources of HTTP.

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

use crate::wire::Hub;

const OPERATOR: &str = "operator-correct-horse-battery";
const ANN: &str = "ann-correct-horse-battery";
const BOB: &str = "bob-correct-horse-battery";
const MIB: usize = 1 << 20;

fn hub() -> Hub {
    let tokens = format!("[serve.tokens]\nann = '{ANN}'\nbob = '{BOB}'\n");
    Hub::start_with(&tokens, &[("SKEP_TOKEN", OPERATOR)])
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Hub {
    /// A request at a path below `/api/v1`.
    async fn api(&self, token: &str, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let url = format!("{}/api/v1{path}", self.served.url);
        let mut request = reqwest::Client::new().request(method, url).bearer_auth(token).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
    }

    /// One whose body and answer are JSON.
    async fn json(&self, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = self.api(token, method, path, &[], body).await;
        (answer.status, answer.json())
    }
}

#[tokio::test]
async fn a_file_is_written_read_and_deleted_by_its_revisions() {
    let hub = hub();
    const FILE: &str = "/workspaces/t1/files/src/a.rs";
    let as_coder = [("skep-agent", "coder"), ("if-none-match", "*")];
    let put = hub.api(ANN, Method::PUT, FILE, &as_coder, b"one\ntwo\n".to_vec()).await;
    assert_eq!((put.status, put.header("etag")), (201, "\"1\""), "{}", put.text());
    assert_eq!((&put.json()["path"], &put.json()["size"]), (&json!("src/a.rs"), &json!(8)));
    let again = hub.api(ANN, Method::PUT, FILE, &as_coder[1..], b"other".to_vec()).await;
    assert_eq!((again.status, &again.json()["code"]), (412, &json!("precondition_failed")));
    assert_eq!(again.json()["output"]["current_revision"], 1);

    let second = hub.api(BOB, Method::PUT, FILE, &[("if-match", "\"1\"")], b"one\n2\n".to_vec()).await;
    assert_eq!((second.status, second.header("etag")), (200, "\"2\""));
    let late = hub.api(ANN, Method::PUT, FILE, &[("if-match", "\"1\"")], b"ONE\ntwo\n".to_vec()).await;
    assert_eq!(late.status, 412);
    let merged = hub
        .api(ANN, Method::PUT, &format!("{FILE}?merge=true"), &[("if-match", "\"1\"")], b"zero\none\ntwo\n".to_vec())
        .await;
    assert_eq!((merged.status, &merged.json()["merged_with"]), (200, &json!(2)), "{}", merged.text());

    let got = hub.api(BOB, Method::GET, FILE, &[], Vec::new()).await;
    assert_eq!((got.status, got.text().as_str(), got.header("etag")), (200, "zero\none\n2\n", "\"3\""));
    assert_eq!(got.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(got.header("content-security-policy"), "default-src 'none'; sandbox");
    let known = hub.api(BOB, Method::GET, FILE, &[("if-none-match", "\"3\"")], Vec::new()).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let old = hub.api(BOB, Method::GET, &format!("{FILE}?revision=1"), &[], Vec::new()).await;
    assert_eq!((old.status, old.text().as_str(), old.header("etag")), (200, "one\ntwo\n", "\"1\""));
    let as_json = hub.api(BOB, Method::GET, FILE, &[("accept", "application/json")], Vec::new()).await;
    assert_eq!((&as_json.json()["content"], &as_json.json()["revision"]), (&json!("zero\none\n2\n"), &json!(3)));

    let (status, history) = hub.json(ANN, Method::GET, "/workspaces/t1/history/src/a.rs?diffs=true", Value::Null).await;
    assert_eq!((status, history["revisions"].as_array().unwrap().len()), (200, 3));
    assert_eq!(
        (&history["revisions"][2]["author"], &history["revisions"][2]["agent"]),
        (&json!("ann"), &json!("coder"))
    );
    let (_, listed) = hub.json(ANN, Method::GET, "/workspaces/t1/files?glob=*.rs&limit=10", Value::Null).await;
    assert_eq!((&listed["files"][0]["path"], &listed["files"][0]["revision"]), (&json!("src/a.rs"), &json!(3)));

    let stale = hub.api(ANN, Method::DELETE, FILE, &[("if-match", "\"2\"")], Vec::new()).await;
    assert_eq!(stale.status, 412);
    let deleted = hub.api(ANN, Method::DELETE, FILE, &[("if-match", "\"3\"")], Vec::new()).await;
    assert_eq!((deleted.status, &deleted.json()["revision"]), (200, &json!(4)));
    for (path, said) in [(FILE, "revision 4"), ("/workspaces/t1/files/none", "no such file")] {
        let gone = hub.api(ANN, Method::GET, path, &[], Vec::new()).await;
        assert_eq!(gone.status, 404);
        assert!(gone.json()["detail"].as_str().unwrap().contains(said), "{}", gone.text());
    }
    assert_eq!(hub.api(ANN, Method::GET, "/workspaces/t2/files/src/a.rs", &[], Vec::new()).await.status, 404);
}

#[tokio::test]
async fn a_file_of_exactly_10_mib_goes_both_ways_and_no_larger_one() {
    let hub = hub();
    const FILE: &str = "/workspaces/t/files/large.bin";
    let large: Vec<u8> = (0..10 * MIB).map(|n| (n * 7 % 251) as u8).collect();
    let put = hub.api(ANN, Method::PUT, FILE, &[], large.clone()).await;
    assert_eq!((put.status, &put.json()["size"]), (201, &json!(10 * MIB)), "{}", put.text());
    let got = hub.api(ANN, Method::GET, FILE, &[], Vec::new()).await;
    assert_eq!((got.status, got.header("content-type")), (200, "application/octet-stream"));
    assert!(got.body == large, "{} bytes came back", got.body.len());
    let larger = hub.api(ANN, Method::PUT, FILE, &[], vec![0; 10 * MIB + 1]).await;
    assert_eq!((larger.status, &larger.json()["code"]), (413, &json!("too_large")));
    assert_eq!(hub.api(ANN, Method::GET, FILE, &[], Vec::new()).await.header("etag"), "\"1\"", "nothing was written");
}

#[tokio::test]
async fn claims_are_taken_renewed_released_and_taken_away() {
    let hub = hub();
    let claim = json!({ "path": "src/**", "agent_id": "coder", "ttl_s": 100 });
    let (status, claimed) = hub.json(ANN, Method::POST, "/workspaces/t/claims", claim).await;
    assert_eq!((status, &claimed["path"]), (200, &json!("src/**")), "{claimed}");
    let token = claimed["token"].to_string();
    let put = async |headers: &[(&str, &str)]| {
        hub.api(BOB, Method::PUT, "/workspaces/t/files/src/a", headers, b"x".to_vec()).await
    };
    let refused = put(&[]).await;
    assert_eq!((refused.status, &refused.json()["output"]["reason"]), (409, &json!("claimed")));
    assert_eq!(put(&[("skep-claim-token", &token)]).await.status, 201);
    assert_eq!(put(&[("skep-claim-token", "seven")]).await.status, 400);

    let (_, listed) = hub.json(BOB, Method::GET, "/claims?task_id=t", Value::Null).await;
    assert_eq!((&listed["claims"][0]["principal"], &listed["claims"][0]["agent"]), (&json!("ann"), &json!("coder")));
    let one = format!("/workspaces/t/claims/{token}");
    let (status, renewed) = hub.json(ANN, Method::PATCH, &one, json!({ "ttl_s": 200 })).await;
    assert_eq!((status, renewed["expires_at"] != claimed["expires_at"]), (200, true), "{renewed}");
    assert_eq!(hub.json(BOB, Method::PATCH, &one, json!({})).await.0, 409, "it is ann's");
    assert_eq!(hub.json(BOB, Method::DELETE, &one, Value::Null).await.0, 409);
    assert_eq!(hub.json(BOB, Method::DELETE, &format!("{one}?force"), Value::Null).await.0, 403);
    let (status, released) = hub.json(OPERATOR, Method::DELETE, &format!("{one}?force=true"), Value::Null).await;
    assert_eq!((status, &released["released"]), (200, &json!(true)));
    let (status, released) = hub.json(ANN, Method::DELETE, &one, Value::Null).await;
    assert_eq!((status, &released["released"]), (200, &json!(false)), "it is over already");
}

#[tokio::test]
async fn steps_members_messages_and_memory_are_resources_too() {
    let hub = hub();
    for n in 1..=3 {
        let (status, logged) =
            hub.json(ANN, Method::POST, "/workspaces/t/steps", json!({ "message": "compiled" })).await;
        assert_eq!((status, &logged["sequence"]), (200, &json!(n)), "{logged}");
    }
    let (_, steps) = hub.json(BOB, Method::GET, "/workspaces/t/steps?after=1&limit=1", Value::Null).await;
    assert_eq!((&steps["logs"][0]["sequence"], &steps["has_more"]), (&json!(2), &json!(true)));
    let (_, none) = hub.json(BOB, Method::GET, "/steps?task_id=t&agent_id=coder", Value::Null).await;
    assert_eq!(none["logs"], json!([]), "in a query it is whose steps are wanted");

    let (status, joined) = hub.json(BOB, Method::PUT, "/workspaces/t/members/tester", json!({ "role": "tests" })).await;
    assert_eq!((status, &joined["agent_id"]), (200, &json!("tester")), "{joined}");
    let (_, members) = hub.json(ANN, Method::GET, "/workspaces/t/members", Value::Null).await;
    assert_eq!((&members["members"][0]["role"], &members["members"][0]["is_present"]), (&json!("tests"), &json!(true)));
    let message = json!({ "to": "tester", "type": "request", "body": { "test": "it" } });
    let sent = hub
        .api(ANN, Method::POST, "/workspaces/t/messages", &[("skep-agent", "coder")], message.to_string().into())
        .await;
    assert_eq!((sent.status, &sent.json()["number"]), (200, &json!(1)), "{}", sent.text());
    let read = hub
        .api(BOB, Method::GET, "/workspaces/t/messages?types=request,response", &[("skep-agent", "tester")], Vec::new())
        .await;
    assert_eq!(read.json()["messages"][0]["from"], "coder", "{}", read.text());
    let ack = json!({ "agent_id": "tester", "numbers": [1] });
    let (status, acknowledged) = hub.json(BOB, Method::POST, "/workspaces/t/messages/ack", ack).await;
    assert_eq!((status, &acknowledged["unread"]), (200, &json!(0)));
    let (_, left) = hub.json(BOB, Method::DELETE, "/workspaces/t/members/tester", Value::Null).await;
    assert_eq!(left["left"], true);

    const KEY: &str = "/memory/build/flags";
    let stored =
        hub.api(ANN, Method::PUT, KEY, &[("if-none-match", "*")], br#"{"value": ["-O2"], "ttl": 60}"#.to_vec()).await;
    assert_eq!(stored.status, 200, "{}", stored.text());
    let tag = stored.header("etag").to_owned();
    let again = hub.api(BOB, Method::PUT, KEY, &[("if-none-match", "*")], br#"{"value": 1}"#.to_vec()).await;
    assert_eq!((again.status, &again.json()["output"]["current_value"]), (412, &json!(["-O2"])), "{}", again.text());
    let got = hub.api(BOB, Method::GET, KEY, &[], Vec::new()).await;
    assert_eq!((&got.json()["value"], got.header("etag")), (&json!(["-O2"]), &*tag));
    assert_eq!(hub.api(BOB, Method::GET, KEY, &[("if-none-match", &tag)], Vec::new()).await.status, 304);
    let (_, found) = hub.json(BOB, Method::GET, "/memory?q=flags", Value::Null).await;
    assert_eq!(found["entries"][0]["key"], "build/flags", "{found}");
    let (_, listed) = hub.json(BOB, Method::GET, "/memory?prefix=build/", Value::Null).await;
    assert_eq!(listed["entries"][0]["key"], "build/flags", "{listed}");
    assert_eq!(
        hub.json(BOB, Method::GET, "/workspaces/t/memory/build/flags", Value::Null).await.0,
        404,
        "it is the team's"
    );
    let deleted = hub.api(BOB, Method::DELETE, KEY, &[("if-match", &tag)], Vec::new()).await;
    assert_eq!((deleted.status, &deleted.json()["deleted"]), (200, &json!(true)));
    assert_eq!(hub.json(BOB, Method::GET, KEY, Value::Null).await.0, 404);
}

#[tokio::test]
async fn strange_paths_and_arguments_get_clear_problems() {
    let hub = hub();
    let bearer = format!("Bearer {ANN}");
    let get = async |path: &str| {
        let answer = hub.get(path, &[("authorization", &bearer)]).await;
        (answer.status, answer.json()["code"].as_str().unwrap().to_owned())
    };
    let files = "/api/v1/workspaces/t/files";
    for (path, status, code) in [
        ("/..", 422, "invalid_arguments"),
        ("/a/../b", 422, "invalid_arguments"),
        ("/%2e%2e/b", 422, "invalid_arguments"),
        ("/a%00b", 422, "invalid_arguments"),
        ("//etc/passwd", 422, "invalid_arguments"),
        ("/%2Fetc/passwd", 422, "invalid_arguments"),
        ("/a%E2%80%8Bb", 422, "invalid_arguments"), // an invisible character
        ("/a%ff", 400, "bad_request"),
        ("/a%zz", 400, "bad_request"),
        ("/a%2", 400, "bad_request"),
        ("/a?revision=x", 400, "bad_request"),
        ("/a?colour=red", 400, "bad_request"),
        ("/a?revision=1&revision=2", 400, "bad_request"),
        ("/a?task_id=other", 400, "bad_request"),
        ("/src%2Fa", 404, "not_found"), // another way to write `src/a`, which is not there
        ("?limit=0", 422, "invalid_arguments"),
        ("?limit=many", 422, "invalid_arguments"),
        ("?glob=[a", 422, "invalid_arguments"),
    ] {
        assert_eq!(get(&format!("{files}{path}")).await, (status, code.to_owned()), "{path}");
    }
    assert_eq!(get("/api/v1/workspaces//files/a").await, (422, "invalid_arguments".to_owned()), "no task has no name");
    assert_eq!(get("/api/v1/claims").await, (422, "invalid_arguments".to_owned()), "of which task?");
    for (body, status) in [
        (json!({ "message": "x", "task_id": "other" }), 400),
        (json!({ "message": "x", "taskId": "other" }), 422),
        (json!(["x"]), 400),
        (json!({}), 422),
    ] {
        assert_eq!(hub.json(ANN, Method::POST, "/workspaces/t/steps", body.clone()).await.0, status, "{body}");
    }
    let wrong = hub.api(ANN, Method::POST, "/workspaces/t/files", &[], Vec::new()).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, "GET,HEAD"));
}

#[tokio::test]
async fn whoever_may_not_is_refused_at_every_resource() {
    let hub = hub();
    let bearer = format!("Bearer {ANN}");
    let own = ("authorization", bearer.as_str());
    let answer = async |path: &str, headers: &[(&str, &str)]| {
        let answer = hub.get(path, headers).await;
        (answer.status, answer.json()["code"].as_str().unwrap().to_owned())
    };
    for path in ["files", "files/a", "history/a", "claims", "steps", "members", "messages", "memory", "memory/k"] {
        let path = format!("/api/v1/workspaces/t/{path}");
        assert_eq!(answer(&path, &[]).await, (401, "unauthorized".to_owned()), "{path}");
        assert_eq!(
            answer(&path, &[("authorization", "Bearer wrong")]).await,
            (401, "unauthorized".to_owned()),
            "{path}"
        );
        let foreign = [own, ("origin", "https://elsewhere.example")];
        assert_eq!(answer(&path, &foreign).await, (403, "origin_not_allowed".to_owned()), "{path}");
    }
    let mut connection = hub.connect().await;
    let head = format!(
        "GET /api/v1/workspaces/t/files HTTP/1.1\r\nhost: elsewhere.example\r\nauthorization: {bearer}\r\n\r\n"
    );
    connection.write(&head).await.unwrap();
    let refused = connection.answer().await.unwrap();
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("host_not_allowed")));
}

#[tokio::test]
async fn two_hundred_that_wait_keep_nobody_from_working() {
    const WAITING: usize = 200;
    let settings = format!("[serve]\ncalls_at_once = 4\n[serve.tokens]\nann = '{ANN}'\nbob = '{BOB}'\n");
    let hub = Hub::start_with(&settings, &[("SKEP_TOKEN", OPERATOR)]);
    let claim = |path: &str, wait: u32| json!({ "path": path, "ttl_s": 600, "wait_s": wait });
    let (_, held) = hub.json(OPERATOR, Method::POST, "/workspaces/t/claims", claim("a", 0)).await;
    let waiting = futures_util::future::join_all(
        (0..WAITING).map(|_| hub.json(BOB, Method::POST, "/workspaces/t/claims", claim("a", 200))),
    );
    let list = async || {
        let (_, listed) = hub.json(ANN, Method::GET, "/workspaces/t/claims", Value::Null).await;
        listed["claims"].as_array().unwrap().clone()
    };
    let work = async {
        while list().await.iter().filter(|claim| claim["state"] == "waiting").count() < WAITING {}
        for n in 1..=10 {
            let (status, logged) = hub.json(BOB, Method::POST, "/workspaces/t/steps", json!({ "message": "on" })).await;
            assert_eq!((status, &logged["sequence"]), (200, &json!(n)), "even of the one whose calls wait");
        }
        let bearer = format!("Bearer {OPERATOR}");
        let health = hub.get("/health", &[("authorization", &bearer)]).await.json();
        assert_eq!(health["calls_waiting"], 0, "{health}");
        // The next is granted as soon as the one before is released.
        let (mut token, mut by) = (held["token"].as_i64().unwrap(), OPERATOR);
        for _ in 0..3 {
            let path = format!("/workspaces/t/claims/{token}");
            assert_eq!(hub.json(by, Method::DELETE, &path, Value::Null).await.1["released"], true);
            (token, by) = loop {
                if let Some(held) = list().await.iter().find(|claim| claim["state"] == "held") {
                    break (held["token"].as_i64().unwrap(), BOB);
                }
            };
        }
    };
    tokio::select! {
        granted = waiting => panic!("nobody released so many: {granted:?}"),
        () = crate::wire::within(work) => {}
    }
}
