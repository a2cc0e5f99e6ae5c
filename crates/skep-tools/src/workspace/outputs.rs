//! Where the files of a call go.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Dir, OUTPUTS, Seen, refused};
use crate::error::ToolError;

/// Where the files of a call go. In a run each task has its own directory below the run's, so that tasks side by side
/// do not overwrite each other.
#[derive(Clone, Debug)]
pub struct Outputs {
    root: Dir,
    prefix: PathBuf,
    written: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Outputs {
    /// Outputs in `root`, below `prefix` (empty for the root itself).
    pub fn new(root: Dir, prefix: impl Into<PathBuf>) -> Outputs {
        Outputs { root, prefix: prefix.into(), written: Arc::default() }
    }

    /// Keep a file under the path that a tool was given. Returns its path as other calls must name it: `outputs/…`.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<String, ToolError> {
        self.keep_at(self.target(path), bytes)
    }

    /// Keep a file that a command has left under this path.
    pub fn keep(&self, path: &Path, bytes: &[u8]) -> Result<String, ToolError> {
        self.keep_at(self.prefix.join(path), bytes)
    }

    /// The same as [`write`](Outputs::write), if there is still what was `seen`.
    ///
    /// # Errors
    ///
    /// [`ToolError::Conflict`] if there is something else by now.
    pub fn write_if_same(&self, path: &Path, bytes: &[u8], seen: &Seen) -> Result<String, ToolError> {
        let path = self.target(path);
        let shown = shown(&path);
        if !self.root.write_if_same(&path, bytes, seen).map_err(|error| refused(&shown, &error))? {
            return Err(ToolError::conflict(format!(
                "{shown} was changed by another call meanwhile, so it was not written; read it again"
            )));
        }
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        Ok(shown)
    }

    fn keep_at(&self, path: PathBuf, bytes: &[u8]) -> Result<String, ToolError> {
        let shown = shown(&path);
        self.root.write(&path, bytes).map_err(|error| refused(&shown, &error))?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        Ok(shown)
    }

    /// Where a tool writes what it calls so, relative to the root. A path that an earlier write gave back names the same file
    /// again.
    pub fn target(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(OUTPUTS) {
            Ok(named) => self.prefix.join(named.strip_prefix(&self.prefix).unwrap_or(named)),
            Err(_) => self.prefix.join(path),
        }
    }

    /// The directory that holds the outputs of all calls.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// What this call and its clones have written, relative to the root.
    pub fn written(&self) -> Vec<PathBuf> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// A path below the root of the outputs, as other calls must name it.
fn shown(path: &Path) -> String {
    format!("{OUTPUTS}/{}", path.display())
}
