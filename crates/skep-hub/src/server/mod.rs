//! How others reach the tools. A listener parses a request, finds out who the caller is, makes the call and writes the answer. What
//! a call passes on its way is the same for all of them ([`crate::hub::calls`]).
//!
//! This module owns what is true of every connection: where the hub listens, how many connections it keeps, how long it
//! waits for them, and how it stops. `http` is the first; its router is a table of contents. `tcp` is for
//! programs that speak JSON-RPC in lines. [`mcp`] is what the Model Context Protocol reaches on both, and on standard
//! input and output.
//!
//! **Safe by default.** The hub listens on loopback, and there answers its own user and root alone (`peer`); a wider address
//! is refused without a token; a web page is never answered unless the operator named it (`guard`). Beside the addresses
//! there is a Unix socket for that user (`unix`).
//!
//! **Stopping.** No new connections and no new calls (503, so that callers go elsewhere); what runs may end within the
//! drain time; then MCP tasks are released, for the next start or another hub, and the rest is cancelled, which kills
//! its sandboxes; then the connections are closed.

mod body;
mod calls;
mod connections;
mod cors;
mod events;
mod fast;
mod guard;
mod half;
mod health;
mod http;
pub mod mcp;
mod metrics;
mod page;
mod peer;
mod problem;
mod refusal;
mod resources;
mod rest;
#[cfg(test)]
mod rights;
mod servers;
mod tasks;
mod tcp;
mod tls;
mod tokens;
mod unix;
mod upstream_service;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

pub use guard::{BadOrigin, NeedsRestart};
pub use health::Probe;
pub use peer::check as tells_users;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use skep_core::{app::App, policy::Permit};
use skep_mcp::cancel::Cancel;
pub use tls::{BadTls, Tls};
pub use tokens::{BadTokens, NAMED_TOKENS_MAX, TOKEN_BYTES_MIN, Token, UnfitToken};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connections::{Connections, accept},
    guard::Admits,
    http::Shared,
};
use crate::hub::{
    alerts::Alerts,
    calls::{Calls, log},
    upstreams::Upstream,
};

/// Requests each second of one connection with lines, unless the operator says otherwise (contract S2).
const REQUESTS_PER_SECOND_MAX: u32 = 100;
/// Files that are kept free for everything but connections: the store, logs, sandboxes.
const FILES_RESERVED: u64 = 512;

/// How the listeners are set up. The defaults are safe.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses to listen on, `host:port`; port 0 takes a free one.
    pub bind: Vec<String>,
    /// Addresses for JSON-RPC in lines. Port 0 takes a free one.
    pub tcp: Vec<String>,
    /// The same, where an address that another program has is done without.
    pub tcp_if_free: Vec<String>,
    /// Where the Unix socket for this hub's own user is, which needs no token. Without a path there is none.
    pub unix: Option<PathBuf>,
    /// The same, where a socket that cannot be had is done without.
    pub unix_if_free: Option<PathBuf>,
    /// Whether every user of this machine is answered who reaches an address of it, if there is no token. Otherwise it is the
    /// hub's own user, and root.
    pub allow_local_users: bool,
    /// Whether tools of MCP servers are called `server__tool` over MCP; without, there must be exactly one server.
    pub prefix: bool,
    /// Whether tools of MCP servers are not listed over MCP, but found by `search_tools`.
    pub searches_tools: bool,
    /// What the operator knows, and callers that nobody tells apart. Without any token only loopback addresses may be
    /// listened on.
    pub token: Option<Token>,
    /// What other callers know, by their names: each is a principal of its own.
    pub tokens: BTreeMap<String, Token>,
    /// The certificate that callers are shown, at every listener but standard input and output. Without it nothing is encrypted.
    pub tls: Option<Tls>,
    /// Names that callers may use for this hub besides `localhost` and those it listens on. Ports do not matter.
    pub allowed_hosts: Vec<String>,
    /// Web pages that may call this hub: `https://console.example`.
    pub allowed_origins: Vec<String>,
    /// Time from the head of a request to the end of its body, and from the first byte of a line to its end.
    pub body_time_max: Duration,
    /// Connections that are open at once, at all listeners together.
    pub connections_max: usize,
    /// MCP sessions that are kept. At the limit the one that idles longest makes room; if none idles, a new one is refused.
    pub sessions_max: usize,
    /// An MCP session that nobody used for so long is forgotten.
    pub session_idle_max: Duration,
    /// Requests that are taken each second from one connection with lines, and at once after a pause (contract S2); each
    /// one more is answered with an error. `None`: as many as it sends.
    pub requests_per_second_max: Option<NonZeroU32>,
    /// A connection that has not sent the whole head of a request so long after it was opened or last answered is closed.
    pub head_time_max: Duration,
    /// A connection that takes nothing of its answer for so long is closed; and so is one that takes longer than this and the
    /// time in which it could have taken what it has at [`skep_mcp::pace::BYTES_PER_SECOND_MIN`].
    pub write_time_max: Duration,
    /// MCP calls that run longer become tasks, for callers that take such, where there is a store for them.
    pub task_after: Duration,
    /// Time that running calls get to end when the hub stops.
    pub drain_time: Duration,
}

