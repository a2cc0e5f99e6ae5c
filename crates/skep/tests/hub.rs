//! `skep serve`, and runs that use it, seen from outside.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use skep_hub::running::RunningHub;
use support::{Served, User};

/// A hub of its own on a free port; it ends with the value.
struct Hub {
    served: Served,
    url: String,
}

impl Hub {
    fn start(user: &User) -> Hub {
        let served = Served::start(&mut user.command(&["serve", "--bind", "127.0.0.1:0"]));
        Hub { url: served.url.clone(), served }
    }

    async fn process(&self, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = reqwest::Client::new().post(format!("{}/process", self.url)).body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

#[tokio::test]
async fn process_answers_as_its_first_clients_expect() {
    let user = User::new();
    user.file("notes.txt", "TODO: everything\n");
    let mut hub = Hub::start(&user);

    let (status, answer) = hub.process(r#"{"tool": "bash", "args": {"command": "echo hi"}}"#).await;
    assert_eq!((status, &answer["status"], &answer["stdout"]), (200, &json!("ok"), &json!("hi\n")));

    let (status, answer) = hub.process(r#"{"tool": "search", "args": {"query": "todo"}}"#).await;
    assert_eq!((status, &answer["results"][0]["path"]), (200, &json!("notes.txt")));

    let (status, answer) = hub.process(r#"{"tool": "bahs", "args": {}}"#).await;
    assert_eq!((status, &answer["status"]), (200, &json!("error")));
    assert!(answer["message"].as_str().unwrap().starts_with("Unknown tool"), "{answer}");

    let slow = r#"{"tool": "bash", "args": {"command": "sleep 60"}, "timeout": 1}"#;
    let (status, answer) = hub.process(slow).await;
    assert_eq!(status, 200);
    assert!(answer["message"].as_str().unwrap().contains("timed out after 1s"), "{answer}");

    let code = r#"{"tool": "generate_code", "args": {"language": "bash", "code": "echo 42", "path": "a.sh"}}"#;
    let (_, answer) = hub.process(code).await;
    let run = json!({ "tool": "execute_generated_code", "args": { "path": answer["path"] } });
    let (_, answer) = hub.process(run.to_string()).await;
    assert_eq!(answer["stdout"], "42\n", "what one request has generated another one executes");

    assert_eq!(hub.process("not JSON").await.0, 400);
    assert_eq!(hub.process(r#"{"args": {}}"#).await.0, 400);
    assert_eq!(hub.served.stop(), 0, "a hub that is told to stop ends well");
}

#[test]
fn a_hub_that_others_can_reach_needs_a_token() {
    let said = User::new().skep(&["serve", "--bind", "0.0.0.0:0"]);
    assert_ne!(said.code(), 0);
    assert!(said.stderr().contains("token"), "{}", said.stderr());
}

#[test]
fn a_hub_says_in_its_state_directory_where_it_is_until_it_ends() {
    let user = User::new();
    user.file("token", "correct-horse-battery");
    let mut first = Served::start(&mut user.command(&["serve", "--bind", "0.0.0.0:0", "--token-file", "token"]));
    let found = RunningHub::find(user.home()).unwrap();
    let port = first.url.rsplit(':').next().unwrap();
    assert_eq!(found.urls, [format!("http://127.0.0.1:{port}")], "an address that can be called");
    assert_eq!((found.pid, found.wants_token), (first.child.id(), true));
    assert_eq!(found.workspace, user.workspace().canonicalize().unwrap());
    assert_eq!(found.token_file, Some(user.workspace().canonicalize().unwrap().join("token")));
    let text = std::fs::read_to_string(user.home().join("hub.json")).unwrap();
    assert!(!text.contains("correct-horse-battery"), "{text}");

    let mut second = Served::start(&mut user.command(&["serve", "--bind", "127.0.0.1:0"]));
    assert_eq!(
        RunningHub::find(user.home()).unwrap().pid,
        first.child.id(),
        "the first one stays the one that is found"
    );
    second.kill();
    first.kill();
    assert_eq!(RunningHub::find(user.home()), None, "a killed hub is not taken for one that runs");
    let mut third = Served::start(&mut user.command(&["serve", "--bind", "127.0.0.1:0"]));
    assert_eq!(RunningHub::find(user.home()).unwrap().pid, third.child.id());
    third.stop();
    assert!(!user.home().join("hub.json").exists());
}

/// What other users could open or enter.
fn open_to_others(directory: &Path) -> Vec<PathBuf> {
    let is_open = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o077 != 0;
    let mut found = Vec::from_iter(is_open(directory).then(|| directory.to_owned()));
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(open_to_others(&path));
        } else if is_open(&path) {
            found.push(path);
        }
    }
    found
}

/// A hub and a run, which leave all that there is in a state directory.
fn use_everything(user: &User, home: &Path, umask: &str) {
    let command = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "umask $0; exec \"$@\"", umask, env!("CARGO_BIN_EXE_skep")]).args(arguments);
        command.current_dir(user.workspace()).env("SKEP_HOME", home).env("HOME", user.home());
        command
    };
    let mut hub = Served::start(&mut command(&["serve", "--bind", "127.0.0.1:0"]));
    for arguments in [
        &["run", "plan.yaml"][..],
        &["call", "file_write", "--arg", "path=a/b.txt", "--arg", "content=x"],
        &["call", "bash", "--arg", "command=echo x > /outputs/c"],
    ] {
        let output = command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(open_to_others(home), Vec::<PathBuf>::new(), "with umask {umask}, while a hub runs");
    hub.stop();
    assert_eq!(open_to_others(home), Vec::<PathBuf>::new(), "with umask {umask}");
}

#[test]
fn the_state_directory_is_its_users_alone_whatever_the_umask_is_and_whatever_was_there() {
    let user = User::new();
    user.file("plan.yaml", PLAN);
    let home = user.home().join("share/state");
    use_everything(&user, &home, "000");
    let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(&home).status().unwrap();
    assert!(opened.success() && open_to_others(&home).len() > 5, "as an earlier version left it");
    use_everything(&user, &home, "022");

    let link = user.home().join("link");
    std::os::unix::fs::symlink(&home, &link).unwrap();
    let refused = user.command(&["runs"]).env("SKEP_HOME", &link).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("symbolic link") && said.contains("SKEP_HOME"), "{said}");
}

#[test]
fn whatever_command_puts_a_secret_into_a_state_directory_closes_it() {
    let user = User::new();
    user.file("skep.toml", "[tools]\nsearch = true\n");
    for (index, command) in
        [&["servers", "login", "x"][..], &["servers", "logout", "x"], &["servers"], &["trust", "--yes"], &["runs"]]
            .into_iter()
            .enumerate()
    {
        let home = user.home().join(index.to_string());
        std::fs::create_dir_all(home.join("logins")).unwrap();
        std::fs::write(home.join("logins/logins.json"), "{}").unwrap();
        assert!(Command::new("chmod").args(["-R", "a+rX"]).arg(&home).status().unwrap().success());
        let said = user.command(command).env("SKEP_HOME", &home).output().unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(open_to_others(&home), Vec::<PathBuf>::new(), "{command:?}: {said}");
    }
}

const PLAN: &str = "name: n\ntasks:\n  greet: { tool: bash, args: { command: echo hello } }\n";

#[test]
fn a_run_calls_its_tools_on_a_hub() {
    let (here, there) = (User::new(), User::new());
    here.file("plan.yaml", PLAN);
    let hub = Hub::start(&there);
    let socket = format!("unix:{}", RunningHub::find(there.home()).unwrap().unix.unwrap().display());
    for place in [&hub.url, &socket] {
        here.skep(&["run", "plan.yaml", "--hub", place]).ok();
        let task = here.skep(&["show", "--json"]).ok().json()["tasks"][0].clone();
        assert_eq!((&task["place"], &task["result"]["stdout"]), (&json!(place), &json!("hello\n")));
    }
}

#[test]
fn a_run_falls_back_to_this_machine_when_no_hub_answers_and_says_so() {
    let (here, there) = (User::new(), User::new());
    here.file("plan.yaml", PLAN);
    let mut hub = Hub::start(&there);
    hub.served.stop();
    let said = here.skep(&["run", "plan.yaml", "--hub", &hub.url]).ok();
    assert!(said.stderr().contains(hub.url.trim_start_matches("http://")), "{}", said.stderr());
    let task = here.skep(&["show", "--json"]).ok().json()["tasks"][0].clone();
    assert_eq!((&task["place"], &task["result"]["stdout"]), (&json!("local"), &json!("hello\n")));
}

#[test]
fn a_client_that_spawns_its_servers_talks_to_one_over_standard_input_and_output() {
    use std::io::Write as _;
    let user = User::new();
    user.file("notes.txt", "remember the milk");
    let mut command = user.command(&["mcp-stdio"]);
    let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let messages = [
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{}}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"file_read","arguments":{"path":"notes.txt"}}}"#,
    ];
    let mut input = server.stdin.take().unwrap();
    writeln!(input, "{}", messages.join("\n")).unwrap();
    drop(input);
    let said = server.wait_with_output().unwrap();
    let lines: Vec<Value> =
        String::from_utf8(said.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["result"]["protocolVersion"], "2025-06-18");
    assert!(lines[1]["result"]["structuredContent"].to_string().contains("remember the milk"), "{}", lines[1]);
    assert_eq!((lines.len(), said.status.code()), (2, Some(0)));
}

