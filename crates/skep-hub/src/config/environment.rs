//! The settings that the environment may hold. Each variable stands for one key of the file.

use serde_json::{Map, Value};
use skep_tools::document::Diagnostic;

use super::file;

/// A variable, and the key that it stands for.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// JSON Pointer of the key in `skep.toml`.
    pub pointer: &'static str,
    form: Form,
}

/// How a variable's text becomes a value.
#[derive(Clone, Copy, Debug)]
enum Form {
    Text,
    Number,
    /// Separated by commas.
    List,
    /// Yes or no: 1 or true, 0 or false.
    Switch,
    /// A port of this machine, as the address that it stands for.
    Port,
}

/// All variables that are read, with the keys that they stand for.
pub const VARIABLES: &[Variable] = &[
    Variable { name: "SKEP_HOME", pointer: "/home", form: Form::Text },
    Variable { name: "SKEP_DATABASE", pointer: "/database", form: Form::Text },
    Variable { name: "SKEP_REDIS", pointer: "/redis", form: Form::Text },
    Variable { name: "SKEP_WORKSPACE", pointer: "/workspace", form: Form::Text },
    Variable { name: "SKEP_HUBS", pointer: "/hubs", form: Form::List },
    Variable { name: "SKEP_TOKEN", pointer: "/token", form: Form::Text },
    Variable { name: "SKEP_TOKEN_FILE", pointer: "/token_file", form: Form::Text },
    Variable { name: "SKEP_BIND", pointer: "/serve/bind", form: Form::List },
    Variable { name: "MCP_TCP_PORT", pointer: "/serve/tcp", form: Form::Port },
    Variable { name: "SKEP_TCP", pointer: "/serve/tcp", form: Form::List },
    Variable { name: "SKEP_UNIX", pointer: "/serve/unix", form: Form::Text },
    Variable { name: "SKEP_ALLOW_LOCAL_USERS", pointer: "/serve/allow_local_users", form: Form::Switch },
    Variable { name: "SKEP_TLS_CERT", pointer: "/serve/tls_cert", form: Form::Text },
    Variable { name: "SKEP_TLS_KEY", pointer: "/serve/tls_key", form: Form::Text },
    Variable { name: "SKEP_ALLOWED_HOSTS", pointer: "/serve/allowed_hosts", form: Form::List },
    Variable { name: "SKEP_ALLOWED_ORIGINS", pointer: "/serve/allowed_origins", form: Form::List },
    Variable { name: "SKEP_CALLS_AT_ONCE", pointer: "/serve/calls_at_once", form: Form::Number },
    Variable { name: "SKEP_ACTORS", pointer: "/run/actors", form: Form::Number },
    Variable { name: "SKEP_OBSERVERS", pointer: "/run/observers", form: Form::Number },
    Variable { name: "SKEP_TOOLS_ALLOW", pointer: "/tools/allow", form: Form::List },
    Variable { name: "SKEP_TOOLS_DENY", pointer: "/tools/deny", form: Form::List },
    Variable { name: "SKEP_TOOLS_TIMEOUT", pointer: "/tools/timeout", form: Form::Text },
    Variable { name: "SKEP_SANDBOX_ACCEPT", pointer: "/sandbox/accept", form: Form::Text },
    Variable { name: "SKEP_MODEL", pointer: "/model/model", form: Form::Text },
    Variable { name: "SKEP_MODEL_PROVIDER", pointer: "/model/provider", form: Form::Text },
    Variable { name: "SKEP_MODEL_BASE_URL", pointer: "/model/base_url", form: Form::Text },
    Variable { name: "SKEP_LOG", pointer: "/log/level", form: Form::Text },
    Variable { name: "SKEP_LOG_FORMAT", pointer: "/log/format", form: Form::Text },
];

/// What the environment says, in the form of the file, and what is wrong with it.
pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> (Value, Vec<Diagnostic>) {
    let mut root = Value::Object(Map::new());
    for Variable { name, pointer, form } in VARIABLES {
        let Some(text) = variable(name) else { continue };
        let value = match form {
            Form::Text => Value::from(text),
            Form::Number => text.trim().parse::<u64>().map_or(Value::from(text), Value::from),
            Form::Switch => match text.trim() {
                "1" | "true" => Value::from(true),
                "0" | "false" => Value::from(false),
                _ => Value::from(text),
            },
            Form::Port => vec![format!("127.0.0.1:{}", text.trim())].into(),
            Form::List => text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect(),
        };
        let place = pointer.split('/').skip(1).fold(&mut root, |place, key| &mut place[key]);
        *place = value;
    }
    let is_set = |known: &&Variable| variable(known.name).is_some();
    // Of two for one key, the later one counts.
    let names: Vec<_> = VARIABLES.iter().rev().filter(is_set).map(|known| (known.name, known.pointer)).collect();
    let faults = faults(&root, "environment", &names);
    (root, faults)
}

/// What is wrong with settings that are not from a file. Each key has a name there that its user knows.
pub(super) fn faults(settings: &Value, source: &str, names: &[(&str, &str)]) -> Vec<Diagnostic> {
    let fault = |violation: skep_tools::schema::Violation| {
        let is_meant = |rest: &str| rest.is_empty() || rest.starts_with('/');
        let named = names.iter().find(|(_, pointer)| violation.pointer.strip_prefix(pointer).is_some_and(is_meant));
        let key = named.map_or(violation.pointer.as_str(), |(name, _)| name).to_owned();
        Diagnostic { key, help: violation.help, ..Diagnostic::of_file(source, violation.message) }
    };
    file::schema().violations(settings).into_iter().map(fault).collect()
}
