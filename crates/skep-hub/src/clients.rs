//! The configuration files of MCP clients: where each keeps its servers, and how the entry for a hub is put in or taken
//! out while everything else in the file stays as it is, comments and layout included.
//!
//! No entry holds a token. Each client can take one from its environment, and the entry says from which variable.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use jsonc_parser::{
    ParseOptions,
    cst::{CstInputValue, CstObject, CstRootNode},
};
use serde_json::{Map, Value, json};
use toml_edit::{Array, DocumentMut, Item, Table, TableLike};

/// The variable from which clients take the hub's token.
pub const TOKEN_VARIABLE: &str = "SKEP_TOKEN";
/// The argument that makes this program a server on standard input and output.
const STDIO: &str = "mcp-stdio";
/// Members of an entry that say how its server is reached. They are ours; a user's other ones stay.
const OURS: [&str; 9] =
    ["type", "url", "httpUrl", "headers", "command", "args", "env", "bearer_token_env_var", "http_headers"];

/// A program that uses MCP servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// Claude Code
    Claude,
    /// Codex
    Codex,
    /// Cursor
    Cursor,
    /// Gemini CLI
    Gemini,
    /// Visual Studio Code
    Vscode,
}

/// For whom a client is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For this user, wherever the client is started.
    User,
    /// For whoever opens the project in the current directory; the file is meant to be shared.
    Project,
}

/// How the client reaches the tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A hub that runs.
    Http {
        /// Its MCP endpoint.
        url: String,
        /// It wants a token.
        wants_token: bool,
    },
    /// A process that the client starts.
    Stdio {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// Why a file is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It cannot be read as what it should be.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Something else is where the servers should be.
    #[error("`{0}` in it is no table of servers")]
    NoTable(&'static str),
    /// The name belongs to somebody else's server.
    #[error("it has another server of the name {0:?}; choose a name with --as")]
    Foreign(String),
}

impl Client {
    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Client::Claude => "Claude Code",
            Client::Codex => "Codex",
            Client::Cursor => "Cursor",
            Client::Gemini => "Gemini CLI",
            Client::Vscode => "VS Code",
        }
    }

    /// Its file for a user with this home or for the project in this directory. Variables of the environment can name
    /// another place for the user's.
    pub fn file(
        self,
        scope: Scope,
        home: &Path,
        project: &Path,
        variable: impl Fn(&str) -> Option<PathBuf>,
    ) -> PathBuf {
        let base = |name: &str, default: &str| variable(name).unwrap_or_else(|| home.join(default));
        match (self, scope) {
            // Without the variable it lies beside the directory that the variable names.
            (Client::Claude, Scope::User) => {
                variable("CLAUDE_CONFIG_DIR").unwrap_or_else(|| home.to_owned()).join(".claude.json")
            }
            (Client::Claude, Scope::Project) => project.join(".mcp.json"),
            (Client::Codex, Scope::User) => base("CODEX_HOME", ".codex").join("config.toml"),
            (Client::Codex, Scope::Project) => project.join(".codex/config.toml"),
            (Client::Cursor, Scope::User) => home.join(".cursor/mcp.json"),
            (Client::Cursor, Scope::Project) => project.join(".cursor/mcp.json"),
            (Client::Gemini, Scope::User) => home.join(".gemini/settings.json"),
            (Client::Gemini, Scope::Project) => project.join(".gemini/settings.json"),
            (Client::Vscode, Scope::User) => base("XDG_CONFIG_HOME", ".config").join("Code/User/mcp.json"),
            (Client::Vscode, Scope::Project) => project.join(".vscode/mcp.json"),
        }
    }

    /// The member under which its file lists servers.
    fn key(self) -> &'static str {
        match self {
            Client::Codex => "mcp_servers",
            Client::Vscode => "servers",
            _ => "mcpServers",
        }
    }

    /// The entry that makes it reach this target.
    pub fn entry(self, target: &Target) -> Map<String, Value> {
        let entry = match (self, target) {
            (Client::Codex | Client::Gemini | Client::Cursor, Target::Stdio { command, args }) => {
                json!({ "command": command, "args": args })
            }
            (_, Target::Stdio { command, args }) => json!({ "type": "stdio", "command": command, "args": args }),
            (Client::Codex, Target::Http { url, wants_token: true }) => {
                json!({ "url": url, "bearer_token_env_var": TOKEN_VARIABLE })
            }
            (Client::Codex, Target::Http { url, .. }) => json!({ "url": url }),
            (_, Target::Http { url, wants_token }) => {
                let mut entry = match self {
                    Client::Gemini => json!({ "httpUrl": url }),
                    Client::Cursor => json!({ "url": url }),
                    _ => json!({ "type": "http", "url": url }),
                };
                if *wants_token {
                    let variable = match self {
                        Client::Cursor | Client::Vscode => format!("${{env:{TOKEN_VARIABLE}}}"),
                        _ => format!("${{{TOKEN_VARIABLE}}}"),
                    };
                    entry["headers"] = json!({ "Authorization": format!("Bearer {variable}") });
                }
                entry
            }
        };
        match entry {
            Value::Object(entry) => entry,
            _ => Map::new(),
        }
    }

    /// The text of its file with an entry of this name for the target. The same text if it is there already.
    pub fn connected(self, text: &str, name: &str, target: &Target) -> Result<String, Unfit> {
        let url = match target {
            Target::Http { url, .. } => Some(url.as_str()),
            Target::Stdio { .. } => None,
        };
        self.changed(text, name, Some(self.entry(target)), url)
    }

    /// The text of its file without the entry of this name. The same text if there is none. A hub at this URL is known to
    /// be ours, as is any on this machine.
    pub fn disconnected(self, text: &str, name: &str, url: Option<&str>) -> Result<String, Unfit> {
        self.changed(text, name, None, url)
    }

    fn changed(
        self,
        text: &str,
        name: &str,
        entry: Option<Map<String, Value>>,
        url: Option<&str>,
    ) -> Result<String, Unfit> {
        if entry.is_none() && text.trim().is_empty() {
            return Ok(text.to_owned());
        }
        match self {
            Client::Codex => in_toml(text, self.key(), name, entry, url),
            _ => in_json(text, self.key(), name, entry, url),
        }
    }

    /// The entry as its file has it, to be shown.
    pub fn shown(self, name: &str, target: &Target) -> String {
        match self {
            Client::Codex => self.connected("", name, target).unwrap_or_default(),
            _ => format!("{:#}\n", json!({ self.key(): { name: self.entry(target) } })),
        }
    }
}

