//! Large values as blobs: each once in a namespace, by its hash, whoever names it.
//!
//! A row that is changed is written anew with all its columns, and a row that is looked for is read up to the column
//! that decides. So rows that are hot keep no large values: they keep a hash, and the statement that reads a value
//! brings the two together. What is small stays in its row, where it costs nothing more.
//!
//! A blob is deleted together with the last row that names it. Nobody counts who does: the namespace is locked, so
//! whoever drops a name can look whether there is another.

use super::{
    DbError, Doing, Tx,
    sql::{Cause, Sql, values},
};
use crate::{Json, run::RunId};

/// Blobs that one statement deletes.
const DELETED_AT_ONCE_MAX: usize = 500;

/// The two columns of a value: its text, and the bytes of its blob if it has one. `Row::next_value` reads them.
macro_rules! value_of {
    ($table:literal, $column:literal) => {
        concat!(
            $column,
            ", case when ",
            $column,
            "_blob is not null then (select bytes from blob where blob.namespace = ",
            $table,
            ".namespace and blob.sha256 = ",
            $table,
            ".",
            $column,
            "_blob) end"
        )
    };
}
pub(super) use value_of;

/// Every row that names a blob, and the run that it belongs to. `length`, because SQLite would look for `is not null` in
/// the indexes of the names, which have those of all runs, where somebody asks for the names of one.
pub(super) const NAMES: &str = "(
    select namespace, run, 'task ' || id as subject, input_blob as sha256 from task where length(input_blob) > 0
    union all
    select namespace, run, 'task ' || id, result_blob from task where length(result_blob) > 0
    union all
    select namespace, id, 'run ' || id, plan_blob from run where length(plan_blob) > 0
    union all
    select namespace, id, 'run ' || id, report_blob from run where length(report_blob) > 0)";

/// What a row has of a value: its text, or an empty one and the hash of its blob.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    pub(super) text: Option<&'a str>,
    pub(super) sha256: Option<&'a str>,
}

impl Kept<'_> {
    pub(super) fn of(value: Option<&Json>) -> Kept<'_> {
        match value {
            Some(value) if value.is_large() => Kept { text: Some(""), sha256: Some(value.sha256()) },
            value => Kept { text: value.map(Json::as_str), sha256: None },
        }
    }
}

/// Keep a value that is large, unless it is there already.
pub(super) async fn add_blob(sql: &mut Sql<'_>, namespace: i64, value: &Json) -> Result<(), Cause> {
    if !value.is_large() {
        return Ok(());
    }
    let insert = "insert into blob (namespace, sha256, size, bytes) values ($1, $2, $3, $4)
         on conflict (namespace, sha256) do nothing";
    let bytes = value.as_str().as_bytes();
    sql.execute(insert, values![namespace, value.sha256(), i64::try_from(bytes.len())?, bytes]).await
}

impl Tx<'_> {
    /// Keep a value that is large and that a row of this write names.
    pub(crate) async fn add_blob(&mut self, value: &Json) -> Result<(), Cause> {
        self.check()?;
        self.changed |= value.is_large();
        let result = add_blob(&mut self.sql, self.scope.namespace, value).await;
        self.failed |= result.is_err();
        result
    }

    /// The hashes of the blobs that the rows of a run name.
    pub(crate) async fn blobs_of(&mut self, run: &RunId) -> Result<Vec<String>, DbError> {
        let sql = format!("select distinct sha256 from {NAMES} as names where namespace = $1 and run = $2");
        self.all(&sql, values![self.namespace(), &run.0], |row| row.next()).await.doing("look for the values of a run")
    }

    /// Delete those of these blobs that no row names any more.
    pub(crate) async fn delete_unnamed_blobs(&mut self, hashes: Vec<String>) -> Result<(), DbError> {
        let any = self.sql.any(2);
        // `is null` and not `not exists`, of which PostgreSQL makes joins that read all names for each blob, as long as it
        // has no statistics.
        let sql = format!(
            "delete from blob where namespace = $1 and sha256 {any}
                and (select 1 from task t where t.namespace = $3 and t.input_blob = blob.sha256 limit 1) is null
                and (select 1 from task t where t.namespace = $3 and t.result_blob = blob.sha256 limit 1) is null
                and (select 1 from run r where r.namespace = $3 and r.plan_blob = blob.sha256 limit 1) is null
                and (select 1 from run r where r.namespace = $3 and r.report_blob = blob.sha256 limit 1) is null"
        );
        for hashes in hashes.chunks(DELETED_AT_ONCE_MAX) {
            let values = values![self.namespace(), hashes.to_vec(), self.namespace()];
            self.execute(&sql, values).await.doing("delete values")?;
        }
        Ok(())
    }
}
