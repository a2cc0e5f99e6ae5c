//! What `skep doctor` wants to know of Redis.

use tokio::time::timeout;

use super::{
    address::Place,
    connect::{self, Connected, RESPONSE_TIME_MAX},
    explain, parse,
    session::{Probed, field, write_probe},
};
use crate::db::DbError;

/// The channel that a check listens to, as a hub listens to that of its database.
const CHANNEL: &str = "skep:check";

/// A Redis that answers, and that can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisCheck {
    /// The version of the server, or the versions of those of a cluster that take writes.
    pub versions: Vec<String>,
    /// Servers that take writes: 1, or as many as the cluster has.
    pub servers: usize,
    /// Whether the connections have TLS.
    pub is_encrypted: bool,
    /// Whether they stay on this machine.
    pub is_local: bool,
    /// Memory that all of them together may use (`maxmemory`), in bytes; 0 if one of them has no limit.
    pub memory_bytes_max: u64,
    /// What they do when that is used up (`maxmemory-policy`); nothing if they may not be asked.
    pub policies: Vec<String>,
    /// It is full and may evict nothing.
    pub is_full: bool,
}

impl RedisCheck {
    /// Connect as a hub does, write a key that is gone a minute later, and look at the settings.
    pub(in crate::db) async fn of(address: &str) -> Result<RedisCheck, DbError> {
        let address = parse(address)?;
        connect::check(&address)?;
        let Connected { link, .. } = connect::connect(&address, CHANNEL).await.map_err(DbError::Redis)?;
        let probed = write_probe(&link).await.map_err(DbError::Redis)?;
        let ask = async |section: &str| match timeout(RESPONSE_TIME_MAX, link.info(section)).await {
            Ok(Ok(texts)) => Ok(texts),
            Ok(Err(error)) => Err(DbError::Redis(format!("Redis {}", explain(&error)))),
            Err(_) => Err(DbError::Redis("Redis does not answer in time".to_owned())),
        };
        let (server, memory) = (ask("server").await?, ask("memory").await?);
        let limits =
            memory.iter().map(|text| field(text, "maxmemory")?.parse::<u64>().ok()).map(Option::unwrap_or_default);
        let limits: Vec<u64> = limits.collect();
        Ok(RedisCheck {
            versions: distinct(&server, "redis_version"),
            servers: memory.len(),
            is_encrypted: address.tls.is_some(),
            is_local: match &address.place {
                Place::Socket(_) => true,
                Place::Server(host) => is_loopback(&host.name),
                Place::Sentinels { sentinels: hosts, .. } | Place::Cluster(hosts) => {
                    hosts.iter().all(|host| is_loopback(&host.name))
                }
            },
            memory_bytes_max: if limits.contains(&0) { 0 } else { limits.iter().sum() },
            policies: distinct(&memory, "maxmemory_policy"),
            is_full: probed == Probed::Full,
        })
    }
}

/// The values that a field of `INFO` has at several servers.
fn distinct(texts: &[String], name: &str) -> Vec<String> {
    let mut found: Vec<String> = texts.iter().filter_map(|text| field(text, name)).map(str::to_owned).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
