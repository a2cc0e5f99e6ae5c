//! Servers that want a login, from outside: a user at the command line and a hub that runs, before an MCP server and an authorization
//! server that keep to their specifications, or do not.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod place;
#[path = "../support/mod.rs"]
mod support;

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, ChildStdout, Stdio},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use self::{
    place::{Place, Setup},
    support::{Said, Served, User},
};

const HOW: &str = "run `skep servers login place`";

/// A user with a file of servers that names this one.
fn user_of(place: &Place) -> User {
    let user = User::new();
    user.file("mcp.json", &json!({ "mcpServers": { "place": { "url": format!("{}/mcp", place.url) } } }).to_string());
    user
}

fn hub(user: &User) -> Served {
    Served::start(
        user.command(&["serve", "--bind", "127.0.0.1:0", "--mcp-config", "mcp.json"]).env("SKEP_LOG", "trace"),
    )
}

/// Call a tool of the server by way of the hub.
async fn call(hub: &Served, tool: &str) -> Value {
    let request = reqwest::Client::new().post(format!("{}/tools/place__{tool}", hub.url)).json(&json!({}));
    request.send().await.unwrap().json().await.unwrap()
}

#[track_caller]
fn assert_needs_login(answer: &Value, why: &str) {
    let said = answer.to_string();
    assert!(answer["status"] != "ok" && said.contains(HOW) && said.contains(why), "{said}");
}

/// `skep servers login` that has said where the user has to go.
struct Login {
    child: Child,
    stdout: BufReader<ChildStdout>,
    url: String,
}

impl Login {
    /// What it says if it does not get so far is in the error.
    fn begin(user: &User, more: &[&str]) -> Result<Login, String> {
        let mut command = user.command(&["servers", "login", "place", "--json", "--mcp-config", "mcp.json"]);
        command.args(more).env("SKEP_LOG", "trace").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        match serde_json::from_str::<Value>(&line) {
            Ok(begun) => Ok(Login { child, stdout, url: begun["url"].as_str().unwrap().to_owned() }),
            Err(_) => Err(String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap()),
        }
    }

    /// The redirect URI, and what must come back to it.
    fn callback(&self) -> (String, String) {
        let url: reqwest::Url = self.url.parse().unwrap();
        let find = |wanted: &str| url.query_pairs().find(|(name, _)| name == wanted).unwrap().1.into_owned();
        (find("redirect_uri"), find("state"))
    }

    fn end(mut self) -> Said {
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut self.stdout, &mut rest).unwrap();
        let mut output = self.child.wait_with_output().unwrap();
        output.stdout = rest;
        Said(output)
    }
}

/// A browser follows redirects, and its user agrees to everything.
async fn log_in(user: &User) -> Said {
    let login = Login::begin(user, &[]).unwrap();
    reqwest::get(&login.url).await.unwrap();
    login.end()
}

