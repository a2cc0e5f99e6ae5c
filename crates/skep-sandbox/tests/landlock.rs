//! Sandboxes without namespaces: what holds all the same, and what is said to be missing.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{again_as_ordinary_user, argv, config, is_root, mark, marked, run, script_of, text, wait_for_marked};
use skep_sandbox::{
    Bind, Config, End, Error, InFile, Namespaces, Net, Outcome, Protection, Request, Run, Sandbox, Start, Tier, Verdict,
};
use tempfile::TempDir;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

/// A sandbox whose files are below a directory that no other test looks at.
async fn bare() -> Sandbox {
    Sandbox::start(Config { namespaces: Namespaces::Unused, ..config() }).await.unwrap()
}

fn accepting(request: Request) -> Request {
    Request { min_tier: Tier::Landlock, ..request }
}

fn shell(script: &str) -> Request {
    accepting(script_of(script))
}

#[tokio::test]
async fn what_is_promised_at_this_tier_holds_against_every_attack() {
    let attempts = bare().await.selftest().await;
    for attempt in &attempts {
        println!("{:<45} {:?}", attempt.attack, attempt.verdict);
    }
    assert!(attempts.len() > 60);
    let failed = attempts
        .iter()
        .filter(|attempt| !matches!(attempt.verdict, Verdict::Defended | Verdict::NotPromised(_)))
        .collect::<Vec<_>>();
    assert!(failed.is_empty(), "{failed:#?}");
}
