//! Who may come in: programs of this hub's own user, and those who know the token. Not web pages.
//!
//! A hub on loopback is within reach of every page that the user's browser shows, so a request must look like a
//! program's. A page that asks across origins says so in `Origin` or `Sec-Fetch-Site` (Fetch standard), in simple
//! requests too; a page that has its own name resolved to this machine (DNS rebinding) says that name in `Host`.
//! Both are refused whatever the path is.

use std::{
    borrow::Cow,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use axum::http::{HeaderValue, uri::Authority};
use skep_mcp::server::{
    Principal,
    http::{Fields, text},
};

use super::{
    events::socket::offered_token,
    peer,
    problem::{Kind, Problem},
    tokens::{Exchanged, Known, Tokens},
};
use crate::hub::principals;

/// The rules about callers.
#[derive(Debug)]
pub(super) struct Guard {
    /// Addresses that the hub listens on; and how callers write them.
    bound: Vec<IpAddr>,
    written: Vec<String>,
    /// Names it may be called by, in lower case.
    hosts: Vec<String>,
    /// Pages that may call it: `scheme://host[:port]`, in lower case.
    origins: Vec<HeaderValue>,
    tokens: RwLock<Arc<Tokens>>,
    /// Whose connections over TCP are answered; a hub does not change its mind about that.
    admits: Admits,
}

/// Whose connections are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admits {
    /// Those that bring a token.
    Tokens,
    /// Those of this hub's own user and of root.
    OwnUser,
    /// All.
    Everybody,
}

impl Admits {
    /// What holds at addresses. A token is asked of everybody alike, so where there is one, no other user needs to be told apart.
    pub(super) fn on_tcp(has_token: bool, allow_local_users: bool) -> Admits {
        match (has_token, allow_local_users) {
            (true, _) => Admits::Tokens,
            (false, false) => Admits::OwnUser,
            (false, true) => Admits::Everybody,
        }
    }

    /// Whether a connection of this user is taken at all; `user` is asked only where that matters.
    pub(super) fn admit(self, user: impl FnOnce() -> io::Result<u32>) -> bool {
        self != Admits::OwnUser || peer::is_own(user())
    }

    pub(super) fn wants_token(self) -> bool {
        self == Admits::Tokens
    }
}

/// An origin of the configuration that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an origin; one looks like https://hub.example or http://localhost:3000")]
pub struct BadOrigin(pub String);

