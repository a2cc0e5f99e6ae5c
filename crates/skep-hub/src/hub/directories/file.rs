//! One file, made the same on both sides.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use skep_core::{
    app::{App, DirectoryError, FileError},
    directory::{Agreed, Directory, DirectoryChange},
    file::Revision,
    hex::hex,
    limits::FILE_BYTES_MAX,
    path::FilePath,
    policy::Permit,
};
use skep_tools::{
    merge::merge,
    workspace::{Dir, Identity, Seen},
};
use tokio::task::spawn_blocking;

use super::{
    step::{Known, Step, of_both, step},
    walk::too_large,
};

/// Revisions that are looked through for what the directory has.
const REVISIONS_MAX: usize = 100;

/// Where both sides are.
#[derive(Clone)]
pub(super) struct Sides {
    pub(super) app: App,
    pub(super) permit: Permit,
    pub(super) directory: Directory,
    pub(super) dir: Dir,
}

/// What became of a file.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Both have the same: what that is, unless it is nothing; and how the file looked when it was read.
    Same(Option<Agreed>, Option<Identity>),
    /// Somebody has changed one of the sides meanwhile.
    Again,
    /// The store cannot have it beside another file, which may be about to go.
    Blocked { by: FilePath, why: String },
    /// It is not kept in step.
    LeftOut(String),
}

/// What the directory has of a file.
enum InDirectory {
    Nothing(Seen),
    File {
        bytes: Arc<[u8]>,
        sha256: String,
        seen: Seen,
    },
    /// Something that is no file of the workspace, and why.
    Other(String),
}

impl InDirectory {
    fn sha256(&self) -> Option<&str> {
        match self {
            InDirectory::File { sha256, .. } => Some(sha256),
            _ => None,
        }
    }

    fn into_seen(self) -> Seen {
        match self {
            InDirectory::Nothing(seen) | InDirectory::File { seen, .. } => seen,
            InDirectory::Other(_) => Seen::default(),
        }
    }
}

impl Sides {
    /// Make a file the same on both sides, given what both had when they were last the same.
    pub(super) async fn sync(&self, path: &FilePath, agreed: Option<&Agreed>) -> Result<Outcome, DirectoryError> {
        let found = self.look(path).await;
        if let InDirectory::Other(why) = found {
            return Ok(Outcome::LeftOut(why));
        }
        let newest = self.app.db.revisions(&self.permit.to_read(), path, None, 1).await?.pop();
        let known = Known {
            agreed: agreed.map(|agreed| &*agreed.sha256),
            directory: found.sha256(),
            store: newest.as_ref().and_then(|newest| newest.sha256.as_deref()),
        };
        let mut step = step(known);
        if let (Step::Both, Some(sha256), Some(newest)) = (step, known.directory, &newest) {
            let from = agreed.map_or(0, |agreed| agreed.revision);
            let before =
                self.app.db.revisions(&self.permit.to_read(), path, Some(newest.number), REVISIONS_MAX).await?;
            let between = before.iter().filter(|revision| revision.number > from);
            step = of_both(sha256, between.map(|revision| revision.sha256.as_deref()));
        }
        match (step, newest) {
            (Step::Nothing, newest) => {
                let identity = match &found {
                    InDirectory::File { seen, .. } => seen.identity(),
                    _ => None,
                };
                Ok(Outcome::Same(newest.and_then(agreed_on), identity))
            }
            (Step::ToDirectory, Some(newest)) => self.to_directory(path, newest, found.into_seen()).await,
            (Step::ToDirectory, None) => Ok(Outcome::Again), // both would have nothing
            (Step::ToStore, newest) => {
                let newest = newest.map_or(0, |newest| newest.number);
                let (bytes, identity) = match found {
                    InDirectory::File { bytes, seen, .. } => (Some(bytes), seen.identity()),
                    _ => (None, None),
                };
                self.to_store(change(path, bytes, newest), identity).await
            }
            (Step::Both, newest) => self.both(path, agreed, newest, found).await,
        }
    }

    async fn look(&self, path: &FilePath) -> InDirectory {
        let (dir, path) = (self.dir.clone(), PathBuf::from(path.as_str()));
        match spawn_blocking(move || look(&dir, &path)).await {
            Ok(found) => found,
            Err(error) => InDirectory::Other(format!("cannot be read: {error}")),
        }
    }

    /// The directory gets what a revision has, if it still has what was seen.
    async fn to_directory(&self, path: &FilePath, newest: Revision, seen: Seen) -> Result<Outcome, DirectoryError> {
        let contents = self.app.db.file(&self.permit.to_read(), path, Some(newest.number)).await?;
        let Some(contents) = contents else { return Ok(Outcome::Again) };
        let written = self.put(path, contents.bytes.map(Arc::from), seen).await;
        Ok(outcome(written, agreed_on(newest)))
    }

    /// Write a file of the directory, or delete it, if it is still as it was seen.
    async fn put(&self, path: &FilePath, bytes: Option<Arc<[u8]>>, seen: Seen) -> io::Result<bool> {
        let (dir, path) = (self.dir.clone(), PathBuf::from(path.as_str()));
        let put = spawn_blocking(move || match bytes {
            None => dir.remove_if_same(&path, &seen),
            Some(bytes) => {
                // A directory of this name is in the way only if there is something in it.
                if seen.identity().is_none() {
                    dir.remove_empty(&path);
                }
                dir.write_if_same(&path, &bytes, &seen)
            }
        });
        put.await.map_err(io::Error::other)?
    }

