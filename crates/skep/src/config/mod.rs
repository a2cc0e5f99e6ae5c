//! The settings: a file, the environment, and flags; the later one wins.
//!
//! The file is `skep.toml` (`file.rs` has its form) or the `mcp-config.yaml` of an older design (`legacy.rs`). The
//! environment is a second, smaller file: each variable in [`VARIABLES`] stands for one key. Both are checked by the
//! same schema before they are put together, so an error names the file, line and key, or the variable. Settings of a
//! tool are declared where the tool is; `file.rs` only composes them.

mod environment;
mod file;
mod legacy;
mod secret;

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use skep_core::retention::Keep;

#[cfg(test)]
pub(crate) use self::file::schema;
pub use self::{
    environment::{VARIABLES, Variable},
    file::{Log, LogFormat, Run, Serve, Tools, json_schema},
    secret::Secret,
};
use crate::{
    document::{self, Diagnostic, Document, Format, dotted},
    model, net,
    run::Agents,
    tools::{SandboxSettings, code::Policy, search},
    upstreams::{self, Upstream},
};

/// File name of the settings, here and in the configuration directory.
const FILE: &str = "skep.toml";
/// Keys that count only in a file that the user named, or in the user's own.
const FOR_NAMED_FILES: [&str; 17] = [
    "/sandbox/accept",
    "/sandbox/container",
    "/hubs",
    "/database",
    "/home",
    "/model/base_url",
    "/model/api_key_env",
    "/search",
    "/web/allow_hosts",
    SERVERS,
    TOKENS,
    "/serve/bind",
    "/serve/tcp",
    "/serve/allowed_hosts",
    "/serve/allowed_origins",
    "/serve/tls_cert",
    "/serve/tls_key",
];
/// The key of the MCP servers.
const SERVERS: &str = "/mcpServers";
/// The key of the tokens of callers.
const TOKENS: &str = "/serve/tokens";
/// Bytes of a token's file.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Agents of each role, unless somebody says otherwise.
const AGENTS: Agents = Agents { actors: 4, observers: 2 };

/// Everything that can be set, with its defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The state directory.
    pub home: PathBuf,
    /// Address of the database; `None` for the embedded one in the state directory. May hold a password.
    pub database: Option<Secret>,
    /// The directory whose files tools may read.
    pub workspace: PathBuf,
    /// Hubs that tools are called on.
    pub hubs: Vec<String>,
    /// What callers of this hub must know, and what this program tells the hubs that it calls.
    pub token: Option<Secret>,
    /// The HTTP door; what is not set is left to it.
    pub serve: Serve,
    /// Agents of each role, where a plan does not say.
    pub agents: Agents,
    /// How much is kept of runs that are over.
    pub keep: Keep,
    /// Which tools there are.
    pub tools: Tools,
    /// Where the web and X are searched.
    pub search: search::Settings,
    /// What generated code may use.
    pub code: Policy,
    /// How commands are kept in.
    pub sandbox: SandboxSettings,
    /// Requests to addresses that callers choose.
    pub web: net::Settings,
    /// The model, if there is one.
    pub model: model::Settings,
    /// The MCP servers behind this hub.
    pub upstreams: Vec<Upstream>,
    /// The files that these settings are from.
    pub files: Vec<PathBuf>,
    /// The file that [`Settings::token`] is from.
    pub token_file: Option<PathBuf>,
    /// The log.
    pub log: Log,
}

/// What flags say; on top of all else.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// See [`Settings::home`].
    pub home: Option<PathBuf>,
    /// See [`Settings::database`].
    pub database: Option<String>,
    /// See [`Settings::workspace`].
    pub workspace: Option<PathBuf>,
    /// See [`Settings::hubs`].
    pub hubs: Vec<String>,
    /// See [`Serve::bind`].
    pub bind: Vec<String>,
    /// See [`Serve::tcp`].
    pub tcp: Vec<String>,
    /// See [`Serve::prefix`].
    pub prefix: Option<bool>,
    /// File with the token.
    pub token_file: Option<PathBuf>,
    /// See [`Settings::agents`].
    pub actors: Option<u32>,
    /// See [`Settings::agents`].
    pub observers: Option<u32>,
    /// File of an MCP client whose servers are added to [`Settings::upstreams`].
    pub mcp_config: Option<PathBuf>,
}

