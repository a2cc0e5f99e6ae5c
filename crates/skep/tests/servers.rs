//! MCP servers behind Skep, from outside: on the command line, in plans, and at a hub whose servers change. The server is
//! Skep itself.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use reqwest::Method;
use serde_json::{Value, json};
use support::{Served, User};

const TOKEN: &str = "a-token-for-this-test-only";

fn path(user: &User, name: &str) -> String {
    user.workspace().join(name).display().to_string()
}

/// A file that names these servers, each of them Skep itself.
fn config(user: &User, names: &[&str]) -> String {
    let entry =
        json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"], "env": { "SKEP_HOME": user.home() } });
    let servers: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), entry.clone())).collect();
    user.file("mcp.json", &json!({ "mcpServers": servers }).to_string());
    path(user, "mcp.json")
}

#[test]
fn tools_of_servers_are_listed_described_and_called_under_their_servers_name() {
    let user = User::new();
    let config = config(&user, &["inner"]);
    let listed = user.skep(&["tools", "--json", "--wait", "60s", "--mcp-config", &config]).ok().stdout();
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    let find = |name: &str| listed.iter().find(|tool| tool["name"] == name).cloned().unwrap();
    let (own, inner) = (find("compose"), find("inner__compose"));
    assert_eq!((&own["description"], &own["inputSchema"]), (&inner["description"], &inner["inputSchema"]));

    let described = user.skep(&["tools", "inner__compose", "--json", "--mcp-config", &config]).ok().stdout();
    assert_eq!(serde_json::from_str::<Value>(&described).unwrap()["name"], "inner__compose");

    let call = ["call", "inner__compose", "--arg", "text=hi", "--json", "--mcp-config", &config];
    let answer: Value = serde_json::from_str(&user.skep(&call).ok().stdout()).unwrap();
    assert_eq!((&answer["status"], &answer["structuredContent"]), (&json!("ok"), &json!({ "text": "hi" })));

    let failed = user.skep(&["call", "inner__compose", "--mcp-config", &config]);
    assert_eq!(failed.code(), 1);
    assert!(failed.stdout().contains("give text, data, or both"), "{}", failed.stdout());
    let unknown = user.skep(&["call", "inner__compos", "--mcp-config", &config]);
    assert!(unknown.stderr().contains("did you mean \"inner__compose\"?"), "{}", unknown.stderr());
}

#[test]
fn a_call_that_waits_for_its_server_ends_on_ctrl_c() {
    let user = User::new();
    let silent = "import pathlib, sys; pathlib.Path('started').touch(); sys.stdin.read()";
    let entry = json!({ "command": "python3", "args": ["-c", silent], "cwd": user.workspace(), "startTimeout": "10m" });
    user.file("mcp.json", &json!({ "mcpServers": { "silent": entry } }).to_string());
    let mut call = user.command(&["call", "silent__x", "--mcp-config", "mcp.json"]).spawn().unwrap();
    while !user.workspace().join("started").exists() {
        assert!(call.try_wait().unwrap().is_none(), "it waits");
        std::thread::sleep(std::time::Duration::from_millis(10)); // a file has no signal of its own
    }
    assert!(std::process::Command::new("kill").args(["-INT", &call.id().to_string()]).status().unwrap().success());
    assert_eq!(call.wait().unwrap().code(), Some(130));
}

#[test]
fn servers_tells_who_answers_and_why_others_do_not() {
    let user = User::new();
    user.file(
        "mcp.json",
        &json!({ "mcpServers": {
        "inner": { "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"] },
        "broken": { "command": "/bin/sh", "args": ["-c", "echo no key >&2; exit 3"] },
    } })
        .to_string(),
    );
    let config = path(&user, "mcp.json");
    let all = user.skep(&["servers", "--wait", "60s", "--mcp-config", &config]);
    assert_eq!(all.code(), 1);
    assert!(all.stdout().contains("✗ broken") && all.stdout().contains("no key"), "{}", all.stdout());
    assert!(all.stdout().contains("✓ inner") && all.stdout().contains("2026-07-28"), "{}", all.stdout());
    let one = user.skep(&["servers", "inner", "--json", "--wait", "60s", "--mcp-config", &config]).ok().stdout();
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!((&one[0]["state"], &one[0]["starts"]), (&json!("running"), &json!(1)));
}

