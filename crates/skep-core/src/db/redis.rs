//! Redis beside PostgreSQL: what hubs share that cannot be stale or may be lost.
//!
//! - Contents of files, by their hash: what is under a hash never changes. What is read is hashed again, so a value
//!   that somebody has damaged is not used.
//! - Notices between hubs (`postgres/notices.rs`), which say "look"; a poll backs them up.
//! - The events of each workspace, for programs that listen to `task:{taskId}:updates`. Each is told at most once, by the
//!   hub that has committed it; its number lets the listener see that some are missing.
//!
//! Nobody waits long for any of it. A session with Redis belongs to one task on a thread of its own (`session.rs`), which
//! connects again and again while there is none. Meanwhile, and for [`PAUSE`] after an answer that was late, everything
//! is done as if there were no Redis. So with Redis gone the store is slower, never wrong and never stuck.

mod address;
mod check;
mod connect;
mod session;

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, cmd};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, broadcast, mpsc, watch},
    time::timeout,
};

pub use self::check::RedisCheck;
use self::{address::Address, connect::Link};
use super::{DbError, start_thread};
use crate::{Namespace, event::Event, hex::hex};

/// How long the store waits for contents, or to hand over a notice, before it does without.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// How long Redis is left alone after an answer that did not come in that time.
const PAUSE: Duration = Duration::from_secs(1);
/// How long nothing is stored in Redis after it said that it is full.
const FULL_PAUSE: Duration = Duration::from_secs(10);
/// How long opening waits for the first connection, before it goes on without.
const OPEN_TIME_MAX: Duration = Duration::from_secs(1);
/// How long closing waits for what was not sent yet.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);
/// How long contents are kept: seconds.
const BLOB_SECONDS: u64 = 3600;
/// Contents that are kept in Redis. What is smaller comes with its row, at no cost; what is larger would keep others
/// waiting, as Redis does one thing at a time.
pub(super) const BLOB_BYTES: std::ops::RangeInclusive<u64> = 1024..=1 << 20;
/// Contents and events that wait to be sent. What comes then is not sent.
const QUEUE_MAX: usize = 4096;
/// Their bytes.
const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Notices that wait to be read; who is behind looks at everything.
const NOTICES_MAX: usize = 64;

/// Where Redis is, and how events are shown to those who listen there.
#[derive(Clone, Copy)]
pub struct Redis<'a> {
    /// `redis://HOST:PORT`, and the other forms that docs/database.md has.
    pub address: &'a str,
    /// The text of an event on its workspace's channel.
    pub show: fn(&Event) -> String,
}

/// How Redis is, and what it was good for since the database was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisReport {
    /// Whether there is a connection that works.
    pub is_connected: bool,
    /// What is wrong, if it is known.
    pub why: Option<Arc<str>>,
    /// Contents that were found there.
    pub hits: u64,
    /// Contents that were not, because they were not there or Redis did not answer.
    pub misses: u64,
    /// Contents that were there, and were not what their hash says.
    pub damaged: u64,
    /// Events that were published.
    pub published: u64,
    /// Contents and events that were not sent: without a connection, or with too many waiting.
    pub dropped: u64,
    /// Answers that were errors, that did not come in time, or did not come at all.
    pub errors: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Memory that Redis uses, in bytes; of all servers that take writes in a cluster.
    pub memory_bytes: u64,
    /// Memory that it may use (`maxmemory`), in bytes; 0 without a limit.
    pub memory_bytes_max: u64,
}

/// Redis, as the store uses it. It is gone when the last copy of the store is.
pub(super) struct Hot {
    state: Arc<State>,
    show: fn(&Event) -> String,
    queue: mpsc::Sender<Work>,
    /// Ends when the thread has.
    thread: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

/// What is sent without anybody waiting for it.
enum Work {
    Keep {
        key: String,
        bytes: Arc<[u8]>,
    },
    Publish {
        channel: Arc<str>,
        text: String,
    },
    /// Nothing more; end.
    Stop,
}

/// What the store and the session share.
struct State {
    live: RwLock<Option<Live>>,
    begun: Instant,
    /// Until when Redis is left alone, and until when nothing is stored there: milliseconds since `begun`.
    paused_until: AtomicU64,
    full_until: AtomicU64,
    queued_bytes: AtomicUsize,
    heard: broadcast::Sender<Arc<str>>,
    /// The channel for notices of this database.
    channel: String,
    /// Says when the first attempt to connect has ended.
    tried: watch::Sender<bool>,
    why: Mutex<Option<Arc<str>>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
    published: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
    connections: AtomicU64,
    memory_bytes: AtomicU64,
    memory_bytes_max: AtomicU64,
}

/// A session that works.
#[derive(Clone)]
struct Live {
    link: Link,
    /// Have the session checked.
    doubted: Arc<Notify>,
}

impl Hot {
    /// Begin to connect, and wait a moment for it. `database` tells databases apart whose hubs use the same Redis.
    ///
    /// # Errors
    ///
    /// The address cannot be used. That nobody answers there is no error.
    pub(super) async fn open(redis: &Redis<'_>, database: &str) -> Result<Hot, DbError> {
        let address = parse(redis.address)?;
        connect::check(&address)?;
        let state = Arc::new(State::new(format!("skep:{database}:events")));
        let (queue, work) = mpsc::channel(QUEUE_MAX);
        let (alive, thread) = mpsc::channel(1);
        let shared = Arc::clone(&state);
        start_thread("redis", &alive, move || session::run(&address, &shared, work))?;
        let mut tried = state.tried.subscribe();
        let _ = timeout(OPEN_TIME_MAX, tried.wait_for(|tried| *tried)).await; // goes on without
        Ok(Hot { state, show: redis.show, queue, thread: tokio::sync::Mutex::new(thread) })
    }

