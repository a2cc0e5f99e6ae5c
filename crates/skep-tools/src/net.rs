//! HTTP to addresses that a model, a web page or a stranger chose.
//!
//! Such an address must not reach what only this machine may reach: its own services, its private network, the metadata
//! of its cloud (server-side request forgery, CWE-918). So this client judges the URL, then every address that the name
//! resolves to, at the moment of connecting, where a name that changes its mind can no longer cheat, and again for each
//! redirect. An operator's [`Settings::allow_hosts`] is the only exception. Beside that it bounds what an answer may
//! cost: time, redirects, bytes after decompression.
//!
//! It does not retry and keeps no cookies: who calls knows what may be repeated. What the operator configured himself,
//! such as the model's address, does not come through here.

mod address;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{
    Method, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use schemars::JsonSchema;
use serde::Deserialize;
use skep_sandbox::{Destination, Gate};
use tokio::sync::OnceCell;

use crate::error::ToolError;

/// Redirects that are followed for one request.
pub const REDIRECTS_MAX: usize = 10;
/// Time that connecting to one address may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Time that an unused connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Unused connections that are kept for one server.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// Header lines of an answer; one with more is refused.
const ANSWER_HEADERS_MAX: usize = 100;
/// Bytes that the header lines of an HTTP/2 answer may take; for HTTP/1 the library's own limit is 400 KiB.
const ANSWER_HEADER_BYTES_MAX: u32 = 64 << 10;
/// Header lines that a caller may add.
pub const HEADERS_MAX: usize = 64;
/// Bytes that they may take together.
pub const HEADER_BYTES_MAX: usize = 16 << 10;

/// Which hosts may be reached, and how Skep introduces itself: section `[web]` of the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Hosts with their port, such as `localhost:8080`, that may be reached although they are on this machine or in a
    /// private network. A host that is listed is reached at the listed ports only.
    pub allow_hosts: Vec<HostPort>,
    /// What is sent as `User-Agent`.
    pub user_agent: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { allow_hosts: Vec::new(), user_agent: concat!("skep/", env!("CARGO_PKG_VERSION")).to_owned() }
    }
}

/// A host and a port, written `host:port`; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct HostPort {
    host: String,
    port: u16,
}

impl TryFrom<String> for HostPort {
    type Error = String;