/// What a hub that runs cannot become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; restart the hub to have it so")]
pub struct NeedsRestart(pub(super) &'static str);

impl Guard {
    pub(super) fn new(
        bound: &[SocketAddr],
        hosts: impl IntoIterator<Item = String>,
        origins: &[String],
        tokens: Tokens,
        admits: Admits,
    ) -> Result<Guard, BadOrigin> {
        Ok(Guard {
            bound: bound.iter().map(SocketAddr::ip).collect(),
            written: bound.iter().map(SocketAddr::to_string).collect(),
            hosts: hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect(),
            origins: origins.iter().map(|origin| parse_origin(origin)).collect::<Result<_, _>>()?,
            tokens: RwLock::new(Arc::new(tokens)),
            admits,
        })
    }

    /// The first two questions, asked of every request: is it for this hub, and does it not come from a foreign page?
    ///
    /// A request line may name the server too (absolute form, RFC 9112 3.2.2); that name counts more than Host.
    pub(super) fn check_source(&self, named: Option<&Authority>, headers: &Fields<'_>) -> Result<(), Problem> {
        let host = self.check_host(named, headers)?;
        self.check_origin(host, headers)
    }

    fn check_host<'a>(&self, named: Option<&Authority>, headers: &Fields<'a>) -> Result<&'a str, Problem> {
        let mut hosts = headers.all("host");
        let host = match (hosts.next().and_then(text), hosts.next()) {
            (Some(host), None) => host,
            _ => return Err(Problem::new(Kind::BadHost, "one Host header is needed")),
        };
        let named = named.map(Authority::as_str);
        if let Some(name) = named.into_iter().chain([host]).find(|name| !self.is_own_name(name)) {
            let message = format!(
                "this hub is not known as {name:?}; call it by a name or address it listens on, or add the name to \
                 allowed_hosts"
            );
            return Err(Problem::new(Kind::HostNotAllowed, message));
        }
        Ok(host)
    }

    /// Ports do not matter: behind a forwarded port the hub is called by another one.
    fn is_own_name(&self, host: &str) -> bool {
        if self.written.iter().any(|written| written == host) {
            return true; // as most say it
        }
        // An address cannot be rebound, so on a hub that listens everywhere any of them will do.
        let is_own =
            |ip: IpAddr| ip.is_loopback() || self.bound.iter().any(|bound| *bound == ip || bound.is_unspecified());
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if host.contains('@') {
            return false;
        }
        let name = authority.host();
        match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => is_own(ip),
            Err(_) => ["localhost"]
                .into_iter()
                .chain(self.hosts.iter().map(String::as_str))
                .any(|known| known.eq_ignore_ascii_case(name)),
        }
    }

    fn check_origin(&self, host: &str, headers: &Fields<'_>) -> Result<(), Problem> {
        let site = headers.get("sec-fetch-site");
        let origin = headers.get("origin");
        let allowed = match origin {
            Some(_) if self.named_origin(headers).is_some() => true,
            Some(origin) => is_same_origin(origin, host) && matches!(site, None | Some(b"same-origin")),
            None => matches!(site, None | Some(b"same-origin" | b"none")),
        };
        if allowed {
            return Ok(());
        }
        let message = match origin.and_then(text) {
            Some(origin) => format!("pages from {origin:?} may not call this hub; allowed_origins can name them"),
            None => "web pages from elsewhere may not call this hub".to_owned(),
        };
        Err(Problem::new(Kind::OriginNotAllowed, message))
    }

    /// Whose connections over TCP are answered.
    pub(super) fn admits(&self) -> Admits {
        self.admits
    }

    /// The tokens that open.
    pub(super) fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Let those in who know these, and no others.
    pub(super) fn set_tokens(&self, tokens: Tokens) -> Result<Exchanged, NeedsRestart> {
        match (self.admits.wants_token(), tokens.is_empty()) {
            (true, true) => {
                return Err(NeedsRestart("callers of this hub need a token, and none is configured any more"));
            }
            (false, false) => return Err(NeedsRestart("callers of this hub need no token, and now one is configured")),
            _ => {}
        }
        let mut known = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        let (tokens, exchanged) = tokens.instead_of(&known);
        *known = Arc::new(tokens);
        Ok(exchanged)
    }

    /// The third question, asked where something is to be had: which token does the caller know?
    pub(super) fn check_token(&self, headers: &Fields<'_>) -> Result<Arc<Known>, Problem> {
        let wanted = || unauthorized("this hub wants its token: send `Authorization: Bearer …`");
        let given = headers.get("authorization").and_then(bearer).map(Cow::Borrowed);
        let given = given.or_else(|| offered_token(headers).map(Cow::Owned)).ok_or_else(wanted)?;
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.find(&given).cloned().ok_or_else(|| unauthorized("this hub does not know that token"))
    }

    /// Who sends a request over a listener that answers these: whoever the token says, or the user of this machine, whom
    /// the kernel has told apart from others unless the operator lets everybody in.
    pub(super) fn identify(&self, admits: Admits, headers: &Fields<'_>) -> Result<Arc<dyn Principal>, Problem> {
        match admits.wants_token() {
            true => Ok(Arc::clone(&self.check_token(headers)?.principal)),
            false => Ok(Arc::clone(principals::carried_local())),
        }
    }

    /// The origin of a request, if it is that of a page which the operator named.
    pub(super) fn named_origin(&self, headers: &Fields<'_>) -> Option<HeaderValue> {
        let origin = headers.get("origin")?;
        self.origins.iter().find(|known| *known == origin).cloned()
    }

    /// Whether the operator named any page: then answers depend on the origin of their request.
    pub(super) fn names_origins(&self) -> bool {
        !self.origins.is_empty()
    }
}

/// What a caller hears whose connection is not this hub's own user's.
pub(super) fn stranger() -> Problem {
    Problem::new(Kind::OtherUser, STRANGER)
}

/// The same in words. What the connection is has been told by the kernel, so it does not matter what the caller says.
pub(super) const STRANGER: &str = "this hub answers only the user who runs it, and root, and this connection is not known to be of one \
    of them; whoever runs it can give it a token (SKEP_TOKEN, --token-file), which you then send, or start it with \
    --allow-local-users";

fn unauthorized(message: &str) -> Problem {
    Problem::new(Kind::Unauthorized, message)
}

/// What comes after `Bearer` (RFC 6750; the scheme's case does not matter).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// A page that this hub (or what stands before it and speaks TLS) has served itself.
fn is_same_origin(origin: &[u8], host: &str) -> bool {
    let origin = text(origin).unwrap_or_default();
    let named = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    named.is_some_and(|named| named.eq_ignore_ascii_case(host))
}

