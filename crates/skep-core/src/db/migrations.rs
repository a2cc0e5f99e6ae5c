//! The schema, step by step. A step is a file in `migrations/`, is applied once, and never changes after a release:
//! the database keeps the checksum of each that it has seen, and a program that knows another text under the same
//! number refuses the database. So does one that knows fewer numbers, unless each of the others lets it work on.

use sha2::{Digest, Sha256};

use super::{
    DbError, Doing,
    sql::{Row, Sql, values},
};
use crate::hex::hex;

/// One step of the schema.
pub(super) struct Migration {
    number: i64,
    name: &'static str,
    /// The number of the newest migration that a program must have to work on a database with this one: hubs may be
    /// upgraded one by one if the older ones can work on meanwhile.
    oldest: i64,
    sql: Text,
}

/// The statements of a step.
enum Text {
    Same(&'static str),
    /// Where the databases have different words for it.
    Each {
        sqlite: &'static str,
        postgres: &'static str,
    },
}

/// All steps, in order.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { number: 1, name: "start", oldest: 1, sql: Text::Same(include_str!("../../migrations/0001_start.sql")) },
    Migration {
        number: 2,
        name: "mcp_tasks",
        oldest: 1,
        sql: Text::Same(include_str!("../../migrations/0002_mcp_tasks.sql")),
    },
    Migration {
        number: 3,
        name: "namespaces",
        oldest: 4,
        sql: Text::Each {
            sqlite: include_str!("../../migrations/0003_namespaces.sqlite.sql"),
            postgres: include_str!("../../migrations/0003_namespaces.postgres.sql"),
        },
    },
    Migration { number: 4, name: "keys", oldest: 4, sql: Text::Same(include_str!("../../migrations/0004_keys.sql")) },
    Migration {
        number: 5,
        name: "sessions",
        oldest: 5,
        sql: Text::Same(include_str!("../../migrations/0005_sessions.sql")),
    },
    Migration {
        number: 6,
        name: "retention",
        oldest: 5,
        sql: Text::Same(include_str!("../../migrations/0006_retention.sql")),
    },
    Migration {
        number: 7,
        name: "foreign",
        oldest: 7, // older programs know no events of foreign changes
        sql: Text::Each {
            sqlite: include_str!("../../migrations/0007_foreign.sqlite.sql"),
            postgres: include_str!("../../migrations/0007_foreign.postgres.sql"),
        },
    },
    Migration {
        number: 8,
        name: "incarnation",
        oldest: 7,
        sql: Text::Each {
            sqlite: include_str!("../../migrations/0008_incarnation.sqlite.sql"),
            postgres: include_str!("../../migrations/0008_incarnation.postgres.sql"),
        },
    },
    Migration {
        number: 9,
        name: "blobs",
        oldest: 9, // older programs would read an empty text where a row names a blob
        sql: Text::Same(include_str!("../../migrations/0009_blobs.sql")),
    },
    Migration {
        number: 10,
        name: "epochs",
        oldest: 9,
        sql: Text::Same(include_str!("../../migrations/0010_epochs.sql")),
    },
    Migration {
        number: 11,
        name: "steps",
        oldest: 11, // older programs do not say what a task is called in its run
        sql: Text::Same(include_str!("../../migrations/0011_steps.sql")),
    },
    Migration {
        number: 12,
        name: "inputs",
        oldest: 11,
        sql: Text::Same(include_str!("../../migrations/0012_inputs.sql")),
    },
    Migration {
        number: 13,
        name: "actors",
        oldest: 11,
        sql: Text::Same(include_str!("../../migrations/0013_actors.sql")),
    },
    Migration {
        number: 14,
        name: "shared_state",
        oldest: 14, // older programs would delete values that only shared state names
        sql: Text::Each {
            sqlite: include_str!("../../migrations/0014_shared_state.sqlite.sql"),
            postgres: include_str!("../../migrations/0014_shared_state.postgres.sql"),
        },
    },
    Migration {
        number: 15,
        name: "tasks",
        oldest: 15, // older programs would start tasks whose deadline has passed
        sql: Text::Each {
            sqlite: include_str!("../../migrations/0015_tasks.sqlite.sql"),
            postgres: include_str!("../../migrations/0015_tasks.postgres.sql"),
        },
    },
];

/// A step that the database has seen: number and checksum.
type Seen = (i64, String);

/// The table that remembers the steps.
const TABLE: &str = "create table if not exists skep_migration
    (number bigint primary key, name text not null, sha256 text not null)";
/// It remembers more since the third step. Programs that know fewer steps refuse to work on such a database.
const OLDEST_SINCE: i64 = 3;
const ADD_OLDEST: &str = "alter table skep_migration add column oldest bigint not null default 0";

