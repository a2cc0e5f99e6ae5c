//! Two changes of one text, put together where they do not overlap.

use similar::TextMerge;

/// Bytes of each of the texts that are merged, and their lines: a merge takes more time than the product of what differs.
const MERGED_MAX: usize = 1 << 20;
const MERGED_LINES_MAX: usize = 10_000;

/// What two changes of `before` make of it together. `None` if they overlap, or if one of the three is no text in UTF-8 or
/// too long.
pub fn merge(before: &[u8], ours: &[u8], theirs: &[u8]) -> Option<String> {
    let merge = TextMerge::from_lines(text(before)?, text(ours)?, text(theirs)?);
    (!merge.is_conflicted()).then(|| merge.to_string())
}

/// Text that is not too much to be compared.
pub(crate) fn text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MERGED_MAX)?;
    (!text.contains('\0') && text.lines().take(MERGED_LINES_MAX + 1).count() <= MERGED_LINES_MAX).then_some(text)
}
