//! Runs as rows.

use std::sync::LazyLock;

use super::{
    Db, DbError, Doing, Tx, blobs,
    events::page,
    sql::{Cause, Row, Value, values},
    table::{Column, Table},
    tasks,
};
use crate::{
    Namespace, Timestamp,
    policy::{Permit, Read},
    run::{Deletion, Run, RunId, State, Summary},
};

/// Rows that one step of a deletion deletes. Other writes of the namespace wait meanwhile.
const DELETED_MAX: usize = 1000;
/// The same for artefacts, each of which may have 16 MiB.
const ARTEFACTS_DELETED_MAX: usize = 16;
/// The same for tasks, whose inputs and results may have some.
const TASKS_DELETED_MAX: usize = 100;
/// Deletions that are looked for at once.
const DELETIONS_MAX: usize = 100;

/// The columns of a run, in the order of [`values_of`] and of [`from_row`].
const COLUMNS: [Column; 9] = [
    Column::fixed("id"),
    Column::fixed("name"),
    Column::fixed("directory"),
    Column::fixed("created"),
    Column::changing("state"),
    Column::changing("ended"),
    Column::fixed("plan").json(),
    Column::fixed("inputs").json(),
    Column::changing("report").json(),
];
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new("run", &COLUMNS));

impl Tx<'_> {
    /// The run of this name.
    pub(crate) async fn run(&mut self, id: &RunId) -> Result<Option<Run>, DbError> {
        self.first(TABLE.load(), values![self.namespace(), &id.0], from_row).await.doing("load a run")
    }

    /// The state of a run.
    pub(crate) async fn run_state(&mut self, id: &RunId) -> Result<Option<State>, DbError> {
        let sql = TABLE.select_without_json("id = $2");
        let run = self.first(&sql, values![self.namespace(), &id.0], summary_from_row).await.doing("load a run")?;
        Ok(run.map(|run| run.state))
    }

    /// Add a run. `false` if there is one of this name already.
    pub(crate) async fn add_run(&mut self, run: &Run) -> Result<bool, DbError> {
        self.insert(&TABLE, values_of(run)).await.doing("add a run")
    }

    /// Save a run.
    pub(crate) async fn save_run(&mut self, run: &Run) -> Result<(), DbError> {
        self.update(&TABLE, &run.id.0, values_of(run)).await.doing("save a run")
    }

    /// Begin to delete a run: its row is deleted, and its tasks are cancelled. The rest is deleted step by step.
    pub(crate) async fn begin_deletion(&mut self, id: &RunId) -> Result<Deletion, DbError> {
        self.cancel_tasks(id).await?;
        let sql = "update namespace set epoch = epoch + 1 where id = $1 returning epoch";
        let epoch = self.change(sql, values![self.namespace()], |row| row.next::<i64>()).await;
        let epoch = epoch.and_then(|epochs| Ok(*epochs.first().ok_or("the namespace is missing")?));
        let epoch = epoch.doing("delete a run")?;
        let sql = "insert into deletion (namespace, run, epoch) values ($1, $2, $3)";
        self.execute(sql, values![self.namespace(), &id.0, epoch]).await.doing("delete a run")?;
        let sql = format!("delete from run where namespace = $1 and id = $2 returning {}", TABLE.blobs_listed());
        let read = |row: &Row<'_>| blobs::hashes(&TABLE, row);
        let named = self.change(&sql, values![self.namespace(), &id.0], read).await.doing("delete a run")?;
        self.delete_unnamed_blobs(named.concat()).await?;
        Ok(Deletion { run: id.clone(), epoch })
    }

    /// The deletion of a run of this name that has begun and is not over. Nothing may be added to such a run any more.
    pub(crate) async fn deletion(&mut self, id: &RunId) -> Result<Option<Deletion>, DbError> {
        let sql = "select run, epoch from deletion where namespace = $1 and run = $2";
        self.first(sql, values![self.namespace(), &id.0], deletion_from_row).await.doing("look for a deletion")
    }

    /// A step of a deletion that has begun: at most [`DELETED_MAX`] rows. Whether there is more to do; not if others
    /// have done the rest, after whom there may be a new run of this name.
    ///
    /// Rows that others refer to are deleted last, so that at no moment a row refers to one that is gone.
    pub(crate) async fn delete_more(&mut self, deletion: &Deletion) -> Result<bool, DbError> {
        let id = &deletion.run;
        if self.deletion(id).await?.as_ref() != Some(deletion) {
            return Ok(false);
        }
        let of_run = |table: &str| format!("select $row from {table} where namespace = $1 and run = $2 limit $3");
        let dependency = "select dependency.$row from task
             join dependency on dependency.namespace = task.namespace and dependency.depends_on = task.id
             where task.namespace = $1 and task.run = $2 limit $3";
        let of_tasks = |table: &str| {
            format!(
                "select {table}.$row from task join {table} on {table}.namespace = task.namespace and {table}.id = task.id
                 where task.namespace = $1 and task.run = $2 limit $3"
            )
        };
        for (table, rows, count) in [
            ("artefact", of_run("artefact"), ARTEFACTS_DELETED_MAX),
            ("task_detail", of_tasks("task_detail"), DELETED_MAX),
            ("task_tag", of_tasks("task_tag"), DELETED_MAX),
            ("task_word", of_tasks("task_word"), DELETED_MAX),
            ("event", of_run("event"), DELETED_MAX),
            ("dependency", dependency.to_owned(), DELETED_MAX),
        ] {
            let row = self.sql.row_id();
            let among = self.sql.among(&rows.replace("$row", row));
            let sql = format!("delete from {table} where {row} {among}");
            let values = values![self.namespace(), &id.0, page(count)];
            if self.has_changed(&sql, values).await.doing("delete what belonged to a run")? {
                if table == "event" {
                    self.find_first_event().await?;
                }
                return Ok(true);
            }
        }
        let row = self.sql.row_id();
        let among = self.sql.among(&of_run("task").replace("$row", row));
        let named = tasks::TABLE.blobs_listed();
        let sql = format!("delete from task where {row} {among} returning {named}");
        let values = values![self.namespace(), &id.0, page(TASKS_DELETED_MAX)];
        let read = |row: &Row<'_>| blobs::hashes(&tasks::TABLE, row);
        let named = self.change(&sql, values, read).await.doing("delete what belonged to a run")?;
        if !named.is_empty() {
            self.delete_unnamed_blobs(named.concat()).await?;
            return Ok(true);
        }
        let sql = "delete from deletion where namespace = $1 and run = $2";
        self.execute(sql, values![self.namespace(), &id.0]).await.doing("end a deletion")?;
        Ok(false)
    }
}

