//! The form of `skep.toml`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use skep_core::retention::{Keep, KeepShared};
use skep_plan::AGENTS_MAX;
use skep_tools::{
    code::Policy,
    duration::Span,
    model, net,
    sandboxed::Settings as SandboxSettings,
    schema::{Schema, shorten},
    search,
    size::Size,
    tool::DEADLINE_MAX,
};

use super::servers::Entry;
use crate::secret::Secret;

/// Settings of Skep.
#[derive(Debug, Default, Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "skep.toml")]
pub(super) struct File {
    /// State directory: database, runs and their outputs. Default: ~/.local/share/skep.
    pub(super) home: Option<PathBuf>,
    /// sqlite:PATH or postgresql://…. Default: skep.db in the state directory.
    pub(super) database: Option<Secret>,
    /// redis://… beside a PostgreSQL that several hubs share: what cannot be stale or may be lost. Default: none.
    pub(super) redis: Option<Secret>,
    /// Directory whose files tools may read. Default: the current one.
    pub(super) workspace: Option<PathBuf>,
    /// Places in the workspace that are shown although keys, tokens or Skep's own state are kept there, such as `~/.aws`.
    pub(super) workspace_show: Vec<PathBuf>,
    /// Hubs that `skep run` calls tools on, least loaded first; this machine if none answers. Each is an address or
    /// `unix:/path/of/hub.sock`.
    pub(super) hubs: Vec<String>,
    /// What callers of `skep serve` must send, and what is sent to hubs. Better in a file of its own, or in SKEP_TOKEN.
    pub(super) token: Option<Secret>,
    /// File with the token.
    pub(super) token_file: Option<PathBuf>,
    /// The HTTP listener.
    #[garde(dive)]
    pub(super) serve: Serve,
    /// Swarms.
    #[garde(dive)]
    pub(super) run: Run,
    /// What agents share.
    pub(super) shared: Shared,
    /// Which tools there are.
    #[garde(dive)]
    pub(super) tools: Tools,
    /// Where the web and X are searched.
    pub(super) search: search::Settings,
    /// What generated code may use.
    pub(super) code: Policy,
    /// How commands are kept in.
    pub(super) sandbox: SandboxSettings,
    /// Requests to addresses that callers choose (`fetch_url`, `http_request`).
    pub(super) web: net::Settings,
    /// The model that plans sentences beyond the rules, writes code and answers `ai`. Without it the rest works.
    #[garde(dive)]
    pub(super) model: model::Settings,
    /// MCP servers, by name, in the form that MCP clients have them.
    #[serde(rename = "mcpServers")]
    #[garde(dive)]
    pub(super) mcp_servers: BTreeMap<String, Entry>,
    /// The log.
    pub(super) log: Log,
}

