//! Memory entries as rows.
//!
//! ```text
//!   memory       key ─▶ place, revision, value, …
//!   memory_word  word, place ─▶ how often the entry at this place has the word
//! ```
//!
//! The words name an entry by its place, a number, and not by its key: keys are long, and an entry has many words. The
//! namespace's row has the number of entries and their bytes, so that neither is counted.
//!
//! An entry has expired when its time has passed for certain ([`Tx::surely_past`]), as for MCP tasks.

mod search;

use std::{collections::HashMap, sync::LazyLock};

use super::{
    Db, DbError, Doing, Tx,
    error::failed,
    events::page,
    sql::{Cause, Row, Select, Value, values},
    table::{Column, Table},
};
use crate::{
    Namespace, Timestamp,
    memory::{About, Entry, end_of_prefix},
    policy::{Permit, Read},
};

/// The columns of an entry, in the order of [`values_of`] and of [`about_from_row`].
const COLUMNS: [Column; 11] = [
    Column::fixed("id"),
    Column::fixed("place"),
    Column::changing("revision"),
    Column::changing("bytes"),
    Column::changing("words"),
    Column::changing("author"),
    Column::changing("agent"),
    Column::changing("created"),
    Column::changing("updated"),
    Column::changing("expires"),
    Column::changing("value").json(),
];
static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new("memory", &COLUMNS));

/// An entry's row, without the value. It may have expired.
pub(crate) struct Kept {
    pub(crate) about: About,
    place: i64,
    /// The name of the blob, if the value is one.
    blob: Option<String>,
}

/// What the entries of a namespace are together, expired ones included.
#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// The highest revision of an entry that was deleted; 0 if there was none.
    pub(crate) revision: i64,
    /// The place of the newest entry.
    place: i64,
}

