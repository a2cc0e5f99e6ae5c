//! The tools for files, on the files of a task's workspace.

use serde_json::{Value, json};
use skep_core::limits::FILE_BYTES_MAX;
use skep_tools::error::ToolError;

use super::{FileDelete, FileEdit, FileHistory, FileRead, FileWrite, ListFiles, ListRevisions};
use skep_tools::shared::Shared;

use crate::{
    claims::ClaimFile,
    testing::{Fixture, call, store},
};

/// An empty workspace `t`.
struct Workspace {
    fixture: Fixture,
    shared: Shared,
}

impl Workspace {
    async fn new() -> Workspace {
        let fixture = Fixture::new();
        let shared = store(&fixture).await;
        Workspace { fixture, shared }
    }

    /// Call a tool, in `t` unless the arguments say otherwise.
    async fn call(&self, tool: &str, mut arguments: Value) -> Result<Value, ToolError> {
        let members = arguments.as_object_mut().unwrap();
        members.entry("task_id").or_insert(json!("t"));
        let (shared, fixture) = (self.shared.clone(), &self.fixture);
        match tool {
            "file_read" => call(FileRead { shared }, fixture, arguments).await,
            "file_write" => call(FileWrite { shared }, fixture, arguments).await,
            "file_edit" => call(FileEdit::new(shared), fixture, arguments).await,
            "file_delete" => call(FileDelete { shared }, fixture, arguments).await,
            "file_history" => call(FileHistory { shared }, fixture, arguments).await,
            "list_revisions" => call(ListRevisions { shared }, fixture, arguments).await,
            "list_files" => call(ListFiles { shared }, fixture, arguments).await,
            "claim_file" => call(ClaimFile { shared }, fixture, arguments).await,
            other => panic!("{other}"),
        }
    }

    async fn ok(&self, tool: &str, arguments: Value) -> Value {
        self.call(tool, arguments).await.unwrap()
    }

    /// The members of a conflict.
    async fn conflict(&self, tool: &str, arguments: Value) -> Value {
        let error = self.call(tool, arguments).await.unwrap_err();
        assert_eq!(error.code(), "conflict", "{error}");
        error.to_json()
    }

    async fn content(&self, path: &str) -> Value {
        self.ok("file_read", json!({ "path": path })).await["content"].clone()
    }
}

#[tokio::test]
async fn a_file_is_shared_by_all_who_work_on_a_task_and_by_nobody_else() {
    let w = Workspace::new().await;
    let written = w.ok("file_write", json!({"path": "src/a.txt", "content": "one\ntwo\n", "agent_id": "ann"})).await;
    assert_eq!((&written["revision"], &written["size"], &written["path"]), (&json!(1), &json!(8), &json!("src/a.txt")));
    let read = w.ok("file_read", json!({"path": "./src/a.txt", "offset": 2})).await;
    assert_eq!(
        (&read["content"], &read["revision"], &read["sha256"]),
        (&json!("two\n"), &json!(1), &written["sha256"])
    );
    let elsewhere = w.call("file_read", json!({"path": "src/a.txt", "task_id": "u"})).await.unwrap_err();
    assert!(elsewhere.to_string().contains("there is no file src/a.txt"), "{elsewhere}");
    let outside = call(FileRead::default(), &w.fixture, json!({"path": "src/a.txt"})).await.unwrap_err();
    assert_eq!(outside.code(), "failed", "the directory of the hub has no such file");
    let again = w.ok("file_write", json!({"path": "src/a.txt", "content": "one\ntwo\n", "base_revision": 1})).await;
    assert_eq!((&again["revision"], &again["unchanged"]), (&json!(1), &json!(true)));
}