fn kept(user: &User) -> String {
    std::fs::read_to_string(user.home().join("logins/logins.json")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_found_by_a_hub_that_runs_and_is_for_its_owner_alone() {
    let place = Place::open(Setup::default()).await;
    let user = user_of(&place);
    let hub = hub(&user);
    assert_needs_login(&call(&hub, "read").await, "wants a login");
    let status: Value = reqwest::get(format!("{}/servers/place", hub.url)).await.unwrap().json().await.unwrap();
    assert_eq!(status["state"], "needs_login");
    let listed = user.skep(&["servers", "--wait", "60s", "--mcp-config", "mcp.json"]);
    assert_eq!(listed.code(), 1);
    assert!(listed.stdout().contains("needs login") && listed.stdout().contains(HOW), "{}", listed.stdout());

    let login = log_in(&user).await.ok();
    assert_eq!(call(&hub, "read").await["status"], "ok", "without a restart");
    assert!(user.skep(&["servers", "--wait", "60s", "--mcp-config", "mcp.json"]).ok().stdout().contains("✓ place"));
    let path = user.home().join("logins/logins.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let asked = place.happened().authorizations[0].clone();
    assert_eq!((asked["resource"].as_str(), asked["scope"].as_str()), (&*format!("{}/mcp", place.url), "read"));
    let client = place.happened().registrations[0].clone();
    assert_eq!(
        (&client["application_type"], &client["redirect_uris"][0]),
        (&json!("native"), &json!(asked["redirect_uri"]))
    );

    let called = user.command(&["call", "place__read", "--mcp-config", "mcp.json"]).env("SKEP_LOG", "trace").output();
    for secret in place.happened().secrets() {
        for said in [&login.0, called.as_ref().unwrap()] {
            let said = [&*said.stdout, &*said.stderr].concat();
            assert!(!String::from_utf8_lossy(&said).contains(&secret), "{secret} is shown");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_is_renewed_once_for_all_who_call() {
    const CALLS: usize = 16;
    let place = Place::open(Setup { refusals_before_renewal: CALLS, ..Setup::default() }).await;
    let user = user_of(&place);
    log_in(&user).await.ok();
    let (one, two) = (hub(&user), hub(&user));
    for hub in [&one, &two] {
        assert_eq!(call(hub, "read").await["status"], "ok");
    }
    place.forget_tokens();
    let calls = (0..CALLS).map(|number| call(if number % 2 == 0 { &one } else { &two }, "read"));
    assert!(join_all(calls).await.iter().all(|answer| answer["status"] == "ok"));
    assert_eq!(place.happened().grants, ["authorization_code", "refresh_token"], "by two hubs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_ends() {
    let place = Place::open(Setup { expires_in: Some(0), ..Setup::default() }).await;
    let user = user_of(&place);
    log_in(&user).await.ok();
    user.skep(&["call", "place__read", "--mcp-config", "mcp.json"]).ok();
    assert_eq!(place.happened().grants[..2], ["authorization_code", "refresh_token"]);
    place.forget_logins();
    let answer = user.skep(&["call", "place__read", "--mcp-config", "mcp.json"]);
    assert!(answer.stderr().contains(HOW) && answer.stderr().contains("not good any more"), "{}", answer.stderr());
    log_in(&user).await.ok();
    user.skep(&["call", "place__read", "--mcp-config", "mcp.json"]).ok();
    assert_eq!(place.happened().registrations.len(), 1, "the client is known there already");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_more_is_asked_for_with_what_was_granted_before() {
    let place = Place::open(Setup::default()).await;
    let user = user_of(&place);
    let hub = hub(&user);
    log_in(&user).await.ok();
    assert_eq!(call(&hub, "read").await["status"], "ok");
    assert_needs_login(&call(&hub, "write").await, "lacks write");
    assert_eq!(call(&hub, "read").await["status"], "ok", "the rest goes on");
    log_in(&user).await.ok();
    assert_eq!(call(&hub, "write").await["status"], "ok");
    assert_eq!(place.happened().authorizations[1]["scope"], "read write");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_logging_out_the_token_is_gone_and_good_for_nothing() {
    let place = Place::open(Setup::default()).await;
    let user = user_of(&place);
    let hub = hub(&user);
    log_in(&user).await.ok();
    assert_eq!(call(&hub, "read").await["status"], "ok");
    let tokens = place.happened().secrets();
    assert!(tokens.iter().any(|token| kept(&user).contains(token)));
    let logged_out = user.skep(&["servers", "logout", "place", "--mcp-config", "mcp.json"]).ok();
    assert!(logged_out.stderr().contains("logged out of place; its tokens are revoked"), "{}", logged_out.stderr());
    assert!(!tokens.iter().any(|token| kept(&user).contains(token)));
    assert_eq!(place.happened().revocations, 2, "the token, and that for another one");
    assert_needs_login(&call(&hub, "read").await, "wants a login");
    log_in(&user).await.ok();
    assert_eq!(place.happened().registrations.len(), 2, "nothing is left of the first login");
    let logged_out = user.skep(&["servers", "logout", "place"]).ok();
    assert!(logged_out.stderr().contains("not configured as it was"), "{}", logged_out.stderr());
    assert_eq!(place.happened().revocations, 2);
    assert_eq!(user.skep(&["servers", "--wait", "60s", "--mcp-config", "mcp.json"]).code(), 1);
    let mistyped = user.skep(&["servers", "logout", "plase", "--mcp-config", "mcp.json"]);
    assert!(mistyped.stderr().contains("did you mean \"place\"?"), "{}", mistyped.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_forgotten_also_where_its_token_is_not_revoked() {
    let cases = [
        (json!({ "revocation_endpoint": null }), "revokes none"),
        (json!({ "revocation_endpoint": "http://127.0.0.1:1/revoke" }), "127.0.0.1"),
    ];
    for (metadata, why) in cases {
        let place = Place::open(Setup { metadata, ..Setup::default() }).await;
        let user = user_of(&place);
        log_in(&user).await.ok();
        let logged_out = user.skep(&["servers", "logout", "place", "--json", "--mcp-config", "mcp.json"]).ok();
        let said: Value = serde_json::from_str(&logged_out.stdout()).unwrap();
        assert_eq!((&said["was_logged_in"], &said["revoked"]), (&json!(true), &json!(false)));
        assert!(said["not_revoked"].as_str().unwrap().contains(why), "{said}");
        assert!(!place.happened().secrets().iter().any(|token| kept(&user).contains(token)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_at_another_address_does_not_get_the_token() {
    let (place, other) = (Place::open(Setup::default()).await, Place::open(Setup::default()).await);
    let user = user_of(&place);
    log_in(&user).await.ok();
    user.file("mcp.json", &json!({ "mcpServers": { "place": { "url": format!("{}/mcp", other.url) } } }).to_string());
    let answer = user.skep(&["call", "place__read", "--mcp-config", "mcp.json"]);
    assert!(answer.stderr().contains("wants a login"), "{}", answer.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_registered_by_hand_is_shown_to_no_other_authorization_server() {
    let (place, other) = (Place::open(Setup::default()).await, Place::open(Setup::default()).await);
    let user = User::new();
    let entry = json!({ "url": format!("{}/mcp", place.url), "oauth": { "clientId": "known" } });
    user.file("mcp.json", &json!({ "mcpServers": { "place": entry } }).to_string());
    log_in(&user).await.ok();
    assert_eq!(place.happened().authorizations[0]["client_id"], "known");
    place.happened().moved_to = Some(other.url.clone());
    place.forget_logins();
    let said = Login::begin(&user, &[]).err().unwrap();
    assert!(said.contains("the client is registered with") && said.contains(&other.url), "{said}");
    assert!(other.happened().authorizations.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_servers_that_break_the_rules_for_tokens() {
    let metadata = |metadata: Value| Setup { metadata, ..Setup::default() };
    let resource = |resource: Value| Setup { resource, ..Setup::default() };
    let cases = [
        (metadata(json!({ "issuer": "https://other.test" })), "calls itself"),
        (metadata(json!({ "code_challenge_methods_supported": null })), "PKCE"),
        (metadata(json!({ "code_challenge_methods_supported": ["plain"] })), "PKCE"),
        (
            metadata(
                json!({ "token_endpoint": "http://other.test/token", "registration_endpoint": "http://other.test/" }),
            ),
            "neither https",
        ),
        (metadata(json!({ "registration_endpoint": null })), "clientId"),
        (metadata(json!({ "padding": "x".repeat(300_000) })), "longer than 262144 bytes"),
        (resource(json!({ "resource": "https://other.test/mcp" })), "which it is not"),
        (resource(json!({ "authorization_servers": [] })), "names no authorization server"),
        (resource(json!({ "authorization_servers": ["http://other.test"] })), "neither https"),
        (Setup { redirects_to: Some("http://other.test/"), ..Setup::default() }, "neither https"),
    ];
    for (setup, why) in cases {
        let place = Place::open(setup).await;
        let said = Login::begin(&user_of(&place), &[]).err().unwrap();
        assert!(said.contains(why), "{why}: {said}");
        assert!(place.happened().authorizations.is_empty() && place.happened().grants.is_empty(), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_another_authorization_server_brings_no_token_and_its_words_are_not_shown() {
    for (iss, why) in [("https://other.test", "of another authorization server"), ("", "does not say which")] {
        let place = Place::open(Setup { iss: Some(iss), ..Setup::default() }).await;
        let said = log_in(&user_of(&place)).await;
        assert!(said.code() != 0 && said.stderr().contains(why), "{}", said.stderr());
        assert!(place.happened().grants.is_empty(), "its code goes nowhere");
    }
    let place = Place::open(Setup::default()).await;
    let login = Login::begin(&user_of(&place), &[]).unwrap();
    let (redirect_uri, state) = login.callback();
    let answer =
        format!("{redirect_uri}?state={state}&iss=https://other.test&error=x&error_description=call+this+number");
    let page = reqwest::get(answer).await.unwrap().text().await.unwrap();
    let said = login.end();
    assert!(said.code() != 0 && !said.stderr().contains("number") && !page.contains("number"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_other_logins_are_turned_away_while_the_login_goes_on() {
    let place = Place::open(Setup::default()).await;
    let login = Login::begin(&user_of(&place), &[]).unwrap();
    let (redirect_uri, state) = login.callback();
    for query in ["", "?", "?state=", "?code=stolen&state=guessed", &format!("?code=stolen&state={state}x")] {
        assert_eq!(reqwest::get(format!("{redirect_uri}{query}")).await.unwrap().status(), 400, "{query}");
    }
    assert!(place.happened().grants.is_empty());
    let page = reqwest::get(&login.url).await.unwrap();
    assert!(page.text().await.unwrap().contains("You are logged in"));
    login.end().ok();
    assert!(
        reqwest::get(format!("{redirect_uri}?code=again&state={state}")).await.is_err(),
        "nothing listens any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_nobody_makes_ends_in_time_or_at_ctrl_c_and_changes_nothing() {
    let place = Place::open(Setup::default()).await;
    let user = user_of(&place);
    let late = Login::begin(&user, &["--timeout", "1"]).unwrap().end();
    assert!(late.code() == 1 && late.stderr().contains("nobody logged in within 1 s"), "{}", late.stderr());

    let login = Login::begin(&user, &[]).unwrap();
    let (redirect_uri, _) = login.callback();
    let id = login.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(login.end().code(), 130);
    assert!(reqwest::get(redirect_uri).await.is_err(), "nothing listens any more");
    assert!(!user.home().join("logins/logins.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_servers_that_want_it_are_logged_in_to() {
    let user = User::new();
    user.file(
        "mcp.json",
        r#"{"mcpServers": {
            "command": { "command": "true" },
            "own": { "url": "http://127.0.0.1:9/mcp", "headers": { "Authorization": "Bearer x" } },
            "program": { "url": "http://127.0.0.1:9/mcp", "oauth": { "grant": "client_credentials", "clientId": "a", "clientSecret": "b" } }
        }}"#,
    );
    for (name, why) in [
        ("command", "http address"),
        ("own", "Authorization"),
        ("program", "by itself"),
        ("non", "did you mean \"own\"?"),
    ] {
        let said = user.skep(&["servers", "login", name, "--mcp-config", "mcp.json"]);
        assert!(said.code() == 1 && said.stderr().contains(why), "{name}: {}", said.stderr());
    }
}
