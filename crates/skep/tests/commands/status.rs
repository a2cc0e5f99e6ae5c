//! `skep status`.

use serde_json::{Value, json};

use crate::support::{Said, Served, User};

#[test]
fn status_tells_where_the_hub_is_and_how_it_does() {
    let user = User::new();
    let none = user.skep(&["status"]);
    assert_eq!(none.code(), 1);
    assert!(none.stdout().contains("no hub runs here"), "{}", none.stdout());
    assert_eq!(user.skep(&["status", "--json"]).json(), json!({ "hub": null, "runs": [] }));

    let server = json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"] });
    user.file("mcp.json", &json!({ "mcpServers": { "inner": server } }).to_string());
    let serve = ["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--mcp-config", "mcp.json"];
    let mut served = Served::start(&mut user.command(&serve));
    let said = user.skep(&["status"]);
    for part in [served.url.as_str(), "inner", &format!("process {}", served.child.id()), "serves "] {
        assert!(said.stdout().contains(part), "{part} in {}", said.stdout());
    }
    let hub = user.skep(&["status", "--json"]).json()["hub"].take();
    assert_eq!((&hub["urls"][0], &hub["servers"][0]["name"]), (&json!(served.url), &json!("inner")));
    assert!(hub["uptime_s"].is_u64() && hub["calls_running"].is_u64(), "{hub:#}");

    served.kill();
    assert_eq!(user.skep(&["status", "--json"]).json()["hub"], Value::Null, "what a killed hub has left is no hub");
}

#[test]
fn a_hub_that_wants_a_token_is_shown_to_its_own_user_and_its_address_to_who_does_not_get_in() {
    const TOKEN: &str = "correct-horse-battery-staple";
    let serve = ["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"];
    let user = User::new();
    let _own = Served::start(user.command(&serve).env("SKEP_TOKEN", TOKEN));
    let status = user.skep(&["status", "--json"]).json();
    assert!(status["hub"]["uptime_s"].is_u64(), "its socket lets its own user in: {status:#}");

    let user = User::new();
    let without_socket = [&serve[..], &["--unix", "none"]].concat();
    let served = Served::start(user.command(&without_socket).env("SKEP_TOKEN", TOKEN));
    let said = user.skep(&["status"]);
    assert_eq!(said.code(), 1);
    assert!(said.stdout().contains(&served.url) && said.stdout().contains("SKEP_TOKEN"), "{}", said.stdout());
    let known = Said(user.command(&["status", "--json"]).env("SKEP_TOKEN", TOKEN).output().unwrap()).json();
    assert!(known["hub"]["uptime_s"].is_u64(), "{known:#}");
}

#[test]
fn a_hub_elsewhere_is_shown_by_its_address_or_its_socket() {
    const TOKEN: &str = "correct-horse-battery-staple";
    let user = User::new();
    let serve = ["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--unix", "hub.sock"];
    let served = Served::start(user.command(&serve).env("SKEP_TOKEN", TOKEN));
    let socket = format!("unix:{}", user.workspace().join("hub.sock").display());
    user.skep(&["call", "compose", "--arg", "text=hi", "--hub", &socket]).ok();

    let elsewhere = User::new();
    let ask = |arguments: &[&str]| Said(elsewhere.command(arguments).env("SKEP_TOKEN", TOKEN).output().unwrap());
    for address in [&served.url, &socket] {
        let status = ask(&["status", "--hub", address]).ok().stdout();
        assert!(status.contains(address.as_str()) && status.contains("up "), "{status}");
        assert!(!status.contains("process") && !status.contains("serves"), "nobody knows: {status}");
        let status = ask(&["status", "--json", "--hub", address]).ok().json();
        assert_eq!((&status["hub"]["urls"], &status["hub"]["servers"]), (&json!([address]), &json!([])));
        assert_eq!(status.get("runs"), None, "those of this state directory are none of the hub's");
        let calls = ask(&["logs", "--hub", address]).ok().stdout();
        assert!(calls.contains("compose"), "{calls}");
    }
    elsewhere.skep(&["status", "--hub", &socket]).ok();
    for command in ["status", "logs"] {
        let said = elsewhere.skep(&[command, "--hub", &served.url]);
        let (shown, refusal) = (said.stdout() + &said.stderr(), "refuses (401)");
        assert!(said.code() == 1 && shown.contains(refusal) && shown.contains("SKEP_TOKEN"), "{shown}");
        let said = elsewhere.skep(&[command, "--hub", "unix:hub.sock"]);
        assert!(said.code() == 1 && said.stderr().contains("does not begin with a slash"), "{}", said.stderr());
    }
}

#[test]
fn a_hub_that_does_not_answer_is_not_waited_for_long() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let said = User::new().skep(&["status", "--hub", &url]);
    let reason = format!("the hub {url} does not answer within 5 s");
    assert!(said.code() == 1 && said.stdout().contains(&reason), "{}{}", said.stdout(), said.stderr());
}