#[tokio::test]
async fn a_conflict_shows_both_sides_the_diff_and_what_both_changes_make_of_the_file() {
    let w = Workspace::new().await;
    w.ok("file_write", json!({"path": "a", "content": "1\n2\n3\n4\n5\n"})).await;
    w.ok("file_write", json!({"path": "a", "content": "one\n2\n3\n4\n5\n", "base_revision": 1, "agent_id": "bob"}))
        .await;
    let mine = json!({"path": "a", "content": "1\n2\n3\n4\nfive\n", "base_revision": 1});
    let conflict = w.conflict("file_write", mine.clone()).await;
    assert_eq!(
        conflict["message"],
        "a is at revision 2, not 1, so it was not changed; read it again, and make the change anew"
    );
    for (name, value) in [
        ("reason", json!("revision")),
        ("base_revision", json!(1)),
        ("current_revision", json!(2)),
        ("author", json!("test")),
        ("agent", json!("bob")),
        ("content", json!("one\n2\n3\n4\n5\n")),
        ("diff", json!("--- a\n+++ a\n@@ -1,4 +1,4 @@\n-1\n+one\n 2\n 3\n 4\n")),
        ("mergeable", json!(true)),
        ("merged", json!("one\n2\n3\n4\nfive\n")),
    ] {
        assert_eq!(conflict[name], value, "{name} in {conflict}");
    }
    let mut merge = mine.clone();
    merge["merge"] = json!(true);
    let merged = w.ok("file_write", merge).await;
    assert_eq!((&merged["revision"], &merged["merged_with"]), (&json!(3), &json!(2)));
    assert_eq!(w.content("a").await, "one\n2\n3\n4\nfive\n");

    let overlaps = json!({"path": "a", "content": "uno\n2\n3\n4\n5\n", "base_revision": 1, "merge": true});
    let conflict = w.conflict("file_write", overlaps).await;
    assert_eq!((&conflict["mergeable"], conflict.get("merged")), (&json!(false), None));
    let new = w.conflict("file_write", json!({"path": "a", "content": "x", "base_revision": 0})).await;
    assert_eq!((&new["current_revision"], &new["mergeable"]), (&json!(3), &json!(false)));
    assert_eq!(w.content("a").await, "one\n2\n3\n4\nfive\n");
}

