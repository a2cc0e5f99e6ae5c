//! What this process remembers of a namespace's log: the newest events, and the last pages that were read.

use std::{collections::VecDeque, sync::Arc};

use crate::event::Event;

/// Events that are remembered of one namespace.
const RECENT_MAX: usize = 4096;
/// Bytes of their data.
const RECENT_BYTES_MAX: usize = 4 << 20;
/// Bytes of data in one page; one event is always in it.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Pages that are remembered for followers who are behind at the same place.
const PAGES_MAX: usize = 4;

/// A part of the log: every event with a number above `after`, up to and including `to`, that is still kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page {
    pub(in crate::db) after: i64,
    pub(crate) to: i64,
    pub(crate) events: Vec<Arc<Event>>,
}

/// The numbers of the first event that is kept and of the last that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

impl Ends {
    /// Whether somebody who has seen everything up to this number can be given what comes after it.
    pub(crate) fn reach(&self, number: i64) -> bool {
        (self.first - 1..=self.last).contains(&number)
    }
}

impl Default for Ends {
    fn default() -> Ends {
        Ends { first: 1, last: 0 }
    }
}

/// What a follower who has seen everything up to a number can be given.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// All that comes after it, up to the page's end.
    Page(Page),
    /// Nothing, because it has seen everything.
    Nothing,
    /// Something that is in the database alone.
    Read,
    /// That what came after it is not kept any more.
    Reset,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    ends: Ends,
    /// The newest events without a gap; nothing is known before the first read.
    recent: Option<Recent>,
    pages: VecDeque<Arc<Page>>,
}

#[derive(Debug)]
struct Recent {
    after: i64,
    to: i64,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Log {
    pub(super) fn ends(&self) -> Ends {
        self.ends
    }

    /// Whether everything up to this number is remembered, and nothing after it.
    pub(super) fn ends_with(&self, number: i64) -> bool {
        self.recent.as_ref().is_some_and(|recent| recent.to == number)
    }

    /// What is known of the log's ends. Both only ever grow.
    pub(super) fn learn_ends(&mut self, ends: Ends) {
        self.ends.first = self.ends.first.max(ends.first);
        self.ends.last = self.ends.last.max(ends.last);
    }

    /// Events that this process has committed, numbered from `after` on. Those that do not follow what is remembered
    /// are left to a read: another process has written between.
    pub(super) fn append(&mut self, after: i64, events: Vec<Event>) {
        let to = after + i64::try_from(events.len()).unwrap_or(i64::MAX);
        self.learn_ends(Ends { first: 1, last: to });
        if let Some(recent) = self.recent.as_mut().filter(|recent| recent.to == after) {
            recent.extend(to, events.into_iter().map(Arc::new));
        }
    }

    /// A page that was read.
    pub(super) fn learn(&mut self, page: &Arc<Page>) {
        let recent = self.recent.get_or_insert_with(|| Recent::new(page.after.min(page.to)));
        if recent.to < page.after && page.after <= page.to {
            *recent = Recent::new(page.after); // nobody needs what is between as much as the newest
        }
        if recent.to < page.to {
            let known = recent.to;
            recent.extend(page.to, page.events.iter().filter(|event| event.number > known).cloned());
        }
        self.pages.push_back(Arc::clone(page));
        self.pages.drain(..self.pages.len().saturating_sub(PAGES_MAX));
    }

    /// What comes after a number.
    pub(super) fn after(&self, number: i64, count_max: usize) -> Next {
        let Some(recent) = &self.recent else { return Next::Read };
        if number < self.ends.first - 1 {
            Next::Reset
        } else if number < recent.to {
            let page = recent.page_after(number, count_max);
            let page = page.or_else(|| self.pages.iter().find_map(|page| page.page_after(number)));
            page.map_or(Next::Read, Next::Page)
        } else if number < self.ends.last {
            Next::Read
        } else {
            Next::Nothing
        }
    }
}

impl Recent {
    fn new(after: i64) -> Recent {
        Recent { after, to: after, events: VecDeque::new(), bytes: 0 }
    }

    fn extend(&mut self, to: i64, events: impl Iterator<Item = Arc<Event>>) {
        for event in events {
            self.bytes += event.kind.bytes();
            self.events.push_back(event);
        }
        self.to = to;
        while self.events.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some(gone) = self.events.pop_front() else { break };
            self.after = gone.number;
            self.bytes -= gone.kind.bytes();
        }
    }

    fn page_after(&self, number: i64, count_max: usize) -> Option<Page> {
        if number < self.after {
            return None;
        }
        let known = self.events.partition_point(|event| event.number <= number);
        let events: Vec<_> = self.events.range(known..).take(count_max).cloned().collect();
        let is_all = known + events.len() == self.events.len();
        let to = if is_all { self.to } else { events.last().map_or(self.to, |last| last.number) };
        Some(Page { after: number, to, events })
    }
}