impl Tx<'_> {
    /// The entry of this key, and what there is beside it.
    pub(crate) async fn memory(&mut self, key: &str) -> Result<(Option<Kept>, Usage), DbError> {
        let sql = format!("{}, value_blob from memory where namespace = $1 and id = $2", select_about());
        let values = values![self.namespace(), key];
        let entry = Select { sql: &sql, values, read: kept_from_row };
        let sql = "select memories, memory_bytes, memory_revision,
                coalesce((select min(place) from memory where namespace = $1), 0) from namespace where id = $2";
        let read = |row: &Row<'_>| {
            let (entries, bytes) = (row.next::<i64>()?.try_into()?, row.next::<i64>()?.try_into()?);
            Ok(Usage { entries, bytes, revision: row.next()?, place: row.next()? })
        };
        let values = values![self.namespace(), self.namespace()];
        let (entry, usage) = self.both(entry, Select { sql, values, read }).await.doing("look for a memory entry")?;
        let usage = usage.into_iter().next();
        Ok((entry.into_iter().next(), usage.ok_or_else(|| failed("look for a memory entry", "no namespace"))?))
    }

    /// The value of an entry.
    pub(crate) async fn memory_value(&mut self, entry: Kept) -> Result<Entry, DbError> {
        let values = values![self.namespace(), &entry.about.key];
        let found = self.first(TABLE.load(), values, entry_from_row).await.doing("read a memory entry")?;
        found.ok_or_else(|| failed("read a memory entry", "it is gone"))
    }

    /// Add an entry, or replace one, with its words.
    pub(crate) async fn save_memory(
        &mut self,
        before: Option<Kept>,
        usage: &Usage,
        (entry, words): (&Entry, &HashMap<String, i64>),
    ) -> Result<(), DbError> {
        let place = before.as_ref().map_or(usage.place - 1, |before| before.place);
        let bytes = integer(entry.about.bytes) - before.as_ref().map_or(0, |before| integer(before.about.bytes));
        let row = values_of(entry, place, words.len());
        let entries = match before {
            None => {
                if !self.insert(&TABLE, row).await.doing("add a memory entry")? {
                    return Err(failed("add a memory entry", "there is one of this key already"));
                }
                self.save_words(place, words, &HashMap::new()).await?;
                1
            }
            Some(before) => {
                self.update(&TABLE, &entry.about.key, row).await.doing("save a memory entry")?;
                let known = self.words_at(place).await?;
                self.save_words(place, words, &known).await?;
                let blob = before.blob.filter(|blob| !entry.value.is_large() || blob != entry.value.sha256());
                self.delete_unnamed_blobs(blob.into_iter().collect()).await?;
                0
            }
        };
        self.count_memory(entries, bytes, 0).await
    }

    /// Delete entries with their words.
    pub(crate) async fn delete_memory(&mut self, entries: Vec<Kept>) -> Result<(), DbError> {
        if entries.is_empty() {
            return Ok(());
        }
        let any = self.sql.any(2);
        let places: Vec<i64> = entries.iter().map(|entry| entry.place).collect();
        for table in ["memory", "memory_word"] {
            let sql = format!("delete from {table} where namespace = $1 and place {any}");
            let values = values![self.namespace(), places.clone()];
            self.execute(&sql, values).await.doing("delete memory entries")?;
        }
        let bytes: i64 = entries.iter().map(|entry| integer(entry.about.bytes)).sum();
        let revision = entries.iter().map(|entry| entry.about.revision).max().unwrap_or(0);
        self.count_memory(-i64::try_from(entries.len()).unwrap_or(i64::MAX), -bytes, revision).await?;
        self.delete_unnamed_blobs(entries.into_iter().filter_map(|entry| entry.blob).collect()).await
    }

    /// Those of these entries that have expired.
    pub(crate) async fn expired_memory(&mut self, keys: &[String]) -> Result<Vec<Kept>, DbError> {
        let any = self.sql.any(2);
        let select = select_about();
        let sql = format!("{select}, value_blob from memory where namespace = $1 and id {any} and expires <= $3");
        let values = values![self.namespace(), keys.to_vec(), self.surely_past().0];
        self.all(&sql, values, kept_from_row).await.doing("find expired memory entries")
    }

    async fn count_memory(&mut self, entries: i64, bytes: i64, revision: i64) -> Result<(), DbError> {
        let sql = "update namespace set memories = memories + $1, memory_bytes = memory_bytes + $2,
                memory_revision = case when memory_revision < $3 then $4 else memory_revision end where id = $5";
        let values = values![entries, bytes, revision, revision, self.namespace()];
        self.execute(sql, values).await.doing("count memory entries")
    }

    async fn words_at(&mut self, place: i64) -> Result<HashMap<String, i64>, DbError> {
        let sql = "select word, count from memory_word where namespace = $1 and place = $2";
        let read = |row: &Row<'_>| Ok((row.next()?, row.next()?));
        let words = self.all(sql, values![self.namespace(), place], read).await;
        Ok(words.doing("read the words of a memory entry")?.into_iter().collect())
    }

    /// Write those words of an entry that are others than before.
    async fn save_words(
        &mut self,
        place: i64,
        words: &HashMap<String, i64>,
        before: &HashMap<String, i64>,
    ) -> Result<(), DbError> {
        let gone: Vec<&str> = before.keys().filter(|word| !words.contains_key(*word)).map(String::as_str).collect();
        if !gone.is_empty() {
            let any = self.sql.any(3);
            let sql = format!("delete from memory_word where namespace = $1 and place = $2 and word {any}");
            let values = values![self.namespace(), place, gone];
            self.execute(&sql, values).await.doing("delete words of a memory entry")?;
        }
        let new = words.iter().filter(|(word, count)| before.get(*word) != Some(count));
        let to = "insert into memory_word (namespace, word, place, count)";
        let again = "on conflict (namespace, word, place) do update set count = excluded.count";
        if self.sql.answers_at_once() {
            let sql = format!("{to} values ($1, $2, $3, $4) {again}");
            for (word, count) in new {
                let values = values![self.namespace(), word, place, *count];
                self.execute(&sql, values).await.doing("write a word of a memory entry")?;
            }
            return Ok(());
        }
        let (new, counts): (Vec<&str>, Vec<i64>) = new.map(|(word, count)| (word.as_str(), *count)).unzip();
        if new.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "{to} select $1, word, $2, count from unnest($3::text[], $4::bigint[]) as new (word, count) {again}"
        );
        let values = values![self.namespace(), place, new, counts];
        self.execute(&sql, values).await.doing("write the words of a memory entry")
    }
}

