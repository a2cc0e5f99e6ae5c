//! Workspaces that are real directories: `skep serve --dir`, and what editors, builds and git do there meanwhile.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, fs::symlink},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use skep_core::db::{Db, Limits};

use crate::support::{Served, User};

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);
const TOKEN: &str = "the-token-of-the-hub";

/// A user with a directory that is the workspace `t`, and the hub.
struct Team {
    user: User,
    hub: Option<Served>,
}

impl Team {
    /// Nobody serves yet.
    fn new() -> Team {
        Team { user: User::new(), hub: None }
    }

    fn directory(&self) -> &Path {
        self.user.workspace()
    }

    /// Serve, and wait until both are in step.
    fn serve(&mut self) {
        let directory = format!("t={}", self.directory().display());
        let mut hub = Served::hub(&self.user, &["--tcp", "127.0.0.1:0", "--dir", &directory], Some(TOKEN));
        hub.says("is in step with task t");
        self.hub = Some(hub);
    }

    fn serving() -> Team {
        let mut team = Team::new();
        team.serve();
        team
    }

    fn kill(&mut self) {
        self.hub.take().unwrap().kill();
    }

    async fn call(&self, tool: &str, mut arguments: Value) -> (u16, Value) {
        arguments["task_id"] = "t".into();
        self.hub.as_ref().unwrap().ask(TOKEN, "POST", &format!("/tools/{tool}"), &arguments).await
    }

    async fn ok(&self, tool: &str, arguments: Value) -> Value {
        let (status, answer) = self.call(tool, arguments).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn write(&self, path: &str, content: &str) -> Value {
        self.ok("file_write", json!({ "path": path, "content": content, "agent_id": "ann" })).await
    }

    /// What the store has.
    async fn stored(&self) -> BTreeMap<String, String> {
        let listed = self.ok("list_files", json!({ "recursive": true, "limit": 10_000 })).await;
        let file =
            |file: &Value| (file["path"].as_str().unwrap().to_owned(), file["sha256"].as_str().unwrap().to_owned());
        listed["files"].as_array().unwrap().iter().map(file).collect()
    }

    async fn has(&self, path: &str, content: Option<&str>) -> bool {
        match (self.call("file_read", json!({ "path": path })).await, content) {
            ((200, answer), Some(content)) => answer["content"] == content,
            ((status, _), None) => status != 200,
            _ => false,
        }
    }

    /// Wait until the store has this of a file.
    async fn stored_as(&self, path: &str, content: Option<&str>) {
        eventually(&format!("{path} is {content:?} in the store"), async || self.has(path, content).await).await;
    }

    /// Wait until the directory has this of a file.
    async fn there_as(&self, path: &str, content: Option<&str>) {
        let place = self.directory().join(path);
        let what = format!("{path} is {content:?} in the directory");
        eventually(&what, async || fs::read_to_string(&place).ok().as_deref() == content).await;
    }

    /// Wait until both sides have the same files, but for those that are left out.
    async fn agree(&self, left_out: &[&str]) {
        let both = async || {
            let (mut stored, mut there) = (self.stored().await, files_of(self.directory()));
            for path in left_out {
                stored.remove(*path);
                there.remove(*path);
            }
            stored == there
        };
        eventually("both have the same files", both).await;
    }

    /// Stop the hub. What it leaves in the database must be sound.
    async fn stop(mut self) -> User {
        self.hub.take().unwrap().stop();
        let address = format!("sqlite:{}", self.user.home().join("skep.db").display());
        let db = Db::open(&address, Limits::default()).await.unwrap();
        let audit = db.audit().await.unwrap();
        assert!(audit.findings.is_empty() && audit.events_missing == 0, "{:?}", audit.findings);
        db.close().await;
        self.user
    }

    /// Run a program in the directory.
    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.directory()).env("HOME", self.user.home());
        let said = command.output().unwrap();
        assert!(said.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    }

    fn git(&self, arguments: &[&str]) {
        let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"];
        self.run("git", &[&who, arguments].concat());
    }

    /// What `skep` prints in the directory.
    fn skep(&self, arguments: &[&str]) -> String {
        self.user.skep(arguments).ok().stdout()
    }

