//! What was acknowledged survives.

use std::{
    io::{BufRead, BufReader},
    process::{Command as Process, Stdio},
};

use tokio::task::JoinSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    on_every_address(async |address| {
        // Several times, because a lie is only found out by a kill between the answer and the commit.
        let acknowledged: Vec<String> = (0..4).flat_map(|round| write_until_killed(address, round)).collect();
        let app = open(address, Limits::default()).await;
        for name in acknowledged {
            assert!(task(&app, &name).await.is_some(), "{name} is lost");
        }
    })
    .await;
}

/// Runs the test below in a process of its own, kills it, and says what that process had been promised.
fn write_until_killed(address: &str, round: u32) -> Vec<String> {
    let mut child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "durable::a_child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
        .envs([("SKEP_TEST_ADDRESS", address), ("SKEP_TEST_ROUND", &round.to_string())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut names = lines.filter_map(|line| Some(line.unwrap().split_once("acknowledged ")?.1.to_owned()));
    let mut acknowledged: Vec<String> = names.by_ref().take(100).collect();
    child.kill().unwrap(); // SIGKILL
    acknowledged.extend(names);
    child.wait().unwrap();
    assert!(acknowledged.len() >= 100, "the child ended early");
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of what_was_acknowledged_survives_kill_9"]
async fn a_child_that_writes_until_it_is_killed() {
    let [address, round] = ["SKEP_TEST_ADDRESS", "SKEP_TEST_ROUND"].map(|name| std::env::var(name).unwrap());
    let app = open(&address, Limits::default()).await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (app, round) = (app.clone(), round.clone());
        writers.spawn(async move {
            for n in 0..10_000 {
                let name = format!("{round}-{writer}-{n}");
                let input = json!("long, so that a commit takes its time".repeat(1000)).into();
                app.submit(&permit(), NewTask { input, ..new(&name) }).await.unwrap();
                println!("acknowledged {name}");
            }
        });
    }
    writers.join_all().await;
}
