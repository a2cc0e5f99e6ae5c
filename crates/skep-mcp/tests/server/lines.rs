//! Sessions and stateless requests on a connection with lines.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_mcp::{
    framing::{Memory, Pool},
    revision::Revision,
    server::{Limits, lines},
};

use crate::support::{Hub, call, connect, request, stateless};

fn elicitation() -> Value {
    json!({ "elicitation": {} })
}

#[tokio::test]
async fn every_revision_with_a_handshake_is_agreed_on_and_others_get_the_newest_of_them() {
    let hub = Hub::new(Limits::default());
    for (asked, given) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let mut client = hub.connect();
        let answer = client.initialize(asked, json!({})).await;
        assert_eq!(answer["result"]["protocolVersion"], given, "{asked}");
        assert_eq!(answer["result"]["capabilities"].get("completions").is_some(), given >= "2025-03-26", "{asked}");
        let again = client.ask(request(1, "initialize", json!({ "protocolVersion": asked }))).await;
        assert_eq!(again["error"]["code"], -32600, "{asked}");
        client.end().await.unwrap();
    }
}

#[tokio::test]
async fn what_a_revision_does_not_know_reaches_it_as_text() {
    let hub = Hub::new(Limits::default());
    for (revision, kind) in [("2024-11-05", "text"), ("2025-03-26", "audio")] {
        let mut client = hub.connect();
        client.initialize(revision, json!({})).await;
        let answer = client.ask(call(1, "test_audio_content", json!({}))).await;
        assert_eq!(answer["result"]["content"][0]["type"], kind);
        assert!(answer["result"].get("resultType").is_none());
        let missing = client.ask(request(2, "resources/read", json!({ "uri": "test://none" }))).await;
        assert_eq!(missing["error"]["code"], -32002);
    }
    let mut client = hub.connect();
    let answer = client.ask(stateless(call(1, "test_audio_content", json!({})), json!({}))).await;
    assert_eq!(
        (&answer["result"]["resultType"], &answer["result"]["content"][0]["type"]),
        (&json!("complete"), &json!("audio"))
    );
    let missing = client.ask(stateless(request(2, "resources/read", json!({ "uri": "test://none" })), json!({}))).await;
    assert_eq!(missing["error"]["code"], -32602);
}

#[tokio::test]
async fn both_eras_share_a_connection() {
    let hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    let early = client.ask(call(1, "test_simple_text", json!({}))).await;
    assert_eq!(early["error"]["code"], -32600, "neither a handshake nor metadata");
    assert_eq!(client.ask(request(2, "ping", json!({}))).await["result"], json!({}), "a ping may come first");
    let discovered = client.ask(stateless(request(3, "server/discover", json!({})), json!({}))).await;
    assert_eq!(discovered["result"]["supportedVersions"], json!(["2026-07-28"]));
    client.initialize("2025-06-18", json!({})).await;
    assert!(client.ask(call(4, "test_simple_text", json!({}))).await["result"].get("resultType").is_none());
    let removed = client.ask(stateless(request(5, "ping", json!({})), json!({}))).await;
    assert_eq!(removed["error"]["code"], -32601);
    let mut unknown = stateless(request(6, "tools/list", json!({})), json!({}));
    unknown["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2031-01-01".into();
    let unknown = client.ask(unknown).await;
    assert_eq!(unknown["error"]["code"], -32022);
    assert_eq!(unknown["error"]["data"], json!({ "supported": ["2026-07-28"], "requested": "2031-01-01" }));
}

#[tokio::test]
async fn a_withdrawn_request_is_ended_and_not_answered() {
    let mut hub = Hub::new(Limits::default());
    for is_stateless in [false, true] {
        let mut client = hub.connect();
        client.initialize("2025-11-25", json!({})).await;
        let stall = request(1, "test/stall", json!({}));
        client.send(if is_stateless { stateless(stall, json!({})) } else { stall }).await;
        hub.told("running").await;
        client
            .send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }))
            .await;
        hub.told("ended").await;
        assert_eq!(client.ask(request(2, "ping", json!({}))).await["id"], 2);
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_its_requests() {
    let mut hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    client.initialize("2025-11-25", json!({})).await;
    client.send(request(1, "test/stall", json!({ "_meta": { "progressToken": 1 } }))).await;
    hub.told("running").await;
    assert_eq!(client.next().await["params"]["progressToken"], 1);
    client.serving.abort();
    hub.told("ended").await;
}

