//! The event log.

use rusqlite::{Connection, params};

use super::{
    Db, DbError, Doing, Tx,
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

/// Number the events of a group and write them down. The last thing before the commit, because it takes each log's
/// lock until then.
///
/// The number comes from a row that each writer locks in turn. A database sequence would hand out 7 before 6 is
/// committed, and a reader who has seen 7 would never look for 6.
pub(super) fn write_events(connection: &mut Connection, events: &[(Namespace, NewEvent)]) -> rusqlite::Result<()> {
    let mut count = connection.prepare_cached(
        "insert into log (namespace, number) values (?1, 1)
         on conflict (namespace) do update set number = number + 1 returning number",
    )?;
    let mut append = connection.prepare_cached(
        "insert into event (namespace, number, at, kind, run, task, data) values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (Namespace(namespace), event) in events {
        let number: i64 = count.query_row([namespace], |row| row.get(0))?;
        let (run, task) = (event.run.as_ref().map(|run| &run.0), event.task.as_ref().map(|task| &task.0));
        let data = event.data.to_string();
        append.execute(params![namespace, number, event.at.0, event.kind.name(), run, task, data])?;
    }
    Ok(())
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

/// How many rows to ask for.
pub(super) fn page(limit: usize) -> i64 {
    i64::try_from(limit.min(PAGE_MAX)).unwrap_or(i64::MAX)
}

fn from_row(row: Row<'_>) -> Result<Event, Cause> {
    let kind: String = row.get("kind")?;
    Ok(Event {
        number: row.get("number")?,
        at: Timestamp(row.get("at")?),
        kind: Kind::from_name(&kind).ok_or_else(|| format!("unknown event kind {kind:?}"))?,
        run: row.get::<Option<String>>("run")?.map(RunId),
        task: row.get::<Option<String>>("task")?.map(TaskId),
        data: serde_json::from_str(&row.get::<String>("data")?)?,
    })
}