    /// Contents with this hash and of this size, unless they are not there, are not what they should be, or do not come
    /// in time.
    pub(super) async fn blob(&self, sha256: &str, size: u64) -> Option<Vec<u8>> {
        let state = &self.state;
        let live = state.live()?;
        // One byte more than there should be shows that there is too much, however much that is.
        let command = cmd("GETRANGE").arg(key(sha256)).arg(0).arg(size).take();
        let bytes: Option<Vec<u8>> = state.ask(&live, &command).await;
        let found = bytes.filter(|bytes| !bytes.is_empty());
        let sound = found.as_ref().is_some_and(|bytes| hex(&Sha256::digest(bytes)) == sha256);
        match (&found, sound) {
            (_, true) => state.counts.hits.fetch_add(1, Relaxed),
            (Some(_), false) => state.counts.damaged.fetch_add(1, Relaxed),
            (None, false) => state.counts.misses.fetch_add(1, Relaxed),
        };
        found.filter(|_| sound)
    }

    /// Keep contents of this size for whoever reads them next. Does not wait.
    pub(super) fn keep(&self, sha256: &str, size: usize, bytes: impl FnOnce() -> Arc<[u8]>) {
        let fits = u64::try_from(size).is_ok_and(|size| BLOB_BYTES.contains(&size));
        if fits && self.is_up() && !self.state.is_before(&self.state.full_until) {
            self.enqueue(Work::Keep { key: key(sha256), bytes: bytes() });
        }
    }

    /// Whether there is a connection.
    pub(super) fn is_up(&self) -> bool {
        self.state.live().is_some()
    }

    /// Tell those who listen what has happened in a namespace. Does not wait.
    pub(super) fn publish(&self, namespace: &Namespace, events: &[Event]) {
        // A team's own events are no task's.
        if namespace.workspace.is_empty() || !self.state.is_up() {
            return;
        }
        let channel: Arc<str> = format!("task:{}:updates", namespace.workspace).into();
        for event in events {
            self.enqueue(Work::Publish { channel: Arc::clone(&channel), text: (self.show)(event) });
        }
    }

    fn enqueue(&self, work: Work) {
        let (bytes, queued) = (work.bytes(), &self.state.queued_bytes);
        let has_room = queued.fetch_add(bytes, Relaxed) + bytes <= QUEUE_BYTES_MAX;
        if !has_room || self.queue.try_send(work).is_err() {
            queued.fetch_sub(bytes, Relaxed);
            self.state.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Give a notice to the other hubs. Whether Redis has taken it.
    pub(super) async fn notify(&self, notice: &str) -> bool {
        let Some(live) = self.state.live() else { return false };
        let command = cmd("PUBLISH").arg(&self.state.channel).arg(notice).take();
        self.state.ask::<i64>(&live, &command).await.is_some()
    }

    /// What other hubs say, and this one; and [`LOOK`](super::postgres::LOOK) whenever some of it may have been missed.
    pub(super) fn notices(&self) -> broadcast::Receiver<Arc<str>> {
        self.state.heard.subscribe()
    }

    pub(super) fn report(&self) -> RedisReport {
        let State { counts, why, .. } = &*self.state;
        let count = |count: &AtomicU64| count.load(Relaxed);
        RedisReport {
            is_connected: self.state.is_up(),
            why: why.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            hits: count(&counts.hits),
            misses: count(&counts.misses),
            damaged: count(&counts.damaged),
            published: count(&counts.published),
            dropped: count(&counts.dropped),
            errors: count(&counts.errors),
            connections: count(&counts.connections),
            memory_bytes: count(&counts.memory_bytes),
            memory_bytes_max: count(&counts.memory_bytes_max),
        }
    }

    /// Send what waits to be sent, within a moment, and end.
    pub(super) async fn close(&self) {
        let ended = async {
            let _ = self.queue.send(Work::Stop).await; // fails if the thread has ended
            while self.thread.lock().await.recv().await.is_some() {}
        };
        let _ = timeout(CLOSE_TIME_MAX, ended).await;
    }
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Work::Keep { bytes, .. } => bytes.len(),
            Work::Publish { text, .. } => text.len(),
            Work::Stop => 0,
        }
    }