/// A page of runs, before the one that is named by when it was created and its id.
const NEWEST_FIRST: &str = "(created, id) < ($2, $3) order by created desc, id desc limit $4";

impl Db {
    /// Runs whose deletion has begun and is not over, at most so many.
    pub(crate) async fn deletions(&self, namespace: &Namespace) -> Result<Vec<Deletion>, DbError> {
        let sql = "select run, epoch from deletion where namespace = $1 limit $2";
        self.read_in(namespace, async move |db, namespace| {
            let values = values![namespace, page(DELETIONS_MAX)];
            db.all(sql, values, deletion_from_row).await.doing("look for deletions")
        })
        .await
    }

    /// The run of this name, as it is now.
    pub async fn run(&self, permit: &Permit<Read>, id: &RunId) -> Result<Option<Run>, DbError> {
        let RunId(id) = id.clone();
        let runs = self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(TABLE.load(), values![namespace, &id], from_row).await.doing("read a run")
        });
        Ok(runs.await?.pop())
    }

    /// Runs, newest first: at most `limit`, and never more than [`crate::limits::PAGE_MAX`]. The next page begins
    /// `before` the last run of this one, which is named by when it was created and its id.
    pub async fn runs(
        &self,
        permit: &Permit<Read>,
        before: Option<(Timestamp, RunId)>,
        limit: usize,
    ) -> Result<Vec<Run>, DbError> {
        let (created, id) = before.map_or((i64::MAX, String::new()), |(created, id)| (created.0, id.0));
        let sql = TABLE.select(NEWEST_FIRST);
        self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(&sql, values![namespace, created, &id, page(limit)], from_row).await.doing("read runs")
        })
        .await
    }
}

