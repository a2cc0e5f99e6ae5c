//! Servers behind a gateway, for every pair of eras.

use std::sync::Arc;

use serde_json::{Value, json, value::RawValue};
use skep_mcp::{
    gateway::{Backend, Gateway, Kind, List, Lists, Origin, Wanted},
    message::ErrorObject,
    revision::Revision,
    server::{
        BoxFuture, Call, Caller, Change, Description, Limits, Outcome, Peer, Server, Service, Watch, code, lines,
    },
};
use tokio::sync::broadcast;

use crate::support::{Client, Hub, call, request, stateless};

const UPSTREAMS: [Revision; 3] = [Revision::V2024_11_05, Revision::V2025_11_25, Revision::V2026_07_28];

fn can_ask() -> Value {
    json!({ "elicitation": {}, "sampling": {}, "roots": {} })
}

/// A caller of either era.
struct Agent {
    client: Client,
    is_stateless: bool,
    last: i64,
}

impl Agent {
    async fn connect(hub: &Hub, is_stateless: bool) -> Agent {
        let mut client = hub.connect();
        if !is_stateless {
            client.initialize("2025-11-25", can_ask()).await;
        }
        Agent { client, is_stateless, last: 0 }
    }

    async fn send(&mut self, method: &str, params: Value) {
        self.last += 1;
        let mut message = request(self.last, method, params);
        if self.is_stateless {
            let kept = message["params"]["_meta"].take();
            message = stateless(message, can_ask());
            for (name, value) in kept.as_object().into_iter().flatten() {
                message["params"]["_meta"][name] = value.clone();
            }
        }
        self.client.send(message).await;
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.send(method, params).await;
        self.client.next().await
    }

    /// Call a tool, and answer whatever is asked on the way. Gives the messages of all questions, and the answer.
    async fn converse(&mut self, params: Value, answer: impl Fn(&Value) -> Value) -> (Vec<String>, Value) {
        let mut asked = Vec::new();
        let mut message = self.ask("tools/call", params.clone()).await;
        loop {
            if message.get("method").is_some() {
                asked.push(message["method"].as_str().unwrap().to_owned());
                let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": answer(&message) });
                message = self.client.ask(answer).await;
            } else if message["result"]["resultType"] == "input_required" {
                let mut repeated = params.clone();
                for (key, wanted) in message["result"]["inputRequests"].as_object().unwrap() {
                    asked.push(wanted["method"].as_str().unwrap().to_owned());
                    repeated["inputResponses"][key] = answer(wanted);
                }
                repeated["requestState"] = message["result"]["requestState"].clone();
                message = self.ask("tools/call", repeated).await;
            } else {
                asked.sort();
                return (asked, message);
            }
        }
    }
}

/// For every era of callers and every revision of the server behind the gateway.
async fn for_each_pair(test: impl AsyncFn(&Hub, Agent, &str)) {
    for revision in UPSTREAMS {
        let hub = Hub::behind_gateway(&["one", "two"], revision).await;
        for is_stateless in [false, true] {
            let pair = format!("stateless caller: {is_stateless}, server: {}", revision.as_str());
            let agent = Agent::connect(&hub, is_stateless).await;
            test(&hub, agent, &pair).await;
        }
    }
}