#[tokio::test]
async fn what_was_asked_before_the_input_ended_is_still_answered() {
    let mut hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    client.initialize("2025-11-25", json!({})).await;
    client.send(request(1, "test/stall", json!({}))).await;
    hub.told("running").await;
    hub.release.add_permits(1);
    client.end().await.unwrap();
    hub.told("ended").await;
}

#[tokio::test]
async fn progress_and_log_come_before_the_result_and_only_to_those_who_want_them() {
    let hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    client.initialize("2025-06-18", json!({})).await;
    let wants = json!({ "name": "test_tool_with_progress", "_meta": { "progressToken": "p" } });
    client.send(request(1, "tools/call", wants)).await;
    for progress in [0.0, 50.0, 100.0] {
        let told = client.next().await;
        assert_eq!(told["params"], json!({ "progress": progress, "total": 100.0, "progressToken": "p" }));
    }
    assert_eq!(client.next().await["id"], 1);
    assert_eq!(client.ask(call(2, "test_tool_with_progress", json!({}))).await["id"], 2, "no token, no progress");
    client.ask(request(3, "logging/setLevel", json!({ "level": "warning" }))).await;
    assert_eq!(client.ask(call(4, "test_tool_with_logging", json!({}))).await["id"], 4, "info is less than a warning");
    client.ask(request(5, "logging/setLevel", json!({ "level": "info" }))).await;
    let told = client.ask(call(6, "test_tool_with_logging", json!({}))).await;
    assert_eq!(told["method"], "notifications/message");
}

#[tokio::test]
async fn a_session_is_asked_on_its_connection_and_its_answer_ends_the_call() {
    let hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    client.initialize("2025-06-18", elicitation()).await;
    let asked = client.ask(call(1, "test_elicitation", json!({ "message": "Who?" }))).await;
    assert_eq!((&asked["method"], &asked["params"]["message"]), (&json!("elicitation/create"), &json!("Who?")));
    let answer = client.ask(json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "decline" } })).await;
    assert_eq!(answer["result"]["content"][0]["text"], r#"User response: {"action":"decline"}"#);
    let refused = client.ask(call(2, "test_sampling", json!({ "prompt": "?" }))).await;
    assert_eq!(refused["error"]["data"], json!({ "requiredCapabilities": { "sampling": {} } }), "it was not declared");
}

#[tokio::test]
async fn a_session_answers_what_a_stateless_server_asks_in_its_results() {
    let hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    client.initialize("2025-06-18", elicitation()).await;
    client.send(call(1, "test_input_required_result_multi_round", json!({}))).await;
    for step in ["Step 1: What is your name?", "Step 2: What is your favorite color?"] {
        let asked = client.next().await;
        assert_eq!(asked["params"]["message"], step);
        client
            .send(json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "accept", "content": {} } }))
            .await;
    }
    assert_eq!(client.next().await["result"]["content"][0]["text"], "All steps are done");
}

