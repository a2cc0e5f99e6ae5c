//! `skep steps`, and what `skep prune` and `skep du` say of what agents share.

use serde_json::json;

use crate::support::User;

#[test]
fn steps_of_a_task_are_logged_and_listed() {
    let user = User::new();
    let skep = |arguments: &[&str]| user.skep(&[arguments, &["--task", "t1"]].concat());
    assert_eq!(skep(&["steps", "ls"]).ok().stdout(), "there are no steps\n");
    assert_eq!(skep(&["steps", "add", "compiled\nall", "--agent", "coder"]).ok().stdout(), "step 1\n");
    assert_eq!(skep(&["steps", "add", "it failed", "--level", "error"]).ok().stdout(), "step 2\n");
    let all = skep(&["steps", "ls"]).ok().stdout();
    assert!(all.starts_with("  STEP ") && all.lines().count() == 3 && all.contains("coder"), "{all}");
    let errors = skep(&["steps", "ls", "--level", "warning"]).ok().stdout();
    assert!(errors.lines().count() == 2 && errors.contains("it failed") && errors.contains("local"), "{errors}");
    let of_coder = skep(&["steps", "ls", "--of", "coder", "--json"]).ok().json();
    assert_eq!((&of_coder["logs"][0]["sequence"], &of_coder["logs"][1]), (&json!(1), &json!(null)));
    assert_eq!(user.skep(&["steps", "ls"]).code(), 2, "steps are a task's");
}

#[test]
fn what_agents_share_is_shown_and_pruned_as_the_settings_say() {
    let user = User::new();
    for text in ["1", "2", "3"] {
        user.file("source.txt", text);
        user.skep(&["files", "put", "a.txt", "source.txt", "--task", "t1"]).ok();
    }
    let revisions = || user.skep(&["du", "--json"]).ok().json()["shared"]["revisions"].clone();
    let said = user.skep(&["prune"]).ok().stdout();
    assert_eq!(said, "deleted 0 runs, 0 revisions of files, 0 steps and 0 messages\n");
    assert_eq!(revisions(), 3);
    user.file("keep.toml", "[shared.keep]\nrevisions = 1\n");
    let said = user.skep(&["--config", "keep.toml", "prune"]).ok().stdout();
    assert_eq!(said, "deleted 0 runs, 2 revisions of files, 0 steps and 0 messages\n");
    assert_eq!(revisions(), 1);
    assert_eq!(user.skep(&["files", "cat", "a.txt", "--task", "t1"]).ok().stdout(), "3");
    let shown = user.skep(&["du"]).ok().stdout();
    assert!(shown.contains("What agents share") && shown.contains("1 revisions of files"), "{shown}");
}
