//! What a caller may rely on: how commands are given, how they end, what comes back.

mod common;

use std::{
    fs::Permissions,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
};

use common::{again_as_ordinary_user, argv, bash, config, is_root, run, sandbox, script_of, text};
use skep_sandbox::{Bind, End, Error, InFile, Net, Piece, Protection, Request, Run, Sandbox, Stream, Tier};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

#[tokio::test]
async fn a_command_runs_and_says_how_it_ended() {
    let outcome = bash("echo out; echo err >&2; exit 3").await;
    assert_eq!(outcome.end, End::Exit(3));
    assert_eq!((text(&outcome.stdout), text(&outcome.stderr)), ("out\n", "err\n"));
    assert!(!outcome.truncated);
    assert_eq!(outcome.tier, Tier::Strict);
    assert_eq!(outcome.missing, [Protection::MemoryOfAll, Protection::KernelMemory]);
    assert_eq!(bash("kill -SEGV $$").await.end, End::Signal(11));
}

#[tokio::test]
async fn every_way_to_give_a_program_works() {
    let sandbox = sandbox().await;
    for request in [
        argv(&["echo", "hello"]),
        argv(&["/usr/bin/echo", "hello"]),
        Request::new(Run::Shell("echo hello".into())),
        script_of("x=(hello); echo ${x[0]}"),
        Request::new(Run::Python("print('hello')".into())),
        Request::new(Run::JavaScript("console.log('hello')".into())),
    ] {
        let outcome = run(&sandbox, request.clone()).await;
        assert_eq!((outcome.end, text(&outcome.stdout)), (End::Exit(0), "hello\n"), "{:?} {outcome:?}", request.run);
    }
}

#[tokio::test]
async fn code_may_be_long_and_leaves_standard_input_alone() {
    let sandbox = sandbox().await;
    let mut request = Request::new(Run::Python(format!(
        "import sys\n{}\nprint(sys.stdin.read().upper(), sys.argv[1:])",
        "# a long program\n".repeat(20_000)
    )));
    request.stdin = b"data".to_vec();
    assert_eq!(text(&run(&sandbox, request).await.stdout), "DATA []\n");
}

#[tokio::test]
async fn arguments_and_variables_arrive_as_they_are() {
    let odd = "--x=$(id) ; ' \" \n \\ \u{e4}";
    let mut request = argv(&["printenv", "--null", "ODD"]);
    request.env = vec![("ODD".into(), odd.into()), ("LD_PRELOAD".into(), "/tmp/none.so".into())];
    let sandbox = sandbox().await;
    assert_eq!(text(&run(&sandbox, request).await.stdout), format!("{odd}\0"));
    assert_eq!(text(&run(&sandbox, argv(&["printf", "%s", odd])).await.stdout), odd);
    let outcome = run(&sandbox, argv(&["env"])).await;
    let mut names: Vec<&str> = text(&outcome.stdout).lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LANG", "NODE_PATH", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH"]);
}

#[tokio::test]
async fn input_and_output_larger_than_pipes_do_not_block_one_another() {
    let sandbox = sandbox().await;
    let mut request = script_of("cat; head -c 400000 /dev/zero >&2");
    request.stdin = vec![b'x'; 600_000];
    let outcome = run(&sandbox, request).await;
    assert_eq!(outcome.end, End::Exit(0));
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (600_000, 400_000));
}

#[tokio::test]
async fn files_of_the_request_are_there_and_modules_are_found() {
    let sandbox = sandbox().await;
    let file = |path: &str, text: &str| InFile { path: path.into(), bytes: text.into() };
    let mut request = Request::new(Run::Python("import m.n; print(m.n.x, open('/outputs/in').read())".into()));
    request.files = vec![file("m/n.py", "x = 7"), file("/outputs/in", "given")];
    let outcome = run(&sandbox, request.clone()).await;
    assert_eq!(text(&outcome.stdout), "7 given\n", "{}", text(&outcome.stderr));
    assert_eq!(outcome.outputs.len(), 1);

    request.files = vec![file("large", &"x".repeat(1 << 20))];
    request.limits.tmp = 1 << 19;
    let error = sandbox.run(request, Default::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(why) if why.contains("/tmp/large")), "{error}");
}

