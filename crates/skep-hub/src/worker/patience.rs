//! Patience with a store that is busy: what found no room there is asked for again, for a while.

use std::time::{Duration, Instant};

use skep_core::{
    app::{self, SessionError, TaskError},
    db::DbError,
};

/// How long to ask again.
pub(crate) struct Patience {
    /// The first wait; each further one takes twice as long.
    wait_min: Duration,
    /// The longest wait.
    wait_max: Duration,
    /// How long after the first time it is asked once more.
    time_max: Duration,
}

/// What workers have, and whoever coordinates them. Whoever fills the store is soon done, or will not be.
pub(crate) const PATIENCE: Patience = Patience {
    wait_min: Duration::from_millis(10),
    wait_max: Duration::from_secs(1),
    time_max: Duration::from_secs(120),
};

impl Patience {
    /// Ask the store, and ask again while it is busy. Such an answer says that nothing has been done.
    pub(crate) async fn ask<T, E: StoreError, F: Future<Output = Result<T, E>>>(
        &self,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, E> {
        let (began, mut wait) = (Instant::now(), self.wait_min);
        loop {
            match ask().await {
                Err(error) if is_busy(&error) && began.elapsed() < self.time_max => {}
                answer => return answer,
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(self.wait_max);
        }
    }
}

fn is_busy(error: &impl StoreError) -> bool {
    matches!(error.of_store(), Some(DbError::Busy(_) | DbError::Locked(_)))
}

/// An error of an operation, which may be the store's.
pub(crate) trait StoreError {
    /// The store's error, if it is one.
    fn of_store(&self) -> Option<&DbError>;
}

impl StoreError for DbError {
    fn of_store(&self) -> Option<&DbError> {
        Some(self)
    }
}

impl StoreError for TaskError {
    fn of_store(&self) -> Option<&DbError> {
        if let TaskError::Db(error) = self { Some(error) } else { None }
    }
}

impl StoreError for app::RunError {
    fn of_store(&self) -> Option<&DbError> {
        if let app::RunError::Db(error) = self { Some(error) } else { None }
    }
}

impl StoreError for SessionError {
    fn of_store(&self) -> Option<&DbError> {
        if let SessionError::Db(error) = self { Some(error) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn who_is_busy_is_asked_again_for_a_while_and_others_are_not() {
        const SHORT: Duration = Duration::from_millis(1);
        let patience = Patience { wait_min: SHORT, wait_max: SHORT, time_max: Duration::from_secs(60) };
        let mut answers = [Err(DbError::Busy("later")), Err(DbError::Busy("later")), Ok(7)].into_iter();
        assert_eq!(patience.ask(|| ready(answers.next().unwrap())).await.unwrap(), 7);
        let mut answers = [Err::<(), _>(DbError::Closed)].into_iter();
        assert!(matches!(patience.ask(|| ready(answers.next().unwrap())).await, Err(DbError::Closed)));
        let patience = Patience { time_max: SHORT, ..patience };
        let busy = patience.ask(|| ready(Err::<(), _>(TaskError::Db(DbError::Busy("for ever"))))).await;
        assert!(matches!(busy, Err(TaskError::Db(DbError::Busy(_)))), "{busy:?}");
    }
}