    fn command(&self) -> Option<Cmd> {
        match self {
            Work::Keep { key, bytes } => Some(cmd("SET").arg(key).arg(&bytes[..]).arg("EX").arg(BLOB_SECONDS).take()),
            Work::Publish { channel, text } => Some(cmd("PUBLISH").arg(&**channel).arg(text).take()),
            Work::Stop => None,
        }
    }
}

impl State {
    fn new(channel: String) -> State {
        State {
            live: RwLock::default(),
            begun: Instant::now(),
            paused_until: AtomicU64::new(0),
            full_until: AtomicU64::new(0),
            queued_bytes: AtomicUsize::new(0),
            heard: broadcast::Sender::new(NOTICES_MAX),
            channel,
            tried: watch::Sender::new(false),
            why: Mutex::default(),
            counts: Counts::default(),
        }
    }

    fn is_up(&self) -> bool {
        self.live.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The session, unless there is none or Redis is left alone.
    fn live(&self) -> Option<Live> {
        if self.is_before(&self.paused_until) {
            return None;
        }
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_live(&self, live: Option<Live>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }

    fn is_before(&self, until: &AtomicU64) -> bool {
        self.elapsed_ms() < until.load(Relaxed)
    }

    fn leave_alone(&self, until: &AtomicU64, time: Duration) {
        until.store(self.elapsed_ms() + u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2), Relaxed);
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Redis' answer, if it is one and comes in [`WAIT_MAX`].
    async fn ask<T: redis::FromRedisValue>(&self, live: &Live, command: &Cmd) -> Option<T> {
        match timeout(WAIT_MAX, live.link.ask(command)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                self.note(live, &error);
                None
            }
            Err(_) => {
                self.counts.errors.fetch_add(1, Relaxed);
                self.leave_alone(&self.paused_until, PAUSE);
                live.doubted.notify_one();
                None
            }
        }
    }

    /// What an error means for what is done next.
    fn note(&self, live: &Live, error: &RedisError) {
        self.counts.errors.fetch_add(1, Relaxed);
        if error.code() == Some("OOM") {
            self.leave_alone(&self.full_until, FULL_PAUSE);
        } else if ends_session(error) {
            self.leave_alone(&self.paused_until, PAUSE);
            live.doubted.notify_one();
        }
        tracing::debug!(why = explain(error), "Redis has failed");
    }
}

/// The key of contents.
fn key(sha256: &str) -> String {
    format!("skep:blob:{sha256}")
}

fn parse(address: &str) -> Result<Address, DbError> {
    Address::parse(address).map_err(DbError::Redis)
}

/// The file of the private key with which Redis at this address is logged in to, if there is one.
pub(super) fn private_key(address: &str) -> Option<std::path::PathBuf> {
    Address::parse(address).ok()?.tls?.client.map(|(_, key)| key)
}

/// Whether an error says that the session is of no use, and not only what was asked.
fn ends_session(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::ClusterDown) => {
            true
        }
        ErrorKind::Server(_) | ErrorKind::UnexpectedReturnType | ErrorKind::Extension => false,
        _ => true,
    }
}

/// What is wrong, in words that follow the name of a server. Nothing that was sent is in them.
fn explain(error: &RedisError) -> String {
    let code = error.code().unwrap_or_default();
    match error.kind() {
        _ if code == "NOAUTH" => "asks for a password; write it in the address: redis://:PASSWORD@HOST".to_owned(),
        _ if code == "WRONGPASS" => "refuses the user or the password in the address".to_owned(),
        _ if code == "NOPERM" => format!(
            "does not allow its user what Skep needs ({}); docs/database.md has the rule for `ACL SETUSER`",
            error.detail().unwrap_or_default()
        ),
        _ if code == "OOM" => "is full, and may evict nothing (`maxmemory-policy`)".to_owned(),
        ErrorKind::AuthenticationFailed => {
            "refuses the login; check the user and the password in the address".to_owned()
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            "is a replica, which takes no writes; name its master, or its sentinels".to_owned()
        }
        ErrorKind::Server(_) if code.is_empty() => "has failed".to_owned(),
        ErrorKind::Server(_) => format!("says {code} {}", error.detail().unwrap_or_default()),
        ErrorKind::Parse => "does not answer as Redis does; is it another program's port, or one for TLS?".to_owned(),
        _ if error.is_timeout() => "does not answer in time".to_owned(),
        _ if error.is_connection_refusal() => "does not accept connections".to_owned(),
        _ => format!("cannot be used: {error}"),
    }
}
