//! `skep connect` and `skep disconnect`.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use crate::support::{Served, User};

const CLIENTS: [&str; 5] = ["claude", "codex", "cursor", "gemini", "vscode"];

fn json_of(user: &User, path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(user.home().join(path)).unwrap()).unwrap()
}

#[test]
fn a_client_is_connected_to_the_hub_that_runs_and_disconnected_again() {
    let user = User::new();
    let served = Served::start(&mut user.command(&["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]));
    let url = format!("{}/mcp", served.url);
    for client in CLIENTS {
        let said = user.skep(&["connect", client]).ok();
        assert!(said.stdout().contains(&url), "{}", said.stdout());
        assert!(user.skep(&["connect", client]).ok().stdout().contains("nothing to do"), "{client}");
    }
    let claude = json_of(&user, ".claude.json");
    assert_eq!(claude["mcpServers"]["skep"], json!({ "type": "http", "url": url }));
    assert_eq!(json_of(&user, ".cursor/mcp.json")["mcpServers"]["skep"]["url"], url);
    assert_eq!(json_of(&user, ".gemini/settings.json")["mcpServers"]["skep"]["httpUrl"], url);
    assert_eq!(json_of(&user, ".config/Code/User/mcp.json")["servers"]["skep"]["url"], url);
    let codex = fs::read_to_string(user.home().join(".codex/config.toml")).unwrap();
    assert!(codex.contains("[mcp_servers.skep]") && codex.contains(&url), "{codex}");
    for client in CLIENTS {
        assert!(user.skep(&["disconnect", client]).ok().stdout().contains("is disconnected"), "{client}");
        assert!(user.skep(&["disconnect", client]).ok().stdout().contains("nothing to do"), "{client}");
    }
    assert_eq!(json_of(&user, ".claude.json"), json!({ "mcpServers": {} }));
}

#[test]
fn without_a_hub_the_client_starts_its_own_process() {
    let user = User::new();
    let said = user.skep(&["connect", "claude", "--as", "tools"]).ok();
    assert!(said.stderr().contains("no hub runs here"), "{}", said.stderr());
    let entry = json_of(&user, ".claude.json")["mcpServers"]["tools"].take();
    // As the kernel names it, whatever links lead there.
    let program = fs::canonicalize(env!("CARGO_BIN_EXE_skep")).unwrap();
    assert_eq!(entry["command"], program.to_str().unwrap());
    assert_eq!(entry["args"], json!(["mcp-stdio"]));
}

#[test]
fn the_file_of_a_project_is_shared_so_it_names_no_place_of_this_machine() {
    let user = User::new();
    for (client, file) in [("claude", ".mcp.json"), ("vscode", ".vscode/mcp.json"), ("codex", ".codex/config.toml")] {
        let home = user.home().display().to_string();
        user.skep(&["connect", client, "--project", "--home", &home]).ok();
        let text = fs::read_to_string(user.workspace().join(file)).unwrap();
        assert!(text.contains("mcp-stdio") && !text.contains(&home), "{text}");
        assert!(!text.contains(env!("CARGO_BIN_EXE_skep")), "{text}");
    }
}

#[test]
fn a_token_is_never_written_and_the_user_is_told_where_it_goes() {
    const TOKEN: &str = "correct-horse-battery-staple";
    let user = User::new();
    let mut command = user.command(&["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]);
    let _served = Served::start(command.env("SKEP_TOKEN", TOKEN));
    for client in CLIENTS {
        let said = user.command(&["connect", client]).env("SKEP_TOKEN", TOKEN).output().unwrap();
        assert!(String::from_utf8_lossy(&said.stderr).contains("SKEP_TOKEN"), "{client}: {said:?}");
        assert!(!String::from_utf8_lossy(&said.stdout).contains(TOKEN), "{client}: {said:?}");
    }
    for file in [".claude.json", ".codex/config.toml", ".cursor/mcp.json", ".gemini/settings.json"] {
        let text = fs::read_to_string(user.home().join(file)).unwrap();
        assert!(text.contains("SKEP_TOKEN") && !text.contains(TOKEN), "{text}");
    }
}

#[test]
fn the_users_file_keeps_its_mode_its_link_and_everything_else_and_a_copy_is_left() {
    let user = User::new();
    let before = "{\n  \"numStartups\": 7,\n  \"mcpServers\": { \"time\": { \"command\": \"uvx\" } }\n}\n";
    let kept = user.home().join("dotfiles.json");
    fs::write(&kept, before).unwrap();
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&kept, user.home().join(".claude.json")).unwrap();
    user.skep(&["connect", "claude", "--stdio"]).ok();
    assert!(user.home().join(".claude.json").is_symlink());
    let after = fs::read_to_string(&kept).unwrap();
    assert!(after.starts_with("{\n  \"numStartups\": 7,\n  \"mcpServers\": {"), "{after}");
    assert!(after.contains("\"time\": { \"command\": \"uvx\" }"), "{after}");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_to_string(user.home().join("dotfiles.json.before-skep")).unwrap(), before);
    assert_eq!(
        fs::read_dir(user.home())
            .unwrap()
            .filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains(".skep-"))
            .count(),
        0
    );
}

#[test]
fn with_print_and_for_a_file_that_cannot_be_read_nothing_is_written() {
    let user = User::new();
    let said = user.skep(&["connect", "gemini", "--print"]).ok();
    assert!(
        said.stdout().contains(".gemini/settings.json") && said.stdout().contains("mcp-stdio"),
        "{}",
        said.stdout()
    );
    assert!(!user.home().join(".gemini").exists());
    let broken = "{ \"mcpServers\": [";
    fs::write(user.home().join(".claude.json"), broken).unwrap();
    let said = user.skep(&["connect", "claude"]);
    assert_eq!(said.code(), 1);
    assert!(said.stderr().contains("is left as it is"), "{}", said.stderr());
    assert_eq!(fs::read_to_string(user.home().join(".claude.json")).unwrap(), broken);
}
