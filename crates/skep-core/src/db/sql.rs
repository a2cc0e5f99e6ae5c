//! Statements on either database: values in, rows out.
//!
//! What both have: text, 64-bit integers, booleans, bytes, `$1`, `returning`, `on conflict`, partial indexes, recursive
//! `with`. Times are integers and JSON is text. Where they have different words, or plan the same words differently,
//! the words are here.

use std::{borrow::Cow, cell::Cell, error::Error, sync::atomic::Ordering};

use bytes::BytesMut;
use rusqlite::{Connection, Statement, types::ToSqlOutput};
use tokio_postgres::types::{IsNull, Type, to_sql_checked};

use super::postgres::Pipeline;
use crate::Json;

/// Where statements go. The SQLite connection is `&mut` although `&` would do: it is `Send` but not `Sync`, and
/// the future that holds this must be `Send`, because on PostgreSQL it runs on whichever thread is free.
pub(super) enum Sql<'a> {
    Sqlite(&'a mut Connection),
    Postgres(&'a mut Pipeline),
}

/// Why a statement failed. [`super::Doing`] adds what it was for.
pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// What goes into a `$n`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// Text, of which a copy costs nothing.
    Json(Json),
    /// Several texts at once, for [`Sql::any`] and `unnest`.
    Texts(Vec<Option<Cow<'a, str>>>),
    /// Several numbers at once, for `unnest`; PostgreSQL alone has it.
    Integers(Vec<Option<i64>>),
}

/// Values of a statement, each converted by `From`.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::db::sql::Value::from($value)),*] };
}
pub(super) use values;

/// A `select`, its values, and how to read a row.
pub(super) struct Select<'a, F> {
    pub(super) sql: &'a str,
    pub(super) values: &'a [Value<'a>],
    pub(super) read: F,
}

/// What a column of both databases is read as.
pub(super) trait Readable: rusqlite::types::FromSql + for<'a> tokio_postgres::types::FromSql<'a> {}
impl<T: rusqlite::types::FromSql + for<'a> tokio_postgres::types::FromSql<'a>> Readable for T {}

/// One row of an answer. Its columns are read in the order in which the statement names them.
pub(super) struct Row<'a> {
    row: AnyRow<'a>,
    next: Cell<usize>,
}

enum AnyRow<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

impl<'a> Row<'a> {
    fn new(row: AnyRow<'a>) -> Row<'a> {
        Row { row, next: Cell::new(0) }
    }

    /// The next column.
    pub(super) fn next<T: Readable>(&self) -> Result<T, Cause> {
        match self.row {
            AnyRow::Sqlite(row) => Ok(row.get(self.place())?),
            AnyRow::Postgres(row) => Ok(row.try_get(self.place())?),
        }
    }

    /// The next column, a text, without a copy.
    pub(super) fn next_text(&self) -> Result<Option<&'a str>, Cause> {
        match self.row {
            AnyRow::Sqlite(row) => Ok(row.get_ref(self.place())?.as_str_or_null()?),
            AnyRow::Postgres(row) => Ok(row.try_get(self.place())?),
        }
    }

    /// The next column, JSON that is not parsed.
    pub(super) fn next_as_json(&self) -> Result<Option<Json>, Cause> {
        Ok(self.next_text()?.map(Json::from_database))
    }

    /// The next two columns, the text of a value and the bytes of its blob: see `table.rs`.
    pub(super) fn next_value(&self) -> Result<Option<Json>, Cause> {
        match (self.next_text()?, self.next_bytes()?) {
            (_, Some(bytes)) => Ok(Some(Json::from_database(str::from_utf8(bytes)?))),
            (Some(""), None) => Err("a value is missing: there is no blob of the name that its row has".into()),
            (text, None) => Ok(text.map(Json::from_database)),
        }
    }

    /// The next column, bytes, without a copy.
    fn next_bytes(&self) -> Result<Option<&'a [u8]>, Cause> {
        match self.row {
            AnyRow::Sqlite(row) => Ok(row.get_ref(self.place())?.as_blob_or_null()?),
            AnyRow::Postgres(row) => Ok(row.try_get(self.place())?),
        }
    }

    fn place(&self) -> usize {
        self.next.replace(self.next.get() + 1)
    }
}

