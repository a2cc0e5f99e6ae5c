//! The event log.

use std::sync::{Arc, LazyLock};

use super::{
    Db, DbError, Doing, Tx,
    follow::{Ends, Page},
    sql::{Cause, Row, Sql, Value, values},
};
use crate::{
    Namespace, Timestamp,
    event::{Event, EventActor, EventKind, NewEvent, Subject},
    limits::PAGE_MAX,
    policy::{Permit, Read},
    run::RunId,
    task::TaskId,
};

/// Events that are deleted in one transaction. Other writes of the namespace wait meanwhile.
const DELETED_MAX: usize = 1000;

/// The columns of an event but for its number, in the order in which they are written and read.
const COLUMNS: &str = "at, actor, agent, on_behalf_of, kind, run, task, subject_kind, subject, data";
/// How many columns that is, with the number.
const WIDTH: usize = 11;
/// Events that a statement inserts on SQLite: enough to share what it costs to begin and to end one.
const INSERTED: usize = 8;
static INSERT: LazyLock<String> = LazyLock::new(|| insert(1));
static INSERT_SEVERAL: LazyLock<String> = LazyLock::new(|| insert(INSERTED));

/// A statement that inserts so many events of one namespace, which is `$1`.
fn insert(count: usize) -> String {
    let row = |row: usize| {
        let places = (0..WIDTH).map(|column| format!(", ${}", 2 + row * WIDTH + column));
        format!("($1{})", places.collect::<String>())
    };
    let rows: Vec<String> = (0..count).map(row).collect();
    format!("insert into event (namespace, number, {COLUMNS}) values {}", rows.join(", "))
}

impl Tx<'_> {
    /// Append an event, caused by the actor for whom the write acts ([`Tx::act_for`]). It is numbered and written when
    /// the whole group is, before its commit.
    pub(crate) fn append(&mut self, event: NewEvent) {
        self.events.push(event.by(self.actor.clone()));
    }

    /// Delete events that belong to no run and no task and are older than this, at most [`DELETED_MAX`]. Whether there
    /// may be more.
    pub(crate) async fn delete_loose_events(&mut self, before: Timestamp) -> Result<bool, DbError> {
        let row = self.sql.row_id();
        let among = self.sql.among(&format!(
            "select {row} from event where namespace = $1 and run is null and task is null and at < $2 limit $3"
        ));
        let sql = format!("delete from event where {row} {among}");
        let values = values![self.namespace(), before.0, page(DELETED_MAX)];
        let deleted = self.has_changed(&sql, values).await.doing("delete old events")?;
        if deleted {
            self.find_first_event().await?;
        }
        Ok(deleted)
    }

    /// Set the beginning of the log to the first event that is there.
    pub(super) async fn find_first_event(&mut self) -> Result<(), DbError> {
        let sql = "update namespace set first_event =
                coalesce((select min(number) from event where namespace = $1), last_event + 1) where id = $2";
        self.execute(sql, values![self.namespace(), self.namespace()]).await.doing("find the first event")
    }
}

/// Number the events of a group and write them down: the last thing before the commit.
///
/// The numbers come from the namespace's row, which is locked. A database sequence would hand out 7 before 6 is
/// committed, and a reader who has seen 7 would never look for 6. Returns the number before the first.
pub(super) async fn append_events(sql: &mut Sql<'_>, namespace: i64, events: &mut [Event]) -> Result<i64, Cause> {
    let count = i64::try_from(events.len())?;
    match sql {
        Sql::Sqlite(_) => {
            sql.execute("update namespace set last_event = last_event + $1 where id = $2", values![count, namespace])
                .await?;
            let number = "select last_event from namespace where id = $1";
            let last = sql.all(number, values![namespace], |row| row.next::<i64>()).await?;
            let before = last.first().ok_or("the namespace is missing")? - count;
            number_after(before, events);
            let (several, rest) = events.as_chunks::<INSERTED>();
            sql.execute_each(&INSERT_SEVERAL, several.iter().map(|events| rows_of(namespace, events))).await?;
            sql.execute_each(&INSERT, rest.chunks(1).map(|event| rows_of(namespace, event))).await?;
            Ok(before)
        }
        // A statement costs more than a row here, so all of them are in one.
        Sql::Postgres(pipeline) => {
            let locked = pipeline.namespace().await?.ok_or("the namespace is missing")?;
            number_after(locked.last_event, events);
            let insert = format!(
                "with counted as (update namespace set last_event = $1 where id = $2)
                 insert into event (namespace, number, {COLUMNS}) select $2, $3 + n, {COLUMNS}
                 from unnest($4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
                        $11::text[], $12::text[], $13::text[])
                    with ordinality as new ({COLUMNS}, n)"
            );
            let at: Vec<i64> = events.iter().map(|event| event.at.0).collect();
            let mut texts: [Vec<Value<'_>>; 9] = Default::default();
            for event in &*events {
                let [_, _, row @ ..] = values_of(event);
                texts.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
            }
            let mut values = values![locked.last_event + count, namespace, locked.last_event, at].to_vec();
            values.extend(texts.map(Value::texts));
            pipeline.later(&insert, &values).await?;
            Ok(locked.last_event)
        }
    }
}

fn number_after(before: i64, events: &mut [Event]) {
    for (number, event) in (before + 1..).zip(events) {
        event.number = number;
    }
}

/// The values of [`insert`].
fn rows_of(namespace: i64, events: &[Event]) -> Vec<Value<'_>> {
    let mut values = Vec::with_capacity(1 + events.len() * WIDTH);
    values.push(namespace.into());
    events.iter().for_each(|event| values.extend(values_of(event)));
    values
}

