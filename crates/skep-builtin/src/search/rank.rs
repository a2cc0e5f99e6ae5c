//! What makes one match better than another.
//!
//! Points, added up; no learning, no index. A caller who looks for a name most often wants the place that defines it,
//! then whole words, then files whose name says the same, near the top of the tree. The numbers only order these
//! wishes against each other; nothing else depends on them.

use std::{ops::Range, path::Path};

/// The match is a whole word.
const WHOLE_WORD: i32 = 40;
/// The line defines what was looked for.
const DEFINITION: i32 = 30;
/// The file is called like the query.
const NAME_EQUAL: i32 = 35;
/// The query occurs in the file's name.
const NAME_MATCH: i32 = 20;
/// The match is spelt like the query, also in case.
const SAME_CASE: i32 = 5;
/// Each directory on the way to the file.
const PER_DIRECTORY: i32 = -2;
/// Directories that count.
const DIRECTORIES_MAX: usize = 10;
/// Machines write these files and machines read them.
const FOR_MACHINES: i32 = -30;
/// Longer lines are data or minified code.
const LINE_BYTES_LONG: usize = 500;
/// For a line longer than that.
const LONG_LINE: i32 = -20;
/// Points that a file gets at most for matching often.
const OFTEN_MAX: i32 = 6;
/// Points that a line loses at most because better ones of its file stand before it.
const REPEATED_MAX: usize = 20;

/// Words that are followed by the name which they define, in the languages one meets.
const DEFINING: [&str; 30] = [
    "fn",
    "def",
    "func",
    "function",
    "class",
    "struct",
    "enum",
    "union",
    "trait",
    "interface",
    "type",
    "typedef",
    "mod",
    "module",
    "namespace",
    "package",
    "macro_rules!",
    "#define",
    "const",
    "static",
    "let",
    "var",
    "val",
    "record",
    "object",
    "protocol",
    "procedure",
    "table",
    "message",
    "service",
];
/// Words that may stand before those.
const MODIFIERS: [&str; 22] = [
    "pub",
    "pub(crate)",
    "pub(super)",
    "export",
    "default",
    "async",
    "static",
    "public",
    "private",
    "protected",
    "internal",
    "abstract",
    "final",
    "const",
    "unsafe",
    "extern",
    "inline",
    "virtual",
    "override",
    "declare",
    "create",
    "mut",
];

/// Points of one match in a line. `query` is the text that was looked for; `None` for a pattern.
pub(super) fn of_line(line: &[u8], found: Range<usize>, query: Option<&str>) -> i32 {
    let mut points = 0;
    let whole = !touches_word(&line[..found.start], &line[found.clone()], true)
        && !touches_word(&line[found.end..], &line[found.clone()], false);
    if whole {
        points += WHOLE_WORD;
        if defines(&line[..found.start]) {
            points += DEFINITION;
        }
    }
    if query.is_some_and(|query| query.as_bytes() == &line[found]) {
        points += SAME_CASE;
    }
    if line.len() > LINE_BYTES_LONG {
        points += LONG_LINE;
    }
    points
}

/// Points of a file for its path, which is relative to where the search began.
pub(super) fn of_path(path: &Path, name_matches: bool, query: Option<&str>) -> i32 {
    let directories = path.components().count().saturating_sub(1).min(DIRECTORIES_MAX);
    let mut points = PER_DIRECTORY * directories as i32;
    let stem = path.file_stem().unwrap_or_default();
    if query.is_some_and(|query| stem.eq_ignore_ascii_case(query)) {
        points += NAME_EQUAL;
    } else if name_matches {
        points += NAME_MATCH;
    }
    if is_for_machines(path) {
        points += FOR_MACHINES;
    }
    points
}

/// Points of the line that is at `place` (from 0) among the lines of its file, of which `count` match.
pub(super) fn of_place(place: usize, count: u64) -> i32 {
    let often = (count.max(1).ilog2() as i32).min(OFTEN_MAX);
    often - place.min(REPEATED_MAX) as i32
}

/// Whether a word that the match is a part of goes on in `beside`, which ends (or begins) at the match.
fn touches_word(beside: &[u8], found: &[u8], before: bool) -> bool {
    let (outer, inner) = match before {
        true => (beside.last(), found.first()),
        false => (beside.first(), found.last()),
    };
    outer.is_some_and(is_word) && inner.is_some_and(is_word)
}

/// Bytes of letters beyond ASCII count as letters; telling them from other characters is not worth the time.
fn is_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80
}

/// Whether what stands before the match on its line defines what follows.
fn defines(before: &[u8]) -> bool {
    let Ok(before) = std::str::from_utf8(before) else { return false };
    let mut words = before.split_whitespace().rev();
    before.ends_with(char::is_whitespace)
        && words.next().is_some_and(|word| DEFINING.contains(&word) || word == "mut")
        && words.all(|word| MODIFIERS.contains(&word) || DEFINING.contains(&word))
}

fn is_for_machines(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let endings = [".lock", ".min.js", ".min.css", ".map", ".svg", "-lock.json", "-lock.yaml", ".sum"];
    let directories = ["vendor", "third_party", "node_modules", "dist"];
    endings.iter().any(|ending| name.ends_with(ending))
        || path.iter().any(|part| directories.iter().any(|directory| part == *directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(line: &str, query: &str) -> i32 {
        let start = line.to_lowercase().find(&query.to_lowercase()).unwrap();
        of_line(line.as_bytes(), start..start + query.len(), Some(query))
    }

    #[test]
    fn the_definition_of_a_name_comes_before_its_use_and_its_use_before_a_part_of_a_word() {
        for definition in
            ["fn parse(", "    pub(crate) async fn parse()", "class parse:", "let mut parse = 1", "#define parse"]
        {
            assert!(points(definition, "parse") > points("x = parse(y)", "parse"), "{definition}");
        }
        for used in ["return the function parse", "parsed fn(parse)", "import parse"] {
            assert_eq!(
                points(used, "parse"),
                points("x = parse(y)", "parse") - i32::from(used.starts_with("parsed")) * WHOLE_WORD
            );
        }
        assert!(points("x = parse(y)", "parse") > points("unparsed", "parse"));
        assert!(points("Parse", "Parse") > points("parse", "Parse"));
    }

    #[test]
    fn punctuation_has_no_word_to_be_part_of() {
        assert_eq!(points("a->b", "->"), WHOLE_WORD + SAME_CASE);
    }

    #[test]
    fn a_file_near_the_top_that_is_named_like_the_query_comes_first() {
        let of = |path: &str| of_path(Path::new(path), path.contains("plan"), Some("plan"));
        assert!(of("plan.rs") > of("plans.rs"));
        assert!(of("plans.rs") > of("run.rs"));
        assert!(of("run.rs") > of("a/b/run.rs"));
        assert!(of("a/b/run.rs") > of("Cargo.lock"));
        assert!(of("run.js") > of("vendor/run.js"));
    }
}
