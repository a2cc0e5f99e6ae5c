//! Everything on the attack list, on both ways to a sandbox and as both kinds of user.

mod common;

use common::{again_as_ordinary_user, config, sandbox};
use skep_sandbox::{Config, Defence, Sandbox, Verdict};
use tokio::task::JoinSet;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

#[tokio::test]
async fn no_attack_reaches_anything() {
    let attempts = sandbox().await.selftest().await;
    for attempt in &attempts {
        println!("{:<45} {:?}", attempt.attack, attempt.verdict);
    }
    assert!(attempts.len() > 60);
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.verdict != Verdict::Defended).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// What must be reached when this wall is left out: else the attack or the wall is for show.
fn opened_by(defence: Defence) -> &'static [&'static str] {
    match defence {
        Defence::Filter => &[
            "have oneself traced",
            "read another process's memory",
            "limit or slow the keeper",
            "make namespaces",
            "open files by handle",
            "use io_uring",
            "use keyrings",
            "type into a terminal",
            "make calls by other numbers",
            "make 32-bit calls",
            "talk to hypervisor, kernel or network card",
            "change the personality",
            "hold memory that nobody counts",
            "take large pipes",
            "take large buffers of sockets",
            "use the host's shared memory",
        ],
        Defence::Landlock => &["listen on TCP"],
        Defence::Capabilities => &["have capabilities within bounds"],
        Defence::ResourceLimits => &[
            "make a file with a terabyte of holes",
            "start more processes than allowed",
            "start more threads than allowed",
        ],
        Defence::Quotas => &["use up the host's inotify quota"],
        Defence::Hiding => &["see other processes"],
        Defence::Network => &["send UDP to the host", "have a datagram arrive at the host"],
        Defence::MemoryWatch => &["use up memory", "hold memory in page tables", "hold memory in sockets"],
        other => panic!("{other:?} has no attack"),
    }
}

#[tokio::test]
async fn every_wall_is_missed_when_it_is_left_out() {
    // Side by side, since most of the time is spent waiting for deadlines.
    let mut tried = JoinSet::new();
    for defence in Defence::ALL {
        tried.spawn(async move {
            let sandbox = Sandbox::start(Config { without: vec![defence], ..config() }).await.unwrap();
            (defence, sandbox.selftest().await)
        });
    }
    for (defence, attempts) in tried.join_all().await {
        for attack in opened_by(defence) {
            let attempt = attempts.iter().find(|attempt| attempt.attack == *attack).unwrap();
            assert!(matches!(attempt.verdict, Verdict::Broken(_)), "without {defence:?}: {attempt:?}");
        }
    }
}
