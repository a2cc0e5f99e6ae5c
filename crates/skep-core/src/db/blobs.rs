//! Large JSON and the contents of files as blobs: each once in a namespace, under its hash, whichever rows name it.
//!
//! A row that is changed is written again with all its columns, and a row that is looked for is read up to the column
//! that decides. So rows that are hot keep no large values: they keep an empty text, which is no JSON, and the hash,
//! and the statement that reads a value brings the two together. What is small stays in its row, where it costs
//! nothing more.
//!
//! A blob is deleted together with the last row that names it. The names are not counted: the namespace is locked, so a
//! write that drops one can look for others.

use super::{
    DbError, Doing, Tx, messages, runs,
    sql::{self, Cause, Row, values},
    table::Table,
    tasks,
};
use crate::{Json, run::RunId};

/// Blobs that one statement deletes.
const DELETED_AT_ONCE_MAX: usize = 500;

/// A column that names blobs.
struct Naming {
    table: &'static str,
    column: String,
    /// What people call a row, as an expression.
    subject: &'static str,
    /// The run of a row, as an expression.
    run: &'static str,
}

/// All of them.
fn naming() -> impl Iterator<Item = Naming> {
    const NO_RUN: &str = "cast(null as text)";
    let of = |table: &'static Table, subject, run| {
        table.blobs().map(move |column| Naming { table: table.name, column, subject, run })
    };
    let in_column = |table, column: &str, subject| Naming { table, column: column.to_owned(), subject, run: NO_RUN };
    let shared =
        [in_column("revision", "sha256", "'file ' || path"), in_column("memory", "value_blob", "'memory ' || id")];
    of(&tasks::TABLE, "'task ' || id", "run")
        .chain(of(&runs::TABLE, "'run ' || id", "id"))
        .chain(of(&messages::TABLE, "'message ' || number", NO_RUN))
        .chain(shared)
}

/// Every name of a blob, as a table: in which namespace and run, a subject for people, and the hash.
pub(super) fn names() -> String {
    let of = |Naming { table, column, subject, run }| {
        let is_set = sql::is_set(&column);
        format!("select namespace, {run} as run, {subject} as subject, {column} as sha256 from {table} where {is_set}")
    };
    let each: Vec<String> = naming().map(of).collect();
    format!("({})", each.join(" union all "))
}

/// The hashes in a row that gives the columns [`Table::blobs`].
pub(super) fn hashes(table: &Table, row: &Row<'_>) -> Result<Vec<String>, Cause> {
    let hashes: Result<Vec<Option<String>>, Cause> = table.blobs().map(|_| row.next()).collect();
    Ok(hashes?.into_iter().flatten().collect())
}

impl Tx<'_> {
    /// Keep JSON that is large, and that a row of this write names, unless it is there already.
    pub(super) async fn add_blob(&mut self, json: &Json) -> Result<(), Cause> {
        self.add_bytes(json.sha256(), json.as_str().as_bytes()).await
    }

    /// The same for any bytes.
    pub(super) async fn add_bytes(&mut self, sha256: &str, bytes: &[u8]) -> Result<(), Cause> {
        let sql = "insert into blob (namespace, sha256, size, bytes) values ($1, $2, $3, $4) on conflict do nothing";
        self.execute(sql, values![self.namespace(), sha256, i64::try_from(bytes.len())?, bytes]).await
    }

    /// The hashes of the blobs that the rows of a run name.
    pub(crate) async fn blobs_of(&mut self, run: &RunId) -> Result<Vec<String>, DbError> {
        let sql = format!("select distinct sha256 from {} as names where namespace = $1 and run = $2", names());
        self.all(&sql, values![self.namespace(), &run.0], |row| row.next()).await.doing("look for the values of a run")
    }

    /// Delete those of these blobs that no row names any more.
    pub(crate) async fn delete_unnamed_blobs(&mut self, hashes: Vec<String>) -> Result<(), DbError> {
        if hashes.is_empty() {
            return Ok(());
        }
        let unnamed = |Naming { table, column, .. }| {
            sql::none(&format!("select 1 from {table} t where t.namespace = $3 and t.{column} = blob.sha256"))
        };
        let unnamed: Vec<String> = naming().map(unnamed).collect();
        let (any, unnamed) = (self.sql.any(2), unnamed.join(" and "));
        let sql = format!("delete from blob where namespace = $1 and sha256 {any} and {unnamed}");
        for hashes in hashes.chunks(DELETED_AT_ONCE_MAX) {
            let values = values![self.namespace(), hashes.to_vec(), self.namespace()];
            self.execute(&sql, values).await.doing("delete values")?;
        }
        Ok(())
    }
}
