//! The change from one text to another, as people and programs read it.

use std::time::Duration;

use similar::TextDiff;

/// Bytes of a diff that is given back.
pub const DIFF_MAX: usize = 64 << 10;
/// Time to look for the smallest diff; after it a larger one will do.
const DIFF_TIME_MAX: Duration = Duration::from_secs(1);

/// The change from one text to another as a unified diff, and whether it was cut.
pub fn unified(old: &str, new: &str, from: &str, to: &str) -> (String, bool) {
    let diff = TextDiff::configure().timeout(DIFF_TIME_MAX).diff_lines(old, new);
    let mut diff = diff.unified_diff().header(from, to).to_string();
    let is_cut = diff.len() > DIFF_MAX;
    diff.truncate(diff.floor_char_boundary(DIFF_MAX));
    (diff, is_cut)
}
