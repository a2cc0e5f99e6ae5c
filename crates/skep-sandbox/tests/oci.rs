//! Requests in containers of `runc`: the same interface, for those who accept it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use common::{again_as_ordinary_user, argv, is_root, run, text};
use skep_sandbox::{Bind, Config, End, Error, InFile, Net, Oci, Outcome, Request, Run, Sandbox, Tier};
use tempfile::TempDir;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

/// A root with the programs of this machine's `/usr`, as an image would have its own. `None`: no runtime is installed, and
/// the test is left out.
async fn containers() -> Option<(TempDir, Sandbox)> {
    let installed = Command::new("runc").arg("--version").output().is_ok();
    if !installed {
        assert!(std::env::var_os("SKEP_TEST_REQUIRE").is_none(), "runc is not installed");
        return None;
    }
    let root = tempfile::tempdir().unwrap();
    for directory in ["usr", "proc", "dev", "tmp", "code", "outputs", "etc", "host"] {
        fs::create_dir(root.path().join(directory)).unwrap();
    }
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for link in ["bin", "lib", "lib64"] {
        symlink(Path::new("host").join(link), root.path().join(link)).unwrap();
    }
    let binds = vec![Bind { source: "/usr".into(), target: "/host".into() }];
    let oci = Some(Oci { runtime: "runc".into(), root: root.path().to_owned() });
    Some((root, Sandbox::start(Config { oci, binds, ..Config::default() }).await.unwrap()))
}

fn accepting(request: Request) -> Request {
    // `/usr` of this root is at another place.
    let env = vec![("PATH".into(), "/host/bin".into())];
    Request { min_tier: Tier::Oci, env, ..request }
}

fn shell(script: &str) -> Request {
    accepting(Request::new(Run::Shell(script.into())))
}

/// Bundles of this user.
fn bundles() -> usize {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid().as_raw();
    let entries = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let is_bundle = |path: &Path| path.join("config.json").exists() && path.join("state").exists();
    entries.filter(|entry| entry.metadata().is_ok_and(|data| data.uid() == own) && is_bundle(&entry.path())).count()
}

#[tokio::test]
async fn a_container_behaves_like_a_sandbox_to_who_accepts_it() {
    let Some((_root, sandbox)) = containers().await else { return };
    let outcome = run(&sandbox, shell("echo out; echo err >&2; cat; exit 3")).await;
    assert_eq!((outcome.end, outcome.tier), (End::Exit(3), Tier::Oci), "{outcome:?}");
    assert_eq!((text(&outcome.stdout), text(&outcome.stderr)), ("out\n", "err\n"));
    let given = InFile { path: "d/given".into(), bytes: b"file".to_vec() };
    let mut request = shell("cat d/given -; mkdir /outputs/a; echo x > /outputs/a/b; ln -s /etc/passwd /outputs/link");
    (request.files, request.stdin) = (vec![given], b" and input".to_vec());
    let outcome = run(&sandbox, request).await;
    assert_eq!(text(&outcome.stdout), "file and input", "{}", text(&outcome.stderr));
    assert_eq!((outcome.outputs[0].path.as_path(), &*outcome.outputs[0].bytes), (Path::new("a/b"), &b"x\n"[..]));
    assert_eq!(outcome.skipped, [("link".into(), "a link")]);
    assert_eq!(run(&sandbox, shell("kill -KILL $$; sh -c 'kill -SEGV $$'")).await.end, End::Signal(libc::SIGSEGV));

    let strict = sandbox.run(argv(&["true"]), Default::default()).await;
    assert!(matches!(strict, Err(Error::Unavailable { .. })), "{strict:?}");
    let missing = sandbox.run(accepting(argv(&["no-such-program"])), Default::default()).await.unwrap_err();
    assert!(missing.to_string().contains("no-such-program"), "{missing}");
    let granted = Request { net: Net::Allow(vec!["a:1".into()]), ..shell("true") };
    assert!(matches!(sandbox.run(granted, Default::default()).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_container_is_kept_in_and_within_its_limits() {
    let Some((_root, sandbox)) = containers().await else { return };
    let limited = async |script: &str, change: fn(&mut Request)| -> Outcome {
        let mut request = shell(script);
        change(&mut request);
        run(&sandbox, request).await
    };
    let inside =
        "id -u; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\n\\t'; echo; touch /host/x /x /code/x
        cat /etc/shadow; unshare -U true && echo escaped; ls /home /root; ls /proc | grep -c '^[0-9]'";
    let outcome = run(&sandbox, shell(inside)).await;
    // An ordinary user's own id is called root inside.
    let id = if is_root() { "2000004097" } else { "0" };
    let expected = format!("{id}\nCapBnd:0000000000000000NoNewPrivs:1Seccomp:2\n");
    assert!(text(&outcome.stdout).starts_with(&expected), "{}{}", text(&outcome.stdout), text(&outcome.stderr));
    assert!(!text(&outcome.stdout).contains("escaped"));
    assert!(text(&outcome.stderr).matches("Read-only").count() == 3, "{}", text(&outcome.stderr));

    let start = Instant::now();
    let outcome =
        limited("(setsid sleep 1000 &); sleep 1000", |request| request.limits.wall = Duration::from_secs(1)).await;
    assert_eq!(outcome.end, End::Timeout);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let outcome = limited("yes", |request| request.limits.output = 10_000).await;
    assert_eq!((outcome.end, outcome.truncated, outcome.stdout.len()), (End::OutputLimit, true, 10_000));
    let outcome =
        limited("head -c 3000000 /dev/zero > /tmp/a; stat -c %s /tmp/a", |request| request.limits.tmp = 1 << 20).await;
    assert_eq!(text(&outcome.stdout), "1048576\n");
    let many = "i=0; while [ $i -lt 60 ]; do sleep 1 & i=$((i+1)); done; echo all";
    let outcome = limited(many, |request| request.limits.processes = 20).await;
    assert_eq!(text(&outcome.stdout), "", "{outcome:?}");
    if is_root() {
        let hungry = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo held";
        let outcome = limited(hungry, |request| request.limits.memory = 50 << 20).await;
        assert_eq!(text(&outcome.stdout), "", "{outcome:?}");
    }
    let dropped = sandbox.run(shell("sleep 1000"), Default::default());
    assert!(tokio::time::timeout(Duration::from_millis(300), dropped).await.is_err());
    // The other test may have one at this moment.
    assert!(bundles() <= 1);
}
