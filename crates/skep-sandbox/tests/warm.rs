//! Interpreters that were started ahead: a program cannot tell, and each serves one request.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
mod common;

use std::{path::PathBuf, time::Duration};

use common::{again_as_ordinary_user, config, run, sandbox, text};
use skep_sandbox::{Bind, Config, End, InFile, Outcome, Request, Run, Sandbox, Start};
use tokio::time::{sleep, timeout};

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

async fn cold() -> Sandbox {
    Sandbox::start(Config { warm_max: 0, ..config() }).await.unwrap()
}

/// Runs it until an interpreter was waiting for it. There is no signal for that from outside.
async fn warm(sandbox: &Sandbox, request: &Request) -> Outcome {
    let attempt = async {
        loop {
            let outcome = run(sandbox, request.clone()).await;
            if outcome.start == Some(Start::Warm) {
                return outcome;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), attempt).await.unwrap()
}

fn python(code: &str) -> Request {
    Request::new(Run::Python(code.into()))
}

fn javascript(code: &str) -> Request {
    Request::new(Run::JavaScript(code.into()))
}

/// All that a caller sees, without what is measured.
fn seen(outcome: &Outcome) -> String {
    let outputs: Vec<_> = outcome.outputs.iter().map(|file| (&file.path, &file.bytes, file.executable)).collect();
    let (stdout, stderr) = (text(&outcome.stdout), text(&outcome.stderr));
    format!("{:?} {outputs:?} {:?}\n{stdout}\n{stderr}", outcome.end, outcome.skipped)
}

async fn cannot_tell(requests: &[Request]) {
    let (cold, sandbox) = (cold().await, sandbox().await);
    for request in requests {
        let expected = run(&cold, request.clone()).await;
        assert_ne!(expected.start, Some(Start::Warm));
        let outcome = warm(&sandbox, request).await;
        assert_eq!(seen(&outcome), seen(&expected), "{:?}", request.run);
        assert!(!seen(&outcome).contains("rror: cannot"), "{}", seen(&outcome));
    }
}

const STATE_OF_PYTHON: &str = "
import os, sys, __main__, inspect, threading, signal
main = {name: repr(value) if name != '__loader__' else type(value) for name, value in sorted(vars(__main__).items())
        if name not in ('os', 'sys', '__main__', 'inspect', 'threading', 'signal', '__builtins__')}
print(main, sys.argv, sys.orig_argv, sys.path, sys.flags, sorted(sys.modules), sys.path_importer_cache.keys())
print(dict(os.environ), open('/proc/self/environ').read(), open('/proc/self/cmdline').read())
print(os.getcwd(), os.getpid(), os.getppid(), os.getuid(), os.umask(0), os.getsid(0) != 0, os.getpgrp() == os.getsid(0))
print(sorted(os.listdir('/code')), sorted(os.listdir('/tmp')), os.stat('/code/main.py').st_mode, os.path.getsize(__file__))
print([(fd, os.fstat(fd).st_mode, os.fstat(fd).st_size) for fd in range(3)], sorted(os.listdir('/proc/self/fd')))
print([repr(s).split(' name')[1] for s in (sys.stdin, sys.stdout, sys.stderr)], [s.line_buffering for s in (sys.stdin, sys.stdout)])
print(threading.active_count(), [signal.getsignal(s) for s in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM)])
def f(): 'documented'
print(inspect.getsource(f), sys.stdin.read(), os.lseek(0, 0, os.SEEK_CUR))
";

