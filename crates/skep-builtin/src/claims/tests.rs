use std::time::Duration;

use serde_json::{Value, json};
use skep_tools::error::ToolError;

use super::{ClaimFile, ListClaims, ReleaseFile, RenewClaim};
use skep_tools::shared::Shared;

use crate::testing::{Fixture, call, call_within, store};

async fn claim(fixture: &Fixture, shared: &Shared, arguments: Value) -> Result<Value, ToolError> {
    call(ClaimFile { shared: shared.clone() }, fixture, arguments).await
}

#[tokio::test]
async fn a_claim_is_shown_renewed_and_released() {
    let fixture = Fixture::new();
    let shared = store(&fixture).await;
    let held = claim(&fixture, &shared, json!({"task_id": "t", "path": "src/**", "agent_id": "ann"})).await.unwrap();
    assert_eq!((&held["path"], &held["token"], &held["shared"]), (&json!("src/**"), &json!(1), &json!(false)));
    claim(&fixture, &shared, json!({"task_id": "t", "path": "docs/*", "shared": true})).await.unwrap();
    let list = async |arguments: Value| call(ListClaims { shared: shared.clone() }, &fixture, arguments).await.unwrap();
    let all = list(json!({"task_id": "t"})).await;
    assert_eq!(all["claims"].as_array().unwrap().len(), 2);
    let src = list(json!({"task_id": "t", "path": "src/a.rs"})).await;
    assert_eq!((&src["claims"][0]["agent"], &src["claims"][0]["state"]), (&json!("ann"), &json!("held")));
    assert_eq!(src["claims"].as_array().unwrap().len(), 1);
    assert_eq!(list(json!({"task_id": "u"})).await["claims"], json!([]));

    let args = |extra: Value| {
        let mut args = json!({"task_id": "t", "path": "src/**", "token": 1});
        args.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        args
    };
    let renewed = call(RenewClaim { shared: shared.clone() }, &fixture, args(json!({"ttl_s": 3600}))).await.unwrap();
    assert!(renewed["expires_at"].as_str() > held["expires_at"].as_str(), "{renewed}");
    let release = async |arguments| call(ReleaseFile { shared: shared.clone() }, &fixture, arguments).await;
    assert_eq!(release(args(json!({}))).await.unwrap(), json!({"released": true}));
    assert_eq!(release(args(json!({}))).await.unwrap(), json!({"released": false}));
    let stale = call(RenewClaim { shared: shared.clone() }, &fixture, args(json!({}))).await.unwrap_err();
    assert_eq!(stale.to_json()["reason"], "stale_token");
    let wrong = release(json!({"task_id": "t", "path": "x", "token": 2})).await.unwrap_err();
    assert_eq!(
        (&wrong.to_json()["reason"], &wrong.to_json()["claimed"]),
        (&json!("token_of_another_path"), &json!("docs/*"))
    );
    let forced = release(json!({"task_id": "t", "path": "docs/*", "token": 2, "force": true})).await.unwrap();
    assert_eq!(forced, json!({"released": true}));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_kept_out_is_told_by_whom_and_can_wait() {
    let fixture = Fixture::new();
    let shared = store(&fixture).await;
    let first = claim(&fixture, &shared, json!({"task_id": "t", "path": "a", "agent_id": "ann"})).await.unwrap();
    let refused = claim(&fixture, &shared, json!({"task_id": "t", "path": "*"})).await.unwrap_err().to_json();
    assert_eq!(
        (&refused["code"], &refused["reason"], &refused["agent"], &refused["expires_at"]),
        (&json!("conflict"), &json!("claimed"), &json!("ann"), &first["expires_at"])
    );
    // A call whose time is over before it may stop waiting is told the same, and not that it timed out.
    let wait = json!({"task_id": "t", "path": "a", "wait_s": 300});
    let tool = ClaimFile { shared: shared.clone() };
    let short = call_within(tool, &fixture, wait.clone(), Some(Duration::from_millis(1500))).await.unwrap_err();
    assert_eq!(short.to_json()["reason"], "claimed", "{short}");
    let (got, released) = tokio::join!(claim(&fixture, &shared, wait), async {
        let args = json!({"task_id": "t", "path": "a", "token": 1});
        call(ReleaseFile { shared: shared.clone() }, &fixture, args).await
    });
    assert_eq!(released.unwrap(), json!({"released": true}));
    assert!(got.unwrap()["token"].as_i64() > Some(1));
}

#[tokio::test]
async fn times_and_globs_that_cannot_be_are_told_by_their_argument() {
    let fixture = Fixture::new();
    let shared = store(&fixture).await;
    for (arguments, pointer) in [
        (json!({"ttl_s": 0}), "/ttl_s"),
        (json!({"ttl_s": -1}), "/ttl_s"),
        (json!({"ttl_s": 31_536_000}), "/ttl_s"),
        (json!({"ttl_s": "60"}), "/ttl_s"),
        (json!({"wait_s": 301}), "/wait_s"),
        (json!({"path": "a[", }), "/path"),
        (json!({"path": "../*"}), "/path"),
        (json!({"path": "{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}"}), "/path"),
        (json!({"path": ""}), "/path"),
        (json!({"task_id": ""}), "/task_id"),
    ] {
        let mut full = json!({"task_id": "t", "path": "a"});
        full.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
        match claim(&fixture, &shared, full).await {
            Err(ToolError::InvalidArguments(faults)) => assert_eq!(faults[0].pointer, pointer, "{arguments}"),
            other => panic!("{arguments}: {other:?}"),
        }
    }
}
