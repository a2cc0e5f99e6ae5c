//! Changes that other programs than Skep make in the database: psql, a script, a restored backup.
//!
//! On PostgreSQL, triggers note the rows (migration 7). While anybody follows, a hub makes events of the notes within a
//! second, so that followers of the events know that rows have changed without one. SQLite does not tell who writes.

use super::{Db, DbError, Doing, Row, Store, Tx, events::page, sql::values};
use crate::{
    Namespace,
    event::{EventKind, NewEvent},
};

/// Notes that become events in one transaction.
const NOTES_MAX: usize = 500;
/// Namespaces whose notes are taken at once; the others follow with the next poll.
const NAMESPACES_MAX: usize = 100;

impl Db {
    /// Make events of what other programs have changed.
    pub(super) async fn take_foreign_changes(&self) -> Result<(), DbError> {
        if matches!(&*self.store, Store::Sqlite(_)) {
            return Ok(());
        }
        let noted = self.read(async |sql| {
            let select = "select distinct team, workspace from foreign_change
                 join namespace on namespace.id = foreign_change.namespace limit $1";
            let read = |row: &Row<'_>| {
                let (team, workspace): (String, String) = (row.next()?, row.next()?);
                Ok(Namespace { team: team.into(), workspace: workspace.into() })
            };
            sql.all(select, values![page(NAMESPACES_MAX)], read).await.doing("look for foreign changes")
        });
        for namespace in noted.await? {
            self.write_as_hub(&namespace, async |tx: &mut Tx<'_>| tx.take_foreign_changes().await).await?;
        }
        Ok(())
    }
}

impl Tx<'_> {
    /// Make events of the notes in this namespace. Hubs that do so at the same time come one after the other.
    async fn take_foreign_changes(&mut self) -> Result<(), DbError> {
        let row = self.sql.row_id();
        let noted = self.sql.among(&format!("select {row} from foreign_change where namespace = $1 limit $2"));
        let sql = format!("delete from foreign_change where {row} {noted} returning relation, key");
        let read = |row: &Row<'_>| Ok((row.next::<String>()?, row.next::<String>()?));
        let notes = self.change(&sql, values![self.namespace(), page(NOTES_MAX)], read).await;
        for (table, key) in notes.doing("take the notes of foreign changes")? {
            let kind = EventKind::ForeignChanged { table, key };
            self.append(NewEvent { at: self.now(), run: None, task: None, kind });
        }
        Ok(())
    }
}