/// Whether an entry is for a hub: it starts this program, or goes to one on this machine, or to the one that is known.
fn is_ours(entry: &Map<String, Value>, known: Option<&str>) -> bool {
    let starts_us = entry.get("args").and_then(Value::as_array).is_some_and(|args| args.iter().any(|arg| arg == STDIO));
    let url = ["url", "httpUrl"].iter().find_map(|member| entry.get(*member)?.as_str());
    let is_here = |url: &str| {
        let host = reqwest::Url::parse(url).ok().filter(|url| url.path() == "/mcp");
        host.and_then(|url| url.host_str().map(str::to_owned)).is_some_and(|host| {
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        })
    };
    starts_us || url.is_some_and(|url| known == Some(url) || is_here(url))
}

/// The new entry, with the members of the old one that are the user's.
fn merged(mut new: Map<String, Value>, old: &Map<String, Value>) -> Map<String, Value> {
    new.extend(old.iter().filter(|(member, _)| !OURS.contains(&member.as_str())).map(|(k, v)| (k.clone(), v.clone())));
    new
}

fn in_json(
    text: &str,
    key: &'static str,
    name: &str,
    entry: Option<Map<String, Value>>,
    url: Option<&str>,
) -> Result<String, Unfit> {
    let text_or_empty = if text.trim().is_empty() { "{}\n" } else { text };
    let root = CstRootNode::parse(text_or_empty, &ParseOptions::default())
        .map_err(|error| Unfit::Unreadable(error.to_string()))?;
    let object = root.object_value().ok_or_else(|| Unfit::Unreadable("it is no JSON object".to_owned()))?;
    let servers: CstObject = match (object.get(key), &entry) {
        (None, None) => return Ok(text.to_owned()),
        _ => object.object_value_or_create(key).ok_or(Unfit::NoTable(key))?,
    };
    let Some(property) = servers.get(name) else {
        if let Some(entry) = entry {
            servers.append(name, input(&entry.into()));
        }
        return Ok(root.to_string());
    };
    let Some(Value::Object(old)) = property.value().and_then(|value| value.to_serde_value()) else {
        return Err(Unfit::Foreign(name.to_owned()));
    };
    if !is_ours(&old, url) {
        return Err(Unfit::Foreign(name.to_owned()));
    }
    match entry.map(|entry| merged(entry, &old)) {
        None => property.remove(),
        Some(entry) if same(&entry, &old) => return Ok(text.to_owned()),
        Some(entry) => property.set_value(input(&entry.into())),
    }
    Ok(root.to_string())
}