fn parse_origin(text: &str) -> Result<HeaderValue, BadOrigin> {
    let bad = || BadOrigin(text.to_owned());
    let origin = text.trim_end_matches('/').to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://").ok_or_else(bad)?;
    if !matches!(scheme, "http" | "https") || authority.parse::<Authority>().is_err() || authority.contains('@') {
        return Err(bad());
    }
    HeaderValue::from_str(&origin).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;

    use super::{super::tokens::Token, *};

    fn guard(bound: &str, hosts: &[&str], origins: &[&str]) -> Guard {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Guard::new(&[bound.parse().unwrap()], strings(hosts), &strings(origins), Tokens::default(), Admits::OwnUser)
            .unwrap()
    }

    fn headers<'a>(pairs: &[(&'static str, &'a str)]) -> Fields<'a> {
        pairs.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
    }

    fn code(guard: &Guard, uri: &str, pairs: &[(&'static str, &str)]) -> &'static str {
        guard
            .check_source(uri.parse::<Uri>().unwrap().authority(), &headers(pairs))
            .err()
            .map_or("ok", |problem| problem.kind.code())
    }

    #[test]
    fn only_names_of_this_hub_are_answered() {
        let loopback = guard("127.0.0.1:8000", &["Hub.Example"], &[]);
        let host = |name: &str| code(&loopback, "/", &[("host", name)]);
        for name in [
            "localhost",
            "LOCALHOST:8000",
            "localhost:1",
            "127.0.0.1:8000",
            "127.8.9.1",
            "[::1]:8000",
            "hub.example:443",
        ] {
            assert_eq!(host(name), "ok", "{name}");
        }
        for name in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0:8000", "user@localhost", "[::2]", "a b"]
        {
            assert_eq!(host(name), "host_not_allowed", "{name}");
        }
        assert_eq!(code(&loopback, "/", &[]), "bad_host");
        assert_eq!(code(&loopback, "http://evil.example/", &[("host", "localhost")]), "host_not_allowed");
    }

    #[test]
    fn a_hub_that_listens_everywhere_is_called_by_any_address_but_not_by_any_name() {
        let wide = guard("0.0.0.0:8000", &[], &[]);
        assert_eq!(code(&wide, "/", &[("host", "10.1.2.3:8000")]), "ok");
        assert_eq!(code(&wide, "/", &[("host", "rebound.example")]), "host_not_allowed");
    }

    #[test]
    fn a_web_page_from_elsewhere_is_refused_in_every_way_it_can_ask() {
        let guard = guard("127.0.0.1:8000", &[], &["https://Console.example/"]);
        let ask =
            |pairs: &[(&'static str, &str)]| code(&guard, "/process", &[&[("host", "localhost:8000")], pairs].concat());
        assert_eq!(ask(&[]), "ok", "curl says nothing");
        assert_eq!(ask(&[("sec-fetch-site", "none")]), "ok", "typed by the user");
        assert_eq!(ask(&[("origin", "http://localhost:8000"), ("sec-fetch-site", "same-origin")]), "ok");
        assert_eq!(ask(&[("origin", "https://console.example"), ("sec-fetch-site", "cross-site")]), "ok", "allowed");
        for origin in
            ["https://evil.example", "null", "http://localhost:3000", "http://localhost:8000.evil.example", "file://"]
        {
            assert_eq!(ask(&[("origin", origin)]), "origin_not_allowed", "{origin}");
        }
        for site in ["cross-site", "same-site", "anything"] {
            assert_eq!(ask(&[("sec-fetch-site", site)]), "origin_not_allowed", "{site}");
        }
        assert_eq!(ask(&[("origin", "http://localhost:8000"), ("sec-fetch-site", "cross-site")]), "origin_not_allowed");
    }

    #[test]
    fn the_token_and_nothing_else_opens() {
        let tokens = Tokens::new(Token::new("correct-horse-battery").ok(), Default::default()).unwrap();
        let guard = Guard { tokens: RwLock::new(tokens.into()), ..guard("0.0.0.0:1", &[], &[]) };
        let ask = |pairs: &[(&'static str, &str)]| {
            guard.check_token(&headers(pairs)).err().map_or("ok", |problem| problem.kind.code())
        };
        assert_eq!(ask(&[("authorization", "Bearer correct-horse-battery")]), "ok");
        assert_eq!(ask(&[("authorization", "bearer  correct-horse-battery ")]), "ok");
        for header in [
            "Bearer correct-horse-batterx",
            "Bearer correct",
            "Bearer",
            "Basic correct-horse-battery",
            "correct-horse-battery",
        ] {
            assert_eq!(ask(&[("authorization", header)]), "unauthorized", "{header}");
        }
        assert_eq!(ask(&[]), "unauthorized");
        let offered = ("sec-websocket-protocol", "skep, skep.token.Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5");
        assert_eq!(ask(&[("upgrade", "websocket"), offered]), "ok", "as a page offers it, which sets no headers");
        assert_eq!(ask(&[offered]), "unauthorized", "only for WebSocket");
        for offered in ["skep", "skep.token.", "skep.token.AAAA", "skep.token.!", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"] {
            let pairs = [("upgrade", "websocket"), ("sec-websocket-protocol", offered)];
            assert_eq!(ask(&pairs), "unauthorized", "{offered}");
        }
    }

    #[test]
    fn an_origin_of_the_configuration_must_be_one() {
        for text in [
            "example.com",
            "ftp://example.com",
            "https://",
            "https://user@example.com",
            "*",
            "https://example.com/path",
        ] {
            assert!(parse_origin(text).is_err(), "{text}");
        }
    }
}