impl Db {
    /// Runs without plan and report, newest first, page by page like [`Db::runs`].
    pub async fn run_summaries(
        &self,
        permit: &Permit<Read>,
        before: Option<(Timestamp, RunId)>,
        limit: usize,
    ) -> Result<Vec<Summary>, DbError> {
        let (created, id) = before.map_or((i64::MAX, String::new()), |(created, id)| (created.0, id.0));
        let sql = TABLE.select_without_json(NEWEST_FIRST);
        self.read_in(permit.namespace(), async move |db, namespace| {
            let values = values![namespace, created, &id, page(limit)];
            db.all(&sql, values, summary_from_row).await.doing("read runs")
        })
        .await
    }

    /// About how many bytes runs take in the database, by id: at most `limit` runs whose ids come after `after`, and
    /// never more than [`crate::limits::PAGE_MAX`].
    pub async fn run_sizes(
        &self,
        permit: &Permit<Read>,
        after: Option<RunId>,
        limit: usize,
    ) -> Result<Vec<(RunId, u64)>, DbError> {
        const SELECT: &str = "select id, cast(length(plan) + coalesce(length(inputs), 0) + coalesce(length(report), 0)
                + coalesce((select sum(size) from blob
                    where blob.namespace = run.namespace and sha256 in (plan_blob, inputs_blob, report_blob)), 0)
                + coalesce((select sum(length(input) + coalesce(length(result), 0)) from task
                    where task.namespace = run.namespace and task.run = run.id), 0)
                + coalesce((select sum(blob.size) from task
                    join blob on blob.namespace = task.namespace and blob.sha256 in (input_blob, result_blob)
                    where task.namespace = run.namespace and task.run = run.id), 0)
                + coalesce((select sum(length(data)) from event
                    where event.namespace = run.namespace and event.run = run.id), 0)
                + coalesce((select sum(size) from artefact
                    where artefact.namespace = run.namespace and artefact.run = run.id), 0) as bigint)
            from run where namespace = $1 and id > $2 order by id limit $3";
        let after = after.map(|RunId(id)| id).unwrap_or_default();
        let read = |row: &Row<'_>| Ok((RunId(row.next()?), row.next::<i64>()?.try_into()?));
        self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(SELECT, values![namespace, &after, page(limit)], read).await.doing("measure the runs")
        })
        .await
    }

    /// How many bytes the database takes on its disk.
    pub async fn size(&self) -> Result<u64, DbError> {
        self.read(async move |db| {
            let sql = db.size_of_all();
            let sizes =
                db.all(sql, &[], |row| Ok(row.next::<i64>()?.try_into()?)).await.doing("measure the database")?;
            Ok(sizes.into_iter().next().unwrap_or(0))
        })
        .await
    }
}

fn deletion_from_row(row: &Row<'_>) -> Result<Deletion, Cause> {
    Ok(Deletion { run: RunId(row.next()?), epoch: row.next()? })
}

fn values_of(run: &Run) -> [Value<'_>; COLUMNS.len()] {
    [
        (&run.id.0).into(),
        (&run.name).into(),
        (&run.directory).into(),
        run.created.0.into(),
        run.state.name().into(),
        run.ended.map(|at| at.0).into(),
        (&run.plan).into(),
        run.inputs.as_ref().into(),
        run.report.as_ref().into(),
    ]
}

/// A run without its last columns, those that are JSON.
fn summary_from_row(row: &Row<'_>) -> Result<Summary, Cause> {
    let (id, name, directory) = (RunId(row.next()?), row.next()?, row.next()?);
    let created = Timestamp(row.next()?);
    let state = row.next_text()?.unwrap_or_default();
    let known = State::ALL.into_iter().find(|known| known.name() == state);
    let state = known.ok_or_else(|| format!("unknown run state {state:?}"))?;
    let ended = row.next::<Option<i64>>()?.map(Timestamp);
    Ok(Summary { id, name, directory, state, created, ended })
}

fn from_row(row: &Row<'_>) -> Result<Run, Cause> {
    let Summary { id, name, directory, state, created, ended } = summary_from_row(row)?;
    let plan = row.next_value()?.ok_or("a run without a plan")?;
    let (inputs, report) = (row.next_value()?, row.next_value()?);
    Ok(Run { id, name, plan, inputs, directory, state, created, ended, report })
}