/// Bring the database up to date, inside a transaction that holds off all others that would.
pub(super) async fn migrate(sql: &mut Sql<'_>) -> Result<(), DbError> {
    sql.batch(TABLE).await.doing("prepare the schema")?;
    let seen = seen(sql).await?;
    check_newer(sql, MIGRATIONS, &seen).await?;
    for step in missing(MIGRATIONS, &seen, sql.is_sqlite())? {
        sql.batch(step.sql.of(sql.is_sqlite())).await.doing("migrate")?;
        let (number, name, sha256) = (step.number, step.name, step.sha256(sql.is_sqlite()));
        if number == OLDEST_SINCE {
            sql.batch(ADD_OLDEST).await.doing("migrate")?;
        }
        if number < OLDEST_SINCE {
            let remember = "insert into skep_migration (number, name, sha256) values ($1, $2, $3)";
            sql.all(remember, values![number, name, sha256], |_| Ok(())).await.doing("migrate")?;
        } else {
            let remember = "insert into skep_migration (number, name, sha256, oldest) values ($1, $2, $3, $4)";
            sql.all(remember, values![number, name, sha256, step.oldest], |_| Ok(())).await.doing("migrate")?;
        }
    }
    Ok(())
}

async fn seen(sql: &mut Sql<'_>) -> Result<Vec<Seen>, DbError> {
    let select = "select number, sha256 from skep_migration order by number";
    sql.all(select, &[], |row| Ok((row.next()?, row.next()?))).await.doing("read the schema's version")
}

/// Refuse a database that a newer program has changed in such a way that this one cannot work on it.
async fn check_newer(sql: &mut Sql<'_>, known: &[Migration], seen: &[Seen]) -> Result<(), DbError> {
    let newest = known.iter().map(|step| step.number).max().unwrap_or(0);
    let found = seen.iter().map(|(number, _)| *number).max().unwrap_or(0);
    if found <= newest {
        return Ok(());
    }
    let oldest = "select max(oldest) from skep_migration where number > $1";
    let read = |row: &Row<'_>| row.next::<Option<i64>>();
    let oldest = sql.all(oldest, values![newest], read).await.doing("read the schema's version")?;
    let may_run = oldest.into_iter().flatten().all(|oldest| 0 < oldest && oldest <= newest);
    if may_run { Ok(()) } else { Err(DbError::Newer { found, known: newest }) }
}

/// What is still to be done to a database that has seen these. What only a newer program knows does not concern this
/// one.
fn missing<'a>(known: &'a [Migration], seen: &[Seen], sqlite: bool) -> Result<Vec<&'a Migration>, DbError> {
    for (number, sha256) in seen {
        let step = known.iter().find(|step| step.number == *number);
        if let Some(step) = step.filter(|step| step.sha256(sqlite) != *sha256) {
            return Err(DbError::MigrationChanged { number: step.number, name: step.name });
        }
    }
    Ok(known.iter().filter(|step| !seen.iter().any(|(number, _)| *number == step.number)).collect())
}

impl Text {
    fn of(&self, sqlite: bool) -> &'static str {
        match self {
            Text::Same(sql) | Text::Each { sqlite: sql, .. } if sqlite => sql,
            Text::Same(sql) | Text::Each { postgres: sql, .. } => sql,
        }
    }
}

impl Migration {
    fn sha256(&self, sqlite: bool) -> String {
        hex(&Sha256::digest(self.sql.of(sqlite)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: i64) -> Migration {
        Migration { number, name: "step", oldest: 1, sql: Text::Same("select 1") }
    }

    #[test]
    fn what_the_database_has_not_seen_is_done_in_order() {
        let known = [step(1), step(2), step(3)];
        let seen = |numbers: &[i64]| -> Vec<Seen> {
            numbers.iter().map(|number| (*number, step(*number).sha256(true))).collect()
        };
        let todo = |numbers: &[i64]| {
            missing(&known, &seen(numbers), true).unwrap().iter().map(|step| step.number).collect::<Vec<_>>()
        };
        assert_eq!(todo(&[]), [1, 2, 3]);
        assert_eq!(todo(&[1, 2]), [3]);
        assert_eq!(todo(&[1, 2, 3]), [] as [i64; 0]);
        assert_eq!(todo(&[1, 2, 3, 4]), [] as [i64; 0], "a newer program has done more");
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
        let named = MIGRATIONS.iter().flat_map(|step| {
            let ends: &[&str] = match step.sql {
                Text::Same(_) => &["sql"],
                Text::Each { .. } => &["postgres.sql", "sqlite.sql"],
            };
            ends.iter().map(|end| format!("{:04}_{}.{end}", step.number, step.name)).collect::<Vec<_>>()
        });
        assert_eq!(files, named.collect::<Vec<_>>());
    }

    #[test]
    fn no_step_lets_a_program_work_that_an_earlier_one_has_locked_out() {
        assert!(MIGRATIONS.iter().is_sorted_by_key(|step| step.oldest));
    }
}
