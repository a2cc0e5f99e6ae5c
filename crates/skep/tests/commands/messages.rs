//! `skep messages`, on the database and at a hub.

use serde_json::json;

use crate::support::{Served, User};

fn tell_each_other(user: &User) {
    let join = ["call", "join_collab", "--arg", "task_id=t1", "--arg", "agent_id=reviewer"];
    user.skep(&join).ok();
    let request = ["--to", "reviewer", "--type", "request", "--agent", "coder", "--task", "t1"];
    let sent = user.skep(&[&["messages", "send", "look at\nsrc/a.rs"], &request[..]].concat()).ok();
    assert_eq!(sent.stdout(), "message 1\n");
    user.skep(&["messages", "send", "{\"done\": true}", "--value", "--agent", "coder", "--task", "t1"]).ok();

    let all = user.skep(&["messages", "ls", "--task", "t1"]).ok().stdout();
    assert!(all.starts_with("NUMBER ") && all.lines().count() == 3 && all.contains("{\"done\":true}"), "{all}");
    let requests = user.skep(&["messages", "ls", "--task", "t1", "--type", "request", "--json"]).ok().json();
    assert_eq!((&requests["messages"][0]["from"], &requests["messages"][1]), (&json!("coder"), &json!(null)));
    assert_eq!(user.skep(&["messages", "ls", "--task", "t2"]).ok().stdout(), "there are no messages\n");

    let reviewer = ["--agent", "reviewer", "--task", "t1"];
    let acknowledged = user.skep(&[&["messages", "ack", "1"], &reviewer[..]].concat()).ok();
    assert_eq!(acknowledged.stdout(), "1 acknowledged, 1 unread\n");
    let unread = user.skep(&[&["messages", "ls"], &reviewer[..]].concat()).ok().stdout();
    assert!(unread.lines().count() == 2 && unread.contains("broadcast"), "{unread}");

    let stranger = user.skep(&["messages", "ls", "--agent", "stranger", "--task", "t1"]);
    assert_eq!(stranger.code(), 1);
    assert!(stranger.stderr().contains("join"), "{}", stranger.stderr());
}

#[test]
fn messages_are_in_the_database_without_a_hub() {
    tell_each_other(&User::new());
}

#[test]
fn messages_are_asked_of_the_hub_that_runs_here() {
    let user = User::new();
    let _served = Served::hub(&user, &["--tcp", "127.0.0.1:0"], None);
    tell_each_other(&user);
}
