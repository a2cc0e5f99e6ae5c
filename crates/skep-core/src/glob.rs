//! What a claim is on: a path, or a glob that stands for many.
//!
//! | in a glob | stands for |
//! | --- | --- |
//! | `?` | one character, but no `/` |
//! | `*` | any number of characters, but no `/` |
//! | `**` between slashes, or at an end | any number of names with the slashes between them |
//! | `[a-z]`, `[!a-z]` | one character of these, or one that is not of these, but no `/` |
//! | `{a,b}` | either of these, which may be globs themselves |
//! | `\` | the next character as it is |
//!
//! A glob also stands for the path that it is letter by letter, so a claim on `pages/[id].tsx` is on the file of that
//! name, whether or not its owner thought of the brackets.
//!
//! Whether two patterns have a path in common is decided exactly: each becomes lists of tokens, two lists are walked side
//! by side, and each pair of places in them is looked at once. Upper and lower case are one ([`crate::path`]), because
//! two paths that differ in nothing else cannot exist beside each other.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use crate::path::{FilePath, InvalidPath, check_names, fold, normalised};

/// Characters of a glob, with each of its alternatives counted as if it were written out. It bounds the time that a
/// comparison of two patterns takes.
pub const GLOB_TOKENS_MAX: usize = 256;
/// Alternatives of a glob.
const ALTERNATIVES_MAX: usize = 32;
/// What makes a glob of a text.
const SPECIAL: [char; 5] = ['*', '?', '[', '{', '\\'];
/// How deep braces may be nested.
const BRACES_DEPTH_MAX: usize = 4;

/// A path, or a glob.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    /// The text as paths are compared.
    folded: Arc<str>,
    /// What a glob stands for; `None` for a path.
    alternatives: Option<Arc<[Vec<Token>]>>,
}

/// Why a text is neither a path nor a glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// It cannot be a path.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// It cannot be a glob.
    #[error("{pattern:?} is no glob: {why}")]
    Glob {
        /// The text.
        pattern: String,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
}

/// One step through a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// One character of these.
    One(Set),
    /// Any number of characters other than `/`.
    Star,
    /// Any number of names, each with a `/` behind it.
    Names,
}

/// Characters, as ranges in ascending order that neither touch nor overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set(Vec<(u32, u32)>);

impl Pattern {
    /// The pattern that a caller has given.
    pub fn new(text: &str) -> Result<Pattern, InvalidPattern> {
        let text = normalised(text)?;
        let folded: Arc<str> = fold(&text).into();
        if !text.contains(SPECIAL) {
            return Ok(Pattern { text: FilePath::new(&text)?.as_str().into(), folded, alternatives: None });
        }
        let glob_error = |why| InvalidPattern::Glob { pattern: text.clone(), why };
        let mut alternatives = Vec::new();
        for alternative in expand(&folded, 0).map_err(glob_error)? {
            check_names(&alternative)?;
            alternatives.push(tokens(&alternative).map_err(glob_error)?);
        }
        if text.contains(['[', '{']) {
            alternatives.push(literal(&folded));
        }
        if alternatives.iter().map(Vec::len).sum::<usize>() > GLOB_TOKENS_MAX {
            return Err(glob_error("it stands for too much; make it shorter, or claim several"));
        }
        Ok(Pattern { text: text.into(), folded, alternatives: Some(alternatives.into()) })
    }

    /// The pattern that is exactly this path.
    pub fn of(path: &FilePath) -> Pattern {
        Pattern { text: path.as_str().into(), folded: path.twin().into(), alternatives: None }
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is a glob.
    pub fn is_glob(&self) -> bool {
        self.alternatives.is_some()
    }

    /// The text as paths are compared: that of a path is its [`FilePath::twin`].
    pub(crate) fn folded(&self) -> &str {
        &self.folded
    }

    /// Whether it stands for this path.
    pub fn covers(&self, path: &FilePath) -> bool {
        self.overlaps(&Pattern::of(path))
    }

    /// Whether there is a path for which both stand.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        match (&self.alternatives, &other.alternatives) {
            (None, None) => self.folded == other.folded,
            (Some(globs), None) => any_meets(globs, &[literal(&other.folded)]),
            (None, Some(globs)) => any_meets(globs, &[literal(&self.folded)]),
            (Some(globs), Some(others)) => any_meets(globs, others),
        }
    }
}

/// Two patterns are one if they are written alike.
impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Every character but `/`.
static ALL: LazyLock<Set> =
    LazyLock::new(|| Set(vec![(0, '/' as u32 - 1), ('/' as u32 + 1, 0xd7ff), (0xe000, char::MAX as u32)]));
