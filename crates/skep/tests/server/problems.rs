//! What goes wrong and what is shown, as programs read it: problems (RFC 9457), and answers with schemas.

use insta::assert_snapshot;
use schemars::schema_for;
use skep_hub::{api, problem, server::Options};

use crate::{
    http::body,
    support::{ECHO, ECHOED, Hub},
};

#[tokio::test]
async fn a_program_that_asks_for_problems_gets_them_with_their_fields() {
    let hub = Hub::start(Options::default()).await;
    let accept = [("accept", "application/json, application/problem+json")];
    let process = async |body: &str| hub.send("POST", "/process", &accept, body).await;
    assert_eq!(process(ECHO).await, ECHOED);
    assert_snapshot!(process(r#"{"tool":"ecko"}"#).await, @r#"404 {"type":"/problems/unknown_tool","title":"There is no such tool","status":404,"detail":"Unknown tool \"ecko\"; did you mean \"echo\"?","code":"unknown_tool","nearest":"echo"}"#);
    assert_snapshot!(process(r#"{"tool":"echo","args":{"text":1}}"#).await, @r#"422 {"type":"/problems/invalid_arguments","title":"The arguments do not fit the tool","status":422,"detail":"text: must be text, not a number","code":"invalid_arguments","faults":[{"pointer":"/text","message":"must be text, not a number"}]}"#);
    assert_snapshot!(process(r#"{"tool":"fail","args":{"with":"failed"}}"#).await, @r#"422 {"type":"/problems/failed","title":"The tool failed","status":422,"detail":"it exited with code 1","code":"failed","output":{"exit_code":1}}"#);
    assert_snapshot!(process(r#"{"tool":"stall","timeout":0.01}"#).await, @r#"504 {"type":"/problems/timed_out","title":"The tool ran out of time","status":504,"detail":"stall timed out after 0.01s","code":"timed_out","deadline_ms":10,"output":{"may_have_run":true}}"#);
    assert_snapshot!(process(r#"{"tool":"fail","args":{"with":"unavailable"}}"#).await, @r#"501 {"type":"/problems/unavailable","title":"It is not available on this machine","status":501,"detail":"no such thing","code":"unavailable","cure":"get one"}"#);
    assert_snapshot!(process(r#"{"tool":"fail","args":{"with":"busy"}}"#).await, @r#"503 retry-after=1 {"type":"/problems/busy","title":"The hub has too much to do","status":503,"detail":"too much at once","code":"busy","retry_after_ms":1000}"#);
    assert_snapshot!(process("hello").await, @r#"400 {"type":"/problems/bad_json","title":"The body is not JSON","status":400,"detail":"the body is not JSON: expected value at line 1 column 1","code":"bad_json"}"#);
    let denied = hub.send("POST", "/tools/fail", &accept, r#"{"with":"denied"}"#).await;
    assert_snapshot!(denied, @r#"403 {"type":"/problems/denied","title":"It is not allowed","status":403,"detail":"not allowed","code":"denied"}"#);
}

#[tokio::test]
async fn a_problem_has_a_media_type_of_its_own() {
    let hub = Hub::start(Options::default()).await;
    assert_eq!(hub.media_type("/nothing").await, "application/problem+json");
    assert_eq!(hub.media_type("/tools/nothing").await, "application/json");
    assert_eq!(hub.media_type("/health").await, "application/json");
}

#[tokio::test]
async fn the_type_of_every_problem_can_be_looked_up() {
    let hub = Hub::start(Options::default()).await;
    for kind in problem::Kind::ALL {
        let shown = body(&hub.get(&kind.type_reference()).await);
        assert_eq!(
            (shown["type"].as_str(), shown["title"].as_str(), shown["status"].as_u64()),
            (Some(&*kind.type_reference()), Some(kind.title()), Some(u64::from(kind.status())))
        );
    }
    let unknown = hub.get("/problems/none").await;
    assert_snapshot!(unknown, @r#"404 {"type":"/problems/not_found","title":"There is nothing at this path","status":404,"detail":"there is no kind of problem \"none\"","code":"not_found"}"#);
    let page = hub.send("GET", "/problems/busy", &[("accept", "text/html")], "").await;
    assert!(page.contains("<h1>The hub has too much to do</h1>"), "{page}");
}

#[tokio::test]
async fn what_is_shown_fits_its_schema() {
    let hub = Hub::start(Options::default()).await;
    assert_eq!(hub.process(ECHO).await, ECHOED); // so that there is a call to show
    for (path, schema, is_open) in [
        ("/", schema_for!(api::Index), false),
        ("/tools", schema_for!(api::Tools), false),
        ("/servers", schema_for!(api::Servers), false),
        ("/calls", schema_for!(api::Calls), false),
        ("/health", schema_for!(api::Health), true),
        ("/health/live", schema_for!(api::Liveness), false),
        ("/health/ready", schema_for!(api::Readiness), false),
        ("/problems/busy", schema_for!(api::ProblemKind), false),
        ("/nothing", schema_for!(problem::Body), false),
    ] {
        let (schema, shown) = (schema.to_value(), body(&hub.get(path).await));
        if let Err(error) = jsonschema::validator_for(&schema).unwrap().validate(&shown) {
            panic!("{path}: {error}: {shown}");
        }
        let is_known = |name: &String| is_open || schema["properties"].get(name).is_some();
        assert!(shown.as_object().unwrap().keys().all(is_known), "{path}: {shown}");
    }
}
