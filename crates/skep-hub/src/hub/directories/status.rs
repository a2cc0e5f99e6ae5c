//! How the directories do, for people: what a hub's health says of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::terminal::say;

/// Files that are left out of which the names and reasons are kept.
const LEFT_OUT_MAX: usize = 1_000;
/// How many of them are named.
const LEFT_OUT_NAMED_MAX: usize = 3;

/// How a directory does.
#[derive(Debug, Default)]
enum State {
    /// The hub has not looked at it yet.
    #[default]
    Starting,
    /// It is kept in step, with so many files.
    InStep { files: usize },
    /// It is not.
    Failed(String),
}

#[derive(Debug, Default)]
struct Status {
    state: State,
    /// Why the kernel does not tell what happens in it, if so.
    not_watched: Option<String>,
    left_out: BTreeMap<String, String>,
    /// What was said of files before.
    said: BTreeMap<String, String>,
}

/// Tells how a directory does; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Report {
    task: Arc<str>,
    path: Arc<PathBuf>,
    status: Arc<Mutex<Status>>,
}

impl Report {
    pub(super) fn new(task: &str, path: PathBuf) -> Report {
        Report { task: task.into(), path: Arc::new(path), status: Arc::default() }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is kept in step, with so many files.
    pub(super) fn in_step(&self, files: usize, is_watched: bool) {
        let mut status = self.status();
        if !matches!(status.state, State::InStep { .. }) {
            say!("{} is in step with task {}: {}", self.path.display(), self.task, counted(files));
        }
        status.state = State::InStep { files };
        if is_watched {
            status.not_watched = None;
        }
    }

    /// It is not kept in step; why.
    pub(super) fn failed(&self, why: String) {
        let mut status = self.status();
        if !matches!(&status.state, State::Failed(before) if *before == why) {
            say!("skep: {} is not kept in step with task {}: {why}", self.path.display(), self.task);
        }
        status.state = State::Failed(why);
    }

    /// The kernel does not tell what happens in it.
    pub(super) fn not_watched(&self, error: &io::Error) {
        let why = match error.kind() {
            io::ErrorKind::StorageFull => {
                "the kernel watches no more directories for this user; raise fs.inotify.max_user_watches, or name some in \
                 .skepignore"
                    .to_owned()
            }
            _ => format!("the kernel does not watch it: {error}"),
        };
        say!("skep: {} is looked at every 2 s, because {why}", self.path.display());
        self.status().not_watched = Some(why);
    }

    /// A file is not kept in step; why. That is logged once.
    pub(super) fn left_out(&self, path: String, why: String) {
        let mut status = self.status();
        if status.said.get(&path) != Some(&why) && status.said.len() < LEFT_OUT_MAX {
            tracing::warn!(task = %self.task, path, "left out of the workspace: it {why}");
            status.said.insert(path.clone(), why.clone());
        }
        if status.left_out.len() < LEFT_OUT_MAX {
            status.left_out.insert(path, why);
        }
    }

    /// A file is kept in step.
    pub(super) fn not_left_out(&self, path: &str) {
        let mut status = self.status();
        status.left_out.remove(path);
        status.said.remove(path);
    }

    /// Everything is looked at again.
    pub(super) fn forget_left_out(&self) {
        self.status().left_out.clear();
    }

    /// In a sentence; an error if the directory is not kept in step.
    pub(super) fn text(&self) -> Result<String, String> {
        let status = self.status();
        let name = format!("{} at {}", self.task, self.path.display());
        let files = match &status.state {
            State::Starting => return Ok(format!("{name}: starting")),
            State::Failed(why) => return Err(format!("{name}: {why}")),
            State::InStep { files } => files,
        };
        let mut text = format!("{name}: {}", counted(*files));
        if let Some(why) = &status.not_watched {
            let _ = write!(text, ", looked at every 2 s because {why}"); // a String takes everything
        }
        if !status.left_out.is_empty() {
            let named = status.left_out.iter().take(LEFT_OUT_NAMED_MAX).map(|(path, why)| format!("{path} {why}"));
            let more = if status.left_out.len() > LEFT_OUT_NAMED_MAX { "; …" } else { "" };
            let named: Vec<String> = named.collect();
            let _ = write!(text, ", {} left out: {}{more}", status.left_out.len(), named.join("; "));
        }
        Ok(text)
    }
}

fn counted(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}
