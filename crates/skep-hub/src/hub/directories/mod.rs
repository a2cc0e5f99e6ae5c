//! Workspaces that are real directories of this machine.
//!
//! ```text
//!   tools, REST, CLI ──▶ store ──events──▶ look at the file on both sides ◀──inotify── directory ◀── editors, builds
//!                                                │
//!            a revision of nobody that is known ◀┴▶ the file is written beside its place and renamed
//! ```
//!
//! A directory of the hub's machine has the same files as a task's workspace. What is written in the workspace appears
//! in the directory; what any program changes in the directory becomes a revision without an author. The decision is in
//! `step.rs`, and is one of three hashes: what the directory has, what the store has, and what both had when they were last the
//! same. The last one is in the store, so that a hub that was killed goes on from there.
//!
//! The kernel cannot be asked to refuse a write of another program. So claims bind everybody who writes through Skep, and
//! of changes in the directory only tell afterwards whose claim they bypassed.

mod file;
mod ignored;
mod mirror;
mod status;
mod step;
mod walk;
mod watch;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use rustix::system::uname;
use skep_core::{directory::Directory, policy::Permit};
use skep_tools::workspace::Dir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::{file::Sides, mirror::Mirror, status::Report};
use super::{Store, workspace};

/// When a directory that could not be kept in step is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The directories that a hub keeps in step with workspaces.
pub struct Directories {
    store: Store,
    hub: Arc<str>,
    /// By the task whose workspace it is.
    all: Vec<Bound>,
}

/// One of them.
#[derive(Clone)]
struct Bound {
    path: PathBuf,
    permit: Permit,
    report: Report,
}

impl Directories {
    /// The directories of the settings, by the tasks whose workspaces they are. `hub`: the name of this hub.
    ///
    /// # Errors
    ///
    /// One of them is no directory, or lies within another one.
    pub fn open(store: &Store, hub: Arc<str>) -> anyhow::Result<Directories> {
        let mut all: Vec<Bound> = Vec::new();
        for (task, path) in &store.settings.serve.directories {
            let found = path.canonicalize().with_context(|| format!("{} cannot be opened", path.display()))?;
            anyhow::ensure!(found.is_dir(), "{} is no directory", path.display());
            let overlaps = |other: &&Bound| found.starts_with(&other.path) || other.path.starts_with(&found);
            if let Some(other) = all.iter().find(overlaps) {
                anyhow::bail!(
                    "{} and {} lie within each other, so one workspace would have the other's files; choose others",
                    other.path.display(),
                    found.display()
                );
            }
            let permit = store.permit.within(Some(task), None)?;
            all.push(Bound { report: Report::new(task, found.clone()), path: found, permit });
        }
        Ok(Directories { store: store.clone(), hub, all })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Where they are, by the task.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        let tasks = self.store.settings.serve.directories.keys().cloned();
        tasks.zip(self.all.iter().map(|bound| bound.path.clone())).collect()
    }

    /// How they do, in a sentence; an error if one is not kept in step.
    pub fn health(&self) -> impl Fn() -> Result<String, String> + Send + Sync + use<> {
        let reports: Vec<Report> = self.all.iter().map(|bound| bound.report.clone()).collect();
        move || {
            let texts: Result<Vec<String>, String> = reports.iter().map(Report::text).collect();
            Ok(texts?.join("; "))
        }
    }

    /// Keep them in step until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for bound in self.all {
            tasks.spawn(keep(self.store.clone(), Arc::clone(&self.hub), bound, stop.clone()));
        }
        tasks.join_all().await;
    }
}

/// Keep one in step, and try again whenever that fails.
async fn keep(store: Store, hub: Arc<str>, bound: Bound, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let kept = match sides(&store, &hub, &bound) {
            Ok(sides) => {
                let mirror = Mirror::new(sides, bound.report.clone());
                mirror.run(&stop).await.map_err(anyhow::Error::from)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            bound.report.failed(format!("{error:#}"));
        }
        stop.run_until_cancelled(tokio::time::sleep(RETRY_INTERVAL)).await;
    }
}

fn sides(store: &Store, hub: &Arc<str>, bound: &Bound) -> anyhow::Result<Sides> {
    let dir = workspace(&store.settings, &bound.path)?.without_links();
    let directory = Directory { place: place(&dir)?.into(), hub: Arc::clone(hub) };
    Ok(Sides { app: store.app.clone(), permit: bound.permit.clone(), directory, dir })
}

/// What tells a directory from others, also from one that is made in its place: the inode of a mount point is another one than
/// that of what is mounted there, so an empty mount point does not pass for a directory in which everything was deleted.
fn place(dir: &Dir) -> anyhow::Result<String> {
    let (_, inode) = dir.id()?;
    Ok(format!("{}:{inode}:{}", uname().nodename().to_string_lossy(), dir.path().display()))
}