static SLASH: LazyLock<Set> = LazyLock::new(|| Set::of('/'));

impl Set {
    fn of(character: char) -> Set {
        Set(vec![(character.into(), character.into())])
    }

    /// These characters, or every other one but `/`.
    fn of_class(mut ranges: Vec<(u32, u32)>, is_negated: bool) -> Set {
        ranges.sort_unstable();
        if !is_negated {
            return Set(ranges).common(&ALL);
        }
        let (mut rest, mut from) = (Vec::new(), 0);
        for (first, last) in ranges {
            if from < first {
                rest.push((from, first - 1));
            }
            from = from.max(last + 1);
        }
        rest.push((from, char::MAX as u32 + 1));
        Set(rest).common(&ALL)
    }

    /// What is in both. The ranges of the first may overlap.
    fn common(&self, other: &Set) -> Set {
        let both = |(first, last): &(u32, u32)| {
            let (first, last) = (*first, *last);
            other.0.iter().map(move |(from, to)| (first.max(*from), last.min(*to))).filter(|(from, to)| from <= to)
        };
        Set(self.0.iter().flat_map(both).collect())
    }

    fn meets(&self, other: &Set) -> bool {
        let has = |(first, last): &(u32, u32)| other.0.iter().any(|(from, to)| first <= to && from <= last);
        self.0.iter().any(has)
    }
}

/// The alternatives of a text with braces.
fn expand(text: &str, depth: usize) -> Result<Vec<String>, &'static str> {
    if depth > BRACES_DEPTH_MAX {
        return Err("its braces are nested too deep");
    }
    let Some(open) = find(text, '{') else {
        return match find(text, '}') {
            Some(_) => Err("a `}` has no `{`; write `\\}` for the character"),
            None => Ok(vec![text.to_owned()]),
        };
    };
    let (before, inside) = (&text[..open], &text[open + 1..]);
    if find(before, '}').is_some() {
        return Err("a `}` has no `{`; write `\\}` for the character");
    }
    let (parts, close) = alternatives_in(inside).ok_or("a `{` is not closed; write `\\{` for the character")?;
    let rests = expand(&inside[close + 1..], depth)?;
    let mut all = Vec::new();
    for part in parts {
        for middle in expand(part, depth + 1)? {
            for rest in &rests {
                if all.len() == ALTERNATIVES_MAX {
                    return Err("it has too many alternatives in braces; claim several globs instead");
                }
                all.push(format!("{before}{middle}{rest}"));
            }
        }
    }
    Ok(all)
}

/// Where a character first stands for more than itself.
fn find(text: &str, wanted: char) -> Option<usize> {
    plain(text).find(|(_, character)| *character == wanted).map(|(at, _)| at)
}

/// The characters that are neither escaped nor in a class; classes end where [`class_of`] ends them.
fn plain(text: &str) -> impl Iterator<Item = (usize, char)> {
    // Of the class that is open: whether it is negated, and how many characters it has so far.
    let mut class: Option<(bool, usize)> = None;
    let mut is_escaped = false;
    text.char_indices().filter(move |(_, character)| {
        let was_escaped = std::mem::take(&mut is_escaped);
        is_escaped = !was_escaped && *character == '\\';
        match (&mut class, character) {
            _ if is_escaped => false,
            (None, '[') if !was_escaped => {
                class = Some((false, 0));
                false
            }
            (None, _) => !was_escaped,
            (Some((_, 1..)), ']') if !was_escaped => {
                class = None;
                false
            }
            (Some((is_negated @ false, 0)), '!' | '^') if !was_escaped => {
                *is_negated = true;
                false
            }
            (Some((_, seen)), _) => {
                *seen += 1;
                false
            }
        }
    })
}

/// The parts between `{` and its `}`, and where that is.
fn alternatives_in(text: &str) -> Option<(Vec<&str>, usize)> {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0);
    for (at, character) in plain(text) {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                parts.push(&text[from..at]);
                return Some((parts, at));
            }
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    None
}

/// A text that stands for itself.
fn literal(text: &str) -> Vec<Token> {
    text.chars().map(|character| Token::One(Set::of(character))).collect()
}

/// A glob without braces.
fn tokens(glob: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let count = glob.split('/').count();
    for (n, name) in glob.split('/').enumerate() {
        let is_last = n + 1 == count;
        if name == "**" {
            tokens.push(Token::Names);
            if is_last {
                tokens.extend([Token::One(ALL.clone()), Token::Star]);
            }
            continue;
        }
        name_tokens(name, &mut tokens)?;
        if !is_last {
            tokens.push(Token::One(Set::of('/')));
        }
    }
    Ok(tokens)
}