    fn try_from(text: String) -> Result<HostPort, String> {
        let fault = || format!("{text:?} is not a host and a port, such as localhost:8080 or [::1]:8080");
        // A URL parser knows every way to write a host; a port of its own scheme would be left out.
        let url = Url::parse(&format!("http://{text}/")).map_err(|_| fault())?;
        let (_, port) = text.rsplit_once(':').ok_or_else(fault)?;
        let port = port.parse().map_err(|_| fault())?;
        let plain = url.path() == "/" && url.query().is_none() && url.username().is_empty();
        match url.host_str().filter(|_| plain && url.fragment().is_none() && port != 0) {
            Some(host) => Ok(HostPort { host: host.trim_end_matches('.').to_owned(), port }),
            None => Err(fault()),
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Address.
    pub url: Url,
    /// Header lines, as [`headers`] has checked them.
    pub headers: HeaderMap,
    /// Body; empty for none.
    pub body: Vec<u8>,
    /// Bytes of the answer's body, decompressed, that are read; the rest is left.
    pub body_max: usize,
    /// Follow redirects, at most [`REDIRECTS_MAX`].
    pub follow: bool,
    /// When the answer must be there.
    pub deadline: Instant,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// Where it came from in the end.
    pub url: Url,
    /// Status.
    pub status: StatusCode,
    /// Header lines.
    pub headers: HeaderMap,
    /// Body, decompressed.
    pub body: Vec<u8>,
    /// There was more than `body_max`.
    pub truncated: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A rule forbids this address: choose another or ask the operator.
    #[error("{0}")]
    Refused(String),
    /// The server cannot be reached or does not speak HTTP: it may do so later.
    #[error("{0}")]
    Unreachable(String),
    /// The deadline came.
    #[error("the answer did not come in time")]
    TimedOut,
    /// This machine cannot make HTTP requests.
    #[error("HTTP cannot be used on this machine: {0}")]
    Unavailable(String),
}

impl Error {
    /// What a tool says of it.
    pub fn of_tool(self, tool: &str, allowed: Duration) -> ToolError {
        match self {
            Error::Refused(message) => ToolError::Denied(message),
            Error::Unreachable(message) => ToolError::failed(message),
            Error::TimedOut => {
                ToolError::TimedOut { tool: tool.to_owned(), after: allowed, detail: serde_json::Map::new() }
            }
            Error::Unavailable(_) => ToolError::Unavailable {
                message: self.to_string(),
                cure: "install root certificates (apt-get install ca-certificates) or set SSL_CERT_FILE".to_owned(),
            },
        }
    }
}

/// An HTTP client that keeps to the rules of this module; cheap to clone. Nothing is loaded before the first request.
#[derive(Clone, Debug)]
pub struct Client {
    rules: Arc<Rules>,
    http: Arc<OnceCell<reqwest::Client>>,
}

impl Client {
    /// A client for these settings.
    pub fn new(settings: &Settings) -> Client {
        let mut allowed = BTreeMap::<String, BTreeSet<u16>>::new();
        for HostPort { host, port } in &settings.allow_hosts {
            allowed.entry(host.clone()).or_default().insert(*port);
        }
        let user_agent = settings.user_agent.clone();
        Client { rules: Arc::new(Rules { allowed, user_agent, is_inside: false }), http: Arc::default() }
    }

    /// The same without a judgement of addresses: for what only somebody inside may name ([`is_inside`]).
    pub fn inside(self) -> Client {
        let Rules { allowed, user_agent, .. } = &*self.rules;
        let rules = Rules { allowed: allowed.clone(), user_agent: user_agent.clone(), is_inside: true };
        Client { rules: Arc::new(rules), http: Arc::default() }
    }

    /// Send a request, follow redirects, and read the answer.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let deadline = tokio::time::Instant::from_std(request.deadline);
        tokio::time::timeout_at(deadline, self.exchange(request)).await.unwrap_or(Err(Error::TimedOut))
    }

    async fn exchange(&self, mut request: Request) -> Result<Response, Error> {
        let http = self.http.get_or_try_init(async || self.rules.client()).await?;
        for _ in 0..=REDIRECTS_MAX {
            self.rules.check(&request.url)?;
            let sent = http
                .request(request.method.clone(), request.url.clone())
                .headers(request.headers.clone())
                .body(request.body.clone());
            let answer = sent.send().await.map_err(|error| explain(&request.url, error))?;
            match request.follow.then(|| redirect(&request.url, &answer)).flatten() {
                Some(next) => request.go_on_to(next?, answer.status()),
                None => return read(answer, &request).await,
            }
        }
        Err(Error::Unreachable(format!("{} redirects more than {REDIRECTS_MAX} times", request.url)))
    }
}

/// Whether this address is one that a stranger may not name: of this machine, or of a private network.
pub async fn is_inside(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match tokio::net::lookup_host((host, 0)).await {
        Ok(mut found) => found.any(|socket| address::forbidden(socket.ip()).is_some()),
        Err(_) => false,
    }
}

/// Where an answer sends us on to, if it does.
fn redirect(from: &Url, answer: &reqwest::Response) -> Option<Result<Url, Error>> {
    let redirects = [301, 302, 303, 307, 308].contains(&answer.status().as_u16());
    let location = answer.headers().get(header::LOCATION).filter(|_| redirects)?;
    let location = String::from_utf8_lossy(location.as_bytes());
    Some(
        from.join(&location).map_err(|error| {
            Error::Unreachable(format!("{from} redirects to {location:?}, which is not a URL: {error}"))
        }),
    )
}

impl Request {
    /// Change into the request that follows a redirect (RFC 9110, 15.4, and the practice that it describes).
    fn go_on_to(&mut self, next: Url, status: StatusCode) {
        let becomes_get = match status {
            StatusCode::SEE_OTHER => self.method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            _ => false,
        };
        if becomes_get {
            self.method = Method::GET;
            self.body.clear();
            self.headers.remove(header::CONTENT_TYPE);
        }
        if self.url.origin() != next.origin() {
            // A caller's secrets are meant for the server that he named, whatever the header is called.
            let harmless = [header::ACCEPT, header::ACCEPT_LANGUAGE, header::CONTENT_TYPE, header::USER_AGENT];
            let names: Vec<HeaderName> = self.headers.keys().filter(|name| !harmless.contains(name)).cloned().collect();
            for name in names {
                self.headers.remove(name);
            }
        }
        self.url = next;
    }
}

/// Read the body as it comes, decompressed, and stop at the limit: what is not read is never sent or inflated.
async fn read(mut answer: reqwest::Response, request: &Request) -> Result<Response, Error> {
    let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
    let mut body = Vec::new();
    let mut truncated = false;
    while let Some(chunk) = answer.chunk().await.map_err(|error| explain(&request.url, error))? {
        let room = request.body_max - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            truncated = true;
            break;
        }
    }
    Ok(Response { url: request.url.clone(), status, headers, body, truncated })
}

