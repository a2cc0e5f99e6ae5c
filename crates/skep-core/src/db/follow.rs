//! Followers of a namespace, which are given its events as soon as they are committed.
//!
//! ```text
//!   commit ──▶ the newest events ──▶ a thousand followers, from memory
//!   notice, poll ──▶ the last number ──▶ one read for all who are behind
//! ```
//!
//! While a namespace has followers, this process remembers its newest events as it commits them. What other
//! processes commit is known by its number: from notices (PostgreSQL's, or Redis') within milliseconds, and from a poll of the
//! namespaces' rows every [`POLL_INTERVAL`], which needs nothing but the database. The events are then read, once for
//! all followers.
//!
//! The log decides, not the wake-up: a follower has seen everything up to a number, and is given what comes after it.
//! So a notice that is lost, repeated or late costs time and nothing else.

mod lag;
mod log;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{broadcast::error::RecvError, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

pub(super) use self::lag::Lag;
pub(crate) use self::log::{Ends, Page};
use self::log::{Log, Next};
use super::{
    Db, DbError, Doing, Store,
    postgres::{Notice, Notices},
    redis::Hot,
    sql::values,
};
use crate::{
    Namespace,
    event::Event,
    policy::{Permit, Read},
};

/// How often to look for what other processes have committed, while there are followers.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Namespaces that one statement of a poll asks for.
const POLLED_MAX: usize = 1000;
/// Events that a follower is given at once.
const EVENTS_MAX: usize = 256;

/// The namespaces that are followed.
#[derive(Default)]
pub(super) struct Streams(Mutex<Followed>);

#[derive(Default)]
struct Followed {
    streams: HashMap<Namespace, Used>,
    /// Looks at what other processes commit, while there are streams.
    poll_others: JoinSet<()>,
}

#[derive(Default)]
struct Used {
    stream: Arc<Stream>,
    /// By so many.
    watches: usize,
}

/// A namespace that is followed.
#[derive(Default)]
struct Stream {
    log: Mutex<Log>,
    /// The number of the last event, as far as it is known.
    last: watch::Sender<i64>,
    /// Held while a page is read, so that followers who need the same one wait for it.
    reading: tokio::sync::Mutex<()>,
    pages_read: AtomicU64,
}

impl Stream {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Change what is known of the log, and wake those who wait for more.
    fn update(&self, change: impl FnOnce(&mut Log)) {
        let last = {
            let mut log = self.log();
            change(&mut log);
            log.ends().last
        };
        self.last.send_if_modified(|known| {
            let is_new = *known < last;
            *known = last.max(*known);
            is_new
        });
    }
}

impl Streams {
    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, namespace: &Namespace) -> Option<Arc<Stream>> {
        self.followed().streams.get(namespace).map(|used| Arc::clone(&used.stream))
    }

    /// This process has committed events, numbered from `after` on.
    pub(super) fn committed(&self, namespace: &Namespace, after: i64, events: Vec<Event>) {
        if let Some(stream) = self.get(namespace) {
            stream.update(|log| log.append(after, events));
        }
    }

    fn names(&self) -> Vec<Namespace> {
        self.followed().streams.keys().cloned().collect()
    }

    /// The number of the last event of a namespace, as far as it is known here.
    fn last(&self, namespace: &Namespace) -> i64 {
        self.get(namespace).map_or(i64::MAX, |stream| stream.log().ends().last)
    }

    fn learn(&self, namespace: &Namespace, ends: Ends) {
        if let Some(stream) = self.get(namespace) {
            stream.update(|log| log.learn_ends(ends));
        }
    }
}

/// What an [`EventFollower`](crate::app::EventFollower) is told.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// What has happened next, oldest first; never nothing.
    Events(Vec<Arc<Event>>),
    /// The log begins after the follower's number: events have been deleted, whether or not it wanted them. Or the log
    /// was replaced by an older one. A caller that relies on having seen everything must read the current state. The
    /// follower continues with `first`.
    Reset {
        /// The number of the first event that is kept.
        first: i64,
        /// The number of the last event.
        last: i64,
    },
}

/// Wakes its owner when something happens in a namespace.
pub struct Watch {
    db: Db,
    namespace: Namespace,
    stream: Arc<Stream>,
    last: watch::Receiver<i64>,
}

impl Watch {
    /// Wait until something has happened since the last call of this or of [`Watch::mark_seen`]. It says "look
    /// again", and may say so once too often. Nothing is lost if the future is dropped.
    pub async fn changed(&mut self) {
        let _ = self.last.changed().await; // fails without the stream, which we have
    }

