//! Pipelined statements: those whose answer is not awaited are sent together with the next one whose answer is.
//!
//! A round trip costs more than most statements do. So a change that gives no rows is kept back until a `select`, or
//! the commit, goes the same way; the server works through them in order. When one fails, so does everything after it
//! up to the rollback: the first failure is the true one, and a transaction that has one is never committed.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Instant,
};

use futures_util::{TryStreamExt, future::MaybeDone, future::maybe_done};
use tokio_postgres::{Error, Row, Statement, error::SqlState};

use super::{asks_for_another_try, is_lost, pool::Object};
use crate::{Timestamp, db::sql::Value};

/// Statements that are kept back at most.
const UNSENT_MAX: usize = 256;

/// A connection, and what is still to be sent on it.
pub(in crate::db) struct Pipeline {
    client: Arc<Object>,
    unsent: Vec<(Statement, Vec<Value<'static>>)>,
    locked: Locked,
    is_waiting: Arc<AtomicBool>,
    failure: Option<Failure>,
}

/// The row of the namespace that a transaction has locked.
#[derive(Debug, Default)]
enum Locked {
    #[default]
    No,
    /// The statement is the one of this place among those that are kept back.
    Unsent(usize),
    /// Its answer.
    Yes(Namespace),
}

/// What the server says of a namespace when it locks it.
#[derive(Clone, Copy, Debug)]
pub(in crate::db) struct Namespace {
    /// Number of its last event.
    pub(in crate::db) last_event: i64,
    /// The transaction that holds the lock.
    pub(in crate::db) transaction: u64,
    /// The server's time.
    pub(in crate::db) server_time: Timestamp,
    /// When it was asked, and when the answer came.
    pub(in crate::db) asked: (Instant, Instant),
}

/// Lock a namespace. The time comes from a statement's own clock, so it is not earlier than when it was asked for.
const LOCK: &str = "select last_event, cast(cast(pg_current_xact_id() as text) as bigint),
     cast(extract(epoch from clock_timestamp()) * 1000000 as bigint) from namespace where id = $1 for update";

/// What is known of the first statement that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::db) enum Failure {
    /// Others were in the way; another try may succeed.
    Again,
    /// The connection is gone, and what was under way may or may not be done.
    Lost,
    /// Another try would fail, too.
    Final,
}

impl Pipeline {
    pub(in crate::db) fn new(client: Arc<Object>) -> Pipeline {
        Pipeline { client, unsent: Vec::new(), locked: Locked::No, is_waiting: Arc::default(), failure: None }
    }

    /// The connection, if it is not shared.
    pub(super) fn into_client(self) -> Option<Object> {
        Arc::into_inner(self.client)
    }

    /// See [`super::connect::Connection::incarnation`].
    pub(super) fn incarnation(&self) -> Option<String> {
        self.client.incarnation().map(str::to_owned)
    }

