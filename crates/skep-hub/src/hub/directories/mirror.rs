//! A directory and a workspace that are kept in step.
//!
//! What happens on either side names files, and each of them is looked at on both sides (`file.rs`). What the log of
//! events and the kernel tell is only a reason to look: at the start, and where either has lost something, everything
//! is looked at.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use skep_core::{
    app::{DirectoryError, EventFollower},
    db::{DbError, FileFilter, News},
    directory::Agreed,
    event::{Event, EventFilter, EventKind},
    limits::PAGE_MAX,
    path::FilePath,
};
use skep_tools::workspace::Identity;
use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    file::{Outcome, Sides},
    ignored::{Ignored, is_rules},
    status::Report,
    walk::{Found, WalkError, path_of, remove_left_behind, walk},
    watch::{Change, Watch},
};

/// How long the hub keeps the directory if it is not heard of.
const HOLD_TIME: Duration = Duration::from_secs(30);
/// How often it says that it keeps it.
const HOLD_INTERVAL: Duration = Duration::from_secs(10);
/// How long nothing must have happened to a file before it is read: editors write one in several steps.
const QUIET: Duration = Duration::from_millis(150);
/// When a file is read although things go on happening to it.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// How often everything in the directory is looked at although the kernel tells what happens: it does not tell of a
/// change by way of another name of the file, or on another machine.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The same where the kernel does not tell.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Files that are looked at before both sides are listened to again.
const BATCH: usize = 256;
/// Files that are looked at side by side.
const AT_ONCE: usize = 16;
/// How often a file is tried that cannot be kept beside another one, which may be about to go.
const TRIES_MAX: u32 = 5;

/// Why a directory is not kept in step.
#[derive(Debug, thiserror::Error)]
pub(super) enum MirrorError {
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error(transparent)]
    Store(#[from] DirectoryError),
    #[error("what happens in it cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl From<DbError> for MirrorError {
    fn from(error: DbError) -> MirrorError {
        MirrorError::Store(error.into())
    }
}

/// What has changed in a directory that is watched; of another one nothing is told.
async fn changes(watch: &mut Option<Watch>) -> io::Result<Vec<Change>> {
    match watch {
        Some(watch) => watch.changes().await,
        None => std::future::pending().await,
    }
}

/// A directory and a workspace.
pub(super) struct Mirror {
    sides: Sides,
    report: Report,
    /// What both have of each file.
    agreed: HashMap<FilePath, Agreed>,
    /// How each file of the directory looked when both had the same.
    looks: HashMap<FilePath, Identity>,
    ignored: Ignored,
    watch: Option<Watch>,
    /// Files to be looked at now, and how often they were before.
    ready: BTreeMap<FilePath, u32>,
    /// Files to be looked at when nothing happens to them any more.
    settling: HashMap<FilePath, Settling>,
    /// Files that are not kept in step. They are looked at now and then.
    left_out: BTreeSet<FilePath>,
    /// When the store heard that this hub keeps the directory.
    held: Instant,
    /// When everything was looked at.
    looked: Instant,
}

struct Settling {
    since: Instant,
    last: Instant,
    tries: u32,
}

impl Settling {
    fn due(&self) -> Instant {
        (self.last + QUIET).min(self.since + QUIET_MAX)
    }
}

impl Mirror {
    /// Nothing is looked at yet.
    pub(super) fn new(sides: Sides, report: Report) -> Mirror {
        Mirror {
            sides,
            report,
            agreed: HashMap::new(),
            looks: HashMap::new(),
            ignored: Ignored::default(),
            watch: None,
            ready: BTreeMap::new(),
            settling: HashMap::new(),
            left_out: BTreeSet::new(),
            held: Instant::now(),
            looked: Instant::now(),
        }
    }

