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
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { number: 1, name: "start", sql: include_str!("../../migrations/0001_start.sql") },
    Migration { number: 2, name: "mcp_tasks", sql: include_str!("../../migrations/0002_mcp_tasks.sql") },
];

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

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: i64) -> Migration {
        Migration { number, name: "step", sql: "select 1" }
    }

    #[test]
    fn what_the_database_has_not_seen_is_done_in_order() {
        let known = [step(1), step(2), step(3)];
        let seen = |numbers: &[i64]| numbers.iter().map(|number| (*number, step(*number).sha256())).collect::<Vec<_>>();
        let todo = |numbers: &[i64]| {
            missing(&known, &seen(numbers)).unwrap().iter().map(|step| step.number).collect::<Vec<_>>()
        };
        assert_eq!(todo(&[]), [1, 2, 3]);
        assert_eq!(todo(&[1, 2]), [3]);
        assert_eq!(todo(&[1, 2, 3]), [] as [i64; 0]);
        let newer = missing(&known, &seen(&[1, 2, 3, 4, 5]));
        assert!(matches!(newer, Err(DbError::Newer { found: 5, known: 3 })));
    }

    #[test]
    fn steps_are_numbered_without_gaps_and_as_their_files_are() {
        let numbers: Vec<i64> = MIGRATIONS.iter().map(|step| step.number).collect();
        assert_eq!(numbers, (1..).take(MIGRATIONS.len()).collect::<Vec<i64>>());
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let named = MIGRATIONS.iter().map(|step| format!("{:04}_{}.sql", step.number, step.name));
        assert_eq!(files, named.collect::<Vec<_>>());
    }
}
