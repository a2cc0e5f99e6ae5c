//! Connections: made to the first server that can be used, checked, and set up.
//!
//! Whatever the address, the role or the database say, a session of ours makes commits durable before it says so
//! (`synchronous_commit`), sees what is committed (`read committed`), works in the schema `skep`, and ends what takes
//! too long. The `options` of the address override all but the first two.
//!
//! A connection must keep its session: settings stay set, and prepared statements stay prepared. A connection pooler
//! between (PgBouncer and the like) that hands each transaction to another session would break both in a way that shows only
//! under load, so it is found out here: each connection brings a random word among its startup options, and a server
//! that does not know the word afterwards is not the one that was connected to. What remains is whether the pooler
//! keeps its client and a session together, and that shows when two clients ask who serves them.

use std::{
    error::Error,
    future::poll_fn,
    hash::{BuildHasher, Hasher, RandomState},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tokio::{
    net::lookup_host,
    sync::{OnceCell, mpsc},
    task::spawn_blocking,
    time::timeout,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, Socket,
    config::{Host, SslMode, SslNegotiation},
    error::SqlState,
    tls::MakeTlsConnect,
};

use super::{
    IDLE_TIME_MAX, SCHEMA, STATEMENT_TIME_MAX,
    address::{Address, Mode, Target},
    is_lost,
    notices::{Heard, WAITING_MAX},
    tls,
};
use crate::db::{DbError, Doing, error::failed};

/// The oldest server that has all that Skep uses, as `server_version_num` has it.
const SERVER_VERSION_MIN: u32 = 130_000;
/// How often two clients of a pooler ask which session serves them, before they count as having one each.
const POOLER_ROUNDS: usize = 8;

/// Why the pool has no connection.
pub(in crate::db) type PoolError = managed::PoolError<DbError>;

/// A connection whose session is ours, with the statements that it has prepared.
pub(in crate::db) struct Connection {
    client: ClientWrapper,
    is_given_up: AtomicBool,
    incarnation: Option<String>,
}

impl Connection {
    /// The incarnation of the server: another one after each crash and each failover. Transaction numbers are
    /// comparable within one only. `None` if the server does not tell.
    pub(super) fn incarnation(&self) -> Option<&str> {
        self.incarnation.as_deref()
    }

    /// Do not use it again once its current users are done: the pool makes another in its place.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.client.is_closed() || self.is_given_up.load(Ordering::Relaxed)
    }
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

/// Makes connections. Clones share what they have learnt about the server.
#[derive(Clone, Debug)]
pub(in crate::db) struct Connector(Arc<Way>);

#[derive(Debug)]
struct Way {
    address: Address,
    /// Statements that make a session ours.
    settings: String,
    /// Set once a pooler was found that keeps a client and a session together.
    pooler: OnceCell<()>,
    /// Where notifications and notices of the server are sent.
    heard: Option<mpsc::Sender<Heard>>,
}

/// A connection as it was made, with nothing set.
struct Raw {
    client: ClientWrapper,
    /// The word among its startup options.
    word: String,
}

impl managed::Manager for Connector {
    type Type = Connection;
    type Error = DbError;

    async fn create(&self) -> Result<Connection, DbError> {
        let (raw, target) = self.0.connect().await?;
        let limit = self.0.address.connect_time_max;
        let set = timeout(limit, raw.client.batch_execute(&self.0.settings)).await;
        set.map_err(|_| silent(&target))?.doing("set up a connection")?;
        // There is no such table before the first migration.
        let name = "insert into incarnation default values on conflict do nothing; select id from incarnation";
        let name = timeout(limit, row(&raw.client, name)).await.map_err(|_| silent(&target))?;
        let incarnation = name.ok().and_then(|row| row.into_iter().next());
        Ok(Connection { client: raw.client, is_given_up: AtomicBool::new(false), incarnation })
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<DbError> {
        // Asking the server would cost each group a round trip, and the next statement finds out as well.
        if connection.is_given_up() { Err(RecycleError::message("the connection was lost")) } else { Ok(()) }
    }
}

impl Connector {
    pub(super) fn new(address: Address, lock_time_max: Duration) -> Connector {
        let settings = settings(lock_time_max);
        Connector(Arc::new(Way { address, settings, pooler: OnceCell::new(), heard: None }))
    }

    /// For connections that listen, with the notifications that they receive.
    pub(super) fn listening(&self) -> (Connector, mpsc::Receiver<Heard>) {
        let (heard, hear) = mpsc::channel(WAITING_MAX);
        (self.with(self.0.settings.clone(), Some(heard)), hear)
    }

    /// For connections that notify. What they commit need not be durable.
    pub(super) fn notifying(&self) -> Connector {
        self.with(format!("{}; set synchronous_commit = off", self.0.settings), None)
    }

    fn with(&self, settings: String, heard: Option<mpsc::Sender<Heard>>) -> Connector {
        let address = self.0.address.clone();
        Connector(Arc::new(Way { address, settings, pooler: OnceCell::new(), heard }))
    }
}

impl Way {
    /// Connect to the first host that logs us in and accepts writes. If none does, return the most specific error.
    async fn connect(&self) -> Result<(Raw, Target), DbError> {
        let mut failure = None;
        for host in &self.address.hosts {
            let addresses = match self.addresses(host).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            for target in addresses {
                let usable = async {
                    let raw = self.connect_to(&target).await?;
                    self.look(&raw, &target).await?;
                    Ok(raw)
                };
                match timeout(self.address.connect_time_max, usable).await.unwrap_or_else(|_| Err(silent(&target))) {
                    Ok(raw) => return Ok((raw, target)),
                    // One that answered knows better than one that did not.
                    Err(error) if matches!(failure, None | Some(DbError::Unreachable(_))) => failure = Some(error),
                    Err(_) => {}
                }
            }
        }
        Err(failure.unwrap_or_else(|| DbError::unreachable("its name has no address".to_owned())))
    }

    /// The addresses of a host, each to be tried.
    async fn addresses(&self, host: &Target) -> Result<Vec<Target>, DbError> {
        let (Host::Tcp(name), None) = (&host.host, host.ip) else { return Ok(vec![host.clone()]) };
        let found = timeout(self.address.connect_time_max, lookup_host((name.as_str(), host.port))).await;
        let found = found.map_err(|_| silent(host))?;
        let found = found.map_err(|error| DbError::unreachable(format!("the name {name} has no address: {error}")))?;
        Ok(found.map(|address| Target { ip: Some(address.ip()), ..host.clone() }).collect())
    }

    /// Connect in the ways that `sslmode` allows, one after the other.
    async fn connect_to(&self, target: &Target) -> Result<Raw, DbError> {
        let ways: &[SslMode] = match (&target.host, self.address.tls.mode) {
            // A server does no TLS there, nor need it.
            (Host::Unix(_), _) | (_, Mode::Disable) => &[SslMode::Disable],
            (_, Mode::Allow) => &[SslMode::Disable, SslMode::Require],
            (_, Mode::Prefer) => &[SslMode::Prefer, SslMode::Disable],
            (_, Mode::Require | Mode::VerifyCa | Mode::VerifyFull) => &[SslMode::Require],
        };
        let mut failure = None;
        for mode in ways {
            match self.connect_as(target, *mode).await {
                Ok(raw) => return Ok(raw),
                Err(error) if is_about_encryption(&error) => drop(failure.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or(DbError::Closed))
    }

    async fn connect_as(&self, target: &Target, mode: SslMode) -> Result<Raw, DbError> {
        let word = word();
        let mut config = self.address.config.clone();
        let options = config.get_options().unwrap_or_default();
        let options = format!("-c skep.session={word} {options}");
        config.options(options).port(target.port).ssl_mode(mode);
        match &target.host {
            Host::Tcp(name) => config.host(name),
            Host::Unix(directory) => config.host_path(directory),
        };
        target.ip.map(|ip| config.hostaddr(ip));
        let connected = match mode {
            SslMode::Disable => connect(&config, NoTls, self.heard.clone()).await,
            _ => {
                let tls = self.address.tls.clone();
                if tls.direct {
                    config.ssl_negotiation(SslNegotiation::Direct);
                }
                let connector = spawn_blocking(move || tls::connector(&tls)).await;
                connect(&config, connector.doing("read certificates")??, self.heard.clone()).await
            }
        };
        match connected {
            Ok(client) => Ok(Raw { client, word }),
            Err(error) => Err(self.explain(error, target)),
        }
    }

    /// The error for a server that could not be connected to.
    fn explain(&self, error: tokio_postgres::Error, target: &Target) -> DbError {
        if let Some(why) = tls::failure(&error, target, &self.address.tls) {
            return DbError::Tls { server: target.to_string(), why, source: Arc::new(error) };
        }
        let Some(said) = error.as_db_error() else {
            return match error.source() {
                Some(cause) if is_lost(&error) => DbError::unreachable(format!("{target}: {cause}")),
                _ => failed("connect", error),
            };
        };
        let refusals =
            [SqlState::INVALID_AUTHORIZATION_SPECIFICATION, SqlState::INVALID_PASSWORD, SqlState::INVALID_CATALOG_NAME];
        if refusals.contains(said.code()) {
            return DbError::Refused { server: target.to_string(), source: Arc::new(error) };
        }
        if said.message().contains("unsupported startup parameter") {
            return DbError::Unsuitable(format!(
                "{target} is a connection pooler, which refuses startup options ({}); name the PostgreSQL server itself \
                 in the address, because Skep pools its connections",
                said.message()
            ));
        }
        failed("connect", error)
    }

    /// Whether this is a server that we can use.
    async fn look(&self, raw: &Raw, target: &Target) -> Result<(), DbError> {
        let question = "select coalesce(current_setting('skep.session', true), ''), \
             current_setting('server_version_num'), current_setting('transaction_read_only'), \
             case when pg_is_in_recovery() then 'standby' else 'primary' end, current_setting('server_version')";
        let answer = row(&raw.client, question).await?;
        let [word, number, read_only, role, version] = &answer[..] else {
            return Err(DbError::Unsuitable(format!("{target} does not answer as PostgreSQL does")));
        };
        if *word != raw.word {
            self.pooler.get_or_try_init(|| self.check_pooler(raw, target)).await?;
        }
        if number.parse::<u32>().is_ok_and(|number| number < SERVER_VERSION_MIN) {
            return Err(DbError::Unsuitable(format!(
                "{target} runs PostgreSQL {version}; Skep needs {} or newer",
                SERVER_VERSION_MIN / 10_000
            )));
        }
        match (&**read_only, &**role) {
            ("off", _) => Ok(()),
            (_, "standby") => Err(DbError::Unsuitable(format!(
                "{target} is a standby, which takes no writes; name the primary in the address, or all servers of the \
                 cluster (host=a,b,c): Skep finds the one that is primary"
            ))),
            _ => Err(DbError::Unsuitable(format!(
                "{target} takes no writes, because default_transaction_read_only is on for the server, the database or \
                 the role; turn it off, or name another server"
            ))),
        }
    }

    /// Whether a pooler keeps each client at one session. Nothing may be set before that is known: it would stay in a
    /// session that others use.
    async fn check_pooler(&self, one: &Raw, target: &Target) -> Result<(), DbError> {
        if self.address.config.get_options().is_some() {
            return Err(DbError::Unsuitable(format!(
                "{target} is a connection pooler that drops the `options` of the address; take them out of the address, \
                 or name the PostgreSQL server itself in it"
            )));
        }
        let other = self.connect_to(target).await?;
        let session = async |raw: &Raw| row(&raw.client, "select pg_backend_pid()").await;
        for _ in 0..POOLER_ROUNDS {
            let (first, again, others) = (session(one).await?, session(one).await?, session(&other).await?);
            if first != again || first == others {
                return Err(DbError::Unsuitable(format!(
                    "{target} is a connection pooler that hands each transaction to another session (PgBouncer's \
                     pool_mode=transaction or statement); name the PostgreSQL server itself in the address, because \
                     Skep pools its connections, or let the pooler use pool_mode=session"
                )));
            }
        }
        tracing::warn!(%target, "between Skep and PostgreSQL is a connection pooler, which brings nothing");
        Ok(())
    }
}

/// Make a connection, and a task that serves it and passes on notifications and notices.
async fn connect<T>(
    config: &Config,
    tls: T,
    heard: Option<mpsc::Sender<Heard>>,
) -> Result<ClientWrapper, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = config.connect(tls).await?;
    let serve = async move {
        loop {
            let said = match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(notice))) => Heard::Notice(notice.payload().to_owned()),
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection to the database was lost");
                    Heard::Lost
                }
                None => Heard::Lost,
            };
            let is_lost = matches!(said, Heard::Lost);
            if let Some(heard) = &heard {
                let _ = heard.send(said).await; // fails if nobody listens any more
            }
            if is_lost {
                return;
            }
        }
    };
    #[expect(clippy::disallowed_methods, reason = "the wrapper ends the task with the connection")]
    let task = tokio::spawn(serve);
    Ok(ClientWrapper::new(client, task))
}