impl Sql<'_> {
    /// The same connection, borrowed for a shorter time.
    pub(super) fn reborrow(&mut self) -> Sql<'_> {
        match self {
            Sql::Sqlite(connection) => Sql::Sqlite(connection),
            Sql::Postgres(pipeline) => Sql::Postgres(pipeline),
        }
    }

    /// Begin a transaction that will write.
    pub(super) async fn begin(&mut self) -> Result<(), Cause> {
        match self {
            Sql::Sqlite(_) => self.execute("begin immediate", &[]).await,
            Sql::Postgres(_) => self.execute("begin", &[]).await,
        }
    }

    /// Commit it, and wait until that is durable.
    pub(super) async fn commit(&mut self) -> Result<(), Cause> {
        self.execute("commit", &[]).await?;
        match self {
            Sql::Sqlite(_) => Ok(()),
            Sql::Postgres(pipeline) => Ok(pipeline.flush().await?),
        }
    }

    /// Lock a namespace against other writers until the transaction ends. On SQLite there is no other writer.
    pub(super) async fn lock_namespace(&mut self, id: i64) -> Result<(), Cause> {
        match self {
            Sql::Sqlite(_) => Ok(()),
            Sql::Postgres(pipeline) => Ok(pipeline.lock_namespace(id).await?),
        }
    }

    /// Whether the transaction cannot be committed any more, whatever the closures in it say. SQLite rolls back by
    /// itself when the disk is full or fails, and the next statement would count alone.
    pub(super) fn has_failed(&self) -> bool {
        match self {
            Sql::Sqlite(connection) => connection.is_autocommit(),
            Sql::Postgres(pipeline) => pipeline.failure().is_some(),
        }
    }

    /// Returns a function that says whether an answer of the database is awaited; SQLite's come at once.
    pub(super) fn is_waiting(&self) -> impl Fn() -> bool + use<> {
        let is_waiting = match self {
            Sql::Sqlite(_) => None,
            Sql::Postgres(pipeline) => Some(pipeline.is_waiting()),
        };
        move || is_waiting.as_ref().is_some_and(|is_waiting| is_waiting.load(Ordering::Relaxed))
    }

    /// Run a statement to its end and read every row it gives.
    pub(super) async fn all<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&Row<'_>) -> Result<T, Cause>,
    ) -> Result<Vec<T>, Cause> {
        match self {
            Sql::Sqlite(connection) => {
                let found = repeat(connection, sql, [values], |statement| {
                    let (mut rows, mut found) = (statement.raw_query(), Vec::new());
                    while let Some(row) = rows.next()? {
                        found.push(read(&Row::new(AnyRow::Sqlite(row)))?);
                    }
                    Ok(found)
                });
                Ok(found?.pop().unwrap_or_default())
            }
            Sql::Postgres(pipeline) => {
                let rows = pipeline.all(sql, values).await?;
                rows.iter().map(|row| read(&Row::new(AnyRow::Postgres(row)))).collect()
            }
        }
    }

    /// The rows of two `select`s. On PostgreSQL they share a round trip.
    pub(super) async fn both<T, U>(
        &mut self,
        first: Select<'_, impl Fn(&Row<'_>) -> Result<T, Cause>>,
        second: Select<'_, impl Fn(&Row<'_>) -> Result<U, Cause>>,
    ) -> Result<(Vec<T>, Vec<U>), Cause> {
        match self {
            Sql::Sqlite(_) => {
                let found = self.all(first.sql, first.values, first.read).await?;
                Ok((found, self.all(second.sql, second.values, second.read).await?))
            }
            Sql::Postgres(pipeline) => {
                let (found, others) = pipeline.both((first.sql, first.values), (second.sql, second.values)).await?;
                let found = found.iter().map(|row| (first.read)(&Row::new(AnyRow::Postgres(row))));
                let others = others.iter().map(|row| (second.read)(&Row::new(AnyRow::Postgres(row))));
                Ok((found.collect::<Result<_, _>>()?, others.collect::<Result<_, _>>()?))
            }
        }
    }

    /// Run a statement that changes rows, and say how many. Cheaper than `returning` where that is enough.
    pub(super) async fn count(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Cause> {
        match self {
            Sql::Sqlite(_) => Ok(self.count_each(sql, [values]).await?.into_iter().sum()),
            Sql::Postgres(pipeline) => Ok(pipeline.count(sql, values).await?),
        }
    }

    /// Run a statement with each of these rows of values, and read the first row that each gives.
    pub(super) async fn first_of_each<'v, V: AsRef<[Value<'v>]>, T>(
        &mut self,
        sql: &str,
        each: impl IntoIterator<Item = V>,
        read: impl Fn(&Row<'_>) -> Result<T, Cause>,
    ) -> Result<Vec<Option<T>>, Cause> {
        match self {
            Sql::Sqlite(connection) => repeat(connection, sql, each, |statement| {
                let mut rows = statement.raw_query();
                rows.next()?.map(|row| read(&Row::new(AnyRow::Sqlite(row)))).transpose()
            }),
            Sql::Postgres(pipeline) => {
                let answers = pipeline.each(sql, each).await?;
                let first = |(rows, _): &(Vec<tokio_postgres::Row>, _)| {
                    rows.first().map(|row| read(&Row::new(AnyRow::Postgres(row)))).transpose()
                };
                answers.iter().map(first).collect()
            }
        }
    }

    /// Run a statement with each of these rows of values, and say how many rows each has changed.
    pub(super) async fn count_each<'v, V: AsRef<[Value<'v>]>>(
        &mut self,
        sql: &str,
        each: impl IntoIterator<Item = V>,
    ) -> Result<Vec<u64>, Cause> {
        match self {
            Sql::Sqlite(connection) => {
                repeat(connection, sql, each, |statement| Ok(statement.raw_execute()?.try_into()?))
            }
            Sql::Postgres(pipeline) => {
                let answers = pipeline.each(sql, each).await?;
                Ok(answers.into_iter().map(|(_, count)| count).collect())
            }
        }
    }

    /// Run a statement with each of these rows of values, as [`Sql::execute`] does.
    pub(super) async fn execute_each<'v, V: AsRef<[Value<'v>]>>(
        &mut self,
        sql: &str,
        each: impl IntoIterator<Item = V>,
    ) -> Result<(), Cause> {
        match self {
            Sql::Sqlite(_) => self.count_each(sql, each).await.map(drop),
            Sql::Postgres(pipeline) => {
                for values in each {
                    pipeline.later(sql, values.as_ref()).await?;
                }
                Ok(())
            }
        }
    }

    /// Run a statement whose rows are not needed. PostgreSQL may run it later; if it fails, so does whatever comes after
    /// it, at the latest the commit.
    pub(super) async fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), Cause> {
        self.execute_each(sql, [values]).await
    }

    /// Run several statements that take no values and give no rows.
    pub(super) async fn batch(&mut self, sql: &str) -> Result<(), Cause> {
        match self {
            Sql::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Sql::Postgres(pipeline) => Ok(pipeline.batch(sql).await?),
        }
    }

    /// Whether a statement costs no round trip to a server, so that a `select` that may spare an update is worth it, and
    /// several statements are as good as one about several rows.
    pub(super) fn answers_at_once(&self) -> bool {
        self.is_sqlite()
    }

    /// Whether this is SQLite.
    pub(super) fn is_sqlite(&self) -> bool {
        matches!(self, Sql::Sqlite(_))
    }

    /// A `select` of the bytes that all tables take with their indexes.
    pub(super) fn size_of_all(&self) -> &'static str {
        match self {
            Sql::Sqlite(_) => "select page_count * page_size from pragma_page_count, pragma_page_size",
            Sql::Postgres(_) => {
                "select cast(coalesce(sum(pg_total_relation_size(oid)), 0) as bigint) from pg_class
                 where relkind = 'r' and relnamespace = current_schema()::regnamespace"
            }
        }
    }

    /// A condition: equal to one of what a `select` gives. As PostgreSQL plans it, the `select` comes first and the
    /// index is asked for each of its values; `in` leaves it the choice, which it gets wrong without statistics.
    pub(super) fn among(&self, select: &str) -> String {
        match self {
            Sql::Sqlite(_) => format!("in ({select})"),
            Sql::Postgres(_) => format!("= any(array({select}))"),
        }
    }

    /// The number of items of a column that has a JSON array as text.
    pub(super) fn json_array_length(&self, column: &str) -> String {
        match self {
            Sql::Sqlite(_) => format!("json_array_length({column})"),
            Sql::Postgres(_) => format!("json_array_length(cast({column} as json))"),
        }
    }

    /// The column that tells where a row is, until it is changed.
    pub(super) fn row_id(&self) -> &'static str {
        match self {
            Sql::Sqlite(_) => "rowid",
            Sql::Postgres(_) => "ctid",
        }
    }

    /// A condition: equal to one of the [`Value::Texts`] in `$n`.
    pub(super) fn any(&self, n: u32) -> String {
        match self {
            Sql::Sqlite(_) => format!("in (select value from json_each(${n}))"),
            Sql::Postgres(_) => format!("= any(${n})"),
        }
    }
}

