//! Ceilings: none can be passed, and each is reported as what it is.

mod common;

use std::{pin::pin, time::Duration};

use common::{again_as_ordinary_user, argv, bash, config, run, sandbox, script_of, text};
use skep_sandbox::{Config, End, Error, Request, Run, Sandbox};
use tokio_util::sync::CancellationToken;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

#[tokio::test]
async fn a_deadline_is_met_whatever_the_command_does_about_signals() {
    let sandbox = sandbox().await;
    for script in [
        "sleep 1000",
        "trap '' TERM INT HUP QUIT; while :; do sleep 1000; done",
        "(setsid sleep 1000 &) ; sleep 1000",
        "kill -STOP $$",
        "exec >&- 2>&-; sleep 1000",
    ] {
        let mut request = script_of(script);
        request.limits.wall = Duration::from_millis(200);
        // Each of them would go on for a thousand seconds. How soon after the deadline the answer comes is the
        // machine's business here; the benchmark measures it.
        assert_eq!(run(&sandbox, request).await.end, End::Timeout, "{script}");
    }
}

#[tokio::test]
async fn an_answer_does_not_wait_for_daemons() {
    // Had it waited, the deadline would have ended it.
    let outcome = bash("(setsid sleep 1000 &) ; sleep 1000 & echo done").await;
    assert_eq!((outcome.end, text(&outcome.stdout)), (End::Exit(0), "done\n"));
}

#[tokio::test]
async fn a_flood_of_output_is_cut_and_ends_the_command() {
    let sandbox = sandbox().await;
    for script in ["yes", "yes >&2", "yes & yes >&2", "cat /dev/zero"] {
        let mut request = script_of(script);
        request.limits.output = 100_000;
        let outcome = run(&sandbox, request).await;
        assert_eq!(outcome.end, End::OutputLimit, "{script}");
        assert!(outcome.truncated);
        assert_eq!(outcome.stdout.len() + outcome.stderr.len(), 100_000, "{script}");
    }
    let mut request = script_of("head -c 1000 /dev/zero");
    request.limits.output = 1000;
    let outcome = run(&sandbox, request.clone()).await;
    assert_eq!((outcome.end, outcome.truncated), (End::Exit(0), false));
    request.limits.output = 999;
    let outcome = run(&sandbox, request).await;
    assert_eq!((outcome.end, outcome.truncated, outcome.stdout.len()), (End::OutputLimit, true, 999));
}

#[tokio::test]
async fn processes_and_threads_are_counted_per_sandbox() {
    let count = "import os, time
n = 0
try:
    while True:
        if os.fork() == 0: time.sleep(1000)
        n += 1
except BlockingIOError: print(n + 1)";
    let sandbox = sandbox().await;
    let mut request = Request::new(Run::Python(count.into()));
    request.limits.processes = 10;
    let (a, b) = tokio::join!(run(&sandbox, request.clone()), run(&sandbox, request));
    assert_eq!((text(&a.stdout), text(&b.stdout)), ("10\n", "10\n"), "{a:?}");

    // Bash itself may not get a process any more and try again until the deadline.
    let mut bomb = script_of("f() { f | f & }; f; sleep 0.3; echo over");
    bomb.limits.wall = Duration::from_secs(1);
    let end = run(&sandbox, bomb).await.end;
    assert!(matches!(end, End::Exit(_) | End::Timeout), "{end:?}");
}

#[tokio::test]
async fn memory_is_limited_for_one_process_and_for_all_together() {
    let sandbox = sandbox().await;
    let mut request = Request::new(Run::Python("x = b'x' * (300 << 20); input()".into()));
    request.limits.memory = 100 << 20;
    let outcome = run(&sandbox, request).await;
    assert_eq!(outcome.end, End::MemoryLimit, "{outcome:?}");

    let many = "import os, time
for _ in range(8):
    if os.fork() == 0: break
x = bytearray(b'x' * (20 << 20)); time.sleep(1000)";
    let mut request = Request::new(Run::Python(many.into()));
    request.limits.memory = 100 << 20;
    assert_eq!(run(&sandbox, request.clone()).await.end, End::MemoryLimit);
    request.limits.memory = 400 << 20;
    request.limits.wall = Duration::from_secs(1);
    assert_eq!(run(&sandbox, request).await.end, End::Timeout);

    let mut request = Request::new(Run::Python("x = b'x' * (300 << 20)".into()));
    request.limits.address_space = Some(200 << 20);
    let outcome = run(&sandbox, request).await;
    assert_eq!(outcome.end, End::Exit(1));
    assert!(text(&outcome.stderr).contains("MemoryError"));
}