impl Page {
    /// The page after `after`, as it was read: `events` are all up to `to`.
    pub(in crate::db) fn new(after: i64, to: i64, mut events: Vec<Arc<Event>>) -> Page {
        let mut bytes = 0;
        let mut fits = |event: &Arc<Event>| {
            bytes += event.kind.bytes();
            bytes <= PAGE_BYTES_MAX
        };
        let count = events.iter().take_while(|event| fits(event)).count().max(1);
        let to = if count < events.len() { events[count - 1].number } else { to };
        events.truncate(count);
        Page { after, to, events }
    }

    fn page_after(&self, number: i64) -> Option<Page> {
        if number < self.after || self.to <= number {
            return None;
        }
        let known = self.events.partition_point(|event| event.number <= number);
        Some(Page { after: number, to: self.to, events: self.events[known..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Timestamp,
        event::{EventKind, NewEvent},
    };

    fn numbered(number: i64, bytes: usize) -> Event {
        let kind = EventKind::TaskLog { message: "x".repeat(bytes), data: None };
        Event { number, ..NewEvent { at: Timestamp(1), run: None, task: None, kind }.by(None) }
    }

    /// What this process commits after a number: an event for each of these numbers of bytes.
    fn committed(after: i64, bytes: &[usize]) -> Vec<Event> {
        (after + 1..).zip(bytes).map(|(number, bytes)| numbered(number, *bytes)).collect()
    }

    /// A page of the log in which all numbers up to `last` have small events.
    fn read(after: i64, last: i64, count_max: i64) -> Arc<Page> {
        let to = last.min(after + count_max);
        let events = (after + 1..=to).map(|number| Arc::new(numbered(number, 1))).collect();
        Arc::new(Page::new(after, to, events))
    }

    fn numbers(next: Next) -> Vec<i64> {
        match next {
            Next::Page(page) => page.events.iter().map(|event| event.number).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_is_remembered_and_what_does_not_is_read_once() {
        let mut log = Log::default();
        assert_eq!(log.after(0, 10), Next::Read, "nothing is known");
        log.learn(&read(0, 2, 10));
        log.learn_ends(Ends { first: 1, last: 2 });
        assert_eq!(log.after(2, 10), Next::Nothing);
        log.append(2, committed(2, &[1, 1]));
        assert_eq!(numbers(log.after(1, 10)), [2, 3, 4]);
        assert_eq!(numbers(log.after(1, 2)), [2, 3]);
        log.append(6, committed(6, &[1])); // another process wrote 5 and 6
        assert_eq!(numbers(log.after(3, 10)), [4]);
        assert_eq!(log.after(4, 10), Next::Read);
        log.learn(&read(4, 7, 10));
        assert_eq!(numbers(log.after(3, 10)), [4, 5, 6, 7]);
        assert_eq!(log.after(7, 10), Next::Nothing);
    }

    #[test]
    fn who_is_behind_the_first_number_is_told_to_start_anew() {
        let mut log = Log::default();
        log.learn(&read(5, 9, 10));
        log.learn_ends(Ends { first: 6, last: 9 });
        assert_eq!(numbers(log.after(5, 10)), [6, 7, 8, 9]);
        assert_eq!(log.after(4, 10), Next::Reset);
    }

    #[test]
    fn memory_has_its_limits_in_events_and_in_bytes() {
        let mut log = Log::default();
        log.learn(&read(0, 0, 10));
        log.append(0, committed(0, &[1; RECENT_MAX + 5]));
        assert_eq!(log.after(4, 10), Next::Read, "the first ones are in the database alone");
        assert_eq!(numbers(log.after(5, 2)), [6, 7]);
        let last = log.ends().last;
        log.append(last, committed(last, &[RECENT_BYTES_MAX - 100, 1000]));
        assert_eq!(log.after(last, 10), Next::Read);
        assert_eq!(numbers(log.after(last + 1, 10)), [last + 2]);

        let large = (1..=3).map(|number| Arc::new(numbered(number, PAGE_BYTES_MAX / 2))).collect();
        let page = Page::new(0, 10, large);
        assert_eq!((page.to, page.events.len()), (1, 1), "the next page brings the rest");
    }

    proptest! {
        /// Two processes write and one follows: whatever it learns in whatever order, it gets each event once.
        #[test]
        fn a_follower_gets_every_number_once(
            steps in prop::collection::vec((any::<bool>(), 1usize..4, 1i64..6, 1usize..5), 1..60),
        ) {
            let (mut log, mut last, mut seen) = (Log::default(), 0, 0);
            for (is_ours, count, page_max, looks) in steps {
                if is_ours {
                    log.append(last, committed(last, &vec![1; count]));
                }
                last += count as i64;
                for _ in 0..looks {
                    match log.after(seen, 3) {
                        Next::Page(page) => {
                            for event in &page.events {
                                prop_assert_eq!(event.number, seen + 1);
                                seen = event.number;
                            }
                            prop_assert_eq!(page.to, seen);
                        }
                        Next::Read => {
                            log.learn(&read(seen, last, page_max));
                            log.learn_ends(Ends { first: 1, last });
                        }
                        Next::Nothing => prop_assert_eq!(log.ends().last, seen),
                        Next::Reset => prop_assert!(false),
                    }
                }
            }
        }
    }
}
