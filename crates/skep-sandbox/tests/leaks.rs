//! Many requests leave nothing behind. Alone in its program, because it counts what the program holds.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{fs, time::Duration};

use common::{again_as_ordinary_user, argv, children, run, sandbox, script_of};
use skep_sandbox::{End, Request, Run};

/// Requests, unless `SKEP_TEST_REQUESTS` says otherwise.
const REQUESTS: usize = 600;

/// As the helper has them.
const NETWORKS_MAX: usize = 64;
const READY_MAX: i64 = 4;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

#[derive(Debug, PartialEq)]
struct Held {
    descriptors: usize,
    helper_descriptors: usize,
    mounts: usize,
    processes: usize,
}

/// Kilobytes of a process, by its `/proc/…/status`.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn zygote() -> u32 {
    let launchers = children(std::process::id()).into_iter().filter(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")); // none, if it has ended just now
        line.is_ok_and(|line| line.starts_with("skep-sandbox-zygote"))
    });
    let [launcher] = launchers.collect::<Vec<_>>()[..] else { panic!("one helper, please") };
    let [zygote] = children(launcher)[..] else { panic!("one zygote, please") };
    zygote
}

fn held() -> Held {
    let count = |path: String| fs::read_dir(path).map_or(0, Iterator::count);
    let zygote = zygote();
    Held {
        descriptors: count("/proc/self/fd".into()),
        // Those of a process that gave up root are not ours to see.
        helper_descriptors: count(format!("/proc/{zygote}/fd")),
        mounts: fs::read_to_string("/proc/self/mounts").unwrap().lines().count(),
        processes: children(zygote).len(),
    }
}

/// Waits until the helper has buried the dead and is as full of ready sandboxes as before.
async fn settle() -> Held {
    let mut last = held();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = held();
        if now == last {
            break;
        }
        last = now;
    }
    last
}

#[tokio::test]
async fn many_requests_leave_nothing_behind() {
    let sandbox = sandbox().await;
    let some = async |count: usize| {
        for number in 0..count {
            let request = match number % 5 {
                // From ready sandboxes, from the template, with a daemon, from an interpreter, and dropped half-way.
                0 => argv(&["true"]),
                3 => Request::new(Run::Python("import os; os.fork()".into())),
                1 => {
                    let mut request = argv(&["true"]);
                    request.limits.files = 10;
                    request
                }
                2 => script_of("(setsid sleep 1000 &); echo x > /outputs/x"),
                _ => {
                    let run = sandbox.run(argv(&["sleep", "1000"]), Default::default());
                    assert!(tokio::time::timeout(Duration::from_micros(number as u64 % 3000), run).await.is_err());
                    continue;
                }
            };
            assert_eq!(run(&sandbox, request).await.end, End::Exit(0));
        }
    };
    some(40).await;
    let before = settle().await;
    let (server, helper) = (resident(std::process::id()), resident(zygote()));
    some(std::env::var("SKEP_TEST_REQUESTS").map_or(REQUESTS, |count| count.parse().unwrap())).await;
    let after = settle().await;
    // Sandboxes and interpreters that wait come and go with demand.
    let waiting = after.processes as i64 - before.processes as i64;
    assert!(waiting.abs() <= READY_MAX + 1, "{before:?} {after:?}");
    assert_eq!(before.descriptors, after.descriptors);
    assert_eq!(before.mounts, after.mounts);
    // Those that wait have a few, and empty networks are kept for reuse, so many at most.
    assert!(
        after.helper_descriptors <= before.helper_descriptors + NETWORKS_MAX + 4 * (READY_MAX as usize + 1),
        "{before:?} {after:?}"
    );
    let grown = [resident(std::process::id()).saturating_sub(server), resident(zygote()).saturating_sub(helper)];
    assert!(grown.iter().all(|kilobytes| *kilobytes < 2048), "{grown:?} kB more");
}
