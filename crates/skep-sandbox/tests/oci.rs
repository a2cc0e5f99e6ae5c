//! Requests in containers of `runc`, `podman` and `docker`: the same interface, for those who accept it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use common::{again_as_ordinary_user, argv, children, config, is_root, mark, run, text, wait_for_marked};
use skep_sandbox::{
    Bind, Config, End, Error, InFile, Net, Oci, Outcome, Piece, Request, Run, Sandbox, Source, Stream, Tier,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

/// A directory and a file of `/usr` that containers do not see.
const HIDDEN: [&str; 2] = ["share/doc", "bin/shred"];
/// What can run containers here.
const PROGRAMS: [&str; 3] = ["runc", "podman", "docker"];

/// A root with the programs of this machine's `/usr`, as an image would have its own.
fn root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for directory in ["usr", "proc", "dev", "sys", "tmp", "code", "outputs", "etc", "host"] {
        fs::create_dir(root.path().join(directory)).unwrap();
    }
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // As images have it; runtimes put this mode on what is mounted there.
    fs::set_permissions(root.path().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    for link in ["bin", "lib", "lib64"] {
        symlink(Path::new("host").join(link), root.path().join(link)).unwrap();
    }
    root
}

/// Containers of `program`. `None`: it is not installed, or does not work here, and the test is left out for it.
async fn containers(program: &str) -> Option<(Root, Sandbox)> {
    if let Some(why) = why_not(program) {
        // The only one that `cargo xtask setup` installs.
        assert!(program != "runc" || std::env::var_os("SKEP_TEST_REQUIRE").is_none(), "{program}: {why}");
        println!("left out: {program}: {why}");
        return None;
    }
    let mut root = Root { directory: root(), image: None };
    if program != "runc" {
        root.image = Some([program.to_owned(), image(program, root.directory.path())?]);
        if let Err(why) = try_it(program, &root) {
            println!("left out: {program} does not work here: {why}");
            return None;
        }
    }
    let source = match &root.image {
        Some([_, image]) => Source::Image(image.clone()),
        None => Source::Root(root.directory.path().to_owned()),
    };
    let oci = Some(Oci { runtime: program.into(), source });
    let hidden = HIDDEN.map(Into::into).to_vec();
    let binds = vec![Bind { source: "/usr".into(), target: "/host".into(), hidden }];
    Some((root, Sandbox::start(Config { oci, binds, ..config() }).await.unwrap()))
}

fn why_not(program: &str) -> Option<&'static str> {
    let works = |words: &[&str]| Command::new(program).args(words).output().is_ok_and(|output| output.status.success());
    match program {
        _ if !works(&["--version"]) => Some("it is not installed"),
        "docker" if !works(&["info"]) => Some("its daemon does not run"),
        "podman" if !is_root() => Some("without root it needs more ids and a home, which a test's user has not"),
        "podman" if !works(&["info"]) => Some("it does not work here"),
        _ => None,
    }
}

/// What containers are made from. Removed with this value.
struct Root {
    directory: TempDir,
    /// An engine, and its image.
    image: Option<[String; 2]>,
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Some([program, image]) = &self.image {
            assert!(Command::new(program).args(["rmi", "--force", image]).output().unwrap().status.success());
        }
    }
}

/// Imports `root` as an image. `None`: that does not work here, and the test is left out.
fn image(program: &str, root: &Path) -> Option<String> {
    let name = std::env::var("IMAGE").unwrap_or_else(|_| format!("localhost/skep-test:{}", mark()));
    let script =
        format!("{program} image inspect {name} >/dev/null 2>&1 || tar -C \"$1\" -c . | {program} import - {name}");
    let imported = Command::new("sh").args(["-ec", &script, "sh"]).arg(root).output().unwrap();
    if !imported.status.success() {
        println!("left out: {program} takes no image: {}", String::from_utf8_lossy(&imported.stderr));
    }
    imported.status.success().then_some(name)
}

