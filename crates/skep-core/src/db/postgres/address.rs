//! The address of a PostgreSQL database, in the forms and with the meaning that libpq gives it.
//!
//! Both forms (`postgresql://…` and `key=value …`) become parameters. Those about where to connect, and how the server
//! is authenticated, are read here, because `tokio-postgres` knows no `verify-full`, no files of certificates, and
//! tries hosts without a limit of time for each; it reads the rest.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Write as _,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use percent_encoding::percent_decode_str;
use tokio_postgres::{Config, config::Host};

use crate::db::DbError;

/// Hosts that an address may name.
const HOSTS_MAX: usize = 16;
/// The port of PostgreSQL.
const PORT: u16 = 5432;
/// Seconds to wait for one host to accept the connection, answer, and log us in. `connect_timeout` in the address.
const CONNECT_SECONDS_MAX: &str = "5";
/// Milliseconds that sent data may stay unacknowledged before the connection counts as lost.
/// `tcp_user_timeout` in the address.
const NETWORK_MS_MAX: &str = "30000";
/// TCP keepalive of idle connections: seconds until the first probe, seconds between probes, and how many may stay
/// unanswered. So a server that vanished is noticed after a minute.
const KEEPALIVE: [(&str, &str); 3] =
    [("keepalives_idle", "30"), ("keepalives_interval", "10"), ("keepalives_count", "3")];

/// Where a database is, and how its server is authenticated.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// Everything but hosts, ports and TLS.
    pub(super) config: Config,
    pub(super) hosts: Vec<Target>,
    pub(super) tls: Tls,
    /// The limit of time for each host.
    pub(super) connect_time_max: Duration,
}

/// One server to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its name, which is also what its certificate must name; or the directory of its socket.
    pub(super) host: Host,
    /// Its address, where that was given beside the name.
    pub(super) ip: Option<IpAddr>,
    pub(super) port: u16,
}

/// How a connection is encrypted, and how the server is authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) mode: Mode,
    /// The authorities whose certificates are accepted. `None`: the certificate is not verified.
    pub(super) roots: Option<Roots>,
    /// Files of our certificate and its key, in PEM form.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    /// Encrypt from the first byte, without asking whether the server can (`sslnegotiation=direct`).
    pub(super) direct: bool,
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// Never encrypt.
    Disable,
    /// Encrypt if the server insists.
    Allow,
    /// Encrypt if the server can.
    Prefer,
    /// Encrypt, without verifying the certificate.
    Require,
    /// Encrypt, and accept a certificate of a trusted authority for any host.
    VerifyCa,
    /// Encrypt, and accept a certificate of a trusted authority for the host in the address.
    VerifyFull,
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// The authorities that this machine trusts.
    System,
    /// The authorities in a file in PEM form.
    File(PathBuf),
}

impl Address {
    pub(super) fn parse(address: &str) -> Result<Address, DbError> {
        let url = ["postgresql://", "postgres://"].iter().find_map(|scheme| address.strip_prefix(scheme));
        let parameters = match url {
            Some(rest) => of_url(rest),
            None => of_pairs(address),
        };
        parameters.and_then(Address::of).map_err(DbError::Address)
    }

    fn of(mut given: Parameters) -> Result<Address, String> {
        writes(given.remove("target_session_attrs").as_deref())?;
        let hosts = hosts(&mut given)?;
        let tls = tls(&mut given)?;
        given.entry("application_name".into()).or_insert("skep".into());
        for (name, value) in KEEPALIVE {
            given.entry(name.into()).or_insert(value.into());
        }
        // libpq's name; tokio-postgres has another.
        if let Some(count) = given.remove("keepalives_count") {
            given.insert("keepalives_retries".into(), count);
        }
        let network = take_number(&mut given, "tcp_user_timeout", NETWORK_MS_MAX)?;
        // Without limit, for libpq. A connection that nobody answers would be waited for until the machine restarts.
        let seconds = take_number(&mut given, "connect_timeout", CONNECT_SECONDS_MAX)?;
        let connect_time_max = Duration::from_secs(if seconds == 0 { 5 } else { seconds });
        let mut config: Config = to_pairs(&given).parse().map_err(|error| why(&error))?;
        config.tcp_user_timeout(Duration::from_millis(network));
        Ok(Address { config, hosts, tls, connect_time_max })
    }

