//! `skep memory` and `skep events`, on the database and at a hub.

use serde_json::json;

use crate::support::{Served, User};

fn remembers(user: &User) {
    let put = user.skep(&["memory", "put", "build/flags", "[\"-O2\", \"fast math\"]", "--ttl", "1h"]).ok();
    assert_eq!(put.stdout(), "revision 1\n");
    user.skep(&["memory", "put", "note", "red apples", "--agent", "coder"]).ok();
    assert_eq!(user.skep(&["memory", "get", "build/flags"]).ok().json(), json!(["-O2", "fast math"]));
    assert_eq!(user.skep(&["memory", "get", "note"]).ok().stdout(), "\"red apples\"\n");

    let found = user.skep(&["memory", "search", "math"]).ok().stdout();
    assert!(found.contains("build/flags") && found.contains("fast math") && !found.contains("note"), "{found}");
    let listed = user.skep(&["memory", "ls", "build/", "--json"]).ok().json();
    assert_eq!((&listed["entries"][0]["key"], &listed["entries"][1]), (&json!("build/flags"), &json!(null)));
    let listed = user.skep(&["memory", "ls"]).ok().stdout();
    assert!(listed.starts_with("KEY ") && listed.contains("note") && listed.contains("expires"), "{listed}");

    let elsewhere = user.skep(&["memory", "get", "note", "--task", "t1"]);
    assert_eq!(elsewhere.code(), 1);
    assert!(elsewhere.stderr().contains("nothing under \"note\""), "{}", elsewhere.stderr());
    user.skep(&["memory", "put", "note", "5", "--text", "--task", "t1"]).ok();
    assert_eq!(user.skep(&["memory", "get", "note", "--task", "t1"]).ok().json(), json!("5"));

    let stale = user.skep(&["memory", "put", "note", "x", "--base-revision", "7"]);
    assert_eq!(stale.code(), 1);
    assert!(stale.stderr().contains("is at revision 1") && stale.stderr().contains("red apples"), "{}", stale.stderr());
    user.skep(&["memory", "rm", "note", "--base-revision", "1"]).ok();
    assert_eq!(user.skep(&["memory", "rm", "note"]).code(), 1);
    assert_eq!(user.skep(&["memory", "put", "k", "1", "--ttl", "0s"]).code(), 2);
}

#[test]
fn memory_is_kept_in_the_database_without_a_hub() {
    let user = User::new();
    remembers(&user);
    let call = ["call", "memory_retrieve", "--arg", "key=build/flags", "--json"];
    assert_eq!(user.skep(&call).ok().json()["value"], json!(["-O2", "fast math"]), "a tool that is called by its name");
    let said = user.skep(&["events", "--kind", "memory.deleted", "--json"]).ok().stdout();
    let event: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!((&event["number"], &event["data"]), (&json!(3), &json!({ "key": "note" })));
    let said = user.skep(&["events", "--agent", "coder"]).ok().stdout();
    assert!(said.contains("local/coder") && said.contains("memory.stored") && said.lines().count() == 1, "{said}");
}

#[test]
fn memory_is_asked_of_the_hub_that_runs_here() {
    let user = User::new();
    let _served = Served::hub(&user, &["--tcp", "127.0.0.1:0"], None);
    remembers(&user);
}

#[test]
fn events_are_followed_on_the_database_and_at_a_hub_from_any_number_on() {
    let user = User::new();
    let served = Served::hub(&user, &["--tcp", "127.0.0.1:0"], None);
    for key in ["a", "b"] {
        user.skep(&["memory", "put", key, "1"]).ok();
    }
    for place in [&[][..], &["--hub", &served.url]] {
        let all = user.skep(&[&["events", "--json"], place].concat()).ok().stdout();
        let last = all.lines().count();
        let follow = ["events", "--follow", "--json", "--after", "1"];
        let mut following = user.start(&[&follow[..], place].concat());
        assert_eq!(following.next()["data"]["key"], "b");
        (2..last).for_each(|_| drop(following.next()));
        user.skep(&["memory", "put", "c", "1"]).ok();
        let next = following.next();
        assert_eq!((&next["number"], &next["data"]["key"]), (&json!(last + 1), &json!("c")), "{place:?}");
        following.signal("INT");
        assert_eq!(following.end().0, Some(0));
    }
}

#[test]
fn the_events_of_a_run_and_of_a_task_in_it_are_found_by_the_names_that_people_use() {
    let user = User::new();
    user.file(
        "plan.yaml",
        "name: n\ntasks:\n  a: { tool: compose, args: { text: x } }\n  b: { tool: compose, args: { text: y } }\n",
    );
    user.skep(&["run", "plan.yaml"]).ok();
    let numbers = |arguments: &[&str]| -> Vec<i64> {
        let said = user.skep(arguments).ok().stdout();
        let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_i64().unwrap();
        said.lines().map(number).collect()
    };
    let logged = numbers(&["logs", "newest", "--json"]);
    assert!(!logged.is_empty());
    assert_eq!(numbers(&["events", "--run", "newest", "--json"]), logged);
    let of_task = numbers(&["events", "--run", "newest", "--task", "a", "--json"]);
    assert_eq!(of_task, numbers(&["logs", "newest", "--task", "a", "--json"]));
    assert_eq!(user.skep(&["events", "--run", "nothing"]).code(), 1);
}
