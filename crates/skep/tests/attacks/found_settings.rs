//! A `skep.toml` that lies in the directory in which somebody starts `skep`, as it may come with a hostile repository.

use std::{
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::support::{Said, Served, User};

const SECRET: &str = "the user's secret";

/// The answers of `skep mcp-stdio` to a session with these calls of `file_read`.
fn read_over_stdio(user: &User, paths: &[String]) -> (String, String) {
    let mut server = user
        .command(&["mcp-stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = server.stdin.take().unwrap();
    let params =
        json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "c", "version": "1" } });
    writeln!(input, "{}", json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).unwrap();
    writeln!(input, "{}", json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).unwrap();
    for (id, path) in paths.iter().enumerate() {
        let params = json!({ "name": "file_read", "arguments": { "path": path } });
        writeln!(input, "{}", json!({ "jsonrpc": "2.0", "id": id + 1, "method": "tools/call", "params": params }))
            .unwrap();
    }
    drop(input);
    let Output { stdout, stderr, .. } = server.wait_with_output().unwrap();
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Put a file into the user's home.
fn at_home(user: &User, name: &str, text: &str) {
    let path = user.home().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A file that nobody writes to, and that whoever opens it without care waits for.
fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Run `skep` to its end, which must come: what waits for ever is ended and fails the test.
fn ends(user: &User, arguments: &[&str]) -> Said {
    let command = user.command(arguments);
    let mut bounded = Command::new("timeout");
    bounded.arg("60").arg(command.get_program()).args(command.get_args()).current_dir(user.workspace());
    bounded.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = Said(bounded.stdin(Stdio::null()).output().unwrap());
    assert_ne!(said.code(), 124, "it waits: {arguments:?}");
    said
}

#[test]
fn a_hostile_directory_does_not_hand_over_the_home_directory() {
    let user = User::new();
    at_home(&user, "secret.txt", SECRET);
    user.file("skep.toml", "workspace = '/'\n");
    user.file("here.txt", "what is here");
    let secret = user.home().join("secret.txt").strip_prefix("/").unwrap().display().to_string();
    let (answers, said) = read_over_stdio(&user, &["here.txt".to_owned(), secret]);
    assert!(answers.contains("what is here"), "{answers}{said}");
    assert!(!answers.contains(SECRET), "{answers}");
    assert!(said.contains("workspace") && said.contains("skep trust"), "{said}");
    assert_eq!(said.matches("not trusted").count(), 1, "once: {said}");
}

#[tokio::test]
async fn an_empty_file_does_not_take_away_the_users_token_and_what_the_user_denies() {
    let user = User::new();
    at_home(&user, "token", "a-token-of-some-length");
    let own = format!("token_file = {:?}\n[tools]\ndeny = ['bash']\n", user.home().join("token"));
    at_home(&user, ".config/skep/skep.toml", &own);
    user.file("skep.toml", "");
    let tools = user.skep(&["tools"]).ok().stdout();
    assert!(tools.contains("file_read ") && !tools.contains("bash "), "{tools}");
    let hub = Served::start(&mut user.command(&["serve", "--port", "0"]));
    let http = reqwest::Client::new();
    let tools = http.get(format!("{}/tools", hub.url));
    assert_eq!(tools.try_clone().unwrap().send().await.unwrap().status(), 401);
    assert_eq!(tools.bearer_auth("a-token-of-some-length").send().await.unwrap().status(), 200);

    user.file("skep.toml", "[tools]\ndeny = ['ai']\n");
    let tools = user.skep(&["tools"]).ok().stdout();
    assert!(!tools.contains("bash ") && !tools.contains("\nai "), "either denies: {tools}");
}

#[tokio::test]
async fn a_token_in_the_file_makes_nobody_the_operator() {
    let user = User::new();
    user.file("skep.toml", "token = 'known'\n[serve.tokens]\nthem = 'known too'\n");
    let mut hub = Served::start(&mut user.command(&["serve", "--port", "0"]));
    let entry = json!({ "command": "touch", "args": [user.workspace().join("was-here")] });
    for token in ["known", "known too"] {
        let put = reqwest::Client::new().put(format!("{}/servers/evil", hub.url)).bearer_auth(token);
        let answer = put.body(entry.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 403, "{}", answer.text().await.unwrap());
    }
    let servers: Value = reqwest::get(format!("{}/servers", hub.url)).await.unwrap().json().await.unwrap();
    assert_eq!(servers["servers"], json!([]));
    hub.stop();
    assert!(!user.workspace().join("was-here").exists());
}

#[test]
fn commands_in_the_file_are_not_run() {
    let user = User::new();
    user.file("skep.toml", "[mcpServers.evil]\ncommand = 'sh'\nargs = ['-c', 'touch was-here; cat']\n");
    for command in [
        &["tools"][..],
        &["servers"],
        &["prompt"],
        &["call", "evil__x"],
        &["doctor"],
        &["run", "--dry-run", "list files"],
    ] {
        ends(&user, command);
    }
    assert!(!user.workspace().join("was-here").exists());
}

#[test]
fn a_file_that_is_waited_for_holds_up_no_command() {
    let user = User::new();
    fifo(&user.workspace().join("fifo"));
    user.file("skep.toml", "token_file = 'fifo'\n");
    ends(&user, &["runs"]).ok();
    // Nor one that the user named, and commands that need no token do without.
    at_home(&user, ".config/skep/skep.toml", &format!("token_file = {:?}\n", user.workspace().join("fifo")));
    ends(&user, &["runs"]).ok();
    let said = ends(&user, &["serve", "--port", "0"]);
    assert_eq!(said.code(), 1);
    assert!(
        said.stderr().contains("fifo: token_file: the token cannot be read: it is not a regular file"),
        "{}",
        said.stderr()
    );
    for arguments in [
        &["--config", "fifo", "runs"][..],
        &["tools", "--mcp-config", "fifo"],
        &["run", "fifo.yaml"],
        &["check", "fifo.yaml", "fifo.py", "fifo.json"],
        &["call", "--use-mcp-tool", "fifo"],
    ] {
        for name in ["fifo.yaml", "fifo.py", "fifo.json"] {
            let _ = symlink("fifo", user.workspace().join(name));
        }
        let said = ends(&user, arguments);
        assert_ne!(said.code(), 0, "{arguments:?}");
        let all = said.stdout() + &said.stderr();
        assert!(all.contains("not a regular file"), "{arguments:?}: {all}");
    }
    std::fs::remove_file(user.workspace().join("skep.toml")).unwrap();
    fifo(&user.workspace().join("skep.toml"));
    ends(&user, &["runs"]).ok();
    ends(&user, &["trust", "--yes"]);
}

#[test]
fn a_device_without_an_end_is_not_read() {
    let user = User::new();
    for arguments in [&["serve", "--port", "0", "--token-file", "/dev/zero"][..], &["runs", "--config", "/dev/zero"]] {
        let said = ends(&user, arguments);
        assert_eq!(said.code(), 1);
        assert!(said.stderr().contains("not a regular file"), "{}", said.stderr());
    }
}

#[test]
fn no_file_that_lies_about_breaks_a_command_that_does_not_need_it() {
    let user = User::new();
    let faulty =
        ["home = [", "workspace = 3\nnonsense = true\n", "\u{0}\u{1b}[31m", "[serve]\nbind = ['0.0.0.0:80']\n"];
    for text in faulty {
        user.file("skep.toml", text);
        for command in [&["runs"][..], &["tools"], &["sandbox", "--help"], &["trust", "--list"]] {
            let said = ends(&user, command).ok();
            assert!(!said.stderr().contains('\u{1b}'), "{}", said.stderr());
        }
        let checked = ends(&user, &["check", "skep.toml"]);
        assert_eq!(checked.code() == 0, text.contains("bind"), "{text}: {}", checked.stdout());
    }
    assert!(ends(&user, &["runs"]).stderr().contains("serve.bind"));
}

#[test]
fn a_link_to_a_file_that_is_trusted_elsewhere_is_not_trusted() {
    let user = User::new();
    let theirs = user.workspace().join("theirs");
    std::fs::create_dir_all(&theirs).unwrap();
    at_home(&user, "secret.txt", SECRET);
    user.file("skep.toml", &format!("workspace = {:?}\n", user.home()));
    user.skep(&["trust", "--yes"]).ok();
    let read = |directory: &Path| {
        let mut command = user.command(&["call", "file_read", "--arg", "path=secret.txt"]);
        Said(command.current_dir(directory).output().unwrap())
    };
    assert!(read(user.workspace()).ok().stdout().contains(SECRET), "it is trusted where it is");
    symlink("../skep.toml", theirs.join("skep.toml")).unwrap();
    assert!(!read(&theirs).stdout().contains(SECRET));
}

#[test]
fn what_was_trusted_and_has_changed_has_to_be_looked_at_again() {
    let user = User::new();
    at_home(&user, "secret.txt", SECRET);
    user.file("skep.toml", "# mine\n");
    user.skep(&["trust", "--yes"]).ok();
    user.file("skep.toml", &format!("workspace = {:?}\n", user.home()));
    let said = user.skep(&["call", "file_read", "--arg", "path=secret.txt"]);
    assert!(!said.stdout().contains(SECRET));
    assert!(said.stderr().contains("has changed since it was trusted"), "{}", said.stderr());
    assert!(user.skep(&["trust", "--list"]).ok().stdout().starts_with("changed"));

    let asked = user.skep(&["trust"]);
    assert_eq!(asked.code(), 2, "there is nobody to ask");
    assert!(asked.stderr().contains("!    1  workspace"), "{}", asked.stderr());
    user.skep(&["trust", "--yes"]).ok();
    assert!(user.skep(&["call", "file_read", "--arg", "path=secret.txt"]).ok().stdout().contains(SECRET));
    user.skep(&["trust", "--revoke"]).ok();
    assert!(!user.skep(&["call", "file_read", "--arg", "path=secret.txt"]).stdout().contains(SECRET));
}

#[test]
fn the_list_of_trusted_files_is_not_where_the_file_says() {
    let user = User::new();
    std::fs::create_dir_all(user.workspace().join("state")).unwrap();
    user.file("skep.toml", "home = 'state'\nworkspace = '/'\n");
    // What a repository would bring along, if it knew its place.
    let place = user.workspace().canonicalize().unwrap().join("skep.toml");
    let sha256 = Command::new("sha256sum").arg(&place).output().unwrap().stdout;
    let sha256 = String::from_utf8(sha256).unwrap()[..64].to_owned();
    let list = json!({ "files": [{ "path": place, "sha256": sha256, "since_us": 0 }] });
    user.file("state/trust.json", &list.to_string());
    assert!(user.skep(&["runs"]).ok().stderr().contains("is not trusted"));
    assert!(user.skep(&["runs", "--home", "state"]).ok().stderr().contains("is not trusted"));
}