/// A condition: what `select` asks for is not there. Of `not exists`, PostgreSQL makes a join that reads all of the table
/// once for each row, as long as it has no statistics.
pub(super) fn none(select: &str) -> String {
    format!("({select} limit 1) is null")
}

/// A condition: a text column is not null. For `is not null`, SQLite would look in an index of all rows of which that is
/// true, although other conditions leave few.
pub(super) fn is_set(column: &str) -> String {
    format!("length({column}) > 0")
}

/// Between two tables: a join that SQLite does in the order in which it is written. PostgreSQL takes it for any other.
pub(super) const JOIN_IN_ORDER: &str = "cross join";

/// Run a statement of SQLite with each of these rows of values. It is looked up once, and values that are the same as in
/// the row before are bound once: a statement keeps what it was given.
fn repeat<'v, V: AsRef<[Value<'v>]>, T>(
    connection: &Connection,
    sql: &str,
    each: impl IntoIterator<Item = V>,
    run: impl Fn(&mut Statement<'_>) -> Result<T, Cause>,
) -> Result<Vec<T>, Cause> {
    let (each, mut before) = (each.into_iter(), None::<V>);
    let (mut statement, mut ran) = (connection.prepare_cached(sql)?, Vec::with_capacity(each.size_hint().0));
    for values in each {
        bind(&mut statement, values.as_ref(), before.as_ref().map_or(&[], V::as_ref))?;
        ran.push(run(&mut statement)?);
        before = Some(values);
    }
    Ok(ran)
}

/// Give a statement its values, as far as they are not the ones that it has. One that has none yet has only nulls.
///
/// SQLite numbers `$1` in order of appearance, whatever its digit; so that is the order to write them in.
fn bind(statement: &mut Statement<'_>, values: &[Value<'_>], before: &[Value<'_>]) -> rusqlite::Result<()> {
    for (n, value) in values.iter().enumerate() {
        let place = n + 1;
        debug_assert_eq!(statement.parameter_name(place), Some(format!("${place}").as_str()), "in {statement:?}");
        if value != before.get(n).unwrap_or(&Value::Null) {
            statement.raw_bind_parameter(place, value)?;
        }
    }
    Ok(())
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Value::Null => Ok(ToSqlOutput::from(rusqlite::types::Null)),
            Value::Boolean(value) => Ok(ToSqlOutput::from(*value)),
            Value::Integer(value) => Ok(ToSqlOutput::from(*value)),
            Value::Text(value) => Ok(ToSqlOutput::from(&**value)),
            Value::Bytes(value) => Ok(ToSqlOutput::from(&**value)),
            Value::Json(value) => Ok(ToSqlOutput::from(value.as_str())),
            Value::Texts(values) => Ok(ToSqlOutput::from(json(values.iter().map(Option::as_deref)))),
            Value::Integers(values) => Ok(ToSqlOutput::from(json(values.iter().copied()))),
        }
    }
}

