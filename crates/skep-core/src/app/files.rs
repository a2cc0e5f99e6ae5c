//! Operations on files. What a directory does to them is in `app/directories.rs`.

use std::sync::Arc;

use super::App;
use crate::{
    claim::{self, Claim, ClaimToken},
    db::{DbError, FileState, Tx},
    event::{EventKind, FileSource, NewEvent},
    file::{Author, Decision, KeepRevisions, NewRevision, Revision, Written, decide},
    limits::FILE_BYTES_MAX,
    path::FilePath,
    policy::Permit,
};

/// Why an operation on files failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("there is no file {0}")]
    Unknown(FilePath),
    /// More bytes than a file may have.
    #[error(
        "the file would have {0} bytes, and may have {FILE_BYTES_MAX}; split it, or keep it elsewhere and name that"
    )]
    TooLarge(usize),
    /// The file has another revision than the one on which the change is based.
    #[error("{path} {}, so it was not changed; read it again, and make the change anew", what_is(*.base, .newest.as_deref()))]
    Conflict {
        /// Which file.
        path: FilePath,
        /// The revision that the author had seen; 0 if there was none.
        base: u64,
        /// The newest revision, if there ever was a file.
        newest: Option<Box<Revision>>,
    },
    /// There is another file that some file systems take for this one.
    #[error(
        "{path} and {existing}, which is there, are one file on some systems; write to that, or choose another name"
    )]
    Twin {
        /// Which file.
        path: FilePath,
        /// The one that is there.
        existing: FilePath,
    },
    /// The path goes through a file, or the name is that of a directory.
    #[error("{path} cannot be there beside {existing}: one of them would have to be a file and a directory")]
    InTheWay {
        /// Which file.
        path: FilePath,
        /// The one that is there.
        existing: FilePath,
    },
    /// A claim does not allow it, or the token is not that of one that does.
    #[error(transparent)]
    Refused(#[from] claim::Refused),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// How a file differs from what its author had seen.
fn what_is(base: u64, newest: Option<&Revision>) -> String {
    match (base, newest) {
        (_, None) => "does not exist".to_owned(),
        (0, Some(newest)) => format!("exists already, at revision {}", newest.number),
        (_, Some(Revision { sha256: None, number, .. })) => format!("was deleted in revision {number}"),
        (base, Some(newest)) => format!("is at revision {}, not {base}", newest.number),
    }
}

impl App {
    /// Write a file, whole. Its revision is durable when this returns.
    ///
    /// While a claim covers the file, this takes the token of an exclusive claim that does. Writing what is there already
    /// makes no revision, so the same call may be made again if its answer was lost.
    pub async fn write_file(&self, permit: &Permit, new: NewRevision) -> Result<Written, FileError> {
        if !new.fits() {
            return Err(FileError::TooLarge(new.bytes.len()));
        }
        let (sha256, author) = (new.sha256(), Author::from(&**permit.actor()));
        let (contents, hash) = (Arc::clone(&new.bytes), sha256.clone());
        let write = async move |tx: &mut Tx<'_>| {
            let NewRevision { path, bytes, base, token } = &new;
            let state = allowed(tx, path, *token).await?;
            let change =
                Change { path, sha256: Some(&sha256), bytes, base: *base, author: Some(&author), bypassed: None };
            make(tx, state, change).await
        };
        let written = self.db.write_bytes(permit, contents.len(), write).await?;
        self.db.keep_at_hand(&hash, &contents);
        Ok(written)
    }

    /// Delete a file: its newest revision has no contents, and the older ones are there as before. A file that is
    /// deleted already stays as it is.
    pub async fn delete_file(
        &self,
        permit: &Permit,
        path: &FilePath,
        base: Option<u64>,
        token: Option<ClaimToken>,
    ) -> Result<Written, FileError> {
        let (path, author) = (path.clone(), Author::from(&**permit.actor()));
        let delete = async move |tx: &mut Tx<'_>| {
            let state = allowed(tx, &path, token).await?;
            let change = Change { path: &path, sha256: None, bytes: &[], base, author: Some(&author), bypassed: None };
            make(tx, state, change).await
        };
        self.db.write(permit, delete).await
    }

    /// Delete the revisions of all files that are not to be kept, with their contents where no other revision has the
    /// same; in small steps, with other writes in between.
    pub async fn prune_revisions(&self, permit: &Permit, keep: KeepRevisions) -> Result<(), FileError> {
        let mut after = None;
        loop {
            let (files, last) = self.db.superfluous_revisions(&permit.to_read(), after, keep).await?;
            for (path, to) in files {
                let path = Arc::new(path);
                let step = async move |tx: &mut Tx<'_>| Ok::<_, FileError>(tx.delete_revisions(&path, to).await?);
                while self.db.write(permit, step.clone()).await? {}
            }
            if last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }
}

