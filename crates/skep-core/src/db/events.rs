//! The event log.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Db, DbError, Doing, Tx,
    postgres::Pipeline,
    sql::{Cause, Row, values},
};
use crate::{
    Namespace, Timestamp,
    event::{Event, Kind, NewEvent},
    limits::PAGE_MAX,
    run::RunId,
    task::TaskId,
};

const COLUMNS: &str = "number, at, kind, run, task, data";

impl Tx<'_> {
    /// Append an event. It is numbered and written after the closure's last word, whenever this is called: the log's
    /// lock is taken last.
    pub fn append(&mut self, event: NewEvent) {
        self.events.push(event);
    }
}

/// Number the events of a group and write them down, on SQLite. The last thing before the commit, because it takes
/// each log's lock until then (on PostgreSQL; on SQLite to have one rule).
///
/// The number comes from a row that each writer locks in turn. A database sequence would hand out 7 before 6 is
/// committed, and a reader who has seen 7 would never look for 6.
pub(super) fn write_events<'a>(
    connection: &Connection,
    events: impl IntoIterator<Item = (&'a Namespace, &'a NewEvent)>,
) -> rusqlite::Result<()> {
    let mut last = connection.prepare_cached("select number from log where namespace = ?1")?;
    let mut append = connection.prepare_cached(
        "insert into event (namespace, number, at, kind, run, task, data) values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let mut numbers: HashMap<&str, i64> = HashMap::new();
    for (Namespace(namespace), event) in events {
        let number = match numbers.entry(namespace) {
            Entry::Occupied(number) => number.into_mut(),
            Entry::Vacant(place) => {
                let last = last.query_row([namespace], |row| row.get(0)).optional()?;
                place.insert(last.unwrap_or(0))
            }
        };
        *number += 1;
        let (run, task) = (event.run.as_ref().map(|run| &run.0), event.task.as_ref().map(|task| &task.0));
        let data = event.data.to_string();
        append.execute(params![namespace, *number, event.at.0, event.kind.name(), run, task, data])?;
    }
    let mut keep = connection.prepare_cached(
        "insert into log (namespace, number) values (?1, ?2)
         on conflict (namespace) do update set number = excluded.number",
    )?;
    numbers.iter().try_for_each(|(namespace, last)| keep.execute(params![namespace, last]).map(drop))
}

/// The same on PostgreSQL, where a statement costs more than a row: all of them in one.
pub(super) async fn append_events(
    pipeline: &mut Pipeline,
    Namespace(namespace): &Namespace,
    events: &[NewEvent],
) -> Result<(), tokio_postgres::Error> {
    if events.is_empty() {
        return Ok(());
    }
    let sql = "with counted as (
            insert into log (namespace, number) values ($1, $2)
            on conflict (namespace) do update set number = log.number + $2 returning number - $2 as before
         )
         insert into event (namespace, number, at, kind, run, task, data)
         select $1, before + n, at, kind, run, task, data
         from counted, unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])
            with ordinality as new (at, kind, run, task, data, n)";
    let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
    let at: Vec<i64> = events.iter().map(|event| event.at.0).collect();
    let texts = |text: fn(&NewEvent) -> Option<String>| events.iter().map(text).collect::<Vec<_>>();
    let kind = texts(|event| Some(event.kind.name().to_owned()));
    let run = texts(|event| event.run.as_ref().map(|run| run.0.clone()));
    let task = texts(|event| event.task.as_ref().map(|task| task.0.clone()));
    let data = texts(|event| Some(event.data.to_string()));
    pipeline.later(sql, values![namespace, count, at, kind, run, task, data]).await
}

impl Db {
    /// What happened in a namespace after `number`, oldest first: at most `limit` events, and never more than
    /// [`PAGE_MAX`].
    pub async fn events_after(&self, namespace: &Namespace, number: i64, limit: usize) -> Result<Vec<Event>, DbError> {
        let namespace = namespace.0.clone();
        self.read(async move |db| {
            let sql =
                format!("select {COLUMNS} from event where namespace = $1 and number > $2 order by number limit $3");
            db.all(&sql, values![&namespace, number, page(limit)], from_row).await.doing("read events")
        })
        .await
    }

    /// What happened in a run after the namespace's `number`, oldest first: at most `limit` events, and never more
    /// than [`PAGE_MAX`].
    pub async fn events_of(
        &self,
        namespace: &Namespace,
        run: &RunId,
        number: i64,
        limit: usize,
    ) -> Result<Vec<Event>, DbError> {
        let (Namespace(namespace), RunId(run)) = (namespace.clone(), run.clone());
        self.read(async move |db| {
            let sql = format!(
                "select {COLUMNS} from event where namespace = $1 and run = $2 and number > $3 order by number limit $4"
            );
            db.all(&sql, values![&namespace, &run, number, page(limit)], from_row).await.doing("read events")
        })
        .await
    }
}

impl Db {
    /// When the last thing happened in a run; `None` if nothing has.
    pub async fn last_event_of(&self, namespace: &Namespace, run: &RunId) -> Result<Option<Timestamp>, DbError> {
        let (Namespace(namespace), RunId(run)) = (namespace.clone(), run.clone());
        let read = |row: &Row<'_>| Ok(Timestamp(row.next()?));
        let last = self.read(async move |db| {
            let sql = "select at from event where namespace = $1 and run = $2 order by number desc limit 1";
            db.all(sql, values![&namespace, &run], read).await.doing("read events")
        });
        Ok(last.await?.pop())
    }
}

/// How many rows to ask for.
pub(super) fn page(limit: usize) -> i64 {
    i64::try_from(limit.min(PAGE_MAX)).unwrap_or(i64::MAX)
}

fn from_row(row: &Row<'_>) -> Result<Event, Cause> {
    let number = row.next()?;
    let at = Timestamp(row.next()?);
    let kind = row.next_text()?.unwrap_or_default();
    let kind = Kind::from_name(kind).ok_or_else(|| format!("unknown event kind {kind:?}"))?;
    let run = row.next::<Option<String>>()?.map(RunId);
    let task = row.next::<Option<String>>()?.map(TaskId);
    Ok(Event { number, at, kind, run, task, data: row.next_json()? })
}
