//! The schema of the database, brought up to date when a hub opens it.
//!
//! Our tables are in a schema of their own, `skep`: names like `task` and `log` may be taken in `public`, and a schema
//! can be dumped, granted and dropped as one. The first edition had its tables wherever the role's `search_path` led
//! to; from there they are moved, in the transaction of the migration, so that all of them are at one place or at the
//! other. A view of the migrations stays behind: programs of the first edition look there, and must find a database
//! that is newer than they are, and not an empty one that they would set up.

use std::{sync::Arc, time::Duration};

use tokio_postgres::Client;

use super::{Pipeline, SCHEMA, pool::Pool};
use crate::db::{DbError, Doing, Sql, migrations::migrate};

/// How long to wait while another hub brings the database up to date.
const MIGRATION_TIME_MAX: Duration = Duration::from_secs(600);
/// Key of the lock that hubs take who start together; any number will do, as long as all use the same.
const MIGRATION_LOCK: i64 = 7537;
/// The last migration of the first edition.
const FIRST_EDITION: i64 = 2;
/// The tables of the first edition.
const TABLES: [&str; 8] = ["run", "task", "dependency", "artefact", "log", "event", "mcp_task", "skep_migration"];

/// Bring the database up to date, while no other hub does.
pub(super) async fn bring_up_to_date(pool: &Pool, lock_time_max: Duration) -> Result<(), DbError> {
    let client = Arc::new(pool.get().await.doing("connect")?);
    let begin = format!(
        "begin; set local statement_timeout = 0; set local lock_timeout = {}; \
         select pg_advisory_xact_lock({MIGRATION_LOCK}); set local lock_timeout = {}",
        MIGRATION_TIME_MAX.as_millis(),
        lock_time_max.as_millis()
    );
    client.batch_execute(&begin).await.doing("begin the migration")?;
    let done = async {
        prepare(&client).await?;
        migrate(&mut Sql::Postgres(&mut Pipeline::new(Arc::clone(&client)))).await
    };
    let done = done.await;
    let end = if done.is_ok() { "commit" } else { "rollback" };
    client.batch_execute(end).await.doing("end the migration")?;
    done?;
    let fsync = client.query_one("select current_setting('fsync')", &[]).await.doing("look at the server")?;
    if fsync.get::<_, &str>(0) == "off" {
        tracing::warn!("the database server may lose what it has acknowledged: it runs with fsync=off");
    }
    Ok(())
}

/// Make the schema, and move into it what the first edition had elsewhere.
async fn prepare(client: &Client) -> Result<(), DbError> {
    let question = format!(
        "select current_setting('search_path'), current_schema() is not null, to_regnamespace('{SCHEMA}') is not null"
    );
    let answer = client.query_one(&question, &[]).await.doing("look at the schema")?;
    let (path, is_there, is_made): (String, bool, bool) = (answer.get(0), answer.get(1), answer.get(2));
    if path != SCHEMA {
        return if is_there {
            Ok(())
        } else {
            Err(DbError::Unsuitable(format!(
                "it has no schema of those that the address names (search_path={path}); create it, or take search_path \
                 out of the address"
            )))
        };
    }
    if !is_made {
        client.batch_execute(&format!("create schema {SCHEMA}")).await.doing("create the schema")?;
    }
    let question = format!("select to_regclass('{SCHEMA}.skep_migration') is not null");
    let is_in_use = client.query_one(&question, &[]).await.doing("look at the schema")?.get(0);
    if is_in_use { Ok(()) } else { move_in(client).await }
}

/// Move the tables of the first edition into the schema, if there are any where the role's own `search_path` leads to.
/// What else is there, under whatever name, stays.
async fn move_in(client: &Client) -> Result<(), DbError> {
    let looking = "look for tables of an earlier version";
    client.batch_execute("set local search_path to default").await.doing(looking)?;
    let question = "select quote_ident(schemaname), cast(tablename as text), has_schema_privilege(schemaname, 'create')
         from pg_tables where schemaname = current_schema() and tablename = any($1)";
    let found = client.query(question, &[&TABLES.as_slice()]).await.doing(looking)?;
    client.batch_execute(&format!("set local search_path to {SCHEMA}")).await.doing("set the schema")?;
    let Some(last) = found.iter().find(|row| row.get::<_, &str>(1) == "skep_migration") else { return Ok(()) };
    let (from, may_create): (&str, bool) = (last.get(0), last.get(2));
    let version = format!("select max(number) from {from}.skep_migration");
    let version: Option<i64> = client.query_one(&version, &[]).await.doing(looking)?.get(0);
    if version.is_some_and(|version| version > FIRST_EDITION) {
        return Err(DbError::Unsuitable(format!(
            "Skep's tables are in its schema {from}, where the address had put them; add to the address: \
             options=-csearch_path={from}"
        )));
    }
    let moves = found.iter().map(|row| format!("alter table {from}.{} set schema {SCHEMA}; ", row.get::<_, &str>(1)));
    let mut moves: String = moves.collect();
    if may_create {
        moves += &format!(
            "create view {from}.skep_migration as select number, name, sha256, cast(0 as bigint) as oldest from {SCHEMA}.skep_migration"
        );
    }
    client.batch_execute(&moves).await.doing("move the tables into the schema skep")?;
    tracing::info!(from, "moved the tables into the schema {SCHEMA}");
    Ok(())
}
