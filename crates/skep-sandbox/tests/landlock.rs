//! Sandboxes without namespaces: what holds all the same, and what is said to be missing.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    FORKS, again_as_ordinary_user, argv, config, is_root, mark, marked, run, script_of, text, wait_for_marked,
};
use skep_sandbox::{
    Bind, Config, Defence, End, Error, InFile, Namespaces, Net, Outcome, Protection, Request, Run, Sandbox, Start,
    Tier, Verdict,
};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

/// Lets one test run at a time, unless each of its sandboxes has a user of its own, as root's have. Without namespaces,
/// all processes of a user count towards the limit of every sandbox, so one test's bomb would stop another's forks.
async fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::const_new(());
    if is_root() { None } else { Some(TURN.lock().await) }
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
    let _turn = turn().await;
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

#[tokio::test]
async fn every_wall_is_missed_when_it_is_left_out() {
    let _turn = turn().await;
    let by_filter: &[&str] = &[
        "turn a pair into a socket of the host",
        "reach a socket in the host's file system",
        "have a datagram arrive at the host",
        "make namespaces",
        "use up the host's inotify quota",
    ];
    let by_landlock: &[&str] = &["list the host's directories", "read the host's accounts", "see other processes"];
    let attempts_without = async |defence| {
        let without = vec![defence];
        let sandbox = Sandbox::start(Config { namespaces: Namespaces::Unused, without, ..config() }).await.unwrap();
        sandbox.selftest().await
    };
    let (filter, landlock) = (attempts_without(Defence::Filter), attempts_without(Defence::Landlock));
    let tried = if is_root() { tokio::join!(filter, landlock) } else { (filter.await, landlock.await) };
    for (defence, opened, attempts) in
        [(Defence::Filter, by_filter, tried.0), (Defence::Landlock, by_landlock, tried.1)]
    {
        for attack in opened {
            let attempt = attempts.iter().find(|attempt| attempt.attack == *attack).unwrap();
            assert!(matches!(attempt.verdict, Verdict::Broken(_)), "without {defence:?}: {attempt:?}");
        }
        if !is_root() {
            // The files of the server's user are the sandbox's, too.
            let changed =
                attempts.iter().find(|attempt| attempt.attack == "change files of the host in place").unwrap();
            let open = matches!(changed.verdict, Verdict::Broken(_));
            assert_eq!(open, defence == Defence::Filter, "without {defence:?}: {changed:?}");
        }
    }
}