    /// The first host on another machine that is not authenticated.
    pub(super) fn unverified(&self) -> Option<&Target> {
        if self.tls.roots.is_some() && self.tls.mode >= Mode::Require {
            return None;
        }
        self.hosts.iter().find(|target| !target.is_local())
    }
}

impl Target {
    /// Whether it is on this machine.
    fn is_local(&self) -> bool {
        let is_loopback = |name: &str| match name.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => name == "localhost",
        };
        match (&self.host, self.ip) {
            (_, Some(ip)) => ip.is_loopback(),
            (Host::Tcp(name), None) => is_loopback(name),
            (Host::Unix(_), None) => true,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Tcp(name) if self.port == PORT => f.write_str(name),
            Host::Tcp(name) => write!(f, "{name}, port {}", self.port),
            Host::Unix(directory) => write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port),
        }
    }
}

/// The parameters of an address by name. Of a repeated one, the last value counts.
type Parameters = BTreeMap<String, String>;

/// The rest of `postgresql://user:password@host:port,host:port/database?name=value&name=value`.
fn of_url(mut rest: &str) -> Result<Parameters, String> {
    let mut given = Parameters::new();
    if let Some((user, after)) = rest.split_once('@').filter(|(user, _)| !user.contains('/')) {
        let (user, password) = user.split_once(':').map_or((user, None), |(user, password)| (user, Some(password)));
        given.extend([("user".into(), decoded(user)?)]);
        given.extend(password.map(decoded).transpose()?.map(|password| ("password".into(), password)));
        rest = after;
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        // An IPv6 address has colons of its own, and so stands in brackets.
        let end = host.rfind(']').map_or(0, |end| end + 1);
        let (name, port) = match host[end..].split_once(':') {
            Some((name, port)) => (&host[..end + name.len()], port),
            None => (host, ""),
        };
        names.push(decoded(name.trim_start_matches('[').trim_end_matches(']'))?);
        ports.push(port);
    }
    given.insert("host".into(), names.join(","));
    given.insert("port".into(), ports.join(","));
    given.insert("dbname".into(), decoded(database)?);
    given.retain(|_, value| !value.is_empty());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or("a parameter after `?` has no `=`")?;
        given.insert(decoded(name)?, decoded(value)?);
    }
    Ok(given)
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8().map(Cow::into_owned);
    decoded.map_err(|_| "what is written with `%` in it is not UTF-8".to_owned())
}

/// `name=value name = 'a value with \' in it'`.
fn of_pairs(mut rest: &str) -> Result<Parameters, String> {
    let mut given = Parameters::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(given);
        }
        let form = "write sqlite:PATH, postgresql://USER@HOST/DATABASE, or host=HOST user=USER dbname=DATABASE";
        let (name, after) = rest.split_once('=').ok_or(form)?;
        let name = name.trim_end();
        if name.contains(char::is_whitespace) || name.is_empty() {
            return Err(form.to_owned());
        }
        let (value, after) = value(after.trim_start()).ok_or_else(|| format!("the quote of `{name}` has no end"))?;
        given.insert(name.to_owned(), value);
        rest = after;
    }
}

