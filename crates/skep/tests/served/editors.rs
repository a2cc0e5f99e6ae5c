//! Many who edit one file at the same time, at a hub and beside it, and agents that share the files of a task.

use std::process::Stdio;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::wire::Hub;

/// Editors at the hub, and in processes of their own.
const AT_THE_HUB: usize = 24;
const BESIDE_IT: usize = 8;

#[tokio::test]
async fn of_many_edits_of_one_file_none_that_was_acknowledged_is_lost() {
    let hub = Hub::start("");
    let lines: String = (0..AT_THE_HUB + BESIDE_IT).map(|n| format!("<{n}>\n")).collect();
    let written = hub.post("/tools/file_write", &[], json!({ "path": "list", "content": lines })).await;
    assert_eq!(written.json()["path"], "outputs/list");
    let edit =
        |n: usize| json!({ "path": "outputs/list", "old_text": format!("<{n}>"), "new_text": format!("done {n}") });
    let beside: Vec<_> = (AT_THE_HUB..AT_THE_HUB + BESIDE_IT)
        .map(|n| {
            let mut command = hub.user.command(&["call", "file_edit", "--args", &edit(n).to_string()]);
            (n, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    let edits = (0..AT_THE_HUB).map(async |n| (n, hub.post("/tools/file_edit", &[], edit(n)).await.json()));
    let mut answers = join_all(edits).await;
    for (n, child) in beside {
        let output = child.wait_with_output().unwrap();
        answers.push((n, serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))));
    }
    let kept = hub.post("/tools/file_read", &[], json!({ "path": "outputs/list" })).await.json();
    let kept = kept["content"].as_str().unwrap();
    for (n, answer) in &answers {
        let is_there = kept.contains(&format!("done {n}\n"));
        match answer["status"].as_str() {
            Some("ok") => assert!(is_there, "{n} was acknowledged and is lost: {kept}"),
            _ => assert!(answer["code"] == "conflict" && !is_there, "{answer}"),
        }
    }
    let done = answers.iter().filter(|(_, answer)| answer["status"] == "ok").count();
    assert!(done >= AT_THE_HUB, "{done} of {} were done", answers.len());
}

#[tokio::test]
async fn an_edit_that_starts_from_the_original_does_not_undo_another_ones() {
    let hub = Hub::start("");
    hub.user.file("notes.txt", "one two");
    let edit = async |path: &str, old: &str, new: &str| {
        let arguments = json!({ "path": path, "old_text": old, "new_text": new });
        hub.post("/tools/file_edit", &[], arguments).await
    };
    assert_eq!(edit("notes.txt", "one", "1").await.json()["path"], "outputs/notes.txt");
    let refused = edit("notes.txt", "two", "2").await;
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("conflict")), "{refused:?}");
    assert!(refused.body.contains("edit outputs/notes.txt instead"), "{refused:?}");
    assert_eq!(edit("outputs/notes.txt", "two", "2").await.status, 200);
    let kept: Value = hub.post("/tools/file_read", &[], json!({ "path": "outputs/notes.txt" })).await.json();
    assert_eq!(kept["content"], "1 2");
}

#[tokio::test]
async fn agents_of_one_task_are_kept_apart_by_claims_and_told_of_conflicts() {
    let hub = Hub::start("");
    let call = async |tool: &str, arguments: Value| hub.post(&format!("/tools/{tool}"), &[], arguments).await;
    let write = |content: &str| json!({ "task_id": "t", "agent_id": "ann", "path": "plan.md", "content": content });
    assert_eq!(call("file_write", write("1\n2\n3\n")).await.json()["revision"], 1);
    let edit = json!({ "task_id": "t", "agent_id": "bob", "path": "plan.md", "old_text": "1", "new_text": "one" });
    assert_eq!(call("file_edit", edit).await.json()["revision"], 2);

    let mut late = write("1\n2\nthree\n");
    late["base_revision"] = json!(1);
    let conflict = call("file_write", late.clone()).await;
    let told = conflict.json();
    assert_eq!((conflict.status, &told["code"], &told["reason"]), (409, &json!("conflict"), &json!("revision")));
    assert_eq!((&told["agent"], &told["merged"]), (&json!("bob"), &json!("one\n2\nthree\n")), "{told}");
    late["merge"] = json!(true);
    assert_eq!(call("file_write", late).await.json()["merged_with"], 2);

    let claim = json!({ "task_id": "t", "agent_id": "ann", "path": "*.md" });
    let token = call("claim_file", claim).await.json()["token"].clone();
    let refused = call("file_write", write("mine")).await;
    assert_eq!((refused.status, &refused.json()["reason"]), (409, &json!("claimed")), "{refused:?}");
    let claim = json!({ "task_id": "t", "agent_id": "bob", "path": "plan.md", "wait_s": 60 });
    let release = json!({ "task_id": "t", "path": "*.md", "token": token });
    let (got, released) = tokio::join!(call("claim_file", claim), call("release_file", release));
    assert_eq!(released.json()["released"], true);
    assert!(got.json()["token"].as_i64() > token.as_i64(), "{got:?}");
    let mut late = write("late");
    late["token"] = token;
    assert_eq!(call("file_write", late).await.json()["reason"], "stale_token");
    let kept = call("file_read", json!({ "task_id": "t", "path": "plan.md" })).await.json();
    assert_eq!((&kept["content"], &kept["revision"]), (&json!("one\n2\nthree\n"), &json!(3)));
}