/// The HTTP listener (`skep serve`).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields, default)]
pub struct Serve {
    /// Addresses to listen on. Default: 127.0.0.1:8000. Others than this machine's own need a token.
    #[garde(custom(are_addresses))]
    pub bind: Vec<String>,
    /// Addresses for JSON-RPC in lines. Default: 127.0.0.1:9500, if it is free; an empty list is for none.
    #[garde(custom(are_addresses_if_any))]
    pub tcp: Option<Vec<String>>,
    /// Where the Unix socket is that this user's programs reach the hub by, without a token; `none` for no socket. Default:
    /// hub.sock in the state directory.
    pub unix: Option<PathBuf>,
    /// Whether every user of this machine may call a hub without a token. Default: false; only this user and root may.
    pub allow_local_users: Option<bool>,
    /// Whether tools of MCP servers are called `server__tool` over MCP. Without it, which is for exactly one server, they
    /// keep their own names, and Skep's tools are not served along. Default: true.
    pub prefix: Option<bool>,
    /// Tokens of callers that are to be told apart, by their names: `ann = "${ANN_TOKEN}"`. Each has sessions and tasks of its
    /// own. Only who knows the hub's own token, beside these, may change its MCP servers.
    pub tokens: BTreeMap<String, Secret>,
    /// File with the certificate that callers are shown, and those above it, in PEM form: TLS at every listener. Needs `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// File with the certificate's private key, in PEM form.
    pub tls_key: Option<PathBuf>,
    /// Names by which callers may address this hub, besides localhost and the addresses themselves.
    pub allowed_hosts: Vec<String>,
    /// Web pages that may call this hub, such as `https://console.example`.
    pub allowed_origins: Vec<String>,
    /// Size of a request's body. Default: 10M.
    #[garde(custom(is_not_empty))]
    #[schemars(extend("minimum" = 1))]
    pub body_bytes_max: Option<Size>,
    /// Calls that run at once.
    #[garde(range(min = 1))]
    pub calls_at_once: Option<usize>,
    /// Calls that wait; one more is refused.
    pub calls_waiting_max: Option<usize>,
    /// The part of what all callers share (large messages, and calls that run, wait for their turn, are under way at MCP servers, or
    /// wait for input) that one of `tokens` may take alone. Default: 0.25.
    #[garde(range(min = 0.0001, max = 1.0))]
    pub principal_share: Option<f64>,
    /// Connections that are open at once, at all listeners together. Default: 8192.
    #[garde(range(min = 1))]
    pub connections_max: Option<usize>,
    /// A connection that has not sent the whole head of a request so long after it was opened or last answered is closed.
    /// Default: 30s.
    pub head_time_max: Option<Span>,
    /// Time for a body to arrive after its head, and for a line after its first byte. Default: 30s.
    pub body_time_max: Option<Span>,
    /// A connection that takes nothing of its answer for so long is closed. Default: 30s.
    pub write_time_max: Option<Span>,
    /// MCP sessions that are kept; of more, the one that idles longest makes room. Default: 10000.
    #[garde(range(min = 1))]
    pub sessions_max: Option<usize>,
    /// An MCP session that nobody used for so long is forgotten. Default: 1h.
    pub session_idle_max: Option<Span>,
    /// Requests that one connection with lines may send each second; 0 for as many as it likes. Default: 100.
    pub requests_per_second_max: Option<u32>,
    /// MCP calls that run longer become tasks, for callers that take such. Default: 1500ms.
    pub task_after: Option<Span>,
    /// Time that running calls get to end when the hub stops. Default: 30s.
    pub drain_time: Option<Span>,
    /// Directories of this machine that are workspaces, by their tasks: `site = "/srv/site"`. What is written in such a
    /// workspace appears in the directory, and what is changed there by any program becomes a revision.
    pub directories: BTreeMap<String, PathBuf>,
}

/// Whether each is one that can be listened on, as far as that can be told without asking anybody.
fn are_addresses(addresses: &[String], _: &()) -> garde::Result {
    let is_address = |text: &String| {
        let parts = text.rsplit_once(':');
        parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    match addresses.iter().find(|address| !is_address(address)) {
        None => Ok(()),
        Some(wrong) => {
            let wrong = shorten(wrong, ADDRESS_CHARS_SHOWN);
            Err(garde::Error::new(format!("{wrong:?} is no ADDRESS:PORT, such as 127.0.0.1:8000")))
        }
    }
}

fn are_addresses_if_any(addresses: &Option<Vec<String>>, context: &()) -> garde::Result {
    addresses.as_ref().map_or(Ok(()), |addresses| are_addresses(addresses, context))
}

/// Characters of an address that are shown.
const ADDRESS_CHARS_SHOWN: usize = 100;

/// Whether a call may take so long.
pub(crate) fn is_call_time(time: &Span) -> Result<(), String> {
    match time.0 {
        Duration::ZERO => Err("must be more than 0s".to_owned()),
        time if time > DEADLINE_MAX => Err(format!("a call may take at most {}", Span(DEADLINE_MAX))),
        _ => Ok(()),
    }
}

fn is_call_time_if_any(time: &Option<Span>, _: &()) -> garde::Result {
    time.as_ref().map_or(Ok(()), |time| is_call_time(time).map_err(garde::Error::new))
}

fn is_not_empty(size: &Option<Size>, _: &()) -> garde::Result {
    match size {
        Some(Size { bytes: 0 }) => Err(garde::Error::new("must be at least 1")),
        _ => Ok(()),
    }
}

/// Swarms (`skep run`).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Actors that work side by side. Default: 4.
    #[garde(range(min = 1, max = AGENTS_MAX))]
    pub actors: Option<u32>,
    /// Observers that work side by side. Default: 2.
    #[garde(range(min = 1, max = AGENTS_MAX))]
    pub observers: Option<u32>,
    /// How much is kept of runs that are over.
    pub keep: KeptRuns,
}

