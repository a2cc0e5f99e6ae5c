//! Artefacts: files that a task leaves behind. They come with the answer, in the same transaction, so an artefact of
//! an attempt whose answer did not count is never kept. Once kept they do not change.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use crate::{
    hex::hex,
    id::{RunId, TaskId},
    limits::{ARTEFACT_BYTES_MAX, ARTEFACTS_BYTES_MAX, ARTEFACTS_MAX, Invalid, check_bytes, check_count, check_name},
};

/// What is known of a kept artefact; its bytes are read with [`crate::db::Db::artefact`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artefact {
    /// The task's run, if it has one.
    pub run: Option<RunId>,
    /// Who made it.
    pub task: TaskId,
    /// Where the task had put it, relative to its outputs.
    pub path: String,
    /// SHA-256 of the bytes, in hexadecimal.
    pub sha256: String,
    /// How many bytes.
    pub size: u64,
}

/// A file to be kept with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewArtefact {
    /// Where the task has put it, relative to its outputs.
    pub path: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl NewArtefact {
    /// SHA-256 of the bytes, in hexadecimal.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.bytes))
    }
}

/// Whether all that comes with one answer may be kept.
pub(crate) fn check(artefacts: &[NewArtefact]) -> Result<(), Invalid> {
    check_count("artefacts of one answer", artefacts.len(), ARTEFACTS_MAX)?;
    let mut paths = HashSet::new();
    for artefact in artefacts {
        check_name("artefact", &artefact.path)?;
        check_bytes("an artefact", artefact.bytes.len(), ARTEFACT_BYTES_MAX)?;
        if !paths.insert(&artefact.path) {
            return Err(Invalid::DuplicateArtefact(artefact.path.clone()));
        }
    }
    let bytes = artefacts.iter().map(|artefact| artefact.bytes.len()).sum();
    check_bytes("all artefacts of one answer", bytes, ARTEFACTS_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: usize) -> NewArtefact {
        NewArtefact { path: path.to_owned(), bytes: vec![0; bytes] }
    }

    #[test]
    fn the_checksum_is_the_one_that_sha256sum_prints() {
        let abc = NewArtefact { path: "a".to_owned(), bytes: b"abc".to_vec() };
        assert_eq!(abc.sha256(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn an_answer_brings_only_so_much() {
        assert_eq!(check(&[file("a", ARTEFACT_BYTES_MAX), file("b", 1)]), Ok(()));
        assert!(matches!(check(&[file("a", ARTEFACT_BYTES_MAX + 1)]), Err(Invalid::TooLarge { .. })));
        let five: Vec<_> = (0..5).map(|n| file(&n.to_string(), ARTEFACT_BYTES_MAX)).collect();
        assert!(matches!(check(&five), Err(Invalid::TooLarge { .. })), "80 MiB together");
        let many: Vec<_> = (0..=ARTEFACTS_MAX).map(|n| file(&n.to_string(), 0)).collect();
        assert!(matches!(check(&many), Err(Invalid::TooMany { .. })));
        assert_eq!(check(&[file("a", 1), file("a", 1)]), Err(Invalid::DuplicateArtefact("a".to_owned())));
    }
}
