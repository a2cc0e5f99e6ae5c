//! Files and their revisions as rows. Contents are blobs of the namespace (`blobs.rs`), each once, however many
//! revisions have the same.
//!
//! The row of a file is its newest revision again, so that reading and listing files look at one row of each. A deleted
//! file keeps its row, without contents, so that its revisions go on being numbered.

use std::sync::Arc;

use super::{
    Db, DbError, Doing, Tx, claims,
    error::failed,
    events::page,
    redis::BLOB_BYTES,
    sql::{Cause, Row, Select, values},
};
use crate::{
    Timestamp,
    claim::{Claim, ClaimToken},
    file::{Author, Contents, KeepRevisions, Revision},
    glob::Pattern,
    limits::PAGE_MAX,
    path::FilePath,
    policy::{Permit, Read},
};

/// A revision, as [`from_row`] reads it, from the row of a file and from one of a revision.
const OF_FILE: &str = "path, revision, cast(null as bigint), sha256, size, author, agent, at, cast(null as bigint)";
const OF_REVISION: &str = "path, number, base, sha256, size, author, agent, at, bypassed";
/// Pages that are looked through for files that fit a pattern. Then the caller has to ask for more.
const PAGES_MAX: usize = 10;
/// Revisions that one statement deletes.
const DELETED_MAX: usize = 500;
/// Files that one statement looks at for revisions to delete.
const PRUNED_MAX: usize = 100;

/// What the audit has to say about files: namespace, subject, and what is wrong with it.
pub(super) const RULES: [&str; 4] = [
    "select f.namespace, 'file ' || f.path, case
            when r.number is null then 'is at revision ' || f.revision || ', which does not exist'
            else 'is not as its revision ' || f.revision || ' says'
        end
     from file f left join revision r on r.namespace = f.namespace and r.path = f.path and r.number = f.revision
     where r.number is null or r.size <> f.size or r.at <> f.at or coalesce(r.sha256, '') <> coalesce(f.sha256, '')
        or coalesce(r.author, '') <> coalesce(f.author, '') or coalesce(r.agent, '') <> coalesce(f.agent, '')",
    "select r.namespace, 'file ' || r.path, case
            when f.path is null then 'has revisions, but does not exist'
            else 'has revision ' || r.number || ', but is at ' || f.revision
        end
     from revision r left join file f on f.namespace = r.namespace and f.path = r.path
     where f.path is null or r.number > f.revision",
    "select namespace, 'file ' || path,
        'has ' || count(*) || ' revisions from ' || min(number) || ' to ' || max(number)
     from revision group by namespace, path having count(*) <> max(number) - min(number) + 1",
    "select r.namespace, 'file ' || r.path, 'has ' || b.size || ' bytes in revision ' || r.number || ', not ' || r.size
     from revision r join blob b on b.namespace = r.namespace and b.sha256 = r.sha256 where b.size <> r.size",
];

/// Which files are listed.
#[derive(Clone, Debug, Default)]
pub struct FileFilter {
    /// Those below this directory, which ends in `/`; all, if it is empty.
    pub directory: String,
    /// Those that fit this.
    pub pattern: Option<Pattern>,
}

/// Which revisions are listed.
#[derive(Clone, Debug, Default)]
pub struct RevisionFilter {
    /// Those of this file, or of the files in this directory; all, if it is empty.
    pub path: String,
    /// Those that an agent or a principal of this name made.
    pub by: Option<String>,
    /// Those that were made then or later.
    pub since: Option<Timestamp>,
}

/// Where a revision is among all of a workspace: by time, and by path and number of those of one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionPlace {
    /// When it was made.
    pub at: Timestamp,
    /// Of which file.
    pub path: String,
    /// Which one.
    pub number: u64,
}

/// Some revisions, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevisionPage {
    /// The revisions.
    pub revisions: Vec<Revision>,
    /// There may be more before this one.
    pub next: Option<RevisionPlace>,
}

/// Some files, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePage {
    /// Their newest revisions.
    pub files: Vec<Revision>,
    /// There may be more after this path.
    pub next: Option<FilePath>,
}

