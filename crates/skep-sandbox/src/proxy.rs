//! The way out for a request that was granted some hosts.
//!
//! Inside there is no network but loopback, and on it a listener, made by the keeper in the sandbox's own network
//! namespace. Its descriptor is given to the server, which accepts what connects there and speaks the part of HTTP that
//! proxies speak (RFC 9110, 9.3.6 and RFC 9112, 3.2.2): `CONNECT host:port`, and requests with an absolute address. So
//! no packet ever leaves the sandbox: names are resolved, addresses judged and connections made out here, and what the
//! command sees of the network is what this module copies to it.
//!
//! Owns the protocol, its limits and the list of who was asked for. Which address may be reached is the operator's
//! rule ([`Gate`]); it is asked after the name was resolved, about the very address that is then connected to, so a
//! name that changes its mind gains nothing.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, lookup_host},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use crate::Error;

/// Where the proxy listens inside.
pub(crate) const PORT: u16 = 3128;
/// Hosts that one request can be granted.
const GRANTS_MAX: usize = 64;
/// Connections of one request at once; more of them wait.
const CONNECTIONS_MAX: usize = 64;
/// Connections that an outcome tells of.
const CONNECTIONS_TOLD_MAX: usize = 256;
/// Longest head of a request to the proxy, in bytes.
const HEAD_MAX: usize = 16 << 10;
/// Header lines of one.
const HEADERS_MAX: usize = 100;
/// How long a client may take for it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long resolving a name, and connecting to one address, may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The operator's rule for addresses. It answers with the reason if one must not be reached.
#[derive(Clone)]
pub struct Gate(Arc<Rule>);

type Rule = dyn Fn(&Destination) -> Result<(), String> + Send + Sync;

impl Gate {
    /// A rule. It is asked for every address that a granted name resolves to; private networks and the addresses of a
    /// cloud's metadata are its business.
    pub fn new(rule: impl Fn(&Destination) -> Result<(), String> + Send + Sync + 'static) -> Gate {
        Gate(Arc::new(rule))
    }

    /// Whether it lets a command connect there; the reason if not.
    pub fn ask(&self, destination: &Destination) -> Result<(), String> {
        (self.0)(destination)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// Where a command wants to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Name or address, as the command gave it; lower case.
    pub host: String,
    /// Port.
    pub port: u16,
    /// One of the addresses that it resolves to.
    pub address: IpAddr,
}

/// A connection that a command asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Name or address, as the command gave it; lower case.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The address that it was connected to, or why it was not.
    pub connected: Result<IpAddr, String>,
}

/// What one request may reach, and what it did.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    gate: Gate,
    granted: Arc<[(String, u16)]>,
    connections: Arc<Mutex<Vec<Connection>>>,
}

impl Proxy {
    /// A proxy for these hosts, each `host:port`.
    pub(crate) fn new(granted: &[String], gate: Option<&Gate>) -> Result<Proxy, Error> {
        let gate = gate.ok_or_else(|| {
            Error::Invalid("no host can be granted here: the program that embeds the sandbox has set no rule".into())
        })?;
        if granted.len() > GRANTS_MAX {
            return Err(Error::Invalid(format!("more than {GRANTS_MAX} hosts cannot be granted to one request")));
        }
        let granted: Option<Vec<_>> = granted.iter().map(|grant| split(grant, None)).collect();
        let granted = granted.ok_or_else(|| {
            Error::Invalid("a host is granted with its port, such as example.org:443 or [2001:db8::1]:443".into())
        })?;
        Ok(Proxy { gate: gate.clone(), granted: granted.into(), connections: Arc::default() })
    }

    /// Serves who connects to `listener`, for as long as the returned tasks live.
    pub(crate) fn serve(&self, listener: OwnedFd) -> io::Result<JoinSet<()>> {
        let listener = std::net::TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        let (listener, proxy) = (TcpListener::from_std(listener)?, self.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { proxy.accept(listener).await });
        Ok(tasks)
    }

    /// What was asked for so far.
    pub(crate) fn connections(&self) -> Vec<Connection> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn accept(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut clients = JoinSet::new();
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let Ok((client, _)) = listener.accept().await else { return };
            while clients.try_join_next().is_some() {}
            let proxy = self.clone();
            clients.spawn(async move {
                let _place = place;
                // The client hears what is wrong; a connection that breaks is its own message.
                let _ = proxy.attend(client).await;
            });
        }
    }

    async fn attend(&self, mut client: TcpStream) -> io::Result<()> {
        let head = match timeout(HEAD_WITHIN, read_head(&mut client)).await {
            Ok(head) => head?,
            Err(_) => return refuse(&mut client, "408 Request Timeout", "the request did not come").await,
        };
        let Some((head, rest)) = head else {
            return refuse(&mut client, "431 Request Header Fields Too Large", "the head is too long").await;
        };
        let Some(Asked { host, port, first }) = Asked::parse(&head) else {
            let why = "only CONNECT host:port and requests for http:// addresses are served";
            return refuse(&mut client, "400 Bad Request", why).await;
        };
        let connected = self.connect(&host, port).await;
        let (mut server, told) = match connected {
            Ok((server, address)) => (Some(server), Ok(address)),
            Err(why) => (None, Err(why)),
        };
        self.tell(Connection { host, port, connected: told.clone() });
        let (Some(server), Ok(_)) = (&mut server, &told) else {
            let why = told.err().unwrap_or_default();
            return refuse(&mut client, "403 Forbidden", &why).await;
        };
        match first {
            None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
            Some(head) => server.write_all(head.as_bytes()).await?,
        }
        server.write_all(&rest).await?;
        copy_bidirectional(&mut client, server).await.map(drop)
    }

    /// Connects to the first address of `host` that may be and can be reached.
    async fn connect(&self, host: &str, port: u16) -> Result<(TcpStream, IpAddr), String> {
        if !self.granted.iter().any(|(granted, at)| granted == host && *at == port) {
            return Err(format!("{host}:{port} was not granted to this request"));
        }
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let addresses: Vec<SocketAddr> = match timeout(CONNECT_WITHIN, lookup_host((name, port))).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => return Err(format!("{host} cannot be resolved: {error}")),
            Err(_) => return Err(format!("{host} was not resolved in time")),
        };
        let mut why = format!("{host} has no address");
        for address in addresses {
            let destination = Destination { host: host.to_owned(), port, address: address.ip() };
            match self.gate.ask(&destination) {
                Err(refused) => why = refused,
                Ok(()) => match timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
                    Ok(Ok(server)) => return Ok((server, address.ip())),
                    Ok(Err(error)) => why = format!("{host}:{port} cannot be reached: {error}"),
                    Err(_) => why = format!("{host}:{port} did not answer in time"),
                },
            }
        }
        Err(why)
    }

    /// Logs a connection and remembers it for the outcome.
    fn tell(&self, connection: Connection) {
        let Connection { host, port, connected } = &connection;
        match connected {
            Ok(address) => tracing::info!(host, port, %address, "a command connects"),
            Err(why) => tracing::warn!(host, port, why, "a command was kept from connecting"),
        }
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.len() < CONNECTIONS_TOLD_MAX {
            connections.push(connection);
        }
    }
}

