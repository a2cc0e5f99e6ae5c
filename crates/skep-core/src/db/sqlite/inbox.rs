//! Writes on their way to the writer thread.
//!
//! The thread says how many it waits for and is woken once, when as many have come. With a wake-up for each, the callers
//! who ask for the next thing at the same moment would spend more on those than on all else that they do here.

use std::{
    mem::take,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::db::DbError;

/// An inbox, and where its writes come from.
pub(super) fn inbox<T>() -> (Sender<T>, Inbox<T>) {
    let state = State { writes: Vec::new(), wanted: 0, is_closed: false };
    let line = Arc::new(Line { state: Mutex::new(state), has_wanted: Condvar::new() });
    (Sender(Arc::clone(&line)), Inbox(line))
}

/// Where writes are handed in. When it is dropped, the inbox is closed.
pub(in crate::db) struct Sender<T>(Arc<Line<T>>);

/// Where the writer thread takes them. When it is dropped, the inbox is closed, and what is in it will not be done.
pub(super) struct Inbox<T>(Arc<Line<T>>);

struct Line<T> {
    state: Mutex<State<T>>,
    has_wanted: Condvar,
}

struct State<T> {
    writes: Vec<T>,
    /// The thread sleeps until there are so many; 0 while it is awake.
    wanted: usize,
    is_closed: bool,
}

impl<T> Sender<T> {
    /// Hand in a write.
    ///
    /// # Errors
    ///
    /// [`DbError::Closed`] once the inbox is closed.
    pub(in crate::db) fn send(&self, write: T) -> Result<(), DbError> {
        let mut state = self.0.lock();
        if state.is_closed {
            return Err(DbError::Closed);
        }
        state.writes.push(write);
        let has_wanted = state.writes.len() == state.wanted;
        drop(state);
        if has_wanted {
            self.0.has_wanted.notify_one();
        }
        Ok(())
    }

    /// Take in nothing more. What is there will be done.
    pub(super) fn close(&self) {
        self.0.lock().is_closed = true;
        self.0.has_wanted.notify_one();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T> Inbox<T> {
    /// Everything that is there, in the order in which it came.
    pub(super) fn take(&self) -> Vec<T> {
        take(&mut self.0.lock().writes)
    }

    /// Whether nothing more will come. There may still be something to take.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().is_closed
    }

    /// Sleep until there are so many writes, the inbox is closed, or the time is over.
    pub(super) fn wait(&self, count: usize, time_max: Option<Duration>) {
        let mut state = self.0.lock();
        state.wanted = count;
        let is_short = |state: &mut State<T>| state.writes.len() < count && !state.is_closed;
        let has_wanted = &self.0.has_wanted;
        let mut state = match time_max {
            None => has_wanted.wait_while(state, is_short).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                has_wanted.wait_timeout_while(state, time, is_short).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.wanted = 0;
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        drop(self.take());
    }
}

impl<T> Line<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_thread_sleeps_until_as_many_have_come_as_it_waits_for() {
        let (sender, inbox) = inbox();
        thread::scope(|scope| {
            let all = scope.spawn(|| {
                inbox.wait(3, None);
                inbox.take()
            });
            (1..=3).for_each(|write| sender.send(write).unwrap());
            assert_eq!(all.join().unwrap(), [1, 2, 3]);
        });
    }

    #[test]
    fn it_does_not_sleep_when_they_are_there_nor_for_longer_than_it_says() {
        let (sender, inbox) = inbox();
        (1..=3).for_each(|write| sender.send(write).unwrap());
        inbox.wait(2, None);
        inbox.wait(4, Some(Duration::from_millis(1)));
        assert_eq!(inbox.take(), [1, 2, 3]);
        assert!(inbox.take().is_empty());
    }

    #[test]
    fn what_came_before_the_end_is_done_and_nothing_after_it() {
        let (sender, inbox) = inbox();
        sender.send(1).unwrap();
        thread::scope(|scope| {
            let asleep = scope.spawn(|| inbox.wait(2, None));
            sender.close();
            asleep.join().unwrap();
        });
        assert!(matches!(sender.send(2), Err(DbError::Closed)));
        assert!(inbox.is_closed());
        assert_eq!(inbox.take(), [1]);
    }

    #[test]
    fn each_side_learns_that_the_other_is_gone() {
        let (sender, inbox_of_gone) = inbox();
        let last = Arc::new(());
        sender.send(Arc::clone(&last)).unwrap();
        drop(inbox_of_gone);
        assert_eq!(Arc::strong_count(&last), 1, "whoever waits for a write is told that it will not be done");
        assert!(matches!(sender.send(last), Err(DbError::Closed)));

        let (sender, inbox) = inbox::<()>();
        drop(sender);
        inbox.wait(1, None);
        assert!(inbox.is_closed());
    }
}