impl Default for Options {
    fn default() -> Options {
        let (sessions_max, session_idle_max) = mcp::sessions();
        Options {
            bind: vec!["127.0.0.1:8000".to_owned()],
            tcp: Vec::new(),
            tcp_if_free: Vec::new(),
            unix: None,
            unix_if_free: None,
            allow_local_users: false,
            prefix: true,
            searches_tools: false,
            token: None,
            tokens: BTreeMap::new(),
            tls: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            body_time_max: Duration::from_secs(30),
            connections_max: 8192,
            sessions_max,
            session_idle_max,
            requests_per_second_max: NonZeroU32::new(REQUESTS_PER_SECOND_MAX),
            head_time_max: Duration::from_secs(30),
            write_time_max: Duration::from_secs(30),
            task_after: mcp::task_after(),
            drain_time: Duration::from_secs(30),
        }
    }
}

/// What the listeners serve.
pub struct Parts {
    /// What the hub is called among those that share a database.
    pub name: Arc<str>,
    /// The tools, and the steps that every call of them takes.
    pub calls: Arc<Calls>,
    /// Where agents share things, and calls are kept that outlive their request, with the right to do so. Without it no call
    /// becomes a task.
    pub store: Option<(App, Permit)>,
    /// What `GET /health` tries.
    pub probes: Vec<Probe>,
}

