//! PostgreSQL for tests: the one that `TEST_POSTGRES` names, or a private one that goes away with this process.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// The address of a new, empty schema. Where there is no PostgreSQL: `None`, with a word about it, or a panic if
/// `SKEP_TEST_REQUIRE=1` forbids to leave these tests out.
pub(crate) async fn new_schema() -> Option<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Some(server) = &*SERVER else {
        let missing = "no PostgreSQL here: install it (initdb and pg_ctl, on the PATH or in \
             /usr/lib/postgresql/*/bin), or name one in TEST_POSTGRES";
        assert!(std::env::var("SKEP_TEST_REQUIRE").as_deref() != Ok("1"), "{missing}");
        eprintln!("LEFT OUT, {missing}");
        return None;
    };
    let schema = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    execute(&server.address, &format!("drop schema if exists {schema} cascade; create schema {schema}")).await;
    let and = if server.address.contains('?') { '&' } else { '?' };
    Some(format!("{}{and}options=-csearch_path%3D{schema}", server.address))
}

/// Run statements on a connection of their own.
pub(crate) async fn execute(address: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(address, tokio_postgres::NoTls).await.unwrap();
    tokio::select! {
        done = client.batch_execute(sql) => done.unwrap(),
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

struct Server {
    address: String,
    /// Holds the pipe that keeps a private server alive. Statics are not dropped, so it closes with the process.
    _script: Option<Child>,
}

static SERVER: LazyLock<Option<Server>> = LazyLock::new(|| match std::env::var("TEST_POSTGRES") {
    Ok(address) => Some(Server { address, _script: None }),
    Err(_) => start(),
});

/// No test pulls the plug of the machine, so none needs to wait for the disk. Whoever measures does.
const OPTIONS: &str = if cfg!(test) { "-c fsync=off" } else { "" };

fn start() -> Option<Server> {
    const SCRIPT: &str = include_str!("start.sh");
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT])
        .env("SCRIPT", SCRIPT)
        .env("OPTIONS", OPTIONS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut script = command.spawn().unwrap();
    match BufReader::new(script.stdout.take().unwrap()).lines().next() {
        Some(socket) => {
            let address = format!("postgresql:///postgres?host={}&user=postgres", socket.unwrap());
            Some(Server { address, _script: Some(script) })
        }
        None => {
            script.wait().unwrap();
            None
        }
    }
}