/// What a change of a file depends on.
pub(crate) struct FileState {
    /// The file, also if it was deleted.
    pub(crate) newest: Option<Revision>,
    /// Another file that some file systems take for it.
    pub(crate) twin: Option<FilePath>,
    /// The claims that may be on it, and the one of the token, without those that are over.
    pub(crate) claims: Vec<Claim>,
}

impl Tx<'_> {
    /// What a change of a file with a token depends on.
    pub(crate) async fn file_state(
        &mut self,
        path: &FilePath,
        token: Option<ClaimToken>,
    ) -> Result<FileState, DbError> {
        let (twin, namespace) = (path.twin(), self.namespace());
        let file_sql = format!(
            "select {OF_FILE} from file where namespace = $1 and path = $2 union all
             select {OF_FILE} from file where namespace = $3 and twin = $4 and sha256 is not null and path <> $5"
        );
        let file = Select {
            sql: &file_sql,
            values: values![namespace, path.as_str(), namespace, &twin, path.as_str()],
            read: from_row,
        };
        let claims_sql = claims::on_path();
        let token = token.map_or(0, |token| token.0);
        let claims = Select {
            sql: &claims_sql,
            values: values![namespace, &twin, namespace, namespace, token, &twin],
            read: claims::from_row,
        };
        let (files, mut claims) = self.both(file, claims).await.doing("load a file")?;
        let bounds = self.time_bounds();
        claims.retain(|claim| !claim.is_over(bounds));
        let (own, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.path == *path);
        let twin = others.into_iter().next().map(|other| other.path);
        Ok(FileState { newest: own.into_iter().next(), twin, claims })
    }

    /// A file where the path has a directory, or that is in a directory where the path has a file.
    pub(crate) async fn file_in_the_way(&mut self, path: &FilePath) -> Result<Option<FilePath>, DbError> {
        let twin = path.twin();
        let directories: Vec<String> = twin.match_indices('/').map(|(at, _)| twin[..at].to_owned()).collect();
        let any = self.sql.any(2);
        // What is in a directory comes between `/` and the character after it.
        let sql = format!(
            "select path from file where namespace = $1 and twin {any} and sha256 is not null union all
             select path from file where namespace = $3 and twin > $4 and twin < $5 and sha256 is not null limit 1"
        );
        let (from, to) = (format!("{twin}/"), format!("{twin}0"));
        let values = values![self.namespace(), directories, self.namespace(), from, to];
        let read = |row: &Row<'_>| Ok(FilePath::from_database(row.next()?));
        self.first(&sql, values, read).await.doing("look for a file in the way")
    }

    /// Add a revision, with its contents if it has any. It is the newest one.
    pub(crate) async fn add_revision(&mut self, new: &Revision, bytes: &[u8]) -> Result<(), DbError> {
        let Revision { path, number, base, sha256, size, author, at, bypassed } = new;
        let doing = "add a revision";
        if let Some(sha256) = sha256 {
            self.add_bytes(sha256, bytes).await.doing(doing)?;
        }
        let (number, size) = (i64::try_from(*number).doing(doing)?, i64::try_from(*size).doing(doing)?);
        let base = base.map(i64::try_from).transpose().doing(doing)?;
        let (principal, agent) = author.as_ref().map(|author| (&*author.principal, author.agent.as_deref())).unzip();
        let agent = agent.flatten();
        let add = "insert into revision (namespace, path, number, base, sha256, size, author, agent, at, bypassed)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        let bypassed = bypassed.map(|token| token.0);
        let (namespace, name) = (self.namespace(), path.as_str());
        let values = values![namespace, name, number, base, sha256.as_ref(), size, principal, agent, at.0, bypassed];
        self.execute(add, values).await.doing(doing)?;
        let save = "insert into file (namespace, path, twin, revision, sha256, size, author, agent, at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (namespace, path) do update set revision = excluded.revision, sha256 = excluded.sha256,
                size = excluded.size, author = excluded.author, agent = excluded.agent, at = excluded.at";
        let values = values![
            self.namespace(),
            path.as_str(),
            path.twin(),
            number,
            sha256.as_ref(),
            size,
            principal,
            agent,
            at.0
        ];
        self.execute(save, values).await.doing(doing)
    }

    /// Delete revisions of a file up to a number, which is not the newest one's, and contents that are no other's; at
    /// most [`DELETED_MAX`]. Whether there may be more.
    pub(crate) async fn delete_revisions(&mut self, path: &FilePath, to: u64) -> Result<bool, DbError> {
        let doing = "delete revisions";
        let to = i64::try_from(to).doing(doing)?;
        let sql = "delete from revision where namespace = $1 and path = $2 and number in (
                select number from revision where namespace = $3 and path = $4 and number <= $5
                    and number < (select revision from file where namespace = $6 and path = $7)
                order by number limit $8
             ) returning sha256";
        let (namespace, path) = (self.namespace(), path.as_str());
        let values = values![namespace, path, namespace, path, to, namespace, path, page(DELETED_MAX)];
        let deleted = self.change(sql, values, |row| row.next::<Option<String>>()).await.doing(doing)?;
        let is_full = deleted.len() >= DELETED_MAX;
        self.delete_unnamed_blobs(deleted.into_iter().flatten().collect()).await?;
        Ok(is_full)
    }
}

