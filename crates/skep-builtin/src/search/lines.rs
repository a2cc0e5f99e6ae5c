//! The matching lines of one file: found, rated, cut to a size that can be shown.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    ops::Range,
};

use grep_matcher::Matcher as _;
use grep_regex::RegexMatcher;
use grep_searcher::{Searcher, Sink, SinkContext, SinkFinish, SinkMatch};

use super::rank;

/// Bytes of a line that are shown.
const SNIPPET_BYTES_MAX: usize = 300;
/// Bytes that are shown before the match, if the line has to be cut.
const LEAD_BYTES: usize = 80;
/// Matches in one line among which the best is chosen.
const MATCHES_RATED_MAX: usize = 8;

/// A line that matches.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) points: i32,
    pub(super) number: u64,
    /// Character at which the match begins, from 1.
    pub(super) column: u64,
    pub(super) snippet: String,
    /// Characters of the snippet that match.
    pub(super) highlight: [usize; 2],
    pub(super) before: Vec<String>,
    pub(super) after: Vec<String>,
}

impl Line {
    /// The better line has the smaller rank.
    fn rank(&self) -> (Reverse<i32>, u64) {
        (Reverse(self.points), self.number)
    }
}

impl PartialEq for Line {
    fn eq(&self, other: &Line) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Line {}

impl PartialOrd for Line {
    fn partial_cmp(&self, other: &Line) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Line {
    fn cmp(&self, other: &Line) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// Takes what the searcher finds in one file and keeps the best of it.
pub(super) struct Lines<'a> {
    matcher: &'a RegexMatcher,
    query: Option<&'a str>,
    /// Lines to keep.
    limit: usize,
    /// Lines to keep before and after each.
    around: usize,
    /// Matching lines so far.
    pub(super) count: u64,
    /// A NUL byte was met: this is no text, and what was found in it counts for nothing.
    pub(super) binary: bool,
    /// The best so far, the worst of them on top.
    best: BinaryHeap<Line>,
    /// The last lines that were seen.
    recent: VecDeque<(u64, String)>,
    /// Lines that still wait for the lines after them.
    open: VecDeque<Line>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(matcher: &'a RegexMatcher, query: Option<&'a str>, limit: usize, around: usize) -> Lines<'a> {
        let (best, recent, open) = (BinaryHeap::new(), VecDeque::new(), VecDeque::new());
        Lines { matcher, query, limit, around, count: 0, binary: false, best, recent, open }
    }

    /// The best lines, best first.
    pub(super) fn into_best(mut self) -> Vec<Line> {
        self.close(u64::MAX);
        self.best.into_sorted_vec()
    }

    /// The points of a line for its best match, and where that is.
    fn rated(&self, line: &[u8]) -> (i32, Range<usize>) {
        let mut best: Option<(i32, Range<usize>)> = None;
        let mut seen = 0;
        let rate = |found: grep_matcher::Match| {
            let found = found.start()..found.end();
            let points = rank::of_line(line, found.clone(), self.query);
            if best.as_ref().is_none_or(|(most, _)| points > *most) {
                best = Some((points, found));
            }
            seen += 1;
            seen < MATCHES_RATED_MAX
        };
        // The matcher's error type has no values.
        let _ = self.matcher.find_iter(line, rate);
        best.unwrap_or_default()
    }

    fn keep(&mut self, line: Line) {
        if self.best.len() < self.limit {
            self.best.push(line);
        } else if let Some(mut worst) = self.best.peek_mut()
            && line < *worst
        {
            *worst = line;
        }
    }

    /// Whether a line of so many points, later in the file than all so far, would be kept.
    fn wanted(&self, points: i32) -> bool {
        self.best.len() < self.limit || self.best.peek().is_some_and(|worst| points > worst.points)
    }

    /// Show a line to those that want lines before or after them.
    fn pass(&mut self, number: u64, line: &[u8]) {
        if self.around == 0 {
            return;
        }
        let text = cut(line.trim_ascii_end(), 0).0;
        self.open.iter_mut().filter(|open| number > open.number).for_each(|open| open.after.push(text.clone()));
        self.close(number);
        if self.recent.len() == self.around {
            self.recent.pop_front();
        }
        self.recent.push_back((number, text));
    }

    /// Keep the lines that need nothing after line `number`.
    fn close(&mut self, number: u64) {
        while self.open.front().is_some_and(|line| line.number.saturating_add(self.around as u64) <= number) {
            if let Some(line) = self.open.pop_front() {
                self.keep(line);
            }
        }
    }

    fn before(&self, number: u64) -> Vec<String> {
        let first = number.saturating_sub(self.around as u64);
        self.recent.iter().filter(|(number, _)| *number >= first).map(|(_, text)| text.clone()).collect()
    }
}

impl Sink for Lines<'_> {
    type Error = io::Error;

    fn matched(&mut self, _searcher: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        self.count += 1;
        let number = found.line_number().unwrap_or_default();
        // All but the line feed: white space at the end may be what was looked for.
        let line = found.bytes().strip_suffix(b"\n").unwrap_or(found.bytes());
        let (points, place) = self.rated(line);
        if self.wanted(points) {
            let column = String::from_utf8_lossy(&line[..place.start]).chars().count() as u64 + 1;
            let (snippet, highlight) = snippet(line, place);
            let (before, after) = (self.before(number), Vec::new());
            let line = Line { points, number, column, snippet, highlight, before, after };
            match self.around {
                0 => self.keep(line),
                _ => self.open.push_back(line),
            }
        }
        self.pass(number, line);
        Ok(true)
    }

    fn context(&mut self, _searcher: &Searcher, context: &SinkContext<'_>) -> io::Result<bool> {
        self.pass(context.line_number().unwrap_or_default(), context.bytes());
        Ok(true)
    }