    /// The events of a kind.
    fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.skep(&["events", "--task", "t", "--kind", kind, "--json"]);
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn eventually(what: &str, asked: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !asked().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The SHA-256 of all files below a directory, without those of git.
fn files_of(directory: &Path) -> BTreeMap<String, String> {
    let find = "find . -name .git -prune -o -type f ! -name '.skep-????????????????' -print0 | xargs -0 -r sha256sum";
    let said = Command::new("sh").current_dir(directory).args(["-c", find]).output().unwrap();
    let lines = String::from_utf8_lossy(&said.stdout).into_owned();
    let line = |line: &str| {
        let (sha256, path) = line.split_once("  ./")?;
        Some((path.to_owned(), sha256.to_owned()))
    };
    lines.lines().filter_map(line).collect()
}

#[tokio::test]
async fn what_is_written_on_one_side_is_on_the_other_with_its_author() {
    let mut team = Team::new();
    team.user.file("old.txt", "1\n2\n3\n");
    team.user.file("run.sh", "#!/bin/sh\n");
    fs::set_permissions(team.directory().join("run.sh"), Permissions::from_mode(0o755)).unwrap();
    team.serve();
    team.agree(&[]).await;
    let first = team.ok("file_history", json!({ "path": "old.txt" })).await;
    assert_eq!((&first["revisions"][0]["author"], &first["revisions"][0]["revision"]), (&Value::Null, &json!(1)));

    // Agents write, and it is there.
    team.write("src/deep/a.txt", "from ann\n").await;
    team.there_as("src/deep/a.txt", Some("from ann\n")).await;
    team.write("run.sh", "#!/bin/sh\nexit 0\n").await;
    team.there_as("run.sh", Some("#!/bin/sh\nexit 0\n")).await;
    assert_eq!(fs::metadata(team.directory().join("run.sh")).unwrap().permissions().mode() & 0o777, 0o755);
    team.ok("file_delete", json!({ "path": "src/deep/a.txt" })).await;
    team.there_as("src/deep/a.txt", None).await;
    assert!(!team.directory().join("src").exists(), "what is empty is gone");

    // Programs write, and it is a revision: in place, by another file that takes its place, in pieces.
    team.run("sed", &["-i", "s/2/two/", "old.txt"]);
    team.stored_as("old.txt", Some("1\ntwo\n3\n")).await;
    let python = "import time\nwith open('new.txt','w') as f:\n  for n in range(20):\n    f.write('line %d\\n' % n); f.flush(); time.sleep(0.01)\n";
    team.run("python3", &["-c", python]);
    let whole: String = (0..20).map(|n| format!("line {n}\n")).collect();
    team.stored_as("new.txt", Some(&whole)).await;
    team.run("mv", &["new.txt", "newer.txt"]);
    team.stored_as("newer.txt", Some(&whole)).await;
    team.stored_as("new.txt", None).await;
    team.run("mkdir", &["-p", "x/y/z"]);
    team.run("sh", &["-c", "echo deep > x/y/z/f && mv x w"]);
    team.stored_as("w/y/z/f", Some("deep\n")).await;
    team.run("rm", &["-r", "w"]);
    team.stored_as("w/y/z/f", None).await;
    team.agree(&[]).await;

    let history = team.skep(&["history"]);
    assert!(history.contains("local/ann") && history.contains("unknown") && history.contains("deleted"), "{history}");
    let written = team.events("file.written");
    assert!(written.iter().any(|event| event["source"] == "directory" || event["data"]["source"] == "directory"));
    team.stop().await;
}

#[tokio::test]
async fn people_see_and_undo_what_was_changed_without_naming_the_task() {
    let team = Team::serving();
    team.write("notes.md", "1\n2\n3\n").await;
    team.write("src/a", "a\n").await;
    team.there_as("src/a", Some("a\n")).await;
    team.run("sed", &["-i", "s/1/one/", "notes.md"]);
    team.stored_as("notes.md", Some("one\n2\n3\n")).await;
    let bob = json!({ "path": "src/b", "content": "b\n", "agent_id": "bob" });
    team.ok("file_write", bob).await;
    team.ok("file_write", json!({ "path": "src/a", "content": "by bob\n", "agent_id": "bob" })).await;
    team.there_as("src/b", Some("b\n")).await;

    let diff = team.skep(&["diff", "notes.md", "--from", "1"]);
    assert!(diff.contains("-1\n+one\n") && diff.contains("(revision 2)"), "{diff}");
    let all = team.skep(&["diff"]);
    assert!(all.contains("+one") && all.contains("+by bob"), "{all}");
    let of_bob = team.user.skep(&["history", "--agent", "bob", "--json"]).ok().json();
    let paths: Vec<&str> =
        of_bob["revisions"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["src/a", "src/b"]);
    let inside = team.user.command(&["history", "a"]).current_dir(team.directory().join("src")).output().unwrap();
    let inside = String::from_utf8(inside.stdout).unwrap();
    assert!(inside.contains("src/a") && !inside.contains("src/b") && !inside.contains("notes"), "{inside}");

    let dry = team.skep(&["undo", "--agent", "bob", "--dry-run"]);
    assert!(
        dry.contains("src/b would be as before it was made") && dry.contains("src/a would be as in revision 1"),
        "{dry}"
    );
    assert!(team.directory().join("src/b").exists());
    team.skep(&["undo", "--agent", "bob"]);
    team.there_as("src/b", None).await;
    team.there_as("src/a", Some("a\n")).await;
    team.skep(&["undo", "notes.md"]);
    team.there_as("notes.md", Some("1\n2\n3\n")).await;
    team.skep(&["undo", "notes.md", "--to", "2"]);
    team.there_as("notes.md", Some("one\n2\n3\n")).await;

    // What somebody has changed after is left as it is, unless both changes go together.
    team.ok("file_write", json!({ "path": "notes.md", "content": "one\n2\nthree\n", "agent_id": "eve" })).await;
    team.write("notes.md", "uno\n2\nthree\n").await;
    let eve = team.user.skep(&["undo", "--agent", "eve"]);
    assert!(
        eve.code() == 1 && eve.stderr().contains("was left as it is") && eve.stderr().contains("--merge"),
        "{}",
        eve.stderr()
    );
    assert!(team.has("notes.md", Some("uno\n2\nthree\n")).await);
    team.skep(&["undo", "--agent", "eve", "--merge"]);
    team.there_as("notes.md", Some("uno\n2\n3\n")).await;
    team.skep(&["undo", "--since", "1h"]);
    team.there_as("notes.md", None).await;
    team.agree(&[]).await;

    assert_eq!(team.user.skep(&["undo"]).code(), 2, "what to undo must be said");
    let elsewhere = team.user.command(&["history"]).current_dir("/").output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("--task"), "{elsewhere:?}");
    team.stop().await;
}

#[tokio::test]
async fn what_both_sides_changed_while_nobody_looked_is_merged_or_kept_with_a_word() {
    let mut team = Team::serving();
    for path in ["together", "against", "gone-here", "gone-there", "same"] {
        team.write(path, "1\n2\n3\n4\n5\n").await;
    }
    team.agree(&[]).await;
    team.kill();
    let put = |path: &str, content: &str| {
        let source = team.user.home().join("source");
        fs::write(&source, content).unwrap();
        team.skep(&["files", "put", path, &source.display().to_string(), "--task", "t", "--agent", "bob"]);
    };
    put("together", "one\n2\n3\n4\n5\n");
    team.user.file("together", "1\n2\n3\n4\nfive\n");
    put("against", "store\n");
    team.user.file("against", "directory\n");
    put("gone-here", "store\n");
    fs::remove_file(team.directory().join("gone-here")).unwrap();
    team.skep(&["files", "rm", "gone-there", "--task", "t"]);
    team.user.file("gone-there", "directory\n");
    put("same", "both\n");
    team.user.file("same", "both\n");
    put("only-store", "store\n");
    team.user.file("only-directory", "directory\n");
    team.serve();
    for (path, content) in [
        ("together", "one\n2\n3\n4\nfive\n"),
        ("against", "directory\n"),
        ("gone-here", "store\n"),
        ("gone-there", "directory\n"),
        ("same", "both\n"),
        ("only-store", "store\n"),
        ("only-directory", "directory\n"),
    ] {
        team.there_as(path, Some(content)).await;
        assert!(team.has(path, Some(content)).await, "{path}");
    }
    let older = team.ok("file_read", json!({ "path": "against", "revision": 2 })).await;
    assert_eq!(older["content"], "store\n", "it is in the history");
    let conflicts = team.skep(&["events", "--task", "t", "--kind", "file.conflict"]);
    assert!(
        conflicts.contains("against") && conflicts.contains("gone-there") && !conflicts.contains("together"),
        "{conflicts}"
    );
    let same = team.ok("file_history", json!({ "path": "same" })).await;
    assert_eq!(same["revisions"].as_array().unwrap().len(), 2);
    team.agree(&[]).await;
    team.stop().await;
}

#[tokio::test]
async fn a_change_past_a_claim_is_kept_and_told() {
    let team = Team::serving();
    team.write("mine", "1\n").await;
    team.there_as("mine", Some("1\n")).await;
    let claim = team.ok("claim_file", json!({ "path": "*", "agent_id": "ann" })).await;
    let (status, refused) = team.call("file_write", json!({ "path": "mine", "content": "x" })).await;
    assert_eq!((status, &refused["reason"]), (409, &json!("claimed")), "who writes through Skep is refused");
    team.run("sed", &["-i", "s/1/2/", "mine"]);
    team.stored_as("mine", Some("2\n")).await;
    assert_eq!(team.events("claim.bypassed").len(), 1);
    let history = team.skep(&["history", "mine"]);
    assert!(history.contains(&format!("(past claim {})", claim["token"])), "{history}");
    team.agree(&[]).await;
    team.stop().await;
}

#[tokio::test]
async fn git_changes_thousands_of_files_at_once_and_keeps_its_own_to_itself() {
    const FILES: usize = 2_000;
    let mut team = Team::new();
    team.git(&["init", "-q"]);
    team.user.file(".gitignore", "target/\n*.o\n");
    team.user.file("target/debug/big", "x");
    team.user.file("a.o", "x");
    team.user.file("readme", "main\n");
    team.git(&["add", "."]);
    team.git(&["commit", "-qm", "one"]);
    team.git(&["checkout", "-qb", "many"]);
    for n in 0..FILES {
        team.user.file(&format!("src/d{}/f{n}", n % 40), &format!("file {n}\n"));
    }
    team.user.file("readme", "many\n");
    team.git(&["add", "."]);
    team.git(&["commit", "-qm", "two"]);
    team.git(&["checkout", "-q", "main"]);
    team.serve();
    let ignored = ["target/debug/big", "a.o"];
    team.agree(&ignored).await;
    assert_eq!(team.stored().await.len(), 2, "neither git's own nor what is ignored");
    team.git(&["checkout", "-q", "many"]);
    team.agree(&ignored).await;
    assert_eq!(team.stored().await.len(), FILES + 2);
    team.git(&["checkout", "-q", "main"]);
    team.agree(&ignored).await;
    assert_eq!(team.stored().await.len(), 2);
    // What is ignored is not written either, whoever wants it: a hook of git would be run by the next commit.
    team.write(".git/hooks/pre-commit", "#!/bin/sh\nexit 1\n").await;
    team.write("target/debug/new", "x").await;
    team.write("last", "x").await;
    team.there_as("last", Some("x")).await;
    assert!(!team.directory().join(".git/hooks/pre-commit").exists());
    assert!(!team.directory().join("target/debug/new").exists());
    // Another rule, and they are files of the workspace.
    team.user.file(".gitignore", "*.o\n");
    team.there_as("target/debug/new", Some("x")).await;
    team.stored_as("target/debug/big", Some("x")).await;
    team.stop().await;
}

#[tokio::test]
async fn what_cannot_be_a_file_of_a_workspace_is_told_and_left_alone() {
    let team = Team::serving();
    let at = |name: &str| team.directory().join(name);
    let outside = tempfile::tempdir().unwrap();
    fs::write(team.directory().join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "x").unwrap();
    symlink(outside.path(), at("link")).unwrap();
    fs::File::create(at("large")).unwrap().set_len((10 << 20) + 1).unwrap();
    team.run("mkfifo", &["pipe"]);
    team.user.file("Readme", "1");
    team.stored_as("Readme", Some("1")).await;
    team.user.file("README", "2");
    team.user.file("end", "x");
    team.stored_as("end", Some("x")).await;
    let health = async || {
        let (_, health) = team.hub.as_ref().unwrap().ask(TOKEN, "GET", "/health", &Value::Null).await;
        health.to_string()
    };
    eventually("all five are told", async || health().await.contains("5 left out")).await;
    assert!(health().await.contains("larger than 10 MiB"), "{}", health().await);
    let stored = team.stored().await;
    assert_eq!(stored.keys().collect::<Vec<_>>(), ["Readme", "end"]);
    assert_eq!(fs::read_to_string(at("README")).unwrap(), "2");

    // Nobody writes through a link.
    team.write("link/stolen", "x").await;
    team.write("end", "y").await;
    team.there_as("end", Some("y")).await;
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);

