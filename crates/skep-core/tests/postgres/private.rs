//! PostgreSQL servers of a test's own: with other settings, with TLS, behind PgBouncer, to be stopped and started.
//!
//! Each lives exactly as long as the pipe to its script, as the shared one does.

use std::{
    io::{BufRead, BufReader, Lines, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio_postgres::SimpleQueryMessage;

/// A server of a test's own.
pub(crate) struct Server {
    script: Script,
    /// The directory of its socket.
    pub(crate) directory: String,
    /// Its port on 127.0.0.1, and in the name of its socket.
    pub(crate) port: u16,
}

/// Files in the directory of a server's data, each with what is in it.
pub(crate) type Files<'a> = &'a [(&'a str, &'a str)];

impl Server {
    /// Start one with these settings (lines of `postgresql.conf`), files, and databases. `None` as in
    /// [`super::postgres::new_schema`].
    pub(crate) fn start(settings: &str, files: Files<'_>) -> Option<Server> {
        Server::start_from(settings, files, "")
    }

    /// Start a standby of another server, with these settings.
    pub(crate) fn standby_of(primary: &Server, settings: &str) -> Option<Server> {
        Server::start_from(settings, &[], &primary.address())
    }

    fn start_from(settings: &str, files: Files<'_>, primary: &str) -> Option<Server> {
        // Between choosing a port and its use, somebody else may take it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let settings = format!("port = {port}\nlisten_addresses = '127.0.0.1'\n{settings}\n");
            let files = [files, &[("more.conf", &*settings)]].concat();
            match Script::start(include_str!("server.sh"), &files, &[("PRIMARY", primary)]) {
                Some((script, directory)) => return Some(Server { script, directory, port }),
                None if !is_installed("initdb") => break,
                None => {}
            }
        }
        left_out("PostgreSQL", "initdb and pg_ctl")
    }

    /// The address of its socket.
    pub(crate) fn address(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.directory, self.port)
    }

    /// What is not on a socket.
    pub(crate) fn tcp(&self) -> String {
        format!("hostaddr=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }

    /// A new, empty database on its socket.
    pub(crate) async fn database(&self, name: &str) -> String {
        self.execute(&format!("create database {name}")).await;
        self.address().replace("dbname=postgres", &format!("dbname={name}"))
    }

    /// Run statements in the database `postgres`.
    pub(crate) async fn execute(&self, sql: &str) {
        super::postgres::execute(&self.address(), sql).await;
    }

    /// Have the script do something, and wait until it is done: `restart`, `stop`, `kill` (-9), `start`,
    /// `pause`, `resume`, `reload`, `promote`.
    pub(crate) fn tell(&mut self, what: &str) {
        self.script.tell(what);
    }
}

/// The first column of the first row that a statement gives, as text.
pub(crate) async fn ask(address: &str, sql: &str) -> Option<String> {
    let (client, connection) = tokio_postgres::connect(address, tokio_postgres::NoTls).await.unwrap();
    let answer = tokio::select! {
        answer = client.simple_query(sql) => answer.unwrap(),
        ended = connection => panic!("the connection ended: {ended:?}"),
    };
    answer.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// A PgBouncer of a test's own, before a server.
pub(crate) struct Bouncer {
    _script: Script,
    directory: String,
}

impl Bouncer {
    /// Start one with these settings (lines of `pgbouncer.ini`).
    pub(crate) fn start(server: &Server, settings: &str) -> Option<Bouncer> {
        let settings = format!(
            "[databases]\npostgres = host={} port={} user=postgres\n[pgbouncer]\nunix_socket_dir = .\nlisten_port = 6432\n\
             auth_type = any\nlogfile = pgbouncer.log\npidfile = pgbouncer.pid\n{settings}\n",
            server.directory, server.port
        );
        match Script::start(include_str!("bouncer.sh"), &[("pgbouncer.ini", &settings)], &[]) {
            Some((script, directory)) => Some(Bouncer { _script: script, directory }),
            None => left_out("PgBouncer", "pgbouncer"),
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("host={} port=6432 user=postgres dbname=postgres", self.directory)
    }
}

/// Passes on what is sent to a server and back, until it is told to keep all connections that there are, and pass on
/// nothing more.
pub(crate) struct Proxy {
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
    accepted: Arc<AtomicUsize>,
    stalled: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) fn start(server: &Server) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), server.port);
        let (accepted, stalled) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let proxy = Proxy { port, accepted: Arc::clone(&accepted), stalled: Arc::clone(&stalled) };
        // These threads end with the process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                for (from, to) in [(client, server), back] {
                    let stalled = Arc::clone(&stalled);
                    thread::spawn(move || pass_on(from, to, || number < stalled.load(Ordering::SeqCst)));
                }
            }
        });
        proxy
    }

    pub(crate) fn stall(&self) {
        self.stalled.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, is_stalled: impl Fn() -> bool) {
    let mut bytes = [0; 1 << 14];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        while is_stalled() {
            thread::park();
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// A shell script that runs a server as long as its standard input is open, and does what it is told there.
pub(crate) struct Script {
    child: Child,
    told: Option<ChildStdin>,
    says: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// Run it, in a directory with these files. Gives that directory when the server is ready.
    pub(crate) fn start(script: &str, files: Files<'_>, environment: &[(&str, &str)]) -> Option<(Script, String)> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("SCRIPT", script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        command.env("FILES", names.join(" ")).envs(environment.iter().copied());
        for (name, text) in files {
            command.env(format!("FILE_{}", name.replace(['.', '-'], "_")), text);
        }
        let mut child = command.spawn().unwrap();
        let told = child.stdin.take();
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut script = Script { child, told, says };
        let directory = script.says.next()?.unwrap();
        Some((script, directory))
    }

    pub(crate) fn tell(&mut self, what: &str) {
        writeln!(self.told.as_ref().unwrap(), "{what}").unwrap();
        let done = self.says.next().unwrap_or_else(|| panic!("{what} failed"));
        assert_eq!(done.unwrap(), "done");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.told.take());
        let _ = self.child.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let found = format!("for p in /usr/lib/postgresql/*/bin; do PATH=$p:$PATH; done; command -v {program}");
    Command::new("sh").args(["-c", &found]).output().unwrap().status.success()
}

pub(crate) fn left_out<T>(what: &str, programs: &str) -> Option<T> {
    let missing = format!("no {what} here that starts: install it ({programs})");
    assert!(std::env::var("SKEP_TEST_REQUIRE").as_deref() != Ok("1"), "{missing}");
    eprintln!("LEFT OUT, {missing}");
    None
}