fn name_tokens(name: &str, tokens: &mut Vec<Token>) -> Result<(), &'static str> {
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        tokens.push(match character {
            '?' => Token::One(ALL.clone()),
            '*' if tokens.last() == Some(&Token::Star) => {
                return Err("`**` stands between slashes or at an end; write `*` within a name");
            }
            '*' => Token::Star,
            '[' => Token::One(class_of(&mut characters)?),
            '\\' => match characters.next() {
                Some(next) if !next.is_alphanumeric() => Token::One(Set::of(next)),
                _ => return Err("a `\\` stands before a character such as `*`; separate names by `/`"),
            },
            other => Token::One(Set::of(other)),
        });
    }
    Ok(())
}

/// The class whose `[` was read.
fn class_of(characters: &mut std::str::Chars<'_>) -> Result<Set, &'static str> {
    const OPEN: &str = "a `[` is not closed within its name; write `\\[` for the character";
    let mut next = || match characters.next().ok_or(OPEN)? {
        '\\' => Ok::<_, &'static str>((characters.next().ok_or(OPEN)?, true)),
        character => Ok((character, false)),
    };
    let mut current = next()?;
    let is_negated = matches!(current, ('!' | '^', false));
    if is_negated {
        current = next()?;
    }
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    loop {
        let (first, is_escaped) = current;
        if first == ']' && !is_escaped && !ranges.is_empty() {
            return Ok(Set::of_class(ranges, is_negated));
        }
        current = next()?;
        if current != ('-', false) {
            ranges.push((first.into(), first.into()));
            continue;
        }
        match next()? {
            // A `-` at the end is one.
            (']', false) => {
                ranges.extend([(first.into(), first.into()), ('-'.into(), '-'.into())]);
                return Ok(Set::of_class(ranges, is_negated));
            }
            (last, _) if first <= last => ranges.push((first.into(), last.into())),
            _ => return Err("a range in `[…]` ends before it begins"),
        }
        current = next()?;
    }
}

fn any_meets(some: &[Vec<Token>], others: &[Vec<Token>]) -> bool {
    some.iter().any(|a| others.iter().any(|b| meets(a, b)))
}

/// A place in a list of tokens: before which one, and whether it is in the middle of one of its [`Token::Names`].
type Place = (usize, bool);

/// Whether there is a path that fits both lists.
fn meets(a: &[Token], b: &[Token]) -> bool {
    let width = 2 * (b.len() + 1);
    let mut seen = vec![false; 2 * (a.len() + 1) * width];
    let mut next: Vec<(Place, Place)> = Vec::new();
    let mut visit = |next: &mut Vec<(Place, Place)>, at: Place, bt: Place| {
        let number = |(at, is_inside): Place| 2 * at + usize::from(is_inside);
        if !std::mem::replace(&mut seen[number(at) * width + number(bt)], true) {
            next.push((at, bt));
        }
    };
    visit(&mut next, (0, false), (0, false));
    while let Some((at, bt)) = next.pop() {
        if (at, bt) == ((a.len(), false), (b.len(), false)) {
            return true;
        }
        // Some tokens stand for nothing, too.
        skipped(a, at).into_iter().for_each(|at| visit(&mut next, at, bt));
        skipped(b, bt).into_iter().for_each(|bt| visit(&mut next, at, bt));
        for (set, after) in steps(a, at).into_iter().flatten() {
            for (other, after_other) in steps(b, bt).into_iter().flatten() {
                if set.meets(other) {
                    visit(&mut next, after, after_other);
                }
            }
        }
    }
    false
}

/// The place behind a token that may stand for nothing.
fn skipped(tokens: &[Token], (at, is_inside): Place) -> Option<Place> {
    let may_be_nothing = matches!(tokens.get(at), Some(Token::Star | Token::Names));
    (may_be_nothing && !is_inside).then_some((at + 1, false))
}

/// Which characters may come next, and the place behind each.
fn steps(tokens: &[Token], (at, is_inside): Place) -> [Option<(&Set, Place)>; 2] {
    match tokens.get(at) {
        None => [None, None],
        Some(Token::One(set)) => [Some((set, (at + 1, false))), None],
        Some(Token::Star) => [Some((&ALL, (at, false))), None],
        Some(Token::Names) if is_inside => [Some((&ALL, (at, true))), Some((&SLASH, (at, false)))],
        Some(Token::Names) => [Some((&ALL, (at, true))), None],
    }
}