/// The number of an event, and its [`COLUMNS`].
fn values_of(event: &Event) -> [Value<'_>; WIDTH] {
    let Event { number, at, actor, run, task, kind } = event;
    let (agent, on_behalf_of) = actor.as_ref().map(|actor| (&actor.agent, &actor.on_behalf_of)).unzip();
    let (subject_kind, subject) = kind.subject().map(|Subject { kind, id }| (kind, id)).unzip();
    [
        (*number).into(),
        at.0.into(),
        actor.as_ref().map(|actor| &*actor.principal).into(),
        agent.and_then(Option::as_deref).into(),
        on_behalf_of.and_then(Option::as_deref).into(),
        kind.name().into(),
        run.as_ref().map(|run| &run.0).into(),
        task.as_ref().map(|task| &task.0).into(),
        subject_kind.into(),
        subject.into(),
        kind.data().into(),
    ]
}

impl Db {
    /// The events of a namespace after `number`, or those of a run, and the first and last number of the namespace's log,
    /// all at one moment.
    pub(crate) async fn event_page(
        &self,
        namespace: &Namespace,
        run: Option<&RunId>,
        number: i64,
        limit: usize,
    ) -> Result<(Page, Ends), DbError> {
        let (of_run, used) = if run.is_some() { ("and run = $4", 4) } else { ("", 3) };
        let sql = format!(
            "select first_event, last_event, number, {COLUMNS} from (
                select first_event, last_event from namespace where id = $1
             ) as ends left join (
                select number, {COLUMNS} from event
                where namespace = $2 and number > $3 {of_run} order by number limit {}
             ) as page on true order by number",
            page(limit)
        );
        let run = run.map(|run| run.0.clone());
        let read = |row: &Row<'_>| {
            let ends = Ends { first: row.next()?, last: row.next()? };
            let event = row.next::<Option<i64>>()?.map(|number| from_row(number, row)).transpose()?;
            Ok((ends, event.map(Arc::new)))
        };
        self.read_in(namespace, async move |db, namespace| {
            let all = values![namespace, namespace, number, run.as_ref()];
            let rows = db.all(&sql, &all[..used], read).await;
            let rows = rows.doing("read events")?;
            let ends = rows.first().map_or(Ends::default(), |(ends, _)| *ends);
            let events: Vec<_> = rows.into_iter().filter_map(|(_, event)| event).collect();
            let last_read = events.last().filter(|_| events.len() >= limit).map(|event| event.number);
            Ok((Page::new(number, last_read.unwrap_or(ends.last), events), ends))
        })
        .await
    }

    /// When the last event of a run happened; `None` if there is none.
    pub async fn last_event_of(&self, permit: &Permit<Read>, run: &RunId) -> Result<Option<Timestamp>, DbError> {
        let RunId(run) = run.clone();
        let read = |row: &Row<'_>| Ok(Timestamp(row.next()?));
        let last = self.read_in(permit.namespace(), async move |db, namespace| {
            let sql = "select at from event where namespace = $1 and run = $2 order by number desc limit 1";
            db.all(sql, values![namespace, &run], read).await.doing("read events")
        });
        Ok(last.await?.pop())
    }
}

/// How many rows to ask for.
pub(super) fn page(limit: usize) -> i64 {
    i64::try_from(limit.min(PAGE_MAX)).unwrap_or(i64::MAX)
}

/// The rest of a row whose number was read.
fn from_row(number: i64, row: &Row<'_>) -> Result<Event, Cause> {
    let at = Timestamp(row.next()?);
    let text = || row.next::<Option<String>>();
    let (principal, agent, on_behalf_of) = (text()?, text()?.map(Arc::from), text()?.map(Arc::from));
    let actor = principal.map(|principal| EventActor { principal: principal.into(), agent, on_behalf_of });
    let name = text()?.unwrap_or_default();
    let (run, task) = (text()?.map(RunId), text()?.map(TaskId));
    let subject = text()?.zip(text()?).map(|(kind, id)| Subject::new(kind, id));
    let kind = EventKind::from_database(&name, row.next_as_json()?.ok_or("an event without data")?, subject);
    Ok(Event { number, at, actor, run, task, kind })
}
