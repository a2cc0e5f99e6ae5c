//! Directories that have the files of a workspace, as rows: which hub keeps each, and what it and the store agreed on.

use std::sync::Arc;

use super::{
    Db, DbError, Doing, Tx,
    events::page,
    sql::{Cause, Row, values},
};
use crate::{
    Timestamp,
    directory::{Agreed, Directory},
    limits::PAGE_MAX,
    path::FilePath,
    policy::{Permit, Read},
};

/// What the audit has to say about directories: namespace, subject, and what is wrong with it.
pub(super) const RULES: [&str; 1] = ["select d.namespace, 'file ' || d.path,
        'is at revision ' || d.revision || ' in a directory, and at ' || coalesce(f.revision, 0)
     from directory_file d left join file f on f.namespace = d.namespace and f.path = d.path
     where coalesce(f.revision, 0) < d.revision"];

impl Tx<'_> {
    /// The directory of the workspace, and until when its hub keeps it.
    pub(crate) async fn directory(&mut self) -> Result<Option<(Directory, Timestamp)>, DbError> {
        let sql = "select place, hub, until from directory where namespace = $1";
        self.first(sql, values![self.namespace()], from_row).await.doing("load a directory")
    }

    /// Save which directory the workspace has.
    pub(crate) async fn save_directory(&mut self, directory: &Directory, until: Timestamp) -> Result<(), DbError> {
        let sql = "insert into directory (namespace, place, hub, until) values ($1, $2, $3, $4)
             on conflict (namespace) do update set place = excluded.place, hub = excluded.hub, until = excluded.until";
        let values = values![self.namespace(), &*directory.place, &*directory.hub, until.0];
        self.execute(sql, values).await.doing("save a directory")
    }

    /// Remember what the directory and the store both have of a file.
    pub(crate) async fn agree(&mut self, path: &FilePath, agreed: Option<&Agreed>) -> Result<(), DbError> {
        let doing = "save what a directory has";
        let Some(Agreed { revision, sha256 }) = agreed else {
            let sql = "delete from directory_file where namespace = $1 and path = $2";
            return self.execute(sql, values![self.namespace(), path.as_str()]).await.doing(doing);
        };
        let sql = "insert into directory_file (namespace, path, revision, sha256) values ($1, $2, $3, $4)
             on conflict (namespace, path) do update set revision = excluded.revision, sha256 = excluded.sha256";
        let revision = i64::try_from(*revision).doing(doing)?;
        self.execute(sql, values![self.namespace(), path.as_str(), revision, sha256.as_str()]).await.doing(doing)
    }

    /// Forget what a directory had.
    pub(crate) async fn forget_agreed(&mut self) -> Result<(), DbError> {
        let sql = "delete from directory_file where namespace = $1";
        self.execute(sql, values![self.namespace()]).await.doing("forget what a directory has")
    }
}

impl Db {
    /// The directory of the workspace, if it ever had one, and until when its hub keeps it.
    pub async fn directory(&self, permit: &Permit<Read>) -> Result<Option<(Directory, Timestamp)>, DbError> {
        let found = self.read_in(permit.namespace(), async move |db, namespace| {
            let sql = "select place, hub, until from directory where namespace = $1";
            db.all(sql, values![namespace], from_row).await.doing("read a directory")
        });
        Ok(found.await?.pop())
    }

    /// What the directory and the store had of each file when they were last the same, by path, after one of them. At
    /// most [`PAGE_MAX`].
    pub async fn agreed(
        &self,
        permit: &Permit<Read>,
        after: Option<&FilePath>,
    ) -> Result<Vec<(FilePath, Agreed)>, DbError> {
        let after = after.map_or_else(String::new, |path| path.as_str().to_owned());
        self.read_in(permit.namespace(), async move |db, namespace| {
            let sql = "select path, revision, sha256 from directory_file where namespace = $1 and path > $2
                 order by path limit $3";
            let read = |row: &Row<'_>| {
                let (path, revision) = (FilePath::from_database(row.next()?), row.next::<i64>()?.try_into()?);
                Ok((path, Agreed { revision, sha256: row.next()? }))
            };
            db.all(sql, values![namespace, &after, page(PAGE_MAX)], read).await.doing("read what a directory has")
        })
        .await
    }
}

fn from_row(row: &Row<'_>) -> Result<(Directory, Timestamp), Cause> {
    let (place, hub): (String, String) = (row.next()?, row.next()?);
    Ok((Directory { place: Arc::from(place), hub: Arc::from(hub) }, Timestamp(row.next()?)))
}