fn json<T: Into<serde_json::Value>>(values: impl Iterator<Item = T>) -> String {
    serde_json::Value::from_iter(values).to_string()
}

impl tokio_postgres::types::ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, to: &mut BytesMut) -> Result<IsNull, Cause> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Boolean(value) => value.to_sql_checked(kind, to),
            Value::Integer(value) => value.to_sql_checked(kind, to),
            Value::Text(value) => value.to_sql_checked(kind, to),
            Value::Bytes(value) => value.to_sql_checked(kind, to),
            Value::Json(value) => value.as_str().to_sql_checked(kind, to),
            Value::Texts(values) => values.to_sql_checked(kind, to),
            Value::Integers(values) => values.to_sql_checked(kind, to),
        }
    }

    /// Each value looks for itself, above.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> Value<'a> {
    /// Several integers as one value.
    pub(super) fn integers(values: Vec<Value<'a>>) -> Value<'a> {
        let integer = |value| if let Value::Integer(value) = value { Some(value) } else { None };
        Value::Integers(values.into_iter().map(integer).collect())
    }

    /// Several texts as one value.
    pub(super) fn texts(values: Vec<Value<'a>>) -> Value<'a> {
        let text = |value| match value {
            Value::Text(text) => Some(text),
            Value::Json(json) => Some(Cow::Owned(json.as_str().to_owned())),
            _ => None,
        };
        Value::Texts(values.into_iter().map(text).collect())
    }

    pub(super) fn to_owned(&self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Boolean(value) => Value::Boolean(*value),
            Value::Integer(value) => Value::Integer(*value),
            Value::Text(value) => Value::Text(Cow::Owned(value.clone().into_owned())),
            Value::Bytes(value) => Value::Bytes(Cow::Owned(value.clone().into_owned())),
            Value::Json(value) => Value::Json(value.clone()),
            Value::Texts(values) => {
                let owned = |text: &Option<Cow<'_, str>>| text.as_deref().map(|text| Cow::Owned(text.to_owned()));
                Value::Texts(values.iter().map(owned).collect())
            }
            Value::Integers(values) => Value::Integers(values.clone()),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Value<'a> {
        Value::Text(Cow::Borrowed(value))
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Value<'a> {
        Value::Text(Cow::Borrowed(value))
    }
}

impl From<String> for Value<'_> {
    fn from(value: String) -> Self {
        Value::Text(Cow::Owned(value))
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Value<'a> {
        Value::Bytes(Cow::Borrowed(value))
    }
}

