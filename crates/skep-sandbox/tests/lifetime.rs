//! Nothing outlives what it belongs to, whoever dies first.

mod common;

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use common::{again_as_ordinary_user, argv, config, mark, marked, run, sandbox, wait_for_marked};
use skep_sandbox::{End, Sandbox};

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

#[tokio::test]
async fn dropping_the_future_kills_the_command() {
    let sandbox = sandbox().await;
    let mark = mark();
    let request = argv(&["sleep", &mark]);
    tokio::select! {
        outcome = sandbox.run(request, Default::default()) => panic!("{outcome:?}"),
        () = wait_for_marked(&mark, 1) => (),
    }
    wait_for_marked(&mark, 0).await;
    // At any moment, even before it is born.
    for delay_us in (0..3000).step_by(100) {
        let run = sandbox.run(argv(&["sleep", &mark]), Default::default());
        assert!(tokio::time::timeout(Duration::from_micros(delay_us), run).await.is_err());
    }
    wait_for_marked(&mark, 0).await;
    assert_eq!(run(&sandbox, argv(&["true"])).await.end, End::Exit(0));
}

#[tokio::test]
async fn dropping_the_last_sandbox_kills_everything() {
    let sandbox = sandbox().await;
    let mark = mark();
    let clone = sandbox.clone();
    let request = argv(&["sleep", &mark]);
    tokio::select! {
        outcome = async move { clone.run(request, Default::default()).await } => panic!("{outcome:?}"),
        () = wait_for_marked(&mark, 1) => (),
    }
    drop(sandbox);
    wait_for_marked(&mark, 0).await;
}

/// Not a promise: the server of the test below.
#[tokio::test]
#[ignore = "run by another test"]
async fn server_that_waits_to_be_killed() {
    let mark = std::env::var("MARK").unwrap();
    let sandbox = Sandbox::start(config()).await.unwrap();
    let script = format!("(setsid sleep {mark} &); sleep {mark}");
    let _ = sandbox.run(common::script_of(&script), Default::default()).await;
}

#[tokio::test]
async fn a_killed_server_leaves_nothing_behind() {
    let mark = mark();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "server_that_waits_to_be_killed"])
        .env("MARK", &mark)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_marked(&format!("sleep\0{mark}"), 2).await;
    server.kill().unwrap();
    server.wait().unwrap();
    wait_for_marked(&mark, 0).await;
    assert!(marked(&mark).is_empty());
}
