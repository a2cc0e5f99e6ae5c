//! Machines that cannot isolate, or not so well: the answer is an error with a cure, never less than was asked for.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    process::{Command, Stdio},
};

use common::{HELPER, again_as_ordinary_user, argv, config, is_root, run, sandbox, text};
use skep_sandbox::{Config, Error, InFile, Protection, Sandbox, Tier};

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

/// Not a promise: what the tests below run on a machine that they have crippled.
#[tokio::test]
#[ignore = "run by other tests"]
async fn say_what_this_machine_can_do() {
    let sandbox = match Sandbox::start(config()).await {
        Ok(sandbox) => sandbox,
        Err(Error::Unavailable { reason, cure }) => return println!("unavailable: {reason}: {cure}"),
        Err(error) => return println!("error: {error:?}"),
    };
    let report = sandbox.probe().await;
    println!("tier: {:?}", report.tier);
    let missing = |protection| if report.missing.contains(&protection) { "missing" } else { "there" };
    println!("proc: {}", missing(Protection::Proc));
    match sandbox.run(argv(&["true"]), Default::default()).await {
        Ok(outcome) => println!("strict: {:?}", outcome.end),
        Err(error) => println!("strict: {error}"),
    }
    let mut request = argv(&["sh", "-c", "ls /proc; echo $(echo /code/*)"]);
    request.min_tier = Tier::StrictWithoutProc;
    match sandbox.run(request, Default::default()).await {
        Ok(outcome) => println!("weaker: {:?} {}", outcome.end, text(&outcome.stdout).lines().count()),
        Err(error) => println!("weaker: {error}"),
    }
}

const SAY: [&str; 4] = ["--ignored", "--exact", "--nocapture", "say_what_this_machine_can_do"];

/// What is said after `prepare` was run by a shell in namespaces of its own.
fn said_after(prepare: &str) -> String {
    // Root keeps its users: it has to have somebody to become.
    let own_users: &[&str] = if is_root() { &[] } else { &["--map-root-user"] };
    let script = format!("{prepare}; exec \"$@\"");
    let output = Command::new("unshare")
        .args(own_users)
        .args(["--mount", "sh", "-ec", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(SAY)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_machine_as_it_should_be_is_strict() {
    let said = said_after("true");
    assert!(said.contains("tier: Some(Strict)\nproc: there\nstrict: Exit(0)"), "{said}");
}

#[test]
fn a_covered_proc_makes_a_weaker_tier_that_must_be_asked_for() {
    let said = said_after("mount --bind /dev/null /proc/version");
    assert!(said.contains("tier: Some(StrictWithoutProc)\nproc: missing"), "{said}");
    assert!(said.contains("strict: this machine cannot provide the isolation that was asked for"), "{said}");
    assert!(said.contains("weaker: Exit(0) 1"), "{said}");
}

#[test]
fn without_user_namespaces_the_cure_is_named() {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-ec"])
        // Root of this namespace would look for other users first.
        .arg("echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all \"$@\"")
        .arg("sh")
        .arg(std::env::current_exe().unwrap())
        .args(SAY)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let cure = if is_root() { "start it as an ordinary user" } else { "sysctl -w user.max_user_namespaces" };
    assert!(said.contains("unavailable: ") && said.contains(cure), "{said}");
}

#[tokio::test]
async fn behind_a_filter_as_containers_have_it_the_cure_is_named() {
    // Such a filter is at hand: our own.
    let file = |name: &str, path: &std::path::Path| InFile { path: name.into(), bytes: fs::read(path).unwrap() };
    let mut request = argv(&["/tmp/test"]);
    if let skep_sandbox::Run::Argv(words) = &mut request.run {
        words.extend(SAY.map(Into::into));
    }
    request.files =
        vec![file("test", &std::env::current_exe().unwrap()), file("helper", config().helper.as_deref().unwrap())];
    request.env = vec![(HELPER.into(), "/tmp/helper".into())];
    request.limits.tmp = 1 << 30;
    let outcome = run(&sandbox().await, request).await;
    let said = text(&outcome.stdout);
    assert!(said.contains("unavailable: cannot make namespaces"), "{said} {}", text(&outcome.stderr));
    assert!(said.contains("system call filter"), "{said}");
}

#[tokio::test]
async fn a_helper_that_is_not_there_is_an_error() {
    let helper = Some("/no/such/helper".into());
    let error = Sandbox::start(Config { helper, ..config() }).await.unwrap_err();
    assert!(matches!(error, Error::Setup { .. }), "{error}");
}