    async fn to_store(&self, change: DirectoryChange, identity: Option<Identity>) -> Result<Outcome, DirectoryError> {
        match self.app.change_in_directory(&self.permit, &self.directory, change).await {
            Ok(written) => Ok(Outcome::Same(agreed_on(written.revision), identity)),
            Err(error) => not_recorded(error),
        }
    }

    /// Both have changed: merge the two, or keep that of the store as an older revision.
    async fn both(
        &self,
        path: &FilePath,
        agreed: Option<&Agreed>,
        newest: Option<Revision>,
        found: InDirectory,
    ) -> Result<Outcome, DirectoryError> {
        let InDirectory::File { bytes: ours, seen, .. } = found else { return Ok(Outcome::Again) };
        let Some(newest) = newest else { return Ok(Outcome::Again) };
        let Some(merged) = self.merged(path, agreed, &newest, &ours).await? else {
            let change = DirectoryChange { replaces_unseen: true, ..change(path, Some(ours), newest.number) };
            return self.to_store(change, seen.identity()).await;
        };
        let merged: Arc<[u8]> = merged.into_bytes().into();
        let merged_change =
            DirectoryChange { is_there: false, ..change(path, Some(Arc::clone(&merged)), newest.number) };
        match self.app.change_in_directory(&self.permit, &self.directory, merged_change).await {
            Ok(written) => Ok(outcome(self.put(path, Some(merged), seen).await, agreed_on(written.revision))),
            Err(error) => not_recorded(error),
        }
    }

    /// The changes of both sides together, if they do not overlap and what they have in common is known.
    async fn merged(
        &self,
        path: &FilePath,
        agreed: Option<&Agreed>,
        newest: &Revision,
        ours: &Arc<[u8]>,
    ) -> Result<Option<String>, DirectoryError> {
        let Some(agreed) = agreed else { return Ok(None) };
        let permit = self.permit.to_read();
        let contents = async |number: u64| {
            let contents = self.app.db.file(&permit, path, Some(number)).await?;
            Ok::<_, DirectoryError>(contents.and_then(|contents| contents.bytes))
        };
        let (before, theirs) = (contents(agreed.revision).await?, contents(newest.number).await?);
        let (Some(before), Some(theirs)) = (before, theirs) else { return Ok(None) };
        let ours = Arc::clone(ours);
        let merged = spawn_blocking(move || merge(&before, &theirs, &ours)).await;
        Ok(merged.unwrap_or_else(|error| {
            tracing::warn!(path = %path, %error, "two changes could not be merged");
            None
        }))
    }
}

/// A change of a file that the directory has already.
fn change(path: &FilePath, bytes: Option<Arc<[u8]>>, newest: u64) -> DirectoryChange {
    DirectoryChange { path: path.clone(), bytes, newest, replaces_unseen: false, is_there: true }
}

/// What both have, if they have this revision.
fn agreed_on(revision: Revision) -> Option<Agreed> {
    Some(Agreed { revision: revision.number, sha256: revision.sha256? })
}

/// What became of a file that was to be written in the directory.
fn outcome(written: io::Result<bool>, agreed: Option<Agreed>) -> Outcome {
    match written {
        Ok(true) => Outcome::Same(agreed, None),
        Ok(false) => Outcome::Again,
        Err(error) => Outcome::LeftOut(format!("cannot be written in the directory: {error}")),
    }
}

/// Why a change was not recorded.
fn not_recorded(error: DirectoryError) -> Result<Outcome, DirectoryError> {
    match error {
        DirectoryError::File(FileError::Conflict { .. } | FileError::Unknown(_)) => Ok(Outcome::Again),
        DirectoryError::File(FileError::Twin { ref existing, .. } | FileError::InTheWay { ref existing, .. }) => {
            Ok(Outcome::Blocked { by: existing.clone(), why: format!("cannot be a file of the workspace: {error}") })
        }
        DirectoryError::File(FileError::TooLarge(_)) => Ok(Outcome::LeftOut(too_large())),
        other => Err(other),
    }
}

fn look(dir: &Dir, path: &Path) -> InDirectory {
    match dir.read_seen(path, FILE_BYTES_MAX as u64) {
        Ok((None, seen)) => InDirectory::Nothing(seen),
        Ok((Some(bytes), seen)) => {
            let sha256 = hex(&Sha256::digest(&bytes));
            InDirectory::File { bytes: bytes.into(), sha256, seen }
        }
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            InDirectory::Other("is a symbolic link, or leads through one".to_owned())
        }
        Err(error) => match error.kind() {
            // A file where the path has a directory, or the other way round.
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => InDirectory::Nothing(Seen::default()),
            io::ErrorKind::FileTooLarge => InDirectory::Other(too_large()),
            io::ErrorKind::InvalidInput => InDirectory::Other("is no regular file".to_owned()),
            _ => InDirectory::Other(format!("cannot be read: {error}")),
        },
    }
}
