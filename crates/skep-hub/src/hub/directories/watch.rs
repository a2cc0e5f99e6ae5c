//! What happens in a directory and below it, as the kernel tells it (`inotify(7)`).
//!
//! The kernel watches single directories, tells of names in them, and drops what nobody has read when its queue is full.
//! So whoever uses this walks through a directory that has come, and through everything when the queue was full.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    ops::Bound,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

/// Bytes of what is read at once.
const BUFFER_BYTES: usize = 64 << 10;
/// What the kernel is asked to tell of a directory.
const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW)
    .union(WatchFlags::EXCL_UNLINK);

/// What may have changed. Paths are relative to the directory that is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// The file of this name.
    File(PathBuf),
    /// This directory has come, with whatever is in it. It is not watched yet.
    Came(PathBuf),
    /// This directory has gone, with everything that was in it.
    Went(PathBuf),
    /// Anything: the queue was full, or the directory itself was moved or deleted.
    Everything,
}

/// The watch of a directory and of those below it.
pub(super) struct Watch {
    root: PathBuf,
    queue: AsyncFd<OwnedFd>,
    paths: HashMap<i32, PathBuf>,
    numbers: BTreeMap<PathBuf, i32>,
}

/// One thing that the kernel tells.
struct Told {
    number: i32,
    flags: ReadFlags,
    name: Option<PathBuf>,
}

impl Watch {
    /// Watch nothing yet.
    pub(super) fn new(root: &Path) -> io::Result<Watch> {
        let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "an OwnedFd is one descriptor until it is dropped; what else there is, is unsafe"
        )]
        let queue = AsyncFd::new(queue)?;
        Ok(Watch { root: root.to_owned(), queue, paths: HashMap::new(), numbers: BTreeMap::new() })
    }

    /// Watch a directory. One that is gone by now is not watched, and that is no error.
    pub(super) fn add(&mut self, directory: &Path) -> io::Result<()> {
        let number = match inotify::add_watch(&self.queue, self.root.join(directory), WANTED) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
            number => number?,
        };
        // A directory that was moved has the number that it had.
        if let Some(before) = self.paths.insert(number, directory.to_owned())
            && before != directory
        {
            self.numbers.remove(&before);
        }
        self.numbers.insert(directory.to_owned(), number);
        Ok(())
    }

    /// What has changed since the last call, in this order. Nothing is lost if the future is dropped.
    pub(super) async fn changes(&mut self) -> io::Result<Vec<Change>> {
        loop {
            let mut ready = self.queue.readable().await?;
            let told = match ready.try_io(|queue| read(queue.get_ref())) {
                Ok(told) => told?,
                Err(_) => continue,
            };
            let mut changes: Vec<Change> = told.into_iter().filter_map(|told| self.change(told)).collect();
            changes.dedup();
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    fn change(&mut self, told: Told) -> Option<Change> {
        let Told { number, flags, name } = told;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(Change::Everything);
        }
        let directory = self.paths.get(&number)?.clone();
        if flags.contains(ReadFlags::IGNORED) {
            self.paths.remove(&number);
            if self.numbers.get(&directory) == Some(&number) {
                self.numbers.remove(&directory);
            }
            return None;
        }
        let Some(name) = name else {
            // What becomes of a directory below is told by the one that it is in.
            let is_root = directory.as_os_str().is_empty();
            return (is_root && flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT))
                .then_some(Change::Everything);
        };
        let path = directory.join(name);
        if !flags.contains(ReadFlags::ISDIR) {
            return Some(Change::File(path));
        }
        if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
            self.forget(&path);
            return Some(Change::Went(path));
        }
        flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO).then_some(Change::Came(path))
    }

    /// Watch a directory and those below it no longer.
    fn forget(&mut self, directory: &Path) {
        let from = (Bound::Included(directory.to_owned()), Bound::Unbounded);
        let below: Vec<(PathBuf, i32)> = self
            .numbers
            .range(from)
            .take_while(|(path, _)| path.starts_with(directory))
            .map(|(path, number)| (path.clone(), *number))
            .collect();
        for (path, number) in below {
            let _ = inotify::remove_watch(&self.queue, number); // it is gone with its directory as a rule
            self.numbers.remove(&path);
            self.paths.remove(&number);
        }
    }
}

/// What is in the queue, up to [`BUFFER_BYTES`] of it.
fn read(queue: &OwnedFd) -> io::Result<Vec<Told>> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
    let mut reader = Reader::new(queue, &mut buffer);
    let mut all = Vec::new();
    loop {
        let event = reader.next()?;
        let name = event.file_name().map(|name| PathBuf::from(OsStr::from_bytes(name.to_bytes())));
        all.push(Told { number: event.wd(), flags: event.events(), name });
        if reader.is_buffer_empty() {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, time::Duration};

    use tokio::time::timeout;

    use super::*;

    /// Nothing here takes so long unless it is broken.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// What is told until this is among it.
    async fn until(watch: &mut Watch, last: &Change) -> BTreeSet<Change> {
        let mut all = BTreeSet::new();
        while !all.contains(last) {
            all.extend(timeout(PATIENCE, watch.changes()).await.expect("nothing was told").unwrap());
        }
        all
    }

    fn file(path: &str) -> Change {
        Change::File(path.into())
    }

    #[tokio::test]
    async fn files_and_directories_that_come_change_and_go_are_told() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        let mut watch = Watch::new(top.path()).unwrap();
        watch.add(Path::new("")).unwrap();
        fs::create_dir(at("d")).unwrap();
        until(&mut watch, &Change::Came("d".into())).await;
        watch.add(Path::new("d")).unwrap();
        fs::write(at("d/a"), "1").unwrap();
        until(&mut watch, &file("d/a")).await;
        fs::rename(at("d"), at("e")).unwrap();
        let told = until(&mut watch, &Change::Came("e".into())).await;
        assert!(told.contains(&Change::Went("d".into())), "{told:?}");
        watch.add(Path::new("e")).unwrap();
        fs::write(at("e/b"), "1").unwrap();
        let told = until(&mut watch, &file("e/b")).await;
        assert!(!told.iter().any(|change| matches!(change, Change::File(path) if path.starts_with("d"))), "{told:?}");
        fs::remove_file(at("e/a")).unwrap();
        until(&mut watch, &file("e/a")).await;
        fs::remove_dir_all(at("e")).unwrap();
        until(&mut watch, &Change::Went("e".into())).await;
        watch.add(Path::new("gone")).unwrap();
        fs::remove_dir(top.path()).unwrap();
        until(&mut watch, &Change::Everything).await;
        fs::create_dir(top.path()).unwrap();
    }

    #[tokio::test]
    async fn a_full_queue_is_told_as_a_change_of_everything() {
        let length: usize =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        let top = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(top.path()).unwrap();
        watch.add(Path::new("")).unwrap();
        // Neighbours that are alike are told once, so there are two names.
        for n in 0..=length {
            fs::write(top.path().join(if n % 2 == 0 { "a" } else { "b" }), "x").unwrap();
        }
        until(&mut watch, &Change::Everything).await;
    }
}