#[test]
fn a_plan_may_call_the_tools_of_servers() {
    let user = User::new();
    user.file(
        "settings.toml",
        &format!("[mcpServers.inner]\ncommand = {:?}\nargs = [\"mcp-stdio\"]\n", env!("CARGO_BIN_EXE_skep")),
    );
    user.file("plan.yaml", "tasks:\n  a: { tool: inner__compose, args: { text: hello } }\n  b: { tool: compose, args: { text: '{{ tasks.a.result.structuredContent.text }} again' } }\nreport: '{{ tasks.b.result.text }}'\n");
    let config = path(&user, "settings.toml");
    let report = user.skep(&["run", "plan.yaml", "--config", &config]).ok().stdout();
    assert!(report.contains("hello again"), "{report}");
}

/// A hub of its own on a free port; it ends with the value.
struct Hub {
    served: Served,
}

impl Hub {
    fn start(user: &User, arguments: &[&str], token: Option<&str>) -> Hub {
        Hub { served: Served::hub(user, arguments, token) }
    }

    fn says(&mut self, text: &str) -> String {
        self.served.says(text)
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        self.served.ask(TOKEN, method.as_str(), path, body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, &Value::Null).await.1
    }

    /// `GET /tools`, when all servers have listed theirs.
    async fn listed(&self) -> Value {
        loop {
            let tools = self.get("/tools").await;
            if tools["starting"].is_null() {
                return tools;
            }
        }
    }

