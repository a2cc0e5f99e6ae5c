//! Keys and tokens are not to be had from a workspace, whichever way somebody takes.

use std::{os::unix::fs::symlink, path::Path};

use serde_json::{Value, json};

use crate::{
    support::{Served, User},
    wire::{Hub, call},
};

const SECRET: &str = "MY-PRIVATE-KEY";

/// A user whose workspace is the home directory, with keys in it.
struct Home {
    user: User,
}

/// What is in such a home, and must not be seen.
const KEYS: [&str; 8] = [
    ".ssh/id_ed25519",
    ".aws/credentials",
    ".gnupg/private-keys-v1.d/key",
    ".netrc",
    ".kube/config",
    ".docker/config.json",
    ".config/gh/hosts.yml",
    ".config/skep/skep.toml",
];

impl Home {
    fn new() -> Home {
        let home = Home { user: User::new() };
        KEYS.iter().for_each(|key| home.put(key, SECRET));
        home.put(".config/skep/skep.toml", &format!("# {SECRET}\n"));
        home.put("project/notes.txt", "PLAIN");
        home.put("dotfiles/ssh/id_rsa", "x");
        // What only root may read would be unreadable in a sandbox of root's for that reason.
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.user.workspace()
    }

    fn put(&self, name: &str, text: &str) {
        self.user.file(name, text);
    }

    /// `skep` of this user, whose state is where it is as a rule.
    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.user.command(arguments);
        command.env("HOME", self.path()).env_remove("SKEP_HOME");
        command
    }

    fn serve(&self, more: &[&str]) -> Served {
        Served::start(&mut self.command(&[&["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"], more].concat()))
    }
}

async fn tool(hub: &Served, name: &str, arguments: Value) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = json!({ "tool": name, "args": arguments, "timeout": 60 }).to_string();
    let answer = client.post(format!("{}/process", hub.url)).body(body).send().await.unwrap();
    answer.json().await.unwrap()
}

/// Whatever a command finds of the keys, by names and by contents.
fn hunt(inside: &str) -> Value {
    let script = format!("cat {inside}/.netrc; grep -rs {SECRET} {inside} {inside}/.[a-z]*; true");
    json!({ "command": script })
}

#[tokio::test]
async fn keys_in_a_home_directory_are_seen_by_no_tool() {
    let home = Home::new();
    symlink(".ssh", home.path().join("to-ssh")).unwrap();
    symlink("../.ssh/id_ed25519", home.path().join("project/key")).unwrap();
    symlink("/etc", home.path().join("etc")).unwrap();
    let mut hub = home.serve(&[]);
    let warned = hub.says("a whole home directory");
    assert!(warned.contains("-C DIR"), "{warned}");

    let mut ways: Vec<String> = KEYS.iter().map(|key| (*key).to_owned()).collect();
    ways.extend(
        ["to-ssh/id_ed25519", "project/key", "./.ssh/../.ssh/id_ed25519", "project/../.netrc"].map(str::to_owned),
    );
    ways.push(".local/share/skep/skep.db".into());
    for path in &ways {
        for (name, arguments) in [
            ("file_read", json!({ "path": path })),
            ("file_read", json!({ "path": path, "encoding": "base64" })),
            ("file_edit", json!({ "path": path, "old_text": SECRET, "new_text": "x" })),
            ("list_files", json!({ "path": path })),
            ("search", json!({ "query": SECRET, "path": path })),
            ("observe_screen", json!({ "image": path, "ocr": false })),
            ("execute_generated_code", json!({ "path": path, "language": "bash" })),
        ] {
            let answer = tool(&hub, name, arguments.clone()).await;
            assert_eq!(answer["status"], "error", "{name} {arguments}: {answer}");
            assert!(!answer.to_string().contains(SECRET), "{name} {arguments}: {answer}");
        }
    }
    let refused = tool(&hub, "file_read", json!({ "path": ".ssh/id_ed25519" })).await;
    assert_eq!(refused["code"], "denied", "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("workspace_show"), "what to do: {refused}");
    let missing = tool(&hub, "file_read", json!({ "path": ".ssh/id_other" })).await;
    assert_eq!(missing["code"], "denied", "nor is it told what is there: {missing}");

    let listed = tool(&hub, "list_files", json!({ "recursive": true, "all": true })).await;
    let listed = listed.to_string();
    assert!(listed.contains("project/notes.txt"), "{listed}");
    for key in KEYS {
        assert!(!listed.contains(key), "{key} in {listed}");
    }
    let found = tool(&hub, "search", json!({ "query": SECRET, "hidden": true, "ignored": true })).await;
    assert_eq!(found["total"], 0, "{found}");
    let found = tool(&hub, "search", json!({ "query": "PLAIN" })).await;
    assert_eq!(found["total"], 1, "{found}");

    for inside in ["/workspace", "/inputs"] {
        let seen = tool(&hub, "bash", hunt(inside)).await;
        assert_eq!(seen["status"], "ok", "{seen}");
        assert!(!seen.to_string().contains(SECRET), "{inside}: {seen}");
    }
    let plain = tool(&hub, "bash", json!({ "command": "cat /workspace/project/notes.txt" })).await;
    assert_eq!(plain["stdout"], "PLAIN", "{plain}");
}

#[tokio::test]
async fn what_becomes_a_key_while_a_hub_runs_is_hidden_too() {
    let home = Home::new();
    let hub = home.serve(&[]);
    let peek = async |path: &str| {
        let read = tool(&hub, "file_read", json!({ "path": path })).await;
        let seen = tool(&hub, "bash", json!({ "command": format!("cat /workspace/{path}; true") })).await;
        assert_eq!(seen["status"], "ok", "{seen}");
        assert!(!format!("{read}{seen}").contains(SECRET), "{path}: {read} {seen}");
    };
    peek(".netrc").await;
    home.put("new", SECRET);
    std::fs::rename(home.path().join("new"), home.path().join(".netrc")).unwrap();
    peek(".netrc").await; // as programs replace their files
    home.put(".azure/token", SECRET);
    peek(".azure/token").await;
    home.put("dotfiles/aws/credentials", SECRET);
    std::fs::remove_dir_all(home.path().join(".aws")).unwrap();
    symlink("dotfiles/aws", home.path().join(".aws")).unwrap();
    peek(".aws/credentials").await;
    peek("dotfiles/aws/credentials").await;
}

#[test]
fn the_key_to_the_database_is_not_to_be_had_from_a_workspace() {
    let home = Home::new();
    home.put("database.key", SECRET);
    let key = home.path().join("database.key");
    home.put("settings.toml", &format!("database = 'host=/nonexistent sslcert=x.crt sslkey={}'\n", key.display()));
    let read = ["call", "file_read", "--arg", "path=database.key"];
    let said = home.command(&[&read[..], &["--config", "settings.toml"]].concat()).output().unwrap();
    assert!(!said.status.success() && !String::from_utf8_lossy(&said.stdout).contains(SECRET), "{said:?}");
    let shown = home.command(&read).output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains(SECRET), "{shown:?}");
}

