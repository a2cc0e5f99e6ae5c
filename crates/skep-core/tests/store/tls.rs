//! TLS to PostgreSQL: every mode with servers that it should believe, and with those that it should not.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::LazyLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use skep_core::db::DbError;

use super::{private::Server, *};

/// An authority, which issues certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM form.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a host, or for a user.
    pub(crate) fn issue(&self, host: Option<&str>, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(host.map(str::to_owned).into_iter().collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A server with TLS, and what is needed to be let in. What a connection must be is a matter of the database.
struct World {
    server: Server,
    authority: Authority,
}

const HOST: &str = "db.example";
const RULES: &str = "\
local all all trust
hostssl certificate all 127.0.0.1/32 cert
hostssl password all 127.0.0.1/32 scram-sha-256
hostssl encrypted all 127.0.0.1/32 trust
hostnossl plain all 127.0.0.1/32 trust
host any all 127.0.0.1/32 trust
";

static WORLD: LazyLock<Option<World>> = LazyLock::new(|| {
    let authority = Authority::new("test authority");
    let own = authority.issue(Some(HOST), HOST, |_| {});
    let files = [
        ("server.crt", &*own.certificate),
        ("server.key", &*own.key),
        ("clients.crt", &*authority.pem()),
        ("pg_hba.conf", RULES),
    ];
    let settings = "ssl = on\nssl_ca_file = 'clients.crt'\nmax_connections = 300\n";
    let server = Server::start(settings, &files)?;
    Some(World { server, authority })
});

impl World {
    async fn get() -> Option<&'static World> {
        static MADE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
        let world = tokio::task::spawn_blocking(|| WORLD.as_ref()).await.unwrap()?;
        let make = async || {
            for name in ["certificate", "password", "encrypted", "plain", "\"any\""] {
                world.server.database(name).await;
            }
            world.server.execute("alter role postgres password 'hush'").await;
        };
        MADE.get_or_init(make).await;
        Some(world)
    }

    /// A file with the certificate of the server's authority.
    fn roots(&self) -> String {
        let name = format!("{:?}.crt", std::thread::current().id());
        self.file(&name, &self.authority.pem(), 0o644)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path = Path::new(&self.server.directory).join(name); // goes away with the server
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    fn address(&self, database: &str, parameters: &str) -> String {
        let tcp = self.server.tcp().replace("dbname=postgres", "");
        format!("{tcp} host={HOST} dbname={database} {parameters}")
    }

    /// Open the store, and say whether its connection is encrypted.
    async fn is_encrypted(&self, database: &str, parameters: &str) -> Result<bool, DbError> {
        let name = format!("{database} {parameters}").replace(|c: char| !c.is_ascii_alphanumeric(), "");
        let name = &name[..name.len().min(60)];
        let address = self.address(database, &format!("{parameters} application_name={name}"));
        let app = App::new(Db::open(&address, Limits::default()).await?);
        app.submit(&permit(), new(name)).await.unwrap();
        let question = format!(
            "select bool_and(ssl), bool_or(ssl) from pg_stat_ssl join pg_stat_activity using (pid)
             where application_name = '{name}'"
        );
        let answer = private::ask(&self.server.address(), &question).await.unwrap();
        app.db.close().await;
        Ok(answer == "t")
    }

    async fn refusal(&self, database: &str, parameters: &str) -> DbError {
        match Db::open(&self.address(database, parameters), Limits::default()).await {
            Ok(_) => panic!("{database} is opened with {parameters}"),
            Err(error) => error,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_connects_to_a_server_that_it_should_believe() {
    let Some(world) = World::get().await else { return };
    let roots = world.roots();
    for (parameters, encrypted) in [
        ("sslmode=disable", false),
        ("sslmode=allow", false),
        ("", true),
        ("sslmode=prefer", true),
        ("sslmode=require", true),
        (&format!("sslmode=require sslrootcert={roots}"), true),
        (&format!("sslmode=verify-ca sslrootcert={roots} host=other.example"), true),
        (&format!("sslmode=verify-full sslrootcert={roots}"), true),
    ] {
        assert_eq!(world.is_encrypted("any", parameters).await.unwrap(), encrypted, "{parameters}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mode_that_leaves_the_choice_takes_what_the_server_wants() {
    let Some(world) = World::get().await else { return };
    assert!(!world.is_encrypted("plain", "sslmode=prefer").await.unwrap());
    assert!(world.is_encrypted("encrypted", "sslmode=allow").await.unwrap());
    for (database, mode) in [("plain", "require"), ("encrypted", "disable")] {
        let refused = world.refusal(database, &format!("sslmode={mode}")).await;
        assert!(matches!(refused, DbError::Refused { .. }), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_certificate_of_a_stranger_is_not_believed() {
    let Some(world) = World::get().await else { return };
    let stranger = world.file("stranger.crt", &Authority::new("stranger").pem(), 0o644);
    for mode in ["require", "verify-ca", "verify-full"] {
        let refused = world.refusal("any", &format!("sslmode={mode} sslrootcert={stranger}")).await;
        assert!(matches!(refused, DbError::Tls { .. }), "{refused:?}");
        let said = refused.to_string();
        assert!(said.contains(&format!("no authority in {stranger} has issued")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_host_is_told_with_the_names_that_it_has() {
    let Some(world) = World::get().await else { return };
    let refused =
        world.refusal("any", &format!("sslmode=verify-full sslrootcert={} host=wrong.example", world.roots())).await;
    assert!(matches!(refused, DbError::Tls { .. }), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains("wrong.example") && said.contains(HOST) && said.contains("subjectAltName"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_known_by_a_certificate() {
    let Some(world) = World::get().await else { return };
    let roots = world.roots();
    let with = |name: &str, issued: &Issued, mode| {
        let certificate = world.file(&format!("{name}.crt"), &issued.certificate, 0o644);
        let key = world.file(&format!("{name}.key"), &issued.key, mode);
        format!("sslmode=verify-full sslrootcert={roots} sslcert={certificate} sslkey={key}")
    };
    let user = world.authority.issue(None, "postgres", |_| {});
    assert!(world.is_encrypted("certificate", &with("user", &user, 0o600)).await.unwrap());

    let without = world.refusal("certificate", &format!("sslmode=verify-full sslrootcert={roots}")).await;
    assert!(matches!(without, DbError::Refused { .. }), "{without:?}");
    let another = world.authority.issue(None, "somebody", |_| {});
    let another = world.refusal("certificate", &with("another", &another, 0o600)).await;
    assert!(matches!(another, DbError::Refused { .. }), "{another:?}");
    let stranger = Authority::new("stranger").issue(None, "postgres", |_| {});
    let stranger = world.refusal("certificate", &with("stranger", &stranger, 0o600)).await;
    assert!(matches!(&stranger, DbError::Tls { why, .. } if why.contains("ssl_ca_file")), "{stranger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_is_named_with_what_to_do() {
    let Some(world) = World::get().await else { return };
    let user = world.authority.issue(None, "postgres", |_| {});
    let certificate = world.file("f.crt", &user.certificate, 0o644);
    let refusal = async |key: &str, parameters: &str| {
        let parameters = format!("sslmode=require sslcert={certificate} sslkey={key} {parameters}");
        let refused = world.refusal("certificate", &parameters).await;
        assert!(matches!(refused, DbError::Address(_)), "{refused:?}");
        refused.to_string()
    };
    let key = world.file("f.key", &user.key, 0o640);
    if fs::metadata(&key).is_ok_and(|status| std::os::unix::fs::MetadataExt::uid(&status) == 0) {
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    }
    assert!(refusal(&key, "").await.contains("chmod 0600"));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(refusal(&world.file("e.key", encrypted, 0o600), "").await.contains("openssl pkey"));
    let another = KeyPair::generate().unwrap().serialize_pem();
    assert!(refusal(&world.file("a.key", &another, 0o600), "").await.contains("does not fit"));
    assert!(refusal("/nonexistent/key", "").await.contains("/nonexistent/key"));
    let good = world.file("g.key", &user.key, 0o600);
    assert!(refusal(&good, "sslrootcert=/nonexistent/roots").await.contains("/nonexistent/roots"));
    let empty = world.file("empty.crt", "nothing", 0o644);
    assert!(refusal(&good, &format!("sslrootcert={empty}")).await.contains("BEGIN CERTIFICATE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_can_be_bound_to_the_channel() {
    let Some(world) = World::get().await else { return };
    let roots = world.roots();
    let bound = format!("sslmode=verify-full sslrootcert={roots} channel_binding=require");
    assert!(world.is_encrypted("password", &format!("password=hush {bound}")).await.unwrap());
    let wrong = world.refusal("password", &format!("password=wrong {bound}")).await;
    assert!(matches!(wrong, DbError::Refused { .. }), "{wrong:?}");
    let unbound = world.refusal("any", "sslmode=disable channel_binding=require").await;
    assert!(format!("{unbound:?}").contains("channel binding"), "{unbound:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_not_shown_again_without_encryption() {
    let Some(world) = World::get().await else { return };
    let wrong = world.refusal("password", "user=walter password=wrong sslmode=prefer").await;
    assert!(matches!(wrong, DbError::Refused { .. }), "{wrong:?}");
    // The server writes down what it refuses before it says so.
    let log = fs::read_to_string(Path::new(&world.server.directory).join("server.log")).unwrap();
    let of_walter: Vec<&str> = log.lines().filter(|line| line.contains("FATAL") && line.contains("walter")).collect();
    assert!(matches!(of_walter[..], [once] if once.contains("password authentication failed")), "{of_walter:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_anew_for_each_connection() {
    let Some(world) = World::get().await else { return };
    let roots = world.file("anew.crt", &world.authority.pem(), 0o644);
    let parameters = format!("sslmode=verify-full sslrootcert={roots} application_name=anew");
    let app = open(&world.address("any", &parameters), Limits::default()).await;
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'anew'";
    world.file("anew.crt", &Authority::new("stranger").pem(), 0o644);
    private::ask(&world.server.address(), end).await.unwrap();
    let refused = loop {
        // The first may still meet the connection that was ended.
        match app.submit(&permit(), new("a")).await {
            Err(TaskError::Db(DbError::Unreachable(_))) => {}
            other => break other,
        }
    };
    assert!(matches!(refused, Err(TaskError::Db(DbError::Tls { .. }))), "{refused:?}");
    world.file("anew.crt", &world.authority.pem(), 0o644);
    app.submit(&permit(), new("a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorities_of_the_system_are_trusted_if_the_address_says_so() {
    let Some(world) = World::get().await else { return };
    let stranger = world.file("system.crt", &Authority::new("stranger").pem(), 0o644);
    for (list, outcome) in [(world.roots(), "opened"), (stranger, "no authority in the system's list has issued")] {
        for parameters in ["sslrootcert=system", "sslmode=verify-full"] {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tls::a_child_that_opens_a_store", "--ignored", "--nocapture"])
                .envs([("SSL_CERT_FILE", &*list), ("SKEP_TEST_ADDRESS", &*world.address("any", parameters))])
                .env_remove("SSL_CERT_DIR")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&child.stdout);
            assert!(said.contains(outcome), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of the_authorities_of_the_system_are_trusted_if_the_address_says_so"]
async fn a_child_that_opens_a_store() {
    let address = std::env::var("SKEP_TEST_ADDRESS").unwrap();
    match Db::open(&address, Limits::default()).await {
        Ok(_) => println!("opened"),
        Err(error) => println!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_or_with_an_old_certificate_is_told_apart() {
    let authority = Authority::new("test authority");
    let old = authority.issue(Some(HOST), HOST, |params| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    });
    let files = [("server.crt", &*old.certificate), ("server.key", &*old.key)];
    let Some(mut server) = Server::start("", &files) else { return };
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("roots.crt");
    fs::write(&roots, authority.pem()).unwrap();
    let address = format!("{} host={HOST} sslrootcert={} sslmode=verify-full", server.tcp(), roots.display());
    let refusal = async || match Db::open(&address, Limits::default()).await {
        Ok(_) => panic!("opened"),
        Err(DbError::Tls { why, .. }) => why,
        Err(other) => panic!("{other:?}"),
    };
    assert!(refusal().await.contains("ssl = on"));
    Db::open(&format!("{} host={HOST}", server.tcp()), Limits::default()).await.unwrap().close().await;
    server.execute("alter system set ssl = on").await;
    server.tell("restart");
    assert!(refusal().await.contains("has expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_its_own_authority_is_believed_if_it_is_named() {
    let mut params = CertificateParams::new([HOST.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let own = params.self_signed(&key).unwrap().pem();
    let files = [("server.crt", &*own), ("server.key", &*key.serialize_pem())];
    let Some(server) = Server::start("ssl = on\n", &files) else { return };
    let directory = tempfile::tempdir().unwrap();
    let opened = async |roots: &str, parameters: &str| {
        let file = directory.path().join("roots.crt");
        fs::write(&file, roots).unwrap();
        let address = format!("{} host={HOST} sslrootcert={} {parameters}", server.tcp(), file.display());
        Db::open(&address, Limits::default()).await.map(drop)
    };
    opened(&own, "sslmode=verify-full").await.unwrap();
    opened(&own, "sslmode=verify-ca host=other.example").await.unwrap();
    let another = opened(&own, "sslmode=verify-full host=other.example").await;
    assert!(matches!(&another, Err(DbError::Tls { why, .. }) if why.contains("subjectAltName")), "{another:?}");
    let stranger = opened(&Authority::new("stranger").pem(), "sslmode=verify-full").await;
    assert!(matches!(&stranger, Err(DbError::Tls { why, .. }) if why.contains("is not itself in")), "{stranger:?}");
}