#[tokio::test]
async fn what_was_left_in_outputs_comes_back_and_nothing_else() {
    let outcome = bash(
        "cd /outputs; mkdir -p a/b; echo 1 > a/b/one; echo 2 > two; chmod 755 two; touch empty
         ln -s /etc/passwd link; ln -s a/b dirlink; mkfifo fifo; echo x > /tmp/elsewhere",
    )
    .await;
    assert_eq!(outcome.end, End::Exit(0), "{}", text(&outcome.stderr));
    let files: Vec<_> =
        outcome.outputs.iter().map(|file| (file.path.to_str().unwrap(), text(&file.bytes), file.executable)).collect();
    assert_eq!(files, [("a/b/one", "1\n", false), ("empty", "", false), ("two", "2\n", true)]);
    let skipped: Vec<_> = outcome.skipped.iter().map(|(path, why)| (path.to_str().unwrap(), *why)).collect();
    assert_eq!(skipped, [("dirlink", "a link"), ("fifo", "not a regular file"), ("link", "a link")]);
}

#[tokio::test]
async fn odd_names_come_back_as_they_are_and_sockets_not_at_all() {
    let program = "import os, socket
for name in [b'a\\nb', b'\\xff\\xfe', b'x' * 255, b'..a', b'-rf', b' ']:
    open(os.path.join(b'/outputs', name), 'w').write('1')
socket.socket(socket.AF_UNIX).bind('/outputs/socket')";
    let outcome = run(&sandbox().await, Request::new(Run::Python(program.into()))).await;
    assert_eq!(outcome.end, End::Exit(0), "{}", text(&outcome.stderr));
    let names: Vec<&[u8]> = outcome.outputs.iter().map(|file| file.path.as_os_str().as_bytes()).collect();
    assert_eq!(names, [&b" "[..], b"-rf", b"..a", b"a\nb", &[b'x'; 255], b"\xff\xfe"]);
    assert_eq!(outcome.skipped, [("socket".into(), "not a regular file")]);
}

#[tokio::test]
async fn two_sandboxes_at_once_do_not_reach_one_another() {
    let sandbox = sandbox().await;
    let mark = common::mark();
    let listen = format!(
        "import socket, subprocess
a = socket.socket(socket.AF_UNIX); a.bind('\\0skep-{mark}'); a.listen()
b = socket.socket(); b.bind(('127.0.0.1', 45678)); b.listen()
subprocess.run(['sleep', '{mark}'])"
    );
    let connect = format!(
        "import socket
for family, to in [(socket.AF_UNIX, '\\0skep-{mark}'), (socket.AF_INET, ('127.0.0.1', 45678))]:
    try: socket.socket(family).connect(to); print('reached', to)
    except OSError: pass
socket.socket(socket.AF_UNIX).bind('\\0skep-{mark}'); print('free')"
    );
    let loopback = |code: String| Request { net: Net::Loopback, ..Request::new(Run::Python(code)) };
    let attempts = async {
        common::wait_for_marked(&format!("sleep\0{mark}"), 1).await;
        (
            run(&sandbox, loopback(connect.clone())).await,
            run(&sandbox, Request::new(Run::Python(connect.clone()))).await,
        )
    };
    let (with, without) = tokio::select! {
        outcome = sandbox.run(loopback(listen), Default::default()) => panic!("{outcome:?}"),
        outcomes = attempts => outcomes,
    };
    for outcome in [with, without] {
        assert_eq!(text(&outcome.stdout), "free\n", "{}", text(&outcome.stderr));
    }
}

#[tokio::test]
async fn outputs_survive_a_deadline() {
    let sandbox = sandbox().await;
    let mut request = script_of("echo early; echo kept > /outputs/kept; sleep 1000");
    request.limits.wall = std::time::Duration::from_secs(3);
    let outcome = run(&sandbox, request).await;
    assert_eq!((outcome.end, text(&outcome.stdout)), (End::Timeout, "early\n"));
    assert_eq!(outcome.outputs[0].bytes, b"kept\n");
}

