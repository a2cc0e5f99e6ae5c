//! The helper process can die at any time, and so can what it has made ahead. Alone in its program, because it kills all
//! that it finds.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::process::{Command, Stdio};

use tokio::sync::Mutex;

use common::{argv, children, mark, run, sandbox, wait_for_marked};
use skep_sandbox::{End, Error, Start};

/// One at a time: there is to be one helper.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Whether it was there.
fn kill(pid: u32) -> bool {
    Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

#[tokio::test]
async fn a_killed_helper_is_replaced_and_running_requests_get_an_error() {
    let _alone = ALONE.lock().await;
    let sandbox = sandbox().await;
    for which in 0..3 {
        let mark = mark();
        let running = sandbox.run(argv(&["sleep", &mark]), Default::default());
        let killing = async {
            wait_for_marked(&mark, 1).await;
            let [launcher] = children(std::process::id())[..] else { panic!("one helper, please") };
            let [zygote] = children(launcher)[..] else { panic!("one zygote, please") };
            let victim = if which == 1 { launcher } else { zygote };
            assert!(kill(victim));
        };
        let (outcome, ()) = tokio::join!(running, killing);
        assert!(matches!(outcome, Err(Error::HelperDied)), "{outcome:?}");
        wait_for_marked(&mark, 0).await;
        assert_eq!(run(&sandbox, argv(&["true"])).await.end, End::Exit(0));
    }
}

#[tokio::test]
async fn sandboxes_that_die_before_they_are_used_cost_no_request_anything() {
    let _alone = ALONE.lock().await;
    let sandbox = sandbox().await;
    let [launcher] = children(std::process::id())[..] else { panic!("one helper, please") };
    let [zygote] = children(launcher)[..] else { panic!("one zygote, please") };
    for _ in 0..3 {
        // Ready, and the server has them.
        while children(zygote).len() < 2 || run(&sandbox, argv(&["true"])).await.start != Some(Start::Ready) {
            tokio::task::yield_now().await;
        }
        let ready = children(zygote);
        for pid in &ready {
            kill(*pid); // unless it has just served its request
        }
        while children(zygote).iter().any(|child| ready.contains(child)) {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            assert_eq!(run(&sandbox, argv(&["true"])).await.end, End::Exit(0));
        }
    }
}