/// A change of one file.
pub(super) struct Change<'a> {
    pub(super) path: &'a FilePath,
    /// Of the contents; `None` to delete the file.
    pub(super) sha256: Option<&'a str>,
    pub(super) bytes: &'a [u8],
    pub(super) base: Option<u64>,
    /// Nobody that is known, if it was made in a directory.
    pub(super) author: Option<&'a Author>,
    /// See [`Revision::bypassed`].
    pub(super) bypassed: Option<ClaimToken>,
}

/// What a change of a file depends on, if the claims and the token allow it.
async fn allowed(tx: &mut Tx<'_>, path: &FilePath, token: Option<ClaimToken>) -> Result<FileState, FileError> {
    let state = tx.file_state(path, token).await?;
    claim::check_write(path, token, &state.claims, last_token(tx, token, &state.claims).await?)?;
    Ok(state)
}

/// Make a change that the claims allow, or that is not asked about.
pub(super) async fn make(tx: &mut Tx<'_>, state: FileState, change: Change<'_>) -> Result<Written, FileError> {
    let Change { path, sha256, bytes, base, author, bypassed } = change;
    let newest = state.newest;
    if sha256.is_none() && newest.is_none() {
        return Err(FileError::Unknown(path.clone()));
    }
    match (decide(newest.as_ref(), sha256, base, author), newest) {
        (Decision::Conflict, newest) => {
            let (path, base) = (path.clone(), base.unwrap_or_default());
            Err(FileError::Conflict { path, base, newest: newest.map(Box::new) })
        }
        (Decision::Same, Some(revision)) => Ok(Written { revision, is_new: false }),
        (Decision::Same | Decision::Write, newest) => {
            let is_there = newest.as_ref().is_some_and(|newest| newest.sha256.is_some());
            if !is_there && let Some(existing) = state.twin {
                return Err(FileError::Twin { path: path.clone(), existing });
            }
            if !is_there && let Some(existing) = tx.file_in_the_way(path).await? {
                return Err(FileError::InTheWay { path: path.clone(), existing });
            }
            let revision = Revision {
                path: path.clone(),
                number: newest.map_or(1, |newest| newest.number + 1),
                base,
                sha256: sha256.map(str::to_owned),
                size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                author: author.cloned(),
                at: tx.now(),
                bypassed,
            };
            tx.add_revision(&revision, bytes).await?;
            tx.append(event(&revision));
            Ok(Written { revision, is_new: true })
        }
    }
}

/// The last token that was given, where a rule asks for it: it tells a token that is over from one that never was.
pub(super) async fn last_token(
    tx: &mut Tx<'_>,
    token: Option<ClaimToken>,
    known: &[Claim],
) -> Result<ClaimToken, DbError> {
    match token {
        Some(token) if !known.iter().any(|claim| claim.token == token) => tx.last_token().await,
        _ => Ok(ClaimToken(0)),
    }
}

fn event(revision: &Revision) -> NewEvent {
    let Revision { path, number, base, sha256, size, at, author, .. } = revision;
    let (path, revision) = (path.as_str().to_owned(), *number);
    let source = author.is_none().then_some(FileSource::Directory);
    let kind = match sha256 {
        Some(sha256) => {
            EventKind::FileWritten { path, revision, base: *base, sha256: sha256.clone(), size: *size, source }
        }
        None => EventKind::FileDeleted { path, revision, source },
    };
    NewEvent { at: *at, run: None, task: None, kind }
}
