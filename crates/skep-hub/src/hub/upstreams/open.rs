//! How a server is connected to: over the streams of its process, TCP or HTTP.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use reqwest::{Url, redirect};
use serde_json::json;
use skep_mcp::{
    client::{CallError, Connection, Limits, Setup, Target, Tcp, auth::Denied},
    framing::Memories,
    revision::Revision,
};

use super::{
    Named, Server, Upstream,
    process::{LAST_WORDS_MAX, Process, Spawner, Stderr},
};
use crate::config::servers::{Transport, header_map};

/// Redirects that are followed; to the same server only, since keys are sent along.
const REDIRECTS_MAX: usize = 5;
/// Time that connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Why a server was not connected to.
pub(super) enum Unopened {
    /// A user has to log in; how.
    NeedsLogin(String),
    /// It, or the way to it, does not work.
    Failed(String),
    /// Nobody wants it any more.
    Removed,
}

impl From<String> for Unopened {
    fn from(why: String) -> Unopened {
        Unopened::Failed(why)
    }
}

/// Connect, or say why not.
pub(super) async fn open(
    config: &Upstream,
    server: &Weak<Server>,
    stderr: Stderr,
    revision: Option<Revision>,
) -> Result<(Connection, Option<Process>), Unopened> {
    let setup = Setup {
        info: json!({ "name": "skep", "title": "Skep", "version": env!("CARGO_PKG_VERSION") }),
        // What callers can do differs; it is said with each call, and whoever cannot answer refuses.
        capabilities: json!({ "roots": {}, "sampling": {}, "elicitation": { "form": {}, "url": {} } }),
        handler: Arc::new(Named(server.clone())),
        limits: Limits {
            start_time_max: config.start_time_max,
            memories: server.upgrade().map_or_else(Memories::default, |server| server.answers()),
            ..Limits::default()
        },
        revision,
    };
    match &config.transport {
        Transport::Stdio(command) => {
            let mut spawner = Spawner::new(&config.name, command.clone(), stderr.clone());
            match Connection::over_lines(&mut spawner, setup).await {
                Ok(connection) => Ok((connection, spawner.process)),
                Err(error) => {
                    let Some(mut process) = spawner.process else { return Err(error.to_string().into()) };
                    let status = process.last_words(LAST_WORDS_MAX).await;
                    process.kill().await;
                    let status = status.map_or(String::new(), |status| format!(" ({status})"));
                    Err(format!("{error}{status}{}", stderr.shown()).into())
                }
            }
        }
        Transport::Tcp(address) => {
            let connection = Connection::over_lines(&mut Tcp(address.clone()), setup).await;
            Ok((connection.map_err(|error| format!("{address}: {error}"))?, None))
        }
        Transport::Http { url, headers, is_sse, .. } => {
            let server = server.upgrade();
            let logins = server.as_ref().and_then(|server| server.logins.as_ref());
            let url = Url::parse(url.reveal()).map_err(|error| error.to_string())?;
            let target = Target {
                url,
                headers: header_map(headers)?,
                client: http_client()?,
                authorization: logins.and_then(|logins| logins.authorization(config)),
                is_sse: *is_sse,
                is_direct: !has_proxy(),
            };
            match Connection::over_http(target, setup).await {
                Ok(connection) => Ok((connection, None)),
                Err(CallError::Unauthorized(Denied::NeedsLogin(reason))) => Err(Unopened::NeedsLogin(reason)),
                Err(error @ CallError::Http { status: 401 | 403, .. }) => {
                    Err(format!("{error}; put what it wants into its `headers`, such as Authorization").into())
                }
                Err(error) => Err(error.to_string().into()),
            }
        }
    }
}

/// Whether requests without TLS may have to go by a proxy.
pub(super) fn has_proxy() -> bool {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].iter().any(is_set)
}

/// What the operator configured may be anywhere; but keys go nowhere else.
pub(super) fn http_client() -> Result<reqwest::Client, String> {
    let policy = redirect::Policy::custom(|attempt| {
        let is_same = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
        if is_same && attempt.previous().len() <= REDIRECTS_MAX { attempt.follow() } else { attempt.stop() }
    });
    let client = reqwest::Client::builder().redirect(policy).connect_timeout(CONNECT_MAX).tcp_nodelay(true).build();
    client.map_err(|error| error.to_string())
}
