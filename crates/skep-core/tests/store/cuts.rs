//! What a write's answer is worth when the connection to PostgreSQL is lost, at whichever message.
//!
//! A proxy between the store and the server understands the messages of the protocol and cuts a connection at one of
//! them. For each: `Ok` means that the write is there, and an error means that it is not. The store is unsure only when
//! the server cannot be asked afterwards.

use std::{
    io,
    ops::AddAssign,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use skep_core::db::DbError;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixListener, UnixStream},
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::config::Host;

use super::*;

/// What happens to the connection at a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// Whoever it is for does not get it.
    Before,
    /// It is the last one that gets through.
    After,
    /// Whatever the client says gets through, but it hears nothing any more, up to the server's next last word.
    Swallow,
    /// It does not get through, and only after a while the connection ends.
    Stall,
    /// It does not get through, nor does anything else, on any connection, old or new.
    Down,
    /// The same, for [`OUTAGE_TIME`].
    Outage,
}

/// As long as a server needs to start again.
const OUTAGE_TIME: Duration = Duration::from_secs(1);

/// How long a connection that will be cut gives no sign of life.
const STALL_TIME: Duration = Duration::from_millis(200);
/// Nobody waits for longer, on however slow a machine.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(25);
/// Tasks that are there before, each in a queue of its own.
const CLAIMED: [&str; 2] = ["x", "y"];
/// Moments that are tried side by side.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whichever_message_is_the_last_one_acknowledged_is_there_and_refused_is_not() {
    let Some(address) = postgres::new_schema().await else { return };
    let schema = Arc::new(Schema::new(&address).await);
    let (messages, _) = schema.work("undisturbed", None).await;
    assert!(messages > 100, "{messages} messages");
    // How many there are depends on which writes meet in a group.
    let moments = (1..=messages + messages / 4).flat_map(|n| {
        let often = if n % 2 == 0 { Cut::Before } else { Cut::After };
        let seldom = match n % 8 {
            1 | 4 => Some(Cut::Outage),
            2 => Some(Cut::Down),
            3 => Some(Cut::Stall),
            _ => None,
        };
        [often, Cut::Swallow].into_iter().chain(seldom).map(move |cut| (n, cut))
    });
    let (mut running, mut total) = (JoinSet::new(), Answers::default());
    for (n, cut) in moments {
        let schema = Arc::clone(&schema);
        running.spawn(async move { schema.work(&format!("{cut:?} {n}"), Some((n, cut))).await.1 });
        if running.len() >= AT_ONCE {
            total += running.join_next().await.unwrap().unwrap();
        }
    }
    running.join_all().await.into_iter().for_each(|answers| total += answers);
    eprintln!("{messages} messages: {total:?}");
    assert!(total.ok > 0 && total.err > 0 && total.met > messages, "{total:?}");
    assert_eq!(sound(&address).await.events_missing, 0);
}

#[derive(Debug, Default)]
struct Answers {
    /// Cuts that were met.
    met: usize,
    ok: usize,
    err: usize,
    unsure: usize,
}

impl AddAssign for Answers {
    fn add_assign(&mut self, other: Answers) {
        self.met += other.met;
        self.ok += other.ok;
        self.err += other.err;
        self.unsure += other.unsure;
    }
}

/// A schema in which each moment has a namespace.
struct Schema {
    config: tokio_postgres::Config,
    /// Not through a proxy.
    app: Hub,
}

impl Schema {
    async fn new(address: &str) -> Schema {
        Schema { config: address.parse().unwrap(), app: open(address, Limits::default()).await }
    }

