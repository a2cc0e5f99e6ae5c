//! The schema, step by step. A step is a file in `migrations/`, is applied once, and never changes after a release:
//! the database keeps the checksum of each that it has seen, and a program that knows another text under the same
//! number, or fewer numbers, keeps its hands off.

use sha2::{Digest, Sha256};

use super::{
    DbError, Doing,
    sql::{Sql, values},
};
use crate::artefact::hex;

/// One step of the schema.
pub(super) struct Migration {
    number: i64,
    name: &'static str,
    sql: &'static str,
}

/// All steps, in order.
pub(super) const MIGRATIONS: &[Migration] =
    &[Migration { number: 1, name: "start", sql: include_str!("../../migrations/0001_start.sql") }];

/// A step that the database has seen: number and checksum.
type Seen = (i64, String);

/// The table that remembers the steps.
const TABLE: &str = "create table if not exists skep_migration
    (number bigint primary key, name text not null, sha256 text not null)";

/// Bring the database up to date, inside a transaction in which nobody else does the same.
pub(super) async fn migrate(sql: &mut Sql<'_>) -> Result<(), DbError> {
    sql.batch(TABLE).await.doing("prepare the schema")?;
    let seen = seen(sql).await?;
    for step in missing(MIGRATIONS, &seen)? {
        sql.batch(step.sql).await.doing("migrate")?;
        let remember = "insert into skep_migration (number, name, sha256) values ($1, $2, $3)";
        sql.all(remember, values![step.number, step.name, step.sha256()], |_| Ok(())).await.doing("migrate")?;
    }
    Ok(())
}

async fn seen(sql: &mut Sql<'_>) -> Result<Vec<Seen>, DbError> {
    let select = "select number, sha256 from skep_migration order by number";
    sql.all(select, &[], |row| Ok((row.next()?, row.next()?))).await.doing("read the schema's version")
}

/// What is still to be done to a database that has seen these.
fn missing<'a>(known: &'a [Migration], seen: &[Seen]) -> Result<&'a [Migration], DbError> {
    for (number, sha256) in seen {
        match known.iter().find(|step| step.number == *number) {
            None => {
                let newest = |numbers: &mut dyn Iterator<Item = i64>| numbers.max().unwrap_or(0);
                let found = newest(&mut seen.iter().map(|(number, _)| *number));
                return Err(DbError::Newer { found, known: newest(&mut known.iter().map(|step| step.number)) });
            }
            Some(step) if step.sha256() != *sha256 => {
                return Err(DbError::MigrationChanged { number: step.number, name: step.name });
            }
            Some(_) => {}
        }
    }
    Ok(known.get(seen.len()..).unwrap_or_default())
}

impl Migration {
    fn sha256(&self) -> String {
        hex(&Sha256::digest(self.sql))
    }
}