#[tokio::test]
async fn a_python_program_cannot_tell() {
    let file = |path: &str, text: &str| InFile { path: path.into(), bytes: text.into() };
    let given = |code: &str, stdin: &str| Request { stdin: stdin.into(), ..python(code) };
    cannot_tell(&[
        python(STATE_OF_PYTHON),
        given(STATE_OF_PYTHON, "some\ninput"),
        Request { cwd: Some("/usr/lib".into()), ..python(STATE_OF_PYTHON) },
        given("print(input(), input())", "a\nb\nc"),
        Request { files: vec![file("data.csv", "1,2"), file("/outputs/sub/in", "x")],
            ..python("print(open('data.csv').read()); open('/outputs/out', 'w').write('y')") },
        python(""),
        python("print('unflushed', end='')"),
        python("import sys; print('out'); sys.exit(7)"),
        python("import sys; sys.exit('a message')"),
        python("def f(n):\n    return 1 / n\n\ntry:\n    f(0)\nexcept ZeroDivisionError as error:\n    raise ValueError('x') from error"),
        python("print(1\nprint(2)"),
        python("\u{feff}print('\u{e4}\u{1f41d}')"),
        python("import os; print('lost', end=''); os._exit(3)"),
        python("import os, signal; os.kill(os.getpid(), signal.SIGTERM)"),
        python("import atexit, threading, time\natexit.register(print, 'at exit')\nthreading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()"),
        python("import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'import os; print(os.getcwd())'], capture_output=True, text=True).stdout)"),
        python("import multiprocessing as m\ndef f(x): return x * x\nif __name__ == '__main__':\n    with m.get_context('spawn').Process(target=print, args=(1,)) if False else m.Pool(2) as p: print(p.map(f, [1, 2]))"),
        python("import asyncio\nasync def main():\n    await asyncio.sleep(0.01); print('slept')\nasyncio.run(main())"),
        python(&format!("x = '{}'\nprint(len(x))\n1/0", "long ".repeat(12_000))),
    ])
    .await;
}

const STATE_OF_NODE: &str = "
const fs = require('fs');
console.log(process.argv, process.execArgv, process.cwd(), process.pid, process.ppid, process.env, process.title);
console.log(__filename, __dirname, require.main === module, module.paths, module.children, Object.keys(require.cache));
console.log(fs.readdirSync('/code'), fs.readdirSync('/tmp'), fs.statSync(__filename).mode, [0, 1, 2].map(fd => fs.fstatSync(fd).mode));
console.log(fs.readFileSync('/proc/self/cmdline', 'utf8'), fs.readFileSync('/proc/self/environ', 'utf8'));
console.log(Object.keys(globalThis), process.stdout.writableHighWaterMark, process.stdout.isTTY, fs.readFileSync(0, 'utf8'));
";

#[tokio::test]
async fn a_javascript_program_cannot_tell() {
    let file = |path: &str, text: &str| InFile { path: path.into(), bytes: text.into() };
    cannot_tell(&[
        javascript(STATE_OF_NODE),
        Request { stdin: b"some input".to_vec(), ..javascript(STATE_OF_NODE) },
        Request { cwd: Some("/usr/lib".into()), ..javascript(STATE_OF_NODE) },
        Request { files: vec![file("m/index.js", "exports.x = 7"), file("n.mjs", "export const y = 8")],
            ..javascript("console.log(require('m').x); import('/tmp/n.mjs').then(n => console.log(n.y))") },
        Request { stdin: b"a\nb".to_vec(), ..javascript("process.stdin.on('data', d => console.log(String(d))).on('end', () => console.log('end'))") },
        javascript(""),
        javascript("setTimeout(() => console.log('later'), 20); Promise.resolve().then(() => console.log('soon')); console.log('now')"),
        javascript("process.on('exit', code => console.log('exit', code)); process.exitCode = 4"),
        javascript("process.stdout.write('unflushed'); process.exit(5)"),
        javascript("function f() { throw new TypeError('x') }\n\nf()"),
        javascript("Promise.reject(new Error('nobody catches'))"),
        javascript("let x = ;"),
        javascript("import fs from 'fs'; console.log(typeof fs)"),
        javascript("process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 1000)"),
        javascript("console.log(require('child_process').execFileSync('echo', ['child'], {encoding: 'utf8'}))"),
        javascript("const {Worker} = require('worker_threads'); new Worker('require(\"worker_threads\").parentPort.postMessage(1)', {eval: true}).on('message', console.log)"),
        javascript(&format!("const x = '{}'\nconsole.log(x.length)\nnull.x", "long ".repeat(12_000))),
    ])
    .await;
}

#[tokio::test]
async fn an_interpreter_serves_one_request() {
    let sandbox = sandbox().await;
    let leave = "import builtins, os, sys\nprint(hasattr(builtins, 'left'), os.path.exists('/tmp/left'), os.environ.get('LEFT'))
builtins.left = 1; open('/tmp/left', 'w'); os.environ['LEFT'] = '1'; os.fork() or os.setsid()";
    for _ in 0..5 {
        let outcome = warm(&sandbox, &python(leave)).await;
        assert!(text(&outcome.stdout).starts_with("False False None\n"), "{outcome:?}");
    }
}