    async fn names(&self) -> Vec<Value> {
        self.get("/servers").await["servers"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect()
    }
}

#[tokio::test]
async fn a_hub_follows_the_file_that_names_its_servers() {
    let user = User::new();
    let path = config(&user, &["one"]);
    let mut hub = Hub::start(&user, &["--mcp-config", &path], None);
    let call = json!({ "text": "hi" });
    assert_eq!(hub.ask(Method::POST, "/tools/one__compose", &call).await.0, 200);
    let before = hub.get("/servers/one").await;
    assert_eq!((&before["state"], &before["starts"]), (&json!("running"), &json!(1)));

    config(&user, &["one", "two"]);
    hub.says("were read again");
    assert_eq!(hub.names().await, ["one", "two"]);
    assert_eq!(hub.ask(Method::POST, "/tools/two__compose", &call).await.0, 200);
    assert_eq!(hub.get("/servers/one").await["pids"], before["pids"], "what did not change goes on");

    user.file("mcp.json", "{");
    hub.says("stay as they were");
    assert_eq!(hub.names().await, ["one", "two"]);

    config(&user, &["two"]);
    hub.says("were read again");
    assert_eq!(hub.names().await, ["two"]);
    assert_eq!(hub.ask(Method::POST, "/tools/one__compose", &call).await.0, 404);

    let metrics = reqwest::get(format!("{}/metrics", hub.served.url)).await.unwrap().text().await.unwrap();
    let counted = r#"skep_upstream_calls_total{server="one",method="tools/call",outcome="ok"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn whoever_asks_what_tools_there_are_reads_the_same_list_which_is_read_once() {
    let user = User::new();
    let hub = Hub::start(&user, &["--mcp-config", &config(&user, &["one"])], None);
    let has_tool = |answer: &Value| answer.to_string().contains("one__compose");
    hub.listed().await;
    let available = hub.ask(Method::POST, "/tools/get_available_mcp_tools", &json!({})).await.1;
    assert!(available.to_string().contains(r#""tool_name":"compose""#), "{available}");
    for path in ["/tools", "/tools/one__compose"] {
        let listed = hub.get(path).await;
        assert!(has_tool(&listed), "{path}: {listed}");
    }
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {} });
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": meta } });
    let request = reqwest::Client::new().post(format!("{}/mcp", hub.served.url));
    let request = request.header("accept", "application/json, text/event-stream");
    let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/list");
    let listed: Value = request.json(&message).send().await.unwrap().json().await.unwrap();
    assert!(has_tool(&listed), "{listed}");
    let metrics = reqwest::get(format!("{}/metrics", hub.served.url)).await.unwrap().text().await.unwrap();
    let counted = r#"skep_upstream_calls_total{server="one",method="tools/list",outcome="ok"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn servers_are_changed_over_http_only_where_callers_need_a_token() {
    let user = User::new();
    let entry = json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"] });
    let open = Hub::start(&user, &[], None);
    let (status, refusal) = open.ask(Method::PUT, "/servers/inner", &entry).await;
    assert_eq!((status, &refusal["code"]), (403, &json!("token_needed")));
    assert_eq!(open.names().await, [] as [Value; 0]);
    drop(open);

    let hub = Hub::start(&user, &[], Some(TOKEN));
    assert_eq!(hub.ask(Method::PUT, "/servers/inner", &entry).await.0, 201);
    assert_eq!(hub.ask(Method::POST, "/tools/inner__compose", &json!({ "text": "hi" })).await.0, 200);
    let before = hub.get("/servers/inner").await;
    assert_eq!(hub.ask(Method::PUT, "/servers/inner", &entry).await.0, 200);
    assert_eq!(hub.get("/servers/inner").await["pids"], before["pids"], "the same again changes nothing");
    assert_eq!(hub.ask(Method::POST, "/servers/inner/restart", &Value::Null).await.0, 200);
    assert_eq!(hub.ask(Method::POST, "/tools/inner__compose", &json!({ "text": "hi" })).await.0, 200);
    assert_ne!(hub.get("/servers/inner").await["pids"], before["pids"]);
    let (status, refusal) = hub.ask(Method::PUT, "/servers/bad", &json!({ "comand": "x" })).await;
    assert_eq!(status, 422);
    assert!(refusal["detail"].as_str().unwrap().contains("did you mean \"command\"?"), "{refusal}");
    assert_eq!(hub.ask(Method::DELETE, "/servers/inner", &Value::Null).await.0, 200);
    assert_eq!(hub.ask(Method::DELETE, "/servers/inner", &Value::Null).await.0, 404);
    assert_eq!(hub.names().await, [] as [Value; 0]);
}

/// A server that minds neither the end of its input nor SIGTERM, and has started a process that left its group.
const STUBBORN: &str = r#"
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
null = subprocess.DEVNULL
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
away = subprocess.Popen(sleep, stdin=null, stdout=null, stderr=null, start_new_session=True)
for line in sys.stdin:
    message = json.loads(line)
    method, id = message["method"], message.get("id")
    answer = {"error": {"code": -32601, "message": "unknown"}}
    if method == "initialize":
        answer = {"result": {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}}
    if method == "tools/call":
        if message["params"]["name"] == "hang": continue
        answer = {"result": {"content": [], "structuredContent": {"pids": [os.getpid(), away.pid]}}}
    if id is not None: print(json.dumps({"jsonrpc": "2.0", "id": id, **answer}), flush=True)
time.sleep(600)
"#;

/// A file that names it.
fn stubborn(user: &User) -> String {
    let servers = json!({ "mcpServers": { "bad": { "command": "python3", "args": ["-c", STUBBORN] } } });
    user.file("mcp.json", &servers.to_string());
    path(user, "mcp.json")
}

fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Wait until a process has ended that is not ours to wait for.
async fn ended(pid: u64) {
    let waiting = async {
        while is_alive(pid) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.expect("it goes on");
}

#[tokio::test]
async fn of_a_hub_that_is_killed_no_server_stays_nor_what_it_had_started() {
    let user = User::new();
    let path = stubborn(&user);
    let mut hub = Hub::start(&user, &["--mcp-config", &path], None);
    let (status, answer) = hub.ask(Method::POST, "/tools/bad__pids", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    let pids: Vec<u64> = serde_json::from_value(answer["structuredContent"]["pids"].clone()).unwrap();
    assert_eq!(hub.get("/servers/bad").await["pids"], json!([pids[0]]), "the server, not what guards it");
    hub.served.child.kill().unwrap();
    for pid in pids {
        ended(pid).await;
    }

    let next = Hub::start(&user, &["--mcp-config", &path], None);
    let (status, answer) = next.ask(Method::POST, "/tools/bad__pids", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    let pids: Vec<u64> = serde_json::from_value(answer["structuredContent"]["pids"].clone()).unwrap();
    assert!(pids.iter().all(|pid| is_alive(*pid)), "its own are left alone");
    next.ask(Method::POST, "/servers/bad/restart", &Value::Null).await; // and leave nothing behind here
}

/// A server that has started a process which nothing tells to be its own: it has no environment, no group and no parent in common
/// with it. `pids` tells both.
const DETACHED: &str = r#"
import json, os, sys
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    child = os.fork()
    if child == 0:
        for number in range(3): os.dup2(os.open("/dev/null", os.O_RDWR), number)
        os.closerange(3, 64)
        os.execve("/bin/sleep", ["sleep", "600"], {})
    os.write(write, str(child).encode())
    os._exit(0)
os.wait()
pids = [os.getpid(), int(os.read(read, 20))]
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method == "initialize":
        result = {"protocolVersion": "2025-06-18", "serverInfo": {"name": "d", "version": "1"}, "capabilities": {"tools": {}}}
    elif method == "tools/call":
        if message["params"]["name"] == "die": os._exit(7)
        result = {"structuredContent": {"pids": pids}, "content": []}
    elif id is not None and method is not None:
        result = {"tools": []}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}), flush=True)
"#;

#[tokio::test]
async fn what_a_server_has_detached_from_itself_ends_with_it_however_that_ends() {
    let user = User::new();
    let servers = json!({ "mcpServers": { "bad": { "command": "python3", "args": ["-c", DETACHED] } } });
    user.file("mcp.json", &servers.to_string());
    let mut hub = Hub::start(&user, &["--mcp-config", &path(&user, "mcp.json")], None);
    for how in ["it dies", "it is restarted", "its guard is killed", "the hub is killed"] {
        let (status, answer) = hub.ask(Method::POST, "/tools/bad__pids", &json!({})).await;
        assert_eq!(status, 200, "{answer}");
        let pids: Vec<u64> = serde_json::from_value(answer["structuredContent"]["pids"].clone()).unwrap();
        assert!(pids.iter().all(|pid| is_alive(*pid)), "{pids:?}");
        match how {
            "it dies" => drop(hub.ask(Method::POST, "/tools/bad__die", &json!({})).await),
            "it is restarted" => drop(hub.ask(Method::POST, "/servers/bad/restart", &Value::Null).await),
            // Then what is detached has nobody, but the server goes at once.
            "its guard is killed" => {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", pids[0])).unwrap();
                let guard = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().to_owned();
                let kill = |pid: &str| std::process::Command::new("kill").args(["-9", pid]).status().unwrap();
                assert!(kill(&guard).success());
                ended(pids[0]).await;
                kill(&pids[1].to_string());
            }
            _ => hub.served.kill(),
        }
        for pid in pids {
            ended(pid).await;
        }
    }
}

#[tokio::test]
async fn a_server_gets_no_token_of_a_package_runner() {
    let user = User::new();
    let tell = "import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get('method'), message.get('id')
    if method == 'initialize': result = {'protocolVersion': '2025-06-18', 'serverInfo': {'name': 'e', 'version': '1'}, 'capabilities': {}}
    elif method == 'tools/call': result = {'structuredContent': dict(os.environ), 'content': []}
    elif id is not None and method is not None: result = {'tools': []}
    else: continue
    print(json.dumps({'jsonrpc': '2.0', 'id': id, 'result': result}), flush=True)
";
    let entry = json!({ "command": "python3", "args": ["-c", tell], "env": { "MINE": "${NPM_TOKEN}" } });
    user.file("mcp.json", &json!({ "mcpServers": { "env": entry } }).to_string());
    let mut command = user.command(&["serve", "--bind", "127.0.0.1:0", "--mcp-config", "mcp.json"]);
    let given = [
        ("npm_config_registry", "https://packages.example/npm"),
        ("npm_config__authToken", "secret-1"),
        ("UV_PUBLISH_TOKEN", "secret-2"),
        ("UV_INDEX_PRIVATE_PASSWORD", "secret-3"),
        ("UV_INDEX_URL", "https://me:secret-4@packages.example/simple"),
        ("UV_CACHE_DIR", "/var/cache/uv"),
        ("PIP_INDEX_URL", "https://packages.example/simple"),
        ("HTTPS_PROXY", "http://me:secret-5@proxy.example:8080"),
        ("NPM_TOKEN", "secret-6"),
    ];
    let hub = Hub { served: Served::start(command.envs(given)) };
    let (status, answer) = hub.ask(Method::POST, "/tools/env__tell", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    let got = answer["structuredContent"].as_object().unwrap();
    for (name, value) in given {
        let is_passed = ["npm_config_registry", "UV_CACHE_DIR", "PIP_INDEX_URL"].contains(&name);
        assert_eq!(got.get(name), is_passed.then(|| json!(value)).as_ref(), "{name}");
    }
    assert_eq!(got["MINE"], "secret-6", "what its entry names it gets");
    let text = answer.to_string().replace("secret-6", "");
    assert!(!text.contains("secret-"), "{text}");
}

/// A server that says nothing before there is a file; then it has one tool.
const LATE: &str = r#"
import json, os, sys, time
while not os.path.exists("begin"): time.sleep(0.01)
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method == "initialize":
        result = {"protocolVersion": "2025-06-18", "serverInfo": {"name": "late", "version": "1"}, "capabilities": {"tools": {}}}
    elif method == "tools/list":
        result = {"tools": [{"name": "here", "description": "It is here.", "inputSchema": {"type": "object"}}]}
    elif id is not None and method is not None:
        print(json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "unknown"}}), flush=True)
        continue
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}), flush=True)
"#;