/// Reads up to the empty line that ends the head, and returns what came after it, too. `None`: it is too long.
async fn read_head(client: &mut TcpStream) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok(Some((bytes, rest)));
        }
        if bytes.len() >= HEAD_MAX {
            return Ok(None);
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn refuse(client: &mut TcpStream, status: &str, why: &str) -> io::Result<()> {
    let body = format!("{why}\n");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all((head + &body).as_bytes()).await?;
    client.shutdown().await
}

/// What a client wants of the proxy.
#[derive(Debug, PartialEq)]
struct Asked {
    host: String,
    port: u16,
    /// The head that the server gets, unless a tunnel was asked for.
    first: Option<String>,
}

impl Asked {
    fn parse(head: &[u8]) -> Option<Asked> {
        let head = std::str::from_utf8(head).ok()?;
        let mut lines = head.strip_suffix("\r\n\r\n")?.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || !matches!(version, "HTTP/1.0" | "HTTP/1.1") || lines.clone().count() > HEADERS_MAX
        {
            return None;
        }
        if method == "CONNECT" {
            let (host, port) = split(target, None)?;
            return Some(Asked { host, port, first: None });
        }
        let (scheme, rest) = target.split_at_checked("http://".len())?;
        if !scheme.eq_ignore_ascii_case("http://") {
            return None;
        }
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let (host, port) = split(authority, Some(80))?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        // One request a connection: the next could be for somebody else.
        let mut first = format!("{method} {slash}{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
        for line in lines {
            let (name, _) = line.split_once(':')?;
            if !HOP_BY_HOP.iter().any(|one| name.eq_ignore_ascii_case(one)) {
                first.push_str(line);
                first.push_str("\r\n");
            }
        }
        Some(Asked { host, port, first: Some(first + "\r\n") })
    }
}

/// Headers that are for the proxy (RFC 9110, 7.6.1), and the one that is written anew.
const HOP_BY_HOP: [&str; 6] =
    ["connection", "proxy-connection", "proxy-authorization", "keep-alive", "upgrade", "host"];

/// Splits `host:port`. Without a port it has the `usual` one, if there is one.
fn split(authority: &str, usual: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
        None => (authority, usual?),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let known = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() < 256 && host.bytes().all(name),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    (known && !host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_and_a_plain_request_are_understood() {
        let asked = Asked::parse(b"CONNECT Example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(asked, Asked { host: "example.org".into(), port: 443, first: None });
        let asked = Asked::parse(
            b"GET http://example.org:81/a?b HTTP/1.1\r\nHost: other\r\nProxy-Connection: x\r\nAccept: */*\r\n\r\n",
        )
        .unwrap();
        let first = "GET /a?b HTTP/1.1\r\nHost: example.org:81\r\nConnection: close\r\nAccept: */*\r\n\r\n";
        assert_eq!(asked, Asked { host: "example.org".into(), port: 81, first: Some(first.into()) });
        let asked = Asked::parse(b"GET http://[::1]?q HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!((asked.host.as_str(), asked.port), ("[::1]", 80));
        assert!(asked.first.unwrap().starts_with("GET /?q HTTP/1.1\r\n"));
    }

    #[test]
    fn anything_else_is_not() {
        for head in [
            "GET / HTTP/1.1",
            "GET ftp://a/ HTTP/1.1",
            "GET https://a/ HTTP/1.1",
            "CONNECT a HTTP/1.1",
            "CONNECT a:0 HTTP/1.1",
            "CONNECT a:99999 HTTP/1.1",
            "CONNECT u@a:1 HTTP/1.1",
            "CONNECT [a]:1 HTTP/1.1",
            "CONNECT a:1 HTTP/2",
            "",
            "CONNECT :1 HTTP/1.1",
            "GET http://u:p@a/ HTTP/1.1",
            "GET http://a/ HTTP/1.1\r\nno colon",
            "CONNECT a:1 HTTP/1.1 x",
            "CONNECT .:1 HTTP/1.1",
        ] {
            assert_eq!(Asked::parse(format!("{head}\r\n\r\n").as_bytes()), None, "{head}");
        }
        assert_eq!(Asked::parse(b"\xff\r\n\r\n"), None);
        let many = "A: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(Asked::parse(format!("GET http://a/ HTTP/1.1\r\n{many}\r\n").as_bytes()), None);
    }
}