/// What a stateless caller is asked, and the state to come back with.
async fn suspended(client: &mut crate::support::Client, id: i64) -> (String, Value) {
    let asked = client.ask(stateless(call(id, "test_elicitation", json!({ "message": "Who?" })), elicitation())).await;
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required");
    let (key, wanted) = result["inputRequests"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(wanted["params"]["message"], "Who?");
    (key.clone(), result["requestState"].clone())
}

fn repeated(id: i64, message: &str, state: &Value, responses: Value) -> Value {
    let mut again = stateless(call(id, "test_elicitation", json!({ "message": message })), elicitation());
    again["params"]["requestState"] = state.clone();
    again["params"]["inputResponses"] = responses;
    again
}

#[tokio::test]
async fn a_stateless_caller_is_asked_in_the_result_and_the_call_goes_on_when_it_is_repeated() {
    let hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    let (key, state) = suspended(&mut client, 1).await;
    let again = client.ask(repeated(2, "Who?", &state, json!({ "other": {} }))).await;
    let state = again["result"]["requestState"].clone();
    assert_eq!(again["result"]["resultType"], "input_required", "the answer is missing, so it is asked again");
    assert!(again["result"]["inputRequests"].get(&key).is_some());
    let tampered = client.ask(repeated(3, "Who else?", &state, json!({ &key: { "action": "accept" } }))).await;
    assert_eq!(tampered["error"]["code"], -32602, "other arguments");
    let mut other = hub.connect_with(
        lines::Options {
            principal: std::sync::Arc::new(skep_mcp::server::Named("other".into())),
            ..Default::default()
        },
        1 << 20,
    );
    let stolen = other.ask(repeated(4, "Who?", &state, json!({ &key: { "action": "accept" } }))).await;
    assert_eq!(stolen["error"]["code"], -32602, "another principal");
    // Another connection of the same principal: stateless requests may come on any.
    let mut elsewhere = hub.connect();
    let done = elsewhere.ask(repeated(5, "Who?", &state, json!({ &key: { "action": "accept" } }))).await;
    assert_eq!(done["result"]["content"][0]["text"], r#"User response: {"action":"accept"}"#);
    let twice = client.ask(repeated(6, "Who?", &state, json!({ &key: { "action": "accept" } }))).await;
    assert_eq!(twice["error"]["code"], -32602, "a state opens once");
}

#[tokio::test]
async fn a_server_that_is_about_to_stop_waits_for_nobodys_input() {
    let hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    let (key, state) = suspended(&mut client, 1).await;
    hub.server.stop_waiting_for_input();
    let late = client.ask(repeated(2, "Who?", &state, json!({ key: { "action": "accept" } }))).await;
    assert_eq!(late["error"]["code"], -32602, "it was given up");
    let refused = client.ask(stateless(call(3, "test_elicitation", json!({ "message": "Who?" })), elicitation())).await;
    assert_eq!(refused["error"]["code"], -31000);
    let well = client.ask(stateless(call(4, "test_simple_text", json!({})), json!({}))).await;
    assert_eq!(well["result"]["resultType"], "complete", "what needs no input is answered");
}

#[tokio::test]
async fn calls_that_wait_for_input_are_bounded_in_number_and_time() {
    let hub = Hub::new(Limits { suspended_max: 1, ..Limits::default() });
    let mut client = hub.connect();
    suspended(&mut client, 1).await;
    let refused = client.ask(stateless(call(2, "test_elicitation", json!({ "message": "Who?" })), elicitation())).await;
    assert_eq!(refused["error"]["code"], -31000);
    let hub = Hub::new(Limits { suspended_max: 1, suspended_time_max: Duration::ZERO, ..Limits::default() });
    let mut client = hub.connect();
    let (key, state) = suspended(&mut client, 1).await;
    let late = client.ask(repeated(3, "Who?", &state, json!({ key: { "action": "accept" } }))).await;
    assert_eq!(late["error"]["code"], -32602);
    suspended(&mut client, 4).await;
}

#[tokio::test]
async fn a_listener_hears_what_it_asked_for_under_its_id_until_it_withdraws() {
    let hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    let mut listen = request(0, "subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    listen["id"] = "l".into();
    let tag = json!({ "io.modelcontextprotocol/subscriptionId": "l" });
    let first = client.ask(stateless(listen, json!({}))).await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"], json!({ "notifications": { "toolsListChanged": true }, "_meta": tag }));
    client.send(stateless(call(1, "test_trigger_prompt_change", json!({})), json!({}))).await;
    assert_eq!(client.next().await["id"], 1, "prompts were not asked for");
    client.send(stateless(call(2, "test_trigger_tool_change", json!({})), json!({}))).await;
    let (one, other) = (client.next().await, client.next().await);
    let told = if one.get("method").is_some() { one } else { other };
    assert_eq!(
        told,
        json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": { "_meta": tag } })
    );
    client.send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "l" } })).await;
    client.send(stateless(call(3, "test_trigger_tool_change", json!({})), json!({}))).await;
    assert_eq!(client.next().await["id"], 3);
}