    /// Three writes in a group, two of them claims, and one alone, while a connection is cut. Says how many messages
    /// there were.
    async fn work(&self, name: &str, cut: Option<(usize, Cut)>) -> (usize, Answers) {
        let proxy = Proxy::start(&self.config, cut);
        let application = name.replace(' ', "_");
        // Not `open`, which writes: this has no connection for writes yet.
        let limits = Limits { clock: self.app.clock.clone(), ..Limits::default() };
        let db = Db::open(&self.address(proxy.directory.path(), &application), limits).await.unwrap();
        let app = App::new(db);
        let permit = permit_in(name);
        self.app.register(&permit, "test").await;
        for name in CLAIMED {
            self.app.submit(&permit, NewTask { queue: name.into(), ..new(name) }).await.unwrap();
        }
        proxy.shared.armed.store(true, Ordering::SeqCst);
        let submit = |task: NewTask| async {
            let answer = timeout(ANSWER_TIME_MAX, app.submit(&permit, task)).await;
            answer.unwrap_or_else(|_| panic!("{name}: nobody answers"))
        };
        let holder = holder("w");
        let claim = async |queue: &str| {
            let answer = timeout(ANSWER_TIME_MAX, app.claim(&permit, queue, &holder)).await;
            answer.unwrap_or_else(|_| panic!("{name}: nobody answers")).map(|task| task.unwrap())
        };
        let group = tokio::join!(submit(new("a")), claim(CLAIMED[0]), claim(CLAIMED[1]));
        let alone = submit(needs("b", &["a"])).await;
        proxy.shared.armed.store(false, Ordering::SeqCst);
        proxy.shared.is_down.store(false, Ordering::SeqCst);
        let messages = proxy.shared.count.load(Ordering::SeqCst);
        app.db.close().await;
        drop(proxy);
        self.all_connections_have_ended(&application).await;

        let mut answers = Answers { met: usize::from(cut.is_some_and(|(n, _)| n <= messages)), ..Answers::default() };
        for (task, answer) in ["a", CLAIMED[0], CLAIMED[1], "b"].iter().zip([group.0, group.1, group.2, alone]) {
            let found = self.app.db.task(&permit.to_read(), &id(task)).await.unwrap();
            let is_there = found.is_some_and(|found| !CLAIMED.contains(task) || found.held().is_some());
            match answer {
                Ok(_) => {
                    assert!(is_there, "{name}: {task} was acknowledged and is lost");
                    answers.ok += 1;
                }
                Err(TaskError::Db(DbError::Unsure(error))) => {
                    let could_ask = cut.is_some_and(|(_, cut)| cut != Cut::Down);
                    assert!(!could_ask, "{name}: {task} is unsure, although the server can be asked: {error:?}");
                    answers.unsure += 1;
                }
                Err(error) => {
                    assert!(!is_there, "{name}: {task} was refused ({error:?}) and is there");
                    answers.err += 1;
                }
            }
        }
        (messages, answers)
    }

    /// The same database through a proxy.
    fn address(&self, directory: &Path, application: &str) -> String {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let password = self.config.get_password().map_or(String::new(), |word| format!("password='{}'", text(word)));
        format!(
            "host={} dbname={} user={} {password} application_name={application} options='{}'",
            directory.display(),
            self.config.get_dbname().unwrap(),
            self.config.get_user().unwrap(),
            self.config.get_options().unwrap(),
        )
    }

    /// What a connection was about to do when it was cut, the server may still be doing.
    async fn all_connections_have_ended(&self, application: &str) {
        let (client, connection) = self.config.connect(tokio_postgres::NoTls).await.unwrap();
        let mut running = JoinSet::new();
        running.spawn(connection);
        let began = Instant::now();
        let count = "select count(*) from pg_stat_activity where application_name = $1";
        while client.query_one(count, &[&application]).await.unwrap().get::<_, i64>(0) > 0 {
            assert!(began.elapsed() < ANSWER_TIME_MAX, "{application}: the server does not end the connections");
            sleep(Duration::from_millis(2)).await; // the server tells nobody
        }
    }
}

/// A socket that leads to the server, up to one message.
struct Proxy {
    directory: tempfile::TempDir,
    shared: Arc<Shared>,
    _running: JoinSet<()>,
}

struct Shared {
    armed: AtomicBool,
    /// Nothing gets through.
    is_down: AtomicBool,
    outage: Notify,
    /// Messages since it is armed, in both directions and on all connections.
    count: AtomicUsize,
    cut: Option<(usize, Cut)>,
}

