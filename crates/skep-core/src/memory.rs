//! What agents remember together: JSON values under keys, which may expire, and can be searched for by their words.
//!
//! Each entry has a revision. Whoever stores or deletes one may say on which revision that is based; if another is there,
//! nothing is changed, and the caller gets that one. A new entry begins above the revisions of all entries that were
//! deleted in its namespace, so no revision of a key ever stands for two values.
//!
//! An entry whose time is over is not there for anybody, at once; its row is deleted later.

mod words;

use std::time::Duration;

pub use self::words::{Query, QueryError};
pub(crate) use self::words::{end_of_prefix, words_of};
use crate::{
    Json, Timestamp,
    limits::{self, Invalid, MEMORY_TTL_MAX, MEMORY_TTL_MIN, MEMORY_VALUE_BYTES_MAX},
    policy::Actor,
};

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is known about it.
    pub about: About,
    /// Its value.
    pub value: Json,
}

/// What is known about an entry, besides its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name, unique in the namespace.
    pub key: String,
    /// Counts how often it was stored: 1, 2, 3, …, if no entry was deleted before it was made.
    pub revision: i64,
    /// Bytes of its key and its value.
    pub bytes: u64,
    /// The principal that stored it last.
    pub author: String,
    /// Which of the principal's agents did, if one.
    pub agent: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was stored last.
    pub updated: Timestamp,
    /// When it expires; `None` if never.
    pub expires: Option<Timestamp>,
}

/// What a search has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The entries, the best first.
    pub hits: Vec<Hit>,
    /// How many entries fit, of those that were looked at.
    pub total: usize,
    /// Whether all entries were looked at that can fit, and not only [`limits::MEMORY_SEARCHED_MAX`] of them.
    pub is_complete: bool,
}

/// An entry that a search has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// What is known about it.
    pub about: About,
    /// Its value, unless that has more than [`limits::INLINE_BYTES_MAX`] bytes.
    pub value: Option<Json>,
    /// How well it fits, to be compared with the others of the same search.
    pub score: f64,
}

/// An entry that is to be stored.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Its name.
    pub key: String,
    /// Its value, any JSON.
    pub value: Json,
    /// How long it is there, from now on; `None` for ever. What an entry of this name had before does not count.
    pub ttl: Option<Duration>,
    /// Store it only if there is an entry of this name at this revision; 0 if there is none. `None`: in any case.
    pub base_revision: Option<i64>,
}

impl NewEntry {
    /// An entry that has a key and a value, never expires, and replaces whatever there is.
    pub fn new(key: impl Into<String>, value: impl Into<Json>) -> NewEntry {
        NewEntry { key: key.into(), value: value.into(), ttl: None, base_revision: None }
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        limits::check_name("key", &self.key)?;
        limits::check_json("the value", &self.value, MEMORY_VALUE_BYTES_MAX)?;
        match self.ttl {
            Some(ttl) if !(MEMORY_TTL_MIN..=MEMORY_TTL_MAX).contains(&ttl) => Err(Invalid::Ttl(ttl)),
            _ => Ok(()),
        }
    }

    /// Bytes of its key and its value.
    pub(crate) fn bytes(&self) -> usize {
        self.key.len() + self.value.as_str().len()
    }

    /// The entry that an actor makes of it, with this revision; `before` is the one that it replaces, if there is one.
    pub(crate) fn stored(&self, before: Option<&About>, revision: i64, by: &Actor, now: Timestamp) -> About {
        About {
            key: self.key.clone(),
            revision,
            bytes: self.bytes() as u64,
            author: by.principal.to_string(),
            agent: by.agent.as_deref().map(str::to_owned),
            created: before.map_or(now, |before| before.created),
            updated: now,
            expires: self.ttl.map(|ttl| now.after(ttl)),
        }
    }
}

impl About {
    /// Whether it is still there, at a moment.
    pub(crate) fn is_there(&self, at: Timestamp) -> bool {
        self.expires.is_none_or(|expires| expires > at)
    }
}