#[tokio::test]
async fn requests_behave_as_in_other_tiers_if_they_ask_where_things_are() {
    let _turn = turn().await;
    let here = tempfile::tempdir().unwrap();
    fs::set_permissions(here.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(here.path().join("data"), "of the workspace\n").unwrap();
    let binds = vec![Bind { source: here.path().to_owned(), target: "/workspace".into(), hidden: Vec::new() }];
    let sandbox = Sandbox::start(Config { namespaces: Namespaces::Unused, binds, ..config() }).await.unwrap();
    let given = |path: &str| InFile { path: path.into(), bytes: b"given\n".to_vec() };
    let request = Request {
        cwd: Some("/workspace".into()),
        stdin: b"input\n".to_vec(),
        files: vec![given("a/b"), given("/outputs/c")],
        env: vec![("FILE".into(), "/tmp/a/b".into())],
        ..shell(
            "cat data - $FILE $OUTPUTS/c; echo made > $OUTPUTS/d; touch data || echo no; pwd -P; echo err >&2; exit 3",
        )
    };
    let outcome = run(&sandbox, request).await;
    let expected = format!("of the workspace\ninput\ngiven\ngiven\nno\n{}\n", here.path().display());
    assert_eq!((text(&outcome.stdout), outcome.end), (&*expected, End::Exit(3)), "{outcome:?}");
    assert!(text(&outcome.stderr).ends_with("err\n"));
    let outputs: Vec<_> = outcome.outputs.iter().map(|file| (file.path.to_str().unwrap(), &*file.bytes)).collect();
    assert_eq!(outputs, [("c", &b"given\n"[..]), ("d", b"made\n")]);
    assert_eq!((outcome.tier, outcome.start), (Tier::Landlock, Some(Start::Fresh)));

    let python = "import os, tempfile, subprocess; print(os.getcwd() == os.environ['TMPDIR'], tempfile.mkdtemp()[:5], flush=True)
subprocess.run(['sh', '-c', 'echo child'])";
    assert_eq!(
        text(&run(&sandbox, accepting(Request::new(Run::Python(python.into())))).await.stdout),
        "True /tmp/\nchild\n"
    );
    let node =
        "console.log(require('fs').readFileSync(__filename, 'utf8').length > 9, process.cwd() == process.env.TMPDIR)";
    let outcome = run(&sandbox, accepting(Request::new(Run::JavaScript(node.into())))).await;
    assert_eq!(text(&outcome.stdout), "true true\n", "{}", text(&outcome.stderr));
    fs::set_permissions(here.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let closed = Request { cwd: Some("/workspace".into()), ..shell("true") };
    match sandbox.run(closed, Default::default()).await {
        Err(error) => assert!(is_root() && error.to_string().contains("chmod o+rx"), "{error}"),
        Ok(outcome) => assert_eq!((is_root(), outcome.end), (false, End::Exit(0))),
    }
    let missing = sandbox.run(accepting(argv(&["no-such-program"])), Default::default()).await.unwrap_err();
    assert!(missing.to_string().contains("no-such-program"), "{missing}");
}

#[tokio::test]
async fn files_that_are_shown_cannot_be_changed_in_place() {
    let _turn = turn().await;
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("data");
    fs::write(&file, "shown").unwrap();
    for path in [here.path(), &file] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    // By a descriptor that is open for reading: what its owner may do all the same.
    let script = "import os, fcntl, struct
fd = os.open('data', os.O_RDONLY)
def attempt(name, act):
    try: act(); print(name)
    except OSError: pass
attempt('flags', lambda: fcntl.ioctl(fd, 0x40086602, struct.pack('i', 0x40)))
attempt('lease', lambda: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK) or fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK))
attempt('mode', lambda: os.fchmod(fd, 0o600))
attempt('times', lambda: os.utime(fd, (1, 1)))
attempt('attributes', lambda: os.setxattr('data', 'user.x', b'x'))
attempt('link', lambda: os.link('data', os.environ['OUTPUTS'] + '/data'))
attempt('contents', lambda: os.truncate('data', 0))
attempt('name', lambda: os.rename('data', 'other'))
print('over')";
    let binds = vec![Bind { source: here.path().to_owned(), target: "/workspace".into(), hidden: Vec::new() }];
    for (without, reached) in
        [(vec![], "over\n"), (vec![Defence::Filter], "flags\nlease\nmode\ntimes\nattributes\nover\n")]
    {
        let open = !without.is_empty();
        let config = Config { namespaces: Namespaces::Unused, binds: binds.clone(), without, ..config() };
        let sandbox = Sandbox::start(config).await.unwrap();
        let request = Request { cwd: Some("/workspace".into()), ..accepting(Request::new(Run::Python(script.into()))) };
        let outcome = run(&sandbox, request).await;
        // Under root the sandbox's user owns none of it.
        let reached = if open && is_root() { "over\n" } else { reached };
        assert_eq!(text(&outcome.stdout), reached, "{}", text(&outcome.stderr));
    }
}