/// The settings cannot be used: every fault.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:{}", .0.iter().map(|fault| format!("\n  {fault}")).collect::<String>())]
pub struct BadSettings(pub Vec<Diagnostic>);

impl Settings {
    /// The settings of this process: the file that is named or found, the environment, and the flags. The notices are
    /// for the user: what in the file has no effect.
    pub fn load(file: Option<&Path>, flags: Overrides) -> Result<(Settings, Vec<Diagnostic>), BadSettings> {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let found = match file {
            Some(_) => None,
            None => find(variable),
        };
        let strange = found.as_deref().map_or(Vec::new(), |path| strange(path, &read(path, variable).value));
        if !strange.is_empty() {
            return Err(BadSettings(strange));
        }
        Settings::resolve(file.or(found.as_deref()), variable, flags)
    }

    /// The same, without touching the process's environment.
    pub fn resolve(
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
        flags: Overrides,
    ) -> Result<(Settings, Vec<Diagnostic>), BadSettings> {
        let Source { mut value, mut problems, servers } = match file {
            Some(path) => read(path, &variable),
            None => Source::of(Value::Object(Default::default())),
        };
        let (above, faults) = environment::read(&variable);
        problems.extend(faults);
        let mcp_config = flags.mcp_config.clone();
        let files = file.map(Path::to_owned).into_iter().chain(mcp_config.clone()).collect();
        let (more_servers, faults) = match &mcp_config {
            Some(path) => upstreams::config::read(path, &variable),
            None => (Vec::new(), Vec::new()),
        };
        problems.extend(faults);
        if problems.iter().any(Diagnostic::is_error) {
            return Err(BadSettings(problems));
        }
        merge(&mut value, above);
        let name = file.map_or("environment".to_owned(), |path| path.display().to_string());
        let file: file::File = document::read(&value).map_err(|(pointer, message)| {
            BadSettings(vec![Diagnostic { key: dotted(&pointer), ..Diagnostic::of_file(&name, message) }])
        })?;
        let mut settings =
            fill_in(file, &servers.reasons, &variable, flags).map_err(|fault| BadSettings(vec![fault]))?;
        settings.upstreams.retain(|one| more_servers.iter().all(|other| other.name != one.name));
        settings.upstreams.extend(more_servers);
        settings.files = files;
        Ok((settings, problems))
    }

    /// How long a call of any tool may take, if the settings say.
    pub fn tool_deadline(&self) -> Option<Duration> {
        self.tools.timeout.map(|timeout| timeout.0)
    }
}

/// Every fault of a file of settings, for `skep check`.
pub fn check(path: &Path) -> Vec<Diagnostic> {
    let Source { problems, servers, .. } = read(path, |name| env::var(name).ok());
    problems.into_iter().chain(servers.notices).collect()
}

/// What a file says.
struct Source {
    /// Its settings, in the form of `skep.toml`. After an error they are of no use.
    value: Value,
    problems: Vec<Diagnostic>,
    servers: Unusable,
}

/// The MCP servers of a file that cannot be used: no fault of the file, and told where somebody wants to use them.
#[derive(Default)]
struct Unusable {
    reasons: BTreeMap<String, String>,
    notices: Vec<Diagnostic>,
}

impl Source {
    fn of(value: Value) -> Source {
        Source { value, problems: Vec::new(), servers: Unusable::default() }
    }

    fn faulty(problems: Vec<Diagnostic>) -> Source {
        Source { problems, ..Source::of(Value::Null) }
    }
}

/// What the file says.
fn read(path: &Path, variable: impl Fn(&str) -> Option<String>) -> Source {
    let mut document = match Document::read(path) {
        Ok(document) => document,
        Err(problems) => return Source::faulty(problems),
    };
    if Format::of(path) != Format::Toml {
        let (value, problems) = legacy::read(&document);
        return Source { problems, ..Source::of(value) };
    }
    let mut problems = document.validate(file::schema());
    let mut servers = Unusable::default();
    if problems.is_empty()
        && let Some(table) = document.value.pointer_mut(SERVERS)
    {
        let prepared = upstreams::config::prepare(table, &variable);
        servers.reasons = prepared.reasons();
        (servers.notices, problems) =
            prepared.problems(&document, SERVERS).into_iter().partition(|one| !one.is_error());
    }
    if problems.is_empty()
        && let Some(tokens) = document.value.pointer_mut(TOKENS)
    {
        let mut unexpanded = upstreams::config::Unexpanded::default();
        upstreams::config::expand(tokens, TOKENS, &variable, &mut unexpanded);
        let faults = unexpanded.faults.into_iter().chain(unexpanded.missing);
        problems.extend(faults.map(|(pointer, message)| document.problem(&pointer, message)));
    }
    if problems.is_empty() {
        problems.extend(document.deserialise::<file::File>().err());
    }
    Source { value: document.value, problems, servers }
}