impl Db {
    /// The entry of this key, if there is one.
    pub async fn memory(&self, permit: &Permit<Read>, key: &str) -> Result<Option<Entry>, DbError> {
        let (key, passed) = (key.to_owned(), self.now().surely());
        let found = self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(TABLE.load(), values![namespace, &key], entry_from_row).await.doing("read a memory entry")
        });
        Ok(found.await?.pop().filter(|entry| entry.about.is_there(passed)))
    }

    /// The entries whose keys begin with `prefix`, by key, without their values: those after a key, at most `limit`, and
    /// never more than [`crate::limits::PAGE_MAX`].
    pub async fn list_memory(
        &self,
        permit: &Permit<Read>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<About>, DbError> {
        let passed = self.now().surely();
        let after = after.filter(|after| *after >= prefix);
        let (from, than) = after.map_or((prefix, ">="), |after| (after, ">"));
        let (from, to) = (from.to_owned(), end_of_prefix(prefix));
        self.read_in(permit.namespace(), async move |db, namespace| {
            let below = if to.is_some() { "id < $4" } else { "cast($4 as text) is null" };
            let sql = format!(
                "{} from memory where namespace = $1 and id {than} $2 and (expires is null or expires > $3)
                 and {below} order by id limit $5",
                select_about()
            );
            let values = values![namespace, &from, passed.0, to, page(limit)];
            let read = |row: &Row<'_>| Ok(about_from_row(row)?.0);
            db.all(&sql, values, read).await.doing("list memory entries")
        })
        .await
    }

    /// Entries that have expired, the longest ago first, at most `limit`: each with its namespace.
    pub(crate) async fn expired_memory(&self, limit: usize) -> Result<Vec<(Namespace, String)>, DbError> {
        let passed = self.now().surely();
        self.read(async move |db| {
            let sql = "select n.team, n.workspace, m.id
                 from (select namespace, id, expires from memory where expires <= $1 order by expires limit $2) as m
                 join namespace n on n.id = m.namespace order by m.expires";
            let read = |row: &Row<'_>| {
                let (team, workspace): (String, String) = (row.next()?, row.next()?);
                Ok((Namespace { team: team.into(), workspace: workspace.into() }, row.next()?))
            };
            db.all(sql, values![passed.0, page(limit)], read).await.doing("find expired memory entries")
        })
        .await
    }
}

fn values_of(entry: &Entry, place: i64, words: usize) -> [Value<'_>; COLUMNS.len()] {
    let About { key, revision, bytes, author, agent, created, updated, expires } = &entry.about;
    [
        key.into(),
        place.into(),
        (*revision).into(),
        integer(*bytes).into(),
        i64::try_from(words).unwrap_or(i64::MAX).into(),
        author.into(),
        agent.as_ref().into(),
        created.0.into(),
        updated.0.into(),
        expires.map(|expires| expires.0).into(),
        (&entry.value).into(),
    ]
}

/// The beginning of a `select` of all columns but the value.
fn select_about() -> &'static str {
    "select id, place, revision, bytes, words, author, agent, created, updated, expires"
}

/// What is known of an entry, and its place. The value comes next.
fn about_from_row(row: &Row<'_>) -> Result<(About, i64), Cause> {
    let (key, place, revision) = (row.next()?, row.next()?, row.next()?);
    let (bytes, _words): (i64, i64) = (row.next()?, row.next()?);
    let (author, agent) = (row.next()?, row.next()?);
    let (created, updated) = (Timestamp(row.next()?), Timestamp(row.next()?));
    let expires = row.next::<Option<i64>>()?.map(Timestamp);
    Ok((About { key, revision, bytes: bytes.try_into()?, author, agent, created, updated, expires }, place))
}

fn kept_from_row(row: &Row<'_>) -> Result<Kept, Cause> {
    let (about, place) = about_from_row(row)?;
    Ok(Kept { about, place, blob: row.next()? })
}

fn entry_from_row(row: &Row<'_>) -> Result<Entry, Cause> {
    let (about, _) = about_from_row(row)?;
    let value = row.next_value()?.ok_or("a memory entry without a value")?;
    Ok(Entry { about, value })
}

fn integer(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
