//! Work without a hub, and what `skep sync` makes of it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{postgres, support::User, wire::Hub};

/// How long to wait for what must come; a busy machine takes long.
const PATIENCE: Duration = Duration::from_secs(120);

/// `skep … --task t1` of this user, without a hub.
fn locally(user: &User, arguments: &[&str]) -> String {
    let said = user.skep(&[arguments, &["--local", "--task", "t1"]].concat()).ok();
    assert!(said.stderr().contains("skep: local: without a hub"), "{}", said.stderr());
    said.stdout()
}

fn put(user: &User, path: &str, text: &str, agent: &str) {
    user.file("source.txt", text);
    locally(user, &["files", "put", path, "source.txt", "--agent", agent]);
}

/// `skep sync --json` to this hub: the exit code, and the answer.
fn sync(user: &User, hub: &Hub, more: &[&str]) -> (i32, Value) {
    let url = format!("http://{}", hub.http);
    let said = user.skep(&[&["sync", "--json", "--to", &url], more].concat());
    assert!(said.code() == 0 || said.code() == 3, "{}{}", said.stdout(), said.stderr());
    (said.code(), said.json())
}

fn counts(report: &Value) -> [i64; 4] {
    ["revisions", "memory", "steps", "messages"].map(|name| report[name].as_i64().unwrap())
}