fn names(list: &Value, items: &str) -> Vec<String> {
    let items = list["result"][items].as_array().unwrap();
    items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn tools_of_all_servers_are_listed_by_their_names_in_one_order() {
    for_each_pair(async |_, mut agent, pair| {
        let list = agent.ask("tools/list", json!({})).await;
        let tools = names(&list, "tools");
        let of = |server: &str| tools.iter().filter_map(|name| name.strip_prefix(server)).collect::<Vec<_>>();
        assert!(tools.is_sorted() && of("one__") == of("two__"), "{pair}: {tools:?}");
        assert_eq!(tools.len(), of("one__").len() * 2, "{pair}: {tools:?}");
        assert!(
            tools.contains(&"one__test_simple_text".to_owned()) && tools.contains(&"two__test_simple_text".to_owned())
        );
        let again = agent.ask("tools/list", json!({})).await;
        assert_eq!(list["result"]["tools"], again["result"]["tools"], "{pair}");
        let schema = list["result"]["tools"]
            .as_array()
            .unwrap()
            .iter()
            .find(|tool| tool["name"] == "one__json_schema_2020_12_tool");
        assert_eq!(schema.unwrap()["inputSchema"]["$defs"]["address"]["$anchor"], "addressDef", "{pair}");
        let uris: Vec<Value> =
            agent.ask("resources/list", json!({})).await["result"]["resources"].as_array().unwrap().clone();
        assert_eq!(uris.len(), 3, "{pair}: the first server has them");
        assert_eq!(
            agent.ask("resources/templates/list", json!({})).await["result"]["resourceTemplates"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert_eq!(names(&agent.ask("prompts/list", json!({})).await, "prompts").len(), 10, "{pair}");
    })
    .await;
}

#[tokio::test]
async fn what_is_called_reaches_its_server_and_comes_back_whole() {
    for_each_pair(async |_, mut agent, pair| {
        let image = agent.ask("tools/call", json!({ "name": "two__test_image_content" })).await;
        assert_eq!(image["result"]["content"][0]["mimeType"], "image/png", "{pair}");
        let failed = agent.ask("tools/call", json!({ "name": "one__test_error_handling" })).await;
        assert_eq!(failed["result"]["isError"], true, "{pair}");
        for unknown in ["one__none", "three__test_simple_text", "test_simple_text", "__", ""] {
            let answer = agent.ask("tools/call", json!({ "name": unknown })).await;
            assert_eq!(answer["error"]["code"], -32602, "{pair}: {unknown}");
        }
        let prompt = agent.ask("prompts/get", json!({ "name": "one__test_simple_prompt" })).await;
        assert_eq!(
            prompt["result"]["messages"][0]["content"]["text"], "This is a simple prompt for testing.",
            "{pair}"
        );
        let data = agent.ask("resources/read", json!({ "uri": "test://template/7/data" })).await;
        assert_eq!(data["result"]["contents"][0]["uri"], "test://template/7/data", "{pair}");
        let missing = agent.ask("resources/read", json!({ "uri": "test://none" })).await;
        let code = if agent.is_stateless { -32602 } else { -32002 };
        assert_eq!(
            (&missing["error"]["code"], &missing["error"]["data"]["uri"]),
            (&json!(code), &json!("test://none")),
            "{pair}"
        );
        let about = json!({ "type": "ref/prompt", "name": "two__test_prompt_with_arguments" });
        let complete = agent
            .ask("completion/complete", json!({ "ref": about, "argument": { "name": "arg1", "value": "pa" } }))
            .await;
        assert_eq!(complete["result"]["completion"]["values"][0], "paris", "{pair}");
    })
    .await;
}

#[tokio::test]
async fn progress_and_log_messages_come_through_under_the_callers_token() {
    for_each_pair(async |_, mut agent, pair| {
        let meta = json!({ "progressToken": "mine", "io.modelcontextprotocol/logLevel": "info" });
        agent.send("tools/call", json!({ "name": "one__test_tool_with_progress", "_meta": meta })).await;
        for progress in [0.0, 50.0, 100.0] {
            let told = agent.client.next().await;
            assert_eq!(
                (&told["params"]["progressToken"], &told["params"]["progress"]),
                (&json!("mine"), &json!(progress)),
                "{pair}"
            );
        }
        assert!(agent.client.next().await.get("result").is_some(), "{pair}");
        agent.send("tools/call", json!({ "name": "one__test_tool_with_logging", "_meta": meta })).await;
        for _ in 0..3 {
            assert_eq!(agent.client.next().await["params"]["logger"], "fixture", "{pair}");
        }
        assert!(agent.client.next().await.get("result").is_some(), "{pair}");
    })
    .await;
}

#[tokio::test]
async fn whatever_a_server_asks_is_asked_of_the_caller_in_its_own_way() {
    let answer = |asked: &Value| match asked["method"].as_str().unwrap() {
        "roots/list" => json!({ "roots": [{ "uri": "file:///a" }] }),
        "sampling/createMessage" => {
            json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Paris" } })
        }
        _ => json!({ "action": "accept", "content": { "name": "Ada", "username": "ada" } }),
    };
    for_each_pair(async |_, mut agent, pair| {
        // By a request of the server's own, where its revision has such; otherwise it has to ask in its result.
        let (asked, done) =
            agent.converse(json!({ "name": "one__test_elicitation", "arguments": { "message": "?" } }), answer).await;
        assert_eq!(asked, ["elicitation/create"], "{pair}");
        assert!(done["result"]["content"][0]["text"].as_str().unwrap().contains("ada"), "{pair}: {done}");
        let (asked, done) =
            agent.converse(json!({ "name": "two__test_sampling", "arguments": { "prompt": "?" } }), answer).await;
        assert_eq!(asked, ["sampling/createMessage"], "{pair}");
        assert_eq!(done["result"]["content"][0]["text"], "LLM response: Paris", "{pair}");
        let (asked, done) =
            agent.converse(json!({ "name": "one__test_input_required_result_multiple_inputs" }), answer).await;
        assert_eq!(asked, ["elicitation/create", "roots/list", "sampling/createMessage"], "{pair}");
        assert_eq!(done["result"]["content"][0]["text"], "Everything is there", "{pair}");
        let (asked, done) =
            agent.converse(json!({ "name": "one__test_input_required_result_multi_round" }), answer).await;
        assert_eq!(asked.len(), 2, "{pair}");
        assert_eq!(done["result"]["content"][0]["text"], "All steps are done", "{pair}");
    })
    .await;
}

#[tokio::test]
async fn a_question_has_the_servers_own_name_for_it_whatever_revisions_lie_between() {
    for revision in UPSTREAMS {
        for is_stateless in [false, true] {
            let pair = format!("stateless caller: {is_stateless}, server: {}", revision.as_str());
            let hub = Hub::behind_gateway(&["one"], revision).await;
            let mut agent = Agent::connect(&hub, is_stateless).await;
            let call = json!({ "name": "one__test_input_required_result_elicitation" });
            let asked = agent.ask("tools/call", call.clone()).await;
            if is_stateless {
                assert!(asked["result"]["inputRequests"]["user_name"].is_object(), "{pair}: {asked}");
            } else {
                assert_eq!(asked["id"], "user_name", "{pair}");
                let answer = json!({ "action": "accept", "content": { "name": "Ada" } });
                let answer = json!({ "jsonrpc": "2.0", "id": "user_name", "result": answer });
                let done = agent.client.ask(answer).await;
                assert_eq!(done["result"]["content"][0]["text"], "Hello, Ada!", "{pair}");
                // No request of a session has the id of an earlier one.
                let again = agent.ask("tools/call", call).await;
                assert!(again["method"] == "elicitation/create" && again["id"] != "user_name", "{pair}: {again}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_may_not_ask_what_the_caller_did_not_declare() {
    for revision in UPSTREAMS {
        let hub = Hub::behind_gateway(&["one"], revision).await;
        let mut client = hub.connect();
        client.initialize("2025-11-25", json!({})).await;
        let refused = client.ask(call(1, "one__test_sampling", json!({ "prompt": "?" }))).await;
        assert!(refused["error"]["message"].as_str().unwrap().contains("sampling"), "{}: {refused}", revision.as_str());
        // An older server has an error of its own for a question that was refused; a stateless caller hears the cause.
        let mut client = hub.connect();
        let refused = client.ask(stateless(call(1, "one__test_sampling", json!({ "prompt": "?" })), json!({}))).await;
        assert_eq!(refused["error"]["code"], -32021, "{}: {refused}", revision.as_str());
        assert_eq!(
            refused["error"]["data"]["requiredCapabilities"],
            json!({ "sampling": {} }),
            "{}",
            revision.as_str()
        );
    }
}

#[tokio::test]
async fn a_call_that_waits_for_input_is_not_taken_for_the_one_that_asks() {
    let hub = Hub::behind_gateway(&["one"], Revision::V2025_11_25).await;
    let mut waiting = Agent::connect(&hub, true).await;
    let asked =
        waiting.ask("tools/call", json!({ "name": "one__test_elicitation", "arguments": { "message": "?" } })).await;
    assert_eq!(asked["result"]["resultType"], "input_required");
    let mut agent = Agent::connect(&hub, false).await;
    let answer = |_: &Value| json!({ "action": "decline" });
    let params = json!({ "name": "one__test_elicitation", "arguments": { "message": "?" } });
    let (asked, done) = agent.converse(params, answer).await;
    assert_eq!(asked, ["elicitation/create"], "{done}");
}

#[tokio::test]
async fn a_question_that_may_belong_to_either_of_two_principals_goes_to_none() {
    let hub = Hub::behind_gateway(&["one"], Revision::V2025_11_25).await;
    let mut waiting = Agent::connect(&hub, true).await;
    let params = json!({ "name": "one__test_elicitation", "arguments": { "message": "?" } });
    let asked = waiting.ask("tools/call", params.clone()).await;
    assert_eq!(asked["result"]["resultType"], "input_required");
    let options = lines::Options {
        principal: std::sync::Arc::new(skep_mcp::server::Named("somebody else".into())),
        ..lines::Options::default()
    };
    let mut agent = Agent { client: hub.connect_with(options, 1 << 20), is_stateless: true, last: 0 };
    let refused = agent.ask("tools/call", params).await;
    assert!(refused["error"]["message"].as_str().is_some_and(|message| message.contains("elicitation")), "{refused}");
}

#[tokio::test]
async fn a_change_behind_the_gateway_is_told_and_the_list_is_read_again() {
    for_each_pair(async |_, mut agent, pair| {
        agent.ask("tools/list", json!({})).await;
        if agent.is_stateless {
            let listen = json!({ "notifications": { "toolsListChanged": true } });
            assert_eq!(
                agent.ask("subscriptions/listen", listen).await["method"],
                "notifications/subscriptions/acknowledged"
            );
        }
        agent.send("tools/call", json!({ "name": "two__test_trigger_tool_change" })).await;
        let mut told = false;
        while !told {
            told = agent.client.next().await["method"] == "notifications/tools/list_changed";
        }
        assert!(told, "{pair}");
    })
    .await;
}

// ---- servers that are not as they should be

/// Lists many tools, or does not answer.
struct Odd {
    tools: Option<usize>,
    changes: broadcast::Sender<Change>,
    lists: Lists,
}

impl Odd {
    fn origin(name: &str, tools: Option<usize>) -> Origin {
        let service = Arc::new(Odd { tools, changes: broadcast::channel(1).0, lists: Lists::default() });
        Origin { name: name.to_owned(), service, lists_tools: true }
    }
}

impl Service for Odd {
    fn describe(&self) -> Description {
        Description { info: json!({}), capabilities: json!({}), instructions: None }
    }

    fn handle(self: Arc<Self>, call: Call, _: Peer) -> BoxFuture<Outcome> {
        Box::pin(async move {
            let Some(tools) = self.tools else { return Err(ErrorObject::new(code::INTERNAL_ERROR, "broken")) };
            assert_eq!((&*call.method, tools > 0), ("tools/call", true));
            Ok(RawValue::from_string("{\"content\":[]}".to_owned()).unwrap())
        })
    }

    fn watch(self: Arc<Self>, _: String, _: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async { Err(ErrorObject::new(code::INVALID_PARAMS, "no")) })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

impl Backend for Odd {
    fn list(self: Arc<Self>, kind: Kind, _: Arc<Caller>) -> BoxFuture<Result<Arc<List>, ErrorObject>> {
        Box::pin(async move {
            let Some(tools) = self.tools else { return Err(ErrorObject::new(code::INTERNAL_ERROR, "broken")) };
            let mut reading = match self.lists.want(kind).await {
                Wanted::Known(list) => return Ok(list),
                Wanted::Unknown(reading) => reading,
            };
            while let Some(params) = reading.next_page() {
                let params: Value = serde_json::to_value(&params).unwrap();
                let from = params["cursor"].as_str().map_or(0, |cursor| cursor.parse().unwrap());
                let tool = |n| json!({ "name": format!("t{n}"), "inputSchema": {} });
                let mut page = json!({ "tools": (from..tools.min(from + 700)).map(tool).collect::<Vec<Value>>() });
                if from + 700 < tools {
                    page["nextCursor"] = (from + 700).to_string().into();
                }
                reading.add(&serde_json::value::to_raw_value(&page).unwrap()).unwrap();
            }
            Ok(reading.keep(false))
        })
    }
}

fn server(origins: Vec<Origin>) -> Hub {
    let gateway = Gateway::new(Description { info: json!({}), capabilities: json!({}), instructions: None });
    gateway.set(origins);
    Hub { server: Server::new(Arc::new(gateway), Limits::default()), ..Hub::new(Limits::default()) }
}

#[tokio::test]
async fn long_lists_come_in_pages_and_one_bad_server_is_only_missing() {
    let hub = server(vec![Odd::origin("many", Some(1500)), Odd::origin("broken", None), Odd::origin("few", Some(3))]);
    let mut agent = Agent::connect(&hub, true).await;
    let (mut all, mut cursor) = (Vec::new(), json!({}));
    loop {
        let page = agent.ask("tools/list", cursor).await;
        all.extend(names(&page, "tools"));
        match page["result"].get("nextCursor") {
            Some(next) => cursor = json!({ "cursor": next }),
            None => break,
        }
    }
    assert_eq!(all.len(), 1500 + 3);
    assert!(all.is_sorted(), "each once, and in order");
    let bad = agent.ask("tools/list", json!({ "cursor": "nonsense" })).await;
    assert_eq!(bad["error"]["code"], -32602);
    assert!(agent.ask("tools/call", json!({ "name": "many__t1" })).await.get("result").is_some());
    assert_eq!(agent.ask("tools/call", json!({ "name": "broken__x" })).await["error"]["message"], "broken");
}