#[tokio::test]
async fn a_stopping_server_takes_its_listeners_down() {
    let hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    let listen = request(1, "subscriptions/listen", json!({ "notifications": {} }));
    client.ask(stateless(listen, json!({}))).await;
    hub.server.stop().await;
    assert!(crate::support::within(client.serving).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_batch_is_answered_at_once_where_the_revision_has_batches() {
    let hub = Hub::new(Limits::default());
    let batch = json!([
        request(1, "ping", json!({})),
        { "jsonrpc": "2.0", "method": "notifications/initialized" },
        call(2, "test_simple_text", json!({})),
        7,
        request(3, "initialize", json!({})),
    ]);
    let mut client = hub.connect();
    client.initialize("2025-03-26", json!({})).await;
    let mut answers = client.ask(batch.clone()).await.as_array().unwrap().clone();
    answers.sort_by_key(|answer| answer["id"].as_i64());
    let codes: Vec<_> =
        answers.iter().map(|answer| (answer["id"].as_i64(), answer["error"]["code"].as_i64())).collect();
    assert_eq!(codes, [(None, Some(-32600)), (Some(1), None), (Some(2), None), (Some(3), Some(-32600))]);
    let mut client = hub.connect();
    client.initialize("2025-06-18", json!({})).await;
    assert_eq!(client.ask(batch).await["error"]["code"], -32600);
}

#[tokio::test]
async fn a_connection_may_have_a_batch_method_and_callers_that_never_say_what_they_speak() {
    let options = lines::Options {
        unannounced: Some(Revision::V2025_06_18),
        has_batch_method: true,
        finish: Some(
            |method, result| if method == "ping" { serde_json::value::to_raw_value("pong").unwrap() } else { result },
        ),
        ..Default::default()
    };
    let hub = Hub::new(Limits { batch_max: 3, ..Limits::default() });
    let mut client = hub.connect_with(options, 1 << 20);
    let calls = json!([{ "method": "ping" }, { "id": 9, "method": "tools/call", "params": { "name": "none" } }]);
    let answer = client.ask(request(1, "batch", calls)).await;
    assert_eq!(answer["result"][0], json!({ "result": "pong" }));
    assert_eq!((&answer["result"][1]["id"], &answer["result"][1]["error"]["code"]), (&json!(9), &json!(-32602)));
    let ping = json!({ "method": "ping" });
    let refused = client.ask(request(2, "batch", json!([ping, ping, ping, ping]))).await;
    assert_eq!(refused["error"]["code"], -32602);
}

#[tokio::test]
async fn bad_input_is_answered_and_costs_nothing_but_itself() {
    let hub = Hub::new(Limits { message_bytes_max: 1000, ..Limits::default() });
    let mut client = hub.connect();
    let deep = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{}{}}}"#, "[".repeat(128), "]".repeat(128));
    let shallow = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":["]{}",{}{}]}}"#,
        "[".repeat(200),
        "[".repeat(126),
        "]".repeat(126)
    );
    for (text, code, id) in [
        ("hello", -32700, Value::Null),
        ("{", -32700, Value::Null),
        ("[]", -32600, Value::Null),
        ("7", -32600, Value::Null),
        (r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#, -32600, json!(7)),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600, Value::Null),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600, Value::Null),
        (r#"{"jsonrpc":"2.0","id":7,"method":7}"#, -32600, json!(7)),
        (r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":7}"#, -32600, json!(7)),
        (&deep, -32600, Value::Null),
        (&"x".repeat(5000), -32600, Value::Null),
    ] {
        client.write(&format!("{text}\n")).await;
        let answer = client.next().await;
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(code), &id), "{text:.60}");
    }
    client.write(&format!("{shallow}\n")).await;
    assert_eq!(client.next().await["result"], json!({}), "brackets within strings do not count");
    client.write("\n \r\n").await;
    client.write("{\"jsonrpc\":\"2.0\",\"id\":\"7\",\"method\":\"ping\"}\r\n").await;
    assert_eq!(client.next().await["id"], "7");
}

#[tokio::test]
async fn requests_at_once_are_bounded_and_ids_in_use_are_refused() {
    let mut hub = Hub::new(Limits { requests_at_once_max: 1, ..Limits::default() });
    let mut client = hub.connect();
    client.initialize("2025-11-25", json!({})).await;
    client.send(request(1, "test/stall", json!({}))).await;
    hub.told("running").await;
    assert_eq!(client.ask(request(1, "test/stall", json!({}))).await["error"]["code"], -32600);
    assert_eq!(client.ask(request(2, "test/stall", json!({}))).await["error"]["code"], -31000);
    hub.release.add_permits(1);
    assert_eq!(client.next().await["result"], json!({ "stalled": true }));
}

