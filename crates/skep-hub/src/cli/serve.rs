//! `skep serve`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use clap::Args;
use skep_tools::{
    document::Diagnostic,
    sandboxed::SandboxOnDemand,
    workspace::{Dir, is_home},
};

use super::{Common, say, servers::tell_unusable, stop_on_signal};
use crate::{
    config::{BadSettings, Overrides, Serve, Settings},
    hub::{self, Callers, Hub, Store, directories::Directories},
    running::{Claim, RunningHub},
    secret::Secret,
    server::{Controls, Listeners, Options, Parts, Probe, Tls, Token},
    state, worker,
};

/// Serve the tools over HTTP: MCP on /mcp and /sse, POST /process, POST /tools/{tool}, GET /tools, /health, /metrics
///
/// Listens on this machine only, unless it is given a token. Ctrl-C ends it after the calls that are under way.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  curl localhost:8000/process -d '{\"tool\": \"bash\", \"args\": {\"command\": \"echo hi\"}}'")]
pub(super) struct Arguments {
    /// Address to listen on; may be given several times [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    bind: Vec<String>,
    /// The same as --bind 127.0.0.1:N; 0 for any that is free
    #[arg(long, value_name = "N", conflicts_with = "bind")]
    port: Option<u16>,
    /// Address for JSON-RPC in lines; may be given several times [default: 127.0.0.1:9500, if it is free]
    #[arg(long, value_name = "ADDRESS:PORT")]
    tcp: Vec<String>,
    /// Unix socket for this user's own programs, which need no token there; `none` for no socket [default: hub.sock in the
    /// state directory]
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Answer every user of this machine, not only this one and root; with a token that is so in any case
    #[arg(long)]
    allow_local_users: bool,
    /// File that holds the token which clients must send (Authorization: Bearer …)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Directory whose files the tools may read [default: the current directory]
    #[arg(long, short = 'C', value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Directory that is the workspace of a task: agents and other programs change the same files, and every change has an
    /// author and can be undone. May be given several times [default for TASK: the directory's name]
    #[arg(long = "dir", value_name = "[TASK=]PATH", value_parser = directory)]
    directories: Vec<(String, PathBuf)>,
    /// File that lists MCP servers to be served along, as Claude Desktop, Cursor and VS Code write it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    /// Over MCP, leave the names of the one MCP server's tools as they are, and serve nothing else
    #[arg(long)]
    no_prefix: bool,
}

/// How often the files are looked at that the hub reads again when they have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time for directories to be released when the hub stops.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(5);
/// Where JSON-RPC in lines is taken, unless somebody says otherwise.
const TCP: &str = "127.0.0.1:9500";
/// File name of the Unix socket in the state directory.
const SOCKET: &str = "hub.sock";
/// What stands in place of its path where there is to be none.
const NO_SOCKET: &str = "none";

