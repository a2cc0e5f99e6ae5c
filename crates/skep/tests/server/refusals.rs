//! Refusals that no other test is about: each listener's, in the words and codes that callers and operators see.

use std::{path::Path, sync::Arc};

use insta::assert_snapshot;
use serde_json::json;
use skep_hub::{
    hub::{
        calls::{Calls, Limits},
        catalogue::Catalogue,
    },
    server::{Controls, Listeners, Options, Parts, Tls, Token},
};
use skep_tools::workspace::Dir;

use crate::{
    mcp::{Lines, TOKEN, call, message},
    support::{Hub, STALL},
};

// ---- HTTP

#[tokio::test]
async fn what_is_not_http_is_refused_and_the_connection_ends() {
    let hub = Hub::start(Options::default()).await;
    for noise in [
        "hello\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
        "GET /tools HTTP/1.1\r\nhost localhost\r\n\r\n",
        "GET /tools HTTP/1.1\r\nhost : localhost\r\n\r\n",
        "GET /tools HTTP/1.1\r\nhost: localhost\r\n folded\r\n\r\n",
        "GET /tools HTTP/9.9\r\nhost: localhost\r\n\r\n",
        "POST /process HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        "POST /process HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n{}",
        "POST /process HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n{}",
    ] {
        let mut connection = hub.connect().await;
        connection.write(noise).await;
        assert_eq!(connection.answer().await, "400 ", "{noise:?}");
        assert_eq!(connection.answer().await, "closed", "{noise:?}");
    }
}