#[test]
fn tools_of_a_server_behind_the_hub_are_called_by_its_name() {
    use std::io::Write as _;
    let user = User::new();
    user.file("notes.txt", "remember the milk");
    let inner = json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"], "cwd": user.workspace(),
        "env": { "SKEP_HOME": user.home().join("inner") }, "tools": { "deny": ["bash"] } });
    let broken = json!({ "command": "/nothing/here" });
    user.file("mcp.json", &json!({ "mcpServers": { "inner": inner, "broken": broken } }).to_string());
    let mut command = user.command(&["mcp-stdio", "--mcp-config", "mcp.json"]);
    let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (server.stdin.take().unwrap(), BufReader::new(server.stdout.take().unwrap()).lines());
    let mut ask = |id: i64, method: &str, params: Value| -> Value {
        let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {} });
        let mut message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        message["params"]["_meta"] = meta;
        writeln!(input, "{message}").unwrap();
        serde_json::from_str(&output.next().unwrap().unwrap()).unwrap()
    };
    let list = ask(1, "tools/list", json!({}));
    let names: Vec<&str> =
        list["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(
        names.contains(&"bash") && names.contains(&"inner__file_read") && !names.contains(&"inner__bash"),
        "{names:?}"
    );
    let read = ask(2, "tools/call", json!({ "name": "inner__file_read", "arguments": { "path": "notes.txt" } }));
    assert!(read["result"]["structuredContent"].to_string().contains("remember the milk"), "{read}");
    let denied = ask(3, "tools/call", json!({ "name": "inner__bash", "arguments": { "command": "echo hi" } }));
    assert_eq!(denied["error"]["code"], -32602, "{denied}");
    let down = ask(4, "tools/call", json!({ "name": "broken__anything", "arguments": {} }));
    assert!(down["error"]["message"].as_str().unwrap().contains("broken"), "{down}");
    let own = ask(5, "tools/call", json!({ "name": "file_read", "arguments": { "path": "notes.txt" } }));
    assert!(own["result"].is_object(), "{own}");
    drop(input);
    assert_eq!(server.wait().unwrap().code(), Some(0));
}
#[tokio::test]
async fn a_running_hub_is_asked_by_its_address() {
    let user = User::new();
    let inner = json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"],
        "env": { "SKEP_HOME": user.home().join("inner") } });
    let lacks = json!({ "command": "x", "env": { "KEY": "${NO_SUCH_VARIABLE}" } });
    user.file("mcp.json", &json!({ "mcpServers": { "inner": inner, "lacks": lacks } }).to_string());
    let serve = ["serve", "--port", "0", "--mcp-config", "mcp.json"];
    let hub = Served::start(user.command(&serve).env("SKEP_TOKEN", "a-token-of-some-length"));
    let elsewhere = User::new();
    let ask = |arguments: &[&str]| {
        let arguments = [arguments, &["--hub", &hub.url]].concat();
        support::Said(elsewhere.command(&arguments).env("SKEP_TOKEN", "a-token-of-some-length").output().unwrap())
    };
    let tools = ask(&["tools"]);
    assert!(tools.stdout().contains("inner__compose"), "{}{}", tools.stdout(), tools.stderr());
    assert!(tools.stderr().contains("NO_SUCH_VARIABLE") && tools.code() == 1, "{}", tools.stderr());
    assert!(ask(&["tools", "inner__compose"]).ok().stdout().contains("text"));
    let called = ask(&["call", "inner__compose", "--arg", "text=hi"]).ok();
    assert!(called.stdout().contains("hi"), "{}", called.stdout());
    let servers = ask(&["servers"]);
    assert!(servers.stdout().contains("✓ inner") && servers.stdout().contains("✗ lacks"), "{}", servers.stdout());
    assert!(ask(&["servers", "--json"]).json().as_array().unwrap().len() == 2);

    let called = ask(&["call", "lacks__x"]);
    assert_eq!(called.code(), 1);
    assert!(called.stderr().contains("NO_SUCH_VARIABLE"), "{}", called.stderr());
    let post = reqwest::Client::new().post(format!("{}/tools/lacks__x", hub.url)).bearer_auth("a-token-of-some-length");
    let answer = post.body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "unavailable");

    let refused = elsewhere.skep(&["tools", "--hub", &hub.url]);
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stderr().contains("refuses (401)") && refused.stderr().contains("SKEP_TOKEN"),
        "{}",
        refused.stderr()
    );
    let nobody = elsewhere.skep(&["call", "compose", "--hub", "http://127.0.0.1:1"]);
    assert!(nobody.stderr().contains("cannot be reached"), "{}", nobody.stderr());
}
