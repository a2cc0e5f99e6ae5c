//! Connections to Redis: to the server in the address, to the one that the sentinels name, or to a cluster.
//!
//! The library's own sentinel client stays with a server that was demoted, so it is not used: [`master`] asks the
//! sentinels, and the session (`session.rs`) ends when they name another server.

use std::{path::PathBuf, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo as _, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, Value,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo},
    cmd,
    io::tcp::{TcpSettings, socket2},
};
use tokio::time::timeout;

use super::{
    address::{Address, Host, Login, Place, Tls},
    explain,
};
use crate::db::{DbError, postgres};

/// How long one server may take to accept a connection and to let us in.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long Redis may take for an answer to anything, before the connection is given up.
pub(super) const RESPONSE_TIME_MAX: Duration = Duration::from_secs(1);
/// How long sent data may stay unacknowledged, and how long a connection may be idle, before it is tested.
const NETWORK_TIME_MAX: Duration = Duration::from_secs(10);

/// A connection for commands. Its copies share it, and so do those who wait for its answers.
#[derive(Clone)]
pub(super) enum Link {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Both connections of a session.
pub(super) struct Connected {
    pub(super) link: Link,
    pub(super) listening: PubSub,
    /// The server that the sentinels have named.
    pub(super) master: Option<Host>,
}

impl Link {
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        match self {
            Link::Server(connection) => command.query_async(&mut connection.clone()).await,
            Link::Cluster(connection) => command.query_async(&mut connection.clone()).await,
        }
    }

    /// A section of `INFO` of the server, or of each that takes writes in a cluster.
    pub(super) async fn info(&self, section: &str) -> RedisResult<Vec<String>> {
        let command = cmd("INFO").arg(section).take();
        match self {
            Link::Server(_) => Ok(vec![self.ask(&command).await?]),
            Link::Cluster(connection) => {
                let everywhere = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                let answers = connection.clone().route_command(command, everywhere).await?;
                let Value::Map(answers) = answers else { return Ok(Vec::new()) };
                let texts = answers.into_iter().map(|(_, text)| redis::from_redis_value(text));
                Ok(texts.collect::<Result<_, _>>()?)
            }
        }
    }
}

/// Check what can be checked without a connection: the files that an address names.
pub(super) fn check(address: &Address) -> Result<(), DbError> {
    address.tls.as_ref().map(certificates).transpose().map(drop)
}

/// Connect, and listen on a channel. The error says where, and what is wrong.
pub(super) async fn connect(address: &Address, channel: &str) -> Result<Connected, String> {
    let certificates = address.tls.as_ref().map(certificates).transpose().map_err(|error| error.to_string())?;
    let Address { login, database, .. } = address;
    let client = |place: &ConnectionAddr| client(place, login, *database, certificates.as_ref());
    match &address.place {
        Place::Socket(path) => {
            let place = ConnectionAddr::Unix(path.clone());
            to_server(client(&place), &path.display().to_string(), channel, None).await
        }
        Place::Server(host) => to_server(client(&tcp(host, address)), &host.to_string(), channel, None).await,
        Place::Sentinels { .. } => {
            let master = master(address).await?;
            let named = format!("{master}, which the sentinels name,");
            to_server(client(&tcp(&master, address)), &named, channel, Some(master.clone())).await
        }
        Place::Cluster(nodes) => {
            let nodes: Vec<_> = nodes.iter().map(|node| (node, tcp(node, address))).collect();
            let link = to_cluster(&nodes, login, certificates.as_ref()).await?;
            let mut why = String::new();
            // A message is handed on to all nodes, so any of them may be listened to.
            for (host, place) in &nodes {
                match listen(&client(place).map_err(|error| explain(&error))?, channel).await {
                    Ok(listening) => return Ok(Connected { link, listening, master: None }),
                    Err(error) => why = format!("{host} {error}"),
                }
            }
            Err(why)
        }
    }
}

/// The server that takes writes, by what the first sentinel says that answers.
pub(super) async fn master(address: &Address) -> Result<Host, String> {
    let Place::Sentinels { sentinels, master, login } = &address.place else {
        return Err("there are no sentinels".to_owned());
    };
    let certificates = address.tls.as_ref().map(certificates).transpose().map_err(|error| error.to_string())?;
    let mut why = String::new();
    for sentinel in sentinels {
        let asked = async {
            let client = client(&tcp(sentinel, address), login, 0, certificates.as_ref())?;
            let link = Link::Server(client.get_multiplexed_async_connection_with_config(&config()).await?);
            link.ask::<Option<(String, u16)>>(cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master)).await
        };
        match timeout(CONNECT_TIME_MAX, asked).await {
            Ok(Ok(Some((name, port)))) => return Ok(Host { name, port }),
            Ok(Ok(None)) => why = format!("the sentinel {sentinel} watches no master of the name {master}"),
            Ok(Err(error)) => why = format!("the sentinel {sentinel} {}", explain(&error)),
            Err(_) => why = format!("the sentinel {sentinel} does not answer in time"),
        }
    }
    Err(why)
}