/// What nobody waits for is over long before this.
const SOON: std::time::Duration = std::time::Duration::from_secs(30);

fn with_late(user: &User) -> String {
    let inner =
        json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"], "env": { "SKEP_HOME": user.home() } });
    let late = json!({ "command": "python3", "args": ["-c", LATE], "cwd": user.workspace() });
    user.file("mcp.json", &json!({ "mcpServers": { "inner": inner, "late": late } }).to_string());
    path(user, "mcp.json")
}

#[test]
fn a_silent_server_is_shown_as_starting_and_holds_no_command_up() {
    let user = User::new();
    let config = with_late(&user);
    for command in ["tools", "prompt", "servers"] {
        let began = std::time::Instant::now();
        let said = user.skep(&[command, "--mcp-config", &config]);
        assert!(began.elapsed() < SOON, "{command} took {:?}", began.elapsed());
        assert_eq!(said.code(), 1, "{command}: not all of them have answered");
        let text = format!("{}{}", said.stdout(), said.stderr());
        let line = text.lines().find(|line| line.contains("late") && line.contains("starting")).unwrap_or_default();
        assert!(line.contains("--wait"), "{command}: {text}");
    }
    let status = user.skep(&["servers", "late", "--json", "--mcp-config", &config]).json();
    assert_eq!((&status[0]["state"], &status[0]["error"]), (&json!("starting"), &Value::Null), "{status}");
    let (own, _) = (user.skep(&["tools", "--mcp-config", &config]).stdout(), ());
    assert!(own.contains("compose"), "{own}");

    user.file("begin", "");
    let listed = user.skep(&["tools", "--wait", "60s", "--mcp-config", &config]).ok().stdout();
    assert!(listed.contains("late__here") && listed.contains("inner__compose"), "{listed}");
}