#[tokio::test]
async fn a_connection_that_takes_nothing_is_closed() {
    let hub = Hub::new(Limits { write_time_max: Duration::from_millis(500), ..Limits::default() });
    let mut client = hub.connect_with(lines::Options::default(), 512);
    client.initialize("2025-11-25", json!({})).await;
    client.send(request(1, "tools/list", json!({}))).await;
    assert_eq!(crate::support::within(client.serving).await.unwrap().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_connection_that_takes_its_answers_slowly_gets_them_as_long_as_it_takes_enough() {
    let hub = Hub::new(Limits { write_time_max: Duration::from_millis(200), ..Limits::default() });
    let mut client = hub.connect_with(lines::Options::default(), 8 << 10);
    let id = "x".repeat(100_000);
    client.send(json!({ "jsonrpc": "2.0", "id": id, "method": "ping" })).await;
    let began = Instant::now();
    let mut answer = 0;
    while answer < id.len() {
        tokio::time::sleep(Duration::from_millis(50)).await; // it is slow
        answer += client.read_some(8 << 10).await;
    }
    assert!(began.elapsed() > Duration::from_millis(500), "that is longer than it may take nothing");
}

#[tokio::test]
async fn who_listens_does_not_hold_up_the_end() {
    let hub = Hub::new(Limits::default());
    let mut client = hub.connect();
    let listen = request(1, "subscriptions/listen", json!({ "notifications": {} }));
    client.ask(stateless(listen, json!({}))).await;
    // Requests that run get twice as long.
    tokio::time::timeout(Duration::from_secs(5), client.end()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_line_that_is_begun_and_not_ended_is_not_waited_for_and_an_idle_connection_is_left_alone() {
    let hub = Hub::new(Limits { body_time_max: Duration::from_millis(50), ..Limits::default() });
    let (mut idle, mut slow) = (hub.connect(), hub.connect());
    slow.write(r#"{"jsonrpc":"2.0","#).await;
    let told = slow.next().await;
    assert_eq!((&told["error"]["code"], &told["id"]), (&json!(-32600), &Value::Null));
    assert!(told["error"]["message"].as_str().unwrap().contains("within 0.05s"), "{told}");
    crate::support::within(slow.serving).await.unwrap().unwrap();
    assert_eq!(idle.ask(request(1, "ping", json!({}))).await["result"], json!({}), "it was silent for longer");
}

#[tokio::test]
async fn large_messages_together_take_no_more_memory_than_there_is_until_they_are_answered() {
    let mut hub = Hub::new(Limits::default());
    let memory = Some(Memory { all: Pool::new(300 << 10), own: None });
    let server = hub.server.clone();
    let connect = || connect(&server, lines::Options { memory: memory.clone(), ..lines::Options::default() }, 1 << 20);
    let large = |id, method: &str| request(id, method, json!({ "padding": "x".repeat(200 << 10) }));
    for is_stateless in [false, true] {
        let (mut first, mut second) = (connect(), connect());
        let form = |message| if is_stateless { stateless(message, json!({})) } else { message };
        first.initialize("2025-11-25", json!({})).await;
        first.send(form(large(1, "test/stall"))).await;
        hub.told("running").await;
        let refused = second.ask(large(1, "ping")).await;
        assert_eq!((&refused["error"]["code"], &refused["id"]), (&json!(-31000), &Value::Null));
        assert_eq!(second.ask(request(2, "ping", json!({}))).await["result"], json!({}), "it is small");
        hub.release.add_permits(1);
        assert_eq!(first.next().await["result"]["stalled"], true);
        hub.told("ended").await;
        while second.ask(large(3, "ping")).await.get("result").is_none() {} // the task of the first lets go at its end
    }
}

#[tokio::test]
async fn what_a_caller_declares_about_itself_is_bounded() {
    let hub = Hub::new(Limits::default());
    let many = json!({ "experimental": vec![0; 40_000] });
    let refused = hub.connect().initialize("2025-11-25", many.clone()).await;
    assert_eq!(refused["error"]["code"], -32602);
    assert!(refused["error"]["message"].as_str().unwrap().contains("65536 bytes"), "{refused}");
    let refused = hub.connect().ask(stateless(request(1, "tools/list", json!({})), many)).await;
    assert_eq!(refused["error"]["code"], -32602);
    let long = json!({ "uri": "x".repeat(10_000) });
    let mut client = hub.connect();
    client.initialize("2025-11-25", json!({})).await;
    assert_eq!(client.ask(request(2, "resources/subscribe", long)).await["error"]["code"], -32602);
}

#[tokio::test]
async fn requests_above_the_rate_are_answered_at_once_and_none_is_lost() {
    let hub = Hub::new(Limits::default());
    let per_second = std::num::NonZeroU32::new(1); // so that none is given back while the test runs, or a few
    let options = lines::Options { requests_per_second_max: per_second, ..lines::Options::default() };
    let (mut client, mut other) = (hub.connect_with(options.clone(), 1 << 20), hub.connect_with(options, 1 << 20));
    let mut answers = Vec::new();
    for id in 1..=20 {
        answers.push(client.ask(request(id, "ping", json!({}))).await);
    }
    assert!(answers.iter().zip(1..).all(|(answer, id)| answer["id"] == id));
    assert_eq!(answers[0]["result"], json!({}));
    let refused = answers.iter().find(|answer| answer.get("error").is_some()).expect("twenty take no twenty seconds");
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["data"]["reason"]),
        (&json!(-31000), &json!("rate_limit"))
    );
    let wait = refused["error"]["data"]["retryAfterMs"].as_u64().unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
    assert_eq!(other.ask(request(1, "ping", json!({}))).await["result"], json!({}), "others are not held up");
}
