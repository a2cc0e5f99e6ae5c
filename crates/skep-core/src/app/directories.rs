//! Operations on directories that have the files of a workspace.
//!
//! What was changed in a directory has happened already: it is recorded whatever the claims say, as a revision by nobody
//! that is known, and the events tell of claims that were bypassed.

use std::{sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{
    App, FileError,
    files::{Change, make},
};
use crate::{
    Timestamp,
    claim::Claim,
    db::{DbError, Tx},
    directory::{Agreed, Directory, DirectoryChange},
    event::{EventKind, NewEvent},
    file::Written,
    hex::hex,
    limits::FILE_BYTES_MAX,
    path::FilePath,
    policy::Permit,
};

/// Why an operation on a directory failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another hub keeps a directory and this workspace in step.
    #[error("the hub {hub} has {place} as the directory of this workspace; stop that one first")]
    Elsewhere {
        /// Which hub.
        hub: Arc<str>,
        /// Which directory.
        place: Arc<str>,
        /// Until when, unless it says that it lives.
        until: Timestamp,
    },
    /// This hub does not keep the directory, or not any more.
    #[error("this hub does not keep the workspace's directory any more")]
    NotHeld,
    /// The file cannot be changed so.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl App {
    /// Become the hub that keeps a directory and the workspace of the permit in step, or stay it for `ttl` from now.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Elsewhere`] if another hub is.
    pub async fn hold_directory(
        &self,
        permit: &Permit,
        directory: &Directory,
        ttl: Duration,
    ) -> Result<(), DirectoryError> {
        let directory = directory.clone();
        let hold = async move |tx: &mut Tx<'_>| {
            if let Some((held, until)) = tx.directory().await? {
                let Directory { place, hub } = held;
                if hub != directory.hub && until > tx.surely_past() {
                    return Err(DirectoryError::Elsewhere { hub, place, until });
                }
                if place != directory.place {
                    tx.forget_agreed().await?;
                }
            }
            Ok(tx.save_directory(&directory, tx.now().after(ttl)).await?)
        };
        self.db.write_as_hub(permit.namespace(), hold).await
    }

    /// Let another hub do so from now on.
    pub async fn release_directory(&self, permit: &Permit, directory: &Directory) -> Result<(), DirectoryError> {
        let directory = directory.clone();
        let release = async move |tx: &mut Tx<'_>| {
            check_held(tx, &directory).await?;
            Ok(tx.save_directory(&directory, tx.surely_past()).await?)
        };
        self.db.write_as_hub(permit.namespace(), release).await
    }

    /// Record a change that was made in the directory. Its revision is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`FileError::Conflict`] if there is a newer revision by now.
    pub async fn change_in_directory(
        &self,
        permit: &Permit,
        directory: &Directory,
        change: DirectoryChange,
    ) -> Result<Written, DirectoryError> {
        let size = change.bytes.as_ref().map_or(0, |bytes| bytes.len());
        if size > FILE_BYTES_MAX {
            return Err(FileError::TooLarge(size).into());
        }
        let sha256 = change.bytes.as_ref().map(|bytes| hex(&Sha256::digest(bytes)));
        let directory = directory.clone();
        let record = async move |tx: &mut Tx<'_>| {
            check_held(tx, &directory).await?;
            record(tx, &change, sha256.as_deref()).await
        };
        self.db.write_bytes_as_hub(permit.namespace(), size, record).await
    }

    /// Remember what the directory and the store both have of these files; `None` where that is nothing.
    pub async fn agree(
        &self,
        permit: &Permit,
        directory: &Directory,
        files: Vec<(FilePath, Option<Agreed>)>,
    ) -> Result<(), DirectoryError> {
        let (directory, files) = (directory.clone(), Arc::new(files));
        let agree = async move |tx: &mut Tx<'_>| {
            check_held(tx, &directory).await?;
            for (path, agreed) in &*files {
                tx.agree(path, agreed.as_ref()).await?;
            }
            Ok(())
        };
        self.db.write_as_hub(permit.namespace(), agree).await
    }
}

async fn check_held(tx: &mut Tx<'_>, directory: &Directory) -> Result<(), DirectoryError> {
    match tx.directory().await? {
        Some((held, _)) if held == *directory => Ok(()),
        _ => Err(DirectoryError::NotHeld),
    }
}

async fn record(tx: &mut Tx<'_>, change: &DirectoryChange, sha256: Option<&str>) -> Result<Written, DirectoryError> {
    let DirectoryChange { path, bytes, newest, replaces_unseen, is_there } = change;
    let state = tx.file_state(path, None).await?;
    if state.newest.as_ref().map_or(0, |newest| newest.number) != *newest {
        let (path, base, newest) = (path.clone(), *newest, state.newest.map(Box::new));
        return Err(FileError::Conflict { path, base, newest }.into());
    }
    let claim = state.claims.iter().find(|claim| claim.is_held && claim.pattern.covers(path)).cloned();
    let made = Change {
        path,
        sha256,
        bytes: bytes.as_deref().unwrap_or_default(),
        // Whoever changed the file had not seen the revision that is replaced.
        base: (!replaces_unseen).then_some(*newest),
        author: None,
        bypassed: claim.as_ref().map(|claim| claim.token),
    };
    let written = make(tx, state, made).await?;
    if written.is_new {
        let (path, revision) = (path.as_str().to_owned(), written.revision.number);
        if *replaces_unseen {
            append(tx, EventKind::FileConflict { path: path.clone(), revision, other: *newest });
        }
        if let Some(claim) = claim {
            append(tx, bypassed(claim, path, revision));
        }
    }
    if *is_there {
        let agreed = sha256.map(|sha256| Agreed { revision: written.revision.number, sha256: sha256.to_owned() });
        tx.agree(path, agreed.as_ref()).await?;
    }
    Ok(written)
}

fn bypassed(claim: Claim, path: String, revision: u64) -> EventKind {
    let Claim { token, pattern, by, .. } = claim;
    let (principal, agent) = (by.principal.to_string(), by.agent.as_deref().map(str::to_owned));
    EventKind::ClaimBypassed { pattern: pattern.as_str().to_owned(), token, principal, agent, path, revision }
}

fn append(tx: &mut Tx<'_>, kind: EventKind) {
    tx.append(NewEvent { at: tx.now(), run: None, task: None, kind });
}