#[tokio::test]
async fn what_is_named_is_shown() {
    let home = Home::new();
    let within = home.serve(&["-C", ".ssh"]);
    assert_eq!(tool(&within, "file_read", json!({ "path": "id_ed25519" })).await["content"], SECRET);
    drop(within);
    home.put("settings.toml", "workspace_show = ['~/.aws']\n");
    let shown = home.serve(&["--config", "settings.toml"]);
    assert_eq!(tool(&shown, "file_read", json!({ "path": ".aws/credentials" })).await["content"], SECRET);
    let seen = tool(&shown, "bash", json!({ "command": "cat /workspace/.aws/credentials" })).await;
    assert_eq!(seen["stdout"], SECRET, "{seen}");
    assert_eq!(tool(&shown, "file_read", json!({ "path": ".netrc" })).await["code"], "denied");
    home.put("settings.toml", "workspace_show = ['~/.ssh/config']\n");
    let refused = home.command(&["call", "list_files", "--config", "settings.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("as a whole or not at all"), "{said}");
}

#[tokio::test]
async fn the_token_of_a_hub_is_not_to_be_had_from_its_workspace() {
    let user = User::new();
    user.file("token", "correct-horse-battery");
    let hub = Hub::of(user, "", &[("SKEP_TOKEN_FILE", "token")]);
    let headers = [("authorization", "Bearer correct-horse-battery")];
    let read = json!({ "tool": "file_read", "args": { "path": "token" } });
    let answer = hub.post("/process", &headers, read).await;
    assert!(!answer.body.contains("correct-horse"), "{answer:?}");
    let seen =
        hub.post("/process", &headers, json!({ "tool": "bash", "args": { "command": "cat token; true" } })).await;
    assert!(seen.json()["status"] == "ok" && !seen.body.contains("correct-horse"), "{seen:?}");
    let mcp = hub.post("/mcp", &headers, call(1, "file_read", json!({ "path": "token" }))).await;
    assert!(!mcp.body.contains("correct-horse"), "{mcp:?}");
}

#[test]
fn a_command_in_a_sandbox_sees_none_of_it_either() {
    let home = Home::new();
    let script = hunt("/workspace")["command"].as_str().unwrap().to_owned();
    let seen = home.command(&["exec", "-C", ".", "--", "sh", "-c", &script]).output().unwrap();
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    assert!(!String::from_utf8_lossy(&seen.stdout).contains(SECRET));
    let bare =
        home.command(&["exec", "-C", ".", "--", "true"]).env("SKEP_SANDBOX_ACCEPT", "landlock").output().unwrap();
    assert!(bare.status.success(), "where there are namespaces: {}", String::from_utf8_lossy(&bare.stderr));
}
