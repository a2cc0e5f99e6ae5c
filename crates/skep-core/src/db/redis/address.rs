//! The address of Redis: one server, the sentinels of one that has replicas, or a cluster.

use std::{collections::BTreeMap, path::PathBuf};

use percent_encoding::percent_decode_str;

/// Sentinels or nodes of a cluster that an address may name.
const HOSTS_MAX: usize = 16;
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const FORMS: &str = "write redis://USER:PASSWORD@HOST:PORT, rediss://… (with TLS), unix:///PATH, \
                     redis+sentinel://HOST:PORT,HOST:PORT/MASTER or redis+cluster://HOST:PORT,HOST:PORT";

/// Where Redis is, and how to log in.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) place: Place,
    pub(super) login: Login,
    /// The number of the database (`SELECT`).
    pub(super) database: i64,
    pub(super) tls: Option<Tls>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Server(Host),
    Socket(PathBuf),
    /// They say where the server of that name is.
    Sentinels {
        sentinels: Vec<Host>,
        master: String,
        login: Login,
    },
    /// Some of its nodes.
    Cluster(Vec<Host>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

/// Files in PEM form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// The authorities whose certificates are accepted; without it, those that this machine trusts.
    pub(super) roots: Option<PathBuf>,
    /// Our certificate and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

/// Without what is secret.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Address { place, login, database, tls } = self;
        let mut shown = f.debug_struct("Address");
        shown.field("place", place).field("login", login).field("database", database).field("tls", tls).finish()
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Host { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

/// What follows the `?`.
struct Parameters(BTreeMap<String, String>);

impl Address {
    /// Read an address. The error says what to do, and has no password in it.
    pub(super) fn parse(text: &str) -> Result<Address, String> {
        let (scheme, rest) = text.split_once("://").ok_or(FORMS)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut parameters = Parameters::parse(query)?;
        let scheme = scheme.to_ascii_lowercase();
        let (kind, is_encrypted) = match scheme.strip_prefix("rediss") {
            Some(kind) => (kind, true),
            None => (scheme.strip_prefix("redis").unwrap_or(&scheme), false),
        };
        let mut address = match kind {
            "" => Address::of_server(rest),
            "+sentinel" | "-sentinel" => Address::of_sentinels(rest, &mut parameters),
            "+cluster" | "-cluster" => Address::of_cluster(rest),
            "unix" | "+unix" if !is_encrypted => Address::of_socket(rest, &mut parameters),
            _ => Err(FORMS.to_owned()),
        }?;
        address.tls = if is_encrypted { Some(parameters.tls()?) } else { None };
        match parameters.0.keys().next() {
            None => Ok(address),
            Some(name) if name.starts_with("ssl") => Err(format!(
                "`{name}` needs an encrypted connection: rediss://, rediss+sentinel:// or rediss+cluster://"
            )),
            Some(name) => Err(format!("there is no parameter `{name}`")),
        }
    }

    fn of(place: Place, login: Login, database: i64) -> Address {
        Address { place, login, database, tls: None }
    }

    fn of_server(text: &str) -> Result<Address, String> {
        let (login, hosts, path) = parts(text, PORT)?;
        let database = database(&path)?;
        match <[Host; 1]>::try_from(hosts) {
            Ok([host]) => Ok(Address::of(Place::Server(host), login, database)),
            Err(_) => Err("it names several servers; write redis+cluster:// for the nodes of a cluster, \
                           redis+sentinel:// for sentinels"
                .to_owned()),
        }
    }

    fn of_sentinels(text: &str, parameters: &mut Parameters) -> Result<Address, String> {
        let (login, sentinels, path) = parts(text, SENTINEL_PORT)?;
        let (master, number) = path.split_once('/').unwrap_or((&path, ""));
        if master.is_empty() {
            return Err(
                "it does not say which master the sentinels watch: redis+sentinel://HOST:PORT/MASTER".to_owned()
            );
        }
        let place = Place::Sentinels {
            sentinels,
            master: master.to_owned(),
            login: Login { user: parameters.take("sentinel_user"), password: parameters.take("sentinel_password") },
        };
        Ok(Address::of(place, login, database(number)?))
    }

    fn of_cluster(text: &str) -> Result<Address, String> {
        let (login, hosts, path) = parts(text, PORT)?;
        match database(&path)? {
            0 => Ok(Address::of(Place::Cluster(hosts), login, 0)),
            _ => Err("a cluster has the database 0 alone".to_owned()),
        }
    }

    fn of_socket(path: &str, parameters: &mut Parameters) -> Result<Address, String> {
        let path = decoded(path)?;
        if !path.starts_with('/') {
            return Err("the path of a socket begins with a slash: unix:///run/redis/redis.sock".to_owned());
        }
        let login = Login { user: parameters.take("user"), password: parameters.take("password") };
        let number = parameters.take("db").unwrap_or_default();
        Ok(Address::of(Place::Socket(path.into()), login, database(&number)?))
    }
}

impl Parameters {
    fn parse(query: &str) -> Result<Parameters, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').ok_or("what follows the `?` is NAME=VALUE, with `&` between")?;
            Ok((name.to_owned(), decoded(value)?))
        };
        Ok(Parameters(pairs.map(pair).collect::<Result<_, String>>()?))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    fn tls(&mut self) -> Result<Tls, String> {
        let client = match (self.take("sslcert"), self.take("sslkey")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err("`sslcert` and `sslkey` go together: a certificate and its private key".to_owned()),
        };
        let roots = self.take("sslrootcert").filter(|roots| roots != "system");
        Ok(Tls { roots: roots.map(PathBuf::from), client })
    }
}

/// `USER:PASSWORD@HOST:PORT,HOST:PORT/PATH`.
fn parts(text: &str, port: u16) -> Result<(Login, Vec<Host>, String), String> {
    let (login, rest) = match text.rsplit_once('@') {
        Some((login, rest)) => (self::login(login)?, rest),
        None => (Login::default(), text),
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts: Vec<Host> = hosts.split(',').map(|host| self::host(host.trim(), port)).collect::<Result<_, _>>()?;
    match hosts.len() {
        1..=HOSTS_MAX => Ok((login, hosts, decoded(path)?)),
        count => Err(format!("it names {count} hosts, and may name {HOSTS_MAX}")),
    }
}

fn login(text: &str) -> Result<Login, String> {
    let (user, password) = text.split_once(':').ok_or(
        "what is before the `@` is USER:PASSWORD, or :PASSWORD alone; what is special in it is written as in URLs: %3A \
         for `:`, %40 for `@`, %2F for `/`",
    )?;
    let given = |text: &str| Ok::<_, String>(Some(decoded(text)?).filter(|text| !text.is_empty()));
    Ok(Login { user: given(user)?, password: given(password)? })
}

fn host(text: &str, default: u16) -> Result<Host, String> {
    let (name, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((name, after)) => (name, after.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let name = decoded(name)?;
    let port = port.map_or(Ok(default), str::parse);
    // What is not a port may be part of a password.
    match (name.is_empty(), port) {
        (false, Ok(port @ 1..)) => Ok(Host { name, port }),
        _ => Err(format!("it names no host and port between `//` or `@` and what follows; {FORMS}")),
    }
}

fn database(text: &str) -> Result<i64, String> {
    match text.trim_end_matches('/') {
        "" => Ok(0),
        number => match number.parse() {
            Ok(number @ 0..) => Ok(number),
            _ => Err("what follows the `/` is the number of a database".to_owned()),
        },
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| "what is written with % in it is not UTF-8")?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> Address {
        Address::parse(address).unwrap()
    }

    fn host(name: &str, port: u16) -> Host {
        Host { name: name.into(), port }
    }

    fn login(user: Option<&str>, password: Option<&str>) -> Login {
        Login { user: user.map(str::to_owned), password: password.map(str::to_owned) }
    }

    #[test]
    fn the_forms_that_redis_users_write_are_understood() {
        let address = parse("redis://localhost");
        assert_eq!(address, Address::of(Place::Server(host("localhost", 6379)), Login::default(), 0));
        let address = parse("redis://al:p%40ss@[::1]:7000/3");
        assert_eq!(address, Address::of(Place::Server(host("::1", 7000)), login(Some("al"), Some("p@ss")), 3));
        let address = parse("redis://:p@ss@h/");
        assert_eq!(address.login, login(None, Some("p@ss")));
        let address = parse("unix:///run/redis%20one.sock?db=2&password=p");
        assert_eq!(address, Address::of(Place::Socket("/run/redis one.sock".into()), login(None, Some("p")), 2));
        let address = parse("redis+cluster://a:1,b");
        assert_eq!(address.place, Place::Cluster(vec![host("a", 1), host("b", 6379)]));
        let sentinels = "redis+sentinel://:p@a,b:7/mymaster/1?sentinel_user=s&sentinel_password=t";
        for form in [sentinels.to_owned(), sentinels.replace('+', "-")] {
            let (sentinels, login_there) = (vec![host("a", 26379), host("b", 7)], login(Some("s"), Some("t")));
            let place = Place::Sentinels { sentinels, master: "mymaster".into(), login: login_there };
            assert_eq!(parse(&form), Address::of(place, login(None, Some("p")), 1));
        }
    }

    #[test]
    fn only_an_encrypted_connection_has_certificates() {
        assert_eq!(parse("redis://h").tls, None);
        assert_eq!(parse("rediss://h?sslrootcert=system").tls, Some(Tls::default()));
        let tls = parse("rediss+cluster://h?sslrootcert=/ca%20x&sslcert=/c&sslkey=/k").tls.unwrap();
        assert_eq!(tls, Tls { roots: Some("/ca x".into()), client: Some(("/c".into(), "/k".into())) });
        assert!(Address::parse("redis://h?sslrootcert=/ca").unwrap_err().contains("rediss://"));
        assert!(Address::parse("rediss://h?sslcert=/c").unwrap_err().contains("go together"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do_and_without_the_password() {
        for (address, said) in [
            ("localhost:6379", "redis://USER:PASSWORD@HOST:PORT"),
            ("http://localhost", "redis://USER:PASSWORD@HOST:PORT"),
            ("redis://", "names no host"),
            ("redis://hush@h", "USER:PASSWORD"),
            ("redis://u:hush@h:port", "names no host and port"),
            ("redis://u:hu/sh", "names no host and port"),
            ("redis://u:hush@h:0", "names no host and port"),
            ("redis://u:hush@h/one", "number of a database"),
            ("redis://u:hush@h,i", "redis+cluster://"),
            ("redis+cluster://u:hush@h/1", "database 0 alone"),
            ("redis+sentinel://u:hush@h", "which master"),
            ("redis://u:hush@h?no_such=hush", "`no_such`"),
            ("unix://run/redis.sock?password=hush", "begins with a slash"),
            ("rediss+unix:///run/redis.sock", "redis://USER:PASSWORD@HOST:PORT"),
        ] {
            let refusal = Address::parse(address).unwrap_err();
            assert!(refusal.contains(said) && !refusal.contains("hush"), "{address}: {refusal}");
        }
        let many = vec!["h"; HOSTS_MAX + 1].join(",");
        assert!(Address::parse(&format!("redis+cluster://{many}")).unwrap_err().contains("may name 16"));
        assert!(!format!("{:?}", parse("redis://u:hush@h")).contains("hush"));
    }
}