impl From<&Json> for Value<'_> {
    fn from(value: &Json) -> Self {
        Value::Json(value.clone())
    }
}

impl From<Json> for Value<'_> {
    fn from(value: Json) -> Self {
        Value::Json(value)
    }
}

impl From<Vec<String>> for Value<'_> {
    fn from(values: Vec<String>) -> Self {
        Value::Texts(values.into_iter().map(|text| Some(Cow::Owned(text))).collect())
    }
}

impl<'a> From<Vec<&'a str>> for Value<'a> {
    fn from(values: Vec<&'a str>) -> Value<'a> {
        Value::Texts(values.into_iter().map(|text| Some(Cow::Borrowed(text))).collect())
    }
}

impl<'a> From<Cow<'a, str>> for Value<'a> {
    fn from(value: Cow<'a, str>) -> Value<'a> {
        Value::Text(value)
    }
}

impl From<Vec<i64>> for Value<'_> {
    fn from(values: Vec<i64>) -> Self {
        Value::Integers(values.into_iter().map(Some).collect())
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Value::Integer(value)
    }
}

impl From<u32> for Value<'_> {
    fn from(value: u32) -> Self {
        Value::Integer(value.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Value::Boolean(value)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Value<'a> {
        value.map_or(Value::Null, Into::into)
    }
}