/// Say what went wrong without the words of three layers. The URL is named without its query, which may hold a secret.
fn explain(url: &Url, error: reqwest::Error) -> Error {
    let chain: Vec<_> = std::iter::successors(error.source(), |&error| error.source()).collect();
    if let Some(forbidden) = chain.iter().find_map(|error| error.downcast_ref::<Forbidden>()) {
        return Error::Refused(forbidden.to_string());
    }
    if error.is_timeout() && !error.is_connect() {
        return Error::TimedOut;
    }
    let cause = chain.last().map_or_else(|| "no answer".to_owned(), ToString::to_string);
    let (host, path) = (url.host_str().unwrap_or_default(), url.path());
    let what = if error.is_connect() { "cannot be reached" } else { "gave no valid answer" };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Error::Unreachable(format!("{}://{host}{port}{path} {what}: {cause}", url.scheme()))
}

/// Parse a URL that a caller gave as the argument `url`.
pub fn url(text: &str) -> Result<Url, ToolError> {
    Url::parse(text).map_err(|error| {
        let hint = if text.contains("://") { "" } else { "; begin it with https:// or http://" };
        ToolError::argument("url", format!("{text:?} is not a URL: {error}{hint}"))
    })
}

/// Check the header lines that a caller gave as the argument `headers`.
pub fn headers<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<HeaderMap, ToolError> {
    let fault = |message: String| ToolError::argument("headers", message);
    let mut headers = HeaderMap::new();
    let mut bytes = 0;
    for (name, value) in given {
        let known: HeaderName = name.parse().map_err(|_| fault(format!("{name:?} is not the name of a header")))?;
        if OURS.contains(&known.as_str()) || known.as_str().starts_with("proxy-") {
            return Err(fault(format!("{name} is set by Skep and cannot be given")));
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| fault(format!("the value of {name} has characters that a header cannot carry")))?;
        bytes += name.len() + value.len();
        headers.append(known, value);
    }
    if headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        return Err(fault(format!("at most {HEADERS_MAX} headers and {HEADER_BYTES_MAX} bytes are sent")));
    }
    Ok(headers)
}

/// Headers that frame the message, belong to the connection (RFC 9110, 7.6.1), or that the client negotiates: a caller
/// who sets them could smuggle a second request or get an answer that nobody can read.
const OURS: [&str; 12] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// What may be reached.
#[derive(Debug)]
struct Rules {
    /// Ports by host, of [`Settings::allow_hosts`].
    allowed: BTreeMap<String, BTreeSet<u16>>,
    user_agent: String,
    /// Addresses are not judged.
    is_inside: bool,
}