/// Whether an engine that is installed can run anything at all, called as plainly as can be. Many cannot, for reasons of
/// the machine: a version of cgroups that its runtime does not know, a container around it.
fn try_it(program: &str, root: &Root) -> Result<(), String> {
    let image = &root.image.as_ref().unwrap()[1];
    let mut plain = Command::new(program);
    plain.args(["run", "--rm", "--network=none", "--mount=type=bind,src=/usr,dst=/host"]);
    let tried = plain.args(["--entrypoint=/host/bin/true", image]).output().unwrap();
    if tried.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()) }
}

fn accepting(request: Request) -> Request {
    // `/usr` of this root is at another place.
    let env = vec![("PATH".into(), "/host/bin".into())];
    Request { min_tier: Tier::Oci, env, ..request }
}

fn shell(script: &str) -> Request {
    accepting(Request::new(Run::Shell(script.into())))
}

#[tokio::test]
async fn a_container_behaves_like_a_sandbox_to_who_accepts_it() {
    for program in PROGRAMS {
        if let Some((_root, sandbox)) = containers(program).await {
            behaves_like_a_sandbox(&sandbox).await;
        }
    }
}

async fn behaves_like_a_sandbox(sandbox: &Sandbox) {
    let outcome = run(sandbox, shell("echo out; echo err >&2; cat; exit 3")).await;
    assert_eq!((outcome.end, outcome.tier), (End::Exit(3), Tier::Oci), "{outcome:?}");
    assert_eq!((text(&outcome.stdout), text(&outcome.stderr)), ("out\n", "err\n"));
    let given = InFile { path: "d/given".into(), bytes: b"file".to_vec() };
    let mut request = shell("cat d/given -; mkdir /outputs/a; echo x > /outputs/a/b; ln -s /etc/passwd /outputs/link");
    (request.files, request.stdin) = (vec![given], b" and input".to_vec());
    let outcome = run(sandbox, request).await;
    assert_eq!(text(&outcome.stdout), "file and input", "{}", text(&outcome.stderr));
    assert_eq!((outcome.outputs[0].path.as_path(), &*outcome.outputs[0].bytes), (Path::new("a/b"), &b"x\n"[..]));
    assert_eq!(outcome.skipped, [("link".into(), "a link")]);
    assert_eq!(run(sandbox, shell("kill -KILL $$; sh -c 'kill -SEGV $$'")).await.end, End::Signal(libc::SIGSEGV));

    let hidden = run(sandbox, shell("ls -A /host/share/doc; wc -c < /host/bin/shred; ls -d /host/share/doc")).await;
    assert_eq!(text(&hidden.stdout), "0\n/host/share/doc\n", "{}", text(&hidden.stderr));

    let strict = sandbox.run(argv(&["true"]), Default::default()).await;
    assert!(matches!(strict, Err(Error::Unavailable { .. })), "{strict:?}");
    let missing = sandbox.run(accepting(argv(&["no-such-program"])), Default::default()).await.unwrap_err();
    assert!(missing.to_string().contains("no-such-program"), "{missing}");
    assert!(matches!(missing, Error::Unexecuted { found: false, .. }), "{missing:?}");
    let ((sink, mut pieces), cancel) = (mpsc::channel::<Piece>(1), CancellationToken::new());
    let heard = async {
        let heard = pieces.recv().await.unwrap();
        cancel.cancel();
        assert_eq!((heard.stream, heard.bytes), (Stream::Stderr, b"now\n".to_vec()));
    };
    let request = Request { sink: Some(sink), ..shell("echo now >&2; sleep 1000") };
    let (outcome, ()) = tokio::join!(sandbox.run(request, cancel.clone()), heard);
    assert_eq!(outcome.unwrap().end, End::Cancelled);
    let granted = Request { net: Net::Allow(vec!["a:1".into()]), ..shell("true") };
    assert!(matches!(sandbox.run(granted, Default::default()).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_container_is_kept_in_and_within_its_limits() {
    for program in PROGRAMS {
        if let Some((_root, sandbox)) = containers(program).await {
            is_kept_in_and_within_its_limits(&sandbox).await;
        }
    }
}

async fn is_kept_in_and_within_its_limits(sandbox: &Sandbox) {
    let limited = async |script: &str, change: fn(&mut Request)| -> Outcome {
        let mut request = shell(script);
        change(&mut request);
        run(sandbox, request).await
    };
    let inside =
        "id -u; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\n\\t'; echo; touch /host/x /x /code/x
        cat /etc/shadow; unshare -U true && echo escaped; ls /home /root; ls /proc | grep -c '^[0-9]'";
    let outcome = run(sandbox, shell(inside)).await;
    // An ordinary user's own id is called root inside.
    let id = if is_root() { "2000004097" } else { "0" };
    let expected = format!("{id}\nCapBnd:0000000000000000NoNewPrivs:1Seccomp:2\n");
    assert!(text(&outcome.stdout).starts_with(&expected), "{}{}", text(&outcome.stdout), text(&outcome.stderr));
    assert!(!text(&outcome.stdout).contains("escaped"));
    assert!(text(&outcome.stderr).matches("Read-only").count() == 3, "{}", text(&outcome.stderr));

    let outcome =
        limited("(setsid sleep 1000 &); sleep 1000", |request| request.limits.wall = Duration::from_secs(1)).await;
    assert_eq!(outcome.end, End::Timeout);
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
    let mark = mark();
    let dropped = shell(&format!("sleep {mark}"));
    let sleeping = format!("sleep\0{mark}");
    tokio::select! {
        outcome = sandbox.run(dropped, Default::default()) => panic!("{outcome:?}"),
        () = wait_for_marked(&sleeping, 1) => (),
    }
    wait_for_marked(&sleeping, 0).await;
}

/// Not a promise: the server of the test below.
#[tokio::test]
#[ignore = "run by another test"]
async fn server_that_waits_to_be_killed() {
    let Some((root, sandbox)) = containers(&std::env::var("PROGRAM").unwrap()).await else {
        return println!("left out");
    };
    println!("started");
    if let Ok(mark) = std::env::var("MARK") {
        let script = format!("(setsid sleep {mark} &); sleep {mark}");
        println!("{:?}", sandbox.run(shell(&script), Default::default()).await);
    }
    drop((root, sandbox));
}

/// Starts the server above, its files in `directory`. It says whether it is left out.
fn server(program: &str, image: &str, directory: &Path, mark: Option<&str>) -> Option<std::process::Child> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "server_that_waits_to_be_killed"]);
    command.env("PROGRAM", program).env("TMPDIR", directory).env("IMAGE", image).stdout(Stdio::piped());
    command.envs(mark.map(|mark| ("MARK", mark)));
    let mut server = command.spawn().unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = said.find(|line| line.starts_with("started") || line.contains("left out")).unwrap();
    if first.starts_with("started") {
        return Some(server);
    }
    server.wait().unwrap();
    None
}

