//! The runs that are kept: how each is doing, what they take, and how they are deleted.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use skep_core::{
    app::{self, App},
    db::DbError,
    policy::Permit,
    retention::{Keep, Kept},
    run::{End, RunId, State, Summary},
};

use crate::{
    hub::Store,
    state::{Home, LockError},
};

/// Runs that are deleted after a run has ended, so that nobody waits long for the end. The others go the next time.
const DELETED_AT_ONCE_MAX: usize = 100;
/// Runs that are read at once.
const PAGE: usize = 1000;

/// The runs of a state directory and its database; cheap to clone.
#[derive(Clone)]
pub struct Archive {
    app: App,
    permit: Permit,
    home: Home,
}

/// Why a run was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// Somebody works on it.
    #[error("run {run} is being worked on by process {pid}; stop it first with `skep cancel {run}`")]
    Held {
        /// The run.
        run: String,
        /// That process, as far as it has said.
        pid: String,
    },
    /// It is said to be running, and its directory is not here.
    #[error(
        "run {0} is being worked on with another state directory, or its directory is gone; stop it first with `skep cancel {0}`"
    )]
    Elsewhere(String),
    /// Its directory cannot be deleted.
    #[error("cannot delete {}", .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] app::RunError),
}

impl Archive {
    /// The runs that are kept by this hub.
    pub fn of(store: &Store) -> Archive {
        Archive { app: store.app.clone(), permit: store.permit.clone(), home: store.home.clone() }
    }

    /// Where a run stands that the store says to be in `state`: whoever asks is told this. A run whose process was killed
    /// still says in the store that it is running; it is interrupted.
    pub async fn state_of(&self, id: &RunId, state: State) -> Result<State, DbError> {
        if state != State::Running || self.home.is_held(id) != Some(false) {
            return Ok(state);
        }
        // Whoever works on a run ends it first and then unlocks its directory, so what the store says now is the last word.
        let now = self.app.db.run(&self.permit.to_read(), id).await?;
        Ok(match now.map_or(state, |run| run.state) {
            State::Running => State::Interrupted,
            over => over,
        })
    }

    /// All runs, newest first, each with the state that [`Archive::state_of`] tells.
    pub async fn all(&self) -> Result<Vec<Summary>, DbError> {
        let mut runs: Vec<Summary> = Vec::new();
        loop {
            let before = runs.last().map(|last| (last.created, last.id.clone()));
            let page = self.app.db.run_summaries(&self.permit.to_read(), before, PAGE).await?;
            let is_last = page.len() < PAGE;
            for run in page {
                let state = self.state_of(&run.id, run.state).await?;
                runs.push(Summary { state, ..run });
            }
            if is_last {
                return Ok(runs);
            }
        }
    }

    /// All runs, newest first, and what each takes.
    pub async fn measured(&self) -> Result<Vec<Kept>, DbError> {
        let mut in_database = HashMap::new();
        let mut last = None;
        loop {
            let page = self.app.db.run_sizes(&self.permit.to_read(), last, PAGE).await?;
            last = page.last().map(|(id, _)| id.clone());
            let is_last = page.len() < PAGE;
            in_database.extend(page);
            if is_last {
                break;
            }
        }
        let measured = |run: Summary| {
            let bytes = bytes_in(&self.home.run(&run.id)) + in_database.get(&run.id).copied().unwrap_or(0);
            Kept { run, bytes }
        };
        Ok(self.all().await?.into_iter().map(measured).collect())
    }