/// The file that nobody named: here, or in the user's configuration directory.
fn find(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let user = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let user = user.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")));
    let candidates = [Some(FILE.into()), user.map(|user| user.join("skep").join(FILE))];
    candidates.into_iter().flatten().find(|path: &PathBuf| path.is_file())
}

/// Faults of a file that was found in the current directory: it may have come with somebody else's repository, and must
/// not say where the user's keys, tokens and files are sent, or who is let in.
fn strange(path: &Path, value: &Value) -> Vec<Diagnostic> {
    if path.is_absolute() {
        return Vec::new(); // the user's own
    }
    let fault = |pointer: &&str| {
        let key = pointer.trim_start_matches('/').replace('/', ".");
        let message = "says where keys or files are sent or who is let in, and this file was found, not named";
        let help = format!("if you trust it, name it: --config {}", path.display());
        Diagnostic { key, ..Diagnostic::of_file(path.display().to_string(), message) }.help(help)
    };
    FOR_NAMED_FILES.iter().filter(|pointer| value.pointer(pointer).is_some()).map(fault).collect()
}

/// Lay one value over another: tables are put together, all else is replaced.
fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                merge(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

fn fill_in(
    file: file::File,
    unusable: &BTreeMap<String, String>,
    variable: impl Fn(&str) -> Option<String>,
    flags: Overrides,
) -> Result<Settings, Diagnostic> {
    let file::File {
        home,
        database,
        workspace,
        hubs,
        token,
        token_file,
        mut serve,
        run,
        tools,
        search,
        code,
        sandbox,
        web,
        model,
        mcp_servers,
        log,
    } = file;
    let home = match flags.home.or(home) {
        Some(home) => home,
        None => default_home(variable)?,
    };
    let token_file = flags.token_file.or(token_file);
    let token = match &token_file {
        Some(path) => Some(read_token(path)?),
        None => token,
    };
    if !flags.bind.is_empty() {
        serve.bind = flags.bind;
    }
    serve.prefix = flags.prefix.or(serve.prefix);
    if !flags.tcp.is_empty() {
        serve.tcp = Some(flags.tcp);
    }
    Ok(Settings {
        home,
        database: flags.database.map(Secret::new).or(database),
        workspace: flags.workspace.or(workspace).unwrap_or_else(|| PathBuf::from(".")),
        hubs: if flags.hubs.is_empty() { hubs } else { flags.hubs },
        token,
        serve,
        agents: Agents {
            actors: flags.actors.or(run.actors).unwrap_or(AGENTS.actors),
            observers: flags.observers.or(run.observers).unwrap_or(AGENTS.observers),
        },
        keep: run.keep.keep(),
        tools,
        search,
        code,
        sandbox,
        web,
        model,
        upstreams: upstreams::config::upstreams(mcp_servers, unusable),
        files: Vec::new(),
        token_file,
        log,
    })
}

fn default_home(variable: impl Fn(&str) -> Option<String>) -> Result<PathBuf, Diagnostic> {
    let data = variable("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".local/share")));
    let problem = || Diagnostic::of_file("environment", "neither SKEP_HOME nor HOME says where to keep the state");
    data.map(|data| data.join("skep")).ok_or_else(problem)
}

fn read_token(path: &Path) -> Result<Secret, Diagnostic> {
    use std::io::Read as _;
    let mut token = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut token));
    let fault = |error: std::io::Error| {
        let message = format!("the token cannot be read: {error}");
        Diagnostic { key: "token_file".to_owned(), ..Diagnostic::of_file(path.display().to_string(), message) }
    };
    read.map_err(fault)?;
    Ok(Secret::new(token.trim()))
}

#[cfg(test)]
mod tests;
