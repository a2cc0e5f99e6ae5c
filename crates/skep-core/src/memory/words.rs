//! The words of an entry, and those of a search. They are split here and not by a database, so that every database finds
//! the same.
//!
//! A word is a run of letters, digits and their marks, in one spelling (NFKC, lower case): `Ｆｏｏ_bar` has `foo` and
//! `bar`. Scripts without spaces have no such runs. There, each character is a word and each two neighbours are, and a
//! search looks for the neighbours: `東京都` for `東京` and `京都`.

use std::collections::HashMap;

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

use crate::{
    Json,
    limits::{MEMORY_QUERY_BYTES_MAX, MEMORY_QUERY_WORDS_MAX, MEMORY_WORD_BYTES_MAX, MEMORY_WORDS_MAX},
};

/// What a search looks for: entries that have all of its words, the last of them at least as the beginning of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The words that an entry must have as they are.
    pub(crate) whole: Vec<String>,
    /// The beginning of a word that it must have.
    pub(crate) prefix: String,
}

/// Why something cannot be searched for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no word in it.
    #[error("there is no word to search for: a word has letters or digits")]
    Empty,
    /// It has too many bytes or too many words.
    #[error(
        "the search has {bytes} bytes and {words} different words, and may have {MEMORY_QUERY_BYTES_MAX} and \
         {MEMORY_QUERY_WORDS_MAX}; look for fewer words"
    )]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// Its different words; 0 if they were not counted.
        words: usize,
    },
}

impl Query {
    /// The words of a text.
    pub fn new(text: &str) -> Result<Query, QueryError> {
        let bytes = text.len();
        if bytes > MEMORY_QUERY_BYTES_MAX {
            return Err(QueryError::TooLong { bytes, words: 0 });
        }
        let mut words: Vec<String> = Vec::new();
        split(text, Spaceless::Neighbours, |word| {
            // The last of equal words is the one that may be a beginning.
            words.retain(|known| known != word);
            words.push(word.to_owned());
        });
        if words.len() > MEMORY_QUERY_WORDS_MAX {
            return Err(QueryError::TooLong { bytes, words: words.len() });
        }
        let prefix = words.pop().ok_or(QueryError::Empty)?;
        Ok(Query { whole: words, prefix })
    }
}

/// The words of an entry and how often each is there: those of its key, and of all names, texts and numbers in its value.
pub(crate) fn words_of(key: &str, value: &Json) -> HashMap<String, i64> {
    let mut words = HashMap::new();
    let mut add = |word: &str| {
        if let Some(count) = words.get_mut(word) {
            *count += 1;
        } else if words.len() < MEMORY_WORDS_MAX {
            words.insert(word.to_owned(), 1);
        }
    };
    split(key, Spaceless::Each, &mut add);
    texts_of(value.as_str(), |text| split(text, Spaceless::Each, &mut add));
    words
}

/// The smallest text that comes after all that begin with this one, in the order of their bytes. `None` if none does.
pub(crate) fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// Which words are made of characters that are written without spaces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spaceless {
    /// Each character, and each two neighbours.
    Each,
    /// The neighbours; a character only where it has none.
    Neighbours,
}

/// Call a function for each word.
fn split(text: &str, spaceless: Spaceless, mut word: impl FnMut(&str)) {
    let text: String = text.nfkc().flat_map(char::to_lowercase).nfkc().collect();
    let is_part = |c: char| c.is_alphanumeric() || is_combining_mark(c);
    for run in text.split(|c| !is_part(c)).filter(|run| !run.is_empty()) {
        let mut rest = run;
        while let Some(first) = rest.chars().next() {
            let is_spaceless = has_no_spaces(first);
            let end = rest.find(|c| has_no_spaces(c) != is_spaceless).unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            if is_spaceless {
                neighbours(part, spaceless, &mut word)
            } else {
                word(cut(part))
            }
            rest = after;
        }
    }
}

fn neighbours(run: &str, spaceless: Spaceless, mut word: impl FnMut(&str)) {
    let is_single = run.chars().nth(1).is_none();
    let mut starts = run.char_indices().map(|(at, c)| (at, at + c.len_utf8())).peekable();
    while let Some((start, end)) = starts.next() {
        if is_single || spaceless == Spaceless::Each {
            word(&run[start..end]);
        }
        if let Some((_, end)) = starts.peek() {
            word(&run[start..*end]);
        }
    }
}