    /// Delete a run with all that it has left. One that was killed or interrupted can be deleted, one that somebody works on
    /// cannot.
    pub async fn delete(&self, id: &RunId) -> Result<(), DeleteError> {
        let db = &self.app.db;
        let run = db.run(&self.permit.to_read(), id).await.map_err(app::RunError::from)?;
        let run = run.ok_or_else(|| app::RunError::Unknown(id.clone()))?;
        // Held until the end, so that nobody resumes it meanwhile.
        let held = match self.home.is_held(id) {
            None if run.state == State::Running => return Err(DeleteError::Elsewhere(id.0.clone())),
            None => None,
            Some(_) => Some(self.home.hold(id).map_err(|error| match error {
                LockError::Held { run, pid } => DeleteError::Held { run, pid },
                LockError::Io { path, source } => DeleteError::Io { path, source },
            })?),
        };
        if run.state == State::Running {
            self.app.end_run(&self.permit, id, End::Cancelled, None).await?;
        }
        // The directory first: a run without one is still listed, and can be deleted again.
        if held.is_some() {
            let path = self.home.run(id);
            match fs::remove_dir_all(&path) {
                // Another process has deleted it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(|source| DeleteError::Io { path, source })?,
            }
        }
        Ok(self.app.delete_run(&self.permit, id).await?)
    }

    /// Go on with deletions that were cut off.
    pub async fn finish_deletions(&self) -> Result<(), DeleteError> {
        Ok(self.app.finish_deletions(&self.permit).await?)
    }

    /// Delete what goes beyond these limits, and say how many runs that were.
    pub async fn keep_within(&self, keep: &Keep) -> Result<usize, DeleteError> {
        self.finish_deletions().await?;
        // Nobody is asked, so what goes for its age must be that old for certain, and by the clock that wrote its end.
        let now = self.app.db.now().surely();
        if let Some(age) = keep.age_max {
            self.app.prune_events(&self.permit, now.before(age)).await?;
        }
        let runs = match keep.bytes_max {
            Some(_) => self.measured().await,
            // Looking into all directories takes long, so only where somebody wants to know.
            None => self.all().await.map(|runs| runs.into_iter().map(|run| Kept { run, bytes: 0 }).collect()),
        };
        let runs = runs.map_err(app::RunError::from)?;
        let superfluous = keep.superfluous(&runs, now);
        let mut deleted = 0;
        for kept in superfluous.into_iter().rev().take(DELETED_AT_ONCE_MAX) {
            match self.delete(&kept.run.id).await {
                Ok(()) => deleted += 1,
                // Somebody took it up or deleted it just now.
                Err(DeleteError::Held { .. } | DeleteError::Store(app::RunError::Unknown(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

/// Bytes that a directory takes on its disk with all that is below it; none if it cannot be read.
pub fn bytes_in(directory: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512; // whatever the file system's own are
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => found.blocks() * BLOCK_BYTES + bytes_in(&entry.path()),
        Ok(found) => found.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use skep_core::{
        Namespace,
        db::{Clock, Db, Limits},
        policy::Actor,
        run::NewRun,
    };

    use super::*;

    /// As on a PostgreSQL server whose clock this machine's is ahead of.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_is_old_by_the_stores_time_and_not_by_the_clock_on_the_wall() {
        const HOUR: Duration = Duration::from_secs(3600);
        let directory = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", directory.path().join("skep.db").display());
        let limits = Limits { clock: Clock::skewed(-7_200_000_000), ..Limits::default() };
        let app = App::new(Db::open(&address, limits).await.unwrap());
        let actor = Actor::operator("test", Namespace::team("main"));
        let permit = actor.permit().unwrap();
        for name in ["a", "b"] {
            let run = NewRun {
                id: RunId(name.into()),
                name: name.into(),
                plan: json!({}).into(),
                inputs: json!({}).into(),
                directory: "/tmp".into(),
            };
            app.start_run(&permit, run, Vec::new()).await.unwrap();
            app.end_run(&permit, &RunId(name.into()), End::Completed, None).await.unwrap();
        }
        let archive = Archive { app, permit, home: Home::new(directory.path().join("home")) };
        let keep = Keep { age_max: Some(HOUR), ..Keep::default() };
        assert_eq!(archive.keep_within(&keep).await.unwrap(), 0);
        assert_eq!(archive.all().await.unwrap().len(), 2);
        let keep = Keep { age_max: Some(Duration::ZERO), ..Keep::default() };
        assert_eq!(archive.keep_within(&keep).await.unwrap(), 1, "the newest stays");
    }
}
