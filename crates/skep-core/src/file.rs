//! Files of a workspace, and their revisions.
//!
//! A file is a list of revisions: 1, 2, 3, … without a gap, each with its contents, its author and the revision that its
//! author had seen. A deletion is a revision without contents, so a file that is written again goes on counting. The
//! newest revision is what readers get; the older ones are kept as long as the settings say.
//!
//! Whoever says on which revision a change is **based** is refused if there is a newer one, instead of overwriting what
//! nobody has shown it.

use std::{fmt, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use crate::{Timestamp, hex::hex, id::ClaimToken, limits::FILE_BYTES_MAX, path::FilePath, policy::Actor};

/// Who did something: a principal, or one of its agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// Who called.
    pub principal: Arc<str>,
    /// Which of the principal's agents.
    pub agent: Option<Arc<str>>,
}

/// A revision of a file, without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Of which file.
    pub path: FilePath,
    /// Which one: 1, 2, 3, …
    pub number: u64,
    /// The revision that its author had seen, 0 if there was none; `None` if the author did not say.
    pub base: Option<u64>,
    /// SHA-256 of its contents, in hexadecimal; `None` if it deleted the file.
    pub sha256: Option<String>,
    /// Bytes of its contents.
    pub size: u64,
    /// Who made it; `None` if that is not known.
    pub author: Option<Author>,
    /// When.
    pub at: Timestamp,
    /// The claim of somebody else that covered the file, where the change was made in the workspace's directory, past it.
    pub bypassed: Option<ClaimToken>,
}

/// A revision with what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The revision.
    pub revision: Revision,
    /// Its contents; `None` if it deleted the file.
    pub bytes: Option<Vec<u8>>,
}

/// What a file is to be.
#[derive(Clone, Debug)]
pub struct NewRevision {
    /// Which file.
    pub path: FilePath,
    /// Its contents, at most [`FILE_BYTES_MAX`] bytes.
    pub bytes: Arc<[u8]>,
    /// The revision that the author has seen; 0 if the file must be new. `None` to replace whatever is there.
    pub base: Option<u64>,
    /// The token of a claim on the file.
    pub token: Option<ClaimToken>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The newest revision.
    pub revision: Revision,
    /// Whether it is a new one: writing what is there already makes none.
    pub is_new: bool,
}

/// Which older revisions are kept. The newest of a file always is. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepRevisions {
    /// Those that are younger than this.
    pub age_max: Option<Duration>,
    /// So many of each file.
    pub count_max: Option<u64>,
}

/// What becomes of a change, as far as revisions decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is the next revision.
    Write,
    /// The file is so already.
    Same,
    /// There is a newer revision than the one that its author had seen.
    Conflict,
}

impl NewRevision {
    /// Whether it is small enough to be kept.
    pub(crate) fn fits(&self) -> bool {
        self.bytes.len() <= FILE_BYTES_MAX
    }

    /// SHA-256 of the contents, in hexadecimal.
    pub(crate) fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.bytes))
    }
}

/// Whether contents (`None` to delete the file) follow from their base. The same again, by the same author, changes
/// nothing and is no conflict, so a caller that did not get the answer may ask again. But two that both create a file
/// do not both succeed, even if they write the same.
pub(crate) fn decide(
    newest: Option<&Revision>,
    sha256: Option<&str>,
    base: Option<u64>,
    author: Option<&Author>,
) -> Decision {
    let is_same = newest.is_some_and(|newest| newest.sha256.as_deref() == sha256);
    let is_based = match (base, newest) {
        (None, _) => true,
        (Some(0), None) => true,
        (Some(0), Some(newest)) => newest.sha256.is_none(),
        (Some(base), newest) => newest.is_some_and(|newest| newest.number == base),
    };
    match (is_based, is_same) {
        (true, true) => Decision::Same,
        (true, false) => Decision::Write,
        (false, true) if author.is_some() && newest.is_some_and(|newest| newest.author.as_ref() == author) => {
            Decision::Same
        }
        (false, _) => Decision::Conflict,
    }
}

impl From<&Actor> for Author {
    fn from(actor: &Actor) -> Author {
        Author { principal: Arc::clone(&actor.principal), agent: actor.agent.clone() }
    }
}

/// As logs name it: `ann`, or `ann/reviewer` for an agent of hers.
impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.principal)?;
        self.agent.as_ref().map_or(Ok(()), |agent| write!(f, "/{agent}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(name: &str) -> Author {
        Author { principal: name.into(), agent: None }
    }

    fn newest(number: u64, sha256: Option<&str>) -> Revision {
        Revision {
            path: FilePath::new("a").unwrap(),
            number,
            base: None,
            sha256: sha256.map(str::to_owned),
            size: 1,
            author: Some(author("ann")),
            at: Timestamp(1),
            bypassed: None,
        }
    }

    #[test]
    fn a_change_counts_if_its_author_had_seen_the_newest_revision() {
        use Decision::{Conflict, Same, Write};
        let (there, deleted) = (newest(3, Some("x")), newest(3, None));
        let of = |newest: Option<&Revision>, sha256, base, by| decide(newest, sha256, base, Some(&author(by)));
        for (base, decision) in
            [(None, Write), (Some(3), Write), (Some(2), Conflict), (Some(4), Conflict), (Some(0), Conflict)]
        {
            assert_eq!(of(Some(&there), Some("y"), base, "bob"), decision, "{base:?}");
            assert_eq!(of(Some(&there), None, base, "bob"), decision, "{base:?}");
        }
        for (base, decision) in [(None, Write), (Some(0), Write), (Some(1), Conflict)] {
            assert_eq!(of(None, Some("y"), base, "bob"), decision, "{base:?}");
        }
        for (base, decision) in [(None, Write), (Some(0), Write), (Some(3), Write), (Some(2), Conflict)] {
            assert_eq!(of(Some(&deleted), Some("y"), base, "bob"), decision, "{base:?}");
        }
        for (base, by, decision) in [
            (None, "bob", Same),
            (Some(3), "bob", Same),
            (Some(2), "ann", Same),
            (Some(2), "bob", Conflict),
            (Some(0), "ann", Same),
            (Some(0), "bob", Conflict),
        ] {
            assert_eq!(of(Some(&there), Some("x"), base, by), decision, "the same again, {base:?} by {by}");
        }
        assert_eq!(of(Some(&deleted), None, Some(3), "bob"), Same);
        assert_eq!(of(Some(&deleted), None, Some(2), "ann"), Same);
    }
}