impl Db {
    /// Hand contents that were just written to Redis, for whoever reads them next.
    pub(crate) fn keep_at_hand(&self, sha256: &str, bytes: &Arc<[u8]>) {
        if let Some(redis) = self.shared.redis() {
            redis.keep(sha256, bytes.len(), || Arc::clone(bytes));
        }
    }

    /// A file with its contents as they are now, or as they were at a revision. `None` if there never was such a file, or
    /// the revision is not there, or not any more.
    pub async fn file(
        &self,
        permit: &Permit<Read>,
        path: &FilePath,
        revision: Option<u64>,
    ) -> Result<Option<Contents>, DbError> {
        let Some(redis) = self.shared.redis().filter(|redis| redis.is_up()) else {
            return self.file_where(permit, path, revision, "true").await;
        };
        // Contents that Redis may have are left out at first.
        let (least, most) = (BLOB_BYTES.start(), BLOB_BYTES.end());
        let found = self.file_where(permit, path, revision, &format!("size not between {least} and {most}")).await?;
        let Some(Contents { revision: Revision { sha256: Some(sha256), size, .. }, bytes: None }) = &found else {
            return Ok(found);
        };
        if let Some(bytes) = redis.blob(sha256, *size).await {
            return Ok(found.map(|found| Contents { bytes: Some(bytes), ..found }));
        }
        let found = self.file_where(permit, path, revision, "true").await?;
        if let Some(Contents { revision: Revision { sha256: Some(sha256), .. }, bytes: Some(bytes) }) = &found {
            redis.keep(sha256, bytes.len(), || bytes.as_slice().into());
        }
        Ok(found)
    }

