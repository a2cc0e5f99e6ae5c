//! A directory of some machine that has the files of a workspace, too.
//!
//! A hub keeps both in step. It may do so as long as the store says that it is the one ([`Directory::hub`]), so two hubs
//! with one database do not write each other's changes back and forth. What it has seen the same on both sides is kept
//! for each file ([`Agreed`]): what differs from that later was changed since, on one side or on both.

use std::sync::Arc;

use crate::path::FilePath;

/// A directory, and the hub that keeps it and a workspace in step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Which directory of which machine. What was agreed on with another one does not count.
    pub place: Arc<str>,
    /// The name of the hub; another hub has another one.
    pub hub: Arc<str>,
}

/// What the directory and the store had of a file when they were last the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The revision that had the same contents.
    pub revision: u64,
    /// SHA-256 of the contents, in hexadecimal.
    pub sha256: String,
}

/// A change of a file that was made in the directory.
#[derive(Clone, Debug)]
pub struct DirectoryChange {
    /// Which file.
    pub path: FilePath,
    /// What the file is to be; `None` if it was deleted.
    pub bytes: Option<Arc<[u8]>>,
    /// The newest revision, which it comes after; 0 if there is none.
    pub newest: u64,
    /// Whether the newest revision was changed as well since both were the same, and this replaces it unseen.
    pub replaces_unseen: bool,
    /// Whether the directory has these contents. It does not yet if they were merged.
    pub is_there: bool,
}