    // Once it is small enough, it is a file like others.
    team.user.file("large", "small");
    team.stored_as("large", Some("small")).await;

    // A file on one side takes the place of a directory on the other.
    team.write("swap/inner", "1").await;
    team.there_as("swap/inner", Some("1")).await;
    team.run("sh", &["-c", "rm -r swap && echo file > swap"]);
    team.stored_as("swap", Some("file\n")).await;
    team.run("sh", &["-c", "rm swap && mkdir swap && echo inner > swap/inner"]);
    team.stored_as("swap/inner", Some("inner\n")).await;
    team.ok("file_delete", json!({ "path": "swap/inner" })).await;
    team.write("swap", "again").await;
    team.there_as("swap", Some("again")).await;
    team.stop().await;
}

#[tokio::test]
async fn one_hub_of_a_database_keeps_a_directory_and_another_one_takes_over() {
    let (first, second) = (User::new(), User::new());
    let database = format!("sqlite:{}", first.home().join("skep.db").display());
    let serve = |user: &User| {
        let directory = format!("t={}", user.workspace().display());
        Served::hub(user, &["--tcp", "127.0.0.1:0", "--database", &database, "--dir", &directory], Some(TOKEN))
    };
    first.file("a", "1");
    let mut hub = serve(&first);
    hub.says("is in step with task t");
    let mut other = serve(&second);
    let said = other.says("is not kept in step");
    assert!(said.contains(&first.workspace().display().to_string()), "{said}");
    assert!(!second.workspace().join("a").exists());
    hub.stop();
    other.says("is in step with task t");
    assert_eq!(fs::read_to_string(second.workspace().join("a")).unwrap(), "1");
    fs::write(second.workspace().join("a"), "2").unwrap();
    let read = json!({ "task_id": "t", "path": "a" });
    eventually("the second writes", async || {
        other.ask(TOKEN, "POST", "/tools/file_read", &read).await.1["content"] == "2"
    })
    .await;
    assert_eq!(fs::read_to_string(first.workspace().join("a")).unwrap(), "1", "the first directory is as it was left");
}