    fn finish(&mut self, _searcher: &Searcher, finish: &SinkFinish) -> io::Result<()> {
        self.binary = finish.binary_byte_offset().is_some();
        Ok(())
    }
}

/// The part of a line to show, without its indentation, and the characters of it that match.
fn snippet(line: &[u8], found: Range<usize>) -> (String, [usize; 2]) {
    let line = &line[..line.trim_ascii_end().len().max(found.end)];
    let indentation = line.len() - line.trim_ascii_start().len();
    let from =
        match found.start.saturating_sub(indentation) > LEAD_BYTES && line.len() - indentation > SNIPPET_BYTES_MAX {
            true => boundary(line, found.start - LEAD_BYTES),
            false => indentation.min(found.start),
        };
    let lead = if from > indentation { "…" } else { "" };
    let (rest, end) = cut(line, from);
    let chars = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().count();
    let start = chars(lead.as_bytes()) + chars(&line[from..found.start.min(end)]);
    let highlight = [start, start + chars(&line[found.start.min(end)..found.end.min(end)])];
    (format!("{lead}{rest}"), highlight)
}

/// As much of a line from `from` as is shown, and where that ends.
fn cut(line: &[u8], from: usize) -> (String, usize) {
    if line.len() - from <= SNIPPET_BYTES_MAX {
        return (String::from_utf8_lossy(&line[from..]).into_owned(), line.len());
    }
    let end = boundary(line, from + SNIPPET_BYTES_MAX);
    (format!("{}…", String::from_utf8_lossy(&line[from..end])), end)
}

/// The first place at or after `at` where a UTF-8 character may begin.
fn boundary(line: &[u8], at: usize) -> usize {
    (at..line.len().min(at + 4)).find(|&at| line[at] & 0xC0 != 0x80).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use grep_regex::RegexMatcherBuilder;
    use grep_searcher::SearcherBuilder;

    use super::*;

    fn lines(text: &str, pattern: &str, limit: usize, around: usize) -> Vec<Line> {
        let matcher = RegexMatcherBuilder::new().build(pattern).unwrap();
        let mut lines = Lines::new(&matcher, Some(pattern), limit, around);
        SearcherBuilder::new()
            .before_context(around)
            .after_context(around)
            .build()
            .search_slice(&matcher, text.as_bytes(), &mut lines)
            .unwrap();
        lines.into_best()
    }

    #[test]
    fn each_match_has_the_lines_around_it_also_where_these_match_too() {
        let found = lines("one\nhit 1\nhit 2\ntwo\nthree\nfour\nhit 3\n", "hit", 9, 2);
        let around: Vec<_> =
            found.iter().map(|line| (line.number, line.before.join(","), line.after.join(","))).collect();
        let expected = [(2, "one", "hit 2,two"), (3, "one,hit 1", "two,three"), (7, "three,four", "")];
        assert_eq!(around, expected.map(|(number, before, after)| (number, before.to_owned(), after.to_owned())));
    }

    #[test]
    fn the_best_lines_are_kept_and_ties_go_to_the_first() {
        for around in [0, 1] {
            let found = lines("xhit\nhit a\nhit b\nfn hit()\nhit c\n", "hit", 3, around);
            assert_eq!(found.iter().map(|line| line.number).collect::<Vec<_>>(), [4, 2, 3], "around {around}");
        }
    }

    #[test]
    fn a_snippet_is_short_and_its_highlight_is_the_match() {
        let long = format!("{}needle{}", "ä".repeat(1000), "ö".repeat(1000));
        for text in [
            "\t\tlet näme = needle;\r\n",
            "needle",
            &long,
            &format!("{}needle", "x".repeat(700)),
            &"needle".repeat(200),
        ] {
            let line = lines(text, "needle", 1, 0).remove(0);
            let [start, end] = line.highlight;
            let marked: String = line.snippet.chars().skip(start).take(end - start).collect();
            assert_eq!(marked, "needle", "{line:?}");
            assert!(line.snippet.len() <= SNIPPET_BYTES_MAX + LEAD_BYTES, "{} bytes", line.snippet.len());
            assert!(!line.snippet.contains('\u{FFFD}'), "{}", line.snippet);
            assert_eq!(text.chars().skip(line.column as usize - 1).take(6).collect::<String>(), "needle");
        }
        let line = lines("\t\tlet name = needle;\r\n", "needle", 1, 0).remove(0);
        assert_eq!((line.snippet.as_str(), line.highlight, line.column), ("let name = needle;", [11, 17], 14));
    }

    #[test]
    fn white_space_at_the_end_of_a_line_can_be_found() {
        for (text, pattern, snippet, highlight) in [
            ("ab  \r\ncd\r\n", r"[ \t]+\r?$", "ab  \r", [2, 5]),
            ("\t\n", r"\t", "\t", [0, 1]),
            ("ab \n", "ab", "ab", [0, 2]),
        ] {
            let found = lines(text, pattern, 9, 0);
            let shown: Vec<_> = found.iter().map(|line| (line.snippet.as_str(), line.highlight)).collect();
            assert_eq!(shown, [(snippet, highlight)], "{pattern}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_shown_as_well_as_can_be() {
        let matcher = RegexMatcherBuilder::new().build("needle").unwrap();
        let mut lines = Lines::new(&matcher, None, 1, 0);
        SearcherBuilder::new().build().search_slice(&matcher, b"\xc3\xff needle \xff", &mut lines).unwrap();
        assert_eq!(lines.into_best()[0].snippet, "\u{FFFD}\u{FFFD} needle \u{FFFD}");
    }
}