pub(super) async fn serve(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { mut bind, port, tcp, unix, allow_local_users, token_file, workspace, directories, .. } = arguments;
    let Arguments { mcp_config, no_prefix, .. } = arguments;
    bind.extend(port.map(|port| format!("127.0.0.1:{port}")));
    let (prefix, allow_local_users) = (no_prefix.then_some(false), allow_local_users.then_some(true));
    let overrides = Overrides {
        bind,
        tcp,
        unix,
        allow_local_users,
        token_file,
        workspace,
        directories,
        mcp_config,
        prefix,
        ..Overrides::default()
    };
    let again = common.again(&overrides);
    let settings = common.settings(overrides)?;
    let watched = Watched::new(&settings);
    let workspace = hub::workspace(&settings, &settings.workspace)?;
    state::prepare(&settings.home, hub::readers(&settings))?;
    let mut claim = claim(&settings.home);
    let outputs = hub::outputs(&settings)?;
    let options = Options { unix_if_free: own_socket(&settings, claim.is_some()), ..options(&settings)? };
    let (http, lines) = if options.tls.is_some() { ("https", "tls") } else { ("http", "tcp") };
    let wants_tcp = !options.tcp_if_free.is_empty();
    let mut described = describe(&settings, &workspace);
    tell_unusable(&settings.upstreams);
    let store = Store::open(settings).await?;
    let hub = Hub::new(&store.settings, Some(store.clone()), Callers::Others, &workspace, &outputs);
    let name = hub::name(store.home.path(), claim.is_some());
    let directories = Directories::open(&store, Arc::clone(&name))?;
    described.directories = directories.paths();
    let mut probes = probes(&store, &outputs, hub.sandbox);
    probes.extend(probe_directories(&directories));
    let mut signals = tokio::task::JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let parts = Parts { name, calls: hub.calls, store: Some((store.app.clone(), store.permit.clone())), probes };
    let listeners = Listeners::open(options, parts).await?;
    described.urls = listeners.addresses().iter().map(|address| format!("{http}://{}", from_here(*address))).collect();
    described.unix = listeners.unix().and_then(|path| std::path::absolute(path).ok());
    described.tcp = listeners.tcp_addresses().into_iter().map(|address| from_here(address).to_string()).collect();
    if let Some(claim) = &mut claim
        && let Err(error) = claim.announce(&described)
    {
        say!("skep: other commands will not find this hub, as hub.json cannot be written: {error}");
    }
    tell_addresses(&listeners, http, lines);
    tell_workspace(&described.workspace);
    if wants_tcp && listeners.tcp_addresses().is_empty() {
        say!("{TCP} is taken, so nothing listens for JSON-RPC in lines; --tcp names another address");
    }
    signals.spawn(watched.follow(listeners.controls(), again));
    let mut kept_in_step = tokio::task::JoinSet::new();
    kept_in_step.spawn(directories.run(stop.clone()));
    signals.spawn(worker::watch_over(store.app.clone(), store.permit.clone()));
    let keep = store.settings.keep_shared;
    signals.spawn(worker::keep_shared_within(store.app.clone(), store.permit.clone(), keep));
    let stopped = listeners.serve(stop).await;
    if stopped.calls_cancelled > 0 {
        say!("{} calls did not end in time and were cancelled", stopped.calls_cancelled);
    }
    // Another hub may have them at once, instead of after a while.
    let _ = tokio::time::timeout(RELEASE_TIME_MAX, kept_in_step.join_all()).await;
    signals.shutdown().await;
    drop(claim); // where the hub was is nobody's business any more
    store.app.db.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Become the hub that other commands find by this state directory. A second one serves all the same.
fn claim(home: &Path) -> Option<Claim> {
    match Claim::take(home) {
        Ok(claim) => Some(claim),
        Err(error) => {
            let source = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
            say!("skep: {error}{source}; this hub serves, but other commands will not find it");
            None
        }
    }
}

/// Say where the hub listens.
fn tell_addresses(listeners: &Listeners, http: &str, lines: &str) {
    for address in listeners.addresses() {
        say!("listening on {http}://{address}");
    }
    for address in listeners.tcp_addresses() {
        say!("listening on {lines}://{address}");
    }
    if let Some(path) = listeners.unix() {
        say!("listening on unix:{}", path.display());
    }
}

/// Say what callers can read.
fn tell_workspace(workspace: &Path) {
    say!("serving {}", workspace.display());
    let what = match workspace {
        workspace if workspace.parent().is_none() => "the whole machine",
        workspace if is_home(workspace) => "a whole home directory",
        _ => return,
    };
    say!("skep: callers can read {what}, but for keys and tokens that are kept in usual places; -C DIR serves less");
}

/// Where this user's programs find the hub, unless somebody says otherwise: one hub of a state directory has it.
fn own_socket(settings: &Settings, has_claim: bool) -> Option<PathBuf> {
    (has_claim && settings.serve.unix.is_none()).then(|| settings.home.join(SOCKET))
}

/// What other commands are told of this hub; where it listens is not known yet.
#[expect(clippy::disallowed_methods, reason = "the command line is an edge")]
fn describe(settings: &Settings, workspace: &Dir) -> RunningHub {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    RunningHub {
        pid: std::process::id(),
        started_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        urls: Vec::new(),
        tcp: Vec::new(),
        unix: None,
        workspace: workspace.path().to_owned(),
        wants_token: !matches!(settings.token(), Ok(None)) || !settings.serve.tokens.is_empty(),
        token_file: settings.token_file.as_deref().and_then(|file| std::path::absolute(file).ok()),
        directories: BTreeMap::new(),
    }
}

/// The address by which a hub that listens there is reached from this machine.
fn from_here(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The files that the hub reads again when they have changed.
struct Watched {
    /// `skep.toml`, and the file that names MCP servers.
    settings: Files,
    token: Files,
    /// The certificate and its key.
    certificate: Files,
}

/// Files, and how they looked the last time.
struct Files {
    paths: Vec<PathBuf>,
    seen: Vec<Look>,
}

/// Size, time and inode: an editor may write a file anew or put another one in its place.
type Look = Option<(u64, Option<std::time::SystemTime>, u64)>;

impl Files {
    fn new(paths: Vec<PathBuf>) -> Files {
        Files { seen: paths.iter().map(look).collect(), paths }
    }

    /// Whether one has changed since they were looked at last.
    fn have_changed(&mut self) -> bool {
        let seen: Vec<Look> = self.paths.iter().map(look).collect();
        std::mem::replace(&mut self.seen, seen) != self.seen
    }

    /// Watch these from now on. Whether they are others.
    fn are_now(&mut self, paths: Vec<PathBuf>) -> bool {
        let are_others = paths != self.paths;
        if are_others {
            *self = Files::new(paths);
        }
        are_others
    }
}

impl Watched {
    fn new(settings: &Settings) -> Watched {
        Watched {
            settings: Files::new(settings.files.clone()),
            token: Files::new(settings.token_file.iter().cloned().collect()),
            certificate: Files::new(certificate_files(settings)),
        }
    }

    /// Read again what has changed, and have the hub take it. What cannot be read or taken changes nothing.
    async fn follow(
        mut self,
        controls: Controls,
        again: impl Fn() -> Result<(Settings, Vec<Diagnostic>), BadSettings> + Send + 'static,
    ) {
        if [&self.settings, &self.token, &self.certificate].iter().all(|files| files.paths.is_empty()) {
            return;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let in_settings = self.settings.have_changed();
            let in_token = self.token.have_changed();
            let mut in_certificate = self.certificate.have_changed();
            if !(in_settings || in_token || in_certificate) {
                continue;
            }
            let settings = match again() {
                Ok((settings, notices)) => {
                    // A found file that was edited is not trusted any more, and what it set has no effect.
                    notices.iter().for_each(|notice| say!("{notice}"));
                    settings
                }
                Err(error) => {
                    say!("skep: the MCP servers, the tokens and the certificate stay as they were: {error}");
                    continue;
                }
            };
            self.token.are_now(settings.token_file.iter().cloned().collect());
            in_certificate |= self.certificate.are_now(certificate_files(&settings));
            if in_settings {
                let set = controls.set_servers(settings.upstreams.clone()).await;
                tell_unusable(&settings.upstreams);
                tell("the MCP servers", set.map(|()| true).map_err(anyhow::Error::from));
            }
            if in_settings || in_token {
                let set = || Ok(controls.set_tokens(own_token(&settings)?, named_tokens(&settings)?)?);
                tell("the tokens", set());
            }
            if in_certificate {
                let set = || controls.set_tls(tls(&settings)?.as_ref()).map_err(anyhow::Error::from);
                tell("the certificate and its key", set().map(|()| true));
            }
        }
    }
}

/// Say what came of reading something again; nothing if it is as before.
fn tell(what: &str, set: anyhow::Result<bool>) {
    match set {
        Ok(true) => say!("{what} were read again"),
        Ok(false) => {}
        Err(error) => say!("skep: {what} stay as they were: {error:#}"),
    }
}

fn certificate_files(settings: &Settings) -> Vec<PathBuf> {
    [&settings.serve.tls_cert, &settings.serve.tls_key].into_iter().flatten().cloned().collect()
}

fn look(file: &PathBuf) -> Look {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(file).ok()?;
    Some((found.len(), found.modified().ok(), found.ino()))
}

/// What `/health` tries.
fn probes(store: &Store, outputs: &Dir, sandbox: SandboxOnDemand) -> Vec<Probe> {
    let read = async |store: Store| store.app.db.runs(&store.permit.to_read(), None, 1).await;
    let (readable, redis) = (store.clone(), store.app.db.clone());
    let readable = Probe::new("store", true, move || {
        let store = readable.clone();
        async move { read(store).await.map(|_| "readable".to_owned()).map_err(|error| error.to_string()) }
    });
    vec![
        readable.of_server("postgres", store.app.db.is_postgres()),
        Probe::outputs(outputs),
        Probe::server("redis", false, move || std::future::ready(redis.redis().map(|redis| redis.is_connected))),
        Probe::sandbox(sandbox),
    ]
}

/// Whether the directories are in step with their workspaces, if there are any.
fn probe_directories(directories: &Directories) -> Option<Probe> {
    let health = Arc::new(directories.health());
    let probe = move || {
        let health = Arc::clone(&health);
        async move { health() }
    };
    (!directories.is_empty()).then(|| Probe::new("directories", false, probe))
}

/// What `--dir` says: a path, or the name of a task and a path.
fn directory(text: &str) -> Result<(String, PathBuf), String> {
    let (task, path) = match text.split_once('=') {
        Some((task, path)) if !task.contains('/') => (task.to_owned(), PathBuf::from(path)),
        _ => {
            let path = PathBuf::from(text);
            let real = path.canonicalize().map_err(|error| error.to_string())?;
            let name = real.file_name().ok_or("it has no name; give TASK=PATH")?;
            (name.to_str().ok_or("its name is not UTF-8; give TASK=PATH")?.to_owned(), path)
        }
    };
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    Ok((task, path))
}

fn own_token(settings: &Settings) -> anyhow::Result<Option<Token>> {
    Ok(settings.token()?.map(|token| Token::new(token.reveal())).transpose()?)
}

fn named_tokens(settings: &Settings) -> anyhow::Result<BTreeMap<String, Token>> {
    let named = |(name, token): (&String, &Secret)| {
        let token = Token::new(token.reveal()).with_context(|| format!("serve.tokens.{name} cannot be used"))?;
        Ok((name.clone(), token))
    };
    settings.tokens_of_callers()?.iter().map(named).collect()
}

fn tls(settings: &Settings) -> anyhow::Result<Option<Tls>> {
    match (&settings.serve.tls_cert, &settings.serve.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(Tls::read(certificate, key)?)),
        (None, None) => Ok(None),
        (Some(_), None) => {
            anyhow::bail!("serve.tls_cert needs serve.tls_key, the file with the certificate's private key")
        }
        (None, Some(_)) => anyhow::bail!("serve.tls_key needs serve.tls_cert, the file with the certificate"),
    }
}

fn options(settings: &Settings) -> anyhow::Result<Options> {
    let Serve { bind, allowed_hosts, allowed_origins, .. } = settings.serve.clone();
    let tokens = named_tokens(settings)?;
    let mut options = Options { allowed_hosts, allowed_origins, tokens, ..Options::default() };
    options.tls = tls(settings)?;
    options.token = own_token(settings)?;
    if !bind.is_empty() {
        options.bind = bind;
    }
    options.searches_tools = settings.tools.search;
    options.unix = settings.serve.unix.clone().filter(|path| path.as_os_str() != NO_SOCKET);
    options.allow_local_users = settings.serve.allow_local_users.unwrap_or(options.allow_local_users);
    options.prefix = settings.serve.prefix.unwrap_or(options.prefix);
    match &settings.serve.tcp {
        Some(addresses) => options.tcp = addresses.clone(),
        // Nobody asked for it, so another hub that has it already is no fault.
        None => options.tcp_if_free = vec![TCP.to_owned()],
    }
    let Serve { connections_max, sessions_max, requests_per_second_max, .. } = settings.serve;
    options.connections_max = connections_max.unwrap_or(options.connections_max);
    options.sessions_max = sessions_max.unwrap_or(options.sessions_max);
    options.requests_per_second_max = requests_per_second_max.map_or(options.requests_per_second_max, NonZeroU32::new);
    let Serve { head_time_max, body_time_max, write_time_max, session_idle_max, task_after, drain_time, .. } =
        settings.serve;
    for (time, place) in [
        (head_time_max, &mut options.head_time_max),
        (body_time_max, &mut options.body_time_max),
        (write_time_max, &mut options.write_time_max),
        (session_idle_max, &mut options.session_idle_max),
        (task_after, &mut options.task_after),
        (drain_time, &mut options.drain_time),
    ] {
        *place = time.map_or(*place, |time| time.0);
    }
    Ok(options)
}
