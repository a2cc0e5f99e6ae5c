//! Operations on memory entries.

use std::{collections::HashMap, sync::Arc};

use super::App;
use crate::{
    db::{DbError, Kept, Tx},
    event::{EventKind, NewEvent},
    limits::{Invalid, MEMORY_BYTES_MAX, MEMORY_ENTRIES_MAX},
    memory::{About, Entry, NewEntry, words_of},
    policy::Permit,
};

/// Entries that are deleted in one transaction. Other writes of the namespace wait meanwhile, and each entry may have a
/// thousand words.
const EXPIRED_MAX: usize = 100;

/// Why an operation on memory entries failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The entry is at another revision than the one that the caller's change is based on.
    #[error("{}", conflict(.key, *.base, .current.as_deref()))]
    Conflict {
        /// The name of the entry.
        key: String,
        /// The revision that the caller's change is based on; 0 for none.
        base: i64,
        /// The entry as it is; `None` if there is none.
        current: Option<Box<Entry>>,
    },
    /// The namespace has [`MEMORY_ENTRIES_MAX`] entries.
    #[error("there are {MEMORY_ENTRIES_MAX} entries here already; delete some, or let them expire")]
    TooMany,
    /// The namespace's entries would take more than [`MEMORY_BYTES_MAX`] bytes.
    #[error("the entries here would take more than {MEMORY_BYTES_MAX} bytes; delete some, or let them expire")]
    Full,
    /// An argument is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

fn conflict(key: &str, base: i64, current: Option<&Entry>) -> String {
    match current {
        None => format!("there is no entry {key:?} at revision {base}: it was deleted, has expired, or never was"),
        Some(Entry { about: About { revision, .. }, .. }) => {
            let expected = if base == 0 { "but there should be none".to_owned() } else { format!("and not at {base}") };
            format!("the entry {key:?} is at revision {revision}, {expected}; look at it, and store it anew")
        }
    }
}

impl App {
    /// Add an entry, or replace the one of this name with its time to live. Returns the entry as it is now.
    ///
    /// The storing of an entry again after its caller saw no answer is the caller's decision: with a base revision, it
    /// is done once.
    pub async fn store_memory(&self, permit: &Permit, new: NewEntry) -> Result<About, MemoryError> {
        new.check()?;
        // Here, and not where others wait for their turn to write.
        let (words, bytes) = (words_of(&new.key, &new.value), new.bytes());
        let actor = Arc::clone(permit.actor());
        let store = async move |tx: &mut Tx<'_>| {
            let (before, usage) = tx.memory(&new.key).await?;
            let passed = tx.surely_past();
            let is_there = before.as_ref().is_some_and(|before| before.about.is_there(passed));
            let before = check_base(tx, before, is_there, &new.key, new.base_revision).await?;
            let (known, known_bytes) = before.as_ref().map_or((0, 0), |before| (1, before.about.bytes));
            if usage.entries - known >= MEMORY_ENTRIES_MAX {
                return Err(MemoryError::TooMany);
            }
            if usage.bytes.saturating_sub(known_bytes) + new.bytes() as u64 > MEMORY_BYTES_MAX {
                return Err(MemoryError::Full);
            }
            let last = before.as_ref().map_or(usage.revision, |before| before.about.revision);
            let replaced = before.as_ref().map(|before| &before.about).filter(|_| is_there);
            let about = new.stored(replaced, last + 1, &actor, tx.now());
            let entry = Entry { about, value: new.value.clone() };
            tx.save_memory(before, &usage, (&entry, &words)).await?;
            let About { key, revision, expires, .. } = &entry.about;
            let kind = EventKind::MemoryStored { key: key.clone(), revision: *revision, expires: *expires };
            tx.append(NewEvent { at: tx.now(), run: None, task: None, kind });
            Ok(entry.about)
        };
        self.db.write_bytes(permit, bytes, store).await
    }

    /// Delete an entry, only at a base revision if one is given. Returns what was known about it; `None` if there was none.
    pub async fn delete_memory(
        &self,
        permit: &Permit,
        key: &str,
        base_revision: Option<i64>,
    ) -> Result<Option<About>, MemoryError> {
        let key = key.to_owned();
        let delete = async move |tx: &mut Tx<'_>| {
            let (before, _) = tx.memory(&key).await?;
            let passed = tx.surely_past();
            let is_there = before.as_ref().is_some_and(|before| before.about.is_there(passed));
            let Some(entry) = check_base(tx, before, is_there, &key, base_revision).await?.filter(|_| is_there) else {
                return Ok(None);
            };
            let about = entry.about.clone();
            tx.delete_memory(vec![entry]).await?;
            let kind = EventKind::MemoryDeleted { key: key.clone() };
            tx.append(NewEvent { at: tx.now(), run: None, task: None, kind });
            Ok(Some(about))
        };
        self.db.write(permit, delete).await
    }

    /// Delete the entries of all namespaces that have expired, at most [`EXPIRED_MAX`] in one transaction. Returns their
    /// number.
    pub async fn expire_memory(&self) -> Result<usize, MemoryError> {
        let mut gone = 0;
        loop {
            let expired = self.db.expired_memory(EXPIRED_MAX).await?;
            let is_last = expired.len() < EXPIRED_MAX;
            let mut keys: HashMap<_, Vec<String>> = HashMap::new();
            for (namespace, key) in expired {
                keys.entry(namespace).or_default().push(key);
            }
            for (namespace, keys) in keys {
                let delete = async move |tx: &mut Tx<'_>| {
                    let entries = tx.expired_memory(&keys).await?;
                    let count = entries.len();
                    tx.delete_memory(entries).await?;
                    Ok::<_, MemoryError>(count)
                };
                gone += self.db.write_as_hub(&namespace, delete).await?;
            }
            if is_last {
                return Ok(gone);
            }
        }
    }
}

/// Give back an entry's row if what is there is at the revision that a change is based on, or if the change says nothing
/// of that.
async fn check_base(
    tx: &mut Tx<'_>,
    row: Option<Kept>,
    is_there: bool,
    key: &str,
    base_revision: Option<i64>,
) -> Result<Option<Kept>, MemoryError> {
    let revision = row.as_ref().filter(|_| is_there).map_or(0, |row| row.about.revision);
    match base_revision {
        Some(base) if base != revision => {
            let current = match row.filter(|_| is_there) {
                Some(row) => Some(Box::new(tx.memory_value(row).await?)),
                None => None,
            };
            Err(MemoryError::Conflict { key: key.to_owned(), base, current })
        }
        _ => Ok(row),
    }
}