async fn to_server(
    client: RedisResult<Client>,
    name: &str,
    channel: &str,
    master: Option<Host>,
) -> Result<Connected, String> {
    let client = client.map_err(|error| explain(&error))?;
    let link = timeout(CONNECT_TIME_MAX, client.get_multiplexed_async_connection_with_config(&config())).await;
    let link = link.unwrap_or_else(|_| Err(silent())).map_err(|error| format!("{name} {}", explain(&error)))?;
    let listening = listen(&client, channel).await.map_err(|why| format!("{name} {why}"))?;
    Ok(Connected { link: Link::Server(link), listening, master })
}

async fn to_cluster(
    nodes: &[(&Host, ConnectionAddr)],
    login: &Login,
    certificates: Option<&TlsCertificates>,
) -> Result<Link, String> {
    let infos = nodes.iter().map(|(_, place)| info(place, login, 0)).collect::<RedisResult<Vec<_>>>();
    let connected = async {
        let mut builder = ClusterClient::builder(infos?)
            .connection_timeout(CONNECT_TIME_MAX)
            .response_timeout(RESPONSE_TIME_MAX)
            .tcp_settings(tcp_settings());
        if let Some(certificates) = certificates {
            builder = builder.certs(certificates.clone());
        }
        builder.build()?.get_async_connection().await
    };
    let connected = timeout(2 * CONNECT_TIME_MAX, connected).await.unwrap_or_else(|_| Err(silent()));
    let named = nodes.first().map(|(host, _)| host.to_string()).unwrap_or_default();
    connected.map(Link::Cluster).map_err(|error| format!("the cluster of {named} {}", explain(&error)))
}

async fn listen(client: &Client, channel: &str) -> Result<PubSub, String> {
    let listening = async {
        let mut listening = client.get_async_pubsub().await?;
        listening.subscribe(channel).await?;
        Ok(listening)
    };
    let listening = timeout(CONNECT_TIME_MAX, listening).await.unwrap_or_else(|_| Err(silent()));
    listening.map_err(|error| explain(&error))
}

fn client(
    place: &ConnectionAddr,
    login: &Login,
    database: i64,
    certificates: Option<&TlsCertificates>,
) -> RedisResult<Client> {
    let info = info(place, login, database)?;
    match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        None => Client::open(info),
    }
}

fn info(place: &ConnectionAddr, login: &Login, database: i64) -> RedisResult<ConnectionInfo> {
    let mut settings = RedisConnectionInfo::default().set_db(database).set_lib_name("skep", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &login.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &login.password {
        settings = settings.set_password(password);
    }
    Ok(place.clone().into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp_settings()))
}

fn tcp(host: &Host, address: &Address) -> ConnectionAddr {
    let Host { name, port } = host.clone();
    match address.tls {
        Some(_) => ConnectionAddr::TcpTls { host: name, port, insecure: false, tls_params: None },
        None => ConnectionAddr::Tcp(name, port),
    }
}

fn tcp_settings() -> TcpSettings {
    let keepalive = socket2::TcpKeepalive::new().with_time(NETWORK_TIME_MAX).with_interval(NETWORK_TIME_MAX / 5);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(NETWORK_TIME_MAX)
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIME_MAX))
        .set_response_timeout(Some(RESPONSE_TIME_MAX))
}

/// The files, read anew for each connection, so that they can be replaced while a hub runs.
fn certificates(tls: &Tls) -> Result<TlsCertificates, DbError> {
    let client = |(certificate, key): &(PathBuf, PathBuf)| {
        let client_cert = postgres::pem_of_certificates(certificate)?;
        Ok::<_, DbError>(ClientTlsConfig { client_cert, client_key: postgres::pem_of_key(key)? })
    };
    let read = || {
        Ok(TlsCertificates {
            root_cert: tls.roots.as_deref().map(postgres::pem_of_certificates).transpose()?,
            client_tls: tls.client.as_ref().map(client).transpose()?,
        })
    };
    read().map_err(|error| match error {
        DbError::Address(why) => DbError::Redis(why),
        other => other,
    })
}

fn silent() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