/// Why the hub does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It would be open to everybody.
    #[error(
        "{address} can be reached from other machines, so a token is needed: set SKEP_TOKEN to a secret of at least \
         {TOKEN_BYTES_MIN} characters (`openssl rand -hex 32` makes one), or listen on 127.0.0.1"
    )]
    NoToken {
        /// The address.
        address: SocketAddr,
    },
    /// There is nothing to listen on.
    #[error("no address to listen on is given; the default is 127.0.0.1:8000")]
    NoAddress,
    /// An address that cannot be had.
    #[error("cannot listen on {address}{}", cure(.source))]
    Bind {
        /// The address as it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A Unix socket that cannot be had.
    #[error("cannot listen on {}: {source}", .path.display())]
    Unix {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An origin that is none.
    #[error(transparent)]
    Origin(#[from] BadOrigin),
    /// Tokens that say not who the caller is.
    #[error(transparent)]
    Tokens(#[from] BadTokens),
    /// Several servers, or none, and no prefix to tell their tools apart.
    #[error(transparent)]
    NotOne(#[from] mcp::NotOne),
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another program does already; stop it or choose another port",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        io::ErrorKind::PermissionDenied => ": ports below 1024 are not for everybody; choose a higher one",
        io::ErrorKind::InvalidInput => ": an address looks like 127.0.0.1:8000",
        _ => "",
    }
}

/// How the hub ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Calls that had to be cancelled because they ran longer than the drain time.
    pub calls_cancelled: usize,
}

/// Listeners that are open but not yet served: connections wait.
pub struct Listeners {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    tcp_listeners: Vec<TcpListener>,
    unix: Option<(UnixListener, unix::Socket)>,
    hub: Arc<Shared>,
    options: Options,
}

/// What can be changed while a hub runs.
pub struct Controls {
    hub: Arc<Shared>,
    tls: Option<Tls>,
}

impl Controls {
    /// Have these MCP servers from now on. Those that are as before are left alone; calls of the others may end.
    pub async fn set_servers(&self, configs: Vec<Upstream>) -> Result<(), mcp::NotOne> {
        self.hub.mcp.set(configs).await
    }

    /// Let those in who know these tokens, and no others: connections with lines that came with another one are closed, and so
    /// are the sessions and listeners of who has none any more. Returns whether that is new.
    ///
    /// # Errors
    ///
    /// They cannot be told apart, or the hub would begin or cease to want tokens. All stays as it was.
    pub fn set_tokens(&self, own: Option<Token>, named: BTreeMap<String, Token>) -> Result<bool, NotTaken> {
        let exchanged = self.hub.guard.set_tokens(tokens::Tokens::new(own, named)?)?;
        for principal in &exchanged.gone {
            self.hub.mcp.server.revoke(principal);
            self.hub.live.revoke(principal);
        }
        Ok(exchanged.is_new)
    }

    /// Show callers this certificate from now on. Connections that are open go on.
    ///
    /// # Errors
    ///
    /// The hub would begin or cease to speak TLS. All stays as it was.
    pub fn set_tls(&self, tls: Option<&Tls>) -> Result<(), NotTaken> {
        match (&self.tls, tls) {
            (Some(shown), Some(new)) => shown.replace(new),
            (None, None) => {}
            (Some(_), None) => {
                return Err(NeedsRestart("the hub speaks TLS, and no certificate is configured any more").into());
            }
            (None, Some(_)) => {
                return Err(NeedsRestart("the hub does not speak TLS, and now it has a certificate").into());
            }
        }
        Ok(())
    }
}

/// Why a hub that runs does not take a change.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// Tokens that say not who the caller is.
    #[error(transparent)]
    Tokens(#[from] BadTokens),
    /// Only a start can do that.
    #[error(transparent)]
    NeedsRestart(#[from] NeedsRestart),
}

/// Open the listeners and serve until `shutdown` is cancelled.
pub async fn serve(options: Options, parts: Parts, shutdown: CancellationToken) -> Result<Stopped, OpenError> {
    Ok(Listeners::open(options, parts).await?.serve(shutdown).await)
}

impl Listeners {
    /// Check the options and listen.
    pub async fn open(mut options: Options, parts: Parts) -> Result<Listeners, OpenError> {
        options.connections_max = options.connections_max.min(connections_possible());
        let metrics = metrics::Metrics::install(); // first, for whoever counts
        let tokens = tokens::Tokens::new(options.token.clone(), options.tokens.clone())?;
        let has_token = !tokens.is_empty();
        let (listeners, names) = listen(&options.bind, has_token).await?;
        if listeners.is_empty() {
            return Err(OpenError::NoAddress);
        }
        let (mut tcp_listeners, _) = listen(&options.tcp, has_token).await?;
        match listen(&options.tcp_if_free, has_token).await {
            Ok((more, _)) => tcp_listeners.extend(more),
            Err(OpenError::Bind { .. }) => {}
            Err(error) => return Err(error),
        }
        let unix = listen_unix(&options)?;
        let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let hosts = names.into_iter().chain(options.allowed_hosts.clone());
        let admits = Admits::on_tcp(has_token, options.allow_local_users);
        if admits == Admits::OwnUser
            && let Err(error) = peer::check()
        {
            tracing::warn!(%error, "the kernel does not tell whose connections are, so nobody is answered but on the Unix socket");
        }
        let guard = guard::Guard::new(&addresses, hosts, &options.allowed_origins, tokens, admits)?;
        let calls = parts.calls;
        let live = events::Live::new(parts.store.as_ref().map(|(app, _)| app.clone()), calls.limits.principal_share);
        let alerts = Arc::new(Alerts::new(Arc::clone(&calls), parts.store.clone(), parts.name));
        let (app, permit) = parts.store.unzip();
        let mcp = mcp::Mcp::new(&calls, &options, app.clone(), permit)?;
        let bytes_max = calls.limits.message_bytes_max;
        let hub = Shared {
            mcp,
            bodies: body::Bodies::new(bytes_max, options.body_time_max, Arc::clone(&calls.incoming)),
            calls,
            app,
            guard,
            health: health::Health::new(parts.probes, health::CHECK_TIME_MAX),
            alerts,
            live,
            metrics,
            started: Instant::now(),
            is_tls: options.tls.is_some(),
            connections: AtomicUsize::new(0),
        };
        Ok(Listeners { listeners, addresses, tcp_listeners, unix, hub: Arc::new(hub), options })
    }

    /// Where the Unix socket is, if there is one.
    pub fn unix(&self) -> Option<&Path> {
        self.unix.as_ref().map(|(_, socket)| socket.path())
    }

    /// Where the hub listens, with the ports that were found.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where lines of JSON-RPC are taken, with the ports that were found.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        self.tcp_listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// What can be changed while the hub runs.
    pub fn controls(&self) -> Controls {
        Controls { hub: Arc::clone(&self.hub), tls: self.options.tls.clone() }
    }

    /// Answer requests until `shutdown` is cancelled, then stop as the module's documentation says.
    pub async fn serve(self, shutdown: CancellationToken) -> Stopped {
        let Listeners { listeners, tcp_listeners, unix, hub, options, .. } = self;
        let (upkeep, close, tasks) = (CancellationToken::new(), Arc::new(Cancel::default()), TaskTracker::new());
        if let Ok(metrics) = &hub.metrics {
            tasks.spawn(metrics.clone().keep_up(upkeep.clone()));
        }
        tasks.spawn(log::write_lines(Arc::clone(&hub.calls), upkeep.clone()));
        tasks.spawn(Arc::clone(&hub.alerts).keep(upkeep.clone()));
        let open = Arc::new(Semaphore::new(options.connections_max.max(1)));
        let answering =
            |admits| Connections::new(admits, Arc::clone(&hub), &options, Arc::clone(&open), Arc::clone(&close));
        let connections = Arc::new(answering(hub.guard.admits()));
        let (accepting, stop_accepting) = (TaskTracker::new(), CancellationToken::new());
        for listener in listeners {
            let connections = Arc::clone(&connections);
            let admit = move |stream| connections.admit(stream);
            accepting.spawn(accept(listener, admit, tasks.clone(), stop_accepting.clone()));
        }
        let mut unix_socket = None;
        if let Some((listener, socket)) = unix {
            let connections = Arc::new(answering(Admits::OwnUser).without_tls());
            let admit = move |stream| connections.admit(stream);
            accepting.spawn(accept(listener, admit, tasks.clone(), stop_accepting.clone()));
            unix_socket = Some(socket);
        }
        let lines = Arc::new(tcp::Lines::new(Arc::clone(&hub), &options, open));
        for listener in tcp_listeners {
            let lines = Arc::clone(&lines);
            let admit = move |stream| lines.admit(stream);
            accepting.spawn(accept(listener, admit, tasks.clone(), stop_accepting.clone()));
        }
        shutdown.cancelled().await;
        hub.calls.admission.start_draining(); // first, so that nobody is served after the listeners are gone
        hub.mcp.server.stop_waiting_for_input();
        hub.calls.log.close();
        hub.live.stop();
        stop_accepting.cancel();
        accepting.close();
        accepting.wait().await;
        drop(unix_socket); // its file goes with the last listener
        let calls_cancelled = hub.calls.admission.settle(options.drain_time).await;
        hub.mcp.server.suspend_tasks().await; // first, so that being cancelled is not taken for their end
        hub.calls.admission.drain(Duration::ZERO).await;
        upkeep.cancel();
        hub.mcp.server.stop().await; // ends streams, which would otherwise keep their connections
        hub.calls.catalogue.upstreams().close().await;
        close.cancel();
        tasks.close();
        tasks.wait().await;
        hub.live.stopped().await; // connections that were upgraded are no tasks any more
        Stopped { calls_cancelled }
    }
}

/// Listen on every address that is named, and give the names back.
async fn listen(addresses: &[String], has_token: bool) -> Result<(Vec<TcpListener>, Vec<String>), OpenError> {
    let (mut listeners, mut names) = (Vec::new(), Vec::new());
    for address in addresses {
        let bind = |source| OpenError::Bind { address: address.clone(), source };
        let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address).await.map_err(bind)?.collect();
        if let Some(&open) = resolved.iter().find(|address| !address.ip().is_loopback())
            && !has_token
        {
            return Err(OpenError::NoToken { address: open });
        }
        for address in resolved {
            listeners.push(TcpListener::bind(address).await.map_err(bind)?);
        }
        names.extend(address.rsplit_once(':').map(|(name, _)| name.to_owned()));
    }
    Ok((listeners, names))
}

/// Listen on the Unix socket, if there is to be one.
fn listen_unix(options: &Options) -> Result<Option<(UnixListener, unix::Socket)>, OpenError> {
    let open = |path: &Path| unix::open(path).map_err(|source| OpenError::Unix { path: path.to_owned(), source });
    if let Some(path) = &options.unix {
        return open(path).map(Some);
    }
    let Some(path) = &options.unix_if_free else { return Ok(None) };
    match open(path) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) => {
            tracing::warn!("there is no Unix socket: {error}");
            Ok(None)
        }
    }
}

/// Raise the soft limit of open files to the hard one, and see how many connections that leaves room for.
fn connections_possible() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = if raised.is_ok() { limit.maximum } else { limit.current };
    let possible = files.map_or(usize::MAX, |files| files.saturating_sub(FILES_RESERVED).max(1) as usize);
    tracing::debug!(?files, possible, "open files");
    possible
}