    /// Whether an answer of the server is awaited right now.
    pub(in crate::db) fn is_waiting(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_waiting)
    }

    /// The first failure, if there was one.
    pub(in crate::db) fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// Send a statement some time before the next [`Pipeline::all`] or [`Pipeline::flush`], which says if it failed.
    pub(in crate::db) async fn later(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), Error> {
        let statement = self.prepare(sql).await?;
        self.unsent.push((statement, values.iter().map(Value::to_owned).collect()));
        if self.unsent.len() >= UNSENT_MAX { self.flush().await } else { Ok(()) }
    }

    /// Lock a namespace, some time before the next statement that is waited for.
    pub(in crate::db) async fn lock_namespace(&mut self, id: i64) -> Result<(), Error> {
        self.locked = Locked::Unsent(self.unsent.len());
        self.later(LOCK, &[Value::Integer(id)]).await
    }

    /// What the server said when it locked the namespace; `None` if there is no lock, or no such namespace.
    pub(in crate::db) async fn namespace(&mut self) -> Result<Option<Namespace>, Error> {
        if matches!(self.locked, Locked::Unsent(_)) {
            self.flush().await?;
        }
        Ok(match self.locked {
            Locked::Yes(namespace) => Some(namespace),
            Locked::No | Locked::Unsent(_) => None,
        })
    }

    /// Send what was kept back, then a statement, and wait for its rows.
    pub(in crate::db) async fn all(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(sql).await?;
        self.send(Some((&statement, values))).await.map(|(rows, _)| rows)
    }

    /// Send what was kept back, then two statements, and wait for their rows.
    pub(in crate::db) async fn both(
        &mut self,
        first: (&str, &[Value<'_>]),
        second: (&str, &[Value<'_>]),
    ) -> Result<(Vec<Row>, Vec<Row>), Error> {
        let (one, other) = (self.prepare(first.0).await?, self.prepare(second.0).await?);
        self.unsent.push((one, first.1.iter().map(Value::to_owned).collect()));
        let mut answers = self.send_all(Some((&other, second.1))).await?;
        let (other, one) = (answers.pop().unwrap_or_default(), answers.pop().unwrap_or_default());
        Ok((one.0, other.0))
    }

    /// The same, to know how many rows have changed.
    pub(in crate::db) async fn count(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Error> {
        let statement = self.prepare(sql).await?;
        self.send(Some((&statement, values))).await.map(|(_, count)| count)
    }

    /// Send what was kept back, then a statement with each of these rows of values, and wait for what each says.
    pub(in crate::db) async fn each<'v, V: AsRef<[Value<'v>]>>(
        &mut self,
        sql: &str,
        each: impl IntoIterator<Item = V>,
    ) -> Result<Vec<Answer>, Error> {
        let statement = self.prepare(sql).await?;
        let (mut each, mut answers) = (each.into_iter().peekable(), Vec::new());
        while each.peek().is_some() {
            let earlier = self.unsent.len();
            let owned = |values: V| (statement.clone(), values.as_ref().iter().map(Value::to_owned).collect());
            self.unsent.extend(each.by_ref().take(UNSENT_MAX).map(owned));
            answers.extend(self.send_all(None).await?.into_iter().skip(earlier));
        }
        Ok(answers)
    }

    /// Send what was kept back and wait until all of it is done.
    pub(in crate::db) async fn flush(&mut self) -> Result<(), Error> {
        self.send(None).await.map(drop)
    }

    /// Run several statements that take no values and give no rows.
    pub(in crate::db) async fn batch(&mut self, sql: &str) -> Result<(), Error> {
        self.flush().await?;
        let result = self.waiting(self.client.batch_execute(sql)).await;
        self.note(result)
    }

    async fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        let statement = self.waiting(self.client.prepare_cached(sql)).await;
        self.note(statement)
    }

    async fn send(&mut self, last: Option<(&Statement, &[Value<'_>])>) -> Result<Answer, Error> {
        Ok(self.send_all(last).await?.pop().unwrap_or_default())
    }

    async fn send_all(&mut self, last: Option<(&Statement, &[Value<'_>])>) -> Result<Vec<Answer>, Error> {
        let unsent = std::mem::take(&mut self.unsent);
        let lock = match std::mem::take(&mut self.locked) {
            Locked::Unsent(place) => Some(place),
            other => {
                self.locked = other;
                None
            }
        };
        let client = &self.client;
        let all = unsent.iter().map(|(statement, values)| (statement, values.as_slice())).chain(last);
        let query = async |(statement, values): (&Statement, &[Value<'_>])| {
            let mut rows = pin!(client.query_raw(statement, values).await?);
            let all = rows.as_mut().try_collect().await?;
            Ok((all, rows.rows_affected().unwrap_or(0)))
        };
        let answers = all.map(|one| Box::pin(maybe_done(query(one)))).collect();
        let asked = Instant::now();
        let answers = self.waiting(in_order(answers)).await;
        let answers = self.note(answers)?;
        if let Some(row) = lock.and_then(|place| answers.get(place)?.0.first()) {
            let (last_event, transaction, server_time): (i64, i64, i64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let (transaction, server_time) = (transaction.cast_unsigned(), Timestamp(server_time));
            let asked = (asked, Instant::now());
            self.locked = Locked::Yes(Namespace { last_event, transaction, server_time, asked });
        }
        Ok(answers)
    }

    async fn waiting<T>(&self, answer: impl Future<Output = T>) -> T {
        self.is_waiting.store(true, Ordering::Relaxed);
        let answer = answer.await;
        self.is_waiting.store(false, Ordering::Relaxed);
        answer
    }

    fn note<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            // This one was the primary and is none any more, although it has kept the connection.
            let is_demoted = error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
            if is_demoted {
                self.client.give_up();
            }
            let failure = match error {
                error if is_lost(error) => Failure::Lost,
                error if asks_for_another_try(error) || is_demoted => Failure::Again,
                _ => Failure::Final,
            };
            self.failure.get_or_insert(failure);
        }
        result
    }
}

/// The rows of a statement, and how many it has changed or found.
pub(in crate::db) type Answer = (Vec<Row>, u64);

/// Start all, which sends them in this order, then wait for all. Returns what each said, or the first failure.
async fn in_order<F>(mut answers: Vec<Pin<Box<MaybeDone<F>>>>) -> Result<Vec<Answer>, Error>
where
    F: Future<Output = Result<Answer, Error>>,
{
    std::future::poll_fn(|context| {
        for answer in &mut answers {
            let _ = answer.as_mut().poll(context);
        }
        Poll::Ready(())
    })
    .await;
    let mut result = Ok(Vec::with_capacity(answers.len()));
    for mut answer in answers {
        answer.as_mut().await;
        match (&mut result, answer.as_mut().take_output()) {
            (Ok(all), Some(Ok(next))) => all.push(next),
            (Ok(_), Some(Err(error))) => result = Err(error),
            _ => {}
        }
    }
    result
}