/// A name that leads to an address which must not be reached.
#[derive(Debug, thiserror::Error)]
#[error("{name} is {}{why}; an operator may allow it by adding \"{name}:PORT\" to web.allow_hosts", led(.name, .address))]
struct Forbidden {
    name: String,
    address: IpAddr,
    why: &'static str,
}

/// Where a name leads, unless it is the address itself.
fn led(name: &str, address: &IpAddr) -> String {
    if name.trim_matches(['[', ']']).parse() == Ok(*address) { String::new() } else { format!("{address}, ") }
}

impl Rules {
    fn client(self: &Arc<Rules>) -> Result<reqwest::Client, Error> {
        reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .dns_resolver(Resolver(Arc::clone(self)))
            .no_proxy() // a proxy would resolve names itself, unguarded
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_headers(ANSWER_HEADERS_MAX)
            .http2_max_header_list_size(ANSWER_HEADER_BYTES_MAX)
            .build()
            .map_err(|error| Error::Unavailable(error.source().map_or_else(|| error.to_string(), ToString::to_string)))
    }

    /// Judge what can be seen in the URL itself. The resolver judges what a name leads to.
    fn check(&self, url: &Url) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Refused(why));
        if !matches!(url.scheme(), "http" | "https") {
            return refuse(format!("{}: is not reached, only http: and https: are", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("a URL with a name or password in it is not fetched; send an Authorization header".into());
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return refuse("the URL names no host".into());
        };
        let host = host.trim_end_matches('.');
        match self.allowed.get(host) {
            Some(ports) if ports.contains(&port) => return Ok(()),
            Some(_) => return refuse(format!("{host} may be reached, but not at port {port}: see web.allow_hosts")),
            None => {}
        }
        if BLOCKED_PORTS.contains(&port) {
            return refuse(format!("port {port} belongs to another service than HTTP and is not reached"));
        }
        // `url` has made one form of all the ways to write an address: 127.1, 0x7f000001, 2130706433, [::1] …
        let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() else { return Ok(()) };
        match address::forbidden(address).filter(|_| !self.is_inside) {
            Some(why) => refuse(Forbidden { name: host.to_owned(), address, why }.to_string()),
            None => Ok(()),
        }
    }
}

/// Ports that the Fetch standard blocks ("port blocking"), since a request there would speak to a service of another
/// kind: mail, remote shells, file servers, X displays, chat.
const BLOCKED_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

/// The same rules for the connections of a command that was granted some hosts: an address that is not for everybody is
/// reached only if the operator listed the host with that port. Which ports are served is for whoever grants them, since
/// a tunnel need not carry HTTP.
pub fn gate(settings: &Settings) -> Gate {
    let rules = Client::new(settings).rules;
    Gate::new(move |Destination { host, port, address }| {
        let listed = rules.allowed.get(host);
        if listed.is_some_and(|ports| ports.contains(port)) {
            return Ok(());
        }
        if listed.is_some() {
            return Err(format!("{host} may be reached, but not at port {port}: see web.allow_hosts"));
        }
        match address::forbidden(*address) {
            Some(why) => Err(Forbidden { name: host.clone(), address: *address, why }.to_string()),
            None => Ok(()),
        }
    })
}

/// Resolves names and leaves only addresses that may be reached. The connection is made to these and no others.
struct Resolver(Arc<Rules>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.is_inside || self.0.allowed.contains_key(name.as_str().trim_end_matches('.'));
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let (forbidden, mut good): (Vec<_>, Vec<_>) = found
                .into_iter()
                .map(|socket| (socket, address::forbidden(socket.ip()).filter(|_| !allowed)))
                .partition(|(_, why)| why.is_some());
            if let (true, Some((socket, Some(why)))) = (good.is_empty(), forbidden.first()) {
                return Err(Forbidden { name: name.as_str().to_owned(), address: socket.ip(), why }.into());
            }
            Ok(Box::new(good.drain(..).map(|(socket, _)| socket).collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