#[tokio::test]
async fn a_bind_is_seen_read_only_even_below_a_private_directory() {
    let private = tempfile::tempdir().unwrap();
    let workspace = private.path().join("workspace");
    std::fs::create_dir(&workspace).unwrap();
    std::fs::write(workspace.join("readme"), "hello").unwrap();
    std::fs::write(workspace.join("secret"), "hidden").unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&workspace.join("readme"), 0o644);
    mode(&workspace.join("secret"), 0o600);
    mode(&workspace, 0o755);
    mode(private.path(), 0o700);

    let bind = Bind { source: workspace, target: "/workspace".into(), hidden: Vec::new() };
    let sandbox = Sandbox::start(skep_sandbox::Config { binds: vec![bind], ..config() }).await.unwrap();
    let mut request = script_of("cat readme; touch new 2>/dev/null || echo -n ' read-only '; cat secret 2>/dev/null");
    request.cwd = Some("/workspace".into());
    let outcome = run(&sandbox, request).await;
    // What only root may read stays so; an ordinary user's files are his own.
    let secret = if is_root() { "" } else { "hidden" };
    assert_eq!(text(&outcome.stdout), format!("hello read-only {secret}"));
}

#[tokio::test]
async fn a_directory_that_is_closed_to_others_is_shown_all_the_same_and_read_only() {
    let private = tempfile::tempdir().unwrap();
    std::fs::create_dir(private.path().join("sub")).unwrap();
    for file in ["secret", "sub/secret"] {
        std::fs::write(private.path().join(file), "named by the operator\n").unwrap();
        std::fs::set_permissions(private.path().join(file), Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::set_permissions(private.path(), Permissions::from_mode(0o700)).unwrap();
    let bind = Bind { source: private.path().to_owned(), target: "/workspace".into(), hidden: Vec::new() };
    let sandbox = Sandbox::start(skep_sandbox::Config { binds: vec![bind], ..config() }).await.unwrap();
    let script =
        "cat secret sub/secret; ls; for path in new sub/new secret; do (: > $path) 2>/dev/null && echo changed; done
        chmod 644 secret 2>/dev/null && echo changed; cat /etc/shadow 2>/dev/null; id -u";
    let request = Request { cwd: Some("/workspace".into()), ..script_of(script) };
    // One after the other and side by side, since they are of one user then.
    let (one, other) = tokio::join!(run(&sandbox, request.clone()), run(&sandbox, request.clone()));
    for outcome in [one, other, run(&sandbox, request).await] {
        let expected = "named by the operator\nnamed by the operator\nsecret\nsub\n1000\n";
        assert_eq!(text(&outcome.stdout), expected, "{}", text(&outcome.stderr));
    }
}

#[tokio::test]
async fn hidden_places_of_a_directory_are_not_seen_whoever_may_enter_it() {
    for mode in [0o755, 0o700] {
        let home = tempfile::tempdir().unwrap();
        for file in ["keys/id", "a/b/token", "netrc", "plain", "a/plain", "closed/keys/id", "closed/other/id"] {
            let path = home.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, format!("of {file}\n")).unwrap();
        }
        let set = |path: &str, mode| {
            std::fs::set_permissions(home.path().join(path), Permissions::from_mode(mode)).unwrap();
        };
        set("", mode);
        set("closed", 0o700);
        let hidden = ["keys", "a/b/token", "netrc", "closed/keys", "closed/other"].map(Into::into).to_vec();
        let bind = Bind { source: home.path().to_owned(), target: "/workspace".into(), hidden };
        let sandbox = Sandbox::start(skep_sandbox::Config { binds: vec![bind], ..config() }).await.unwrap();
        let script = "cat plain a/plain; cat keys/id a/b/token netrc closed/*/id 2>/dev/null
            grep -rs 'of ' keys a/b netrc closed; ls -A keys
            umount keys 2>/dev/null; rm -rf keys 2>/dev/null; cd keys && ls ..";
        let outcome = run(&sandbox, Request { cwd: Some("/workspace".into()), ..script_of(script) }).await;
        let expected = "of plain\nof a/plain\na\nclosed\nkeys\nnetrc\nplain\n";
        assert_eq!(text(&outcome.stdout), expected, "{mode:o}: {}", text(&outcome.stderr));
    }
}

#[tokio::test]
async fn a_sandbox_that_cannot_hide_what_it_should_is_not_started() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", home.path().join("link")).unwrap();
    for (hidden, why) in [("gone", "hide /workspace/gone"), ("link", "hide /workspace/link")] {
        let bind = |hidden: &str| Bind {
            source: home.path().to_owned(),
            target: "/workspace".into(),
            hidden: vec![hidden.into()],
        };
        let error = Sandbox::start(skep_sandbox::Config { binds: vec![bind(hidden)], ..config() }).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        for outside in ["../other", "/etc", "", "a/../b", "."] {
            let binds = vec![bind(outside)];
            let error = Sandbox::start(skep_sandbox::Config { binds, ..config() }).await.unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{outside:?}: {error}");
        }
    }
    let bind = Bind { source: home.path().to_owned(), target: "/workspace".into(), hidden: vec!["real".into()] };
    let bare = skep_sandbox::Config { binds: vec![bind], namespaces: skep_sandbox::Namespaces::Unused, ..config() };
    let error = Sandbox::start(bare).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { reason, .. } if reason.contains("real")), "{error}");
}

