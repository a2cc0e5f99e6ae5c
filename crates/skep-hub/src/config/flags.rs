//! What flags say, as a layer of settings like a file: what has a limit there has the same one here.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use skep_tools::{document::Diagnostic, parts::BuiltIns};

use super::environment::faults;

/// Where a fault is that a flag has.
pub(super) const SOURCE: &str = "command line";
/// What flags say; on top of all else.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// See [`super::Settings::built_in`].
    pub built_in: Option<BuiltIns>,
    /// See [`super::Settings::home`].
    pub home: Option<PathBuf>,
    /// See [`super::Settings::database`].
    pub database: Option<String>,
    /// See [`super::Settings::redis`].
    pub redis: Option<String>,
    /// See [`super::Settings::workspace`].
    pub workspace: Option<PathBuf>,
    /// See [`super::Settings::hubs`].
    pub hubs: Vec<String>,
    /// See [`super::Serve::bind`].
    pub bind: Vec<String>,
    /// See [`super::Serve::tcp`].
    pub tcp: Vec<String>,
    /// See [`super::Serve::prefix`].
    pub prefix: Option<bool>,
    /// See [`Serve::unix`](super::Serve::unix).
    pub unix: Option<PathBuf>,
    /// See [`Serve::allow_local_users`](super::Serve::allow_local_users).
    pub allow_local_users: Option<bool>,
    /// See [`Serve::directories`](super::Serve::directories); beside those of the file.
    pub directories: Vec<(String, PathBuf)>,
    /// File with the token.
    pub token_file: Option<PathBuf>,
    /// See [`super::Settings::agents`].
    pub actors: Option<u32>,
    /// See [`super::Settings::agents`].
    pub observers: Option<u32>,
    /// File of an MCP client whose servers are added to [`super::Settings::upstreams`].
    pub mcp_config: Option<PathBuf>,
}

/// The flags, in the form of the file, and what is wrong with them. Paths are not among them: they have no limits, and may be
/// no text.
pub(super) fn read(flags: &Overrides) -> (Value, Vec<Diagnostic>) {
    let list = |texts: &[String]| (!texts.is_empty()).then(|| json!(texts));
    let values = [
        ("--database", "/database", flags.database.as_deref().map(Value::from)),
        ("--redis", "/redis", flags.redis.as_deref().map(Value::from)),
        ("--hub", "/hubs", list(&flags.hubs)),
        ("--bind", "/serve/bind", list(&flags.bind)),
        ("--tcp", "/serve/tcp", list(&flags.tcp)),
        ("--allow-local-users", "/serve/allow_local_users", flags.allow_local_users.map(Value::from)),
        ("--no-prefix", "/serve/prefix", flags.prefix.map(Value::from)),
        ("--actors", "/run/actors", flags.actors.map(Value::from)),
        ("--observers", "/run/observers", flags.observers.map(Value::from)),
    ];
    let mut root = Value::Object(Map::new());
    for (_, pointer, value) in &values {
        if let Some(value) = value {
            *pointer.split('/').skip(1).fold(&mut root, |place, key| &mut place[key]) = value.clone();
        }
    }
    let names = values.map(|(name, pointer, _)| (name, pointer));
    let faults = faults(&root, SOURCE, &names);
    (root, faults)
}
