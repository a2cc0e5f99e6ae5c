//! The helper process can die at any time. Alone in its program, because it kills every helper that it finds.

mod common;

use std::process::Command;

use common::{argv, children, mark, run, sandbox, wait_for_marked};
use skep_sandbox::{End, Error};

#[tokio::test]
async fn a_killed_helper_is_replaced_and_running_requests_get_an_error() {
    let sandbox = sandbox().await;
    for which in 0..3 {
        let mark = mark();
        let running = sandbox.run(argv(&["sleep", &mark]), Default::default());
        let kill = async {
            wait_for_marked(&mark, 1).await;
            let [launcher] = children(std::process::id())[..] else { panic!("one helper, please") };
            let [zygote] = children(launcher)[..] else { panic!("one zygote, please") };
            let victim = if which == 1 { launcher } else { zygote };
            assert!(Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap().success());
        };
        let (outcome, ()) = tokio::join!(running, kill);
        assert!(matches!(outcome, Err(Error::HelperDied)), "{outcome:?}");
        wait_for_marked(&mark, 0).await;
        assert_eq!(run(&sandbox, argv(&["true"])).await.end, End::Exit(0));
    }
}
