//! Notices between hubs: "there are new events in these namespaces".
//!
//! A notice is sent on a connection of its own and never within a write: PostgreSQL commits transactions that notify
//! one after the other. What happens in [`PAUSE`] is one notice. It needs not be durable, nor need it arrive: hubs also
//! poll, every second.
//!
//! With Redis, notices go there, which spares PostgreSQL a transaction for each (`db/redis.rs`), and here while that is
//! gone. Hubs hear both.
//!
//! A hub listens while it has followers, on another connection of its own. When that was lost, anything may have
//! happened, so the hub polls all that is followed.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use deadpool::managed::Manager as _;
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use super::{
    Pool,
    connect::{Connection, Connector},
};
use crate::db::{DbError, Doing, redis::Hot};

/// How long to gather what goes into one notice.
const PAUSE: Duration = Duration::from_millis(5);
/// Namespaces that one notice names; if there are more, it says "look". PostgreSQL takes 8,000 bytes, and a name
/// takes up to 41.
const NAMED_MAX: usize = 150;
/// Notices that wait to be read. The connection is not read further meanwhile.
pub(super) const WAITING_MAX: usize = 64;
/// How long to wait before connecting once more.
const CONNECT_PAUSE: Duration = Duration::from_secs(1);
/// The channel: one for each schema, since the namespaces of each have numbers of their own.
const CHANNEL: &str = "'skep_' || md5(current_schema())";
/// The notice of many namespaces.
pub(in crate::db) const LOOK: &str = "look";

/// What other hubs are to be told: the namespaces with new events, and the last number of each.
#[derive(Default)]
pub(in crate::db) struct Outbox {
    changed: Mutex<Changed>,
    filled: Notify,
}

#[derive(Default)]
struct Changed {
    last: BTreeMap<i64, i64>,
    is_too_much: bool,
}

impl Outbox {
    /// So many events came after this number.
    pub(in crate::db) fn add(&self, namespace: i64, after: i64, count: usize) {
        let last = after + i64::try_from(count).unwrap_or(0);
        let mut changed = self.changed();
        let is_full = changed.last.len() >= NAMED_MAX;
        match changed.last.entry(namespace) {
            Entry::Occupied(mut known) => *known.get_mut() = last.max(*known.get()),
            Entry::Vacant(_) if is_full => changed.is_too_much = true,
            Entry::Vacant(new) => drop(new.insert(last)),
        }
        drop(changed);
        self.filled.notify_one();
    }

    /// The notice of all that was added since the last one, if there is any.
    fn take(&self) -> Option<String> {
        let Changed { last, is_too_much } = std::mem::take(&mut *self.changed());
        let one = |(namespace, last): (&i64, &i64)| format!("{namespace}:{last}");
        match (is_too_much, last.is_empty()) {
            (true, _) => Some(LOOK.to_owned()),
            (false, true) => None,
            (false, false) => Some(last.iter().map(one).collect::<Vec<_>>().join(" ")),
        }
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Send what is in the outbox. Never returns.
pub(super) async fn send(pool: &Pool, redis: Option<&Hot>, outbox: &Outbox) {
    loop {
        outbox.filled.notified().await;
        send_now(pool, redis, outbox).await;
        sleep(PAUSE).await;
    }
}

/// Send what is in the outbox: through Redis, or where that does not take it, through PostgreSQL.
pub(super) async fn send_now(pool: &Pool, redis: Option<&Hot>, outbox: &Outbox) {
    let Some(notice) = outbox.take() else { return };
    if let Some(redis) = redis
        && redis.notify(&notice).await
    {
        return;
    }
    let sent = async {
        let client = pool.get().await.doing("connect")?;
        let statement = format!("select pg_notify({CHANNEL}, $1)");
        client.execute(&client.prepare_cached(&statement).await.doing("notify")?, &[&notice]).await.doing("notify")
    };
    if let Err(error) = sent.await {
        tracing::debug!(%error, "other hubs were not told of new events; they will poll");
    }
}

/// What a hub is told.
pub(in crate::db) enum Notice {
    /// There are new events in these namespaces; the last number of each.
    Events(BTreeMap<i64, i64>),
    /// There may be new events anywhere.
    Poll,
}

impl Notice {
    pub(in crate::db) fn parse(text: &str) -> Notice {
        let one = |text: &str| {
            let (namespace, last) = text.split_once(':')?;
            Some((namespace.parse().ok()?, last.parse().ok()?))
        };
        text.split(' ').map(one).collect::<Option<_>>().map_or(Notice::Poll, Notice::Events)
    }
}

/// What a connection that listens brings.
#[derive(Debug)]
pub(super) enum Heard {
    Notice(String),
    /// It was lost.
    Lost,
}

/// The notices of all hubs.
pub(in crate::db) struct Notices {
    connector: Connector,
    heard: mpsc::Receiver<Heard>,
    connection: Option<Connection>,
}

impl Notices {
    pub(super) fn new(connector: &Connector) -> Notices {
        let (connector, heard) = connector.listening();
        Notices { connector, heard, connection: None }
    }

    /// Wait for the next one.
    pub(in crate::db) async fn next(&mut self) -> Notice {
        if self.connection.is_none() {
            self.connection = Some(self.connect().await);
            return Notice::Poll;
        }
        match self.heard.recv().await {
            Some(Heard::Notice(text)) => Notice::parse(&text),
            Some(Heard::Lost) | None => {
                self.connection = None;
                sleep(CONNECT_PAUSE).await;
                Notice::Poll
            }
        }
    }

    async fn connect(&self) -> Connection {
        loop {
            match listen(&self.connector).await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::debug!(%error, "cannot listen to other hubs; what they do is seen a second later");
                    sleep(CONNECT_PAUSE).await;
                }
            }
        }
    }
}

async fn listen(connector: &Connector) -> Result<Connection, DbError> {
    let connection = connector.create().await?;
    let channel = connection.query_one(&format!("select {CHANNEL}"), &[]).await.doing("listen")?;
    let channel: &str = channel.get(0);
    connection.batch_execute(&format!("listen {channel}")).await.doing("listen")?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_meanwhile_is_one_notice() {
        let outbox = Outbox::default();
        assert_eq!(outbox.take(), None);
        outbox.add(2, 0, 3);
        outbox.add(1, 4, 1);
        outbox.add(2, 3, 4);
        let notice = outbox.take().unwrap();
        let Notice::Events(events) = Notice::parse(&notice) else { panic!("{notice}") };
        assert_eq!(events, BTreeMap::from([(1, 5), (2, 7)]));
        assert_eq!(outbox.take(), None);
    }

    #[test]
    fn a_notice_of_too_many_namespaces_says_that_there_is_something_and_fits() {
        let outbox = Outbox::default();
        let add = |count: usize| (0..count).for_each(|n| outbox.add(i64::MAX - n as i64, i64::MAX - 1, 1));
        add(NAMED_MAX);
        assert!(outbox.take().unwrap().len() < 8000);
        add(NAMED_MAX + 1);
        assert!(matches!(Notice::parse(&outbox.take().unwrap()), Notice::Poll));
        add(1);
        assert!(matches!(Notice::parse(&outbox.take().unwrap()), Notice::Events(_)), "the next one names it");
        assert!(matches!(Notice::parse("1:2 what is this"), Notice::Poll), "a newer hub says more");
    }
}
