//! Many who edit one file at the same time, at a hub and beside it.

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
