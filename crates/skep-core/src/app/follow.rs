//! Reading what has happened and what happens next: one reader for progress, logs, reports and whoever subscribes.

use super::App;
use crate::{
    db::{Db, DbError, Follower, News},
    event::EventFilter,
    limits::PAGE_MAX,
    policy::{Permit, Read},
};

/// Reads the events of a namespace that fit a filter, in order and without a gap, from a number on.
pub struct EventFollower {
    db: Db,
    permit: Permit<Read>,
    filter: EventFilter,
    /// Everything up to this number was looked at.
    after: i64,
    /// Waits for what happens next, once [`EventFollower::next`] has read what happened before.
    live: Option<Follower>,
}

impl App {
    /// Read the events after an event's number, which is 0 for all that are kept, and then those that happen.
    ///
    /// Nothing is read and nobody waits before the first call of [`EventFollower::next`] or [`EventFollower::look`].
    pub fn follow(&self, permit: &Permit<Read>, filter: EventFilter, after: i64) -> EventFollower {
        EventFollower { db: self.db.clone(), permit: permit.clone(), filter, after, live: None }
    }
}

impl EventFollower {
    /// Everything up to this number was looked at. Another follower with the same filter goes on from here.
    pub fn number(&self) -> i64 {
        self.after
    }

    /// Go on from here, as if everything up to this number was looked at, and nothing after it.
    pub fn go_on_after(&mut self, number: i64) {
        (self.after, self.live) = (number, None);
    }

    /// Leave out everything that has happened so far. Returns the number of the last event.
    pub async fn skip_to_end(&mut self) -> Result<i64, DbError> {
        let (_, ends) = self.db.event_page(self.permit.namespace(), None, i64::MAX, 1).await?;
        self.go_on_after(ends.last);
        Ok(ends.last)
    }

    /// How often a page of this namespace's log was read from the database, for whichever follower that waits.
    pub fn pages_read(&self) -> u64 {
        self.live.as_ref().map_or(0, Follower::pages_read)
    }

    /// Wait for what happens next. To be called in a runtime that lives as long as the follower.
    ///
    /// Nothing is lost if the future is dropped, or if the database fails: the next call goes on at the same number. A
    /// slow reader loses nothing, either: what is not in memory any more is read from the database.
    pub async fn next(&mut self) -> Result<News, DbError> {
        loop {
            // The events of one run are found by its name, without reading all others.
            if self.live.is_none()
                && self.filter.run.is_some()
                && let Some(news) = self.look().await?
            {
                return Ok(news);
            }
            let live = self.live.get_or_insert_with(|| self.db.follow(&self.permit, self.after));
            let news = live.next().await?;
            self.after = live.number();
            if let Some(news) = self.wanted(news) {
                return Ok(news);
            }
        }
    }

    /// What has happened next, or `None` if that is nothing. Does not wait for more.
    pub async fn look(&mut self) -> Result<Option<News>, DbError> {
        self.live = None;
        loop {
            let (page, ends) =
                self.db.event_page(self.permit.namespace(), self.filter.run.as_ref(), self.after, PAGE_MAX).await?;
            if !ends.reach(self.after) {
                self.after = ends.first - 1;
                return Ok(Some(News::Reset { first: ends.first, last: ends.last }));
            }
            self.after = page.to;
            let news = self.wanted(News::Events(page.events));
            if news.is_some() || self.after >= ends.last {
                return Ok(news);
            }
        }
    }

    fn wanted(&self, news: News) -> Option<News> {
        match news {
            News::Events(mut events) => {
                events.retain(|event| self.filter.matches(event));
                if events.is_empty() { None } else { Some(News::Events(events)) }
            }
            News::Reset { .. } => Some(news),
        }
    }
}