#[tokio::test]
async fn no_container_outlives_a_killed_server() {
    for program in PROGRAMS {
        for guarded in [true, false] {
            let (directory, mark) = (tempfile::tempdir().unwrap(), mark());
            let image = format!("localhost/skep-test:{mark}");
            let Some(mut server_to_kill) = server(program, &image, directory.path(), Some(&mark)) else { continue };
            let sleeping = format!("sleep\0{mark}");
            wait_for_marked(&sleeping, 2).await;
            let guard = |parent: u32| {
                let named = |pid: &u32| {
                    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"skep-sandbox-guard"))
                };
                children(parent).into_iter().find(named).unwrap()
            };
            if !guarded {
                let guard = guard(server_to_kill.id()).to_string();
                assert!(Command::new("kill").args(["-9", &guard]).status().unwrap().success());
            }
            server_to_kill.kill().unwrap();
            server_to_kill.wait().unwrap();
            if !guarded {
                // Nobody was left to do it but the next server.
                server(program, &image, directory.path(), None).unwrap().wait().unwrap();
            }
            wait_for_marked(&sleeping, 0).await;
            let containers = || {
                let entries = fs::read_dir(directory.path()).unwrap().flatten();
                entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("skep-containers-")).count()
            };
            let cleared = async {
                while containers() > 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), cleared)
                .await
                .unwrap_or_else(|_| panic!("{program}: files are left"));
            if program != "runc" {
                // The next server has removed it already, if there was one.
                let _ = Command::new(program).args(["rmi", "--force", &image]).output().unwrap();
            }
        }
    }
}

