//! `mcp-config.yaml`, the settings of the design that `POST /process` comes from (contract S0), as they are.
//!
//! ```yaml
//! mcp:
//!   endpoint: "http://localhost:5000"
//!   timeout: 10
//!   tools: [search, bash]
//! docker:
//!   swarm: true
//!   ephemeral: true
//!   port: 5000
//! ```

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_tools::{
    document::{Diagnostic, Document},
    duration::Span,
    schema::Schema,
};

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
struct File {
    /// Where tools are called, and which.
    mcp: Mcp,
    /// How the containers were started that Skep does without.
    #[garde(dive)]
    docker: Option<Docker>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mcp {
    /// The hub.
    endpoint: Option<String>,
    /// How long a call may take, in seconds.
    timeout: Option<Span>,
    /// The tools that there are.
    #[serde(default)]
    tools: Vec<String>,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
struct Docker {
    #[serde(rename = "swarm")]
    _swarm: Option<bool>,
    #[serde(rename = "ephemeral")]
    _ephemeral: Option<bool>,
    /// The port that the hub listens on.
    #[garde(range(min = 1))]
    port: Option<u16>,
}

/// Whether this is such a file.
pub(super) fn is_one(value: &Value) -> bool {
    value.get("mcp").is_some()
}

/// The same settings in the form of `skep.toml`, and what is wrong with them or has no effect.
pub(super) fn read(document: &Document) -> (Value, Vec<Diagnostic>) {
    static SCHEMA: Schema = Schema::of::<File>();
    let problems = document.validate(&SCHEMA);
    if !problems.is_empty() {
        return (Value::Null, problems);
    }
    let File { mcp, docker } = match document.deserialise() {
        Ok(file) => file,
        Err(problem) => return (Value::Null, vec![problem]),
    };
    let mut value = json!({ "hubs": Vec::from_iter(mcp.endpoint), "tools": { "allow": mcp.tools } });
    if let Some(timeout) = mcp.timeout {
        value["tools"]["timeout"] = timeout.to_string().into();
    }
    let mut notices = Vec::new();
    if let Some(docker) = docker {
        if let Some(port) = docker.port {
            value["serve"] = json!({ "bind": [format!("127.0.0.1:{port}")] });
        }
        let message = "no container engine is used: every call runs in a fresh sandbox of its own";
        notices.push(document.problem("/docker", message).warning());
    }
    (value, notices)
}