/// Whether both say the same, in whatever order.
fn same(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    one.len() == other.len() && one.iter().all(|(member, value)| other.get(member) == Some(value))
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(value) => CstInputValue::Number(value.to_string()),
        Value::String(value) => CstInputValue::String(value.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(members) => {
            CstInputValue::Object(members.iter().map(|(name, value)| (name.clone(), input(value))).collect())
        }
    }
}

fn in_toml(
    text: &str,
    key: &'static str,
    name: &str,
    entry: Option<Map<String, Value>>,
    url: Option<&str>,
) -> Result<String, Unfit> {
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| Unfit::Unreadable(error.message().to_owned()))?;
    if entry.is_none() && document.get(key).is_none() {
        return Ok(text.to_owned());
    }
    let new_table = || {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    };
    let servers = document.entry(key).or_insert_with(new_table);
    let servers = servers.as_table_like_mut().ok_or(Unfit::NoTable(key))?;
    let Some(old) = servers.get_mut(name) else {
        if let Some(entry) = entry {
            let mut table = Table::new();
            set_members(&mut table, &entry);
            servers.insert(name, Item::Table(table));
        }
        return Ok(document.to_string());
    };
    let table = old.as_table_like_mut().ok_or_else(|| Unfit::Foreign(name.to_owned()))?;
    if !is_ours(&members_of(table), url) {
        return Err(Unfit::Foreign(name.to_owned()));
    }
    match entry {
        None => drop(servers.remove(name)),
        Some(entry) => {
            let old = members_of(table);
            if OURS.iter().all(|member| old.get(*member) == entry.get(*member)) {
                return Ok(text.to_owned());
            }
            for member in OURS {
                table.remove(member);
            }
            set_members(table, &entry);
        }
    }
    Ok(document.to_string())
}

/// The texts and lists of texts of a table. No entry of ours has anything else.
fn members_of(table: &dyn TableLike) -> Map<String, Value> {
    let text = |value: &toml_edit::Value| value.as_str().map(Value::from);
    let value = |item: &Item| match item.as_array() {
        Some(array) => Some(array.iter().filter_map(text).collect()),
        None => item.as_value().and_then(text),
    };
    table.iter().filter_map(|(name, item)| Some((name.to_owned(), value(item)?))).collect()
}