/// A program that writes down what it is called with, and does as an engine would with `run`: nothing but saying so.
fn recorder(directory: &Path, version: &str) -> PathBuf {
    let program = directory.join("engine");
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in\n--version) echo '{version}' ;;\nimage) [ \"$4\" = here ] ;;\n\
         run) for word; do printf '%s\\n' \"$word\"; done > {0}/words; cat; echo ran; exit 5 ;;\n\
         *) echo \"$@\" >> {0}/others ;;\nesac\n",
        directory.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    program
}

#[tokio::test]
async fn engines_are_told_everything_that_keeps_a_container_in() {
    for (version, own) in [("Docker version 28.2.2", None), ("podman version 4.3.1", Some("--read-only-tmpfs=false"))] {
        let directory = tempfile::tempdir().unwrap();
        let runtime = recorder(directory.path(), version);
        let oci = |image: &str| Some(Oci { runtime: runtime.clone(), source: Source::Image(image.into()) });
        let absent = Sandbox::start(Config { oci: oci("elsewhere"), ..config() }).await.unwrap_err();
        assert!(matches!(&absent, Error::Unavailable { cure, .. } if cure.ends_with("pull elsewhere")), "{absent}");
        assert!(matches!(
            Sandbox::start(Config { oci: oci("--privileged"), ..config() }).await,
            Err(Error::Invalid(_))
        ));

        let hidden = HIDDEN.map(Into::into).to_vec();
        let binds = vec![Bind { source: "/usr".into(), target: "/workspace".into(), hidden }];
        let sandbox = Sandbox::start(Config { oci: oci("here"), binds, ..config() }).await.unwrap();
        let mut request = argv(&["printf", "--privileged", "two words"]);
        (request.min_tier, request.stdin, request.cwd) = (Tier::Oci, b"in ".to_vec(), Some("/workspace".into()));
        request.env = vec![("A".into(), "b c".into())];
        (request.limits.memory, request.limits.processes) = (100 << 20, 7);
        let outcome = run(&sandbox, request).await;
        assert_eq!((text(&outcome.stdout), outcome.end), ("in ran\n", End::Exit(5)));
        let words = fs::read_to_string(directory.path().join("words")).unwrap();
        let words: Vec<&str> = words.lines().collect();
        let user = if is_root() {
            "--user=2000004097:2000004097"
        } else if own.is_some() {
            "--user=0:0"
        } else {
            "--user=65534:65534"
        };
        let over_directory = match own {
            Some(_) => {
                "--mount=type=tmpfs,dst=/workspace/share/doc,tmpfs-mode=0555,tmpfs-size=4096,readonly,notmpcopyup"
            }
            None => "--mount=type=tmpfs,dst=/workspace/share/doc,tmpfs-mode=0555,tmpfs-size=4096,readonly",
        };
        let expected = [
            "--rm",
            "--pull=never",
            "--network=none",
            "--ipc=private",
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--memory=104857600",
            "--memory-swap=104857600",
            "--pids-limit=7",
            "--workdir=/workspace",
            "--ulimit=nofile=256:256",
            "--ulimit=core=0:0",
            "--mount=type=bind,src=/usr,dst=/workspace,readonly",
            "--mount=type=bind,src=/dev/null,dst=/workspace/bin/shred,readonly",
            over_directory,
            "--interactive",
            "A=b c",
            user,
        ];
        for word in expected.into_iter().chain(own) {
            assert!(words.contains(&word), "{word} is not in {words:#?}");
        }
        assert_eq!(words.contains(&"--read-only-tmpfs=false"), own.is_some());
        assert!(words.iter().any(|word| word.starts_with("--security-opt=seccomp=/")), "{words:#?}");
        // What the request says comes after the image and is nobody's option.
        assert_eq!(words[words.len() - 5..], ["--entrypoint", "printf", "here", "--privileged", "two words"]);
    }
}