    /// Whether [`Watch::changed`] would return at once.
    pub fn has_changed(&self) -> bool {
        self.last.has_changed().unwrap_or(false)
    }

    /// What has happened so far is known, or is going to be looked at.
    pub fn mark_seen(&mut self) {
        self.last.mark_unchanged();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut followed = self.db.shared.streams.followed();
        if let Some(used) = followed.streams.get_mut(&self.namespace) {
            used.watches -= 1;
            if used.watches == 0 {
                followed.streams.remove(&self.namespace);
            }
        }
        if followed.streams.is_empty() {
            followed.poll_others = JoinSet::new(); // ends the polls
            self.db.shared.lag.looked(None);
        }
    }
}

/// Reads the log of a namespace from a number on, as it grows. Many of them share what they read.
/// [`crate::app::App::follow`] gives it a filter.
pub(crate) struct Follower {
    watch: Watch,
    after: i64,
    /// Whether the number is known to be one of this log.
    is_checked: bool,
}

impl Follower {
    /// Everything up to this number was seen.
    pub(crate) fn number(&self) -> i64 {
        self.after
    }

    /// How often a page of this namespace's log was read from the database, for whichever follower.
    pub(crate) fn pages_read(&self) -> u64 {
        self.watch.stream.pages_read.load(Ordering::Relaxed)
    }

    /// Wait for what happens next. Nothing is lost if the future is dropped, or if the database fails: the next call
    /// goes on at the same number.
    pub(crate) async fn next(&mut self) -> Result<News, DbError> {
        loop {
            self.watch.mark_seen();
            let mut next = self.watch.stream.log().after(self.after, EVENTS_MAX);
            if next == Next::Read {
                next = self.read().await?;
            }
            match next {
                Next::Page(page) => {
                    self.is_checked = true;
                    self.after = page.to;
                    if !page.events.is_empty() {
                        return Ok(News::Events(page.events));
                    }
                }
                Next::Reset => return Ok(self.reset()),
                Next::Nothing | Next::Read if self.is_checked => self.watch.changed().await,
                Next::Nothing | Next::Read => {
                    // Another process may have given this number a moment ago. What the database says is certain.
                    let last = self.watch.stream.log().ends().last;
                    if self.after > last {
                        self.watch.db.poll().await?;
                        if self.after > self.watch.stream.log().ends().last {
                            return Ok(self.reset());
                        }
                    }
                    self.is_checked = true;
                }
            }
        }
    }

    fn reset(&mut self) -> News {
        let Ends { first, last } = self.watch.stream.log().ends();
        self.after = first - 1;
        self.is_checked = true;
        News::Reset { first, last }
    }

    /// Read the next page, unless another follower has read it meanwhile, and return what comes next.
    async fn read(&self) -> Result<Next, DbError> {
        let Watch { db, namespace, stream, .. } = &self.watch;
        let _turn = stream.reading.lock().await;
        let next = stream.log().after(self.after, EVENTS_MAX);
        if next != Next::Read {
            return Ok(next);
        }
        let follows_known = stream.log().ends_with(self.after);
        let (page, ends) = db.event_page(namespace, None, self.after, EVENTS_MAX).await?;
        if follows_known && let Some(first) = page.events.first() {
            let lag = u64::try_from(db.now().at.0 - first.at.0).map(Duration::from_micros);
            db.shared.lag.note(lag.unwrap_or_default(), std::time::Instant::now());
        }
        stream.pages_read.fetch_add(1, Ordering::Relaxed);
        let page = Arc::new(page);
        stream.update(|log| {
            log.learn(&page);
            log.learn_ends(ends);
        });
        // Only who has the turn adds pages, so this one is still there.
        Ok(stream.log().after(self.after, EVENTS_MAX))
    }
}

impl Db {
    /// Read what happens in a namespace after `number`, which may be 0, as it happens. To be called in a runtime that
    /// lives as long as the follower.
    pub(crate) fn follow(&self, permit: &Permit<Read>, number: i64) -> Follower {
        Follower { watch: self.watch(permit), after: number, is_checked: false }
    }

    /// Be woken when something happens in a namespace. To be called in a runtime that lives as long as the watch.
    pub fn watch(&self, permit: &Permit<Read>) -> Watch {
        let namespace = permit.namespace();
        let mut followed = self.shared.streams.followed();
        let used = followed.streams.entry(namespace.clone()).or_default();
        used.watches += 1;
        let stream = Arc::clone(&used.stream);
        while followed.poll_others.try_join_next().is_some() {}
        if followed.poll_others.is_empty() {
            self.shared.lag.looked(Some(std::time::Instant::now()));
            followed.poll_others.spawn(poll_others(self.clone()));
        }
        let mut last = stream.last.subscribe();
        last.mark_unchanged();
        Watch { db: self.clone(), namespace: namespace.clone(), stream, last }
    }

