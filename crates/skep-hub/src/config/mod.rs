//! The settings: files, the environment, and flags; the later one wins.
//!
//! A file that is named (`--config`) is the only one. Otherwise there are the user's own and, below it, one that is found in
//! the current directory, which may be anybody's: `found.rs` says what it may set, `trust.rs` which ones the user trusts.
//!
//! A file is `skep.toml` (`file.rs` has its form) or the `mcp-config.yaml` of an older design (`legacy.rs`). The environment
//! is a second, smaller file: each variable in [`VARIABLES`] stands for one key. Flags are a third (`flags.rs`). All are
//! checked by the same schema before they are put together, so they have the same limits, and an error names the file, line
//! and key, the variable, or the flag. Settings of a tool are declared where the tool is; `file.rs` only composes them.

mod environment;
mod file;
mod flags;
mod found;
mod legacy;
pub mod servers;
pub mod trust;

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use skep_core::retention::{Keep, KeepShared};
use skep_tools::{
    code::Policy,
    document::{self, Diagnostic, Document},
    model, net,
    parts::BuiltIns,
    sandboxed::Settings as SandboxSettings,
    search,
    value::{self, dotted},
};

pub(crate) use self::file::is_call_time;
#[cfg(test)]
pub(crate) use self::file::schema;
use self::servers::Upstream;
pub use self::{
    environment::{VARIABLES, Variable},
    file::{Log, LogFormat, Run, Serve, Tools, json_schema},
    flags::Overrides,
    found::Found,
};
use crate::secret::Secret;

/// File name of the settings, here and in the configuration directory.
pub const FILE: &str = "skep.toml";
/// The key of the MCP servers.
const SERVERS: &str = "/mcpServers";
/// The key of the tokens of callers.
const TOKENS: &str = "/serve/tokens";
/// The key of the tools that are not to be had.
const DENY: &str = "/tools/deny";
/// Bytes of a token's file.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Agents of each role, unless somebody says otherwise.
const AGENTS: Agents = Agents { actors: 4, observers: 2 };

/// Agents of each role, where a plan does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agents {
    /// Those that call tools.
    pub actors: u32,
    /// Those that look at screens, images and files.
    pub observers: u32,
}

/// Everything that can be set, with its defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The built-in tools, which the program brings.
    pub built_in: BuiltIns,
    /// The state directory.
    pub home: PathBuf,
    /// Address of the database; `None` for the embedded one in the state directory. May hold a password.
    pub database: Option<Secret>,
    /// Address of Redis beside the database, if there is one. May hold a password.
    pub redis: Option<Secret>,
    /// The directory whose files tools may read.
    pub workspace: PathBuf,
    /// Places in it that are shown although they are hidden as a rule.
    pub workspace_show: Vec<PathBuf>,
    /// Hubs that tools are called on.
    pub hubs: Vec<String>,
    /// What callers of this hub must know, and what this program tells the hubs that it calls; or why it cannot be read. A
    /// command that needs no token does without.
    token: Result<Option<Secret>, Diagnostic>,
    /// Why callers cannot be told apart by [`Serve::tokens`], if so.
    bad_tokens: Vec<Diagnostic>,
    /// The HTTP listener; what is not set is left to it.
    pub serve: Serve,
    /// Agents of each role, where a plan does not say.
    pub agents: Agents,
    /// How much is kept of runs that are over.
    pub keep: Keep,
    /// How much is kept of what agents share.
    pub keep_shared: KeepShared,
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
    /// Those of them that may hold tokens and keys: all but one that was found and is not trusted.
    pub files_with_secrets: Vec<PathBuf>,
    /// The file that [`Settings::token`] is from.
    pub token_file: Option<PathBuf>,
    /// The log.
    pub log: Log,
}

/// The settings cannot be used: every fault.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:{}", .0.iter().map(|fault| format!("\n  {fault}")).collect::<String>())]
pub struct BadSettings(pub Vec<Diagnostic>);

impl BadSettings {
    /// Whether it is the command line that has to be mended.
    pub fn is_usage(&self) -> bool {
        self.0.iter().all(|fault| fault.file == flags::SOURCE)
    }
}

impl Settings {
    /// The settings of this process: the files, the environment, and the flags. The notices are for the user: what has no
    /// effect.
    pub fn load(file: Option<&Path>, flags: Overrides) -> Result<(Settings, Vec<Diagnostic>), BadSettings> {
        if file.is_some() {
            return Settings::resolve(file, variable, flags);
        }
        let own = own_file(variable).filter(|path| path.is_file());
        let (settings, notices) = Settings::resolve(own.as_deref(), variable, flags.clone())?;
        let Some(found) = found_file(own.as_deref()) else { return Ok((settings, notices)) };
        let (below, more) = found::source(found, &settings.home, variable);
        let above = own.as_deref().map(|path| Source::read(path, variable));
        let (settings, notices) = Settings::put_together(below, above, variable, flags)?;
        Ok((settings, more.into_iter().chain(notices).collect()))
    }