    /// Keep both sides in step until it is told to stop, or cannot.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Result<(), MirrorError> {
        self.hold().await?;
        let kinds = ["file.written", "file.deleted"].map(str::to_owned).to_vec();
        let filter = EventFilter { kinds, ..EventFilter::default() };
        let mut follower = self.sides.app.follow(&self.sides.permit.to_read(), filter, 0);
        follower.skip_to_end().await?;
        self.start().await?;
        let kept = self.listen(&mut follower, stop).await;
        if kept.is_ok() {
            self.sides.app.release_directory(&self.sides.permit, &self.sides.directory).await?;
        }
        kept
    }

    async fn start(&mut self) -> Result<(), MirrorError> {
        loop {
            let after = self.agreed.keys().max().cloned();
            let page = self.sides.app.db.agreed(&self.sides.permit.to_read(), after.as_ref()).await?;
            let is_last = page.len() < PAGE_MAX;
            self.agreed.extend(page);
            if is_last {
                break;
            }
        }
        let dir = self.sides.dir.clone();
        let _ = spawn_blocking(move || remove_left_behind(&dir)).await; // what it leaves is ignored
        match Watch::new(self.sides.dir.path()) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => self.report.not_watched(&error),
        }
        self.look_everywhere(true).await?;
        self.process().await
    }

    async fn listen(&mut self, follower: &mut EventFollower, stop: &CancellationToken) -> Result<(), MirrorError> {
        let mut hold = interval(HOLD_INTERVAL);
        hold.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.report.in_step(self.agreed.len(), self.watch.is_some());
            let due = self.settling.values().map(Settling::due).min();
            let look = self.looked + if self.watch.is_some() { LOOK_INTERVAL } else { POLL_INTERVAL };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = hold.tick() => self.hold().await?,
                () = sleep_until(look) => self.look_everywhere(false).await?,
                changes = changes(&mut self.watch) => self.take_changes(changes?).await?,
                news = follower.next() => match news? {
                    News::Events(events) => self.take_events(&events),
                    News::Reset { .. } => self.look_everywhere(true).await?,
                },
                () = sleep_until(due.unwrap_or(self.held)), if due.is_some() => {}
            }
            self.process().await?;
        }
    }

    /// Stay the hub that keeps the directory.
    async fn hold(&mut self) -> Result<(), MirrorError> {
        self.sides.app.hold_directory(&self.sides.permit, &self.sides.directory, HOLD_TIME).await?;
        self.held = Instant::now();
        Ok(())
    }

    /// What happened in the store.
    fn take_events(&mut self, events: &[Arc<Event>]) {
        for event in events {
            let (EventKind::FileWritten { path, revision, .. } | EventKind::FileDeleted { path, revision, .. }) =
                &event.kind
            else {
                continue;
            };
            let Ok(path) = FilePath::new(path) else { continue };
            let is_known = self.agreed.get(&path).is_some_and(|agreed| agreed.revision >= *revision);
            if !is_known {
                self.ready.entry(path).or_insert(0);
            }
        }
    }

    /// What happened in the directory.
    async fn take_changes(&mut self, changes: Vec<Change>) -> Result<(), MirrorError> {
        for change in changes {
            match change {
                Change::File(path) if is_rules(&path) => {
                    self.settle(&path);
                    self.look_everywhere(true).await?;
                }
                Change::File(path) => self.settle(&path),
                Change::Came(path) => {
                    if !self.ignored.covers(&path.join("file")) {
                        self.look_below(path).await?;
                    }
                }
                Change::Went(path) => {
                    let gone = self.agreed.keys().filter(|name| Path::new(name.as_str()).starts_with(&path));
                    let gone: Vec<PathBuf> = gone.map(|name| name.as_str().into()).collect();
                    gone.iter().for_each(|path| self.settle(path));
                }
                Change::Everything => self.look_everywhere(false).await?,
            }
        }
        Ok(())
    }

    /// Look at a file when nothing happens to it any more.
    fn settle(&mut self, path: &Path) {
        if self.ignored.covers(path) {
            return;
        }
        let now = Instant::now();
        match path_of(path) {
            Ok(path) => {
                self.settling.entry(path).and_modify(|settling| settling.last = now).or_insert(Settling {
                    since: now,
                    last: now,
                    tries: 0,
                });
            }
            Err(why) => self.report.left_out(path.display().to_string(), why),
        }
    }

    /// Look at a directory that has come.
    async fn look_below(&mut self, directory: PathBuf) -> Result<(), MirrorError> {
        let found = self.walk(directory).await?;
        for (path, _) in found.files {
            self.settle(Path::new(path.as_str()));
        }
        Ok(())
    }

    /// Look at everything in the directory, and in the store if that is wanted, that is not known to be as it was.
    async fn look_everywhere(&mut self, also_in_store: bool) -> Result<(), MirrorError> {
        self.report.forget_left_out();
        let found = self.walk(PathBuf::new()).await?;
        let mut is_there = HashSet::with_capacity(found.files.len());
        let mut changed = Vec::new();
        for (path, look) in found.files {
            if self.looks.get(&path) != Some(&look) {
                changed.push(path.clone());
            }
            is_there.insert(path);
        }
        changed.extend(self.agreed.keys().filter(|path| !is_there.contains(*path)).cloned());
        let mut ready: Vec<FilePath> = std::mem::take(&mut self.left_out).into_iter().collect();
        if also_in_store {
            ready.append(&mut changed);
            ready.extend(self.changed_in_store().await?);
        }
        for path in ready {
            self.ready.entry(path).or_insert(0);
        }
        // Somebody may be writing these.
        changed.iter().for_each(|path| self.settle(Path::new(path.as_str())));
        self.looked = Instant::now();
        Ok(())
    }

    /// The files of the store that the directory is not known to have.
    async fn changed_in_store(&self) -> Result<Vec<FilePath>, MirrorError> {
        let (mut changed, mut after) = (Vec::new(), None);
        let mut missing: HashSet<&FilePath> = self.agreed.keys().collect();
        loop {
            let permit = self.sides.permit.to_read();
            let page = self.sides.app.db.files(&permit, &FileFilter::default(), after.as_ref(), PAGE_MAX).await?;
            for file in page.files {
                missing.remove(&file.path);
                if self.agreed.get(&file.path).is_none_or(|agreed| agreed.revision != file.number) {
                    changed.push(file.path);
                }
            }
            after = page.next;
            if after.is_none() {
                changed.extend(missing.into_iter().cloned());
                return Ok(changed);
            }
        }
    }

    /// Walk through a directory, and watch it and those below it.
    async fn walk(&mut self, from: PathBuf) -> Result<Found, MirrorError> {
        let (dir, mut ignored, mut watch) =
            (self.sides.dir.clone(), std::mem::take(&mut self.ignored), self.watch.take());
        let walked = spawn_blocking(move || {
            let mut refused = None;
            let found = walk(&dir, &from, &mut ignored, |directory| {
                if let Some(watch) = &mut watch
                    && let Err(error) = watch.add(directory)
                {
                    refused = Some(error);
                }
            });
            (found, ignored, watch, refused)
        });
        let (found, ignored, watch, refused) = walked.await.map_err(io::Error::other)?;
        (self.ignored, self.watch) = (ignored, watch);
        if let Some(error) = refused {
            self.watch = None;
            self.report.not_watched(&error);
        }
        let found = found?;
        for (path, why) in &found.left_out {
            self.report.left_out(path.clone(), why.clone());
        }
        Ok(found)
    }

    /// Look at the files that are to be looked at now.
    async fn process(&mut self) -> Result<(), MirrorError> {
        let now = Instant::now();
        let settled = self.settling.extract_if(|_, settling| settling.due() <= now);
        self.ready.extend(settled.map(|(path, settling)| (path, settling.tries)));
        while !self.ready.is_empty() {
            if self.held.elapsed() >= HOLD_INTERVAL {
                self.hold().await?;
            }
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Some((path, tries)) = self.ready.pop_first()
            {
                if !self.ignored.covers(Path::new(path.as_str())) {
                    batch.push((path, tries));
                }
            }
            let looked = stream::iter(batch).map(async |(path, tries)| {
                let outcome = self.sides.sync(&path, self.agreed.get(&path)).await;
                (path, tries, outcome)
            });
            let looked: Vec<_> = looked.buffer_unordered(AT_ONCE).collect().await;
            let mut agreed = Vec::new();
            for (path, tries, outcome) in looked {
                self.take_outcome(path, tries, outcome?, &mut agreed);
            }
            if !agreed.is_empty() {
                self.sides.app.agree(&self.sides.permit, &self.sides.directory, agreed).await?;
            }
        }
        Ok(())
    }

    fn take_outcome(
        &mut self,
        path: FilePath,
        tries: u32,
        outcome: Outcome,
        agreed: &mut Vec<(FilePath, Option<Agreed>)>,
    ) {
        let again = |mirror: &mut Mirror, path: FilePath, tries: u32| {
            let now = Instant::now();
            mirror.settling.entry(path).or_insert(Settling { since: now, last: now, tries });
        };
        match outcome {
            Outcome::Same(both, look) => {
                self.report.not_left_out(path.as_str());
                match look {
                    Some(look) => drop(self.looks.insert(path.clone(), look)),
                    None => drop(self.looks.remove(&path)),
                }
                if self.agreed.get(&path) == both.as_ref() {
                    return;
                }
                match both.clone() {
                    Some(both) => drop(self.agreed.insert(path.clone(), both)),
                    None => drop(self.agreed.remove(&path)),
                }
                agreed.push((path, both));
            }
            Outcome::Again => again(self, path, tries),
            Outcome::Blocked { by, .. } if tries < TRIES_MAX => {
                again(self, by, 0);
                again(self, path, tries + 1);
            }
            Outcome::Blocked { why, .. } | Outcome::LeftOut(why) => {
                self.report.left_out(path.as_str().to_owned(), why);
                self.looks.remove(&path);
                self.left_out.insert(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use skep_core::{
        app::App,
        db::{Db, Limits},
        directory::Directory,
        policy::Permit,
    };
    use skep_tools::workspace::Dir;

    use super::*;
    use crate::hub::principals::local;

    /// A directory and a workspace in step, of which the kernel tells nothing.
    async fn unwatched(top: &Path) -> (Mirror, Sides, PathBuf) {
        let files = top.join("files");
        fs::create_dir(&files).unwrap();
        let db = Db::open(&format!("sqlite:{}", top.join("hub.db").display()), Limits::default()).await.unwrap();
        let permit: Permit = local().permit().unwrap();
        let sides = Sides {
            app: App::new(db),
            permit: permit.within(Some("t"), None).unwrap(),
            directory: Directory { place: "here".into(), hub: "hub".into() },
            dir: Dir::open(&files).unwrap().without_links(),
        };
        let mut mirror = Mirror::new(sides.clone(), Report::new("t", files.clone()));
        mirror.hold().await.unwrap();
        mirror.start().await.unwrap();
        mirror.watch = None;
        (mirror, sides, files)
    }

    /// What the store has of the file `a`.
    async fn stored(sides: &Sides) -> Option<String> {
        let path = FilePath::new("a").unwrap();
        let contents = sides.app.db.file(&sides.permit.to_read(), &path, None).await.unwrap();
        Some(String::from_utf8(contents?.bytes?).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_kernel_has_not_told_is_found_by_looking_at_everything() {
        let top = tempfile::tempdir().unwrap();
        let (mut mirror, sides, files) = unwatched(top.path()).await;
        for content in [Some("1"), Some("2"), None] {
            match content {
                Some(content) => fs::write(files.join("a"), content).unwrap(),
                None => fs::remove_file(files.join("a")).unwrap(),
            }
            mirror.take_changes(vec![Change::Everything]).await.unwrap();
            sleep_until(mirror.settling.values().map(Settling::due).min().unwrap()).await;
            mirror.process().await.unwrap();
            assert_eq!(stored(&sides).await.as_deref(), content);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_that_cannot_be_watched_is_looked_at_again_and_again() {
        let top = tempfile::tempdir().unwrap();
        let (mut mirror, sides, files) = unwatched(top.path()).await;
        let mut follower = sides.app.follow(&sides.permit.to_read(), EventFilter::default(), 0);
        fs::write(files.join("a"), "1").unwrap();
        let stop = CancellationToken::new();
        let found = async {
            while stored(&sides).await.is_none() {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        let (kept, ()) = tokio::join!(mirror.listen(&mut follower, &stop), found);
        kept.unwrap();
    }
}