#[tokio::test]
async fn an_edit_is_made_on_what_is_there_or_on_what_its_author_has_read() {
    let w = Workspace::new().await;
    w.ok("file_write", json!({"path": "a", "content": "1\n2\n3\n4\n"})).await;
    let edited = w.ok("file_edit", json!({"path": "a", "old_text": "1", "new_text": "one"})).await;
    assert_eq!((&edited["revision"], &edited["replaced"]), (&json!(2), &json!(1)));
    let diff = "@@ -3,2 +3,2 @@\n 3\n-4\n+four\n";
    let conflict = w.conflict("file_edit", json!({"path": "a", "diff": diff, "base_revision": 1})).await;
    assert_eq!(conflict["merged"], "one\n2\n3\nfour\n");
    let merged = w.ok("file_edit", json!({"path": "a", "diff": diff, "base_revision": 1, "merge": true})).await;
    assert_eq!((&merged["revision"], &merged["merged_with"]), (&json!(3), &json!(2)));
    assert_eq!(w.content("a").await, "one\n2\n3\nfour\n");
    let absent = w.call("file_edit", json!({"path": "b", "old_text": "1", "new_text": "2"})).await.unwrap_err();
    assert_eq!(absent.code(), "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_edits_at_once_none_is_lost() {
    let w = Workspace::new().await;
    let lines: String = (0..6).map(|n| format!("<{n}>\n")).collect();
    w.ok("file_write", json!({"path": "list", "content": lines})).await;
    let edits = (0..6).map(|n| {
        let edit = json!({"path": "list", "old_text": format!("<{n}>"), "new_text": "done", "agent_id": n.to_string()});
        w.ok("file_edit", edit)
    });
    futures_util::future::join_all(edits).await;
    assert_eq!(w.content("list").await, "done\n".repeat(6));
}

#[tokio::test]
async fn while_a_file_is_claimed_every_change_needs_the_token() {
    let w = Workspace::new().await;
    w.ok("file_write", json!({"path": "src/a", "content": "one"})).await;
    let claim = w.ok("claim_file", json!({"path": "src/*", "agent_id": "ann"})).await;
    let token = claim["token"].clone();
    for (tool, mut arguments) in [
        ("file_write", json!({"path": "src/a", "content": "two"})),
        ("file_edit", json!({"path": "src/a", "old_text": "two", "new_text": "three"})),
        ("file_delete", json!({"path": "src/a"})),
    ] {
        if tool == "file_edit" {
            // What it would edit is there by now.
            assert_eq!(w.content("src/a").await, "two");
        }
        let refused = w.conflict(tool, arguments.clone()).await;
        assert_eq!((&refused["reason"], &refused["agent"]), (&json!("claimed"), &json!("ann")), "{refused}");
        assert_eq!((&refused["claimed"], &refused["expires_at"]), (&json!("src/*"), &claim["expires_at"]));
        arguments["token"] = json!(99);
        assert_eq!(w.conflict(tool, arguments.clone()).await["reason"], "unknown_token");
        arguments["token"] = token.clone();
        w.ok(tool, arguments).await;
    }
    let deleted = w.call("file_read", json!({"path": "src/a"})).await.unwrap_err();
    assert!(deleted.to_string().contains("was deleted in revision 4"), "{deleted}");
    let elsewhere = w.conflict("file_write", json!({"path": "b", "content": "", "token": token})).await;
    assert_eq!(elsewhere["reason"], "token_of_another_path");
}

#[tokio::test]
async fn the_history_shows_who_changed_what_and_earlier_revisions_are_read() {
    let w = Workspace::new().await;
    w.ok("file_write", json!({"path": "a", "content": "one\n", "agentId": "ann"})).await;
    w.ok("file_write", json!({"path": "a", "content": "two\n", "base_revision": 1, "agent_id": "bob"})).await;
    w.ok("file_delete", json!({"path": "a", "agent_id": "ann"})).await;
    let history = w.ok("file_history", json!({"path": "a", "diffs": true})).await;
    let of = |n: usize, name: &str| history["revisions"][n][name].clone();
    assert_eq!(history["revisions"].as_array().unwrap().len(), 3);
    assert_eq!((of(0, "sha256"), of(0, "diff")), (json!(null), json!("--- a\n+++ a\n@@ -1 +0,0 @@\n-two\n")));
    assert_eq!((of(1, "agent"), of(1, "base_revision")), (json!("bob"), json!(1)));
    assert_eq!(of(1, "diff"), "--- a\n+++ a\n@@ -1 +1 @@\n-one\n+two\n");
    assert_eq!((of(2, "revision"), of(2, "base_revision"), of(2, "author")), (json!(1), json!(null), json!("test")));
    let page = w.ok("file_history", json!({"path": "a", "limit": 2})).await;
    assert_eq!((page["revisions"].as_array().unwrap().len(), &page["next"]), (2, &json!(2)));
    let first = w.ok("file_read", json!({"path": "a", "revision": 1})).await;
    assert_eq!(first["content"], "one\n");
    for (tool, arguments) in [
        ("file_read", json!({"path": "a", "revision": 9})),
        ("file_read", json!({"path": "a", "revision": 3})),
        ("file_history", json!({"path": "never"})),
    ] {
        assert_eq!(w.call(tool, arguments.clone()).await.unwrap_err().code(), "failed", "{arguments}");
    }
}

#[tokio::test]
async fn files_are_listed_by_directory_and_by_pattern() {
    let w = Workspace::new().await;
    for path in ["a.rs", "src/b.rs", "src/[x]/c.rs", "src/[x]/d.md", "sr"] {
        w.ok("file_write", json!({"path": path, "content": path})).await;
    }
    let paths = async |arguments: Value| -> Vec<String> {
        let listed = w.ok("list_files", arguments).await;
        listed["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(json!({})).await, ["a.rs", "sr", "src/[x]/c.rs", "src/[x]/d.md", "src/b.rs"]);
    assert_eq!(paths(json!({"recursive": false})).await, ["a.rs", "sr", "src"]);
    assert_eq!(paths(json!({"path": "src/", "recursive": false})).await, ["src/[x]", "src/b.rs"]);
    assert_eq!(paths(json!({"glob": "*.rs"})).await, ["a.rs", "src/[x]/c.rs", "src/b.rs"]);
    assert_eq!(paths(json!({"path": "src/[x]", "glob": "*.rs"})).await, ["src/[x]/c.rs"]);
    assert_eq!(paths(json!({"glob": "/*.rs"})).await, ["a.rs"]);
    let page = w.ok("list_files", json!({"limit": 2})).await;
    assert_eq!(
        (&page["next"], &page["truncated"], &page["files"][0]["revision"]),
        (&json!("sr"), &json!(true), &json!(1))
    );
    assert_eq!(paths(json!({"limit": 1, "after": "sr"})).await, ["src/[x]/c.rs"]);
}

#[tokio::test]
async fn binary_files_and_the_largest_ones_come_back_to_the_byte() {
    let w = Workspace::new().await;
    w.ok("file_write", json!({"path": "bin", "content": "AJ8=", "encoding": "base64"})).await;
    let read = w.ok("file_read", json!({"path": "bin", "encoding": "base64"})).await;
    assert_eq!((&read["content"], &read["size"]), (&json!("AJ8="), &json!(2)));
    assert_eq!(w.call("file_read", json!({"path": "bin"})).await.unwrap_err().code(), "failed");
    w.ok("file_write", json!({"path": "bin", "content": "AJ4=", "encoding": "base64", "base_revision": 1})).await;
    let mine = json!({"path": "bin", "content": "AJ0=", "encoding": "base64", "base_revision": 1, "merge": true});
    let conflict = w.conflict("file_write", mine).await;
    assert_eq!((&conflict["content"], &conflict["encoding"]), (&json!("AJ4="), &json!("base64")));
    assert_eq!((conflict.get("diff"), &conflict["mergeable"]), (None, &json!(false)));

    let large = "x".repeat(FILE_BYTES_MAX);
    w.ok("file_write", json!({"path": "large", "content": large})).await;
    let read = w.ok("file_read", json!({"path": "large", "encoding": "base64"})).await;
    assert_eq!(read["content"].as_str().unwrap().len(), FILE_BYTES_MAX.div_ceil(3) * 4);
    let refused = w.call("file_write", json!({"path": "large", "content": format!("{large}x")})).await.unwrap_err();
    let told = refused.to_json();
    assert_eq!((&told["size"], &told["size_max"]), (&json!(10_485_761), &json!(10_485_760)));
}

#[tokio::test]
async fn bad_paths_and_contradictions_are_told_by_their_argument() {
    let w = Workspace::new().await;
    for (path, why) in [
        ("/etc/passwd", "absolute"),
        ("a/../b", "leads out"),
        ("a\0b", "control character"),
        ("a\\b", "backslash"),
        ("a/", "empty name"),
        ("a\u{202e}b", "invisible"),
    ] {
        for (tool, arguments) in [
            ("file_write", json!({"path": path, "content": ""})),
            ("file_read", json!({"path": path})),
            ("file_delete", json!({"path": path})),
            ("file_history", json!({"path": path})),
        ] {
            let refused = w.call(tool, arguments).await.unwrap_err();
            assert_eq!(refused.code(), "invalid_arguments", "{refused}");
            assert!(refused.to_string().starts_with("path: ") && refused.to_string().contains(why), "{refused}");
        }
    }
    w.ok("file_write", json!({"path": "README", "content": ""})).await;
    let twin = w.conflict("file_write", json!({"path": "readme", "content": ""})).await;
    assert_eq!((&twin["reason"], &twin["existing"]), (&json!("twin"), &json!("README")));
    let below = w.conflict("file_write", json!({"path": "README/x", "content": ""})).await;
    assert_eq!(below["reason"], "file_and_directory");
    let sha256 = "0".repeat(64);
    let both = w.call("file_write", json!({"path": "a", "content": "", "base_sha256": sha256})).await.unwrap_err();
    assert_eq!(both.code(), "invalid_arguments");
    let alone = json!({"path": "a", "content": "", "base_revision": 1});
    let alone = call(FileWrite::default(), &w.fixture, alone).await.unwrap_err();
    assert!(alone.to_string().contains("task_id"), "{alone}");
    let no_store = call(FileRead::default(), &w.fixture, json!({"path": "a", "task_id": "t"})).await.unwrap_err();
    assert_eq!(no_store.code(), "unavailable");
}

#[tokio::test]
async fn the_revisions_of_all_files_are_listed_by_whom_where_and_since_when() {
    let workspace = Workspace::new().await;
    for (agent, path) in [("ann", "src/a"), ("bob", "src/b"), ("ann", "doc")] {
        workspace.ok("file_write", json!({ "path": path, "content": agent, "agent_id": agent })).await;
    }
    workspace.ok("file_delete", json!({ "path": "src/b", "agent_id": "ann" })).await;
    let list = async |arguments: Value| {
        let answer = workspace.ok("list_revisions", arguments).await;
        let of = |entry: &Value| format!("{} {}", entry["path"].as_str().unwrap(), entry["revision"]);
        let all: Vec<String> = answer["revisions"].as_array().unwrap().iter().map(of).collect();
        (all, answer)
    };
    let (all, answer) = list(json!({})).await;
    assert_eq!(all, ["src/b 2", "doc 1", "src/b 1", "src/a 1"]);
    assert_eq!((&answer["revisions"][0]["sha256"], &answer["revisions"][0]["agent"]), (&Value::Null, &json!("ann")));
    assert_eq!(list(json!({ "path": "src/" })).await.0, ["src/b 2", "src/b 1", "src/a 1"]);
    assert_eq!(list(json!({ "by": "bob" })).await.0, ["src/b 1"]);
    assert_eq!(list(json!({ "by": "test" })).await.0.len(), 4, "the principal of all");
    assert_eq!(list(json!({ "since": "2999-01-01T00:00:00Z" })).await.0.len(), 0);
    let (first, answer) = list(json!({ "limit": 3 })).await;
    let (rest, _) = list(json!({ "before": answer["next"] })).await;
    assert_eq!([first, rest].concat(), all);
    for wrong in [json!({ "before": "x" }), json!({ "since": "yesterday" }), json!({ "path": "../x" })] {
        let error = workspace.call("list_revisions", wrong).await.unwrap_err();
        assert_eq!(error.code(), "invalid_arguments", "{error}");
    }
}
