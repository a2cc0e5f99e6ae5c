//! Who knows which token, and what that keeps apart.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    support::User,
    wire::{Answer, Http, Hub, Lines, call, initialize, request, stateless, within},
};

const OPERATOR: &str = "operator-correct-horse-battery";
const ANN: &str = "ann-correct-horse-battery";
const BOB: &str = "bob-correct-horse-battery";
const TASKS: &str = "io.modelcontextprotocol/tasks";

/// A server of an older revision: `pid` tells who it is, `hang` never answers and says that it was called, `ask` asks its
/// caller.
const SERVER: &str = r#"
import json, os, sys
def say(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
asks = None
for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message.get("method"), message.get("id"), message.get("params", {})
    done = lambda id, text: say(id=id, result={"content": [{"type": "text", "text": text}]})
    if method is None and asks is not None:
        done(asks, json.dumps(message.get("result") or message.get("error")))
        asks = None
    elif method == "initialize":
        say(id=id, result={"protocolVersion": "2025-06-18", "serverInfo": {"name": "s", "version": "1"}, "capabilities": {"tools": {}}})
    elif method == "tools/list":
        say(id=id, result={"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ["pid", "hang", "ask"]]})
    elif method == "tools/call":
        if params["name"] == "pid": done(id, str(os.getpid()))
        if params["name"] == "hang": open("hangs", "w").close()
        if params["name"] == "ask":
            asks = id
            form = {"type": "object", "properties": {"secret": {"type": "string"}}}
            say(id="question", method="elicitation/create", params={"message": "?", "requestedSchema": form})
"#;

fn hub(more: &str) -> Hub {
    let servers = ["shared", "own"].map(|name| {
        let exclusive = name == "own";
        format!("[mcpServers.{name}]\ncommand = 'python3'\nargs = ['-c', '''{SERVER}''']\nexclusive = {exclusive}\n")
    });
    let settings =
        format!("[serve]\n{more}\n[serve.tokens]\nann = '${{ANN_TOKEN}}'\nbob = '{BOB}'\n{}{}", servers[0], servers[1]);
    Hub::start_with(&settings, &[("SKEP_TOKEN", OPERATOR), ("ANN_TOKEN", ANN)])
}

/// Somebody who knows a token.
struct Person<'a> {
    hub: &'a Hub,
    token: &'static str,
}

impl Person<'_> {
    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let headers = [headers, &[("authorization", &bearer), ("accept", "application/json")]].concat();
        self.hub.post(path, &headers, body).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let bearer = format!("Bearer {}", self.token);
        let headers = [headers, &[("authorization", &*bearer)]].concat();
        let mut connection = self.hub.connect().await;
        connection.send(method, path, &headers, "").await.unwrap();
        connection.head().await.unwrap().status
    }

    /// A stateless request.
    async fn ask(&self, message: Value) -> Value {
        let capabilities = json!({ "elicitation": {}, "extensions": { TASKS: {} } });
        let (message, headers) = stateless(message, capabilities);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.post("/mcp", &headers, &message).await.json()
    }

    /// Listen for changes, on a connection that ends with that.
    async fn listen(&self) -> Http {
        let wanted = json!({ "notifications": { "toolsListChanged": true } });
        let (message, headers) = stateless(request(1, "subscriptions/listen", wanted), json!({}));
        let (mut connection, bearer) = (self.hub.connect().await, format!("Bearer {}", self.token));
        let own = [("authorization", bearer.as_str()), ("accept", "text/event-stream"), ("connection", "close")];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).chain(own).collect();
        connection.send("POST", "/mcp", &headers, &message.to_string()).await.unwrap();
        assert_eq!(connection.head().await.unwrap().status, 200);
        let acknowledged = connection.event().await.unwrap();
        assert!(acknowledged.contains("acknowledged"), "{acknowledged}");
        connection
    }

    /// A call that becomes a task.
    async fn begin(&self) -> String {
        let answer = self.ask(call(1, "shared__hang", json!({}))).await;
        answer["result"]["taskId"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    async fn task(&self, method: &str, id: &str) -> Value {
        self.ask(request(1, method, json!({ "taskId": id, "inputResponses": {} }))).await
    }

    async fn lines(&self) -> Lines {
        let mut lines = self.hub.lines().await;
        let opened = lines.ask(request(0, "authenticate", json!({ "token": self.token }))).await;
        assert_eq!(opened["result"]["status"], "ok");
        lines
    }
}

impl Hub {
    fn person(&self, token: &'static str) -> Person<'_> {
        Person { hub: self, token }
    }

    /// Wait for what the server leaves in the workspace.
    async fn hangs(&self) {
        let began = Instant::now();
        while !self.user.workspace().join("hangs").exists() {
            assert!(began.elapsed() < Duration::from_secs(60), "it was never called");
            tokio::time::sleep(Duration::from_millis(5)).await; // the file has no signal of its own
        }
    }
}

#[tokio::test]
async fn a_session_is_its_principals_at_every_listener() {
    let hub = hub("");
    let (ann, bob) = (hub.person(ANN), hub.person(BOB));
    let opened = ann.post("/mcp", &[], &initialize("2025-11-25")).await;
    let session = opened.header("mcp-session-id").to_owned();
    let session = [("mcp-session-id", session.as_str()), ("accept", "text/event-stream")];
    let ping = request(1, "ping", json!({}));
    assert_eq!(bob.post("/mcp", &session[..1], &ping).await.status, 404);
    assert_eq!(bob.send("GET", "/mcp", &session).await, 404);
    assert_eq!(bob.send("DELETE", "/mcp", &session).await, 404);
    assert_eq!(hub.person(OPERATOR).post("/mcp", &session[..1], &ping).await.status, 404, "no less the operator");
    assert_eq!(ann.post("/mcp", &session[..1], &ping).await.json()["result"], json!({}));

    let mut stream = hub.connect().await;
    let bearer = format!("Bearer {ANN}");
    stream.send("GET", "/sse", &[("authorization", &bearer)], "").await.unwrap();
    stream.head().await.unwrap();
    let address = stream.event().await.unwrap();
    assert_eq!(bob.post(&address, &[], &initialize("2024-11-05")).await.status, 404);
    assert_eq!(ann.post(&address, &[], &initialize("2024-11-05")).await.status, 202);
}

#[tokio::test]
async fn a_task_is_its_principals_at_every_listener_and_is_counted() {
    let hub = hub("task_after = '50ms'");
    let (ann, bob) = (hub.person(ANN), hub.person(BOB));
    let task = ann.begin().await;
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let refused = bob.task(method, &task).await;
        assert_eq!(refused["error"]["code"], -32602, "{method}: {refused}");
    }
    let mut lines = ann.lines().await;
    let (get, _) =
        stateless(request(2, "tasks/get", json!({ "taskId": task })), json!({ "extensions": { TASKS: {} } }));
    assert_eq!(lines.ask(get).await["result"]["status"], "working");
    let metrics = async || {
        let mut connection = hub.connect().await;
        connection.send("GET", "/metrics", &[("authorization", &format!("Bearer {OPERATOR}"))], "").await.unwrap();
        connection.answer().await.unwrap().body
    };
    let running = metrics().await;
    assert!(running.contains("skep_mcp_tasks_created_total 1\n") && running.contains("skep_mcp_tasks_running 1\n"));
    for _ in 0..2 {
        ann.task("tasks/cancel", &task).await;
    }
    assert_eq!(ann.task("tasks/get", &task).await["result"]["status"], "cancelled");
    let ended = metrics().await;
    assert!(ended.contains("skep_mcp_tasks_ended_total{state=\"cancelled\"} 1\n"), "{ended}");
    assert!(ended.contains("skep_mcp_tasks_running 0\n"), "{ended}");
    for principal in ["ann", "bob", "local"] {
        assert!(ended.contains(&format!("skep_authenticated_total{{principal=\"{principal}\"}}")), "{ended}");
    }
}

#[tokio::test]
async fn a_question_of_a_server_is_never_given_to_one_of_two_principals() {
    let hub = hub("task_after = '1h'");
    let (ann, bob) = (hub.person(ANN), hub.person(BOB));
    let ask = || ann.ask(call(1, "shared__ask", json!({})));
    let asked = ask().await;
    assert_eq!(asked["result"]["resultType"], "input_required", "she is the only one: {asked}");
    let state = &asked["result"]["requestState"];
    let key = asked["result"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let mut again = call(2, "shared__ask", json!({}));
    again["params"]["requestState"] = state.clone();
    again["params"]["inputResponses"] = json!({ key: { "action": "accept", "content": { "secret": "hers" } } });
    let stolen = bob.ask(again.clone()).await;
    assert_eq!(stolen["error"]["code"], -32602, "what waits is hers: {stolen}");
    let done = ann.ask(again).await;
    assert!(done["result"]["content"][0]["text"].as_str().unwrap().contains("hers"), "{done}");

    let is_refused = async || {
        let refused = ask().await;
        let text = refused["result"]["content"][0]["text"].as_str().unwrap_or_default();
        assert!(text.contains("code"), "the server is refused its question: {refused}");
    };
    let mut lines = bob.lines().await;
    lines.write(&format!("{}\n", call(1, "shared__hang", json!({})))).await.unwrap();
    hub.hangs().await;
    is_refused().await;
    drop(lines);
    is_refused().await; // the server may go on with what was withdrawn
}

#[tokio::test]
async fn a_question_may_be_meant_for_a_caller_that_speaks_no_mcp() {
    let hub = hub("task_after = '1h'");
    let bearer = format!("Bearer {BOB}");
    let mut rest = hub.connect().await;
    rest.send("POST", "/tools/shared__hang", &[("authorization", &bearer)], "{}").await.unwrap();
    hub.hangs().await;
    let refused = hub.person(ANN).ask(call(1, "shared__ask", json!({}))).await;
    assert!(refused.to_string().contains("code"), "the server is refused its question: {refused}");
    assert_ne!(refused["result"]["resultType"], "input_required", "{refused}");
}

#[tokio::test]
async fn a_server_that_is_not_shared_is_one_for_each_principal() {
    let hub = hub("task_after = '1h'");
    let (ann, bob) = (hub.person(ANN), hub.person(BOB));
    let over_mcp = async |person: &Person<'_>| {
        let answer = person.ask(call(1, "own__pid", json!({}))).await;
        answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let rest = async |person: &Person<'_>, path: &str, body: Value| {
        let answer = person.post(path, &[], &body).await.json();
        answer["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let execute = json!({ "server_name": "own", "tool_name": "pid" });
    let (anns, bobs) = (over_mcp(&ann).await, over_mcp(&bob).await);
    assert_ne!(anns, bobs);
    for (person, pid) in [(&ann, &anns), (&bob, &bobs)] {
        assert_eq!(&over_mcp(person).await, pid);
        assert_eq!(&rest(person, "/tools/own__pid", json!({})).await, pid);
        assert_eq!(&rest(person, "/process", json!({ "tool": "own__pid" })).await, pid);
        assert_eq!(&rest(person, "/tools/execute_mcp_tool", execute.clone()).await, pid);
    }
}

#[tokio::test]
async fn a_principal_has_a_share_of_the_processes_of_a_server_and_of_the_calls_under_way() {
    // Of the 16,384 calls of servers that may be under way, one.
    let hub = hub("task_after = '1h'\nprincipal_share = 0.0001");
    let (ann, bob) = (hub.person(ANN), hub.person(BOB));
    let pid = async |person: &Person<'_>| {
        let opened = person.post("/mcp", &[], &initialize("2025-11-25")).await;
        let session = [("mcp-session-id", opened.header("mcp-session-id"))];
        person.post("/mcp", &session, &call(1, "own__pid", json!({}))).await.json()
    };
    let has_process = |answer: &Value| answer["result"]["content"][0]["text"].is_string();
    for session in 0..8 {
        let answer = pid(&ann).await;
        assert!(has_process(&answer), "{session}: {answer}");
    }
    let refused = pid(&ann).await;
    assert_eq!(refused["error"]["code"], -31000, "{refused}");
    assert!(
        refused.to_string().contains("ann has 8 processes of it, as many as one principal may have; call it in one of")
    );
    let answer = pid(&bob).await;
    assert!(has_process(&answer), "he has had none: {answer}");

    let (mut hangs, bearer) = (hub.connect().await, format!("Bearer {ANN}"));
    hangs.send("POST", "/tools/shared__hang", &[("authorization", &bearer)], "{}").await.unwrap();
    hub.hangs().await;
    let refused = ann.ask(call(2, "shared__pid", json!({}))).await;
    assert_eq!(refused["error"]["code"], -31000, "{refused}");
    let expected =
        "1 of your calls of MCP servers are under way already, as many as one principal may have; wait until";
    assert!(refused.to_string().contains(expected), "{refused}");
    let refused = ann.post("/tools/shared__pid", &[], &json!({})).await;
    assert!(refused.status == 503 && refused.body.contains(expected), "at every listener: {refused:?}");
    for person in [&bob, &hub.person(OPERATOR)] {
        let answer = person.ask(call(1, "shared__pid", json!({}))).await;
        assert!(has_process(&answer), "{answer}");
    }
    drop(hangs);
    let began = Instant::now();
    while !has_process(&ann.ask(call(3, "shared__pid", json!({}))).await) {
        assert!(began.elapsed() < Duration::from_secs(60), "what ended counts no more"); // it has no signal of its own
    }
}

#[tokio::test]
async fn a_principal_that_calls_much_waits_for_its_own_calls_and_nobody_else_does() {
    // Of four calls that may run, and four that may wait: one that runs, and one that waits.
    let hub = hub("calls_at_once = 4\ncalls_waiting_max = 4\nprincipal_share = 0.25");
    let (ann, bob) = (hub.person(ANN), hub.person(BOB));
    let (bearer, operator) = (format!("Bearer {ANN}"), format!("Bearer {OPERATOR}"));
    let waiting = async |member: &str| {
        let health = async || {
            let mut connection = hub.connect().await;
            connection.send("GET", "/health", &[("authorization", &operator)], "").await.unwrap();
            connection.answer().await.unwrap().json()[member] == 1
        };
        within(async { while !health().await {} }).await; // how it is has no signal of its own
    };
    let mut runs = hub.connect().await;
    let sleep = json!({ "command": "sleep 600" }).to_string();
    runs.send("POST", "/tools/bash?timeout=600", &[("authorization", &bearer)], &sleep).await.unwrap();
    waiting("calls_running").await;
    let mut waits = hub.connect().await;
    let compose = json!({ "text": "hi" });
    waits.send("POST", "/tools/compose", &[("authorization", &bearer)], &compose.to_string()).await.unwrap();
    waiting("calls_waiting").await;
    let refused = ann.post("/tools/compose", &[], &compose).await;
    let expected = "2 of your calls run or wait already, as many as one principal may have; wait until one has ended";
    assert!(refused.status == 503 && refused.body.contains(expected), "{refused:?}");
    for person in [&bob, &hub.person(OPERATOR)] {
        assert_eq!(person.post("/tools/compose", &[], &compose).await.status, 200);
    }
    drop(runs);
    assert_eq!(waits.answer().await.unwrap().status, 200, "it has its turn");
}

#[tokio::test]
async fn a_principal_has_a_share_of_the_calls_that_wait_for_input() {
    // Of 1,024, one.
    let hub = hub("task_after = '1h'\nprincipal_share = 0.001");
    let (ann, bob) = (hub.person(ANN), hub.person(BOB));
    let ask = async |person: &Person<'_>| person.ask(call(1, "own__ask", json!({}))).await;
    assert_eq!(ask(&ann).await["result"]["resultType"], "input_required");
    let refused = ask(&ann).await;
    assert_eq!(refused["error"]["code"], -31000, "{refused}");
    let expected =
        "1 calls wait for input already, as much as one principal may have; repeat one of ann's with the answer";
    assert!(refused.to_string().contains(expected), "{refused}");
    assert_eq!(ask(&bob).await["result"]["resultType"], "input_required", "he has his own");
}

#[tokio::test]
async fn a_principal_has_a_share_of_the_memory_for_large_messages() {
    const SHARE: usize = 10 << 20; // never less than one message may have
    let hub = hub("principal_share = 0.001");
    let (ann, bob) = (format!("Bearer {ANN}"), format!("Bearer {BOB}"));
    let argument = |bytes: usize| json!({ "text": "x".repeat(bytes) }).to_string();
    let mut hangs = hub.connect().await;
    hangs.send("POST", "/tools/shared__hang", &[("authorization", &ann)], &argument(SHARE - 50_000)).await.unwrap();
    hub.hangs().await;
    let post = async |bearer: &str| hub.post("/tools/compose", &[("authorization", bearer)], argument(100_000)).await;
    let refused = post(&ann).await;
    let expected = "more than 10485760 bytes, which is what one principal may have; wait for an answer to one of them";
    assert!(refused.status == 503 && refused.body.contains(expected), "{refused:?}");
    let mut lines = hub.person(ANN).lines().await;
    let refused = lines.ask(call(1, "compose", json!({ "text": "x".repeat(100_000) }))).await;
    assert!(refused["error"]["code"] == -31000 && refused.to_string().contains(expected), "{refused}");
    assert_eq!(lines.ask(request(2, "ping", json!({}))).await["result"]["status"], "ok", "small ones are free");
    assert_eq!(post(&bob).await.status, 200, "he has his own");
    drop(hangs);
    within(async { while post(&ann).await.status != 200 {} }).await; // what ended takes nothing
}

/// Settings with these tokens, and the hub's own in a file.
fn with_tokens(tokens: &str) -> String {
    format!("token_file = 'token'\n[serve]\n[serve.tokens]\n{tokens}\n")
}

#[tokio::test]
async fn tokens_are_exchanged_while_the_hub_runs_and_a_broken_file_changes_nothing() {
    const NEW: &str = "new-correct-horse-battery";
    let user = User::new();
    user.file("token", OPERATOR);
    let mut hub = Hub::of(user, &with_tokens(&format!("ann = '{ANN}'\nbob = '{BOB}'")), &[]);
    let status =
        async |hub: &Hub, token: &'static str| hub.person(token).post("/process", &[], &json!({})).await.status;
    let (mut anns, mut bobs) = (hub.person(ANN).lines().await, hub.person(BOB).lines().await);
    let opened = async |token| hub.person(token).post("/mcp", &[], &initialize("2025-11-25")).await;
    let opened = [opened(ANN).await, opened(BOB).await];
    let [anns_session, session] = opened.map(|opened| opened.header("mcp-session-id").to_owned());
    let (mut stream, bearer) = (hub.connect().await, format!("Bearer {ANN}"));
    let headers = [("mcp-session-id", &*anns_session), ("authorization", &bearer), ("accept", "text/event-stream")];
    let headers = [&headers[..], &[("connection", "close")]].concat();
    stream.send("GET", "/mcp", &headers, "").await.unwrap();
    assert_eq!(stream.head().await.unwrap().status, 200);
    let (mut anns_listener, mut listener) = (hub.person(ANN).listen().await, hub.person(BOB).listen().await);

    hub.user.file("settings.toml", &with_tokens(&format!("bob = '{BOB}'\ncarol = '{NEW}'")));
    hub.served.says("the tokens were read again");
    assert_eq!([status(&hub, ANN).await, status(&hub, BOB).await, status(&hub, NEW).await], [401, 400, 400]);
    assert_eq!(anns.next().await, None, "her token opens no more");
    while stream.event().await.is_some() {} // and her session has ended
    while anns_listener.event().await.is_some() {} // no less what she listens to
    assert_eq!(bobs.ask(request(1, "ping", json!({}))).await["result"]["status"], "ok", "his connection goes on");
    let ping = hub.person(BOB).post("/mcp", &[("mcp-session-id", &session)], &request(1, "ping", json!({}))).await;
    assert_eq!(ping.json()["result"], json!({}), "and so does his session");
    let more = with_tokens(&format!("bob = '{BOB}'\ncarol = '{NEW}'")) + "[mcpServers.more]\ncommand = 'true'\n";
    hub.user.file("settings.toml", &more);
    let told = listener.event().await.unwrap();
    assert!(told.contains("list_changed"), "he still listens: {told}");

    for (settings, expected) in [
        ("bob = 'short'", "serve.tokens.bob cannot be used: the token must have at least 16 characters"),
        ("bob = ", "the MCP servers, the tokens and the certificate stay as they were"),
    ] {
        hub.user.file("settings.toml", &with_tokens(settings));
        hub.served.says(expected);
        assert_eq!([status(&hub, BOB).await, status(&hub, NEW).await], [400, 400], "{settings}");
    }
    hub.user.file("settings.toml", &with_tokens(""));
    hub.served.says("the tokens were read again");
    hub.user.file("token", NEW);
    hub.served.says("the tokens were read again");
    assert_eq!([status(&hub, OPERATOR).await, status(&hub, BOB).await, status(&hub, NEW).await], [401, 401, 400]);
    hub.user.file("settings.toml", "");
    hub.served.says("the tokens stay as they were: callers of this hub need a token, and none is configured any more");
    assert_eq!([status(&hub, NEW).await, status(&hub, BOB).await], [400, 401], "it is not open to everybody");
}

#[tokio::test]
async fn only_the_operator_changes_servers_and_nobody_comes_in_without_a_token() {
    let hub = hub("");
    let entry = json!({ "command": "true" }).to_string();
    let put = async |token: &str| {
        let mut connection = hub.connect().await;
        let (bearer, length) = (format!("Bearer {token}"), entry.len().to_string());
        let headers = [("authorization", bearer.as_str()), ("content-length", &length)];
        connection.send("PUT", "/servers/new", &headers, &entry).await.unwrap();
        connection.answer().await.unwrap()
    };
    let refused = put(ANN).await;
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("not_the_operator")));
    assert_eq!(put("eve-correct-horse-battery").await.status, 401);
    assert_eq!(put(OPERATOR).await.status, 201);
    assert_eq!(hub.person(BOB).send("DELETE", "/servers/new", &[]).await, 403);
    for path in ["/mcp", "/process", "/messages?sessionId=1"] {
        assert_eq!(hub.post(path, &[], "{}").await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn without_a_token_all_callers_are_one() {
    let hub = Hub::start("");
    let session = hub.session(&[]).await;
    let answer = hub.post("/mcp", &[("mcp-session-id", &session)], request(1, "ping", json!({}))).await;
    assert_eq!(answer.json()["result"], json!({}));
}

#[test]
fn tokens_that_say_not_who_calls_are_refused_with_the_cure() {
    let user = User::new();
    for (tokens, expected) in [
        ("ann = '${NO_SUCH_VARIABLE}'", "the environment has no NO_SUCH_VARIABLE; set it"),
        ("ann = 'short'", "serve.tokens.ann cannot be used: the token must have at least 16 characters"),
        ("local = 'correct-horse-battery'", "is not `local`"),
        ("ann = 'correct-horse-battery'\nbob = 'correct-horse-battery'", "\"ann\" and \"bob\" have the same token"),
    ] {
        user.file("settings.toml", &format!("[serve.tokens]\n{tokens}\n"));
        let said = user.skep(&["serve", "--config", "settings.toml", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]);
        assert!(said.code() != 0 && said.stderr().contains(expected), "{tokens}: {}", said.stderr());
        assert!(!said.stderr().contains("correct-horse"), "{}", said.stderr());
    }
}

#[tokio::test]
async fn a_principal_restarts_its_own_processes_and_nobody_elses() {
    let hub = hub("");
    let (ann, bob, operator) = (hub.person(ANN), hub.person(BOB), hub.person(OPERATOR));
    let pid = async |person: &Person<'_>, server: &str| {
        let answer = person.post(&format!("/tools/{server}__pid"), &[], &json!({})).await.json();
        answer["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let (hers, his, shared) = (pid(&ann, "own").await, pid(&bob, "own").await, pid(&bob, "shared").await);
    assert_ne!(hers, his);
    let restart = async |person: &Person<'_>, server: &str| {
        person.post(&format!("/servers/{server}/restart"), &[], &json!({})).await
    };
    assert_eq!(restart(&ann, "own").await.status, 200);
    assert_ne!(pid(&ann, "own").await, hers, "hers is another");
    assert_eq!(pid(&bob, "own").await, his, "his goes on");

    let refused = restart(&ann, "shared").await;
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("not_the_operator")));
    let none = restart(&ann, "no-such-server").await;
    assert_eq!(none.status, 403);
    assert_eq!(
        none.body.replace("no-such-server", "shared"),
        refused.body,
        "who may not is not told whether it exists"
    );
    assert_eq!(pid(&bob, "shared").await, shared, "what all share goes on");

    assert_eq!(restart(&operator, "shared").await.status, 200);
    assert_eq!(restart(&operator, "own").await.status, 200);
    assert_ne!(pid(&bob, "shared").await, shared);
    assert_ne!(pid(&bob, "own").await, his, "the operator may end all of them");
}