#[tokio::test]
async fn what_this_tier_lacks_is_said_and_must_be_accepted() {
    let _turn = turn().await;
    let sandbox = bare().await;
    let strict = sandbox.run(argv(&["true"]), Default::default()).await.unwrap_err();
    assert!(
        matches!(&strict, Error::Unavailable { cure, .. } if cure.contains("accept the tier Landlock")),
        "{strict}"
    );
    let outcome = run(&sandbox, accepting(argv(&["true"]))).await;
    for lacking in [Protection::Hiding, Protection::Disk, Protection::Proc, Protection::Quotas] {
        assert!(outcome.missing.contains(&lacking), "{:?}", outcome.missing);
    }
    assert_eq!(outcome.missing.contains(&Protection::Processes), !is_root(), "each has a user of its own under root");
    assert!(!outcome.missing.contains(&Protection::Lifetime));
    let report = sandbox.probe().await;
    assert_eq!((report.tier, &report.missing), (Some(Tier::Landlock), &outcome.missing));
    assert_eq!(report.advice.len(), report.missing.len());
    let networked = Request { net: Net::Loopback, ..shell("true") };
    assert!(matches!(sandbox.run(networked, Default::default()).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn nothing_outlives_its_answer() {
    let _turn = turn().await;
    let sandbox = bare().await;
    let mark = mark();
    for script in [
        // Orphans in sessions of their own, which hold the output.
        format!("(setsid sleep {mark} &); (setsid setsid sleep {mark} & ) ; echo done"),
        // One that is always somebody else by the time it is looked at.
        format!("f() {{ (exec -a {mark} sleep 0.01; f) & }}; f; echo done"),
        format!("(trap '' TERM INT HUP; while :; do (sleep {mark} &) ; sleep 0.01; done) & echo done; sleep 0.1"),
    ] {
        let outcome = run(&sandbox, shell(&script)).await;
        assert_eq!((text(&outcome.stdout), outcome.end), ("done\n", End::Exit(0)), "{script}");
        assert!(marked(&mark).is_empty(), "{script}");
    }
    let late = Request {
        limits: skep_sandbox::Limits { wall: Duration::from_millis(300), ..Default::default() },
        ..shell("")
    };
    for script in [format!("(setsid sleep {mark} &); sleep {mark}"), format!("kill -STOP $$; sleep {mark}")] {
        let outcome = run(&sandbox, Request { run: Run::Bash(script), ..late.clone() }).await;
        assert_eq!(outcome.end, End::Timeout);
        assert!(marked(&mark).is_empty());
    }
    // It reaches its own processes, and nothing else.
    assert_eq!(text(&run(&sandbox, shell("sleep 1000 & kill -9 -1; wait; echo alone")).await.stdout), "alone\n");
    let request = shell(&format!("(setsid sleep {mark} &); sleep {mark}"));
    let sleeping = format!("sleep\0{mark}");
    tokio::select! {
        outcome = sandbox.run(request, Default::default()) => panic!("{outcome:?}"),
        () = wait_for_marked(&sleeping, 2) => (),
    }
    wait_for_marked(&mark, 0).await;
}

#[tokio::test]
async fn memory_and_processes_are_limited() {
    let _turn = turn().await;
    let sandbox = bare().await;
    let many = "import os, time
for _ in range(8):
    if os.fork() == 0: break
x = bytearray(b'x' * (20 << 20)); time.sleep(1000)";
    let mut request = accepting(Request::new(Run::Python(many.into())));
    request.limits.memory = 100 << 20;
    request.limits.processes = 1000; // those of the same user count, too, and the machine may have some
    assert_eq!(run(&sandbox, request).await.end, End::MemoryLimit);
    let mut request = accepting(Request::new(Run::Python(FORKS.into())));
    request.limits.processes = 30;
    let started: u32 = text(&run(&sandbox, request).await.stdout).trim().parse().unwrap();
    // Others of the same user come and go.
    if is_root() { assert_eq!(started, 30) } else { assert!((5..100).contains(&started), "{started}") }
}

/// Not a promise: the server of the tests below.
#[tokio::test]
#[ignore = "run by another test"]
async fn server_that_waits_to_be_killed() {
    let mark = std::env::var("MARK").unwrap();
    let sandbox = bare().await;
    let script = format!("(setsid sleep {mark} &); touch $OUTPUTS/left; sleep {mark}");
    let outcome = sandbox.run(shell(&script), Default::default()).await;
    println!("ended: {outcome:?}");
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// Processes of a helper, the innermost last: launcher, zygote, keeper.
fn helper_of(server: u32) -> [u32; 3] {
    let only = |parent| match common::children(parent)[..] {
        [child] => child,
        ref other => panic!("one child of {parent}, please: {other:?}"),
    };
    let launcher = only(server);
    let zygote = only(launcher);
    [launcher, zygote, only(zygote)]
}

#[tokio::test]
async fn whoever_is_killed_nothing_is_left_behind() {
    let _turn = turn().await;
    for victim in 0..4 {
        let (mark, directory) = (mark(), TempDir::new_in("/tmp").unwrap());
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut server = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "server_that_waits_to_be_killed"])
            .env("MARK", &mark)
            .env("TMPDIR", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_marked(&format!("sleep\0{mark}"), 2).await;
        let processes = helper_of(server.id());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let who = if victim == 3 { server.id() } else { processes[victim] };
        assert!(Command::new("kill").args(["-9", &who.to_string()]).status().unwrap().success());
        wait_for_marked(&format!("sleep\0{mark}"), 0).await;
        if victim < 3 {
            let mut said = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
            let ended = said.find(|line| line.starts_with("ended: ")).unwrap();
            assert!(ended.contains("HelperDied") || ended.contains("Signal(9)"), "{victim}: {ended}");
        }
        drop(server.stdin.take());
        server.kill().unwrap();
        server.wait().unwrap();
        let gone = async {
            while fs::read_dir(directory.path()).unwrap().count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone)
            .await
            .unwrap_or_else(|_| panic!("{victim}: files are left"));
    }
}

/// Not a promise: what the test below runs on a machine that it has crippled.
#[tokio::test]
#[ignore = "run by another test"]
async fn say_what_this_machine_can_do() {
    let _ = std::io::stdin().read_line(&mut String::new());
    let required = Sandbox::start(config()).await.map(drop);
    println!("required: {}", required.map_or_else(|error| error.to_string(), |()| "there are".into()));
    let sandbox = Sandbox::start(Config { namespaces: Namespaces::Preferred, ..config() }).await.unwrap();
    let strict = sandbox.run(argv(&["true"]), Default::default()).await;
    println!("strict: {}", strict.map_or_else(|error| error.to_string(), |outcome| format!("{:?}", outcome.tier)));
    let outcome: Outcome = run(&sandbox, shell("id -u; ls ~ && : > $OUTPUTS/x")).await;
    println!("accepted: {:?} {:?} {:?} {}", outcome.tier, outcome.end, text(&outcome.stdout), outcome.outputs.len());
    println!("advice: {:?}", sandbox.probe().await.advice);
}

/// What is said in a user namespace in which no further ones can be made. Under root it has all the users that there are.
fn said_without_namespaces() -> String {
    let map = if is_root() { &[][..] } else { &["--map-root-user"] };
    // Who is mapped only later has capabilities when it executes something.
    let cripple = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
    let script = format!("echo ready; read go; exec sh -ec '{cripple}' sh \"$@\"");
    let mut machine = Command::new("unshare")
        .args(["--user"])
        .args(map)
        .args(["sh", "-ec", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "say_what_this_machine_can_do"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(machine.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    if is_root() {
        for map in ["uid_map", "gid_map"] {
            fs::write(Path::new("/proc").join(machine.id().to_string()).join(map), "0 0 4294967295").unwrap();
        }
    }
    machine.stdin.take().unwrap().write_all(b"go\n\n").unwrap();
    let said = std::io::read_to_string(said).unwrap();
    assert!(machine.wait().unwrap().success(), "{said}");
    said
}

#[test]
fn where_namespaces_are_refused_those_who_accept_it_are_served_without() {
    let said = said_without_namespaces();
    assert!(said.contains("required: this machine cannot provide the isolation that was asked for"), "{said}");
    assert!(said.contains("strict: this machine cannot provide") && said.contains("max_user_namespaces"), "{said}");
    let user = if is_root() { "20000" } else { "0" };
    assert!(said.contains(&format!("accepted: Landlock Exit(0) \"{user}")), "{said}");
    assert!(said.lines().any(|line| line.starts_with("advice: ") && line.contains("max_user_namespaces")), "{said}");
}
