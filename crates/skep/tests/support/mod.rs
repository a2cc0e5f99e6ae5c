//! Runs the real program, as a user would, in a home and a workspace of its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it")]

use std::{
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::mpsc,
};

use serde_json::Value;
use tempfile::TempDir;

/// A machine's user with nothing on it yet.
pub(crate) struct User {
    home: TempDir,
    workspace: TempDir,
}

impl User {
    pub(crate) fn new() -> User {
        // It is the state directory, too, and has other things in it, so it has to be closed.
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let home = tempfile::Builder::new().permissions(closed).tempdir().unwrap();
        User { home, workspace: tempfile::tempdir().unwrap() }
    }

    /// The directory that the user works in.
    pub(crate) fn workspace(&self) -> &Path {
        self.workspace.path()
    }

    /// Where Skep keeps its state.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Put a file into the workspace.
    pub(crate) fn file(&self, name: &str, text: &str) {
        let path = self.workspace().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// `skep` with these arguments, not yet started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skep"));
        command.args(arguments).current_dir(self.workspace()).stdin(Stdio::null()).env_clear();
        command
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("SKEP_HOME", self.home.path())
            .env("HOME", self.home.path());
        command
    }

    /// Run `skep` to its end.
    pub(crate) fn skep(&self, arguments: &[&str]) -> Said {
        Said(self.command(arguments).output().unwrap())
    }

    /// Start `skep run … --json` or another command that prints a line of JSON for each event.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }
}

/// `skep serve` on a free port; it is killed when the value goes.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
    /// What it says on standard error, which is always read, so that it never waits for its reader.
    said: mpsc::Receiver<String>,
}

impl Served {
    /// Start this command, and wait until it says where it listens.
    pub(crate) fn start(command: &mut Command) -> Served {
        Served::try_start(command).unwrap_or_else(|said| panic!("the hub ended without listening: {said:#?}"))
    }

    /// The same; what it has said, if it ends instead.
    pub(crate) fn try_start(command: &mut Command) -> Result<Served, Vec<String>> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut served = Served { child, url: String::new(), said };
        let mut before = Vec::new();
        while let Ok(line) = served.said.recv() {
            if line.contains("listening on http") {
                served.url = line.rsplit(' ').next().unwrap().to_owned();
                return Ok(served);
            }
            before.push(line);
        }
        Err(before)
    }

    /// `skep serve` for this user, with these arguments besides, and a token if others than the user are to call it.
    pub(crate) fn hub(user: &User, arguments: &[&str], token: Option<&str>) -> Served {
        let mut command = user.command(&[&["serve", "--bind", "127.0.0.1:0"], arguments].concat());
        Served::start(command.envs(token.map(|token| ("SKEP_TOKEN", token))))
    }

    /// What it has said that was not read yet.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.try_iter().collect()
    }

    /// The next line with this text in it.
    pub(crate) fn says(&mut self, text: &str) -> String {
        loop {
            let line = self.said.recv().unwrap_or_else(|_| panic!("the hub ended without saying {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// What it answers to a request of whoever knows this token: the status, and the body.
    pub(crate) async fn ask(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let method = method.parse().unwrap();
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.url)).bearer_auth(token);
        let answer = request.json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// SIGTERM. Returns the exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a finished `skep` left.
pub(crate) struct Said(pub Output);

impl Said {
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Fails with what was said, if that was not a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Said {
        assert_eq!(self.code(), 0, "{}{}", self.stdout(), self.stderr());
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout()).unwrap_or_else(|error| panic!("{error} in {}", self.stdout()))
    }
}

/// A `skep` that runs.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Read events until one of this kind about this task; gives the events that were read.
    #[track_caller]
    pub(crate) fn until(&mut self, kind: &str, task: Option<&str>) -> Vec<Value> {
        let mut events = Vec::new();
        for line in self.lines.by_ref() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let found = event["kind"] == kind && task.is_none_or(|task| event["task"] == task);
            events.push(event);
            if found {
                return events;
            }
        }
        panic!("it ended before {kind} {task:?}; it said {events:#?}");
    }

    /// The next line.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().expect("it ended").unwrap()).unwrap()
    }

    /// Send a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Wait for the end; gives the exit code (`None` if a signal ended it) and what was said on standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        self.lines.by_ref().for_each(drop);
        let mut stderr = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut stderr).unwrap();
        (self.child.wait().unwrap().code(), stderr)
    }
}
