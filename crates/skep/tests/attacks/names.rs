//! Names that are made so that a call goes to another server than was meant.

use serde_json::{Value, json};

use crate::support::{Served, User};

const TOKEN: &str = "names-correct-horse-battery";

/// A server whose every tool says which server and which tool it is.
const SERVER: &str = r#"
import json, sys
me, tools = sys.argv[1], sys.argv[2:]
for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
    if method == "initialize":
        result = {"protocolVersion": "2025-06-18", "serverInfo": {"name": me, "version": "1"}, "capabilities": {"tools": {}}}
    elif method == "tools/list":
        result = {"tools": [{"name": tool, "inputSchema": {"type": "object"}} for tool in tools]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": me + " " + params["name"]}]}
    elif id is not None:
        print(json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "unknown"}}), flush=True)
        continue
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}), flush=True)
"#;

fn entry(name: &str, tools: &[&str]) -> Value {
    let args: Vec<&str> = [&["-c", SERVER, name], tools].concat();
    json!({ "command": "python3", "args": args })
}

#[test]
fn a_server_whose_name_could_end_elsewhere_is_refused_with_its_place_in_the_file() {
    let user = User::new();
    for name in ["a_", "_a", "a__b", "_"] {
        let servers = json!({ "mcpServers": { name: entry(name, &["echo"]) } });
        user.file("mcp.json", &format!("{servers:#}"));
        let refused = user.skep(&["tools", "--mcp-config", "mcp.json"]);
        assert_ne!(refused.code(), 0, "{name}");
        assert!(refused.stderr().contains("mcp.json:3:"), "{name}: {}", refused.stderr());
        assert!(refused.stderr().contains("does not begin or end with _"), "{name}: {}", refused.stderr());
        user.file("skep.toml", &format!("[mcpServers.{name}]\ncommand = \"true\"\n"));
        let refused = user.skep(&["tools", "--config", "skep.toml"]);
        assert!(refused.stderr().contains("does not begin or end with _"), "{name}: {}", refused.stderr());
        std::fs::remove_file(user.workspace().join("skep.toml")).unwrap();
    }
}

#[tokio::test]
async fn every_call_goes_to_the_server_whose_name_it_begins_with() {
    let user = User::new();
    let a = ["_echo", "echo", "__echo", "b__echo", "_"];
    let servers = json!({ "mcpServers": { "a": entry("a", &a), "a_b": entry("a_b", &["_echo", "echo"]) } });
    user.file("mcp.json", &servers.to_string());
    let hub = Served::hub(&user, &["--mcp-config", "mcp.json"], Some(TOKEN));

    for name in ["a_", "_a", "a__b"] {
        let (status, refused) = hub.ask(TOKEN, "PUT", &format!("/servers/{name}"), &entry(name, &["echo"])).await;
        assert_eq!((status, &refused["code"]), (422, &json!("invalid_server")), "{name}: {refused}");
    }
    let expected = a.iter().map(|tool| ("a", *tool)).chain([("a_b", "_echo"), ("a_b", "echo")]);
    for (server, tool) in expected {
        let (status, answer) = hub.ask(TOKEN, "POST", &format!("/tools/{server}__{tool}"), &json!({})).await;
        assert_eq!((status, &answer["text"]), (200, &json!(format!("{server} {tool}"))), "{answer}");
        let through = json!({ "server_name": server, "tool_name": tool });
        let (_, answer) = hub.ask(TOKEN, "POST", "/tools/execute_mcp_tool", &through).await;
        assert!(answer.to_string().contains(&format!("{server} {tool}")), "{answer}");
    }
}

#[test]
fn what_a_model_writes_reaches_no_other_server_than_it_names() {
    let user = User::new();
    user.file("mcp.json", &json!({ "mcpServers": { "a": entry("a", &["b__echo", "_echo", "echo"]) } }).to_string());
    let block = |server: &str, tool: &str| {
        format!(
            "<use_mcp_tool><server_name>{server}</server_name><tool_name>{tool}</tool_name><arguments>{{}}</arguments></use_mcp_tool>"
        )
    };
    let said: String = [("a__b", "echo"), ("a_", "echo"), ("skep", "a__echo"), ("a", "_echo")]
        .iter()
        .map(|(server, tool)| block(server, tool))
        .collect();
    user.file("said.txt", &said);
    let answers = user.skep(&["call", "--use-mcp-tool", "said.txt", "--mcp-config", "mcp.json"]).json();
    let outcome = |index: usize| (answers[index]["status"].clone(), answers[index]["text"].clone());
    for index in 0..3 {
        assert_eq!(outcome(index), (json!("error"), Value::Null), "{answers:#}");
    }
    assert_eq!(outcome(3), (json!("ok"), json!("a _echo")), "{answers:#}");
}

#[tokio::test]
async fn a_tool_whose_name_is_too_long_with_its_prefix_is_not_shown() {
    let user = User::new();
    let (fits, too_long) = ("t".repeat(125), "u".repeat(126));
    user.file("mcp.json", &json!({ "mcpServers": { "a": entry("a", &[&fits, &too_long]) } }).to_string());
    let hub = Served::hub(&user, &["--mcp-config", "mcp.json"], Some(TOKEN));
    // The server is there when it has answered a call.
    assert_eq!(hub.ask(TOKEN, "POST", &format!("/tools/a__{fits}"), &json!({})).await.0, 200);
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {} });
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": meta } });
    let request = reqwest::Client::new().post(format!("{}/mcp", hub.url)).bearer_auth(TOKEN).json(&list);
    let request = request.header("accept", "application/json, text/event-stream");
    let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/list");
    let over_mcp: Value = request.send().await.unwrap().json().await.unwrap();
    let (_, over_http) = hub.ask(TOKEN, "GET", "/tools", &Value::Null).await;
    for listed in [over_mcp["result"]["tools"].clone(), over_http["tools"].clone()] {
        let names: Vec<&str> = listed.as_array().unwrap().iter().filter_map(|tool| tool["name"].as_str()).collect();
        assert!(names.contains(&format!("a__{fits}").as_str()), "{names:?}");
        assert!(names.iter().all(|name| name.len() <= 128), "{names:?}");
    }
}