/// A value, quoted or up to the next space, and what is after it.
fn value(text: &str) -> Option<(String, &str)> {
    let (is_quoted, text) = text.strip_prefix('\'').map_or((false, text), |text| (true, text));
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if is_quoted => return Some((value, &text[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            space if !is_quoted && space.is_whitespace() => return Some((value, &text[at..])),
            character => value.push(character),
        }
    }
    (!is_quoted).then_some((value, ""))
}

/// The form that `tokio-postgres` reads.
fn to_pairs(given: &Parameters) -> String {
    let mut text = String::new();
    for (name, value) in given {
        let value = value.replace('\\', r"\\").replace('\'', r"\'");
        let _ = write!(text, "{name}='{value}' "); // a String takes everything
    }
    text
}

/// The error of `tokio-postgres` for an address. It may have names of parameters in it, but no values.
fn why(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn take_number(given: &mut Parameters, name: &str, default: &str) -> Result<u64, String> {
    let value = given.remove(name);
    let value = value.as_deref().unwrap_or(default);
    value.trim().parse().map_err(|_| format!("`{name}={value}` is not a whole number"))
}

/// A server must accept writes, so hosts that do not are skipped, whatever the address says.
fn writes(target_session_attrs: Option<&str>) -> Result<(), String> {
    match target_session_attrs {
        None | Some("any" | "read-write" | "primary") => Ok(()),
        Some(other) => Err(format!(
            "`target_session_attrs={other}` asks for a server that takes no writes, and Skep writes; leave it out, or \
             say `read-write`"
        )),
    }
}

fn hosts(given: &mut Parameters) -> Result<Vec<Target>, String> {
    let mut list = |name| given.remove(name).filter(|list| !list.is_empty());
    let (names, ips, ports) = (list("host"), list("hostaddr"), list("port"));
    let order = list("load_balance_hosts");
    let split = |list: &Option<String>| match list {
        Some(list) => list.split(',').map(|one| one.trim().to_owned()).collect(),
        None => Vec::new(),
    };
    let (names, ips, ports) = (split(&names), split(&ips), split(&ports));
    let count = names.len().max(ips.len());
    if count == 0 {
        return Err("it names no host; add one, or the directory of a socket: host=/var/run/postgresql".to_owned());
    }
    if count > HOSTS_MAX {
        return Err(format!("it names {count} hosts, and may name {HOSTS_MAX}"));
    }
    let fits = |list: &[String]| list.is_empty() || list.len() == count;
    if !fits(&names) || !fits(&ips) || !(fits(&ports) || ports.len() == 1) {
        return Err("`host`, `hostaddr` and `port` name different numbers of hosts".to_owned());
    }
    let target = |n: usize| {
        let ip = ips.get(n).filter(|ip| !ip.is_empty());
        let name = names.get(n).filter(|name| !name.is_empty()).or(ip).ok_or("one of its hosts has no name")?;
        let port = ports.get(n).or(ports.first()).filter(|port| !port.is_empty());
        let number = port.map_or(Ok(PORT), |port| port.parse());
        Ok(Target {
            host: if name.starts_with('/') { Host::Unix(name.into()) } else { Host::Tcp(name.clone()) },
            ip: ip.map(|ip| ip.parse().map_err(|_| format!("`hostaddr={ip}` is not an IP address"))).transpose()?,
            port: number.map_err(|_| "`port` is not a number between 1 and 65535")?,
        })
    };
    let mut hosts = (0..count).map(target).collect::<Result<Vec<_>, String>>()?;
    match order.as_deref() {
        None | Some("disable") => {}
        // Seeded anew each time, as the standard library does it.
        Some("random") => {
            let random = RandomState::new();
            hosts.sort_by_key(|target| random.hash_one(target.to_string()));
        }
        Some(other) => return Err(format!("`load_balance_hosts={other}` is neither `disable` nor `random`")),
    }
    Ok(hosts)
}

fn tls(given: &mut Parameters) -> Result<Tls, String> {
    let mut take = |name| given.remove(name).filter(|value| !value.is_empty());
    let roots = take("sslrootcert").map(|name| match &*name {
        "system" => Roots::System,
        _ => Roots::File(name.into()),
    });
    let mode = match take("sslmode").as_deref() {
        None if roots == Some(Roots::System) => Mode::VerifyFull,
        None | Some("prefer") => Mode::Prefer,
        Some("disable") => Mode::Disable,
        Some("allow") => Mode::Allow,
        Some("require") => Mode::Require,
        Some("verify-ca") => Mode::VerifyCa,
        Some("verify-full") => Mode::VerifyFull,
        Some(other) => {
            let known = "disable, allow, prefer, require, verify-ca or verify-full";
            return Err(format!("`sslmode={other}` is not known; it is one of {known}"));
        }
    };
    let roots = match (mode, roots) {
        (Mode::VerifyFull, None) => Some(Roots::System),
        (Mode::VerifyFull, roots) => roots,
        // Anybody gets a certificate for some name from one of those.
        (_, Some(Roots::System)) => {
            return Err("`sslrootcert=system` is worth something only with `sslmode=verify-full`".to_owned());
        }
        (Mode::VerifyCa, None) => {
            return Err("`sslmode=verify-ca` needs `sslrootcert=FILE`, with the certificate of the authority that \
                        issued the server's"
                .to_owned());
        }
        (_, roots) => roots,
    };
    let client = match (take("sslcert"), take("sslkey")) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        _ => return Err("`sslcert` and `sslkey` go together: a certificate and its private key".to_owned()),
    };
    let direct = match take("sslnegotiation").as_deref() {
        None | Some("postgres") => false,
        Some("direct") if mode >= Mode::Require => true,
        Some("direct") => return Err("`sslnegotiation=direct` needs `sslmode=require` or stronger".to_owned()),
        Some(other) => return Err(format!("`sslnegotiation={other}` is neither `postgres` nor `direct`")),
    };
    Ok(Tls { mode, roots, client, direct })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> Address {
        Address::parse(address).unwrap()
    }

    fn refusal(address: &str) -> String {
        Address::parse(address).unwrap_err().to_string()
    }

    fn tcp(host: &str, port: u16) -> Target {
        Target { host: Host::Tcp(host.into()), ip: None, port }
    }

    #[test]
    fn both_forms_say_the_same() {
        let url = parse(
            "postgresql://al%40ice:p%3Fss%20'%5C@a,b:6432,[::1]/d?sslmode=verify-ca&sslrootcert=%2Fca%20x.pem&options=-c%20x%3Dy",
        );
        let pairs = parse(
            r"host=a,b,::1 port=,6432, user=al@ice password='p?ss \'\\' dbname = d sslmode=verify-ca sslrootcert='/ca x.pem' options='-c x=y'",
        );
        for address in [url, pairs] {
            assert_eq!(address.hosts, [tcp("a", 5432), tcp("b", 6432), tcp("::1", 5432)]);
            assert_eq!(address.config.get_user(), Some("al@ice"));
            assert_eq!(address.config.get_password(), Some(&br"p?ss '\"[..]));
            assert_eq!(address.config.get_dbname(), Some("d"));
            assert_eq!(address.config.get_options(), Some("-c x=y"));
            let roots = Some(Roots::File("/ca x.pem".into()));
            assert_eq!(address.tls, Tls { mode: Mode::VerifyCa, roots, client: None, direct: false });
        }
    }

    #[test]
    fn an_at_sign_after_the_host_is_no_password() {
        let address = parse("postgresql:///d?host=/run/pg&user=u&password=p@ss");
        assert_eq!(address.hosts, [Target { host: Host::Unix("/run/pg".into()), ip: None, port: 5432 }]);
        assert_eq!(address.config.get_password(), Some(&b"p@ss"[..]));
        let address = parse("postgresql://u@%2Frun%2Fpg:7/d?host=/var/run");
        assert_eq!(address.hosts, [Target { host: Host::Unix("/var/run".into()), ip: None, port: 7 }]);
    }

    #[test]
    fn what_the_address_does_not_say_has_a_limit_all_the_same() {
        let address = parse("host=h");
        let ms = |address: &Address| address.config.get_tcp_user_timeout().unwrap().as_millis();
        assert_eq!((address.connect_time_max.as_secs(), ms(&address)), (5, 30_000));
        assert_eq!(address.config.get_keepalives_idle().as_secs(), 30);
        assert_eq!(address.config.get_application_name(), Some("skep"));
        let address = parse("host=h connect_timeout=7 tcp_user_timeout=1500 keepalives_count=9 application_name=mine");
        assert_eq!((address.connect_time_max.as_secs(), ms(&address)), (7, 1_500));
        assert_eq!(address.config.get_keepalives_retries(), Some(9));
        assert_eq!(address.config.get_application_name(), Some("mine"));
        assert_eq!(parse("host=h connect_timeout=0").connect_time_max.as_secs(), 5, "never without limit");
    }

    #[test]
    fn who_is_trusted_depends_on_the_mode_as_in_libpq() {
        let tls = |parameters: &str| {
            let tls = parse(&format!("host=h {parameters}")).tls;
            (tls.mode, tls.roots)
        };
        let file = || Some(Roots::File("ca".into()));
        assert_eq!(tls(""), (Mode::Prefer, None));
        assert_eq!(tls("sslmode=require"), (Mode::Require, None));
        assert_eq!(tls("sslmode=require sslrootcert=ca"), (Mode::Require, file()));
        assert_eq!(tls("sslmode=verify-full sslrootcert=ca"), (Mode::VerifyFull, file()));
        assert_eq!(tls("sslmode=verify-full"), (Mode::VerifyFull, Some(Roots::System)));
        assert_eq!(tls("sslrootcert=system"), (Mode::VerifyFull, Some(Roots::System)));
        assert!(refusal("host=h sslmode=verify-ca").contains("needs `sslrootcert=FILE`"));
        assert!(refusal("host=h sslmode=require sslrootcert=system").contains("verify-full"));
        assert!(refusal("host=h sslmode=on").contains("is not known"));
        assert!(refusal("host=h sslcert=a").contains("go together"));
        assert!(refusal("host=h sslnegotiation=direct").contains("needs `sslmode=require`"));
    }

    #[test]
    fn only_a_server_elsewhere_that_nobody_vouches_for_is_warned_of() {
        let is_warned_of = |address: &str| parse(address).unverified().is_some();
        for fine in
            ["host=localhost", "host=127.0.0.1", "host=/run", "host=db hostaddr=::1", "host=db sslmode=verify-full"]
        {
            assert!(!is_warned_of(fine), "{fine}");
        }
        let with_roots = "host=db sslmode=require sslrootcert=ca";
        assert!(!is_warned_of(with_roots));
        for bad in ["host=db", "host=localhost,db sslmode=require", "host=db sslrootcert=ca", "host=db sslmode=disable"]
        {
            assert!(is_warned_of(bad), "{bad}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_is_refused_with_what_to_do() {
        assert!(refusal("what is this").contains("postgresql://USER@HOST/DATABASE"));
        assert!(refusal("postgresql:///d").contains("names no host"));
        assert!(refusal("host=a,b port=1,2,3").contains("different numbers"));
        assert!(refusal("host=a hostaddr=b").contains("not an IP address"));
        assert!(refusal("host=a port=70000").contains("between 1 and 65535"));
        assert!(refusal("host='a").contains("no end"));
        assert!(refusal("host=a no_such=1").contains("no_such"));
        assert!(refusal("host=a target_session_attrs=standby").contains("Skep writes"));
        assert!(refusal(&format!("host={}", vec!["a"; 17].join(","))).contains("may name 16"));
        let secret = refusal("host=a password=hush keepalives=x");
        assert!(!secret.contains("hush"), "{secret}");
    }
}