#[tokio::test]
async fn binds_that_would_hide_or_nest_are_refused() {
    for targets in [&["/usr/x"][..], &["/"], &["relative"], &["/a/../b"], &["/tmp"], &["/a", "/a/b"], &["/a/b", "/a"]] {
        let binds = targets
            .iter()
            .map(|target| Bind { source: "/usr".into(), target: target.into(), hidden: Vec::new() })
            .collect();
        let error = Sandbox::start(skep_sandbox::Config { binds, ..config() }).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{targets:?}: {error}");
    }
    let binds = vec![Bind { source: "/no/such".into(), target: "/a".into(), hidden: Vec::new() }];
    let error = Sandbox::start(skep_sandbox::Config { binds, ..config() }).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(why) if why.contains("/no/such")), "{error}");
}

#[tokio::test]
async fn what_cannot_be_executed_is_the_requests_fault() {
    let sandbox = sandbox().await;
    let why = async |request| sandbox.run(request, Default::default()).await.unwrap_err().to_string();
    assert!(why(argv(&["no-such-program"])).await.contains("`no-such-program` cannot be executed"));
    assert!(why(argv(&["/etc/passwd"])).await.contains("`/etc/passwd` cannot be executed"));
    for (program, is_there) in [("no-such-program", false), ("/no/such", false), ("/etc/passwd", true), ("/usr", true)]
    {
        let error = sandbox.run(argv(&[program]), Default::default()).await.unwrap_err();
        assert!(matches!(error, Error::Unexecuted { found, .. } if found == is_there), "{program}: {error:?}");
    }
    let mut request = argv(&["true"]);
    request.cwd = Some("/no/such".into());
    assert!(why(request).await.contains("/no/such"));
    let long = why(argv(&[&"x".repeat(100_000)])).await;
    assert!(long.contains("xxx") && long.len() < 2000, "{long}");
}

#[tokio::test]
async fn there_is_no_network_unless_loopback_is_asked_for() {
    let sandbox = sandbox().await;
    let program = "import socket, threading
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
c = socket.create_connection(s.getsockname()); c.sendall(b'hi'); print(s.accept()[0].recv(2))";
    let request = Request::new(Run::Python(program.into()));
    let outcome = run(&sandbox, Request { net: Net::Loopback, ..request.clone() }).await;
    assert_eq!(text(&outcome.stdout), "b'hi'\n", "{}", text(&outcome.stderr));
    let outcome = run(&sandbox, request).await;
    assert_eq!(outcome.end, End::Exit(1), "{outcome:?}");
}