#[tokio::test]
async fn a_silent_server_holds_no_list_of_a_hub_up_and_its_tools_appear_when_it_answers() {
    let user = User::new();
    let mut hub = Hub::start(&user, &["--mcp-config", &with_late(&user), "--tcp", "127.0.0.1:0"], None);
    let tcp = hub.says("tcp://").rsplit('/').next().unwrap().to_owned();
    let mut output = std::net::TcpStream::connect(tcp).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(output.try_clone().unwrap()));
    let mut ask = |message: Value| {
        std::io::Write::write_all(&mut output, format!("{message}\n").as_bytes()).unwrap();
        serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()
    };
    let hello =
        json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    ask(json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello }));
    let began = std::time::Instant::now();
    let without = ask(json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" })).to_string();
    assert!(without.contains("compose") && !without.contains("late__"), "{without}");
    let tools = hub.get("/tools").await;
    assert!(tools["starting"].as_array().unwrap().contains(&json!("late")), "{tools}");
    let (_, available) = hub.ask(Method::POST, "/tools/get_available_mcp_tools", &json!({})).await;
    assert!(available["starting"].as_array().unwrap().contains(&json!("late")), "{available}");
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    assert_eq!(hub.get("/servers/late").await["state"], "starting");

    user.file("begin", "");
    let told = lines.map(Result::unwrap).find(|line| line.contains("notifications/tools/list_changed"));
    assert!(told.is_some(), "who has seen a list without them hears of them");
    let tools = hub.listed().await;
    assert!(tools.to_string().contains("late__here"), "{tools}");
}