async fn call(hub: &Hub, tool: &str, mut arguments: Value) -> Value {
    arguments["task_id"] = "t1".into();
    let answer = hub.post(&format!("/tools/{tool}"), &[], arguments).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn brings_local_work(hub: &Hub) {
    let user = User::new();
    // Two agents work without a hub.
    put(&user, "plan.md", "1\n2\n3\n4\n5\n", "ann");
    put(&user, "plan.md", "1\n2\n3\n4\nfive\n", "bob");
    put(&user, "notes.md", "local\n", "ann");
    locally(&user, &["memory", "put", "flags", "[\"-O2\"]", "--agent", "ann"]);
    locally(&user, &["steps", "add", "compiled", "--agent", "bob"]);
    locally(&user, &["messages", "send", "look at it", "--to", "ann", "--type", "request", "--agent", "bob"]);
    locally(&user, &["messages", "send", "fine", "--type", "response", "--reply-to", "1", "--agent", "ann"]);
    assert_eq!(user.skep(&["files", "ls", "--local", "--task", "t1", "--json"]).ok().json()["local"], true);
    // Another agent works at the hub.
    call(hub, "send_message", json!({ "agent_id": "eve", "body": "hello" })).await;
    call(hub, "file_write", json!({ "agent_id": "eve", "path": "notes.md", "content": "the hub's\n" })).await;

    let (code, would) = sync(&user, hub, &["--dry-run"]);
    assert_eq!((code, counts(&would)), (3, [2, 1, 1, 2]), "{would:#}");
    let (code, report) = sync(&user, hub, &[]);
    assert_eq!((code, counts(&report)), (3, [2, 1, 1, 2]), "{report:#}");
    let conflict = &report["conflicts"][0];
    assert_eq!((&conflict["name"], report["conflicts"].as_array().unwrap().len()), (&json!("notes.md"), 1));
    let diffs = ["hub", "local"].map(|side| conflict[side]["diff"].as_str().unwrap());
    assert!(diffs[0].contains("+the hub's") && diffs[1].contains("+local"), "{conflict:#}");
    assert_eq!(conflict["local"]["by"], "local/ann");

    // Everything keeps its agent, and the hub's own work is as it was.
    let history = call(hub, "file_history", json!({ "path": "plan.md" })).await;
    let agents: Vec<&Value> = history["revisions"].as_array().unwrap().iter().map(|one| &one["agent"]).collect();
    assert_eq!(agents, ["bob", "ann"]);
    assert_eq!(call(hub, "file_read", json!({ "path": "notes.md" })).await["content"], "the hub's\n");
    let flags = call(hub, "memory_retrieve", json!({ "key": "flags" })).await;
    assert_eq!((&flags["value"], &flags["entry"]["agent"]), (&json!(["-O2"]), &json!("ann")));
    let steps = call(hub, "read_logs", json!({ "after": 0 })).await;
    assert_eq!((&steps["logs"][0]["message"], &steps["logs"][0]["agent_id"]), (&json!("compiled"), &json!("bob")));
    let messages = call(hub, "read_messages", json!({ "all_agents": true, "after": 0 })).await;
    let said = messages["messages"].as_array().unwrap();
    assert_eq!(said.iter().map(|one| &one["from"]).collect::<Vec<_>>(), ["eve", "bob", "ann"]);
    assert_eq!(
        (&said[2]["reply_to"], &said[2]["to"]),
        (&json!(2), &json!("bob")),
        "what it answers has another number"
    );

    // Once more changes nothing, also where nobody remembers what was brought.
    let (code, again) = sync(&user, hub, &[]);
    assert_eq!((code, counts(&again)), (3, [0; 4]), "{again:#}");
    std::fs::remove_dir_all(user.home().join("sync")).unwrap();
    let (code, again) = sync(&user, hub, &[]);
    assert_eq!((code, counts(&again)), (3, [0; 4]), "{again:#}");

    settles_conflicts(&user, hub).await;
}

/// Both sides change the same file, which is shown, and merged on request. There is one conflict already.
async fn settles_conflicts(user: &User, hub: &Hub) {
    put(user, "plan.md", "1\n2\n3\n4\n5 locally\n", "ann");
    let theirs = "one at the hub\n2\n3\n4\nfive\n";
    call(hub, "file_write", json!({ "agent_id": "eve", "path": "plan.md", "content": theirs, "base_revision": 2 }))
        .await;
    let (code, report) = sync(user, hub, &[]);
    assert_eq!((code, report["conflicts"].as_array().unwrap().len()), (3, 2), "{report:#}");
    assert_eq!(call(hub, "file_read", json!({ "path": "plan.md" })).await["content"], theirs);
    let (_, report) = sync(user, hub, &["--merge"]);
    assert_eq!((&report["merged"], report["conflicts"].as_array().unwrap().len()), (&json!(1), 1), "{report:#}");
    let both = "one at the hub\n2\n3\n4\n5 locally\n";
    assert_eq!(call(hub, "file_read", json!({ "path": "plan.md" })).await["content"], both);
    assert_eq!(locally(user, &["files", "cat", "plan.md"]), both);

    // Whoever makes both sides the same has settled a conflict.
    put(user, "notes.md", "the hub's\n", "ann");
    let (code, report) = sync(user, hub, &[]);
    assert_eq!((code, &report["status"]), (0, &json!("ok")), "{report:#}");
    locally(user, &["files", "rm", "notes.md"]);
    assert_eq!(sync(user, hub, &[]).0, 0);
    let gone = hub.post("/tools/file_read", &[], json!({ "task_id": "t1", "path": "notes.md" })).await;
    assert_ne!(gone.status, 200, "what was deleted here is deleted there: {gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_work_is_brought_to_a_hub_and_nothing_of_others_is_replaced() {
    brings_local_work(&Hub::start("")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_work_is_brought_to_a_hub_on_postgresql() {
    let Some(address) = postgres::new_schema().await else { return };
    brings_local_work(&Hub::start_with("", &[("SKEP_DATABASE", &address)])).await;
}

/// The numbers and the messages of all steps of the task.
async fn steps(hub: &Hub) -> Vec<(i64, String)> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page = call(hub, "read_logs", json!({ "after": after, "limit": 1000 })).await;
        let step = |step: &Value| (step["sequence"].as_i64().unwrap(), step["message"].as_str().unwrap().to_owned());
        all.extend(page["logs"].as_array().unwrap().iter().map(step));
        after = page["next"].as_i64().unwrap();
        if page["has_more"] != true {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_synchronisation_goes_on_where_it_was() {
    const STEPS: usize = 1500;
    let (hub, mut user) = (Hub::start(""), User::new());
    {
        // Quicker than a process for each.
        let mut local = Hub::of(user, "", &[]);
        let mut connection = local.connect().await;
        for number in 1..=STEPS {
            let step = json!({ "task_id": "t1", "agent_id": "ann", "message": format!("step {number}") });
            connection.send("POST", "/tools/log_step", &[], &step.to_string()).await.unwrap();
            assert_eq!(connection.answer().await.unwrap().status, 200);
        }
        local.served.stop();
        user = local.user;
    }
    put(&user, "a.txt", "one\n", "ann");
    let url = format!("http://{}", hub.http);
    for part in [STEPS / 10, STEPS / 3] {
        let mut command = user.command(&["sync", "--to", &url]);
        let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        loop {
            let last =
                call(&hub, "read_logs", json!({ "limit": 1 })).await["logs"][0]["sequence"].as_i64().unwrap_or(0);
            if last >= part as i64 {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{last}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        running.kill().unwrap();
        running.wait().unwrap();
    }
    let brought = steps(&hub).await.len();
    assert!(brought < STEPS, "it was killed in the middle");
    let (code, report) = sync(&user, &hub, &[]);
    assert_eq!(code, 0, "{report:#}");
    let expected: Vec<(i64, String)> = (1..=STEPS).map(|number| (number as i64, format!("step {number}"))).collect();
    assert!(steps(&hub).await == expected, "each once, in order");
    assert_eq!(call(&hub, "file_history", json!({ "path": "a.txt" })).await["revisions"].as_array().unwrap().len(), 1);
    assert_eq!(counts(&sync(&user, &hub, &[]).1), [0; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_contract_s1_switches_the_hub_off_and_the_hub_here_has_the_work_already() {
    let hub = Hub::start("");
    let without = hub.user.command(&["steps", "add", "done", "--task", "t1"]).env("USE_MCP", "false").output().unwrap();
    let told = String::from_utf8(without.stderr).unwrap();
    assert!(without.status.success() && told.contains("skep: local: without a hub"), "{told}");
    assert_eq!(steps(&hub).await, [(1, "done".to_owned())], "it is the same database");
    let (code, report) = sync(&hub.user, &hub, &[]);
    assert_eq!((code, &report["same_database"], counts(&report)), (0, &json!(true), [0; 4]), "{report:#}");
    assert_eq!(steps(&hub).await.len(), 1);
    let both = hub.user.skep(&["steps", "ls", "--task", "t1", "--local", "--hub", "http://one:8000"]);
    assert!(both.code() == 2 && both.stderr().contains("give one of them"), "{}", both.stderr());
    let plan = hub.user.skep(&["run", "run `echo hi`", "--local", "--dry-run"]);
    assert!(plan.stderr().contains("skep: local: without a hub"), "{}", plan.stderr());
}