fn set_members(table: &mut dyn TableLike, entry: &Map<String, Value>) {
    for (name, value) in entry {
        let item = match value {
            Value::Array(values) => toml_edit::value(values.iter().filter_map(Value::as_str).collect::<Array>()),
            value => toml_edit::value(value.as_str().unwrap_or_default()),
        };
        table.insert(name, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Client; 5] = [Client::Claude, Client::Codex, Client::Cursor, Client::Gemini, Client::Vscode];

    fn hub(wants_token: bool) -> Target {
        Target::Http { url: "http://127.0.0.1:8000/mcp".to_owned(), wants_token }
    }

    fn process() -> Target {
        Target::Stdio { command: "/usr/bin/skep".to_owned(), args: vec![STDIO.to_owned()] }
    }

    #[test]
    fn connecting_again_changes_nothing_and_disconnecting_takes_the_entry_out() {
        for client in ALL {
            for target in [hub(false), hub(true), process()] {
                let once = client.connected("", "skep", &target).unwrap();
                assert_eq!(client.connected(&once, "skep", &target).as_deref(), Ok(once.as_str()), "{client:?}");
                let gone = client.disconnected(&once, "skep", None).unwrap();
                assert!(!gone.contains("skep"), "{client:?}: {gone}");
                assert_eq!(client.disconnected(&gone, "skep", None), Ok(gone.clone()));
            }
            let moved = client.connected(&client.connected("", "skep", &process()).unwrap(), "skep", &hub(false));
            assert_eq!(
                moved,
                client.connected("", "skep", &hub(false)),
                "{client:?}: of the old entry nothing is left"
            );
        }
        assert_eq!(Client::Claude.disconnected("", "skep", None), Ok(String::new()));
    }

    #[test]
    fn everything_else_in_a_json_file_stays_as_it_is() {
        let before = "{\n    // my servers\n    \"theme\": \"dark\", /* best */\n    \"mcpServers\": {\n        \"time\": { \"command\": \"uvx\" }, // needed\n    },\n    \"z\": 1.50\n}\n";
        let after = Client::Gemini.connected(before, "skep", &hub(false)).unwrap();
        for kept in
            ["    // my servers\n", "\"theme\": \"dark\", /* best */", "{ \"command\": \"uvx\" }, // needed", "1.50"]
        {
            assert!(after.contains(kept), "{kept:?} in {after}");
        }
        assert!(after.contains("\"httpUrl\": \"http://127.0.0.1:8000/mcp\""), "{after}");
        let back = Client::Gemini.disconnected(&after, "skep", None).unwrap();
        assert_eq!(back.split_whitespace().collect::<String>(), before.split_whitespace().collect::<String>());
    }

    #[test]
    fn everything_else_in_a_toml_file_stays_as_it_is() {
        let before = "# mine\nmodel = \"o5\" # fast\n\n[mcp_servers.time]\ncommand = 'uvx' # needed\n\n[tui]\nnotifications = true\n";
        let after = Client::Codex.connected(before, "skep", &hub(true)).unwrap();
        assert!(after.starts_with(before.split("[tui]").next().unwrap()), "{after}");
        assert!(after.contains(
            "[mcp_servers.skep]\nurl = \"http://127.0.0.1:8000/mcp\"\nbearer_token_env_var = \"SKEP_TOKEN\"\n"
        ));
        assert_eq!(Client::Codex.disconnected(&after, "skep", None).as_deref(), Ok(before));
    }

    #[test]
    fn what_a_user_added_to_the_entry_is_kept() {
        let json = r#"{ "mcpServers": { "skep": { "command": "skep", "args": ["mcp-stdio"], "timeout": 5 } } }"#;
        let json = Client::Gemini.connected(json, "skep", &hub(false)).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["mcpServers"]["skep"], json!({ "httpUrl": "http://127.0.0.1:8000/mcp", "timeout": 5 }));
        let toml = "[mcp_servers.skep]\ncommand = \"skep\"\nargs = [\"mcp-stdio\"]\nstartup_timeout_sec = 5\n";
        let toml = Client::Codex.connected(toml, "skep", &hub(false)).unwrap();
        assert!(toml.contains("startup_timeout_sec = 5") && !toml.contains("command"), "{toml}");
    }

    #[test]
    fn a_server_of_somebody_else_is_not_touched() {
        let foreign = r#"{ "mcpServers": { "skep": { "url": "https://skep.example/mcp" } } }"#;
        let refused = Err(Unfit::Foreign("skep".to_owned()));
        assert_eq!(Client::Cursor.connected(foreign, "skep", &hub(false)), refused);
        assert_eq!(Client::Cursor.disconnected(foreign, "skep", None), refused);
        assert!(Client::Cursor.disconnected(foreign, "skep", Some("https://skep.example/mcp")).is_ok());
        let foreign = "[mcp_servers.skep]\ncommand = \"beehive\"\n";
        assert_eq!(Client::Codex.connected(foreign, "skep", &hub(false)), refused);
    }

    #[test]
    fn a_file_that_is_broken_or_different_is_refused() {
        for client in ALL {
            assert!(matches!(client.connected("{ \"mcpServers\" [", "skep", &hub(false)), Err(Unfit::Unreadable(_))));
        }
        assert!(matches!(Client::Claude.connected("[1]", "skep", &hub(false)), Err(Unfit::Unreadable(_))));
        let no_table = Client::Claude.connected("{\"mcpServers\": []}", "skep", &hub(false));
        assert_eq!(no_table, Err(Unfit::NoTable("mcpServers")));
        assert_eq!(Client::Codex.connected("mcp_servers = 1", "skep", &hub(false)), Err(Unfit::NoTable("mcp_servers")));
    }

    #[test]
    fn no_entry_holds_a_token_and_each_says_where_it_comes_from() {
        for client in ALL {
            let entry = Value::Object(client.entry(&hub(true))).to_string();
            assert!(entry.contains(TOKEN_VARIABLE), "{entry}");
            assert!(!Value::Object(client.entry(&hub(false))).to_string().contains(TOKEN_VARIABLE));
        }
    }
}