#[tokio::test]
async fn a_missing_program_costs_its_server_alone_and_is_named_with_its_cure() {
    let user = User::new();
    let inner =
        json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"], "env": { "SKEP_HOME": user.home() } });
    let time = json!({ "command": "uvx", "args": ["mcp-server-time"], "env": { "PATH": user.workspace() } });
    user.file("mcp.json", &json!({ "mcpServers": { "inner": inner, "time": time } }).to_string());
    let config = path(&user, "mcp.json");
    let reason = "uvx not found; install uv";

    let all = user.skep(&["servers", "--wait", "60s", "--mcp-config", &config]);
    assert_eq!(all.code(), 1);
    let line = all.stdout().lines().find(|line| line.starts_with("✗ time")).unwrap().to_owned();
    assert!(line.ends_with(reason) && line.len() < 80, "{line}");
    assert!(all.stdout().contains("✓ inner"), "{}", all.stdout());
    let listed = user.skep(&["tools", "--wait", "60s", "--mcp-config", &config]);
    assert!(listed.stdout().contains("inner__compose") && listed.stderr().contains(reason), "{}", listed.stderr());
    assert_eq!(listed.stderr().matches(reason).count(), 1, "{}", listed.stderr());

    let mut command = user.command(&["serve", "--bind", "127.0.0.1:0", "--mcp-config", &config]);
    let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let (mut told, mut url) = (0, String::new());
    for line in said.by_ref().map(Result::unwrap) {
        told += usize::from(line.contains(reason));
        if let Some(address) = line.strip_prefix("listening on http") {
            url = format!("http{address}");
            break;
        }
    }
    assert_eq!(told, 1, "once, at the start");
    let call = reqwest::Client::new().post(format!("{url}/tools/time__now")).json(&json!({})).send().await.unwrap();
    let refused: Value = call.json().await.unwrap();
    assert!(refused["message"].as_str().unwrap().contains(reason), "{refused}");
    let status: Value = reqwest::get(format!("{url}/servers/time")).await.unwrap().json().await.unwrap();
    assert_eq!((&status["state"], &status["starts"]), (&json!("disabled"), &json!(0)), "{status}");
    // It is there as soon as the program is.
    let uvx = user.workspace().join("uvx");
    std::fs::write(&uvx, "#!/bin/sh\nexit 3\n").unwrap();
    std::fs::set_permissions(&uvx, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let status: Value = reqwest::get(format!("{url}/servers/time")).await.unwrap().json().await.unwrap();
    assert_eq!(status["state"], "stopped", "{status}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_takes_no_turns_from_the_hubs_own_tools() {
    let user = User::new();
    user.file("settings.toml", "[serve]\ncalls_at_once = 1\n");
    let (config, servers) = (path(&user, "settings.toml"), stubborn(&user));
    let hub = Hub::start(&user, &["--config", &config, "--mcp-config", &servers], None);
    let own = async {
        while hub.get("/servers/bad").await["calls_running"] != 2 {
            tokio::task::yield_now().await;
        }
        hub.ask(Method::POST, "/tools/compose", &json!({ "text": "hi" })).await
    };
    let (nothing, process) = (json!({}), json!({ "tool": "bad__hang", "args": {} }));
    tokio::select! {
        answer = hub.ask(Method::POST, "/tools/bad__hang", &nothing) => panic!("{answer:?}"),
        answer = hub.ask(Method::POST, "/process", &process) => panic!("{answer:?}"),
        (status, answer) = own => assert_eq!((status, &answer["text"]), (200, &json!("hi")), "{answer}"),
    }
    hub.ask(Method::POST, "/servers/bad/restart", &Value::Null).await; // leaves nothing behind here
}

#[tokio::test]
async fn a_hub_behind_a_hub_answers_over_every_transport() {
    let user = User::new();
    let mut behind = Hub::start(&user, &["--tcp", "127.0.0.1:0"], None);
    let tcp = behind.says("tcp://").rsplit(' ').next().unwrap().to_owned();
    let servers = json!({
        "http": { "url": format!("{}/mcp", behind.served.url) },
        "sse": { "type": "sse", "url": format!("{}/sse", behind.served.url) },
        "tcp": { "url": tcp },
    });
    user.file("mcp.json", &json!({ "servers": servers }).to_string());
    let hub = Hub::start(&user, &["--mcp-config", &path(&user, "mcp.json")], None);
    for (server, revision) in [("http", "2026-07-28"), ("sse", "2025-11-25"), ("tcp", "2026-07-28")] {
        let (status, answer) =
            hub.ask(Method::POST, &format!("/tools/{server}__compose"), &json!({ "text": "hi" })).await;
        assert_eq!(status, 200, "{server}: {answer}");
        assert!(answer.to_string().contains("hi"), "{server}: {answer}");
        assert_eq!(hub.get(&format!("/servers/{server}")).await["revision"], revision);
    }
}

#[tokio::test]
async fn the_one_server_without_a_prefix_keeps_its_names() {
    let user = User::new();
    let path = config(&user, &["inner"]);
    let hub = Hub::start(&user, &["--mcp-config", &path, "--no-prefix"], None);
    hub.listed().await;
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    } } });
    let request = reqwest::Client::new().post(format!("{}/mcp", hub.served.url)).json(&list);
    let headers =
        [("accept", "application/json"), ("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
    let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"compose") && !names.iter().any(|name| name.contains("__")), "{names:?}");

    config(&user, &["inner", "another"]);
    let several = user.skep(&["serve", "--bind", "127.0.0.1:0", "--mcp-config", &path, "--no-prefix"]);
    assert!(several.code() != 0 && several.stderr().contains("exactly one MCP server"), "{}", several.stderr());
}

