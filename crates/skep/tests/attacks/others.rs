//! A caller with a token of its own looks for what other callers' processes are and print.

use serde_json::{Value, json};

use crate::support::{Served, User};

const OPERATOR: &str = "operator-correct-horse-battery";
const ANN: &str = "ann-correct-horse-battery";

/// A server that tells on its standard error what it is called with, and dies of the call.
const SERVER: &str = r#"
import json, sys
def say(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method == "initialize":
        say(id=id, result={"protocolVersion": "2025-06-18", "serverInfo": {"name": "s", "version": "1"}, "capabilities": {"tools": {}}})
    elif method == "tools/list":
        say(id=id, result={"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ["tell", "die"]]})
    elif method == "tools/call":
        print(message["params"]["arguments"], file=sys.stderr, flush=True)
        if message["params"]["name"] == "die": sys.exit(3)
        say(id=id, result={"content": []})
"#;

#[tokio::test]
async fn the_files_that_hold_the_hubs_tokens_are_not_to_be_had_from_its_workspace() {
    let user = User::new();
    user.file("hub.toml", &format!("token = '{OPERATOR}'\n[serve.tokens]\nann = '{ANN}'\n"));
    let server = json!({ "command": "true", "env": { "KEY": OPERATOR } });
    user.file("mcp.json", &json!({ "mcpServers": { "s": server } }).to_string());
    user.file("skep.toml", "[run]\nactors = 2\n");
    let hub = Served::hub(&user, &["--config", "hub.toml", "--mcp-config", "mcp.json"], None);
    for file in ["hub.toml", "mcp.json"] {
        let (_, read) = hub.ask(ANN, "POST", "/tools/file_read", &json!({ "path": file })).await;
        assert!(read["message"].as_str().unwrap_or_default().contains("hidden"), "{file}: {read}");
    }
    let command = json!({ "command": "cat hub.toml mcp.json; grep -r operator-correct ." });
    for (tool, arguments) in [("bash", command), ("search", json!({ "query": "operator-correct" }))] {
        let (_, found) = hub.ask(ANN, "POST", &format!("/tools/{tool}"), &arguments).await;
        assert!(!found.to_string().contains(OPERATOR), "{tool}: {found}");
    }
    let (status, read) = hub.ask(ANN, "POST", "/tools/file_read", &json!({ "path": "skep.toml" })).await;
    assert_eq!(status, 200, "one that is not trusted is a file like any other: {read}");
}

#[tokio::test]
async fn processes_and_what_they_print_are_shown_to_the_operator_alone() {
    let user = User::new();
    let server = |name: &str| format!("[mcpServers.{name}]\ncommand = 'python3'\nargs = ['-c', '''{SERVER}''']\n");
    let lacks = "[mcpServers.lacks]\ncommand = 'no-such-program'\n";
    let settings = [format!("[serve.tokens]\nann = '{ANN}'\n"), server("lives"), server("dies"), lacks.to_owned()];
    user.file("skep.toml", &settings.concat());
    let hub = Served::hub(&user, &["--config", "skep.toml"], Some(OPERATOR));
    let secret = json!({ "key": "a-secret" });
    assert_eq!(hub.ask(OPERATOR, "POST", "/tools/lives__tell", &secret).await.0, 200);
    hub.ask(OPERATOR, "POST", "/tools/dies__die", &secret).await;

    let all = async |token: &str| {
        let (_, listed) = hub.ask(token, "GET", "/servers", &Value::Null).await;
        let mut shown = listed["servers"].as_array().unwrap().clone();
        for name in ["lives", "dies", "lacks"] {
            shown.push(hub.ask(token, "GET", &format!("/servers/{name}"), &Value::Null).await.1);
        }
        shown
    };
    let of_operator = Value::from(all(OPERATOR).await).to_string();
    assert!(of_operator.contains("a-secret") && of_operator.contains("\"pids\""), "{of_operator}");
    let of_ann = all(ANN).await;
    for server in &of_ann {
        assert!(server["state"].is_string() && server["pids"].is_null() && server["stderr"].is_null(), "{server}");
        assert!(!server.to_string().contains("a-secret"), "{server}");
    }
    let lacks = of_ann.last().unwrap();
    assert!(lacks["last_error"].as_str().unwrap().contains("no-such-program"), "the settings are no secret: {lacks}");
}