/// How much is kept of runs that are over: older ones are deleted when a run ends, and by `skep runs prune`. Never one that
/// somebody works on, and never the newest. 0 is for no limit.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeptRuns {
    /// How many. Default: 500.
    pub runs: Option<usize>,
    /// How long after the end; this one is for interrupted runs, too. Default: 90d.
    pub age: Option<Span>,
    /// How much they may take together, in their directories and in the database. Default: 10G.
    pub bytes: Option<Size>,
}

impl KeptRuns {
    const DEFAULT: Keep =
        Keep { runs_max: Some(500), age_max: Some(Duration::from_secs(90 * 86_400)), bytes_max: Some(10 << 30) };

    /// The limits, with the defaults filled in.
    pub(super) fn keep(&self) -> Keep {
        let runs_max = self.runs.or(Self::DEFAULT.runs_max).filter(|runs| *runs > 0);
        let age_max = self.age.map(|age| age.0).or(Self::DEFAULT.age_max).filter(|age| !age.is_zero());
        let bytes_max = self.bytes.map(|size| size.bytes).or(Self::DEFAULT.bytes_max).filter(|bytes| *bytes > 0);
        Keep { runs_max, age_max, bytes_max }
    }
}

/// What agents share.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shared {
    /// How much is kept of it.
    pub keep: KeptShared,
}

/// How much is kept of what agents share. What is over that is deleted by a hub, once an hour, and by `skep prune`. 0 is for no
/// limit.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KeptShared {
    /// Revisions of each file. The newest always is. Default: 1000.
    pub revisions: Option<u64>,
    /// How long, of revisions that are not the newest, steps, messages, and members that are away. Default: 90d.
    pub age: Option<Span>,
}

impl KeptShared {
    /// As long as runs. A file that is written every minute has its last 16 hours.
    const DEFAULT: KeepShared =
        KeepShared { revisions_max: Some(1000), age_max: Some(Duration::from_secs(90 * 86_400)) };

    /// The limits, with the defaults filled in.
    pub(super) fn keep(&self) -> KeepShared {
        let revisions_max = self.revisions.or(Self::DEFAULT.revisions_max).filter(|revisions| *revisions > 0);
        let age_max = self.age.map(|age| age.0).or(Self::DEFAULT.age_max).filter(|age| !age.is_zero());
        KeepShared { revisions_max, age_max }
    }
}

/// Which tools there are.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields, default)]
pub struct Tools {
    /// Only these, if any is named.
    pub allow: Vec<String>,
    /// Not these.
    pub deny: Vec<String>,
    /// Whether there is `search_tools`, and MCP clients see the tools of MCP servers only through it. They are called by their
    /// names all the same. Default: false.
    pub search: bool,
    /// How long a call may take, unless the caller says otherwise. Default: the tool's own deadline, mostly 10s.
    #[garde(custom(is_call_time_if_any))]
    pub timeout: Option<Span>,
}

/// The log, on standard error.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What is logged: error, warn, info, debug or trace, or a filter such as `warn,skep=debug`. Default: warn.
    pub level: Option<String>,
    /// How.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The schema that files and the environment are checked by.
pub(crate) fn schema() -> &'static Schema {
    static SCHEMA: Schema = Schema::of::<File>();
    &SCHEMA
}

/// The JSON Schema of `skep.toml`, for editors.
pub fn json_schema() -> &'static Value {
    schema().json()
}
