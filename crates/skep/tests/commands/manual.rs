//! Completions, man pages, the version, and a tool's page.

use crate::support::User;

#[test]
fn completions_know_every_command_in_every_shell() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = user.skep(&["completions", shell]).ok().stdout();
        for command in ["run", "exec", "connect", "mcp-stdio", "completions"] {
            assert!(script.contains(command), "{command} for {shell}");
        }
    }
    let script = user.workspace().join("skep.bash");
    std::fs::write(&script, user.skep(&["completions", "bash"]).ok().stdout()).unwrap();
    let checked = std::process::Command::new("bash").arg("-n").arg(script).status().unwrap();
    assert!(checked.success(), "bash reads it");
}

#[test]
fn every_command_has_a_man_page() {
    let user = User::new();
    assert!(user.skep(&["man"]).ok().stdout().contains(".TH skep 1"));
    user.skep(&["man", "pages/man1"]).ok();
    for page in ["skep.1", "skep-run.1", "skep-servers-login.1", "skep-connect.1"] {
        let text = std::fs::read_to_string(user.workspace().join("pages/man1").join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
}

#[test]
fn the_version_tells_what_was_built() {
    let user = User::new();
    let version = user.skep(&["--version"]).ok().stdout();
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    assert!(version.starts_with(concat!("skep ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    assert!(
        version.trim_end().ends_with(&format!("{profile}, {}-unknown-linux-gnu)", std::env::consts::ARCH)),
        "{version}"
    );
    let built_from = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Some(commit) = built_from.ok().filter(|git| git.status.success()) {
        let commit = String::from_utf8(commit.stdout).unwrap();
        assert!(version.contains(commit.trim()), "{commit} in {version}");
    }
    assert_eq!(user.skep(&["-V"]).ok().stdout(), concat!("skep ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_tool_is_described_by_a_table_and_a_call_that_works() {
    let user = User::new();
    let page = user.skep(&["tools", "compose"]).ok().stdout();
    for part in ["Arguments:\n  NAME", "Example:\n  skep call compose"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(!page.contains("additionalProperties"), "{page}");
    let schema = user.skep(&["tools", "compose", "--schema"]).ok().json();
    assert!(schema["inputSchema"]["properties"].is_object() && schema["name"].is_null(), "{schema}");
    assert_eq!(user.skep(&["tools", "compose", "--json"]).ok().json()["name"], "compose");
}

#[test]
fn the_text_of_an_mcp_servers_tool_is_printed_once() {
    let user = User::new();
    let server = serde_json::json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"] });
    user.file("mcp.json", &serde_json::json!({ "mcpServers": { "inner": server } }).to_string());
    let call = ["call", "inner__compose", "--arg", "text=only-once", "--mcp-config", "mcp.json"];
    assert_eq!(user.skep(&call).ok().stdout().matches("only-once").count(), 1);
    let whole = user.skep(&[&call[..], &["--json"]].concat()).ok().json();
    assert_eq!(whole["structuredContent"]["text"], "only-once");
}

#[test]
fn an_empty_value_is_called_empty() {
    let user = User::new();
    user.file("plan.yaml", "tasks:\n");
    let said = user.skep(&["check", "plan.yaml"]);
    assert_eq!(said.code(), 1);
    assert!(!said.stdout().contains("not nothing") && said.stdout().contains("empty"), "{}", said.stdout());
}