#[tokio::test]
async fn what_a_command_prints_is_heard_while_it_runs() {
    let (sandbox, cancel) = (sandbox().await, CancellationToken::new());
    let (sink, mut pieces) = mpsc::channel(4);
    let request = Request { sink: Some(sink), ..script_of("echo out; echo err >&2; sleep 1000") };
    let heard = async {
        let mut heard = [pieces.recv().await.unwrap(), pieces.recv().await.unwrap()];
        // Two pipes have no order when both are read at once.
        heard.sort_by_key(|piece| piece.stream as usize);
        cancel.cancel();
        assert_eq!(pieces.recv().await, None);
        heard
    };
    let (outcome, heard) = tokio::join!(sandbox.run(request, cancel.clone()), heard);
    let piece = |stream, text: &str| Piece { stream, bytes: text.into() };
    assert_eq!(heard, [piece(Stream::Stdout, "out\n"), piece(Stream::Stderr, "err\n")]);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.end, &outcome.stdout[..], &outcome.stderr[..]), (End::Cancelled, &b"out\n"[..], &b"err\n"[..]));
}

#[tokio::test]
async fn who_listens_slowly_delays_neither_the_command_nor_its_deadline_and_misses_nothing() {
    let (sandbox, mark) = (sandbox().await, common::mark());
    let (sink, mut pieces) = mpsc::channel(1);
    let mut request = Request { sink: Some(sink), ..script_of(&format!("yes | head -c 500000; sleep {mark}")) };
    request.limits.wall = std::time::Duration::from_secs(5);
    let heard = async {
        // Nobody listens, yet it gets beyond what a pipe holds, and is killed when its time is up.
        common::wait_for_marked(&format!("sleep\0{mark}"), 1).await;
        common::wait_for_marked(&mark, 0).await;
        let mut heard = Vec::new();
        while let Some(piece) = pieces.recv().await {
            assert!(piece.bytes.len() <= skep_sandbox::PIECE_BYTES_MAX);
            heard.extend(piece.bytes);
        }
        heard
    };
    let (outcome, heard) = tokio::join!(run(&sandbox, request), heard);
    assert_eq!((outcome.end, outcome.stdout.len()), (End::Timeout, 500_000));
    assert!(heard == outcome.stdout);
}

#[tokio::test]
async fn what_is_heard_of_a_flood_ends_at_the_limit() {
    let sandbox = sandbox().await;
    let (sink, mut pieces) = mpsc::channel(1);
    let mut request = Request { sink: Some(sink), ..script_of("yes & yes >&2") };
    request.limits.output = 300_000;
    let heard = async {
        let mut heard = 0;
        while let Some(piece) = pieces.recv().await {
            heard += piece.bytes.len();
        }
        heard
    };
    let (outcome, heard) = tokio::join!(run(&sandbox, request), heard);
    assert_eq!((outcome.end, heard), (End::OutputLimit, 300_000));
    assert_eq!(outcome.stdout.len() + outcome.stderr.len(), 300_000);
}

#[tokio::test]
async fn usage_is_measured() {
    let outcome =
        run(&sandbox().await, Request::new(Run::Python("x = bytearray(50 << 20); sum(range(2_000_000))".into()))).await;
    assert!(outcome.usage.memory_peak > 50 << 20, "{:?}", outcome.usage);
    assert!(outcome.usage.cpu.as_millis() >= 10, "{:?}", outcome.usage);
    assert!(outcome.usage.wall >= outcome.usage.cpu / 2, "{:?}", outcome.usage);
}

#[tokio::test]
async fn the_machine_reports_what_it_can_do() {
    let report = sandbox().await.probe().await;
    assert_eq!(report.tier, Some(Tier::Strict));
    assert_eq!(report.missing.len(), report.advice.len());
}

#[tokio::test]
async fn a_program_that_does_not_call_init_is_found_out() {
    for helper in ["/bin/true", "/bin/cat"] {
        let helper = Some(helper.into());
        let error = Sandbox::start(skep_sandbox::Config { helper, ..config() }).await.unwrap_err();
        assert!(matches!(error, Error::NoHelper), "{error}");
    }
}