    /// See what others have committed in the namespaces that are followed.
    async fn poll(&self) -> Result<(), DbError> {
        let (names, began) = (self.shared.streams.names(), std::time::Instant::now());
        for names in names.chunks(POLLED_MAX) {
            for (namespace, ends) in self.ends(names.to_vec()).await? {
                self.shared.streams.learn(&namespace, ends);
            }
        }
        let followed = self.shared.streams.followed(); // held, so that nobody ceases to follow meanwhile
        if !followed.streams.is_empty() {
            self.shared.lag.looked(Some(began));
        }
        Ok(())
    }

    /// The first and last numbers of the logs of those of these namespaces that exist.
    async fn ends(&self, names: Vec<Namespace>) -> Result<Vec<(Namespace, Ends)>, DbError> {
        let shared = Arc::clone(&self.shared);
        self.read(async move |sql| {
            let mut ids = HashMap::new();
            for name in names {
                let id = shared.namespaces.find(sql, &name).await.doing("find a namespace")?;
                ids.extend(id.map(|id| (id, name)));
            }
            let select = format!("select id, first_event, last_event from namespace where id {}", sql.any(1));
            let keys: Vec<i64> = ids.keys().copied().collect();
            let read = |row: &super::Row<'_>| Ok((row.next::<i64>()?, Ends { first: row.next()?, last: row.next()? }));
            let found = sql.all(&select, values![keys], read).await.doing("look for new events")?;
            Ok(found.into_iter().filter_map(|(id, ends)| Some((ids.remove(&id)?, ends))).collect())
        })
        .await
    }

    /// The longest that an event of another process took to be seen here by those who follow, in the last minute, or for how
    /// long it could not be looked for any. `None` if there was none. What waits for a poll takes a second.
    pub fn sync_lag(&self) -> Option<Duration> {
        self.shared.lag.get(std::time::Instant::now())
    }

    /// Process notices. Never returns.
    async fn receive_notices(&self) {
        let Store::Postgres(postgres) = &*self.store else { return std::future::pending().await };
        match self.shared.redis() {
            Some(redis) => drop(tokio::join!(self.receive(postgres.notices()), self.receive_hints(redis))),
            None => self.receive(postgres.notices()).await,
        }
    }

    async fn receive(&self, mut notices: Notices) {
        loop {
            match notices.next().await {
                Notice::Events(new) => {
                    for (name, last) in self.followed(&new) {
                        self.shared.streams.learn(&name, Ends { first: 1, last });
                    }
                }
                Notice::Poll => {
                    log_failure(self.poll().await);
                    log_failure(self.take_foreign_changes().await); // whose triggers say so
                }
            }
        }
    }

    /// Process the notices of Redis. They are not believed: what they say is a reason to look.
    async fn receive_hints(&self, redis: &Hot) {
        let mut hints = redis.notices();
        loop {
            let is_news = match hints.recv().await.map(|text| Notice::parse(&text)) {
                Ok(Notice::Events(new)) => {
                    self.followed(&new).any(|(name, last)| self.shared.streams.last(&name) < last)
                }
                Ok(Notice::Poll) | Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return,
            };
            if is_news {
                log_failure(self.poll().await);
            }
        }
    }

    /// Those of these namespaces that are followed, by name.
    fn followed(&self, numbers: &BTreeMap<i64, i64>) -> impl Iterator<Item = (Namespace, i64)> {
        let last = |name: Namespace| {
            let id = self.shared.namespaces.known(&name)?;
            Some((name, *numbers.get(&id)?))
        };
        self.shared.streams.names().into_iter().filter_map(last)
    }
}

/// Look for what other processes commit, until the store is closed.
async fn poll_others(db: Db) {
    let polls = async {
        let mut tick = interval_at(Instant::now() + POLL_INTERVAL, POLL_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match db.poll().await {
                Err(DbError::Closed) => return,
                polled => log_failure(polled),
            }
            log_failure(db.take_foreign_changes().await);
        }
    };
    tokio::select! {
        () = polls => {}
        () = db.receive_notices() => {}
    }
}

fn log_failure(polled: Result<(), DbError>) {
    if let Err(error) = polled {
        tracing::debug!(%error, "cannot poll for what other processes have committed; trying again soon");
    }
}