    /// Those of one file at most, without touching the process's environment.
    pub fn resolve(
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
        flags: Overrides,
    ) -> Result<(Settings, Vec<Diagnostic>), BadSettings> {
        let file = file.map(|path| Source::read(path, &variable));
        Settings::put_together(Source::default(), file, variable, flags)
    }

    fn put_together(
        mut source: Source,
        above: Option<Source>,
        variable: impl Fn(&str) -> Option<String>,
        flags: Overrides,
    ) -> Result<(Settings, Vec<Diagnostic>), BadSettings> {
        if let Some(above) = above {
            source.put_below(above);
        }
        let mut problems = std::mem::take(&mut source.problems);
        for (layer, faults) in [environment::read(&variable), flags::read(&flags)] {
            problems.extend(faults);
            merge(&mut source.value, layer);
        }
        let more = match &flags.mcp_config {
            Some(path) => servers::read(path, &variable),
            None => servers::Listed::default(),
        };
        problems.extend(more.problems);
        if problems.iter().any(Diagnostic::is_error) {
            return Err(BadSettings(problems));
        }
        source.files.extend(flags.mcp_config.clone());
        source.with_secrets.extend(flags.mcp_config.clone());
        let name = source.files.first().map_or("environment".to_owned(), |path| path.display().to_string());
        let file: file::File = value::read(&source.value).map_err(|(pointer, message)| {
            BadSettings(vec![Diagnostic { key: dotted(&pointer), ..Diagnostic::of_file(name, message) }])
        })?;
        let mut settings = fill_in(file, source, &variable, flags).map_err(|fault| BadSettings(vec![fault]))?;
        settings.upstreams.retain(|one| more.servers.iter().all(|other| other.name != one.name));
        settings.upstreams.extend(more.servers);
        Ok((settings, problems))
    }

    /// The defaults, for a command that goes on although the settings cannot be used.
    pub fn without_files(flags: Overrides) -> Result<Settings, BadSettings> {
        let place = |name: &str| variable(name).filter(|_| matches!(name, "HOME" | "XDG_DATA_HOME"));
        Ok(Settings::resolve(None, place, Overrides { home: flags.home, ..Overrides::default() })?.0)
    }

    /// What callers of this hub must know, and what this program tells the hubs that it calls.
    pub fn token(&self) -> Result<Option<&Secret>, BadSettings> {
        self.token.as_ref().map(Option::as_ref).map_err(|fault| BadSettings(vec![fault.clone()]))
    }

    /// What each of the callers that are told apart must send.
    pub fn tokens_of_callers(&self) -> Result<&BTreeMap<String, Secret>, BadSettings> {
        match self.bad_tokens.as_slice() {
            [] => Ok(&self.serve.tokens),
            faults => Err(BadSettings(faults.to_vec())),
        }
    }

    /// How long a call of any tool may take, if the settings say.
    pub fn tool_deadline(&self) -> Option<Duration> {
        self.tools.timeout.map(|timeout| timeout.0)
    }
}

/// Every fault of a file of settings, for `skep check`.
pub fn check(path: &Path) -> Vec<Diagnostic> {
    let Source { problems, notices, bad_tokens, .. } = Source::read(path, variable);
    problems.into_iter().chain(bad_tokens).chain(notices).collect()
}

/// The state directory, whatever a file in the current directory says.
pub fn home_without_found(file: Option<&Path>, flags: Overrides) -> Result<PathBuf, BadSettings> {
    let own = own_file(variable).filter(|path| path.is_file());
    Ok(Settings::resolve(file.or(own.as_deref()), variable, flags)?.0.home)
}

/// A variable of this process's environment. An empty one is as good as none.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// What a file says.
#[derive(Default)]
struct Source {
    /// The file, and those below it.
    files: Vec<PathBuf>,
    /// See [`Settings::files_with_secrets`].
    with_secrets: Vec<PathBuf>,
    /// Its settings, in the form of `skep.toml`. After an error they are of no use.
    value: Value,
    problems: Vec<Diagnostic>,
    /// Why MCP servers cannot be used, by their names: told where somebody wants to use them.
    unusable: BTreeMap<String, String>,
    /// The same, and where it stands.
    notices: Vec<Diagnostic>,
    /// Tokens of callers that are not there: told where somebody wants to serve.
    bad_tokens: Vec<Diagnostic>,
}

impl Source {
    fn faulty(path: &Path, problems: Vec<Diagnostic>) -> Source {
        let files = vec![path.to_owned()];
        Source { with_secrets: files.clone(), files, problems, ..Source::default() }
    }

    /// What this file says.
    fn read(path: &Path, variable: impl Fn(&str) -> Option<String>) -> Source {
        match Document::read(path) {
            Ok(document) => Source::of(path, document, variable),
            Err(problems) => Source::faulty(path, problems),
        }
    }