#[tokio::test]
async fn a_body_whose_chunks_are_none_is_refused() {
    let hub = Hub::start(Options::default()).await;
    let mut connection = hub.connect().await;
    connection
        .write("POST /process HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nz\r\n{}\r\n")
        .await;
    assert_snapshot!(connection.answer().await, @r#"400 {"status":"error","code":"cut_off","message":"the body is cut off, or its chunks are not well-formed"}"#);
    assert_eq!(connection.answer().await, "closed");
}

#[tokio::test]
async fn an_address_that_is_not_well_formed_is_refused() {
    let hub = Hub::start(Options::default()).await;
    assert!(hub.get("/tools/%FF").await.starts_with(r#"400 {"status":"error","code":"bad_request""#));
    assert!(hub.send("POST", "/messages", &[], "{}").await.starts_with("400 "), "it names no session");
}

#[tokio::test]
async fn requests_of_a_session_say_what_the_session_can_answer() {
    let hub = Hub::start(Options::default()).await;
    let client = json!({ "name": "test", "version": "1" });
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client });
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/mcp", hub.address);
    let opened = http.post(&url).body(message(0, "initialize", params).to_string()).send().await.unwrap();
    let id = opened.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let session = ("mcp-session-id", id.as_str());
    let events = ("accept", "text/event-stream");
    let get = async |last| hub.send("GET", "/mcp", &[session, events, ("last-event-id", last)], "").await;
    assert_snapshot!(get("yesterday").await, @"400 Last-Event-ID is not an id that this server gave");
    assert_snapshot!(get("999_1").await, @"404 this stream is not kept any more; send the request again");
    let ping = message(1, "ping", json!({})).to_string();
    let post = async |headers: &[(&str, &str)], body: &str| hub.send("POST", "/mcp", headers, body).await;
    assert_snapshot!(post(&[session, ("mcp-protocol-version", "1999-01-01")], &ping).await, @r#"400 {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"MCP-Protocol-Version names no revision that has sessions"}}"#);
    assert_snapshot!(post(&[session], &format!("[{ping}]")).await, @r#"400 {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batches ended with 2025-03-26; send one message at a time"}}"#);
    assert_snapshot!(post(&[("mcp-session-id", "gone")], &ping).await, @r#"404 {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"there is no such session (any more); send initialize to begin another"}}"#);
    assert_snapshot!(post(&[], &ping).await, @r#"400 {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"this is neither a request with the metadata of 2026-07-28 (params._meta) nor one of a session: send initialize, and then the Mcp-Session-Id that comes with its answer"}}"#);
    assert_snapshot!(post(&[("mcp-protocol-version", "2026-07-28")], &format!("[{ping}]")).await, @r#"400 {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"the body must be one request or one notification (2026-07-28)"}}"#);
    assert_snapshot!(hub.send("GET", "/mcp", &[("mcp-protocol-version", "2026-07-28")], "").await, @"405 allow=POST 2026-07-28 has only POST here");
    assert_snapshot!(hub.send("POST", "/messages?sessionId=gone", &[], &ping).await, @"404 there is no such session (any more); open /sse to begin another");
}

// ---- lines on TCP

#[tokio::test]
async fn a_connection_with_lines_above_the_limit_is_told_so() {
    let hub = Hub::start(Options { connections_max: 1, ..Options::default() }).await;
    let mut first = Lines::connect(&hub).await;
    assert_eq!(first.ask(&message(1, "ping", json!({}))).await["result"]["status"], "ok");
    let mut second = Lines::connect(&hub).await;
    let refused = second.ask(&message(1, "ping", json!({}))).await;
    assert_snapshot!(refused, @r#"{"jsonrpc":"2.0","id":null,"error":{"code":-31000,"message":"1 connections are open, and no more are taken; try again in a moment"}}"#);
    assert_eq!(second.rest().await, "");
}

#[tokio::test]
async fn what_comes_before_the_token_is_refused_and_what_is_no_message_hears_nothing() {
    let hub = Hub::start(Options { token: Some(Token::new(TOKEN).unwrap()), ..Options::default() }).await;
    let mut lines = Lines::connect(&hub).await;
    assert_snapshot!(lines.ask(&message(1, "ping", json!({}))).await, @r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"this hub wants its token first: {\"method\":\"authenticate\",\"params\":{\"token\":\"…\"}}"}}"#);
    assert_eq!(lines.rest().await, "");
    let long = message(1, "authenticate", json!({ "token": TOKEN, "padding": "x".repeat(5000) }));
    for first in [
        "hello".to_owned(),
        "[]".to_owned(),
        "7".to_owned(),
        json!({ "method": "authenticate" }).to_string(),
        long.to_string(),
    ] {
        let mut lines = Lines::connect(&hub).await;
        lines.send(&format!("{first}\n")).await;
        assert_eq!(lines.rest().await, "", "{first:.50}");
    }
}

#[tokio::test]
async fn a_hub_that_stops_refuses_calls_on_connections_that_are_open() {
    let mut hub = Hub::start(Options::default()).await;
    let (mut lines, mut busy, mut http) = (Lines::connect(&hub).await, hub.connect().await, hub.connect().await);
    assert_eq!(lines.ask(&message(1, "ping", json!({}))).await["result"]["status"], "ok");
    http.send("GET", "/health/live", &[], "").await;
    http.answer().await;
    busy.send("POST", "/process", &[], STALL).await;
    hub.told("running").await;
    hub.shutdown.cancel();
    hub.stopped_listening().await;
    assert_snapshot!(lines.ask(&call(2, "echo", json!({ "text": "hi" }))).await, @r#"{"jsonrpc":"2.0","id":2,"error":{"code":-31000,"message":"this hub is stopping and takes no new calls"}}"#);
    http.send("POST", "/tools/echo", &[], r#"{"text":"hi"}"#).await;
    assert_snapshot!(http.answer().await, @r#"503 retry-after=1 {"status":"error","code":"draining","message":"this hub is stopping and takes no new calls"}"#);
    hub.release.add_permits(1);
    assert_eq!(busy.answer().await, r#"200 {"status":"ok"}"#);
    hub.stopped.await.unwrap();
}

// ---- what a hub does not become

/// A hub that is open, and not served.
async fn open(options: Options, directory: &Path) -> Result<(Controls, Listeners), String> {
    let dir = Dir::open(directory).unwrap();
    let parts = Parts {
        name: "test".into(),
        calls: Arc::new(Calls::new(Catalogue::new([]), dir.clone(), dir, Limits::default())),
        store: None,
        probes: Vec::new(),
    };
    let options = Options { bind: vec!["127.0.0.1:0".to_owned()], ..options };
    let listeners = Listeners::open(options, parts).await.map_err(|error| error.to_string())?;
    Ok((listeners.controls(), listeners))
}

fn certificate(directory: &Path) -> Tls {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    Tls::read(&certificate, &key).unwrap()
}

#[tokio::test]
async fn what_only_a_start_can_change_is_refused_while_the_hub_runs() {
    let directory = tempfile::tempdir().unwrap();
    let (token, tls) = (Some(Token::new(TOKEN).unwrap()), certificate(directory.path()));
    let (bare, _listeners) = open(Options::default(), directory.path()).await.unwrap();
    let closed = Options { token: token.clone(), tls: Some(tls.clone()), ..Options::default() };
    let (closed, _closed_listeners) = open(closed, directory.path()).await.unwrap();
    assert_snapshot!(bare.set_tokens(token.clone(), Default::default()).unwrap_err(), @"callers of this hub need no token, and now one is configured; restart the hub to have it so");
    assert_snapshot!(closed.set_tokens(None, Default::default()).unwrap_err(), @"callers of this hub need a token, and none is configured any more; restart the hub to have it so");
    assert_snapshot!(bare.set_tls(Some(&tls)).unwrap_err(), @"the hub does not speak TLS, and now it has a certificate; restart the hub to have it so");
    assert_snapshot!(closed.set_tls(None).unwrap_err(), @"the hub speaks TLS, and no certificate is configured any more; restart the hub to have it so");
    assert!(
        !bare.set_tokens(None, Default::default()).unwrap() && !closed.set_tokens(token, Default::default()).unwrap()
    );
}

#[tokio::test]
async fn a_unix_socket_that_cannot_be_had_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), "mine").unwrap();
    let unix = async |path: &Path| {
        let options = Options { unix: Some(path.to_owned()), ..Options::default() };
        let refused = open(options, directory.path()).await.err().unwrap_or_else(|| "open".to_owned());
        refused.replace(directory.path().to_str().unwrap(), "/run")
    };
    assert_snapshot!(unix(&at("file")).await, @"cannot listen on /run/file: there is a file that is no socket");
    assert_eq!(std::fs::read(at("file")).unwrap(), b"mine");
    assert!(unix(&at("missing/hub.sock")).await.contains("No such file or directory"));
    assert!(unix(&at(&"x".repeat(200))).await.starts_with("cannot listen on /run/xxx"), "longer than addresses are");
    let optional = Options { unix_if_free: Some(at("file")), ..Options::default() };
    let (_, listeners) = open(optional, directory.path()).await.unwrap();
    assert_eq!(listeners.unix(), None, "it is done without");
}
