//! `skep exec` and `skep sandbox selftest`, as a person types them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio},
    thread,
};

use serde_json::Value;

/// A directory with a home in it, where `skep` is called.
struct Here(tempfile::TempDir);

impl Here {
    fn new() -> Here {
        Here(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn skep(&self, words: &[&str], stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_skep"))
            .args(words)
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .env("SECRET", "of the caller")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Exit code and standard output of `skep exec`.
    fn exec(&self, words: &[&str]) -> (i32, String) {
        let output = self.skep(&[&["exec"], words].concat(), "given");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap(), text + &String::from_utf8_lossy(&output.stderr))
    }
}

#[test]
fn a_command_sees_nothing_of_the_caller_and_its_exit_code_is_passed_on() {
    let here = Here::new();
    here.write("mine", "");
    assert_eq!(here.exec(&["--", "sh", "-c", "echo $SECRET$(ls /tmp); exit 3"]), (3, "\n".into()));
    assert_eq!(here.exec(&["--", "cat"]), (0, String::new()));
    assert_eq!(here.exec(&["-i", "--", "cat"]), (0, "given".into()));
    assert_eq!(here.exec(&["--env", "A=b=c", "--", "printenv", "A"]), (0, "b=c\n".into()));
    assert_eq!(here.exec(&["--", "sh", "-c", "kill -9 $$"]).0, 137);
    assert_eq!(here.exec(&["--timeout", "0.3", "--", "sleep", "100"]), (124, "skep: its time was up\n".into()));
    assert_eq!(here.exec(&["-C", ".", "--", "ls"]), (0, "mine\n".into()));
}

#[test]
fn a_program_that_is_not_run_has_the_code_that_shells_give_it() {
    let here = Here::new();
    for (words, expected) in [(["no-such-program"], 127), (["/no/such"], 127), (["/etc/passwd"], 126), (["/usr"], 126)]
    {
        let (code, said) = here.exec(&words);
        assert!(code == expected && said.contains(&format!("`{}` cannot be executed", words[0])), "{code} {said}");
    }
    assert_eq!(here.exec(&["-C", ".", "--in", "missing", "true"]).0, 1);
}

#[test]
fn options_behind_the_command_are_its_own() {
    let here = Here::new();
    here.write("mine", "");
    for words in [&["-C", ".", "ls", "-1", "--all", "-d", "mine"][..], &["-C", ".", "--", "ls", "-1", "--", "mine"]] {
        assert_eq!(here.exec(words), (0, "mine\n".into()), "{words:?}");
    }
    let echoed = "--json --config x -- --help -h\n";
    let words = ["echo", "--json", "--config", "x", "--", "--help", "-h"];
    assert_eq!(here.exec(&words), (0, echoed.into()));
    let (code, said) = here.exec(&["--no-such-option", "true"]);
    assert!(code == 2 && said.contains("--no-such-option"), "{code} {said}");
}

/// A command that runs, and what it prints.
fn start(here: &Here, words: &[&str]) -> (Child, BufReader<ChildStdout>, BufReader<ChildStderr>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_skep"))
        .arg("exec")
        .args(words)
        .current_dir(here.0.path())
        .env("HOME", here.0.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    (child, BufReader::new(out), BufReader::new(err))
}

#[test]
fn what_a_command_prints_is_shown_as_it_comes_and_stays_after_an_interrupt() {
    let here = Here::new();
    let script = "printf 'a prompt: '; echo warned >&2; sleep 1000; echo never";
    let (mut child, mut out, mut err) = start(&here, &["--timeout", "500", "sh", "-c", script]);
    let mut shown = [0; 10];
    out.read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"a prompt: ");
    let mut line = String::new();
    err.read_line(&mut line).unwrap();
    assert_eq!(line, "warned\n");
    assert!(child.try_wait().unwrap().is_none());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let (mut rest, mut said) = (String::new(), String::new());
    out.read_to_string(&mut rest).unwrap();
    err.read_to_string(&mut said).unwrap();
    assert!(rest.is_empty() && said.contains("it was stopped"), "{rest:?} {said:?}");
}

#[test]
fn a_command_whose_output_nobody_reads_any_more_is_ended() {
    let here = Here::new();
    let (mut child, mut out, mut err) =
        start(&here, &["--timeout", "500", "sh", "-c", "while :; do echo x; sleep 0.01; done"]);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(141));
    let mut said = String::new();
    err.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn programs_in_a_language_come_from_a_file_or_from_standard_input() {
    let here = Here::new();
    here.write("p.py", "import sys; print(sys.argv[1:])");
    here.write("p.js", "console.log(6 * 7)");
    assert_eq!(here.exec(&["--lang", "python", "--", "p.py"]), (0, "[]\n".into()));
    assert_eq!(here.exec(&["--lang", "python", "--", "p.py", "-x", "y z"]), (0, "['-x', 'y z']\n".into()));
    assert_eq!(here.exec(&["--lang", "js", "--", "p.js"]), (0, "42\n".into()));
    let output = here.skep(&["exec", "--lang", "bash", "--", "-"], "echo ${BASH_VERSION:+bash}");
    assert_eq!(output.stdout, b"bash\n");
    assert!(here.exec(&["--lang", "python", "--", "missing.py"]).1.contains("missing.py"));
}

#[test]
fn files_go_in_and_come_out() {
    let here = Here::new();
    here.write("data", "b\na\n");
    let sort =
        ["--in", "data", "--out", "results", "--", "sh", "-c", "mkdir /outputs/d; sort data > /outputs/d/sorted"];
    assert_eq!(here.exec(&sort), (0, String::new()));
    assert_eq!(fs::read_to_string(here.0.path().join("results/d/sorted")).unwrap(), "a\nb\n");
    let (code, said) = here.exec(&["--", "touch", "/outputs/x"]);
    assert!(code == 0 && said.contains("--out DIR"), "{said}");
    assert!(here.exec(&["--in", "missing", "--", "true"]).1.contains("missing"));
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let here = Here::new();
    let pipe = here.0.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::create_dir(here.0.path().join("directory")).unwrap();
    for name in ["pipe", "directory", "/dev/zero"] {
        for words in [&["--in", name, "--", "true"][..], &["--lang", "python", name], &["--lang", "sh", name, "x"]] {
            let (code, said) = here.exec(words);
            assert!(code == 1 && said.contains(name) && said.contains("not a regular file"), "{words:?}: {said}");
        }
    }
}

#[test]
fn an_end_is_told_as_json() {
    let here = Here::new();
    let (code, said) =
        here.exec(&["--json", "--", "sh", "-c", "printf 'a\\377'; echo b >&2; touch /outputs/c; exit 5"]);
    let told: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &told["end"], &told["code"]), (0, &"exit".into(), &5.into()), "{told}");
    assert_eq!((&told["stdout"]["base64"], &told["stderr"]), (&"Yf8=".into(), &"b\n".into()));
    assert_eq!(told["outputs"][0]["path"], "c");
    assert!(told["usage"]["wall_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_private_address_is_reached_only_if_the_operator_lists_it_and_the_caller_grants_it() {
    let here = Here::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 1000]);
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nreached");
        }
    });
    // The dot keeps it from being taken for the sandbox's own loopback.
    here.write("p.py", &format!("import urllib.request as r; print(r.urlopen('http://localhost.:{port}/').read())"));
    let grant = format!("localhost:{port}");
    let run = ["--allow-net", &grant, "--lang", "python", "--", "p.py"];
    let (code, said) = here.exec(&run);
    assert!(code == 1 && said.contains("an address of this machine"), "{said}");
    here.write("listed.toml", &format!("[web]\nallow_hosts = ['{grant}']\n"));
    let listed = |words: &[&str]| here.exec(&[&["--config", "listed.toml"], words].concat());
    assert_eq!(listed(&run), (0, "b'reached'\n".into()));
    assert!(listed(&["--allow-net", "localhost:1", "--lang", "python", "--", "p.py"]).1.contains("not granted"));
    assert_eq!(listed(&run[2..]).0, 1);
}

#[test]
fn the_selftest_says_what_every_attack_came_to() {
    let output = Here::new().skep(&["sandbox", "selftest", "--json"], "");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && told["safe"] == true, "{told}");
    assert!(told["counts"]["defended"].as_u64().unwrap() > 60, "{told}");
}

#[test]
fn containers_are_used_if_the_operator_says_so_and_nothing_else_then() {
    let here = Here::new();
    here.write("c.toml", "[sandbox]\ncontainer = { runtime = 'no-such-runtime', root = '/usr' }\n");
    let (code, said) = here.exec(&["--config", "c.toml", "--", "true"]);
    assert!(code == 125 && said.contains("no-such-runtime cannot be executed"), "{code} {said}");
    // Not if the file only happens to lie there: it names a program.
    here.write("skep.toml", "[sandbox]\ncontainer = { runtime = 'no-such-runtime', root = '/usr' }\n");
    let (code, said) = here.exec(&["--", "true"]);
    assert!(code == 0 && said.contains("sandbox.container"), "{code} {said}");
}
