//! What was brought to a hub: a file for each, with a line for each thing.
//!
//! Lines are only appended, and a later one counts more, so a process that is killed leaves at most half a line, which is
//! skipped. A line that is missing costs a question to the hub and nothing else.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use skep_core::hex::hex;
use skep_tools::workspace::make_private;

/// The directory in the state directory.
const DIRECTORY: &str = "sync";
/// Characters of a hash that name a file.
const NAME_CHARS: usize = 16;

/// What both sides had when they last had the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The number here: of a revision, a step or a message.
    pub(super) local: i64,
    /// The number at the hub.
    pub(super) hub: i64,
    /// SHA-256 of a file's contents; nothing if it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
}

/// What a mark is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Thing {
    /// A file of a task.
    File { task: String, path: String },
    /// A memory entry of a task, or of the team.
    Memory { task: Option<String>, key: String },
    /// All steps of a task up to a number.
    Steps { task: String },
    /// All messages of a task, or of the team, up to a number.
    Messages { task: Option<String> },
    /// One message, by its number here.
    Message { task: Option<String>, number: i64 },
}

#[derive(Serialize, Deserialize)]
struct Line {
    thing: Thing,
    /// Nothing: it is not known any more.
    mark: Option<Mark>,
}

/// What is known of one hub.
pub(super) struct Journal {
    file: File,
    marks: HashMap<Thing, Mark>,
}

impl Journal {
    /// That of this hub, which no other process has open.
    pub(super) fn open(home: &Path, hub: &str) -> anyhow::Result<Journal> {
        let directory = home.join(DIRECTORY);
        make_private(&directory).with_context(|| directory.display().to_string())?;
        let name = hex(&Sha256::digest(hub));
        let path = directory.join(format!("{}.jsonl", &name[..NAME_CHARS]));
        let opened = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(&path);
        let mut file = opened.with_context(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => anyhow::bail!("another `skep sync` to this hub is running; wait for it"),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| path.display().to_string()),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| path.display().to_string())?;
        let mut marks = HashMap::new();
        for Line { thing, mark } in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            match mark {
                Some(mark) => marks.insert(thing, mark),
                None => marks.remove(&thing),
            };
        }
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok(Journal { file, marks })
    }

    pub(super) fn mark(&self, thing: &Thing) -> Option<Mark> {
        self.marks.get(thing).cloned()
    }

    /// Everything of which there are marks.
    pub(super) fn things(&self) -> impl Iterator<Item = &Thing> {
        self.marks.keys()
    }

    /// From now on both sides have the same.
    pub(super) fn set(&mut self, thing: Thing, mark: Mark) -> io::Result<()> {
        self.write(&thing, Some(&mark))?;
        self.marks.insert(thing, mark);
        Ok(())
    }

    /// Nothing is known of it any more.
    pub(super) fn forget(&mut self, thing: &Thing) -> io::Result<()> {
        self.write(thing, None)?;
        self.marks.remove(thing);
        Ok(())
    }

    fn write(&mut self, thing: &Thing, mark: Option<&Mark>) -> io::Result<()> {
        let line = Line { thing: thing.clone(), mark: mark.cloned() };
        self.file.write_all(format!("{}\n", serde_json::to_string(&line)?).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn steps(task: &str) -> Thing {
        Thing::Steps { task: task.to_owned() }
    }

    fn mark(local: i64) -> Mark {
        Mark { local, hub: local + 1, sha256: None }
    }

    #[test]
    fn the_last_mark_counts_and_half_a_line_is_skipped() {
        let home = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(home.path(), "http://hub").unwrap();
        assert!(Journal::open(home.path(), "http://hub").is_err(), "one at a time");
        for (task, local) in [("a", 1), ("a", 2), ("b", 3), ("c", 4)] {
            journal.set(steps(task), mark(local)).unwrap();
        }
        journal.forget(&steps("c")).unwrap();
        drop(journal);
        assert_eq!(Journal::open(home.path(), "http://other").unwrap().mark(&steps("a")), None);
        let file = fs::read_dir(home.path().join(DIRECTORY)).unwrap();
        let file = file.map(|entry| entry.unwrap().path()).find(|path| fs::metadata(path).unwrap().len() > 0).unwrap();
        let mut text = fs::read_to_string(&file).unwrap();
        text.push_str("{\"thing\":{\"steps\":{\"ta");
        fs::write(&file, text).unwrap();
        let mut journal = Journal::open(home.path(), "http://hub").unwrap();
        journal.set(steps("d"), mark(5)).unwrap();
        drop(journal);
        let journal = Journal::open(home.path(), "http://hub").unwrap();
        let marks = ["a", "b", "c", "d"].map(|task| journal.mark(&steps(task)));
        assert_eq!(marks, [Some(mark(2)), Some(mark(3)), None, Some(mark(5))]);
    }
}