    /// The same, without the contents of a revision that does not fit a condition.
    async fn file_where(
        &self,
        permit: &Permit<Read>,
        path: &FilePath,
        revision: Option<u64>,
        condition: &str,
    ) -> Result<Option<Contents>, DbError> {
        let (table, columns, which) = match revision {
            None => ("file", OF_FILE, ""),
            Some(_) => ("revision", OF_REVISION, "and number = $3"),
        };
        let sql = format!(
            "select {columns}, {condition}, case when {condition} then (select bytes from blob
                where blob.namespace = {table}.namespace and blob.sha256 = {table}.sha256) end
             from {table} where namespace = $1 and path = $2 {which}"
        );
        let (path, number) = (path.clone(), revision.and_then(|number| i64::try_from(number).ok()));
        let read = |row: &Row<'_>| Ok((from_row(row)?, row.next::<bool>()?, row.next()?));
        let found = self.read_in(permit.namespace(), async move |db, namespace| {
            let all = values![namespace, path.as_str(), number];
            let used = if revision.is_some() { 3 } else { 2 };
            db.all(&sql, &all[..used], read).await.doing("read a file")
        });
        match found.await?.pop() {
            Some((Revision { sha256: Some(_), .. }, true, None)) => {
                Err(failed("read a file", "there is no blob of the name that its row has"))
            }
            found => Ok(found.map(|(revision, _, bytes)| Contents { revision, bytes })),
        }
    }

    /// The files that are there, by path, after one of them. At most `limit`, and never more than [`PAGE_MAX`]; where
    /// few fit the filter, there may be fewer on a page.
    pub async fn files(
        &self,
        permit: &Permit<Read>,
        filter: &FileFilter,
        after: Option<&FilePath>,
        limit: usize,
    ) -> Result<FilePage, DbError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let size = if filter.pattern.is_some() { PAGE_MAX } else { limit };
        let mut found = FilePage { files: Vec::new(), next: after.cloned() };
        for _ in 0..PAGES_MAX {
            let files = self.files_below(permit, &filter.directory, found.next.as_ref(), size).await?;
            let is_last = files.len() < size;
            for file in files {
                found.next = Some(file.path.clone());
                if filter.pattern.as_ref().is_none_or(|pattern| pattern.covers(&file.path)) {
                    found.files.push(file);
                }
                if found.files.len() == limit {
                    return Ok(found);
                }
            }
            if is_last {
                found.next = None;
                return Ok(found);
            }
        }
        Ok(found)
    }

    async fn files_below(
        &self,
        permit: &Permit<Read>,
        directory: &str,
        after: Option<&FilePath>,
        limit: usize,
    ) -> Result<Vec<Revision>, DbError> {
        let sql = format!(
            "select {OF_FILE} from file where namespace = $1 and path > $2 and path >= $3 and path < $4
                and sha256 is not null order by path limit $5"
        );
        let after = after.map_or_else(String::new, |path| path.as_str().to_owned());
        let (from, to) = match directory.strip_suffix('/') {
            None => (String::new(), char::MAX.to_string()),
            Some(name) => (directory.to_owned(), format!("{name}0")), // `0` comes after `/`
        };
        self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(&sql, values![namespace, &after, &from, &to, page(limit)], from_row).await.doing("list files")
        })
        .await
    }

    /// The revisions of a file, newest first, before one of them. At most `limit`, and never more than [`PAGE_MAX`].
    pub async fn revisions(
        &self,
        permit: &Permit<Read>,
        path: &FilePath,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Revision>, DbError> {
        let sql = format!(
            "select {OF_REVISION} from revision where namespace = $1 and path = $2 and number < $3
             order by number desc limit $4"
        );
        let before = before.and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX);
        let path = path.clone();
        self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(&sql, values![namespace, path.as_str(), before, page(limit)], from_row).await.doing("list revisions")
        })
        .await
    }

    /// The revisions of all files of a workspace that fit, newest first, before a place. At most `limit`, and never more
    /// than [`PAGE_MAX`]; where few fit the filter, there may be fewer on a page.
    pub async fn revisions_of_all(
        &self,
        permit: &Permit<Read>,
        filter: &RevisionFilter,
        before: Option<RevisionPlace>,
        limit: usize,
    ) -> Result<RevisionPage, DbError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let size = if filter.path.is_empty() && filter.by.is_none() { limit } else { PAGE_MAX };
        let mut found = RevisionPage { revisions: Vec::new(), next: before };
        for _ in 0..PAGES_MAX {
            let revisions = self.revisions_before(permit, found.next.as_ref(), size).await?;
            let is_last = revisions.len() < size;
            for revision in revisions {
                if filter.since.is_some_and(|since| revision.at < since) {
                    found.next = None;
                    return Ok(found);
                }
                let Revision { path, number, at, .. } = &revision;
                found.next = Some(RevisionPlace { at: *at, path: path.as_str().to_owned(), number: *number });
                if filter.fits(&revision) {
                    found.revisions.push(revision);
                }
                if found.revisions.len() == limit {
                    return Ok(found);
                }
            }
            if is_last {
                found.next = None;
                return Ok(found);
            }
        }
        Ok(found)
    }

    async fn revisions_before(
        &self,
        permit: &Permit<Read>,
        before: Option<&RevisionPlace>,
        limit: usize,
    ) -> Result<Vec<Revision>, DbError> {
        let sql = format!(
            "select {OF_REVISION} from revision where namespace = $1 and (at, path, number) < ($2, $3, $4)
             order by at desc, path desc, number desc limit $5"
        );
        let (at, path, number) = match before {
            None => (i64::MAX, String::new(), 0),
            Some(RevisionPlace { at, path, number }) => {
                (at.0, path.clone(), i64::try_from(*number).unwrap_or(i64::MAX))
            }
        };
        self.read_in(permit.namespace(), async move |db, namespace| {
            let values = values![namespace, at, &path, number, page(limit)];
            db.all(&sql, values, from_row).await.doing("list the revisions of all files")
        })
        .await
    }

    /// Of some files after a path, which revisions are not to be kept: those up to a number. The files that were looked
    /// at end with the second path, if there may be more.
    pub(crate) async fn superfluous_revisions(
        &self,
        permit: &Permit<Read>,
        after: Option<FilePath>,
        keep: KeepRevisions,
    ) -> Result<(Vec<(FilePath, u64)>, Option<FilePath>), DbError> {
        let before = keep.age_max.map_or(Timestamp(i64::MIN), |age| self.now().surely().before(age));
        let sql = "select path, revision, (select max(number) from revision r where r.namespace = file.namespace
                and r.path = file.path and r.at < $1), (select min(number) from revision r
                where r.namespace = file.namespace and r.path = file.path)
             from file where namespace = $2 and path > $3 order by path limit $4";
        let after = after.map_or_else(String::new, |path| path.as_str().to_owned());
        let read = move |row: &Row<'_>| {
            let (path, newest): (String, i64) = (row.next()?, row.next()?);
            let (old, first) = (row.next::<Option<i64>>()?.unwrap_or(0), row.next::<Option<i64>>()?.unwrap_or(newest));
            let many = keep.count_max.map_or(0, |count| newest.saturating_sub_unsigned(count.max(1)));
            let to = old.max(many).min(newest - 1);
            Ok((FilePath::from_database(path), (to >= first).then(|| to.unsigned_abs())))
        };
        let files = self.read_in(permit.namespace(), async move |db, namespace| {
            let values = values![before.0, namespace, &after, page(PRUNED_MAX)];
            db.all(sql, values, read).await.doing("look for old revisions")
        });
        let files = files.await?;
        let last = files.last().filter(|_| files.len() >= PRUNED_MAX).map(|(path, _)| path.clone());
        Ok((files.into_iter().filter_map(|(path, to)| Some((path, to?))).collect(), last))
    }
}

impl RevisionFilter {
    fn fits(&self, revision: &Revision) -> bool {
        let name = revision.path.as_str();
        let is_below = name.strip_prefix(&*self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let is_by = |name: &str| {
            let author = revision.author.as_ref();
            author.is_some_and(|author| &*author.principal == name || author.agent.as_deref() == Some(name))
        };
        (self.path.is_empty() || is_below) && self.by.as_deref().is_none_or(is_by)
    }
}

fn from_row(row: &Row<'_>) -> Result<Revision, Cause> {
    let (path, number) = (FilePath::from_database(row.next()?), row.next::<i64>()?.try_into()?);
    let base = row.next::<Option<i64>>()?.map(u64::try_from).transpose()?;
    let (sha256, size) = (row.next()?, row.next::<i64>()?.try_into()?);
    let (principal, agent): (Option<String>, Option<String>) = (row.next()?, row.next()?);
    let author = principal.map(|principal| Author { principal: principal.into(), agent: agent.map(Arc::from) });
    let (at, bypassed) = (Timestamp(row.next()?), row.next::<Option<i64>>()?.map(ClaimToken));
    Ok(Revision { path, number, base, sha256, size, author, at, bypassed })
}