    /// What this document says, which is the file at `path`.
    fn of(path: &Path, mut document: Document, variable: impl Fn(&str) -> Option<String>) -> Source {
        let mut source = Source::faulty(path, Vec::new());
        if legacy::is_one(&document.value) {
            (source.value, source.problems) = legacy::read(&document);
            return source;
        }
        source.problems = document.validate(file::schema());
        if source.problems.is_empty()
            && let Some(table) = document.value.pointer_mut(SERVERS)
        {
            let prepared = servers::prepare(table, &variable);
            source.unusable = prepared.reasons();
            (source.notices, source.problems) =
                prepared.problems(&document, SERVERS).into_iter().partition(|one| !one.is_error());
        }
        if source.problems.is_empty()
            && let Some(tokens) = document.value.pointer_mut(TOKENS)
        {
            let mut unexpanded = servers::Unexpanded::default();
            servers::expand(tokens, TOKENS, &variable, &mut unexpanded);
            let place = |(pointer, message): (String, String)| document.problem(&pointer, message);
            source.problems.extend(unexpanded.faults.into_iter().map(place));
            source.bad_tokens.extend(unexpanded.missing.into_iter().map(place));
        }
        if source.problems.is_empty() {
            source.problems.extend(document.deserialise::<file::File>().err());
        }
        source.value = document.value;
        source
    }

    /// Lay another file over this one. Its servers take the place of those with the same names, and tools are denied by
    /// either.
    fn put_below(&mut self, above: Source) {
        let names = |value: &Value| value.pointer(SERVERS).and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, _) in names(&above.value) {
            self.unusable.remove(&name);
            if let Some(servers) = self.value.pointer_mut(SERVERS).and_then(Value::as_object_mut) {
                servers.shift_remove(&name);
            }
        }
        let denied = |value: &Value| value.pointer(DENY).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut all_denied = denied(&above.value);
        let more = denied(&self.value).into_iter().filter(|name| !all_denied.contains(name)).collect::<Vec<_>>();
        all_denied.extend(more);
        merge(&mut self.value, above.value);
        if let Some(deny) = self.value.pointer_mut(DENY) {
            *deny = all_denied.into();
        }
        self.files.extend(above.files);
        self.with_secrets.extend(above.with_secrets);
        self.problems.extend(above.problems);
        self.unusable.extend(above.unusable);
        self.notices.extend(above.notices);
        self.bad_tokens.extend(above.bad_tokens);
    }
}

/// The user's own file.
fn own_file(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let user = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let user = user.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")));
    user.map(|user| user.join("skep").join(FILE))
}

/// A file in the current directory, unless it is the user's own.
fn found_file(own: Option<&Path>) -> Option<&'static Path> {
    let path = Path::new(FILE);
    let is_own = || own.is_some_and(|own| own.canonicalize().ok() == path.canonicalize().ok());
    (path.is_file() && !is_own()).then_some(path)
}

/// Lay one value over another: tables are put together, all else is replaced.
fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (_, Value::Null) => {}
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
    source: Source,
    variable: impl Fn(&str) -> Option<String>,
    flags: Overrides,
) -> Result<Settings, Diagnostic> {
    let file::File {
        home,
        database,
        redis,
        workspace,
        workspace_show,
        hubs,
        token,
        token_file,
        mut serve,
        run,
        shared,
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
    serve.unix = flags.unix.or(serve.unix);
    serve.directories.extend(flags.directories);
    let token_file = flags.token_file.or(token_file);
    let token = match &token_file {
        Some(path) => read_token(path).map(Some),
        None => Ok(token),
    };
    Ok(Settings {
        built_in: flags.built_in.unwrap_or(|_| Vec::new()),
        home,
        database,
        redis,
        workspace: flags.workspace.or(workspace).unwrap_or_else(|| PathBuf::from(".")),
        workspace_show,
        hubs,
        token,
        bad_tokens: source.bad_tokens,
        serve,
        agents: Agents {
            actors: run.actors.unwrap_or(AGENTS.actors),
            observers: run.observers.unwrap_or(AGENTS.observers),
        },
        keep: run.keep.keep(),
        keep_shared: shared.keep.keep(),
        tools,
        search,
        code,
        sandbox,
        web,
        model,
        upstreams: servers::upstreams(mcp_servers, &source.unusable),
        files: source.files,
        files_with_secrets: source.with_secrets,
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

/// The token in a file.
pub(crate) fn read_token(path: &Path) -> Result<Secret, Diagnostic> {
    let fault = |why: String| Diagnostic {
        key: "token_file".to_owned(),
        ..Diagnostic::of_file(path.display().to_string(), format!("the token {why}"))
    };
    let bytes = document::read_bytes(path, TOKEN_BYTES_MAX).map_err(fault)?;
    let text = String::from_utf8(bytes).map_err(|_| fault("is not text in UTF-8".to_owned()))?;
    Ok(Secret::new(text.trim()))
}

#[cfg(test)]
mod tests;
