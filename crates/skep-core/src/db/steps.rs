//! Steps as rows.

use super::{
    Db, DbError, Doing, Tx,
    sql::{Cause, Row, Sql, Value, values},
};
use crate::{
    Timestamp,
    limits::PAGE_MAX,
    page::{Kept, Page, Start, Stretch},
    policy::{Permit, Read},
    step::{Level, Step, StepFilter},
};

/// The columns of a step, in the order of [`values_of`] and of [`from_row`].
const COLUMNS: &str = "number, at, principal, agent, level, message, data";

impl Tx<'_> {
    /// The next numbers for so many steps. Returns the one before the first.
    pub(crate) async fn number_steps(&mut self, count: usize) -> Result<i64, DbError> {
        self.take_numbers("last_step", count).await.doing("number steps")
    }

    /// Add steps, at least one.
    pub(crate) async fn add_steps(&mut self, steps: &[Step]) -> Result<(), DbError> {
        let namespace = self.namespace();
        if steps.len() > 1 && !self.sql.answers_at_once() {
            let insert = format!(
                "insert into step (namespace, {COLUMNS}) select $1::bigint, {COLUMNS}
                 from unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
                    as new ({COLUMNS})"
            );
            let mut columns: [Vec<Value<'_>>; 7] = Default::default();
            for step in steps {
                columns.iter_mut().zip(values_of(step)).for_each(|(column, value)| column.push(value));
            }
            let [numbers, at, texts @ ..] = columns;
            let mut values = vec![Value::from(namespace), Value::integers(numbers), Value::integers(at)];
            values.extend(texts.map(Value::texts));
            return self.execute(&insert, &values).await.doing("add steps");
        }
        let insert = format!("insert into step (namespace, {COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8)");
        for step in steps {
            let [number, at, principal, agent, level, message, data] = values_of(step);
            let values = [namespace.into(), number, at, principal, agent, level, message, data];
            self.execute(&insert, &values).await.doing("add a step")?;
        }
        Ok(())
    }
}

impl Tx<'_> {
    /// The step that a principal has logged with a key.
    pub(crate) async fn step_of_key(&mut self, principal: &str, key: &str) -> Result<Option<Step>, DbError> {
        let sql = format!("select {COLUMNS} from step where namespace = $1 and principal = $2 and key = $3");
        self.first(&sql, values![self.namespace(), principal, key], from_row).await.doing("look for a step")
    }

    /// A step was logged with this key.
    pub(crate) async fn set_step_key(&mut self, number: i64, key: &str) -> Result<(), DbError> {
        let sql = "update step set key = $1 where namespace = $2 and number = $3";
        self.execute(sql, values![key, self.namespace(), number]).await.doing("note the key of a step")
    }
}

/// Rows of steps or messages that one write deletes.
const DELETED_MAX: usize = 1000;

impl Tx<'_> {
    /// Delete the first steps that are older than this, at most [`DELETED_MAX`]. Whether there may be more.
    pub(crate) async fn delete_old_steps(&mut self, before: Timestamp) -> Result<bool, DbError> {
        let Some((to, is_full)) = self.first_old("step", before).await? else { return Ok(false) };
        let sql = "delete from step where namespace = $1 and number <= $2";
        self.execute(sql, values![self.namespace(), to]).await.doing("delete old steps")?;
        self.begin_after("step", to).await?;
        Ok(is_full)
    }

    /// The last of the first steps or messages that are all older than this, and whether there may be more of them. Those after
    /// one that is not are kept, so that the numbers that are left have no gaps.
    pub(super) async fn first_old(&mut self, of: &str, before: Timestamp) -> Result<Option<(i64, bool)>, DbError> {
        let sql = format!("select number, at from {of} where namespace = $1 order by number limit $2");
        let read = |row: &Row<'_>| Ok((row.next::<i64>()?, Timestamp(row.next()?)));
        let limit = i64::try_from(DELETED_MAX).unwrap_or(i64::MAX);
        let first = self.all(&sql, values![self.namespace(), limit], read).await.doing("look for what is old")?;
        let old = first.iter().take_while(|(_, at)| *at < before);
        let count = old.clone().count();
        Ok(old.last().map(|(number, _)| (*number, count >= DELETED_MAX)))
    }

    /// What is kept of the steps or messages begins after this number.
    pub(super) async fn begin_after(&mut self, of: &str, number: i64) -> Result<(), DbError> {
        let sql = format!("update namespace set first_{of} = $1 where id = $2");
        self.execute(&sql, values![number + 1, self.namespace()]).await.doing("note what is kept")
    }
}

impl Db {
    /// A page of the steps of a workspace that fit a filter, at most `limit` of them, and never more than
    /// [`crate::limits::PAGE_MAX`].
    pub async fn steps(
        &self,
        permit: &Permit<Read>,
        filter: StepFilter,
        start: Start,
        limit: usize,
    ) -> Result<Page<Step>, DbError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let found = self.read_in(permit.namespace(), async move |db, namespace| {
            let kept = kept(db, namespace, "step").await.doing("read steps")?;
            let Stretch { low, high } = start.stretch(kept);
            let levels: Vec<&str> =
                Level::ALL.into_iter().filter(|level| *level >= filter.level).map(Level::name).collect();
            let (since, before) = (filter.since.map_or(i64::MIN, |at| at.0), filter.before.map_or(i64::MAX, |at| at.0));
            let mut values = values![namespace, low, high, since, before, levels].to_vec();
            let of_agent = if filter.agent.is_some() { "and agent = $7" } else { "" };
            values.extend(filter.agent.as_ref().map(Value::from));
            let sql = format!(
                "select {COLUMNS} from step where namespace = $1 and number >= $2 and number <= $3
                    and at >= $4 and at < $5 and level {} {of_agent} {} limit {}",
                db.any(6),
                start.order(),
                limit,
            );
            let found = db.all(&sql, &values, from_row).await.doing("read steps")?;
            Ok(Some((kept, found)))
        });
        let (kept, found) = found.await?.unwrap_or_default();
        Ok(start.page(kept, found, limit, |step| (step.number, step.bytes())))
    }
}

/// The numbers of a namespace's steps or messages that are kept.
pub(super) async fn kept(db: &mut Sql<'_>, namespace: i64, of: &str) -> Result<Kept, Cause> {
    let sql = format!("select first_{of}, last_{of} from namespace where id = $1");
    let read = |row: &Row<'_>| Ok(Kept { first: row.next()?, last: row.next()? });
    Ok(db.all(&sql, values![namespace], read).await?.pop().unwrap_or_default())
}

fn values_of(step: &Step) -> [Value<'_>; 7] {
    [
        step.number.into(),
        step.at.0.into(),
        (&step.principal).into(),
        step.agent.as_ref().into(),
        step.level.name().into(),
        (&step.message).into(),
        step.data.as_ref().into(),
    ]
}

fn from_row(row: &Row<'_>) -> Result<Step, Cause> {
    let (number, at, principal, agent) = (row.next()?, Timestamp(row.next()?), row.next()?, row.next()?);
    let level = Level::from_name(row.next_text()?.unwrap_or_default()).ok_or("unknown level of a step")?;
    Ok(Step { number, at, principal, agent, level, message: row.next()?, data: row.next_as_json()? })
}