impl Proxy {
    fn start(server: &tokio_postgres::Config, cut: Option<(usize, Cut)>) -> Proxy {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let [armed, is_down] = [false, false].map(AtomicBool::new);
        let shared = Arc::new(Shared { armed, is_down, outage: Notify::new(), count: AtomicUsize::new(0), cut });
        let (of_listener, server) = (Arc::clone(&shared), server.clone());
        let mut running = JoinSet::new();
        let of_outage = Arc::clone(&shared);
        running.spawn(async move {
            of_outage.outage.notified().await;
            sleep(OUTAGE_TIME).await;
            of_outage.is_down.store(false, Ordering::SeqCst);
        });
        running.spawn(async move {
            let mut connections = JoinSet::new(); // they end with this task
            while let Ok((client, _)) = listener.accept().await {
                if of_listener.is_down.load(Ordering::SeqCst) {
                    continue;
                }
                connections.spawn(of_listener.clone().connect(client, server.clone()));
            }
        });
        Proxy { directory, shared, _running: running }
    }
}

impl Shared {
    /// Lead a client to the server. When this returns, the connection is cut on both sides.
    async fn connect(self: Arc<Self>, client: UnixStream, server: tokio_postgres::Config) {
        let port = server.get_ports().first().copied().unwrap_or(5432);
        match &server.get_hosts()[0] {
            Host::Unix(directory) => {
                let path: PathBuf = directory.join(format!(".s.PGSQL.{port}"));
                let server = UnixStream::connect(path).await.unwrap();
                let (from_server, to_server) = server.into_split();
                self.pass(client, from_server, to_server).await;
            }
            Host::Tcp(host) => {
                let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                let (from_server, to_server) = server.into_split();
                self.pass(client, from_server, to_server).await;
            }
        }
    }

    async fn pass(&self, client: UnixStream, from_server: impl AsyncRead + Unpin, to_server: impl AsyncWrite + Unpin) {
        let (from_client, to_client) = client.into_split();
        let is_deaf = AtomicBool::new(false);
        let _ = tokio::select! {
            ended = self.pass_on(from_client, to_server, &is_deaf, true) => ended,
            ended = self.pass_on(from_server, to_client, &is_deaf, false) => ended,
        };
    }

    /// Pass messages on until the connection ends or is to be cut.
    async fn pass_on(
        &self,
        from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        is_deaf: &AtomicBool,
        by_client: bool,
    ) -> io::Result<()> {
        let mut from = BufReader::new(from);
        let mut is_first = by_client; // what a client says first has no kind
        loop {
            let message = read_message(&mut from, !is_first).await?;
            is_first = false;
            if is_deaf.load(Ordering::SeqCst) && !by_client {
                match message[0] {
                    b'Z' => return Ok(()), // ready for the next query: what it was asked is done
                    _ => continue,
                }
            }
            match self.cut_here() {
                _ if self.is_down.load(Ordering::SeqCst) => return Ok(()),
                None => to.write_all(&message).await?,
                Some(Cut::Before) => return Ok(()),
                Some(Cut::After) => return to.write_all(&message).await,
                Some(Cut::Swallow) => {
                    is_deaf.store(true, Ordering::SeqCst);
                    match by_client {
                        true => to.write_all(&message).await?,
                        false if message[0] == b'Z' => return Ok(()),
                        false => {}
                    }
                }
                Some(cut @ (Cut::Down | Cut::Outage)) => {
                    self.is_down.store(true, Ordering::SeqCst);
                    if cut == Cut::Outage {
                        self.outage.notify_one();
                    }
                    return Ok(());
                }
                Some(Cut::Stall) => {
                    sleep(STALL_TIME).await;
                    return Ok(());
                }
            }
        }
    }

    /// Count a message.
    fn cut_here(&self) -> Option<Cut> {
        if !self.armed.load(Ordering::SeqCst) {
            return None;
        }
        let n = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        self.cut.filter(|(at, _)| *at == n).map(|(_, cut)| cut)
    }
}

/// One message with its header: a byte for its kind, unless it has none, and its length.
async fn read_message(from: &mut (impl AsyncRead + Unpin), has_kind: bool) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(has_kind) + 4];
    from.read_exact(&mut message).await?;
    let header = message.len();
    let length = u32::from_be_bytes(message[header - 4..].try_into().unwrap()) as usize;
    message.resize(header - 4 + length, 0);
    from.read_exact(&mut message[header..]).await?;
    Ok(message)
}
