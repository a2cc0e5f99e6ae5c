//! Artefacts as rows.

use super::{
    Db, DbError, Doing, Tx,
    events::page,
    sql::{Cause, Row, values},
};
use crate::{
    artefact::{Artefact, NewArtefact},
    policy::{Permit, Read},
    run::RunId,
    task::{Task, TaskId},
};

/// The columns of an artefact but for its bytes, in the order in which they are written and read.
const COLUMNS: &str = "run, task, path, sha256, size";

impl Tx<'_> {
    /// Add an artefact.
    pub(crate) async fn add_artefact(
        &mut self,
        task: &Task,
        artefact: &NewArtefact,
        sha256: &str,
    ) -> Result<(), DbError> {
        let sql = format!("insert into artefact (namespace, {COLUMNS}, bytes) values ($1, $2, $3, $4, $5, $6, $7)");
        let size = i64::try_from(artefact.bytes.len()).unwrap_or(i64::MAX);
        let run = task.run.as_ref().map(|run| &run.0);
        let bytes = artefact.bytes.as_slice();
        let values = values![self.namespace(), run, &task.id.0, &artefact.path, sha256, size, bytes];
        self.execute(&sql, values).await.doing("keep an artefact")
    }
}

impl Db {
    /// The artefacts of a run by task and path, without their bytes. At most `limit`, and never more than
    /// [`crate::limits::PAGE_MAX`]; the next page comes `after` the last task and path of this one.
    pub async fn artefacts(
        &self,
        permit: &Permit<Read>,
        run: &RunId,
        after: Option<(TaskId, String)>,
        limit: usize,
    ) -> Result<Vec<Artefact>, DbError> {
        let RunId(run) = run.clone();
        let (TaskId(task), path) = after.unwrap_or((TaskId(String::new()), String::new()));
        self.read_in(permit.namespace(), async move |db, namespace| {
            let sql = format!(
                "select {COLUMNS} from artefact
                 where namespace = $1 and run = $2 and (task, path) > ($3, $4) order by task, path limit $5"
            );
            let values = values![namespace, &run, &task, &path, page(limit)];
            db.all(&sql, values, from_row).await.doing("read artefacts")
        })
        .await
    }

    /// The bytes of the first artefact of a run that has this path.
    pub async fn artefact_of_run(
        &self,
        permit: &Permit<Read>,
        run: &RunId,
        path: &str,
    ) -> Result<Option<Vec<u8>>, DbError> {
        let (RunId(run), path) = (run.clone(), path.to_owned());
        let found = self.read_in(permit.namespace(), async move |db, namespace| {
            let sql = "select bytes from artefact where namespace = $1 and run = $2 and path = $3
                 order by task limit 1";
            db.all(sql, values![namespace, &run, &path], |row| row.next()).await.doing("read an artefact")
        });
        Ok(found.await?.pop())
    }

    /// The bytes of an artefact.
    pub async fn artefact(&self, permit: &Permit<Read>, task: &TaskId, path: &str) -> Result<Option<Vec<u8>>, DbError> {
        let (TaskId(task), path) = (task.clone(), path.to_owned());
        let found = self.read_in(permit.namespace(), async move |db, namespace| {
            let sql = "select bytes from artefact where namespace = $1 and task = $2 and path = $3";
            db.all(sql, values![namespace, &task, &path], |row| row.next()).await.doing("read an artefact")
        });
        Ok(found.await?.pop())
    }
}

fn from_row(row: &Row<'_>) -> Result<Artefact, Cause> {
    Ok(Artefact {
        run: row.next::<Option<String>>()?.map(RunId),
        task: TaskId(row.next()?),
        path: row.next()?,
        sha256: row.next()?,
        size: row.next::<i64>()?.try_into()?,
    })
}