#[tokio::test]
async fn a_hub_that_is_killed_while_files_change_goes_on_where_it_was() {
    const ROUNDS: usize = 4;
    let mut team = Team::new();
    for n in 0..50 {
        team.user.file(&format!("f{n}"), "0\n");
    }
    for round in 1..=ROUNDS {
        team.serve();
        for n in 0..50 {
            match n % 3 {
                0 => drop(team.write(&format!("f{n}"), &format!("store {round}\n")).await),
                1 => team.user.file(&format!("f{n}"), &format!("directory {round}\n")),
                _ => team.user.file(&format!("new{round}-{n}"), "new\n"),
            }
        }
        team.kill();
        team.user.file("f1", &format!("while nobody looked {round}\n"));
        fs::remove_file(team.directory().join(format!("f{}", 2 + 3 * round))).unwrap();
    }
    team.serve();
    team.agree(&[]).await;
    for n in (0..50).step_by(3) {
        assert!(team.has(&format!("f{n}"), Some(&format!("store {ROUNDS}\n"))).await, "f{n} was acknowledged");
    }
    assert!(team.has("f1", Some(&format!("while nobody looked {ROUNDS}\n"))).await);
    assert!(team.has("f5", None).await && team.has("f4", Some(&format!("directory {ROUNDS}\n"))).await);
    let left = fs::read_dir(team.directory()).unwrap().flatten();
    assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".skep-")));
    team.stop().await;
}