#[test]
fn a_prompt_lists_the_tools_and_what_a_model_writes_then_is_called() {
    let user = User::new();
    let config = config(&user, &["inner"]);
    let prompt = user.skep(&["prompt", "inner", "--wait", "60s", "--mcp-config", &config]).ok().stdout();
    assert!(prompt.contains("## Server: inner") && prompt.contains("### compose"), "{prompt}");
    assert!(!prompt.contains("## Server: skep"), "{prompt}");

    let block = |server: &str, arguments: &str| {
        format!(
            "<use_mcp_tool><server_name>{server}</server_name><tool_name>compose</tool_name><arguments>{arguments}</arguments></use_mcp_tool>"
        )
    };
    user.file(
        "said.txt",
        &format!("First {}, then {}.", block("inner", r#"{"text": "a"}"#), block("skep", r#"{"text": "b"}"#)),
    );
    let call = ["call", "--use-mcp-tool", "said.txt", "--mcp-config", &config];
    let answers = user.skep(&call).ok().json();
    assert_eq!((&answers[0]["structuredContent"]["text"], &answers[1]["text"]), (&json!("a"), &json!("b")));
    user.file("said.txt", &format!("{} {}", block("inner", "{"), block("inner", r#"{"text": "c"}"#)));
    let said = user.skep(&call);
    assert_eq!(said.code(), 1);
    assert_eq!(said.json()[0]["code"], "malformed");
    assert_eq!(said.json()[1]["status"], "ok", "what is wrong costs nothing else");
}

#[tokio::test]
async fn long_lists_of_tools_may_be_hidden_behind_a_search() {
    let user = User::new();
    config(&user, &["inner"]);
    user.file("settings.toml", "[tools]\nsearch = true\n");
    let arguments = ["--mcp-config", &path(&user, "mcp.json"), "--config", &path(&user, "settings.toml")];
    let hub = Hub::start(&user, &arguments, None);
    hub.listed().await;
    let mcp = async |method: &str, mut params: Value| -> Value {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let name = params["name"].as_str().map(str::to_owned);
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let request = reqwest::Client::new().post(format!("{}/mcp", hub.served.url)).json(&body);
        let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
        let request = name.iter().fold(request, |request, name| request.header("mcp-name", name));
        request.send().await.unwrap().json::<Value>().await.unwrap()["result"].clone()
    };
    let list = mcp("tools/list", json!({})).await;
    let names: Vec<&str> =
        list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"search_tools") && !names.iter().any(|name| name.contains("__")), "{names:?}");
    let query =
        json!({ "name": "search_tools", "arguments": { "query": "put texts together with a template", "limit": 1 } });
    let found = mcp("tools/call", query).await["structuredContent"]["tools"][0].clone();
    assert_eq!(found["name"], "inner__compose");
    let called = mcp("tools/call", json!({ "name": "inner__compose", "arguments": { "text": "hi" } })).await;
    assert_eq!(called["structuredContent"]["text"], "hi");
}

/// A file that names servers of others: three in JavaScript that speak an older revision, two in Python that speak the newest.
/// `cargo xtask setup` installs them; without them the test is left out, or fails if `SKEP_TEST_REQUIRE` is set.
fn real_servers(user: &User) -> Option<String> {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/servers");
    let node = |name: &str| format!("{installed}/node_modules/.bin/mcp-server-{name}");
    let python = |name: &str| format!("{installed}/python/bin/mcp-server-{name}");
    if !std::path::Path::new(&python("time")).exists() {
        assert!(std::env::var_os("SKEP_TEST_REQUIRE").is_none(), "not installed: {installed}");
        eprintln!("LEFT OUT, the servers are not installed; `cargo xtask setup` does it");
        return None;
    }
    let workspace = user.workspace();
    let servers = json!({ "mcpServers": {
        "everything": { "command": node("everything") },
        "files": { "command": node("filesystem"), "args": [workspace] },
        "memory": { "command": node("memory"), "env": { "MEMORY_FILE_PATH": workspace.join("memory.json") } },
        "git": { "command": python("git") },
        "time": { "command": python("time"), "args": ["--local-timezone", "UTC"] },
    } });
    user.file("mcp.json", &servers.to_string());
    Some(path(user, "mcp.json"))
}

/// Two clients use all of them at once, each of which is one process; nothing of them is left in the end.
#[tokio::test]
async fn servers_of_others_are_shared_and_do_what_they_do() {
    let user = User::new();
    let Some(config) = real_servers(&user) else { return };
    user.file("notes.txt", "what the file says");
    let repository = user.workspace().join("repository");
    assert!(std::process::Command::new("git").arg("init").arg("--quiet").arg(&repository).status().unwrap().success());
    let mut hub = Hub::start(&user, &["--mcp-config", &config], None);

    let tools = hub.listed().await;
    assert_eq!(tools["unavailable"], Value::Null);
    let names: Vec<&str> =
        tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    let calls = [
        ("everything__echo", json!({ "message": "over here" }), "over here"),
        ("everything__get-sum", json!({ "a": 40, "b": 2 }), "42"),
        ("files__read_text_file", json!({ "path": user.workspace().join("notes.txt") }), "what the file says"),
        ("git__git_status", json!({ "repo_path": repository }), "No commits yet"),
        (
            "time__convert_time",
            json!({ "source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo" }),
            "T21:00:00+09:00",
        ),
    ];
    let entity = json!({ "entities": [{ "name": "Skep", "entityType": "hive", "observations": ["is shared"] }] });
    let (status, answer) = hub.ask(Method::POST, "/tools/memory__create_entities", &entity).await;
    assert_eq!(status, 200, "{answer}");
    let client = async || {
        for (tool, arguments, expected) in &calls {
            assert!(names.contains(tool), "{tool} is not listed");
            let (status, answer) = hub.ask(Method::POST, &format!("/tools/{tool}"), arguments).await;
            assert!(status == 200 && answer["text"].as_str().unwrap().contains(expected), "{tool}: {answer}");
        }
        let (_, graph) = hub.ask(Method::POST, "/tools/memory__read_graph", &json!({})).await;
        assert_eq!(graph["structuredContent"]["entities"][0]["observations"], json!(["is shared"]), "{graph}");
    };
    tokio::join!(client(), client());

    let servers = hub.get("/servers").await["servers"].clone();
    let mut pids = Vec::new();
    for server in servers.as_array().unwrap() {
        let newest = matches!(server["name"].as_str(), Some("git" | "time"));
        assert_eq!(server["revision"], if newest { "2026-07-28" } else { "2025-11-25" }, "{server}");
        assert_eq!((&server["starts"], server["pids"].as_array().unwrap().len()), (&json!(1), 1), "{server}");
        pids.push(server["pids"][0].as_u64().unwrap());
    }
    assert_eq!(pids.len(), 5);
    assert_eq!(hub.served.stop(), 0);
    assert!(!pids.into_iter().any(is_alive), "nothing is left running");
}