#[tokio::test]
async fn limits_hold_for_an_interpreter_that_waited() {
    let sandbox = sandbox().await;
    warm(&sandbox, &python("1")).await;
    let mut sleeper = python("import time; time.sleep(1000)");
    sleeper.limits.wall = Duration::from_millis(300);
    assert_eq!(warm(&sandbox, &sleeper).await.end, End::Timeout);
    let mut hungry = python("x = b'x' * (300 << 20); import time; time.sleep(1000)");
    hungry.limits.memory = 100 << 20;
    assert_eq!(warm(&sandbox, &hungry).await.end, End::MemoryLimit);
    let mut loud = python("while True: print('x' * 1000)");
    loud.limits.output = 10_000;
    let outcome = warm(&sandbox, &loud).await;
    assert_eq!((outcome.end, outcome.stdout.len()), (End::OutputLimit, 10_000));
    let processes = "import os, time\nn = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(1000)\n    n += 1\nexcept BlockingIOError: print(n + 1)";
    assert_eq!(text(&warm(&sandbox, &python(processes)).await.stdout), "64\n");
}

#[tokio::test]
async fn what_an_interpreter_cannot_be_kept_waiting_for_is_started_for_itself() {
    let sandbox = sandbox().await;
    let mut changed = python("import sys; print(sys.stdout.encoding)");
    changed.env = vec![("PYTHONIOENCODING".into(), "latin-1".into())];
    let mut small = python("print(1)");
    small.limits.processes = 3;
    let mut shadowing = python("import colorsys; print(colorsys.x)");
    shadowing.files = vec![InFile { path: "colorsys.py".into(), bytes: b"x = 7".into() }];
    let latin = python("# coding: latin-1\nprint('\u{e4}')");
    warm(&sandbox, &python("1")).await;
    for (request, stdout) in [(changed, "iso8859-1\n"), (small, "1\n"), (shadowing, "7\n"), (latin, "\u{c3}\u{a4}\n")] {
        for _ in 0..2 {
            sleep(Duration::from_millis(50)).await;
            let outcome = run(&sandbox, request.clone()).await;
            assert_ne!(outcome.start, Some(Start::Warm), "{request:?}");
            assert_eq!(text(&outcome.stdout), stdout, "{request:?} {}", text(&outcome.stderr));
        }
    }
}

#[tokio::test]
async fn a_working_directory_that_is_not_there_is_the_requests_fault_each_time() {
    let sandbox = sandbox().await;
    let request = Request { cwd: Some("/no/such".into()), ..python("1") };
    for _ in 0..4 {
        let error = sandbox.run(request.clone(), Default::default()).await.unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
        sleep(Duration::from_millis(30)).await;
    }
    let large = InFile { path: "large".into(), bytes: vec![0; 65 << 20] };
    warm(&sandbox, &python("1")).await;
    let request = Request { files: vec![large], ..python("1") };
    let error = sandbox.run(request, Default::default()).await.unwrap_err();
    assert!(error.to_string().contains("/tmp/large"), "{error}");
}

#[tokio::test]
async fn a_bind_is_a_working_directory_like_any_other() {
    let bind = Bind { source: PathBuf::from("/usr/share"), target: "/workspace".into(), hidden: Vec::new() };
    let sandbox = Sandbox::start(Config { binds: vec![bind], ..config() }).await.unwrap();
    let request = Request { cwd: Some("/workspace".into()), ..python("import os; print(os.getcwd())") };
    assert_eq!(text(&warm(&sandbox, &request).await.stdout), "/workspace\n");
}

#[tokio::test]
async fn only_so_many_interpreters_wait() {
    let sandbox = Sandbox::start(Config { warm_max: 1, ..config() }).await.unwrap();
    warm(&sandbox, &python("1")).await;
    // It takes the place of the other kind.
    warm(&sandbox, &javascript("1")).await;
    assert_ne!(run(&sandbox, python("1")).await.start, Some(Start::Warm));
}
