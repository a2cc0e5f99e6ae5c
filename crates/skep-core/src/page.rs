//! Pages of rows that a namespace numbers itself, without gaps: steps and messages.
//!
//! A page looks at a bounded stretch of numbers, whatever its filter. So it costs the same among a thousand rows and
//! among a million, and no filter needs an index, which every write would pay for. A page whose filter fits little may
//! be short, or empty, and still have a next one.

/// Numbers that one page looks at.
pub const LOOKED_AT_MAX: usize = 20_000;
const STRETCH: i64 = LOOKED_AT_MAX as i64 - 1;
/// Bytes of the values in one page; one row is always in it.
pub(crate) const BYTES_MAX: usize = 4 << 20;

/// Where a page begins, and in which direction it looks. Its rows are in ascending order in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The rows after a number; 0 for the oldest that are kept.
    After(i64),
    /// The rows before a number; [`i64::MAX`] for the newest.
    Before(i64),
}

/// Some of the rows, in ascending order.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows that fit the filter.
    pub rows: Vec<T>,
    /// Where the next page in the same direction begins.
    pub next: Start,
    /// Whether there is anything to look at in it already.
    pub has_more: bool,
    /// The first number that is kept, if rows after the one where the page was to begin are not kept any more.
    pub first: Option<i64>,
}

/// The numbers that are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// The numbers that a page looks at: from `low` up to and including `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl Default for Kept {
    /// Nothing was numbered yet.
    fn default() -> Kept {
        Kept { first: 1, last: 0 }
    }
}

impl Start {
    /// What a page that begins here looks at.
    pub(crate) fn stretch(self, kept: Kept) -> Stretch {
        match self {
            Start::After(number) => {
                let low = number.saturating_add(1).max(kept.first);
                Stretch { low, high: low.saturating_add(STRETCH).min(kept.last) }
            }
            Start::Before(number) => {
                let high = number.saturating_sub(1).min(kept.last);
                Stretch { low: high.saturating_sub(STRETCH).max(kept.first), high }
            }
        }
    }

    /// Whether rows that were to be read from here on are not kept any more. Whoever begins at 0 wants those that are kept.
    fn is_past(self, kept: Kept) -> bool {
        matches!(self, Start::After(number) if number > 0 && number.saturating_add(1) < kept.first)
    }

    /// In which order to read it.
    pub(crate) fn order(self) -> &'static str {
        match self {
            Start::After(_) => "order by number",
            Start::Before(_) => "order by number desc",
        }
    }

    /// The page of the rows that were found, each with its number and its bytes, in the order in which they were read.
    /// With `limit` of them, there may be others in the same stretch.
    pub(crate) fn page<T>(
        self,
        kept: Kept,
        mut found: Vec<T>,
        limit: usize,
        of: impl Fn(&T) -> (i64, usize),
    ) -> Page<T> {
        let mut bytes = 0;
        let mut fits = |row: &T| {
            bytes += of(row).1;
            bytes <= BYTES_MAX
        };
        let count = found.iter().take_while(|row| fits(row)).count().max(1).min(found.len());
        let is_cut = count < found.len() || found.len() >= limit;
        found.truncate(count);
        let last_read = found.last().map(|row| of(row).0).filter(|_| is_cut);
        let stretch = self.stretch(kept);
        match self {
            Start::After(_) => {
                let to = last_read.unwrap_or(stretch.high);
                let first = self.is_past(kept).then_some(kept.first);
                Page { rows: found, next: Start::After(to), has_more: to < kept.last, first }
            }
            Start::Before(_) => {
                let from = last_read.unwrap_or(stretch.low);
                found.reverse();
                Page { rows: found, next: Start::Before(from), has_more: from > kept.first, first: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All rows of a log with these numbers, of which every `nth` fits, page by page.
    fn all(mut start: Start, kept: Kept, nth: i64, limit: usize) -> (Vec<i64>, usize) {
        let (mut seen, mut pages) = (Vec::new(), 0);
        loop {
            let Stretch { low, high } = start.stretch(kept);
            assert!(high - low <= STRETCH, "{low} to {high}");
            let mut fitting: Vec<i64> = (low..=high).filter(|number| number % nth == 0).collect();
            if matches!(start, Start::Before(_)) {
                fitting.reverse();
            }
            fitting.truncate(limit);
            let page = start.page(kept, fitting, limit, |number| (*number, 1));
            assert!(page.rows.is_sorted());
            match start {
                Start::After(_) => seen.extend(page.rows),
                Start::Before(_) => seen.splice(..0, page.rows).for_each(drop),
            }
            (start, pages) = (page.next, pages + 1);
            if !page.has_more {
                return (seen, pages);
            }
        }
    }

    #[test]
    fn pages_in_either_direction_have_every_row_once() {
        let few = [(1, 7), (7, 3), (1, 1000), (1_000_000, 10)]
            .map(|(nth, limit)| (Kept { first: 31, last: 130 }, nth, limit));
        let many =
            [(1, 1000), (7, 500), (25_000, 10)].map(|(nth, limit)| (Kept { first: 1, last: 50_000 }, nth, limit));
        for (kept, nth, limit) in few.into_iter().chain(many).chain([(Kept::default(), 1, 1)]) {
            let expected: Vec<i64> = (kept.first..=kept.last).filter(|number| number % nth == 0).collect();
            for start in [Start::After(0), Start::Before(i64::MAX)] {
                let (seen, pages) = all(start, kept, nth, limit);
                assert_eq!(seen, expected, "{kept:?}, {nth}, {limit}, {start:?}");
                assert!(pages <= expected.len() / limit + 4, "{pages} pages");
            }
        }
    }

    #[test]
    fn a_page_has_at_most_so_many_bytes_but_always_a_row() {
        let kept = Kept { first: 1, last: 3 };
        let large = |number: &i64| (*number, if *number == 1 { 2 * BYTES_MAX } else { BYTES_MAX });
        let page = Start::After(0).page(kept, vec![1, 2, 3], 10, large);
        assert_eq!(page, Page { rows: vec![1], next: Start::After(1), has_more: true, first: None });
        let page = Start::Before(i64::MAX).page(kept, vec![3, 2, 1], 10, large);
        assert_eq!(page, Page { rows: vec![3], next: Start::Before(3), has_more: true, first: None });
    }

    #[test]
    fn a_cursor_beyond_what_is_kept_is_led_back() {
        let kept = Kept { first: 11, last: 20 };
        let none = |start: Start| start.page(kept, Vec::<i64>::new(), 10, |number| (*number, 1));
        assert_eq!(Start::After(0).stretch(kept), Stretch { low: 11, high: 20 });
        assert_eq!(none(Start::After(99)), Page { rows: vec![], next: Start::After(20), has_more: false, first: None });
        assert_eq!(
            none(Start::Before(5)),
            Page { rows: vec![], next: Start::Before(11), has_more: false, first: None }
        );
    }
}