#[tokio::test]
async fn memory_that_is_shared_is_counted_once() {
    let shared = "import os, time
x = bytearray(b'x' * (80 << 20))
for _ in range(8):
    if os.fork() == 0: break
time.sleep(0.4)";
    let mut request = Request::new(Run::Python(shared.into()));
    request.limits.memory = 300 << 20;
    assert_eq!(run(&sandbox().await, request).await.end, End::Exit(0));
}

#[tokio::test]
async fn disks_are_limited_in_bytes_and_files() {
    let sandbox = sandbox().await;
    let mut request = script_of(
        "head -c 3000000 /dev/zero > /tmp/a; echo $?; stat -c %s /tmp/a
         head -c 1500000 /dev/zero > /outputs/a; head -c 1500000 /dev/zero > /outputs/b; echo $?
         rm /outputs/*; for i in $(seq 100); do touch /outputs/$i || break; done 2>/dev/null; ls /outputs | wc -l
         truncate -s 1T /tmp/sparse 2>/dev/null || echo no holes",
    );
    request.limits.tmp = 1 << 20;
    request.limits.outputs = 2 << 20;
    request.limits.files = 50;
    let outcome = run(&sandbox, request).await;
    assert_eq!(text(&outcome.stdout), "1\n1048576\n1\n50\nno holes\n");
    assert_eq!(outcome.outputs.len(), 50);
}

#[tokio::test]
async fn holes_and_hard_links_do_not_multiply_what_is_put_out() {
    let sandbox = sandbox().await;
    let mut request = script_of(
        "cd /outputs; truncate -s 900k a; truncate -s 900k b; head -c 1000 /dev/zero > c; ln c d; ls | wc -l",
    );
    request.limits.outputs = 1 << 20;
    request.limits.tmp = 1 << 20;
    let outcome = run(&sandbox, request).await;
    assert_eq!(text(&outcome.stdout), "4\n");
    let total: usize = outcome.outputs.iter().map(|file| file.bytes.len()).sum();
    assert!(total <= 1 << 20, "{total}");
    assert_eq!(outcome.skipped.len(), 1, "{:?}", outcome.skipped);
}

#[tokio::test]
async fn cpu_time_is_limited() {
    let sandbox = sandbox().await;
    let mut request = script_of("while :; do :; done");
    request.limits.cpu = Duration::from_secs(1);
    assert_eq!(run(&sandbox, request).await.end, End::Signal(libc::SIGXCPU));
}

#[tokio::test]
async fn open_files_are_limited() {
    let sandbox = sandbox().await;
    let program = "n = []\ntry:\n  while True: n.append(open('/dev/null'))\nexcept OSError: print(len(n) + 3)";
    let mut request = Request::new(Run::Python(program.into()));
    request.limits.open_files = 40;
    assert_eq!(text(&run(&sandbox, request).await.stdout), "40\n");
}

#[tokio::test]
async fn a_request_can_be_cancelled_while_it_runs_and_while_it_waits() {
    let sandbox = Sandbox::start(Config { concurrency_max: 1, ..config() }).await.unwrap();
    let mark = common::mark();
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let running = sandbox.run(argv(&["sleep", &mark]), first.clone());
    let waiting = sandbox.run(argv(&["sleep", "1000"]), second.clone());
    let cancel = async {
        common::wait_for_marked(&mark, 1).await;
        second.cancel();
        first.cancel();
    };
    let (running, waiting, ()) = tokio::join!(running, waiting, cancel);
    assert_eq!(running.unwrap().end, End::Cancelled);
    assert_eq!(waiting.unwrap().end, End::Cancelled);
    assert!(common::marked(&mark).is_empty());
}

#[tokio::test]
async fn who_cannot_even_wait_is_told_so() {
    let sandbox = Sandbox::start(Config { concurrency_max: 1, waiting_max: 1, ..config() }).await.unwrap();
    let mark = common::mark();
    let cancel = CancellationToken::new();
    let mut running = pin!(sandbox.run(argv(&["sleep", &mark]), cancel.clone()));
    let mut waiting = pin!(sandbox.run(argv(&["true"]), cancel.clone()));
    tokio::select! {
        _ = &mut running => panic!("it sleeps"),
        () = common::wait_for_marked(&mark, 1) => (),
    }
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("it waits"),
        () = std::future::ready(()) => (),
    }
    let refused = sandbox.run(argv(&["true"]), CancellationToken::new()).await;
    assert!(matches!(refused, Err(Error::Busy)), "{refused:?}");
    cancel.cancel();
    assert_eq!(running.await.unwrap().end, End::Cancelled);
    assert_eq!(waiting.await.unwrap().end, End::Cancelled);
    // Both have left.
    assert_eq!(run(&sandbox, argv(&["true"])).await.end, End::Exit(0));
}