/// The first row that a statement gives, as text.
async fn row(client: &Client, sql: &str) -> Result<Vec<String>, DbError> {
    let messages = client.simple_query(sql).await.doing("look at the database server")?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |row: &tokio_postgres::SimpleQueryRow| {
        (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect()
    };
    Ok(row.map(text).unwrap_or_default())
}

/// Whether the other way, encrypted or not, may succeed. A wrong password is wrong both ways, and must not be sent in
/// clear text.
fn is_about_encryption(error: &DbError) -> bool {
    match error {
        DbError::Tls { .. } => true,
        DbError::Refused { source, .. } => {
            let code = source.downcast_ref().and_then(tokio_postgres::Error::code);
            code == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
        }
        _ => false,
    }
}

fn silent(target: &Target) -> DbError {
    DbError::unreachable(format!("{target} does not answer in time"))
}

/// A random word.
fn word() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish()) // the standard library seeds each anew
}

/// The statements that make a session ours, and let the triggers in our tables know that it is.
fn settings(lock_time_max: Duration) -> String {
    let ms = |time: Duration| time.as_millis().to_string();
    let ours = [
        ("search_path", SCHEMA.to_owned()),
        // Each statement here has one good plan, whatever its values; to look for a better one costs more than the plan.
        ("plan_cache_mode", "force_generic_plan".to_owned()),
        ("lock_timeout", ms(lock_time_max)),
        ("statement_timeout", ms(STATEMENT_TIME_MAX)),
        ("idle_in_transaction_session_timeout", ms(IDLE_TIME_MAX)),
        // Ours wait in a pool. Servers before version 14 do not have it.
        ("idle_session_timeout", "0".to_owned()),
    ];
    let ours: Vec<String> = ours.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    // What comes from the startup options has the source `client`.
    format!(
        "select set_config('skep.hub', 'on', false); \
         select set_config(ours.name, ours.value, false) from (values {}) ours (name, value) \
         join pg_catalog.pg_settings s on s.name = ours.name where s.source <> 'client'; \
         select set_config('default_transaction_isolation', 'read committed', false), \
         case when current_setting('synchronous_commit') <> 'remote_apply' \
         then set_config('synchronous_commit', 'on', false) end",
        ours.join(", ")
    )
}
