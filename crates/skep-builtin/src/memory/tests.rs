use serde_json::{Value, json};
use skep_core::{
    app::App,
    db::{Db, Limits},
};

use super::*;
use skep_tools::shared::Shared;

use crate::testing::{Fixture, call};

/// The tools over a store of their own.
struct Memory {
    fixture: Fixture,
    shared: Shared,
}

impl Memory {
    async fn new() -> Memory {
        let fixture = Fixture::new();
        let address = format!("sqlite:{}", fixture.directory.path().join("skep.db").display());
        let app = App::new(Db::open(&address, Limits::default()).await.unwrap());
        Memory { fixture, shared: Shared(Some(app)) }
    }

    async fn store(&self, arguments: Value) -> Result<Value, ToolError> {
        call(MemoryStore { shared: self.shared.clone() }, &self.fixture, arguments).await
    }

    async fn retrieve(&self, arguments: Value) -> Value {
        call(MemoryRetrieve { shared: self.shared.clone() }, &self.fixture, arguments).await.unwrap()
    }

    async fn search(&self, arguments: Value) -> Result<Value, ToolError> {
        call(MemorySearch { shared: self.shared.clone() }, &self.fixture, arguments).await
    }

    async fn list(&self, arguments: Value) -> Value {
        call(MemoryList { shared: self.shared.clone() }, &self.fixture, arguments).await.unwrap()
    }

    async fn delete(&self, arguments: Value) -> Result<Value, ToolError> {
        call(MemoryDelete { shared: self.shared.clone() }, &self.fixture, arguments).await
    }
}

fn keys(answer: &Value) -> Vec<&str> {
    answer["entries"].as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_of_swarms_stores_it_finds_again() {
    let memory = Memory::new().await;
    let value = json!({ "language": "rust", "framework": "actix-web", "dependencies": ["tokio", "serde", "uuid"] });
    let stored = memory.store(json!({
        "swarmId": "swarm_123", "key": "project_context", "value": value, "ttl": 3600, "agentId": "agent_1"
    }));
    let stored = stored.await.unwrap();
    assert_eq!(
        (&stored["revision"], &stored["author"], &stored["agent"]),
        (&json!(1), &json!("test"), &json!("agent_1"))
    );
    assert!(stored["expires_at"].as_str().unwrap() > stored["updated_at"].as_str().unwrap(), "{stored}");
    let found = memory.retrieve(json!({ "swarmId": "swarm_123", "key": "project_context" })).await;
    assert_eq!((&found["found"], &found["value"], &found["entry"]["revision"]), (&json!(true), &value, &json!(1)));
    for name in ["task_id", "taskId", "swarm_id"] {
        assert_eq!(memory.retrieve(json!({ name: "swarm_123", "key": "project_context" })).await["value"], value);
    }
    let elsewhere = memory.retrieve(json!({ "key": "project_context" })).await;
    assert_eq!(elsewhere, json!({ "found": false, "value": null }), "the team's own memory is another");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_found_by_words_and_listed_in_pages() {
    let memory = Memory::new().await;
    for (key, value) in [("a/1", json!("red apple")), ("a/2", json!("green apple")), ("b", json!("x ".repeat(3000)))] {
        memory.store(json!({ "key": key, "value": value })).await.unwrap();
    }
    let found = memory.search(json!({ "query": "apple red" })).await.unwrap();
    assert_eq!((keys(&found), &found["total"], &found["complete"]), (vec!["a/1"], &json!(1), &json!(true)));
    assert_eq!(found["entries"][0]["value"], "red apple");
    let found = memory.search(json!({ "query": "x" })).await.unwrap();
    assert_eq!((keys(&found), &found["entries"][0]["value"]), (vec!["b"], &Value::Null), "a large value is left out");
    let page = memory.list(json!({ "limit": 2 })).await;
    assert_eq!((keys(&page), &page["next"]), (vec!["a/1", "a/2"], &json!("a/2")));
    let page = memory.list(json!({ "limit": 2, "after": "a/2" })).await;
    assert_eq!((keys(&page), &page["next"]), (vec!["b"], &Value::Null));
    assert_eq!(keys(&memory.list(json!({ "prefix": "a/" })).await), ["a/1", "a/2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_shows_what_is_there_instead() {
    let memory = Memory::new().await;
    memory.store(json!({ "key": "k", "value": [1] })).await.unwrap();
    memory.store(json!({ "key": "k", "value": [2], "base_revision": 1 })).await.unwrap();
    let conflict = memory.store(json!({ "key": "k", "value": [3], "base_revision": 1 })).await.unwrap_err();
    let said = conflict.to_json();
    assert_eq!(
        (&said["code"], &said["current"]["revision"], &said["current_value"]),
        (&json!("conflict"), &json!(2), &json!([2]))
    );
    assert_eq!(memory.delete(json!({ "key": "k", "base_revision": 1 })).await.unwrap_err().code(), "conflict");
    assert_eq!(
        memory.delete(json!({ "key": "k", "base_revision": 2 })).await.unwrap(),
        json!({ "deleted": true, "revision": 2 })
    );
    assert_eq!(memory.delete(json!({ "key": "k" })).await.unwrap(), json!({ "deleted": false }));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_arguments_are_named_and_change_nothing() {
    let memory = Memory::new().await;
    let bad = [
        json!({ "key": "k" }),
        json!({ "value": 1 }),
        json!({ "key": "k", "value": null }),
        json!({ "key": "", "value": 1 }),
        json!({ "key": "a\nb", "value": 1 }),
        json!({ "key": "k", "value": 1, "ttl": 0 }),
        json!({ "key": "k", "value": 1, "ttl": -1 }),
        json!({ "key": "k", "value": 1, "ttl": 366 * 24 * 3600 + 1 }),
        json!({ "key": "k", "value": 1, "base_revision": -1 }),
        json!({ "key": "k", "value": 1, "task_id": "a", "swarmId": "b" }),
        json!({ "key": "k", "value": "x".repeat(1 << 20) }),
        json!({ "key": "k", "value": 1, "colour": "red" }),
    ];
    for arguments in bad {
        let error = memory.store(arguments.clone()).await.unwrap_err();
        assert_eq!(error.code(), "invalid_arguments", "{error}");
    }
    for query in ["--", &"a".repeat(2000), &(0..20).map(|n| n.to_string()).collect::<Vec<_>>().join(" ")] {
        assert_eq!(memory.search(json!({ "query": query })).await.unwrap_err().code(), "invalid_arguments", "{query}");
    }
    assert_eq!(memory.list(json!({})).await, json!({ "entries": [] }));
}

#[tokio::test]
async fn without_a_store_the_tool_says_where_there_is_one() {
    let error = call(MemoryList { shared: Shared(None) }, &Fixture::new(), json!({})).await.unwrap_err();
    assert_eq!(error.code(), "unavailable");
    assert!(error.to_string().contains("skep serve"), "{error}");
}
