//! The errors of the store. Each variant asks something else of the caller.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    postgres::{Advice, PoolError, advice},
    sql::Cause,
};

/// What the database said. Shared, because one failed commit fails many writes.
pub type Source = Arc<dyn Error + Send + Sync>;

/// The store could not do it. Unless a variant says otherwise, nothing of what was asked for has been done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DbError {
    /// Come back later.
    #[error("the store is busy: {0}; try again in a moment")]
    Busy(&'static str),
    /// [`super::Db::close`] was called.
    #[error("the store has been closed")]
    Closed,
    /// The directory of the database file is missing.
    #[error("there is no directory {}; create it, or choose another place for the database", .0.display())]
    NoDirectory(PathBuf),
    /// Another process keeps the database file locked.
    #[error("another process keeps the database locked; end it, or try again when it is done")]
    Locked(#[source] Source),
    /// No room on the disk.
    #[error("the disk of the database is full; make room and try again: nothing that was acknowledged is lost")]
    Full(#[source] Source),
    /// The disk, or the file system on it, does not do what it should.
    #[error(
        "the disk of the database failed; check it, and the limits and quota of its file system: nothing that was \
         acknowledged is lost"
    )]
    Disk(#[source] Source),
    /// The database file cannot be opened.
    #[error(
        "cannot open the database{}; check that it is a file in a directory which you may write to",
        .path.as_ref().map_or(String::new(), |path| format!(" file {}", path.display()))
    )]
    CannotOpen {
        /// The file, where it is known.
        path: Option<PathBuf>,
        /// What SQLite said.
        source: Source,
    },
    /// The database may be read but not written.
    #[error("the database cannot be written; check the permissions of its file and its directory")]
    ReadOnly(#[source] Source),
    /// The file is damaged or no database at all.
    #[error("the database is damaged or is no database; restore a backup, or move the file away to start afresh")]
    Corrupt(#[source] Source),
    /// The file is another program's database.
    #[error("this database belongs to another program; choose another file for Skep's")]
    Foreign,
    /// The database server does not answer, or has ended the connection.
    #[error("the database server cannot be reached; check its address and that it runs")]
    Unreachable(#[source] Source),
    /// What the settings say of the database cannot be: its address, or a file that the address names.
    #[error("the address of the database cannot be used: {0}")]
    Address(String),
    /// What the settings say of Redis cannot be: its address, or a file that the address names.
    #[error("the address of Redis cannot be used: {0}")]
    Redis(String),
    /// No encrypted connection to a server that is the right one.
    #[error("the TLS connection to the database server {server} failed: {why}")]
    Tls {
        /// The server's name.
        server: String,
        /// What is wrong, and what to do.
        why: String,
        /// What the library said.
        source: Source,
    },
    /// The server does not let us in.
    #[error(
        "the database server {server} refuses the login; check the user, password and database in the address, and \
         the server's pg_hba.conf"
    )]
    Refused {
        /// The server's name.
        server: String,
        /// What the server said.
        source: Source,
    },
    /// There is a server, but not one that can be used.
    #[error("this database server cannot be used: {0}")]
    Unsuitable(String),
    /// The role in the address may not do what must be done.
    #[error(
        "the role in the address of the database lacks rights there; let an administrator run `create schema skep \
         authorization ROLE` or, if there is one, make the role the owner of the schema and of all that is in it"
    )]
    Denied(#[source] Source),
    /// A newer Skep has made this database or brought it up to date.
    #[error("the database is at version {found}, made by a newer Skep; this one knows {known}: install the newer one")]
    Newer {
        /// The number of the newest migration in the database.
        found: i64,
        /// The number of the newest migration that this program has.
        known: i64,
    },
    /// A migration in the database is not the one that this program has under the same number.
    #[error("migration {number} ({name}) of the database differs from this program's: use the Skep that made it")]
    MigrationChanged {
        /// Its number.
        number: i64,
        /// Its name in this program.
        name: &'static str,
    },
    /// The database was lost while committing: it may be done or not. Ask again; operations with a name count once.
    #[error("the database was lost while committing: it may or may not be done; look, or ask again")]
    Unsure(#[source] Source),
    /// An earlier commit failed, and it is unknown whether the disk has it. Nothing of this has been done.
    #[error(
        "the disk of the database failed during a commit, so the store has stopped; check the disk, then start Skep \
         again: nothing that was acknowledged is lost"
    )]
    Stopped(#[source] Source),
    /// The database failed; what the caller asked for may be fine.
    #[error("failed to {doing}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        source: Source,
    },
}

/// Says what was being done when the database failed.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, DbError>;
}

impl<T, E: Into<Cause>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, DbError> {
        self.map_err(|cause| failed(doing, cause))
    }
}

/// What SQLite says of a failure, without the numbers that rusqlite puts beside it.
fn in_words(cause: Cause) -> Cause {
    match cause.downcast_ref() {
        Some(rusqlite::Error::SqliteFailure(_, Some(said))) => said.clone().into(),
        Some(rusqlite::Error::SqliteFailure(code, None)) => rusqlite::ffi::code_to_str(code.extended_code).into(),
        _ => cause,
    }
}

impl DbError {
    /// A server that does not answer, and how that shows.
    pub(super) fn unreachable(how: String) -> DbError {
        DbError::Unreachable(Cause::from(how).into())
    }

    /// Whether the same may be done in a moment, although nothing about it is changed: the database is busy or away, a
    /// standby has not taken over yet, the disk is full, the store is closed. Nothing was done, so whoever comes
    /// back later does nothing twice.
    pub fn may_pass(&self) -> bool {
        match self {
            DbError::Busy(_) | DbError::Closed | DbError::Locked(_) | DbError::Full(_) => true,
            // An open store has had a server that was none of that.
            DbError::Unreachable(_) | DbError::Tls { .. } | DbError::Refused { .. } | DbError::Unsuitable(_) => true,
            _ => false,
        }
    }

    /// The same, and the file that it is about.
    pub(super) fn of_file(self, file: &Path) -> DbError {
        match self {
            DbError::CannotOpen { path: None, source } => DbError::CannotOpen { path: Some(file.to_owned()), source },
            other => other,
        }
    }
}

/// The error for a cause: the variant that tells the caller most.
pub(super) fn failed(doing: &'static str, cause: impl Into<Cause>) -> DbError {
    use rusqlite::ErrorCode;
    let cause = match cause.into().downcast::<PoolError>() {
        Ok(pooled) => match *pooled {
            PoolError::Backend(error) => return error,
            PoolError::Timeout(_) => return DbError::Busy("no connection to the database server became free"),
            PoolError::Closed => return DbError::Closed,
            other => other.into(),
        },
        Err(cause) => cause,
    };
    let code = cause.downcast_ref().and_then(rusqlite::Error::sqlite_error_code);
    let source: Source = in_words(cause).into();
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => return DbError::Locked(source),
        Some(ErrorCode::DiskFull) => return DbError::Full(source),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => return DbError::Corrupt(source),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => return DbError::ReadOnly(source),
        Some(ErrorCode::SystemIoFailure) => return DbError::Disk(source),
        Some(ErrorCode::CannotOpen) => return DbError::CannotOpen { path: None, source },
        _ => {}
    }
    match advice(&*source) {
        Some(Advice::Busy(why)) => DbError::Busy(why),
        Some(Advice::Full) => DbError::Full(source),
        Some(Advice::Corrupt) => DbError::Corrupt(source),
        Some(Advice::Denied) => DbError::Denied(source),
        Some(Advice::Unreachable) => DbError::Unreachable(source),
        None => DbError::Failed { doing, source },
    }
}