/// Chinese and Japanese, and scripts of South-East Asia.
fn has_no_spaces(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{2e80}'..='\u{2fdf}'
        | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

fn cut(word: &str) -> &str {
    &word[..word.floor_char_boundary(MEMORY_WORD_BYTES_MAX)]
}

/// Call a function for each string in JSON, whether name or value, and for what is between them: numbers, and signs that
/// are no words. No tree is built.
fn texts_of(json: &str, mut text: impl FnMut(&str)) {
    let mut rest = json;
    while let Some(open) = rest.find('"') {
        other(&rest[..open], &mut text);
        let string = &rest[open..];
        let end = end_of_string(string);
        match serde_json::from_str::<String>(&string[..end]) {
            Ok(string) => text(&string),
            Err(_) => text(string[..end].trim_matches('"')), // half of a surrogate pair: no text, but JSON
        }
        rest = &string[end..];
    }
    other(rest, &mut text);
}

/// What is outside of strings. `true`, `false` and `null` say nothing without their names.
fn other(json: &str, text: &mut impl FnMut(&str)) {
    for token in json.split([',', ':', '[', ']', '{', '}', ' ', '\n', '\r', '\t']) {
        if !token.is_empty() && !matches!(token, "true" | "false" | "null") {
            text(token);
        }
    }
}

/// Where a string ends that begins with its quotation mark.
fn end_of_string(json: &str) -> usize {
    let mut bytes = json.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return at + 1,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut words: Vec<String> = words_of(text, &Json::null()).into_keys().collect();
        words.sort_unstable();
        words
    }

    #[test]
    fn a_word_is_a_run_of_letters_and_digits_in_one_spelling() {
        assert_eq!(words("project_context"), ["context", "project"]);
        assert_eq!(words("Actix-Web 4.9, ＦＯＯ ﬁn"), ["4", "9", "actix", "fin", "foo", "web"]);
        assert_eq!(words("Cafe\u{301}"), words("CAFÉ"), "however it is composed");
        assert_eq!(words("x\u{302}y"), ["x\u{302}y"], "marks belong to their letters");
        assert_eq!(words("— … !"), [""; 0]);
        assert_eq!(words(&"ä".repeat(100)), ["ä".repeat(MEMORY_WORD_BYTES_MAX / 2)]);
    }

    #[test]
    fn scripts_without_spaces_are_found_by_neighbours() {
        assert_eq!(words("東京都x"), ["x", "京", "京都", "東", "東京", "都"]);
        let query = |text: &str| Query::new(text).unwrap();
        assert_eq!(query("東京都"), Query { whole: vec!["東京".into()], prefix: "京都".into() });
        assert_eq!(query("都 x"), Query { whole: vec!["都".into()], prefix: "x".into() });
    }

    #[test]
    fn names_texts_and_numbers_of_a_value_are_words_and_constants_are_not() {
        let value = r#"{"language":"Rust","deps":["tokio \"1\"\n",42, -1.5e3,true,null,{"ok":false}]}"#;
        let mut words = words_of("k", &Json::from_text(value).unwrap()).into_iter().collect::<Vec<_>>();
        words.sort_unstable();
        let words: Vec<(&str, i64)> = words.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        let once = ["42", "5e3", "deps", "k", "language", "ok", "rust", "tokio"].map(|word| (word, 1));
        assert_eq!(words, [&[("1", 2)], &once[..]].concat());
    }

    #[test]
    fn a_text_that_is_no_unicode_is_searched_as_it_is_written() {
        let value = Json::from_text(r#"["a\ud800b", "c"]"#).unwrap();
        let words = words_of("k", &value);
        assert!(words.contains_key("c"), "{words:?}");
    }

    #[test]
    fn so_many_words_are_kept_and_repeated_ones_are_counted() {
        let many = (0..MEMORY_WORDS_MAX).map(|n| format!("w{n}")).chain(["w0".to_owned()]).collect::<Vec<_>>();
        let words = words_of("key", &Value::from(many).into());
        assert_eq!(words.len(), MEMORY_WORDS_MAX);
        assert_eq!((words.get("key"), words.get("w0")), (Some(&1), Some(&2)));
        assert!(!words.contains_key(&format!("w{}", MEMORY_WORDS_MAX - 1)));
    }

    #[test]
    fn a_search_has_words_but_not_too_many() {
        assert_eq!(Query::new(" -- "), Err(QueryError::Empty));
        let many = (0..=MEMORY_QUERY_WORDS_MAX).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(Query::new(&many), Err(QueryError::TooLong { bytes: many.len(), words: 17 }));
        let long = "a ".repeat(MEMORY_QUERY_BYTES_MAX);
        assert_eq!(Query::new(&long), Err(QueryError::TooLong { bytes: long.len(), words: 0 }));
        let repeated = Query::new("a b a").unwrap();
        assert_eq!(repeated, Query { whole: vec!["b".into()], prefix: "a".into() });
    }

    proptest! {
        #[test]
        fn all_that_begin_with_a_prefix_come_before_its_end_and_nothing_else_does(a in ".*", b in ".*") {
            prop_assume!(!a.is_empty());
            if let Some(end) = end_of_prefix(&a) {
                let is_in_range = b.as_str() >= a.as_str() && b < end;
                prop_assert_eq!(is_in_range, b.starts_with(&a));
                let longer = format!("{a}{b}");
                prop_assert!(longer < end);
            }
        }

        #[test]
        fn whatever_a_value_says_is_found_by_its_own_words(text in ".*") {
            let value = Json::from(json!({ "text": text.clone() }));
            let words = words_of("k", &value);
            if let Ok(Query { whole, prefix }) = Query::new(&text) {
                prop_assert!(whole.iter().all(|word| words.contains_key(word)), "{whole:?} in {words:?}");
                prop_assert!(words.keys().any(|word| word.starts_with(&prefix)), "{prefix} in {words:?}");
            }
        }
    }
}
